"""Bounds: one file a theorem. `METHODS` names every method for the squared distance of a smoothed output."""

from certify.bounds.base import Evaluation, Method, Run, Setting
from certify.bounds.mse import BoundCurve, CoordinatewiseMSE, MSEBound
from certify.bounds.percentile import PercentileBounds
from certify.bounds.radius import CertifiedRadius

__all__ = [
    "METHODS",
    "BoundCurve",
    "CertifiedRadius",
    "Evaluation",
    "MSEBound",
    "Method",
    "PercentileBounds",
    "Run",
    "Setting",
]

METHODS: dict[tuple[str, str], type[Method]] = {(cls.smoother, cls.method): cls for cls in (CoordinatewiseMSE,)}
"""(smoother, method) → the class that implements it."""
