"""Random numbers: generators keyed by a hash, and normals and uniforms whose tails are right on every device.

A seed of torch's CPU generator is cut to 32 bits, so that two runs with unlike seeds may meet in the middle. Here a generator
starts from the SHA-256 of a text: on the CPU it fills the whole state of the Mersenne Twister, on CUDA the 64 bits of Philox's
key and 61 of its counter.

`normals` and `uniforms` are float64. On the CPU they come from numpy (SFC64, keyed by 192 bits that the generator gives;
normals by the ziggurat), which takes a third of the time of torch's float64 normals and leaves nothing out of the tails:
torch's float32 normals end at 5.8 standard deviations. Where a device has no float64 (Apple's MPS) the generator is on the
CPU, and so is what it draws.
"""

from __future__ import annotations

import functools
import hashlib
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.random.bit_generator import ISeedSequence
from torch import Tensor

__all__ = ["has_float64", "keyed", "normals", "uniforms"]

_WORDS = 624  # of the Mersenne Twister


def has_float64(device: torch.device | str) -> bool:
    """Whether this is a kind of device on which float64 is known to work."""
    return torch.device(device).type in ("cpu", "cuda")


def keyed(text: str, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator for what the text names: texts that differ give streams that share nothing.

    Args:
        text: hashed whole.
        device: where it draws.
    """
    key = hashlib.sha256(text.encode()).digest()
    source, kind = torch.Generator(device=device), torch.device(device).type
    if kind == "cpu":
        template, place = _layout()
        state = template.copy()
        # What `initial_seed` says, which is below 2⁶³; then the words.
        state[:8] = np.frombuffer(key[24:], dtype=np.uint8)
        state[7] &= 0x7F
        words = _sfc64(key).random_raw(_WORDS) & 0xFFFFFFFF
        state[place : place + 8 * _WORDS] = words.view(np.uint8)
        source.set_state(torch.from_numpy(state))
    elif kind == "cuda":
        source.set_state(torch.frombuffer(bytearray(philox_state(key)), dtype=torch.uint8))
    else:
        source.manual_seed(int.from_bytes(key[:8], "little") >> 1)
    return source


def philox_state(key: bytes) -> bytes:
    """The state of a CUDA generator: 64 bits of seed, and an offset into its stream, which must be a multiple of 4."""
    seed, offset = struct.unpack("<QQ", key[:16])
    return struct.pack("<QQ", seed, offset >> 3 << 2)


def normals(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Independent standard normals, float64, where the generator is if it is on CUDA, else on the CPU."""
    if generator.device.type == "cuda":
        return torch.randn(tuple(shape), generator=generator, device=generator.device, dtype=torch.float64)
    drawn: Tensor = torch.empty(tuple(shape), dtype=torch.float64)
    _numpy(generator).standard_normal(out=drawn.numpy())
    return drawn


def uniforms(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Independent whole multiples of 2⁻⁵³ in [0, 1), float64, on the device of `normals`."""
    if generator.device.type == "cuda":
        return torch.rand(tuple(shape), generator=generator, device=generator.device, dtype=torch.float64)
    drawn: Tensor = torch.empty(tuple(shape), dtype=torch.float64)
    _numpy(generator).random(out=drawn.numpy())
    return drawn


class _Key(ISeedSequence):
    """Bits that are a hash already, as the state of a generator: none of numpy's own mixing."""

    def __init__(self, key: bytes) -> None:
        self.key = key

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> Any:
        return np.frombuffer(self.key, dtype=dtype, count=n_words)


def _numpy(generator: torch.Generator) -> np.random.Generator:
    """A generator of numpy's, keyed by the next 248 bits of torch's."""
    words = torch.randint(2**31, (8,), generator=generator, device=generator.device)
    return np.random.Generator(_sfc64(hashlib.sha256(words.cpu().numpy().tobytes()).digest()))


def _sfc64(key: bytes) -> np.random.SFC64:
    return np.random.SFC64(_Key(key))  # type: ignore[arg-type]  # its stub does not know that any ISeedSequence will do


@functools.cache
def _layout() -> tuple[np.ndarray[Any, np.dtype[np.uint8]], int]:
    """The state of a CPU generator that has drawn nothing yet, and where in it the words of the Mersenne Twister begin."""
    source = torch.Generator()
    source.manual_seed(1)
    state = source.get_state().numpy().copy()
    # The first words that seed 1 gives, by the recurrence of Matsumoto and Nishimura.
    start = struct.pack("<QQ", 1, 1812433253 + 1)
    place = state.tobytes().find(start, 8)
    if place < 0 or place + 8 * _WORDS > state.size:
        raise RuntimeError(f"torch {torch.__version__}: its CPU generator has a state of another layout")
    return state, place
