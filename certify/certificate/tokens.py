"""What the certificate of a prompt has on record of its tokens, for pages and figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from certify.certificate.certificate import Certificate

__all__ = ["Tokens", "tokens_by_encoder", "tokens_of"]


class Tokens(NamedTuple):
    """Of every position, in order.

    Attributes:
        names: tokens as the vocabulary spells them, or "#0", "#1", … where they are left out (`named`).
        sigma: the noise, in the unit of the token embeddings.
        relevance: to the concept; None: not scored.
        kinds: "begin", "word", "end" or "padding".
        shown: positions that are no padding without noise.
        std: the standard deviation of the token embeddings; None: not on record.
        concept: names of the concepts, or "the concept".
        named: whether the tokens are on record.
    """

    names: Sequence[str]
    sigma: Sequence[float]
    relevance: Sequence[float | None]
    kinds: Sequence[str]
    shown: Sequence[int]
    std: float | None
    concept: str
    named: bool


def tokens_of(certificate: Certificate) -> Tokens | None:
    """What a certificate has on record of tokens; None: it is not one of a prompt, or of one in several text encoders.

    Raises:
        ValueError, KeyError, TypeError: the record is damaged.
    """
    noise = certificate.provenance.get("token_noise")
    return None if noise is None else _tokens(certificate, noise, certificate.provenance.get("token_spread"))


def tokens_by_encoder(certificate: Certificate) -> list[tuple[str, Tokens]]:
    """The same of a joint certificate, for each text encoder by name.

    Raises:
        ValueError, KeyError, TypeError: the record is damaged.
    """
    about: Any = certificate.provenance.get("pipeline") or {}
    return [
        (str(noise["encoder"]), _tokens(certificate, noise, noise.get("std")))
        for noise in about.get("token_noise") or []
    ]


def _tokens(certificate: Certificate, noise: Any, std: float | None) -> Tokens:
    record: Any = certificate.provenance
    kinds, sigma, relevance = noise["kinds"], noise["sigma"], noise["relevance"]
    names = noise.get("tokens") or [f"#{i}" for i in range(len(kinds))]
    if not len(kinds) == len(names) == len(sigma) == len(relevance):
        raise ValueError("certificate: its lists of tokens have different lengths")
    shown = [i for i, kind in enumerate(kinds) if kind != "padding" or float(sigma[i]) > 0]
    concepts = (record.get("smoother") or {}).get("concepts", ())
    concept = ", ".join(str(c["name"]) for c in concepts) or "the concept"
    return Tokens([*map(str, names)], sigma, relevance, kinds, shown, std, concept, "tokens" in noise)
