"""Overlays of an unlearned U-Net: what fits, what is refused, and that a refusal changes nothing."""

import json
import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from certify.models import fingerprint, load_pipeline, overlay_of, overlay_unet
from tests.pipelines import save_pickled, unet

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def erased() -> State:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return unet().state_dict()


@pytest.fixture
def base() -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return unet()


def _saved(state: State, path: Path) -> Path:
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    return path


def _folder(state: State, folder: Path) -> Path:
    model = unet()
    model.load_state_dict(state)
    model.save_pretrained(folder)
    return folder


def _torch_saved(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path


SOURCES: dict[str, Callable[[State, Path], Any]] = {
    "state dict": lambda s, d: s,
    "safetensors": lambda s, d: _saved(s, d / "erased.safetensors"),
    "prefixed": lambda s, d: _saved({f"unet.{k}": v for k, v in s.items()}, d / "erased.safetensors"),
    "compiled": lambda s, d: {f"_orig_mod.{k}": v for k, v in s.items()},
    "pt": lambda s, d: _torch_saved(s, d / "erased.pt"),
    "wrapped pt": lambda s, d: _torch_saved({"state_dict": s, "step": 3}, d / "erased.pt"),
    "half": lambda s, d: _saved({k: v.half() for k, v in s.items()}, d / "erased.safetensors"),
    "folder": lambda s, d: _folder(s, d / "folder"),
    "folder as str": lambda s, d: str(_folder(s, d / "folder")),
    "pipeline folder": lambda s, d: _folder(s, d / "unet") and (d / "model_index.json").write_text("{}") and d,
}


@pytest.mark.parametrize("kind", SOURCES)
def test_every_source_gives_the_same_unet(kind: str, base: Any, erased: State, tmp_path: Path) -> None:
    report = overlay_unet(base, SOURCES[kind](erased, tmp_path))
    assert (report.loaded, report.total, report.partial) == (len(erased), len(erased), False)
    tolerance = 1e-3 if kind == "half" else 0
    for name, tensor in base.state_dict().items():
        torch.testing.assert_close(tensor, erased[name], rtol=tolerance, atol=tolerance)


def test_sharded_folders(base: Any, erased: State, tmp_path: Path) -> None:
    model = unet()
    model.load_state_dict(erased)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert overlay_unet(base, tmp_path).loaded == len(erased)
    assert fingerprint(base) == fingerprint(erased)


@pytest.mark.parametrize(("number", "of"), [(0, 2), (1, 2), (1, 3)])
def test_one_file_of_several_is_warned_of(
    base: Any, erased: State, tmp_path: Path, caplog: pytest.LogCaptureFixture, number: int, of: int
) -> None:
    """A shard under another name: Python users heard nothing of it."""
    names = list(erased)[number * len(erased) // of : (number + 1) * len(erased) // of]
    save_file({name: erased[name].contiguous() for name in names}, tmp_path / "esd.safetensors")
    overlay_unet(base, tmp_path / "esd.safetensors")
    (warned,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert f"{len(names)} of {len(erased)} tensors replaced, as by one of several files" in warned


def test_cross_attention_alone_is_partial_and_says_so(
    base: Any, erased: State, caplog: pytest.LogCaptureFixture
) -> None:
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    part = {name: tensor for name, tensor in erased.items() if "attn2" in name}
    with caplog.at_level(logging.INFO, logger="certify.models.overlay"):
        report = overlay_unet(base, part)
    assert report.partial
    assert f"partial, {len(part)} of {len(erased)} tensors replaced" in caplog.text
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    for name, tensor in base.state_dict().items():
        assert torch.equal(tensor, part.get(name, before[name]))


def test_through_load_pipeline(pipeline_folder: Path, erased: State, tmp_path: Path) -> None:
    file = _saved(erased, tmp_path / "erased.safetensors")
    pipe = load_pipeline(pipeline_folder, unet=file, dtype="float64")
    report = overlay_of(pipe)
    assert report is not None
    assert (report.source, report.sha256) == (str(file), fingerprint(erased))
    assert {p.dtype for p in pipe.unet.parameters()} == {torch.float64}
    assert torch.equal(pipe.unet.conv_in.weight, erased["conv_in.weight"].double())


class _Harmful:
    def __reduce__(self) -> Any:
        return (print, ("this must never run",))


def _changed(state: State, name: str, tensor: Any) -> Any:
    return {**state, name: tensor}


def _pickled(content: Any, path: Path) -> Path:
    path.write_bytes(pickle.dumps(content, protocol=2))
    return path


def _config_changed(state: State, folder: Path) -> Path:
    _folder(state, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "attention_head_dim": 2}))
    return folder


def _two(state: State, folder: Path) -> Path:
    folder.mkdir()
    _saved(state, folder / "a.safetensors")
    _saved(state, folder / "b.safetensors")
    return folder


def _damaged(path: Path) -> Path:
    path.write_bytes(b"not safetensors")
    return path


BAD_OVERLAYS: dict[str, tuple[Callable[[State, Path], Any], type[Exception], str]] = {
    "missing file": (
        lambda s, d: d / "nothing.safetensors",
        FileNotFoundError,
        r"unet = '.*nothing\.safetensors': no such file or folder; looked for",
    ),
    "empty folder": (lambda s, d: d, FileNotFoundError, r"no weights in it; looked for .*safetensors"),
    "unknown suffix": (
        lambda s, d: _damaged(d / "x.zip"),
        ValueError,
        r"must end in \.safetensors, \.pt, \.pth, \.bin, \.ckpt, or be a folder",
    ),
    "damaged safetensors": (
        lambda s, d: _damaged(d / "x.safetensors"),
        ValueError,
        r"is not a readable safetensors file",
    ),
    "harmful pickle": (
        lambda s, d: _torch_saved({"conv_in.weight": _Harmful()}, d / "x.pt"),
        ValueError,
        r"is refused: it is pickled and holds more than tensors",
    ),
    "bare pickle": (lambda s, d: _pickled(_Harmful(), d / "x.ckpt"), ValueError, r"is refused: it is pickled"),
    "not a dict": (lambda s, d: _torch_saved([1], d / "x.pt"), ValueError, r"holds a list, must be a state dict"),
    "empty": (lambda s, d: {}, ValueError, r"holds no tensors"),
    "not a tensor": (lambda s, d: _changed(s, "step", 3), ValueError, r"'step' is a int, must be a tensor"),
    "unknown name": (
        lambda s, d: _changed(s, "conv_extra.weight", torch.zeros(1)),
        ValueError,
        r"1 of \d+ names are unknown to the base's U-Net, first 'conv_extra\.weight'; every name must be one of",
    ),
    "original layout": (
        lambda s, d: {"model.diffusion_model.input_blocks.90.0.weight": torch.zeros(1)},
        ValueError,
        r"original \(CompVis\) layout, of another U-Net than the base's",
    ),
    "LoRA": (
        lambda s, d: {"down.lora_A.weight": torch.zeros(1)},
        ValueError,
        r"of .down. there is not both of A \(down\) and B \(up\)",
    ),
    "shape": (
        lambda s, d: _changed(s, "conv_in.bias", torch.zeros(3)),
        ValueError,
        r"'conv_in\.bias' has shape \(3,\), must be \(8,\)",
    ),
    "NaN": (
        lambda s, d: _changed(s, "conv_in.bias", torch.full((8,), torch.nan)),
        ValueError,
        r"'conv_in\.bias' holds NaN or infinity, every entry must be finite",
    ),
    "another configuration": (
        lambda s, d: _config_changed(s, d / "f"),
        ValueError,
        r"its configuration must be the base's, but attention_head_dim 2, base 4",
    ),
    "several files": (
        lambda s, d: _two(s, d / "f"),
        ValueError,
        r"holds several weight files, .*; must name one of them",
    ),
    "a number": (lambda s, d: 7, TypeError, r"unet is a int: must be a path or a state dict"),
}


@pytest.mark.parametrize("name", BAD_OVERLAYS)
def test_bad_overlays_change_nothing(
    name: str, base: Any, erased: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, error, message = BAD_OVERLAYS[name]
    before = fingerprint(base)
    with pytest.raises(error, match=message):
        overlay_unet(base, source(erased, tmp_path))
    assert fingerprint(base) == before
    assert capsys.readouterr().out == ""


def test_a_pickled_pipeline_folder_as_overlay_is_read_weights_only(
    base: Any, pipeline_folder: Path, tmp_path: Path
) -> None:
    folder = save_pickled(tmp_path / "pickled", pipeline_folder, "unet")
    with pytest.raises(ValueError, match="holds no tensors"):  # the helper pickles an empty dict
        overlay_unet(base, folder)
