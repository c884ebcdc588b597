"""`certify radius`, `curve`, `decide` and `plan`: one question each, answered on the terminal."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from certify import _validate
from certify._text import shown
from certify.certificate import words
from certify.cli import checks, terminal
from certify.cli.checks import option
from certify.cli.endings import DONE, NO, NO_ANSWER
from certify.cli.folders import agreed, below_runs, certificate_folder, resumable, saved, slug
from certify.cli.processes import one_process, rank
from certify.cli.scripts import answer
from certify.cli.settings import (
    Alpha,
    Detector,
    Drawing,
    Draws,
    Fresh,
    Long,
    OutFolder,
    PipelineSettings,
    Prompt,
    Settings,
    Tolerance,
    with_settings,
)
from certify.cli.work import show_work, work_ahead

if TYPE_CHECKING:
    from certify import Certificate
    from certify.adaptive import ConceptRemoval, PreparedPrompt, Problem


_DECISION = (
    "decided",
    "quantity",
    "theorem",
    "method",
    "value",
    "limit",
    "rho",
    "alpha",
    "replicas",
    "n",
    "drawn",
    "maximum",
    "repeats",
    "pilot_values",
    "successes",
    "allowed",
    "lower",
    "upper",
    "reason",
)
"""What `--json` says of a decision."""


@dataclass
class BoundSettings(Settings):
    """The options of `radius` and `curve`: one pass of draws of a prompt's encoding, kept until it is over."""

    n: Draws = 10_000
    alpha: Alpha = 1e-3
    figure: Drawing = None
    out_dir: OutFolder = None
    fresh: Fresh = False
    long: Long = False

    def folder(self, command: str, text: str) -> Path:
        """Where the certificate goes, if one is wanted, and the draws until then."""
        if self.out_dir is None:
            return below_runs(f"{command}-{slug(text)}")
        if self.policy == "memory":
            raise ValueError(
                f"--out = {str(self.out_dir)!r}: must be left out with --policy memory; certify prompt stores the region "
                "that it claims"
            )
        return agreed(lambda: certificate_folder(self.out_dir, text, False))

    def answer(
        self,
        subject: _Subject,
        folder: Path,
        question: Callable[..., Any],
        decides: dict[str, Any],
        how: dict[str, Any],
    ) -> Any:
        """Draws, and saves what comes out as a certificate, which `certify check` reads, if one is wanted.

        Args:
            subject: what the question is about.
            folder: of `folder`.
            question: a function of `certify.statements.ask`.
            decides: what decides the result besides the smoother, for the checkpoint.
            how: what the question takes besides what every one takes.
        """
        from certify.adaptive.plan import EMBEDDING

        adaptive, problem = subject.prompt.adaptive, subject.problem
        decides |= {"n": self.n, "alpha": self.alpha, "seed": self.seed}
        with resumable(folder, subject.prompt, decides, self.fresh) as checkpoint:
            with terminal.bar("drawing") as tick:
                result = question(
                    problem.f,
                    problem.y,
                    problem.noise,
                    support=problem.support,
                    n=self.n,
                    alpha=self.alpha,
                    seed=self.seed,
                    policy=adaptive.policy,
                    smoother=adaptive.smoother,
                    function=EMBEDDING,
                    batch_size=self.batch_size,
                    memory=self.bytes,
                    progress=tick,
                    checkpoint=checkpoint,
                    **how,
                )
            answer(lambda: _certificate(self, subject, result).to_json())
            if self.out_dir is not None and rank() == 0:
                terminal.written(
                    f"{saved(_certificate(self, subject, result), folder)}/", " (certificate.json, tensors.safetensors)"
                )
        return result

    def draw(self, make: Callable[[], Any]) -> None:
        """Writes the figure that `--figure` asks for."""
        if self.figure is not None:
            make().savefig(self.figure)
            terminal.written(self.figure)


