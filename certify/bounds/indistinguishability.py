"""T15: nothing can tell them apart: what deployment with fresh noise reveals of a perturbation, whoever looks.

Statement. Let anything at all be made of K noisy copies z_k = y + G_k of an input: embeddings, a whole trajectory of a sampler,
many images of one draw of the copies. With r = √K ρ, for every ‖δ‖_Σ ≤ ρ, of its laws at y and at y + δ

    KL ≤ r²/2 (both ways),        TV ≤ 2Φ(r/2) − 1,        and a test of level a has power at most Φ(Φ⁻¹(a) + r).

M such outcomes, each of fresh copies: r = √(M K) ρ.

Proof. Whatever is made is a randomised function of the copies, whose laws are N(0, I) and its shift by a vector of length
√K ‖δ‖_Σ in units of the noise; no divergence grows under it. In full: docs/theory/t15-indistinguishability.md.

There is nothing to draw: this holds for every model, sampler, detector and eye. Assumes: T5's fresh and secret noise.
Safe direction: all three are rounded up.

Reference: THEORY T15; Gaussian differential privacy with μ = r: Dong, Roth and Su (2022).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from scipy.special import erf

from certify import _validate
from certify._floats import least_above
from certify._records import Shown
from certify._text import shown
from certify.noise import GaussianNoise

__all__ = ["Indistinguishability", "indistinguishability"]

_SAFE = 1e-14
"""erf is good to a few ulp, its argument to three."""


@dataclass(frozen=True)
class Indistinguishability(Shown):
    """What `certify.indistinguishability` returns.

    Attributes:
        rho: the perturbations are those with ‖δ‖_Σ ≤ ρ.
        replicas: K, noisy copies behind one outcome.
        outcomes: M, outcomes of fresh copies each that are looked at together.
    """

    rho: float
    replicas: int
    outcomes: int = 1

    theorem = "T15"

    @property
    def copies(self) -> int:
        """M K, all fresh noisy copies that are looked at."""
        return self.replicas * self.outcomes

    @property
    def mu(self) -> float:
        """r = √(M K) ρ, in units of the noise: the distance that the two inputs have for the best of tests."""
        return math.sqrt(self.copies) * self.rho

    @property
    def kl(self) -> float:
        """Kullback–Leibler divergence, in nats, either way: at most M K ρ²/2, rounded up."""
        return least_above(self.copies * Fraction(self.rho) ** 2 / 2)

    @property
    def total_variation(self) -> float:
        """Total variation: no event's probability differs by more than 2Φ(r/2) − 1, rounded up."""
        return min(1.0, float(erf(self.mu / (2 * math.sqrt(2)))) * (1 + _SAFE)) if self.mu > 0 else 0.0

    def power(self, level: float) -> float:
        """The most that a test with false-alarm probability `level` can find: Φ(Φ⁻¹(level) + r), rounded up.

        Args:
            level: a, strictly between 0 and 1.
        """
        level = _validate.probability("level", level)
        return 1.0 - GaussianNoise(1.0).tails(level, self.rho, self.copies).upper

    @property
    def sentence(self) -> str:
        """What it says, in words."""
        many = f", {self.outcomes:,} outcomes of fresh copies together" if self.outcomes > 1 else ""
        tv, power = shown(self.total_variation, "up", 4), shown(self.power(0.05), "up", 4)
        return (
            f"No event's probability differs by more than {tv} within ‖δ‖_Σ ≤ {shown(self.rho, 'exact')} "
            f"(K = {self.replicas}{many}); no test of level 0.05 has more power than {power}; "
            f"KL ≤ {shown(self.kl, 'up', 4)} (T15)."
        )


@_validate.suggests()
def indistinguishability(*, rho: float, replicas: int = 13, outcomes: int = 1) -> Indistinguishability:
    """What no detector, and no eye, can tell apart: an input from any other within ρ, by what is made of K noisy copies (T15).

    Equation
        KL ≤ M K ρ²/2,   TV ≤ 2Φ(√(M K) ρ/2) − 1,   power at level a ≤ Φ(Φ⁻¹(a) + √(M K) ρ).

    Reference
        THEORY T15 (docs/theory/t15-indistinguishability.md).

    Args:
        rho: radius ≥ 0 in units of ‖·‖_Σ.
        replicas: K, noisy copies behind one outcome; 13 in the paper.
        outcomes: M, how many outcomes, each of fresh copies, somebody may compare. (Many images of one draw of the copies are
            one outcome.)

    Returns:
        `Indistinguishability`: `.kl`, `.total_variation`, `.power(level)`.

    Raises:
        ValueError, TypeError: an argument out of range.

    >>> i = indistinguishability(rho=0.25, replicas=16)  # r = 1
    >>> i.kl, round(i.total_variation, 9), round(i.power(0.05), 9)
    (0.5, 0.382924923, 0.259511023)
    >>> indistinguishability(rho=0.25, replicas=4, outcomes=4).total_variation == i.total_variation
    True
    """
    return Indistinguishability(
        _validate.not_negative("rho", rho),
        _validate.count("replicas", replicas),
        _validate.count("outcomes", outcomes),
    )
