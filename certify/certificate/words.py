"""What is claimed, in words: every sentence about a claim stands here, once, for terminal, summary, page and figure.

A sentence is dressed by a `Style`: plain text, the markup of a terminal or that of a page. It says the same in each, and
rounds the same (`certify._text`): what is printed follows from what is on record. The file is long since it is all of
them: to know what is said, or to say it better, read one file.

**The concept-removal distance** D is what bounds are compared with: how far apart are the plain encodings of a prompt and of
the same prompt without its most relevant word. A bound of a squared distance is compared with D², one of a distance with D.
Above it a bound is *vacuous*: true, and saying little.

**Covered and suppressed** are two facts (THEORY T9). A token is *fully covered* where the radius covers every other token of
the vocabulary in its place: a fact about embeddings, which no draw enters. It is *suppressed* where besides the bound C of the
squared distance is small: whatever stands there, two smoothed encodings are at most 2√C apart. `SUPPRESSED` says how small.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from certify import _text
from certify._text import EVENT_RHOS, shown, spelled

if TYPE_CHECKING:
    from certify.bounds.classification import Classification
    from certify.certificate import Certificate, CheckReport, Claim, Verdict
    from certify.statements.decision import Decision

__all__ = ["NOT_COVERED", "PAGE", "PLAIN", "SUPPRESSED", "Style", "sentence"]

_LISTED = 12  # tokens of a level

SUPPRESSED = 0.5
"""A fully covered token is suppressed where 2√C is at most so many concept-removal distances: well below one."""

NOT_COVERED = {
    "frozen": (
        "Σ is fixed: the claim is about the smoother with this Σ for every input in the ellipsoid. It does not cover a "
        "smoother that computes Σ anew from the perturbed prompt."
    ),
    "noise-then-adapt": (
        "The claim is about the adaptive smoother itself, in the norm of its first noise: it does not cover prompts with "
        "another number of tokens or other word boundaries, nor perturbations as large as the noise that is added later."
    ),
    "memory": (
        "The claim holds from the moment its region was stored: it does not cover a deployment that answers without this "
        "memory, nor one whose memory an attacker can add regions to (a small Σ can be planted)."
    ),
    "levels": (
        "The claim is about the adaptive smoother as deployed, at every prompt of the same number of tokens that gets this "
        "very Σ and lies within the radius. It does not cover a prompt with a word of another level, which has a certificate "
        "of its own, nor embeddings that are no prompt, nor a deployment with another table of levels."
    ),
}
"""What each covariance policy does not cover, in one sentence (THEORY T7)."""

_KINDS = {
    "mse": ("smoothed ", "squared distance "),
    "radius": ("radius of the smoothed ", ""),
    "percentile": ("percentiles of ", ""),
    "deployed": ("deployed ", "distance "),
    "statistic": ("", ""),
    "mean": ("", "mean "),
    "event": ("", "probability "),
    "class": ("class of ", ""),
}
"""What a claim is about, in front of its function's name, and what its value is."""


class Style:
    """How sentences are dressed: this one not at all."""

    def name(self, text: Any) -> str:
        """Words of others: a prompt, a token, the name of a function, a reason."""
        return str(text)

    def strong(self, text: str, mood: str = "") -> str:
        """What the sentence is about; `mood`: "good" or "bad"."""
        return text

    def soft(self, text: str) -> str:
        """What may be passed over."""
        return text

    def number(self, value: Any, way: str, digits: int = 6) -> str:
        """As `certify._text.shown`."""
        return self.exactly(value, shown(_real(value), way, digits))

    def percent(self, value: Any, way: str) -> str:
        """As `certify._text.percent`."""
        return self.exactly(value, _text.percent(_real(value), way))

    def confidence(self, alpha: float) -> str:
        """As `certify._text.confidence`."""
        return self.exactly(1 - alpha, _text.confidence(alpha))

    def failure(self, alpha: float) -> str:
        """As `certify._text.failure`."""
        return self.exactly(alpha, _text.failure(alpha))

    def exactly(self, value: Any, text: str) -> str:
        """A number as it is shown, with what it is rounded from."""
        return text


class _Page(Style):
    """For pages: escaped, and with the exact value of each number for machines."""

    def name(self, text: Any) -> str:
        return _text.escaped(text)

    def strong(self, text: str, mood: str = "") -> str:
        return f'<span class="bad">{text}</span>' if mood == "bad" else f"<strong>{text}</strong>"

    def exactly(self, value: Any, text: str) -> str:
        return f'<data value="{float(value)!r}">{text}</data>'


PLAIN, PAGE = Style(), _Page()


def _real(value: Any) -> float:
    """A number of a record, which may hold anything."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
        raise ValueError(f"{value!r}: must be a number")
    return float(value)


def count(value: Any) -> str:
    """A whole number of a record, with its thousands apart."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{value!r}: must be a whole number")
    return f"{value:,}"


