"""Index of a pipeline folder: its class and its parts, and what of them is refused before anything is loaded."""

from __future__ import annotations

import pkgutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from certify import _files
from certify.models.quiet import quiet_libraries

__all__ = [
    "CLIP_PIPELINES",
    "INDEX",
    "NOT_LOADED",
    "PARTS",
    "PICKLED",
    "STEMS",
    "TEXT_PARTS",
    "check_folder",
    "check_index",
    "check_weights",
    "class_named",
    "named",
    "read_index",
    "refusal",
]


INDEX = "model_index.json"

PICKLED = (".bin", ".ckpt", ".pt", ".pth", ".msgpack", ".h5")

# Every part's class and, for those with weights, that they must be there as safetensors.
PARTS: dict[str, tuple[tuple[str, ...], bool]] = {
    "tokenizer": (("CLIPTokenizer", "CLIPTokenizerFast"), False),
    "text_encoder": (("CLIPTextModel",), True),
    "unet": (("UNet2DConditionModel",), True),
    "vae": (("AutoencoderKL",), True),
    "scheduler": ((), False),
}

STEMS = {"text_encoder": "model", "unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model"}

TEXT_PARTS = ("tokenizer", "text_encoder")

NOT_LOADED = ("safety_checker", "feature_extractor", "image_encoder")
"""Parts that a pipeline may have and that are never loaded."""

_LIBRARIES = ("transformers", "diffusers", "stable_diffusion", None)

CLIP_PIPELINES = ("StableDiffusionPipeline", "LatentConsistencyModelPipeline")
"""Classes of pipelines with one CLIP text encoder: those that `certify.adaptive` knows."""

# Why a pipeline is not loaded: the first word that occurs in its class name decides.
_REFUSED = {
    "Inpaint": "its denoiser takes a mask and an image beside the text",
    "Img2Img": "it takes an image beside the text",
    "ImageToImage": "it takes an image beside the text",
    "ImageToVideo": "it takes an image beside the text",
    "Pix2Pix": "it takes an image beside the text",
    "Depth": "its denoiser takes a depth map beside the text",
    "Upscale": "its denoiser takes an image beside the text",
    "Control": "its denoiser takes an image beside the text",
    "Onnx": "its parts are ONNX sessions, not PyTorch modules",
    "Flax": "its parts are Flax modules, not PyTorch modules",
    "Kandinsky3": "",
    "Kandinsky5": "",
    "Kandinsky": "it is conditioned on image embeddings from a prior, not on the text encoding alone",
    "Wuerstchen": "it has two text encoders and two denoising stages",
    "StableCascade": "it has pooled embeddings and two denoising stages",
}


def class_named(name: str, source: str | Path | None) -> Any:
    """The class of a pipeline that encodes prompts and makes images of them alone.

    Raises:
        ValueError: diffusers has none of the name, or it is of another kind.
    """
    import diffusers

    why = next((reason for word, reason in _REFUSED.items() if word in name), "")
    cls = getattr(diffusers, name, None)
    if not why and not (isinstance(cls, type) and issubclass(cls, diffusers.DiffusionPipeline)):
        why = f"diffusers {diffusers.__version__} has no such pipeline"
    elif not why and not hasattr(cls, "encode_prompt"):
        why = "it has no encode_prompt, which is where noise enters"
    if why:
        raise ValueError(
            f"source = {named(source)}: is a {name}, which is not supported: {why}; must be a text-to-image pipeline with "
            "encode_prompt"
        )
    return cls


def check_folder(folder: Path, source: str | Path | None, parts: Sequence[str]) -> None:
    """Refuses a folder of which a part is missing or cannot be loaded.

    Raises:
        FileNotFoundError, ValueError: as `check_index`; or a part, or its weights, are not there.
    """
    index = folder / INDEX
    if not index.is_file():
        raise FileNotFoundError(f"source = {named(source)}: is not a pipeline folder; looked for {index.absolute()}")
    check_index(index, source, parts)
    for part in parts:
        inside = folder / part
        if not inside.is_dir():
            raise FileNotFoundError(f"source = {named(source)}: {part} is missing; looked for {inside.absolute()}")
        if PARTS[part][1]:
            check_weights(inside, part, source)


