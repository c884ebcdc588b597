"""LoRA: a low-rank change of linear maps and convolutions, fused into the weights that it belongs to.

    W ← W + (α / r) · B A,      A: r × in,  B: out × r

Layouts, of a U-Net, a text encoder or a transformer:

    peft, diffusers         <module>.lora_A.weight, <module>.lora_B.weight; with an adapter's name, ….lora_A.default.weight
    diffusers before that   <module>.lora.down.weight, <module>.lora.up.weight; <block>.processor.to_k_lora.down.weight
    kohya's trainers        lora_unet_<module with _ for dots>.lora_down.weight, ….lora_up.weight; lora_te_…

α is `<module>.alpha` where the file has it, else what the file's metadata or peft's `adapter_config.json` beside it say, in
peft's meaning; where nothing is said it is r, as the libraries take it. Of a convolution A carries the kernel and B is 1 × 1.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from certify import _files
from certify._records import Record

__all__ = ["Settings", "adapted", "factor", "is_lora"]

_FACTORS = {
    "down": re.compile(r"(?P<module>.+)\.(?:lora_A(?:\.[^.]+)?|lora\.down|lora_linear_layer\.down|lora_down)\.weight"),
    "up": re.compile(r"(?P<module>.+)\.(?:lora_B(?:\.[^.]+)?|lora\.up|lora_linear_layer\.up|lora_up)\.weight"),
    "alpha": re.compile(r"(?P<module>.+)\.alpha"),
}
_PROCESSOR = re.compile(
    r"(?P<block>.+\.(?:attn\d?|self_attn))\.(?:processor\.)?(?P<map>\w+)_lora\.(?P<factor>down|up)\.weight"
)
_OF_TEXT = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}

# What peft's configurations may hold besides. Of these keys none says more about the weights than the tensors do …
_WITHOUT_EFFECT = frozenset(
    (
        *(
            "auto_mapping",
            "base_model_name_or_path",
            "ensure_weight_tying",
            "fan_in_fan_out",
            "inference_mode",
            "revision",
        ),
        *("exclude_modules", "layers_pattern", "layers_to_transform", "lora_dropout", "target_modules", "task_type"),
        *("corda_config", "eva_config", "loftq_config", "lora_ga_config", "megatron_config", "megatron_core"),
        *("peft_version", "qalora_group_size", "runtime_config", "velora_config"),
    )
)
# … these are followed, and of those with a value here no other is.
_FOLLOWED = frozenset(("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora"))
_ONLY: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA", None),
    "bias": ("none", None),
    # The others take the base's weights apart first; their files are made for what is left of them.
    "init_lora_weights": (True, False, None, "gaussian", "eva", "orthogonal"),
}
_DEFAULT = 8  # peft's r and lora_alpha where a configuration leaves them out


def is_lora(names: Mapping[str, Any]) -> bool:
    """Whether these are LoRA weights: a name speaks of it."""
    return any("lora" in part for name in names for part in name.lower().split("."))


def factor(name: str) -> tuple[str, str] | None:
    """(module, "down", "up" or "alpha") of a LoRA's tensor; None: it is none that can be fused."""
    old = _PROCESSOR.fullmatch(name)
    if old:
        of_text = old["block"].endswith("self_attn")
        linear = (
            _OF_TEXT.get(old["map"], old["map"]) if of_text else "to_out.0" if old["map"] == "to_out" else old["map"]
        )
        return f"{old['block']}.{linear}", old["factor"]
    for kind, pattern in _FACTORS.items():
        found = pattern.fullmatch(name)
        if found:
            return found["module"], kind
    return None


