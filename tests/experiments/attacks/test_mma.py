"""MMA: the gradient against differences, candidates one id apart, no banned word, more than random search."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from experiments.attacks import mma, tokens
from experiments.attacks.mma import Settings
from experiments.unlearning.training import Rng
from tests.experiments.attacks.victims import captions, erased

QUICK = Settings(length=6, steps=8, best=24, rows=48)


def _goal() -> torch.Tensor:
    encoder = erased().encoder
    tokenized = [encoder.tokenize(t.prompt) for t in captions(2)]
    return torch.stack([encoder.plain([t])[0, t.end] for t in tokenized])


def test_cosines_are_of_the_end_of_text():
    encoder, goal = erased().encoder, _goal()
    texts = ["a red coin", "blue thing on", "the teal tile", "love is red"]
    content = torch.tensor([encoder.tokenize(text).content for text in texts]).reshape(2, 2, 3)
    found = mma.cosines(encoder, content, goal, batch=3).flatten()
    for i, text in enumerate(texts):
        a, b = encoder.plain(text)[0, encoder.tokenize(text).end].double(), goal[i // 2].double()
        assert float(found[i]) == pytest.approx(float(a @ b / a.norm() / b.norm()), abs=1e-5)


def test_gains_are_the_slope_of_the_cosine_towards_each_id():
    encoder, goal = erased().encoder, _goal()
    alphabet = tokens.typable(encoder)
    content = torch.tensor([encoder.tokenize("red thing on blue").content, encoder.tokenize("a b c d").content])
    gain = mma.gains(encoder, content, goal, alphabet)
    assert gain.shape == (2, 4, len(alphabet))
    ids = tokens.framed(encoder, content)
    z = torch.stack([encoder.embed(encoder.assemble(row.tolist())) for row in content])
    table = torch.stack([encoder.embed(encoder.assemble([int(i)]))[1] for i in alphabet])
    h = 0.02

    def value(moved: torch.Tensor) -> torch.Tensor:
        return torch.cosine_similarity(tokens.encodings(encoder, ids, moved)[:, 5].double(), goal.double(), dim=1)

    for place, one, other in ((0, 3, 120), (2, 60, 7), (3, 100, 30)):
        step = torch.zeros_like(z)
        step[:, place + 1] = h * (table[one] - table[other])
        slope = (value(z + step) - value(z - step)) / (2 * h)
        difference = (gain[:, place, one] - gain[:, place, other]).double()
        torch.testing.assert_close(difference, slope, rtol=0.05, atol=2e-4)
    assert float(gain.std()) > 1e-3


def test_candidates_change_one_place_by_one_of_its_best():
    content = torch.zeros(2, 4, dtype=torch.long)
    alphabet = torch.arange(10, 20)
    gain = torch.randn(2, 4, 10, generator=torch.Generator().manual_seed(0))
    made = mma.candidates(content, gain, alphabet, Settings(best=3, rows=40), torch.Generator().manual_seed(1))
    assert made.shape == (2, 40, 4)
    assert ((made != 0).sum(dim=2) == 1).all()
    assert (made != 0).sum(dim=1).tolist() == [[10] * 4] * 2
    for prompt in range(2):
        for place in range(4):
            best = gain[prompt, place].argsort(descending=True)[:3]
            drawn = made[prompt, :, place]
            assert set(drawn[drawn != 0].tolist()) == set(alphabet[best].tolist())


def test_it_beats_random_search_of_the_same_budget_and_types_what_it_found():
    victim, aims = erased(), captions(3)
    encoder = victim.encoder
    rows = mma.attack(victim, aims, QUICK, Rng(0))
    tokenized = [encoder.tokenize(t.prompt) for t in aims]
    goal = torch.stack([encoder.plain([t])[0, t.end] for t in tokenized])
    budget = mma.evaluations(QUICK)
    assert budget == 1 + 8 * 50
    alphabet, source = tokens.typable(encoder, ["circle"]), torch.Generator().manual_seed(1)
    tried = alphabet[torch.randint(len(alphabet), (3, budget, QUICK.length), generator=source)]
    chance = mma.cosines(encoder, tried, goal).amax(dim=1)
    for i, row in enumerate(rows):
        typed = encoder.tokenize(row.adversarial)
        assert len(typed.content) == QUICK.length
        found = float(torch.cosine_similarity(encoder.plain([typed])[0, typed.end], goal[i], dim=0))
        assert row.found == pytest.approx(found, abs=1e-5)
        assert 1 - found < 0.9 * (1 - float(chance[i]))
        assert "circle" not in row.adversarial


def test_further_words_are_banned():
    victim, aims = erased(), captions(2)
    free = mma.attack(victim, aims, QUICK, Rng(0))
    used = {word for row in free for word in row.adversarial.split() if len(word) > 2}
    assert used
    bound = mma.attack(victim, aims, dataclasses.replace(QUICK, banned=tuple(used)), Rng(0))
    assert not any(word in row.adversarial for row in bound for word in used)
    with pytest.raises(ValueError, match="no letter to start from"):
        mma.attack(victim, aims, Settings(banned=tuple("abcdefghijklmnopqrstuvwxyz")), Rng(0))
