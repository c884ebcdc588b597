"""T11: the spectral certificate. How far a smoothed mean can move is a matter of its largest variance, not of their sum.

Let h(y) = E f(y + G), P the law at y, Q the law at y + δ, L = dQ/dP, and ‖f − c‖ ≤ D almost surely.

Statement 1 (population). ‖h(y+δ) − h(y)‖² ≤ λ_max(Cov_P f) · χ²(ρ) for every ‖δ‖_Σ ≤ ρ; Gaussian noise has χ² = e^{ρ²} − 1.
*Proof.* For a unit u, uᵀ(E_Q f − E_P f) = E_P[(L − 1) uᵀ(f − E_P f)]; Cauchy–Schwarz; the supremum over u. ∎

Statement 2 (about a center). ‖h(y+δ) − c‖² ≤ λ_max(E_P (f−c)(f−c)ᵀ) · (1 + χ²(ρ)).
*Proof.* uᵀ(E_Q f − c) = E_P[L · uᵀ(f − c)] and E_P L² = 1 + χ². ∎

The factor e^{ρ²} of both comes from rare, huge values of L, where a bounded f cannot follow. So they are sharpened:

Statement 3. Let x be f − b pulled back to a ball, x = (f − b) min(1, R/‖f − b‖), with any fixed b, λ ≥ λ_max(E_P x xᵀ),
p̄ ≥ P[‖f − b‖ > R], D ≥ sup‖f − b‖, and m ≥ ‖E_P x + b − c‖. Then for every ‖δ‖_Σ ≤ ρ

    ‖h(y+δ) − h(y)‖ ≤ S_1 + (D − R) τ(p̄),           ‖h(y+δ) − c‖ ≤ min_{0≤θ≤1} {S_θ + θ m + (1−θ)‖b − c‖} + (D − R) T(p̄),

    S_θ = inf_{μ>0} { μ λ + E_P ψ_μ(L − θ) },      ψ_μ(t) = t²/4μ where |t| ≤ 2μR, R|t| − μR² beyond,

with T(p) the largest Q-probability of an event of P-probability p (T1), τ(p) ≥ E_P[|L − 1|; A] for every P(A) ≤ p.

*Proof.* Take a unit u, v = uᵀx, so |v| ≤ R and E_P v² ≤ λ. For all μ > 0 and θ, E_P[(L−θ) v] ≤ μ λ + E_P[(L−θ) v − μ v²], and
(L−θ) v − μ v² ≤ ψ_μ(L−θ) for |v| ≤ R: so E_P[(L−θ) v] ≤ S_θ. Further f = b + x + e with ‖e‖ ≤ (D − R) 1[‖f − b‖ > R]. For the
first, uᵀ(E_Q f − E_P f) = E_P[(L−1) v] + E_P[(L−1) uᵀe]. For the second,
E_Q f − c = E_P[(L−θ) x] + θ (E_P x + b − c) + (1−θ)(b − c) + E_Q e. ∎

Without the bound |v| ≤ R, S_θ is sqrt(λ (χ² + (1−θ)²)): θ = 1 is Statement 1, θ = 0 with b = c is Statement 2. In between lies
what is known of the mean: with c the mean of N pilot draws, m is about sqrt(tr Cov/N), and at small ρ the second moment about c
alone (θ = 0) would leave sqrt(λ) whatever ρ is. With R = 8 sqrt(λ) the sharpened S_1² is 5 % below λ χ² at ρ = 1, 73 % below
at ρ = 2. L enters through E ψ(L) with ψ convex only, and over such functions the law of L is dominated by its Neyman–Pearson
curve T (Blackwell); T is read off `Noise.tails` on a grid, from above, and must be concave (Gaussian noise's is).

*A cap.* With ‖f − β‖ ≤ B also ‖h(y+δ) − h(y)‖ ≤ B E_P|L − 1|, which for Gaussian noise is 2B (2Φ(ρ/2) − 1) (Pautov et al.), and
‖h(y+δ) − c‖ ≤ ‖h(y) − c‖ + that, and ≤ sup‖f − c‖. β is the center of the smallest ball that is known to hold f.

*From draws* (R, b chosen on pilot draws; α shared by the limits that are needed). p̄: Clopper–Pearson. λ: for the true top
eigenvector w, fixed though unknown, the (wᵀx)² are independent, lie in [0, R²] and average at most λ̂ = λ_max(n⁻¹ Σ xxᵀ), so
Chernoff's bound gives λ = R² max{v : n KL(λ̂/R² ‖ v) ≤ ln 1/α'}, whatever the dimension. m: for w along E_P x + b − c likewise,
by Bernstein's inequality with E (wᵀx)² ≤ λ and |wᵀx| ≤ R: m = ‖x̄ + b − c‖ + sqrt(2λ t/n) + R t/3n with t = ln 1/α'.

Assumes: an a-priori D; without one the mean has no finite bound from draws, and the method abstains. So it does for noise whose
shifts have no L (uniform noise, T13).

Reference: THEORY T11 (with x clipped to the ball instead of cut to 0, which leaves D − R of D; the clipped S, θ and b are new
here). f-divergence certificates: Dvijotham et al. (2020). Sketch: `certify.montecarlo.sketch`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Self, cast

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from scipy.special import ndtr
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from certify._floats import TOO_LARGE, in_units, length, mean, square, unit_of, up
from certify._text import shown
from certify.bounds.base import Evaluation, Evidence, Method, Setting
from certify.bounds.percentile import beyond
from certify.confidence import clopper_pearson
from certify.montecarlo import Accumulator
from certify.montecarlo.sketch import Spectrum
from certify.noise import Noise

__all__ = [
    "Aimed",
    "LikelihoodRatio",
    "PilotSpectrum",
    "SpectralMSE",
    "SpectrumEvidence",
    "SpectrumWitness",
    "bennett",
    "bernstein_slack",
    "chernoff_limit",
    "divergence",
    "in_balls",
    "silent",
    "swing",
]

_SAFE = 1e-9
"""What the sums below are rounded up by, relatively; their own error is a few hundred ulp."""


def chernoff_limit(mean: float, n: int, alpha: float) -> float:
    """The largest v with n KL(mean ‖ v) ≤ ln 1/α, rounded up: an upper limit of the mean of variables in [0, 1].

    Independent (or, given the past, of mean at most v) variables average `mean` or less with probability at most
    exp(−n KL(mean ‖ v)) if their mean is v > `mean` (Chernoff; Hoeffding 1963).

    Args:
        mean: the observed mean, in [0, 1].
        n: variables.
        alpha: failure probability.
    """
    mean = min(max(mean, 0.0), 1.0)
    allowed, low, high = -math.log(alpha) / n, mean, 1.0
    for _ in range(200):
        middle = (low + high) / 2
        if not low < middle < high:
            break
        low, high = (middle, high) if divergence(mean, middle) <= allowed else (low, middle)
    return min(1.0, high * (1 + 1e-12))


def divergence(p: float, q: float) -> float:
    """KL(p ‖ q) of two coins with values 0 and 1, written so that nothing cancels where p is close to q."""
    if q >= 1 or q <= 0:
        return 0.0 if p == q else math.inf
    return max(_pull(p, q, q - p) + _pull(1 - p, 1 - q, p - q), 0.0)


def _pull(p: float, q: float, step: float) -> float:
    """p ln p/q with `step` = q − p: from the step where the two are close; where they are not, 1 + step/p may round to 0."""
    if p <= 0:
        return 0.0
    return -p * math.log1p(step / p) if step > -p / 2 else p * math.log(p / q)


def bernstein_slack(second: float, radius: float, n: int, alpha: float) -> float:
    """How far the mean of n variables may be above their average, but for probability α: sqrt(2λt/n) + Rt/3n, t = ln 1/α.

    Args:
        second: λ, upper limit of their mean square.
        radius: R, limit of their absolute values.
        n, alpha: variables; failure probability.
    """
    t = -math.log(alpha) / n
    return up(radius * (math.sqrt(2 * in_balls(second, radius) * t) + t / 3), _SAFE)


def in_balls(second: float, radius: float) -> float:
    """λ/R², at most 1: a mean square in units of the largest, also where R² itself has no float64."""
    return min(1.0, second / radius / radius) if radius > 0 else 0.0


def bennett(excess: float, n: int, second: float, radius: float) -> float:
    """The probability that n variables average their mean plus `excess` or more is at most this; arguments as above.

    E exp(sW) ≤ exp(s E W + λ φ(sR)/R²) for W ≤ R and E W² ≤ λ, with φ(t) = e^t − 1 − t (Bennett 1962). So it holds for
    variables with such means given the past, too.
    """
    if excess <= 0 or n == 0:
        return 1.0
    second, excess = in_balls(second, radius), excess / radius
    if second == 0:
        return 0.0
    t = excess / second
    return math.exp(-n * second * ((1 + t) * math.log1p(t) - t))


class LikelihoodRatio:
    """The law of L = dQ/dP at radius ρ, replaced by one on finitely many values with larger E ψ(L) for every convex ψ.

    The curve T (the largest Q-probability for a P-probability) has slope L. Between two of its points L has a known mean
    and lies between the slopes of the neighbouring pieces; all of it is put on these two values, in the shares that keep
    the mean.

    Args:
        noise: its `tails`, at ρ, are points of the curve.
        rho: radius > 0.
    """

    def __init__(self, noise: Noise, rho: float) -> None:
        top = [
            (noise.tails(q, rho).lower, q) for q in _GRID
        ]  # an event of Q-probability q has a P-probability of at least
        for q in 1 - _GRID[::-1][1:]:
            if top[-1][0] >= 0.5 or q >= 1 - 1e-13:
                break
            top.append((noise.tails(q, rho).lower, float(q)))
        top = [point for point in top if point[0] > 1e-290] or [(1e-290, 1.0)]
        rest = [(b, noise.tails(b, rho).lower) for b in _GRID[::-1] if b < 1 - top[-1][0]]
        p, q = np.array(top).T
        b, low = np.array([*rest, (0.0, 0.0)]).T
        width = np.concatenate([np.diff(p), [1 - p[-1] - b[0]], -np.diff(b)])
        rise = np.concatenate([np.diff(q), [1 - q[-1] - low[0]], -np.diff(low)])
        rise, width = rise[width > 0].clip(0), width[width > 0]
        slope = rise / width
        self._first = float(p[0]), float(q[0])  # the steepest piece: L has no bound there
        above = np.maximum.accumulate(np.concatenate([[q[0] / p[0]], slope[:-1]])[::-1])[::-1]
        below = np.concatenate([np.minimum.accumulate(slope)[1:], [0.0]])
        above, below = np.maximum(above, slope), np.minimum(below, slope)
        spread = above - below
        share = np.where(spread > 0, (slope - below) / np.where(spread > 0, spread, 1.0), 1.0)
        self.weights = np.concatenate([width * share, width * (1 - share)])
        self.values = np.concatenate([above, below])

    def variation(self) -> float:
        """E|L − 1|, rounded up."""
        return min(2.0, self._mean(np.abs(self.values - 1), 0.0, 1.0))

    def clipped(self, second: float, theta: float) -> float:
        """S_θ for R = 1 and λ = `second`, rounded up.

        The best μ is the one for which v = clip((L − θ)/2μ) has E v² = λ. (Any other gives a valid bound, too.)
        """
        distance = np.abs(self.values - theta)
        order = distance.argsort()
        steps, weights = distance[order].clip(1e-150, 1e150), self.weights[order]
        inside = np.cumsum(weights * steps**2)
        beyond_it = weights.sum() - np.cumsum(weights) + self._first[0]
        # E v² for 2μ at each value in turn: it falls, and where it passes λ all up to there are not clipped.
        k = int((inside / steps**2 + beyond_it > second).sum())
        mu = math.sqrt(inside[k - 1]) / math.sqrt(max(second - beyond_it[k - 1], 1e-300)) / 2 if k else 0.0
        mu = min(mu, 1e150)
        return min(mu * second + self._mean(distance, mu, theta), self._mean(distance, 0.0, theta))

    def _mean(self, distance: np.ndarray, mu: float, theta: float) -> float:
        """E ψ_μ(L − θ) with R = 1; E|L − θ| for μ = 0."""
        # (min: L itself overflows when squared)
        near = np.minimum(distance, 2 * mu)
        psi = distance if mu == 0 else np.where(distance <= 2 * mu, near * near / (4 * mu), distance - mu)
        return (float(self.weights @ psi) + self._first[1] + theta * self._first[0]) * (1 + _SAFE)


def silent(noise: Noise) -> str:
    """Why nothing can be said about a noise; "" if something can.

    Every step takes expectations at y + δ for expectations at y of L = dQ/dP times the same. Where a shift gives probability to
    what had none before, there is no such L: f may do there what no draw at y can show, and χ² is infinite for every ρ > 0.
    """
    if math.isfinite(noise.chi2(_LEAST)):
        return ""
    return (
        f"spectral bounds (T11, T12) need a likelihood ratio, and the χ²-divergence of {type(noise).__name__} from its shifts "
        f"is infinite however small they are: other methods, for the median, need {noise.theorem} alone"
    )


_LEAST = 1e-6


def swing(noise: Noise, rho: float, second: float, radius: float, theta: float = 1.0) -> float:
    """S_θ: how much E_P[(L − θ) v] can be at radius ρ for |v| ≤ R, E v² ≤ λ.

    Args:
        noise, rho: noise and radius ≥ 0.
        second: λ ≥ 0.
        radius: R ≥ 0.
        theta: θ in [0, 1].
    """
    if radius == 0 or second == 0:
        return 0.0
    second = in_balls(second, radius)
    chi2 = noise.chi2(rho)
    plain = math.sqrt(second * (chi2 + (1 - theta) ** 2))
    clipped = _ratio(cast(Hashable, noise), rho).clipped(second, theta) if rho > 0 and chi2 > 0 else math.inf
    # E_Q v ≤ R and −E_P v ≤ √λ whatever ρ is: what the others tend to, without their rounding, which is another at every ρ.
    far = up(1 + theta * math.sqrt(second), 1e-14)
    return radius * min(plain, clipped, far)


@functools.lru_cache(maxsize=16)
def _ratio(noise: Hashable, rho: float) -> LikelihoodRatio:
    return LikelihoodRatio(cast(Noise, noise), rho)


_GRID = ndtr(np.linspace(-9.0, 0.0, 451))
"""Probabilities at which a curve is read: half of them, mirrored for the other half."""


@dataclass(frozen=True, eq=False)
class SpectrumEvidence(Evidence):
    """Limits of what f does at y, without a perturbation, from which Statement 3 follows by arithmetic.

    Attributes:
        center: c, (*output), what distances are measured to if the reference is "center".
        origin: b, (*output), what x is measured from.
        second: λ, upper limit of λ_max(E x xᵀ).
        radius: R.
        outside: p̄, upper limit of P[‖f − b‖ > R]; 0 where R = D.
        reach: D, what ‖f − b‖ never exceeds.
        ball: B, the radius of a ball that holds f.
        drift: m, upper limit of ‖E x + b − c‖; None for the reference "population".
        farthest: what ‖f − c‖ never exceeds.
    """

    center: Tensor
    origin: Tensor
    second: float
    radius: float
    outside: float
    reach: float
    ball: float
    drift: float | None
    farthest: float

    kind: ClassVar[str] = "spectrum"

    @property
    def reference(self) -> str:
        return "population" if self.drift is None else "center"

    @property
    def offset(self) -> float:
        """‖b − c‖."""
        return up(float(length(_flat(self.origin) - _flat(self.center))), _SAFE)

    def numbers(self) -> dict[str, float | int | str]:
        kept: dict[str, float | int | str] = {
            "second": self.second,
            "radius": self.radius,
            "outside": self.outside,
            "reach": self.reach,
            "ball": self.ball,
            "farthest": self.farthest,
        }
        return kept if self.drift is None else {**kept, "drift": self.drift}

    def tensors(self) -> dict[str, Tensor]:
        return {} if self.origin is self.center else {"origin": self.origin}

    @classmethod
    def restored(cls, numbers: Mapping[str, float | int | str], tensors: Mapping[str, Tensor], center: Tensor) -> Self:
        values = {name: float(numbers[name]) for name in ("second", "radius", "outside", "reach", "ball", "farthest")}
        drift = float(numbers["drift"]) if "drift" in numbers else None
        every = [*values.values(), *([] if drift is None else [drift])]
        if not all(math.isfinite(v) and v >= 0 for v in every):
            raise ValueError(f"numbers {values}, drift {drift}: must be finite and >= 0")
        if not (0 < values["radius"] <= values["reach"] and values["outside"] <= 1 and values["second"] > 0):
            raise ValueError(f"numbers {values}: need 0 < radius <= reach, outside <= 1 and second > 0")
        origin = tensors.get("origin", center)
        if origin.shape != center.shape:
            raise ValueError(f"origin has shape {tuple(origin.shape)}: must be the center's, {tuple(center.shape)}")
        return cls(center, origin, drift=drift, **values)

    def implied(self, noise: Noise, rho: float) -> float:
        return square(self.distance(noise, rho), _SAFE)

    def distance(self, noise: Noise, rho: float) -> float:
        """The bound at ρ, not squared."""
        moved = _ratio(cast(Hashable, noise), rho).variation() if rho > 0 else 0.0
        far = self.reach - self.radius
        if self.drift is None:
            value = swing(noise, rho, self.second, self.radius) + far * _moved(noise, self.outside, rho)
            return min(value, self.ball * moved)
        drift, offset = self.drift, self.offset

        def at(fall: float) -> float:
            """S_θ and what it leaves of the mean, θ = 1 − fall."""
            return swing(noise, rho, self.second, self.radius, 1 - fall) + (1 - fall) * drift + fall * offset

        # Any θ is valid; the best may be below 1 also where the drift is less than the offset: S_θ can grow with θ.
        found = minimize_scalar(at, bounds=(0.0, 1.0), method="bounded", options={"xatol": 1e-4})
        least = min(at(0.0), at(1.0), float(found.fun))
        value = least + far * _largest(noise, self.outside, rho)
        return min(value, drift + far * self.outside + self.ball * moved, self.farthest)

    def witness(self) -> SpectrumWitness:
        return SpectrumWitness(self)

    def verdict(self, seen: Accumulator, noise: Noise, rho: float) -> tuple[float, str]:
        return cast(SpectrumWitness, seen).verdict()


class Aimed:
    """Mean squares and means of x along directions that earlier draws choose, in memory that does not grow with the draws.

    A direction must not be chosen by the draw that it is tested on. So it is chosen anew whenever the number of draws has
    doubled, from all draws so far, and tested on the following ones. Given the past these have a mean of (wᵀx)² of at most
    λ, and Chernoff's bound holds for such a sequence as it does for independent draws; Bennett's for the means.

    Args:
        origin: b, (*output).
        radius: R, as in `Spectrum`.
        ahead: b − c, (*output): then the mean of x + b − c is looked for, too.

    Attributes:
        count, tested: draws seen, and those that a direction was tested on.
        squares, pushes: sums of (wᵀx/R)² and of uᵀ(x + b − c)/R over these.
    """

    def __init__(self, origin: Tensor, radius: float, ahead: Tensor | None = None) -> None:
        self.past, self.ahead = Spectrum(origin, radius, rows=32), None if ahead is None else _flat(ahead)
        self.tested, self.squares, self.pushes = 0, 0.0, 0.0
        self._next = _FIRST_DIRECTION
        self._top: Tensor | None = None
        self._push: Tensor | None = None

    @property
    def count(self) -> int:
        return self.past.count

    @property
    def mean(self) -> float:
        """Mean square along the directions, in units of R²."""
        return self.squares / max(self.tested, 1)

    def update(self, outputs: Tensor) -> None:
        while outputs.shape[0]:
            space = self._next - self.count
            part, outputs = outputs[:space], outputs[space:]
            self._test(part)
            self.past.update(part)
            if self.count == self._next:
                self._next *= 2
                self._aim()

    def merge(self, other: Aimed) -> None:
        self.past.merge(other.past)
        self.tested += other.tested
        self.squares += other.squares
        self.pushes += other.pushes
        while self._next <= self.count:
            self._next *= 2
        if self.count:
            self._aim()

    def state(self) -> dict[str, Tensor]:
        numbers = torch.tensor([self.tested, self.squares, self.pushes], dtype=torch.float64)
        # Chosen when the draws had last doubled: those that came since say nothing about them.
        chosen = {name: w for name, w in (("top", self._top), ("push", self._push)) if w is not None}
        past = {f"past.{name}": tensor for name, tensor in self.past.state().items()}
        return {"numbers": numbers, **chosen, **past}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.tested = int(state["numbers"][0])
        self.squares, self.pushes = float(state["numbers"][1]), float(state["numbers"][2])
        self.past.restore({k.removeprefix("past."): v for k, v in state.items() if k.startswith("past.")})
        self._top, self._push = state.get("top"), state.get("push")
        self._next = _FIRST_DIRECTION
        while self._next <= self.count:
            self._next *= 2

    def p_value(self, second: float) -> float:
        """Of "λ_max(E x xᵀ) is at most `second`"."""
        if self.past.radius == 0:  # x is 0 by definition
            return 1.0
        allowed = min(1.0, in_balls(second, self.past.radius) * (1 + _SAFE))
        return math.exp(-self.tested * divergence(self.mean, allowed)) if self.mean > allowed else 1.0

    def _test(self, outputs: Tensor) -> None:
        if self._top is None or self.past.radius == 0:
            return
        x = self.past.clipped(outputs)
        self.tested += x.shape[0]
        self.squares += float((x @ self._top.to(x.device)).square().sum())
        if self._push is not None and self.ahead is not None:
            self.pushes += (
                float((x @ self._push.to(x.device)).sum())
                + float(self._push @ (self.ahead / self.past.radius)) * x.shape[0]
            )

    def _aim(self) -> None:
        self._top = self.past.direction()
        if self.ahead is not None:
            push = _flat(self.past.mean) + self.ahead
            size = float(length(push))
            self._push = push / size if size > 0 else self._top


_FIRST_DIRECTION = 128


class SpectrumWitness:
    """What fresh draws say about the limits of a `SpectrumEvidence`."""

    ordered = True

    def __init__(self, held: SpectrumEvidence) -> None:
        self.held = held
        self.key = f"spectrum witness {id(held)}"
        self.along = Aimed(held.origin, held.radius, None if held.drift is None else held.origin - held.center)
        self.outside, self.beyond_reach = 0, 0

    @property
    def count(self) -> int:
        return self.along.count

    def widened(self, other: SpectrumWitness) -> SpectrumWitness:
        return SpectrumWitness(self.held)

    def state(self) -> dict[str, Tensor]:
        return {"counts": torch.tensor([self.outside, self.beyond_reach]), **self.along.state()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.outside, self.beyond_reach = (int(number) for number in state["counts"])
        self.along.restore(state)

    def described(self) -> str:
        return f"spectrum witness {self.along.past.described()}"

    def update(self, outputs: Tensor) -> None:
        held = self.held
        away = outputs.to(torch.float64) - held.origin.to(outputs.device, torch.float64)
        distance = length(away.reshape(len(outputs), -1), dim=1)
        # The same input gives values a few ulp apart in batches of different sizes; these ulp are f's, not the distance's.
        eps = 1000 * torch.finfo(outputs.dtype).eps
        slack = eps * distance + eps * float(length(_flat(held.origin)))
        self.outside += int((distance > held.radius + slack).sum())
        self.beyond_reach += int((distance > held.reach + slack).sum())
        self.along.update(outputs)

    def merge(self, other: SpectrumWitness) -> None:
        self.along.merge(other.along)
        self.outside += other.outside
        self.beyond_reach += other.beyond_reach

    def verdict(self) -> tuple[float, str]:
        """The p-value of the limits, and a phrase of detail."""
        held, along = self.held, self.along
        if self.beyond_reach:
            return 0.0, f"{self.beyond_reach} of {self.count} draws are farther from the origin than f can be"
        found = [
            (
                along.p_value(held.second),
                f"largest mean square along a direction {shown(in_units(along.mean, held.radius), 'near', 4)} of "
                f"{shown(held.second, 'up', 4)}",
            )
        ]
        if held.radius < held.reach:
            expected = held.outside * self.count
            phrase = f"{self.outside} draws outside the ball, allowed mean {shown(expected, 'up', 4)}"
            found.append((beyond(self.outside, self.count, held.outside), phrase))
        if held.drift is not None:
            moved = along.pushes / max(along.tested, 1) * held.radius
            p = bennett(moved - held.drift * (1 + _SAFE), along.tested, held.second, held.radius)
            found.append((p, f"mean along a direction {shown(moved, 'near', 4)} of {shown(held.drift, 'up', 4)}"))
        p, phrase = min(found, key=lambda test: test[0])
        return min(1.0, len(found) * p), phrase


class SpectralMSE(Method):
    """T11 in the form of Statement 3. α is shared equally by the limits that a value needs: λ; p̄ where R < D; m where the
    reference is the center.
    """

    method, theorem, smoother, evidence = "spectral", "T11", "mean", SpectrumEvidence

    def __init__(self, setting: Setting, alpha: float, aim: float) -> None:
        super().__init__(setting, alpha, aim)
        self.origin, self.radius, self._expected = setting.center, math.inf, None
        self._population = setting.reference == "population"
        if setting.support is None or silent(setting.noise):
            return
        pilot = None if setting.pilot is None else PilotSpectrum.of(setting.pilot)
        if pilot is not None and pilot.away(setting.center):
            self.origin = pilot.mean
        total = [_norm(setting.support.reach(c)) for c in (self.origin, setting.center)]
        self.reach, self.farthest = max(total[0], 2.0**-1000), total[1]  # (a support of one point)
        self.ball = min(_norm(setting.support.reach(c)) for c in _middles(setting))
        self.radius = self.reach
        if pilot is None or not math.isfinite(self.reach):
            return
        options = [self._predicted(pilot, radius) for radius in pilot.radii(self.reach, setting.n)]
        self._expected = min(options, key=lambda option: option.implied(setting.noise, aim if aim > 0 else 1.0))
        self.radius = self._expected.radius

    @classmethod
    def promising(cls, setting: Setting) -> bool:
        return not silent(setting.noise)

    def guess(self, rho: float) -> float:
        return math.inf if self._expected is None else self._expected.implied(self.setting.noise, rho)

    def needs(self, rho: float) -> list[Accumulator]:
        return [Spectrum(self.origin, self.radius)] if math.isfinite(self.radius) else []

    def at(self, rho: float, seen: Mapping[str, Accumulator]) -> Evaluation:
        if why := silent(self.setting.noise):
            return Evaluation(math.inf, reason=why)
        if not math.isfinite(self.radius):
            return Evaluation(
                math.inf,
                reason="nothing is known about the range of f, and the mean of an unbounded function has no finite bound from "
                "draws: give support= (a finite box, or layer_norm_support of a final LayerNorm)",
            )
        spectrum = cast(Spectrum, seen[Spectrum(self.origin, self.radius).key])
        evidence = self._evidence(
            spectrum.largest_in_balls,
            spectrum.outside,
            float(length(_flat(spectrum.mean) + (_flat(self.origin) - _flat(self.setting.center)))),
            self.radius,
        )
        value = evidence.implied(self.setting.noise, rho) if math.isfinite(evidence.second) else math.inf
        return Evaluation(value, evidence) if math.isfinite(value) else Evaluation(math.inf, reason=TOO_LARGE)

    def _evidence(self, largest: float, outside: float, drift: float, radius: float) -> SpectrumEvidence:
        """The limits that follow from λ̂/R², the draws outside, ‖x̄ + b − c‖ and R."""
        n, cut = self.setting.n, radius < self.reach
        share = self.alpha / (1 + int(cut) + int(not self._population))
        second = in_units(chernoff_limit(largest / (1 + 1e-12), n, share), radius, 1e-12)
        slack = bernstein_slack(second, radius, n, share)
        return SpectrumEvidence(
            self.setting.center,
            self.origin,
            second,
            radius,
            clopper_pearson(math.ceil(outside), n, share) if cut else 0.0,
            self.reach,
            self.ball,
            None if self._population else up(drift, _SAFE) + slack,
            self.farthest,
        )

    def _predicted(self, pilot: PilotSpectrum, radius: float) -> SpectrumEvidence:
        n, center = self.setting.n, _flat(self.setting.center)
        noisy = pilot.rms * math.sqrt(1 / n + (0 if self.origin is pilot.mean else 1 / pilot.count))
        drift = math.hypot(noisy, float(length(_flat(self.origin) - center)))
        return self._evidence(pilot.top(radius), min(n, n * pilot.outside(radius)), drift, radius)


class PilotSpectrum:
    """What pilot draws let expect: of the lengths of x, and of λ for every R. Kept for as long as the draws are."""

    _known: ClassVar[WeakIdKeyDictionary] = WeakIdKeyDictionary()

    def __init__(self, pilot: Tensor) -> None:
        self.mean = mean(pilot.to(torch.float64)).cpu()
        x, unit = pilot.reshape(pilot.shape[0], -1).to(torch.float64), unit_of(pilot)
        x = x / unit - (x / unit).mean(dim=0)
        unit, x = unit * unit_of(x), x / unit_of(x)
        gram = (x @ x.T).cpu()
        self.count, self.lengths = pilot.shape[0], gram.diagonal().clamp_min(0).sqrt() * unit
        self._gram, self._unit = gram, unit
        self._energy = float(gram.diagonal().clamp_min(0).mean())
        self.rms = math.sqrt(self._energy) * unit
        # Above its upper decile a length is taken to have an exponential tail.
        self._decile = float(self.lengths.quantile(0.9))
        over = self.lengths[self.lengths > self._decile] - self._decile
        self._scale = float(over.mean()) if over.numel() else 0.0
        self._tops: dict[float, float] = {}

    @classmethod
    def of(cls, pilot: Tensor) -> PilotSpectrum:
        if pilot not in cls._known:
            cls._known[pilot] = cls(pilot)
        return cast(PilotSpectrum, cls._known[pilot])

    def away(self, center: Tensor) -> bool:
        """Whether the pilot mean is a better origin than `center`: one that is not itself it, but for rounding."""
        distance = float(length(_flat(self.mean) - _flat(center)))
        return distance > 0.01 * self.rms / math.sqrt(self.count) + 1e-6 * float(length(_flat(center)))

    def outside(self, radius: float) -> float:
        """The expected share of draws beyond `radius`."""
        share = float((self.lengths > radius).double().mean())
        if share > 0 or self._scale == 0:
            return share
        return min(0.1 * math.exp(-(radius - self._decile) / self._scale), 1 / self.count)

    def radii(self, reach: float, n: int) -> list[float]:
        """Radii to choose from: beyond which about so many of n draws are expected, and no cut at all."""
        least = 1e-3 * reach
        expected = 0.03 * n, 0.003 * n, 10.0, 1.0, 0.1
        found = [self._decile + self._scale * math.log(0.1 * n / count) for count in expected if count < 0.1 * n]
        found += [1.001 * float(self.lengths.max())]
        return sorted({min(max(radius, least), reach) for radius in found} | {reach})

    def top(self, radius: float) -> float:
        """λ_max(E x xᵀ)/R² for R = `radius`: midway between what pilot draws have along their own best direction, which is
        too much, and what half of them have along the best of the other half, which is too little.
        """
        return in_balls(self._top(radius), radius / self._unit)

    @property
    def leading(self) -> float:
        """λ_max(Cov f) / tr Cov f, likewise; 0 where nothing moves."""
        return self._top(math.inf) / self._energy if self._energy > 0 else 0.0

    def _top(self, radius: float) -> float:
        """λ_max(E x xᵀ), in this object's unit."""
        if radius not in self._tops:
            scale = (radius / self._unit / self._gram.diagonal().clamp_min(1e-300).sqrt()).clamp_max(1.0)
            gram = self._gram * scale[:, None] * scale
            half = self.count // 2
            own, _ = _power(gram)
            if half < 2:
                return own / self.count
            value, vector = _power(gram[:half, :half])
            other = float((gram[half:, :half] @ vector).square().mean()) / value if value > 0 else 0.0
            self._tops[radius] = (own / self.count + other) / 2
        return self._tops[radius]


