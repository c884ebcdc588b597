"""The cases: every kind of statement, on functions of a few numbers and on the embedded model.

`CASES` names each; it is called with an empty folder and returns JSON values. `RESUMED` are those of them that can be killed
and go on: they are called with a checkpoint, and a function that is told of the draws.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import certify
from certify import Certificate, GaussianNoise, UniformNoise
from certify.adaptive import noise_then_adapt
from certify.adaptive.memory import CovarianceMemory
from certify.bounds import METHODS, ROUTES
from certify.datasets import PromptSet, Results, RowOptions, certify_rows, run_settings
from certify.images.detectors import load_detector
from certify.images.rates import attack_rate_over
from certify.montecarlo import RunFolder
from certify.montecarlo.checkpoint import Checkpoint
from certify.statements.ask import MSE, Curve, Deployed, Percentile, Radius, ask
from tests.golden.compare import as_data, of_certificate, of_result

__all__ = ["CASES", "MODEL", "RESUMED", "private_certificate", "resumed"]

Y = torch.tensor([[0.25, -0.5], [1.0, 0.0]], dtype=torch.float64)
NOISE = GaussianNoise(torch.tensor([[0.5, 0.25], [1.0, 0.0]], dtype=torch.float64))  # an entry without noise
CENTER = torch.tensor([0.5, -1.0, 1.0], dtype=torch.float64)
DRAWN: dict[str, Any] = {"n": 2000, "seed": 11, "function": "golden"}


def f(z: Tensor) -> Tensor:
    """A continuous output, one with an atom, one that is nothing but atoms."""
    return torch.stack([z[:, 0, 0].abs(), 2 * z[:, 0, 1].clamp(max=0.0), (4 * z[:, 1, 0]).floor() / 4], dim=1)


def bounded(z: Tensor) -> Tensor:
    return f(z).clamp(-2.0, 2.0)


def statistic(z: Tensor) -> Tensor:
    """Of K copies: the larger of two means."""
    return torch.maximum(z[:, :, 0, 0].mean(dim=1), z[:, :, 1, 0].mean(dim=1) / 2)


def event(z: Tensor) -> Tensor:
    return statistic(z) > 0.75


def random(z: Tensor, generator: torch.Generator) -> Tensor:
    """Its own randomness comes from the block's generator."""
    return f(z) + torch.randint(0, 4, (len(z), 1), generator=generator).double() / 8


def _certified(results: list[Any], folder: Path, **options: Any) -> dict[str, Any]:
    found = {f"{i:02d}": of_result(result) for i, result in enumerate(results)}
    return {"results": found, "certificate": of_certificate(Certificate.of(*results, **options), folder)}


def percentile(folder: Path) -> Any:
    found = [
        certify.percentile_bounds(f, Y, NOISE, rho=0.5, alpha=0.01, **DRAWN),
        certify.percentile_bounds(f, Y, NOISE, rho=1.0, p=0.9, alpha=0.02, **DRAWN),
        certify.percentile_bounds(bounded, Y, NOISE, rho=5.0, alpha=0.01, support=(-2.0, 2.0), **DRAWN),
        certify.percentile_bounds(f, Y, NOISE, rho=5.0, alpha=0.01, **DRAWN),  # abstains
    ]
    return _certified(found, folder)


def mse(folder: Path) -> Any:
    found = []
    for smoother, method in sorted(METHODS):
        options: dict[str, Any] = {"smoother": smoother, "method": method, "support": (-2.0, 2.0), **DRAWN}
        for rho, reference in itertools.product((0.5, 2.0), ("center", "population")):
            found.append(certify.mse_bound(bounded, Y, NOISE, rho=rho, alpha=0.01, reference=reference, **options))
    for smoother in ("median", "mean"):
        support = (-2.0, 2.0) if smoother == "mean" else None
        found.append(
            certify.mse_bound(bounded, Y, NOISE, rho=1.0, alpha=0.01, smoother=smoother, support=support, **DRAWN)
        )
    found.append(certify.mse_bound(f, Y, NOISE, rho=0.5, alpha=0.01, center=CENTER, **DRAWN))
    found.append(certify.mse_bound(f, Y, NOISE, rho=6.0, alpha=0.01, **DRAWN))  # abstains
    return _certified(found, folder)


