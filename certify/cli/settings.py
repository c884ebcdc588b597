"""Options: those that several commands share, and `Settings`, which every command about a prompt has."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

from certify import _names, _validate
from certify.cli import checks, terminal
from certify.cli.checks import argument, option
from certify.cli.folders import a_drawing, a_folder
from certify.cli.models import device_of, own_sampler

if TYPE_CHECKING:
    from certify.adaptive import AdaptiveMedianSmoother
    from certify.defence import Defence


DEFAULT_CONCEPT = "circle"
_SAVED = (
    "concept",
    "sigma0",
    "sigma0_relative",
    "k",
    "use_global",
    "policy",
    "gamma",
    "smoother",
    "replicas",
    "similarity",
)
_OF_CLIP = ("sigma0", "sigma_min", "regions", "similarity")


def _there(name: str, path: Path) -> None:
    if not (path / "defence.json").is_file():
        raise FileNotFoundError(
            f"{name} = {str(path)!r}: must be a folder that `safe.save` wrote; holds no defence.json"
        )


Prompt = Annotated[str, argument("The prompt.", checks.text)]
Model = Annotated[
    str | None,
    option("Hub id or folder of a text-to-image pipeline of diffusers.", checks.model, shown="the embedded model"),
]
_ON_TOP = "State dict, folder or LoRA of an unlearned {}, put on top of --model."
Weights = Annotated[str | None, option(_ON_TOP.format("U-Net or transformer"), checks.overlay, "--weights", "--unet")]
Call = Annotated[
    list[str] | None,
    option(
        "Argument NAME=VALUE of the pipeline's own call, as in height=512. Not for Stable Diffusion 1.x/2.x.",
        checks.call,
        "--call",
    ),
]
SavedDefence = Annotated[
    Path | None, option("Folder of `safe.save`: concepts and noise of a defence.", _there, "--defence")
]
TextEncoder = Annotated[str | None, option(_ON_TOP.format("text encoder"), checks.overlay)]
Variant = Annotated[
    str | None,
    option(
        "Variant of the weight files: fp16 for *.fp16.safetensors. Not needed if a folder has only one.", checks.text
    ),
]
Draws = Annotated[int, option("Monte Carlo draws.", checks.count(), "--n")]
Alpha = Annotated[float, option("Failure probability of the certificate as a whole.", _validate.failure)]
Column = Annotated[
    str | None,
    option(
        "The file's column of prompts: its name, or its index from 0 where there is no header.",
        checks.text,
        shown="by its name",
    ),
]
Detector = Annotated[
    str | None,
    option(
        "What an attack wants to see: judge:LABEL, nudenet or nudenet:SCORE.",
        checks.detector,
        shown="the concept, with the embedded model",
    ),
]
Steps = Annotated[int | None, option("Sampler steps.", checks.count(), shown="50; embedded model: 8")]
Guidance = Annotated[float | None, option("Guidance scale.", _validate.positive, shown="7.5; embedded model: 2")]
Tolerance = Annotated[
    float | None,
    option("Squared distance to keep.", _validate.positive, shown="that of the prompt without the concept"),
]
Device = Annotated[str | None, option("cpu, cuda, …", _validate.device, shown="cuda if available")]
Drawing = Annotated[Path | None, option("Write a figure here (.png, .svg or .pdf).", a_drawing)]
Concepts = Annotated[
    list[str] | None,
    option("Concepts of the certificate, if they are files.", checks.concepts, "--concept", "-c"),
]
TrustNames = Annotated[
    bool,
    option("Fetch and read the model, overlays and concepts that only the certificate names.", None, "--trust-names"),
]
Fresh = Annotated[bool, option("Start over, and discard what an earlier run has drawn.", None, "--fresh")]
OutFolder = Annotated[
    Path | None,
    option("Folder for the certificate, and for the draws until then.", a_folder, "--out", shown=False),
]
OutRun = Annotated[
    Path | None,
    option("Folder for the results; an unfinished run there is resumed.", a_folder, "--out", shown="runs/…"),
]
FreshRun = Annotated[bool, option("Start over; in another folder if there are results already.", None, "--fresh")]
Limit = Annotated[int | None, option("Only the first rows.", checks.count())]
Batch = Annotated[int | None, option("Encodings in one call of the text encoder.", checks.count(), "--batch-size")]
Long = Annotated[bool, option("Run even if the estimate is over 24 hours.", None, "--long")]


def _one_of(allowed: tuple[str, ...]) -> checks.Check:
    """One of some words."""
    return checks.choice(lambda: allowed)


@dataclass
class Settings:
    """The options that every command about a prompt has: which model, which concept, how much noise."""

    concept: Annotated[
        list[str] | None,
        option(
            "What to suppress: a name or a file of pairs. Repeat for several.",
            checks.concepts,
            "--concept",
            "-c",
            shown=DEFAULT_CONCEPT,
        ),
    ] = None
    model: Model = None
    text_encoder: TextEncoder = None
    variant: Variant = None
    sigma0: Annotated[float | None, option("Base noise, absolute, as in the paper.", _validate.positive)] = None
    sigma0_relative: Annotated[
        float | None, option("Base noise in standard deviations of the token embeddings.", _validate.positive)
    ] = None
    k: Annotated[float | None, option("How fast noise grows with relevance.", _validate.not_negative, "--k")] = None
    use_global: Annotated[bool, option("Also use global relevance (Algorithm 1's flag).", None, "--global")] = False
    policy: Annotated[
        str,
        option(
            "Covariance policy: frozen, noise-then-adapt, memory or levels (T7 and T17 say what may be claimed).",
            _one_of(_names.POLICIES),
        ),
    ] = "frozen"
    sigma_min: Annotated[
        float | None, option("First noise of noise-then-adapt, absolute.", _validate.positive, shown="σ₀")
    ] = None
    sharing: Annotated[
        str,
        option("What the draws of noise-then-adapt share: none, sigma or input.", _one_of(_names.SHARING)),
    ] = "none"
    regions: Annotated[Path | None, option("Folder of the regions of policy memory.", a_folder)] = None
    gamma: Annotated[
        float | None, option("Ratio of neighbouring levels of policy levels, > 1.", _validate.positive, shown="2")
    ] = None
    smoother: Annotated[str, option("median or mean of the noisy encodings.", _one_of(_names.SMOOTHERS))] = "median"
    replicas: Annotated[int, option("Noisy encodings K of the deployed smoother.", checks.count())] = 13
    truncate: Annotated[
        bool, option("Cut prompts that do not fit into the context, as the plain pipeline does.", None, "--truncate")
    ] = False
    similarity: Annotated[
        str | None,
        option("Cosine over the encoding: flattened or end-of-text.", _one_of(_names.SIMILARITIES)),
    ] = None
    seed: Annotated[int, option("Seed of all draws.", checks.count(0))] = 0
    device: Device = None
    dtype: Annotated[
        str | None,
        option(
            "float32, float16, bfloat16 or float64.",
            checks.choice(lambda: ("float32", "float16", "bfloat16", "float64")),
            shown="float32",
        ),
    ] = None
    batch_size: Batch = None
    memory: Annotated[
        str | None, option("Memory for kept draws, as in 4GB; beyond it they go to disk.", checks.size, shown="1GiB")
    ] = None

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
        if self.policy != "levels" and self.gamma is not None:
            raise ValueError(f"--gamma = {self.gamma!r}: must be left out but with --policy levels")

    @property
    def bytes(self) -> int | None:
        """`memory` in bytes."""
        return None if self.memory is None else checks.size("--memory", self.memory)

    @property
    def concepts(self) -> list[str]:
        """The concepts, or the default one."""
        return self.concept or [DEFAULT_CONCEPT]

    def smoothing(self) -> Any:
        """Options of the adaptive smoother; the embedded model has settings of its own."""
        from certify import world

        names = ("sigma0", "sigma0_relative", "k", "similarity", "batch_size", "sigma_min", "gamma")
        chosen = {name: value for name in names if (value := getattr(self, name)) is not None}
        if self.regions is not None:
            chosen["memory"] = self.regions
        tuned = dict(world.SMOOTHING) if self.model is None else {}
        if self.sigma0 is not None:
            tuned.pop("sigma0_relative", None)
        fixed = {"policy": self.policy, "sharing": self.sharing, "smoother": self.smoother, "n": self.replicas}
        return tuned | chosen | fixed | {"use_global": self.use_global, "truncate": self.truncate}

    def source(self, weights: str | None = None) -> dict[str, Any]:
        """Where the model comes from, for a certificate's record; "unet" is what is laid over a denoiser of any kind."""
        more = {name: value for name in ("text_encoder", "variant") if (value := getattr(self, name)) is not None}
        return {"model": self.model, "unet": weights, **more, "concepts": self.concepts}

    def text_only(self) -> AdaptiveMedianSmoother:
        """The smoother on the text encoder alone."""
        from certify.adaptive import AdaptiveMedianSmoother
        from certify.models import load_text_encoder

        with terminal.out.status("loading the text encoder"):
            encoder = load_text_encoder(self.model, **self._loading())
            smoother = AdaptiveMedianSmoother.from_encoder(encoder, self.concepts, **self.smoothing())
        terminal.show_overlays(encoder)
        return smoother

    def _loading(self) -> dict[str, Any]:
        return {
            "text_encoder": self.text_encoder,
            "variant": self.variant,
            "device": device_of(self.device),
            "dtype": self.dtype,
        }


