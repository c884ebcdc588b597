"""Runs that are gone on from: checkpoints, run folders, data-set runs, cached results, rows of attacks, memories.

Whoever can write a checkpoint with its seal can write false draws into it: the seal finds damage, not forgery. What is tested
is that nothing in it makes a reader fail in another way than by saying so, or harms what lies beside.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load, save

from certify import GaussianNoise
from certify.adaptive import CovarianceMemory
from certify.datasets import PromptSet, Results, RunRecord
from certify.montecarlo import Counts, ExtremeRanks, RunFolder, draw
from certify.montecarlo.checkpoint import AGAIN, Checkpoint, CheckpointError, _content
from certify.report import run_page
from experiments.attacks.attack import FIELDS, Row, read_rows
from experiments.attacks.attack import _write as write_rows
from experiments.tables.result_cache import ResultCache, digest
from tests.hostile.corpus import (
    FOREIGN,
    GARBAGE,
    Raw,
    Watched,
    dumped,
    mangled_bytes,
    mangled_json,
    mangled_tensors,
    payloads,
    tree,
)

Y = torch.zeros(3)
RUN = {"command": "curve", "n": 500, "rhos": [0.5, 1.0], "smoother": {"k": 6.0, "concepts": ["circle"]}}


# Checkpoints


def drawn(folder: Path, n: int = 5000) -> tuple[ExtremeRanks, Counts]:
    ranks, counts = ExtremeRanks(5, 5), Counts()
    checkpoint = Checkpoint(folder, interval=0, function="f")
    how: dict[str, Any] = {"n": n, "seed": 0, "stream": "bounding", "checkpoint": checkpoint}
    draw(lambda z: (z > 0).to(z.dtype), Y, GaussianNoise(1.0), accumulators=[ranks, counts], **how)
    return ranks, counts


@functools.cache
def checkpoint() -> tuple[str, bytes]:
    """The name and the bytes of a finished checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        drawn(Path(folder))
        (file,) = Path(folder).iterdir()
        return file.name, file.read_bytes()


def resumed(blob: bytes) -> tuple[Any, str]:
    """What a run makes of a checkpoint, or the message."""
    with tempfile.TemporaryDirectory() as name:
        watched = Watched(Path(name))
        (watched.folder / checkpoint()[0]).write_bytes(blob)
        return watched.read(lambda: drawn(watched.folder), checkpoint()[0])


@given(data=st.data())
def test_a_damaged_checkpoint(data):
    whole = checkpoint()[1]
    blob = data.draw(st.one_of(mangled_tensors(whole), mangled_bytes(whole)))
    found, message = resumed(blob)
    if found is not None:
        (ranks, counts), (true, sure) = found, resumed(whole)[0]
        assert torch.equal(ranks.largest(5), true.largest(5))
        assert torch.equal(torch.as_tensor(counts.ones), torch.as_tensor(sure.ones))
    else:
        assert AGAIN in message


def sealed(change: Any) -> bytes:
    """A checkpoint with other progress and the seal that fits it."""
    with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
        file.write(checkpoint()[1])
        file.flush()
        with safe_open(file.name, framework="pt") as opened:
            metadata = dict(opened.metadata())
    tensors = load(checkpoint()[1])
    metadata["progress"] = change(metadata["progress"], tensors)
    return save(tensors, {**metadata, "sha256": _content(tensors, metadata["progress"])})


@given(data=st.data())
def test_progress_of_anything_with_its_seal(data):
    def change(text: str, _: Any) -> str:
        return data.draw(mangled_json(json.loads(text)), label="progress").decode("utf-8", "replace")

    resumed(sealed(change))


@given(data=st.data())
def test_states_of_anything_with_their_seal(data):
    def change(text: str, tensors: dict[str, torch.Tensor]) -> str:
        blob = data.draw(mangled_tensors(save(tensors)), label="tensors")
        try:
            other = load(blob)
        except Exception:
            return text
        tensors.clear()
        tensors.update(other)
        return text

    found, _ = resumed(sealed(change))
    if found is not None:
        assert found[0].count == found[1].count == 5000


PROGRESS = [
    ("next", -1),
    ("next", 1.5),
    ("next", 2**63),
    ("blocks", None),
    ("shape", "3"),
    ("shape", [3.0]),
    ("parts", [-1]),
    ("parts", {"0": 1}),
    ("opened", 1),
    ("elsewhere", ["nobody"]),
    ("elsewhere", 7),
]


