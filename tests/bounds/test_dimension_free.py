"""T4: against the theorem on laws that are known atom by atom, closed forms, its own order statistics, and attacks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import binom, norm

from certify import GaussianNoise, certified_radius, layer_norm_support, mse_bound
from certify.bounds import METHODS, Setting
from certify.bounds.dimension_free import layer_cake, upper_limits
from certify.montecarlo import AllDraws, ExtremeRanks, draw, median
from tests.subjects import SUBJECTS, Subject, outputs_of

T4 = "dimension-free"
ALPHA = 1e-6


# The statement itself, on laws of a few atoms.


def atoms(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(values (N, m), weights (N,)): whole numbers, many of them equal, weights in eighths."""
    N, m = int(rng.integers(2, 6)), int(rng.integers(1, 5))
    weights = rng.multinomial(8, np.full(N, 1 / N)) / 8
    return rng.integers(-2, 3, size=(N, m)).astype(float), weights


def percentile(values: np.ndarray, weights: np.ndarray, p: float) -> tuple[float, float]:
    """(inf{v : F(v) ≥ p}, sup{v : F(v) ≤ p}) of a law of atoms, the largest atom where the second is infinite."""
    order = np.argsort(values)
    ordered, F = values[order], np.cumsum(weights[order])
    above = ordered[p < F]  # eighths and sixteenths are exact
    return ordered[p <= F][0], above[0] if len(above) else values[weights > 0].max()


def test_the_theorem_holds_for_every_law_of_a_few_atoms():
    """No shift (ρ = 0), every choice between the two medians of each output, ties everywhere; a left-end sum is wrong."""
    rng = np.random.default_rng(1)
    violated_from_the_left = 0
    for _ in range(3000):
        values, weights = atoms(rng)
        r = np.sqrt((values**2).sum(axis=1))
        levels = np.unique(np.append(rng.integers(1, 16, size=rng.integers(1, 5)) / 16, 1.0))
        right = [percentile(r, weights, q)[1] for q in levels]
        left = [r[weights > 0].min(), *right[:-1]]
        ends = [percentile(values[:, i], weights, 0.5) for i in range(values.shape[1])]
        furthest = sum(max(abs(low), abs(high)) ** 2 for low, high in ends)
        q = torch.as_tensor(levels)
        assert furthest <= layer_cake(q, torch.tensor([right])) * (1 + 1e-12)
        violated_from_the_left += furthest > layer_cake(q, torch.tensor([left])) * (1 + 1e-9)
    assert violated_from_the_left > 100


def test_the_factor_two_of_the_topmost_level_is_attained():
    """(t, 0) or (0, t), half the time each: both upper medians are t, so 2R² at q = 1 and nothing smaller."""
    values, weights = np.array([[3.0, 0.0], [0.0, 3.0]]), np.array([0.5, 0.5])
    furthest = sum(percentile(values[:, i], weights, 0.5)[1] ** 2 for i in range(2))
    one = layer_cake(torch.tensor([1.0], dtype=torch.float64), torch.tensor([[3.0]], dtype=torch.float64))
    assert furthest == pytest.approx(one, rel=1e-11) == 18.0


def slow_cake(levels, radii) -> float:
    total = 0.0
    for row in radii:
        best, area, last = math.inf, 0.0, 0.0
        for q, radius in zip(levels, row, strict=True):
            area += (q - last) * radius**2
            last = q
            if q > 0.5:
                best = min(best, area / (q - 0.5))
        total += best
    return total


def test_layer_cake_is_its_own_sum():
    rng = np.random.default_rng(0)
    for _ in range(300):
        J, rows = rng.integers(1, 9), rng.integers(1, 4)
        levels = np.unique(np.append(rng.random(J), rng.choice([0.3, 0.5, 0.50001, 0.9, 1.0])))
        radii = np.sort(rng.exponential(size=(rows, len(levels))), axis=1)
        radii[:, rng.integers(1, len(levels) + 1) :] = math.inf
        slow, fast = slow_cake(levels, radii), layer_cake(torch.as_tensor(levels), torch.as_tensor(radii))
        assert fast == pytest.approx(slow, rel=1e-11)
        assert fast >= slow


def test_no_level_above_a_half_is_no_bound():
    for levels in ([], [0.25], [0.1, 0.5]):
        q = torch.tensor(levels, dtype=torch.float64)
        assert layer_cake(q, torch.ones((2, len(levels)), dtype=torch.float64)) == math.inf


