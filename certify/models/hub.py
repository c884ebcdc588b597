"""Hub: pipelines and text encoders that are fetched from a model hub, as safetensors, and why one could not be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from certify.models import weight_files
from certify.models.index import INDEX, NOT_LOADED, STEMS, refusal
from certify.models.quiet import quiet_libraries

__all__ = ["download_index", "download_pipeline", "download_text", "unreachable"]


def download_index(source: str, revision: str | None, cache_dir: str | Path | None, local_files_only: bool) -> Path:
    """The local file of a pipeline's index.

    Raises:
        FileNotFoundError: see `unreachable`.
    """
    with quiet_libraries(diffusers=False):
        from huggingface_hub import hf_hub_download

        try:
            return Path(
                hf_hub_download(
                    source, INDEX, revision=revision, cache_dir=cache_dir, local_files_only=local_files_only
                )
            )
        except Exception as error:  # the hub's client lets its transport's own exceptions through
            raise unreachable(source, error) from error


def download_pipeline(
    source: str, revision: str | None, variant: str | None, cache_dir: str | Path | None, local_files_only: bool
) -> Path:
    """The local folder of a whole pipeline, without safety checker; where its weights are there as one variant alone, of that.

    Raises:
        FileNotFoundError, ValueError: see `unreachable`.
    """
    with quiet_libraries():
        from diffusers import DiffusionPipeline
    how: dict[str, Any] = {"revision": revision, "cache_dir": cache_dir, "local_files_only": local_files_only}
    without = dict.fromkeys(NOT_LOADED)
    try:  # outside the quiet block: a download of gigabytes shows its progress
        return Path(DiffusionPipeline.download(source, variant=variant, use_safetensors=True, **how, **without))
    except Exception as error:  # as above
        only = (
            _only_variant(source, revision) if _lacks_safetensors(error) and not (variant or local_files_only) else None
        )
        if only is None:
            raise unreachable(source, error) from error
    return download_pipeline(source, revision, only, cache_dir, local_files_only)


def download_text(
    source: str, revision: str | None, variant: str | None, cache_dir: str | Path | None, local_files_only: bool
) -> Path:
    """The local folder with the tokenizer and the text encoder of a pipeline; otherwise as `download_pipeline`."""
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
                    INDEX,
                    "tokenizer/*",
                    "text_encoder/*.json",
                    f"text_encoder/model{suffix}.safetensors",
                    f"text_encoder/model{suffix}-*-of-*.safetensors",
                ],
            )
        )
    except Exception as error:  # as above
        raise unreachable(source, error) from error
    if variant or local_files_only or list(folder.glob("text_encoder/*.safetensors")):
        return folder
    only = _only_variant(source, revision)
    return folder if only is None else download_text(source, revision, only, cache_dir, local_files_only)


def _only_variant(source: str, revision: str | None) -> str | None:
    """The variant under which alone a hub id has the weights of its text encoder; None: it has others, or does not say."""
    from huggingface_hub import list_repo_files

    try:
        names = [Path(name) for name in list_repo_files(source, revision=revision)]
    except Exception:  # as above; what is said then is what failed before
        return None
    found = weight_files.variants_of(names, STEMS["text_encoder"], Path("text_encoder"))
    return next(iter(found)) if len(found) == 1 and "" not in found else None


def _lacks_safetensors(error: Exception) -> bool:
    return "safetensors" in str(error) and "could not find" in str(error).lower()


def unreachable(source: str, error: Exception) -> FileNotFoundError | ValueError:
    """What to raise where a hub id could not be fetched."""
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    if _lacks_safetensors(error):
        return ValueError(f"source = {source!r}: {refusal('some part')}")
    return FileNotFoundError(
        f"source = {source!r}: there is no such folder ({Path(source).absolute()}), and as a hub id it could not be "
        f"fetched ({type(error).__name__}: {first}); must be a pipeline folder, or a hub id that this machine can reach, "
        "may read, or has in its cache (where it has its weights as a variant alone: variant=, --variant fp16)"
    )