@pytest.mark.parametrize(("name", "value"), PROGRESS)
def test_progress_that_is_none(name, value):
    _, message = resumed(sealed(lambda text, _: json.dumps({**json.loads(text), name: value})))
    assert "checkpoint" in message
    assert name in message or "is of outputs of shape" in message


def test_a_checkpoint_does_not_lead_out_of_its_folder(tmp_path):
    """Draws on disk are named in the checkpoint: a name that is none of ours is refused."""
    precious = tmp_path / "precious.npy"
    precious.write_bytes(b"\x93NUMPY mine")
    names = str(precious).encode()

    def change(text: str, tensors: dict[str, torch.Tensor]) -> str:
        prefix = next(name.removesuffix("rows") for name in tensors if name.endswith(".rows"))
        tensors[f"{prefix}files"] = torch.tensor(1)
        tensors[f"{prefix}names"] = torch.frombuffer(bytearray(names), dtype=torch.uint8)
        return text

    _, message = resumed(sealed(change))
    assert "precious.npy" in message
    assert precious.read_bytes() == b"\x93NUMPY mine"


def opened(folder: Path, **how: Any) -> RunFolder:
    with RunFolder(folder, **how).open(RUN) as kept:
        return kept


@given(data=st.data())
def test_a_run_folder_of_anything(data):
    with tempfile.TemporaryDirectory() as name:
        watched = Watched(Path(name))
        file = opened(watched.folder).path / "run.json"
        whole = json.loads(file.read_bytes())
        file.write_bytes(data.draw(mangled_json(whole)))
        found, message = watched.read(lambda: opened(watched.folder))
        assert (found is not None and found.resumed) or AGAIN in message


FOREIGN_NAMES = (
    "certify-main/thesis.tex",
    "draws-of-mine/a.npy",
    "lock",
    "ordered.npy",
    "run.json",
    "a.safetensors",
    "notes.txt",
)
"""What somebody may keep in a folder called checkpoint; names of which some were taken for a run's, and deleted."""


def with_mine(folder: Path, names: tuple[str, ...] = FOREIGN_NAMES) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("mine")


def spilling(kept: RunFolder) -> ExtremeRanks:
    """A pass that spills, in shards, and keeps everything a run can write."""
    ranks = ExtremeRanks(3000, 3000, memory=2**12)
    how: dict[str, Any] = {"n": 9000, "seed": 0, "stream": "bounding", "checkpoint": kept.checkpoint("a pass")}
    draw(torch.sin, Y, GaussianNoise(1.0), accumulators=[ranks], **how)
    ranks.smallest(7)
    return ranks


def test_what_is_in_a_run_folder_and_not_of_the_run_stays(tmp_path):
    """`certify prompt --out FOLDER` where FOLDER/checkpoint holds something, and somebody puts more into the run's own."""
    with_mine(tmp_path)
    before = tree(tmp_path)
    with RunFolder(tmp_path, interval=0).open(RUN) as kept:
        spilling(kept)
        assert list(kept.path.glob("draws-*/draws-*.npy"))
        assert list(kept.path.glob("draws-*/ordered.npy"))
        with_mine(kept.path, ("certify-main/thesis.tex", "notes.txt", "draws-of-mine/a.npy"))
        kept.remove()
    assert {p.relative_to(kept.path).as_posix() for p in kept.path.rglob("*") if p.is_file()} == {
        "certify-main/thesis.tex",
        "notes.txt",
        "draws-of-mine/a.npy",
    }
    shutil.rmtree(kept.path)
    assert tree(tmp_path) == before


def test_a_run_that_is_over_leaves_nothing(tmp_path):
    with RunFolder(tmp_path / "checkpoint", interval=0).open(RUN) as kept:
        spilling(kept)
        kept.remove()
    assert not (tmp_path / "checkpoint").exists()


@pytest.mark.parametrize("name", ["private.key", "certify-private.key", "lock"])
@pytest.mark.parametrize("text", ["mine", "0" * 64 + "\n", "certify private key 1\n" + "0" * 64 + "\n", ""])
def test_a_key_that_is_not_the_runs_own_is_not_removed(tmp_path, name, text):
    """A folder called checkpoint may hold a key of somebody else; it went with the runs, private or not."""
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / name).write_text(text)
    before = tree(tmp_path)
    refused = pytest.raises(
        ValueError, match=r"a certify-private\.key that is damaged or not .*; choose another folder$"
    )
    for secret in (None, "a prompt"):
        run = RunFolder(tmp_path / "checkpoint", interval=0)
        with refused if secret and name == "certify-private.key" else contextlib.nullcontext():
            run.open(RUN, secret=secret)
            spilling(run)
            run.remove()
        run.__exit__(None)
        assert tree(tmp_path) == before


