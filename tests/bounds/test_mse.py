"""T2: the coordinate-wise bound, its two references, its curve, and the erratum."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from certify import GaussianNoise, bound_curve, mse_bound, percentile_bounds
from certify.bounds.mse import box_distance
from tests.subjects import SUBJECTS, Subject

ALPHA = 1e-6


@pytest.mark.parametrize("reference", ["center", "population"])
@pytest.mark.parametrize("rho", [0.2, 1.0, 2.5])
@pytest.mark.parametrize("subject", SUBJECTS.values(), ids=SUBJECTS)
def test_no_perturbation_moves_the_median_further(subject: Subject, rho, reference):
    """Both medians at y + δ, from the given center or from both medians at y."""
    noise = GaussianNoise(subject.sigma)
    center = subject.f(subject.y[None])[0] + 0.1
    options = {"center": center} if reference == "center" else {"reference": reference, "pilot": 64}
    c = mse_bound(subject.f, subject.y, noise, rho=rho, n=4000, alpha=ALPHA, **options)
    assert c.status == "certified"
    starts = [center] if reference == "center" else list(subject.truth(0.5))
    for direction in [np.zeros(subject.y.shape), *subject.directions(8)]:
        for median in subject.truth(0.5, rho * direction):
            for start in starts:
                moved = float((median - start).square().sum())
                assert moved <= c.value * (1 + 1e-9) + 1e-24
    if subject.supremum is not None and reference == "population":
        assert subject.supremum(rho) <= c.value * (1 + 1e-9) + 1e-24


@pytest.mark.parametrize("name", ["identity", "exponential", "heavy tails"])
@pytest.mark.parametrize("rho", [0.3, 1.0])
def test_in_one_dimension_the_bound_is_attained(name, rho):
    """An explicit δ on the boundary reaches 97 % of it (95 % in square distance where f is as steep as sinh 4z)."""
    subject, noise = SUBJECTS[name], GaussianNoise(SUBJECTS[name].sigma)
    center = subject.truth(0.5)[0]
    c = mse_bound(subject.f, subject.y, noise, rho=rho, n=600_000, alpha=0.05, center=center, batch_size=8192)
    delta = subject.worst(rho)
    assert noise.norm(torch.as_tensor(delta)) == pytest.approx(rho)
    moved = float((subject.truth(0.5, delta)[0] - center).square().sum())
    assert moved == pytest.approx(subject.supremum(rho))
    assert (0.93 if name == "heavy tails" else 0.97) <= moved / c.value <= 1.0


def test_one_direction_seen_by_many_outputs_attains_the_bound():
    """A rank-one map: all outputs move together, so the sum over outputs is the truth, not only a bound."""
    a = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    y = torch.zeros(4, dtype=torch.float64)
    c = mse_bound(
        lambda z: z.sum(dim=1)[:, None] * a,
        y,
        0.5,
        rho=1.0,
        n=400_000,
        alpha=0.05,
        center=torch.zeros(3),
        batch_size=8192,
    )
    truth = float((a**2).sum()) * (0.5 * 2.0) ** 2
    assert 0.97 <= truth / c.value <= 1.0


def test_the_value_is_the_sum_of_the_larger_squared_sides():
    center = torch.tensor([[0.3, -2.0], [10.0, 0.0]], dtype=torch.float64)  # some inside the box, some outside
    c = mse_bound(torch.sin, torch.zeros(2, 2, dtype=torch.float64), 0.5, rho=1.0, n=1000, center=center)
    L, U = c.lower.numpy(), c.upper.numpy()
    zeta = np.maximum((U - center.numpy()) ** 2, (center.numpy() - L) ** 2)
    assert c.value == pytest.approx(zeta.sum(), rel=1e-14)
    assert c.value >= zeta.sum()
    assert torch.equal(c.center, center)


def test_the_largest_distance_to_an_interval_of_references():
    """Against a grid over the reference's interval and the ends of the box."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        (L, U), (low, high) = np.sort(rng.standard_normal((2, 2)), axis=1)
        grid = np.linspace(low, high, 101)
        best = max(((v - grid) ** 2).max() for v in (L, U))
        sides = [torch.tensor([v], dtype=torch.float64) for v in (L, U, low, high)]
        assert box_distance(*sides) == pytest.approx(best, rel=1e-12)


def test_the_printed_inequality_6_is_false():
    """Erratum: Σ(ζ_i)² with ζ_i a square already. f(y) = y, σ = ¼, ρ = 1: the median moves by (σρ)² = 1/16, the printed
    bound is (σρ)⁴ = 1/256; from draws likewise, while the corrected sum holds."""
    sigma, rho = 0.25, 1.0
    subject_value = sigma * rho  # the movement at δ = σρ, exactly
    c = mse_bound(
        lambda z: z, torch.zeros(1, dtype=torch.float64), sigma, rho=rho, n=20_000, alpha=1e-6, center=torch.zeros(1)
    )
    L, U = c.lower.item(), c.upper.item()
    zeta = max(U**2, L**2)
    printed, corrected = zeta**2, zeta
    assert printed < subject_value**2 <= corrected
    assert (sigma * rho) ** 4 < subject_value**2
    assert c.value == pytest.approx(corrected)


