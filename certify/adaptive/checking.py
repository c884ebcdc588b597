"""From a prompt's certificate on disk back to what it is about: its smoother, rebuilt, and the functions of its claims.

What a certificate names is compared with what is there first: settings, pairs of a concept, relevance of a private prompt.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from certify.adaptive.certification import EMBEDDING, functions_of
from certify.adaptive.concepts import Concept, ships
from certify.adaptive.smoother import AdaptiveMedianSmoother
from certify.certificate import Certificate
from certify.models import PromptEncoder
from certify.models.trajectory import Trajectory

__all__ = ["certified_functions", "rebuilt"]

_SAME_RELEVANCE = {"float32": 2e-4, "float64": 2e-4}
"""Up to what the cosines of one prompt agree on every device, by dtype; two prompts mostly differ by more somewhere."""


def certified_functions(
    certificate: Certificate, adaptive: AdaptiveMedianSmoother, prompt: str, pipe: Any = None
) -> dict[str, Callable[..., Any]]:
    """The functions that a prompt's certificate is about, for `Certificate.check`.

    Args:
        certificate: what `certify_prompt` returned.
        adaptive: the smoother, with the settings on record (`rebuilt`).
        prompt: its prompt.
        pipe: the pipeline; None: claims that need one are left out.

    Raises:
        ValueError: the smoother has other settings than those on record.
    """
    with _on_record():
        return _certified_functions(certificate, adaptive, prompt, pipe)


def _certified_functions(
    certificate: Certificate, adaptive: AdaptiveMedianSmoother, prompt: str, pipe: Any
) -> dict[str, Callable[..., Any]]:
    stated, found = certificate.provenance["smoother"], adaptive.settings()
    different = [k for k, v in stated.items() if found.get(k) != v and k not in ("memory_sha256", "policy")]
    if "concepts" in different:
        names = [[concept["name"] for concept in settings["concepts"]] for settings in (found, stated)]
        raise ValueError(
            f"adaptive is of the concepts {names[0]}: must be of those on record, {names[1]}, with their names and pairs"
        )
    if different:
        raise ValueError(f"adaptive has other settings than the certificate's smoother: {', '.join(different)}")
    policies = {claim.policy for claim in certificate.claims}
    if policies != {stated["policy"]}:
        raise ValueError(
            f"certificate has claims of policy {', '.join(sorted(policies))}, its smoother has {stated['policy']!r} on record"
        )
    if certificate.provenance.get("prompt") is None and "token_noise" in certificate.provenance:
        # A private record has no digest of its input, and another prompt would be taken for a refutation.
        there, here = certificate.provenance["token_noise"]["relevance"], adaptive.relevance(prompt).relevance
        within = _SAME_RELEVANCE.get(str(certificate.provenance["dtype"]), 2e-2)
        alike = len(there) == len(here) and all(
            (a is None) == (b is None) and (a is None or b is None or abs(a - b) <= within)
            for a, b in zip(there, here, strict=True)
        )
        if not alike:
            raise ValueError("prompt: its relevance is not that on record; must be the prompt of this certificate")
    deployment = adaptive.deployment(prompt)
    if certificate.claims[0].policy != "noise-then-adapt":
        deployment = replace(deployment, noise=certificate.noise, policy=certificate.claims[0].policy)
    centers = [c.center for c in certificate.claims if c.function == EMBEDDING and c.center]
    if not centers or centers[0] not in certificate.tensors:
        raise ValueError(f"certificate has no claim about the {EMBEDDING} with a reference: cannot be one of a prompt")
    made, trajectory = certificate.provenance.get("images") or {}, None
    if pipe is not None and certificate.provenance.get("trajectory"):
        prefix = "trajectory."
        tensors = {k.removeprefix(prefix): v for k, v in certificate.tensors.items() if k.startswith(prefix)}
        trajectory = Trajectory.restored(certificate.provenance["trajectory"], tensors)
    functions = functions_of(
        adaptive,
        prompt,
        deployment,
        certificate.tensors[centers[0]],
        trajectory,
        pipe,
        made.get("detector"),
        made.get("steps", 50),
        made.get("guidance", 7.5),
    )
    return {name: f for name, f in functions.items() if any(c.function == name for c in certificate.claims)}


def rebuilt(
    certificate: Certificate, model: Any, concepts: Sequence[str | Path | Concept] | None = None
) -> AdaptiveMedianSmoother:
    """The smoother that a prompt's certificate is about, from the settings on record.

    Args:
        certificate: what `certify_prompt` returned.
        model: the pipeline, or a `PromptEncoder`.
        concepts: where they do not ship with the package; None: by the names on record, which are read as names of those that
            do, and never as paths. Their SHA-256 is compared.

    Raises:
        ValueError: a concept has other pairs than on record, or is not known by its name.
    """
    with _on_record():
        return _rebuilt(certificate, model, concepts)


def _rebuilt(
    certificate: Certificate, model: Any, concepts: Sequence[str | Path | Concept] | None
) -> AdaptiveMedianSmoother:
    stated = certificate.provenance["smoother"]
    names = ("sigma0", "k", "n", "aggregate", "use_global", "similarity", "special_tokens", "smooth_unconditional")
    options = {name: stated[name] for name in names}
    options["truncate"] = stated.get("truncate", False)
    options["sigma_max"] = math.inf if stated["sigma_max"] is None else stated["sigma_max"]
    if stated["policy"] == "noise-then-adapt":
        options |= {name: stated[name] for name in ("policy", "sigma_min", "sharing")}
    names_on_record = [str(concept["name"]) for concept in stated["concepts"]]
    if not concepts and not all(map(ships, names_on_record)):
        raise ValueError(
            f"concepts = None: must be given, since {names_on_record!r} on record do not ship with the package"
        )
    wanted = list(concepts or names_on_record)
    build = (
        AdaptiveMedianSmoother.from_encoder
        if isinstance(model, PromptEncoder)
        else AdaptiveMedianSmoother.from_pipeline
    )
    adaptive = build(model, wanted, **options)
    if [c.sha256 for c in adaptive.concepts] != [c["sha256"] for c in stated["concepts"]]:
        raise ValueError(
            f"concepts = {wanted}: their prompt pairs are not those on record; must be those of {names_on_record}"
        )
    if [c.name for c in adaptive.concepts] != names_on_record:  # a concept is its pairs, whatever its file is called
        wanted = [Concept(name, c.pairs) for name, c in zip(names_on_record, adaptive.concepts, strict=True)]
        adaptive = build(model, wanted, **options)
    return adaptive


@contextlib.contextmanager
def _on_record() -> Iterator[None]:
    """A record that lacks something, or has a value of another kind, is damaged: `ValueError`."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, IndexError, ArithmeticError) as error:
        raise ValueError(f"certificate: what it has on record cannot be read ({error!r})") from error
