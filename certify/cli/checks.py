"""What each option may be. It is checked when it is read, under the name that was typed, before anything is loaded or drawn.

`option` and `argument` declare both, so that an option and what it may be stand side by side. What depends on
several options at once is left to `Settings.check` and to the commands, which look at it first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import typer

from certify import _files, _names, _validate

MOST_IMAGES = 100
"""Pairs of images on one sheet or page."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")

Check = Callable[[str, Any], Any]


def option(help: str, check: Check | None, *names: str, shown: str | bool = True) -> Any:
    """An option.

    Args:
        help: what it is for.
        check: refuses its value, by name, unless it is left out or passes; None: whatever it is.
        names: as it is typed, where that does not follow from its parameter's name.
        shown: its default, in words; False: it has none to show.
    """
    return typer.Option(*names, help=help, show_default=shown, callback=_checked(check))


def argument(help: str, check: Check) -> Any:
    """An argument, as `option`."""
    return typer.Argument(help=help, show_default=False, callback=_checked(check))


def _checked(check: Check | None) -> Callable[..., Any] | None:
    def callback(param: typer.CallbackParam, value: Any) -> Any:
        # A default passes: what some options may be is only known to what takes seconds to load.
        if value is not None and value != param.default:
            check(typed(param), value)  # type: ignore[misc]
        return value

    return None if check is None else callback


def typed(param: Any) -> str:
    """An option as it is typed, --rho-deployed and not -r or rho_deployed; an argument as it is called in the help."""
    return str(max(param.opts, key=len))


def count(minimum: int = 1, maximum: int = 10**15) -> Check:
    """A whole number in a range."""

    def check(name: str, value: Any) -> None:
        _validate.count(name, value, minimum)
        if value > maximum:
            raise ValueError(f"{name} = {value!r}: must be a whole number from {minimum} to {maximum}")

    return check


def choice(allowed: Callable[[], Iterable[str]]) -> Check:
    """One of some words, which the library knows."""
    return lambda name, value: _validate.choice(name, value, allowed())


def text(name: str, value: str) -> None:
    """A text that is not blank."""
    if not value.strip():
        raise ValueError(f"{name} = {value!r}: must not be empty")


def increasing(name: str, value: str) -> tuple[float, ...]:
    """Numbers > 0 separated by commas, each larger than the one before."""
    try:
        return _validate.increasing(name, [float(number) for number in value.split(",")])
    except ValueError:
        raise ValueError(f"{name} = {value!r}: must be increasing numbers > 0, separated by commas") from None


def size(name: str, value: str) -> int:
    """A number of bytes in words: 4GB, 512 MiB, 1000000."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:([kmgt])(i?)b?|b)?\s*", value, re.IGNORECASE)
    bytes_ = 0
    if found:
        number, letter, binary = found.groups()
        bytes_ = int(float(number) * (1024 if binary else 1000) ** ("kmgt".index(letter.lower()) + 1 if letter else 0))
    if bytes_ < 1:
        raise ValueError(f"{name} = {value!r}: must be a number of bytes such as 4GB, 512MiB or 1000000")
    return bytes_


def overlay(name: str, value: str) -> None:
    """Weights to put on top of a model's: an existing file or folder."""
    text(name, value)
    path = _files.user_path(name, value)
    if not path.exists():
        raise FileNotFoundError(f"{name} = {value!r}: must be a file or folder of weights; no {path.absolute()}")
    if path.is_dir() and not any(path.iterdir()):
        raise FileNotFoundError(f"{name} = {value!r}: must be a file or folder of weights; there is nothing in it")


def is_hub_id(value: str) -> bool:
    """Whether a model's name is that of a repository of the hub, rather than a folder here."""
    return "/" in value and bool(_HUB_ID.fullmatch(value)) and not _files.user_path("model", value).exists()


def model(name: str, value: str) -> None:
    """An existing pipeline folder, or what may be a hub id: the download shows whether it exists."""
    path = _files.user_path(name, value)
    if not (path / "model_index.json").is_file() and (path.exists() or not _HUB_ID.fullmatch(value)):
        raise FileNotFoundError(
            f"{name} = {value!r}: must be a hub id, or the folder of a pipeline; no {(path / 'model_index.json').absolute()}"
        )


def call(name: str, value: list[str]) -> dict[str, Any]:
    """Arguments of a pipeline's own call: NAME=VALUE, the value as JSON or a word."""
    found: dict[str, Any] = {}
    for given in value:
        argument, equals, said = given.partition("=")
        if not equals or not argument.isidentifier() or argument in _OURS or argument in found:
            raise ValueError(
                f"{name} = {given!r}: must be NAME=VALUE, as in height=512, each name once, and not {', '.join(_OURS)}"
            )
        try:
            found[argument] = _files.json_value(said)
        except ValueError:
            found[argument] = said
    return found


_OURS = ("prompt", "generator", "num_images_per_prompt", "output_type", "return_dict")


def a_file(name: str, value: Path) -> None:
    """An existing file."""
    path = _files.user_path(name, value)
    if not path.is_file():
        raise FileNotFoundError(f"{name} = {str(value)!r}: must be a file; no such file, looked for {path.absolute()}")


def concepts(name: str, value: str | list[str]) -> None:
    """Concepts, by name or as files of pairs, each once."""
    loaded = []
    for given in [value] if isinstance(value, str) else value:
        try:
            path = _names.concept_file(given)
            if path not in _names.shipped_concepts().values():
                from certify.adaptive import Concept  # which takes seconds to import

                Concept.load(given)
            loaded.append(_names.slug(path.stem))
        except (ValueError, OSError) as error:
            said = str(error).removeprefix(f"concept = {given!r}: ")
            raise ValueError(f"{name} = {given!r}: must be a concept or a file of pairs; {said}") from error
    twice = sorted({each for each in loaded if loaded.count(each) > 1})
    if twice:
        raise ValueError(f"{name} = {twice[0]!r}: must be different, it is there twice")


def detector(name: str, value: str) -> None:
    """A detector that can be loaded here: its name, its label, and its package where that is an extra."""
    try:
        kind, _, _ = _names.detector_parts(value)
        if kind != "judge":
            from certify.images.detectors import load_detector  # which takes seconds to import

            load_detector(value)
    except (ValueError, ImportError) as error:
        said = (
            str(error)
            .replace(" or a callable", "")
            .replace("'judge:LABEL', 'nudenet', ", "'judge:LABEL', 'nudenet' or ")
        )
        raise ValueError(f"{name}{said.removeprefix('detector')}") from error
