"""Noise predictor: the U-Net as one function ε(x_t, c, t), whatever it predicts itself.

Stable Diffusion 1.x predicts the noise ε that was added, 2.x and the embedded model the velocity v. With
x_t = √ᾱ_t x_0 + √(1−ᾱ_t) ε and v = √ᾱ_t ε − √(1−ᾱ_t) x_0 each follows from the other:

    ε = √ᾱ_t v + √(1−ᾱ_t) x_t,            ε = (x_t − √ᾱ_t x_0)/√(1−ᾱ_t).

Everything written for ε goes through here. Where ᾱ_t is close to 0, at the first steps of a sampler, ε is close to x_t whatever
a v-predicting model says: two predictions of noise cannot differ there by more than √ᾱ_t times what the velocities do.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from certify import _validate
from certify.models.evaluation import evaluated
from certify.models.offloaded import device_of
from certify.models.trajectory import Trajectory

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
        if x_t.ndim != 4 or x_t.shape[1] != self.latent_shape[0] or len(x_t) not in (1, len(embeds)):
            raise ValueError(
                f"x_t has shape {tuple(x_t.shape)}: must be (1 or {len(embeds)}, {self.latent_shape[0]}, height, width)"
            )
        rows, alpha_bar = len(embeds), self.alpha_bar(t)
        times, levels = torch.full((rows,), float(t)), torch.full((rows,), alpha_bar)
        return self._predict(x_t.expand(rows, -1, -1, -1), times, levels, embeds, grad)

    def at_rows(self, x: Tensor, t: Tensor, alpha_bar: Tensor, embeds: Tensor) -> Tensor:
        """ε, a row at a point of its own: (b, channels, height, width) latents as the U-Net is given them, (b,) time steps and
        levels, (b, tokens, width) encodings."""
        return self._predict(x, t, alpha_bar, embeds, False)

    def alpha_bar(self, t: int) -> float:
        """ᾱ_t of the training schedule.

        Raises:
            ValueError: `t` is outside it.
        """
        steps = len(self.alphas_cumprod)
        if int(t) != t or not 0 <= t < steps:
            raise ValueError(f"t = {t!r}: must be a whole number in 0 … {steps - 1}")
        return float(self.alphas_cumprod[int(t)])

    def at(self, x_t: Tensor, t: int) -> Trajectory:
        """One (x_t, t) as a trajectory of a single point.

        Args:
            x_t: (channels, height, width).
            t: as above.
        """
        latent = _validate.finite_tensor("x_t", x_t)
        if latent.ndim != 3:
            raise ValueError(f"x_t has shape {tuple(latent.shape)}: must be ({self.latent_shape[0]}, height, width)")
        return Trajectory(latent[None], torch.tensor([float(t)]), torch.tensor([self.alpha_bar(t)]))

    def along(self, trajectory: Trajectory, embeds: Tensor, *, batch: int = 64, grad: bool = False) -> Tensor:
        """The noise predicted at every point of a trajectory under every encoding: ε(x_j, c_i, t_j).

        Args:
            trajectory: the fixed (x_j, t_j).
            embeds: (b, tokens, width), encodings c_i.
            batch: rows in one call of the U-Net; a row is one pair of an encoding and a point.
            grad: keep the graph.

        Returns:
            (b, points, channels, height, width), the U-Net's dtype. Not weighted.

        Raises:
            ValueError: the latents or the encodings have another shape than the U-Net's.
        """
        if embeds.ndim != 3:
            raise ValueError(f"embeds has shape {tuple(embeds.shape)}: must be (b, tokens, width)")
        if trajectory.x.shape[1] != self.latent_shape[0]:
            raise ValueError(
                f"trajectory's x has shape {tuple(trajectory.x.shape)}: must be "
                f"(points, {self.latent_shape[0]}, height, width)"
            )
        b, points = len(embeds), len(trajectory)
        row, point = torch.arange(b).repeat_interleave(points), torch.arange(points).repeat(b)
        parts = [
            self._predict(trajectory.x[j], trajectory.t[j], trajectory.alpha_bar[j], embeds[i.to(embeds.device)], grad)
            for i, j in zip(row.split(batch), point.split(batch), strict=True)
        ]
        return torch.cat(parts).unflatten(0, (b, points))

    def _predict(self, x: Tensor, t: Tensor, alpha_bar: Tensor, embeds: Tensor, grad: bool) -> Tensor:
        device, dtype = device_of(self.unet), next(self.unet.parameters()).dtype
        x = x.to(device, dtype)
        times, a = (column.to(torch.float32).to(device) for column in (t, alpha_bar))
        a = a[:, None, None, None]
        signal, noise = a.sqrt().to(x.dtype), (1 - a).sqrt().to(x.dtype)
        with torch.set_grad_enabled(grad), evaluated(self.unet):
            out: Tensor = self.unet(x, times, encoder_hidden_states=embeds.to(device, dtype)).sample
            x, signal, noise = (part.to(out.device) for part in (x, signal, noise))  # where an offloaded one was run
            if self.prediction_type == "v_prediction":
                return signal * out + noise * x
            if self.prediction_type == "sample":
                return (x - signal * out) / noise
            return out
