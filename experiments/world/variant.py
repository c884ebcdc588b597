"""Variants of the embedded model, for experiments across models: another U-Net on the shipped text encoder and autoencoder.

A variant is the shipped U-Net trained further from another seed, or one of another width trained from nothing. It shares
captions, scenes and the judge with the shipped model, so that one number means the same in both.
"""

from __future__ import annotations

from pathlib import Path

import torch

from certify import _validate, load_pipeline
from experiments.world import denoiser

__all__ = ["make"]


def make(work: Path, *, steps: int, seed: int, channels: tuple[int, int] | None = None, rate: float = 1.2e-3) -> Path:
    """Trains a variant and puts it together as a pipeline folder, fp16 safetensors.

    Args:
        work: receives the parts, and the result in `work/pipeline`.
        steps: of training.
        seed: of everything.
        channels: of the U-Net's two levels, multiples of 16: trained from nothing; None: the shipped U-Net trained further.
        rate: peak learning rate.

    Returns:
        The folder, for `certify.load_pipeline`.

    Raises:
        ValueError: channels that are no two multiples of 16.
    """
    _validate.count("steps", steps)
    if channels is not None and (len(channels) != 2 or any(c <= 0 or c % 16 for c in channels)):
        raise ValueError(f"channels = {channels!r}: must be two multiples of 16")
    pipe = load_pipeline()
    parts = {name: work / name for name in ("clip", "tokenizer", "vae", "start", "unet")}
    pipe.text_encoder.save_pretrained(parts["clip"] / "text_encoder")
    pipe.tokenizer.save_pretrained(parts["tokenizer"])
    pipe.vae.save_pretrained(parts["vae"])
    if channels is None:
        pipe.unet.save_pretrained(parts["start"])
    denoiser.train(
        parts["unet"],
        parts["clip"],
        parts["tokenizer"],
        parts["vae"],
        steps=steps,
        seed=seed,
        rate=rate,
        channels=channels or denoiser.CHANNELS,
        start=parts["start"] if channels is None else None,
    )
    target = work / "pipeline"
    with torch.no_grad():
        denoiser.assemble(target, parts["unet"], parts["clip"], parts["tokenizer"], parts["vae"])
    return target
