"""Parameters: which of a model's weights a method trains, by the names that the papers use.

full        everything
xattn       cross-attention, `….attn2.…` (ESD-x, AC for objects and styles in its wider form)
xattn-kv    its key and value projections, `….attn2.to_k`, `….attn2.to_v` (ESD-x-strict, AC, UCE)
noxattn     everything but cross-attention (ESD-u)
noxattn-old everything but cross-attention, the output convolution and the time embedding (ESD-u in the older code)
selfattn    self-attention, `….attn1.…`
attn        queries, keys, values and output maps of all attention (AC for nudity)
encoder     of a text encoder: its layers and final layer norm; token and position embeddings stay (AdvUnlearn)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from certify import _validate

__all__ = ["FILTERS", "trainable"]


def _is_attention(name: str) -> bool:
    parts = name.split(".")
    return ("attn1" in parts or "attn2" in parts) and any(p in ("to_q", "to_k", "to_v", "to_out") for p in parts)


def _is_encoder(name: str) -> bool:
    return "embeddings" not in name.split(".")


FILTERS: dict[str, Callable[[str], bool]] = {
    "full": lambda name: True,
    "xattn": lambda name: "attn2" in name.split("."),
    "xattn-kv": lambda name: "attn2" in name.split(".") and name.split(".")[-2] in ("to_k", "to_v"),
    "noxattn": lambda name: "attn2" not in name.split("."),
    "noxattn-old": lambda name: (
        "attn2" not in name.split(".")
        and not name.startswith(("conv_out.", "conv_norm_out.", "time_embedding.", "time_proj."))
    ),
    "selfattn": lambda name: "attn1" in name.split("."),
    "attn": _is_attention,
    "encoder": _is_encoder,
}
"""Name → whether a parameter of this name is trained."""


def trainable(module: nn.Module | Any, which: str) -> dict[str, nn.Parameter]:
    """Lets gradients flow to the named parameters, and to no others.

    Returns:
        name → parameter, of those that train.

    Raises:
        ValueError: no such filter, or it selects nothing.
    """
    keep = FILTERS[_validate.choice("parameters", which, tuple(FILTERS))]
    chosen = {name: p for name, p in module.named_parameters() if keep(name)}
    if not chosen:
        raise ValueError(f"parameters = {which!r}: selects nothing in a {type(module).__name__}")
    module.requires_grad_(False)
    for parameter in chosen.values():
        parameter.requires_grad_(True)
    return chosen
