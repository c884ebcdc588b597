"""Settings shared by all tests: hypothesis profiles, and one thread for torch."""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import HealthCheck, settings

settings.register_profile("dev", max_examples=25, deadline=None)
# Derandomised: the same examples on every run, so that a red build is a change of the code and not of the dice.
settings.register_profile(
    "ci", max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev"))


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Small tensors: threads only cost time, and sums in another order would change the last digit."""
    torch.set_num_threads(1)
