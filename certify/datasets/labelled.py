"""Labelled data, as people keep them: arrays in a file, or a folder of images for each class.

    .npz                 arrays x and y (images, inputs, data; labels, targets), or x_test and y_test
    .pt, .pth            a tuple (inputs, labels), or a dict of tensors under these names; nothing in it is run
    .safetensors         tensors under these names
    a folder             CLASS/IMAGE.png (.jpg, .jpeg): classes are numbered in the order of their names, or by them where all
                         are whole numbers

Bytes become float32 in [0, 1], images (height, width, channels) become (channels, height, width) with a channel for grey ones;
what is floating-point stays as it is. Any other preparation (a normalisation) is the classifier's own, so that σ and
every radius are in the unit of these values.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from certify import _files, _validate
from certify._records import Record
from certify.models import weight_files

__all__ = ["SUFFIXES", "LabelledSet"]

SUFFIXES = (".npz", ".pt", ".pth", ".safetensors")
"""Endings of the files that are read."""

_IMAGES = (".png", ".jpg", ".jpeg")
_INPUTS = ("x", "inputs", "images", "data", "x_test", "test_images", "test_x", "test_data")
_LABELS = ("y", "labels", "targets", "target", "label", "y_test", "test_labels", "test_y", "test_targets")


@dataclass(frozen=True)
class LabelledSet(Record):
    """Inputs and their true labels.

    Attributes:
        name: of the file or folder.
        inputs: (inputs, *input), floating-point.
        labels: (inputs,), whole numbers from 0.
        classes: names of the classes, where folders name them; empty: not known.
    """

    name: str
    inputs: Tensor
    labels: Tensor
    classes: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.inputs)

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        every: int = 1,
        limit: int | None = None,
        size: int | None = None,
        argument: str = "data",
    ) -> LabelledSet:
        """Reads a file or a folder.

        Args:
            path: as in this module's head.
            every: only each input whose number, from 0, is a multiple of it; of a folder class by class, in the order of names.
            limit: of those only the first ones; None: all.
            size: images of a folder are scaled to this length of their shorter side, and cut to the middle square; None: taken
                as they are, all of one size.
            argument: what an error calls the path.

        Raises:
            FileNotFoundError: there is no such file or folder.
            ValueError: it holds something else.
        """
        every = _validate.count("every", every)
        most = None if limit is None else _validate.count("limit", limit)
        where = _files.user_path(argument, path)
        if where.is_dir():
            return cls._of_folder(where, slice(None, None, every), most, size, argument)
        if size is not None:
            raise ValueError(f"size = {size!r}: must be left out for a file, whose inputs are taken as they are")
        if where.suffix.lower() not in SUFFIXES:
            raise ValueError(f"{argument} = {str(path)!r}: must be a folder, or end in {', '.join(SUFFIXES)}")
        if not where.is_file():
            raise FileNotFoundError(f"{argument} = {str(path)!r}: no such file, looked for {where.absolute()}")
        try:
            inputs, labels = _pair(_arrays(where, argument))
            labels = _whole(labels)
            if not len(inputs) or len(labels) != len(inputs):
                raise ValueError(
                    f"holds {len(inputs)} inputs and {len(labels)} labels, must be one a label, at least one"
                )
            return cls(where.name, _floating(inputs[::every][:most]), labels[::every][:most])
        except ValueError as error:
            raise ValueError(
                f"{argument} = {str(path)!r}: {str(error).removeprefix(f'{argument} = {str(where)!r}: ')}"
            ) from error

    @classmethod
    def _of_folder(cls, folder: Path, each: slice, most: int | None, size: int | None, argument: str) -> LabelledSet:
        size = None if size is None else _validate.count("size", size)
        images = {
            entry.name: sorted(file for file in entry.iterdir() if file.suffix.lower() in _IMAGES)
            for entry in folder.iterdir()
            if entry.is_dir()
        }
        names = sorted(name for name, files in images.items() if files)
        if not names:
            raise ValueError(
                f"{argument} = {str(folder)!r}: must have a folder of images ({', '.join(_IMAGES)}) for each class"
            )
        numbered = all(name.isdecimal() and name.isascii() for name in names)
        if numbered:
            names.sort(key=int)
        listed = [(file, int(name) if numbered else i) for i, name in enumerate(names) for file in images[name]]
        chosen = listed[each][:most]
        inputs = [_image(file, size, argument) for file, _ in chosen]
        for (file, _), image in zip(chosen, inputs, strict=True):
            if image.shape != inputs[0].shape:
                raise ValueError(
                    f"{argument} = {str(folder)!r}: {file.relative_to(folder)} has shape {tuple(image.shape)}, the first image "
                    f"{tuple(inputs[0].shape)}; must be of one size, or give size"
                )
        return cls(
            folder.resolve().name,
            torch.stack(inputs),
            torch.tensor([label for _, label in chosen]),
            () if numbered else tuple(names),
        )

    def __str__(self) -> str:
        shape = " × ".join(map(str, self.inputs.shape[1:])) or "1"
        least, most = float(self.inputs.min()), float(self.inputs.max())
        return (
            f"{self.name}: {len(self):,} inputs of {shape}, from {least:.4g} to {most:.4g}, "
            f"labels from {int(self.labels.min())} to {int(self.labels.max())}"
        )


def _arrays(path: Path, argument: str) -> Any:
    """What a file holds: tensors by name, or a tuple."""
    if path.suffix == ".safetensors":
        return _files.read_tensors(path)[0]
    return _npz(path) if path.suffix.lower() == ".npz" else weight_files.unpickled(argument, path)


def _npz(path: Path) -> dict[str, Tensor]:
    """The arrays of numbers in a NumPy archive, at the sizes that it has."""
    import numpy as np

    _files.regular(path)
    found = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                name = entry.filename.removesuffix(".npy")
                if name not in (*_INPUTS, *_LABELS):
                    continue
                with archive.open(entry) as file:
                    version = np.lib.format.read_magic(file)
                    head = (
                        np.lib.format.read_array_header_1_0
                        if version == (1, 0)
                        else np.lib.format.read_array_header_2_0
                    )
                    shape, _, dtype = head(file)
                    if dtype.hasobject or dtype.kind not in "fiub":
                        raise ValueError(f"{name} is an array of {dtype}, must be of numbers")
                    if int(np.prod(shape, dtype=object)) * dtype.itemsize > entry.file_size:
                        raise ValueError(f"{name} claims more bytes than it has")
                with archive.open(entry) as file:
                    array = np.lib.format.read_array(file, allow_pickle=False)
                # torch has neither the other byte order nor unsigned numbers of more than a byte
                array = array.astype(array.dtype.newbyteorder("="), copy=False)
                found[name] = torch.from_numpy(
                    array.astype(np.int64) if array.dtype.kind == "u" and array.itemsize > 1 else array
                )
    except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, OSError, NotImplementedError) as error:
        raise ValueError(f"is not a readable .npz file ({error})") from error
    return found


def _pair(held: Any) -> tuple[Tensor, Tensor]:
    """The inputs and the labels among what a file holds."""
    if isinstance(held, Mapping):
        inputs, labels = (next((name for name in names if name in held), None) for names in (_INPUTS, _LABELS))
        if inputs is None or labels is None:
            what, names = ("inputs", _INPUTS) if inputs is None else ("labels", _LABELS)
            there = ", ".join(str(name) for name in list(held)[:8]) or "nothing"
            raise ValueError(f"holds {there}; must have {what} under one of the names {', '.join(names)}")
        held = (held[inputs], held[labels])
    if not isinstance(held, (tuple, list)) or len(held) != 2 or not all(isinstance(part, Tensor) for part in held):
        raise ValueError("must hold two tensors, inputs and labels")
    return held[0], held[1]


def _whole(labels: Tensor) -> Tensor:
    """Labels as a vector of whole numbers; a column of them is one, too."""
    flat = labels.squeeze(1) if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if flat.ndim != 1:
        raise ValueError(f"has labels of shape {tuple(labels.shape)}, must be (inputs,): a whole number an input")
    if flat.is_complex() or not bool(((flat >= 0) & (flat == flat.to(torch.int64))).all()):
        raise ValueError("has labels that are no whole numbers >= 0")
    return flat.to(torch.int64)


def _floating(inputs: Tensor) -> Tensor:
    """Inputs as floating-point numbers, images of bytes as (channels, height, width) in [0, 1]."""
    if inputs.is_floating_point():
        if not bool(torch.isfinite(inputs).all()):
            raise ValueError("has inputs that are NaN or infinite")
        return inputs
    if inputs.dtype is not torch.uint8:
        raise ValueError(f"has inputs of dtype {inputs.dtype}, must be floating-point, or bytes (uint8) from 0 to 255")
    if inputs.ndim == 3:
        inputs = inputs[:, None]
    elif inputs.ndim == 4 and inputs.shape[3] in (1, 3) and inputs.shape[1] not in (1, 3):
        inputs = inputs.permute(0, 3, 1, 2)
    return inputs.float() / 255


def _image(file: Path, size: int | None, argument: str) -> Tensor:
    import numpy as np
    from PIL import Image

    try:
        with Image.open(file) as opened:
            image = opened.convert("L" if opened.mode in ("1", "L") else "RGB")
    except Exception as error:  # what the library raises on foreign bytes is not listed anywhere
        raise ValueError(f"{argument} holds {str(file)!r}, which is no image that can be read ({error})") from error
    if size is not None:
        scale = size / min(image.size)
        image = image.resize((max(size, round(image.width * scale)), max(size, round(image.height * scale))))
        left, top = (image.width - size) // 2, (image.height - size) // 2
        image = image.crop((left, top, left + size, top + size))
    pixels = torch.from_numpy(np.array(image))
    return (pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)).float() / 255
