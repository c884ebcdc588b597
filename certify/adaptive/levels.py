"""Levels: σ rounded up to a grid, and the table of which word of the vocabulary is on which level (THEORY T17).

A smoother that adapts gives no two prompts the same Σ to the last digit, so that a claim with Σ fixed speaks of one prompt
only. Rounded up to levels,

    σ = min( σ₀ γ^j, σ_max ),     j = ⌈ k · relevance / log γ ⌉,

many words share one, and wherever Σ is the same the smoother *as deployed* is the one with Σ fixed. Words with so little noise
that no radius of use covers another in their place gain nothing by that, and lose fidelity: they are rounded up to σ₀ γ^(j/8),
which still hides the digit in which two devices differ.

Two computations of one relevance may differ in its last digit, and next to the edge of a level that would decide. So a word's
relevance is computed once: a `LevelTable` holds that of every entry of the vocabulary as a word by itself, for a text encoder
and its concepts. Deployment and certificate read the same table, which is kept on disk under a digest of all that it depends on
(`folder()`): the first to compute it decides. What is no entry (a word of several tokens; every word, with global relevance) is
computed in a batch of its own, always the same one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from certify import _files, _validate
from certify._digests import json_digest
from certify._records import Record
from certify.adaptive.concepts import Concept
from certify.adaptive.relevance import SCORE_DECIMALS, RelevanceScorer
from certify.adaptive.token_noise import SigmaRule
from certify.models.text import PromptEncoder

__all__ = [
    "DEFAULT_GAMMA",
    "LEVELS_WITHIN",
    "LevelTable",
    "cosine_tolerance",
    "folder",
    "levels_ratio",
    "vocabulary_size",
]

DEFAULT_GAMMA = 2.0
"""Ratio of neighbouring levels (docs/theory/t17-levels.md has what others cost)."""

LEVELS_WITHIN = 4.0
"""Levels are γ apart where this radius covers replacing a token by a random one: from σ = √(2·width)/4 standard deviations of
the token embeddings on. What is further apart, a test may tell apart nearly always (T15: TV .954 for one noisy copy)."""

CHUNK = 256
"""Entries of the vocabulary at a time: part of what the table is, since the last digit of a relevance depends on its batch."""

_FORMAT = 1
_UNIT = 10**SCORE_DECIMALS
_MISSING = -(2**31)
_KEPT_EVERY = 30.0  # seconds


def levels_ratio(policy: str, gamma: float | None) -> float | None:
    """γ as it was given or, under "levels", by default; None: there are no levels.

    Raises:
        ValueError: it is not > 1, or is given for another policy.
    """
    if policy != "levels":
        if gamma is not None:
            raise ValueError(f"gamma = {gamma!r}: is for policy = 'levels', got {policy!r}")
        return None
    ratio = DEFAULT_GAMMA if gamma is None else _validate.positive("gamma", gamma)
    if not ratio > 1 + 1e-6:
        raise ValueError(f"gamma = {gamma!r}: must be a finite number > 1, the ratio of neighbouring levels")
    return ratio


def folder() -> Path:
    """Where tables are kept: `levels` in $CERTIFY_CACHE, else in $XDG_CACHE_HOME/certify or ~/.cache/certify."""
    own = os.environ.get("CERTIFY_CACHE")
    above = Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "certify"
    return above / "levels"


def vocabulary_size(encoder: PromptEncoder) -> int:
    """Entries that the tokenizer names and the text encoder has an embedding of."""
    return min(len(encoder.tokenizer), int(encoder.embeddings.weight.shape[0]))  # type: ignore[index]


def cosine_tolerance(dtype: torch.dtype | str) -> float:
    """Up to what two devices agree in a relevance, by the dtype of the weights."""
    return 2e-4 if str(dtype).removeprefix("torch.") in ("float32", "float64") else 2e-2


@dataclass(frozen=True, eq=False)
class LevelTable(Record):
    """Relevance of every entry of the vocabulary, as a word by itself.

    Attributes:
        scores: (entries, concepts), float64, multiples of 10⁻⁴.
        key: SHA-256 of what it was computed from: text encoder, vocabulary, concepts, similarity.
    """

    scores: Tensor
    key: str

    @classmethod
    def of(
        cls,
        scorer: RelevanceScorer,
        concepts: Sequence[Concept],
        where: Path | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> LevelTable:
        """The table of a scorer's encoder and concepts: from disk, or computed in chunks and kept there.

        What was computed is kept about twice a minute, and a run that was stopped goes on from there. A folder that cannot be
        written costs the computation and no more.

        Args:
            scorer: computes relevance, on its encoder's device.
            concepts: what its directions are of.
            where: the folder of tables; None: `folder()`.
            progress: called with entries done and all of them.
        """
        encoder, size = scorer.encoder, vocabulary_size(scorer.encoder)
        key = _key(encoder, concepts, scorer.similarity, size)
        path = (folder() if where is None else where) / f"{key}.safetensors"
        units = _read(path, size, len(concepts))
        kept = time.monotonic()
        for start in range(0, size, CHUNK):
            chunk = slice(start, min(start + CHUNK, size))
            if bool((units[chunk] == _MISSING).any()):
                found = scorer.of_entries(range(size)[chunk])
                units[chunk] = (found * _UNIT).round().to(torch.int32)
                if chunk.stop == size or time.monotonic() - kept > _KEPT_EVERY:
                    _write(path, units)
                    kept = time.monotonic()
            if progress is not None:
                progress(chunk.stop, size)
        return cls(units.double() / _UNIT, key)

    def sigma(self, rule: SigmaRule) -> list[float]:
        """σ of every entry, as a word by itself."""
        return [rule.word(score) for score in self.scores.amax(dim=1).tolist()]

    def digest(self, rule: SigmaRule) -> str:
        """SHA-256 over the level of every entry: two tables that agree in it give every such word the same noise."""
        return json_digest([rule.level(score) for score in self.scores.amax(dim=1).tolist()])


def _key(encoder: PromptEncoder, concepts: Sequence[Concept], similarity: str, size: int) -> str:
    spelling = "\n".join(map(str, encoder.tokenizer.convert_ids_to_tokens(list(range(size)))))
    return json_digest(
        {
            "format": _FORMAT,
            "text_encoder": encoder.fingerprint(),
            "vocabulary": hashlib.sha256(spelling.encode("utf-8", "replace")).hexdigest(),
            "context": encoder.context_length,
            "concepts": [concept.sha256 for concept in concepts],
            "similarity": similarity,
            "chunk": CHUNK,
        }
    )


def _read(path: Path, size: int, concepts: int) -> Tensor:
    """What is kept there, in units of 10⁻⁴; what is missing, or all where it is no table, is `_MISSING`."""
    with contextlib.suppress(OSError, ValueError):
        units = _files.read_tensors(path)[0].get("relevance")
        if units is not None and units.dtype == torch.int32 and tuple(units.shape) == (size, concepts):
            known = units != _MISSING
            if bool((units[known].abs() <= _UNIT).all()):
                return units.clone()
    return torch.full((size, concepts), _MISSING, dtype=torch.int32)


def _write(path: Path, units: Tensor) -> None:
    with contextlib.suppress(OSError):
        _files.make_folder(path.parent)
        there = _read(path, *units.shape)
        known = there != _MISSING
        units[known] = there[known]  # another process was first: it decides
        _files.write_tensors(path, {"relevance": units})
