"""Overlays: weights that are put on top of a base's, read from what they were published in, checked before anything changes.

safetensors are read directly; `.pt`, `.bin` and `.ckpt` files are pickles and are read through PyTorch's weights-only
unpickler, which builds tensors and containers and runs nothing. What is said here of a part goes for the U-Net
(`unet`) and for the text encoder (`text_encoder`).
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from certify import _files
from certify._records import Record

__all__ = ["Overlay", "Part", "Weights"]

_PICKLED = (".pt", ".pth", ".bin", ".ckpt")


@dataclass(frozen=True)
class Overlay:
    """What was laid over a base.

    Attributes:
        source: the file or folder, or "<state dict>".
        loaded: tensors replaced, masked or added to.
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


@dataclass(frozen=True)
class Weights(Record):
    """Tensors as they came: `state`, from where (`label`), and what is said of them beside (`metadata`)."""

    state: dict[str, Tensor]
    label: str
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """A part of a pipeline over which weights are laid.

    Attributes:
        name: of the argument, and of the part's folder in a pipeline.
        what: in words.
        stem: of the weight files in its folder.
        prefixes: that all names may carry.
        wrappers: keys under which a file may hold the state dict.
        config: the configuration's keys that must be the base's; None: all but those that say nothing about the function.
    """

    name: str
    what: str
    stem: str
    prefixes: tuple[str, ...]
    wrappers: tuple[str, ...]
    config: tuple[str, ...] | None = None

    def read(self, source: str | Path | Mapping[str, Tensor], model: Any) -> Weights:
        """The tensors of a file, a folder or a state dict.

        Raises:
            FileNotFoundError: there is no such file or folder, or no weights in it.
            ValueError: it holds something else, or the folder's configuration disagrees with the base's.
            TypeError: it is none of these.
        """
        metadata: Mapping[str, str] = {}
        if isinstance(source, Mapping):
            state, label = dict(source), "<state dict>"
        elif isinstance(source, (str, Path)):
            label, path = str(source), _files.user_path(self.name, source)
            if not path.exists():
                raise FileNotFoundError(
                    f"{self.name} = {str(source)!r}: no such file or folder; looked for {path.absolute()}"
                )
            state, metadata = self._from_folder(path, model) if path.is_dir() else self._from_file(path)
        else:
            raise TypeError(f"{self.name} is a {type(source).__name__}: must be a path or a state dict")
        return Weights(self._unwrapped(state, label, not isinstance(source, Mapping)), label, metadata)

    def without_prefix(self, state: Mapping[str, Tensor], known: Sequence[str]) -> tuple[dict[str, Tensor], str]:
        """The tensors under the base's names, and the prefix that all of them carried."""
        if not set(known) & set(state):
            for prefix in self.prefixes:
                if all(name.startswith(prefix) for name in state):
                    return {name.removeprefix(prefix): tensor for name, tensor in state.items()}, prefix
        return dict(state), ""

    def check(
        self, state: Mapping[str, Tensor], base: Mapping[str, Tensor], label: str, *, masks: bool = False
    ) -> None:
        """Raises ValueError where a name is unknown, a shape or kind of number disagrees, or an entry is NaN or infinite."""
        hint = ""
        unknown = sorted(set(state) - set(base))
        if unknown:
            if any("model.diffusion_model." in name or ".input_blocks." in f".{name}" for name in unknown):
                hint = "; these are names of the original (CompVis) layout: convert the checkpoint to diffusers first"
            raise ValueError(
                f"{self.name} = {label!r}: {len(unknown)} of {len(state)} names are unknown to the base's {self.what}, "
                f"first {unknown[0]!r}; every name must be one of its {len(base)}{hint}"
            )
        for name, tensor in state.items():
            if tensor.shape != base[name].shape:
                raise ValueError(
                    f"{self.name} = {label!r}: {name!r} has shape {tuple(tensor.shape)}, must be {tuple(base[name].shape)}"
                )
            if not masks and tensor.is_floating_point() != base[name].is_floating_point():
                raise ValueError(
                    f"{self.name} = {label!r}: {name!r} is {tensor.dtype}, must be {base[name].dtype} or alike"
                )
            # As what it becomes: a number that the base's dtype cannot hold is infinite there.
            if not bool(torch.isfinite(tensor.to(base[name].dtype)).all()):
                raise ValueError(f"{self.name} = {label!r}: {name!r} holds NaN or infinity, every entry must be finite")

    def _from_file(self, path: Path) -> tuple[dict[str, Any], Mapping[str, str]]:
        if path.suffix == ".safetensors":
            try:
                return _files.read_tensors(path)
            except ValueError as error:
                raise ValueError(f"{self.name} = {str(path)!r}: {error}") from error
        if path.suffix in _PICKLED:
            try:
                _check_archive(path, _files.regular(path))
                state = torch.load(path, map_location="cpu", weights_only=True)
            except (PermissionError, IsADirectoryError):
                raise
            except Exception as error:  # what the unpickler raises on foreign bytes is not listed anywhere
                raise ValueError(
                    f"{self.name} = {str(path)!r}: is refused: it is pickled and holds more than tensors, or is damaged; "
                    "must be readable with torch.load(weights_only=True); better, a .safetensors file"
                ) from error
            if not isinstance(state, Mapping):
                raise ValueError(f"{self.name} = {str(path)!r}: holds a {type(state).__name__}, must be a state dict")
            return dict(state), {}
        raise ValueError(
            f"{self.name} = {str(path)!r}: must end in .safetensors, {', '.join(_PICKLED)}, or be a folder"
        )

    def _from_folder(self, folder: Path, model: Any) -> tuple[dict[str, Any], Mapping[str, str]]:
        if (folder / "model_index.json").is_file():
            folder = folder / self.name
        config = folder / "config.json"
        if config.is_file():
            self._check_config(self._json(config), model, folder)
        index = folder / f"{self.stem}.safetensors.index.json"
        if index.is_file():
            listed = self._json(index).get("weight_map")
            if not isinstance(listed, dict) or not all(isinstance(shard, str) for shard in listed.values()):
                raise ValueError(f"{self.name} = {str(index)!r}: has no weight_map, an object of names of files")
            shards = sorted(set(listed.values()))
            if any(Path(shard).name != shard or "\0" in shard or "\\" in shard for shard in shards):
                raise ValueError(f"{self.name} = {str(folder)!r}: its index names files outside the folder: {shards}")
            return {name: t for shard in shards for name, t in self._from_file(folder / shard)[0].items()}, {}
        preferred = folder / f"{self.stem}.safetensors"
        if preferred.is_file():
            return self._from_file(preferred)
        for pattern in ("*.safetensors", *(f"*{suffix}" for suffix in _PICKLED)):
            found = sorted(folder.glob(pattern))
            if len(found) == 1:
                state, metadata = self._from_file(found[0])
                adapter = folder / "adapter_config.json"  # beside a LoRA that peft saved
                return state, dict(metadata) | ({"adapter": self._text(adapter)} if adapter.is_file() else {})
            if found:
                names = [f.name for f in found]
                raise ValueError(
                    f"{self.name} = {str(folder)!r}: holds several weight files, {names}; must name one of them"
                )
        raise FileNotFoundError(f"{self.name} = {str(folder)!r}: no weights in it; looked for {preferred.absolute()}")

    def _json(self, path: Path) -> dict[str, Any]:
        try:
            return _files.read_json(path)
        except ValueError as error:
            raise ValueError(f"{self.name} = {str(path)!r}: is not JSON ({error})") from error

    def _text(self, path: Path) -> str:
        try:
            return _files.read_text(path)
        except ValueError as error:
            raise ValueError(f"{self.name} = {str(path)!r}: {error}") from error

    def _check_config(self, config: Mapping[str, Any], model: Any, folder: Path) -> None:
        """Two models can agree in every shape and still compute different functions: head counts, activation."""
        base = _as_dict(getattr(model, "config", {}))
        asked = self.config or [key for key in config if not key.startswith("_") and key != "sample_size"]
        differing = {
            key: (config[key], base[key])
            for key in asked
            if key in config and key in base and _plain(config[key]) != _plain(base[key])
        }
        if differing:
            what = "; ".join(f"{key} {new!r}, base {old!r}" for key, (new, old) in differing.items())
            raise ValueError(f"{self.name} = {str(folder)!r}: its configuration must be the base's, but {what}")

    def _unwrapped(self, state: dict[str, Any], label: str, from_file: bool) -> dict[str, Tensor]:
        for key in self.wrappers:
            inner = state.get(key)
            if isinstance(inner, Mapping):
                state = dict(inner)
                break
        if not state:
            raise ValueError(f"{self.name} = {label!r}: holds no tensors")
        for name, value in state.items():
            if not isinstance(value, Tensor) or not isinstance(name, str):
                raise ValueError(f"{self.name} = {label!r}: {name!r} is a {type(value).__name__}, must be a tensor")
            if value.layout != torch.strided or value.is_meta or value.is_quantized:
                raise ValueError(f"{self.name} = {label!r}: {name!r} must be a dense tensor")
            # A tensor of a pickle may claim any size over a few numbers that are all alike.
            if from_file and value.numel() * value.element_size() > value.untyped_storage().nbytes():
                raise ValueError(f"{self.name} = {label!r}: {name!r} claims {value.numel():,} entries, and has fewer")
        return state


def _check_archive(path: Path, size: int) -> None:
    """Refuses an archive that unpacks to more than it is: PyTorch's own are not compressed."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > size:
                raise ValueError("claims more bytes than it has")


def _as_dict(config: Any) -> dict[str, Any]:
    return dict(config.to_dict() if hasattr(config, "to_dict") else config)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (tuple, list)) else value
