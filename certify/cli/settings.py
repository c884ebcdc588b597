"""Options: those that several commands share, and `Settings`, which every command about a prompt has."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from certify import _validate
from certify.cli import checks, terminal
from certify.cli.checks import checked
from certify.cli.folders import a_drawing, a_folder
from certify.cli.models import device_of

if TYPE_CHECKING:
    from certify.adaptive import AdaptiveMedianSmoother


DEFAULT_CONCEPT = "circle"
Prompt = Annotated[str, typer.Argument(help="The prompt.", show_default=False, callback=checked(checks.text))]
Model = Annotated[
    str | None,
    typer.Option(
        help="Hub id or folder of a Stable Diffusion 1.x/2.x pipeline.",
        show_default="the embedded model",
        callback=checked(checks.model),
    ),
]
UNet = Annotated[
    str | None,
    typer.Option(
        "--unet",
        help="State dict, folder or LoRA of an unlearned U-Net, put on top of --model.",
        callback=checked(checks.overlay),
    ),
]
TextEncoder = Annotated[
    str | None,
    typer.Option(
        help="State dict, folder or LoRA of an unlearned text encoder, put on top of --model.",
        callback=checked(checks.overlay),
    ),
]
Variant = Annotated[
    str | None,
    typer.Option(
        help="Of the weight files: fp16 for *.fp16.safetensors. A folder's only one needs no name.",
        callback=checked(checks.text),
    ),
]
Draws = Annotated[int, typer.Option("--n", help="Monte Carlo draws.", callback=checked(checks.count()))]
Alpha = Annotated[
    float,
    typer.Option(help="Failure probability of the certificate as a whole.", callback=checked(_validate.failure)),
]
Column = Annotated[
    str | None,
    typer.Option(
        help="The file's column of prompts: its name, or its index from 0 where there is no header.",
        show_default="by its name",
        callback=checked(checks.text),
    ),
]
Detector = Annotated[
    str | None,
    typer.Option(
        help="What an attack wants to see: judge:LABEL, nudenet or nudenet:SCORE.",
        show_default="the concept, with the embedded model",
        callback=checked(checks.detector),
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(help="Sampler steps.", show_default="50; embedded model: 8", callback=checked(checks.count())),
]
Guidance = Annotated[
    float | None,
    typer.Option(help="Guidance scale.", show_default="7.5; embedded model: 2", callback=checked(_validate.positive)),
]
Radius = Annotated[float, typer.Option(help="Radius, in units of the noise.", callback=checked(_validate.positive))]
Tolerance = Annotated[
    float | None,
    typer.Option(
        help="Squared distance to keep.",
        show_default="that of the prompt without the concept",
        callback=checked(_validate.positive),
    ),
]
Seed = Annotated[int, typer.Option(help="Seed of all draws.", callback=checked(checks.count(0)))]
Device = Annotated[
    str | None,
    typer.Option(help="cpu, cuda, …", show_default="cuda where there is one", callback=checked(_validate.device)),
]
Drawing = Annotated[
    Path | None, typer.Option(help="Write a picture here (.png, .svg or .pdf).", callback=checked(a_drawing))
]
Concepts = Annotated[
    list[str] | None,
    typer.Option(
        "--concept",
        "-c",
        help="Concepts of the certificate, where they are files.",
        callback=checked(checks.concepts),
    ),
]
TrustNames = Annotated[
    bool,
    typer.Option("--trust-names", help="Fetch and read what only the certificate names: model, overlays, concepts."),
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Begin anew, whatever an earlier start has drawn.")]
Kept = Annotated[
    Path | None,
    typer.Option(
        "--out",
        help="Folder for the certificate, and until then for what is drawn.",
        show_default=False,
        callback=checked(a_folder),
    ),
]
Batch = Annotated[
    int | None,
    typer.Option("--batch-size", help="Encodings in one call of the text encoder.", callback=checked(checks.count())),
]
Long = Annotated[bool, typer.Option("--long", help="Run even where the estimate is over 24 hours.")]


def _known(name: str) -> tuple[str, ...]:
    """Words that the library knows, by the name of their list."""
    from certify.adaptive import concepts, policies

    return tuple(getattr(concepts if name == "SIMILARITIES" else policies, name))


def _dtypes() -> tuple[str, ...]:
    return ("float32", "float16", "bfloat16", "float64")


@dataclass
class Settings:
    """The options that every command about a prompt has: which model, which concept, how much noise."""

    concept: Annotated[
        list[str] | None,
        typer.Option(
            "--concept",
            "-c",
            help="What to suppress: a name or a file of pairs. Repeat for several.",
            show_default=DEFAULT_CONCEPT,
            callback=checked(checks.concepts),
        ),
    ] = None
    model: Model = None
    text_encoder: TextEncoder = None
    variant: Variant = None
    sigma0: Annotated[
        float | None,
        typer.Option(help="Base noise, absolute, as in the paper.", callback=checked(_validate.positive)),
    ] = None
    sigma0_relative: Annotated[
        float | None,
        typer.Option(
            help="Base noise in standard deviations of the token embeddings.", callback=checked(_validate.positive)
        ),
    ] = None
    k: Annotated[
        float | None,
        typer.Option("--k", help="How fast noise grows with relevance.", callback=checked(_validate.not_negative)),
    ] = None
    use_global: Annotated[bool, typer.Option("--global", help="Use global relevance, too (Algorithm 1's flag).")] = (
        False
    )
    policy: Annotated[
        str,
        typer.Option(
            help="How Σ comes about: frozen, noise-then-adapt or memory (what may be claimed: T7).",
            callback=checked(checks.choice(functools.partial(_known, "POLICIES"))),
        ),
    ] = "frozen"
    sigma_min: Annotated[
        float | None,
        typer.Option(
            help="First noise of noise-then-adapt, absolute.", show_default="σ₀", callback=checked(_validate.positive)
        ),
    ] = None
    sharing: Annotated[
        str,
        typer.Option(
            help="What the draws of noise-then-adapt share: none, sigma or input.",
            callback=checked(checks.choice(functools.partial(_known, "SHARING"))),
        ),
    ] = "none"
    regions: Annotated[
        Path | None, typer.Option(help="Folder of the regions of policy memory.", callback=checked(a_folder))
    ] = None
    aggregate: Annotated[
        str,
        typer.Option(
            help="median or mean of the noisy encodings.",
            callback=checked(checks.choice(functools.partial(_known, "AGGREGATES"))),
        ),
    ] = "median"
    replicas: Annotated[
        int, typer.Option(help="Noisy encodings K of the deployed smoother.", callback=checked(checks.count()))
    ] = 13
    truncate: Annotated[
        bool,
        typer.Option("--truncate", help="Cut prompts that do not fit into the context, as the plain pipeline does."),
    ] = False
    similarity: Annotated[
        str | None,
        typer.Option(
            help="Cosine over the encoding: flattened or end-of-text.",
            callback=checked(checks.choice(functools.partial(_known, "SIMILARITIES"))),
        ),
    ] = None
    seed: Seed = 0
    device: Device = None
    dtype: Annotated[
        str | None,
        typer.Option(
            help="float32, float16, bfloat16 or float64.",
            show_default="float32",
            callback=checked(checks.choice(_dtypes)),
        ),
    ] = None
    batch_size: Batch = None
    memory: Annotated[
        str | None,
        typer.Option(
            help="What kept draws may take, as in 4GB; then they go to disk.",
            show_default="1GiB",
            callback=checked(checks.size),
        ),
    ] = None

    @property
    def bytes(self) -> int | None:
        """`memory` in bytes."""
        return None if self.memory is None else checks.size("--memory", self.memory)

    def check(self) -> None:
        """Refuses options that are fine by themselves and not together."""
        if self.sigma0 is not None and self.sigma0_relative is not None:
            raise ValueError(
                f"--sigma0 = {self.sigma0!r} and --sigma0-relative = {self.sigma0_relative!r}: must be only one of the two"
            )
        if (self.policy == "memory") is (self.regions is None):
            given = None if self.regions is None else str(self.regions)
            raise ValueError(f"--regions = {given!r}: must be given with --policy memory, and with no other")
        for name, value, default in (("--sigma-min", self.sigma_min, None), ("--sharing", self.sharing, "none")):
            if self.policy != "noise-then-adapt" and value != default:
                raise ValueError(f"{name} = {value!r}: must be left out but with --policy noise-then-adapt")

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
        return tuned | chosen | fixed | {"use_global": self.use_global, "truncate": self.truncate}

    def sampler(self, steps: int | None, guidance: float | None) -> dict[str, Any]:
        """Steps and guidance: those given, or the model's own."""
        from certify import world

        own = world.DEFAULTS if self.model is None else {"num_inference_steps": 50, "guidance_scale": 7.5}
        return {
            "steps": own["num_inference_steps"] if steps is None else steps,
            "guidance": own["guidance_scale"] if guidance is None else guidance,
        }

    def own_detector(self) -> str | None:
        """The embedded model's judge, where it knows the concept."""
        from certify.world.judge import LABELS

        known = [label for labels in LABELS.values() for label in labels]
        return f"judge:{self.concepts[0]}" if self.model is None and self.concepts[0] in known else None

    def draws(self, n: int, progress: Callable[[int, int], None]) -> dict[str, Any]:
        """How to draw, for `certify.statements.ask.ask` and what is built on it."""
        return {
            "n": n,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "memory": self.bytes,
            "progress": progress,
        }

    def source(self, unet: str | None) -> dict[str, Any]:
        """Where the model comes from, for a certificate's record."""
        more = {name: value for name in ("text_encoder", "variant") if (value := getattr(self, name)) is not None}
        return {"model": self.model, "unet": unet, **more, "concepts": self.concepts}

    def text_only(self, unet: str | None = None) -> AdaptiveMedianSmoother:
        """The smoother on the text encoder alone; that a U-Net was given, of which nothing will be said, is said."""
        from certify.adaptive import AdaptiveMedianSmoother
        from certify.models import load_text_encoder

        with terminal.out.status("loading the text encoder"):
            encoder = load_text_encoder(self.model, **self._loading())
            smoother = AdaptiveMedianSmoother.from_encoder(encoder, self.concepts, **self.smoothing())
        terminal.show_overlays(encoder)
        if unet is not None:
            terminal.out.print("[dim]--unet is not used: the text encoding does not depend on it.[/]")
        return smoother

    def whole(self, unet: str | None, steps: int | None = None) -> tuple[AdaptiveMedianSmoother, Any]:
        """The smoother and the pipeline it is built on, whose sampler can take so many steps."""
        from certify.adaptive import AdaptiveMedianSmoother
        from certify.models import load_pipeline

        with terminal.out.status("loading the pipeline"):
            pipe = load_pipeline(self.model, unet=unet, **self._loading())
            most = int(pipe.scheduler.config.num_train_timesteps)
            if steps is not None and steps > most:
                raise ValueError(f"--steps = {steps}: must be at most {most}, which this model was trained with")
            smoother = AdaptiveMedianSmoother.from_pipeline(pipe, self.concepts, **self.smoothing())
        terminal.show_overlays(pipe)
        return smoother, pipe

    def _loading(self) -> dict[str, Any]:
        return {
            "text_encoder": self.text_encoder,
            "variant": self.variant,
            "device": device_of(self.device),
            "dtype": self.dtype,
        }


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command an option for every field of `Settings`, and hands it one `settings`."""
    own = inspect.signature(command, eval_str=True)
    shared = [
        inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=hint)
        for f, hint in zip(fields(Settings), get_type_hints(Settings, include_extras=True).values(), strict=True)
        if f.name not in own.parameters  # a command may have an option of the name for a purpose of its own
    ]
    mine = [q.replace(kind=inspect.Parameter.KEYWORD_ONLY) for q in own.parameters.values() if q.name != "settings"]

    @functools.wraps(command)
    def run(**given: Any) -> None:
        settings = Settings(**{option.name: given.pop(option.name) for option in shared})
        settings.check()
        command(settings=settings, **given)

    run.__signature__ = own.replace(parameters=[*mine, *shared])  # type: ignore[attr-defined]
    run.__annotations__ = {q.name: q.annotation for q in (*mine, *shared)} | {"return": None}
    return run
