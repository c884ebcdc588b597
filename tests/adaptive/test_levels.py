"""Levels (T17): the table of the vocabulary, what is covered as deployed, and what is never said to be."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from certify import AdaptiveMedianSmoother, world
from certify.adaptive import covered_prompts, covered_substitutions, level_radius, level_set
from certify.adaptive.checking import certified_functions, compared, rebuilt
from certify.adaptive.coverage import LevelCoverage, _combined
from certify.adaptive.levels import LevelTable, folder, vocabulary_size
from certify.adaptive.token_noise import SigmaRule
from certify.certificate import words
from certify.models import PromptEncoder, load_text_encoder
from certify.summaries.of_certificates import sections
from tests.adaptive.conftest import CIRCLE, FISH

PROMPT = "a photo of a red circle"


def build(encoder: PromptEncoder, **options: Any) -> AdaptiveMedianSmoother:
    return AdaptiveMedianSmoother.from_encoder(encoder, [CIRCLE, FISH], **{"policy": "levels", **options})


@pytest.fixture(scope="module")
def shipped() -> AdaptiveMedianSmoother:
    return AdaptiveMedianSmoother.from_encoder(load_text_encoder(), ["circle"], policy="levels", **world.SMOOTHING)


@pytest.fixture(scope="module")
def made(shipped: AdaptiveMedianSmoother) -> Any:
    attacks = ["a photo of a red coin", "a photo of a red square", "a photo of a circle"]
    return shipped.certify(PROMPT, n=600, alpha=0.05, statistics=200, rhos=None, prompts=attacks)


class TestRule:
    def test_sigma_is_rounded_up_to_the_grid_and_never_above_the_cap(self) -> None:
        plain, rule = SigmaRule(0.01, 6.0, 1.0, "none"), SigmaRule(0.01, 6.0, 1.0, "none", gamma=2.0)
        for score in range(-10_000, 10_001, 7):
            before, after = plain.word(score / 10_000), rule.word(score / 10_000)
            assert before * (1 - 1e-8) <= after <= min(2 * before, 1.0) * (1 + 1e-12)
            steps = math.log2(after / 0.01)
            assert after == 1.0 or steps == pytest.approx(round(steps), abs=1e-9)

    def test_the_level_decides_sigma(self) -> None:
        rule = SigmaRule(0.01, 9.0, 0.5, "none", gamma=3.0)
        found: dict[int, set[float]] = {}
        for score in range(-10_000, 10_001):
            found.setdefault(rule.level(score / 10_000), set()).add(rule.word(score / 10_000))
        assert all(len(sigmas) == 1 for sigmas in found.values())
        assert len({s for sigmas in found.values() for s in sigmas}) == len(found)

    def test_a_relevance_at_a_boundary_is_on_one_side_whatever_the_last_digit(self) -> None:
        # k · relevance = 3 log γ exactly, but for rounding: on the grid, and a digit more or less does not matter.
        rule = SigmaRule(0.01, math.log(2) / 0.25, math.inf, "none", gamma=2.0)
        near = [0.75, math.nextafter(0.75, 0), math.nextafter(0.75, 1), 0.75 + 1e-13, 0.75 - 1e-13]
        assert {rule.level(score) for score in near} == {24}
        assert rule.level(0.7501) == 32

    def test_levels_are_fine_where_nothing_could_be_covered(self) -> None:
        rule = SigmaRule(0.01, 6.0, 1.0, "none", gamma=2.0, coarse_from=0.1)
        for score in range(-10_000, 10_001, 7):
            plain, levelled = (replace(rule, gamma=g).word(score / 10_000) for g in (None, 2.0))
            assert (
                plain * (1 - 1e-8) <= levelled <= min(1.0, plain * (2 if levelled >= 0.1 else 2**0.125)) * (1 + 1e-12)
            )
            steps = math.log2(levelled / 0.01)
            assert levelled == 1.0 or levelled < 0.1 or abs(steps - round(steps)) < 1e-9

    def test_extremes(self) -> None:
        assert SigmaRule(1e-3, 1e6, math.inf, "none", gamma=2.0).word(-1.0) >= 0
        assert SigmaRule(1e-3, 1e6, 0.5, "none", gamma=2.0).word(1.0) == 0.5
        assert SigmaRule(1e-3, 0.0, 0.5, "none", gamma=2.0).word(1.0) == 1e-3
        assert SigmaRule(1e-3, 9.0, 1e-3, "none", gamma=2.0).word(1.0) == 1e-3


class TestTable:
    def test_it_is_the_relevance_of_every_entry(self, encoder: PromptEncoder) -> None:
        plain = AdaptiveMedianSmoother.from_encoder(encoder, [CIRCLE, FISH])
        table = build(encoder).levels
        assert tuple(table.scores.shape) == (vocabulary_size(encoder), 2)
        for entry in range(0, vocabulary_size(encoder), 29):
            prompt = encoder.assemble((entry,))
            # Another batch may round to the other neighbour.
            assert table.scores[entry].tolist() == pytest.approx(
                plain.scorer.scores([prompt])[0][1].tolist(), abs=1.1e-4
            )

    def test_deployment_and_certificate_read_the_table(
        self, encoder: PromptEncoder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        adaptive = build(encoder)
        table = adaptive.levels
        monkeypatch.setattr(type(adaptive.scorer), "_computed", lambda *_: pytest.fail("a word was computed again"))
        prompt = adaptive.prepare("a red circle")
        sigma = table.sigma(adaptive.rule)
        assert prompt.token_noise.sigma[1:4] == tuple(sigma[int(i)] for i in prompt.tokenized.ids[1:4])
        assert torch.equal(
            adaptive.encode("a red circle", seed=1), adaptive.freeze("a red circle").encode("a red circle", seed=1)
        )

    def test_the_first_to_compute_it_decides(self, encoder: PromptEncoder, tmp_path: Path) -> None:
        scorer = AdaptiveMedianSmoother.from_encoder(encoder, [CIRCLE, FISH]).scorer
        first = LevelTable.of(scorer, [CIRCLE, FISH], tmp_path)
        from certify._files import read_tensors, write_tensors

        (path,) = tmp_path.iterdir()
        units = read_tensors(path)[0]["relevance"]
        units[3] += 1  # as another device might have rounded
        write_tensors(path, {"relevance": units})
        again = LevelTable.of(scorer, [CIRCLE, FISH], tmp_path)
        assert again.scores[3].tolist() == pytest.approx([s + 1e-4 for s in first.scores[3].tolist()])
        assert again.key == first.key
        assert torch.equal(again.scores[4:], first.scores[4:])

    def test_a_stopped_run_goes_on_from_what_is_kept(self, encoder: PromptEncoder, tmp_path: Path) -> None:
        scorer = AdaptiveMedianSmoother.from_encoder(encoder, [CIRCLE, FISH]).scorer
        whole = LevelTable.of(scorer, [CIRCLE, FISH], tmp_path)
        (path,) = tmp_path.iterdir()
        from certify._files import read_tensors, write_tensors

        units = read_tensors(path)[0]["relevance"]
        units[-5:] = -(2**31)
        write_tensors(path, {"relevance": units})
        seen: list[tuple[int, int]] = []
        again = LevelTable.of(scorer, [CIRCLE, FISH], tmp_path, lambda done, total: seen.append((done, total)))
        assert torch.equal(again.scores, whole.scores)
        assert seen[-1] == (vocabulary_size(encoder),) * 2

    @pytest.mark.parametrize("damage", [b"", b"no tensors", None])
    def test_a_damaged_file_is_computed_anew(
        self, encoder: PromptEncoder, tmp_path: Path, damage: bytes | None
    ) -> None:
        from certify._files import write_tensors

        scorer = AdaptiveMedianSmoother.from_encoder(encoder, [CIRCLE]).scorer
        whole = LevelTable.of(scorer, [CIRCLE], tmp_path)
        (path,) = tmp_path.iterdir()
        if damage is None:  # a relevance that none can be
            write_tensors(path, {"relevance": torch.full((len(whole.scores), 1), 10_001, dtype=torch.int32)})
        else:
            path.write_bytes(damage)
        assert torch.equal(LevelTable.of(scorer, [CIRCLE], tmp_path).scores, whole.scores)

    def test_a_folder_that_cannot_be_written_costs_no_more_than_time(
        self, encoder: PromptEncoder, tmp_path: Path
    ) -> None:
        (tmp_path / "file").write_text("in the way")
        scorer = AdaptiveMedianSmoother.from_encoder(encoder, [CIRCLE]).scorer
        assert len(LevelTable.of(scorer, [CIRCLE], tmp_path / "file" / "levels").scores) == vocabulary_size(encoder)

    def test_another_concept_has_another_table(self, encoder: PromptEncoder, tmp_path: Path) -> None:
        for concepts in ([CIRCLE], [FISH], [CIRCLE, FISH]):
            LevelTable.of(AdaptiveMedianSmoother.from_encoder(encoder, concepts).scorer, concepts, tmp_path)
        assert len(list(tmp_path.iterdir())) == 3

    def test_where_it_is_kept(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("CERTIFY_CACHE", str(tmp_path))
        assert folder() == tmp_path / "levels"
        monkeypatch.delenv("CERTIFY_CACHE")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
        assert folder() == tmp_path / "x" / "certify" / "levels"

    def test_a_word_that_is_no_entry_does_not_depend_on_what_else_is_asked(self, encoder: PromptEncoder) -> None:
        texts = ["a dinosaur", "an asterisk", "dinosaur", "crossroads"]
        together = build(encoder).prepare_all(texts)
        for prompt in together:
            assert build(encoder, batch_size=3).prepare(prompt.text).relevance == prompt.relevance


class TestCovered:
    """C_ρ(y), against every entry and every pair of entries tried as a prompt of its own."""

    @pytest.mark.parametrize("use_global", [False, True])
    def test_every_single_substitution(self, encoder: PromptEncoder, use_global: bool) -> None:
        adaptive = build(encoder, use_global=use_global, gamma=4.0, k=2.0)
        here, seen = adaptive.prepare("a wheel, and red"), 0
        far = [c.farthest for c in covered_substitutions(here, 1.0) if c.farthest is not None]
        rho = 0.9 * max(far, default=1.0)
        for found in covered_substitutions(here, rho, nearest=10_000):
            assert isinstance(found, LevelCoverage)
            if not found.enumerated:
                assert (found.comparable, found.covered, found.members, found.leaving) == (0, 0, (), ())
                continue
            assert not use_global
            others = []
            for entry in range(vocabulary_size(encoder)):
                content = list(here.tokenized.content)
                content[found.position - 1] = entry
                other = encoder.assemble(content)
                if entry != int(here.tokenized.ids[found.position]) and other.words == here.tokenized.words:
                    others.append(other)
            level = [o for o in adaptive.prepare_all(others) if o.token_noise.sigma == here.token_noise.sigma]
            inside = [o for o in level if here.noise.norm(o.y.double() - here.y.double()) <= rho]
            assert (found.comparable, found.covered) == (len(level), len(inside))
            seen += len(inside)
        assert bool(seen) is not use_global

    def test_all_synonyms_and_nothing_of_another_level(self, shipped: AdaptiveMedianSmoother) -> None:
        here = shipped.prepare(PROMPT)
        rho = level_radius(here)
        assert rho == 0.25
        found = level_set(here, rho)
        circle = next(p for p in found.positions if p.token == "circle</w>")
        assert {m.token for m in circle.members} == {"coin</w>", "ball</w>", "wheel</w>"}
        assert circle.fully_covered
        assert found.prompts == 3
        # Just below the radius the farthest is out.
        assert level_set(here, circle.farthest * (1 - 1e-9)).prompts == 2  # type: ignore[operator]
        texts = [
            PROMPT.replace("circle", word) for word in ("coin", "ball", "wheel", "square", "box", "heart", "circle")
        ]
        covered = {c.prompt.split()[-1]: c for c in covered_prompts(here, texts, 1e6)}
        assert {word for word, c in covered.items() if c.covered} == {"coin", "ball", "wheel", "circle"}
        assert covered["square"].reason.startswith("another level at 'square': σ = ")
        # With Σ fixed, the same radius covers them all: it is the deployed smoother that gives them another noise.
        frozen = AdaptiveMedianSmoother.from_encoder(shipped.encoder, ["circle"], **world.SMOOTHING).prepare(PROMPT)
        assert all(c.covered for c in covered_prompts(frozen, texts, 1e6))

    def test_several_positions_at_once(self, encoder: PromptEncoder) -> None:
        adaptive = build(encoder, gamma=4.0, k=2.0)
        here = adaptive.prepare("red circle")
        size = vocabulary_size(encoder)
        table = encoder.embeddings(torch.arange(size)[None])[0].double().detach()
        sigma = torch.tensor(adaptive.levels.sigma(adaptive.rule))
        spelled, special = encoder.tokenizer.convert_ids_to_tokens(list(range(size))), encoder.tokenizer.all_special_ids
        squares = []
        for i in (1, 2):
            own = here.token_noise.sigma[i]
            ends = [i == 2 or spelled[e].endswith("</w>") or e in special for e in range(size)]
            may = [e for e in range(size) if ends[e] and sigma[e] == own and e != int(here.tokenized.ids[i])]
            squares.append([0.0, *(float((table[e] - here.y[i].double()).square().sum()) / own**2 for e in may)])
        rho = 1.2 * max(min(row[1:]) for row in squares) ** 0.5 + 1.0
        found = level_set(here, rho)
        true = sum(a + b <= rho**2 for a, b in itertools.product(*squares)) - 1
        assert 0.98 * true - 1 <= found.prompts <= true
        assert true > sum(p.covered for p in found.positions)  # pairs are among them

    def test_counting_never_exceeds_the_truth(self) -> None:
        rng = torch.Generator().manual_seed(3)
        for _ in range(20):
            squares = [(torch.rand(5, generator=rng) * 2).tolist() for _ in range(3)]
            sums = [sum(s) for s in itertools.product(*([0.0, *row] for row in squares))]
            exact = sum(s <= 1 for s in sums) - 1
            assert exact * 0.9 - 2 <= _combined([[s for s in row if s <= 1] for row in squares], 1.0) <= exact
        assert _combined([[1.0]], 1.0) == 0  # at the radius itself rounding decides, for less
        assert _combined([[0.25, 0.25], [0.25]], 1.0) == 5
        assert _combined([], 1.0) == 0

    def test_a_word_next_to_the_edge_is_not_said_to_be_covered(
        self, encoder: PromptEncoder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With the anchor's Σ here, and perhaps another one on another device."""
        adaptive = build(encoder)
        anchor, other = adaptive.prepare_all(["dinosaur", "dinosaus"])
        said = []
        for k in (1e-6, math.log(2) / (max(s for s in other.relevance.relevance if s is not None) - 1e-4)):
            adaptive.rule = replace(adaptive.rule, k=k)
            same = replace(other, token_noise=anchor.token_noise)
            monkeypatch.setattr(adaptive, "prepare", lambda _, same=same: same)
            said += covered_prompts(anchor, ["dinosaus"], 1e6)
        assert [one.covered for one in said] == [True, False]
        assert said[1].reason.startswith("next to the edge of a level at ")

    def test_length(self, shipped: AdaptiveMedianSmoother) -> None:
        (said,) = covered_prompts(shipped.prepare(PROMPT), ["a photo of a very red circle"], 1e6)
        assert not said.covered
        assert said.reason.startswith("another length")

    def test_nothing_else_on_its_level(self, shipped: AdaptiveMedianSmoother) -> None:
        assert level_radius(shipped.prepare("dinosaur")) is None  # a word of several tokens


