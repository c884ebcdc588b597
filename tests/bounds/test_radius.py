"""T3 + T8: the radius search against linear maps and made-up bounds."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch

from certify import certified_radius, plan
from certify.bounds.base import Evaluation
from certify.bounds.radius import largest_radius
from certify.statements.ask import MSE, Radius, ask


@pytest.mark.parametrize("truth", [1.5e-6, 1e-3, 0.3, 1.0, 1.7, 32.5, 63.0])
@pytest.mark.parametrize("closed", [True, False])
def test_the_search_finds_a_jump_from_below(truth, closed):
    """A bound that jumps over the tolerance at `truth`: never beyond, and within 2e-6 of it."""

    def bound(rho: float) -> Evaluation:
        return Evaluation(1.0 if rho < truth or (closed and rho == truth) else 2.0)

    rho, evaluation = largest_radius(bound, 1.5)
    assert rho <= truth
    assert rho >= truth * (1 - 3e-6) - 1e-6
    assert evaluation.value == 1.0


def test_the_search_on_a_smooth_bound():
    rho, evaluation = largest_radius(lambda r: Evaluation(r**2), 2.0)
    assert rho == pytest.approx(math.sqrt(2), rel=1e-5)
    assert evaluation.value == rho**2 <= 2.0


def test_the_search_knows_none_and_all():
    rho, evaluation = largest_radius(lambda r: Evaluation(5.0), 1.0)
    assert (rho, evaluation.value) == (0.0, 5.0)
    assert largest_radius(lambda r: Evaluation(0.5), 1.0)[0] == math.inf
    assert largest_radius(lambda r: Evaluation(1.0), 1.0)[0] == math.inf  # a tolerance is met when it is reached


@pytest.mark.parametrize("sigma", [0.1, 2.0])
def test_the_radius_of_a_linear_map(sigma):
    """f(y) = 3y leaves (3σρ)² ≤ C up to ρ = √C/(3σ): reached to 97 %, never exceeded."""
    truth = 0.9
    tolerance = (3 * sigma * truth) ** 2
    y = torch.tensor([0.7], dtype=torch.float64)
    r = certified_radius(
        lambda z: 3 * z, y, sigma, tolerance=tolerance, n=200_000, alpha=0.01, center=3 * y, batch_size=8192
    )
    assert 0.97 * truth <= r.rho <= truth
    assert r.value <= tolerance
    assert r.ellipsoid.rho == r.rho
    assert r.ellipsoid.l2_ball == pytest.approx(sigma * r.rho)
    assert r.status == "certified"


def test_the_radius_tends_to_the_truth():
    y = torch.zeros(1, dtype=torch.float64)
    gaps = [
        1 - certified_radius(lambda z: z, y, 1.0, tolerance=1.0, n=n, alpha=0.01, center=y, seed=4).rho
        for n in (300, 3000, 30_000)
    ]
    assert 0 < gaps[2] < gaps[1] < gaps[0] < 0.5


def test_a_constant_is_certified_as_far_as_the_draws_reach():
    """No further than `plan` says n draws can speak."""
    r = certified_radius(
        lambda z: torch.ones(len(z), 3), torch.zeros(2), 1.0, tolerance=1e-9, n=500, alpha=0.01, method="coordinatewise"
    )
    assert r.rho == pytest.approx(plan(n=500, outputs=3, alpha=0.01).rho, rel=1e-5)
    assert r.rho <= plan(n=500, outputs=3, alpha=0.01).rho
    assert r.value == 0.0


def test_a_support_within_the_tolerance_certifies_everything():
    r = certified_radius(
        torch.tanh, torch.zeros(2), 1.0, tolerance=8.1, n=200, support=(-1.0, 1.0), center=torch.tensor([1.0, -1.0])
    )
    assert r.rho == math.inf
    assert r.value == pytest.approx(8.0)
    assert r.ellipsoid.contains(torch.tensor([1e9, 0.0]))


def test_a_hopeless_tolerance_abstains_with_the_bound_that_it_missed():
    r = certified_radius(lambda z: z, torch.zeros(1), 1.0, tolerance=1e-6, n=1000, center=torch.ones(1))
    assert (r.rho, r.status) == (0.0, "abstained")
    assert r.value > 1e-6
    assert "> tolerance 1·10⁻⁶" in r.reason
    assert r.ellipsoid.l2_ball == 0.0
    assert r.lower is None


def test_too_few_draws_abstain():
    r = certified_radius(lambda z: z.expand(-1, 50), torch.zeros(1), 1.0, tolerance=1.0, n=5)
    assert (r.rho, r.status) == (0.0, "abstained")
    assert "n >= 17 is needed" in r.reason  # log2(100/1e-3) = 16.6


def wavy(z: torch.Tensor) -> torch.Tensor:
    """30 outputs that saturate, of 5 inputs."""
    return torch.tanh(z @ torch.linspace(-1, 1, 150, dtype=z.dtype).reshape(5, 30).sin().mul(2))


SMALL = 4 * 30 * 500
"""Bytes of 500 draws of `wavy`, where all are 1 500."""

PILOT, PASS = 93 + 32, 1500 + 32
"""Rows that f is given where there are pilot draws: half a block is evaluated again after them, half at the end of a pass."""


@dataclass
class Counted:
    """A function that knows how often it was called for."""

    f: Callable[..., torch.Tensor]
    draws: int = 0

    def __call__(self, z: torch.Tensor) -> torch.Tensor:
        self.draws += len(z)
        return self.f(z)


def same(one, other) -> None:
    assert (one.rho, one.value, one.status, one.reason) == (other.rho, other.value, other.status, other.reason)
    assert one.considered == other.considered
    mine, theirs = (None if r.evidence is None else r.evidence.tensors() for r in (one, other))
    assert (mine is None) == (theirs is None)
    for name in mine or ():
        assert torch.equal(mine[name], theirs[name])


@pytest.mark.parametrize(("method", "seed", "tolerance"), [
    *(("coordinatewise", seed, t) for seed in range(2) for t in (1e-3, 0.02, 0.3, 1.0, 4.0, 12.0, 40.0, 200.0)),
    ("spectral", 0, 4.0), ("best", 0, 1.0), ("best", 1, 12.0),
])  # fmt: skip
def test_the_radius_is_that_of_all_draws_whatever_is_kept(seed, method, tolerance):
    y = torch.full((5,), 0.3)
    options = {"tolerance": tolerance, "n": 1500, "seed": seed, "method": method, "alpha": 0.01}
    f = Counted(wavy)
    kept = certified_radius(wavy, y, 0.3, **options)
    same(certified_radius(f, y, 0.3, memory=SMALL, **options), kept)
    assert f.draws in (PILOT + PASS, PILOT + 2 * PASS)
    same(certified_radius(wavy, y, 0.3, memory=1000, **options), kept)  # nothing fits: to disk


@pytest.mark.parametrize("tolerance", [0.02, 0.3, 1.0, 12.0])
@pytest.mark.parametrize("fill", [0.0, 0.4])
@pytest.mark.parametrize("reference", ["center", "population"])
def test_draws_are_made_again_where_the_search_goes_below_what_was_kept(tolerance, fill, reference):
    """Without pilot draws nothing is expected: what fits is kept, and a radius below it takes a second pass."""
    y, center = torch.full((5,), 0.3), torch.full((30,), fill)
    options = {"tolerance": tolerance, "n": 1500, "center": center, "method": "coordinatewise", "reference": reference}
    f, seen = Counted(wavy), []
    kept = certified_radius(wavy, y, 0.3, **options)
    one = certified_radius(f, y, 0.3, memory=SMALL, progress=lambda done, of: seen.append((done, of)), **options)
    same(one, kept)
    passes = 2 if reference == "center" and kept.rho < 0.9 else 1
    assert seen[-1] == (1500 * passes, 1500 * passes)
    assert (
        f.draws == (1500 + 64) * passes
    )  # without pilot draws either half of a block is evaluated again in every pass
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


@pytest.mark.parametrize("margin", [0.5, 0.99, 1.3, 3.0])
@pytest.mark.parametrize("tolerance", [1.0, 8.0])
def test_an_expectation_that_is_too_high_costs_time_alone(monkeypatch, margin, tolerance):
    monkeypatch.setattr("certify.statements.choose._MARGIN", margin)
    y = torch.full((5,), 0.3)
    options = {"tolerance": tolerance, "n": 1500, "method": "coordinatewise", "seed": 4}
    f, g = Counted(wavy), Counted(wavy)
    kept = certified_radius(f, y, 0.3, **options)
    same(certified_radius(g, y, 0.3, memory=1000, **options), kept)
    assert f.draws == PILOT + PASS
    if margin in (0.5, 3.0):
        assert g.draws == PILOT + (PASS if margin == 0.5 else 2 * PASS)


def test_a_second_pass_shares_the_draws_with_what_was_asked_beside_it(tmp_path):
    """Several statements, one of which needs draws again: answers as alone; the function is random; a checkpoint is kept."""

    def noisy(z: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        return wavy(z) + 0.01 * torch.randn((len(z), 30), generator=generator)

    y, options = torch.full((5,), 0.3), {"n": 1500, "center": torch.zeros(30), "seed": 2}
    asked = [MSE(2.0, method="coordinatewise"), *(Radius(t, method="coordinatewise") for t in (0.3, 12.0, 1.0))]
    kept = ask(noisy, y, 0.3, asked, **options)
    for folder in (None, tmp_path, tmp_path):  # the third goes on where the second ended: nothing is left to draw
        bound, *radii = ask(noisy, y, 0.3, asked, memory=SMALL, checkpoint=folder, **options)
        assert bound.value == kept[0].value
        for one, other in zip(radii, kept[1:], strict=True):
            same(one, other)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
