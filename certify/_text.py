"""Numbers and words as they are shown, in pages, in notebooks and as text: rounded in the safe direction, escaped.

>>> shown(0.12341, "up", 4), shown(0.12349, "down", 4), shown(2.5e-9, "up", 4), shown(float("inf"), "up", 4)
('0.1235', '0.1234', '2.5·10⁻⁹', '∞')
>>> percent(0.5), confidence(0.001)
('50\xa0%', '99.9\xa0%')
"""

from __future__ import annotations

import html
import math
import unicodedata
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal
from typing import Any

__all__ = [
    "EVENT_RHOS",
    "cleaned",
    "confidence",
    "duration",
    "escaped",
    "percent",
    "safely",
    "shown",
    "spelled",
    "truncation",
]

EVENT_RHOS = (0.0, 0.1, 0.25, 0.5, 1.0)
"""Radii at which an event's bound, which holds at all of them, is shown."""

_ROUND = {"up": ROUND_CEILING, "down": ROUND_FLOOR, "near": ROUND_HALF_EVEN}


def truncation(tokens: int, kept: int) -> str:
    """What is read of a prompt that did not fit into the context, in words.

    >>> truncation(85, 77)[:74]
    'The prompt has 85 tokens, begin and end included, and 77 fit: the last 8 b'
    """
    return (
        f"The prompt has {tokens:,} tokens, begin and end included, and {kept:,} fit: the last {tokens - kept:,} before the "
        "end are cut off, as by the plain pipeline, and nothing is said about them."
    )


def shown(value: float, way: str, digits: int, sign: bool = False) -> str:
    """A number with so many digits, rounded up, down or to the nearest."""
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    exact = Decimal(repr(value))
    if exact == 0:
        return "0"
    if way == "near":
        exact = Decimal(f"{value:.12g}")
    rounded = exact.quantize(Decimal((0, (1,), exact.adjusted() - digits + 1)), rounding=_ROUND[way])
    if -4 <= rounded.adjusted() <= 6:
        text = f"{rounded:,f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
    else:
        mantissa, exponent = f"{rounded:.{digits - 1}E}".split("E")
        mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
        text = f"{mantissa}·10{str(int(exponent)).translate(_SUPERSCRIPT)}"
    text = text.replace("-", "−")
    return f"+{text}" if sign and value > 0 else text


def safely(value: float, way: str, form: str) -> str:
    """A number in the form ".5g" or ".3f", as Python has it, but rounded up or down.

    >>> safely(117.7101, "up", ".5g"), safely(2.42679, "down", ".4f"), f"{117.7101:.5g}"
    ('117.72', '2.4267', '117.71')
    """
    if not math.isfinite(value):
        return format(value, form)
    exact, digits = Decimal(repr(value)), int(form[1:-1])
    last = -digits if form.endswith("f") else exact.adjusted() - digits + 1
    rounded = exact.quantize(Decimal((0, (1,), last)), _ROUND[way])
    return format(rounded if form.endswith("f") else float(rounded), form)


_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def percent(value: float, way: str = "up") -> str:
    """A probability or share in percent, with three digits, from ten percent on four."""
    hundredfold = float(Decimal(repr(value)) * 100)
    return f"{shown(hundredfold, way, 4 if hundredfold >= 10 else 3)}\u00a0%"


def confidence(alpha: float) -> str:
    """1 − α in percent. α is a sum of shares: its rounding error is no digit of it."""
    kept = Decimal(f"{alpha:.9g}")
    kept = kept.quantize(Decimal((0, (1,), kept.adjusted() - 2)), rounding=ROUND_CEILING)
    return f"{100 - 100 * kept:f}".rstrip("0").rstrip(".") + "\u00a0%"


def duration(seconds: float) -> str:
    """A wait in words."""
    if seconds < 1:
        return "a second"
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    return f"{math.ceil(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def spelled(token: Any) -> str:
    """A token for readers: without the vocabulary's marks."""
    return {"<|startoftext|>": "begin", "<|endoftext|>": "end"}.get(str(token), str(token).removesuffix("</w>"))


def cleaned(value: Any) -> str:
    """Text without control characters and halves of letters."""
    return "".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t" else c for c in str(value))


def escaped(value: Any, *, isolate: bool = True) -> str:
    """Text for a page: cleaned, escaped, and isolated from the direction of what is around it."""
    text = html.escape(cleaned(value), quote=True)
    return f"<bdi>{text}</bdi>" if isolate else text