def copies(replicas: int | None) -> str:
    """So many noisy copies."""
    return f"{replicas or 1:,} noisy cop{'y' if replicas in (None, 1) else 'ies'}"


def with_article(function: str) -> str:
    """A function's name or a clause about an event, after "that" or at the start: "the alarm rings", "a filter fires"."""
    return _lower(function) if _ARTICLE.match(function) else f"the {function}"


def without_article(function: str) -> str:
    """A function's name after an adjective."""
    return _ARTICLE.sub("", function, count=1)


_ARTICLE = re.compile(r"(?:the|an?)\s+(?=\S)", re.IGNORECASE)


# One claim


def sentence(claim: Claim, style: Style = PLAIN, size: str = "‖δ‖_Σ") -> str:
    """A claim in words, its confidence left out.

    Args:
        claim: the claim.
        style: how it is dressed.
        size: what its noise measures perturbations by.
    """
    if claim.status == "abstained":
        return f"{style.strong('No claim', 'bad')} ({named(claim, style)}): {style.name(claim.reason)}."
    return f"{_under(claim.rho, style, size)}, {_body(claim, style)}.{_but(claim, style)}"


def with_confidence(claim: Claim, style: Style = PLAIN, size: str = "‖δ‖_Σ") -> str:
    """A claim in words, with its own confidence, draws and proof."""
    if claim.status == "abstained":
        return sentence(claim, style, size)
    sure = f"with confidence {style.confidence(claim.alpha)} over n = {claim.n:,} draws ({style.name(proof(claim))})"
    return f"{_under(claim.rho, style, size)}, {_body(claim, style)}, {sure}.{_but(claim, style)}"


def _but(claim: Claim, style: Style) -> str:
    """What a reader of a certified claim must know besides."""
    return f" But {style.name(claim.reason)}." if claim.reason else ""


def _under(rho: float, style: Style, size: str = "‖δ‖_Σ") -> str:
    return f"For every perturbation δ with {size} ≤ {style.number(rho, 'down')}"


def _body(claim: Claim, style: Style) -> str:
    function, often = style.name(without_article(claim.function)), ""
    if claim.q is not None:
        often = f" with probability at least {style.number(claim.q, 'down')} over its own noise"
    match claim.quantity:
        case "mse" | "radius":
            within = claim.tolerance if claim.quantity == "radius" else claim.value
            return (
                f"the {style.name(claim.smoother)}-smoothed {function} stays within squared distance "
                f"{style.strong(style.number(within, 'up'))} of {reference(claim)}"
            )
        case "deployed":
            return (
                f"the deployed {function}, the {style.name(claim.smoother)} over {copies(claim.replicas)}, is within distance "
                f"{style.strong(style.number(claim.value, 'up'))} of {reference(claim)}{often}"
            )
        case "statistic" | "event" | "mean":
            probability = "the mean of " if claim.quantity == "mean" else ""
            if is_probability(claim):
                probability = "the probability that "
            what = f"{probability}{style.name(with_article(claim.function))}"
            return f"{what}, with {copies(claim.replicas)}, is {limits(claim, style)}{often}"
        case "class":
            given = style.strong(f"class {claim.numbers['label']}", "good")
            return f"{style.name(with_article(claim.function))} gives more than half of all noisy copies {given}"
    return (
        f"each of the {claim.outputs:,} percentile-smoothed outputs (p = {style.number(claim.p, 'exact')}) of {function} stays "
        "inside its interval, all of them jointly"
    )


def is_probability(claim: Claim) -> bool:
    """Whether its value is the probability of an event."""
    return claim.quantity == "event" or (claim.quantity == "mean" and claim.unit == "probability")


def reference(claim: Claim) -> str:
    """What a claim's distance is measured to."""
    return "the smoothed value at the input itself" if claim.reference == "population" else "its reference"


def limits(claim: Claim, style: Style = PLAIN) -> str:
    """On which side of what the value is: "at most 3", "between 25 % and 50 %"."""
    show = style.percent if is_probability(claim) else style.number
    if claim.side == "two-sided":
        return style.strong(f"between {show(claim.lower, 'down')} and {show(claim.value, 'up')}")
    if claim.side == "lower":
        return style.strong(f"at least {show(claim.value, 'down')}")
    return style.strong(f"at most {show(claim.value, 'up')}")


def value(claim: Claim, style: Style = PLAIN) -> str:
    """A claim's value, for the cell of a table."""
    if claim.status == "abstained":
        return "none"
    if claim.quantity == "percentile":
        return "an interval each"
    if claim.quantity == "radius":
        return f"at least {style.number(claim.value, 'down')}"
    if claim.quantity == "class":
        return f"class {claim.numbers['label']}"
    what = _KINDS["event" if is_probability(claim) else claim.quantity][1]
    return f"{what}{limits(claim, style)}"


