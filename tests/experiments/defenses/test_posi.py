"""POSI: the pairs it learns from, the model, training and PPO, what it does to prompts it has not seen, language models."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from certify import load_pipeline, world
from certify.models import PromptEncoder
from certify.models.load import load_text_encoder
from experiments.defenses import posi
from experiments.defenses.posi import LanguageModel, Posi, Settings, judged, trained
from experiments.defenses.rewriter import Rewriter
from experiments.defenses.rewriter_training import Training, _thrown, pairs, reinforce, reward, train, world_words
from experiments.defenses.rewriter_training import shown as shown_words
from experiments.unlearning.concept import Concept
from experiments.unlearning.training import Rng, TrainingLoop
from experiments.world import language, scenes

SAMPLER = {"steps": 8, "guidance": 2.0}
SMALL = Training(steps=60, batch=16, layers=1, width=64)


@pytest.fixture(scope="module")
def encoder() -> PromptEncoder:
    return load_text_encoder(world.path())


@pytest.fixture(scope="module")
def circle() -> Concept:
    return Concept.embedded("circle", sentences=5)


# What it learns from


@pytest.mark.parametrize("name", ["circle", "striped"])
def test_pairs_differ_by_the_concept_alone(name):
    concept = Concept.embedded(name, sentences=5)
    made = pairs(concept, 400, Rng(0), Training(known=1))
    shown = {name, concept.implicit[0]}
    unseen = set(concept.implicit[1:])
    others = {word for many in shown_words(concept, 1)[1].values() for word in many}
    back = world_words(concept) - {*concept.erase, *concept.implicit} - others
    assert back  # as of the concept, words of other things are held back
    toxic = 0
    for asked, wanted in made:
        before, after = (text.replace(",", " ").split() for text in (asked, wanted))
        assert not ({*shown, *unseen} & set(after)), (asked, wanted)
        assert not (unseen | back) & set(before)
        if shown & set(before):
            toxic += 1
            rest = [word for word in before if word not in shown and word not in ("a", "an", "in", "style")]
            assert rest == [w for w in after if w not in (concept.neutral, "a", "an", "in", "style")]
        else:
            assert asked == wanted
    assert 120 < toxic < 280


def test_made_up_nouns_stay(circle):
    rng, source = random.Random(0), torch.Generator().manual_seed(0)

    def new(settings):
        captions = (language.caption(row, rng).text for row in scenes.sample_scenes(4000, source).tolist())
        spoken = {word for text in captions for word in text.replace(",", " ").split()}
        made = pairs(circle, 400, Rng(0), settings)
        return [(a, b) for a, b in made if set(a.replace(",", " ").split()) - spoken]

    assert 30 < len(new(Training())) < 90  # .3 of half of them
    assert all(a == b for a, b in new(Training()))
    assert not new(replace(Training(), made=0.0))


def test_disturbed_pairs_still_differ_by_the_concept_alone(circle):
    thrown = ["ile", "qu", "zz"]
    made = pairs(circle, 400, Rng(0), Training(), thrown=thrown)
    touched = [(a.replace(",", " ").split(), b.replace(",", " ").split()) for a, b in made]
    touched = [(a, b) for a, b in touched if set(thrown) & set(a)]
    assert 100 < len(touched) < 220  # .4
    for a, b in touched:
        assert [w for w in a if w in thrown] == [w for w in b if w in thrown]
        assert [w for w in a if w not in ("circle", "coin", "shape")] == [w for w in b if w != "shape"]
    inside = [a for a, _ in touched if any(w in thrown for w in a[2:-2])]
    assert len(inside) > 20  # not at the ends alone
    plain = pairs(circle, 400, Rng(0), replace(Training(), noise=0.0, mixed=0.0), thrown=thrown)
    assert not any(set(thrown) & set(a.split()) for a, _ in plain)


def test_what_is_thrown_in_gives_no_word_away(encoder, circle):
    """Neither the concept's words nor those held back stand among the words to throw in; as whole words, pieces do."""
    model = Rewriter(encoder, layers=1, width=32)
    words = set(_thrown(model, circle, 1))
    assert not {"circle", "coin", "wheel", "ball", "tile", "crate", "twinkle"} & words
    assert {"square", "box", "red", "shape"} <= words  # the control: shown words do
    assert len(words) > 200


