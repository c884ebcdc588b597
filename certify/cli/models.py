"""The model that a command runs: where, and whether it is the one that a certificate is about."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from certify.certificate import Certificate


def device_of(device: str | None) -> str:
    """The device asked for, else a GPU where there is one."""
    import torch

    if device is None and torch.cuda.is_available():
        return f"cuda:{torch.cuda.current_device()}"  # of several processes, each its own
    return device or "cpu"


def compare_weights(certificate: Certificate, parts: dict[str, Any], *, others: bool = False) -> None:
    """Holds a model's weights against those that a certificate is about.

    Args:
        certificate: its record may name a pipeline's parts, or one module, which for a prompt is the text encoder.
        parts: of the model that was loaded, by these names.
        others: whether the record may name parts that are not there, of which nothing is going to be checked.

    Raises:
        ValueError: a part is another one or not there, or the record names none of those that are.
    """
    from certify.models import fingerprint

    digests = (certificate.provenance.get("model") or {}).get("sha256") or {}
    asked = [name for name in digests if name in parts or not others]
    for name in asked:
        if parts.get(name) is None or fingerprint(parts[name]) != digests[name]:
            part = "text encoder" if name == "module" else name.replace("_", " ")
            raise ValueError(f"the {part} is not the one that this certificate is about: its SHA-256 differs")
    if not asked:
        raise ValueError(
            f"the certificate is about {', '.join(digests) or 'no weights on record'}: must be about this model"
        )
