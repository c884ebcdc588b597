"""Building a defence: of a pipeline, from the folder that it was saved in, or from what a joint certificate has on record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from certify import _files, _validate
from certify.adaptive import AdaptiveMedianSmoother
from certify.adaptive.concepts import Concept, loaded_concepts, ships
from certify.adaptive.options import AdaptiveOptions
from certify.certificate import Certificate
from certify.defence.defence import FORMAT, PAIR, SCHEMA, Defence
from certify.defence.smoother import PipelineOptions, PipelineSmoother
from certify.models.encoders import PipelineEncoder, missing
from certify.models.text import PromptEncoder

__all__ = ["defend", "load_defence", "rebuilt"]


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
        content, tensors = PAIR.read(path, _files.read_json)
        if content.get("format") != FORMAT or content.get("schema_version") != SCHEMA:
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
    safe = _built(pipe, concepts, options, directions or None)
    if isinstance(safe.adaptive, PipelineSmoother) and content.get("words"):
        try:
            safe.adaptive.relevance.take(content["words"], tensors["scores"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"folder = {str(folder)!r}: is no defence, or damaged ({error})") from error
    return safe


def rebuilt(certificate: Certificate, pipe: Any, concepts: Sequence[str | Path | Concept] | None = None) -> Defence:
    """The defence that a joint certificate is about, from the settings on record.

    Args:
        certificate: what `Defence.certify` returned.
        pipe: the pipeline.
        concepts: where they do not ship with the package; None: by the names on record, which are read as names of those that
            do, and never as paths. Their SHA-256 is compared.

    Raises:
        ValueError: a concept has other pairs than on record or is not known by its name, or the record is damaged.
    """
    record: Any = certificate.provenance
    try:
        stated, about = record["smoother"], record["pipeline"]
        names = [str(concept["name"]) for concept in stated["concepts"]]
        digests = [str(concept["sha256"]) for concept in stated["concepts"]]
        options = {name: stated[name] for name in ("sigma0_relative", "k", "n", "sigma_max_relative")}
        options |= {"smoother": stated["aggregate"], "call": dict(about["call"])}
        options |= {"policy": str(stated["policy"]), "gamma": stated.get("gamma")}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"certificate: what it has on record cannot be read ({error!r})") from error
    if not concepts and not all(map(ships, names)):
        raise ValueError(f"concepts = None: must be given, since {names!r} on record do not ship with the package")
    given = loaded_concepts(list(concepts or names))
    if [concept.sha256 for concept in given] != digests:
        raise ValueError(
            f"concepts = {[c.name for c in given]}: their pairs are not those on record; must be those of {names}"
        )
    # A concept is its pairs, whatever its file is called.
    return _built(pipe, [Concept(name, c.pairs) for name, c in zip(names, given, strict=True)], options)


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
    smoother = PipelineSmoother(
        encoder, loaded_concepts(concepts), call=options.get("call"), directions=directions, **given
    )
    return Defence(pipe, encoder, smoother, options)


def _is_clip(pipe: Any) -> bool:
    """Whether a pipeline has one text encoder, CLIP's, and no place for another."""
    try:
        PromptEncoder.from_pipeline(pipe)
    except (TypeError, ValueError):
        return False
    return not missing(pipe)
