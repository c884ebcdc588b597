"""Rates: the mean probability of an event over a set of prompts, whatever is done to each of them (T5, its corollary, and T14).

`event_rate_over` takes any events of K noisy copies; `certify.images.attack_rate_over` is the same for the images of a
text-to-image model. Both draw the same way: which prompt, its noise, and the randomness of what is made of it come from
streams of their own (`certify.montecarlo.streams`) and depend on the seed and the draw's number alone.

>>> import torch
>>> from certify import GaussianNoise, event_rate_over
>>> events = [lambda z, level=level: z.mean(dim=(1, 2)) > level for level in (1.0, 2.0, 3.0)]
>>> r = event_rate_over(events, [torch.zeros(4)] * 3, GaussianNoise(1.0), rhos=[0.1, 0.2], replicas=5, n=2000)
>>> 0 <= r.limit < r.values[0] < r.values[1] < 0.05
True
"""

from __future__ import annotations

import hashlib
import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar, Unpack, cast

import numpy as np
import torch
from torch import Tensor

from certify import _validate
from certify._records import Record
from certify.bounds.bounded_mean import MeanEvidence
from certify.bounds.mean_limits import LEAST, TRIED, Pilot, chosen_limits, repeats_of, split
from certify.bounds.rates import RateOver
from certify.bounds.weights import Polynomials
from certify.montecarlo import BLOCK, AllDraws, Counts, Function, count_events, generator
from certify.montecarlo.batches import accepts_generator
from certify.montecarlo.repeated import few_together
from certify.noise import GaussianNoise, Noise
from certify.statements.drawing import Draws, RateOptions
from certify.statements.mean import Repeated

__all__ = ["Block", "RateDraws", "event_rate_over"]

DEFAULT_BATCH = 256

_UNIT = GaussianNoise(1.0)  # the shift of a probability is that of any Gaussian noise
_Seen = TypeVar("_Seen", Counts, AllDraws)


@_validate.suggests(RateOptions)
def event_rate_over(
    events: Sequence[Function],
    ys: Sequence[Tensor],
    noises: Sequence[Noise | float] | Noise | float,
    *,
    rhos: Sequence[float],
    replicas: int | Sequence[int] = 13,
    alpha: float = 1e-3,
    two_sided: bool = False,
    repeats: int | None = 1,
    **options: Unpack[RateOptions],
) -> RateOver:
    """The mean probability of an event over several inputs, whatever is done to each of them (T5, corollary; T14).

    Equation
        for all ‖δ_i‖_{Σ_i} ≤ ρ:  (1/m) Σ_i P[event i at y_i + δ_i] ≤ Φ(Φ⁻¹(p̄) + √K ρ),  p̄ the Clopper–Pearson limit of
        the mean at the y_i, from n draws at inputs chosen at random with replacement.

    Reference
        THEORY T5, corollary (docs/theory/t05-deployed.md).

    Args:
        events: m functions, batch (b, K_i, *input) → (b,) of 0/1 or booleans. One that takes a `generator` may be random.
        ys: the m inputs.
        noises: one `GaussianNoise` (or number: isotropic) for each, or one for all. Without any σ > 0, δ = 0 alone is covered.
        rhos: radii > 0, increasing; the bound at others is `RateOver.at`.
        replicas: K_i, one for each or one for all; the bound is for the largest.
        alpha: failure probability over the n draws, of the statement at all radii together.
        two_sided: bound the mean from below, too; α is then shared.
        repeats: j, values of each draw of an input and its copies; 1: T5. None: n counts values in all, and how many go to each
            draw is chosen on pilot draws, T5 among the choices, as in `certify.event_bound`, for the middle one of `rhos`.
        **options: of drawing: those of `certify.statements.drawing.Draws`. The result depends on the set of inputs, not on
            their order (but for several events at one input with one noise and K, which nothing else tells apart). The
            `function` of a checkpoint should say what the events are.

    Returns:
        `RateOver`.

    Raises:
        ValueError, TypeError: an argument out of range, or an event that does not return (b,) of 0 and 1.
    """
    functions = list(events)
    for i, event in enumerate(functions):
        _validate.function(f"events[{i}]", event, "(b, replicas, *input)")
    ys, count = list(ys), len(functions)
    one_noise, one_count = isinstance(noises, (Noise, numbers.Real)), isinstance(replicas, numbers.Integral)
    each: list[Any] = [noises] * count if one_noise else list(cast(Sequence[Any], noises))
    copies: list[Any] = [replicas] * count if one_count else list(cast(Sequence[Any], replicas))
    for name, values in (("ys", ys), ("noises", each), ("replicas", copies)):
        if len(values) != count:
            raise ValueError(f"{name} has {len(values)} entries for {count} events: must be one an event")
    drawing = RateDraws(ys, each, copies, rhos, alpha, two_sided, repeats, **options)

    def verdicts(blocks: Sequence[Block]) -> Tensor:
        return torch.cat([_of_events(functions, block) for block in blocks])

    return drawing.bounded(verdicts, drawing.batch_size or DEFAULT_BATCH)