def test_limits_are_order_statistics_cut_to_what_is_known():
    distances = torch.arange(1.0, 11.0, dtype=torch.float64)[:, None].expand(10, 2).contiguous()
    reach = torch.tensor([7.5, math.inf], dtype=torch.float64)
    found = upper_limits(distances, torch.tensor([0.3, 0.6, 0.9, 1.0]), [8, 3, 1, 0], reach)
    expected = torch.tensor([[3.0, 7.5, 7.5, 7.5], [3.0, 8.0, 10.0, math.inf]], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)
    assert bool((found >= torch.minimum(expected, reach[:, None])).all())


# Closed forms.


@pytest.fixture(scope="module")
def thousand():
    """The identity map in 1024 dimensions at ρ = 2: the trace is 1024 σ², the truth 4 σ² (one direction)."""
    y, sigma, m = torch.zeros(1024, dtype=torch.float32), 0.5, 1024
    options = {"rho": 2.0, "n": 10_000, "alpha": 1e-3, "batch_size": 2048}
    return (lambda **more: mse_bound(lambda z: z, y, sigma, **options, **more)), sigma**2 * m


def test_the_identity_in_1024_dimensions_is_within_three_traces(thousand):
    bound, trace = thousand
    best, c = bound(), bound(method=T4)
    assert (c.method, c.theorem, c.status) == ("dimension-free", "T4", "certified")
    assert best.value == c.value
    assert 4 / 1024 <= c.value / trace <= 3.0
    # What T4 at one level costs without Monte Carlo: R is √m σ up to 1 %, and the whole of it is a factor q/(q − ½).
    assert c.value / trace >= 1.0
    assert best.considered["coordinatewise"] > 1.5 * best.considered["dimension-free"]


def test_the_population_costs_little_more(thousand):
    """A box around the median at y, confirmed by the draws, stands for the second half of the statement."""
    bound, trace = thousand
    c = bound(reference="population", method=T4)
    assert c.status == "certified"
    assert c.value / trace <= 4.2
    box = c.evidence
    assert bool((box.lower <= 0).all())  # the true median
    assert bool((box.upper >= 0).all())


def test_a_center_far_away_costs_its_distance(thousand):
    """(sqrt(bound from where the draws are) + ‖c' − c‖)², not 2.6 times the square of it all."""
    bound, trace = thousand
    center = torch.full((1024,), 3.0)
    far, near = bound(center=center, method=T4), bound(method=T4)
    apart = math.sqrt(1024) * 3.0
    assert far.evidence.origin is not far.center
    assert far.value == pytest.approx((math.sqrt(near.value) + apart) ** 2, rel=0.02)
    assert far.value >= apart**2 + 4 * trace / 1024


def test_the_population_does_not_know_of_a_center(thousand):
    """Wherever it is: the distance is one between two medians of the population."""
    bound, _ = thousand
    plain, far = (bound(reference="population", method=T4, center=c) for c in (None, torch.full((1024,), 3.0)))
    assert plain.value == far.value


def test_one_direction_in_one_dimension_is_the_triangle_of_percentiles():
    """f(z) = z at n → ∞: the bound is min over q of Σ (q_i − q_{i−1}) Q(Φ(Φ⁻¹(q_i) + ρ))²/(q_j − ½), Q of |N(0, 1)|."""
    y = torch.zeros(1, dtype=torch.float64)
    c = mse_bound(lambda z: z, y, 1.0, rho=0.5, n=200_000, alpha=0.05, center=y, method=T4, batch_size=8192)
    levels = c.evidence.levels.numpy()
    exact = norm.ppf((1 + norm.cdf(norm.ppf(levels) + 0.5)) / 2)
    assert c.value == pytest.approx(slow_cake(levels, exact[None, :]), rel=0.05)
    assert c.value >= 0.25


# Its own order statistics, written out.


def recorded(f, noise, *, n, pilot, **options):
    """The bound, and the n bounding draws it was made of."""
    y = torch.zeros(noise.sigma.shape, dtype=torch.float64)
    c = mse_bound(f, y, noise, n=n, pilot=pilot, method=T4, **options)
    return c, outputs_of(f, y, noise, n=n).numpy()


def rank(n: int, tail: float, alpha: float) -> int:
    """The largest t with P[Bin(n, tail) ≤ t − 1] ≤ α, searched from scratch; 0: none."""
    return int(np.searchsorted(binom.cdf(np.arange(n), n, tail), alpha, side="right"))


def sparse(z: torch.Tensor, threshold: float) -> torch.Tensor:
    """Every row is 0 most of the time, all six of them at once are not."""
    return torch.relu(z[:, :, :1] - threshold) * torch.arange(1, 9)


