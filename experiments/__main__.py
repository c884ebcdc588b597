"""`python -m experiments unlearn METHOD --concept WORD --out DIR`: takes a concept out of a model (docs/guide/unlearning.md).
`python -m experiments unlearn-all`: every method, on the embedded model, measured, as a table.
`python -m experiments sensitivity`: concept neurons of erased models under attack.
`python -m experiments immunity --concept WORD --out DIR`: fine-tuning attacks on a model, immunised or not.
`python -m experiments attack NAME --victim DIR --concept WORD --out FILE`: prompts that bring the concept back, as a CSV.
`python -m experiments posi-train --concept WORD --out FILE`: trains the rewriter of the POSI defence.
`python -m experiments table NUMBER`: the papers' tables, measured (docs/guide/tables.md).
`python -m experiments soundness {encoding,images,sentence}`: attacks on certified bounds (docs/guide/soundness.md).

    python -m experiments unlearn uce --concept circle --anchor square --out runs/uce-circle
    certify generate "a photo of a red circle" --unet runs/uce-circle/unet.safetensors
    python -m experiments soundness encoding --workers 2
"""

from __future__ import annotations

import argparse
import sys

from certify import _files
from experiments.attacks import command as attacking
from experiments.defenses import posi
from experiments.soundness import report as soundness
from experiments.tables import command as tables
from experiments.unlearning import command as unlearning
from experiments.unlearning import immunity, sensitivity
from experiments.unlearning import table as unlearn_all


def main() -> int:
    """Runs one command; misuse prints a line and returns 2."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    unlearning.add_arguments(commands.add_parser("unlearn", help="take a concept out of a model"))
    unlearn_all.add_arguments(commands.add_parser("unlearn-all", help="every method on the embedded model, measured"))
    sensitivity.add_arguments(commands.add_parser("sensitivity", help="concept neurons of erased models under attack"))
    immunity.add_arguments(commands.add_parser("immunity", help="attack models by fine-tuning, immunised or not"))
    attacking.add_arguments(commands.add_parser("attack", help="find prompts that bring an erased concept back"))
    posi.add_arguments(commands.add_parser("posi-train", help="train a prompt rewriter for the embedded model"))
    tables.add_arguments(commands.add_parser("table", help="the papers' tables, measured"))
    soundness.add_arguments(commands.add_parser("soundness", help="attack certified bounds"))
    a = parser.parse_args()
    try:
        run = {
            "unlearn": unlearning.main,
            "unlearn-all": unlearn_all.main,
            "sensitivity": sensitivity.main,
            "immunity": immunity.main,
            "attack": attacking.main,
            "posi-train": posi.main,
            "table": tables.main,
            "soundness": soundness.main,
        }[a.command]
        return run(a)
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f"error: {_files.printable(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
