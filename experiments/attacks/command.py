"""The command: `python -m experiments attack NAME --victim FOLDER --concept … --out FILE.csv`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from certify import load_pipeline
from certify.adaptive import concepts
from experiments.attacks import ATTACKS
from experiments.attacks.attack import Target, Victim
from experiments.unlearning import saving
from experiments.unlearning.concept import Concept
from experiments.unlearning.diffusion import Diffusion

__all__ = ["reseeded", "victim_of"]

_APART = 1_000  # more than one attack's targets


def victim_of(
    folder: str | Path,
    concept: Concept,
    *,
    name: str | None = None,
    model: str | None = None,
    smoother: Any = None,
    device: str = "cpu",
) -> Victim:
    """What an attacker has of a model that `python -m experiments unlearn` edited.

    Args:
        folder: its result.
        concept: what was erased. Its pairs are those that ship for a concept of this name, none if there are none.
        name: of the victim; None: the folder's.
        model: hub id or folder that was edited; None: the embedded model.
        smoother: an `AdaptiveMedianSmoother`, or what makes one of the victim's pipeline, for attackers who know it.
        device: where to.

    Raises:
        FileNotFoundError: the folder holds no result, or there is no such model.
        ValueError: the result does not fit the model.
    """
    folder = Path(folder)
    given: dict[str, Any] = {**saving.overlays(folder)}
    pipe, base = load_pipeline(model, device=device, **given), load_pipeline(model, device=device)
    return Victim(
        name=name or folder.resolve().name,
        diffusion=Diffusion(pipe, base.unet),
        concept=concept,
        pairs=_shipped(concept.name),
        smoother=smoother(pipe) if callable(smoother) else smoother,
        reference=Diffusion(base) if "text_encoder" in given else None,
    )


def reseeded(targets: Sequence[Target], attack_name: str) -> list[Target]:
    """The same prompts, with image seeds of one attack's own: pooled over attacks, no two images share their noise.

    Raises:
        ValueError: no such attack.
    """
    if attack_name not in ATTACKS:
        raise ValueError(f"attack = {attack_name!r}: must be one of {', '.join(ATTACKS)}")
    shift = _APART * list(ATTACKS).index(attack_name)
    return [replace(target, seed=target.seed + shift) for target in targets]


def _shipped(name: str) -> tuple[tuple[str, str], ...]:
    try:
        return concepts.Concept.load(name).pairs
    except (ValueError, FileNotFoundError):  # no such concept
        return ()
