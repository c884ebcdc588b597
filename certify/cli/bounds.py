"""`certify radius`, `curve`, `decide` and `plan`: one question each, answered on the terminal."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from certify import _validate
from certify._text import shown
from certify.certificate import words
from certify.cli import checks, terminal
from certify.cli.checks import checked
from certify.cli.endings import DONE, NO, NO_ANSWER
from certify.cli.folders import agreed, certificate_folder, resumable, saved, slug, writable
from certify.cli.processes import one_process, rank
from certify.cli.settings import (
    Alpha,
    Detector,
    Drawing,
    Draws,
    Fresh,
    Guidance,
    Kept,
    Long,
    Prompt,
    Radius,
    Settings,
    Steps,
    Tolerance,
    UNet,
    with_settings,
)
from certify.cli.work import show_work, work_ahead

if TYPE_CHECKING:
    from certify.adaptive import AdaptiveMedianSmoother


@with_settings
def radius(
    settings: Settings,
    text: Prompt,
    tolerance: Tolerance = None,
    n: Draws = 10_000,
    alpha: Alpha = 1e-3,
    picture: Drawing = None,
    out_dir: Kept = None,
    fresh: Fresh = False,
    long: Long = False,
) -> None:
    """The largest perturbation under which a prompt's smoothed encoding provably stays within a tolerance."""
    from certify import certified_radius
    from certify.adaptive.certification import yardstick
    from certify.certificate.certificate import claim_of

    folder = _folder(settings, "radius", text, out_dir)
    adaptive = settings.text_only()
    problem, stick = adaptive.problem(text), yardstick(adaptive, text)
    terminal.show_truncation(adaptive.encoder.tokenize(text).truncated)
    show_work(*work_ahead(adaptive, None, text, n), long=long)
    within = _validate.positive("tolerance", stick.distance if tolerance is None else tolerance)
    decides = {"command": "radius", "tolerance": within, "n": n, "alpha": alpha, "seed": settings.seed}
    with resumable(folder, adaptive, text, decides, fresh) as checkpoint:
        with terminal.bar("drawing") as tick:
            r = certified_radius(
                problem.f,
                problem.y,
                problem.noise,
                support=problem.support,
                tolerance=within,
                alpha=alpha,
                checkpoint=checkpoint,
                **_about(adaptive),
                **settings.draws(n, tick),
            )
        if out_dir is not None:
            _save(settings, adaptive, text, r, folder)
    if r.status == "abstained":
        terminal.out.print(words.sentence(claim_of(r), terminal.MARKUP))
        raise typer.Exit(NO_ANSWER)
    terminal.out.print(words.with_confidence(claim_of(r), terminal.MARKUP))
    if tolerance is None:
        terminal.out.print(words.removed(asdict(stick), terminal.MARKUP, adaptive.mention(text).to_dict()))
    table = terminal.table("certified set", "")
    for name, value in (
        ("coordinates with noise", f"{r.ellipsoid.dimensions:,} of {r.ellipsoid.semi_axes.numel():,}"),
        ("semi-axes", f"{_down(_noised(r.ellipsoid.semi_axes))} … {_down(float(r.ellipsoid.semi_axes.max()))}"),
        ("inscribed ℓ2 and ℓ1 balls", _down(r.ellipsoid.l2_ball)),
        ("inscribed ℓ∞ ball", _down(r.ellipsoid.linf_ball)),
        ("log-volume", shown(r.ellipsoid.log_volume, "down", 5)),
        ("proxy radius (equal volume)", _down(r.ellipsoid.proxy_radius)),
    ):
        table.add_row(name, value)
    terminal.out.print(table)
    terminal.show_not_covered(r.run.policy, deployed=False)
    if picture is not None:
        from certify import Ellipsoid, plots

        record = problem.token_noise
        rows = [i for i, kind in enumerate(record.kinds) if kind != "padding" or record.sigma[i] > 0]
        plots.plot_ellipsoid(
            Ellipsoid(problem.noise.sigma_for(problem.y.shape)[rows], r.rho),
            [record.tokens[i] for i in rows],
            spread=adaptive.encoder.embedding_spread,
            title=text,
        ).savefig(picture)
        terminal.out.print(f"written: {picture}", soft_wrap=True)


