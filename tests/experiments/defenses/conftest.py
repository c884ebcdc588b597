"""The embedded pipeline, loaded once, and small random ones of both kinds of prediction."""

from __future__ import annotations

import pytest

from certify import load_pipeline
from tests.pipelines import pipeline_folder, pipeline_folder_sd2  # noqa: F401


@pytest.fixture(scope="session")
def world_pipe():
    return load_pipeline()
