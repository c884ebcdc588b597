"""What is no function is refused, what works in place is harmless, and memory that does not suffice changes no draw."""

from __future__ import annotations

import functools
import random
import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from certify import (
    Certificate,
    GaussianNoise,
    MedianSmoother,
    decide_event,
    decide_mse,
    event_bound,
    event_rate_over,
    mse_bound,
    percentile_bounds,
    statistic_bound,
)
from certify.adaptive.policies import noise_then_adapt
from certify.images.detectors import detected, load_detector
from certify.montecarlo import AllDraws, draw, draw_all

Y = torch.tensor([0.3, -1.0, 2.0, 0.5])
NOISE = GaussianNoise(torch.tensor([0.5, 1.0, 0.2, 0.3]))
W = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


def drawn(f: Any, n: int = 300, y: torch.Tensor = Y, **options: Any) -> torch.Tensor:
    return draw_all(f, y, NOISE, n=n, seed=0, stream="bounding", **options)


def plain(z: torch.Tensor) -> torch.Tensor:
    return torch.tanh(z @ W)


# Functions that are none


class Counting:
    """Every call gives something else."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, z: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return z + 0.001 * self.calls


class Drifting(Counting):
    """What it gives moves after the 3rd call: nothing to be seen at first."""

    def __call__(self, z: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return z + max(0, self.calls - 3) * 0.01


class RunningMean(Counting):
    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.zeros(4)

    def __call__(self, z: torch.Tensor) -> torch.Tensor:
        self.mean = 0.9 * self.mean + 0.1 * z.mean(dim=0)
        return z - self.mean


def batch_norm() -> Any:
    """In training mode, hidden in a closure."""
    norm = nn.BatchNorm1d(4)
    return lambda z: norm(z)


def dropout() -> Any:
    return lambda z: nn.functional.dropout(z, 0.1)


def numpys(z: torch.Tensor) -> torch.Tensor:
    return z + torch.from_numpy(np.random.standard_normal(z.shape).astype(np.float32))  # noqa: NPY002


def pythons(z: torch.Tensor) -> torch.Tensor:
    return z * random.random()


def buffered() -> Any:
    """Hands out what it saw the last time."""
    held = [torch.zeros(1, 4)]

    def f(z: torch.Tensor) -> torch.Tensor:
        before, held[0] = held[0], z.clone()
        return before.mean(dim=0).expand_as(z).clone()

    return f


def last_lost(z: torch.Tensor) -> torch.Tensor:
    """Its loop ends one row too early."""
    out = torch.zeros_like(z)
    for i in range(len(z) - 1):
        out[i] = z[i]
    return out


def last_is(place: int) -> Any:
    """Of the last row it gives what is of another."""

    def f(z: torch.Tensor) -> torch.Tensor:
        out = z.clone()
        out[-1] = z[max(place, -len(z))]
        return out

    return f


def chunked(z: torch.Tensor) -> torch.Tensor:
    """Eight rows at a time; what is left of a batch is forgotten."""
    out = torch.zeros_like(z)
    for i in range(0, len(z) - 7, 8):
        out[i : i + 8] = z[i : i + 8]
    return out


class Steps(Counting):
    """A random function whose scheduler is not reset: after some calls it gives something else."""

    def __call__(self, z: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        self.calls += 1
        return (1.0 if self.calls <= 3 else 0.01) * (z + torch.randn(z.shape, generator=generator))


NO_FUNCTIONS: dict[str, Any] = {
    "loses the last row": lambda: last_lost,
    "its last row is the first": lambda: last_is(0),
    "its last row is the one before": lambda: last_is(-2),
    "in half precision, the last row": lambda: lambda z: last_lost(z).bfloat16(),
    "forgets what is left of a batch": lambda: chunked,
    "a random one that counts its calls": Steps,
    "counts its calls": Counting,
    "drifts later": Drifting,
    "keeps a running mean": RunningMean,
    "batch norm in training mode": batch_norm,
    "dropout": dropout,
    "torch's global state": lambda: lambda z: z + 1e-3 * torch.randn_like(z),
    "numpy's global state": lambda: numpys,
    "Python's global state": lambda: pythons,
    "one output of many": lambda: lambda z: torch.cat([z] * 50 + [torch.rand(len(z), 1)], dim=1),
    "the mean of its batch": lambda: lambda z: z - 0.1 * z.mean(dim=0),
    "its neighbour's row": lambda: lambda z: z + 0.1 * z.roll(1, dims=0),
    "its place in the batch": lambda: lambda z: z + torch.arange(len(z))[:, None],
    "how many rows there are": lambda: lambda z: z * len(z),
    "a buffer of the call before": buffered,
}


@pytest.mark.parametrize("name", NO_FUNCTIONS)
@pytest.mark.parametrize("n", [300, 5000])
def test_what_is_no_function_is_refused(name: str, n: int) -> None:
    with pytest.raises(ValueError, match=r"f is no function of its input: \d+ of \d+ inputs came out otherwise"):
        drawn(NO_FUNCTIONS[name](), n=n)


@pytest.mark.parametrize("name", NO_FUNCTIONS)
def test_every_statement_refuses_it(name: str) -> None:
    made, few = NO_FUNCTIONS[name], {"n": 400, "alpha": 0.1}
    refused = pytest.raises(ValueError, match="is no function of its input")
    with refused:
        mse_bound(made(), Y, NOISE, rho=0.1, **few)
    with refused:
        percentile_bounds(made(), Y, NOISE, rho=0.1, **few)
    with refused:
        decide_mse(made(), Y, NOISE, tolerance=1.0, rho=0.1, **few)
    cert = Certificate.of(percentile_bounds(lambda z: z, Y, NOISE, rho=0.1, **few))
    if made is not Steps and made()(Y.expand(8, 4).clone()).shape == (8, 4):
        with refused:
            cert.check(made(), Y)


def test_events_and_statistics_are_looked_at_too() -> None:
    def happens(z: torch.Tensor) -> torch.Tensor:
        return torch.rand(len(z)) < 0.3

    def lost(z: torch.Tensor) -> torch.Tensor:
        """Always true, but of the last row: it passed at every batch, as rows of the middle are what they are."""
        return torch.arange(len(z)) < len(z) - 1

    class Turning(Counting):
        def __call__(self, z: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return torch.full((len(z),), self.calls > 4)

    for ask in (
        lambda: event_bound(happens, Y, NOISE, rho=0.1, n=300, replicas=2),
        lambda: statistic_bound(lambda z: happens(z).float(), Y, NOISE, rho=0.1, n=300, replicas=2),
        lambda: decide_event(happens, Y, NOISE, target=0.9, rho=0.1, replicas=2),
        lambda: event_rate_over([happens] * 3, [Y] * 3, NOISE, rhos=[0.1], n=300, replicas=2),
        lambda: event_rate_over(
            [lambda z: z.mean(dim=(1, 2)) > z.mean()] * 2, [Y, Y + 1], NOISE, rhos=[0.1], n=300, replicas=2
        ),
        lambda: event_bound(lost, Y, NOISE, rho=0.1, n=300, replicas=2),
        lambda: event_bound(lost, Y, NOISE, rho=0.1, n=10_000, replicas=2),
        lambda: event_rate_over([lost], [Y], NOISE, rhos=[0.1], n=300, replicas=2),
        lambda: event_rate_over([lost] * 2, [Y, Y + 1], NOISE, rhos=[0.1], n=1000, replicas=2),
        lambda: event_rate_over([Turning()], [Y], NOISE, rhos=[0.1], n=1000, replicas=2),
    ):
        torch.manual_seed(0)
        with pytest.raises(ValueError, match="is no function of its input"):
            ask()


def test_a_random_answer_that_is_mostly_no_is_noticed_in_a_few_draws() -> None:
    """A decision may take five draws: the same rows are looked at several times."""
    passed = 0
    for seed in range(50):
        torch.manual_seed(seed)
        try:
            decide_event(lambda z: torch.rand(len(z)) < 0.3, Y, NOISE, target=0.9, rho=0.1, replicas=2)
        except ValueError:
            continue
        passed += 1
    assert passed <= 1


def test_a_verdict_that_rounding_leaves_undecided_is_no_randomness_in_a_few_draws() -> None:
    """One row flips at every second call: it is one row however often it is looked at."""
    calls = 0

    def flipping(z: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        shown = torch.zeros(len(z), dtype=torch.bool)
        shown[0] = calls % 2 == 0
        return shown

    assert decide_event(flipping, Y, NOISE, target=0.99, rho=0.1, replicas=2).drawn < 16


def test_a_random_function_must_draw_all_it_needs_from_its_generator() -> None:
    def right(z: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return z + torch.randn(z.shape, generator=generator)

    def wrong(z: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return z + torch.randn(z.shape)

    assert drawn(right).shape == (300, 4)
    with pytest.raises(ValueError, match="evaluated again with the same generator"):
        drawn(wrong)


# Functions that are


def rounding(z: torch.Tensor) -> torch.Tensor:
    """Values that depend on the batch's size in the last few bits, as those of fast kernels do."""
    return plain(z) * (1 + 3e-7 * (len(z) % 7))