def test_pairs_are_of_training_combinations(circle):
    def index(values, words):
        return next((i for i, value in enumerate(values) if value in words), None)

    known = 0
    for asked, _ in pairs(circle, 500, Rng(1), Training()):
        words = asked.replace(",", " ").split()
        shape = next((s for s, many in language.SYNONYMS.items() if {s, *many} & set(words)), None)
        where = (index(scenes.COLOURS, words), index(scenes.BACKGROUNDS, words))
        if shape is None or None in where:
            continue
        known += 1
        assert not bool(scenes.held_out(torch.tensor([[scenes.SHAPES.index(shape), *where, 0, 0]])))
    assert known > 100


def test_captions_that_are_too_long_are_left_out(encoder, circle):
    """About one in a thousand is; the control draws the same captions and has one."""
    fits = Rewriter(encoder, layers=1, width=32).fits
    assert fits("a red circle")
    assert not fits("red " * 19)
    assert all(fits(a) and fits(b) for a, b in pairs(circle, 8000, Rng(0), Training(), fits))
    assert not all(fits(a) and fits(b) for a, b in pairs(circle, 8000, Rng(0), Training()))


def test_a_concept_of_no_world_has_no_pairs():
    with pytest.raises(ValueError, match="must be a concept of an embedded world"):
        pairs(Concept.of(["van gogh"]), 5, Rng(0), Training())


# The model


def test_words_are_tokenised_as_the_pipeline_does(encoder):
    model = Rewriter(encoder, layers=1, width=32)
    for row in world.prompts("tune")[:60]:
        (ids,) = model.ids([row["prompt"]])
        assert tuple(ids) == encoder.tokenize(row["prompt"]).content
        (text,) = model.texts([ids])
        assert encoder.tokenize(text).content == tuple(ids)
    with pytest.raises(ValueError, match="must have at most 18"):
        model.ids(["red " * 19])


def test_an_answer_sees_the_whole_prompt_and_only_what_was_written_before(encoder):
    model = Rewriter(encoder, layers=2, width=32, seed=1)
    given = [[5, 9, 30], [5, 9, 31]]
    written = torch.tensor([[model.begin, 7, 8, 9]] * 2)
    first, second = model.logits(given, written)
    assert not torch.allclose(first[0], second[0], atol=1e-4)  # the prompt's last token
    later = written.clone()
    later[:, 3] = 40
    changed = model.logits(given, later)
    assert torch.allclose(changed[:, :3], model.logits(given, written)[:, :3], atol=1e-5)
    assert not torch.allclose(changed[:, 3], model.logits(given, written)[:, 3], atol=1e-4)
    alone = model.logits([given[0]], written[:1])  # padding and other rows do not matter
    assert torch.allclose(alone[0], first, atol=1e-5)
    assert torch.isfinite(model.logits([[]], written[:1])).all()


def test_scores_are_log_probabilities_of_the_answers(encoder):
    model = Rewriter(encoder, layers=1, width=32, seed=2)
    log_p, counts = model.scores([[5], [6, 7]], [[8, 9], []])
    assert counts.tolist() == [[True, True, True], [True, False, False]]
    by_hand = model.logits([[5]], torch.tensor([[model.begin, 8, 9]])).log_softmax(2)[0]
    assert torch.allclose(log_p[0], torch.stack([by_hand[0, 8], by_hand[1, 9], by_hand[2, model.end]]), atol=1e-5)