def named(claim: Claim, style: Style = PLAIN) -> str:
    """Which claim it is, among the others of its certificate."""
    on_curve = ", on the curve" if claim.scope in ("simultaneous", "pointwise") else ""
    adjective = _KINDS[claim.quantity][0]
    function = without_article(claim.function) if adjective.endswith("ed ") else claim.function
    return f"{adjective}{style.name(function)}{on_curve}"


def details(claim: Claim, style: Style = PLAIN) -> str:
    """Of which object exactly the claim speaks, in a few words each."""
    found = [claim.scope] if claim.scope != "single" else []
    if claim.outputs > 1:
        found.append(f"{claim.outputs:,} outputs")
    if claim.smoother not in ("none", "percentile"):
        over = "all noise" if claim.replicas is None else copies(claim.replicas)
        found.append(f"{style.name(claim.smoother)} over {over}")
    elif claim.replicas is not None:
        found.append(copies(claim.replicas))
    if claim.tolerance is not None:
        found.append(f"within squared distance {style.number(claim.tolerance, 'up')}")
    if claim.reference == "population":
        found.append(f"from {reference(claim)}")
    return ", ".join(found)


def proof(claim: Any) -> str:
    """Theorem and method."""
    return f"{claim.theorem}, {claim.method}"


# Several claims


def together(simultaneous: bool, alpha: float, n: int, radii: int, style: Style = PLAIN) -> str:
    """How the points of a curve hold."""
    how = f"All {radii} radii hold at once" if simultaneous else "Each radius holds by itself, not all at once"
    return f"{how}, with confidence {style.confidence(alpha)} over n = {n:,} draws."


def beside(certificate: Certificate, style: Style = PLAIN) -> str:
    """Why a curve has another number at the radius of a claim that stands by itself; "" where it has none."""
    curve, main = certificate.curve, certificate.main
    if curve is None or main.quantity != "mse" or main.scope != "single":
        return ""
    other = next((p for p in curve.points if p.rho == main.rho and p.value != main.value), None)
    if other is None:
        return ""
    return (
        f"At ρ = {style.number(main.rho, 'exact')} the curve is not the claim above, which holds by itself: it has "
        f"another part of α, {style.failure(other.alpha)} a point in place of {style.failure(main.alpha)}."
    )


def all_claims(certificate: Certificate, style: Style = PLAIN) -> str:
    """How sure all claims of a certificate are."""
    return f"All claims together hold with confidence {style.confidence(certificate.alpha)}"


def draws(certificate: Certificate, style: Style = PLAIN) -> str:
    """How sure all claims are, what was drawn for them, and what their distances are measured to."""
    of = {"event": "images", "statistic": "values of each statistic", "class": "noisy copies"}

    def what(claim: Claim) -> str:
        if claim.quantity == "mean":
            return f"draws of noisy copies{_each(claim.numbers.get('repeats'))}"
        return of.get(claim.quantity, f"{style.name(claim.function)}s")

    drawn = dict.fromkeys(f"n = {c.n:,} {what(c)}" for c in certificate.claims)
    record = certificate.provenance
    return (
        f"{all_claims(certificate, style)}; draws (seed {count(record['seed'])}): {', '.join(drawn)}.\n"
        f"{style.strong('Distances')} are ℓ2, sums over outputs. The {style.strong('reference')} is the smoothed value of "
        f"{count(record['pilot'])} separate pilot draws."
    )


def _each(repeats: Any) -> str:
    """How many values of one draw of the copies there are."""
    return f", {count(repeats)} values each" if repeats is not None and repeats != 1 else ""


def sharing(what: str) -> str:
    """What the deployed noisy copies have in common, "sigma" or "input", and ideal ones have not."""
    return (
        "Ideal smoothed values are those of draws that share nothing; the deployed ones share "
        f"{'σ' if what == 'sigma' else 'one noisy copy of the prompt'}."
    )


def not_covered(policy: str, *, of_prompt: bool, images: bool, deployed: bool) -> list[str]:
    """What claims do not cover: a sentence, and then in a few words each what they do not cover either.

    Args:
        policy: of the covariance.
        of_prompt, images, deployed: whether the claims are about a prompt, its images, what is deployed.
    """
    items = [NOT_COVERED[policy], "perturbations larger than the radius"]
    if of_prompt:
        items.append("prompts with another number of tokens, and positions without noise (begin, end, padding)")
        if not images:
            items.append("the image: the claims are about what it is made from")
    if deployed:
        items.append("a deployment whose noise is not fresh in every run, or not secret")
    else:
        items.append("the few noisy copies that are deployed in place of the ideal smoother")
    items.append("whether the output is harmless to begin with: they say how far it can be moved, not where it is")
    return items


