"""`certify prompts`: a data set from the command line, killed and resumed."""

from __future__ import annotations

import functools
import json
import random
import signal
import stat

import pytest

from certify import Certificate, datasets
from certify.cli import folders, work
from certify.datasets import runs
from tests.cli.stopped import stopped

ROWS = (
    "a red circle",
    "a photo of a huge blue square",
    "",
    "circle " * 40,
    "a picture of a pink circle",
    "a red circle",
)
SMALL = ("--n", "64", "--concept", "circle")


@pytest.fixture(autouse=True)
def _no_figure_and_no_estimate(request, monkeypatch):
    """Either takes longer than a row. They are made where a whole run is looked at."""
    if request.function is not test_a_run_killed_at_random_moments_equals_the_undisturbed_one:
        monkeypatch.setattr(folders, "write_figure", lambda *_: None)
        monkeypatch.setattr(work, "timed", lambda _: 0.0)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "few.csv"
    path.write_text("kind,prompt\n" + "".join(f'column{i},"{prompt}"\n' for i, prompt in enumerate(ROWS)))
    return path


@pytest.fixture
def run(run):
    """Runs `certify prompts …` in a fresh folder; returns (exit code, output, errors)."""
    return functools.partial(run, "prompts")


def records(folder):
    """The lines of a run, timings aside, and the digests over lines with their timings."""
    found = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "sha256")} for line in found]


def test_a_run_killed_at_random_moments_equals_the_undisturbed_one(run, file, tmp_path):
    code, out, err = run(str(file), *SMALL, "--out", "whole")
    assert code == 0, err
    assert max(len(line) for line in out.splitlines() if "written" not in line) <= 80
    text = " ".join(out.split())
    for piece in (
        "6 prompts, 64 draws each: about",
        "2 were refused",
        "line 4: the prompt is empty",
        "with confidence",
        "by itself",
    ):
        assert piece in text
    whole = tmp_path / "whole"
    assert [r["status"] for r in records(whole)] == [*["certified"] * 2, *["refused"] * 2, *["certified"] * 2]
    assert records(whole)[0]["columns"] == {"kind": "column0"}
    assert records(whole)[0]["bound"] != records(whole)[5]["bound"]  # the same prompt, other draws
    assert (whole / "fraction.png").stat().st_size > 5000
    total = json.loads((whole / "summary.json").read_text())
    assert (total["prompts"], total["certified"], total["refused"]) == (6, 4, 2)

    killed = tmp_path / "killed"
    chance = random.Random(5)
    lines = killed / "results.jsonl"
    for wanted in sorted(chance.sample((0, 1, 4), 2)):
        before = len(lines.read_bytes().splitlines()) if lines.exists() else 0
        rows = {"certify.datasets.results:Results.append": wanted - before} if wanted > before else {}
        # While the next row is encoded.
        moment = rows | {"certify.models:PromptEncoder.encode": chance.randint(1, 3)}
        code, _, errors = stopped(
            signal.SIGKILL, moment, "prompts", str(file), *SMALL, "--out", str(killed), cwd=tmp_path
        )
        assert code == -signal.SIGKILL, errors
        assert len(lines.read_bytes().splitlines()) == wanted
        assert not (killed / "summary.json").exists()
    left = len(lines.read_bytes().split(b"\n")) - 1
    assert left < len(ROWS)
    with lines.open("ab") as torn:
        torn.write(b'{"row": ')
    code, out, err = run(str(file), *SMALL, "--out", "killed")
    assert code == 0, err
    assert (f"{left} of 6 prompts are done already" in out) == (left > 0)
    assert records(killed) == records(whole)
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (killed, whole)]
    assert {**summaries[0], "seconds": 0} == {**summaries[1], "seconds": 0}


