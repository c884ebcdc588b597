"""Diffusion: what every method asks of a pipeline. Encodings, predictions, noised latents, half-finished samples.

Methods are published for a U-Net that predicts the noise ε. Their targets are affine in the prediction (e_* − η (e_c −
e_∅), another prompt's prediction, …), so they mean the same for a U-Net that predicts the velocity v; at a given (x_t,
t) the two differ by a factor and a shift that does not depend on the prompt. Losses are taken of what the U-Net itself
predicts, which is what it was trained on: with ε the published loss, with v that divided by ᾱ_t, so that the noisiest
steps, where a v-model decides what is shown, count as well.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from certify.models import PromptEncoder
from certify.models.sampling import decode, sample

__all__ = ["Diffusion"]


class Diffusion:
    """A pipeline taken apart.

    Args:
        pipe: a Stable Diffusion pipeline. Its U-Net is what methods train; the pipeline's scheduler stays as it is.
        original: the U-Net before any edit, where the pipeline's has been edited by a first method; frozen here.

    Attributes:
        original: as given, None where nothing has been edited.
        unet: the pipeline's U-Net, in evaluation mode (dropout off), without gradients until somebody asks for them.
        encoder: the frozen text encoder.
    """

    def __init__(self, pipe: Any, original: Any = None) -> None:
        from diffusers import DDIMScheduler

        self.pipe, self.unet, self.original = pipe, pipe.unet, original
        if original is not None:
            original.eval().requires_grad_(False)
        self.unet.eval().requires_grad_(False)
        self.encoder = PromptEncoder.from_pipeline(pipe)
        self.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
        self.kind = str(self.scheduler.config.prediction_type)
        if self.kind not in ("epsilon", "v_prediction"):
            raise ValueError(f"scheduler's prediction_type = {self.kind!r}: must be 'epsilon' or 'v_prediction'")
        self.alphas = self.scheduler.alphas_cumprod.to(self.device)
        self._encoded: dict[str, Tensor] = {}

    @property
    def device(self) -> torch.device:
        """Where the U-Net is."""
        return next(self.unet.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Of the U-Net."""
        return next(self.unet.parameters()).dtype

    @property
    def timesteps(self) -> int:
        """How many training time steps there are."""
        return len(self.alphas)

    def latent_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        side = self.unet.config.sample_size
        height, width = (side, side) if isinstance(side, int) else side
        return int(self.unet.config.in_channels), int(height), int(width)

    def frozen_copy(self) -> Any:
        """A copy of the U-Net as it is now, for a teacher that does not move."""
        return copy.deepcopy(self.unet).eval().requires_grad_(False)

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Encodings (b, tokens, width); each prompt is encoded once and remembered."""
        new = list(dict.fromkeys(p for p in prompts if p not in self._encoded))
        if new:
            for prompt, encoding in zip(new, self.encoder.plain(new), strict=True):
                self._encoded[prompt] = encoding.to(self.device, self.dtype)
        return torch.stack([self._encoded[p] for p in prompts])

    def predict(self, x_t: Tensor, t: Tensor, c: Tensor, unet: Any = None) -> Tensor:
        """What the U-Net (or another, of the same kind) predicts: (b, channels, height, width), ε or v.

        Args:
            x_t: (b, channels, height, width).
            t: (b,) time steps.
            c: (b, tokens, width), encodings.
            unet: another than the pipeline's.
        """
        out: Tensor = (self.unet if unet is None else unet)(x_t, t, encoder_hidden_states=c).sample
        return out

    def noised(self, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε."""
        a = self._alpha(t)
        return a.sqrt() * x_0 + (1 - a).sqrt() * noise

    def truth(self, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the U-Net should predict for x_t: ε, or v = √ᾱ_t ε − √(1 − ᾱ_t) x_0."""
        a = self._alpha(t)
        return noise if self.kind == "epsilon" else a.sqrt() * noise - (1 - a).sqrt() * x_0

    def noise_of(self, predicted: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """ε of a prediction."""
        a = self._alpha(t)
        return predicted if self.kind == "epsilon" else a.sqrt() * predicted + (1 - a).sqrt() * x_t

    def normal(self, count: int, source: torch.Generator) -> Tensor:
        """Standard normal latents, drawn on the CPU: (count, channels, height, width)."""
        drawn = torch.randn(count, *self.latent_shape(), generator=source)
        return drawn.to(self.device, self.dtype)

    def times(self, count: int, source: torch.Generator) -> Tensor:
        """Uniform training time steps: (count,)."""
        return torch.randint(self.timesteps, (count,), generator=source).to(self.device)

    @torch.no_grad()
    def half_finished(
        self,
        c: Tensor,
        *,
        steps: int,
        guidance: float,
        source: torch.Generator,
        unet: Any = None,
        noise: Tensor | None = None,
        bucket: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """x_t of a DDIM run (η = 0, guidance) that stops at a random step k of `steps`: (x_t, t), t (b,) and the same
        for all rows.

        Args:
            c: (b, tokens, width), encodings of the prompts that are sampled.
            steps, guidance: of the sampler.
            source: draws the noise and k.
            unet: who samples; None: the pipeline's own.
            noise: x_T, (b, channels, height, width); None: drawn.
            bucket: t uniform in the k-th of `steps` equal parts of the training steps, from the noisiest (as ESD's older
                code), else the sampler's own.
        """
        scheduler = copy.deepcopy(self.scheduler)
        scheduler.set_timesteps(steps, device=self.device)
        x = (self.normal(len(c), source) if noise is None else noise) * scheduler.init_noise_sigma
        k = int(torch.randint(steps, (1,), generator=source))
        empty = self.encode([""]).expand(len(c), -1, -1)
        both = torch.cat([empty, c])
        for t in scheduler.timesteps[:k]:
            times = torch.full((2 * len(c),), int(t), device=self.device)
            plain, prompted = self.predict(torch.cat([x, x]), times, both, unet).chunk(2)
            x = scheduler.step(plain + guidance * (prompted - plain), t, x, return_dict=False)[0]
        t = int(scheduler.timesteps[k])
        if bucket:
            low, high = ((left * self.timesteps) // steps for left in (steps - 1 - k, steps - k))
            t = int(torch.randint(low, high, (1,), generator=source))
        return x.to(self.dtype), torch.full((len(c),), t, device=self.device)

    @torch.no_grad()
    def latents(self, images: Tensor) -> Tensor:
        """Latents of images (b, 3, height, width) in [0, 1]: the mode of the autoencoder's posterior, scaled."""
        weight = next(self.pipe.vae.parameters())
        parts = [
            self.pipe.vae.encode((2 * part - 1).to(weight.device, weight.dtype)).latent_dist.mode()
            for part in images.split(64)
        ]
        return (torch.cat(parts) * self.pipe.vae.config.scaling_factor).to(self.device, self.dtype)

    def generated(
        self, prompts: Sequence[str], *, steps: int, guidance: float, source: torch.Generator, batch: int = 64
    ) -> Tensor:
        """Latents of images that the pipeline makes of prompts, with its own scheduler: (b, channels, height, width)."""
        empty, parts = self.encode([""]), []
        for first in range(0, len(prompts), batch):
            c = self.encode(prompts[first : first + batch])
            parts.append(sample(self.pipe, c, empty, self.normal(len(c), source), steps=steps, guidance=guidance))
        return torch.cat(parts)

    def decoded(self, latents: Tensor) -> Tensor:
        """Images (b, 3, height, width) in [0, 1] of latents."""
        return torch.cat([decode(self.pipe, part) for part in latents.split(64)])

    def _alpha(self, t: Tensor) -> Tensor:
        return self.alphas[t.to(self.alphas.device)].to(self.dtype)[:, None, None, None]
