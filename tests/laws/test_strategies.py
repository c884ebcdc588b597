"""The strategies themselves: every corner that they promise is reached, and what they hand out is what it says."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st

from tests.strategies import (
    FAMILIES,
    INPUTS,
    NOISES,
    OUTPUTS,
    copies,
    draws,
    inputs,
    levels,
    noises,
    partitions,
    percentiles,
    problems,
    radii,
    rows,
    sigmas,
)

REACHED = settings(
    max_examples=2000,
    derandomize=True,
    database=None,
    phases=(Phase.generate,),
    suppress_health_check=list(HealthCheck),
)


def spread(noise):
    live = noise.sigma[noise.sigma > 0]
    return float(live.max() / live.min()) if live.numel() else 1.0


CORNERS = {
    **{f"f: {family}": lambda p, family=family: p.f.family == family for family in FAMILIES},
    **{f"input {shape}": lambda p, shape=shape: tuple(p.y.shape) == shape for shape in INPUTS},
    **{f"output {shape}": lambda p, shape=shape: p.f.shape == shape for shape in OUTPUTS},
    "isotropic": lambda p: p.noise.sigma.ndim == 0,
    "per token": lambda p: p.y.ndim > 1 and p.noise.sigma.ndim > 1 and p.noise.sigma.shape != p.y.shape,
    "per coordinate": lambda p: p.noise.sigma.shape == p.y.shape != () and spread(p.noise) > 1,
    "some without noise": lambda p: 0 < int((p.noise.sigma == 0).sum()) < p.noise.sigma.numel(),
    "no noise": lambda p: not bool(p.noise.sigma.any()),
    "nearly singular": lambda p: spread(p.noise) >= 1e8,
    "tiny": lambda p: 0 < float(p.noise.sigma.max()) < 1e-8,
    "huge": lambda p: float(p.noise.sigma.max()) > 1e8,
    "y at 0": lambda p: not bool(p.y.any()),
    "a support": lambda p: p.f.support is not None and p.f.support.gain is not None,
}


@pytest.mark.parametrize("name", CORNERS)
def test_a_corner_is_reached(name):
    find(problems(), CORNERS[name], settings=REACHED)


NUMBERS = {
    "ρ near 0": (radii, lambda x: x < 1e-6),
    "ρ too large for any draw": (radii, lambda x: x > 30),
    "α next to nothing": (levels, lambda x: x < 1e-6),
    "α above a half": (levels, lambda x: x > 0.5),
    "one draw": (draws, lambda n: n == 1),
    "several blocks": (draws, lambda n: n > 500),
    "p near 0": (percentiles, lambda p: p < 0.01),
    "p near 1": (percentiles, lambda p: p > 0.99),
    "the paper's K": (copies, lambda k: k == 13),
    "ties": (rows(50), lambda x: len(x) > 5 and x.flatten(1)[:, 0].unique().numel() < len(x)),
    "many parts": (partitions(50), lambda parts: len(parts) == 6),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_is_reached(name):
    strategy, wanted = NUMBERS[name]
    find(strategy, wanted, settings=REACHED)


@given(problems(), st.integers(1, 5))
def test_a_problem_fits_together(problem, b):
    """Shapes match, outputs are finite, a support is kept to, no randomness is hidden in f."""
    f, y, noise = problem
    z = noise.draw(y, b, torch.Generator().manual_seed(0))
    outputs = f(z)
    assert outputs.shape == (b, *f.shape)
    assert bool(torch.isfinite(outputs).all())
    assert torch.equal(f(z), outputs)
    assert repr(f).startswith("Function(")
    if f.support is not None:
        low, high = f.support.over(f.shape)
        assert bool(((low <= outputs) & (outputs <= high)).all())
        if f.support.gain is not None:
            live = f.support.gain > 1e-6
            away = ((outputs - f.support.offset) / f.support.gain)[..., live]
            assert float(away.square().sum(dim=-1).max()) <= f.shape[-1] * (1 + 1e-9)


@given(st.sampled_from(INPUTS), st.sampled_from(NOISES), st.data())
def test_a_sigma_fits_an_input(shape, kind, data):
    sigma = data.draw(sigmas(shape, [kind]))
    assert torch.broadcast_shapes(sigma.shape, shape) == shape
    assert bool(torch.isfinite(sigma).all() and (sigma >= 0).all())
    assert data.draw(noises(shape, [kind])).sigma_for(shape).shape == shape
    assert data.draw(inputs(shape)).shape == shape


@given(st.integers(1, 100), st.data())
def test_parts_are_the_whole(n, data):
    parts = data.draw(partitions(n))
    assert [i for part in parts for i in range(n)[part]] == list(range(n))
    assert all(part.stop > part.start for part in parts)
    assert math.fsum(part.stop - part.start for part in parts) == n