NOT_COVERED_BY_CLASSES = (
    "The claims are about the smoothed classifier: the class that more than half of all noisy copies of an input are given.",
    "a vote of few noisy copies, which may err",
    "perturbations larger than the radius",
    "whether the class is right, which the labels alone say",
)
"""As `not_covered`, of a run over the inputs of a classifier."""


def left_out(certificate: Certificate) -> list[str]:
    """As `not_covered`, of a certificate."""
    claims = certificate.claims
    return not_covered(
        claims[0].policy,
        of_prompt="smoother" in certificate.provenance,
        images=any(is_probability(c) for c in claims),
        deployed=any(c.replicas is not None for c in claims),
    )


def indistinguishable(certificate: Certificate, style: Style = PLAIN) -> str:
    """What no detector and no eye could tell, whatever it looks at (T15); "" where nothing is said of what is deployed."""
    found = certificate.indistinguishability
    if found is None:
        return ""
    of_prompt = "smoother" in certificate.provenance
    one, any_other = (
        ("an image of this prompt", "one of any prompt") if of_prompt else ("this output", "that of any input")
    )
    return (
        f"No detector, and no eye, tells {one} from {any_other} within ‖δ‖_Σ ≤ {style.number(found.rho, 'down')} with an "
        f"advantage of more than {style.strong(style.percent(found.total_variation, 'up'))}: no event’s probability differs "
        f"by more (T15, {copies(found.replicas)}; for M fresh draws of them together √M ρ in place of ρ)."
    )


# Against the concept-removal distance


def removal(record: Mapping[str, Any] | None) -> float | None:
    """The squared concept-removal distance on record; None: there is none."""
    return max(_real(record["distance"]), 0.0) if record else None


def removed(record: Mapping[str, Any], style: Style = PLAIN, mention: Any = None) -> str:
    """What a bound is to be compared with, and of what it is the distance if `mention` says that no concept is named."""
    distance = _real(record["distance"])
    word = f"“{style.name(record['word'])}”" if record.get("word") else "its most relevant word"
    otherwise = ""
    if isinstance(mention, Mapping) and not mention.get("named", True):
        concept = style.name(mention.get("concept"))
        otherwise = (
            f" Since “{concept}” does not seem to be named, that is the distance without the prompt’s most relevant word, not "
            "without the concept."
        )
    return (
        f"Concept-removal distance D: without {word} the plain encoding is "
        f"{style.number(math.sqrt(max(distance, 0.0)), 'near')} away, squared {style.number(distance, 'near')}. A bound above "
        f"it is vacuous: true, and saying little.{otherwise}"
    )


def ratio(bound: float, distance: float) -> float:
    """A bound in units of what it is compared with."""
    return bound / distance if distance > 0 else math.inf if bound > 0 else 0.0


def against(bound: float, distance: float, style: Style = PLAIN, *, squared: bool = True) -> str:
    """A bound in units of the concept-removal distance, `squared` or not, that of the same kind."""
    share = ratio(bound, distance)
    said = f"{style.number(share, 'up', 3)} × the {'squared ' if squared else ''}concept-removal distance"
    return f"{style.strong('vacuous', 'bad')}: {said}" if share > 1 else style.strong(said, "good")


def vacuous(bound: float, distance: float | None, style: Style = PLAIN) -> str:
    """The word, where it applies."""
    return style.strong("vacuous", "bad") if distance is not None and ratio(bound, distance) > 1 else ""


def compared(certificate: Certificate, claim: Claim, style: Style = PLAIN) -> str:
    """What the bound of a distance is worth; "" for other claims, and where there is nothing to compare."""
    record, squared, of = certificate.provenance, claim.quantity == "mse", ""
    if claim.function in ("text encoding", "deployed distance") and claim.quantity in ("mse", "deployed", "statistic"):
        distance = removal(record.get("yardstick"))
        distance = distance if squared or distance is None else math.sqrt(distance)
    elif claim.function in ("noise prediction", "noise-prediction distance"):
        distance, squared, of = record.get("noise_prediction_yardstick"), True, " of noise predictions"
    else:
        return ""
    if distance is None or claim.status == "abstained":
        return ""
    return f"The bound is {against(_real(claim.value), _real(distance), style, squared=squared)}{of}."


def stated(certificate: Certificate, claim: Claim, style: Style = PLAIN) -> str:
    """A claim with its proof, and what its bound is worth."""
    said = sentence(claim, style)
    if claim.status == "certified":
        said = f"{said.removesuffix('.')} {style.soft(f'({style.name(proof(claim))})')}."
    return f"{said} {compared(certificate, claim, style)}".rstrip()


