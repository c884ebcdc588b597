"""Gallery: which pictures belong to which table.

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
from experiments.attacks.attack import Row
from experiments.defenses.ams import Settings as Smoothing
from experiments.defenses.defense import fitting
from experiments.tables import pictures as drawing
from experiments.tables.bench import Way
from experiments.tables.certified import curves
from experiments.tables.ground import Embedded
from experiments.tables.layouts import RETRAINED, RHOS, Run
from experiments.tables.table import Table
from experiments.unlearning.concept import Concept

__all__ = ["pictures"]

_COLUMNS = 6
_CURVES = 3  # prompts behind the certified picture, of each victim
_FARTHEST = 0.5  # radius of the certified picture; beyond it bounds are near 1
_LARGEST = 128  # pixels of an image in a grid


def pictures(table: Table, run: Run, folder: Path) -> dict[str, str]:
    """Draws a table's pictures: file name → title."""
    number, drawn = table.number, {}
    if number in ("1", "6", "8", "9"):
        name = f"{number}-trade-off.png"
        drawing.trade_off(table, folder / name)
        drawn[name] = f"Table {number}: mean attack success rate against FID"
    if number == "3":
        name = "3-sweep.png"
        relative = run.ground.settings("ams", run.concept("first")).sigma0_relative is not None
        drawing.sweep(table, folder / name, unit="in spreads of the token embeddings" if relative else "")
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
    if number == "1" and not run.quick:
        first = run.concept("first")
        method = run.methods("esd", "uce")[0]
        attacks = run.attacks(first, method, [c.key for c in table.columns if c.key != "adaptive"])
        drawn |= _certified(run, first, attacks, folder / "1-certified.png")
    return drawn


def _hits(run: Run, concept: Concept, way: Way, attacks: Sequence[str]) -> list[tuple[Row, float]]:
    """Every prompt of the attacks, with the share of its images that show the concept."""
    return [
        pair
        for attack in attacks
        for pair in zip(
            run.bench.rows(concept, way, attack, "report"),
            run.bench.rate(concept, way, attack)["hits"],
            strict=True,
        )
    ]


def _drawn(run: Run, concept: Concept, way: Way, rows: Sequence[Row]) -> tuple[Tensor, list[bool]]:
    settings = run.ground.settings(way.defense, concept) if way.settings is None else way.settings
    defense = run.ground.defense(way.defense, concept, way.method, settings)
    images = defense.make([row.adversarial for row in rows], [row.seed for row in rows]).images
    hits = [bool(hit) for hit in run.ground.detector(concept)(images)]
    if images.shape[-1] > _LARGEST:
        images = torch.nn.functional.interpolate(images, (_LARGEST, _LARGEST), mode="area")
    return images, hits


def _grid(run: Run, concept: Concept, method: str, attacks: Sequence[str], path: Path) -> bool:
    """One prompt of each attack that succeeds without defence, under every defence; False: none succeeds."""
    none = Way("none", method, "none")
    rows = []
    for attack in attacks:
        rows += [row for row, hit in _hits(run, concept, none, [attack]) if hit > 0][:1]
    if len(rows) < _COLUMNS:
        rest = [row for row, hit in _hits(run, concept, none, attacks) if hit > 0 and row not in rows]
        rows += rest[: _COLUMNS - len(rows)]
    if not rows:
        return False
    ways = [none]
    if RETRAINED.get(method) in run.ground.victims() and not run.quick:
        ways.append(Way(RETRAINED[method], RETRAINED[method], "none", attacked=method))
    ways += [Way(name, method, name) for name in ("sld-strong", "sld-max", "blacklist")]
    ways.append(Way("ams", method, "ams", run.smoothed(method)))
    return _save(run, concept, ways, rows, path)


def _failures(run: Run, concept: Concept, method: str, attacks: Sequence[str], path: Path) -> bool:
    """Prompts whose image shows the concept behind the smoother, with its noise and with twice σ₀; False: there is none."""
    smoothing: Smoothing = run.smoothed(method)
    way = Way("ams", method, "ams", smoothing)
    candidates = [row for row, hit in sorted(_hits(run, concept, way, attacks), key=lambda p: -p[1]) if hit > 0]
    if not candidates:
        return False
    _, hits = _drawn(run, concept, way, candidates[:48])
    rows = [row for row, hit in zip(candidates, hits, strict=False) if hit][:_COLUMNS]
    name = "sigma0" if smoothing.sigma0_relative is None else "sigma0_relative"
    more = replace(smoothing, **{name: 2 * getattr(smoothing, name)})
    ways = [Way("none", method, "none"), way, Way("ams, 2 σ₀", method, "ams", more)]
    return bool(rows) and _save(run, concept, ways, rows, path)


def _save(run: Run, concept: Concept, ways: Sequence[Way], rows: Sequence[Row], path: Path) -> bool:
    made = {way.label: _drawn(run, concept, way, rows) for way in ways}
    drawing.grid(
        {label: images for label, (images, _) in made.items()},
        path,
        [f"{row.attack}: {row.adversarial}" for row in rows],
        hits={label: hits for label, (_, hits) in made.items()},
    )
    return True


def _certified(run: Run, concept: Concept, attacks: Sequence[str], path: Path) -> dict[str, str]:
    """Bound and strongest attack found, over a few attack prompts of each victim; of the embedded world only, whose judge
    has gradients."""
    if not isinstance(run.ground, Embedded):
        return {}
    records = []
    for method in run.methods("esd", "uce"):
        found = [row for row, hit in _hits(run, concept, Way("none", method, "none"), attacks) if hit > 0]
        prompts = [fitting(PromptEncoder.from_pipeline(run.ground.pipe(concept, method)), r.adversarial) for r in found]
        if not prompts:
            continue
        measured = curves(
            run.ground.folder(concept, method),
            concept,
            run.smoothed(method),
            prompts[:: max(1, len(prompts) // _CURVES)][:_CURVES],
            [rho for rho in RHOS if 0 < rho <= _FARTHEST],
            run.bench.cells.folder / "curves",
            progress=run.bench.cells.progress,
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
