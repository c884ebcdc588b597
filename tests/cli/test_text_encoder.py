"""`--text-encoder`: what is certified is the encoder with the overlay, named in the record, where `certify check` finds it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from certify import Certificate, cli
from certify.models import load_text_encoder


def _run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["certify", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


def test_the_overlay_is_certified_recorded_and_checked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    plain = load_text_encoder()
    source = torch.Generator().manual_seed(0)
    name, weight = next((n, t) for n, t in plain.text_encoder.state_dict().items() if "layers.1.mlp.fc2.weight" in n)
    save_file({name: weight + 0.05 * torch.randn(weight.shape, generator=source)}, tmp_path / "text.safetensors")

    text = ("a photo of a red circle", "--n", "300", "--text-only")
    assert _run(monkeypatch, "prompt", *text, "--text-encoder", "text.safetensors", "--out", "a") == 0
    provenance = Certificate.load(Path("a")).provenance
    assert provenance["source"]["text_encoder"] == "text.safetensors"
    assert plain.fingerprint() not in str(provenance["model"])

    assert _run(monkeypatch, "check", "a", "--n", "300", "--text-only") == 0  # finds the overlay by the record
    (tmp_path / "text.safetensors").unlink()
    assert _run(monkeypatch, "check", "a", "--n", "300", "--text-only") == 2


def test_without_an_overlay_the_record_says_nothing_of_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert _run(monkeypatch, "prompt", "a red circle", "--n", "300", "--text-only", "--out", "a") == 0
    assert "text_encoder" not in Certificate.load(Path("a")).provenance["source"]
