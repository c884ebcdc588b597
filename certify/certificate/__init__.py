"""Certificates: claims with their provenance, kept so that somebody else can read, load and check them.

a certificate, its claims, its files     certificate.py
a claim in words                         words.py

The first loads when one of its names is first touched: the command line has sentences to say before there is a claim.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from certify.certificate.certificate import (
        SCHEMA_VERSION,
        Certificate,
        CheckReport,
        Claim,
        ClaimedCurve,
        ClaimedEvent,
        ModelRecord,
        Verdict,
    )

__all__ = [
    "SCHEMA_VERSION",
    "Certificate",
    "CheckReport",
    "Claim",
    "ClaimedCurve",
    "ClaimedEvent",
    "ModelRecord",
    "Verdict",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from certify.certificate import certificate

    return getattr(certificate, name)
