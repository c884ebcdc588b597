"""The embedded worlds there are, and the one that has a concept.

Two worlds have no concept in common, so that a name is enough: "circle" is one of the world of shapes, "hat" one of the
second world.
"""

from __future__ import annotations

import functools

from experiments.world.embedded import EmbeddedWorld
from experiments.world.second.world import Second
from experiments.world.shapes import Shapes

__all__ = ["everything", "of"]


@functools.cache
def everything() -> tuple[EmbeddedWorld, ...]:
    """All worlds, the one that ships first."""
    return Shapes(), Second()


def of(concept: str) -> EmbeddedWorld:
    """The world that has a concept.

    Raises:
        ValueError: there is none.
    """
    for world in everything():
        if concept in world.concepts:
            return world
    known = ", ".join(name for world in everything() for name in world.concepts)
    raise ValueError(f"concept = {concept!r}: must be one of {known}, or name a --model")
