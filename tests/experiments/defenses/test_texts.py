"""What all defences share; the blacklist; adaptive median smoothing as a defence."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from certify import AdaptiveMedianSmoother, load_pipeline
from certify.models import PromptEncoder
from certify.world import DEFAULTS, SMOOTHING
from experiments.defenses.ams import VARIANTS, Ams, Settings, variant
from experiments.defenses.blacklist import Blacklist, dropped, read_words
from experiments.defenses.blacklist import Settings as Words
from experiments.defenses.defense import Plain, fitting
from experiments.unlearning.concept import Concept

CIRCLE = Concept.embedded("circle", sentences=5)
SAMPLER = {"steps": DEFAULTS["num_inference_steps"], "guidance": DEFAULTS["guidance_scale"]}


@pytest.fixture(scope="module")
def small(pipeline_folder):
    return load_pipeline(pipeline_folder)


# What all share


def test_a_text_that_is_too_long_loses_its_last_words(small):
    encoder = PromptEncoder.from_pipeline(small)
    room = encoder.context_length - 2
    assert fitting(encoder, "a red circle") == "a red circle"
    assert fitting(encoder, "red " * room) == "red " * room
    assert fitting(encoder, "red " * (room + 1)) == " ".join(["red"] * room)
    assert fitting(encoder, "a " + "red " * (room - 1) + "starfish coin").split() == ["a"] + ["red"] * (room - 1)
    run = fitting(encoder, "qx" * 40)
    assert run
    assert run != "qx" * 40
    assert ("qx" * 40).startswith(run)
    # The images are those of the first tokens, cut as the pipeline cuts them: within a word, too.
    plain = Plain(small, steps=1, guidance=3.0)
    for long in ("red " * 40, "a " + "starfish sunflower xqz " * 9):
        assert torch.equal(plain.encoder.plain([long]), small.encode_prompt(long, "cpu", 1, False)[0])
        made = plain.make([long], [0])
        assert made.prompts == (long,)
    assert torch.equal(plain.make(["red " * 40], [0]).images, plain.make([" ".join(["red"] * room)], [0]).images)


# Blacklist


@pytest.mark.parametrize(
    ("prompt", "phrases", "expected"),
    [
        ("a photo of a red circle", ["circle"], "a photo of a red"),
        ("Circle, CIRCLE and circle", ["cirCLE"], ", and"),
        ("circles encircled a semicircle", ["circle"], "circles encircled a semicircle"),
        ("a ｃｉｒｃｌｅ on teal", ["circle"], "a on teal"),
        ("in the style of Van Gogh, at night", ["van gogh"], "in the style of, at night"),
        ("a van-gogh sky", ["Van Gogh"], "a sky"),
        ("van, gogh", ["van gogh"], "van, gogh"),
        ("van gogh and van dyck", ["van", "van gogh"], "and dyck"),
        ("a STRASSE and a straße", ["straße"], "a and a"),
        ("circle", ["circle"], ""),
        ("", ["circle"], ""),
        ("  two  spaces ", ["circle"], "  two  spaces "),
        ("a circle circle circle moon", ["circle"], "a moon"),
        ("the circle's edge", ["circle"], "the's edge"),
        ("a red_circle", ["circle"], "a red_"),
    ],
)
def test_words_that_go_and_words_that_stay(prompt, phrases, expected):
    assert dropped(prompt, phrases) == expected


def test_the_list_is_the_concept_and_a_file(small, tmp_path):
    file = tmp_path / "words.txt"
    file.write_text("# what else means it\nCoin\n\nsun flower\n", encoding="utf-8")
    assert read_words(file) == ("Coin", "sun flower")
    concept = Concept.of(["circle"])
    alone = Blacklist(small, steps=2, guidance=3.0, concept=concept)
    prompts = ["a coin and a circle", "a red square"]
    assert alone.rewritten(prompts) == ["a coin and a", "a red square"]
    more = Blacklist(small, steps=2, guidance=3.0, concept=concept, settings=Words(("square",), str(file)))
    assert more.rewritten([*prompts, "sun-flower"]) == ["a and a", "a red", ""]
    assert more.described()["words"] == ["circle", "square", "Coin", "sun flower"]
    assert more.make(["circle"], [0]).prompts == ("",)


def test_lists_without_a_word(small, tmp_path):
    with pytest.raises(ValueError, match="must hold a word"):
        Blacklist(small, steps=2, guidance=3.0)
    with pytest.raises(ValueError, match="must hold a word"):
        Blacklist(small, steps=2, guidance=3.0, settings=Words(("…",)))
    with pytest.raises(FileNotFoundError, match=r"nowhere\.txt"):
        Blacklist(small, steps=2, guidance=3.0, settings=Words(file=str(tmp_path / "nowhere.txt")))
    (tmp_path / "empty.txt").write_text("# nothing\n")
    with pytest.raises(ValueError, match="has no words"):
        read_words(tmp_path / "empty.txt")
    with pytest.raises(TypeError, match="must be a list of words"):
        Words("circle")


# Adaptive median smoothing


def ams(pipe, settings: Settings | None = None) -> Ams:
    return Ams(pipe, **SAMPLER, concept=CIRCLE, settings=settings or replace(Ams.embedded(), seed=0))


def test_the_encoding_is_the_smoothers(world_pipe):
    prompts = ["a photo of a red circle", "a blue star on teal"]
    smoother = AdaptiveMedianSmoother.from_pipeline(world_pipe, "circle", **SMOOTHING)
    assert torch.equal(ams(world_pipe).encoded(prompts), smoother.encode(prompts, seed=0))
    again = ams(world_pipe, replace(Ams.embedded(), seed=1)).encoded(prompts)
    assert torch.equal(again, smoother.encode(prompts, seed=1))
    assert not torch.equal(again, smoother.encode(prompts, seed=0))


def test_an_empty_prompt_keeps_its_encoding(world_pipe):
    defence = ams(world_pipe)
    mixed = defence.encoded(["", "a red circle", " "])
    plain = defence.encoder.plain([""])[0]
    assert torch.equal(mixed[0], plain)
    assert torch.equal(mixed[2], plain)
    assert torch.allclose(mixed[1], defence.encoded(["a red circle"])[0], atol=1e-5)
    assert torch.equal(defence.encoded([""])[0], plain)


def test_every_variant_is_another_smoother(world_pipe):
    seen = {}
    for name in VARIANTS:
        defence = ams(world_pipe, variant(replace(Ams.embedded(), seed=0), name))
        assert defence.described()["policy"] == ("noise-then-adapt" if name == "noise-then-adapt" else "frozen")
        seen[name] = defence.encoded(["a photo of a striped red circle"])
    seen["several"] = ams(
        world_pipe, variant(replace(Ams.embedded(), seed=0), "local", concepts=("circle", "striped"))
    ).encoded(["a photo of a striped red circle"])
    # Where a word is more relevant by itself than in its context, the global flag changes nothing: it is looked at below.
    names = [name for name in seen if name != "global"]
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            assert not torch.equal(seen[first], seen[second]), (first, second)
    assert ams(world_pipe, variant(Ams.embedded(), "isotropic")).smoother.k == 0
    assert ams(world_pipe, variant(Ams.embedded(), "global")).described()["use_global"] is True
    assert ams(world_pipe).described()["use_global"] is False


def test_published_settings_are_the_papers():
    s = Ams.published()
    assert (s.sigma0, s.k, s.n, s.aggregate, s.policy, s.use_global) == (0.006, 9.0, 13, "median", "frozen", False)


def test_noise_suppresses_the_concept_and_leaves_others(world_pipe):
    """Relative change of the encodings: large where a circle is asked for, small elsewhere."""

    def moved(prompt: str) -> float:
        defence = ams(world_pipe)
        plain = defence.encoder.plain([prompt])
        return float((defence.encoded([prompt]) - plain).norm() / plain.norm())

    assert moved("a red circle on teal") > 2 * moved("a red star on teal")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Settings(concepts="circle"), "concepts = 'circle': must be a list"),
        (lambda: Settings(policy="memory"), "policy = 'memory': must be one of 'frozen', 'noise-then-adapt'"),
        (lambda: Settings(seed=-1), "seed = -1"),
        (lambda: variant(Settings(), "other"), "name = 'other': must be one of 'local'"),
    ],
)
def test_bad_settings(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()


def test_a_concept_or_pairs_must_be_given(world_pipe):
    with pytest.raises(ValueError, match="concept = None: 'ams' must be told"):
        Ams(world_pipe, **SAMPLER)
    assert Ams(world_pipe, **SAMPLER, settings=replace(Ams.embedded(), concepts=("star",))).smoother.concepts