def radius(folder: Path) -> Any:
    options: dict[str, Any] = {"alpha": 0.01, "support": (-2.0, 2.0), **DRAWN}
    found = [
        certify.certified_radius(bounded, Y, NOISE, tolerance=4.0, smoother=s, method=m, **options)
        for s, m in sorted(METHODS)
    ]
    found.append(
        certify.certified_radius(bounded, Y, NOISE, tolerance=1e-3, method="coordinatewise", **options)
    )  # abstains
    shape = found[0].ellipsoid
    data = _certified(found, folder)
    data["ellipsoid"] = {
        name: as_data(getattr(shape, name))
        for name in ("dimensions", "log_volume", "proxy_radius", "rho")
        if hasattr(shape, name)
    }
    return data


def curves(folder: Path) -> Any:
    rhos = [0.25, 0.5, 1.0]
    curve, pointwise = (
        certify.bound_curve(f, Y, NOISE, rhos=rhos, alpha=0.03, simultaneous=simultaneous, method=method, **DRAWN)
        for simultaneous, method in ((True, "coordinatewise"), (False, "best"))
    )
    return {"simultaneous": _certified([curve], folder / "a"), "pointwise": _certified([pointwise], folder / "b")}


def deployed(folder: Path) -> Any:
    found = []
    for smoother, method in [*sorted(ROUTES), ("median", "best")]:
        asked: dict[str, Any] = {
            "smoother": smoother,
            "method": method,
            "alpha": 0.01,
            "q": 0.9,
            "replicas": 5,
            **DRAWN,
        }
        found.append(certify.deployed_bound(f, Y, NOISE, rho=0.25, **asked))
        found.append(certify.deployed_bound(bounded, Y, NOISE, rho=0.5, support=(-2.0, 2.0), **asked))
    return _certified(found, folder)


def statistics(folder: Path) -> Any:
    asked: dict[str, Any] = {"q": 0.8, "replicas": 4, "alpha": 0.01, **DRAWN}
    sides = ("upper", "lower", "two-sided")
    found = [certify.statistic_bound(statistic, Y, NOISE, rho=0.25, side=side, **asked) for side in sides]
    found.append(certify.statistic_bound(statistic, Y, NOISE, rho=3.0, **asked))  # abstains
    return _certified(found, folder)


def events(folder: Path) -> Any:
    asked: dict[str, Any] = {"rho": 0.25, "replicas": 4, "alpha": 0.01, **DRAWN}
    found = [certify.event_bound(event, Y, NOISE, two_sided=two_sided, **asked) for two_sided in (False, True)]
    found.append(certify.event_bound(lambda z: z[:, 0, 0, 0] > 100, Y, NOISE, **asked))  # never seen
    others = [{"at": [e.at(rho) for rho in (0.0, 0.1, 1.0)], "radius": e.radius(0.9)} for e in found]
    return {**_certified(found, folder), "other radii": as_data(others)}


def rings(z: Tensor, generator: torch.Generator) -> Tensor:
    """An event that the copies decide in part."""
    return torch.rand(len(z), generator=generator) < 0.05 + 0.2 * event(z)


def means(folder: Path) -> Any:
    asked: dict[str, Any] = {"rho": 0.25, "replicas": 4, "alpha": 0.01, **DRAWN}
    found = [certify.event_bound(rings, Y, NOISE, repeats=3, two_sided=both, **asked) for both in (False, True)]
    found.append(certify.event_bound(rings, Y, NOISE, repeats=2, curve=True, **asked))
    found += [
        certify.mean_bound(lambda z: statistic(z).clamp(-2, 2), Y, NOISE, lower=-2, upper=2, side=side, **asked)
        for side in ("upper", "lower")
    ]
    others = [{"at": [m.at(rho) for rho in (0.0, 0.1, 1.0)], "won": m.won} for m in found]
    return {**_certified(found, folder), "other radii": as_data(others)}


def classes(folder: Path) -> Any:
    asked: dict[str, Any] = {"alpha": 0.01, "n0": 50, "n": 400, "seed": 11}
    found = [
        certify.classify(lambda z, level=level: statistic(z[:, None]) > level, Y, NOISE, classes=2, **options, **asked)
        for level in (0.5, 2.0)
        for options in ({}, {"stop_at": 0.2})
    ]
    return _certified(found, folder)


