"""Small tokenizers of every kind that pipelines have, made here: no files, no hub."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

from tests.pipelines import save_tokenizer

WORDS = [
    *("a", "photo", "of", "the", "red", "green", "blue", "circle", "square", "in", "and", "painting", "small", "big"),
    *("cat", "dog", "with", "You", "are", "an", "assistant", "user", "system", "User", "Prompt", "Describe", "image"),
]
PIECES = ["star", "fish", "wheel"]  # "starfish" and "wheels" are left in pieces
CONTEXT = 16

CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['content'] is string %}{{ m['content'] }}"
    "{% else %}{% for c in m['content'] %}{{ c['text'] }}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""A chat template like Qwen's."""


@functools.cache
def clip(pad_token: str = "<|endoftext|>", context: int = CONTEXT) -> Any:
    """CLIP's: `</w>`."""
    from transformers import CLIPTokenizer

    with tempfile.TemporaryDirectory() as folder:
        save_tokenizer(Path(folder) / "t", pad_token=pad_token, context=context)
        return CLIPTokenizer.from_pretrained(Path(folder) / "t")


def _fast(tokenizer: Any, **options: Any) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **options)


@functools.cache
def sentencepiece(begin: bool = False, context: int = CONTEXT) -> Any:
    """T5's, or Gemma's with a begin token: `▁`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    special = ["<pad>", "</s>", "<bos>", "<unk>"]
    characters = [chr(c) for c in range(33, 127)]
    words = [f"▁{word}" for word in WORDS]
    scores = [(s, 0.0) for s in special] + [(w, -2.0) for w in [*words, "▁star", "fish", "▁wheel"]] + [("▁", -6.0)]
    tokenizer = Tokenizer(models.Unigram(scores + [(c, -9.0) for c in characters], unk_id=3))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A" if begin else "$A </s>", special_tokens=[("<bos>", 2), ("</s>", 1)]
    )
    named = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "bos_token": "<bos>"}
    return _fast(tokenizer, model_max_length=context, padding_side="right", **named)


@functools.cache
def byte_level(padding_side: str = "right", prefix: str = "", context: int = 512) -> Any:
    """Qwen's, GLM's and Mistral's: `Ġ`, with a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "[gMASK]"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([" ".join(["", *WORDS, *PIECES])] * 9 + [*WORDS] * 9, trainer)
    if prefix:
        ids = [(prefix, tokenizer.token_to_id(prefix))]
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{prefix} $A", special_tokens=ids)
    made = _fast(
        tokenizer,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        model_max_length=context,
        padding_side=padding_side,
    )
    made.chat_template = CHAT
    return made


@functools.cache
def wordpiece(context: int = CONTEXT) -> Any:
    """BERT's: `##`."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    characters = [chr(c) for c in range(33, 127) if not chr(c).isupper()]
    tokens = [*special, *(w.lower() for w in WORDS), "star", "##fish", "wheel"]
    tokens += [*characters, *(f"##{c}" for c in characters)]
    tokenizer = Tokenizer(models.WordPiece({t: i for i, t in enumerate(dict.fromkeys(tokens))}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    named = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return _fast(tokenizer, model_max_length=context, **named)
