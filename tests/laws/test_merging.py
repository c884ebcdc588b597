"""Laws of accumulation: however draws are cut, shared out, merged, kept and taken up again, what is known of them is the same.

An accumulator that says it is not `ordered` knows the same whatever the parts and their order; one that is knows the same where
parts come in their order and where they are cut as a run cuts them (groups of K), or within limits that it states itself (the
spectral sketch). Runs that were stopped anywhere and go on from a checkpoint are the undisturbed ones, bit for bit.
"""

from __future__ import annotations

import tempfile

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from certify import GaussianNoise, Support, event_bound, event_rate_over, mse_bound, percentile_bounds, statistic_bound
from certify.bounds.dimension_free import DistanceExceedances, Together
from certify.bounds.percentile import BoxEvidence
from certify.bounds.spectral_mean import SpectrumEvidence
from certify.bounds.spectral_median import IndicatorsEvidence
from certify.montecarlo import (
    BLOCK,
    AllDraws,
    Counts,
    Distances,
    Exceedances,
    ExtremeRanks,
    Groups,
    draw,
    pool,
)
from certify.montecarlo.checkpoint import Checkpoint
from certify.montecarlo.sketch import Indicators, Spectrum
from certify.montecarlo.states import packed, unpacked
from certify.statements.stopping import StoppedCount
from tests.laws.built import part
from tests.strategies import partitions, rows, seeds

SHAPE = (2, 3)
CENTER = torch.tensor([[0.5, 0.0, -1.0], [2.0, 0.25, 0.0]], dtype=torch.float64)
LIMITS = torch.tensor([[1.0, 4.0], [2.0, 3.0]], dtype=torch.float64)
GAIN = torch.ones(3, dtype=torch.float64)
ROUND = Support(CENTER - 4, CENTER + 4, GAIN, 0 * GAIN)
BOX = BoxEvidence(CENTER - 1, CENTER + 1, support=ROUND, bracket=(CENTER - 0.5, CENTER + 0.5), center=None)


def ranks(seen):
    low = [seen.smallest(rank) for rank in range(1, min(seen.low, seen.count) + 1)]
    high = [seen.largest(rank) for rank in range(1, min(seen.high, seen.count) + 1)]
    return [*low, *high]


def sides(seen):
    return [seen.below, seen.above]


def witnessed(seen):
    return [*sides(seen), *sides(seen.start), torch.tensor(seen.outside)]


FREE = {
    "ranks": (lambda: ExtremeRanks(5, 3), ranks),
    "ranks that spill": (lambda: ExtremeRanks(40, 40, memory=2048), ranks),
    "counts": (Counts, lambda seen: [torch.as_tensor(seen.ones)]),
    "all draws": (AllDraws, lambda seen: [seen.stacked().flatten(1).sort(dim=0).values]),
    "distances": (lambda: Distances(CENTER), lambda seen: [seen.rows().sort(dim=0).values]),
    "exceedances": (lambda: Exceedances(CENTER - 1, CENTER + 1), sides),
    "exact exceedances": (lambda: Exceedances(CENTER - 1, CENTER + 1, exact=True), sides),
    "exceedances of distances": (lambda: DistanceExceedances(CENTER, LIMITS, True), lambda seen: [seen.above]),
    "box witness": (BOX.witness, witnessed),
    "together": (
        lambda: Together([DistanceExceedances(CENTER, LIMITS, True), Exceedances(CENTER - 1, CENTER + 1)]),
        lambda seen: [seen.parts[0].above, *sides(seen.parts[1])],
    ),
}
"""Accumulators that know the same whatever the order: how one is made, and all it knows."""


def given_to(name, x):
    return (x > 0).double() if name == "counts" else x


def same(a, b):
    return len(a) == len(b) and all(torch.equal(one, other) for one, other in zip(a, b, strict=True))


