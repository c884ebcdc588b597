"""Statements: one pass for many, a reference that no bounding draw enters, plain numbers in the results."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

from certify import GaussianNoise, bound_curve, certified_radius, deployed_bound, mse_bound, percentile_bounds
from certify.montecarlo import AllDraws, draw, median
from certify.statements.ask import MSE, Curve, Deployed, Percentile, Radius, ask
from tests.subjects import outputs_of

Y = torch.tensor([0.2, -0.4, 1.0], dtype=torch.float64)
NOISE = GaussianNoise(0.5)


def test_many_statements_share_one_pass_and_keep_their_answers():
    calls = []

    def f(z):
        calls.append(len(z))
        return torch.sin(z)

    options = {"n": 1000, "seed": 2}
    answers = ask(
        f, Y, NOISE, [MSE(1.0, 0.01), Radius(0.5, 0.02), Curve([0.3, 0.9], 0.04), Percentile(0.7, 0.8, 0.05)], **options
    )
    assert sum(calls) == 1000 + 64 + 64  # pilot, and those evaluated again
    assert answers[0].value == mse_bound(torch.sin, Y, NOISE, rho=1.0, alpha=0.01, **options).value
    assert answers[1].rho == certified_radius(torch.sin, Y, NOISE, tolerance=0.5, alpha=0.02, **options).rho
    assert answers[2].values == bound_curve(torch.sin, Y, NOISE, rhos=[0.3, 0.9], alpha=0.04, **options).values
    alone = percentile_bounds(torch.sin, Y, NOISE, rho=0.7, p=0.8, alpha=0.05, **options)
    assert torch.equal(answers[3].lower, alone.lower)
    assert torch.equal(answers[3].upper, alone.upper)
    assert torch.equal(answers[3].center, alone.center)


def test_median_and_mean_ideal_and_deployed_share_one_pass():
    """Each with the reference of its own smoother, and the value that it has alone."""
    calls = []

    def f(z):
        calls.append(len(z))
        return torch.sin(z)

    asked = [
        MSE(1.0, 0.01),
        MSE(1.0, 0.01, "spectral", "mean"),
        Deployed(0.3, 0.9, 0.01, 5),
        Deployed(0.3, 0.9, 0.01, 5, smoother="mean"),
        Deployed(0.3, 0.9, 0.01, 3, "order statistics"),
    ]
    options = {"n": 1000, "seed": 2, "support": (-1.0, 1.0)}
    answers = ask(f, Y, NOISE, asked, **options)
    assert sum(calls) == 1000 + 64 + 64  # pilot, and those evaluated again
    alone = [
        mse_bound(torch.sin, Y, NOISE, rho=1.0, alpha=0.01, **options),
        mse_bound(torch.sin, Y, NOISE, rho=1.0, alpha=0.01, smoother="mean", **options),
        *(
            deployed_bound(
                torch.sin, Y, NOISE, rho=0.3, q=0.9, alpha=0.01, replicas=s.replicas, method=s.method,
                smoother=s.smoother, **options,
            )
            for s in asked[2:]
        ),
    ]  # fmt: skip
    for one, other in zip(answers, alone, strict=True):
        assert (one.value, one.method, one.smoother) == (other.value, other.method, other.smoother)
        assert torch.equal(one.center, other.center)
        assert one.status == "certified"
    assert [a.smoother for a in answers] == ["median", "mean", "median", "mean", "median"]
    assert torch.equal(answers[0].center, answers[2].center)
    assert torch.equal(answers[1].center, answers[3].center)
    assert not torch.equal(answers[0].center, answers[1].center)


def test_pilot_draws_are_taken_only_where_something_is_chosen_from_them():
    """A reference, or a method and its parameters: not for T2 alone around a given center."""
    for asked, pilot in (
        ([MSE(1.0, method="coordinatewise"), Percentile(1.0)], 0),
        ([MSE(1.0, method="coordinatewise"), MSE(1.0)], 64),
        ([MSE(1.0, method="dimension-free")], 64),
        ([Deployed(0.1)], 64),
        ([Radius(1.0)], 64),
    ):
        assert {a.run.pilot for a in ask(torch.sin, Y, NOISE, asked, n=300, center=Y)} == {pilot}


def test_a_choice_is_made_of_pilot_draws_alone():
    """More bounding draws of the same pilot change no guess, only through n; the guess is near the value."""
    few, same, many = (
        mse_bound(torch.sin, Y, NOISE, rho=1.0, n=n, pilot=500, seed=seed)
        for n, seed in ((5000, 1), (5000, 1), (50_000, 1))
    )
    assert few.considered == same.considered
    assert few.considered[few.method] == pytest.approx(few.value, rel=0.3)
    assert many.value < few.value
    seen = []
    mse_bound(lambda z: seen.append(z.clone()) or torch.sin(z), Y, NOISE, rho=1.0, n=5000, pilot=500, seed=1)
    # Draws of the two streams have nothing in common.
    assert len(torch.cat(seen)[:, 0].unique()) == 5500


def test_a_given_method_considers_nothing():
    assert mse_bound(torch.sin, Y, NOISE, rho=1.0, n=300, method="dimension-free").considered == {}
    assert deployed_bound(torch.sin, Y, NOISE, rho=0.1, n=300, smoother="mean").considered == {}


def test_results_name_what_they_are():
    b = deployed_bound(torch.sin, Y, NOISE, rho=0.1, q=0.8, replicas=3, n=2000, alpha=0.01, function="sine")
    assert (b.quantity, b.unit, b.q, b.replicas, b.alpha, b.n, b.rho) == (
        "deployed", "l2 distance", 0.8, 3, 0.01, 2000, 0.1,
    )  # fmt: skip
    assert b.run.function == "sine"
    assert b.run.copies is None
    assert b.reason == ""


def test_the_center_is_the_median_of_pilot_draws_alone():
    kept = AllDraws()
    draw(torch.sin, Y, NOISE, n=77, seed=5, stream="pilot", accumulators=[kept])
    c = mse_bound(torch.sin, Y, NOISE, rho=1.0, n=1000, seed=5, pilot=77)
    assert torch.equal(c.center, median(kept.stacked()))
    assert c.run.pilot == 77


def test_no_bounding_draw_enters_the_center():
    """The center stays what it is when the number of bounding draws changes; their inputs are all different."""
    seen = []

    def f(z):
        seen.append(z.clone())
        return z

    first = mse_bound(f, Y, NOISE, rho=1.0, n=500, pilot=100)
    second = mse_bound(lambda z: z, Y, NOISE, rho=1.0, n=900, pilot=100)
    assert torch.equal(first.center, second.center)
    inputs = torch.cat(seen)
    assert inputs.shape[0] == 600 + 64  # a block is evaluated again
    drawn = [outputs_of(lambda z: z, Y, NOISE, n=k, stream=s) for k, s in ((100, "pilot"), (500, "bounding"))]
    assert torch.equal(inputs.unique(dim=0), torch.cat(drawn).unique(dim=0))
    assert len(inputs[:, 0].unique()) == 600


def test_a_given_center_saves_the_pilot():
    calls = []
    c = mse_bound(lambda z: calls.append(len(z)) or z, Y, NOISE, rho=1.0, n=640, center=Y, method="coordinatewise")
    assert sum(calls) == 640 + 64
    assert c.run.pilot == 0


@pytest.mark.parametrize(("n", "pilot"), [(100, 64), (1000, 64), (4800, 300), (10_000, 1000), (20_000, 1000)])
def test_the_default_pilot_costs_at_most_a_tenth(n, pilot):
    assert mse_bound(lambda z: z, torch.zeros(1), 1.0, rho=1.0, n=n).run.pilot == pilot


@pytest.mark.parametrize("batch_size", [1, 50, 64, 333, 5000])
def test_results_do_not_depend_on_the_batch_size(batch_size):
    """Exactly, for a function that works element by element."""
    plain = mse_bound(torch.sin, Y, NOISE, rho=1.0, n=700)
    other = mse_bound(torch.sin, Y, NOISE, rho=1.0, n=700, batch_size=batch_size)
    assert (plain.value, plain.center.tolist()) == (other.value, other.center.tolist())


def test_the_same_seed_gives_the_same_and_another_does_not():
    values = [mse_bound(torch.sin, Y, NOISE, rho=1.0, n=700, seed=seed).value for seed in (0, 0, 1)]
    assert values[0] == values[1] != values[2]


@pytest.mark.parametrize("number", [Fraction(1, 2), np.float32(0.5), np.float64(0.5), torch.tensor(0.5)])
def test_numbers_of_any_kind_become_plain(number):
    c = mse_bound(torch.sin, Y, NOISE, rho=number, alpha=number, n=200)
    assert type(c.rho) is float
    assert type(c.alpha) is float
    assert c.value == mse_bound(torch.sin, Y, NOISE, rho=0.5, alpha=0.5, n=200).value
    assert type(certified_radius(torch.sin, Y, NOISE, tolerance=number, n=200).tolerance) is float
    d = deployed_bound(torch.sin, Y, NOISE, rho=number, q=number, alpha=number, replicas=np.int64(3), n=200)
    assert [type(v) for v in (d.rho, d.q, d.alpha, d.replicas)] == [float, float, float, int]
    k = bound_curve(torch.sin, Y, NOISE, rhos=[number, 2 * number], n=np.int64(200), seed=np.int32(3))
    assert k.rhos == (0.5, 1.0)
    assert [type(rho) for rho in k.rhos] == [float, float]


def test_radii_may_come_as_a_tensor_or_an_array():
    for rhos in (torch.tensor([0.5, 1.0]), np.array([0.5, 1.0]), iter([0.5, 1.0])):
        assert bound_curve(torch.sin, Y, NOISE, rhos=rhos, n=200).rhos == (0.5, 1.0)


def test_a_number_is_isotropic_noise():
    assert mse_bound(torch.sin, Y, 0.5, rho=1.0, n=200).value == mse_bound(torch.sin, Y, NOISE, rho=1.0, n=200).value


def test_progress_runs_from_the_pilot_to_the_end():
    ticks = []
    mse_bound(torch.sin, Y, NOISE, rho=1.0, n=600, progress=lambda done, total: ticks.append((done, total)))
    assert ticks[-1] == (664, 664)
    assert [t for t, _ in ticks] == sorted({t for t, _ in ticks})


def test_results_hold_no_more_memory_than_they_show():
    """A box must not keep all the draws alive that it was cut from."""
    c = mse_bound(lambda z: z, Y, NOISE, rho=1.0, n=5000)
    for tensor in (c.lower, c.upper):
        assert tensor.untyped_storage().nbytes() <= 64 * tensor.numel()


def test_inputs_that_want_gradients_are_fine():
    c = mse_bound(torch.sin, Y.clone().requires_grad_(), NOISE, rho=1.0, n=200, center=torch.sin(Y).requires_grad_())
    assert not c.run.y.requires_grad
    assert not c.center.requires_grad
