"""Levels in pipelines of several encoders (THEORY T17): claims about the smoother as deployed, and which prompts they cover."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import certify
from certify.defence import Defence, covered_prompts, covered_words
from certify.defence.building import rebuilt
from tests.defence.pipelines import CALLS, built
from tests.defence.test_families import CIRCLE, PROMPT

FLUX = "FluxPipeline"
SHARED = 2.5  # σ₀ at which words of the random text encoders share levels
WORDS = ("circle", "square", "cat", "dog", "starfish", "photo", "small", "red")


def _levels(**options: Any) -> Defence:
    given: dict[str, Any] = {"k": 3.0, "n": 3, "policy": "levels", "gamma": 4.0, **options}
    return certify.defend(built(FLUX), [CIRCLE], call=CALLS[FLUX], **given)


def test_sigma_is_rounded_up_to_a_level_in_every_encoder() -> None:
    safe, frozen = _levels(gamma=2.0), _levels(policy="frozen", gamma=None)
    pairs = list(zip(safe.problem(PROMPT).token_noise, frozen.problem(PROMPT).token_noise, strict=True))
    units = [unit for reading in safe.problem(PROMPT).readings for unit in reading.frame.units]
    assert len(pairs) == 2
    for (mine, own), unit in zip(pairs, units, strict=True):
        for at, (level, exact) in enumerate(zip(mine.sigma, own.sigma, strict=True)):
            assert (level > 0) is (exact > 0) is (mine.kinds[at] == "word")
            assert exact * (1 - 1e-9) <= level <= 2 * exact * (1 + 1e-9)
            if level > 0:
                j = 8 * math.log2(level / unit / 0.45)
                assert j == pytest.approx(round(j), abs=1e-6)


def test_a_words_level_does_not_depend_on_what_else_was_asked() -> None:
    alone, together = _levels(), _levels(batch_size=5)
    together.explain(" ".join(WORDS))
    for word in WORDS:
        one, other = (safe.problem(f"a {word}").token_noise for safe in (alone, together))
        assert [noise.sigma for noise in one] == [noise.sigma for noise in other]
        assert [noise.relevance for noise in one] == [noise.relevance for noise in other]


def test_a_prompt_is_covered_where_it_gets_the_same_noise_and_only_there() -> None:
    safe = _levels(sigma0_relative=SHARED)
    anchor = "a photo of a red photo"
    problem = safe.problem(anchor)
    prompts = [f"a photo of a {word} photo" for word in WORDS]
    found = covered_prompts(problem, prompts, 1e6)
    for one in found:
        other = safe.problem(one.prompt)
        lengths = [[len(x.ids) - x.kinds.count("padding") for x in p.layouts] for p in (problem, other)]
        same = [a.sigma for a in problem.token_noise] == [b.sigma for b in other.token_noise]
        assert one.covered is (lengths[0] == lengths[1] and same), one
    assert any(one.covered and one.prompt != anchor for one in found)
    reasons = [one.reason for one in found if not one.covered]
    assert any("another level in text_encoder" in reason for reason in reasons)
    # With Σ fixed, the same prompts are all within that radius.
    frozen = covered_prompts(_levels(policy="frozen", gamma=None, sigma0_relative=SHARED).problem(anchor), prompts, 1e6)
    assert sum(one.covered for one in frozen) > sum(one.covered for one in found)


def test_words_of_the_level_are_those_whose_prompts_are_covered() -> None:
    safe = _levels(sigma0_relative=SHARED)
    problem = safe.problem("a photo of a red")
    last = covered_words(problem, 1e6, nearest=999)[-1]
    assert last.word == "red"
    assert last.levels is not None
    assert 0 < last.comparable == last.covered < last.levels
    named = {neighbour.token.strip() for neighbour in last.nearest}
    assert len(last.nearest) == last.comparable
    for word in ("circle", "square", "small", "blue"):
        covered = covered_prompts(problem, [f"a photo of a {word}"], 1e6)[0].covered
        assert covered is (word in named)
    assert "levels" in last.to_dict()
    assert "levels" not in covered_words(_levels(policy="frozen", gamma=None).problem(PROMPT), 1.0)[-1].to_dict()


def test_words_that_the_tokenizer_makes_several_tokens_of_are_not_comparable() -> None:
    problem = _levels(sigma0_relative=SHARED).problem("a photo of a red")
    vocabulary = problem.vocabularies[0].tokenizer
    # CLIP's has an entry that no merge leads to: typed, the word is four tokens.
    assert "green</w>" in vocabulary.get_vocab()
    assert len(vocabulary("green", add_special_tokens=False)["input_ids"]) > 1
    last = covered_words(problem, 1e6, nearest=999)[-1]
    named = [neighbour.token.strip() for neighbour in last.nearest]
    assert "blue" in named
    assert "green" not in named
    for word in named:
        assert covered_prompts(problem, [f"a photo of a {word}"], 1e6)[0].covered


def test_a_certificate_about_the_smoother_as_deployed_passes_its_check(tmp_path: Path) -> None:
    safe = _levels()
    certificate = safe.certify(PROMPT, rho=0.3, rho_deployed=0.1, n=64, radii=2, prompts=["a photo of a red square"])
    assert {claim.policy for claim in certificate.claims} == {"levels"}
    assert certificate.provenance["smoother"]["gamma"] == 4.0
    certificate.save(tmp_path / "c")
    read = certify.Certificate.load(tmp_path / "c")
    again = rebuilt(read, built(FLUX), [CIRCLE])
    assert again.adaptive.settings() == safe.adaptive.settings()
    assert not again.check(read, n=16).refuted
    assert {one.outcome for one in again.compared(read)} <= {"same", "not checked"}
    edited = replace(read, claims=tuple(replace(claim, policy="frozen") for claim in read.claims))
    with pytest.raises(ValueError, match=r"claims of policy frozen, its smoother has 'levels' on record"):
        again.compared(edited)


def test_saved_levels_are_those_of_whoever_loads_them(tmp_path: Path) -> None:
    safe = _levels()
    wanted = safe.explain(PROMPT)
    relevance: Any = safe.adaptive.relevance  # type: ignore[union-attr]
    for key in relevance._scores:  # as another device would have it, beyond an edge
        relevance._scores[key] = relevance._scores[key] + 0.5
    moved = safe.explain(PROMPT)
    assert str(moved) != str(wanted)
    safe.save(tmp_path)
    assert str(certify.load_defence(tmp_path, built(FLUX)).explain(PROMPT)) == str(moved)
