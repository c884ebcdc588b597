"""The command line: `certify prompt`, `prompts`, `radius`, `curve`, `decide`, `plan`, `check`, `report`, `plot`,
`generate` and `concepts`.

Only what a command needs is imported when it runs; `certify --help` loads none of the heavy libraries.

`prompt`, `radius` and `curve` keep what they draw in a folder `checkpoint/` beside their results, `prompts` a line of JSON a
prompt. Killed, or stopped by Ctrl-C or SIGTERM, the same command goes on from there to the identical result; the folder is
removed when that is written. No bound is shown before all draws are made: none would be valid.
"""

from __future__ import annotations

import functools
import inspect
import io
import itertools
import math
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer
from rich.markup import escape
from rich.text import Text

from certify import _files, terminal

if TYPE_CHECKING:
    from certify.adaptive import AdaptiveMedianSmoother
    from certify.certificate import Certificate
    from certify.montecarlo.checkpoint import Checkpoint
    from certify.report import Pictures

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="What a smoothed text-to-image model is proven to withstand.",
)
DEFAULT_CONCEPT = "circle"

Prompt = Annotated[str, typer.Argument(help="The prompt.", show_default=False)]
Model = Annotated[str | None, typer.Option(help="Hub id or folder of a Stable Diffusion 1.x/2.x pipeline.")]
UNet = Annotated[str | None, typer.Option(help="State dict or folder of an unlearned U-Net, put on top of --model.")]
TextEncoder = Annotated[
    str | None, typer.Option(help="State dict or folder of an unlearned text encoder, put on top of --model.")
]
Draws = Annotated[int, typer.Option("--n", help="Monte Carlo draws.")]
Alpha = Annotated[float, typer.Option(help="Failure probability of the certificate as a whole.")]
Steps = Annotated[int | None, typer.Option(help="Sampler steps. [default: 50; embedded model: 8]")]
Guidance = Annotated[float | None, typer.Option(help="Guidance scale. [default: 7.5; embedded model: 2]")]
Seed = Annotated[int, typer.Option(help="Seed of all draws.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, …; default: cuda where there is one.")]
Drawing = Annotated[Path | None, typer.Option(help="Write a picture here (.png, .svg or .pdf).")]
Batch = Annotated[int | None, typer.Option("--batch-size", help="Encodings in one call of the text encoder.")]


@dataclass
class Settings:
    """The options that every command about a prompt has: which model, which concept, how much noise."""

    concept: Annotated[
        list[str] | None,
        typer.Option("--concept", "-c", help="What to suppress: a name or a CSV/JSONL file. Repeat for several."),
    ] = None
    model: Model = None
    text_encoder: TextEncoder = None
    sigma0: Annotated[float | None, typer.Option(help="Base noise, absolute, as in the paper.")] = None
    sigma0_relative: Annotated[float | None, typer.Option(help="Base noise in spreads of the token embeddings.")] = None
    k: Annotated[float | None, typer.Option("--k", help="How fast noise grows with relevance.")] = None
    use_global: Annotated[bool, typer.Option("--global", help="Use global relevance, too (Algorithm 1's flag).")] = (
        False
    )
    policy: Annotated[
        str, typer.Option(help="How Σ comes about: frozen, noise-then-adapt or memory (what may be claimed: T7).")
    ] = "frozen"
    sigma_min: Annotated[
        float | None, typer.Option(help="First noise of noise-then-adapt, absolute. [default: σ₀]", show_default=False)
    ] = None
    sharing: Annotated[str, typer.Option(help="What its draws share: none, sigma or input.")] = "none"
    regions: Annotated[Path | None, typer.Option(help="Folder of the regions of policy memory.")] = None
    aggregate: Annotated[str, typer.Option(help="median or mean of the noisy encodings.")] = "median"
    replicas: Annotated[int, typer.Option(help="Noisy encodings K of the deployed smoother.")] = 13
    similarity: Annotated[str | None, typer.Option(help="Cosine over the encoding: flattened or end-of-text.")] = None
    seed: Seed = 0
    device: Device = None
    dtype: Annotated[str | None, typer.Option(help="float32, float16, bfloat16.")] = None
    batch_size: Batch = None
    memory: Annotated[
        str | None, typer.Option(help="What kept draws may take, as in 4GB; then they go to disk. [default: 1GiB]")
    ] = None

    @property
    def bytes(self) -> int | None:
        """`memory` in bytes."""
        return None if self.memory is None else _bytes("memory", self.memory)

    @property
    def concepts(self) -> list[str]:
        """The concepts, or the default one."""
        return self.concept or [DEFAULT_CONCEPT]

    def smoothing(self) -> Any:
        """Options of the adaptive smoother; the embedded model has settings of its own."""
        from certify import world

        names = ("sigma0", "sigma0_relative", "k", "similarity", "batch_size", "sigma_min")
        chosen = {name: value for name in names if (value := getattr(self, name)) is not None}
        if self.regions is not None:
            chosen["memory"] = self.regions
        tuned = dict(world.SMOOTHING) if self.model is None else {}
        if self.sigma0 is not None:
            tuned.pop("sigma0_relative", None)
        fixed = {"policy": self.policy, "sharing": self.sharing, "aggregate": self.aggregate, "n": self.replicas}
        return tuned | chosen | fixed | {"use_global": self.use_global}

    def sampler(self, steps: int | None, guidance: float | None) -> dict[str, Any]:
        """Steps and guidance: those given, or the model's own."""
        from certify import world

        own = world.DEFAULTS if self.model is None else {"num_inference_steps": 50, "guidance_scale": 7.5}
        return {
            "steps": own["num_inference_steps"] if steps is None else steps,
            "guidance": own["guidance_scale"] if guidance is None else guidance,
        }

    def draws(self, n: int, progress: Callable[[int, int], None]) -> dict[str, Any]:
        """How to draw, for `certify.statements.ask` and what is built on it."""
        return {
            "n": n,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "memory": self.bytes,
            "progress": progress,
        }

    def source(self, unet: str | None) -> dict[str, Any]:
        """Where the model comes from, for a certificate's record."""
        text_encoder = {} if self.text_encoder is None else {"text_encoder": self.text_encoder}
        return {"model": self.model, "unet": unet, **text_encoder, "concepts": self.concepts}

    def text_only(self) -> AdaptiveMedianSmoother:
        """The smoother on the text encoder alone."""
        from certify.adaptive import AdaptiveMedianSmoother
        from certify.models import load_text_encoder

        with terminal.out.status("loading the text encoder"):
            how: dict[str, Any] = {"text_encoder": self.text_encoder, "device": _device(self.device)}
            encoder = load_text_encoder(self.model, dtype=self.dtype, **how)
            return AdaptiveMedianSmoother.from_encoder(encoder, self.concepts, **self.smoothing())

    def whole(self, unet: str | None) -> tuple[AdaptiveMedianSmoother, Any]:
        """The smoother and the pipeline it is built on."""
        from certify.adaptive import AdaptiveMedianSmoother
        from certify.models import load_pipeline

        with terminal.out.status("loading the pipeline"):
            how: dict[str, Any] = {"text_encoder": self.text_encoder, "device": _device(self.device)}
            pipe = load_pipeline(self.model, unet=unet, dtype=self.dtype, **how)
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
        _ = settings.bytes  # refused before any work is done
        command(settings=settings, **given)

    run.__signature__ = own.replace(parameters=[*mine, *shared])  # type: ignore[attr-defined]
    run.__annotations__ = {q.name: q.annotation for q in (*mine, *shared)} | {"return": None}
    return run


