"""Immunity: the attacker's fine-tune of a plain and of an immunised model, side by side, as a table and a figure.

    python -m experiments immunity --concept circle --out runs/immunity

makes both models (the eraser that GIFT starts from, and GIFT), lets four attackers bring the concept back, and teaches both
something harmless in the same four ways. Two figures say what immunisation is worth:

    resistance   steps to recover the concept, immunised ÷ plain     (to be large; at least 3 is the aim)
    burden       steps to learn the safe thing, immunised ÷ plain    (to be near 1; at most 1.5 is the aim)

A run that never got there is censored: its number of steps is a lower bound, and so is the ratio that it is divided in.
Where the plain model does not get there either, there is no ratio.

Every finished run is kept in OUT, so that a stopped command goes on.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from certify import _files, _validate
from certify.plots import style
from certify.plots.colours import BLUE, GREY, ORANGE
from experiments import unlearning
from experiments.unlearning import command, finetune, saving
from experiments.unlearning.concept import Concept
from experiments.unlearning.diffusion import Diffusion
from experiments.unlearning.finetune import ATTACKERS, Curve, Examples, Probe, Settings
from experiments.unlearning.training import TrainingLoop

__all__ = ["Row", "add_arguments", "main", "plot", "table"]

MODELS = ("plain", "immunised")
TASKS = ("concept", "safe")
NAMES = {"full": "full fine-tune", "xattn": "cross-attention", "lora": "LoRA", "ti": "textual inversion"}


@dataclass(frozen=True)
class Row:
    """One line of the table: an attacker, and what it was after.

    Attributes:
        task: "concept" or "safe".
        attacker: one of `ATTACKERS`.
        plain, immunised: steps to the threshold; None: not within the steps.
        steps: how many there were.
        plain_area, immunised_area: mean share over the steps.
    """

    task: str
    attacker: str
    plain: int | None
    immunised: int | None
    steps: int
    plain_area: float
    immunised_area: float

    @classmethod
    def of(cls, task: str, plain: Curve, immunised: Curve, threshold: float) -> Row:
        """From two curves over the same steps."""
        if plain.steps != immunised.steps or plain.attacker != immunised.attacker:
            raise ValueError(
                f"immunised was measured at {immunised.steps}: must be at {plain.steps}, by {plain.attacker}"
            )
        return cls(
            task,
            plain.attacker,
            plain.reached(threshold),
            immunised.reached(threshold),
            plain.steps[-1],
            plain.area,
            immunised.area,
        )

    @property
    def ratio(self) -> float | None:
        """Steps of the immunised ÷ of the plain model (a lower bound where `censored`); None: the plain one did not get
        there, or was there from the start."""
        if not self.plain:
            return None
        return (self.steps if self.immunised is None else self.immunised) / self.plain

    @property
    def censored(self) -> bool:
        """Whether the immunised model did not get there."""
        return self.immunised is None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `immunity`."""
    parser.add_argument("--concept", required=True, help="what was erased")
    parser.add_argument("--safe", default="", help="what must stay learnable (default: a shape, by a new word)")
    parser.add_argument("--word", default="florp", help="embedded model: the new word for it")
    parser.add_argument("--method", default="gift", choices=sorted(unlearning.METHODS), help="how it was immunised")
    parser.add_argument("--plain", type=Path, default=None, help="folder of the plain result (default: made)")
    parser.add_argument("--immunised", type=Path, default=None, help="folder of the immunised result (default: made)")
    parser.add_argument("--attacker", action="append", default=[], choices=ATTACKERS, help="(default: all)")
    parser.add_argument("--steps", type=int, default=None, help="the attacker's (default: 160; with --model 1000)")
    parser.add_argument("--every", type=int, default=None, help="steps between measurements (default: 10; 50)")
    parser.add_argument("--threshold", type=float, default=0.5, help="share of images that counts as recovered")
    parser.add_argument("--count", type=int, default=32, help="judged images a measurement")
    parser.add_argument("--model", default=None, help="hub id or folder (default: the embedded model)")
    parser.add_argument("--images", type=Path, default=None, help="with --model: images of the concept")
    parser.add_argument("--prompt", default="", help='with --model: their prompt, as in "a photo of a {cat}"')
    parser.add_argument(
        "--detector", default="", help="with --model: what recognises the concept (certify's detectors)"
    )
    parser.add_argument("--safe-images", type=Path, default=None, help="with --model: images of something harmless")
    parser.add_argument("--safe-prompt", default="", help="with --model: their prompt")
    parser.add_argument("--safe-detector", default="", help="with --model: what recognises it")
    parser.add_argument("--device", default=None, help="cpu, cuda, …")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", required=True, type=Path, help="folder for the curves, the table and the figure")


