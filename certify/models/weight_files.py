"""Weight files: tensors as they were published, read and changed in nothing.

safetensors are read directly; `.pt`, `.bin` and `.ckpt` files are pickles and are read through PyTorch's weights-only
unpickler, which builds tensors and containers and runs nothing. Folders are those that diffusers, transformers and peft write:
one file, or an index and the parts that it names; either of them as a variant, such as `model.fp16.safetensors`.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from certify import _files
from certify._records import Record

__all__ = ["Weights", "check_archive", "read", "unpickled", "variants", "variants_of"]

_PICKLED = (".pt", ".pth", ".bin", ".ckpt")
_PART = re.compile(r"-\d{3,}-of-(?P<parts>\d{3,})\b")
_NAMED = re.compile(  # the variant stands before the suffix, in an index behind it
    r"(?P<stem>[\w-]+?)(?:\.(?P<variant>[\w-]+))?\.(?P<suffix>safetensors|bin)"
    r"(?P<index>(?:\.(?P<older>[\w-]+))?\.index(?:\.(?P<newer>[\w-]+))?\.json)?"
)
_OF_A_MODEL = ("_class_name", "model_type", "architectures")
_ADAPTERS = ("adapter_model", "pytorch_lora_weights")


@dataclass(frozen=True)
class Weights(Record):
    """Tensors as they came.

    Attributes:
        state: name → tensor; in a pickle, objects may lie in one another.
        label: from where.
        metadata: what a safetensors file says of them.
        config: the model's configuration beside it; None: it has none.
        adapter: path of the `adapter_config.json` beside it; None: it has none.
    """

    state: dict[str, Any]
    label: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] | None = None
    adapter: Path | None = None


def read(argument: str, stem: str, source: str | Path | Mapping[str, Tensor], variant: str | None = None) -> Weights:
    """The tensors of a file, a folder or a state dict.

    Args:
        argument: the argument's name, for errors; the name of the part's folder in a pipeline, too.
        stem: of the weight files in a folder.
        source: what to read.
        variant: of a folder's weight files, where it has that; else the folder's plain files are taken, else the only variant.

    Raises:
        FileNotFoundError: there is no such file or folder, or no weights in it.
        ValueError: it holds something else, or is one of several parts.
        TypeError: it is none of these.
    """
    if isinstance(source, Mapping):
        return Weights(dict(source), "<state dict>")
    if not isinstance(source, (str, Path)):
        raise TypeError(f"{argument} is a {type(source).__name__}: must be a path or a state dict")
    path = _files.user_path(argument, source)
    if not path.exists():
        raise FileNotFoundError(f"{argument} = {str(source)!r}: no such file or folder; looked for {path.absolute()}")
    if path.is_dir() and (path / "model_index.json").is_file():
        path = path / argument
    file = _in_folder(argument, path, stem, variant) if path.is_dir() else path
    found = _NAMED.fullmatch(file.name)
    described = file.parent / "config.json"
    config = _json(argument, described) if described.is_file() and (path.is_dir() or _is_own(found, stem)) else None
    # Beside a file that is named itself there may be some other program's.
    if config is not None and not path.is_dir() and not any(key in config for key in _OF_A_MODEL):
        config = None
    state, metadata = _indexed(argument, file) if found and found["index"] else _whole(argument, file)
    adapter = file.parent / "adapter_config.json"
    return Weights(state, str(source), metadata, config, adapter if adapter.is_file() else None)


def _is_own(found: re.Match[str] | None, stem: str) -> bool:
    return found is not None and found["stem"] in (stem, "pytorch_model")


def variants(folder: Path, stem: str, suffix: str = "safetensors") -> dict[str, Path]:
    """variant → the file, or the index, of a model's weights in a folder; "" is the plain one."""
    return variants_of(sorted(folder.iterdir()) if folder.is_dir() else (), stem, folder, suffix)


def variants_of(paths: Iterable[Path], stem: str, folder: Path, suffix: str = "safetensors") -> dict[str, Path]:
    """As above, of those paths that are in the folder, which may be elsewhere."""
    found: dict[str, Path] = {}
    for path in paths:
        name = None if _PART.search(path.name) or path.parent != folder else _NAMED.fullmatch(path.name)
        if name and _is_own(name, stem) and name["suffix"] == suffix:
            variant = name["newer"] or name["older"] or name["variant"] or ""
            found[variant] = path if name["index"] else found.get(variant, path)  # an index goes before a file
    return found


