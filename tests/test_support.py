"""A-priori supports: no output of a LayerNorm leaves its box or its rows' ellipsoid, and no median its cap."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from certify import GaussianNoise, Support, layer_norm_support, mse_bound, percentile_bounds
from certify.montecarlo import median


def layer(width: int, dtype: torch.dtype, seed: int = 0, gain: float = 1.0, offset: float = 1.0) -> nn.LayerNorm:
    rng = torch.Generator().manual_seed(seed)
    module = nn.LayerNorm(width, dtype=dtype)
    with torch.no_grad():
        module.weight.copy_(torch.randn(width, generator=rng, dtype=dtype) * gain)
        module.bias.copy_(torch.randn(width, generator=rng, dtype=dtype) * offset)
        if width > 2:
            module.weight[0] = 0.0
    return module.requires_grad_(False)


def extreme_rows(width: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    """Spikes (which attain sqrt(w − 1)), rows of two values (which attain sqrt(w) in norm), noise, constants, huge ones."""
    rng = torch.Generator().manual_seed(seed)
    spikes = torch.cat([torch.eye(width), -torch.eye(width), 1e4 * torch.eye(width), 1e15 * torch.eye(width)]).to(dtype)
    two = torch.randint(0, 2, (200, width), generator=rng).to(dtype) * 2 - 1
    noise = torch.randn(500, width, generator=rng, dtype=dtype) * torch.logspace(-3, 6, 500, dtype=dtype)[:, None]
    rows = torch.cat([spikes, two, noise, torch.full((1, width), 7.0, dtype=dtype), torch.zeros(1, width, dtype=dtype)])
    spread = rows.std(dim=1)
    return rows[(spread == 0) | (rows.mean(dim=1).abs() < 30 * spread)]  # beyond: the known gap, below


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("width", [2, 3, 16, 768])
@pytest.mark.parametrize(("gain", "offset"), [(1.0, 1.0), (1e-4, 1e3), (30.0, 0.0)])
def test_a_layer_norm_stays_in_its_support(width, dtype, gain, offset):
    """|h − β| ≤ |γ| sqrt(w − 1), rounding included; attained by a spike to within 1e-4 of the width."""
    module = layer(width, dtype, gain=gain, offset=offset)
    support = layer_norm_support(module)
    h = module(extreme_rows(width, dtype)).double()
    assert bool((h >= support.lower).all())
    assert bool((h <= support.upper).all())
    if gain >= 1:
        span = (support.upper - support.lower) / 2
        reached = (h - support.offset).abs().amax(dim=0)
        assert bool((reached >= span * 0.999 - 1e-3 * offset).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("width", [2, 16, 768])
@pytest.mark.parametrize(("gain", "offset"), [(1.0, 1.0), (1e-4, 1e3)])
def test_rows_and_their_medians_stay_in_the_ellipsoid(width, dtype, gain, offset):
    """Per row Σ (h − β)² ≤ max γ² w; any coordinate-wise median of rows ≤ 2 w, so within `median_cap` of any center."""
    module = layer(width, dtype, gain=gain, offset=offset)
    support = layer_norm_support(module)
    rows = extreme_rows(width, dtype)
    h = module(rows)
    biggest = float(support.gain.max())
    assert float((h.double() - support.offset).norm(dim=1).max()) <= biggest * math.sqrt(width) * (1 + 1e-12)
    rng = torch.Generator().manual_seed(0)
    for center in (module.bias, module.bias + gain * torch.randn(width, generator=rng, dtype=dtype), h[0]):
        for _ in range(20):
            chosen = h[torch.randint(0, len(h), (3,), generator=rng)]
            distance = float((median(chosen).double() - center.double()).square().sum())
            assert distance <= support.median_cap(center)


def test_the_median_cap_cannot_be_much_smaller():
    """Rows at ±sqrt(w/2) on two coordinates each: medians reach norm² above w, so the cap of a single row would fail."""
    width = 6
    module = nn.LayerNorm(width).requires_grad_(False).eval()
    rows = torch.eye(width)  # each is sqrt(w−1) at its spike, −1/sqrt(w−1) elsewhere
    inverted = module(-rows)  # each −sqrt(w−1) at its spike and +1/sqrt(w−1) elsewhere
    assert float(median(inverted).square().sum()) == pytest.approx(width / (width - 1), rel=1e-4)
    support = layer_norm_support(module)
    assert support.median_cap(torch.zeros(width)) == pytest.approx(2 * width, rel=1e-3)
    assert support.median_cap(torch.zeros(4, width)) == pytest.approx(8 * width, rel=1e-3)


def test_a_layer_norm_without_gain_and_offset():
    support = layer_norm_support(nn.LayerNorm(5, elementwise_affine=False))
    assert support.upper.tolist() == pytest.approx([2.0] * 5, rel=1e-4)
    assert bool((support.upper >= 2.0).all())


def test_the_known_gap_is_loud():
    """A row whose mean dwarfs its spread leaves the support in float32: a draw that does so ends the run."""
    module = nn.LayerNorm(4).requires_grad_(False).eval()
    y = torch.full((4,), 1e6)
    with pytest.raises(ValueError, match="the support must hold every value of f"):
        mse_bound(module, y, GaussianNoise(1.0), rho=1.0, n=1000, support=layer_norm_support(module))


def test_a_bound_is_cut_down_to_its_support_and_falls_back_on_it():
    """tanh lies in [−1, 1]: with far too few draws the box is [−1, 1], and the bound 4 = (1 + 1)² against the corner."""
    y = torch.tensor([0.0], dtype=torch.float64)
    b = percentile_bounds(torch.tanh, y, 5.0, rho=9.0, n=100, support=(-1.0, 1.0))
    assert (b.lower.item(), b.upper.item(), b.status, b.lower_rank) == (-1.0, 1.0, "certified", 0)
    c = mse_bound(torch.tanh, y, 5.0, rho=9.0, n=100, support=(-1.0, 1.0), center=torch.tensor([1.0]))
    assert c.status == "certified"
    assert c.value == pytest.approx(4.0)


def test_a_support_looser_than_the_draws_changes_nothing():
    y = torch.zeros(3, dtype=torch.float64)
    plain = mse_bound(torch.sin, y, 0.3, rho=1.0, n=2000)
    wide = mse_bound(torch.sin, y, 0.3, rho=1.0, n=2000, support=(-5.0, torch.full((3,), 7.0)))
    assert plain.value == wide.value


def test_the_median_cap_replaces_a_worse_sum():
    """A LayerNorm of width 64 with too few draws: the box alone would give Σ (w − 1) = 64 · 63, the cap 2 · 64."""
    module = nn.LayerNorm(64).requires_grad_(False).eval()
    y = torch.zeros(64)
    c = mse_bound(
        module, y, GaussianNoise(1.0), rho=8.0, n=100, center=torch.zeros(64), support=layer_norm_support(module)
    )
    assert c.value == pytest.approx(128.0, rel=1e-3)


def test_half_open_supports():
    inf = math.inf
    b = percentile_bounds(torch.abs, torch.zeros(1), 1.0, rho=20.0, n=100, support=(0.0, inf))
    assert (b.lower.item(), b.upper.item(), b.status) == (0.0, inf, "abstained")
    assert Support(torch.tensor(0.0), torch.tensor(inf)).median_cap(torch.zeros(3)) == inf


@pytest.mark.parametrize("width", [1, 2, 16, 768])
@pytest.mark.parametrize("radius", [1e-3, 1.0, 40.0])
def test_a_ball_holds_normalised_rows_and_their_medians(width, radius):
    """Rows of length `radius`, as float32 has them; the farthest point of the ball from c is radius + ‖c‖ away."""
    support = Support.ball(width, radius)
    rng = torch.Generator().manual_seed(width)
    rows = radius * nn.functional.normalize(torch.randn(300, width, generator=rng), dim=1)
    lower, upper = support.over((width,))
    assert bool(((rows.double() >= lower) & (rows.double() <= upper)).all())
    for center in (torch.zeros(width), rows[0], rows[0] / 3):
        reach = float(support.reach(center))
        expected = radius + float(center.double().norm())
        assert expected <= reach <= expected * 1.001
        for _ in range(20):
            chosen = rows[torch.randint(0, 300, (3,), generator=rng)]
            assert float((median(chosen).double() - center.double()).square().sum()) <= support.median_cap(center)


def test_a_ball_makes_the_bound_of_a_mean_smaller_than_its_box_does():
    """The a-priori distance of T11's tail is 1 + ‖c‖ in the ball, sqrt(width) in the box."""
    matrix = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))

    def f(z):
        return nn.functional.normalize(z @ matrix.T, dim=1)

    y, options = torch.ones(8), {"rho": 1.0, "n": 500, "smoother": "mean"}
    ball = mse_bound(f, y, GaussianNoise(0.5), support=Support.ball(64), **options)
    box = mse_bound(f, y, GaussianNoise(0.5), support=(-torch.ones(64), torch.ones(64)), **options)
    assert ball.value < 0.8 * box.value
