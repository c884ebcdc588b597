"""T14: the mean of a bounded statistic of K noisy copies: what the noise decides, and what chance decides.

Statement. Let S(z_1, …, z_K, ω) lie in [0, 1], with randomness ω of its own whose law does not depend on the input, and
g(z) = E_ω S. For every function W on [0, 1] that is absolutely continuous, every noise and every perturbation within ρ

    E_Q S  ≤  E_P W(g) − W(0) + ∫_0^1 H(W'(u)) du,        H(s) = sup_A Q[A] − s P[A],

the last at its largest within ρ; for Gaussian noise H(s) = E(L − s)₊ with L = exp(rt − r²/2), r = √K ρ, t ~ N(0, 1). For a
convex W the integral less W(0) is E max_v (L v − W(v)). With W(v) = λv it is T5.

Proof. E_Q g − E_P W(g) = −W(0) + ∫_0^1 (Q[g > u] − W'(u) P[g > u]) du, and each integrand is at most H(W'(u)). In full, with
what follows: docs/theory/t14-bounded-means.md.

What is seen. From j values of S for one draw of the copies, each with randomness of its own, a polynomial W of degree ≤ j has
an unbiased estimate: with Bernstein coefficients w_0, …, w_j it is w_C where C of j values are hits, and for values in [0, 1]
the mean of w_C over independent coins with these probabilities. Without randomness S is g, and W may be any function. Either
way the estimate is a mean of the coefficients with weights that add up to 1, so it lies between the least and the largest.

From draws. W is chosen on pilot draws; it needs no trust, as every W gives a bound (weak duality). Then one limit M ≥ E W(g)
from the bounding draws (`certify.confidence.betting`) serves every ρ at once, and several limits serve together: W = Σ a_k W_k
with any a ≥ 0 has the limit Σ a_k M_k.

Assumes: as T5. Safe direction: the bound may be too large; all rounding goes up.

Reference: THEORY T14; for a score that is seen itself Kumar et al. (2020).

>>> from certify.noise import GaussianNoise
>>> still = Limits(Polynomials(1), np.array([[0.0, 1.0]]), (0.2,), ("T14",))  # E g ≤ .2
>>> round(still.bound(GaussianNoise(1.0), 1.0, 1)[0], 9), round(1 - GaussianNoise(1.0).tails(0.2, 1.0).upper, 9)  # T5
(0.562920828, 0.562920828)
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import Any, ClassVar, Self, cast

import numpy as np
import scipy  # its parts load when they are first named
import torch
from numpy.typing import NDArray
from torch import Tensor

from certify import _validate
from certify._records import Record
from certify._text import shown
from certify.bounds.base import Evidence
from certify.bounds.copies import OfCopies
from certify.bounds.statement import constant
from certify.confidence import clopper_pearson, last_that_holds
from certify.confidence.betting import evidence_against, stake, upper_limit
from certify.montecarlo import Accumulator, AllDraws
from certify.noise import Noise

__all__ = [
    "LEAST",
    "MOST",
    "SPLITS",
    "TRIED",
    "Limits",
    "MeanBound",
    "MeanEvidence",
    "Piecewise",
    "Pilot",
    "Polynomials",
    "Weights",
    "chosen_limits",
    "repeats_of",
    "split",
]

_Array = NDArray[np.float64]

_PIECES = 4096  # of [0, 1], for a polynomial's slopes
_FEW_PIECES = 256  # while its coefficients are being chosen
_ATOMS = 201  # of a law of g that is fitted to pilot draws
_FITS = 50  # steps of the fit, at most
_SAFE = 1e-13


class Weights(ABC):
    """A family of functions W on [0, 1], linear in their coefficients, and how they are seen through values of S.

    Attributes:
        size: coefficients that one W has.
        repeats: j, values of S that an estimate takes.
    """

    size: int
    repeats: int

    @abstractmethod
    def shares(self, values: _Array) -> _Array:
        """(n, j) values → (n, size) numbers ≥ 0 with sum 1; an estimate of W(g) is their mean of the coefficients."""

    @abstractmethod
    def slopes(self, w: _Array, few: bool = False) -> _Array:
        """Slopes of chords of W over consecutive pieces of [0, 1]."""

    @abstractmethod
    def lengths(self, few: bool = False) -> _Array:
        """Lengths of the pieces."""

    @abstractmethod
    def transposed(self, per_piece: _Array) -> _Array:
        """What the few slopes' dependence on the coefficients makes of a number a piece: for gradients."""

    @abstractmethod
    def sags(self, w: _Array, few: bool = False) -> _Array:
        """Numbers, linear in w along the last axis, whose largest is at least how far W lies below its chords (none: 0)."""

    def sag(self, w: _Array) -> float:
        """How far W may lie below its chords, rounded up."""
        return float(self.sags(w).max(initial=0.0)) * (1 + 1e-9)

    @property
    @abstractmethod
    def linear(self) -> _Array:
        """The coefficients of W(v) = v."""

    def estimates(self, w: _Array, values: _Array) -> _Array:
        """Unbiased estimates of W(g), one a row of `values`, between the least and the largest coefficient."""
        return self.shares(values) @ w

    def excess(self, w: _Array, noise: Noise, rho: float, replicas: int) -> float:
        """−W(0) + ∫ H(W'): what must be added to E W(g) at the worst perturbation within ρ; rounded up.

        Over each piece H at the chord's slope stands for H at W': with W no lower than its chords less their sag, the statement
        holds for these instead, which cost the sag and nothing else.
        """
        s, lengths = self.slopes(w), self.lengths()
        gained = noise.hockey_stick(s, rho, replicas)
        total = math.fsum(lengths * gained) - float(w[0]) + self.sag(w)
        return total + _SAFE * (1 + float(np.abs(w).max()) + float(np.abs(s).max()))


