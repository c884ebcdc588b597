"""Small pipelines of real classes with random weights: what adapters and the adaptive smoother are tested on.

`save_pipeline(folder)` writes a Stable Diffusion 1.x-like folder in about a second: a CLIP byte-pair tokenizer with some
words of several tokens, a two-layer text encoder, a tiny U-Net and VAE, a DDIM scheduler. `layout="sd2"` writes what
2.x does differently: padding with "!" and v-prediction. `pipeline_folder` and `pipeline_folder_sd2` are session-wide
fixtures; import the one that you need into a `conftest.py`.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from certify.models.quiet import quiet_libraries

CONTEXT = 16
WIDTH = 32

# Words of one token, then words that the merges leave in pieces.
WHOLE = [
    "a",
    "photo",
    "of",
    "the",
    "red",
    "green",
    "blue",
    "circle",
    "square",
    "coin",
    "in",
    "and",
    "painting",
    "small",
    "big",
]
PIECES = (("star", "fish"), ("whe", "el"), ("sun", "flow", "er"))


def vocabulary() -> tuple[dict[str, int], list[str]]:
    """A byte-pair vocabulary in CLIP's layout ("!" is 0; characters, characters with </w>, merges, specials)."""
    characters = [chr(c) for c in range(33, 127)]
    vocabulary = characters + [c + "</w>" for c in characters]
    merges: list[str] = []

    def learn(parts: list[str]) -> None:
        left = parts[0]
        for right in parts[1:]:
            if f"{left} {right}" not in merges:
                merges.append(f"{left} {right}")
                vocabulary.append(left + right)
            left += right

    for word in WHOLE:
        learn([*word[:-1], word[-1] + "</w>"])
    for pieces in PIECES:
        for piece in pieces[:-1]:
            learn(list(piece))
        learn([*pieces[-1][:-1], pieces[-1][-1] + "</w>"])
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    return {token: i for i, token in enumerate(dict.fromkeys(vocabulary))}, merges


def save_tokenizer(folder: Path, *, pad_token: str = "<|endoftext|>", context: int = CONTEXT) -> int:
    """Writes the files that the hub's Stable Diffusion repositories have; returns the size of the vocabulary."""
    folder.mkdir(parents=True)
    tokens, merges = vocabulary()
    (folder / "vocab.json").write_text(json.dumps(tokens), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    config = {**special, "pad_token": pad_token, "model_max_length": context, "tokenizer_class": "CLIPTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "special_tokens_map.json").write_text(json.dumps({**special, "pad_token": pad_token}), encoding="utf-8")
    return len(tokens)


def text_encoder(vocabulary_size: int, **changes: Any) -> Any:
    """A two-layer CLIP text model with embeddings as spread out as CLIP's."""
    from transformers import CLIPTextConfig, CLIPTextModel

    settings: dict[str, Any] = {
        "vocab_size": vocabulary_size,
        "hidden_size": WIDTH,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": CONTEXT,
        "bos_token_id": vocabulary_size - 2,
        "eos_token_id": vocabulary_size - 1,
        "pad_token_id": vocabulary_size - 1,
        "projection_dim": WIDTH,
    }
    model = CLIPTextModel(CLIPTextConfig(**{**settings, **changes}))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # layers strong enough that every token shows in the encoding
        for name, weight in model.named_parameters():
            if weight.ndim == 2 and "embedding" not in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) / weight.shape[1] ** 0.5)
        model.get_input_embeddings().weight.copy_(0.05 * torch.randn(vocabulary_size, WIDTH, generator=generator))
        model.final_layer_norm.weight.copy_(1 + 0.1 * torch.randn(WIDTH, generator=generator))
        model.final_layer_norm.bias.copy_(0.1 * torch.randn(WIDTH, generator=generator))
    return model


def unet() -> Any:
    """A U-Net with cross-attention, small enough to run in milliseconds."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=4,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=4,
    )


def save_pipeline(
    folder: Path,
    *,
    layout: str = "sd1",
    dtype: torch.dtype = torch.float32,
    context: int = CONTEXT,
    **text_changes: Any,
) -> Path:
    """Writes a pipeline folder: `layout` "sd1" (padding with the end token, ε) or "sd2" (padding with "!", v)."""
    with quiet_libraries(), torch.random.fork_rng(devices=[]):
        from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline
        from transformers import CLIPTokenizer

        torch.manual_seed(0)
        size = save_tokenizer(folder / "draft", pad_token="!" if layout == "sd2" else "<|endoftext|>", context=context)
        pipe = StableDiffusionPipeline(
            tokenizer=CLIPTokenizer.from_pretrained(folder / "draft"),
            text_encoder=text_encoder(size, max_position_embeddings=context, **text_changes),
            unet=unet(),
            vae=AutoencoderKL(
                block_out_channels=(4, 8),
                norm_num_groups=4,
                latent_channels=4,
                sample_size=8,
                down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
                up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
            ),
            scheduler=DDIMScheduler(
                beta_schedule="scaled_linear",
                clip_sample=False,
                steps_offset=1,
                prediction_type="v_prediction" if layout == "sd2" else "epsilon",
            ),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipe.to(dtype=dtype)
        pipe.save_pretrained(folder)
    shutil.rmtree(folder / "draft")
    return folder


def save_index(folder: Path, family: str = "StableDiffusionXLPipeline", **parts: Any) -> Path:
    """Writes a `model_index.json` alone: enough for a model that is refused by its family."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": family, **parts}), encoding="utf-8")
    return folder


def save_pickled(folder: Path, of: Path, part: str = "unet") -> Path:
    """A copy of the pipeline folder `of` whose `part` has pickled weights alone."""
    shutil.copytree(of, folder)
    for file in (folder / part).glob("*.safetensors"):
        file.unlink()
        torch.save({}, file.with_suffix(".bin"))
    return folder


def _saved_once(factory: pytest.TempPathFactory, layout: str) -> Path:
    folder = factory.getbasetemp() / f"pipeline-{layout}"
    if not (folder / "model_index.json").is_file():
        save_pipeline(folder, layout=layout)
    return folder


@pytest.fixture(scope="session")
def pipeline_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Stable Diffusion 1.x-like pipeline on disk."""
    return _saved_once(tmp_path_factory, "sd1")


@pytest.fixture(scope="session")
def pipeline_folder_sd2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Stable Diffusion 2.x-like pipeline on disk."""
    return _saved_once(tmp_path_factory, "sd2")
