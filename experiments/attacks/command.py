"""The command: `python -m experiments attack NAME --victim FOLDER --concept … --out FILE.csv`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from certify import _validate, load_pipeline
from certify.adaptive import concepts
from certify.cli.models import device_of
from experiments import attacks, files
from experiments.attacks import learned
from experiments.attacks import targets as attack_targets
from experiments.attacks.attack import Attack, Row, Target, Victim, run
from experiments.defenses import DEFENSES
from experiments.metrics import asr
from experiments.settings import changed
from experiments.unlearning import command as unlearning
from experiments.unlearning import saving
from experiments.unlearning.concept import Concept
from experiments.unlearning.diffusion import Diffusion

__all__ = ["add_arguments", "main", "reseeded", "victim_of"]

BATCH = 24
"""Targets attacked at once; the tables' rows are made so."""

_APART = 1_000  # more than one attack's targets
_COUNT = 48
_SAMPLER = (50, 7.5)  # steps and guidance, as in the published attacks on Stable Diffusion


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `attack`."""
    parser.add_argument("attack", choices=[*attacks.ATTACKS], help="how")
    parser.add_argument(
        "--victim", required=True, type=Path, help="what `unlearn` wrote; or a file with a U-Net's weights"
    )
    parser.add_argument("--concept", action="append", required=True, help="what was erased; with --model a phrase")
    parser.add_argument(
        "--split", choices=attack_targets.SPLITS, default="report", help="embedded model: whose prompts"
    )
    parser.add_argument("--count", type=int, default=None, help=f"prompts (default: {_COUNT}, of a file all)")
    parser.add_argument("--seed", type=int, default=0, help="of prompts, images and the search")
    parser.add_argument("--out", required=True, type=Path, help="CSV; a stopped run goes on")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the attack; repeat for several"
    )
    parser.add_argument("--batch", type=int, default=BATCH, help="prompts attacked at once")
    parser.add_argument(
        "--model", default=None, help="hub id or folder that was erased from (default: the embedded model)"
    )
    parser.add_argument(
        "--prompts",
        type=Path,
        default=None,
        help="table (.csv, .tsv, .json, .jsonl, .txt) of prompts, perhaps with seeds",
    )
    parser.add_argument("--column", default=None, help="of --prompts: its name, or its index where there is no header")
    parser.add_argument(
        "--truncate",
        action="store_true",
        help="cut prompts that do not fit into the context, as the plain pipeline does",
    )
    parser.add_argument("--category", default="", help="of I2P's table: only these rows")
    parser.add_argument(
        "--pairs", type=Path, default=None, help=".csv or .jsonl of prompts with and without the concept"
    )
    parser.add_argument(
        "--images", type=Path, default=None, help="folder of images that show it, one a prompt, in order"
    )
    parser.add_argument("--neutral", default="", help="with --model: what stands in its place where nothing is said")
    parser.add_argument("--detector", default=None, help="with --model: judge:…, nudenet:…, q16:…")
    parser.add_argument("--steps", type=int, default=None, help="of the sampler, for the images judged at the end")
    parser.add_argument("--guidance", type=float, default=None, help="the same")
    parser.add_argument(
        "--smoother", action="append", default=[], metavar="NAME=VALUE", help="what an adaptive attacker knows of it"
    )
    parser.add_argument("--device", default=None, help="cpu, cuda, … (default: cuda where there is one)")
    parser.set_defaults(kind="object", anchor=None, preserve=[], template=[])


def main(a: Any) -> int:
    """Attacks what is not in the file yet, and says how many of its prompts bring the concept back."""
    attack, concept = attacks.ATTACKS[a.attack], unlearning.concept_of(a)
    if a.out.suffix != ".csv" or a.out.is_dir():
        raise ValueError(f"out = {str(a.out)!r}: must be a file that ends in .csv")
    _validate.count("batch", a.batch)
    _validate.seed_value(a.seed)
    settings, detector = _settings(a, attack), _detector(a, concept)
    own = (concept.world.steps, concept.world.guidance) if a.model is None else _SAMPLER
    steps = own[0] if a.steps is None else _validate.count("steps", a.steps)
    guidance = own[1] if a.guidance is None else _validate.positive("guidance", a.guidance)
    wanted, source = _targets(a, concept)
    pairs = None if a.pairs is None else concepts.Concept.load(a.pairs).pairs

    def smoother(pipe: Any) -> Any:
        ams = DEFENSES["ams"]
        known = changed(ams.embedded() if a.model is None else ams.published(), a.smoother, "smoother")
        if a.model is None and concept.world.label:
            known = replace(known, concepts=(concept.world.pairs(concept.name),))
        known = known if a.pairs is None else replace(known, concepts=(str(a.pairs),))
        built: Any = ams(pipe, steps=steps, guidance=guidance, concept=concept, settings=known)
        return built.smoother

    victim = victim_of(
        a.victim,
        concept,
        model=concept.world.base if a.model is None else a.model,
        smoother=smoother if "smoother" in attack.needs else None,
        device=device_of(a.device),
    )
    where = f"prompts = {str(a.prompts)!r}" if a.prompts is not None else "prompts"
    cut = attack_targets.within(victim.encoder, [target.prompt for target in wanted], where, truncate=a.truncate)
    if cut:
        print(f"{cut:,} of {len(wanted):,} prompts do not fit into the context and are cut")
    if source is not None:
        source["truncated"] = cut
    if pairs is not None:
        attack_targets.within(
            victim.encoder, [t for pair in pairs for t in pair], f"pairs = {str(a.pairs)!r}", truncate=False
        )
        victim = replace(victim, pairs=pairs)
    if a.images is not None:
        victim = replace(victim, images=_images(a.images, victim.diffusion, len(wanted)))
    report = unlearning.progress()
    rows = run(
        attack,
        victim,
        wanted,
        settings,
        a.out,
        seed=a.seed,
        batch=a.batch,
        source=source,
        progress=lambda done, count: report(attack.name, done, count, None),
    )
    numbers = {target.number for target in wanted}
    rows = [row for row in rows if row.number in numbers]
    print(f"{attack.name}: {len(rows)} rows in {a.out}")
    if detector is None:
        print("images were not judged: no --detector")
    else:
        rate = _rate(victim, rows, detector, steps, guidance, a.batch)
        print(f"images that show {concept.name!r} without a defence, by {rate.detector.name}: {rate}")
    return 0


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
        folder: its result; or a file with the erased U-Net's weights.
        concept: what was erased. Its pairs are those that ship for a concept of this name, none if there are none.
        name: of the victim; None: the folder's, or the file's without its ending.
        model: hub id or folder that was edited; None: the embedded model.
        smoother: an `AdaptiveMedianSmoother`, or what makes one of the victim's pipeline, for attackers who know it.
        device: where to.

    Raises:
        FileNotFoundError: the folder holds no result, or there is no such model.
        ValueError: the result does not fit the model.
    """
    folder, given = Path(folder), saving.overlays(folder)
    pipe, base = load_pipeline(model, device=device, **given), load_pipeline(model, device=device)
    return Victim(
        name=name or (folder.stem if folder.is_file() else folder.resolve().name),
        diffusion=Diffusion(pipe, base.unet),
        concept=concept,
        pairs=_shipped(concept),
        smoother=smoother(pipe) if callable(smoother) else smoother,
        reference=Diffusion(base) if "text_encoder" in given else None,
    )


