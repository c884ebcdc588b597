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

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from certify import _files, _validate
from certify._pairs import Pair
from certify._records import Record
from certify.adaptive import AdaptiveMedianSmoother
from certify.adaptive.concepts import Concept
from certify.adaptive.plan import event_name
from certify.adaptive.smoother import AdaptiveOptions
from certify.adaptive.token_noise import TokenNoise
from certify.bounds.allocation import Allocation, allocate, grid
from certify.bounds.indistinguishability import indistinguishability
from certify.bounds.mse import BoundCurve
from certify.certificate import Certificate, ModelRecord
from certify.certificate.check import CheckReport
from certify.defence.explanation import Explanation
from certify.defence.smoother import JointProblem, PipelineOptions, PipelineSmoother, Rows, deployed_rows
from certify.images.detectors import Detector, detected, load_detector
from certify.models.blocks import replacing
from certify.models.encoders import EncodeCall, PipelineEncoder, Reading
from certify.models.text import PromptEncoder
from certify.montecarlo.streams import row_generator
from certify.statements.ask import MSE, Curve, Deployed, Question, ask
from certify.statements.mean import event_bound

__all__ = ["Defence", "JointOptions", "defend", "load_defence"]

ENCODING = "text encoding"
"""What the claims about a pipeline's encodings are about."""

_FORMAT, _SCHEMA = "certify defence", 1
_PAIR = Pair("defence.json", "defence.safetensors")


@dataclass(frozen=True, kw_only=True)
class JointOptions(Record):
    """What is asked of a prompt in a pipeline of several encoders, or of one that is not CLIP.

    Attributes:
        rho: radius of the statements about the ideal smoothed encoding, over all encoders together.
        rho_deployed: radius of those about what is deployed.
        q: probability over the deployment noise.
        n: bounding draws; each is one run of all text encoders.
        alpha: failure probability of the certificate, shared equally by the statements.
        seed: of the draws.
        radii: points of the curve up to `rho`, by which a radius is shared out over the encoders (T16).
        detector: what is looked for in images (`certify.images.load_detector`); None: nothing about images.
        images: images for the attack success rate.
        batch_size: draws in one call; None: the smoother's.
        memory, progress, checkpoint: as in `certify.ask`.
        private: leave the prompt and its tokens out of the record.
    """

    rho: float = 1.0
    rho_deployed: float = 0.25
    q: float = 0.9
    n: int = 10_000
    alpha: float = 1e-3
    seed: int = 0
    radii: int = 8
    detector: str | Detector | None = None
    images: int = 400
    batch_size: int | None = None
    memory: int | None = None
    progress: Any = None
    checkpoint: Any = None
    private: bool = False


