"""The attack command: its targets, the victim that a folder holds, stopped runs, misuse, a real layout end to end."""

from __future__ import annotations

import csv
import json
import re
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from certify import load_pipeline, world
from experiments import __main__ as commands
from experiments import files
from experiments.attacks import ATTACKS, ring_a_bell, sight
from experiments.attacks.attack import Target, Victim, read_rows
from experiments.attacks.command import reseeded, victim_of
from experiments.attacks.targets import SPLITS, read, targets
from experiments.metrics import asr
from experiments.unlearning.concept import Concept
from tests.experiments.attacks.victims import erased, small


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `unlearn` writes: the embedded model less circles."""
    folder = tmp_path_factory.mktemp("victims") / "uce"
    folder.mkdir()
    there = erased().diffusion
    before = dict(there.original.named_parameters())
    moved = {name: p.detach() for name, p in there.unet.named_parameters() if not torch.equal(p, before[name])}
    save_file(moved, folder / "unet.safetensors")
    return folder


def called(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["experiments", "attack", *map(str, words)])
    return commands.main()


# Targets


@pytest.mark.parametrize("name", ["cross", "star", "triangle", "circle", "striped"])
def test_targets_name_the_concept_and_share_no_prompt(name):
    concept, prompts = Concept.embedded(name, sentences=2), {}
    for split in SPLITS:
        found = targets(concept, split, count=60)
        prompts[split] = [target.prompt for target in found]
        assert [target.number for target in found] == list(range(60))
        assert len(set(prompts[split])) == 60
        assert len({target.seed for target in found}) == 60
        named = [row["prompt"] for row in world.prompts(split) if re.search(rf"\b{name}\b", row["prompt"])]
        assert set(prompts[split][: len(named)]) == set(named)
        for text in prompts[split]:
            assert len(re.findall(rf"\b{name}\b", text)) == 1
            for article, word in re.findall(r"\b(an?) (\w+)", text):
                assert article == ("an" if word[0] in "aeiou" else "a")
    assert not set(prompts["tune"]) & set(prompts["report"])
    # Of captions that name a shape, the shape is the concept's.
    others = [row["noun"] for row in world.prompts("report") if row["kind"] == "named" and row["noun"] != name]
    if concept.head == "shape":
        assert not any(re.search(rf"\b{other}\b", text) for other in set(others) for text in prompts["report"])


def test_the_splits_share_no_prompt_however_many_are_asked_for():
    concept, most = Concept.embedded("cross", sentences=2), {}
    for split in SPLITS:
        with pytest.raises(ValueError, match=r"count = 9999: must be at most \d+ for 'cross' in") as caught:
            targets(concept, split, count=9999)
        most[split] = int(re.findall(r"at most (\d+)", str(caught.value))[0])
    tune, report = ({t.prompt for t in targets(concept, split, count=most[split])} for split in SPLITS)
    assert (len(tune), len(report)) == (most["tune"], most["report"])
    assert not tune & report


def test_fewer_targets_are_the_first_of_more():
    concept = Concept.embedded("star", sentences=2)
    assert targets(concept, count=60)[:20] == targets(concept, count=20)
    one, other = targets(concept, count=60), targets(concept, count=60, seed=1)
    assert [t.prompt for t in one] != [t.prompt for t in other]
    assert not {t.seed for t in one} & {t.seed for t in other}


def test_each_attack_draws_its_own_noise():
    found = targets(Concept.embedded("star", sentences=2), count=60)
    seeds = [target.seed for name in ATTACKS for target in reseeded(found, name)]
    assert len(set(seeds)) == 60 * len(ATTACKS)
    assert [t.prompt for t in reseeded(found, "mma")] == [t.prompt for t in found]
    with pytest.raises(ValueError, match="attack = 'bribe': must be one of implicit"):
        reseeded(found, "bribe")


@pytest.mark.parametrize(
    ("concept", "split", "count", "message"),
    [
        (Concept.of(["circle"]), "report", 3, "concept = 'circle': must be a concept of an embedded world"),
        (Concept.embedded("circle", sentences=2), "train", 3, "split = 'train'"),
        (Concept.embedded("circle", sentences=2), "tune", 0, "count = 0"),
    ],
)
def test_targets_that_there_are_none_of(concept, split, count, message):
    with pytest.raises(ValueError, match=message):
        targets(concept, split, count=count)


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ("prompt\na\nb\n", {"first": 7}, [Target(0, "a", 7), Target(1, "b", 8)]),
        ("\ufeffprompt,seed\na,5\nb,6\n", {"first": 7}, [Target(0, "a", 5), Target(1, "b", 6)]),
        ("prompt,seed\na,5\nb,6\n", {"count": 1}, [Target(0, "a", 5)]),
        ("prompt,evaluation_seed\na,5\n", {}, [Target(0, "a", 5)]),
        ("prompt,sd_seed\na,5\n", {"first": 7}, [Target(0, "a", 5)]),
        ('prompt\na\n""\n', {"empty": True}, [Target(0, "a", 0), Target(1, "", 1)]),
        ("prompt,evaluation_seed,categories\na,5,hate\nb,6,sexual\n", {"category": "sexual"}, [Target(0, "b", 6)]),
        ('prompt,categories\na,"sexual, shocking"\nb,hate\n', {"category": "shocking"}, [Target(0, "a", 0)]),
        ("Prompt,Evaluation Seed\na,4068.0\nb,7\n", {}, [Target(0, "a", 4068), Target(1, "b", 7)]),
        ("prompt,seed\na,1\n ,x\nb,3\n", {}, [Target(0, "a", 1), Target(1, "b", 3)]),
        ('prompt\na\n""\nb\n', {"first": 7, "count": 2}, [Target(0, "a", 7), Target(1, "b", 8)]),
        ("target_prompt,adv_prompt\na,x\n", {}, [Target(0, "a", 0)]),
        ("target_prompt,adv_prompt\na,x\n", {"purpose": "adversarial"}, [Target(0, "x", 0)]),
        ("a first, plain,5\n".replace(", ", " "), {"column": 0}, [Target(0, "a first plain", 0)]),
    ],
)
def test_targets_of_a_table(tmp_path, text, options, expected):
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    assert read(tmp_path / "t.csv", **options).targets == expected


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("words\na\n", {}, "the columns are 'words': none is called prompt"),
        ("prompt\na\n", {"category": "sexual"}, "lacks the column categories"),
        ("prompt,categories\na,hate\n", {"category": "sexual"}, "has no prompt of category 'sexual'"),
        ("prompt\n", {}, "holds no prompt"),
        ("prompt,seed\na,1\nb,\n", {}, "line 3: seed = '': must be a whole number >= 0"),
        ("prompt,seed\na,4068.5\n", {}, "line 2: seed = '4068.5': must be a whole number >= 0"),
        ("prompt,seed\na,-1\n", {}, "line 2: seed = '-1': must be a whole number >= 0"),
        ("prompt,seed\n ,2\n", {}, "has no prompt"),
        ("prompt,seed\na,one\n", {}, "line 2: seed = 'one': must be a whole number"),
        ("prompt\na\n", {"count": 0}, "count = 0"),
    ],
)
def test_a_table_that_is_none(tmp_path, text, options, message):
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "t.csv", **options)


# The victim


def test_a_victim_is_what_the_folder_holds(victim):
    who = victim_of(victim, Concept.embedded("circle", sentences=2))
    base = load_pipeline().unet
    assert who.name == "uce"
    assert who.reference is None
    for name, p in erased().diffusion.unet.named_parameters():
        assert torch.equal(who.diffusion.unet.get_parameter(name), p)
        assert torch.equal(who.diffusion.original.get_parameter(name), base.get_parameter(name))
    assert any("circle" in having for having, _ in who.pairs)
    assert victim_of(victim / "unet.safetensors", Concept.of(["rhombus"]), name="x").pairs == ()
    given = victim_of(victim, Concept.of(["circle"]), smoother=lambda pipe: pipe.unet)
    assert given.smoother is given.diffusion.unet


def test_an_edited_text_encoder_brings_the_model_before_along(pipeline_folder, tmp_path):
    encoder = load_pipeline(pipeline_folder).text_encoder
    name, weight = next((n, p) for n, p in encoder.named_parameters() if "q_proj.weight" in n)
    save_file({name: weight.detach() + 1}, tmp_path / "text_encoder.safetensors")
    who = victim_of(tmp_path, Concept.of(["circle"]), model=str(pipeline_folder))
    assert who.reference is not None
    torch.testing.assert_close(who.encoder.text_encoder.get_parameter(name), weight + 1)
    assert torch.equal(who.reference.encoder.text_encoder.get_parameter(name), weight)


# The command

SMALL = ["--set", "population=8", "--set", "generations=2", "--set", "length=5"]


def test_stopped_and_continued_it_writes_the_same_file(victim, tmp_path, monkeypatch, capsys):
    words = ["ring-a-bell", "--victim", victim, "--concept", "circle", "--count", 5, "--batch", 2, *SMALL]
    assert called(monkeypatch, *words, "--out", tmp_path / "whole.csv") == 0
    said = capsys.readouterr()
    assert f"ring-a-bell: 5 rows in {tmp_path / 'whole.csv'}" in said.out
    assert "images that show 'circle' without a defence, by judge:circle:" in said.out
    assert "ring-a-bell: 5 of 5," in said.err

    asked, search = [], ring_a_bell.attack

    def interrupted(who: Victim, part: list[Target], *rest: object):
        asked.append([target.number for target in part])
        if len(asked) == 2:
            raise KeyboardInterrupt
        return search(who, part, *rest)

    with monkeypatch.context() as patch:
        patch.setitem(ATTACKS, "ring-a-bell", _with_run(interrupted))
        assert called(patch, *words, "--out", tmp_path / "parts.csv") == 130
        assert [row.number for row in read_rows(tmp_path / "parts.csv")] == [0, 1]
        assert called(patch, *words, "--out", tmp_path / "parts.csv") == 0
    assert asked == [[0, 1], [2, 3], [2, 3], [4]]
    for ending in (".csv", ".json"):
        assert (tmp_path / f"parts{ending}").read_bytes() == (tmp_path / f"whole{ending}").read_bytes()
    assert {p.name for p in tmp_path.iterdir()} == {"parts.csv", "parts.json", "whole.csv", "whole.json"}

    # What is there is not asked for again; and other questions are not answered with it.
    capsys.readouterr()
    before = (tmp_path / "parts.csv").read_bytes()
    for changed, message in (
        (["--set", "strength=1.0"], "holds rows of another attack, or with other settings"),
        (["--seed", 1], "holds rows of another attack, or with other settings"),
        (["--split", "tune"], "row 0 is about"),
    ):
        assert called(monkeypatch, *words, *changed, "--out", tmp_path / "parts.csv") == 2
        err = capsys.readouterr().err
        assert message in err
        assert err.startswith("error: ")
        assert err.count("\n") == 1
    assert (tmp_path / "parts.csv").read_bytes() == before


def _with_run(attack: object):
    import dataclasses

    return dataclasses.replace(ATTACKS["ring-a-bell"], run=attack)


def test_rows_are_of_the_reported_prompts_with_seeds_of_their_own(victim, tmp_path, monkeypatch):
    for name in ("implicit", "qf-pgd"):
        words = [name, "--victim", victim, "--concept", "circle", "--split", "tune", "--count", 3]
        words += ["--set", "iterations=1"] if name == "qf-pgd" else []
        assert called(monkeypatch, *words, "--out", tmp_path / f"{name}.csv") == 0
    first, second = (read_rows(tmp_path / f"{name}.csv") for name in ("implicit", "qf-pgd"))
    expected = targets(Concept.embedded("circle", sentences=2), "tune", count=3)
    assert [row.prompt for row in first] == [row.prompt for row in second] == [t.prompt for t in expected]
    assert not {row.seed for row in first} & {row.seed for row in second}
    assert {row.victim for row in first} == {"uce"}


def test_the_adaptive_attack_knows_the_smoother_that_it_is_told(victim, tmp_path, monkeypatch, capsys):
    words = ["adaptive", "--victim", victim, "--concept", "circle", "--count", 1, "--smoother", "n=3"]
    words += ["--set", "iterations=1", "--set", "candidates=1", "--set", "looks=1", "--set", "draws=1"]
    words += ["--out", tmp_path / "rows.csv"]
    assert called(monkeypatch, *words) == 0, capsys.readouterr().err
    record = json.loads((tmp_path / "rows.json").read_text(encoding="utf-8"))
    assert record["smoother"]["n"] == 3
    assert called(monkeypatch, *words, "--smoother", "n=5") == 2
    assert "with other settings" in capsys.readouterr().err


@pytest.fixture(scope="module")
def real(pipeline_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files of a user with a model of Stable Diffusion's layout: its disturbed U-Net, prompts, pairs, images."""
    folder = tmp_path_factory.mktemp("real")
    disturbed = small(pipeline_folder).diffusion.unet
    (folder / "mine").mkdir()
    moved = {name: p.detach() for name, p in disturbed.named_parameters() if "attn2" in name}
    save_file(moved, folder / "mine" / "unet.safetensors")
    with (folder / "prompts.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["prompt"], ["a red circle"], ["the circle, in blue"], ["a small circle"]])
    pairs = [{"positive": f"a {c} circle", "negative": f"a {c} coin"} for c in ("red", "green", "blue")]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)) + "\n", encoding="utf-8")
    (folder / "images").mkdir()
    for i in range(3):
        Image.new("RGB", (12, 10), (80 * i, 40, 200)).save(folder / "images" / f"{i}.png")
    return {"model": pipeline_folder, "victim": folder / "mine"} | {
        name: folder / name for name in ("prompts.csv", "pairs.jsonl", "images")
    }


