"""Summaries of certified sets, supports, prompts and tokens."""

from __future__ import annotations

from typing import Any

from certify._records import brief
from certify._text import shown, spelled
from certify.adaptive.coverage import LevelCoverage, LevelSet, Neighbour, PositionCoverage, PromptCoverage
from certify.adaptive.memory import Issued
from certify.adaptive.prompt import ConceptRemoval
from certify.adaptive.token_noise import TokenNoise
from certify.certificate import words
from certify.certificate.tokens import Tokens
from certify.certificate.words import PLAIN, Style
from certify.noise import CrossPolytope, Ellipsoid
from certify.plots.colours import shares
from certify.summaries.summary import Summary, Table, Token, summary
from certify.support import Support

__all__ = ["sizes", "tokens_shown"]


@summary.register(Ellipsoid)
@summary.register(CrossPolytope)
def _of_region(region: Any) -> Summary:
    name = "an ellipsoid" if type(region).__name__ == "Ellipsoid" else "a cross-polytope"
    total = region.semi_axes.numel()
    sentence = (
        f"The certified set {{δ : ‖δ‖ ≤ {shown(region.rho, 'down', 6)}}}, in units of the noise: {name} over "
        f"{region.dimensions:,} of {total:,} coordinates."
    )
    if region.rho == 0:
        sentence = (
            f"Nothing but δ = 0 is certified: ρ = 0, over {region.dimensions:,} of {total:,} coordinates with noise."
        )
    return Summary("certified set", sentence, ("", "quiet"), sizes(region))


def sizes(region: Any) -> list[tuple[str, str]]:
    """The extent of a certified set."""
    axes = region.semi_axes[region.semi_axes > 0]
    balls = ", ".join(
        f"{norm} {shown(ball, 'down', 4)}"
        for norm, ball in (("ℓ1", region.l1_ball), ("ℓ2", region.l2_ball), ("ℓ∞", region.linf_ball))
    )
    facts = [("largest balls inside", balls)]
    if len(axes):
        ends = f"{shown(float(axes.min()), 'down', 4)} … {shown(float(axes.max()), 'down', 4)}"
        facts.append(("semi-axes", f"{ends} along {region.dimensions:,} coordinates with noise"))
        facts.append(("ball of equal volume", f"{shown(region.proxy_radius, 'down', 4)}, an ℓ2 radius"))
    return facts


@summary.register(Support)
def _of_support(support: Any) -> Summary:
    low, high = float(support.lower.min()), float(support.upper.max())
    sentence = f"Every value of the function lies in [{shown(low, 'down', 4)}, {shown(high, 'up', 4)}]"
    facts = [("limits", f"{brief(support.lower)} each; known without a draw")]
    if support.gain is not None:
        width = support.gain.numel()
        sentence += f", and every row of {width:,} in an ellipsoid"
        ends = f"{_near(support.gain.min())} … {_near(support.gain.max())}"
        facts.append(("ellipsoid", f"Σ ((h − β)/γ)² ≤ {width:,} with |γ| in {ends}"))
    return Summary("a-priori support", f"{sentence}.", facts=facts)


@summary.register(ConceptRemoval)
def _of_removal(found: Any) -> Summary:
    return Summary("concept-removal distance", words.removed(vars(found)), ("measured, not certified", "quiet"))


# Prompts and tokens


@summary.register(TokenNoise)
def _of_token_noise(noise: Any) -> Summary:
    places = [i for i, kind in enumerate(noise.kinds) if kind == "word"]
    named, rows = ", ".join(dict.fromkeys(c for c in noise.concept if c)), noise.rows()
    sentence = f"Noise σ for {len(places)} word tokens, by their relevance to {named or 'the concept'}"
    if places:
        most = max(places, key=lambda i: noise.relevance[i] or 0.0)
        sentence += f"; most for “{spelled(noise.tokens[most])}”: {_near(noise.sigma[most])}"
    tints = shares(noise.sigma[: len(rows)], log=True)
    table = Table(("token", "kind", "relevance", "concept", "σ"), rows, (1, 3), tints)
    of = Tokens(noise.tokens, noise.sigma, noise.relevance, noise.kinds, places, None, named, True)
    return Summary("noise of a prompt’s tokens", f"{sentence}.", tokens=tokens_shown(of), tables=[table])


