"""Whole data sets: every prompt of a file is certified, a line of JSON each, and a killed run goes on where it was.

What a defence withstands on a benchmark is reported, as in the randomized-smoothing literature (Cohen et al. 2019), as the
*certified fraction* at radius ρ: the share of all prompts whose certified radius is at least ρ,

    F(ρ) = #{i : ρ̂_i ≥ ρ} / N,      ρ̂_i = the largest radius at which the smoothed encoding stays within the tolerance,

where a prompt without a radius (the certificate abstains, or the prompt is refused: empty, or longer than the context and not
to be cut, `truncate`) has ρ̂ = 0 and stays in
the denominator. The tolerance is the same squared distance for all prompts, or each prompt's own yardstick.

**What α is.** Each prompt's certificate holds with probability 1 − α. Nothing is split over prompts: of N certified prompts
at most αN are wrong in expectation, and all of them hold at once with probability 1 − αN by the union bound. Each row draws
from a seed of its own, derived from the seed and the row's number; neither the order of work nor a restart enters.

**On disk** a run is a folder with `settings.json` (what decides the results: data, model, smoother, draws, and a digest of it),
`results.jsonl` (a line a prompt, in the file's order, each with the run's digest), and with `certificates/` if they are kept.
A line is written at once and flushed to disk. After a kill a torn last line is dropped and its prompt done again. A folder of
another run is refused, and nothing in it is changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import math
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from certify import _files, _validate
from certify._digests import json_digest
from certify._text import shown
from certify.bounds.base import default_pilot
from certify.datasets.prompt_files import PromptRow, PromptSet
from certify.montecarlo import Progress
from certify.progress import as_progress

if TYPE_CHECKING:
    from certify.adaptive import AdaptiveMedianSmoother
    from certify.certificate import Certificate, Claim, ModelRecord

__all__ = [
    "FORMAT",
    "FRACTION_RHOS",
    "PromptRow",
    "PromptSet",
    "Results",
    "RowOptions",
    "certified_fraction",
    "certify_row",
    "certify_rows",
    "estimated_seconds",
    "read_record",
    "row_seed",
    "run_settings",
    "settings_of",
    "summary",
]

FRACTION_RHOS = (0.1, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 3.0)
"""Radii at which the certified fraction is reported."""

FORMAT = "certify prompts 2"
"""Of the files of a run."""

OLDER = "certify prompts 1"
"""Lines had no digest, and streams were others: it can be reported, and not gone on with."""

_DATA = "private.json"  # which data a private run is about, for its owner alone

_STEPS = 1000  # of progress, a row


# What is done with a row


@dataclass(frozen=True)
class RowOptions:
    """How every prompt is certified.

    Attributes:
        rho: radius of the reported bound, in units of ‖·‖_Σ.
        tolerance: squared ℓ2 distance for the certified radius; None: each prompt's own yardstick.
        n: draws of the encoding, a prompt.
        alpha: failure probability, a prompt.
        seed: from which each row's seed is derived.
        statistics, images, detector, steps, guidance: as in `certify.adaptive.certification.certify_prompt`; 0 statistics and
            0 images need the text encoder alone.
        private: leave prompts, their words and the other columns out of what is written, which only the owner may read: σ and
            relevance in it identify the words for whoever has the model.
        save_certificates: keep each row's certificate in a folder.

    Raises:
        ValueError, TypeError: an option is out of range.
    """

    rho: float = 1.0
    tolerance: float | None = None
    n: int = 10_000
    alpha: float = 1e-3
    seed: int = 0
    statistics: int = 0
    images: int = 0
    detector: str | None = None
    steps: int = 50
    guidance: float = 7.5
    private: bool = False
    save_certificates: bool = False

    def __post_init__(self) -> None:
        _validate.positive("rho", self.rho)
        if self.tolerance is not None:
            _validate.positive("tolerance", self.tolerance)
        _validate.count("n", self.n)
        _validate.failure("alpha", self.alpha)
        _validate.seed_value(self.seed)
        _validate.count("statistics", self.statistics, minimum=0)
        _validate.count("images", self.images, minimum=0)
        _validate.count("steps", self.steps)
        _validate.positive("guidance", self.guidance)
        if self.images and self.detector is None:
            raise ValueError(f"images = {self.images}, detector = None: must have a detector to look at images with")


def row_seed(seed: int, number: int) -> int:
    """The seed of a row: 48 bits of a hash of the run's seed and the row's number, so that rows share no draws."""
    return int.from_bytes(hashlib.sha256(f"certify row {seed} {number}".encode()).digest()[:6], "big")


def certify_row(
    adaptive: AdaptiveMedianSmoother,
    row: PromptRow,
    options: RowOptions,
    *,
    pipe: Any = None,
    batch_size: int | None = None,
    memory: int | None = None,
    progress: Progress | bool | None = None,
    model: ModelRecord | None = None,
    source: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Any], Certificate | None]:
    """Certifies a row's prompt.

    Under policy "memory" no radius is searched for (it could exceed the stored region): the certified radius is then the
    largest of a simultaneous curve whose bound is within the tolerance.

    Args:
        adaptive: the smoother.
        row: the prompt. One that is empty, holds no word, or does not fit into the context, is refused, as is one for which the
            memory has no room.
        options: how.
        pipe: the pipeline that the smoother is built on, for statistics with noise predictions and for images.
        batch_size, memory, progress: as in `certify.statements.ask.ask`.
        model: which weights these are, where many rows are certified; None: computed here.
        source: where the model comes from, for the certificate's record.

    Returns:
        What goes on record (without "run"), and the certificate; None for a refused prompt. In the record: "status" is
        "certified" (the radius is > 0), "abstained" (`reason` says why) or "refused" (`reason`); "radius" is the certified
        radius for "tolerance", 0 without one; "bound" the bound at "rho", None without one, to be compared with
        "yardstick", a squared distance; "alpha" the failure probability of all that together, "n" the draws; "named" whether
        the prompt names the concept (`certify.adaptive.mention`); "others" the certificate's other claims; "seconds" the time
        it took; "truncated", of a prompt that was cut, its "tokens" and how many were "kept", begin and end included.
    """
    from certify.adaptive.certification import DEFAULT_RHOS

    started = time.perf_counter()
    seed, named = row_seed(options.seed, row.number), not options.private
    head: dict[str, Any] = {"row": row.number, "line": row.line}
    if named:
        head |= {"prompt": row.prompt, "columns": dict(row.columns)}

    def refused(reason: str) -> tuple[dict[str, Any], None]:
        seconds = round(time.perf_counter() - started, 3)
        return head | {"status": "refused", "radius": 0.0, "reason": reason, "seed": seed, "seconds": seconds}, None

    reason = _unfit(adaptive, row.prompt, named)
    if reason:
        return refused(reason)
    remembers = adaptive.policy == "memory"
    try:
        certificate = adaptive.certify(
            row.prompt,
            rho=options.rho,
            tolerance=None if remembers else options.tolerance,
            rhos=DEFAULT_RHOS if remembers else None,
            n=options.n,
            alpha=options.alpha,
            seed=seed,
            pipe=pipe,
            detector=options.detector if options.images else None,
            statistics=options.statistics,
            images=options.images,
            steps=options.steps,
            guidance=options.guidance,
            private=options.private,
            batch_size=batch_size,
            memory=memory,
            progress=progress,
            model=model,
            provenance={"source": dict(source or {})},
        )
    except ValueError as error:
        if not remembers:
            raise
        return refused(str(error))
    cut = certificate.provenance.get("truncated")
    if cut:
        head |= {"truncated": cut}
    return head | _outcome(certificate, options, seed, started), certificate


def _unfit(adaptive: AdaptiveMedianSmoother, prompt: str, named: bool) -> str:
    """Why a prompt cannot be certified; "" where it can. A private reason quotes nothing."""
    try:
        tokenized = adaptive.encoder.tokenize(prompt)
    except ValueError as error:
        return str(error) if named else "the prompt does not fit into the context"
    if tokenized.empty:
        return "the prompt is empty"
    return "" if tokenized.words else "the prompt holds no word"


def _outcome(certificate: Certificate, options: RowOptions, seed: int, started: float) -> dict[str, Any]:
    stick = certificate.provenance["yardstick"]
    within = stick["distance"] if options.tolerance is None else options.tolerance
    bound = next(c for c in certificate.claims if c.quantity == "mse" and c.scope == "single")
    searched = next((c for c in certificate.claims if c.quantity == "radius"), None)
    radius, by, reason = 0.0, "", ""
    if searched is not None:
        radius, by, reason = searched.rho, searched.method, searched.reason
    elif certificate.curve is not None:
        inside = [c for c in certificate.curve.points if c.value is not None and c.value <= within]
        if inside:
            radius, by = inside[-1].rho, inside[-1].method
        else:
            reason = f"no bound of the curve is within the tolerance {shown(within, 'exact')}"
    else:
        reason = "the tolerance is 0: without its most relevant word the prompt has the same encoding"
    return {
        "status": "certified" if radius > 0 else "abstained",
        "radius": _word(radius if radius > 0 else 0.0),
        "tolerance": within,
        "method": by,
        "rho": bound.rho,
        "bound": bound.value if bound.status == "certified" else None,
        "bound_method": bound.method,
        "yardstick": {k: v for k, v in stick.items() if v is not None},
        "alpha": certificate.alpha,
        "n": options.n,
        "seed": seed,
        "reason": reason if radius <= 0 else "",
        "named": certificate.provenance["concept_in_prompt"]["named"],
        "others": [_brief(c) for c in certificate.claims if c is not bound and c is not searched],
        "seconds": round(time.perf_counter() - started, 3),
    }


def _brief(claim: Claim) -> dict[str, Any]:
    names = ("function", "quantity", "rho", "q", "value", "alpha", "n", "theorem", "method", "status")
    return {name: _word(v) for name in names if (v := getattr(claim, name)) is not None}


def _word(value: Any) -> Any:
    """JSON has no infinity: it becomes the word that `float` reads."""
    return "Infinity" if isinstance(value, float) and value == math.inf else value


# What is kept


def run_settings(
    adaptive: AdaptiveMedianSmoother, data: PromptSet, options: RowOptions, *, pipe: Any = None
) -> dict[str, Any]:
    """Everything that decides a run's results, as JSON values. How many rows are done, and in what batches, does not."""
    from certify._version import __version__
    from certify.models import fingerprint

    smoother = adaptive.settings()
    del smoother["memory_sha256"]  # grows with every row
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
    }


