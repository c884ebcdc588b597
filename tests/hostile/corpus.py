"""Corpus: what can be wrong with a file, shared by all tests of readers.

A *mangling* turns what a file holds into something else: bytes that are cut, flipped or appended to; JSON with another value,
a key too few, too many or twice, a number that no double holds, or ten thousand lists in one another; safetensors with other
names, dtypes, shapes or numbers, or a header that claims more than there is; pickles that would run a command.

What a reader must do with it is the same everywhere (`Watched`): return a value, or raise one of `ERRORS` with one line that
names the file. Whatever it does, no file that was there has changed, and the command was not run.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
import os
import pickle
import resource
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import Tensor

__all__ = [
    "ERRORS",
    "FOREIGN",
    "GARBAGE",
    "Raw",
    "Watched",
    "dumped",
    "header_claims",
    "mangled_bytes",
    "mangled_json",
    "mangled_tensors",
    "payloads",
    "tree",
]

ERRORS = (ValueError, TypeError, OSError)
"""What a reader may raise. `UnicodeDecodeError` and `JSONDecodeError` are among them by inheritance, and name no file."""

ROOM = 256 * 2**10
"""KiB by which memory may grow while a file of a few KiB is read."""


class Raw(str):
    """JSON text that stands for itself: what `json.dumps` would not write."""


DEEP = Raw("[" * 10_000 + "]" * 10_000)
FOREIGN: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    10**30,
    -2.5,
    1e308,
    "",
    "x",
    "../../x",
    "/etc/passwd",
    "a\0b",
    "\x1b[2J\x9b1m",
    "NaN",
    "Infinity",
    [],
    [[1]],
    {},
    {"x": None},
    Raw("NaN"),
    Raw("-Infinity"),
    Raw("1e400"),
    Raw("1" + "0" * 400),
    Raw('"\\ud800"'),
    DEEP,
)
"""Values that stand where another one should."""

GARBAGE = (
    b"",
    b"\0",
    b"\xff\xfe\0",
    b"\x80\x04K\x01.",
    b"PK\x03\x04" + bytes(40),
    b"{",
    b"[]",
    b"null",
    b"7",
    bytes(range(256)),
)
"""Files of something else."""


def dumped(value: Any) -> bytes:
    """JSON in which every `Raw` stands for itself, and other surrogates and infinities are as Python writes them."""
    raw: list[str] = []

    def marked(item: Any) -> Any:
        if isinstance(item, Raw):
            raw.append(str(item))
            return f"@{len(raw) - 1}@"
        if isinstance(item, dict):
            return {key: marked(inner) for key, inner in item.items()}
        return [marked(inner) for inner in item] if isinstance(item, list) else item

    text = json.dumps(marked(value))
    for number, piece in enumerate(raw):
        text = text.replace(f'"@{number}@"', piece)
    return text.encode()


def places(value: Any, below: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of every value in a JSON value, its own, (), first."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [below, *(place for key, item in inner for place in places(item, (*below, key)))]


def changed(value: Any, place: tuple[Any, ...], change: Callable[[Any, Any], None]) -> Any:
    """A copy in which `change(parent, key)` was done at a place, which is not ()."""
    made = copy.deepcopy(value)
    parent = made
    for key in place[:-1]:
        parent = parent[key]
    change(parent, place[-1])
    return made


def twice(entries: Mapping[str, Any], key: str, value: Any) -> Raw:
    """An object that has a key twice."""
    text = dumped(dict(entries)).decode()
    return Raw(f"{text[:-1]}, {json.dumps(key)}: {dumped(value).decode()}}}")


@st.composite
def mangled_bytes(draw: st.DrawFn, data: bytes) -> bytes:
    """Cut, flipped, appended to, put behind something, or replaced."""
    kind = draw(st.sampled_from(["cut", "flip", "append", "before", "garbage", "hole", "twice"]))
    place = draw(st.integers(0, max(len(data) - 1, 0)))
    if kind == "cut":
        return data[:place]
    if kind == "flip":
        return data[:place] + bytes([data[place] ^ draw(st.integers(1, 255))]) + data[place + 1 :]
    if kind == "append":
        return data + draw(st.sampled_from(GARBAGE[1:]))
    if kind == "before":
        return draw(st.sampled_from([b"\xef\xbb\xbf", b"\0", b"\xff", b" \n", b"\xff\xfe"])) + data
    if kind == "hole":
        return data[:place] + bytes(min(16, len(data) - place)) + data[place + 16 :]
    return data * 2 if kind == "twice" else draw(st.sampled_from(GARBAGE))


@st.composite
def mangled_json(draw: st.DrawFn, value: Any) -> bytes:
    """Another value, a key too few, too many or twice, somewhere; or damaged text."""
    kind = draw(st.sampled_from(["value", "value", "value", "gone", "more", "twice", "bytes"]))
    if kind == "bytes":
        return draw(mangled_bytes(dumped(value)))
    place = draw(st.sampled_from(places(value)))
    if kind == "more":
        found = [p for p in places(value) if isinstance(_at(value, p), dict)]
        inside = draw(st.sampled_from(found))
        made = copy.deepcopy(value)
        _at(made, inside)["one more"] = draw(st.sampled_from(FOREIGN))
        return dumped(made)
    if not place:
        return dumped(draw(st.sampled_from(FOREIGN)))
    if kind == "gone":
        return dumped(changed(value, place, lambda parent, key: parent.pop(key)))
    if kind == "twice" and isinstance(place[-1], str):
        entries = _at(value, place[:-1])
        doubled = twice(entries, place[-1], draw(st.sampled_from(FOREIGN)))
        if not place[:-1]:
            return doubled.encode()
        return dumped(changed(value, place[:-1], lambda parent, key: parent.__setitem__(key, doubled)))
    new = draw(st.sampled_from([*FOREIGN, *_near(_at(value, place))]))
    return dumped(changed(value, place, lambda parent, key: parent.__setitem__(key, new)))


def _at(value: Any, place: tuple[Any, ...]) -> Any:
    for key in place:
        value = value[key]
    return value


def _near(value: Any) -> list[Any]:
    """Values of the same kind, which a reader cannot tell by their kind."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, (int, float)):
        return [value * 3, value / 3, value + 1, -value, 2 * int(value) + 1]
    return [value + "x", value[:-1]] if isinstance(value, str) else []


