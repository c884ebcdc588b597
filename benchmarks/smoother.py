"""The adaptive smoother's share of a 50-step generation, and what other ways to run the forward pass gain."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks import subjects
from benchmarks.measure import in_turns

__all__ = ["forward", "share"]

STEPS = 50


def share(quick: bool = False, device: str = "cpu") -> dict[str, float]:
    """Share of the time of one image at 50 steps that is spent in the smoother, by model.

    For the size of Stable Diffusion 1.x (U-Net of 860 M parameters and encoder of 123 M, random weights, 64 × 64
    latents, guidance) three steps are timed and taken fifty times, where there is no GPU; decoding is left out, which
    makes the share larger.
    """
    from certify import load_pipeline, world
    from certify.adaptive import AdaptiveMedianSmoother

    pipe = load_pipeline(device=device)
    pipe.set_progress_bar_config(disable=True)
    adaptive = AdaptiveMedianSmoother.from_pipeline(pipe, ["circle"], **world.SMOOTHING)
    ways = {
        "smoother": lambda: adaptive.encode([subjects.PROMPT], seed=0),
        "generation": lambda: pipe(subjects.PROMPT, num_inference_steps=STEPS, guidance_scale=2.0, output_type="np"),
    }
    times = in_turns(ways, 1 if quick else 5)
    smoothed, plain = times["smoother"].median, times["generation"].median
    result = {"embedded model": smoothed / (smoothed + plain)}
    if not quick:
        result["size of Stable Diffusion 1.x"] = _large_share(device)
    return result


def _large_share(device: str) -> float:
    from diffusers import UNet2DConditionModel

    from certify.adaptive import AdaptiveMedianSmoother, Concept

    encoder, _ = subjects.large_encoder(device)
    pairs = Concept("circle", (("a red circle", "a red shape"), ("a circle", "a shape")))
    adaptive = AdaptiveMedianSmoother.from_encoder(encoder, [pairs], sigma0_relative=0.1, k=1.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=64, cross_attention_dim=768, attention_head_dim=8, layers_per_block=2
        ).eval()
    unet.requires_grad_(False).to(device)
    latents, text = torch.randn(2, 4, 64, 64, device=device), torch.randn(2, 77, 768, device=device)
    smoothed = min(_seconds(lambda: adaptive.encode([subjects.PROMPT], seed=0), device) for _ in range(2))
    steps = [_seconds(lambda: unet(latents, 10, encoder_hidden_states=text), device) for _ in range(4)][1:]
    whole = STEPS * statistics.median(steps)
    return smoothed / (smoothed + whole)


def forward(quick: bool = False, device: str = "cpu") -> dict[str, float]:
    """Draws per second of the ViT-L/14-size encoder relative to float32 as it is: bfloat16, and compiled (without
    compiling)."""
    n = 64
    plain, half = subjects.large(device), subjects.large(device, torch.bfloat16)
    ways: dict[str, Callable[[], Any]] = {}
    functions = {"float32": plain.f, "bfloat16": half.f, "float32, torch.compile": torch.compile(plain.f)}
    for name, f in functions.items():
        subject = half if name == "bfloat16" else plain
        z = subject.noise.draw(subject.y, n, torch.Generator(device=device).manual_seed(0))
        ways[name] = lambda f=f, z=z: f(z).float().sum().item()
    with torch.no_grad():
        times = in_turns(ways, 1 if quick else 3)
    return {name: times["float32"].median / timing.median for name, timing in times.items()}


def _seconds(work: Callable[[], Any], device: str) -> float:
    started = time.perf_counter()
    with torch.no_grad():
        work()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - started
