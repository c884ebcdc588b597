"""Certified and attacked curves of a victim: what is kept, that a run goes on, and what it refuses. A very small effort."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from certify import load_pipeline, world
from certify.plots import plot_event_rates
from experiments.defenses.ams import Settings
from experiments.soundness.images import ImageSystem
from experiments.tables import certified
from experiments.tables.certified import Curves, Effort, curves
from experiments.unlearning.concept import Concept

CIRCLE = Concept.embedded("circle", sentences=4)
SETTINGS = Settings(sigma0=None, n=2, **world.SMOOTHING)
PROMPTS = ["a red circle", "a green circle on a teal background"]
RHOS = (0.1, 0.4)
SMALL = Effort(n=64, ascent=1, images=2, choosing=4, counted=12, steps=2, seed=1)


def measured(folder: Path, **options: Any) -> Curves:
    return curves(None, CIRCLE, SETTINGS, PROMPTS, RHOS, folder, **({"effort": SMALL} | options))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Curves]:
    folder = tmp_path_factory.mktemp("curves")
    return folder, measured(folder)


def test_the_curves(done: tuple[Path, Curves]) -> None:
    """No attack beats the bound by more than chance: its lower limit at 95 % stays below, at every radius."""
    folder, found = done
    assert [p.rho for p in found.points] == list(RHOS)
    assert (found.bound.prompts, found.bound.replicas, found.bound.n) == (2, 2, 64)
    for p in found.points:
        assert p.bound == found.bound.at(p.rho)
        assert p.attacked == pytest.approx(sum(p.by_prompt) / 2)
        assert (p.successes, p.images) == (round(24 * p.attacked), 24)
        assert p.low <= p.attacked <= p.high
        assert p.low <= p.bound
        assert set(p.starts) <= set(certified.STARTS)
    assert len(list(folder.glob("bound/*.json"))) == 1
    assert len(list(folder.glob("attack/*.json"))) == 4
    assert plot_event_rates(found.bound, attacks=[found.attacks], largest=0.5).axes


def test_attacks_are_inside_the_ball_and_chosen_among_all(done: tuple[Path, Curves]) -> None:
    folder, _ = done
    for path in folder.glob("attack/*.json"):
        cell = json.loads(path.read_text())
        values, rhos = cell["values"], cell["asked"]["rhos"]
        assert values["size"] <= rhos[-1]
        assert len(values["chosen"]) == (3 if len(rhos) == 1 else 5)
        assert (values["start"] == "unperturbed") == (max(values["chosen"]) == values["chosen"][0])
        assert bool(torch.tensor(values["delta"]).any()) == (values["size"] > 0)


def test_what_was_measured_is_not_measured_again(done: tuple[Path, Curves], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, found = done

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(certified, "load_pipeline", refuse)
    assert measured(folder) == found
    with pytest.raises(AssertionError, match="the model was loaded"):
        measured(folder, effort=replace(SMALL, counted=13))


def test_a_file_that_is_gone_is_made_again(done: tuple[Path, Curves]) -> None:
    folder, found = done
    gone = next(p for p in folder.glob("attack/*.json") if json.loads(p.read_text())["asked"]["rhos"] == [0.1])
    text = gone.read_text()
    gone.unlink()
    told: list[str] = []
    assert measured(folder, progress=told.append) == found
    assert len(told) == 1
    assert gone.read_text() == text


def test_the_concept_of_another_head() -> None:
    """A style is seen by the judge's head for styles: the attack climbs that head's logits."""
    pipe = load_pipeline()
    system = ImageSystem(pipe, 2, 2.0, "style")
    embeds, noise = system.encoder.plain(["a red circle"]), system.latents(1, torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = system.judge(system.images(embeds, noise))["style"]
        torch.testing.assert_close(system.logits(embeds, noise), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompts": []}, r"prompts = \[\]: must be a list of prompts, none of them empty"),
        ({"prompts": ["a red circle", " "]}, "must be a list of prompts, none of them empty"),
        ({"prompts": "a red circle"}, "must be a list of prompts, none of them empty"),
        ({"settings": replace(SETTINGS, aggregate="mean")}, "aggregate 'mean': must be 'frozen' and 'median'"),
        ({"settings": replace(SETTINGS, policy="noise-then-adapt")}, "policy 'noise-then-adapt'"),
        ({"concept": Concept.of(["nudity"])}, "concept = 'nudity': must be a concept of an embedded world"),
        ({"rhos": (0.2, 0.1)}, "rhos = .*: must be a non-empty, strictly increasing list"),
    ],
)
def test_bad_calls(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    call = {"concept": CIRCLE, "settings": SETTINGS, "prompts": PROMPTS, "rhos": RHOS} | options
    with pytest.raises(ValueError, match=message):
        curves(None, call["concept"], call["settings"], call["prompts"], call["rhos"], tmp_path, effort=SMALL)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [({"ascent": 0}, "ascent = 0"), ({"confidence": 1.0}, r"confidence = 1\.0"), ({"guidance": 0}, "guidance = 0")],
)
def test_bad_efforts(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Effort(**options)
