"""Numbers and words as they are shown, in pages, in notebooks, in figures and on a terminal: the one place that rounds.

A number of a claim has a direction in which it may be rounded, and there is no other way to print it: an upper bound goes up, a
radius, a probability that something holds and a lower bound go down, a setting that a user gave stays as it is. "near" is
for what is measured and claims nothing. What is printed then follows from what is on record.

>>> shown(0.12341, "up", 4), shown(0.12349, "down", 4), shown(2.5e-9, "up", 4), shown(float("inf"), "up", 4)
('0.1235', '0.1234', '2.5·10⁻⁹', '∞')
>>> shown(0.99999951, "down"), shown(0.99999951, "exact"), failure(0.00100499), failure(0.0010000000000000002)
('0.999999', '0.99999951', '0.00101', '0.001')
>>> percent(0.5, "up"), percent(0.99999, "down"), confidence(0.001)
('50\xa0%', '99.99\xa0%', '99.9\xa0%')
"""

from __future__ import annotations

import html
import math
import unicodedata
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Context, Decimal
from typing import Any

__all__ = ["EVENT_RHOS", "cleaned", "confidence", "duration", "escaped", "failure", "percent", "shown", "spelled"]

EVENT_RHOS = (0.0, 0.1, 0.25, 0.5, 1.0)
"""Radii at which an event's bound, which holds at all of them, is shown."""

_ROUND = {"up": ROUND_CEILING, "down": ROUND_FLOOR, "near": ROUND_HALF_EVEN}
_WIDE = Context(prec=800)  # room for every digit of a float
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def shown(value: float | Decimal, way: str, digits: int = 6, sign: bool = False) -> str:
    """A number with so many digits.

    Args:
        value: the number.
        way: "up" or "down", the direction in which it stays true; "exact": every digit it has; "near": a measured one.
        digits: significant ones at most.
        sign: with a + where it is positive.
    """
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    exact = value if isinstance(value, Decimal) else Decimal(repr(float(value)))  # numpy's have another repr
    if exact == 0:
        return "0"
    if way == "exact":
        digits = len(exact.as_tuple().digits)
    elif way == "near":
        exact = Decimal(f"{value:.12g}")
    last = Decimal((0, (1,), exact.adjusted() - digits + 1))
    rounded = exact if way == "exact" else exact.quantize(last, rounding=_ROUND[way], context=_WIDE)
    if -4 <= rounded.adjusted() <= 6:
        text = f"{rounded:,f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
    else:
        mantissa, exponent = f"{rounded:.{digits - 1}E}".split("E")
        mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
        text = f"{mantissa}·10{str(int(exponent)).translate(_SUPERSCRIPT)}"
    text = text.replace("-", "−")
    return f"+{text}" if sign and value > 0 else text


def percent(value: float, way: str) -> str:
    """A probability or share in percent, with three digits, from ten percent on four."""
    hundredfold = Decimal(repr(float(value))) * 100
    return f"{shown(hundredfold, way, 4 if hundredfold >= 10 else 3)}\u00a0%"


def failure(alpha: float) -> str:
    """α, rounded up to three digits. It is a sum of shares: its rounding error is no digit of it."""
    return shown(_without_error(alpha), "up", 3)


def confidence(alpha: float) -> str:
    """1 − α in percent, rounded down; where that would be nothing but nines, the difference itself."""
    kept = _without_error(alpha)
    if kept < Decimal("1e-12"):
        return f"1 − {shown(kept, 'up', 3)}"
    kept = kept.quantize(Decimal((0, (1,), kept.adjusted() - 2)), rounding=ROUND_CEILING, context=_WIDE)
    return f"{_WIDE.subtract(Decimal(100), 100 * kept):f}".rstrip("0").rstrip(".") + "\u00a0%"


def _without_error(alpha: float) -> Decimal:
    return Decimal(f"{alpha:.15g}")


def duration(seconds: float) -> str:
    """A wait in words."""
    if seconds < 1:
        return "a second"
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    return f"{math.ceil(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


_SPECIAL = {"<|startoftext|>": "begin", "<|endoftext|>": "end", "<s>": "begin", "</s>": "end", "</w>": ""}


def spelled(token: Any) -> str:
    """A token for readers: without the vocabulary's marks."""
    text = str(token)
    if text in _SPECIAL:
        return _SPECIAL[text]
    return text.removesuffix("</w>").removeprefix("##").lstrip("▁Ġ") or text


def cleaned(value: Any) -> str:
    """Text without control characters and halves of letters."""
    return "".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t" else c for c in str(value))


def escaped(value: Any, *, isolate: bool = True) -> str:
    """Text for a page: cleaned, escaped, and isolated from the direction of what is around it."""
    text = html.escape(cleaned(value), quote=True)
    return f"<bdi>{text}</bdi>" if isolate else text