class TestCertificate:
    def test_its_radius_covers_the_level(self, made: Any) -> None:
        assert {c.policy for c in made.claims} == {"levels"}
        assert made.main.rho == 0.25
        assert {c.rho for c in made.claims if c.replicas} == {0.25}
        assert made.provenance["levels"] == {"rho": 0.25, "prompts": 3, "everywhere": pytest.approx(128.3, abs=0.1)}
        assert [c["covered"] for c in made.provenance["covered_prompts"]] == [True, False, False]

    def test_unless_told_otherwise(self, shipped: AdaptiveMedianSmoother) -> None:
        made = shipped.certify(PROMPT, n=300, statistics=0, rhos=None, rho=0.1, tolerance=0.0)
        assert {c.rho for c in made.claims} == {0.1, 0.25}
        assert made.provenance["levels"]["prompts"] == 0

    def test_what_it_says(self, made: Any) -> None:
        section = sections(made, brief=True)[-1]
        said = " ".join(section.sentences)
        assert section.title.endswith("as deployed")
        assert (
            "On the level of “circle” are 3 other tokens: “wheel”, “coin”, “ball”. ρ = 0.2494 covers all of them"
            in said
        )
        assert (
            "Whichever of these 4 tokens stands there, the claims at ρ = 0.25 hold for the smoother as deployed" in said
        )
        assert "differs by more than 0.348" in said
        assert "“a photo of a red square” is not covered: another level at 'square'" in " ".join(section.notes)
        assert words.NOT_COVERED["levels"] in " ".join(words.left_out(made))

    def test_the_words_of_the_concept_come_first(self, made: Any) -> None:
        """In full every word is listed: that with the most noise first."""
        said = [s for s in sections(made)[-1].sentences if s.startswith("On the level of")]
        assert [s.split("”")[0].removeprefix("On the level of “") for s in said] == [
            *("circle", "photo", "red", "a", "a", "of")
        ]

    def test_it_is_checked(self, made: Any, shipped: AdaptiveMedianSmoother, tmp_path: Path) -> None:
        from certify import Certificate

        again = Certificate.load(made.save(tmp_path / "c"))
        prompt = rebuilt(again, shipped.encoder).prepare(PROMPT)
        assert prompt.adaptive.settings() == shipped.settings()
        functions = certified_functions(again, prompt)
        assert not again.check(functions, prompt.y, seed=3, n=200).refuted
        outcomes = {one.name: one.outcome for one in compared(again, prompt)}
        names = ("table of levels", "noise of the tokens", "covered tokens", "prompts that are covered as deployed")
        assert {outcomes[name] for name in names} == {"same"}

    @pytest.mark.parametrize(
        ("name", "change"),
        [
            ("table of levels", lambda p: p["smoother"].update(levels_sha256="0" * 64)),
            ("prompts that are covered as deployed", lambda p: p["levels"].update(prompts=4)),
            ("covered tokens", lambda p: p["coverage"][-1]["members"].append({"token": "square</w>", "distance": 0.1})),
            ("covered attack prompts", lambda p: p["covered_prompts"][1].update(covered=True)),
        ],
    )
    def test_a_forged_record_is_refuted(
        self, made: Any, shipped: AdaptiveMedianSmoother, name: str, change: Callable[[Any], None]
    ) -> None:
        provenance = json.loads(json.dumps(made.provenance))
        change(provenance)
        forged = replace(made, provenance=provenance)
        outcomes = {one.name: one.outcome for one in compared(forged, shipped.prepare(PROMPT))}
        assert outcomes[name] == "differs"

    def test_a_private_one_names_no_word(self, shipped: AdaptiveMedianSmoother) -> None:
        made = shipped.certify(PROMPT, n=300, statistics=0, rhos=None, private=True, prompts=["a photo of a red coin"])
        text = json.dumps(made.provenance)
        assert not [word for word in ("coin", "wheel", "ball", "photo") if word in text]
        assert made.provenance["covered_prompts_counted"] == {"given": 1, "covered": 1}
        said = " ".join(sections(made)[-1].sentences)
        assert "3 other tokens. ρ = 0.2494" in said


