"""Weights as files, in the layouts that people have: what tests of overlays write."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from certify.models import fingerprint

State = dict[str, Tensor]
Factors = dict[str, tuple[Tensor, Tensor]]
"""Module → (A, B) of a LoRA."""

KEY = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
OUT = "mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0"
CONV = "down_blocks.0.resnets.0.conv1"
ONE = "down_blocks.0.attentions.0.proj_in"  # a convolution of 1 × 1
TEXT = "encoder.layers.1.self_attn.q_proj"
MLP = "encoder.layers.0.mlp.fc1"


def short(state: State) -> State:
    """A text encoder's weights by their names without a prefix."""
    return {name.removeprefix("text_model."): tensor for name, tensor in state.items()}


def file(state: State, path: Path, **about: Any) -> Path:
    """As safetensors, with `about` as the metadata of a LoRA."""
    path.parent.mkdir(exist_ok=True, parents=True)
    metadata = {"lora_adapter_metadata": json.dumps(about)} if about else None
    save_file({name: tensor.contiguous().clone() for name, tensor in state.items()}, path, metadata)
    return path


def pickled(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path


def saved(model: Any, path: Path, **changes: Any) -> Path:
    """A model as its library saves it, with changes to its configuration ("left out": without)."""
    model.save_pretrained(path)
    config = json.loads((path / "config.json").read_text()) | changes
    (path / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v != "left out"}))
    return path


def with_weights(model: Any, state: State) -> Any:
    model.load_state_dict(state)
    return model


@contextlib.contextmanager
def unchanged(model: Any) -> Iterator[None]:
    """A model has the same weights at the end."""
    before = fingerprint(model)
    yield
    assert fingerprint(model) == before


def weight(model: Any, module: str) -> Tensor:
    state = model.state_dict()
    return next(state[n] for n in (f"{module}.weight", f"text_model.{module}.weight") if n in state)


def factors(model: Any, *modules: str, rank: int = 2) -> Factors:
    source = torch.Generator().manual_seed(4)
    found = {}
    for module in modules:
        w = weight(model, module)
        down = torch.randn(rank, *w.shape[1:], generator=source)
        found[module] = (down, torch.randn(len(w), rank, *[1] * (w.ndim - 2), generator=source))
    return found


def fused(model: Any, pairs: Factors, scale: float | dict[str, float]) -> State:
    """Weights with B A added, `scale` times; of all modules, or of each."""
    scales = scale if isinstance(scale, dict) else dict.fromkeys(pairs, scale)
    return {
        m: weight(model, m) + scales[m] * (b.flatten(1) @ a.flatten(1)).reshape(weight(model, m).shape)
        for m, (a, b) in pairs.items()
    }


def named(pairs: Factors, prefix: str = "", down: str = "lora_A.weight", up: str = "lora_B.weight") -> State:
    return {f"{prefix}{m}.{which}": t for m, pair in pairs.items() for which, t in zip((down, up), pair, strict=True)}


def kohya(pairs: Factors, prefix: str, alpha: float | None = None) -> State:
    under = {m.replace(".", "_"): pair for m, pair in pairs.items()}
    alphas = {} if alpha is None else {f"{prefix}{m}.alpha": torch.tensor(alpha) for m in under}
    return named(under, prefix, "lora_down.weight", "lora_up.weight") | alphas
