"""Relevance scores against Algorithm 1 written out, and the book-keeping around it."""

from typing import Any

import pytest
import torch
from torch import Tensor

from certify.adaptive import RelevanceScorer, concept_direction
from certify.adaptive.deployment import side_information
from certify.adaptive.relevance import SCORE_DECIMALS
from certify.models import PromptEncoder, TokenizedPrompt
from tests.adaptive.conftest import CIRCLE, FISH

PROMPTS = ["a photo of the red starfish", "sunflower", "circle", "a small wheel, and red coin"]
HALF = 0.5 * 10**-SCORE_DECIMALS + 1e-6


def directions(encoder: PromptEncoder, similarity: str = "flattened") -> Tensor:
    return torch.stack([concept_direction(encoder, c, similarity=similarity) for c in (CIRCLE, FISH)])


def algorithm_1(
    encoder: PromptEncoder, prompt: TokenizedPrompt, target: Tensor, similarity: str, phi: bool
) -> list[float]:
    """The paper's Algorithm 1, token by token, one encoding at a time."""

    def encode(content: list[int]) -> Tensor:
        tokenized = encoder.assemble(content)
        encoded = encoder.plain([tokenized])[0].double()
        return encoded.flatten() if similarity == "flattened" else encoded[tokenized.end]

    def diff_embed(y: list[int], i: int) -> Tensor:
        return encode(y) - encode(y[:i] + y[i + 1 :])

    def cos(a: Tensor, b: Tensor) -> float:
        return float(a @ b / (a.norm() * b.norm()))

    y, scores, s = list(prompt.content), [], 0
    words = [prompt.tokens[i].endswith("</w>") for i in range(1, 1 + len(y))]
    for i in range(len(y)):
        if words[i]:
            y_loc = y[s : i + 1]
            for j in range(s, i + 1):
                sim = cos(diff_embed(y_loc, j - s), target.flatten())
                if phi:
                    sim = max(sim, (sim + cos(diff_embed(y, j), target.flatten())) / 2)
                scores.append(sim)
            s = i + 1
    return scores


@pytest.mark.parametrize("similarity", ["flattened", "end-of-text"])
@pytest.mark.parametrize("use_global", [False, True])
def test_algorithm_1(encoder: PromptEncoder, similarity: str, use_global: bool) -> None:
    target = directions(encoder, similarity)
    scorer = RelevanceScorer(encoder, target, similarity=similarity, use_global=use_global)
    tokenized = [encoder.tokenize(p) for p in PROMPTS]
    for prompt, scores in zip(tokenized, scorer.scores(tokenized), strict=True):
        assert scores.shape == (16, 2)
        for c in range(2):
            expected = algorithm_1(encoder, prompt, target[c], similarity, use_global)
            got = scores[1 : prompt.end, c].tolist()
            assert got == pytest.approx(expected, abs=HALF)


def test_only_words_have_scores(encoder: PromptEncoder) -> None:
    prompt = encoder.tokenize("a starfish")
    (scores,) = RelevanceScorer(encoder, directions(encoder)).scores([prompt])
    has = [not bool(row.isnan().any()) for row in scores]
    assert has == [kind == "word" for kind in prompt.kinds]
    (none,) = RelevanceScorer(encoder, directions(encoder), use_global=True).scores([encoder.tokenize("")])
    assert bool(none.isnan().all())


def test_a_word_cut_off_at_its_end_still_has_scores(encoder: PromptEncoder) -> None:
    cut = encoder.assemble(encoder.tokenize("a sunflower").content[:-1])
    (scores,) = RelevanceScorer(encoder, directions(encoder), use_global=True).scores([cut])
    assert not bool(scores[1 : cut.end].isnan().any())