@dataclass(frozen=True)
class Block(Record):
    """Up to `BLOCK` draws.

    Attributes:
        first: number of the first of them.
        count: how many.
        groups: (prompt, which of these draws are at it, their noisy copies (rows, K, *input)), for each prompt that was drawn.
        source: for whatever else is random.
        repeats: j, values that each draw is to have: (count,) verdicts for 1, else (count, j).
        pilot: whether it is of the pilot.
        again: "early" or "late" where it is evaluated once more, to see whether the events are functions.
    """

    first: int
    count: int
    groups: tuple[tuple[int, Tensor, Tensor], ...]
    source: torch.Generator
    repeats: int = 1
    pilot: bool = False
    again: str = ""


class RateDraws(Draws):
    """The checked arguments of a statement about several inputs, and its draws, each at one of them.

    Args:
        ys, noises, copies: an entry a prompt.
        rhos, alpha, two_sided, repeats: as in `event_rate_over`.
        about: what else decides the draws, for checkpoints.
        **options: as in `Draws`.
    """

    def __init__(
        self,
        ys: Sequence[Tensor],
        noises: Sequence[Noise | float],
        copies: Sequence[int],
        rhos: Sequence[float],
        alpha: float,
        two_sided: bool,
        repeats: int | None = 1,
        about: str = "",
        **options: Unpack[RateOptions],
    ) -> None:
        super().__init__(**options)
        if not ys:
            raise ValueError("ys is empty: must hold at least one input")
        self.ys = [_validate.own_tensor(f"ys[{i}]", y) for i, y in enumerate(ys)]
        self.noises = [_gaussian(i, noise) for i, noise in enumerate(noises)]
        self.copies = [_validate.count(f"replicas[{i}]", k) for i, k in enumerate(copies)]
        self.rhos, self.alpha = _validate.increasing("rhos", rhos), _validate.failure("alpha", alpha)
        self.two_sided = _validate.flag("two_sided", two_sided)
        self.repeats = repeats_of(repeats)
        sigmas = [noise.sigma_for(y.shape) for y, noise in zip(self.ys, self.noises, strict=True)]
        self.unperturbed = sum(not bool((sigma > 0).any()) for sigma in sigmas)
        names = [_name(y, sigma, k) for y, sigma, k in zip(self.ys, sigmas, self.copies, strict=True)]
        # What is drawn depends on the set of prompts, not on the order in which they are given.
        self._order = sorted(range(len(names)), key=names.__getitem__)
        self._about = hashlib.sha256(b"".join([about.encode(), *sorted(names)])).digest()

    def bounded(self, verdicts: Callable[[Sequence[Block]], Tensor], batch: int) -> RateOver:
        """Draws, and bounds the mean.

        Args:
            verdicts: blocks → a 0/1 for each of their draws, in their order, or as many as a block's `repeats` say.
            batch: values handed to it together, about; at least a block's.
        """
        repeats, first = self.repeats, np.empty((0, 1))
        share = self.alpha / 2 if self.two_sided else self.alpha
        how: dict[str, Any] = {"rho": self.rhos[len(self.rhos) // 2], "replicas": max(self.copies), "hits": True}
        if repeats is None and self.n < LEAST:
            repeats = 1
        if repeats != 1:
            tried = TRIED if repeats is None else repeats
            n = max(1, self.n // (5 * tried)) if repeats is None else min(1000, max(64, self.n // 5))
            first = self._values(verdicts, batch, n, tried, pilot=True)
            if repeats is None:
                lines = [first, 1 - first] if self.two_sided else [first]
                repeats = max(split(line, self.n, _UNIT, alpha=share, **how) for line in lines)
                self.n //= repeats
                first = first[:, : TRIED // repeats * repeats].reshape(-1, repeats)
        if repeats == 1:
            counts = self._seen(verdicts, batch, Counts(), self.n, 1)
            return self._rate(int(counts.ones))
        drawn = self._values(verdicts, batch, self.n, repeats)
        radii = self.rhos if len(self.rhos) <= 3 else (self.rhos[0], how["rho"], self.rhos[-1])
        limits = [
            chosen_limits(Pilot(Polynomials(repeats), a), b, _UNIT, alpha=share, curve=True, radii=radii, **how)
            for a, b in [(first, drawn), (1 - first, 1 - drawn)][: 2 if self.two_sided else 1]
        ]
        scale: dict[str, Any] = {"replicas": max(self.copies), "repeats": repeats, "floor": 0.0, "ceiling": 1.0}
        above, below = limits[0], limits[1] if self.two_sided else None
        side = "two-sided" if self.two_sided else "upper"
        held = MeanEvidence.of(above, below, _UNIT, how["rho"], side=side, **scale)
        return self._rate(int(drawn.sum()), repeats, held)

    def _rate(self, successes: int, repeats: int = 1, held: MeanEvidence | None = None) -> RateOver:
        return RateOver(
            prompts=len(self.ys),
            unperturbed=self.unperturbed,
            successes=successes,
            n=self.n,
            replicas=max(self.copies),
            alpha=self.alpha,
            two_sided=self.two_sided,
            rhos=self.rhos,
            seed=self.seed,
            repeats=repeats,
            held=held,
        )

    def _values(
        self, verdicts: Callable[[Sequence[Block]], Tensor], batch: int, n: int, repeats: int, *, pilot: bool = False
    ) -> np.ndarray[Any, np.dtype[np.float64]]:
        """(n, repeats) of 0 and 1."""
        drawn = self._seen(verdicts, batch, AllDraws(), n, repeats, pilot=pilot).stacked().to("cpu", torch.float64)
        if bool(((drawn != 0) & (drawn != 1)).any()):
            raise ValueError("events returned a value that is neither 0 nor 1: must be 0 or 1, or a boolean")
        return drawn.reshape(n, repeats).numpy()

    def _seen(
        self,
        verdicts: Callable[[Sequence[Block]], Tensor],
        batch: int,
        into: _Seen,
        n: int,
        repeats: int,
        *,
        pilot: bool = False,
    ) -> _Seen:
        def blocks(numbers: range) -> list[Block]:
            return [self._block(first // BLOCK, n, repeats, pilot) for first in numbers[::BLOCK]]

        def again(numbers: range, when: str) -> Tensor:
            return verdicts([replace(blocks(numbers)[0], again=when)])

        def ticked(done: int, _: int) -> None:
            if self.progress is not None:
                self.progress(done, n)

        return count_events(
            lambda numbers: verdicts(blocks(numbers)),
            into,
            n=n,
            together=max(1, batch // repeats),
            unit=BLOCK,
            about=torch.tensor(list(self._about), dtype=torch.uint8),
            seed=self.seed,
            stream="pilot" if pilot else "choosing",
            checkpoint=self.checkpoint,
            progress=ticked,
            again=again,
            roundoff=torch.finfo(self.ys[0].dtype).eps,
            shape=() if repeats == 1 else (repeats,),
        )

    def _block(self, number: int, n: int | None = None, repeats: int = 1, pilot: bool = False) -> Block:
        first, stream = number * BLOCK, "pilot" if pilot else "bounding"
        count, device = min(BLOCK, (n or self.n) - first), self.ys[0].device
        choosing = generator(self.seed, "choosing", number, internal=pilot)
        places = torch.randint(len(self.ys), (BLOCK,), generator=choosing)
        chosen = [self._order[place] for place in places.tolist()][:count]
        source = generator(self.seed, stream, number, device)
        noisy = [self.noises[i].draw(self.ys[i], self.copies[i], source) for i in chosen]
        groups = []
        for i in self._order:
            rows = [row for row, prompt in enumerate(chosen) if prompt == i]
            if rows:
                groups.append((i, torch.tensor(rows), torch.stack([noisy[row] for row in rows])))
        internal = generator(self.seed, stream, number, device, internal=True)
        return Block(first, count, tuple(groups), internal, repeats, pilot)


def _of_events(events: Sequence[Function], block: Block) -> Tensor:
    j = block.repeats
    verdicts = torch.zeros((block.count, j) if j > 1 else (block.count,), dtype=torch.float64)
    groups: list[tuple[int, Tensor, Tensor]] = []
    for i, rows, z in block.groups:
        # Afterwards rows are in other company, but for a random event, whose generator gives them their parts in order.
        places = torch.arange(len(rows))
        together = [places]
        if block.again and not accepts_generator(events[i]):
            together = few_together(places) if block.again == "late" else [places[0::2], places[1::2]]
        groups += [(i, rows[part], z[part]) for part in together if len(part)]
    for i, rows, z in groups:
        if j > 1 and accepts_generator(events[i]):
            verdicts[rows] = Repeated(events[i], j, f"events[{i}]")(z, block.source).detach().to("cpu", torch.float64)
            continue
        verdict = events[i](z, generator=block.source) if accepts_generator(events[i]) else events[i](z)
        if not isinstance(verdict, Tensor) or tuple(verdict.shape) != (len(rows),):
            what = f"shape {tuple(verdict.shape)}" if isinstance(verdict, Tensor) else f"a {type(verdict).__name__}"
            raise ValueError(f"events[{i}] returned {what}: must return a tensor of shape ({len(rows)},), one a draw")
        told = verdict.detach().to("cpu", torch.float64)
        verdicts[rows] = told[:, None].expand(-1, j) if j > 1 else told  # without chance all values of a draw are one
    return verdicts


def _gaussian(i: int, noise: Noise | float) -> GaussianNoise:
    given = noise if isinstance(noise, Noise) else GaussianNoise(_validate.tensor(f"noises[{i}]", noise))
    if not isinstance(given, GaussianNoise):
        raise TypeError(f"noises[{i}] is a {type(noise).__name__}: must be a GaussianNoise or a number")
    return given


def _name(y: Tensor, sigma: Tensor, copies: int) -> bytes:
    """What is drawn at one prompt, as bytes to sort by."""
    digest = hashlib.sha256(f"{y.device.type} {y.dtype} {tuple(y.shape)} {copies} ".encode())
    for part in (y, sigma):
        digest.update(part.to("cpu", torch.float64).numpy().tobytes())
    return digest.digest()
