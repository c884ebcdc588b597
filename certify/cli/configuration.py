"""`certify.toml`: options by their long names, for every command at the top, for one in a table of its name."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from certify import _files
from certify.cli import checks
from certify.cli.checks import typed

__all__ = ["CONFIG", "configured"]

CONFIG = Path("certify.toml")
"""The configuration that is read where none is named."""

NEVER = ("trust_names", "config", "help")
"""What a file may not say: whoever trusts a certificate's names says so himself."""


def configured(path: Path | None, command: str, params: list[Any]) -> dict[str, Any]:
    """What a configuration says about the options of a command: at its top about those of all, in a table about its own.

    Args:
        path: the file; None: `CONFIG`, if it is there.
        command, params: the command's name and parameters.

    Raises:
        FileNotFoundError, ValueError: it is not there, is no TOML, or names something that is no option.
    """
    if path is None:
        if not CONFIG.is_file():
            return {}
        path = CONFIG
    name = f"--config = {str(path)!r}"
    checks.a_file("--config", path)
    try:
        read = tomllib.loads(_files.user_path("--config", path).read_text(encoding="utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"{name}: must be a TOML file ({error})") from error
    options = {typed(p).lstrip("-"): p for p in params if str(max(p.opts, key=len)).startswith("-")}
    own = read.get(command, {})
    if not isinstance(own, Mapping):
        raise ValueError(f"{name}: {command} = {own!r}: must be a table, [{command}]")
    # At the top stand options of any command; those that this one does not have are not about it.
    shared = {key: value for key, value in read.items() if not isinstance(value, Mapping) and key in options}
    for key in {**shared, **own}:
        if key not in options or str(options[key].name) in NEVER:
            known = ", ".join(sorted(k for k, p in options.items() if str(p.name) not in NEVER))
            raise ValueError(f"{name}: {key!r} of [{command}] must be one of {known}")
    found = {}
    for key, value in {**shared, **own}.items():
        kind = options[key]
        if getattr(kind, "is_flag", False) and not isinstance(value, bool):
            raise ValueError(f"{name}: {key} = {value!r}: must be true or false")
        if getattr(kind, "multiple", False) != isinstance(value, list):
            said = "a list" if getattr(kind, "multiple", False) else "one value"
            raise ValueError(f"{name}: {key} = {value!r}: must be {said}")
        found[str(kind.name)] = value
    return found
