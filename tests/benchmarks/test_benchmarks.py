"""The benchmark measures what it says: the baseline finds the certificate's own number, ratios are those of the rounds."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
import torch

from benchmarks import floor, subjects
from benchmarks.measure import Timing, in_turns, peak_memory
from certify import GaussianNoise, mse_bound, percentile_bounds
from tests.subjects import outputs_of


@pytest.mark.parametrize(("n", "rho"), [(300, 0.5), (1000, 1.0), (1000, 2.0)])
def test_sorting_everything_gives_the_bound_of_the_certificate(n, rho):
    """From the same draws and the same reference: the ranks are the same, so the numbers are."""
    y, noise = torch.zeros(6, dtype=torch.float64), GaussianNoise(0.4)
    outputs = torch.cat([torch.tanh(3 * z) for z in floor.batches(y, noise, n)])
    middle = outputs.sort(dim=0).values[n // 2]
    value = mse_bound(lambda z: torch.tanh(3 * z), y, noise, rho=rho, n=n, center=middle, method="coordinatewise").value
    assert floor.sorted_bound(outputs, rho) == pytest.approx(value, rel=1e-12)


def test_sorting_abstains_where_the_certificate_does():
    outputs = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    assert floor.sorted_bound(outputs, 2.0) == float("inf")
    assert percentile_bounds(lambda z: z, torch.zeros(4), 1.0, rho=2.0, n=50).status == "abstained"


def test_the_floor_draws_what_the_certificate_draws():
    seen: list[torch.Tensor] = []
    subject = subjects.cheap(8)

    def f(z: torch.Tensor) -> torch.Tensor:
        seen.append(z.clone())
        return subject.f(z)

    mse_bound(f, subject.y, subject.noise, rho=1.0, n=300, center=torch.zeros(8), method="coordinatewise")
    drawn = torch.cat(list(floor.batches(subject.y, subject.noise, 300)))
    assert torch.equal(drawn, outputs_of(lambda z: z, subject.y, subject.noise, n=300))
    assert torch.equal(torch.cat(seen).unique(dim=0), drawn.unique(dim=0))  # a block is evaluated again


def test_a_ratio_is_the_median_of_the_rounds():
    ways = {"a": lambda: time.sleep(0.01), "b": lambda: 7}
    times = in_turns(ways, 3)
    assert len(times["a"].seconds) == len(times["b"].seconds) == 3
    assert times["b"].result == 7
    assert Timing((2.0, 9.0, 4.0), None).over(Timing((1.0, 1.0, 1.0), None)) == (4.0, 2.0, 9.0)


def test_peak_memory_sees_what_is_taken_and_given_back():
    size = 200_000_000

    def take() -> None:
        torch.ones(size // 4)

    assert peak_memory(take) > 0.9 * size / 1e6
    assert peak_memory(lambda: None) < 0.2 * size / 1e6


def test_an_unknown_part_is_refused():
    done = subprocess.run([sys.executable, "-m", "benchmarks", "speed"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "PART = 'speed': must be one of floor" in done.stderr