def test_a_limit_is_gone_on_from_and_other_settings_are_refused(run, file, tmp_path):
    assert run(str(file), *SMALL, "--limit", "1", "--save-certificates")[0] == 0
    folder = tmp_path / "runs" / "prompts-few"
    assert len(records(folder)) == 1
    first = Certificate.load(folder / "certificates" / "0001")
    assert first.provenance["prompt"] == ROWS[0]
    assert next(c.rho for c in first.claims if c.quantity == "radius") == records(folder)[0]["radius"]
    code, out, _ = run(str(file), *SMALL, "--limit", "3", "--save-certificates")
    assert (code, "1 of 3 prompts are done already" in out, len(records(folder))) == (0, True, 3)
    before = (folder / "results.jsonl").read_bytes()
    for arguments, message in (
        (("--n", "65", "--save-certificates"), "another run (n differs)"),
        (("--n", "64", "--save-certificates", "--k", "3"), "another run (smoother differs)"),
        (("--n", "64", "--save-certificates", "--rho", "0.5", "--seed", "1"), "another run (rho, seed differ)"),
    ):
        code, _, err = run(str(file), "--concept", "circle", *arguments, "--out", str(folder))
        assert (code, message in " ".join(err.split())) == (2, True), err
    file.write_text(file.read_text().replace("pink", "teal"))
    code, _, err = run(str(file), *SMALL, "--save-certificates", "--out", str(folder))
    assert (code, "another run (data differs)" in " ".join(err.split())) == (2, True)
    # Where no folder is named another run has another one, and goes on there; --fresh always has another.
    for limit, name in (("1", "prompts-few-2"), ("2", "prompts-few-2")):
        assert f"written: runs/{name}/" in run(str(file), *SMALL, "--save-certificates", "--limit", limit)[1]
    assert "written: runs/prompts-few-3/" in run(str(file), *SMALL, "--save-certificates", "--limit", "1", "--fresh")[1]
    assert (folder / "results.jsonl").read_bytes() == before


@pytest.mark.parametrize("name", ["summary.json", "fraction.png", "results.jsonl", "certificates"])
def test_what_somebody_else_keeps_in_a_folder_is_not_written_over(run, file, tmp_path, name):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / name).write_text("mine")
    code, _, err = run(str(file), *SMALL, "--limit", "1", "--out", "a")
    assert (code, f"holds {name} without settings.json; choose another folder" in " ".join(err.split())) == (2, True), (
        err
    )
    assert (tmp_path / "a" / name).read_text() == "mine"
    assert [path.name for path in (tmp_path / "a").iterdir()] == [name]


def test_a_line_that_is_not_what_was_written_is_refused(run, file, tmp_path):
    """A bound that lost a digit, or a radius that gained one, was taken for a result."""
    assert run(str(file), *SMALL, "--limit", "2", "--out", "a")[0] == 0
    results = tmp_path / "a" / "results.jsonl"
    radius = records(tmp_path / "a")[0]["radius"]
    results.write_text(results.read_text().replace(f'"radius": {radius}', f'"radius": 1{radius}', 1))
    for command in (lambda: run(str(file), *SMALL, "--limit", "3", "--out", "a"), lambda: run.func("report", "a")):
        code, _, err = command()
        assert (code, "line 1: is damaged" in " ".join(err.split())) == (2, True), err
        assert "its SHA-256 is not that of what it holds" in " ".join(err.split())


def test_an_interrupt_keeps_what_was_done(run, file, tmp_path, monkeypatch):
    real = datasets.certify_row

    def interrupted(adaptive, row, *rest, **options):
        if row.number == 2:
            raise KeyboardInterrupt
        return real(adaptive, row, *rest, **options)

    monkeypatch.setattr(runs, "certify_row", interrupted)
    code, out, err = run(str(file), *SMALL, "--out", "a")
    assert (code, "1 of 6 prompts are kept" in out, "Traceback" in err) == (130, True, False)
    assert (len(records(tmp_path / "a")), (tmp_path / "a" / "summary.json").exists()) == (1, False)


def test_private_writes_no_prompt(run, file, tmp_path):
    assert run(str(file), *SMALL, "--private", "--save-certificates", "--out", "a", "--limit", "5")[0] == 0
    for written in (tmp_path / "a").rglob("*"):
        if written.is_file():
            for word in (b"photo", b"pink", b"a square", b"column0"):  # (a distance is squared)
                assert word not in written.read_bytes(), written
    assert records(tmp_path / "a")[1]["status"] == "certified"


