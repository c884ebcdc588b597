"""What is known of a function's values before a single draw: a box, and for a LayerNorm an ellipsoid a token.

A final LayerNorm with gain γ and offset β sends every input to h with Σ_i ((h_i − β_i)/γ_i)² ≤ w over its width w, hence
|h_i − β_i| ≤ |γ_i| sqrt(w − 1) (the entries of a normalised vector sum to zero). The coordinate-wise median of such
vectors is in general not one of them: it obeys Σ_i ((h_i − β_i)/γ_i)² ≤ 2w. A bound that finds no order statistic falls
back on this support, and every bound is cut down to it.

A final RMSNorm (T5, Qwen, Gemma, Llama) divides by the root of the mean square and subtracts nothing: Σ_i (h_i/γ_i)² ≤ w, hence
|h_i| ≤ |γ_i| sqrt(w) (`rms_norm_support` has the proof).

Reference: THEORY T3, "A-priori support". Both limits are inflated for the arithmetic's rounding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from certify import _validate
from certify._floats import length, square, unit_of, up
from certify._records import Shown

__all__ = ["Inside", "Support", "as_support", "is_rms_norm", "layer_norm_support", "rms_norm_support"]


@dataclass(frozen=True)
class Support(Shown):
    """An a-priori box [lower, upper] for a function's outputs, and perhaps an ellipsoid for each row of them.

    Attributes:
        lower, upper: tensors that broadcast to the output's shape; −∞ and +∞ where nothing is known.
        gain, offset: |γ| (inflated for rounding) and β, shape (width,), of the LayerNorm that every row of the output went
            through; None without.
    """

    lower: Tensor
    upper: Tensor
    gain: Tensor | None = None
    offset: Tensor | None = None

    def __post_init__(self) -> None:
        for name in ("lower", "upper"):
            object.__setattr__(self, name, _validate.tensor(f"support's {name}", getattr(self, name)))
        if bool((self.lower > self.upper).any()) or bool(torch.isnan(self.lower).any() | torch.isnan(self.upper).any()):
            raise ValueError("support = (lower, upper): needs lower <= upper everywhere and no NaN")

    @classmethod
    def box(cls, lower: Any, upper: Any) -> Support:
        """The support of outputs between two limits: numbers, or arrays that broadcast to the output's shape.

        >>> Support.box(0, 1).over((2,))[1]
        tensor([1., 1.], dtype=torch.float64)
        """
        return cls(*(_validate.tensor(f"support's {n}", v) for n, v in (("lower", lower), ("upper", upper))))

    @classmethod
    def ball(cls, width: int, radius: float = 1.0, *, relative_slack: float = 1e-5) -> Support:
        """The support of outputs whose rows are at most `radius` long, such as embeddings of unit length.

        Equation
            ‖h‖ ≤ radius for every row h, and ‖median‖² ≤ 2 radius² for a coordinate-wise median of rows (T3, with γ_i =
            radius / sqrt(w) and β = 0).

        Args:
            width: w ≥ 1, entries of a row.
            radius: > 0.
            relative_slack: widening for the rounding of the normalisation; the default is for float32.

        Returns:
            A `Support` whose tensors have shape (w,).

        Raises:
            ValueError, TypeError: an argument out of range.

        >>> Support.ball(384).reach(torch.zeros(384)).item() < 1.001
        True
        """
        width, radius = _validate.count("width", width), _validate.positive("radius", radius)
        radius *= 1 + _validate.positive("relative_slack", relative_slack)
        side = torch.full((width,), radius, dtype=torch.float64)
        return cls(-side, side, side / math.sqrt(width), torch.zeros_like(side))

    def over(self, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """(lower, upper) over an output of `shape`, float64, on the CPU."""
        sides = []
        for name, side in (("support[0]", self.lower), ("support[1]", self.upper)):
            _validate.broadcastable(name, side, shape, "the output's shape")
            sides.append(side.detach().to("cpu", torch.float64).expand(shape))
        return sides[0], sides[1]

    def reach(self, center: Tensor) -> Tensor:
        """What ‖h_r − c_r‖ of a row r of f's output never exceeds: (rows,), float64, on the CPU; ∞ where nothing is known (T3).

        Equation
            max over t in the box with Σ_i ((t_i − β_i)/γ_i)² ≤ w of ‖t − c‖²
                ≤  τ w + Σ_i max over lower_i ≤ t_i ≤ upper_i of { (t_i − c_i)² − τ ((t_i − β_i)/γ_i)² }   for every τ ≥ 0,

        with the best τ for each row (Lagrange's, and exact where the box does not cut into the ellipsoid; τ = 0 is the far
        corner of the box, all there is without a LayerNorm).

        Args:
            center: c, shape (*output); a row is an entry of the first axis, where there is more than one axis.
        """
        c = center.detach().to("cpu", torch.float64)
        rows = c.shape[0] if c.ndim > 1 else 1
        lower, upper = self.over(tuple(c.shape))
        reach = torch.maximum(upper - c, c - lower).clamp_min(0)
        if self.gain is not None and self.offset is not None:
            width = self.gain.numel()
            gain, offset = self.gain.to("cpu", torch.float64), self.offset.to("cpu", torch.float64)
            unit = unit_of(lower, upper, gain, offset, c)
            box = lower.reshape(-1, width) / unit, upper.reshape(-1, width) / unit
            squares = _furthest(*box, gain / unit, offset / unit, c.reshape(-1, width) / unit)
            reach = squares.clamp_min(0).sqrt() * unit
        return length(reach.reshape(rows, -1), dim=1) * (1 + 1e-9)

    def median_cap(self, center: Tensor) -> float:
        """A number that ‖median − center‖² never exceeds, by the ellipsoid of each row; +∞ without one (T3)."""
        return square(self.median_reach(center), 1e-12)

    def median_reach(self, center: Tensor) -> float:
        """A number that ‖median − center‖ never exceeds, by the ellipsoid of each row; +∞ without one (T3).

        With h = β + γ∘u and ‖u‖² ≤ 2w a row is at most (max|γ| sqrt(2w) + ‖β − c‖)² away.
        """
        if self.gain is None or self.offset is None:
            return math.inf
        width = self.gain.numel()
        rows = center.detach().to("cpu", torch.float64).reshape(-1, width)
        reach = float(self.gain.abs().max()) * math.sqrt(2 * width)
        distance = length(self.offset.detach().to("cpu", torch.float64) - rows, dim=1)
        return up(float(length(reach + distance)), 1e-9)


def _furthest(lower: Tensor, upper: Tensor, gain: Tensor, offset: Tensor, c: Tensor) -> Tensor:
    """The display of `Support.reach`, minimised over τ: squares, shape (rows,). All arguments (rows, width) or (width,)."""
    # The gain holds a row's share of the rounding of β for the row as a whole. Written entry by entry, with ulp ε and the
    # slack s ≥ 64 ε, that is Σ ((t − β)/γ)² ≤ w (1 + 2 (ε/s)²): the square is convex in what the two shares explain.
    w = gain.numel() * (1 + 2 / 64**2)
    precision = torch.where(gain > 0, gain.clamp_min(1e-150) ** -2, 0.0)  # without gain the box is a point
    steepest = float(gain.max())
    low = torch.zeros(c.shape[0], dtype=torch.float64)
    high = (steepest**2 + steepest * (offset - c).norm(dim=1) / math.sqrt(w)) * (1 + 1e-9)

    def at(tau: Tensor) -> tuple[Tensor, Tensor]:
        """The display at τ and its slope: w less what the entries found spend of it."""
        pull = tau[:, None] * precision
        bend = 1 - pull
        flattest = (c - pull * offset) / torch.where(bend < 0, bend, -1.0)
        inside = torch.minimum(torch.maximum(flattest, lower), upper)
        ends = [torch.where(bend < 0, inside, end) for end in (lower, upper)]
        values = [((t - c).square() - pull * (t - offset).square()).nan_to_num(nan=math.inf) for t in ends]
        t = torch.where(values[0] > values[1], ends[0], ends[1])
        return tau * w + torch.maximum(*values).sum(dim=1), w - (precision * (t - offset).square()).sum(dim=1)

    best = torch.minimum(at(low)[0], at(high)[0])
    for _ in range(30):  # every value is a bound, and the least of a convex function is where its slope changes sign
        middle = (low + high) / 2
        value, slope = at(middle)
        best = torch.minimum(best, value)
        low, high = torch.where(slope < 0, middle, low), torch.where(slope < 0, high, middle)
    return best


def layer_norm_support(module: nn.LayerNorm, *, relative_slack: float | None = None) -> Support:
    """The support of anything whose last step is `module`, a LayerNorm over the last axis (T3).

    Equation
        |h_i − β_i| ≤ |γ_i| sqrt(w − 1),   Σ_i ((h_i − β_i)/γ_i)² ≤ w  for every row.

    Assumes
        Rows whose mean is not large against their standard deviation. Known gap: a row of mean μ and standard
        deviation s loses about |μ|/s units in the last place, and in float32 one with |μ|/s beyond about 100 can leave the
        support. A draw that does ends the run with an error; values at other inputs are not seen.

    Args:
        module: the final LayerNorm, normalising one axis of width w ≥ 2.
        relative_slack: widening for the rounding of the arithmetic; None: 64 units in the last place of the dtype.

    Returns:
        A `Support` whose tensors have shape (w,).

    Raises:
        TypeError, ValueError: not a LayerNorm over one axis.
    """
    if not isinstance(module, nn.LayerNorm) or len(module.normalized_shape) != 1:
        raise TypeError(f"module = {module!r}: must be a torch.nn.LayerNorm over one axis")
    width = int(module.normalized_shape[0])
    weight = torch.ones(width) if module.weight is None else module.weight.detach()
    bias = torch.zeros(width) if module.bias is None else module.bias.detach()
    slack = 64 * torch.finfo(weight.dtype).eps if relative_slack is None else relative_slack
    gain, offset = weight.to("cpu", torch.float64).abs(), bias.to("cpu", torch.float64)
    reach = gain * math.sqrt(width - 1) * (1 + slack) + offset.abs() * slack
    # β + γu is rounded in proportion to β as well: a row's share of that, such that max|γ| sqrt(2w) holds it.
    rounding = float(offset.norm()) * slack / math.sqrt(2 * width)
    return Support(offset - reach, offset + reach, gain * (1 + slack) + rounding, offset)


def is_rms_norm(module: nn.Module) -> bool:
    """Whether a module is called an RMSNorm: torch's, or one of transformers' (T5's is called a LayerNorm)."""
    name = type(module).__name__
    return name.endswith("RMSNorm") or name in ("T5LayerNorm", "UMT5LayerNorm")


def rms_norm_support(module: nn.Module, *, relative_slack: float | None = None) -> Support:
    """The support of anything whose last step is `module`, an RMSNorm over the last axis (T3).

    Equation
        h = γ ∘ x / sqrt(mean x² + ε):   |h_i| ≤ |γ_i| sqrt(w),   Σ_i (h_i/γ_i)² ≤ w  for every row.

    Proof
        Σ_i (h_i/γ_i)² = Σ_i x_i² / (mean x² + ε) = w · mean x² / (mean x² + ε) ≤ w for ε ≥ 0; one term is at most the sum.
        Nothing is subtracted, so unlike a LayerNorm's the entries need not sum to zero, and w stands in place of w − 1.

    Which weight is γ differs: Gemma's is 1 + w, T5's w. So γ is read off what the module does to a constant row, where it is
    what comes out, and that the module is of this form is tried on random rows of sizes from 10⁻³ to 10³, at which ε > 0 may
    only shrink what comes out.

    Args:
        module: the final RMSNorm, normalising one axis of width w ≥ 1.
        relative_slack: widening for the rounding of the arithmetic; None: 64 units in the last place of the dtype.

    Returns:
        A `Support` whose tensors have shape (w,).

    Raises:
        TypeError: it is none: of another name, without a weight over one axis, or it does something else (a bias, a part of the
            axis).
    """
    weight = getattr(module, "weight", None)
    if not is_rms_norm(module) or not isinstance(weight, Tensor) or weight.ndim != 1:
        raise TypeError(f"module = {module!r}: must be an RMSNorm over one axis, with a weight")
    width, slack = weight.numel(), 64 * torch.finfo(weight.dtype).eps if relative_slack is None else relative_slack
    source = torch.Generator().manual_seed(0)
    rows = torch.randn((7, width), generator=source, dtype=torch.float64)
    rows *= torch.logspace(-3, 3, 7, dtype=torch.float64)[:, None]
    sent = torch.cat([torch.full((1, width), 256.0, dtype=torch.float64), rows, -rows]).to(weight)
    with torch.no_grad():
        came = module(sent).double().cpu()
    gain, given = came[0].abs(), sent[1:].double().cpu()
    plain = came[0] * given / given.square().mean(dim=1, keepdim=True).sqrt()
    # ε shrinks small rows by one factor a row, and large ones not at all.
    shrunk = (came[1:] * plain).sum(dim=1, keepdim=True) / plain.square().sum(dim=1, keepdim=True).clamp_min(1e-300)
    near = (came[1:] - shrunk * plain).abs() <= max(slack, 1e-4) * plain.abs().amax(dim=1, keepdim=True)
    factors = bool((shrunk <= 1 + max(slack, 1e-4)).all()) and bool((shrunk >= 0).all())
    if not (bool(torch.isfinite(came).all()) and bool(near.all()) and factors):
        raise TypeError(f"module = {module!r}: must be γ ∘ x / sqrt(mean x² + ε) over its last axis, and is not")
    reach = gain * math.sqrt(width) * (1 + slack)
    return Support(-reach, reach, gain * (1 + slack), torch.zeros_like(gain))


def as_support(value: Any) -> Support | None:
    """`value` as a Support: None, a Support, or a pair (lower, upper) of tensors or numbers."""
    if value is None or isinstance(value, Support):
        return value
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise TypeError(f"support is a {type(value).__name__}: must be None, a Support or a pair (lower, upper)")
    return Support(*(_validate.tensor(f"support[{i}]", v).to(torch.float64) for i, v in enumerate(value)))


class Inside:
    """Takes draws as an accumulator does, keeps nothing of them, and refuses the first that is outside a support.

    One such draw is proof that the support is false, and everything that rests on it void. Whoever takes a support draws with
    one of these: what the bounds cut down to a support they do not check again.
    """

    key = "inside the support"
    ordered = False

    def __init__(self, support: Support, shape: tuple[int, ...]) -> None:
        self.support, self.shape, self.count = support, shape, 0
        self._lower, self._upper = support.over(shape)

    def widened(self, other: Inside) -> Inside:
        return Inside(self.support, self.shape)

    def update(self, outputs: Tensor) -> None:
        """Raises ValueError with the numbers where a draw is outside."""
        self.count += outputs.shape[0]
        outside = (outputs < self._lower.to(outputs.device)) | (outputs > self._upper.to(outputs.device))
        if bool(outside.any()):
            where = tuple(int(i) for i in outside.nonzero()[0][1:])
            draws = outputs.reshape(outputs.shape[0], -1)[outside.reshape(outputs.shape[0], -1).any(dim=1)]
            at = draws.reshape(-1, *self.shape).movedim(0, -1)[where]
            reached = [float(at.min()), float(at.max())]
            low, high = float(self._lower[where]), float(self._upper[where])
            raise ValueError(
                f"support = [{low!r}, {high!r}] at output {where}: a draw reached "
                f"{reached[0] if reached[0] < low else reached[1]!r}; the support must hold every value of f"
            )
        if self.support.gain is None or self.support.offset is None:
            return
        gain, offset = (part.to(outputs.device, torch.float64) for part in (self.support.gain, self.support.offset))
        away = (outputs.to(torch.float64) - offset) / gain
        squares = torch.where(away.isnan(), 0.0, away).square().sum(dim=-1)  # without gain: 0/0
        most = gain.numel() * (1 + _COARSE)
        if bool((squares > most).any()):
            raise ValueError(
                f"support: a row of a draw has Σ((h − β)/γ)² = {float(squares.max())!r}, where the support allows "
                f"{gain.numel()}; the support must hold every value of f"
            )

    def merge(self, other: Inside) -> None:
        self.count += other.count

    def state(self) -> dict[str, Tensor]:
        return {"count": torch.tensor(self.count)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.count = int(state["count"])

    def described(self) -> str:
        return "inside the support"


_COARSE = 1000 * torch.finfo(torch.float32).eps
"""Rounding that a row's gain has no room for: that of float32, the coarsest arithmetic that an f is kept in."""
