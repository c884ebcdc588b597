"""What f costs: counted by hand, the same every time, and nothing where nothing is known."""

from __future__ import annotations

import torch
from torch import nn

from certify.montecarlo.work import counted_work


def test_the_operations_of_products_and_convolutions_are_counted():
    dense = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).eval()
    assert counted_work(dense, torch.zeros(6), 0) == 2 * (6 * 5 + 5 * 3)
    image = nn.Conv2d(2, 4, 3, padding=1).eval()
    assert counted_work(image, torch.zeros(2, 8, 8), 0) == 2 * (8 * 8 * 4) * (2 * 3 * 3)


def test_what_does_none_or_cannot_be_looked_at_is_unknown():
    def refuses(z):
        raise RuntimeError("batches of 64 only")

    assert counted_work(lambda z: z + 1, torch.zeros(3), 0) is None
    assert counted_work(refuses, torch.zeros(3), 0) is None


def test_a_random_function_is_given_its_generator_and_the_input_stays_what_it_is():
    y, seen = torch.zeros(3), []

    def f(z, generator):
        seen.append(torch.rand(1, generator=generator))
        z += 1
        return z @ torch.ones(3, 2)

    assert counted_work(f, y, 7) == counted_work(f, y, 7) == 2 * 3 * 2
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(y, torch.zeros(3))