ROWS = {
    "apart": lambda z: sparse(z, 0.6),
    "whole": lambda z: z,
}


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("reference", ["center", "population"])
def test_the_value_is_made_of_its_own_order_statistics(name, reference):
    """Levels are the method's choice; limits and value are recomputed from the recorded draws with scipy alone."""
    n, alpha, rho, noise = (
        3000,
        0.02,
        0.3 if name == "apart" else 1.5,
        GaussianNoise(torch.ones(6, 8, dtype=torch.float64)),
    )
    c, draws = recorded(ROWS[name], noise, n=n, pilot=200, rho=rho, alpha=alpha, reference=reference)
    held = c.evidence
    assert held.apart is (name == "apart")
    distances = np.sqrt(((draws - held.origin.numpy()) ** 2).sum(axis=2))
    if not held.apart:
        distances = np.sqrt((distances**2).sum(axis=1, keepdims=True))
    budget = alpha / 2 if reference == "population" else alpha
    share = budget / (distances.shape[1] * len(held.levels))
    ordered = np.sort(distances, axis=0)
    tails = norm.sf(norm.ppf(held.levels.numpy()) + rho)
    expected = np.stack([ordered[n - rank(n, tail, share)] for tail in tails], axis=1)
    np.testing.assert_allclose(held.radii.numpy(), expected, rtol=1e-9)
    value = slow_cake(held.levels.numpy(), expected)
    if reference == "population":
        away = float(torch.maximum(held.upper - held.origin, held.origin - held.lower).norm())
        value = (math.sqrt(value) + away) ** 2
        most = max((draws < held.lower.numpy()).sum(axis=0).max(), (draws > held.upper.numpy()).sum(axis=0).max())
        assert binom.cdf(most, n, 0.5) <= alpha / (4 * draws[0].size)
    assert c.value == pytest.approx(value, rel=1e-8)


def test_rows_apart_see_that_no_row_moves():
    """At ρ = 0.3 no row's median leaves 0, in truth and in the bound; the whole is not 0 most of the time."""
    y = torch.zeros(6, 8)
    c = mse_bound(lambda z: sparse(z, 1.0), y, 1.0, rho=0.3, n=3000, method=T4, center=torch.zeros(6, 8))
    assert c.evidence.apart
    assert c.value == 0.0
    whole = mse_bound(lambda z: sparse(z, 1.0).flatten(1), y, 1.0, rho=0.3, n=3000, method=T4, center=torch.zeros(48))
    assert not whole.evidence.apart
    assert whole.value > 1.0


# Supports.


@pytest.mark.parametrize("n", [1, 10, 60])
def test_few_draws_fall_back_on_the_support(n):
    """Twice the square of the furthest corner, at most, and never less than the truth."""
    y = torch.zeros(3, dtype=torch.float64)
    c = mse_bound(torch.tanh, y, 1.0, rho=2.0, n=n, center=y, support=(-1.0, 1.0), method=T4)
    assert c.status == "certified"
    assert 3 * math.tanh(2 / math.sqrt(3)) ** 2 <= c.value <= 6 * (1 + 1e-8)
    assert float(c.evidence.levels[-1]) == 1.0
    assert mse_bound(torch.tanh, y, 1.0, rho=2.0, n=n, center=y, method=T4).value >= c.value


def test_the_top_level_is_the_support_row_by_row():
    module = torch.nn.LayerNorm(8).requires_grad_(False).eval()
    y = torch.randn((2, 8), generator=torch.Generator().manual_seed(0))
    support = layer_norm_support(module)
    c = mse_bound(module, y, 3.0, rho=6.0, n=100, center=torch.zeros(2, 8), support=support, method=T4)
    expected = support.reach(torch.zeros(2, 8))
    assert c.evidence.levels.tolist()[-1] == 1.0
    top = c.evidence.radii[:, -1]
    assert float(top.square().sum()) == pytest.approx(float(expected.square().sum()), rel=1e-9)
    assert c.value <= 2 * float(expected.square().sum()) * (1 + 1e-9)


def test_an_infinite_radius_rests_on_the_support():
    y = torch.zeros(2)
    r = certified_radius(torch.tanh, y, 1.0, tolerance=9.0, n=200, support=(-1.0, 1.0), method=T4)
    assert r.rho == math.inf
    assert r.value <= 4 * (1 + 1e-6) ** 2 * (1 + 1e-6) + 4  # 2 · 2, and the center's own distance from the origin


# Refusals and abstentions.