def _power(gram: Tensor) -> tuple[float, Tensor]:
    """The largest eigenvalue and vector, roughly: enough to choose by."""
    vector = gram.diagonal().clone()
    value = 0.0
    for _ in range(40):
        vector = gram @ vector
        value = float(vector.norm())
        if value == 0:
            break
        vector = vector / value
    return value, vector


def _largest(noise: Noise, p: float, rho: float) -> float:
    """T(p): the largest Q-probability of an event of P-probability at most p (T1)."""
    return 0.0 if p <= 0 else 1 - noise.tails(min(p, 1.0), rho).upper if p < 1 else 1.0


def _moved(noise: Noise, p: float, rho: float) -> float:
    """τ(p), an upper limit of E_P[|L − 1|; A] for P(A) ≤ p.

    With A split where L passes 1 it is at most max_{a≤p} {T(a) − a} + max_{b≤p} {b − l(b)}, l the least Q-probability. T
    is concave, so the first is largest at p if the curve still rises by p or more from p to 2p; l is convex, and so on.
    """
    if p <= 0 or rho <= 0:
        return 0.0
    most, least = _largest(noise, p, rho), noise.tails(min(p, 1.0), rho).lower
    if 2 * p < 1:
        double = _largest(noise, 2 * p, rho), noise.tails(2 * p, rho).lower
        if double[0] - most >= p and double[1] - least <= p:
            return most - least
    return min(most + p, 2.0)


def _middles(setting: Setting) -> list[Tensor]:
    """Centers of balls that may be the smallest that holds f: the middle of the box, and the LayerNorm's offset."""
    support = setting.support
    if support is None:
        return []
    lower, upper = support.over(setting.shape)
    found = [setting.center] if bool(torch.isinf(lower).any() | torch.isinf(upper).any()) else [(lower + upper) / 2]
    if support.offset is not None:
        found.append(support.offset.to("cpu", torch.float64).expand(setting.shape))
    return found


def _norm(rows: Tensor) -> float:
    return up(float(length(rows)), _SAFE)


def _flat(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float64).reshape(-1)
