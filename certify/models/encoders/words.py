"""Words of a prompt as a tokenizer sees them: which token ids belong together, by the marks of its vocabulary.

    kind          mark                              a word
    CLIP          `</w>` at the end of a token      ends with it
    SentencePiece `▁` at the beginning              begins with it (T5, UMT5, Gemma)
    byte level    `Ġ` at the beginning              begins with it (Qwen, GLM, Mistral, Llama)
    WordPiece     `##` at the beginning             does *not* begin with it (BERT)

Special and added tokens, placeholders of textual inversion among them, are words by themselves. A vocabulary without any of
these marks has one word a token.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from certify._records import Record

__all__ = ["Vocabulary"]

_BYTE = re.compile("<0x([0-9A-F]{2})>")  # a byte that no token has, in SentencePiece's vocabularies
_MARKS = (("</w>", "clip"), ("▁", "sentencepiece"), ("Ġ", "bytes"), ("##", "wordpiece"))


@dataclass(frozen=True, eq=False)
class Vocabulary(Record):
    """A tokenizer's tokens and words.

    Attributes:
        tokenizer: of transformers, slow or fast; a processor stands for its own tokenizer.
    """

    tokenizer: Any

    @classmethod
    def of(cls, tokenizer: Any) -> Vocabulary:
        """Of a tokenizer or of a processor that has one.

        Raises:
            TypeError: it is neither.
        """
        inner = getattr(tokenizer, "tokenizer", tokenizer)
        if not hasattr(inner, "convert_ids_to_tokens"):
            raise TypeError(f"tokenizer is a {type(tokenizer).__name__}: must be a tokenizer of transformers")
        return cls(inner)

    @functools.cached_property
    def kind(self) -> str:
        """ "clip", "sentencepiece", "bytes", "wordpiece" or "tokens" (no marks)."""
        tokens = self.tokenizer.get_vocab()
        for mark, kind in _MARKS:
            marked = (t.endswith(mark) if kind == "clip" else t.startswith(mark) for t in tokens if len(t) > len(mark))
            if any(marked):
                return kind
        return "tokens"

    @functools.cached_property
    def alone(self) -> frozenset[int]:
        """Ids of special and added tokens."""
        added = getattr(self.tokenizer, "added_tokens_decoder", {})
        return frozenset(self.tokenizer.all_special_ids) | frozenset(int(i) for i in added)

    @property
    def padding(self) -> int | None:
        """The id of the padding token."""
        return getattr(self.tokenizer, "pad_token_id", None)

    def tokens(self, ids: Sequence[int]) -> tuple[str, ...]:
        """The vocabulary's own spelling. Ids beyond it are written as numbers."""
        found = self.tokenizer.convert_ids_to_tokens(list(ids))
        return tuple(str(i) if token is None else str(token) for i, token in zip(ids, found, strict=True))

    def words(self, ids: Sequence[int]) -> list[tuple[int, int]]:
        """(start, stop) of every word, in order; together they are all of `ids`."""
        if not len(ids):
            return []
        tokens = self.tokens(ids)
        starts: list[int] = []
        for i, token in enumerate(tokens):
            before = i > 0 and (ids[i - 1] in self.alone or (self.kind == "clip" and tokens[i - 1].endswith("</w>")))
            marked = {
                "clip": False,
                "sentencepiece": token.startswith("▁"),
                "bytes": token.startswith(("Ġ", "Ċ")),
                "wordpiece": not token.startswith("##"),
                "tokens": True,
            }[self.kind]
            if i == 0 or before or marked or ids[i] in self.alone:
                starts.append(i)
        return list(zip(starts, [*starts[1:], len(tokens)], strict=True))

    def text(self, tokens: Sequence[str]) -> str:
        """What tokens of a word say. A character of which a byte is missing is written "�".

        Args:
            tokens: in the vocabulary's own spelling.
        """
        if self.kind == "wordpiece":
            return "".join(token.removeprefix("##") for token in tokens)
        if self.kind == "sentencepiece":
            found = b""
            for token in tokens:
                byte = _BYTE.fullmatch(token)
                found += bytes([int(byte[1], 16)]) if byte else token.replace("▁", " ").encode()
            return found.decode(errors="replace").strip()
        if self.kind in ("clip", "bytes"):
            letters = "".join(token.removesuffix("</w>") for token in tokens)
            known = _letters()
            return (
                b"".join(bytes([known[c]]) if c in known else c.encode() for c in letters)
                .decode(errors="replace")
                .strip()
            )
        return str(self.tokenizer.convert_tokens_to_string(list(tokens))).strip()


@functools.cache
def _letters() -> dict[str, int]:
    """The letter that stands for each byte in byte-level vocabularies (GPT-2's, CLIP's), the other way round."""
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printed]
    return {chr(b): b for b in printed} | {chr(256 + i): b for i, b in enumerate(others)}
