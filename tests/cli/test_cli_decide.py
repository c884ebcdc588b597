"""`certify decide`, and certificates that several processes draw under torchrun."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from certify.cli import commands
from tests.processes import forked

PROMPT = "a photo of a red circle"


def test_decide_says_yes_and_what_it_saved(run):
    code, out, _ = run("decide", PROMPT, "--rho", "1", "--n", "20000")
    assert code == 0
    assert "? Yes." in out
    drawn, most, saved = re.search(r"([\d,]+) draws of at most ([\d,]+): ([\d.]+)\s% saved", out).groups()
    drawn, most = int(drawn.replace(",", "")), int(most.replace(",", ""))
    assert most == 20_000
    assert drawn < most / 10
    assert float(saved) == pytest.approx(100 * (1 - drawn / most), abs=0.1)
    assert max(map(len, out.splitlines())) <= 80


def test_decide_says_no_where_no_number_of_draws_would_do(run):
    code, out, _ = run("decide", PROMPT, "--rho", "1", "--tolerance", "20", "--n", "20000")
    assert code == 1
    said = " ".join(out.split())
    assert "Can the coordinate-wise bound (T2) certify that the median-smoothed text encoding stays " in said
    assert "? No." in said
    assert "it does not mean that a perturbation moves the smoothed text encoding further." in said


def test_decide_about_images(run):
    code, out, _ = run("decide", PROMPT, "--rho", "1", "--rate", "0.5", "--n", "320", "--steps", "1", "--guidance", "1")
    assert code == 1
    assert "image shows circle" in " ".join(out.split())
    assert "? No." in " ".join(out.split())
    assert "it does not mean that a perturbation takes the probability above 50" in " ".join(out.split())


def test_decide_about_images_by_several_of_each_draw(run):
    """T5 cannot: the copies would have to decide everything. The exit code is that of its answer."""
    how = ("--rate", "0.9", "--rho", "0.3", "--n", "1000", "--steps", "1", "--guidance", "1")
    code, out, _ = run("decide", PROMPT, *how)
    said = " ".join(out.split())
    assert code == {"Yes": 0, "No": 1}[re.search(r"δ‖_Σ ≤ 0.3\? (\w+)\.", said)[1]]
    assert re.search(r"[\d,]+ values of pilot draws \(T(14, repeats|5, replicas)\)", said)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--rate", "0.5", "--tolerance", "3"), "must be one of them"),
        (("--rate", "1.5"), "--rate = 1.5"),
        (("--tolerance", "-1"), "tolerance = -1"),
    ],
)
def test_bad_calls(run, arguments, message):
    code, _, err = run("decide", PROMPT, *arguments)
    assert code == 2
    assert message in err


def test_one_process_is_asked_for_where_only_one_can(run, monkeypatch):
    monkeypatch.setattr(commands, "together", contextlib.nullcontext)
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, err = run("decide", PROMPT)
    assert code == 2
    assert "certify decide needs a single process: WORLD_SIZE = 2" in err


def test_two_processes_write_the_certificate_of_one(tmp_path: Path):
    """Two real processes under torchrun; one of them speaks and writes."""
    call = ["prompt", PROMPT, "--text-only", "--n", "1500", "--batch-size", "128", "--out"]
    alone = forked("certify", *call, "one", cwd=tmp_path)
    start = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",  # at a port that is free
        "--nproc-per-node",
        "2",
        "-m",
        "--",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "80"}
    command = [*start, "certify", *call, "two"]
    together = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    for done in (alone, together):
        assert done.returncode == 0, done.stderr[-3000:]
    first, second = (json.loads((tmp_path / name / "certificate.json").read_text()) for name in ("one", "two"))
    assert first["claims"] == second["claims"]
    assert first["tensors_sha256"] == second["tensors_sha256"]
    assert together.stdout.count("written: two/") == 1
    assert sorted(f.name for f in (tmp_path / "two").iterdir()) == sorted(f.name for f in (tmp_path / "one").iterdir())
    assert sorted(f.name for f in tmp_path.iterdir()) == ["one", "two"]
