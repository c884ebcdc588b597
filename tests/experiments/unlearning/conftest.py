"""The small random pipelines, ε and v, taken apart anew for every test: methods change them."""

from __future__ import annotations

from pathlib import Path

import pytest

from certify import load_pipeline
from experiments.unlearning.diffusion import Diffusion
from tests.pipelines import pipeline_folder, pipeline_folder_sd2

__all__ = ["pipeline_folder", "pipeline_folder_sd2"]


@pytest.fixture
def epsilon(pipeline_folder: Path) -> Diffusion:
    """A tiny model that predicts the noise."""
    return Diffusion(load_pipeline(pipeline_folder))


@pytest.fixture
def velocity(pipeline_folder_sd2: Path) -> Diffusion:
    """A tiny model that predicts the velocity."""
    return Diffusion(load_pipeline(pipeline_folder_sd2))


@pytest.fixture(params=["epsilon", "velocity"])
def tiny(request: pytest.FixtureRequest) -> Diffusion:
    """Each of them."""
    return request.getfixturevalue(request.param)
