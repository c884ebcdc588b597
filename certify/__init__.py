"""`certify`: what a smoothed text-to-image model is proven to withstand.

Everything loads when it is first touched: the mathematics with torch and scipy, and what needs transformers or
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
    from certify import images as images
    from certify import models as models
    from certify import plots as plots
    from certify import report as report
    from certify import world as world
    from certify.adaptive import AdaptiveMedianSmoother
    from certify.bounds.allocation import allocation
    from certify.bounds.indistinguishability import indistinguishability
    from certify.certificate import Certificate, Claim
    from certify.defence import defend, load_defence
    from certify.models import load_pipeline
    from certify.noise import Ellipsoid, GaussianNoise, UniformNoise
    from certify.statements.ask import ask, bound_curve, certified_radius, deployed_bound, mse_bound, percentile_bounds
    from certify.statements.classify import certified_accuracy, classify, classify_many
    from certify.statements.decide import decide_event, decide_statistic
    from certify.statements.decide_mse import decide_mse
    from certify.statements.decision import Decision
    from certify.statements.mean import event_bound, mean_bound
    from certify.statements.plan import plan
    from certify.statements.rates import event_rate_over
    from certify.statements.replicas import deployed_distance, statistic_bound
    from certify.statements.smoothers import MeanSmoother, MedianSmoother
    from certify.support import Support, layer_norm_support

_LAZY = {
    "AdaptiveMedianSmoother": "certify.adaptive",
    "allocation": "certify.bounds.allocation",
    "ask": "certify.statements.ask",
    "bound_curve": "certify.statements.ask",
    "Certificate": "certify.certificate",
    "certified_accuracy": "certify.statements.classify",
    "certified_radius": "certify.statements.ask",
    "Claim": "certify.certificate",
    "classify": "certify.statements.classify",
    "classify_many": "certify.statements.classify",
    "decide_event": "certify.statements.decide",
    "decide_mse": "certify.statements.decide_mse",
    "decide_statistic": "certify.statements.decide",
    "Decision": "certify.statements.decision",
    "defend": "certify.defence",
    "deployed_bound": "certify.statements.ask",
    "deployed_distance": "certify.statements.replicas",
    "Ellipsoid": "certify.noise",
    "event_bound": "certify.statements.mean",
    "event_rate_over": "certify.statements.rates",
    "GaussianNoise": "certify.noise",
    "indistinguishability": "certify.bounds.indistinguishability",
    "layer_norm_support": "certify.support",
    "load_defence": "certify.defence",
    "load_pipeline": "certify.models",
    "mean_bound": "certify.statements.mean",
    "MeanSmoother": "certify.statements.smoothers",
    "MedianSmoother": "certify.statements.smoothers",
    "mse_bound": "certify.statements.ask",
    "percentile_bounds": "certify.statements.ask",
    "plan": "certify.statements.plan",
    "statistic_bound": "certify.statements.replicas",
    "Support": "certify.support",
    "UniformNoise": "certify.noise",
}
_MODULES = ("adaptive", "datasets", "images", "models", "plots", "report", "world")
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
    "allocation",
    "ask",
    "bound_curve",
    "certified_accuracy",
    "certified_radius",
    "classify",
    "classify_many",
    "decide_event",
    "decide_mse",
    "decide_statistic",
    "defend",
    "deployed_bound",
    "deployed_distance",
    "event_bound",
    "event_rate_over",
    "indistinguishability",
    "layer_norm_support",
    "load_defence",
    "load_pipeline",
    "mean_bound",
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
