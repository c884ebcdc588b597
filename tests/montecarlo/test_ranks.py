"""Extreme ranks under pressure: buffers that are cut, rows that are spilled to disk, ties and infinities, every rank."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from certify.montecarlo import ExtremeRanks

KINDS = ("plain", "ties", "infinities", "constant")


def data(n: int, shape: tuple[int, ...], kind: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    x = torch.randn((n, *shape), generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)
    if kind == "ties":
        x = x.round()
    if kind == "infinities":
        x = torch.where(x > 1.5, torch.inf, torch.where(x < -1.5, -torch.inf, x))
    return torch.ones_like(x) if kind == "constant" else x


def fed(acc: ExtremeRanks, x: Tensor, size: int) -> ExtremeRanks:
    for part in x.split(size):
        acc.update(part)
    return acc


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n", "low", "high", "memory"), [
    (500, 40, 60, 2**30),  # all in one buffer
    (6000, 40, 60, 2**13),  # cut many times
    (3000, 900, 1200, 2**14),  # spilled
    (3000, 0, 7, 2**12),
    (3000, 7, 0, 2**12),
])  # fmt: skip
def test_every_rank_is_that_of_sorting(kind, dtype, n, low, high, memory, tmp_path):
    x = data(n, (3, 2), kind, dtype=dtype)
    ordered = x.sort(dim=0).values
    acc = fed(ExtremeRanks(low, high, memory=memory, folder=tmp_path), x, 97)
    for rank in {1, low // 2, low} - {0}:
        if low:
            assert torch.equal(acc.smallest(rank), ordered[rank - 1])
    for rank in {1, high // 2, high} - {0}:
        if high:
            assert torch.equal(acc.largest(rank), ordered[n - rank])
    assert bool(list(tmp_path.iterdir())) == (n == 3000 and low == 900)


def test_answers_follow_new_draws():
    x = data(900, (4,), "plain")
    acc = ExtremeRanks(5, 5)
    for stop in (300, 600, 900):
        acc.update(x[stop - 300 : stop])
        assert torch.equal(acc.largest(5), x[:stop].sort(dim=0).values[-5])
        assert torch.equal(acc.smallest(2), x[:stop].sort(dim=0).values[1])


def test_a_spilled_state_is_put_back(tmp_path: Path):
    x = data(4000, (3,), "plain")
    acc = fed(ExtremeRanks(1500, 1500, memory=2**13, folder=tmp_path), x[:2500], 100)
    other = ExtremeRanks(1500, 1500, memory=2**13, folder=tmp_path)
    other.restore(acc.state())
    fed(other, x[2500:], 77)
    ordered = x.sort(dim=0).values
    assert torch.equal(other.smallest(1500), ordered[1499])
    assert torch.equal(other.largest(1400), ordered[-1400])
    state = acc.state()
    for path in tmp_path.iterdir():
        path.unlink()
    with pytest.raises(ValueError, match=r"spilled to disk, and '.*draws-0\.npy' is not there"):
        ExtremeRanks(1500, 1500).restore(state)


def test_a_temporary_folder_goes_with_the_object():
    acc = fed(ExtremeRanks(1500, 1500, memory=2**12), data(3200, (3,), "plain"), 100)
    folder = acc.folder
    assert folder is not None
    assert list(folder.iterdir())
    del acc
    assert not folder.exists()


def test_several_wanted_ranks_in_one_pass_are_pooled():
    x = data(2000, (5,), "plain")
    acc = fed(ExtremeRanks(10, 400).widened(ExtremeRanks(300, 20)), x, 64)
    ordered = x.sort(dim=0).values
    for rank in (10, 300):
        assert torch.equal(acc.smallest(rank), ordered[rank - 1])
    for rank in (20, 400):
        assert torch.equal(acc.largest(rank), ordered[-rank])
    assert not acc._sorted  # all four were selected, nothing was sorted
    assert torch.equal(acc.smallest(77), ordered[76])
    assert acc._sorted


def orders(x: Tensor) -> dict[str, Tensor]:
    """The same draws as they come, from the least, from the largest, and from the middle outwards."""
    ordered = x.sort(dim=0).values
    outwards = ordered[(torch.arange(len(x)) - len(x) // 2).abs().argsort()]
    return {"as they come": x, "rising": ordered, "falling": ordered.flip(0), "outwards": outwards}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", ["as they come", "rising", "falling", "outwards"])
@pytest.mark.parametrize("size", [7, 97, 3000])
@pytest.mark.parametrize(("low", "high"), [(30, 50), (1, 300), (0, 40), (40, 0)])
def test_what_does_not_matter_is_not_missed(kind, order, size, low, high):
    """After the first cut only draws beyond the limits are taken, an output at its own pace; every rank is that of sorting."""
    x = orders(data(3000, (7,), kind))[order].clone()
    x[:, 1] *= -1  # one output goes the other way
    ordered = x.sort(dim=0).values
    acc = fed(ExtremeRanks(low, high, memory=2**15), x, size)
    assert acc._ends
    for rank in range(1, low + 1):
        assert torch.equal(acc.smallest(rank), ordered[rank - 1])
    for rank in range(1, high + 1):
        assert torch.equal(acc.largest(rank), ordered[-rank])


@pytest.mark.parametrize("kind", KINDS)
def test_limits_hold_beside_answers_states_and_merges(kind, tmp_path):
    x = data(9000, (4, 3), kind)
    ordered = x.sort(dim=0).values
    acc = fed(ExtremeRanks(50, 70, memory=2**16), x[:3000], 100)
    assert torch.equal(acc.smallest(50), x[:3000].sort(dim=0).values[49])
    assert torch.equal(acc.largest(12), x[:3000].sort(dim=0).values[-12])
    fed(acc, x[3000:4000], 33)
    other = ExtremeRanks(50, 70, memory=2**16)
    other.restore(acc.state())
    assert len(acc.state()["rows"]) == 120
    fed(acc, x[4000:4500], 100)  # of which the copy knows nothing
    fed(other, x[4000:6500], 100)
    third = fed(ExtremeRanks(50, 70, memory=2**16), x[6500:], 64)
    other.merge(third)
    assert other.count == 9000
    for rank in (1, 20, 50):
        assert torch.equal(other.smallest(rank), ordered[rank - 1])
        assert torch.equal(other.largest(rank), ordered[-rank])
    assert torch.equal(acc.largest(70), x[:4500].sort(dim=0).values[-70])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("low", "high"), [(1500, 1500), (900, 1200), (2100, 0), (3000, 3000)])
def test_every_rank_is_read_from_disk(kind, low, high, tmp_path):
    x = data(3000, (5, 2), kind)
    acc = ExtremeRanks(low, high, memory=2**14, folder=tmp_path)
    for stop in (2900, 3000):  # what was put in order is put in order anew
        fed(acc, x[0 if stop == 2900 else 2900 : stop], 90)
        ordered = x[:stop].sort(dim=0).values
        for rank in {*range(1, min(low, stop) + 1, 37), min(low, stop)}:
            assert torch.equal(acc.smallest(rank), ordered[rank - 1])
        for rank in {*range(1, min(high, stop) + 1, 41), min(high, stop)} - {0}:
            assert torch.equal(acc.largest(rank), ordered[-rank])
    assert acc._files
    assert (tmp_path / "ordered.npy").exists()


def test_the_extremes_come_along_with_what_is_wanted_from_disk(tmp_path):
    x = data(3000, (6,), "plain")
    acc = fed(ExtremeRanks(900, 1200, memory=2**14, folder=tmp_path), x, 90)
    assert torch.equal(acc.smallest(900), x.sort(dim=0).values[899])
    assert torch.equal(acc.smallest(1), x.amin(dim=0))
    assert torch.equal(acc.largest(1), x.amax(dim=0))
    assert not (tmp_path / "ordered.npy").exists()


def test_spilled_parts_merge_as_processes_do():
    """Every process holds states of all, each with files of its own, and whoever takes files over keeps them alive."""
    x = data(6000, (3,), "plain")
    ordered = x.sort(dim=0).values
    parts = [fed(ExtremeRanks(2900, 2950, memory=2**13), part, 80) for part in x.split(2000)]
    states = [part.state() for part in parts]
    for total in parts:
        fresh = total.widened(total)
        for state in states:
            theirs = fresh.widened(fresh)
            theirs.restore(state)
            fresh.merge(theirs)
        total_state = fresh.state()
        again = total.widened(total)
        again.restore(total_state)
        folder = fresh.folder
        del fresh
        assert folder is not None
        assert folder.exists()
        assert torch.equal(again.smallest(2900), ordered[2899])
        assert torch.equal(again.largest(2950), ordered[-2950])
        del again
        assert not folder.exists()
