"""Settings: each kind of option is refused where it is not what it must be, by name; NAME=VALUE replaces one."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import pytest

from experiments import unlearning
from experiments.attacks import ATTACKS
from experiments.settings import changed, check


@dataclass(frozen=True)
class Options:
    steps: int = 3
    warm: int = 0
    rate: float = 0.1
    decay: float = 0.0
    share: float = 1.0
    kind: str = "a"
    words: tuple[str, ...] = ()
    every: int | None = None
    exact: bool = False

    def __post_init__(self) -> None:
        check(
            self,
            counts=("steps", "every"),
            from_zero=("warm",),
            positive=("rate",),
            not_negative=("decay",),
            shares=("share",),
            choices={"kind": ("a", "b")},
        )


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("steps", 0, ValueError, "must be a whole number >= 1"),
        ("steps", 2.0, TypeError, "must be a whole number >= 1"),
        ("steps", None, TypeError, "must be a whole number >= 1"),
        ("every", 0, ValueError, "must be a whole number >= 1"),
        ("warm", -1, ValueError, "must be a whole number >= 0"),
        ("rate", 0.0, ValueError, "must be a finite number > 0"),
        ("decay", -1e-9, ValueError, "must be a finite number >= 0"),
        ("decay", math.inf, ValueError, "must be a finite number >= 0"),
        ("decay", math.nan, ValueError, "must be a finite number >= 0"),
        ("decay", "0", TypeError, "must be a real number"),
        ("share", 1.001, ValueError, "must be between 0 and 1"),
        ("share", True, TypeError, "must be a real number"),
        ("kind", "c", ValueError, "must be one of 'a', 'b'"),
    ],
)
def test_a_bad_option_is_named(name: str, value: Any, error: type[Exception], message: str):
    with pytest.raises(error, match=f"^{name} = .*: {message}"):
        Options(**{name: value})


def test_none_stands_where_it_is_the_default():
    assert Options(every=None, share=0.0, decay=0, kind="b").every is None
    assert Options(every=2).every == 2


def test_name_and_value_replace_an_option():
    given = ["steps=7", "rate=2", 'words=["x", "y"]', "kind=b", "every=4", "exact=true"]
    assert changed(Options(), given) == Options(7, 0, 2, 0.0, 1.0, "b", ("x", "y"), 4, True)
    for entry, message in (
        ("step=7", "must be NAME=VALUE with a name of decay, every"),
        ("steps", "must be NAME=VALUE"),
        ("steps=many", "steps must be a int"),
        ("steps=2.5", "steps must be a int"),
        ("steps=0", "steps = 0"),
    ):
        with pytest.raises(ValueError, match=message):
            changed(Options(), [entry])
    with pytest.raises(ValueError, match=r"^smoother = 'x=1'"):
        changed(Options(), ["x=1"], "smoother")


KINDS = {f"unlearn {name}": method.settings for name, method in unlearning.METHODS.items()}
KINDS |= {attack.name: attack.settings for attack in ATTACKS.values()}


@pytest.mark.parametrize("name", [n for n, kind in KINDS.items() if hasattr(kind(), "guidance")])
def test_no_method_takes_a_guidance_that_is_none(name: str):
    for guidance in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match=r"guidance = .*: must be a finite number > 0"):
            replace(KINDS[name](), guidance=guidance)
