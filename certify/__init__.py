"""`certify`: what a smoothed text-to-image model is proven to withstand.

Everything loads when it is first touched: the mathematics with torch, scipy and statsmodels, and what needs transformers or
diffusers only with these. `import certify` itself takes no time, so that the command line can be stopped from its first moment.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

from certify._records import summaries_from
from certify._version import __version__ as __version__

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
    from certify.certificate import Certificate, Claim
    from certify.confidence import plan
    from certify.models import load_pipeline
    from certify.noise import Ellipsoid, GaussianNoise, UniformNoise
    from certify.rates import event_rate_over
    from certify.replicas import deployed_distance, event_bound, statistic_bound
    from certify.sequential import Decision, decide_event, decide_mse, decide_statistic
    from certify.smoothers import MeanSmoother, MedianSmoother
    from certify.statements import ask, bound_curve, certified_radius, deployed_bound, mse_bound, percentile_bounds
    from certify.support import Support, layer_norm_support

_LAZY = {
    "AdaptiveMedianSmoother": "certify.adaptive",
    "ask": "certify.statements",
    "bound_curve": "certify.statements",
    "Certificate": "certify.certificate",
    "certified_radius": "certify.statements",
    "Claim": "certify.certificate",
    "decide_event": "certify.sequential",
    "decide_mse": "certify.sequential",
    "decide_statistic": "certify.sequential",
    "Decision": "certify.sequential",
    "deployed_bound": "certify.statements",
    "deployed_distance": "certify.replicas",
    "Ellipsoid": "certify.noise",
    "event_bound": "certify.replicas",
    "event_rate_over": "certify.rates",
    "GaussianNoise": "certify.noise",
    "layer_norm_support": "certify.support",
    "load_pipeline": "certify.models",
    "MeanSmoother": "certify.smoothers",
    "MedianSmoother": "certify.smoothers",
    "mse_bound": "certify.statements",
    "percentile_bounds": "certify.statements",
    "plan": "certify.confidence",
    "statistic_bound": "certify.replicas",
    "Support": "certify.support",
    "UniformNoise": "certify.noise",
}
_MODULES = ("adaptive", "datasets", "detectors", "downstream", "generate", "models", "plots", "report", "world")
"""Modules that pages name; every other one is an attribute from the beginning, too, and loads when it is first touched."""

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
        value = globals()[name] = getattr(importlib.import_module(_LAZY[name]), name)
        return value
    if not name.startswith("_") and importlib.util.find_spec(f"certify.{name}") is not None:
        return importlib.import_module(f"certify.{name}")
    raise AttributeError(f"module 'certify' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
