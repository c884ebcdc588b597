"""One run, whoever draws it: several processes under torchrun, a run killed at random moments, another batch size.

The processes are real ones, and so is the SIGKILL.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from certify import GaussianNoise
from certify._digests import json_digest
from certify.montecarlo import AllDraws, ExtremeRanks, RunFolder, draw, draw_packed
from certify.montecarlo.checkpoint import Checkpoint, CheckpointError
from tests.processes import forked
from tests.subjects import outputs_of

ROOT = Path(__file__).resolve().parents[2]


TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")


def run(*arguments: str, launcher: tuple[str, ...] = ()) -> tuple[list[str], list[str]]:
    """How the processes ended, and what those found that were not killed."""
    if launcher:
        done = subprocess.run(
            [*launcher, "tests.montecarlo.runner", *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            check=False,
            timeout=1800,  # against processes that wait for each other, not against slow machines
        )
    else:
        done = forked("tests.montecarlo.runner", *arguments, cwd=ROOT)
    lines = done.stdout.splitlines()
    ended = [line.split()[1] for line in lines if line.startswith("ended")]
    return ended or [str(done.returncode)], [line for line in lines if line.startswith("found")]


@pytest.fixture(scope="module")
def undisturbed() -> str:
    ended, found = run()
    assert ended == ["0"]
    return found[0]


def test_two_processes_are_one_also_after_a_kill(undisturbed, tmp_path):
    ended, found = run("--checkpoint", str(tmp_path), "--kill", "40", launcher=TORCHRUN)
    assert (ended != ["0"], found) == (True, [])
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    assert run("--checkpoint", str(tmp_path), launcher=TORCHRUN) == (["0"], [undisturbed])


def test_a_run_killed_at_twenty_moments_is_the_undisturbed_one(undisturbed, tmp_path):
    """Four runs, each killed five times at random, then left alone. A restart has less to do, so few calls are left."""
    rng = random.Random(0)
    kills = [str(rng.randint(1, 45)) for _ in range(20)]
    folders = [str(tmp_path / str(i)) for i in range(4)]
    ended, found = run("--checkpoint", *folders, "--kill", *kills, "0", "0", "0", "0")
    assert set(ended) == {"-9", "0"}
    assert ended[:20].count("-9") >= 15
    assert ended[20:] == ["0"] * 4
    assert set(found) == {undisturbed}


def test_spilled_draws_survive_a_kill(undisturbed, tmp_path):
    arguments = ("--checkpoint", str(tmp_path), "--memory", str(2**16))
    ended, found = run(*arguments, "--kill", "30", "50", "0")
    assert ended == ["-9", "-9", "0"]
    assert list(tmp_path.rglob("draws-*.npy"))
    assert found == [undisturbed]


Y = torch.zeros(3)


def drawn(folder: Path, *, f=torch.sin, seed: int = 0, n: int = 9000, name: str = "") -> ExtremeRanks:
    acc = ExtremeRanks(5, 5)
    checkpoint = Checkpoint(folder, interval=0, function=name)
    draw(f, Y, GaussianNoise(1.0), n=n, seed=seed, stream="bounding", accumulators=[acc], checkpoint=checkpoint)
    return acc


def test_a_finished_run_is_not_drawn_again(tmp_path):
    first = drawn(tmp_path)
    again = drawn(tmp_path, f=lambda z: pytest.fail("drew"))
    assert torch.equal(first.largest(5), again.largest(5))


def test_another_run_has_another_file(tmp_path):
    drawn(tmp_path)
    (file,) = tmp_path.iterdir()
    before = file.read_bytes()
    alone = drawn(tmp_path / "alone", seed=1)
    assert torch.equal(drawn(tmp_path, seed=1).largest(5), alone.largest(5))
    assert file.read_bytes() == before
    drawn(tmp_path, n=5000)
    drawn(tmp_path, name="another function")
    assert len(list(tmp_path.glob("*.safetensors"))) == 4


def test_a_checkpoint_under_the_name_of_another_run_is_refused(tmp_path):
    drawn(tmp_path)
    (file,) = tmp_path.iterdir()
    drawn(tmp_path, seed=1)
    (other,) = set(tmp_path.iterdir()) - {file}
    other.write_bytes(file.read_bytes())
    with pytest.raises(ValueError, match="belongs to another run \\(seed differ\\); move it away"):
        drawn(tmp_path, seed=1)


def test_runs_that_spill_into_one_folder_do_not_meet(tmp_path):
    """Their files had the same names, whatever the seed."""

    def spilled(seed: int, stop: int = 0) -> ExtremeRanks:
        acc, calls = ExtremeRanks(3000, 3000, memory=2**12), 0

        def f(z):
            nonlocal calls
            calls += 1
            if calls == stop:
                raise KeyboardInterrupt
            return torch.sin(z)

        how = {"n": 9000, "seed": seed, "stream": "bounding", "checkpoint": Checkpoint(tmp_path, interval=0)}
        draw(f, Y, GaussianNoise(1.0), accumulators=[acc], **how)
        return acc

    plain = ExtremeRanks(3000, 3000)
    draw(torch.sin, Y, GaussianNoise(1.0), n=9000, seed=0, stream="bounding", accumulators=[plain])
    for seed, stop in ((0, 5), (1, 25), (0, 22), (1, 0)):
        with contextlib.suppress(KeyboardInterrupt):
            spilled(seed, stop)
    found = spilled(0)
    for rank in (1, 40, 3000):
        assert torch.equal(found.largest(rank), plain.largest(rank))
        assert torch.equal(found.smallest(rank), plain.smallest(rank))


FULL = """
import resource, sys
import torch
from certify import GaussianNoise
from certify.montecarlo import AllDraws, draw
from certify.montecarlo.checkpoint import Checkpoint
calls = 0
def f(z):
    global calls
    calls += len(z)
    if calls >= 2000:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    return torch.sin(z)
