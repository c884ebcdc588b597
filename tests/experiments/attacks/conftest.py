"""The small random pipelines, for attacks."""

from __future__ import annotations

from tests.pipelines import pipeline_folder, pipeline_folder_sd2

__all__ = ["pipeline_folder", "pipeline_folder_sd2"]