def adapted(
    state: Mapping[str, Tensor], base: Mapping[str, Tensor], find: Callable[[str], str | None], settings: Settings
) -> dict[str, Tensor]:
    """name → W + (α / r) · B A, in the base's dtype, for every weight that the LoRA changes.

    Args:
        state: its tensors.
        base: the weights that it was made for.
        find: the base's name for another one (`Directory.find`).
        settings: what is said of it beside its tensors.

    Raises:
        ValueError: a name is unknown, one of A and B is missing, a shape does not fit, an entry is NaN or infinite, or the
            LoRA is of a kind that is more than B A.
    """
    factors: dict[str, dict[str, Tensor]] = {"down": {}, "up": {}, "alpha": {}}
    for name, tensor in state.items():
        parsed = factor(name)
        if parsed is None:
            why = "; merge the adapter into its model first" if ".base_layer." in name else ""
            raise ValueError(
                f"{name!r} is no name of a LoRA that can be fused; must be '….lora_A.weight', '….lora_B.weight', "
                f"'….lora.down.weight', '….lora.up.weight', '….lora_down.weight', '….lora_up.weight' or '….alpha'{why}"
            )
        if parsed[0] in factors[parsed[1]]:
            raise ValueError(f"{parsed[0]!r} has two of {parsed[1]}: must be one adapter")
        factors[parsed[1]][parsed[0]] = tensor
    downs, ups, alphas = factors.values()
    alone = sorted(set(downs) ^ set(ups)) or sorted(set(alphas) - set(downs))
    if alone:
        raise ValueError(f"of {alone[0]!r} there is not both of A (down) and B (up)")
    weights = {module: find(f"{module}.weight") for module in downs}
    unknown = sorted(module for module, name in weights.items() if not name)
    if unknown:
        raise ValueError(
            f"{len(unknown)} of {len(downs)} modules are unknown to the base, first {unknown[0]!r}; every LoRA must belong to "
            "one of its weights"
        )
    changed: dict[str, Tensor] = {}
    for module, down in downs.items():
        name = str(weights[module])
        if name in changed:
            raise ValueError(f"{module!r} changes {name!r}, which another module changes, too")
        up, weight = ups[module], base[name]
        pair = (up, down, *([alphas[module]] if module in alphas else []))
        if any(t.is_complex() or (i < 2 and not t.is_floating_point()) for i, t in enumerate(pair)):
            raise ValueError(f"{module!r} is {[str(t.dtype) for t in pair]}, must be real numbers")
        if not all(bool(torch.isfinite(t.double()).all()) for t in pair):
            raise ValueError(f"{module!r} holds NaN or infinity, every entry must be finite")
        maps = _as_maps(down, up, weight)
        if maps is None:
            raise ValueError(
                f"{module!r} has A {tuple(down.shape)} and B {tuple(up.shape)}, which do not fit a weight {tuple(weight.shape)}"
            )
        A, B = maps
        own = _number(alphas[module], module) if module in alphas else None
        scale = settings.scale(name.removesuffix(".weight"), len(A), own)
        fused = weight.double().cpu() + scale * (B @ A).reshape(weight.shape).cpu()
        changed[name] = fused.to(weight.dtype)
        if not bool(torch.isfinite(changed[name]).all()):
            raise ValueError(f"{module!r} is too large, the weight that it is added to is infinite")
    return changed


def _as_maps(down: Tensor, up: Tensor, weight: Tensor) -> tuple[Tensor, Tensor] | None:
    """A and B as matrices; None where they do not fit. A kernel of 1 × 1 may be written or not: it is the same linear map."""
    rank = down.shape[0] if down.ndim else 0
    fits = (
        rank > 0
        and min(down.ndim, up.ndim, weight.ndim) >= 2
        and _into(down) == _into(weight)
        and tuple(up.shape) == (weight.shape[0], rank, *[1] * (up.ndim - 2))
    )
    return (down.double().reshape(rank, -1), up.double().reshape(-1, rank)) if fits else None


def _into(weight: Tensor) -> tuple[int, ...]:
    """Inputs and kernel."""
    sides = list(weight.shape[1:])
    while len(sides) > 1 and sides[-1] == 1:
        sides.pop()
    return tuple(sides)


