"""QF-PGD: mask, cosine, softmax and slope by hand; prompts with little room; more than random search."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from experiments.attacks import qf, tokens
from experiments.attacks.attack import Target, Victim
from experiments.attacks.qf import Settings
from experiments.unlearning.concept import Concept
from experiments.unlearning.training import Rng
from experiments.world.prompts import concept_pairs
from tests.experiments.attacks.victims import captions, erased

PAIRS = [(p["positive"], p["negative"]) for p in concept_pairs("circle")[:6]]
QUICK = Settings(length=4, iterations=12, draws=12, best=3, pairs=5, base="neutral")
CIRCLE = Concept.of(["circle"], neutral="shape")


def victim() -> Victim:
    return dataclasses.replace(erased(), pairs=PAIRS)


def test_there_are_62_different_signs():
    assert len(qf.SIGNS) == len(set(qf.SIGNS)) == 62
    assert len(tokens.single(erased().encoder, qf.SIGNS)) == 61  # the middle dot is no token of the embedded vocabulary


@pytest.mark.parametrize(
    ("prompt", "base", "expected"),
    [
        ("an orange circle", "prompt", ("an orange circle", "an orange circle circle")),
        ("an orange circle", "neutral", ("an orange shape", "an orange circle")),
        ("a coin", "prompt", ("a coin", "a coin circle")),
        ("a coin", "neutral", ("a coin", "a coin circle")),
    ],
)
def test_explicit(prompt, base, expected):
    assert qf.explicit(prompt, CIRCLE, base) == expected


def test_explicit_where_nothing_stands_for_the_name():
    assert qf.explicit("a circle, red", Concept.of(["circle"]), "neutral") == ("a , red", "a circle, red")


def test_the_mask_holds_what_all_pairs_agree_on():
    having = torch.tensor([[[1.0, 2.0, 3.0, 1.0]], [[4.0, 0.0, 1.0, 0.0]], [[2.0, 1.0, 1.0, 5.0]]])
    lacking = torch.tensor([[[0.0, 3.0, 2.0, 1.0]], [[3.0, 1.0, 2.0, -1.0]], [[1.0, 2.0, 0.0, 0.0]]])
    assert qf.stable(having, lacking).tolist() == [[True, True, False, False]]
    with pytest.raises(ValueError, match="in all 2 of them"):
        qf.stable(torch.tensor([[[1.0]], [[-1.0]]]), torch.zeros(2, 1, 1))


def test_the_cosine_is_of_the_masked_entries():
    source = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 3, 4, 5, generator=source)
    mask = torch.rand(4, 5, generator=source) < 0.5
    found = qf.masked_cosine(a, b, mask)
    for x, y, value in zip(a, b, found, strict=True):
        x, y = x[mask], y[mask]
        assert float(value) == pytest.approx(float(x @ y / x.norm() / y.norm()), abs=1e-6)


def test_the_softmax_is_one_sign_forwards_and_soft_backwards():
    source = torch.Generator().manual_seed(0)
    u, noise, weight = torch.randn(3, 2, 6, generator=source)
    u.requires_grad_()
    picked = qf.gumbel_softmax(u, noise, 0.5)
    torch.testing.assert_close(picked.detach(), torch.eye(6)[(u + noise).argmax(dim=1)])
    (picked * weight).sum().backward()
    soft = ((u + noise) / 0.5).softmax(dim=1).detach()
    expected = soft * (weight - (soft * weight).sum(dim=1, keepdim=True)) / 0.5
    torch.testing.assert_close(u.grad, expected)


def _search(texts: list[str], settings: Settings) -> qf._Search:
    encoder = erased().encoder
    goal = encoder.plain([f"{text} circle" for text in texts])
    mask = torch.rand(goal.shape[1:], generator=torch.Generator().manual_seed(4)) < 0.6
    alphabet = tokens.single(encoder, qf.SIGNS)
    return qf._Search(encoder, [encoder.tokenize(text) for text in texts], goal, mask, alphabet, settings)


def test_scores_are_those_of_the_typed_texts():
    texts = ["a red thing", "on a blue background, a shape"]
    search = _search(texts, QUICK)
    signs = len(search.alphabet)
    chosen = torch.randint(signs, (2, 3, 4), generator=torch.Generator().manual_seed(0))
    found = search.scores(chosen)
    for i, text in enumerate(texts):
        for j in range(3):
            typed = text + "".join(
                f" {search.encoder.tokenizer.decode([int(search.alphabet[s])]).strip()}" for s in chosen[i, j]
            )
            value = qf.masked_cosine(search.encoder.plain(typed)[0], search.goal[i], search.mask)
            assert float(found[i, j]) == pytest.approx(float(value), abs=1e-5)


def test_the_slope_is_the_chain_rule_by_hand():
    search = _search(["a red thing"], QUICK)
    encoder, signs = search.encoder, len(search.alphabet)
    source = torch.Generator().manual_seed(0)
    logits, noise = torch.randn(1, 4, signs, generator=source), torch.randn(1, 2, 4, signs, generator=source)
    expected = torch.zeros(4, signs)
    for draw in noise[0]:
        soft = ((logits[0] + draw) / QUICK.temperature).softmax(dim=1)
        content = [*encoder.tokenize("a red thing").content, *search.alphabet[soft.argmax(dim=1)].tolist()]
        z = encoder.embed(encoder.assemble(content))[None].requires_grad_()
        encoded = tokens.encodings(encoder, encoder.assemble(content).ids[None], z, grad=True)
        (by_row,) = torch.autograd.grad(qf.masked_cosine(encoded, search.goal, search.mask).sum(), z)
        by_sign = by_row[0, 4:8] @ search.table.T  # after begin and three words
        expected += soft * (by_sign - (soft * by_sign).sum(dim=1, keepdim=True)) / QUICK.temperature / 2
    found = search.slope(logits, noise)[0]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)
    assert float(found.abs().max()) > 1e-4


def test_it_beats_random_search_of_the_same_budget_and_types_what_it_found():
    who, aims = victim(), captions(3)
    settings = dataclasses.replace(QUICK, iterations=30, draws=30)
    rows = qf.attack(who, aims, settings, Rng(0))
    bare = [qf.explicit(t.prompt, who.concept, "neutral")[0] for t in aims]
    encoder = who.encoder
    mask = qf.stable(*(torch.cat([encoder.plain(p) for p in side]) for side in zip(*PAIRS[:5], strict=True)))
    goal, alphabet = encoder.plain([t.prompt for t in aims]), tokens.single(encoder, qf.SIGNS)
    search = qf._Search(encoder, [encoder.tokenize(text) for text in bare], goal, mask, alphabet, settings)
    budget, source = qf.evaluations(settings), torch.Generator().manual_seed(1)
    assert budget == 30 * (30 + 9)
    chance = search.scores(torch.randint(len(alphabet), (3, budget, 4), generator=source)).amax(dim=1)
    for i, row in enumerate(rows):
        assert row.adversarial.startswith(bare[i] + " ")
        assert len(encoder.tokenize(row.adversarial).content) == len(encoder.tokenize(bare[i]).content) + 4
        value = float(qf.masked_cosine(encoder.plain(row.adversarial)[0], goal[i], mask))
        assert row.found == pytest.approx(value, abs=1e-5)
        assert json.loads(row.note)["mask"] == pytest.approx(float(mask.float().mean()), abs=1e-4)
    assert sum(row.found for row in rows) > float(chance.sum())


def test_a_prompt_with_little_room_gets_fewer_signs():
    encoder = erased().encoder
    texts = ["a red thing", "a b c d e f g h i j k l m n o p", "a b c d e f g h i j k l m n o p q r", "red " * 30]
    settings = dataclasses.replace(QUICK, iterations=2, base="prompt")
    rows = qf.attack(victim(), [Target(i, text.strip(), i) for i, text in enumerate(texts)], settings, Rng(0))
    assert [json.loads(row.note)["signs"] for row in rows] == [4, 2, 0, 0]
    assert [row.adversarial for row in rows[2:]] == [texts[2], texts[3].strip()]
    assert encoder.tokenize(rows[1].adversarial).length == encoder.context_length
