"""Small overlays of a U-Net, masks and LoRA, and overlays of a text encoder: what they do, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from certify.models import (
    fingerprint,
    load_pipeline,
    load_text_encoder,
    overlay_of,
    overlay_text_encoder,
    overlay_unet,
    text_overlay_of,
)
from certify.models.masks import packed, unpacked
from tests.pipelines import text_encoder, unet

State = dict[str, Tensor]
KEY = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
CONV = "down_blocks.0.resnets.0.conv1"


@pytest.fixture
def base() -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return unet()


def _masks(model: Any) -> State:
    source = torch.Generator().manual_seed(3)
    weights = model.state_dict()
    return {n: torch.rand(weights[n].shape, generator=source) > 0.1 for n in (f"{KEY}.weight", f"{CONV}.bias")}


def _mask_file(masks: State, path: Path) -> Path:
    bits, metadata = packed(masks)
    save_file(bits, path, metadata=metadata)
    return path


@pytest.mark.parametrize("kind", ["file", "tensors"])
def test_a_mask_multiplies_the_weights_and_leaves_the_others(kind: str, base: Any, tmp_path: Path) -> None:
    before = {name: t.clone() for name, t in base.state_dict().items()}
    masks = _masks(base)
    report = overlay_unet(base, masks if kind == "tensors" else _mask_file(masks, tmp_path / "mask.safetensors"))
    for name, tensor in base.state_dict().items():
        expected = before[name] * masks[name].float() if name in masks else before[name]
        torch.testing.assert_close(tensor, expected, rtol=0, atol=0)
    pruned = sum(int((~m).sum()) for m in masks.values())
    assert (report.kind, report.pruned, report.loaded) == ("mask", pruned, 2)
    assert pruned > 0


def test_a_mask_through_load_pipeline_is_undone_bit_for_bit_by_loading_the_base(
    pipeline_folder: Path, tmp_path: Path
) -> None:
    plain = load_pipeline(pipeline_folder)
    file = _mask_file(_masks(plain.unet), tmp_path / "mask.safetensors")
    masked = load_pipeline(pipeline_folder, unet=str(file))
    report = overlay_of(masked)
    assert report is not None
    assert (report.kind, report.source) == ("mask", str(file))
    assert fingerprint(masked.unet) != fingerprint(plain.unet)
    assert fingerprint(load_pipeline(pipeline_folder).unet) == fingerprint(plain.unet)


def test_bits_are_packed_eight_to_a_byte_and_come_back(base: Any) -> None:
    masks = _masks(base) | {"odd": torch.tensor([[True, False, True]])}
    bits, metadata = packed(masks)
    assert bits["odd"].tolist() == [0b10100000]
    assert all(len(bits[n]) == -(-m.numel() // 8) and bits[n].dtype == torch.uint8 for n, m in masks.items())
    again = unpacked(bits, metadata)
    assert all(torch.equal(again[n], m) for n, m in masks.items())


def _other_shape(masks: State) -> State:
    return masks | {f"{CONV}.bias": torch.ones(3, dtype=torch.bool)}


def _truncated(masks: State, path: Path) -> Path:
    bits, metadata = packed(masks)
    save_file({name: b[:-1] for name, b in bits.items()}, path, metadata=metadata)
    return path


BAD_MASKS: dict[str, tuple[Callable[[State, Path], Any], str]] = {
    "unknown name": (
        lambda m, p: _mask_file(m | {"conv_extra.weight": torch.ones(2, dtype=torch.bool)}, p),
        r"names are unknown to the base's U-Net, first 'conv_extra\.weight'",
    ),
    "shape": (lambda m, p: _mask_file(_other_shape(m), p), r"has shape \(3,\), must be \(8,\)"),
    "bits": (_truncated, r"unet = .*the bits of .* do not fit shape"),
}


@pytest.mark.parametrize("name", BAD_MASKS)
def test_bad_masks_change_nothing(name: str, base: Any, tmp_path: Path) -> None:
    make, message = BAD_MASKS[name]
    before = fingerprint(base)
    with pytest.raises(ValueError, match=message):
        overlay_unet(base, make(_masks(base), tmp_path / "mask.safetensors"))
    assert fingerprint(base) == before


# LoRA


def _factors(model: Any, rank: int = 2) -> tuple[State, State]:
    """A and B for a linear map and a convolution."""
    source = torch.Generator().manual_seed(4)
    weights = {m: model.state_dict()[f"{m}.weight"] for m in (KEY, CONV)}
    downs = {m: torch.randn(rank, *w.shape[1:], generator=source) for m, w in weights.items()}
    ups = {m: torch.randn(len(w), rank, *[1] * (w.ndim - 2), generator=source) for m, w in weights.items()}
    return downs, ups


def _lora(model: Any, layout: str, **more: Tensor) -> State:
    downs, ups = _factors(model)
    prefix, a, b = {
        "peft": ("unet.", "lora_A.weight", "lora_B.weight"),
        "adapter": ("base_model.model.", "lora_A.default.weight", "lora_B.default.weight"),
        "older": ("unet.", "lora.down.weight", "lora.up.weight"),
        "bare": ("", "lora_A.weight", "lora_B.weight"),
    }[layout]
    return {
        **{f"{prefix}{m}.{a}": t for m, t in downs.items()},
        **{f"{prefix}{m}.{b}": t for m, t in ups.items()},
        **{f"{prefix}{name}": t for name, t in more.items()},
    }


def _expected(model: Any, scales: dict[str, float]) -> State:
    downs, ups = _factors(model)
    weights = model.state_dict()
    return {
        KEY: weights[f"{KEY}.weight"] + scales[KEY] * ups[KEY] @ downs[KEY],
        CONV: weights[f"{CONV}.weight"] + scales[CONV] * torch.einsum("orxy,rihw->oihw", ups[CONV], downs[CONV]),
    }


@pytest.mark.parametrize("layout", ["peft", "adapter", "older", "bare"])
def test_a_lora_is_added_with_a_scale_of_one_where_nothing_is_said(layout: str, base: Any, tmp_path: Path) -> None:
    expected = _expected(base, {KEY: 1.0, CONV: 1.0})
    before = {name: t.clone() for name, t in base.state_dict().items()}
    file = tmp_path / "lora.safetensors"
    save_file(_lora(base, layout), file)
    report = overlay_unet(base, file)
    assert (report.kind, report.loaded) == ("LoRA", 2)
    for name, tensor in base.state_dict().items():
        torch.testing.assert_close(tensor, expected.get(name.removesuffix(".weight"), before[name]))


def _own_alpha(model: Any, folder: Path) -> Path:
    save_file(_lora(model, "peft", **{f"{KEY}.alpha": torch.tensor(6.0)}), folder / "a.safetensors")
    return folder / "a.safetensors"


def _in_header(model: Any, folder: Path) -> Path:
    about = {"unet.r": 2, "unet.lora_alpha": 1, "unet.alpha_pattern": {KEY: 6}, "text_encoder.lora_alpha": 9}
    header = {"lora_adapter_metadata": json.dumps(about)}
    save_file(_lora(model, "peft"), folder / "b.safetensors", metadata=header)
    return folder / "b.safetensors"


def _beside(model: Any, folder: Path) -> Path:
    save_file(_lora(model, "adapter"), folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 5}))
    return folder


ALPHAS: dict[str, tuple[Callable[[Any, Path], Path], dict[str, float]]] = {
    "among the tensors": (_own_alpha, {KEY: 3.0, CONV: 1.0}),
    "in the file's header": (_in_header, {KEY: 3.0, CONV: 0.5}),
    "in adapter_config.json": (_beside, {KEY: 2.5, CONV: 2.5}),
}


@pytest.mark.parametrize("where", ALPHAS)
def test_alpha_scales_a_lora(where: str, base: Any, tmp_path: Path) -> None:
    make, scales = ALPHAS[where]
    expected = _expected(base, scales)
    overlay_unet(base, make(base, tmp_path))
    for module, weight in expected.items():
        torch.testing.assert_close(base.state_dict()[f"{module}.weight"], weight)


def _header(state: State, path: Path, **about: Any) -> Path:
    save_file(state, path, metadata={"lora_adapter_metadata": json.dumps(about)})
    return path


BAD_LORA: dict[str, tuple[Callable[[Any, Path], Any], str]] = {
    "unknown module": (
        lambda u, d: {"unet.nowhere.lora_A.weight": torch.ones(2, 3), "unet.nowhere.lora_B.weight": torch.ones(3, 2)},
        r"1 of 1 modules are unknown to the base, first 'unet.nowhere'",
    ),
    "rank": (
        lambda u, d: _lora(u, "bare") | {f"{KEY}.lora_B.weight": torch.ones(8, 3)},
        r"to_k' has A \(2, 32\) and B \(8, 3\), which do not fit a weight \(8, 32\)",
    ),
    "width": (lambda u, d: _lora(u, "bare") | {f"{KEY}.lora_A.weight": torch.ones(2, 5)}, r"has A \(2, 5\)"),
    "A alone": (
        lambda u, d: {f"{KEY}.lora_A.weight": torch.ones(2, 32)},
        r"there is not both of A \(down\) and B \(up\)",
    ),
    "NaN": (
        lambda u, d: _lora(u, "bare") | {f"{KEY}.lora_A.weight": torch.full((2, 32), torch.nan)},
        r"to_k' holds NaN or infinity",
    ),
    "weight-decomposed": (
        lambda u, d: _lora(u, "bare") | {f"{KEY}.lora_magnitude_vector": torch.ones(8)},
        r"lora_magnitude_vector' is no name of a LoRA that can be fused",
    ),
    "another kind": (
        lambda u, d: _header(_lora(u, "bare"), d / "x.safetensors", use_dora=True),
        r"what is said of the LoRA in its metadata cannot be followed \(use_dora = True, which is not followed here",
    ),
    "alpha": (
        lambda u, d: _lora(u, "bare") | {f"{KEY}.alpha": torch.ones(2)},
        r"alpha' has shape \(2,\), must be one number",
    ),
    "header": (
        lambda u, d: save_file(_lora(u, "bare"), d / "x.safetensors", {"lora_adapter_metadata": "{"}) or d,
        r"what is said of the LoRA in its metadata cannot be followed",
    ),
}


@pytest.mark.parametrize("name", BAD_LORA)
def test_bad_loras_change_nothing(name: str, base: Any, tmp_path: Path) -> None:
    make, message = BAD_LORA[name]
    before = fingerprint(base)
    with pytest.raises(ValueError, match=message):
        overlay_unet(base, make(base, tmp_path))
    assert fingerprint(base) == before


# Text encoders


@pytest.fixture(scope="module")
def changed(pipeline_folder: Path) -> State:
    """Another text encoder's weights, under the names without a prefix."""
    state = load_text_encoder(pipeline_folder).text_encoder.state_dict()
    source = torch.Generator().manual_seed(5)
    return {n.removeprefix("text_model."): t + 0.1 * torch.randn(t.shape, generator=source) for n, t in state.items()}


