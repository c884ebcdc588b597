"""`--text-encoder`: what is certified is the encoder with the overlay, named in the record, where `certify check` finds it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from certify import Certificate
from certify.models import load_text_encoder

pytestmark = pytest.mark.usefixtures("no_figures")


def test_the_overlay_is_certified_recorded_and_checked(run, tmp_path):
    plain = load_text_encoder()
    source = torch.Generator().manual_seed(0)
    name, weight = next((n, t) for n, t in plain.text_encoder.state_dict().items() if "layers.1.mlp.fc2.weight" in n)
    save_file({name: weight + 0.05 * torch.randn(weight.shape, generator=source)}, tmp_path / "text.safetensors")

    text = ("a photo of a red circle", "--n", "300", "--text-only")
    assert run("prompt", *text, "--text-encoder", "text.safetensors", "--out", "a")[0] == 0
    provenance = Certificate.load(Path("a")).provenance
    assert provenance["source"]["text_encoder"] == "text.safetensors"
    assert plain.fingerprint() not in str(provenance["model"])

    check = ("check", "a", "--n", "300", "--text-only")
    assert run(*check)[0] == 2  # which is not believed unless the user says so
    assert run(*check, "--trust-names")[0] == 0
    (tmp_path / "text.safetensors").unlink()
    assert run(*check, "--trust-names")[0] == 2


def test_without_an_overlay_the_record_says_nothing_of_one(run):
    assert run("prompt", "a red circle", "--n", "300", "--text-only", "--out", "a")[0] == 0
    assert "text_encoder" not in Certificate.load(Path("a")).provenance["source"]
