"""Unlearning: methods that take a concept out of a model, one file a method, named once in `METHODS`.

`python -m experiments unlearn METHOD --concept … --out DIR` runs one and writes what it changed (`saving`), which
`load_pipeline`, `certify prompt` and every attack accept; `python -m experiments unlearn-all` runs them all and measures.
Methods that start from another's result (`after`) get it made first.
"""

from __future__ import annotations

from experiments.unlearning import ablation, advunlearn, esd, forget_me_not, gift, pruning, race, rece, uce
from experiments.unlearning.method import Method

__all__ = ["METHODS"]

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        esd.METHOD,
        ablation.METHOD,
        forget_me_not.METHOD,
        *pruning.METHODS,
        uce.METHOD,
        rece.METHOD,
        race.METHOD,
        advunlearn.METHOD,
        gift.METHOD,
    )
}
"""Name → method."""
