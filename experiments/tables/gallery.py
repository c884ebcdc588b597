"""Gallery: which figures belong to which table.

trade-off    mean ASR against FID                             tables 1, 6, 8, 9
sweep        ASR and FID against σ₀ and against k              table 3
grid         one prompt an attack, every defence               tables 1, 6 (as Figures 3 and 4 of Han et al. 2025)
failures     prompts that come through the smoother            table 1 (as their Figure 5)
certified    bound and strongest attack against the radius     table 1
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from certify.models import PromptEncoder
from experiments.attacks import learned
from experiments.attacks.attack import Row
from experiments.defenses.ams import Settings as Smoothing
from experiments.defenses.defense import fitting
from experiments.tables import figures as drawing
from experiments.tables.certified import Effort, curves
from experiments.tables.evaluator import Setup
from experiments.tables.layouts import RETRAINED
from experiments.tables.lines import RHOS, Run
from experiments.tables.table import Table
from experiments.tables.testbed import BESIDE, Embedded
from experiments.unlearning.concept import Concept

__all__ = ["figures"]

_COLUMNS = 6
_CURVES = 3  # prompts behind the certified figure, of each victim
_FARTHEST = 0.5  # radius of the certified figure; beyond it bounds are near 1
_LARGEST = 128  # pixels of an image in a grid


def figures(table: Table, run: Run, folder: Path) -> dict[str, str]:
    """Draws a table's figures: file name → title."""
    number, drawn = table.number, {}
    if number in ("1", "6", "8", "9"):
        name = f"{number}-trade-off.png"
        drawing.trade_off(table, folder / name)
        drawn[name] = f"Table {number}: mean attack success rate against FID"
    if number == "3":
        name = "3-sweep.png"
        relative = run.testbed.settings("ams", run.concept("first")).sigma0_relative is not None
        drawing.sweep(table, folder / name, unit="in standard deviations of the token embeddings" if relative else "")
        drawn[name] = "σ₀ and k: attack success rate and FID"
    if number in ("1", "6"):
        concept = run.concept("first" if number == "1" else "second")
        for method in run.methods("esd", "uce"):
            attacks = run.attacks(concept, method, [c.key for c in table.columns])
            name = f"{number}-grid-{method}.png"
            if _grid(run, concept, method, attacks, folder / name):
                drawn[name] = f"{method.upper()}: what attacks bring back, and what defences leave of it"
            name = f"{number}-failures-{method}.png"
            if number == "1" and _failures(run, concept, method, attacks, folder / name):
                drawn[name] = (
                    f"{method.upper()}: prompts that come through the smoother, and the same with twice the noise"
                )
    if number == "1" and not run.quick and not run.lines:
        first = run.concept("first")
        method = run.methods("esd", "uce")[0]
        attacks = run.attacks(first, method, [c.key for c in table.columns if c.key not in BESIDE])
        drawn |= _certified(run, first, attacks, folder / "1-certified.png")
    return drawn


def _hits(run: Run, concept: Concept, setup: Setup, attacks: Sequence[str]) -> list[tuple[Row, float]]:
    """Every prompt of the attacks, with the share of its images that show the concept."""
    return [
        pair
        for attack in attacks
        for pair in zip(
            run.evaluator.rows(concept, setup, attack, "report"),
            run.evaluator.rate(concept, setup, attack)["hits"],
            strict=True,
        )
    ]


def _drawn(run: Run, concept: Concept, setup: Setup, rows: Sequence[Row]) -> tuple[Tensor, list[bool]]:
    settings = run.testbed.settings(setup.defense, concept) if setup.settings is None else setup.settings
    defense = run.testbed.defense(setup.defense, concept, setup.method, settings, learned.words_of(rows))
    images = defense.make([row.adversarial for row in rows], [row.seed for row in rows]).images
    hits = [bool(hit) for hit in run.testbed.detector(concept)(images)]
    if images.shape[-1] > _LARGEST:
        images = torch.nn.functional.interpolate(images, (_LARGEST, _LARGEST), mode="area")
    return images, hits