def test_saved_and_loaded_it_answers_the_same(encoder, tmp_path, pipeline_folder):
    model, _ = train(encoder, Concept.embedded("circle", sentences=5), replace(SMALL, steps=15), TrainingLoop())
    path = model.save(tmp_path / "rewriter.safetensors", {"concept": "circle"})
    again = Rewriter.load(path, encoder)
    prompts = [row["prompt"] for row in world.prompts("tune")[:5]]
    halves = {name: t.half().float() for name, t in model.state_dict().items()}
    model.load_state_dict(halves)
    assert again.rewrite(prompts) == model.rewrite(prompts)
    with pytest.raises(ValueError, match="must be of the same tokenizer"):
        Rewriter.load(path, PromptEncoder.from_pipeline(load_pipeline(pipeline_folder)))
    with pytest.raises(FileNotFoundError, match="posi-train"):
        Rewriter.load(tmp_path / "nowhere.safetensors", encoder)
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="is not a saved rewriter"):
        Rewriter.load(tmp_path / "other.safetensors", encoder)


# Training


def test_training_learns_and_a_stopped_run_goes_on_to_the_same_weights(encoder, circle, tmp_path):
    whole, record = train(encoder, circle, SMALL, TrainingLoop(seed=3))
    losses = record["last losses"]

    class Stop(Exception):
        pass

    def stop(stage: str, step: int, steps: int, loss: float) -> None:
        if step == 25:
            raise Stop

    folder = tmp_path / "run"
    with pytest.raises(Stop):
        train(encoder, circle, SMALL, TrainingLoop(seed=3, folder=folder, every=0.0, progress=stop))
    resumed, _ = train(encoder, circle, SMALL, TrainingLoop(seed=3, folder=folder, every=0.0))
    for name, weight in whole.state_dict().items():
        assert torch.allclose(weight, resumed.state_dict()[name], atol=1e-5), name
    other, _ = train(encoder, circle, SMALL, TrainingLoop(seed=4))
    assert not torch.allclose(whole.tokens.weight, other.tokens.weight, atol=1e-3)
    untrained = Rewriter(encoder, layers=1, width=64, seed=3)
    made = pairs(circle, 64, Rng(9), SMALL)
    asked, wanted = untrained.ids([a for a, _ in made]), untrained.ids([b for _, b in made])
    log_p, counts = untrained.scores(asked, wanted)
    assert sum(losses) / len(losses) < 0.6 * float(-log_p[counts].mean().detach())


def test_ppo_makes_rewarded_answers_more_probable_and_a_flat_reward_changes_nothing(encoder, circle):
    """The reward counts one token; draws come to hold more of it."""
    settings = replace(SMALL, steps=25, rounds=12, prompts=6, draws=6, ppo_rate=3e-3)
    word = Rewriter(encoder, layers=1, width=64).ids(["thing"])[0]

    def counted(prompts, answers, seed):
        return torch.tensor([float("thing" in answer.split()) for answer in answers])

    means = {}
    for name, score in (("counted", counted), ("flat", lambda p, a, s: torch.ones(len(a)))):
        model, _ = train(encoder, circle, replace(settings, rounds=0), TrainingLoop(seed=5))
        before = {k: v.clone() for k, v in model.state_dict().items()}
        asked = model.ids([a for a, _ in pairs(circle, 32, Rng(1), settings)])
        log_p, _ = model.scores(asked, [word] * 32)
        reinforce(model, circle, settings, TrainingLoop(seed=5), score)
        later, _ = model.scores(asked, [word] * 32)
        means[name] = float((later - log_p)[:, 0].mean().detach())
        moved = max(float((v.detach() - before[k]).abs().max()) for k, v in model.state_dict().items())
        assert (moved == 0) is (name == "flat")
    assert means["counted"] > 0.2


def test_the_reward_is_high_for_answers_without_the_concept(world_pipe, circle):
    scored = reward(world_pipe, circle, replace(Training(), images=2, cap=0.31))
    asked = "a photo of a red circle on a teal background"
    kept, cleaned = scored([asked] * 2, [asked, "a photo of a red square on a teal background"], 0).tolist()
    assert kept < 1.5
    assert 5 < cleaned < 5.3101
    assert scored([asked], ["a photo of a red square on a teal background"], 0).tolist() == pytest.approx(
        [cleaned], abs=0.05
    )


