"""What a joint certificate has on record beside its claims, computed again: `compared`.

The allocation (T16) follows from the boxes of the curve, which `Certificate.check` tests by fresh draws, and from which output
belongs to which encoder, which the pipeline says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from certify.adaptive.checking import OnRecord, Tolerances, difference
from certify.certificate import Certificate
from certify.defence.certification import on_record, shared_out
from certify.defence.problem import JointProblem

__all__ = ["compared"]

_NAMES = {
    "class": "pipeline class",
    "family": "pipeline family",
    "encoders": "text encoders",
    "blocks": "blocks of encoders",
    "slots": "outputs",
    "token_noise": "noise of the tokens",
    "covered_words": "covered words",
}


def compared(certificate: Certificate, problem: JointProblem, call: Mapping[str, Any]) -> list[OnRecord]:
    """What a joint certificate has on record beside its claims, against what pipeline and prompt say.

    Args:
        certificate: of a pipeline's prompt.
        problem: that prompt.
        call: the arguments of `__call__` that it is encoded with.

    Raises:
        ValueError: the record is damaged, or claims are of another policy than it says.
    """
    try:
        return _compared(certificate, problem, call)
    except (KeyError, TypeError, AttributeError, IndexError, ArithmeticError) as error:
        raise ValueError(f"certificate: what it has on record cannot be read ({error!r})") from error


def _compared(certificate: Certificate, problem: JointProblem, call: Mapping[str, Any]) -> list[OnRecord]:
    record: Any = certificate.provenance
    policies, policy = (
        sorted({claim.policy for claim in certificate.claims}),
        record["smoother"].get("policy", "frozen"),
    )
    if policies != [policy]:
        raise ValueError(
            f"certificate has claims of policy {', '.join(policies)}, its smoother has {policy!r} on record"
        )
    private, near = record.get("prompt") is None, Tolerances.of(str(record.get("dtype")))
    attacks = [p["prompt"] for p in record.get("covered_prompts") or []]
    rho = next((c.rho for c in certificate.claims if c.quantity == "mse" and c.scope == "single"), 1.0)
    here = on_record(problem, rho, call, attacks, private)
    stated, own = record["pipeline"], here["pipeline"]
    found = []
    for name, said in _NAMES.items():
        # Cosines of another device differ in their last digits, and σ grows with them exponentially.
        within = max(near.distance, problem.smoother.k * near.cosine)
        found.append(_entry(said, stated.get(name), own[name], within, near.cosine))
    found.append(_copies(certificate, record["smoother"]["n"]))
    sigma = [s for noise in problem.token_noise for s in noise.sigma]
    claimed = [s for entry in stated["token_noise"] for s in entry["sigma"]]
    whole = certificate.noise.sigma_for(tuple(problem.y.shape)).cpu()
    model = problem.noise.sigma_for(tuple(problem.y.shape)).cpu()
    alike = len(sigma) == len(claimed) and bool(((whole - model).abs() <= 1e-2 * model + 1e-9).all())
    said = "" if alike else "the record's σ is not the one that the model gives to these tokens"
    found.append(OnRecord("noise of the claims", "same" if alike else "differs", said or "within 0.01 of itself"))
    for name, said in (("yardstick", "concept-removal distance"), ("concept_in_prompt", "concept in the prompt")):
        if name in record or name in here:
            found.append(_entry(said, record.get(name), here.get(name), near.distance, 10 * near.cosine))
    if attacks:
        found.append(
            _entry("covered attack prompts", record["covered_prompts"], here["covered_prompts"], near.distance, 0.0)
        )
    elif record.get("covered_prompts_counted"):
        found.append(
            OnRecord("number of covered attack prompts", "not checked", "their texts are left out of the record")
        )
    found.append(_allocation(certificate, problem, stated.get("allocation")))
    if record.get("undefended"):
        found.append(_measured(record["undefended"]))
    unchecked = (
        "date, seed, pilot draws, numbers of draws behind boxes, versions, device, dtype: they are the maker's word"
    )
    found.append(OnRecord("how it was made", "not checked", unchecked))
    return found


def _copies(certificate: Certificate, stated: Any) -> OnRecord:
    """What is deployed has as many noisy copies as the claims about it."""
    claimed = sorted({claim.replicas for claim in certificate.claims if claim.replicas is not None})
    alike = all(count == stated for count in claimed)
    detail = (
        "those of the claims" if alike else f"the smoother has {stated!r}, claims have {', '.join(map(str, claimed))}"
    )
    return OnRecord("noisy copies", "same" if alike else "differs", detail)


def _measured(stated: Any) -> OnRecord:
    """A measurement is not made again, but must be the share that its own counts give."""
    name = "rate without the defence"
    rate, successes, n = (stated[key] for key in ("rate", "successes", "n"))
    if not 0 <= successes <= n or abs(rate * n - successes) > 1e-9 * n:
        return OnRecord(name, "differs", f"the record says {rate!r}, its counts say {successes!r} of {n!r}")
    return OnRecord(name, "not checked", "a measurement: its images are not made again")


def _allocation(certificate: Certificate, problem: JointProblem, stated: Any) -> OnRecord:
    """The record may not say less than what follows from the claims' own boxes."""
    name = "how the radius is shared out (T16)"
    points = [claim for claim in certificate.claims if claim.scope == "simultaneous"]
    tensors = certificate.tensors
    boxes: list[tuple[Any, Any, Any]] = []
    for claim in points:
        kept = [tensors.get(f"{claim.tensors}.{side}") for side in ("lower", "upper")]
        center = tensors.get(claim.center) if claim.center else None
        if claim.status != "certified" or any(part is None for part in (*kept, center)):
            boxes = []
            break
        boxes.append((kept[0], kept[1], center))
    if not boxes:
        outcome = "same" if stated is None else "differs"
        return OnRecord(name, outcome, "none" if stated is None else "the record says one, its curve has no boxes")
    if stated is None:
        return OnRecord(name, "not checked", "none is on record")
    due = shared_out(boxes, [claim.rho for claim in points], sum(c.alpha for c in points), problem.owner)
    said, implied = float(stated["distance"]), due.value
    if stated["rho"] != due.rho or not said >= implied * (1 - 1e-9):
        return OnRecord(
            name,
            "differs",
            f"the record says {said!r} at ρ = {stated['rho']!r}, its curve implies {implied!r} at {due.rho!r}",
        )
    return OnRecord(name, "same", "follows from the curve")


def _entry(name: str, stated: Any, found: Any, relative: float, absolute: float) -> OnRecord:
    different = difference(stated, found, relative, absolute)
    if different is None:
        return OnRecord(name, "same", f"within {relative:.2g} of itself or {absolute:.2g}")
    where, says, model = different
    return OnRecord(
        name, "differs", f"{where}: the record says {str(says)[:80]!r}, the model says {str(model)[:80]!r}".lstrip(": ")
    )
