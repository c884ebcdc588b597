"""Joint problem: a prompt in a pipeline as the function, input and noise that a bound takes, over all of its text encoders.

    p = safe.problem("a photo of …")
    certify.mse_bound(p.f, p.y, p.noise, support=p.support, rho=1.0, n=10_000, alpha=1e-3)

y is the token embeddings of all lookups, one after the other, and f all that the pipeline is given of them and does not mask.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from certify._records import Record
from certify.adaptive.mention import Mention
from certify.adaptive.policies import smoothed
from certify.adaptive.prompt import ConceptRemoval
from certify.adaptive.token_noise import TokenNoise
from certify.models.encoders import Layout, Reading, Slot, Vocabulary, final_norms
from certify.models.offloaded import at_hand
from certify.noise import GaussianNoise
from certify.support import Support, layer_norm_support, rms_norm_support

if TYPE_CHECKING:
    from certify.defence.smoother import PipelineSmoother

__all__ = ["JointProblem", "Rows"]

Rows = list[list[Tensor]]
"""For every slot of what `encode_prompt` returns a tensor a prompt."""


@dataclass(frozen=True, eq=False)
class JointProblem(Record):
    """A prompt in a pipeline as the function, input and noise that a bound takes (T16).

    Attributes:
        smoother: whose it is.
        readings: the prompt, as every call of `encode_prompt` reads it.
        token_noise: relevance and σ, for each lookup of embeddings.
        y: (d,), the token embeddings of all encoders, one after the other.
        noise: N(0, Σ) over them, block-diagonal.
        owner: (m,), which block of encoders an output depends on; −1: on none that was found.
    """

    smoother: PipelineSmoother
    readings: tuple[Reading, ...]
    token_noise: tuple[TokenNoise, ...]
    y: Tensor
    noise: GaussianNoise
    owner: Tensor

    @classmethod
    def of(
        cls, smoother: PipelineSmoother, readings: tuple[Reading, ...], token_noise: tuple[TokenNoise, ...]
    ) -> JointProblem:
        """The problem of a prompt's readings and its noise, an entry a lookup; y and Σ are those of all lookups, joined.

        Raises:
            ValueError: the prompt carries no noise.
        """
        y: list[Tensor] = []
        sigma: list[Tensor] = []
        owner: list[Tensor] = []
        first = number = 0
        for reading in readings:
            for lookup in reading.lookups:
                e = lookup.embeddings[0]
                y.append(e.flatten())
                sigma.append(token_noise[number].column.expand(e.shape).flatten())
                number += 1
            owner += [_owners(reading, slot, first) for slot in reading.frame.slots]
            first += len(reading.frame.blocks)
        dtype = torch.promote_types(torch.float32, y[0].dtype) if len({e.dtype for e in y}) > 1 else y[0].dtype
        whole, together = torch.cat([e.to(y[0].device, dtype) for e in y]), torch.cat(sigma)
        if not bool(together.any()):
            prompt = readings[0].call.prompts[0]
            raise ValueError(f"prompt = {prompt!r}: carries no noise: must hold words, and sigma0_relative must be > 0")
        return cls(smoother, readings, token_noise, whole, GaussianNoise(together), torch.cat(owner))

    @property
    def layouts(self) -> tuple[Layout, ...]:
        """What stands at every position of the prompt, for each lookup."""
        return tuple(layout for reading in self.readings for layout in reading.layouts[0])

    @functools.cached_property
    def vocabularies(self) -> tuple[Vocabulary, ...]:
        """The tokenizer of each lookup."""
        return tuple(self.smoother.encoder.vocabulary(layout.encoder) for layout in self.layouts)

    def reread(self, prompt: str) -> tuple[Reading, ...]:
        """Another prompt, as the same calls of `encode_prompt` read it.

        Raises:
            ValueError: it looks up embeddings another number of times.
        """
        encoder = self.smoother.encoder
        return tuple(encoder.read(reading.call.of([prompt])) for reading in self.readings)

    def squared(self, part: int, position: int, ids: Sequence[int]) -> Tensor:
        """‖e − y_i‖² / σ_i² of the embeddings of these ids at one position of a lookup: (ids,), float64, on the CPU."""
        lookup = [lookup for reading in self.readings for lookup in reading.lookups][part]
        weight: Any = lookup.module.weight
        device = weight.device
        wanted = torch.tensor(ids, dtype=torch.int64, device="cpu" if device.type == "meta" else device)
        with torch.no_grad():
            entries = [lookup.module(chunk).double().cpu() for chunk in wanted.split(8192) if len(chunk)]
        if not entries:
            return torch.zeros(0, dtype=torch.float64)
        away = (torch.cat(entries) - lookup.embeddings[0, position].double().cpu()).square().sum(dim=1)
        sigma = self.token_noise[part].sigma[position]
        return away / sigma**2 if sigma > 0 else torch.where(away > 0, torch.inf, 0.0)

    def sigma_with(self, substitutes: Sequence[tuple[int, int]]) -> list[tuple[float, ...]]:
        """σ of every position, for each lookup, were these ids at these positions.

        Args:
            substitutes: (position, id) for each lookup.
        """
        row: list[Layout] = []
        for layout, book, (at, i) in zip(self.layouts, self.vocabularies, substitutes, strict=True):
            token = book.tokens([i])[0]
            changed: dict[str, tuple[Any, ...]] = {}
            for name, value in (("ids", i), ("tokens", token), ("texts", book.text([token]))):
                entries = getattr(layout, name)
                changed[name] = (*entries[:at], value, *entries[at + 1 :])
            row.append(replace(layout, **changed))  # type: ignore[arg-type]
        found: list[tuple[float, ...]] = []
        scores, first = self.smoother.relevance.scores([row])[0], 0
        for reading in self.readings:
            here = slice(first, first + len(reading.lookups))
            found += [n.sigma for n in self.smoother.token_noise(reading, row[here], scores[here])]
            first = here.stop
        return found

    @functools.cached_property
    def mention(self) -> Mention:
        """Whether the prompt names what is to be suppressed (`certify.adaptive.mention`), in any encoder."""
        best = dict.fromkeys((concept.name for concept in self.smoother.concepts), 0.0)
        for score in self.smoother.relevance.scores([self.layouts])[0]:
            known = score[~score.isnan().any(dim=1)]
            for name, value in zip(best, known.amax(dim=0).tolist() if len(known) else [], strict=False):
                best[name] = max(best[name], value)
        least = self.smoother.thresholds
        found = [Mention(name, value, t) for (name, value), t in zip(best.items(), least, strict=True)]
        return max(found, key=lambda mention: mention.relevance - mention.threshold)

    @functools.cached_property
    def concept_removal(self) -> ConceptRemoval | None:
        """How far apart the plain outputs of the prompt with and without its most relevant word are, squared, at the prompt's
        own positions; None: without the word they have other shapes, or it is not found in the prompt's text.
        """
        scored = [
            (noise.relevance[i] or 0.0, -part, -a, (a, b))
            for part, (layout, noise) in enumerate(zip(self.layouts, self.token_noise, strict=True))
            for a, b in layout.words
            for i in range(a, b)
            if noise.relevance[i] is not None
        ]
        if not scored:
            return None
        _, minus, _, span = max(scored)
        layout, book, prompt = self.layouts[-minus], self.vocabularies[-minus], self.readings[0].call.prompts[0]
        at, word = 0, ""
        for a, b in layout.words:
            word = book.text(layout.word((a, b))).strip()
            place = prompt.lower().find(word.lower(), at)
            if (a, b) == span:
                if place < 0 or not word:
                    return None
                rest = f"{prompt[:place]}{prompt[place + len(word) :]}"
                without = self._outputs(self.reread(" ".join(rest.split())))
                whole = self._outputs(self.readings)
                if without is None or whole is None or len(without) != len(whole):
                    return None
                return ConceptRemoval(float((whole - without).square().sum()), word, span[0])
            at = place + len(word) if place >= 0 else at
        return None

    def _outputs(self, readings: Sequence[Reading]) -> Tensor | None:
        """The plain outputs of these readings at this prompt's positions: (m,), float64; None: they have other shapes."""
        parts = []
        for own, reading in zip(self.readings, readings, strict=True):
            for slot in own.frame.slots:
                row, here = slot.rows(reading.tree, 1)[0], slot.rows(own.tree, 1)[0]
                if row.shape != here.shape:
                    return None
                parts.append(row[_kept(own, slot, row.shape).to(row.device)].double().cpu())
        return torch.cat(parts)

    @property
    def copies(self) -> int:
        """Noisy copies of y behind one deployed encoding."""
        return self.smoother.n

    def parts(self, z: Tensor) -> list[list[Tensor]]:
        """(b, d) → for each call, for each lookup (b, tokens, width)."""
        found: list[list[Tensor]] = []
        start = 0
        for reading in self.readings:
            found.append([])
            for lookup in reading.lookups:
                shape = lookup.embeddings.shape[1:]
                stop = start + shape.numel()
                found[-1].append(z[:, start:stop].unflatten(1, shape))
                start = stop
        return found

    def rows(self, z: Tensor) -> list[Rows]:
        """What each call of `encode_prompt` returns at embeddings z, (b, d): for every slot b tensors."""
        encoder, size = self.smoother.encoder, self.smoother.batch_size
        found: list[Rows] = []
        for reading, embeddings in zip(self.readings, self.parts(z), strict=True):
            slots = reading.frame.slots
            found.append([[] for _ in slots])
            for start in range(0, len(z), size):
                chunk = [e[start : start + size] for e in embeddings]
                count = len(chunk[0])
                tree, _ = encoder.run(reading.call, copies=count, replacements=chunk)
                for rows, slot in zip(found[-1], slots, strict=True):
                    rows += slot.rows(tree, count)
        return found

    @functools.cached_property
    def support(self) -> Support | None:
        """What the outputs lie between whatever their embeddings are: those that are what a LayerNorm or an RMSNorm gives (T3).

        None: nothing is known of any. Where encoders have several norms, or none, it is a box alone.
        """
        parts: list[Tensor] = []
        for reading in self.readings:
            norms = final_norms(self.smoother.encoder, reading)
            for slot, found in zip(reading.frame.slots, norms, strict=True):
                row = slot.rows(reading.tree, 1)[0]
                reach = torch.full((2, *row.shape), math.inf, dtype=torch.float64)
                reach[0] *= -1
                for box, module in zip(slot.boxes, found, strict=True):
                    if box is None or module is None:
                        continue
                    known = _range_of(module, row.dtype)
                    if known is not None:
                        at = tuple(slice(a, min(b, s)) for (a, b), s in zip(box, row.shape, strict=True))
                        reach[0][at], reach[1][at] = known.lower, known.upper
                parts.append(reach[:, _kept(reading, slot, row.shape)])
        lower, upper = torch.cat(parts, dim=1)
        return Support(lower, upper) if bool(torch.isfinite(upper).any()) else None

    def f(self, z: Tensor) -> Tensor:
        """T(z): (b, d) → (b, m), all that the pipeline is given and does not mask."""
        rows = self.rows(z)
        parts = []
        for reading, slots in zip(self.readings, rows, strict=True):
            for slot, row in zip(reading.frame.slots, slots, strict=True):
                kept = _kept(reading, slot, row[0].shape)
                parts.append(torch.stack([entry[kept.to(entry.device)] for entry in row]).float())
        return torch.cat(parts, dim=1)

    def deployed(self, z: Tensor) -> list[Rows]:
        """The smoothed encodings of noisy copies, (b, copies, d): for each call, for every slot b tensors."""
        b, k = z.shape[:2]
        found = self.rows(z.flatten(0, 1))
        return [
            [list(smoothed(torch.stack(rows).unflatten(0, (b, k)), self.smoother.smoother)) for rows in slots]
            for slots in found
        ]


