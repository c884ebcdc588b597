"""T5's corollary against closed forms: half-space events at several inputs, whose worst perturbations are known."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtr, ndtri
from scipy.stats import chisquare
from torch import Tensor

from certify import GaussianNoise, event_rate_over
from certify.bounds.rates import RateOver
from certify.confidence import clopper_pearson
from certify.montecarlo.checkpoint import Checkpoint
from certify.plots import plot_event_rates
from certify.statements.rates import RateDraws

NOISE = GaussianNoise(1.0)
RHOS = (0.1, 0.3, 0.5)


class Above:
    """The event that the mean of aᵀz over the copies exceeds aᵀy + level·s, s = ‖Σ^{1/2} a‖: p = Φ(−√K level).

    The worst δ of size ρ has aᵀδ = ρ s, and makes it Φ(√K (ρ − level)).
    """

    def __init__(self, number: int, level: float, copies: int) -> None:
        source = torch.Generator().manual_seed(number)
        self.a, self.y, self.sigma = (torch.randn(4, generator=source, dtype=torch.float64) for _ in range(3))
        self.sigma = self.sigma.abs()
        self.level, self.copies, self.seen = level, copies, 0
        self.noise, self.scale = GaussianNoise(self.sigma), float((self.a * self.sigma).norm())

    def __call__(self, z: Tensor) -> Tensor:
        assert tuple(z.shape[1:]) == (self.copies, 4)
        self.seen += len(z)
        return (z @ self.a).mean(dim=1) > float(self.a @ self.y) + self.level * self.scale

    def worst(self, rho: float) -> float:
        return float(ndtr(math.sqrt(self.copies) * (rho - self.level)))

    def delta(self, rho: float) -> Tensor:
        return rho * self.sigma.square() * self.a / self.scale


def over(events: list[Above], **options: Any) -> RateOver:
    settings: dict[str, Any] = {"rhos": RHOS, "n": 2000, "replicas": [e.copies for e in events]} | options
    return event_rate_over(events, [e.y for e in events], [e.noise for e in events], **settings)


def mean(values: Any) -> float:
    return float(np.mean(list(values)))


@pytest.mark.parametrize(("k", "level"), [(1, 1.0), (5, 0.6), (13, 0.4)])
def test_half_spaces_of_equal_probability_attain_the_bound(k: int, level: float) -> None:
    events = [Above(i, level, k) for i in range(6)]
    bound = over(events, n=12_000)
    for rho, value in zip(RHOS, bound.values, strict=True):
        worst = mean(e.worst(rho) for e in events)
        assert worst <= value <= worst + 0.06
    assert events[0].worst(0.0) <= bound.limit <= events[0].worst(0.0) + 0.03
    assert sum(e.seen for e in events) == 12_000 + 2 * 64  # a block is evaluated again, early and late


def test_unequal_probabilities_stay_below_it() -> None:
    """Jensen: the bound is that of the mean, and more than the worst case's mean."""
    events = [Above(i, level, 5) for i, level in enumerate((-0.4, 0.1, 0.6, 1.2))]
    bound = over(events, n=12_000)
    p = mean(e.worst(0.0) for e in events)
    for rho in RHOS:
        worst = mean(e.worst(rho) for e in events)
        of_the_mean = float(ndtr(ndtri(p) + math.sqrt(5) * rho))
        assert worst < of_the_mean <= bound.at(rho) <= of_the_mean + 0.06


def test_the_worst_perturbations_are_what_they_are_taken_for() -> None:
    """Half-spaces moved by δ, counted: each of size ρ, and as likely as the closed form says (6 standard errors)."""
    events = [Above(i, level, 3) for i, level in enumerate((0.2, 0.7))]
    for e in events:
        delta = e.delta(0.3)
        assert e.noise.norm(delta) == pytest.approx(0.3)
        z = e.noise.draw((e.y + delta).expand(3, 4), 20_000, torch.Generator().manual_seed(9))
        assert abs(float(e(z).double().mean()) - e.worst(0.3)) < 6 * 0.5 / math.sqrt(20_000)


def test_both_sides() -> None:
    events = [Above(i, level, 5) for i, level in enumerate((-0.2, 0.3))]
    bound = over(events, n=12_000, two_sided=True)
    for rho in (0.0, *RHOS):
        assert bound.least(rho) <= mean(e.worst(-rho) for e in events)
        assert bound.at(rho) >= mean(e.worst(rho) for e in events)
    assert 0.4 < bound.least(0.0) < bound.rate < bound.at(0.0) < 0.6
    assert over(events, n=100).least(0.1) == 0.0


