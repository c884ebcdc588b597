"""Labelled data as people keep them: each layout is read to the same inputs and labels, and what cannot be told is refused."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from certify.datasets import LabelledSet

BYTES = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
LABELS = np.array([3, 0])
WANTED = torch.from_numpy(BYTES).permute(0, 3, 1, 2).float() / 255


@pytest.mark.parametrize(
    ("name", "arrays"),
    [
        ("a.npz", {"x": BYTES, "y": LABELS}),
        ("a.npz", {"images": BYTES, "labels": LABELS.astype(np.uint16)}),
        ("a.npz", {"test_images": BYTES, "test_labels": LABELS[:, None], "train_images": np.zeros(3)}),
        ("a.npz", {"x_test": BYTES.transpose(0, 3, 1, 2), "y_test": LABELS.astype(">i4")}),
        ("a.npz", {"data": np.float32(BYTES.transpose(0, 3, 1, 2)) / np.float32(255), "target": LABELS.astype(float)}),
        ("a.pt", {"inputs": BYTES, "targets": LABELS}),
        ("a.pth", (BYTES, LABELS)),
        ("a.safetensors", {"x": BYTES, "y": LABELS}),
    ],
)
def test_layouts(tmp_path, name, arrays):
    path = tmp_path / name
    if name.endswith(".npz"):
        np.savez_compressed(path, **arrays)
    elif isinstance(arrays, tuple):
        torch.save(tuple(map(torch.from_numpy, arrays)), path)
    else:
        tensors = {key: torch.from_numpy(value) for key, value in arrays.items()}
        (save_file if name.endswith(".safetensors") else torch.save)(tensors, path)
    made = LabelledSet.load(path)
    assert torch.equal(made.inputs, WANTED)
    assert made.labels.tolist() == [3, 0]
    assert made.name == name
    assert len(LabelledSet.load(path, limit=1)) == 1
    assert LabelledSet.load(path, every=2).labels.tolist() == [3]


def test_grey_images_get_a_channel(tmp_path):
    np.savez(tmp_path / "a.npz", x=BYTES[..., 0], y=LABELS)
    assert LabelledSet.load(tmp_path / "a.npz").inputs.shape == (2, 1, 4, 5)


def test_a_folder_of_classes(tmp_path):
    for name, shade in (("10", 200), ("9", 100)):
        (tmp_path / name).mkdir()
        Image.new("L", (4, 6), shade).save(tmp_path / name / "a.png")
    made = LabelledSet.load(tmp_path)
    assert made.labels.tolist() == [9, 10]  # numbers are their own labels, in their order
    assert made.inputs.shape == (2, 1, 6, 4)
    assert made.inputs[0].unique().tolist() == [pytest.approx(100 / 255)]
    (tmp_path / "a circle").mkdir()
    Image.new("L", (4, 6)).save(tmp_path / "a circle" / "a.jpg")
    named = LabelledSet.load(tmp_path)
    assert (named.classes, named.labels.tolist()) == (("10", "9", "a circle"), [0, 1, 2])
    assert LabelledSet.load(tmp_path, size=3).inputs.shape == (3, 1, 3, 3)


REFUSED = [
    ({"x": BYTES}, "must have labels under one of the names y"),
    ({"y": LABELS, "z": BYTES}, "must have inputs under one of the names x"),
    ({"x": BYTES, "y": LABELS[:1]}, "holds 2 inputs and 1 labels"),
    ({"x": BYTES, "y": np.array([0.5, 1])}, "labels that are no whole numbers"),
    ({"x": BYTES, "y": np.array([-1, 1])}, "labels that are no whole numbers"),
    ({"x": BYTES, "y": np.array([np.nan, 1])}, "labels that are no whole numbers"),
    ({"x": BYTES, "y": np.zeros((2, 10))}, r"labels of shape \(2, 10\)"),
    ({"x": BYTES.astype(np.int64), "y": LABELS}, "inputs of dtype torch.int64, must be floating-point, or bytes"),
    ({"x": np.full((2, 3), np.nan), "y": LABELS}, "inputs that are NaN or infinite"),
    ({"x": np.array(["a", "b"]), "y": LABELS}, "x is an array of <U1, must be of numbers"),
    ({"x": np.array([{}, {}]), "y": LABELS}, "x is an array of object, must be of numbers"),
    ({"x": np.zeros((0, 3)), "y": np.zeros(0)}, "holds 0 inputs"),
]


@pytest.mark.parametrize(("arrays", "message"), REFUSED)
def test_what_cannot_be_told_is_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        LabelledSet.load(tmp_path / "a.npz")


def test_files_of_strangers(tmp_path):
    (tmp_path / "no.npz").write_bytes(b"PK\x03\x04 not an archive")
    with pytest.raises(ValueError, match=r"is not a readable \.npz file"):
        LabelledSet.load(tmp_path / "no.npz")
    np.savez(tmp_path / "a.npz", x=BYTES, y=LABELS)
    huge = tmp_path / "huge.npz"
    with zipfile.ZipFile(tmp_path / "a.npz") as given, zipfile.ZipFile(huge, "w") as made:
        for entry in given.infolist():
            content = given.read(entry)
            made.writestr(entry.filename, content.replace(b"(2, 4, 5, 3)", b"(2, 9, 9, 9)"))
    with pytest.raises(ValueError, match="x claims more bytes than it has"):
        LabelledSet.load(huge)

    torch.save({"x": tmp_path, "y": torch.zeros(1)}, tmp_path / "a.pt")  # a path is an object of a class
    with pytest.raises(ValueError, match="holds more than tensors"):
        LabelledSet.load(tmp_path / "a.pt")
    torch.save(torch.zeros(3), tmp_path / "b.pt")
    with pytest.raises(ValueError, match="must hold two tensors"):
        LabelledSet.load(tmp_path / "b.pt")
    with pytest.raises(FileNotFoundError, match="no such file"):
        LabelledSet.load(tmp_path / "none.npz")
    with pytest.raises(ValueError, match=r"must be a folder, or end in \.npz"):
        LabelledSet.load(tmp_path / "a.txt")
    with pytest.raises(ValueError, match="must have a folder of images"):
        LabelledSet.load(tmp_path)
