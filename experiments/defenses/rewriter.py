"""Rewriter: a small language model that reads a prompt and writes another, in plain torch.

It is a prefix language model. The prompt's tokens x stand in the first segment and see one another, the answer's tokens z in
the second see the prompt and what was written before:

    [x_1 … x_m, pad …] [begin, z_1, z_2, …]  →  z_1, z_2, …, end

Position i of both segments has one embedding, so that copying, most of what a rewriter does, is to look at one's own
number. Prompt and answer are in the pipeline's own tokens, and the token embeddings start as the pipeline's: what CLIP has
learned about words, a pretrained language model would know, too.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from certify import _files, _validate
from certify.models import PromptEncoder

__all__ = ["Rewriter"]

_FORMAT = "certify prompt rewriter"


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        b, tokens, width = x.shape
        q, k, v = self.qkv(self.before(x)).view(b, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.out(seen.transpose(1, 2).reshape(b, tokens, width))
        return x + self.down(F.gelu(self.up(self.between(x))))


class Rewriter(nn.Module):
    """Prompts → prompts.

    Args:
        encoder: gives the tokenizer, the context, and the token embeddings to start from.
        layers, heads, width: of the transformer; the width is projected to from the encoder's where they differ.
        seed: of the initial weights.

    Raises:
        ValueError: the heads do not divide the width.
    """

    def __init__(
        self, encoder: PromptEncoder, *, layers: int = 2, heads: int = 4, width: int = 96, seed: int = 0
    ) -> None:
        super().__init__()
        if _validate.count("width", width) % _validate.count("heads", heads):
            raise ValueError(f"width = {width}: must be a multiple of heads = {heads}")
        self.shape = {"layers": _validate.count("layers", layers), "heads": heads, "width": width}
        self.encoder_ = [encoder]  # in a list: no module of this one
        self.pieces: dict[str, tuple[int, ...]] = {}
        self.room = encoder.context_length - 2
        rows: Any = encoder.embeddings.weight
        table: Tensor = rows.detach().float().cpu()
        self.vocabulary = len(table)
        self.begin, self.end, self.pad = self.vocabulary, self.vocabulary + 1, self.vocabulary + 2
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.tokens = nn.Embedding(self.vocabulary + 3, width)
            self.places = nn.Parameter(0.3 * torch.randn(self.room + 1, width))
            self.segments = nn.Parameter(0.3 * torch.randn(2, width))
            self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(layers))
            self.last = nn.LayerNorm(width)
            lift = torch.randn(table.shape[1], width) / width**0.5
        with torch.no_grad():
            unit = (table - table.mean(0)) / table.std()
            self.tokens.weight.mul_(0.3)
            self.tokens.weight[: self.vocabulary] = 0.3 * (
                F.pad(unit, (0, width - table.shape[1])) if width >= table.shape[1] else unit @ lift
            )
        self.eval()

    @property
    def encoder(self) -> PromptEncoder:
        """Whose tokens these are."""
        return self.encoder_[0]

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of texts, without begin and end.

        Raises:
            ValueError: a text does not fit into the context.
        """
        rows = []
        for text in texts:
            row: list[int] = []
            for piece in text.split():  # byte pairs are merged within what stands between spaces, and remembered
                if piece not in self.pieces:
                    self.pieces[piece] = self.encoder.tokenize(piece).content
                row += self.pieces[piece]
            if len(row) > self.room:
                raise ValueError(f"prompt = {text[:60]!r}: has {len(row)} tokens, must have at most {self.room}")
            rows.append(row)
        return rows

    def fits(self, text: str) -> bool:
        """Whether a text fits into the context."""
        try:
            self.ids([text])
        except ValueError:
            return False
        return True

    def texts(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Texts of token ids. Punctuation stands by itself, as the tokenizer reads it."""
        decode = self.encoder.tokenizer.decode
        return [
            str(decode(list(row), skip_special_tokens=True, clean_up_tokenization_spaces=False)).strip() for row in rows
        ]

    def logits(self, given: Sequence[Sequence[int]], written: Tensor) -> Tensor:
        """Of the next token after each one written.

        Args:
            given: token ids of the prompts.
            written: (b, t), begin and the answer so far.

        Returns:
            (b, t, vocabulary + 3).
        """
        first = torch.full((len(given), self.room), self.pad)
        for row, ids in zip(first, given, strict=True):
            row[: len(ids)] = torch.tensor(ids, dtype=torch.long)
        count = written.shape[1]
        x = torch.cat(
            [
                self.tokens(first) + self.places[: self.room] + self.segments[0],
                self.tokens(written) + self.places[:count] + self.segments[1],
            ],
            dim=1,
        )
        total = self.room + count
        visible = torch.ones(total, total, dtype=torch.bool).tril()
        visible[: self.room, : self.room] = True
        mask = visible[None, None] & F.pad(first != self.pad, (0, count), value=True)[:, None, None, :]
        mask = mask | torch.eye(total, dtype=torch.bool)  # an empty prompt's rows must see something
        for block in self.blocks:
            x = block(x, mask)
        return self.last(x[:, self.room :]) @ self.tokens.weight.T

    def scores(self, given: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Log-probability of every token of the answers, its end included: (b, t), and which entries count, (b, t)."""
        t = max(len(a) for a in answers) + 1
        written, wanted = torch.full((len(answers), t), self.pad), torch.full((len(answers), t), self.pad)
        for i, answer in enumerate(answers):
            ids = torch.tensor(list(answer), dtype=torch.long)
            written[i, 0], written[i, 1 : len(ids) + 1] = self.begin, ids
            wanted[i, : len(ids)], wanted[i, len(ids)] = ids, self.end
        log_p = self.logits(given, written).log_softmax(dim=2)
        return log_p.gather(2, wanted[..., None])[..., 0], wanted != self.pad

    @torch.no_grad()
    def answer(self, given: Sequence[Sequence[int]], source: torch.Generator | None = None) -> list[list[int]]:
        """Token ids of the answers: the most probable token each time, or drawn from `source`."""
        written = torch.full((len(given), 1), self.begin)
        done = torch.zeros(len(given), dtype=torch.bool)
        for _ in range(self.room):
            log_p = self.logits(given, written)[:, -1]
            log_p[:, [self.begin, self.pad]] = -torch.inf
            best = (
                log_p.argmax(dim=1)
                if source is None
                else torch.multinomial(log_p.softmax(1), 1, generator=source)[:, 0]
            )
            best = torch.where(done, self.end, best)
            done |= best == self.end
            if bool(done.all()):
                break
            written = torch.cat([written, best[:, None]], dim=1)
        rows = [[int(i) for i in row] for row in written[:, 1:]]
        return [row[: row.index(self.end)] if self.end in row else row for row in rows]

    def rewrite(self, prompts: Sequence[str], *, batch: int = 64) -> list[str]:
        """The most probable answer to every prompt.

        Raises:
            ValueError: a prompt does not fit into the context.
        """
        given = self.ids(prompts)
        return [t for i in range(0, len(given), batch) for t in self.texts(self.answer(given[i : i + batch]))]

    def save(self, path: str | Path, about: Any = None) -> Path:
        """Writes one safetensors file, weights in half precision, with what else is to be kept (JSON values)."""
        path = Path(path)
        _files.make_folder(path.parent)
        record = {
            "format": _FORMAT,
            "shape": self.shape,
            "vocabulary": self.vocabulary,
            "room": self.room,
            "about": about,
        }
        tensors = {name: t.detach().half().contiguous() for name, t in self.state_dict().items()}
        _files.write_tensors(path, tensors, {"record": json.dumps(record)})
        return path

    @classmethod
    def load(cls, path: str | Path, encoder: PromptEncoder) -> Rewriter:
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is something else, or of another vocabulary.
        """
        file = Path(path)
        if not file.is_file():
            raise FileNotFoundError(
                f"rewriter = {str(path)!r}: no such file; `python -m experiments posi-train` makes one"
            )
        try:
            tensors, metadata = _files.read_tensors(file)
            record = _files.json_object(metadata.get("record", "{}"))
        except ValueError as error:
            raise ValueError(f"rewriter = {str(path)!r}: is not a saved rewriter ({error})") from error
        if record.get("format") != _FORMAT:
            raise ValueError(f"rewriter = {str(path)!r}: is not a saved rewriter (format {record.get('format')!r})")
        try:
            return cls._restored(record, tensors, encoder)
        except (ValueError, TypeError) as error:
            raise ValueError(f"rewriter = {str(path)!r}: {error}") from error
        except (KeyError, RuntimeError, ArithmeticError) as error:
            raise ValueError(f"rewriter = {str(path)!r}: is damaged ({error!r})") from error

    @classmethod
    def _restored(cls, record: dict[str, Any], tensors: dict[str, Tensor], encoder: PromptEncoder) -> Rewriter:
        shape, blocks = record["shape"], {name.split(".")[1] for name in tensors if name.startswith("blocks.")}
        # No room is made for what the file does not have.
        if (shape["width"], shape["layers"]) != (len(tensors["last.weight"]), len(blocks)):
            raise ValueError(f"claims the shape {shape}, which its tensors do not have")
        if not all(t.is_floating_point() and bool(torch.isfinite(t).all()) for t in tensors.values()):
            raise ValueError("holds NaN, infinity or what is no real number")
        rewriter = cls(encoder, **shape)
        if (record["vocabulary"], record["room"]) != (rewriter.vocabulary, rewriter.room):
            raise ValueError(
                f"has {record['vocabulary']} tokens and room for {record['room']}, the encoder "
                f"{rewriter.vocabulary} and {rewriter.room}: must be of the same tokenizer"
            )
        rewriter.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
        return rewriter
