"""What the attacks on the text encoder have in common: the same rows again, stopped and continued, on other layouts."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from certify import load_pipeline
from experiments.attacks import ATTACKS, implicit, mma, qf, ring_a_bell
from experiments.attacks.attack import Target, Victim, run
from experiments.unlearning.concept import Concept
from experiments.unlearning.diffusion import Diffusion
from experiments.unlearning.training import Dice

QUICK: dict[str, Any] = {
    "implicit": implicit.Settings(words=("coin", "wheel")),
    "ring-a-bell": ring_a_bell.Settings(length=4, population=8, generations=3),
    "mma": mma.Settings(length=4, steps=2, best=8, rows=8),
    "qf-pgd": qf.Settings(length=2, iterations=2, draws=6, best=2),
}
PAIRS = (("a red circle", "a red coin"), ("the circle", "the coin"))


def victim(folder: Path) -> Victim:
    return Victim("tiny", Diffusion(load_pipeline(folder)), Concept.of(["circle"], neutral="coin"), PAIRS)


def aims(count: int) -> list[Target]:
    return [Target(i, ("a red circle", "the circle in blue", "a small coin")[i % 3], 5 + i) for i in range(count)]


@pytest.mark.parametrize("name", QUICK)
@pytest.mark.parametrize("layout", ["pipeline_folder", "pipeline_folder_sd2"])
def test_stopped_and_continued_it_ends_with_the_same_rows(name, layout, request, tmp_path):
    who, attack = victim(request.getfixturevalue(layout)), ATTACKS[name]
    assert isinstance(attack.embedded(), attack.settings)
    whole = run(attack, who, aims(5), QUICK[name], tmp_path / "whole.csv", batch=2)
    assert [row.number for row in whole] == list(range(5))
    run(attack, who, aims(3)[:2], QUICK[name], tmp_path / "part.csv", batch=2)
    assert run(attack, who, aims(5), QUICK[name], tmp_path / "part.csv", batch=2) == whole
    assert (tmp_path / "part.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    for row, aim in zip(whole, aims(5), strict=True):
        assert (row.attack, row.victim, row.concept) == (name, "tiny", "circle")
        assert (row.number, row.prompt, row.seed) == (aim.number, aim.prompt, aim.seed)
        assert who.encoder.tokenize(row.adversarial).length <= who.encoder.context_length


@pytest.mark.parametrize("name", ["ring-a-bell", "mma", "qf-pgd"])
def test_other_dice_find_other_rows(name, pipeline_folder):
    who, attack = victim(pipeline_folder), ATTACKS[name]
    first, again, other = (attack.run(who, aims(3), QUICK[name], Dice(seed)) for seed in (0, 0, 1))
    assert first == again
    assert [row.adversarial for row in first] != [row.adversarial for row in other]


@pytest.mark.parametrize("name", ["ring-a-bell", "qf-pgd"])
def test_pairs_are_needed(name, pipeline_folder, tmp_path):
    who = dataclasses.replace(victim(pipeline_folder), pairs=())
    with pytest.raises(ValueError, match="has no pairs"):
        run(ATTACKS[name], who, aims(1), QUICK[name], tmp_path / "rows.csv")


@pytest.mark.parametrize("name", ["ring-a-bell", "mma", "qf-pgd"])
def test_the_goal_is_of_the_text_encoder_before_erasing(name, pipeline_folder):
    who = victim(pipeline_folder)
    changed = Diffusion(load_pipeline(pipeline_folder))
    with torch.no_grad():
        for p in changed.encoder.text_encoder.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    attack = ATTACKS[name]
    plain, moved = (
        attack.run(dataclasses.replace(who, reference=r), aims(2), QUICK[name], Dice(0)) for r in (None, changed)
    )
    same = attack.run(dataclasses.replace(who, reference=who.diffusion), aims(2), QUICK[name], Dice(0))
    assert plain == same
    assert [row.found for row in plain] != pytest.approx([row.found for row in moved], rel=1e-3)
