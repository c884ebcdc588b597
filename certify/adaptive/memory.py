"""Covariance memory: certified regions on disk, so that an adaptive Σ is the same one wherever a claim holds (T7).

A claim is made at y for the smoother with Σ = Σ(y) and says something about every point of the ellipsoid {‖x − y‖_Σ ≤ ρ}.
It is true of an adaptive smoother if that smoother uses the same Σ at all these points. A memory makes it so (Eiras et al.
2022): it keeps the regions of all claims, and

- a query inside a region is smoothed with the region's Σ; any other query with its own;
- a new claim at a point inside a region is made with the region's Σ, and cut down to what lies inside:
  ρ' = min(ρ, ρ_region − ‖y − y_region‖_Σ), since a ball around y in the region's own norm stays within it by the triangle
  inequality;
- a new claim elsewhere is cut down until its region is disjoint from every other, so that no point has two Σ.

Whether two axis-aligned ellipsoids with centres c, c + v and semi-axes a_j, b_j are disjoint is a question in one dimension.
For a point x of both and any 0 < s < 1, (1−s) Σ_j (x_j − c_j)²/a_j² + s Σ_j (x_j − c_j − v_j)²/b_j² ≤ 1, and the least value
of the left-hand side over x is

    h(s) = Σ_j v_j² / ( a_j²/(1−s) + b_j²/s ),

so h(s) > 1 for *one* s proves them disjoint. A semi-axis of 0 leaves this true (v²/0 = ∞ for v ≠ 0, 0/0 = 0). h is concave, and
by minimax some s proves it whenever they are disjoint (Gilitschenski & Hanebeck 2012). What is not proven counts as overlap.

**What is claimed.** A claim holds from the moment its region is stored, for deployments that ask the same memory at every
query. It says nothing about a query that was answered before, or by a deployment without the memory. The first claim made
somewhere decides: it cannot be widened later. An attacker who may add regions can plant one with a small Σ around a prompt that
is to be let through; adding regions is for those who issue certificates. A region holds its centre, from which the prompt can
be read.

On disk: `memory.json` and one safetensors file a region; nothing pickled. A region's file is never changed. The index is
replaced as a whole, by one writer at a time (an exclusive lock on `memory.lock`), who reads it afresh first.
"""

from __future__ import annotations

import hashlib
import json
import math
import secrets
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors.torch import save as save_tensors
from torch import Tensor

from certify import _files, _validate
from certify._digests import json_digest
from certify._records import Record, Shown
from certify.noise import GaussianNoise

__all__ = ["CovarianceMemory", "Issued", "Region", "disjoint"]

Context = Mapping[str, int | str]
"""What must agree between a region and a query beside the embeddings: for a prompt its side information and text encoder."""

_FORMAT, _SCHEMA = "certify covariance memory", 1
_INDEX, _LOCK = "memory.json", "memory.lock"
_FIELDS = {"id", "rho", "context", "sha256"}
# A point counts as inside up to this much beyond ρ, relatively, and regions are kept further apart than that: rounding in a
# norm is about 1e-14 and must not decide.
_INSIDE, _APART = 1e-12, 1e-9
_TINY = 1e-290


@dataclass(frozen=True, eq=False)
class Region(Record):
    """A stored ellipsoid: wherever in it a query lies, it is smoothed with `noise`.

    Attributes:
        id: names its file.
        center: (*input).
        noise: Σ.
        rho: radius in ‖·‖_Σ.
        context: what else must agree.
    """

    id: str
    center: Tensor
    noise: GaussianNoise
    rho: float
    context: dict[str, int | str]

    def distance(self, y: Tensor) -> float:
        """‖y − center‖_Σ; ∞ for another shape."""
        if y.shape != self.center.shape:
            return math.inf
        return self.noise.norm(y.detach().to("cpu", torch.float64) - self.center.double())

    def holds(self, y: Tensor) -> bool:
        """Whether y lies in the region."""
        return self.distance(y) <= self.rho * (1 + _INSIDE)


@dataclass(frozen=True, eq=False)
class Issued(Shown):
    """What may be claimed at a point after `CovarianceMemory.store`: radius `rho` in the norm of `noise`.

    Attributes:
        noise: the Σ that every query within the claim is smoothed with.
        rho: radius of the claim; at most the requested one. 0: there is no room for a claim, and nothing was stored.
        requested: the radius that was asked for.
        region: the region that the claim lies in; None where rho is 0.
        status: "stored" as requested, "shrunk" to be disjoint from other regions, "inside" a region that was there already
            (intersected with it), or "refused".
    """

    noise: GaussianNoise
    rho: float
    requested: float
    region: Region | None
    status: str


