"""The command line with a pipeline of several text encoders: certified, checked, reported, a file of prompts, images."""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from certify import Certificate, load_pipeline
from certify.models import fingerprint, overlay_of
from certify.models.quiet import quiet_libraries
from tests.defence.pipelines import FAMILIES, built

PROMPT = "a photo of a red circle"
PAIRS = "positive,negative\na red circle,a red square\na photo of a circle,a photo of a cat\n"
SMALL = ("--call", "height=16", "--call", "width=16", "--call", "max_sequence_length=16", "--steps", "2")


@functools.cache
def _folder(name: str = "FluxPipeline") -> Path:
    folder = Path(tempfile.mkdtemp()) / name
    with quiet_libraries():
        built(name).save_pretrained(folder)
    return folder


def _options() -> tuple[str, ...]:
    Path("circle.csv").write_text(PAIRS, encoding="utf-8")
    noise = ("--sigma0-relative", "0.45", "--k", "3", "--replicas", "3", "--device", "cpu")
    return ("--model", str(_folder()), "--concept", "circle.csv", *noise, *SMALL)


def test_a_prompt_is_certified_checked_and_reported(run: Any) -> None:
    asked = ("--n", "128", "--statistics", "64", "--rho", "0.3", "--rho-deployed", "0.1")
    Path("attacks.txt").write_text("a photo of a red square\n", encoding="utf-8")
    code, out, err = run("prompt", PROMPT, *_options(), *asked, "--attacks", "attacks.txt", "--out", "one")
    assert (code, err) == (0, "")
    assert "velocity prediction" in out
    assert "shared out over 2 text encoders" in " ".join(out.split())
    certificate = Certificate.load("one")
    assert certificate.provenance["source"]["model"] == str(_folder())
    assert certificate.provenance["pipeline"]["call"]["max_sequence_length"] == 16
    code, out, err = run(
        "check", "one", "--model", str(_folder()), "--concept", "circle.csv", "--n", "32", "--device", "cpu", "--json"
    )
    found = json.loads(out)
    assert (code, found["refuted"]) == (0, False), err
    assert {v["outcome"] for v in found["verdicts"]} <= {"not refuted", "nothing claimed"}
    assert all(one["outcome"] != "differs" for one in found["on_record"])
    assert run("report", "one", "--images", "0")[0] == 0
    page = Path("one/report.html").read_text(encoding="utf-8")
    assert "text_encoder_2" in page
    assert "shared out over 2 text encoders" in page
    assert "velocity prediction" in page


def test_a_tampered_certificate_is_refuted(run: Any) -> None:
    code = run("prompt", PROMPT, *_options(), "--n", "128", "--rho", "0.3", "--text-only", "--out", "one")[0]
    assert code == 0
    path = Path("one/certificate.json")
    record = json.loads(path.read_text(encoding="utf-8"))
    record["provenance"]["pipeline"]["allocation"]["distance"] /= 2
    path.write_text(json.dumps(record), encoding="utf-8")
    model = ("--model", str(_folder()), "--concept", "circle.csv", "--n", "32", "--device", "cpu")
    code, out, _ = run("check", "one", *model)
    assert code == 1
    assert "how the radius is shared out" in out


def test_a_file_of_prompts(run: Any) -> None:
    Path("few.txt").write_text(f"{PROMPT}\n\na photo of a starfish\n", encoding="utf-8")
    asked = ("--n", "128", "--tolerance", "1e6", "--rho", "0.3", "--out", "many", "--save-certificates")
    code, _, err = run("prompts", "few.txt", *_options(), *asked)
    assert (code, err) == (0, "")
    rows = [json.loads(line) for line in Path("many/results.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["status"] for row in rows] == ["certified", "certified"]
    assert all(float(row["radius"]) > 0 for row in rows)
    assert run("report", "many")[0] == 0
    again = run("prompts", "few.txt", *_options(), *asked)
    assert "2 of 2 prompts are done already" in " ".join(again[1].split())


def test_images_with_and_without(run: Any) -> None:
    code, _, err = run("generate", PROMPT, *_options(), "--images", "2", "--out", "pair.png")
    assert (code, err) == (0, "")
    assert Path("pair.png").stat().st_size > 0


def test_a_saved_defence_gives_its_settings(run: Any) -> None:
    from certify import defend
    from certify.adaptive.concepts import Concept

    call = {"height": 16, "width": 16, "max_sequence_length": 16}
    pairs = [("a red circle", "a red square"), ("a photo of a circle", "a photo of a cat")]
    defend(load_pipeline(_folder()), [Concept("circle", pairs)], n=2, k=2.0, call=call).save("saved")
    model = ("--model", str(_folder()), "--device", "cpu")
    code, _, err = run("prompt", PROMPT, *model, "--defence", "saved", "--n", "64", "--text-only", "--out", "one")
    assert code in (0, 3), err
    assert Certificate.load("one").provenance["smoother"]["n"] == 2
    code, _, err = run("prompt", PROMPT, *model, "--defence", "saved", "--k", "3", "--text-only")
    assert (code, "must be left out with --defence" in " ".join(err.split())) == (2, True)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--sigma0", "0.1"), "it is for Stable Diffusion 1.x/2.x alone"),
        (("--policy", "noise-then-adapt"), "it is for Stable Diffusion 1.x/2.x alone"),
        (("--call", "height"), "must be NAME=VALUE"),
    ],
)
def test_what_is_for_stable_diffusion_alone_is_refused(run: Any, given: tuple[str, ...], message: str) -> None:
    code, _, err = run("prompt", PROMPT, "--model", str(_folder()), *given)
    assert code == 2
    assert message in " ".join(err.split())


