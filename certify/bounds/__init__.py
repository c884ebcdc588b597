"""Bounds: one file a theorem.

`METHODS` names every method for the squared distance of a smoothed output, `ROUTES` every one for the distance of the
deployed median or mean: that is where a new one is entered, once. `EVIDENCE`, every kind of evidence that a certificate can
hold, follows from them.
"""

from certify.bounds.base import Evaluation, Evidence, Method, Run, Setting
from certify.bounds.bounded_mean import MeanBound, MeanEvidence
from certify.bounds.classification import ClassEvidence, Classification
from certify.bounds.copies import EventBound, EventEvidence, LimitEvidence, StatisticBound
from certify.bounds.deployed_distance import (
    DeployedBound,
    DeployedMethod,
    DimensionFreeRoute,
    MeanReplicasRoute,
    OrderStatisticsRoute,
    ReplicasRoute,
)
from certify.bounds.dimension_free import DimensionFreeMSE
from certify.bounds.mse import BoundCurve, CoordinatewiseMSE, MSEBound
from certify.bounds.percentile import BoxEvidence, PercentileBounds
from certify.bounds.radius import CertifiedRadius
from certify.bounds.spectral_mean import SpectralMSE
from certify.bounds.spectral_median import SpectralMedianMSE

__all__ = [
    "EVIDENCE",
    "METHODS",
    "ROUTES",
    "BoundCurve",
    "CertifiedRadius",
    "Classification",
    "DeployedBound",
    "DeployedMethod",
    "Evaluation",
    "EventBound",
    "Evidence",
    "MSEBound",
    "MeanBound",
    "Method",
    "PercentileBounds",
    "Run",
    "Setting",
    "StatisticBound",
]

METHODS: dict[tuple[str, str], type[Method]] = {
    (cls.smoother, cls.method): cls for cls in (CoordinatewiseMSE, DimensionFreeMSE, SpectralMedianMSE, SpectralMSE)
}
"""(smoother, method) → the class that implements it."""

ROUTES: dict[tuple[str, str], type[DeployedMethod]] = {
    (cls.smoother, cls.method): cls
    for cls in (ReplicasRoute, OrderStatisticsRoute, DimensionFreeRoute, MeanReplicasRoute)
}
"""(smoother, route) → the class that implements it."""

_OF_STATEMENTS: tuple[type[Evidence], ...] = (BoxEvidence, LimitEvidence, EventEvidence, MeanEvidence, ClassEvidence)
EVIDENCE: dict[str, type[Evidence]] = {
    cls.kind: cls
    for cls in (*_OF_STATEMENTS, *(m.evidence for m in METHODS.values()), *(m.evidence for m in ROUTES.values()))
}
"""The kind of evidence, as a certificate names it → its class."""