def _number(alpha: Tensor, module: str) -> float:
    if alpha.numel() != 1:
        raise ValueError(f"'{module}.alpha' has shape {tuple(alpha.shape)}, must be one number")
    return float(alpha)


@dataclass(frozen=True)
class Settings(Record):
    """What is said of a LoRA beside its tensors, in peft's meaning.

    Attributes:
        said: keys of peft's `LoraConfig`; empty where nothing is said.
        where: it is said, in words.
    """

    said: Mapping[str, Any] = field(default_factory=dict)
    where: str = ""

    @classmethod
    def read(cls, text: str | None, parts: tuple[str, ...], where: str) -> Settings:
        """Of a JSON text, in which the keys may carry the names of parts.

        Raises:
            ValueError: it cannot be read, or asks for what is not followed here.
        """
        said = _files.json_object(text) if text else {}
        if any(key.startswith(tuple(f"{part}." for part in parts)) for key in said):
            said = {
                key.removeprefix(f"{part}."): value
                for key, value in said.items()
                for part in parts
                if key.startswith(f"{part}.")
            }
        elif said and all("." in key for key in said):  # of other parts alone
            said = {}
        for key, value in said.items():
            if key in _ONLY and not any(value is one or (isinstance(one, str) and value == one) for one in _ONLY[key]):
                raise ValueError(f"{key} = {value!r}, which is not followed here: it says more than B A")
            if key in _FOLLOWED:
                _check(key, value)
            elif key not in _WITHOUT_EFFECT and key not in _ONLY and value:
                raise ValueError(f"{key} = {value!r}, which is not followed here: it says more than B A")
        return cls(said, where)

    def scale(self, module: str, rank: int, alpha: float | None) -> float:
        """α / r of a module, or α / √r where that is asked for; `alpha` is what the file itself says.

        Raises:
            ValueError: r is said to be another than it is.
        """
        if self.said:
            rank_on_record = _matched(self.said.get("rank_pattern"), module, self.said.get("r", _DEFAULT))
            if rank_on_record != rank:
                raise ValueError(
                    f"{module!r} has rank {rank}, and r = {rank_on_record} in {self.where}: they do not belong together"
                )
            if alpha is None:
                alpha = _matched(self.said.get("alpha_pattern"), module, self.said.get("lora_alpha", _DEFAULT))
        alpha = float(rank if alpha is None else alpha)
        return alpha / (math.sqrt(rank) if self.said.get("use_rslora") else rank)


def _check(key: str, value: Any) -> None:
    if key == "use_rslora":
        if not isinstance(value, bool | None):
            raise ValueError(f"{key} = {value!r}, must be true or false")
        return
    values = {key: value}
    if key.endswith("_pattern"):
        if not isinstance(value, Mapping | None):
            raise ValueError(f"{key} = {value!r}, must be an object")
        values = dict(value or {})
        for pattern in values:
            _check_pattern(key, pattern)
    for name, number in values.items():
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            raise ValueError(f"{name} = {number!r}, must be a number")


def _check_pattern(key: str, pattern: str) -> None:
    """Refuses a pattern that is none, or with which a file could keep a machine busy for ever."""
    loops, groups = len(re.findall(r"[*+?{]", pattern)), pattern.count("(")
    try:
        re.compile(pattern)
        if len(pattern) > 1_000 or loops > 3 or groups > 3 or re.search(r"\)[*+?{]", pattern):
            raise ValueError("must be the name of a module, or a simple pattern of names")
    except (re.error, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"{key} has {pattern!r}: {error}") from error


def _matched(patterns: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    """peft's rule: the first pattern that matches a module's name, or its end from a dot on.

    A text encoder's had a prefix in older versions of transformers.
    """
    for pattern, value in (patterns or {}).items():
        if any(re.match(rf"(.*\.)?({pattern})$", name) for name in (module, f"text_model.{module}")):
            return value
    return default
