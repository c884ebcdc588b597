"""What a user types first works as written, and `import certify` stays light."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

import certify

Y = torch.zeros(2, 3)
F = torch.sin


def test_the_first_lines_of_the_architecture_work_as_written(tmp_path):
    f, y = F, Y
    noise = certify.GaussianNoise(0.25)
    assert noise.norm(torch.full((2, 3), 0.25)) == pytest.approx(6**0.5)

    b = certify.percentile_bounds(f, y, noise, rho=1.0, p=0.5, n=10_000, alpha=1e-3, seed=0)
    assert b.lower.shape == b.upper.shape == b.center.shape == (2, 3)

    c = certify.mse_bound(f, y, noise, rho=1.0, n=10_000, alpha=1e-3, method="best", seed=0)
    assert (c.method, c.theorem, c.rho, c.alpha, c.n, c.status, c.reason) == (
        "coordinatewise", "T2", 1.0, 1e-3, 10_000, "certified", "",
    )  # fmt: skip
    assert c.value > 0
    assert c.center.shape == (2, 3)

    r = certify.certified_radius(f, y, noise, tolerance=2.0, n=10_000, alpha=1e-3, seed=0)
    assert r.rho > 0
    assert r.ellipsoid.l2_ball == pytest.approx(0.25 * r.rho)

    k = certify.bound_curve(f, y, noise, rhos=[0.25, 0.5, 1.0], n=10_000, alpha=1e-3, simultaneous=True, seed=0)
    assert tuple(k.rhos) == (0.25, 0.5, 1.0)
    assert k.values[0] < k.values[1] < k.values[2]

    assert certify.plan(rho=2.0, outputs=59_136, alpha=1e-3).n == 808
    assert certify.plan(n=808, outputs=59_136, alpha=1e-3).rho == pytest.approx(2.0, abs=1e-3)
    assert certify.plan(rho=0.3, target=0.1, replicas=13, alpha=1e-3).n > 0

    cert = certify.Certificate.of(c, r, model=None)
    cert.save(tmp_path / "a")
    assert not certify.Certificate.load(tmp_path / "a").check(f, y, seed=1).refuted

    smoother = certify.MedianSmoother(f, noise, n=13)
    assert smoother(y, seed=0).shape == (2, 3)
    assert certify.MeanSmoother(f, noise, n=13)(y, seed=0).shape == (2, 3)
    assert certify.layer_norm_support(torch.nn.LayerNorm(3)).upper.shape == (3,)
    for method, theorem in (("coordinatewise", "T2"), ("dimension-free", "T4"), ("spectral", "T12")):
        assert certify.mse_bound(f, y, noise, rho=1.0, method=method).theorem == theorem
    assert certify.mse_bound(f, y, noise, rho=1.0, smoother="mean", method="spectral").theorem == "T11"


def test_everything_promised_is_there():
    for name in certify.__all__:
        assert getattr(certify, name) is not None
    promised = """percentile_bounds mse_bound certified_radius bound_curve plan Certificate GaussianNoise MedianSmoother
        MeanSmoother load_pipeline AdaptiveMedianSmoother layer_norm_support deployed_bound statistic_bound event_bound
        deployed_distance"""
    for name in promised.split():
        assert name in certify.__all__
    assert callable(certify.plots.plot_curve)
    assert certify.__version__
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        certify.nonsense  # noqa: B018


@pytest.mark.parametrize(
    "name",
    [
        "percentile_bounds",
        "mse_bound",
        "certified_radius",
        "bound_curve",
        "deployed_bound",
        "statistic_bound",
        "event_bound",
        "deployed_distance",
        "plan",
        "GaussianNoise",
        "MedianSmoother",
    ],
)
def test_public_functions_say_what_they_do(name):
    assert "Args" in getattr(certify, name).__doc__


HEAVY = [
    "transformers",
    "diffusers",
    "matplotlib",
    "PIL",
    "typer",
    "rich",
    "certify.models.load",
    "certify.adaptive",
    "certify.summaries",
]


@pytest.mark.parametrize(
    "code",
    [
        "import certify",
        "import certify, torch; certify.Certificate.of(certify.mse_bound(torch.sin, torch.zeros(2), 0.5, rho=1.0, n=200))",
    ],
)
def test_the_mathematics_needs_no_model_library(code):
    """In a fresh interpreter with warnings as errors."""
    script = f"{code}\nimport sys, json; print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stdout.splitlines()[-1])
    if "Certificate.of" in code:  # identifying a model brings the adapters' package, never the libraries
        loaded = [name for name in loaded if not name.startswith("certify.")]
    assert loaded == []