def _digest(record: Mapping[str, Any]) -> str:
    """Of a record without its digest."""
    return json_digest({name: value for name, value in record.items() if name != "sha256"})


def settings_of(folder: Path) -> dict[str, Any] | None:
    """What decided the results of a run that is in a folder; None: there is none.

    Raises:
        ValueError: the file that says so is damaged.
    """
    path = folder / "settings.json"
    if not path.exists():
        return None
    try:
        there = _files.read_json(path)
        settings = dict(there["settings"])
        intact = there["digest"] == json_digest(settings)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{str(path)!r}: is damaged ({error!r}); choose another folder") from None
    if not intact:
        raise ValueError(f"{str(path)!r}: is damaged (its digest differs); choose another folder")
    return settings


def read_record(line: bytes, number: int, run: str, *, sealed: bool = True) -> tuple[dict[str, Any] | None, str]:
    """A line of `results.jsonl`, None where it is no JSON, and in words why it is not the record of a row; "": it is.

    Args:
        line: without its end.
        number: of the row.
        run: the digest of the run's settings.
        sealed: whether each line has a digest of its own.
    """
    try:
        record = _files.json_value(line)
    except ValueError as error:
        return None, f"it is not JSON: {error}"
    if not isinstance(record, dict):
        return {}, "it is no JSON object"
    if sealed and record.get("sha256") != _digest(record):
        return record, "its SHA-256 is not that of what it holds"
    status, radius = record.get("status"), record.get("radius")
    size: Any = math.inf if radius == "Infinity" else radius
    fits = isinstance(size, (int, float)) and not isinstance(size, bool) and size >= 0
    seconds = record.get("seconds", 0)
    if record.get("row") != number or isinstance(record.get("row"), bool):
        return record, f"row = {record.get('row')!r}, must be {number}"
    if record.get("run") != run:
        return record, f"run = {record.get('run')!r}, must be {run!r}"
    if status not in ("certified", "abstained", "refused"):
        return record, f"status = {status!r}"
    if not fits or (size > 0) != (status == "certified"):
        return record, f"radius = {radius!r} and status = {status!r}"
    if not isinstance(seconds, (int, float)) or isinstance(seconds, bool) or not seconds >= 0:
        return record, f"seconds = {seconds!r}, must be a number >= 0"
    if not isinstance(record.get("line", 0), int) or not isinstance(record.get("reason", ""), str):
        return record, "line and reason must be a whole number and a string"
    return record, ""