def header_claims(blob: bytes, change: Callable[[dict[str, Any]], Any]) -> bytes:
    """A safetensors file with another header over the same numbers."""
    (length,) = struct.unpack("<Q", blob[:8])
    header = json.loads(blob[8 : 8 + length])
    text = dumped(change(header) or header)
    return struct.pack("<Q", len(text)) + text + blob[8 + length :]


@st.composite
def mangled_tensors(draw: st.DrawFn, blob: bytes) -> bytes:
    """Other names, dtypes, shapes or numbers; a header that claims something else; or damaged bytes."""
    kind = draw(st.sampled_from(["bytes", "header", "length", "tensor", "tensor", "names"]))
    if kind == "bytes":
        return draw(mangled_bytes(blob))
    if kind == "length":
        claimed = draw(st.sampled_from([0, 1, 2**20, 2**40, 2**63, 2**64 - 1]))
        return struct.pack("<Q", claimed) + blob[8:]
    tensors, metadata = load(blob), _metadata(blob)
    name = draw(st.sampled_from(sorted(tensors)))
    if kind == "header":
        fields = {
            "shape": [[2**40], [2**62, 4], [-1], [1.5], "x", [0], []],
            "dtype": ["F64", "I64", "U8", "BOOL", "C64", "F8_E4M3", "F4", "X", None, 7],
            "data_offsets": [[0, 2**40], [4, 0], [-4, 0], [0], None, [0, 0]],
        }
        part = draw(st.sampled_from(sorted(fields)))
        value = draw(st.sampled_from(fields[part]))
        return header_claims(blob, lambda header: header[name].__setitem__(part, value))
    if kind == "names":
        new = draw(st.sampled_from(["", "x", "../x", "/etc/passwd", "a\0b", "__class__", f"{name}.x", name.upper()]))
        tensor = tensors.pop(name)
        if draw(st.booleans()):
            tensors[new] = tensor
        return save(tensors or {"x": torch.zeros(1)}, metadata)
    tensors[name] = draw(st.sampled_from(_others(tensors[name])))
    return save(tensors, metadata)


