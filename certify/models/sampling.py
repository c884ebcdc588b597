"""Sampling: initial noise and encodings in, latents and images out; the loop of a Stable Diffusion pipeline.

The same numbers as `pipe(prompt_embeds=…, output_type="pt")` gives, from the pipeline's own U-Net, scheduler and decoder,
with two differences. The scheduler is copied, so that a run leaves the pipeline as it was; and whoever asks sees what
the U-Net is given at every step. Almost all the time is the U-Net's either way (on the embedded model the rest of
`pipe(…)` takes 1 to 4 percent).

With guidance g > 1 the U-Net runs twice a step and ε_u + g (ε_c − ε_u) is what the scheduler gets; with g ≤ 1 it runs
once, on the prompt's encoding alone. Those are the pipeline's own rules.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from certify import _validate
from certify._random import keyed
from certify.models.evaluation import evaluated
from certify.models.offloaded import device_of

__all__ = ["Source", "decode", "image_source", "initial_noise", "one_encoding", "sample"]

Source = torch.Generator | Sequence[torch.Generator]
"""One generator for a whole batch, or one an image."""

Watch = Callable[[int, Tensor, Tensor, Any], None]
"""Called before each run of the U-Net with (its number from 0, the latents it is given, the time step, the scheduler)."""


def image_source(seed: int, number: int) -> torch.Generator:
    """The generator of image `number` of a run: no two of them, of whatever seeds, share noise."""
    return keyed(f"certify image {seed} {number}")


def initial_noise(pipe: Any, count: int, source: Source) -> Tensor:
    """x_T, standard normal: (count, channels, height, width) at the model's own size, on its device and in its dtype.

    Args:
        pipe: the pipeline.
        count: how many.
        source: one generator, which draws them all at once; or one each.
    """
    weight, side = next(pipe.unet.parameters()), pipe.unet.config.sample_size
    height, width = (side, side) if isinstance(side, int) else side
    device = device_of(pipe.unet, pipe)
    shape = (pipe.unet.config.in_channels, height, width)

    def normal(rows: int, generator: torch.Generator) -> Tensor:
        return torch.randn(rows, *shape, generator=generator, dtype=weight.dtype, device=generator.device)

    if isinstance(source, torch.Generator):
        return normal(count, source).to(device)
    if len(source) != count:
        raise ValueError(f"source has {len(source)} generators for {count} images: must be as many")
    return torch.cat([normal(1, generator) for generator in source]).to(device)


@torch.no_grad()
def sample(
    pipe: Any,
    embeds: Tensor,
    unconditional: Tensor,
    noise: Tensor,
    *,
    steps: int,
    guidance: float,
    source: Source | None = None,
    watch: Watch | None = None,
) -> Tensor:
    """Latents of images: the sampler's run from x_T = `noise`.

    Args:
        pipe: the pipeline: `.unet` and `.scheduler`.
        embeds: (b, tokens, width), encodings.
        unconditional: (b or 1, tokens, width), the branch without the prompt; unused where guidance ≤ 1.
        noise: (b, channels, height, width), standard normal.
        steps: of the scheduler.
        guidance: g.
        source: for schedulers that draw noise at every step.
        watch: sees what the U-Net is given; with g > 1, the half that runs on the prompt's encoding (the other is alike).

    Returns:
        (b, channels, height, width), for `decode`.

    Raises:
        ValueError: the U-Net takes the guidance scale as an input (a guidance-distilled model).
    """
    unet, scheduler = pipe.unet, copy.deepcopy(pipe.scheduler)
    if getattr(unet.config, "time_cond_proj_dim", None) is not None:
        raise ValueError("pipe's U-Net takes the guidance scale as an input: must be one that does not (no LCM)")
    device, dtype = device_of(unet, pipe), next(unet.parameters()).dtype
    scheduler.set_timesteps(steps, device=device)
    guided = guidance > 1
    embeds = embeds.to(device, dtype)
    if guided:
        without = unconditional.to(device, dtype)
        embeds = torch.cat([without.expand(len(embeds), -1, -1), embeds])
    taken = inspect.signature(scheduler.step).parameters
    extra = {"generator": source} if source is not None and "generator" in taken else {}
    x = noise * scheduler.init_noise_sigma  # known once the steps are set
    for i, t in enumerate(scheduler.timesteps):
        given = scheduler.scale_model_input(torch.cat([x, x]) if guided else x, t)
        if watch is not None:
            watch(i, given[-len(x) :], t, scheduler)
        with evaluated(unet):
            predicted = unet(given, t, encoder_hidden_states=embeds, return_dict=False)[0]
        if guided:
            plain, prompted = predicted.chunk(2)
            predicted = plain + guidance * (prompted - plain)
        x = scheduler.step(predicted, t, x, **extra, return_dict=False)[0]
    return x


@torch.no_grad()
def decode(pipe: Any, latents: Tensor) -> Tensor:
    """Images (b, 3, height, width) in [0, 1], float32, of latents.

    Raises:
        ValueError: an image is not finite (weights that overflow in half precision, or an encoding that was not).
    """
    weight = next(pipe.vae.parameters())
    scaled = latents.to(weight.dtype) / pipe.vae.config.scaling_factor
    with evaluated(pipe.vae):
        images: Tensor = pipe.vae.decode(scaled, return_dict=False)[0]
    images = (images / 2 + 0.5).clamp(0, 1).float()
    # A detector would find nothing in such an image, and an attack would be counted as failed.
    broken = ~torch.isfinite(images).flatten(1).all(dim=1)
    if bool(broken.any()):
        raise ValueError(
            f"{int(broken.sum())} of {len(images)} images hold NaN or infinity: must be finite; an encoding was not, or "
            f"the model overflows in {weight.dtype}"
        )
    return images


def one_encoding(name: str, encoding: Tensor) -> Tensor:
    """One encoding, (tokens, width) or (1, tokens, width), as a batch of one.

    Raises:
        TypeError, ValueError: another shape, or an entry that is not finite.
    """
    value = _validate.finite_tensor(name, encoding).detach()
    batched = value[None] if value.ndim == 2 else value
    if batched.ndim != 3 or len(batched) != 1:
        raise ValueError(f"{name} has shape {tuple(value.shape)}: must be (tokens, width) or (1, tokens, width)")
    return batched