class Polynomials(Weights):
    """Polynomials of degree j by their Bernstein coefficients, seen through j values.

    Args:
        repeats: j.
    """

    def __init__(self, repeats: int) -> None:
        self.repeats, self.size = repeats, repeats + 1
        self._few = _chords(repeats, _FEW_PIECES)

    def shares(self, values: _Array) -> _Array:
        """The probability of each number of hits among coins with these probabilities."""
        found = np.zeros((len(values), self.size))
        found[:, 0] = 1.0
        for x in np.asarray(values, dtype=np.float64).T[:, :, None]:
            found[:, 1:] = found[:, 1:] * (1 - x) + found[:, :-1] * x
            found[:, :1] *= 1 - x
        return found

    def slopes(self, w: _Array, few: bool = False) -> _Array:
        return (self._few if few else self._many) @ w

    def lengths(self, few: bool = False) -> _Array:
        pieces = _FEW_PIECES if few else _PIECES
        return np.full(pieces, 1 / pieces)

    def transposed(self, per_piece: _Array) -> _Array:
        return self._few.T @ per_piece

    def sags(self, w: _Array, few: bool = False) -> _Array:
        """h²/8 · max W'', and W'' is a mean of j (j − 1) Δ²w."""
        pieces = _FEW_PIECES if few else _PIECES
        return np.diff(w, 2) * (self.repeats * (self.repeats - 1) / 8 / pieces**2)

    @cached_property
    def _many(self) -> _Array:
        return _chords(self.repeats, _PIECES)

    @property
    def linear(self) -> _Array:
        return np.arange(self.size) / self.repeats


class Piecewise(Weights):
    """Functions that are linear between nodes, by their values there, seen through g itself.

    Args:
        nodes: increasing, from 0 to 1.
    """

    repeats = 1

    def __init__(self, nodes: Sequence[float] | _Array) -> None:
        self.nodes = np.asarray(nodes, dtype=np.float64)
        self.size = len(self.nodes)

    @classmethod
    def at(cls, pilot: _Array, pieces: int = 24) -> Piecewise:
        """Nodes at percentiles of pilot draws, where there is most to be told apart."""
        return cls(np.unique(np.concatenate([[0.0, 1.0], np.quantile(pilot, np.linspace(0, 1, pieces - 1))])))

    def shares(self, values: _Array) -> _Array:
        x = np.clip(np.asarray(values, dtype=np.float64).reshape(-1), 0.0, 1.0)
        right = np.clip(np.searchsorted(self.nodes, x, side="right"), 1, self.size - 1)
        along = np.clip((x - self.nodes[right - 1]) / (self.nodes[right] - self.nodes[right - 1]), 0.0, 1.0)
        found, rows = np.zeros((len(x), self.size)), np.arange(len(x))
        found[rows, right - 1], found[rows, right] = 1 - along, along
        return found

    def estimates(self, w: _Array, values: _Array) -> _Array:
        return np.interp(np.asarray(values, dtype=np.float64).reshape(-1), self.nodes, w)

    def slopes(self, w: _Array, few: bool = False) -> _Array:
        return np.diff(w) / self.lengths()

    def lengths(self, few: bool = False) -> _Array:
        return np.diff(self.nodes)

    def transposed(self, per_piece: _Array) -> _Array:
        each = per_piece / self.lengths()
        return np.concatenate([[0.0], each]) - np.concatenate([each, [0.0]])

    def sags(self, w: _Array, few: bool = False) -> _Array:
        return np.zeros((*w.shape[:-1], 0))

    @property
    def linear(self) -> _Array:
        return self.nodes.copy()


