"""Strategies: the inputs, noises, functions and numbers that laws are tested on.

A law is a sentence that begins with "for every". What stands behind the "every" is here, once for all tests:

- `inputs`, `noises`, `functions`, and `problems`: a function, an input and a noise that fit each other;
- `radii`, `levels` (failure probabilities α), `draws` (n), `percentiles`, `copies` (K), `tolerances`, `seeds`;
- `partitions` of draws into blocks or shards, and `rows` of draws without any function behind them.

Everything is a function of a few small numbers, so that a counter-example shrinks to few coordinates, few draws and round
numbers, and prints as something that can be typed in again: `Function` and `GaussianNoise` say what they are.

The corners are drawn often, not by luck: coordinates without noise, noise that is nearly singular, scales up to 1e±9, atoms,
constants, tails without a mean, ρ near 0 and beyond what any draw can speak about, one draw, outputs without an axis.
`tests/laws/test_strategies.py` holds that each of them is reached.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor

from certify import GaussianNoise, Support, layer_norm_support

__all__ = [
    "FAMILIES",
    "INPUTS",
    "MODERATE",
    "NOISES",
    "OUTPUTS",
    "TAME",
    "Function",
    "Problem",
    "copies",
    "deltas",
    "draws",
    "functions",
    "inputs",
    "levels",
    "noises",
    "partitions",
    "percentiles",
    "problems",
    "radii",
    "rows",
    "seeds",
    "sigmas",
    "tolerances",
]

# Numbers

seeds = st.integers(0, 2**40)
"""Of a run."""

_small_seeds = st.integers(0, 10_000)

radii = st.floats(0.01, 1.0) | st.floats(0.01, 2.5) | st.sampled_from([1e-9, 1e-3, 5.0, 40.0])
"""ρ > 0: where draws say something, next to nothing, where only many draws do, and where none ever do."""

levels = st.floats(0.01, 0.4) | st.floats(1e-4, 0.4) | st.sampled_from([1e-9, 0.05, 0.9])
"""α, the probability that a statement fails."""

draws = st.integers(1, 700) | st.integers(150, 700)
"""n: from too few for anything to enough for ρ around 2; less than a block of 64, and several."""

percentiles = st.floats(0.02, 0.98) | st.sampled_from([0.25, 0.5, 0.75, 1e-3, 0.999])
"""p in (0, 1), or a probability q over the deployment noise; quarters, whose mirror images are exact, among them."""

copies = st.integers(1, 5) | st.just(13)
"""K, the noisy copies that one deployed output sees."""

tolerances = st.floats(1e-3, 50.0)
"""Squared distances."""

# Inputs and noises

INPUTS: tuple[tuple[int, ...], ...] = ((1,), (3,), (4,), (), (2, 2), (3, 1), (2, 1, 2))
"""Shapes of an input: vectors, (tokens, width), a number, more axes."""

OUTPUTS: tuple[tuple[int, ...], ...] = ((1,), (2,), (3,), (), (2, 2), (3, 1))
"""Shapes of an output."""

NOISES = ("isotropic", "per coordinate", "per token", "some zero", "zero", "nearly singular", "extreme")
"""Kinds of noise: one σ; one a coordinate; one a token, broadcast over the width; some or all of them 0; σ over nine orders of
magnitude beside each other; one scale for all of 1e-9 … 1e9."""

MODERATE = ("isotropic", "per coordinate", "per token", "some zero")
"""Kinds for laws that hold up to rounding, where a shift must not be lost in a scale."""

_SIGMAS = (0.05, 0.5, 2.0)


@st.composite
def inputs(draw: Any, shape: tuple[int, ...] | None = None, dtype: torch.dtype = torch.float64) -> Tensor:
    """y: standard normal, or 0 (where steps and signs have an atom)."""
    size = draw(st.sampled_from(INPUTS)) if shape is None else shape
    seed = draw(_small_seeds)
    if seed == 0:
        return torch.zeros(size, dtype=dtype)
    return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@st.composite
def sigmas(draw: Any, shape: tuple[int, ...], kinds: Sequence[str] = NOISES) -> Tensor:
    """σ as it is handed to `GaussianNoise`, float64: of a shape that broadcasts to `shape`."""
    kind = draw(st.sampled_from(kinds))

    def each(values: Sequence[float], size: tuple[int, ...]) -> Tensor:
        count = math.prod(size)
        found = draw(st.lists(st.sampled_from(values), min_size=count, max_size=count))
        return torch.tensor(found, dtype=torch.float64).reshape(size)

    match kind:
        case "isotropic":
            return torch.tensor(draw(st.floats(0.05, 2.0)), dtype=torch.float64)
        case "per coordinate":
            return each(_SIGMAS, shape)
        case "per token":
            return each(_SIGMAS, shape[:1] + (1,) * (len(shape) - 1))
        case "some zero":
            return each((0.0, *_SIGMAS), shape)
        case "zero":
            return torch.zeros(shape, dtype=torch.float64)
        case "nearly singular":
            return each((1e-9, 1e-4, 1.0), shape)
    return torch.full(shape, 10.0 ** draw(st.sampled_from([-9, -4, 4, 9])), dtype=torch.float64)


@st.composite
def noises(draw: Any, shape: tuple[int, ...], kinds: Sequence[str] = NOISES) -> GaussianNoise:
    """Gaussian noise for inputs of `shape`."""
    sigma = draw(sigmas(shape, kinds))
    return GaussianNoise(float(sigma) if sigma.ndim == 0 and draw(st.booleans()) else sigma)


@st.composite
def deltas(draw: Any, noise: GaussianNoise, shape: tuple[int, ...]) -> Tensor:
    """A perturbation along the noised coordinates, ‖δ‖_Σ about sqrt(their number); 0 where there are none."""
    seed = draw(_small_seeds)
    unit = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return unit * noise.sigma_for(shape)


# Functions

_ELEMENTWISE: dict[str, tuple[Callable[[Tensor], Tensor], tuple[float, float] | None]] = {
    "linear": (lambda z: z, None),
    "sine": (torch.sin, (-1.0, 1.0)),
    "relu": (torch.relu, None),
    "steps": (torch.floor, None),
    "sign": (torch.sign, (-1.0, 1.0)),
    "cube": (lambda z: z**3, None),
    "atoms": (lambda z: z.clamp(-0.5, 0.5), (-0.5, 0.5)),
    "constant": (lambda z: z * 0 + 2.0, (2.0, 2.0)),
    "tails": (lambda z: torch.sinh((3 * z).clamp(-60, 60)), None),
}

FAMILIES = (*_ELEMENTWISE, "layer norm")
"""Kinds of functions: smooth, kinked, with atoms at whole numbers or at the ends of an interval, constant, with tails that have
no mean to speak of, and rows that went through a LayerNorm. Those that are bounded know their support."""

TAME = ("linear", "sine", "relu", "steps", "sign", "atoms", "constant")
"""Without the heavy tails, for laws that hold up to rounding."""


@dataclass(frozen=True, eq=False)
class Function:
    """f: (b, *input) → (b, *output): one of `FAMILIES` after an affine map of everything.

    Attributes:
        family: which.
        shape: of an output.
        matrix, offset: of the affine map, (inputs, outputs) and (outputs,).
        support: what is known of its values a priori; None: nothing.
    """

    family: str
    shape: tuple[int, ...]
    matrix: Tensor
    offset: Tensor
    support: Support | None = field(default=None)

    def __repr__(self) -> str:
        return f"Function({self.family!r} to {self.shape}, A = {self.matrix.tolist()}, b = {self.offset.tolist()})"

    def __call__(self, z: Tensor) -> Tensor:
        away = z.reshape(z.shape[0], -1) @ self.matrix.to(z.dtype) + self.offset.to(z.dtype)
        outputs = away.reshape(z.shape[0], *self.shape)
        if self.family == "layer norm":
            norm = _layer_norm(self.shape[-1], z.dtype)
            return torch.nn.functional.layer_norm(outputs, (self.shape[-1],), norm.weight, norm.bias)
        return _ELEMENTWISE[self.family][0](outputs)


def _layer_norm(width: int, dtype: torch.dtype) -> torch.nn.LayerNorm:
    """With gains 1, −2, 3, … (the last 0) and offsets 0.5, 0.5, …"""
    norm = torch.nn.LayerNorm(width, dtype=dtype).requires_grad_(False).eval()
    norm.weight.copy_(torch.arange(1, width + 1) * (-1.0) ** torch.arange(width))
    norm.weight[2:] *= torch.arange(2, width) < width - 1
    norm.bias.fill_(0.5)
    return norm


@st.composite
def functions(
    draw: Any, inputs: tuple[int, ...], outputs: tuple[int, ...] | None = None, families: Sequence[str] = FAMILIES
) -> Function:
    """A function of inputs of one shape to outputs of another (None: any of `OUTPUTS`)."""
    sizes = OUTPUTS if outputs is None else (outputs,)
    rowed = [shape for shape in sizes if shape and shape[-1] > 1]  # a LayerNorm needs a row
    family = draw(st.sampled_from([name for name in families if rowed or name != "layer norm"]))
    shape = draw(st.sampled_from(rowed if family == "layer norm" else sizes))
    rng = torch.Generator().manual_seed(draw(_small_seeds))
    matrix = torch.randn((math.prod(inputs), math.prod(shape)), generator=rng, dtype=torch.float64)
    offset = torch.randn(math.prod(shape), generator=rng, dtype=torch.float64) * draw(st.sampled_from([0.0, 1.0]))
    if family == "layer norm":
        support = layer_norm_support(_layer_norm(shape[-1], torch.float64))
    else:
        ends = _ELEMENTWISE[family][1]
        support = None if ends is None else Support(*(torch.tensor(end, dtype=torch.float64) for end in ends))
    return Function(family, shape, matrix, offset, support)


class Problem(NamedTuple):
    """What every bound begins with: `bound(*problem, rho=…)`."""

    f: Function
    y: Tensor
    noise: GaussianNoise


@st.composite
def problems(
    draw: Any,
    families: Sequence[str] = FAMILIES,
    kinds: Sequence[str] = NOISES,
    inputs_of: Sequence[tuple[int, ...]] = INPUTS,
    outputs: tuple[int, ...] | None = None,
) -> Problem:
    """A function, an input and a noise.

    Args:
        families, kinds: of functions and noises.
        inputs_of: shapes of the input to choose from.
        outputs: shape of the output; None: any of `OUTPUTS`.
    """
    shape = draw(st.sampled_from(inputs_of))
    return Problem(draw(functions(shape, outputs, families)), draw(inputs(shape)), draw(noises(shape, kinds)))


# Draws


@st.composite
def rows(draw: Any, most: int = 300, shape: tuple[int, ...] | None = None) -> Tensor:
    """Draws of nothing in particular, (n, *output): normal, or rounded to whole numbers, so that there are ties."""
    n = draw(st.integers(1, most))
    size = draw(st.sampled_from(OUTPUTS)) if shape is None else shape
    rng = torch.Generator().manual_seed(draw(_small_seeds))
    x = torch.randn((n, *size), generator=rng, dtype=torch.float64).mul(3)
    return x.round() if draw(st.booleans()) else x


@st.composite
def partitions(draw: Any, n: int, most: int = 6) -> list[slice]:
    """n draws cut into consecutive parts, up to `most`, none empty."""
    cuts = draw(st.sets(st.integers(1, n - 1), max_size=most - 1)) if n > 1 else set()
    edges = [0, *sorted(cuts), n]
    return [slice(a, b) for a, b in itertools.pairwise(edges)]
