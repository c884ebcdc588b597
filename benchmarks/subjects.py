"""What is measured: the embedded text encoder, one of the size of Stable Diffusion's, and functions that cost next to
nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from certify import GaussianNoise

__all__ = ["PROMPT", "Subject", "cheap", "clip", "embedded", "large", "small_clip"]

PROMPT = "a photo of a red circle"


@dataclass(frozen=True)
class Subject:
    """A function to certify: a batch (b, *input) → (b, *output), at `y` with `noise`."""

    name: str
    f: Callable[[Tensor], Tensor]
    y: Tensor
    noise: GaussianNoise
    outputs: int


def embedded() -> Subject:
    """The embedded model's text encoder, with the noise that the adaptive smoother gives a prompt: 1 280 outputs."""
    from certify import world
    from certify.adaptive import AdaptiveMedianSmoother
    from certify.models import load_text_encoder

    adaptive = AdaptiveMedianSmoother.from_encoder(load_text_encoder(), ["circle"], **world.SMOOTHING)
    problem = adaptive.problem(PROMPT)
    return Subject("embedded text encoder", problem.f, problem.y, problem.noise, problem.y.numel())


def large(device: str = "cpu", dtype: torch.dtype = torch.float32) -> Subject:
    """A CLIP ViT-L/14 text encoder (123 M parameters, random weights): 77 × 768 = 59 136 outputs."""
    encoder, tokenized = large_encoder(device, dtype)
    y = encoder.embed(tokenized)
    noise = GaussianNoise(0.1 * float(y.double().std()))
    return Subject("ViT-L/14 text encoder", lambda z: encoder.encode(z, tokenized), y, noise, y.numel())


def large_encoder(device: str = "cpu", dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """The encoder itself, with a tokenized prompt."""
    size = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    return clip(device, dtype, **size)


def clip(device: str = "cpu", dtype: torch.dtype = torch.float32, **size: int) -> tuple[Any, Any]:
    """A CLIP text encoder, with a tokenized prompt (the embedded model's tokenizer: what the words are does not matter)."""
    from transformers import CLIPTextConfig, CLIPTextModel

    from certify.models import PromptEncoder, load_text_encoder

    tokenizer = load_text_encoder().tokenizer
    tokenizer.model_max_length = 77
    config = CLIPTextConfig(
        vocab_size=49408,
        **size,
        max_position_embeddings=77,
        hidden_act="quick_gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CLIPTextModel(config).eval().requires_grad_(False).to(device, dtype)
    encoder = PromptEncoder(tokenizer, model)
    return encoder, encoder.tokenize(PROMPT)


def small_clip() -> Subject:
    """A CLIP text encoder with two layers of width 64 (random weights): 77 × 64 = 4 928 outputs."""
    encoder, tokenized = clip(hidden_size=64, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4)
    y = encoder.embed(tokenized)
    noise = GaussianNoise(0.1 * float(y.double().std()))
    return Subject("small CLIP text encoder", lambda z: encoder.encode(z, tokenized), y, noise, y.numel())


def cheap(outputs: int) -> Subject:
    """A perceptron of one hidden layer, 64 → 256 → outputs: almost all the time is the certificate's own."""
    source = torch.Generator().manual_seed(0)
    first = torch.randn(64, 256, generator=source) / 8
    second = torch.randn(256, outputs, generator=source) / 16

    def f(z: Tensor) -> Tensor:
        return torch.tanh(z @ first) @ second

    return Subject(f"perceptron, {outputs:,} outputs", f, torch.zeros(64), GaussianNoise(0.25), outputs)