def _in_folder(argument: str, folder: Path, stem: str, variant: str | None) -> Path:
    """The file to read: safetensors before pickles; of each the requested variant, else the plain one, else the only one."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{argument} = {str(folder)!r}: no such folder; looked for {folder.absolute()}")
    for suffix in ("safetensors", "bin"):
        there = variants(folder, stem, suffix)
        for wanted in (variant, "", *there) if len(there) == 1 else (variant, ""):
            if wanted is not None and wanted in there:
                return there[wanted]
        if there:
            raise ValueError(
                f"{argument} = {str(folder)!r}: its weights are there as the variants {', '.join(sorted(there))}; must name "
                "one of them (variant=, --variant)"
            )
        for adapter in _ADAPTERS:
            if (folder / f"{adapter}.{suffix}").is_file():
                return folder / f"{adapter}.{suffix}"
    for pattern in ("*.safetensors", *(f"*{suffix}" for suffix in _PICKLED)):
        found = sorted(folder.glob(pattern))
        if len(found) == 1 or (found and _PART.search(found[0].name)):
            return found[0]
        if found:
            names = [f.name for f in found]
            raise ValueError(
                f"{argument} = {str(folder)!r}: holds several weight files, {names}; must name one of them"
            )
    preferred = folder / f"{stem}.safetensors"
    raise FileNotFoundError(f"{argument} = {str(folder)!r}: no weights in it; looked for {preferred.absolute()}")


def _whole(argument: str, path: Path) -> tuple[dict[str, Any], Mapping[str, str]]:
    part = _PART.search(path.name)
    if part and int(part["parts"]) > 1:
        raise ValueError(
            f"{argument} = {str(path)!r}: is one of {int(part['parts'])} parts, and alone it would replace some of the tensors "
            "only; must be the folder, where all parts are and the index that names them"
        )
    return _file(argument, path)


def _file(argument: str, path: Path) -> tuple[dict[str, Any], Mapping[str, str]]:
    if path.suffix == ".safetensors":
        try:
            return _files.read_tensors(path)
        except ValueError as error:
            raise ValueError(f"{argument} = {str(path)!r}: {error}") from error
    if path.suffix in _PICKLED:
        state = unpickled(argument, path)
        if not isinstance(state, Mapping):
            raise ValueError(f"{argument} = {str(path)!r}: holds a {type(state).__name__}, must be a state dict")
        return dict(state), {}
    raise ValueError(f"{argument} = {str(path)!r}: must end in .safetensors, {', '.join(_PICKLED)}, or be a folder")


def unpickled(argument: str, path: Path) -> Any:
    """What a file of `torch.save` holds: tensors, numbers and containers of them, at their sizes. Nothing in it is run.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged, or holds more than that.
    """
    try:
        check_archive(path, _files.regular(path))
        return torch.load(path, map_location="cpu", weights_only=True)
    except (PermissionError, IsADirectoryError, FileNotFoundError):
        raise
    except Exception as error:  # what the unpickler raises on foreign bytes is not listed anywhere
        raise ValueError(
            f"{argument} = {str(path)!r}: is refused: it is pickled and holds more than tensors, or is damaged; "
            "must be readable with torch.load(weights_only=True); better, a .safetensors file"
        ) from error


def _indexed(argument: str, index: Path) -> tuple[dict[str, Any], Mapping[str, str]]:
    """All parts that an index names, every tensor that it promises among them."""
    listed = _json(argument, index).get("weight_map")
    if not isinstance(listed, dict) or not all(isinstance(part, str) for part in listed.values()):
        raise ValueError(f"{argument} = {str(index)!r}: has no weight_map, an object of names of files")
    parts = sorted(set(listed.values()))
    if any(Path(part).name != part or "\0" in part or "\\" in part for part in parts):
        raise ValueError(f"{argument} = {str(index)!r}: names files outside the folder: {parts}")
    gone = [part for part in parts if not (index.parent / part).exists()]
    if gone:
        raise FileNotFoundError(
            f"{argument} = {str(index)!r}: names files that are not there: {gone}; must be complete"
        )
    state = {name: t for part in parts for name, t in _file(argument, index.parent / part)[0].items()}
    missing = sorted(set(listed) - set(state))
    if missing:
        raise ValueError(
            f"{argument} = {str(index)!r}: names {len(missing)} tensors that are in none of its files, first {missing[0]!r}; "
            "must be complete"
        )
    return state, {}


def _json(argument: str, path: Path) -> dict[str, Any]:
    try:
        return _files.read_json(path)
    except ValueError as error:
        raise ValueError(f"{argument} = {str(path)!r}: is not JSON ({error})") from error


def check_archive(path: Path, size: int) -> None:
    """Refuses an archive that unpacks to more than it is: PyTorch's own are not compressed."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > size:
                raise ValueError("claims more bytes than it has")
