"""Summaries of what draws give: results, the claims that certificates keep of them, rates, decisions, plans."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from certify._records import brief
from certify._text import confidence, failure, percent, shown
from certify.bounds.allocation import Allocation
from certify.bounds.bounded_mean import MeanBound
from certify.bounds.classification import Classification
from certify.bounds.copies import EventBound, StatisticBound
from certify.bounds.deployed_distance import DeployedBound
from certify.bounds.indistinguishability import Indistinguishability
from certify.bounds.mse import BoundCurve, MSEBound
from certify.bounds.percentile import PercentileBounds
from certify.bounds.radius import CertifiedRadius
from certify.bounds.rates import RateOver
from certify.certificate import Claim, ClaimedCurve, ClaimedEvent, ClaimedMean, words
from certify.images.rates import MeasuredRate
from certify.noise import GaussianNoise
from certify.statements.decision import Decision
from certify.statements.plan import Plan
from certify.summaries.of_prompts import sizes
from certify.summaries.summary import Summary, Table, summary


@summary.register(MSEBound)
@summary.register(DeployedBound)
@summary.register(StatisticBound)
def _of_result(result: Any) -> Summary:
    """Of a bound: its claim, where its draws come from, and what else was considered."""
    claim, run = Claim.of(result), result.run
    pilot = f"; {run.pilot:,} pilot draws before" if run.pilot else ""
    facts = [*_of_bound(claim), ("draws", f"{result.n:,}, seed {run.seed}{pilot}")]
    if considered := getattr(result, "considered", {}):
        what = "radii" if claim.quantity == "radius" else "values"
        listed = ", ".join(f"{name} {shown(float(value), 'near', 4)}" for name, value in considered.items())
        facts.append((f"guessed {what}", f"{listed}; from pilot draws, to choose the method"))
    facts.append(("noise", f"{brief(run.noise)} on {brief(run.y)}"))
    return Summary(
        f"claim: {words.named(claim)}", words.with_confidence(claim, size=run.noise.size), _mark(claim), facts
    )


@summary.register(Claim)
def _of_claim(claim: Any) -> Summary:
    facts = [*_of_bound(claim), ("draws", f"{claim.n:,}"), ("covariance policy", claim.policy)]
    return Summary(f"claim: {words.named(claim)}", claim.sentence, _mark(claim), facts, notes=(claim.not_covered,))


def _mark(claim: Any) -> tuple[str, str]:
    return ("certified", "good") if claim.status == "certified" else ("no claim", "bad")


def _of_bound(claim: Any) -> list[tuple[str, str]]:
    """What is said of every claim, be it one or not."""
    facts = [("value", words.value(claim))] if claim.quantity != "radius" else []
    facts.append(("radius ρ", shown(claim.rho, "down")))
    if claim.q is not None:
        facts.append(("probability q", f"{shown(claim.q, 'down')}, over the deployment noise"))
    if claim.status == "certified":
        early = ", wherever drawing ended" if claim.scope == "stopped early" else ""
        facts.append(("confidence", f"{confidence(claim.alpha)} (α = {failure(claim.alpha)}){early}"))
    facts.append(("proof", words.proof(claim)))
    if about := words.details(claim):
        facts.append(("about", about))
    return facts


@summary.register(PercentileBounds)
def _of_percentiles(result: Any) -> Summary:
    made = _of_result(result)
    low, high = (t.detach().to("cpu", torch.float64).flatten() for t in (result.lower, result.upper))
    known = torch.isfinite(low) & torch.isfinite(high)
    widths, first, tables = (high - low)[known], [], []
    if not bool(known.all()):
        first.append(("without an interval", f"{int((~known).sum()):,} of {len(known):,} outputs"))
    if len(widths):
        ends = f"{shown(float(widths.min()), 'down', 4)} … {shown(float(widths.max()), 'up', 4)}"
        first.append(("width of intervals", ends))
        if len(low) <= 8:
            pairs = zip(low.tolist(), high.tolist(), strict=True)
            rows = [(str(i), shown(a, "down"), shown(b, "up")) for i, (a, b) in enumerate(pairs)]
            tables.append(Table(("output", "at least", "at most"), rows))
    return replace(made, facts=[*first, *made.facts], tables=tables)


@summary.register(CertifiedRadius)
def _of_radius(result: Any) -> Summary:
    made = _of_result(result)
    return made if result.status != "certified" else replace(made, facts=[*made.facts, *sizes(result.ellipsoid)])


@summary.register(MeanBound)
def _of_mean(result: Any) -> Summary:
    made = _of_result(result)
    seen = (
        f"{result.repeats} of each draw of the copies"
        if result.method == "repeats"
        else "of the copies alone, not random"
    )
    rates = [_rates(result, result.rho)] if result.unit == "probability" and result.side != "lower" else []
    facts = [*made.facts, ("values", f"{seen}; {result.won} gave the bound")]
    return Summary(made.kind, made.sentence, made.mark, facts, tables=rates)


@summary.register(Allocation)
def _of_allocation(found: Any) -> Summary:
    rows = [(f"block {e + 1}", shown(radius, "near", 4)) for e, radius in enumerate(found.radii)]
    facts = [("confidence", f"{confidence(found.alpha)} (α = {failure(found.alpha)})")] if found.alpha else []
    return Summary("bound of several blocks", found.sentence, facts=facts, tables=[Table(("block", "radius"), rows)])


@summary.register(Indistinguishability)
def _of_indistinguishability(found: Any) -> Summary:
    facts = [
        ("total variation", shown(found.total_variation, "up", 4)),
        ("KL divergence", f"{shown(found.kl, 'up', 4)} nats, either way"),
        *((f"power at level {a:g}", shown(found.power(a), "up", 4)) for a in (0.01, 0.05, 0.5)),
    ]
    return Summary("what can be told apart", found.sentence, facts=facts)


@summary.register(EventBound)
def _of_event(result: Any) -> Summary:
    made = _of_result(result)
    seen = ("seen", f"{result.successes:,} times in {result.n:,} draws without perturbation")
    return replace(made, facts=[seen, *made.facts], tables=[_rates(result, result.rho)])


@summary.register(Classification)
def _of_class(result: Any) -> Summary:
    made = _of_result(result)
    facts = [("seen", words.votes(result)), *made.facts]
    if result.stop_at is not None:
        facts.insert(0, (f"certified at ρ = {shown(result.stop_at, 'exact')}", result.decided))
    if result.status == "certified":
        facts += sizes(result.ellipsoid)
    return replace(made, facts=facts)


@summary.register(ClaimedEvent)
@summary.register(ClaimedMean)
def _of_claimed_event(event: Any) -> Summary:
    return replace(_of_claim(event.claim), tables=[_rates(event, event.claim.rho)])


def _rates(event: Any, rho: float) -> Table:
    return Table(("ρ", "at most"), words.rates(event, rho), title="at every radius at once, from the same draws:")


@summary.register(BoundCurve)
@summary.register(ClaimedCurve)
def _of_curve(curve: Any) -> Summary:
    claims = [p if isinstance(p, Claim) else Claim.of(p) for p in curve.points]
    first, abstained = claims[0], sum(c.status != "certified" for c in claims)
    size = getattr(getattr(curve.points[0], "run", None), "noise", GaussianNoise(1.0)).size
    sentence = (
        f"For every perturbation δ with {size} ≤ ρ, the {first.smoother}-smoothed {words.without_article(first.function)} "
        f"stays within this squared distance of {words.reference(first)}. "
        f"{words.together(curve.simultaneous, curve.alpha, curve.n, len(claims))}"
    )
    rows = [
        (shown(c.rho, "down"), shown(float(c.value or 0.0), "up"), words.proof(c))
        if c.status == "certified"
        else (shown(c.rho, "down"), "no bound", c.reason)
        for c in claims
    ]
    mark = ("certified", "good") if not abstained else (f"no bound at {abstained} of {len(claims)} radii", "bad")

    def figure() -> Any:
        from certify import plots

        return plots.plot_curve(curve, width=3.4)

    return Summary("bound curve", sentence, mark, tables=[Table(("ρ", "at most", "proof"), rows, (2,))], figure=figure)


@summary.register(RateOver)
def _of_rate(rate: Any) -> Summary:
    seen = f"{rate.successes:,} times in {rate.of_what}, each draw at a prompt chosen at random, without perturbation"
    facts = [
        ("seen", seen),
        ("confidence", f"{confidence(rate.alpha)}, all radii at once"),
        ("proof", f"{words.proof(rate)}, {words.copies(rate.replicas)}"),
    ]
    radii = sorted({0.0, *rate.rhos})
    rows = [(shown(r, "exact"), percent(rate.least(r), "down"), words.probability(rate.at(r))) for r in radii]
    table = Table(("ρ", "at least", "at most"), rows)
    if not rate.two_sided:
        table = Table(("ρ", "at most"), [(rho, most) for rho, _, most in rows])
    certified = any(rate.at(r) < 1 for r in rate.rhos)
    mark = ("certified", "good") if certified else ("no bound at these radii", "bad")
    return Summary("bound of an average probability", words.capital(str(rate)), mark, facts, tables=[table])


@summary.register(MeasuredRate)
def _of_measured(rate: Any) -> Summary:
    limits = f"{percent(rate.lower, 'down')} … {percent(rate.upper, 'up')} at confidence {confidence(rate.alpha)}"
    return Summary("measured rate", words.capital(str(rate)), ("not certified", "quiet"), [("interval", limits)])


@summary.register(Decision)
def _of_decision(decision: Any) -> Summary:
    sentence = f"{words.question(decision)} {decision.decided.capitalize()}."
    if decision.reason:
        sentence += f" {words.capital(decision.reason)}"
    if caveat := words.caveat(decision):
        sentence += f" {caveat}"
    facts = [
        ("draws", words.drawn(decision)),
        ("confidence", f"{confidence(decision.alpha)}, wherever drawing ended"),
        ("proof", words.proof(decision)),
    ]
    if decision.successes is not None:
        facts.append(("seen", words.tally(decision)))
    mood = {"yes": "good", "no": "bad"}.get(decision.decided, "quiet")
    return Summary("decision", sentence, (decision.decided, mood), facts)


@summary.register(Plan)
def _of_plan(plan: Any) -> Summary:
    facts = [("draws", f"{plan.n:,}"), ("radius ρ", shown(plan.rho, "down", 4)), ("outputs", f"{plan.outputs:,}")]
    facts += [("confidence", confidence(plan.alpha)), ("noisy copies", str(plan.replicas))]
    return Summary("plan", words.capital(str(plan)), facts=facts)
