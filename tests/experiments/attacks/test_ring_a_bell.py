"""Ring-A-Bell: direction, fitness and children by hand; more than random search; what is found is what is typed."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from experiments.attacks import ring_a_bell, tokens
from experiments.attacks.attack import Victim
from experiments.attacks.ring_a_bell import Settings
from experiments.unlearning.training import Rng
from experiments.world.prompts import concept_pairs
from tests.experiments.attacks.victims import captions, erased

PAIRS = [(p["positive"], p["negative"]) for p in concept_pairs("circle")[:6]]
QUICK = Settings(length=8, strength=1.0, population=16, generations=40, pairs=4)


def victim() -> Victim:
    return dataclasses.replace(erased(), pairs=PAIRS)


def test_the_direction_is_the_mean_difference():
    encoder = erased().encoder
    expected = sum(encoder.plain(a)[0] - encoder.plain(b)[0] for a, b in PAIRS) / len(PAIRS)
    torch.testing.assert_close(ring_a_bell.direction(encoder, PAIRS), expected)


def test_fitness_is_the_squared_distance_of_whole_encodings():
    encoder = erased().encoder
    texts = ["a red circle", "the blue coin", "a teal tile", "on white love"]
    content = torch.tensor([encoder.tokenize(text).content for text in texts]).reshape(2, 2, 3)
    goal = torch.randn(2, encoder.context_length, encoder.width, generator=torch.Generator().manual_seed(0))
    expected = [float(((encoder.plain(text)[0] - goal[i // 2]) ** 2).sum()) for i, text in enumerate(texts)]
    found = ring_a_bell.fitness(encoder, content, goal, batch=3)
    assert found.flatten().tolist() == pytest.approx(expected, rel=1e-5)


def test_children_exchange_their_tails():
    parents = torch.arange(2 * 10 * 5).reshape(2, 10, 5)
    settings = Settings(crossover=0.4, mutation=1e-9)
    made = ring_a_bell.children(parents, torch.tensor([-1]), settings, torch.Generator().manual_seed(0))
    assert made.shape == (2, 8, 5)
    cuts = set()
    for prompt in range(2):
        ranks = (made[prompt] - 50 * prompt) // 5  # whose token stands there
        assert torch.equal(made[prompt] % 5, torch.arange(5).expand(8, 5))  # none has moved
        for a, b in zip(ranks[:4].tolist(), ranks[4:].tolist(), strict=True):
            # Two parents, the first's head before the second's tail, and the other way round.
            cut = next((j for j in range(5) if a[j] != a[0]), 5)
            assert len(set(a[:cut])) == 1
            assert len(set(a[cut:])) <= 1
            assert {frozenset(pair) for pair in zip(a, b, strict=True)} == {frozenset((a[-1], b[-1]))}
            cuts.add(cut)
        assert len({frozenset((a, b)) for a, b in zip(ranks[:4, 0].tolist(), ranks[4:, 0].tolist(), strict=True)}) > 1
    assert len(cuts) > 1


def test_a_redrawn_child_has_one_new_token():
    parents = torch.zeros(3, 40, 6, dtype=torch.long)
    alphabet = torch.tensor([7, 9])
    settings = Settings(crossover=0.5, mutation=0.25)
    made = ring_a_bell.children(parents, alphabet, settings, torch.Generator().manual_seed(1))
    new = (made != 0).sum(dim=2)
    assert set(new.flatten().tolist()) == {0, 1}
    assert 0.1 < float(new.float().mean()) < 0.4  # 120 draws at 1/4: within four standard errors
    assert set(made.flatten().tolist()) == {0, 7, 9}
    assert (made != 0).any(dim=(0, 1)).all()


def test_it_beats_random_search_of_the_same_budget_and_types_what_it_found():
    who, aims = victim(), captions(3)
    rows = ring_a_bell.attack(who, aims, QUICK, Rng(0))
    encoder = who.encoder
    v = ring_a_bell.direction(encoder, PAIRS[:4])
    goal = encoder.plain([t.prompt for t in aims]) + QUICK.strength * v
    budget = ring_a_bell.evaluations(QUICK)
    assert budget == 16 + 40 * 8
    alphabet, source = tokens.typable(encoder), torch.Generator().manual_seed(1)
    tried = alphabet[torch.randint(len(alphabet), (3, budget, QUICK.length), generator=source)]
    chance = ring_a_bell.fitness(encoder, tried, goal).amin(dim=1)
    for i, row in enumerate(rows):
        assert len(encoder.tokenize(row.adversarial).content) == QUICK.length
        found = float(((encoder.plain(row.adversarial)[0] - goal[i]) ** 2).sum())
        assert found < 0.9 * float(chance[i])
        assert row.found == pytest.approx(found / float((QUICK.strength * v).square().sum()), rel=1e-4)
        assert (row.number, row.prompt, row.seed) == (aims[i].number, aims[i].prompt, aims[i].seed)


def test_the_best_is_never_lost():
    who, aims = victim(), captions(2)
    found = [
        [row.found for row in ring_a_bell.attack(who, aims, dataclasses.replace(QUICK, generations=n), Rng(3))]
        for n in (1, 5, 20)
    ]
    for few, more in zip(found[0] + found[1], found[1] + found[2], strict=True):
        assert more <= few
    assert found[2] < found[0]


def test_a_short_context_shortens_the_row():
    settings = dataclasses.replace(QUICK, length=75, generations=1)
    (row,) = ring_a_bell.attack(victim(), captions(1), settings, Rng(0))
    assert len(victim().encoder.tokenize(row.adversarial).content) == 18