@with_settings
def curve(
    settings: Settings,
    text: Prompt,
    rhos: Annotated[
        str, typer.Option(help="Radii, separated by commas.", callback=checked(checks.increasing))
    ] = "0.05,0.1,0.25,0.5,0.75,1,1.5,2",
    pointwise: Annotated[bool, typer.Option("--pointwise", help="Each point by itself, not all at once.")] = False,
    n: Draws = 10_000,
    alpha: Alpha = 1e-3,
    picture: Drawing = None,
    out_dir: Kept = None,
    fresh: Fresh = False,
    long: Long = False,
) -> None:
    """The bound of a prompt at several radii, from one set of draws."""
    from certify import bound_curve, plots
    from certify.adaptive.certification import yardstick

    radii = list(checks.increasing("--rhos", rhos))
    folder = _folder(settings, "curve", text, out_dir)
    adaptive = settings.text_only()
    problem, stick = adaptive.problem(text), yardstick(adaptive, text)
    terminal.show_truncation(adaptive.encoder.tokenize(text).truncated)
    show_work(*work_ahead(adaptive, None, text, n), long=long)
    decides = {"command": "curve", "rhos": radii, "pointwise": pointwise, "n": n, "alpha": alpha, "seed": settings.seed}
    with resumable(folder, adaptive, text, decides, fresh) as checkpoint:
        with terminal.bar("drawing") as tick:
            k_ = bound_curve(
                problem.f,
                problem.y,
                problem.noise,
                support=problem.support,
                rhos=radii,
                alpha=alpha,
                simultaneous=not pointwise,
                checkpoint=checkpoint,
                **_about(adaptive),
                **settings.draws(n, tick),
            )
        if out_dir is not None:
            _save(settings, adaptive, text, k_, folder)
    terminal.show_curve(k_.rhos, k_.values, stick.distance)
    terminal.out.print(words.together(k_.simultaneous, k_.alpha, k_.n, len(k_.rhos), terminal.MARKUP))
    terminal.out.print(words.removed(asdict(stick), terminal.MARKUP, adaptive.mention(text).to_dict()))
    terminal.show_not_covered(adaptive.policy, deployed=False)
    if picture is not None:
        drawn = plots.plot_curve(
            k_, yardstick=stick.distance, yardstick_label="squared concept-removal distance", title=text
        )
        drawn.savefig(picture)
        terminal.out.print(f"written: {picture}", soft_wrap=True)
    if not any(map(math.isfinite, k_.values)):
        raise typer.Exit(NO_ANSWER)


@with_settings
def decide(
    settings: Settings,
    text: Prompt,
    unet: UNet = None,
    rho: Radius = 1.0,
    tolerance: Tolerance = None,
    rate: Annotated[
        float | None,
        typer.Option(
            help="Ask about the attack success rate instead: can at most this be certified?",
            callback=checked(_validate.probability),
        ),
    ] = None,
    detector: Detector = None,
    steps: Steps = None,
    guidance: Guidance = None,
    n: Annotated[int, typer.Option("--n", help="The most draws.", callback=checked(checks.count()))] = 100_000,
    alpha: Annotated[
        float,
        typer.Option(
            help="Probability of a wrong yes or no, however often is looked.", callback=checked(_validate.failure)
        ),
    ] = 1e-3,
    long: Long = False,
) -> None:
    """Answer with as few draws as it takes: can a target be certified at ρ?

    "No" is about the bound: no number of draws can certify the target this way, which does not mean that it is missed.
    Exits with 0 for yes, 1 for no, and 3 where n draws do not decide it.
    """
    from certify import decide_event, decide_mse
    from certify.adaptive.certification import EMBEDDING, event_name, yardstick
    from certify.images.statistics import attack_succeeds

    one_process("certify decide")
    if rate is not None and tolerance is not None:
        raise ValueError(f"--rate = {rate!r} and --tolerance = {tolerance!r}: must be one of them")
    if rate is None and detector is not None:
        raise ValueError(f"--detector = {detector!r}: must be given with --rate, the question about images")
    detector = detector or settings.own_detector()
    if rate is not None and detector is None:
        raise ValueError("--detector = None: must be given with --rate for this model and concept")
    shared: dict[str, Any] = {"rho": rho, "n": n, "alpha": alpha, "seed": settings.seed}
    if rate is None:
        adaptive = settings.text_only(unet)
        problem, stick = adaptive.problem(text), yardstick(adaptive, text)
        terminal.show_truncation(adaptive.encoder.tokenize(text).truncated)
        within = stick.distance if tolerance is None else tolerance
        show_work(*work_ahead(adaptive, None, text, n), long=long, at_most=True)
        with terminal.bar("drawing") as tick:
            decision = decide_mse(
                problem.f,
                problem.y,
                problem.noise,
                support=problem.support,
                tolerance=within,
                batch_size=settings.batch_size,
                policy=problem.policy,
                function=EMBEDDING,
                progress=tick,
                **shared,
            )
    else:
        sampler = settings.sampler(steps, guidance)
        adaptive, pipe = settings.whole(unet, sampler["steps"])
        deployment = adaptive.deployment(text)
        terminal.show_truncation(adaptive.encoder.tokenize(text).truncated)
        event = attack_succeeds(deployment, pipe, str(detector), **sampler)
        show_work(*work_ahead(adaptive, pipe, text, 0, sampler["steps"], 0, n), long=long, at_most=True)
        with terminal.bar("drawing") as tick:
            decision = decide_event(
                event,
                deployment.y,
                deployment.noise,
                target=rate,
                replicas=deployment.copies,
                batch_size=settings.batch_size or 64,
                policy=adaptive.policy,
                function=event_name(str(detector)),
                progress=tick,
                **shared,
            )
    terminal.show_decision(decision)
    terminal.show_not_covered(decision.run.policy, images=rate is not None, deployed=rate is not None)
    raise typer.Exit({"yes": DONE, "no": NO}.get(decision.decided, NO_ANSWER))


