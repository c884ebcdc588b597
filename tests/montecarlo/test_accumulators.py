"""Accumulators against a full sort."""

from __future__ import annotations

import pytest
import torch

from certify.montecarlo import AllDraws, ExtremeRanks, pool
from certify.montecarlo.accumulators import Accumulator


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


def test_ranks_can_be_read_between_updates():
    x = data(3000, (2,), ties=False)
    acc = ExtremeRanks(10, 4)
    for stop in (1, 2, 3, 17, 500, 1999, 3000):
        acc.update(x[acc.count : stop])
        agrees(acc, x[:stop])


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_merging_in_any_order_is_one_run(order):
    x = data(3000, (3,), ties=True)
    shards = []
    for part in x.split([1, 1200, 1799]):
        shard = ExtremeRanks(40, 60)
        for chunk in part.split(100):
            shard.update(chunk)
        shards.append(shard)
    whole = ExtremeRanks(40, 60)
    for i in order:
        whole.merge(shards[i])
    agrees(whole, x)


def test_memory_does_not_grow_with_the_draws():
    acc = ExtremeRanks(10, 10, memory=2000 * 4 * 4)
    for seed in range(60):
        acc.update(data(256, (4,), ties=False, seed=seed))
        assert sum(rows.numel() for rows in acc._rows()) <= 4 * 2000
    assert acc.count == 60 * 256


def test_merging_different_widths_is_refused():
    with pytest.raises(ValueError, match=r"other keeps \(1, 2\) ranks: must be the same \(1, 1\) to merge"):
        ExtremeRanks(1, 1).merge(ExtremeRanks(1, 2))


@pytest.mark.parametrize("rank", [0, -1, 3, 4])
def test_a_rank_that_is_not_held_is_refused(rank):
    """Two are kept at the low end; rank 0 would silently be the largest by Python's indexing."""
    acc = ExtremeRanks(2, 5)
    acc.update(data(10, (1,), ties=False))
    with pytest.raises(ValueError, match=rf"rank = {rank}: must be in 1 … 2 at the low end"):
        acc.smallest(rank)


def test_a_rank_beyond_the_draws_is_refused():
    acc = ExtremeRanks(9, 9)
    acc.update(data(4, (1,), ties=False))
    with pytest.raises(ValueError, match=r"rank = 5: must be in 1 … 4 at the high end"):
        acc.largest(5)


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
