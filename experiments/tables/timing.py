"""Timing: seconds an image under every defence, as one user waits for it.

Rounds are interleaved: prompt by prompt every defence draws its image, each time another one first, so that what else the
machine does falls on all alike. Counted is what stands between a prompt and its image (`Made.seconds`): loading models is
not, and neither is a first, uncounted image of each defence, in which what is computed once (the concept's direction, a
library's own warm-up) is.

    seconds = median over rounds of the mean over prompts,     ratio = median over rounds of seconds/seconds undefended

The ratio is taken within a round: it is steadier than a quotient of two medians, and it is what carries over to another
machine.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor

from certify import _validate

__all__ = ["Maker", "Timed", "measured"]


class Timed(Protocol):
    """Images and what they took, as `experiments.defenses.defense.Made`."""

    @property
    def images(self) -> Tensor: ...

    @property
    def seconds(self) -> float: ...


class Maker(Protocol):
    """What is timed: a defence."""

    def make(self, prompts: Sequence[str], seeds: Sequence[int]) -> Timed: ...


def measured(
    defenses: Mapping[str, Maker], prompts: Sequence[str], *, rounds: int = 7, seed: int = 0, against: str = "none"
) -> dict[str, dict[str, float]]:
    """Seconds an image of every defence, one image at a time.

    Args:
        defenses: by label, ready to draw.
        prompts: every round draws each of them once under every defence.
        rounds: ≥ 3; the median of fewer is no protection.
        seed: of the images: prompt i has seed + i in every round.
        against: label of what the ratio is to.

    Returns:
        label → {"seconds", "ratio"}, in the order given.

    Raises:
        ValueError: there is no prompt, or nothing under the label `against`.
    """
    _validate.count("rounds", rounds, minimum=3)
    _validate.seed_value(seed)
    if not prompts:
        raise ValueError("prompts = []: must hold at least one")
    if against not in defenses:
        raise ValueError(f"against = {against!r}: must be one of {', '.join(map(repr, defenses))}")
    labels = list(defenses)
    for label in labels:
        defenses[label].make([prompts[0]], [seed])
    means: dict[str, list[float]] = {label: [] for label in labels}
    for turn in range(rounds):
        spent = dict.fromkeys(labels, 0.0)
        for i, prompt in enumerate(prompts):
            first = (turn + i) % len(labels)
            for label in (*labels[first:], *labels[:first]):
                spent[label] += defenses[label].make([prompt], [seed + i]).seconds
        for label in labels:
            means[label].append(spent[label] / len(prompts))
    return {
        label: {
            "seconds": statistics.median(means[label]),
            "ratio": statistics.median(a / b for a, b in zip(means[label], means[against], strict=True)),
        }
        for label in labels
    }
