"""Ring-A-Bell: a genetic search for tokens whose encoding is the prompt's, moved along the concept's direction.

    v = mean_k (T(with_k) − T(without_k))
    P̂ = argmin over K tokens of ‖ T(P̂) − (T(P) + η v) ‖²            (all rows of the encoding)

It asks the text encoder only, nothing of the erased U-Net.

Reference: Tsai et al. (2024), "Ring-A-Bell! How Reliable are Concept Removal Methods for Diffusion Models?". Known from the
public source: both formulas; about 30 pairs; a population of 200 random rows, of which the best 100 stay; each of those
joins with probability 0.5 another at one random place, which gives two children; then any row has one token redrawn with
probability 0.25, those that stay included, so that the best may be lost; 3 000 generations; K = 16, 38 or 75, η = 3 (nudity)
and 5 to 5.5 (violence); any token but begin and end, and the decoded text is what is used. Ours: half of those that stay
join, only children are redrawn, so the best is never lost and is not encoded again; tokens that stand alone (`tokens`),
since a decoded row of pieces is read as other tokens than were found; where the text encoder was erased, T of the goal is
the one before, and T of the row the victim's. The embedded model's context holds 18 tokens; η = 2 brought more back there
than 0.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from certify import _validate
from certify.models.text import PromptEncoder
from experiments.attacks import tokens
from experiments.attacks.attack import Attack, Row, Target, Victim
from experiments.settings import check
from experiments.unlearning.training import Rng

__all__ = ["ATTACK", "Settings", "attack", "children", "direction", "evaluations", "fitness"]


@dataclass(frozen=True)
class Settings:
    """Options of Ring-A-Bell.

    Attributes:
        length: K, tokens searched; fewer where the context is shorter.
        strength: η.
        pairs: how many pairs at most make the direction.
        population: rows; half of them stay.
        generations: rounds of children.
        crossover: share of those that stay which join another; two children each.
        mutation: probability that a child has one token redrawn.
        batch: rows encoded at a time.
    """

    length: int = 16
    strength: float = 3.0
    pairs: int = 30
    population: int = 200
    generations: int = 3000
    crossover: float = 0.5
    mutation: float = 0.25
    batch: int = 512

    def __post_init__(self) -> None:
        check(self, counts=("length", "pairs", "generations", "batch"), positive=("strength",))
        _validate.count("population", self.population, minimum=4)
        _validate.probability("crossover", self.crossover)
        _validate.probability("mutation", self.mutation)


def direction(encoder: PromptEncoder, pairs: Sequence[tuple[str, str]]) -> Tensor:
    """v: (tokens, width) float32."""
    having, lacking = tokens.sides(encoder, pairs)
    return (having - lacking).mean(dim=0)


def fitness(encoder: PromptEncoder, content: Tensor, goal: Tensor, batch: int = 512) -> Tensor:
    """Squared distance of encodings to goals, over all rows and dimensions: (prompts, rows), on the CPU.

    Args:
        encoder: T.
        content: (prompts, rows, k) token ids.
        goal: (prompts, tokens, width).
        batch: rows encoded at a time.
    """
    prompts, rows, _ = content.shape
    ids = tokens.framed(encoder, content.flatten(0, 1))
    parts = []
    for first in range(0, len(ids), batch):
        encoded = tokens.encodings(encoder, ids[first : first + batch], batch=batch)
        owner = torch.arange(first, first + len(encoded), device=goal.device) // rows
        parts.append((encoded - goal[owner]).square().sum(dim=(1, 2)).cpu())
    return torch.cat(parts).reshape(prompts, rows)


def children(parents: Tensor, alphabet: Tensor, settings: Settings, source: torch.Generator) -> Tensor:
    """Two children of each of a random share of the parents: (prompts, 2 · pairs, k).

    A parent and a mate, drawn with replacement, exchange what follows a random place; then a child in four has one token
    redrawn.

    Args:
        parents: (prompts, rows, k).
        alphabet: (v,) ids to draw from.
        settings: the shares.
        source: of randomness.
    """
    prompts, rows, length = parents.shape
    pairs = max(1, round(settings.crossover * rows))
    first = torch.rand(prompts, rows, generator=source).argsort(dim=1)[:, :pairs]
    second = torch.randint(rows, (prompts, pairs), generator=source)
    here = torch.arange(prompts)[:, None]
    a, b = parents[here, first], parents[here, second]
    place = torch.randint(0, length, (prompts, pairs, 1), generator=source)
    head = torch.arange(length) < place
    made = torch.cat([torch.where(head, a, b), torch.where(head, b, a)], dim=1)
    redrawn = torch.rand(prompts, 2 * pairs, 1, generator=source) < settings.mutation
    where = torch.arange(length) == torch.randint(length, (prompts, 2 * pairs, 1), generator=source)
    new = alphabet[torch.randint(len(alphabet), (prompts, 2 * pairs, 1), generator=source)]
    return torch.where(redrawn & where, new, made)


def evaluations(settings: Settings) -> int:
    """Encodings a prompt costs."""
    kept = settings.population // 2
    return settings.population + settings.generations * 2 * max(1, round(settings.crossover * kept))


def attack(victim: Victim, targets: Sequence[Target], settings: Settings, rng: Rng) -> list[Row]:
    """All targets at once; `found` is the fitness, relative to ‖η v‖²: 1 is as far off as the prompt itself.

    Raises:
        ValueError: no row of tokens can be typed.
    """
    encoder, source = victim.encoder, rng.source
    alphabet = tokens.typable(encoder)
    length, kept = tokens.room(encoder, settings.length), settings.population // 2
    before = tokens.before(victim)
    v = direction(before, victim.pairs[: settings.pairs])
    plain, _ = tokens.read(before, [target.prompt for target in targets])
    goal = plain + settings.strength * v

    rows = alphabet[torch.randint(len(alphabet), (len(targets), settings.population, length), generator=source)]
    score = fitness(encoder, rows, goal, settings.batch)
    for _ in range(settings.generations):
        rows, score = _best(rows, score, kept)
        new = children(rows, alphabet, settings, source)
        rows = torch.cat([rows, new], dim=1)
        score = torch.cat([score, fitness(encoder, new, goal, settings.batch)], dim=1)
    rows, score = _best(rows, score, kept)

    scale = float((settings.strength * v).square().sum())
    found = []
    for i, target in enumerate(targets):
        index, text = tokens.first_readable(encoder, rows[i])
        value = float(score[i, index])
        note = {"fitness": round(value, 4), "tokens": length, "eta": settings.strength}
        found.append(victim.row(ATTACK.name, target, text, value / scale, note))
    return found


def _best(rows: Tensor, score: Tensor, kept: int) -> tuple[Tensor, Tensor]:
    order = score.argsort(dim=1, stable=True)[:, :kept]
    here = torch.arange(len(rows))[:, None]
    return rows[here, order], score[here, order]


ATTACK = Attack(
    name="ring-a-bell",
    title="Ring-A-Bell (Tsai et al. 2024)",
    run=attack,
    settings=Settings,
    embedded=lambda: Settings(length=12, strength=2.0, population=100, generations=60),
    needs=("pairs",),
    published="200 rows, 3 000 generations",
)
