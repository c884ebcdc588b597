"""Attack: the worst perturbation that can be found inside a certified ellipsoid, by projected gradient ascent.

In the coordinates u = δ/σ (0 where σ = 0) the ellipsoid ‖δ‖_Σ ≤ ρ is the ball ‖u‖ ≤ ρ, and noise is ξ ~ N(0, I). With m draws
ξ_1, …, ξ_m, the same for every candidate, an objective is a differentiable function of the noisy copies

    z_k = y + σ∘(u + ξ_k),      b_k = y + σ∘ξ_k   (the same noise without the perturbation: what is common cancels),

and a step is  v ← β v + g/‖g‖,  u ← Π(u + η_t ρ v/‖v‖)  with g the gradient in u, Π the projection on the ball and η_t
falling geometrically. Many restarts run side by side. Starts are random, or informed: singular directions of the smoothed
Jacobian, and differences to other inputs (other prompts, say) cut down to the ball.

An attack proves nothing. It says how much of a bound is used by something that exists, and it must be strong to say that: on
linear maps and on functions with a known supremum it is tested to reach 95 % of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from certify import GaussianNoise, _validate
from certify.montecarlo import generator
from experiments.settings import check

__all__ = [
    "Ascent",
    "Ball",
    "Objective",
    "ascend",
    "best",
    "coordinate",
    "distance",
    "sensitivity",
    "singular_directions",
    "smoothed",
]

Objective = Callable[[Tensor, Tensor, torch.Generator], Tensor]
"""(z (restarts, m, *input), b (m, *input), generator for randomness of its own) → what to maximise, (restarts,)."""


@dataclass(frozen=True)
class Ball:
    """The ellipsoid around y in whitened coordinates.

    Attributes:
        y: (*input), float64.
        sigma: (*input), float64; 0 where nothing may move.
        rho: radius.
    """

    y: Tensor
    sigma: Tensor
    rho: float

    @classmethod
    def around(cls, y: Tensor, noise: GaussianNoise, rho: float) -> Ball:
        """Of a problem's input and noise. Raises ValueError where no coordinate has noise: there is nothing to attack."""
        sigma = noise.sigma_for(y.shape).to(y.device)
        if not bool((sigma > 0).any()):
            raise ValueError("noise has σ = 0 everywhere: must leave the adversary at least one coordinate")
        return cls(y.detach().double(), sigma, _validate.positive("rho", rho))

    def resized(self, rho: float) -> Ball:
        """The same with another radius."""
        return Ball(self.y, self.sigma, rho)

    def project(self, u: Tensor) -> Tensor:
        """The nearest points of the ball, (restarts, *input)."""
        u = torch.where(self.sigma > 0, u, 0.0)
        return u * (self.rho / _norms(u).clamp_min(self.rho))

    def directions(self, u: Tensor) -> Tensor:
        """Every row scaled to the sphere; a row of zeros stays."""
        u = torch.where(self.sigma > 0, u, 0.0)
        norms = _norms(u)
        return torch.where(norms > 0, u * (self.rho / torch.where(norms > 0, norms, 1.0)), 0.0)

    def random(self, count: int, source: torch.Generator) -> Tensor:
        """`count` uniformly random points of the sphere."""
        u = torch.randn((count, *self.y.shape), generator=source, device=self.y.device, dtype=torch.float64)
        return self.directions(u)

    def whitened(self, delta: Tensor) -> Tensor:
        """u = δ/σ, and 0 where σ = 0."""
        return torch.where(self.sigma > 0, delta / torch.where(self.sigma > 0, self.sigma, 1.0), 0.0)

    def towards(self, others: Sequence[Tensor]) -> Tensor:
        """The points of the ball nearest to other inputs, each cut down to the noised coordinates."""
        return self.project(torch.stack([self.whitened(other.double() - self.y) for other in others]))

    def between(self, others: Sequence[Tensor]) -> Tensor:
        """On the sphere, the mean of the directions to other inputs; 0 where there are none: (1, *input)."""
        if not len(others):
            return torch.zeros_like(self.y)[None]
        return self.directions(self.directions(self.towards(others)).mean(dim=0, keepdim=True))

    def draw(self, count: int, source: torch.Generator) -> Tensor:
        """ξ, standard normal, (count, *input)."""
        return torch.randn((count, *self.y.shape), generator=source, device=self.y.device, dtype=torch.float64)

    def points(self, u: Tensor, xi: Tensor) -> Tensor:
        """y + σ∘(u + ξ) for every candidate and draw, (restarts, m, *input)."""
        return self.y + self.sigma * (u[:, None] + xi[None])

    def delta(self, u: Tensor) -> Tensor:
        """δ = σ∘u of one point, (*input), pulled in until ‖δ‖_Σ ≤ ρ in float64 arithmetic."""
        delta = self.sigma * self.project(u[None])[0]
        noise = GaussianNoise(self.sigma)
        while noise.norm(delta) > self.rho:
            delta = delta * (1 - 1e-12)
        return delta


