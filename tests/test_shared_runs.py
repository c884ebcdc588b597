"""Several processes, one folder: rows are shared out, none is lost whoever is, and what is read is what one would write.

Real processes wait for conditions (a signal at a moment of their own work, another one's end), never for a time.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from certify import _files
from certify._workers import Claims, Worker, own_device
from certify.datasets import ClassifierTask, PromptSet, Results, RunRecord, classify_dataset
from certify.datasets.records import FORMAT
from tests.cli.stopped import stopped
from tests.processes import ROOT

SETTINGS = {"model": "a", "n": 64, "format": FORMAT}
TWO = (Worker(0, 2), Worker(1, 2))


@pytest.fixture
def data(tmp_path):
    file = tmp_path / "seven.txt"
    file.write_text("a red circle\n" * 7)
    return PromptSet.load(file)


def record(number, seconds=0.1):
    return {"row": number, "line": number, "status": "certified", "radius": 0.5 * number, "seconds": seconds}


def opened(folder, data, rank=0, count=2, **more):
    return Results(folder, SETTINGS, data, worker=Worker(rank, count), **more)


def whole(folder, data):
    """The bytes that one process writes."""
    with Results(folder, SETTINGS, data) as results:
        for number in range(1, len(data.rows) + 1):
            results.append(record(number))
    return (folder / "results.jsonl").read_bytes()


def plain(folder):
    """The lines of a run, timings aside, and the digests over lines with their timings."""
    found = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "sha256")} for line in found]


# Sharing out


def test_two_that_take_turns_write_what_one_does(tmp_path, data):
    with opened(tmp_path / "a", data, 0) as first, opened(tmp_path / "a", data, 1) as second:
        turns = [results.ahead(7) for results in (first, second)]
        taken: list[list[int]] = [[], []]
        open_ones = [0, 1]
        while open_ones:
            for rank in list(open_ones):
                numbers = next(turns[rank], None)  # asking for more lets go of what was claimed
                if numbers is None:
                    open_ones.remove(rank)
                    continue
                taken[rank] += numbers
                for number in numbers:
                    (first, second)[rank].append(record(number))
        assert sorted(taken[0] + taken[1]) == [1, 2, 3, 4, 5, 6, 7]
        assert taken[0][:3] == [1, 3, 5]
        assert taken[1][:3] == [2, 4, 6]
        first.merge()
        second.merge()
        assert first.done == second.done
    assert (tmp_path / "a" / "results.jsonl").read_bytes() == whole(tmp_path / "b", data)
    assert sorted(f.name for f in (tmp_path / "a").iterdir()) == ["results.jsonl", "settings.json"]


def test_whoever_is_done_helps_the_other_from_the_end_and_leaves_what_it_works_on(tmp_path, data):
    with opened(tmp_path / "a", data, 0) as slow, opened(tmp_path / "a", data, 1) as quick:
        works = slow.ahead(7)
        assert next(works) == [1]  # and goes on with it
        helped = []
        for (number,) in quick.ahead(7):
            helped.append(number)
            quick.append(record(number))
            if len(helped) == 6:
                slow.append(record(1))
                works.close()
        assert helped == [2, 4, 6, 7, 5, 3]


def test_a_claim_ends_with_the_process_that_had_it(tmp_path):
    claims = Claims(tmp_path / "claims")
    script = (
        "import os, signal, sys; from pathlib import Path; from certify._workers import Claims\n"
        f"with Claims(Path({str(tmp_path / 'claims')!r})).claimed('3') as mine:\n"
        "    print(mine, flush=True); sys.stdin.read(); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": str(ROOT)}, **pipes
    ) as other:
        assert other.stdout.readline() == "True\n"
        with claims.claimed("3") as mine:
            assert not mine
        with claims.claimed("4") as mine:
            assert mine
        other.stdin.close()
        assert other.wait() == -signal.SIGKILL
    with claims.claimed("3") as mine:
        assert mine


def test_a_claim_that_a_lost_machine_left_does_not_stop_the_others(tmp_path, data):
    """A lock that nobody lets go of."""
    with Claims(tmp_path / "a" / "claims").claimed("1") as mine:
        assert mine
        with opened(tmp_path / "a", data, 0, patience=0.0) as results:
            for numbers in results.ahead(7):
                for number in numbers:
                    results.append(record(number))
            results.merge()
    assert (tmp_path / "a" / "results.jsonl").read_bytes() == whole(tmp_path / "b", data)


def test_where_files_cannot_be_locked_rows_are_done_twice_at_worst(tmp_path, data, monkeypatch):
    monkeypatch.setattr(_files, "locked", lambda file, shared=False: True)
    with opened(tmp_path / "a", data, 0) as first, opened(tmp_path / "a", data, 1) as second:
        one, two = first.ahead(7), second.ahead(7)
        for _ in range(3):
            (number,) = next(one)
            assert next(two) == [number + 1]
            first.append(record(number, seconds=1.0))
            second.append(record(number + 1))
        assert next(one) == next(two) == [7]
        first.append(record(7, seconds=2.0))
        second.append(record(7, seconds=3.0))
        assert list(one) == list(two) == []
        second.merge()
        first.merge()
        assert first.done == second.done
    assert len(plain(tmp_path / "a")) == 7


# What is read


def test_parts_and_the_ordered_lines_are_read_as_one(tmp_path, data):
    with Results(tmp_path / "a", SETTINGS, data) as results:
        results.append(record(1))
    with opened(tmp_path / "a", data, 0) as first, opened(tmp_path / "a", data, 1) as second:
        first.append(record(5))
        second.append(record(2))
        second.append(record(3))
        assert [row["row"] for row in RunRecord.load(tmp_path / "a").rows] == [1, 2, 3, 5]
        first.merge()  # as far as no row is missing
        assert len(plain(tmp_path / "a")) == 3
        assert [row["row"] for row in second.done] == [1, 2, 3]
    part = next(file for file in (tmp_path / "a" / "parts").iterdir() if b'"row": 5' in file.read_bytes())
    with part.open("ab") as torn:  # of a process that was killed
        torn.write(b'{"row": 6, "li')
    # One process goes on: with the rows that are missing, and puts all in order.
    with Results(tmp_path / "a", SETTINGS, data) as results:
        missing = []
        for numbers in results.ahead(7):
            for number in numbers:
                missing.append(number)
                results.append(record(number))
        results.merge()
    assert missing == [4, 6, 7]
    assert (tmp_path / "a" / "results.jsonl").read_bytes() == whole(tmp_path / "b", data)
    assert not (tmp_path / "a" / "parts").exists()


def test_a_merge_may_be_killed_anywhere(tmp_path, data):
    """Both are there: the ordered lines, and parts that were not removed yet."""
    with opened(tmp_path / "a", data, 0) as results:
        for number in (3, 1, 2, 7, 6, 5, 4):
            results.append(record(number))
        part = next((tmp_path / "a" / "parts").iterdir())
        content = part.read_bytes()
        results.merge()
    part.parent.mkdir()
    part.write_bytes(content)
    assert len(RunRecord.load(tmp_path / "a").rows) == 7
    with opened(tmp_path / "a", data, 1) as results:
        assert list(results.ahead(7)) == []
        results.merge()
    assert not part.parent.exists()
    assert (tmp_path / "a" / "results.jsonl").read_bytes() == whole(tmp_path / "b", data)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text.replace(b'"radius": 1.0', b'"radius": 9.0'),
        lambda text: text.replace(b'"row": 2', b'"row": 8'),
        lambda text: b"{}\n" + text,
        lambda text: b"not JSON\n" + text,
    ],
)
def test_a_part_that_is_not_what_was_written_is_refused(tmp_path, data, spoil):
    with opened(tmp_path / "a", data, 0) as results:
        results.append(record(2))
        results.append(record(3))
    part = next((tmp_path / "a" / "parts").iterdir())
    part.write_bytes(spoil(part.read_bytes()))
    spoiled = part.read_bytes()
    for read in (lambda: opened(tmp_path / "a", data, 1), lambda: RunRecord.load(tmp_path / "a")):
        with pytest.raises(ValueError, match="is damaged or of another run"):
            read()
    assert part.read_bytes() == spoiled


def test_a_pipe_among_the_parts_is_not_waited_for(tmp_path, data):
    with opened(tmp_path / "a", data, 0) as results:
        results.append(record(2))
    os.mkfifo(tmp_path / "a" / "parts" / "0-0.jsonl")
    os.mkfifo(tmp_path / "a" / "results.jsonl")
    assert [row["row"] for row in RunRecord.load(tmp_path / "a").rows] == [2]


def test_one_alone_and_several_do_not_write_at_once(tmp_path, data):
    pytest.importorskip("fcntl")
    with opened(tmp_path / "a", data, 0), pytest.raises(ValueError, match="another process is writing"):
        Results(tmp_path / "a", SETTINGS, data)
    with Results(tmp_path / "a", SETTINGS, data), pytest.raises(ValueError, match="another process is writing"):
        opened(tmp_path / "a", data, 1)
    with opened(tmp_path / "a", data, 0), pytest.raises(ValueError, match="another run"):
        Results(tmp_path / "a", {**SETTINGS, "n": 65}, data, worker=TWO[1])


def test_a_private_run_is_marked_once_and_the_mark_goes_with_the_last_row(tmp_path, data):
    settings = {**SETTINGS, "private": True}
    first, second = (Results(tmp_path / "a", settings, data, worker=worker) for worker in TWO)
    mark = tmp_path / "a" / "private.json"
    assert mark.exists()
    with first, second:
        for number in range(1, 8):
            (first, second)[number % 2].append(record(number))
        for results in (first, second):
            results.merge()
    assert not mark.exists()
    assert {file.stat().st_mode & 0o077 for file in (tmp_path / "a").rglob("*")} == {0}


@pytest.mark.parametrize(("environment", "message"), [
    ({"WORLD_SIZE": "two"}, "WORLD_SIZE = 'two': must be a whole number"),
    ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK = 2, WORLD_SIZE = 2: must be"),
    ({"WORLD_SIZE": "0"}, "must be"),
])  # fmt: skip
def test_what_a_launcher_says_is_checked(monkeypatch, environment, message):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        Worker.current()


def test_who_this_is(monkeypatch):
    for name in ("WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    assert Worker.current() == Worker(0, 1)
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("RANK", "2")
    assert Worker.current() == Worker(2, 3)


@pytest.mark.parametrize(("count", "local", "gpus", "chosen"), [
    ("4", "2", 4, [2]),
    ("8", "5", 4, [1]),  # more processes than GPUs
    ("2", "1", 1, [0]),  # the launcher shows each process its own
    ("2", "1", 0, []),
    ("1", "1", 4, []),
])  # fmt: skip
def test_each_process_of_a_machine_has_the_gpu_of_its_number(monkeypatch, count, local, gpus, chosen):
    import torch

    found = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "set_device", found.append)
    for name, value in (("WORLD_SIZE", count), ("RANK", local if count != "1" else "0"), ("LOCAL_RANK", local)):
        monkeypatch.setenv(name, value)
    own_device()
    assert found == chosen


def test_classify_dataset_shares_its_inputs_out(tmp_path):
    import torch

    def f(z):
        return torch.cat([-z, z], dim=1)

    xs, labels = torch.linspace(-2, 2, 9)[:, None], [0] * 4 + [1] * 5
    options = {"n": 80, "together": 2}
    alone = classify_dataset(f, xs, labels, 0.7, folder=tmp_path / "a", **options)
    task = ClassifierTask.of(f, xs, labels, 0.7, n=80)
    with Results(tmp_path / "b", task.settings, task, worker=TWO[1]) as other:
        numbers = next(iter(other.ahead(9, 2)))
        assert numbers == [3, 4]
    made = classify_dataset(f, xs, labels, 0.7, folder=tmp_path / "b", worker=TWO[0], **options)
    assert made.decisions == alone.decisions
    assert plain(tmp_path / "b") == plain(tmp_path / "a")


# Real processes

NETS = "import torch\ndef half_space(z):\n    return torch.stack([-z[:, 0], z[:, 0]], dim=1)\n"
CLASSIFY = ("classify", "nets.py:half_space", "few.npz", "--sigma", "0.5", "--n", "100", "--together", "2", "--out")


@pytest.fixture
def place(tmp_path):
    (tmp_path / "nets.py").write_text(NETS)
    x = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    np.savez(tmp_path / "few.npz", x=x, y=(x[:, 0] > 0).astype(int))
    (tmp_path / "few.txt").write_text("a red circle\na blue square\na photo of a pink circle\na star\na small circle\n")
    return tmp_path


def process(place: Path, rank: int, count: int, *arguments: str) -> subprocess.Popen[str]:
    more = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
    return subprocess.Popen(
        [sys.executable, "-m", "certify", *arguments],
        cwd=place,
        env={**os.environ, **more, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "80"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(place: Path, *arguments: str, count: int = 1) -> list[str]:
    """Runs a command in so many processes; what each printed."""
    started = [process(place, rank, count, *arguments) for rank in range(count)]
    printed = []
    for one in started:
        out, err = one.communicate()
        assert one.returncode == 0, err
        printed.append(out)
    return printed


def same(one: Path, two: Path) -> None:
    assert plain(one) == plain(two)
    assert sorted(f.name for f in one.iterdir()) == sorted(f.name for f in two.iterdir())
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (one, two)]
    assert {**summaries[0], "seconds": 0} == {**summaries[1], "seconds": 0}


@pytest.mark.parametrize("lost", [0, 1])
def test_a_killed_process_is_made_up_for_by_the_other(place, monkeypatch, lost):
    """Two processes of one run; one is killed in the middle of a row, and the other ends the run, speaking or not."""
    run(place, *CLASSIFY, "one")
    for name, value in (("WORLD_SIZE", "2"), ("RANK", str(lost)), ("LOCAL_RANK", str(lost))):
        monkeypatch.setenv(name, value)
    moment = {"certify.datasets.results:Results.append": 3}  # of its second pair of inputs the first
    code, _, err = stopped(signal.SIGKILL, moment, *CLASSIFY, "two", cwd=place)
    assert code == -signal.SIGKILL, err
    assert not (place / "two" / "summary.json").exists()
    left = process(place, 1 - lost, 2, *CLASSIFY, "two")
    out, err = left.communicate()
    assert left.returncode == 0, err
    assert ("Of 12 inputs" in out) == (lost == 1)
    same(place / "one", place / "two")


@pytest.mark.slow
def test_two_processes_at_once_under_torchrun_give_the_run_of_one(place):
    run(place, *CLASSIFY, "one")
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "--"]
    done = subprocess.run(
        [*start, "certify", *CLASSIFY, "two"],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "80"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("written: two/") == 1
    same(place / "one", place / "two")


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_prompts_of_two_processes_one_of_them_killed(place, monkeypatch, lost):
    """Both at once: one is killed while it encodes its second prompt; the other goes on, and then ends the run."""
    prompts = ("prompts", "few.txt", "--n", "64", "--concept", "circle", "--save-certificates", "--out")
    run(place, *prompts, "one")
    other = process(place, 1 - lost, 2, *prompts, "two")
    for name, value in (("WORLD_SIZE", "2"), ("RANK", str(lost)), ("LOCAL_RANK", str(lost))):
        monkeypatch.setenv(name, value)
    # At its first record, or, where the other was too quick for it to have one, before it has begun.
    moment = {"certify.datasets.results:Results.__init__": 1}
    code, _, err = stopped(signal.SIGKILL, moment, *prompts, "two", cwd=place)
    assert code == -signal.SIGKILL, err
    out, err = other.communicate()
    assert other.returncode == 0, err
    assert ("Of 5 prompts" in out) == (lost == 1)
    same(place / "one", place / "two")
    for number in range(1, 6):
        texts = [
            (place / name / "certificates" / f"{number:04d}" / "certificate.json").read_text()
            for name in ("one", "two")
        ]
        assert json.loads(texts[0])["claims"] == json.loads(texts[1])["claims"]
    # Both lost, and both back.
    code, _, err = stopped(signal.SIGKILL, {"certify.datasets.results:Results.append": 1}, *prompts, "three", cwd=place)
    assert code == -signal.SIGKILL, err
    assert len(RunRecord.load(place / "three").rows) == 1
    monkeypatch.undo()
    run(place, *prompts, "three", count=2)
    same(place / "one", place / "three")