def test_rounds_need_a_reward_and_heads_divide(encoder, circle):
    with pytest.raises(ValueError, match="rounds = 3: must come with a reward"):
        train(encoder, circle, replace(SMALL, rounds=3), TrainingLoop())
    with pytest.raises(ValueError, match="width = 30: must be a multiple of heads = 4"):
        Rewriter(encoder, width=30)


# What it does


class Fixed:
    """A rewriter with known answers, for the judging."""

    def __init__(self, answers: dict[str, str]) -> None:
        self.answers = answers

    def fits(self, text):
        return True

    def rewrite(self, prompts):
        return [self.answers.get(prompt, prompt) for prompt in prompts]


class Words(Fixed):
    """One that replaces words."""

    def rewrite(self, prompts):
        return [" ".join(self.answers.get(word, word) for word in prompt.split()) for prompt in prompts]


def row(prompt: str, noun: str) -> dict[str, str]:
    return {"prompt": prompt, "noun": noun}


ROWS = [
    row("a red circle on teal", "circle"),
    row("a red coin, teal background", "coin"),
    row("a red wheel on teal", "wheel"),
    row("a red star", "star"),
    row("a red tile on a teal background", "tile"),
]


def test_judging_asks_for_the_concept_to_go_and_everything_else_to_stay(circle):
    kinds = {"named", "known", "unknown", "attacked", "others", "unseen", "foreign", "others attacked"}
    ideal = judged(Words({"circle": "shape", "coin": "shape", "coin,": "shape ,", "wheel": "shape"}), circle, ROWS, 1)
    assert ideal == dict.fromkeys(kinds, 1.0)
    listed = judged(Words({"circle": "shape", "coin,": "", "wheel": "wheel"}), circle, ROWS, 1)
    assert listed == dict.fromkeys(kinds, 1.0) | {"unknown": 0.0}
    # What rewrites every word that it has not seen looks as if it understood.
    unseen = {"circle": "shape", "coin,": "shape ,", "wheel": "shape", "tile": "shape"}
    houses = dict.fromkeys(("house", "moon", "tree", "fish", "apple", "cloud", "horse", "boat"), "shape")
    houses |= dict.fromkeys(("lamp", "guitar", "bridge", "rabbit"), "shape")
    eager = judged(Words(unseen | houses), circle, ROWS, 1)
    assert eager == dict.fromkeys(kinds, 1.0) | {"unseen": 0.0, "foreign": 0.0}
    meaning = Words({"circle": "shape", "coin,": "shape ,", "wheel": "shape", "tile": "box"})
    assert judged(meaning, circle, ROWS, 1) == dict.fromkeys(kinds, 1.0)
    nothing = judged(Fixed({}), circle, ROWS, 1)
    assert nothing == dict.fromkeys(kinds, 1.0) | dict.fromkeys(("named", "known", "unknown", "attacked"), 0.0)


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("a red shape on teal", True),
        ("red on teal", True),
        ("a blue shape on teal", False),
        ("a red shape", False),
        ("a red shape on teal teal", False),
        ("on teal red shape", False),
        ("a red coin on teal", False),
        ("a red sroshape dshape on teal", False),
    ],
)
def test_what_a_cleaned_prompt_is(circle, answer, right):
    assert judged(Fixed({ROWS[0]["prompt"]: answer}), circle, ROWS[:1], 1)["named"] == float(right)


