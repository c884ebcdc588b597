"""The check of a certificate: fresh draws against the evidence of each claim, and each claim against its own evidence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from certify import _validate
from certify._digests import tensor_digest
from certify._records import Shown
from certify.bounds import EVIDENCE, Evidence
from certify.bounds.classification import other_limit
from certify.bounds.copies import event_interval
from certify.bounds.percentile import BoxEvidence
from certify.certificate.claim import Claim
from certify.certificate.schema import KINDS, is_number
from certify.confidence import stopped_event
from certify.montecarlo import Function, Progress, draw
from certify.noise import Noise
from certify.progress import as_progress
from certify.statements.mean import Repeated

if TYPE_CHECKING:
    from certify.certificate.certificate import Certificate

__all__ = ["CheckReport", "Verdict", "checked", "evidence_of"]

_NO_EVIDENCE = (ValueError, TypeError, IndexError, ArithmeticError, RuntimeError)
"""What numbers and tensors of another kind than the evidence's own lead to."""


@dataclass(frozen=True)
class Verdict(Shown):
    """What a check found about one claim: "refuted", "not refuted", "nothing claimed" (an abstention), or "not checked" (its
    function was not given). `p_value` of the test; None where none was made, of a claim that contradicts its own record, too.
    """

    claim: Claim
    outcome: str
    p_value: float | None
    detail: str


@dataclass(frozen=True)
class CheckReport(Shown):
    """What `Certificate.check` returns.

    Attributes:
        verdicts: one a claim.
        n, seed, level: fresh draws (most of any function), their seed, and the level of the test over all claims together.
    """

    verdicts: tuple[Verdict, ...]
    n: int
    seed: int
    level: float

    @property
    def refuted(self) -> bool:
        """Whether any claim was refuted."""
        return any(v.outcome == "refuted" for v in self.verdicts)


def checked(
    certificate: Certificate,
    f: Function | Mapping[str, Function],
    y: Tensor,
    seed: int,
    n: int | None,
    level: float,
    batch_size: int | None,
    progress: Progress | bool | None,
) -> CheckReport:
    """As `Certificate.check`, which explains it."""
    level, seed = _validate.probability("level", level), _validate.seed_value(seed)
    y = _validate.own_tensor("y", y)
    stated = certificate.provenance.get("input_sha256", "")
    if stated is not None and tensor_digest(y) != stated:  # None: of a private prompt
        raise ValueError("y is not the input that this certificate is about: its SHA-256 differs")
    n = None if n is None else _validate.count("n", n)
    claims, noise, functions = certificate.claims, certificate.noise, _functions(certificate, f)
    held = {
        i: evidence_of(certificate, c)
        for i, c in enumerate(claims)
        if c.status == "certified" and c.function in functions
    }
    wrong = {i: e if isinstance(e, str) else _contradiction(certificate, claims[i], e) for i, e in held.items()}
    tested = {i: e for i, e in held.items() if isinstance(e, Evidence) and not wrong[i]}
    witnesses = {i: evidence.witness() for i, evidence in tested.items()}
    most, report = 0, as_progress(progress)
    about = {i: (claims[i].function, claims[i].copies, _shape(certificate, claims[i])) for i in tested}
    for name, copies, shape in dict.fromkeys(about.values()):
        mine = [i for i in tested if about[i] == (name, copies, shape)]
        number = n or max(claims[i].n for i in mine)
        most = max(most, number)
        draw(
            Repeated(functions[name], shape[0], "function") if copies is not None and shape else functions[name],
            y if copies is None else y.expand(copies, *y.shape),
            noise,
            n=number,
            seed=seed,
            stream="checking",
            accumulators=[witnesses[i] for i in mine],
            batch_size=batch_size,
            output_shape=shape,
            progress=report,
        )
    each = level / max(len(held), 1)

    def verdict(i: int, claim: Claim) -> Verdict:
        if claim.status == "abstained":
            return Verdict(claim, "nothing claimed", None, claim.reason)
        if i not in held:
            return Verdict(claim, "not checked", None, "its function was not given")
        if wrong[i]:
            return Verdict(claim, "refuted", None, wrong[i])
        p_value, detail = tested[i].verdict(witnesses[i], noise, claim.rho)
        return Verdict(claim, "refuted" if p_value <= each else "not refuted", p_value, detail)

    return CheckReport(tuple(verdict(i, claim) for i, claim in enumerate(claims)), most, seed, level)


