"""Files as people have them: every layout of the same weights gives the same model, and what cannot be followed is named."""

from __future__ import annotations

import json
import math
from collections import OrderedDict
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
from certify.models.names import compvis
from tests.pipelines import save_pipeline, text_encoder, unet

State = dict[str, Tensor]
KEY = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
OUT = "mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0"
CONV = "down_blocks.0.resnets.0.conv1"
ONE = "down_blocks.0.attentions.0.proj_in"  # a convolution of 1 × 1
TEXT = "encoder.layers.1.self_attn.q_proj"
MLP = "encoder.layers.0.mlp.fc1"


@pytest.fixture
def base() -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return unet()


@pytest.fixture
def text() -> Any:
    return text_encoder(300)


@pytest.fixture(scope="module")
def erased() -> State:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return unet().state_dict()


@pytest.fixture(scope="module")
def erased_text() -> State:
    """Another text encoder's weights, by their short names."""
    source = torch.Generator().manual_seed(5)
    state = text_encoder(300).state_dict()
    return {n.removeprefix("text_model."): t + 0.1 * torch.randn(t.shape, generator=source) for n, t in state.items()}


def file(state: State, path: Path, **about: Any) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    metadata = {"lora_adapter_metadata": json.dumps(about)} if about else None
    save_file({name: tensor.contiguous().clone() for name, tensor in state.items()}, path, metadata)
    return path


