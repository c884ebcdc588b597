"""Streams: where every random number comes from.

Draws come in blocks of `BLOCK`. What a block holds depends on (seed, stream, block number) and on the kind of device
alone: not on the batch size, on how many processes share the work, on a restart, nor on how many draws are asked for
(the first 1 000 noises of 10 000 are those of a run with 1 000). Different purposes never share a block: pilot draws that
choose a reference, bounding draws that enter a certificate, draws that check one, draws of the deployed smoother, which
prompts are drawn where a statement is about several, initial noise of images (a block each), and the internal randomness that a
function may ask for in any of them.

The 64-bit seed of a block is (high word: hash of the user's seed; low word: a bijective mix of hash + 16·block + stream).
A CPU generator of torch uses the low word only, so the bijection is what guarantees that no two blocks of a run, of
whatever stream, are alike (up to 2²⁸ blocks).

The global random state is neither read nor written.
"""

from __future__ import annotations

import hashlib

import torch

__all__ = ["BLOCK", "SHARD", "STREAMS", "generator", "row_generator"]

BLOCK = 64
"""Draws in a block."""

SHARD = 64
"""Blocks in a shard (`certify.montecarlo.engine`)."""

STREAMS = ("pilot", "bounding", "checking", "deployment", "choosing", "images")
_MASK = 0xFFFFFFFF


def block_seed(seed: int, stream: str, block: int, *, internal: bool = False) -> int:
    """The 64-bit seed of one block."""
    if stream not in STREAMS:
        raise ValueError(f"stream = {stream!r}: must be one of {', '.join(STREAMS)}")
    if not 0 <= block < 2**28:
        raise ValueError(f"block = {block!r}: must be in 0 … 2²⁸ − 1")
    digest = hashlib.sha256(f"certify {seed}".encode()).digest()
    high, offset = int.from_bytes(digest[:4], "big"), int.from_bytes(digest[4:8], "big")
    low = (offset + 16 * block + 2 * STREAMS.index(stream) + int(internal)) & _MASK
    return high << 32 | _mix(low)


def generator(
    seed: int, stream: str, block: int, device: torch.device | str = "cpu", *, internal: bool = False
) -> torch.Generator:
    """A fresh generator at the start of a block.

    Args:
        seed: the user's seed, ≥ 0.
        stream: one of `STREAMS`.
        block: number of the block, from 0.
        device: where it draws.
        internal: the function's own randomness rather than the noise on its input.
    """
    source = torch.Generator(device=device)
    source.manual_seed(block_seed(seed, stream, block, internal=internal))
    return source


def row_generator(seed: int, key: str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator for one named thing (a prompt, say) in the deployment stream: the same wherever it stands in a list."""
    source = torch.Generator(device=device)
    block = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") >> 4
    source.manual_seed(block_seed(seed, "deployment", block))
    return source


def _mix(word: int) -> int:
    # The 32-bit finaliser of MurmurHash3: a bijection, so distinct blocks keep distinct seeds.
    word ^= word >> 16
    word = word * 0x85EBCA6B & _MASK
    word ^= word >> 13
    word = word * 0xC2B2AE35 & _MASK
    return word ^ word >> 16
