"""Defences at inference, one file a defence, named once in `DEFENSES`."""

from __future__ import annotations

from experiments.defenses.ams import Ams
from experiments.defenses.blacklist import Blacklist
from experiments.defenses.defense import Defense, Plain
from experiments.defenses.posi import Posi
from experiments.defenses.safree import Safree
from experiments.defenses.sld import SldMax, SldMedium, SldStrong, SldWeak

__all__ = ["DEFENSES"]

_ALL: tuple[type[Defense], ...] = (Plain, Ams, SldWeak, SldMedium, SldStrong, SldMax, Safree, Blacklist, Posi)

DEFENSES: dict[str, type[Defense]] = {kind.name: kind for kind in _ALL}
"""Name → defence."""
