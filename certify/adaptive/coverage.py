"""Coverage: what a certified ellipsoid means in prompts (THEORY T9).

A radius is a number without a picture. What a user asks is which *prompts* it covers. Replacing the tokens at positions
i ∈ I by vocabulary entries w_i moves y by e_{w_i} − y_i there, so at radius ρ it is covered iff

    Σ_{i ∈ I} ‖e_{w_i} − y_i‖² / σ_i²  ≤  ρ²,

at equal length and side information. A position without noise covers nothing. Insertions and deletions change the length and
are never covered; under "noise-then-adapt" word boundaries must stay, too, since the noise is computed word by word, and σ_i
is that policy's σ_min.

For a fixed Σ the relation is symmetric, and it is most useful read from the *received* prompt, which may be an attack: if
every entry of the vocabulary is covered at a position, the token there is **fully covered**: the claim holds whatever stands
there. Where its bound is small besides, the token is suppressed (`certify.certificate.words`). Benign tokens with the
paper's σ₀ are not covered: CLIP's tokens are about 85 σ₀ apart.

Under "levels" (THEORY T17) a claim is about the smoother as deployed, and covers a prompt where besides its Σ is the same,

    C_ρ(y) = { x : same number of tokens, Σ(x) = Σ(y), ‖e(x) − y‖_Σ ≤ ρ }:

at a position the entries that are on the level of the word there. With relevance by word that is read off the table of levels,
for words that are one entry of the vocabulary. Where a word has several tokens, and with global relevance, no substitution is
counted as comparable: whether a given prompt is covered, `covered_prompts` decides by computing its Σ.

Distances are computed in float64, over the vocabulary in chunks, on the encoder's device.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from decimal import ROUND_CEILING, Decimal
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from certify import _validate
from certify._records import Shown
from certify._text import shown, spelled
from certify.adaptive.levels import cosine_tolerance, vocabulary_size
from certify.models.text import END_OF_WORD, PromptEncoder, TokenizedPrompt
from certify.noise import GaussianNoise

if TYPE_CHECKING:
    from certify.adaptive.prompt import PreparedPrompt

__all__ = [
    "LevelCoverage",
    "LevelSet",
    "Neighbour",
    "PositionCoverage",
    "PromptCoverage",
    "covered_prompts",
    "covered_substitutions",
    "fully_covered",
    "level_radius",
    "level_set",
]

DEFAULT_NEAREST = 5
"""Uncovered entries that are named."""

MEMBERS = 100
"""Entries of a level that are named."""

_STEPS = 2**12  # in which squared distances are counted, rounded up

# A distance must be below ρ by more than its own rounding.
_SAFE = 1 + 1e-12


@dataclass(frozen=True)
class Neighbour(Shown):
    """An entry of the vocabulary and how far a substitution by it is.

    Attributes:
        token: the vocabulary's spelling, `</w>` included.
        distance: ‖e_w − y_i‖ / σ_i, the ρ that covers it; None: none does, the position has no noise.
    """

    token: str
    distance: float | None


@dataclass(frozen=True)
class PositionCoverage(Shown):
    """What a radius covers at one position of a prompt, as single substitutions.

    Attributes:
        position: in the prompt; 0 is the begin token.
        token: what stands there, in the vocabulary's spelling.
        rho: the radius.
        sigma: σ_i of the claim; 0 covers nothing.
        vocabulary: entries of the vocabulary other than the token.
        comparable: those of them that leave the side information as it is. Under "frozen" and "memory" all of them; under
            "noise-then-adapt" those that leave the word boundaries; under "levels" those that besides are on the same level.
        covered: those of them within ρ.
        nearest: the nearest comparable entry; its distance is the ρ at which coverage begins. None: nothing is comparable.
        farthest: ρ at which all comparable entries are covered; None: at no ρ.
        uncovered: the nearest comparable entries that are not covered, nearest first.
    """

    position: int
    token: str
    rho: float
    sigma: float
    vocabulary: int
    comparable: int
    covered: int
    nearest: Neighbour | None
    farthest: float | None
    uncovered: tuple[Neighbour, ...]

    @property
    def share(self) -> float:
        """Covered share of the comparable entries; 0 where there are none."""
        return self.covered / self.comparable if self.comparable else 0.0

    @property
    def fully_covered(self) -> bool:
        """Whether every comparable entry is covered: whatever stands here, the claim holds."""
        return 0 < self.comparable == self.covered

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, `share` and `fully_covered` included."""
        return {
            **asdict(self),
            "uncovered": [asdict(u) for u in self.uncovered],
            "share": self.share,
            "fully_covered": self.fully_covered,
        }


