"""Classifiers: every input of a data set is certified, a line of JSON each, and a killed run goes on where it was.

The folder is that of `certify.datasets.records`: `settings.json`, `results.jsonl`. A line has the input's number from 1, its
true label, the certified one (null: abstained), the radii, the count and the seed, from which `certify.classify` gives the
same answer.
What a run comes to is `certified_accuracy(run.decisions, run.labels, rhos)`, and its figure
`certify.plots.plot_certified_accuracy`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict, Unpack

import torch
from torch import Tensor

from certify import _validate
from certify._digests import json_digest, tensor_digest
from certify._records import Record
from certify._version import __version__
from certify._workers import Worker
from certify.bounds.classification import Classification
from certify.datasets.records import CLASSES, RunRecord
from certify.datasets.results import Results
from certify.montecarlo import Function, Progress, row_seed
from certify.noise import Noise, as_noise
from certify.progress import as_progress
from certify.statements.classify import ClassifyManyOptions, classify_many

__all__ = ["ClassifiedRow", "ClassifiedRun", "ClassifierTask", "classify_dataset"]


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

    @classmethod
    def of(cls, record: RunRecord) -> ClassifiedRun:
        """A run that was read back with `RunRecord.load`.

        Raises:
            ValueError: it is one over prompts, or a row of it lacks something.
        """
        if not record.of_classes:
            raise ValueError(f"run is of the format {record.settings.get('format')!r}: must be {CLASSES!r}")
        try:
            return cls(tuple(_row(row) for row in record.rows), record.settings)
        except (KeyError, TypeError) as error:
            raise ValueError(f"run has a row that is no input of a classifier ({error!r})") from error

    @property
    def labels(self) -> tuple[int, ...]:
        """The true labels."""
        return tuple(row.true for row in self.decisions)


_CHECKED: Mapping[str, Callable[[str, Any], Any]] = {
    "n0": _validate.count,
    "n": _validate.count,
    "alpha": _validate.failure,
    "stop_at": _validate.positive,
    "classes": lambda name, value: _validate.count(name, value, minimum=2),
    "seed": lambda name, value: _validate.count(name, value, minimum=0),
}
"""Before a folder is made: `classify_many` checks them, too."""


class ClassifierTaskOptions(TypedDict, total=False):
    """What decides the answers beside inputs and noise, as in `certify.classify_many`."""

    n0: int
    n: int
    alpha: float
    stop_at: float | None
    classes: int | None
    seed: int
    policy: str
    function: str


@dataclass(frozen=True, eq=False)
class ClassifierTask:
    """What a run is about: a classifier, its inputs and how they are certified, checked. `Results` takes it as its data.

    Attributes:
        f: the classifier.
        rows: the inputs.
        labels: their true classes.
        noise: of all inputs.
        asked: the options of `certify.classify_many` that decide the answers.
        source: what the record says of the data.
        settings: everything that decides the results, as JSON values.
    """

    f: Function
    rows: Sequence[Tensor] = field(repr=False)
    labels: Sequence[int]
    noise: Noise
    asked: Mapping[str, Any]
    source: Mapping[str, Any]
    settings: Mapping[str, Any]

    @classmethod
    @_validate.suggests(ClassifierTaskOptions)
    def of(
        cls,
        f: Function,
        inputs: Sequence[Tensor] | Tensor,
        labels: Sequence[int] | Tensor,
        noise: Noise | float,
        *,
        name: str | None = None,
        **options: Unpack[ClassifierTaskOptions],
    ) -> ClassifierTask:
        """Arguments and errors as of `classify_dataset`."""
        truth = labels.tolist() if isinstance(labels, Tensor) else list(labels)
        if not len(inputs) or len(truth) != len(inputs):
            raise ValueError(
                f"labels has {len(truth)} entries, inputs {len(inputs)}: must be one an input, at least one"
            )
        truth = [_validate.count(f"labels[{i}]", label, minimum=0) for i, label in enumerate(truth)]
        xs = [_validate.own_tensor(f"inputs[{i}]", x) for i, x in enumerate(inputs)]
        asked: dict[str, Any] = {"n0": 100, "alpha": 1e-3, "stop_at": None, "classes": None, "n": 10_000, "seed": 0}
        asked |= {"function": "classifier", "policy": "frozen", **options}
        for option, check in _CHECKED.items():
            if asked[option] is not None:
                check(option, asked[option])
        source = {
            "name": name,
            "rows": len(xs),
            "inputs_sha256": json_digest([tensor_digest(x) for x in xs]),
            "labels_sha256": json_digest(truth),
        }
        noise = as_noise(noise, xs[0])
        return cls(f, xs, truth, noise, asked, source, _settings(f, xs[0], noise, source, asked))

    def certify(
        self,
        results: Results,
        *,
        together: int = 16,
        limit: int | None = None,
        batch_size: int | None = None,
        progress: Progress | bool | None = None,
    ) -> ClassifiedRun:
        """Certifies the inputs that are not done yet. Arguments and errors as of `classify_dataset`."""
        together = _validate.count("together", together)
        rows = len(self.rows) if limit is None else min(len(self.rows), _validate.count("limit", limit))
        report = as_progress(progress)
        for numbers in results.ahead(rows, together):
            begun = time.perf_counter()
            seeds = [row_seed(self.asked["seed"], number) for number in numbers]
            made = classify_many(
                self.f,
                [self.rows[i - 1] for i in numbers],
                self.noise,
                seeds=seeds,
                batch_size=batch_size,
                **self.asked,
            )
            seconds = round((time.perf_counter() - begun) / len(made), 3)
            for number, decision in zip(numbers, made, strict=True):
                results.append({"row": number, **_line(decision, self.labels[number - 1]), "seconds": seconds})
                if report is not None:
                    report(min(len(results.done), rows), rows)
        results.merge()
        done = [record for record in results.done if record["row"] <= rows]
        return ClassifiedRun(tuple(_row(record) for record in done), self.settings)


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
    name: str | None = None,
    worker: Worker | None = None,
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
        name: of the data set, for the record; None: it has none.
        worker: which of several processes this is, that share the inputs out through the folder and all return the whole run;
            None: as the launcher says (`RANK`, `WORLD_SIZE`).
        **options: as in `certify.classify_many`. Say in `function` what a classifier is that is not a module.

    Returns:
        `ClassifiedRun`.

    Raises:
        ValueError, TypeError: as `certify.classify_many`; the folder holds another run's results, or damaged ones.
    """
    asked: dict[str, Any] = {"n0": n0, "alpha": alpha, "stop_at": stop_at, "classes": classes, **options}
    how = {name: asked.pop(name, None) for name in ("batch_size", "progress")}
    task = ClassifierTask.of(f, inputs, labels, noise, name=name, **asked)
    with Results(folder, task.settings, task, worker=worker or Worker.current()) as results:
        return task.certify(results, together=together, limit=limit, **how)


def _settings(
    f: Function, x: Tensor, noise: Noise, source: Mapping[str, Any], asked: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything that decides a run's results, as JSON values."""
    from certify.models import fingerprint

    scale = getattr(noise, "scale", None)
    return {
        "format": CLASSES,
        "version": __version__,
        "data": dict(source),
        "model": fingerprint(f) if isinstance(f, torch.nn.Module) else None,
        "dtype": str(x.dtype).removeprefix("torch."),
        "device": x.device.type,
        "noise": {
            "kind": type(noise).__name__,
            "scale": None if scale is None else tensor_digest(scale),
            "value": float(scale) if isinstance(scale, Tensor) and scale.numel() == 1 else None,
        },
        **asked,
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
