"""AdvUnlearn: the soft token's place, both losses by hand, what trains, and a run that stops and goes on."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from certify import load_pipeline
from certify.models import PromptEncoder
from experiments.unlearning import advunlearn
from experiments.unlearning.concept import Concept
from experiments.unlearning.diffusion import Diffusion
from experiments.unlearning.training import Rng, TrainingLoop
from tests.pipelines import pipeline_folder

__all__ = ["pipeline_folder"]

CIRCLE = Concept.of(["circle"], neutral="", preserve=["square", "coin"], templates=["a red {}", "the {}"])
QUICK = advunlearn.Settings(
    iterations=4, batch=2, learning_rate=1e-3, warm_up=1, every=2, attack_steps=2, attack_rate=0.05, retain=2, steps=3,
    cache=2,
)  # fmt: skip


def fresh(folder: Path) -> Diffusion:
    return Diffusion(load_pipeline(folder))


def case(diffusion: Diffusion, seed: int = 0) -> advunlearn.Case:
    return advunlearn.case_of(diffusion, CIRCLE, QUICK, Rng(seed))


def test_the_soft_token_stands_before_the_first_word(pipeline_folder):
    """A soft token that is a word's embedding gives the encoding of the prompt with that word in front."""
    encoder = fresh(pipeline_folder).encoder
    prompts = (encoder.tokenize("red circle"), encoder.tokenize(""))
    blue = encoder.embed(encoder.tokenize("blue"))[1:2]
    torch.testing.assert_close(
        advunlearn.encoded(encoder, prompts, blue), encoder.plain(["blue red circle", "blue"]), rtol=0, atol=1e-6
    )
    torch.testing.assert_close(
        advunlearn.encoded(encoder, prompts, blue.repeat(2, 1)),
        encoder.plain(["blue blue red circle", "blue blue"]),
        rtol=0,
        atol=1e-6,
    )
    assert torch.equal(advunlearn.encoded(encoder, prompts, None), encoder.plain(["red circle", ""]))


def test_a_prompt_that_leaves_no_room_is_refused(pipeline_folder):
    encoder = fresh(pipeline_folder).encoder
    full = encoder.tokenize(" ".join(["a"] * (encoder.context_length - 2)))
    with pytest.raises(ValueError, match="must have at most"):
        advunlearn.encoded(encoder, (full,), torch.zeros(1, encoder.width))


def test_a_case_holds_what_the_model_says_before_training(pipeline_folder):
    diffusion = fresh(pipeline_folder)
    made = case(diffusion)
    rng = Rng(0).python
    said, kept = CIRCLE.sentences(2, rng), CIRCLE.sentences(2, rng)
    assert [p.prompt for p in made.prompts] == [s.target for s in said]
    assert [p.prompt for p in made.retained] == [kept[0].retained, ""]

    def e(x: torch.Tensor, t: torch.Tensor, prompts: list[str]) -> torch.Tensor:
        out: torch.Tensor = diffusion.unet(x, t, encoder_hidden_states=diffusion.encoder.plain(prompts)).sample
        return out

    within, without = e(made.x_t, made.t, [s.target for s in said]), e(made.x_t, made.t, [s.neutral for s in said])
    torch.testing.assert_close(made.own, within)
    torch.testing.assert_close(made.aim, without - (within - without))
    torch.testing.assert_close(made.retained_aim, e(made.retained_x, made.retained_t, [kept[0].retained, ""]))


def test_the_outer_loss_by_hand(pipeline_folder):
    diffusion = fresh(pipeline_folder)
    made, encoder = case(diffusion), diffusion.encoder
    token = encoder.embed(encoder.tokenize("blue"))[1:2]
    with_token = encoder.plain([f"blue {p.prompt}" for p in made.prompts])
    out = diffusion.unet(made.x_t, made.t, encoder_hidden_states=with_token).sample
    kept = diffusion.unet(
        made.retained_x,
        made.retained_t,
        encoder_hidden_states=encoder.plain([p.prompt for p in made.retained]),
    ).sample
    expected = (out - made.aim).square().mean() + 0.7 * (kept - made.retained_aim).square().mean()
    found = advunlearn.outer(diffusion, encoder, made, token, replace(QUICK, retain_weight=0.7))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-9)


