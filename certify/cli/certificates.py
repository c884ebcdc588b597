"""`certify check`, `report` and `plot`: for a saved certificate."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from certify import _files, _validate
from certify.certificate import words
from certify.cli import checks, terminal
from certify.cli.checks import argument, option
from certify.cli.endings import NO, NO_ANSWER
from certify.cli.examples import examples_for, examples_of_run
from certify.cli.folders import DRAWINGS, new_file, there
from certify.cli.models import compare_weights, device_of, named
from certify.cli.processes import one_process
from certify.cli.scripts import answer
from certify.cli.settings import Batch, Concepts, Device, Long, Model, TextEncoder, TrustNames, Variant, Weights
from certify.cli.work import show_work, work_ahead

if TYPE_CHECKING:
    from certify.adaptive.checking import OnRecord
    from certify.certificate import Certificate, CheckReport
    from certify.certificate.check import Verdict
    from certify.datasets import Comparison, RunRecord

_PAGES, _CARDS, _BADGES = (".html", ".htm"), (".md",), (".svg",)


def _kinds() -> tuple[str, ...]:
    from certify import plots

    return (*plots.CERTIFICATE, "fraction", "accuracy")


def _a_page(name: str, path: Path) -> None:
    new_file(name, path, (*_PAGES, *_CARDS), force=True)  # whether it may be written over is known with all options


def _a_badge(name: str, path: Path) -> None:
    new_file(name, path, _BADGES, force=True)


def _a_figure(name: str, path: Path) -> None:
    new_file(name, path, DRAWINGS, force=True)


def check(
    folder: Annotated[Path, argument("Folder of a certificate.", there)],
    n: Annotated[int | None, option("Fresh draws.", checks.count(), "--n", shown="as many as the claims used")] = None,
    seed: Annotated[int, option("Seed of the fresh draws.", checks.count(0))] = 1,
    level: Annotated[float, option("Probability of refuting a true certificate.", _validate.probability)] = 1e-6,
    text: Annotated[
        str | None, option("The prompt, for a certificate that leaves it out.", checks.text, "--prompt")
    ] = None,
    text_only: Annotated[bool, option("Only claims about the text encoding.", None, "--text-only")] = False,
    model: Model = None,
    weights: Weights = None,
    text_encoder: TextEncoder = None,
    variant: Variant = None,
    concept: Concepts = None,
    trust_names: TrustNames = False,
    device: Device = None,
    batch_size: Batch = None,
    long: Long = False,
) -> None:
    """Draw afresh and look for evidence against a certificate; compare what it has on record with the model.

    Exits with 0 if it is not refuted, 1 if it is, and 3 if none of its claims could be checked.
    """
    from certify import Certificate
    from certify.adaptive.checking import certified_functions, compared, rebuilt
    from certify.adaptive.plan import EMBEDDING
    from certify.defence import rebuilt as rebuilt_defence
    from certify.models import load_pipeline, load_text_encoder
    from certify.models.quiet import quiet_libraries

    certificate = Certificate.load(folder)
    of_prompt, joint = "smoother" in certificate.provenance, "pipeline" in certificate.provenance
    text = text or certificate.provenance.get("prompt")
    if text is None:
        if not of_prompt:
            raise ValueError(
                "the certificate is of a function, not of a prompt: check it from Python, with "
                f"certify.Certificate.load({str(folder)!r}).check(f, y)"
            )
        raise ValueError("the certificate leaves its prompt out: give it with --prompt")
    names = {claim.function for claim in certificate.claims}
    # What a statistic or an event looks at is known only to who certified it.
    if not of_prompt and (len(names) > 1 or any(claim.copies is not None for claim in certificate.claims)):
        raise ValueError("the certificate is not one of a prompt: check it from Python, with Certificate.check")
    if not (certificate.provenance.get("model") or {}).get("sha256"):
        raise ValueError(
            "the certificate has no SHA-256 of its model on record, so that any model would do: check it from Python, with "
            "Certificate.check"
        )
    dtype, where = certificate.provenance.get("dtype"), device_of(device)
    if joint:
        given = {"model": model, "unet": weights, "text_encoder": text_encoder, "variant": variant, "concepts": concept}
        from_where = named(certificate, given, trust_names)
        wanted, put = from_where.pop("concepts"), from_where.pop("unet", None)
        with terminal.out.status("loading the model"), quiet_libraries():
            pipe = load_pipeline(from_where.pop("model"), weights=put, device=where, dtype=dtype, **from_where)
            safe = rebuilt_defence(certificate, pipe, wanted)
        terminal.show_overlays(pipe)
        started = time.perf_counter()
        with terminal.bar("drawing afresh") as tick, quiet_libraries():
            how: dict[str, Any] = {"seed": seed, "n": n, "level": level, "batch_size": batch_size, "progress": tick}
            report = safe.check(certificate, prompt=text, text_only=text_only, **how)
            statements = safe.compared(certificate, prompt=text)
        _checked(certificate, report, statements, started)
        return
    whole = of_prompt and not text_only and names != {EMBEDDING}
    given = {"model": model, "unet": weights, "text_encoder": text_encoder, "variant": variant, "concepts": concept}
    from_where = named(certificate, given, trust_names, whole)
    wanted, put = from_where.pop("concepts"), from_where.pop("unet", None)
    with terminal.out.status("loading the model"):
        pipe = None
        if whole:
            pipe = load_pipeline(from_where.pop("model"), weights=put, device=where, dtype=dtype, **from_where)
            compare_weights(certificate, {"module": pipe.text_encoder, **pipe.components})
        else:
            encoder = load_text_encoder(from_where.pop("model"), device=where, dtype=dtype, **from_where)
            parts = dict.fromkeys(("module", "text_encoder"), encoder.text_encoder)
            compare_weights(certificate, parts, others=True)
        if of_prompt:
            prompt = rebuilt(certificate, encoder if pipe is None else pipe, wanted).prepare(text)
            functions = certified_functions(certificate, prompt, pipe)
            if text_only:
                functions = {name: f for name, f in functions.items() if name == EMBEDDING}
            asked = {c.function: n or c.n for c in certificate.claims if c.function in functions}
            y, draws = prompt.y, asked.pop(EMBEDDING, 0)
            ahead = work_ahead(prompt, pipe, draws, statistics=sum(asked.values()))
        else:  # bounds of `problem(…).f`, put together by hand
            tokenized = encoder.tokenize(text)
            functions, y = {names.pop(): lambda z: encoder.encode(z, tokenized)}, encoder.embed(tokenized)
    terminal.show_overlays(encoder if pipe is None else pipe)
    if of_prompt:
        show_work(*ahead, long=long)
    started = time.perf_counter()
    with terminal.bar("drawing afresh") as tick:
        report = certificate.check(functions, y, seed=seed, n=n, level=level, batch_size=batch_size, progress=tick)
    _checked(certificate, report, compared(certificate, prompt, pipe) if of_prompt else [], started)


def _checked(certificate: Certificate, report: CheckReport, statements: list[OnRecord], started: float) -> None:
    """Shows what a check found, and ends accordingly."""
    terminal.show_checks(report)
    terminal.show_compared(statements)
    different = sum(one.outcome == "differs" for one in statements)
    answer(
        {
            "refuted": report.refuted or different > 0,
            "n": report.n,
            "seed": report.seed,
            "level": report.level,
            "verdicts": [_verdict(one) for one in report.verdicts],
            "on_record": [asdict(one) for one in statements],
        }
    )
    seconds = time.perf_counter() - started
    terminal.out.print(f"{words.outcome(report, terminal.MARKUP, different)} ({terminal.duration(seconds)})")
    if report.refuted or different:
        if certificate.provenance.get("input_sha256", "") is None:
            terminal.out.print("Its prompt is left out: another prompt than its own is refuted, too.")
        raise typer.Exit(NO)
    if all(verdict.outcome != "not refuted" for verdict in report.verdicts):
        raise typer.Exit(NO_ANSWER)


def report(
    folder: Annotated[Path, argument("Folder of `certify prompt`, `prompts` or `classify`.", there)],
    out: Annotated[
        Path | None,
        option("HTML file to write; .md with --model-card.", _a_page, "--out", shown="report.html in the folder"),
    ] = None,
    against: Annotated[
        Path | None,
        option("Folder of another run over the same rows: compare the two, paired.", there, "--against"),
    ] = None,
    model_card: Annotated[
        bool, option("Write a model card (Markdown) instead of a page.", None, "--model-card")
    ] = False,
    badge: Annotated[
        Path | None, option("Write the headline as a badge here (.svg), instead of a page.", _a_badge, "--badge")
    ] = None,
    images: Annotated[
        int | None,
        option(
            "Pairs of images with and without the defence, of a run a prompt.",
            checks.count(0, checks.MOST_IMAGES),
            shown="4; of a run, or without the model: 0",
        ),
    ] = None,
    model: Model = None,
    weights: Weights = None,
    text_encoder: TextEncoder = None,
    variant: Variant = None,
    concept: Concepts = None,
    trust_names: TrustNames = False,
    device: Device = None,
    force: Annotated[bool, option("Overwrite an existing page.", None, "--force")] = False,
) -> None:
    """Write a certificate, or a run over a data set, as one self-contained HTML page; or two runs, compared."""
    from certify import Certificate
    from certify import report as pages
    from certify.datasets import RunRecord, compare

    one_process("certify report")
    if against is not None and (model_card or badge is not None):
        raise ValueError(f"against = {str(against)!r}: must be left out with --model-card or --badge")
    suffixes = _CARDS if model_card else _PAGES
    name = "model-card.md" if model_card else "report.html" if against is None else "comparison.html"
    path = None
    if model_card or badge is None:
        path = new_file("out", folder / name if out is None else out, suffixes, force=force)
    elif out is not None:
        raise ValueError(f"out = {str(out)!r}: must be left out with --badge, which writes no page")
    if badge is not None:
        new_file("badge", badge, _BADGES, force=force)
    given = {"model": model, "unet": weights, "text_encoder": text_encoder, "variant": variant, "concepts": concept}
    record: Certificate | RunRecord
    if (folder / "certificate.json").exists():
        if against is not None:
            raise ValueError(f"against = {str(against)!r}: must be left out for a certificate; it compares two runs")
        record = Certificate.load(folder)
    elif (folder / "settings.json").exists() or (folder / "results.jsonl").exists():
        record = RunRecord.load(folder)
    else:
        raise FileNotFoundError(
            f"folder = {str(folder)!r}: holds neither certificate.json (certify prompt) nor results.jsonl (certify prompts, "
            "certify classify)"
        )
    written: dict[Path, str] = {}
    found = None
    if badge is not None:
        written[badge] = pages.badge(record)
    if path is None:
        pass
    elif model_card:
        written[path] = pages.model_card(record, folder=str(folder), base_model=_hub_id(record))
    elif against is not None and isinstance(record, RunRecord):
        other = RunRecord.load(against)
        found = compare(record, other)
        both = (str(folder), str(against))
        written[path] = pages.comparison_page(found, names=both, runs=(record.run, other.run))
    elif isinstance(record, Certificate):
        examples = examples_for(record, folder, images, given, trust_names, device)
        digests = _files.digests(folder, ("certificate.json", "tensors.safetensors"))
        written[path] = pages.certificate_page(record, folder=str(folder), digests=digests, examples=examples)
    else:
        parts = sorted(str(part.relative_to(folder)) for part in folder.glob("parts/*.jsonl"))
        digests = _files.digests(folder, ("settings.json", "results.jsonl", *parts))
        pictures = examples_of_run(record, folder, images, given, trust_names, device)
        written[path] = pages.run_page(record, folder=str(folder), digests=digests, examples=pictures)
    for where, text in written.items():
        _files.write(where, text)
    answer({"written": [str(where) for where in written]} | ({} if found is None else _compared(found)))
    if found is not None:
        terminal.out.print(Text(f"A: {folder}. B: {against}."), soft_wrap=True)
        for measure in found.measures:
            terminal.out.print(Text(f"{pages.verdict(found, measure)}."), soft_wrap=True)
    for where, text in written.items():
        terminal.written(where, f" ({len(text.encode()) // 1024:,} KiB)")


def plot(
    folder: Annotated[Path, argument("Folder of `certify prompt`, `prompts` or `classify`.", there)],
    what: Annotated[
        str,
        argument(
            "curve, rate, noise, ellipsoid, relevance, levels (of a certificate), fraction (of prompts) or accuracy (of a "
            "classifier).",
            checks.choice(_kinds),
        ),
    ],
    out: Annotated[
        Path | None, option("File to write: .png, .svg or .pdf.", _a_figure, "--out", shown="in the folder, as .png")
    ] = None,
    narrow: Annotated[bool, option("The width of one column in a two-column page.", None, "--narrow")] = False,
    force: Annotated[bool, option("Overwrite an existing figure.", None, "--force")] = False,
) -> None:
    """Draw a figure of a saved certificate, or of a run over a data set. No new random draws."""
    from certify import Certificate, plots
    from certify.datasets import ClassifiedRun, RunRecord
    from certify.plots import style

    one_process("certify plot")
    path = new_file("out", folder / f"{what}.png" if out is None else out, DRAWINGS, force=force)
    width = style.ONE_COLUMN if narrow else style.TWO_COLUMNS
    if what == "accuracy":
        classified = ClassifiedRun.of(RunRecord.load(folder))
        pair = (classified.decisions, classified.labels)
        figure = plots.plot_certified_accuracy(pair, title=folder.name, width=width)
    elif what == "fraction":
        run = RunRecord.load(folder)
        if run.of_classes:
            raise ValueError(f"what = {what!r}: must be accuracy, of a run over the inputs of a classifier")
        radii = [float(row["radius"]) for row in run.rows]
        within = words.tolerance(run.settings.get("tolerance"))
        figure = plots.plot_certified_fraction(radii, tolerance=within, title=folder.name, width=width)
    else:
        figure = plots.figure(Certificate.load(folder), what, width=width)
    figure.savefig(path)
    answer({"written": str(path)})
    terminal.written(path)


def _hub_id(record: Certificate | RunRecord) -> str | None:
    """The hub id of the model that a record names; None: it names none, or a folder."""
    source = getattr(record, "provenance", {}).get("source") or {}
    name = source.get("model")
    return name if isinstance(name, str) and checks.is_hub_id(name) else None


def _compared(found: Comparison) -> dict[str, Any]:
    measures = [asdict(measure) for measure in found.measures]
    about = {"rows": len(found.rows), "only_a": found.only_a, "only_b": found.only_b, "level": found.level}
    return {**about, "measures": measures}


def _verdict(one: Verdict) -> dict[str, Any]:
    claim = one.claim
    about = {name: getattr(claim, name) for name in ("function", "quantity", "theorem", "rho", "value")}
    return {**about, "outcome": one.outcome, "p_value": one.p_value, "detail": one.detail}
