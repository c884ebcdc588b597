"""Side by side: each kind of statement against a plain implementation of what people use, as ratios within one run.

- *stack and sort* (`benchmarks.floor`): all outputs, `torch.sort`, the two ranks of T2;
- *the published classification loop* (Cohen et al. 2019): float32 noise, argmax, counts, Clopper–Pearson; and its bare loop;
- *center smoothing* (Kumar and Goldstein 2021): the draw with the least median distance to the others, the ball around it that
  holds the shifted quantile of the distances, three times its radius;
- *published sequential tests* of "is the probability at most p₀?" at the same α, on the same streams: hedged bets (Waudby-Smith
  and Ramdas 2024, aGRAPA), the KT mixture and the union bound (Voráček 2024; the mixture at α, which Ville's inequality proves,
  where the published code has 2α), stages (Horváth et al. 2022), Robbins' uniform mixture.
"""

from __future__ import annotations

import math
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.special import betaln, ndtr, ndtri
from scipy.stats import beta, binom
from torch import Tensor

from benchmarks import floor, subjects
from benchmarks.measure import in_turns, peak_memory
from certify import GaussianNoise, classify, decide_event, event_bound, mse_bound

__all__ = [
    "SEQUENTIAL",
    "center_smoothing",
    "decisions",
    "decisions_table",
    "digits",
    "published_classifier",
    "table",
]

ALPHA = 1e-3
SIGMA = 0.25
Counts = Any
"""Successes after each draw, (n,)."""


def table(quick: bool = False) -> str:
    """The section of docs/benchmarks.md."""
    lines = [
        "## Side by side",
        "",
        "Each line is one method of `certify` against one plain implementation; a ratio above 1: `certify` takes longer. The",
        "bounds' ratio is that of the distances certified (not squared): below 1, `certify`'s is the sharper. MB: ours, plain.",
        "With one thread the times are processor times.",
        "",
        "| question | method | against | time ÷ plain | bound ÷ plain | MB |",
        "|---|---|---|---|---|---|",
    ]
    for row in (*_distances(quick), *_classifiers(quick)):
        lines.append("| " + " | ".join(row) + " |")
        print(lines[-1], flush=True)
    lines += ["", "### Small costs", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in _small()]
    return "\n".join(lines)


def decisions_table(quick: bool = False) -> str:
    """Its own section: draws until a question is decided."""
    lines = ["## Draws until a question is decided", "", _DECIDING, ""]
    lines += ["| p₀ | p | `certify` | sharpest | ratio |", "|---|---|---|---|---|"]
    for p0, p, mine, least, name in decisions(quick):
        lines.append(f"| {p0:g} | {p:.3g} | {mine:.1f} | {least:.1f} ({name}) | **{mine / least:.2f}** |")
        print(lines[-1], flush=True)
    return "\n".join(lines)


_DECIDING = (
    "Draws that were made, the rest of the last batch included, mean over streams; α = .001. The sharpest is the published "
    "test with the fewest draws, looked at after every draw. The odds of p are 0, ⅒, ½, 2, 10 and ∞ times those of p₀."
)


def _clock() -> Callable[[], float]:
    """One thread's own time does not depend on what else a machine does."""
    return time.process_time if torch.get_num_threads() == 1 else time.perf_counter


def _ratio(found: tuple[float, float, float]) -> str:
    return f"**{found[0]:.2f}** ({found[1]:.2f}–{found[2]:.2f})"