def test_the_retained_prompts_weigh_in_once_the_encoder_has_moved(pipeline_folder):
    diffusion = fresh(pipeline_folder)
    made = case(diffusion)
    moved = PromptEncoder(diffusion.encoder.tokenizer, copy.deepcopy(diffusion.encoder.text_encoder))
    with torch.no_grad():
        moved.text_encoder.final_layer_norm.weight.mul_(1.5)
    losses = [
        float(advunlearn.outer(diffusion, moved, made, None, replace(QUICK, retain_weight=w)).detach())
        for w in (1.0, 3.0)
    ]
    kept = moved.plain([p.prompt for p in made.retained])
    off = diffusion.unet(made.retained_x, made.retained_t, encoder_hidden_states=kept).sample - made.retained_aim
    assert losses[1] - losses[0] == pytest.approx(2 * float(off.square().mean()), rel=1e-3)
    assert losses[1] > losses[0]


@pytest.mark.parametrize("sign", [False, True])
def test_the_attack_goes_downhill_and_moves_only_the_token(pipeline_folder, sign):
    diffusion = fresh(pipeline_folder)
    made = case(diffusion)
    student = PromptEncoder(diffusion.encoder.tokenizer, copy.deepcopy(diffusion.encoder.text_encoder))
    with torch.no_grad():  # an encoder that says something else
        student.text_encoder.final_layer_norm.bias.add_(0.5)
    weights = copy.deepcopy(student.text_encoder.state_dict())
    start = 0.05 * torch.randn(1, student.width, generator=torch.Generator().manual_seed(0))
    settings = replace(QUICK, attack_steps=15, attack_rate=0.01, sign=sign)
    found = advunlearn.attack(diffusion, student, made, start, settings)

    def error(token: torch.Tensor) -> float:
        c = advunlearn.encoded(student, made.prompts, token)
        return float(
            (diffusion.unet(made.x_t, made.t, encoder_hidden_states=c).sample - made.own).square().mean().detach()
        )

    assert error(found) < error(start)
    assert all(torch.equal(p, weights[name]) for name, p in student.text_encoder.state_dict().items())


def test_the_first_attack_step_by_hand(pipeline_folder):
    diffusion = fresh(pipeline_folder)
    made = case(diffusion)
    token = diffusion.encoder.embed(diffusion.encoder.tokenize("blue"))[1:2].requires_grad_(True)
    c = advunlearn.encoded(diffusion.encoder, made.prompts, token)
    loss = (diffusion.unet(made.x_t, made.t, encoder_hidden_states=c).sample - made.own).square().mean()
    (slope,) = torch.autograd.grad(loss, token)
    settings = replace(QUICK, attack_steps=1, attack_rate=0.01)
    for sign in (False, True):  # Adam's first step is its rate times the sign, but for slopes near 0
        found = advunlearn.attack(diffusion, diffusion.encoder, made, token, replace(settings, sign=sign))
        steep = slope.abs() > 1e-6
        assert steep.any()
        torch.testing.assert_close(found[steep], (token - 0.01 * slope.sign())[steep], rtol=0, atol=2e-4)


def test_the_loss_goes_down(pipeline_folder):
    """On the same cases, without attack: where it starts and where it ends."""
    settings = replace(QUICK, iterations=25, warm_up=25, cache=1, learning_rate=3e-3)
    losses: list[float] = []
    advunlearn.erase(
        fresh(pipeline_folder),
        CIRCLE,
        settings,
        TrainingLoop(progress=lambda stage, step, steps, loss: losses.append(loss)),
    )
    assert losses[-1] < 0.9 * losses[0]


def test_attacks_after_the_warm_up_and_every_few_steps(pipeline_folder, monkeypatch):
    steps: list[int] = []
    now = 0
    real = advunlearn.attack

    def watched(*args):
        steps.append(now)
        return real(*args)

    def count(stage: str, step: int, total: int, loss: float) -> None:
        nonlocal now
        now = step

    monkeypatch.setattr(advunlearn, "attack", watched)
    settings = replace(QUICK, iterations=7, warm_up=2, every=3)
    advunlearn.erase(fresh(pipeline_folder), CIRCLE, settings, TrainingLoop(progress=count))
    assert steps == [2, 5]


def test_published_settings():
    s = advunlearn.Settings()
    assert (s.tokens, s.attack_steps, s.attack_rate, s.every, s.warm_up) == (1, 30, 1e-3, 1, 200)
    assert (s.iterations, s.learning_rate, s.negative_guidance, s.retain, s.retain_weight) == (1000, 1e-5, 1.0, 5, 0.3)
    assert s.cache == 0
