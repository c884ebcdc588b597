"""LoRA as people have them: every layout gives the same model, settings are followed, and what cannot be is named."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from certify.models import fingerprint, load_pipeline, overlay_of, overlay_text_encoder, overlay_unet, text_overlay_of
from certify.models.names import compvis
from tests.models.files import (
    CONV,
    KEY,
    MLP,
    ONE,
    OUT,
    TEXT,
    Factors,
    State,
    factors,
    file,
    fused,
    kohya,
    named,
    unchanged,
    weight,
)


def processors(pairs: Factors, prefix: str = "unet.") -> State:
    """diffusers' first layout, in which the attention's processor had the layers."""
    state = {}
    for module, (down, up) in pairs.items():
        block, _, linear = module.removesuffix(".0").rpartition(".")
        state |= {
            f"{prefix}{block}.processor.{linear}_lora.down.weight": down,
            f"{prefix}{block}.processor.{linear}_lora.up.weight": up,
        }
    return state


def original(pairs: Factors, model: Any) -> State:
    """kohya's names of a U-Net of the original layout."""
    names = {diffusers: ldm for ldm, diffusers in compvis(model.state_dict()).items()}
    renamed = {names[f"{m}.weight"].removesuffix(".weight"): pair for m, pair in pairs.items()}
    return kohya(renamed, "lora_unet_", 1.0)


ALL = (KEY, OUT, CONV, ONE)
LORAS: dict[str, tuple[tuple[str, ...], float, Callable[[Any, Any], State]]] = {
    "peft": (ALL, 1.0, lambda p, u: named(p, "base_model.model.")),
    "peft, named": (ALL, 1.0, lambda p, u: named(p, "base_model.model.", "lora_A.default.weight", "lora_B.default.weight")),
    "diffusers": (ALL, 1.0, lambda p, u: named(p, "unet.")),
    "bare": (ALL, 1.0, lambda p, u: named(p)),
    "diffusers, before": (ALL, 1.0, lambda p, u: named(p, "unet.", "lora.down.weight", "lora.up.weight")),
    "processors": ((KEY, OUT), 1.0, lambda p, u: processors(p)),
    "processors, bare": ((KEY, OUT), 1.0, lambda p, u: processors(p, "")),
    "kohya": (ALL, 0.5, lambda p, u: kohya(p, "lora_unet_", 1.0)),
    "kohya without alpha": (ALL, 1.0, lambda p, u: kohya(p, "lora_unet_")),
    "kohya, original": (ALL, 0.5, original),
    "kohya, 1 × 1 as a matrix": (
        (ONE,), 0.5, lambda p, u: {n: t.flatten(1) if t.ndim else t for n, t in kohya(p, "lora_unet_", 1.0).items()},
    ),
}  # fmt: skip


@pytest.mark.parametrize("layout", LORAS)
def test_every_layout_of_a_lora_gives_the_same_unet(layout: str, base: Any, tmp_path: Path) -> None:
    modules, scale, make = LORAS[layout]
    pairs, before = factors(base, *modules), {n: t.clone() for n, t in base.state_dict().items()}
    expected = {f"{m}.weight": t for m, t in fused(base, pairs, scale).items()}
    report = overlay_unet(base, file(make(pairs, base), tmp_path / "lora.safetensors"))
    assert (report.kind, report.loaded, report.others) == ("LoRA", len(modules), {})
    assert report.counted == f"LoRA added to {len(modules)} of 208 tensors"
    for name, tensor in base.state_dict().items():
        torch.testing.assert_close(tensor, expected.get(name, before[name]))


TEXT_LORAS: dict[str, Callable[[Factors], State]] = {
    "diffusers": lambda p: named(p, "text_encoder.text_model."),
    "peft": lambda p: named(p, "base_model.model.text_model.", "lora_A.default.weight", "lora_B.default.weight"),
    "bare": lambda p: named(p),
    "kohya": lambda p: kohya({f"text_model.{m}": pair for m, pair in p.items()}, "lora_te_", 2.0),
    "kohya, first of two": lambda p: kohya({f"text_model.{m}": pair for m, pair in p.items()}, "lora_te1_", 2.0),
    "diffusers, before": lambda p: (
        named(
            {f"text_model.{m}".replace("q_proj", "to_q_lora"): pair for m, pair in p.items() if "mlp" not in m},
            "text_encoder.",
            "down.weight",
            "up.weight",
        )
        | named(
            {MLP: p[MLP]}, "text_encoder.text_model.", "lora_linear_layer.down.weight", "lora_linear_layer.up.weight"
        )
    ),
}