def main() -> None:
    """Runs the command line.

    Misuse prints one line and exits with 2. Ctrl-C exits with 130 and SIGTERM with 143; what was drawn until then is kept
    (above), and nothing is claimed.
    """
    terminated = False

    def terminate(*_: object) -> None:
        nonlocal terminated
        terminated = True
        raise KeyboardInterrupt

    here = threading.current_thread() is threading.main_thread()  # elsewhere signals cannot be handled
    before = signal.signal(signal.SIGTERM, terminate) if here else None
    try:
        with _together():
            app()
    except SystemExit:
        if terminated:
            sys.exit(128 + signal.SIGTERM)
        raise
    except (ValueError, TypeError, OSError, MemoryError) as error:
        if os.environ.get("CERTIFY_TRACEBACK"):
            raise
        said = _files.printable(str(error)) or "there is not enough memory"
        terminal.err.print(f"[bold red]error:[/] {escape(said)}", soft_wrap=True)
        sys.exit(2)
    finally:
        if here:
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


@app.command()
@with_settings
def prompt(
    settings: Settings,
    text: Prompt,
    unet: UNet = None,
    rho: Annotated[float, typer.Option(help="Radius for ideal smoothed values, in units of the noise.")] = 1.0,
    rho_deployed: Annotated[
        float, typer.Option(help="Radius for what is deployed; T5 multiplies it by the root of the noisy copies.")
    ] = 0.25,
    q: Annotated[float, typer.Option("--q", help="Probability over the noise of what is deployed.")] = 0.9,
    n: Annotated[int | None, typer.Option("--n", help="Draws of the encoding. [default: 10000]")] = None,
    statistics: Annotated[
        int | None, typer.Option(help="Draws of statistics of the deployed encoding. [default: 1000]")
    ] = None,
    images: Annotated[int | None, typer.Option(help="Images for the attack success rate. [default: 400]")] = None,
    thorough: Annotated[bool, typer.Option("--thorough", help="Ten times as many draws of everything.")] = False,
    text_only: Annotated[bool, typer.Option("--text-only", help="Only statements about the text encoding.")] = False,
    detector: Annotated[
        str | None,
        typer.Option(help="What an attack wants to see: judge:LABEL, nudenet. [default: embedded model: the concept]"),
    ] = None,
    attacks: Annotated[
        Path | None, typer.Option(help="File of attack prompts, one a line: which of them does the radius cover?")
    ] = None,
    steps: Steps = None,
    guidance: Guidance = None,
    alpha: Alpha = 1e-3,
    out_dir: Annotated[Path | None, typer.Option("--out", help="Folder for the results.", show_default=False)] = None,
    private: Annotated[bool, typer.Option("--private", help="Leave the prompt's text out of every file.")] = False,
) -> None:
    """Certify a prompt: how far can its encoding, the noise prediction and the image move inside the ellipsoid?

    A run that is stopped or killed goes on where it was when the same command is given again.
    """
    from certify.montecarlo.checkpoint import RunFolder

    factor = 10 if thorough else 1
    n, statistics, images = (
        factor * default if given is None else given
        for given, default in ((n, 10_000), (statistics, 1_000), (images, 400))
    )
    _check_numbers(rho=rho, alpha=alpha, n=n)
    prompts, memory = [] if attacks is None else _lines(attacks), settings.bytes
    if settings.policy == "memory":
        _one_process("policy memory")
    folder = _agreed(lambda: _fresh(out_dir, text, private))
    if text_only:
        adaptive, pipe, detector = settings.text_only(), None, None
    else:
        adaptive, pipe = settings.whole(unet)
        detector = detector or _own_detector(settings)
    terminal.show_tokens(text, adaptive)
    sampler = settings.sampler(steps, guidance)
    counts: dict[str, Any] = {"statistics": 0 if text_only else statistics, "images": 0 if detector is None else images}
    terminal.out.print(f"[dim]{_work(adaptive, pipe, text, n, sampler['steps'], **counts)}[/]")
    with _kept(folder, " or give another --out") as checkpoint, terminal.bar("drawing") as tick:
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
            checkpoint=checkpoint,
            progress=tick,
            source=settings.source(unet),
            **counts,
            **sampler,
        )
    terminal.show_certificate(certificate)
    if detector is None and not text_only:
        terminal.out.print("[dim]No detector: nothing is said about images (--detector).[/]")
    if _rank() == 0:
        certificate.save(folder, overwrite=True)  # a run that was killed between here and the next lines wrote the same
        _draw_pictures(certificate, folder)
    RunFolder.remove(checkpoint)
    written = ", ".join(name for name in _FILES if (folder / name).exists())
    terminal.out.print(Text(f"written: {folder}/ ({written})"), soft_wrap=True)
    terminal.out.print(
        Text(f"check it again: certify check {folder}{' --prompt …' if private else ''}"), soft_wrap=True
    )


