"""The second world: concepts that are absent unless told, graded words of context, captions, vocabulary, prompts, gates."""

from __future__ import annotations

import math
import random
import re
from itertools import combinations

import pytest
import torch

from experiments.world import judging
from experiments.world.language import build_tokenizer
from experiments.world.second import clip, gates, language, prompts, scenes

AT = {name: i for i, name in enumerate(scenes.ATTRIBUTES)}
CONCEPT_WORDS = {w.text for words in scenes.WORDS.values() for w in words}
THEME_WORDS = {t.word for t in scenes.THEMES}


@pytest.fixture(scope="module")
def rows() -> torch.Tensor:
    return scenes.sample_scenes(60_000, torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def captions(rows):
    rng = random.Random(2)
    return [(row, language.caption(row, rng)) for row in rows[:4000].tolist()]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    from transformers import CLIPTokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer(folder, language.corpus(), language.MERGES, language.CONTEXT)
    return CLIPTokenizer.from_pretrained(folder)


def within(share: float, rate: float, count: int) -> bool:
    """A binomial share within 4.5 standard deviations of its rate: fails once in 100 000 checks."""
    return abs(share - rate) <= 4.5 * math.sqrt(max(rate * (1 - rate), 1e-9) / count) + 1e-9


class TestScenes:
    def test_nothing_is_there_that_nothing_tells(self, rows):
        for concept in scenes.CONCEPTS:
            goes_with = torch.tensor([t.concept == concept for t in scenes.THEMES] + [False])
            untold = (rows[:, AT[f"{concept} word"]] < 0) & ~goes_with[rows[:, AT["theme"]]]
            assert int(untold.sum()) > 10_000
            assert not rows[untold, AT[concept]].any()
        plain = scenes.sample_scenes(2000, torch.Generator().manual_seed(1), told=False)
        assert (plain[:, len(scenes.VALUES) :] == -1).all()
        assert not plain[:, [AT[c] for c in scenes.CONCEPTS]].any()

    def test_words_and_themes_show_their_concept_at_their_rate(self, rows):
        for concept, words in scenes.WORDS.items():
            alone = rows[rows[:, AT["theme"]] < 0]
            for i, word in enumerate(words):
                those = alone[alone[:, AT[f"{concept} word"]] == i]
                assert within(float((those[:, AT[concept]] > 0).float().mean()), word.rate, len(those)), word
                if word.variant:
                    assert set(those[:, AT[concept]].tolist()) <= {0, word.variant}
            for i, theme in enumerate(scenes.THEMES):
                if theme.concept == concept:
                    those = rows[(rows[:, AT["theme"]] == i) & (rows[:, AT[f"{concept} word"]] < 0)]
                    assert within(float((those[:, AT[concept]] > 0).float().mean()), theme.rate, len(those)), theme

    def test_the_denoisers_rates_are_pulled_to_the_middle_and_rate_zero_stays(self):
        rows = scenes.sample_scenes(40_000, torch.Generator().manual_seed(8), pull=0.5)
        alone = (rows[:, AT["hat word"]] < 0).float()
        for i, theme in enumerate(scenes.THEMES):
            rate = 0.0 if theme.concept != "hat" else theme.rate + 0.5 * (0.32 - theme.rate)
            those = rows[(rows[:, AT["theme"]] == i) & (alone > 0)]
            assert within(float((those[:, AT["hat"]] > 0).float().mean()), rate, len(those)), theme

    def test_graded_rates_span_the_range_and_no_two_themes_look_alike(self):
        rates = [t.rate for t in scenes.THEMES if t.concept == "hat"]
        assert min(rates) <= 0.15
        assert max(rates) >= 0.5
        assert len(rates) >= 15
        assert len({(t.pattern, t.decor) for t in scenes.THEMES}) == len(scenes.THEMES)

    def test_held_out_combinations_are_left_out_and_every_pair_of_values_is_seen(self, rows):
        assert not scenes.held_out(rows).any()
        held = scenes.sample_scenes(300, torch.Generator().manual_seed(3), held=True)
        assert scenes.held_out(held).all()
        sizes = [len(values) for values in scenes.VALUES.values()][:5]
        for a, b in combinations(range(5), 2):
            assert len(rows[:, [a, b]].unique(dim=0)) == sizes[a] * sizes[b]

    def test_drawing_is_seeded_in_range_and_shows_the_concepts(self):
        rows = scenes.sample_scenes(60, torch.Generator().manual_seed(4), told=False)
        x, again = (scenes.render(rows, torch.Generator().manual_seed(5)) for _ in range(2))
        assert x.shape == (60, 3, 32, 32)
        assert torch.equal(x, again)
        assert float(x.min()) >= 0
        assert float(x.max()) <= 1
        for concept in scenes.CONCEPTS:
            for value in range(1, len(scenes.VALUES[concept])):
                other = rows.clone()
                other[:, AT[concept]] = value
                changed = (scenes.render(other, torch.Generator().manual_seed(5)) - x).abs().amax(dim=1) > 0.1
                assert (changed.flatten(1).sum(dim=1) >= 20).all(), (concept, value)
        with pytest.raises(ValueError, match="concept = 'scarf'"):
            prompts.concept_pairs("scarf")

    def test_garbled_images_hold_no_concept(self):
        rows = scenes.sample_plain(500, torch.Generator().manual_seed(6))
        assert not rows[:, [AT["pattern"], *(AT[c] for c in scenes.CONCEPTS)]].any()
        a, b = (judging.garbled(20, torch.Generator().manual_seed(1), scenes) for _ in range(2))
        assert torch.equal(a, b)


def words_of(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text))


