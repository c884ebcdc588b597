"""Coverage of every bound on every subject: functions with atoms, jumps, heavy tails, no noise, randomness of their own.

The frame is that of `trials`. Each quantity is a function that makes one run on one subject and says whether its statement is
false at a perturbation inside the ellipsoid; what is true there is known exactly (`tests.subjects`). Perturbations are the
worst one, where it is known, both ways and part of the way, and for linear maps the furthest for each output.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from scipy.special import betainc, betaincinv, ndtri
from torch import Tensor

from certify import (
    GaussianNoise,
    bound_curve,
    certified_radius,
    deployed_bound,
    event_bound,
    mse_bound,
    percentile_bounds,
    statistic_bound,
)
from certify.bounds import spectral_median
from tests.statistical.trials import Trials, not_exactly
from tests.subjects import LINEAR, SUBJECTS, Subject, monotone

pytestmark = pytest.mark.statistical

ALPHA, RHO, QUICK = 0.1, 0.7, 12
INSIDE = 1 - 1e-12  # the open ellipsoid, where both kinds of percentile are covered


def unsteady() -> Subject:
    """f(z) = z + ¾ X with X ~ N(0, 1) drawn anew inside: Gaussian with standard deviation 1.25 where the noise has 1."""

    def f(z: Tensor, generator: torch.Generator) -> Tensor:
        return z + 0.75 * torch.randn(z.shape, generator=generator, dtype=z.dtype)

    def percentiles(p: float, delta: np.ndarray) -> np.ndarray:
        return 0.2 + delta + 1.25 * ndtri(p)

    start, sigma = torch.tensor([0.2], dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    return Subject("its own randomness", f, start, sigma, percentiles, percentiles, worst=lambda rho: np.array([rho]))


ALL = {
    **SUBJECTS,
    "clamped": monotone("clamped", lambda x: np.clip(x, -0.5, 0.5), lambda z: z.clamp(-0.5, 0.5), 1.0, 0.1),
    "its own randomness": unsteady(),
}
ONE_OUTPUT = {name: s for name, s in ALL.items() if s.truth(0.5)[0].numel() == 1}
IS_LINEAR = {s.name for s in LINEAR}


@cache
def perturbations(name: str, rho: float) -> list[np.ndarray]:
    """Perturbations inside the ellipsoid, 0 first."""
    subject = ALL[name]
    found = [np.zeros(tuple(subject.y.shape))]
    if subject.worst is not None:
        found += [share * subject.worst(INSIDE * rho) for share in np.linspace(-1, 1, 9)]
    if name in IS_LINEAR and bool(subject.sigma.any()):
        y, sigma = torch.zeros_like(subject.y), subject.sigma.numpy()
        rows = (subject.f(torch.diag(torch.ones_like(y))) - subject.f(y[None])).T.numpy()
        for row in rows[:4]:
            push = sigma**2 * row / np.linalg.norm(sigma * row)
            found += [INSIDE * rho * push, -INSIDE * rho * push]
    return found


@cache
def extremes(name: str, p: float, rho: float) -> tuple[Tensor, Tensor]:
    """The least and the largest p-th percentile of every output, over both kinds."""
    found = [ALL[name].truth(p, delta) for delta in perturbations(name, rho)]
    return torch.stack([low for low, _ in found]).amin(dim=0), torch.stack([high for _, high in found]).amax(dim=0)


def moved(name: str, center: Tensor, rho: float) -> float:
    """The largest known ‖median − c‖² within ρ."""
    found = [median for delta in perturbations(name, rho) for median in ALL[name].truth(0.5, delta)]
    return max(float((median - center).square().sum()) for median in found)


def below(name: str, v: float, delta: np.ndarray, strictly: bool = False) -> float:
    """P[f ≤ v] (or P[f < v]) at y + δ, from the percentiles by bisection: Ē_p ≤ v iff F(v) ≥ p, E̲_p < v iff F(v−) > p."""
    subject, least, most = ALL[name], 0.0, 1.0
    for _ in range(50):
        p = (least + most) / 2
        if p in (0.0, 1.0):
            break
        low, high = subject.truth(p, delta)
        inside = bool(high.item() < v) if strictly else bool(low.item() <= v)
        least, most = (p, most) if inside else (least, p)
    return (least + most) / 2


def median_beyond(name: str, v: float, delta: np.ndarray, copies: int) -> float:
    """P[the median of K copies of f > v], K odd."""
    half = (copies + 1) / 2
    return 1 - float(betainc(half, half, below(name, v, delta)))


def leaves(name: str, center: float, reach: float, rho: float, copies: int, q: float) -> bool:
    """Whether P[|median of K − c| > R] is above 1 − q somewhere within ρ."""
    half = (copies + 1) / 2

    def probability(delta: np.ndarray) -> float:
        under = float(betainc(half, half, below(name, center - reach, delta, strictly=True)))
        return median_beyond(name, center + reach, delta, copies) + under

    return any(probability(delta) > 1 - q for delta in reversed(perturbations(name, rho)))  # the furthest first


@cache
def least_reach(name: str, rho: float, copies: int, q: float) -> float:
    """The smallest R for which, around the median at y, P[|median of K − c| > R] ≤ 1 − q everywhere within ρ."""
    center, low = at_start(name).item(), 1e-12
    if not leaves(name, center, low, rho, copies, q):
        return 0.0
    while leaves(name, center, 16 * low, rho, copies, q):
        low *= 16
    high = 16 * low
    while high - low > 1e-11 * high:  # `short` allows a hundred times that
        middle = (low + high) / 2
        low, high = (middle, high) if leaves(name, center, middle, rho, copies, q) else (low, middle)
    return high


def at_start(name: str) -> Tensor:
    return ALL[name].truth(0.5)[0]


def short(truth: float, value: float) -> bool:
    """Whether a bound is below the truth, up to rounding in the truth."""
    return value < truth * (1 - 1e-9) - 1e-12


# One run of each quantity: whether it failed.


def box(name: str, seed: int) -> bool:
    s, p = ALL[name], 0.4
    least, most = extremes(name, p, RHO)
    b = percentile_bounds(s.f, s.y, GaussianNoise(s.sigma), rho=RHO, p=p, n=150, alpha=ALPHA, seed=seed, pilot=1)
    slack = 1e-9 * (1 + most.abs() + least.abs())
    return bool((b.lower > least + slack).any() or (b.upper < most - slack).any())


def by(method: str, **options) -> Callable[[str, int], bool]:
    def distance(name: str, seed: int) -> bool:
        s = ALL[name]
        c = mse_bound(
            s.f, s.y, GaussianNoise(s.sigma), rho=RHO, n=150, alpha=ALPHA, seed=seed, method=method, **options
        )
        return short(moved(name, c.center, RHO), c.value)

    return distance


def curve(name: str, seed: int) -> bool:
    s, rhos = ALL[name], [0.1, 0.3, 0.5, 0.7, 0.9]
    center = at_start(name)
    k = bound_curve(
        s.f, s.y, GaussianNoise(s.sigma), rhos=rhos, n=150, alpha=ALPHA, seed=seed, center=center,
        method="coordinatewise",
    )  # fmt: skip
    return any(short(moved(name, center, rho), value) for rho, value in zip(k.rhos, k.values, strict=True))


def radius(name: str, seed: int) -> bool:
    s, center = ALL[name], at_start(name)
    tolerance = 0.999 * moved(name, center, RHO) or 1.0
    r = certified_radius(
        s.f, s.y, GaussianNoise(s.sigma), tolerance=tolerance, n=150, alpha=ALPHA, seed=seed, center=center,
        method="coordinatewise",
    )  # fmt: skip
    return 0 < r.rho < math.inf and moved(name, center, float(f"{r.rho:.9g}")) > tolerance * (1 + 1e-6)


COPIES, Q, SHORT = 3, 0.8, 0.3


def median_of(name: str) -> Callable[..., Tensor]:
    s, random = ALL[name], name == "its own randomness"

    def statistic(z: Tensor, generator: torch.Generator) -> Tensor:
        flat = z.reshape(-1, *s.y.shape)
        found = s.f(flat, generator=generator) if random else s.f(flat)
        return found.reshape(len(z), COPIES).median(dim=1).values

    return statistic


@cache
def extremes_low(name: str, p: float, rho: float) -> float:
    """The largest Ē_p within ρ."""
    return max(ALL[name].truth(p, delta)[0].item() for delta in perturbations(name, rho))


@cache
def likeliest(name: str, level: float, rho: float) -> float:
    """The largest P[median of K > level] within ρ."""
    return max(median_beyond(name, level, delta, COPIES) for delta in perturbations(name, rho))


def statistic(name: str, seed: int) -> bool:
    s = ALL[name]
    b = statistic_bound(
        median_of(name), s.y, GaussianNoise(s.sigma), rho=SHORT, q=Q, replicas=COPIES, n=120, alpha=ALPHA, seed=seed
    )
    u = float(betaincinv((COPIES + 1) / 2, (COPIES + 1) / 2, Q))  # P[median of K ≤ v] ≥ q iff F(v) ≥ u
    return b.value < extremes_low(name, u, SHORT) - 1e-9 * (1 + abs(b.value))


def event(name: str, seed: int) -> bool:
    s, level = ALL[name], float(ALL[name].truth(0.6)[1])
    found = median_of(name)
    b = event_bound(
        lambda z, generator: found(z, generator) > level,
        s.y, GaussianNoise(s.sigma), rho=SHORT, replicas=COPIES, n=120, alpha=ALPHA, seed=seed,
    )  # fmt: skip
    return b.value < likeliest(name, level, SHORT) - 1e-9


def through(route: str) -> Callable[[str, int], bool]:
    def deployed(name: str, seed: int) -> bool:
        s = ALL[name]
        b = deployed_bound(
            s.f, s.y, GaussianNoise(s.sigma), rho=SHORT, q=Q, replicas=COPIES, n=360, alpha=ALPHA, seed=seed,
            method=route, center=at_start(name), pilot=64,
        )  # fmt: skip
        return short(least_reach(name, SHORT, COPIES, Q), b.value)

    return deployed


@cache
def clamps(name: str) -> tuple[Tensor, Tensor]:
    """A box that leaves out one draw in a thousand on either side, and has some room."""
    s = ALL[name]
    low, high = s.truth(1e-3)[0], s.truth(1 - 1e-3)[1]
    return low - 1e-3 * (1 + low.abs()), high + 1e-3 * (1 + high.abs())


@cache
def mean_moved(name: str) -> float:
    """The largest known ‖mean − mean at y‖² within ρ of the clamped function: E = ∫ of its percentiles over p."""
    low, high = clamps(name)
    levels = (np.arange(1000) + 0.5) / 1000

    def mean(delta: np.ndarray) -> Tensor:
        values = [ALL[name].truth(p, delta)[0] for p in levels]
        return torch.stack([v.clamp(low, high) for v in values]).mean(dim=0)

    start, *others = (mean(delta) for delta in perturbations(name, RHO)[:: 1 if name in ONE_OUTPUT else 3])
    return max((float((other - start).square().sum()) for other in others), default=0.0)


def mean_distance(name: str, seed: int) -> bool:
    s, (low, high) = ALL[name], clamps(name)

    def f(z: Tensor, generator: torch.Generator) -> Tensor:
        found = s.f(z, generator=generator) if name == "its own randomness" else s.f(z)
        return found.clamp(low, high)

    c = mse_bound(
        f, s.y, GaussianNoise(s.sigma), rho=RHO, n=150, alpha=ALPHA, seed=seed, smoother="mean", support=(low, high),
        pilot=32,
    )  # fmt: skip
    return c.value < mean_moved(name) * (1 - 1e-3) - 1e-9


QUANTITIES: dict[str, tuple[str, Callable[[str, int], bool], dict[str, Subject]]] = {
    "T1 box": ("T1 box", box, ALL),
    "T2 distance": ("T2 distance", by("coordinatewise", pilot=32), ALL),
    "T2 curve": ("T2 curve", curve, ALL),
    "T3 radius": ("T3 radius", radius, ALL),
    "T4 distance": ("T4 distance", by("dimension-free", pilot=32), ALL),
    "T5 statistic": ("T5 statistic", statistic, ONE_OUTPUT),
    "T5 event": ("T5 event", event, ONE_OUTPUT),
    "T5 deployed": ("T5 deployed", through("replicas"), ONE_OUTPUT),
    "T6 order statistics": ("T6 order statistics", through("order statistics"), ONE_OUTPUT),
    "T6 ball": ("T6 ball", through("dimension-free"), ONE_OUTPUT),
    "T11 distance": ("T11 distance", mean_distance, ALL),
    "T12 distance": ("T12 distance", by("spectral", pilot=32), ALL),
    "best": ("best", by("best", pilot=32), ALL),
}


@pytest.fixture
def few_levels(monkeypatch):
    """Three levels for T12 to choose from instead of eighteen: the choice is most of the time of a small run."""
    monkeypatch.setattr(spectral_median, "_LEVELS", (0.2, 0.45, 0.8))


@pytest.mark.usefixtures("few_levels")
@pytest.mark.parametrize(
    ("quantity", "name"), [(quantity, name) for quantity, (_, _, subjects) in QUANTITIES.items() for name in subjects]
)
def test_coverage(quantity, name, trials: Trials):
    """α = .1."""
    claim, failed, _ = QUANTITIES[quantity]
    runs = trials.runs(QUICK)
    trials.covers(claim, sum(failed(name, seed) for seed in range(runs)), runs, ALPHA, name)


@pytest.mark.parametrize("name", ONE_OUTPUT)
def test_the_law_of_a_deployed_median(name):
    """What the trials call true, against 20 000 medians of three at the furthest perturbation.

    H0: the formula is right. Rejected at 1e-4, two-sided.
    """
    s, count = ALL[name], 20_000
    source = torch.Generator().manual_seed(5)
    delta = perturbations(name, SHORT)[-1]
    drawn = GaussianNoise(s.sigma).draw(s.y + torch.as_tensor(delta), count * COPIES, source)
    medians = median_of(name)(drawn.reshape(count, COPIES, *s.y.shape), source)
    for level in {float(s.truth(p)[0]) for p in (0.2, 0.5, 0.7)}:
        seen = int((medians > level).sum())
        assert not not_exactly(seen, count, median_beyond(name, level, delta, COPIES)), (name, level)