def test_private_goes_on_and_tells_nothing_of_its_data(run, file, tmp_path):
    """A digest of a file of few prompts says which they are, and so may its name."""
    secret = file.rename(tmp_path / "pink-circles.csv")
    command = (str(secret), *SMALL, "--private", "--save-certificates")
    digest = datasets.PromptSet.load(secret).sha256
    for limit in ("1", "2"):
        code, out, err = run(*command, "--limit", limit)
        assert (code, "pink" in out) == (0, False), err
    folder = tmp_path / "runs" / "prompts-private"
    assert len(records(folder)) == 2
    key = folder / "private.json"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*") if path.is_file()} == {0o600}
    texts = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert not any(digest.encode() in text or b"pink-circles" in text for text in texts.values())
    assert "pink" not in str(list((tmp_path / "runs").rglob("*")))
    assert run.func("report", str(folder))[0] == 0
    secret.write_text(secret.read_text().replace("pink", "teal"))
    code, _, err = run(*command, "--out", str(folder))
    assert (code, "another run (data differs)" in " ".join(err.split())) == (2, True), err
    secret.write_text(secret.read_text().replace("teal", "pink"))
    assert run(*command)[0] == 0
    assert not key.exists()  # the run is over
    assert run(*command)[0] == 0


def test_statistics_and_images_are_passed_on(run, file, tmp_path):
    more = ("--statistics", "16", "--images", "4", "--steps", "2", "--limit", "1")
    code, _, err = run(str(file), *SMALL, *more, "--out", "a")
    assert code == 0, err
    others = {claim["function"] for claim in records(tmp_path / "a")[0]["others"]}
    assert {"concept score", "noise-prediction distance", "image shows circle"} <= others


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("no.csv",), "no such file"),
        (("few.csv", "--limit", "0"), "limit = 0"),
        (("few.csv", "--column", "words"), "column = 'words': must be one of 'kind', 'prompt'"),
        (("few.csv", "--alpha", "2"), "alpha = 2.0"),
        (("few.csv", "--tolerance", "0"), "tolerance = 0.0"),
        (("few.csv", "--images", "4", "--concept", "gun"), "--images = 4: must be 0 without a --detector"),
    ],
)
def test_misuse_is_one_line_and_exit_code_2(run, file, tmp_path, arguments, message):
    code, _, err = run(*arguments)
    assert (code, message in " ".join(err.split()), "Traceback" in err) == (2, True, False), err
    assert not (tmp_path / "runs").exists()


def test_prompts_of_other_layouts(run, tmp_path):
    """Without a header, by index; and of a file with two columns of prompts the one that is named."""
    (tmp_path / "hub.csv").write_text("a red circle\na coin\n")
    code, out, err = run("hub.csv", *SMALL, "--column", "0", "--out", "hub")
    assert code == 0, err
    assert "prompts of hub.csv: no header, column 0; the first prompt is in line 1" in " ".join(out.split())
    (tmp_path / "mma.csv").write_text("target_prompt,adv_prompt\na coin,a red circle\n")
    code, _, err = run("mma.csv", *SMALL, "--out", "mma")
    assert (code, "prompts are in the columns 'target_prompt', 'adv_prompt'" in " ".join(err.split())) == (2, True)
    code, out, err = run("mma.csv", *SMALL, "--column", "adv_prompt", "--out", "mma")
    assert code == 0, err
    assert "column “adv_prompt”, not “target_prompt”" in " ".join(out.split())
    assert [record["prompt"] for record in records(tmp_path / "mma")] == ["a red circle"]
    about = json.loads((tmp_path / "mma" / "settings.json").read_text())["settings"]["data"]
    assert (about["column"], about["other_columns"]) == ("adv_prompt", ["target_prompt"])


def test_prompts_that_do_not_fit(run, tmp_path):
    """Refused by default, with the number of tokens; cut and counted with --truncate."""
    (tmp_path / "long.txt").write_text("a photo of a red circle " * 8 + "\na red circle\n")
    code, out, err = run("long.txt", *SMALL, "--out", "refused")
    assert code == 0, err
    text = " ".join(out.split())
    assert "1 was refused" in text
    assert "tokens with begin and end, must have at most 20; truncate cuts it there" in text
    code, out, err = run("long.txt", *SMALL, "--truncate", "--out", "cut")
    assert code == 0, err
    text = " ".join(out.split())
    assert "0 were refused" in text
    assert "1 did not fit into the context and were cut" in text
    assert [record.get("truncated", {}).get("kept") for record in records(tmp_path / "cut")] == [20, None]
    assert json.loads((tmp_path / "cut" / "summary.json").read_text())["truncated"] == 1
    code, _, err = run("long.txt", *SMALL, "--truncate", "--out", "refused")
    assert (code, "smoother differs" in " ".join(err.split())) == (2, True)
