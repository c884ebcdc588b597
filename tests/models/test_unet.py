"""Overlays of an unlearned U-Net, and masks: what fits, what is refused, and that a refusal changes nothing."""

import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from certify.models import fingerprint, load_pipeline, overlay_of, overlay_unet
from certify.models.masks import packed, unpacked
from tests.models.files import CONV, KEY, State, file, pickled, saved, unchanged, with_weights
from tests.pipelines import save_index, save_pickled, unet

SOURCES: dict[str, Callable[[State, Path], Any]] = {
    "state dict": lambda s, d: s,
    "safetensors": lambda s, d: file(s, d / "erased.safetensors"),
    "prefixed": lambda s, d: file({f"unet.{k}": v for k, v in s.items()}, d / "erased.safetensors"),
    "compiled": lambda s, d: {f"_orig_mod.{k}": v for k, v in s.items()},
    "pt": lambda s, d: pickled(s, d / "erased.pt"),
    "wrapped pt": lambda s, d: pickled({"state_dict": s, "step": 3}, d / "erased.pt"),
    "half": lambda s, d: file({k: v.half() for k, v in s.items()}, d / "erased.safetensors"),
    "folder": lambda s, d: saved(with_weights(unet(), s), d / "folder"),
    "folder as str": lambda s, d: str(saved(with_weights(unet(), s), d / "folder")),
    "pipeline folder": lambda s, d: saved(with_weights(unet(), s), save_index(d) / "unet").parent,
}


@pytest.mark.parametrize("kind", SOURCES)
def test_every_source_gives_the_same_unet(kind: str, base: Any, erased: State, tmp_path: Path) -> None:
    report = overlay_unet(base, SOURCES[kind](erased, tmp_path))
    assert (report.loaded, report.total, report.partial) == (len(erased), len(erased), False)
    tolerance = 1e-3 if kind == "half" else 0
    for name, tensor in base.state_dict().items():
        torch.testing.assert_close(tensor, erased[name], rtol=tolerance, atol=tolerance)


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
    path = file(erased, tmp_path / "erased.safetensors")
    pipe = load_pipeline(pipeline_folder, unet=path, dtype="float64")
    report = overlay_of(pipe)
    assert report is not None
    assert (report.source, report.sha256) == (str(path), fingerprint(erased))
    assert {p.dtype for p in pipe.unet.parameters()} == {torch.float64}
    assert torch.equal(pipe.unet.conv_in.weight, erased["conv_in.weight"].double())


class _Harmful:
    def __reduce__(self) -> Any:
        return (print, ("this must never run",))


def bytes_of(content: Any, path: Path) -> Path:
    path.write_bytes(pickle.dumps(content, protocol=2))
    return path


def _two(state: State, folder: Path) -> Path:
    folder.mkdir()
    file(state, folder / "a.safetensors")
    file(state, folder / "b.safetensors")
    return folder


def _damaged(path: Path) -> Path:
    path.write_bytes(b"not safetensors")
    return path