def _functions(certificate: Certificate, f: Function | Mapping[str, Function]) -> dict[str, Function]:
    names = list(dict.fromkeys(claim.function for claim in certificate.claims))
    if isinstance(f, Mapping):
        unknown = sorted(set(f) - set(names))
        if unknown:
            raise ValueError(f"f names {unknown}: must be among {names}, which this certificate is about")
        return dict(f)
    if len(names) > 1:
        raise ValueError(
            f"f is one function, the certificate is about {names}: must be a mapping of names to functions"
        )
    return {names[0]: f}


def evidence_of(certificate: Certificate, claim: Claim) -> Evidence | str:
    """What the claim rests on, or in words why it can rest on nothing."""
    prefix, kept = f"{claim.tensors}.", certificate.tensors
    own = {k.removeprefix(prefix): v for k, v in kept.items() if claim.tensors and k.startswith(prefix)}
    try:
        center = kept[claim.center] if claim.center else torch.zeros(())
        if any(bool(tensor.isnan().any()) for tensor in (center, *own.values())):
            return "its tensors hold NaN"
        return EVIDENCE[claim.evidence].restored(claim.numbers, own, center)
    except KeyError as error:
        missing = error.args[0] if error.args[0] == claim.center else f"{prefix}{error.args[0]}"
        raise ValueError(f"certificate holds no tensor or number {missing!r}: the claim cannot be checked") from error
    except _NO_EVIDENCE as error:
        return f"its evidence is none: {error}"


def _shape(certificate: Certificate, claim: Claim) -> tuple[int, ...] | None:
    """The shape of the output of the claim's function; None: of a classifier, which gives logits or labels."""
    if claim.quantity == "class":
        return None
    if claim.copies is not None:
        return (int(claim.numbers["repeats"]),) if claim.method == "repeats" else ()
    return tuple(certificate.tensors[claim.center if claim.center else f"{claim.tensors}.lower"].shape)


def _contradiction(certificate: Certificate, claim: Claim, held: Evidence) -> str:
    """In words what the claim states that does not follow from its evidence; "" if all does.

    Numbers and tensors may be such that nothing can be computed from them.
    """
    try:
        center = certificate.tensors[claim.center] if claim.center else None
        other = _other_object(claim, held, center)
        if other or claim.quantity == "percentile":
            return other
        return _too_much(claim, held, certificate.noise)
    except KeyError as error:
        return f"its evidence holds no {error}"
    except _NO_EVIDENCE as error:
        return f"its evidence is none: {error}"


def _other_object(claim: Claim, held: Evidence, center: Tensor | None) -> str:
    """In words what the claim is about and its evidence is not."""
    kind, kept = (claim.smoother, claim.method), held.numbers()
    if KINDS[claim.quantity].rests.get(kind) != (claim.theorem, held.kind):
        about = ", ".join(map(repr, (claim.quantity, *kind)))
        return f"it is about {about}, of which {claim.theorem} with {held.kind!r} says nothing"
    p = {"percentile": kept.get("p_high"), "mse": 0.5, "radius": 0.5}.get(claim.quantity)
    meant: dict[str, Any] = {
        "reference": held.reference if center is not None else "none",
        "outputs": claim.outputs if center is None else center.numel(),
        "p": None if claim.smoother == "mean" else p,
        "q": kept.get("q"),
        "replicas": kept.get("replicas"),
        "copies": None if center is not None else kept.get("replicas"),
        "side": kept.get("side", claim.side if claim.quantity == "event" else "upper"),
        "smoother": kept.get("smoother", claim.smoother),
    }
    if isinstance(held, BoxEvidence):
        if not bool((held.lower <= held.upper).all()):
            return "its box is empty"
        if claim.quantity != "deployed" and not held.p_low == held.p_high == claim.p:
            return f"it states p = {claim.p}, its box is about the percentiles {held.p_low}, {held.p_high}"
        if held.lower.numel() != claim.outputs:
            return f"it states outputs = {claim.outputs}, its box has {held.lower.numel()}"
    for name, one in meant.items():
        if getattr(claim, name) != one:
            return f"it states {name} = {getattr(claim, name)}, its evidence {one}"
    return ""


