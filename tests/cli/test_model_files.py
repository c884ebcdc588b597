"""`--unet`, `--text-encoder`, `--variant`: what a file changed is printed and on record, and what it did not change is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from certify import Certificate, world
from certify.models import load_pipeline, load_text_encoder

pytestmark = pytest.mark.usefixtures("no_figures")

PROMPT = ("prompt", "a photo of a red circle", "--n", "300")
TEXT = (*PROMPT, "--text-only")
WHOLE = ("generate", "a red circle", "--images", "1", "--steps", "1")
LAYER = "encoder.layers.1.mlp.fc2"


def pair(weight: torch.Tensor, rank: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(0)
    return (
        0.1 * torch.randn(rank, *weight.shape[1:], generator=source),
        0.1 * torch.randn(len(weight), rank, *[1] * (weight.ndim - 2), generator=source),
    )


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA in kohya's layout, of U-Net and text encoder."""
    pipe, state = load_pipeline(), {}
    for prefix, module in (("lora_unet_", pipe.unet), ("lora_te_", pipe.text_encoder)):
        name = next(n for n in module.state_dict() if n.endswith(("attn2.to_k.weight", f"{LAYER}.weight")))
        down, up = pair(module.state_dict()[name])
        under = name.removesuffix(".weight").removeprefix("text_model.").replace(".", "_")
        under = under if prefix == "lora_unet_" else f"text_model_{under}"
        state |= {f"{prefix}{under}.lora_down.weight": down, f"{prefix}{under}.lora_up.weight": up}
        state[f"{prefix}{under}.alpha"] = torch.tensor(2.0)
    path = tmp_path_factory.mktemp("lora") / "both.safetensors"
    save_file(state, path)
    return path


def said(text: str) -> str:
    return " ".join(text.split())


def test_a_lora_is_applied_to_its_part_and_the_other_is_named(run: Any, both: Path) -> None:
    code, out = run(*WHOLE, "--unet", str(both), "--out", "a.png")[:2]
    assert code == 0
    assert f"U-Net: LoRA added to 1 of {len(load_pipeline().unet.state_dict())} tensors" in said(out)
    assert "not applied: 3 tensors of the text encoder in it; --text-encoder takes the same file" in said(out)
    code, out = run(*WHOLE, "--unet", str(both), "--text-encoder", str(both), "--out", "b.png")[:2]
    assert code == 0
    assert "text encoder: LoRA added to 1 of " in said(out)
    assert "not applied" not in out


def test_what_was_laid_over_is_on_record_and_checked(run: Any, both: Path) -> None:
    code, out = run(*TEXT, "--text-encoder", str(both), "--out", "a")[:2]
    assert code == 0
    assert "not applied: 3 tensors of the U-Net in it; --weights takes the same file" in said(out)
    model = Certificate.load(Path("a")).provenance["model"]
    (overlay,) = model["overlays"].values()
    total = len(load_text_encoder().text_encoder.state_dict())
    assert (overlay["kind"], overlay["tensors"], overlay["of"]) == ("LoRA", 1, total)
    assert overlay["others"] == {"U-Net": 3}
    assert str(both.parent) not in json.dumps(model)
    code, out = run("check", "a", "--n", "300", "--text-only", "--text-encoder", str(both))[:2]
    assert code == 0
    assert "text encoder: LoRA added to 1 of " in said(out)
    assert run("report", "a", "--images", "0")[0] == 0
    assert f"LoRA: 1 of {total} tensors" in Path("a/report.html").read_text(encoding="utf-8")


def test_the_bound_is_the_same_however_an_adapter_is_named(run: Any, tmp_path: Path) -> None:
    encoder = load_text_encoder().text_encoder
    name = next(n for n in encoder.state_dict() if n.endswith(f"{LAYER}.weight")).removesuffix(".weight")
    down, up = pair(encoder.state_dict()[f"{name}.weight"])
    folder = tmp_path / "lora"
    folder.mkdir()
    state = {f"base_model.model.{name}.lora_A.weight": down, f"base_model.model.{name}.lora_B.weight": up}
    save_file(state, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 16}))
    for out, source in (("a", folder), ("b", folder / "adapter_model.safetensors")):
        assert run(*TEXT, "--text-encoder", str(source), "--out", out)[0] == 0
    one, two = (Certificate.load(Path(out)) for out in ("a", "b"))
    assert [claim.value for claim in one.claims] == [claim.value for claim in two.claims]
    assert one.provenance["model"] == two.provenance["model"]


def test_one_part_of_several_is_refused_with_advice(run: Any, tmp_path: Path) -> None:
    load_pipeline().unet.save_pretrained(tmp_path / "unet", max_shard_size="1MB")
    part = sorted((tmp_path / "unet").glob("*-of-*.safetensors"))[0]
    code, _, error = run(*WHOLE, "--unet", str(part), "--out", "a.png")
    assert code == 2
    assert "must be the folder, where all parts are and the index that names them" in said(error)


def test_a_folder_of_one_variant_needs_no_name(run: Any, tmp_path: Path) -> None:
    source = Path(world.path())
    folder = tmp_path / "fp16"
    for path in source.rglob("*"):
        if path.is_file():
            name = path.name.replace(".safetensors", ".fp16.safetensors")
            target = folder / path.relative_to(source).with_name(name)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    smoothing = ("--sigma0", "0.01", "--k", "1", "--concept", "circle", "--model", str(folder))
    for out, more in (("a", ()), ("b", ("--variant", "fp16"))):
        assert run(*TEXT, *smoothing, *more, "--out", out)[0] == 0
        assert run("check", out, "--n", "300", "--text-only", "--trust-names")[0] == 0
    assert Certificate.load(Path("b")).provenance["source"]["variant"] == "fp16"
    code, _, error = run(*TEXT, *smoothing, "--variant", "ema", "--out", "c")
    assert code == 2
    assert "variant = 'ema', of which text_encoder has no weights; must be one of 'fp16'" in said(error)


def test_a_unet_that_is_not_used_is_not_on_record(run: Any) -> None:
    Path("never-read.safetensors").touch()
    code, out = run(*TEXT, "--unet", "never-read.safetensors", "--out", "a")[:2]
    assert code == 0
    assert "--weights is not used" in out
    assert Certificate.load(Path("a")).provenance["source"]["unet"] is None
