"""T5 and T14 over a set of prompts: how often an attack can succeed on average, whatever it does to each of them.

Statement. Events S_1, …, S_m at inputs y_1, …, y_m, each of K noisy copies with its own fixed Σ_i; p_i = P[S_i = 1] at y_i and
p̄ their mean. For every choice of perturbations with ‖δ_i‖_{Σ_i} ≤ ρ, one for each input,

    Φ(Φ⁻¹(p̄) − √K ρ)  ≤  mean_i P[S_i = 1 at y_i + δ_i]  ≤  Φ(Φ⁻¹(p̄) + √K ρ).

Proof. T5 bounds each term by g(p_i), g(p) = Φ(Φ⁻¹(p) + √K ρ). The derivative exp(−√K ρ Φ⁻¹(p) − Kρ²/2) of g falls in p, so g is
concave and the mean of g(p_i) is at most g(p̄) (Jensen). Below, its mirror image is convex. See docs/theory/t05-deployed.md.

From draws. Each draw takes one of the m inputs at random, with replacement, and fresh copies of it: it is Bernoulli(p̄), and
the limits of Clopper and Pearson apply. One count for all inputs and all radii, instead of m counts that share α.

Several values of each draw (T14). A draw is a pair (i, copies of input i), of which S is seen j times, each time with
randomness of its own: g(i, z) = E_ω S_i(z, ω), and T14 holds with the mean over pairs. The input belongs to what an attacker
moves, not to ω: he may move each into another direction, and a g that was averaged over inputs first would hide it
(docs/theory/t14-bounded-means.md).

Assumes: as T5. Inputs with fewer copies than K obey the statement for K. An input without noise (Σ_i = 0) is covered for
δ_i = 0 only. Safe direction: the bound may be too large; where the p_i differ much, it is.

Reference: THEORY T5, corollary, and T14; Clopper and Pearson (1934).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Self

import torch

from certify._records import Shown
from certify._text import confidence, percent, shown
from certify.bounds.bounded_mean import MeanEvidence
from certify.bounds.copies import Counted
from certify.noise import GaussianNoise

__all__ = ["RateOver"]


@dataclass(frozen=True)
class RateOver(Counted, Shown):
    """What `certify.event_rate_over` and `certify.images.attack_rate_over` return.

    Attributes:
        prompts: m.
        unperturbed: how many of them have no noise at all: they are covered for δ = 0 only.
        successes, n: how often the event was seen in n draws, each at a prompt chosen at random; of several values of a draw
            each counts.
        replicas: K, the largest number of noisy copies behind one draw.
        alpha: failure probability of the statement, all radii together.
        two_sided: whether it bounds the rate from below, too.
        rhos: the requested radii.
        seed: of the draws.
        repeats: j, values of each draw.
        held: for several values what the bounds at all radii follow from (T14); None: the count (T5).
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
    repeats: int = 1
    held: MeanEvidence | None = field(default=None, repr=False, compare=False)

    quantity = "event rate"
    unit = "probability"
    noise = GaussianNoise(1.0)  # the shift of a probability is that of any Gaussian noise

    @property
    def theorem(self) -> str:
        """Which proves it."""
        return "T5" if self.held is None else "T14"

    @property
    def method(self) -> str:
        """As of `EventBound` and `MeanBound`."""
        return "replicas" if self.held is None else "repeats"

    @property
    def rate(self) -> float:
        """As measured, without perturbations: no bound."""
        return self.successes / (self.n * self.repeats)

    @property
    def limit(self) -> float:
        """The upper confidence limit of the mean without perturbations, ρ = 0."""
        return self.at(0.0)

    @property
    def values(self) -> tuple[float, ...]:
        """The upper bound of the mean at each of `rhos`. They hold at once, as `at` does for all ‖δ_i‖_{Σ_i} ≤ ρ."""
        return tuple(self.at(rho) for rho in self.rhos)

    @property
    def of_what(self) -> str:
        """Among what the event was counted, in words."""
        return f"{self.n:,} draws" if self.held is None else f"{self.n:,} × {self.repeats} values"

    def __str__(self) -> str:
        rows = ", ".join(f"{percent(self.at(rho), 'up')} at ρ = {shown(rho, 'exact')}" for rho in (0.0, *self.rhos))
        unperturbed = f"; {self.unperturbed} of them without noise, for δ = 0 only" if self.unperturbed else ""
        return (
            f"mean over {self.prompts} prompts at most {rows} (seen in {self.successes} of {self.of_what} at ρ = 0, "
            f"K = {self.replicas}, all radii at once with confidence {confidence(self.alpha)}{unperturbed})"
        )

    def _shifted(self, rho: float) -> tuple[float, float]:
        return super()._shifted(rho) if self.held is None else self.held.interval(self.noise, rho)

    def stored(self) -> dict[str, Any]:
        """All of it as JSON values, but for `rhos` and `alpha`, which the bounds at other radii do not depend on."""
        kept = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("rhos", "alpha", "held")}
        if self.held is not None:
            tensors = {name: tensor.tolist() for name, tensor in self.held.tensors().items()}
            kept["held"] = {"alpha": self.alpha, "numbers": self.held.numbers(), "tensors": tensors}
        return kept

    @classmethod
    def restored(cls, values: Mapping[str, Any], *, rhos: Sequence[float], alpha: float) -> Self:
        """Of what was `stored`.

        Raises:
            ValueError: limits that were drawn are for another `alpha`, or are none.
        """
        kept = dict(values)
        if (held := kept.pop("held", None)) is not None:
            if held["alpha"] != alpha:
                raise ValueError(f"alpha = {alpha!r}: must be {held['alpha']!r}, for which the limits were drawn")
            tensors = {name: torch.tensor(value, dtype=torch.float64) for name, value in held["tensors"].items()}
            kept["held"] = MeanEvidence.restored(held["numbers"], tensors, None)
        return cls(**kept, rhos=tuple(rhos), alpha=alpha)
