"""Claims as JSON: what each field must be, in one table, and what each quantity asks besides, in another.

What is read is a stranger's, and refused by the name of the field, its value and what it must be. `KINDS` is also what a check
goes by: it says from which evidence something follows about a quantity.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from certify.bounds import EVIDENCE, METHODS, ROUTES
from certify.certificate.claim import Claim
from certify.certificate.words import NOT_COVERED

__all__ = ["KINDS", "Kind", "as_json", "claim_from", "is_number"]


@dataclass(frozen=True)
class Kind:
    """What claims about a quantity say.

    Attributes:
        rests: (smoother, method) → (theorem, kind of evidence) from which something follows about it.
        needs: fields that may be None elsewhere, and must not here.
        least, most: what its value, and the other end of it, lie between.
    """

    rests: Mapping[tuple[str, str], tuple[str, str]]
    needs: tuple[str, ...] = ("value",)
    least: float = 0.0
    most: float = math.inf


_SMOOTHED = {asked: (method.theorem, method.evidence.kind) for asked, method in METHODS.items()}
_DEPLOYED = {asked: (route.theorem, route.evidence.kind) for asked, route in ROUTES.items()}

KINDS = {
    "mse": Kind(_SMOOTHED),
    "radius": Kind(_SMOOTHED, ("value", "tolerance")),
    "percentile": Kind({("percentile", "order statistics"): ("T1", "box")}, ("p",)),
    "deployed": Kind(_DEPLOYED, ("value", "q", "replicas")),
    "statistic": Kind({("none", "replicas"): ("T5", "limit")}, ("value", "q", "replicas"), least=-math.inf),
    "mean": Kind(
        {("none", "repeats"): ("T14", "mean"), ("none", "score"): ("T14", "mean")},
        ("value", "replicas"),
        least=-math.inf,
    ),
    "event": Kind({("none", "replicas"): ("T5", "event")}, ("value", "replicas"), most=1.0),
    "class": Kind({("majority", "counts"): ("T1", "class")}),
}
"""Quantity → what its claims say."""


def is_number(value: Any) -> bool:
    """Whether a JSON value is a number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


_Check = tuple[Callable[[Any], bool], str]
"""Whether a value will do, and what it must be."""


def _between(least: float, most: float) -> _Check:
    return (lambda v: is_number(v) and least <= v <= most), f"a number in [{least:g}, {most:g}]"


def _among(*allowed: str) -> _Check:
    listed = tuple(dict.fromkeys(allowed))
    return (lambda v: v in listed), f"one of {', '.join(map(repr, listed))}"


def _scalars(value: Any) -> bool:
    return isinstance(value, dict) and all(is_number(v) or isinstance(v, str) for v in value.values())


_RESTS = [(*asked, theorem) for kind in KINDS.values() for asked, (theorem, _) in kind.rests.items()]
_TEXT: _Check = (lambda v: isinstance(v, str)), "a string"
_WHOLE: _Check = (lambda v: type(v) is int and v >= 1), "a whole number >= 1"
_SHARE, _SIZE, _MANY = _between(0, 1), _between(0, math.inf), _between(1, 1e18)
_OF_KIND: tuple[_Check, ...] = ()  # a number between what its `Kind` says

_FIELDS: dict[str, tuple[_Check, ...]] = {
    "theorem": (_among(*(theorem for _, _, theorem in _RESTS)),),
    "quantity": (_among(*KINDS),),
    "function": (_TEXT,),
    "unit": (_TEXT,),
    "value": _OF_KIND,
    "lower": _OF_KIND,
    "rho": (_SIZE,),
    "p": (_SHARE,),
    "q": (_SHARE,),
    "side": (_among("upper", "lower", "two-sided"),),
    "replicas": (_WHOLE,),
    "copies": (_WHOLE,),
    "tolerance": _OF_KIND,
    "outputs": (_MANY, _WHOLE),
    "smoother": (_among(*(smoother for smoother, _, _ in _RESTS)),),
    "method": (_among(*(method for _, method, _ in _RESTS)),),
    "reference": (_among("center", "population", "none"),),
    "policy": (_among(*NOT_COVERED),),
    "alpha": (_SHARE, (lambda v: v > 0, "> 0")),
    "share": (_SHARE,),
    "n": (_MANY, _WHOLE),
    "scope": (_among("single", "pointwise", "simultaneous", "stopped early"),),
    "status": (_among("certified", "abstained"),),
    "reason": (_TEXT,),
    "evidence": (_among("", *EVIDENCE),),
    "numbers": ((_scalars, "a mapping to numbers and words"),),
    "tensors": (_TEXT,),
    "center": (_TEXT,),
}
"""The fields of a claim, in the order in which they are written."""
_OPTIONAL = ("value", "lower", "p", "q", "replicas", "copies", "tolerance")
_INFINITIES = {"Infinity": math.inf, "-Infinity": -math.inf}


def as_json(claim: Claim) -> dict[str, Any]:
    """A claim as JSON values. JSON has no infinities: they become words."""
    return {name: _encoded(getattr(claim, name)) for name in _FIELDS}


def claim_from(entry: Any) -> Claim:
    """A claim of JSON values.

    Raises:
        ValueError, TypeError: a field is missing, is none of a claim's, or is not what it must be.
    """
    if not isinstance(entry, dict) or set(entry) != set(_FIELDS):
        given = sorted(entry) if isinstance(entry, dict) else type(entry).__name__
        raise ValueError(f"a claim has the fields {given}, must have {sorted(_FIELDS)}")
    # "Infinity" is a word where any word may stand.
    values = {name: v if _TEXT in _FIELDS[name] else _decoded(v) for name, v in entry.items()}
    quantity = values["quantity"]
    kind = KINDS.get(str(quantity), KINDS["mse"])  # the quantity itself is checked before what depends on it
    for name, checks in _FIELDS.items():
        value = values[name]
        needed = (
            name in kind.needs
            or (name == "lower" and values["side"] == "two-sided")
            or (name == "p" and values["evidence"] == "box")
        )
        if value is None and name in _OPTIONAL and not needed:
            continue
        about = f" for quantity {quantity!r}" if value is None or not checks else ""
        for fits, what in checks or (_between(kind.least, kind.most),):
            if not fits(value):
                raise ValueError(f"a claim has {name} = {value!r}: must be {what}{about}")
    if (values["evidence"] == "") != (values["status"] == "abstained"):
        raise ValueError(f"a claim has evidence = {values['evidence']!r} and status = {values['status']!r}")
    label = values["numbers"].get("label")
    if quantity == "class" and values["status"] == "certified" and not (type(label) is int and label >= 0):
        raise ValueError(f"a claim has the label {label!r}: must be a whole number >= 0 for quantity 'class'")
    return Claim(**values)


def _encoded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _encoded(v) for k, v in value.items()}
    return ("Infinity" if value > 0 else "-Infinity") if isinstance(value, float) and math.isinf(value) else value


def _decoded(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _decoded(v) for k, v in value.items()}
    return _INFINITIES.get(value, value) if isinstance(value, str) else value
