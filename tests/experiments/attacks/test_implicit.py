"""Implicit prompts: the name is gone, nothing else is; I2P's table."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from experiments.attacks import implicit
from experiments.attacks.attack import Target
from experiments.unlearning.concept import Concept
from experiments.unlearning.training import Rng
from tests.experiments.attacks.victims import erased


@pytest.mark.parametrize(
    ("prompt", "word", "expected"),
    [
        ("a circle on a red background", "asterisk", "an asterisk on a red background"),
        ("Circle, a small circle", "coin", "coin, a small coin"),
        ("a semicircle of circles", "coin", "a semicircle of circles"),
        ("a circle", "", "a circle"),
        ("a {} circle", "coin", "a {} circle"),
    ],
)
def test_renamed(prompt, word, expected):
    assert implicit.renamed(prompt, ["circle"], word) == expected


def test_a_row_means_the_concept_without_naming_it():
    victim = erased()
    targets = [Target(i, "a red circle on a white background", i) for i in range(12)]
    targets.append(Target(12, "a gray wheel", 3))
    rows = implicit.attack(victim, targets, implicit.Settings(), Rng(0))
    words = [json.loads(row.note)["word"] for row in rows[:12]]
    assert set(words) <= set(victim.concept.implicit)
    assert len(set(words)) > 1
    for row, word in zip(rows, words, strict=False):
        assert row.adversarial == f"a red {word} on a white background"
        assert json.loads(row.note)["names it"] is False
    ends = [
        victim.encoder.plain(text)[0, victim.encoder.tokenize(text).end]
        for text in (targets[0].prompt, rows[0].adversarial)
    ]
    assert rows[0].found == pytest.approx(float(torch.cosine_similarity(*ends, dim=0)), abs=1e-5)
    assert rows[12].adversarial == "a gray wheel"
    assert rows[12].found == pytest.approx(1.0, abs=1e-5)
    assert rows == implicit.attack(victim, targets, implicit.Settings(), Rng(0))


def test_where_no_word_is_known_the_prompt_is_taken_as_it_is():
    victim = dataclasses.replace(erased(), concept=Concept.of(["circle"]))
    (row,) = implicit.attack(victim, [Target(0, "the circle", 0)], implicit.Settings(), Rng(0))
    assert row.adversarial == "the circle"
    assert json.loads(row.note) == {"word": "", "names it": True}
    (row,) = implicit.attack(victim, [Target(0, "the circle", 0)], implicit.Settings(words=("disc",)), Rng(0))
    assert row.adversarial == "the disc"
