"""Modes of modules for the length of a block: evaluation, and without what `module.compile()` compiled.

Dropout has no place in a certificate, and parts that were put in later begin in training mode, the layers of a LoRA that
diffusers loads among them. Hooks within compiled code may not fire.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["eager", "evaluated"]


@contextmanager
def evaluated(*modules: nn.Module) -> Iterator[None]:
    """Every part in evaluation mode, and afterwards as it was."""
    training = [part for module in modules for part in module.modules() if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True


@contextmanager
def eager(*modules: nn.Module) -> Iterator[None]:
    """Modules that were compiled in place run uncompiled, so that their hooks fire, and afterwards as they did."""
    compiled = [
        (part, implementation)
        for module in modules
        for part in module.modules()
        if (implementation := getattr(part, "_compiled_call_impl", None)) is not None
    ]
    for part, _ in compiled:
        part._compiled_call_impl = None
    try:
        yield
    finally:
        for part, implementation in compiled:
            part._compiled_call_impl = implementation
