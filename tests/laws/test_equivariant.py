"""Laws of symmetry: units, directions, names of outputs and shapes of tensors are not what a bound is about.

Rescaling by a power of two changes no digit, so those laws are exact on every scale; the others hold up to rounding, on noises
and functions of moderate size.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st

from certify import (
    GaussianNoise,
    decide_mse,
    deployed_bound,
    event_bound,
    event_rate_over,
    mse_bound,
    percentile_bounds,
    statistic_bound,
)
from tests.laws.built import CHOOSING, ONE, T2, part, prepared, squared
from tests.strategies import (
    MODERATE,
    TAME,
    copies,
    draws,
    levels,
    percentiles,
    problems,
    radii,
    seeds,
)
from tests.subjects import outputs_of

powers = st.sampled_from([-4.0, -1.0, 0.25, 2.0**-20, 1024.0])
quarters = st.sampled_from([0.25, 0.5, 0.75])


def same(a, b):
    """Bit for bit, but for the sign of a zero."""
    return torch.equal(a + 0.0, b + 0.0)


# Units of the output


@given(problems(), quarters, radii, levels, draws, seeds, powers)
@example(ONE, 0.5, 1.0, 0.01, 300, 0, -1.0)  # a reflection swaps the two sides
@example(ONE, 0.25, 1.0, 0.01, 300, 0, -1.0)
def test_a_box_scales_with_the_outputs(problem, p, rho, alpha, n, seed, a):
    """f → a f maps the box to a·box, its ends swapped and p mirrored where a < 0, and T2 to a² times itself: exactly."""
    f, y, noise = problem
    options = {"rho": rho, "n": n, "alpha": alpha, "seed": seed}
    plain = percentile_bounds(f, y, noise, p=p, pilot=8, **options)
    mapped = percentile_bounds(lambda z: a * f(z), y, noise, p=p if a > 0 else 1 - p, pilot=8, **options)
    ends = (a * plain.lower, a * plain.upper)
    lower, upper = ends if a > 0 else ends[::-1]
    assert same(mapped.lower, lower)
    assert same(mapped.upper, upper)
    assert mapped.status == plain.status
    for reference in ("center", "population"):
        one, other = (
            mse_bound(g, y, noise, reference=reference, **T2, **options).value for g in (f, lambda z: a * f(z))
        )
        assert other == a**2 * one


@given(problems(), percentiles, radii, levels, draws, seeds, st.sampled_from(["exp", "cube", "floor", "rank"]))
def test_a_box_commutes_with_increasing_maps(problem, p, rho, alpha, n, seed, name):
    """Order statistics of g(f) are g of those of f, whatever increasing g: the box has no unit at all."""
    f, y, noise = problem
    g = {"exp": lambda x: x.clamp(-50, 50).exp(), "cube": lambda x: x.clamp(-1e9, 1e9) ** 3, "floor": torch.floor}.get(
        name, lambda x: x.sign() * (x.abs() > 1)
    )
    options = {"rho": rho, "p": p, "n": n, "alpha": alpha, "seed": seed, "pilot": 8}
    plain, mapped = percentile_bounds(f, y, noise, **options), percentile_bounds(lambda z: g(f(z)), y, noise, **options)
    for side in ("lower", "upper"):
        before, after = getattr(plain, side), getattr(mapped, side)
        known = torch.isfinite(before)
        assert same(after[known], g(before[known]))
        assert torch.equal(after[~known], before[~known])


@given(problems(outputs=()), percentiles, radii, levels, draws, seeds, copies, st.sampled_from(["upper", "lower"]))
def test_a_limit_of_a_statistic_commutes_with_monotone_maps(problem, q, rho, alpha, n, seed, k, side):
    (f, y, noise), options = problem, {"rho": rho, "q": q, "n": n, "alpha": alpha, "seed": seed, "replicas": k}

    def statistic(z):
        return f(z.flatten(0, 1)).unflatten(0, z.shape[:2]).amax(dim=1)

    mirrored = {"upper": "lower", "lower": "upper"}[side]
    plain = statistic_bound(statistic, y, noise, side=side, **options)
    cube = statistic_bound(lambda z: statistic(z).clamp(-1e9, 1e9) ** 3, y, noise, side=side, **options)
    minus = statistic_bound(lambda z: -statistic(z), y, noise, side=mirrored, **options)
    assert plain.status == cube.status == minus.status
    if plain.status == "certified":
        assert cube.value == float(torch.tensor(plain.value, dtype=torch.float64).clamp(-1e9, 1e9) ** 3)
        assert minus.value == -plain.value


MAPS = st.sampled_from([(-2.0, 0.0), (0.25, 3.0), (8.0, -5.0)])


@given(problems(TAME, MODERATE), radii, levels, draws, seeds, MAPS, st.sampled_from(["center", "population"]))
def test_a_shift_moves_the_box_and_no_distance(problem, rho, alpha, n, seed, ab, reference):
    (f, y, noise), (a, b) = problem, ab
    options = {"rho": rho, "n": n, "alpha": alpha, "seed": seed, "reference": reference, **T2}
    plain, mapped = mse_bound(f, y, noise, **options), mse_bound(lambda z: a * f(z) + b, y, noise, **options)
    ends = (a * plain.lower + b, a * plain.upper + b)
    lower, upper = ends if a > 0 else ends[::-1]
    torch.testing.assert_close(mapped.lower, lower, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(mapped.upper, upper, rtol=1e-9, atol=1e-9)
    assert mapped.value == pytest.approx(a**2 * plain.value, rel=1e-6, abs=1e-9)


MAPPED = [name for name in CHOOSING if not name.startswith("T2 ") and not name.endswith(" support")]


@pytest.mark.parametrize("name", MAPPED)
@part
@given(problems(TAME, MODERATE), radii, levels, draws, seeds, MAPS, st.randoms(use_true_random=False))
def test_answers_are_equivariant(name, problem, rho, alpha, n, seed, ab, random):
    """f → a f + b with its outputs permuted: a squared distance becomes a² times itself, a distance |a| times.

    Where levels are as good as each other on pilot draws the choice between them may flip on a rounding; both answers are
    then compared with the choices of the first.
    """
    kind, more = CHOOSING[name]
    (a, b), (f, y, noise) = ab, problem
    known = (-2.0, 2.0) if more.get("within") else None
    options = {"n": n, "alpha": alpha, "seed": seed, "aim": min(rho, 3.0), **more, "within": None}

    def plain(z):
        return f(z) if known is None else f(z).clamp(*known)

    def moved(z):
        x = plain(z)
        return a * x.reshape(len(x), -1)[:, order].reshape(x.shape) + b

    order = list(range(math.prod(f.shape)))
    random.shuffle(order)
    one, seen = prepared((plain, y, noise), kind, support=known, **options)
    other, also = prepared((moved, y, noise), kind, support=known and tuple(a * end + b for end in known), **options)
    assume(_chosen(one, 1.0) == pytest.approx(_chosen(other, abs(a)), rel=1e-6))
    factor = a**2 if squared(name) else abs(a)
    expected = factor * one.at(rho, seen).value
    assert other.at(rho, also).value == pytest.approx(expected, rel=1e-6, abs=1e-7 * (1 + factor))


def _chosen(method, unit):
    """What a method chose on pilot draws, as numbers; lengths in a unit."""
    match method.theorem, method.method:
        case "T4", _:
            return [method.plan.apart, method.plan.origin is method.setting.center, *method.plan.levels.tolist()]
        case "T11", _:
            return [method.radius / unit, method.origin is method.setting.center]
        case "T12", _:
            return list(method.plan.levels)
        case "T6", "dimension-free":
            return [method.s]
    return []


@given(problems(TAME, MODERATE), percentiles, radii, levels, draws, seeds, st.randoms(use_true_random=False))
def test_outputs_may_be_permuted(problem, p, rho, alpha, n, seed, random):
    f, y, noise = problem
    options = {"rho": rho, "n": n, "alpha": alpha, "seed": seed}
    order = list(range(math.prod(f.shape)))
    random.shuffle(order)

    def permuted(z):
        x = f(z)
        return x.reshape(len(x), -1)[:, order]

    plain, other = (percentile_bounds(g, y, noise, p=p, pilot=8, **options) for g in (f, permuted))
    assert torch.equal(other.lower, plain.lower.reshape(-1)[order])
    assert torch.equal(other.upper, plain.upper.reshape(-1)[order])
    one, two = (mse_bound(g, y, noise, **T2, **options).value for g in (f, permuted))
    assert two == pytest.approx(one, rel=1e-12)


# Units of the input


def event(f):
    return lambda z: statistic(f)(z) > 0.5


def statistic(f):
    return lambda z: f(z.flatten(0, 1)).reshape(*z.shape[:2], -1).amax(dim=(1, 2))


BOUNDS = {
    "T1": lambda f, y, noise, o: percentile_bounds(f, y, noise, p=0.3, **o),
    "T2": lambda f, y, noise, o: mse_bound(f, y, noise, method="coordinatewise", reference="population", **o),
    "T4": lambda f, y, noise, o: mse_bound(f, y, noise, method="dimension-free", **o),
    "T11": lambda f, y, noise, o: mse_bound(f, y, noise, smoother="mean", support=f.support, **o),
    "T12": lambda f, y, noise, o: mse_bound(f, y, noise, method="spectral", **o),
    "T6": lambda f, y, noise, o: deployed_bound(f, y, noise, replicas=3, q=0.7, **o),
    "T5 mean": lambda f, y, noise, o: deployed_bound(f, y, noise, replicas=2, q=0.7, smoother="mean", **o),
    "T5 statistic": lambda f, y, noise, o: statistic_bound(statistic(f), y, noise, replicas=3, q=0.7, **_sole(o)),
    "T5 event": lambda f, y, noise, o: event_bound(event(f), y, noise, replicas=3, two_sided=True, **_sole(o)),
    "T5 rate": lambda f, y, noise, o: event_rate_over([event(f)], [y], noise, replicas=2, **_rate(o)),
    "decision": lambda f, y, noise, o: decide_mse(f, y, noise, tolerance=2.0, **o),
}
"""Every bound as a function of f, y and the noise; of 16 pilot draws where it takes any."""


def _sole(options):
    return {key: value for key, value in options.items() if key != "pilot"}


def _rate(options):
    return {"rhos": [options["rho"]], **{key: options[key] for key in ("n", "alpha", "seed")}}


def numbers(result):
    """What a result states."""
    found = [
        getattr(result, name, None) for name in ("value", "values", "lower", "upper", "status", "method", "decided")
    ]
    found += [getattr(result, name, None) for name in ("successes", "n", "rank", "considered")]
    return [x.tolist() if isinstance(x, torch.Tensor) else x for x in found]


@pytest.mark.parametrize("name", BOUNDS)
@part
@given(problem=problems(), rho=radii, alpha=levels, n=draws, seed=seeds, a=st.sampled_from([0.125, 4.0, 2.0**30]))
def test_noise_and_input_scale_together(name, problem, rho, alpha, n, seed, a):
    """f(·/a) around a·y with aσ is the same problem, at the same ρ: ‖·‖_Σ has no unit. For a power of two, bit for bit."""
    f, y, noise = problem

    class Rescaled:
        support = f.support

        def __call__(self, z):
            return f(z / a)

    options = {"rho": rho, "n": n, "alpha": alpha, "seed": seed, "pilot": 16}
    plain = BOUNDS[name](f, y, noise, options)
    assert numbers(BOUNDS[name](Rescaled(), a * y, GaussianNoise(a * noise.sigma), options)) == numbers(plain)


# Shapes, and kinds of noise that are the same noise


@pytest.mark.parametrize("name", BOUNDS)
@part
@given(problem=problems(kinds=["isotropic"]), rho=radii, alpha=levels, n=draws, seed=seeds, how=st.integers(0, 3))
def test_one_sigma_is_a_tensor_full_of_it(name, problem, rho, alpha, n, seed, how):
    """The isotropic case, however it is written: a number, a 0-d tensor, one σ a token, all of them."""
    f, y, noise = problem
    sigma = float(noise.sigma)
    sizes = [(), (1,) * y.ndim, tuple(y.shape[:1]) + (1,) * (y.ndim - 1), tuple(y.shape)]
    options = {"rho": rho, "n": n, "alpha": alpha, "seed": seed, "pilot": 16}
    plain = BOUNDS[name](f, y, sigma, options)
    full = GaussianNoise(torch.full(sizes[how][: y.ndim], sigma, dtype=torch.float64))
    assert numbers(BOUNDS[name](f, y, full, options)) == numbers(plain)


@pytest.mark.parametrize("name", [name for name in BOUNDS if name != "T4"])
@part
@given(problem=problems(outputs=(4,)), rho=radii, alpha=levels, n=draws, seed=seeds)
def test_an_input_is_its_numbers_whatever_its_shape(name, problem, rho, alpha, n, seed):
    """(T4 may take the rows of an output apart; the shape of an input says nothing to any bound.)"""
    f, y, noise = problem
    options = {"rho": rho, "n": n, "alpha": alpha, "seed": seed, "pilot": 16}
    flat = GaussianNoise(noise.sigma_for(y.shape).reshape(-1))
    plain = BOUNDS[name](f, y, noise, options)
    assert numbers(BOUNDS[name](f, y.reshape(-1), flat, options)) == numbers(plain)


@given(problems(), percentiles, radii, levels, draws, seeds)
def test_an_output_is_its_numbers_whatever_its_shape(problem, p, rho, alpha, n, seed):
    f, y, noise = problem
    options = {"rho": rho, "n": n, "alpha": alpha, "seed": seed}

    def flat(z):
        return f(z).flatten(1) if f.shape else f(z)[:, None]

    one, other = (percentile_bounds(g, y, noise, p=p, pilot=8, **options) for g in (f, flat))
    assert torch.equal(one.lower.reshape(-1), other.lower)
    assert torch.equal(one.upper.reshape(-1), other.upper)
    assert len({mse_bound(g, y, noise, **T2, **options).value for g in (f, flat)}) == 1


@given(problems(kinds=["isotropic"]), st.floats(0.01, 2.0), levels, draws, seeds)
def test_isotropic_noise_is_lemma_3_1(problem, radius, alpha, n, seed):
    """Lemma 3.1 with ‖δ‖₂ ≤ radius: percentiles Φ(Φ⁻¹(p) ± radius/σ), a rank by its own sums, the same order statistic."""
    from scipy.stats import binom

    f, y, noise = problem
    sigma = float(noise.sigma)
    b = percentile_bounds(f, y, sigma, rho=radius / sigma, n=n, alpha=alpha, seed=seed, pilot=8)
    X = outputs_of(f, y, sigma, n=n, seed=seed).sort(dim=0).values
    level = 0.5 * math.erfc(-radius / sigma / math.sqrt(2))
    m = X[0].numel()
    k = next((k for k in range(1, n + 1) if binom.cdf(k - 1, n, level) >= 1 - alpha / (2 * m)), None)
    near = k is not None and abs(binom.sf(k - 1, n, level) / (alpha / (2 * m)) - 1) < 1e-7
    assume(not near)
    if k is None:
        assert bool(torch.isinf(b.upper).all())
        assert bool(torch.isinf(b.lower).all())
    else:
        assert torch.equal(b.upper, X[k - 1])
        assert torch.equal(b.lower, X[n - k])


@given(problems(kinds=["zero"]), radii, levels, draws, seeds)
def test_without_noise_nothing_moves(problem, rho, alpha, n, seed):
    """Σ = 0 covers δ = 0 alone, where a box is the point f(y), and every distance 0; or nothing is said."""
    f, y, noise = problem
    at = f(y[None])[0]
    options = {"rho": rho, "n": n, "alpha": alpha, "seed": seed, "pilot": 16}
    box = percentile_bounds(f, y, noise, **options)
    for end in (box.lower, box.upper):
        known = torch.isfinite(end)
        torch.testing.assert_close(end[known], at[known], rtol=1e-12, atol=1e-12)
    size = float(at.abs().max())
    for name in ("T2", "T4", "T6", "T5 mean"):
        value = BOUNDS[name](f, y, noise, options).value
        assert math.isinf(value) or value <= 1e-12 * (1 + size) ** 2
