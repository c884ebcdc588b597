"""The prompt pairs that ship with the package: format, contrast and variety.

What "no template yields more than five pairs" means here. A template is a sentence whose content words are
exchanged, so two positives come from one template when they agree after every run of content words has become one
blank. Function words and punctuation remain, and that is the *skeleton*: "a toy gun on a table" and "a rusty pistol
in the old box" give "_ on _" and "_ in _". Articles go with the content words, since exchanging a word often
exchanges its article. The skeleton is coarser than a template (unrelated short sentences share one), so the rule
that is tested is stricter than the one that is meant. A template could also hide in a fixed opening or ending with
a free rest ("a photo of …", "…, oil on canvas"), which the skeleton does not see; hence the first four and the last
four words are counted as well.
"""

import json
import re
from collections import Counter
from difflib import SequenceMatcher
from pathlib import Path

import pytest

DATA = Path(__file__).parents[2] / "certify" / "adaptive" / "data"

# Whole words (hyphenated words also count by their parts) one of which every positive has and no negative has.
CONCEPT_WORDS = {
    "nudity": "bare bare-chested naked nude nudes nudity shirtless unclothed undressed",
    "violence": """
        attack attacks battle battlefield beats boxing brawl bruised butting charging clash collide combat
        crash crush destroy destroyed destroys destruction duel earthquake exploding fight fighting hitting
        hurls invasion jousting kicks knocks mobbing punch punching quarrel raid rebel riot rob scuffle
        shootout shoving slammed slap slaying smash smashed smashes stabbed storming strikes striking violence
        violent war warfare wrecked
    """,
    "gun": """
        blunderbuss firearm gun gunmetal guns gunslinger handgun musket muskets pistol pistols popgun revolver
        revolvers rifle rifles shotgun
    """,
    "van-gogh": "gogh gogh's vincent vincent's",
}
CONCEPTS = sorted(CONCEPT_WORDS)

FUNCTION_WORDS = """
    about above across after against all along and any are around as at be because before behind below beneath
    beside between both but by can could down during each every everyone for from had has have he her here his
    how i in into is it its like may must my near no nobody not of off on onto or our out over she so some
    someone than that their them then there these they this those through to under until up was we were what
    when where which while who whom whose why will with without would you your
"""
ARTICLES = frozenset({"a", "an", "the"})


def load(concept: str) -> list[dict[str, str]]:
    text = (DATA / f"{concept}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def words(sentence: str) -> list[str]:
    return re.findall(r"[a-z0-9]+(?:['-][a-z0-9]+)*", sentence.lower())


def vocabulary(sentence: str) -> set[str]:
    whole = words(sentence)
    return set(whole) | {part for word in whole for part in word.split("-")}


def skeleton(sentence: str) -> str:
    function_words = set(FUNCTION_WORDS.split())
    blank: list[str] = []
    for token in re.findall(r"[a-z0-9]+(?:['-][a-z0-9]+)*|[^\sa-z0-9]", sentence.lower()):
        if token in ARTICLES or (token[0].isalnum() and token not in function_words):
            token = "_"
        if not (token == "_" and blank and blank[-1] == "_"):
            blank.append(token)
    return " ".join(blank)


def overused_templates(positives: list[str], at_most: int = 5) -> list[tuple[str, int]]:
    """Skeletons, four-word openings and four-word endings that more than `at_most` of the sentences share."""
    found: list[tuple[str, int]] = []
    for kind, key in (
        ("skeleton", skeleton),
        ("opening", lambda sentence: " ".join(words(sentence)[:4])),
        ("ending", lambda sentence: " ".join(words(sentence)[-4:])),
    ):
        counts = Counter(map(key, positives))
        found += [(f"{kind}: {shape}", count) for shape, count in counts.items() if count > at_most]
    return found


def test_every_concept_of_the_paper_has_a_file():
    assert sorted(path.stem for path in DATA.glob("*.jsonl") if path.stem in CONCEPT_WORDS) == CONCEPTS


@pytest.mark.parametrize("concept", CONCEPTS)
class TestPairs:
    def test_about_one_hundred_pairs_of_two_nonempty_strings(self, concept):
        pairs = load(concept)
        assert 90 <= len(pairs) <= 120
        for pair in pairs:
            assert list(pair) == ["positive", "negative"]
            for side in pair.values():
                assert isinstance(side, str)
                assert side
                assert side == " ".join(side.split())
                assert side.isascii()
                assert side.isprintable()

    def test_no_duplicates(self, concept):
        pairs = load(concept)
        for side in ("positive", "negative"):
            repeated = [text for text, count in Counter(pair[side].lower() for pair in pairs).items() if count > 1]
            assert not repeated
        assert not {pair["positive"].lower() for pair in pairs} & {pair["negative"].lower() for pair in pairs}

    def test_no_prompt_is_longer_than_the_context(self, concept):
        # CLIP's context is 77 tokens, two of them for begin and end. These files need at most 44 with CLIP's own
        # vocabulary, which is not at hand here; words and marks are counted instead, with room to spare.
        for pair in load(concept):
            for side in pair.values():
                assert 3 <= len(words(side)) <= 40
                assert len(re.findall(r"[a-z0-9]+|[^\sa-z0-9]", side.lower())) <= 55

    def test_lengths_vary(self, concept):
        lengths = [len(words(pair["positive"])) for pair in load(concept)]
        assert min(lengths) <= 7
        assert max(lengths) >= 25
        assert len(set(lengths)) >= 10

    def test_only_the_positive_names_the_concept(self, concept):
        concept_words = set(CONCEPT_WORDS[concept].split())
        for pair in load(concept):
            assert vocabulary(pair["positive"]) & concept_words, pair
            assert not vocabulary(pair["negative"]) & concept_words, pair

    def test_the_negative_stays_close_to_the_positive(self, concept):
        # At least two words are kept, in order; over the whole file most of the sentence is.
        kept = []
        for pair in load(concept):
            positive, negative = words(pair["positive"]), words(pair["negative"])
            same = sum(
                block.size for block in SequenceMatcher(None, positive, negative, autojunk=False).get_matching_blocks()
            )
            assert same >= 2, pair
            kept.append(2 * same / (len(positive) + len(negative)))
        assert sum(kept) / len(kept) >= 0.7

    def test_no_template_yields_more_than_five_pairs(self, concept):
        assert not overused_templates([pair["positive"] for pair in load(concept)])


def test_the_template_rule_catches_a_template():
    nouns = ["table", "shelf", "wooden bench", "chair", "very old box", "roof"]
    assert overused_templates([f"a toy gun on the {noun}" for noun in nouns])
    assert overused_templates([f"an oil painting of {noun} {'and more ' * i}" for i, noun in enumerate(nouns)])
    assert not overused_templates([f"a toy gun on the {noun}" for noun in nouns[:5]])
