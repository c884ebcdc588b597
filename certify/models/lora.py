"""LoRA: a low-rank change of linear maps and convolutions, fused into the weights that it belongs to.

    W ← W + (α / r) · B A,      A: r × in,  B: out × r

Layouts: peft's and diffusers' `<module>.lora_A.weight`, `<module>.lora_B.weight`; the older `<module>.lora.down.weight` (A),
`<module>.lora.up.weight` (B). α is `<module>.alpha` where the file has it, else what the file's metadata or an
`adapter_config.json` beside it say; where nothing is said it is r, as the libraries take it. Of a convolution A carries the
kernel and B is 1 × 1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from certify import _files

__all__ = ["adapted", "is_lora"]

_DOWN = re.compile(r"^(?P<module>.+)\.(?:lora_A(?:\.[^.]+)?|lora\.down|lora_linear_layer\.down)\.weight$")
_UP = re.compile(r"^(?P<module>.+)\.(?:lora_B(?:\.[^.]+)?|lora\.up|lora_linear_layer\.up)\.weight$")
_ALPHA = re.compile(r"^(?P<module>.+)\.alpha$")
_OTHER = ("use_rslora", "use_dora", "lora_bias", "fan_in_fan_out")


def is_lora(state: Mapping[str, Tensor]) -> bool:
    """Whether these are LoRA weights: a name speaks of it."""
    return any("lora" in part for name in state for part in name.lower().split("."))


def adapted(
    state: Mapping[str, Tensor],
    base: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    *,
    label: str,
    part: str = "unet",
) -> dict[str, Tensor]:
    """name → W + (α / r) · B A, in the base's dtype, for every weight that the LoRA changes.

    Args:
        state: its tensors; module names without a prefix.
        base: the weights that it was made for.
        metadata: of its file (`lora_adapter_metadata`), or "adapter": the text of `adapter_config.json`.
        label: what errors call it.
        part: the argument's name, and the prefix of this part's entries in the metadata.

    Raises:
        ValueError: a name is unknown, one of A and B is missing, a shape does not fit, an entry is NaN or infinite, or the
            LoRA is of a kind that is more than B A (DoRA, rank-stabilised, with bias).
    """
    downs, ups, alphas = (
        {found["module"]: tensor for name, tensor in state.items() if (found := pattern.match(name))}
        for pattern in (_DOWN, _UP, _ALPHA)
    )
    strange = [n for n in state if not any(pattern.match(n) for pattern in (_DOWN, _UP, _ALPHA))]
    if strange:
        raise ValueError(
            f"{part} = {label!r}: {strange[0]!r} is no name of a LoRA that can be fused; must be '….lora_A.weight', "
            "'….lora_B.weight', '….lora.down.weight', '….lora.up.weight' or '….alpha'"
        )
    alone = sorted(set(downs) ^ set(ups)) or sorted(set(alphas) - set(downs))
    if alone:
        raise ValueError(f"{part} = {label!r}: of {alone[0]!r} there is not both of A (down) and B (up)")
    unknown = sorted(m for m in downs if f"{m}.weight" not in base)
    if unknown:
        raise ValueError(
            f"{part} = {label!r}: {len(unknown)} of {len(downs)} modules are unknown to the base, first {unknown[0]!r}; "
            "every LoRA must belong to one of its weights"
        )
    settings = _settings(metadata, part, label)
    changed = {}
    for module, down in downs.items():
        up, weight = ups[module], base[f"{module}.weight"]
        rank = down.shape[0] if down.ndim else 0
        fits = (
            rank > 0
            and down.ndim == up.ndim == weight.ndim >= 2
            and down.shape[1:] == weight.shape[1:]
            and up.shape == (weight.shape[0], rank, *[1] * (weight.ndim - 2))
        )
        if not fits:
            raise ValueError(
                f"{part} = {label!r}: {module!r} has A {tuple(down.shape)} and B {tuple(up.shape)}, which do not fit a "
                f"weight {tuple(weight.shape)}"
            )
        factors: tuple[Tensor, ...] = (up, down, *([alphas[module]] if module in alphas else []))
        if any(t.is_complex() or (i < 2 and not t.is_floating_point()) for i, t in enumerate(factors)):
            raise ValueError(
                f"{part} = {label!r}: {module!r} is {[str(t.dtype) for t in factors]}, must be real numbers"
            )
        factors = tuple(t.double() for t in factors)
        if not all(bool(torch.isfinite(t).all()) for t in factors):
            raise ValueError(f"{part} = {label!r}: {module!r} holds NaN or infinity, every entry must be finite")
        alpha = _number(alphas[module], module, label, part) if module in alphas else _alpha(settings, module, rank)
        change = up.double().flatten(1) @ down.double().flatten(1)
        fused = weight.double().cpu() + alpha / rank * change.reshape(weight.shape).cpu()
        changed[f"{module}.weight"] = fused.to(weight.dtype)
        if not bool(torch.isfinite(changed[f"{module}.weight"]).all()):
            raise ValueError(f"{part} = {label!r}: {module!r} is too large, the weight that it is added to is infinite")
    return changed


def _number(alpha: Tensor, module: str, label: str, part: str) -> float:
    if alpha.numel() != 1:
        raise ValueError(f"{part} = {label!r}: '{module}.alpha' has shape {tuple(alpha.shape)}, must be one number")
    return float(alpha)


def _settings(metadata: Mapping[str, str], part: str, label: str) -> dict[str, Any]:
    """What is said of this part's LoRA beside its tensors; empty where nothing is."""
    text = metadata.get("lora_adapter_metadata") or metadata.get("adapter")
    try:
        settings = _files.json_object(text) if text else {}
        if any(key.startswith(f"{part}.") for key in settings):
            settings = {k.removeprefix(f"{part}."): v for k, v in settings.items() if k.startswith(f"{part}.")}
        _numbers(settings)
    except ValueError as error:
        raise ValueError(f"{part} = {label!r}: what its metadata say of the LoRA cannot be read ({error})") from error
    more = [name for name in _OTHER if settings.get(name)]
    if more:
        raise ValueError(f"{part} = {label!r}: is a LoRA with {more[0]}, which is more than B A and is not supported")
    return dict(settings)


def _numbers(settings: Mapping[str, Any]) -> None:
    """Raises ValueError where an α is no number."""
    patterns = settings.get("alpha_pattern") or {}
    if not isinstance(patterns, Mapping):
        raise ValueError(f"alpha_pattern = {patterns!r}, must be an object")
    for name, value in {"lora_alpha": settings.get("lora_alpha"), **patterns}.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise ValueError(f"{name} = {value!r}, must be a number")


def _alpha(settings: Mapping[str, Any], module: str, rank: int) -> float:
    for pattern, value in (settings.get("alpha_pattern") or {}).items():
        if module == pattern or module.endswith(f".{pattern}"):
            return float(rank if value is None else value)
    given = settings.get("lora_alpha")
    return float(rank if given is None else given)
