"""T12: the spectral certificate of the median, its pieces against brute force, and its evidence against fresh draws."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from certify import GaussianNoise, mse_bound
from certify.bounds.base import Evaluation, Setting
from certify.bounds.spectral_median import IndicatorsEvidence, SpectralMedianMSE, layered, most_beyond
from certify.montecarlo import AllDraws, draw, median, pool
from certify.montecarlo.sketch import Indicators, indicators_radius
from certify.support import as_support
from tests.bounds.test_spectral import spread

NOISE = GaussianNoise(1.0)


def method(
    f, y, noise=NOISE, *, n, alpha=1e-3, aim=1.0, seed=0, center=None, reference="center", support=None, pilot=200
) -> SpectralMedianMSE:
    """The method as `certify.ask` builds it."""
    kept = AllDraws()
    if pilot:
        draw(f, y, noise, n=pilot, seed=seed, stream="pilot", accumulators=[kept])
    trial = kept.stacked() if pilot else None
    c = median(trial) if center is None else center
    return SpectralMedianMSE(Setting(noise, n, tuple(c.shape), c, reference, as_support(support), trial), alpha, aim)


def seen_by(one: SpectralMedianMSE, f, y, noise=NOISE, *, seed=0, least=0.0):
    """What the method needs for radii from `least` on, fed with its n bounding draws."""
    seen = pool(one.needs(least))
    draw(f, y, noise, n=one.setting.n, seed=seed, stream="bounding", accumulators=seen.values(), batch_size=4096)
    return seen


def bound(f, y, noise=NOISE, *, rho, seed=0, **options) -> Evaluation:
    one = method(f, y, noise, aim=rho, seed=seed, **options)
    return one.at(rho, seen_by(one, f, y, noise, seed=seed, least=rho))


def linear(A: Tensor):
    return lambda z: z @ A.T


# How much weight can be beyond a level

PAIRS = st.lists(st.tuples(st.floats(0.01, 10), st.floats(-0.2, 0.5)), min_size=1, max_size=7)


@given(PAIRS, st.floats(0, 3))
@example([(1.0, 0.25)], 0.25)  # just within
@example([(1.0, 0.5), (1.0, 0.5), (1.0, 0.5)], 0.6)
@example([(1.0, -0.1), (1.0, 0.5)], 0.0)
def test_no_set_that_the_inequality_allows_weighs_more(pairs, push):
    w, g = (torch.tensor(part, dtype=torch.float64) for part in zip(*pairs, strict=True))
    most = most_beyond(w, g, push)
    for chosen in itertools.product((False, True), repeat=len(pairs)):
        I = torch.tensor(chosen)
        if float((w * g)[I].sum()) <= push * math.sqrt(float(w[I].sum())):
            assert float(w[I].sum()) <= most
    # And it is not more than need be: what is cheapest to fill it with costs all that there is.
    order = g.argsort()
    filled = torch.minimum(w[order], (most - w[order].cumsum(0) + w[order]).clamp_min(0))
    spent = float((filled * g[order]).sum())
    assert most >= float(w.sum()) or spent == pytest.approx(push * math.sqrt(most), rel=1e-6, abs=1e-6)


def test_no_outputs_at_all():
    assert most_beyond(torch.zeros(0), torch.zeros(0), 1.0) == 0.0


@given(
    st.lists(st.tuples(st.floats(0, 4), st.floats(0.01, 5)), min_size=1, max_size=6),
    st.lists(st.tuples(st.floats(0.01, 4), st.floats(0, 10)), max_size=4, unique_by=lambda pair: pair[0]),
)
def test_the_layers_are_the_integral(outputs, limits):
    x, w = (torch.tensor(part, dtype=torch.float64) for part in zip(*outputs, strict=True))
    limits = sorted(limits)
    levels, beyond = torch.tensor([t for t, _ in limits], dtype=torch.float64), [W for _, W in limits]
    grid = np.linspace(0, 4, 400_001)[1:] - 0.5e-5
    allowed = (w.numpy() * (x.numpy() > grid[:, None])).sum(axis=1)
    for level, W in limits:
        allowed = np.where(grid >= level, np.minimum(allowed, W), allowed)
    truth = float((2 * grid * allowed).sum() * 1e-5)
    assert layered(x, w, levels, beyond) == pytest.approx(truth, rel=1e-3, abs=1e-3)


def test_layers_without_a_level_are_the_box():
    x, w = torch.tensor([1.0, 2.0, 0.0]), torch.tensor([3.0, 0.5, 7.0])
    empty = torch.zeros(0, dtype=torch.float64)
    assert layered(x.double(), w.double(), empty, []) == pytest.approx(3 + 2)
    assert layered(torch.tensor([math.inf]).double(), w[:1].double(), empty, []) == math.inf
    assert layered(torch.tensor([math.inf]).double(), w[:1].double(), empty + 1, []) == math.inf


@given(st.lists(st.tuples(st.floats(0, 3), st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=4))
def test_the_radius_is_the_longest_x(rows):
    s, p, q = (torch.tensor(part, dtype=torch.float64) for part in zip(*rows, strict=True))
    longest = 0.0
    for pattern in itertools.product(((0, 0), (1, 0), (0, 1)), repeat=len(rows)):
        h = torch.tensor(pattern, dtype=torch.float64).T
        longest = max(longest, math.hypot(*(s * (h - torch.stack([p, q]))).flatten().tolist()))
    assert longest <= indicators_radius(s, torch.stack([p, q])) <= longest * (1 + 1e-6) + 1e-300


# The accumulator


def test_frequencies_are_those_of_the_draws():
    x = torch.randn((500, 3, 2), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    origin, scales = 0.1 * torch.ones(3, 2), torch.tensor([[1.0, 2.0], [0.5, 1.0], [0.0, 1.0]], dtype=torch.float64)
    expected = torch.full((2, 3, 2), 0.3, dtype=torch.float64)
    one = Indicators(origin, scales, 0.7, expected, indicators_radius(scales, expected))
    other = one.widened(one)
    one.update(x[:123])
    other.update(x[123:])
    one.merge(other)
    assert one.count == 500
    above, below = (x - 0.1 > 0.7 * scales).double().mean(dim=0), (x - 0.1 < -0.7 * scales).double().mean(dim=0)
    live = scales > 0
    torch.testing.assert_close(one.frequencies()[0][live], above[live], rtol=0, atol=1e-12)
    torch.testing.assert_close(one.frequencies()[1][live], below[live], rtol=0, atol=1e-12)
    h = torch.stack([(x - 0.1 > 0.7 * scales), (x - 0.1 < -0.7 * scales)], dim=1).double()
    moments = (scales * (h - expected)).reshape(500, -1)
    assert one.spectrum.largest == pytest.approx(float(torch.linalg.svdvals(moments)[0] ** 2) / 500, rel=1e-9)
    assert one.spectrum.outside == 0


# The bound


@pytest.mark.parametrize("rho", [0.25, 1.0])
def test_many_outputs_that_move_by_themselves(rho):
    """A linear map of 96 outputs, stable rank 48: less than .6 of T2 from the same draws, and above the truth."""
    A = spread(96, 48.0)
    y, options = torch.zeros(96, dtype=torch.float64), {"n": 10_000, "alpha": 1e-3}
    value = bound(linear(A), y, rho=rho, pilot=1000, **options).value
    other = mse_bound(linear(A), y, NOISE, rho=rho, method="coordinatewise", batch_size=4096, **options).value
    assert rho**2 * float(torch.linalg.svdvals(A)[0] ** 2) <= value <= 0.6 * other


def test_outputs_that_move_together_are_left_to_the_box():
    """Rank 1: nothing is gained over T2, and the box's half of α is all that is lost."""
    A = torch.ones((20, 3), dtype=torch.float64)
    y = torch.zeros(3, dtype=torch.float64)
    value = bound(linear(A), y, rho=1.0, n=5000, pilot=500).value
    other = mse_bound(linear(A), y, NOISE, rho=1.0, n=5000, alpha=5e-4, method="coordinatewise", pilot=500).value
    assert value == pytest.approx(other, rel=1e-6)


