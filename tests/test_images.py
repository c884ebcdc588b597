"""Images that are no (b, 3, height, width) in [0, 1]: every metric, detector and feature extractor refuses each kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from certify import _images, world
from certify.images import generation as generate
from certify.images.detectors import JudgeDetector, NudeNetDetector, detected
from experiments.metrics import asr
from experiments.metrics.features import ClipFeatures, JudgeFeatures
from experiments.metrics.fid import fid
from experiments.metrics.image_text import clip_scorer, world_scorer
from experiments.metrics.q16 import Q16Detector, fitted, save_head
from tests.experiments.metrics.test_metrics import clip  # noqa: F401 - a fixture


class Means(nn.Module):
    """Three numbers an image."""

    num_features = 3

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3))


def right(count: int = 6) -> Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def mixed(images: Tensor) -> Tensor:
    """The last image alone is of bytes."""
    return torch.cat([images[:-1], 255 * images[-1:]])


WRONG: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "bytes as floats": (
        lambda x: (255 * x).round(),
        r"\[0\] has values from \d\.0 to 25\d\.0: must be in \[0, 1\]; divide",
    ),
    "bytes": (lambda x: (255 * x).byte(), r"has dtype torch.uint8: must be floating-point .*; divide bytes by 255"),
    "[-1, 1]": (lambda x: 2 * x - 1, r"\[0\] has values from -.*: must be in \[0, 1\]; .* take \(images \+ 1\) / 2"),
    "mixed": (mixed, r"\[5\] has values from .* to 25\d.*: must be in \[0, 1\].*\(1 of 6 images\)"),
    "channels last": (lambda x: x.permute(0, 2, 3, 1), r"\(6, 32, 32, 3\): must be \(b, 3, .*permute\(0, 3, 1, 2\)"),
    "grey": (lambda x: x[:, :1], r"has shape \(6, 1, 32, 32\): must be \(b, 3, "),
    "NaN": (lambda x: x.index_fill(0, torch.tensor([2]), float("nan")), r"\[2\] holds NaN or infinity"),
    "infinity": (lambda x: x.index_fill(0, torch.tensor([2]), float("inf")), r"\[2\] holds NaN or infinity"),
}


class _Nothing:
    def detect_batch(self, rows: list[np.ndarray], batch_size: int) -> list[list[dict[str, Any]]]:
        return [[] for _ in rows]


@pytest.fixture(scope="module")
def takers(clip, tmp_path_factory) -> dict[str, Callable[[Any], Any]]:  # noqa: F811
    """Everything here that is given images, by name."""
    head = save_head(tmp_path_factory.mktemp("head") / "head.safetensors", torch.zeros(17))
    nudenet = object.__new__(NudeNetDetector)
    nudenet.threshold, nudenet.classes, nudenet.batch, nudenet._model = 0.6, frozenset({"X"}), 16, _Nothing()
    judge, q16 = world.load_judge(), Q16Detector(clip, head)
    texts, labels, seeds = ["a circle"] * 6, torch.tensor([0, 1] * 3), list(range(6))
    return {
        "detected": lambda x: detected(lambda images: images.mean(dim=(1, 2, 3)) > 0.5, x),
        "JudgeDetector": JudgeDetector("circle"),
        "NudeNetDetector": nudenet,
        "Judge.judge": judge.judge,
        "Judge.shape_probability": lambda x: judge.shape_probability(x, "circle"),
        "Q16Detector": q16,
        "fitted": lambda x: fitted(q16.features, x, labels),
        "asr.rate": lambda x: asr.rate(x, "judge:circle", seeds),
        "JudgeFeatures": JudgeFeatures(),
        "ClipFeatures": ClipFeatures(clip),
        "fid, real": lambda x: fid(x, right(), Means()),
        "fid, generated": lambda x: fid(right(), x, Means()),
        "world_scorer": lambda x: world_scorer()(x, texts),
        "clip_scorer": lambda x: clip_scorer(clip)(x, texts),
        "to_pil": generate.to_pil,
    }


NAMES = (
    "detected", "JudgeDetector", "NudeNetDetector", "Judge.judge", "Judge.shape_probability", "Q16Detector", "fitted",
    "asr.rate", "JudgeFeatures", "ClipFeatures", "fid, real", "fid, generated", "world_scorer", "clip_scorer", "to_pil",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_whoever_takes_images_takes_them(name, takers):
    assert set(NAMES) == set(takers)
    takers[name](right())


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("name", NAMES)
def test_and_takes_no_others(name, kind, takers):
    spoil, message = WRONG[kind]
    with pytest.raises((ValueError, TypeError), match=message):
        takers[name](spoil(right()))


def test_a_set_that_was_divided_twice_is_no_reference():
    with pytest.raises(ValueError, match="generated has no value over 1/255"):
        fid(right(), right() / 255, Means())
    assert fid(right(), 0 * right(), Means()) > 0  # black images are images


@given(
    st.sampled_from([torch.float16, torch.float32, torch.float64]), st.integers(0, 4), st.floats(0, 1), st.floats(0, 1)
)
def test_what_lies_in_the_unit_interval_is_handed_back_as_it_is(dtype, count, low, high):
    x = torch.empty(count, 3, 2, 5, dtype=dtype)
    x[:, :, 0], x[:, :, 1] = low, high
    assert _images.checked("x", x) is x


def test_a_batch_is_asked_for_and_its_size():
    with pytest.raises(ValueError, match=r"x has shape \(3, 32, 32\): must be .*; one image is .*images\[None\]"):
        _images.checked("x", right()[0])
    with pytest.raises(ValueError, match=r"x has shape \(6, 3, 32, 32\): must be \(b, 3, 64, 64\)"):
        _images.checked("x", right(), size=(64, 64))
    with pytest.raises(TypeError, match="x is a ndarray: must be a torch tensor"):
        _images.checked("x", right().numpy())
