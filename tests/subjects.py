"""Subjects: functions whose smoothed values are known exactly, one table for all tests.

A subject is a function, an input, a noise and the truth about them. Its outputs are each a function of one Gaussian, so
both percentiles of f(y + δ + G) have a closed form (THEORY, Notation):

    low(p, δ) = Ē_p = inf{v : F(v) ≥ p}   ≤   high(p, δ) = E̲_p = sup{v : F(v) ≤ p},

and `supremum(ρ)`, where it is known, is sup over ‖δ‖_Σ ≤ ρ of ‖E_½(y + δ) − E_½(y)‖², attained at `worst(ρ)`.

All in float64, written with numpy and scipy, without anything from the package under test.

And `outputs_of`: the draws that a bound was made of, for tests that make it of them once more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri
from torch import Tensor

from certify import GaussianNoise
from certify.montecarlo import draw_all
from certify.noise import Noise

Percentiles = Callable[[float, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Subject:
    """A function with known truth; `sigma` has the input's shape."""

    name: str
    f: Callable[[Tensor], Tensor] = field(repr=False)
    y: Tensor = field(repr=False)
    sigma: Tensor = field(repr=False)
    low: Percentiles = field(repr=False)
    high: Percentiles = field(repr=False)
    supremum: Callable[[float], float] | None = field(default=None, repr=False)
    worst: Callable[[float], np.ndarray] | None = field(default=None, repr=False)

    def truth(self, p: float, delta: np.ndarray | float = 0.0) -> tuple[Tensor, Tensor]:
        """(Ē_p, E̲_p) at y + δ."""
        shift = np.broadcast_to(np.asarray(delta, dtype=float), tuple(self.y.shape))
        return torch.as_tensor(self.low(p, shift)), torch.as_tensor(self.high(p, shift))

    def directions(self, count: int, seed: int = 0) -> list[np.ndarray]:
        """`count` perturbations of ‖δ‖_Σ = 1, the axes of ± the worst first, if it is known."""
        rng = np.random.default_rng(seed)
        sigma = self.sigma.numpy()
        found = [] if self.worst is None else [self.worst(1.0), -self.worst(1.0)]
        if not sigma.any():
            return found
        while len(found) < count:
            u = rng.standard_normal(sigma.shape) * (sigma > 0)
            found.append(sigma * u / np.linalg.norm(u))
        return found


def outputs_of(
    f: Callable, y: Tensor, noise: Noise | float, *, n: int, seed: int = 0, stream: str = "bounding"
) -> Tensor:
    """The n outputs that a call with this seed is made of, each once and in order, drawn anew.

    What a function that takes notes of its calls has seen is more than that: pilot draws, and a block that is evaluated
    again. A block's noise depends on seed, stream and number alone (`tests/montecarlo/test_streams.py`), and that f is given
    these inputs and no other `tests/test_statements.py` tests.
    """
    noise = GaussianNoise(noise) if isinstance(noise, float) else noise
    return draw_all(f, y, noise, n=n, seed=seed, stream=stream, again="never")


def linear(name: str, A: np.ndarray, sigma: np.ndarray, y: np.ndarray, b: np.ndarray | float = 0.0) -> Subject:
    """f(z) = A z + b: every output is Gaussian, and the supremum is λ_max(A Σ Aᵀ) ρ²."""
    matrix = torch.as_tensor(A.T.copy())
    offset = torch.as_tensor(np.asarray(b, dtype=float))
    scale = np.sqrt((A**2 * sigma**2).sum(axis=1))
    _, singular, right = np.linalg.svd(A * sigma)

    def percentile(p: float, delta: np.ndarray) -> np.ndarray:
        return A @ (y + delta) + np.asarray(b) + scale * ndtri(p)

    return Subject(
        name,
        lambda z: z @ matrix + offset,
        torch.as_tensor(y),
        torch.as_tensor(sigma),
        percentile,
        percentile,
        supremum=lambda rho: float((singular[0] * rho) ** 2),
        worst=lambda rho: rho * sigma * right[0],
    )


def monotone(name: str, g: Callable, g_torch: Callable, sigma: float, y: float) -> Subject:
    """f(z) = g(z), g increasing and continuous, in one dimension: the percentile is g of the Gaussian's."""

    def percentile(p: float, delta: np.ndarray) -> np.ndarray:
        return np.asarray(g(y + delta + sigma * ndtri(p)))

    return Subject(
        name,
        g_torch,
        torch.tensor([y], dtype=torch.float64),
        torch.tensor([sigma], dtype=torch.float64),
        percentile,
        percentile,
        supremum=lambda rho: float(max((g(y + s * rho * sigma) - g(y)) ** 2 for s in (-1, 1))),
        worst=lambda rho: np.array([max((-1, 1), key=lambda s: abs(g(y + s * rho * sigma) - g(y))) * rho * sigma]),
    )


