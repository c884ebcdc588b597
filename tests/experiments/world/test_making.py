"""How the world is made: renderer, captions, vocabulary, prompts."""

from __future__ import annotations

import json
import random
from itertools import pairwise

import pytest
import torch

from certify import world
from certify.models import PromptEncoder, load_text_encoder
from experiments.world import clip, judging, language, prompts, scenes


@pytest.fixture(scope="module")
def encoder() -> PromptEncoder:
    return load_text_encoder()


@pytest.fixture(scope="module")
def captions():
    rows = scenes.sample_scenes(3000, torch.Generator().manual_seed(4)).tolist()
    rng = random.Random(4)
    return [(row, language.caption(row, rng)) for row in rows]


class TestScenes:
    def test_training_scenes_leave_out_the_held_out_combinations(self):
        held = set(scenes.held_out_combinations())
        assert len(held) == 48
        train = scenes.sample_scenes(4000, torch.Generator().manual_seed(0))
        assert not {tuple(row) for row in train[:, :3].tolist()} & held
        other = scenes.sample_scenes(500, torch.Generator().manual_seed(0), held=True)
        assert {tuple(row) for row in other[:, :3].tolist()} <= held

    def test_every_pair_of_values_is_seen_in_training(self):
        train = scenes.sample_scenes(20000, torch.Generator().manual_seed(1))
        counts = [6, 8, 7, 4, 3]
        for a in range(5):
            for b in range(a):
                assert len(train[:, [a, b]].unique(dim=0)) == counts[a] * counts[b]

    def test_rendering_is_seeded_and_in_range(self):
        rows = scenes.sample_scenes(40, torch.Generator().manual_seed(3))
        x, again = (scenes.render(rows, torch.Generator().manual_seed(5)) for _ in range(2))
        assert x.shape == (40, 3, 32, 32)
        assert torch.equal(x, again)
        assert float(x.min()) >= 0
        assert float(x.max()) <= 1

    def test_corners_are_background_and_the_shape_has_its_colour(self):
        """Solid shapes: the colour that is farthest from the corner's is the named one."""
        rows = scenes.sample_scenes(200, torch.Generator().manual_seed(6))
        rows[:, 3] = 0
        x = scenes.render(rows, torch.Generator().manual_seed(7))
        corner = x[:, :, 0, 0]
        torch.testing.assert_close(corner, scenes._BACKGROUND_RGB[rows[:, 2]], atol=0.035, rtol=0)
        distance = (x - corner[:, :, None, None]).norm(dim=1).flatten(1).argmax(dim=1)
        paint = x.flatten(2)[torch.arange(200), :, distance]
        torch.testing.assert_close(paint, scenes._COLOUR_RGB[rows[:, 1]], atol=0.05, rtol=0)


class TestCaptions:
    def test_articles(self, captions):
        for _, caption in captions:
            words = caption.text.replace(",", "").split()
            for article, word in pairwise(words):
                if article in ("a", "an"):
                    assert (article == "an") == (word[0] in "aeiou"), caption.text

    def test_told_attributes_are_in_the_text_and_others_are_not(self, captions):
        for row, caption in captions:
            shape, colour, background, *_ = caption.told
            words = caption.text.replace(",", "").split()
            assert (scenes.COLOURS[row[1]] in words) == (colour >= 0)
            assert (scenes.BACKGROUNDS[row[2]] in words) == (background >= 0)
            named = scenes.SHAPES[row[0]]
            assert (named in words) == (caption.kind == "named")
            assert (shape >= 0) == (caption.kind != "neutral")

    def test_lengths_and_orders_vary(self, captions):
        lengths = {len(caption.text.split()) for _, caption in captions}
        assert {1, 2, 5, 9} <= lengths
        firsts = {caption.text.split()[0] for _, caption in captions}
        assert {"a", "an", "on", "the", "coin"} <= firsts

    def test_no_synonym_names_its_shape_as_a_word(self):
        for shape, words in language.SYNONYMS.items():
            assert shape not in words
        every = [w for words in language.SYNONYMS.values() for w in words]
        assert len(every) == len(set(every))

    def test_all_fit_into_the_context(self, captions, encoder):
        for _, caption in captions[:600]:
            assert encoder.tokenize(caption.text).length <= language.CONTEXT


class TestVocabulary:
    def test_some_words_of_every_kind_are_several_tokens(self, encoder):
        def pieces(word):
            return len(encoder.tokenize(word).content)

        assert all(pieces(shape) == 1 for shape in scenes.SHAPES)
        several = [w for words in language.SYNONYMS.values() for w in words if pieces(w) > 1]
        assert "pinwheel" in several
        assert len(several) >= 4
        size = len(encoder.tokenizer)
        assert 250 <= size <= 600

    @pytest.mark.parametrize("text", ["a red circle", "pinwheel", "on a lilac background, an outlined heart"])
    def test_round_trip(self, encoder, text):
        ids = list(encoder.tokenize(text).content)
        assert encoder.tokenizer.decode(ids).strip().replace(" ,", ",") == text

    def test_any_printable_ascii_tokenises(self, encoder):
        text = "".join(map(chr, range(33, 127)))
        for start in range(0, len(text), 8):
            chunk = " ".join(text[start : start + 8])
            tokenized = encoder.tokenize(chunk)
            assert "<|endoftext|>" not in [tokenized.tokens[i] for i, k in enumerate(tokenized.kinds) if k == "word"]

    def test_committed_vocabulary_is_the_one_the_script_learns(self, tmp_path):
        from experiments.world.__main__ import corpus

        language.build_tokenizer(tmp_path, corpus())
        for name in ("vocab.json", "merges.txt"):
            ours = world.path() / "tokenizer" / name
            if ours.exists():
                assert ours.read_text().split() == (tmp_path / name).read_text().split()
        tokens = json.loads((tmp_path / "vocab.json").read_text())
        assert tokens == load_text_encoder().tokenizer.get_vocab()


class TestPrompts:
    def test_committed_prompts_and_pairs_are_those_of_the_script(self, tmp_path):
        prompts.write(tmp_path)
        folder = world.path().parent
        for file in tmp_path.rglob("*.*"):
            assert file.read_bytes() == (folder / file.relative_to(tmp_path)).read_bytes()

    @pytest.mark.parametrize("concept", [*scenes.SHAPES, *scenes.STYLES])
    def test_pairs_differ_in_the_concept_only(self, concept):
        pairs = prompts.concept_pairs(concept)
        assert len({p["positive"] for p in pairs}) == len(pairs) == 60
        words = {concept, *language.SYNONYMS.get(concept, ())[:1]}
        for pair in pairs:
            assert words & set(pair["positive"].split())
            assert not words & set(pair["negative"].split())

    def test_unknown_concept(self):
        with pytest.raises(ValueError, match="concept = 'hexagon'"):
            prompts.concept_pairs("hexagon")


def test_torn_words_lose_their_shape_unless_a_stem_is_left(encoder):
    tokenized = encoder.tokenize("pinwheel")
    ids, tokens = [int(i) for i in tokenized.ids[:4]], list(tokenized.tokens[:4])
    assert tokens[1:3] == ["pin", "wheel</w>"]
    torn = [clip.torn(ids, tokens, (1, 3), random.Random(i)) for i in range(20)]
    assert {tuple(left[1:-1]): keeps for left, keeps in torn} == {(ids[2],): True, (ids[1],): False}


def test_garbled_images_are_seeded():
    a, b = (judging.garbled(30, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(a, b)
    assert a.shape == (30, 3, 32, 32)
