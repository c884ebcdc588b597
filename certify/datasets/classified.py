"""Classifiers: every input of a data set is certified, a line of JSON each, and a killed run goes on where it was.

The folder is that of `certify.datasets.results`: `settings.json`, `results.jsonl`. A line has the input's number from 1, its
true label, the certified one (null: abstained), the radii, the count and the seed, from which `certify.classify` gives the
same answer.
What a run comes to is `certified_accuracy(run.decisions, run.labels, rhos)`, and its figure
`certify.plots.plot_certified_accuracy`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import Tensor

from certify import _validate
from certify._digests import json_digest, tensor_digest
from certify._records import Record
from certify._version import __version__
from certify.bounds.classification import Classification
from certify.datasets.results import Results
from certify.montecarlo import Function, row_seed
from certify.noise import Noise, as_noise
from certify.progress import as_progress
from certify.statements.classify import ClassifyManyOptions, classify_many

__all__ = ["ClassifiedRow", "ClassifiedRun", "classify_dataset"]

FORMAT = "certify classes 1"
"""Of the files of such a run."""


@dataclass(frozen=True)
class ClassifiedRow(Record):
    """One line of a run: its number from 1, the `true` label, and the rest as of `Classification`."""

    row: int
    true: int
    label: int | None
    candidate: int
    rho: float
    radius: float
    n: int
    successes: int
    decided: str | None
    status: str
    reason: str
    seed: int


@dataclass(frozen=True)
class ClassifiedRun(Record):
    """What `classify_dataset` returns.

    Attributes:
        decisions: a row an input, in the data set's order; fewer where `limit` ended the run.
        settings: what decided them.
    """

    decisions: tuple[ClassifiedRow, ...]
    settings: Mapping[str, Any]

    @property
    def labels(self) -> tuple[int, ...]:
        """The true labels."""
        return tuple(row.true for row in self.decisions)


@dataclass(frozen=True)
class _Inputs:
    """The data of a run, as `Results` needs them."""

    rows: Sequence[Tensor]
    source: Mapping[str, Any]


@_validate.suggests(ClassifyManyOptions)
def classify_dataset(
    f: Function,
    inputs: Sequence[Tensor] | Tensor,
    labels: Sequence[int] | Tensor,
    noise: Noise | float,
    *,
    folder: str | Path,
    n0: int = 100,
    alpha: float = 1e-3,
    stop_at: float | None = None,
    classes: int | None = None,
    together: int = 16,
    limit: int | None = None,
    **options: Unpack[ClassifyManyOptions],
) -> ClassifiedRun:
    """Certifies every input of a data set, and keeps each answer on disk as soon as it is there.

    A run that was killed goes on from the inputs that are done, to the same answers; so does one with a larger `limit`.

    Args:
        f: as in `certify.classify`. The weights of a module are identified, and must not change.
        inputs: (inputs, *input), or a list of tensors of one shape.
        labels: the true classes, one an input.
        noise: as in `certify.classify`.
        folder: of the results, made if need be; one with results of another run is refused.
        n0, alpha, stop_at, classes: as in `certify.classify`; α is of each answer by itself: about α · inputs may be wrong.
        together: inputs whose draws are packed together, and of which a kill loses the work. Answers do not depend on it.
        limit: only the first inputs; None: all.
        **options: as in `certify.classify_many`. Say in `function` what a classifier is that is not a module.

    Returns:
        `ClassifiedRun`.

    Raises:
        ValueError, TypeError: as `certify.classify_many`; the folder holds another run's results, or damaged ones.
    """
    truth = labels.tolist() if isinstance(labels, Tensor) else list(labels)
    if not len(inputs) or len(truth) != len(inputs):
        raise ValueError(f"labels has {len(truth)} entries, inputs {len(inputs)}: must be one an input, at least one")
    truth = [_validate.count(f"labels[{i}]", label, minimum=0) for i, label in enumerate(truth)]
    xs = [_validate.own_tensor(f"inputs[{i}]", x) for i, x in enumerate(inputs)]
    together = _validate.count("together", together)
    rows = len(xs) if limit is None else min(len(xs), _validate.count("limit", limit))
    asked: dict[str, Any] = {"n0": n0, "alpha": alpha, "stop_at": stop_at, "classes": classes}
    settings = _settings(f, xs, truth, as_noise(noise, xs[0]), {**asked, **options})
    report, seed = as_progress(options.get("progress")), _validate.seed_value(options.get("seed", 0))
    quiet: Any = {**asked, **options, "progress": None}
    with Results(folder, settings, _Inputs(xs, settings["data"])) as results:
        while len(results.done) < rows:
            begun, first = time.perf_counter(), len(results.done)
            numbers = range(first, min(first + together, rows))
            seeds = [row_seed(seed, number + 1) for number in numbers]
            made = classify_many(f, [xs[i] for i in numbers], noise, seeds=seeds, **quiet)
            seconds = round((time.perf_counter() - begun) / len(made), 3)
            for number, decision in zip(numbers, made, strict=True):
                results.append({"row": number + 1, **_line(decision, truth[number]), "seconds": seconds})
                if report is not None:
                    report(number + 1, rows)
        done = results.done[:rows]
    return ClassifiedRun(tuple(_row(record) for record in done), settings)


def _settings(
    f: Function, xs: Sequence[Tensor], labels: Sequence[int], noise: Noise, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything that decides a run's results, as JSON values."""
    from certify.models import fingerprint

    about = {
        "rows": len(xs),
        "inputs_sha256": json_digest([tensor_digest(x) for x in xs]),
        "labels_sha256": json_digest(list(labels)),
    }
    weights = fingerprint(f) if isinstance(f, torch.nn.Module) else None
    scale = getattr(noise, "scale", None)
    decisive = {name: value for name, value in options.items() if name not in ("batch_size", "progress")}
    return {
        "format": FORMAT,
        "version": __version__,
        "data": about,
        "model": weights,
        "dtype": str(xs[0].dtype).removeprefix("torch."),
        "device": xs[0].device.type,
        "noise": {"kind": type(noise).__name__, "scale": None if scale is None else tensor_digest(scale)},
        "n": 10_000,
        "seed": 0,
        "function": "classifier",
        "policy": "frozen",
        **decisive,
    }


def _line(decision: Classification, true: int) -> dict[str, Any]:
    """The record of an answer. `radius`, in every run's file 0 or more, is that in units of the noise."""
    return {
        "true": true,
        "label": decision.label,
        "candidate": decision.candidate,
        "radius": _word(decision.rho),
        "l2_radius": _word(decision.radius),
        "n": decision.n,
        "successes": decision.successes,
        "decided": decision.decided,
        "status": decision.status,
        "reason": decision.reason,
        "seed": decision.run.seed,
    }


def _row(record: Mapping[str, Any]) -> ClassifiedRow:
    kept = {name: record[name] for name in ClassifiedRow.__dataclass_fields__ if name not in ("rho", "radius")}
    return ClassifiedRow(rho=_number(record["radius"]), radius=_number(record["l2_radius"]), **kept)


def _word(radius: float) -> float | str:
    """JSON has no infinity."""
    return "Infinity" if math.isinf(radius) else radius


def _number(value: float | str) -> float:
    return math.inf if value == "Infinity" else float(value)