how = dict(n=4000, seed=0, stream="pilot", checkpoint=Checkpoint(sys.argv[1], interval=0))
try:
    draw(f, torch.zeros(3), GaussianNoise(1.0), accumulators=[AllDraws()], **how)
except OSError as error:
    print(error)
"""


def test_a_full_disk_leaves_the_last_save_and_says_so(tmp_path):
    """It was an error of the file format's library that nothing caught. Here a limit on the size of files is the full disk."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=True, env=environment
    )
    (line,) = done.stdout.splitlines()
    assert f"checkpoint {str(tmp_path)!r} cannot be written (File too large)" in line
    kept = int(line.partition("what was saved after ")[2].partition(" draws is whole")[0].replace(",", ""))
    assert 256 <= kept < 2000
    count = 0

    def f(z):
        nonlocal count
        count += len(z)
        return torch.sin(z)

    acc = AllDraws()
    how = {"n": 4000, "seed": 0, "stream": "pilot", "checkpoint": Checkpoint(tmp_path, interval=0)}
    draw(f, Y, GaussianNoise(1.0), accumulators=[acc], **how)
    assert count == 4000 - kept + 64  # a block is evaluated again
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda b: b[: len(b) // 2],
        lambda b: b"",
        lambda b: b[:-8] + bytes(8),
        lambda b: b[:200] + b"x" + b[201:],
    ],
)
def test_a_damaged_checkpoint_is_refused(tmp_path, change):
    drawn(tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(ValueError, match="damaged"):
        drawn(tmp_path)


def test_draws_of_the_first_streams_are_not_mixed_with_others(tmp_path):
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    drawn(tmp_path)
    (file,) = tmp_path.iterdir()
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    for older in (2, 3):
        run = json.loads(metadata["run"]) | {"format": f"certify checkpoint {older}"}
        save_file(load_file(file), file, metadata=metadata | {"run": json.dumps(run)})
        with pytest.raises(CheckpointError, match="is damaged or no checkpoint; move it away"):
            drawn(tmp_path)
    settings = {"format": "certify run 1", "n": 5}
    (tmp_path / "run").mkdir()
    old = json.dumps({"digest": json_digest(settings), "settings": settings})
    (tmp_path / "run" / "run.json").write_text(old, encoding="utf-8")
    with RunFolder(tmp_path / "run").open({"n": 5}) as kept:
        assert not kept.resumed
    assert (tmp_path / "run" / "run.json").read_text() == old


def test_an_interrupted_run_keeps_its_batches(tmp_path):
    calls = 0

    def f(z):
        nonlocal calls
        calls += 1
        if calls == 26:  # one of them looked whether it is a function
            raise KeyboardInterrupt
        return torch.sin(z)

    with pytest.raises(KeyboardInterrupt):
        drawn(tmp_path, f=f)
    count = 0

    def g(z):
        nonlocal count
        count += len(z)
        return torch.sin(z)

    whole = drawn(tmp_path, f=g)
    assert count == 9000 - 24 * 256 + 64
    assert torch.equal(whole.largest(3), drawn(tmp_path / "other").largest(3))


def test_batches_are_halved_where_memory_ends():
    sizes = []

    def f(z):
        if len(z) > 50:
            raise torch.OutOfMemoryError("no room")
        sizes.append(len(z))
        return z

    acc, other = ExtremeRanks(4, 4), ExtremeRanks(4, 4)
    draw(f, Y, GaussianNoise(1.0), n=700, seed=0, stream="bounding", accumulators=[acc])
    draw(lambda z: z, Y, GaussianNoise(1.0), n=700, seed=0, stream="bounding", accumulators=[other])
    assert max(sizes) == 32
    assert sum(sizes) == 700 + 64
    assert torch.equal(acc.smallest(4), other.smallest(4))

    def never(z):
        raise torch.OutOfMemoryError("no room")

    with pytest.raises(torch.OutOfMemoryError):
        draw(never, Y, GaussianNoise(1.0), n=700, seed=0, stream="bounding", accumulators=[ExtremeRanks(1, 1)])


def test_drawing_ends_when_no_more_is_wanted():
    """In parts of the wanted sizes, cut at the end of a block; the draws are those of a run that draws all."""
    sizes: list[int] = []

    def f(z):
        sizes.append(len(z))
        return z

    seen, wants = AllDraws(), iter([16, 10, 100, 0])
    drawn = draw_packed(
        f,
        [Y],
        [GaussianNoise(1.0)],
        n=100_000,
        seeds=[3],
        stream="bounding",
        accumulators=[[seen]],
        wanted=lambda _: next(wants),
        again="never",
    )
    assert drawn == [126]
    assert sizes == [16, 10, 100]
    assert torch.equal(seen.stacked(), outputs_of(lambda z: z, Y, GaussianNoise(1.0), n=126, seed=3))


def test_several_inputs_share_a_batch_as_far_as_they_want_draws():
    """Each has the draws that it has by itself, whatever the order; nobody has more than it wanted."""
    inputs, wanted = [Y, Y + 1, Y - 1], {0: 40, 1: 150, 2: 0}
    seen = [AllDraws() for _ in inputs]

    def wants(i: int) -> int:
        return wanted[i] - seen[i].count

    drawn = draw_packed(
        lambda z: z,
        inputs,
        [GaussianNoise(1.0)] * 3,
        n=1000,
        seeds=[0, 1, 2],
        stream="bounding",
        accumulators=[[one] for one in seen],
        wanted=wants,
        batch_size=32,
    )
    assert drawn == [40, 150, 0]
    for i, one in enumerate(seen[:2]):
        assert torch.equal(one.stacked(), outputs_of(lambda z: z, inputs[i], GaussianNoise(1.0), n=wanted[i], seed=i))
