"""The deployed encodings of prompts: medians or means of noisy copies, from fresh draws of a generator."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from certify._random import normals
from certify.adaptive.policies import smoothed
from certify.adaptive.token_noise import TokenNoise
from certify.defence.problem import Rows
from certify.models.encoders import PipelineEncoder, Reading

__all__ = ["deployed_rows"]


def deployed_rows(
    encoder: PipelineEncoder,
    reading: Reading,
    noises: Sequence[Sequence[TokenNoise]],
    generator: torch.Generator,
    *,
    n: int,
    smoother: str,
    batch_size: int,
) -> Rows:
    """The deployed encodings of the prompts of one call of `encode_prompt`, from fresh draws of a generator.

    Prompts stand together as they stand in the pipeline's own call, n times. A prompt without any noise has the encoding that
    the pipeline itself computes.

    `JointProblem.deployed` takes the same median of copies of *one* prompt that a statement has drawn. Here prompts of a call
    are encoded together, since some pipelines pad to the longest and do not mask, and noise is drawn where there is some.

    Args:
        encoder: the pipeline's text encoders.
        reading: the prompts.
        noises: for each prompt, for each lookup.
        generator: draws the noise.
        n, smoother: how many noisy encodings, and their "median" or "mean".
        batch_size: rows in one call of the encoders.

    Returns:
        For every slot a tensor a prompt.

    Raises:
        ValueError: an encoding is not finite.
    """
    prompts, slots = len(reading.call.prompts), reading.frame.slots
    plain = [slot.rows(reading.tree, prompts) for slot in slots]
    noisy = [any(any(noise.sigma) for noise in row) for row in noises]
    if not any(noisy):
        return plain
    together = max(1, batch_size // prompts)
    draws: list[list[list[Tensor]]] = [[[] for _ in range(prompts)] for _ in slots]
    for done in range(0, n, together):
        copies = min(together, n - done)
        z = [_drawn(reading, noises, part, copies, generator) for part in range(len(reading.lookups))]
        tree, _ = encoder.run(reading.call, copies=copies, replacements=z)
        for kept, slot in zip(draws, slots, strict=True):
            for i, row in enumerate(slot.rows(tree, copies * prompts)):
                kept[i % prompts].append(row)
    result: Rows = []
    for own, kept in zip(plain, draws, strict=True):
        rows = [
            smoothed(torch.stack(k)[None], smoother)[0] if some else row
            for k, some, row in zip(kept, noisy, own, strict=True)
        ]
        if not all(bool(torch.isfinite(row).all()) for row in rows):
            raise ValueError(
                f"encoding holds NaN or infinity: must be finite; in {rows[0].dtype} the largest σ may be too large, or the "
                "text encoder's weights are broken"
            )
        result.append(rows)
    return result


def _drawn(
    reading: Reading,
    noises: Sequence[Sequence[TokenNoise]],
    part: int,
    copies: int,
    generator: torch.Generator,
) -> Tensor:
    """Noisy copies of the embeddings of one lookup: (copies × prompts, tokens, width)."""
    y = reading.lookups[part].embeddings
    z = y.repeat(copies, 1, 1)
    for row, noise in enumerate(noises):
        sigma = torch.tensor(noise[part].sigma, dtype=torch.float64)
        where = sigma.nonzero()[:, 0]
        if len(where):
            eta = normals((copies, len(where), y.shape[-1]), generator).cpu() * sigma[where, None]
            z[row :: len(noises), where.to(z.device)] = (y[row].cpu()[where].double() + eta).to(z)
    return z