def test_too_few_draws_say_how_many_would_do():
    y = torch.zeros(3)
    for rho in (0.3, 1.0, 2.0):
        few = mse_bound(lambda z: z, y, 1.0, rho=rho, n=5, method=T4)
        assert (few.status, few.value, few.evidence) == ("abstained", math.inf, None)
        needed = int(few.reason.split("n >= ")[1].split()[0])
        assert math.isinf(mse_bound(lambda z: z, y, 1.0, rho=rho, n=needed - 1, method=T4).value)
        assert math.isfinite(mse_bound(lambda z: z, y, 1.0, rho=rho, n=needed, method=T4).value)


def test_a_median_that_cannot_be_bracketed_is_an_abstention():
    c = mse_bound(torch.sin, torch.zeros(3), 1.0, rho=0.5, n=300, method=T4, reference="population", pilot=1)
    assert (c.status, c.reason) == (
        "abstained",
        "the median at the input itself could not be bracketed: take more draws",
    )


def test_a_method_without_pilot_draws_still_stands():
    """Built by hand, with a center and nothing else; it expects nothing and says so."""
    noise, y = GaussianNoise(1.0), torch.zeros(4, dtype=torch.float64)
    method = METHODS["median", T4](Setting(noise, 3000, (4,), y), 0.01, 1.0)
    assert method.guess(1.0) == math.inf
    (seen,) = method.needs(1.0)
    draw(lambda z: z, y, noise, n=3000, seed=0, stream="bounding", accumulators=[seen])
    assert 1.0 <= method.at(1.0, {seen.key: seen}).value < 100


# Soundness.


@pytest.mark.parametrize("reference", ["center", "population"])
@pytest.mark.parametrize("rho", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("subject", SUBJECTS.values(), ids=SUBJECTS)
def test_no_perturbation_moves_the_median_further(subject: Subject, rho, reference):
    """Both medians at y + δ, from the given center or from both medians at y; α = 1e-6 a case."""
    noise = GaussianNoise(subject.sigma)
    center = subject.f(subject.y[None])[0] + 0.1
    options = {"center": center} if reference == "center" else {"reference": reference}
    c = mse_bound(subject.f, subject.y, noise, rho=rho, n=2500, alpha=ALPHA, method=T4, pilot=250, **options)
    if c.status == "abstained":  # only a bracket of the median at y may be missing
        assert reference == "population"
        assert "could not be bracketed" in c.reason
        return
    starts = [center] if reference == "center" else list(subject.truth(0.5))
    for direction in [np.zeros(subject.y.shape), *subject.directions(8)]:
        ends = [(end[:, None] - torch.stack(starts).T).abs() for end in subject.truth(0.5, rho * direction)]
        moved = float(torch.maximum(*ends).amax(dim=1).square().sum())  # of each output the furthest of all medians
        assert moved <= c.value * (1 + 1e-9) + 1e-24


def test_few_subjects_cannot_be_bracketed():
    """The last test must not be idle: at most where the median at y is an interval."""
    missing = [
        name
        for name, s in SUBJECTS.items()
        if mse_bound(
            s.f, s.y, GaussianNoise(s.sigma), rho=1.0, n=2500, alpha=ALPHA, method=T4, pilot=250, reference="population"
        ).status
        == "abstained"
    ]
    assert set(missing) <= {"sign at its jump"}


# Memory.


def test_a_number_a_draw_and_row_is_all_that_is_kept():
    """O(n · rows) for the center, O(outputs) besides for the population; never the draws."""
    shape, n = (3, 500), 2000
    noise, y = GaussianNoise(1.0), torch.zeros(4)
    W = torch.randn((4, 1500), generator=torch.Generator().manual_seed(0))
    pilot = AllDraws()
    f = lambda z: (z @ W).reshape(-1, *shape)  # noqa: E731
    draw(f, y, noise, n=100, seed=0, stream="pilot", accumulators=[pilot])
    draws = pilot.stacked()
    for reference, allowed in (("center", 8 * n * 3), ("population", 8 * n * 3 + 8 * 1500 * 10)):
        method = METHODS["median", T4](Setting(noise, n, shape, median(draws), reference, None, draws), 0.01, 1.0)
        needed = method.needs(0.0)
        draw(f, y, noise, n=n, seed=0, stream="bounding", accumulators=needed)
        assert not any(isinstance(part, ExtremeRanks) or type(part) is AllDraws for part in needed)
        assert sum(bytes_of(part) for part in needed) <= allowed


def bytes_of(accumulator) -> int:
    """What the tensors of an accumulator take, whatever they are views of; its reference is somebody else's."""
    held, total = [v for k, v in vars(accumulator).items() if k != "center"], 0
    while held:
        part = held.pop()
        if isinstance(part, torch.Tensor):
            total += part.untyped_storage().nbytes()
        elif isinstance(part, list):
            held.extend(part)
    return total