def without_defence(certificate: Certificate, style: Style = PLAIN) -> list[str]:
    """What noise predictions and the concept score are without the defence."""
    record, said = certificate.provenance, []
    if (distance := record.get("noise_prediction_yardstick")) is not None:
        named = (record.get("concept_in_prompt") or {}).get("named", True)
        word = "the concept's word" if named else "the prompt's most relevant word"
        change = style.number(distance, "near", 4)
        points = len(certificate.tensors.get("trajectory.t", ()))
        over = f" (mean over {points} points of the sampler's trajectory)" if points else ""
        said.append(f"Without {word} the prediction changes by {change}, squared{over}.")
    if (plain := record.get("concept_score_plain")) is not None:
        said.append(f"The prompt's plain encoding has the concept score {style.number(plain, 'near', 3)}.")
    return said


# Covered prompts, covered tokens


def coverage(certificate: Certificate) -> Suppression:
    """What the certificate's bound says about fully covered tokens."""
    positions = certificate.provenance.get("coverage") or ()
    rho = max((_real(p["rho"]) for p in positions), default=0.0)
    bounds = [
        _real(c.value)
        for c in certificate.claims
        if c.quantity == "mse" and c.function == "text encoding" and c.status == "certified" and c.rho >= rho
    ]
    return Suppression(min(bounds, default=None), removal(certificate.provenance.get("yardstick")))


class Suppression:
    """Whether a fully covered token is suppressed, too.

    Args:
        bound: of the squared distance, at the radius of the coverage or a larger one; None: there is none.
        distance: the squared concept-removal distance; None: not known.
    """

    def __init__(self, bound: float | None, distance: float | None) -> None:
        self.apart = None if bound is None else 2 * math.sqrt(bound)
        self.removal = None if distance is None else math.sqrt(distance)

    @property
    def holds(self) -> bool:
        """Whether it is."""
        return self.apart is not None and bool(self.removal) and ratio(self.apart, self.removal or 0.0) <= SUPPRESSED

    def sentence(self, style: Style = PLAIN, stands: str = "whatever stands there") -> str:
        """What follows for a fully covered token; `stands`: what the claims hold for there."""
        if self.apart is None or self.removal is None:
            return "Whether that suppresses it depends on a bound, and no bound is certified."
        distance = f"{style.number(ratio(self.apart, self.removal), 'up', 3)} × the concept-removal distance"
        if self.holds:
            return (
                f"It is {style.strong('suppressed', 'good')}: {stands}, two smoothed encodings are at most "
                f"{distance} apart."
            )
        return (
            f"That does not show it to be suppressed: by the bound two smoothed encodings may be {distance} apart, and "
            f"suppressed is what keeps within {style.number(SUPPRESSED, 'exact')} ×."
        )


def of_encoders(record: Mapping[str, Any], style: Style = PLAIN) -> list[str]:
    """What a joint certificate has on record of its text encoders: the allocation (T16), and covered words (T9)."""
    shared, said = record.get("allocation"), []
    if shared:
        each = ", ".join(style.number(_real(r), "near", 3) for r in shared["radii"])
        said.append(
            f"A radius is shared out over {count(len(shared['radii']))} text encoders: within ‖δ‖_Σ ≤ "
            f"{style.number(_real(shared['rho']), 'down')} in all of them together, the squared distance is at most "
            f"{style.strong(style.number(_real(shared['distance']), 'up'))} (T16; the worst way to share it is {each}). "
            f"In each to the full it would be {style.number(_real(shared['full']), 'up')}."
        )
    found = record.get("covered_words") or []
    covered = [w for w in found if w["covered"]]
    for i, word in enumerate(covered):
        name = style.name(word["word"]) if "word" in word else f"word {count(i + 1)}"
        many = f"{count(word['covered'])} of {count(word['comparable'])} words that are one token in every tokenizer"
        said.append(
            f"In the place of “{name}” {'all' if word['fully_covered'] else ''} {many} are covered.".replace("  ", " ")
        )
    if found and not covered:
        near = [(w["nearest"][0]["distance"], w.get("word", "a word")) for w in found if w.get("nearest")]
        near = [pair for pair in near if pair[0] is not None]
        at = (
            f" The nearest begins at ρ = {style.number(min(near)[0], 'up', 4)}, at “{style.name(min(near)[1])}”."
            if near
            else ""
        )
        said.append(f"No substitution of one word by another is covered: a word costs the sum over encoders.{at}")
    return said


def covered_token(token: str, covered: int, comparable: int, style: Style = PLAIN) -> str:
    """What a radius covers at one token."""
    if 0 < comparable == covered:
        fully = style.strong("every token is covered here")
        return f"At “{style.name(token)}” {fully}: any of the other {count(comparable)} may stand in its place."
    if covered:
        return f"At “{style.name(token)}” {count(covered)} of {count(comparable)} tokens are covered."
    return f"At “{style.name(token)}” no substitution is covered."


