"""Coverage of T15, T16 and T17, and the mistakes that could be made. Frame, H0 and false-alarm rate: `trials`.

T15 draws nothing: what is counted is how often the best of tests, and tests that see less, find a perturbation; nominal is the
power that T15 allows. T16 and T17 are counted as other bounds are: runs whose bound is below a truth that is known.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm

from certify import AdaptiveMedianSmoother, GaussianNoise, allocation, bound_curve, indistinguishability, world
from certify.adaptive import covered_prompts, level_radius
from certify.bounds.allocation import grid
from certify.bounds.copies import event_interval
from certify.models import load_text_encoder
from tests.statistical.trials import Trials

pytestmark = pytest.mark.statistical

ALPHA, RHO, K, LEVEL = 0.1, 0.25, 13, 0.05


# T15


def found(runs: int, statistic, *, rho: float = RHO, outcomes: int = 1, seed: int = 0) -> int:
    """Of so many perturbed inputs, how many a test of level .05 finds that rejects where a statistic of the outcomes is large.

    The perturbation is ρ along the first of two coordinates. The level is exact: the threshold is so far out that of 199
    unperturbed inputs drawn beside each perturbed one fewer than ten lie beyond it (a Monte Carlo test).
    """
    rng, hits = np.random.default_rng(seed), 0
    for _ in range(runs):
        z = rng.normal(size=(200, outcomes, K, 2))
        z[0, :, :, 0] += rho
        seen = statistic(z, rng)
        hits += int((seen[1:] >= seen[0]).sum()) + 1 <= LEVEL * 200
    return hits


def average(z, rng):
    """The best of tests: Neyman and Pearson's."""
    return z[..., 0].mean(axis=(1, 2))


def image(z, rng):
    """What is made of the copies' median and of randomness of its own, seen through a bend."""
    middle = np.median(z[:, 0], axis=1)
    return np.tanh(2 * middle[:, 0] + middle[:, 1] ** 2) + 0.1 * rng.normal(size=len(z))


TESTS = {"the best of tests": (average, 1), "one image": (image, 1), "four images of fresh copies": (average, 4)}


@pytest.mark.parametrize("case", TESTS)
def test_no_test_finds_a_perturbation_more_often(case: str, trials: Trials):
    statistic, outcomes = TESTS[case]
    runs = trials.runs(200)
    allowed = indistinguishability(rho=RHO, replicas=K, outcomes=outcomes).power(LEVEL)
    trials.covers("T15 power", found(runs, statistic, outcomes=outcomes), runs, allowed, case)


def test_the_best_of_tests_attains_it(trials: Trials):
    """With a threshold that is known instead of drawn, its power is T15's to the last digit."""
    runs, allowed = trials.runs(400), indistinguishability(rho=RHO, replicas=K).power(LEVEL)
    means = np.random.default_rng(1).normal(RHO, size=(runs, K)).mean(axis=1)
    hits = int((math.sqrt(K) * means > norm.isf(LEVEL)).sum())
    trials.covers("T15 power", hits, runs, allowed, "the best of tests, known threshold", exact=allowed)


@pytest.mark.parametrize(
    ("mistake", "outcomes", "claimed"),
    [
        ("ρ for √K ρ", 1, {"replicas": 1}),
        ("one image's claim for four of fresh copies", 4, {"replicas": K}),
    ],
)
def test_control_copies_that_are_forgotten_are_caught(
    mistake: str, outcomes: int, claimed: dict[str, int], trials: Trials
):
    runs = trials.runs(200)
    allowed = indistinguishability(rho=RHO, **claimed).power(LEVEL)
    trials.caught("T15 power", mistake, found(runs, average, outcomes=outcomes), runs, allowed)


# T16


FAR = 1.0  # ρ


def linear(z):
    return z


def nothing(z):
    return 0 * z


def step(z):
    """Its median moves by 1 as soon as the input does by more than .4."""
    return (z > 0.4).to(z.dtype)


def square(f, rho: float) -> float:
    """How far the smoothed median moves within ρ, squared."""
    return {linear: rho**2, nothing: 0.0, step: float(rho > 0.4)}[f]


def worst(blocks) -> float:
    """The worst way to share ρ out, by a fine search."""
    return max(
        square(blocks[0], FAR * math.sqrt(share)) + square(blocks[1], FAR * math.sqrt(1 - share))
        for share in np.linspace(0, 1, 2001)
    )


BLOCKS = {
    "two linear blocks": (linear, linear),
    "a linear block beside a constant one": (linear, nothing),
    "two steps": (step, step),
    "a step and a linear block": (step, linear),
}


@cache
def drawn(f, block: int, runs: int) -> list[Any]:
    """Curves of a block at eight radii, α/2 each."""
    asked: dict[str, Any] = {"n": 500, "alpha": ALPHA / 2, "method": "coordinatewise", "pilot": 400}
    y, radii = torch.zeros(1, dtype=torch.float64), grid(FAR, 8)
    return [bound_curve(f, y, 1.0, rhos=radii, seed=2 * run + block, **asked) for run in range(runs)]


def curves(case: str, runs: int):
    """Pairs of independent curves."""
    return zip(*(drawn(f, e, runs) for e, f in enumerate(BLOCKS[case])), strict=True)


