"""Files that are as they should be, and the small model that some of them are about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from certify.models import PromptEncoder, load_pipeline
from tests.cli.conftest import run
from tests.hostile.corpus import Watched
from tests.pipelines import pipeline_folder

__all__ = ["pipeline_folder", "run"]


@pytest.fixture(scope="session")
def pipe(pipeline_folder: Path) -> Any:
    return load_pipeline(pipeline_folder)


@pytest.fixture(scope="session")
def encoder(pipe: Any) -> PromptEncoder:
    return PromptEncoder.from_pipeline(pipe)


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path)
