"""What the denoiser of any pipeline predicts under an encoding, at fixed points (x_j, t_j) of a run of its sampler.

A U-Net predicts the noise ε (or a velocity v = √ᾱ ε − √(1−ᾱ) x_0), a flow-matching transformer the velocity of the flow,
x_1 − x_0 for x_t = (1 − t) x_0 + t x_1. Which arguments it takes beside x and t (pooled encodings, masks, positions, guidance)
is the pipeline's own affair. So the pipeline is called, its prompt answered with the encoding in question, and when it calls
its denoiser for the first time that is given the points instead of its own x and t. What comes out is compared as it is:

    v(h) = ( v(x_1, h, t_1), …, v(x_J, h, t_J) )

The points are kept from one run with the plain encoding. That the denoiser at these points, given back, says exactly what it
said then, is checked once: a pipeline whose further arguments change from step to step is refused. Guidance by a negative
prompt is off: what is compared is the branch of the prompt.

Known gap, as for Stable Diffusion (`certify.models.trajectory`): an attack also moves the points that the sampler visits.
"""

from __future__ import annotations

import inspect
import itertools
import threading
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from certify import _validate
from certify.defence.calls import Calls
from certify.defence.problem import JointProblem
from certify.models.evaluation import eager, evaluated

__all__ = ["Predictions"]

_TIMES = ("timestep", "t", "timesteps")
_ROUNDING = 1e-4  # of the largest entry: another batch size


class _Stop(Exception):
    """The denoiser has answered."""


class Predictions:
    """The predictions of a prompt's encodings at fixed points.

    Args:
        calls: of the pipeline.
        problem: the prompt.
        call: arguments of `__call__`: steps and size of the run.
        points: how many, spread evenly over the run, or (x, t) of one that is on record: (points, *latent), (points,).

    Attributes:
        x, t: the points.
        kind: "velocity prediction" or "noise prediction".

    Raises:
        ValueError: the pipeline's denoiser cannot be called in this way, with the reason.
    """

    def __init__(
        self,
        calls: Calls,
        problem: JointProblem,
        call: Mapping[str, Any],
        points: int | tuple[Tensor, Tensor] = 4,
    ) -> None:
        self.calls, self.problem = calls, problem
        self.name = type(calls.encoder.pipe).__name__
        takes = inspect.signature(type(calls.encoder.pipe).__call__).parameters
        # Without a branch of a negative prompt: pipelines differ in the scale that means none.
        for scale in (None, 1.0, 0.0) if "guidance_scale" in takes else (None,):
            self._made = calls.made(problem, {**call, **({} if scale is None else {"guidance_scale": scale})})
            seen = self._watched()
            twice = any(torch.equal(one[1], other[1]) for one, other in itertools.pairwise(seen))
            if seen and not twice and all(len(x) == 1 for x, _, _ in seen):
                break
        else:
            raise ValueError(
                f"{self.name}'s denoiser is called {len(seen)} times, with {len(seen[0][0]) if seen else 0} rows: must be "
                "once a step with a row a prompt, without guidance by a negative prompt, for statements about its predictions"
            )
        self.kind = f"{_kind(calls.encoder.pipe)} prediction"
        if isinstance(points, tuple):
            self.x, self.t = points[0], points[1]
            if self.x.shape[1:] != seen[0][0].shape[1:] or len(self.t) != len(self.x):
                raise ValueError(
                    f"points have shape {tuple(self.x.shape)}: each must have shape {tuple(seen[0][0].shape[1:])}"
                )
            return
        number = min(_validate.count("points", points), len(seen))
        chosen = [round(i * (len(seen) - 1) / max(1, number - 1)) for i in range(number)]
        self.x, self.t = torch.cat([seen[i][0] for i in chosen]), torch.cat([seen[i][1] for i in chosen])
        said, plain = torch.cat([seen[i][2] for i in chosen]), self.of(problem.y[None])[0]
        scale = float(said.abs().max())
        if not bool(((said.double() - plain.double().cpu()).abs() <= _ROUNDING * scale).all()):
            raise ValueError(
                f"{self.name}'s denoiser does not predict the same again at the points of its own run: must be a function "
                "of x, t and the encoding, whose further arguments are alike at every step"
            )

    def __repr__(self) -> str:
        return f"Predictions({self.name}, {self.kind}, {len(self.x)} points of {tuple(self.x.shape[1:])})"

    def of(self, z: Tensor) -> Tensor:
        """Embeddings of all encoders (b, d) → predictions (b, points, *latent)."""
        rows, b, points = self.problem.rows(z), len(z), len(self.x)
        # Every encoding at every point: the rows of the first encoding stand together.
        spread = [[[row for row in slot for _ in range(points)] for slot in slots] for slots in rows]
        found: list[Tensor] = []

        def given(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
            wanted = self.x.repeat(b, *[1] * (self.x.ndim - 1)).to(x.device, x.dtype)
            times = self.t.repeat(b).to(t.device, t.dtype)
            if wanted.shape != x.shape:
                raise ValueError(f"{self.name} calls its denoiser with {tuple(x.shape)}: must be {tuple(wanted.shape)}")
            return wanted, times

        def answered(x: Tensor, t: Tensor, out: Tensor) -> None:
            found.append(out)
            raise _Stop

        self._run(spread, b * points, given, answered)
        if not found:
            raise ValueError(f"{self.name} never called its denoiser")
        return found[0].unflatten(0, (b, points))

    def f(self, z: Tensor) -> Tensor:
        """As `of`, weighted so that a squared distance is the mean over points: what a bound takes."""
        return self.of(z).float() / len(self.x) ** 0.5

    def _watched(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """(x, t, prediction) of every call of the denoiser in a run with the plain encoding."""
        seen: list[tuple[Tensor, Tensor, Tensor]] = []

        def answered(x: Tensor, t: Tensor, out: Tensor) -> None:
            seen.append((x.detach().cpu(), t.detach().cpu(), out.detach().cpu()))

        self._run(self.problem.rows(self.problem.y[None]), 1, None, answered)
        return seen

    def _run(
        self,
        rows: Any,
        count: int,
        given: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None,
        answered: Callable[[Tensor, Tensor, Tensor], None],
    ) -> None:
        own, parts = threading.get_ident(), self.calls.encoder.denoisers
        handles = [handle for part in parts for handle in _hooked(part, own, given, answered)]
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]), evaluated(*parts), eager(*parts):
                self._made(
                    rows, count, generator=torch.Generator().manual_seed(0), output_type="latent", return_dict=False
                )
        except _Stop:
            pass
        finally:
            for handle in handles:
                handle.remove()


