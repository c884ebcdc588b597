"""Attacks: ways to bring an erased concept back by a prompt or a learned token, one file an attack, named once in `ATTACKS`."""

from __future__ import annotations

from experiments.attacks import adaptive, cce, implicit, mma, p4d, qf, ring_a_bell, unlearn_diff
from experiments.attacks.attack import Attack

__all__ = ["ATTACKS"]

_ALL: tuple[Attack, ...] = (
    implicit.ATTACK,
    ring_a_bell.ATTACK,
    mma.ATTACK,
    qf.ATTACK,
    p4d.ATTACK,
    unlearn_diff.ATTACK,
    adaptive.ATTACK,
    cce.ATTACK,
)

ATTACKS: dict[str, Attack] = {attack.name: attack for attack in _ALL}
"""Name → attack."""
