"""FID against its formula, image–text scores against the CLIP that they are of, and calls that must be refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import nn
from torch.nn import functional as F

from certify import world
from experiments.metrics.features import ClipFeatures, JudgeFeatures
from experiments.metrics.fid import fid
from experiments.metrics.image_text import clip_scorer, world_scorer
from experiments.world import scenes


class Means(nn.Module):
    """Three numbers an image: the means of its channels."""

    num_features = 3

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=(2, 3))


def formula(a: torch.Tensor, b: torch.Tensor) -> float:
    x, y = a.double().numpy(), b.double().numpy()
    s, t = np.cov(x.T), np.cov(y.T)
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(s + t - 2 * sqrtm(s @ t).real))


@pytest.fixture(scope="module")
def rendered() -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(0)
    first, second = (scenes.render(scenes.sample_scenes(200, source), source) for _ in range(2))
    return first, second


@pytest.mark.parametrize("extractor", [Means(), JudgeFeatures()], ids=["means", "judge"])
def test_fid_is_its_formula(rendered, extractor):
    a, b = rendered
    value = fid(a, b, extractor, batch=70)
    assert value == pytest.approx(formula(extractor(a), extractor(b)), rel=1e-3, abs=1e-6)
    assert fid(a, a, extractor) == pytest.approx(0, abs=1e-5)
    assert fid(a, (b + 0.3).clamp(0, 1), extractor) > value


def test_fid_needs_more_images_than_features(rendered):
    a, b = rendered
    with pytest.raises(ValueError, match="generated has 128 images: must be more than the extractor's 128 features"):
        fid(a, b[:128], JudgeFeatures())
    with pytest.raises(ValueError, match="real has 3 images"):
        fid(a[:3], b, Means())


def test_world_score_tells_the_right_caption_from_another(rendered):
    source = torch.Generator().manual_seed(1)
    circles = scenes.render(torch.tensor([[0, 0, 0, 0, 1]] * 20), source)
    right, wrong = (world_scorer()(circles, [f"a red {noun}"] * 20) for noun in ("circle", "star"))
    assert right > wrong + 0.2


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """A small CLIP with random weights and the world's tokenizer, in a folder."""
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("clip")
    words = CLIPTokenizer.from_pretrained(world.path() / "tokenizer")
    words.save_pretrained(folder)
    width = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id}
    text = {**width, **ends, "vocab_size": len(words), "max_position_embeddings": 20}
    vision = {**width, "image_size": 24, "patch_size": 8}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))
    model.save_pretrained(folder)
    return folder


def test_clip_score_is_the_models_own_logit(rendered, clip):
    """`CLIPModel`'s logits are scaled cosines of the same two embeddings."""
    from transformers import CLIPModel, CLIPTokenizer

    images, texts = rendered[0][:5], ["a red circle", "a star", "blue", "a heart on teal", ""]
    model, words = CLIPModel.from_pretrained(clip).eval(), CLIPTokenizer.from_pretrained(clip)
    tokens = words(texts, padding="max_length", max_length=20, return_tensors="pt")
    features = ClipFeatures(clip)
    assert features(images).shape == (5, features.num_features) == (5, 16)
    pixels = F.interpolate(images, (24, 24), mode="bicubic", antialias=True).clamp(0, 1)
    pixels = (pixels - features.mean) / features.std
    with torch.no_grad():
        logits = model(**tokens, pixel_values=pixels).logits_per_image / model.logit_scale.exp()
    assert clip_scorer(clip, batch=2)(images, texts) == pytest.approx(float(logits.diagonal().mean()), abs=1e-6)


@pytest.mark.parametrize("call", [ClipFeatures, clip_scorer])
def test_a_missing_folder_is_named(call, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        call(tmp_path / "nowhere")


def test_as_many_prompts_as_images(rendered, clip):
    for scorer in (world_scorer(), clip_scorer(clip)):
        with pytest.raises(ValueError, match="prompts has 1 entries for 2 images"):
            scorer(rendered[0][:2], ["a circle"])