@pytest.mark.parametrize("name", FREE)
@part
@given(x=rows(200, SHAPE), data=st.data(), random=st.randoms(use_true_random=False))
def test_parts_merge_to_one_run_in_any_grouping(name, x, data, random):
    """Any cut, any order, any tree of merges, empty parts among them."""
    make, known = FREE[name]
    whole = make()
    assert not whole.ordered
    x = given_to(name, x)
    whole.update(x)
    parts = [make()]
    for piece in data.draw(partitions(len(x))):
        parts.append(make())
        parts[-1].update(x[piece])
    while len(parts) > 1:
        random.shuffle(parts)
        parts[0].merge(parts.pop())
    assert parts[0].count == whole.count == len(x)
    assert same(known(parts[0]), known(whole))


@pytest.mark.parametrize("name", FREE)
@part
@given(x=rows(200, SHAPE), data=st.data())
def test_blocks_of_any_size_are_one_block(name, x, data):
    make, known = FREE[name]
    whole, blocks = make(), make()
    x = given_to(name, x)
    whole.update(x)
    for piece in data.draw(partitions(len(x))):
        blocks.update(x[piece])
    assert same(known(blocks), known(whole))


HELD = SpectrumEvidence(CENTER, CENTER, 9.0, 6.0, 0.1, 9.0, 9.0, 1.0, 9.0)
FREQUENT = torch.full((1, 2, *SHAPE), 0.3, dtype=torch.float64)
SEEN = IndicatorsEvidence(
    CENTER, CENTER, CENTER - 3, CENTER + 3, torch.ones(SHAPE, dtype=torch.float64),
    torch.tensor([0.5], dtype=torch.float64), FREQUENT, FREQUENT, torch.tensor([1.0], dtype=torch.float64),
    torch.tensor([0.1], dtype=torch.float64), False,
)  # fmt: skip

ORDERED = {
    "groups": lambda: Groups(CENTER, 3, "median"),
    "groups of means": lambda: Groups(CENTER, 4, "mean"),
    "spectrum": lambda: Spectrum(CENTER, 5.0, rows=1),
    "exact spectrum": lambda: Spectrum(CENTER, 5.0),
    "indicators": lambda: Indicators(CENTER, torch.ones(SHAPE, dtype=torch.float64), 0.5, FREQUENT[0], 3.0, rows=2),
    "spectrum witness": HELD.witness,
    "indicators witness": SEEN.witness,
    "watched event": lambda: StoppedCount(0.2, 0.05, lambda x: x.flatten(1).amax(dim=1) > 6),
}
EVERY = {**{name: make for name, (make, _) in FREE.items()}, **ORDERED}


def state(seen):
    return {name: tensor.clone() for name, tensor in seen.state().items()}


@pytest.mark.parametrize("name", [name for name in EVERY if name != "watched event"])
@part
@given(x=rows(200, SHAPE), cut=st.integers(1, 199), blob=st.booleans())
@example(x=torch.linspace(-4, 4, 12, dtype=torch.float64).reshape(2, *SHAPE), cut=1, blob=False)  # before any direction
def test_what_was_put_away_goes_on_as_if_it_had_not(name, x, cut, blob):
    """A state, as tensors or as bytes, is all that there is: the rest of the draws find the accumulator as it was."""
    make, x = EVERY[name], given_to(name, x)
    kept, again = make(), make().widened(make())
    kept.update(x[:cut])
    if blob:
        unpacked(packed([kept]), [again])
    else:
        again.restore(state(kept))
    assert again.count == kept.count
    for seen in (kept, again):
        if len(x) > cut:
            seen.update(x[cut:])
    one, other = state(kept), state(again)
    if "names" in one:  # files of spilled draws, each its own
        assert same(ranks(kept), ranks(again))
        return
    assert one.keys() == other.keys()
    for key in one:
        if name.startswith("ranks"):  # which rows hold them does not matter
            continue
        assert torch.equal(one[key], other[key]), key
    assert not name.startswith("ranks") or same(ranks(kept), ranks(again))