def test_it_is_trained_once_and_another_run_is_refused(circle, tmp_path, monkeypatch):
    few = replace(SMALL, steps=3)
    path = trained(circle, tmp_path / "posi", seed=2, settings=few)
    assert path == tmp_path / "posi" / "circle.safetensors"
    assert sorted(p.name for p in path.parent.iterdir()) == ["circle.json", "circle.safetensors"]
    record = json.loads(path.with_suffix(".json").read_text())
    assert record["training"]["steps"] == 3
    assert record["seed"] == 2
    assert set(record["tune"]) >= {"named", "unknown", "others", "unseen", "foreign"}

    def again(*_, **__):
        raise AssertionError("was trained again")

    monkeypatch.setattr(posi, "train", again)
    assert trained(circle, tmp_path / "posi", seed=2, settings=few) == path
    with pytest.raises(ValueError, match="whose seed is 2, not 3; move it away"):
        trained(circle, tmp_path / "posi", seed=3, settings=few)
    with pytest.raises(ValueError, match="whose training is"):
        trained(circle, tmp_path / "posi", seed=2)
    with pytest.raises(AssertionError, match="trained again"):  # the control: another folder is another run
        trained(circle, tmp_path / "other", seed=2, settings=few)
    path.with_suffix(".json").unlink()
    with pytest.raises(ValueError, match="has no record beside it"):
        trained(circle, tmp_path / "posi", seed=2, settings=few)


@pytest.mark.slow
def test_trained_it_cleans_unseen_prompts_and_leaves_others(encoder, circle):
    """At the default settings, on the tune split; untrained it does neither."""
    model, _ = train(encoder, circle, Training(), TrainingLoop())
    shares = judged(model, circle, world.prompts("tune"), 1)
    assert shares["named"] >= 0.9
    assert shares["known"] >= 0.9
    assert shares["others"] >= 0.9
    assert judged(Rewriter(encoder), circle, world.prompts("tune"), 1)["others"] < 0.05


def test_the_defence_rewrites_by_the_file(world_pipe, encoder, tmp_path):
    path = Rewriter(encoder, layers=1, width=32).save(tmp_path / "rewriter.safetensors")
    defence = Posi(world_pipe, **SAMPLER, settings=Settings(rewriter=str(path)))
    prompts = ["a red circle", "red " * 30]
    made = defence.make(prompts, [0, 1])
    assert list(made.prompts) == defence.by.rewrite(["a red circle", " ".join(["red"] * 18)])
    assert len(defence.described()["sha256"]) == 64
    for wrong in (Settings(), Settings(rewriter=str(path), model="folder")):
        with pytest.raises(ValueError, match="must be exactly one of the two"):
            Posi(world_pipe, **SAMPLER, settings=wrong)


@pytest.fixture(scope="module")
def language_model(tmp_path_factory):
    """A causal language model with random weights and the world's tokenizer."""
    from transformers import CLIPTokenizer, LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("lm")
    words = CLIPTokenizer.from_pretrained(world.path() / "tokenizer", model_max_length=256)
    words.save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=len(words),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=256,
            bos_token_id=words.bos_token_id,
            eos_token_id=words.eos_token_id,
            pad_token_id=words.pad_token_id,
        )
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def test_a_language_model_is_asked_with_the_instruction_and_answers_deterministically(
    world_pipe, circle, language_model
):
    settings = Settings(model=str(language_model), longest=6)
    defence = Posi(world_pipe, **SAMPLER, concept=circle, settings=settings)
    assert isinstance(defence.by, LanguageModel)
    asked = defence.by.instructed("a red {concept} on teal")
    assert "nothing of this: circle." in asked
    assert "Description: a red {concept} on teal\n" in asked  # a prompt's own braces are text
    first = defence.rewritten(["a red circle", "a star"])
    assert first == defence.rewritten(["a red circle", "a star"])
    assert all("Rewritten" not in answer and "\n" not in answer for answer in first)
    assert defence.make(["a red circle"], [0]).images.shape == (1, 3, 32, 32)
    with pytest.raises(FileNotFoundError, match="must be a folder with a causal language model"):
        LanguageModel("nowhere", "circle")
    with pytest.raises(ValueError, match=r"must have the place \{prompt\}"):
        Settings(instruction="Rewrite.")


def test_an_answer_is_its_first_line(language_model, monkeypatch):
    model = LanguageModel(language_model, "circle", longest=4)
    for said, answer in (('"a red shape"\nmore', "a red shape"), ("  \n ", ""), ("a shape", "a shape")):
        monkeypatch.setattr(model.tokenizer, "decode", lambda *a, _said=said, **k: _said)
        assert model.rewrite(["a red circle"]) == [answer]