def plan(
    rho: Annotated[
        float | None, typer.Option(help="Radius; solves for n.", callback=checked(_validate.positive))
    ] = None,
    n: Annotated[int | None, typer.Option("--n", help="Draws; solves for ρ.", callback=checked(checks.count()))] = None,
    outputs: Annotated[
        int,
        typer.Option(
            help="Outputs that must hold at once; 59136 for SD v1.4's encoding.", callback=checked(checks.count())
        ),
    ] = 1,
    alpha: Alpha = 1e-3,
    p: Annotated[float, typer.Option("--p", help="Percentile.", callback=checked(_validate.probability))] = 0.5,
    replicas: Annotated[
        int, typer.Option(help="Noisy copies seen by one statistic.", callback=checked(checks.count()))
    ] = 1,
    target: Annotated[
        float | None,
        typer.Option(help="For an event: the probability to certify.", callback=checked(_validate.probability)),
    ] = None,
) -> None:
    """How many draws a statement needs, or how far a number of draws reaches."""
    import certify

    terminal.out.print(
        str(certify.plan(rho=rho, n=n, outputs=outputs, alpha=alpha, p=p, replicas=replicas, target=target))
    )


def _folder(settings: Settings, command: str, text: str, out_dir: Path | None) -> Path:
    """Where the certificate goes, if one is wanted, and until then the draws."""
    if out_dir is None:
        writable("--out", Path("runs"))
        return Path("runs") / f"{command}-{slug(text)}"
    if settings.policy == "memory":
        raise ValueError(
            f"--out = {str(out_dir)!r}: must be left out with --policy memory; certify prompt stores the region that it claims"
        )
    return agreed(lambda: certificate_folder(out_dir, text, False))


def _about(adaptive: AdaptiveMedianSmoother) -> dict[str, Any]:
    """What a statement about the encoding says that it is about."""
    from certify.adaptive.certification import EMBEDDING

    return {"policy": adaptive.policy, "smoother": adaptive.aggregate, "function": EMBEDDING}


def _save(settings: Settings, adaptive: AdaptiveMedianSmoother, text: str, result: Any, folder: Path) -> None:
    """Saves a statement about a prompt's encoding as a certificate, which `certify check` reads."""
    from certify import Certificate
    from certify.certificate import ModelRecord

    if rank():
        return
    model = ModelRecord.of(adaptive.encoder.text_encoder)
    record = {"prompt": text, "smoother": adaptive.settings(), "source": settings.source(None)}
    record |= adaptive.encoder.tokenize(text).truncated
    folder = saved(Certificate.of(result, model=model, provenance=record), folder)
    terminal.out.print(Text(f"written: {folder}/ (certificate.json, tensors.safetensors)"), soft_wrap=True)


def _noised(axes: Any) -> float:
    return float(axes[axes > 0].min()) if bool((axes > 0).any()) else 0.0


def _down(length: float) -> str:
    return shown(length, "down", 4)
