"""Unlearning: methods that take a concept out of a model, one file a method, named once in `METHODS`.

Each turns a pipeline into an edited state dict of its U-Net, which `certify.load_pipeline(unet=…)`, `certify prompt --unet` and
`certify generate --unet` accept. `python -m experiments unlearn METHOD --concept … --out DIR` runs one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from experiments.unlearning import uce

__all__ = ["METHODS", "save"]

METHODS: dict[str, Callable[..., dict[str, Tensor]]] = {"uce": uce.edit}
"""Name → (pipeline, phrases to erase, settings) → edited weights."""


def save(
    folder: str | Path, weights: dict[str, Tensor], *, method: str, erase: Sequence[str], base: str, settings: Any
) -> Path:
    """Writes `unet.safetensors` and a model card that says what was done.

    Raises:
        FileExistsError: the folder holds an edited U-Net already.
    """
    from safetensors.torch import save_file

    folder = Path(folder)
    if (folder / "unet.safetensors").exists():
        raise FileExistsError(f"out = {str(folder)!r}: holds an edited U-Net already; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "unet.safetensors")
    record = {
        "method": method,
        "erased": list(erase),
        "base": base,
        "settings": vars(settings),
        "made": time.strftime("%F"),
    }
    model = "" if base == "the embedded model" else f"{base!r}, "
    card = [
        f"# {method}: {', '.join(erase)}",
        "",
        f"A U-Net edited by {METHODS[method].__module__} to erase {', '.join(erase)} from {base}.",
        f"`unet.safetensors` holds the {len(weights)} tensors that changed; load it on top of the base:",
        "",
        f'    certify.load_pipeline({model}unet="{folder.name}/unet.safetensors")',
        "",
        "```json",
        json.dumps(record, indent=2, ensure_ascii=False),
        "```",
        "",
    ]
    (folder / "README.md").write_text("\n".join(card), encoding="utf-8")
    return folder
