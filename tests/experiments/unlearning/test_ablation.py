"""AC: its losses and update by hand, its cases, its images, and what it does to the embedded model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from experiments.unlearning import ablation, parameters
from experiments.unlearning.concept import Concept
from experiments.unlearning.diffusion import Diffusion
from experiments.unlearning.training import Rng, TrainingLoop

CONCEPT = Concept.of(["circle"], anchor="square", templates=["a red {}", "a photo of the {}"])
QUICK = ablation.Settings(iterations=2, batch=2, images=5, prompts=3, steps=2, learning_rate=1e-3)


def given(tiny: Diffusion):
    source = torch.Generator().manual_seed(0)
    c, c_a = tiny.encode(["a red circle", "a starfish"]), tiny.encode(["a red square", "a coin"])
    return c, c_a, tiny.normal(2, source), tiny.normal(2, source), torch.tensor([10, 700])


def test_the_loss_compares_two_prompts_on_one_noised_image(tiny):
    c, c_a, x_0, noise, t = given(tiny)
    parameters.trainable(tiny.unet, "xattn-kv")
    x_t = tiny.scheduler.add_noise(x_0, noise, t)
    student, teacher = tiny.unet(x_t, t, c).sample, tiny.unet(x_t, t, c_a).sample.detach()
    found = ablation.loss_of(tiny, c, c_a, x_0, noise, t, target="anchor")
    torch.testing.assert_close(found, (student - teacher).square().mean())
    # No gradient goes through the teacher: of the loss it is that of the student's alone.
    weights = [p for p in tiny.unet.parameters() if p.requires_grad]
    mine = torch.autograd.grad((student - teacher).square().mean(), weights)
    for a, b in zip(torch.autograd.grad(found, weights), mine, strict=True):
        torch.testing.assert_close(a, b)
    assert float(ablation.loss_of(tiny, c_a, c_a, x_0, noise, t, target="anchor").detach()) == pytest.approx(
        0, abs=1e-10
    )


def test_the_noise_based_loss_is_the_diffusion_loss(tiny):
    c, c_a, x_0, noise, t = given(tiny)
    x_t = tiny.scheduler.add_noise(x_0, noise, t)
    true = noise if tiny.kind == "epsilon" else tiny.scheduler.get_velocity(x_0, noise, t)
    found = ablation.loss_of(tiny, c, c_a, x_0, noise, t, target="noise")
    torch.testing.assert_close(found, (tiny.unet(x_t, t, c).sample - true).square().mean())


@pytest.mark.parametrize(("prior", "target"), [(0.0, "anchor"), (0.7, "anchor"), (0.0, "noise")])
def test_one_step_is_adamws_on_the_loss(epsilon, prior, target):
    settings = replace(QUICK, iterations=1, prior=prior, target=target, weight_decay=0.1)
    original = epsilon.frozen_copy()
    edit = ablation.ablate(epsilon, CONCEPT, settings, TrainingLoop(seed=3))
    fresh = Diffusion(epsilon.pipe)
    fresh.unet = original
    fresh.pipe.unet = original
    said = CONCEPT.sentences(3, Rng(3).python)
    images = ablation.anchors(fresh, said, settings, TrainingLoop(seed=3))
    rng, terms = Rng(3), []
    for weight, noised in [(1.0, target == "noise"), (prior, True)][: 2 if prior else 1]:
        index = [rng.python.randrange(5) for _ in range(2)]
        noise = torch.randn(2, 4, 4, 4, generator=rng.source)
        t = torch.randint(0, 1000, (2,), generator=rng.source)
        x_t = fresh.scheduler.add_noise(images[index], noise, t)
        c = fresh.encode([said[i % 3].target for i in index])
        c_a = fresh.encode([said[i % 3].anchor for i in index])
        terms.append((weight, noised, x_t, t, c_a if terms else c, c_a, noise))
    weights = parameters.trainable(original, "xattn-kv")
    loss = torch.zeros(())
    for weight, noised, x_t, t, c, c_a, noise in terms:
        aim = noise if noised else original(x_t, t, c_a).sample.detach()
        loss = loss + weight * (original(x_t, t, c).sample - aim).square().mean()
    assert edit.record["last losses"] == [pytest.approx(float(loss.detach()), rel=1e-4)]
    rate = 1e-3 * 2  # times the batch
    for (name, p), g in zip(weights.items(), torch.autograd.grad(loss, list(weights.values())), strict=True):
        expected = p * (1 - rate * 0.1) - rate * g / (g.abs() + 1e-8)
        torch.testing.assert_close(edit.unet[name], expected.detach(), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("style", ("xattn-kv", 8e-6, 200, 0.0)),
        ("object", ("xattn-kv", 8e-6, 200, 0.0)),
        ("nudity", ("attn", 16e-6, 400, 1.0)),
    ],
)
def test_published_cases(case, expected):
    found = ablation.Settings(case=case).trained(Concept.of(["x"]))
    assert (found.parameters, found.rate, found.iterations, found.prior) == (
        expected[0],
        pytest.approx(expected[1]),
        *expected[2:],
    )
    of_kind = ablation.Settings().trained(Concept.of(["x"], kind="style"))
    assert of_kind == ablation.Settings(case="style").trained(Concept.of(["x"]))
    chosen = ablation.Settings(case=case, parameters="full", learning_rate=1e-5, iterations=7, prior=0.5).trained(
        CONCEPT
    )
    assert (chosen.parameters, chosen.rate, chosen.iterations, chosen.prior) == ("full", pytest.approx(4e-5), 7, 0.5)


def test_images_are_the_models_own_of_the_anchor(epsilon):
    said = CONCEPT.sentences(3, Rng(0).python)
    found = ablation.anchors(epsilon, said, QUICK, TrainingLoop(seed=4))
    rng = Rng((4 * 1_000_003 + 1) % 2**63)
    expected = epsilon.generated([said[i % 3].anchor for i in range(5)], steps=2, guidance=7.5, source=rng.source)
    assert torch.equal(found, expected)


def test_an_anchor_that_is_the_concept_is_refused(epsilon):
    with pytest.raises(ValueError, match="anchor = 'circle': must be another than the concept"):
        ablation.ablate(epsilon, Concept.of(["circle"], anchor="circle"), QUICK, TrainingLoop())
