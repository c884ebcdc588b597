"""The model that a command runs: where, and whether it is the one that a certificate is about."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from certify.certificate import Certificate


_TYPED = {"concepts": "concept", "unet": "weights"}


def device_of(device: str | None) -> str:
    """The requested device, else a GPU if there is one."""
    import torch

    if device is None and torch.cuda.is_available():
        return f"cuda:{torch.cuda.current_device()}"  # of several processes, each its own
    return device or "cpu"


def own_sampler(model: str | None) -> dict[str, Any]:
    """The steps and guidance that a model is sampled with where none are given."""
    from certify import world

    own = world.DEFAULTS if model is None else {"num_inference_steps": 50, "guidance_scale": 7.5}
    return {"steps": own["num_inference_steps"], "guidance": own["guidance_scale"]}


def named(certificate: Certificate, given: Mapping[str, Any], trust: bool, whole: bool = True) -> dict[str, Any]:
    """What to load for a certificate: model, unet, text_encoder, variant and concepts, None where it is the default.

    A certificate may be a stranger's, and a name in it a repository or a file of his choice. So what it names is loaded only if
    it is trusted; what the user names needs no trust, since the digests on record are compared with it.

    Args:
        certificate: names its source on record.
        given: of these what the user names; overlays need not be, where the model is.
        trust: whether what only the certificate names may be fetched and read.
        whole: whether more than the text encoder is going to be loaded.

    Raises:
        ValueError: something is named there alone.
    """
    from certify.adaptive.concepts import ships

    source = certificate.provenance.get("source") or {}
    foreign = [concept for concept in source.get("concepts") or [] if not ships(concept)]
    stated = {name: source.get(name) for name in ("model", "unet", "text_encoder", "variant")}
    stated["concepts"] = foreign or None
    if not whole:
        del stated["unet"]
    needed = ("concepts",) if given.get("model") else tuple(stated)
    alone = [name for name in needed if stated[name] and not given.get(name)]
    if alone and not trust:
        said = ", ".join(f"{_TYPED.get(name, name)} = {stated[name]!r}" for name in alone)
        options = ", ".join("--" + _TYPED.get(name, name.replace("_", "-")) for name in alone)
        raise ValueError(
            f"the certificate names {said}, which is not loaded on its word alone: give {options}, or --trust-names if you "
            "know where it comes from"
        )
    stated["concepts"] = source.get("concepts")
    taken = stated if trust else {"concepts": None if foreign else stated["concepts"]}
    return {name: given.get(name) or taken.get(name) for name in stated}


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