@dataclass(frozen=True)
class Ascent:
    """How to climb.

    Attributes:
        steps: gradient steps.
        draws: m, noisy copies behind one gradient.
        first, last: η at the first and the last step, in units of ρ.
        momentum: β.
        refresh: steps after which new noise is drawn, so that the ascent does not learn one set of it by heart.
        judging: draws, as a multiple of m, that choose between start, half-way point and end.
    """

    steps: int = 24
    draws: int = 64
    first: float = 2.0
    last: float = 0.3
    momentum: float = 0.3
    refresh: int = 4
    judging: int = 4

    def __post_init__(self) -> None:
        check(self, counts=("steps", "draws", "refresh", "judging"), positive=("first", "last"))
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum = {self.momentum!r}: must be at least 0 and less than 1")


def ascend(objective: Objective, ball: Ball, starts: Tensor, ascent: Ascent | None = None, seed: int = 0) -> Tensor:
    """Climbs from every start; returns for each the best of start, half-way point and end, (restarts, *input).

    Args:
        objective: what to maximise.
        ball: where.
        starts: u, (restarts, *input); projected first.
        ascent: how.
        seed: of all noise.

    Raises:
        ValueError: the objective is not finite, or not differentiable in z.
    """
    ascent = ascent or Ascent()
    u = ball.project(starts.double())
    visited, velocity = [u], torch.zeros_like(u)
    xi = base = u
    for step in range(ascent.steps):
        block = step // ascent.refresh
        if step % ascent.refresh == 0:
            xi = ball.draw(ascent.draws, _source(ball, seed, 2 * block))
            base = ball.points(torch.zeros_like(u[:1]), xi)[0]
        with torch.enable_grad():
            w = u.detach().requires_grad_(True)
            g = _gradient(objective(ball.points(w, xi), base, _source(ball, seed, 2 * block + 1)), w)
        g = torch.where(ball.sigma > 0, g, 0.0)
        velocity = ascent.momentum * velocity + g / _norms(g).clamp_min(torch.finfo(g.dtype).tiny)
        size = ascent.first * (ascent.last / ascent.first) ** (step / max(ascent.steps - 1, 1))
        u = ball.project(u + size * ball.directions(velocity))
        if step + 1 in (ascent.steps // 2, ascent.steps):
            visited.append(u)
    return best(objective, ball, visited, ascent.judging * ascent.draws, seed)


def best(objective: Objective, ball: Ball, candidates: Sequence[Tensor], draws: int, seed: int = 0) -> Tensor:
    """For every restart the candidate with the largest objective, on noise of its own."""
    with torch.no_grad():
        xi = ball.draw(draws, _source(ball, seed, -2))
        base = ball.points(torch.zeros_like(candidates[0][:1]), xi)[0]
        values = torch.stack(
            [
                torch.cat([objective(ball.points(row[None], xi), base, _source(ball, seed, -1)) for row in rows])
                for rows in candidates
            ]
        )
    chosen = values.argmax(dim=0)
    return torch.stack(list(candidates))[chosen, torch.arange(len(chosen), device=chosen.device)]


# What to maximise


def smoothed(outputs: Tensor, smoother: str, p: float = 0.5, window: float = 0.3) -> Tensor:
    """A smoothed output that has a useful gradient, from m draws on the second axis: (restarts, m, …) → (restarts, …).

    The mean is itself. A percentile at p is replaced by the average of the order statistics whose ranks lie within
    `window`/2 of p·m: the derivative of one order statistic sees a single draw, this one a part of all that are near.
    """
    if _validate.choice("smoother", smoother, ("median", "mean")) == "mean":
        return outputs.mean(dim=1)
    m = outputs.shape[1]
    half = min(window / 2, p, 1 - p)
    first = min(m - 1, round((p - half) * m))
    last = max(first + 1, round((p + half) * m))
    return outputs.sort(dim=1).values[:, first:last].mean(dim=1)


def distance(f: Callable[[Tensor], Tensor], smoother: str = "median") -> Objective:
    """‖smoothed(y + δ) − smoothed(y)‖², both from the same noise. `f` must keep the graph: (b, *input) → (b, *output)."""
    _validate.choice("smoother", smoother, ("median", "mean"))

    def objective(z: Tensor, base: Tensor, source: torch.Generator) -> Tensor:
        reference = _reference(f, base, smoother, 0.5)
        outputs = f(z.flatten(0, 1)).unflatten(0, z.shape[:2])
        return (smoothed(outputs, smoother) - reference).flatten(1).double().square().sum(dim=1)

    return objective


def coordinate(f: Callable[[Tensor], Tensor], index: int, sign: int = 1, p: float = 0.5) -> Objective:
    """sign × the movement of one output's percentile. `index` counts through the flattened output."""
    window = min(0.3, 1.2 * p, 1.2 * (1 - p))

    def objective(z: Tensor, base: Tensor, source: torch.Generator) -> Tensor:
        outputs = f(z.flatten(0, 1)).flatten(1)[:, index].unflatten(0, z.shape[:2])
        with torch.no_grad():
            reference = smoothed(f(base).flatten(1)[None, :, index], "median", p, window)
        return (sign * (smoothed(outputs, "median", p, window) - reference)).double()

    return objective


def _reference(f: Callable[[Tensor], Tensor], base: Tensor, smoother: str, p: float) -> Tensor:
    with torch.no_grad():
        return smoothed(f(base)[None], smoother, p)


# Where to start


def singular_directions(
    f: Callable[[Tensor], Tensor], ball: Ball, count: int = 3, iterations: int = 8, draws: int = 64, seed: int = 0
) -> Tensor:
    """The leading right singular directions of the smoothed Jacobian J = E ∂f(y + σ∘(u + ξ))/∂u, on the sphere of the ball.

    Block power iteration on JᵀJ: J v by a central difference of the mean of f over common noise, Jᵀ w by reverse-mode
    differentiation.

    Args:
        f: differentiable, (b, *input) → (b, *output).
        ball: around y; its radius scales the result.
        count: directions; cut to the number of noised coordinates.
        iterations: rounds.
        draws: noise draws behind a product; new ones every round.
        seed: of start and noise.

    Returns:
        (count, *input), the strongest first; fewer where fewer coordinates have noise.
    """
    free = ball.sigma > 0
    block = min(count + 2, int(free.sum()))  # two more than asked for: the subspace then converges faster
    v = _orthonormal(ball.draw(block, _source(ball, seed, -4)) * free)
    for i in range(iterations):
        xi = ball.draw(draws, _source(ball, seed, -10 - i))
        w = _along(f, ball, v, xi)
        with torch.enable_grad():
            u = torch.zeros_like(v).requires_grad_(True)
            v = _gradient((_mean(f, ball.points(u, xi)).double() * w).flatten(1).sum(dim=1), u)
        v = _orthonormal(v * free)
    along = _along(f, ball, v, ball.draw(draws, _source(ball, seed, -5)))
    gram = along.flatten(1) @ along.flatten(1).T
    strongest = torch.linalg.eigh(gram).eigenvectors.T.flip(0)  # within the subspace found, the largest first
    v = (strongest @ v.flatten(1)).reshape(v.shape)
    return ball.directions(v)[:count]


def sensitivity(f: Callable[[Tensor], Tensor], ball: Ball, probes: int = 24, draws: int = 32, seed: int = 0) -> Tensor:
    """Row norms of the smoothed Jacobian, (outputs,): how far a unit perturbation can move each output, to first order.

    From `probes` random directions v: E (J v)_i² = ‖J_i‖². An output whose row norm is near its own standard deviation
    under the noise is nearly linear there, and its percentile bound (T1) nearly tight.
    """
    v = ball.draw(probes, _source(ball, seed, -6)) * (ball.sigma > 0)
    xi = ball.draw(draws, _source(ball, seed, -7))
    along = torch.cat([_along(f, ball, part, xi) for part in v.split(8)])
    return along.flatten(1).square().mean(dim=0).sqrt()


def _along(f: Callable[[Tensor], Tensor], ball: Ball, v: Tensor, xi: Tensor) -> Tensor:
    """J v, a row a direction, float64."""
    norms = _norms(v)
    step = 0.1 / torch.where(norms > 0, norms, 1.0)
    with torch.no_grad():
        ahead, behind = _mean(f, ball.points(v * step, xi)).double(), _mean(f, ball.points(-v * step, xi)).double()
    return (ahead - behind) / (2 * step.reshape(-1, *[1] * (ahead.ndim - 1)))


def _mean(f: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    return f(z.flatten(0, 1)).unflatten(0, z.shape[:2]).mean(dim=1)


def _orthonormal(v: Tensor) -> Tensor:
    q = torch.linalg.qr(v.flatten(1).T).Q
    return q.T.reshape(v.shape)


def _norms(u: Tensor) -> Tensor:
    """‖row‖, shaped to divide the rows."""
    return u.flatten(1).norm(dim=1).reshape(-1, *[1] * (u.ndim - 1))


def _gradient(values: Tensor, u: Tensor) -> Tensor:
    if not bool(torch.isfinite(values).all()):
        raise ValueError("objective is NaN or infinite: must be finite everywhere in the ball")
    if not values.requires_grad:
        raise ValueError("objective does not depend on z differentiably: f must keep the graph")
    (g,) = torch.autograd.grad(values.sum(), u)
    return g


def _source(ball: Ball, seed: int, part: int) -> torch.Generator:
    """A generator for one part of the work, in the stream of draws that choose something: no certificate rests on it."""
    return generator(_validate.seed_value(seed), "pilot", 100 + part, ball.y.device)
