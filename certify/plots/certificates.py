"""Figures of a saved certificate: `figure`."""

from __future__ import annotations

from typing import Any

from certify.certificate import Certificate, words
from certify.certificate.tokens import Tokens, tokens_of
from certify.noise import Ellipsoid
from certify.plots.curves import plot_curve
from certify.plots.levels import plot_levels
from certify.plots.rates import plot_event_rates
from certify.plots.relevance import plot_relevance
from certify.plots.style import TWO_COLUMNS, StyledFigure
from certify.plots.tokens import plot_ellipsoid, plot_token_noise

__all__ = ["CERTIFICATE", "figure"]

CERTIFICATE = ("curve", "rate", "noise", "ellipsoid", "relevance", "levels")
"""What `figure` draws."""


def figure(
    certificate: Certificate, what: str, *, title: str | None = None, width: float = TWO_COLUMNS
) -> StyledFigure:
    """A figure of a saved certificate.

    Args:
        certificate: as `Certificate.load` returns it.
        what: "curve", "rate" (of events), "noise", "ellipsoid" (of the certified radius, or else of the first claim that is
            made), "relevance"; the last three of a prompt's certificate only; "levels" (of its most relevant word) of one of
            policy "levels".
        title: above the figure; None: the prompt, where it is on record.
        width: of the figure in inches.

    Raises:
        ValueError: another word, or the certificate holds nothing to draw of this kind.
    """
    if what not in CERTIFICATE:
        raise ValueError(f"what = {what!r}: must be one of {', '.join(CERTIFICATE)}")
    title = title or certificate.provenance.get("prompt")
    how: dict[str, Any] = {"title": None if title is None else str(title), "width": width}
    try:
        if what in ("curve", "rate"):
            return (_curve if what == "curve" else _rate)(certificate, how)
        tokens = tokens_of(certificate)
        if tokens is None:
            raise ValueError("certificate: is not one of a prompt; only 'curve' and 'rate' can be drawn of it")
        if what == "ellipsoid":
            return _ellipsoid(certificate, tokens, how)
        if what == "levels":
            return _levels(certificate, tokens, how)
        names, relevance = [tokens.names[i] for i in tokens.shown], [tokens.relevance[i] for i in tokens.shown]
        if what == "relevance":
            return plot_relevance(names, relevance, concept=tokens.concept, **how)
        coverage = certificate.provenance.get("coverage") or []
        covered = {p["position"]: float(p["share"]) for p in coverage}
        return plot_token_noise(
            names,
            [float(tokens.sigma[i]) for i in tokens.shown],
            relevance,
            std=tokens.std,
            covered=[covered.get(i) for i in tokens.shown] if coverage else None,
            rho=float(coverage[0]["rho"]) if coverage else None,
            **how,
        )
    except (KeyError, TypeError, AttributeError, IndexError, ArithmeticError) as error:
        raise ValueError(f"certificate: what it has on record cannot be drawn ({error!r})") from error


def _curve(certificate: Certificate, how: dict[str, Any]) -> StyledFigure:
    if certificate.curve is None:
        raise ValueError("certificate: holds no curve; what = 'curve' cannot be drawn")
    distance = certificate.provenance.get("yardstick")
    return plot_curve(certificate.curve, removal=None if not distance else float(distance["distance"]), **how)


def _rate(certificate: Certificate, how: dict[str, Any]) -> StyledFigure:
    made = [c for c in certificate.claims if words.is_probability(c) and c.status == "certified"]
    events = [c for c in made if c.scope != "stopped early" and c.side != "lower"]
    if not events:
        raise ValueError("certificate: holds no certified event; what = 'rate' cannot be drawn")
    rate = (certificate.provenance.get("undefended") or {}).get("rate")
    return plot_event_rates(
        *(certificate.event(c) for c in events),
        largest=max(1.0, *(c.rho for c in events)),
        labels=[c.function for c in events] if len({c.function for c in events}) > 1 else None,
        undefended=None if rate is None else float(rate),
        **how,
    )


def _levels(certificate: Certificate, tokens: Tokens, how: dict[str, Any]) -> StyledFigure:
    record = certificate.provenance
    position = record["yardstick"]["position"]
    found = [p for p in record.get("coverage") or () if p["position"] == position and p.get("members")]
    if not found:
        raise ValueError(
            "certificate: has no other token on the level of its most relevant word on record (policy levels, not private); "
            "what = 'levels' cannot be drawn"
        )
    (p,) = found
    members, leaving = (
        [(str(one["token"]), None if one["distance"] is None else float(one["distance"])) for one in p[name]]
        for name in ("members", "leaving")
    )
    return plot_levels(members, leaving, rho=float(p["rho"]), word=tokens.names[position], **how)


def _ellipsoid(certificate: Certificate, tokens: Tokens, how: dict[str, Any]) -> StyledFigure:
    made = [c for c in certificate.claims if c.status == "certified" and c.smoother != "none"]
    claim = next(iter([c for c in made if c.quantity == "radius"] or made or certificate.claims))
    whole, shown = certificate.ellipsoid(claim), list(tokens.shown)
    if whole.sigma.shape[0] != len(tokens.names):
        raise ValueError("certificate: its noise is not one of tokens; what = 'ellipsoid' cannot be drawn")
    # On record is the ρ at which a substitution is covered: its ℓ2 distance in units of the token's σ.
    near = {
        p["position"]: float(p["nearest"]["distance"]) * float(p["sigma"])
        for p in certificate.provenance.get("coverage") or ()
        if p.get("nearest") and p["sigma"] > 0
    }
    nearest = [near.get(i) for i in shown] if near else None
    part = Ellipsoid(whole.sigma[shown], whole.rho)
    return plot_ellipsoid(part, [tokens.names[i] for i in shown], nearest=nearest, std=tokens.std, **how)
