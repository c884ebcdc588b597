"""Covariance policies: where Σ comes from, and what may be claimed then (THEORY T7).

A smoothing theorem is about a *fixed* Σ. A smoother that computes Σ(y) from its input hands the adversary, who moves y,
a hold on Σ, and the theorem says nothing. That is no technicality. In one dimension, with f(y) = |y| and
σ(y) = 0.3 exp(3 max(tanh y, 0)), at y = −0.05: with Σ(y) fixed, T1 bounds the smoothed median over ρ = 1 by .429, and the
smoother that adapts reaches .452 within that radius. So every claim names its policy:

- "frozen": Σ = Σ(y) is fixed when the certificate is issued. The claim is about the smoother with that Σ, an object of its
  own (`AdaptiveMedianSmoother.freeze`), and not about one that adapts.
- "noise-then-adapt": first noise of a fixed size, then everything else, computed from what came out. No assumption:

      z = y + σ_min ξ,      x = z + sqrt( max(σ(z)² − σ_min², 0) ) η,      output f(x),      ξ, η ~ N(0, I).

  x is a random function of z alone, so T1–T6 hold for it with the noise σ_min: for ‖δ‖₂ ≤ σ_min ρ. What is adapted, and how,
  does not matter, as long as y is read nowhere else. Adding the second noise to y instead of z reads it a second time, and
  is unsound: σ(z) tells one noisy copy of y, the input x another, and the shift of both is worth √2 ρ.
- "memory" (Eiras et al. 2022): certified regions are kept (`certify.adaptive.memory`); a query inside one is smoothed with
  its Σ. Regions are disjoint, so every point of a region has the one Σ that its claim was made with.

What is deployed reads y through a number of noisy copies, and T5 charges √copies for them. K draws under "noise-then-adapt"
can share:

    sharing     what the K draws see                                    copies
    "none"      z_k and σ(z_k), each its own                            K
    "sigma"     z_k, each its own; σ(z_0) from one more copy            K + 1
    "input"     one z and one σ(z); only the second noise is their own  1
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from certify import _validate
from certify._floats import mean
from certify._names import POLICIES, SHARING, SMOOTHERS
from certify._random import has_float64, normals
from certify.montecarlo import median

__all__ = ["POLICIES", "SHARING", "SMOOTHERS", "adapted", "copies", "noise_then_adapt", "smoothed"]

# Normals drawn at a time, about: bounds memory.
_TOGETHER = 2**20


def copies(replicas: int, sharing: str = "none") -> int:
    """How many noisy copies of y K draws see: the number under the root in T5.

    Args:
        replicas: K.
        sharing: one of `SHARING`.

    >>> [copies(13, sharing) for sharing in SHARING]
    [13, 14, 1]
    """
    replicas = _validate.count("replicas", replicas)
    return {"none": replicas, "sigma": replicas + 1, "input": 1}[_validate.choice("sharing", sharing, SHARING)]


def adapted(
    z: Tensor,
    sigma_of: Callable[[Tensor], Tensor],
    sigma_min: float | Tensor,
    generator: torch.Generator,
    *,
    replicas: int = 1,
    sharing: str = "none",
) -> Tensor:
    """The K inputs that f sees, from noisy copies of y: the second step of noise-then-adapt.

    Equation
        x_k = z_k + sqrt( max(σ(z_k)² − σ_min², 0) ) η_k,  η_k ~ N(0, I), with what `sharing` says in place of z_k and σ(z_k).

    Reference
        THEORY T7.2.

    Args:
        z: noisy copies of the input, (b, copies(replicas, sharing), *input). They are all that is read of it.
        sigma_of: batch (b, *input) → standard deviations ≥ 0, with as many axes, broadcastable to the batch.
        sigma_min: that of the noise in z, a number or broadcastable to one input.
        generator: on z's device or on the CPU; draws η.
        replicas: K.
        sharing: one of `SHARING`.

    Returns:
        (b, K, *input), z's dtype and device; the sum is float64, rounded once.

    Raises:
        ValueError: z holds another number of copies, or σ is negative or NaN.
    """
    expected = copies(replicas, sharing)
    if z.ndim < 2 or z.shape[1] != expected:
        raise ValueError(
            f"z has shape {tuple(z.shape)}: must be (batch, {expected}, *input) for replicas = {replicas}, "
            f"sharing = {sharing!r}"
        )
    if sharing == "none":
        base, read = z, z
    elif sharing == "sigma":
        base, read = z[:, 1:], z[:, :1]
    else:
        base, read = z.expand(-1, replicas, *z.shape[2:]), z
    where = z.device if has_float64(z.device) else torch.device("cpu")
    # A copy: z is needed again, and sigma_of may work in place.
    sigma = sigma_of(read.flatten(0, 1).clone()).to(where).double()
    if sigma.ndim != z.ndim - 1 or len(sigma) != len(read.flatten(0, 1)):
        raise ValueError(
            f"sigma_of returned shape {tuple(sigma.shape)} for inputs {tuple(read.flatten(0, 1).shape)}: must have as many "
            "axes, the first of them the batch"
        )
    if not bool((sigma >= 0).all()):
        raise ValueError("sigma_of returned a negative standard deviation or NaN: every entry must be >= 0")
    least = torch.as_tensor(sigma_min, dtype=torch.float64).to(where)
    # sqrt(σ² − σ_min²), without squares that overflow, and to all digits where σ is hardly above σ_min.
    extra = (sigma - least).clamp_min(0).sqrt() * (sigma + least).sqrt()
    extra = extra.unflatten(0, read.shape[:2]).expand(-1, base.shape[1], *([-1] * (extra.ndim - 1)))
    made = torch.empty(base.shape, dtype=z.dtype, device=z.device)
    together = max(1, _TOGETHER // max(1, made[:1].numel()))
    for part, start, scale in zip(made.split(together), base.split(together), extra.split(together), strict=True):
        eta = normals(part.shape, generator)
        eta.mul_(scale.to(eta.device)).add_(start.to(eta.device).double())
        part.copy_(eta.to(z.dtype))
    return made


def noise_then_adapt(
    f: Callable[[Tensor], Tensor], sigma_of: Callable[[Tensor], Tensor], sigma_min: float | Tensor
) -> Callable[..., Tensor]:
    """f behind an adaptive noise, as a random function of one noisy input: what bounds take under this policy.

    Equation
        z ↦ f( z + sqrt( max(σ(z)² − σ_min², 0) ) η ),  η ~ N(0, I)

    Reference
        THEORY T7.2: with the noise `GaussianNoise(sigma_min)` every bound of the toolkit holds for it, for ‖δ‖₂ ≤ σ_min ρ.

    Args:
        f: batch (b, *input) → (b, *output).
        sigma_of, sigma_min: as in `adapted`.

    Returns:
        A function (z, generator) → (b, *output).

    >>> from certify import GaussianNoise, percentile_bounds
    >>> f = noise_then_adapt(torch.abs, lambda z: 0.3 + z.clamp_min(0), 0.3)
    >>> b = percentile_bounds(f, torch.tensor([-0.05]), GaussianNoise(0.3), rho=1.0, n=2000)
    >>> bool(b.upper > b.center)
    True
    """
    if not callable(f) or not callable(sigma_of):
        raise TypeError(f"f = {f!r}, sigma_of = {sigma_of!r}: both must be callable on a batch (b, *input)")
    _validate.evaluating("f", f)
    _validate.evaluating("sigma_of", sigma_of)

    def defended(z: Tensor, generator: torch.Generator) -> Tensor:
        return f(adapted(z[:, None], sigma_of, sigma_min, generator)[:, 0])

    return defended


def smoothed(outputs: Tensor, smoother: str) -> Tensor:
    """(b, K, *output) → (b, *output): the median (for even K the average of the two middle values) or the mean."""
    _validate.choice("smoother", smoother, SMOOTHERS)
    return median(outputs.transpose(0, 1)) if smoother == "median" else mean(outputs, dim=1)
