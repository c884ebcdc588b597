"""Defences at inference, one file a defence, named once in `DEFENSES`."""

from __future__ import annotations

from experiments.defenses.defense import Defense, Plain

__all__ = ["DEFENSES"]

DEFENSES: dict[str, type[Defense]] = {kind.name: kind for kind in (Plain,)}
"""Name → defence."""
