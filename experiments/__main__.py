"""`python -m experiments unlearn METHOD --concept WORD --out DIR`: takes a concept out of a model.
`python -m experiments soundness {encoding,images}`: attacks on certified bounds (docs/guide/soundness.md).

    python -m experiments unlearn uce --concept circle --guide square --out runs/uce-circle
    certify generate "a photo of a red circle" --unet runs/uce-circle/unet.safetensors
    python -m experiments soundness encoding --workers 2

On the embedded model a concept is erased inside two hundred captions at once, and a measured table follows: how often prompts
that name it, prompts that mean it by another word, and prompts about other shapes still show what they ask for.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from experiments import unlearning
from experiments.soundness import report as soundness
from experiments.unlearning import uce


def main() -> int:
    """Runs one command; misuse prints a line and returns 2."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    unlearn = commands.add_parser("unlearn", help="take a concept out of a model")
    unlearn.add_argument("method", choices=sorted(unlearning.METHODS))
    unlearn.add_argument(
        "--concept", action="append", required=True, help="word or phrase to erase; repeat for several"
    )
    unlearn.add_argument("--guide", default="", help="what it becomes (default: the empty prompt)")
    unlearn.add_argument("--preserve", action="append", default=None, help="what must stay; repeat for several")
    unlearn.add_argument("--model", default=None, help="hub id or folder (default: the embedded model)")
    unlearn.add_argument("--out", required=True, help="folder for the edited U-Net")
    soundness.add_arguments(commands.add_parser("soundness", help="attack certified bounds"))
    a = parser.parse_args()
    try:
        return soundness.main(a) if a.command == "soundness" else run(a)
    except (ValueError, TypeError, FileNotFoundError, FileExistsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def run(a: Any) -> int:
    """Edits, saves, and on the embedded model measures."""
    from certify import load_pipeline
    from experiments.unlearning.measure import contexts, table
    from experiments.world import scenes

    pipe = load_pipeline(a.model)
    preserve = a.preserve
    if preserve is None:
        preserve = [shape for shape in scenes.SHAPES if shape not in a.concept] if a.model is None else []
    templates = contexts() if a.model is None else uce.TEMPLATES
    settings = uce.Settings(guide=a.guide, preserve=tuple(preserve), templates=templates)
    started = time.perf_counter()
    weights = unlearning.METHODS[a.method](pipe, a.concept, settings)
    print(f"{a.method}: {len(weights)} tensors edited in {time.perf_counter() - started:.2f} s")
    base = a.model or "the embedded model"
    folder = unlearning.save(a.out, weights, method=a.method, erase=a.concept, base=base, settings=settings)
    print(f"written: {folder}/unet.safetensors, README.md")
    if a.model is None and set(a.concept) <= set(scenes.SHAPES):
        print(table(load_pipeline(), load_pipeline(unet=folder / "unet.safetensors"), a.concept[0]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