@given(rows(200, SHAPE), st.integers(1, 7), st.sampled_from(["median", "mean"]), st.data())
def test_groups_merge_where_whole_groups_were_cut(x, copies, smoother, data):
    """Parts of whole groups, in their order, are one run; what is left over of the last stays out, as in one run."""
    groups = -(-len(x) // copies)
    whole, merged = Groups(CENTER, copies, smoother), Groups(CENTER, copies, smoother)
    whole.update(x)
    for piece in data.draw(partitions(groups)):
        shard = Groups(CENTER, copies, smoother)
        shard.update(x[piece.start * copies : piece.stop * copies])
        merged.merge(shard)
    assert merged.count == whole.count
    assert torch.equal(merged.values(), whole.values())


def top(x):
    return float(torch.linalg.svdvals(x.flatten(1))[0]) ** 2 / len(x)


@given(rows(200, SHAPE), st.integers(1, 4), st.data(), st.randoms(use_true_random=False))
def test_a_spectrum_merges_within_its_own_limits(x, sketch, data, random):
    """Whatever the parts and their order, the truth lies between `least` and `largest`; counts and means are exact."""
    shards = []
    for piece in data.draw(partitions(len(x))):
        shards.append(Spectrum(CENTER, 4.0, sketch))
        shards[-1].update(x[piece])
    random.shuffle(shards)
    merged, whole = Spectrum(CENTER, 4.0, sketch), Spectrum(CENTER, 4.0, sketch)
    whole.update(x)
    for shard in shards:
        merged.merge(shard)
    truth = 16.0 * top(whole.clipped(x))  # which is in units of R = 4
    for seen in (merged, whole):
        assert seen.least <= truth * (1 + 1e-12) + 1e-300
        assert truth <= seen.largest
    assert (merged.count, merged.outside, merged.furthest) == (whole.count, whole.outside, whole.furthest)
    torch.testing.assert_close(merged.mean, whole.mean, rtol=1e-12, atol=1e-12)


@given(rows(200, SHAPE), st.floats(0.01, 3), st.integers(1, 4), st.data(), st.randoms(use_true_random=False))
def test_indicators_merge_within_the_limits_of_their_spectrum(x, level, sketch, data, random):
    scales = torch.tensor([[1.0, 2.0, 0.5], [0.0, 1.0, 3.0]], dtype=torch.float64)

    def fresh():
        return Indicators(CENTER, scales, level, FREQUENT[0], 4.0, sketch)

    merged, parts = fresh(), []
    for piece in data.draw(partitions(len(x))):
        parts.append(fresh())
        parts[-1].update(x[piece])
    random.shuffle(parts)
    for one in parts:
        merged.merge(one)
    happens = merged.happens(x).double()
    centered = (happens - FREQUENT[0]) * scales
    lengths = centered.flatten(1).norm(dim=1)
    truth = top(centered * (4.0 / lengths.clamp_min(4.0)).reshape(-1, 1, 1, 1))
    assert merged.spectrum.least <= truth * (1 + 1e-12)
    assert truth <= merged.spectrum.largest
    if float(lengths.max()) <= 4.0:
        live = (scales > 0).expand(2, *SHAPE)
        torch.testing.assert_close(merged.frequencies()[live], happens.mean(dim=0)[live], rtol=1e-12, atol=1e-12)


@given(rows(100, SHAPE), st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=4))
def test_one_accumulator_serves_all_that_were_asked_for(x, wanted):
    """The ranks of a pooled accumulator are those of each that it stands for."""
    alone = [ExtremeRanks(low, high) for low, high in wanted]
    seen = pool([ExtremeRanks(low, high) for low, high in wanted])[ExtremeRanks.key]
    for one in (seen, *alone):
        one.update(x)
    for one in alone:
        for rank in range(1, min(one.low, len(x)) + 1):
            assert torch.equal(one.smallest(rank), seen.smallest(rank))
        for rank in range(1, min(one.high, len(x)) + 1):
            assert torch.equal(one.largest(rank), seen.largest(rank))


