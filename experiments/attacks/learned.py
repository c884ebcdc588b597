"""Learned words: tokens whose embeddings an attacker has learned, in prompts, in a pipeline, in rows of a file.

A row keeps what was learned in its note, {"token": "<hat-0>", "embedding": …}, float32 as base64, so that its file is all
that a defence needs. `words_of` reads them, `taught` gives a pipeline them.
"""

from __future__ import annotations

import base64
import binascii
import copy
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from experiments.attacks.attack import Row

__all__ = ["Words", "note_of", "taught", "words_of"]

Words = Mapping[str, Tensor]
"""Token → (width,) float32, its embedding."""


def note_of(token: str, embedding: Tensor) -> dict[str, str]:
    """What a row's note says of a token and its embedding (width,)."""
    values = embedding.detach().cpu().float().contiguous().numpy().astype("<f4")
    return {"token": token, "embedding": base64.b64encode(values.tobytes()).decode("ascii")}


def words_of(rows: Iterable[Row]) -> dict[str, Tensor]:
    """The tokens that rows need, with their embeddings; none for attacks that find text alone.

    Raises:
        ValueError: an embedding is broken, or two rows give one token different ones.
    """
    words: dict[str, Tensor] = {}
    for row in rows:
        note = json.loads(row.note)
        if "embedding" not in note:
            continue
        token, what = str(note.get("token", "")), f"row {row.number} of {row.attack!r}"
        try:
            data = base64.b64decode(note["embedding"], validate=True)
            vector = torch.frombuffer(bytearray(data), dtype=torch.float32).clone()
        except (TypeError, ValueError, binascii.Error) as error:
            raise ValueError(f"{what}: embedding must be float32 values as base64 ({error})") from error
        if not token or not bool(vector.isfinite().all()):
            raise ValueError(f"{what}: must have a token, and an embedding of finite values")
        if token in words and not torch.equal(words[token], vector):
            raise ValueError(
                f"{what}: token {token!r} has another embedding in an earlier row; must be one and the same"
            )
        words[token] = vector
    return words


def taught(pipe: Any, words: Words) -> Any:
    """The pipeline with further tokens, each with its embedding, as `load_textual_inversion` would leave it.

    Args:
        pipe: a Stable Diffusion pipeline; it stays as it is. All but the tokenizer and the text encoder is shared.
        words: what was learned; none: the pipeline itself.

    Raises:
        ValueError: an embedding is not as wide as the pipeline's.
    """
    if not words:
        return pipe
    width = pipe.text_encoder.get_input_embeddings().weight.shape[1]
    for token, vector in words.items():
        if tuple(vector.shape) != (width,):
            raise ValueError(
                f"embedding of {token!r} has shape {tuple(vector.shape)}: must be ({width},), as the model's are"
            )
    own = {name: copy.deepcopy(getattr(pipe, name)) for name in ("tokenizer", "text_encoder")}
    own["tokenizer"].add_tokens(list(words))
    with torch.random.fork_rng(devices=[]), torch.no_grad():  # rows that are new are drawn, before they are set
        own["text_encoder"].resize_token_embeddings(len(own["tokenizer"]), mean_resizing=False)
        table = own["text_encoder"].get_input_embeddings().weight
        for token, vector in words.items():
            table[own["tokenizer"].convert_tokens_to_ids(token)] = vector.to(table)
    checked = {"requires_safety_checker": False} if "requires_safety_checker" in pipe.config else {}
    known: Any = type(pipe)(**{**pipe.components, **own}, **checked)
    known.set_progress_bar_config(**getattr(pipe, "_progress_bar_config", {}))  # set once a bar was asked for
    return known


def start(encoder: Any, phrase: str) -> Tensor:
    """The mean of a phrase's token embeddings: (width,).

    Raises:
        ValueError: the phrase has no token.
    """
    content = encoder.tokenize(phrase).content
    if not content:
        raise ValueError(f"initial = {phrase!r}: must be a word")
    mean: Tensor = encoder.embed(encoder.assemble(content))[1 : 1 + len(content)].mean(dim=0)
    if not math.isfinite(float(mean.sum())):
        raise ValueError(f"initial = {phrase!r}: its embedding must be finite")
    return mean