def tokens_shown(tokens: Tokens, style: Style = PLAIN) -> list[Token]:
    """The tokens of a prompt with their noise, in standard deviations of embeddings where these are known, and relevance."""
    tints, found = shares(tokens.sigma, log=True), []
    for i in tokens.shown:
        name, sigma, score = tokens.names[i], tokens.sigma[i], tokens.relevance[i]
        noise = f"σ {style.number(sigma, 'near', 3)}"
        if sigma <= 0:
            noise = "no noise"
        elif tokens.std:
            noise = f"{style.number(sigma / tokens.std, 'near', 2)} ×"
        below = (noise,) if score is None else (noise, style.number(score, "near", 2))
        joined = tokens.named and tokens.kinds[i] == "word" and _goes_on(tokens, i)
        found.append(Token(style.name(spelled(name) or " "), below, tints[i], joined))
    return found


def _goes_on(tokens: Tokens, i: int) -> bool:
    """Whether a word goes on after one of its tokens, by the marks of its vocabulary: CLIP's at the end of a word,
    SentencePiece's or a byte-level one's before it, or BERT's before what continues it."""
    if any(name.endswith("</w>") for name in tokens.names):
        return not tokens.names[i].endswith("</w>")
    if i + 1 == len(tokens.names) or tokens.kinds[i + 1] != "word":
        return False
    following, spaced = tokens.names[i + 1], any(name.startswith(("▁", "Ġ")) for name in tokens.names)
    return not following.startswith(("▁", "Ġ")) if spaced else following.startswith("##")


@summary.register(PositionCoverage)
def _of_position(position: Any) -> Summary:
    sentence = words.covered_token(spelled(position.token), position.covered, position.comparable)
    mark = ("partly covered", "quiet") if position.covered else ("not covered", "bad")
    facts = [("radius ρ", shown(position.rho, "down")), ("noise σ", _near(position.sigma))]
    if position.nearest is not None:
        facts.append(("nearest token", words.reached(position.nearest.token, position.nearest.distance)))
    if position.farthest is not None:
        facts.append(("all are covered at", f"ρ = {shown(position.farthest, 'up', 4)}"))
    if position.uncovered:
        nearest = ", ".join(words.reached(u.token, u.distance) for u in position.uncovered)
        facts.append(("not covered, nearest first", nearest))
    mark = ("fully covered", "good") if position.fully_covered else mark
    return Summary("what a radius covers at one token", sentence, mark, facts)


@summary.register(LevelCoverage)
def _of_level(position: Any) -> Summary:
    if not position.enumerated:
        sentence = f"At “{spelled(position.token)}” nothing is enumerated: its word has several tokens, or relevance is global."
        return Summary("what a radius covers at one token, as deployed", sentence, ("not enumerated", "quiet"))
    mark = ("partly covered", "quiet") if position.covered else ("not covered", "bad")
    mark = ("its level is covered", "good") if position.fully_covered else mark
    facts = [("radius ρ", shown(position.rho, "down")), ("noise σ", _near(position.sigma))]
    sentence = " ".join(words.of_level(spelled(position.token), position.to_dict(), None))
    return Summary("what a radius covers at one token, as deployed", sentence, mark, facts)


@summary.register(LevelSet)
def _of_level_set(found: Any) -> Summary:
    hidden = sum(not position.enumerated for position in found.positions)
    mark = ("covered as deployed", "good") if found.prompts else ("nothing covered", "quiet")
    rows = [
        (
            spelled(p.token),
            f"{p.covered:,}",
            f"{p.comparable:,}",
            "" if p.farthest is None else shown(p.farthest, "up", 4),
        )
        for p in sorted(found.positions, key=lambda p: -p.sigma)  # the words of the concept first
    ]
    table = Table(("token", "covered", "on its level", "all from ρ ="), rows)
    facts = [("radius ρ", shown(found.rho, "down"))]
    return Summary("prompts of one level", words.level_set(found.to_dict(), hidden), mark, facts, tables=[table])


@summary.register(Neighbour)
def _of_neighbour(neighbour: Any) -> Summary:
    return Summary("a token of the vocabulary", f"{words.reached(neighbour.token, neighbour.distance)}.")


@summary.register(PromptCoverage)
def _of_prompt_coverage(found: Any) -> Summary:
    mark = ("covered", "good") if found.covered else ("not covered", "bad")
    return Summary("another prompt", f"{words.covered_prompt(vars(found))}.", mark)


@summary.register(Issued)
def _of_issued(issued: Any) -> Summary:
    if issued.rho == 0:
        sentence = "Nothing may be claimed here: there is no room beside the regions that are stored."
        return Summary("claim of a memory", sentence, (issued.status, "bad"))
    sentence = f"Up to ρ = {shown(issued.rho, 'down', 6)} every query is smoothed with the noise of one region."
    facts = [("radius asked for", f"ρ = {shown(issued.requested, 'exact')}"), ("noise", brief(issued.noise))]
    return Summary("claim of a memory", sentence, (issued.status, "good"), facts)


def _near(value: float) -> str:
    return shown(float(value), "near", 4)
