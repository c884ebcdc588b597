"""RACE: the inner problem's ball and its gain, the outer loss by hand, and a run that stops and goes on."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from certify import load_pipeline
from experiments.unlearning import command, esd, race
from experiments.unlearning.concept import Concept
from experiments.unlearning.diffusion import Diffusion
from experiments.unlearning.training import Rng, TrainingLoop
from tests.pipelines import pipeline_folder, pipeline_folder_sd2

__all__ = ["pipeline_folder", "pipeline_folder_sd2"]

CIRCLE = Concept.of(["circle"], neutral="", preserve=["square"], templates=["a red {}", "a photo of the {}"])
QUICK = race.Settings(iterations=3, batch=2, steps=3, learning_rate=1e-3, attack_steps=2, radius=0.3)


def fresh(folder: Path) -> Diffusion:
    """A pipeline whose U-Net is a little off the original, as after ESD."""
    pipe = load_pipeline(folder)
    original = copy.deepcopy(pipe.unet)
    source = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in pipe.unet.parameters():
            p += 0.02 * torch.randn(p.shape, generator=source)
    return Diffusion(pipe, original)


def situation(diffusion: Diffusion, rows: int = 4) -> tuple[Any, ...]:
    source = torch.Generator().manual_seed(1)
    noise = diffusion.normal(rows, source)
    t = diffusion.times(rows, source)
    c = diffusion.encode(["a red circle"] * rows)
    return diffusion.noised(diffusion.normal(rows, source), noise, t), t, c, noise


def test_clamped_keeps_the_ball_and_the_range():
    c = torch.tensor([[[-1.0, 0.0], [0.5, 1.0]], [[-3.0, 0.0], [0.5, 3.0]]])
    delta = torch.tensor([[[-0.5, 0.5], [0.1, 0.5]], [[-0.5, 0.5], [-0.1, 0.1]]])
    expected = torch.tensor([[[0.0, 0.2], [0.1, 0.0]], [[0.0, 0.2], [-0.1, 0.0]]])
    torch.testing.assert_close(race.clamped(delta, c, 0.2), expected)


@pytest.mark.parametrize("layout", ["pipeline_folder", "pipeline_folder_sd2"])
def test_the_worst_encoding_predicts_the_first_noise_better(layout, request):
    diffusion = fresh(request.getfixturevalue(layout))
    x_t, t, c, noise = situation(diffusion)
    settings = race.Settings(radius=0.5, attack_steps=10)
    delta = race.worst(diffusion, x_t, t, c, noise, settings, torch.Generator().manual_seed(2))
    assert delta.abs().max() <= 0.5 + 1e-6
    for row, plain in zip(c + delta, c, strict=True):
        assert row.min() >= plain.min() - 1e-6
        assert row.max() <= plain.max() + 1e-6

    def error(d: torch.Tensor) -> float:
        out = diffusion.unet(x_t, t, encoder_hidden_states=c + d).sample
        a = diffusion.alphas[t][:, None, None, None]
        guess = out if diffusion.kind == "epsilon" else a.sqrt() * out + (1 - a).sqrt() * x_t
        return float((guess - noise).square().mean())

    source = torch.Generator().manual_seed(2)
    start = race.clamped((2 * torch.rand(c.shape, generator=source) - 1) * 0.5, c, 0.5)
    assert error(delta) < error(torch.zeros_like(c))
    assert error(delta) < error(start)


def test_one_attack_step_is_a_signed_step_downhill(pipeline_folder):
    diffusion = fresh(pipeline_folder)
    x_t, t, c, noise = situation(diffusion, 1)
    settings = race.Settings(radius=0.4, attack_steps=1, attack_step=0.05)
    found = race.worst(diffusion, x_t, t, c, noise, settings, torch.Generator().manual_seed(2))
    start = 0.4 * (2 * torch.rand(c.shape, generator=torch.Generator().manual_seed(2)) - 1)
    z = (c + start).clamp(c.min(), c.max()).requires_grad_(True)
    (diffusion.unet(x_t, t, encoder_hidden_states=z).sample - noise).square().mean().backward()
    assert z.grad is not None
    moved = ((z.detach() - 0.05 * z.grad.sign()) - c).clamp(-0.4, 0.4)
    torch.testing.assert_close(found, (c + moved).clamp(c.min(), c.max()) - c)


def test_the_loss_is_esds_at_the_worst_encoding(pipeline_folder):
    """The first loss of a run, from its own rng and plain torch: teacher at the clean encoding, student at c + δ."""
    losses: list[float] = []
    race.erase(
        fresh(pipeline_folder),
        CIRCLE,
        QUICK,
        TrainingLoop(progress=lambda stage, step, steps, loss: losses.append(loss)),
    )
    diffusion, rng = fresh(pipeline_folder), Rng(0)
    said = CIRCLE.sentences(2, rng.python)
    c, c_0 = diffusion.encode([s.target for s in said]), diffusion.encode([s.neutral for s in said])
    noise = diffusion.normal(2, rng.source)
    x_t, t = diffusion.half_finished(c, steps=3, guidance=3.0, source=rng.source, noise=noise, bucket=True)
    delta = race.worst(diffusion, x_t, t, c, noise, QUICK, rng.source)
    teacher = diffusion.original
    within = teacher(x_t, t, encoder_hidden_states=c).sample
    without = teacher(x_t, t, encoder_hidden_states=c_0).sample
    mine = diffusion.unet(x_t, t, encoder_hidden_states=c + delta).sample
    expected = float((mine - (2 * without - within)).square().mean())
    assert losses[0] == pytest.approx(expected, rel=1e-4)
    clean = float((diffusion.unet(x_t, t, encoder_hidden_states=c).sample - (2 * without - within)).square().mean())
    assert abs(clean - expected) > 1e-3 * expected  # δ matters to what is compared


def test_the_pull_keeps_weights_near_their_start(pipeline_folder):
    """Adam's steps are alike whatever the scale of the loss: a pull that outweighs it leaves weights that swing around
    the start, where without it they drift."""

    def moved(pull: float) -> float:
        diffusion = fresh(pipeline_folder)
        start = copy.deepcopy(diffusion.unet.state_dict())
        settings = race.Settings(iterations=8, batch=1, steps=2, learning_rate=1e-3, attack_steps=1, pull=pull)
        edit = race.erase(diffusion, CIRCLE, settings, TrainingLoop())
        return sum(float((p - start[name]).abs().sum()) for name, p in edit.unet.items())

    assert moved(1e4) < 0.7 * moved(0.0)


def test_published_settings():
    s = race.Settings()
    assert (s.radius, s.attack_steps, s.attack_step, s.pull) == (0.1, 10, None, 0.0)
    assert (s.iterations, s.batch, s.learning_rate, s.negative_guidance, s.guidance) == (1000, 1, 1e-5, 1.0, 3.0)
    assert race.METHOD.after == "esd"


def test_needs_the_original(pipeline_folder):
    with pytest.raises(ValueError, match="original is None"):
        race.erase(Diffusion(load_pipeline(pipeline_folder)), CIRCLE, QUICK, TrainingLoop())


@pytest.mark.slow
def test_brings_a_resistant_model_out_of_the_embedded_one():
    """ESD and RACE at small size, through the command's own path: what the attack makes of the
    encodings leaves the edited model nearer to ESD's target than the original."""
    concept = Concept.embedded("circle", sentences=20)
    start = esd.Settings(iterations=6, batch=4, learning_rate=2e-4, steps=4, guidance=2.0)
    settings = race.Settings(
        iterations=12, batch=4, learning_rate=2e-4, steps=4, guidance=2.0, attack_steps=4, radius=0.3, start=start
    )
    losses: dict[str, list[float]] = {"esd": [], "race": []}
    loop = TrainingLoop(progress=lambda stage, step, steps, loss: losses[stage].append(loss))
    edit = command.applied(race.METHOD, concept, settings, loop)
    assert [len(v) for v in losses.values()] == [6, 12]
    assert edit.record["starts from esd"]["trained"] == "noxattn"
    pipe, plain = load_pipeline(), load_pipeline()
    pipe.unet.load_state_dict(dict(edit.unet), strict=False)
    resistant, original = Diffusion(pipe, plain.unet), Diffusion(plain)
    source = torch.Generator().manual_seed(4)
    said = concept.sentences(8, Rng(4).python)
    c, c_0 = (resistant.encode([getattr(s, k) for s in said]) for k in ("target", "neutral"))
    noise = resistant.normal(8, source)
    x_t, t = original.half_finished(c, steps=4, guidance=2.0, source=source, noise=noise)

    def gap(diffusion: Diffusion) -> float:
        """Distance from ESD's target at the worst encoding."""
        delta = race.worst(diffusion, x_t, t, c, noise, settings, torch.Generator().manual_seed(5))
        aim = esd.target(original, original.unet, x_t, t, c, c_0, 1.0)
        with torch.no_grad():
            return float((diffusion.predict(x_t, t, c + delta) - aim).square().mean())

    assert gap(resistant) < 0.8 * gap(original)