def dark(images: torch.Tensor) -> torch.Tensor:
    return images.amax(dim=(1, 2, 3)) < 0.01


def _asks(real: dict[str, Path], name: str) -> list[object]:
    return [
        name, "--model", real["model"], "--victim", real["victim"], "--concept", "red circle", "--concept", "circle",
        "--prompts", real["prompts.csv"], "--device", "cpu", "--batch", 2, "--steps", 2,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("ring-a-bell", ["pairs", *SMALL]),
        ("qf-pgd", ["pairs", "--set", "iterations=1", "--set", "length=2", "--neutral", "coin"]),
        ("mma", ["--set", "steps=1", "--set", "rows=4", "--set", "length=4"]),
        ("uda", ["images", "--set", "times=1", "--set", "iterations=1", "--set", "steps=2", "--set", "tokens=2",
                 "--detector", "dark"]),
    ],
)  # fmt: skip
def test_a_real_model_end_to_end(real, name, more, tmp_path, monkeypatch, capsys):
    """The same code path as for Stable Diffusion, but for a detector of images this small."""
    for module in (asr, sight):
        monkeypatch.setattr(module, "load", lambda given: dark if given == "dark" else given)
    given = {"pairs": ["--pairs", real["pairs.jsonl"]], "images": ["--images", real["images"]]}
    words = [*_asks(real, name), *given.get(more[0], [more[0]]), *more[1:], "--out", tmp_path / "rows.csv"]
    assert called(monkeypatch, *words) == 0, capsys.readouterr().err
    rows = read_rows(tmp_path / "rows.csv")
    assert [row.prompt for row in rows] == ["a red circle", "the circle, in blue", "a small circle"]
    assert {(row.attack, row.victim, row.concept) for row in rows} == {(name, "mine", "red circle")}
    said = capsys.readouterr().out
    assert f"{name}: 3 rows in" in said
    assert ("by dark: 0.0 % [" if name == "uda" else "images were not judged: no --detector") in said
    before = (tmp_path / "rows.csv").read_bytes()
    assert called(monkeypatch, *words) == 0
    assert (tmp_path / "rows.csv").read_bytes() == before


