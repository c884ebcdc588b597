"""Streams: no two blocks alike, draws that depend on (seed, stream, block) alone, and a global state left alone."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import pytest
import torch
from scipy.special import ndtr
from scipy.stats import binomtest, kstest

from certify import GaussianNoise, MedianSmoother, UniformNoise, _random, certified_radius, mse_bound
from certify._random import keyed, keyed_numpy, normals, philox_state, uniforms
from certify.models.sampling import image_source
from certify.montecarlo import BLOCK, AllDraws, draw, generator
from certify.montecarlo.streams import STREAMS, row_generator, sources


def test_seeds_whose_streams_used_to_overlap_share_nothing():
    """With 32-bit seeds 146 of the first 160 bounding blocks of seed 5093 were checking blocks of seed 9985."""
    blocks = {
        tuple(torch.randint(2**31, (4,), generator=generator(seed, stream, block)).tolist())
        for seed, stream in ((5093, "bounding"), (9985, "checking"))
        for block in range(400)
    }
    assert len(blocks) == 800


def test_a_generator_is_the_mersenne_twister_with_its_whole_state_from_the_key():
    """All 624 words differ between two keys, and what it draws is what numpy's twister gives from that state."""
    states = []
    for text in ("a", "b"):
        source = keyed(text)
        words = source.get_state().numpy()[24 : 24 + 8 * 624].view(np.uint64).astype(np.uint32)
        twin = np.random.MT19937()
        twin.state = {"bit_generator": "MT19937", "state": {"key": words, "pos": 624}}
        drawn = torch.randint(2**24, (1000,), generator=source)
        assert drawn.tolist() == (twin.random_raw(1000) % 2**24).tolist()
        assert 0 <= source.initial_seed() < 2**63
        states.append((words, source.initial_seed()))
    assert (states[0][0] == states[1][0]).sum() < 3
    assert states[0][1] != states[1][1]


def test_a_cuda_generator_takes_all_bits_that_it_has():
    """64 of the seed, 61 of the offset, which must be a multiple of 4 and leave room to count on."""
    keys = [hashlib.sha256(bytes([i])).digest() for i in range(200)]
    pairs = np.array([np.frombuffer(philox_state(key), dtype=np.uint64) for key in keys])
    assert not (pairs[:, 1] % 4).any()
    assert (pairs[:, 1] < 2**63).all()
    for column, bits in ((0, range(64)), (1, range(2, 63))):
        for bit in bits:  # false alarm for 125 bits: below 1e-8
            assert 50 < int(((pairs[:, column] >> np.uint64(bit)) & np.uint64(1)).sum()) < 150


def test_normals_and_uniforms_go_on_where_the_last_ones_ended():
    for drawn in (normals, uniforms):
        source, again = keyed("x"), keyed("x")
        first, second = drawn((5, 7), source), drawn((5, 7), source)
        assert first.dtype == torch.float64
        assert first.shape == (5, 7)
        assert torch.equal(first, drawn((5, 7), again))
        assert not bool((first == second).any())


@pytest.mark.parametrize("known", [True, False])
def test_what_normals_are_drawn_from_is_made_without_a_generator_of_torch(known, monkeypatch):
    """From the same text the same draws, bit for bit; also where it is not known how torch makes whole numbers."""
    if known:
        assert _random._taken() is not None
    else:
        monkeypatch.setattr(_random, "_taken", lambda: None)
    texts = [f"block {i}" for i in range(500)]
    for drawn in (normals, uniforms):
        for text, source in zip(texts, keyed_numpy(texts), strict=True):
            assert torch.equal(drawn((3, 2), source), drawn((3, 2), keyed(text)))


@pytest.mark.parametrize("shape", [(2,), (3, 300)])
@pytest.mark.parametrize("noise", [GaussianNoise(0.3), UniformNoise(0.3)])
def test_noise_of_several_blocks_is_that_of_each(noise, shape):
    """Few blocks or one at a time, as many as fit: the same numbers."""
    y, blocks = torch.rand(shape), range(3, 9)
    together = noise.draw_each(y, BLOCK, sources(5, "bounding", blocks, y.device))
    alone = [noise.draw(y, BLOCK, generator(5, "bounding", block)) for block in blocks]
    assert torch.equal(together, torch.cat(alone))


def test_normals_are_right_in_the_tails():
    """Counts of 4·10⁷ draws beyond 1 … 5 standard deviations, two-sided binomial at 1e-6 each; and the empirical law's distance
    from Φ (Kolmogorov–Smirnov at 1e-6)."""
    x = normals((40_000_000,), keyed("tails")).numpy()
    for z in (1, 2, 3, 4, 4.5, 5):
        for count in (int((x > z).sum()), int((x < -z).sum())):
            assert binomtest(count, len(x), float(ndtr(-z))).pvalue > 1e-6
    assert kstest(x[:1_000_000], "norm").pvalue > 1e-6


def test_images_have_generators_of_their_own():
    """Image 1 000 003 of seed 0 was image 0 of seed 1."""
    firsts = {
        torch.randn(4, generator=image_source(seed, i)).sum().item() for seed in (0, 1) for i in (0, 1, 2, 1_000_003)
    }
    assert len(firsts) == 8


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


@pytest.mark.parametrize(
    "method", [("median", "coordinatewise"), ("median", "dimension-free"), ("median", "spectral"), ("mean", "spectral")]
)
@pytest.mark.parametrize("outputs", [3, 200])
def test_claims_do_not_depend_on_the_batch_size(method, outputs):
    """To the last bit, for every method; T11 and T12 add up sums, which came out in another order."""
    weights = torch.randn(4, outputs, generator=torch.Generator().manual_seed(0))
    smoother, name = method

    def f(z):
        return torch.tanh((z[:, :, None] * weights).sum(dim=1))

    def claim(batch_size):
        ask = {"rho": 0.5, "n": 1500, "smoother": smoother, "method": name, "support": (-1.0, 1.0)}
        b = mse_bound(f, torch.zeros(4), 0.5, batch_size=batch_size, **ask)
        numbers = {} if b.evidence is None else b.evidence.numbers() | b.evidence.tensors()
        return b.value, {k: v.tolist() if isinstance(v, torch.Tensor) else v for k, v in numbers.items()}

    first = claim(None)
    for batch_size in (1, 7, 64, 100, 256, 1000):
        assert claim(batch_size) == first


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
    assert 0.3 < float((drawn(500, f=Dropout().eval()) == 0).float().mean()) < 0.7


def test_global_random_state_is_neither_read_nor_written():
    y = torch.zeros(2)

    def results():
        return (
            mse_bound(torch.sin, y, 0.5, rho=1.0, n=500).value,
            certified_radius(torch.sin, y, 0.5, tolerance=1.0, n=500).rho,
            MedianSmoother(torch.sin, 0.5)(y, seed=0).tolist(),
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
    with pytest.raises(ValueError, match=r"block = -1: must be >= 0"):
        generator(0, "pilot", -1)
    with pytest.raises(ValueError, match="stream = 'other': must be one of pilot"):
        generator(0, "other", 0)
