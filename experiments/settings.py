"""Settings: the options of a method, an attack or a defence, a frozen dataclass that is checked when it is made.

`check` says in one place what the options must be; `changed` puts a command line's NAME=VALUE in the place of what is there.
An option whose default is None may be None: what stands for it then is said where it is used.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from certify import _validate

__all__ = ["changed", "check"]


def check(
    settings: Any,
    *,
    counts: Sequence[str] = (),
    from_zero: Sequence[str] = (),
    positive: Sequence[str] = (),
    not_negative: Sequence[str] = (),
    shares: Sequence[str] = (),
    finite: Sequence[str] = (),
    choices: Mapping[str, Iterable[str]] | None = None,
) -> None:
    """Refuses settings of which one is not what it must be.

    Args:
        settings: a dataclass.
        counts: names of whole numbers ≥ 1.
        from_zero: of whole numbers ≥ 0.
        positive: of finite numbers > 0.
        not_negative: of finite numbers ≥ 0.
        shares: of numbers from 0 to 1, both included.
        finite: of finite numbers of any sign.
        choices: name → what it must be one of.

    Raises:
        ValueError, TypeError: with the name, the value, and what it must be.
    """
    given = {
        f.name: getattr(settings, f.name)
        for f in dataclasses.fields(settings)
        if f.default is not None or getattr(settings, f.name) is not None
    }
    for least, names in ((1, counts), (0, from_zero)):
        for name in names:
            if name in given:
                _validate.count(name, given[name], minimum=least)
    for name in positive:
        if name in given:
            _validate.positive(name, given[name])
    for least, most, said, names in (
        (0.0, math.inf, "a finite number >= 0", not_negative),
        (0.0, 1.0, "between 0 and 1", shares),
        (-math.inf, math.inf, "a finite number", finite),
    ):
        for name in names:
            value = given.get(name, 0)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(f"{name} = {value!r}: must be a real number")
            if not least <= value <= most or math.isinf(value):
                raise ValueError(f"{name} = {value!r}: must be {said}")
    for name, options in (choices or {}).items():
        if name in given:
            _validate.choice(name, given[name], options)


def changed(settings: Any, given: Sequence[str], argument: str = "set") -> Any:
    """Settings, a dataclass, with what was given as NAME=VALUE in place of what is there; a list stands for a tuple.

    Raises:
        ValueError: no such setting, or a value of another kind.
    """
    names = {f.name for f in dataclasses.fields(settings)}
    for entry in given:
        name, equals, text = entry.partition("=")
        if not equals or name not in names:
            raise ValueError(f"{argument} = {entry!r}: must be NAME=VALUE with a name of {', '.join(sorted(names))}")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        old = getattr(settings, name)
        if isinstance(old, tuple) and isinstance(value, list):
            value = tuple(value)
        if (
            old is not None
            and value is not None
            and not isinstance(value, (type(old), int) if isinstance(old, float) else type(old))
        ):
            raise ValueError(f"{argument} = {entry!r}: {name} must be a {type(old).__name__}")
        settings = dataclasses.replace(settings, **{name: value})
    return settings