class Results:
    """The results of a run in its folder, for one writer at a time; a context manager.

    Args:
        folder: made if it is not there.
        settings: of `run_settings`.
        data: the rows they are about.

    Attributes:
        done: the records that are there, in the rows' order.

    Raises:
        FileExistsError: the folder is a file.
        ValueError: the folder holds results of another run, damaged ones, or is being written by another process. Nothing
            is changed then.
    """

    def __init__(self, folder: str | Path, settings: Mapping[str, Any], data: PromptSet) -> None:
        self.folder, self.data = Path(folder), data
        self.settings = json.loads(json.dumps(settings, allow_nan=False))
        self.run = json_digest(self.settings)[:16]
        self.done: list[dict[str, Any]] = []
        if self.folder.exists() and not self.folder.is_dir():
            raise FileExistsError(f"out = {str(folder)!r}: is a file; must be a folder")
        self._private = bool(self.settings.get("private"))
        _files.make_folder(self.folder, owner_only=self._private)
        self._compare()
        file: BinaryIO = _files.log(self.folder / "results.jsonl", owner_only=self._private)
        try:
            self._lock(file)
            whole = self._read(file)
            self._same_data()
            file.truncate(whole)
            file.seek(0, os.SEEK_END)
        except BaseException:
            file.close()
            raise
        self._file = file

    def __enter__(self) -> Results:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, record: Mapping[str, Any]) -> None:
        """Writes the next row's record, and returns when it is on disk."""
        if record["row"] != len(self.done) + 1:
            raise ValueError(f"record of row {record['row']}: must be of row {len(self.done) + 1}, the next one")
        kept = json.loads(json.dumps({**record, "run": self.run}, allow_nan=False))
        kept["sha256"] = _digest(kept)
        line, end = (json.dumps(kept, ensure_ascii=False) + "\n").encode(), os.fstat(self._file.fileno()).st_size
        try:
            while line:
                line = line[os.write(self._file.fileno(), line) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(end)
            whole = f"the results of {len(self.done):,} prompts are whole"
            raise OSError(
                error.errno,
                f"out = {str(self.folder)!r} cannot be written ({error.strerror}); {whole}: when there is room the same "
                "command goes on from there",
            ) from error
        self.done.append(kept)
        if self._private and len(self.done) == len(self.data.rows):
            (self.folder / _DATA).unlink(missing_ok=True)

    def certificate_folder(self, number: int) -> Path:
        """Where a row's certificate is kept."""
        return self.folder / "certificates" / f"{number:0{max(4, len(str(len(self.data.rows))))}d}"

    def _compare(self) -> None:
        """Refuses the folder of another run; an empty one gets the settings."""
        settings = settings_of(self.folder)
        if settings is None:
            foreign = [name for name in _WRITTEN if (self.folder / name).exists()]
            if foreign:
                raise ValueError(
                    f"out = {str(self.folder)!r}: holds {foreign[0]} without settings.json; choose another folder"
                )
            kept = {"digest": json_digest(self.settings), "settings": self.settings}
            text = json.dumps(kept, indent=2, ensure_ascii=False) + "\n"
            _files.write(self.folder / "settings.json", text, owner_only=self._private)
            return
        names = [name for name in {**self.settings, **settings} if settings.get(name) != self.settings.get(name)]
        if names:
            raise ValueError(
                f"out = {str(self.folder)!r}: holds the results of another run ({', '.join(names)} "
                f"differ{'s' if len(names) == 1 else ''}); choose another folder"
            )

    def _same_data(self) -> None:
        """Refuses to go on with other data than those that a private run is about."""
        path = self.folder / _DATA
        if not self._private or len(self.done) == len(self.data.rows):
            return
        if not path.exists() and not self.done:
            key = secrets.token_hex(32)
            _files.write(path, json.dumps({"key": key, "data": self._mark(key)}) + "\n", owner_only=True)
            return
        try:
            there = _files.read_json(path)
            same = there["data"] == self._mark(str(there["key"]))
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(f"{str(path)!r}: is damaged ({error}); choose another folder") from error
        if not same:
            raise ValueError(
                f"out = {str(self.folder)!r}: holds the results of another run (data differs); choose another folder"
            )

    def _mark(self, key: str) -> str:
        return hmac.digest(key.encode(), json_digest(self.data.source).encode(), "sha256").hex()

    def _read(self, file: BinaryIO) -> int:
        """Reads the whole lines, and returns how many bytes they are."""
        file.seek(0)
        lines = file.read().split(b"\n")
        torn = lines.pop()  # what follows the last line's end: nothing, or a torn line
        whole = 0
        for number, line in enumerate(lines, start=1):
            record, wrong = read_record(line, number, self.run)
            if record is None and number == len(lines):
                torn = line  # a file system may have kept a line's end without its beginning
                break
            if not wrong and number > len(self.data.rows):
                wrong = f"the data have {len(self.data.rows)} rows"
            if wrong or record is None:
                self._refuse(number, wrong)
            else:
                self.done.append(record)
                whole += len(line) + 1
        # It is cut off: what cannot be the beginning of a line of ours is somebody else's.
        begin = b'{"row": %d' % (len(self.done) + 1)
        if torn.strip(b"\0") and not (torn.startswith(begin) or begin.startswith(torn)):
            self._refuse(len(self.done) + 1, "it is not one that was cut short")
        return whole

    def _refuse(self, number: int, wrong: str) -> None:
        file = str(self.folder / "results.jsonl")
        raise ValueError(f"{file!r}, line {number}: is damaged or of another run ({wrong}); choose another folder")

    def _lock(self, file: BinaryIO) -> None:
        try:
            import fcntl
        except ImportError:  # no such locks on this system
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"out = {str(self.folder)!r}: another process is writing there") from None


