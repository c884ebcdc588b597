"""Batched generation against the pipeline's own, for schedulers of every kind; seeds, batches, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from certify import load_pipeline, world
from certify.adaptive import AdaptiveMedianSmoother
from certify.images.generation import images, pair, side_by_side, to_pil
from certify.models import PromptEncoder
from certify.models.sampling import image_source

PROMPTS = ["a photo of a red circle", "a green square", "a blue star on a white background"]
SHORT: dict[str, Any] = {"steps": 4, "guidance": 2.0}


@pytest.fixture(scope="module")
def pipe() -> Any:
    pipe = load_pipeline()
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def encoder(pipe: Any) -> PromptEncoder:
    return PromptEncoder.from_pipeline(pipe)


@pytest.fixture(scope="module")
def embeds(encoder: PromptEncoder) -> torch.Tensor:
    return encoder.plain(PROMPTS)


def own(pipe: Any, embeds: torch.Tensor, generator: Any, *, steps: int, guidance: float, **options: Any) -> Any:
    """The pipeline's images."""
    empty = PromptEncoder.from_pipeline(pipe).plain([""]).expand(len(embeds), -1, -1)
    with torch.no_grad():
        return pipe(
            prompt_embeds=embeds,
            negative_prompt_embeds=empty,
            generator=generator,
            num_inference_steps=steps,
            guidance_scale=guidance,
            **options,
        ).images


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers with numpy 2
@pytest.mark.parametrize("guidance", [2.0, 1.0])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("DDIMScheduler", {}),
        ("PNDMScheduler", {"skip_prk_steps": True}),
        ("EulerDiscreteScheduler", {}),
        ("DPMSolverMultistepScheduler", {}),
        ("EulerAncestralDiscreteScheduler", {}),
        ("DDPMScheduler", {}),
        ("HeunDiscreteScheduler", {}),
    ],
)
def test_images_are_the_pipelines_own(
    pipe: Any, embeds: torch.Tensor, monkeypatch: pytest.MonkeyPatch, name: str, options: Any, guidance: float
) -> None:
    import diffusers

    scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config, **options)
    monkeypatch.setattr(pipe, "scheduler", scheduler)
    sources = [image_source(7, i) for i in range(len(embeds))]
    expected = own(pipe, embeds, sources, steps=6, guidance=guidance, output_type="pt")
    made = images(pipe, embeds, seed=7, steps=6, guidance=guidance)
    assert made.shape == (3, 3, 32, 32)
    assert made.dtype == torch.float32
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-4)
    assert float(made.std()) > 0.05


def test_an_image_depends_on_its_seed_and_not_on_its_batch(pipe: Any, embeds: torch.Tensor) -> None:
    together = images(pipe, embeds, seed=1, **SHORT)
    torch.testing.assert_close(images(pipe, embeds, seed=1, batch=2, **SHORT), together, rtol=0, atol=1e-4)
    alone = images(pipe, embeds[2:], generator=[image_source(1, 2)], **SHORT)
    listed = images(pipe, embeds[2:], seed=[5], **SHORT)
    by_hand = images(pipe, embeds[2:], generator=[torch.Generator().manual_seed(5)], **SHORT)
    torch.testing.assert_close(listed, by_hand, rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="generator has 1 entries for 3 encodings: must be one an image"):
        images(pipe, embeds, generator=[image_source(1, 2)], **SHORT)
    torch.testing.assert_close(alone, together[2:], rtol=0, atol=1e-4)
    assert not torch.allclose(images(pipe, embeds, seed=2, **SHORT), together, atol=0.05)
    assert images(pipe, embeds[:1], seed=2**63, steps=1, guidance=1.0).shape == (1, 3, 32, 32)


def test_one_generator_draws_for_all(pipe: Any, embeds: torch.Tensor) -> None:
    made = images(pipe, embeds, generator=torch.Generator().manual_seed(3), **SHORT)
    expected = own(pipe, embeds, torch.Generator().manual_seed(3), output_type="pt", **SHORT)
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-4)
    source = torch.Generator().manual_seed(3)
    torch.testing.assert_close(images(pipe, embeds, generator=source, batch=1, **SHORT), made, rtol=0, atol=1e-4)
    assert not torch.allclose(images(pipe, embeds, generator=source, **SHORT), made, atol=0.05)


def test_negative_encodings_one_for_all_or_one_each(pipe: Any, encoder: PromptEncoder, embeds: torch.Tensor) -> None:
    plain = images(pipe, embeds, seed=0, **SHORT)
    empty = encoder.plain([""])
    for given in (empty, empty.expand(3, -1, -1)):
        torch.testing.assert_close(images(pipe, embeds, negative=given, seed=0, **SHORT), plain, rtol=0, atol=1e-4)
    away = images(pipe, embeds, negative=encoder.plain(["a red circle"]), seed=0, **SHORT)
    assert not torch.allclose(away, plain, atol=0.05)
    # Without guidance that branch does not run.
    settings = SHORT | {"seed": 0, "guidance": 1.0}
    assert torch.equal(images(pipe, embeds, negative=3 * empty, **settings), images(pipe, embeds, **settings))