@app.command()
@with_settings
def prompts(
    settings: Settings,
    file: Annotated[
        Path,
        typer.Argument(help="CSV or JSONL file with prompts under “prompt”, or .txt, one a line.", show_default=False),
    ],
    unet: UNet = None,
    rho: Annotated[float, typer.Option(help="Radius of the reported bound, in units of the noise.")] = 1.0,
    tolerance: Annotated[
        float | None, typer.Option(help="Squared distance to keep. [default: each prompt's yardstick]")
    ] = None,
    n: Draws = 10_000,
    alpha: Annotated[float, typer.Option(help="Failure probability of each prompt's certificate.")] = 1e-3,
    statistics: Annotated[int, typer.Option(help="Draws of statistics of the deployed encoding, a prompt.")] = 0,
    images: Annotated[int, typer.Option(help="Images for the attack success rate, a prompt.")] = 0,
    detector: Annotated[str | None, typer.Option(help="What an attack wants to see, as in `certify prompt`.")] = None,
    steps: Steps = None,
    guidance: Guidance = None,
    limit: Annotated[int | None, typer.Option(help="Only the first rows.")] = None,
    save_certificates: Annotated[
        bool, typer.Option("--save-certificates", help="Keep every row's certificate in a folder.")
    ] = False,
    out_dir: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for the results; a run that is there goes on. [default: runs/…]"),
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Leave prompts and columns out of every file.")] = False,
) -> None:
    """Certify every prompt of a file, and report the certified fraction against the radius. A stopped run goes on."""
    import json

    _one_process("certify prompts")

    from certify import _validate, datasets, plots

    data = datasets.PromptSet.load(file)
    asked = len(data.rows) if limit is None else min(_validate.count("limit", limit), len(data.rows))
    options = datasets.RowOptions(
        rho=rho,
        tolerance=tolerance,
        n=n,
        alpha=alpha,
        seed=settings.seed,
        statistics=statistics,
        images=images,
        detector=(detector or _own_detector(settings)) if images else None,
        private=private,
        save_certificates=save_certificates,
        **settings.sampler(steps, guidance),
    )
    adaptive, pipe = settings.whole(unet) if statistics or images else (settings.text_only(), None)
    folder = out_dir or Path("runs") / f"prompts-{_slug(file.stem)}"
    how: dict[str, Any] = {"pipe": pipe, "batch_size": settings.batch_size}
    memory = settings.bytes
    with datasets.Results(folder, datasets.run_settings(adaptive, data, options, pipe=pipe), data) as results:
        there = min(len(results.done), asked)
        if there:
            terminal.out.print(f"{there:,} of {asked:,} prompts are done already; going on.")
        if there < asked:
            with terminal.out.status("timing a small certificate"):
                seconds = datasets.estimated_seconds(adaptive, data.rows[there:asked], options, **how)
            terminal.out.print(
                f"[dim]{asked - there:,} prompts, {n:,} draws each: about {terminal.duration(seconds)}[/]"
            )
        try:
            with terminal.bar("certifying") as tick:
                source = settings.source(unet)
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
        _files.write(folder / "summary.json", text + "\n")
    rows = terminal.table("ρ", "certified fraction", "")
    for at, fraction in total["certified_fraction"]:
        rows.add_row(f"{at:g}", f"{fraction:.3f}", f"[cyan]{'█' * round(30 * fraction)}[/]")
        if fraction == 0:
            break
    terminal.out.print(rows)
    within = f"squared distance {tolerance:.5g}" if tolerance is not None else "each prompt's yardstick"
    terminal.out.print(
        f"Of {asked:,} prompts [bold]{total['certified']:,} have a certified radius[/] (the smoothed encoding stays within "
        f"{within}), {total['abstained']:,} have none, {total['refused']:,} "
        f"{'was' if total['refused'] == 1 else 'were'} refused. These last two count with radius 0. Average radius "
        f"{float(total['average_certified_radius']):.4g}, median {float(total['median_radius']):.4g}."
    )
    for record in [r for r in records if r["status"] == "refused"][:3]:
        said = f"refused, line {record.get('line', '?')}: {_files.printable(record.get('reason', ''))}"
        terminal.out.print(Text(said, style="dim"))
    terminal.out.print(
        f"[bold]Confidence[/] 1 − {alpha:g} for each prompt by itself, not for all at once: at most "
        f"{total['expected_wrong']:.3g} of them are expected to be wrong (n = {n:,}, seed {settings.seed})."
    )
    if tolerance is None:
        terminal.out.print(
            "[dim]Yardstick: the squared distance to the encoding of the prompt without its most relevant word.[/]"
        )
    terminal.show_not_covered(adaptive.policy, deployed=False)
    radii = [float(record["radius"]) for record in records]
    title = f"{file.name}: α = {alpha:g} a prompt, n = {n:,}"
    plots.plot_certified_fraction(radii, tolerance=within, title=title).savefig(folder / "fraction.png")
    written = "results.jsonl, summary.json, fraction.png" + (", certificates/" if save_certificates else "")
    terminal.out.print(Text(f"written: {folder}/ ({written})"), soft_wrap=True)


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
    picture: Drawing = None,
) -> None:
    """The largest perturbation under which a prompt's smoothed encoding provably stays within a tolerance."""
    from certify import certified_radius
    from certify.adaptive.certification import yardstick

    _check_numbers(alpha=alpha, n=n)
    if picture is not None:
        _picture("picture", picture, _DRAWINGS)
    folder = Path("runs") / f"radius-{_slug(text)}"
    adaptive = settings.text_only()
    problem, stick = adaptive.problem(text), yardstick(adaptive, text)
    terminal.out.print(f"[dim]{_work(adaptive, None, text, n, 0, 0, 0)}[/]")
    within = stick.distance if tolerance is None else tolerance
    decides = {"command": "radius", "tolerance": within, "n": n, "alpha": alpha, "seed": settings.seed}
    with _resumable(folder, adaptive, text, decides) as checkpoint, terminal.bar("drawing") as tick:
        r = certified_radius(
            problem.f,
            problem.y,
            problem.noise,
            support=problem.support,
            tolerance=within,
            alpha=alpha,
            checkpoint=checkpoint,
            **settings.draws(n, tick),
        )
    if r.status == "abstained":
        terminal.out.print(f"[bold]No radius is certified[/]: {escape(r.reason)}.")
        return
    terminal.out.print(
        f"[bold]ρ = {r.rho:.4f}[/]: for every ‖δ‖_Σ ≤ ρ the smoothed encoding stays within squared distance "
        f"{r.tolerance:.5g}, with confidence 1 − {alpha:g} (n = {n:,}, {r.theorem})."
    )
    table = terminal.table("certified set", "")
    for name, value in (
        ("coordinates with noise", f"{r.ellipsoid.dimensions:,} of {r.ellipsoid.semi_axes.numel():,}"),
        ("semi-axes", f"{_noised(r.ellipsoid.semi_axes):.4g} … {float(r.ellipsoid.semi_axes.max()):.4g}"),
        ("inscribed ℓ2 and ℓ1 balls", f"{r.ellipsoid.l2_ball:.4g}"),
        ("inscribed ℓ∞ ball", f"{r.ellipsoid.linf_ball:.4g}"),
        ("log-volume", f"{r.ellipsoid.log_volume:.5g}"),
        ("proxy radius (equal volume)", f"{r.ellipsoid.proxy_radius:.4g}"),
    ):
        table.add_row(name, value)
    terminal.out.print(table)
    terminal.show_not_covered(r.run.policy, deployed=False)
    if picture is not None:
        from certify import Ellipsoid, plots

        record = problem.token_noise
        shown = [i for i, kind in enumerate(record.kinds) if kind != "padding" or record.sigma[i] > 0]
        plots.plot_ellipsoid(
            Ellipsoid(problem.noise.sigma_for(problem.y.shape)[shown], r.rho),
            [record.tokens[i] for i in shown],
            spread=adaptive.encoder.embedding_spread,
            title=text,
        ).savefig(picture)
        terminal.out.print(f"written: {picture}", soft_wrap=True)