def rates(folder: Path) -> Any:
    found = [_rate(two_sided=two_sided) for two_sided in (False, True)]
    return [{**of_result(r), "at": as_data([r.at(0.3), r.least(0.3), r.radius(0.95)])} for r in found]


def _rate(**options: Any) -> Any:
    events = [lambda z, level=level: statistic(z) > level for level in (0.5, 0.75, 1.0)]
    ys, copies = [Y, Y + 0.5, Y - 0.25], [1, 4, 3]
    return certify.event_rate_over(
        events, ys, NOISE, rhos=[0.1, 0.25], replicas=copies, n=2000, alpha=0.01, seed=11, **options
    )


def decisions(folder: Path) -> Any:
    asked: dict[str, Any] = {"n": 4000, "alpha": 0.01, "seed": 11, "function": "golden"}
    events = [certify.decide_event(event, Y, NOISE, target=t, rho=0.25, replicas=4, **asked) for t in (0.05, 0.2, 0.9)]
    numbers = [
        certify.decide_statistic(statistic, Y, NOISE, threshold=t, rho=0.25, q=0.8, replicas=4, **asked)
        for t in (0.5, 2.0)
    ]
    ways = ("coordinatewise", "dimension-free")
    distances = [
        certify.decide_mse(f, Y, NOISE, tolerance=t, rho=0.5, method=m, **asked) for t in (0.5, 30.0) for m in ways
    ]
    found = [*events, *numbers, *distances]
    yes = [decision for decision in distances if decision.decided == "yes"]
    return {
        "decisions": [of_result(decision) for decision in found],
        "certificate": of_certificate(Certificate.of(*yes), folder),
    }


def plans(folder: Path) -> Any:
    asked: list[dict[str, Any]] = [
        {"rho": 2.0, "outputs": 59_136},
        {"n": 10_000, "outputs": 59_136},
        {"rho": 1.0, "p": 0.9, "replicas": 13, "population": True},
        {"rho": 0.5, "target": 0.1, "replicas": 13},
        {"n": 500, "target": 0.1, "alpha": 0.01},
        {"rho": 0.25, "noise": UniformNoise(1.0), "outputs": 10},
    ]
    return [of_result(certify.plan(**options)) for options in asked]


def uniform(folder: Path) -> Any:
    noise = UniformNoise(torch.tensor([[0.5, 0.25], [1.0, 0.0]], dtype=torch.float64))
    found = [
        certify.percentile_bounds(f, Y, noise, rho=0.25, alpha=0.01, **DRAWN),
        certify.mse_bound(f, Y, noise, rho=0.25, alpha=0.01, **DRAWN),
        certify.certified_radius(f, Y, noise, tolerance=8.0, alpha=0.01, **DRAWN),
        certify.bound_curve(f, Y, noise, rhos=[0.125, 0.25], alpha=0.01, **DRAWN),
        certify.deployed_bound(f, Y, noise, rho=0.03125, replicas=3, q=0.8, alpha=0.01, **DRAWN),
        certify.statistic_bound(statistic, Y, noise, rho=0.03125, replicas=3, q=0.8, alpha=0.01, **DRAWN),
        certify.event_bound(event, Y, noise, rho=0.03125, replicas=3, alpha=0.01, **DRAWN),
    ]
    return [of_result(result) for result in found]


def policies(folder: Path) -> Any:
    adapting = noise_then_adapt(f, lambda z: 0.25 + z.clamp_min(0).round() / 4, 0.25)
    asked: dict[str, Any] = {"alpha": 0.01, "policy": "noise-then-adapt", **DRAWN}
    found = [
        certify.percentile_bounds(adapting, Y, GaussianNoise(0.25), rho=0.5, **asked),
        certify.mse_bound(adapting, Y, GaussianNoise(0.25), rho=0.5, **asked),
    ]
    made: dict[str, Any] = {"noise-then-adapt": _certified(found, folder / "a")}
    context = {"length": 4}
    memory = CovarianceMemory(folder / "memory")
    places = [(0.0, 0.5), (0.125, 0.25), (2.0, 1.0), (40.0, 0.5)]
    issued = [memory.store(Y + shift, GaussianNoise(size), 1.5, context) for shift, size in places]
    made["memory"] = [
        {"rho": one.rho, "asked": one.requested, "status": one.status, "noise": as_data(one.noise.sigma)}
        for one in issued
    ]
    inside = certify.mse_bound(f, Y + 0.125, issued[1].noise, rho=issued[1].rho, alpha=0.01, policy="memory", **DRAWN)
    made["inside a region"] = _certified([inside], folder / "b")
    return made


