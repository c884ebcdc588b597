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

import pkgutil
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from certify import _files, _validate
from certify.models import weight_files
from certify.models.quiet import quiet_libraries
from certify.models.text import PromptEncoder
from certify.models.text_encoder import overlay_text_encoder
from certify.models.unet import overlay_denoiser

__all__ = ["CLIP_PIPELINES", "load_pipeline", "load_text_encoder", "pipeline_class"]

_INDEX = "model_index.json"
_EMBEDDED = Path(__file__).resolve().parents[1] / "world" / "pipeline"
"""The embedded pipeline: `certify.world.path()`, which stands above the models."""

_PICKLED = (".bin", ".ckpt", ".pt", ".pth", ".msgpack", ".h5")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")

# Every part's class and, for those with weights, that they must be there as safetensors.
_PARTS: dict[str, tuple[tuple[str, ...], bool]] = {
    "tokenizer": (("CLIPTokenizer", "CLIPTokenizerFast"), False),
    "text_encoder": (("CLIPTextModel",), True),
    "unet": (("UNet2DConditionModel",), True),
    "vae": (("AutoencoderKL",), True),
    "scheduler": ((), False),
}
_STEMS = {"text_encoder": "model", "unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model"}
_TEXT_PARTS = ("tokenizer", "text_encoder")
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
        folder = _download_pipeline(str(source), revision, variant, cache_dir, local_files_only)
    index = _check_index(folder / _INDEX, source, tuple(_PARTS))
    if index["_class_name"] != "StableDiffusionPipeline":
        pipe = _load_any(folder, source, index, variant, target)
        _overlaid(pipe, put, text_encoder, variant)
        return pipe.to(place)
    _check_folder(folder, source, tuple(_PARTS))
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
                safety_checker=None,
                feature_extractor=None,
                image_encoder=None,
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

        cls = _pipeline_class(index["_class_name"], source)
        parts: dict[str, Any] = {}
        for name, (library, kind) in _components(index).items():
            part = _part_class(library, kind)
            if part is None or not hasattr(part, "from_pretrained"):
                raise ValueError(
                    f"source = {_name(source)}: {name} is a {library}.{kind}, which is not there; is it newer?"
                )
            if kind == "AutoModel" or (library == "transformers" and kind.startswith("Auto")):
                raise ValueError(
                    f"source = {_name(source)}: {name} is an {kind}, which may bring code of its own; must be a class by name"
                )
            inside = folder / name
            if not inside.is_dir():
                raise FileNotFoundError(f"source = {_name(source)}: {name} is missing; looked for {inside.absolute()}")
            if isinstance(part, type) and issubclass(part, torch.nn.Module):
                _check_weights(inside, name, source)
                of_diffusers = issubclass(part, diffusers.ModelMixin)
                stem = "diffusion_pytorch_model" if of_diffusers else "model"
                how = {} if of_diffusers else {"dtype": dtype}
                parts[name] = _load_part(part, folder, name, source, variant, stem, **how)
                if of_diffusers and dtype != torch.float32:  # it loads into float32
                    parts[name].to(dtype)
        left_out = {name: None for name in ("safety_checker", "feature_extractor", "image_encoder") if name in index}
        if "requires_safety_checker" in index:
            left_out["requires_safety_checker"] = False  # type: ignore[assignment]
        try:
            return cls.from_pretrained(folder, **{**parts, **left_out}, local_files_only=True, trust_remote_code=False)
        except OSError as error:
            raise _unreadable(source, folder, variant, error) from error