@pytest.mark.parametrize("layout", TEXT_LORAS)
def test_every_layout_of_a_lora_gives_the_same_text_encoder(layout: str, text: Any, tmp_path: Path) -> None:
    pairs = factors(text, TEXT, MLP)
    expected = fused(text, pairs, 1.0)
    report = overlay_text_encoder(text, file(TEXT_LORAS[layout](pairs), tmp_path / "lora.safetensors"))
    assert (report.kind, report.loaded) == ("LoRA", 2)
    for module, tensor in expected.items():
        torch.testing.assert_close(weight(text, module), tensor)


@pytest.mark.parametrize("layout", ["kohya", "diffusers"])
def test_a_lora_of_both_is_applied_to_each_by_its_part(layout: str, pipeline_folder: Path, tmp_path: Path) -> None:
    plain = load_pipeline(pipeline_folder)
    of_unet, of_text = factors(plain.unet, KEY, CONV), factors(plain.text_encoder, TEXT)
    long = {f"text_model.{m}": pair for m, pair in of_text.items()}
    state = (
        kohya(of_unet, "lora_unet_") | kohya(long, "lora_te_")
        if layout == "kohya"
        else named(of_unet, "unet.") | named(long, "text_encoder.")
    )
    path = file(state, tmp_path / "both.safetensors")
    one = load_pipeline(pipeline_folder, unet=path)
    report = overlay_of(one)
    assert report is not None
    assert (report.loaded, dict(report.others), report.unused) == (2, {"text encoder": 2}, "2 of the text encoder")
    assert fingerprint(one.text_encoder) == fingerprint(plain.text_encoder)
    both = load_pipeline(pipeline_folder, unet=path, text_encoder=path)
    other = text_overlay_of(both)
    assert other is not None
    assert (other.loaded, dict(other.others)) == (1, {"U-Net": 4})
    torch.testing.assert_close(weight(both.unet, KEY), fused(plain.unet, of_unet, 1.0)[KEY])
    torch.testing.assert_close(weight(both.text_encoder, TEXT), fused(plain.text_encoder, of_text, 1.0)[TEXT])


def test_a_transformer_takes_a_lora_of_flux(tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = diffusers.FluxTransformer2DModel(
            in_channels=4,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=16,
            pooled_projection_dim=8,
            axes_dims_rope=(2, 2, 4),
        )
    modules = ("transformer_blocks.0.attn.add_q_proj", "single_transformer_blocks.0.attn.to_q", "x_embedder")
    pairs = factors(model, *modules)
    expected = fused(model, pairs, 0.5)
    about = {"transformer.r": 2, "transformer.lora_alpha": 1}
    path = file(named(pairs, "transformer."), tmp_path / "flux.safetensors", **about)
    assert overlay_unet(model, path).loaded == 3
    for module, tensor in expected.items():
        torch.testing.assert_close(weight(model, module), tensor)


def beside(model: Any, path: Path) -> Path:
    file(named(factors(model, KEY, CONV), "base_model.model."), path / "adapter_model.safetensors")
    (path / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 5}))
    return path


HEADER = {"unet.r": 2, "unet.lora_alpha": 1, "unet.alpha_pattern": {KEY: 6}, "text_encoder.lora_alpha": 9}
ALPHAS: dict[str, tuple[Callable[[Any, Path], Path], dict[str, float]]] = {
    "among the tensors": (
        lambda u, d: file(
            named(factors(u, KEY, CONV), "unet.") | {f"unet.{KEY}.alpha": torch.tensor(6.0)}, d / "a.safetensors"
        ),
        {KEY: 3.0, CONV: 1.0},
    ),
    "in the file's header": (
        lambda u, d: file(named(factors(u, KEY, CONV), "unet."), d / "b.safetensors", **HEADER), {KEY: 3.0, CONV: 0.5},
    ),
    "in adapter_config.json": (beside, {KEY: 2.5, CONV: 2.5}),
}  # fmt: skip


@pytest.mark.parametrize("where", ALPHAS)
def test_alpha_scales_a_lora(where: str, base: Any, tmp_path: Path) -> None:
    make, scales = ALPHAS[where]
    expected = fused(base, factors(base, KEY, CONV), scales)
    overlay_unet(base, make(base, tmp_path))
    for module, tensor in expected.items():
        torch.testing.assert_close(weight(base, module), tensor)


def adapter(model: Any, folder: Path, rank: int = 4, **about: Any) -> Path:
    """What peft saves."""
    state = named(factors(model, KEY, CONV, rank=rank), "base_model.model.")
    path = file(state, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 16, "bias": "none", "fan_in_fan_out": False, **about}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return path


