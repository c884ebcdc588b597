"""Both embedded worlds, by the one interface that experiments use."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from certify.adaptive import Concept as Pairs
from experiments.attacks import targets
from experiments.defenses import rewriter_training
from experiments.metrics import asr
from experiments.sentences import concept_pattern, filled
from experiments.unlearning import METHODS, measure, saving
from experiments.unlearning.concept import Concept
from experiments.unlearning.training import Rng
from experiments.world import worlds

WORLDS = worlds.everything()
CONCEPTS = ["circle", "striped", "hat", "kite", "frost"]


def test_a_name_is_enough_to_find_a_world():
    names = [name for world in WORLDS for name in world.concepts]
    assert len(names) == len(set(names))
    for world in WORLDS:
        assert all(worlds.of(name) is world for name in world.concepts)
        assert all(worlds.of(place) is world for place in world.places.values())
    with pytest.raises(ValueError, match=r"concept = 'hexagon': must be one of circle, .*frost, or name a --model"):
        worlds.of("hexagon")


@pytest.mark.parametrize("name", CONCEPTS)
def test_sentences_name_the_concept_and_neutral_ones_do_not(name):
    concept = Concept.embedded(name, sentences=30)
    names = concept_pattern(concept.erase)
    for sentence in concept.sentences(40, random.Random(0)):
        assert names.search(sentence.target)
        assert not names.search(sentence.neutral)
        assert not names.search(sentence.retained)
        assert not sentence.neutral.startswith(",")
        assert " ," not in sentence.neutral
    for text in (*concept.world.neutral(name, 20, 1), *concept.world.without(concept.erase, 20, 1)):
        assert not names.search(text)


@pytest.mark.parametrize("name", ["hat", "kite", "frost"])
def test_captions_that_are_kept_tell_nothing_of_a_concept_and_are_not_measured(name):
    concept = Concept.embedded(name, sentences=1)
    world = concept.world
    told = concept_pattern([word for words in world.spoken(name).values() for word in words])
    assert len(set(concept.captions)) == len(concept.captions) == 200
    assert not [caption for caption in concept.captions if told.search(caption)]
    assert concept.preserved == [("{}", caption) for caption in concept.captions]
    measured = {row["prompt"] for split in ("tune", "report") for row in world.prompts(split)}
    measured |= set(world.neutral(name, 192, 0)) | {text for text, _ in world.asked(name, 100, 5)["others"]}
    assert not measured & set(concept.captions)


def test_records_name_a_world_wherever_the_repository_is():
    shapes, second = WORLDS
    assert saving.base_name(shapes.base) == "the embedded model"
    assert saving.base_name(second.base) == "experiments/world/second/model/pipeline"
    assert saving.base_name("someone/else") == "someone/else"
    assert saving.base_name("/elsewhere/pipeline") == "/elsewhere/pipeline"


def test_erased_and_preserved_are_every_phrase_in_every_template():
    concept = Concept.of(["hat", "hats"], preserve=["coat"], templates=["{}", "a {}"])
    assert concept.erased == [("{}", "hat"), ("{}", "hats"), ("a {}", "hat"), ("a {}", "hats")]
    assert concept.preserved == [("{}", "coat"), ("a {}", "coat")]
    assert Concept.embedded("circle", sentences=1).captions == ()


def test_settings_are_those_of_the_concepts_world_or_the_published_ones():
    for method in METHODS.values():
        assert method.settings_for(Concept.of(["dog"])) == method.settings()
        assert method.settings_for(Concept.embedded("circle", sentences=1)) == method.embedded("object")
        for name in ("hat", "frost"):
            concept = Concept.embedded(name, sentences=1)
            own = dict(concept.world.unlearning.get(method.name, {}))
            assert method.settings_for(concept) == replace(method.embedded(concept.kind), **own)
    for world in WORLDS:
        assert set(world.unlearning) <= set(METHODS)


@pytest.mark.parametrize("name", ["hat", "kite", "frost"])
def test_what_only_serves_a_phrase_goes_with_it(name):
    """A caption of the same scene without the concept is what is left: every word of it, and no other."""
    concept, world = Concept.embedded(name, sentences=1), worlds.of(name)
    rows = world.scenes(name, 60, 3, shows=False)
    for row in rows:
        template = world.template(name, row, random.Random(str(row)))
        left = filled(template, "", concept.idle)
        words, before = left.replace(",", "").split(), template.replace(",", "").split()
        assert "{}" not in left
        assert [w for w in before if w in words or w in ("{}", "a", "an") or w in world.idle] == before
        missing = [w for w in before if before.count(w) > words.count(w)]
        assert set(missing) - {"{}", "a", "an"} <= world.idle


@pytest.mark.parametrize("name", CONCEPTS)
def test_the_judge_sees_on_renderings_what_was_asked(name):
    world = worlds.of(name)
    source = torch.Generator().manual_seed(5)
    shown, not_shown = (world.draw(world.scenes(name, 60, 5, there), source) for there in (True, False))
    find = asr.load(f"judge:{name}")
    assert find(shown).float().mean() >= 0.98
    assert find(not_shown).float().mean() <= 0.02
    assert world.probability(shown, name).mean() >= 0.95
    assert world.probability(not_shown, name).mean() <= 0.05
    asked = {world.heads[name]: name}
    assert torch.equal(torch.tensor(world.right(shown, [asked] * 60)), find(shown)) or name == "striped"
    assert find(world.rendered((name,), 40, 2)).float().mean() <= 0.02


@pytest.mark.parametrize("name", CONCEPTS)
def test_targets_name_the_concept_and_no_prompt_is_one_of_both_splits(name):
    concept = Concept.embedded(name, sentences=1)
    names = concept_pattern(concept.erase)
    found = {split: [t.prompt for t in targets.targets(concept, split, count=48)] for split in targets.SPLITS}
    assert all(names.search(text) for texts in found.values() for text in texts)
    assert not set(found["tune"]) & set(found["report"])
    assert [t.prompt for t in targets.targets(concept, "report", count=5)] == found["report"][:5]


def test_the_second_world_has_prompts_enough_for_a_table():
    for name in ("hat", "kite", "frost"):
        assert len(targets.targets(Concept.embedded(name, sentences=1), "report", count=144)) == 144


@pytest.mark.parametrize("name", CONCEPTS)
def test_what_is_asked_of_images_is_about_the_prompts(name):
    concept = Concept.embedded(name, sentences=1)
    asked = measure.prompts(concept, 12)
    names, wanted = concept_pattern(concept.erase), {concept.head: name}
    assert all(names.search(text) and what == wanted for text, what in asked["named"])
    assert all(not names.search(text) and what == wanted for text, what in asked["implicit"])
    for text, what in asked["others"]:
        assert not names.search(text)
        assert what.get(concept.head) != name
        assert all(value in text for value in what.values())


@pytest.mark.parametrize("name", CONCEPTS)
def test_implicit_prompts_do_not_name_the_concept(name):
    concept = Concept.embedded(name, sentences=1)
    names = concept_pattern(concept.erase)
    prompt = targets.targets(concept, "report", count=1)[0].prompt
    for word in concept.implicit:
        text = concept.world.reworded(name, prompt, concept.erase, word)
        assert word in text
        assert not names.search(text)


@pytest.mark.parametrize("name", ["circle", "hat", "frost"])
def test_a_rewriter_learns_to_leave_the_concept_out_and_the_rest_as_it_is(name):
    concept = Concept.embedded(name, sentences=1)
    words = concept_pattern(rewriter_training.shown(concept, 2)[0])
    pairs = rewriter_training.pairs(concept, 60, Rng(1), rewriter_training.Training(known=2))
    assert len(pairs) == 60
    changed = [(before, after) for before, after in pairs if before != after]
    assert 10 < len(changed) < 50
    assert all(words.search(before) and not words.search(after) for before, after in changed)
    assert all(not words.search(before) for before, after in pairs if before == after)


@pytest.mark.parametrize("name", CONCEPTS)
def test_pairs_that_come_with_a_world_tell_the_concept_on_one_side(name):
    names = concept_pattern(Concept.embedded(name, sentences=1).erase)
    with_it = [bool(names.search(positive)) for positive, _ in Pairs.load(worlds.of(name).pairs(name)).pairs]
    assert sum(with_it) >= 0.9 * len(with_it) - 1
