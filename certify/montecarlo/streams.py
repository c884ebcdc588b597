"""Streams: where every random number comes from.

Draws come in blocks of `BLOCK`. What a block holds depends on (seed, stream, block number) and on the kind of device
alone: not on the batch size, on how many processes share the work, on a restart, nor on how many draws are requested
(the first 1 000 noises of 10 000 are those of a run with 1 000). Different purposes never share a block: pilot draws that
choose a reference, bounding draws that enter a certificate, draws that check one, draws of the deployed smoother, which
prompts are drawn where a statement is about several, initial noise of images (a block each), and the internal randomness that a
function may ask for in any of them.

A block's generator starts from the SHA-256 of (seed, stream, block, internal): whatever the user's seeds are, no two streams
overlap (`certify._random`).

The global random state is neither read nor written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import torch

from certify._random import Source, has_float64, keyed, keyed_numpy

__all__ = ["BLOCK", "SHARD", "STREAMS", "VERSION", "generator", "row_generator", "row_seed", "sources"]

VERSION = 2
"""Of what a seed draws: certificates and checkpoints have it on record. The first version's streams could overlap."""

BLOCK = 64
"""Draws in a block."""

SHARD = 64
"""Blocks in a shard (`certify.montecarlo.engine`)."""

STREAMS = ("pilot", "bounding", "checking", "deployment", "choosing", "images")


def generator(
    seed: int, stream: str, block: int, device: torch.device | str = "cpu", *, internal: bool = False
) -> torch.Generator:
    """A fresh generator at the start of a block.

    Args:
        seed: the user's seed, ≥ 0.
        stream: one of `STREAMS`.
        block: number of the block, from 0.
        device: where it draws. Noise is drawn on the CPU where the device has no float64.
        internal: the function's own randomness rather than the noise on its input.
    """
    where = device if internal or has_float64(device) else "cpu"
    return keyed(_named(seed, stream, block, internal), where)


def sources(seed: int, stream: str, blocks: Iterable[int], device: torch.device) -> Sequence[Source]:
    """For each block what `certify._random.normals` draws from as from its `generator`, in half the time."""
    if device.type == "cuda":
        return [generator(seed, stream, block, device) for block in blocks]
    return keyed_numpy([_named(seed, stream, block) for block in blocks])


def _named(seed: int, stream: str, block: int, internal: bool = False) -> str:
    if stream not in STREAMS:
        raise ValueError(f"stream = {stream!r}: must be one of {', '.join(STREAMS)}")
    if block < 0:
        raise ValueError(f"block = {block!r}: must be >= 0")
    return f"certify {VERSION} block {seed} {stream} {block} {internal}"


def row_generator(seed: int, key: str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator for one named thing (a prompt, say) in the deployment stream: the same wherever it stands in a list."""
    return keyed(f"certify {VERSION} row {seed} {key}", device if has_float64(device) else "cpu")


def row_seed(seed: int, number: int) -> int:
    """A row's seed in a data set: 48 bits of a hash of the run's seed and the row's number, so that rows share no draws."""
    return int.from_bytes(hashlib.sha256(f"certify row {seed} {number}".encode()).digest()[:6], "big")
