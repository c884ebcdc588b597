"""The suite: every theorem about a smoothed encoding, attacked on prompts of the embedded model.

For each prompt one pass of draws issues all bounds at all radii. For each radius thirteen perturbations are optimised: for the
movement of the median, of the mean, and of percentiles of single outputs. Each is then held against *every* bound at
its radius on fresh draws (`verify`), since a bound speaks of all perturbations, whatever they were meant for.

What is attacked follows from the library's own registries: a theorem that is added there is attacked here.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from torch import Tensor

from certify import GaussianNoise, world
from certify.bounds import METHODS, ROUTES
from certify.bounds.mse import MSEBound
from certify.bounds.percentile import PercentileBounds
from certify.statements.ask import MSE, Deployed, Percentile, Question, ask
from certify.support import Support
from certify.world.judge import LABELS
from experiments.soundness.attack import (
    Ascent,
    Ball,
    Objective,
    ascend,
    coordinate,
    distance,
    sensitivity,
    singular_directions,
)
from experiments.soundness.processes import at_work
from experiments.soundness.verify import Fresh, examine, inside

__all__ = ["Attempt", "Case", "Plan", "Row", "Summary", "attempts", "chosen", "claim_name", "run", "summary"]


@dataclass(frozen=True)
class Plan:
    """What is run.

    Attributes:
        prompts: how many, of the split "report"; shapes in turn.
        rhos: radii.
        n, alpha: draws and failure probability of each bound.
        verify, level: draws behind a verdict; probability that any true bound of the run is declared violated.
        replicas, q: K and q of the statements about the deployed smoother.
        percentiles: those whose box is attacked (T1).
        steps, draws: of the ascent.
        seed: of everything.
    """

    prompts: int = 20
    rhos: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0)
    n: int = 20_000
    alpha: float = 1e-3
    verify: int = 2600
    level: float = 1e-3
    replicas: int = 13
    q: float = 0.95
    percentiles: tuple[float, ...] = (0.5, 0.9)
    steps: int = 12
    draws: int = 32
    seed: int = 0

    def statements(self) -> list[Question]:
        """Every bound of one prompt."""
        asked: list[Question] = []
        for rho in self.rhos:
            asked += [Percentile(rho, p, self.alpha) for p in self.percentiles]
            asked += [MSE(rho, self.alpha, method, smoother) for smoother, method in METHODS]
            asked += [Deployed(rho, self.q, self.alpha, self.replicas, method, smoother) for smoother, method in ROUTES]
        return asked

    @property
    def family(self) -> int:
        """Verdicts that the run can give."""
        return self.prompts * len(self.statements()) * len(attempts(self))


@dataclass(frozen=True)
class Attempt:
    """One perturbation to be optimised: for what, from where, and for T1 which output (by its place in a list of the
    most nearly linear ones) and side.
    """

    target: str
    start: str
    p: float = 0.5
    output: int | None = None
    sign: int = 1


def attempts(plan: Plan) -> list[Attempt]:
    """The attempts at one prompt and radius."""
    planned = [Attempt("median", start) for start in ("first", "first reversed", "second", "prompt", "random")]
    planned += [Attempt("mean", start) for start in ("first", "first reversed", "second reversed", "random")]
    for p in plan.percentiles:
        planned += [Attempt("percentile", "first", p, 0, 1), Attempt("percentile", "random", p, 1, -1)]
    return planned


@dataclass(frozen=True, eq=False)
class Case:
    """One problem to attack.

    Attributes:
        name: for the record.
        f: (b, *input) → (b, *output).
        differentiable: the same, with the graph kept.
        y, noise, support: the problem's.
        others: other inputs, (count, *input), to start towards.
    """

    name: str
    f: Callable[[Tensor], Tensor] = field(repr=False)
    differentiable: Callable[[Tensor], Tensor] = field(repr=False)
    y: Tensor = field(repr=False)
    noise: GaussianNoise = field(repr=False)
    support: Support | None = field(repr=False)
    others: Tensor = field(repr=False)


@dataclass(frozen=True)
class Row:
    """One verdict.

    Attributes:
        case, rho: the prompt and the radius.
        claim: which bound.
        attempt, target, start: which attempt: its number at this prompt and radius, what it climbs, from where.
        aimed: whether the attempt was made for this kind of bound.
        bound, estimate, limit, ratio, power, violated: as in `Verdict`.
    """

    case: str
    rho: float
    claim: str
    attempt: int
    target: str
    start: str
    aimed: bool
    bound: float
    estimate: float
    limit: float
    ratio: float
    power: float
    violated: bool


def claim_name(bound: Any) -> str:
    """A bound in a few words."""
    if isinstance(bound, PercentileBounds):
        return f"T1 box, p = {bound.p:g}"
    if isinstance(bound, MSEBound):
        return f"{bound.theorem} {bound.method}, {bound.smoother}"
    return f"{bound.theorem} {bound.method}, {bound.smoother} of K = {bound.replicas}"


def chosen(count: int) -> list[dict[str, str]]:
    """`count` prompts of the split "report" that mean a shape: shapes in turn, by its own word twice, then by another."""
    rows = [row for row in world.prompts("report") if row["shape"]]
    shapes = [shape for shape in LABELS["shape"] if shape != "none"]
    kinds = ("named", "named", "synonym")
    queues = {
        (shape, kind): iter([row for row in rows if (row["shape"], row["kind"]) == (shape, kind)])
        for shape in shapes
        for kind in set(kinds)
    }
    order = [(shape, kind) for kind in kinds * (count // 3 + 1) for shape in shapes]
    found: list[dict[str, str]] = []
    for key in order:
        row = next(queues[key], None)
        if row is not None and len(found) < count:
            found.append(row)
    if len(found) < count:
        raise ValueError(f"prompts = {count}: must be at most {len(found)}")
    return found


@functools.cache
def _encoder() -> Any:
    from certify.models import load_text_encoder

    return load_text_encoder()


def embedded(index: int, count: int) -> Case:
    """The `index`-th of `count` prompts: its encoding, with noise on the concept that it means."""
    from certify.adaptive import AdaptiveMedianSmoother

    row, encoder = chosen(count)[index], _encoder()
    adaptive = AdaptiveMedianSmoother.from_encoder(encoder, [row["shape"]], **world.SMOOTHING)
    problem = adaptive.problem(row["prompt"])
    tokenized = problem.tokenized
    alike = [
        other
        for other in map(encoder.tokenize, (r["prompt"] for r in world.prompts("tune") if r["shape"] != row["shape"]))
        if other.length == tokenized.length
    ]
    return Case(
        row["prompt"],
        problem.f,
        lambda z: encoder.encode(z, tokenized, grad=True),
        problem.y,
        problem.noise,
        problem.support,
        torch.stack([encoder.embed(other) for other in alike]),
    )


def attack(case: Case, plan: Plan, index: int) -> list[Row]:
    """All attempts at one problem, all verdicts."""
    bounds = ask(
        case.f,
        case.y,
        case.noise,
        plan.statements(),
        n=plan.n,
        seed=plan.seed * 1000 + index,
        support=case.support,
    )
    f, seed = case.differentiable, plan.seed * 1000 + index
    unit = Ball.around(case.y, case.noise, 1.0)
    singular = singular_directions(f, unit, count=2, draws=plan.draws, iterations=min(8, plan.steps), seed=seed)
    std = torch.stack([row.double() for row in case.f(case.noise.draw(case.y, 256, _source(unit, seed)))]).std(dim=0)
    near_linear = sensitivity(f, unit, draws=plan.draws, seed=seed) / std.flatten().clamp_min(1e-12)
    near_linear[std.flatten() < 1e-3 * std.max()] = 0
    outputs = near_linear.argsort(descending=True)[:2].tolist()
    fresh = Fresh(case.f, case.y, case.noise, n=plan.verify, seed=seed)
    rows = []
    for rho in plan.rhos:
        ball = unit.resized(rho)
        claims = [bound for bound in bounds if bound.rho == rho]
        made = attempts(plan)
        for place, delta in _optimised(f, ball, plan, made, singular, outputs, case.others, seed):
            attempt = made[place]
            for bound in claims:
                inside(bound, delta)
            drawn = fresh.at(delta)
            for bound in claims:
                percentile = isinstance(bound, PercentileBounds)
                aimed = _aimed(bound, attempt)
                focus = (outputs[attempt.output], attempt.sign) if aimed and attempt.output is not None else None
                verdict = examine(
                    bound,
                    drawn,
                    lambda: fresh.base,
                    alpha=plan.level,
                    family=plan.family,
                    focus=focus if percentile else None,
                )
                rows.append(
                    Row(
                        case.name,
                        rho,
                        claim_name(bound),
                        place,
                        attempt.target,
                        attempt.start,
                        aimed,
                        verdict.bound,
                        verdict.estimate,
                        verdict.limit,
                        verdict.ratio,
                        verdict.power,
                        verdict.violated,
                    )
                )
    return rows


def _aimed(bound: Any, attempt: Attempt) -> bool:
    if isinstance(bound, PercentileBounds):
        return attempt.target == "percentile" and attempt.p == bound.p
    return attempt.target == bound.smoother


def _optimised(
    f: Callable[[Tensor], Tensor],
    ball: Ball,
    plan: Plan,
    made: Sequence[Attempt],
    singular: Tensor,
    outputs: Sequence[int],
    others: Tensor,
    seed: int,
) -> Iterable[tuple[int, Tensor]]:
    """Every attempt's number with its δ. Those that climb the same objective climb side by side."""
    source = _source(ball, seed, 1)
    random = ball.random(len(made), source)
    which = int(torch.randint(len(others), (1,), generator=source)) if len(others) else 0

    def start(attempt: Attempt, place: int) -> Tensor:
        match attempt.start:
            case "first":
                return singular[0] * ball.rho
            case "first reversed":
                return -singular[0] * ball.rho
            case "second" | "second reversed":
                return singular[-1] * ball.rho * (1 if attempt.start == "second" else -1)
            case "prompt" if len(others):
                return ball.towards([others[(which + place) % len(others)]])[0]
        return random[place]

    groups: dict[tuple[str, float, int | None, int], list[int]] = {}
    for place, attempt in enumerate(made):
        groups.setdefault((attempt.target, attempt.p, attempt.output, attempt.sign), []).append(place)
    ascent = Ascent(steps=plan.steps, draws=plan.draws, refresh=max(2, plan.steps // 4), judging=2)
    for (target, p, output, sign), places in groups.items():
        objective: Objective = (
            distance(f, target) if output is None else coordinate(f, outputs[output % len(outputs)], sign, p)
        )
        starts = torch.stack([start(made[place], place) for place in places])
        for place, u in zip(places, ascend(objective, ball, starts, ascent, seed), strict=True):
            yield place, ball.delta(u)


def _source(ball: Ball, seed: int, part: int = 0) -> torch.Generator:
    from certify.montecarlo import generator

    return generator(seed, "pilot", 1_000_000 + part, ball.y.device)


def _attacked(plan: Plan, index: int) -> list[Row]:
    return attack(embedded(index, plan.prompts), plan, index)


def run(plan: Plan, workers: int = 1, progress: Callable[[int, int], None] | None = None) -> list[Row]:
    """All prompts. With more than one worker each runs in a process with one thread."""
    return at_work(_attacked, [(plan, index) for index in range(plan.prompts)], workers, progress)


@dataclass(frozen=True)
class Summary:
    """What the verdicts on one kind of bound at one radius come to.

    Attributes:
        claim, rho: which.
        certified, asked: bounds that were finite, of how many.
        verdicts, violations: of finite bounds.
        typical, least: bound ÷ strongest attack on it: the median over prompts, and the smallest.
        power: a bound smaller by this factor would have been declared violated on half of the prompts: the median of
            bound ÷ largest lower limit.
    """

    claim: str
    rho: float
    certified: int
    asked: int
    verdicts: int
    violations: int
    typical: float
    least: float
    power: float


def summary(rows: Sequence[Row]) -> list[Summary]:
    """A line a kind of bound and radius."""
    result = []
    for claim in dict.fromkeys(row.claim for row in rows):
        for rho in sorted({row.rho for row in rows}):
            group = [row for row in rows if row.claim == claim and row.rho == rho]
            cases = dict.fromkeys(row.case for row in group)
            finite = [row for row in group if math.isfinite(row.bound)]
            # The percentile of an output that nothing was aimed at is only the largest of many noisy ones.
            counted = [row for row in finite if row.aimed or not claim.startswith("T1")]
            by_case = [[row for row in counted if row.case == case] for case in cases]
            ratios = [min(row.ratio for row in part) for part in by_case if part]
            powers = [min(row.power for row in part) for part in by_case if part]
            result.append(
                Summary(
                    claim,
                    rho,
                    len({row.case for row in finite}),
                    len(cases),
                    len(finite),
                    sum(row.violated for row in finite),
                    median(ratios) if ratios else math.nan,
                    min(ratios, default=math.nan),
                    median(powers) if powers else math.nan,
                )
            )
    return result
