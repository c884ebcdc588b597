"""`python -m experiments unlearn-all`: every method, for an object and a style of the embedded model, in one resumable
run; a table and a page.

Each method's result lies in OUT/CONCEPT/METHOD/, with its figures in `measured.json`; what is there already is not made again.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any

from certify import _files
from experiments import unlearning
from experiments.unlearning import command, saving
from experiments.unlearning.concept import Concept
from experiments.unlearning.measure import KINDS, rates, utility, utility_images

__all__ = ["COLUMNS", "add_arguments", "main", "page"]

COLUMNS = ("concept", "method", *KINDS, "fid_plain", "fid_rendered", "image_text", "seconds")
_SHORT = {
    "named": "named",
    "implicit": "implicit",
    "others": "others",
    "fid_plain": "FID, unedited",
    "fid_rendered": "FID, rendered",
    "image_text": "image–text",
    "seconds": "s",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `unlearn-all`."""
    parser.add_argument("--concept", action="append", default=None, help="shapes or styles (default: circle, striped)")
    parser.add_argument(
        "--method", action="append", default=None, choices=sorted(unlearning.METHODS), help="(default: all)"
    )
    parser.add_argument("--count", type=int, default=96, help="judged images of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/unlearning"))
    parser.add_argument("--page", type=Path, default=None, help="Markdown file for the table")


def main(a: Any) -> int:
    """Runs what is missing, prints the table, writes `table.csv` and the page."""
    rows = []
    for name in a.concept or ("circle", "striped"):
        concept = Concept.embedded(name)
        rows += measured(concept, a.method or list(unlearning.METHODS), a.out / name, count=a.count, seed=a.seed)
        _write(a.out / "table.csv", rows)
    text = page(rows)
    print(text)
    if a.page is not None:
        a.page.write_text(text + "\n", encoding="utf-8")
    return 0


def measured(concept: Concept, methods: list[str], out: Path, *, count: int, seed: int) -> list[dict[str, Any]]:
    """A row a method, after one for the model as it is."""
    from certify import load_pipeline

    base = concept.world.base
    plain = load_pipeline(base)
    images = utility_images(plain, concept)
    rows = [
        _row(out / "none", {"concept": concept.name, "method": "none", "seconds": 0.0}, plain, concept, images, count)
    ]
    for name in methods:
        folder, method = out / name, unlearning.METHODS[name]
        settings = method.settings_for(concept)
        record = command.ensure_result(folder, method, concept, settings, seed=seed, model=base)
        about = {"concept": concept.name, "method": name, "seconds": record["seconds"]}
        rows.append(_row(folder, about, load_pipeline(base, **saving.overlays(folder)), concept, images, count))
        print(line(rows[-1]), flush=True)
    return rows


def _row(folder: Path, about: dict[str, Any], pipe: Any, concept: Concept, images: Any, count: int) -> dict[str, Any]:
    file = folder / "measured.json"
    if file.exists():
        try:
            row = _files.read_json(file)
            if not set(COLUMNS) <= set(row):
                raise ValueError(f"lacks {', '.join(sorted(set(COLUMNS) - set(row)))}")
        except ValueError as error:
            raise ValueError(f"{file}: is no row of the table ({error}); move it away to measure it again") from error
        if row.get("count") == count:
            return row
    row = about | rates(pipe, concept, count) | utility(pipe, concept, images) | {"count": count}
    _files.make_folder(folder)
    _files.write(file, json.dumps(row, indent=2) + "\n")
    return row


def line(row: dict[str, Any]) -> str:
    """One row of the Markdown table."""
    shares = " | ".join(f"{row[kind]:.2f}" for kind in KINDS)
    rest = f"{row['fid_plain']:.2f} | {row['fid_rendered']:.2f} | {row['image_text']:.3f} | {row['seconds']:.0f}"
    return f"| {row['concept']} | {row['method']} | {shares} | {rest} |"


def page(rows: list[dict[str, Any]]) -> str:
    """The table in Markdown."""
    head = ["concept", "method", *(_SHORT[column] for column in COLUMNS[2:])]
    return "\n".join([f"| {' | '.join(head)} |", "|" + "---|" * len(head), *(line(row) for row in rows)])


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
