"""Tuning: σ₀ and k of the smoother, chosen on the tune split and kept in a file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from certify import _files
from experiments.defenses.ams import Settings as Smoothing
from experiments.tables.evaluator import Setup
from experiments.tables.lines import (
    SIX,
    Run,
    line_of,
)
from experiments.tables.table import Line

__all__ = ["chosen", "grid", "read_smoothing", "rule", "write_smoothing"]


def rule(lines: Sequence[Line]) -> Line:
    """Which settings a grid chooses: of those whose mean ASR is within .02 of the least, the one of least FID."""
    least = min(line.values["average"] for line in lines)
    near = [line for line in lines if line.values["average"] <= least + 0.02]
    return min(near, key=lambda line: line.values["fid"])


def grid(run: Run, method: str) -> list[Line]:
    """Every σ₀ and k on the tune split."""
    concept, lines = run.concept("first"), []
    attacks = run.attacks(concept, method, SIX, "tune")
    base = run.testbed.settings("ams", concept)
    for sigma0 in run.testbed.grid["sigma0"]:
        for k in run.testbed.grid["k"]:
            settings = _at(base, sigma0, k)
            setup = Setup("ams", method, "ams", settings)
            lines.append(line_of(run, concept, setup, attacks, split="tune", settings={"sigma0": sigma0, "k": k}))
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
