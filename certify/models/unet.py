"""Overlay: an unlearned U-Net put on top of a base pipeline.

Concept erasure changes the U-Net (all of it, or its cross-attention alone) and publishes a state dict. It is laid over
the base's U-Net: every name must be the base's and every shape must agree; names may carry one common prefix such as
`unet.`. A dict that holds some of the names only (cross-attention, say) is allowed and reported as partial.

Two smaller things are accepted in its place: a mask (`masks`), which sets the weights that it prunes to zero, and a LoRA
(`lora`), whose low-rank change is added to the base's weights. Both need the base; loading the base again undoes them.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from certify.models import lora, masks
from certify.models.fingerprint import fingerprint
from certify.models.overlay import Overlay, Part, Weights

__all__ = ["UNetOverlay", "overlay_of", "overlay_unet"]

_log = logging.getLogger(__name__)

_PART = Part(
    name="unet",
    what="U-Net",
    stem="diffusion_pytorch_model",
    prefixes=("unet.", "module.", "model.", "_orig_mod.", "module.unet.", "model.unet.", "base_model.model."),
    wrappers=("state_dict", "unet", "model", "module", "params", "ema"),
)


@dataclass(frozen=True)
class UNetOverlay(Overlay):
    """What was laid over a base U-Net.

    Attributes:
        kind: "weights" (they replace the base's), "mask" (it sets some of them to zero) or "LoRA" (it is added to them).
        pruned: weights that a mask set to zero.
    """

    kind: str = "weights"
    pruned: int = 0


_overlays: weakref.WeakKeyDictionary[nn.Module, UNetOverlay] = weakref.WeakKeyDictionary()


def overlay_of(pipe: Any) -> UNetOverlay | None:
    """The report of what `load_pipeline(unet=…)` laid over this pipeline's U-Net; None where it is the base's own."""
    return _overlays.get(pipe.unet)


def overlay_unet(unet: nn.Module, source: str | Path | Mapping[str, Tensor]) -> UNetOverlay:
    """Replaces weights of `unet`, in place, by those of `source`. Nothing is changed where anything is wrong.

    Args:
        unet: the base's `UNet2DConditionModel`.
        source: a `.safetensors` file; a `.pt`, `.bin` or `.ckpt` file (weights only); a folder saved by
            `UNet2DConditionModel.save_pretrained`, or a pipeline folder, whose `unet` is taken; or a state dict. The
            tensors may be a LoRA's, or masks: boolean, True where a weight stays, or packed in a file (`masks`).

    Returns:
        What was replaced.

    Raises:
        FileNotFoundError: there is no such file or folder, or no weights in it.
        ValueError: a name is unknown, a shape disagrees, an entry is NaN or infinite, the folder's configuration
            disagrees with the base's, or the file holds something other than a U-Net's tensors.
    """
    given = _PART.read(source, unet)
    target = unet.state_dict()
    masked = _masks(given)
    state, prefix = _PART.without_prefix(given.state if masked is None else masked, list(target))
    kind, pruned = "weights", 0
    if masked is not None:
        _PART.check(state, target, given.label, masks=True)
        kind, pruned = "mask", sum(int((~mask).sum()) for mask in state.values())
        state = {name: target[name].masked_fill(~mask.to(target[name].device), 0) for name, mask in state.items()}
    elif lora.is_lora(state):
        kind, state = "LoRA", lora.adapted(state, target, given.metadata, label=given.label)
    else:
        _PART.check(state, target, given.label)
    with torch.no_grad():
        for name, tensor in state.items():
            target[name].copy_(tensor)
    report = UNetOverlay(given.label, len(state), len(target), prefix, fingerprint(given.state), kind, pruned)
    _overlays[unet] = report
    if report.partial:
        done = {"weights": "replaced", "mask": f"masked, {pruned:,} weights pruned", "LoRA": "added to"}[kind]
        _log.info("unet = %s: partial, %d of %d tensors %s", given.label, report.loaded, report.total, done)
    return report


def _masks(given: Weights) -> dict[str, Tensor] | None:
    """The masks that were given, packed in a file or as boolean tensors; None: something else."""
    if given.metadata.get("format") == masks.FORMAT:
        try:
            return masks.unpacked(given.state, given.metadata)
        except ValueError as error:
            raise ValueError(f"unet = {given.label!r}: {error}") from error
    return given.state if all(tensor.dtype == torch.bool for tensor in given.state.values()) else None
