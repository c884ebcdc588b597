"""`certify prompt` and `certify prompts`: a certificate of one prompt, or of every prompt of a file."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from certify import _files, _validate
from certify._text import failure, percent, shown
from certify.certificate import words
from certify.cli import checks, terminal
from certify.cli.checks import checked
from certify.cli.endings import NO_ANSWER
from certify.cli.folders import (
    FILES,
    a_folder,
    agreed,
    certificate_folder,
    kept,
    numbered,
    saved,
    slug,
    unused,
    writable,
)
from certify.cli.processes import one_process, rank
from certify.cli.settings import (
    Alpha,
    Column,
    Detector,
    Draws,
    Fresh,
    Guidance,
    Long,
    Prompt,
    Settings,
    Steps,
    Tolerance,
    UNet,
    with_settings,
)
from certify.cli.work import show_work, work_ahead

if TYPE_CHECKING:
    from certify.certificate import Certificate
    from certify.datasets import PromptSet
    from certify.plots.style import Picture


_PRIVATE = "Leave {} out of every file. σ and relevance stay, and identify the words for whoever has the model."


@with_settings
def prompt(
    settings: Settings,
    text: Prompt,
    unet: UNet = None,
    rho: Annotated[
        float,
        typer.Option(
            help="Radius for ideal smoothed values, in units of the noise.", callback=checked(_validate.positive)
        ),
    ] = 1.0,
    rho_deployed: Annotated[
        float,
        typer.Option(
            help="Radius for what is deployed; T5 multiplies it by the root of the noisy copies.",
            callback=checked(_validate.positive),
        ),
    ] = 0.25,
    q: Annotated[
        float,
        typer.Option(
            "--q", help="Probability over the noise of what is deployed.", callback=checked(_validate.probability)
        ),
    ] = 0.9,
    n: Annotated[
        int | None,
        typer.Option("--n", help="Draws of the encoding.", show_default="10000", callback=checked(checks.count())),
    ] = None,
    statistics: Annotated[
        int | None,
        typer.Option(
            help="Draws of statistics of the deployed encoding.",
            show_default="1000",
            callback=checked(checks.count(0)),
        ),
    ] = None,
    images: Annotated[
        int | None,
        typer.Option(help="Images for the attack success rate.", show_default="400", callback=checked(checks.count(0))),
    ] = None,
    thorough: Annotated[bool, typer.Option("--thorough", help="Ten times as many draws of everything.")] = False,
    text_only: Annotated[bool, typer.Option("--text-only", help="Only statements about the text encoding.")] = False,
    detector: Detector = None,
    attacks: Annotated[
        Path | None,
        typer.Option(
            help="File of attack prompts (.csv, .tsv, .json, .jsonl, .txt): which of them does the radius cover?",
            callback=checked(checks.a_file),
        ),
    ] = None,
    column: Column = None,
    steps: Steps = None,
    guidance: Guidance = None,
    alpha: Alpha = 1e-3,
    out_dir: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for the results.", show_default="runs/…", callback=checked(a_folder)),
    ] = None,
    fresh: Fresh = False,
    long: Long = False,
    private: Annotated[bool, typer.Option("--private", help=_PRIVATE.format("the prompt"))] = False,
) -> None:
    """Certify a prompt: how far can its encoding, the noise prediction and the image move inside the ellipsoid?

    A run that is stopped or killed goes on where it was when the same command is given again.
    """
    factor = 10 if thorough else 1
    n, statistics, images = (
        factor * default if given is None else given
        for given, default in ((n, 10_000), (statistics, 1_000), (images, 400))
    )
    from certify.adaptive.certification import refuse_private_memory
    from certify.datasets import PromptSet

    given, memory = None, settings.bytes
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
    sampler = settings.sampler(steps, guidance)
    if text_only:
        adaptive, pipe, detector = settings.text_only(unet), None, None
    else:
        adaptive, pipe = settings.whole(unet, sampler["steps"])
        detector = detector or settings.own_detector()
    terminal.show_tokens(text, adaptive, private)
    counts: dict[str, Any] = {"statistics": 0 if text_only else statistics, "images": 0 if detector is None else images}
    show_work(*work_ahead(adaptive, pipe, text, n, sampler["steps"], **counts), long=long)
    with kept(folder, fresh) as draws:
        with terminal.bar("drawing") as tick:
            certificate = adaptive.certify(
                text,
                rho=rho,
                rho_deployed=rho_deployed,
                q=q,
                n=n,
                alpha=alpha,
                seed=settings.seed,
                pipe=pipe,
                detector=detector,
                prompts=prompts,
                private=private,
                batch_size=settings.batch_size,
                memory=memory,
                checkpoint=draws,
                progress=tick,
                provenance={"source": settings.source(None if pipe is None else unet), **about},
                **counts,
                **sampler,
            )
        terminal.show_certificate(certificate)
        if given is not None and not private:
            terminal.out.print(Text(f"attacks: {given}{_passed_over(given, len(prompts))}", style="dim"))
        if detector is None and not text_only:
            terminal.out.print("[dim]No detector: nothing is said about images (--detector).[/]")
        if rank() == 0:
            folder = saved(certificate, folder)
            _draw_pictures(certificate, folder)
        draws.remove()
    written = ", ".join(name for name in FILES if (folder / name).exists())
    terminal.out.print(Text(f"written: {folder}/ ({written})"), soft_wrap=True)
    terminal.out.print(
        Text(f"check it again: certify check {folder}{' --prompt …' if private else ''}"), soft_wrap=True
    )
    if all(claim.status == "abstained" for claim in certificate.claims):
        raise typer.Exit(NO_ANSWER)


@with_settings
def prompts(
    settings: Settings,
    file: Annotated[
        Path,
        typer.Argument(
            help="Prompts: .csv, .tsv, .json or .jsonl with a column “prompt”, or .txt.",
            show_default=False,
            callback=checked(checks.a_file),
        ),
    ],
    column: Column = None,
    unet: UNet = None,
    rho: Annotated[
        float,
        typer.Option(help="Radius of the reported bound, in units of the noise.", callback=checked(_validate.positive)),
    ] = 1.0,
    tolerance: Tolerance = None,
    n: Draws = 10_000,
    alpha: Annotated[
        float,
        typer.Option(help="Failure probability of each prompt's certificate.", callback=checked(_validate.failure)),
    ] = 1e-3,
    statistics: Annotated[
        int,
        typer.Option(help="Draws of statistics of the deployed encoding, a prompt.", callback=checked(checks.count(0))),
    ] = 0,
    images: Annotated[
        int, typer.Option(help="Images for the attack success rate, a prompt.", callback=checked(checks.count(0)))
    ] = 0,
    detector: Detector = None,
    steps: Steps = None,
    guidance: Guidance = None,
    limit: Annotated[int | None, typer.Option(help="Only the first rows.", callback=checked(checks.count()))] = None,
    save_certificates: Annotated[
        bool, typer.Option("--save-certificates", help="Keep every row's certificate in a folder.")
    ] = False,
    out_dir: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Folder for the results; a run that is there goes on.",
            show_default="runs/…",
            callback=checked(a_folder),
        ),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Begin anew, in another folder where there are results already.")
    ] = False,
    private: Annotated[bool, typer.Option("--private", help=_PRIVATE.format("prompts and columns"))] = False,
    long: Long = False,
) -> None:
    """Certify every prompt of a file, and report the certified fraction against the radius. A stopped run goes on."""
    one_process("certify prompts")

    from certify import datasets, plots

    if out_dir is None:
        writable("--out", Path("runs"))
    detector = (detector or settings.own_detector()) if images else None
    if images and detector is None:
        raise ValueError(
            f"--images = {images}: must be 0 without a --detector, which this model and concept have none of"
        )
    data = datasets.PromptSet.load(file, column)
    if not private:
        terminal.out.print(Text(str(data), style="dim"))
    asked = len(data.rows) if limit is None else min(limit, len(data.rows))
    sampler = settings.sampler(steps, guidance)
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
        **sampler,
    )
    adaptive, pipe = (
        settings.whole(unet, sampler["steps"]) if statistics or images else (settings.text_only(unet), None)
    )
    name = "private" if private else file.name
    first = Path("runs") / ("prompts-private" if private else f"prompts-{slug(file.stem)}")
    how: dict[str, Any] = {"pipe": pipe, "batch_size": settings.batch_size}
    memory = settings.bytes
    decides = datasets.run_settings(adaptive, data, options, pipe=pipe)
    folder = _folder(out_dir, first, decides, fresh)
    begun = datasets.settings_of(folder) is not None

    def estimate(there: int) -> None:
        with terminal.out.status("timing a small certificate"):
            seconds = datasets.estimated_seconds(adaptive, data.rows[there:asked], options, **how)
        show_work(f"{asked - there:,} prompts, {n:,} draws each", seconds, long=long)

    if not begun:  # a run that is refused leaves nothing
        estimate(0)
    with datasets.Results(folder, decides, data) as results:
        there = min(len(results.done), asked)
        if there:
            terminal.out.print(f"{there:,} of {asked:,} prompts are done already; going on.")
        if begun and there < asked:
            estimate(there)
        try:
            with terminal.bar("certifying") as tick:
                source = settings.source(None if pipe is None else unet)
                records = datasets.certify_rows(
                    adaptive, results, options, limit=limit, memory=memory, progress=tick, source=source, **how
                )
        except KeyboardInterrupt:
            terminal.out.print(
                f"Stopped: {len(results.done):,} of {asked:,} prompts are kept. The same command goes on from there."
            )
            raise typer.Exit(130) from None
        total = datasets.summary(records, options)
        text = json.dumps({"run": results.run, **total}, indent=2, ensure_ascii=False, allow_nan=False)
        _files.write(folder / "summary.json", text + "\n", owner_only=private)
    rows = terminal.table("ρ", "certified fraction", "")
    for at, fraction in total["certified_fraction"]:
        rows.add_row(shown(at, "exact"), percent(fraction, "down"), f"[cyan]{'█' * int(30 * fraction)}[/]")
        if fraction == 0:
            break
    terminal.out.print(rows)
    cut = f" {total['truncated']:,} did not fit into the context and were cut." if total["truncated"] else ""
    within = words.tolerance(tolerance)
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
    terminal.show_not_covered(adaptive.policy, deployed=False)
    radii = [float(record["radius"]) for record in records]
    title = f"{name}: α = {failure(alpha)} a prompt, n = {n:,}"
    _write(plots.plot_certified_fraction(radii, tolerance=within, title=title), folder / "fraction.png", private)
    written = "results.jsonl, summary.json, fraction.png" + (", certificates/" if save_certificates else "")
    terminal.out.print(Text(f"written: {folder}/ ({written})"), soft_wrap=True)
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


def _folder(out_dir: Path | None, first: Path, decides: dict[str, Any], fresh: bool) -> Path:
    """Where the results of a run go: to the folder given; else to the first of ours that is free, or that is this run's."""
    from certify import datasets

    if fresh:
        return unused(first if out_dir is None else out_dir)
    if out_dir is not None:
        return out_dir
    wanted = json.loads(json.dumps(decides))
    return next(f for f in numbered(first) if not f.exists() or datasets.settings_of(f) == wanted)


def _draw_pictures(certificate: Certificate, folder: Path) -> None:
    from certify import plots

    made = {(claim.quantity, claim.status) for claim in certificate.claims}
    there = {"noise": True, "curve": certificate.curve is not None, "rate": ("event", "certified") in made}
    for what in (name for name, drawn in there.items() if drawn):
        _write(plots.picture(certificate, what), folder / f"{what}.png", certificate.private)


def _write(picture: Picture, path: Path, private: bool) -> None:
    buffer = io.BytesIO()
    picture.savefig(buffer, format="png")
    _files.write(path, buffer.getvalue(), owner_only=private)
