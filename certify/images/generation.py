"""Images from encodings, in batches; and images with and without the defence, from the same initial noise.

`images` is the pipeline's own computation without what stands around it: no PIL images, progress bars or checks of the
pipeline's, and the pipeline is left as it was. Detectors, statements about success rates and figures all use it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from certify import _validate
from certify._images import checked
from certify.models import PromptEncoder
from certify.models.sampling import Source, decode, image_source, initial_noise, sample

if TYPE_CHECKING:
    from PIL.Image import Image

    from certify.adaptive import AdaptiveMedianSmoother

__all__ = ["contact_sheet", "images", "pair", "side_by_side", "to_pil"]


def images(
    pipe: Any,
    prompt_embeds: Tensor,
    *,
    negative: Tensor | None = None,
    seed: int | Sequence[int] | None = None,
    generator: Source | None = None,
    steps: int = 50,
    guidance: float = 7.5,
    batch: int = 64,
) -> Tensor:
    """One image of every encoding.

    Args:
        pipe: a Stable Diffusion pipeline. It is not changed; images have its own size.
        prompt_embeds: (b, tokens, width), encodings.
        negative: (1 or b, tokens, width), the branch without the prompt; None: the plain encoding of "". Not used where
            guidance ≤ 1.
        seed: of the initial noise; None: fresh, from the operating system, as what is proven about images presumes (T5); a
            number only to repeat a run. Image i has a generator of its own, `certify.models.sampling.image_source(seed, i)`,
            so that it is the same in any batch (up to rounding). A list: one seed an image, used as torch's `manual_seed` does.
        generator: draws the initial noise of all images instead, one after the other, and whatever noise the scheduler adds.
            A list: one generator an image.
        steps, guidance: sampler settings; the defaults are Stable Diffusion's, `certify.world.DEFAULTS` the embedded model's.
        batch: images at a time.

    Returns:
        (b, 3, height, width) in [0, 1], float32, where the pipeline is.

    Raises:
        ValueError, TypeError: an argument out of range, or an image that is not finite.
    """
    steps, batch = _validate.count("steps", steps), _validate.count("batch", batch)
    guidance = _validate.positive("guidance", guidance)
    embeds = _encodings("prompt_embeds", prompt_embeds)
    count = len(embeds)
    without = PromptEncoder.from_pipeline(pipe).plain([""]) if negative is None else _encodings("negative", negative)
    if without.shape[1:] != embeds.shape[1:] or len(without) not in (1, count):
        raise ValueError(
            f"negative has shape {tuple(without.shape)}: must be (1 or {count}, {', '.join(map(str, embeds.shape[1:]))})"
        )
    without = without.to(embeds.device, embeds.dtype).expand(count, -1, -1)
    sources: Source = _sources(seed, count) if generator is None else generator
    if not isinstance(sources, torch.Generator) and len(sources) != count:
        raise ValueError(f"generator has {len(sources)} entries for {count} encodings: must be one an image")
    parts = []
    for first in range(0, count, batch):
        here = slice(first, first + batch)
        source: Source = sources if isinstance(sources, torch.Generator) else sources[here]
        noise = initial_noise(pipe, len(embeds[here]), source)
        latents = sample(pipe, embeds[here], without[here], noise, steps=steps, guidance=guidance, source=source)
        parts.append(decode(pipe, latents))
    return torch.cat(parts)


def to_pil(images: Tensor) -> list[Image]:
    """Images (b, 3, height, width) in [0, 1] as PIL images.

    Raises:
        TypeError, ValueError: they are no such images.
    """
    from PIL import Image as Pillow

    shown = checked("images", images).clamp(0, 1)
    rows = (255 * shown.permute(0, 2, 3, 1)).round().byte().cpu().numpy()
    return [Pillow.fromarray(row) for row in rows]


def pair(
    pipe: Any,
    adaptive: AdaptiveMedianSmoother,
    prompt: str,
    *,
    images: int = 1,
    seed: int | None = None,
    steps: int = 50,
    guidance: float = 7.5,
) -> tuple[list[Image], list[Image]]:
    """Undefended and defended images of a prompt; the i-th of both start from the same noise.

    Args:
        pipe: a Stable Diffusion pipeline.
        adaptive: the smoother built on it.
        prompt: not empty.
        images: how many of each.
        seed: of the initial noise and of the smoothing noise; None: both fresh, the defence as it is deployed: its noise is
            another for every image. A number repeats a run: its images share one smoothed encoding, and an adversary who
            knows the number has it too.
        steps, guidance: sampler settings, as for `certify.images.generation.images`.

    Returns:
        (undefended, defended), lists of PIL images.
    """
    count = _validate.count("images", images)
    smoothed = adaptive.pipeline_inputs([prompt] * count, seed=seed)
    plain = adaptive.encoder.plain([prompt]).expand(count, -1, -1)
    settings: dict[str, Any] = {"seed": _validate.seed_or_fresh(seed), "steps": steps, "guidance": guidance}
    undefended = _images(pipe, plain, negative=adaptive.encoder.plain([""]), **settings)
    defended = _images(pipe, smoothed["prompt_embeds"], negative=smoothed["negative_prompt_embeds"], **settings)
    return to_pil(undefended), to_pil(defended)


def side_by_side(
    pipe: Any,
    adaptive: AdaptiveMedianSmoother,
    prompt: str,
    *,
    images: int = 4,
    seed: int | None = None,
    steps: int = 50,
    guidance: float = 7.5,
) -> Image:
    """One image: undefended images above, defended ones below. Arguments as for `pair`; small images are enlarged."""
    return contact_sheet(pair(pipe, adaptive, prompt, images=images, seed=seed, steps=steps, guidance=guidance))


def contact_sheet(rows: Sequence[Sequence[Image]]) -> Image:
    """Rows of images of one size as one image; small ones are enlarged."""
    from PIL import Image as Pillow

    images, (width, height) = len(rows[0]), rows[0][0].size
    scale, gap = max(1, 128 // width), 4
    sheet = Pillow.new("RGB", (images * (width * scale + gap) + gap, len(rows) * (height * scale + gap) + gap), "white")
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            place = (gap + j * (width * scale + gap), gap + i * (height * scale + gap))
            sheet.paste(image.resize((width * scale, height * scale), Pillow.Resampling.NEAREST), place)
    return sheet


_images = images  # `pair` has an argument of that name


def _sources(seed: int | Sequence[int] | None, count: int) -> list[torch.Generator]:
    if isinstance(seed, (list, tuple, range)):
        if len(seed) != count:
            raise ValueError(f"seed has {len(seed)} entries for {count} encodings: must be one an image")
        return [torch.Generator().manual_seed(_validate.seed_value(s)) for s in seed]
    number = _validate.seed_or_fresh(seed)
    return [image_source(number, i) for i in range(count)]


def _encodings(name: str, value: Tensor) -> Tensor:
    encodings = _validate.finite_tensor(name, value).detach()
    if encodings.ndim != 3 or not len(encodings):
        raise ValueError(f"{name} has shape {tuple(encodings.shape)}: must be (b, tokens, width)")
    return encodings
