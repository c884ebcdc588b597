"""Saving: what a method changed, as files that `load_pipeline`, `certify prompt` and every attack accept, with a model card.

unet.safetensors           weights of the U-Net that changed              load_pipeline(unet=…)
text_encoder.safetensors   the same of the text encoder                   load_pipeline(text_encoder=…)
mask.safetensors           one bit a weight: which of them are pruned     load_pipeline(unet=…)
README.md                  what was done, to what, with which settings and figures
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from certify import _files
from certify.models.masks import packed
from experiments.unlearning.concept import Concept
from experiments.unlearning.method import Edit, Method

__all__ = ["EMBEDDED", "FILES", "base_name", "check_free", "overlays", "record", "save"]

EMBEDDED = "the embedded model"
"""What a record calls the base where it is that."""

_REPOSITORY = Path(__file__).resolve().parents[2]

FILES = {"unet": "unet.safetensors", "text_encoder": "text_encoder.safetensors", "masks": "mask.safetensors"}


def save(
    folder: str | Path,
    edit: Edit,
    *,
    method: Method,
    concept: Concept,
    base: str | None,
    settings: Any,
    seed: int,
    seconds: float,
) -> Path:
    """Writes the files and the card.

    Args:
        folder: made if it is not there.
        edit: what changed.
        method, concept, settings, seed: how.
        base: hub id or folder of the model it was done to; None: the embedded one.
        seconds: how long it took.

    Raises:
        FileExistsError: the folder holds a result already.
        ValueError: nothing changed, or weights of the U-Net both changed and masked.
    """
    folder = Path(folder)
    check_free(folder)
    if not edit.tensors:
        raise ValueError(f"edit: {method.name} changed no tensor")
    if edit.unet and edit.masks:
        raise ValueError(f"edit: {method.name} changed and masked weights of the U-Net; must be one of them")
    _files.make_folder(folder)
    for part, name in FILES.items():
        tensors = {key: t.detach().cpu().contiguous() for key, t in getattr(edit, part).items()}
        if part == "masks" and tensors:
            bits, about = packed(tensors)
            _files.write_tensors(folder / name, bits, about)
        elif tensors:
            _files.write_tensors(folder / name, tensors)
    _files.write(folder / "README.md", _card(folder, edit, method, concept, base, settings, seed, seconds))
    return folder


def base_name(base: str | None) -> str:
    """What a record calls a base: `EMBEDDED`, a hub id or a folder; the folder of an embedded world from the repository's
    root, wherever that is."""
    from experiments.world.worlds import everything

    if base is None:
        return EMBEDDED
    if base in [world.base for world in everything()]:
        return Path(base).relative_to(_REPOSITORY).as_posix()
    return base


def check_free(folder: Path) -> None:
    """Raises FileExistsError where a result is there already."""
    there = [name for name in FILES.values() if (folder / name).exists()]
    if there:
        raise FileExistsError(f"out = {str(folder)!r}: holds {there[0]} already; choose another folder")


def record(folder: str | Path) -> dict[str, Any]:
    """What a folder's README says of how it was made.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not one of ours.
    """
    path = Path(folder) / "README.md"
    try:
        stored = _files.json_object(_files.read_text(path).split("```json")[1].split("```")[0])
    except (IndexError, ValueError) as error:
        raise ValueError(f"{path}: has no record of an unlearning method") from error
    return stored


def overlays(folder: str | Path) -> dict[str, Any]:
    """What to give to `load_pipeline` for a saved result: argument → path of a file.

    Args:
        folder: of the result; or a file with a U-Net's weights.

    Raises:
        FileNotFoundError: the folder holds none.
    """
    folder = Path(folder)
    if folder.is_file():
        return {"unet": folder}
    files = {
        argument: folder / name
        for argument, name in (
            ("unet", FILES["masks"]),
            ("unet", FILES["unet"]),
            ("text_encoder", FILES["text_encoder"]),
        )
        if (folder / name).exists()
    }
    if not files:
        raise FileNotFoundError(
            f"{folder}: holds no result of an unlearning method; looked for {', '.join(FILES.values())}"
        )
    return files


def _card(
    folder: Path,
    edit: Edit,
    method: Method,
    concept: Concept,
    base: str | None,
    settings: Any,
    seed: int,
    seconds: float,
) -> str:
    record = {
        "method": method.name,
        "concept": concept.name,
        "kind": concept.kind,
        "erased": list(concept.erase),
        "anchor": concept.anchor,
        "neutral": concept.neutral,
        "preserved": list(concept.preserve),
        "templates": len(concept.templates),
        "captions": len(concept.captions),
        "base": base_name(base),
        "settings": asdict(settings),
        "seed": seed,
        "seconds": round(seconds, 1),
        "made": time.strftime("%F"),
        "record": dict(edit.record),
    }
    what = ", ".join(f"`{FILES[part]}` ({len(getattr(edit, part))} tensors)" for part in FILES if getattr(edit, part))
    start = "" if base is None else f"{record['base']!r}, "
    given = ", ".join(f'{argument}="{folder.name}/{path.name}"' for argument, path in overlays(folder).items())
    return "\n".join(
        [
            f"# {method.name}: {concept.name}",
            "",
            f"{method.title}, applied to {record['base']} to erase {', '.join(concept.erase)}.",
            f"Changed: {what}. Load it on top of the base:",
            "",
            f"    certify.load_pipeline({start}{given})",
            "",
            "```json",
            json.dumps(record, indent=2, ensure_ascii=False),
            "```",
            "",
        ]
    )
