"""Names: what toolkits and trainers call the tensors of a U-Net, of a text encoder and of a transformer.

A state dict may lie in another object; its names may carry what it was wrapped in (`module.`, `_orig_mod.`, `unet.`), may be
those of the original layout (CompVis: `input_blocks.1.1.…`), and the same tensor may be there under two names. A LoRA of
kohya's trainers has `_` for every dot (`lora_unet_down_blocks_0_…`). `Directory` finds the base's tensor behind each of them,
from the names that the base itself has.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

__all__ = ["Directory", "compvis", "elsewhere", "flat"]

_PARTS = ("unet", "text_encoder", "text_encoder_2", "text_encoder_3", "transformer", "vae")
_WRAPPED = ("state_dict", "model_state_dict", "model", "module", "params", "network", "ema")
_WRAPPERS = ("module.", "_orig_mod.", "base_model.model.", "base_model.", "model.")
_DEEPEST = 4
_MOST = 2**18  # names; a U-Net has some thousand

# Prefix → the part that names of that kind belong to.
_ELSEWHERE = {
    "unet.": "U-Net",
    "lora_unet_": "U-Net",
    "diffusion_model.": "U-Net",
    "text_encoder.": "text encoder",
    "lora_te_": "text encoder",
    "lora_te1_": "text encoder",
    "cond_stage_model.": "text encoder",
    "text_encoder_2.": "second text encoder",
    "text_encoder_3.": "third text encoder",
    "lora_te2_": "second text encoder",
    "lora_te3_": "third text encoder",
    "transformer.": "transformer",
    "lora_transformer_": "transformer",
    "vae.": "autoencoder",
    "first_stage_model.": "autoencoder",
    "model_ema.": "moving average of the U-Net",
    "vision_model.": "rest of CLIP",
    "visual_projection.": "rest of CLIP",
    "text_projection.": "rest of CLIP",
    "logit_scale": "rest of CLIP",
}
# Constants of the noise schedule that lie in a CompVis checkpoint, beside its models.
_SCHEDULE = re.compile(
    r"(betas|logvar|scale_factor|lvlb_weights|posterior_\w+|(sqrt_|log_)?(recip_|recipm1_|one_minus_)?alphas_cumprod(_prev)?)"
)


def flat(state: Mapping[Any, Any], deep: int = _DEEPEST) -> dict[Any, Any]:
    """name → tensor, where a trainer put the state dict into another, or one for each part or module.

    Names of parts and of modules stay as prefixes. What is deeper than any trainer puts it is left as it is.

    Raises:
        ValueError: it has more names than any model, or several state dicts of which any may be meant.
    """
    for level in range(deep):
        parts = {key: state[key] for key in _PARTS if isinstance(state.get(key), Mapping)}
        wrapped = [key for key in _WRAPPED if isinstance(state.get(key), Mapping)]
        if parts:
            below = deep - level - 1
            return {f"{key}.{name}": tensor for key, of in parts.items() for name, tensor in flat(of, below).items()}
        if wrapped:
            whole = [key for key in wrapped if any(isinstance(value, Tensor) for value in state[key].values())]
            if len(whole) > 1:
                raise ValueError(f"holds several state dicts, {', '.join(map(repr, whole))}; must hold one of them")
            state = state[(whole or wrapped)[0]]
        elif any(isinstance(value, Mapping) for value in state.values()):  # {module: its state dict}
            opened: dict[Any, Any] = {}
            for key, value in state.items():
                within = isinstance(value, Mapping) and isinstance(key, str)
                opened |= {f"{key}.{name}": tensor for name, tensor in value.items()} if within else {key: value}
                if len(opened) > _MOST:
                    raise ValueError(f"holds more than {_MOST:,} names")
            state = opened
        else:
            break
    return dict(state)


def elsewhere(name: str) -> str | None:
    """The part that a name says it belongs to; None: it does not say."""
    if _SCHEDULE.fullmatch(name):
        return "noise schedule"
    while not name.startswith(tuple(_ELSEWHERE)):
        prefix = next((w for w in _WRAPPERS if name.startswith(w)), None)
        if prefix is None:
            return None
        name = name.removeprefix(prefix)
    return next(part for prefix, part in _ELSEWHERE.items() if name.startswith(prefix))


@dataclass(frozen=True)
class Directory:
    """The names of a base's tensors, under all that they are called.

    Attributes:
        known: another name → the base's.
        prefixes: that a name may carry, beside what any module may be wrapped in.
        ignored: names of what is not learned, and may be there or not.
    """

    known: Mapping[str, str]
    prefixes: tuple[str, ...]
    ignored: tuple[str, ...] = ()
    joined: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls, base: Iterable[str], prefixes: tuple[str, ...], joined: tuple[str, ...], ignored: tuple[str, ...] = ()
    ) -> Directory:
        """Of these names.

        Args:
            base: the base's own.
            prefixes: that others may carry.
            joined: prefixes of kohya's names, in which `_` stands for a dot.
            ignored: as above.
        """
        known = {name: name for name in base}
        short = {name.removeprefix("text_model."): name for name in known}
        for name, full in short.items():
            if name.startswith("embeddings."):  # AdvUnlearn's wrapper has the parts of its encoder a second time
                known.setdefault(name.replace("embeddings.", "embedding.", 1), full)
        known = short | compvis(known) | known
        several = defaultdict(set)
        for name, full in known.items():
            several[name.replace(".", "_")].add(full)
        # Two tensors of the same name with underscores cannot be told apart, and neither is known by it.
        under = {name: full.pop() for name, full in several.items() if len(full) == 1}
        every = {f"{prefix}{name}": full for prefix in joined for name, full in under.items()}
        absent = tuple(name for name in ignored if name not in short)
        return cls(known, (*prefixes, *_WRAPPERS), absent, every)

    def find(self, name: str) -> str | None:
        """The base's name; "" for what may be left out; None: it is unknown."""
        while name not in self.known:
            if name in self.ignored:
                return ""
            prefix = next((p for p in self.prefixes if name.startswith(p)), None)
            if prefix is None:
                return self.joined.get(name.replace(".", "_"))
            name = name.removeprefix(prefix)
        return self.known[name]


