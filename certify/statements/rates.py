"""Rates: the mean probability of an event over a set of prompts, whatever is done to each of them (T5, its corollary).

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
from typing import Any, Unpack, cast

import torch
from torch import Tensor

from certify import _validate
from certify._records import Record
from certify.bounds.rates import RateOver
from certify.montecarlo import BLOCK, Function, count_events, generator
from certify.montecarlo.engine import accepts_generator
from certify.montecarlo.repeated import few_together
from certify.noise import GaussianNoise, Noise
from certify.statements.drawing import Draws, RateOptions

__all__ = ["Block", "RateDraws", "event_rate_over"]

DEFAULT_BATCH = 256


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
    **options: Unpack[RateOptions],
) -> RateOver:
    """The mean probability of an event over several inputs, whatever is done to each of them (T5, corollary).

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
    drawing = RateDraws(ys, each, copies, rhos, alpha, two_sided, **options)

    def verdicts(blocks: Sequence[Block]) -> Tensor:
        return torch.cat([_of_events(functions, block) for block in blocks])

    return drawing.counted(verdicts, drawing.batch_size or DEFAULT_BATCH)


@dataclass(frozen=True)
class Block(Record):
    """Up to `BLOCK` draws.

    Attributes:
        first: number of the first of them.
        count: how many.
        groups: (prompt, which of these draws are at it, their noisy copies (rows, K, *input)), for each prompt that was drawn.
        source: for whatever else is random.
        again: "early" or "late" where it is evaluated once more, to see whether the events are functions.
    """

    first: int
    count: int
    groups: tuple[tuple[int, Tensor, Tensor], ...]
    source: torch.Generator
    again: str = ""


class RateDraws(Draws):
    """The checked arguments of a statement about several inputs, and its draws, each at one of them.

    Args:
        ys, noises, copies: an entry a prompt.
        rhos, alpha, two_sided: as in `event_rate_over`.
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
        sigmas = [noise.sigma_for(y.shape) for y, noise in zip(self.ys, self.noises, strict=True)]
        self.unperturbed = sum(not bool((sigma > 0).any()) for sigma in sigmas)
        names = [_name(y, sigma, k) for y, sigma, k in zip(self.ys, sigmas, self.copies, strict=True)]
        # What is drawn depends on the set of prompts, not on the order in which they are given.
        self._order = sorted(range(len(names)), key=names.__getitem__)
        self._about = hashlib.sha256(b"".join([about.encode(), *sorted(names)])).digest()

    def counted(self, verdicts: Callable[[Sequence[Block]], Tensor], batch: int) -> RateOver:
        """Draws, and counts how often the verdict was 1.

        Args:
            verdicts: blocks → a 0/1 for each of their draws, in their order.
            batch: draws handed to it together, about; at least a block.
        """

        def happens(numbers: range) -> Tensor:
            return verdicts([self._block(first // BLOCK) for first in numbers[::BLOCK]])

        def again(numbers: range, when: str) -> Tensor:
            return verdicts([replace(self._block(numbers.start // BLOCK), again=when)])

        counts = count_events(
            happens,
            n=self.n,
            together=batch,
            unit=BLOCK,
            about=torch.tensor(list(self._about), dtype=torch.uint8),
            seed=self.seed,
            stream="choosing",
            checkpoint=self.checkpoint,
            progress=self.progress,
            again=again,
            roundoff=torch.finfo(self.ys[0].dtype).eps,
        )
        return RateOver(
            prompts=len(self.ys),
            unperturbed=self.unperturbed,
            successes=int(counts.ones),
            n=self.n,
            replicas=max(self.copies),
            alpha=self.alpha,
            two_sided=self.two_sided,
            rhos=self.rhos,
            seed=self.seed,
        )

    def _block(self, number: int) -> Block:
        first = number * BLOCK
        count, device = min(BLOCK, self.n - first), self.ys[0].device
        places = torch.randint(len(self.ys), (BLOCK,), generator=generator(self.seed, "choosing", number))
        chosen = [self._order[place] for place in places.tolist()][:count]
        source = generator(self.seed, "bounding", number, device)
        noisy = [self.noises[i].draw(self.ys[i], self.copies[i], source) for i in chosen]
        groups = []
        for i in self._order:
            rows = [row for row, prompt in enumerate(chosen) if prompt == i]
            if rows:
                groups.append((i, torch.tensor(rows), torch.stack([noisy[row] for row in rows])))
        internal = generator(self.seed, "bounding", number, device, internal=True)
        return Block(first, count, tuple(groups), internal)


def _of_events(events: Sequence[Function], block: Block) -> Tensor:
    verdicts = torch.zeros(block.count, dtype=torch.float64)
    groups: list[tuple[int, Tensor, Tensor]] = []
    for i, rows, z in block.groups:
        # Afterwards rows are in other company, but for a random event, whose generator gives them their parts in order.
        places = torch.arange(len(rows))
        together = [places]
        if block.again and not accepts_generator(events[i]):
            together = few_together(places) if block.again == "late" else [places[0::2], places[1::2]]
        groups += [(i, rows[part], z[part]) for part in together if len(part)]
    for i, rows, z in groups:
        verdict = events[i](z, generator=block.source) if accepts_generator(events[i]) else events[i](z)
        if not isinstance(verdict, Tensor) or tuple(verdict.shape) != (len(rows),):
            what = f"shape {tuple(verdict.shape)}" if isinstance(verdict, Tensor) else f"a {type(verdict).__name__}"
            raise ValueError(f"events[{i}] returned {what}: must return a tensor of shape ({len(rows)},), one a draw")
        verdicts[rows] = verdict.detach().to("cpu", torch.float64)
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
