"""Overlay: an unlearned U-Net's weights put on top of a base pipeline.

Concept erasure changes the U-Net (all of it, or its cross-attention alone) and publishes a state dict. It is laid over
the base's U-Net: every name must be the base's and every shape must agree; names may carry one common prefix such as
`unet.`. A dict that holds some of the names only (cross-attention, say) is allowed and reported as partial.

safetensors are read directly; `.pt`, `.bin` and `.ckpt` files are pickles and are read through PyTorch's weights-only
unpickler, which builds tensors and containers and runs nothing.
"""

from __future__ import annotations

import json
import logging
import pickle
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from certify.models.fingerprint import fingerprint

__all__ = ["UNetOverlay", "overlay_of", "overlay_unet"]

_log = logging.getLogger(__name__)

_PICKLED = (".pt", ".pth", ".bin", ".ckpt")
_PREFIXES = ("unet.", "module.", "model.", "_orig_mod.", "module.unet.", "model.unet.")
_WRAPPERS = ("state_dict", "unet", "model", "module", "params", "ema")
_WEIGHTS = "diffusion_pytorch_model"


@dataclass(frozen=True)
class UNetOverlay:
    """What was laid over a base U-Net.

    Attributes:
        source: the file or folder, or "<state dict>".
        loaded: tensors replaced.
        total: tensors of the base.
        prefix: the prefix that was stripped from the names.
        sha256: fingerprint of the tensors that came in.
    """

    source: str
    loaded: int
    total: int
    prefix: str
    sha256: str

    @property
    def partial(self) -> bool:
        """True where some of the base's tensors stayed."""
        return self.loaded < self.total


_overlays: weakref.WeakKeyDictionary[nn.Module, UNetOverlay] = weakref.WeakKeyDictionary()


def overlay_of(pipe: Any) -> UNetOverlay | None:
    """The report of what `load_pipeline(unet=…)` laid over this pipeline's U-Net; None where it is the base's own."""
    return _overlays.get(pipe.unet)


def overlay_unet(unet: nn.Module, source: str | Path | Mapping[str, Tensor]) -> UNetOverlay:
    """Replaces weights of `unet`, in place, by those of `source`. Nothing is changed where anything is wrong.

    Args:
        unet: the base's `UNet2DConditionModel`.
        source: a `.safetensors` file; a `.pt`, `.bin` or `.ckpt` file (weights only); a folder saved by
            `UNet2DConditionModel.save_pretrained`, or a pipeline folder, whose `unet` is taken; or a state dict.

    Returns:
        What was replaced.

    Raises:
        FileNotFoundError: there is no such file or folder, or no weights in it.
        ValueError: a name is unknown, a shape disagrees, an entry is NaN or infinite, the folder's configuration
            disagrees with the base's, or the file holds something other than a U-Net's tensors.
    """
    if isinstance(source, Mapping):
        state, label = dict(source), "<state dict>"
    elif isinstance(source, (str, Path)):
        path = Path(source).expanduser()
        if not path.exists():
            raise FileNotFoundError(f"unet = {str(source)!r}: no such file or folder; looked for {path.resolve()}")
        state, label = (_from_folder(path, unet) if path.is_dir() else _from_file(path)), str(source)
    else:
        raise TypeError(f"unet is a {type(source).__name__}: must be a path or a state dict")

    state = _unwrapped(state, label)
    state, prefix = _without_prefix(state, unet)
    _check(state, unet, label)
    target = unet.state_dict()
    with torch.no_grad():
        for name, tensor in state.items():
            target[name].copy_(tensor)
    report = UNetOverlay(label, len(state), len(target), prefix, fingerprint(state))
    _overlays[unet] = report
    if report.partial:
        _log.info("unet = %s: partial, %d of %d tensors replaced", label, report.loaded, report.total)
    return report


