"""The autoencoder: 32×32 images to 8×8 latents of 4 channels and back, trained on rendered scenes.

The latents' mean and standard deviation are folded into the 1×1 convolutions around them afterwards, so that they are
standardised and the pipeline's `scaling_factor` is 1.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from experiments.world import scenes
from experiments.world.training import Run

__all__ = ["build", "standardise", "train"]


def build() -> Any:
    """A new autoencoder (diffusers' `AutoencoderKL`), 0.84 M parameters."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 48, 64),
        layers_per_block=1,
        norm_num_groups=16,
        sample_size=32,
        scaling_factor=1.0,
    )


def train(
    folder: Path, *, steps: int, seed: int = 0, batch: int = 32, rate: float = 2e-3, start: Path | None = None,
    world: Any = scenes,
) -> None:  # fmt: skip
    """Trains and saves the autoencoder in `folder`; a run that was stopped goes on.

    Args:
        folder: where it is saved at the end, and the state of the training on the way.
        steps: how many.
        seed: of scenes, weights and noise.
        batch: images a step.
        rate: peak learning rate.
        start: weights to start from, in place of new ones.
        world: the module with `sample_scenes` and `render`.
    """
    torch.manual_seed(seed)
    vae = build() if start is None else type(build()).from_pretrained(start)
    vae = vae.float().to(memory_format=torch.channels_last).train()
    optimiser = torch.optim.AdamW(vae.parameters(), lr=rate, betas=(0.9, 0.99), weight_decay=1e-4)
    run = Run(folder / "state.safetensors", {"vae": vae}, optimiser, steps=steps, rate=rate)
    source, pool = torch.Generator().manual_seed(1_000_003 * seed + run.step), torch.empty(0)
    for step in run:
        if step % 64 == 0 or not len(pool):
            pool = world.render(world.sample_scenes(64 * batch // 4, source), source)
        rows = torch.randint(len(pool), (batch,), generator=source)
        x = (2 * pool[rows] - 1).contiguous(memory_format=torch.channels_last)
        latents = vae.encode(x).latent_dist
        y = vae.decode(latents.sample()).sample
        loss = F.mse_loss(y, x) + 0.3 * F.l1_loss(y, x) + 2e-6 * latents.kl().mean()
        run.descend(loss, psnr=-10 * math.log10(F.mse_loss(y.clamp(-1, 1), x).item() / 4))
    vae.eval()
    standardise(vae, seed, world=world)
    vae.save_pretrained(folder)
    print(f"done: {held_out_psnr(vae, world=world):.2f} dB on held-out scenes", flush=True)


@torch.no_grad()
def standardise(vae: Any, seed: int = 0, count: int = 2048, world: Any = scenes) -> None:
    """Folds the latents' channel means and standard deviations into `quant_conv` and `post_quant_conv`, in place."""
    source = torch.Generator().manual_seed(seed + 1)
    x = 2 * world.render(world.sample_scenes(count, source), source) - 1
    z = torch.cat([vae.encode(chunk).latent_dist.mode() for chunk in x.split(256)])
    mean, std = z.mean(dim=(0, 2, 3)), z.std(dim=(0, 2, 3))
    channels = len(mean)
    into, back = vae.quant_conv, vae.post_quant_conv
    into.weight[:channels] /= std[:, None, None, None]
    into.bias[:channels] = (into.bias[:channels] - mean) / std
    into.bias[channels:] -= 2 * std.log()
    back.bias += (back.weight[:, :, 0, 0] * mean).sum(dim=1)
    back.weight *= std[None, :, None, None]


@torch.no_grad()
def held_out_psnr(vae: Any, count: int = 1024, seed: int = 99, world: Any = scenes) -> float:
    """Reconstruction of held-out scenes in dB."""
    source = torch.Generator().manual_seed(seed)
    x = 2 * world.render(world.sample_scenes(count, source, held=True), source) - 1
    y = torch.cat([vae.decode(vae.encode(chunk).latent_dist.mode()).sample for chunk in x.split(256)])
    return -10 * math.log10(F.mse_loss(y.clamp(-1, 1), x).item() / 4)
