"""Drawing: the options of everything that draws, spelled out once, and checked before anything is drawn.

A function names the options that it takes as `**options: Unpack[…]`; `Drawing` explains them, and has their defaults.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypedDict, Unpack

from torch import Tensor

from certify import _validate
from certify.bounds.base import Run, default_pilot, recorded
from certify.montecarlo import Accumulator, Function, Progress, draw, draw_all, draw_packed
from certify.montecarlo.checkpoint import Checkpoint, as_checkpoint
from certify.montecarlo.ranks import DEFAULT_MEMORY
from certify.montecarlo.work import counted_work
from certify.noise import Noise, as_noise
from certify.progress import as_progress
from certify.support import Inside, as_support

__all__ = [
    "AskOptions",
    "CheckpointOptions",
    "CountOptions",
    "DecideMSEOptions",
    "DecideOptions",
    "Drawing",
    "Draws",
    "MeanOptions",
    "RateOptions",
    "SeedOptions",
    "StatisticOptions",
]


class SeedOptions(TypedDict, total=False):
    """The seed and the progress callback; `Draws` explains these and all that follow."""

    seed: int
    progress: Progress | bool | None


class CheckpointOptions(SeedOptions, total=False):
    """Those, and the folder of the checkpoint."""

    checkpoint: Checkpoint | str | Path | None


class CountOptions(CheckpointOptions, total=False):
    """Those, and the number of draws."""

    n: int


class RateOptions(CountOptions, total=False):
    """The options of a rate over several inputs."""

    batch_size: int | None


class _Recorded(TypedDict, total=False):
    policy: str
    function: str


class _Reference(TypedDict, total=False):
    center: Tensor | None
    support: Any
    pilot: int | None


class StatisticOptions(RateOptions, _Recorded, total=False):
    """The options of a statement about a statistic or an event of K copies."""


class MeanOptions(StatisticOptions, total=False):
    """And of a statement about a mean, whose W is chosen on pilot draws."""

    pilot: int | None


class DecideOptions(SeedOptions, _Recorded, total=False):
    """The options of what stops early, which keeps no checkpoint."""

    n: int
    batch_size: int | None


class DecideMSEOptions(DecideOptions, _Reference, total=False):
    """And of what stops early about a distance."""


class AskOptions(StatisticOptions, _Reference, total=False):
    """The options of `ask`, and of every bound that it answers with."""

    reference: str | None
    memory: int | None


class Draws:
    """How many draws are made, which and how: the options of everything that draws, checked.

    Args:
        n: draws that enter the bound (where drawing stops early, the most).
        seed: whole number ≥ 0. The same seed gives the same answers.
        progress: True: a bar, in a terminal or a notebook; or a function that is called with (draws done, draws in all), pilot
            included.
        batch_size: inputs (for K copies: values of f) in one call of f; None: 256. Only rounding depends on it.
        checkpoint: a folder (or `certify.montecarlo.checkpoint.Checkpoint`) to keep the draws in, so that a run that was
            killed resumes from there and gives the same answers.

    Raises:
        ValueError, TypeError: an argument out of range; the message names it, its value and what it must be.
    """

    def __init__(
        self,
        n: int = 10_000,
        seed: int = 0,
        progress: Progress | bool | None = None,
        batch_size: int | None = None,
        checkpoint: Checkpoint | str | Path | None = None,
    ) -> None:
        self.n, self.seed = _validate.count("n", n), _validate.seed_value(seed)
        self.batch_size = None if batch_size is None else _validate.count("batch_size", batch_size)
        self.checkpoint, self.progress = as_checkpoint(checkpoint), as_progress(progress)


class Drawing(Draws):
    """A function at an input under noise, and how it is drawn.

    Args:
        f: batch (b, *input) → batch (b, *output), or (b, K, *input) → (b,); may take a keyword `generator` and then be random.
        y: one input, shape (*input), without a batch axis.
        noise: a `Noise`, or a number: isotropic Gaussian. Radii are in its own units, what `noise.norm` measures.
        called: what the caller calls f, for messages.
        replicas: K, noisy copies that one value of f sees; None: f sees single inputs.
        policy: how Σ came about, for the record: one of `certify.adaptive.POLICIES`.
        function: what f is called in the record: "image shows a circle".
        center: what distances are measured to, shape (*output); must not depend on the bounding draws. None: the smoothed
            value of separate pilot draws.
        support: a-priori support of f: a `Support` or a pair (lower, upper).
        pilot: pilot draws, which choose the reference, if none is given, and between methods and their parameters; None:
            `certify.bounds.base.default_pilot`.
        reference: "center", or "population": the distance between the two ideal smoothed values, the paper's statement.
            None: "center" for the median, "population" for the mean.
        memory: bytes that kept draws may take; where the order statistics that are needed exceed it, draws are spilled to
            disk. None: 1 GiB. What a certified radius needs is not known before it is found: where all draws do not fit, those
            for radii somewhat below the one that pilot draws let expect are kept. Should the search have to look below, the
            same n draws are made once more and all kept. The answer is the same, it takes twice the time.
        **how: n, seed, progress, batch_size, checkpoint: as in `Draws`.

    Raises:
        ValueError, TypeError: an argument out of range; the message names it, its value and what it must be.
    """

    def __init__(
        self,
        f: Function,
        y: Tensor,
        noise: Noise | float,
        *,
        called: str = "f",
        replicas: int | None = None,
        policy: str = "frozen",
        function: str = "f",
        center: Tensor | None = None,
        support: Any = None,
        pilot: int | None = None,
        reference: str | None = None,
        memory: int | None = None,
        **how: Unpack[RateOptions],
    ) -> None:
        super().__init__(**how)
        self.called, self.replicas = called, replicas if replicas is None else _validate.count("replicas", replicas)
        self.f = _validate.function(called, f, "(b, *input)" if replicas is None else "(b, replicas, *input)")
        self.y = _validate.own_tensor("y", y)
        self.noise = as_noise(noise, self.y)
        self.memory = DEFAULT_MEMORY if memory is None else _validate.count("memory", memory)
        recorded(policy, function)
        self.policy, self.function = policy, function
        self.reference = reference
        if reference is not None:
            _validate.choice("reference", reference, ("center", "population"))
        self.support = as_support(support)
        self.center = None if center is None else _validate.own_tensor("center", center)
        self.pilot = default_pilot(self.n) if pilot is None else _validate.count("pilot", pilot)
        self._before, self._total = 0, self.n  # draws of passes that ended, and of all that are planned
        self._trial: Tensor | None = None
        self.shape: tuple[int, ...] = () if self.center is None else tuple(self.center.shape)

    def run(self) -> Run:
        """Where a result comes from, once it is known whether pilot draws were made."""
        pilot = 0 if self._trial is None else len(self._trial)
        return Run(
            self.y,
            self.noise,
            n=self.n,
            seed=self.seed,
            pilot=pilot,
            policy=self.policy,
            support=self.support,
            function=self.function,
            copies=self.replicas,
        )

    def pilot_draws(self, choosing: bool) -> Tensor | None:
        """The pilot draws, where the reference or something else is chosen on them: (pilot, *output).

        Then `shape`, the output's, is known.
        """
        if choosing or self.center is None:
            self._total += self.pilot
            how: dict[str, Any] = {"batch_size": self.batch_size, "checkpoint": self.checkpoint, "progress": self._tick}
            how |= {"stream": "pilot", "again": "early", "called": self.called}
            if self.replicas is not None:  # what a statistic returns is known beforehand
                how["output_shape"] = self.shape
            self._trial = draw_all(self.f, self._copied, self.noise, n=self.pilot, seed=self.seed, **how)
            self._before, shape = self.pilot, tuple(self._trial.shape[1:])
            if self.center is not None and shape != self.shape:
                raise ValueError(f"center has shape {self.shape}: must be {shape}, the shape of f's output")
            self.shape = shape
        inside = None if self.support is None else Inside(self.support, self.shape)
        if inside is not None and self._trial is not None:
            inside.update(self._trial)
        return self._trial

    def work(self) -> float | None:
        """Operations of f's matrix products and convolutions in one draw; None where none are seen."""
        return counted_work(self.f, self._copied, self.seed)

    def draw(self, accumulators: Iterable[Accumulator]) -> None:
        """Hands the n bounding draws to accumulators (`certify.montecarlo.draw`)."""
        if self._before > self._total - self.n:  # once more
            self._total += self.n
        draw(
            self.f,
            self._copied,
            self.noise,
            n=self.n,
            seed=self.seed,
            accumulators=self._with_support(accumulators),
            checkpoint=self.checkpoint,
            **self._bounding(),
        )
        self._before += self.n

    def draw_until(self, accumulator: Accumulator, wanted: Callable[[], int]) -> int:
        """Hands bounding draws to an accumulator as long as any are `wanted`, n at most; how many were made."""
        (drawn,) = draw_packed(
            self.f,
            [self._copied],
            [self.noise],
            n=self.n,
            seeds=[self.seed],
            accumulators=[self._with_support([accumulator])],
            wanted=lambda _: wanted(),
            **self._bounding(),
        )
        return drawn

    def _with_support(self, accumulators: Iterable[Accumulator]) -> list[Accumulator]:
        return [*accumulators, *([] if self.support is None else [Inside(self.support, self.shape)])]

    def _bounding(self) -> dict[str, Any]:
        return {
            "stream": "bounding",
            "batch_size": self.batch_size,
            "output_shape": self.shape,
            "called": self.called,
            "progress": self._tick,
            "again": "both" if self._trial is None else "late",
        }

    @property
    def _copied(self) -> Tensor:
        """What one value of f sees before there is noise on it."""
        return self.y if self.replicas is None else self.y.expand(self.replicas, *self.y.shape)

    def _tick(self, done: int, _: int) -> None:
        if self.progress is not None:
            self.progress(self._before + done, self._total)
