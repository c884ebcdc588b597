"""Places: what can be typed, where free tokens stand, and that embeddings and texts say the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from certify import load_pipeline
from certify.models import PromptEncoder
from experiments.attacks.places import Places, Words, interleaved, prefixed


@pytest.fixture(scope="module")
def encoder(pipeline_folder_sd2: Path) -> PromptEncoder:
    return PromptEncoder.from_pipeline(load_pipeline(pipeline_folder_sd2))


@pytest.fixture(scope="module")
def words(encoder: PromptEncoder) -> Words:
    return Words.of(encoder)


def _tokens(encoder: PromptEncoder, layout: list[int | None]) -> list[str | None]:
    return [None if i is None else encoder.tokenizer.convert_ids_to_tokens(i) for i in layout]


def test_words_can_be_typed_in_any_order(encoder: PromptEncoder, words: Words):
    source = torch.Generator().manual_seed(0)
    content = encoder.tokenize("a starfish in the sunflower").content
    places = Places(encoder, [prefixed(encoder, content, 4), interleaved(encoder, content, 2)] * 20, words)
    chosen = words.random((40, places.count), source)
    for row, text in enumerate(places.texts(chosen)):
        assert text is not None
        assert list(encoder.tokenize(text).content) == places.content(row, chosen[row])


def test_pieces_of_words_are_no_words(encoder: PromptEncoder, words: Words):
    known = set(encoder.tokenizer.convert_ids_to_tokens(words.ids.tolist()))
    assert {"circle</w>", "photo</w>"} <= known
    assert not {"star", "whe", "sun", "a", "<|endoftext|>", "<|startoftext|>"} & known


def test_the_embeddings_are_those_of_the_text(encoder: PromptEncoder, words: Words):
    prompts = ["a red circle", "the small wheel and the big circle"]
    layouts = [interleaved(encoder, encoder.tokenize(p).content, 2) for p in prompts]
    places = Places(encoder, layouts, words)
    assert [places.free(0), places.free(1)] == [2, 5]
    assert places.count == 5
    chosen = words.random((2, 5), torch.Generator().manual_seed(1))
    texts = [str(text) for text in places.texts(chosen)]
    soft = words.table[chosen]
    assert torch.equal(places.embedded(soft), torch.stack([encoder.embed(encoder.tokenize(t)) for t in texts]))
    torch.testing.assert_close(places.encode(soft), encoder.plain(texts), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(places.encode(soft, torch.tensor([1])), encoder.plain(texts[1:]), rtol=1e-5, atol=1e-6)


def test_the_gradient_reaches_the_free_places_alone(encoder: PromptEncoder, words: Words):
    places = Places(encoder, [[None, 40], [None, None]], words)
    soft = words.table[torch.zeros(2, 2, dtype=torch.int64)].requires_grad_(True)
    # The last position attends to all: none is without influence but what stands in no place.
    (slope,) = torch.autograd.grad(places.encode(soft)[:, -1].square().sum() + soft.sum() * 0, soft)
    assert bool((slope[0, 0] != 0).any())
    assert bool((slope[1] != 0).any(dim=1).all())
    assert bool((slope[0, 1] == 0).all())


def test_a_free_token_never_stands_inside_a_word(encoder: PromptEncoder):
    content = encoder.tokenize("a red sunflower in the wheel").content
    assert _tokens(encoder, interleaved(encoder, content, 3)) == [
        None, "a</w>", "red</w>", "sun", "flow", "er</w>", None, "in</w>", "the</w>", "whe", "el</w>", None
    ]  # fmt: skip
    assert _tokens(encoder, interleaved(encoder, encoder.tokenize("a red circle").content, 1)) == [
        None, "a</w>", None, "red</w>", None, "circle</w>", None
    ]  # fmt: skip


def test_what_has_no_room_is_cut_word_by_word(encoder: PromptEncoder):
    content = encoder.tokenize("a red sunflower in the wheel").content
    assert _tokens(encoder, prefixed(encoder, content, 9)) == [*[None] * 9, "a</w>", "red</w>", "sun", "flow", "er</w>"]
    assert _tokens(encoder, prefixed(encoder, content, 10)) == [*[None] * 10, "a</w>", "red</w>"]
    twelve = encoder.tokenize("a red circle " * 4).content
    # Room for 14: one place, and six words with a place after each.
    assert _tokens(encoder, interleaved(encoder, twelve, 1)) == [
        None, *["a</w>", None, "red</w>", None, "circle</w>", None] * 2
    ]  # fmt: skip


def test_the_nearest_word_is_that_of_largest_cosine(words: Words):
    soft = torch.randn(3, 2, words.table.shape[1], generator=torch.Generator().manual_seed(2))
    found = words.nearest(soft)
    for i in range(3):
        for j in range(2):
            cosines = [float(soft[i, j] @ w / (soft[i, j].norm() * w.norm())) for w in words.table]
            assert int(found[i, j]) == max(range(len(cosines)), key=cosines.__getitem__)
    assert torch.equal(words.nearest(7 * soft), found)
    rows = torch.tensor([5, 0, 3])
    assert torch.equal(words.nearest(words.table[rows]), rows)


def test_bad_layouts(encoder: PromptEncoder, words: Words):
    with pytest.raises(ValueError, match="layouts is empty"):
        Places(encoder, [], words)
    with pytest.raises(ValueError, match=r"layouts\[1\] has no free place"):
        Places(encoder, [[None], [40]], words)
    with pytest.raises(ValueError, match=r"layouts\[0\] has 15 tokens, 15 of them free: must have at most 14"):
        Places(encoder, [[None] * 15], words)