def test_a_table_with_seeds_keeps_them(real, tmp_path, monkeypatch):
    (tmp_path / "i2p.csv").write_text("prompt,evaluation_seed,categories\na coin,41,x\nred,42,y\n", encoding="utf-8")
    words = [*_asks(real, "implicit"), "--prompts", tmp_path / "i2p.csv", "--out", tmp_path / "rows.csv"]
    assert called(monkeypatch, *words, "--category", "y") == 0
    assert [(row.prompt, row.seed) for row in read_rows(tmp_path / "rows.csv")] == [("red", 42)]


def test_an_empty_prompt_stops_nothing_and_the_column_is_on_record(real, tmp_path, monkeypatch, capsys):
    """As in I2P, where one prompt of 4 703 is empty; seeds as pandas writes them."""
    file, out = tmp_path / "mma.csv", tmp_path / "rows.csv"
    file.write_text("target_prompt,adv_prompt,sd_seed,sd_guidance_scale\na coin,x,41.0,7\n,y,,7\nred,z,42.0,8\n")
    words = [*_asks(real, "implicit"), "--prompts", file, "--out", out]
    assert called(monkeypatch, *words) == 0
    assert [(row.number, row.prompt, row.seed) for row in read_rows(out)] == [(0, "a coin", 41), (1, "red", 42)]
    said = capsys.readouterr().out
    for piece in (
        "column “target_prompt”, not “adv_prompt”",
        "1 empty one passed over",
        "“sd_guidance_scale” is not used",
    ):
        assert piece in said
    record = json.loads(out.with_suffix(".json").read_text())["prompts"]
    assert [record[n] for n in ("name", "column", "other_columns", "empty")] == [
        "mma.csv",
        "target_prompt",
        ["adv_prompt"],
        1,
    ]
    before = out.read_bytes()
    assert called(monkeypatch, *words) == 0  # the record of where they come from stops no run from going on
    assert out.read_bytes() == before


