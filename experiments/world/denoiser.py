"""The denoiser: a small U-Net that predicts v in the latent space, conditioned on the frozen text tower."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from certify.world.towers import WIDTH
from experiments.world import clip, scenes
from experiments.world.training import Run

__all__ = ["CHANNELS", "assemble", "build", "scheduler", "train"]

CHANNELS = (64, 96)
"""Of the shipped U-Net's two levels."""


def build(channels: tuple[int, int] = CHANNELS, width: int = WIDTH) -> Any:
    """A new U-Net (diffusers' `UNet2DConditionModel`), 8×8×4 latents, cross-attention at both levels to a text `width` wide."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=channels,
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=width,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def scheduler() -> Any:
    """The sampler: DDIM, v-prediction, cosine betas, trailing time steps down to zero terminal SNR."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
    )


@torch.no_grad()
def latents_of(vae: Any, rows: Tensor, source: torch.Generator, world: Any = scenes) -> Tensor:
    """Latents (b, 4, 8, 8) of freshly rendered scenes (b, attributes)."""
    images = 2 * world.render(rows, source) - 1
    return torch.cat([vae.encode(chunk).latent_dist.mode() for chunk in images.split(256)])


def first_captions(rows: Tensor, tokenizer: Any, rng: random.Random) -> Tensor:
    """Token ids of fresh captions of the first world's scenes; one in ten is empty."""
    ids, _ = clip.batch_of_captions(rows.tolist(), tokenizer, rng, tear=False)
    ids[: len(rows) // 10] = tokenizer("", padding="max_length", max_length=ids.shape[1], return_tensors="pt").input_ids
    return ids


def train(
    folder: Path, clip_folder: Path, tokenizer_folder: Path, vae_folder: Path, *, steps: int, seed: int = 0,
    batch: int = 64, rate: float = 1.2e-3, pool_size: int = 16384, start: Path | None = None,
    channels: tuple[int, int] = CHANNELS, world: Any = scenes,
    captions: Callable[[Tensor, Any, random.Random], Tensor] = first_captions,
) -> None:  # fmt: skip
    """Trains the U-Net and saves its running average in `folder`, on the way and at the end. A run that was stopped goes on.

    Args:
        folder: receives the averaged U-Net, and the state of the training.
        clip_folder, tokenizer_folder, vae_folder: what the earlier stages saved.
        steps: how many.
        seed: of everything.
        batch: latents a step.
        rate: peak learning rate.
        pool_size: scenes rendered and encoded beforehand; an eighth is replaced every 400 steps.
        start: start from an averaged U-Net saved here, in place of a new one.
        channels: of a new U-Net's two levels.
        world: the module with the scenes.
        captions: token ids for a batch of scenes, some of them of the empty text.
    """
    from diffusers import AutoencoderKL
    from transformers import CLIPTextModel, CLIPTokenizer

    torch.manual_seed(seed)
    tokenizer = CLIPTokenizer.from_pretrained(tokenizer_folder)
    text = CLIPTextModel.from_pretrained(clip_folder / "text_encoder").eval()
    vae = AutoencoderKL.from_pretrained(vae_folder).eval()
    unet = build(channels, text.config.hidden_size) if start is None else type(build()).from_pretrained(start)
    unet = unet.to(memory_format=torch.channels_last).train()
    average = copy.deepcopy(unet).eval().requires_grad_(False)
    alphas = scheduler().alphas_cumprod
    optimiser = torch.optim.AdamW(unet.parameters(), lr=rate, betas=(0.9, 0.99), weight_decay=0.01)
    parts = {"unet": unet, "average": average}
    run = Run(folder / "state.safetensors", parts, optimiser, steps=steps, rate=rate)
    rng, source = random.Random(f"{seed} {run.step}"), torch.Generator().manual_seed(1_000_003 * seed + run.step + 5)
    rows = world.sample_scenes(pool_size, source)
    latents = torch.cat([latents_of(vae, part, source, world) for part in rows.split(2048)])
    print(f"{sum(p.numel() for p in unet.parameters()):,} parameters; latents {latents.std():.3f}", flush=True)
    for step in run:
        if step and step % 400 == 0:
            new = torch.randint(len(rows), (pool_size // 8,), generator=source)
            rows[new] = world.sample_scenes(len(new), source)
            latents[new] = latents_of(vae, rows[new], source, world)
        chosen = torch.randint(len(rows), (batch,), generator=source)
        with torch.no_grad():
            h = text(input_ids=captions(rows[chosen], tokenizer, rng)).last_hidden_state
        x = latents[chosen]
        t = torch.randint(1000, (batch,), generator=source)
        noise = torch.randn(x.shape, generator=source)
        a, s = alphas[t].sqrt()[:, None, None, None], (1 - alphas[t]).sqrt()[:, None, None, None]
        x_t = (a * x + s * noise).contiguous(memory_format=torch.channels_last)
        run.descend(F.mse_loss(unet(x_t, t, h).sample, a * noise - s * x))
        decay = min(0.999, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(unet.parameters()), 1 - decay)
        if (step + 1) % 250 == 0:
            average.save_pretrained(folder)
    average.save_pretrained(folder)


def assemble(folder: Path, unet: Path, clip_folder: Path, tokenizer_folder: Path, vae: Path) -> None:
    """Puts the stages together as a Stable Diffusion pipeline folder, fp16 safetensors."""
    from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    pipe = StableDiffusionPipeline(
        tokenizer=CLIPTokenizer.from_pretrained(tokenizer_folder),
        text_encoder=CLIPTextModel.from_pretrained(clip_folder / "text_encoder"),
        unet=UNet2DConditionModel.from_pretrained(unet),
        vae=AutoencoderKL.from_pretrained(vae),
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        image_encoder=None,
        requires_safety_checker=False,
    )
    pipe.to(torch.float16).save_pretrained(folder, safe_serialization=True)
    for file in folder.rglob("config.json"):  # where the parts came from is nobody's business
        config = json.loads(file.read_text(encoding="utf-8"))
        config.pop("_name_or_path", None)
        file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