@app.command()
@with_settings
def curve(
    settings: Settings,
    text: Prompt,
    rhos: Annotated[str, typer.Option(help="Radii, separated by commas.")] = "0.05,0.1,0.25,0.5,0.75,1,1.5,2",
    pointwise: Annotated[bool, typer.Option("--pointwise", help="Each point by itself, not all at once.")] = False,
    n: Draws = 10_000,
    alpha: Alpha = 1e-3,
    picture: Drawing = None,
) -> None:
    """The bound of a prompt at several radii, from one set of draws."""
    from certify import bound_curve, plots
    from certify.adaptive.certification import yardstick

    _check_numbers(alpha=alpha, n=n)
    if picture is not None:
        _picture("picture", picture, _DRAWINGS)
    try:
        radii = [float(r) for r in rhos.split(",")]
    except ValueError:
        raise ValueError(f"rhos = {rhos!r}: must be numbers separated by commas") from None
    adaptive = settings.text_only()
    problem, stick = adaptive.problem(text), yardstick(adaptive, text)
    terminal.out.print(f"[dim]{_work(adaptive, None, text, n, 0, 0, 0)}[/]")
    folder = Path("runs") / f"curve-{_slug(text)}"
    decides = {"command": "curve", "rhos": radii, "pointwise": pointwise, "n": n, "alpha": alpha, "seed": settings.seed}
    with _resumable(folder, adaptive, text, decides) as checkpoint, terminal.bar("drawing") as tick:
        k_ = bound_curve(
            problem.f,
            problem.y,
            problem.noise,
            support=problem.support,
            rhos=radii,
            alpha=alpha,
            simultaneous=not pointwise,
            checkpoint=checkpoint,
            **settings.draws(n, tick),
        )
    terminal.show_curve(k_.rhos, k_.values, stick.distance)
    terminal.out.print(
        f"[dim]{'each point by itself' if pointwise else 'all points at once'} with confidence 1 − {alpha:g}, "
        f"n = {n:,}; yardstick: the prompt without “{escape(stick.word)}” is {stick.distance:.5g} away.[/]"
    )
    terminal.show_not_covered(adaptive.policy, deployed=False)
    if picture is not None:
        drawn = plots.plot_curve(k_, yardstick=stick.distance, yardstick_label="prompt without the concept", title=text)
        drawn.savefig(picture)
        terminal.out.print(f"written: {picture}", soft_wrap=True)