def _metadata(blob: bytes) -> dict[str, str] | None:
    (length,) = struct.unpack("<Q", blob[:8])
    found: dict[str, str] | None = json.loads(blob[8 : 8 + length]).get("__metadata__")
    return found


def _others(tensor: Tensor) -> list[Tensor]:
    """Tensors in another one's place: of another shape, dtype or content."""
    real = tensor.to(torch.float64) if tensor.dtype != torch.float64 else tensor
    made = [
        tensor.flatten()[:0],
        tensor.flatten()[:1],
        tensor.reshape(1, *tensor.shape),
        tensor.reshape(-1),
        torch.cat([tensor.flatten(), tensor.flatten()]),
        torch.zeros((), dtype=tensor.dtype),
        torch.full_like(real, float("nan")),
        torch.full_like(real, float("inf")),
        torch.full_like(real, 1e300),
        torch.full_like(real, -1.0),
        real.to(torch.float16),
        real.to(torch.complex64),
        torch.zeros(tensor.shape, dtype=torch.bool),
        torch.full(tensor.shape, -1, dtype=torch.int64),
    ]
    return [item.clone().contiguous() for item in made]


class _Command:
    """A pickle of this runs a command when it is loaded."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.canary}'",)


def payloads(canary: Path) -> dict[str, bytes]:
    """Files that create `canary` if they are unpickled carelessly: bare, in torch's archive, in its older form, in numpy's."""
    bare = pickle.dumps(_Command(canary))
    archive, older, array = io.BytesIO(), io.BytesIO(), io.BytesIO()
    torch.save({"x": torch.zeros(2), "y": _Command(canary)}, archive)
    torch.save({"y": _Command(canary)}, older, _use_new_zipfile_serialization=False)
    import numpy as np

    np.save(array, np.array([_Command(canary)], dtype=object), allow_pickle=True)
    return {"bare": bare, "archive": archive.getvalue(), "older": older.getvalue(), "array": array.getvalue()}


def zip_bomb() -> bytes:
    """An archive that unpacks to a thousand times as much."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open("archive/data/0", "w", force_zip64=True) as entry:
            for _ in range(4):
                entry.write(bytes(2**22))
        archive.writestr("archive/data.pkl", pickle.dumps({}))
    return made.getvalue()


def tree(folder: Path) -> dict[str, str]:
    """Every file below a folder with the SHA-256 of its bytes, and every link with where it leads."""
    return {
        str(path.relative_to(folder)): f"-> {os.readlink(path)}"
        if path.is_symlink()
        else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


class Watched:
    """A folder in which readers are tried.

    Args:
        folder: with the files that are there.

    Attributes:
        canary: a file that must not come to be.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.canary = folder, folder / "canary"

    @contextmanager
    def unchanged(self, *, room: int = ROOM) -> Iterator[None]:
        """Nothing that was there is changed, nothing is run, and memory grows by no more than `room` KiB."""
        before, memory = tree(self.folder), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        yield
        after = tree(self.folder)
        assert {name: after.get(name) for name in before} == before
        assert not self.canary.exists()
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory <= room

    def read(self, reader: Callable[[], Any], *names: str) -> tuple[Any, str]:
        """(value, "") or (None, message) of a reader: any other error is one of ours."""
        with self.unchanged():
            try:
                return reader(), ""
            except ERRORS as error:
                message = str(error)
        assert "\n" not in message, message
        for name in names or (str(self.folder),):
            assert name in message, message
        return None, message