def _old(state: State) -> State:
    positions = {"text_model.embeddings.position_ids": torch.arange(16)[None]}
    return {f"text_model.{name}": t for name, t in state.items()} | positions


def _torch(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path


def _folder(state: State, folder: Path) -> Path:
    model = text_encoder(len(state["embeddings.token_embedding.weight"]))
    overlay_text_encoder(model, state)
    model.save_pretrained(folder)
    return folder


TEXT_SOURCES: dict[str, Callable[[State, Path], Any]] = {
    "state dict": lambda s, d: s,
    "old prefix": lambda s, d: _old(s),
    "safetensors, of a pipeline": lambda s, d: (
        save_file({f"text_encoder.{k}": v for k, v in s.items()}, d / "t.safetensors") or d / "t.safetensors"
    ),
    "wrapped pt, old": lambda s, d: _torch({"state_dict": _old(s), "step": 1}, d / "t.pt"),
    "folder": lambda s, d: _folder(s, d / "folder"),
}


@pytest.mark.parametrize("kind", TEXT_SOURCES)
def test_every_source_gives_the_same_text_encoder(
    kind: str, changed: State, pipeline_folder: Path, tmp_path: Path
) -> None:
    encoder = load_text_encoder(pipeline_folder, text_encoder=TEXT_SOURCES[kind](changed, tmp_path))
    for name, tensor in encoder.text_encoder.state_dict().items():
        assert torch.equal(tensor, changed[name.removeprefix("text_model.")]), name
    report = text_overlay_of(encoder)
    assert report is not None
    assert (report.loaded, report.partial) == (len(changed), False)


def test_a_pipeline_gets_the_text_encoder_and_keeps_its_unet(changed: State, pipeline_folder: Path) -> None:
    plain, pipe = load_pipeline(pipeline_folder), load_pipeline(pipeline_folder, text_encoder=changed, dtype="float64")
    assert text_overlay_of(plain) is None
    assert text_overlay_of(pipe) is not None
    assert fingerprint(pipe.unet.float()) == fingerprint(plain.unet)
    assert {p.dtype for p in pipe.text_encoder.parameters()} == {torch.float64}
    got = {n.removeprefix("text_model."): t for n, t in pipe.text_encoder.float().state_dict().items()}
    assert fingerprint(got) == fingerprint(changed)


def test_some_layers_alone_are_partial(changed: State, pipeline_folder: Path) -> None:
    last = {name: t for name, t in changed.items() if "layers.1." in name}
    encoder = load_text_encoder(pipeline_folder, text_encoder=last)
    report = text_overlay_of(encoder)
    assert report is not None
    assert report.partial
    assert report.loaded == len(last) > 0
    first = load_text_encoder(pipeline_folder).text_encoder.state_dict()
    for name, tensor in encoder.text_encoder.state_dict().items():
        short = name.removeprefix("text_model.")
        assert torch.equal(tensor, last.get(short, first[name]))


def _other_activation(state: State, folder: Path) -> Path:
    _folder(state, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_act": "relu"}))
    return folder


BAD_TEXT: dict[str, tuple[Callable[[State, Path], Any], type[Exception], str]] = {
    "missing": (lambda s, d: d / "no.pt", FileNotFoundError, r"text_encoder = '.*no\.pt': no such file or folder"),
    "unknown name": (
        lambda s, d: s | {"extra.weight": torch.ones(1)},
        ValueError,
        r"text_encoder = .*1 of \d+ names are unknown to the base's text encoder, first 'extra\.weight'",
    ),
    "shape": (
        lambda s, d: s | {"final_layer_norm.bias": torch.ones(3)},
        ValueError,
        r"'final_layer_norm\.bias' has shape \(3,\), must be \(32,\)",
    ),
    "NaN": (lambda s, d: s | {"final_layer_norm.bias": torch.full((32,), torch.nan)}, ValueError, r"NaN or infinity"),
    "positions alone": (
        lambda s, d: {"text_model.embeddings.position_ids": torch.arange(16)},
        ValueError,
        r"holds nothing of the text encoder, but position numbers alone",
    ),
    "another activation": (
        lambda s, d: _other_activation(s, d / "f"),
        ValueError,
        r"its configuration must be the base's, but hidden_act 'relu', base 'quick_gelu'",
    ),
    "a number": (lambda s, d: 7, TypeError, r"text_encoder is a int: must be a path or a state dict"),
}


@pytest.mark.parametrize("name", BAD_TEXT)
def test_bad_text_encoders_change_nothing(name: str, changed: State, pipeline_folder: Path, tmp_path: Path) -> None:
    make, error, message = BAD_TEXT[name]
    model = load_text_encoder(pipeline_folder).text_encoder
    before = fingerprint(model)
    with pytest.raises(error, match=message):
        overlay_text_encoder(model, make(changed, tmp_path))
    assert fingerprint(model) == before
