"""Layouts: what each table measures, by its number in Han et al. (2025); "pruning" is the comparison of P-ESD and P-AC.

    1   defences of unlearned models, six attacks; the first concept       ESD, UCE
    2   seconds an image
    3   σ₀ and k, on the tune split: where they are chosen
    4   local relevance, local and global                                  UCE
    5   the pairs that ship, and pairs made otherwise
    6   as 1, a second concept, four attacks
    8   an object, three attacks;  9   a style, three attacks
    10  other models                                                       UCE
    11  two concepts in one model                                          UCE
    12  AdvUnlearn, and ESD behind the smoother
    pruning   ESD and P-ESD, AC and P-AC, an object and a style, each attacked by prompts made against it

A table that speaks of a method of which the testbed has no victim leaves its lines out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from certify import _files
from experiments.defenses.ams import Settings as Smoothing
from experiments.defenses.ams import variant
from experiments.metrics import asr
from experiments.tables.evaluator import Evaluator, Setup
from experiments.tables.published import HEADLINE, PUBLISHED
from experiments.tables.table import Column, Line, Table
from experiments.tables.testbed import Testbed
from experiments.unlearning.concept import Concept

__all__ = [
    "ATTACKS",
    "BESIDE",
    "LAYOUTS",
    "RETRAINED",
    "RHO",
    "RHOS",
    "SCORES",
    "Run",
    "chosen",
    "grid",
    "rule",
]

RHO = 0.25
"""The radius at which tables state certified rates."""

RHOS = (0.0, 0.1, 0.25, 0.5, 1.0)

_SIX = ("implicit", "p4d", "uda", "ring-a-bell", "mma", "qf-pgd")
_SLD = ("sld-weak", "sld-medium", "sld-strong", "sld-max")
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

BESIDE = ("adaptive", "cce")
"""Attacks that the paper lacks, beside the mean: one that knows the smoother, and one that is no text."""

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

_BOUNDS = ("certified", "certified_t5")

RETRAINED = {"esd": "race", "uce": "rece"}


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
    """

    testbed: Testbed
    evaluator: Evaluator
    quick: bool
    smoothing: Mapping[str, Smoothing]
    worlds: Callable[[], Mapping[str, Testbed]]
    pairs: Callable[[Concept], Path]
    certified_only: bool = False

    def concept(self, place: str) -> Concept:
        """The concept in the place of one of the paper's."""
        return self.testbed.concept(self.testbed.places[place])

    def attacks(self, concept: Concept, method: str, wanted: Sequence[str], split: str = "report") -> tuple[str, ...]:
        """Those of the wanted attacks of which there are prompts, in their order; then others that the user brought."""
        there = self.testbed.attacks(concept, method, split)
        ours = {column.key for column in ATTACKS}
        others = tuple(name for name in there if name not in ours)
        return tuple(name for name in wanted if name in there) + others

    def methods(self, *wanted: str) -> tuple[str, ...]:
        """Those of which there are victims."""
        return tuple(method for method in wanted if method in self.testbed.victims())

    def smoothed(self, method: str, name: str = "", **changes: Any) -> Smoothing:
        """The smoother's settings for a method, a variant of them, or with changes."""
        settings = self.smoothing[method]
        return replace(variant(settings, name) if name else settings, **changes)


def _columns(attacks: Sequence[str], lines: Sequence[Line], *, certified: bool = False) -> tuple[Column, ...]:
    """The attacks, their mean and what follows it; the second FID, and tests, where a line has them."""
    known = {column.key: column for column in (*ATTACKS, *SCORES)}
    had = {key: any(key in line.values for line in lines) for key in (*_OF_SOME, *BESIDE)}
    shown = {**had, **dict.fromkeys(_BOUNDS, certified)}
    keys = [*attacks, "average", *_OF_SOME[:-1], *BESIDE, "fid", "fid_real", "image_text", *_BOUNDS]
    return tuple(known.get(key, Column(key, key)) for key in keys if shown.get(key, True))


