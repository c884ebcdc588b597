"""On a GPU: draws per second, and the share of the device's own rate of matrix products that the certificate reaches."""

from __future__ import annotations

import time
from typing import Any

import torch

from benchmarks import subjects
from certify import mse_bound

__all__ = ["rates"]


def rates(quick: bool = False) -> dict[str, Any]:
    """Draws a second and share of the measured matrix-product rate, for the ViT-L/14-size encoder in float32, TF32 and
    bfloat16.

    Raises:
        RuntimeError: there is no CUDA device.
    """
    if not torch.cuda.is_available():
        raise RuntimeError("device: there is no CUDA device here")
    n = 2_048 if quick else 20_480
    found: dict[str, Any] = {"device": torch.cuda.get_device_name()}
    for name, dtype, tf32 in (
        ("float32", torch.float32, False),
        ("TF32", torch.float32, True),
        ("bfloat16", torch.bfloat16, False),
    ):
        torch.backends.cuda.matmul.allow_tf32 = tf32
        subject = subjects.large("cuda", dtype)
        per_draw = _operations(subject)
        peak = _matrix_rate(dtype)

        def bound(draws: int, subject: subjects.Subject = subject) -> None:
            mse_bound(
                subject.f, subject.y, subject.noise, rho=1.0, n=draws, pilot=64, method="coordinatewise", batch_size=512
            )

        bound(1024)
        torch.cuda.synchronize()
        started = time.perf_counter()
        bound(n)
        torch.cuda.synchronize()
        a_second = n / (time.perf_counter() - started)
        found[name] = {"draws a second": a_second, "share of matrix products": a_second * per_draw / peak}
    torch.backends.cuda.matmul.allow_tf32 = False
    return found


def _operations(subject: subjects.Subject) -> float:
    """Floating-point operations of one draw, as torch counts them."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        subject.f(subject.y[None])
    return float(counter.get_total_flops())


def _matrix_rate(dtype: torch.dtype, size: int = 8192, repeats: int = 10) -> float:
    a = torch.randn(size, size, device="cuda", dtype=dtype)
    for _ in range(3):
        a @ a
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(repeats):
        a @ a
    torch.cuda.synchronize()
    return 2 * size**3 * repeats / (time.perf_counter() - started)
