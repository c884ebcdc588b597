"""Saved results, opened: folders below the folder of results, and files that a visitor hands over."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from certify import _files
from certify.certificate import Certificate

__all__ = ["NAMES", "opened", "page_of", "saved"]

NAMES = ("certificate.json", "tensors.safetensors", "settings.json", "results.jsonl")
"""Files that are read; any other is passed over."""

MOST_BYTES = 256 * 2**20
MOST_FOLDERS = 200


def saved(folder: Path) -> list[str]:
    """Certificates and runs below a folder, the newest first: their paths within it."""
    found: dict[Path, float] = {}
    for name in ("certificate.json", "results.jsonl"):
        for path in folder.glob(f"**/{name}"):
            if path.is_file() and path.parent not in found:
                found[path.parent] = path.stat().st_mtime
    newest = sorted(found, key=lambda path: (-found[path], str(path)))
    return [str(path.relative_to(folder)) for path in newest[:MOST_FOLDERS]]


def page_of(folder: Path, named: str) -> tuple[str, str]:
    """(page, title) of a certificate or a run.

    Args:
        folder: where it lies.
        named: what the page calls it.

    Raises:
        FileNotFoundError: there is neither in it.
        ValueError: a file is damaged, or of another kind.
    """
    from certify import report
    from certify.datasets import RunRecord

    if (folder / "certificate.json").is_file():
        certificate = Certificate.load(folder)
        digests = _files.digests(folder, ("certificate.json", "tensors.safetensors"))
        return report.certificate_page(certificate, folder=named, digests=digests), f"Certificate {named}"
    if (folder / "results.jsonl").is_file():
        digests = _files.digests(folder, ("settings.json", "results.jsonl"))
        return report.run_page(RunRecord.load(folder), folder=named, digests=digests), f"Run {named}"
    raise FileNotFoundError(
        "files: must be certificate.json with tensors.safetensors, settings.json with results.jsonl, or a .zip of either pair"
    )


def opened(files: Sequence[str | Path]) -> tuple[str, str]:
    """(page, title) of what was handed over: the files of a certificate or of a run, or a `.zip` of them.

    Raises:
        FileNotFoundError, ValueError: as `page_of`; or a `.zip` is none, or too large.
    """
    with tempfile.TemporaryDirectory(prefix="certify-app-") as folder:
        for given in map(Path, files):
            if given.suffix == ".zip":
                _unpacked(given, Path(folder))
            elif given.name in NAMES:
                shutil.copyfile(given, Path(folder) / given.name)
        page, title = page_of(Path(folder), "FOLDER")
        return page, title.removesuffix(" FOLDER")


def _unpacked(path: Path, folder: Path) -> None:
    """Those of `NAMES` that are in an archive, wherever in it; no other name of it is used."""
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                name = Path(entry.filename).name
                if name not in NAMES:
                    continue
                with archive.open(entry) as source:
                    data = source.read(MOST_BYTES + 1)  # what it says of its size may be a lie
                if len(data) > MOST_BYTES:
                    raise ValueError(f"files: {name} in {path.name} is larger than {MOST_BYTES // 2**20} MiB")
                (folder / name).write_bytes(data)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise ValueError(f"files: {path.name} is no archive that can be read ({error})") from error