def test_the_population_reference_adds_what_is_unknown_of_the_median():
    f, y = linear(spread(48, 24.0)), torch.zeros(48, dtype=torch.float64)
    values = {r: bound(f, y, rho=1.0, n=10_000, reference=r, pilot=1000) for r in ("center", "population")}
    own, other = (math.sqrt(values[r].value) for r in ("center", "population"))
    assert own < other < 2 * own
    assert values["population"].evidence.reference == "population"


def test_a_center_far_from_the_median_costs_its_distance_only():
    f, y = linear(spread(32, 16.0)), torch.zeros(32, dtype=torch.float64)
    far = torch.full((32,), 3.0, dtype=torch.float64)
    options = {"rho": 0.5, "n": 10_000, "pilot": 1000}
    near = math.sqrt(bound(f, y, **options).value)
    evaluation = bound(f, y, center=far, **options)
    assert math.sqrt(evaluation.value) == pytest.approx(float(far.norm()) + near, rel=0.05)
    assert "origin" in evaluation.evidence.tensors()
    small = torch.full((32,), 0.01, dtype=torch.float64)
    assert "origin" not in bound(f, y, center=small, **options).evidence.tensors()


def test_outputs_that_hardly_ever_change_are_left_to_the_box():
    """Two of three outputs are constant, one of them but for one draw in a hundred."""

    def f(z: Tensor) -> Tensor:
        return torch.stack([z[:, 0], torch.full_like(z[:, 0], 2.0), (z[:, 0] > 2.33).to(z.dtype)], dim=1)

    y = torch.zeros(1, dtype=torch.float64)
    box = mse_bound(f, y, NOISE, rho=0.5, n=3000, alpha=5e-4, method="coordinatewise", pilot=200).value
    assert bound(f, y, rho=0.5, n=3000).value == pytest.approx(box, rel=1e-6)
    assert bound(f, y, rho=2.5, n=3000).value > 1.0
    assert bound(lambda z: z * 0, y, rho=1.0, n=500).value == 0.0


