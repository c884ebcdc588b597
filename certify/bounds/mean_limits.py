"""T14 from draws: W chosen on pilot draws, limits of E W(g) from bounding draws, and how many values each draw is to have.

What is chosen needs no trust: every W gives a bound (weak duality). One pair of limits, or a few, serve every radius at once:
W = Σ a_k W_k with any a ≥ 0 has the limit Σ a_k M_k. See `certify.bounds.bounded_mean`.

Safe direction: limits and bounds are rounded up.

Reference: THEORY T14 (f).

>>> from certify.noise import GaussianNoise
>>> still = Limits(Polynomials(1), np.array([[0.0, 1.0]]), (0.2,), ("T14",))  # E g ≤ .2
>>> round(still.bound(GaussianNoise(1.0), 1.0, 1)[0], 9), round(1 - GaussianNoise(1.0).tails(0.2, 1.0).upper, 9)  # T5
(0.562920828, 0.562920828)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy  # its parts load when they are first named
from numpy.typing import NDArray

from certify import _validate
from certify._records import Record
from certify.bounds.weights import SAFE, Polynomials, Weights
from certify.confidence import clopper_pearson
from certify.confidence.betting import stake, upper_limit
from certify.noise import Noise

__all__ = [
    "LEAST",
    "MOST",
    "SPLITS",
    "TRIED",
    "Limits",
    "Pilot",
    "chosen_limits",
    "fitted",
    "repeats_of",
    "split",
]

_Array = NDArray[np.float64]

_ATOMS = 201  # of a law of g that is fitted to pilot draws
_FITS = 50  # steps of the fit, at most


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
        return limit + SAFE * (1 + abs(limit)) + self.weights.excess(w, noise, rho, replicas)

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
            found.append(limit + SAFE * (1 + float(np.abs(w).max())))
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