def other_functions(folder: Path) -> Any:
    """A random function, float32, a smoother that is repeated by its seed, and a check."""
    asked = [
        Percentile(0.5, alpha=0.01),
        MSE(0.5, 0.01),
        Radius(4.0, 0.01),
        Curve([0.25, 0.5], 0.01),
        Deployed(0.25, 0.9, 0.01, 5),
    ]
    own = ask(random, Y, NOISE, asked, **DRAWN)
    data = {"random": _certified(own, folder / "a")}
    data["float32"] = _certified([certify.mse_bound(f, Y.float(), NOISE, rho=0.5, alpha=0.01, **DRAWN)], folder / "b")
    data["deployed"] = {
        kind.__name__: as_data(kind(f, NOISE, n=7)(Y, seed=3))
        for kind in (certify.MedianSmoother, certify.MeanSmoother)
    }
    checked = Certificate.load(folder / "b").check(f, Y.float(), seed=5, n=500)
    data["check"] = [{"outcome": v.outcome, "p_value": v.p_value} for v in checked.verdicts]
    return data


# --- killed, and resumed -----------------------------------------------------------------------------------------------

Told = Callable[[int, int], None]


def _ask(checkpoint: Checkpoint | None, told: Told | None, **options: Any) -> Any:
    asked = [
        Percentile(0.5, alpha=0.01),
        MSE(0.5, 0.01, "coordinatewise"),
        MSE(0.5, 0.01, "dimension-free"),
        Deployed(0.125, 0.8, 0.01, 3, "replicas"),
    ]
    given = {**DRAWN, "n": 1000, "center": CENTER, "pilot": 64, "batch_size": 64, **options}
    return [of_result(result) for result in ask(f, Y, NOISE, asked, checkpoint=checkpoint, progress=told, **given)]


def _spilled(checkpoint: Checkpoint | None, told: Told | None) -> Any:
    return _ask(checkpoint, told, memory=2**12)


def _statistic(checkpoint: Checkpoint | None, told: Told | None) -> Any:
    """Two shards: what is merged."""
    asked: dict[str, Any] = {"rho": 0.25, "q": 0.8, "replicas": 4, "alpha": 0.01, **DRAWN, "n": 5000}
    return of_result(
        certify.statistic_bound(statistic, Y, NOISE, batch_size=64, checkpoint=checkpoint, progress=told, **asked)
    )


def _event(checkpoint: Checkpoint | None, told: Told | None) -> Any:
    asked: dict[str, Any] = {"rho": 0.25, "replicas": 4, "alpha": 0.01, **DRAWN, "n": 5000}
    return of_result(certify.event_bound(event, Y, NOISE, batch_size=64, checkpoint=checkpoint, progress=told, **asked))


def _rates(checkpoint: Checkpoint | None, told: Told | None) -> Any:
    return of_result(_rate(batch_size=64, checkpoint=checkpoint, progress=told))


RESUMED: dict[str, Callable[[Checkpoint | None, Told | None], Any]] = {
    "ask": _ask,
    "ask-spilled": _spilled,
    "statistic": _statistic,
    "event": _event,
    "rate": _rates,
}
"""What can be killed. Their accumulators' names hold nothing but what is given here, so that a checkpoint of one machine is one
on any other; not so where a sketch is turned by what pilot draws say (T11, T12)."""


def resumed(kind: str, folder: Path, told: Told | None = None) -> Any:
    """A case of `RESUMED`, in a run folder."""
    runs = RunFolder(folder, interval=0)
    with runs.open({"kind": kind}):
        return RESUMED[kind](runs.checkpoint("golden"), told)


# --- the embedded model -------------------------------------------------------------------------------------------------

PROMPT, SHORT = "a photo of a red circle", "red circle"
SMALL: dict[str, Any] = {"n": 400, "alpha": 0.1, "seed": 11, "rhos": [0.25, 0.5], "rho": 0.5, "rho_deployed": 0.125}


@functools.cache
def _pipe() -> Any:
    return certify.load_pipeline()


def _smoother(**options: Any) -> certify.AdaptiveMedianSmoother:
    return certify.AdaptiveMedianSmoother.from_pipeline(
        _pipe(), concepts=["circle"], **{**certify.world.SMOOTHING, **options}
    )


