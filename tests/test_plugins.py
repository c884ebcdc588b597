"""Plug-ins: what eval-unlearn finds of the package, and what it gets; with eval-unlearn itself where it is installed."""

from __future__ import annotations

import json
import tomllib
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from certify import Certificate
from certify.plugins.eval_unlearn import CertifiedRate, DefendedTechnique

ROOT = Path(__file__).parents[1]
QUICK = {"erase_concept": "circle", "num_inference_steps": 2, "device": "cpu"}
RATE = QUICK | {"images": 12, "n": 64, "prompts": ["a photo of a red circle", "a blue square"]}


def test_entry_points_lead_to_the_classes():
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]
    found = {
        name: getattr(import_module(place.partition(":")[0]), place.partition(":")[2])
        for group in ("eval_unlearn.techniques", "eval_unlearn.metrics")
        for name, place in groups[group].items()
    }
    assert found == {"certify": DefendedTechnique, "certified_rate": CertifiedRate}


def test_the_seed_decides_latents_and_never_the_smoothing_noise(monkeypatch):
    technique = DefendedTechnique(**QUICK)
    begun = []
    own = technique.safe.pipe.prepare_latents

    def watched(*args, **kwargs):
        begun.append(own(*args, **kwargs))
        return begun[-1]

    monkeypatch.setattr(technique.safe.pipe, "prepare_latents", watched)
    first, second = (technique.generate(["a red circle"] * 2, seed=7) for _ in range(2))
    assert all(isinstance(image, Image.Image) for image in first)
    assert torch.equal(begun[0], begun[2])  # the same initial noise
    assert torch.equal(begun[1], begun[3])
    assert not torch.equal(begun[0], begun[1])
    assert not np.array_equal(np.asarray(first[0]), np.asarray(second[0]))  # another smoothing noise


def test_the_metric_is_the_mean_of_the_certified_rates(tmp_path):
    metric = CertifiedRate(**RATE, certificates=str(tmp_path))
    images = [Image.new("RGB", (32, 32), "white")] * 3
    metric.update(images, [*RATE["prompts"], ""], {})
    rows = metric._rows
    assert [row["in_image"] for row in rows] == [False] * 3
    for row, name in zip(rows, ("0001", "0002"), strict=False):
        claim = Certificate.load(tmp_path / name).headline
        assert claim.quantity == "event"
        assert row["bound"] == (claim.value if claim.status == "certified" else 1.0)
        assert claim.rho == 0.25
    assert (rows[2]["status"], rows[2]["bound"]) == ("refused", 1.0)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"erase_concept": "circle", "guidance": 2.0}, "has no option 'guidance'"),
        ({"erase_concept": ""}, "must name a concept"),
        ({"erase_concept": "circel"}, "circel"),
        (QUICK | {"prompts": []}, "must be prompts"),
        (QUICK | {"prompts": ["x"], "rho": 0}, "rho = 0"),
        (QUICK | {"prompts": ["x"], "images": 0}, "images = 0"),
        ({"erase_concept": "nudity", "model_id": "a/b", "detector": None, "prompts": [], "limit": 0}, "limit = 0"),
        ({"erase_concept": "violence", "model_id": "a/b", "prompts": ["x"]}, "must name what looks for"),
    ],
)
def test_wrong_configurations_are_refused_by_name_before_anything_is_loaded(config, message):
    with pytest.raises((TypeError, ValueError, FileNotFoundError), match=message):
        CertifiedRate(**config)


def test_eval_unlearn_runs_both(tmp_path):
    """With the benchmark's own runner, which finds them by the entry points of the installed package."""
    runners = pytest.importorskip("eval_unlearn.runners", reason="eval-unlearn is not installed")
    from importlib.metadata import entry_points

    if "certified_rate" not in {point.name for point in entry_points(group="eval_unlearn.metrics")}:
        pytest.skip("certify is installed without its entry points: install it again")
    runner = runners.SingleBenchmarkRunner(
        "certify", "certified_rate", dict(QUICK), dict(RATE), output_dir=str(tmp_path), seed=3
    )
    report = runner.run()
    result = report["metric_result"]
    bounds = [row["bound"] for row in result["details"]["prompts"]]
    assert (result["name"], report["erase_concept"]) == ("certified_rate", "circle")
    assert result["value"] == pytest.approx(sum(bounds) / 2)
    assert len(list(tmp_path.rglob("*.png"))) == 2
    written = [json.loads(path.read_text()) for path in tmp_path.rglob("*_report.json")]
    assert written[0]["metric_result"]["value"] == result["value"]
