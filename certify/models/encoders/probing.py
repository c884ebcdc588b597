"""Probes: which of what `encode_prompt` returns depends on which token embeddings, found by moving them.

All embeddings of one lookup at a time are moved in a batch of the same prompt; the entries that move with them are its box, in
each slot (`Frame`). Entries that equal what a norm layer gave, at two inputs, have that layer's support.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from certify.models.encoders.embeddings import embedding_std
from certify.models.encoders.outputs import Slot, alike, leaves, rounding
from certify.models.encoders.readings import EncodeCall, Frame, Reading, without_padding
from certify.support import is_rms_norm

if TYPE_CHECKING:
    from certify.models.encoders.pipeline import PipelineEncoder

__all__ = ["final_norms", "probed"]

_PROBE = "a photo of a cat"
_LONG = " ".join([_PROBE] * 9)
_ENDLESS = 2**62  # of a box that ends where the tensor does, however long the prompt


def probed(encoder: PipelineEncoder, call: EncodeCall) -> Frame:
    """The frame of such calls, by five small calls of `encode_prompt`.

    Raises:
        ValueError: nothing depends on the embeddings, two calls differ, or rows of a batch cannot be told apart.
    """
    tree, heard = encoder.run(call, [_PROBE])
    y = [lookup.embeddings for lookup in heard]
    again, _ = encoder.run(call, [_PROBE], replacements=y)
    for (path, one), (_, other) in zip(leaves(tree), leaves(again), strict=True):
        if any(not torch.equal(a, b) for a, b in zip(_listed(one), _listed(other), strict=True)):
            raise ValueError(
                f"{type(encoder.pipe).__name__}.encode_prompt returned two different values at {path} for the same "
                "embeddings: must be the same function in every call (a part in training mode, or an encoder with "
                "randomness of its own)"
            )
    plain, empty = encoder.run(call, [""])
    beside, _ = encoder.run(call, ["", _LONG])
    parts = len(y)
    if len(empty) != parts:
        raise ValueError(
            f"{type(encoder.pipe).__name__} looks up embeddings {len(empty)} times for the empty prompt and {parts} times for "
            "another: must be the same"
        )
    source = torch.Generator().manual_seed(0)
    moved = []
    for part, rows in enumerate(y):
        batch = rows.repeat(parts + 1, 1, 1)
        step = torch.randn(rows.shape[1:], generator=source).to(rows)
        batch[part + 1] += 3 * rows.float().std().to(rows) * step
        moved.append(batch)
    many, _ = encoder.run(call, [_PROBE] * (parts + 1), replacements=moved)
    slots = [s for path, leaf in leaves(many) if (s := _slot(path, leaf, tree, parts)) is not None]
    if not slots:
        raise ValueError(
            f"nothing that {type(encoder.pipe).__name__}.encode_prompt returns depends on the token embeddings of "
            f"{', '.join(encoder.encoders)}: noise there would defend nothing"
        )
    vocabularies = [encoder.vocabulary(lookup.encoder) for lookup in heard]
    ragged = any(not alike(s.rows(plain, 1)[0], s.rows(beside, 2)[0]) for s in slots)
    return Frame(
        tuple(slots),
        tuple(
            tuple(without_padding(lookup.ids[0].tolist(), v.padding)[0])
            for lookup, v in zip(empty, vocabularies, strict=True)
        ),
        tuple(embedding_std(lookup.module) for lookup in heard),
        ragged,
    )


def _slot(path: Any, leaf: Any, alone: Any, parts: int) -> Slot | None:
    """The slot at a path of what a batch of `parts` + 1 rows returned, row i + 1 with part i moved; None: none moved."""
    value = alone
    for key in path:
        value = value[key]
    if isinstance(leaf, list):
        if not leaf[0].is_floating_point() or len(leaf) != (parts + 1) * len(value):
            return None
        axis: int | None = None
        rows: list[Tensor] = leaf
    else:
        if not isinstance(value, Tensor) or not leaf.is_floating_point() or leaf.ndim != value.ndim:
            return None
        grown = [i for i in range(leaf.ndim) if (leaf.shape[i], value.shape[i]) == (parts + 1, 1)]
        if not grown:
            return None
        axis, rows = grown[0], list(leaf.movedim(grown[0], 0))
    boxes: list[tuple[tuple[int, int], ...] | None] = []
    for row in rows[1:]:
        where = ((row.float() - rows[0].float()).abs() > rounding(rows[0])).nonzero()
        if not len(where):
            boxes.append(None)
            continue
        first, last = where.amin(dim=0).tolist(), where.amax(dim=0).tolist()
        sizes = row.shape
        boxes.append(tuple((a, _ENDLESS if b + 1 == s else b + 1) for a, b, s in zip(first, last, sizes, strict=True)))
    found = [part for part, box in enumerate(boxes) if box is not None]
    if not found:
        return None
    if len(found) == 1:  # all of it, whatever the probe's length left at zero
        boxes[found[0]] = tuple((0, _ENDLESS) for _ in rows[0].shape)
    return Slot(path, axis, tuple(boxes))


def final_norms(encoder: PipelineEncoder, reading: Reading) -> list[list[nn.Module | None]]:
    """For each slot, for each lookup, the norm layer whose output is what stands in the lookup's box; None: there is none.

    Found by running the encoders with the reading's embeddings, plain and moved: every row of the box must be a row of what
    the layer gave, or zero (padding). A last norm that something comes after, and layers before the last, have none.
    """
    parts = len(reading.lookups)
    norms = [m for e in encoder.encoders.values() for m in e.modules() if isinstance(m, nn.LayerNorm) or is_rms_norm(m)]
    found: list[list[nn.Module | None]] = [[None] * parts for _ in reading.frame.slots]
    source = torch.Generator().manual_seed(1)
    for trial in range(2):
        heard: dict[int, tuple[nn.Module, set[int], int]] = {}

        def keep(module: nn.Module, args: Any, output: Any, heard: Any = heard) -> None:
            if isinstance(output, Tensor) and output.ndim >= 2:
                rows = output.detach().flatten(0, -2)
                heard[id(module)] = (module, _rows(rows), rows.shape[-1])

        y = [
            e + trial * e.float().std().to(e) * torch.randn(e.shape, generator=source).to(e)
            for e in (lookup.embeddings for lookup in reading.lookups)
        ]
        handles = [module.register_forward_hook(keep) for module in norms]
        try:
            tree, _ = encoder.run(reading.call, replacements=y)
        finally:
            for handle in handles:
                handle.remove()
        for i, slot in enumerate(reading.frame.slots):
            row = slot.rows(tree, len(reading.call.prompts))[0]
            for part, box in enumerate(slot.boxes):
                if box is None or (trial and found[i][part] is None):
                    continue
                inside = row[tuple(slice(a, min(b, s)) for (a, b), s in zip(box, row.shape, strict=True))]
                wanted = inside.reshape(-1, inside.shape[-1])
                fits = [
                    module
                    for module, rows, width in heard.values()
                    if width == wanted.shape[1] and _rows(wanted, zeros=not isinstance(module, nn.LayerNorm)) <= rows
                ]
                before = found[i][part]
                found[i][part] = (fits[-1] if fits else None) if not trial else before if before in fits else None
    return found


def _rows(rows: Tensor, *, zeros: bool = False) -> set[int]:
    """Hashes of the rows of a matrix, to be compared; `zeros`: without those that are zero."""
    kept = rows[rows.ne(0).any(dim=1)] if zeros else rows
    return {hash(row.tobytes()) for row in kept.double().cpu().numpy()}


def _listed(leaf: Any) -> list[Tensor]:
    return leaf if isinstance(leaf, list) else [leaf]
