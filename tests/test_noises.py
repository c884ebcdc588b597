"""What every noise owes the bounds. A new one is a line in `NOISES`; nothing here, nor in the bounds, asks for its type.

Whether its `tails` are true is for its own tests (tests/bounds, tests/statistical); this file holds what can be said of any.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch

from certify import (
    GaussianNoise,
    MeanSmoother,
    MedianSmoother,
    UniformNoise,
    bound_curve,
    certified_radius,
    decide_event,
    decide_mse,
    decide_statistic,
    deployed_bound,
    event_bound,
    mse_bound,
    percentile_bounds,
    plan,
    statistic_bound,
)
from certify.noise import Noise, as_noise

NOISES = [
    (GaussianNoise, torch.tensor([0.5, 2.0, 0.0], dtype=torch.float64)),
    (UniformNoise, torch.tensor([0.5, 2.0, 0.0], dtype=torch.float64)),
]
"""A class, and widths to make one of: the last coordinate without noise, the second four times as wide as the first."""

Y = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
RADII = (1e-6, 0.01, 0.1, 0.3, 0.6, 2.0)
ROOT = Path(__file__).resolve().parents[1]

every = pytest.mark.parametrize(("kind", "widths"), NOISES, ids=lambda value: getattr(value, "__name__", ""))


@every
def test_it_is_a_noise_with_a_proof(kind, widths):
    noise = kind(widths)
    assert isinstance(noise, Noise)
    assert as_noise(noise, Y) is noise
    assert re.fullmatch(r"T\d+", noise.theorem)
    titles = [page.read_text(encoding="utf-8").splitlines()[0] for page in (ROOT / "docs/theory").glob("t*.md")]
    assert any(title.startswith(f"# {noise.theorem}. ") for title in titles)
    assert kind.__name__ in repr(noise)


@every
def test_what_is_said_of_a_bound_names_the_size_of_its_perturbations(kind, widths):
    noise, others = kind(widths), {other(w).size for other, w in NOISES if other is not kind}
    few = {"n": 600, "pilot": 64}
    for result in (
        percentile_bounds(f, Y, noise, rho=0.05, **few),
        mse_bound(f, Y, noise, rho=0.05, **few),
        certified_radius(f, Y, noise, tolerance=30.0, **few),
        bound_curve(f, Y, noise, rhos=[0.05, 0.1], **few),
        deployed_bound(f, Y, noise, rho=0.02, replicas=5, q=0.7, **few),
        event_bound(fires, Y, noise, rho=0.02, replicas=3, n=600),
        decide_event(fires, Y, noise, target=0.9, rho=0.02, replicas=3),
    ):
        assert f"{noise.size} ≤ " in str(result)
        assert not any(other in str(result) for other in others)


@every
def test_a_size_is_a_norm_of_the_noised_coordinates(kind, widths):
    noise, rng = kind(widths), torch.Generator().manual_seed(0)
    assert noise.norm(torch.zeros(3)) == 0.0
    assert noise.norm(torch.tensor([0.0, 0.0, 1e-300], dtype=torch.float64)) == math.inf
    for _ in range(20):
        a, b = torch.randn(2, 3, generator=rng, dtype=torch.float64)
        a[2] = b[2] = 0.0
        assert 0 < noise.norm(a) < math.inf
        assert noise.norm(-3 * a) == pytest.approx(3 * noise.norm(a))
        assert noise.norm(a + b) <= (noise.norm(a) + noise.norm(b)) * (1 + 1e-12)
        assert kind(4 * widths).norm(4 * a) == pytest.approx(noise.norm(a))
    with pytest.raises(ValueError, match=r"shape \(3,\): must broadcast"):
        noise.norm(torch.zeros(4))


@every
def test_tails_shrink_with_the_radius_and_the_copies_and_mirror_each_other(kind, widths):
    noise = kind(widths)
    for p in (1e-3, 0.2, 0.5, 0.9):
        still = noise.tails(p, 0.0)
        assert still == pytest.approx((p, 1 - p), rel=1e-9)
        assert still.lower <= p
        assert still.upper <= 1 - p
        before = still
        for rho in RADII:
            now, two = noise.tails(p, rho), noise.tails(p, rho, replicas=2)
            assert 0 <= two.lower <= now.lower <= before.lower
            assert 0 <= two.upper <= now.upper <= before.upper
            assert noise.tails(1 - p, rho) == pytest.approx((now.upper, now.lower), rel=1e-6, abs=1e-12)
            before = now


@every
def test_the_set_is_what_the_norm_says(kind, widths):
    noise, rng = kind(widths), torch.Generator().manual_seed(1)
    region = noise.region((3,), 0.4)
    assert region.rho == 0.4
    assert region.dimensions == 2
    assert (
        0
        < region.linf_ball
        < region.l2_ball
        <= region.l1_ball
        <= float(region.semi_axes[region.semi_axes > 0].min()) * (1 + 1e-12)
    )
    for j, reach in enumerate(region.semi_axes.tolist()):
        axis = torch.zeros(3, dtype=torch.float64)
        axis[j] = 1.0
        assert region.contains(axis * reach * (1 - 1e-9))
        assert not region.contains(axis * (reach + 1e-6))
    for _ in range(20):
        delta = torch.randn(3, generator=rng, dtype=torch.float64)
        delta[2] = 0.0
        assert region.contains(delta) == (noise.norm(delta) <= 0.4)
        for size, ball in ((1, region.l1_ball), (2, region.l2_ball), (math.inf, region.linf_ball)):
            assert region.contains(delta * ball * (1 - 1e-9) / float(delta.norm(p=size)))


@every
def test_draws_are_of_the_input_and_the_generator_alone(kind, widths):
    noise = kind(widths)
    z, again = (noise.draw(Y, 1000, torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(z, again)
    assert bool((z[:, 2] == Y[2]).all())
    centered = z - Y
    assert bool((centered.mean(dim=0).abs() <= 6 * widths / math.sqrt(1000)).all())
    assert float(centered[:, 1].std() / centered[:, 0].std()) == pytest.approx(4, rel=0.2)
    assert noise.draw(Y.half(), 3, torch.Generator()).dtype == torch.float16


def f(z: torch.Tensor) -> torch.Tensor:
    """Three outputs, one of them with atoms."""
    return torch.stack([z[:, 0], torch.floor(z[:, 1]), torch.sin(z).sum(dim=1)], dim=1)


def fires(z: torch.Tensor) -> torch.Tensor:
    return z[:, :, 0].amax(dim=1) > 2.0


def score(z: torch.Tensor) -> torch.Tensor:
    return z[:, :, 0].mean(dim=1)


@every
def test_every_statement_takes_it(kind, widths):
    noise, few = kind(widths), {"n": 600, "seed": 3}
    box = percentile_bounds(f, Y, noise, rho=0.05, p=0.4, **few)
    assert (box.status, box.theorem) == ("certified", noise.theorem)
    bound = mse_bound(f, Y, noise, rho=0.05, **few)
    assert bound.status == "certified"
    radius = certified_radius(f, Y, noise, tolerance=4 * bound.value, **few)
    assert radius.rho > 0.05
    assert radius.ellipsoid.contains(torch.zeros(3))
    assert bound_curve(f, Y, noise, rhos=[0.02, 0.05], **few).values[1] < math.inf
    mean = mse_bound(f, Y, noise, rho=0.05, smoother="mean", support=(-10.0, 10.0), **few)
    assert math.isfinite(mean.value) or "likelihood ratio" in mean.reason
    assert deployed_bound(f, Y, noise, rho=0.02, replicas=5, q=0.7, **few).status == "certified"
    assert event_bound(fires, Y, noise, rho=0.02, replicas=3, **few).status == "certified"
    assert statistic_bound(score, Y, noise, rho=0.02, replicas=3, q=0.6, **few).status == "certified"
    assert decide_event(fires, Y, noise, target=0.9, rho=0.02, replicas=3).decided == "yes"
    assert decide_statistic(score, Y, noise, threshold=3.0, rho=0.02, replicas=3, q=0.5).decided == "yes"
    assert decide_mse(f, Y, noise, tolerance=9 * bound.value, rho=0.05).decided == "yes"
    assert plan(rho=0.05, noise=noise).n > 1
    assert plan(n=500, noise=noise).rho > 0.05
    for smoother in (MedianSmoother, MeanSmoother):
        assert smoother(f, noise)(Y).shape == (3,)


@every
def test_draws_of_one_noise_are_not_taken_for_those_of_another(kind, widths, tmp_path):
    """A checkpoint names the noise by all digits of it: a run around another one has another, and its own draws."""
    options = {"rho": 0.05, "n": 200, "checkpoint": tmp_path / "draws"}
    first = percentile_bounds(f, Y, kind(widths), **options)
    assert torch.equal(percentile_bounds(f, Y, kind(widths), **options).upper, first.upper)
    kept = {file: file.read_bytes() for file in options["checkpoint"].iterdir()}
    others = [kind(widths * (1 + 1e-12)), *(other(widths) for other, _ in NOISES if other is not kind)]
    for number, other in enumerate(others, start=2):
        fresh = percentile_bounds(f, Y, other, **{**options, "checkpoint": None})
        assert not torch.equal(fresh.upper, first.upper)
        assert torch.equal(percentile_bounds(f, Y, other, **options).upper, fresh.upper)
        assert len(list(options["checkpoint"].glob("bounding-*.safetensors"))) == number
    assert {file: file.read_bytes() for file in kept} == kept


class Incomplete:
    """A noise that lacks something."""

    theorem, size = "T1", "|δ|"

    def draw(self, y, count, generator):
        return y.expand(count, *y.shape)


def test_what_lacks_a_method_is_named():
    with pytest.raises(TypeError, match="noise is a Incomplete: must be a number or a Noise, which has 'norm', too"):
        percentile_bounds(f, Y, Incomplete(), rho=0.1)
    assert as_noise(0.5).norm(torch.tensor([1.5, 2.0])) == 5.0


def test_a_noise_of_ones_own_needs_no_registration():
    """Two-point noise ±1: a shift by δ ≠ 0 may leave nothing in common, so r = 1 for ρ > 0. All that can be said is said."""

    class Coin(UniformNoise):
        theorem = "T13"

        def draw(self, y, count, generator):
            return y + self.half_width * (2 * torch.randint(2, (count, *y.shape), generator=generator) - 1)

        def tails(self, p, rho, replicas=1):
            return super().tails(p, math.inf if rho > 0 else 0.0)

    b = percentile_bounds(f, Y, Coin(1.0), rho=0.1, n=100)
    assert b.status == "abstained"
    held = percentile_bounds(torch.sin, Y, Coin(1.0), rho=0.1, n=100, support=(-1.0, 1.0))
    assert (held.lower.min(), held.upper.max()) == (-1.0, 1.0)
    assert b.evidence is None
    assert held.evidence is not None


def test_the_guide_names_files_that_are_there():
    """CONTRIBUTING.md: what "How to add a theorem" points to exists, and its table has all that a noise must have."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    guide = text[text.index("## How to add a theorem") : text.index("## How to add a concept")]
    paths = set(re.findall(r"(?:certify|tests|docs)/[\w./-]*\w", guide)) - {"docs/theory/tNN-name.md"}
    assert len(paths) > 15
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []
    table = re.findall(r"^\| `(\w+)` \|", guide[guide.index("### A noise") :], re.M)
    assert set(table) == {name for name in vars(Noise) if not name.startswith("_")}