def test_too_few_draws_say_how_many_would_do():
    f, y = linear(spread(24, 12.0)), torch.zeros(24, dtype=torch.float64)
    evaluation = bound(f, y, rho=1.0, n=30, pilot=64)
    assert (evaluation.value, evaluation.evidence) == (math.inf, None)
    assert evaluation.draws_needed > 30
    assert math.isfinite(bound(f, y, rho=1.0, n=evaluation.draws_needed, pilot=64).value)
    assert math.isfinite(bound(f, y, rho=1.0, n=30, pilot=64, support=(-9.0, 9.0)).value)


def test_without_pilot_draws_it_abstains():
    one = method(torch.abs, torch.zeros(2), n=100, pilot=0, center=torch.zeros(2))
    assert (one.needs(1.0), one.guess(1.0)) == ([], math.inf)
    evaluation = one.at(1.0, {})
    assert evaluation.value == math.inf
    assert "pilot draws" in evaluation.reason


@pytest.mark.parametrize("rho", [0.25, 1.0])
def test_the_guess_is_roughly_the_bound(rho):
    f, y = linear(spread(96, 48.0)), torch.zeros(96, dtype=torch.float64)
    one = method(f, y, n=10_000, aim=rho, pilot=1000)
    value = one.at(rho, seen_by(one, f, y, least=rho)).value
    assert one.guess(rho) == pytest.approx(value, rel=0.3)


def test_methods_for_neighbouring_radii_share_accumulators():
    f, y = linear(spread(48, 24.0)), torch.zeros(48, dtype=torch.float64)
    one = method(f, y, n=10_000, pilot=1000)
    other = SpectralMedianMSE(one.setting, 1e-3, 1.02)
    assert one.plan.levels == other.plan.levels
    assert len(pool([*one.needs(1.0), *other.needs(1.0)])) == 1 + len(one.plan.levels)


# Evidence


def evidence(**options) -> tuple[IndicatorsEvidence, object, Tensor]:
    f, y = linear(spread(48, 24.0)), torch.zeros(48, dtype=torch.float64)
    return bound(f, y, **{"rho": 1.0, "n": 5000, "pilot": 1000, **options}).evidence, f, y


def fresh(held: IndicatorsEvidence, f, y, n: int = 5000, seed: int = 1):
    witness = held.witness()
    draw(f, y, NOISE, n=n, seed=seed, stream="checking", accumulators=[witness], batch_size=4096)
    return witness


OPTIONS = [{}, {"reference": "population"}, {"center": torch.full((48,), 3.0).double()}]


