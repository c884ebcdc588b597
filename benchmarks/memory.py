"""Memory and disk of coordinate-wise bounds at the largest size: outputs of a whole text encoder, n = 100 000 draws.

At ρ = 2 the ranks that a joint bound needs are few and stay in memory; at ρ = ½ they are more than half of all draws, which
go to disk. Every measurement is made in a process of its own, by the largest resident set that the system saw (pages of files
that are mapped count too); the disk is looked at from outside while the process runs.

    python -m benchmarks.memory N OUTPUTS RHO MEMORY
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

__all__ = ["measure", "rows", "table"]

GIB = 2**30
INPUTS = 64


def rows(quick: bool = False) -> list[dict[str, Any]]:
    """The table: at ρ = 2 and ρ = ½, with 1 GiB for kept draws. `quick`: a tenth of the outputs and draws."""
    n, outputs, memory = (10_000, 5_914, GIB // 100) if quick else (100_000, 59_136, GIB)
    return [measure(n, outputs, rho, memory) for rho in (2.0, 0.5)]


def table(quick: bool = False) -> str:
    """`rows` as a section of Markdown."""
    lines = [
        "## Memory of long runs",
        "",
        "| draws | outputs | ρ | rank | for kept draws | peak in all | disk | minutes | after the last draw |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows(quick):
        sizes = [f"{r[name] / GIB:.2f} GiB" for name in ("memory", "peak", "disk")]
        cells = [f"{r['n']:,}", f"{r['outputs']:,}", f"{r['rho']:g}", f"{max(r['ranks']):,}", *sizes]
        lines.append("| " + " | ".join([*cells, f"{r['minutes']:.1f}", f"{r['of which answers']:.1f}"]) + " |")
    return "\n".join(lines)


def measure(
    n: int,
    outputs: int,
    rho: float,
    memory: int,
    *,
    reference: str = "center",
    batch: int | None = None,
    folder: str | Path | None = None,
) -> dict[str, Any]:
    """A percentile box and an MSE bound of a cheap bounded function, from one pass.

    Args:
        n, outputs, rho: draws, outputs of the function, radius.
        memory: bytes that kept draws may take.
        reference: what the MSE is measured to, "center" or "population".
        batch: inputs in one call of the function; None: the default of a bound.
        folder: where there is room on disk, at most 4 n · outputs bytes; None: the system's temporary folder.

    Returns:
        The arguments, `ranks` (of each end), `value` (the MSE bound), `minutes`, `of which answers` (after the last draw),
        `peak` (bytes of the largest resident set, with the libraries), `start` (before the first draw), `disk` (bytes).

    Raises:
        RuntimeError: the process failed.
    """
    with tempfile.TemporaryDirectory(prefix="certify-memory-", dir=folder) as room:
        command = [sys.executable, "-m", "benchmarks.memory", str(n), str(outputs), str(rho), str(memory)]
        process = subprocess.Popen(
            [*command, "--reference", reference, *([] if batch is None else ["--batch", str(batch)])],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": room},
            cwd=Path(__file__).resolve().parent.parent,
        )
        disk = 0
        while process.poll() is None:
            time.sleep(0.2)
            disk = max(disk, _used(Path(room)))
        printed = process.stdout.read() if process.stdout is not None else ""
        if process.returncode:
            raise RuntimeError(f"{' '.join(command[1:])}: ended with {process.returncode}")
    return {**json.loads(printed), "disk": disk}


def _used(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:  # removed in between
            continue
    return total


def _measured(n: int, outputs: int, rho: float, memory: int, reference: str, batch: int | None) -> dict[str, Any]:
    import torch

    from certify import GaussianNoise
    from certify.statements.ask import MSE, Percentile, ask

    W = torch.randn(INPUTS, outputs, generator=torch.Generator().manual_seed(0)) / INPUTS**0.5
    drawn, start = 0.0, _peak()

    def f(z: torch.Tensor) -> torch.Tensor:
        return torch.tanh(z @ W)

    def progress(done: int, of: int) -> None:
        nonlocal drawn
        drawn = time.monotonic()
        if sys.stderr.isatty():
            print(f"\r{done:,} of {of:,} draws, {_peak() / GIB:.2f} GiB", end="", file=sys.stderr)

    begun = time.monotonic()
    y = torch.linspace(-1, 1, INPUTS)
    box, bound = ask(
        f,
        y,
        GaussianNoise(0.5),
        [Percentile(rho), MSE(rho, method="coordinatewise")],
        n=n,
        reference=reference,
        memory=memory,
        progress=progress,
        **({} if batch is None else {"batch_size": batch}),
    )
    ended = time.monotonic()
    return {
        "n": n,
        "outputs": outputs,
        "rho": rho,
        "memory": memory,
        "reference": reference,
        "ranks": [box.lower_rank, box.upper_rank],
        "value": bound.value,
        "minutes": (ended - begun) / 60,
        "of which answers": (ended - drawn) / 60,
        "start": start,
        "peak": _peak(),
    }


def _peak() -> int:
    """Bytes of the largest resident set of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    """One measurement, in this process; prints it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("n", type=int)
    parser.add_argument("outputs", type=int)
    parser.add_argument("rho", type=float)
    parser.add_argument("memory", type=int, help="bytes for kept draws")
    parser.add_argument("--reference", choices=("center", "population"), default="center")
    parser.add_argument("--batch", type=int)
    a = parser.parse_args()
    print(json.dumps(_measured(a.n, a.outputs, a.rho, a.memory, a.reference, a.batch)))


if __name__ == "__main__":
    main()
