"""Images with and without the defence, from the same initial noise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from certify import _validate

if TYPE_CHECKING:
    from PIL.Image import Image

    from certify.adaptive import AdaptiveMedianSmoother

__all__ = ["pair", "side_by_side"]


def pair(
    pipe: Any,
    adaptive: AdaptiveMedianSmoother,
    prompt: str,
    *,
    images: int = 1,
    seed: int = 0,
    steps: int = 50,
    guidance: float = 7.5,
) -> tuple[list[Image], list[Image]]:
    """Undefended and defended images of a prompt; the i-th of both start from the same noise.

    Args:
        pipe: a Stable Diffusion pipeline.
        adaptive: the smoother built on it.
        prompt: not empty.
        images: how many of each.
        seed: of the initial noise and of the smoothing noise.
        steps, guidance: sampler settings; the defaults are Stable Diffusion's, `certify.world.DEFAULTS` the embedded model's.

    Returns:
        (undefended, defended), lists of PIL images.
    """
    count, seed = _validate.count("images", images), _validate.seed_value(seed)
    settings = {
        "num_inference_steps": _validate.count("steps", steps),
        "guidance_scale": _validate.positive("guidance", guidance),
    }
    smoothed = adaptive.pipeline_inputs([prompt] * count, seed=seed)
    plain = {"prompt_embeds": adaptive.encoder.plain([prompt] * count)}
    plain["negative_prompt_embeds"] = adaptive.encoder.plain([""] * count)
    made = []
    for inputs in (plain, smoothed):
        sources = [torch.Generator().manual_seed(seed * 1_000_003 + i) for i in range(count)]
        with torch.no_grad():
            made.append(list(pipe(**inputs, generator=sources, **settings).images))
    return made[0], made[1]


def side_by_side(pipe: Any, adaptive: AdaptiveMedianSmoother, prompt: str, *, images: int = 4, **options: Any) -> Image:
    """One picture: undefended images above, defended ones below. Arguments as for `pair`; small images are enlarged."""
    from PIL import Image as Pillow

    rows = pair(pipe, adaptive, prompt, images=images, **options)
    width, height = rows[0][0].size
    scale, gap = max(1, 128 // width), 4
    sheet = Pillow.new("RGB", (images * (width * scale + gap) + gap, 2 * (height * scale + gap) + gap), "white")
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            place = (gap + j * (width * scale + gap), gap + i * (height * scale + gap))
            sheet.paste(image.resize((width * scale, height * scale), Pillow.Resampling.NEAREST), place)
    return sheet