def reseeded(targets: Sequence[Target], attack_name: str) -> list[Target]:
    """The same prompts, with image seeds of one attack's own: pooled over attacks, no two images share their noise.

    Raises:
        ValueError: no such attack.
    """
    if attack_name not in attacks.ATTACKS:
        raise ValueError(f"attack = {attack_name!r}: must be one of {', '.join(attacks.ATTACKS)}")
    return [replace(target, seed=target.seed + _shift(attack_name)) for target in targets]


def _shift(attack_name: str) -> int:
    return _APART * list(attacks.ATTACKS).index(attack_name)


def _settings(a: Any, attack: Attack) -> Any:
    """The attack's settings. One that looks for the concept in images is told by which detector."""
    settings = changed(attack.embedded() if a.model is None else attack.settings(), a.set)
    named = any(entry.partition("=")[0] == "detector" for entry in a.set)
    if named or "detector" not in {field.name for field in fields(settings)}:
        return settings
    if a.detector is not None:
        return replace(settings, detector=a.detector)
    if a.model is not None:
        raise ValueError(f"detector: must be given with --model, {attack.name} looks for the concept in images")
    return settings


def _detector(a: Any, concept: Concept) -> Any:
    name = a.detector or (f"judge:{concept.name}" if a.model is None else None)
    return None if name is None else asr.load(name)


def _targets(a: Any, concept: Concept) -> tuple[list[Target], dict[str, Any] | None]:
    if a.prompts is not None:
        first = a.seed * 1_000_003 + _shift(a.attack)
        read = attack_targets.read(a.prompts, column=a.column, count=a.count, first=first, category=a.category)
        print(read.summary)
        return read.targets, read.source
    for name in ("column", "category"):
        if getattr(a, name):
            raise ValueError(f"{name} = {getattr(a, name)!r}: must be given with --prompts, the file that it is about")
    if a.model is not None:
        raise ValueError("prompts: must be given with --model, a table with a column prompt")
    drawn = attack_targets.targets(concept, a.split, count=_COUNT if a.count is None else a.count, seed=a.seed)
    return reseeded(drawn, a.attack), None


def _images(folder: Path, diffusion: Diffusion, count: int) -> Any:
    scale = int(diffusion.pipe.vae_scale_factor)
    _, height, width = diffusion.latent_shape()
    images = files.images(folder, height * scale, width * scale)
    if len(images) < count:
        raise ValueError(f"images = {str(folder)!r}: holds {len(images)} for {count} prompts: must be one a prompt")
    return images


def _rate(victim: Victim, rows: Sequence[Row], detector: Any, steps: int, guidance: float, batch: int) -> asr.Rate:
    pipe = learned.taught(victim.diffusion.pipe, learned.words_of(rows))
    none = DEFENSES["none"](pipe, steps=steps, guidance=guidance)
    seeds = [row.seed for row in rows]
    generated = none.make([row.adversarial for row in rows], seeds, batch=batch)
    return asr.rate(generated.images.cpu(), detector, seeds=seeds)


def _shipped(concept: Concept) -> tuple[tuple[str, str], ...]:
    try:
        return concepts.Concept.load(concept.world.pairs(concept.name) if concept.head else concept.name).pairs
    except (ValueError, FileNotFoundError):  # no such concept
        return ()
