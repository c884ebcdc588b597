"""The command line: `certify prompt`, `radius`, `curve`, `plan`, `check`, `generate`, `concepts`.

Only what a command needs is imported when it runs; `certify --help` loads none of the heavy libraries.
"""

from __future__ import annotations

import functools
import inspect
import math
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from certify.adaptive import AdaptiveMedianSmoother, TokenNoise
    from certify.certificate import Certificate

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="What a smoothed text-to-image model is proven to withstand.",
)
out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

DEFAULT_CONCEPT = "circle"

Prompt = Annotated[str, typer.Argument(help="The prompt.", show_default=False)]
Model = Annotated[str | None, typer.Option(help="Hub id or folder of a Stable Diffusion 1.x/2.x pipeline.")]
UNet = Annotated[str | None, typer.Option(help="State dict or folder of an unlearned U-Net, put on top of --model.")]
Draws = Annotated[int, typer.Option("--n", help="Monte Carlo draws.")]
Alpha = Annotated[float, typer.Option(help="Failure probability of the certificate as a whole.")]
Seed = Annotated[int, typer.Option(help="Seed of all draws.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, …; default: cuda where there is one.")]
Batch = Annotated[int | None, typer.Option("--batch-size", help="Encodings in one call of the text encoder.")]


@dataclass
class Settings:
    """The options that every command about a prompt has: which model, which concept, how much noise."""

    concept: Annotated[
        list[str] | None,
        typer.Option("--concept", "-c", help="What to suppress: a name or a CSV/JSONL file. Repeat for several."),
    ] = None
    model: Model = None
    sigma0: Annotated[float | None, typer.Option(help="Base noise, absolute, as in the paper.")] = None
    sigma0_relative: Annotated[float | None, typer.Option(help="Base noise in spreads of the token embeddings.")] = None
    k: Annotated[float | None, typer.Option("--k", help="How fast noise grows with relevance.")] = None
    use_global: Annotated[bool, typer.Option("--global", help="Use global relevance, too (Algorithm 1's flag).")] = (
        False
    )
    similarity: Annotated[str | None, typer.Option(help="Cosine over the encoding: flattened or end-of-text.")] = None
    seed: Seed = 0
    device: Device = None
    dtype: Annotated[str | None, typer.Option(help="float32, float16, bfloat16.")] = None
    batch_size: Batch = None

    @property
    def concepts(self) -> list[str]:
        """The concepts, or the default one."""
        return self.concept or [DEFAULT_CONCEPT]

    def smoothing(self) -> Any:
        """Options of the adaptive smoother; the embedded model has settings of its own."""
        from certify import world

        names = ("sigma0", "sigma0_relative", "k", "similarity", "batch_size")
        chosen = {name: value for name in names if (value := getattr(self, name)) is not None}
        tuned = dict(world.SMOOTHING) if self.model is None else {}
        if self.sigma0 is not None:
            tuned.pop("sigma0_relative", None)
        return tuned | chosen | {"use_global": self.use_global}

    def draws(self, n: int, progress: Callable[[int, int], None]) -> dict[str, Any]:
        """How to draw, for `certify.statements.ask` and what is built on it."""
        return {"n": n, "seed": self.seed, "batch_size": self.batch_size, "progress": progress}

    def text_only(self) -> AdaptiveMedianSmoother:
        """The smoother on the text encoder alone."""
        from certify.adaptive import AdaptiveMedianSmoother
        from certify.models import load_text_encoder

        with out.status("loading the text encoder"):
            encoder = load_text_encoder(self.model, device=_device(self.device), dtype=self.dtype)
            return AdaptiveMedianSmoother.from_encoder(encoder, self.concepts, **self.smoothing())

    def whole(self, unet: str | None) -> tuple[AdaptiveMedianSmoother, Any]:
        """The smoother and the pipeline it is built on."""
        from certify.adaptive import AdaptiveMedianSmoother
        from certify.models import load_pipeline

        with out.status("loading the pipeline"):
            pipe = load_pipeline(self.model, unet=unet, device=_device(self.device), dtype=self.dtype)
            return AdaptiveMedianSmoother.from_pipeline(pipe, self.concepts, **self.smoothing()), pipe


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command an option for every field of `Settings`, and hands it one `settings`."""
    shared = [
        inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=hint)
        for f, hint in zip(fields(Settings), get_type_hints(Settings, include_extras=True).values(), strict=True)
    ]
    own = inspect.signature(command, eval_str=True)
    mine = [q.replace(kind=inspect.Parameter.KEYWORD_ONLY) for q in own.parameters.values() if q.name != "settings"]

    @functools.wraps(command)
    def run(**given: Any) -> None:
        settings = Settings(**{f.name: given.pop(f.name) for f in fields(Settings)})
        command(settings=settings, **given)

    run.__signature__ = own.replace(parameters=[*mine, *shared])  # type: ignore[attr-defined]
    run.__annotations__ = {q.name: q.annotation for q in (*mine, *shared)} | {"return": None}
    return run


def main() -> None:
    """Runs the command line. Misuse prints one line and exits with 2; Ctrl-C exits with 130, having written nothing."""
    try:
        app()
    except (ValueError, TypeError, OSError) as error:
        if os.environ.get("CERTIFY_TRACEBACK"):
            raise
        err.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(2)


@app.command()
@with_settings
def prompt(
    settings: Settings,
    text: Prompt,
    unet: UNet = None,
    rho: Annotated[float, typer.Option(help="Radius of the statement, in units of the noise.")] = 1.0,
    n: Draws = 10_000,
    alpha: Alpha = 1e-3,
    out_dir: Annotated[Path | None, typer.Option("--out", help="Folder for the results.", show_default=False)] = None,
    private: Annotated[bool, typer.Option("--private", help="Leave the prompt's text out of every file.")] = False,
) -> None:
    """Certify a prompt: how far can its smoothed encoding move, whatever is done to it inside the ellipsoid?"""
    from certify import plots
    from certify.adaptive.certification import certify_prompt

    _check_numbers(rho=rho, alpha=alpha, n=n)
    folder = _fresh(out_dir, text, private)
    edited = _unet_record(settings.model, unet)
    adaptive = settings.text_only()
    _show_tokens(text, adaptive)
    with _progress(adaptive, text, n) as tick:
        certificate = certify_prompt(
            adaptive,
            text,
            rho=rho,
            alpha=alpha,
            private=private,
            unet=edited,
            source={"model": settings.model, "concepts": settings.concepts},
            **settings.draws(n, tick),
        )
    _show_certificate(certificate)
    certificate.save(folder)
    title = None if private else text
    noise = certificate.provenance["token_noise"]
    shown = [i for i, kind in enumerate(noise["kinds"]) if kind != "padding"]
    names = noise.get("tokens") or [f"#{i}" for i in range(len(noise["kinds"]))]
    _draw(
        plots.plot_token_noise(
            [_plain(names[i]) for i in shown],
            [noise["sigma"][i] for i in shown],
            [noise["relevance"][i] for i in shown],
            spread=certificate.provenance["token_spread"],
            title=title,
        ),
        folder / "noise.png",
    )
    _draw(_curve_picture(certificate, title), folder / "curve.png")
    out.print(Text(f"written: {folder}/ ({', '.join(_FILES)})"), soft_wrap=True)
    out.print(Text(f"check it again: certify check {folder}{' --prompt …' if private else ''}"), soft_wrap=True)


@app.command()
@with_settings
def radius(
    settings: Settings,
    text: Prompt,
    tolerance: Annotated[
        float | None, typer.Option(help="Squared distance to keep. [default: that of the prompt without the concept]")
    ] = None,
    n: Draws = 10_000,
    alpha: Alpha = 1e-3,
) -> None:
    """The largest perturbation under which a prompt's smoothed encoding provably stays within a tolerance."""
    from certify import certified_radius
    from certify.adaptive.certification import yardstick

    _check_numbers(alpha=alpha, n=n)
    adaptive = settings.text_only()
    problem, stick = adaptive.problem(text), yardstick(adaptive, text)
    with _progress(adaptive, text, n) as tick:
        within = stick.distance if tolerance is None else tolerance
        r = certified_radius(
            problem.f,
            problem.y,
            problem.noise,
            support=problem.support,
            tolerance=within,
            alpha=alpha,
            **settings.draws(n, tick),
        )
    if r.status == "abstained":
        out.print(f"[bold]No radius is certified[/]: {escape(r.reason)}.")
        return
    out.print(
        f"[bold]ρ = {r.rho:.4f}[/]: for every ‖δ‖_Σ ≤ ρ the smoothed encoding stays within squared distance "
        f"{r.tolerance:.5g}, with confidence 1 − {alpha:g} (n = {n:,}, {r.theorem})."
    )
    table = _table("certified set", "")
    for name, value in (
        ("coordinates with noise", f"{r.ellipsoid.dimensions:,} of {r.ellipsoid.sigma.numel():,}"),
        ("semi-axes", f"{_noised(r.ellipsoid.semi_axes):.4g} … {float(r.ellipsoid.semi_axes.max()):.4g}"),
        ("inscribed ℓ2 and ℓ1 balls", f"{r.ellipsoid.l2_ball:.4g}"),
        ("inscribed ℓ∞ ball", f"{r.ellipsoid.linf_ball:.4g}"),
        ("log-volume", f"{r.ellipsoid.log_volume:.5g}"),
        ("proxy radius (equal volume)", f"{r.ellipsoid.proxy_radius:.4g}"),
    ):
        table.add_row(name, value)
    out.print(table)
    _not_covered(r.run.policy)