def test_a_private_run_removes_the_key_that_it_made(tmp_path):
    folder, names = tmp_path / "checkpoint", []
    for again in (False, True):
        with RunFolder(folder, interval=0).open(RUN, secret="a prompt") as kept:
            spilling(kept)
            names.append(kept.path.name)
            assert kept.resumed is again
    with RunFolder(folder).open(RUN) as public:
        public.remove()
    assert (folder / "certify-private.key").exists()
    with RunFolder(folder, interval=0).open(RUN, secret="a prompt") as kept:
        assert [kept.path.name, *names] == [kept.path.name] * 3
        kept.remove()
    assert not folder.exists()


def test_a_lock_that_is_not_the_runs_own_is_not_removed(tmp_path):
    with RunFolder(tmp_path).open(RUN) as kept:
        place = kept.path
        kept.remove()
    place.mkdir(parents=True)
    (place / "lock").write_text("mine")
    with RunFolder(tmp_path).open(RUN) as kept:
        kept.remove()
    assert (place / "lock").read_text() == "mine"


def test_another_run_has_another_folder(tmp_path):
    with RunFolder(tmp_path).open(RUN) as one, RunFolder(tmp_path).open({**RUN, "n": 501}) as other:
        spilling(one)
        assert one.path != other.path
        other.remove()
    assert one.holds_draws
    with RunFolder(tmp_path).open(RUN) as again:
        assert again.resumed


def test_a_run_that_is_refused_before_it_draws_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="refused"), RunFolder(tmp_path / "a" / "checkpoint").open(RUN):
        raise ValueError("refused")
    assert not (tmp_path / "a" / "checkpoint").exists()


def test_a_fresh_start_removes_what_is_whole_and_sets_aside_what_is_damaged(tmp_path):
    with RunFolder(tmp_path).open(RUN) as first:
        spilling(first)
    fresh = opened(tmp_path, fresh=True)
    assert (fresh.path, fresh.resumed, fresh.holds_draws) == (first.path, False, False)
    (fresh.path / "run.json").write_text("{}")
    (fresh.path / "thesis.tex").write_text("mine")
    with pytest.raises(CheckpointError, match=r"run\.json is not what was written\); move it away"):
        opened(tmp_path)
    again = opened(tmp_path, fresh=True)
    assert (again.path, again.resumed) == (first.path, False)
    assert (tmp_path / f"{first.path.name}.damaged-1" / "thesis.tex").read_text() == "mine"


LISTS = [
    '"../../precious"',
    '"/etc/nothing-of-ours"',
    '"link/precious"',
    '"."',
    '".."',
    '""',
]


@pytest.mark.parametrize("name", LISTS)
def test_a_list_of_files_does_not_lead_out_of_its_folder(tmp_path, name):
    with_mine(tmp_path, ("precious", "mine/precious"))
    with RunFolder(tmp_path / "checkpoint").open(RUN) as kept:
        (kept.path / "link").symlink_to(tmp_path / "mine")
        (kept.path / "written.jsonl").write_text(name + "\n")
        kept.remove()
    assert (tmp_path / "precious").read_text() == (tmp_path / "mine" / "precious").read_text() == "mine"


def test_a_link_in_place_of_a_file_is_removed_and_what_it_leads_to_is_not(tmp_path):
    with_mine(tmp_path, ("precious",))
    with RunFolder(tmp_path / "checkpoint", interval=0).open(RUN) as kept:
        spilling(kept)
        (file,) = kept.path.glob("bounding-*.safetensors")
        file.unlink()
        file.symlink_to(tmp_path / "precious")
        kept.remove()
    assert (tmp_path / "precious").read_text() == "mine"
    assert not (tmp_path / "checkpoint").exists()


