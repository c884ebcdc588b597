"""Plots: figures of certificates, and the style that they share.

    plot_curve                bound against radius, methods side by side, with what attacks have reached      curves.py
    plot_event_rates          certified attack success rate against radius                                    rates.py
    plot_certified_fraction   share of prompts with at least that radius                                      rates.py
    plot_certified_accuracy   share of inputs that are rightly classified up to that radius                   rates.py
    plot_token_noise          the noise of each token, and the relevance it comes from                        tokens.py
    plot_ellipsoid            how far each token may move: the semi-axes of the certified set                 tokens.py
    plot_relevance            the prompt, its tokens in the colour of their relevance                         relevance.py
    plot_levels               the words that are covered as deployed, and the nearest that are not            levels.py
    figure                    any of them, from a saved certificate                                           certificates.py

Every function returns a `certify.plots.style.StyledFigure`, a `matplotlib.figure.Figure` that no global state knows of;
`figure.savefig("x.png")`, `"x.svg"` or `"x.pdf"` writes it, the same bytes every time. Style and colours are those of style.py
and colours.py: what a colour says, a marker, a dash or a number says, too. matplotlib loads with the first figure.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from certify.plots.certificates import CERTIFICATE, figure
    from certify.plots.curves import plot_curve
    from certify.plots.levels import plot_levels
    from certify.plots.rates import EventRates, plot_certified_accuracy, plot_certified_fraction, plot_event_rates
    from certify.plots.relevance import plot_relevance
    from certify.plots.tokens import plot_ellipsoid, plot_token_noise

__all__ = [
    "CERTIFICATE",
    "EventRates",
    "figure",
    "plot_certified_accuracy",
    "plot_certified_fraction",
    "plot_curve",
    "plot_ellipsoid",
    "plot_event_rates",
    "plot_levels",
    "plot_relevance",
    "plot_token_noise",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module in ("certificates", "rates"):  # the first imports the others
            found = vars(importlib.import_module(f"certify.plots.{module}"))
            if name in found:
                return found[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