def test_different_numbers_of_copies_count_as_the_largest() -> None:
    events = [Above(i, 0.5, k) for i, k in enumerate((1, 2, 7))]
    bound = over(events, n=12_000)
    assert bound.replicas == 7
    p = clopper_pearson(bound.successes, 12_000, 1e-3, "upper")
    for rho in RHOS:
        assert bound.at(rho) == pytest.approx(float(ndtr(ndtri(p) + math.sqrt(7) * rho)), rel=1e-9)
        assert mean(e.worst(rho) for e in events) <= bound.at(rho)


def test_the_formula_and_the_radius() -> None:
    bound = RateOver(10, 0, 31, 1000, 13, 0.01, False, RHOS, 0)
    p = clopper_pearson(31, 1000, 0.01, "upper")
    assert bound.limit == pytest.approx(p, rel=1e-9)
    assert bound.values == tuple(bound.at(rho) for rho in RHOS)
    assert bound.at(0.3) == pytest.approx(float(ndtr(ndtri(p) + math.sqrt(13) * 0.3)), rel=1e-9)
    rho = bound.radius(0.2)
    assert bound.at(rho) <= 0.2 < bound.at(rho * (1 + 1e-9))
    assert bound.radius(0.01) == 0.0
    for rho in (-0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match=r"rho = .*: must be a finite number >= 0"):
            bound.at(rho)
    assert RateOver(1, 0, 5, 5, 2, 0.01, False, RHOS, 0).at(0.1) == 1.0


probabilities = st.floats(1e-12, 1 - 1e-12)


def shifted(p: float, rho: float, k: int) -> float:
    return 1 - NOISE.tails(p, rho, k).upper


@given(st.lists(st.tuples(probabilities, st.integers(1, 13)), min_size=1, max_size=8), st.floats(0, 3))
def test_the_mean_of_the_bounds_is_at_most_the_bound_of_the_mean(prompts: list[tuple[float, int]], rho: float) -> None:
    """Concavity, and its mirror image below; with the largest K for all."""
    most, p = max(k for _, k in prompts), mean(p for p, _ in prompts)
    assert mean(shifted(p, rho, k) for p, k in prompts) <= shifted(p, rho, most) + 1e-11
    below = mean(NOISE.tails(p, rho, k).lower for p, k in prompts)
    assert below >= NOISE.tails(p, rho, most).lower - 1e-11


@given(probabilities, st.floats(-3, -0.01), st.floats(0.05, 0.95))
def test_the_concavity_test_can_fail(p: float, rho: float, weight: float) -> None:
    """For a negative shift g is convex: the inequality turns round, strictly where the two ends are apart."""
    ends = (p, p / 100)
    middle = weight * ends[0] + (1 - weight) * ends[1]
    mixed = weight * shifted(ends[0], rho, 1) + (1 - weight) * shifted(ends[1], rho, 1)
    assert mixed >= shifted(middle, rho, 1) - 1e-11


# What is drawn


def test_prompts_are_chosen_uniformly() -> None:
    """χ² at 1e-5, and every draw is handed to the event of its prompt, as noisy copies of its own input."""
    m, n = 7, 7000
    seen = [0] * m

    def event(i: int) -> Any:
        def happens(z: Tensor) -> Tensor:
            assert bool((z.mean(dim=(1, 2)) - 100 * i).abs().max() < 20)
            seen[i] += len(z)
            return torch.zeros(len(z), dtype=torch.bool)

        return happens

    ys = [torch.full((3,), 100.0 * i) for i in range(m)]
    bound = event_rate_over([event(i) for i in range(m)], ys, 1.0, rhos=[0.1], replicas=2, n=n)
    assert sum(seen) == n + 2 * 64
    assert chisquare(seen).pvalue > 1e-5
    assert (bound.prompts, bound.successes, bound.n) == (m, 0, n)


def test_order_and_batch_size_do_not_matter() -> None:
    events = [Above(i, level, k) for i, (level, k) in enumerate(((-0.2, 2), (0.3, 5), (0.5, 1)))]
    base = over(events, n=777)
    for order in ([2, 0, 1], [1, 2, 0]):
        assert over([events[i] for i in order], n=777) == base
    for batch in (1, 64, 100, 10_000):
        assert over(events, n=777, batch_size=batch) == base
    assert len({over(events, n=777, seed=seed).successes for seed in range(8)}) > 1