BAD_OVERLAYS: dict[str, tuple[Callable[[State, Path], Any], type[Exception], str]] = {
    "missing file": (
        lambda s, d: d / "nothing.safetensors", FileNotFoundError,
        r"unet = '.*nothing\.safetensors': no such file or folder; looked for",
    ),
    "empty folder": (lambda s, d: d, FileNotFoundError, r"no weights in it; looked for .*safetensors"),
    "unknown suffix": (
        lambda s, d: _damaged(d / "x.zip"), ValueError,
        r"must end in \.safetensors, \.pt, \.pth, \.bin, \.ckpt, or be a folder",
    ),
    "damaged safetensors": (
        lambda s, d: _damaged(d / "x.safetensors"), ValueError, r"is not a readable safetensors file",
    ),
    "harmful pickle": (
        lambda s, d: pickled({"conv_in.weight": _Harmful()}, d / "x.pt"), ValueError,
        r"is refused: it is pickled and holds more than tensors",
    ),
    "bare pickle": (lambda s, d: bytes_of(_Harmful(), d / "x.ckpt"), ValueError, r"is refused: it is pickled"),
    "not a dict": (lambda s, d: pickled([1], d / "x.pt"), ValueError, r"holds a list, must be a state dict"),
    "empty": (lambda s, d: {}, ValueError, r"holds no tensors"),
    "not a tensor": (lambda s, d: s | {"step": 3}, ValueError, r"'step' is a int, must be a tensor"),
    "unknown name": (
        lambda s, d: s | {"conv_extra.weight": torch.zeros(1)}, ValueError,
        r"1 of \d+ names are unknown to the base's U-Net, first 'conv_extra\.weight'; every name must be one of",
    ),
    "original layout": (
        lambda s, d: {"model.diffusion_model.input_blocks.90.0.weight": torch.zeros(1)}, ValueError,
        r"original \(CompVis\) layout, of another U-Net than the base's",
    ),
    "LoRA": (
        lambda s, d: {"down.lora_A.weight": torch.zeros(1)}, ValueError,
        r"of .down. there is not both of A \(down\) and B \(up\)",
    ),
    "shape": (
        lambda s, d: s | {"conv_in.bias": torch.zeros(3)}, ValueError,
        r"'conv_in\.bias' has shape \(3,\), must be \(8,\)",
    ),
    "NaN": (
        lambda s, d: s | {"conv_in.bias": torch.full((8,), torch.nan)}, ValueError,
        r"'conv_in\.bias' holds NaN or infinity, every entry must be finite",
    ),
    "another configuration": (
        lambda s, d: saved(with_weights(unet(), s), d / "f", attention_head_dim=2), ValueError,
        r"its configuration must be the base's, but attention_head_dim 2, base 4",
    ),
    "several files": (
        lambda s, d: _two(s, d / "f"), ValueError, r"holds several weight files, .*; must name one of them",
    ),
    "a number": (lambda s, d: 7, TypeError, r"unet is a int: must be a path or a state dict"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_OVERLAYS)
def test_bad_overlays_change_nothing(
    name: str, base: Any, erased: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, error, message = BAD_OVERLAYS[name]
    with unchanged(base), pytest.raises(error, match=message):
        overlay_unet(base, source(erased, tmp_path))
    assert capsys.readouterr().out == ""


def test_a_pickled_pipeline_folder_as_overlay_is_read_weights_only(
    base: Any, pipeline_folder: Path, tmp_path: Path
) -> None:
    folder = save_pickled(tmp_path / "pickled", pipeline_folder, "unet")
    with pytest.raises(ValueError, match="holds no tensors"):  # the helper pickles an empty dict
        overlay_unet(base, folder)


# Masks


def masks_of(model: Any) -> State:
    source = torch.Generator().manual_seed(3)
    weights = model.state_dict()
    return {n: torch.rand(weights[n].shape, generator=source) > 0.1 for n in (f"{KEY}.weight", f"{CONV}.bias")}


def mask_file(masks: State, path: Path) -> Path:
    bits, metadata = packed(masks)
    save_file(bits, path, metadata=metadata)
    return path


@pytest.mark.parametrize("kind", ["file", "tensors"])
def test_a_mask_multiplies_the_weights_and_leaves_the_others(kind: str, base: Any, tmp_path: Path) -> None:
    before = {name: t.clone() for name, t in base.state_dict().items()}
    masks = masks_of(base)
    report = overlay_unet(base, masks if kind == "tensors" else mask_file(masks, tmp_path / "mask.safetensors"))
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
    path = mask_file(masks_of(plain.unet), tmp_path / "mask.safetensors")
    masked = load_pipeline(pipeline_folder, unet=str(path))
    report = overlay_of(masked)
    assert report is not None
    assert (report.kind, report.source) == ("mask", str(path))
    assert fingerprint(masked.unet) != fingerprint(plain.unet)
    assert fingerprint(load_pipeline(pipeline_folder).unet) == fingerprint(plain.unet)


def test_bits_are_packed_eight_to_a_byte_and_come_back(base: Any) -> None:
    masks = masks_of(base) | {"odd": torch.tensor([[True, False, True]])}
    bits, metadata = packed(masks)
    assert bits["odd"].tolist() == [0b10100000]
    assert all(len(bits[n]) == -(-m.numel() // 8) and bits[n].dtype == torch.uint8 for n, m in masks.items())
    again = unpacked(bits, metadata)
    assert all(torch.equal(again[n], m) for n, m in masks.items())


def truncated(masks: State, path: Path) -> Path:
    bits, metadata = packed(masks)
    save_file({name: b[:-1] for name, b in bits.items()}, path, metadata=metadata)
    return path


BAD_MASKS: dict[str, tuple[Callable[[State, Path], Any], str]] = {
    "unknown name": (
        lambda m, p: mask_file(m | {"conv_extra.weight": torch.ones(2, dtype=torch.bool)}, p),
        r"names are unknown to the base's U-Net, first 'conv_extra\.weight'",
    ),
    "shape": (
        lambda m, p: mask_file(m | {f"{CONV}.bias": torch.ones(3, dtype=torch.bool)}, p),
        r"has shape \(3,\), must be \(8,\)",
    ),
    "bits": (truncated, r"unet = .*the bits of .* do not fit shape"),
}


@pytest.mark.parametrize("name", BAD_MASKS)
def test_bad_masks_change_nothing(name: str, base: Any, tmp_path: Path) -> None:
    make, message = BAD_MASKS[name]
    with unchanged(base), pytest.raises(ValueError, match=message):
        overlay_unet(base, make(masks_of(base), tmp_path / "mask.safetensors"))
