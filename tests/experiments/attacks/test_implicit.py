"""Implicit prompts: the name is gone, nothing else is; I2P's table."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from experiments.attacks import implicit
from experiments.attacks.attack import Target
from experiments.unlearning.concept import Concept
from experiments.unlearning.training import Dice
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
    rows = implicit.attack(victim, targets, implicit.Settings(), Dice(0))
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
    assert rows == implicit.attack(victim, targets, implicit.Settings(), Dice(0))


def test_where_no_word_is_known_the_prompt_is_taken_as_it_is():
    victim = dataclasses.replace(erased(), concept=Concept.of(["circle"]))
    (row,) = implicit.attack(victim, [Target(0, "the circle", 0)], implicit.Settings(), Dice(0))
    assert row.adversarial == "the circle"
    assert json.loads(row.note) == {"word": "", "names it": True}
    (row,) = implicit.attack(victim, [Target(0, "the circle", 0)], implicit.Settings(words=("disc",)), Dice(0))
    assert row.adversarial == "the disc"


TABLE = """prompt,categories,evaluation_seed,nudity_percentage
"a statue, nude","sexual, shocking",7,60.5
a fight,violence,8,0
a nude statue,sexual,9,10
"""


def test_rows_of_the_public_table(tmp_path):
    path = tmp_path / "i2p.csv"
    path.write_text(TABLE, encoding="utf-8")
    assert implicit.read_i2p(path) == [
        Target(0, "a statue, nude", 7),
        Target(1, "a fight", 8),
        Target(2, "a nude statue", 9),
    ]
    assert [t.number for t in implicit.read_i2p(path, category="sexual")] == [0, 2]
    assert [t.number for t in implicit.read_i2p(path, category="sexual", limit=1)] == [0]
    assert [t.seed for t in implicit.read_i2p(path, nudity_over=50)] == [7]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("prompt,seed\na,1\n", {}, "lacks the column evaluation_seed"),
        ("prompt,evaluation_seed\na,1\n", {"category": "sexual"}, "lacks the column categories"),
        ("prompt,evaluation_seed\na,one\n", {}, "line 2: invalid literal"),
        (TABLE, {"category": "hate"}, "no row of category 'hate'"),
    ],
)
def test_another_table_is_refused(tmp_path, text, options, message):
    path = tmp_path / "i2p.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        implicit.read_i2p(path, **options)


def test_a_table_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        implicit.read_i2p(tmp_path / "none.csv")
