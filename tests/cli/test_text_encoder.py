"""`--text-encoder`: what is certified is the encoder with the overlay, the record names it, and `certify check` finds it again."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from certify import Certificate, cli
from certify.models import load_text_encoder


def _run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["certify", *arguments])
    cli.main()


def test_the_overlay_is_certified_recorded_and_checked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    plain = load_text_encoder()
    source = torch.Generator().manual_seed(0)
    name, weight = next((n, t) for n, t in plain.text_encoder.state_dict().items() if "layers.1.mlp.fc2.weight" in n)
    save_file({name: weight + 0.05 * torch.randn(weight.shape, generator=source)}, tmp_path / "text.safetensors")

    text = ("a photo of a red circle", "--n", "300", "--text-only")
    _run(monkeypatch, "prompt", *text, "--text-encoder", "text.safetensors", "--out", "a")
    provenance = Certificate.load(Path("a")).provenance
    assert provenance["source"]["text_encoder"] == "text.safetensors"
    assert plain.fingerprint() not in str(provenance["model"])

    _run(monkeypatch, "check", "a", "--n", "300", "--text-only")  # finds the overlay by the record
    (tmp_path / "text.safetensors").unlink()
    with pytest.raises(SystemExit) as stop:
        _run(monkeypatch, "check", "a", "--n", "300", "--text-only")
    assert stop.value.code == 2


def test_without_an_overlay_the_record_says_nothing_of_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    _run(monkeypatch, "prompt", "a red circle", "--n", "300", "--text-only", "--out", "a")
    assert "text_encoder" not in Certificate.load(Path("a")).provenance["source"]