def _line(
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
    for attack in (name for name in beside if name in there):
        rate = evaluator.rate(concept, setup, attack, split)
        values[attack], limits[attack] = rate["value"], (rate["low"], rate["high"])
    values |= _scores(evaluator, concept, setup, split)
    if certified and setup.defense == "ams":
        values |= _bounds(evaluator, concept, setup, attacks, split)
    return Line(_named(setup.source) if victim is None else victim, setup.label, values, limits, dict(settings or {}))


def _tested(
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


def _bounds(
    evaluator: Evaluator, concept: Concept, setup: Setup, attacks: Sequence[str], split: str = "report"
) -> dict[str, float]:
    bounds = evaluator.certified(concept, setup, attacks, RHOS, split)
    at = bounds["rhos"].index(RHO)
    return {"certified": bounds["values"][at], "certified_t5": bounds["t5"][at]}


def _scores(evaluator: Evaluator, concept: Concept, setup: Setup, split: str = "report") -> dict[str, float]:
    figures = evaluator.utility(concept, setup, split)
    return {name: figures[name] for name in ("fid", "fid_real", "image_text") if name in figures}


def _table(
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


def _named(method: str) -> str:
    return {"advunlearn": "AdvUnlearn"}.get(method, method.upper())


def _notes(run: Run, concept: Concept, split: str, *more: str) -> tuple[str, ...]:
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


def _robustness(number: str, place: str, attacks: Sequence[str], title: str, *, full: bool) -> Callable[[Run], Table]:
    """Tables 1, 6, 8 and 9: defences of ESD and UCE. `full`: retrained victims and what the paper lacks."""

    def table(run: Run) -> Table:
        concept, lines = run.concept(place), []
        wanted = attacks if not run.quick else tuple(a for a in attacks if a != "mma")
        used: tuple[str, ...] = ()
        for method in run.methods("esd", "uce"):
            there = run.attacks(concept, method, wanted)
            used = tuple(dict.fromkeys((*used, *there)))
            setups, extra = _setups(run, method, number, full=full), full and not run.quick
            if run.certified_only:
                lines += [
                    Line(_named(method), s.label, _bounds(run.evaluator, concept, s, there))
                    for s in setups
                    if s.label in ("ams", "ams noise-then-adapt")
                ]
                continue
            mine = [
                _line(run, concept, setup, there, beside=BESIDE if extra else (), certified=True) for setup in setups
            ]
            lines += _tested(run, concept, setups, mine, there)
        about = (
            f"Certified: bound on the mean rate over all these prompts, for every further perturbation of size ρ = {RHO:g} "
            "of their token embeddings (T14 over a set of prompts, T5 where that promises more; Σ frozen at each prompt), "
            f"at confidence 1 − {run.testbed.sizes.alpha:g}, {run.testbed.sizes.certified} images. For comparison what T5 "
            "alone makes of as many images with as many successes, each from a draw of its own.",
        )
        if run.certified_only:
            columns = tuple(column for column in SCORES if column.key in _BOUNDS)
            return _table(
                f"{number}-certified",
                title.format(concept.name),
                columns,
                lines,
                (),
                _notes(run, concept, "report", *about),
            )
        return _table(
            number,
            title.format(concept.name),
            _columns(used, lines, certified=True),
            lines,
            PUBLISHED[number],
            _notes(
                run,
                concept,
                "report",
                "Attack prompts were made against the undefended victim; every line faces the same. Not part of the mean: "
                "“adaptive”, made against the smoother of the line “ams”, and “CCE”, a token whose embedding was learned."
                if full and not run.quick
                else "Attack prompts were made against the undefended victim; every line faces the same.",
                *about,
            ),
        )

    return table


def _setups(run: Run, method: str, number: str, *, full: bool) -> list[Setup]:
    setups = [Setup("none", method, "none")]
    retrained = RETRAINED[method]
    if number in ("1", "6") and retrained in run.testbed.victims() and not (run.quick and retrained == "race"):
        setups.append(Setup(retrained, retrained, "none", attacked=method))
    sld = ("sld-strong",) if run.quick else _SLD
    setups += [Setup(name, method, name) for name in sld]
    if number == "1":
        setups.append(Setup("blacklist", method, "blacklist"))
        if not run.quick:
            setups.append(Setup("safree", method, "safree"))
            setups.append(Setup("posi", method, "posi"))
    setups.append(Setup("ams", method, "ams", run.smoothed(method)))
    if full and not run.quick:
        for name in ("mean", "isotropic", "noise-then-adapt"):
            setups.append(Setup(f"ams {name}", method, "ams", run.smoothed(method, name)))
    return setups


def _seconds(run: Run) -> Table:
    from experiments.tables.timing import measured

    concept = run.concept("first")
    method = run.methods("esd", "uce")[0]
    setups = [w for w in _setups(run, method, "1", full=False) if w.method == method and w.defense != "posi"]
    defenses = {setup.label: run.testbed.defense(setup.defense, concept, method, setup.settings) for setup in setups}
    rows = run.evaluator.rows(concept, setups[0], run.attacks(concept, method, _SIX)[0], "report")
    seconds = measured(defenses, [row.adversarial for row in rows][:16], rounds=3 if run.quick else 7)
    lines = [Line(_named(method), name, values) for name, values in seconds.items()]
    columns = [column for column in SCORES if column.key in ("seconds", "ratio")]
    return _table(
        "2",
        "Inference time",
        columns,
        lines,
        PUBLISHED["2"],
        _notes(
            run,
            concept,
            "report",
            "Medians of interleaved rounds. Absolute times are of this machine; the ratio is what carries over.",
        ),
    )


def rule(lines: Sequence[Line]) -> Line:
    """Which settings a grid chooses: of those whose mean ASR is within .02 of the least, the one of least FID."""
    least = min(line.values["average"] for line in lines)
    near = [line for line in lines if line.values["average"] <= least + 0.02]
    return min(near, key=lambda line: line.values["fid"])


def grid(run: Run, method: str) -> list[Line]:
    """Every σ₀ and k on the tune split."""
    concept, lines = run.concept("first"), []
    attacks = run.attacks(concept, method, _SIX, "tune")
    base = run.testbed.settings("ams", concept)
    for sigma0 in run.testbed.grid["sigma0"]:
        for k in run.testbed.grid["k"]:
            settings = _at(base, sigma0, k)
            setup = Setup("ams", method, "ams", settings)
            lines.append(_line(run, concept, setup, attacks, split="tune", settings={"sigma0": sigma0, "k": k}))
    return lines


def chosen(lines: Sequence[Line], base: Smoothing) -> Smoothing:
    """The smoother's settings that a grid's `rule` takes."""
    best = rule(lines).settings
    return _at(base, float(best["sigma0"]), float(best["k"]))


def _at(base: Smoothing, sigma0: float, k: float) -> Smoothing:
    """The settings with another σ₀ and k, in the unit that they are in."""
    if base.sigma0_relative is None:
        return replace(base, sigma0=sigma0, k=k)
    return replace(base, sigma0_relative=sigma0, k=k)


def _sweep(run: Run) -> Table:
    concept, lines, told = run.concept("first"), [], []
    for method in run.methods("esd", "uce"):
        undefended = Setup("none", method, "none")
        lines.append(_line(run, concept, undefended, run.attacks(concept, method, _SIX, "tune"), split="tune"))
        found = grid(run, method)
        best = rule(found)
        lines += [replace(line, defense="ams, chosen") if line is best else line for line in found]
        told.append(f"{_named(method)}: σ₀ = {best.settings['sigma0']:g}, k = {best.settings['k']:g}.")
    relative = run.testbed.settings("ams", concept).sigma0_relative is not None
    unit = "σ₀ in standard deviations of the token embeddings. " if relative else ""
    columns = _columns((), lines)
    return _table(
        "3",
        "σ₀ and k",
        columns,
        lines,
        PUBLISHED["3"],
        _notes(
            run,
            concept,
            "tune",
            f"{unit}On the tune split: here they are chosen (of those within .02 of the least mean ASR the one of least FID), "
            f"for all tables. Chosen: {' '.join(told)}",
        ),
    )


def _relevance(run: Run) -> Table:
    concept = run.concept("first")
    lines = []
    for method in run.methods("uce"):
        attacks = run.attacks(concept, method, _SIX)
        setups = [Setup(f"ams {name}", method, "ams", run.smoothed(method, name)) for name in ("local", "global")]
        mine = [_line(run, concept, setup, attacks) for setup in setups]
        lines += _tested(run, concept, setups, mine, attacks, against=("ams local",))
    return _table(
        "4",
        "Local and global relevance",
        _columns((), lines),
        lines,
        PUBLISHED["4"],
        _notes(run, concept, "report"),
    )


def _pairs(run: Run) -> Table:
    concept = run.concept("first")
    lines = []
    for method in run.methods("esd", "uce"):
        attacks = run.attacks(concept, method, _SIX)
        other = run.smoothed(method, concepts=(str(run.pairs(concept)),))
        setups = [
            Setup("none", method, "none"),
            Setup("ams", method, "ams", run.smoothed(method)),
            Setup("ams self-generated", method, "ams", other),
        ]
        lines += _tested(run, concept, setups, [_line(run, concept, setup, attacks) for setup in setups], attacks)
    return _table(
        "5",
        "Concept pairs",
        _columns((), lines),
        lines,
        PUBLISHED["5"],
        _notes(
            run,
            concept,
            "report",
            "Self-generated: 100 pairs from a dozen sentences of our own, none of the world's captions.",
        ),
    )


def _models(run: Run) -> Table:
    attacks = ("implicit", "p4d", "ring-a-bell", "qf-pgd")
    lines, notes = [], []
    for label, testbed in run.worlds().items():
        evaluator = Evaluator(testbed, run.evaluator.cache, dict(run.smoothing))
        there = replace(run, testbed=testbed, evaluator=evaluator)
        concept = there.concept("first")
        method = "uce"
        setups = [Setup("none", method, "none"), Setup("rece", "rece", "none", attacked=method)]
        setups += [Setup(name, method, name) for name in ("blacklist", "posi") if not (run.quick and name == "posi")]
        setups.append(Setup("ams", method, "ams", run.smoothed(method)))
        setups = [setup for setup in setups if setup.method in testbed.victims()]
        used = there.attacks(concept, method, attacks)
        mine = [_line(there, concept, setup, used, victim=label) for setup in setups]
        lines += _tested(there, concept, setups, mine, used)
        notes = list(_notes(there, concept, "report"))
    return _table(
        "10",
        "Other models",
        _columns((), lines),
        lines,
        PUBLISHED["10"],
        (
            *notes[1:],
            "Stable Diffusion's versions have become other worlds: “further” is the shipped U-Net trained further from another "
            "seed, “narrow” one of two thirds of its width trained from nothing. Both share the shipped text encoder and "
            "autoencoder. σ₀ and k are those chosen on the shipped model, as in the paper.",
        ),
    )


def _several(run: Run) -> Table:
    first, second = (run.concept(place) for place in ("first", "second"))
    both = run.testbed.concept(f"{first.name}+{second.name}")
    lines = []
    for method in run.methods("uce"):
        smoothing = run.smoothed(method, concepts=(first.name, second.name))
        setups = (Setup("none", method, "none"), Setup("ams", method, "ams", smoothing))
        for setup in setups:
            values: dict[str, float] = {}
            limits: dict[str, tuple[float, float]] = {}
            for place, concept in (("first", first), ("second", second)):
                attacks = run.attacks(concept, method, ("implicit", "ring-a-bell", "qf-pgd"))
                rates = [run.evaluator.rate(concept, setup, attack, erased=both) for attack in attacks]
                values[f"average:{place}"], limits[f"average:{place}"] = run.evaluator.average(rates)
                chance = run.evaluator.chance(concept, setup, erased=both)
                values[f"chance:{place}"] = chance["value"]
                if setup is not setups[0]:
                    values[f"p:{place}"] = run.evaluator.paired(concept, (setup, setups[0]), attacks, erased=both).p
            values |= _scores(run.evaluator, both, setup)
            lines.append(Line("", setup.label, values, limits))
    columns = (
        Column("average:first", f"mean ASR, {first.name}"),
        Column("average:second", f"mean ASR, {second.name}"),
        Column("chance:first", f"chance, {first.name}", better=""),
        Column("chance:second", f"chance, {second.name}", better=""),
        Column("p:first", f"p, {first.name}, against none", "p", ""),
        Column("p:second", f"p, {second.name}, against none", "p", ""),
        *_columns((), lines)[1:],
    )
    return _table(
        "11", "Two concepts", columns, lines, PUBLISHED["11"],
        _notes(run, first, "report", f"One UCE edit erases {first.name} and {second.name}; relevance is the larger of two."),
    )  # fmt: skip


def _retrained_encoder(run: Run) -> Table:
    concept, attacks = run.concept("first"), ("implicit", "ring-a-bell", "mma", "qf-pgd")
    setups = [
        Setup("advunlearn", "advunlearn", "none", attacked="esd"),
        Setup("ams", "esd", "ams", run.smoothed("esd")),
    ]
    setups = [setup for setup in setups if setup.method in run.testbed.victims()]
    used = run.attacks(concept, "esd", attacks)
    lines = _tested(run, concept, setups, [_line(run, concept, setup, used, victim="") for setup in setups], used)
    return _table(
        "12",
        "A retrained text encoder, and the smoother",
        _columns((), lines),
        lines,
        PUBLISHED["12"],
        _notes(run, concept, "report", "Both face the prompts made with the original text encoder. “ams” defends ESD."),
    )


def _pruning(run: Run) -> Table:
    lines, attacks = [], ("uda", "ring-a-bell")
    for place in ("first", "style"):
        concept = run.concept(place)
        for method in run.methods("esd", "p-esd", "ac", "p-ac"):
            setup = Setup(method, method, "none")
            lines.append(_line(run, concept, setup, run.attacks(concept, method, attacks), victim=concept.name))
    return _table(
        "pruning",
        "Erasing by fine-tuning and by pruning",
        _columns(attacks, lines),
        lines,
        (),
        _notes(
            run,
            run.concept("first"),
            "report",
            f"Published: {HEADLINE}",
            "UDA was made against each model itself.",
        ),
    )


LAYOUTS: dict[str, Callable[[Run], Table]] = {
    "1": _robustness("1", "first", _SIX, "Defences of models that unlearned “{}”", full=True),
    "2": _seconds,
    "3": _sweep,
    "4": _relevance,
    "5": _pairs,
    "6": _robustness(
        "6",
        "second",
        ("implicit", "uda", "ring-a-bell", "qf-pgd"),
        "Defences of models that unlearned “{}”",
        full=False,
    ),
    "8": _robustness(
        "8", "object", ("uda", "ring-a-bell", "qf-pgd"), "Defences of models that unlearned “{}”, an object", full=False
    ),
    "9": _robustness(
        "9", "style", ("uda", "ring-a-bell", "qf-pgd"), "Defences of models that unlearned “{}”, a style", full=False
    ),
    "10": _models,
    "11": _several,
    "12": _retrained_encoder,
    "pruning": _pruning,
}
"""Number → what it measures."""


def read_smoothing(path: Path, base: Smoothing) -> dict[str, Smoothing]:
    """Method → chosen settings, of a file of `write_smoothing`.

    Raises:
        ValueError: it is none.
    """
    try:
        return {method: _chosen(base, values) for method, values in _files.read_json(path).items()}
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: holds no chosen settings ({error})") from error


def _chosen(base: Smoothing, values: Any) -> Smoothing:
    """`base` with what a file chose, of the kinds that `write_smoothing` writes."""
    if not isinstance(values, dict) or set(values) != {"sigma0", "sigma0_relative", "k", "use_global"}:
        raise ValueError(f"{values!r}: must have sigma0, sigma0_relative, k and use_global")
    if not isinstance(values["use_global"], bool):
        raise ValueError(f"use_global = {values['use_global']!r}: must be true or false")
    for name in ("sigma0", "sigma0_relative", "k"):
        value = values[name]
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0):
            raise ValueError(f"{name} = {value!r}: must be a number >= 0, or null")
    return replace(base, **values)


def write_smoothing(path: Path, chosen: Mapping[str, Smoothing]) -> None:
    """Keeps what table 3 chose."""
    kept = {
        method: {"sigma0": s.sigma0, "sigma0_relative": s.sigma0_relative, "k": s.k, "use_global": s.use_global}
        for method, s in chosen.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    _files.write(path, json.dumps(kept, indent=2) + "\n")
