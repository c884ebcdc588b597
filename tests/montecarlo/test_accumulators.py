"""Accumulators against a full sort."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from certify import GaussianNoise
from certify.bounds.dimension_free import DistanceExceedances, Together
from certify.montecarlo import (
    AllDraws,
    Counts,
    Distances,
    Exceedances,
    ExtremeRanks,
    Groups,
    draw,
    median,
    pool,
    whole_groups,
)
from certify.montecarlo.accumulators import Accumulator, row_distances


def data(n: int, shape: tuple[int, ...], ties: bool, seed: int = 0) -> torch.Tensor:
    x = torch.randn((n, *shape), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x.mul(2).round() if ties else x


def agrees(acc: ExtremeRanks, x: torch.Tensor) -> None:
    ordered = x.sort(dim=0).values
    n = x.shape[0]
    assert acc.count == n
    for rank in range(1, min(acc.low, n) + 1):
        assert torch.equal(acc.smallest(rank), ordered[rank - 1])
    for rank in range(1, min(acc.high, n) + 1):
        assert torch.equal(acc.largest(rank), ordered[n - rank])


@pytest.mark.parametrize("shape", [(), (1,), (5,), (2, 3)])
@pytest.mark.parametrize(("low", "high"), [(1, 1), (3, 0), (0, 4), (7, 20), (300, 5), (5000, 5000)])
@pytest.mark.parametrize("ties", [False, True])
def test_extreme_ranks_are_those_of_a_full_sort(shape, low, high, ties):
    x = data(4000, shape, ties)
    acc = ExtremeRanks(low, high)
    for chunk in x.split(250):
        acc.update(chunk)
    agrees(acc, x)


def test_memory_does_not_grow_with_the_draws():
    acc = ExtremeRanks(10, 10, memory=2000 * 4 * 4)
    for seed in range(60):
        acc.update(data(256, (4,), ties=False, seed=seed))
        assert sum(rows.numel() for rows in acc._rows()) <= 4 * 2000
    assert acc.count == 60 * 256


def test_pooling_widens_to_serve_all():
    pooled = pool([ExtremeRanks(3, 9), AllDraws(), ExtremeRanks(5, 1), AllDraws()])
    assert set(pooled) == {"extreme-ranks", "all-draws"}
    ranks = pooled["extreme-ranks"]
    assert isinstance(ranks, ExtremeRanks)
    assert (ranks.low, ranks.high, ranks.count) == (5, 9, 0)
    accumulator: Accumulator = pooled["all-draws"]
    assert accumulator.count == 0
    assert pool([]) == {}


def test_all_draws_keeps_all_in_order():
    x = data(10, (2,), ties=False)
    a, b = AllDraws(), AllDraws()
    a.update(x[:4])
    b.update(x[4:])
    a.merge(b)
    assert a.count == 10
    assert torch.equal(a.stacked(), x)
    assert torch.equal(a.stacked(), x)


# Distances, rows apart.


@pytest.mark.parametrize("shape", [(), (5,), (3, 4), (2, 3, 4)])
def test_distances_are_those_of_rows(shape):
    """A row is an entry of the first axis, where there is more than one axis; in any blocks, merged in any order."""
    x, center = data(400, shape, ties=False), data(1, shape, ties=False, seed=9)[0]
    rows = shape[0] if len(shape) > 1 else 1
    expected = np.linalg.norm((x - center).reshape(400, rows, -1).numpy(), axis=2)
    whole, first, second = (Distances(center) for _ in range(3))
    for chunk in x.split(37):
        whole.update(chunk)
    first.update(x[:150])
    second.update(x[150:])
    second.merge(first)
    np.testing.assert_allclose(whole.rows().numpy(), expected, rtol=1e-12)
    np.testing.assert_allclose(np.sort(second.rows().numpy(), axis=0), np.sort(expected, axis=0), rtol=1e-12)
    assert whole.count == second.count == 400
    assert whole.rows().dtype == torch.float64


def test_distances_are_taken_in_float64():
    """In float32 a distance of 1e-3 from a point 4 096 away would be lost."""
    center = torch.full((3,), 4096.0)
    outputs = center + torch.tensor([[1e-3, 0.0, 0.0]]).float()
    assert row_distances(outputs, center).item() == pytest.approx(float(outputs[0, 0].double()) - 4096.0, rel=1e-12)


# Groups of K.


@pytest.mark.parametrize("smoother", ["median", "mean"])
@pytest.mark.parametrize("copies", [1, 2, 3, 4, 13])
@pytest.mark.parametrize("block", [1, 5, 64, 1000])
def test_groups_are_consecutive_draws_whatever_the_blocks(copies, smoother, block):
    x, center = data(250, (2, 3), ties=False), data(1, (2, 3), ties=False, seed=9)[0]
    groups = Groups(center, copies, smoother)
    for chunk in x.split(block):
        groups.update(chunk)
    whole = x[: 250 // copies * copies].reshape(-1, copies, 2, 3).numpy()
    reduced = np.median(whole, axis=1) if smoother == "median" else whole.mean(axis=1)
    expected = np.linalg.norm((reduced - center.numpy()).reshape(len(reduced), -1), axis=1)
    assert groups.count == 250
    np.testing.assert_allclose(groups.values().numpy(), expected, rtol=1e-12)


def test_a_group_lies_within_one_part_of_a_run():
    """What is left over in a part stays out, also of what comes after a merge; no draw is in two groups."""
    center = torch.zeros(1, dtype=torch.float64)
    x = torch.arange(100.0, dtype=torch.float64)[:, None]
    parts = x.split([10, 20, 31, 39])
    shards = [Groups(center, 7, "mean") for _ in parts]
    for shard, part in zip(shards, parts, strict=True):
        shard.update(part)
    for shard in shards[1:]:
        shards[0].merge(shard)
    shards[0].update(x[:8])
    whole = torch.cat([part[: len(part) // 7 * 7].reshape(-1, 7).mean(dim=1) for part in (*parts, x[:8])])
    torch.testing.assert_close(shards[0].values(), whole)
    assert shards[0].count == 108


@pytest.mark.parametrize("copies", [1, 3, 13])
@pytest.mark.parametrize("n", [1, 12, 4096, 4097, 9000])
def test_groups_of_a_run_are_as_many_as_they_are_counted(copies, n):
    """Shards of 4 096 draws, by the engine itself."""
    groups = Groups(torch.zeros(1, dtype=torch.float64), copies, "median")
    y = torch.zeros(1, dtype=torch.float64)
    draw(lambda z: z, y, GaussianNoise(1.0), n=n, seed=0, stream="bounding", accumulators=[groups])
    assert len(groups.values()) == whole_groups(n, copies) == n // 4096 * (4096 // copies) + n % 4096 // copies
    assert groups.count == n


def test_a_group_as_large_as_a_shard():
    y = torch.zeros(1, dtype=torch.float64)
    groups = Groups(y, 4096, "median")
    draw(lambda z: z, y, GaussianNoise(1.0), n=9000, seed=0, stream="bounding", accumulators=[groups])
    assert len(groups.values()) == whole_groups(9000, 4096) == 2


def test_fewer_draws_than_copies_are_no_group():
    groups = Groups(torch.zeros(2), 5, "median")
    groups.update(torch.ones(4, 2))
    assert groups.values().shape == (0,)
    groups.update(torch.ones(1, 2))
    assert groups.values().tolist() == [pytest.approx(2**0.5)]


@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_the_median_of_an_even_number_averages_the_middle_two(count):
    x = data(count, (4,), ties=True)
    np.testing.assert_array_equal(median(x).numpy(), np.median(x.numpy(), axis=0))


# Counts of what lies beyond.


def test_exceedances_are_counted_a_side_and_output():
    x = data(500, (3,), ties=True).float()
    lower, upper = torch.tensor([-1.0, -2.0, -100.0]), torch.tensor([1.0, 3.0, 0.0])
    first, second = Exceedances(lower, upper), Exceedances(lower, upper)
    first.update(x[:200])
    second.update(x[200:])
    first.merge(second)
    assert first.below.tolist() == (x < lower).sum(dim=0).tolist()
    assert first.above.tolist() == (x > upper).sum(dim=0).tolist()
    assert first.count == 500


def test_a_few_ulp_beyond_count_only_where_every_one_does():
    upper = torch.tensor([1.0])
    beyond = torch.tensor([[1.0 + 1e-6], [1.0 + 1e-2]])
    loose, exact = Exceedances(-upper, upper), Exceedances(-upper, upper, exact=True)
    for counts in (loose, exact, exact.widened(exact)):
        counts.update(beyond)
    assert (int(loose.above), int(exact.above)) == (1, 2)
    assert loose.key != exact.key


def test_infinite_sides_are_never_exceeded():
    inf = torch.full((2,), float("inf"))
    counts = Exceedances(-inf, inf)
    counts.update(data(50, (2,), ties=False))
    assert int(counts.below.sum() + counts.above.sum()) == 0


def test_distances_beyond_limits_are_counted_a_row_and_limit():
    x, center = data(300, (2, 4), ties=False), torch.zeros((2, 4), dtype=torch.float64)
    limits = torch.tensor([[1.0, 2.0, 3.0], [0.5, 1.5, 2.5]], dtype=torch.float64)
    apart, joined = DistanceExceedances(center, limits, True), DistanceExceedances(center, limits[:1], False)
    other = DistanceExceedances(center, limits, True)
    for counts, part in ((apart, x[:100]), (other, x[100:]), (joined, x)):
        counts.update(part)
    apart.merge(other)
    r = x.norm(dim=2)
    assert apart.above.tolist() == (r[:, :, None] > limits).sum(dim=0).tolist()
    assert joined.above.tolist() == (x.flatten(1).norm(dim=1)[:, None] > limits[0]).sum(dim=0)[None].tolist()
    assert apart.count == joined.count == 300
    assert apart.widened(apart).count == 0
    assert torch.equal(apart.widened(apart).limits, limits)


def test_accumulators_that_go_together_see_the_same_draws():
    x = data(60, (2,), ties=False)
    parts = [Together([AllDraws(), Counts()]) for _ in range(2)]
    for part, rows in zip(parts, ((x[:20] > 0).double(), (x[20:] > 0).double()), strict=True):
        part.update(rows)
    parts[0].merge(parts[1])
    kept, counts = parts[0].parts
    assert parts[0].count == kept.count == counts.count == 60
    assert kept.stacked().sum(dim=0).tolist() == counts.ones.tolist()
    assert parts[0].widened(parts[1]).count == 0


def test_pooling_keeps_references_and_numbers_of_copies_apart():
    one, two = torch.zeros(2), torch.zeros(2)
    wanted = [Distances(one), Distances(one), Distances(two), Groups(one, 3, "mean"), Groups(one, 3, "median")]
    wanted += [Groups(one, 4, "mean"), Groups(one, 4, "mean")]
    pooled = pool(wanted)
    assert len(pooled) == 5
    assert all(pooled[accumulator.key].count == 0 for accumulator in wanted)