def step(name: str, w: np.ndarray, sigma: np.ndarray, y: np.ndarray, values: tuple[float, float]) -> Subject:
    """f(z) = values[wᵀz > 0]: two atoms; where F meets p exactly the two percentiles differ."""
    scale, direction = np.sqrt((w**2 * sigma**2).sum()), torch.as_tensor(w)
    below, above = values

    def mass(delta: np.ndarray) -> float:
        return float(ndtr(-(w @ (y + delta)) / scale))  # F on [below, above)

    return Subject(
        name,
        lambda z: torch.where(z @ direction > 0, above, below).to(torch.float64)[:, None],
        torch.as_tensor(y),
        torch.as_tensor(sigma),
        lambda p, delta: np.array([below if mass(delta) >= p else above]),
        lambda p, delta: np.array([above if mass(delta) <= p else below]),
        worst=lambda rho: rho * sigma**2 * w / scale,
    )


def rounding(sigma: float, y: float) -> Subject:
    """f(z) = ⌊z⌋, atoms at all whole numbers: Ē_p = ⌈y + σ z_p⌉ − 1, E̲_p = ⌊y + σ z_p⌋."""
    return Subject(
        "floor",
        torch.floor,
        torch.tensor([y], dtype=torch.float64),
        torch.tensor([sigma], dtype=torch.float64),
        lambda p, delta: np.ceil(y + delta + sigma * ndtri(p)) - 1,
        lambda p, delta: np.floor(y + delta + sigma * ndtri(p)),
        worst=lambda rho: np.array([rho * sigma]),
    )


def folded(w: np.ndarray, sigma: np.ndarray, y: np.ndarray) -> Subject:
    """f(z) = |wᵀz|: a folded normal; its percentile solves Φ((v − μ)/s) − Φ((−v − μ)/s) = p."""
    scale, direction = np.sqrt((w**2 * sigma**2).sum()), torch.as_tensor(w)

    def percentile(p: float, delta: np.ndarray) -> np.ndarray:
        mu = float(w @ (y + delta))
        root = brentq(
            lambda v: ndtr((v - mu) / scale) - ndtr((-v - mu) / scale) - p, 0.0, abs(mu) + 12 * scale, xtol=1e-14
        )
        return np.array([root])

    return Subject(
        "absolute value",
        lambda z: (z @ direction).abs()[:, None],
        torch.as_tensor(y),
        torch.as_tensor(sigma),
        percentile,
        percentile,
        worst=lambda rho: rho * sigma**2 * w / scale * (1 if w @ y >= 0 else -1),
    )


def constant(sigma: np.ndarray) -> Subject:
    """f(z) = (3, −1): no spread and no movement at all."""
    value = np.array([3.0, -1.0])
    return Subject(
        "constant" if sigma.any() else "constant without noise",
        lambda z: torch.as_tensor(value).expand(z.shape[0], 2),
        torch.zeros(len(sigma), dtype=torch.float64),
        torch.as_tensor(sigma),
        lambda p, delta: value,
        lambda p, delta: value,
        supremum=lambda rho: 0.0,
    )


def _table() -> list[Subject]:
    rng = np.random.default_rng(20250)
    anisotropic = np.array([0.1, 2.0, 0.5, 1.0])
    partly = np.array([0.0, 0.7, 0.0, 1.5])
    return [
        linear("identity", np.eye(1), np.array([0.5]), np.array([0.3])),
        linear("isotropic linear", rng.standard_normal((3, 4)), np.full(4, 0.25), rng.standard_normal(4)),
        linear("anisotropic linear", rng.standard_normal((3, 4)), anisotropic, rng.standard_normal(4), b=5.0),
        linear("some inputs without noise", rng.standard_normal((2, 4)), partly, rng.standard_normal(4)),
        linear("no noise anywhere", rng.standard_normal((2, 3)), np.zeros(3), rng.standard_normal(3)),
        linear("high dimension", rng.standard_normal((48, 200)) / 14, np.full(200, 0.3), rng.standard_normal(200)),
        linear("nearly singular", rng.standard_normal((3, 5)), np.array([1e-9, 1.0, 1e-6, 1e-3, 3.0]), np.zeros(5)),
        linear("small scale", 1e-7 * rng.standard_normal((2, 3)), np.ones(3), np.zeros(3)),
        step("step", np.array([1.0, -2.0]), np.array([0.5, 0.25]), np.array([0.4, 0.1]), (0.0, 1.0)),
        step("sign at its jump", np.array([1.0]), np.array([1.0]), np.array([0.0]), (-1.0, 1.0)),
        rounding(2.0, 0.25),
        constant(np.ones(3)),
        constant(np.zeros(3)),
        monotone("heavy tails", lambda x: np.sinh(4 * x), lambda z: torch.sinh(4 * z), 1.0, 0.2),
        monotone("exponential", np.exp, torch.exp, 0.5, 0.0),
        folded(np.array([0.6, 0.8]), np.array([0.3, 0.4]), np.array([-0.05, 0.02])),
    ]


SUBJECTS = {subject.name: subject for subject in _table()}
LINEAR = [s for s in SUBJECTS.values() if s.name.endswith(("linear", "identity", "dimension", "singular", "scale"))]
LINEAR.append(SUBJECTS["some inputs without noise"])
