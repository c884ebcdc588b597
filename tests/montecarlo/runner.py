"""A run as a process of its own, for tests that kill it or start two: prints what the accumulators know.

`--kill 30 60 0` makes three processes, one after the other (forked, so that libraries are loaded once); each kills itself with
SIGKILL after so many calls of f, 0 is not killed. A line a process: how it ended, and what it found.
"""

from __future__ import annotations

import argparse
import os
import signal

import torch
import torch.distributed as dist

from certify import GaussianNoise
from certify.montecarlo import Counts, Distances, ExtremeRanks, Groups, draw
from certify.montecarlo.accumulators import digest
from certify.montecarlo.checkpoint import Checkpoint
from certify.montecarlo.sketch import Spectrum

N = 26_000  # seven shards, the last one short


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkpoint", nargs="*", default=[], help="a folder, or one for each process in turn")
    parser.add_argument("--kill", type=int, nargs="+", default=[0])
    parser.add_argument("--memory", type=int, default=2**30)
    given = parser.parse_args()
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
        drawn(given.kill[0], given.memory, given.checkpoint[0] if given.checkpoint else None)
        dist.destroy_process_group()
        return
    for i, kill in enumerate(given.kill):
        folder = given.checkpoint[i % len(given.checkpoint)] if given.checkpoint else None
        child = os.fork()
        if child == 0:
            drawn(kill, given.memory, folder)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print("ended", -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status), flush=True)


def drawn(kill: int, memory: int, folder: str | None) -> None:
    torch.set_num_threads(1)
    W = torch.randn(6, 40, generator=torch.Generator().manual_seed(0))
    center, calls = torch.zeros(40), 0

    def f(z: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if kill and calls >= kill:
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.sin(z @ W)

    checkpoint = Checkpoint(folder, interval=0.02) if folder else None
    ranks = ExtremeRanks(60, 3000, memory=memory, folder=None if checkpoint is None else checkpoint.folder)
    seen = [ranks, Distances(center), Groups(center, 13, "median"), Spectrum(center, 4.0, rows=8), Events()]
    y, noise = torch.zeros(6), GaussianNoise(1.0)
    draw(f, y, noise, n=N, seed=3, stream="bounding", accumulators=seen, checkpoint=checkpoint)
    found = {
        "low": digest(ranks.smallest(60).contiguous()),
        "high": digest(ranks.largest(3000).contiguous()),
        "distances": digest(seen[1].rows().sort(dim=0).values),
        "groups": digest(seen[2].values().sort().values),
        "spectrum": seen[3].largest.hex(),
        "mean": digest(seen[3].mean),
        "events": int(seen[4].ones),
        "count": seen[4].count,
    }
    if not dist.is_initialized() or dist.get_rank() == 1:
        print("found", found, flush=True)


class Events(Counts):
    """Counts how often the first output is positive."""

    key = "events"

    def widened(self, other: Counts) -> Events:
        return Events()

    def update(self, outputs: torch.Tensor) -> None:
        super().update(outputs[:, 0] > 0)


if __name__ == "__main__":
    main()
