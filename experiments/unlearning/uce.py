"""UCE: unified concept editing, a closed-form edit of every cross-attention key and value projection.

    W = (λ W₀ + s_e Σ_i W₀ g_i c_iᵀ + s_p Σ_j W₀ p_j p_jᵀ) (λ I + s_e Σ_i c_i c_iᵀ + s_p Σ_j p_j p_jᵀ)⁻¹

sends the encodings c_i of what is erased to where the guide's encodings g_i went, keeps those p_j of what is preserved, and
otherwise stays close to W₀. No gradients, no images, under a second.

Reference: Gandikota et al. (2024), "Unified Concept Editing in Diffusion Models". Known from the public source: the formula,
λ = 0.5, s_e = 1, the empty prompt always among the preserved, s_p = max(0.1, 1/number preserved), and rows from the last
token of the subject to the end of the context, erased and guide rows aligned at their first row ("tail"; the newer source
takes the last subject token alone, "last"). Ours: erasing inside several sentences at once, not only as a bare word.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from certify import _validate
from certify.models import PromptEncoder

__all__ = ["TEMPLATES", "Settings", "edit", "projections"]

TEMPLATES = ("{}", "a {}", "a photo of a {}", "a picture of a {}", "a drawing of a {}")
"""Sentences in which a concept is erased and preserved; "{}" is its place."""


@dataclass(frozen=True)
class Settings:
    """Options of UCE.

    Attributes:
        guide: what the erased concept becomes.
        preserve: what must stay, besides the empty prompt.
        erase_scale, preserve_scale: s_e and s_p; s_p None: max(0.1, 1/number of preserved prompts), as published.
        damping: λ.
        rows: "tail" or "last".
        templates: sentences, each with one "{}".
    """

    guide: str = ""
    preserve: tuple[str, ...] = ()
    erase_scale: float = 1.0
    preserve_scale: float | None = None
    damping: float = 0.5
    rows: str = "tail"
    templates: tuple[str, ...] = TEMPLATES

    def __post_init__(self) -> None:
        _validate.positive("erase_scale", self.erase_scale)
        _validate.positive("damping", self.damping)
        if self.preserve_scale is not None:
            _validate.positive("preserve_scale", self.preserve_scale)
        _validate.choice("rows", self.rows, ("tail", "last"))
        wrong = [t for t in self.templates if t.count("{}") != 1]
        if not self.templates or wrong:
            raise ValueError(f"templates holds {wrong!r}: must be sentences with one '{{}}' each")


def projections(unet: Any) -> dict[str, torch.nn.Linear]:
    """The U-Net's cross-attention key and value projections by name (`….attn2.to_k`, `….attn2.to_v`).

    Raises:
        ValueError: it has none, or one of them has a bias.
    """
    found = {name: m for name, m in unet.named_modules() if name.endswith(("attn2.to_k", "attn2.to_v"))}
    if not found:
        raise ValueError(f"unet is a {type(unet).__name__}: has no modules named '….attn2.to_k' or '….attn2.to_v'")
    for name, module in found.items():
        if not isinstance(module, torch.nn.Linear) or module.bias is not None:
            raise ValueError(f"unet.{name} is {module!r}: must be a linear map without bias")
    return found


def edit(pipe: Any, erase: Sequence[str], settings: Settings | None = None) -> dict[str, Tensor]:
    """The edited projections of a pipeline's U-Net, as a state dict of what changed. The pipeline stays as it is.

    Args:
        pipe: a Stable Diffusion pipeline.
        erase: words or phrases, not empty.
        settings: options; None: as published.

    Returns:
        name → weight, in the U-Net's dtype: `load_pipeline(unet=…)` takes it, saved as safetensors.

    Raises:
        ValueError: nothing to erase, an empty phrase, or a sentence that does not fit into the context.
    """
    settings = settings or Settings()
    erase = list(erase)
    if not erase or not all(phrase.strip() for phrase in erase):
        raise ValueError(f"erase = {erase!r}: must be words or phrases, none of them empty")
    encoder = PromptEncoder.from_pipeline(pipe)
    places = [(template, phrase) for template in settings.templates for phrase in erase]
    mine = _rows(encoder, places, settings.rows)
    theirs = _rows(encoder, [(template, settings.guide) for template, _ in places], settings.rows)
    counts = [min(len(a), len(b)) for a, b in zip(mine, theirs, strict=True)]
    c_ = torch.cat([a[:count] for a, count in zip(mine, counts, strict=True)])
    g_ = torch.cat([b[:count] for b, count in zip(theirs, counts, strict=True)])
    kept = [(template, phrase) for phrase in settings.preserve for template in settings.templates]
    p = torch.cat(_rows(encoder, [("{}", ""), *kept], settings.rows))
    s_e = settings.erase_scale
    s_p = settings.preserve_scale or max(0.1, 1 / (1 + len(kept)))
    width = c_.shape[1]
    gram = settings.damping * torch.eye(width, dtype=torch.float64) + s_e * c_.T @ c_ + s_p * p.T @ p
    pull = settings.damping * torch.eye(width, dtype=torch.float64) + s_e * g_.T @ c_ + s_p * p.T @ p
    moved = torch.linalg.solve(gram, pull.T).T  # pull · gram⁻¹ (gram is symmetric): W = W₀ · moved
    return {
        f"{name}.weight": (module.weight.detach().double().cpu() @ moved).to(module.weight.dtype).contiguous()
        for name, module in projections(pipe.unet).items()
    }


def _rows(encoder: PromptEncoder, places: Sequence[tuple[str, str]], rows: str) -> list[Tensor]:
    """For each (template, phrase) the encodings from the phrase's last token on ("tail") or that one alone ("last"), float64;
    of an empty phrase from the token before its place."""
    tokenized = [encoder.tokenize(template.format(phrase).strip()) for template, phrase in places]
    before = [encoder.tokenize((template.split("{}")[0] + phrase).strip()) for template, phrase in places]
    encoded = encoder.plain(tokenized, batch_size=256).double().cpu()
    first = [max(t.end - 1, 0) for t in before]
    return [h[i : i + 1] if rows == "last" else h[i:] for h, i in zip(encoded, first, strict=True)]
