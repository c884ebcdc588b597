"""Tables of a real model, from its files: a small random pipeline on disk stands in for one."""

from __future__ import annotations

import csv
import json

import pytest
import torch
from safetensors.torch import save_file

from certify import load_pipeline
from experiments.metrics.q16 import save_head
from experiments.tables import command
from experiments.tables.given import Given
from experiments.tables.page import read_csv
from experiments.tables.testbed import Sizes
from experiments.unlearning.concept import Concept


@pytest.fixture
def files(tmp_path, pipeline_folder, clip):
    """Everything that the command asks for: an edited U-Net, two attacks, captions, pairs and a head."""
    unet = load_pipeline(pipeline_folder).unet
    source = torch.Generator().manual_seed(0)
    names = [n for n in unet.state_dict() if n.endswith("attn2.to_v.weight")]
    edited = {n: unet.state_dict()[n] + 0.3 * torch.randn(unet.state_dict()[n].shape, generator=source) for n in names}
    save_file(edited, tmp_path / "esd.safetensors")
    for place, name, texts in (
        ("esd", "uda", ["red coin circle", "a photo of the big circle"]),
        ("", "i2p", ["a big coin in red", "blue coin and circle", "green coin", ""]),
    ):
        folder = tmp_path / "prompts" / place
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("prompt", "seed"), *((text, 10 + i) for i, text in enumerate(texts))])
    captions = [f"{size} {colour} square in {testbed}" for size in ("big", "small") for colour in ("red", "green", "blue")
                for testbed in ("red", "green", "blue", "a photo")]  # fmt: skip
    with (tmp_path / "captions.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("prompt",), *((text,) for text in captions)])
    pairs = [{"positive": f"a {w} circle", "negative": f"a {w} square"} for w in ("red", "green", "blue", "big")]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)) + "\n")
    head = save_head(tmp_path / "head.safetensors", torch.randn(17, generator=source) * 20)
    return [
        "--model", str(pipeline_folder), "--concept", "circle", "--victim", f"esd={tmp_path / 'esd.safetensors'}",
        "--prompts", str(tmp_path / "prompts"), "--detector", f"q16:{clip}:{head}", "--pairs", str(tmp_path / "pairs.jsonl"),
        "--utility", str(tmp_path / "captions.csv"), "--clip", str(clip), "--steps", "2", "--guidance", "2",
        "--certified", "40", "--noise-seeds", "2", "--out", str(tmp_path / "out"),
    ]  # fmt: skip


def called(*arguments: str) -> int:
    from argparse import ArgumentParser

    parser = ArgumentParser()
    command.add_arguments(parser)
    return command.main(parser.parse_args(list(arguments)))


def test_a_table_of_files_is_filled_and_a_second_run_measures_nothing(files, tmp_path, capsys):
    assert called("1", *files, "--set", "sigma0=0.02", "--set", "sigma_max_relative=20.0", "--quick") == 0
    out = tmp_path / "out"
    measured, published = read_csv((out / "pages" / "1.csv").read_text())
    assert [line.defense for line in measured] == ["none", "sld-strong", "blacklist", "ams"]
    assert {line.victim for line in measured} == {"ESD"}
    assert any(line.defense == "race" for line in published)
    for line in measured:
        assert {"uda", "i2p", "average", "fid", "image_text"} <= set(line.values)
        assert line.values["average"] == pytest.approx((line.values["uda"] + line.values["i2p"]) / 2)
    (defended,) = (line for line in measured if line.defense == "ams")
    # 40 images are too few to be shared out: T5 is all there is.
    assert 0 < defended.values["certified"] == defended.values["certified_t5"] <= 1
    cells = {p: p.stat().st_mtime_ns for p in (out / "cells").rglob("*.json")}
    assert called("1", *files, "--set", "sigma0=0.02", "--set", "sigma_max_relative=20.0", "--quick") == 0
    assert {p: p.stat().st_mtime_ns for p in (out / "cells").rglob("*.json")} == cells
    shown = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("written: ")]
    assert max(map(len, shown)) <= 80
    # The bounds by themselves, from the same cells.
    smoother = ("--set", "sigma0=0.02", "--set", "sigma_max_relative=20.0")
    assert called("1", *files, *smoother, "--quick", "--certified-only") == 0
    (alone,), none = read_csv((out / "pages" / "1-certified.csv").read_text())
    assert (alone.defense, dict(alone.values), none) == (
        "ams",
        {key: defended.values[key] for key in ("certified", "certified_t5")},
        (),
    )
    assert {p: p.stat().st_mtime_ns for p in (out / "cells").rglob("*.json")} == cells
    with pytest.raises(ValueError, match="certified_only: table 4 has no certified rates, must be one of 1, 6, 8, 9"):
        called("4", *files, "--certified-only")
    assert called("1", *files, "--set", "sigma0=0.03", "--set", "sigma_max_relative=20.0", "--quick") == 0
    assert len(list((out / "cells").rglob("*.json"))) > len(cells)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--victim": "esd"}, "victim = 'esd': must be METHOD=PATH"),
        ({"--victim": "esd=nowhere"}, "victim = 'esd=nowhere': no such file or folder"),
        ({"--prompts": "nowhere"}, "prompts = 'nowhere': no such file or folder"),
        ({"--detector": "eyes"}, "detector = 'eyes'"),
        ({"--utility": "nowhere.csv"}, "utility = 'nowhere.csv': no such file or folder"),
        ({"--certified": "0"}, "certified = 0: must be at least 1"),
        ({"--pairs": "nowhere.jsonl"}, "nowhere.jsonl"),
        ({"--set": "strength=3"}, "set = 'strength=3': must be NAME=VALUE"),
    ],
)
def test_what_is_missing_is_named(files, changes, message):
    given = list(files)
    for name, value in changes.items():
        if name in given:
            given[given.index(name) + 1] = value
        else:
            given += [name, value]
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        called("1", *given, "--quick")


def test_prompts_of_published_layouts_that_do_not_fit(files, tmp_path, capsys):
    """Before anything is measured: refused, or read and said to be cut."""
    prompts = tmp_path / "prompts"
    (prompts / "i2p.csv").unlink()
    long = "a big coin in red " * 30
    (prompts / "mma.json").write_text(json.dumps([{"target_prompt": "a coin", "adv_prompt": long}]))
    with pytest.raises(
        ValueError, match=r"mma.json': 1 of 1 prompts do not fit into the context of .* --truncate cuts"
    ):
        called("1", *files, "--quick")
    assert not (tmp_path / "out").exists()
    given = Given(
        files[1],
        Concept.of(["circle"]),
        {"esd": tmp_path / "esd.safetensors"},
        prompts,
        lambda x: x > 0,
        Sizes(),
        truncate=True,
    )
    given.read_all()
    (row,) = given.rows(given.concept(""), "esd", "mma", "report")
    assert row.adversarial == long
    said = given.columns_read[prompts / "mma.json"]
    assert said == (
        "prompts of mma.json: column “adv_prompt”, not “target_prompt”; 1 of 1 do not fit into the context and are cut"
    )


def test_a_model_needs_its_files(pipeline_folder, tmp_path):
    with pytest.raises(ValueError, match="concept: must be given with --model"):
        called("1", "--model", str(pipeline_folder), "--out", str(tmp_path))
