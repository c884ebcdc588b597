"""Trajectory: a fixed set of (x_t, t), at which statements about noise predictions are made.

What a text-to-image model does with an encoding c is to predict noise, ε(x_t, c, t), at every step of a sampler. A smoothed
encoding protects the image as far as these predictions stay where they were. Han et al. (2025), Appendix B, take the
expectation over the subsequence of time steps that the sampler visits, τ_1 < … < τ_S (τ_0 = 0 is the finished image, where
nothing is predicted), and over the x_t there.

A certificate needs points that do not depend on the noise it draws, nor on the attack. So one run of the sampler is made, with
a reference encoding and seeded initial noise, and the latents that the U-Net was given are kept, at all its steps or some:

    (x_1, t_1), …, (x_J, t_J),    weights w_j > 0, Σ_j w_j = 1,    Σ_j w_j ‖ε(x_j, c, t_j) − ε(x_j, c', t_j)‖².

Known gap: an attack also moves the x_t that the sampler visits after its first step. A bound at fixed points does not follow
them; the success rate of an attack (`certify.images.attack_succeeds`) is about the images and has no such gap.

Latents are kept as the U-Net sees them, after `scale_model_input`. Whatever the scheduler's own convention (DDIM and DPM++ keep
x_t = √ᾱ x_0 + √(1−ᾱ) ε, Euler x_0 + σ ε), they are then √ᾱ x_0 + √(1−ᾱ) ε with ᾱ = 1/(1 + σ²), which is kept, too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from certify import _files, _validate
from certify._text import shown
from certify.models.sampling import image_source, initial_noise, one_encoding, sample
from certify.models.text import PromptEncoder

__all__ = ["Trajectory", "level"]

_FORMAT, _SCHEMA = "certify trajectory", 1
_TENSORS = ("x", "t", "alpha_bar", "weights")


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Points (x_j, t_j) with weights, in the order of the sampler: from noise to image.

    Attributes:
        x: (points, channels, height, width), latents as the U-Net is given them.
        t: (points,), time steps as the U-Net is given them; some schedulers have fractional ones.
        alpha_bar: (points,), ᾱ in [0, 1]: x = √ᾱ x_0 + √(1−ᾱ) ε.
        weights: (points,), > 0, with sum one; left out: equal ones.
        origin: where the points come from, plain JSON values.

    Raises:
        TypeError, ValueError: a shape does not fit, an entry is not finite or out of range.
    """

    x: Tensor
    t: Tensor
    alpha_bar: Tensor
    weights: Tensor = field(default_factory=lambda: torch.empty(0))
    origin: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        x = _validate.finite_tensor("x", self.x)
        if x.ndim != 4 or not len(x):
            raise ValueError(f"x has shape {tuple(x.shape)}: must be (points, channels, height, width)")
        object.__setattr__(self, "x", x.detach().cpu().contiguous())
        if isinstance(self.weights, Tensor) and not self.weights.numel():
            object.__setattr__(self, "weights", torch.full((len(x),), 1 / len(x), dtype=torch.float64))
        for name in _TENSORS[1:]:
            column = _validate.finite_tensor(name, getattr(self, name)).detach().to("cpu", torch.float64)
            if tuple(column.shape) != (len(x),):
                raise ValueError(f"{name} has shape {tuple(column.shape)}: must be ({len(x)},), one entry a point")
            object.__setattr__(self, name, column)
        if bool((self.t < 0).any()):
            raise ValueError(f"t holds {float(self.t.min())!r}: every entry must be >= 0")
        if bool(((self.alpha_bar < 0) | (self.alpha_bar > 1)).any()):
            raise ValueError(f"alpha_bar = {self.alpha_bar.tolist()}: every entry must be in [0, 1]")
        if bool((self.weights <= 0).any()) or abs(float(self.weights.sum()) - 1) > 1e-6:
            raise ValueError(f"weights = {self.weights.tolist()}: must be > 0 with sum one")

    def __len__(self) -> int:
        return len(self.x)

    def __repr__(self) -> str:
        times = ", ".join(shown(float(t), "exact") for t in self.t)
        return f"Trajectory({len(self)} points of {'×'.join(map(str, self.x.shape[1:]))}, t = {times})"

    @classmethod
    def of(
        cls,
        pipe: Any,
        conditioning: str | Tensor,
        *,
        steps: int = 50,
        seed: int = 0,
        guidance: float = 7.5,
        points: int | Sequence[int] | None = None,
        weights: Sequence[float] | Tensor | None = None,
        unconditional: Tensor | None = None,
    ) -> Trajectory:
        """The points that a sampler visits.

        The initial noise is that of image 0 of `certify.images.generation.images(pipe, conditioning,
        seed=seed)`, and the run is the one that makes that image.

        Args:
            pipe: a Stable Diffusion pipeline. Its scheduler decides the time steps.
            conditioning: the reference: a prompt, whose plain encoding is taken, or an encoding, (tokens, width) or
                (1, tokens, width). It must not depend on draws that bound something at these points.
            steps, guidance: of the run.
            seed: of the initial noise.
            points: how many, spread evenly over the U-Net's runs with the first and the last among them (1: the middle one); or
                the numbers of these runs, from 0; None: all. A step may be more than one run (PNDM, Heun).
            weights: one a point, > 0; divided by their sum. None: equal ones, as in the paper.
            unconditional: (1, tokens, width), the branch without the prompt; None: the plain encoding of "".

        Raises:
            ValueError, TypeError: an argument out of range; a prompt that does not fit into the context.
        """
        steps, seed = _validate.count("steps", steps), _validate.seed_value(seed)
        guidance = _validate.positive("guidance", guidance)
        encoder = PromptEncoder.from_pipeline(pipe)
        embeds = (
            encoder.plain([conditioning])
            if isinstance(conditioning, str)
            else one_encoding("conditioning", conditioning)
        )
        without = encoder.plain([""]) if unconditional is None else one_encoding("unconditional", unconditional)
        seen: list[tuple[Tensor, float, float]] = []

        def watch(i: int, x: Tensor, t: Tensor, scheduler: Any) -> None:
            seen.append((x[0].clone(), float(t), level(i, t, scheduler)))

        source = [image_source(seed, 0)]
        noise = initial_noise(pipe, 1, source)
        sample(pipe, embeds, without, noise, steps=steps, guidance=guidance, source=source, watch=watch)
        runs = _chosen(points, len(seen))
        shares = torch.as_tensor([1.0] * len(runs) if weights is None else weights, dtype=torch.float64)
        return cls(
            torch.stack([seen[i][0] for i in runs]),
            torch.tensor([seen[i][1] for i in runs], dtype=torch.float64),
            torch.tensor([seen[i][2] for i in runs], dtype=torch.float64),
            shares / shares.sum(),
            {
                "scheduler": type(pipe.scheduler).__name__,
                "steps": steps,
                "guidance": guidance,
                "seed": seed,
                "runs": runs,
                "of": len(seen),
                "conditioning": "plain encoding of the prompt" if isinstance(conditioning, str) else "given encoding",
            },
        )

    # On record

    def tensors(self) -> dict[str, Tensor]:
        """x, t, alpha_bar and weights by name."""
        return {name: getattr(self, name) for name in _TENSORS}

    def record(self) -> dict[str, Any]:
        """Everything but the tensors, as JSON values."""
        return {"format": _FORMAT, "schema_version": _SCHEMA, "origin": self.origin}

    @classmethod
    def restored(cls, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Trajectory:
        """From `record` and `tensors`.

        Raises:
            ValueError: another format or version, a tensor is missing, or something that no trajectory has.
        """
        if record.get("format") != _FORMAT or record.get("schema_version") != _SCHEMA:
            raise ValueError(
                f"record has format {record.get('format')!r}, version {record.get('schema_version')!r}: must be "
                f"{_FORMAT!r}, version {_SCHEMA}"
            )
        missing = [name for name in _TENSORS if name not in tensors]
        if missing:
            raise ValueError(f"tensors lacks {', '.join(missing)}: must have {', '.join(_TENSORS)}")
        return cls(**{name: tensors[name] for name in _TENSORS}, origin=dict(record.get("origin", {})))

    def save(self, file: str | Path) -> Path:
        """Writes one safetensors file. The points were made with a prompt: who has the model can test guesses against them."""
        path = Path(file)
        _files.make_folder(path.parent)
        _files.write_tensors(path, self.tensors(), {"record": json.dumps(self.record(), allow_nan=False)})
        return path

    @classmethod
    def load(cls, file: str | Path) -> Trajectory:
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it holds something else.
        """
        path = Path(file)
        if not path.is_file():
            raise FileNotFoundError(f"file = {str(file)!r}: no such file; looked for {path.absolute()}")
        try:
            tensors, metadata = _files.read_tensors(path)
            return cls.restored(_files.json_object(metadata.get("record", "{}")), tensors)
        except (TypeError, ValueError) as error:
            raise ValueError(f"file = {str(file)!r}: is not a saved trajectory ({error})") from error


def level(i: int, t: Tensor, scheduler: Any) -> float:
    """ᾱ of the latents that the U-Net is given in its run i."""
    scale = float(scheduler.scale_model_input(torch.ones(1, dtype=torch.float64), t))
    if scale != 1:  # x_0 + σ ε was divided by √(1 + σ²)
        return scale**2
    sigmas = getattr(scheduler, "sigmas", None)
    if sigmas is not None and len(sigmas) == len(scheduler.timesteps) + 1:
        # DPM++ and its kind: the noise levels are exact where the time steps were rounded.
        return 1 / (1 + float(sigmas[i]) ** 2)
    return float(scheduler.alphas_cumprod[int(t)])


def _chosen(points: int | Sequence[int] | None, runs: int) -> list[int]:
    """Numbers of the runs to keep."""
    if points is None:
        return list(range(runs))
    if isinstance(points, (list, tuple, range)):
        numbers = [_validate.count(f"points[{i}]", p, minimum=0) for i, p in enumerate(points)]
        if not numbers or numbers != sorted(set(numbers)) or numbers[-1] >= runs:
            raise ValueError(f"points = {list(points)!r}: must be increasing numbers in 0 … {runs - 1}")
        return numbers
    count = _validate.count("points", points)
    if count > runs:
        raise ValueError(f"points = {count}: must be at most {runs}, the U-Net's runs in this sampler")
    return [runs // 2] if count == 1 else [round(i * (runs - 1) / (count - 1)) for i in range(count)]
