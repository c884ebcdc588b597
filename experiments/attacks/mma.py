"""MMA (its text attack): tokens without the sensitive words whose pooled encoding points where the prompt's does.

    P̂ = argmax over K tokens of cos( T(P̂)[end], T(P)[end] )

by greedy coordinate gradient: the gradient of the cosine with respect to the embedding at a place, times the table, says
which ids would raise it there; of the best ids of all places some are drawn, encoded, and the best row goes on.

Reference: Yang et al. (2024), "MMA-Diffusion: MultiModal Attack on Diffusion Models". Known from the public source: the
objective; K = 20 tokens from random letters; the best 256 ids a place, 512 rows a step spread evenly over the places, the
best of which replaces the last even if it is worse; about 1 000 steps; ids whose spelling contains a sensitive word are
banned; a row that the tokenizer reads otherwise is passed over. Ours: tokens that stand alone (`tokens`), so that hardly any
row is passed over; the best row of all steps is kept; the sensitive words are the phrases that name the concept, and
those of `banned`; where the text encoder was erased, the prompt is encoded by the one before. The embedded model's
context holds 18 tokens.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from certify.models.text import PromptEncoder
from experiments.attacks import tokens
from experiments.attacks.attack import Attack, Row, Target, Victim, readable
from experiments.settings import check
from experiments.unlearning.training import Rng

__all__ = ["ATTACK", "Settings", "attack", "candidates", "cosines", "evaluations", "gains"]


@dataclass(frozen=True)
class Settings:
    """Options of MMA.

    Attributes:
        length: K, tokens searched; fewer where the context is shorter.
        steps: of the search.
        best: ids a place that rows are drawn from; fewer where the vocabulary is smaller.
        rows: encoded a step.
        banned: further words; ids whose text contains one of them, or a phrase that names the concept, are not used.
        batch: rows encoded at a time.
    """

    length: int = 20
    steps: int = 1000
    best: int = 256
    rows: int = 512
    banned: tuple[str, ...] = ()
    batch: int = 512

    def __post_init__(self) -> None:
        check(self, counts=("length", "steps", "best", "rows", "batch"))
        tokens.several("banned", self.banned)


def cosines(encoder: PromptEncoder, content: Tensor, goal: Tensor, batch: int = 512) -> Tensor:
    """cos(T(row)[end], goal): (prompts, rows), on the CPU, for content (prompts, rows, k) and goals (prompts, width)."""
    prompts, rows, length = content.shape
    ids = tokens.framed(encoder, content.flatten(0, 1))
    ends = [
        tokens.encodings(encoder, part, batch=batch)[:, length + 1] for part in ids.split(batch)
    ]  # split here: only the end rows of all are held
    return torch.cosine_similarity(torch.cat(ends).reshape(prompts, rows, -1), goal[:, None], dim=-1).cpu()


def gains(encoder: PromptEncoder, content: Tensor, goal: Tensor, alphabet: Tensor) -> Tensor:
    """First-order gain of the cosine for each id at each place, up to a term of the place alone: (prompts, k, v), CPU.

    Args:
        encoder: T.
        content: (prompts, k), the rows now.
        goal: (prompts, width).
        alphabet: (v,) ids.
    """
    ids, places = tokens.framed(encoder, content), content.shape[1]
    with torch.no_grad():
        z, table = (encoder.embeddings(i.to(encoder.device)) for i in (ids, alphabet))
    z = z.detach().clone().requires_grad_()
    ends = tokens.encodings(encoder, ids, z, batch=len(ids), grad=True)[:, places + 1]
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(torch.cosine_similarity(ends, goal).sum(), z)
    return (slope[:, 1 : places + 1].float() @ table.float().T).cpu()


def candidates(content: Tensor, gain: Tensor, alphabet: Tensor, settings: Settings, source: torch.Generator) -> Tensor:
    """Rows with one id changed: (prompts, rows, k), the places spread evenly, the ids drawn from each place's best."""
    prompts, places = content.shape
    best = alphabet[gain.topk(min(settings.best, len(alphabet)), dim=2).indices]
    place = (torch.arange(settings.rows) * places) // settings.rows
    drawn = torch.randint(best.shape[2], (prompts, settings.rows), generator=source)
    new = best[torch.arange(prompts)[:, None], place, drawn]
    changed = torch.arange(places) == place[:, None]
    return torch.where(changed, new[:, :, None], content[:, None])


def evaluations(settings: Settings) -> int:
    """Encodings a prompt costs, a gradient counted as two."""
    return 1 + settings.steps * (settings.rows + 2)


def attack(victim: Victim, targets: Sequence[Target], settings: Settings, rng: Rng) -> list[Row]:
    """All targets at once; `found` is the cosine.

    Raises:
        ValueError: the vocabulary has no letter to start from, or nothing that was found can be typed.
    """
    encoder, source = victim.encoder, rng.source
    banned = (*victim.concept.erase, *settings.banned)
    alphabet = tokens.typable(encoder, banned)
    length = tokens.room(encoder, settings.length)
    letters = tokens.single(encoder, string.ascii_letters)
    letters = letters[torch.isin(letters, alphabet)]
    if not len(letters):
        raise ValueError(f"banned = {banned!r}: leaves no letter to start from")
    goal = tokens.last_rows(*tokens.read(tokens.before(victim), [target.prompt for target in targets]))

    now = letters[torch.randint(len(letters), (len(targets), length), generator=source)]
    best, value = now.clone(), cosines(encoder, now[:, None], goal, settings.batch)[:, 0]
    here = torch.arange(len(targets))
    for _ in range(settings.steps):
        new = candidates(now, gains(encoder, now, goal, alphabet), alphabet, settings, source)
        score = cosines(encoder, new, goal, settings.batch)
        top = score.argmax(dim=1)
        now = new[here, top]
        for i in (score[here, top] > value).nonzero().flatten().tolist():
            if readable(encoder, now[i]) is not None:
                best[i], value[i] = now[i], score[i, top[i]]

    rows = []
    for i, target in enumerate(targets):
        _, text = tokens.first_readable(encoder, best[i : i + 1])
        rows.append(victim.row(ATTACK.name, target, text, float(value[i]), {"tokens": length}))
    return rows


ATTACK = Attack(
    name="mma",
    title="MMA, text (Yang et al. 2024)",
    run=attack,
    settings=Settings,
    embedded=lambda: Settings(length=12, steps=60, best=32, rows=96),
    published="1 000 steps of 512 rows",
)
