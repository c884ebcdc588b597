"""ESD: its target and update by hand, what trains, who samples, and what it does to the embedded model."""

from __future__ import annotations

import pytest
import torch

from experiments.unlearning import esd
from experiments.unlearning.concept import Concept
from experiments.unlearning.training import Rng, TrainingLoop

CONCEPT = Concept.of(["circle"], neutral="square", templates=["a red {}", "a photo of the {}"])
QUICK = {"iterations": 3, "batch": 2, "steps": 3, "learning_rate": 1e-3}


def test_the_target_is_the_guided_combination(tiny):
    """In the older code's parametrisation, and in the newer's with η' = η + 1; from the U-Net's own predictions."""
    x, t = tiny.normal(2, torch.Generator().manual_seed(0)), torch.tensor([10, 700])
    c, c_0 = tiny.encode(["a red circle", "a coin"]), tiny.encode(["a red square", ""])
    with torch.no_grad():
        with_ = tiny.unet(x, t, c, return_dict=False)[0]
        without = tiny.unet(x, t, c_0, return_dict=False)[0]
    teacher = tiny.frozen_copy()
    for eta in (1.0, 2.5):
        found = esd.target(tiny, teacher, x, t, c, c_0, eta)
        torch.testing.assert_close(found, without - eta * (with_ - without), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found, with_ - (eta + 1) * (with_ - without), rtol=1e-4, atol=1e-5)
    assert not found.requires_grad


def test_the_target_means_the_same_for_noise_and_velocity(velocity):
    """The combination of velocities is the velocity of the combined noises."""
    x, t = velocity.normal(2, torch.Generator().manual_seed(0)), torch.tensor([10, 700])
    c, c_0 = velocity.encode(["a red circle", "a coin"]), velocity.encode(["a red square", ""])
    teacher = velocity.frozen_copy()
    with torch.no_grad():
        with_, without = (velocity.noise_of(velocity.predict(x, t, e), x, t) for e in (c, c_0))
    found = velocity.noise_of(esd.target(velocity, teacher, x, t, c, c_0, 1.5), x, t)
    torch.testing.assert_close(found, without - 1.5 * (with_ - without), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("sampler", ["student", "teacher"])
def test_one_step_is_adams_on_the_loss(tiny, sampler):
    settings = esd.Settings(parameters="xattn", iterations=1, batch=2, steps=3, learning_rate=1e-3, sampler=sampler)
    before = {name: p.detach().clone() for name, p in tiny.unet.named_parameters()}
    original = tiny.frozen_copy()
    edit = esd.erase(tiny, CONCEPT, settings, TrainingLoop(seed=2))
    rng = Rng(2)
    said = CONCEPT.sentences(2, rng.python)
    c, c_0 = tiny.encode([s.target for s in said]), tiny.encode([s.neutral for s in said])
    x, t = tiny.half_finished(
        c, steps=3, guidance=3.0, source=rng.source, unet=original, bucket=sampler == "student"
    )  # the student is still the original
    with torch.no_grad():
        with_, without = original(x, t, c).sample, original(x, t, c_0).sample
    weights = {n: p.requires_grad_(True) for n, p in original.named_parameters() if ".attn2." in n}
    loss = (original(x, t, c).sample - (2 * without - with_)).square().mean()
    gradients = torch.autograd.grad(loss, list(weights.values()))
    assert set(edit.unet) == set(weights)
    for (name, after), g in zip(edit.unet.items(), gradients, strict=True):
        step = 1e-3 * g / (g.abs() + 1e-8)  # Adam's first
        torch.testing.assert_close(after, before[name] - step, rtol=0, atol=2e-5)
    assert edit.record["last losses"] == [pytest.approx(float(loss.detach()), rel=1e-4)]


@pytest.mark.parametrize("sampler", ["student", "teacher"])
def test_images_are_the_students_or_the_originals(epsilon, sampler, monkeypatch):
    """With the student's go times in the sampler's buckets, with the original's the sampler's own."""
    original, run, seen = epsilon.frozen_copy(), epsilon.half_finished, []

    def watched(c, *, unet, bucket, **options):
        weights = (epsilon.unet if unet is None else unet).parameters()
        seen.append((all(torch.equal(p, q) for p, q in zip(weights, original.parameters(), strict=True)), bucket))
        return run(c, unet=unet, bucket=bucket, **options)

    monkeypatch.setattr(epsilon, "half_finished", watched)
    esd.erase(epsilon, CONCEPT, esd.Settings(**QUICK, sampler=sampler), TrainingLoop())
    teacher = sampler == "teacher"
    assert seen == [(True, not teacher), (teacher, not teacher), (teacher, not teacher)]


def test_training_moves_predictions_to_the_target(velocity):
    """At places that training does not see, under the concept: closer to the target than the original is."""
    teacher = velocity.frozen_copy()
    x, t = velocity.normal(32, torch.Generator().manual_seed(77)), velocity.times(32, torch.Generator().manual_seed(7))
    c, c_0 = velocity.encode(["a red circle"]), velocity.encode(["a red square"])
    aim = esd.target(velocity, teacher, x, t, c.expand(32, -1, -1), c_0.expand(32, -1, -1), 1.0)

    def distance() -> float:
        with torch.no_grad():
            return float((velocity.predict(x, t, c.expand(32, -1, -1)) - aim).square().mean())

    before = distance()
    settings = esd.Settings(iterations=20, batch=4, steps=2, learning_rate=2e-4, parameters="full")
    esd.erase(velocity, Concept.of(["circle"], neutral="square", templates=["a red {}"]), settings, TrainingLoop())
    assert 0 < distance() < 0.8 * before