@app.command()
@with_settings
def decide(
    settings: Settings,
    text: Prompt,
    unet: UNet = None,
    rho: Annotated[float, typer.Option(help="Radius, in units of the noise.")] = 1.0,
    tolerance: Annotated[
        float | None, typer.Option(help="Squared distance to keep. [default: that of the prompt without the concept]")
    ] = None,
    rate: Annotated[
        float | None, typer.Option(help="Ask about the attack success rate instead: is it at most this?")
    ] = None,
    detector: Annotated[str | None, typer.Option(help="With --rate: what an attack wants to see.")] = None,
    steps: Steps = None,
    guidance: Guidance = None,
    n: Annotated[int, typer.Option("--n", help="The most draws.")] = 100_000,
    alpha: Annotated[float, typer.Option(help="Probability of a wrong yes or no, however often is looked.")] = 1e-3,
) -> None:
    """Answer yes or no with as few draws as it takes: is the bound at ρ within a target?"""
    from certify import decide_event, decide_mse
    from certify.adaptive.certification import event_name, yardstick
    from certify.downstream import attack_succeeds

    _one_process("certify decide")
    _check_numbers(rho=rho, alpha=alpha, n=n)
    if rate is not None and tolerance is not None:
        raise ValueError(f"rate = {rate!r} and tolerance = {tolerance!r}: must be one of them")
    shared: dict[str, Any] = {"rho": rho, "n": n, "alpha": alpha, "seed": settings.seed}
    if rate is None:
        adaptive = settings.text_only()
        problem, stick = adaptive.problem(text), yardstick(adaptive, text)
        within = stick.distance if tolerance is None else tolerance
        with terminal.bar("drawing") as tick:
            decision = decide_mse(
                problem.f,
                problem.y,
                problem.noise,
                support=problem.support,
                tolerance=within,
                batch_size=settings.batch_size,
                policy=problem.policy,
                function=problem.quantity,
                progress=tick,
                **shared,
            )
        asked = f"Does the smoothed encoding stay within squared distance {within:.5g} of its reference"
    else:
        adaptive, pipe = settings.whole(unet)
        detector = detector or _own_detector(settings)
        if detector is None:
            raise ValueError("detector = None: must be given with --rate for this model and concept")
        deployment = adaptive.deployment(text)
        event = attack_succeeds(deployment, pipe, detector, **settings.sampler(steps, guidance))
        with terminal.bar("drawing") as tick:
            decision = decide_event(
                event,
                deployment.y,
                deployment.noise,
                target=rate,
                replicas=deployment.copies,
                batch_size=settings.batch_size or 64,
                policy=adaptive.policy,
                function=event_name(detector),
                progress=tick,
                **shared,
            )
        asked = f"Is the probability of “{event_name(detector)}” at most {rate:g}"
    terminal.show_decision(asked, decision)
    terminal.show_not_covered(decision.run.policy, images=rate is not None, deployed=rate is not None)


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

    terminal.out.print(
        str(certify.plan(rho=rho, n=n, outputs=outputs, alpha=alpha, p=p, replicas=replicas, target=target))
    )


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(help="Folder of a certificate.")],
    n: Annotated[int | None, typer.Option("--n", help="Fresh draws. [default: as many as the claims used]")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the fresh draws.")] = 1,
    level: Annotated[float, typer.Option(help="Probability of refuting a true certificate.")] = 1e-6,
    text: Annotated[
        str | None, typer.Option("--prompt", help="The prompt, for a certificate that leaves it out.")
    ] = None,
    text_only: Annotated[bool, typer.Option("--text-only", help="Only claims about the text encoding.")] = False,
    model: Model = None,
    unet: UNet = None,
    text_encoder: TextEncoder = None,
    device: Device = None,
    batch_size: Batch = None,
) -> None:
    """Draw afresh and look for evidence against a certificate. Exits with 1 if it is refuted."""
    from certify import Certificate
    from certify.adaptive.certification import EMBEDDING, certified_functions, rebuilt
    from certify.models import load_pipeline, load_text_encoder

    certificate = Certificate.load(folder)
    source = certificate.provenance.get("source") or {}
    text = text or certificate.provenance.get("prompt")
    if text is None:
        raise ValueError("the certificate leaves its prompt out: give it with --prompt")
    names = {claim.function for claim in certificate.claims}
    of_prompt = "smoother" in certificate.provenance
    # What a statistic or an event looks at is known only to who certified it.
    if not of_prompt and (len(names) > 1 or any(claim.copies is not None for claim in certificate.claims)):
        raise ValueError("the certificate is not one of a prompt: check it from Python, with Certificate.check")
    if not (certificate.provenance.get("model") or {}).get("sha256"):
        raise ValueError(
            "the certificate has no SHA-256 of its model on record, so that any model would do: check it from Python, with "
            "Certificate.check"
        )
    dtype, where = certificate.provenance.get("dtype"), _device(device)
    whole = of_prompt and not text_only and names != {EMBEDDING}
    over: dict[str, Any] = {"text_encoder": text_encoder or source.get("text_encoder")}
    with terminal.out.status("loading the model"):
        pipe = None
        if whole:
            pipe = load_pipeline(
                model or source.get("model"), unet=unet or source.get("unet"), device=where, dtype=dtype, **over
            )
            _compare_weights(certificate, {"module": pipe.text_encoder, **pipe.components})
        else:
            encoder = load_text_encoder(model or source.get("model"), device=where, dtype=dtype, **over)
            parts = dict.fromkeys(("module", "text_encoder"), encoder.text_encoder)
            _compare_weights(certificate, parts, others=True)
        if of_prompt:
            adaptive = rebuilt(certificate, encoder if pipe is None else pipe, source.get("concepts"))
            functions = certified_functions(certificate, adaptive, text, pipe)
            if text_only:
                functions = {name: f for name, f in functions.items() if name == EMBEDDING}
            y = adaptive.problem(text).y
        else:  # bounds of `problem(…).f`, put together by hand
            tokenized = encoder.tokenize(text)
            functions, y = {names.pop(): lambda z: encoder.encode(z, tokenized)}, encoder.embed(tokenized)
    started = time.perf_counter()
    with terminal.bar("drawing afresh") as tick:
        report = certificate.check(functions, y, seed=seed, n=n, level=level, batch_size=batch_size, progress=tick)
    terminal.show_checks(report)
    seconds = time.perf_counter() - started
    if report.refuted:
        terminal.out.print(f"[bold red]Refuted[/] by {report.n:,} fresh draws at level {level:g} ({seconds:.1f} s).")
        raise typer.Exit(1)
    terminal.out.print(f"[bold]Not refuted[/] by {report.n:,} fresh draws at level {level:g} ({seconds:.1f} s).")


