"""Files that are as they should be, and the small model that some of them are about."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import run
from tests.hostile.corpus import Watched
from tests.models.conftest import encoder, pipe
from tests.pipelines import pipeline_folder

__all__ = ["encoder", "pipe", "pipeline_folder", "run"]


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path)