@dataclass
class _Subject:
    """What a question about the encoding is about: the prompt, the problem, and D² to compare with."""

    prompt: PreparedPrompt
    problem: Problem
    removal: ConceptRemoval

    @classmethod
    def load(cls, settings: Settings, text: str, n: int, *, long: bool, at_most: bool = False) -> _Subject:
        """Loads the text encoder and prints what will be drawn."""
        prompt = settings.text_only().prepare(text)
        subject = cls(prompt, prompt.problem(), prompt.concept_removal)
        terminal.show_truncation(prompt.tokenized.truncated)
        show_work(*work_ahead(prompt, None, n), long=long, at_most=at_most)
        return subject

    def show_removal(self) -> None:
        """What D is."""
        terminal.out.print(words.removed(asdict(self.removal), terminal.MARKUP, self.prompt.mention.to_dict()))


@with_settings
def radius(settings: BoundSettings, text: Prompt, tolerance: Tolerance = None) -> None:
    """The largest perturbation under which a prompt's smoothed encoding provably stays within a tolerance."""
    from certify import Ellipsoid, certified_radius, plots
    from certify.certificate import Claim

    folder = settings.folder("radius", text)
    subject = _Subject.load(settings, text, settings.n, long=settings.long)
    within = _validate.positive("tolerance", subject.removal.distance if tolerance is None else tolerance)
    decides = {"command": "radius", "tolerance": within}
    r = settings.answer(subject, folder, certified_radius, decides, {"tolerance": within})
    if r.status == "abstained":
        terminal.out.print(words.sentence(Claim.of(r), terminal.MARKUP))
        raise typer.Exit(NO_ANSWER)
    terminal.out.print(words.with_confidence(Claim.of(r), terminal.MARKUP))
    if tolerance is None:
        subject.show_removal()
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
    record, sigma = subject.problem.token_noise, subject.problem.noise.sigma_for(subject.problem.y.shape)
    rows = [i for i, kind in enumerate(record.kinds) if kind != "padding" or record.sigma[i] > 0]
    settings.draw(
        lambda: plots.plot_ellipsoid(
            Ellipsoid(sigma[rows], r.rho),
            [record.tokens[i] for i in rows],
            std=subject.prompt.adaptive.encoder.embedding_std,
            title=text,
        )
    )


@with_settings
def curve(
    settings: BoundSettings,
    text: Prompt,
    rhos: Annotated[str, option("Radii, separated by commas.", checks.increasing)] = "0.05,0.1,0.25,0.5,0.75,1,1.5,2",
    pointwise: Annotated[bool, option("Each point on its own, not all jointly.", None, "--pointwise")] = False,
) -> None:
    """The bound of a prompt at several radii, from one set of draws."""
    from certify import bound_curve, plots
    from certify.summaries.of_certificates import curve_table

    radii = list(checks.increasing("--rhos", rhos))
    folder = settings.folder("curve", text)
    subject = _Subject.load(settings, text, settings.n, long=settings.long)
    decides = {"command": "curve", "rhos": radii, "pointwise": pointwise}
    k_ = settings.answer(subject, folder, bound_curve, decides, {"rhos": radii, "simultaneous": not pointwise})
    distance = subject.removal.distance
    terminal.show_table(curve_table(k_.points, distance, terminal.MARKUP))
    terminal.out.print(words.together(k_.simultaneous, k_.alpha, k_.n, len(k_.rhos), terminal.MARKUP))
    subject.show_removal()
    terminal.show_not_covered(subject.prompt.adaptive.policy, deployed=False)
    settings.draw(lambda: plots.plot_curve(k_, removal=distance, title=text))
    if not any(map(math.isfinite, k_.values)):
        raise typer.Exit(NO_ANSWER)


