"""Sight: the loss by hand, whose images are aimed at, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler

from certify import load_pipeline
from certify.images import generation as generate
from experiments.attacks import sight
from tests.experiments.attacks.victims import small, targets


@pytest.mark.parametrize("folder", ["pipeline_folder", "pipeline_folder_sd2"])
def test_the_error_is_that_of_the_schedulers_own_truth(folder: str, request: pytest.FixtureRequest):
    victim = small(request.getfixturevalue(folder))
    pipe, source = victim.diffusion.pipe, torch.Generator().manual_seed(0)
    x_0, noise = torch.randn(2, 4, 4, 4, generator=source), torch.randn(2, 4, 4, 4, generator=source)
    t, c = torch.tensor([40, 900]), victim.encoder.plain(["a red circle", "the coin"])
    scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    truth = noise if folder == "pipeline_folder" else scheduler.get_velocity(x_0, noise, t)
    with torch.no_grad():
        guess = pipe.unet(scheduler.add_noise(x_0, noise, t), t, encoder_hidden_states=c).sample
        value = sight.error(victim.diffusion, x_0, noise, t, c)
    torch.testing.assert_close(value, (guess - truth).pow(2).mean(dim=(1, 2, 3)), rtol=1e-4, atol=1e-6)


def test_images_are_the_victims_own_by_number_or_the_original_models(pipeline_folder: Path):
    victim = small(pipeline_folder)
    assert victim.images is not None
    some = targets(["a coin", "a circle", "the wheel"])[1:]
    assert torch.equal(sight.aims(victim, some, steps=2, guidance=2.0), victim.images[1:])
    with pytest.raises(ValueError, match="images has 3 rows: must have one for target 7"):
        sight.aims(victim, [dataclasses.replace(some[0], number=7)], steps=2, guidance=2.0)
    none = dataclasses.replace(victim, images=None)
    pipe = load_pipeline(pipeline_folder)
    texts, seeds = [target.prompt for target in some], [target.seed for target in some]
    plain = generate.images(pipe, victim.encoder.plain(texts), seed=seeds, steps=2, guidance=2.0)
    torch.testing.assert_close(sight.aims(none, some, steps=2, guidance=2.0), plain)
    drawn = sight.sampled(none, victim.encoder.plain(texts), seeds, steps=2, guidance=2.0)
    assert not torch.allclose(drawn, plain, atol=1e-3)


def test_a_reference_teaches_where_there_is_one(pipeline_folder: Path):
    victim = small(pipeline_folder)
    assert sight.teacher(victim) == (victim.diffusion, victim.diffusion.original)
    other = small(pipeline_folder).diffusion
    assert sight.teacher(dataclasses.replace(victim, reference=other)) == (other, other.unet)


def test_what_is_missing_is_named(pipeline_folder: Path):
    victim = small(pipeline_folder, images=False)
    victim.diffusion.original = None
    with pytest.raises(ValueError, match="'disturbed' has no original model"):
        sight.aims(victim, targets(["a coin"]), steps=2, guidance=2.0)
    with pytest.raises(ValueError, match=r"detector = '': must name one, 'circle' is no concept of the embedded"):
        sight.finder(victim, "")
    with pytest.raises(ValueError, match=r"clip = '': must be a folder with a CLIPModel"):
        sight.likeness(victim, "")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        sight.likeness(victim, "nowhere")
