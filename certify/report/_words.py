"""Claims in words: the sentence on top of a page, those below it, and what stands in a row of the table of claims."""

from __future__ import annotations

import math

from certify._text import escaped, shown
from certify.certificate import Certificate, Claim
from certify.report._numbers import confidence, copies, number, percentage, real


def headline(certificate: Certificate, claim: Claim) -> str:
    """The claim of the certificate that stands on top of its page, with its confidence."""
    sure = f"with {confidence(certificate.alpha)} confidence"
    stick = certificate.provenance.get("yardstick")
    if claim.status == "abstained":
        return f"Nothing is claimed: {escaped(claim.reason)}."
    if claim.quantity != "mse" or not stick or claim.function != "text encoding":
        return f"{sentence(certificate, claim).removesuffix('.')}, {sure}."
    prompt, distance, value = certificate.provenance.get("prompt"), real(stick["distance"]), real(claim.value)
    of = f"the prompt “{escaped(prompt)}”" if prompt else "the prompt"
    word = f"the word “{escaped(stick['word'])}”" if stick.get("word") else "its most relevant word"
    change = f"Whatever change of size up to {number(claim.rho, 'near')} an attacker makes to the embeddings of {of}"
    if distance <= 0 or value > distance:
        return (
            f"{change}, its smoothed encoding stays within squared distance {number(value)} of {_reference(claim)}, {sure}. "
            f"That says little: leaving out {word} moves it by {number(distance, 'near')}."
        )
    share = math.sqrt(value / distance)
    return (
        f"{change}, its smoothed encoding stays near {_reference(claim)}: at most {percentage(share)} as far from it as "
        f"leaving out {word} would take it, {sure}."
    )


def sentence(certificate: Certificate, claim: Claim) -> str:
    """A claim in a sentence, its confidence left out."""
    name, change = escaped(claim.function), f"under every change of size up to {number(claim.rho, 'near')}"
    often = "" if claim.q is None else f"in at least {percentage(claim.q, 'down')} of runs "
    if claim.status == "abstained":
        return f"<strong>No claim</strong> about the {name} ({escaped(claim.quantity)}): {escaped(claim.reason)}."
    match claim.quantity:
        case "mse":
            return (
                f"The {escaped(claim.smoother)}-smoothed {name} stays within "
                f"<strong>squared distance {number(claim.value)}</strong> of "
                f"{_reference(claim)} {change}."
            )
        case "radius":
            return (
                f"The largest certified change has <strong>size {number(claim.value, 'down')}</strong>: up to there the "
                f"{escaped(claim.smoother)}-smoothed {name} stays within squared distance {number(claim.tolerance)} of "
                f"{_reference(claim)}."
            )
        case "deployed":
            stick = certificate.provenance.get("yardstick")
            plain = math.sqrt(max(real(stick["distance"]), 0.0)) if stick else 0.0
            against = f" ({percentage(real(claim.value) / plain)} of the yardstick’s)" if plain > 0 else ""
            return (
                f"What runs, the {escaped(claim.smoother)} over {copies(claim.replicas)}, is within <strong>distance "
                f"{number(claim.value)}</strong>{against} of its reference {often}{change}."
            )
        case "event":
            least = f"at least {percentage(claim.lower, 'down')} and " if claim.side == "two-sided" else ""
            return (
                f"The probability that the {name} is <strong>{least}at most {percentage(claim.value)}</strong> {change}"
                f"{_measured(certificate)}."
            )
        case "statistic":
            return f"The {name}, with {copies(claim.replicas)}, is {_ends(claim)} {often}{change}."
    return (
        f"Each of {claim.outputs:,} percentile-smoothed outputs (p = {number(claim.p, 'near')}) of {name} stays inside its "
        f"interval {change}, all of them jointly."
    )


def _reference(claim: Claim) -> str:
    return "its value at the input itself" if claim.reference == "population" else "its reference"


def _measured(certificate: Certificate) -> str:
    measured = certificate.provenance.get("undefended")
    if not measured:
        return ""
    return (
        f" (measured without the defence and without an attack, not certified: {percentage(measured['rate'], 'near')})"
    )


def yardstick(certificate: Certificate) -> str:
    """What a squared distance is to be compared with."""
    stick = certificate.provenance.get("yardstick")
    if not stick:
        return ""
    word = f"“{escaped(stick['word'])}”" if stick.get("word") else "its most relevant word"
    return (
        f'<p class="note">Yardstick: without {word} the encoding is a squared distance of '
        f"{number(stick['distance'], 'near')} away. A bound above it is <em>vacuous</em>: true, and saying little. "
        "Reference: a fixed value, in general the smoothed one as separate draws at the unchanged prompt estimate it.</p>"
    )


def _ends(claim: Claim) -> str:
    if claim.side == "lower":
        return f"<strong>at least {number(claim.value, 'down')}</strong>"
    if claim.side == "two-sided":
        return f"<strong>between {number(claim.lower, 'down')} and {number(claim.value)}</strong>"
    return f"<strong>at most {number(claim.value)}</strong>"


def subject(claim: Claim) -> str:
    """What a claim's value is."""
    words = {
        "mse": "squared distance of the smoothed",
        "radius": "largest size of change, for the smoothed",
        "percentile": "percentiles of",
        "deployed": "distance of the deployed",
        "event": "probability:",
        "statistic": "",
    }
    return f"{words[claim.quantity]} {escaped(claim.function)}".strip()


def details(claim: Claim) -> list[str]:
    """Which object exactly, in a few words each."""
    points = {"simultaneous": "a point of a curve, all at once", "pointwise": "a point of a curve, by itself"}
    found = [points.get(claim.scope, claim.scope if claim.scope != "single" else "")]
    if claim.smoother not in ("none", "percentile"):
        found.append(f"{claim.smoother} over {'all noise' if claim.replicas is None else copies(claim.replicas)}")
    elif claim.replicas is not None:
        found.append(copies(claim.replicas))
    if claim.tolerance is not None:
        found.append(f"within squared distance {shown(claim.tolerance, 'up', 4)}")
    if claim.reference == "population":
        found.append("from the smoothed value at the input")
    return [part for part in found if part]


def claimed_value(claim: Claim) -> str:
    """A claim's value, rounded in its safe direction."""
    if claim.status == "abstained":
        return "none"
    if claim.quantity == "percentile":
        return "a box"
    if claim.quantity == "event" or claim.quantity == "statistic":
        low = "" if claim.side != "two-sided" else f"{number(claim.lower, 'down')} … "
        return f"{low}{number(claim.value, 'down' if claim.side == 'lower' else 'up')}"
    return number(claim.value, "down" if claim.quantity == "radius" else "up")
