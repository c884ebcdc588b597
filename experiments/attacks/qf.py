"""QF-PGD: a few signs after the prompt, found by gradient through a Gumbel softmax, that bring the concept back.

    x' = x + K signs,  sign j ~ Gumbel-softmax(u_j, τ)             (hard forward, soft backward)
    u ← u + (1/√iterations) · sign ∇_u  mean over the best draws of cos_M( T(x'), T(explicit) )

cos_M is taken of the whole encoding on the entries M alone: those whose change from T(without) to T(with) has the same
sign in every pair.

Reference: Zhuang et al. (2023), "A Pilot Study of Query-Free Adversarial Attack against Stable Diffusion". Known from the
public source: there the objective is to go away from a prompt, 1/cos(T(x'), T(x)) upwards; K = 5 out of 63 signs
(capitals, digits, punctuation; one twice), each as the token that it is with a space after it; τ = 0.5; logits from equal
ones; 100 draws in each of 100 iterations, a signed step of 1/√100; the losses of the best five draws are summed, but one
alone is differentiated; the best draw of all is the result; M from the signs of about ten pairs of sentences. How it was
turned into an attack that restores is told nowhere. Ours (inference): minimise the distance to T(explicit), with the
explicit prompt the prompt itself followed by the phrase that names the concept; x is the prompt as it is, or with the
name replaced by what says nothing (`base`). The mean over the best five is differentiated. Signs are typed with spaces
between: typed together they would be cut into other tokens than were searched. Signs that the tokenizer does not know as
one token are left out. The goal and M are of the text encoder before erasing. Where a prompt leaves room for fewer than
K, so many are used. On the embedded model signs after a prompt that names the concept bring nothing back: there x is neutral.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from certify.models.text import PromptEncoder, TokenizedPrompt
from experiments.attacks import tokens
from experiments.attacks.attack import Attack, Row, Target, Victim
from experiments.sentences import concept_pattern, renamed
from experiments.settings import check
from experiments.unlearning.concept import Concept
from experiments.unlearning.training import Rng

__all__ = [
    "ATTACK",
    "SIGNS",
    "Settings",
    "attack",
    "evaluations",
    "explicit",
    "gumbel_softmax",
    "masked_cosine",
    "stable",
]

SIGNS = "·~!@#$%^&*()=-+.<>?,';:|\\/" + string.ascii_uppercase + string.digits
"""The published signs, the one that stands there twice once."""

BASES = ("prompt", "neutral")


@dataclass(frozen=True)
class Settings:
    """Options of QF-PGD.

    Attributes:
        length: K, signs after the prompt.
        iterations: steps of the logits.
        draws: of signs, an iteration.
        best: draws whose mean is differentiated.
        temperature: τ.
        pairs: how many pairs at most make the mask; 0: no mask, all entries.
        base: what the signs follow: "prompt", as it is, or "neutral", with the concept's name replaced by what says nothing.
        batch: rows encoded at a time.
    """

    length: int = 5
    iterations: int = 100
    draws: int = 100
    best: int = 5
    temperature: float = 0.5
    pairs: int = 10
    base: str = "prompt"
    batch: int = 512

    def __post_init__(self) -> None:
        check(
            self,
            counts=("length", "iterations", "draws", "best", "batch"),
            from_zero=("pairs",),
            positive=("temperature",),
            choices={"base": BASES},
        )
        if self.best > self.draws:
            raise ValueError(f"best = {self.best}: must be at most draws = {self.draws}")


def explicit(prompt: str, concept: Concept, base: str) -> tuple[str, str]:
    """(what the signs follow, the explicit prompt).

    With "neutral" the explicit prompt is the prompt itself where it names the concept; else it is what the signs follow,
    and then the concept's first phrase.
    """
    named = concept_pattern(concept.erase).search(prompt) is not None
    if base == "neutral" and named:
        bare = renamed(prompt, concept.erase, concept.neutral) if concept.neutral else _without(prompt, concept)
        return bare, prompt
    return prompt, f"{prompt} {concept.erase[0]}"


def _without(prompt: str, concept: Concept) -> str:
    return " ".join(concept_pattern(concept.erase).sub("", prompt).split())


def stable(having: Tensor, lacking: Tensor) -> Tensor:
    """M: where all pairs change in the same direction; (tokens, width) bool, for encodings (pairs, tokens, width).

    Raises:
        ValueError: no entry does.
    """
    signs = (having - lacking).sign().sum(dim=0)
    mask = signs.abs() == len(having)
    if not bool(mask.any()):
        raise ValueError(f"pairs: no entry of the encoding changes in the same direction in all {len(having)} of them")
    return mask


def masked_cosine(encoded: Tensor, goal: Tensor, mask: Tensor) -> Tensor:
    """cos_M of encodings (…, tokens, width) and goals of a shape that broadcasts: (…)."""
    return torch.cosine_similarity((encoded * mask).flatten(-2), (goal * mask).flatten(-2), dim=-1, eps=1e-6)


def gumbel_softmax(logits: Tensor, noise: Tensor, temperature: float) -> Tensor:
    """One sign a place: one-hot forwards, softmax((u + g)/τ) backwards.

    Args:
        logits: (…, signs).
        noise: Gumbel noise g of that shape.
        temperature: τ.
    """
    soft = ((logits + noise) / temperature).softmax(dim=-1)
    hard = torch.zeros_like(soft).scatter_(-1, soft.argmax(dim=-1, keepdim=True), 1.0)
    return hard + soft - soft.detach()


def evaluations(settings: Settings) -> int:
    """Encodings a prompt costs, a gradient counted as two more."""
    return settings.iterations * (settings.draws + 3 * settings.best)


def attack(victim: Victim, targets: Sequence[Target], settings: Settings, rng: Rng) -> list[Row]:
    """All targets at once; `found` is the masked cosine.

    Raises:
        ValueError: the tokenizer knows none of the signs, or the pairs give no mask.
    """
    encoder = victim.encoder
    alphabet = tokens.single(encoder, SIGNS)
    if not len(alphabet):
        raise ValueError("the tokenizer knows none of the signs as one token")
    texts = [explicit(target.prompt, victim.concept, settings.base) for target in targets]
    base = [tokens.cut(encoder, text) for text, _ in texts]
    before = tokens.before(victim)
    goal, _ = tokens.read(before, [text for _, text in texts])
    mask = torch.ones(goal.shape[1:], dtype=torch.bool, device=goal.device)
    if settings.pairs:
        mask = stable(*tokens.sides(before, victim.pairs[: settings.pairs]))
    search = _Search(encoder, base, goal, mask, alphabet, settings)
    best, value = search.run(rng.source)

    rows = []
    for i, (target, (text, _)) in enumerate(zip(targets, texts, strict=True)):
        row = best[i, : search.count[i]]
        signs = [encoder.tokenizer.decode([int(token)], clean_up_tokenization_spaces=False).strip() for token in row]
        adversarial = " ".join([text, *signs])
        note = {"signs": len(signs), "mask": round(float(mask.float().mean()), 4)}
        rows.append(victim.row(ATTACK.name, target, adversarial, float(value[i]), note))
    return rows


class _Search:
    """The signs' places after each prompt, and their best values."""

    def __init__(
        self,
        encoder: PromptEncoder,
        base: Sequence[TokenizedPrompt],
        goal: Tensor,
        mask: Tensor,
        alphabet: Tensor,
        settings: Settings,
    ) -> None:
        self.encoder, self.goal, self.mask, self.alphabet, self.settings = encoder, goal, mask, alphabet, settings
        self.count = [min(settings.length, encoder.context_length - t.length) for t in base]
        self.ids = torch.stack(
            [encoder.assemble([*t.content, *[int(alphabet[0])] * k]).ids for t, k in zip(base, self.count, strict=True)]
        )
        # Where sign j of row i stands; a place past the last is never written.
        self.place = torch.tensor([t.end for t in base])[:, None] + torch.arange(settings.length)
        self.there = torch.arange(settings.length) < torch.tensor(self.count)[:, None]
        with torch.no_grad():
            self.table = encoder.embeddings(alphabet.to(encoder.device)).float()
            self.z = encoder.embeddings(self.ids.to(encoder.device)).float()

    def with_signs(self, rows: Tensor, chosen: Tensor) -> Tensor:
        """Token ids (b, tokens) of prompts `rows` (b,) with signs `chosen` (b, K), numbers of the alphabet."""
        ids = self.ids[rows].clone()
        at, j = self.there[rows].nonzero(as_tuple=True)
        ids[at, self.place[rows][at, j]] = self.alphabet[chosen[at, j]]
        return ids

    def slope(self, logits: Tensor, noise: Tensor) -> Tensor:
        """Gradient of the mean cosine of draws: (prompts, K, signs), for logits of that shape, noise (prompts, b, K, signs)."""
        prompts, many = noise.shape[:2]
        rows = torch.arange(prompts).repeat_interleave(many)
        with torch.enable_grad():
            u = logits.clone().requires_grad_()
            picked = gumbel_softmax(u[:, None], noise, self.settings.temperature).flatten(0, 1)
            z = self.z[rows].clone()
            at, j = self.there[rows].nonzero(as_tuple=True)
            z[at, self.place[rows][at, j]] = picked[at, j].to(z.device, z.dtype) @ self.table
            ids = self.with_signs(rows, picked.detach().argmax(dim=-1))
            encoded = tokens.encodings(self.encoder, ids, z, batch=len(ids), grad=True)
            value = masked_cosine(encoded, self.goal[rows], self.mask).sum() / many
            (slope,) = torch.autograd.grad(value, u)
        return slope

    def run(self, source: torch.Generator) -> tuple[Tensor, Tensor]:
        """The best signs found, as token ids (prompts, K), and their cosines."""
        settings, prompts, signs = self.settings, len(self.ids), len(self.alphabet)
        logits = torch.full((prompts, settings.length, signs), 1 / signs)
        best = torch.zeros(prompts, settings.length, dtype=torch.long)
        value, here = torch.full((prompts,), -2.0), torch.arange(prompts)
        step = settings.iterations**-0.5
        shape = (prompts, settings.draws, settings.length, signs)
        for _ in range(settings.iterations):
            uniform = torch.rand(shape, generator=source).clamp(1e-10, 1 - 1e-7)
            noise = -(-uniform.log()).log()
            chosen = (logits[:, None] + noise).argmax(dim=-1)
            score = self.scores(chosen)
            order = score.argsort(dim=1, descending=True, stable=True)[:, : settings.best]
            top = order[:, 0]
            better = score[here, top] > value
            best[better], value[better] = chosen[here, top][better], score[here, top][better]
            logits = logits + step * self.slope(logits, noise[here[:, None], order]).sign()
        return self.alphabet[best], value

    def scores(self, chosen: Tensor) -> Tensor:
        """cos_M of every draw: (prompts, draws), on the CPU, for numbers of the alphabet (prompts, draws, K)."""
        prompts, draws = chosen.shape[:2]
        rows, flat = torch.arange(prompts).repeat_interleave(draws), chosen.flatten(0, 1)
        parts = []
        for part in torch.arange(len(rows)).split(self.settings.batch):
            encoded = tokens.encodings(self.encoder, self.with_signs(rows[part], flat[part]), batch=len(part))
            parts.append(masked_cosine(encoded, self.goal[rows[part]], self.mask).cpu())
        return torch.cat(parts).reshape(prompts, draws)


ATTACK = Attack(
    name="qf-pgd",
    title="QF-PGD (Zhuang et al. 2023), to restore",
    run=attack,
    settings=Settings,
    embedded=lambda: Settings(base="neutral", iterations=40, draws=50),
    needs=("pairs",),
    published="100 iterations of 100 draws",
)