def _distances(quick: bool) -> Iterator[tuple[str, ...]]:
    """T2, T4, T12 and the default against stacking and sorting, the floor, and center smoothing."""
    for made, n in ((partial(subjects.cheap, 770), 10_000), (subjects.embedded, 4_000), (subjects.small_clip, 4_000)):
        yield from _distances_of(made(), n // 10 if quick else n, 1 if quick else 3)


def _distances_of(subject: subjects.Subject, draws: int, rounds: int) -> Iterator[tuple[str, ...]]:
    rho = 1.0

    def floor_only() -> None:
        source, sigma = torch.Generator().manual_seed(0), subject.noise.sigma_for(subject.y.shape).float()
        for start in range(0, draws, 256):
            noise = torch.randn((min(256, draws - start), *subject.y.shape), generator=source)
            subject.f(subject.y + sigma * noise)

    def sorting() -> float:
        outputs = torch.cat([subject.f(z) for z in floor.batches(subject.y, subject.noise, draws)])
        return floor.sorted_bound(outputs, rho)

    def balls() -> float:
        return center_smoothing(subject.f, subject.y, subject.noise, rho, draws) ** 2

    def bound(method: str) -> Any:
        return mse_bound(subject.f, subject.y, subject.noise, rho=rho, n=draws, method=method, alpha=ALPHA)

    ways: dict[str, Callable[[], Any]] = {
        "float32 noise and f": floor_only,
        "stack and sort": sorting,
        "center smoothing": balls,
    }
    for method in ("coordinatewise", "dimension-free", "best", "tightest"):
        ways[method] = partial(bound, method)
    with torch.no_grad():
        times = in_turns(ways, rounds, clock=_clock())
        memory = {name: peak_memory(ways[name]) for name in ("stack and sort", "coordinatewise", "best")}
    least = min(times[m].result.value for m in ("coordinatewise", "dimension-free"))
    label = f"squared distance, {subject.name}, n = {draws:,}"
    named = {m: f"{said}: {times[m].result.theorem}" for m, said in (("best", "default"), ("tightest", "tightest"))}
    for method, name in named.items():
        yield label, name, "float32 noise and f", _ratio(times[method].over(times["float32 noise and f"])), "", ""
    for method, plain in (
        ("coordinatewise", "stack and sort"),
        ("best", "stack and sort"),
        ("best", "center smoothing"),
    ):
        mine, theirs = times[method], times[plain]
        sharper = math.sqrt(mine.result.value / theirs.result) if math.isfinite(theirs.result) else 0.0
        used = f"{memory[method]:.0f}, {memory[plain]:.0f}" if plain in memory else ""
        yield label, named.get(method, "T2"), plain, _ratio(mine.over(theirs)), f"{sharper:.2f}", used
    for method, name in named.items():
        better = math.sqrt(times[method].result.value / least)
        yield label, name, "the better of T2 and T4", "", f"{better:.2f}", ""


def _classifiers(quick: bool) -> Iterator[tuple[str, ...]]:
    """A classifier of 8 × 8 images, by the published loop and here."""
    f, x = digits()
    n, noise = (1_000 if quick else 10_000), GaussianNoise(SIGMA)
    ways: dict[str, Callable[[], Any]] = {
        "noise, forward, argmax, count": lambda: counted(f, x, SIGMA, n, 1),
        "the published loop": lambda: published_classifier(f, x, SIGMA, 100, n, ALPHA),
        "event": lambda: event_bound(
            lambda z: f(z[:, 0]).argmax(dim=1) != 1, x, noise, rho=0.25, replicas=1, n=n, alpha=ALPHA
        ),
        "class": lambda: classify(f, x, noise, n0=100, n=n, alpha=ALPHA),
    }
    with torch.no_grad():
        times = in_turns(ways, 2 if quick else 7, clock=_clock())
        memory = {name: peak_memory(ways[name]) for name in ways}
    for question, method, mine, plain in (
        ("probability of an event", "T5", "event", "noise, forward, argmax, count"),
        ("class and radius", "T1", "class", "the published loop"),
    ):
        used = f"{memory[mine]:.0f}, {memory[plain]:.0f}"
        yield f"{question}, digits, n = {n:,}", method, plain, _ratio(times[mine].over(times[plain])), "", used


def digits() -> tuple[torch.nn.Module, Tensor]:
    """A small convolutional network for 8 × 8 images and ten classes (random weights: only its time matters), and an image."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = torch.nn.Sequential(
            torch.nn.Conv2d(1, 16, 3, padding=1),
            torch.nn.ReLU(),
            torch.nn.Conv2d(16, 32, 3, stride=2, padding=1),
            torch.nn.ReLU(),
            torch.nn.Flatten(),
            torch.nn.Linear(512, 10),
        )
        return network.eval().requires_grad_(False), torch.rand(1, 8, 8)


def counted(f: Callable[[Tensor], Tensor], x: Tensor, sigma: float, n: int, seed: int, size: int = 256) -> Tensor:
    """How often each class was seen in n draws: the bare loop, with float32 noise of torch's."""
    source, seen = torch.Generator().manual_seed(seed), torch.zeros(10, dtype=torch.int64)
    for start in range(0, n, size):
        z = x + sigma * torch.randn((min(size, n - start), *x.shape), generator=source)
        seen += torch.bincount(f(z).argmax(dim=1), minlength=10)
    return seen


def published_classifier(
    f: Callable[[Tensor], Tensor], x: Tensor, sigma: float, n0: int, n: int, alpha: float
) -> tuple[int | None, float]:
    """Certify of Cohen et al. (2019): the class of n0 draws, its Clopper–Pearson limit from n others, σ Φ⁻¹ of it."""
    chosen = int(counted(f, x, sigma, n0, 0).argmax())
    successes = int(counted(f, x, sigma, n, 1)[chosen])
    lower = float(beta.ppf(alpha, successes, n - successes + 1)) if successes else 0.0
    return (chosen, sigma * float(ndtri(lower))) if lower > 0.5 else (None, 0.0)


def center_smoothing(
    f: Callable[[Tensor], Tensor], y: Tensor, noise: GaussianNoise, rho: float, n: int, n0: int = 1_000
) -> float:
    """The radius that center smoothing certifies (Kumar and Goldstein 2021), an ℓ2 distance; ∞ where n does not suffice."""
    first = torch.cat([f(z) for z in floor.batches(y, noise, n0)]).flatten(1)
    middle = first[torch.cdist(first, first).median(dim=1).values.argmin()]
    apart = torch.cat([(f(z).flatten(1) - middle).norm(dim=1) for z in floor.batches(y, noise, n)]).sort().values
    # Half of α that the ball of half the mass is where it seems, half for the quantile of the distances (DKW).
    slack0, slack = (math.sqrt(math.log(2 / (ALPHA / 2)) / (2 * k)) for k in (n0, n))
    level = float(ndtr(ndtri(min(0.5 + slack0, 1 - 1e-12)) + rho)) + slack
    return 3 * float(apart[math.ceil(level * n) - 1]) if level <= 1 else math.inf


def _first(yes: Any, no: Any) -> int:
    reached = np.flatnonzero(yes | no)
    return int(reached[0]) + 1 if len(reached) else len(yes)


def _likelihood(s: Counts, p: float) -> Any:
    n = np.arange(1, len(s) + 1)
    return s * math.log(p) + (n - s) * math.log1p(-p)


def _mixture(a: float, level: float) -> Callable[[Counts, float], int]:
    """The mixture of likelihoods by a Beta(a, a) law against that at p₀."""

    def draws(s: Counts, p0: float) -> int:
        n = np.arange(1, len(s) + 1)
        enough = betaln(s + a, n - s + a) - betaln(a, a) - _likelihood(s, p0) >= -math.log(level)
        return _first(enough & (s < p0 * n), enough & (s > p0 * n))

    return draws


def _hedged(s: Counts, p0: float, most: float = 0.75) -> int:
    """Hedged capital with aGRAPA's bets, half of it on each side."""
    x = np.diff(s, prepend=0)
    mean = (0.5 + s - x) / np.arange(1, len(s) + 1)
    bet = (mean - p0) / (mean * (1 - mean) + (mean - p0) ** 2)
    above = np.log1p(np.clip(bet, 0, most / p0) * (x - p0)).cumsum()
    below = np.log1p(-np.clip(-bet, 0, most / (1 - p0)) * (x - p0)).cumsum()
    return _first(below >= math.log(2 / ALPHA), above >= math.log(2 / ALPHA))


def _at_looks(s: Counts, p0: float, plan: Iterator[tuple[int, float]]) -> int:
    for n, level in plan:
        if n > len(s):
            break
        if min(binom.cdf(s[n - 1], n, p0), binom.sf(s[n - 1] - 1, n, p0)) <= level:
            return n
    return len(s)


def _union(s: Counts, p0: float) -> int:
    """Clopper–Pearson at n growing by a tenth, with shares of α that add up."""
    looks = dict.fromkeys(math.floor(1.1**k) + 1 for k in range(11, 200) if 1.1**k < len(s))
    return _at_looks(s, p0, ((n, 5 * ALPHA / (t + 4) / (t + 5)) for t, n in enumerate(looks, 1)))


def _stages(s: Counts, p0: float) -> int:
    """Clopper–Pearson at 100, 1 000, 10 000 and 120 000 draws, a quarter of α each."""
    return _at_looks(s, p0, iter([(n, ALPHA / 4) for n in (100, 1_000, 10_000, 120_000)]))


SEQUENTIAL: dict[str, Callable[[Counts, float], int]] = {
    "hedged bets": _hedged,
    "KT mixture": _mixture(0.5, ALPHA),
    "uniform mixture": _mixture(1.0, ALPHA),
    "union bound": _union,
    "stages": _stages,
}
"""Each: successes after every draw and p₀ → draws until it is decided on which side of p₀ the probability lies."""


def decisions(quick: bool = False) -> Iterator[tuple[float, float, float, float, str]]:
    """(p₀, p, draws of `decide_event`, those of the sharpest published test, which): the same draws for all."""
    most, streams = 8_000, 5 if quick else 100
    for p0 in (0.02, 0.1, 0.2, 0.5, 0.8):
        for p in (0.0, *(odds * p0 / (1 - p0 + odds * p0) for odds in (0.1, 0.5, 2, 10)), 1.0):
            mine: list[int] = []
            theirs: dict[str, list[int]] = {name: [] for name in SEQUENTIAL}
            for seed in range(streams if 0 < p < 1 else 1):
                level = float(ndtri(p))
                happens = lambda z, level=level: z[:, 0, 0] < level  # noqa: E731
                asked: dict[str, Any] = {
                    "target": p0,
                    "rho": 0.0,
                    "replicas": 1,
                    "alpha": ALPHA,
                    "n": most,
                    "seed": seed,
                }
                y = torch.zeros(1, dtype=torch.float64)
                mine.append(decide_event(happens, y, 1.0, **asked).drawn)
                drawn = torch.cat(list(floor.batches(y, GaussianNoise(1.0), most, seed=seed)))[:, 0]
                successes = (drawn < level).to(torch.int64).cumsum(dim=0).numpy()
                for name, test in SEQUENTIAL.items():
                    theirs[name].append(test(successes, p0))
            name = min(theirs, key=lambda name: sum(theirs[name]))
            yield p0, p, float(np.mean(mine)), float(np.mean(theirs[name])), name


def _small() -> Iterator[tuple[str, str]]:
    """`.radius`, imports and help: milliseconds, and ratios of processor time."""
    bound = event_bound(lambda z: z[:, 0, 0] > 2, torch.zeros(1), 1.0, rho=0.2, replicas=1, n=10_000)
    taken = []
    for _ in range(9):
        started = time.perf_counter()
        bound.radius(0.3)
        taken.append(time.perf_counter() - started)
    yield "`EventBound.radius`", f"{1e3 * sorted(taken)[4]:.2f} ms"
    torch_alone = _processor_time("-c", "import torch")
    for name, script in (
        ("`import certify`", "import certify"),
        ("`import certify`, and `mse_bound` named", "import certify; certify.mse_bound"),
    ):
        yield f"{name} ÷ `import torch`", f"{_processor_time('-c', script) / torch_alone:.2f}"
    yield "`certify --help`", f"{_processor_time('-m', 'certify', '--help'):.2f} s of processor time"


def _processor_time(*arguments: str) -> float:
    """The least of three processes."""

    def once() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    return min(once() for _ in range(3))