def pickled(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path


# LoRA


def weight(model: Any, module: str) -> Tensor:
    state = model.state_dict()
    return next(state[n] for n in (f"{module}.weight", f"text_model.{module}.weight") if n in state)


def factors(model: Any, *modules: str, rank: int = 2) -> dict[str, tuple[Tensor, Tensor]]:
    source = torch.Generator().manual_seed(4)
    found = {}
    for module in modules:
        w = weight(model, module)
        down = torch.randn(rank, *w.shape[1:], generator=source)
        found[module] = (down, torch.randn(len(w), rank, *[1] * (w.ndim - 2), generator=source))
    return found


def fused(model: Any, pairs: dict[str, tuple[Tensor, Tensor]], scale: float) -> State:
    return {
        m: weight(model, m) + scale * (b.flatten(1) @ a.flatten(1)).reshape(weight(model, m).shape)
        for m, (a, b) in pairs.items()
    }


def named(pairs: dict[str, tuple[Tensor, Tensor]], prefix: str, down: str, up: str) -> State:
    return {f"{prefix}{m}.{which}": t for m, pair in pairs.items() for which, t in zip((down, up), pair, strict=True)}


def kohya(pairs: dict[str, tuple[Tensor, Tensor]], prefix: str, alpha: float | None = None) -> State:
    under = {m.replace(".", "_"): pair for m, pair in pairs.items()}
    alphas = {} if alpha is None else {f"{prefix}{m}.alpha": torch.tensor(alpha) for m in under}
    return named(under, prefix, "lora_down.weight", "lora_up.weight") | alphas


def processors(pairs: dict[str, tuple[Tensor, Tensor]], prefix: str = "unet.") -> State:
    """diffusers' first layout, in which the attention's processor had the layers."""
    state = {}
    for module, (down, up) in pairs.items():
        block, _, linear = module.removesuffix(".0").rpartition(".")
        state |= {
            f"{prefix}{block}.processor.{linear}_lora.down.weight": down,
            f"{prefix}{block}.processor.{linear}_lora.up.weight": up,
        }
    return state


def original(pairs: dict[str, tuple[Tensor, Tensor]], model: Any) -> State:
    """kohya's names of a U-Net of the original layout."""
    names = {diffusers: ldm for ldm, diffusers in compvis(model.state_dict()).items()}
    renamed = {names[f"{m}.weight"].removesuffix(".weight"): pair for m, pair in pairs.items()}
    return kohya(renamed, "lora_unet_", 1.0)


ALL = (KEY, OUT, CONV, ONE)
LORAS: dict[str, tuple[tuple[str, ...], float, Callable[[Any, Any], State]]] = {
    "peft": (ALL, 1.0, lambda p, u: named(p, "base_model.model.", "lora_A.weight", "lora_B.weight")),
    "diffusers": (ALL, 1.0, lambda p, u: named(p, "unet.", "lora_A.weight", "lora_B.weight")),
    "diffusers, before": (ALL, 1.0, lambda p, u: named(p, "unet.", "lora.down.weight", "lora.up.weight")),
    "processors": ((KEY, OUT), 1.0, lambda p, u: processors(p)),
    "processors, bare": ((KEY, OUT), 1.0, lambda p, u: processors(p, "")),
    "kohya": (ALL, 0.5, lambda p, u: kohya(p, "lora_unet_", 1.0)),
    "kohya without alpha": (ALL, 1.0, lambda p, u: kohya(p, "lora_unet_")),
    "kohya, original": (ALL, 0.5, original),
    "kohya, 1 × 1 as a matrix": (
        (ONE,),
        0.5,
        lambda p, u: {n: t.flatten(1) if t.ndim else t for n, t in kohya(p, "lora_unet_", 1.0).items()},
    ),
}


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


TEXT_LORAS: dict[str, Callable[[dict[str, tuple[Tensor, Tensor]]], State]] = {
    "diffusers": lambda p: named(p, "text_encoder.text_model.", "lora_A.weight", "lora_B.weight"),
    "peft": lambda p: named(p, "base_model.model.text_model.", "lora_A.default.weight", "lora_B.default.weight"),
    "bare": lambda p: named(p, "", "lora_A.weight", "lora_B.weight"),
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
        else named(of_unet, "unet.", "lora_A.weight", "lora_B.weight")
        | named(long, "text_encoder.", "lora_A.weight", "lora_B.weight")
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
    path = file(named(pairs, "transformer.", "lora_A.weight", "lora_B.weight"), tmp_path / "flux.safetensors", **about)
    assert overlay_unet(model, path).loaded == 3
    for module, tensor in expected.items():
        torch.testing.assert_close(weight(model, module), tensor)


def adapter(model: Any, folder: Path, rank: int = 4, **about: Any) -> Path:
    """What peft saves."""
    state = named(factors(model, KEY, CONV, rank=rank), "base_model.model.", "lora_A.weight", "lora_B.weight")
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
    before = fingerprint(base)
    path = adapter(base, tmp_path, **REFUSED[message])
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is not a pattern
        overlay_unet(base, path)
    assert message in str(caught.value)
    assert fingerprint(base) == before


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
        ValueError, match=r"holds nothing of the text encoder, but 2 tensors of the U-Net; give it as unet="
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


# Parts and variants


def sharded(model: Any, state: State, folder: Path, variant: str | None = None) -> Path:
    model.load_state_dict(state)
    model.save_pretrained(folder, max_shard_size="20KB", variant=variant)
    assert len(list(folder.glob("*.safetensors"))) > 1
    return folder


@pytest.mark.parametrize("variant", [None, "fp16"])
@pytest.mark.parametrize("by", ["folder", "index"])
def test_all_parts_that_an_index_names_are_read(
    by: str, variant: str | None, base: Any, erased: State, tmp_path: Path
) -> None:
    folder = sharded(unet(), erased, tmp_path, variant)
    (index,) = folder.glob("*.index*.json")
    assert variant is None or variant in index.name
    assert overlay_unet(base, folder if by == "folder" else index).counted == "208 of 208 tensors replaced"
    assert fingerprint(base) == fingerprint(erased)


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_parts_of_a_text_encoder(variant: str | None, text: Any, tmp_path: Path) -> None:
    other = text_encoder(300)
    with torch.no_grad():
        other.final_layer_norm.bias.add_(1)
    other.save_pretrained(tmp_path, max_shard_size="20KB", variant=variant)
    assert len(list(tmp_path.glob("model*-of-*.safetensors"))) > 1
    report = overlay_text_encoder(text, tmp_path)
    assert not report.partial
    assert fingerprint(text) == fingerprint(other)


def test_one_of_several_parts_is_refused(base: Any, erased: State, tmp_path: Path) -> None:
    folder, before = sharded(unet(), erased, tmp_path), fingerprint(base)
    part = sorted(folder.glob("*.safetensors"))[0]
    with pytest.raises(ValueError, match=r"is one of \d+ parts, .* must be the folder, where all parts are"):
        overlay_unet(base, part)
    next(iter(folder.glob("*.index.json"))).unlink()
    with pytest.raises(ValueError, match=r"is one of \d+ parts"):
        overlay_unet(base, folder)
    assert fingerprint(base) == before


def test_an_index_promises_what_its_files_have(base: Any, erased: State, tmp_path: Path) -> None:
    folder = sharded(unet(), erased, tmp_path)
    (index,) = folder.glob("*.index.json")
    listed = json.loads(index.read_text())
    listed["weight_map"]["conv_extra.weight"] = next(iter(listed["weight_map"].values()))
    index.write_text(json.dumps(listed))
    with pytest.raises(ValueError, match=r"names 1 tensors that are in none of its files, first 'conv_extra\.weight'"):
        overlay_unet(base, folder)


def test_a_folder_without_one_of_its_files_says_which_argument_it_is(base: Any, erased: State, tmp_path: Path) -> None:
    folder = sharded(unet(), erased, tmp_path)
    lost = sorted(folder.glob("*.safetensors"))[-1]
    lost.unlink()
    with pytest.raises(FileNotFoundError, match=rf"^unet = .*: names files that are not there: \['{lost.name}'\]"):
        overlay_unet(base, folder)


def several(folder: Path, *variants: str | None) -> dict[str | None, State]:
    """Weights of their own for every variant."""
    states: dict[str | None, State] = {}
    for number, variant in enumerate(variants):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(20 + number)
            model = unet()
        model.save_pretrained(folder, variant=variant)
        states[variant] = model.state_dict()
    return states


@pytest.mark.parametrize(
    ("there", "asked", "taken"),
    [
        (("fp16",), None, "fp16"),
        (("fp16",), "fp16", "fp16"),
        ((None, "fp16"), None, None),
        ((None, "fp16"), "fp16", "fp16"),
        ((None,), "fp16", None),
        (("fp16", "non_ema"), "non_ema", "non_ema"),
    ],
)
def test_the_variant_that_is_asked_for_or_the_only_one(
    there: tuple[str | None, ...], asked: str | None, taken: str | None, base: Any, tmp_path: Path
) -> None:
    states = several(tmp_path, *there)
    overlay_unet(base, tmp_path, variant=asked)
    assert fingerprint(base) == fingerprint(states[taken])


def test_of_several_variants_one_must_be_named(base: Any, tmp_path: Path) -> None:
    several(tmp_path, "fp16", "non_ema")
    with pytest.raises(
        ValueError, match=r"as the variants fp16, non_ema; must name one of them \(variant=, --variant\)"
    ):
        overlay_unet(base, tmp_path)


def test_a_pipeline_whose_weights_are_a_variant_alone_is_loaded(tmp_path: Path) -> None:
    folder = save_pipeline(tmp_path / "fp16", dtype=torch.float16)
    for path in folder.glob("*/*.safetensors"):
        path.rename(path.with_name(path.name.replace(".safetensors", ".fp16.safetensors")))
    pipe, named_ = load_pipeline(folder), load_pipeline(folder, variant="fp16")
    assert fingerprint(pipe.unet) == fingerprint(named_.unet)
    assert load_text_encoder(folder).fingerprint() == load_text_encoder(folder, variant="fp16").fingerprint()
    with pytest.raises(
        ValueError, match=r"variant = 'ema', of which text_encoder has no weights; must be one of 'fp16'"
    ):
        load_text_encoder(folder, variant="ema")
    for path in folder.glob("text_encoder/*.safetensors"):
        path.with_name("model.ema.safetensors").write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match=r"variant = None, of which text_encoder .* one of 'ema', 'fp16'"):
        load_text_encoder(folder)


def test_parts_that_lack_the_variant_are_taken_as_they_are(tmp_path: Path) -> None:
    folder = save_pipeline(tmp_path / "mixed")
    plain = folder / "unet" / "diffusion_pytorch_model.safetensors"
    plain.rename(plain.with_name("diffusion_pytorch_model.fp16.safetensors"))
    assert fingerprint(load_pipeline(folder, variant="fp16").unet) == fingerprint(load_pipeline(folder).unet)
    assert load_text_encoder(folder, variant="fp16").fingerprint() == load_text_encoder(folder).fingerprint()


# State dicts as trainers save them


def advunlearn(state: State) -> State:
    """A wrapper of the text encoder, and its parts once more under the wrapper's own names."""
    whole = {f"text_encoder.text_model.{name}": tensor for name, tensor in state.items()}
    again = {name.replace("embeddings.", "embedding."): tensor for name, tensor in state.items()}
    positions = torch.arange(16)[None]
    return {
        **whole,
        **again,
        "text_encoder.text_model.embeddings.position_ids": positions,
        "embedding.position_ids": positions,
    }


TEXTS: dict[str, Callable[[State], Any]] = {
    "AdvUnlearn": advunlearn,
    "CompVis": lambda s: {f"cond_stage_model.transformer.text_model.{n}": t for n, t in s.items()},
    "a transformer": lambda s: {f"transformer.text_model.{n}": t for n, t in s.items()},
    "parallel": lambda s: {"model_state_dict": {f"module.text_model.{n}": t for n, t in s.items()}, "epoch": 3},
    "of a pipeline": lambda s: {"text_encoder": OrderedDict(s), "optimizer": {"lr": 0.1}},
    "CLIP": lambda s: (
        {f"text_model.{n}": t for n, t in s.items()}
        | {"vision_model.post_layernorm.weight": torch.ones(3), "logit_scale": torch.tensor(1.0)}
    ),
}


@pytest.mark.parametrize("layout", TEXTS)
def test_text_encoders_as_trainers_save_them(layout: str, text: Any, erased_text: State, tmp_path: Path) -> None:
    report = overlay_text_encoder(text, pickled(TEXTS[layout](erased_text), tmp_path / "a.pt"))
    assert report.counted == "36 of 36 tensors replaced"
    got = {name.removeprefix("text_model."): tensor for name, tensor in text.state_dict().items()}
    assert fingerprint(got) == fingerprint(erased_text)


def test_a_tensor_that_is_there_twice_must_be_the_same(text: Any, erased_text: State, tmp_path: Path) -> None:
    state = advunlearn(erased_text)
    state["final_layer_norm.bias"] = state["final_layer_norm.bias"] + 1
    before = fingerprint(text)
    with pytest.raises(ValueError, match=r"has '.*final_layer_norm\.bias' under two names, .* with different numbers"):
        overlay_text_encoder(text, pickled(state, tmp_path / "a.pt"))
    assert fingerprint(text) == before


def test_openclips_layout_gets_a_hint(text: Any) -> None:
    state = {"cond_stage_model.model.transformer.resblocks.0.ln_1.bias": torch.ones(32)}
    with pytest.raises(
        ValueError, match="these are names of OpenCLIP's layout: convert it with diffusers or transformers"
    ):
        overlay_text_encoder(text, state)


def checkpoint(state: State, prefix: str = "model.diffusion_model.") -> State:
    names = compvis(state)
    return {f"{prefix}{ldm}": state[diffusers] for ldm, diffusers in names.items()}


UNETS: dict[str, tuple[Callable[[State], Any], dict[str, int]]] = {
    "CompVis": (checkpoint, {}),
    "CompVis, bare": (lambda s: checkpoint(s, ""), {}),
    "a CompVis checkpoint": (
        lambda s: {
            "state_dict": checkpoint(s)
            | {f"first_stage_model.{n}": torch.ones(1) for n in ("decoder.conv_in.bias", "encoder.conv_in.bias")}
            | {"cond_stage_model.transformer.text_model.final_layer_norm.bias": torch.ones(32)}
            | {
                "betas": torch.ones(3),
                "sqrt_one_minus_alphas_cumprod": torch.ones(3),
                "model_ema.decay": torch.ones(1),
            },
            "global_step": 7,
        },
        {"autoencoder": 2, "text encoder": 1, "noise schedule": 2, "moving average of the U-Net": 1},
    ),
    "state_dict": (lambda s: {"state_dict": s, "step": 3}, {}),
    "model": (lambda s: {"model": s, "optimizer": {"lr": 1.0}}, {}),
    "params": (lambda s: {"params": s}, {}),
    "unet": (lambda s: {"unet": OrderedDict(s), "epoch": 1}, {}),
    "each part": (
        lambda s: {"unet": s, "text_encoder": {"final_layer_norm.bias": torch.ones(32)}},
        {"text encoder": 1},
    ),
    "twice": (lambda s: {"state_dict": {"unet": s}}, {}),
    "parallel": (lambda s: {f"module.unet.{n}": t for n, t in s.items()}, {}),
    "compiled": (lambda s: {f"_orig_mod.{n}": t for n, t in s.items()}, {}),
}


@pytest.mark.parametrize("layout", UNETS)
def test_unets_as_trainers_save_them(layout: str, base: Any, erased: State, tmp_path: Path) -> None:
    make, others = UNETS[layout]
    report = overlay_unet(base, pickled(make(erased), tmp_path / "a.ckpt"))
    assert report.counted == "208 of 208 tensors replaced"
    assert dict(report.others) == others
    assert fingerprint(base) == fingerprint(erased)


def test_of_several_state_dicts_one_must_be_given(base: Any, erased: State, tmp_path: Path) -> None:
    path = pickled({"model": erased, "ema": erased, "step": 3}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"holds several state dicts, 'model', 'ema'; must hold one of them"):
        overlay_unet(base, path)


@pytest.mark.parametrize("prefix", ["", "unet."])
def test_esd_saves_a_state_dict_for_every_module(prefix: str, base: Any, erased: State, tmp_path: Path) -> None:
    modules: dict[str, OrderedDict[str, Tensor]] = {}
    for name, tensor in erased.items():
        if ".attn2." in name:
            module, _, leaf = name.rpartition(".")
            modules.setdefault(f"{prefix}{module}", OrderedDict())[leaf] = tensor
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    report = overlay_unet(base, pickled(modules, tmp_path / "esd.pt"))
    assert report.partial
    for name, tensor in base.state_dict().items():
        assert torch.equal(tensor, erased[name] if ".attn2." in name else before[name]), name


@pytest.mark.parametrize("key", ["a", "state_dict", "unet"])
def test_an_object_that_holds_itself_ends(key: str, base: Any, tmp_path: Path) -> None:
    loop: dict[str, Any] = {}
    loop[key] = loop
    with pytest.raises(ValueError, match="is a dict, must be a tensor"):
        overlay_unet(base, pickled(loop, tmp_path / "a.pt"))


def test_an_object_that_holds_itself_many_times_ends(base: Any, tmp_path: Path) -> None:
    loop: dict[str, Any] = {}
    loop |= {f"a{i}": loop for i in range(1000)}
    with pytest.raises(ValueError, match="holds more than 262,144 names"):
        overlay_unet(base, pickled(loop, tmp_path / "a.pt"))


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_original_layout_is_what_diffusers_reads(layers: int) -> None:
    """Against diffusers' own conversion, on blocks as Stable Diffusion has them."""
    from diffusers import UNet2DConditionModel
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    model = UNet2DConditionModel(
        sample_size=4,
        layers_per_block=layers,
        block_out_channels=(8, 16, 16),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    state = model.state_dict()
    converted = convert_ldm_unet_checkpoint(checkpoint(state), dict(model.config))
    assert fingerprint(converted) == fingerprint(state)


# Configurations


def described(state: State, folder: Path, change: dict[str, Any]) -> Path:
    model = unet()
    model.load_state_dict(state)
    model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text()) | change
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v != "left out"}))
    return folder