def test_the_pipeline_and_the_global_random_state_stay_as_they_were(pipe: Any, embeds: torch.Tensor) -> None:
    own(pipe, embeds[:1], torch.Generator().manual_seed(0), steps=5, guidance=2.0)
    before, state = pipe.scheduler.timesteps.clone(), torch.random.get_rng_state()
    images(pipe, embeds, **SHORT)
    assert torch.equal(pipe.scheduler.timesteps, before)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_parts_may_have_different_dtypes(embeds: torch.Tensor) -> None:
    pipe = load_pipeline(dtype="bfloat16")
    pipe.vae.float()
    made = images(pipe, embeds, **SHORT)
    assert made.dtype == torch.float32
    assert world.load_judge().judge(made).labels["shape"] == ("circle", "square", "star")


def test_images_that_are_not_finite_are_refused(embeds: torch.Tensor) -> None:
    """A detector finds nothing in them: an attack would be counted as failed."""
    pipe = load_pipeline()
    with pytest.raises(ValueError, match="prompt_embeds holds NaN or infinity"):
        images(pipe, embeds * float("nan"), **SHORT)
    with torch.no_grad():
        pipe.unet.conv_out.bias.fill_(float("inf"))
    with pytest.raises(ValueError, match=r"3 of 3 images hold NaN or infinity"):
        images(pipe, embeds, **SHORT)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, r"steps = 0: must be a whole number >= 1"),
        ({"guidance": -1.0}, r"guidance = -1\.0: must be a finite number > 0"),
        ({"batch": 0}, r"batch = 0: must be a whole number >= 1"),
        ({"seed": -1}, r"seed = -1: must be a whole number >= 0"),
        ({"seed": [1, 2]}, r"seed has 2 entries for 3 encodings: must be one an image"),
        ({"negative": torch.zeros(2, 20, 64)}, r"negative has shape \(2, 20, 64\): must be \(1 or 3, 20, 64\)"),
        ({"negative": torch.zeros(1, 20, 32)}, r"negative has shape \(1, 20, 32\): must be"),
        ({"prompt_embeds": torch.zeros(20, 64)}, r"prompt_embeds has shape \(20, 64\): must be \(b, tokens, width\)"),
        ({"prompt_embeds": torch.zeros(0, 20, 64)}, r"prompt_embeds has shape \(0, 20, 64\): must be"),
        ({"prompt_embeds": ["a"]}, r"prompt_embeds = \['a'\]: must hold real numbers"),
    ],
)
def test_bad_calls(pipe: Any, embeds: torch.Tensor, options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        images(pipe, **({"prompt_embeds": embeds} | options))


def test_a_guidance_distilled_model_is_refused(
    pipe: Any, embeds: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its U-Net takes g as an input; without it the images would be other ones than the pipeline's."""
    config = pipe.unet.config
    monkeypatch.setattr(
        type(pipe.unet), "config", property(lambda self: type(config)({**config, "time_cond_proj_dim": 256}))
    )
    with pytest.raises(ValueError, match="takes the guidance scale as an input"):
        images(pipe, embeds)


def test_pil_images_are_rounded_bytes() -> None:
    made = torch.tensor([0.0, 0.5, 1.0, 0.4999 / 255]).reshape(1, 1, 2, 2).expand(1, 3, 2, 2)
    (image,) = to_pil(made)
    assert [image.getpixel(p) for p in ((0, 0), (1, 0), (0, 1), (1, 1))] == [(v,) * 3 for v in (0, 128, 255, 0)]


def test_a_pair_starts_from_the_same_noise(pipe: Any) -> None:
    import numpy as np

    adaptive = AdaptiveMedianSmoother.from_pipeline(pipe, ["circle"], **world.SMOOTHING)
    undefended, defended = pair(pipe, adaptive, PROMPTS[0], images=2, seed=4, **SHORT)
    sources = [image_source(4, i) for i in range(2)]
    expected = own(pipe, adaptive.encoder.plain([PROMPTS[0]] * 2), sources, **SHORT)
    for made, theirs in zip(undefended, expected, strict=True):
        np.testing.assert_allclose(np.asarray(made, dtype=int), np.asarray(theirs, dtype=int), atol=1)
    sources = [image_source(4, i) for i in range(2)]
    expected = own(pipe, adaptive.encode([PROMPTS[0]] * 2, seed=4), sources, **SHORT)
    for made, theirs in zip(defended, expected, strict=True):
        np.testing.assert_allclose(np.asarray(made, dtype=int), np.asarray(theirs, dtype=int), atol=1)
    sheet = side_by_side(pipe, adaptive, PROMPTS[0], images=2, seed=4, **SHORT)
    assert sheet.size == (2 * (32 * 4 + 4) + 4, 2 * (32 * 4 + 4) + 4)
