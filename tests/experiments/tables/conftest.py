"""The small random pipelines and CLIP, for tables of a real model."""

from __future__ import annotations

from tests.experiments.metrics.test_metrics import clip
from tests.pipelines import pipeline_folder

__all__ = ["clip", "pipeline_folder"]