def test_no_prompt_of_the_set_leaves_a_bound(shipped: AdaptiveMedianSmoother) -> None:
    """The claim about what is deployed, attacked with prompts: all of C_ρ(y), through `encode` and nothing else.

    A prompt of the set leaves R with probability at most 1 − q = .1; of 400 draws more than 72 do so with probability 4e-7.
    """
    made = shipped.certify(PROMPT, n=4_000, alpha=1e-3, statistics=0, rhos=None, tolerance=0.0)
    claim = next(c for c in made.claims if c.quantity == "deployed" and c.status == "certified")
    center = made.tensors[claim.center].double()
    for word in ("circle", "coin", "ball", "wheel"):
        outputs = shipped.encode([PROMPT.replace("circle", word)] * 400).double()
        outside = (outputs - center).flatten(1).norm(dim=1) > float(claim.value)
        assert int(outside.sum()) <= 72, word


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gamma": 1.0}, r"gamma = 1\.0: must be a finite number > 1"),
        ({"gamma": 0.5}, r"gamma = 0\.5: must be a finite number > 1"),
        ({"gamma": math.nan}, r"gamma = nan: must be a finite number > 0"),
        ({"gamma": math.inf}, r"gamma = inf: must be a finite number > 0"),
        ({"gamma": 2.0, "policy": "frozen"}, r"gamma = 2\.0: is for policy = 'levels', got 'frozen'"),
    ],
)
def test_bad_calls(encoder: PromptEncoder, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(encoder, **options)


def test_levels_are_for_the_policy(encoder: PromptEncoder) -> None:
    frozen = build(encoder, policy="frozen")
    with pytest.raises(ValueError, match=r"policy = 'frozen': must be 'levels' for there to be levels"):
        _ = frozen.levels
    with pytest.raises(ValueError, match=r"policy = 'frozen': must be 'levels' for there to be levels"):
        level_set(frozen.prepare("a wheel"), 1.0)
