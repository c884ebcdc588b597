"""The small random encoder and two concepts that it knows the words of."""

from pathlib import Path
from typing import Any

import pytest

from certify.adaptive import AdaptiveMedianSmoother, Concept
from certify.models import PromptEncoder, load_pipeline
from tests.pipelines import pipeline_folder

__all__ = ["pipeline_folder"]

CIRCLE = Concept("circle", [("a red circle", "a red square"), ("a photo of the coin", "a photo of the square")])
FISH = Concept("fish", [("a small starfish", "a small wheel"), ("the starfish", "the sunflower")])


@pytest.fixture(scope="session")
def pipe(pipeline_folder: Path) -> Any:
    return load_pipeline(pipeline_folder)


@pytest.fixture(scope="session")
def encoder(pipe: Any) -> PromptEncoder:
    return PromptEncoder.from_pipeline(pipe)


@pytest.fixture(scope="session")
def adaptive(pipe: Any) -> AdaptiveMedianSmoother:
    return AdaptiveMedianSmoother.from_pipeline(pipe, [CIRCLE, FISH])
