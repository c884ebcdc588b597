"""Stopping: accumulators that end a run of draws as soon as a question is decided (T3, sequential).

They are asked after every batch how many draws they want next (`certify.montecarlo.draw_packed`), and look draw by draw (an
event), or at numbers of draws that were fixed beforehand (order statistics): what they decide does not depend on the batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from certify.bounds.base import Evidence, Setting
from certify.bounds.mse import CoordinatewiseMSE
from certify.bounds.percentile import draws_needed
from certify.bounds.weights import Weights
from certify.confidence import (
    UP,
    anytime_limit,
    enough_evidence,
    inner_rank,
    log_evidence_above,
    log_evidence_below,
    looks,
)
from certify.confidence.betting import Bets, upper_limit
from certify.montecarlo import BLOCK, AllDraws, Counts, ExtremeRanks

__all__ = ["StoppedCount", "StoppedMean", "StoppedRanks"]

FIRST = 16
"""Draws of the first batch, at most."""


class StoppedCount(Counts):
    """Counts an event, draw by draw, until it is decided whether its probability is at most `allowed`.

    Args:
        allowed: p₀, rounded down.
        alpha: failure probability of "yes" and the upper limit, and again of "no" and the lower one.
        happens: outputs (b, *output) → (b,) booleans; None: the outputs are 0 or 1 themselves.
    """

    def __init__(self, allowed: float, alpha: float, happens: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.allowed, self.alpha, self.happens = allowed, alpha, happens
        self.decided = "undecided"

    def widened(self, other: Counts) -> StoppedCount:
        return StoppedCount(self.allowed, self.alpha, self.happens)

    def update(self, outputs: Tensor) -> None:
        if self.decided != "undecided":
            return
        if self.happens is not None:
            outputs = self.happens(outputs).to(outputs.dtype)
        n = self.count + np.arange(1, outputs.shape[0] + 1)
        before = int(self.ones)
        super().update(outputs)  # checks that they are 0 or 1
        successes = before + outputs.to("cpu", torch.int64).cumsum(dim=0).numpy()
        yes, no = np.zeros(len(n), dtype=bool), np.zeros(len(n), dtype=bool)
        least = self._exceeded
        # A rate on one side of p₀ is no evidence for the other: M ≤ 1.
        low, high = successes < self.allowed * n, successes > least * n
        if low.any():  # and p₀ > 0
            yes[low] = log_evidence_below(successes[low], n[low], self.allowed) >= enough_evidence(n[low], self.alpha)
        if high.any():  # and p₀ < 1
            no[high] = log_evidence_above(successes[high], n[high], least) >= enough_evidence(n[high], self.alpha)
        decisive = np.flatnonzero(yes | no)
        if len(decisive):
            first = int(decisive[0])
            self.decided = "yes" if yes[first] else "no"
            self.count, self.ones = int(n[first]), int(successes[first])

    def next_draws(self) -> int:
        """How many draws to make next: as many as it takes at least to decide as things stand, so that few are made in vain.

        At first 16 at most, later at most as many again as there are; 0 once it is decided.
        """
        if self.decided != "undecided":
            return 0
        n, ones = self.count, int(self.ones)
        if n == 0:
            return min(self._least(ones, FIRST, up=up) for up in (False, True))
        # By which side it is going to be, if it goes on like this.
        return max(self._least(ones, n, up=ones > self.allowed * (n + 1)), n // 20)

    @property
    def _exceeded(self) -> float:
        """p₀ rounded up, for "no"."""
        return max(self.allowed * UP, 1e-300)

    def _least(self, ones: int, most: int, *, up: bool) -> int:
        """The fewest draws, 1 … `most`, after which it can be decided: "no" if all are events (`up`), "yes" if none is."""
        more = np.arange(1, most + 1)
        n = self.count + more
        p0 = self._exceeded if up else self.allowed
        if not 0 < p0 < 1:  # this side cannot be decided
            return most
        enough = log_evidence_above(ones + more, n, p0) if up else log_evidence_below(ones, n, p0)
        reached = np.flatnonzero(enough >= enough_evidence(n, self.alpha))
        return int(more[reached[0]]) if len(reached) else most

    def limits(self) -> tuple[float, float]:
        """Limits of the probability, each valid with probability 1 − α wherever drawing ended, together with its decision."""
        ones = int(self.ones)
        return anytime_limit(ones, self.count, self.alpha, "lower"), anytime_limit(ones, self.count, self.alpha)


class StoppedMean(AllDraws):
    """Bets, draw by draw, until it is decided whether the mean of a bounded W(g) is at most `allowed` (T14).

    Args:
        weights, w: the family and the coefficients of W, chosen without these draws.
        allowed: the largest mean with which the answer is "yes", rounded down.
        stake: as in `certify.confidence.betting.upper_limit`.
        alpha: failure probability of "yes" and the limit, and again of "no".
        scaled: outputs → (b, j) values in [0, 1], checked.
    """

    key = "stopped mean"

    def __init__(
        self,
        weights: Weights,
        w: Any,
        allowed: float,
        stake: float,
        alpha: float,
        scaled: Callable[[Tensor], Any],
    ) -> None:
        super().__init__()
        self.weights, self.w, self.allowed, self.stake, self.alpha, self.scaled = (
            weights,
            w,
            allowed,
            stake,
            alpha,
            scaled,
        )
        self.low, self.high, self.decided = float(w.min()), float(w.max()), "undecided"
        self.estimates = np.empty(0)
        inside = self.low < allowed < self.high
        ends: dict[str, float] = {"low": self.low, "high": self.high, "mean": allowed}
        self.bets = (Bets(**ends, stake=stake), Bets(**ends, stake=None)) if inside else None

    def widened(self, other: AllDraws) -> StoppedMean:
        return StoppedMean(self.weights, self.w, self.allowed, self.stake, self.alpha, self.scaled)

    def update(self, outputs: Tensor) -> None:
        if self.decided != "undecided":
            return
        x = self.weights.estimates(self.w, self.scaled(outputs))
        n = self.count + np.arange(1, len(x) + 1)
        if self.bets is None:  # whatever is drawn
            yes, no = (np.full(len(x), side) for side in (self.allowed >= self.high, self.allowed <= self.low))
        else:
            yes, no = (bet.take(x) >= enough_evidence(n, self.alpha) for bet in self.bets)
        decisive = np.flatnonzero(yes | no)
        taken = int(decisive[0]) + 1 if len(decisive) else len(x)
        if len(decisive):
            self.decided = "yes" if yes[taken - 1] else "no"
        self.count += taken
        self.estimates = np.concatenate([self.estimates, x[:taken]])

    def next_draws(self) -> int:
        """How many draws to make next: a block, in which the statistic is random; 0 once it is decided."""
        return BLOCK if self.decided == "undecided" else 0

    def limit(self) -> float:
        """An upper limit of the mean, valid with probability 1 − α wherever drawing ended."""
        found = upper_limit(self.estimates, low=self.low, high=self.high, alpha=self.alpha, stake=self.stake)
        return found + 1e-13 * (1 + float(np.abs(self.w).max()))


class StoppedRanks(ExtremeRanks):
    """Takes the coordinate-wise bound at the numbers of draws that `looks` names, and stops at the first that decides.

    "Yes" by the bound itself. "No" by its mirror image: order statistics on the *inner* side of the percentiles at p^±, at
    which already the population's own bound Σ_i max{(U_i − c_i)², (c_i − L_i)²} exceeds the tolerance.
    """

    def __init__(self, setting: Setting, tolerance: float, rho: float, alpha: float) -> None:
        self.setting, self.tolerance, self.rho, self.alpha = setting, tolerance, rho, alpha
        self.value, self.decided = math.inf, "undecided"
        self.evidence: Evidence | None = None
        self.tails = setting.noise.tails(0.5, rho)
        first = draws_needed(self.tails, alpha / (2 * setting.outputs)) or setting.n
        # More looks leave less for each, and so take more draws before the first is worth it.
        first = draws_needed(self.tails, looks(first, setting.n, alpha)[0][1] / (2 * setting.outputs)) or setting.n
        self.plan = [
            (count, share, CoordinatewiseMSE(replace(setting, n=count), share, rho))
            for count, share in looks(min(first, setting.n), setting.n, alpha)
        ]
        self.inner = [
            tuple(inner_rank(count, tail, share / (2 * setting.outputs)) for tail in self.tails)
            for count, share, _ in self.plan
        ]
        ranks = [need for _, _, method in self.plan for need in method.needs(rho) if isinstance(need, ExtremeRanks)]
        super().__init__(
            max([need.low for need in ranks] + [low for low, _ in self.inner]),
            max([need.high for need in ranks] + [high for _, high in self.inner]),
        )
        self._next = 0

    def widened(self, other: ExtremeRanks) -> StoppedRanks:
        return StoppedRanks(self.setting, self.tolerance, self.rho, self.alpha)

    def update(self, outputs: Tensor) -> None:
        rest = outputs
        while rest.shape[0] and self.decided == "undecided" and self._next < len(self.plan):
            count, _, method = self.plan[self._next]
            room = count - self.count
            super().update(rest[:room])
            rest = rest[room:]
            if self.count == count:
                self._look(method, *self.inner[self._next])
                self._next += 1

    def next_draws(self) -> int:
        """How many draws to make next: up to the next look; 0 once it is decided."""
        if self.decided != "undecided" or self._next == len(self.plan):
            return 0
        return self.plan[self._next][0] - self.count

    def _look(self, method: CoordinatewiseMSE, low: int, high: int) -> None:
        evaluation = method.at(self.rho, {self.key: self})
        self.value, self.evidence = evaluation.value, evaluation.evidence
        if self.value <= self.tolerance:
            self.decided = "yes"
        elif self._at_least(low, high) > self.tolerance:
            self.decided = "no"

    def _at_least(self, low: int, high: int) -> float:
        """What the population's bound is at least; ranks from either end, 0: none."""
        center = self.setting.center.to("cpu", torch.float64)
        zeta = torch.zeros_like(center)
        if high:
            zeta = torch.maximum(zeta, (self.largest(high).to("cpu", torch.float64) - center).clamp(min=0).square())
        if low:
            zeta = torch.maximum(zeta, (center - self.smallest(low).to("cpu", torch.float64)).clamp(min=0).square())
        least = float(zeta.sum()) * (1 - 4e-16 * max(zeta.numel(), 1))
        support = self.setting.support
        return least if support is None else min(least, support.median_cap(self.setting.center))
