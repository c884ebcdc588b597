"""Coverage of the certified classifier: at two classes of probability ½ every answer that is none is wrong."""

from __future__ import annotations

import torch
from scipy.stats import binom

from certify import classify_many
from certify.bounds.classification import class_radius, other_limit

ALPHA, TRIALS = 0.1, 1000
FALSE_ALARM = 1e-9
"""How often a count as large as what is refused comes about where at most a share α is wrong."""


def sides(z):
    return torch.cat([-z, z], dim=1)


def refuted(wrong: int, runs: int = TRIALS) -> bool:
    """Whether so many wrong answers refute "at most a share α is wrong"."""
    return float(binom.sf(wrong - 1, runs, ALPHA)) < FALSE_ALARM


def test_no_more_than_a_share_alpha_is_wrong_unless_the_class_is_chosen_on_the_bounding_draws():
    made = classify_many(sides, torch.zeros(TRIALS, 1), 1.0, n0=9, n=64, alpha=ALPHA, batch_size=4096, seed=11)
    wrong = sum(d.label is not None for d in made)
    assert wrong > 0.03 * TRIALS
    assert not refuted(wrong)
    chosen_late = [max(d.successes, d.n - d.successes) for d in made]
    radii = [
        class_radius(other_limit(64 - most, 64, ALPHA, early=False), d.run.noise)
        for most, d in zip(chosen_late, made, strict=True)
    ]
    assert refuted(sum(radius is not None for radius in radii))


def test_no_more_than_a_share_alpha_is_wrong_wherever_drawing_ended():
    runs = 300
    made = classify_many(
        sides, torch.zeros(runs, 1), 1.0, n0=9, n=320, alpha=ALPHA, stop_at=0.05, batch_size=4096, seed=12
    )
    assert not refuted(sum(d.decided == "yes" or d.label is not None for d in made), runs)
