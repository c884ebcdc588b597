"""`certify classify`: every input of a labelled data set certified, and the certified accuracy against the radius."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from certify import _files, _validate
from certify._text import failure, percent, shown
from certify._workers import Worker
from certify.certificate import words
from certify.cli import checks, terminal
from certify.cli.checks import argument, option
from certify.cli.endings import NO_ANSWER
from certify.cli.folders import below_runs, data_set_run, results_folder, slug, write_summary
from certify.cli.models import device_of
from certify.cli.settings import Device, Draws, FreshRun, Limit, Long, OutRun
from certify.cli.work import inputs_ahead, show_work

if TYPE_CHECKING:
    from certify.datasets import ClassifiedRun, Results
    from certify.montecarlo import Progress

_NOISES = ("gaussian", "uniform")


def _reference(name: str, value: str) -> None:
    from certify.models.references import check_reference

    check_reference(name, value)


def _labelled(name: str, value: Path) -> None:
    from certify.datasets.labelled import SUFFIXES

    path = _files.user_path(name, value)
    if path.is_dir():
        if not any(entry.is_dir() for entry in path.iterdir()):
            raise ValueError(f"{name} = {str(value)!r}: must have a folder of images for each class, or be a file")
    elif path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{name} = {str(value)!r}: must be a folder, or end in {', '.join(SUFFIXES)}")
    else:
        checks.a_file(name, value)


def classify(
    classifier: Annotated[
        str,
        argument(
            "FILE.py:NAME or MODULE:NAME: a torch module, or a function from a batch to logits or labels. It is run.",
            _reference,
        ),
    ],
    data: Annotated[
        Path,
        argument(
            "Inputs with labels: .npz, .pt or .safetensors with x and y, or a folder of images for each class.",
            _labelled,
        ),
    ],
    sigma: Annotated[
        float,
        option(
            "Standard deviation of the noise, in the inputs' unit; of uniform noise half its width.", _validate.positive
        ),
    ],
    noise: Annotated[str, option("gaussian or uniform.", checks.choice(lambda: _NOISES))] = "gaussian",
    n0: Annotated[int, option("Pilot draws, which choose the class.", checks.count(), "--n0")] = 100,
    n: Draws = 10_000,
    alpha: Annotated[float, option("Failure probability of each input's answer.", _validate.failure)] = 1e-3,
    stop_at: Annotated[
        float | None,
        option(
            "Radius in units of the noise: stop drawing when it is decided whether an input has it.", _validate.positive
        ),
    ] = None,
    classes: Annotated[
        int | None, option("How many classes there are, to refuse other labels.", checks.count(2))
    ] = None,
    weights: Annotated[
        Path | None, option("State dict for the module: .safetensors, or .pt of tensors alone.", checks.a_file)
    ] = None,
    size: Annotated[
        int | None, option("Side of the images of a folder: scaled, and cut to the middle square.", checks.count())
    ] = None,
    every: Annotated[int, option("Only every so-manyth input.", checks.count())] = 1,
    limit: Limit = None,
    together: Annotated[
        int, option("Inputs whose draws share batches, and which a kill loses at most.", checks.count())
    ] = 16,
    batch_size: Annotated[
        int | None, option("Inputs in one call of the classifier.", checks.count(), shown="256")
    ] = None,
    seed: Annotated[int, option("Seed of all draws.", checks.count(0))] = 0,
    device: Device = None,
    out_dir: OutRun = None,
    fresh: FreshRun = False,
    long: Long = False,
) -> None:
    """Certify a classifier on a data set, and report the certified accuracy against the radius. A stopped run resumes.

    The class and the radius of an input are those of randomized smoothing (Cohen et al. 2019). Certified accuracy at a radius:
    the share of inputs that have it with the right class; an abstention counts as wrong. Processes that torchrun starts share
    the inputs out through the folder of the results, on one machine or several.
    """
    from certify import GaussianNoise, UniformNoise, plots
    from certify.datasets import ClassifierTask, LabelledSet, class_summary
    from certify.models.references import load_function

    first = out_dir or below_runs(f"classify-{slug(data.stem)}")
    where = device_of(device)
    labelled = LabelledSet.load(data, every=every, size=size)
    terminal.out.print(Text(str(labelled), style="dim"))
    f = load_function(classifier, weights=weights, device=where, argument="classifier")
    task = ClassifierTask.of(
        f,
        labelled.inputs.to(where),
        labelled.labels,
        (GaussianNoise if noise == "gaussian" else UniformNoise)(sigma),
        name=labelled.name,
        function=f"classifier {classifier.rpartition(':')[2]}",
        n0=n0,
        n=n,
        alpha=alpha,
        stop_at=stop_at,
        classes=classes,
        seed=seed,
    )
    asked = len(labelled) if limit is None else min(limit, len(labelled))
    decides = dict(task.settings)
    folder = results_folder(first, decides, fresh, named=out_dir is not None)

    def ahead(there: Collection[int]) -> None:
        left = asked - len(there)
        seconds = inputs_ahead(task, left * (n0 + n), batch_size) / Worker.current().count
        show_work(f"{left:,} inputs, {n:,} draws each", seconds, long=long, at_most=stop_at is not None)

    def certify(results: Results, progress: Progress) -> ClassifiedRun:
        return task.certify(results, together=together, limit=limit, batch_size=batch_size, progress=progress)

    with data_set_run(folder, decides, task, asked=asked, rows="inputs", ahead=ahead, certify=certify) as (
        results,
        run,
    ):
        total = class_summary(run)
        title = f"{labelled.name}: α = {failure(alpha)} an input, n = {n:,}"
        write_summary(
            results,
            total,
            lambda: plots.plot_certified_accuracy((run.decisions, run.labels), title=title),
            "accuracy.png",
        )
    norm = {"l2": "ℓ2", "l1": "ℓ1"}[total["norm"]]
    rows = terminal.table("ρ", f"{norm} radius", "certified accuracy", "")
    for at, length, share in total["certified_accuracy"]:
        rows.add_row(
            shown(at, "exact"), shown(length, "down", 4), percent(share, "down"), f"[cyan]{'█' * int(30 * share)}[/]"
        )
        if share == 0:
            break
    terminal.out.print(rows)
    terminal.out.print(
        f"Of {asked:,} inputs [bold]{total['right']:,} are certified with the right class[/], "
        f"{total['certified'] - total['right']:,} with another one; {total['abstained']:,} "
        f"{'abstains' if total['abstained'] == 1 else 'abstain'}. These count as wrong at every radius. Average radius ρ: "
        f"{shown(float(total['average_certified_radius']), 'down', 4)}."
    )
    said = words.each_prompt(alpha, total["expected_wrong"], terminal.MARKUP, what="input")
    terminal.out.print(f"{said} (n = {n:,}, seed {seed})")
    terminal.show_left_out(words.NOT_COVERED_BY_CLASSES)
    terminal.written(f"{folder}/", " (results.jsonl, summary.json, accuracy.png)")
    if not total["certified"]:
        raise typer.Exit(NO_ANSWER)
