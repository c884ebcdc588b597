"""`certify prompt` and `certify prompts`: a certificate of one prompt, or of every prompt of a file."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from certify import _files, _validate
from certify._text import failure, percent, shown
from certify._workers import Worker
from certify.certificate import words
from certify.cli import checks, terminal
from certify.cli.checks import argument, option
from certify.cli.endings import NO_ANSWER
from certify.cli.folders import (
    FILES,
    a_folder,
    agreed,
    below_runs,
    certificate_folder,
    data_set_run,
    results_folder,
    run_folder,
    saved,
    slug,
    write_figure,
    write_summary,
)
from certify.cli.processes import one_process, rank
from certify.cli.scripts import answer
from certify.cli.settings import (
    Alpha,
    Column,
    Detector,
    Draws,
    Fresh,
    FreshRun,
    Limit,
    Long,
    OutRun,
    PipelineSettings,
    Prompt,
    Tolerance,
    with_settings,
)
from certify.cli.work import joint_work_ahead, rows_ahead, show_work, work_ahead

if TYPE_CHECKING:
    from certify.adaptive import AdaptiveMedianSmoother
    from certify.certificate import Certificate
    from certify.datasets import PromptSet
    from certify.defence import Defence
    from certify.montecarlo import Progress


_PRIVATE = "Leave {} out of every file. σ and relevance stay, and identify the words to anyone who has the model."


@with_settings
def prompt(
    settings: PipelineSettings,
    text: Prompt,
    rho: Annotated[
        float | None,
        option(
            "Radius for ideal smoothed values, in units of the noise.",
            _validate.positive,
            shown="1; policy levels: what covers the concept word's level",
        ),
    ] = None,
    rho_deployed: Annotated[
        float | None,
        option(
            "Radius for what is deployed; T5 multiplies it by the root of the noisy copies.",
            _validate.positive,
            shown="0.25; policy levels: as --rho",
        ),
    ] = None,
    q: Annotated[float, option("Probability over the noise of what is deployed.", _validate.probability, "--q")] = 0.9,
    n: Annotated[int | None, option("Draws of the encoding.", checks.count(), "--n", shown="10000")] = None,
    statistics: Annotated[
        int | None, option("Draws of statistics of the deployed encoding.", checks.count(0), shown="1000")
    ] = None,
    images: Annotated[int | None, option("Images for the attack success rate.", checks.count(0), shown="400")] = None,
    thorough: Annotated[bool, option("Ten times as many draws of everything.", None, "--thorough")] = False,
    text_only: Annotated[bool, option("Only statements about the text encoding.", None, "--text-only")] = False,
    detector: Detector = None,
    attacks: Annotated[
        Path | None,
        option(
            "File of attack prompts (.csv, .tsv, .json, .jsonl, .txt): which of them does the radius cover?",
            checks.a_file,
        ),
    ] = None,
    column: Column = None,
    alpha: Alpha = 1e-3,
    out_dir: Annotated[Path | None, option("Folder for the results.", a_folder, "--out", shown="runs/…")] = None,
    fresh: Fresh = False,
    long: Long = False,
    private: Annotated[bool, option(_PRIVATE.format("the prompt"), None, "--private")] = False,
) -> None:
    """Certify a prompt: how far can its encoding, the noise prediction and the image move inside the ellipsoid?

    A run that is stopped or killed resumes where it was when the same command is given again.
    """
    factor, given_statistics = 10 if thorough else 1, statistics
    n, statistics, images = (
        factor * default if given is None else given
        for given, default in ((n, 10_000), (statistics, 1_000), (images, 400))
    )
    from certify.adaptive.options import refuse_private_memory
    from certify.datasets import PromptSet

    given = None
    if attacks is not None:
        given = PromptSet.load(attacks, column, purpose="adversarial", argument="attacks")
    elif column is not None:
        raise ValueError(f"--column = {column!r}: must be given with --attacks, the file that it is about")
    prompts = [] if given is None else [row.prompt for row in given.rows if row.prompt.strip()]
    about = {} if given is None else {"attacks": _about(given, len(prompts), private)}
    if settings.policy == "memory":
        one_process("policy memory")
        refuse_private_memory(private)
    folder = agreed(lambda: certificate_folder(out_dir, text, private))
    radii: Any = {name: r for name, r in (("rho", rho), ("rho_deployed", rho_deployed)) if r is not None}
    shared: dict[str, Any] = {"q": q, "n": n, "alpha": alpha, "seed": settings.seed, "private": private, **radii}
    shared |= {"prompts": prompts, "batch_size": settings.batch_size, "memory": settings.bytes}
    if settings.joint:
        from certify.models.quiet import quiet_libraries

        safe = settings.defended()
        with quiet_libraries():
            problem = safe.problem(text)
        terminal.show_explanation(safe.explain(text), private)
        asked = {
            "statistics": 0 if text_only else statistics * (given_statistics is not None),
            "images": 0 if text_only or detector is None else images,
        }
        show_work(*joint_work_ahead(problem, n, **asked), long=long)
        shared |= {"detector": None if text_only else detector, **asked}

        def joint(checkpoint: Any, progress: Any) -> Certificate:
            whole = asked["statistics"] or asked["images"]
            about_it = {"source": settings.source(settings.weights if whole else None), **about}
            with quiet_libraries():
                return safe.certify(text, provenance=about_it, checkpoint=checkpoint, progress=progress, **shared)

        return _certified(joint, settings, text, folder, given, fresh, private, looked=text_only or bool(detector))
    if text_only:
        adaptive, pipe, detector = settings.text_only(), None, None
    else:
        adaptive, pipe = settings.whole()
        detector = detector or settings.own_detector()
    sampler = settings.sampler
    prepared = adaptive.prepare(text)
    terminal.show_tokens(prepared, private)
    counts: dict[str, Any] = {"statistics": 0 if text_only else statistics, "images": 0 if detector is None else images}
    show_work(*work_ahead(prepared, pipe, n, sampler["steps"], **counts), long=long)

    def certify(checkpoint: Any, progress: Any) -> Certificate:
        about_it = {"source": settings.source(None if pipe is None else settings.weights), **about}
        more: dict[str, Any] = {"pipe": pipe, "detector": detector, "provenance": about_it, **counts, **sampler}
        return adaptive.certify(prepared, checkpoint=checkpoint, progress=progress, **shared, **more)

    return _certified(certify, settings, text, folder, given, fresh, private, looked=text_only or detector is not None)


def _certified(
    certify: Callable[..., Certificate],
    settings: PipelineSettings,
    text: str,
    folder: Path,
    given: PromptSet | None,
    fresh: bool,
    private: bool,
    *,
    looked: bool,
) -> None:
    """Draws, shows and saves."""
    with run_folder(folder, fresh) as draws:
        with terminal.bar("drawing") as tick:
            certificate = certify(checkpoint=draws, progress=tick)
        terminal.show_certificate(certificate)
        if given is not None and not private:
            taken = sum(bool(row.prompt.strip()) for row in given.rows)
            terminal.out.print(Text(f"attacks: {given}{_passed_over(given, taken)}", style="dim"))
        if not looked:
            terminal.out.print("[dim]No detector: nothing is said about images (--detector).[/]")
        if rank() == 0:
            folder = saved(certificate, folder)
            _draw_figures(certificate, folder)
        draws.remove()
    answer(certificate.to_json)
    there = ", ".join(name for name in FILES if (folder / name).exists())
    terminal.written(f"{folder}/", f" ({there})")
    terminal.out.print(
        Text(f"check it again: certify check {folder}{' --prompt …' if private else ''}"), soft_wrap=True
    )
    if all(claim.status == "abstained" for claim in certificate.claims):
        raise typer.Exit(NO_ANSWER)


@with_settings
def prompts(
    settings: PipelineSettings,
    file: Annotated[
        Path, argument("Prompts: .csv, .tsv, .json or .jsonl with a column “prompt”, or .txt.", checks.a_file)
    ],
    column: Column = None,
    rho: Annotated[float, option("Radius of the reported bound, in units of the noise.", _validate.positive)] = 1.0,
    tolerance: Tolerance = None,
    n: Draws = 10_000,
    alpha: Annotated[float, option("Failure probability of each prompt's certificate.", _validate.failure)] = 1e-3,
    statistics: Annotated[int, option("Draws per prompt of statistics of the deployed encoding.", checks.count(0))] = 0,
    images: Annotated[int, option("Images per prompt for the attack success rate.", checks.count(0))] = 0,
    detector: Detector = None,
    limit: Limit = None,
    save_certificates: Annotated[
        bool, option("Keep every row's certificate in a folder.", None, "--save-certificates")
    ] = False,
    out_dir: OutRun = None,
    fresh: FreshRun = False,
    private: Annotated[bool, option(_PRIVATE.format("prompts and columns"), None, "--private")] = False,
    long: Long = False,
) -> None:
    """Certify every prompt of a file, and report the certified fraction against the radius. A stopped run resumes.

    Processes that torchrun starts share the prompts out through the folder of the results, on one machine or several.
    """
    if settings.policy == "memory":
        one_process("policy memory")

    from certify import datasets, plots

    first = out_dir or below_runs("prompts-private" if private else f"prompts-{slug(file.stem)}")
    detector = (detector or settings.own_detector()) if images else None
    if images and detector is None:
        raise ValueError(
            f"--images = {images}: must be 0 without a --detector, which this model and concept have none of"
        )
    data = datasets.PromptSet.load(file, column)
    if not private:
        terminal.out.print(Text(str(data), style="dim"))
    asked = len(data.rows) if limit is None else min(limit, len(data.rows))
    options = datasets.RowOptions(
        rho=rho,
        tolerance=tolerance,
        n=n,
        alpha=alpha,
        seed=settings.seed,
        statistics=statistics,
        images=images,
        detector=detector,
        private=private,
        save_certificates=save_certificates,
        **({} if settings.joint else settings.sampler),
    )
    adaptive: AdaptiveMedianSmoother | Defence
    if settings.joint:
        adaptive = settings.defended()
        pipe = adaptive.pipe if statistics or images else None
    else:
        adaptive, pipe = settings.whole() if statistics or images else (settings.text_only(), None)
    decides = datasets.run_settings(adaptive, data, options, pipe=pipe)
    folder = results_folder(first, decides, fresh, named=out_dir is not None)

    def ahead(done: Collection[int]) -> None:
        left = [row for row in data.rows[:asked] if row.number not in done]
        with terminal.out.status("timing a small certificate"):
            seconds = rows_ahead(adaptive, pipe, left, options, settings.batch_size)
        show_work(f"{len(left):,} prompts, {n:,} draws each", seconds / Worker.current().count, long=long)

    def certify(results: datasets.Results, progress: Progress) -> list[dict[str, Any]]:
        return datasets.certify_rows(
            adaptive,
            results,
            options,
            limit=limit,
            pipe=pipe,
            batch_size=settings.batch_size,
            memory=settings.bytes,
            progress=progress,
            source=settings.source(None if pipe is None else settings.weights),
        )

    run = data_set_run(folder, decides, data, asked=asked, rows="prompts", ahead=ahead, certify=certify)
    with run as (results, records):
        total = datasets.summary(records, options)
        radii = [float(record["radius"]) for record in records]
        within = words.tolerance(tolerance)
        title = f"{'private' if private else file.name}: α = {failure(alpha)} a prompt, n = {n:,}"
        write_summary(
            results,
            total,
            lambda: plots.plot_certified_fraction(radii, tolerance=within, title=title),
            "fraction.png",
        )
    rows = terminal.table("ρ", "certified fraction", "")
    for at, fraction in total["certified_fraction"]:
        rows.add_row(shown(at, "exact"), percent(fraction, "down"), f"[cyan]{'█' * int(30 * fraction)}[/]")
        if fraction == 0:
            break
    terminal.out.print(rows)
    cut = f" {total['truncated']:,} did not fit into the context and were cut." if total["truncated"] else ""
    terminal.out.print(
        f"Of {asked:,} prompts [bold]{total['certified']:,} have a certified radius[/] (the smoothed encoding stays within "
        f"{within}), {total['abstained']:,} have none, {total['refused']:,} "
        f"{'was' if total['refused'] == 1 else 'were'} refused. These last two count with radius 0.{cut} Radius: average "
        f"{shown(float(total['average_certified_radius']), 'down', 4)}, "
        f"median {shown(float(total['median_radius']), 'down', 4)}."
    )
    if total["unnamed"]:
        terminal.out.print(
            f"[bold yellow]Notice.[/] {total['unnamed']:,} of {asked:,} prompts do not seem to name the concept: there is "
            "little of it to suppress in them (“named” in results.jsonl)."
        )
    for record in [r for r in records if r["status"] == "refused"][:3]:
        said = f"refused, {data.place} {record.get('line', '?')}: {_files.printable(record.get('reason', ''))}"
        terminal.out.print(Text(said, style="dim"))
    terminal.out.print(
        f"{words.each_prompt(alpha, total['expected_wrong'], terminal.MARKUP)} (n = {n:,}, seed {settings.seed})"
    )
    terminal.show_not_covered(settings.policy, deployed=False)
    made = "results.jsonl, summary.json, fraction.png" + (", certificates/" if save_certificates else "")
    terminal.written(f"{folder}/", f" ({made})")
    if not total["certified"]:
        raise typer.Exit(NO_ANSWER)


def _about(given: PromptSet, taken: int, private: bool) -> dict[str, Any]:
    """Where attack prompts come from. A private record has no digest of prompts, against which guesses could be held, nor a
    file's name, which may say what is in it."""
    about = given.source | {"empty": len(given.rows) - taken}
    if private:
        del about["sha256"], about["name"], about["other_columns"]
    return about


def _passed_over(given: PromptSet, taken: int) -> str:
    empty = len(given.rows) - taken
    return f"; {empty:,} empty {'one' if empty == 1 else 'ones'} passed over" if empty else ""


def _draw_figures(certificate: Certificate, folder: Path) -> None:
    from certify import plots

    rates = [words.is_probability(claim) and claim.status == "certified" for claim in certificate.claims]
    there = {
        "noise": "token_noise" in certificate.provenance,
        "curve": certificate.curve is not None,
        "rate": any(rates),
    }
    at = (certificate.provenance.get("yardstick") or {}).get("position")
    coverage = certificate.provenance.get("coverage") or ()
    there["levels"] = any(p["position"] == at and p.get("members") and p["sigma"] > 0 for p in coverage)
    for what in (name for name, drawn in there.items() if drawn):
        write_figure(plots.figure(certificate, what), folder / f"{what}.png", certificate.private)