class CovarianceMemory:
    """Disjoint regions with a Σ each, in a folder.

    Reference
        Eiras et al. (2022), "ANCER: Anisotropic Certification via Sample-wise Volume Maximization", memory-based
        certification; THEORY T7.3.

    Args:
        folder: made at the first `store` if it is not there.

    Raises:
        ValueError: the folder holds something else, or a damaged memory. Reading is strict: what cannot be read as written is
            not taken for an empty memory.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"folder = {str(folder)!r}: must be a folder, is a file")
        self._signature: tuple[int, ...] | None = None
        self._regions: dict[str, Region] = {}
        self._refresh()

    def __repr__(self) -> str:
        return f"CovarianceMemory({str(self.folder)!r}, {len(self)} regions)"

    def __len__(self) -> int:
        return len(self.regions())

    def regions(self, context: Context | None = None) -> tuple[Region, ...]:
        """The regions on disk at this moment, in the order of storing; with a context only those that it agrees with."""
        self._refresh()
        known = self._regions.values()
        return tuple(r for r in known if context is None or r.context == dict(context))

    def digest(self) -> str:
        """SHA-256 over the identifiers and contents of all regions: which memory a record is about."""
        listed = [(r.id, r.rho, sorted(r.context.items())) for r in self.regions()]
        return hashlib.sha256(json.dumps(listed, ensure_ascii=False).encode()).hexdigest()

    def find(self, y: Tensor, context: Context) -> Region | None:
        """The region that a query lies in, if any. The folder is consulted at every call.

        Args:
            y: (*input).
            context: what else must agree.

        Raises:
            ValueError: y is not finite, or lies in two regions: the memory was tampered with, and Σ(y) is not determined.
        """
        _validate.finite_tensor("y", y)
        found = [region for region in self.regions(context) if region.holds(y)]
        if len(found) > 1:
            ids = ", ".join(region.id for region in found)
            raise ValueError(
                f"memory {str(self.folder)!r}: regions {ids} overlap; must be disjoint, as `store` leaves them"
            )
        return found[0] if found else None

    def store(self, y: Tensor, noise: GaussianNoise, rho: float, context: Context) -> Issued:
        """Makes room for a claim at y of radius rho, and says how much of it there is.

        Args:
            y: the point, (*input).
            noise: Σ(y), used unless y lies in a region already.
            rho: the radius wanted, > 0.
            context: side information: plain strings and whole numbers. Regions of different contexts are points of different
                spaces and never overlap.

        Returns:
            `Issued`: claim no more than its `rho`, with its `noise`.

        Raises:
            ValueError, TypeError: an argument is out of range.
        """
        y = _validate.finite_tensor("y", y).detach().cpu()
        rho, context = _validate.positive("rho", rho), _checked_context("context", context)
        if not isinstance(noise, GaussianNoise):
            raise TypeError(f"noise is a {type(noise).__name__}: must be a GaussianNoise")
        noise.sigma_for(y.shape)
        _files.make_folder(self.folder)
        with _locked(self.folder / _LOCK):
            inside = self.find(y, context)
            if inside is not None:
                room = min(rho, inside.rho - inside.distance(y))
                if room <= 0:
                    return Issued(inside.noise, 0.0, rho, None, "refused")
                return Issued(inside.noise, room, rho, inside, "inside")
            room = rho
            for region in self.regions(context):
                if region.center.shape == y.shape:
                    room = _room(region, y, noise, room)
            if room <= 0:
                return Issued(noise, 0.0, rho, None, "refused")
            region = Region(secrets.token_hex(8), y.clone(), noise, room, context)
            self._write(region)
            return Issued(noise, room, rho, region, "stored" if room == rho else "shrunk")

    def verify(self) -> None:
        """Proves that all regions are pairwise disjoint.

        Raises:
            ValueError: two are not, or it cannot be proven.
        """
        regions = self.regions()
        for i, a in enumerate(regions):
            for b in regions[:i]:
                if a.context == b.context and a.center.shape == b.center.shape and not _apart(a, b):
                    raise ValueError(f"memory {str(self.folder)!r}: regions {b.id} and {a.id} are not proven disjoint")

    def _write(self, region: Region) -> None:
        blob = save_tensors(
            {"center": region.center.contiguous(), "sigma": region.noise.sigma.to("cpu", torch.float64).contiguous()}
        )
        known = self._entries()
        # An index before the first region, so that regions without one are known for what they are; and a region before the
        # index that names it.
        if not known:
            self._list([])
        _files.write(self._file(region.id), blob)
        self._list([*known, _entry(region, hashlib.sha256(blob).hexdigest())])
        self._refresh()

    def _list(self, entries: list[dict[str, Any]]) -> None:
        content = {"format": _FORMAT, "schema_version": _SCHEMA, "regions": entries, "sha256": json_digest(entries)}
        text = json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False) + "\n"
        _files.write(self.folder / _INDEX, text)

    def _file(self, identifier: str) -> Path:
        return self.folder / f"region-{identifier}.safetensors"

    def _refresh(self) -> None:
        path = self.folder / _INDEX
        try:
            status = path.stat()
        except FileNotFoundError:
            if self._regions or any(self.folder.glob("region-*.safetensors")):
                raise ValueError(f"memory {str(self.folder)!r}: {_INDEX} is gone; its claims no longer hold") from None
            return
        # An index only ever grows.
        signature = (status.st_ino, status.st_mtime_ns, status.st_size)
        if signature == self._signature:
            return
        entries = self._entries()
        missing = self._regions.keys() - {entry["id"] for entry in entries}
        if missing:
            gone = ", ".join(sorted(missing))
            raise ValueError(f"memory {str(self.folder)!r}: regions {gone} are gone; their claims no longer hold")
        self._regions = {entry["id"]: self._regions.get(entry["id"]) or self._region(entry) for entry in entries}
        self._signature = signature

    def _entries(self) -> list[dict[str, Any]]:
        path = self.folder / _INDEX
        if not path.is_file():
            return []
        try:
            content = _files.read_json(path)
        except (OSError, ValueError) as error:
            raise ValueError(f"memory {str(self.folder)!r}: {_INDEX} is damaged ({error})") from error
        if (content.get("format"), content.get("schema_version")) != (_FORMAT, _SCHEMA):
            raise ValueError(f"memory {str(self.folder)!r}: {_INDEX} must have format {_FORMAT!r}, version {_SCHEMA}")
        entries = content.get("regions")
        known = {"format", "schema_version", "regions"}
        # An index of an earlier version has no digest; the next region gives it one.
        if set(content) - {"sha256"} != known or not isinstance(entries, list):
            raise ValueError(f"memory {str(self.folder)!r}: {_INDEX} has the fields {sorted(content)}")
        if "sha256" in content and content["sha256"] != json_digest(entries):
            raise ValueError(f"memory {str(self.folder)!r}: {_INDEX} is not what was written: its SHA-256 differs")
        for entry in entries:
            if not isinstance(entry, dict) or set(entry) != _FIELDS or not isinstance(entry["id"], str):
                raise ValueError(f"memory {str(self.folder)!r}: a region is {entry!r}, must have {sorted(_FIELDS)}")
            if not (entry["id"].isascii() and entry["id"].isalnum() and len(entry["id"]) <= 64):
                raise ValueError(
                    f"memory {str(self.folder)!r}: a region has id {entry['id']!r}: must be letters and digits"
                )
        if len({entry["id"] for entry in entries}) != len(entries):
            raise ValueError(f"memory {str(self.folder)!r}: a region is listed twice")
        return entries

    def _region(self, entry: dict[str, Any]) -> Region:
        where = f"memory {str(self.folder)!r}, region {entry['id']}"
        path = self._file(entry["id"])
        if not path.is_file():
            raise ValueError(f"{where}: {path.name} is not there")
        try:
            tensors, _ = _files.read_tensors(path, str(entry["sha256"]))
        except (OSError, ValueError) as error:
            raise ValueError(f"{where}: {path.name} is not the file that was written ({error})") from error
        if set(tensors) != {"center", "sigma"}:
            raise ValueError(f"{where}: {path.name} holds {sorted(tensors)}, must hold center and sigma")
        try:
            center = _validate.finite_tensor("center", tensors["center"])
            noise = GaussianNoise(tensors["sigma"])
            noise.sigma_for(center.shape)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where}: {path.name}: {error}") from error
        rho = entry["rho"]
        if isinstance(rho, bool) or not isinstance(rho, (int, float)) or not 0 < rho < math.inf:
            raise ValueError(f"{where}: rho = {rho!r}, must be a finite number > 0")
        return Region(entry["id"], center, noise, float(rho), _checked_context(f"{where}: context", entry["context"]))


def disjoint(v: Tensor, a: Tensor, b: Tensor) -> bool:
    """Whether two axis-aligned ellipsoids are *certainly* disjoint, touching excluded. False: they overlap, or nearly so.

    Equation
        max_{0<s<1} h(s) > 1,  h(s) = Σ_j v_j² / ( a_j²/(1−s) + b_j²/s )

    Args:
        v: difference of their centres.
        a, b: their semi-axes, ≥ 0, broadcastable to v. 0: no extent.

    >>> one = torch.ones(2)
    >>> disjoint(torch.tensor([2.1, 0.0]), one, one), disjoint(torch.tensor([1.9, 0.0]), one, one)
    (True, False)
    >>> disjoint(torch.tensor([0.0, 0.1]), torch.tensor([5.0, 0.0]), torch.tensor([5.0, 0.0]))  # two parallel segments
    True
    """
    square, first, second = (x.to("cpu", torch.float64).square() for x in (v, a, b))
    # Squares that underflow are rounded to the side of overlap.
    square = torch.where(square < _TINY, 0.0, square)
    first, second = (torch.where(x.cpu() > 0, y.clamp_min(_TINY), 0.0) for x, y in ((a, first), (b, second)))
    square, first, second = _by_axis(square, first, second)
    if bool(((first == 0) & (second == 0) & (square > 0)).any()):
        return True
    some = square > 0
    square, first, second = square[some], first[some], second[some]
    low, high = 0.0, 1.0
    for _ in range(12):
        s = low + (high - low) * torch.linspace(0, 1, 33, dtype=torch.float64)[1:-1, None]
        # v² s(1−s) / (a² s + b² (1−s)): the same without a division by s or by 1 − s.
        h = (square * (s * (1 - s) / (first * s + second * (1 - s)))).sum(dim=1)
        if bool((h > 1 + _APART).any()):
            return True
        # h is concave: its maximum is next to the largest value of the grid.
        best = int(h.argmax())
        step = (high - low) / 32
        low, high = float(s[best, 0]) - step, float(s[best, 0]) + step
    return False


def _by_axis(square: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Flattens. Axes that share their semi-axes (the width of one token) become one: h adds up their v²."""
    shape = square.shape
    if len(shape) > 1 and all(x.ndim == len(shape) and x.shape[-1] == 1 for x in (first, second)):
        square, shape = square.sum(dim=-1, keepdim=True), torch.Size((*shape[:-1], 1))
    return square.flatten(), first.expand(shape).flatten(), second.expand(shape).flatten()


