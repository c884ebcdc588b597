"""T5 over a set of prompts: how often an attack can succeed on average, whatever it does to each of them.

Statement. Events S_1, …, S_m at inputs y_1, …, y_m, each of K noisy copies with its own fixed Σ_i; p_i = P[S_i = 1] at y_i and
p̄ their mean. For every choice of perturbations with ‖δ_i‖_{Σ_i} ≤ ρ, one for each input,

    Φ(Φ⁻¹(p̄) − √K ρ)  ≤  mean_i P[S_i = 1 at y_i + δ_i]  ≤  Φ(Φ⁻¹(p̄) + √K ρ).

Proof. T5 bounds each term by g(p_i), g(p) = Φ(Φ⁻¹(p) + √K ρ). The derivative exp(−√K ρ Φ⁻¹(p) − Kρ²/2) of g falls in p, so g is
concave and the mean of g(p_i) is at most g(p̄) (Jensen). Below, its mirror image is convex. See docs/theory/t05-deployed.md.

From draws. Each draw takes one of the m inputs at random, with replacement, and fresh copies of it: it is Bernoulli(p̄), and
the limits of Clopper and Pearson apply. One count for all inputs and all radii, instead of m counts that share α.

Assumes: as T5. Inputs with fewer copies than K obey the statement for K. An input without noise (Σ_i = 0) is covered for
δ_i = 0 only. Safe direction: the bound may be too large; where the p_i differ much, it is.

Reference: THEORY T5, corollary; Clopper and Pearson (1934).
"""

from __future__ import annotations

from dataclasses import dataclass

from certify._records import Shown
from certify._text import confidence, percent, shown
from certify.bounds.copies import Counted
from certify.noise import GaussianNoise

__all__ = ["RateOver"]


@dataclass(frozen=True)
class RateOver(Counted, Shown):
    """What `certify.event_rate_over` and `certify.images.attack_rate_over` return.

    Attributes:
        prompts: m.
        unperturbed: how many of them have no noise at all: they are covered for δ = 0 only.
        successes, n: how often the event was seen in n draws, each at a prompt chosen at random.
        replicas: K, the largest number of noisy copies behind one draw.
        alpha: failure probability of the statement, all radii together.
        two_sided: whether it bounds the rate from below, too.
        rhos: the requested radii.
        seed: of the draws.
    """

    prompts: int
    unperturbed: int
    successes: int
    n: int
    replicas: int
    alpha: float
    two_sided: bool
    rhos: tuple[float, ...]
    seed: int

    theorem = "T5"
    method = "replicas"
    quantity = "event rate"
    unit = "probability"
    noise = GaussianNoise(1.0)  # the shift of a probability is that of any Gaussian noise

    @property
    def rate(self) -> float:
        """As measured, without perturbations: no bound."""
        return self.successes / self.n

    @property
    def limit(self) -> float:
        """The upper confidence limit of the mean without perturbations, ρ = 0."""
        return self.at(0.0)

    @property
    def values(self) -> tuple[float, ...]:
        """The upper bound of the mean at each of `rhos`. They hold at once, as `at` does for all ‖δ_i‖_{Σ_i} ≤ ρ."""
        return tuple(self.at(rho) for rho in self.rhos)

    def __str__(self) -> str:
        rows = ", ".join(f"{percent(self.at(rho), 'up')} at ρ = {shown(rho, 'exact')}" for rho in (0.0, *self.rhos))
        unperturbed = f"; {self.unperturbed} of them without noise, for δ = 0 only" if self.unperturbed else ""
        return (
            f"mean over {self.prompts} prompts at most {rows} (seen in {self.successes} of {self.n:,} draws at ρ = 0, "
            f"K = {self.replicas}, all radii at once with confidence {confidence(self.alpha)}{unperturbed})"
        )