def main(a: Any) -> int:
    """Runs what is not there yet; writes curves.csv, table.md and immunity.png, and prints the table."""
    _validate.probability("threshold", a.threshold)
    attackers = tuple(a.attacker) or ATTACKERS
    folders = {"immunised": a.immunised or _made(a, a.method), "plain": a.plain or _made(a, _start(a.method))}
    curves: dict[tuple[str, str, str], Curve] = {}
    for attacker in attackers:
        for task in TASKS:
            if task == "safe" and a.model is not None and a.safe_images is None:
                continue
            for model in MODELS:
                curves[task, attacker, model] = _curve(a, task, attacker, model, folders[model])
    rows = [
        Row.of(task, curves[task, attacker, "plain"], curves[task, attacker, "immunised"], a.threshold)
        for task in TASKS
        for attacker in attackers
        if (task, attacker, "plain") in curves
    ]
    _write(a.out / "curves.csv", curves)
    text = table(rows, a.threshold)
    (a.out / "table.md").write_text(text + "\n", encoding="utf-8")
    plot(curves, threshold=a.threshold, concept=a.concept, safe=_safe_name(a)).savefig(a.out / "immunity.png")
    print(text)
    print(f"written: {a.out}/ (curves.csv, table.md, immunity.png)")
    return 0