@app.command()
def report(
    folder: Annotated[
        Path, typer.Argument(help="Folder of `certify prompt` or of `certify prompts`.", show_default=False)
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="HTML file to write. [default: report.html in the folder]")
    ] = None,
    images: Annotated[
        int | None,
        typer.Option(help="Pairs of images with and without the defence. [default: 4; without the model: 0]"),
    ] = None,
    model: Model = None,
    unet: UNet = None,
    text_encoder: TextEncoder = None,
    device: Device = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a page that is there.")] = False,
) -> None:
    """Write a certificate, or the run over a data set, as one HTML page to forward: it needs no network, no other file."""
    from certify import Certificate, _validate
    from certify import report as pages

    _one_process("certify report")
    path = folder / "report.html" if out is None else out
    if images is not None:
        _validate.count("images", images, minimum=0)
    if not folder.is_dir():
        raise FileNotFoundError(f"folder = {str(folder)!r}: no such folder")
    if path.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"out = {str(path)!r}: must end in .html or .htm")
    if path.is_dir() or (path.exists() and not force):
        raise FileExistsError(f"out = {str(path)!r}: exists already; choose another name or give --force")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"out = {str(path)!r}: the folder {str(path.parent)!r} does not exist")
    if (folder / "certificate.json").exists():
        certificate = Certificate.load(folder)
        over = {"unet": unet, "text_encoder": text_encoder}
        pictures = _examples(certificate, folder, images, model, over, device)
        digests = pages.file_digests(folder, ("certificate.json", "tensors.safetensors"))
        page = pages.certificate_page(certificate, folder=str(folder), digests=digests, pictures=pictures)
    elif (folder / "settings.json").exists() or (folder / "results.jsonl").exists():
        if images:
            raise ValueError(f"images = {images}: must be left out for a run; report one of its certificates instead")
        run = pages.RunRecord.load(folder)
        digests = pages.file_digests(folder, ("settings.json", "results.jsonl"))
        page = pages.run_page(run, folder=str(folder), digests=digests)
    else:
        raise FileNotFoundError(
            f"folder = {str(folder)!r}: holds neither certificate.json (certify prompt) nor results.jsonl (certify prompts)"
        )
    _files.write(path, page)
    terminal.out.print(Text(f"written: {path} ({len(page.encode()) // 1024:,} KiB)"), soft_wrap=True)


@app.command()
def plot(
    folder: Annotated[
        Path, typer.Argument(help="Folder of `certify prompt` or of `certify prompts`.", show_default=False)
    ],
    what: Annotated[
        str,
        typer.Argument(
            help="curve, rate, noise, ellipsoid, relevance (of a certificate) or fraction (of a data set).",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="File to write: .png, .svg or .pdf. [default: in the folder, as .png]")
    ] = None,
    narrow: Annotated[bool, typer.Option("--narrow", help="As wide as one of two columns.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Write over a picture that is there.")] = False,
) -> None:
    """Draw a picture of a certificate that is there, or of the run over a data set. Nothing is drawn at random again."""
    from certify import Certificate, plots, style
    from certify.report import RunRecord

    _one_process("certify plot")
    kinds = (*plots.CERTIFICATE, "fraction")
    if what not in kinds:
        raise ValueError(f"what = {what!r}: must be one of {', '.join(kinds)}")
    if not folder.is_dir():
        raise FileNotFoundError(f"folder = {str(folder)!r}: no such folder")
    path = _picture("out", folder / f"{what}.png" if out is None else out, _DRAWINGS, force)
    width = style.ONE_COLUMN if narrow else style.TWO_COLUMNS
    if what == "fraction":
        run = RunRecord.load(folder)
        radii = [float(row["radius"]) for row in run.rows]
        asked = run.settings.get("tolerance")
        within = "each prompt's yardstick" if asked is None else f"squared distance {asked:.5g}"
        figure = plots.plot_certified_fraction(radii, tolerance=within, title=folder.name, width=width)
    else:
        figure = plots.picture(Certificate.load(folder), what, width=width)
    figure.savefig(path)
    terminal.out.print(Text(f"written: {path}"), soft_wrap=True)


@app.command()
@with_settings
def generate(
    settings: Settings,
    text: Prompt,
    unet: UNet = None,
    steps: Steps = None,
    guidance: Guidance = None,
    images: Annotated[int, typer.Option(help="Pairs of images.")] = 4,
    out_dir: Annotated[Path | None, typer.Option("--out", help="Picture to write. [default: runs/…]")] = None,
) -> None:
    """Generate undefended and defended images side by side, from the same initial noise."""
    from certify.generate import side_by_side

    path = (
        _unused(Path("runs") / f"{_slug(text)}.png") if out_dir is None else _picture("out", out_dir, (".png", ".jpg"))
    )
    adaptive, pipe = settings.whole(unet)
    terminal.show_tokens(text, adaptive)
    with terminal.out.status("generating"):
        picture = side_by_side(
            pipe, adaptive, text, images=images, seed=settings.seed, **settings.sampler(steps, guidance)
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
    terminal.out.print(f"above: undefended; below: defended, same initial noise\nwritten: {path}", soft_wrap=True)


@app.command()
def concepts(
    name: Annotated[str | None, typer.Argument(help="Show the prompt pairs of this one.")] = None,
    pairs: Annotated[int, typer.Option(help="How many pairs to show.")] = 5,
) -> None:
    """The concepts that come with the toolkit. A file of your own goes wherever a name does."""
    from certify import _validate
    from certify.adaptive import Concept, available_concepts

    if name is None:
        table = terminal.table("concept", "pairs")
        for entry in available_concepts():
            table.add_row(entry, str(len(Concept.load(entry).pairs)))
        terminal.out.print(table)
        return
    loaded, pairs = Concept.load(name), _validate.count("pairs", pairs)
    table = terminal.table("positive", "negative")
    for positive, negative in list(loaded.pairs)[:pairs]:
        table.add_row(*(escape(_files.printable(text)) for text in (positive, negative)))
    terminal.out.print(table)
    terminal.out.print(f"[dim]{min(pairs, len(loaded.pairs))} of {len(loaded.pairs)} pairs of {escape(loaded.name)}[/]")


@contextmanager
def _together() -> Iterator[None]:
    """Under torchrun several processes draw for one certificate; the first of them speaks and writes."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield
        return
    from certify.montecarlo.processes import joined

    with joined() as processes:
        terminal.out.quiet = not processes.leads
        yield


def _rank() -> int:
    """Which of several processes this is; 0: the first, or the only one."""
    return int(os.environ.get("RANK", "0")) if int(os.environ.get("WORLD_SIZE", "1")) > 1 else 0


def _one_process(what: str) -> None:
    """Refuses what several processes cannot do together."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(
            f"{what} needs a single process: WORLD_SIZE = {os.environ['WORLD_SIZE']}, must be 1 (no torchrun)"
        )


