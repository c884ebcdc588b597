"""Training that can be stopped: the learning rate, and a state that a later run goes on from."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from experiments.world.training import Run


def made(file, steps):
    torch.manual_seed(0)
    layer = nn.Linear(3, 2)
    return layer, Run(file, {"layer": layer}, torch.optim.AdamW(layer.parameters(), lr=1.0), steps=steps, rate=0.01)


def descend(layer, run, until):
    for step in run:
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
        run.descend((layer(x) - x[:, :2]).square().mean())
        if step + 1 == until:
            run.step += 1
            run.save()
            return


def test_a_stopped_run_goes_on_to_the_same_weights(tmp_path):
    whole, run = made(tmp_path / "whole.safetensors", 30)
    descend(whole, run, None)
    part, run = made(tmp_path / "part.safetensors", 30)
    descend(part, run, 11)
    rest, run = made(tmp_path / "part.safetensors", 30)
    assert run.step == 11
    assert torch.equal(rest.weight, part.weight)
    descend(rest, run, None)
    assert run.step == 30
    torch.testing.assert_close(rest.weight, whole.weight, rtol=0, atol=0)
    _, done = made(tmp_path / "part.safetensors", 30)
    assert list(done) == []


def test_the_learning_rate_rises_stays_and_falls(tmp_path):
    _, run = made(tmp_path / "state.safetensors", 1000)
    rates = [run.learning_rate(step) for step in range(1000)]
    assert rates[0] == pytest.approx(0.0001)
    assert rates[74] == pytest.approx(0.005)
    assert rates[300] == rates[500] == 0.01
    assert rates[800] == pytest.approx(0.005)
    assert rates[999] == pytest.approx(0.0001)
    assert all(rate > 0 for rate in rates)