@app.command()
@with_settings
def curve(
    settings: Settings,
    text: Prompt,
    rhos: Annotated[str, typer.Option(help="Radii, separated by commas.")] = "0.05,0.1,0.25,0.5,0.75,1,1.5,2",
    pointwise: Annotated[bool, typer.Option("--pointwise", help="Each point by itself, not all at once.")] = False,
    n: Draws = 10_000,
    alpha: Alpha = 1e-3,
    picture: Annotated[Path | None, typer.Option(help="Write the picture here (.png or .svg).")] = None,
) -> None:
    """The bound of a prompt at several radii, from one set of draws."""
    from certify import bound_curve, plots
    from certify.adaptive.certification import yardstick

    _check_numbers(alpha=alpha, n=n)
    if picture is not None:
        _picture("picture", picture, (".png", ".svg", ".pdf"))
    try:
        radii = [float(r) for r in rhos.split(",")]
    except ValueError:
        raise ValueError(f"rhos = {rhos!r}: must be numbers separated by commas") from None
    adaptive = settings.text_only()
    problem, stick = adaptive.problem(text), yardstick(adaptive, text)
    with _progress(adaptive, text, n) as tick:
        k_ = bound_curve(
            problem.f,
            problem.y,
            problem.noise,
            support=problem.support,
            rhos=radii,
            alpha=alpha,
            simultaneous=not pointwise,
            **settings.draws(n, tick),
        )
    _show_curve(k_.rhos, k_.values, stick.distance)
    out.print(
        f"[dim]{'each point by itself' if pointwise else 'all points at once'} with confidence 1 − {alpha:g}, "
        f"n = {n:,}; yardstick: the prompt without “{escape(stick.word)}” is {stick.distance:.5g} away.[/]"
    )
    _not_covered(adaptive.policy)
    if picture is not None:
        _draw(
            plots.plot_curve(k_, yardstick=stick.distance, yardstick_label="without the concept", title=text), picture
        )
        out.print(f"written: {picture}", soft_wrap=True)


