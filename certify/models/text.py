"""Prompt encoder: a prompt as the point y of a vector space, and the text encoder as a function T on that space.

Certificates speak of perturbations of a vector. For a text-to-image model that vector is the prompt's *token
embeddings before positions*, y ∈ R^(tokens × width): the rows of the embedding table that the prompt's tokens select.
Everything after them (positions, transformer, final normalisation) is the function

    T : R^(tokens × width) → R^(tokens × width),        T(y) = the `prompt_embeds` that the pipeline would compute.

T is evaluated at points that no prompt has, y + G. CLIP takes only token ids, so the rows are replaced on their way: a
forward hook on the embedding module returns the perturbed rows in place of the table's. That is public API, the same
arithmetic as the pipeline's own encoding bit for bit, and it keeps the causal mask (an outcome at one position depends
on that position and those before it, never on later ones).

A tokenised prompt is begin, words, end, padding, at a fixed length. A *word* is a run of tokens of which the last
carries the vocabulary's end-of-word mark `</w>`.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from certify import _validate
from certify._records import Record
from certify.models.evaluation import evaluated
from certify.models.fingerprint import fingerprint
from certify.models.offloaded import device_of, weight_of

__all__ = ["END_OF_WORD", "Kind", "PromptEncoder", "TokenizedPrompt"]

END_OF_WORD = "</w>"

Kind = Literal["begin", "word", "end", "padding"]


@dataclass(frozen=True, eq=False)
class TokenizedPrompt(Record):
    """A prompt as the encoder reads it: one entry a position, begin and padding included.

    Attributes:
        prompt: the text it came from; "" where it was assembled from token ids.
        ids: (tokens,) int64, on the CPU.
        tokens: the vocabulary's own spelling, `</w>` included.
        words: (start, stop) positions of every word, in order, stop excluded.
        kinds: what stands at each position: "begin", "word", "end" or "padding".
        length: positions that are not padding.
        attention_mask: (tokens,) int64 where the encoder's pipeline passes one, else None.
        dropped: tokens of the prompt that did not fit into the context and were cut off.
    """

    prompt: str
    ids: Tensor
    tokens: tuple[str, ...]
    words: tuple[tuple[int, int], ...]
    kinds: tuple[Kind, ...]
    length: int
    attention_mask: Tensor | None = None
    dropped: int = 0

    @property
    def end(self) -> int:
        """The position of the end-of-text token."""
        return self.length - 1

    @property
    def content(self) -> tuple[int, ...]:
        """The token ids between begin and end: what the prompt itself says."""
        return tuple(int(i) for i, kind in zip(self.ids, self.kinds, strict=True) if kind == "word")

    @property
    def truncated(self) -> dict[str, dict[str, int]]:
        """Of a prompt that was cut, its tokens and how many were kept, begin and end included, for a record; else nothing."""
        return {"truncated": {"tokens": self.length + self.dropped, "kept": self.length}} if self.dropped else {}

    @property
    def empty(self) -> bool:
        """True where nothing stands between begin and end: the unconditional prompt."""
        return not self.words


@dataclass(eq=False)
class _Frame:
    """One call of the text encoder in progress, and the embeddings it is to see (None: its own)."""

    z: Tensor | None
    used: bool = field(default=False)


class PromptEncoder:
    """A tokenizer and a CLIP text encoder as the function T on token embeddings.

    The text encoder is used in evaluation mode: where some part of it is in training mode (dropout on), that part is
    switched for the duration of a call and switched back after. Gradients are off unless `grad=True`.
    Its parameters are taken to be fixed for the life of this object.

    Args:
        tokenizer: a CLIP tokenizer of transformers, slow or fast, padding on the right.
        text_encoder: a `CLIPTextModel` (Stable Diffusion 1.x and 2.x).
        prepare: what a pipeline does to a prompt's text before tokenising (textual inversion); None: nothing.
        truncate: cut a prompt that does not fit into the context as the plain pipeline does; off: refuse it.

    Raises:
        ValueError: the text encoder is of another kind (T5, with projection, a whole CLIP), or the tokenizer pads left.
        TypeError: one of them is missing.
    """

    def __init__(
        self,
        tokenizer: Any,
        text_encoder: Any,
        prepare: Callable[[str], str] | None = None,
        *,
        truncate: bool = False,
    ) -> None:
        if not callable(tokenizer) or not hasattr(tokenizer, "convert_ids_to_tokens"):
            raise TypeError(f"tokenizer is a {type(tokenizer).__name__}: must be a CLIP tokenizer of transformers")
        if not isinstance(text_encoder, nn.Module) or not hasattr(text_encoder, "config"):
            raise TypeError(f"text_encoder is a {type(text_encoder).__name__}: must be a transformers CLIPTextModel")
        kind, name = getattr(text_encoder.config, "model_type", None), type(text_encoder).__name__
        if kind != "clip_text_model" or name.endswith("WithProjection"):
            raise ValueError(
                f"text_encoder is a {name} (model type {kind!r}): must be a CLIPTextModel, as in Stable Diffusion 1.x "
                "and 2.x; the theory's input space for other encoders is not defined here yet"
            )
        if getattr(tokenizer, "padding_side", "right") != "right":
            raise ValueError(f"tokenizer.padding_side = {tokenizer.padding_side!r}: must be 'right'")
        self.tokenizer = tokenizer
        self.text_encoder: Any = text_encoder
        self.truncate = bool(truncate)
        self._prepare = prepare
        self._frames: list[_Frame] = []

    @classmethod
    def from_pipeline(cls, pipe: Any, *, truncate: bool = False) -> PromptEncoder:
        """The prompt encoder of a pipeline: anything with `.tokenizer` and `.text_encoder`.

        Args:
            pipe: the pipeline.
            truncate: as above.

        Raises:
            TypeError: `pipe` lacks one of them.
            ValueError: `pipe` has a second text encoder (SDXL, SD3), or one that is not a CLIPTextModel.
        """
        for part in ("tokenizer", "text_encoder"):
            if getattr(pipe, part, None) is None:
                raise TypeError(f"pipe is a {type(pipe).__name__} without .{part}: must have .tokenizer, .text_encoder")
        if getattr(pipe, "text_encoder_2", None) is not None:
            raise ValueError(
                f"pipe is a {type(pipe).__name__} with two text encoders: must have one (Stable Diffusion 1.x or 2.x)"
            )
        convert = getattr(pipe, "maybe_convert_prompt", None)
        prepare = None if convert is None else lambda text: str(convert(text, pipe.tokenizer))
        return cls(pipe.tokenizer, pipe.text_encoder, prepare, truncate=truncate)

    def truncating(self) -> PromptEncoder:
        """This encoder, but one that cuts prompts that do not fit into the context, as the plain pipeline does."""
        other = copy.copy(self)
        other.truncate, other._frames = True, []
        return other

    def __repr__(self) -> str:
        return (
            f"PromptEncoder({type(self.text_encoder).__name__}, {self.context_length} tokens × {self.width}, "
            f"{self.dtype}, {self.device})"
        )

    # What it is made of

    @property
    def embeddings(self) -> nn.Module:
        """The module that turns token ids into token embeddings."""
        module = self.text_encoder.get_input_embeddings()
        if not isinstance(module, nn.Module):
            raise TypeError(f"text_encoder.get_input_embeddings() gave a {type(module).__name__}: must be a module")
        return module

    @property
    def _table(self) -> Tensor:
        return weight_of(self.embeddings)

    @property
    def context_length(self) -> int:
        """How many positions an encoding has, begin and end included."""
        return min(int(self.tokenizer.model_max_length), int(self.text_encoder.config.max_position_embeddings))

    @property
    def width(self) -> int:
        """The length of one token's embedding."""
        return int(self._table.shape[1])

    @property
    def device(self) -> torch.device:
        """Where encodings are computed."""
        return device_of(self.embeddings)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that encodings are computed in."""
        return self._table.dtype

    @property
    def uses_attention_mask(self) -> bool:
        """True where the pipeline passes the tokenizer's attention mask to the text encoder."""
        return bool(getattr(self.text_encoder.config, "use_attention_mask", False))

    @functools.cached_property
    def embedding_std(self) -> float:
        """The per-dimension standard deviation of the embedding table, √(mean over dimensions of the variance).

        The unit of `sigma0_relative`: two random tokens are √(2·width) of it apart.
        """
        variance = self._table.detach().float().var(dim=0, correction=0)
        return float(variance.double().mean().sqrt())

    @functools.cached_property
    def final_layer_norm(self) -> nn.LayerNorm | None:
        """The LayerNorm whose output is the encoding, found by running it; None where nothing of the kind ends it.

        It bounds the encoding a priori (T3): `certify.layer_norm_support(encoder.final_layer_norm)`.
        """
        seen: list[tuple[nn.LayerNorm, Tensor]] = []
        norms = [m for m in self.text_encoder.modules() if isinstance(m, nn.LayerNorm)]
        handles = [m.register_forward_hook(lambda m, args, out: seen.append((m, out))) for m in norms]
        try:
            encoded = self.plain([""])
        finally:
            for handle in handles:
                handle.remove()
        return next((m for m, out in reversed(seen) if torch.equal(out, encoded)), None)

    def fingerprint(self) -> str:
        """SHA-256 over the text encoder's named tensors."""
        return fingerprint(self.text_encoder)

    # Prompt → tokens → y

    def tokenize(self, prompt: str, *, truncate: bool | None = None) -> TokenizedPrompt:
        """A prompt as the pipeline would tokenise it; cut short, as there, only with `truncate=True`.

        Args:
            prompt: any text; "" is the unconditional prompt.
            truncate: keep the first tokens of one that does not fit into the context, and the end token; None: the encoder's
                own setting.

        Raises:
            TypeError: `prompt` is not a string.
            ValueError: it does not fit into the context, and is not to be cut.
        """
        if not isinstance(prompt, str):
            raise TypeError(f"prompt = {prompt!r}: must be a string")
        limit = self.context_length
        with _no_advice(self.tokenizer):
            text = prompt if self._prepare is None else self._prepare(prompt)
            ids = self.tokenizer(text, truncation=False, padding=False, verbose=False)["input_ids"]
        cut = self.truncate if truncate is None else truncate
        if len(ids) > limit and not cut:
            raise ValueError(
                f"prompt = {_shortened(prompt)!r}: has {len(ids)} tokens with begin and end, must have at most {limit}; "
                "truncate cuts it there, as the plain pipeline does"
            )
        padded = self.tokenizer(
            text, truncation=cut, padding="max_length", max_length=limit, return_attention_mask=True, verbose=False
        )
        length = sum(padded["attention_mask"])
        return self._tokenized(prompt, list(padded["input_ids"]), int(length), max(0, len(ids) - limit))

    def assemble(self, content: Sequence[int], prompt: str = "") -> TokenizedPrompt:
        """The prompt that says exactly these token ids, with its begin, end and padding: T's argument without a text.

        Args:
            content: token ids between begin and end.
            prompt: the text to put on record.

        Raises:
            ValueError: there are too many to fit into the context.
        """
        begin, end = self._begin_end
        ids = [*begin, *(int(i) for i in content), *end]
        limit = self.context_length
        if len(ids) > limit:
            raise ValueError(f"content has {len(ids)} tokens with begin and end: must have at most {limit}")
        return self._tokenized(prompt, ids + [self._padding_id] * (limit - len(ids)), len(ids))

    @functools.cached_property
    def _begin_end(self) -> tuple[list[int], list[int]]:
        ids = list(self.tokenizer("", truncation=False, padding=False, verbose=False)["input_ids"])
        if len(ids) != 2:
            raise ValueError(f"tokenizer encodes the empty prompt as {ids}: must be a begin and an end token")
        return ids[:1], ids[1:]

    @property
    def _padding_id(self) -> int:
        return int(self.tokenizer.pad_token_id)

    def _tokenized(self, prompt: str, ids: list[int], length: int, dropped: int = 0) -> TokenizedPrompt:
        begin, end = self._begin_end
        if ids[:1] != begin or ids[length - 1 : length] != end:
            raise ValueError(
                f"prompt = {_shortened(prompt)!r}: must be tokenised with a begin and an end token, got ids {ids[:length]}"
            )
        tokens = tuple(str(t) for t in self.tokenizer.convert_ids_to_tokens(ids))
        kinds: list[Kind] = ["begin", *["word"] * (length - 2), "end", *["padding"] * (len(ids) - length)]  # type: ignore[list-item]
        mask = torch.tensor([1] * length + [0] * (len(ids) - length)) if self.uses_attention_mask else None
        words = tuple(_words(tokens, ids, range(1, length - 1), frozenset(self.tokenizer.all_special_ids)))
        return TokenizedPrompt(prompt, torch.tensor(ids), tokens, words, tuple(kinds), length, mask, dropped)

    def embed(self, tokenized: TokenizedPrompt) -> Tensor:
        """y: the prompt's token embeddings before positions, (tokens, width)."""
        with torch.no_grad(), self._frame(None):
            y: Tensor = self.embeddings(tokenized.ids.to(self.device))
        return y.detach().clone()

    # y → T(y)

    def encode(self, z: Tensor, tokenized: TokenizedPrompt, *, grad: bool = False) -> Tensor:
        """T at perturbed token embeddings of one prompt.

        Equation
            h = T(z), row by row; z = y gives the pipeline's own `prompt_embeds` exactly.

        Args:
            z: (b, tokens, width); brought to the encoder's dtype and device.
            tokenized: the prompt, for the side information that is not perturbed (ids, attention mask).
            grad: keep the graph, for attacks by gradient.

        Returns:
            (b, tokens, width), the encoder's dtype and device.

        Raises:
            ValueError: `z` has another shape.
        """
        expected = (self.context_length, self.width)
        if z.ndim != 3 or tuple(z.shape[1:]) != expected:
            raise ValueError(f"z has shape {tuple(z.shape)}: must be (batch, {expected[0]}, {expected[1]})")
        ids = tokenized.ids.expand(len(z), -1)
        mask = None if tokenized.attention_mask is None else tokenized.attention_mask.expand(len(z), -1)
        return self.encode_batch(ids, z, mask, grad=grad)

    def encode_batch(
        self, ids: Tensor, z: Tensor | None = None, attention_mask: Tensor | None = None, *, grad: bool = False
    ) -> Tensor:
        """T at rows of different prompts, in one batch.

        Args:
            ids: (b, tokens) token ids.
            z: (b, tokens, width) perturbed token embeddings; None: those of `ids`.
            attention_mask: (b, tokens); needed exactly where `uses_attention_mask`.
            grad: keep the graph.

        Returns:
            (b, tokens, width).

        Raises:
            ValueError: a shape does not fit, or the attention mask is missing.
        """
        tokens, width = self.context_length, self.width
        if ids.ndim != 2 or ids.shape[1] != tokens:
            raise ValueError(f"ids has shape {tuple(ids.shape)}: must be (batch, {tokens})")
        if z is not None and tuple(z.shape) != (len(ids), tokens, width):
            raise ValueError(f"z has shape {tuple(z.shape)}: must be {(len(ids), tokens, width)}")
        if self.uses_attention_mask and attention_mask is None:
            raise ValueError("attention_mask is None: must be given, this text encoder uses one")
        mask = None if attention_mask is None else attention_mask.to(self.device)
        z = None if z is None else z.to(self.device, self.dtype)
        with torch.set_grad_enabled(grad), evaluated(self.text_encoder), self._frame(z) as frame:
            encoded: Tensor = self.text_encoder(ids.to(self.device), attention_mask=mask)[0]
        if z is not None and not frame.used:
            raise RuntimeError(
                f"{type(self.text_encoder).__name__} did not ask its embedding module: it cannot be given noisy embeddings"
            )
        if tuple(encoded.shape[:2]) != (len(ids), tokens):
            raise ValueError(f"text_encoder gave shape {tuple(encoded.shape)}: must be ({len(ids)}, {tokens}, …)")
        return encoded

    def plain(self, prompts: str | Sequence[str | TokenizedPrompt], *, batch_size: int = 64) -> Tensor:
        """T at the prompts themselves, without noise: (b, tokens, width), in batches of at most `batch_size`."""
        _validate.count("batch_size", batch_size)
        rows = [prompts] if isinstance(prompts, str) else list(prompts)
        tokenized = [self.tokenize(row) if isinstance(row, str) else row for row in rows]
        if not tokenized:
            raise ValueError("prompts is empty: must hold at least one prompt")
        parts = []
        for start in range(0, len(tokenized), batch_size):
            chunk = tokenized[start : start + batch_size]
            masks = [t.attention_mask for t in chunk if t.attention_mask is not None]
            parts.append(
                self.encode_batch(torch.stack([t.ids for t in chunk]), None, torch.stack(masks) if masks else None)
            )
        return torch.cat(parts)

    @contextmanager
    def _frame(self, z: Tensor | None) -> Iterator[_Frame]:
        """One call in progress. Its embeddings replace the table's once, in this call and in no call nested in it."""
        frame = _Frame(z)

        def replace(module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
            if self._frames[-1] is not frame or frame.used or z is None:
                return None
            if output.shape != z.shape:
                raise ValueError(f"z has shape {tuple(z.shape)}: must be {tuple(output.shape)}, the embeddings' shape")
            frame.used = True
            return z.to(output.device)  # offloaded modules are elsewhere while they are called

        handle = None if z is None else self.embeddings.register_forward_hook(replace)
        self._frames.append(frame)
        try:
            yield frame
        finally:
            self._frames.remove(frame)
            if handle is not None:
                handle.remove()


@contextmanager
def _no_advice(tokenizer: Any) -> Iterator[None]:
    """Without transformers' own remark on prompts that are too long, which it makes whatever `verbose` says."""
    said = getattr(tokenizer, "deprecation_warnings", {})
    key = "sequence-length-is-longer-than-the-specified-maximum"
    before = said.get(key)
    said[key] = True
    try:
        yield
    finally:
        if before is None:
            said.pop(key, None)
        else:
            said[key] = before


def _words(
    tokens: Sequence[str], ids: Sequence[int], positions: range, special: frozenset[int]
) -> Iterator[tuple[int, int]]:
    """(start, stop) of every word. A special token inside the prompt is a word by itself; a rest without `</w>` too."""
    start = positions.start
    for i in positions:
        if ids[i] in special:
            if start < i:
                yield start, i
            yield i, i + 1
            start = i + 1
        elif tokens[i].endswith(END_OF_WORD):
            yield start, i + 1
            start = i + 1
    if start < positions.stop:
        yield start, positions.stop


def _shortened(prompt: str, limit: int = 60) -> str:
    return prompt if len(prompt) <= limit else prompt[: limit - 1] + "…"