@pytest.mark.parametrize("options", OPTIONS)
def test_evidence_survives_being_written_down(options):
    held, _, _ = evidence(**options)
    back = IndicatorsEvidence.restored(held.numbers(), held.tensors(), held.center)
    assert back.implied(NOISE, 1.0) == held.implied(NOISE, 1.0)
    assert back.reference == held.reference


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("second", torch.zeros(9).double(), "second has shape"),
        ("second", lambda t: t * 0 - 1, "second, slack and scales: must be >= 0"),
        ("slack", lambda t: -t, "second, slack and scales: must be >= 0"),
        ("levels", lambda t: t.flip(0), "must be > 0 and increase"),
        ("expected", lambda t: t + 1, "must be in 0 … 1"),
        ("frequencies", lambda t: t[:, :1], "frequencies has shape"),
        ("upper", lambda t: t[:3], "upper has shape"),
        ("origin", torch.zeros(2), "origin has shape"),
    ],
)
def test_evidence_out_of_range_is_refused(name, value, message):
    held, _, _ = evidence()
    changed = value(held.tensors()[name]) if callable(value) else value
    with pytest.raises(ValueError, match=message):
        IndicatorsEvidence.restored(held.numbers(), {**held.tensors(), name: changed}, held.center)


def test_evidence_with_something_missing_is_refused():
    held, _, _ = evidence()
    kept = held.tensors()
    kept.pop("slack")
    with pytest.raises(KeyError):
        IndicatorsEvidence.restored(held.numbers(), kept, held.center)


def test_a_box_that_holds_nothing_implies_nothing():
    held, _, _ = evidence()
    assert dataclasses.replace(held, lower=held.upper + 1).implied(NOISE, 1.0) == math.inf


@pytest.mark.parametrize("options", OPTIONS)
def test_true_evidence_is_not_refuted(options):
    held, f, y = evidence(**options)
    for seed in range(3):
        assert held.verdict(fresh(held, f, y, 3000, seed), NOISE, 1.0)[0] > 0.2


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        (lambda held: {"second": 0.3 * held.second}, "mean square"),
        (lambda held: {"frequencies": 0.7 * held.frequencies}, "mean along a direction"),
        (lambda held: {"upper": held.upper - 1.2 * held.scales}, "exceedances"),
    ],
)
def test_false_evidence_is_refuted(change, detail):
    """Three tenths of λ, seven tenths of the frequencies, a box that is too small."""
    held, f, y = evidence()
    false = dataclasses.replace(held, **change(held))
    p, said = false.verdict(fresh(false, f, y, 20_000), NOISE, 1.0)
    assert p < 1e-3
    assert detail in said


def test_the_witness_merges():
    held, f, y = evidence()
    first, second, both = fresh(held, f, y, 640, 1), fresh(held, f, y, 640, 2), fresh(held, f, y, 640, 1)
    both.merge(second)
    assert both.count == 1280
    for mine, a, b in zip(both.parts, first.parts, second.parts, strict=True):
        assert mine.sums == pytest.approx([x + y for x, y in zip(a.sums, b.sums, strict=True)])
        assert mine.squares.tested == a.squares.tested + b.squares.tested
    assert both.widened(first).count == 0


def test_best_weighs_what_it_takes_and_tightest_does_not():
    """60 flat outputs: cheap ones leave T12 to "tightest"; behind dear products "best" asks it, too."""
    A, dear = torch.eye(60, dtype=torch.float64), torch.zeros(60, 100_000, dtype=torch.float32)
    y, options = torch.zeros(60, dtype=torch.float64), {"rho": 1.0, "n": 400, "pilot": 100}
    cheap, tightest = (mse_bound(linear(A), y, NOISE, method=m, **options) for m in ("best", "tightest"))
    assert set(cheap.considered) == {"coordinatewise", "dimension-free"}
    assert set(tightest.considered) == {"coordinatewise", "dimension-free", "spectral"}
    assert {name: tightest.considered[name] for name in cheap.considered} == dict(cheap.considered)
    behind = mse_bound(lambda z: z @ A.T + (z.float() @ dear)[:, :1].double(), y, NOISE, batch_size=64, **options)
    assert behind.considered == tightest.considered
