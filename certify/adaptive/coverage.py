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

Distances are computed in float64, over the vocabulary in chunks, on the encoder's device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from certify import _validate
from certify._records import Shown
from certify._text import shown
from certify.models.text import END_OF_WORD, PromptEncoder, TokenizedPrompt
from certify.noise import GaussianNoise

if TYPE_CHECKING:
    from certify.adaptive.prompt import PreparedPrompt

__all__ = [
    "Neighbour",
    "PositionCoverage",
    "PromptCoverage",
    "covered_prompts",
    "covered_substitutions",
    "fully_covered",
]

DEFAULT_NEAREST = 5
"""Uncovered entries that are named."""

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
            "noise-then-adapt" those that leave the word boundaries.
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
    result = []
    for i, distance in zip(positions, separation, strict=True):
        may = torch.ones(len(spelling), dtype=torch.bool)
        if prompt.adaptive.policy == "noise-then-adapt":
            may = _keeps_boundaries(tokenized, i, plain, closed, special)
        may[int(tokenized.ids[i])] = False
        entries = may.nonzero()[:, 0]
        # An entry with the same embedding is the same input, noise or not.
        distance = distance[entries]
        scaled = distance / sigma[i] if sigma[i] > 0 else torch.where(distance > 0, torch.inf, 0.0)
        inside = scaled * _SAFE <= rho
        order = scaled.argsort(stable=True)
        outside = order[~inside[order]][:nearest]

        def neighbour(k: Tensor, entries: Tensor = entries, scaled: Tensor = scaled) -> Neighbour:
            return Neighbour(spelling[int(entries[k])], _finite(scaled[k]))

        result.append(
            PositionCoverage(
                position=i,
                token=tokenized.tokens[i],
                rho=rho,
                sigma=float(sigma[i]),
                vocabulary=len(spelling) - 1,
                comparable=len(entries),
                covered=int(inside.sum()),
                nearest=neighbour(order[0]) if len(entries) else None,
                farthest=_finite(scaled[order[-1]]) if len(entries) else None,
                uncovered=tuple(neighbour(k) for k in outside),
            )
        )
    return result


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
    distance = noise.norm(delta)
    if distance * _SAFE <= rho:
        return PromptCoverage(prompt, True, distance, changed, "", other.dropped)
    finite = distance if distance < float("inf") else None
    reason = f"distance {shown(distance, 'up')} > ρ = {shown(rho, 'down')}"
    if finite is None:
        still = [other.tokens[i] for i in changed if float(_sigma(anchor, noise)[i]) == 0]
        reason = f"changes a position without noise, to {still[0]!r}" if still else reason
    return PromptCoverage(prompt, False, finite, changed, reason, other.dropped)


def _vocabulary(encoder: PromptEncoder) -> tuple[list[str], Tensor, Tensor, Tensor]:
    """Spelling of every entry, and three kinds: within a word, ending one, or special (a word by itself)."""
    size = min(len(encoder.tokenizer), int(encoder.embeddings.weight.shape[0]))  # type: ignore[index]
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
