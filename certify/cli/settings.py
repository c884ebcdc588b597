"""Options: those that several commands share, and `Settings`, which every command about a prompt has."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from certify import _validate
from certify.cli import terminal
from certify.cli.models import device_of

if TYPE_CHECKING:
    from certify.adaptive import AdaptiveMedianSmoother


DEFAULT_CONCEPT = "circle"
Prompt = Annotated[str, typer.Argument(help="The prompt.", show_default=False)]
Model = Annotated[str | None, typer.Option(help="Hub id or folder of a Stable Diffusion 1.x/2.x pipeline.")]
UNet = Annotated[
    str | None, typer.Option(help="State dict, folder or LoRA of an unlearned U-Net, put on top of --model.")
]
TextEncoder = Annotated[
    str | None, typer.Option(help="State dict, folder or LoRA of an unlearned text encoder, put on top of --model.")
]
Variant = Annotated[
    str | None,
    typer.Option(help="Of the weight files: fp16 for *.fp16.safetensors. A folder's only one needs no name."),
]
Draws = Annotated[int, typer.Option("--n", help="Monte Carlo draws.")]
Alpha = Annotated[float, typer.Option(help="Failure probability of the certificate as a whole.")]
Column = Annotated[
    str | None,
    typer.Option(
        help="The file's column of prompts: its name, or its index from 0 where there is no header. [default: by its name]"
    ),
]
Steps = Annotated[int | None, typer.Option(help="Sampler steps. [default: 50; embedded model: 8]")]
Guidance = Annotated[float | None, typer.Option(help="Guidance scale. [default: 7.5; embedded model: 2]")]
Seed = Annotated[int, typer.Option(help="Seed of all draws.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, …; default: cuda where there is one.")]
Drawing = Annotated[Path | None, typer.Option(help="Write a picture here (.png, .svg or .pdf).")]
Concepts = Annotated[
    list[str] | None, typer.Option("--concept", "-c", help="Concepts of the certificate, where they are files.")
]
TrustNames = Annotated[
    bool,
    typer.Option("--trust-names", help="Fetch and read what only the certificate names: model, overlays, concepts."),
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Begin anew, whatever an earlier start has drawn.")]
Kept = Annotated[
    Path | None,
    typer.Option("--out", help="Folder for the certificate, and until then for what is drawn.", show_default=False),
]
Batch = Annotated[int | None, typer.Option("--batch-size", help="Encodings in one call of the text encoder.")]


@dataclass
class Settings:
    """The options that every command about a prompt has: which model, which concept, how much noise."""

    concept: Annotated[
        list[str] | None,
        typer.Option("--concept", "-c", help="What to suppress: a name or a file of pairs. Repeat for several."),
    ] = None
    model: Model = None
    text_encoder: TextEncoder = None
    variant: Variant = None
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
    truncate: Annotated[
        bool,
        typer.Option("--truncate", help="Cut prompts that do not fit into the context, as the plain pipeline does."),
    ] = False
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

    def whole(self, unet: str | None) -> tuple[AdaptiveMedianSmoother, Any]:
        """The smoother and the pipeline it is built on."""
        from certify.adaptive import AdaptiveMedianSmoother
        from certify.models import load_pipeline

        with terminal.out.status("loading the pipeline"):
            pipe = load_pipeline(self.model, unet=unet, **self._loading())
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
        _ = settings.bytes  # refused before any work is done
        command(settings=settings, **given)

    run.__signature__ = own.replace(parameters=[*mine, *shared])  # type: ignore[attr-defined]
    run.__annotations__ = {q.name: q.annotation for q in (*mine, *shared)} | {"return": None}
    return run


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


def check_numbers(*, n: int, alpha: float, rho: float = 1.0) -> None:
    """Refuses what no statement can be made of, before a model is loaded."""
    _validate.positive("rho", rho)
    _validate.failure("alpha", alpha)
    _validate.count("n", n)