@dataclass(frozen=True)
class LevelCoverage(PositionCoverage):
    """What a radius covers at one position under "levels": `comparable` are the entries of the level.

    Attributes:
        members: the entries of the level, nearest first, `MEMBERS` at most.
        leaving: the nearest entries of other levels, nearest first: prompts with them have certificates of their own.
        squares: squared distances of the covered entries.
        enumerated: whether entries were compared: the position is a word by itself, and relevance is the word's own.
    """

    members: tuple[Neighbour, ...] = ()
    leaving: tuple[Neighbour, ...] = ()
    squares: tuple[float, ...] = field(default=(), repr=False)
    enumerated: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, without `squares`."""
        found = super().to_dict()
        del found["squares"]
        return found | {name: [asdict(one) for one in getattr(self, name)] for name in ("members", "leaving")}


@dataclass(frozen=True)
class LevelSet(Shown):
    """C_ρ(y): the prompts that are covered as deployed (THEORY T17), as far as they can be enumerated.

    Attributes:
        rho: the radius.
        positions: what is covered at each, as single substitutions.
        prompts: how many prompts there are in it besides y, at the least, substitutions at several positions at once included.
        everywhere: the ρ at which every entry of the level may stand at every position at once; None: none may anywhere.
    """

    rho: float
    positions: tuple[LevelCoverage, ...]
    prompts: int
    everywhere: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, without the positions."""
        return {"rho": self.rho, "prompts": self.prompts, "everywhere": self.everywhere}


@dataclass(frozen=True)
class PromptCoverage(Shown):
    """Whether a radius around one prompt covers another.

    Attributes:
        prompt: the other one.
        covered: whether it is.
        distance: ‖δ‖_Σ between them; None: infinite, or not defined because the side information differs.
        changed: positions that differ; empty where the side information differs.
        reason: why it is not covered; "" where it is.
        dropped: tokens at its end that were cut off, where the smoother cuts prompts that do not fit.
    """

    prompt: str
    covered: bool
    distance: float | None
    changed: tuple[int, ...]
    reason: str
    dropped: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "changed": list(self.changed)}


