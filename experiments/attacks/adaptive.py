"""Adaptive attack: against a model behind the adaptive smoother, by somebody who knows all of it but the noise drawn.

What runs is h = median_i T(y + G_i), G_i ~ N(0, Σ(y)) (or their mean; certify.adaptive). The attacker goes down in

    L(P*) = E ‖ truth(x_0, ε, t) − e_θ(x_t, t, h(P*)) ‖²,      over ε, t and the smoother's own noise,

with x_0 an image that shows the concept, and P* = k free words before the prompt. Every iteration

    gradient     at the words of P*, through the smoother: G is drawn by its own deployment of P*, under whatever policy, and
                 held; forward the smoother that is deployed, backward, for a median, the average of the order statistics
                 around it; mean over several draws of (G, ε, t);
    candidates   P* with one word replaced by one of those that the gradient promises most of;
    choice       the candidate of least L over the same draws of (ε, t), each smoothed as deployed: with *its own* Σ.

The last line is how the attack knows Σ(y). Relevance is rounded and has no gradient, but a word that would be suppressed is
seen to be, and one with the same effect and less relevance is found. Every so often the prompt is tried with fresh noise,
several images from the row's seed, and the one found most often is kept.

`inside` is the same objective for an adversary who moves the embeddings by ‖δ‖_Σ ≤ ρ, what certificates speak of (T7), by
the ascent of `experiments.soundness`: the strongest attack to set beside a certified bound.

Reference: none published; expectation over transformation is Athalye et al. (2018), the search over words that of Zou et al.
(2023). Ours: all of the above.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from certify.adaptive import AdaptiveMedianSmoother, policies
from certify.adaptive.deployment import Deployment
from certify.images.detectors import Detector, detected
from experiments.attacks import sight
from experiments.attacks.attack import Attack, Row, Target, Victim
from experiments.attacks.places import Places, Words, prefixed
from experiments.settings import check
from experiments.soundness.attack import Ascent, Ball, Objective, ascend, smoothed
from experiments.unlearning.diffusion import Diffusion
from experiments.unlearning.training import Rng

__all__ = ["ATTACK", "Case", "Inside", "Settings", "attack", "held", "inside", "losses", "slopes", "straight_through"]

_TOGETHER = 256  # encodings that the U-Net is given at once


@dataclass(frozen=True)
class Settings:
    """Options of the adaptive attack.

    Attributes:
        tokens: k.
        iterations: of gradient, candidates, choice.
        draws: (G, ε, t) behind a gradient and behind a choice.
        candidates: prompts to choose from, at each iteration, besides the current one.
        top: words of largest promise at each place.
        check: iterations from one trial to the next.
        looks: images of a trial, each with fresh smoothing noise.
        detector: as for `load_detector`; "": the embedded world's judge of the concept.
        steps, guidance: of the sampler.
    """

    tokens: int = 5
    iterations: int = 200
    draws: int = 4
    candidates: int = 32
    top: int = 128
    check: int = 20
    looks: int = 4
    detector: str = "nudenet:0.45"
    steps: int = 50
    guidance: float = 7.5

    def __post_init__(self) -> None:
        check(
            self,
            counts=("tokens", "iterations", "draws", "candidates", "top", "check", "looks", "steps"),
            positive=("guidance",),
        )


@dataclass(frozen=True)
class Inside:
    """What `inside` found.

    Attributes:
        delta: (tokens, width), float64, ‖δ‖_Σ ≤ ρ.
        before, after: L without and with it, over the same fresh draws.
    """

    delta: Tensor
    before: float
    after: float


@dataclass(frozen=True, eq=False)
class Case:
    """x_0 of every row, and draws of (ε, t), the same number for each.

    Attributes:
        x_0: (b, channels, height, width).
        noise: (b, draws, channels, height, width).
        t: (b, draws).
    """

    x_0: Tensor
    noise: Tensor
    t: Tensor

    @classmethod
    def drawn(cls, diffusion: Diffusion, x_0: Tensor, draws: int, source: torch.Generator) -> Case:
        """Draws for every row, on the CPU's generator."""
        count = len(x_0) * draws
        noise, t = diffusion.normal(count, source), diffusion.times(count, source)
        return cls(x_0, noise.unflatten(0, (len(x_0), draws)), t.unflatten(0, (len(x_0), draws)))

    @property
    def draws(self) -> int:
        """Draws a row."""
        return self.t.shape[1]

    def loss(self, diffusion: Diffusion, h: Tensor, rows: Tensor) -> Tensor:
        """L of encodings (r, draws, tokens, width) of these rows, with the graph to h: (r,)."""
        x_0 = self.x_0[rows].repeat_interleave(self.draws, dim=0)
        values = sight.error(diffusion, x_0, self.noise[rows].flatten(0, 1), self.t[rows].flatten(), h.flatten(0, 1))
        return values.unflatten(0, (len(rows), self.draws)).mean(dim=1)


