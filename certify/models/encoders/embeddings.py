"""Token embeddings of every text encoder of a pipeline: recorded, and replaced, on their way into the encoders.

A forward hook on the modules that look embeddings up returns noisy ones in place of the table's. That is the place where the
theory's y stands, whatever the encoder is: positions, layers and norms come after it.

- `get_input_embeddings()` of T5 and UMT5 is `shared`, which is never called: every module whose weight *is* the table's is
  hooked.
- Gemma multiplies within the module: y is what comes out of it, and so is its standard deviation.
- A hook that is registered after a module was compiled does not fire. What fired is counted, and a call in which nothing did
  is refused.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from certify._records import Record
from certify.models.evaluation import evaluated
from certify.models.offloaded import weight_of

__all__ = ["Lookup", "embedding_std", "listening", "tables", "text_encoders"]

_CHUNK = 8192  # rows of a table at a time


@dataclass(frozen=True, eq=False)
class Lookup(Record):
    """One call of an embedding module.

    Attributes:
        encoder: the name of the text encoder among the pipeline's components.
        ids: (rows, tokens), on the CPU.
        embeddings: (rows, tokens, width), what the module gave.
        module: itself.
    """

    encoder: str
    ids: Tensor
    embeddings: Tensor
    module: nn.Module = field(repr=False)


def text_encoders(pipe: Any) -> dict[str, nn.Module]:
    """The components that look token embeddings up, by name.

    Raises:
        ValueError: one is compiled in place, so that hooks within it may not fire.
    """
    found = {}
    for name, component in getattr(pipe, "components", {}).items():
        if isinstance(component, nn.Module) and tables(component):
            for module in component.modules():
                compiled = getattr(module, "_compiled_call_impl", None) is not None or hasattr(module, "_orig_mod")
                compiled |= hasattr(vars(module).get("forward"), "_torchdynamo_orig_callable")
                if compiled and any(m is table for m in module.modules() for table in tables(component)):
                    raise ValueError(
                        f"pipe.{name} is compiled: must not be, embeddings cannot be replaced in compiled code. Compile the "
                        "denoiser instead, which costs most of the time"
                    )
            found[name] = component
    return found


def tables(encoder: nn.Module) -> list[nn.Embedding]:
    """The modules that look token embeddings up: those that share the input table."""
    get = getattr(encoder, "get_input_embeddings", None)
    try:
        table = get() if callable(get) else None
    except (NotImplementedError, AttributeError):  # an image encoder
        return []
    if not isinstance(table, nn.Embedding):
        return []
    return [m for m in encoder.modules() if isinstance(m, nn.Embedding) and _one_table(m, table)]


def _one_table(one: nn.Embedding, other: nn.Embedding) -> bool:
    if one.weight is other.weight or one.weight.device.type != "meta":
        return one.weight is other.weight
    return weight_of(one).data_ptr() == weight_of(other).data_ptr()  # offloading parts what was tied


def embedding_std(module: nn.Module) -> float:
    """√(mean over dimensions of the variance) of all that an embedding module can give out."""
    table: Any = module.weight
    rows, device = int(table.shape[0]), table.device
    if device.type == "meta":  # offloaded: its hook brings the rows in, and takes ids from anywhere
        device = torch.device("cpu")
    total: Tensor | float = 0.0
    squares: Tensor | float = 0.0
    with torch.no_grad():
        for start in range(0, rows, _CHUNK):
            given = module(torch.arange(start, min(rows, start + _CHUNK), device=device)).double().cpu()
            total, squares = total + given.sum(dim=0), squares + given.square().sum(dim=0)
    mean = torch.as_tensor(total) / rows
    return float((torch.as_tensor(squares) / rows - mean.square()).clamp_min(0).mean().sqrt())


@contextmanager
def listening(encoders: dict[str, nn.Module], replacements: Sequence[Tensor] | None = None) -> Iterator[list[Lookup]]:
    """Records every lookup of this thread, in order; with `replacements` each returns the next of them in place of its own.

    Text encoders are in evaluation mode meanwhile.

    Raises:
        ValueError: there are more lookups than replacements, or one has another shape.
    """
    heard: list[Lookup] = []
    own = threading.get_ident()
    names = {id(table): name for name, encoder in encoders.items() for table in tables(encoder)}

    def hook(module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> Tensor | None:
        if threading.get_ident() != own:
            return None
        ids = args[0] if args else next(iter(kwargs.values()))
        heard.append(Lookup(names[id(module)], ids.detach().cpu(), output.detach(), module))
        if replacements is None:
            return None
        if len(heard) > len(replacements):
            raise ValueError(f"text encoders looked up embeddings {len(heard)} times: must be {len(replacements)}")
        given = replacements[len(heard) - 1]
        if given.shape != output.shape:
            raise ValueError(f"embeddings have shape {tuple(given.shape)}: must be {tuple(output.shape)}")
        return given.to(output.device, output.dtype)

    handles = [
        table.register_forward_hook(hook, with_kwargs=True)
        for encoder in encoders.values()
        for table in tables(encoder)
    ]
    try:
        with evaluated(*encoders.values()):
            yield heard
    finally:
        for handle in handles:
            handle.remove()
