"""What a run over a data set comes to: the certified fraction or accuracy against the radius, averages and counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from certify import _validate
from certify.datasets.classified import ClassifiedRun
from certify.datasets.rows import RowOptions, word
from certify.statements.classify import certified_accuracy, right_radii

__all__ = ["FRACTION_RHOS", "certified_fraction", "class_summary", "length_unit", "summary"]

FRACTION_RHOS = (0.1, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 3.0)
"""Radii at which the certified fraction is reported."""


def certified_fraction(radii: Sequence[float], rho: float) -> float:
    """The share of prompts whose certified radius is at least ρ.

    Args:
        radii: a certified radius a prompt; 0 for those without one, which count.
        rho: > 0.

    Raises:
        ValueError: rho is out of range, there is no radius, or one is negative or NaN.
    """
    rho, values = _validate.positive("rho", rho), list(radii)
    if not values or not all(value >= 0 for value in values):
        raise ValueError(f"radii = {values!r}: must be one or more numbers >= 0, one a prompt")
    return sum(value >= rho for value in values) / len(values)


def summary(records: Sequence[Mapping[str, Any]], options: RowOptions) -> dict[str, Any]:
    """What the records of a run come to, as JSON values.

    "certified_fraction" pairs radii with fractions; "average_certified_radius" is the mean over all prompts, 0 for those
    without a radius (Zhai et al. 2020); "expected_wrong" bounds the expected number of prompts whose certificate is wrong.

    Raises:
        ValueError: there is no record.
    """
    radii = [float(record["radius"]) for record in records]
    rhos = sorted({*FRACTION_RHOS, float(options.rho)})
    fractions = [[rho, certified_fraction(radii, rho)] for rho in rhos]
    counts = {name: sum(r["status"] == name for r in records) for name in ("certified", "abstained", "refused")}
    return {
        "prompts": len(records),
        "unnamed": sum(record.get("named") is False for record in records),
        **counts,
        "truncated": sum("truncated" in r for r in records),
        "tolerance": "each prompt's squared concept-removal distance"
        if options.tolerance is None
        else options.tolerance,
        "alpha_per_prompt": options.alpha,
        "expected_wrong": options.alpha * (len(records) - counts["refused"]),
        "n": options.n,
        "seed": options.seed,
        "certified_fraction": fractions,
        "median_radius": word(sorted(radii)[(len(radii) - 1) // 2]),
        "average_certified_radius": word(sum(radii) / len(radii)),
        "seconds": round(sum(float(record["seconds"]) for record in records), 3),
    }


def class_summary(run: ClassifiedRun) -> dict[str, Any]:
    """What a run over the inputs of a classifier comes to, as JSON values.

    "certified_accuracy" has a row a radius: ρ in units of the noise, the same as a length (ℓ2 for Gaussian noise, ℓ1 for
    uniform; None where the scale differs between coordinates), and the share of inputs that are certified there with the
    right class.
    "average_certified_radius" is the mean ρ over all inputs, 0 for those that are not rightly certified (Zhai et al. 2020);
    "expected_wrong" bounds the expected number of inputs whose claim is wrong.

    Raises:
        ValueError: the run has no row.
    """
    rows, noise = run.decisions, run.settings["noise"]
    rhos = [0.0, *FRACTION_RHOS]
    right = [radius or 0.0 for radius in right_radii(rows, run.labels, "rho")]
    unit = length_unit(noise)
    return {
        "inputs": len(rows),
        "certified": sum(row.label is not None for row in rows),
        "right": sum(row.label == row.true for row in rows),
        "abstained": sum(row.label is None for row in rows),
        "alpha_per_input": run.settings["alpha"],
        "expected_wrong": run.settings["alpha"] * len(rows),
        "n": run.settings["n"],
        "seed": run.settings["seed"],
        "noise": dict(noise),
        "norm": {"GaussianNoise": "l2", "UniformNoise": "l1"}.get(noise["kind"]),
        "certified_accuracy": [
            [rho, None if unit is None else unit * rho, share]
            for rho, share in zip(rhos, certified_accuracy(rows, run.labels, rhos), strict=True)
        ],
        "average_certified_radius": word(sum(right) / len(right)),
    }


def length_unit(noise: Mapping[str, Any]) -> float | None:
    """How long a perturbation of size ρ = 1 is, in the noise's own norm: σ in ℓ2, or the width 2h in ℓ1; None: that depends."""
    value = noise.get("value")
    factor = {"GaussianNoise": 1.0, "UniformNoise": 2.0}.get(str(noise.get("kind")))
    return None if value is None or factor is None else factor * float(value)
