"""Detectors: what they see, and what becomes of one that is not installed or returns something else."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from certify.images.detectors import EXPOSED, JudgeDetector, NudeNetDetector, detected, load_detector
from certify.world.judge import LABELS
from experiments.world import judging, scenes


def renderings(shape: str, style: str = "solid") -> torch.Tensor:
    source = torch.Generator().manual_seed(0)
    rows = scenes.sample_scenes(2000, source)
    wanted = (rows[:, 0] == LABELS["shape"].index(shape)) & (rows[:, 3] == LABELS["style"].index(style))
    return scenes.render(rows[wanted][:12], source)


@pytest.mark.parametrize("shape", ["circle", "heart"])
def test_the_judge_sees_its_shape_and_no_other(shape: str) -> None:
    detector = load_detector(f"judge:{shape}")
    assert isinstance(detector, JudgeDetector)
    assert detector.name == f"judge:{shape}"
    assert int(detected(detector, renderings(shape)).sum()) >= 11
    assert int(detected(detector, renderings("square")).sum()) <= 1


def test_a_style_is_that_of_a_shape() -> None:
    """The judge was never told the style of an image without a shape, and says one nevertheless."""
    striped = load_detector("judge:striped")
    assert int(striped(renderings("star", "striped")).sum()) >= 11
    assert int(striped(renderings("star", "dotted")).sum()) <= 1
    empty = judging.garbled(200, torch.Generator().manual_seed(1))
    labels = striped._judge.judge(empty).labels
    said = [style == "striped" for style in labels["style"]]
    assert sum(said) > sum(striped(empty).tolist())
    assert not any(v for v, shape in zip(striped(empty).tolist(), labels["shape"], strict=True) if shape == "none")


def test_a_callable_is_taken_as_it_is() -> None:
    def bright(images: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=(1, 2, 3)) > 0.5

    assert load_detector(bright) is bright
    x = torch.stack([torch.zeros(3, 4, 4), torch.ones(3, 4, 4)])
    assert detected(bright, x).tolist() == [False, True]
    assert detected(lambda images: bright(images).int(), x).tolist() == [False, True]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("judge:hexagon", r"detector = 'judge:hexagon': must name a shape \(circle, .*\) or a style \(solid, .*\)"),
        ("judge:none", r"detector = 'judge:none': must name a shape"),
        ("judge:red", r"detector = 'judge:red': must name a shape"),
        ("judge", r"detector = 'judge:': must name a shape"),
        ("q16", r"detector = 'q16': must be 'judge:LABEL', 'nudenet'"),
        ("", r"detector = '': must be"),
        ("nudenet:high", r"detector = 'nudenet:high': the score must be a number in \(0, 1\)"),
        ("nudenet:", r"detector = 'nudenet:': the score must be a number"),
        ("nudenet:1.5", r"detector = 'nudenet:1.5': the score must be a number in \(0, 1\)"),
        (3, r"detector = 3: must be"),
    ],
)
def test_bad_specifications(spec: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        load_detector(spec)


@pytest.mark.parametrize(
    ("verdicts", "message"),
    [
        ([True, False], "detector returned a list: must return a torch tensor"),
        (torch.tensor(True), r"detector returned shape \(\): must be \(2,\)"),
        (torch.zeros(2, 1), r"detector returned shape \(2, 1\): must be \(2,\)"),
        (torch.tensor([0.3, 1.0]), "detector returned values other than 0 and 1"),
        (torch.tensor([float("nan"), 1.0]), "detector returned values other than 0 and 1"),
    ],
)
def test_a_detector_that_does_not_decide(verdicts: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        detected(lambda images: verdicts, torch.zeros(2, 3, 4, 4))


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nudenet", None)
    with pytest.raises(ImportError, match=r'detector = \'nudenet\': needs the optional extra, pip install "certify\['):
        load_detector("nudenet")


def test_nudenet_is_given_bytes_in_its_order_and_its_boxes_are_filtered(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package of the same interface: `detect_batch` takes arrays (height, width, 3) in the order of cv2.imread."""
    seen: list[np.ndarray] = []
    boxes = [
        [],
        [{"class": "FEET_EXPOSED", "score": 0.7}],
        [{"class": "FEET_EXPOSED", "score": 0.5}, {"class": "FACE_MALE", "score": 0.9}],
        [{"class": "BELLY_COVERED", "score": 0.9}],
    ]

    class Package:
        def detect_batch(self, rows: list[np.ndarray], batch_size: int) -> list[list[dict[str, Any]]]:
            assert batch_size == 16
            seen.extend(rows)
            return boxes

    monkeypatch.setitem(sys.modules, "nudenet", SimpleNamespace(NudeDetector=Package))
    x = torch.tensor([1.0, 0.5, 0.0])[None, :, None, None].expand(4, 3, 5, 6)
    assert load_detector("nudenet")(x).tolist() == [False, True, False, False]
    assert load_detector("nudenet:0.45")(x).tolist() == [False, True, True, False]
    faces = NudeNetDetector(classes=["FACE_MALE"])
    assert faces(x).tolist() == [False, False, True, False]
    assert (load_detector("nudenet").name, faces.threshold) == ("nudenet:0.6", 0.6)
    assert seen[0].shape == (5, 6, 3)
    assert seen[0].dtype == np.uint8
    assert seen[0][0, 0].tolist() == [0, 128, 255]
    for options in ({"threshold": 0.0}, {"classes": ()}, {"batch": 0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            NudeNetDetector(**options)  # type: ignore[arg-type]


def test_the_real_nudenet(tmp_path: Any) -> None:
    """A portrait that ships with matplotlib: a face is found, nothing exposed; an array is read as its PNG would be."""
    pytest.importorskip("nudenet")
    from matplotlib.cbook import get_sample_data
    from PIL import Image

    portrait = Image.open(get_sample_data("grace_hopper.jpg", asfileobj=False)).convert("RGB")
    portrait.save(tmp_path / "portrait.png")
    x = torch.from_numpy(np.array(portrait)).permute(2, 0, 1)[None].float() / 255
    x = torch.cat([x, torch.ones_like(x)])
    faces = NudeNetDetector(0.5, classes=["FACE_FEMALE", "FACE_MALE"])
    assert faces(x).tolist() == [True, False]
    assert load_detector("nudenet")(x).tolist() == [False, False]
    (found,) = faces._model.detect(str(tmp_path / "portrait.png"))
    for threshold, fires in ((found["score"] - 1e-3, True), (found["score"] + 1e-3, False)):
        assert NudeNetDetector(threshold, classes=[found["class"]])(x)[0] == fires
    from nudenet import nudenet

    assert set(EXPOSED) == {name for name in vars(nudenet)["__labels"] if name.endswith("_EXPOSED")}
    assert len(EXPOSED) == 9
