"""How often `Certificate.check` refutes a true certificate, and that it refutes a false one. The frame: `trials`."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from certify import Certificate, GaussianNoise, event_bound, mse_bound, percentile_bounds
from tests.statistical.trials import Trials

pytestmark = pytest.mark.statistical

LEVEL = 0.05
Y, NOISE = torch.zeros(2, dtype=torch.float64), GaussianNoise(1.0)


def identity(z: torch.Tensor) -> torch.Tensor:
    return z


def above(z: torch.Tensor) -> torch.Tensor:
    return z[:, :, 0].mean(dim=1) > 0.5


def refuted(certificate: Certificate, f, runs: int) -> int:
    return sum(certificate.check(f, Y, seed=seed, n=400, level=LEVEL).refuted for seed in range(1, runs + 1))


def test_a_true_certificate_is_seldom_refuted(trials: Trials):
    """A box and a distance of the identity, and an event, each issued at α = 1e-9 from 20 000 draws: true."""
    runs, options = trials.runs(150), {"rho": 0.5, "n": 20_000, "alpha": 1e-9}
    box = percentile_bounds(identity, Y, NOISE, p=0.5, **options)
    distance = mse_bound(identity, Y, NOISE, method="coordinatewise", **options)
    trials.covers("check", refuted(Certificate.of(box, distance), identity, runs), runs, LEVEL, "a box and a distance")
    event = event_bound(above, Y, NOISE, replicas=3, **options)
    trials.covers("check", refuted(Certificate.of(event), above, runs), runs, LEVEL, "an event")


def test_control_a_false_certificate_is_refuted(trials: Trials):
    """Mistake: a box of a quarter of its width."""
    box = percentile_bounds(identity, Y, NOISE, p=0.5, rho=0.5, n=20_000, alpha=1e-9)
    narrow = replace(box, evidence=replace(box.evidence, lower=box.lower / 4, upper=box.upper / 4))
    trials.caught("check", "a box of a quarter of its width", refuted(Certificate.of(narrow), identity, 60), 60, LEVEL)