def of_level(token: str, p: Mapping[str, Any], replicas: Any, style: Style = PLAIN) -> list[str]:
    """Which tokens of its level may stand in the place of one, for the smoother as deployed (THEORY T17).

    Args:
        token: what stands there.
        p: the coverage on record.
        replicas: K of the smoother; None: not known, and nothing is said about what may be told apart.
        style: how it is dressed.
    """
    others, covered, rho = p["comparable"], p["covered"], _real(p["rho"])
    names = [f"“{style.name(spelled(m['token']))}”" for m in p.get("members") or ()]
    listed = f": {', '.join(names[:_LISTED])}{', …' if others > _LISTED else ''}" if names else ""
    there = f"On the level of “{style.name(token)}” {'is' if others == 1 else 'are'} {count(others)} other"
    there += f" token{'' if others == 1 else 's'}{listed}."
    if p.get("farthest") is not None:
        all_of_them = "it" if others == 1 else "all of them"
        there += f" ρ = {style.number(p['farthest'], 'up', 4)} covers {all_of_them}; this is ρ = {style.number(rho, 'down')}."
    said = [there]
    if covered:
        which = f"these {count(covered + 1)}" if covered == others else f"the {count(covered + 1)} nearest of these"
        said.append(
            f"{style.strong(f'Whichever of {which} tokens stands there', 'good')}, the claims at ρ = "
            f"{style.number(rho, 'down')} hold for the smoother {style.strong('as deployed')}{_alike(rho, replicas, style)}."
        )
    leaving = [f"“{style.name(spelled(u['token']))}”" for u in (p.get("leaving") or ())[:3]]
    if leaving:
        said.append(
            f"The nearest tokens of other levels are {', '.join(leaving)}: not covered as deployed at any ρ. A prompt with one "
            "of them has a certificate of its own."
        )
    return said


def _alike(rho: float, replicas: int | None, style: Style) -> str:
    """What nobody can tell apart within ρ (T15), after a statement about the smoother as deployed (T17)."""
    if replicas is None:
        return " (T17)"
    from certify.bounds.indistinguishability import indistinguishability  # loads what is not light

    most = style.number(indistinguishability(rho=rho, replicas=replicas).total_variation, "up", 3)
    return (
        f", and no event’s probability, whoever looks, differs by more than {most} from what it is for this prompt "
        f"({copies(replicas)}; T17, T15)"
    )


def reached(token: Any, distance: Any, style: Style = PLAIN) -> str:
    """A token of the vocabulary, and the radius from which on it is covered."""
    at = "at no ρ" if distance is None else f"from ρ = {style.number(distance, 'up', 4)} on"
    return f"“{style.name(spelled(token))}” {at}"


def next_tokens(uncovered: Sequence[Mapping[str, Any]] | None, style: Style = PLAIN) -> str:
    """Tokens that a larger radius covers."""
    near = [reached(u["token"], u["distance"], style) for u in (uncovered or ())[:3]]
    return f"Next: {', '.join(near)}." if near else ""


def none_covered(tokens: int, nearest: Sequence[tuple[Mapping[str, Any], str]], style: Style = PLAIN) -> str:
    """Of several tokens of which none may be replaced; `nearest`: for those where it is known, and the token in whose place."""
    said = f"At {tokens} other token{'s' if tokens > 1 else ''} no substitution is covered"
    if nearest:
        near, name = min(nearest, key=lambda pair: pair[0]["distance"])
        said += f"; nearest: {reached(near['token'], near['distance'], style)}, in place of “{style.name(name)}”"
    return f"{said}."


def level_set(record: Mapping[str, Any], not_enumerated: int, style: Style = PLAIN) -> str:
    """How many prompts are covered as deployed; `not_enumerated`: tokens at which none were looked for."""
    many = _real(record["prompts"])
    said = f"As deployed at least {count(record['prompts'])} other prompt{'' if many == 1 else 's'} of this length are covered"
    said = said.replace("are covered", "is covered") if many == 1 else said
    said += (
        ", several tokens replaced at once included."
        if many
        else ": none was found among those that can be enumerated."
    )
    if record.get("everywhere") is not None:
        everywhere = style.number(record["everywhere"], "up", 4)
        said += f" Every token of its level at every position at once is covered from ρ = {everywhere} on."
    if not_enumerated:
        said += (
            f" At {not_enumerated} token{'' if not_enumerated == 1 else 's'}, of words of several tokens or by global "
            "relevance, nothing is enumerated: whether a given prompt is covered, a list of attack prompts tells."
        )
    return said


def covered_prompts(prompts: Sequence[Mapping[str, Any]]) -> str:
    """How many of the attack prompts that were given are covered."""
    inside = sum(bool(p["covered"]) for p in prompts)
    return f"Of {len(prompts):,} attack prompts given {inside:,} {'is' if inside == 1 else 'are'} covered."


