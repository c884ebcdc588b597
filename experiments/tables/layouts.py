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

from collections.abc import Callable, Sequence
from dataclasses import replace

from experiments.tables.evaluator import Evaluator, Setup
from experiments.tables.lines import (
    BOUNDS,
    RHO,
    SCORES,
    SIX,
    Run,
    bounds_of,
    columns_of,
    line_of,
    method_title,
    notes_of,
    scores_of,
    table_of,
    with_tests,
)
from experiments.tables.published import HEADLINE, PUBLISHED
from experiments.tables.table import Column, Line, Table
from experiments.tables.testbed import BESIDE
from experiments.tables.tuning import grid, rule

__all__ = ["LAYOUTS", "OPTIONAL", "RETRAINED"]


_OF_AMS = ("mean", "isotropic", "noise-then-adapt")
_SLD = ("sld-weak", "sld-medium", "sld-strong", "sld-max")


RETRAINED = {"esd": "race", "uce": "rece"}


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
            setups = [s for s in setups if not run.lines or s.label in ("none", *run.lines)]
            if run.certified_only:
                lines += [
                    Line(method_title(method), s.label, bounds_of(run.evaluator, concept, s, there))
                    for s in setups
                    if s.label in ("ams", "ams noise-then-adapt")
                ]
                continue
            mine = [
                line_of(
                    run,
                    concept,
                    setup,
                    there,
                    beside=[a for a in BESIDE if extra and a not in run.without],
                    certified=True,
                )
                for setup in setups
            ]
            lines += with_tests(run, concept, setups, mine, there)
        about = (
            f"Certified: bound on the mean rate over all these prompts, for every further perturbation of size ρ = {RHO:g} "
            "of their token embeddings (T14 over a set of prompts, T5 where that promises more; Σ frozen at each prompt), "
            f"at confidence 1 − {run.testbed.sizes.alpha:g}, {run.testbed.sizes.certified} images. For comparison what T5 "
            "alone makes of as many images with as many successes, each from a draw of its own.",
        )
        if run.certified_only:
            columns = tuple(column for column in SCORES if column.key in BOUNDS)
            return table_of(
                f"{number}-certified",
                title.format(concept.name),
                columns,
                lines,
                (),
                notes_of(run, concept, "report", *about),
            )
        return table_of(
            number,
            title.format(concept.name),
            columns_of(used, lines, certified=True),
            lines,
            PUBLISHED[number],
            notes_of(
                run,
                concept,
                "report",
                "Attack prompts were made against the undefended victim; every line faces the same. Not part of the mean: "
                "“adaptive”, made against the smoother of the line “ams”, and “CCE”, a token whose embedding was learned, "
                f"{min(run.testbed.sizes.beside, run.testbed.sizes.prompts)} prompts each."
                if full and not run.quick
                else "Attack prompts were made against the undefended victim; every line faces the same.",
                *about,
            ),
        )

    return table


OPTIONAL = (*RETRAINED.values(), *_SLD, "blacklist", "safree", "posi", "ams", *(f"ams {name}" for name in _OF_AMS))
"""Labels of lines that tables 1, 6, 8 and 9 may have, besides the undefended one."""


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
        for name in _OF_AMS:
            setups.append(Setup(f"ams {name}", method, "ams", run.smoothed(method, name)))
    return setups


def _seconds(run: Run) -> Table:
    from experiments.tables.timing import measured

    concept = run.concept("first")
    method = run.methods("esd", "uce")[0]
    setups = [w for w in _setups(run, method, "1", full=False) if w.method == method and w.defense != "posi"]
    defenses = {setup.label: run.testbed.defense(setup.defense, concept, method, setup.settings) for setup in setups}
    rows = run.evaluator.rows(concept, setups[0], run.attacks(concept, method, SIX)[0], "report")
    seconds = measured(defenses, [row.adversarial for row in rows][:16], rounds=3 if run.quick else 7)
    lines = [Line(method_title(method), name, values) for name, values in seconds.items()]
    columns = [column for column in SCORES if column.key in ("seconds", "ratio")]
    return table_of(
        "2",
        "Inference time",
        columns,
        lines,
        PUBLISHED["2"],
        notes_of(
            run,
            concept,
            "report",
            "Medians of interleaved rounds. Absolute times are of this machine; the ratio is what carries over.",
        ),
    )


