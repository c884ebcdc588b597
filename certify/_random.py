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
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.random.bit_generator import ISeedSequence
from torch import Tensor

__all__ = ["Source", "has_float64", "keyed", "keyed_numpy", "normals", "uniforms"]

Source: TypeAlias = torch.Generator | np.random.Generator
"""What `normals` and `uniforms` draw from."""

_WORDS, _FAR = 624, 397  # of the Mersenne Twister: its state, and how far apart the words are that make a new one


def has_float64(device: torch.device | str) -> bool:
    """Whether this is a kind of device on which float64 is known to work."""
    return _kind(device) in ("cpu", "cuda")


@functools.cache
def _kind(device: torch.device | str) -> str:
    return torch.device(device).type


def keyed(text: str, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator for what the text names: texts that differ give streams that share nothing.

    Args:
        text: hashed whole.
        device: where it draws.
    """
    key = hashlib.sha256(text.encode()).digest()
    source, kind = torch.Generator(device=device), _kind(device)
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


def keyed_numpy(texts: Sequence[str]) -> list[np.random.Generator]:
    """What `normals` and `uniforms` draw from for `keyed(text)` on the CPU, for each text, in half the time."""
    taken = _taken()
    if taken is None:
        return [_numpy(keyed(text)) for text in texts]
    return [_of_whole(_numbers(hashlib.sha256(text.encode()).digest(), taken)) for text in texts]


def philox_state(key: bytes) -> bytes:
    """The state of a CUDA generator: 64 bits of seed, and an offset into its stream, which must be a multiple of 4."""
    seed, offset = struct.unpack("<QQ", key[:16])
    return struct.pack("<QQ", seed, offset >> 3 << 2)


def normals(shape: Sequence[int], *generators: Source) -> Tensor:
    """Independent standard normals, float64, where the generators are if they are on CUDA, else on the CPU.

    Of several generators each gives `shape`, one after the other along the first axis.
    """
    return _each(shape, generators, torch.randn, lambda source, out: source.standard_normal(out=out))


def uniforms(shape: Sequence[int], *generators: Source) -> Tensor:
    """Independent whole multiples of 2⁻⁵³ in [0, 1), float64: where, and of how many generators, as `normals`."""
    return _each(shape, generators, torch.rand, lambda source, out: source.random(out=out))


def _each(
    shape: Sequence[int],
    generators: Sequence[Source],
    on_cuda: Callable[..., Tensor],
    fill: Callable[[np.random.Generator, Any], Any],
) -> Tensor:
    first = generators[0]
    if isinstance(first, torch.Generator) and (device := first.device).type == "cuda":
        drawn = [on_cuda(tuple(shape), generator=one, device=device, dtype=torch.float64) for one in generators]
        return torch.cat(drawn) if len(drawn) > 1 else drawn[0]
    filled = np.empty((len(generators), *shape))
    for one, out in zip(generators, filled, strict=True):
        fill(_numpy(one) if isinstance(one, torch.Generator) else one, out)
    return torch.from_numpy(filled[0] if len(filled) == 1 else filled.reshape(len(filled) * shape[0], *shape[1:]))


class _Key(ISeedSequence):
    """Bits that are a hash already, as the state of a generator: none of numpy's own mixing."""

    def __init__(self, key: bytes) -> None:
        self.key = key

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> Any:
        return np.frombuffer(self.key, dtype=dtype, count=n_words)


def _numpy(generator: torch.Generator) -> np.random.Generator:
    """A generator of numpy's, keyed by the next 248 bits of torch's."""
    return _of_whole(torch.randint(2**31, (8,), generator=generator, device=generator.device).tolist())


def _of_whole(numbers: Sequence[int]) -> np.random.Generator:
    """A generator keyed by 8 whole numbers."""
    return np.random.Generator(_sfc64(hashlib.sha256(struct.pack("=8q", *numbers)).digest()))


def _numbers(key: bytes, which: range) -> list[int]:
    """Some of the first 16 numbers below 2³¹ of the Mersenne Twister with the state that `keyed` gives it."""
    words, found = _sfc64(key).random_raw(_FAR + which.stop), []
    near, far = words[: which.stop + 1].tolist(), words[_FAR:].tolist()
    for i in which:
        new = far[i] & 0xFFFFFFFF ^ (near[i] & 0x80000000 | near[i + 1] & 0x7FFFFFFF) >> 1
        if near[i + 1] & 1:
            new ^= 0x9908B0DF
        new ^= new >> 11
        new ^= new << 7 & 0x9D2C5680
        new ^= new << 15 & 0xEFC60000
        found.append((new ^ new >> 18) & 0x7FFFFFFF)
    return found


@functools.cache
def _taken() -> range | None:
    """Of which of these numbers torch makes 8 whole ones below 2³¹, of one or two each; None: of none that is known."""
    text = "which numbers are taken"
    whole, key = torch.randint(2**31, (8,), generator=keyed(text)).tolist(), hashlib.sha256(text.encode()).digest()
    return next((r for r in (range(1, 16, 2), range(0, 16, 2), range(8)) if _numbers(key, r) == whole), None)


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
