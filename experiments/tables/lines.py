"""Lines: what every line of a table is measured by, its columns, and the notes under a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments.defenses import DEFENSES
from experiments.defenses.ams import Settings as Smoothing
from experiments.defenses.ams import variant
from experiments.metrics import asr
from experiments.tables.evaluator import Evaluator, Setup
from experiments.tables.table import Column, Line, Table
from experiments.tables.testbed import BESIDE, Testbed
from experiments.unlearning.concept import Concept

__all__ = [
    "ATTACKS",
    "BOUNDS",
    "RHO",
    "RHOS",
    "SCORES",
    "Run",
    "bounds_of",
    "columns_of",
    "line_of",
    "method_title",
    "notes_of",
    "scores_of",
    "table_of",
    "with_tests",
]


RHO = 0.25
"""The radius at which tables state certified rates."""

RHOS = (0.0, 0.1, 0.25, 0.5, 1.0)

ATTACKS = (
    Column("implicit", "implicit"),
    Column("p4d", "P4D"),
    Column("uda", "UDA"),
    Column("ring-a-bell", "RAB"),
    Column("mma", "MMA"),
    Column("qf-pgd", "QF-PGD"),
    Column("adaptive", "adaptive"),
    Column("cce", "CCE"),
)
"""Columns of attacks."""

SCORES = (
    Column("average", "mean ASR"),
    Column("chance", "chance", better=""),
    Column("p:none", "p, against none", "p", ""),
    Column("p:ams", "p, against ams", "p", ""),
    Column("p:local", "p, against local", "p", ""),
    Column("fid", "FID", "score"),
    Column("fid_real", "FID, real", "score"),
    Column("image_text", "image–text", "score", "higher"),
    Column("certified", f"certified, ρ = {RHO:g}"),
    Column("certified_t5", "by T5 alone"),
    Column("seconds", "s an image", "seconds"),
    Column("ratio", "÷ none", "score"),
)
"""The other columns."""

_OF_SOME = ("chance", "p:none", "p:ams", "p:local", "fid_real")
"""Columns of which tables show those that a line has."""

BOUNDS = ("certified", "certified_t5")


@dataclass
class Run:
    """What a table is made with.

    Attributes:
        testbed: models and prompts.
        evaluator: measures on it.
        quick: the small form: fewer lines.
        smoothing: the smoother's settings by the method that it defends.
        worlds: other models, for table 10: label → testbed.
        pairs: makes pairs otherwise, for table 5: concept → file.
        certified_only: certified rates alone, of the smoother as it is and of the one that adapts to noisy tokens.
        lines: of tables 1, 6, 8 and 9 these alone, by their labels, and the undefended one; none: all.
        without: attacks that are left out.
    """

    testbed: Testbed
    evaluator: Evaluator
    quick: bool
    smoothing: Mapping[str, Smoothing]
    worlds: Callable[[], Mapping[str, Testbed]]
    pairs: Callable[[Concept], Path]
    certified_only: bool = False
    lines: Sequence[str] = ()
    without: Sequence[str] = ()

    def concept(self, place: str) -> Concept:
        """The concept in the place of one of the paper's."""
        return self.testbed.concept(self.testbed.places[place])

    def attacks(self, concept: Concept, method: str, wanted: Sequence[str], split: str = "report") -> tuple[str, ...]:
        """Those of the wanted attacks of which there are prompts, in their order; then others that the user brought."""
        there = self.testbed.attacks(concept, method, split)
        ours = {column.key for column in ATTACKS}
        others = tuple(name for name in there if name not in ours)
        return tuple(
            name for name in (*wanted, *others) if name not in self.without and (name in there or name in others)
        )

    def methods(self, *wanted: str) -> tuple[str, ...]:
        """Those of which there are victims."""
        return tuple(method for method in wanted if method in self.testbed.victims())

    def smoothed(self, method: str, name: str = "", **changes: Any) -> Smoothing:
        """The smoother's settings for a method, a variant of them, or with changes."""
        settings = self.smoothing[method]
        return replace(variant(settings, name) if name else settings, **changes)


def columns_of(attacks: Sequence[str], lines: Sequence[Line], *, certified: bool = False) -> tuple[Column, ...]:
    """The attacks, their mean and what follows it; the second FID, and tests, where a line has them."""
    known = {column.key: column for column in (*ATTACKS, *SCORES)}
    had = {key: any(key in line.values for line in lines) for key in (*_OF_SOME, *BESIDE)}
    shown = {**had, **dict.fromkeys(BOUNDS, certified)}
    keys = [*attacks, "average", *_OF_SOME[:-1], *BESIDE, "fid", "fid_real", "image_text", *BOUNDS]
    return tuple(known.get(key, Column(key, key)) for key in keys if shown.get(key, True))