def check_weights(inside: Path, part: str, source: str | Path | None) -> None:
    """Refuses a part's folder without safetensors.

    Raises:
        FileNotFoundError, ValueError: there are no weights, or pickled ones alone.
    """
    files = [f.name for f in inside.iterdir()]
    if any(name.endswith(".safetensors") for name in files):
        return
    if any(name.endswith(PICKLED) for name in files):
        raise ValueError(f"source = {named(source)}: {refusal(part)}")
    raise FileNotFoundError(
        f"source = {named(source)}: no weights for {part}; looked for {(inside / '*.safetensors').absolute()} (a hub id "
        "may have them as a variant alone: variant=, --variant fp16)"
    )


def read_index(path: Path, source: str | Path | None) -> dict[str, Any]:
    """What an index holds, which names a class.

    Raises:
        FileNotFoundError, ValueError: there is none, or it is damaged, or brings code of its own.
    """
    if not path.is_file():
        raise FileNotFoundError(f"source = {named(source)}: is not a pipeline folder; looked for {path.absolute()}")
    try:
        index = _files.read_json(path)
    except ValueError as error:
        raise ValueError(f"source = {named(source)}: {path} is not JSON ({error})") from error
    family = index.get("_class_name")
    if not isinstance(family, str):
        raise ValueError(
            f"source = {named(source)}: {INDEX} names the pipeline {family!r}; must be a class of diffusers, such as "
            "'StableDiffusionPipeline' (a pipeline that brings its own code is refused)"
        )
    return index


def check_index(path: Path, source: str | Path | None, parts: Sequence[str]) -> dict[str, Any]:
    """Refuses an index of which something cannot be loaded; `parts`: of a pipeline with one CLIP text encoder."""
    index = read_index(path, source)
    family: str = index["_class_name"]
    libraries: tuple[str | None, ...] = _LIBRARIES
    if family != "StableDiffusionPipeline":
        with quiet_libraries():
            class_named(family, source)
            libraries = (*_LIBRARIES, *_own_packages())
        if family not in CLIP_PIPELINES and tuple(parts) == TEXT_PARTS:
            raise ValueError(
                f"source = {named(source)}: is a {family}, of which the text encoder cannot be had alone; must be a Stable "
                "Diffusion 1.x or 2.x pipeline. load_pipeline loads it whole, and certify.defend defends it"
            )
        parts = parts if tuple(parts) == TEXT_PARTS else ()
    for part, entry in index.items():
        if part.startswith("_") or not isinstance(entry, list) or len(entry) != 2:
            continue
        library, name = entry
        if not isinstance(library, str | None) or library not in libraries:
            raise ValueError(
                f"source = {named(source)}: {part} comes from {library!r}, code outside transformers and diffusers, "
                "which is never run; must come from one of these two"
            )
        classes = PARTS[part][0] if part in parts else ()
        if classes and name not in classes:
            raise ValueError(f"source = {named(source)}: {part} is a {name}, must be a {' or '.join(classes)}")
    return index


def _own_packages() -> tuple[str, ...]:
    """Packages of diffusers' pipelines, some of which have parts of their own."""
    import diffusers

    return tuple(module.name for module in pkgutil.iter_modules(diffusers.pipelines.__path__))


def named(source: str | Path | None) -> str:
    """A source in an error: quoted, or that it is the embedded model."""
    return "None (the embedded model)" if source is None else repr(str(source))


def refusal(part: str) -> str:
    """Why pickled weights are refused, and what to do."""
    return (
        f"the weights of {part} are pickled, which is refused because loading a pickle can run code; must be safetensors. "
        "To convert a model that you trust, once: diffusers.StableDiffusionPipeline.from_pretrained(FOLDER, "
        "use_safetensors=False).save_pretrained(NEW_FOLDER, safe_serialization=True). If it has its safetensors as a variant: "
        "variant=, --variant"
    )
