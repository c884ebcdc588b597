"""One process against two: the same certificate under `torchrun --nproc-per-node 2`, one thread a process.

Run by itself (`python -m benchmarks.processes`, or under torchrun) it certifies the embedded encoder once and prints
seconds and value.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time

__all__ = ["compare"]

N = 81_920


def compare(quick: bool = False) -> dict[str, float]:
    """Median seconds of one process with one thread, one with two, and two with one each, and whether values agree."""
    rounds, n = (1, N // 10) if quick else (3, N)
    ways = {
        "one process, one thread": (1, [sys.executable, "-m", "benchmarks.processes"]),
        "one process, two threads": (2, [sys.executable, "-m", "benchmarks.processes"]),
        "two processes, one thread each": (
            1,
            [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "benchmarks.processes"],
        ),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    values: dict[str, float] = {}
    for _ in range(rounds):
        for name, (threads, command) in ways.items():
            environment = os.environ | {"OMP_NUM_THREADS": str(threads), "CERTIFY_BENCHMARK_N": str(n)}
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            said = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
            seconds[name].append(said["seconds"])
            values[name] = said["value"]
    one, two = values["one process, one thread"], values["two processes, one thread each"]
    if one != two:
        raise ValueError(f"two processes found {two!r} where one found {one!r}: must be the same, bit for bit")
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def main() -> None:
    """Certifies once in this process, or as one of several."""
    import torch
    import torch.distributed as dist

    from benchmarks import subjects
    from certify import mse_bound

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
    subject, n = subjects.embedded(), int(os.environ.get("CERTIFY_BENCHMARK_N", str(N)))

    def bound(draws: int) -> float:
        return mse_bound(subject.f, subject.y, subject.noise, rho=1.0, n=draws, method="coordinatewise").value

    bound(4096)
    started = time.perf_counter()
    value = bound(n)
    if not dist.is_initialized() or dist.get_rank() == 0:
        print(json.dumps({"seconds": time.perf_counter() - started, "value": value}), flush=True)
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
