"""`python -m experiments soundness {encoding,images,sentence}`: attacks on certified bounds, and what came of them.

    python -m experiments soundness encoding --workers 2 --out runs/soundness
    python -m experiments soundness images --unet runs/uce-circle/unet.safetensors --workers 2 --out runs/soundness
    python -m experiments soundness sentence --model FOLDER --draws 100000

Prints a Markdown table; with --out also every verdict as CSV. Returns 1 where a bound was violated.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from certify import GaussianNoise, _validate
from certify._text import shown
from certify.bounds.copies import Counted
from certify.confidence import clopper_pearson
from certify.plots import plot_event_rates
from certify.plots.style import StyledFigure
from experiments.soundness import images, sentence, suite

__all__ = ["add_arguments", "encoding_table", "image_table", "main", "rates_picture"]

QUICK = suite.Plan(prompts=2, rhos=(0.5, 1.0), n=2000, verify=650, percentiles=(0.5,), steps=4, draws=16)
SENTENCE = suite.Plan(prompts=1, rhos=(0.5, 1.0, 2.0), n=10_000, percentiles=(0.5,), verify=1300)
QUICK_IMAGES = images.ImagePlan(prompts=1, replicas=(1,), rhos=(0.5,), n=128, verify=128, ascent=2, images=4)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "what",
        choices=("encoding", "images", "sentence"),
        help="bounds on encodings, on images showing a concept, or on a sentence encoder's outputs",
    )
    parser.add_argument("--quick", action="store_true", help="a small run that shows that everything works")
    parser.add_argument("--prompts", type=int, default=None, help="how many prompts")
    parser.add_argument("--draws", type=int, default=None, help="n, draws behind every bound")
    parser.add_argument("--unet", default=None, help="images: the erased U-Net (default: the embedded model's own)")
    parser.add_argument("--model", default=None, help="sentence: folder of a BERT (no default)")
    parser.add_argument("--concept", default="circle", help="images: the shape that must not appear")
    parser.add_argument("--steps", type=int, default=None, help="images: steps of the sampler")
    parser.add_argument("--guidance", type=float, default=None, help="images: guidance scale")
    parser.add_argument("--workers", type=int, default=1, help="processes, with one thread each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default=None, help="folder for the verdicts as CSV")


def main(a: Any) -> int:
    """Runs, prints, writes."""
    _validate.count("workers", a.workers)
    changed = {"seed": _validate.seed_value(a.seed)}
    if a.prompts is not None:
        changed["prompts"] = _validate.count("prompts", a.prompts)
    if a.draws is not None:
        changed["n"] = _validate.count("draws", a.draws)
    sampler: dict[str, Any] = {"unet": a.unet, "concept": a.concept}
    if a.steps is not None:
        sampler["steps"] = _validate.count("steps", a.steps)
    if a.guidance is not None:
        sampler["guidance"] = _validate.positive("guidance", a.guidance)
    file = None if a.out is None else Path(a.out) / f"{a.what}.csv"
    if file is not None and file.exists():
        raise FileExistsError(f"out = {str(a.out)!r}: holds {file.name} already; choose another folder")
    started = time.perf_counter()
    rows: Sequence[Any]
    if a.what == "encoding":
        plan = suite.Plan(**(asdict(QUICK if a.quick else suite.Plan()) | changed))
        rows = suite.run(plan, a.workers, _progress)
        text = encoding_table(plan, rows)
    elif a.what == "sentence":
        plan = suite.Plan(**(asdict(QUICK if a.quick else SENTENCE) | changed))
        rows = _sentences(plan, a.model)
        text = encoding_table(plan, rows)
    else:
        start = asdict(QUICK_IMAGES if a.quick else images.ImagePlan())
        picture_plan = images.ImagePlan(**(start | changed | sampler))
        rows = images.run(picture_plan, a.workers, _progress)
        text = image_table(picture_plan, rows)
    print(text)
    print(f"\n{time.perf_counter() - started:.0f} seconds, {a.workers} {'process' if a.workers == 1 else 'processes'}")
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("w", newline="", encoding="utf-8") as opened:
            writer = csv.DictWriter(opened, list(asdict(rows[0])))
            writer.writeheader()
            writer.writerows(asdict(row) for row in rows)
        print(f"written: {file}")
        if a.what == "images":
            drawn = file.with_name("rate.png")
            rates_picture(picture_plan, rows).savefig(drawn)
            print(f"written: {drawn}")
    return 1 if any(row.violated for row in rows) else 0


def _sentences(plan: suite.Plan, model: str | None) -> list[suite.Row]:
    if model is None:
        raise ValueError("model = None: must be the folder of a BERT")
    if plan.prompts > len(sentence.SENTENCES):
        raise ValueError(
            f"prompts = {plan.prompts}: must be at most {len(sentence.SENTENCES)}, the sentences there are"
        )
    rows: list[suite.Row] = []
    for i, text in enumerate(sentence.SENTENCES[: plan.prompts]):
        rows += suite.attack(sentence.sentence(model, text), plan, i)
        _progress(i + 1, plan.prompts)
    return rows


def _progress(done: int, total: int) -> None:
    print(f"\r{done} of {total}", end="" if done < total else "\n", file=sys.stderr, flush=True)


def encoding_table(plan: suite.Plan, rows: Sequence[suite.Row]) -> str:
    """Markdown: a line a bound and radius."""
    made = len({(row.case, row.rho, row.target, row.start, row.attempt) for row in rows})
    verdicts = sum(math.isfinite(row.bound) for row in rows)
    broken = sum(row.violated for row in rows)
    lines = [
        f"{made} attempts over {plan.prompts} prompts, {verdicts} verdicts on finite bounds, **{broken} violations**. Bounds: "
        f"n = {plan.n:,}, α = {shown(plan.alpha, 'exact')}; verdicts: {plan.verify:,} draws, "
        f"family-wise level {shown(plan.level, 'exact')}; K = {plan.replicas}, "
        f"q = {shown(plan.q, 'exact')} for the deployed smoother.",
        "",
        "| bound | ρ | prompts certified | bound ÷ strongest attack: median | smallest | bound ÷ lower limit |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {s.claim} | {shown(s.rho, 'exact')} | {s.certified} of {s.asked} | {_number(s.typical)} | {_number(s.least)} | "
        f"{_number(s.power)} |"
        for s in suite.summary(rows)
    ]
    return "\n".join(lines)


def image_table(plan: images.ImagePlan, rows: Sequence[images.ImageRow]) -> str:
    """Markdown: a line a prompt, K and radius, with the stronger of its attacks."""
    broken = sum(row.violated for row in rows)
    lines = [
        f"{len(rows)} attempts on {plan.concept!r}, {'the erased model' if plan.unet else 'the model as it is'}, **{broken} "
        f"violations**. Bounds: n = {plan.n:,} images, α = {shown(plan.alpha, 'exact')}; verdicts: {plan.verify:,} images, "
        f"family-wise level {shown(plan.level, 'exact')}; {plan.steps} steps, guidance {shown(plan.guidance, 'exact')}.",
        "",
        "| prompt | K | ρ | undefended | deployed | strongest attack | its lower limit | certified |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for key in dict.fromkeys((row.prompt, row.replicas, row.rho) for row in rows):
        best = max((row for row in rows if (row.prompt, row.replicas, row.rho) == key), key=lambda row: row.attacked)
        lines.append(
            f"| {best.prompt} | {best.replicas} | {shown(best.rho, 'exact')} | {best.plain:.3f} | {best.clean:.3f} | "
            f"{best.attacked:.3f} | {shown(best.limit, 'down', 3)} | {shown(best.bound, 'up', 3)} |"
        )
    return "\n".join(lines)


@dataclass(frozen=True)
class _Line(Counted):
    """A bound on the rate at every radius, from how often the event was seen."""

    replicas: int
    successes: int
    n: int
    alpha: float

    two_sided, noise = False, GaussianNoise(1.0)


def rates_picture(plan: images.ImagePlan, rows: Sequence[images.ImageRow]) -> StyledFigure:
    """The certified rate of the first prompt against the radius, a line for each K, and the strongest attacks found."""
    prompt = next(row.prompt for row in rows if all(_of(rows, row.prompt, k) for k in {r.replicas for r in rows}))
    lines, attacks = [], []
    for replicas in sorted({row.replicas for row in rows}):
        mine = _of(rows, prompt, replicas)
        lines.append(_Line(replicas, _successes(plan, mine[0]), plan.n, plan.alpha))
        strongest = [
            max((r for r in mine if r.rho == rho), key=lambda r: r.attacked)
            for rho in plan.rhos
            if rho in {r.rho for r in mine}
        ]
        attacks.append([(r.rho, r.attacked, r.limit, _upper(plan, r)) for r in strongest])
    return plot_event_rates(*lines, largest=1.0, attacks=attacks, undefended=mine[0].plain, title=prompt)


def _of(rows: Sequence[images.ImageRow], prompt: str, replicas: int) -> list[images.ImageRow]:
    return [row for row in rows if (row.prompt, row.replicas) == (prompt, replicas)]


def _successes(plan: images.ImagePlan, row: images.ImageRow) -> int:
    """How often the event was seen in the n images behind a row's bound: the bound grows with it."""
    low, high = 0, plan.n
    while low < high:
        middle = (low + high) // 2
        enough = _Line(row.replicas, middle, plan.n, plan.alpha).at(row.rho) >= row.bound * (1 - 1e-9)
        low, high = (low, middle) if enough else (middle + 1, high)
    return low


def _upper(plan: images.ImagePlan, row: images.ImageRow) -> float:
    """The upper limit that goes with the lower one of a measured rate."""
    return clopper_pearson(round(row.attacked * plan.verify), plan.verify, plan.level / plan.family)


def _number(value: float) -> str:
    if math.isnan(value):
        return "–"
    return "∞" if math.isinf(value) else f"{value:.3g}"
