"""Records as JSON values, and how two of those differ."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from certify import Certificate
from certify._digests import tensor_digest

__all__ = ["as_data", "differences", "of_certificate", "of_result", "text"]

RELATIVE = 1e-9
"""How far numbers may be apart that are computed in float64."""

ASKED = ("alpha", "share", "p", "q")
"""Numbers that are never more than this apart: what was asked, not what was found."""

DIGESTS = ("memory_sha256", "tensors_sha256")
"""Digests of numbers that are compared one by one, or of the last digits of σ."""

_SHORT = re.compile(r"\[\n\s*([^\[\]{}]*?)\n\s*\]")  # a list without lists in it; strings hold no line's end
_WHOLE = 12  # entries of a tensor that is written down whole

PUBLIC = (
    *("value", "lower", "upper", "center", "theorem", "method", "smoother", "reference", "rho", "alpha", "n", "p", "q"),
    *("replicas", "tolerance", "side", "status", "scope", "quantity", "unit", "outputs", "considered", "lower_rank"),
    *("upper_rank", "successes", "rhos", "values", "simultaneous", "decided", "limit", "drawn", "maximum", "allowed"),
    *("prompts", "unperturbed", "two_sided", "rate", "seed", "target", "asked"),
)
"""Attributes of results."""


def of_result(result: Any) -> dict[str, Any]:
    """What a result says of itself, but for its reason."""
    return {name: as_data(getattr(result, name)) for name in PUBLIC if hasattr(result, name)}


def of_certificate(certificate: Certificate, folder: Path) -> dict[str, Any]:
    """A certificate as it is on disk, but for reasons, and what depends on the day and the installation."""
    certificate.save(folder)
    record = json.loads((folder / "certificate.json").read_text(encoding="utf-8"))
    for claim in record["claims"]:
        del claim["reason"]
    for name in ("created", "versions", "device"):
        del record["provenance"][name]
    again = Certificate.load(folder)
    if again.claims != certificate.claims:
        raise AssertionError("a certificate that was read back says something else")
    record["tensors"] = {name: as_data(tensor) for name, tensor in sorted(again.tensors.items())}
    return record


def as_data(value: Any) -> Any:
    """JSON values. A large tensor becomes its SHA-256 and five numbers that can be compared with a tolerance."""
    if isinstance(value, Tensor):
        kind = {"dtype": str(value.dtype).removeprefix("torch."), "shape": list(value.shape)}
        if value.numel() <= _WHOLE:
            return {**kind, "entries": as_data(value.flatten().tolist())}
        x = value.detach().double().flatten()
        finite = torch.where(x.isfinite(), x, 0.0)
        weights = torch.cos(torch.arange(len(x), dtype=torch.float64))  # two entries that change places are noticed
        sums = {"infinite": int((~x.isfinite()).sum()), "sum": float(finite.sum()), "weighted": float(finite @ weights)}
        ends = {"least": float(finite.min()), "most": float(finite.max()), "size": float(finite.abs().sum())}
        return {**kind, **as_data({**sums, **ends}), "sha256": tensor_digest(value)}
    if isinstance(value, Mapping):
        return {str(name): as_data(entry) for name, entry in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, str | int | float | None):
        return value
    if isinstance(value, Sequence):
        return [as_data(entry) for entry in value]
    raise TypeError(f"{value!r}: is no data")


def text(data: Any) -> str:
    """As it is committed: a diff of it can be read. A list of numbers is a line."""
    lines = json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False)
    return _SHORT.sub(lambda found: "[" + re.sub(r"\n\s*", " ", found[1]) + "]", lines) + "\n"


def differences(old: Any, new: Any, tolerance: float = RELATIVE, where: str = "") -> Iterator[str]:
    """What differs by more than the tolerance, a line each; 0: any digit, and digests of tensors."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(old.keys() | new.keys()):
            if name not in old or name not in new:
                yield f"{where}.{name}: {'is new' if name in new else 'is gone'}"
        tensor = "size" in old and "weighted" in old
        for name in sorted(old.keys() & new.keys()):
            if tensor and name in ("sum", "weighted"):  # of terms that cancel
                if abs(old[name] - new[name]) > tolerance * max(old["size"], new["size"]):
                    yield f"{where}.{name}: {old[name]!r} → {new[name]!r}"
            elif tolerance > 0 and (name in DIGESTS or (tensor and name == "sha256")):
                continue
            else:
                asked = name in ASKED
                yield from differences(
                    old[name], new[name], min(tolerance, RELATIVE) if asked else tolerance, f"{where}.{name}"
                )
    elif isinstance(old, list) and isinstance(new, list):
        if len(old) != len(new):
            yield f"{where}: {len(old)} → {len(new)} entries"
        for i, (a, b) in enumerate(zip(old, new, strict=False)):
            yield from differences(a, b, tolerance, f"{where}[{i}]")
    elif isinstance(old, float) and isinstance(new, float):
        if not math.isclose(old, new, rel_tol=tolerance, abs_tol=1e-3 * tolerance):
            yield f"{where}: {old!r} → {new!r}"
    elif type(old) is not type(new) or old != new:
        yield f"{where}: {old!r} → {new!r}"