def covered_substitutions(
    prompt: PreparedPrompt,
    rho: float,
    *,
    noise: GaussianNoise | None = None,
    nearest: int = DEFAULT_NEAREST,
    chunk: int = 2048,
) -> list[PositionCoverage]:
    """For every word token of a prompt: how many entries of the model's whole vocabulary are covered in its place.

    Equation
        entry w is covered at position i  iff  ‖e_w − y_i‖ / σ_i ≤ ρ

    Reference
        THEORY T9.

    Args:
        prompt: the anchor (`adaptive.prepare("…")`); its smoother's policy decides what is comparable.
        rho: radius of the claim, > 0.
        noise: Σ of the claim; None: that of the prompt's deployment.
        nearest: how many uncovered entries to name at each position.
        chunk: entries of the vocabulary at a time; only memory depends on it.

    Returns:
        One `PositionCoverage` for each position that is a word token, in order. Begin, end and padding have none: another
        token there is no prompt of this length.

    Raises:
        ValueError: rho is out of range.
    """
    rho, chunk = _validate.positive("rho", rho), _validate.count("chunk", chunk)
    nearest = _validate.count("nearest", nearest, minimum=0)
    encoder, tokenized = prompt.adaptive.encoder, prompt.tokenized
    positions = [i for i, kind in enumerate(tokenized.kinds) if kind == "word"]
    spelling, plain, closed, special = _vocabulary(encoder)
    separation = _separation(encoder, prompt.y[positions], len(spelling), chunk)
    sigma = _sigma(prompt, noise)
    policy, levels = prompt.adaptive.policy, _entry_sigma(prompt)
    result: list[PositionCoverage] = []
    for i, distance in zip(positions, separation, strict=True):
        bounded = torch.ones(len(spelling), dtype=torch.bool)
        if policy in ("noise-then-adapt", "levels"):
            bounded = _keeps_boundaries(tokenized, i, plain, closed, special)
        bounded[int(tokenized.ids[i])] = False
        alone = levels is not None and (i, i + 1) in tokenized.words
        # An entry with the same embedding is the same input, noise or not.
        scaled = distance / sigma[i] if sigma[i] > 0 else torch.where(distance > 0, torch.inf, 0.0)
        may = bounded
        if policy == "levels":
            same = levels == prompt.token_noise.sigma[i] if alone else torch.zeros_like(bounded)
            may = bounded & same

        def nearest_of(which: Tensor, most: int, scaled: Tensor = scaled) -> tuple[Neighbour, ...]:
            entries = which.nonzero()[:, 0]
            order = entries[scaled[entries].argsort(stable=True)][:most]
            return tuple(Neighbour(spelling[int(k)], _finite(scaled[k])) for k in order)

        inside = may & (scaled * _SAFE <= rho)
        found: dict[str, Any] = {
            "position": i,
            "token": tokenized.tokens[i],
            "rho": rho,
            "sigma": float(sigma[i]),
            "vocabulary": len(spelling) - 1,
            "comparable": int(may.sum()),
            "covered": int(inside.sum()),
            "nearest": next(iter(nearest_of(may, 1)), None),
            "farthest": _finite(scaled[may].max()) if bool(may.any()) else None,
            "uncovered": nearest_of(may & ~inside, nearest),
        }
        if policy != "levels":
            result.append(PositionCoverage(**found))
            continue
        squares = tuple(scaled[inside].square().tolist())
        leaving = nearest_of(bounded & ~may, nearest) if alone else ()
        result.append(
            LevelCoverage(**found, members=nearest_of(may, MEMBERS), leaving=leaving, squares=squares, enumerated=alone)
        )
    return result


def level_set(prompt: PreparedPrompt, rho: float, *, noise: GaussianNoise | None = None) -> LevelSet:
    """The prompts that a claim at ρ covers as deployed, under the policy "levels".

    Equation
        C_ρ(y) = { x : same number of tokens, Σ(x) = Σ(y), ‖e(x) − y‖_Σ ≤ ρ }

    Reference
        THEORY T17.

    Args:
        prompt: y, prepared by a smoother of that policy.
        rho: radius of the claim, > 0.
        noise: Σ of the claim; None: that of the prompt's deployment.

    Returns:
        `LevelSet`. Only words of one token are replaced, by such; its count is not above the truth.

    Raises:
        ValueError: the policy is another one, or rho is out of range.
    """
    if prompt.adaptive.policy != "levels":
        raise ValueError(f"policy = {prompt.adaptive.policy!r}: must be 'levels' for there to be levels")
    positions = [p for p in covered_substitutions(prompt, rho, noise=noise) if isinstance(p, LevelCoverage)]
    far = [p.farthest for p in positions if p.comparable]
    known = [d for d in far if d is not None]
    everywhere = sum(d**2 for d in known) ** 0.5 if known and len(known) == len(far) else None
    return LevelSet(float(rho), tuple(positions), _combined([p.squares for p in positions], rho), everywhere)


def level_radius(prompt: PreparedPrompt) -> float | None:
    """The ρ that covers the whole level of a prompt's most relevant word, to three digits, rounded up.

    None: no other entry shares its level, it has several tokens, or relevance is global.
    """
    position = prompt.most_relevant_word[0]
    far = next(p for p in covered_substitutions(prompt, 1.0) if p.position == position).farthest
    if not far:
        return None
    digits = Decimal(far * _SAFE * _SAFE)
    return float(digits.quantize(Decimal((0, (1,), digits.adjusted() - 2)), ROUND_CEILING))