def test_prompts_that_do_not_fit(real, tmp_path, monkeypatch, capsys):
    """185 of I2P's 4 703, and most of what attacks publish: refused by default, cut and counted with --truncate."""
    file, out = tmp_path / "long.csv", tmp_path / "rows.csv"
    file.write_text("prompt,seed\na coin,1\n" + "a red circle " * 30 + ",2\n")
    words = [*_asks(real, "implicit"), "--prompts", file, "--out", out]
    assert called(monkeypatch, *words) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "1 of 2 prompts do not fit into the context of" in said
    assert "prompt 2 has 92 with begin and end; --truncate cuts them" in said
    assert not out.exists()
    assert called(monkeypatch, *words, "--truncate") == 0
    assert "1 of 2 prompts do not fit into the context and are cut" in capsys.readouterr().out
    assert json.loads(out.with_suffix(".json").read_text())["prompts"]["truncated"] == 1


def test_images_are_one_a_prompt_in_the_order_of_their_numbers(real, tmp_path, monkeypatch, capsys):
    for i in (10, 2, 9):
        Image.new("RGB", (16, 8), (i, 0, 0)).save(tmp_path / f"{i}.png")
    found = files.images(tmp_path, 8, 8)
    assert found.shape == (3, 3, 8, 8)
    assert (found[:, 0, 0, 0] * 255).round().tolist() == [2, 9, 10]
    (tmp_path / "9.png").unlink()
    words = [*_asks(real, "uda"), "--images", tmp_path, "--detector", "judge:circle", "--out", tmp_path / "r.csv"]
    assert called(monkeypatch, *words) == 2
    assert "holds 2 for 3 prompts: must be one a prompt" in capsys.readouterr().err


