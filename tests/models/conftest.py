"""The small random pipelines, loaded once, and models to lay weights over. Tests that change a pipeline load their own."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from certify.models import PromptEncoder, load_pipeline
from tests.models.files import State, short
from tests.pipelines import pipeline_folder, pipeline_folder_sd2, text_encoder, unet, vocabulary

__all__ = ["pipeline_folder", "pipeline_folder_sd2"]


@pytest.fixture(scope="session")
def pipe(pipeline_folder: Path) -> Any:
    return load_pipeline(pipeline_folder)


@pytest.fixture(scope="session")
def encoder(pipe: Any) -> PromptEncoder:
    return PromptEncoder.from_pipeline(pipe)


def _seeded(seed: int) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return unet()


@pytest.fixture(scope="session")
def _models() -> tuple[Any, Any]:
    return _seeded(0), text_encoder(len(vocabulary()[0]))


@pytest.fixture
def base(_models: tuple[Any, Any]) -> Any:
    """A U-Net, to be changed."""
    return copy.deepcopy(_models[0])


@pytest.fixture
def text(_models: tuple[Any, Any]) -> Any:
    """A text encoder, to be changed."""
    return copy.deepcopy(_models[1])


@pytest.fixture(scope="session")
def erased() -> State:
    """Another U-Net's weights."""
    return _seeded(7).state_dict()


@pytest.fixture(scope="session")
def erased_text(_models: tuple[Any, Any]) -> State:
    """Another text encoder's weights, by their short names."""
    source = torch.Generator().manual_seed(5)
    return short({n: t + 0.1 * torch.randn(t.shape, generator=source) for n, t in _models[1].state_dict().items()})
