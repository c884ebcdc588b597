"""Loading: a text-to-image pipeline from the embedded model, a folder or the hub, and nothing pickled.

A pipeline folder is `model_index.json` and one folder a part. The index is read first: it says which class the pipeline is of
and whether it brings code of its own. What is loaded: any text-to-image pipeline of diffusers that encodes prompts by
`encode_prompt`, its parts of transformers and diffusers, as safetensors, without remote code and without a safety checker.

Stable Diffusion 1.x and 2.x (one CLIP text encoder whose encoding alone conditions the U-Net) is known part by part, before any
library is imported, and its text encoder can be had alone. It is brought to one dtype after loading: transformers keeps the
dtype that a file has and diffusers does not, so half-precision files would otherwise give a text encoder and a U-Net that
cannot talk to each other. Of other families the libraries choose parts that stay in float32 (T5's), and are left to it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from certify import _files, _validate
from certify.models import weight_files
from certify.models.hub import download_index, download_pipeline, download_text
from certify.models.index import (
    INDEX,
    NOT_LOADED,
    PARTS,
    PICKLED,
    STEMS,
    TEXT_PARTS,
    check_folder,
    check_index,
    check_weights,
    class_named,
    named,
    read_index,
    refusal,
)
from certify.models.quiet import quiet_libraries
from certify.models.text import PromptEncoder
from certify.models.text_encoder import overlay_text_encoder
from certify.models.unet import overlay_denoiser

__all__ = ["load_pipeline", "load_text_encoder", "pipeline_class"]

_EMBEDDED = Path(__file__).resolve().parents[1] / "world" / "pipeline"
"""The embedded pipeline: `certify.world.path()`, which stands above the models."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@_validate.suggests()
def load_pipeline(
    source: str | Path | None = None,
    *,
    weights: str | Path | Mapping[str, Tensor] | None = None,
    unet: str | Path | Mapping[str, Tensor] | None = None,
    text_encoder: str | Path | Mapping[str, Tensor] | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    revision: str | None = None,
    variant: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Any:
    """A text-to-image pipeline, ready to run.

    Args:
        source: None: the embedded model; a folder; or a hub id such as "CompVis/stable-diffusion-v1-4".
        weights: an unlearned denoiser, U-Net or transformer, to put on top of the base: a state dict, a folder, a LoRA
            (`overlay_unet` says what it may be; `overlay_of(pipe)` what was replaced).
        unet: the same, by the name that it has in Stable Diffusion.
        text_encoder: an unlearned text encoder to put on top of the base (`overlay_text_encoder`, `text_overlay_of`).
        device: where to; None: the CPU.
        dtype: of every part, a torch dtype or its name; None: float32. Parts of other families than Stable Diffusion 1.x and
            2.x that their library keeps in float32 stay so.
        revision: of a hub id: branch, tag or commit.
        variant: of the weight files, "fp16" for `*.fp16.safetensors`; None: the plain ones, and where a part of a folder has
            none of them, the only variant that it has. Of an overlay's folder, whatever variant is present is taken.
        cache_dir: where hub files are kept; None: the hub library's default.
        local_files_only: never reach for the hub: take what its cache has.

    Returns:
        A pipeline of the class that its index names (`diffusers.StableDiffusionPipeline`, `FluxPipeline`, …) with its own
        scheduler, in evaluation mode, without a safety checker.

    Raises:
        FileNotFoundError: no such folder, a part of it is missing, or the hub does not have or does not give it.
        ValueError: no text-to-image pipeline of diffusers, code in the folder, pickled weights only, or an overlay that does
            not fit.
        TypeError: `weights` and `unet` are both given.
    """
    if weights is not None and unet is not None:
        raise TypeError("weights and unet are both given: must be one of them, they are the same")
    put = unet if weights is None else weights
    target, place = _dtype(dtype), _validate.device("device", device or "cpu")
    folder = _resolve(source, revision, cache_dir, local_files_only)
    if folder is None:
        folder = download_pipeline(str(source), revision, variant, cache_dir, local_files_only)
    index = check_index(folder / INDEX, source, tuple(PARTS))
    if index["_class_name"] != "StableDiffusionPipeline":
        pipe = _load_any(folder, source, index, variant, target)
        _overlaid(pipe, put, text_encoder, variant)
        return pipe.to(place)
    check_folder(folder, source, tuple(PARTS))
    with quiet_libraries():
        from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
        from transformers import CLIPTextModel

        classes = {"text_encoder": CLIPTextModel, "unet": UNet2DConditionModel, "vae": AutoencoderKL}
        parts = {name: _load_part(cls, folder, name, source, variant) for name, cls in classes.items()}
        try:
            pipe = StableDiffusionPipeline.from_pretrained(
                folder,
                **parts,
                local_files_only=True,
                **dict.fromkeys(NOT_LOADED),
                requires_safety_checker=False,
            )
        except OSError as error:
            raise _unreadable(source, folder, variant, error) from error
        _overlaid(pipe, put, text_encoder, variant)
        pipe.to(device=place, dtype=target)
    return pipe


def _overlaid(pipe: Any, weights: Any, text_encoder: Any, variant: str | None) -> None:
    if weights is not None:
        overlay_denoiser(pipe, weights, variant=variant)
    if text_encoder is not None:
        overlay_text_encoder(pipe.text_encoder, text_encoder, variant=variant)


def _load_any(
    folder: Path, source: str | Path | None, index: Mapping[str, Any], variant: str | None, dtype: torch.dtype
) -> Any:
    """A pipeline of any class, whose parts are loaded whole, one by one."""
    with quiet_libraries():
        import diffusers

        cls = class_named(index["_class_name"], source)
        parts: dict[str, Any] = {}
        for name, (library, kind) in _components(index).items():
            part = _part_class(library, kind)
            if part is None or not hasattr(part, "from_pretrained"):
                raise ValueError(
                    f"source = {named(source)}: {name} is a {library}.{kind}, which is not there; is it newer?"
                )
            if kind == "AutoModel" or (library == "transformers" and kind.startswith("Auto")):
                raise ValueError(
                    f"source = {named(source)}: {name} is an {kind}, which may bring code of its own; must be a class by name"
                )
            inside = folder / name
            if not inside.is_dir():
                raise FileNotFoundError(f"source = {named(source)}: {name} is missing; looked for {inside.absolute()}")
            if isinstance(part, type) and issubclass(part, torch.nn.Module):
                check_weights(inside, name, source)
                of_diffusers = issubclass(part, diffusers.ModelMixin)
                stem = "diffusion_pytorch_model" if of_diffusers else "model"
                how = {} if of_diffusers else {"dtype": dtype}
                parts[name] = _load_part(part, folder, name, source, variant, stem, **how)
                if of_diffusers and dtype != torch.float32:  # it loads into float32
                    parts[name].to(dtype)
        left_out = {name: None for name in NOT_LOADED if name in index}
        if "requires_safety_checker" in index:
            left_out["requires_safety_checker"] = False  # type: ignore[assignment]
        try:
            return cls.from_pretrained(folder, **{**parts, **left_out}, local_files_only=True, trust_remote_code=False)
        except OSError as error:
            raise _unreadable(source, folder, variant, error) from error


def _components(index: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Parts that are there, as (library, class); those that are never loaded are left out."""
    return {
        name: (str(entry[0]), str(entry[1]))
        for name, entry in index.items()
        if isinstance(entry, list) and len(entry) == 2 and None not in entry and name not in NOT_LOADED
    }


def _part_class(library: str, name: str) -> Any:
    """A class of transformers, of diffusers, or of one of diffusers' pipelines; None: there is none of the name."""
    import diffusers
    import transformers

    own = {"transformers": transformers, "diffusers": diffusers}
    return getattr(own.get(library) or getattr(diffusers.pipelines, library, None), name, None)


def pipeline_class(
    source: str | Path | None,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> str:
    """The name of the class that a pipeline's index says it is of. Nothing else is read.

    Raises:
        FileNotFoundError, ValueError: as `load_pipeline`.
    """
    folder = _resolve(source, revision, cache_dir, local_files_only)
    index = download_index(str(source), revision, cache_dir, local_files_only) if folder is None else folder / INDEX
    return str(read_index(index, source)["_class_name"])


def load_text_encoder(
    source: str | Path | None = None,
    *,
    text_encoder: str | Path | Mapping[str, Tensor] | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    revision: str | None = None,
    variant: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> PromptEncoder:
    """The tokenizer and text encoder of a pipeline alone: all that a statement about encodings needs.

    Neither diffusers nor the U-Net's weights are touched. Arguments and errors are those of `load_pipeline`.

    Returns:
        A `PromptEncoder`.
    """
    target, place = _dtype(dtype), _validate.device("device", device or "cpu")
    folder = _resolve(source, revision, cache_dir, local_files_only)
    if folder is None:
        folder = download_text(str(source), revision, variant, cache_dir, local_files_only)
    check_folder(folder, source, TEXT_PARTS)
    with quiet_libraries(diffusers=False):
        from transformers import CLIPTextModel, CLIPTokenizer

        try:
            tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
        except OSError as error:
            raise _unreadable(source, folder, variant, error) from error
        base = _load_part(CLIPTextModel, folder, "text_encoder", source, variant)
        if text_encoder is not None:
            overlay_text_encoder(base, text_encoder, variant=variant)
        base.to(device=place, dtype=target)
    return PromptEncoder(tokenizer, base)


def _load_part(
    cls: Any,
    folder: Path,
    part: str,
    source: str | Path | None,
    variant: str | None,
    stem: str | None = None,
    **how: Any,
) -> Any:
    """One part, whole. The libraries fill up what a file lacks with random numbers and merely log it."""
    variant = _variant(folder / part, part, source, variant, stem or STEMS[part])
    try:
        with torch.random.fork_rng(devices=[]):  # models are initialised before they are loaded
            model, report = cls.from_pretrained(
                folder / part,
                variant=variant,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                **how,
            )
    except OSError as error:
        raise _unreadable(source, folder, variant, error) from error
    except ValueError as error:
        if "low_cpu_mem_usage" not in str(error):
            raise
        raise ValueError(
            f"source = {named(source)}: {part} is a {cls.__name__}, which diffusers loads with accelerate alone: install it"
        ) from error
    for problem in ("missing_keys", "mismatched_keys"):
        if report[problem]:
            raise ValueError(
                f"source = {named(source)}: the weights of {part} do not fit its configuration, {len(report[problem])} "
                f"{problem.replace('_', ' ')}, first {min(map(str, report[problem]))!r}; must be complete"
            )
    return model.eval()


def _variant(folder: Path, part: str, source: str | Path | None, asked: str | None, stem: str) -> str | None:
    """The variant of a part's weights to load: the requested one, the plain files, or the only one."""
    there = weight_files.variants(folder, stem)
    if (asked or "") in there or not there:
        return asked
    if asked is None and len(there) == 1:
        return next(iter(there))
    others = [p for p in folder.parent.iterdir() if p.is_dir() and p.name != part]
    if "" in there and any(asked in weight_files.variants(p, s) for p in others for s in set(STEMS.values())):
        return None  # a variant of other parts; this one is there as it is alone
    names = ", ".join(repr(name) for name in sorted(there) if name)
    plain = "the plain files (no variant)" if "" in there else ""
    raise ValueError(
        f"source = {named(source)}: variant = {asked!r}, of which {part} has no weights; must be one of "
        f"{' or '.join(filter(None, (names, plain)))} (variant=, --variant)"
    )


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype:
    if dtype is None:
        return torch.float32
    value = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    allowed = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    if not isinstance(value, torch.dtype) or value not in allowed:
        raise ValueError(f"dtype = {dtype!r}: must be float16, bfloat16, float32 or float64")
    return value


def _resolve(
    source: str | Path | None, revision: str | None, cache_dir: str | Path | None, local_files_only: bool
) -> Path | None:
    """The local folder that `source` names; None for a hub id, whose index has been read and is of a known family."""
    if source is None:
        return _EMBEDDED
    if not isinstance(source, (str, Path)):
        raise TypeError(f"source is a {type(source).__name__}: must be None, a folder or a hub id")
    folder = _files.user_path("source", source)
    if folder.is_dir():
        return folder
    if folder.is_file():
        if folder.suffix in PICKLED:
            raise ValueError(f"source = {str(source)!r}: {refusal('the pipeline')}")
        raise ValueError(
            f"source = {str(source)!r}: is a file; must be a folder with {INDEX} or a hub id "
            "(a U-Net alone goes into unet=)"
        )
    if not isinstance(source, str) or not _HUB_ID.fullmatch(source):
        raise FileNotFoundError(f"source = {str(source)!r}: no such folder; looked for {(folder / INDEX).absolute()}")
    check_index(download_index(source, revision, cache_dir, local_files_only), source, tuple(PARTS))
    return None


def _unreadable(source: str | Path | None, folder: Path, variant: str | None, error: OSError) -> FileNotFoundError:
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return FileNotFoundError(
        f"source = {named(source)}: could not be loaded from {folder.absolute()} with variant={variant!r} ({first}); "
        "the weight files must carry the variant's name, if any"
    )
