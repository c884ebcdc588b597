"""The spectral sketch against exact eigenvalues: whatever the order, the batches and the merges."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from certify.montecarlo import pool
from certify.montecarlo.sketch import Spectrum


def data(n: int, m: int, rank: int, seed: int, decay: float = 1.0) -> torch.Tensor:
    """n draws of m outputs in `rank` dimensions, with standard deviations decay, decay², …"""
    source = torch.Generator().manual_seed(seed)
    factors = torch.randn((n, rank), generator=source, dtype=torch.float64) * decay ** torch.arange(1, rank + 1)
    basis = torch.linalg.qr(torch.randn((m, m), generator=source, dtype=torch.float64)).Q
    return factors @ basis[:, :rank].T


def clipped(x: torch.Tensor, radius: float) -> torch.Tensor:
    return x * (radius / x.norm(dim=1)).clamp_max(1.0)[:, None]


def exact(x: torch.Tensor) -> float:
    return float(torch.linalg.svdvals(x)[0] ** 2) / x.shape[0]


def fed(x: torch.Tensor, sizes: list[int], center: torch.Tensor, radius: float, rows: int) -> Spectrum:
    seen, start, i = Spectrum(center, radius, rows), 0, 0
    while start < x.shape[0]:
        stop = start + sizes[i % len(sizes)]
        seen.update(x[start:stop])
        start, i = stop, i + 1
    return seen


CASES = {
    "n": st.integers(1, 150),
    "m": st.integers(1, 40),
    "rank": st.integers(1, 40),
    "rows": st.integers(1, 12),
    "seed": st.integers(0, 10**6),
    "decay": st.sampled_from([1.0, 0.9, 0.5]),
    "radius": st.sampled_from([1e-3, 1.0, 4.0, 1e9]),
    "sizes": st.lists(st.integers(1, 70), min_size=1, max_size=4),
}


@given(**CASES)
@example(n=150, m=40, rank=40, rows=1, seed=0, decay=1.0, radius=1e9, sizes=[150])  # the worst case: flat, one row
@example(n=150, m=4, rank=4, rows=1, seed=0, decay=1.0, radius=1e9, sizes=[1])  # m = 4ℓ: the matrix itself
@example(n=150, m=5, rank=5, rows=1, seed=0, decay=1.0, radius=1e9, sizes=[1])  # m = 4ℓ + 1: the smallest sketch
def test_the_largest_eigenvalue_lies_between_the_limits(n, m, rank, rows, seed, decay, radius, sizes):
    x = data(n, m, min(rank, m), seed, decay)
    center = torch.linspace(-1, 1, m, dtype=torch.float64)
    seen = fed(x + center, sizes, center, radius, rows)
    truth = exact(clipped(x, radius))
    assert seen.least <= truth * (1 + 1e-12)
    assert truth <= seen.largest
    assert seen.count == n
    assert seen.outside == int((x.norm(dim=1) > radius).sum())
    assert seen.furthest == pytest.approx(float(x.norm(dim=1).max()))
    torch.testing.assert_close(seen.mean, clipped(x, radius).mean(dim=0))


@given(**CASES)
def test_the_limits_hold_in_every_direction(n, m, rank, rows, seed, decay, radius, sizes):
    """BᵀB ⪯ Σ x xᵀ ⪯ BᵀB + Δ I, of which the largest eigenvalue is a consequence."""
    x = data(n, m, min(rank, m), seed, decay)
    seen = fed(x, sizes, torch.zeros(m), radius, rows)
    kept = seen._kept if m <= 4 * rows else seen._kept[: seen._filled].T @ seen._kept[: seen._filled]
    x = clipped(x, radius)
    difference = torch.linalg.eigvalsh(x.T @ x - kept)
    slack = 1e-12 * float(x.square().sum())
    assert -slack <= float(difference.min())
    assert float(difference.max()) <= seen.error * n + slack


@given(**CASES, cuts=st.lists(st.integers(0, 150), max_size=3), order=st.randoms(use_true_random=False))
def test_shards_merge_in_any_order(n, m, rank, rows, seed, decay, radius, sizes, cuts, order):
    x, center = data(n, m, min(rank, m), seed, decay), torch.zeros(m)
    edges = [0, *sorted(min(cut, n) for cut in cuts), n]
    shards = [fed(x[a:b], sizes, center, radius, rows) for a, b in itertools.pairwise(edges)]
    order.shuffle(shards)
    whole = Spectrum(center, radius, rows)
    for shard in shards:
        whole.merge(shard)
    assert whole.least <= exact(clipped(x, radius)) * (1 + 1e-12)
    assert exact(clipped(x, radius)) <= whole.largest
    assert (whole.count, whole.outside) == (n, int((x.norm(dim=1) > radius).sum()))
    torch.testing.assert_close(whole.mean, clipped(x, radius).mean(dim=0))


@pytest.mark.parametrize(("m", "rank", "rows"), [(40, 5, 5), (40, 1, 3), (300, 12, 12), (8, 8, 2), (24, 24, 6)])
def test_exact_while_the_draws_span_no_more_than_the_rows(m, rank, rows):
    """… or where there are no more than 4ℓ outputs at all."""
    x = data(1000, m, rank, seed=3)
    seen = fed(x, [64], torch.zeros(m), 1e9, rows)
    assert seen.error <= 1e-9 * exact(x)
    assert seen.least == pytest.approx(exact(x), rel=1e-12)


def test_the_error_is_real_where_the_draws_span_more():
    """48 flat dimensions in 4 rows: most is forgotten, and the limits say so."""
    x = data(2000, 48, 48, seed=4)
    seen = fed(x, [64], torch.zeros(48), 1e9, 4)
    assert seen.error > 0.5 * exact(x)
    assert seen.least < 0.7 * exact(x)


def test_the_upper_limit_is_close_where_a_direction_stands_out():
    x = data(4000, 200, 200, seed=5, decay=0.98)
    seen = fed(x, [64], torch.zeros(200), 1e9, 32)
    assert exact(x) <= seen.largest <= 1.02 * exact(x)


def test_the_result_does_not_depend_on_the_batches():
    x = data(500, 60, 60, seed=6)
    one = fed(x, [500], torch.zeros(60), 4.0, 8)
    other = fed(x, [1, 77, 3], torch.zeros(60), 4.0, 8)
    assert one.largest == pytest.approx(other.largest, rel=1e-9)  # the allowance for rounding does, a little


def test_memory_does_not_grow_with_the_draws():
    seen = Spectrum(torch.zeros(50), 1e9, rows=6)
    for seed in range(20):
        seen.update(data(100, 50, 50, seed=seed))
        assert seen._kept.numel() == 24 * 50


def test_outputs_of_any_shape_and_dtype():
    x = data(80, 12, 12, seed=7).float()
    flat = fed(x, [32], torch.zeros(12), 2.0, 3)
    shaped = fed(x.reshape(80, 3, 4), [32], torch.zeros(3, 4), 2.0, 3)
    assert (shaped.largest, shaped.outside) == (flat.largest, flat.outside)
    assert shaped.mean.shape == (3, 4)
    assert shaped.largest >= exact(clipped(x.double(), 2.0))


def test_the_direction_is_that_of_the_largest_eigenvalue():
    for rows in (4, 40):  # sketched and exact
        x = data(3000, 30, 30, seed=8, decay=0.7)
        top = fed(x, [64], torch.zeros(30), 1e9, rows).direction()
        assert float((x @ top).square().mean()) == pytest.approx(exact(x), rel=1e-3)


def test_no_draws_at_all():
    empty = Spectrum(torch.zeros(3), 1.0)
    assert (empty.largest, empty.least, empty.error, empty.count) == (0.0, 0.0, 0.0, 0)
    with pytest.raises(ValueError, match="no draws were seen"):
        empty.direction()
    one = fed(torch.ones(4, 3), [2], torch.zeros(3), 9.0, 32)
    one.merge(Spectrum(torch.zeros(3), 9.0))
    assert one.count == 4


def test_draws_that_are_all_alike():
    seen = fed(torch.ones(100, 7), [30], torch.ones(7), 1.0, 2)
    assert (seen.largest, seen.outside) == (0.0, 0)
    assert float(seen.direction().norm()) == pytest.approx(1.0)


def test_the_key_tells_radius_rows_and_center_apart():
    center = torch.zeros(2)
    wanted = [
        Spectrum(center, 1.0),
        Spectrum(center, 2.0),
        Spectrum(center, 1.0, rows=3),
        Spectrum(torch.zeros(2), 1.0),
    ]
    assert len({one.key for one in wanted}) == 4
    pooled = pool([*wanted, Spectrum(center, 1.0)])
    assert len(pooled) == 4
    assert pooled[wanted[2].key].rows == 3
