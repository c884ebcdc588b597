"""Full-size shapes of the families, by `plan`: no model of that size is run here."""

from __future__ import annotations

import math

import pytest
from scipy.stats import norm

import certify

SHAPES = {
    "Stable Diffusion 1.x": (77 * 768, 808),
    "SDXL, the sequence of both encoders and the pooled row": (77 * (768 + 1280) + 1280, 851),
    "SD3.5, both CLIPs and T5 along tokens, and the pooled rows": ((77 + 256) * 4096 + 768 + 1280, 945),
    "FLUX.1-dev, T5-XXL and the pooled row": (512 * 4096 + 768, 963),
    "FLUX.2-klein, three layers side by side": (512 * 3 * 2560, 991),
}
"""Family → (outputs of its joint certificate, draws that a feasibility run needed at ρ = 2, α = .001)."""


@pytest.mark.parametrize("family", SHAPES)
def test_draws_hardly_grow_with_the_encoders(family):
    outputs, draws = SHAPES[family]
    found = certify.plan(rho=2.0, outputs=outputs)
    assert found.n == draws
    # n ≥ ln(α/2m) / ln p⁺ and ln(α/2m) / ln(1 − p⁻), p^± = Φ(±2)
    share = 1e-3 / (2 * outputs)
    assert found.n == math.ceil(math.log(share) / math.log(norm.cdf(2.0)))


@pytest.mark.parametrize("family", SHAPES)
def test_so_many_draws_reach_that_radius_and_one_less_does_not(family):
    outputs, draws = SHAPES[family]
    assert certify.plan(n=draws, outputs=outputs).rho >= 2.0 > certify.plan(n=draws - 1, outputs=outputs).rho