def _range_of(module: nn.Module, dtype: torch.dtype) -> Support | None:
    """The support of a norm's output, as wide as its coarsest rounding asks for; None: it is none that is known."""
    module = at_hand(module)
    weight = getattr(module, "weight", None)
    dtypes = [dtype, *([weight.dtype] if isinstance(weight, Tensor) else [])]
    slack = 64 * max(torch.finfo(d).eps for d in dtypes)
    try:
        if isinstance(module, nn.LayerNorm):
            return layer_norm_support(module, relative_slack=slack)
        return rms_norm_support(module, relative_slack=slack)
    except TypeError:
        return None


def _kept(reading: Reading, slot: Slot, shape: torch.Size) -> Tensor:
    """Which entries of one prompt's tensor the pipeline does not mask."""
    kept = torch.ones(shape, dtype=torch.bool)
    masks = reading.masks(slot)
    if masks is not None and len(shape) == 2:
        kept &= masks[0][:, None]
    return kept


def _owners(reading: Reading, slot: Slot, first: int) -> Tensor:
    """The block of every entry that is kept, counted from `first`; −1: of none."""
    row = slot.rows(reading.tree, 1)[0]
    owner = torch.full(row.shape, -1, dtype=torch.int64)
    for number, block in enumerate(reading.frame.blocks):
        for part in block:
            box = slot.boxes[part]
            if box is not None:
                owner[tuple(slice(a, min(b, s)) for (a, b), s in zip(box, row.shape, strict=True))] = first + number
    return owner[_kept(reading, slot, row.shape)]
