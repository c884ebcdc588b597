"""Architecture: whether two configurations mean the same model.

Two models can agree in every shape and still compute different functions: head counts, activation. The configurations are
compared as their class reads them: a key that is left out has the class's default, one number for all blocks is the same as
a list of it, and where a switch is expected null is off.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["differences"]

# One value, or one for each block on the way down.
_EACH = (
    "layers_per_block",
    "attention_head_dim",
    "num_attention_heads",
    "cross_attention_dim",
    "transformer_layers_per_block",
    "only_cross_attention",
)
_WITHOUT_EFFECT = ("sample_size",)


def differences(model: Any, config: Mapping[str, Any], keys: Sequence[str] | None = None) -> dict[str, tuple[Any, Any]]:
    """key → (in `config`, in the model's own configuration), where they mean something else.

    Args:
        model: a model with a `config`, of diffusers or transformers.
        config: what a `config.json` holds; that of a whole CLIP has its text model's under `text_config`.
        keys: that matter; None: all that its class takes.
    """
    own = getattr(model, "config", None)
    if own is None:
        return {}
    if hasattr(own, "to_dict"):
        base, defaults = dict(own.to_dict()), dict(type(own)().to_dict())
        inner = config.get("text_config")
        config = inner if isinstance(inner, Mapping) else config
    else:
        base = dict(own)
        parameters = inspect.signature(type(model).__init__).parameters.values()
        defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    asked = [key for key in keys or defaults if key not in _WITHOUT_EFFECT]
    mine, theirs = _normal(base, defaults), _normal(config, defaults)
    return {
        key: (config.get(key, defaults.get(key)), base.get(key, defaults.get(key)))
        for key in asked
        if mine.get(key) != theirs.get(key)
    }


def _normal(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    plain = {key: _listed(config.get(key, default)) for key, default in defaults.items()}
    blocks = plain.get("down_block_types")
    for key, value in plain.items():
        if key in _EACH and isinstance(value, list) and isinstance(blocks, list) and len(value) == len(blocks):
            plain[key] = value = value[0] if all(one == value[0] for one in value) else value
        if isinstance(defaults[key], bool) and value is None:
            plain[key] = False
    # As diffusers' U-Net fills them.
    if "num_attention_heads" in plain and plain["num_attention_heads"] is None:
        plain["num_attention_heads"] = plain.get("attention_head_dim")
    if "mid_block_only_cross_attention" in plain and plain["mid_block_only_cross_attention"] is None:
        only = plain.get("only_cross_attention")
        plain["mid_block_only_cross_attention"] = only if isinstance(only, bool) else False
    return plain


def _listed(value: Any) -> Any:
    return [_listed(one) for one in value] if isinstance(value, (tuple, list)) else value
