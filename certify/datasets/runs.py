"""Running: every prompt of a file is certified, a line of JSON each, and a killed run resumes where it was.

What a defence withstands on a benchmark is reported, as in the randomized-smoothing literature (Cohen et al. 2019), as the
*certified fraction* at radius ρ: the share of all prompts whose certified radius is at least ρ,

    F(ρ) = #{i : ρ̂_i ≥ ρ} / N,      ρ̂_i = the largest radius at which the smoothed encoding stays within the tolerance,

where a prompt without a radius (the certificate abstains, or the prompt is refused: empty, or longer than the context and not
to be cut, `truncate`) has ρ̂ = 0 and stays in the denominator. The tolerance is the same squared distance for all prompts, or
each prompt's own squared concept-removal distance.

**What α is.** Each prompt's certificate holds with probability 1 − α. Nothing is split over prompts: of N certified prompts
at most αN are wrong in expectation, and all of them hold at once with probability 1 − αN by the union bound. Each row draws
from a seed of its own, derived from the seed and the row's number; neither the order of work nor a restart enters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, cast

from certify import _validate
from certify.datasets.prompt_files import PromptSet
from certify.datasets.records import FORMAT
from certify.datasets.results import Results
from certify.datasets.rows import RowOptions, certify_row
from certify.defence import Defence
from certify.montecarlo import Progress
from certify.montecarlo.processes import Processes
from certify.progress import as_progress

if TYPE_CHECKING:
    from certify.adaptive import AdaptiveMedianSmoother

__all__ = ["certify_rows", "run_settings"]

_STEPS = 1000  # of progress, a row


def run_settings(
    adaptive: AdaptiveMedianSmoother | Defence, data: PromptSet, options: RowOptions, *, pipe: Any = None
) -> dict[str, Any]:
    """Everything that decides a run's results, as JSON values. How many rows are done, and in what batches, does not."""
    from certify._version import __version__
    from certify.models import fingerprint

    call = sorted(adaptive.calls.options.items()) if isinstance(adaptive, Defence) else None
    smoother = (adaptive.adaptive if isinstance(adaptive, Defence) else adaptive).settings()
    smoother.pop("memory_sha256", None)  # grows with every row
    about = data.source
    if (
        options.private
    ):  # a digest of few enough prompts says which they are, and files are called after what is in them
        about = {"name": "private", "rows": len(data.rows), "sha256": None}
    return {
        "format": FORMAT,
        "version": __version__,
        "data": about,
        "model": adaptive.encoder.fingerprint() if pipe is None else fingerprint(pipe),
        "dtype": str(adaptive.encoder.dtype).removeprefix("torch."),
        "device": adaptive.encoder.device.type,
        "smoother": smoother,
        **asdict(options),
        **({} if call is None else {"call": {name: repr(value) for name, value in call}}),
    }


def certify_rows(
    adaptive: AdaptiveMedianSmoother | Defence,
    results: Results,
    options: RowOptions,
    *,
    limit: int | None = None,
    pipe: Any = None,
    batch_size: int | None = None,
    memory: int | None = None,
    progress: Progress | bool | None = None,
    source: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Certifies the rows that are not done yet, one after the other, and returns the records of all.

    Several processes that opened the same results as workers share the rows out; each returns when all rows are done.

    Args:
        adaptive, options, pipe, batch_size, memory, source: as in `certify_row`; those that the results' settings were made of.
            The weights are identified once, and must not change while the rows are certified.
        results: where they go. An interruption leaves there what was done.
        limit: only the first rows; None: all. A later call with a larger limit resumes from there.
        progress: True: a bar; or a function that is called with (done, total) over all rows.

    Raises:
        ValueError: the results are of other settings; or there are several workers, and the covariance policy is one whose
            regions depend on the order of the rows, or `torch.distributed`, which shares out draws, is initialised.
    """
    from certify.certificate import ModelRecord

    if not results.worker.alone:
        if getattr(adaptive, "policy", "") == "memory":
            raise ValueError(
                "policy = 'memory': must be left to a single process, since a region depends on those before it"
            )
        if Processes.current().count > 1:
            raise ValueError("torch.distributed is initialised: must not be where several processes share rows out")

    if run_settings(adaptive, cast(PromptSet, results.data), options, pipe=pipe) != results.settings:
        raise ValueError("results are of other settings: must be opened with those of this run")
    if isinstance(adaptive, Defence):
        model = adaptive.model(whole=bool(options.statistics or options.images))
    else:
        model = ModelRecord.of(adaptive.encoder.text_encoder if pipe is None else pipe)
    rows = results.data.rows[: None if limit is None else _validate.count("limit", limit)]
    overall = as_progress(progress)

    def tick(row: int) -> Progress:
        def report(now: int, total: int) -> None:
            if overall is not None:
                overall((row - 1) * _STEPS + _STEPS * now // max(total, 1), len(rows) * _STEPS)

        return report

    for row in (rows[number - 1] for numbers in results.ahead(len(rows)) for number in numbers):
        report = tick(min(len(results.done) + 1, len(rows)))
        report(0, 1)
        record, certificate = certify_row(
            adaptive,
            row,
            options,
            pipe=pipe,
            batch_size=batch_size,
            memory=memory,
            progress=report,
            model=model,
            source=source,
        )
        if certificate is not None and options.save_certificates:
            # A kill between the two leaves a certificate without a line: the row is done again, to the same claims.
            certificate.save(results.certificate_folder(row.number), overwrite=True)
        results.append(record)
        report(1, 1)
    results.merge()
    return [record for record in results.done if record["row"] <= len(rows)]
