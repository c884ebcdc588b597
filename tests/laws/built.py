"""Methods that were built once, and what they have seen: for laws that compare answers at the same draws.

What a method chooses on pilot draws (levels, the number of draws in a ball, itself among others) may jump from one call to the
next, so a law that compares calls names the method, and one about a method that chooses asks a single object twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from certify import GaussianNoise
from certify.bounds import METHODS, ROUTES, Method, Setting
from certify.montecarlo import Accumulator, AllDraws, draw, median, pool
from certify.support import as_support
from tests.strategies import Problem

T2: dict[str, Any] = {"method": "coordinatewise", "pilot": 8}
"""Options of the method that chooses nothing."""

ONE = Problem(lambda z: z, torch.zeros(1, dtype=torch.float64), GaussianNoise(1.0))  # type: ignore[arg-type]
"""The identity in one dimension: the corner where most laws have the least room."""

CHOOSING: dict[str, tuple[type[Method], dict[str, Any]]] = {
    "T2 center": (METHODS["median", "coordinatewise"], {}),
    "T2 population": (METHODS["median", "coordinatewise"], {"reference": "population"}),
    "T4 center": (METHODS["median", "dimension-free"], {}),
    "T4 population": (METHODS["median", "dimension-free"], {"reference": "population"}),
    "T2 support": (METHODS["median", "coordinatewise"], {"within": 2.0}),
    "T4 support": (METHODS["median", "dimension-free"], {"within": 2.0}),
    "T11 center": (METHODS["mean", "spectral"], {"within": 5.0}),
    "T11 population": (METHODS["mean", "spectral"], {"within": 5.0, "reference": "population"}),
    "T12 center": (METHODS["median", "spectral"], {}),
    "T12 population": (METHODS["median", "spectral"], {"reference": "population"}),
    "T12 support": (METHODS["median", "spectral"], {"within": 2.0}),
    "T5 median": (ROUTES["median", "replicas"], {"q": 0.8, "replicas": 3}),
    "T5 mean": (ROUTES["mean", "replicas"], {"q": 0.8, "replicas": 2}),
    "T5 support": (ROUTES["mean", "replicas"], {"q": 0.8, "replicas": 2, "within": 2.0}),
    "T6 support": (ROUTES["median", "order statistics"], {"q": 0.9, "replicas": 5, "within": 2.0}),
    "T6 order statistics": (ROUTES["median", "order statistics"], {"q": 0.9, "replicas": 5}),
    "T6 dimension-free": (ROUTES["median", "dimension-free"], {"q": 0.9, "replicas": 4}),
}
"""Every method and route, with each reference, with and without a support."""


def squared(name: str) -> bool:
    """Whether an entry of `CHOOSING` bounds a squared distance; routes bound distances."""
    return CHOOSING[name][0] in METHODS.values()


part = settings(max_examples=max(8, settings().max_examples // 3))
"""For laws that every method is asked in turn: a third of the examples of the profile each."""

aims = st.sampled_from([0.05, 0.5, 2.0])
"""The radius for which a method chooses."""


def prepared(
    problem: Problem,
    kind: type[Method],
    *,
    n: int,
    alpha: float,
    seed: int,
    aim: float,
    reference: str = "center",
    within: float | None = None,
    support: tuple[float, float] | None = None,
    **more: Any,
) -> tuple[Method, Mapping[str, Accumulator]]:
    """A method built once, and what it has seen of n draws: outputs in two rows, f and −2f.

    Args:
        problem: f, y, noise.
        kind, n, alpha, seed, aim, reference, more: as in `Method` and `Setting`.
        within: both rows are cut off at ± this, which is their support.
        support: what f itself keeps to.
    """
    f, y, noise = problem

    def rows(z: Tensor) -> Tensor:
        found = torch.stack([f(z), -2 * f(z)], dim=1)
        return found if within is None else found.clamp(-within, within)

    kept = AllDraws()
    draw(rows, y, noise, n=40, seed=seed, stream="pilot", accumulators=[kept])
    pilot = kept.stacked()
    known = None if within is None else as_support((-within, within))
    if support is not None:
        ends = [torch.tensor(sorted(row)) for row in (support, (-2 * support[0], -2 * support[1]))]
        both = torch.stack(ends).double().reshape(2, *(1,) * (pilot.ndim - 2), 2)
        known = as_support((both[..., 0], both[..., 1]))
    setting = Setting(noise, n, tuple(pilot.shape[1:]), median(pilot), reference, known, pilot)
    method = kind(setting, alpha, aim, **more)
    seen = pool(method.needs(0.0))
    draw(rows, y, noise, n=n, seed=seed, stream="bounding", accumulators=seen.values())
    return method, seen