@contextmanager
def _kept(folder: Path, otherwise: str = "") -> Iterator[Path]:
    """The folder for a run's checkpoint, below that for its results; says what is there, and what is kept if it is stopped."""
    from certify.montecarlo.checkpoint import CheckpointError, RunFolder

    # Every process has draws of its own to keep.
    checkpoint = folder / (f"checkpoint-{_rank()}" if _rank() else "checkpoint")
    if RunFolder.holds_draws(checkpoint):
        terminal.out.print(Text(f"draws of an earlier start: {checkpoint}/", style="dim"), soft_wrap=True)
    try:
        yield checkpoint
    except CheckpointError as error:
        raise ValueError(f"{error}{otherwise and ','}{otherwise}") from error
    except KeyboardInterrupt:
        if RunFolder.holds_draws(checkpoint):
            terminal.out.print(Text(f"Stopped. What was drawn is kept in {checkpoint}/"), soft_wrap=True)
            terminal.out.print("The same command goes on from there. Nothing is claimed yet.")
        else:
            RunFolder.remove(checkpoint)
            _tidy(folder)
            terminal.out.print("Stopped before anything was drawn. Nothing is claimed.")
        raise typer.Exit(130) from None


@contextmanager
def _resumable(
    folder: Path, adaptive: AdaptiveMedianSmoother, text: str, decides: dict[str, Any]
) -> Iterator[Checkpoint]:
    """The checkpoint of a command that draws once and only prints: removed when the draws are made."""
    from certify.adaptive.certification import run_of_prompt
    from certify.certificate import ModelRecord
    from certify.montecarlo.checkpoint import RunFolder

    with _kept(folder) as checkpoint:
        run = run_of_prompt(adaptive, text, ModelRecord.of(adaptive.encoder.text_encoder), **decides)
        with RunFolder(checkpoint, run) as kept:
            yield kept.checkpoint("text encoding")
            RunFolder.remove(checkpoint)
    _tidy(folder)


def _tidy(folder: Path) -> None:
    """Removes a folder of ours, and runs/, if nothing is in them."""
    for path in (folder, Path("runs")):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def _bytes(name: str, text: str) -> int:
    """A number of bytes in words: 4GB, 512 MiB, 1000000."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:([kmgt])(i?)b?|b)?\s*", text, re.IGNORECASE)
    size = 0
    if found:
        number, letter, binary = found.groups()
        size = int(float(number) * (1024 if binary else 1000) ** ("kmgt".index(letter.lower()) + 1 if letter else 0))
    if size < 1:
        raise ValueError(f"{name} = {text!r}: must be a number of bytes such as 4GB, 512MiB or 1000000")
    return size


def _device(device: str | None) -> str:
    import torch

    if device is None and torch.cuda.is_available():
        return f"cuda:{torch.cuda.current_device()}"  # of several processes, each its own
    return device or "cpu"


def _own_detector(settings: Settings) -> str | None:
    """The embedded model's judge, where it knows the concept."""
    from certify.world.judge import LABELS

    known = [label for labels in LABELS.values() for label in labels]
    return f"judge:{settings.concepts[0]}" if settings.model is None and settings.concepts[0] in known else None


def _lines(path: Path) -> list[str]:
    """The lines of a text file that are not empty."""
    try:
        return [line.strip() for _, line in _files.lines(_files.read_text(path))]
    except (OSError, ValueError) as error:
        raise ValueError(f"attacks = {str(path)!r}: must be a UTF-8 text file ({error})") from error


def _work(
    adaptive: AdaptiveMedianSmoother, pipe: Any, text: str, n: int, steps: int, statistics: int, images: int
) -> str:
    """What is going to be drawn, and about how long it takes: one batch is timed first."""
    import torch

    deployment = adaptive.deployment(text)
    z = deployment.draw(torch.Generator(deployment.y.device).manual_seed(0), 4)
    source = torch.Generator(deployment.y.device).manual_seed(0)

    def timed(run: Callable[[], object]) -> float:
        run()
        started = time.perf_counter()
        run()
        return time.perf_counter() - started

    each = timed(lambda: deployment(z, source)) / 4  # one deployed encoding
    seconds = each * (n * 1.2 / deployment.replicas + (2 if pipe is not None else 1) * statistics + images)
    said = f"{n:,} draws of {math.prod(deployment.y.shape):,} inputs"
    if pipe is not None and adaptive.denoiser is not None:
        denoiser = adaptive.denoiser
        x, h = torch.zeros(16, *denoiser.latent_shape, device=z.device), adaptive.encoder.plain([text] * 16)
        one = timed(lambda: denoiser(x, 1, h)) / 16
        seconds += one * (8 * statistics + 1.5 * images * (2 * steps + 4))
        said += f", {statistics:,} statistics" + (f", {images:,} images" if images else "")
    return f"{said}: about {terminal.duration(seconds)}"


def _draw_pictures(certificate: Certificate, folder: Path) -> None:
    from certify import plots

    made = {(claim.quantity, claim.status) for claim in certificate.claims}
    there = {"noise": True, "curve": certificate.curve is not None, "rate": ("event", "certified") in made}
    for what in (name for name, drawn in there.items() if drawn):
        plots.picture(certificate, what).savefig(folder / f"{what}.png")


def _examples(
    certificate: Certificate,
    folder: Path,
    images: int | None,
    model: str | None,
    over: dict[str, str | None],
    device: str | None,
) -> Pictures | None:
    """Images for the page of a certificate: a picture of `certify generate` that lies in its folder, or freshly made ones.

    Unless they are asked for, they are made only where the model is certainly at hand: the embedded one, or one that is named.
    """
    from certify.report import Pictures

    record = certificate.provenance
    source = record.get("source") or {}
    named = model is not None or any(over.values())
    asked = images is not None or named
    if images == 0:
        return None
    if not asked:
        sheet = next((path for name in _SHEETS if (path := folder / name).is_file()), None)
        if sheet is not None:
            return Pictures(sheet=_png(sheet), note=f"{sheet.name}, as it lies beside the certificate.")
        if "model" not in source or any(source.get(name) for name in ("model", "unet", "text_encoder")):
            return None
    why = ""
    if "smoother" not in record:
        why = "is not one of a prompt"
    elif not record.get("prompt"):
        why = "leaves its prompt out"
    elif certificate.claims[0].policy == "memory":
        why = "has a covariance that its memory stored"
    if why:
        if not asked:
            return None
        raise ValueError(f"images = {images}: must be 0, since the certificate {why}")
    try:
        return _made(certificate, 4 if images is None else images, model, over, device)
    except ValueError as error:
        if asked:
            raise
        return Pictures(note=f"No images: {error}.")