def _components(index: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Parts that are there, as (library, class); those that are never loaded are left out."""
    left_out = ("safety_checker", "feature_extractor", "image_encoder")
    return {
        name: (str(entry[0]), str(entry[1]))
        for name, entry in index.items()
        if isinstance(entry, list) and len(entry) == 2 and None not in entry and name not in left_out
    }


def _part_class(library: str, name: str) -> Any:
    """A class of transformers, of diffusers, or of one of diffusers' pipelines; None: there is none of the name."""
    import diffusers
    import transformers

    own = {"transformers": transformers, "diffusers": diffusers}
    return getattr(own.get(library) or getattr(diffusers.pipelines, library, None), name, None)


def _pipeline_class(name: str, source: str | Path | None) -> Any:
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
            f"source = {_name(source)}: is a {name}, which is not supported: {why}; must be a text-to-image pipeline with "
            "encode_prompt"
        )
    return cls


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
    if folder is not None:
        return str(_index(folder / _INDEX, source)["_class_name"])
    from huggingface_hub import hf_hub_download

    path = hf_hub_download(
        str(source), _INDEX, revision=revision, cache_dir=cache_dir, local_files_only=local_files_only
    )
    return str(_index(Path(path), source)["_class_name"])


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
        folder = _download_text(str(source), revision, variant, cache_dir, local_files_only)
    _check_folder(folder, source, _TEXT_PARTS)
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
    variant = _variant(folder / part, part, source, variant, stem or _STEMS[part])
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
            f"source = {_name(source)}: {part} is a {cls.__name__}, which diffusers loads with accelerate alone: install it"
        ) from error
    for problem in ("missing_keys", "mismatched_keys"):
        if report[problem]:
            raise ValueError(
                f"source = {_name(source)}: the weights of {part} do not fit its configuration, {len(report[problem])} "
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
    if "" in there and any(asked in weight_files.variants(p, s) for p in others for s in set(_STEMS.values())):
        return None  # a variant of other parts; this one is there as it is alone
    names = ", ".join(repr(name) for name in sorted(there) if name)
    plain = "the plain files (no variant)" if "" in there else ""
    raise ValueError(
        f"source = {_name(source)}: variant = {asked!r}, of which {part} has no weights; must be one of "
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
        if folder.suffix in _PICKLED:
            raise ValueError(f"source = {str(source)!r}: {_refusal('the pipeline')}")
        raise ValueError(
            f"source = {str(source)!r}: is a file; must be a folder with {_INDEX} or a hub id "
            "(a U-Net alone goes into unet=)"
        )
    if not isinstance(source, str) or not _HUB_ID.fullmatch(source):
        raise FileNotFoundError(f"source = {str(source)!r}: no such folder; looked for {(folder / _INDEX).absolute()}")
    with quiet_libraries(diffusers=False):
        from huggingface_hub import hf_hub_download

        try:
            index = hf_hub_download(
                source, _INDEX, revision=revision, cache_dir=cache_dir, local_files_only=local_files_only
            )
        except Exception as error:  # the hub's client lets its transport's own exceptions through
            raise _unreachable(source, error) from error
    _check_index(Path(index), source, tuple(_PARTS))
    return None


def _download_pipeline(
    source: str, revision: str | None, variant: str | None, cache_dir: str | Path | None, local_files_only: bool
) -> Path:
    with quiet_libraries():
        from diffusers import DiffusionPipeline
    how: dict[str, Any] = {"revision": revision, "cache_dir": cache_dir, "local_files_only": local_files_only}
    without = dict.fromkeys(("safety_checker", "feature_extractor", "image_encoder"))
    try:  # outside the quiet block: a download of gigabytes shows its progress
        return Path(DiffusionPipeline.download(source, variant=variant, use_safetensors=True, **how, **without))
    except Exception as error:  # as above
        only = (
            _only_variant(source, revision) if _lacks_safetensors(error) and not (variant or local_files_only) else None
        )
        if only is None:
            raise _unreachable(source, error) from error
    return _download_pipeline(source, revision, only, cache_dir, local_files_only)


def _download_text(
    source: str, revision: str | None, variant: str | None, cache_dir: str | Path | None, local_files_only: bool
) -> Path:
    from huggingface_hub import snapshot_download

    suffix = f".{variant}" if variant else ""
    try:
        folder = Path(
            snapshot_download(
                source,
                revision=revision,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
                allow_patterns=[
                    _INDEX,
                    "tokenizer/*",
                    "text_encoder/*.json",
                    f"text_encoder/model{suffix}.safetensors",
                    f"text_encoder/model{suffix}-*-of-*.safetensors",
                ],
            )
        )
    except Exception as error:  # as above
        raise _unreachable(source, error) from error
    if variant or local_files_only or list(folder.glob("text_encoder/*.safetensors")):
        return folder
    only = _only_variant(source, revision)
    return folder if only is None else _download_text(source, revision, only, cache_dir, local_files_only)


def _only_variant(source: str, revision: str | None) -> str | None:
    """The variant under which alone a hub id has the weights of its text encoder; None: it has others, or does not say."""
    from huggingface_hub import list_repo_files

    try:
        names = [Path(name) for name in list_repo_files(source, revision=revision)]
    except Exception:  # as above; what is said then is what failed before
        return None
    found = weight_files.variants_of(names, _STEMS["text_encoder"], Path("text_encoder"))
    return next(iter(found)) if len(found) == 1 and "" not in found else None


def _check_folder(folder: Path, source: str | Path | None, parts: Sequence[str]) -> None:
    index = folder / _INDEX
    if not index.is_file():
        raise FileNotFoundError(f"source = {_name(source)}: is not a pipeline folder; looked for {index.absolute()}")
    _check_index(index, source, parts)
    for part in parts:
        inside = folder / part
        if not inside.is_dir():
            raise FileNotFoundError(f"source = {_name(source)}: {part} is missing; looked for {inside.absolute()}")
        if _PARTS[part][1]:
            _check_weights(inside, part, source)


def _check_weights(inside: Path, part: str, source: str | Path | None) -> None:
    files = [f.name for f in inside.iterdir()]
    if any(name.endswith(".safetensors") for name in files):
        return
    if any(name.endswith(_PICKLED) for name in files):
        raise ValueError(f"source = {_name(source)}: {_refusal(part)}")
    raise FileNotFoundError(
        f"source = {_name(source)}: no weights for {part}; looked for {(inside / '*.safetensors').absolute()} (a hub id "
        "may have them as a variant alone: variant=, --variant fp16)"
    )


def _index(path: Path, source: str | Path | None) -> dict[str, Any]:
    """What an index holds, which names a class.

    Raises:
        FileNotFoundError, ValueError: there is none, or it is damaged, or brings code of its own.
    """
    if not path.is_file():
        raise FileNotFoundError(f"source = {_name(source)}: is not a pipeline folder; looked for {path.absolute()}")
    try:
        index = _files.read_json(path)
    except ValueError as error:
        raise ValueError(f"source = {_name(source)}: {path} is not JSON ({error})") from error
    family = index.get("_class_name")
    if not isinstance(family, str):
        raise ValueError(
            f"source = {_name(source)}: {_INDEX} names the pipeline {family!r}; must be a class of diffusers, such as "
            "'StableDiffusionPipeline' (a pipeline that brings its own code is refused)"
        )
    return index


def _check_index(path: Path, source: str | Path | None, parts: Sequence[str]) -> dict[str, Any]:
    """Refuses an index of which something cannot be loaded; `parts`: of a pipeline with one CLIP text encoder."""
    index = _index(path, source)
    family: str = index["_class_name"]
    libraries: tuple[str | None, ...] = _LIBRARIES
    if family != "StableDiffusionPipeline":
        with quiet_libraries():
            _pipeline_class(family, source)
            libraries = (*_LIBRARIES, *_own_packages())
        if family not in CLIP_PIPELINES and tuple(parts) == _TEXT_PARTS:
            raise ValueError(
                f"source = {_name(source)}: is a {family}, of which the text encoder cannot be had alone; must be a Stable "
                "Diffusion 1.x or 2.x pipeline. load_pipeline loads it whole, and certify.defend defends it"
            )
        parts = parts if tuple(parts) == _TEXT_PARTS else ()
    for part, entry in index.items():
        if part.startswith("_") or not isinstance(entry, list) or len(entry) != 2:
            continue
        library, name = entry
        if not isinstance(library, str | None) or library not in libraries:
            raise ValueError(
                f"source = {_name(source)}: {part} comes from {library!r}, code outside transformers and diffusers, "
                "which is never run; must come from one of these two"
            )
        classes = _PARTS[part][0] if part in parts else ()
        if classes and name not in classes:
            raise ValueError(f"source = {_name(source)}: {part} is a {name}, must be a {' or '.join(classes)}")
    return index


def _own_packages() -> tuple[str, ...]:
    """Packages of diffusers' pipelines, some of which have parts of their own."""
    import diffusers

    return tuple(module.name for module in pkgutil.iter_modules(diffusers.pipelines.__path__))


def _name(source: str | Path | None) -> str:
    return "None (the embedded model)" if source is None else repr(str(source))


def _refusal(part: str) -> str:
    return (
        f"the weights of {part} are pickled, which is refused because loading a pickle can run code; must be safetensors. "
        "To convert a model that you trust, once: diffusers.StableDiffusionPipeline.from_pretrained(FOLDER, "
        "use_safetensors=False).save_pretrained(NEW_FOLDER, safe_serialization=True). If it has its safetensors as a variant: "
        "variant=, --variant"
    )


def _lacks_safetensors(error: Exception) -> bool:
    return "safetensors" in str(error) and "could not find" in str(error).lower()


def _unreachable(source: str, error: Exception) -> FileNotFoundError | ValueError:
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    if _lacks_safetensors(error):
        return ValueError(f"source = {source!r}: {_refusal('some part')}")
    return FileNotFoundError(
        f"source = {source!r}: there is no such folder ({Path(source).absolute()}), and as a hub id it could not be "
        f"fetched ({type(error).__name__}: {first}); must be a pipeline folder, or a hub id that this machine can reach, "
        "may read, or has in its cache (where it has its weights as a variant alone: variant=, --variant fp16)"
    )


def _unreadable(source: str | Path | None, folder: Path, variant: str | None, error: OSError) -> FileNotFoundError:
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return FileNotFoundError(
        f"source = {_name(source)}: could not be loaded from {folder.absolute()} with variant={variant!r} ({first}); "
        "the weight files must carry the variant's name, if any"
    )