@dataclass
class PipelineSettings(Settings):
    """The options of commands that may run the whole pipeline: its U-Net and its sampler, too."""

    weights: Weights = None
    defence: SavedDefence = None
    call: Call = None
    steps: Steps = None
    guidance: Guidance = None

    def check(self) -> None:
        """As `Settings.check`; and that a saved defence is not given settings of its own."""
        super().check()
        own = [f.name for f in fields(Settings) if f.name in _SAVED and getattr(self, f.name) != f.default]
        if self.defence is not None and own:
            said = f"--{own[0].replace('_', '-')} = {getattr(self, own[0])!r}"
            raise ValueError(f"{said}: must be left out with --defence, which says it")
        if self.call and not self.joint:
            raise ValueError(
                f"--call = {self.call}: must be left out for Stable Diffusion 1.x/2.x (--steps, --guidance)"
            )

    @functools.cached_property
    def joint(self) -> bool:
        """Whether the model is no pipeline with one CLIP text encoder, so that its certificates are joint (T16)."""
        from certify.models.index import CLIP_PIPELINES
        from certify.models.load import pipeline_class

        return self.model is not None and pipeline_class(self.model) not in CLIP_PIPELINES

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of the pipeline's own call."""
        given = {"num_inference_steps": self.steps, "guidance_scale": self.guidance}
        return {k: v for k, v in given.items() if v is not None} | checks.call("--call", self.call or [])

    def defended(self) -> Defence:
        """The pipeline with the smoother inside, for a model whose certificates are joint.

        Raises:
            ValueError: an option is given that only Stable Diffusion 1.x and 2.x has.
        """
        from certify.defence import defend, load_defence
        from certify.models import load_pipeline
        from certify.models.quiet import quiet_libraries

        defaults = {f.name: f.default for f in fields(self)}
        for name in (*_OF_CLIP, "policy", "use_global", "sharing", "truncate"):
            if getattr(self, name) != defaults[name] and (name, self.policy) != ("policy", "levels"):
                raise ValueError(
                    f"--{name.replace('_', '-')} = {getattr(self, name)!r}: must be left out, it is for Stable Diffusion "
                    "1.x/2.x alone"
                )
        with terminal.out.status("loading the pipeline"), quiet_libraries():
            pipe = load_pipeline(self.model, weights=self.weights, **self._loading())
            pipe.set_progress_bar_config(disable=True)
            if self.defence is not None:
                safe = load_defence(self.defence, pipe)
                safe.calls.options.update(self.arguments)
            else:
                names = ("sigma0_relative", "k", "batch_size", "gamma")
                chosen = {name: value for name in names if (value := getattr(self, name)) is not None}
                fixed = {"smoother": self.smoother, "n": self.replicas, "policy": self.policy, "call": self.arguments}
                safe = defend(pipe, self.concepts, **chosen, **fixed)
        terminal.show_overlays(pipe)
        return safe

    @property
    def sampler(self) -> dict[str, Any]:
        """Steps and guidance: those given, or the model's own."""
        given = {"steps": self.steps, "guidance": self.guidance}
        return own_sampler(self.model) | {name: value for name, value in given.items() if value is not None}

    def own_detector(self) -> str | None:
        """The embedded model's judge, where it knows the concept."""
        known = [label for labels in _names.LABELS.values() for label in labels]
        return f"judge:{self.concepts[0]}" if self.model is None and self.concepts[0] in known else None

    def text_only(self) -> AdaptiveMedianSmoother:
        """The smoother on the text encoder alone; that a U-Net was given, of which nothing will be said, is said."""
        if self.defence is not None:
            return self.whole()[0]
        smoother = super().text_only()
        if self.weights is not None:
            terminal.out.print("[dim]--weights is not used: the text encoding does not depend on it.[/]")
        return smoother

    def whole(self) -> tuple[AdaptiveMedianSmoother, Any]:
        """The smoother and the pipeline it is built on, whose sampler can take so many steps."""
        from certify.adaptive import AdaptiveMedianSmoother
        from certify.defence import load_defence
        from certify.models import load_pipeline

        steps = self.sampler["steps"]
        with terminal.out.status("loading the pipeline"):
            pipe = load_pipeline(self.model, weights=self.weights, **self._loading())
            most = int(pipe.scheduler.config.num_train_timesteps)
            if steps > most:
                raise ValueError(f"--steps = {steps}: must be at most {most}, which this model was trained with")
            if self.defence is None:
                smoother = AdaptiveMedianSmoother.from_pipeline(pipe, self.concepts, **self.smoothing())
            else:
                found = load_defence(self.defence, pipe).adaptive
                if not isinstance(found, AdaptiveMedianSmoother):
                    raise ValueError(f"--defence = {str(self.defence)!r}: is one without noise; must have some")
                smoother = found
        terminal.show_overlays(pipe)
        return smoother, pipe


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command, whose first parameter is `settings`, an option for every field of that parameter's class.

    A subclass's own stand before those that it shares; where the command has an option of the name for a purpose of its own,
    that is the one.
    """
    own = inspect.signature(command, eval_str=True)
    kind: type[Settings] = own.parameters["settings"].annotation
    hints, base = get_type_hints(kind, include_extras=True), {f.name for f in fields(Settings)}
    shared = [
        inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=hints[f.name])
        for f in sorted(fields(kind), key=lambda f: f.name in base)
        if f.name not in own.parameters
    ]
    mine = [q.replace(kind=inspect.Parameter.KEYWORD_ONLY) for q in own.parameters.values() if q.name != "settings"]

    @functools.wraps(command)
    def run(**given: Any) -> None:
        settings = kind(**{option.name: given.pop(option.name) for option in shared})
        settings.check()
        command(settings=settings, **given)

    run.__signature__ = own.replace(parameters=[*mine, *shared])  # type: ignore[attr-defined]
    run.__annotations__ = {q.name: q.annotation for q in (*mine, *shared)} | {"return": None}
    return run