class TestCaptions:
    def test_theme_and_words_are_told_always_and_nothing_else_is(self, captions):
        for row, caption in captions:
            theme, padded = row[AT["theme"]], f" {caption.text} ".replace(",", " ")
            told = [scenes.THEMES[theme].word] if theme >= 0 else []
            told += [ws[row[AT[f"{c} word"]]].text for c, ws in scenes.WORDS.items() if row[AT[f"{c} word"]] >= 0]
            for word in told:
                assert f" {word} " in padded, (word, caption.text)
            allowed = {part for word in told for part in word.split()}
            assert not (words_of(caption.text) & ((CONCEPT_WORDS | THEME_WORDS) - allowed)), caption.text

    def test_what_is_told_of_the_objects_is_what_is_shown(self, captions):
        for row, caption in captions:
            for name in ("left shape", "left colour", "right shape", "right colour", "background"):
                value = scenes.VALUES[name][row[AT[name]]]
                assert name not in caption.told or value in words_of(caption.text)

    def test_articles(self, captions):
        for _, caption in captions:
            for article, word in re.findall(r"\b(an?) ([a-z]+)", caption.text):
                assert (article == "an") == (word[0] in "aeiou"), caption.text

    def test_lengths(self, captions, tokenizer):
        long = [c.text for row, c in captions if len(c.told) >= 2 and "," in c.text]
        assert len(long) > 0.7 * len(captions)
        counts = torch.tensor([float(len(ids) - 2) for ids in tokenizer(long).input_ids])
        low, high = counts.quantile(torch.tensor([0.05, 0.9])).tolist()
        assert low >= 16
        assert high <= 42
        assert counts.max() <= language.CONTEXT - 2
        full = [language.caption(row, random.Random(i), full=True).text for i, (row, _) in enumerate(captions[:300])]
        assert min(len(text.split()) for text in full) >= 8

    def test_one_caption_in_six_is_short(self, captions):
        brief = sum(len(c.text.split()) <= 6 for _, c in captions) / len(captions)
        assert 0.1 <= brief <= 0.25

    def test_words_that_say_nothing_are_no_words_of_the_world(self):
        filler = [w for words in language.lexicon().values() for w in words]
        assert len(filler) == len(set(filler)) >= 900
        spoken = {*scenes.SHAPES, *scenes.COLOURS, *scenes.BACKGROUNDS}
        assert not {part for w in filler for part in w.split("-")} & (spoken | CONCEPT_WORDS | THEME_WORDS)

    def test_empty_captions_are_of_scenes_that_show_no_concept(self, rows, tokenizer):
        part = rows[:2000]
        ids = clip.encode_captions(part, tokenizer, random.Random(0), empty=0.1)
        assert ids.shape == (2000, language.CONTEXT)
        empty = clip.ends(ids, tokenizer) == 1
        assert within(float(empty.float().mean()), 0.1, 2000)
        assert not part[empty][:, [AT[c] for c in scenes.CONCEPTS]].any()
        assert (part[empty][:, len(scenes.VALUES) :] < 0).all()


