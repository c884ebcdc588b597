"""Overlay: an unlearned denoiser, U-Net or transformer, put on top of a base pipeline.

Concept erasure changes the U-Net (all of it, or its cross-attention alone) and publishes a state dict. It is laid over
the base's U-Net: every name must be one of its tensors' (in diffusers' or the original layout) and every shape must agree. A
dict that holds some of the names only (cross-attention, say) is allowed and reported as partial. A mask or a LoRA may stand in
its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from certify.models.overlay import Overlay, Part, overlay_on

__all__ = ["denoiser_of", "overlay_denoiser", "overlay_of", "overlay_unet"]

_PART = Part(
    name="unet",
    what=("U-Net", "transformer"),
    stem="diffusion_pytorch_model",
    prefixes=("unet.", "diffusion_model.", "transformer."),
    joined=("lora_unet_", "lora_transformer_"),
)
_TRANSFORMER = replace(_PART, name="transformer", what=("transformer", "U-Net"))


def denoiser_of(pipe: Any) -> nn.Module | None:
    """The U-Net of a pipeline, or the transformer in its place; None: it has neither."""
    parts = (getattr(pipe, name, None) for name in ("unet", "transformer"))
    return next((part for part in parts if isinstance(part, nn.Module)), None)


def overlay_of(pipe: Any) -> Overlay | None:
    """The report of what `load_pipeline(weights=…)` laid over this pipeline's denoiser; None where it is the base's own."""
    denoiser = denoiser_of(pipe)
    return None if denoiser is None else overlay_on(denoiser)


def overlay_denoiser(pipe: Any, source: str | Path | Mapping[str, Tensor], *, variant: str | None = None) -> Overlay:
    """Replaces weights of a pipeline's U-Net or transformer, in place: as `overlay_unet`.

    Raises:
        TypeError: it has neither.
    """
    denoiser = denoiser_of(pipe)
    if denoiser is None:
        raise TypeError(f"pipe is a {type(pipe).__name__} without .unet and .transformer: must have one for weights")
    return (_PART if getattr(pipe, "unet", None) is denoiser else _TRANSFORMER).lay(denoiser, source, variant)


def overlay_unet(unet: nn.Module, source: str | Path | Mapping[str, Tensor], *, variant: str | None = None) -> Overlay:
    """Replaces weights of `unet`, in place, by those of `source`. Nothing is changed where anything is wrong.

    Args:
        unet: the base's `UNet2DConditionModel`, or the transformer that another family has in its place.
        source: a `.safetensors` file; a `.pt`, `.bin` or `.ckpt` file (weights only); a folder saved by
            `UNet2DConditionModel.save_pretrained`, or a pipeline folder, whose `unet` is taken; a folder that peft saved; or a
            state dict. The tensors may be a LoRA's, or masks: boolean, True where a weight stays, or packed in a file
            (`masks`).
        variant: of a folder's weight files, "fp16" for `*.fp16.safetensors`, where there are several.

    Returns:
        What was replaced.

    Raises:
        FileNotFoundError: there is no such file or folder, or no weights in it.
        ValueError: a name is unknown, a shape disagrees, an entry is NaN or infinite, the configuration beside it
            disagrees with the base's, it is one of several parts of a model's weights, or holds something other than a
            U-Net's tensors.
    """
    return _PART.lay(unet, source, variant)