_WRITTEN = ("results.jsonl", "summary.json", "fraction.png", "certificates", _DATA)
"""What a run writes beside its settings."""


def certify_rows(
    adaptive: AdaptiveMedianSmoother,
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

    Args:
        adaptive, options, pipe, batch_size, memory, source: as in `certify_row`; those that the results' settings were made of.
            The weights are identified once, and must not change while the rows are certified.
        results: where they go. An interruption leaves there what was done.
        limit: only the first rows; None: all. A later call with a larger limit goes on from there.
        progress: True: a bar; or a function that is called with (done, total) over all rows.

    Raises:
        ValueError: the results are of other settings.
    """
    from certify.certificate import ModelRecord

    if run_settings(adaptive, results.data, options, pipe=pipe) != results.settings:
        raise ValueError("results are of other settings: must be opened with those of this run")
    model = ModelRecord.of(adaptive.encoder.text_encoder if pipe is None else pipe)
    rows = results.data.rows[: None if limit is None else _validate.count("limit", limit)]
    overall = as_progress(progress)

    def tick(row: int) -> Progress:
        def report(now: int, total: int) -> None:
            if overall is not None:
                overall((row - 1) * _STEPS + _STEPS * now // max(total, 1), len(rows) * _STEPS)

        return report

    for row in rows[len(results.done) :]:
        report = tick(row.number)
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
    return results.done[: len(rows)]


def estimated_seconds(
    adaptive: AdaptiveMedianSmoother,
    rows: Sequence[PromptRow],
    options: RowOptions,
    *,
    pipe: Any = None,
    batch_size: int | None = None,
) -> float:
    """About how long the rows take: a small certificate of the first one that is not refused is timed, term by term.

    Nothing is kept of it, nor stored in a memory.
    """
    from certify.adaptive.certification import certify_prompt
    from certify.certificate import ModelRecord

    model = ModelRecord.of(adaptive.encoder.text_encoder if pipe is None else pipe)
    fit = [row for row in rows if not _unfit(adaptive, row.prompt, named=False)]
    if not fit:
        return 0.0

    def timed(n: int, statistics: int = 0, images: int = 0) -> float:
        started = time.perf_counter()
        certify_prompt(
            adaptive,
            fit[0].prompt,
            rho=options.rho,
            rhos=None,
            n=n,
            pipe=pipe,
            detector=options.detector if images else None,
            statistics=statistics,
            images=images,
            steps=options.steps,
            guidance=options.guidance,
            batch_size=batch_size,
            model=model,
        )
        return time.perf_counter() - started

    few, more = 64, 256
    timed(few)  # whatever happens only once
    least = timed(few)
    draws = options.n + default_pilot(options.n) - 2 * few
    each = max(0.0, timed(more) - least) / (more - few)
    seconds = least + each * max(0, draws)
    if options.statistics:
        seconds += max(0.0, timed(few, statistics=8) - least) / 8 * options.statistics
    if options.images:  # one with the defence and one without; half as many are made without as with it
        seconds += max(0.0, timed(few, images=1) - least) / 2 * 1.5 * options.images
    return seconds * len(fit)


# What is reported


def certified_fraction(radii: Sequence[float], rho: float) -> float:
    """The share of prompts whose certified radius is at least ρ.

    Args:
        radii: a certified radius a prompt; 0 for those without one, which count.
        rho: > 0.

    Raises:
        ValueError: rho is out of range, there is no radius, or one is negative or NaN.
    """
    rho, values = _validate.positive("rho", rho), list(radii)
    if not values or not all(value >= 0 for value in values):
        raise ValueError(f"radii = {values!r}: must be one or more numbers >= 0, one a prompt")
    return sum(value >= rho for value in values) / len(values)


def summary(records: Sequence[Mapping[str, Any]], options: RowOptions) -> dict[str, Any]:
    """What the records of a run come to, as JSON values.

    "certified_fraction" pairs radii with fractions; "average_certified_radius" is the mean over all prompts, 0 for those
    without a radius (Zhai et al. 2020); "expected_wrong" bounds the expected number of prompts whose certificate is wrong.

    Raises:
        ValueError: there is no record.
    """
    radii = [float(record["radius"]) for record in records]
    rhos = sorted({*FRACTION_RHOS, float(options.rho)})
    fractions = [[rho, certified_fraction(radii, rho)] for rho in rhos]
    counts = {name: sum(r["status"] == name for r in records) for name in ("certified", "abstained", "refused")}
    return {
        "prompts": len(records),
        "unnamed": sum(record.get("named") is False for record in records),
        **counts,
        "truncated": sum("truncated" in r for r in records),
        "tolerance": "each prompt's yardstick" if options.tolerance is None else options.tolerance,
        "alpha_per_prompt": options.alpha,
        "expected_wrong": options.alpha * (len(records) - counts["refused"]),
        "n": options.n,
        "seed": options.seed,
        "certified_fraction": fractions,
        "median_radius": _word(sorted(radii)[(len(radii) - 1) // 2]),
        "average_certified_radius": _word(sum(radii) / len(radii)),
        "seconds": round(sum(float(record["seconds"]) for record in records), 3),
    }