def test_a_zero_direction_and_a_zero_difference_have_similarity_zero(
    encoder: PromptEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = encoder.tokenize("a starfish")
    target = directions(encoder)
    target[0] = 0
    (scores,) = RelevanceScorer(encoder, target).scores([prompt])
    assert not scores[1 : prompt.end, 0].any()
    assert bool(scores[1 : prompt.end, 1].any())
    monkeypatch.setattr(encoder, "plain", lambda prompts, **_: torch.ones(len(prompts), 16, 32))
    (constant,) = RelevanceScorer(encoder, target).scores([prompt])
    assert not constant[1 : prompt.end].any()


@pytest.mark.parametrize("similarity", ["flattened", "end-of-text"])
@pytest.mark.parametrize("use_global", [False, True])
def test_scores_at_a_prompts_own_embeddings_are_its_scores(
    encoder: PromptEncoder, similarity: str, use_global: bool
) -> None:
    target = directions(encoder, similarity)
    scorer = RelevanceScorer(encoder, target, similarity=similarity, use_global=use_global, batch_size=7)
    cut = encoder.assemble(encoder.tokenize("a sunflower").content[:-1])
    for prompt in [*map(encoder.tokenize, PROMPTS), cut, encoder.tokenize("")]:
        (expected,) = scorer.scores([prompt])
        got = scorer.scores_at(encoder.embed(prompt).expand(3, -1, -1), side_information(encoder, prompt))
        assert got.shape == (3, 16, 2)
        for row in got:
            torch.testing.assert_close(row, expected, rtol=0, atol=1.1 * 10**-SCORE_DECIMALS, equal_nan=True)


@pytest.mark.parametrize("similarity", ["flattened", "end-of-text"])
@pytest.mark.parametrize("use_global", [False, True])
def test_scores_at_noisy_embeddings_are_algorithm_1_on_rows(
    encoder: PromptEncoder, similarity: str, use_global: bool
) -> None:
    prompt = encoder.tokenize("a sunflower, wheel")
    target = directions(encoder, similarity)
    scorer = RelevanceScorer(encoder, target, similarity=similarity, use_global=use_global)
    source = torch.Generator().manual_seed(0)
    z = encoder.embed(prompt) + 0.05 * torch.randn(2, 16, 32, generator=source)
    scores = scorer.scores_at(z, side_information(encoder, prompt))
    own = encoder.embed(encoder.tokenize(""))

    def encode(rows: Tensor, positions: list[int]) -> Tensor:
        y = torch.cat([own[:1], rows[positions], own[1:2], own[2:]])[:16]
        encoded = encoder.encode(y[None], prompt)[0].double()
        return encoded.flatten() if similarity == "flattened" else encoded[len(positions) + 1]

    def cosine(rows: Tensor, positions: list[int], j: int, c: int) -> float:
        without = [i for i in positions if i != j]
        difference = encode(rows, positions) - encode(rows, without)
        return float(torch.nn.functional.cosine_similarity(difference, target[c].flatten(), dim=0))

    everything = [i for word in prompt.words for i in range(*word)]
    for rows, got in zip(z, scores, strict=True):
        for start, stop in prompt.words:
            for j in range(start, stop):
                for c in range(2):
                    expected = cosine(rows, list(range(start, stop)), j, c)
                    if use_global:
                        expected = max(expected, (expected + cosine(rows, everything, j, c)) / 2)
                    assert float(got[j, c]) == pytest.approx(expected, abs=HALF)


def test_scores_at_depend_on_each_row_alone_and_not_on_the_batch(encoder: PromptEncoder) -> None:
    prompt = side_information(encoder, encoder.tokenize("a red starfish"))
    scorer = RelevanceScorer(encoder, directions(encoder), use_global=True)
    z = 0.1 * torch.randn(5, 16, 32, generator=torch.Generator().manual_seed(1))
    together = scorer.scores_at(z, prompt)
    alone = torch.cat([scorer.scores_at(row[None], prompt) for row in z])
    torch.testing.assert_close(together, alone, rtol=0, atol=1.1 * 10**-SCORE_DECIMALS, equal_nan=True)
    other = z.clone()
    other[:, [0, *range(prompt.end, 16)]] += 1  # begin, end and padding are not read
    assert torch.equal(scorer.scores_at(other, prompt).nan_to_num(), together.nan_to_num())


def test_scores_at_a_full_context(encoder: PromptEncoder) -> None:
    prompt = encoder.tokenize("red " * 14)
    assert prompt.length == 16
    scorer = RelevanceScorer(encoder, directions(encoder), use_global=True)
    got = scorer.scores_at(encoder.embed(prompt)[None], side_information(encoder, prompt))[0]
    torch.testing.assert_close(got, scorer.scores([prompt])[0], rtol=0, atol=1.1 * 10**-SCORE_DECIMALS, equal_nan=True)


class _Counted:
    """Counts the sequences and batches that go through an encoder."""

    def __init__(self, encoder: PromptEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
        self.batches: list[int] = []
        plain = encoder.encode_batch

        def counted(ids: Tensor, *args: Any, **options: Any) -> Tensor:
            self.batches.append(len(ids))
            return plain(ids, *args, **options)

        monkeypatch.setattr(encoder, "encode_batch", counted)


def test_all_words_go_in_one_batch_and_are_remembered(encoder: PromptEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = _Counted(encoder, monkeypatch)
    scorer = RelevanceScorer(encoder, directions(encoder))
    counted.batches.clear()
    first = [encoder.tokenize(p) for p in ("a red starfish", "a red wheel")]
    scorer.scores(first)
    # a, red, starfish, star, fish, wheel, whe, el and the empty prompt
    assert counted.batches == [9]
    counted.batches.clear()
    again = scorer.scores([encoder.tokenize("starfish and a wheel")])
    assert counted.batches == [2]  # "and" alone is new
    counted.batches.clear()
    fresh = RelevanceScorer(encoder, directions(encoder)).scores([encoder.tokenize("starfish and a wheel")])
    assert torch.equal(again[0].nan_to_num(), fresh[0].nan_to_num())


def test_scores_at_encode_a_word_once_and_nothing_twice(
    encoder: PromptEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = RelevanceScorer(encoder, directions(encoder), batch_size=1000)
    counted = _Counted(encoder, monkeypatch)
    prompt = side_information(encoder, encoder.tokenize("a red starfish"))
    scorer.scores_at(torch.zeros(10, 16, 32), prompt)
    # the empty prompt once; for each of ten: a, red, starfish, star, fish
    assert counted.batches == [1, 50]
    small = RelevanceScorer(encoder, directions(encoder), batch_size=4)
    counted.batches.clear()
    small.scores_at(torch.zeros(2, 16, 32), prompt)
    assert counted.batches == [1, 4, 1, 4, 1]


def test_global_scores_of_a_prompt_are_remembered(encoder: PromptEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = RelevanceScorer(encoder, directions(encoder), use_global=True)
    prompt = encoder.tokenize("a red starfish")
    first = scorer.scores([prompt])
    counted = _Counted(encoder, monkeypatch)
    assert torch.equal(scorer.scores([prompt])[0].nan_to_num(), first[0].nan_to_num())
    assert counted.batches == []


def test_batches_are_bounded_and_do_not_change_the_scores(
    encoder: PromptEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenized = [encoder.tokenize(p) for p in PROMPTS]
    whole = RelevanceScorer(encoder, directions(encoder), use_global=True).scores(tokenized)
    small = RelevanceScorer(encoder, directions(encoder), use_global=True, batch_size=4)
    counted = _Counted(encoder, monkeypatch)
    for a, b in zip(small.scores(tokenized), whole, strict=True):
        assert torch.equal(a.nan_to_num(), b.nan_to_num())
    assert max(counted.batches) <= 4


def test_the_least_recently_used_word_is_forgotten_first(
    encoder: PromptEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = RelevanceScorer(encoder, directions(encoder), cache_size=2)
    for word in ("red", "blue", "red", "green"):
        scorer.scores([encoder.tokenize(word)])
    counted = _Counted(encoder, monkeypatch)
    scorer.scores([encoder.tokenize("red")])
    assert counted.batches == []
    scorer.scores([encoder.tokenize("blue")])
    assert counted.batches == [2]


def test_more_words_than_are_remembered(encoder: PromptEncoder) -> None:
    scorer = RelevanceScorer(encoder, directions(encoder), cache_size=1)
    (scores,) = scorer.scores([encoder.tokenize("a photo of the red circle")])
    assert not bool(scores[1:7].isnan().any())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"similarity": "cosine"}, r"similarity = 'cosine': must be one of 'flattened', 'end-of-text'"),
        ({"batch_size": 0}, r"batch_size = 0: must be a whole number >= 1"),
        ({"cache_size": 0}, r"cache_size = 0: must be a whole number >= 1"),
        ({"similarity": "end-of-text"}, r"directions has shape \(2, 16, 32\): must be \(concepts, 32\)"),
        ({"directions": torch.zeros(16, 32)}, r"directions has shape \(16, 32\): must be \(concepts, 16, 32\)"),
        ({"directions": torch.zeros(0, 16, 32)}, r"directions has shape \(0, 16, 32\): must be"),
    ],
)
def test_bad_calls(encoder: PromptEncoder, options: dict[str, Any], message: str) -> None:
    arguments = {"directions": directions(encoder), **options}
    with pytest.raises(ValueError, match=message):
        RelevanceScorer(encoder, **arguments)


def test_scores_at_another_shape(encoder: PromptEncoder) -> None:
    scorer = RelevanceScorer(encoder, directions(encoder))
    with pytest.raises(ValueError, match=r"z has shape \(16, 32\): must be \(batch, 16, 32\)"):
        scorer.scores_at(torch.zeros(16, 32), encoder.tokenize("red"))