def line_of(
    run: Run,
    concept: Concept,
    setup: Setup,
    attacks: Sequence[str],
    *,
    split: str = "report",
    beside: Sequence[str] = (),
    certified: bool = False,
    settings: Mapping[str, float | str] | None = None,
    victim: str | None = None,
) -> Line:
    """One line: rates of the attacks, their mean, utility, and what was asked for besides."""
    evaluator = run.evaluator
    rates = {attack: evaluator.rate(concept, setup, attack, split) for attack in attacks}
    values: dict[str, float] = {attack: rate["value"] for attack, rate in rates.items()}
    limits = {attack: (rate["low"], rate["high"]) for attack, rate in rates.items()}
    values["average"], limits["average"] = evaluator.average(list(rates.values()))
    chance = evaluator.chance(concept, setup)
    values["chance"], limits["chance"] = chance["value"], (chance["low"], chance["high"])
    there = run.testbed.attacks(concept, setup.source, split)
    able = DEFENSES[setup.defense].takes_words
    for attack in (name for name in beside if name in there and (able or name != "cce")):
        rate = evaluator.rate(concept, setup, attack, split)
        values[attack], limits[attack] = rate["value"], (rate["low"], rate["high"])
    values |= scores_of(evaluator, concept, setup, split)
    if certified and setup.defense == "ams":
        values |= bounds_of(evaluator, concept, setup, attacks, split)
    return Line(
        method_title(setup.source) if victim is None else victim, setup.label, values, limits, dict(settings or {})
    )


def with_tests(
    run: Run,
    concept: Concept,
    setups: Sequence[Setup],
    lines: Sequence[Line],
    attacks: Sequence[str],
    against: Sequence[str] = ("none", "ams"),
) -> list[Line]:
    """Lines that face the same prompts, each tested against those with a label in `against`."""
    tested = []
    for setup, line in zip(setups, lines, strict=True):
        values = dict(line.values)
        for other in setups:
            if other.label in against and other is not setup:
                values[f"p:{other.label.split()[-1]}"] = run.evaluator.paired(concept, (setup, other), attacks).p
        tested.append(replace(line, values=values))
    return tested


def bounds_of(
    evaluator: Evaluator, concept: Concept, setup: Setup, attacks: Sequence[str], split: str = "report"
) -> dict[str, float]:
    """The certified columns of a line."""
    bounds = evaluator.certified(concept, setup, attacks, RHOS, split)
    at = bounds["rhos"].index(RHO)
    return {"certified": bounds["values"][at], "certified_t5": bounds["t5"][at]}


def scores_of(evaluator: Evaluator, concept: Concept, setup: Setup, split: str = "report") -> dict[str, float]:
    """FID and image–text score of a line."""
    figures = evaluator.utility(concept, setup, split)
    return {name: figures[name] for name in ("fid", "fid_real", "image_text") if name in figures}


def table_of(
    number: str,
    title: str,
    columns: Sequence[Column],
    lines: Sequence[Line],
    published: Sequence[Line],
    notes: Sequence[str],
) -> Table:
    """A table of what its lines have in its columns: narrow ones print the mean over attacks alone."""
    keys = {column.key for column in columns}
    shown = tuple(
        replace(
            line,
            values={k: v for k, v in line.values.items() if k in keys},
            limits={k: v for k, v in line.limits.items() if k in keys},
        )
        for line in lines
    )
    return Table(number, title, tuple(columns), shown, tuple(published), tuple(notes))


def method_title(method: str) -> str:
    """A method as tables name it."""
    return {"advunlearn": "AdvUnlearn"}.get(method, method.upper())


def notes_of(run: Run, concept: Concept, split: str, *more: str) -> tuple[str, ...]:
    """The notes under a table: model, detector, how much was measured, and what else is to be said."""
    testbed, sizes = run.testbed, run.testbed.sizes
    record = asr.record_of(testbed.detector(concept))
    level = "" if record.threshold is None else f", threshold {record.threshold:g}"
    seeds = sizes.seeds if split == "report" else 1
    return (
        f"Model: {testbed.name}, {testbed.steps} steps, guidance {testbed.guidance:g}. Concept: {', '.join(concept.erase)}.",
        f"Detector: {record.name}, {record.version}{level}. Prompts of the split “{split}”, at most {sizes.prompts} an "
        f"attack; {sizes.images} images behind FID and image–text score, {sizes.chance} behind chance "
        f"(prompts that say nothing of the concept's kind, other seeds); smoothing averaged over {seeds} "
        f"{'seeds' if seeds > 1 else 'seed'} of its noise; seed {testbed.seed}.",
        *more,
    )


SIX = ("implicit", "p4d", "uda", "ring-a-bell", "mma", "qf-pgd")
