"""Quiet: transformers and diffusers without their messages, for one block, their settings untouched afterwards."""

from __future__ import annotations

import contextlib
import importlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["quiet_libraries"]


@contextmanager
def quiet_libraries(*, diffusers: bool = True) -> Iterator[None]:
    """Imports the libraries and holds their loggers and progress bars back until the block ends.

    Both libraries log advice at import that is no use here (image processors without torchvision) and draw a bar a
    component. Their verbosity and bars are process-wide settings that belong to the user: they are read first and put
    back. Python warnings from inside the block are about the libraries' own internals and are ignored, too.

    Args:
        diffusers: whether diffusers is needed; importing it takes seconds.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        from transformers.utils import logging as transformers_logging

        hub_utils: Any = importlib.import_module("huggingface_hub.utils")
        # transformers switches the hub's bars along with its own, so the hub's are put back last.
        stack.callback(
            hub_utils.disable_progress_bars
            if hub_utils.are_progress_bars_disabled()
            else hub_utils.enable_progress_bars
        )
        stack.enter_context(_silenced(transformers_logging))
        if diffusers:
            from diffusers.utils import logging as diffusers_logging

            stack.enter_context(_silenced(diffusers_logging))
        yield


@contextmanager
def _silenced(library: Any) -> Iterator[None]:
    verbosity = library.get_verbosity()
    bars = library.is_progress_bar_enabled()
    library.set_verbosity_error()
    library.disable_progress_bar()
    try:
        yield
    finally:
        library.set_verbosity(verbosity)
        if bars:
            library.enable_progress_bar()
