"""Noise predictor: the U-Net as one function ε(x_t, c, t), whatever it predicts itself.

Stable Diffusion 1.x predicts the noise ε that was added, 2.x and the embedded model the velocity v. With
x_t = √ᾱ_t x_0 + √(1−ᾱ_t) ε and v = √ᾱ_t ε − √(1−ᾱ_t) x_0 each follows from the other:

    ε = √ᾱ_t v + √(1−ᾱ_t) x_t,            ε = (x_t − √ᾱ_t x_0)/√(1−ᾱ_t).

Everything written for ε goes through here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["NoisePredictor"]


class NoisePredictor:
    """ε(x_t, c, t) of a U-Net and its scheduler.

    Args:
        unet: a `UNet2DConditionModel`.
        scheduler: the pipeline's scheduler, for `prediction_type` and ᾱ_t. Its stepping is not used.

    Raises:
        ValueError: the prediction type is unknown.
    """

    def __init__(self, unet: Any, scheduler: Any) -> None:
        kind = scheduler.config.get("prediction_type", "epsilon")
        if kind not in ("epsilon", "v_prediction", "sample"):
            raise ValueError(f"scheduler's prediction_type = {kind!r}: must be 'epsilon', 'v_prediction' or 'sample'")
        self.unet = unet
        self.prediction_type: str = kind
        self.alphas_cumprod: Tensor = scheduler.alphas_cumprod

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of x_t at the model's own image size."""
        side = self.unet.config.sample_size
        height, width = (side, side) if isinstance(side, int) else side
        return int(self.unet.config.in_channels), int(height), int(width)

    def __call__(self, x_t: Tensor, t: int, embeds: Tensor, *, grad: bool = False) -> Tensor:
        """The predicted noise.

        Args:
            x_t: (b, channels, height, width), or (1, …) shared by all rows; in the convention x_t = √ᾱ_t x_0 + √(1−ᾱ_t) ε.
            t: training time step, 0 ≤ t < the scheduler's number of training steps.
            embeds: (b, tokens, width), an encoding T(·).
            grad: keep the graph.

        Returns:
            ε, (b, channels, height, width), the U-Net's dtype.

        Raises:
            ValueError: `t` is outside the schedule, or `x_t` has the wrong shape.
        """
        steps = len(self.alphas_cumprod)
        if not 0 <= t < steps:
            raise ValueError(f"t = {t!r}: must be a whole number in 0 … {steps - 1}")
        if x_t.ndim != 4 or x_t.shape[1] != self.latent_shape[0] or len(x_t) not in (1, len(embeds)):
            raise ValueError(
                f"x_t has shape {tuple(x_t.shape)}: must be (1 or {len(embeds)}, {self.latent_shape[0]}, height, width)"
            )
        weight = next(self.unet.parameters())
        x = x_t.to(weight.device, weight.dtype).expand(len(embeds), -1, -1, -1)
        a = self.alphas_cumprod[t].to(weight.device, torch.float32)
        signal, noise = a.sqrt().to(x.dtype), (1 - a).sqrt().to(x.dtype)
        with torch.set_grad_enabled(grad):
            out: Tensor = self.unet(x, t, encoder_hidden_states=embeds.to(weight.device, weight.dtype)).sample
            if self.prediction_type == "v_prediction":
                return signal * out + noise * x
            if self.prediction_type == "sample":
                return (x - signal * out) / noise
            return out
