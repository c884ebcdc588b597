"""Certificates: claims with their provenance, kept so that somebody else can read, load and check them.

a certificate, its claims, its files     certificate.py
a claim in words                         words.py
"""

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
