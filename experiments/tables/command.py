"""The command: `python -m experiments table 1 [2 …] --out DIR`, on the embedded world or with `--model` on a real one.

Under torchrun the processes share out what is measured, through the folder alone; the first of them prints and writes.
"""

from __future__ import annotations

import argparse
import functools
import json
import random
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from certify import _files, _validate
from certify._workers import Claims, Worker, one_at_a_time, own_device
from certify.models import PromptEncoder
from experiments.defenses import DEFENSES
from experiments.defenses.ams import Settings as Smoothing
from experiments.defenses.defense import fitting
from experiments.settings import changed
from experiments.tables.evaluator import Evaluator
from experiments.tables.given import Given
from experiments.tables.layouts import LAYOUTS, OPTIONAL
from experiments.tables.lines import ATTACKS, Run
from experiments.tables.result_cache import ResultCache
from experiments.tables.table import Table
from experiments.tables.testbed import Embedded, Sizes, Testbed
from experiments.tables.tuning import chosen, grid, read_smoothing, write_smoothing
from experiments.unlearning.concept import KINDS, Concept

__all__ = ["add_arguments", "main", "self_generated", "written"]

_CHOSEN = Path(__file__).parent / "chosen.json"
CERTIFIED = ("1", "6", "8", "9")
"""Tables with certified rates."""
WORLDS = ("shapes", "second")
"""Embedded worlds, as `--world` names them."""
_QUICK = {"prompts": 8, "images": 160, "seeds": 1, "chance": 48, "certified": 200}
_WORLDS = {
    "further": {"steps": 500, "seed": 1, "rate": 3e-4},
    "narrow": {"steps": 3500, "seed": 2, "channels": (48, 64)},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `table`."""
    parser.add_argument("number", nargs="+", choices=[*LAYOUTS, "all"], help="as in Han et al. (2025)")
    parser.add_argument("--out", type=Path, default=Path("runs/tables"), help="folder; a stopped run goes on there")
    parser.add_argument("--pages", type=Path, default=None, help="where tables are written (default: OUT/pages)")
    parser.add_argument("--quick", action="store_true", help="few prompts, images and lines: minutes, to look around")
    parser.add_argument(
        "--blank",
        action="store_true",
        help="victims of the embedded world erased towards the blank prompt, nothing preserved, as UCE and RECE were published",
    )
    parser.add_argument("--count", type=int, default=None, help="prompts of every attack")
    parser.add_argument(
        "--beside", type=int, default=None, help="prompts of the attacks beside the mean (adaptive, CCE)"
    )
    parser.add_argument("--images", type=int, default=None, help="images behind FID and image–text score")
    parser.add_argument("--chance", type=int, default=None, help="images behind the chance level")
    parser.add_argument("--certified", type=int, default=None, help="images behind a certified rate")
    parser.add_argument(
        "--certified-only",
        action="store_true",
        help="certified rates alone (tables 1, 6, 8 and 9), as NUMBER-certified",
    )
    parser.add_argument(
        "--line",
        action="append",
        default=[],
        metavar="LABEL",
        help="of tables 1, 6, 8 and 9 this line alone, beside the undefended; repeat for several",
    )
    parser.add_argument(
        "--without", action="append", default=[], metavar="ATTACK", help="leave an attack out; repeat for several"
    )
    parser.add_argument("--noise-seeds", type=int, default=None, help="seeds of the smoothing noise, averaged over")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--world", choices=WORLDS, default=WORLDS[0], help="the embedded world (default: the one that ships, of shapes)"
    )
    real = parser.add_argument_group("a real model (default: the embedded world)")
    real.add_argument("--model", default=None, help="hub id or folder")
    real.add_argument(
        "--concept", action="append", default=[], help="word or phrase that was erased; repeat for several"
    )
    real.add_argument("--kind", choices=KINDS, default="object")
    real.add_argument(
        "--victim",
        action="append",
        default=[],
        metavar="METHOD=PATH",
        help="erased model: a folder of `unlearn`, or a U-Net's file",
    )
    real.add_argument(
        "--prompts",
        type=Path,
        default=None,
        help="folder with [METHOD/]ATTACK.csv (.tsv, .json, .jsonl): prompts, seeds",
    )
    real.add_argument(
        "--truncate",
        action="store_true",
        help="cut prompts that do not fit into the context, as the plain pipeline does",
    )
    real.add_argument("--detector", default=None, help="nudenet[:SCORE] or q16:CLIP:HEAD[:SCORE]")
    real.add_argument("--pairs", default=None, help="concept pairs: a name or a file (default: the concept's name)")
    real.add_argument("--utility", type=Path, default=None, help="table of captions about other things")
    real.add_argument("--references", type=Path, default=None, help="folder of photographs for a second FID")
    real.add_argument(
        "--clip", type=Path, default=None, help="folder of a CLIPModel, for FID's features and the image–text score"
    )
    real.add_argument("--rewriter", default=None, help="folder of a causal language model, for POSI")
    real.add_argument(
        "--set", action="append", default=[], metavar="[METHOD.]NAME=VALUE", help="a setting of the smoother"
    )
    real.add_argument("--steps", type=int, default=50)
    real.add_argument("--guidance", type=float, default=7.5)
    real.add_argument("--device", default=None)
    real.add_argument("--dtype", default=None)


def main(a: Any) -> int:
    """Measures what is missing, prints the tables and writes CSV, Markdown and figures."""
    from experiments.tables.page import terminal

    if a.certified_only and (others := [n for n in a.number if n not in CERTIFIED]):
        raise ValueError(
            f"certified_only: table {others[0]} has no certified rates, must be one of {', '.join(CERTIFIED)}"
        )
    for label in a.line:
        _validate.choice("line", label, OPTIONAL)
    for attack in a.without:
        _validate.choice("without", attack, [column.key for column in ATTACKS])
    sizes = _sizes(a)
    worker = Worker.current()
    own_device()
    progress = _progress()
    cache = ResultCache(a.out / "cells", progress, worker)
    testbed: Testbed = _given(a, sizes) if a.model else _embedded(a, sizes, progress)
    if isinstance(testbed, Given):
        testbed.read_all()
    smoothing = _smoothing(a, testbed)
    evaluator = Evaluator(testbed, cache, smoothing)
    run = Run(
        testbed=testbed,
        evaluator=evaluator,
        quick=a.quick,
        smoothing=smoothing,
        worlds=lambda: _worlds(a, sizes, testbed, progress),
        pairs=lambda concept: self_generated(
            a.out / "self-generated" / f"{concept.name}.jsonl",
            concept,
            PromptEncoder.from_pipeline(testbed.pipe(concept, "")),
        ),
        certified_only=a.certified_only,
        lines=tuple(a.line),
        without=tuple(a.without),
    )
    pages = a.pages or a.out / "pages"
    for number in LAYOUTS if "all" in a.number else a.number:
        started = time.perf_counter()
        if number == "2" and not worker.is_main:  # seconds, which are measured and not shared out
            continue
        if number == "3" and not a.model:
            _choose(a, run)
        table = cache.complete(functools.partial(LAYOUTS[number], run))
        if not worker.is_main:  # one process writes
            continue
        files = written(table, run, pages)
        print(terminal(table))
        print(f"written: {pages}/ ({', '.join(files)}), {time.perf_counter() - started:.0f} s\n", flush=True)
    if not worker.alone and worker.is_main:
        for folder in (a.out, a.out / "cells"):
            Claims(folder / "claims").remove()
    print("\n".join(testbed.columns_read.values()), end="\n" if testbed.columns_read else "")
    return 0


def written(table: Table, run: Run, folder: Path) -> list[str]:
    """CSV, Markdown and figures of a table; their names."""
    from experiments.tables.gallery import figures
    from experiments.tables.page import csv_text, markdown

    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{table.number}.csv").write_text(csv_text(table), encoding="utf-8")
    drawn = figures(table, run, folder)
    shown = "".join(f"\n![{title}]({name})\n" for name, title in drawn.items())
    (folder / f"{table.number}.md").write_text(markdown(table) + shown, encoding="utf-8")
    return [f"{table.number}.csv", f"{table.number}.md", *drawn]


def self_generated(path: Path, concept: Concept, encoder: PromptEncoder, count: int = 100, seed: int = 0) -> Path:
    """Concept pairs from sentences of our own that fit the encoder's context, for table 5: none is a caption of the world's
    grammar."""
    rng = random.Random(f"{seed} {concept.name}")
    phrasings = (
        "please draw {a}", "i would like {a}", "show me {a} here", "{a}, nothing else", "my favourite is {a}",
        "there is {a} in the middle", "someone painted {a}", "we saw {a} today", "{a} and its shadow", "look, {a}",
        "imagine {a} on paper", "a poster of {a}",
    )  # fmt: skip
    adjectives = ("", "nice ", "simple ", "bright ", "dark ", "plain ", "lovely ", "flat ", "clean ")
    others = ("thing", "figure", "object", "drawing")
    pairs: dict[str, str] = {}
    while len(pairs) < count:
        phrasing, adjective = rng.choice(phrasings), rng.choice(adjectives)
        if concept.kind == "style":
            noun = rng.choice(others)
            having, lacking = f"{adjective}{rng.choice(concept.erase)} {noun}", f"{adjective}{noun}"
        else:
            having, lacking = (f"{adjective}{noun}" for noun in (rng.choice(concept.erase), rng.choice(others)))
        positive, negative = (phrasing.format(a=f"{_article(text)} {text}") for text in (having, lacking))
        if fitting(encoder, positive) == positive and fitting(encoder, negative) == negative:
            pairs.setdefault(positive, negative)
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"positive": p, "negative": n}, ensure_ascii=False) for p, n in pairs.items()]
    _files.write(path, "\n".join(lines) + "\n")
    return path


def _article(text: str) -> str:
    return "an" if text[0] in "aeiou" else "a"


def _sizes(a: Any) -> Sizes:
    given = dict(_QUICK) if a.quick else {}
    for name, value in (
        ("prompts", a.count),
        ("beside", a.beside),
        ("images", a.images),
        ("chance", a.chance),
        ("certified", a.certified),
        ("seeds", a.noise_seeds),
    ):
        if value is not None:
            if value < 1:
                raise ValueError(f"{'count' if name == 'prompts' else name} = {value}: must be at least 1")
            given[name] = value
    return Sizes(**given)


def _choose(a: Any, run: Run) -> None:
    """Lets the tune split choose σ₀ and k, and keeps them for the other tables."""
    base: Smoothing = run.testbed.settings("ams", run.concept("first"))
    smoothing = dict(run.smoothing)
    for method in run.methods("esd", "uce"):
        smoothing[method] = chosen(run.evaluator.cache.complete(functools.partial(grid, run, method)), base)
    write_smoothing(a.out / "chosen.json", smoothing)
    run.smoothing = run.evaluator.smoothing = smoothing


def _smoothing(a: Any, testbed: Testbed) -> Mapping[str, Smoothing]:
    """Chosen before, on the embedded world; given or published, on a real model."""
    if a.model is None:
        base: Smoothing = testbed.settings("ams", testbed.concept(testbed.places["first"]))
        shipped = () if testbed.world.label else (_CHOSEN,)  # type: ignore[attr-defined]
        for path in (a.out / "chosen.json", *shipped):
            if path.exists():
                return read_smoothing(path, base)
        return {"esd": base, "uce": base}
    concept = testbed.concept("")
    base = replace(DEFENSES["ams"].published(), concepts=(a.pairs or concept.name,), seed=0)
    smoothing = {}
    for method in testbed.victims():
        settings = base
        if method == "uce":
            settings = replace(settings, sigma0=0.012, use_global=concept.kind == "object")
        own = [
            s.removeprefix(f"{method}.") for s in a.set if "." not in s.partition("=")[0] or s.startswith(f"{method}.")
        ]
        smoothing[method] = changed(settings, own)
    return smoothing


def _given(a: Any, sizes: Sizes) -> Given:
    if a.blank:
        raise ValueError("blank: is of the embedded world; with --model victims are files")
    for name in ("concept", "victim", "prompts", "detector"):
        if not getattr(a, name):
            raise ValueError(f"{name}: must be given with --model")
    victims = {}
    for entry in a.victim:
        method, equals, path = entry.partition("=")
        if not equals or not method or not path:
            raise ValueError(f"victim = {entry!r}: must be METHOD=PATH")
        victims[method] = Path(path)
    defaults: dict[str, Any] = {}
    if a.rewriter:
        from experiments.defenses.posi import Settings as Rewriting

        defaults["posi"] = Rewriting(model=a.rewriter)
    concept = Concept.of(a.concept, kind=a.kind)
    return Given(
        a.model,
        concept,
        victims,
        a.prompts,
        a.detector,
        sizes,
        a.seed,
        captions=a.utility,
        real=a.references,
        clip=a.clip,
        defaults=defaults,
        steps=a.steps,
        guidance=a.guidance,
        device=a.device or "cpu",
        dtype=a.dtype,
        truncate=a.truncate,
    )


def _embedded(a: Any, sizes: Sizes, progress: Callable[[str], None]) -> Embedded:
    from experiments.world.worlds import everything

    world = everything()[WORLDS.index(a.world)]
    return Embedded(a.out, sizes, a.seed, world=world, blank=a.blank, progress=progress)


def _worlds(a: Any, sizes: Sizes, testbed: Testbed, progress: Callable[[str], None]) -> Mapping[str, Testbed]:
    """Models for table 10; made the first time."""
    if a.model is not None:
        return {a.model: testbed}
    if a.world != WORLDS[0]:
        raise ValueError(f"world = {a.world!r}: table 10 needs variants of the model, which only {WORLDS[0]!r} has")
    from experiments.world import variant

    testbeds: dict[str, Testbed] = {}
    for label, how in _WORLDS.items():
        work = a.out / "worlds" / label
        with one_at_a_time(a.out, f"world-{label}"):
            if not (work / "pipeline" / "model_index.json").exists():
                variant.make(work, **how)  # type: ignore[arg-type]
        testbeds[label] = Embedded(a.out, sizes, a.seed, base=work / "pipeline", label=label, progress=progress)
    return testbeds


def _progress() -> Callable[[str], None]:
    """What is measured now: a line that moves in a terminal, a line a result elsewhere."""
    started, moving = time.monotonic(), sys.stderr.isatty()

    def report(text: str) -> None:
        line = f"{time.monotonic() - started:5.0f} s  {text}"
        print(f"\r{line[:79]:<79}" if moving else line, end="" if moving else "\n", file=sys.stderr, flush=True)

    return report