def covered_prompt(record: Mapping[str, Any], style: Style = PLAIN) -> str:
    """Whether another prompt is covered, from which radius on, or why not."""
    distance, dropped = record.get("distance"), record.get("dropped")
    if record["covered"]:
        said = "covered" + ("" if distance is None else f", ‖δ‖_Σ at most {style.number(distance, 'up', 4)}")
    else:
        said = f"not covered: {style.name(record.get('reason'))}"
    cut = f" (its last {count(dropped)} tokens are cut off)" if dropped else ""
    return f"“{style.name(record['prompt'])}” is {said}{cut}"


def truncation(tokens: int, kept: int) -> str:
    """What is read of a prompt that did not fit into the context, in words.

    >>> truncation(85, 77)[:74]
    'The prompt has 85 tokens, begin and end included, and 77 fit: the last 8 b'
    """
    return (
        f"The prompt has {tokens:,} tokens, begin and end included, and {kept:,} fit: the last {tokens - kept:,} before the "
        "end are cut off, as by the plain pipeline, and nothing is said about them."
    )


# Events


def observed(event: Any, style: Style = PLAIN) -> str:
    """What the bound of an event rests on."""
    half = event.radius(0.5)
    below = (
        f"It stays below one half up to ρ = {style.number(half, 'down', 4)}."
        if half > 0
        else "It is not below one half at any ρ."
    )
    return f"{below} {capital(behind(event))} All radii hold at once, with confidence {style.confidence(event.alpha)}."


def behind(event: Any) -> str:
    """What was drawn for the bound of a probability, and seen: of each draw of the copies once (T5) or several times (T14)."""
    if (repeats := getattr(event, "repeats", None)) is not None:
        return f"from {event.n:,} draws without perturbation, {copies(event.replicas)} each{_each(repeats)}"
    return f"seen in {event.successes:,} of {event.n:,} draws without perturbation, {copies(event.replicas)} each"


def votes(result: Classification) -> str:
    """What the class of an input rests on."""
    return (
        f"class {result.candidate}, chosen on {result.n0:,} pilot draws, in {result.successes:,} of {result.n:,} draws"
    )


def rates(event: Any, rho: float, style: Style = PLAIN) -> list[tuple[str, str]]:
    """An event's bound at several radii: ρ, and what the probability is at most."""
    return [(style.number(r, "exact"), probability(event.at(r), style)) for r in sorted({*EVENT_RHOS, rho})]


def probability(most: float, style: Style = PLAIN) -> str:
    """An upper bound of a probability."""
    return style.percent(most, "up") if most < 1 else "no bound"


def measured(record: Mapping[str, Any], style: Style = PLAIN) -> list[str]:
    """Rates that were measured beside the certified one."""
    said = []
    for name, what in (
        ("undefended", "Without the defence"),
        ("without_word", "The prompt without its most relevant word"),
    ):
        rate = record.get(name)
        if rate:
            said.append(
                f"{what}, measured and not certified: {style.percent(rate['rate'], 'near')} ({count(rate['successes'])} of "
                f"{count(rate['n'])} images)."
            )
    return said


# Questions


def question(decision: Decision, style: Style = PLAIN) -> str:
    """What a decision answers."""
    name = style.name(with_article(decision.run.function))
    if decision.quantity in ("event", "mean"):
        what = f"{name} with probability at most {style.percent(decision.limit, 'exact')}"
    elif decision.quantity == "statistic":
        what = f"{name} keeps to its threshold with probability at least {style.number(decision.q, 'exact')}"
    else:
        limit = style.number(decision.limit, "exact")
        function = style.name(without_article(decision.run.function))
        what = f"the {decision.smoother}-smoothed {function} stays within squared distance {limit} of its reference"
    return (
        f"Can the {_bound(decision)} certify that {what}, for every perturbation δ with {decision.run.noise.size} ≤ "
        f"{style.number(decision.rho, 'exact')}?"
    )


def _bound(decision: Decision) -> str:
    """What a decision is about: a bound, never the truth."""
    if decision.quantity == "mse":
        kind = {"coordinatewise": "coordinate-wise"}.get(decision.method, decision.method)
        return f"{kind} bound ({decision.theorem})"
    return f"bound over {copies(decision.replicas)} ({decision.theorem})"


def caveat(decision: Decision, style: Style = PLAIN) -> str:
    """What a "no" does not say; of another answer nothing."""
    if decision.decided != "no":
        return ""
    if decision.quantity in ("event", "mean"):
        what = f"a perturbation takes the probability above {style.percent(decision.limit, 'exact')}"
    elif decision.quantity == "statistic":
        what = "a perturbation takes it beyond its threshold more often than that"
    else:
        what = f"a perturbation moves the smoothed {style.name(without_article(decision.run.function))} further"
    return f"This “no” is about the bound: it does not mean that {what}."