def _chords(degree: int, pieces: int) -> _Array:
    """Bernstein coefficients → slopes of chords between k/pieces: a mean of the coefficients' differences, each times j."""
    v = np.arange(pieces + 1)[:, None] / pieces
    table = np.zeros((pieces + 1, degree + 1))
    table[:, 0] = 1.0
    for _ in range(degree):  # probabilities of 0 … j hits, a coin at a time
        table[:, 1:] = table[:, 1:] * (1 - v) + table[:, :-1] * v
        table[:, :1] *= 1 - v
    return np.diff(table, axis=0) * pieces


class Pilot:
    """What pilot draws say about the law of the estimates; chooses, and claims nothing.

    Args:
        weights: the family to choose from.
        values: (N, j), in [0, 1].
    """

    def __init__(self, weights: Weights, values: _Array) -> None:
        self.weights, self.values = weights, values
        shares = weights.shares(values)
        self.count = len(shares)
        seen = shares.mean(axis=0)
        self.mean = fitted(seen, weights.repeats) if isinstance(weights, Polynomials) else seen
        # Half a draw more of each kind, lest what was not seen is taken for what cannot be.
        second = shares.T @ shares / self.count + np.eye(weights.size) * 0.5 / self.count
        self.covariance = second - np.outer(seen, seen)

    def choose(self, noise: Noise, rho: float, replicas: int, n: int, alpha: float) -> tuple[_Array, float]:
        """The W with about the least bound at ρ from n draws, limits included, and that bound.

        Minimised is E W + sqrt(2 ln(1/α) Var W/n) + ln(1/α) (max W − min W)/(3n) + ∫ H(W') over the fitted law, which is convex
        in W. (Any W will do: the optimiser is not trusted.)
        """
        weights = self.weights

        def objective(free: _Array) -> tuple[float, _Array]:
            w = np.concatenate([[0.0], free])
            value, gradient, s, gained = self._expected(w, noise, rho, replicas, n, alpha)
            slope = _derivative(noise, s, gained, rho, replicas)
            return value, (gradient + weights.transposed(weights.lengths(few=True) * slope))[1:]

        start = weights.linear[1:]
        found = scipy.optimize.minimize(objective, start, jac=True, method="BFGS", options={"maxiter": 300})
        best = min((start, found.x), key=lambda x: objective(x)[0] if np.isfinite(x).all() else math.inf)
        # Slopes are rounded, not W: of two nodes side by side it is the difference that counts. An error of ε in all of them
        # moves E W by ε E g at most, and the bound, which is near its least, by far less.
        apart = np.diff(weights.linear)
        best = np.cumsum(_rounded(np.diff(best, prepend=0.0) / apart, 4, 1.0) * apart)
        return np.concatenate([[0.0], best]), objective(best)[0]

    def expected(self, w: _Array, noise: Noise, rho: float, replicas: int, n: int, alpha: float) -> float:
        """About the bound at ρ from n draws that these pilot draws let expect of a W with W(0) = 0."""
        return self._expected(w, noise, rho, replicas, n, alpha)[0]

    def _expected(
        self, w: _Array, noise: Noise, rho: float, replicas: int, n: int, alpha: float
    ) -> tuple[float, _Array, _Array, _Array]:
        """The same; how what of it is no integral depends on w; slopes, and H at these."""
        log = math.log(1 / alpha)
        width, reach = math.sqrt(2 * log / n), log / (3 * n)
        s = self.weights.slopes(w, few=True)
        spread = math.sqrt(max(float(w @ self.covariance @ w), 1e-30))
        top, bottom = int(w.argmax()), int(w.argmin())
        gained = noise.hockey_stick(s, rho, replicas)
        ends = width * spread + reach * (w[top] - w[bottom])
        value = float(self.mean @ w + ends + self.weights.lengths(few=True) @ gained)
        gradient = self.mean + width * (self.covariance @ w) / spread
        gradient[top] += reach
        gradient[bottom] -= reach
        return value, gradient, s, gained

    def stake(self, w: _Array, n: int, alpha: float) -> float:
        """The stake for a limit of E W."""
        low, high = float(w.min()), float(w.max())
        if isinstance(self.weights, Polynomials) and bool(np.isin(self.values, (0.0, 1.0)).all()):
            return stake(w, self.mean * self.count, n, alpha, low, high)
        x = self.weights.estimates(w, self.values)
        return stake(x, np.ones(len(x)), n, alpha, low, high)