def private_certificate(**options: Any) -> Certificate:
    return _smoother(n=5).certify(PROMPT, statistics=0, tolerance=1.0, private=True, **SMALL, **options)


def prompt_text(folder: Path) -> Any:
    smoother = _smoother(n=5)
    made = smoother.certify(PROMPT, statistics=200, prompts=["a photo of a red wheel", "a dog"], **SMALL)
    private = private_certificate()
    kept = {"certificate": of_certificate(made, folder / "a"), "private": of_certificate(private, folder / "b")}
    return {**kept, "deployed": as_data(smoother.encode(PROMPT, seed=3)[0])}


def prompt_policies(folder: Path) -> Any:
    adapting = _smoother(n=3, policy="noise-then-adapt", sharing="sigma", sigma_min_relative=0.1, smoother="median")
    smoothers = {
        "mean": _smoother(n=5, smoother="mean"),
        "noise-then-adapt": adapting,
        "memory": _smoother(n=3, policy="memory", memory=folder / "memory"),
    }
    smoothers["memory"].remember(SHORT, 0.5)
    asked = {**SMALL, "rhos": None}
    made = {name: smoother.certify(SHORT, statistics=64, **asked) for name, smoother in smoothers.items()}
    return {name: of_certificate(certificate, folder / name) for name, certificate in made.items()}


def prompt_levels(folder: Path) -> Any:
    asked: dict[str, Any] = {"n": 400, "alpha": 0.1, "seed": 11, "rhos": None, "statistics": 0, "tolerance": 0.0}
    return of_certificate(_smoother(n=3, policy="levels").certify("a red circle", **asked), folder)


def prompt_images(folder: Path) -> Any:
    asked: dict[str, Any] = {
        **SMALL,
        "rhos": None,
        "statistics": 64,
        "images": 16,
        "points": 2,
        "steps": 4,
        "guidance": 2.0,
    }
    made = _smoother(n=3).certify(PROMPT, pipe=_pipe(), detector=load_detector("judge:circle"), **asked)
    return of_certificate(made, folder)


def prompt_rates(folder: Path) -> Any:
    smoother, detector = _smoother(n=3), load_detector("judge:circle")
    deployments = [smoother.deployment(prompt) for prompt in (PROMPT, "a blue square")]
    asked: dict[str, Any] = {"rhos": [0.125, 0.25], "n": 32, "alpha": 0.1, "seed": 11, "steps": 4, "guidance": 2.0}
    return of_result(attack_rate_over(deployments, _pipe(), detector, **asked))


def prompt_set(folder: Path) -> Any:
    """Stopped after two of three prompts, one of them refused, and resumed."""
    (folder / "prompts.csv").write_text(f'prompt\n{PROMPT}\n""\na large blue square\n', encoding="utf-8")
    data, options = PromptSet.load(folder / "prompts.csv"), RowOptions(rho=0.5, n=400, alpha=0.1, seed=11)
    for limit in (2, None):
        smoother = _smoother(n=3)
        with Results(folder / "run", run_settings(smoother, data, options), data) as results:
            assert len(results.done) == (0 if limit else 2)
            records = certify_rows(smoother, results, options, limit=limit)
    left_out = ("seconds", "reason", "run", "sha256")
    return [{name: value for name, value in record.items() if name not in left_out} for record in records]


MODEL: dict[str, Callable[[Path], Any]] = {
    "prompt-text": prompt_text,
    "prompt-levels": prompt_levels,
    "prompt-policies": prompt_policies,
    "prompt-images": prompt_images,
    "prompt-rate": prompt_rates,
    "prompt-set": prompt_set,
}
"""Cases of the embedded model, whose tolerance is that of float32."""

CASES: dict[str, Callable[[Path], Any]] = {
    "percentile": percentile,
    "mse": mse,
    "radius": radius,
    "curve": curves,
    "deployed": deployed,
    "statistic": statistics,
    "event": events,
    "mean": means,
    "class": classes,
    "rate": rates,
    "decide": decisions,
    "plan": plans,
    "uniform": uniform,
    "policies": policies,
    "functions": other_functions,
    **{f"resumed-{kind}": functools.partial(resumed, kind) for kind in RESUMED},
    **MODEL,
}