def _hooked(part: nn.Module, own: int, given: Any, answered: Any) -> list[Any]:
    """Hooks that put x and t in, and take the prediction out."""
    signature = inspect.signature(getattr(part, "_orig_mod", part).forward)
    names = list(signature.parameters)
    time = next((name for name in names if name in _TIMES), None)
    if time is None:
        return []
    latent, now = names[0], [torch.empty(0), torch.empty(0)]

    def before(module: nn.Module, args: Any, kwargs: Any) -> Any:
        if threading.get_ident() != own:
            return None
        arguments = dict(signature.bind(*args, **kwargs).arguments)
        extra = arguments.pop("kwargs", {})
        x, listed = arguments[latent], isinstance(arguments[latent], list)
        x = torch.stack(x) if listed else x
        t = torch.as_tensor(arguments[time])
        t = (t.expand(len(x)) if t.ndim == 0 else t).to(x.device)
        if given is not None:
            x, t = given(x, t)
            arguments[latent], arguments[time] = list(x) if listed else x, t
        now[0], now[1] = x, t
        return (), {**arguments, **extra}

    def after(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if threading.get_ident() != own:
            return
        made = output[0] if isinstance(output, (tuple, list)) else getattr(output, "sample", output)
        made = torch.stack(list(made)) if isinstance(made, (list, tuple)) else made
        x = now[0]
        if made.ndim == x.ndim and made.ndim > 2 and made.shape[1] == 2 * x.shape[1]:  # mean and variance
            made = made[:, : x.shape[1]]
        answered(x, now[1], made)

    return [
        part.register_forward_pre_hook(before, with_kwargs=True),
        part.register_forward_hook(after, with_kwargs=True),
    ]


def _kind(pipe: Any) -> str:
    """ "velocity" of a flow, or of v-prediction; else "noise"."""
    scheduler = pipe.scheduler
    predicts = str(getattr(scheduler.config, "prediction_type", "")) if hasattr(scheduler, "config") else ""
    flow = "FlowMatch" in type(scheduler).__name__ or getattr(scheduler.config, "use_flow_sigmas", False)
    return "velocity" if flow or predicts in ("v_prediction", "flow_prediction") else "noise"