@pytest.mark.parametrize("name", ["constant", "constant without noise"])
@pytest.mark.parametrize("reference", ["center", "population"])
def test_a_constant_does_not_move(name, reference):
    subject = SUBJECTS[name]
    c = mse_bound(subject.f, subject.y, GaussianNoise(subject.sigma), rho=2.0, n=2000, reference=reference)
    assert c.value == 0.0
    assert c.status == "certified"


def test_the_population_reference_costs_a_bracket():
    """It bounds the distance to the true median, which the pilot's median is not: the bound is larger, α split in four."""
    y = torch.zeros(1, dtype=torch.float64)
    population = mse_bound(lambda z: z, y, 1.0, rho=1.0, n=20_000, reference="population")
    given = mse_bound(lambda z: z, y, 1.0, rho=1.0, n=20_000, center=torch.zeros(1, dtype=torch.float64))
    assert 1.0 < given.value < population.value < 1.3
    assert (population.reference, given.reference) == ("population", "center")


def test_the_population_reference_shares_alpha_among_four_events_an_output():
    """Two for the box, two for the bracket: the box is that of α/2."""
    y = torch.zeros(3, dtype=torch.float64)
    population = mse_bound(torch.sin, y, 0.5, rho=1.0, n=3000, alpha=0.1, reference="population")
    half = percentile_bounds(torch.sin, y, 0.5, rho=1.0, n=3000, alpha=0.05)
    assert torch.equal(population.lower, half.lower)
    assert torch.equal(population.upper, half.upper)


def test_too_few_draws_abstain():
    c = mse_bound(lambda z: z.expand(-1, 3), torch.zeros(1), 1.0, rho=2.0, n=100, alpha=1e-3)
    assert (c.value, c.status) == (math.inf, "abstained")
    assert "n >= 379 is needed" in c.reason  # ln(1e-3/6)/ln(1 − Φ(−2)) = 378.05
    again = mse_bound(lambda z: z.expand(-1, 3), torch.zeros(1), 1.0, rho=2.0, n=379, alpha=1e-3)
    assert math.isfinite(again.value)


def test_a_curve_says_how_alpha_is_shared():
    y, rhos = torch.zeros(4, dtype=torch.float64), [0.25, 0.5, 1.0]
    for simultaneous, share in ((True, 0.03 / 3), (False, 0.03)):
        k = bound_curve(torch.sin, y, 0.5, rhos=rhos, n=2000, alpha=0.03, simultaneous=simultaneous)
        assert list(k.rhos) == rhos
        assert k.alpha == 0.03
        assert {point.scope for point in k.points} == {"simultaneous" if simultaneous else "pointwise"}
        assert [point.alpha for point in k.points] == [share] * 3


def test_a_curve_may_abstain_in_its_tail():
    k = bound_curve(lambda z: z, torch.zeros(1), 1.0, rhos=[0.5, 1.0, 6.0], n=300)
    assert [point.status for point in k.points] == ["certified", "certified", "abstained"]
    assert k.values[2] == math.inf


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_half_precision_functions_are_bounded_as_they_are(dtype):
    """The identity: truth 1 up to the dtype's rounding."""
    y = torch.zeros(1, dtype=dtype)
    c = mse_bound(lambda z: z, y, 1.0, rho=1.0, n=20_000, alpha=1e-3, center=y)
    assert 1.0 <= c.value < 1.15
    assert c.run.dtype == str(dtype).removeprefix("torch.")


_SOURCE = torch.Generator().manual_seed(0)
_MANY, _FEW, _ONE = (torch.randn(16, outputs, generator=_SOURCE) for outputs in (300, 40, 1))
DIVERSE = {
    "identity": lambda z: z,
    "one output": lambda z: z[:, :1],
    "300 outputs of 16": lambda z: z @ _MANY,
    "saturated": lambda z: torch.tanh(20 * (z @ _MANY)),
    "one direction": lambda z: z @ _ONE * torch.linspace(-1, 1, 200),
    "heavy tails": lambda z: (z @ _FEW) ** 3,
    "running sums of squares": lambda z: (z @ _FEW).square().cumsum(1),
    "probabilities": lambda z: torch.softmax(4 * (z @ _FEW), 1),
    "one-hot": lambda z: torch.nn.functional.one_hot((z @ _FEW).argmax(1), 40).float(),
    "rows of unlike size": lambda z: (
        torch.tanh(z @ _MANY).reshape(-1, 5, 60) * torch.tensor([10, 1, 1, 1, 0.1])[:, None]
    ),
}


@pytest.mark.parametrize("name", DIVERSE)
def test_the_default_costs_no_more_than_two_percent_of_the_better_of_its_methods(name):
    """Where 200 pilot draws reach as far into the tails as the order statistics do. T4 is 0.8 to 16 times T2."""
    y = torch.linspace(-1, 1, 16)
    for rho in (0.25, 1.0, 1.5):
        best, t2, t4 = (
            mse_bound(DIVERSE[name], y, 0.25, rho=rho, n=2000, method=method).value
            for method in ("best", "coordinatewise", "dimension-free")
        )
        assert best <= 1.02 * min(t2, t4), rho
