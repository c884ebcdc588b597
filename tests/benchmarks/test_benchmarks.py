"""The benchmark measures what it says: the baseline finds the certificate's own number, ratios are those of the rounds."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from benchmarks import floor, levels, rates, side, subjects
from benchmarks.measure import Timing, in_turns, peak_memory
from certify import GaussianNoise, event_bound, mse_bound, percentile_bounds
from certify.bounds.classification import class_radius, other_limit
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
    assert "PART = 'speed': must be one of side, decisions, floor, memory, processes" in done.stderr


def test_the_published_classifier_is_ours_but_for_its_noise():
    """On the same counts: class and radius by their formula; both abstain where the classes are even."""
    f, x = side.digits()
    label, radius = side.published_classifier(f, x, 0.05, 100, 1000, 1e-3)
    successes = int(side.counted(f, x, 0.05, 1000, 1)[label])
    other = other_limit(1000 - successes, 1000, 1e-3, early=False)
    assert class_radius(other, GaussianNoise(0.05)) * 0.05 == pytest.approx(radius, rel=1e-9)
    even = side.published_classifier(lambda z: z.flatten(1)[:, :2], torch.zeros(2), 1.0, 100, 1000, 1e-3)
    assert even == (None, 0.0)


def test_center_smoothing_holds_the_quantile_of_the_distances():
    """For the identity in one dimension: three times at least the shifted quantile of |G|, and ∞ where n does not suffice."""
    y, noise = torch.zeros(1, dtype=torch.float64), GaussianNoise(1.0)
    found = side.center_smoothing(lambda z: z, y, noise, 0.5, 5000)
    assert 3 * 1.2 < found < 3 * 1.6  # Φ(Φ⁻¹(½ + .064) + ½) + .03 = .775: |G| is below 1.21 there
    assert side.center_smoothing(lambda z: z, y, noise, 3.0, 500) == float("inf")


def test_sequential_tests_decide_what_is_plain_and_not_what_is_even():
    never, always, even = np.zeros(3000, int), np.arange(1, 3001), np.arange(1, 3001) // 10
    for name, test in side.SEQUENTIAL.items():
        assert test(always, 0.1) <= (100 if name == "stages" else 20)
        assert 60 <= test(never, 0.1) <= 150
        assert test(even, 0.1) == 3000


def test_decisions_take_hardly_more_draws_than_the_sharpest_published_test():
    for p0, p, mine, least, _ in itertools.islice(side.decisions(quick=True), 6):
        assert mine <= 1.1 * least, (p0, p)


def test_a_run_that_was_stopped_gives_what_its_draws_give(tmp_path):
    """After the last draw that is the bound of the whole run."""

    def event(z, generator):
        return torch.rand(len(z), generator=generator) < torch.where(z.mean(dim=(1, 2)) > 0, 0.13, 0.09)

    keep = tmp_path / "K13-rho0.25-n3000"
    e = event_bound(event, torch.zeros(1), 1.0, rho=0.25, replicas=13, repeats=None, n=3000, checkpoint=keep)
    assert e.theorem == "T14"
    line = rates.drawn(13, 0.25, 3000, tmp_path).split(" | ")
    assert line[2:4] == [f"{e.n * e.repeats:,}", f"{e.n:,} × {e.repeats}"]
    assert line[6] == f"{e.value:.3f}"
    hits = rates.Hits(tmp_path / "hits.jsonl")
    for _ in range(2):  # the same block twice
        hits.add(torch.zeros(4), torch.tensor([True, False, False, False]))
    hits.add(torch.ones(4), torch.tensor([False, False]))
    assert rates.Hits(tmp_path / "hits.jsonl").rate == hits.rate == 1 / 6


def test_a_made_up_vocabulary_has_its_size_and_whole_words(tmp_path):
    named = levels.tokenizer(3000, tmp_path)
    assert len(named) == 3000
    for word in ("ab", "zz", "abc"):
        assert len(named(word, add_special_tokens=False)["input_ids"]) == 1