def fitted(seen: _Array, repeats: int) -> _Array:
    """The mixture of binomials of `repeats` trials nearest to the shares that were seen: maximum likelihood.

    Shares of a few pilot draws may be those of no law of g at all (a variance below that of coins), for which no W is best.
    By Fisher scoring: least squares among mixtures, over and over, each share weighted by what the last fit makes of its
    variance. Where the fit stands still the conditions of the greatest likelihood hold.
    """
    g = np.linspace(0, 1, _ATOMS)[:, None]
    table = np.zeros((_ATOMS, repeats + 1))
    table[:, 0] = 1.0
    for _ in range(repeats):
        table[:, 1:] = table[:, 1:] * (1 - g) + table[:, :-1] * g
        table[:, :1] *= 1 - g
    fit = table.mean(axis=0)
    for _ in range(_FITS):
        scale = 1 / np.sqrt(np.maximum(fit, 1e-9))
        try:
            law = scipy.optimize.nnls((table * scale).T, seen * scale)[0]
        except RuntimeError:  # pragma: no cover - too many steps: what there is will do
            break
        last, fit = fit, (law / law.sum()) @ table
        if np.abs(fit - last).max() < 1e-12:
            break
    return np.asarray(fit)


def _rounded(x: _Array, digits: int, least: float) -> _Array:
    """What an optimiser found, each number to so many digits of its own: the last ones are another machine's guess.

    Numbers below `least` are rounded as if they were that. Not all to digits of the largest: at small probabilities slopes of W
    where g mostly is are 1, and the last ones 100, and it is the first that matter.
    """
    unit = 10.0 ** np.floor(np.log10(np.maximum(np.abs(x), least)))
    return np.asarray(np.round(x / unit, digits - 1) * unit)


def _derivative(noise: Noise, s: _Array, gained: _Array, rho: float, replicas: int) -> _Array:
    """About dH/ds, by differences: for the optimiser alone."""
    step = 1e-6 * (1 + np.abs(s))
    return (noise.hockey_stick(s + step, rho, replicas) - noise.hockey_stick(s - step, rho, replicas)) / (2 * step)


