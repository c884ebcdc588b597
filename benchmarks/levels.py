"""The table of levels (T17) at the size of CLIP's vocabulary: time, memory, and reading it back.

A text encoder with random weights, 77 positions and 49 408 entries, of a small width: what the table itself costs. Beside it
some entries with an encoder of Stable Diffusion's size, where the encoder is all that counts.
"""

from __future__ import annotations

import itertools
import json
import resource
import string
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks import subjects
from certify.adaptive import AdaptiveMedianSmoother, Concept, level_set
from certify.adaptive import levels as module

__all__ = ["ENTRIES", "table", "tokenizer"]

ENTRIES, TOKENS, WIDTH = 49_408, 77, 32
PAIRS = Concept("abc", (("abc", "abd"), ("bcd", "bce")))


def tokenizer(entries: int, folder: Path) -> Any:
    """CLIP's kind, its words made up: pairs of letters, and one or two more, with and without the end of a word."""
    from transformers import CLIPTokenizer

    characters = [chr(c) for c in range(33, 127)]
    tokens, merges = [*characters, *(c + "</w>" for c in characters)], []
    letters = string.ascii_lowercase
    parts = itertools.chain(
        itertools.product(letters, letters),
        itertools.product(map("".join, itertools.product(letters, letters)), letters),
        itertools.product(map("".join, itertools.product(letters, letters, letters)), letters),
    )
    for (left, right), end in itertools.product(parts, ("", "</w>")):
        if len(tokens) == entries - 2:
            break
        tokens.append(left + right + end)
        merges.append(f"{left} {right}{end}")
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
    return CLIPTokenizer.from_pretrained(folder, model_max_length=TOKENS)


def table(quick: bool) -> str:
    """As Markdown."""
    entries = 2_000 if quick else ENTRIES
    rows = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        adaptive = _smoother(entries, folder)
        before = _peak()
        computed: Any = None
        rows["the table, computed"], computed = _timed(lambda: _table(adaptive, folder))
        rows["again, from disk"], again = _timed(lambda: _table(adaptive, folder))
        assert bool((computed.scores == again.scores).all())
        prompt = adaptive.prepare("abc bcd cde")
        rows["C_ρ(y) of a prompt of three words"], _ = _timed(lambda: level_set(prompt, 0.5))
        grown, kept = (_peak() - before) / 2**20, (next(folder.glob("*.safetensors")).stat().st_size) / 2**20
    encoder, _ = subjects.large_encoder()
    count = 4 if quick else 16
    scorer = AdaptiveMedianSmoother.from_encoder(encoder, [PAIRS], sigma0_relative=0.1, k=1.0).scorer
    each = _timed(lambda: scorer.of_entries(range(count)))[0] / (count + 1)  # the empty prompt, too
    lines = [
        "## The table of levels (T17)",
        "",
        f"{entries:,} entries, {TOKENS} positions, a layer of width {WIDTH}; memory beyond the model's {grown:.0f} MB, on disk "
        f"{kept:.1f} MB. A ViT-L/14 text encoder takes {each:.2f} s an entry, {each * ENTRIES / 3600:.1f} h for all, once "
        "for a model and its concepts.",
        "",
        "| | s |",
        "|---|---|",
    ]
    return "\n".join([*lines, *(f"| {what} | {seconds:.1f} |" for what, seconds in rows.items())])


def _smoother(entries: int, folder: Path) -> AdaptiveMedianSmoother:
    from transformers import CLIPTextConfig, CLIPTextModel

    from certify.models import PromptEncoder

    named = tokenizer(entries, folder)
    config = CLIPTextConfig(
        vocab_size=entries,
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=TOKENS,
        bos_token_id=named.bos_token_id,
        eos_token_id=named.eos_token_id,
        pad_token_id=named.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CLIPTextModel(config).eval().requires_grad_(False)
    how: dict[str, Any] = {"sigma0_relative": 0.1, "k": 5.0, "policy": "levels"}
    return AdaptiveMedianSmoother.from_encoder(PromptEncoder(named, model), [PAIRS], **how)


def _table(adaptive: AdaptiveMedianSmoother, folder: Path) -> module.LevelTable:
    return module.LevelTable.of(adaptive.scorer, adaptive.concepts, folder)


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    with torch.no_grad():
        made = work()
    return time.perf_counter() - began, made


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
