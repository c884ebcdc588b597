"""CCE: a step by hand, that it brings a concept back where random embeddings do not, and its words in rows and pipelines."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from certify import load_pipeline
from certify.models import PromptEncoder, fingerprint
from experiments.attacks import cce, learned, sight
from experiments.attacks.attack import Row
from experiments.unlearning.concept import Concept
from experiments.unlearning.diffusion import Diffusion
from experiments.unlearning.training import Rng
from tests.experiments.attacks.victims import captions, erased, mean_error, small, targets

QUICK = cce.Settings(iterations=1, batch=2, learning_rate=0.02, weight_decay=0.1, steps=2, guidance=2.0)
CIRCLE = Concept.of(["circle"])


def _row(number: int, note: dict[str, object]) -> Row:
    return Row("cce", "uce", "circle", number, "a circle", 1, "a <circle-0>", 0.1, json.dumps(note))


@pytest.mark.parametrize("folder", ["pipeline_folder", "pipeline_folder_sd2"])
def test_a_step_by_hand(folder: str, request: pytest.FixtureRequest) -> None:
    victim = small(request.getfixturevalue(folder))
    assert victim.images is not None
    wanted = targets(["a red circle", "a small coin"])
    vector = learned.words_of(cce.attack(victim, wanted, QUICK, Rng(4)))["<circle-0>"]

    start = learned.start(victim.encoder, "circle")
    pipe = learned.taught(victim.diffusion.pipe, {"<circle-0>": start})
    encoder, diffusion, rng = PromptEncoder.from_pipeline(pipe), victim.diffusion, Rng(4)
    rows = torch.randint(2, (2,), generator=rng.source)
    t = diffusion.times(2, rng.source)
    noise = diffusion.normal(2, rng.source)
    texts = [("a red <circle-0>", "a small coin, <circle-0>")[int(i)] for i in rows]
    free = pipe.text_encoder.get_input_embeddings().weight.requires_grad_(True)
    said = [encoder.tokenize(text) for text in texts]
    masks = {} if said[0].attention_mask is None else {"attention_mask": torch.stack([s.attention_mask for s in said])}
    encoded = pipe.text_encoder(torch.stack([s.ids for s in said]), **masks)[0]
    loss = sight.error(diffusion, diffusion.latents(victim.images)[rows], noise, t, encoded).mean()
    loss.backward()
    slope = free.grad[pipe.tokenizer.convert_tokens_to_ids("<circle-0>")]
    # Adam's first step is as long as the learning rate in every coordinate, whatever the gradient's length.
    expected = start * (1 - 0.02 * 0.1) - 0.02 * slope / (slope.abs() + 1e-8)
    torch.testing.assert_close(vector, expected, atol=2e-6, rtol=1e-4)


def test_the_erased_model_explains_circles_better_by_it_than_by_random_embeddings_or_where_it_started() -> None:
    victim, wanted = erased(), captions(8)
    rows = cce.attack(victim, wanted, dataclasses.replace(cce.ATTACK.embedded(), iterations=60), Rng(0))
    ((token, vector),) = learned.words_of(rows).items()
    x_0 = victim.diffusion.latents(sight.aims(victim, wanted, steps=8, guidance=2.0))

    def unexplained(given: torch.Tensor) -> float:
        pipe = learned.taught(victim.diffusion.pipe, {token: given})
        asked = dataclasses.replace(victim, diffusion=Diffusion(pipe, victim.diffusion.original))
        return float(mean_error(asked, x_0, [row.adversarial for row in rows], draws=12, seed=3).mean())

    source = torch.Generator().manual_seed(0)
    drawn = [torch.randn(len(vector), generator=source) for _ in range(3)]
    others = [learned.start(victim.encoder, "circle"), *(v * vector.norm() / v.norm() for v in drawn)]
    assert unexplained(vector) < min(unexplained(other) for other in others)


@pytest.mark.parametrize("folder", ["pipeline_folder", "pipeline_folder_sd2"])
def test_a_taught_pipeline_is_one_with_the_textual_inversion_loaded(
    folder: str, request: pytest.FixtureRequest
) -> None:
    pipe = load_pipeline(request.getfixturevalue(folder))
    before, state = fingerprint(pipe.text_encoder), torch.get_rng_state()
    vector = torch.randn(pipe.text_encoder.config.hidden_size, generator=torch.Generator().manual_seed(1))
    known = learned.taught(pipe, {"<circle-0>": vector})
    assert torch.equal(torch.get_rng_state(), state)
    assert fingerprint(pipe.text_encoder) == before
    assert "<circle-0>" not in pipe.tokenizer.get_vocab()
    pipe.load_textual_inversion({"<circle-0>": vector[None]}, token="<circle-0>")
    text = "a red <circle-0>, small"
    torch.testing.assert_close(
        PromptEncoder.from_pipeline(known).plain([text]), PromptEncoder.from_pipeline(pipe).plain([text])
    )
    assert known.unet is pipe.unet


def test_what_a_row_keeps_is_read_back_to_the_last_bit() -> None:
    vector = torch.randn(7)
    note = learned.note_of("<circle-0>", vector)
    assert torch.equal(learned.words_of([_row(0, note), _row(1, note)])["<circle-0>"], vector)
    assert learned.words_of([_row(0, {"fitness": 1.0})]) == {}


@pytest.mark.parametrize(
    "note",
    [
        {"token": "<circle-0>", "embedding": "no base64!"},
        {"token": "<circle-0>", "embedding": "AAA="},
        {"token": "<circle-0>", "embedding": 3},
        {"token": "", "embedding": "AACAPw=="},
        {"embedding": "AACAPw=="},
        {"token": "<circle-0>", "embedding": "AACAfw=="},  # infinite
    ],
)
def test_a_broken_embedding_is_refused_with_its_row(note: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"row 5 of 'cce': "):
        learned.words_of([_row(5, note)])


def test_one_token_is_one_embedding() -> None:
    one, other = (learned.note_of("<circle-0>", torch.full((3,), value)) for value in (1.0, 2.0))
    with pytest.raises(ValueError, match="row 1 of 'cce': token '<circle-0>' has another embedding in an earlier row"):
        learned.words_of([_row(0, one), _row(1, other)])


def test_an_embedding_of_another_model_is_refused(pipeline_folder: Path) -> None:
    with pytest.raises(ValueError, match=r"embedding of '<circle-0>' has shape \(3,\): must be \("):
        learned.taught(load_pipeline(pipeline_folder), {"<circle-0>": torch.ones(3)})


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a red circle", "a red <v>"),
        ("an old Circle beside a circle", "an old <v> beside a <v>"),
        ("circles of friends", "circles of friends, <v>"),
        ("", "<v>"),
    ],
)
def test_the_token_stands_wherever_the_concept_was_named(prompt: str, expected: str) -> None:
    assert cce.sentence(CIRCLE, prompt, "<v>") == expected