@dataclass(frozen=True, eq=False)
class Limits(Record):
    """Upper limits of E_P W_k(g) for a few functions W_k, all at once with some confidence; every ρ follows from them.

    Attributes:
        weights: the family.
        coefficients: of the W_k, (k, size).
        limits: M_k ≥ E_P W_k(g).
        theorems: what each serves: "T14", or "T5" for E_P g ≤ M alone.
    """

    weights: Weights
    coefficients: _Array = field(repr=False)
    limits: tuple[float, ...]
    theorems: tuple[str, ...]

    def bound(self, noise: Noise, rho: float, replicas: int) -> tuple[float, _Array]:
        """The least bound of E_Q S at any ρ that a mixture Σ a_k W_k gives, T5 included, and the a; at most 1.

        At other mixtures than the best the bound is larger, and as true.
        """
        count, gain = len(self.limits), np.asarray(self.limits) - self.coefficients[:, 0]

        def objective(a: _Array, few: bool) -> tuple[float, _Array]:
            rows, sags, lengths = tables[few]
            s, sag = a @ rows, a @ sags
            gained = noise.hockey_stick(s, rho, replicas)
            slope = _derivative(noise, s, gained, rho, replicas)
            value, gradient = float(a @ gain + lengths @ gained), gain + rows @ (lengths * slope)
            # Without the sag a W that bends ever more, between the ends of two pieces, would seem to cost nothing.
            if sag.max(initial=0.0) > 0:
                value, gradient = value + float(sag.max()), gradient + sags[:, int(sag.argmax())]
            return value, gradient

        tables = {
            few: (
                np.stack([self.weights.slopes(w, few) for w in self.coefficients]),
                self.weights.sags(self.coefficients, few),
                self.weights.lengths(few),
            )
            for few in (True, False)
        }
        candidates = [np.zeros(count)]
        for one in np.eye(count):
            alone = scipy.optimize.minimize_scalar(
                lambda t, one=one: objective(math.exp(t) * one, True)[0], bounds=(-12, 12), method="bounded"
            )
            candidates.append(math.exp(alone.x) * one)
        # From the best of these, all together, over few pieces and then over many. A limit that is no use alone may be with
        # others: it starts at slopes about 1.
        usual = 1 / np.maximum(np.ptp(self.coefficients, axis=1), 1e-6)
        for few in (True, False):
            best = candidates[int(np.argmin([objective(a, few)[0] for a in candidates]))]
            unit = np.where(best > 1e-3 * usual, best, usual)

            def scaled(x: _Array, unit: _Array = unit, few: bool = few) -> tuple[float, _Array]:
                value, gradient = objective(unit * x, few)
                return value, unit * gradient

            together = scipy.optimize.minimize(
                scaled,
                best / unit,
                jac=True,
                method="L-BFGS-B",
                bounds=[(0.0, None)] * count,
                options={"ftol": 1e-13, "gtol": 1e-8, "maxiter": 60, "maxfun": 200},
            )
            candidates.append(np.maximum(unit * together.x, 0.0))
        candidates = [_rounded(a, 7, 1e-6) for a in candidates]
        values = [self.value(a, noise, rho, replicas) for a in candidates]
        least = int(np.argmin(values))
        # (Limits that contradict each other, which they may with probability α, would give less than 0.)
        return max(0.0, min(1.0, values[least], self.of_t5(noise, rho, replicas))), candidates[least]

    def value(self, a: _Array, noise: Noise, rho: float, replicas: int) -> float:
        """The bound by one mixture, rounded up: true for every a ≥ 0."""
        if not np.isfinite(a).all():
            return math.inf
        w = a @ self.coefficients
        limit = math.fsum(a * np.asarray(self.limits))
        return limit + _SAFE * (1 + abs(limit)) + self.weights.excess(w, noise, rho, replicas)

    @classmethod
    def of(
        cls, pilot: Pilot, values: _Array, chosen: Sequence[tuple[_Array, float]], alpha: float, *, hits: bool
    ) -> Limits:
        """Limits from bounding draws.

        Args:
            pilot: what chose, and the family.
            values: (n, j) in [0, 1], independent of the pilot draws.
            chosen: pairs of coefficients and the failure probability of their limit.
            alpha: failure probability of a limit of E g itself, which is T5's; 0: none.
            hits: whether values are 0 and 1: then T5's limit is Clopper and Pearson's, from the first value of each draw.
        """
        family, found = pilot.weights, []
        asked = [*chosen, *([(family.linear, alpha)] if alpha and not hits else [])]
        for w, level in asked:
            low, high = float(w.min()), float(w.max())
            x, tau = family.estimates(w, values), pilot.stake(w, len(values), level)
            limit = upper_limit(x, low=low, high=high, alpha=level, stake=tau)
            found.append(limit + _SAFE * (1 + float(np.abs(w).max())))
        if alpha and hits:
            found.append(clopper_pearson(int(values[:, 0].sum()), len(values), alpha))
        rows = [w for w, _ in chosen] + ([family.linear] if alpha else [])
        return cls(family, np.stack(rows), tuple(found), ("T14",) * len(chosen) + (("T5",) if alpha else ()))

    def of_t5(self, noise: Noise, rho: float, replicas: int) -> float:
        """What T5 makes of its limit: p⁺; 1 without one."""
        still = [limit for limit, theorem in zip(self.limits, self.theorems, strict=True) if theorem == "T5"]
        return min((1 - noise.tails(p, rho, replicas).upper for p in still if p < 1), default=1.0)

    def won(self, noise: Noise, rho: float, replicas: int) -> str:
        """Whose bound is the least at ρ: "T5", or "T14" where more than T5's limit was needed."""
        return "T5" if self.bound(noise, rho, replicas)[0] >= self.of_t5(noise, rho, replicas) else "T14"


def chosen_limits(
    pilot: Pilot,
    values: _Array,
    noise: Noise,
    *,
    rho: float,
    replicas: int,
    alpha: float,
    hits: bool,
    curve: bool,
    radii: Sequence[float] = (),
) -> Limits:
    """Limits whose W and whose shares of α are chosen by pilot draws for a radius, or for all radii about alike.

    Seven eighths of α go to what promises more at ρ, T5 or T14, one eighth to the other; of a score that is seen itself all of
    it goes to T14, whose W may be linear. For a curve T14's share is divided by
    three: W for a fifth of ρ, for ρ and for four times ρ.

    Args:
        pilot: pilot draws.
        values: bounding draws, (n, j) in [0, 1].
        noise, rho, replicas, alpha: as in `certify.mean_bound`.
        hits: whether values are 0 and 1.
        curve: whether all radii count.
        radii: for which W are chosen, if given; else ρ itself, or for a curve the three.
    """
    n, family = len(values), pilot.weights
    if family.size == 2:  # W is linear: T5
        return Limits.of(pilot, values, [], alpha, hits=hits)
    share = alpha
    if isinstance(family, Polynomials):
        share, mean = alpha * 7 / 8, float(pilot.mean @ family.linear)
        guess = clopper_pearson(min(n - 1, round(mean * n)), n, share)
        if 1 - noise.tails(guess, rho, replicas).upper < pilot.choose(noise, rho, replicas, n, share)[1]:
            share = alpha / 8
    served = tuple(radii) or (tuple(dict.fromkeys((rho / 5, rho, 4 * rho))) if curve else (rho,))
    each = share / len(served)
    chosen = [(pilot.choose(noise, radius, replicas, n, each)[0], each) for radius in served]
    return Limits.of(pilot, values, chosen, alpha - share, hits=hits)


