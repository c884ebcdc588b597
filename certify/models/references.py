"""Functions by reference: code of the user's own, named as `FILE.py:NAME` or `MODULE:NAME`.

What is named is a `torch.nn.Module`, a function of a batch, or what makes one of them when it is called without arguments (a
class of modules, a function). It is imported, so it is run: name only what you would run.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from certify import _files
from certify.models import weight_files

__all__ = ["check_reference", "load_function"]

_KIND = "must be FILE.py:NAME or MODULE:NAME"
_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def check_reference(argument: str, reference: str) -> tuple[Path | str, str]:
    """(file or module, name) of a reference that may exist. Nothing is imported.

    Raises:
        ValueError: it is none.
        FileNotFoundError: there is no such file or module.
    """
    where, colon, name = reference.rpartition(":")
    if not colon or not where or not name.isidentifier():
        raise ValueError(f"{argument} = {reference!r}: {_KIND}")
    if where.endswith(".py"):
        path = _files.user_path(argument, where)
        if not path.is_file():
            raise FileNotFoundError(f"{argument} = {reference!r}: {_KIND}; no such file, looked for {path.absolute()}")
        return path, name
    if not _MODULE.fullmatch(where):
        raise ValueError(f"{argument} = {reference!r}: {_KIND}")
    top = where.partition(".")[0]
    here = any((Path(top) / "__init__.py", Path(f"{top}.py"))[i].is_file() for i in (0, 1))
    if not here and top not in sys.modules and importlib.util.find_spec(top) is None:
        raise FileNotFoundError(f"{argument} = {reference!r}: {_KIND}; there is no module {top}")
    return where, name


def load_function(
    reference: str,
    *,
    weights: str | Path | None = None,
    device: str | torch.device = "cpu",
    argument: str = "function",
) -> Callable[..., Any]:
    """The function that a reference names: on the device, and in evaluation mode, if it is a module.

    Args:
        reference: FILE.py:NAME or MODULE:NAME; modules are looked for in the current folder, too.
        weights: file of a state dict for a module (.safetensors, .pt, …; nothing in it is run); None: it has its own.
        device: of a module.
        argument: what an error calls the reference.

    Raises:
        ValueError, FileNotFoundError: there is no such file, module or name in it; it cannot be imported; or the weights
            are not those of the module.
        TypeError: what is named is nothing that can be called; weights are given for what is no module.
    """
    where, name = check_reference(argument, reference)
    try:
        found = getattr(_imported(where), name)
    except AttributeError:
        raise ValueError(f"{argument} = {reference!r}: must be something that is there; it has no {name}") from None
    except Exception as error:  # code of the user's, which may raise anything
        raise ValueError(f"{argument} = {reference!r}: must be what can be imported ({error!r})") from error
    if not isinstance(found, torch.nn.Module) and callable(found) and _makes(found):
        try:
            found = found()
        except Exception as error:
            raise ValueError(f"{argument} = {reference!r}: must be what can be called ({error!r})") from error
    if not callable(found):
        raise TypeError(f"{argument} = {reference!r}: must be a function or a module, is a {type(found).__name__}")
    if isinstance(found, torch.nn.Module):
        if weights is not None:
            _load(found, weights)
        return found.to(device).eval().requires_grad_(False)
    if weights is not None:
        raise TypeError(f"weights = {str(weights)!r}: must be left out for a function, which has none")
    return found


def _imported(where: Path | str) -> Any:
    if isinstance(where, str):
        with _findable(Path.cwd()):
            return importlib.import_module(where)
    spec = importlib.util.spec_from_file_location(where.stem, where)
    if spec is None or spec.loader is None:
        raise ValueError(f"{str(where)!r} is no Python file")
    module = importlib.util.module_from_spec(spec)
    with _findable(where.absolute().parent):
        sys.modules.setdefault(spec.name, module)  # dataclasses look themselves up there
        spec.loader.exec_module(module)
    return module


class _findable:
    """While it is open, modules are looked for in a folder first."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __enter__(self) -> None:
        sys.path.insert(0, self.folder)

    def __exit__(self, *_: object) -> None:
        sys.path.remove(self.folder)


def _makes(found: Callable[..., Any]) -> bool:
    """Whether it is called without arguments: what takes a batch cannot be."""
    try:
        inspect.signature(found).bind()
    except (TypeError, ValueError):
        return False
    return True


def _load(module: torch.nn.Module, weights: str | Path) -> None:
    state = weight_files.read("weights", "model", weights).state
    inner = state.get("state_dict", state)
    try:
        module.load_state_dict(inner)
    except (RuntimeError, TypeError, AttributeError) as error:
        said = " ".join(str(error).split())
        raise ValueError(f"weights = {str(weights)!r}: must be those of the classifier ({said[:300]})") from error