def _sweep(run: Run) -> Table:
    concept, lines, told = run.concept("first"), [], []
    for method in run.methods("esd", "uce"):
        undefended = Setup("none", method, "none")
        lines.append(line_of(run, concept, undefended, run.attacks(concept, method, SIX, "tune"), split="tune"))
        found = grid(run, method)
        best = rule(found)
        lines += [replace(line, defense="ams, chosen") if line is best else line for line in found]
        told.append(f"{method_title(method)}: σ₀ = {best.settings['sigma0']:g}, k = {best.settings['k']:g}.")
    relative = run.testbed.settings("ams", concept).sigma0_relative is not None
    unit = "σ₀ in standard deviations of the token embeddings. " if relative else ""
    columns = columns_of((), lines)
    return table_of(
        "3",
        "σ₀ and k",
        columns,
        lines,
        PUBLISHED["3"],
        notes_of(
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
        attacks = run.attacks(concept, method, SIX)
        setups = [Setup(f"ams {name}", method, "ams", run.smoothed(method, name)) for name in ("local", "global")]
        mine = [line_of(run, concept, setup, attacks) for setup in setups]
        lines += with_tests(run, concept, setups, mine, attacks, against=("ams local",))
    return table_of(
        "4",
        "Local and global relevance",
        columns_of((), lines),
        lines,
        PUBLISHED["4"],
        notes_of(run, concept, "report"),
    )


def _pairs(run: Run) -> Table:
    concept = run.concept("first")
    lines = []
    for method in run.methods("esd", "uce"):
        attacks = run.attacks(concept, method, SIX)
        other = run.smoothed(method, concepts=(str(run.pairs(concept)),))
        setups = [
            Setup("none", method, "none"),
            Setup("ams", method, "ams", run.smoothed(method)),
            Setup("ams self-generated", method, "ams", other),
        ]
        lines += with_tests(run, concept, setups, [line_of(run, concept, setup, attacks) for setup in setups], attacks)
    return table_of(
        "5",
        "Concept pairs",
        columns_of((), lines),
        lines,
        PUBLISHED["5"],
        notes_of(
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
        mine = [line_of(there, concept, setup, used, victim=label) for setup in setups]
        lines += with_tests(there, concept, setups, mine, used)
        notes = list(notes_of(there, concept, "report"))
    return table_of(
        "10",
        "Other models",
        columns_of((), lines),
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
            values |= scores_of(run.evaluator, both, setup)
            lines.append(Line("", setup.label, values, limits))
    columns = (
        Column("average:first", f"mean ASR, {first.name}"),
        Column("average:second", f"mean ASR, {second.name}"),
        Column("chance:first", f"chance, {first.name}", better=""),
        Column("chance:second", f"chance, {second.name}", better=""),
        Column("p:first", f"p, {first.name}, against none", "p", ""),
        Column("p:second", f"p, {second.name}, against none", "p", ""),
        *columns_of((), lines)[1:],
    )
    return table_of(
        "11", "Two concepts", columns, lines, PUBLISHED["11"],
        notes_of(run, first, "report", f"One UCE edit erases {first.name} and {second.name}; relevance is the larger of two."),
    )  # fmt: skip


def _retrained_encoder(run: Run) -> Table:
    concept, attacks = run.concept("first"), ("implicit", "ring-a-bell", "mma", "qf-pgd")
    setups = [
        Setup("advunlearn", "advunlearn", "none", attacked="esd"),
        Setup("ams", "esd", "ams", run.smoothed("esd")),
    ]
    setups = [setup for setup in setups if setup.method in run.testbed.victims()]
    used = run.attacks(concept, "esd", attacks)
    lines = with_tests(run, concept, setups, [line_of(run, concept, setup, used, victim="") for setup in setups], used)
    return table_of(
        "12",
        "A retrained text encoder, and the smoother",
        columns_of((), lines),
        lines,
        PUBLISHED["12"],
        notes_of(
            run, concept, "report", "Both face the prompts made with the original text encoder. “ams” defends ESD."
        ),
    )


def _pruning(run: Run) -> Table:
    lines, attacks = [], ("uda", "ring-a-bell")
    for place in ("first", "style"):
        concept = run.concept(place)
        for method in run.methods("esd", "p-esd", "ac", "p-ac"):
            setup = Setup(method, method, "none")
            lines.append(line_of(run, concept, setup, run.attacks(concept, method, attacks), victim=concept.name))
    return table_of(
        "pruning",
        "Erasing by fine-tuning and by pruning",
        columns_of(attacks, lines),
        lines,
        (),
        notes_of(
            run,
            run.concept("first"),
            "report",
            f"Published: {HEADLINE}",
            "UDA was made against each model itself.",
        ),
    )


LAYOUTS: dict[str, Callable[[Run], Table]] = {
    "1": _robustness("1", "first", SIX, "Defences of models that unlearned “{}”", full=True),
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
