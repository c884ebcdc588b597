"""Numbers of a file, as they stand on a page: checked, rounded in the safe direction, with the exact value for machines."""

from __future__ import annotations

import math
from typing import Any

from certify import _text


def real(value: Any) -> float:
    """A number of a file, which may hold anything."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
        raise ValueError(f"{value!r}: must be a number")
    return float(value)


def count(value: Any) -> str:
    """A whole number of a file, with its thousands apart."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{value!r}: must be a whole number")
    return f"{value:,}"


def copies(replicas: int | None) -> str:
    """So many noisy copies."""
    return f"{replicas or 1} noisy cop{'y' if replicas in (None, 1) else 'ies'}"


def number(value: Any, way: str = "up", digits: int | None = None, sign: bool = False) -> str:
    """A number and, for machines, its exact value."""
    exact = real(value)
    text = _text.shown(exact, way, digits or (6 if way == "near" else 4), sign)
    return f'<data value="{exact!r}">{text}</data>'


def percentage(value: Any, way: str = "up") -> str:
    """A probability or share in percent."""
    exact = real(value)
    return f'<data value="{exact!r}">{_text.percent(exact, way)}</data>'


def confidence(alpha: float) -> str:
    """1 − α in percent."""
    return f'<data value="{1 - alpha!r}">{_text.confidence(alpha)}</data>'
