"""The command: `python -m experiments unlearn METHOD --concept … --out DIR`."""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from certify import _validate
from certify.cli.models import device_of
from experiments import unlearning
from experiments.settings import changed
from experiments.unlearning import saving
from experiments.unlearning.concept import KINDS, Concept
from experiments.unlearning.diffusion import Diffusion
from experiments.unlearning.method import Edit, Method
from experiments.unlearning.training import TrainingLoop

__all__ = ["add_arguments", "applied", "concept_of", "ensure_result", "main", "progress", "settings_of"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `unlearn`."""
    parser.add_argument("method", choices=[*sorted(unlearning.METHODS)], help="how")
    parser.add_argument("--concept", action="append", required=True, help="word or phrase to erase; repeat for several")
    parser.add_argument("--kind", choices=KINDS, default="object", help="with --model: what the concept is")
    parser.add_argument(
        "--anchor",
        default=None,
        help='what it becomes; "": nothing (default: nothing; embedded model: the next shape, or solid)',
    )
    parser.add_argument("--neutral", default="", help="with --model: what stands in its place where nothing is said")
    parser.add_argument(
        "--preserve",
        action="append",
        default=[],
        help='what must stay; "": nothing; repeat for several (default: nothing; embedded model: all others of its kind)',
    )
    parser.add_argument(
        "--template",
        action="append",
        default=[],
        help='a sentence with "{}"; repeat for several (default: "{}" alone; embedded model: 200 captions)',
    )
    parser.add_argument("--model", default=None, help="hub id or folder (default: the embedded model)")
    parser.add_argument("--device", default=None, help="cpu, cuda, … (default: cuda where there is one)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the method; repeat for several"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--images", type=int, default=96, help="of each kind of prompt, to measure (embedded model only)"
    )
    parser.add_argument("--out", required=True, type=Path, help="folder for what changed; a stopped run goes on")


def main(a: Any) -> int:
    """Unlearns, saves, and on the embedded model measures."""
    from certify import load_pipeline

    method, concept = unlearning.METHODS[a.method], concept_of(a)
    settings = settings_of(method, concept, a.set)
    _validate.count("images", a.images)
    saving.check_free(a.out)
    model = concept.world.base if a.model is None else a.model
    edit, seconds = _saved(a.out, method, concept, settings, seed=a.seed, model=model, device=device_of(a.device))
    print(f"{method.name}: {edit.tensors} tensors changed in {seconds:.1f} s")
    given = saving.overlays(a.out)
    print(f"written: {a.out}/ ({', '.join(sorted({p.name for p in given.values()} | {'README.md'}))})")
    if a.model is None:
        from experiments.unlearning.measure import KINDS as ASKED
        from experiments.unlearning.measure import rates

        before, after = (
            rates(pipe, concept, a.images) for pipe in (load_pipeline(model), load_pipeline(model, **given))
        )
        print(f"share of {a.images} images that show what was asked for ({concept.head})")
        print(
            "\n".join(
                [f"{'prompts':<10} before   after", *(f"{k:<10} {before[k]:6.3f}  {after[k]:6.3f}" for k in ASKED)]
            )
        )
    return 0


def applied(
    method: Method,
    concept: Concept,
    settings: Any,
    loop: TrainingLoop,
    *,
    model: str | None = None,
    device: str = "cpu",
) -> Edit:
    """Loads the model, has it edited by the method that this one starts from, and runs it. What changed is said against
    the base."""
    from certify import load_pipeline
    from certify.models import overlay_unet

    if not method.after:
        return method.run(Diffusion(load_pipeline(model, device=device)), concept, settings, loop)
    before = unlearning.METHODS[method.after]
    first = settings.start if getattr(settings, "start", None) is not None else before.settings_for(concept)
    start = applied(before, concept, first, loop, model=model, device=device)
    pipe = load_pipeline(model, device=device)
    original = copy.deepcopy(pipe.unet)
    overlay_unet(pipe.unet, dict(start.unet))
    edit = method.run(Diffusion(pipe, original), concept, settings, loop)
    return Edit(
        unet={**start.unet, **edit.unet},
        text_encoder={**start.text_encoder, **edit.text_encoder},
        masks=edit.masks,
        record={f"starts from {before.name}": dict(start.record), **edit.record},
    )


def ensure_result(
    folder: Path,
    method: Method,
    concept: Concept,
    settings: Any,
    *,
    seed: int,
    model: str | None = None,
) -> dict[str, Any]:
    """Runs a method unless the folder holds its result already, and returns the result's record.

    Args:
        folder: of the result; a stopped run goes on.
        method, concept, settings, seed: what is made.
        model: hub id or folder of the base; None: the embedded model.

    Raises:
        ValueError: the folder holds a result of another concept, of other settings or another seed.
    """
    if not any((folder / file).exists() for file in saving.FILES.values()):
        _saved(folder, method, concept, settings, seed=seed, model=model, device="cpu")
    record = saving.record(folder)
    wanted = {
        "method": method.name,
        "erased": list(concept.erase),
        "anchor": concept.anchor,
        "templates": len(concept.templates),
        "captions": len(concept.captions),
        "base": saving.base_name(model),
        "settings": json.loads(json.dumps(asdict(settings))),
        "seed": seed,
    }
    found = {"captions": 0, **record}  # older results kept no captions
    other = [name for name, value in wanted.items() if found[name] != value]
    if other:
        name = other[0]
        raise ValueError(
            f"{folder}: holds a result whose {name} is {found[name]!r}, not {wanted[name]!r}; "
            "move it away, or choose another --out"
        )
    return record


def _saved(
    folder: Path, method: Method, concept: Concept, settings: Any, *, seed: int, model: str | None, device: str
) -> tuple[Edit, float]:
    """Runs a method and writes its result; what changed, and the seconds that it took (of the last call, if it was stopped)."""
    what = f"{method.name} of {model or 'the embedded model'}, {settings}, {concept.erase} to {concept.anchor!r}"
    loop = TrainingLoop(seed=seed, folder=folder, progress=progress(), what=what)
    started = time.perf_counter()
    edit = applied(method, concept, settings, loop, model=model, device=device)
    seconds = time.perf_counter() - started
    saving.save(folder, edit, method=method, concept=concept, base=model, settings=settings, seed=seed, seconds=seconds)
    loop.finish()
    return edit, seconds


def concept_of(a: Any) -> Concept:
    """The concept that the arguments speak of."""
    preserved = tuple(phrase for phrase in a.preserve if phrase)
    if a.model is None:
        if len(a.concept) > 1:
            raise ValueError(f"concept = {a.concept!r}: of the embedded model one at a time")
        concept = Concept.embedded(a.concept[0], anchor=a.anchor, preserve=preserved if a.preserve else None)
        return replace(concept, templates=tuple(a.template)) if a.template else concept
    return Concept.of(
        a.concept,
        kind=a.kind,
        anchor=a.anchor or "",
        neutral=a.neutral,
        preserve=preserved,
        templates=a.template or ("{}",),
    )


def settings_of(method: Method, concept: Concept, given: list[str]) -> Any:
    """The method's settings, with what was given as NAME=VALUE in place of the defaults.

    Raises:
        ValueError: no such setting, or a value of another kind.
    """
    return changed(method.settings_for(concept), given)


def progress() -> Callable[[str, int, int, float | None], None]:
    """A line that moves in a terminal, a line every half minute elsewhere."""
    started = shown = time.monotonic()
    moving = sys.stderr.isatty()

    def report(stage: str, step: int, steps: int, loss: float | None) -> None:
        nonlocal shown
        now = time.monotonic()
        if step < steps and now - shown < (0.2 if moving else 30):
            return
        shown = now
        of_loss = "" if loss is None else f"loss {loss:.4g}, "
        text = f"{stage}: {step:,} of {steps:,}, {of_loss}{now - started:.0f} s"
        print(
            f"\r{text:<79}" if moving else text,
            end="\n" if step == steps or not moving else "",
            file=sys.stderr,
            flush=True,
        )

    return report
