"""Settings: each kind of option is refused where it is not what it must be, by name; NAME=VALUE replaces one."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, fields, replace
from typing import Any, get_args, get_origin, get_type_hints

import pytest

from experiments.attacks import ATTACKS
from experiments.defenses import DEFENSES
from experiments.defenses.rewriter_training import Training
from experiments.settings import changed, check
from experiments.unlearning import METHODS, finetune, sensitivity


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
    signed: float = -1.0

    def __post_init__(self) -> None:
        check(
            self,
            counts=("steps", "every"),
            from_zero=("warm",),
            positive=("rate",),
            not_negative=("decay",),
            shares=("share",),
            finite=("signed",),
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
        ("signed", math.nan, ValueError, "must be a finite number"),
        ("signed", "0", TypeError, "must be a real number"),
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


# What every method, attack and defence must refuse

SETTINGS: dict[str, Any] = {f"unlearn {name}": method.settings() for name, method in METHODS.items()}
SETTINGS |= {f"attack {name}": attack.settings() for name, attack in ATTACKS.items()}
SETTINGS |= {f"defense {name}": kind.published() for name, kind in DEFENSES.items()}
SETTINGS |= {"posi-train": Training(), "fine-tune": finetune.Settings(), "sensitivity": sensitivity.Settings()}

ZERO_MEANS_NONE = {
    "alpha", "cache", "ceiling", "decay", "growth", "keep", "k", "known", "lookahead", "made", "mixed", "momentum", "noise",
    "pairs", "penalty", "prior", "pull", "rounds", "seed", "share", "signed", "start", "t0", "threshold", "toxic", "validation",
    "warm", "warm_up", "warmup", "weight_decay",
}  # fmt: skip
"""Options that may be 0."""

OF_ANY_SIGN = {"signed", "start", "t0"}
"""Numbers that may be below 0: log-odds, the middle of a slope."""

ANY_TEXT = {
    "clip", "concept_images", "detector", "file", "initial", "model", "rewriter", "safe_images", "text",
}  # fmt: skip
"""Texts of a user's own: files, models, words; others are one of a few."""

CHECKED_WHEN_USED = {"defense ams": {"sigma0", "sigma0_relative", "k", "n", "sigma_min_relative", "sigma_max_relative"}}
"""By `AdaptiveMedianSmoother`, whose tests refuse them."""


def wrong_values(name: str, kind: Any) -> list[Any]:
    """What an option of that name and type must not be."""
    if kind is int:
        return [-1, 2.5, "3", *([] if name in ZERO_MEANS_NONE else [0])]
    if kind is float:
        below = [] if name in OF_ANY_SIGN else [-1.0]
        return [*below, math.nan, math.inf, "3", *([] if name in ZERO_MEANS_NONE else [0.0])]
    if kind is str:
        return [] if name in ANY_TEXT else ["no such"]
    if get_origin(kind) is tuple:
        return ["coin"] if get_args(kind)[0] is str else [(), (-1.0,), (math.nan,)]
    return []


def refuses_what_is_wrong(settings: Any, left_out: Collection[str] = ()) -> int:
    """Every option by its name; how many values were tried."""
    hints, tried = get_type_hints(type(settings)), 0
    for name in {f.name for f in fields(settings)} - set(left_out):
        (kind,) = [kind for kind in get_args(hints[name]) or [hints[name]] if kind is not type(None)][:1]
        kind = hints[name] if get_origin(hints[name]) is tuple else kind
        for value in wrong_values(name, kind):
            tried += 1
            with pytest.raises((ValueError, TypeError), match=rf"\b{name}\b.*: must "):
                replace(settings, **{name: value})
    return tried


@pytest.mark.parametrize("name", SETTINGS)
def test_every_option_is_refused_where_it_is_wrong(name: str):
    tried = refuses_what_is_wrong(SETTINGS[name], CHECKED_WHEN_USED.get(name, ()))
    assert tried or not fields(SETTINGS[name])


@pytest.mark.parametrize("option", ["steps", "every", "warm", "rate", "decay", "share", "kind"])
def test_an_option_that_is_not_checked_is_caught(option: str):
    checked = Options.__post_init__

    @dataclass(frozen=True)
    class Careless(Options):
        def __post_init__(self) -> None:
            if getattr(self, option) == getattr(Options(), option):
                checked(self)

    refuses_what_is_wrong(Options(), {"exact", "words"})
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        refuses_what_is_wrong(Careless(), {f.name for f in fields(Options)} - {option})


def test_options_that_exclude_each_other():
    for settings, wrong, message in (
        (
            METHODS["p-esd"].settings(),
            {"critical": 0.01, "budget": 0.02},
            r"budget = 0\.02: must be at most critical = 0\.01",
        ),
        (METHODS["p-esd"].settings(), {"critical": 1.5}, r"critical = 1\.5: must be between 0 and 1"),
        (METHODS["p-esd"].settings(), {"growth": 1.5}, r"growth = 1\.5: must be between 0 and 1"),
        (METHODS["gift"].settings(), {"order": 3}, "order = 3: must be 1 or 2"),
        (ATTACKS["qf-pgd"].settings(), {"best": 101}, "best = 101: must be at most draws = 100"),
        (sensitivity.Settings(), {"top": 1.0}, r"top = 1\.0: must be a share between 0 and 1"),
        (Training(), {"noise": 1.5}, r"noise = 1\.5: must be between 0 and 1"),
        (Training(), {"draws": 1}, "draws = 1: must be a whole number >= 2"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(settings, **wrong)
    with pytest.raises(TypeError, match="start = 3: must be settings of ESD"):
        replace(METHODS["race"].settings(), start=3)