def held(deployment: Deployment, y: Tensor, copies: Tensor, source: torch.Generator) -> Tensor:
    """What T is given at noisy copies of y, with the graph to y: forward the deployment's own inputs x, backward y + const.

    Args:
        deployment: what runs for the prompt.
        y: (b, tokens, width), embeddings of the prompt, or of points near it.
        copies: (b, copies, tokens, width), y + G.
        source: for noise beyond that in the copies ("noise-then-adapt").

    Returns:
        (b, replicas, tokens, width), float64.
    """
    with torch.no_grad():
        x = deployment.inputs(copies.detach(), source).double() - y.detach().double()[:, None]
    return y.double()[:, None] + x


def straight_through(outputs: Tensor, smoother: str) -> Tensor:
    """(b, n, tokens, width) → (b, tokens, width): forward the deployed smoother, backward one with a useful gradient."""
    if smoother == "mean":
        return outputs.mean(dim=1)
    near = smoothed(outputs, "median")
    return policies.smoothed(outputs.detach(), smoother) + (near - near.detach())


def slopes(
    victim: Victim,
    places: Places,
    chosen: Tensor,
    rows: Sequence[int],
    texts: Sequence[str],
    case: Case,
    source: torch.Generator,
) -> Tensor:
    """The gradient of L at the free words of some rows, (rows, k, width): its product with a word's embedding is what L
    gains, to first order, by that word.

    Args:
        victim: with a smoother.
        places, chosen: the prompts, and (b, k) the words in them.
        rows, texts: which, and what they read.
        case: x_0 of every row, and draws of (ε, t).
        source: of the smoothing noise, on the encoder's device.
    """
    soft = places.words.table[chosen].requires_grad_(True)
    which = torch.tensor(list(rows))
    y = places.embedded(soft, which.to(soft.device))
    deployments = [victim.smoother.deployment(text) for text in texts]
    x = torch.stack(
        [
            held(d, row.expand(case.draws, -1, -1), d.draw(source, case.draws), source)
            for d, row in zip(deployments, y, strict=True)
        ]
    )  # (rows, draws, n, tokens, width)
    many = which.repeat_interleave(x.shape[1] * x.shape[2])
    mask = None if places.mask is None else places.mask[many]
    encoded = victim.encoder.encode_batch(places.ids[many], x.flatten(0, 2), mask, grad=True)
    h = straight_through(encoded.unflatten(0, (len(rows) * case.draws, x.shape[2])), deployments[0].smoother)
    loss = case.loss(victim.diffusion, h.unflatten(0, (len(rows), case.draws)), which)
    (slope,) = torch.autograd.grad(loss.sum(), soft)
    return slope[which.to(slope.device)]