def half(dtype: torch.dtype) -> Any:
    """Half precision inside and float32 outside: a row's rounding depends on the batch, by an ulp."""

    def f(z: torch.Tensor) -> torch.Tensor:
        inside = plain(z).to(dtype)
        return (inside * (1 + torch.finfo(dtype).eps * (len(z) % 3))).float() * 1.7

    return f


def flips(z: torch.Tensor) -> torch.Tensor:
    """A label that rounding leaves undecided next to the threshold, a draw in a hundred or so."""
    undecided = (z[:, 0] - 0.3).abs() < 0.005
    return (z[:, 0] > 0.3) ^ (undecided & (len(z) < 60))


FUNCTIONS: dict[str, Any] = {
    "plain": plain,
    "rounds with its batch": rounding,
    "float16 inside": half(torch.float16),
    "bfloat16 inside": half(torch.bfloat16),
    "bfloat16 outside": lambda z: half(torch.bfloat16)(z).to(torch.bfloat16),
    "labels": flips,
    "labels in bfloat16": lambda z: half(torch.bfloat16)(z).argmax(dim=1),
    "constant": lambda z: torch.zeros(len(z)),
    "far apart": lambda z: z * torch.tensor([1e-30, 1e30, 1.0, 0.0]),
    "whole numbers": lambda z: (10 * z).round().long(),
    "module": nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.5)).eval(),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("n", [1, 2, 65, 300])