def table(rows: Sequence[Row], threshold: float) -> str:
    """A Markdown table."""

    def said(steps: int | None, of: int) -> str:
        return f"> {of}" if steps is None else str(steps)

    lines = [
        f"| task | attacker | steps to {threshold:.0%}, plain | immunised | ratio | area, plain | immunised |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        ratio = "–" if r.ratio is None else f"{'> ' if r.censored else ''}{r.ratio:.1f}"
        lines.append(
            f"| {r.task} | {NAMES[r.attacker]} | {said(r.plain, r.steps)} | {said(r.immunised, r.steps)} | {ratio} "
            f"| {r.plain_area:.2f} | {r.immunised_area:.2f} |"
        )
    return "\n".join(lines)


@style.styled
def plot(
    curves: Mapping[tuple[str, str, str], Curve],
    *,
    threshold: float = 0.5,
    concept: str = "concept",
    safe: str = "safe",
) -> style.StyledFigure:
    """The share of images that show it against the attacker's steps: a column an attacker, a row a task, both models.

    Args:
        curves: (task, attacker, model) → curve.
        threshold: drawn as a level line.
        concept, safe: what the rows are called.
    """
    if not curves:
        raise ValueError("curves is empty: must hold at least one")
    tasks = [task for task in TASKS if any(key[0] == task for key in curves)]
    attackers = [name for name in ATTACKERS if any(key[1] == name for key in curves)]
    width = max(style.ONE_COLUMN, 2.4 * len(attackers) + 0.8)
    figure, grid = style.panels(len(tasks), len(attackers), width, 2.2 * len(tasks) + 0.5, sharey=True)
    styles = {"plain": (ORANGE, "s", (0, (5, 1.6))), "immunised": (BLUE, "o", "-")}
    named = {"concept": f"recovering “{style.plain(concept)}”", "safe": f"learning {style.plain(safe)}"}
    for axes_row, task in zip(grid, tasks, strict=True):
        for axes, attacker in zip(axes_row, attackers, strict=True):
            axes.axhline(threshold, color=GREY, linestyle=(0, (1, 1.5)), linewidth=1)
            for model, (colour, marker, line) in styles.items():
                curve = curves.get((task, attacker, model))
                if curve is not None:
                    axes.plot(curve.steps, curve.shares, color=colour, marker=marker, linestyle=line, label=model)
            axes.set_ylim(-0.03, 1.03)
            axes.margins(x=0.02)
            if task == tasks[0]:
                axes.set_title(NAMES[attacker], loc="left")
            if task == tasks[-1]:
                axes.set_xlabel("attacker's steps")
        axes_row[0].set_ylabel(f"{named[task]}\nshare of images")
    style.key(figure)
    return figure


def _curve(a: Any, task: str, attacker: str, model: str, folder: Path) -> Curve:
    """Measured, or read where it has been measured already."""
    from certify import load_pipeline

    options = {
        **({} if a.steps is None else {"steps": a.steps}),
        **({} if a.every is None else {"every": a.every}),
    }
    embedded = a.model is None
    settings = Settings.embedded(attacker, **({"steps": 160} | options)) if embedded else Settings(attacker, **options)
    where = a.out / "runs" / f"{task}-{attacker}-{model}"
    asked = {
        "settings": asdict(settings),
        "concept": a.concept,
        "safe": [_safe_name(a), a.word],
        "count": a.count,
        "seed": a.seed,
        "model": a.model,
        "folder": str(folder),
    }
    done = where / "curve.json"
    if done.exists():
        try:
            kept = _files.read_json(done)
            found = Curve(attacker, *(tuple(kept[name]) for name in ("steps", "shares", "scores")))
            if not all(isinstance(n, (int, float)) for n in (*found.steps, *found.shares, *found.scores)):
                raise TypeError("holds what is no number")
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{done}: is no measured curve ({error!r}); move it away to measure it again") from error
        if kept.get("asked") != json.loads(json.dumps(asked)):
            raise ValueError(f"{done}: was measured with other settings ({kept.get('asked')}); choose another --out")
        return found
    given: dict[str, Any] = {name: str(path) for name, path in saving.overlays(folder).items()}
    model = Concept.embedded(a.concept, sentences=1).world.base if embedded else a.model
    diffusion = Diffusion(load_pipeline(model, device=a.device or "cpu", **given))
    examples, probe, neutral = _task(a, task, diffusion)
    loop = TrainingLoop(seed=a.seed, folder=where, progress=command.progress(), what=json.dumps(asked))
    print(f"{task}, {NAMES[attacker]}, {model} model")
    curve = finetune.attack(diffusion, examples, probe, settings, loop, neutral=neutral).curve
    _files.make_folder(where)
    content = {"asked": asked, "steps": curve.steps, "shares": curve.shares, "scores": curve.scores}
    _files.write(done, json.dumps(content, indent=1))
    loop.finish()
    return curve


def _task(a: Any, task: str, diffusion: Diffusion) -> tuple[Examples, Probe, str]:
    """What it is trained on, what is measured, and the word that textual inversion starts from."""
    if a.model is None:
        concept = Concept.embedded(a.concept if task == "concept" else _safe_name(a))
        phrase = None if task == "concept" else a.word
        examples, probe = finetune.lesson(diffusion, concept, phrase, asked=a.count, seed=a.seed)
        return examples, probe, concept.neutral or "plain"
    images, prompt, detector = (
        (a.images, a.prompt, a.detector) if task == "concept" else (a.safe_images, a.safe_prompt, a.safe_detector)
    )
    if images is None or not prompt or not detector:
        raise ValueError(f"images, prompt, detector = {images}, {prompt!r}, {detector!r}: must be given with --model")
    examples = Examples.folder(diffusion, images, prompt)
    return examples, Probe.detector(detector, prompt, a.count), ""


def _safe_name(a: Any) -> str:
    """On the embedded model a concept of the same kind, the one before the last but never the erased one."""
    if a.safe or a.model is not None:
        return str(a.safe)
    from experiments.world import worlds

    world = worlds.of(a.concept)
    alike = [name for name in world.spoken(a.concept) if name != a.concept]
    return alike[-1]


def _start(method: str) -> str:
    start = unlearning.METHODS[method].after
    if not start:
        raise ValueError(f"method = {method!r}: starts from no other method's result; give --plain")
    return start


def _made(a: Any, name: str) -> Path:
    """The folder of a method's result, made where it is not there."""
    folder = Path(a.out / name)
    if not (folder / "README.md").exists():
        given = {
            "method": name,
            "concept": [a.concept],
            "kind": "object",
            "anchor": None,
            "neutral": "",
            "preserve": [],
            "template": [],
            "model": a.model,
            "device": a.device,
            "set": [],
            "seed": a.seed,
            "out": folder,
        }
        command.main(argparse.Namespace(**given))
    return folder


def _write(path: Path, curves: Mapping[tuple[str, str, str], Curve]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["task", "attacker", "model", "step", "share", "score"])
        for (task, attacker, model), curve in curves.items():
            for step, share, score in zip(curve.steps, curve.shares, curve.scores, strict=True):
                writer.writerow([task, attacker, model, step, f"{share:.4f}", f"{score:.4f}"])
