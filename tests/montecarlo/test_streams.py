"""Streams: no two blocks alike, draws that depend on (seed, stream, block) alone, and a global state left alone."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from certify import GaussianNoise, MedianSmoother, certified_radius, mse_bound
from certify.montecarlo import BLOCK, AllDraws, draw, generator
from certify.montecarlo.streams import STREAMS, block_seed, row_generator


@pytest.mark.parametrize("seed", [0, 1, 2, 12345, 2**70])
def test_no_two_blocks_share_a_seed(seed):
    """In their low 32 bits, which are all that a CPU generator uses."""
    seeds = [
        block_seed(seed, stream, block, internal=internal) & 0xFFFFFFFF
        for stream in STREAMS
        for internal in (False, True)
        for block in [*range(5000), 2**28 - 1, 2**27]
    ]
    assert len(set(seeds)) == len(seeds)


def test_no_two_blocks_share_their_first_numbers():
    firsts = {
        tuple(torch.randn(2, generator=generator(seed, stream, block, internal=internal)).tolist())
        for seed in range(4)
        for stream in STREAMS
        for internal in (False, True)
        for block in range(50)
    }
    assert len(firsts) == 4 * len(STREAMS) * 2 * 50


def test_blocks_are_uncorrelated():
    """Largest of 4 950 correlations of blocks of 4 096 numbers: below 6 standard errors (false alarm about 1e-5)."""
    blocks = torch.stack([torch.randn(4096, generator=generator(0, "bounding", b)) for b in range(100)])
    correlation = torch.corrcoef(blocks) - torch.eye(100)
    assert float(correlation.abs().max()) < 6 / 64


def drawn(n: int, **options) -> torch.Tensor:
    kept = AllDraws()
    settings = {"seed": 0, "stream": "bounding", "batch_size": None, "f": lambda z: z} | options
    f = settings.pop("f")
    draw(f, torch.zeros(3), GaussianNoise(1.0), n=n, accumulators=[kept], **settings)
    assert kept.count == n
    return kept.stacked()


@pytest.mark.parametrize("n", [1, BLOCK - 1, BLOCK, BLOCK + 1, 200])
def test_a_long_run_begins_with_the_draws_of_a_short_one(n):
    assert torch.equal(drawn(700)[:n], drawn(n))


@pytest.mark.parametrize("batch_size", [1, 7, 63, 64, 65, 200, 10_000])
def test_draws_do_not_depend_on_the_batch_size(batch_size):
    assert torch.equal(drawn(500, batch_size=batch_size), drawn(500))


def test_streams_and_seeds_differ():
    runs = [drawn(50, stream=stream, seed=seed) for stream in STREAMS for seed in (0, 1)]
    for i, a in enumerate(runs):
        for b in runs[:i]:
            assert not bool((a == b).any())


@pytest.mark.parametrize("batch_size", [1, 64, 1000])
def test_a_random_function_gets_a_generator_of_its_own(batch_size):
    """Its randomness repeats with the seed, whatever the batch size, and is not the noise on its input."""

    def noisy(z, generator):
        return z + 10 * torch.randn(z.shape, generator=generator, dtype=torch.float64)

    first = drawn(128, f=noisy)
    assert torch.equal(first, drawn(128, f=noisy, batch_size=batch_size))
    assert not torch.equal(first, drawn(128, f=noisy, seed=1))
    own = (first - drawn(128)) / 10
    assert abs(float(torch.corrcoef(torch.stack([own.flatten(), drawn(128).flatten()]))[0, 1])) < 0.3
    assert len(set(own[:, 0].tolist())) == 128  # blocks do not repeat each other


class Dropout(torch.nn.Module):
    def forward(self, z, generator=None):
        assert generator is not None
        return z * torch.empty_like(z).bernoulli_(0.5, generator=generator)


def test_a_random_module_gets_a_generator_too():
    assert 0.3 < float((drawn(500, f=Dropout()) == 0).float().mean()) < 0.7


def test_global_random_state_is_neither_read_nor_written():
    y = torch.zeros(2)

    def results():
        return (
            mse_bound(torch.sin, y, 0.5, rho=1.0, n=500).value,
            certified_radius(torch.sin, y, 0.5, tolerance=1.0, n=500).rho,
            MedianSmoother(torch.sin, 0.5)(y).tolist(),
        )

    before = results()
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002 - the legacy global state is what must stay untouched
    random.seed(99)
    state = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    assert results() == before
    assert torch.equal(torch.get_rng_state(), state[0])
    assert np.array_equal(np.random.get_state()[1], state[1])  # noqa: NPY002
    assert random.getstate() == state[2]


def test_rows_have_generators_by_name():
    def first(seed: int, key: str) -> float:
        return torch.randn(1, generator=row_generator(seed, key)).item()

    assert first(0, "a cat") == first(0, "a cat")
    assert len({first(seed, key) for seed in (0, 1) for key in ("a cat", "a dog", "")}) == 6


def test_blocks_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"block = 268435456: must be in 0"):
        block_seed(0, "pilot", 2**28)
    with pytest.raises(ValueError, match="stream = 'other': must be one of pilot"):
        block_seed(0, "other", 0)
