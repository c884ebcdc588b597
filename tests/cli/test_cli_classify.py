"""`certify classify`: a classifier of one's own on a labelled data set, killed and resumed, plotted and reported."""

from __future__ import annotations

import json
import re
import signal

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from certify import certified_accuracy, classify
from certify.datasets import ClassifiedRun, LabelledSet, RunRecord
from certify.report import run_page
from tests.cli.stopped import stopped

NETS = """
import torch

def half_space(z):
    return torch.stack([-z[:, 0], z[:, 0]], dim=1)

def net():
    return torch.nn.Linear(3, 2)

class Flat(torch.nn.Module):
    def forward(self, z):
        return half_space(z.flatten(1) - 0.5)

made, number, wrong = net(), 3, lambda: 1 / 0
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(NETS)
    x = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.uint8)
    y[3] = 1 - y[3]  # a wrong label
    np.savez_compressed(tmp_path / "few.npz", x=x, y=y[:, None])
    return tmp_path


def command(*more, data="few.npz", classifier="nets.py:half_space"):
    return ("classify", classifier, data, "--sigma", "0.5", "--n", "400", *more)


def lines(folder):
    found = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "sha256")} for line in found]


def test_a_data_set_with_its_curve_and_figure(run, place):
    code, out, err = run(*command("--out", "a"))
    assert code == 0, err
    said = " ".join(out.split())
    for piece in ("20 inputs, 400 draws each", "certified accuracy", "ℓ2 radius", "with another one", "Each input’s"):
        assert piece in said
    assert max(len(line) for line in out.splitlines() if "written" not in line) <= 80
    data = LabelledSet.load("few.npz")
    net = {}
    exec(NETS, net)
    row = lines(place / "a")[4]
    alone = classify(net["half_space"], data.inputs[4], 0.5, n=400, seed=row["seed"])
    assert (row["label"], row["radius"], row["l2_radius"]) == (alone.label, alone.rho, alone.radius)
    made = ClassifiedRun.of(RunRecord.load("a"))
    total = json.loads((place / "a" / "summary.json").read_text())
    assert total["inputs"] == 20
    assert total["right"] + (total["certified"] - total["right"]) + total["abstained"] == 20
    assert total["certified"] - total["right"] >= 1  # the wrong label
    for rho, length, share in total["certified_accuracy"]:
        assert length == 0.5 * rho
        assert (share,) == certified_accuracy(made.decisions, made.labels, [rho])
    assert (place / "a" / "accuracy.png").stat().st_size > 5000
    # The figure and the page, from the folder alone.
    assert run("plot", "a", "accuracy", "--out", "curve.svg")[0] == 0
    assert run("plot", "a", "fraction")[0] == 2
    assert run("report", "a")[0] == 0
    page = (place / "a" / "report.html").read_text()
    assert "Certified accuracy against radius" in page
    assert len(re.findall("<tr", page)) > 20
    assert f'<data value="{total["average_certified_radius"]!r}"' in page
    assert run_page(RunRecord.load("a"), folder="a") in (page, run_page(RunRecord.load("a"), folder="a"))


def test_killed_and_resumed_it_is_the_undisturbed_run(run, place):
    assert run(*command("--out", "whole", "--together", "4"))[0] == 0
    moment = {"certify.datasets.results:Results.append": 6}
    code, _, err = stopped(signal.SIGKILL, moment, *command("--out", str(place / "a"), "--together", "4"), cwd=place)
    assert code == -signal.SIGKILL, err
    assert len(lines(place / "a")) == 6
    code, out, _ = run(*command("--out", "a", "--together", "7"))
    assert (code, "6 of 20 inputs are done already" in out) == (0, True)
    assert lines(place / "a") == lines(place / "whole")
    code, _, err = run(*command("--out", "a", "--n0", "50"))
    assert (code, "another run (n0 differs)" in " ".join(err.split())) == (2, True)


def test_a_limit_is_gone_on_from_and_another_run_goes_elsewhere(run, place):
    for more, name, count in (
        (("--limit", "3"), "classify-few", 3),
        (("--limit", "5"), "classify-few", 5),
        (("--limit", "3", "--stop-at", "0.3"), "classify-few-2", 3),
        (("--limit", "3", "--fresh"), "classify-few-3", 3),
    ):
        code, out, err = run(*command(*more))
        assert (code, f"runs/{name}/" in out) == (0, True), err
        assert len(lines(place / "runs" / name)) == count


@pytest.mark.parametrize("classifier", ["nets.py:net", "nets:made", "nets.py:made", "nets:net"])
def test_a_module_or_what_makes_one_with_weights(run, place, classifier):
    save_file({"weight": torch.tensor([[-1.0, 0, 0], [1, 0, 0]]), "bias": torch.zeros(2)}, place / "w.safetensors")
    code, _, err = run(*command("--weights", "w.safetensors", "--out", "a", classifier=classifier))
    assert code == 0, err
    assert run(*command("--out", "b"))[0] == 0
    assert [row["radius"] for row in lines(place / "a")] == [row["radius"] for row in lines(place / "b")]
    assert RunRecord.load("a").settings["model"]
    assert RunRecord.load("b").settings["model"] is None


@pytest.mark.parametrize(
    ("classifier", "more", "said"),
    [
        ("nets.py:nothing", (), "it has no nothing"),
        ("nets.py:number", (), "must be a function or a module, is a int"),
        ("nets.py:wrong", (), "must be what can be called (ZeroDivisionError"),
        ("broken.py:f", (), "must be what can be imported (SyntaxError"),
        ("nets.py:half_space", ("--weights", "few.npz"), "must be left out for a function"),
        ("nets.py:net", ("--weights", "few.npz"), "must end in .safetensors"),
        ("nets.py:half_space", ("--size", "3"), "must be left out for a file"),
        ("nets.py:half_space", ("--classes", "3"), "must be (b, classes), 3 classes"),
    ],
)
def test_what_is_no_classifier_is_said_in_a_line(run, place, classifier, more, said):
    (place / "broken.py").write_text("def f(:\n")
    code, _, err = run(*command(*more, classifier=classifier))
    assert (code, said in " ".join(err.split()), "Traceback" in err) == (2, True, False), err
    assert not list(place.rglob("results.jsonl"))


def test_a_folder_of_images(run, place):
    for name, colour in (("dark", 20), ("light", 235)):
        (place / "images" / name).mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (6 + i, 9), (colour,) * 3).save(place / "images" / name / f"{i}.png")
    code, _, err = run(*command(data="images", classifier="nets.py:Flat"))
    assert (code, "must be of one size, or give" in " ".join(err.split())) == (2, True), err
    code, _, err = run(*command("--size", "4", "--out", "a", data="images", classifier="nets.py:Flat"))
    assert code == 0, err
    made = ClassifiedRun.of(RunRecord.load("a"))
    assert made.labels == (0, 0, 0, 1, 1, 1)
    assert [row.label for row in made.decisions] == [0, 0, 0, 1, 1, 1]


def test_uniform_noise_is_about_l1(run, place):
    code, out, err = run(*command("--noise", "uniform", "--out", "a"))
    assert (code, "ℓ1 radius" in out) == (0, True), err
    assert json.loads((place / "a" / "summary.json").read_text())["norm"] == "l1"