ZEROS = [
    ("zeros", lambda b: b[:128] + bytes(len(b) - 128)),
    ("not a number", lambda b: b[:-4] + b"\0\0\xc0\x7f"),
    ("cut short", lambda b: b[: len(b) // 2]),
    ("empty", lambda b: b""),
    ("other draws", lambda b: b[:-4] + b"\0\0\x80\x3f"),
]


@pytest.mark.parametrize(("how", "change"), ZEROS)
def test_spilled_draws_that_are_not_what_was_written(tmp_path, how, change):
    """After a power cut blocks of a file may be zeros: they were taken for draws, and a bound of 0 was claimed."""
    with RunFolder(tmp_path, interval=0).open(RUN) as kept:
        true = spilling(kept).largest(3000)
        assert torch.equal(spilling(kept).largest(3000), true)  # it goes on from what was spilled
        for file in kept.path.glob("draws-*/draws-*.npy"):
            whole = file.read_bytes()
            file.write_bytes(change(whole))
            with pytest.raises(CheckpointError, match=r"not those that were written.*move it away to begin anew"):
                spilling(kept)
            file.write_bytes(whole)
        file.unlink()
        with pytest.raises(CheckpointError, match=r"is not there.*move it away to begin anew"):
            spilling(kept)


def test_draws_that_changed_while_they_were_on_the_disk():
    ranks = ExtremeRanks(900, 900, memory=2**12)
    ranks.update(torch.randn(2000, 3, generator=torch.Generator().manual_seed(0)))
    (file, *_) = sorted(ranks.folder.glob("draws-*.npy"))
    file.write_bytes(file.read_bytes()[:-4] + b"\0\0\xc0\x7f")
    with pytest.raises(ValueError, match="not those that were written"):
        ranks.smallest(900)


# Runs over data sets

SETTINGS = {"format": "certify prompts 1", "n": 64, "rho": 1.0, "model": "ef", "smoother": {"concepts": []}}


def record(number: int) -> dict[str, Any]:
    return {
        "row": number,
        "line": number + 1,
        "status": "certified",
        "radius": 0.5 * number,
        "seconds": 0.1,
        "reason": "",
    }


@functools.cache
def run_files() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(settings.json, lines of results.jsonl) of three rows."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "a.txt").write_text("red\nblue\ngreen\n")
        with Results(folder / "run", SETTINGS, PromptSet.load(folder / "a.txt")) as results:
            for number in (1, 2, 3):
                results.append(record(number))
        lines = (folder / "run" / "results.jsonl").read_text().splitlines()
        return json.loads((folder / "run" / "settings.json").read_bytes()), [json.loads(line) for line in lines]


def folder_of(folder: Path, settings: bytes, results: bytes) -> PromptSet:
    (folder / "a.txt").write_text("red\nblue\ngreen\n")
    (folder / "run").mkdir(exist_ok=True)
    (folder / "run" / "settings.json").write_bytes(settings)
    (folder / "run" / "results.jsonl").write_bytes(results)
    return PromptSet.load(folder / "a.txt")


def continued(settings: bytes, results: bytes) -> tuple[list[Any] | None, str]:
    """The records that a run is gone on from. A refused folder is left as it was; else only a torn last line is cut off."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = folder_of(folder, settings, results)
        watched = Watched(folder)

        def shown() -> None:
            run_page(RunRecord.load(folder / "run"), folder=str(folder / "run"))

        watched.read(shown, str(folder / "run"))
        before, message = tree(folder), ""
        try:
            with Results(folder / "run", SETTINGS, data) as opened_:
                found = opened_.done
        except (ValueError, OSError) as error:
            message = str(error)
        if message:
            assert tree(folder) == before
            assert str(folder / "run") in message
            return None, message
        assert results.startswith((folder / "run" / "results.jsonl").read_bytes())
        return found, ""


@given(data=st.data())
def test_settings_of_anything(data):
    settings, rows = run_files()
    lines = b"".join(dumped(row) + b"\n" for row in rows)
    found, _ = continued(data.draw(mangled_json(settings)), lines)
    assert found is None or found == rows


@given(data=st.data())
def test_results_of_anything(data):
    settings, rows = run_files()
    lines = [dumped(row) for row in rows]
    number = data.draw(st.integers(0, 2))
    lines[number] = data.draw(mangled_json(rows[number]))
    found, _ = continued(dumped(settings), b"".join(line + b"\n" for line in lines))
    for row in found or []:
        assert isinstance(row["radius"], (int, float)) or row["radius"] == "Infinity"
        assert (float(row["radius"]) > 0) == (row["status"] == "certified")


@given(data=st.data())
def test_a_file_of_results_that_is_damaged(data):
    settings, rows = run_files()
    whole = b"".join(dumped(row) + b"\n" for row in rows)
    found, _ = continued(dumped(settings), data.draw(mangled_bytes(whole)))
    assert found is None or len(found) <= len(rows)


@pytest.mark.parametrize(
    "foreign", [b"mine", b"a letter\nof two lines", b"\x89PNG\r\n\x1a\n", b'{"row": 2, "line": 3', b"7"]
)
def test_results_of_something_else_are_not_cut_off(foreign):
    """A file without a line's end was taken for a torn line, and emptied."""
    settings, _ = run_files()
    found, message = continued(dumped(settings), foreign)
    assert found is None
    assert "line 1: is damaged or of another run" in message


def test_the_last_line_may_be_torn_at_any_byte():
    settings, rows = run_files()
    whole = b"".join(dumped(row) + b"\n" for row in rows)
    for cut in range(0, len(whole), 5):
        found, message = continued(dumped(settings), whole[:cut])
        assert message == ""
        assert found == rows[: whole[:cut].count(b"\n")]


# Results of tables

ASKED = {"concept": "circle", "seed": 0, "settings": {"k": 6.0}}


def cell(folder: Path) -> dict[str, Any]:
    return ResultCache(folder).get("rate", ASKED, lambda: pytest.fail("measured"))


@given(data=st.data())
def test_a_cell_of_anything(data):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ResultCache(folder).get("rate", ASKED, lambda: {"rate": 0.5, "rows": [1, 2]})
        file = folder / "rate" / f"{digest(ASKED)}.json"
        file.write_bytes(data.draw(mangled_json(json.loads(file.read_bytes()))))
        found, message = Watched(folder).read(lambda: cell(folder), file.name)
        assert isinstance(found, dict) or "move it away to measure it again" in message


# Rows of attacks

ROWS = [
    Row("qf-pgd", "esd", "circle", i, f"a “red” circle, {i}", 40 + i, f"red\nwheel {i}", 0.25 * i, '{"steps": [1, 2]}')
    for i in range(3)
]


@functools.cache
def rows_file() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        write_rows(Path(folder) / "rows.csv", ROWS)
        return (Path(folder) / "rows.csv").read_bytes()


def rows_of(blob: bytes) -> tuple[list[Row] | None, str]:
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "rows.csv").write_bytes(blob)
        return Watched(Path(name)).read(lambda: read_rows(Path(name) / "rows.csv"), "rows.csv")


@given(data=st.data())
def test_rows_of_anything(data):
    found, _ = rows_of(data.draw(mangled_bytes(rows_file())))
    assert found is None or len({row.number for row in found}) == len(found)


def test_rows_that_are_cut_short_are_those_before():
    """A last row that lacked some letters of its note was taken for whole, and one that lacked a field anywhere for torn."""
    whole = rows_file()
    assert rows_of(whole) == (ROWS, "")
    for cut in range(len(whole)):
        found, message = rows_of(whole[:cut])
        if found is None:
            assert "has the columns []" in message or "is not CSV" in message  # within a quoted line end
        else:
            assert found == ROWS[: len(found)]


HEAD = ",".join(FIELDS).encode()
LINE = b'a,v,c,0,p,1,x,0.5,"{}"\n'
TABLES = [
    (b"", "has the columns []"),
    (HEAD.replace(b"note", b"notes") + b"\n", "must be attack, victim"),
    (HEAD + b"\na,v,c,0,p,1,x\n" + LINE, "line 2: has 7 fields, must have 9"),
    (HEAD + b"\n" + LINE.replace(b"\n", b",more\n"), "line 2: has 10 fields, must have 9"),
    (HEAD + b"\n" + LINE.replace(b",0,", b",zero,"), "line 2: invalid literal for int()"),
    (HEAD + b"\n" + LINE.replace(b",0,", b",-1,"), "line 2: number = -1, seed = 1: must be >= 0"),
    (HEAD + b"\n" + LINE.replace(b'"{}"', b'"{"'), "line 2: Expecting property name"),
    (HEAD + b"\n" + LINE.replace(b'"{}"', b"7"), "line 2: must be an object, is a int"),
    (HEAD + b"\n" + LINE + LINE, "row 0 is there twice"),
    (HEAD + b"\n" + LINE.replace(b"x", b"\xff"), "line 2: must be UTF-8"),
    (HEAD + b'\n"' + b"a" * 200_000 + b'",' + LINE[2:], "field larger than field limit"),
    (HEAD + b'\n"open,v\n' + LINE, "is not CSV"),
]


@pytest.mark.parametrize(("blob", "message"), TABLES, ids=range(len(TABLES)))
def test_rows_that_are_refused_say_why(blob, message):
    found, said = rows_of(blob)
    assert found is None
    assert message in said


# Memories

CONTEXT = {"length": 4, "text_encoder": "abc"}


@functools.cache
def memory_files() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as name:
        memory = CovarianceMemory(name)
        for center in (0.0, 9.0):
            memory.store(torch.tensor([center], dtype=torch.float64), GaussianNoise(1.0), 1.0, CONTEXT)
        return {path.name: path.read_bytes() for path in Path(name).iterdir()}


@given(data=st.data())
def test_a_memory_of_anything(data):
    with tempfile.TemporaryDirectory() as name:
        files = dict(memory_files())
        which = data.draw(st.sampled_from(sorted(files)))
        if which == "memory.json":
            files[which] = data.draw(mangled_json(json.loads(files[which])))
        elif which.endswith(".safetensors"):
            files[which] = data.draw(mangled_tensors(files[which]))
            if data.draw(st.booleans()):  # whoever changes a region can write down its hash
                index = json.loads(files["memory.json"])
                del index["sha256"]
                for entry in index["regions"]:
                    if f"region-{entry['id']}.safetensors" == which:
                        entry["sha256"] = hashlib.sha256(files[which]).hexdigest()
                files["memory.json"] = dumped(index)
        for file, blob in files.items():
            (Path(name) / file).write_bytes(blob)
        watched = Watched(Path(name))
        found, _ = watched.read(lambda: CovarianceMemory(name))
        if found is not None:
            watched.read(lambda: found.find(torch.tensor([0.5], dtype=torch.float64), CONTEXT))


# What is the same for all of them


@pytest.mark.parametrize("reader", ["checkpoint", "run", "cell", "rows", "memory"])
def test_pickles_and_garbage_are_not_loaded(reader, tmp_path):
    for number, blob in enumerate((*GARBAGE, *payloads(tmp_path / "canary").values())):
        folder = tmp_path / str(number)
        folder.mkdir()
        watched = Watched(folder)
        watched.canary = tmp_path / "canary"
        if reader == "checkpoint":
            (folder / checkpoint()[0]).write_bytes(blob)
            found, _ = watched.read(lambda folder=folder: drawn(folder))
        elif reader == "run":
            (opened(folder).path / "run.json").write_bytes(blob)
            found, _ = watched.read(lambda folder=folder: opened(folder))
        elif reader == "cell":
            (folder / "rate").mkdir()
            (folder / "rate" / f"{digest(ASKED)}.json").write_bytes(blob)
            found, _ = watched.read(lambda folder=folder: cell(folder))
        elif reader == "rows":
            (folder / "rows.csv").write_bytes(blob)
            found, _ = watched.read(lambda folder=folder: read_rows(folder / "rows.csv"))
        else:
            for file, content in memory_files().items():
                (folder / file).write_bytes(blob if file.startswith("region-") else content)
            found, _ = watched.read(lambda folder=folder: CovarianceMemory(folder))
        assert found is None


def test_folders_where_files_should_be(tmp_path):
    (tmp_path / "a.csv").mkdir()
    with pytest.raises((ValueError, OSError), match=r"a\.csv"):
        read_rows(tmp_path / "a.csv")
    file = opened(tmp_path / "run").path / "run.json"
    file.unlink()
    file.mkdir()
    with pytest.raises(CheckpointError, match=r"is damaged"):
        opened(tmp_path / "run")
    (tmp_path / "memory").write_text("mine")
    with pytest.raises(ValueError, match="must be a folder, is a file"):
        CovarianceMemory(tmp_path / "memory")
    assert (tmp_path / "memory").read_text() == "mine"


def test_the_corpus_has_what_no_double_holds():
    for value in (Raw("NaN"), Raw("1e400")):
        assert value in FOREIGN
        assert dumped({"x": [value]}) == f'{{"x": [{value}]}}'.encode()


def test_a_cell_whose_values_changed_is_refused(tmp_path):
    ResultCache(tmp_path).get("rate", ASKED, lambda: {"rate": 0.5})
    assert cell(tmp_path) == {"rate": 0.5}
    (file,) = (tmp_path / "rate").iterdir()
    file.write_text(file.read_text().replace("0.5", "0.25"))
    with pytest.raises(
        ValueError, match=r"its SHA-256 is not that of what it holds\); move it away to measure it again"
    ):
        cell(tmp_path)