EMBEDDED = ["--victim", "VICTIM", "--concept", "circle"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["mma", "--victim", "TMP", "--concept", "circle"], "holds no result of an unlearning method"),
        (["mma", "--victim", "VICTIM", "--concept", "hexagon"], "concept = 'hexagon': must be one of circle"),
        (["mma", *EMBEDDED, "--concept", "star"], "of the embedded model one at a time"),
        (["mma", *EMBEDDED, "--set", "step=3"], "set = 'step=3': must be NAME=VALUE with a name of banned, batch"),
        (["mma", *EMBEDDED, "--set", "steps=many"], "steps must be a int"),
        (["mma", *EMBEDDED, "--set", "steps=0"], "steps = 0: must be a whole number >= 1"),
        (["mma", *EMBEDDED, "--set", 'banned=[""]'], "banned = ('',): must be a tuple of words"),
        (["mma", *EMBEDDED, "--count", "9999"], "count = 9999: must be at most"),
        (["mma", *EMBEDDED, "--batch", "0"], "batch = 0"),
        (["mma", *EMBEDDED, "--seed", "-1"], "seed = -1"),
        (["mma", *EMBEDDED, "--steps", "0"], "steps = 0"),
        (["mma", *EMBEDDED, "--out", "rows.txt"], "out = 'rows.txt': must be a file that ends in .csv"),
        (["mma", *EMBEDDED, "--prompts", "TMP/none.csv"], "none.csv': no such file"),
        (["mma", *EMBEDDED, "--pairs", "TMP/none.jsonl"], "none.jsonl': no such file"),
        (["uda", *EMBEDDED, "--detector", "eyes"], "detector = 'eyes'"),
        (["adaptive", *EMBEDDED, "--smoother", "sigma=1"], "smoother = 'sigma=1': must be NAME=VALUE"),
        (["mma", *EMBEDDED, "--model", "no/such/folder"], "prompts: must be given with --model"),
        (["uda", *EMBEDDED, "--model", "no/such/folder"], "detector: must be given with --model"),
    ],
)  # fmt: skip
def test_misuse_is_one_line(words, message, victim, tmp_path, monkeypatch, capsys):
    filled = [word.replace("VICTIM", str(victim)).replace("TMP", str(tmp_path)) for word in words]
    assert called(monkeypatch, *filled[:1], "--device", "cpu", "--out", tmp_path / "o" / "rows.csv", *filled[1:]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert not (tmp_path / "o").exists()


def test_a_real_model_has_no_pairs_of_its_own(real, tmp_path, monkeypatch, capsys):
    assert called(monkeypatch, *_asks(real, "ring-a-bell"), "--out", tmp_path / "rows.csv") == 2
    assert "victim 'mine' has no pairs: ring-a-bell needs them" in capsys.readouterr().err