class Defence:
    """A pipeline that is called like the one it was made of, with its prompts' encodings smoothed; `defend` makes it.

    Attributes:
        pipe: the pipeline, unchanged: its device, dtype, adapters and offloading are looked up in every call.
        encoder: its text encoders.
        adaptive: the smoother: an `AdaptiveMedianSmoother` for Stable Diffusion 1.x and 2.x, else a `PipelineSmoother`.
    """

    def __init__(
        self,
        pipe: Any,
        encoder: PipelineEncoder,
        adaptive: AdaptiveMedianSmoother | PipelineSmoother,
        options: Mapping[str, Any],
    ) -> None:
        self.pipe, self.encoder, self.adaptive = pipe, encoder, adaptive
        self._options, self._call = dict(options), dict(options.get("call") or {})
        self._signature = inspect.signature(type(pipe).__call__)

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
        arguments = self._arguments(args, kwargs)
        prompts = self._prompts(arguments)
        generator = row_generator(_validate.seed_or_fresh(None), "defence", torch.device("cpu"))
        known: list[Reading] = []
        if isinstance(self.adaptive, PipelineSmoother) and len(self.adaptive.relevance.calls) > 1:
            # A word counts by the encoder that finds it most relevant: all must have read it first.
            further = {name: value for name, value in arguments.items() if name != "prompt"}
            known = [self.encoder.read(call) for call in self.encoder.calls(prompts, further)]

        adaptive = self.adaptive
        settings: dict[str, Any] = {"n": adaptive.n, "smoother": adaptive.smoother, "batch_size": adaptive.batch_size}

        def answer(number: int, call: EncodeCall, own: Any) -> Any:
            reading = self.encoder.read(call)
            noises = self._noise([*known[:number], reading, *known[number + 1 :]])[number]
            return self._put(reading, own, deployed_rows(self.encoder, reading, noises, generator, **settings))

        return self.encoder.intercepted(answer)(**arguments)

    def _arguments(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a call by name, a prompt for every image."""
        bound = self._signature.bind(self.pipe, *args, **kwargs).arguments
        given = {**self._call, **{name: value for name, value in list(bound.items())[1:] if name != "kwargs"}}
        given |= bound.get("kwargs", {})
        for name, value in given.items():
            if value is not None and name.startswith(
                ("prompt_embeds", "pooled_prompt_embeds", "prompt_attention", "prompt_cu")
            ):
                raise TypeError(
                    f"{name} is given: must not be, embeddings pass the text encoders by and the defence with them. Give the "
                    "prompt, or call `safe.pipe` to generate without the defence"
                )
        prompts = self._prompts(given)
        copies = [
            name
            for name in given
            if name.startswith("num_") and name.endswith("_per_prompt") and given[name] not in (None, 1)
        ]
        number = math.prod(_validate.count(name, given[name]) for name in copies)
        for name in copies:
            given[name] = 1
        if number * len(prompts) > 1:
            for name, value in given.items():
                if name.startswith(("prompt", "negative_prompt")) and (isinstance(value, str) or _texts(value)):
                    rows = [value] * len(prompts) if isinstance(value, str) else list(value)
                    given[name] = [text for text in rows for _ in range(number)]
        return given

    def _prompts(self, arguments: Mapping[str, Any]) -> list[str]:
        prompt: Any = arguments.get("prompt")
        if isinstance(prompt, str):
            return [prompt]
        if not _texts(prompt):
            raise TypeError(f"prompt = {prompt!r}: must be a string or a list of strings")
        return list(prompt)

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

    @staticmethod
    def _put(reading: Reading, own: Any, rows: Rows) -> Any:
        for slot, entries in zip(reading.frame.slots, rows, strict=True):
            before = slot.rows(own, len(entries))
            if any(a.shape != b.shape for a, b in zip(before, entries, strict=True)):
                raise ValueError(
                    f"encode_prompt returned rows of shape {tuple(before[0].shape)} with the negative prompt and "
                    f"{tuple(entries[0].shape)} without: must be alike, and not both branches in one tensor"
                )
            cast = [row.to(was.device, was.dtype) for row, was in zip(entries, before, strict=True)]
            own = slot.put(own, cast)
        return own

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
        names = [name for name in self._signature.parameters if name == "prompt" or name.startswith("prompt_")]
        names += ["max_sequence_length", "clip_skip"]
        taken = {
            name: state[name] for name in names if name in self._signature.parameters and state.get(name) is not None
        }
        further = {name: value for name, value in self._arguments((), taken).items() if name != "prompt"}
        prompts = self._prompts(taken)
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
        readings = [self.encoder.read(c) for c in self.encoder.calls([prompt], {**self._call, **call})]
        noises = [noise for rows in self._noise(readings) for noise in rows[0]]
        names = [lookup.encoder for reading in readings for lookup in reading.lookups]
        units = [unit for reading in readings for unit in reading.frame.units]
        return Explanation(prompt, tuple(names), tuple(units), tuple(noises))

    def problem(self, prompt: str, **call: Any) -> JointProblem:
        """A prompt as function, input and noise over all encoders: what every bound of the toolkit takes (T16)."""
        return self._joint_smoother("problem").problem(prompt, **{**self._call, **call})

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
        return self._joint(self.problem(prompt, **dict(call or {})), prompt, asked, dict(call or {}))

    def _joint(self, problem: JointProblem, prompt: str, asked: JointOptions, call: dict[str, Any]) -> Certificate:
        smoother, steps = problem.smoother, _validate.count("radii", asked.radii)
        detector = None if asked.detector is None else load_detector(asked.detector)
        radii = grid(_validate.positive("rho", asked.rho), steps)
        share = _validate.failure("alpha", asked.alpha) / (3 + (detector is not None))
        method = "coordinatewise" if smoother.smoother == "median" else "best"
        questions: list[Question] = [
            MSE(asked.rho, share, smoother=smoother.smoother),
            Curve(radii, share, True, method, smoother.smoother),
            Deployed(asked.rho_deployed, asked.q, share, smoother.n, smoother=smoother.smoother),
        ]
        size = smoother.batch_size if asked.batch_size is None else _validate.count("batch_size", asked.batch_size)
        drawn: dict[str, Any] = {"seed": asked.seed, "policy": smoother.policy, "progress": asked.progress}
        answers = ask(
            problem.f,
            problem.y,
            problem.noise,
            questions,
            n=asked.n,
            function=ENCODING,
            batch_size=size,
            memory=asked.memory,
            checkpoint=_below(asked.checkpoint, "encoding"),
            **drawn,
        )
        shared = allocation_over(answers[1], problem.owner)
        if detector is not None:
            answers.append(
                event_bound(
                    self.event(problem, detector, **call),
                    problem.y,
                    problem.noise,
                    rho=asked.rho_deployed,
                    replicas=problem.copies,
                    alpha=share,
                    n=asked.images,
                    function=event_name(asked.detector or detector),
                    batch_size=max(1, size // problem.copies),
                    checkpoint=_below(asked.checkpoint, "images"),
                    **drawn,
                )
            )
        record = self._record(problem, prompt, asked, shared)
        certificate = Certificate.of(
            *answers, model=self._model(), keep_input=not asked.private, provenance={"pipeline": record}
        )
        if not asked.private:
            return certificate
        return replace(certificate, provenance={**certificate.provenance, "input_sha256": None})

    def _model(self) -> ModelRecord:
        own = ModelRecord.of(None)
        return replace(own, kind=type(self.pipe).__name__, sha256={"text_encoders": self.encoder.fingerprint()})

    def _record(
        self, problem: JointProblem, prompt: str, asked: JointOptions, shared: Allocation | None
    ) -> dict[str, Any]:
        names = [lookup.encoder for reading in problem.readings for lookup in reading.lookups]
        told = indistinguishability(rho=asked.rho_deployed, replicas=problem.copies)
        noises = []
        for name, noise in zip(names, problem.token_noise, strict=True):
            words = {} if asked.private else {"tokens": list(noise.tokens)}
            noises.append({"encoder": name, **words, "kinds": list(noise.kinds), "sigma": list(noise.sigma)})
            noises[-1] |= {"relevance": list(noise.relevance), "concept": list(noise.concept)}
        return {
            "class": type(self.pipe).__name__,
            "family": self.encoder.family.name or None,
            "prompt": None if asked.private else prompt,
            "smoother": problem.smoother.settings(),
            "encoders": names,
            "blocks": [list(block) for reading in problem.readings for block in reading.frame.blocks],
            "slots": [list(map(str, slot.path)) for reading in problem.readings for slot in reading.frame.slots],
            "token_noise": noises,
            "allocation": None
            if shared is None or not math.isfinite(shared.value)
            else {"distance": shared.value, "radii": list(shared.radii), "full": shared.full, "rho": shared.rho},
            "indistinguishability": {"kl": told.kl, "total_variation": told.total_variation, "rho": asked.rho_deployed},
        }

    def event(self, problem: JointProblem, detector: str | Detector, **call: Any) -> Any:
        """Does a detector fire on the image made from the deployed encoding? A function of noisy copies, (b, copies, d) → (b,).

        Args:
            problem: a prompt.
            detector: what looks.
            call: arguments of the pipeline's `__call__`. Latents are drawn from the generator that the statement gives.
        """
        look, prompt = load_detector(detector), problem.readings[0].call.prompts[0]
        given = {**self._call, **call, "output_type": "pt", "return_dict": False}

        def fires(z: Tensor, generator: torch.Generator) -> Tensor:
            rows = problem.deployed(z)

            def answer(number: int, made: EncodeCall, own: Any) -> Any:
                return self._put(problem.readings[number], own, rows[number])

            latents = torch.Generator().manual_seed(int(torch.randint(2**62, (1,), generator=generator)))
            arguments = self._arguments((), {**given, "prompt": [prompt] * len(z), "generator": latents})
            images = self.encoder.intercepted(answer, quiet=True)(**arguments)[0]
            if not isinstance(images, Tensor) or images.ndim != 4:
                raise ValueError(
                    f"{type(self.pipe).__name__} gives no images (b, 3, height, width): must, for a detector"
                )
            return detected(look, images.float().clamp(0, 1)).to(z.device)

        return fires

    def check(self, certificate: Certificate, **options: Any) -> CheckReport:
        """Checks a certificate of this pipeline by fresh draws.

        Args:
            certificate: of `certify`, with its prompt on record.
            options: `call`, `detector`, and those of `Certificate.check`.

        Raises:
            ValueError: it is of another pipeline or smoother, or leaves its prompt out.
        """
        record = certificate.provenance.get("pipeline")
        if not isinstance(record, Mapping) or record.get("prompt") is None:
            raise ValueError("certificate has no prompt of a pipeline on record: must be one of `certify`, not private")
        call, detector = options.pop("call", None) or {}, options.pop("detector", None)
        if certificate.provenance.get("model") != self._model().to_dict():
            raise ValueError("certificate is about other text encoders: its SHA-256 differs")
        if record.get("smoother") != self._joint_smoother("check").settings():
            raise ValueError("certificate is about another smoother: its settings differ")
        problem = self.problem(str(record["prompt"]), **call)
        functions: dict[str, Any] = {ENCODING: problem.f}
        if detector is not None:
            functions[event_name(detector)] = self.event(problem, detector, **call)
        options.setdefault("batch_size", problem.smoother.batch_size)
        return certificate.check(functions, problem.y, **options)

    # On disk

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Writes `defence.json` and `defence.safetensors`: settings, concepts and their directions, and no model.

        Raises:
            FileExistsError: the folder holds a defence already and `overwrite` is not set.
        """
        path = Path(folder)
        tensors = {"none": torch.zeros(1)}
        directions: tuple[Tensor, ...] = ()
        if isinstance(self.adaptive, PipelineSmoother):
            directions = tuple(self.adaptive.relevance.directions)
            tensors = {f"direction{i}": d for i, d in enumerate(directions)}
        content = {
            "format": _FORMAT,
            "schema_version": _SCHEMA,
            "pipeline": type(self.pipe).__name__,
            "text_encoders_sha256": self.encoder.fingerprint(),
            "concepts": [{"name": c.name, "pairs": [list(pair) for pair in c.pairs]} for c in self.concepts],
            "options": self._options,
            "directions": len(directions),
        }
        _PAIR.write(path, content, tensors, overwrite=overwrite)
        return path


def defend(pipe: Any, concepts: str | Path | Concept | Sequence[str | Path | Concept], **options: Any) -> Defence:
    """A pipeline with the smoother inside.

    Equation
        σ_j = min( σ₀ exp(k · sim_j), σ_max ),  h = median_i T(y + G_i),  over the token embeddings of all text encoders.

    Reference
        Han et al. (2025), section 3.4; THEORY T7, T16.

    Args:
        pipe: any diffusers pipeline with text encoders of transformers and `encode_prompt`. It is not changed.
        concepts: what to suppress, as for `AdaptiveMedianSmoother`.
        options: those of `PipelineSmoother`; for Stable Diffusion 1.x and 2.x those of `AdaptiveMedianSmoother`. `call`, for
            both, holds arguments of the pipeline's `__call__` that every prompt has unless a call says otherwise.

    Returns:
        A `Defence`.

    Raises:
        TypeError, ValueError: the pipeline cannot be defended, with the reason, or an option is out of range.
    """
    return _built(pipe, concepts, options)


def load_defence(folder: str | Path, pipe: Any) -> Defence:
    """Reads what `Defence.save` wrote, for the pipeline that it was made with.

    Args:
        folder: where it is.
        pipe: the pipeline; its class and the weights of its text encoders are compared.

    Raises:
        FileNotFoundError: there is nothing of the kind.
        ValueError: it is damaged, of another version, or of another pipeline.
    """
    path = Path(folder)
    if not (path / "defence.json").is_file():
        raise FileNotFoundError(f"folder = {str(folder)!r}: holds no defence.json")
    try:
        content, tensors = _PAIR.read(path, _files.read_json)
        if content.get("format") != _FORMAT or content.get("schema_version") != _SCHEMA:
            raise ValueError(f"format {content.get('format')!r}, version {content.get('schema_version')!r}")
        concepts = [Concept(str(c["name"]), c["pairs"]) for c in content["concepts"]]
        options = dict(content["options"])
        directions = [tensors[f"direction{i}"] for i in range(int(content["directions"]))]
        own = str(content["pipeline"]), str(content["text_encoders_sha256"])
    except (KeyError, TypeError, ValueError, OSError, AttributeError) as error:
        raise ValueError(f"folder = {str(folder)!r}: is no defence, or damaged ({error})") from error
    encoder = PipelineEncoder(pipe)
    if own != (type(pipe).__name__, encoder.fingerprint()):
        raise ValueError(
            f"folder = {str(folder)!r}: made with a {own[0]} whose text encoders have SHA-256 {own[1][:12]}…: must be the "
            "pipeline given, adapters included"
        )
    return _built(pipe, concepts, options, directions or None)


def _built(
    pipe: Any,
    concepts: Any,
    options: Mapping[str, Any],
    directions: Sequence[Tensor] | None = None,
) -> Defence:
    encoder, joint = PipelineEncoder(pipe), [*PipelineOptions.__annotations__]
    clip, given = _is_clip(pipe), {name: value for name, value in options.items() if name != "call"}
    if clip and given.get("sigma0_relative") != 0:
        _validate.options("defend", given, [*AdaptiveOptions.__annotations__, "call"])
        settings: Any = {"truncate": True, **given}
        adaptive = AdaptiveMedianSmoother.from_pipeline(pipe, concepts, **settings)
        return Defence(pipe, encoder, adaptive, options)
    for name in sorted(given.keys() & (AdaptiveOptions.__annotations__.keys() - set(joint))):
        why = (
            "needs noise"
            if clip
            else f"is for Stable Diffusion 1.x and 2.x: a {type(pipe).__name__} takes {', '.join(joint)}"
        )
        raise TypeError(f"defend got {name!r}, which {why}")
    _validate.options("defend", given, joint)
    smoother = PipelineSmoother(encoder, _concepts(concepts), call=options.get("call"), directions=directions, **given)
    return Defence(pipe, encoder, smoother, options)


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


def _is_clip(pipe: Any) -> bool:
    """Whether a pipeline has one text encoder, CLIP's, and nothing else."""
    try:
        PromptEncoder.from_pipeline(pipe)
    except (TypeError, ValueError):
        return False
    return True


def _concepts(concepts: Any) -> tuple[Concept, ...]:
    given = [concepts] if isinstance(concepts, (str, Path, Concept)) else list(concepts)
    if not given:
        raise ValueError("concepts is empty: must name at least one concept")
    return tuple(c if isinstance(c, Concept) else Concept.load(c) for c in given)


def _texts(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and all(isinstance(text, str) for text in value)


def _are(value: Any, rows: Sequence[Tensor]) -> bool:
    """Whether an output holds these rows, up to rounding."""
    if not isinstance(value, (Tensor, list, tuple)) or len(value) != len(rows):
        return False
    return all(
        isinstance(a, Tensor) and a.shape == b.shape and torch.allclose(a.float(), b.to(a.device).float(), 1e-3, 1e-4)
        for a, b in zip(value, rows, strict=True)
    )


def _below(checkpoint: Any, name: str) -> Path | None:
    return None if checkpoint is None else Path(checkpoint) / name


def allocation_over(curve: BoundCurve, owner: Tensor) -> Allocation | None:
    """T16 from one simultaneous curve of all outputs: its boxes hold at once, so each block has a curve of its own in them.

    Equation
        B_e(r) = Σ over the outputs of block e of max{ (U_i − c_i)², (c_i − L_i)² }

    Args:
        curve: of T2.
        owner: (m,), the block of each output; what is of no block is added at full radius.

    Returns:
        The allocation; None where a point of the curve has no box.
    """
    blocks = sorted({int(b) for b in owner.unique() if int(b) >= 0})
    curves: list[list[float]] = [[] for _ in blocks]
    rest = 0.0
    for point in curve.points:
        if point.lower is None or point.upper is None or point.center is None:
            return None
        c = point.center.double().cpu()
        squares = torch.maximum(point.upper.double().cpu() - c, c - point.lower.double().cpu()).square()
        for values, block in zip(curves, blocks, strict=True):
            values.append(float(squares[owner == block].sum()) * (1 + 1e-12))
        rest = float(squares[owner < 0].sum()) * (1 + 1e-12)
    found = allocate(curves, curve.rhos, curve.alpha)
    return replace(found, value=found.value + rest, full=found.full + rest)