TRIED = 6
"""Values of each pilot draw, where the split is chosen."""
SPLITS = (2, 3, 4, 6)
"""Values of each bounding draw that are considered besides one."""
MOST = 100
"""Values of one draw, at most: a W of this degree has as many coefficients, and more than ten hardly gain anything."""
LEAST = 50 * TRIED
"""Values in all from which on the split is chosen: the pilot, a fifth of them, then has ten draws of the copies or more."""


def repeats_of(repeats: Any) -> int | None:
    """How many values of each draw are asked for: a whole number from 1 to `MOST`, or None: to be chosen.

    Raises:
        ValueError, TypeError: it is another one.
    """
    if repeats is not None and (count := _validate.count("repeats", repeats)) > MOST:
        raise ValueError(f"repeats = {count}: must be at most {MOST}, draw more copies instead")
    return None if repeats is None else count


def split(pilot: _Array, n: int, noise: Noise, *, rho: float, replicas: int, alpha: float, hits: bool) -> int:
    """How many of n values each draw of the copies is to have, by what pilot draws let expect of the bound at a radius.

    Args:
        pilot: (N, TRIED), in [0, 1].
        n: values in all.
        noise, rho, replicas, alpha, hits: as in `chosen_limits`; of hits one value a draw is a count, and T5.
    """
    expected: dict[int, float] = {}
    if hits:
        guess = clopper_pearson(min(n - 1, round(float(pilot.mean()) * n)), n, alpha)
        expected[1] = 1 - noise.tails(guess, rho, replicas).upper
    for j in SPLITS if hits else (1, *SPLITS):
        # A W that was chosen on some draws promises too much on the same ones.
        parts = [Pilot(Polynomials(j), half[:, : TRIED // j * j].reshape(-1, j)) for half in (pilot[0::2], pilot[1::2])]
        about: dict[str, Any] = {"noise": noise, "rho": rho, "replicas": replicas, "n": n // j, "alpha": alpha}
        promised = [b.expected(a.choose(**about)[0], **about) for a, b in (parts, parts[::-1])]
        expected[j] = sum(promised) / 2
    return min(expected, key=lambda j: (expected[j], j))


@dataclass(frozen=True, kw_only=True)
class MeanBound(OfCopies):
    """What `certify.mean_bound` returns, and `certify.event_bound` for several values of one draw of the copies.

    E S ≤ `value` at y + δ (side "upper"), over the deployment noise and the randomness of S, for every ‖δ‖_Σ ≤ ρ, with
    confidence 1 − α; E S ≥ `value` ("lower"); or `lower` ≤ E S ≤ `value` ("two-sided"). Abstained where that says no more than
    `floor` and `ceiling`.

    Attributes:
        repeats: j, values of S of one draw of the copies; 1 where it is not random, and seen itself.
        floor, ceiling: what S lies between; 0 and 1 for the probability of an event.
        won: "T14", or "T5" where its limit alone gives the value: W is linear.
        held: what the bounds at all radii follow from; the same as `evidence`, but in an abstention, too.
    """

    repeats: int
    floor: float
    ceiling: float
    won: str
    held: MeanEvidence = field(repr=False)

    theorem: str = constant("T14")
    quantity: str = constant("mean")

    def least(self, rho: float) -> float:
        """The lower bound at another radius; `floor` where it was not asked for."""
        return self.interval(rho)[0]

    def interval(self, rho: float) -> tuple[float, float]:
        """(lower, upper) bounds of E S at another radius; `floor` and `ceiling` where nothing was asked.

        All radii follow from the same limits, so they hold at once with probability 1 − α.
        """
        return self.held.interval(self.run.noise, _validate.not_negative("rho", rho))

    def at(self, rho: float) -> float:
        """The bound at another radius, of the side that was asked for (two-sided: the upper)."""
        return self.interval(rho)[0 if self.side == "lower" else 1]

    def radius(self, limit: float) -> float:
        """The largest radius, rounded down, up to which the bound keeps to a limit; 0 if there is none, 64 if it is farther."""
        limit = _validate.finite("limit", limit)

        sign = -1.0 if self.side == "lower" else 1.0

        @cache  # each takes an optimisation
        def excess(rho: float) -> float:
            return sign * (self.at(rho) - limit)

        if excess(0.0) > 0:
            return 0.0
        low, high = 0.0, 1.0
        while excess(high) <= 0:
            low, high = high, 2 * high
            if low >= 64:
                return low
        # One of 2⁴⁰ steps: sought near the root that interpolation finds, with a tenth of the evaluations of a bisection.
        steps, width = 2**40, high - low
        guess = (scipy.optimize.brentq(excess, low, high, xtol=width / steps, rtol=1e-12) - low) / width * steps
        return (
            low + last_that_holds(lambda k: excess(low + k / steps * width) <= 0, steps - 1, int(guess)) / steps * width
        )


@dataclass(frozen=True, eq=False)
class MeanEvidence(Evidence):
    """Limits of means of functions of g, from which the bound at every radius follows.

    Attributes:
        lower, upper: of E S at the claim's radius.
        side, replicas, repeats, floor, ceiling: as in `MeanBound`.
        above, below: limits for (S − floor)/(ceiling − floor), and for its complement; None for a side that was not asked for.
        mixtures: for either the mixture of its limits that gives the value.
    """

    lower: float
    upper: float
    side: str
    replicas: int
    repeats: int
    floor: float
    ceiling: float
    above: Limits | None
    below: Limits | None
    mixtures: tuple[_Array, _Array]

    kind: ClassVar[str] = "mean"
    scalars: ClassVar[Mapping[str, type]] = {
        "lower": float,
        "upper": float,
        "side": str,
        "replicas": int,
        "repeats": int,
        "floor": float,
        "ceiling": float,
    }

    @classmethod
    def of(
        cls,
        above: Limits | None,
        below: Limits | None,
        noise: Noise,
        rho: float,
        *,
        side: str,
        replicas: int,
        repeats: int,
        floor: float,
        ceiling: float,
    ) -> MeanEvidence:
        """At a radius."""
        at = [np.zeros(0) if held is None else held.bound(noise, rho, replicas)[1] for held in (above, below)]
        made = cls(floor, ceiling, side, replicas, repeats, floor, ceiling, above, below, (at[0], at[1]))
        low, high = made._ends(noise, rho, made.mixtures)
        return replace(made, lower=low, upper=high)

    def interval(self, noise: Noise, rho: float) -> tuple[float, float]:
        """(lower, upper) bounds of E S at a radius, in the unit of S; `floor` and `ceiling` where nothing was asked."""
        return self._ends(noise, rho, (None, None))

    def _ends(self, noise: Noise, rho: float, mixtures: tuple[_Array | None, _Array | None]) -> tuple[float, float]:
        """The same by given mixtures of the limits (None: the best), rounded outwards."""
        span, low, shares = self.ceiling - self.floor, self.floor, []
        for held, a in zip((self.above, self.below), mixtures, strict=True):
            share = 1.0
            if held is not None and a is None:
                share = held.bound(noise, rho, self.replicas)[0]
            elif held is not None and a is not None:
                share = max(0.0, min(held.value(a, noise, rho, self.replicas), held.of_t5(noise, rho, self.replicas)))
            shares.append(share)
        if shares[1] < 1:
            low = max(self.floor, (self.ceiling - span * shares[1]) - 4e-16 * (abs(self.ceiling) + span))
        return low, self._high(shares[0])

    def of_t5(self, noise: Noise, rho: float) -> float:
        """The upper bound that T5's limit alone gives at a radius, in the unit of S: its part of α, the first value of each
        draw; `ceiling` without such a limit."""
        share = 1.0 if self.above is None else self.above.of_t5(noise, rho, self.replicas)
        return self._high(share)

    def _high(self, share: float) -> float:
        """An upper bound in the unit of S, rounded up."""
        if share >= 1:
            return self.ceiling
        span = self.ceiling - self.floor
        return min(self.ceiling, (self.floor + span * share) + 4e-16 * (abs(self.floor) + span))

    def won(self, noise: Noise, rho: float) -> str:
        """Whose bound the value is: "T5", or "T14" where more than T5's limit was needed."""
        held = self.below if self.side == "lower" else self.above
        return "T14" if held is None else held.won(noise, rho, self.replicas)

    def tensors(self) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for name, held, a in zip(("above", "below"), (self.above, self.below), self.mixtures, strict=True):
            if held is not None:
                found |= {
                    f"{name}.coefficients": torch.from_numpy(held.coefficients.copy()),
                    f"{name}.limits": torch.tensor(held.limits, dtype=torch.float64),
                    f"{name}.t5": torch.tensor([theorem == "T5" for theorem in held.theorems]),
                    f"{name}.mixture": torch.from_numpy(a.copy()),
                }
                if isinstance(held.weights, Piecewise):
                    found[f"{name}.nodes"] = torch.from_numpy(held.weights.nodes.copy())
        return found

    @classmethod
    def restored(
        cls, numbers: Mapping[str, float | int | str], tensors: Mapping[str, Tensor], center: Tensor | None
    ) -> Self:
        scale = cls._scalars(numbers)
        side, repeats = scale["side"], scale["repeats"]
        if side not in ("upper", "lower", "two-sided") or scale["replicas"] < 1 or not 1 <= repeats <= 10**4:
            raise ValueError(f"side = {side!r}, replicas = {scale['replicas']}, repeats = {repeats}: out of range")
        if not -math.inf < scale["floor"] < scale["ceiling"] < math.inf:
            raise ValueError(f"floor = {scale['floor']}, ceiling = {scale['ceiling']}: out of range")
        sides = [name for name in ("above", "below") if side == "two-sided" or (side == "upper") == (name == "above")]
        limits, mixtures = dict.fromkeys(("above", "below")), {"above": np.zeros(0), "below": np.zeros(0)}
        for name in sides:
            own = {key: _numbers(tensors[f"{name}.{key}"]) for key in ("coefficients", "limits", "t5", "mixture")}
            nodes = tensors.get(f"{name}.nodes")
            family: Weights = Polynomials(repeats) if nodes is None else Piecewise(_numbers(nodes))
            count = len(own["limits"])
            if own["coefficients"].shape != (count, family.size) or {len(own["t5"]), len(own["mixture"])} != {count}:
                raise ValueError(f"{name}: its limits and coefficients do not fit each other")
            if isinstance(family, Piecewise) and not (
                repeats == 1 and family.nodes[0] == 0 and family.nodes[-1] == 1 and (np.diff(family.nodes) > 0).all()
            ):
                raise ValueError(f"{name}: its nodes do not increase from 0 to 1")
            if (own["mixture"] < 0).any():
                raise ValueError(f"{name}: a mixture has weights below 0")
            for row in own["coefficients"][own["t5"] != 0]:
                if not np.array_equal(row, family.linear):
                    raise ValueError(f"{name}: a limit of the mean has another W than v")
            theorems = tuple("T5" if t5 else "T14" for t5 in own["t5"])
            limits[name] = Limits(family, own["coefficients"], tuple(own["limits"].tolist()), theorems)
            mixtures[name] = own["mixture"]
        return cls(**scale, **limits, mixtures=(mixtures["above"], mixtures["below"]))  # type: ignore[arg-type]

    def implied(self, noise: Noise, rho: float) -> float:
        low, high = self._ends(noise, rho, self.mixtures)
        if self.lower > low + 1e-9 * (self.ceiling - self.floor) or self.upper < high - 1e-9 * (
            self.ceiling - self.floor
        ):
            return -math.inf if self.side == "lower" else math.inf  # the limits say less than these ends
        return low if self.side == "lower" else high

    def witness(self) -> AllDraws:
        return AllDraws()

    def verdict(self, seen: Accumulator, noise: Noise, rho: float) -> tuple[float, str]:
        drawn = cast(AllDraws, seen).stacked().to("cpu", torch.float64).reshape(-1, self.repeats).numpy()
        outside = int(((drawn < self.floor) | (drawn > self.ceiling)).any(axis=1).sum())
        if outside:
            return 0.0, f"{outside:,} of {len(drawn):,} draws have values outside [{self.floor:g}, {self.ceiling:g}]"
        scaled = np.clip((drawn - self.floor) / (self.ceiling - self.floor), 0.0, 1.0)
        found = []
        for held, values in ((self.above, scaled), (self.below, 1 - scaled)):
            for w, limit in zip(*((held.coefficients, held.limits) if held is not None else ((), ())), strict=True):
                x = held.weights.estimates(w, values)  # type: ignore[union-attr]
                found.append(evidence_against(x, low=float(w.min()), high=float(w.max()), mean=limit))
        mean = shown(self.floor + float(scaled.mean()) * (self.ceiling - self.floor), "near", 4)
        return min(1.0, len(found) * min(found)), f"mean {mean} of {len(drawn):,} draws at δ = 0, {len(found)} limits"


def _numbers(tensor: Tensor) -> _Array:
    found: _Array = tensor.detach().to("cpu", torch.float64).numpy()
    if not np.isfinite(found).all():
        raise ValueError("its numbers are not finite")
    return found