SAME: dict[str, dict[str, Any]] = {
    "off": {"upcast_attention": None},
    "a number for each": {"layers_per_block": [1, 1], "attention_head_dim": [4, 4], "cross_attention_dim": [32, 32]},
    "left out": {"upcast_attention": "left out", "act_fn": "left out", "use_linear_projection": "left out"},
    "spelled out": {"num_attention_heads": 4},
    "without effect": {"sample_size": 64, "_name_or_path": "x", "_diffusers_version": "0.6.0"},
}


@pytest.mark.parametrize("name", SAME)
@pytest.mark.parametrize("by", ["folder", "file"])
def test_configurations_that_mean_the_same(by: str, name: str, base: Any, erased: State, tmp_path: Path) -> None:
    folder = described(erased, tmp_path, SAME[name])
    overlay_unet(base, folder if by == "folder" else folder / "diffusion_pytorch_model.safetensors")
    assert fingerprint(base) == fingerprint(erased)


def test_a_configuration_of_something_else_is_not_read(base: Any, erased: State, tmp_path: Path) -> None:
    path = file(erased, tmp_path / "diffusion_pytorch_model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"lr": 1e-5, "attention_head_dim": 2}))
    assert not overlay_unet(base, path).partial


DIFFERENT: dict[str, dict[str, Any]] = {
    "attention_head_dim 2, base 4": {"attention_head_dim": 2},
    "attention_head_dim [4, 2], base 4": {"attention_head_dim": [4, 2]},
    "attention_head_dim 8, base 4": {"attention_head_dim": "left out"},  # the class's default
    "upcast_attention True, base False": {"upcast_attention": True},
    "flip_sin_to_cos None, base True": {"flip_sin_to_cos": None},
    "act_fn 'gelu', base 'silu'": {"act_fn": "gelu"},
}


@pytest.mark.parametrize("message", DIFFERENT)
@pytest.mark.parametrize("by", ["folder", "file"])
def test_configurations_that_do_not(by: str, message: str, base: Any, erased: State, tmp_path: Path) -> None:
    folder, before = described(erased, tmp_path, DIFFERENT[message]), fingerprint(base)
    with pytest.raises(ValueError, match="its configuration must be the base's, but ") as caught:
        overlay_unet(base, folder if by == "folder" else folder / "diffusion_pytorch_model.safetensors")
    assert message in str(caught.value)
    assert fingerprint(base) == before
