"""Overlays of a text encoder: every source gives the same model, part of one is partial, and a refusal changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from certify.models import fingerprint, load_pipeline, load_text_encoder, overlay_text_encoder, text_overlay_of
from tests.models.files import State, file, pickled, saved, short, unchanged
from tests.pipelines import text_encoder


def old(state: State) -> State:
    positions = {"text_model.embeddings.position_ids": torch.arange(16)[None]}
    return {f"text_model.{name}": t for name, t in state.items()} | positions


def model_of(state: State) -> Any:
    model = text_encoder(len(state["embeddings.token_embedding.weight"]))
    overlay_text_encoder(model, state)
    return model


TEXT_SOURCES: dict[str, Callable[[State, Path], Any]] = {
    "state dict": lambda s, d: s,
    "old prefix": lambda s, d: old(s),
    "safetensors, of a pipeline": lambda s, d: file(
        {f"text_encoder.{k}": v for k, v in s.items()}, d / "t.safetensors"
    ),
    "wrapped pt, old": lambda s, d: pickled({"state_dict": old(s), "step": 1}, d / "t.pt"),
    "folder": lambda s, d: saved(model_of(s), d / "folder"),
}


@pytest.mark.parametrize("kind", TEXT_SOURCES)
def test_every_source_gives_the_same_text_encoder(
    kind: str, erased_text: State, pipeline_folder: Path, tmp_path: Path
) -> None:
    encoder = load_text_encoder(pipeline_folder, text_encoder=TEXT_SOURCES[kind](erased_text, tmp_path))
    for name, tensor in short(encoder.text_encoder.state_dict()).items():
        assert torch.equal(tensor, erased_text[name]), name
    report = text_overlay_of(encoder)
    assert report is not None
    assert (report.loaded, report.partial) == (len(erased_text), False)


def test_a_pipeline_gets_the_text_encoder_and_keeps_its_unet(erased_text: State, pipeline_folder: Path) -> None:
    plain, pipe = (
        load_pipeline(pipeline_folder),
        load_pipeline(pipeline_folder, text_encoder=erased_text, dtype="float64"),
    )
    assert text_overlay_of(plain) is None
    assert text_overlay_of(pipe) is not None
    assert fingerprint(pipe.unet.float()) == fingerprint(plain.unet)
    assert {p.dtype for p in pipe.text_encoder.parameters()} == {torch.float64}
    assert fingerprint(short(pipe.text_encoder.float().state_dict())) == fingerprint(erased_text)


def test_some_layers_alone_are_partial(erased_text: State, pipeline_folder: Path) -> None:
    last = {name: t for name, t in erased_text.items() if "layers.1." in name}
    encoder = load_text_encoder(pipeline_folder, text_encoder=last)
    report = text_overlay_of(encoder)
    assert report is not None
    assert report.partial
    assert report.loaded == len(last) > 0
    first = short(load_text_encoder(pipeline_folder).text_encoder.state_dict())
    for name, tensor in short(encoder.text_encoder.state_dict()).items():
        assert torch.equal(tensor, last.get(name, first[name]))


BAD_TEXT: dict[str, tuple[Callable[[State, Path], Any], type[Exception], str]] = {
    "missing": (lambda s, d: d / "no.pt", FileNotFoundError, r"text_encoder = '.*no\.pt': no such file or folder"),
    "unknown name": (
        lambda s, d: s | {"extra.weight": torch.ones(1)}, ValueError,
        r"text_encoder = .*1 of \d+ names are unknown to the base's text encoder, first 'extra\.weight'",
    ),
    "shape": (
        lambda s, d: s | {"final_layer_norm.bias": torch.ones(3)}, ValueError,
        r"'final_layer_norm\.bias' has shape \(3,\), must be \(32,\)",
    ),
    "NaN": (lambda s, d: s | {"final_layer_norm.bias": torch.full((32,), torch.nan)}, ValueError, r"NaN or infinity"),
    "positions alone": (
        lambda s, d: {"text_model.embeddings.position_ids": torch.arange(16)}, ValueError,
        r"holds nothing of the text encoder, but position numbers alone",
    ),
    "another activation": (
        lambda s, d: saved(model_of(s), d / "f", hidden_act="relu"), ValueError,
        r"its configuration must be the base's, but hidden_act 'relu', base 'quick_gelu'",
    ),
    "a number": (lambda s, d: 7, TypeError, r"text_encoder is a int: must be a path or a state dict"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_TEXT)
def test_bad_text_encoders_change_nothing(name: str, text: Any, erased_text: State, tmp_path: Path) -> None:
    make, error, message = BAD_TEXT[name]
    with unchanged(text), pytest.raises(error, match=message):
        overlay_text_encoder(text, make(erased_text, tmp_path))