def _combined(squares: Sequence[Sequence[float]], rho: float) -> int:
    """How many choices of at most one substitution a position, but none at all, have Σ d² ≤ ρ²; never more than there are."""
    counts = [1] + [0] * _STEPS
    for here in squares:
        steps = Counter(math.ceil(s / rho**2 * _STEPS * _SAFE) for s in here)
        added = list(counts)
        for step, many in steps.items():
            for spent in range(_STEPS + 1 - step):
                if counts[spent]:
                    added[spent + step] += many * counts[spent]
        counts = added
    return sum(counts) - 1


def covered_prompts(
    prompt: PreparedPrompt, prompts: Sequence[str], rho: float, *, noise: GaussianNoise | None = None
) -> list[PromptCoverage]:
    """Which of a list of prompts a claim around `prompt` covers: the same length and side information, ‖δ‖_Σ ≤ ρ.

    Reference
        THEORY T9.

    Args:
        prompt: the anchor (`adaptive.prepare("…")`); its smoother's policy decides what must agree.
        prompts: attacks, say.
        rho: radius of the claim, > 0.
        noise: Σ of the claim; None: that of the prompt's deployment.

    Returns:
        One `PromptCoverage` for each, in order. A prompt that does not fit into the context is not covered, unless the smoother
        cuts such prompts: then its first tokens are compared.

    Raises:
        ValueError, TypeError: rho is out of range, or a prompt is not a string.
    """
    rho = _validate.positive("rho", rho)
    if isinstance(prompts, str):
        raise TypeError(f"prompts = {prompts!r}: must be a list of prompts")
    noise = prompt.deployment.noise if noise is None else noise
    return [_compared(prompt, noise, other, rho) for other in prompts]


def fully_covered(coverage: Sequence[PositionCoverage]) -> tuple[int, ...]:
    """Positions that are fully covered *together*: whatever stands at all of them at once, the bound holds.

    Single positions that are fully covered need not be so jointly: distances add up in squares. This is the largest set of them
    with Σ farthest² ≤ ρ², which those with the smallest distances make up.

    Args:
        coverage: of one prompt at one ρ, from `covered_substitutions`.
    """
    chosen, spent = [], 0.0
    for c in sorted((c for c in coverage if c.fully_covered), key=lambda c: c.farthest or 0.0):
        spent += (c.farthest or 0.0) ** 2
        if spent**0.5 * _SAFE > c.rho:
            break
        chosen.append(c.position)
    return tuple(sorted(chosen))


def _compared(anchor: PreparedPrompt, noise: GaussianNoise, prompt: str, rho: float) -> PromptCoverage:
    encoder, here = anchor.adaptive.encoder, anchor.tokenized
    try:
        other = encoder.tokenize(prompt)
    except ValueError as error:
        return PromptCoverage(prompt, False, None, (), str(error))
    if other.length != here.length:
        reason = f"another length: {other.length} tokens with begin and end, must have {here.length}"
        return PromptCoverage(prompt, False, None, (), reason, other.dropped)
    if anchor.adaptive.policy == "noise-then-adapt" and other.words != here.words:
        return PromptCoverage(
            prompt, False, None, (), "other word boundaries, which this policy takes as given", other.dropped
        )
    delta = encoder.embed(other).double() - anchor.y.double()
    changed = tuple(int(i) for i in delta.ne(0).any(dim=1).nonzero()[:, 0])
    if anchor.adaptive.policy == "levels" and (reason := _other_level(anchor, other)):
        distance = noise.norm(delta)
        return PromptCoverage(prompt, False, _finite(torch.tensor(distance)), changed, reason, other.dropped)
    distance = noise.norm(delta)
    if distance * _SAFE <= rho:
        return PromptCoverage(prompt, True, distance, changed, "", other.dropped)
    finite = distance if distance < float("inf") else None
    reason = f"distance {shown(distance, 'up')} > ρ = {shown(rho, 'down')}"
    if finite is None:
        still = [other.tokens[i] for i in changed if float(_sigma(anchor, noise)[i]) == 0]
        reason = f"changes a position without noise, to {still[0]!r}" if still else reason
    return PromptCoverage(prompt, False, finite, changed, reason, other.dropped)


