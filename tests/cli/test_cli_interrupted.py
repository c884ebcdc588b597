"""`certify prompt`, `radius` and `curve`, stopped: real processes, real signals, and the same certificate in the end."""

from __future__ import annotations

import io
import json
import random
import shutil
import signal
import sys
from pathlib import Path

import pytest

from certify import cli
from certify.cli import prompts, terminal
from certify.cli.folders import run_folder
from certify.cli.settings import Settings
from tests.cli.stopped import SAVE, stopped
from tests.processes import forked

PROMPT = "a photo of a red circle"
TEXT = ("prompt", PROMPT, "--text-only", "--n", "1500", "--batch-size", "128")
COUNTS = ("--n", "128", "--statistics", "64", "--images", "64")
WHOLE = ("prompt", PROMPT, *COUNTS, "--steps", "1", "--guidance", "1", "--replicas", "3")


def content(folder: Path) -> tuple[dict, bytes]:
    record = json.loads((folder / "certificate.json").read_text())
    del record["provenance"]["created"]
    return record, (folder / "tensors.safetensors").read_bytes()


def inside(cwd: Path, *arguments: str) -> tuple[int, str, str]:
    """Runs a command in this process, in a folder; returns (exit code, output, errors)."""
    streams, code = {"out": io.StringIO(), "err": io.StringIO()}, 0
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(cwd)
        patch.setattr(sys, "argv", ["certify", *arguments])
        for name, stream in streams.items():
            patch.setattr(terminal, name, terminal.Console(file=stream, width=80, highlight=False))
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
    return code, streams["out"].getvalue(), streams["err"].getvalue()


def done(cwd: Path, *arguments: str) -> str:
    code, out, err = inside(cwd, *arguments)
    assert code == 0, err
    return out


DRAW = prompts._draw_figures


@pytest.fixture(scope="module", autouse=True)
def _no_figures(without_figures):
    """Only where a test is about them."""
    with without_figures():
        yield


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Certificates that nobody stopped."""
    folder = tmp_path_factory.mktemp("undisturbed")
    for name, command in (("text", TEXT), ("whole", WHOLE)):
        done(folder, *command, "--out", name)
        assert not (folder / name / "checkpoint").exists()
    return folder


@pytest.mark.parametrize(("name", "command", "saves"), [("text", TEXT, (12, 12)), ("whole", WHOLE, (15,))])
def test_killed_at_random_moments_it_goes_on_to_the_identical_certificate(undisturbed, tmp_path, name, command, saves):
    chance, folder = random.Random(7), tmp_path / "a" / "checkpoint"
    for most in saves:
        # After a save, or at one of the four operations on files of which it consists.
        moment, files = {SAVE: chance.randint(2, most)}, chance.randint(0, 4)
        code, _, err = stopped(signal.SIGKILL, moment, *command, "--out", "a", cwd=tmp_path, files=files)
        assert code == -signal.SIGKILL, err
        assert folder.is_dir()
        assert not (tmp_path / "a" / "rate.png").exists()
    assert "draws of an earlier start" in done(tmp_path, *command, "--out", "a")
    assert content(tmp_path / "a") == content(undisturbed / name)
    assert not folder.exists()


def run_in(folder: Path) -> Path:
    """The folder of the one run that is not over there."""
    (found,) = (folder / "checkpoint").iterdir()
    return found


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A folder in which `certify prompt` was stopped by Ctrl-C while it drew, and what it printed."""
    cwd = tmp_path_factory.mktemp("interrupted")
    folder = cwd / "runs" / "a-photo-of-a-red-circle"
    code, out, err = stopped(signal.SIGINT, {SAVE: 8}, *TEXT, cwd=cwd)
    assert (code, err) == (130, "")
    return cwd, folder, out