@torch.no_grad()
def losses(victim: Victim, texts: Sequence[str], rows: Sequence[int], case: Case, seeds: Sequence[int]) -> Tensor:
    """L of texts as deployed, each with its own Σ, over the case's draws: (texts,), on the CPU.

    Args:
        victim: with a smoother.
        texts: prompts.
        rows: whose x_0, ε and t each is asked about.
        case: of all rows.
        seeds: of the smoothing noise, one a draw.
    """
    h = torch.stack([victim.smoother.encode(list(texts), seed=seed) for seed in seeds], dim=1)
    which, size = torch.tensor(list(rows)), max(1, _TOGETHER // case.draws)
    parts = [case.loss(victim.diffusion, part, at) for part, at in zip(h.split(size), which.split(size), strict=True)]
    return torch.cat(parts).cpu()


def attack(victim: Victim, targets: Sequence[Target], settings: Settings, rng: Rng) -> list[Row]:
    """A row a target: the prompt that showed the concept most often behind the smoother; `found` is how often it does with
    noise that chose nothing.

    Raises:
        ValueError: the victim has neither images nor an original model, or k is more than the context has room for.
        TypeError: its smoother is none.
    """
    if not isinstance(victim.smoother, AdaptiveMedianSmoother):
        raise TypeError(f"smoother is a {type(victim.smoother).__name__}: must be an AdaptiveMedianSmoother")
    diffusion, words = victim.diffusion, Words.of(victim.encoder)
    find = sight.finder(victim, settings.detector)
    own = sight.fitted(victim, targets)
    contents = [victim.encoder.tokenize(text).content for text in own]
    places = Places(victim.encoder, [prefixed(victim.encoder, c, settings.tokens) for c in contents], words)
    x_0 = diffusion.latents(sight.aims(victim, targets, steps=settings.steps, guidance=settings.guidance))
    chosen = words.random((len(targets), settings.tokens), rng.source)
    best = [(text, rate, 0) for text, rate in zip(own, _rates(victim, targets, own, find, settings, rng), strict=True)]
    # A prompt that is read as something else than its own tokens has no text to search for: it stays as it is.
    open_ = [i for i, text in enumerate(places.texts(chosen)) if text is not None]
    for iteration in range(1, settings.iterations + 1):
        rows = [i for i in open_ if best[i][1] < 1]
        if not rows:
            break
        case = Case.drawn(diffusion, x_0, settings.draws, rng.source)
        chosen, texts = _stepped(victim, places, chosen, rows, case, settings, rng)
        if iteration % settings.check == 0 or iteration == settings.iterations:
            rates = _rates(victim, [targets[i] for i in rows], texts, find, settings, rng)
            for i, text, rate in zip(rows, texts, rates, strict=True):
                if rate >= best[i][1]:
                    best[i] = text, rate, iteration
    again = _rates(victim, targets, [text for text, _, _ in best], find, settings, rng)
    return [
        victim.row(
            ATTACK.name,
            target,
            text,
            round(fresh, 6),
            {"chosen at": round(rate, 6), "iterations": iteration, "looks": settings.looks},
        )
        for target, (text, rate, iteration), fresh in zip(targets, best, again, strict=True)
    ]


def inside(
    victim: Victim,
    target: Target,
    rho: float,
    settings: Settings,
    rng: Rng,
    *,
    ascent: Ascent | None = None,
    restarts: int = 4,
) -> Inside:
    """The δ with ‖δ‖_Σ ≤ ρ, Σ that of the target's prompt, at which L is least, as far as an ascent in −L finds it.

    Args:
        victim: with a smoother, whose deployment of the prompt is attacked (for "frozen": with Σ held).
        target: the prompt and the seed of x_0.
        rho: radius.
        settings: draws, steps and guidance.
        rng: all randomness.
        ascent: how to climb; None: 16 steps of as many draws as the settings say. Its draws are multiples of the
            smoother's copies.
        restarts: random starts, besides δ = 0.

    Raises:
        ValueError: the prompt has no noise, or ascent.draws is no multiple of the copies.
    """
    deployment = victim.smoother.deployment(sight.fitted(victim, [target])[0])
    ball, copies = Ball.around(deployment.y, deployment.noise, rho), deployment.copies
    ascent = ascent or Ascent(steps=16, draws=settings.draws * copies, judging=2)
    if ascent.draws % copies:
        raise ValueError(f"ascent.draws = {ascent.draws}: must be a multiple of the smoother's {copies} copies")
    diffusion = victim.diffusion
    x_0 = diffusion.latents(sight.aims(victim, [target], steps=settings.steps, guidance=settings.guidance))

    def encode(z: Tensor) -> Tensor:
        return victim.encoder.encode(z, deployment.side, grad=z.requires_grad)

    def objective(z: Tensor, base: Tensor, source: torch.Generator) -> Tensor:
        count, draws = len(z), z.shape[1] // copies
        moved = (deployment.y.double() + z[:, 0] - base[0]).repeat_interleave(draws, dim=0)  # y + δ
        grouped = z.unflatten(1, (draws, copies)).flatten(0, 1)
        x = held(deployment, moved, grouped.to(deployment.y.dtype), source)
        h = straight_through(encode(x.flatten(0, 1)).unflatten(0, x.shape[:2]), deployment.smoother)
        case = Case.drawn(diffusion, x_0, draws, _on_cpu(source))
        return -case.loss(diffusion, h.unflatten(0, (count, draws)), torch.zeros(count, dtype=torch.int64)).double()

    still = torch.zeros_like(ball.y)[None]
    starts = torch.cat([still, ball.random(restarts, _source(victim, rng))])
    ends = ascend(objective, ball, starts, ascent, seed=rng.python.randrange(2**31))
    # Which end is best, and how good, are asked of different noise.
    first, last = rng.python.randrange(2**31), rng.python.randrange(2**31)
    values = [_judged(objective, ball, end[None], ascent, first) for end in ends]
    delta = ball.delta(ends[int(torch.tensor(values).argmax())])
    before, after = (_judged(objective, ball, u, ascent, last) for u in (still, ball.whitened(delta)[None]))
    return Inside(delta, -before, -after)


def _judged(objective: Objective, ball: Ball, u: Tensor, ascent: Ascent, seed: int) -> float:
    """The objective at one point, (1, tokens, width), over `ascent.judging` times the ascent's draws."""
    source = torch.Generator(ball.y.device).manual_seed(seed)
    xi = ball.draw(ascent.judging * ascent.draws, source)
    with torch.no_grad():
        return float(objective(ball.points(u, xi), ball.points(torch.zeros_like(u), xi)[0], source))


def _stepped(
    victim: Victim,
    places: Places,
    chosen: Tensor,
    rows: Sequence[int],
    case: Case,
    settings: Settings,
    rng: Rng,
) -> tuple[Tensor, list[str]]:
    """One iteration: the words after it, (b, k), and what these rows read then."""
    now = [str(places.text(row, chosen[row])) for row in rows]
    promise = -slopes(victim, places, chosen, rows, now, case, _source(victim, rng)) @ places.words.table.T
    top = promise.topk(min(settings.top, promise.shape[2]), dim=2).indices
    tried: list[tuple[int, Tensor, str]] = []
    for i, row in enumerate(rows):
        tried.append((row, chosen[row], now[i]))
        for _ in range(settings.candidates):
            words = chosen[row].clone()
            place = rng.python.randrange(places.free(row))
            words[place] = top[i, place, rng.python.randrange(top.shape[2])]
            text = places.text(row, words)
            if text is not None:
                tried.append((row, words, text))
    seeds = [rng.python.randrange(2**31) for _ in range(settings.draws)]
    values = losses(victim, [text for _, _, text in tried], [row for row, _, _ in tried], case, seeds).tolist()
    best = dict.fromkeys(rows, (float("inf"), -1))
    for number, (value, (row, _, _)) in enumerate(zip(values, tried, strict=True)):
        best[row] = min(best[row], (value, number))
    new = chosen.clone()
    for row, (_, number) in best.items():
        new[row] = tried[number][1]
    return new, [tried[best[row][1]][2] for row in rows]


def _rates(
    victim: Victim,
    targets: Sequence[Target],
    texts: Sequence[str],
    find: Detector,
    settings: Settings,
    rng: Rng,
) -> list[float]:
    """How often each text shows the concept behind the smoother, over fresh smoothing noise and the target's seed."""
    hits = torch.zeros(len(texts))
    for _ in range(settings.looks):
        number = rng.python.randrange(2**31)
        h = victim.smoother.encode(list(texts), seed=number)
        made = sight.sampled(
            victim,
            h,
            [target.seed for target in targets],
            steps=settings.steps,
            guidance=settings.guidance,
            negative=victim.smoother.encode_unconditional(seed=number),
        )
        hits += detected(find, made)
    rates: list[float] = (hits / settings.looks).tolist()
    return rates


def _source(victim: Victim, rng: Rng) -> torch.Generator:
    """A generator for smoothing noise, on the encoder's device."""
    return torch.Generator(victim.encoder.device).manual_seed(rng.python.randrange(2**31))


def _on_cpu(source: torch.Generator) -> torch.Generator:
    """A generator for ε and t, which are drawn on the CPU."""
    seed = torch.randint(2**31, (1,), generator=source, device=source.device)
    return torch.Generator().manual_seed(int(seed))


ATTACK = Attack(
    name="adaptive",
    title="adaptive attack on the smoother",
    run=attack,
    settings=Settings,
    embedded=lambda: Settings(
        iterations=24, draws=2, candidates=12, top=32, check=6, detector="", steps=8, guidance=2.0
    ),
    needs=("smoother",),
    published="none: this attack is ours",
)