def _from_file(path: Path) -> dict[str, Any]:
    if path.suffix == ".safetensors":
        try:
            return dict(load_file(path, device="cpu"))
        except SafetensorError as error:
            raise ValueError(f"unet = {str(path)!r}: is not a readable safetensors file ({error})") from error
    if path.suffix in _PICKLED:
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
            raise ValueError(
                f"unet = {str(path)!r}: is refused: it is pickled and holds more than tensors, or is damaged; "
                "must be readable with torch.load(weights_only=True); better, a .safetensors file"
            ) from error
        if not isinstance(state, Mapping):
            raise ValueError(f"unet = {str(path)!r}: holds a {type(state).__name__}, must be a state dict")
        return dict(state)
    raise ValueError(f"unet = {str(path)!r}: must end in .safetensors, {', '.join(_PICKLED)}, or be a folder")


def _from_folder(folder: Path, unet: nn.Module) -> dict[str, Any]:
    if (folder / "model_index.json").is_file():
        folder = folder / "unet"
    config = folder / "config.json"
    if config.is_file():
        _check_config(json.loads(config.read_text(encoding="utf-8")), unet, folder)
    index = folder / f"{_WEIGHTS}.safetensors.index.json"
    if index.is_file():
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        if any(Path(shard).name != shard for shard in shards):
            raise ValueError(f"unet = {str(folder)!r}: its index names files outside the folder: {shards}")
        return {name: tensor for shard in shards for name, tensor in _from_file(folder / shard).items()}
    preferred = folder / f"{_WEIGHTS}.safetensors"
    if preferred.is_file():
        return _from_file(preferred)
    for pattern in ("*.safetensors", *(f"*{suffix}" for suffix in _PICKLED)):
        found = sorted(folder.glob(pattern))
        if len(found) == 1:
            return _from_file(found[0])
        if found:
            names = [f.name for f in found]
            raise ValueError(f"unet = {str(folder)!r}: holds several weight files, {names}; must name one of them")
    raise FileNotFoundError(f"unet = {str(folder)!r}: no weights in it; looked for {preferred.resolve()}")


def _check_config(config: Mapping[str, Any], unet: nn.Module, folder: Path) -> None:
    """Two U-Nets can agree in every shape and still compute different functions: head counts, activation."""
    base = dict(getattr(unet, "config", {}))
    differing = {
        key: (value, base[key])
        for key, value in config.items()
        if not key.startswith("_") and key != "sample_size" and key in base and _plain(value) != _plain(base[key])
    }
    if differing:
        what = "; ".join(f"{key} {new!r}, base {old!r}" for key, (new, old) in differing.items())
        raise ValueError(f"unet = {str(folder)!r}: its configuration must be the base's, but {what}")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (tuple, list)) else value


def _unwrapped(state: dict[str, Any], label: str) -> dict[str, Any]:
    for key in _WRAPPERS:
        inner = state.get(key)
        if isinstance(inner, Mapping):
            state = dict(inner)
            break
    if not state:
        raise ValueError(f"unet = {label!r}: holds no tensors")
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"unet = {label!r}: {name!r} is a {type(value).__name__}, must be a tensor")
    return state


def _without_prefix(state: dict[str, Tensor], unet: nn.Module) -> tuple[dict[str, Tensor], str]:
    known = set(unet.state_dict())
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in state) and not known & set(state):
            return {name.removeprefix(prefix): tensor for name, tensor in state.items()}, prefix
    return state, ""


def _check(state: Mapping[str, Tensor], unet: nn.Module, label: str) -> None:
    base = unet.state_dict()
    unknown = sorted(set(state) - set(base))
    if unknown:
        hint = ""
        if any("model.diffusion_model." in name or ".input_blocks." in f".{name}" for name in unknown):
            hint = "; these are names of the original (CompVis) layout: convert the checkpoint to diffusers first"
        elif any("lora" in name.lower() for name in unknown):
            hint = "; these are LoRA weights: fuse them into the U-Net and save it first"
        raise ValueError(
            f"unet = {label!r}: {len(unknown)} of {len(state)} names are unknown to the base's U-Net, "
            f"first {unknown[0]!r}; every name must be one of its {len(base)}{hint}"
        )
    for name, tensor in state.items():
        if tensor.shape != base[name].shape:
            raise ValueError(
                f"unet = {label!r}: {name!r} has shape {tuple(tensor.shape)}, must be {tuple(base[name].shape)}"
            )
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"unet = {label!r}: {name!r} holds NaN or infinity, every entry must be finite")