def test_a_long_run_begins_with_the_draws_of_a_short_one() -> None:
    """So the count cannot fall, and grows by no more than the draws that were added."""
    events = [Above(i, 0.0, 2) for i in range(3)]
    counts = [over(events, n=n).successes for n in (1, 63, 64, 65, 200)]
    for (n, s), (m, t) in zip(
        list(zip((1, 63, 64, 65), counts, strict=False)),
        list(zip((63, 64, 65, 200), counts[1:], strict=True)),
        strict=True,
    ):
        assert 0 <= t - s <= m - n


def test_random_events_get_a_generator() -> None:
    def event(z: Tensor, generator: torch.Generator) -> Tensor:
        return torch.rand(len(z), generator=generator) < 0.2

    ys = [torch.zeros(2), torch.ones(2)]
    runs = [event_rate_over([event] * 2, ys, 1.0, rhos=[0.1], replicas=2, n=1000, batch_size=b) for b in (1, 64, 500)]
    assert len(set(runs)) == 1
    assert 150 <= runs[0].successes <= 250


def test_the_choice_does_not_follow_the_noise() -> None:
    """The prompt of a draw and the sign of its first noise are unrelated: correlation below 6 standard errors."""
    drawn = RateDraws([torch.zeros(1), torch.full((1,), 50.0)], [NOISE] * 2, [1, 1], [0.1], 0.01, False, n=6400, seed=3)
    prompt, sign = [], []
    for number in range(100):
        for i, _, z in drawn._block(number).groups:
            prompt += [2 * i - 1] * len(z)
            sign += (z[:, 0, 0] - 50 * i).sign().tolist()
    assert abs(float(np.corrcoef(prompt, sign)[0, 1])) < 6 / 80


def test_an_interrupted_run_goes_on(tmp_path: Any) -> None:
    events = [Above(i, 0.3, 3) for i in range(3)]
    base = over(events, n=900)

    def stop(done: int, n: int) -> None:
        if done >= 512:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        over(events, n=900, checkpoint=tmp_path, batch_size=128, progress=stop)
    for e in events:
        e.seen = 0
    assert over(list(reversed(events)), n=900, checkpoint=tmp_path) == base
    assert sum(e.seen for e in events) == 900 - 512 + 2 * 64
    for e in events:
        e.seen = 0
    assert over(events, n=900, checkpoint=tmp_path) == base
    assert sum(e.seen for e in events) == 0
    # Other runs have files of their own: they draw everything themselves, and leave this one as it is.
    others = [
        lambda **more: over(events, n=900, seed=1, **more),
        lambda **more: over(events[:2], n=900, **more),
        lambda **more: over(events, n=901, **more),
    ]
    for number, other in enumerate(others, start=2):
        for e in events:
            e.seen = 0
        result = other(checkpoint=tmp_path)
        assert sum(e.seen for e in events) == result.n + 2 * 64
        assert result == other()
        assert len(list(tmp_path.iterdir())) == number
    named = Checkpoint(tmp_path, function="other")
    for drawn in (900 + 2 * 64, 0):
        for e in events:
            e.seen = 0
        assert over(events, n=900, checkpoint=named) == base
        assert sum(e.seen for e in events) == drawn
    for e in events:
        e.seen = 0
    assert over(events, n=900, checkpoint=tmp_path) == base
    assert sum(e.seen for e in events) == 0


def test_prompts_without_noise_are_counted_apart() -> None:
    events = [lambda z: torch.ones(len(z)), lambda z: torch.zeros(len(z))]
    ys = [torch.zeros(2), torch.ones(2)]
    bound = event_rate_over(events, ys, [GaussianNoise(0.0), GaussianNoise(1.0)], rhos=[0.1], replicas=[1, 5], n=400)
    assert (bound.unperturbed, bound.replicas) == (1, 5)
    assert 0.4 < bound.rate < 0.6
    assert "1 of them without noise, for δ = 0 only" in str(bound)
    assert "mean over 2 prompts at most" in str(bound)


def test_it_can_be_drawn() -> None:
    bound = RateOver(10, 0, 31, 1000, 13, 0.01, False, RHOS, 0)
    figure = plot_event_rates(bound, largest=0.5)
    line = figure.axes[0].lines[0]
    assert list(line.get_ydata()) == [bound.at(float(rho)) for rho in line.get_xdata()]


# Bad calls