def _entry_sigma(prompt: PreparedPrompt) -> Tensor | None:
    """σ of every entry of the vocabulary as a word by itself, under "levels" and with relevance by word."""
    adaptive = prompt.adaptive
    if adaptive.policy != "levels" or adaptive.scorer.use_global:
        return None
    return torch.tensor(adaptive.levels.sigma(adaptive.rule), dtype=torch.float64)


def _other_level(anchor: PreparedPrompt, prompt: TokenizedPrompt) -> str:
    """Why the deployed smoother does not give another prompt the anchor's Σ; "" where it does.

    The relevance of what is no entry of the table of levels may differ between devices: next to the edge of a level it is not
    said to be on the anchor's.
    """
    adaptive = anchor.adaptive
    other = adaptive.prepare(prompt)
    for i, (mine, its) in enumerate(zip(anchor.token_noise.sigma, other.token_noise.sigma, strict=True)):
        if mine != its:
            said = f"σ = {shown(its, 'near', 4)} for {shown(mine, 'near', 4)}"
            return f"another level at {spelled(other.tokenized.tokens[i])!r}: {said}"
    near = cosine_tolerance(adaptive.encoder.dtype)
    for start, stop in prompt.words:
        entry = stop - start == 1 and not adaptive.scorer.use_global
        same = not adaptive.scorer.use_global and prompt.ids[start:stop].equal(anchor.tokenized.ids[start:stop])
        if entry or (same and (start, stop) in anchor.tokenized.words):
            continue
        for i in range(start, stop):
            score = other.relevance.relevance[i] or 0.0
            if adaptive.rule.level(score - near) != adaptive.rule.level(score + near):
                return (
                    f"next to the edge of a level at {spelled(prompt.tokens[i])!r}: another device may see another one"
                )
    return ""


def _vocabulary(encoder: PromptEncoder) -> tuple[list[str], Tensor, Tensor, Tensor]:
    """Spelling of every entry, and three kinds: within a word, ending one, or special (a word by itself)."""
    size = vocabulary_size(encoder)
    spelling = [str(t) for t in encoder.tokenizer.convert_ids_to_tokens(list(range(size)))]
    special = torch.zeros(size, dtype=torch.bool)
    special[[i for i in encoder.tokenizer.all_special_ids if i < size]] = True
    closed = torch.tensor([s.endswith(END_OF_WORD) for s in spelling]) & ~special
    return spelling, ~closed & ~special, closed, special


def _keeps_boundaries(tokenized: TokenizedPrompt, i: int, plain: Tensor, closed: Tensor, special: Tensor) -> Tensor:
    """Entries that may stand at position i without moving a word boundary, whatever such entries stand elsewhere."""
    start, stop = next(word for word in tokenized.words if word[0] <= i < word[1])
    last = stop == tokenized.words[-1][1]
    if i < stop - 1:
        return plain.clone()
    may = closed | plain if last else closed.clone()
    return may | special if start == i else may


def _separation(encoder: PromptEncoder, rows: Tensor, size: int, chunk: int) -> Tensor:
    """‖e_w − row‖ for every row and every entry: (rows, vocabulary), float64 on the CPU."""
    parts = []
    target = rows.double()
    with torch.no_grad():
        for ids in torch.arange(size, device=encoder.device).split(chunk):
            table = encoder.embeddings(ids[None])[0].double()
            # Differences, not dot products, which cancel for near neighbours.
            parts.append(torch.cdist(target, table, compute_mode="donot_use_mm_for_euclid_dist").cpu())
    return torch.cat(parts, dim=1)


def _sigma(prompt: PreparedPrompt, noise: GaussianNoise | None) -> Tensor:
    """σ of every position, (tokens,), float64 on the CPU."""
    noise = prompt.deployment.noise if noise is None else noise
    return noise.sigma_for((len(prompt.y), 1))[:, 0].cpu()


def _finite(value: Tensor) -> float | None:
    number = float(value)
    return number if number < float("inf") else None
