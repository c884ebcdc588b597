"""The attack is strong: it reaches 95 % of every supremum that is known, and never leaves the ellipsoid."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.optimize import brentq

from certify import GaussianNoise
from experiments.soundness.attack import (
    Ascent,
    Ball,
    ascend,
    coordinate,
    distance,
    sensitivity,
    singular_directions,
    smoothed,
)
from tests.subjects import LINEAR, SUBJECTS, Subject, linear

RNG = np.random.default_rng(7)
ENOUGH = 0.95
WIDE = [
    linear("1 024 inputs", RNG.standard_normal((64, 1024)) / 32, np.exp(RNG.standard_normal(1024)), np.zeros(1024)),
    linear(
        "half without noise",
        RNG.standard_normal((30, 400)) / 20,
        np.where(RNG.random(400) < 0.5, 0.0, np.exp(RNG.standard_normal(400))),
        np.zeros(400),
    ),
    # Singular values evenly from .6 to 1: no direction is much better than the next.
    linear("flat spectrum", np.linalg.qr(RNG.standard_normal((120, 120)))[0], np.linspace(0.6, 1, 120), np.zeros(120)),
]


def reached(subject: Subject, ball: Ball, points: torch.Tensor) -> float:
    """The largest squared movement of a linear subject at any of the points, by arithmetic alone."""
    movements = [subject.f((ball.y + ball.delta(u))[None]) - subject.f(ball.y[None]) for u in points]
    return max(float(m.square().sum()) for m in movements)


@pytest.mark.parametrize("subject", [*LINEAR, *WIDE], ids=lambda s: s.name)
@pytest.mark.parametrize("smoother", ["median", "mean"])
def test_reaches_the_supremum_of_linear_maps(subject, smoother):
    ball = Ball.around(subject.y, GaussianNoise(subject.sigma), 1.5)
    starts = torch.cat(
        [singular_directions(subject.f, ball, 2, draws=16), ball.random(1, torch.Generator().manual_seed(1))]
    )
    found = ascend(distance(subject.f, smoother), ball, starts, Ascent(draws=16, judging=1), seed=3)
    assert ENOUGH * subject.supremum(1.5) <= reached(subject, ball, found) <= (1 + 1e-9) * subject.supremum(1.5)


@pytest.mark.parametrize("subject", [*LINEAR, *WIDE[:2]], ids=lambda s: s.name)
def test_reaches_it_from_random_starts_alone(subject):
    ball = Ball.around(subject.y, GaussianNoise(subject.sigma), 0.25)
    starts = ball.random(2, torch.Generator().manual_seed(2))
    found = ascend(distance(subject.f), ball, starts, Ascent(draws=16, judging=1), seed=4)
    assert reached(subject, ball, found) >= ENOUGH * subject.supremum(0.25)


@pytest.mark.parametrize("subject", WIDE, ids=lambda s: s.name)
def test_random_perturbations_do_not(subject):
    """Control: in many dimensions the supremum is not where one happens to look."""
    ball = Ball.around(subject.y, GaussianNoise(subject.sigma), 1.0)
    assert reached(subject, ball, ball.random(20, torch.Generator().manual_seed(3))) < 0.9 * subject.supremum(1.0)


@pytest.mark.parametrize("rho", [0.5, 3.0])
def test_reaches_the_supremum_of_a_quadratic(rho):
    """f(z) = zᵀMz with both signs among the eigenvalues: E f(y + δ + G) − E f(y + G) = uᵀAu + 2bᵀu with A = ΣᐟMΣᐟ, whose
    largest and smallest value over ‖u‖ ≤ ρ are trust-region problems, solved exactly by the secular equation."""
    rng = np.random.default_rng(11)
    d = 40
    M = rng.standard_normal((d, d))
    M, sigma, y = (M + M.T) / 2, np.exp(0.5 * rng.standard_normal(d)), rng.standard_normal(d)
    A, b = sigma[:, None] * M * sigma, sigma * (M @ y)

    def largest(A: np.ndarray, b: np.ndarray) -> float:
        values, vectors = np.linalg.eigh(A)
        coefficients = vectors.T @ b
        # The maximiser is (λI − A)⁻¹b with λ > λ_max: on the sphere, since A has a positive eigenvalue.
        lam = brentq(
            lambda l: np.linalg.norm(coefficients / (l - values)) - rho, values[-1] + 1e-9, values[-1] + 1e6, xtol=1e-12
        )
        u = vectors @ (coefficients / (lam - values))
        return float(u @ A @ u + 2 * b @ u)

    supremum = max(largest(A, b), largest(-A, -b)) ** 2
    matrix = torch.as_tensor(M)
    f = lambda z: ((z @ matrix) * z).sum(dim=1, keepdim=True)  # noqa: E731
    ball = Ball.around(torch.as_tensor(y), GaussianNoise(torch.as_tensor(sigma)), rho)
    starts = torch.cat(
        [singular_directions(f, ball, 1), -singular_directions(f, ball, 1), ball.random(4, torch.Generator())]
    )
    found = ascend(distance(f, "mean"), ball, starts, Ascent(steps=30), seed=1)
    got = max(float(u @ torch.as_tensor(A) @ u + 2 * torch.as_tensor(b) @ u) ** 2 for u in ball.project(found))
    assert ENOUGH * supremum <= got <= (1 + 1e-9) * supremum


def test_restarts_find_the_larger_of_two_maxima():
    """f(z) = sin z, y = .3, σ = .8, ρ = 3: upwards the smoothed function rises by 1 − sin .3 of its amplitude, downwards it
    falls by 1 + sin .3, and an ascent that starts upwards stays there."""
    ball = Ball.around(torch.tensor([0.3], dtype=torch.float64), GaussianNoise(0.8), 3.0)

    def moved(u: torch.Tensor) -> float:
        return float((torch.sin(0.3 + 0.8 * u) - np.sin(0.3)) ** 2 * np.exp(-(0.8**2)))

    climb = lambda start: ascend(distance(torch.sin, "mean"), ball, start, Ascent(first=0.3, last=0.05, draws=256))  # noqa: E731
    stuck = max(moved(u) for u in climb(torch.tensor([[1.0]])))
    best = max(moved(u) for u in climb(ball.random(6, torch.Generator().manual_seed(0))))
    supremum = (1 + np.sin(0.3)) ** 2 * np.exp(-(0.8**2))
    assert stuck <= 1.01 * (1 - np.sin(0.3)) ** 2 * np.exp(-(0.8**2)) < 0.5 * supremum
    assert best >= ENOUGH * supremum


@pytest.mark.parametrize("name", ["heavy tails", "exponential"])
def test_reaches_the_supremum_of_nonlinear_medians(name):
    subject = SUBJECTS[name]
    ball = Ball.around(subject.y, GaussianNoise(subject.sigma), 0.7)
    found = ascend(
        distance(subject.f, "median"), ball, ball.random(4, torch.Generator().manual_seed(5)), Ascent(), seed=6
    )
    low, _ = subject.truth(0.5)
    got = max(float((subject.truth(0.5, ball.delta(u).numpy())[0] - low).square().sum()) for u in found)
    assert ENOUGH * subject.supremum(0.7) <= got <= (1 + 1e-9) * subject.supremum(0.7)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("p", [0.1, 0.5])
def test_moves_a_percentile_of_one_output_as_far_as_it_goes(p, sign):
    """Output i of a linear map moves by at most ρ‖σ∘a_i‖, in one direction."""
    subject = SUBJECTS["high dimension"]
    ball = Ball.around(subject.y, GaussianNoise(subject.sigma), 1.0)
    (u,) = ascend(
        coordinate(subject.f, 5, sign, p), ball, ball.random(1, torch.Generator().manual_seed(8)), Ascent(draws=32)
    )
    moved = (subject.f((ball.y + ball.delta(u))[None]) - subject.f(ball.y[None]))[0, 5]
    row = (
        subject.f(torch.eye(200, dtype=torch.float64))[:, 5] - subject.f(torch.zeros(1, 200, dtype=torch.float64))[0, 5]
    )
    assert float(sign * moved) >= ENOUGH * float((row * subject.sigma).norm())


def test_singular_directions_are_the_first_ones():
    subject = WIDE[0]
    ball = Ball.around(subject.y, GaussianNoise(subject.sigma), 2.0)
    first, second = singular_directions(subject.f, ball, 2, iterations=12, seed=1)
    worst = torch.as_tensor(subject.worst(1.0)) / subject.sigma
    assert abs(float(first @ worst)) == pytest.approx(2.0, rel=1e-3)
    assert float(first.norm()) == pytest.approx(2.0)
    assert abs(float(first @ second)) < 1e-6


def test_sensitivity_is_the_row_norms_of_the_jacobian():
    subject = SUBJECTS["high dimension"]
    ball = Ball.around(subject.y, GaussianNoise(subject.sigma), 1.0)
    eye = torch.eye(200, dtype=torch.float64)
    rows = ((subject.f(eye) - subject.f(0 * eye[:1])).T * subject.sigma).norm(dim=1)
    found = sensitivity(subject.f, ball, probes=600, draws=2)
    torch.testing.assert_close(found, rows, rtol=0.15, atol=0)


@pytest.mark.parametrize("sigma", [[1e-9, 1.0, 1e3], [0.3, 0.0, 0.7]])
@pytest.mark.parametrize("rho", [1e-3, 0.5, 40.0])
def test_perturbations_are_inside_the_ellipsoid_in_float64(sigma, rho):
    noise = GaussianNoise(torch.tensor(sigma, dtype=torch.float64))
    ball = Ball.around(torch.zeros(3), noise, rho)
    for u in 1e6 * ball.random(200, torch.Generator().manual_seed(1)):
        assert 0.999 * rho < noise.norm(ball.delta(u)) <= rho


def test_starts_towards_other_inputs_are_cut_down():
    noise = GaussianNoise(torch.tensor([0.5, 0.0, 2.0]))
    ball = Ball.around(torch.tensor([1.0, 1.0, 1.0]), noise, 1.0)
    near, far = ball.towards([torch.tensor([1.25, 9.0, 1.0]), torch.tensor([1.0, 9.0, 41.0])])
    torch.testing.assert_close(near, torch.tensor([0.5, 0.0, 0.0], dtype=torch.float64))
    torch.testing.assert_close(far, torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64))


def test_a_start_between_other_inputs_has_the_mean_direction():
    ball = Ball.around(torch.tensor([1.0, 1.0, 1.0]), GaussianNoise(torch.tensor([0.5, 0.0, 2.0])), 3.0)
    # One a step along the first axis, one far along the third: lengths do not count.
    found = ball.between([torch.tensor([1.5, 9.0, 1.0]), torch.tensor([1.0, 9.0, 41.0])])
    torch.testing.assert_close(found, 3 * torch.tensor([[0.5**0.5, 0.0, 0.5**0.5]], dtype=torch.float64))
    assert torch.equal(ball.between([]), torch.zeros(1, 3, dtype=torch.float64))
    torch.testing.assert_close(
        ball.sigma * ball.whitened(torch.tensor([1.0, 0.0, -3.0])), torch.tensor([1.0, 0.0, -3.0]).double()
    )


def test_the_smoothed_percentile_is_near_the_order_statistic():
    draws = torch.linspace(0, 1, 1001, dtype=torch.float64)[None, torch.randperm(1001, generator=torch.Generator())]
    for p in (0.1, 0.5, 0.9):
        assert float(smoothed(draws, "median", p)) == pytest.approx(p, abs=2e-3)
    assert float(smoothed(draws, "mean")) == pytest.approx(0.5)


def test_the_same_seed_finds_the_same_and_global_randomness_is_left_alone():
    subject = SUBJECTS["isotropic linear"]
    ball = Ball.around(subject.y, GaussianNoise(subject.sigma), 1.0)
    state = torch.random.get_rng_state()
    runs = [
        ascend(distance(subject.f), ball, ball.random(2, torch.Generator().manual_seed(0)), seed=s) for s in (1, 1, 2)
    ]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


BAD: list[tuple[Callable[[], object], str]] = [
    (lambda: Ball.around(torch.zeros(2), GaussianNoise(0.0), 1.0), "noise has σ = 0 everywhere"),
    (lambda: Ball.around(torch.zeros(2), GaussianNoise(1.0), 0.0), "rho = 0.0: must be a finite number > 0"),
    (lambda: Ascent(steps=0), "steps = 0: must be a whole number >= 1"),
    (lambda: Ascent(momentum=1.0), "momentum = 1.0: must be at least 0 and less than 1"),
    (lambda: distance(torch.sin, "mode"), "smoother = 'mode': must be one of 'median', 'mean'"),
    (lambda: _climb(lambda z: (z > 0).double()), "objective does not depend on z differentiably"),
    (lambda: _climb(lambda z: z / 0), "objective is NaN or infinite"),
]


def _climb(f: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    ball = Ball.around(torch.zeros(2), GaussianNoise(1.0), 1.0)
    return ascend(distance(f, "mean"), ball, ball.random(1, torch.Generator()))


@pytest.mark.parametrize(("call", "message"), BAD, ids=[m for _, m in BAD])
def test_bad_calls(call, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        call()
