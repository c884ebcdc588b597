"""Overlay: an unlearned text encoder put on top of a base pipeline.

Some methods leave the U-Net alone and change the text encoder (AdvUnlearn). What they publish, a state dict or a folder, is
laid over the base's: every name must be the base's and every shape must agree. Older files carry the prefix `text_model.` and
a buffer of position numbers, newer ones neither; both are read. A dict that holds some of the names only is allowed and
reported as partial.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from certify.models.fingerprint import fingerprint
from certify.models.overlay import Overlay, Part

__all__ = ["overlay_text_encoder", "text_overlay_of"]

_log = logging.getLogger(__name__)

_OLD = "text_model."
_POSITIONS = "embeddings.position_ids"
_PART = Part(
    name="text_encoder",
    what="text encoder",
    stem="model",
    prefixes=(
        "text_encoder.text_model.",
        "text_encoder.",
        "module.text_model.",
        "module.",
        "model.text_model.",
        "model.",
        "_orig_mod.text_model.",
        "_orig_mod.",
        _OLD,
    ),
    wrappers=("state_dict", "text_encoder", "model_state_dict", "model", "module"),
    config=(
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "max_position_embeddings",
        "vocab_size",
        "hidden_act",
        "layer_norm_eps",
    ),
)

_overlays: weakref.WeakKeyDictionary[nn.Module, Overlay] = weakref.WeakKeyDictionary()


def text_overlay_of(model: Any) -> Overlay | None:
    """The report of what was laid over the text encoder of a pipeline or `PromptEncoder`; None where it is the base's own."""
    return _overlays.get(model.text_encoder)


def overlay_text_encoder(text_encoder: nn.Module, source: str | Path | Mapping[str, Tensor]) -> Overlay:
    """Replaces weights of `text_encoder`, in place, by those of `source`. Nothing is changed where anything is wrong.

    Args:
        text_encoder: the base's `CLIPTextModel`.
        source: a `.safetensors` file; a `.pt`, `.bin` or `.ckpt` file (weights only); a folder saved by
            `CLIPTextModel.save_pretrained`, or a pipeline folder, whose `text_encoder` is taken; or a state dict.

    Returns:
        What was replaced.

    Raises:
        FileNotFoundError: there is no such file or folder, or no weights in it.
        ValueError: a name is unknown, a shape disagrees, an entry is NaN or infinite, the folder's configuration
            disagrees with the base's, or the file holds something other than a text encoder's tensors.
    """
    given = _PART.read(source, text_encoder)
    # By the short names, whichever the base has.
    target = {name.removeprefix(_OLD): tensor for name, tensor in text_encoder.state_dict().items()}
    state, prefix = _PART.without_prefix(given.state, list(target))
    if _POSITIONS not in target:  # 0, 1, 2, …: nothing is learned in it
        state.pop(_POSITIONS, None)
    if not state:
        raise ValueError(f"text_encoder = {given.label!r}: holds no tensors but position numbers")
    _PART.check(state, target, given.label)
    with torch.no_grad():
        for name, tensor in state.items():
            target[name].copy_(tensor)
    report = Overlay(given.label, len(state), len(target), prefix, fingerprint(given.state))
    _overlays[text_encoder] = report
    if report.partial:
        _log.info("text_encoder = %s: partial, %d of %d tensors replaced", given.label, report.loaded, report.total)
    return report