@with_settings
def decide(
    settings: PipelineSettings,
    text: Prompt,
    rho: Annotated[float, option("Radius, in units of the noise.", _validate.positive)] = 1.0,
    tolerance: Tolerance = None,
    rate: Annotated[
        float | None,
        option("Ask about the attack success rate instead: can this upper limit be certified?", _validate.probability),
    ] = None,
    detector: Detector = None,
    n: Annotated[int, option("Draws at most; with --rate images.", checks.count(), "--n")] = 100_000,
    alpha: Annotated[
        float, option("Probability of a wrong yes or no, at whatever count it stops.", _validate.failure)
    ] = 1e-3,
    long: Long = False,
) -> None:
    """Answer with as few draws as it takes: can a target be certified at ρ?

    With --rate pilot images, at most a fifth as many, choose how many of each draw of the copies answer soonest (T14, T5).
    "No" is about the bound: no number of draws can certify the target this way, which does not mean that it is missed.
    Exits with 0 for yes, 1 for no, and 3 where n draws do not decide it.
    """
    from certify import decide_event, decide_mse
    from certify.adaptive.plan import EMBEDDING, event_name
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
        subject = _Subject.load(settings, text, n, long=long, at_most=True)
        problem = subject.problem
        with terminal.bar("drawing") as tick:
            decision = decide_mse(
                problem.f,
                problem.y,
                problem.noise,
                support=problem.support,
                tolerance=subject.removal.distance if tolerance is None else tolerance,
                batch_size=settings.batch_size,
                policy=problem.policy,
                function=EMBEDDING,
                progress=tick,
                **shared,
            )
    else:
        adaptive, pipe = settings.whole()
        prompt, sampler = adaptive.prepare(text), settings.sampler
        deployment = prompt.deployment
        terminal.show_truncation(prompt.tokenized.truncated)
        event = attack_succeeds(deployment, pipe, str(detector), **sampler)
        show_work(*work_ahead(prompt, pipe, 0, sampler["steps"], 0, n + n // 5), long=long, at_most=True)
        with terminal.bar("drawing") as tick:
            decision = decide_event(
                event,
                deployment.y,
                deployment.noise,
                target=rate,
                repeats=None,
                replicas=deployment.copies,
                batch_size=settings.batch_size or 64,
                policy=adaptive.policy,
                function=event_name(str(detector)),
                progress=tick,
                **shared,
            )
    answer({name: getattr(decision, name) for name in _DECISION})
    terminal.show_decision(decision)
    terminal.show_not_covered(decision.run.policy, images=rate is not None, deployed=rate is not None)
    raise typer.Exit({"yes": DONE, "no": NO}.get(decision.decided, NO_ANSWER))


def plan(
    rho: Annotated[float | None, option("Radius; solves for n.", _validate.positive)] = None,
    n: Annotated[int | None, option("Draws; solves for ρ.", checks.count(), "--n")] = None,
    outputs: Annotated[int, option("Outputs that hold jointly; 59136 for SD v1.4's encoding.", checks.count())] = 1,
    alpha: Alpha = 1e-3,
    p: Annotated[float, option("Percentile.", _validate.probability, "--p")] = 0.5,
    replicas: Annotated[int, option("Noisy copies seen by one statistic.", checks.count())] = 1,
    target: Annotated[float | None, option("For an event: the probability to certify.", _validate.probability)] = None,
) -> None:
    """How many draws a statement needs, or how far a number of draws reaches."""
    import certify

    planned = certify.plan(rho=rho, n=n, outputs=outputs, alpha=alpha, p=p, replicas=replicas, target=target)
    answer(asdict(planned))
    terminal.out.print(str(planned))


def _certificate(settings: Settings, subject: _Subject, result: Any) -> Certificate:
    from certify import Certificate
    from certify.certificate import ModelRecord

    prompt, encoder = subject.prompt, subject.prompt.adaptive.encoder
    record = {"prompt": prompt.text, "smoother": prompt.adaptive.settings(), "source": settings.source()}
    record |= prompt.tokenized.truncated
    return Certificate.of(result, model=ModelRecord.of(encoder.text_encoder), provenance=record)


def _noised(axes: Any) -> float:
    return float(axes[axes > 0].min()) if bool((axes > 0).any()) else 0.0


def _down(length: float) -> str:
    return shown(length, "down", 4)