@app.command()
def plan(
    rho: Annotated[float | None, typer.Option(help="Radius; solves for n.")] = None,
    n: Annotated[int | None, typer.Option("--n", help="Draws; solves for ρ.")] = None,
    outputs: Annotated[int, typer.Option(help="Outputs that must hold at once; 59136 for SD v1.4's encoding.")] = 1,
    alpha: Alpha = 1e-3,
    p: Annotated[float, typer.Option("--p", help="Percentile.")] = 0.5,
    replicas: Annotated[int, typer.Option(help="Noisy copies seen by one statistic.")] = 1,
    target: Annotated[float | None, typer.Option(help="For an event: the probability to certify.")] = None,
) -> None:
    """How many draws a statement needs, or how far a number of draws reaches."""
    import certify

    out.print(str(certify.plan(rho=rho, n=n, outputs=outputs, alpha=alpha, p=p, replicas=replicas, target=target)))


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(help="Folder of a certificate.")],
    n: Annotated[int | None, typer.Option("--n", help="Fresh draws. [default: as many as the claims used]")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the fresh draws.")] = 1,
    level: Annotated[float, typer.Option(help="Probability of refuting a true certificate.")] = 1e-6,
    text: Annotated[
        str | None, typer.Option("--prompt", help="The prompt, for a certificate that leaves it out.")
    ] = None,
    model: Model = None,
    device: Device = None,
    batch_size: Batch = None,
) -> None:
    """Draw afresh and look for evidence against a certificate. Exits with 1 if it is refuted."""
    from certify import Certificate
    from certify.models import fingerprint, load_text_encoder

    certificate = Certificate.load(folder)
    source = certificate.provenance.get("source") or {}
    text = text or certificate.provenance.get("prompt")
    if text is None:
        raise ValueError("the certificate leaves its prompt out: give it with --prompt")
    if certificate.provenance.get("quantity", "embedding") != "embedding":
        raise ValueError("the certificate is not about a text encoding: check it from Python, with Certificate.check")
    dtype = certificate.provenance.get("dtype")
    encoder = load_text_encoder(model or source.get("model"), device=_device(device), dtype=dtype)
    digests = (certificate.provenance.get("model") or {}).get("sha256") or {}
    if fingerprint(encoder.text_encoder) not in (digests.get("module"), digests.get("text_encoder")):
        raise ValueError("the text encoder is not the one that this certificate is about: its SHA-256 differs")
    tokenized = encoder.tokenize(text)
    started = time.perf_counter()
    with _bar("drawing afresh") as tick:
        report = certificate.check(
            lambda z: encoder.encode(z, tokenized),
            encoder.embed(tokenized),
            seed=seed,
            n=n,
            level=level,
            batch_size=batch_size,
            progress=tick,
        )
    table = _table("claim", "ρ", "p-value", "outcome")
    for verdict in report.verdicts:
        name = f"{verdict.claim.quantity} ({verdict.claim.theorem})"
        colour = {"refuted": "bold red", "not refuted": "green"}.get(verdict.outcome, "dim")
        table.add_row(name, f"{verdict.claim.rho:.4g}", f"{verdict.p_value:.3g}", f"[{colour}]{verdict.outcome}[/]")
    out.print(table)
    for verdict in report.verdicts:
        if verdict.outcome == "refuted":
            out.print(f"[red]{verdict.claim.quantity} at ρ = {verdict.claim.rho:.4g}: {escape(verdict.detail)}[/]")
    seconds = time.perf_counter() - started
    if report.refuted:
        out.print(f"[bold red]Refuted[/] by {report.n:,} fresh draws at level {level:g} ({seconds:.1f} s).")
        raise typer.Exit(1)
    out.print(f"[bold]Not refuted[/] by {report.n:,} fresh draws at level {level:g} ({seconds:.1f} s).")


