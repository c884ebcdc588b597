"""Every method of `METHODS` keeps the contract of `contract.py`, and methods that break it are caught."""

from __future__ import annotations

import functools
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from certify import load_pipeline
from experiments.unlearning import METHODS, esd
from experiments.unlearning.concept import Concept
from experiments.unlearning.diffusion import Diffusion
from experiments.unlearning.measure import rates
from experiments.unlearning.method import Edit
from experiments.unlearning.training import TrainingLoop
from tests.experiments.unlearning import contract
from tests.experiments.unlearning.contract import CASES

LAYOUTS = ["pipeline_folder", "pipeline_folder_sd2"]
VARIANTS = [
    pytest.param(name, variant, id=f"{name}-{i}") for name in CASES for i, variant in enumerate(CASES[name].variants)
]
ERASING = [
    pytest.param(name, erasing, id=f"{name}-{erasing.concept}", marks=[pytest.mark.slow] if erasing.slow else [])
    for name in CASES
    for erasing in CASES[name].erasing
]


def test_every_method_has_a_case():
    assert set(CASES) == set(METHODS), "name it in CASES of tests/experiments/unlearning/contract.py"
    assert all(case.variants for case in CASES.values())
    assert [name for name, case in CASES.items() if not case.erasing] == ["race"]
    assert all(method.after in ("", *METHODS) for method in METHODS.values())
    for name, method in METHODS.items():
        assert isinstance(CASES[name].settings, method.settings)
        assert all(isinstance(method.embedded(kind), method.settings) for kind in ("object", "style"))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_changes_what_it_says(name, variant, layout, request):
    contract.changes_what_it_says(METHODS[name], CASES[name], variant, request.getfixturevalue(layout))


@pytest.mark.parametrize("name", METHODS)
def test_is_the_seeds(name, pipeline_folder):
    contract.is_the_seeds(METHODS[name], CASES[name], pipeline_folder)


@pytest.mark.parametrize(("name", "options"), [(name, given) for name in CASES for given in CASES[name].stopped])
def test_goes_on_where_it_stopped(name, options, pipeline_folder, tmp_path):
    contract.goes_on_where_it_stopped(METHODS[name], CASES[name], pipeline_folder, tmp_path, options)


@pytest.mark.parametrize("name", METHODS)
def test_writes_what_loads(name, pipeline_folder, tmp_path):
    contract.writes_what_loads(METHODS[name], CASES[name], pipeline_folder, tmp_path)


@functools.cache
def unedited(concept: str) -> float:
    return rates(load_pipeline(), Concept.embedded(concept), 24)["named"]


@pytest.mark.parametrize(("name", "erasing"), ERASING)
def test_erases(name, erasing, tmp_path):
    assert unedited(erasing.concept) >= 0.85
    contract.erases(METHODS[name], erasing, tmp_path / "out")


# Broken methods: ESD with one thing wrong

CASE = CASES["esd"]
Run = Any


def broken(run: Run) -> Any:
    return replace(esd.METHOD, run=run)


def idle(diffusion: Diffusion, concept: Concept, settings: Any, loop: TrainingLoop) -> Edit:
    return esd.erase(diffusion, concept, replace(settings, learning_rate=1e-30), loop)


def greedy(diffusion: Diffusion, concept: Concept, settings: Any, loop: TrainingLoop) -> Edit:
    edit = esd.erase(diffusion, concept, settings, loop)
    with torch.no_grad():
        diffusion.pipe.vae.post_quant_conv.bias.add_(1)
    return edit


def mistaken(diffusion: Diffusion, concept: Concept, settings: Any, loop: TrainingLoop) -> Edit:
    return esd.erase(diffusion, concept, replace(settings, parameters="selfattn"), loop)


def silent(diffusion: Diffusion, concept: Concept, settings: Any, loop: TrainingLoop) -> Edit:
    """Trains one weight more than it tells of."""
    edit = esd.erase(diffusion, concept, settings, loop)
    name = next(iter(edit.unet))
    return replace(edit, unet={n: p for n, p in edit.unet.items() if n != name})


def coarse(diffusion: Diffusion, concept: Concept, settings: Any, loop: TrainingLoop) -> Edit:
    edit = esd.erase(diffusion, concept, settings, loop)
    return replace(edit, unet={name: p.half() for name, p in edit.unet.items()})


def exploded(diffusion: Diffusion, concept: Concept, settings: Any, loop: TrainingLoop) -> Edit:
    edit = esd.erase(diffusion, concept, settings, loop)
    return replace(edit, unet={name: p / 0 for name, p in edit.unet.items()})


def global_randomness(diffusion: Diffusion, concept: Concept, settings: Any, loop: TrainingLoop) -> Edit:
    return esd.erase(diffusion, concept, settings, replace(loop, seed=random.randrange(10**6)))


@pytest.mark.parametrize("run", [idle, greedy, mistaken, silent, coarse, exploded, global_randomness])
def test_a_method_that_changes_something_else_is_caught(run, pipeline_folder):
    with pytest.raises(AssertionError):
        contract.changes_what_it_says(broken(run), CASE, CASE.variants[0], pipeline_folder)


def always_seed_0(diffusion: Diffusion, concept: Concept, settings: Any, loop: TrainingLoop) -> Edit:
    return esd.erase(diffusion, concept, settings, replace(loop, seed=0))


@pytest.mark.parametrize("run", [always_seed_0, global_randomness])
def test_a_method_that_is_not_its_seeds_is_caught(run, pipeline_folder):
    with pytest.raises(AssertionError):
        contract.is_the_seeds(broken(run), CASE, pipeline_folder)


def from_the_start(diffusion: Diffusion, concept: Concept, settings: Any, loop: TrainingLoop) -> Edit:
    return esd.erase(diffusion, concept, settings, replace(loop, folder=None))


def forgetful(diffusion: Diffusion, concept: Concept, settings: Any, loop: TrainingLoop) -> Edit:
    """Keeps a count of its own steps outside the checkpoint."""
    own: list[int] = []

    def count(stage: str, step: int, steps: int, loss: float) -> None:
        own.append(step)
        if loop.progress is not None:
            loop.progress(stage, step, steps, loss)

    edit = esd.erase(diffusion, concept, settings, replace(loop, progress=count))
    return replace(edit, unet={name: p * len(own) for name, p in edit.unet.items()})


@pytest.mark.parametrize("run", [from_the_start, forgetful])
def test_a_method_that_starts_again_is_caught(run, pipeline_folder, tmp_path):
    with pytest.raises(AssertionError):
        contract.goes_on_where_it_stopped(broken(run), CASE, pipeline_folder, tmp_path)


def other_shapes(diffusion: Diffusion, concept: Concept, settings: Any, loop: TrainingLoop) -> Edit:
    edit = esd.erase(diffusion, concept, settings, loop)
    return replace(edit, unet={name: p.unsqueeze(0) for name, p in edit.unet.items()})


def other_names(diffusion: Diffusion, concept: Concept, settings: Any, loop: TrainingLoop) -> Edit:
    edit = esd.erase(diffusion, concept, settings, loop)
    return replace(edit, unet={f"unet.{name}.new": p for name, p in edit.unet.items()})


@pytest.mark.parametrize("run", [other_shapes, other_names, global_randomness])
def test_a_result_that_does_not_load_is_caught(run, pipeline_folder: Path, tmp_path):
    with pytest.raises((AssertionError, ValueError)):
        contract.writes_what_loads(broken(run), CASE, pipeline_folder, tmp_path)
