"""Runs of the interactive page with pipelines other than Stable Diffusion 1.x and 2.x: real classes, random weights."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import certify
from certify.app import Asked, JointModel, view
from certify.app.run import Run, Snapshot
from certify.confidence.anytime import anytime_limit
from certify.models.quiet import quiet_libraries
from tests.defence.pipelines import CALLS, built

PROMPT = "a photo of a red circle"
ASKED = Asked(
    prompt=PROMPT,
    concept="circle.csv",
    sigma0=0.45,
    k=3.0,
    replicas=3,
    rho=0.3,
    rho_deployed=0.1,
    n=300,
    images=6,
    alpha=1e-3,
    seed=0,
)


PAIRS = "positive,negative\na red circle,a red square\na photo of a circle,a photo of a cat\n"


def bright(images: Any) -> Any:
    """Fires on images whose first pixel is bright."""
    return images[:, :, 0, 0].mean(dim=1) > 0.5


@pytest.fixture(scope="module", autouse=True)
def _concept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A concept of few pairs, in a file of the working folder."""
    before, folder = Path.cwd(), tmp_path_factory.mktemp("joint")
    (folder / "circle.csv").write_text(PAIRS, encoding="utf-8")
    os.chdir(folder)
    with quiet_libraries():
        yield
    os.chdir(before)


def _model(name: str) -> JointModel:
    pipe = built(name)
    pipe.set_progress_bar_config(disable=True)
    safe = certify.defend(pipe, ["circle.csv"], call=CALLS[name])
    return JointModel(safe, source={"model": name, "unet": "w"}, detector_of=lambda _: bright, batch_size=32)  # type: ignore[arg-type,return-value]


@pytest.fixture(scope="module")
def flux(_concept: None) -> Iterator[tuple[JointModel, list[Snapshot]]]:
    model = _model("FluxPipeline")
    run = Run(model, ASKED)  # its files are there as long as it is
    yield model, list(run.start().watch(every=0.0))
    del run


def claims(certificate: Any) -> Any:
    return json.loads(certificate.to_json())["claims"]


def test_two_encoders_and_a_detector(flux: tuple[JointModel, list[Snapshot]], tmp_path: Any) -> None:
    _, seen = flux
    last = seen[-1]
    assert last.error == ""
    assert last.stage == "Done."
    assert last.known is not None
    assert [name for name, _ in last.known.encoders] == ["text_encoder", "text_encoder_2"]
    assert [len(row) for row in last.pairs] == [2, 2]
    assert all(image.startswith(b"\x89PNG") for row in last.pairs for image in row)
    assert [look.n for look in last.looks] == []  # 300 draws: the first look would be at 250, beyond two thirds
    assert last.count is not None
    assert last.count.n == 6
    assert last.count.limit == anytime_limit(last.count.successes, 6, 5e-4)
    assert set(last.files) == {"certificate", "page", "curve", "rate"}
    with zipfile.ZipFile(last.files["certificate"]) as archive:
        archive.extractall(tmp_path)
    kept = certify.Certificate.load(tmp_path)
    assert claims(kept) == claims(last.certificate)
    assert kept.provenance["source"] == {"model": "FluxPipeline", "unet": "w", "concepts": ["circle.csv"]}
    assert "text_encoder_2" in last.files["page"].read_text(encoding="utf-8")


def test_what_is_shown_names_every_encoder(flux: tuple[JointModel, list[Snapshot]]) -> None:
    last = flux[1][-1]
    tokens = view.tokens(last.known)
    assert tokens.count("<h4>") == 2
    assert tokens.count('class="token"') > 10
    assert "joined" not in tokens  # every word is one token
    assert "▁" not in tokens
    assert "shared out over 2 text encoders" in view.details(last.certificate)
    assert view.images(last).count("<img") == 4
    assert view.comparison(["A", "B"], [last, last]).count('class="claim"') == 2


def test_the_certificate_is_that_of_the_command(flux: tuple[JointModel, list[Snapshot]]) -> None:
    model, seen = flux
    safe = certify.defend(model.safe.pipe, ["circle.csv"], call=CALLS["FluxPipeline"], sigma0_relative=0.45, k=3.0, n=3)
    own: Any = {"rho": 0.3, "rho_deployed": 0.1, "n": 300, "images": 6, "detector": bright, "batch_size": 32}
    assert claims(seen[-1].certificate) == claims(safe.certify(PROMPT, **own))


def test_looks_come_in_and_a_video_has_no_images() -> None:
    model = _model("LTXPipeline")
    seen = list(Run(model, replace(ASKED, n=400)).start().watch(every=0.0))
    last = seen[-1]
    assert last.error == ""
    assert last.stage == "Done. Nothing is said about images: this pipeline makes none."
    assert [look.n for look in last.looks] == [250]
    assert last.pairs == ((), ())
    assert last.count is None
    assert last.certificate is not None
    assert last.certificate.provenance["source"]["unet"] is None
    assert any("<svg" in view.live(now, ASKED.alpha) for now in seen)
    assert "<h4>" not in view.tokens(last.known)


def test_two_settings_in_turn_are_as_each_alone(flux: tuple[JointModel, list[Snapshot]]) -> None:
    model, seen = flux
    other = replace(ASKED, prompt="a photo of a blue square", sigma0=0.2, images=0)
    both = [Run(model, ASKED).start(), Run(model, other).start()]
    first, second = (run.wait().certificate for run in both)
    assert claims(first) == claims(seen[-1].certificate)
    assert claims(second) == claims(Run(model, other, live=False).start().wait().certificate)


def test_a_run_is_stopped_and_what_is_wrong_is_said(flux: tuple[JointModel, list[Snapshot]]) -> None:
    model, _ = flux
    long = Run(model, replace(ASKED, n=100_000)).start()
    assert any(now.known for now in long.watch(every=0.0) if now.known or now.ended)
    long.stop()
    assert long.wait().stage == "Stopped: nothing is claimed."
    assert "no such concept" in Run(model, replace(ASKED, concept="no such concept")).start().wait().error
