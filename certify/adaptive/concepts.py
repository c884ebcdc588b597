"""Concept: what is to be suppressed, defined by prompts that show it and prompts that differ by not showing it.

A concept is a list of pairs, ("a naked statue in a park", "a clothed statue in a park"). The mean difference of their
encodings is the concept's direction in the text encoder's output space,

    Δ_tgt = (1/k) Σ_i ( T(y₊⁽ⁱ⁾) − T(y₋⁽ⁱ⁾) ),

and a token is relevant to the concept as far as its own differential embedding points that way. Pairs for the paper's
concepts and for those of the embedded model ship with the package; a user's own come from a CSV or JSONL file.

>>> concept = Concept("circle", [("a red circle", "a red square")])
>>> len(concept.pairs)
1
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from certify import _files, _tables, _validate
from certify._names import CONCEPT_SUFFIXES, SIMILARITIES, concept_file, shipped_concepts, slug
from certify._records import Record
from certify.models.text import PromptEncoder, TokenizedPrompt

__all__ = [
    "SIMILARITIES",
    "Concept",
    "available_concepts",
    "concept_direction",
    "features",
    "goes_with",
    "loaded_concepts",
    "ships",
]

_PACKAGE = Path(__file__).resolve().parents[1]
_CLIP, _EMBEDDED = _PACKAGE / "adaptive" / "data", _PACKAGE / "world" / "concepts"
_CLIP_CONTEXT = 77
"""Tokens of a prompt in CLIP's text encoders, those of every Stable Diffusion: the pairs of `_CLIP` are written for them."""
_FIELDS = ("positive", "negative")


@dataclass(frozen=True)
class Concept(Record):
    """A named list of prompt pairs.

    Attributes:
        name: what it is called in records.
        pairs: (positive, negative) prompts; a positive shows the concept, its negative is like it without the concept.

    Raises:
        ValueError: there is no name or no pair, or a pair has one side only or twice the same.
        TypeError: a prompt is not a string.
    """

    name: str
    pairs: tuple[tuple[str, str], ...]

    def __init__(self, name: str, pairs: Sequence[Sequence[str]]) -> None:
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"name = {name!r}: must be a non-empty string")
        rows = [(f"pair {number}", row) for number, row in enumerate(pairs, start=1)]
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "pairs", _checked(f"concept {name!r}", rows))

    @property
    def sha256(self) -> str:
        """SHA-256 over the pairs: which concept a record is about, whatever it is called."""
        return hashlib.sha256(json.dumps(self.pairs, ensure_ascii=False).encode()).hexdigest()

    @classmethod
    def load(cls, name_or_path: str | Path) -> Concept:
        """A concept that ships with the package, or one from a file.

        Args:
            name_or_path: a name that `available_concepts` lists ("van-gogh", "Van Gogh"), or the path of a `.csv` or `.tsv`
                file with columns `positive` and `negative`, or of a `.jsonl` or `.json` file of objects with these keys.
                UTF-8, with or without a byte-order mark. A file's concept is called after it.

        Raises:
            ValueError: there is no such concept, or a row is broken; the message has the line's number.
            FileNotFoundError: there is no such file.
        """
        return cls._read(concept_file(name_or_path))

    @classmethod
    def _read(cls, path: Path) -> Concept:
        if path.suffix.lower() not in CONCEPT_SUFFIXES:
            raise ValueError(
                f"concept = {str(path)!r}: must end in {', '.join(CONCEPT_SUFFIXES[:-1])} or {CONCEPT_SUFFIXES[-1]}"
            )
        concept, what = object.__new__(cls), f"concept file {str(path)!r}"
        try:
            rows = _rows(path)
        except ValueError as error:
            raise ValueError(f"{what}, {error}") from None
        object.__setattr__(concept, "name", slug(path.stem))
        object.__setattr__(concept, "pairs", _checked(what, rows))
        return concept


def available_concepts() -> list[str]:
    """The names of the concepts that ship with the package, sorted."""
    return list(shipped_concepts())


def goes_with(name: str) -> str:
    """Which models a shipped concept is for, in words; "" for a name that does not ship.

    A concept for models of CLIP's size has sentences that the embedded model's context and vocabulary are too small for; one
    of the embedded model fits everywhere, but is about that model's world.
    """
    path = shipped_concepts().get(name)
    if path is None:
        return ""
    if path.parent == _CLIP:
        return f"any model of CLIP's size (context {_CLIP_CONTEXT})"
    config = _files.read_json(_PACKAGE / "world" / "pipeline" / "text_encoder" / "config.json")
    return f"the embedded model (context {config['max_position_embeddings']})"


def ships(name: str) -> bool:
    """Whether this is the name of a concept that ships with the package, and not the path of a file."""
    return not name.lower().endswith(CONCEPT_SUFFIXES) and slug(name) in shipped_concepts()


