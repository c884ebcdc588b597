"""T14's functions W on [0, 1]: what is chosen among, how a W is seen through values of S, and what it costs an attacker.

A polynomial of degree j by its Bernstein coefficients has an unbiased estimate from j values of S for one draw of the copies;
where g itself is seen, W may be any function that is linear between nodes. See `certify.bounds.bounded_mean`.

Safe direction: `excess` is rounded up.

Reference: THEORY T14 (e).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from certify.noise import Noise

__all__ = ["SAFE", "Piecewise", "Polynomials", "Weights"]

_Array = NDArray[np.float64]

_PIECES = 4096  # of [0, 1], for a polynomial's slopes
_FEW_PIECES = 256  # while its coefficients are being chosen

SAFE = 1e-13
"""Of what is added up, the part by which it is rounded up."""


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
        return total + SAFE * (1 + float(np.abs(w).max()) + float(np.abs(s).max()))


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