@app.command()
@with_settings
def generate(
    settings: Settings,
    text: Prompt,
    unet: UNet = None,
    steps: Annotated[int | None, typer.Option(help="Sampler steps. [default: 50; embedded model: 8]")] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale. [default: 7.5; embedded model: 2]")] = None,
    images: Annotated[int, typer.Option(help="Pairs of images.")] = 4,
    out_dir: Annotated[Path | None, typer.Option("--out", help="Picture to write. [default: runs/…]")] = None,
) -> None:
    """Generate undefended and defended images side by side, from the same initial noise."""
    from certify import world
    from certify.generate import side_by_side

    path = (
        _unused(Path("runs") / f"{_slug(text)}.png") if out_dir is None else _picture("out", out_dir, (".png", ".jpg"))
    )
    adaptive, pipe = settings.whole(unet)
    _show_tokens(text, adaptive)
    with out.status("generating"):
        own = world.DEFAULTS if settings.model is None else {"num_inference_steps": 50, "guidance_scale": 7.5}
        pipe.set_progress_bar_config(disable=settings.model is None)
        picture = side_by_side(
            pipe,
            adaptive,
            text,
            images=images,
            seed=settings.seed,
            steps=own["num_inference_steps"] if steps is None else steps,
            guidance=own["guidance_scale"] if guidance is None else guidance,
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
    out.print(f"above: undefended; below: defended, same initial noise\nwritten: {path}", soft_wrap=True)


@app.command()
def concepts(
    name: Annotated[str | None, typer.Argument(help="Show the prompt pairs of this one.")] = None,
    pairs: Annotated[int, typer.Option(help="How many pairs to show.")] = 5,
) -> None:
    """The concepts that come with the toolkit. A file of your own goes wherever a name does."""
    from certify import _validate
    from certify.adaptive import Concept, available_concepts

    if name is None:
        table = _table("concept", "pairs")
        for entry in available_concepts():
            table.add_row(entry, str(len(Concept.load(entry).pairs)))
        out.print(table)
        return
    loaded, pairs = Concept.load(name), _validate.count("pairs", pairs)
    table = _table("positive", "negative")
    for positive, negative in list(loaded.pairs)[:pairs]:
        table.add_row(escape(positive), escape(negative))
    out.print(table)
    out.print(f"[dim]{min(pairs, len(loaded.pairs))} of {len(loaded.pairs)} pairs of {escape(loaded.name)}[/]")


def _device(device: str | None) -> str:
    import torch

    return device or ("cuda" if torch.cuda.is_available() else "cpu")


def _unet_record(model: str | None, unet: str | None) -> dict[str, Any] | None:
    if unet is None:
        return None
    from certify.models import fingerprint, load_pipeline

    with out.status("reading the U-Net"):
        digest = fingerprint(load_pipeline(model, unet=unet).unet)
    out.print(
        "[dim]The statement is about the text encoding, which this U-Net receives; the U-Net is no part of it.[/]"
    )
    return {"source": unet, "sha256": digest}


def _show_tokens(text: str, adaptive: AdaptiveMedianSmoother) -> None:
    record: TokenNoise = adaptive.relevance(text)
    spread = adaptive.encoder.embedding_spread
    table = _table("token", "relevance", "noise σ", "σ / spread", "")
    top = max(record.sigma)
    rest = []
    for token, kind, score, sigma in zip(record.tokens, record.kinds, record.relevance, record.sigma, strict=True):
        if score is None:
            rest.append((kind, sigma))
            continue
        bar = "█" * max(1, round(14 * sigma / top)) if top else ""
        table.add_row(
            escape(_plain(token)), f"{score:+.3f}", f"{sigma:.4g}", f"{sigma / spread:.2f}", f"[cyan]{bar}[/]"
        )
    out.print(table)
    silent = sum(sigma == 0 for _, sigma in rest)
    names = ", ".join(concept.name for concept in adaptive.concepts)
    out.print(
        f"[dim]relevance to {escape(names)}; σ₀ = {adaptive.sigma0:.4g}, k = {adaptive.k:g}; "
        f"{silent} of {len(rest)} begin, end and padding positions carry no noise[/]"
    )


def _show_certificate(certificate: Certificate) -> None:
    stick = certificate.provenance["yardstick"]
    distance = stick["distance"]
    single = next(claim for claim in certificate.claims if claim.scope == "single" and claim.quantity == "mse")
    out.print()
    out.rule("[bold]certificate[/]", align="left", style="dim")
    if single.status == "abstained":
        out.print(f"[bold]No bound.[/] {escape(single.reason)}.")
    else:
        value = float(single.value or 0.0)
        out.print(
            f"For [bold]every[/] perturbation δ of the token embeddings with [bold]‖δ‖_Σ ≤ {single.rho:g}[/], the "
            f"median-smoothed encoding stays within squared distance [bold]{value:.5g}[/] of its reference."
        )
        out.print(_against(value, distance, stick))
    searched = [claim for claim in certificate.claims if claim.quantity == "radius"]
    for claim in searched:
        if claim.status == "abstained":
            out.print(f"No radius keeps it within that distance: {escape(claim.reason)}.")
        else:
            out.print(f"It stays within {claim.tolerance:.5g} for every ‖δ‖_Σ ≤ [bold]{claim.rho:.4f}[/].")
    points = certificate.curve
    if points is not None:
        _show_curve(points.rhos, points.values, distance)
    out.print(
        f"[bold]Confidence[/] 1 − {certificate.alpha:.3g} for all of it together, over n = {single.n:,} draws "
        f"(seed {certificate.provenance['seed']}); {single.theorem}, {single.method}, {single.outputs:,} outputs jointly."
    )
    out.print(
        f"[bold]Distance[/] is the squared ℓ2 distance, a sum over outputs, to the median of "
        f"{certificate.provenance['pilot']:,} separate pilot draws."
    )
    _not_covered(single.policy)


def _not_covered(policy: str) -> None:
    from certify.certificate import POLICIES

    out.print(
        f"[bold yellow]Not covered.[/] {POLICIES[policy]} Nor does it cover another number of tokens, positions without "
        "noise, the 13-draw median that is deployed in place of the ideal one, or the image."
    )


def _against(value: float, distance: float, stick: dict[str, Any]) -> str:
    word = f" “{escape(stick['word'])}”" if stick.get("word") else " its most relevant word"
    share = value / distance if distance > 0 else math.inf
    said = (
        f"[bold red]vacuous[/]: {share:.3g} × the yardstick"
        if share > 1
        else f"[bold green]{share:.3g} × the yardstick[/]"
    )
    return f"Yardstick: without{word} the encoding is {distance:.5g} away. The bound is {said}."


def _show_curve(rhos: tuple[float, ...], values: tuple[float, ...], distance: float) -> None:
    table = _table("ρ", "bound", "× yardstick", "")
    for rho, value in zip(rhos, values, strict=True):
        if not math.isfinite(value):
            table.add_row(f"{rho:g}", "none", "", "[dim]too few draws[/]")
            continue
        share = value / distance if distance > 0 else math.inf
        table.add_row(f"{rho:g}", f"{value:.5g}", f"{share:.3g}", "[red]vacuous[/]" if share > 1 else "")
    out.print(table)


def _curve_picture(certificate: Certificate, title: str | None) -> Any:
    from certify import plots

    curve_ = certificate.curve
    if curve_ is None:
        raise ValueError("the certificate holds no curve")
    return plots.plot_curve(
        curve_,
        yardstick=certificate.provenance["yardstick"]["distance"],
        yardstick_label="prompt without the concept",
        title=title,
    )


@contextmanager
def _progress(adaptive: AdaptiveMedianSmoother, text: str, n: int) -> Iterator[Callable[[int, int], None]]:
    # One batch is timed first, so that the wait is known before it begins.
    problem = adaptive.problem(text)
    z = problem.y[None].expand(64, -1, -1)
    problem.f(z)
    started = time.perf_counter()
    problem.f(z)
    seconds = (time.perf_counter() - started) / 64 * n * 1.2
    out.print(f"[dim]{n:,} draws of {math.prod(problem.y.shape):,} inputs: about {_duration(seconds)}[/]")
    with _bar("drawing") as tick:
        yield tick


@contextmanager
def _bar(what: str) -> Iterator[Callable[[int, int], None]]:
    columns = (TextColumn(what), BarColumn(bar_width=28), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=out, transient=True) as progress:
        task = progress.add_task(what, total=None)

        def tick(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        yield tick


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold dim")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 or column == "" else "right", no_wrap=column == "")
    return table


_FILES = ("certificate.json", "tensors.safetensors", "noise.png", "curve.png")


def _fresh(folder: Path | None, text: str, private: bool) -> Path:
    """Where a certificate goes: the folder given, if it holds none of our files yet, else a new one below runs/."""
    if folder is None:
        return _unused(Path("runs") / ("private" if private else _slug(text)))
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"out = {str(folder)!r}: is a file; must be a folder")
    if any((folder / name).exists() for name in _FILES):
        raise FileExistsError(f"out = {str(folder)!r}: holds a certificate already; choose another folder")
    return folder


def _unused(path: Path) -> Path:
    number, candidate = 1, path
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return candidate


def _picture(name: str, path: Path, suffixes: tuple[str, ...]) -> Path:
    """A picture's path, checked before any work is done for it."""
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"{name} = {str(path)!r}: must end in {' or '.join(suffixes)}")
    if path.exists():
        raise FileExistsError(f"{name} = {str(path)!r}: exists already; choose another name")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{name} = {str(path)!r}: the folder {str(path.parent)!r} does not exist")
    return path


def _draw(figure: Any, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a letter that the font does not have is drawn as a box
        figure.savefig(path)


def _check_numbers(*, n: int, alpha: float, rho: float = 1.0) -> None:
    from certify import _validate

    _validate.positive("rho", rho)
    _validate.probability("alpha", alpha)
    _validate.count("n", n)


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60] or "prompt"


def _plain(token: str) -> str:
    return {"<|startoftext|>": "begin", "<|endoftext|>": "end"}.get(token, token.replace("</w>", ""))


def _noised(axes: Any) -> float:
    return float(axes[axes > 0].min()) if bool((axes > 0).any()) else 0.0


def _duration(seconds: float) -> str:
    if seconds < 1:
        return "a second"
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    return f"{math.ceil(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
