"""Plots: figures of certificates, and the style that they share.

    curves, rates, ellipsoids, noise by token     figures.py
    sizes, letters, frames; how a file is written     style.py
    one palette                                    colours.py

matplotlib loads with the first figure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from certify.plots.figures import (
        CERTIFICATE,
        EventRates,
        picture,
        plot_certified_fraction,
        plot_curve,
        plot_ellipsoid,
        plot_event_rates,
        plot_relevance,
        plot_token_noise,
    )

__all__ = [
    "CERTIFICATE",
    "EventRates",
    "picture",
    "plot_certified_fraction",
    "plot_curve",
    "plot_ellipsoid",
    "plot_event_rates",
    "plot_relevance",
    "plot_token_noise",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from certify.plots import figures

    return getattr(figures, name)
