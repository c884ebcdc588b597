"""`python -m benchmarks [PART …] [--quick] [--out FILE]`: measures, prints the tables, and writes them as Markdown.

    python -m benchmarks                        everything (about half an hour on two cores)
    python -m benchmarks floor stopping         parts of it
    python -m benchmarks --quick                a tenth of the draws, small models only: does it run?

Figures are ratios within one run, medians over rounds. `--out` writes the page of docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch

from benchmarks import floor, gpu, levels, means, processes, rates, side, smoother, spectrum, stopping

INTRODUCTION = """# Benchmarks

Written by `python -m benchmarks --out FILE`. The floor is what nobody can do without: the same noise
drawn and `f` run on it, n times. A certificate draws pilot samples besides (which choose the reference), keeps the
order statistics that it needs, and checks every output for NaN. *Sort everything* is the plain way: stack all outputs,
`torch.sort`, read the same two ranks off. Machines differ and are noisy, so what counts are ratios within one run: all
ways in turns, the median of the rounds' ratios, in brackets their range. Memory is what a run takes beyond what the
model had before it."""


def main() -> int:
    """Runs the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(TABLES)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="a tenth of the draws, no large models")
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    a = parser.parse_args()
    unknown = [part for part in a.parts if part not in TABLES]
    if unknown:
        parser.error(f"PART = {unknown[0]!r}: must be one of {', '.join(TABLES)}")
    pages = [INTRODUCTION, heading()]
    print(pages[1], flush=True)
    for part in a.parts or TABLES:
        text = TABLES[part](a.quick)
        if text:
            print("\n" + text, flush=True)
            pages.append(text)
        if a.out is not None:  # after every part: a run that is stopped has kept what it measured
            a.out.write_text("\n\n".join(pages) + "\n", encoding="utf-8")
    return 0


def heading() -> str:
    """The machine and the versions."""
    cpu = next(
        (line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor() or platform.machine(),
    )
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ", no GPU"
    return (
        f"Taken on {time.strftime('%F')}: {os.cpu_count()} cores of {cpu}{gpu}; Python {platform.python_version()}, torch "
        f"{torch.__version__}, transformers {version('transformers')}, diffusers {version('diffusers')}, "
        f"{torch.get_num_threads()} threads."
    )


def floor_table(quick: bool) -> str:
    """Certificate and sorting over the floor, and memory."""
    lines = [
        "## Certificate ÷ floor",
        "",
        "| f | n | ρ | floor, s | certificate ÷ floor | sort everything ÷ floor | sort ÷ certificate | MB: certificate, sort |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in floor.rows(quick):
        middle, low, high = r.certificate
        lines.append(
            f"| {r.name} | {r.n:,} | {r.rho:g} | {r.floor_seconds:.2f} | **{middle:.2f}** ({low:.2f}–{high:.2f}) | "
            f"{r.sorting[0]:.2f} ({r.sorting[1]:.2f}–{r.sorting[2]:.2f}) | {r.sorting[0] / middle:.2f} | "
            f"{r.certificate_memory:.0f}, {r.sorting_memory:.0f} |"
        )
        print(lines[-1], flush=True)
    lines += [
        "",
        "The plain way takes its reference from the draws that it sorts, which is not valid (T3): it does without pilot draws.",
    ]
    return "\n".join(lines)


def memory_table(quick: bool) -> str:
    """Peak memory of long runs."""
    from benchmarks import memory

    return memory.table(quick)


def processes_table(quick: bool) -> str:
    """One process against two."""
    seconds = processes.compare(quick)
    base = seconds["one process, one thread"]
    rows = [f"| {name} | {taken:.1f} | {base / taken:.2f} |" for name, taken in seconds.items()]
    head = ["## Processes", "", "| | s | speed |", "|---|---|---|"]
    return "\n".join([*head, *rows])


def stopping_table(quick: bool) -> str:
    """Draws saved."""
    lines = [
        "## Draws saved by stopping early",
        "",
        "| question | answer | draws | of | saved |",
        "|---|---|---|---|---|",
    ]
    lines += [f"| {r.question} | {r.decided} | {r.n:,} | {r.maximum:,} | {r.saved:.1%} |" for r in stopping.rows(quick)]
    return "\n".join(lines)


def smoother_table(quick: bool) -> str:
    """The smoother's share of a generation, and other forward passes."""
    lines = ["## The adaptive smoother", "", "| model | share of a 50-step generation |", "|---|---|"]
    lines += [f"| {name} | {part:.1%} |" for name, part in smoother.share(quick).items()]
    if not quick:
        lines += ["", "| forward pass of the ViT-L/14-size encoder | draws a second ÷ float32 |", "|---|---|"]
        lines += [f"| {name} | {ratio:.2f} |" for name, ratio in smoother.forward(quick).items()]
    return "\n".join(lines)


def gpu_table(quick: bool) -> str:
    """Rates on a GPU, where there is one."""
    if not torch.cuda.is_available():
        return "## GPU\n\nNot measured: there was none."
    found = gpu.rates(quick)
    lines = [f"## GPU: {found.pop('device')}", "", "| | draws a second | share of matrix products |", "|---|---|---|"]
    lines += [
        f"| {name} | {row['draws a second']:.0f} | {row['share of matrix products']:.0%} |"
        for name, row in found.items()
    ]
    return "\n".join(lines)


TABLES: dict[str, Callable[[bool], str]] = {
    "side": side.table,
    "decisions": side.decisions_table,
    "floor": floor_table,
    "memory": memory_table,
    "processes": processes_table,
    "stopping": stopping_table,
    "means": means.table,
    "rates": rates.table,
    "levels": levels.table,
    "spectrum": spectrum.table,
    "smoother": smoother_table,
    "gpu": gpu_table,
}


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


if __name__ == "__main__":
    sys.exit(main())
