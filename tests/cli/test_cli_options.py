"""Every option of every command: out of range it is refused by name before anything is loaded, and its help is all there.

The app is walked. A new option without a line in `WRONG` fails here, and so does one that is looked at too late.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

import certify
from certify.cli import app, work
from certify.cli.endings import Command
from tests.processes import forked

PROMPT = "a photo of a red circle"
ROOT = Path(__file__).parents[2]
GROUP = typer.main.get_command(app)
FLAGS = {"--version", "--help"}

NEEDED = {
    "prompt": ("text",),
    "prompts": ("file",),
    "classify": ("classifier", "data", "--sigma"),
    "radius": ("text",),
    "curve": ("text",),
    "decide": ("text",),
    "plan": (),
    "check": ("folder",),
    "report": ("folder",),
    "plot": ("folder", "what"),
    "generate": ("text",),
    "concepts": (),
    "schema": ("name",),
    "app": (),
}
RIGHT = {
    "text": PROMPT,
    "name": "certificate",
    "file": "few.txt",
    "folder": "one",
    "what": "curve",
    "classifier": "nets.py:half_space",
    "data": "few.npz",
    "--sigma": "0.5",
}

COUNT, SEED = ("0", "-1", "1" + 20 * "0"), ("-1",)
POSITIVE, PROBABILITY = ("-1", "0", "nan", "inf"), ("0", "1", "2", "-0.5", "nan")
WRONG: dict[str, tuple[str, ...]] = {
    "text": ("", "  "),
    "file": ("none.csv", "."),
    "folder": ("none", "few.txt"),
    "classifier": ("", "nets.py", "none.py:f", "no_such_module:f", "nets.py:1"),
    "data": ("none.npz", "few.txt", "empty"),
    "what": ("figure",),
    "name": ("circel", "none.csv"),
    "--n": COUNT,
    "--n0": COUNT,
    "--classes": (*COUNT, "1"),
    "--size": COUNT,
    "--every": COUNT,
    "--together": COUNT,
    "--statistics": SEED,
    "--images": SEED,
    "--port": ("-1", "65536", "1" + 20 * "0"),
    "--steps": ("0", "-5"),
    "--limit": COUNT,
    "--pairs": COUNT,
    "--replicas": COUNT,
    "--outputs": COUNT,
    "--batch-size": COUNT,
    "--seed": SEED,
    "--rho": POSITIVE,
    "--rho-deployed": POSITIVE,
    "--tolerance": POSITIVE,
    "--guidance": POSITIVE,
    "--sigma": POSITIVE,
    "--stop-at": POSITIVE,
    "--noise": ("typo",),
    "--weights": ("none.safetensors", "empty"),
    "--sigma0": POSITIVE,
    "--sigma0-relative": POSITIVE,
    "--sigma-min": POSITIVE,
    "--gamma": POSITIVE,
    "--k": ("-1", "nan", "inf"),
    "--q": PROBABILITY,
    "--p": PROBABILITY,
    "--alpha": PROBABILITY,
    "--level": PROBABILITY,
    "--rate": (*PROBABILITY, "60"),
    "--target": PROBABILITY,
    "--rhos": ("", "x", "1,0.5", "0,1", "1,nan"),
    "--policy": ("typo",),
    "--sharing": ("typo", "input"),
    "--smoother": ("typo",),
    "--similarity": ("typo",),
    "--dtype": ("float8_e4m3fn", "int8"),
    "--memory": ("four", "0GB", "-1GB"),
    "--detector": ("foo", "judge:typo", "nudenet:2", "nudenet"),
    "--concept": ("circel", "none.csv"),
    "--prompt": ("",),
    "--model": ("no such folder", "few.txt", "empty", ""),
    "--call": ("height", "=3", "prompt=x"),
    "--defence": ("nowhere",),
    "--text-encoder": ("none.safetensors", ""),
    "--variant": ("",),
    "--device": ("", "typo", "cuda:99"),
    "--regions": ("few.txt", "regions"),
    "--attacks": ("none.csv", "."),
    "--column": ("", "typo"),
    "--config": ("none.toml", "."),
    "--log-level": ("typo", "INFO"),
    "--out": ("few.txt", "few.txt/a", "/proc/certify"),
    "--against": ("none", "few.txt"),
    "--badge": ("a.png", "none/a.svg"),
    "--figure": ("a.txt", "none/a.png", "there.png"),
}
"""Values that an option never takes, and where it can be told before the model is there."""

ELSEWHERE = {
    ("decide", "--detector"): ("foo", "judge:typo", "nudenet:2", "nudenet", "judge:circle"),  # without --rate
    ("generate", "--images"): ("0", "-1", "100000"),
    ("report", "--images"): ("-1", "100000"),
    ("report", "--out"): ("a.pdf", "none/a.html"),
    ("plot", "--out"): ("a.jpg", "none/a.png"),
    ("generate", "--out"): ("a.gif", "none/a.png", "there.png"),
}


def options(command: str):
    return [p for p in GROUP.commands[command].params if p.name != "help"]


def named(param) -> str:
    return max(param.opts, key=len)


def needed(command: str, given: dict[str, str] | None = None) -> list[str]:
    """What a command cannot do without: right values, but for those that are given."""
    values = {name: (given or {}).get(name, RIGHT[name]) for name in NEEDED[command]}
    return [part for name, value in values.items() for part in ((name, value) if name.startswith("-") else (value,))]


def takes_a_value(param) -> bool:
    return not getattr(param, "is_flag", False)


WALK = [(command, param) for command in GROUP.commands for param in options(command) if takes_a_value(param)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("options")
    noise = certify.GaussianNoise(0.25)
    bound = certify.mse_bound(lambda z: z, [0.0, 1.0], noise, rho=0.5, n=300)
    certify.Certificate.of(bound).save(folder / "one")
    (folder / "few.txt").write_text(f"{PROMPT}\n")
    (folder / "empty").mkdir()
    (folder / "nets.py").write_text("raise SystemExit('run')\n")
    np.savez(folder / "few.npz", x=np.zeros((2, 3), dtype=np.float32), y=np.zeros(2, dtype=np.int64))
    (folder / "there.png").write_bytes(b"mine")
    return folder


@pytest.fixture
def run(run, place, monkeypatch):
    """Runs a command where nothing may be loaded."""
    monkeypatch.chdir(place)

    def loaded(*_, **__):
        raise AssertionError("a model is loaded")

    monkeypatch.setattr("certify.models.load._load_part", loaded)
    return run


def test_every_command_is_known():
    assert set(NEEDED) == set(GROUP.commands)
    assert all(type(command) is Command for command in GROUP.commands.values())


@pytest.mark.parametrize(("command", "param"), WALK, ids=lambda v: v if isinstance(v, str) else named(v))
def test_what_is_out_of_range_is_refused_before_anything_is_loaded(run, command, param):
    option = named(param)
    values = ELSEWHERE.get((command, option)) or WRONG[option]
    before = sorted(Path().rglob("*"))
    for value in values:
        arguments = needed(command, {option: value})
        if option in ("--column",) and command == "prompt" and value:
            arguments += ["--attacks", "few.txt"]
        if option in NEEDED[command]:
            pass
        elif option.startswith("-"):
            arguments += [option, value]
        else:
            arguments += [value]
        code, out, err = run(command, *arguments)
        said = " ".join(err.split())
        assert (code, out, "Traceback" in err) == (2, "", False), (value, err)
        assert re.search(r"error: \S", said), err
        assert re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", said), (value, said)
        assert "= " in said
        assert " ".join(value.split()) in said or str(float(value)) in said, (value, said)
        assert re.search(r"\b([Mm]ust|needs)\b", said), said
        assert err.count("\n") == 1
    assert sorted(Path().rglob("*")) == before


NUMBERS = [(c, p) for c, p in WALK if "-1" in WRONG[named(p)] or "0" in WRONG[named(p)]]


@pytest.mark.parametrize(("command", "param"), NUMBERS, ids=lambda v: v if isinstance(v, str) else named(v))
def test_what_is_no_number_is_refused(run, command, param):
    arguments = needed(command)
    code, _, err = run(command, *arguments, named(param), "x")
    assert code == 2
    assert re.fullmatch(rf"error: {named(param)} = 'x': must be a (whole )?number\n", err), err
    assert run(command, *arguments, f"{named(param)}=x")[2] == err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("prompt", PROMPT, "--steps", "-5", "--text-only"), "--steps = -5: must be a whole number >= 1"),
        (("prompt", PROMPT, "--sigma0", "1", "--sigma0-relative", "1"), "must be only one of the two"),
        (
            ("prompt", PROMPT, "--sigma-min", "1"),
            "--sigma-min = 1.0: must be left out but with --policy noise-then-adapt",
        ),
        (("radius", PROMPT, "--policy", "memory"), "--regions = None: must be given with --policy memory"),
        (("prompt", PROMPT, "--column", "x"), "--column = 'x': must be given with --attacks"),
        (("prompt", PROMPT, "-c", "circle", "-c", "circle"), "--concept = 'circle': must be different"),
        (("decide", PROMPT, "--rate", "0.5", "--tolerance", "3"), "--rate = 0.5 and --tolerance = 3.0: must be one of"),
        (("decide", PROMPT, "--rate", "0.5", "-c", "nudity"), "--detector = None: must be given with --rate"),
        (("prompts", "few.txt", "--images", "4", "-c", "nudity"), "--images = 4: must be 0 without a --detector"),
        (("plan",), "--rho = None, --n = None: give exactly one"),
        (("plan", "--n", "2"), "--n = 2: too few draws"),
        (("prompt", PROMPT, "--detector", "nudenet"), 'pip install "certify[nudenet]"'),
    ],
)
def test_options_that_do_not_go_together(run, arguments, message):
    code, out, err = run(*arguments)
    assert (code, out, message in " ".join(err.split())) == (2, "", True), err


@pytest.mark.parametrize(("said", "expected"), [
    ("source = 'x': no such folder", "--model = 'x': no such folder"),
    ("rho_deployed = -1: must be > 0", "--rho-deployed = -1: must be > 0"),
    ("n = 20, rho = 1.0: needs n = 30", "--n = 20, --rho = 1.0: needs --n = 30"),
    ("prompt = 'n = 3': must fit", "text = 'n = 3': must fit"),
    ("concepts is empty: must name one", "--concept is empty: must name one"),
    ("something = 3: must be (n=), --n = 4", "something = 3: must be (n=), --n = 4"),
    ("no name at all", "no name at all"),
])  # fmt: skip
def test_names_of_the_library_become_options(said, expected):
    assert GROUP.commands["prompt"].in_options(said) == expected


# Estimates


@pytest.mark.parametrize(
    "arguments",
    [
        ("prompt", PROMPT, "--text-only", "--n", "1000000000000"),
        ("radius", PROMPT, "--n", "1000000000000"),
        ("curve", PROMPT, "--n", "1000000000000"),
        ("decide", PROMPT, "--n", "1000000000000"),
        ("prompts", "few.txt", "--n", "1000000000000"),
    ],
)
def test_a_run_of_years_is_not_begun(place, tmp_path, arguments):
    """An estimate of 635 808 hours was printed, and the run began."""
    arguments = [str(place / a) if a == "few.txt" else a for a in arguments]
    ended = forked("certify", *arguments, cwd=tmp_path)
    assert ended.returncode == 2, ended.stderr
    assert re.search(r"error: this takes (at most )?about [\d,]{4,} hours: must be at most 24; ", ended.stderr)
    assert "--long" in ended.stderr
    assert not list(tmp_path.rglob("*.json"))


def test_long_is_asked_for(capsys):
    work.show_work("x", 3600.0 * 24, long=False)
    work.show_work("x", 3600.0 * 25, long=True)
    with pytest.raises(ValueError, match="about 25 hours: must be at most 24"):
        work.show_work("x", 3600.0 * 25, long=False)


# Help


def rendered(*arguments: str) -> str:
    ended = forked("certify", *arguments, "--help", cwd=ROOT)
    assert ended.returncode == 0
    assert max(map(len, ended.stdout.splitlines())) <= 80
    return ended.stdout


@pytest.mark.parametrize("command", list(GROUP.commands))
def test_all_of_the_help_is_shown(command):
    """Seventeen notes of the form [default: …] were taken for markup."""
    page = " ".join(re.sub("[│╭╮╰╯─]", " ", rendered(command)).split())
    for param in options(command):
        assert " ".join(param.help.split()) in page, param.help
        assert "[default" not in param.help
        shown = param.show_default
        if isinstance(shown, str):
            assert f"[default: ({shown})]" in page
        elif takes_a_value(param) and not callable(param.default) and param.default is not None and not param.required:
            assert f"[default: {param.default}]" in page
    for paragraph in GROUP.commands[command].help.split("\n\n"):
        assert " ".join(paragraph.split()) in page


def test_help_of_the_app():
    page = rendered()
    for said in ("0: done", "1: no (decide), refuted (check)", "2: an option", "3: no answer", "70: ", "130, 143: "):
        assert said in page
    assert CliRunner().invoke(app, ["-h"]).stdout == CliRunner().invoke(app, ["--help"]).stdout
    assert CliRunner().invoke(app, ["plan", "-h"]).exit_code == 0


# Real processes


@pytest.mark.parametrize(
    ("code", "arguments", "said"),
    [
        (0, ("--version",), f"certify {certify.__version__}"),
        (0, ("decide", PROMPT, "--n", "20000"), "Yes."),
        (1, ("decide", PROMPT, "--tolerance", "20", "--n", "20000"), "No."),
        (3, ("decide", PROMPT, "--tolerance", "60", "--n", "20"), "Undecided."),
        (0, ("radius", PROMPT, "--n", "300", "--tolerance", "4000"), "certified set"),
        (3, ("radius", PROMPT, "--n", "300", "--tolerance", "1e-9"), "No claim"),
        (0, ("curve", PROMPT, "--n", "300", "--rhos", "0.1"), "0.1"),
        (3, ("prompts", "few.txt", "--n", "300", "--tolerance", "1e-9"), "0 have a certified radius"),
        (0, ("plan", "--rho", "1"), "n"),
        (2, ("plan", "--rho", "x"), "error: --rho = 'x': must be a number"),
        (2, (), "Usage"),
        (2, ("promt", PROMPT), "Did you mean 'prompt'"),
        (2, ("prompt", PROMPT, "--detectr", "x"), "--detector"),
        (2, ("prompt",), "Missing argument"),
        (2, ("prompt", PROMPT, "--replicas", "0"), "error: --replicas = 0: must be"),
        (2, ("generate", PROMPT, "--steps", "100000"), "--steps = 100000: must be at most 1000"),
    ],
)
def test_exit_codes(tmp_path, code, arguments, said):
    (tmp_path / "few.txt").write_text(f"{PROMPT}\n")
    ended = forked("certify", *arguments, cwd=tmp_path)
    assert ended.returncode == code, ended.stdout + ended.stderr
    assert said in " ".join((ended.stdout + ended.stderr).split())
    assert "Traceback" not in ended.stderr


def test_exit_codes_of_check(tmp_path):
    assert forked("certify", "prompt", PROMPT, "--text-only", "--n", "300", "--out", "a", cwd=tmp_path).returncode == 0
    file = tmp_path / "a" / "certificate.json"
    record = file.read_text()
    file.write_text(record.replace('"rho": 1.0', '"rho": 9.0'))
    ended = forked("certify", "check", "a", cwd=tmp_path)
    assert ended.returncode == 1, ended.stdout + ended.stderr


def test_a_fault_of_the_program_is_no_answer():
    script = (
        "import sys; from certify.cli import commands\n"
        "def wrong(): raise ZeroDivisionError('inside')\n"
        "commands.commands = lambda: wrong; commands.main()"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (ended.returncode, "ZeroDivisionError: inside" in ended.stderr) == (70, True)


@pytest.mark.parametrize("delay", [0.1, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("start", [["-m", "certify"], ["-c", "from certify.__main__ import main; main()"]])
def test_ctrl_c_while_it_starts(tmp_path, delay, start):
    """Importing takes seconds; stopped in them it printed a traceback."""
    started = subprocess.Popen(
        [sys.executable, "-X", "importtime", *start, "radius", PROMPT, "--n", "100000"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert started.stderr is not None
    ours = False
    for line in started.stderr:
        name = line.rpartition("|")[2].strip()
        if ours and name != "certify.__main__":  # `main` imports what it needs: from here on it is ours
            break
        ours = ours or name == "certify"
    time.sleep(delay)
    started.send_signal(signal.SIGINT)
    _, err = started.communicate()
    assert (started.returncode, "Traceback" in err, "KeyboardInterrupt" in err) == (130, False, False), err[-2000:]


def test_the_console_script_starts_where_nothing_is_loaded():
    script = "import sys, certify.__main__; print(sorted({'torch', 'typer', 'numpy'} & set(sys.modules)))"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"
    assert 'certify = "certify.__main__:main"' in (ROOT / "pyproject.toml").read_text()
