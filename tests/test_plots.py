"""Pictures: what they draw, not how they look."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from certify import GaussianNoise, bound_curve
from certify.plots import plot_curve, plot_token_noise


@pytest.fixture(scope="module")
def curves():
    def curve(simultaneous):
        return bound_curve(
            lambda z: z, torch.zeros(3), GaussianNoise(1.0), rhos=[0.5, 1.0, 4.0], n=500, simultaneous=simultaneous
        )

    return curve(True), curve(False)


def test_points_are_the_bounds_and_abstentions_are_no_points(curves):
    axes = plot_curve(curves[0]).axes[0]
    line, silent = axes.get_lines()
    assert list(line.get_xdata()) == [0.5, 1.0]
    assert list(line.get_ydata()) == list(curves[0].values[:2])
    assert math.isinf(curves[0].values[2])
    assert list(silent.get_xdata()) == [4.0]


def test_pointwise_and_simultaneous_are_drawn_differently(curves):
    lines = [plot_curve(curve).axes[0].get_lines()[0] for curve in curves]
    assert lines[0].get_linestyle() != lines[1].get_linestyle()


def test_yardstick_is_a_level_line(curves):
    axes = plot_curve(curves[0], yardstick=7.5).axes[0]
    assert any(set(line.get_ydata()) == {7.5} for line in axes.get_lines())


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_files(curves, suffix, tmp_path: Path):
    file = tmp_path / f"curve.{suffix}"
    plot_curve(*curves, title="two curves").savefig(file)
    assert file.stat().st_size > 5000


def test_token_noise_bars():
    axes = plot_token_noise(["a", "circle"], [0.1, 2.0], [None, 0.9], spread=0.3).axes[0]
    assert [bar.get_height() for bar in axes.patches] == [0.1, 2.0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "circle"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: plot_curve(), "curves = "),
        (lambda c: plot_curve(c, labels=["a", "b"]), "must be 1 names"),
        (lambda c: plot_token_noise(["a"], [1.0, 2.0], [None]), "1, 2, 1 entries"),
    ],
)
def test_bad_calls(curves, call, message):
    with pytest.raises(ValueError, match=message):
        call(curves[0])
