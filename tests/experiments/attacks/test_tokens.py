"""What the attacks on the text encoder share: ids that can be typed in any order, and encodings of rows of them."""

from __future__ import annotations

import pytest
import torch

from certify import load_pipeline
from certify.models import PromptEncoder
from experiments.attacks import tokens
from experiments.attacks.attack import readable
from experiments.sentences import concept_pattern
from tests.experiments.attacks.victims import erased


@pytest.fixture(params=["pipeline_folder", "pipeline_folder_sd2", "embedded"])
def encoder(request: pytest.FixtureRequest) -> PromptEncoder:
    if request.param == "embedded":
        return erased().encoder
    return PromptEncoder.from_pipeline(load_pipeline(request.getfixturevalue(request.param)))


def test_ids_that_stand_alone_can_be_typed_in_any_order_and_others_cannot(encoder):
    alphabet = tokens.typable(encoder)
    source = torch.Generator().manual_seed(0)
    rows = alphabet[torch.randint(len(alphabet), (50, 6), generator=source)]
    assert all(readable(encoder, row) is not None for row in rows)
    others = set(range(len(encoder.tokenizer))) - set(alphabet.tolist())
    assert others
    assert not any(readable(encoder, [i]) for i in others)


def test_banned_texts_are_in_no_id():
    encoder = erased().encoder
    circle = encoder.tokenize("circle").content
    assert len(circle) == 1
    assert circle[0] in tokens.typable(encoder).tolist()
    left = [encoder.tokenizer.decode([i]) for i in tokens.typable(encoder, ["Circle", "oi"])]
    assert not any("circle" in text or "oi" in text for text in left)
    assert any("wheel" in text for text in left)
    with pytest.raises(ValueError, match="leaves no token"):
        tokens.typable(encoder, ["a", "e", "i", "o", "u", *map(chr, range(33, 127))])


@pytest.mark.parametrize("masked", [False, True])
def test_encodings_of_rows_are_those_of_their_texts(pipeline_folder, masked):
    encoder = PromptEncoder.from_pipeline(load_pipeline(pipeline_folder))
    encoder.text_encoder.config.use_attention_mask = masked
    texts = ["a red circle", "the small coin", "blue square in"]
    content = torch.tensor([encoder.tokenize(text).content for text in texts])
    found = tokens.encodings(encoder, tokens.framed(encoder, content), batch=2)
    torch.testing.assert_close(found, encoder.plain(texts))
    z = torch.stack([encoder.embed(encoder.tokenize(text)) for text in texts])
    torch.testing.assert_close(tokens.encodings(encoder, tokens.framed(encoder, content), z), found)
    ends = [encoder.tokenize(text).end for text in texts]
    torch.testing.assert_close(tokens.last_rows(found, ends), torch.stack([found[i, e] for i, e in enumerate(ends)]))


def test_a_long_prompt_is_cut_and_a_short_one_is_not(encoder):
    short = tokens.cut(encoder, "a red circle")
    assert torch.equal(short.ids, encoder.tokenize("a red circle").ids)
    long = tokens.cut(encoder, "red " * 100)
    assert long.length == encoder.context_length
    assert set(long.content) == set(encoder.tokenize("red").content)
    assert tokens.room(encoder, 1000) == encoder.context_length - 2
    assert tokens.room(encoder, 3) == 3


def test_signs_are_kept_once_in_their_order(encoder):
    found = tokens.single(encoder, "Ab·a9;")
    spelled = [encoder.tokenizer.decode([int(i)]).strip() for i in found]
    assert spelled == ["a", "b", "9", ";"]


def test_a_pattern_finds_whole_words_whatever_the_case():
    pattern = concept_pattern(["circle", "van gogh"])
    assert [m.group() for m in pattern.finditer("Circle, semicircle circles by Van Gogh's")] == ["Circle", "Van Gogh"]


def test_rows_that_cannot_be_typed_are_passed_over():
    encoder = erased().encoder
    text = "red circle on a blue background"
    good = torch.tensor(encoder.tokenize(text).content)
    spelled = torch.tensor(encoder.tokenizer.convert_tokens_to_ids(["c", "i", "r", "c", "l", "e</w>"]))
    assert tokens.first_readable(encoder, torch.stack([spelled, good])) == (1, text)
    with pytest.raises(ValueError, match="can be typed"):
        tokens.first_readable(encoder, spelled[None])


@pytest.mark.parametrize("words", ["coin", ("coin", " "), (1,)])
def test_words_must_be_a_tuple_of_words(words):
    with pytest.raises(ValueError, match=r"banned = .*must be a tuple of words"):
        tokens.several("banned", words)
