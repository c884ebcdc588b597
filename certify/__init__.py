"""`certify`: what a smoothed text-to-image model is proven to withstand.

The mathematics needs torch, scipy and statsmodels and loads with the package. Whatever needs transformers or diffusers
loads when it is first touched.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from certify._records import summaries_from
from certify._version import __version__ as __version__
from certify.certificate import Certificate, Claim
from certify.confidence import plan
from certify.noise import Ellipsoid, GaussianNoise, UniformNoise
from certify.rates import event_rate_over
from certify.replicas import deployed_distance, event_bound, statistic_bound
from certify.sequential import Decision, decide_event, decide_mse, decide_statistic
from certify.smoothers import MeanSmoother, MedianSmoother
from certify.statements import ask, bound_curve, certified_radius, deployed_bound, mse_bound, percentile_bounds
from certify.support import Support, layer_norm_support

if TYPE_CHECKING:
    from certify import adaptive as adaptive
    from certify import datasets as datasets
    from certify import detectors as detectors
    from certify import downstream as downstream
    from certify import generate as generate
    from certify import models as models
    from certify import plots as plots
    from certify import report as report
    from certify import world as world
    from certify.adaptive import AdaptiveMedianSmoother
    from certify.models import load_pipeline

_LAZY = {"AdaptiveMedianSmoother": "certify.adaptive", "load_pipeline": "certify.models"}
_MODULES = ("adaptive", "datasets", "detectors", "downstream", "generate", "models", "plots", "report", "world")
"""Modules that are attributes from the beginning, and load when they are first touched."""

__all__ = [
    "AdaptiveMedianSmoother",
    "Certificate",
    "Claim",
    "Decision",
    "Ellipsoid",
    "GaussianNoise",
    "MeanSmoother",
    "MedianSmoother",
    "Support",
    "UniformNoise",
    "ask",
    "bound_curve",
    "certified_radius",
    "decide_event",
    "decide_mse",
    "decide_statistic",
    "deployed_bound",
    "deployed_distance",
    "event_bound",
    "event_rate_over",
    "layer_norm_support",
    "load_pipeline",
    "mse_bound",
    "percentile_bounds",
    "plan",
    "statistic_bound",
]


summaries_from(lambda: importlib.import_module("certify.summaries"))


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"certify.{name}")
    raise AttributeError(f"module 'certify' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