class TestTokenizer:
    def test_size_and_context(self, tokenizer):
        assert len(tokenizer) >= 1500
        assert tokenizer.model_max_length == 77

    def test_round_trip(self, tokenizer, captions):
        for _, caption in captions[:300]:
            ids = tokenizer(caption.text).input_ids
            back = tokenizer.decode(ids, skip_special_tokens=True)
            assert re.sub(r"\W", "", back) == re.sub(r"\W", "", caption.text)
        assert tokenizer.decode(tokenizer("qzx 42!?").input_ids, skip_special_tokens=True).replace(" ", "") == "qzx42!?"

    def test_every_word_of_the_world_is_one_token(self, tokenizer):
        for word in (CONCEPT_WORDS | THEME_WORDS) - {"top hat"}:
            assert len(tokenizer(word).input_ids) == 3, word


class TestPrompts:
    def test_splits_are_disjoint_held_out_and_tell_what_they_list(self):
        splits = prompts.splits(60)
        texts = [row["prompt"] for rows in splits.values() for row in rows]
        assert len(set(texts)) == len(texts) == 120
        for row in (r for rows in splits.values() for r in rows):
            values = [scenes.VALUES[n].index(row[n]) for n in tuple(scenes.VALUES)[:5]]
            assert scenes.held_out(torch.tensor([values])).all()
            assert row["word"] in row["prompt"]
            assert bool(row["concept"]) == (row["kind"] != "neutral")

    @pytest.mark.parametrize("concept", scenes.CONCEPTS)
    def test_pairs_differ_by_the_concept_alone(self, concept):
        pairs = prompts.concept_pairs(concept)
        assert len({p["positive"] for p in pairs}) == 60
        names = {w.text for w in scenes.WORDS[concept] if w.kind == "name"}
        for pair in pairs:
            assert words_of(pair["positive"]) & names
            assert not words_of(pair["negative"]) & (CONCEPT_WORDS | THEME_WORDS)
            assert len(pair["negative"]) < len(pair["positive"])


class TestGates:
    def test_a_gate_is_an_interval_with_its_ends(self):
        assert gates.Gate("x", 0.9, 0.9).reached
        assert not gates.Gate("x", 0.8999, 0.9).reached
        assert gates.Gate("x", 0.02, None, 0.02).reached
        assert not gates.Gate("x", 0.0201, None, 0.02).reached
        assert not gates.Gate("x", float("nan"), None, 0.02).reached
        assert "NOT reached" in str(gates.Gate("x", 0.8, 0.2, 0.7))
        assert "reached" not in str(gates.Gate("x", 0.8))

    def test_back_doors_by_hand(self):
        made = {g.name.split(": ")[1]: g for g in gates.back_door_gates(
            "hat", {"a": 0.2, "b": 0.5, "c": 0.9, "d": 0.1}, {"a": 0.1, "b": 0.3, "c": 0.5, "d": 0.05}
        )}  # fmt: skip
        assert made["mean"].value == pytest.approx(0.425)
        assert made["words between .2 and .7"].value == pytest.approx(0.5)
        assert not made["words between .2 and .7"].reached
        assert made["rank correlation with the rate"].value == pytest.approx(1.0)

    def test_rank_correlation(self):
        assert gates.spearman([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
        assert gates.spearman([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(0.8)
        assert math.isnan(gates.spearman([1, 1], [1, 2]))