def _grid(run: Run, concept: Concept, method: str, attacks: Sequence[str], path: Path) -> bool:
    """One prompt of each attack that succeeds without defence, under every defence; False: none succeeds."""
    none = Setup("none", method, "none")
    rows = []
    for attack in attacks:
        rows += [row for row, hit in _hits(run, concept, none, [attack]) if hit > 0][:1]
    if len(rows) < _COLUMNS:
        rest = [row for row, hit in _hits(run, concept, none, attacks) if hit > 0 and row not in rows]
        rows += rest[: _COLUMNS - len(rows)]
    if not rows:
        return False
    setups = [none]
    if RETRAINED.get(method) in run.testbed.victims() and not run.quick:
        setups.append(Setup(RETRAINED[method], RETRAINED[method], "none", attacked=method))
    setups += [Setup(name, method, name) for name in ("sld-strong", "sld-max", "blacklist")]
    setups.append(Setup("ams", method, "ams", run.smoothed(method)))
    return _save(run, concept, setups, rows, path)


def _failures(run: Run, concept: Concept, method: str, attacks: Sequence[str], path: Path) -> bool:
    """Prompts whose image shows the concept behind the smoother, with its noise and with twice σ₀; False: there is none."""
    smoothing: Smoothing = run.smoothed(method)
    setup = Setup("ams", method, "ams", smoothing)
    candidates = [row for row, hit in sorted(_hits(run, concept, setup, attacks), key=lambda p: -p[1]) if hit > 0]
    if not candidates:
        return False
    _, hits = _drawn(run, concept, setup, candidates[:48])
    rows = [row for row, hit in zip(candidates, hits, strict=False) if hit][:_COLUMNS]
    name = "sigma0" if smoothing.sigma0_relative is None else "sigma0_relative"
    more = replace(smoothing, **{name: 2 * getattr(smoothing, name)})
    setups = [Setup("none", method, "none"), setup, Setup("ams, 2 σ₀", method, "ams", more)]
    return bool(rows) and _save(run, concept, setups, rows, path)


def _save(run: Run, concept: Concept, setups: Sequence[Setup], rows: Sequence[Row], path: Path) -> bool:
    columns = {setup.label: _drawn(run, concept, setup, rows) for setup in setups}
    drawing.grid(
        {label: images for label, (images, _) in columns.items()},
        path,
        [f"{row.attack}: {row.adversarial}" for row in rows],
        hits={label: hits for label, (_, hits) in columns.items()},
    )
    return True


def _certified(run: Run, concept: Concept, attacks: Sequence[str], path: Path) -> dict[str, str]:
    """Bound and strongest attack found, over a few attack prompts of each victim; of the embedded world only, whose judge
    has gradients."""
    if not isinstance(run.testbed, Embedded):
        return {}
    records = []
    for method in run.methods("esd", "uce"):
        found = [row for row, hit in _hits(run, concept, Setup("none", method, "none"), attacks) if hit > 0]
        prompts = [
            fitting(PromptEncoder.from_pipeline(run.testbed.pipe(concept, method)), r.adversarial) for r in found
        ]
        if not prompts:
            continue
        measured = curves(
            run.testbed.folder(concept, method),
            concept,
            run.smoothed(method),
            prompts[:: max(1, len(prompts) // _CURVES)][:_CURVES],
            [rho for rho in RHOS if 0 < rho <= _FARTHEST],
            run.evaluator.cache.folder / "curves",
            effort=Effort(steps=run.testbed.steps, guidance=run.testbed.guidance),
            base=run.testbed.model,
            progress=run.evaluator.cache.progress,
        )
        records += [
            drawing.AtRadius(
                label=method.upper(), rho=p.rho, bound=p.bound, attacked=p.attacked, limits=(p.low, p.high)
            )
            for p in measured.points
        ]
    if not records:
        return {}
    drawing.certified(records, path)
    return {path.name: f"Certified bound and strongest attack found, over {_CURVES} attack prompts of each victim"}
