"""SAFREE: encodings of trigger tokens are projected away from the concept's subspace, for as many steps as the prompt needs.

    C = [pooled(keyword)]_k,          P_C the projector on its span        pooled: the encoding's row at the end of the text
    M = [pooled(p without token i)]_i, P_I the projector on its span       token i replaced by the vocabulary's first
    token i is a trigger unless ‖(I − P_C) m_i‖ < (1 + α) mean_{j≠i} ‖(I − P_C) m_j‖;  the only token of a prompt is one
    e_i ← (I − P_C) P_I e_i    for triggers; all other rows stay
    β = 1 − mean cosine of (I − P_C) P_I e and e, rows up to the end of the text
    t' = round(up σ(2k (10β − t₀)))    the filtered encoding at steps i ≤ t' of 50, the plain one after them

Reference: Yoon et al. (2025), "SAFREE: Training-Free and Adaptive Guard for Safe Text-to-Image and Video Generation". Known
from the public source: the formulas; α = .01, up = 10; k = 2.5 and t₀ = 5.333 for nudity, 3.5 and 5.5 for artists; each
keyword apart, without centring; the branch without the prompt is given the comma-joined keywords, which makes them a negative
prompt (`negative`); the latent re-attention of the paper filters skip features, but the release never passes it a mode, so
that it does nothing there, and it is left out here. Ours: the keywords are the concept's own names unless others are given;
t' is the same share of a sampler with another number of steps. t₀ is tied to a model's β: `recalibrate` it for another model.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Unpack

import torch
from scipy.special import expit
from torch import Tensor

from certify import _validate
from certify.models.sampling import decode, initial_noise
from certify.models.text import PromptEncoder, TokenizedPrompt
from experiments.defenses.defense import Defense, DefenseOptions, fitting
from experiments.settings import check

__all__ = ["Filtered", "Safree", "Settings"]

OF_KIND = {"object": (2.5, 5.333), "style": (3.5, 5.5)}
"""k and t₀ as published, for nudity and for artists."""


@dataclass(frozen=True)
class Settings:
    """Options of SAFREE.

    Attributes:
        alpha: α ≥ 0, how much farther than the others without a token a prompt must be from the concept for it to be a trigger.
        up: steps of 50 that are filtered at most, ≥ 1.
        k, t0: slope and middle of the share of steps; None: as published for the concept's kind.
        keywords: words that span the concept's subspace; (): the concept's own.
        negative: whether the branch without the prompt is given the keywords.
    """

    alpha: float = 0.01
    up: int = 10
    k: float | None = None
    t0: float | None = None
    keywords: tuple[str, ...] = ()
    negative: bool = True

    def __post_init__(self) -> None:
        check(self, counts=("up",), not_negative=("alpha",), positive=("k",), finite=("t0",))
        given: object = self.keywords
        if isinstance(given, str):
            raise TypeError(f"keywords = {given!r}: must be a list of words")
        if self.up > 50:
            raise ValueError(f"up = {self.up}: must be at most 50, it is in steps of 50")


@dataclass(frozen=True, eq=False)
class Filtered:
    """What SAFREE makes of one prompt.

    Attributes:
        rows: (tokens, width), the encoding with its triggers projected.
        triggers: positions of the triggers.
        beta: β, how far the whole encoding would be moved, in [0, 2].
        until: t', the last of 50 steps that is given the filtered encoding.
    """

    rows: Tensor
    triggers: tuple[int, ...]
    beta: float
    until: int


class Safree(Defense):
    """Projects trigger tokens away from the concept's subspace."""

    name = "safree"

    def __init__(self, pipe: Any, **options: Unpack[DefenseOptions]) -> None:
        super().__init__(pipe, **options)
        self.keywords = self.settings.keywords or self._against().erase
        k, t0 = OF_KIND["object" if self.concept is None else self.concept.kind]
        self.k = k if self.settings.k is None else self.settings.k
        self.t0 = t0 if self.settings.t0 is None else self.settings.t0
        told = [self.encoder.tokenize(fitting(self.encoder, word)) for word in self.keywords]
        self._concept = _basis(self._pooled(told))
        self._negative = fitting(self.encoder, ", ".join(self.keywords)) if self.settings.negative else ""

    @classmethod
    def published(cls) -> Settings:
        return Settings()

    def filtered(self, prompt: str) -> Filtered:
        """What is made of a prompt; of one without tokens nothing."""
        tokenized = self.encoder.tokenize(prompt)
        plain = self.encoder.plain([tokenized])[0].double().cpu()
        places = list(range(1, tokenized.end))
        if not places:
            return Filtered(plain, (), 0.0, 0)
        masked = [_replaced(self.encoder, tokenized, place) for place in places]
        pooled = self._pooled(masked)
        away = (pooled - _on(self._concept, pooled)).norm(dim=1)
        inside = _on(_basis(pooled), plain)
        moved = inside - _on(self._concept, inside)
        n = len(places)
        others = [(float(away.sum()) - float(d)) / (n - 1) if n > 1 else 0.0 for d in away]
        triggers = tuple(
            place
            for place, d, mean in zip(places, away.tolist(), others, strict=True)
            if n == 1 or d >= (1 + self.settings.alpha) * mean
        )
        rows = plain.clone()
        rows[list(triggers)] = moved[list(triggers)]
        end = tokenized.end + 1
        cosine = torch.nn.functional.cosine_similarity(moved[:end], plain[:end], dim=1)
        beta = 1 - float(cosine.mean())
        share = float(expit(2 * self.k * (10 * beta - self.t0)))
        return Filtered(rows, triggers, beta, round(self.settings.up * share))

    def images(self, prompts: Sequence[str], seeds: list[int]) -> Tensor:
        """Images by the pipeline's sampler, which has the filtered encoding first; initial noise as without it."""
        found = [self.filtered(prompt) for prompt in prompts]
        return self._sampled(self.encoded(prompts), found, seeds)

    @torch.no_grad()
    def _sampled(self, plain: Tensor, found: Sequence[Filtered], seeds: Sequence[int]) -> Tensor:
        unet, scheduler = self.pipe.unet, copy.deepcopy(self.pipe.scheduler)
        weight = next(unet.parameters())
        sources = [torch.Generator().manual_seed(_validate.seed_value(s)) for s in seeds]
        scheduler.set_timesteps(self.steps, device=weight.device)
        rows = torch.stack([f.rows for f in found]).to(weight.device, weight.dtype)
        c = plain.to(weight.device, weight.dtype)
        u = self.encoder.plain([self._negative]).to(weight.device, weight.dtype).expand_as(c)
        until = torch.tensor([f.until for f in found], device=weight.device)[:, None, None]
        x = initial_noise(self.pipe, len(c), sources) * scheduler.init_noise_sigma
        extra = {"generator": sources} if "generator" in inspect.signature(scheduler.step).parameters else {}
        for i, t in enumerate(scheduler.timesteps):
            now = torch.where(50 * i <= until * self.steps, rows, c)
            given = scheduler.scale_model_input(torch.cat([x, x]), t)
            without, with_ = unet(given, t, encoder_hidden_states=torch.cat([u, now]), return_dict=False)[0].chunk(2)
            x = scheduler.step(without + self.guidance * (with_ - without), t, x, **extra, return_dict=False)[0]
        return decode(self.pipe, x)

    def described(self) -> dict[str, Any]:
        return {**asdict(self.settings), "keywords": list(self.keywords), "k": self.k, "t0": self.t0}

    def _pooled(self, prompts: Sequence[TokenizedPrompt]) -> Tensor:
        """Rows at the end of the text, (prompts, width) float64."""
        encodings = self.encoder.plain(list(prompts)).double().cpu()
        return torch.stack([rows[told.end] for rows, told in zip(encodings, prompts, strict=True)])


def _replaced(encoder: PromptEncoder, tokenized: TokenizedPrompt, place: int) -> TokenizedPrompt:
    """The prompt with the vocabulary's first token in one place."""
    content = list(tokenized.content)
    content[place - 1] = 0
    return encoder.assemble(content)


def _basis(rows: Tensor) -> Tensor:
    """Orthonormal (rank, width), of what (n, width) rows span."""
    _, size, basis = torch.linalg.svd(rows, full_matrices=False)
    return basis[size > size[0] * max(rows.shape) * torch.finfo(rows.dtype).eps]


def _on(basis: Tensor, rows: Tensor) -> Tensor:
    """Rows projected on a span."""
    return rows @ basis.T @ basis
