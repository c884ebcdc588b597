"""Laws of certified classes: the published radius on every count, order, symmetry, and one answer however draws are packed."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from scipy.stats import beta, norm

from certify import GaussianNoise, UniformNoise, certified_accuracy, classify, classify_many
from certify.bounds.classification import class_radius, other_limit
from tests.strategies import deltas, draws, levels, noises, seeds

few = settings(max_examples=max(8, settings().max_examples // 3))
UNIT = GaussianNoise(1.0)


@st.composite
def counts(draw):
    """(draws given another class, n)."""
    n = draw(st.integers(1, 200_000))
    return draw(st.integers(0, n) | st.integers(0, min(n, 40))), n


def linear(classes: int, width: int, seed: int) -> torch.nn.Module:
    source = torch.Generator().manual_seed(seed)
    net = torch.nn.Linear(width, classes).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=source, dtype=torch.float64))
    return net.eval().requires_grad_(False)


nets = st.builds(linear, st.integers(2, 6), st.just(3), st.integers(0, 10_000))
inputs = st.lists(st.floats(-2, 2), min_size=3, max_size=3).map(lambda x: torch.tensor(x, dtype=torch.float64))


def said(d):
    return d.label, d.candidate, d.rho, d.successes, d.n, d.status, d.decided


# The published certificate


@given(counts(), levels)
@example((0, 1), 0.5)  # one draw shows a half, and no more
@example((0, 9), 1e-3)
@example((0, 10), 1e-3)  # the least number of draws that certify at this level
@example((50_000, 100_000), 1e-3)
def test_the_radius_is_the_published_one_rounded_down(count, alpha):
    others, n = count
    successes = n - others
    lower = float(beta.ppf(alpha, successes, others + 1)) if successes else 0.0
    assume(abs(lower - 0.5) > 1e-12)  # there the last digit decides
    radius = class_radius(other_limit(others, n, alpha, early=False), UNIT)
    assert (radius is None) == (lower < 0.5)
    if radius is not None and lower < 1:
        assert -1e-9 <= radius - float(norm.ppf(lower)) <= 1e-12


@given(counts(), levels)
def test_at_the_radius_the_class_still_has_more_than_a_half(count, alpha):
    others, n = count
    other = other_limit(others, n, alpha, early=False)
    for noise in (UNIT, UniformNoise(0.5)):
        radius = class_radius(other, noise)
        if radius is not None:
            assert noise.tails(other, radius).upper > 0.5
            assert noise.tails(other, radius * (1 + 1e-6) + 1e-9).upper <= 0.5


# Order


@given(counts(), levels, levels, st.integers(0, 50))
def test_it_shrinks_with_other_classes_with_confidence_and_where_drawing_may_end_early(count, a, b, more):
    others, n = count
    low, high = sorted((a, b))

    def radius(others, alpha, early=False):
        found = class_radius(other_limit(min(others, n), n, alpha, early=early), UNIT)
        return -1.0 if found is None else found

    assert radius(others + more, high) <= radius(others, high)
    assert radius(others, low) <= radius(others, high)
    assert radius(others, high, early=True) <= radius(others, high)


@given(st.lists(st.tuples(st.integers(0, 2), st.none() | st.tuples(st.integers(0, 2), st.floats(0, 4))), min_size=1))
def test_certified_accuracy_falls_from_the_share_that_is_right_to_nothing(rows):
    class Row:
        def __init__(self, certified):
            self.label, self.rho = (None, 0.0) if certified is None else certified
            self.radius = self.rho

    decisions, labels = [Row(certified) for _, certified in rows], [true for true, _ in rows]
    shares = certified_accuracy(decisions, labels, [0.0, 0.5, 1.0, 2.0, 5.0])
    assert list(shares) == sorted(shares, reverse=True)
    assert shares[0] == sum(d.label == true for d, true in zip(decisions, labels, strict=True)) / len(rows)
    assert shares[-1] == 0


# Symmetry


@few
@given(nets, inputs, st.floats(0.1, 2), draws, seeds, st.randoms(use_true_random=False))
def test_other_names_of_the_classes_change_nothing_else(net, x, sigma, n, seed, chance):
    one = classify(net, x, sigma, n=n, n0=25, seed=seed)
    order = list(range(net.out_features))
    chance.shuffle(order)  # logit j of the renamed classifier is logit order[j]
    two = classify(lambda z: net(z)[:, order], x, sigma, n=n, n0=25, seed=seed)
    assume(order[two.candidate] == one.candidate)  # of equally frequent classes the first is chosen
    assert (two.rho, two.successes, two.status) == (one.rho, one.successes, one.status)
    assert (one.label is None) == (two.label is None)


@few
@given(nets, inputs, draws, seeds)
def test_increasing_logits_change_nothing(net, x, n, seed):
    one, two = (classify(f, x, 0.7, n=n, seed=seed) for f in (net, lambda z: 8 * net(z) - 1))
    labels = classify(lambda z: net(z).argmax(dim=1), x, 0.7, n=n, seed=seed)
    assert said(one) == said(two) == said(labels)


@few
@given(nets, inputs, st.sampled_from([0.25, 2.0, 1024.0]), draws, seeds)
def test_another_unit_of_the_input_scales_the_radius(net, x, unit, n, seed):
    one = classify(net, x, 0.5, n=n, seed=seed)
    two = classify(lambda z: net(z / unit), unit * x, 0.5 * unit, n=n, seed=seed)
    assert said(two) == said(one)
    assert two.radius == pytest.approx(unit * one.radius, rel=1e-12)


@few
@given(st.data(), draws, seeds)
def test_everything_in_the_ellipsoid_is_within_the_radius(data, n, seed):
    noise = data.draw(noises((3,), ["per coordinate"]))
    d = classify(
        lambda z: torch.stack([-z[:, 0], z[:, 0]], 1), torch.full((3,), 1e6, dtype=torch.float64), noise, n=n, seed=seed
    )
    delta = data.draw(deltas(noise, (3,)))
    assume(abs(float(noise.norm(delta)) - d.rho) > 1e-6 * d.rho)
    assert d.ellipsoid.contains(delta) == (noise.norm(delta) <= d.rho)
    assert d.radius <= float(noise.sigma.max()) * d.rho * (1 + 1e-12)


# One answer however the draws are made


@few
@given(
    nets,
    st.lists(inputs, min_size=1, max_size=5),
    st.integers(1, 300),
    st.sampled_from([1, 7, 64, 200, 1000]),
    st.none() | st.floats(0.05, 1.5),
    seeds,
)
def test_one_by_one_packed_and_in_batches_of_any_size(net, xs, n, batch_size, stop_at, seed):
    options = {"n": n, "n0": 20, "stop_at": stop_at}
    packed = classify_many(net, xs, 0.8, seed=seed, batch_size=batch_size, **options)
    for x, d in zip(xs, packed, strict=True):
        alone = classify(net, x, 0.8, seed=d.run.seed, **options)
        assert said(d) == said(alone)
        assert d.decided != "yes" or d.rho >= stop_at
    again = classify_many(net, xs[::-1], 0.8, seeds=[d.run.seed for d in packed][::-1], **options)
    assert [said(d) for d in again] == [said(d) for d in packed][::-1]