def _apart(a: Region, b: Region) -> bool:
    return disjoint(b.center.double() - a.center.double(), a.rho * a.noise.sigma, b.rho * b.noise.sigma)


def _room(region: Region, y: Tensor, noise: GaussianNoise, rho: float) -> float:
    """The largest radius up to `rho` at which an ellipsoid around y is certainly disjoint from a region, from below."""
    v, a = y.double() - region.center.double(), region.rho * region.noise.sigma
    if disjoint(v, a, rho * noise.sigma):
        return rho
    low, high = 0.0, rho
    while high - low > 1e-9 * rho:
        middle = (low + high) / 2
        if disjoint(v, a, middle * noise.sigma):
            low = middle
        else:
            high = middle
    return low


def _checked_context(name: str, context: Any) -> dict[str, int | str]:
    if not isinstance(context, Mapping) or not all(
        isinstance(k, str) and isinstance(v, (int, str)) and not isinstance(v, bool) for k, v in context.items()
    ):
        raise ValueError(f"{name} = {context!r}: must be strings and whole numbers by name")
    return dict(context)


def _entry(region: Region, sha256: str) -> dict[str, Any]:
    return {"id": region.id, "rho": region.rho, "context": region.context, "sha256": sha256}


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One writer at a time, among threads and processes; released by the system if the holder dies."""
    with path.open("a+b") as file:
        _acquire(file)
        try:
            yield
        finally:
            _release(file)


if sys.platform == "win32":  # pragma: no cover
    import msvcrt
    import time

    def _acquire(file: BinaryIO) -> None:
        while True:
            file.seek(0)
            try:
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
                return
            except OSError:
                time.sleep(0.05)

    def _release(file: BinaryIO) -> None:
        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _acquire(file: BinaryIO) -> None:
        fcntl.flock(file, fcntl.LOCK_EX)

    def _release(file: BinaryIO) -> None:
        fcntl.flock(file, fcntl.LOCK_UN)
