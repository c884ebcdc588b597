"""The small random pipelines, loaded once. Tests that change a model load their own."""

from pathlib import Path
from typing import Any

import pytest

from certify.models import PromptEncoder, load_pipeline
from tests.pipelines import pipeline_folder, pipeline_folder_sd2

__all__ = ["pipeline_folder", "pipeline_folder_sd2"]


@pytest.fixture(scope="session")
def pipe(pipeline_folder: Path) -> Any:
    return load_pipeline(pipeline_folder)


@pytest.fixture(scope="session")
def encoder(pipe: Any) -> PromptEncoder:
    return PromptEncoder.from_pipeline(pipe)