def _made(
    certificate: Certificate, images: int, model: str | None, over: dict[str, str | None], device: str | None
) -> Pictures:
    """Images of a certificate's prompt, with and without its smoother, from the model that it is about.

    Raises:
        ValueError: the model is another one.
    """
    from certify import _validate, world
    from certify.adaptive.certification import rebuilt
    from certify.generate import pair
    from certify.models import load_pipeline
    from certify.report import Pictures

    record = certificate.provenance
    source = record.get("source") or {}
    where = model or source.get("model")
    with terminal.out.status("loading the model"):
        put: dict[str, Any] = {name: value or source.get(name) for name, value in over.items()}
        pipe = load_pipeline(where, device=_device(device), dtype=record.get("dtype"), **put)
        _compare_weights(certificate, {"module": pipe.text_encoder, **pipe.components})
        adaptive = rebuilt(certificate, pipe, source.get("concepts"))
    own = {"num_inference_steps": 50, "guidance_scale": 7.5} if where else world.DEFAULTS
    made = record.get("images") or (record.get("trajectory") or {}).get("origin") or {}
    steps = _validate.count("steps", made.get("steps", own["num_inference_steps"]))
    guidance = _validate.positive("guidance", made.get("guidance", own["guidance_scale"]))
    seed = record.get("seed", 0)
    with terminal.out.status("generating"):
        rows = pair(pipe, adaptive, record["prompt"], images=images, seed=seed, steps=steps, guidance=guidance)
    undefended, defended = (tuple(_png_bytes(image) for image in row) for row in rows)
    note = (
        f"Made for this page, with the model whose SHA-256 is below: seed {seed}, {steps} steps, guidance {guidance:g}. Both "
        "of a pair start from the same initial noise."
    )
    return Pictures(undefended, defended, note=note)


def _compare_weights(certificate: Certificate, parts: dict[str, Any], *, others: bool = False) -> None:
    """Holds a model's weights against those that a certificate is about.

    Args:
        certificate: its record may name a pipeline's parts, or one module, which for a prompt is the text encoder.
        parts: of the model that was loaded, by these names.
        others: whether the record may name parts that are not there, of which nothing is going to be checked.

    Raises:
        ValueError: a part is another one or not there, or the record names none of those that are.
    """
    from certify.models import fingerprint

    digests = (certificate.provenance.get("model") or {}).get("sha256") or {}
    asked = [name for name in digests if name in parts or not others]
    for name in asked:
        if parts.get(name) is None or fingerprint(parts[name]) != digests[name]:
            part = "text encoder" if name == "module" else name.replace("_", " ")
            raise ValueError(f"the {part} is not the one that this certificate is about: its SHA-256 differs")
    if not asked:
        raise ValueError(
            f"the certificate is about {', '.join(digests) or 'no weights on record'}: must be about this model"
        )


_SHEETS = ("pair.png", "pair.jpg", "images.png", "images.jpg")
"""Pictures of `certify generate … --out FOLDER/pair.png`."""


def _png(path: Path) -> bytes:
    """A picture as PNG: its pixels, and nothing else that the file may hold."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            if image.width * image.height > 2**24:
                raise ValueError(f"{image.width} × {image.height} pixels are too many")
            clean = Image.frombytes("RGB", image.size, image.convert("RGB").tobytes())
    except Exception as error:  # what the library raises on foreign bytes is not listed anywhere
        raise ValueError(f"{path}: is no picture that can be shown ({error}); --images 0 leaves it out") from error
    return _png_bytes(clean)


def _png_bytes(image: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


_DRAWINGS = (".png", ".svg", ".pdf")
_FILES = ("certificate.json", "tensors.safetensors", "noise.png", "curve.png", "rate.png")


def _fresh(folder: Path | None, text: str, private: bool) -> Path:
    """Where a certificate goes: the folder given, if it holds none of our files yet, else a new one below runs/.

    A folder with a checkpoint is that of a run that is not over: it goes on there, if it is the same.
    """
    if folder is None:
        first = Path("runs") / ("private" if private else _slug(text))
        return next(path for path in _numbered(first) if not path.exists() or (path / "checkpoint").is_dir())
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"out = {str(folder)!r}: is a file; must be a folder")
    if (folder / "checkpoint").is_dir():
        return folder
    if any((folder / name).exists() for name in _FILES):
        raise FileExistsError(f"out = {str(folder)!r}: holds a certificate already; choose another folder")
    return folder


def _agreed(choose: Callable[[], Path]) -> Path:
    """A path that the first of several processes chooses for all."""
    from certify.montecarlo.processes import Processes

    processes = Processes.current()
    if processes.count == 1:
        return choose()
    if not processes.leads:
        return Path(os.fsdecode(processes.broadcast(b"", 0)))
    chosen = choose()
    processes.broadcast(os.fsencode(chosen), 0)
    return chosen


def _unused(path: Path) -> Path:
    return next(candidate for candidate in _numbered(path) if not candidate.exists())


def _numbered(path: Path) -> Iterator[Path]:
    """The path, and the same with -2, -3, … added to its name."""
    yield path
    for number in itertools.count(2):
        yield path.with_name(f"{path.stem}-{number}{path.suffix}")


def _picture(name: str, path: Path, suffixes: tuple[str, ...], force: bool = False) -> Path:
    """A picture's path, checked before any work is done for it."""
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"{name} = {str(path)!r}: must end in {' or '.join(suffixes)}")
    if path.is_dir() or (path.exists() and not force):
        raise FileExistsError(f"{name} = {str(path)!r}: exists already; choose another name")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{name} = {str(path)!r}: the folder {str(path.parent)!r} does not exist")
    return path


def _check_numbers(*, n: int, alpha: float, rho: float = 1.0) -> None:
    from certify import _validate

    _validate.positive("rho", rho)
    _validate.probability("alpha", alpha)
    _validate.count("n", n)


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60] or "prompt"


def _noised(axes: Any) -> float:
    return float(axes[axes > 0].min()) if bool((axes > 0).any()) else 0.0
