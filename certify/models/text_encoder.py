"""Overlay: an unlearned text encoder put on top of a base pipeline.

Some methods leave the U-Net alone and change the text encoder (AdvUnlearn). What they publish, a state dict or a folder, is
laid over the base's: every name must be one of its tensors' and every shape must agree. Older files carry the prefix
`text_model.` and a buffer of position numbers, newer ones neither; AdvUnlearn's hold every tensor twice, CompVis' checkpoints
hold it behind `cond_stage_model.transformer.`; all are read. A dict that holds some of the names only is allowed and reported
as partial. A LoRA may stand in its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from certify.models.overlay import Overlay, Part, overlay_on

__all__ = ["overlay_text_encoder", "text_overlay_of"]

_PART = Part(
    name="text_encoder",
    what=("text encoder",),
    stem="model",
    prefixes=("text_encoder.", "cond_stage_model.", "transformer.", "text_model."),
    joined=tuple(f"{prefix}{model}" for prefix in ("lora_te_", "lora_te1_") for model in ("text_model_", "")),
    ignored=("embeddings.position_ids", "embedding.position_ids"),  # 0, 1, 2, …
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


def text_overlay_of(model: Any) -> Overlay | None:
    """The report of what was laid over the text encoder of a pipeline or `PromptEncoder`; None where it is the base's own."""
    return overlay_on(model.text_encoder)


def overlay_text_encoder(
    text_encoder: nn.Module, source: str | Path | Mapping[str, Tensor], *, variant: str | None = None
) -> Overlay:
    """Replaces weights of `text_encoder`, in place, by those of `source`. Nothing is changed where anything is wrong.

    Args:
        text_encoder: the base's `CLIPTextModel`.
        source: a `.safetensors` file; a `.pt`, `.bin` or `.ckpt` file (weights only); a folder saved by
            `CLIPTextModel.save_pretrained`, or a pipeline folder, whose `text_encoder` is taken; a folder that peft saved; or a
            state dict. The tensors may be a LoRA's.
        variant: of a folder's weight files, "fp16" for `*.fp16.safetensors`, where there are several.

    Returns:
        What was replaced.

    Raises:
        FileNotFoundError: there is no such file or folder, or no weights in it.
        ValueError: a name is unknown, a shape disagrees, an entry is NaN or infinite, the configuration beside it
            disagrees with the base's, it is one of several parts of a model's weights, or holds something other than a text
            encoder's tensors.
    """
    return _PART.lay(text_encoder, source, variant)