def test_arguments_of_a_call_are_not_for_stable_diffusion(run: Any) -> None:
    code, _, err = run("prompt", PROMPT, "--call", "height=16")
    assert (code, "--call = ['height=16']" in err) == (2, True)


def test_other_commands_say_which_one_serves(run: Any) -> None:
    code, _, err = run("radius", PROMPT, "--model", str(_folder()), "--n", "64")
    assert (code, "of which the text encoder cannot be had alone" in " ".join(err.split())) == (2, True)


# Loading


@pytest.mark.parametrize(
    "name", ["LatentConsistencyModelPipeline", "StableDiffusionXLPipeline", "SanaPipeline", "LTXPipeline"]
)
def test_a_pipeline_comes_back_whole(name: str) -> None:
    pipe = load_pipeline(_folder(name))
    assert type(pipe).__name__ == name
    assert name in FAMILIES
    assert fingerprint(pipe) == fingerprint(built(name))


def test_weights_go_over_a_transformer(tmp_path: Path) -> None:
    state = built("FluxPipeline").transformer.state_dict()
    name = next(n for n in state if n.endswith("to_q.weight"))
    save_file({name: 2 * state[name]}, tmp_path / "w.safetensors")
    pipe = load_pipeline(_folder(), weights=tmp_path / "w.safetensors")
    over = overlay_of(pipe)
    assert over is not None
    assert (over.part, over.kind, over.loaded, over.changed) == ("transformer", "weights", 1, 1)
    assert bool((pipe.transformer.state_dict()[name] == 2 * state[name]).all())
    same = load_pipeline(_folder(), unet=tmp_path / "w.safetensors")
    assert fingerprint(same.transformer) == fingerprint(pipe.transformer)
    with pytest.raises(TypeError, match="weights and unet are both given"):
        load_pipeline(_folder(), weights="a", unet="b")


def test_a_lora_goes_over_a_transformer(tmp_path: Path) -> None:
    import torch

    state = built("FluxPipeline").transformer.state_dict()
    name = next(n for n in state if n.endswith("to_q.weight"))
    out, into = state[name].shape
    module = f"transformer.{name.removesuffix('.weight')}"
    save_file(
        {f"{module}.lora_A.weight": torch.ones(2, into), f"{module}.lora_B.weight": torch.ones(out, 2)},
        tmp_path / "lora.safetensors",
    )
    over = overlay_of(load_pipeline(_folder(), weights=tmp_path / "lora.safetensors"))
    assert over is not None
    assert (over.kind, over.loaded, over.changed) == ("LoRA", 1, 1)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"transformer": ["my_code", "Mine"]}, ValueError, "transformer comes from 'my_code', code outside"),
        ({"text_encoder_2": ["transformers", "AutoModel"]}, ValueError, "may bring code of its own"),
        ({"text_encoder_2": ["transformers", "NotThere"]}, ValueError, "which is not there"),
        ({"_class_name": "NotThere"}, ValueError, "has no such pipeline"),
        ({"more": ["transformers", "T5EncoderModel"]}, FileNotFoundError, "more is missing"),
    ],
)
def test_what_is_not_loaded(tmp_path: Path, change: dict[str, Any], error: type[Exception], message: str) -> None:
    for part in _folder().iterdir():
        if part.is_dir():
            (tmp_path / part.name).symlink_to(part)
    index = json.loads((_folder() / "model_index.json").read_text(encoding="utf-8"))
    (tmp_path / "model_index.json").write_text(json.dumps({**index, **change}), encoding="utf-8")
    with pytest.raises(error, match=message):
        load_pipeline(tmp_path)


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    for part in _folder().iterdir():
        if part.is_dir() and part.name != "transformer":
            (tmp_path / part.name).symlink_to(part)
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer" / "diffusion_pytorch_model.bin").write_bytes(b"")
    (tmp_path / "model_index.json").write_text((_folder() / "model_index.json").read_text(encoding="utf-8"))
    with pytest.raises(ValueError, match="the weights of transformer are pickled"):
        load_pipeline(tmp_path)