def concept_direction(
    encoder: PromptEncoder, concept: Concept, *, similarity: str = "flattened", batch_size: int = 64
) -> Tensor:
    """The direction of a concept in the encoder's output space.

    Equation
        Δ_tgt = (1/k) Σ_i ( T(y₊⁽ⁱ⁾) − T(y₋⁽ⁱ⁾) )

    Reference
        Han et al. (2025), section 3.4, "Relevance Score Computation".

    Args:
        encoder: T.
        concept: k prompt pairs. A prompt that occurs in several pairs is encoded once.
        similarity: "flattened": Δ_tgt over all positions; "end-of-text": over each encoding's own end-of-text position.
        batch_size: prompts a batch.

    Returns:
        float64 on the CPU: (tokens, width), or (width,) for "end-of-text".

    Raises:
        ValueError: a prompt is longer than the encoder's context; the message has the pair's number.
    """
    _validate.choice("similarity", similarity, SIMILARITIES)
    weights: Counter[str] = Counter()
    tokenized: dict[str, TokenizedPrompt] = {}
    for number, pair in enumerate(concept.pairs, start=1):
        for side, prompt, sign in zip(_FIELDS, pair, (1, -1), strict=True):
            try:
                tokenized.setdefault(prompt, encoder.tokenize(prompt, truncate=False))
            except ValueError as error:
                raise ValueError(f"{_too_long(encoder, concept)}pair {number}, {side}: {error}") from error
            weights[prompt] += sign
    used = [prompt for prompt in tokenized if weights[prompt]]
    shape = (encoder.context_length, encoder.width) if similarity == "flattened" else (encoder.width,)
    total = torch.zeros(shape, dtype=torch.float64)
    for start in range(0, len(used), batch_size):
        chunk = used[start : start + batch_size]
        rows = features(encoder, [tokenized[p] for p in chunk], similarity, batch_size)
        scale = torch.tensor([float(weights[p]) for p in chunk], dtype=torch.float64)
        total += torch.einsum("b,b...->...", scale, rows)
    return total / len(concept.pairs)


def features(encoder: PromptEncoder, prompts: Sequence[TokenizedPrompt], similarity: str, batch_size: int) -> Tensor:
    """What of each prompt's encoding is compared: float64 on the CPU, (b, tokens, width), or (b, width)."""
    encoded = encoder.plain(prompts, batch_size=batch_size)
    if similarity == "end-of-text":
        ends = torch.tensor([p.end for p in prompts], device=encoded.device)
        encoded = encoded[torch.arange(len(prompts), device=encoded.device), ends]
    return encoded.to("cpu", torch.float64)


def _too_long(encoder: PromptEncoder, concept: Concept) -> str:
    """The head of the message where a pair does not fit into the context: which concepts do, if this one is shipped."""
    about = goes_with(concept.name)
    if not about:
        return f"concept {concept.name!r}, "
    others = [name for name, path in shipped_concepts().items() if path.parent == _EMBEDDED]
    return (
        f"concept {concept.name!r}: goes with {about}, this text encoder's is {encoder.context_length}; with the embedded "
        f"model go {', '.join(others)}, or pairs of your own that are short enough. "
    )


def _rows(path: Path) -> list[tuple[str, Any]]:
    table = _tables.read(path, _FIELDS)
    columns = [_tables.matching(table.columns, name) for name in _FIELDS]
    if not table.columns and not table.header:
        return []
    if any(len(found) != 1 for found in columns):
        where = f"line {table.header}: " if table.header else ""
        raise ValueError(f"{where}its columns are {list(table.columns)}, must have {', '.join(_FIELDS)}, each once")
    return [(f"{table.place} {entry.at}", [entry.values.get(name) for (name,) in columns]) for entry in table.entries]


def _checked(what: str, rows: Sequence[tuple[str, Any]]) -> tuple[tuple[str, str], ...]:
    pairs: list[tuple[str, str]] = []
    for where, row in rows:
        if isinstance(row, str) or not isinstance(row, Sequence) or len(row) != 2:
            raise ValueError(f"{what}, {where}: is {row!r}, must be a pair (positive, negative)")
        for side, prompt in zip(_FIELDS, row, strict=True):
            if prompt is None or (isinstance(prompt, str) and not prompt.strip()):
                raise ValueError(f"{what}, {where}: one-sided, {side} is empty; must have a positive and a negative")
            if not isinstance(prompt, str):
                raise TypeError(f"{what}, {where}: {side} = {prompt!r}, must be a string")
        positive, negative = (prompt.strip() for prompt in row)
        if positive == negative:
            raise ValueError(f"{what}, {where}: positive and negative are both {positive!r}, must differ")
        pairs.append((positive, negative))
    if not pairs:
        raise ValueError(f"{what}: has no pairs, must have at least one")
    return tuple(pairs)


def loaded_concepts(concepts: str | Path | Concept | Sequence[str | Path | Concept]) -> tuple[Concept, ...]:
    """Concepts, each by itself, by its name or by its file.

    Raises:
        FileNotFoundError, ValueError: as `Concept.load`; or there is none, or one twice.
    """
    given = [concepts] if isinstance(concepts, (str, Path, Concept)) else list(concepts)
    if not given:
        raise ValueError("concepts is empty: must name at least one concept")
    loaded = tuple(c if isinstance(c, Concept) else Concept.load(c) for c in given)
    names = [c.name for c in loaded]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"concepts = {names}: must be different, {twice[0]!r} is there twice")
    return loaded