# Runs that were stopped


class Stopped(Exception):
    """A run ends here."""


class Failing:
    """f, until it has been called so often."""

    def __init__(self, f, calls):
        self.f, self.left = f, calls

    def __call__(self, z):
        if self.left == 0:
            raise Stopped
        self.left -= 1
        return self.f(z)


def outputs(z):
    return torch.stack([z, -2 * z], dim=1)


@given(st.integers(1, 3 * 64 * BLOCK), st.lists(st.integers(0, 40), max_size=3), st.sampled_from([1, 4, 16, 64]), seeds)
def test_a_run_that_was_stopped_anywhere_is_the_undisturbed_one(n, stops, blocks, seed):
    """In the middle of a shard or between two, as often as one likes, with every kind of accumulator: the same states."""
    y, noise, center = torch.zeros(1, dtype=torch.float64), GaussianNoise(1.0), torch.zeros(2, 1, dtype=torch.float64)
    makers = [
        lambda: ExtremeRanks(7, 7),
        lambda: Distances(center),
        lambda: Groups(center, 3, "median"),
        lambda: Spectrum(center, 2.0, rows=1),
        lambda: Exceedances(center - 1, center + 1),
    ]
    options = {"n": n, "seed": seed, "stream": "bounding", "batch_size": blocks * BLOCK}
    whole = [make() for make in makers]
    draw(outputs, y, noise, accumulators=whole, **options)
    with tempfile.TemporaryDirectory() as folder:
        for calls in stops:
            keep = Checkpoint(folder, interval=1e9)
            try:
                draw(Failing(outputs, calls), y, noise, accumulators=[m() for m in makers], checkpoint=keep, **options)
            except Stopped:
                continue
        again = [make() for make in makers]
        draw(outputs, y, noise, accumulators=again, checkpoint=Checkpoint(folder, interval=1e9), **options)
    for one, other in zip(whole, again, strict=True):
        assert one.count == other.count == n
        if isinstance(one, ExtremeRanks):
            assert same(ranks(one), ranks(other))
            continue
        for key, tensor in one.state().items():
            assert torch.equal(tensor, other.state()[key]), (type(one).__name__, key)


STATED = {
    "T1": lambda f, o: percentile_bounds(lambda z: f(z[:, 0]), Y, 1.0, pilot=16, **o).upper.tolist(),
    "T4": lambda f, o: mse_bound(lambda z: f(z[:, 0]), Y, 1.0, pilot=16, method="dimension-free", **o).value,
    "T5 statistic": lambda f, o: statistic_bound(lambda z: f(z[:, 0, 0]), Y, 1.0, replicas=2, **o).value,
    "T5 event": lambda f, o: event_bound(lambda z: f(z[:, 0, 0]) > 0.5, Y, 1.0, replicas=2, **o).value,
    "T5 rate": lambda f, o: event_rate_over([lambda z: f(z[:, 0, 0]) > 0.5], [Y], 1.0, replicas=2, **_rated(o)).at(0.5),
}
Y = torch.zeros(2, dtype=torch.float64)


def _rated(options):
    return {**{key: value for key, value in options.items() if key != "rho"}, "rhos": [options["rho"]]}


@pytest.mark.parametrize("name", STATED)
@part
@given(n=st.integers(1, 1500), calls=st.integers(0, 12), size=st.sampled_from([64, 256]), seed=seeds)
def test_a_bound_that_was_stopped_is_the_one_that_was_not(name, n, calls, size, seed):
    options = {"rho": 0.5, "n": n, "seed": seed, "alpha": 0.05, "batch_size": size}
    whole = STATED[name](torch.sin, options)
    with tempfile.TemporaryDirectory() as folder:
        options["checkpoint"] = Checkpoint(folder, interval=0.0)
        try:
            stopped = STATED[name](Failing(torch.sin, calls), options)
        except Stopped:
            stopped = whole
        assert stopped == whole
        assert STATED[name](torch.sin, options) == whole