@pytest.mark.parametrize("batch_size", [1, 7, 64, None])
def test_functions_are_not_refused(name: str, n: int, batch_size: int | None) -> None:
    assert len(drawn(FUNCTIONS[name], n=n, batch_size=batch_size)) == n


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_inputs_of_any_precision(dtype: torch.dtype) -> None:
    w = W.to(dtype)
    assert drawn(lambda z: torch.tanh(z @ w), y=Y.to(dtype)).shape == (300, 6)


def test_it_costs_one_block_at_most() -> None:
    rows = []

    def f(z: torch.Tensor) -> torch.Tensor:
        rows.append(len(z))
        return torch.sin(z)

    drawn(f, n=1000)
    assert sum(rows) == 1000 + 64
    rows.clear()
    mse_bound(f, Y, NOISE, rho=0.1, n=1000, pilot=200)
    assert sum(rows) == 1200 + 64
    rows.clear()
    MedianSmoother(f, NOISE, n=13)(Y)
    assert sum(rows) == 13
    calls = []

    def noisy(z: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        calls.append(len(z))
        return z + torch.randn(z.shape, generator=generator)

    mse_bound(noisy, Y, NOISE, rho=0.1, n=1000, pilot=200)
    assert sum(calls) == 1200 + 2 * 64  # rows of a random function cannot be told apart from their block


# Modules in training mode


class Wrapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.norm(z.reshape(-1, 4)).reshape(z.shape)

    def verdict(self, z: torch.Tensor) -> torch.Tensor:
        return self(z).flatten(1).sum(dim=1) > 0


@pytest.mark.parametrize("mode", ["all", "a part"])
def test_a_module_in_training_mode_is_refused_before_anything_is_drawn(mode: str) -> None:
    module = Wrapped()
    if mode == "a part":
        module.eval().norm.train()
    for name, ask in {
        "f": lambda f: mse_bound(f, Y, NOISE, rho=0.1, n=300),
        "statistic": lambda f: statistic_bound(f, Y, NOISE, rho=0.1, n=300, replicas=2),
        "event": lambda f: event_bound(f, Y, NOISE, rho=0.1, n=300, replicas=2),
        r"events\[0\]": lambda f: event_rate_over([f], [Y], NOISE, rhos=[0.1], n=300, replicas=2),
        "f ": lambda f: MedianSmoother(f, NOISE),
        "f  ": lambda f: drawn(f),
        "f   ": lambda f: noise_then_adapt(f, lambda z: z.abs(), 0.1),
        "detector": load_detector,
    }.items():
        for f in (module, module.forward, module.verdict, functools.partial(module)):
            with pytest.raises(
                ValueError, match=rf"{name.strip()} = Wrapped.*: is in training mode, .* call \.eval\(\)"
            ):
                ask(f)
    cert = Certificate.of(percentile_bounds(lambda z: z, Y, NOISE, rho=0.1, n=300))
    with pytest.raises(ValueError, match="is in training mode"):
        cert.check(module, Y)
    assert not bool(module.norm.running_mean.any())
    assert int(module.norm.num_batches_tracked) == 0


# In place


def in_place(z: torch.Tensor) -> torch.Tensor:
    return z.mul_(0.25)


def test_a_function_that_works_in_place_changes_nothing() -> None:
    """Not even through a tensor that shares its memory with y or with the center."""
    y = Y.clone()

    def spoils(z: torch.Tensor) -> torch.Tensor:
        out = z.mul_(0.25).clone()
        z.fill_(7.0)
        return out

    assert torch.equal(drawn(spoils), drawn(lambda z: z * 0.25))
    clean = mse_bound(lambda z: z * 0.25, Y, NOISE, rho=0.1, n=500).value
    assert mse_bound(spoils, Y, NOISE, rho=0.1, n=500).value == clean

    def moves_y(z: torch.Tensor) -> torch.Tensor:
        y.add_(1.0)
        return z * 0.25

    assert mse_bound(moves_y, y, NOISE, rho=0.1, n=500).value == clean
    held = torch.zeros(64, 4)

    def buffer(z: torch.Tensor) -> torch.Tensor:
        held[: len(z)] = z * 0.25
        return held[: len(z)]

    center = buffer(Y[None])[0]
    fixed = mse_bound(lambda z: z * 0.25, Y, NOISE, rho=0.1, n=500, center=center.clone()).value
    assert mse_bound(buffer, Y, NOISE, rho=0.1, n=500, center=center, batch_size=64).value == fixed


def test_what_computes_sigma_may_work_in_place() -> None:
    def smoothed(sigma_of: Any) -> torch.Tensor:
        return drawn(noise_then_adapt(lambda z: z, sigma_of, 0.1))

    assert torch.equal(smoothed(lambda z: z.abs_()), smoothed(lambda z: z.abs()))


def test_a_detector_may_work_in_place() -> None:
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    before = images.clone()
    detected(lambda shown: shown.mul_(2).flatten(1).mean(dim=1) > 1, images)
    assert torch.equal(images, before)


ERRORS = {
    "CUDA": lambda: torch.OutOfMemoryError("CUDA out of memory"),
    "Python or numpy": lambda: MemoryError("Unable to allocate 4 TiB for an array"),
    "CPU": lambda: RuntimeError(
        "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory"
    ),
    "MPS": lambda: RuntimeError("MPS backend out of memory (MPS allocated: 5 GB)"),
    "cuDNN": lambda: RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    "cuSOLVER": lambda: RuntimeError("CUSOLVER_STATUS_ALLOC_FAILED"),
    "C++": lambda: RuntimeError("std::bad_alloc"),
    "XLA": lambda: RuntimeError("RESOURCE_EXHAUSTED: Failed to allocate request"),
    "no words": MemoryError,
}


@pytest.mark.parametrize("kind", ERRORS)
def test_what_ran_out_of_memory_is_drawn_anew(kind: str) -> None:
    """f has worked in place before its memory ran out: 40 of 40 claims were a tenth of the truth."""

    def f(z: torch.Tensor) -> torch.Tensor:
        z.mul_(0.25)
        if len(z) > 50:
            raise ERRORS[kind]()
        return z

    assert torch.equal(drawn(f), drawn(lambda z: z * 0.25))
    clean = mse_bound(lambda z: z * 0.25, Y, NOISE, rho=0.1, n=500).value
    assert mse_bound(f, Y, NOISE, rho=0.1, n=500).value == clean


def test_real_memory_that_does_not_suffice() -> None:
    """The CPU's own allocator, and numpy's, asked for some petabytes when the batch is large."""
    for ask in (lambda b: torch.empty(b * 2**44), lambda b: torch.from_numpy(np.empty(b * 2**40))):

        def f(z: torch.Tensor, ask: Any = ask) -> torch.Tensor:
            if len(z) > 9:
                ask(len(z))
            return z

        assert torch.equal(drawn(f), drawn(lambda z: z))


@pytest.mark.parametrize("kind", [*ERRORS, "other"])
def test_other_errors_and_a_single_row_are_not_tried_again(kind: str) -> None:
    error, calls = ERRORS.get(kind, lambda: RuntimeError("mat1 and mat2 shapes cannot be multiplied"))(), []

    def f(z: torch.Tensor) -> torch.Tensor:
        calls.append(len(z))
        raise error

    said = re.escape(str(error)) or "f ran out of memory on a batch of one input"
    with pytest.raises(type(error), match=said):
        drawn(f, batch_size=2)
    assert calls == ([2] if kind == "other" else [2, 1])


def test_a_run_that_was_refused_at_its_end_is_not_on_disk_as_a_whole(tmp_path: Any) -> None:
    """Else it would pass the next time, when there is nothing left to draw and to look at."""
    from certify.montecarlo.checkpoint import Checkpoint

    def run(f: Any) -> None:
        kept = Checkpoint(tmp_path, interval=0)
        draw(f, Y, NOISE, n=300, seed=0, stream="bounding", accumulators=[AllDraws()], checkpoint=kept)

    for _ in range(2):
        late = Drifting()
        late.calls = 2
        with pytest.raises(ValueError, match="is no function"):
            run(late)
        assert late.calls > 3
    run(lambda z: z)
    run(Counting())  # never called
