"""Attacks through the sampler: the differentiable path is the pipeline's, its gradient is right, and false rates are caught."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from certify import AdaptiveMedianSmoother, load_pipeline, world
from certify.bounds.copies import EventBound
from certify.images.statistics import attack_succeeds
from certify.world.judge import LABELS
from experiments.soundness import images, report
from experiments.soundness.attack import Ascent, Ball, ascend
from experiments.soundness.images import ImagePlan, ImageSystem, chosen, run, shifted

PROMPT = "a photo of a red circle on a teal background"
SMALL = ImagePlan(prompts=1, replicas=(3,), rhos=(0.2, 0.6), n=128, verify=128, ascent=2, images=2, steps=2)


@pytest.fixture(scope="module")
def pipe():
    return load_pipeline()


@pytest.fixture(scope="module")
def system(pipe):
    return ImageSystem(pipe, steps=2)


def test_images_are_the_pipelines(pipe, system):
    embeds = system.encoder.plain([PROMPT, "a blue star"])
    noise = system.latents(2, torch.Generator().manual_seed(3))
    pipe.set_progress_bar_config(disable=True)
    made = pipe(
        prompt_embeds=embeds,
        negative_prompt_embeds=system.without.expand(2, -1, -1),
        latents=noise,
        num_inference_steps=2,
        guidance_scale=2.0,
        output_type="pt",
    ).images
    with torch.no_grad():
        torch.testing.assert_close(system.images(embeds, noise), made, rtol=0, atol=1e-4)


def test_the_surrogate_is_about_the_certified_event(pipe, system):
    """On the same copies and the same initial noise the sign of the margin is the event."""
    adaptive = AdaptiveMedianSmoother.from_pipeline(pipe, ["circle"], n=3, **world.SMOOTHING)
    deployment = adaptive.deployment(PROMPT)
    z = deployment.draw(torch.Generator().manual_seed(1), 24)
    event = attack_succeeds(deployment, pipe, "judge:circle", steps=2, guidance=2.0)
    happens = event(z, generator=torch.Generator().manual_seed(2))
    tokenized = adaptive.encoder.tokenize(PROMPT)
    with torch.no_grad():
        noise = system.latents(24, torch.Generator().manual_seed(2))
        logits = system.logits(system.deployed(z, tokenized), noise)
        value = system.margin(tokenized, 0, 3)(z.flatten(0, 1)[None], z[:, 0], torch.Generator().manual_seed(2))
    assert happens.tolist() == (logits.argmax(dim=1) == 0).tolist()
    assert 0 < int(happens.sum()) < 24
    rest = torch.cat([logits[:, :0], logits[:, 1:]], dim=1).logsumexp(dim=1)
    assert float(value) == pytest.approx(float((logits[:, 0] - rest).clamp(max=2).mean()), rel=1e-4)


def test_the_gradient_passes_through_all_of_it(pipe, system):
    """Backpropagated slope of the margin along its own gradient against a difference quotient."""
    adaptive = AdaptiveMedianSmoother.from_pipeline(pipe, ["circle"], n=1, **world.SMOOTHING)
    deployment, tokenized = adaptive.deployment(PROMPT), adaptive.encoder.tokenize(PROMPT)
    ball = Ball.around(deployment.y, deployment.noise, 1.0)
    xi = ball.draw(4, torch.Generator().manual_seed(5))
    margin = system.margin(tokenized, 0, 1)

    def value(u: torch.Tensor) -> torch.Tensor:
        return margin(ball.points(u, xi), xi, torch.Generator().manual_seed(6))

    start = torch.zeros((1, *ball.y.shape), dtype=torch.float64, requires_grad=True)
    (g,) = torch.autograd.grad(value(start).sum(), start)
    slope, step = float(g.norm()), 1e-3
    with torch.no_grad():
        along = ball.directions(g)
        quotient = float(value(step * along) - value(-step * along)) / (2 * step)
    assert slope > 0
    assert quotient == pytest.approx(slope, rel=0.1)


def test_an_attack_raises_the_margin(pipe, system):
    adaptive = AdaptiveMedianSmoother.from_pipeline(pipe, ["circle"], n=1, **world.SMOOTHING)
    deployment, tokenized = adaptive.deployment("a red shape"), adaptive.encoder.tokenize("a red shape")
    ball = Ball.around(deployment.y, deployment.noise, 20.0)  # far, so that little is needed to see it
    margin, start = system.margin(tokenized, 0, 1), ball.random(1, torch.Generator().manual_seed(1))
    (u,) = ascend(margin, ball, start, Ascent(steps=4, draws=8, first=0.5, last=0.2, refresh=4, judging=1), seed=2)
    xi = ball.draw(32, torch.Generator().manual_seed(9))
    with torch.no_grad():
        before, after = (
            float(margin(ball.points(v[None], xi), xi, torch.Generator().manual_seed(8)))
            for v in (torch.zeros_like(u), u)
        )
    assert after > before + 1


@pytest.mark.slow
def test_true_rates_stand_and_false_ones_fall(monkeypatch):
    rows = run(SMALL)
    assert len(rows) == SMALL.family == 4
    assert not any(row.violated for row in rows)
    assert all(row.bound > row.clean > 0 for row in rows)
    assert {row.rho for row in rows} == {0.2, 0.6}
    assert rows[0].bound < rows[-1].bound
    table = report.image_table(SMALL, rows)
    assert "4 attempts on 'circle', the model as it is, **0 violations**" in table
    assert table.count(f"| {chosen('circle', 1)[0]['prompt']} | 3 |") == 2
    # Control: rates below what every attack was shown to reach.
    right, reached = shifted, min(row.limit for row in rows)
    monkeypatch.setattr(images, "shifted", lambda bound, rho: replace(right(bound, rho), value=reached / 2))
    assert all(row.violated for row in run(replace(SMALL, rhos=(0.6,), n=64)))


def test_shifted_bounds_are_those_of_the_library():
    from certify import GaussianNoise, event_bound

    event = lambda z: z.mean(dim=(1, 2)) > 1  # noqa: E731
    y, noise = torch.zeros(2), GaussianNoise(1.0)
    near, far = (event_bound(event, y, noise, rho=rho, replicas=4, n=500) for rho in (0.1, 0.4))
    moved = shifted(near, 0.4)
    assert (moved.value, moved.rho, moved.status) == (far.value, far.rho, far.status)
    assert isinstance(moved, EventBound)
    assert shifted(near, 40.0).status == "abstained"
    assert math.isclose(shifted(near, 40.0).value, 1.0)


def test_prompts_by_the_concepts_own_word_and_by_others_in_turn():
    rows = chosen("heart", 4)
    assert [row["kind"] for row in rows] == ["named", "synonym", "named", "synonym"]
    assert {row["shape"] for row in rows} == {"heart"}
    with pytest.raises(ValueError, match="prompts = 500: must be at most"):
        chosen("heart", 500)
    assert "heart" in LABELS["shape"]
