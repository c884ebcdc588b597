"""T11: the spectral certificate, its pieces against closed forms, and its evidence against fresh draws."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.optimize import minimize_scalar
from scipy.special import ndtr
from torch import Tensor, nn

from certify import GaussianNoise, mse_bound
from certify.bounds.base import Evaluation, Setting
from certify.bounds.likelihood_ratio import LikelihoodRatio
from certify.bounds.spectral_mean import SpectralMSE, SpectrumEvidence
from certify.confidence import chernoff_limit
from certify.montecarlo import AllDraws, draw, pool
from certify.support import Support, as_support, layer_norm_support

NOISE = GaussianNoise(1.0)


def method(
    f, y, noise=NOISE, *, n, alpha=1e-3, aim=1.0, seed=0, center=None, reference="population", support=None, pilot=200
) -> SpectralMSE:
    """The method as `certify.ask` builds it: pilot draws choose the center, if none is given, and the truncation."""
    kept = AllDraws()
    if pilot:
        draw(f, y, noise, n=pilot, seed=seed, stream="pilot", accumulators=[kept])
    trial = kept.stacked() if pilot else None
    c = trial.double().mean(dim=0) if center is None else center
    return SpectralMSE(Setting(noise, n, tuple(c.shape), c, reference, as_support(support), trial), alpha, aim)


def seen_by(one: SpectralMSE, f, y, noise=NOISE, *, seed=0):
    """What the method needs, fed with its n bounding draws."""
    seen = pool(one.needs(0.0))
    draw(f, y, noise, n=one.setting.n, seed=seed, stream="bounding", accumulators=seen.values(), batch_size=4096)
    return seen


def bound(f, y, noise=NOISE, *, rho, seed=0, **options) -> Evaluation:
    one = method(f, y, noise, aim=rho, seed=seed, **options)
    return one.at(rho, seen_by(one, f, y, noise, seed=seed))


def clamped(A: Tensor, at: float = 6.0):
    """z ↦ A z with every output cut off at `at` standard deviations: that of A G, but for 1e-9, and bounded."""
    limit = at * A.norm(dim=1)
    return (lambda z: torch.clamp(z @ A.T, -limit, limit)), Support(-limit, limit)


def spread(m: int, rank: float, seed: int = 0) -> Tensor:
    """An m × m matrix A with λ_max(A Aᵀ) = 1 and tr A Aᵀ = `rank`."""
    decay = np.linspace(0, 1, m)
    slope = minimize_scalar(lambda s: (np.exp(-s * decay).sum() - rank) ** 2, bounds=(0, 50), method="bounded").x
    source = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn((m, m), generator=source, dtype=torch.float64)).Q
    return basis * torch.as_tensor(np.exp(-slope * decay / 2))


# The law of the likelihood ratio


def expected(psi, rho: float) -> float:
    """E ψ(L) for L = exp(ρZ − ρ²/2)."""
    return quad(
        lambda z: psi(math.exp(rho * z - rho * rho / 2)) * math.exp(-z * z / 2) / math.sqrt(2 * math.pi),
        -12,
        12 + 2 * rho,
        limit=800,
        points=[0.0, rho],
    )[0]


@pytest.mark.parametrize("rho", [1e-4, 0.05, 0.5, 1.0, 2.0, 3.0, 5.0, 8.0])
def test_the_variation_is_that_of_two_gaussians(rho):
    truth = 2 * (2 * ndtr(rho / 2) - 1)
    assert truth <= LikelihoodRatio(NOISE, rho).variation() <= truth * 1.002


@pytest.mark.parametrize("rho", [0.05, 0.5, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("theta", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("second", [1e-4, 0.01, 0.1, 1.0])
def test_the_clipped_bound_is_the_dual_from_above(rho, theta, second):
    """Against the integral itself, with its own minimum over μ."""

    def psi(t: float, mu: float) -> float:
        return t * t / (4 * mu) if abs(t) <= 2 * mu else abs(t) - mu

    truth = min(
        expected(lambda value: abs(value - theta), rho),  # μ → 0
        *(
            minimize_scalar(
                lambda log_mu: (
                    math.exp(log_mu) * second + expected(lambda value: psi(value - theta, math.exp(log_mu)), rho)
                ),
                bounds=(low, low + 6),
                method="bounded",
            ).fun
            for low in (-7.0, -1.0, 5.0)
        ),
    )
    found = LikelihoodRatio(NOISE, rho).clipped(second, theta)
    assert truth * (1 - 1e-6) <= found <= truth * 1.003


@pytest.mark.parametrize("rho", [12.0, 40.0, 64.0, 1000.0])
def test_a_radius_beyond_all_float64_tails(rho):
    """P and Q have nothing in common: E|L − 1| = 2, and the best v is −sqrt(λ) under P, 1 under Q."""
    ratio = LikelihoodRatio(NOISE, rho)
    assert ratio.variation() == pytest.approx(2.0, rel=1e-6)
    assert ratio.clipped(0.01, 0.3) == pytest.approx(1 + 0.3 * 0.1, rel=1e-6)


def test_every_convex_mean_is_bounded_from_above():
    """… not only the ones that are used: the replaced law dominates L."""
    for rho in (0.3, 1.0, 2.5):
        ratio = LikelihoodRatio(NOISE, rho)
        first, top = ratio._first
        assert float(ratio.weights.sum()) + first == pytest.approx(1.0, abs=1e-12)
        assert float(ratio.weights @ ratio.values) + top == pytest.approx(1.0, abs=1e-12)
        for psi in (abs, lambda v: max(v - 2, 0.0), lambda v: max(0.3 - v, 0.0), lambda v: min(v * v, 10 * v - 25)):
            mine = sum(w * psi(v) for w, v in zip(ratio.weights, ratio.values, strict=True)) + 10 * top
            assert expected(psi, rho) <= mine + 1e-12


# Chernoff's limit


@pytest.mark.parametrize("n", [1, 2, 37, 10_000, 10**9])
@pytest.mark.parametrize("alpha", [0.2, 1e-3, 1e-12])
def test_chernoff_limit_of_no_success_has_a_closed_form(n, alpha):
    truth = -math.expm1(math.log(alpha) / n)  # (1 − v)ⁿ = α
    assert truth <= chernoff_limit(0.0, n, alpha) * (1 + 1e-15)
    assert chernoff_limit(0.0, n, alpha) == pytest.approx(truth, rel=1e-9)


@pytest.mark.parametrize("mean", [1e-12, 1e-4, 0.3, 0.5, 0.999])
@pytest.mark.parametrize("n", [1, 50, 10**5, 10**10])
def test_chernoff_limit_solves_its_equation(mean, n):
    alpha = 1e-3
    v = chernoff_limit(mean, n, alpha)
    assert mean < v <= 1
    if v < 1:
        information = n * (mean * math.log(mean / v) + (1 - mean) * math.log((1 - mean) / (1 - v)))
        assert information == pytest.approx(-math.log(alpha), rel=1e-4)


def test_chernoff_limit_at_the_ends():
    assert chernoff_limit(1.0, 10, 0.1) == 1.0
    assert chernoff_limit(1.0 + 1e-12, 10, 0.1) == 1.0
    assert chernoff_limit(-1e-18, 10, 0.1) == chernoff_limit(0.0, 10, 0.1)


# How far f can be from a center


def layer_norm(width: int, seed: int) -> nn.LayerNorm:
    source = torch.Generator().manual_seed(seed)
    module = nn.LayerNorm(width).requires_grad_(False).eval()
    module.weight.copy_(torch.randn(width, generator=source).abs() + 0.1)
    module.bias.copy_(torch.randn(width, generator=source))
    return module


@pytest.mark.parametrize("seed", range(4))
def test_reach_is_the_farthest_point_of_the_ellipsoid(seed):
    """Fixed-point iteration from many starts finds what the ellipsoid allows; no normalised row exceeds that and the box."""
    module, width = layer_norm(6, seed), 6
    support = layer_norm_support(module)
    without_box = Support(torch.tensor(-math.inf), torch.tensor(math.inf), support.gain, support.offset)
    center = 3 * torch.randn((5, width), generator=torch.Generator().manual_seed(seed))
    gain, offset = module.weight.double(), module.bias.double()
    u = torch.randn((2000, 5, width), generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    for _ in range(300):
        u = gain * (offset + gain * u - center)
        u = u * math.sqrt(width) / u.norm(dim=2, keepdim=True)
    found = (offset + gain * u - center).norm(dim=2).max(dim=0).values
    allowed = without_box.reach(center)
    assert bool((found <= allowed).all())
    assert bool((allowed <= found * 1.0005).all())
    assert bool((support.reach(center) <= allowed).all())
    rows = torch.randn((5000, 5, width), generator=torch.Generator().manual_seed(seed + 2))
    assert bool(((module(rows) - center).norm(dim=2).max(dim=0).values <= support.reach(center)).all())


def test_reach_without_a_layer_norm_is_the_far_corner():
    support = Support(torch.tensor([-1.0, 0.0]), torch.tensor([2.0, 5.0]))
    assert support.reach(torch.tensor([0.0, 1.0])).tolist() == pytest.approx([math.hypot(2, 4)])
    assert support.reach(torch.zeros(3, 2)).tolist() == pytest.approx([math.hypot(2, 5)] * 3)
    half = Support(torch.tensor(0.0), torch.tensor(math.inf))
    assert half.reach(torch.zeros(2)).tolist() == [math.inf]


def test_reach_uses_box_and_ellipsoid_together():
    """γ = (2, 1), w = 2, center at β: the ellipsoid alone allows 2√2, the box alone √(1 + 2); together √(1 + 7/4)."""
    gain, offset = torch.tensor([2.0, 1.0]), torch.zeros(2)
    support = Support(torch.tensor([-1.0, -math.sqrt(2)]), torch.tensor([1.0, math.sqrt(2)]), gain.double(), offset)
    assert support.reach(torch.zeros(2)).item() == pytest.approx(math.sqrt(1 + 7 / 4), rel=1e-3)
    open_box = Support(torch.tensor(-math.inf), torch.tensor(math.inf), gain.double(), offset)
    assert open_box.reach(torch.zeros(2)).item() == pytest.approx(2 * math.sqrt(2), rel=1e-3)


# The bound


def test_stable_rank_above_thirty_at_radius_one():
    """A clamped linear map of 64 outputs, stable rank 32: T11 pays at most 3 ρ²λ_max, the truth; T2 pays 30 of them."""
    A = spread(64, 32.0)
    f, support = clamped(A)
    y = torch.zeros(64, dtype=torch.float64)
    truth = float(torch.linalg.svdvals(A)[0] ** 2)
    assert float(A.square().sum()) / truth >= 30
    for reference in ("population", "center"):
        value = bound(f, y, rho=1.0, n=100_000, reference=reference, support=support, pilot=1000).value
        assert truth <= value <= 3 * truth
    options = {"method": "coordinatewise", "support": support, "batch_size": 4096}
    other = mse_bound(f, y, NOISE, rho=1.0, n=100_000, alpha=1e-3, **options)
    assert other.value >= 30 * truth


def extremal(rho: float, height: float):
    """f = κ(L − 1) cut off at `height`, the function that moves most for its second moment and its range."""

    def f(z: Tensor) -> Tensor:
        return torch.expm1(rho * z - rho * rho / 2).clamp(max=height)

    def law(density) -> float:
        return expected(lambda v: min(v - 1, height) * density(v), rho)

    return f, law(lambda v: v) - law(lambda v: 1), expected(lambda v: min(v - 1, height) ** 2, rho)


@pytest.mark.parametrize("rho", [0.5, 1.0, 2.0])
def test_the_bound_is_attained(rho):
    """At the perturbation along which L grows, f moves by S_1 but for the grid (.5 %) and the draws."""
    f, moved, second = extremal(rho, 6.0)
    limits = SpectrumEvidence(torch.zeros(1), torch.zeros(1), second, 6.0, 0.0, 6.0, 6.0, None, 6.0)
    limits = dataclasses.replace(limits, center=limits.origin)
    assert moved <= limits.distance(NOISE, rho) <= 1.005 * moved
    support = (torch.tensor(-6.0), torch.tensor(6.0))
    options = {"n": 40_000, "support": support, "center": torch.zeros(1), "pilot": 0}
    value = bound(f, torch.zeros(1, dtype=torch.float64), rho=rho, **options).value
    assert moved**2 <= value <= 1.25 * moved**2


def test_clipping_helps_where_the_variance_alone_hurts():
    """λ = 1, R = 8: never above λ χ², 5 % below at ρ = 1, 73 % at ρ = 2."""
    zero = torch.zeros(1)
    limits = SpectrumEvidence(zero, zero, 1.0, 8.0, 0.0, 8.0, 8.0, None, 8.0)
    gain = {rho: limits.implied(NOISE, rho) / NOISE.chi2(rho) for rho in (0.1, 1.0, 2.0, 4.0)}
    assert gain[0.1] == pytest.approx(1.0, rel=1e-6)
    assert gain[1.0] == pytest.approx(0.946, abs=2e-3)
    assert gain[2.0] == pytest.approx(0.273, abs=2e-3)
    assert gain[4.0] < 1e-4


def test_the_population_bound_vanishes_with_the_radius_and_the_other_does_not():
    f, support = clamped(spread(20, 10.0))
    y = torch.zeros(20, dtype=torch.float64)
    for reference, low, high in (("population", 0.0, 1e-7), ("center", 0.005, 0.2)):
        one = method(f, y, n=5000, reference=reference, support=support)
        value = one.at(1e-5, seen_by(one, f, y)).value
        assert low <= value <= high


@pytest.mark.parametrize("reference", ["population", "center"])
@pytest.mark.parametrize("n", [30, 3000])
@pytest.mark.parametrize("cut", [True, False])
def test_at_large_radii_the_bound_is_the_support(reference, n, cut):
    f, support = clamped(spread(12, 6.0), at=6.0 if not cut else 30.0)
    y = torch.zeros(12, dtype=torch.float64)
    one = method(f, y, n=n, reference=reference, support=support, pilot=100 if cut else 0, center=0.1 * torch.ones(12))
    value = one.at(100.0, seen_by(one, f, y)).value
    if reference == "center":
        assert value == pytest.approx(float(support.reach(torch.full((12,), 0.1)).norm()) ** 2, rel=1e-6)
    else:
        assert value <= (2 * float(support.reach(torch.zeros(12)).norm())) ** 2 * (1 + 1e-6)


def test_with_a_handful_of_draws_the_support_is_all_that_is_left():
    f, support = clamped(spread(12, 6.0))
    value = bound(f, torch.zeros(12, dtype=torch.float64), rho=1.0, n=1, support=support, pilot=1).value
    ball = float(support.reach(torch.zeros(12)).norm())
    assert value <= (ball * 2 * (2 * ndtr(0.5) - 1)) ** 2 * 1.01


@pytest.mark.parametrize(
    "support", [None, (0.0, math.inf), (torch.tensor([-1.0, -math.inf]), torch.tensor([1.0, 1.0]))]
)
def test_without_an_a_priori_range_it_abstains(support):
    one = method(torch.abs, torch.zeros(2), n=100, support=support)
    evaluation = one.at(1.0, {})
    assert one.needs(0.5) == []
    assert (evaluation.value, evaluation.evidence, one.guess(1.0)) == (math.inf, None, math.inf)
    assert "give support=" in evaluation.reason


def test_a_constant_function_does_not_move():
    y = torch.zeros(3)
    value = bound(lambda z: torch.full_like(z, 0.25), y, rho=1.0, n=100_000, support=(-1.0, 1.0)).value
    assert value < 1e-3
    assert bound(lambda z: z * 0 + 2, y, rho=1.0, n=100, support=(2.0, 2.0)).value < 1e-12


def test_the_truncation_is_chosen_by_the_tail():
    """A range that is hardly larger than what is seen is not cut; one that is 100 times as large is."""
    y = torch.zeros(8, dtype=torch.float64)
    tight = method(torch.sign, y, n=10_000, support=(-1.0, 1.0))
    wide = method(torch.sign, y, n=10_000, support=(-100.0, 100.0))
    assert tight.radius > 0.9 * tight.reach
    assert wide.radius < 0.05 * wide.reach


def test_a_center_far_from_the_mean_costs_its_distance_only():
    """The second moment is taken about the pilot mean; about c itself it would be 100 times larger."""
    f, support = clamped(spread(16, 16.0))
    y, far = torch.zeros(16, dtype=torch.float64), torch.full((16,), 2.5, dtype=torch.float64)
    options = {"rho": 0.5, "n": 20_000, "support": support, "pilot": 500}
    near = bound(f, y, **options).value
    evaluation = bound(f, y, center=far, reference="center", **options)
    moved = math.sqrt(evaluation.value) - float(far.norm())
    assert 0 < moved < 1.5 * math.sqrt(near)
    assert torch.equal(evaluation.evidence.tensors()["origin"], evaluation.evidence.origin)
    assert bound(f, y, center=far, **options).value == pytest.approx(near, rel=0.02)


@pytest.mark.parametrize("reference", ["population", "center"])
def test_the_guess_is_roughly_the_bound(reference):
    f, support = clamped(spread(48, 24.0))
    y = torch.zeros(48, dtype=torch.float64)
    one = method(f, y, n=20_000, reference=reference, support=support, pilot=1000)
    seen = seen_by(one, f, y)
    for rho in (0.25, 1.0, 2.0):
        assert one.guess(rho) == pytest.approx(one.at(rho, seen).value, rel=0.3)
    assert method(f, y, n=100, support=support, pilot=0, center=torch.zeros(48)).guess(1.0) == math.inf


def test_methods_of_one_truncation_share_their_accumulator():
    f, support = clamped(spread(12, 6.0))
    y = torch.zeros(12, dtype=torch.float64)
    one = method(f, y, n=1000, support=support)
    again = SpectralMSE(one.setting, 1e-3, 1.1)
    assert one.radius == again.radius
    assert len(pool([*one.needs(0.1), *again.needs(0.1)])) == 1


def test_layer_norm_rows_move_within_the_bound():
    """Two LayerNorm rows of a linear map, pushed along 200 directions: never farther than the bound, which is not idle."""
    module = layer_norm(8, 3).double()
    A = torch.randn((16, 16), generator=torch.Generator().manual_seed(9), dtype=torch.float64)

    def f(z: Tensor) -> Tensor:
        return module((z @ A).reshape(-1, 2, 8))

    y = torch.randn(16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    noise = GaussianNoise(0.3)
    value = bound(f, y, noise, rho=1.0, n=20_000, support=layer_norm_support(module)).value
    source = torch.Generator().manual_seed(2)
    draws = 0.3 * torch.randn((4000, 16), generator=source, dtype=torch.float64)
    base, moved = f(y + draws).mean(dim=0), 0.0
    for _ in range(200):
        delta = torch.randn(16, generator=source, dtype=torch.float64)
        moved = max(moved, float((f(y + 0.3 * delta / delta.norm() + draws).mean(dim=0) - base).square().sum()))
    assert moved < value < 60 * moved


# Evidence


def evidence(reference: str = "center", **options) -> tuple[SpectrumEvidence, object, Tensor]:
    f, support = clamped(spread(24, 12.0))
    y = torch.zeros(24, dtype=torch.float64)
    options = {"rho": 1.0, "n": 20_000, "support": support, **options}
    return bound(f, y, reference=reference, **options).evidence, f, y


def fresh(held: SpectrumEvidence, f, y, n: int = 10_000, seed: int = 1):
    witness = held.witness()
    draw(f, y, NOISE, n=n, seed=seed, stream="checking", accumulators=[witness], batch_size=4096)
    return witness


@pytest.mark.parametrize("options", [{"reference": "population"}, {}, {"center": torch.ones(24).double()}])
def test_evidence_survives_being_written_down(options):
    held, _, _ = evidence(**options)
    back = SpectrumEvidence.restored(held.numbers(), held.tensors(), held.center)
    assert back.implied(NOISE, 0.7) == held.implied(NOISE, 0.7)
    assert back.reference == held.reference == options.get("reference", "center")
    assert all(isinstance(value, float) for value in held.numbers().values())


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("second", -1.0, "must be finite and >= 0"),
        ("second", 0.0, "second > 0"),
        ("radius", 0.0, "0 < radius <= reach"),
        ("radius", 1e9, "0 < radius <= reach"),
        ("outside", 1.5, "outside <= 1"),
        ("drift", math.nan, "must be finite"),
        ("ball", math.inf, "must be finite"),
    ],
)
def test_evidence_out_of_range_is_refused(name, value, message):
    held, _, _ = evidence()
    with pytest.raises(ValueError, match=message):
        SpectrumEvidence.restored({**held.numbers(), name: value}, held.tensors(), held.center)


def test_evidence_with_something_missing_is_refused():
    held, _, _ = evidence()
    numbers = held.numbers()
    numbers.pop("reach")
    with pytest.raises(KeyError):
        SpectrumEvidence.restored(numbers, {}, held.center)
    with pytest.raises(ValueError, match="origin has shape"):
        SpectrumEvidence.restored(held.numbers(), {"origin": torch.zeros(3)}, held.center)


@pytest.mark.parametrize("options", [{"reference": "population"}, {}, {"center": torch.ones(24).double()}])
def test_true_evidence_is_not_refuted(options):
    held, f, y = evidence(**options)
    for seed in range(5):
        assert held.verdict(fresh(held, f, y, 3000, seed), NOISE, 1.0)[0] > 0.5


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        ({"second": 0.6}, "mean square"),
        ({"outside": 1e-5, "radius": 4.0}, "draws outside"),
        ({"center_offset": 0.02}, "mean along a direction"),
        ({"reach": 5.0, "radius": 4.9}, "farther from the origin than f can be"),
    ],
)
def test_false_evidence_is_refuted(change, detail):
    """λ = 1 stated as .6; a ball with one draw in five outside; a center .1 away stated as .02; too small a range."""
    shifted = torch.full((24,), 0.1 / math.sqrt(24), dtype=torch.float64)
    held, f, y = evidence(center=shifted)
    p, said = dataclasses.replace(held, **change).verdict(
        fresh(dataclasses.replace(held, **change), f, y, 20_000), NOISE, 1.0
    )
    assert p < 1e-3
    assert detail in said


def test_the_witness_does_not_depend_on_batches_and_merges():
    held, f, y = evidence()
    whole = fresh(held, f, y, 4096)
    pieces = held.witness()
    draw(f, y, NOISE, n=4096, seed=1, stream="checking", accumulators=[pieces], batch_size=97)
    assert pieces.verdict() == pytest.approx(whole.verdict())
    other = fresh(held, f, y, 4096, seed=2)
    tested = whole.along.tested + other.along.tested
    whole.merge(other)
    assert (whole.count, whole.along.tested) == (8192, tested)
    whole.update(torch.zeros(10, 24, dtype=torch.float64))
    assert whole.along.tested == tested + 10


def test_a_witness_of_few_draws_says_nothing():
    held, f, y = evidence(reference="population")
    assert held.verdict(fresh(held, f, y, 50), NOISE, 1.0)[0] == 1.0
