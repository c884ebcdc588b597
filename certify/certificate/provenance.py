"""Provenance: where claims come from, apart from them: dates, seeds, versions, hashes.

"The same seed, the same certificate" is about claims; what stands here may differ.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import torch

from certify import _files, _validate
from certify._digests import tensor_digest
from certify._records import Record
from certify.bounds import Run
from certify.certificate.claim import Claim
from certify.montecarlo.streams import VERSION
from certify.statements.drawing import AskOptions

if TYPE_CHECKING:
    from certify.models.overlay import Overlay

__all__ = ["ModelRecord", "checked_provenance", "provenance_from", "provenance_of"]

_OWN = (
    "created",
    "seed",
    "streams",
    "pilot",
    "dtype",
    "device",
    "input_sha256",
    "input_shape",
    "noise",
    "versions",
    "model",
)
"""What is put on record anyway."""
_ELSEWHERE_SAID = ("quantity", "smoother")
"""Names of a claim's own that are a record's, too: what a prompt's certificate is about, and the smoother's settings."""


@dataclass(frozen=True)
class ModelRecord(Record):
    """Which weights a certificate is about. Computed once where one model gets many certificates and is left unchanged.

    Attributes:
        kind: the class's name, or "plain callable".
        sha256: digests over the named tensors of the parts; None: there are none.
        overlays: what was laid over parts after they were loaded: how many of their tensors it changed.
    """

    kind: str
    sha256: Mapping[str, str] | None
    overlays: Mapping[str, Overlay] = field(default_factory=dict)

    @classmethod
    def of(cls, model: Any) -> ModelRecord:
        """The record of a module, of a pipeline's modules, or None: of a plain callable. A record is returned as it is."""
        from certify.models.fingerprint import fingerprint
        from certify.models.overlay import overlay_on

        if isinstance(model, ModelRecord):
            return model
        if model is None:
            return cls("plain callable", None)
        parts = {k: v for k, v in getattr(model, "components", {}).items() if isinstance(v, torch.nn.Module)}
        if isinstance(model, torch.nn.Module):
            parts = {"module": model}
        overlays = {name: over for name, part in sorted(parts.items()) if (over := overlay_on(part)) is not None}
        digests = {name: fingerprint(part) for name, part in sorted(parts.items())} or None
        return cls(type(model).__name__, digests, overlays)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        over = {"overlays": {name: over.to_dict() for name, over in self.overlays.items()}} if self.overlays else {}
        return {"kind": self.kind, "sha256": None if self.sha256 is None else dict(self.sha256), **over}


def provenance_of(run: Run, pilot: int, model: Any, further: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a run.

    Args:
        run: the run; pilot: the most pilot draws of any claim.
        model: as in `Certificate.of`.
        further: what the caller adds (`checked_provenance`).
    """
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": run.seed,
        "streams": VERSION,
        "pilot": pilot,
        "dtype": run.dtype,
        "device": run.device,
        "input_sha256": tensor_digest(run.y),
        "input_shape": list(run.y.shape),
        "noise": type(run.noise).__name__,
        "versions": _versions(),
        "model": ModelRecord.of(model).to_dict(),
        **further,
    }


def provenance_from(record: Any) -> dict[str, Any]:
    """A provenance whose entries are what they are taken for, where they are there.

    Raises:
        ValueError: one is something else.
    """
    if not isinstance(record, dict):
        raise ValueError(f"provenance is a {type(record).__name__}: must be an object")
    for name, (fits, what) in _ON_RECORD.items():
        if name in record and not fits(record[name]):
            raise ValueError(f"provenance has {name} = {record[name]!r}: must be {what}")
    return record


def checked_provenance(given: Any, taken: Iterable[str] = ()) -> dict[str, Any]:
    """What a caller wants on record beside what is put there anyway.

    Args:
        given: a mapping of names to JSON values; None: nothing.
        taken: names that say what was run, and which a caller has no say in, beside those of every certificate, of a claim, and
            of what can be asked.

    Raises:
        TypeError, ValueError: it is no mapping, it holds something else than JSON values, or one of these names.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise TypeError(f"provenance = {given!r}: must be a mapping of names to JSON values")
    reserved = {*_OWN, *taken, *(_said_by_claims() - set(_ELSEWHERE_SAID))}
    for name in given:
        if name in reserved:
            raise ValueError(f"provenance names {name!r}: must be another name, that one says what was really run")
    try:
        _files.json_value(json.dumps(dict(given), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise type(error)(f"provenance = {given!r}: must be JSON values ({error})") from error
    return dict(given)


def _said_by_claims() -> set[str]:
    """Names of what a claim says, or an option decides, by whatever name it goes."""
    alike = {name for name, here in _validate.ELSEWHERE.items() for name in (name, *here)}
    own = {"certify", "claims", "guidance", "model_sha256", "schema_version", "steps", "tensors"}
    return {*(field.name for field in fields(Claim)), *AskOptions.__annotations__, *alike, *own}


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version(), "torch": torch.__version__}
    for name in ("certify", "numpy", "transformers", "diffusers", "scipy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _is_model(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("kind"), str):
        return False
    digests, overlays = value.get("sha256"), value.get("overlays", {})
    if not isinstance(overlays, dict) or not all(isinstance(overlay, dict) for overlay in overlays.values()):
        return False
    return digests is None or (isinstance(digests, dict) and all(isinstance(d, str) for d in digests.values()))


def _is_source(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    named = all(isinstance(value.get(n), str | None) for n in ("model", "unet", "text_encoder", "variant"))
    concepts = value.get("concepts") or []
    return named and isinstance(concepts, list) and all(isinstance(concept, str) for concept in concepts)


def _is_cut(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    tokens, kept = (value.get(name) for name in ("tokens", "kept"))
    return type(tokens) is int and type(kept) is int and 0 < kept < tokens


_WHOLE = (lambda v: type(v) is int and v >= 0), "a whole number >= 0"
_TEXT = (lambda v: isinstance(v, str)), "a string"
_TEXT_OR_NULL = (lambda v: isinstance(v, str | None)), "a string or null"
_ON_RECORD: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("seed", "streams", "pilot"), _WHOLE),
    **dict.fromkeys(("dtype", "device", "noise"), _TEXT),
    **dict.fromkeys(("input_sha256", "prompt"), _TEXT_OR_NULL),
    "model": (_is_model, "an object with kind, a string, and sha256, null or strings by name"),
    "source": (_is_source, "an object of strings or null, and concepts, a list of strings"),
    "smoother": (lambda v: isinstance(v, dict), "an object"),
    "truncated": (_is_cut, "an object with tokens and kept, whole numbers, kept > 0 the smaller one"),
}
"""What `check` and the command line take from a provenance."""
