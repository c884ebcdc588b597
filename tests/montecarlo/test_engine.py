"""The engine: what it hands to the function and to the accumulators, and what it refuses."""

from __future__ import annotations

import functools

import pytest
import torch

from certify import GaussianNoise
from certify.montecarlo import AllDraws, draw, median
from certify.montecarlo.batches import accepts_generator


def run(f, n: int = 100, y: torch.Tensor | None = None, **options) -> torch.Tensor:
    kept = AllDraws()
    y = torch.zeros(2) if y is None else y
    shape = draw(f, y, GaussianNoise(1.0), n=n, seed=0, stream="bounding", accumulators=[kept], **options)
    stacked = kept.stacked()
    assert stacked.shape == (n, *shape)
    return stacked


def test_every_draw_reaches_every_accumulator_once():
    first, second = AllDraws(), AllDraws()
    draw(lambda z: z, torch.zeros(2), GaussianNoise(1.0), n=333, seed=0, stream="pilot", accumulators=[first, second])
    assert first.count == second.count == 333
    assert torch.equal(first.stacked(), second.stacked())
    assert len(first.stacked().unique(dim=0)) == 333


@pytest.mark.parametrize(
    ("n", "batch_size", "sizes"), [(100, 40, {40, 24, 36, 32}), (130, 64, {64, 2, 32}), (300, 128, {128, 44, 32})]
)
def test_the_function_is_never_given_more_than_a_batch(n, batch_size, sizes):
    seen = []

    def f(z):
        seen.append(z.shape[0])
        return z

    run(f, n=n, batch_size=batch_size)
    assert set(seen) - {1, 2, 3, 4, 8} == sizes - {2}  # these and 32: evaluated again, to see whether it is a function
    assert sum(seen) == n + 64


def test_no_gradients_are_kept():
    layer = torch.nn.Linear(2, 3).eval()
    assert not run(layer).requires_grad


def test_an_output_buffer_that_is_used_again_does_no_harm():
    """Compiled functions hand out the same memory every time."""
    buffer = torch.empty(64, 2)

    def f(z):
        buffer[: z.shape[0]] = z
        return buffer[: z.shape[0]]

    assert torch.equal(run(f, n=200, batch_size=64), run(lambda z: z, n=200))


def test_a_function_may_work_in_place():
    assert torch.equal(run(lambda z: z.mul_(2)), run(lambda z: 2 * z))


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        *((dtype, torch.float32) for dtype in (torch.float16, torch.bfloat16, torch.float32)),
        *((dtype, torch.float64) for dtype in (torch.float64, torch.int64, torch.int32, torch.bool, torch.uint8)),
    ],
)
def test_outputs_are_kept_without_loss(given, kept):
    outputs = run(lambda z: (z.abs() * 3).to(given))
    assert outputs.dtype == kept
    assert torch.equal(outputs, run(lambda z: (z.abs() * 3).to(given).to(torch.float64)).to(kept))


def test_large_whole_numbers_are_exact():
    """2²⁴ + 1 has no float32."""
    assert run(lambda z: torch.full((len(z), 1), 2**24 + 1)).unique().tolist() == [2**24 + 1]


def test_scalar_outputs_and_inputs():
    assert run(lambda z: z.sum(dim=1)).shape == (100,)
    assert run(lambda z: z, y=torch.tensor(1.0)).shape == (100,)


def test_progress_counts_up_to_n():
    ticks = []
    run(lambda z: z, n=300, batch_size=128, progress=lambda done, total: ticks.append((done, total)))
    assert ticks == [(128, 300), (256, 300), (300, 300)]


def test_one_bad_draw_in_the_last_batch_refuses_the_run():
    calls = []

    def f(z):
        calls.append(1)
        return z if len(calls) < 4 else torch.where(torch.arange(len(z))[:, None] == 5, torch.inf, z)

    with pytest.raises(ValueError, match="NaN or infinity in 1 of 44 draws"):
        run(f, n=300, batch_size=128)


def test_a_function_that_changes_its_shape_is_refused():
    calls = []

    def f(z):
        calls.append(1)
        return z if len(calls) < 2 else z[:, :1]

    with pytest.raises(ValueError, match=r"f returned outputs of shape \(1,\): must be \(2,\)"):
        run(f, n=300, batch_size=128)


def test_who_takes_a_generator():
    def plain(z): ...

    def keyword(z, *, generator=None): ...

    assert not accepts_generator(plain)
    assert accepts_generator(keyword)
    assert accepts_generator(functools.partial(keyword))
    assert not accepts_generator(torch.nn.Linear(1, 1))
    assert not accepts_generator(torch.sin)


def test_median_of_odd_and_even_numbers_of_draws():
    x = torch.tensor([[3.0, 1.0], [9.0, 2.0], [5.0, 8.0]])
    assert median(x).tolist() == [5.0, 2.0]
    assert median(x[:2]).tolist() == [6.0, 1.5]
    assert median(x[:1]).tolist() == [3.0, 1.0]
