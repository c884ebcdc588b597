"""Certificates: claims with their provenance, kept so that somebody else can read, load and check them.

    a certificate, its claims and its files     certificate.py
    one claim                                   claim.py
    a claim as JSON, field by field             schema.py
    where claims come from                      provenance.py
    fresh draws against claims                  check.py
    a claim in words, its tokens                words.py, tokens.py

**A new kind of claim.** Its result derives from `certify.bounds.statement.Result` (of a distance, from `Distance`; of K copies,
from `certify.bounds.copies.OfCopies`) and says in `stated` what its claim says; its `Evidence`, of a kind of its own, goes into
`certify.bounds.EVIDENCE`. Its quantity gets a line in `schema.KINDS`, which is what files are read and claims are checked by,
and its sentence in `words`. If its evidence has numbers called q, replicas, side or smoother, the claim must state the same;
what else must agree is said in `check`. Who asks for it is a `certify.statements.questions.Question`, if its draws are shared.

A claim and its certificate load when one of these names is first touched: the command line has sentences to say before.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from certify.certificate.certificate import SCHEMA_VERSION, Certificate
    from certify.certificate.check import CheckReport, Verdict
    from certify.certificate.claim import Claim, ClaimedCurve, ClaimedEvent, ClaimedMean
    from certify.certificate.provenance import ModelRecord

_LAZY = {
    **dict.fromkeys(("SCHEMA_VERSION", "Certificate"), "certificate"),
    **dict.fromkeys(("CheckReport", "Verdict"), "check"),
    **dict.fromkeys(("Claim", "ClaimedCurve", "ClaimedEvent", "ClaimedMean"), "claim"),
    "ModelRecord": "provenance",
}

__all__ = [
    "SCHEMA_VERSION",
    "Certificate",
    "CheckReport",
    "Claim",
    "ClaimedCurve",
    "ClaimedEvent",
    "ClaimedMean",
    "ModelRecord",
    "Verdict",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
