"""Files as people have them: parts, variants, state dicts of trainers and configurations; what cannot be followed is named."""

from __future__ import annotations

import copy
import json
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from certify.models import fingerprint, load_pipeline, load_text_encoder, overlay_text_encoder, overlay_unet
from certify.models.names import compvis
from tests.models.files import State, file, pickled, saved, unchanged, with_weights
from tests.pipelines import save_pipeline, unet

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
    other = copy.deepcopy(text)
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
    with (
        unchanged(text),
        pytest.raises(ValueError, match=r"has '.*final_layer_norm\.bias' under two names, .* with different numbers"),
    ):
        overlay_text_encoder(text, pickled(state, tmp_path / "a.pt"))


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
        lambda s: {"unet": s, "text_encoder": {"final_layer_norm.bias": torch.ones(32)}}, {"text encoder": 1},
    ),
    "twice": (lambda s: {"state_dict": {"unet": s}}, {}),
    "parallel": (lambda s: {f"module.unet.{n}": t for n, t in s.items()}, {}),
    "compiled": (lambda s: {f"_orig_mod.{n}": t for n, t in s.items()}, {}),
}  # fmt: skip


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
    return saved(with_weights(unet(), state), folder, **change)


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