def compvis(base: Iterable[str]) -> dict[str, str]:
    """CompVis' name → diffusers' name of the same tensor of a U-Net, from the names that it has in diffusers.

    There the blocks of the way down, their samplers included, are counted through as `input_blocks`, those of the way up as
    `output_blocks`, and in each of them the modules are.
    """
    base = list(base)
    blocks: dict[str, str] = {}
    down, up = _modules(base, "down_blocks"), _modules(base, "up_blocks")
    at = 1
    for block in sorted(down):
        for layer in range(down[block]["resnets"]):
            blocks[f"down_blocks.{block}.resnets.{layer}."] = f"input_blocks.{at}.0."
            blocks[f"down_blocks.{block}.attentions.{layer}."] = f"input_blocks.{at}.1."
            at += 1
        if down[block]["downsamplers"]:
            blocks[f"down_blocks.{block}.downsamplers.0.conv."] = f"input_blocks.{at}.0.op."
            at += 1
    at = 0
    for block in sorted(up):
        for layer in range(up[block]["resnets"]):
            blocks[f"up_blocks.{block}.resnets.{layer}."] = f"output_blocks.{at}.0."
            blocks[f"up_blocks.{block}.attentions.{layer}."] = f"output_blocks.{at}.1."
            at += 1
        sampler = 2 if up[block]["attentions"] else 1
        blocks[f"up_blocks.{block}.upsamplers.0.conv."] = f"output_blocks.{at - 1}.{sampler}.conv."
    for number, module in enumerate(("resnets.0.", "attentions.0.", "resnets.1.")):
        blocks[f"mid_block.{module}"] = f"middle_block.{number}."
    table = {}
    for name in base:
        new = next((f"{ldm}{name.removeprefix(own)}" for own, ldm in blocks.items() if name.startswith(own)), None)
        if new is not None:
            if ".resnets." in name:
                for own, ldm in _RESNET.items():
                    new = new.replace(own, ldm)
            table[new] = name
        else:
            table |= {f"{ldm}{name.removeprefix(own)}": name for own, ldm in _OUTSIDE.items() if name.startswith(own)}
    return table


_RESNET = {
    ".norm1.": ".in_layers.0.",
    ".conv1.": ".in_layers.2.",
    ".time_emb_proj.": ".emb_layers.1.",
    ".norm2.": ".out_layers.0.",
    ".conv2.": ".out_layers.3.",
    ".conv_shortcut.": ".skip_connection.",
}
_OUTSIDE = {
    "time_embedding.linear_1.": "time_embed.0.",
    "time_embedding.linear_2.": "time_embed.2.",
    "add_embedding.linear_1.": "label_emb.0.0.",
    "add_embedding.linear_2.": "label_emb.0.2.",
    "conv_in.": "input_blocks.0.0.",
    "conv_norm_out.": "out.0.",
    "conv_out.": "out.2.",
}


def _modules(base: Iterable[str], blocks: str) -> dict[int, dict[str, int]]:
    """block → kind of module → how many it has."""
    found: dict[int, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for name in base:
        place = re.match(rf"{blocks}\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.", name)
        if place:
            block, kind, number = int(place[1]), place[2], int(place[3])
            found[block][kind] = max(found[block][kind], number + 1)
    return found


def same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same numbers."""
    return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other)
