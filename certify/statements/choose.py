"""The choice of a method, from pilot draws alone: the requested one, or the one expected to bound best."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from certify.bounds import Evaluation, Method, Setting
from certify.bounds.radius import largest_radius
from certify.montecarlo import ExtremeRanks

__all__ = ["Choice", "Methods", "floor_below", "for_radius", "for_tolerance"]

Methods = Mapping[str, Callable[[Setting, float, float], Method]]
"""Methods that may serve, by name: (setting, α, radius that its parameters are chosen for) → method."""

_MARGIN, _LARGEST_FLOOR = 0.8, 2.0
"""How much of the expected radius a certified one must reach, or how large it must be where nothing is expected, lest the
draws be made a second time."""


@dataclass(frozen=True)
class Choice:
    """A method and what it was chosen for.

    Attributes:
        method: the one that is going to answer.
        rho: the radius of the statement; for a certified radius, the one that parameters are chosen for.
        considered: what was expected of each method, if there was a choice: a bound, or a radius.
        expected: the expected certified radius, if one is requested.
    """

    method: Method
    rho: float
    considered: Mapping[str, float] = field(default_factory=dict)
    expected: float = 0.0


def for_radius(methods: Methods, setting: Setting, alpha: float, rho: float) -> Choice:
    """The method of which the least bound is expected at a radius."""
    built = {name: make(setting, alpha, rho) for name, make in methods.items()}
    considered = {name: method.guess(rho) for name, method in built.items()} if len(built) > 1 else {}
    # Where nothing is expected of any of them, the first speaks: it says what n would do.
    return Choice(built[min(built, key=lambda name: considered.get(name, 0.0))], rho, considered)


def for_tolerance(methods: Methods, setting: Setting, alpha: float, tolerance: float) -> Choice:
    """The method of which the largest radius is expected, with its parameters chosen for that radius."""

    def reach(name: str) -> float:
        if setting.pilot is None:
            return 0.0
        make = methods[name]
        return largest_radius(lambda rho: Evaluation(make(setting, alpha, rho).guess(rho)), tolerance, precision=1e-2)[
            0
        ]

    considered = {name: reach(name) for name in methods}
    best = max(considered, key=lambda name: considered[name])
    expected = considered[best]
    aim = expected if 0 < expected < math.inf else 1.0
    method = methods[best](setting, alpha, aim)
    return Choice(method, aim, considered if len(considered) > 1 else {}, expected)


def floor_below(choice: Choice, setting: Setting, memory: int) -> float:
    """The radius from which on a search for the certified one keeps the draws it needs.

    0 where all of them fit in memory. Else the least radius whose order statistics fit, which leaves most room below the radius
    that is expected; or, where that is hardly below it, as much room as `_MARGIN` says, and draws go to disk.
    """
    bytes_a_draw = setting.outputs * (4 if setting.pilot is None else setting.pilot.element_size())

    def fits(rho: float) -> bool:
        ends = [need.low + need.high for need in choice.method.needs(rho) if isinstance(need, ExtremeRanks)]
        return min(max(ends, default=0), setting.n) * bytes_a_draw <= memory

    expected = math.inf if setting.pilot is None else choice.expected
    if fits(0.0) or expected <= 0:
        return 0.0
    most = _MARGIN * expected if math.isfinite(expected) else _LARGEST_FLOOR
    if not fits(most):
        return most if math.isfinite(expected) else 0.0
    low, high = 0.0, most
    while high - low > 1e-3 * most:
        middle = (low + high) / 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high