@pytest.fixture
def again(interrupted, tmp_path, monkeypatch):
    """Runs a command in a copy of that folder; returns (exit code, output, errors)."""
    shutil.copytree(interrupted[0], tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return lambda *arguments: inside(Path.cwd(), *arguments)


def test_an_interrupt_keeps_the_draws_and_claims_nothing(interrupted):
    cwd, folder, out = interrupted
    lines = [line for line in out.splitlines() if line.strip()]
    assert lines[-2:] == [
        f"Stopped. What was drawn is kept in {run_in(folder).relative_to(cwd)}/",
        "The same command resumes from there. Nothing is claimed yet.",
    ]
    for word in ("bound", "within squared distance", "Confidence"):
        assert word not in out
    assert [entry.name for entry in folder.iterdir()] == ["checkpoint"]
    assert list(run_in(folder).glob("*.safetensors"))


def test_an_interrupted_run_goes_on_in_its_folder(undisturbed, interrupted, again):
    code, out, err = again(*TEXT)
    assert (code, "earlier start: runs/a-photo-of-a-red-circle/checkpoint/" in out.replace("\n", "")) == (0, True), err
    assert [path.name for path in Path("runs").iterdir()] == ["a-photo-of-a-red-circle"]
    assert content(Path("runs/a-photo-of-a-red-circle")) == content(undisturbed / "text")


def test_another_run_goes_elsewhere(undisturbed, again):
    """It was refused until the checkpoint was deleted: a mistyped option that was stopped stood in the way of the right one."""
    folder = Path("runs/a-photo-of-a-red-circle")
    kept = run_in(folder)
    before = {file: file.read_bytes() for file in kept.iterdir()}
    code, out, err = again(*TEXT[:3], "--n", "64", "--seed", "1")
    assert (code, "earlier start" in out) == (0, False), err
    assert {file: file.read_bytes() for file in kept.iterdir()} == before
    assert content(folder)[0]["provenance"]["seed"] == 1
    # The first one goes on, and does not write over what has come to lie in its folder.
    code, out, err = again(*TEXT)
    assert (code, "earlier start" in out, "written: runs/a-photo-of-a-red-circle-2/" in out) == (0, True, True), err
    assert content(folder)[0]["provenance"]["seed"] == 1
    assert content(Path("runs/a-photo-of-a-red-circle-2")) == content(undisturbed / "text")
    assert not (folder / "checkpoint").exists()


def test_what_lies_in_a_folder_called_checkpoint_stays(tmp_path):
    """`checkpoint/certify-main/thesis.tex` was deleted, since a run makes folders of such names."""
    thesis = tmp_path / "a" / "checkpoint" / "certify-main" / "thesis.tex"
    thesis.parent.mkdir(parents=True)
    thesis.write_text("mine")
    (tmp_path / "a" / "noise.png").write_bytes(b"mine")
    for _ in range(2):
        done(tmp_path, *TEXT[:3], "--n", "64", "--out", "a")
    assert thesis.read_text() == (tmp_path / "a" / "noise.png").read_text() == "mine"
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["checkpoint", "noise.png"]
    assert (tmp_path / "a-2" / "certificate.json").exists()


@pytest.mark.parametrize(
    ("pattern", "change"),
    [
        ("pilot-*.safetensors", lambda b: b[: len(b) // 2]),
        ("pilot-*.safetensors", lambda b: b[:-1] + bytes([b[-1] ^ 1])),
        ("run.json", lambda b: b[:100]),
        ("run.json", lambda b: b.replace(b'"seed": 0', b'"seed": 1')),
    ],
)
def test_a_damaged_checkpoint_is_refused(undisturbed, again, pattern, change):
    (file,) = run_in(Path("runs/a-photo-of-a-red-circle")).glob(pattern)
    file.write_bytes(change(file.read_bytes()))
    blob = file.read_bytes()
    code, _, err = again(*TEXT)
    assert (code, "Traceback" in err, "damaged" in err, "delete" in err) == (2, False, True, False), err
    assert "move it away to begin anew, give --fresh, or another --out" in err
    assert str(file.parent) in err
    assert file.read_bytes() == blob
    code, out, err = again(*TEXT, "--fresh")
    assert (code, "earlier start" in out) == (0, False), err
    assert content(Path("runs/a-photo-of-a-red-circle")) == content(undisturbed / "text")


def test_two_at_once_are_refused(again):
    fcntl = pytest.importorskip("fcntl")
    with (run_in(Path("runs/a-photo-of-a-red-circle")) / "lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        code, _, err = again(*TEXT)
    assert (code, "another process is writing there" in err) == (2, True)


def test_a_kill_between_certificate_and_figures_is_made_good(undisturbed, again, monkeypatch):
    monkeypatch.setattr(prompts, "_draw_figures", DRAW)
    folder = Path("runs/a-photo-of-a-red-circle")
    for name in ("certificate.json", "tensors.safetensors"):
        shutil.copy(undisturbed / "text" / name, folder / name)
    assert again(*TEXT)[0] == 0
    assert (folder / "curve.png").exists()
    assert content(folder) == content(undisturbed / "text")
    assert not (folder / "checkpoint").exists()


def test_sigterm_is_alike_and_radius_and_curve_go_on(again, tmp_path):
    command = ("radius", PROMPT, "--n", "6000")
    (folder,) = Path("runs").iterdir()
    shutil.rmtree(folder)
    folder = Path("runs/radius-a-photo-of-a-red-circle/checkpoint")
    code, out, err = stopped(signal.SIGTERM, {SAVE: 2}, *command, cwd=Path.cwd())
    assert (code, err) == (143, "")
    assert ("Stopped. What was drawn is kept in" in out, "‖δ‖_Σ ≤" in out) == (True, False)
    kept = run_in(folder.parent)
    code, out, err = again("radius", PROMPT, "--n", "600", "--seed", "3")
    assert (code, "earlier start" in out) == (0, False), err
    resumed, plain = again(*command)[1].splitlines(), again(*command)[1].splitlines()
    assert f"draws of an earlier start: {kept}/" in resumed
    assert any("‖δ‖_Σ ≤" in line for line in plain)
    assert [line for line in resumed if "earlier" not in line and "about" not in line] == [
        line for line in plain if "about" not in line
    ]
    assert not Path("runs").exists()
    code, out, err = again("curve", PROMPT, "--n", "500", "--rhos", "0.25")
    assert (code, Path("runs").exists()) == (0, False), err


@pytest.mark.parametrize("command", ["radius", "curve"])
def test_what_is_refused_leaves_nothing_and_stands_in_no_way(tmp_path, command):
    wrong = {"radius": ("--tolerance", "-1"), "curve": ("--rhos", "1,0.5")}[command]
    assert inside(tmp_path, command, PROMPT, "--n", "300", *wrong)[0] == 2
    assert list(tmp_path.iterdir()) == []
    done(tmp_path, command, PROMPT, "--n", "300")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("policy", [(), ("--policy", "noise-then-adapt")])
@pytest.mark.parametrize("command", [("radius",), ("curve", "--rhos", "0.1,0.5")])
def test_radius_and_curve_leave_a_certificate(tmp_path, command, policy):
    out = done(tmp_path, command[0], PROMPT, "--n", "300", *command[1:], *policy, "--out", "a")
    assert "written: a/ (certificate.json, tensors.safetensors)" in out
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["certificate.json", "tensors.safetensors"]
    assert "Not refuted" in done(tmp_path, "check", "a")
    code, _, err = inside(tmp_path, command[0], PROMPT, "--n", "300", "--out", "a")
    assert (code, "holds a certificate already" in err) == (2, True), err


def test_a_full_disk_at_the_end_loses_nothing(undisturbed, tmp_path):
    """A limit on the size of files is the full disk: the certificate cannot be written, and the draws are there."""
    ended = forked("tests.cli.full", *TEXT, "--out", "a", cwd=tmp_path)
    assert (ended.returncode, len(ended.stderr.splitlines())) == (2, 1), ended.stderr
    kept = run_in(tmp_path / "a").relative_to(tmp_path)
    assert "error: File too large: 'a/tensors-" in ended.stderr
    assert f"What was drawn is kept in {kept}/: when there is room the same command resumes from there" in ended.stderr
    assert "earlier start" in done(tmp_path, *TEXT, "--out", "a")
    assert content(tmp_path / "a") == content(undisturbed / "text")


@pytest.mark.parametrize(
    ("text", "size"),
    [("4GB", 4 * 10**9), ("512 MiB", 2**29), ("1.5kb", 1500), ("2G", 2 * 10**9), ("1000000", 10**6), ("10B", 10)],
)
def test_sizes(text, size):
    assert Settings(memory=text).bytes == size


@pytest.mark.parametrize("text", ["", "four", "-1GB", "0", "1 PB", "GB", "1e9", "regions"])
def test_no_sizes(text):
    with pytest.raises(ValueError, match="must be a number of bytes such as 4GB"):
        _ = Settings(memory=text).bytes


def test_a_link_to_an_empty_folder_is_not_removed(tmp_path, monkeypatch):
    """runs/ may be a link to a larger disk; its removal was tried, and failed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "disk").mkdir()
    (tmp_path / "runs").symlink_to(tmp_path / "disk")
    with pytest.raises(ValueError, match="refused"), run_folder(tmp_path / "runs"):
        raise ValueError("refused")
    assert (tmp_path / "runs").is_symlink()
