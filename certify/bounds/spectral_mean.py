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

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self, cast

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from certify._floats import TOO_LARGE, distance, flat, in_units, length, square, up
from certify.bounds.base import Evaluation, Evidence, Method, Setting
from certify.bounds.likelihood_ratio import likelihood_ratio, max_mean_shift, unsupported
from certify.bounds.pilots import PilotSpectrum
from certify.bounds.witnesses import SpectrumWitness
from certify.confidence import bernstein_slack, chernoff_limit, clopper_pearson
from certify.montecarlo import Accumulator
from certify.montecarlo.sketch import Spectrum
from certify.noise import Noise

__all__ = ["SpectralMSE", "SpectrumEvidence"]

_SAFE = 1e-9
"""What the sums below are rounded up by, relatively; their own error is a few hundred ulp."""


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
        center_offset: m, upper limit of ‖E x + b − c‖; None for the reference "population".
        farthest: what ‖f − c‖ never exceeds.
    """

    center: Tensor
    origin: Tensor
    second: float
    radius: float
    outside: float
    reach: float
    ball: float
    center_offset: float | None
    farthest: float

    kind: ClassVar[str] = "spectrum"

    @property
    def reference(self) -> str:
        return "population" if self.center_offset is None else "center"

    @property
    def offset(self) -> float:
        """‖b − c‖."""
        return distance(self.origin, self.center, _SAFE)

    def numbers(self) -> dict[str, float | int | str]:
        numbers: dict[str, float | int | str] = {
            "second": self.second,
            "radius": self.radius,
            "outside": self.outside,
            "reach": self.reach,
            "ball": self.ball,
            "farthest": self.farthest,
        }
        return numbers if self.center_offset is None else {**numbers, "drift": self.center_offset}

    def tensors(self) -> dict[str, Tensor]:
        return {} if self.origin is self.center else {"origin": self.origin}

    @classmethod
    def restored(cls, numbers: Mapping[str, float | int | str], tensors: Mapping[str, Tensor], center: Tensor) -> Self:
        values = {name: float(numbers[name]) for name in ("second", "radius", "outside", "reach", "ball", "farthest")}
        center_offset = float(numbers["drift"]) if "drift" in numbers else None  # its name on disk
        every = [*values.values(), *([] if center_offset is None else [center_offset])]
        if not all(math.isfinite(v) and v >= 0 for v in every):
            raise ValueError(f"numbers {values}, drift {center_offset}: must be finite and >= 0")
        if not (0 < values["radius"] <= values["reach"] and values["outside"] <= 1 and values["second"] > 0):
            raise ValueError(f"numbers {values}: need 0 < radius <= reach, outside <= 1 and second > 0")
        origin = tensors.get("origin", center)
        if origin.shape != center.shape:
            raise ValueError(f"origin has shape {tuple(origin.shape)}: must be the center's, {tuple(center.shape)}")
        return cls(center, origin, center_offset=center_offset, **values)

    def implied(self, noise: Noise, rho: float) -> float:
        return square(self.distance(noise, rho), _SAFE)

    def distance(self, noise: Noise, rho: float) -> float:
        """The bound at ρ, not squared."""
        moved = likelihood_ratio(noise, rho).variation() if rho > 0 else 0.0
        far = self.reach - self.radius
        if self.center_offset is None:
            value = max_mean_shift(noise, rho, self.second, self.radius) + far * _moved(noise, self.outside, rho)
            return min(value, self.ball * moved)
        center_offset, offset = self.center_offset, self.offset

        def at(fall: float) -> float:
            """S_θ and what it leaves of the mean, θ = 1 − fall."""
            return (
                max_mean_shift(noise, rho, self.second, self.radius, 1 - fall)
                + (1 - fall) * center_offset
                + fall * offset
            )

        # Any θ is valid; the best may be below 1 also where m is less than ‖b − c‖: S_θ can grow with θ.
        best = minimize_scalar(at, bounds=(0.0, 1.0), method="bounded", options={"xatol": 1e-4})
        least = min(at(0.0), at(1.0), float(best.fun))
        value = least + far * _largest(noise, self.outside, rho)
        return min(value, center_offset + far * self.outside + self.ball * moved, self.farthest)

    def witness(self) -> SpectrumWitness:
        return SpectrumWitness(self)

    def verdict(self, seen: Accumulator, noise: Noise, rho: float) -> tuple[float, str]:
        return cast(SpectrumWitness, seen).verdict()


class SpectralMSE(Method):
    """T11 in the form of Statement 3. α is shared equally by the limits that a value needs: λ; p̄ where R < D; m where the
    reference is the center.
    """

    method, theorem, smoother, evidence = "spectral", "T11", "mean", SpectrumEvidence

    def __init__(self, setting: Setting, alpha: float, aim: float) -> None:
        super().__init__(setting, alpha, aim)
        self.origin, self.radius, self._expected = setting.center, math.inf, None
        self._population = setting.reference == "population"
        if setting.support is None or unsupported(setting.noise):
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
        return not unsupported(setting.noise)

    def guess(self, rho: float) -> float:
        return math.inf if self._expected is None else self._expected.implied(self.setting.noise, rho)

    def needs(self, rho: float) -> list[Accumulator]:
        return [Spectrum(self.origin, self.radius)] if math.isfinite(self.radius) else []

    def at(self, rho: float, seen: Mapping[str, Accumulator]) -> Evaluation:
        if why := unsupported(self.setting.noise):
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
            float(length(flat(spectrum.mean) + (flat(self.origin) - flat(self.setting.center)))),
            self.radius,
        )
        value = evidence.implied(self.setting.noise, rho) if math.isfinite(evidence.second) else math.inf
        return Evaluation(value, evidence) if math.isfinite(value) else Evaluation(math.inf, reason=TOO_LARGE)

    def _evidence(self, largest: float, outside: float, center_offset: float, radius: float) -> SpectrumEvidence:
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
            None if self._population else up(center_offset, _SAFE) + slack,
            self.farthest,
        )

    def _predicted(self, pilot: PilotSpectrum, radius: float) -> SpectrumEvidence:
        n, center = self.setting.n, flat(self.setting.center)
        noisy = pilot.rms * math.sqrt(1 / n + (0 if self.origin is pilot.mean else 1 / pilot.count))
        center_offset = math.hypot(noisy, float(length(flat(self.origin) - center)))
        return self._evidence(pilot.top(radius), min(n, n * pilot.outside(radius)), center_offset, radius)


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
    centers = [setting.center] if bool(torch.isinf(lower).any() | torch.isinf(upper).any()) else [(lower + upper) / 2]
    if support.offset is not None:
        centers.append(support.offset.to("cpu", torch.float64).expand(setting.shape))
    return centers


def _norm(rows: Tensor) -> float:
    return up(float(length(rows)), _SAFE)