def tally(decision: Decision) -> str:
    """How often the event was seen until it was decided; draws that its batch has besides do not count."""
    first = "first " if decision.n < decision.drawn else ""
    decided = ", which decide it" if decision.decided != "undecided" else ""
    times = f"{decision.successes:,} time{'' if decision.successes == 1 else 's'}"
    return f"{times} in the {first}{decision.n:,} draws without perturbation{decided}"


def effort(decision: Decision, style: Style = PLAIN) -> str:
    """How many draws a decision took, and how sure it is."""
    return (
        f"{drawn(decision, style)} ({style.name(proof(decision))}). Confidence {style.confidence(decision.alpha)}, wherever "
        "drawing ended."
    )


def drawn(decision: Decision, style: Style = PLAIN) -> str:
    """How many draws a decision took, of how many."""
    saved = style.percent(decision.saved / decision.maximum, "down")
    each = f", each of {decision.repeats} values" if decision.repeats > 1 else ""
    pilot = f", besides {decision.pilot_values:,} values of pilot draws" if decision.pilot_values else ""
    return f"{decision.drawn:,} draws of at most {decision.maximum:,}{each}: {saved} saved{pilot}"


def capital(text: str) -> str:
    """With a capital, unless it begins with the name of a number, and a full stop."""
    first = text[:1] if text[1:2] == " " and not text.startswith("a ") else text[:1].upper()
    return f"{first}{text[1:]}{'' if text.endswith('.') else '.'}"


# Checks, and runs over many prompts


def outcome(report: CheckReport, style: Style = PLAIN, different: int = 0) -> str:
    """What a check found: what the record says against itself, and what draws say against it.

    Args:
        report: the check.
        style: how it is dressed.
        different: statements on record that are not the model's.
    """
    wrong = sum(v.outcome == "refuted" and v.p_value is None for v in report.verdicts)
    tested = sum(v.p_value is not None for v in report.verdicts)
    refuted = sum(v.outcome == "refuted" and v.p_value is not None for v in report.verdicts)
    if not wrong and not tested and not different:
        return f"{style.strong('Nothing was tested')}: that is no proof."
    said = []
    if different:
        many = "statement on record is" if different == 1 else "statements on record are"
        said.append(f"{count(different)} {many} not the model’s.")
    if wrong:
        which = "The one claim" if wrong + tested == 1 else f"{wrong:,} of the {wrong + tested:,} claims"
        one = wrong == 1
        said.append(
            f"{which} contradict{'s' if one else ''} {'its' if one else 'their'} own record, without any draw: what "
            f"{'it states' if one else 'they state'} does not follow from {'its' if one else 'their'} evidence."
        )
    if tested:
        all_together = f"at level {style.number(report.level, 'exact')}{_over(wrong + tested)}"
        said.append(f"{_by_draws(report.n, refuted, tested, 'other ' if wrong else '')}, {all_together}.")
    if wrong or refuted or different:
        return f"{style.strong('Refuted', 'bad')}: {_lower(said[0])} {' '.join(said[1:])}".rstrip()
    return f"{style.strong('Not refuted')}: {said[0]} Not refuted is no proof."


def _by_draws(n: int, refuted: int, tested: int, other: str) -> str:
    """How many of the tested claims fresh draws refute."""
    draws, verb = f"{n:,} fresh draw{'' if n == 1 else 's'}", "refutes" if n == 1 else "refute"
    if tested == 1:
        verb = verb if refuted else f"{'does' if n == 1 else 'do'} not refute"
        return f"{draws} {verb} the {other or 'one '}claim that was tested"
    return f"{draws} {verb} {f'{refuted:,}' if refuted else 'none'} of the {other}{tested:,} claims that were tested"


def _over(claims: int) -> str:
    return " over all of them together" if claims > 1 else ""


def _lower(text: str) -> str:
    return f"{text[:1].lower()}{text[1:]}"


def refuted(report: CheckReport, style: Style = PLAIN) -> list[str]:
    """Which claims are refuted, and by what."""
    wrong = [v for v in report.verdicts if v.outcome == "refuted"]
    return [f"{named(v.claim, style)}: {style.name(v.detail)}" for v in wrong]


def p_value(verdict: Verdict, style: Style = PLAIN) -> str:
    """Of a test; where none was made, nothing."""
    return "" if verdict.p_value is None else style.number(verdict.p_value, "up", 3)


def tolerance(within: float | None, style: Style = PLAIN) -> str:
    """What the radii of a run over many prompts keep to."""
    if within is None:
        return "each prompt’s squared concept-removal distance"
    return f"squared distance {style.number(within, 'up')}"


def each_prompt(alpha: float, wrong: float, style: Style = PLAIN, *, what: str = "prompt") -> str:
    """How sure the certificates of many prompts are, or the answers about many of `what`."""
    return (
        f"Each {what}’s certificate holds by itself with confidence {style.confidence(alpha)}, not all at once: at most "
        f"{style.number(wrong, 'up', 3)} of them are expected to be wrong."
    )
