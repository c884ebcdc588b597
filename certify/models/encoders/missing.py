"""Missing parts: text encoders and tokenizers that a pipeline has a place for and is loaded without.

Some pipelines can do without one: Stable Diffusion 3 puts zeros where T5's encoding was, and the refiner of Stable Diffusion XL
has a U-Net that takes the second encoding alone. They are served. Where the pipeline itself fails for lack of one, it does so
somewhere within diffusers, and here is said which part it lacks.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

__all__ = ["check_width", "missing", "needed"]


def missing(pipe: Any) -> dict[str, str]:
    """The text encoders and tokenizers that are None, by name, with the class that they must be of."""
    takes = inspect.signature(type(pipe).__init__).parameters
    found = {}
    for name, part in pipe.components.items():
        if part is None and name.startswith(("text_encoder", "tokenizer")):
            kind = takes[name].annotation if name in takes else None
            found[name] = kind.__name__ if isinstance(kind, type) else name.split("_")[0]
    return found


@contextmanager
def needed(pipe: Any) -> Iterator[None]:
    """Within it, a failure of the pipeline for lack of a part names the part.

    Raises:
        ValueError: a part is None that the pipeline takes something of.
    """
    try:
        yield
    except (AttributeError, TypeError) as error:
        if "NoneType" not in str(error) or not missing(pipe):
            raise
        raise ValueError(f"{_told(pipe)} {type(pipe).__name__} encodes no prompt") from error


def check_width(pipe: Any, denoiser: nn.Module, states: Any) -> None:
    """Whether a U-Net takes encodings of the width that a pipeline without some of its parts gives it.

    Args:
        pipe: the pipeline.
        denoiser: what is called; anything but a U-Net is not looked at.
        states: the `encoder_hidden_states` that it is called with, (rows, tokens, width).

    Raises:
        ValueError: a part is None, and the width is another one.
    """
    config = getattr(denoiser, "config", None)
    if not isinstance(config, Mapping) or "encoder_hid_dim" not in config:
        return
    if not isinstance(states, Tensor) or not missing(pipe):
        return
    width = config["encoder_hid_dim"] or config["cross_attention_dim"]
    if isinstance(width, int) and states.shape[-1] != width:
        raise ValueError(
            f"{_told(pipe)} {type(pipe).__name__} gives its {type(denoiser).__name__} encodings of width "
            f"{states.shape[-1]}, which takes {width}"
        )


def _told(pipe: Any) -> str:
    parts = missing(pipe)
    names = ", ".join(f"pipe.{name} = None" for name in parts)
    return f"{names}: must be {' and '.join(f'a {kind}' for kind in parts.values())}, without which"