def _too_much(claim: Claim, held: Evidence, noise: Noise) -> str:
    """In words which number of the claim does not follow from its evidence."""
    if claim.quantity in ("radius", "class") and claim.value != claim.rho:
        return f"it states a radius of {claim.value} and holds for {claim.rho}"
    if claim.quantity == "class":
        return _not_majority(claim, held, noise)
    stated = claim.tolerance if claim.quantity == "radius" else claim.value
    implied = held.implied(noise, claim.rho)
    if not (_at_most(stated, implied) if claim.side == "lower" else _at_most(implied, stated)):
        return f"it states {stated}, its evidence implies {implied!r}"
    kept = held.numbers()
    if claim.side == "two-sided" and not _at_most(claim.lower, kept["lower"]):
        return f"it states at least {claim.lower}, its evidence implies {kept['lower']}"
    return _miscounted(claim, kept, noise) if claim.quantity == "event" else ""


def _not_majority(claim: Claim, held: Evidence, noise: Noise) -> str:
    """In words why the class of a claim need not be the most frequent one within its radius."""
    kept = held.numbers()
    seen, draws, other = int(kept["successes"]), claim.n, float(kept["other"])
    if seen > draws:
        return f"it states {draws} draws, its evidence {seen} of them"
    least = other_limit(draws - seen, draws, claim.alpha, early=claim.scope == "stopped early")
    if not _at_most(least, other):
        return f"{seen} of {draws} draws imply another class up to {least!r}, its evidence says {other!r}"
    implied = held.implied(noise, claim.rho)
    return "" if _at_most(implied, 0.5) else f"its evidence implies another class up to {implied!r} within its radius"


def _miscounted(claim: Claim, kept: Mapping[str, Any], noise: Noise) -> str:
    """An event's count speaks about every radius, so the limits that are tested must not be weaker than what it says."""
    seen, draws = int(kept["successes"]), claim.n
    if seen > draws:
        return f"it states {draws} draws, its evidence {seen} of them"
    at: dict[str, Any] = {"rho": claim.rho, "replicas": claim.replicas or 1, "alpha": claim.alpha}
    if claim.scope == "stopped early":
        # (Half of α is spent on this side; all of it by earlier versions, which could claim as little as `high`.)
        low, high = 0.0, stopped_event(seen, draws, noise, **at)
        most = stopped_event(seen, draws, noise, **{**at, "alpha": claim.alpha / 2})
    else:
        low, high = event_interval(seen, draws, noise, two_sided=claim.side == "two-sided", **at)
        most = high
    above = _at_most(high, claim.value) and _at_most(kept["upper"], most)
    if not (above and _at_most(claim.lower or 0.0, low) and _at_most(low, kept["lower"])):
        return f"{seen} of {draws} draws imply [{low!r}, {high!r}], its evidence says {kept}"
    return ""


def _at_most(a: Any, b: Any) -> bool:
    """a ≤ b up to rounding; False where either is missing or NaN."""
    return is_number(a) and is_number(b) and (a == b or a <= b + 1e-9 * min(abs(a), abs(b)))
