"""Claims as JSON: what each field must be, in one table, and what each quantity asks besides, in another.

What is read is a stranger's, and refused by the name of the field, its value and what it must be. `KINDS` is also what a check
goes by: it says from which evidence something follows about a quantity.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from certify._pairs import DIGEST
from certify.bounds import EVIDENCE, METHODS, ROUTES
from certify.certificate.claim import Claim
from certify.certificate.words import NOT_COVERED

__all__ = ["KINDS", "SCHEMA_VERSION", "Kind", "as_json", "claim_from", "encoded", "is_number", "json_schema"]

SCHEMA_VERSION = 2
"""Of the files. What a seed draws has a version of its own, `provenance["streams"]` (1 where it is missing): the same seed
gives the same claims only if that is the same, too. `check` draws afresh and needs neither.
"""


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


class _Check(NamedTuple):
    """Whether a value will do, what it must be, and the same as a JSON schema."""

    fits: Callable[[Any], bool]
    what: str
    schema: Mapping[str, Any]


def _between(least: float, most: float) -> _Check:
    ends = {"minimum": least, "maximum": most}
    words = [word for word, end in _INFINITIES.items() if end in (least, most)]
    number = {"type": "number"} | {name: end for name, end in ends.items() if math.isfinite(end)}
    schema = {"anyOf": [number, {"enum": words}]} if words else number
    return _Check(lambda v: is_number(v) and least <= v <= most, f"a number in [{least:g}, {most:g}]", schema)


def _among(*allowed: str) -> _Check:
    listed = tuple(dict.fromkeys(allowed))
    return _Check(lambda v: v in listed, f"one of {', '.join(map(repr, listed))}", {"enum": list(listed)})


def _scalars(value: Any) -> bool:
    return isinstance(value, dict) and all(is_number(v) or isinstance(v, str) for v in value.values())


_INFINITIES = {"Infinity": math.inf, "-Infinity": -math.inf}
_RESTS = [(*asked, theorem) for kind in KINDS.values() for asked, (theorem, _) in kind.rests.items()]
_TEXT = _Check(lambda v: isinstance(v, str), "a string", {"type": "string"})
_WHOLE = _Check(lambda v: type(v) is int and v >= 1, "a whole number >= 1", {"type": "integer", "minimum": 1})
_POSITIVE = _Check(lambda v: v > 0, "> 0", {"exclusiveMinimum": 0})
_SCALARS = _Check(
    _scalars,
    "a mapping to numbers and words",
    {"type": "object", "additionalProperties": {"type": ["number", "string"]}},
)
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
    "alpha": (_SHARE, _POSITIVE),
    "share": (_SHARE,),
    "n": (_MANY, _WHOLE),
    "scope": (_among("single", "pointwise", "simultaneous", "stopped early"),),
    "status": (_among("certified", "abstained"),),
    "reason": (_TEXT,),
    "evidence": (_among("", *EVIDENCE),),
    "numbers": (_SCALARS,),
    "tensors": (_TEXT,),
    "center": (_TEXT,),
}
"""The fields of a claim, in the order in which they are written."""
_OPTIONAL = ("value", "lower", "p", "q", "replicas", "copies", "tolerance")


def as_json(claim: Claim) -> dict[str, Any]:
    """A claim as JSON values. JSON has no infinities: they become words."""
    return {name: encoded(getattr(claim, name)) for name in _FIELDS}


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
        for fits, what, _ in checks or (_between(kind.least, kind.most),):
            if not fits(value):
                raise ValueError(f"a claim has {name} = {value!r}: must be {what}{about}")
    if (values["evidence"] == "") != (values["status"] == "abstained"):
        raise ValueError(f"a claim has evidence = {values['evidence']!r} and status = {values['status']!r}")
    label = values["numbers"].get("label")
    if quantity == "class" and values["status"] == "certified" and not (type(label) is int and label >= 0):
        raise ValueError(f"a claim has the label {label!r}: must be a whole number >= 0 for quantity 'class'")
    return Claim(**values)


def json_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of `certificate.json`, made of what a claim is read by."""
    fields = {name: _schema(name) for name in _FIELDS}
    rules = [
        _rule({"quantity": {"const": quantity}}, _needs(kind.needs) | _ends(kind)) for quantity, kind in KINDS.items()
    ]
    rules += [
        _rule({"side": {"const": "two-sided"}}, _needs(("lower",))),
        _rule({"evidence": {"const": "box"}}, _needs(("p",))),
        _rule({"status": {"const": "abstained"}}, {"evidence": {"const": ""}}),
        _rule({"status": {"const": "certified"}}, {"evidence": {"not": {"const": ""}}}),
        _rule(
            {"quantity": {"const": "class"}, "status": {"const": "certified"}},
            {"numbers": {"required": ["label"], "properties": {"label": {"type": "integer", "minimum": 0}}}},
        ),
    ]
    claim = {
        "type": "object",
        "required": list(_FIELDS),
        "additionalProperties": False,
        "properties": fields,
        "allOf": rules,
    }
    properties = {
        "schema_version": {"const": SCHEMA_VERSION},
        "alpha": {"type": "number", "exclusiveMinimum": 0, "description": "the sum over the claims"},
        "claims": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/claim"}},
        "provenance": {"type": "object", "description": "where the claims come from: dates, seeds, versions, hashes"},
        DIGEST: {"type": "string", "pattern": "^[0-9a-f]{64}$", "description": "SHA-256 of tensors.safetensors"},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"certificate.json of certify, schema version {SCHEMA_VERSION}",
        "type": "object",
        "required": list(properties),
        "additionalProperties": False,
        "properties": properties,
        "$defs": {"claim": claim},
    }


def _schema(name: str) -> dict[str, Any]:
    """Of a field by itself."""
    checks = _FIELDS[name] or (_between(-math.inf, math.inf),)
    merged = {key: value for check in checks for key, value in check.schema.items()}
    return {"anyOf": [merged, {"type": "null"}]} if name in _OPTIONAL else merged


def _rule(where: Mapping[str, Any], then: Mapping[str, Any]) -> dict[str, Any]:
    return {"if": {"properties": where}, "then": {"properties": then}}


def _needs(names: tuple[str, ...]) -> dict[str, Any]:
    return {name: {"not": {"type": "null"}} for name in names}


def _ends(kind: Kind) -> dict[str, Any]:
    """What lies between the ends of a kind, None aside."""
    within = dict(_between(kind.least, kind.most).schema)
    either = {"anyOf": [within, {"type": "null"}]}
    free = [name for name, checks in _FIELDS.items() if not checks]
    return {name: within if name in kind.needs else either for name in free}


def encoded(value: Any) -> Any:
    """A value as JSON has it: infinities become words."""
    if isinstance(value, Mapping):
        return {k: encoded(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [encoded(v) for v in value]
    return ("Infinity" if value > 0 else "-Infinity") if isinstance(value, float) and math.isinf(value) else value


def _decoded(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _decoded(v) for k, v in value.items()}
    return _INFINITIES.get(value, value) if isinstance(value, str) else value
