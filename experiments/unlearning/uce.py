"""UCE: unified concept editing, a closed-form edit of every cross-attention key and value projection.

    W = (λ W₀ + s_e Σ_i W₀ g_i c_iᵀ + s_p Σ_j W₀ p_j p_jᵀ) (λ I + s_e Σ_i c_i c_iᵀ + s_p Σ_j p_j p_jᵀ)⁻¹

sends the encodings c_i of what is erased to where the guide's encodings g_i went, keeps those p_j of what is preserved, and
otherwise stays close to W₀. No gradients, no images, under a second.

Reference: Gandikota et al. (2024), "Unified Concept Editing in Diffusion Models". Known from the public source, λ = 0.5 and
s_e = 1 throughout:

    "tail"   erased and guide rows from the last token of the subject to the end of the context, aligned at their first row;
             all rows of what is preserved, the empty prompt always; s_p = max(0.1, 1/number preserved)
    "last"   the newer source: the last token of the subject alone; what is preserved likewise, nothing by default; s_p = 1

The published checkpoints without nudity take "tail", guide " " and preserve nothing but the empty prompt: `Concept.of([…])`.
Ours: erasing inside several sentences at once, not only as a bare word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from certify.models import PromptEncoder
from experiments.settings import check
from experiments.unlearning.concept import Concept
from experiments.unlearning.diffusion import Diffusion
from experiments.unlearning.method import Edit, Method
from experiments.unlearning.training import TrainingLoop

__all__ = ["METHOD", "Settings", "aligned", "edit", "minimiser", "projections", "rows_of", "solved"]


ROWS = ("tail", "last")
"""Which rows of the encodings are edited; `aligned` also knows "all", of RECE."""


@dataclass(frozen=True)
class Settings:
    """Options of UCE.

    Attributes:
        erase_scale, preserve_scale: s_e and s_p; s_p None: as published, max(0.1, 1/number of preserved prompts) for "tail", 1
            for "last".
        damping: λ.
        rows: one of `ROWS`.
    """

    erase_scale: float = 1.0
    preserve_scale: float | None = None
    damping: float = 0.5
    rows: str = "tail"

    def __post_init__(self) -> None:
        check(self, positive=("erase_scale", "preserve_scale", "damping"), choices={"rows": ROWS})


def projections(unet: Any) -> dict[str, torch.nn.Linear]:
    """The U-Net's cross-attention key and value projections by name (`….attn2.to_k`, `….attn2.to_v`).

    Raises:
        ValueError: it has none, or one of them has a bias.
    """
    maps = {name: m for name, m in unet.named_modules() if name.endswith(("attn2.to_k", "attn2.to_v"))}
    if not maps:
        raise ValueError(f"unet is a {type(unet).__name__}: has no modules named '….attn2.to_k' or '….attn2.to_v'")
    for name, module in maps.items():
        if not isinstance(module, torch.nn.Linear) or module.bias is not None:
            raise ValueError(f"unet.{name} is {module!r}: must be a linear map without bias")
    return maps


def edit(diffusion: Diffusion, concept: Concept, settings: Settings, loop: TrainingLoop) -> Edit:
    """The edited projections of a pipeline's U-Net. The pipeline stays as it is: the solution is closed, nothing is trained.

    Raises:
        ValueError: the U-Net has no such projections, or a sentence does not fit into the context.
    """
    weights = solved(
        diffusion.encoder,
        projections(diffusion.unet),
        concept.erased,
        concept.anchor,
        concept.preserved,
        settings,
    )
    return Edit(unet=weights)


def solved(
    encoder: PromptEncoder,
    maps: Mapping[str, torch.nn.Linear],
    places: Sequence[tuple[str, str]],
    guide: str,
    preserved: Sequence[tuple[str, str]],
    settings: Settings,
) -> dict[str, Tensor]:
    """The minimiser W of every projection, as name → weight in its dtype.

    Args:
        encoder: the text encoder.
        maps: `projections`.
        places: (template, phrase) to erase.
        guide: what a phrase becomes.
        preserved: (template, phrase) to preserve; for "tail" besides the empty prompt.
        settings: scales, damping, rows.
    """
    c, g, p = aligned(encoder, places, guide, preserved, settings.rows)
    published = 1.0 if settings.rows == "last" else max(0.1, 1 / (1 + len(preserved)))
    s_p = published if settings.preserve_scale is None else settings.preserve_scale
    return minimiser(maps, c, g, p, erase_scale=settings.erase_scale, preserve_scale=s_p, damping=settings.damping)


def aligned(
    encoder: PromptEncoder,
    places: Sequence[tuple[str, str]],
    guide: str,
    preserved: Sequence[tuple[str, str]],
    rows: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """(c, g, p) of `minimiser`: erased and guide rows, aligned at their first row, and rows that stay.

    Args:
        encoder, places, guide, preserved: as for `solved`.
        rows: "tail", "last" or "all"; unless "last", p is every row of the empty prompt and of what is preserved.
    """
    mine = rows_of(encoder, places, rows)
    theirs = rows_of(encoder, [(template, guide) for template, _ in places], rows)
    counts = [min(len(a), len(b)) for a, b in zip(mine, theirs, strict=True)]
    c = torch.cat([a[:count] for a, count in zip(mine, counts, strict=True)])
    g = torch.cat([b[:count] for b, count in zip(theirs, counts, strict=True)])
    stay = rows_of(encoder, preserved, rows) if rows == "last" else rows_of(encoder, [("{}", ""), *preserved], "all")
    return c, g, torch.cat([c[:0], *stay])


def minimiser(
    maps: Mapping[str, torch.nn.Linear],
    c: Tensor,
    g: Tensor,
    p: Tensor,
    *,
    erase_scale: float,
    preserve_scale: float,
    damping: float,
) -> dict[str, Tensor]:
    """The closed form itself: name → weight, in its dtype.

    Args:
        maps: `projections`, whose weights are W₀.
        c, g: (rows, width) float64, what is erased and, row by row, where it goes.
        p: (rows, width) float64, what stays.
        erase_scale, preserve_scale, damping: s_e, s_p, λ.
    """
    damped = damping * torch.eye(c.shape[1], dtype=torch.float64) + preserve_scale * p.T @ p
    gram, pull = damped + erase_scale * c.T @ c, damped + erase_scale * g.T @ c
    moved = torch.linalg.solve(gram, pull.T).T  # pull · gram⁻¹ (gram is symmetric): W = W₀ · moved
    return {
        f"{name}.weight": (module.weight.detach().double().cpu() @ moved).to(module.weight.dtype).contiguous()
        for name, module in maps.items()
    }


def rows_of(encoder: PromptEncoder, places: Sequence[tuple[str, str]], rows: str) -> list[Tensor]:
    """For each (template, phrase) the encodings ("all"), those from the phrase's last token on ("tail") or that one alone
    ("last"), float64; of an empty phrase from the token before its place."""
    if not places:
        return []
    tokenized = [encoder.tokenize(template.format(phrase).strip()) for template, phrase in places]
    encoded = encoder.plain(tokenized, batch_size=256).double().cpu()
    if rows == "all":
        return list(encoded)
    before = [encoder.tokenize((template.split("{}")[0] + phrase).strip()) for template, phrase in places]
    first = [max(t.end - 1, 0) for t in before]
    return [h[i : i + 1] if rows == "last" else h[i:] for h, i in zip(encoded, first, strict=True)]


METHOD = Method(
    name="uce",
    title="UCE (Gandikota et al. 2024)",
    run=edit,
    settings=Settings,
    embedded=lambda kind: Settings(),
    published="closed form",
)
