"""A pipeline with the smoother inside: any diffusers pipeline with text encoders, as an object that is used like it.

    safe = certify.defend(pipe, concepts=["circle"])
    safe("a photo of a red circle").images            fresh noise in every call; the pipeline itself is unchanged
    safe.certify("a photo of a red circle")           what is proven of it
    safe.explain("a photo of a red circle")           relevance and σ of every token, in every encoder

For the length of a call, the pipeline's own `encode_prompt` is answered with smoothed encodings where it is asked for the
prompt. The negative branch stays the pipeline's own (Han et al. smooth the prompt alone). Embeddings that are handed in pass
the encoders by, and the defence with them: they are refused.

A pipeline with one CLIP text encoder (Stable Diffusion 1.x and 2.x) has the smoother of `certify.adaptive`, with all that it
can certify; every other has `PipelineSmoother`, over all of its encoders at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from certify import _validate
from certify._pairs import Pair
from certify.adaptive import AdaptiveMedianSmoother
from certify.adaptive.checking import OnRecord
from certify.adaptive.concepts import Concept
from certify.adaptive.token_noise import TokenNoise
from certify.certificate import Certificate, ModelRecord
from certify.certificate.check import CheckReport
from certify.defence import checking
from certify.defence.calls import Calls
from certify.defence.certification import JointOptions, certify_joint, joint_functions
from certify.defence.deployed import deployed_rows
from certify.defence.explanation import Explanation
from certify.defence.problem import JointProblem
from certify.defence.smoother import PipelineSmoother
from certify.models.blocks import replacing
from certify.models.encoders import EncodeCall, PipelineEncoder, Reading
from certify.models.fingerprint import fingerprint
from certify.models.overlay import overlay_on
from certify.montecarlo.streams import row_generator

__all__ = ["Defence"]

FORMAT, SCHEMA = "certify defence", 1
PAIR = Pair("defence.json", "defence.safetensors")


class Defence:
    """A pipeline that is called like the one it was made of, with its prompts' encodings smoothed; `defend` makes it.

    Attributes:
        pipe: the pipeline, unchanged: its device, dtype, adapters and offloading are looked up in every call.
        encoder: its text encoders.
        adaptive: the smoother: an `AdaptiveMedianSmoother` for Stable Diffusion 1.x and 2.x, else a `PipelineSmoother`.
        calls: how the pipeline is called.
    """

    def __init__(
        self,
        pipe: Any,
        encoder: PipelineEncoder,
        adaptive: AdaptiveMedianSmoother | PipelineSmoother,
        options: Mapping[str, Any],
    ) -> None:
        self.pipe, self.encoder, self.adaptive = pipe, encoder, adaptive
        self._options = dict(options)
        self.calls = Calls(encoder, options.get("call") or {})

    def __repr__(self) -> str:
        return f"Defence({type(self.pipe).__name__}, {self.adaptive!r})"

    def to(self, *args: Any, **kwargs: Any) -> Defence:
        """Moves the pipeline, and returns this object."""
        self.pipe.to(*args, **kwargs)
        return self

    @property
    def concepts(self) -> tuple[Concept, ...]:
        """What is suppressed."""
        return self.adaptive.concepts

    # Images

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As the pipeline's own `__call__`, with smoothed encodings of the prompt.

        `num_images_per_prompt` images have independent noise: the prompt is repeated, and each row encoded by itself.

        Raises:
            TypeError: embeddings of the prompt are given, or no prompt.
            ValueError: the pipeline rewrites the prompt, or does not encode it.
        """
        arguments = self.calls.arguments(args, kwargs)
        prompts = self.calls.prompts(arguments)
        generator = row_generator(_validate.seed_or_fresh(None), "defence", torch.device("cpu"))
        known: list[Reading] = []
        if isinstance(self.adaptive, PipelineSmoother) and len(self.adaptive.relevance.calls) > 1:
            # A word counts by the encoder that finds it most relevant: all must have read it first.
            further = {name: value for name, value in arguments.items() if name != "prompt"}
            known = [self.encoder.read(call) for call in self.encoder.calls(prompts, further)]

        adaptive = self.adaptive
        settings: dict[str, Any] = {"n": adaptive.n, "smoother": adaptive.smoother, "batch_size": adaptive.batch_size}

        def answer(number: int, call: EncodeCall, own: Callable[[], Any]) -> Any:
            there = number < len(known) and known[number].call.same(call)
            reading = known[number] if there else self.encoder.read(call)
            noises = self._noise([*known[:number], reading, *known[number + 1 :]])[number]
            return self.calls.put(reading, own(), deployed_rows(self.encoder, reading, noises, generator, **settings))

        return self.encoder.intercepted(answer)(**arguments)

    def _noise(self, readings: Sequence[Reading]) -> list[list[tuple[TokenNoise, ...]]]:
        """Relevance and σ: for each reading, for each prompt, for each lookup."""
        if isinstance(self.adaptive, PipelineSmoother):
            return self.adaptive.noise(readings)
        found: list[list[tuple[TokenNoise, ...]]] = []
        for reading in readings:
            if len(reading.lookups) != 1:
                raise ValueError(
                    f"{type(self.pipe).__name__} looked up embeddings {len(reading.lookups)} times: must be once"
                )
            width = reading.lookups[0].ids.shape[1]
            found.append([(_token_noise(self.adaptive, text, width),) for text in reading.call.prompts])
        return found

    def images(self, prompt: str, count: int, seed: int, *, defended: bool = True, **call: Any) -> list[Any]:
        """Images of a prompt as PIL's, image i from the initial noise of `seed` + i; the smoothing noise is fresh.

        Args:
            prompt: one prompt.
            count: how many.
            seed: of the initial noise.
            defended: whether the smoother is in it; without it they are the pipeline's own.
            call: further arguments of `__call__`.

        Raises:
            ValueError: the pipeline makes no images.
        """
        run = self if defended else self.pipe
        given = {**({} if defended else self.calls.options), **call, "output_type": "pil", "return_dict": False}
        made = []
        for i in range(_validate.count("count", count)):
            found = run(prompt=prompt, generator=torch.Generator().manual_seed(seed + i), **given)[0]
            if not isinstance(found, list) or not hasattr(found[0], "save"):
                raise ValueError(f"{type(self.pipe).__name__} makes no images: must, for pictures")
            made.append(found[0])
        return made

    # Modular Diffusers

    def block(self, own: Any) -> Any:
        """A text-encoding block of Modular Diffusers, defended.

            blocks = FluxAutoBlocks()
            blocks.sub_blocks["text_encoder"] = safe.block(blocks.sub_blocks["text_encoder"])

        The block's own computation runs as ever. Those of its outputs that are the plain encoding of the prompt are then
        replaced by the smoothed one, with fresh noise in every call; they are found by their values. The negative branch is
        not touched.

        Args:
            own: the block that it stands in for, of a pipeline with the text encoders of this one.

        Returns:
            A block with the same components, inputs and outputs.

        Raises:
            TypeError: `own` is no block.
            ValueError: in a call: several images of one prompt are asked for, which would share their noise;
                or an encoding is not among the block's outputs, since its text encoders are others or it encodes otherwise.
        """
        return replacing(own, self._smoothed_outputs)

    def _smoothed_outputs(self, state: Mapping[str, Any], made: Mapping[str, Any]) -> dict[str, Any]:
        images = state.get("num_images_per_prompt")
        if images not in (None, 1):
            raise ValueError(
                f"num_images_per_prompt = {images!r}: must be 1, since the images of one prompt would share their noise; "
                "repeat the prompt instead"
            )
        names = [name for name in self.calls.signature.parameters if name == "prompt" or name.startswith("prompt_")]
        names += ["max_sequence_length", "clip_skip"]
        taken = {
            name: state[name]
            for name in names
            if name in self.calls.signature.parameters and state.get(name) is not None
        }
        further = {name: value for name, value in self.calls.arguments((), taken).items() if name != "prompt"}
        prompts = self.calls.prompts(taken)
        readings = [self.encoder.read(call) for call in self.encoder.calls(prompts, further)]
        noises = self._noise(readings)
        generator = row_generator(_validate.seed_or_fresh(None), "defence", torch.device("cpu"))
        adaptive = self.adaptive
        settings: dict[str, Any] = {"n": adaptive.n, "smoother": adaptive.smoother, "batch_size": adaptive.batch_size}
        found: dict[str, Any] = {}
        for reading, noise in zip(readings, noises, strict=True):
            rows = deployed_rows(self.encoder, reading, noise, generator, **settings)
            for slot, entries in zip(reading.frame.slots, rows, strict=True):
                plain = slot.rows(reading.tree, len(prompts))
                name = next((n for n, v in made.items() if n not in found and _are(v, plain)), None)
                if name is None:
                    raise ValueError(
                        f"the block's outputs ({', '.join(made)}) do not hold an encoding that "
                        f"{type(self.pipe).__name__} computes: must, with the text encoders of the defended pipeline"
                    )
                cast = [row.to(was.device, was.dtype) for row, was in zip(entries, made[name], strict=True)]
                found[name] = torch.stack(cast) if isinstance(made[name], Tensor) else type(made[name])(cast)
        return found

    # What is known of a prompt

    def explain(self, prompt: str, **call: Any) -> Explanation:
        """Relevance and σ of every token of a prompt, in every text encoder.

        Args:
            prompt: one prompt.
            call: arguments of the pipeline's `__call__` that decide how it is encoded.
        """
        if not isinstance(prompt, str):
            raise TypeError(f"prompt = {prompt!r}: must be a string")
        readings = [self.encoder.read(c) for c in self.encoder.calls([prompt], {**self.calls.options, **call})]
        noises = [noise for rows in self._noise(readings) for noise in rows[0]]
        names = [lookup.encoder for reading in readings for lookup in reading.lookups]
        units = [unit for reading in readings for unit in reading.frame.units]
        return Explanation(prompt, tuple(names), tuple(units), tuple(noises))

    def problem(self, prompt: str, **call: Any) -> JointProblem:
        """A prompt as function, input and noise over all encoders: what every bound of the toolkit takes (T16)."""
        return self._joint_smoother("problem").problem(prompt, **{**self.calls.options, **call})

    def _joint_smoother(self, what: str) -> PipelineSmoother:
        if not isinstance(self.adaptive, PipelineSmoother):
            raise ValueError(
                f"{what}: is for several encoders; `safe.adaptive.{what}` is the one of Stable Diffusion 1.x and 2.x"
            )
        return self.adaptive

    # Certificates

    def certify(self, prompt: str, *, call: Mapping[str, Any] | None = None, **options: Any) -> Certificate:
        """The certificate of a prompt: what is proven of its smoothed encoding, over all text encoders together.

        Stable Diffusion 1.x and 2.x: `AdaptiveMedianSmoother.certify`, with its options. Any other pipeline: a bound of the
        squared distance that all slots together can move within `rho` (T2, T4, T11: the best), a curve up to it by whose boxes
        the radius is shared out over the encoders (T16, in the record), the deployed encoding (T5, T6), and with a detector the
        attack success rate of images from the pipeline's own `__call__` (T5).

        Args:
            prompt: one prompt.
            call: arguments of the pipeline's `__call__`: what decides how the prompt is encoded, and images are made.
            options: those of `JointOptions`, which explains them.

        Raises:
            TypeError, ValueError: an option is unknown or out of range, or the prompt carries no noise.
        """
        if isinstance(self.adaptive, AdaptiveMedianSmoother):
            if call:
                raise ValueError(
                    f"call = {dict(call)!r}: must be empty here; steps and guidance are options of `certify`"
                )
            return self.adaptive.certify(prompt, **options)
        _validate.options("certify", options, [field.name for field in fields(JointOptions)])
        asked = JointOptions(**options)
        given = dict(call or {})
        model = asked.model or self.model(whole=bool(asked.statistics or asked.looks))
        return certify_joint(self.calls, self.problem(prompt, **given), model, asked, given)

    def model(self, *, whole: bool = False) -> ModelRecord:
        """Which weights a certificate is about.

        Args:
            whole: whether it says something of the denoiser or of images; else it is about the text encoders alone.
        """
        digests, encoders = {"text_encoders": self.encoder.fingerprint()}, self.encoder.encoders
        parts = {name: part for name, part in self.pipe.components.items() if isinstance(part, torch.nn.Module)}
        others = {name: part for name, part in parts.items() if name not in encoders} if whole else {}
        digests |= {name: fingerprint(part) for name, part in sorted(others.items())}
        laid = {name: over for name in (*encoders, *others) if (over := overlay_on(parts[name])) is not None}
        return ModelRecord(type(self.pipe).__name__, digests, laid)

    def check(self, certificate: Certificate, **options: Any) -> CheckReport:
        """Checks a certificate of this pipeline by fresh draws.

        Args:
            certificate: of `certify`.
            options: `prompt`, for a certificate that leaves it out; `call`, where it holds more than what is on record;
                `detector`, where that is a function (None: claims about images are not checked); `text_only`, to check claims
                about the text encoding alone; and those of `Certificate.check`.

        Raises:
            ValueError: it is of another pipeline or smoother, or leaves its prompt out.
        """
        known = certificate.provenance.get("pipeline")
        stated = known.get("detector") if isinstance(known, Mapping) else None
        detector = options.pop("detector", stated if isinstance(stated, str) else None)
        prompt, call = options.pop("prompt", None), options.pop("call", None)
        problem, given = self._certified(certificate, prompt, call)
        if options.get("batch_size") is None:
            options["batch_size"] = problem.smoother.batch_size
        alone = bool(options.pop("text_only", False))
        functions = joint_functions(
            certificate, self.calls, problem, given, None if alone else detector, text_only=alone
        )
        return certificate.check(functions, problem.y, **options)

    def compared(
        self, certificate: Certificate, *, prompt: str | None = None, call: Mapping[str, Any] | None = None
    ) -> list[OnRecord]:
        """What a joint certificate has on record beside its claims, against what pipeline and prompt say: noise, blocks, the
        allocation of T16, covered words and prompts.

        Args:
            certificate, prompt, call: as in `check`.

        Raises:
            ValueError: as `check`, or the record is damaged.
        """
        problem, given = self._certified(certificate, prompt, call)
        return checking.compared(certificate, problem, {**self.calls.options, **given})

    def _certified(
        self, certificate: Certificate, prompt: str | None, call: Mapping[str, Any] | None
    ) -> tuple[JointProblem, dict[str, Any]]:
        """The problem that a certificate is about, and the arguments of `__call__` on record."""
        record: Any = certificate.provenance
        about, text = record.get("pipeline"), prompt or record.get("prompt")
        if not isinstance(about, Mapping) or not isinstance(about.get("call"), Mapping):
            raise ValueError("certificate has no prompt of a pipeline on record: must be one of `certify`")
        if not isinstance(text, str):
            raise ValueError("certificate leaves its prompt out: must be given, prompt=")
        stated = record.get("model") or {}
        digests = stated.get("sha256") or {}
        own = self.model(whole=len(digests) > 1)
        for name, digest in digests.items():
            if (own.sha256 or {}).get(name) != digest:
                what = "other text encoders" if name == "text_encoders" else f"another {name}"
                raise ValueError(f"certificate is about {what}: its SHA-256 differs")
        if stated.get("kind") != own.kind or "text_encoders" not in digests:
            raise ValueError(f"certificate is about a {stated.get('kind')}: must be about a {own.kind}")
        if record.get("smoother") != self._joint_smoother("check").settings():
            raise ValueError("certificate is about another smoother: its settings differ")
        given = {**about["call"], **(call or {})}
        return self.problem(text, **given), given

    # On disk

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Writes `defence.json` and `defence.safetensors`: settings, concepts and their directions, and no model. Under
        "levels" the relevance of all words that were met is kept, too: whoever loads it has them on the same levels.

        Raises:
            FileExistsError: the folder holds a defence already and `overwrite` is not set.
        """
        path = Path(folder)
        tensors = {"none": torch.zeros(1)}
        directions: tuple[Tensor, ...] = ()
        if isinstance(self.adaptive, PipelineSmoother):
            directions = tuple(self.adaptive.relevance.directions)
            tensors = {f"direction{i}": d for i, d in enumerate(directions)}
        words: list[list[Any]] = []
        if isinstance(self.adaptive, PipelineSmoother) and self.adaptive.gamma is not None:
            words, tensors["scores"] = self.adaptive.relevance.known()
        content = {
            "format": FORMAT,
            "schema_version": SCHEMA,
            "pipeline": type(self.pipe).__name__,
            "text_encoders_sha256": self.encoder.fingerprint(),
            "concepts": [{"name": c.name, "pairs": [list(pair) for pair in c.pairs]} for c in self.concepts],
            "options": self._options,
            "directions": len(directions),
            **({"words": words} if words else {}),
        }
        PAIR.write(path, content, tensors, overwrite=overwrite)
        return path


def _token_noise(adaptive: AdaptiveMedianSmoother, prompt: str, positions: int) -> TokenNoise:
    """Relevance and σ of a prompt by the smoother of Stable Diffusion 1.x and 2.x; none without words."""
    tokenized = adaptive.encoder.tokenize(prompt)
    if tokenized.empty:
        unknown = (None,) * positions
        return TokenNoise(tokenized.tokens, tokenized.kinds, unknown, unknown, (0.0,) * positions)
    noise = adaptive.prepare(tokenized).token_noise
    if len(noise.sigma) != positions:
        raise ValueError(f"prompt = {prompt!r}: is encoded at {positions} positions: must be {len(noise.sigma)}")
    return noise


def _are(value: Any, rows: Sequence[Tensor]) -> bool:
    """Whether an output holds these rows, up to rounding."""
    if not isinstance(value, (Tensor, list, tuple)) or len(value) != len(rows):
        return False
    return all(
        isinstance(a, Tensor) and a.shape == b.shape and torch.allclose(a.float(), b.to(a.device).float(), 1e-3, 1e-4)
        for a, b in zip(value, rows, strict=True)
    )