def never(z: Tensor) -> Tensor:
    return torch.zeros(len(z))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"events": [never, 3]}, r"events\[1\] = 3: must be callable"),
        ({"events": []}, "ys has 2 entries for 0 events: must be one an event"),
        ({"events": [], "ys": [], "noises": [], "replicas": []}, "ys is empty: must hold at least one input"),
        ({"noises": [1.0]}, "noises has 1 entries for 2 events: must be one an event"),
        ({"noises": ["a", 1.0]}, r"noises\[0\] is a str: must be a torch tensor, or"),
        ({"noises": GaussianNoise(torch.ones(4))}, r"sigma has shape \(4,\)"),
        ({"replicas": [5, 0]}, r"replicas\[1\] = 0: must be a whole number >= 1"),
        ({"replicas": [5, 5, 5]}, "replicas has 3 entries for 2 events"),
        ({"ys": [torch.zeros(2), torch.full((2,), math.nan)]}, r"ys\[1\] holds NaN or infinity"),
        ({"rhos": [0.2, 0.1]}, r"rhos = \[0\.2, 0\.1\]: must be a non-empty, strictly increasing list"),
        ({"rhos": []}, r"rhos = \[\]"),
        ({"n": 0}, "n = 0: must be a whole number >= 1"),
        ({"alpha": 0}, "alpha = 0: must be strictly between 0 and 1"),
        ({"seed": -1}, "seed = -1"),
        ({"batch_size": 0}, "batch_size = 0: must be a whole number >= 1"),
        (
            {"events": [lambda z: z] * 2},
            r"events\[[01]\] returned shape \(\d+, 5, 2\): must return a tensor of shape \(\d+,\)",
        ),
        ({"events": [lambda z: True] * 2}, r"events\[[01]\] returned a bool"),
        ({"events": [lambda z: z.mean(dim=(1, 2))] * 2}, "event returned .*: must be 0 or 1"),
    ],
)
def test_bad_calls(options: dict[str, Any], message: str) -> None:
    call = {"events": [never, never], "ys": [torch.zeros(2), torch.ones(2)], "noises": 1.0, "replicas": 5} | options
    with pytest.raises((ValueError, TypeError), match=message):
        event_rate_over(**({"rhos": [0.1], "n": 64} | call))


# Several values of each draw (T14)


class Chance(Above):
    """Fires with probability .05 or .15, as the copies lie: g is one of two rates, and the worst δ is known."""

    def __call__(self, z: Tensor, generator: torch.Generator) -> Tensor:
        rate = torch.where(super().__call__(z), 0.15, 0.05)
        return torch.rand(len(z), generator=generator) < rate

    def worst(self, rho: float) -> float:
        return 0.05 + 0.1 * super().worst(rho)


def test_what_chance_decides_over_several_inputs_is_not_charged() -> None:
    """Each input is moved along a direction of its own."""
    events = [Chance(i, 0.0, 5) for i in range(6)]
    bound = over(events, n=6000, repeats=None)
    assert (bound.theorem, bound.method, bound.repeats in (2, 3, 4, 6)) == ("T14", "repeats", True)
    assert bound.n == 6000 // bound.repeats
    assert bound.rate == pytest.approx(0.1, abs=0.02)
    t5 = over(events, n=6000)
    for rho, value in zip(RHOS, bound.values, strict=True):
        assert mean(e.worst(rho) for e in events) <= value < t5.at(rho)
    assert bound.at(0.3) - mean(e.worst(0.3) for e in events) < 0.08
    again = over(events[::-1], n=6000, repeats=None, batch_size=100)
    assert (again, again.values) == (bound, bound.values)
    two = over(events, n=2000, repeats=3, two_sided=True)
    assert two.least(0.1) < mean(e.worst(0.1) for e in events) < two.at(0.1)
    assert f"{two.n:,} × 3 values" in str(two)


def test_a_rate_of_several_values_is_stored_and_restored() -> None:
    bound = over([Chance(i, 0.0, 5) for i in range(3)], n=900, repeats=3)
    kept = json.loads(json.dumps(bound.stored()))
    again = RateOver.restored(kept, rhos=bound.rhos, alpha=bound.alpha)
    assert (again, again.values) == (bound, bound.values)
    with pytest.raises(ValueError, match=r"alpha = 0\.5: must be 0\.001, for which the limits were drawn"):
        RateOver.restored(kept, rhos=bound.rhos, alpha=0.5)
    count = over([Above(0, 0.5, 5)], n=300)
    assert RateOver.restored(count.stored(), rhos=count.rhos, alpha=count.alpha).values == count.values


def test_events_without_chance_have_one_value_a_draw() -> None:
    """Then T14 says no less than the copies' worst, and with the split chosen it is T5."""
    events = [Above(i, 0.6, 5) for i in range(3)]
    bound = over(events, n=2000, repeats=2)
    assert all(mean(e.worst(rho) for e in events) <= bound.at(rho) for rho in RHOS)
    assert over(events, n=2000, repeats=None) == over(events, n=2000)