@pytest.mark.parametrize("case", BLOCKS)
def test_blocks_together_move_no_further(case: str, trials: Trials):
    runs, truth = trials.runs(25), worst(BLOCKS[case])
    low = sum(allocation(*both).value < truth for both in curves(case, runs))
    trials.covers("T16 allocation", low, runs, ALPHA, case)


def evenly(both) -> float:
    """Each block at ρ/√2."""
    at = next(j for j, r in enumerate(both[0].rhos) if r >= FAR / math.sqrt(2) * (1 - 1e-12))
    return sum(curve.values[at] for curve in both)


def larger(both) -> float:
    """One of them at ρ, as if the other could not move besides."""
    return max(curve.values[-1] for curve in both)


@pytest.mark.parametrize(
    ("mistake", "rule", "case"),
    [
        ("ρ/√2 for each block", evenly, "a linear block beside a constant one"),
        ("the larger of the two alone", larger, "two steps"),
    ],
)
def test_control_other_ways_to_share_are_caught(mistake: str, rule, case: str, trials: Trials):
    runs, truth = 25, worst(BLOCKS[case])
    trials.caught("T16 allocation", mistake, sum(rule(both) < truth for both in curves(case, runs)), runs, ALPHA)


# T17


PROMPT = "a photo of a red circle"


@cache
def smoother() -> AdaptiveMedianSmoother:
    return AdaptiveMedianSmoother.from_encoder(load_text_encoder(), ["circle"], policy="levels", **world.SMOOTHING)


@cache
def others() -> tuple[Any, tuple[Any, ...]]:
    """The prompt, and those with another entry of the vocabulary for its last word."""
    adaptive = smoother()
    encoder = adaptive.encoder
    spelled = encoder.tokenizer.convert_ids_to_tokens(list(range(len(encoder.tokenizer))))
    words = [w.removesuffix("</w>") for w in spelled if w.endswith("</w>") and w.removesuffix("</w>").isalpha()]
    texts = [PROMPT.replace("circle", word) for word in words]
    here, *there = adaptive.prepare_all([PROMPT, *texts])
    return here, tuple(x for x in there if x.tokenized.length == here.tokenized.length)


def towards(x) -> tuple[float, float]:
    """Mean and standard deviation of a = Σ⁻¹(e(x) − e(y)), normed, at a copy of x as deployed, with Σ(x), less those at y's."""
    here, _ = others()
    shift, sigma = (x.y - here.y).double(), here.noise.sigma.double().expand_as(here.y)
    a = torch.where(sigma > 0, shift / sigma.clamp_min(1e-30) ** 2, 0.0)
    scale = float((a * sigma).norm()) or 1.0
    own = x.noise.sigma.double().expand_as(x.y)
    return float((a * shift).sum()) / scale, float((a * own).norm()) / scale


def happens(x, at: float) -> tuple[float, float]:
    """P of the event that the mean of K copies lies farther towards x than `at`: at y and at x, both as deployed."""
    mean, sd = towards(x)
    return float(norm.sf(at * math.sqrt(K))), float(norm.sf((at - mean) / sd * math.sqrt(K)))


def deployed_failures(runs: int, x, rho: float, at: float, n: int = 1000) -> int:
    """Runs in which this event is likelier at x, as deployed, than the bound from n draws at y says."""
    before, after = happens(x, at)
    counts = np.random.default_rng(17).binomial(n, before, size=runs)
    asked: dict[str, Any] = {"rho": rho, "replicas": K, "alpha": ALPHA, "two_sided": False}
    low = {int(c): event_interval(int(c), n, GaussianNoise(1.0), **asked)[1] < after for c in np.unique(counts)}
    return sum(low[int(c)] for c in counts)


def distance(x) -> float:
    """‖e(x) − e(y)‖ in units of y's noise."""
    here, _ = others()
    return float(here.noise.norm(x.y.double() - here.y.double()))


def test_covered_prompts_keep_the_claim_as_deployed(trials: Trials):
    """Each prompt of the level, and the event that is most for it: a threshold of the copies' mean on the way there."""
    here, there = others()
    rho, runs = level_radius(here), trials.runs(400)
    covered = {c.prompt for c in covered_prompts(here, [x.text for x in there], rho) if c.covered}
    assert {text.split()[-1] for text in covered} == {"circle", "coin", "ball", "wheel"}
    for x in there:
        if x.text in covered and x.text != PROMPT:
            failed = deployed_failures(runs, x, rho, at=rho - 0.7 / math.sqrt(K))
            trials.covers("T17 as deployed", failed, runs, ALPHA, f"“{x.text.split()[-1]}” for “circle”")


def test_control_a_prompt_of_another_level_taken_for_covered_is_caught(trials: Trials):
    """Mistake: within ρ by the prompt's Σ, whatever its own is: what "frozen" covers, read as a claim of deployment."""
    here, there = others()
    x = min((x for x in there if x.token_noise.sigma != here.token_noise.sigma), key=distance)
    rho = distance(x)
    failed = deployed_failures(400, x, rho, at=rho - 0.7 / math.sqrt(K))
    trials.caught("T17 as deployed", "the nearest word of another level", failed, 400, ALPHA)
