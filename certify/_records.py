"""How records look: one line in a terminal, a sentence and a table where there is room for them.

`repr` of a record is its dataclass's, but for tensors, functions and long lists, of which it says what they are. A record of
the kind `Shown` says its claim first, in `str`, and as a summary in a notebook. What stands there is said by
`certify.summaries`, which the package names here (`summaries_from`) and which loads with the first summary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, ClassVar

__all__ = ["Record", "Shown", "brief", "summaries_from"]

_ENTRIES, _LETTERS = 6, 160  # of a list, of a text


class Record:
    """A dataclass whose `repr` is short whatever it holds."""

    def __init_subclass__(cls, **options: Any) -> None:
        # A dataclass makes a `__repr__` for every class whose own names do not hold one.
        super().__init_subclass__(**options)
        if "__repr__" not in vars(cls):
            cls.__repr__ = Record.__repr__  # type: ignore[method-assign]

    def __repr__(self) -> str:
        itself: Any = self
        parts = (
            [f"{f.name}={brief(getattr(self, f.name))}" for f in fields(itself) if f.repr]
            if is_dataclass(itself)
            else []
        )
        return f"{type(self).__name__}({', '.join(parts)})"


class Shown(Record):
    """A record that is a summary in a notebook, and the same in words as `str`."""

    summaries: ClassVar[Callable[[], Any]]
    """Loads the module that has `as_text` and `as_html`."""

    def __str__(self) -> str:
        text: str = Shown.summaries().as_text(self)
        return text

    def _repr_html_(self) -> str:
        html: str = Shown.summaries().as_html(self)
        return html


def summaries_from(load: Callable[[], Any]) -> None:
    """Names what loads the module of summaries: records stand below everything, and import nothing that shows them."""
    Shown.summaries = staticmethod(load)


def brief(value: Any) -> str:
    """`repr` of a value, cut short.

    >>> import torch
    >>> brief(torch.zeros(77, 768)), brief(range(3)), brief(list(range(1000)))
    ('tensor(77 × 768, float32)', 'range(0, 3)', '[0, 1, 2, 3, 4, 5, … 1,000 in all]')
    """
    import torch  # which takes seconds: `import certify` comes without

    if isinstance(value, torch.Tensor):
        shape = " × ".join(map(str, value.shape)) or "scalar"
        return f"tensor({shape}, {str(value.dtype).removeprefix('torch.')})"
    if isinstance(value, torch.nn.Module):
        return f"<{type(value).__name__}>"
    if isinstance(value, (list, tuple)):
        shown = [brief(v) for v in value[:_ENTRIES]]
        if len(value) > _ENTRIES:
            shown.append(f"… {len(value):,} in all")
        inside = (shown[0] + ",") if isinstance(value, tuple) and len(value) == 1 else ", ".join(shown)
        return f"({inside})" if isinstance(value, tuple) else f"[{inside}]"
    if isinstance(value, Mapping):
        shown = [f"{brief(k)}: {brief(value[k])}" for k in list(value)[:_ENTRIES]]
        if len(value) > _ENTRIES:
            shown.append(f"… {len(value):,} in all")
        return "{" + ", ".join(shown) + "}"
    if callable(value) and hasattr(value, "__qualname__"):
        return f"<{value.__qualname__}>"
    text = repr(value)
    if len(text) <= _LETTERS:
        return text
    return f"{type(value).__name__}(…)" if isinstance(value, Record) else f"{text[:_LETTERS]}…"