@pytest.mark.parametrize("name", ["folder", "file", "renamed"])
def test_the_settings_beside_a_lora_are_read_however_it_is_named(name: str, base: Any, tmp_path: Path) -> None:
    expected = fused(base, factors(base, KEY, CONV, rank=4), 4.0)
    path = adapter(base, tmp_path / "lora")
    source = {"folder": path.parent, "file": path, "renamed": path.with_name("erased.safetensors")}[name]
    if name == "renamed":
        path.rename(source)
    overlay_unet(base, source)
    for module, tensor in expected.items():
        torch.testing.assert_close(weight(base, module), tensor, rtol=1e-4, atol=1e-4)


SETTINGS: dict[str, tuple[dict[str, Any], float, float]] = {
    "rank-stabilised": ({"use_rslora": True}, 16 / math.sqrt(4), 16 / math.sqrt(4)),
    "a pattern of α": ({"alpha_pattern": {r"attn2\.to_[kv]": 2}}, 2 / 4, 16 / 4),
    "the whole name": ({"alpha_pattern": {f"^{KEY}": 2, "to_k": 8}}, 2 / 4, 16 / 4),
    "the end of a name, not its middle": ({"alpha_pattern": {"k": 2, "conv1": 8}}, 16 / 4, 8 / 4),
    "a pattern of ranks": ({"r": 8, "rank_pattern": {"to_k": 4, "conv1": 4}}, 16 / 4, 16 / 4),
    "nothing but ranks": ({"r": 4, "lora_alpha": None}, 8 / 4, 8 / 4),  # None: left out, and peft's default is 8
    "without effect": ({"lora_dropout": 0.5, "target_modules": ["to_k"], "init_lora_weights": "gaussian"}, 4.0, 4.0),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_are_followed_as_peft_means_them(name: str, base: Any, tmp_path: Path) -> None:
    about, of_key, of_conv = SETTINGS[name]
    pairs = factors(base, KEY, CONV, rank=4)
    expected = {KEY: fused(base, pairs, of_key)[KEY], CONV: fused(base, pairs, of_conv)[CONV]}
    path = adapter(base, tmp_path, **about)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    kept = {key: value for key, value in config.items() if value is not None}
    (tmp_path / "adapter_config.json").write_text(json.dumps(kept))
    overlay_unet(base, path)
    for module, tensor in expected.items():
        torch.testing.assert_close(weight(base, module), tensor, rtol=1e-4, atol=1e-4)


REFUSED: dict[str, dict[str, Any]] = {
    "use_dora = True": {"use_dora": True},
    "lora_bias = True": {"lora_bias": True},
    "bias = 'all'": {"bias": "all"},
    "modules_to_save = ['conv_in']": {"modules_to_save": ["conv_in"]},
    "peft_type = 'LOHA'": {"peft_type": "LOHA"},
    "init_lora_weights = 'pissa'": {"init_lora_weights": "pissa"},
    "init_lora_weights = 'olora'": {"init_lora_weights": "olora"},
    "layer_replication = [[0, 2]]": {"layer_replication": [[0, 2]]},
    "a_key_of_tomorrow = 1": {"a_key_of_tomorrow": 1},
    "use_rslora = 'yes', must be true or false": {"use_rslora": "yes"},
    "lora_alpha = '16', must be a number": {"lora_alpha": "16"},
    "has rank 4, and r = 8 in adapter_config.json beside it": {"r": 8},
    "alpha_pattern has '(a+)+b'": {"alpha_pattern": {"(a+)+b": 2}},
    "alpha_pattern has '('": {"alpha_pattern": {"(": 2}},
}


@pytest.mark.parametrize("message", REFUSED)
def test_settings_that_are_not_followed_are_refused_by_name(message: str, base: Any, tmp_path: Path) -> None:
    path = adapter(base, tmp_path, **REFUSED[message])
    with unchanged(base), pytest.raises(ValueError, match=re.escape(message)):
        overlay_unet(base, path)


@pytest.mark.parametrize("tensor", ["hada_w1_a", "lokr_w1", "dora_scale", "lora_mid.weight"])
def test_other_adapters_of_kohyas_trainers_are_refused_by_name(tensor: str, base: Any, tmp_path: Path) -> None:
    state = kohya(factors(base, KEY), "lora_unet_", 1.0) | {f"lora_unet_x.{tensor}": torch.ones(2)}
    with pytest.raises(ValueError, match=rf"'lora_unet_x\.{tensor}' is no name of a LoRA that can be fused"):
        overlay_unet(base, file(state, tmp_path / "a.safetensors"))


def test_two_adapters_and_layers_that_are_not_merged_are_refused(base: Any) -> None:
    pairs = factors(base, KEY)
    state = named(pairs, "", "lora_A.default.weight", "lora_B.default.weight")
    with pytest.raises(ValueError, match=r"has two of down: must be one adapter"):
        overlay_unet(base, state | named(pairs, "", "lora_A.other.weight", "lora_B.other.weight"))
    with pytest.raises(
        ValueError, match=r"base_layer\.weight' is no name of a LoRA .*; merge the adapter into its model first"
    ):
        overlay_unet(base, state | {f"{KEY}.base_layer.weight": weight(base, KEY)})


def test_a_file_that_has_nothing_of_the_part_is_refused_with_advice(base: Any, text: Any, tmp_path: Path) -> None:
    path = file(kohya(factors(text, TEXT), "lora_te_text_model_"), tmp_path / "text.safetensors")
    message = (
        r"holds nothing of the U-Net, but 2 tensors of the text encoder; give it as text_encoder= \(--text-encoder\)"
    )
    with pytest.raises(ValueError, match=message):
        overlay_unet(base, path)
    path = file(kohya(factors(base, KEY), "lora_unet_"), tmp_path / "unet.safetensors")
    with pytest.raises(
        ValueError,
        match=r"holds nothing of the text encoder, but 2 tensors of the U-Net; give it as weights= \(--weights\)",
    ):
        overlay_text_encoder(text, path)


def test_a_file_that_changes_nothing_says_so(base: Any, tmp_path: Path) -> None:
    before = fingerprint(base)
    untrained = {n: t * (0 if "lora_up" in n else 1) for n, t in kohya(factors(base, KEY, CONV), "lora_unet_").items()}
    report = overlay_unet(base, file(untrained, tmp_path / "lora.safetensors"))
    assert (report.loaded, report.changed) == (2, 0)
    assert report.counted == "LoRA added to 2 of 208 tensors, none of which it changes"
    part = {name: t + (name == "conv_in.bias") for name, t in base.state_dict().items() if name.startswith("conv_in")}
    assert fingerprint(base) == before
    assert overlay_unet(base, part).to_dict()["changed"] == 1


def changed(**tensors: Tensor) -> Callable[[Any, Path], Any]:
    """A good LoRA with other tensors for KEY."""
    return lambda u, d: named(factors(u, KEY, CONV)) | {f"{KEY}.{name}": tensor for name, tensor in tensors.items()}


def header(text: str) -> Callable[[Any, Path], Any]:
    def make(u: Any, d: Path) -> Path:
        save_file(named(factors(u, KEY)), d / "x.safetensors", {"lora_adapter_metadata": text})
        return d

    return make


NOT_FOLLOWED = r"what is said of the LoRA in its metadata cannot be followed"
BAD: dict[str, tuple[Callable[[Any, Path], Any], str]] = {
    "unknown module": (
        lambda u, d: {"unet.nowhere.lora_A.weight": torch.ones(2, 3), "unet.nowhere.lora_B.weight": torch.ones(3, 2)},
        r"1 of 1 modules are unknown to the base, first 'unet.nowhere'",
    ),
    "rank": (
        changed(**{"lora_B.weight": torch.ones(8, 3)}),
        r"to_k' has A \(2, 32\) and B \(8, 3\), which do not fit a weight \(8, 32\)",
    ),
    "width": (changed(**{"lora_A.weight": torch.ones(2, 5)}), r"has A \(2, 5\)"),
    "A alone": (lambda u, d: {f"{KEY}.lora_A.weight": torch.ones(2, 32)}, r"is not both of A \(down\) and B \(up\)"),
    "NaN": (changed(**{"lora_A.weight": torch.full((2, 32), torch.nan)}), r"to_k' holds NaN or infinity"),
    "weight-decomposed": (
        changed(lora_magnitude_vector=torch.ones(8)), r"lora_magnitude_vector' is no name of a LoRA that can be fused",
    ),
    "another kind": (header('{"use_dora": true}'), rf"{NOT_FOLLOWED} \(use_dora = True, which is not followed here"),
    "alpha": (changed(alpha=torch.ones(2)), r"alpha' has shape \(2,\), must be one number"),
    "header": (header("{"), NOT_FOLLOWED),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_loras_change_nothing(name: str, base: Any, tmp_path: Path) -> None:
    make, message = BAD[name]
    with unchanged(base), pytest.raises(ValueError, match=message):
        overlay_unet(base, make(base, tmp_path))
