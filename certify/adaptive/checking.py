"""From a prompt's certificate on disk back to what it is about: its smoother, rebuilt, and the functions of its claims.

What a certificate names is compared with what is there first: settings, pairs of a concept, relevance of a private prompt.
What it says beside its claims (what is covered, distances to compare with) is computed again: `compared`.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from certify._records import Record
from certify.adaptive.certification import EMBEDDING, functions_of, plain_score, prediction_yardstick, yardstick
from certify.adaptive.concepts import Concept, ships
from certify.adaptive.coverage import prompts_within, substitutions_within
from certify.adaptive.deployment import Deployment
from certify.adaptive.smoother import AdaptiveMedianSmoother
from certify.certificate import Certificate
from certify.models import PromptEncoder
from certify.models.trajectory import Trajectory
from certify.noise import GaussianNoise

__all__ = ["OnRecord", "certified_functions", "compared", "rebuilt"]

_SAME_RELEVANCE = {"float32": 2e-4, "float64": 2e-4}
"""Up to what the cosines of one prompt agree on every device, by dtype; two prompts mostly differ by more somewhere."""

_SAME_DISTANCE = {"float32": 1e-3, "float64": 1e-3}
"""Up to what part of itself a distance of encodings agrees on every device, by dtype."""

_SAME_EMBEDDING = 1e-6
"""Likewise of token embeddings, which are read, not computed."""

_SHOWN = 80  # characters of a value


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
    made, trajectory = certificate.provenance.get("images") or {}, None if pipe is None else _trajectory(certificate)
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


def _trajectory(certificate: Certificate) -> Trajectory | None:
    """The one on record; None: there is none."""
    record, prefix = certificate.provenance.get("trajectory"), "trajectory."
    tensors = {k.removeprefix(prefix): v for k, v in certificate.tensors.items() if k.startswith(prefix)}
    return Trajectory.restored(record, tensors) if record else None


@dataclass(frozen=True)
class OnRecord(Record):
    """A statement of a record that is no claim, and what came of computing it again.

    Attributes:
        name: what it is about.
        outcome: "same", "differs" or "not checked".
        detail: how near is the same; what the record says and what the model says; why it was not checked.
    """

    name: str
    outcome: str
    detail: str


def compared(
    certificate: Certificate, adaptive: AdaptiveMedianSmoother, prompt: str, pipe: Any = None
) -> list[OnRecord]:
    """What a prompt's certificate has on record beside its claims, against what model and prompt say.

    Counts and names must be the same; numbers up to a tolerance, which `OnRecord.detail` states: another device rounds
    otherwise. Covered tokens and prompts follow from the noise on record, which is compared itself.

    Args:
        certificate, adaptive, prompt, pipe: as in `certified_functions`.

    Raises:
        ValueError: the record is damaged, so that nothing can be compared.
    """
    with _on_record():
        return _Comparison(certificate, adaptive, prompt, pipe).statements()


class _Comparison:
    def __init__(self, certificate: Certificate, adaptive: AdaptiveMedianSmoother, prompt: str, pipe: Any) -> None:
        self.certificate, self.adaptive, self.prompt, self.pipe = certificate, adaptive, prompt, pipe
        self.record = certificate.provenance
        dtype = str(self.record.get("dtype"))
        self.cosine = _SAME_RELEVANCE.get(dtype, 2e-2)
        self.distance = _SAME_DISTANCE.get(dtype, 5e-2)
        # σ = σ₀ exp(k · relevance)
        self.exponential = math.expm1(min(adaptive.k * self.cosine, 50.0)) + _SAME_EMBEDDING
        # One σ a token, over the whole width.
        whole = certificate.noise.sigma_for(adaptive.problem(prompt).y.shape).cpu()
        self.sigma, self.even = whole[:, :1], bool((whole == whole[:, :1]).all())
        self.found: list[OnRecord] = []

    def statements(self) -> list[OnRecord]:
        certificate, adaptive, prompt, record = self.certificate, self.adaptive, self.prompt, self.record
        self._noise()
        if "token_noise" in record:
            self._tokens(record["token_noise"])
        cut = adaptive.encoder.tokenize(prompt).truncated.get("truncated")
        self._same("tokens that were cut off", record.get("truncated"), cut)
        if "quantity" in record:
            self._same("quantity", record["quantity"], adaptive.problem(prompt).quantity)
        self._mention()
        self._yardstick()
        deployment = replace(adaptive.deployment(prompt), noise=GaussianNoise(self.sigma))
        bounds = [
            c for c in certificate.claims if c.function == EMBEDDING and c.quantity == "mse" and c.scope == "single"
        ]
        if record.get("coverage") is not None:
            positions = [c.to_dict() for c in substitutions_within(adaptive, prompt, deployment, bounds[0].rho)]
            self._same("covered tokens", record["coverage"], positions, relative=_SAME_EMBEDDING)
        if record.get("covered_prompts"):
            self._prompts(record["covered_prompts"], deployment, bounds[0].rho)
        if record.get("covered_prompts_counted"):
            self._not_checked("number of covered attack prompts", "their texts are left out of the record")
        self._predictions()
        for name, what in (("undefended", "rate without the defence"), ("without_word", "rate without the word")):
            self._rate(what, record.get(name))
        self._not_checked("how it was made", "date, seed, versions, device: they are the maker's word")
        return self.found

    def _noise(self) -> None:
        if not self.even:
            said = "the record says σ that differs within a token, the model says one σ a token"
            self.found.append(OnRecord("noise of the claims", "differs", said))
        if self.record["smoother"]["policy"] == "memory":
            self._not_checked("noise of the region", "the covariance memory is not at hand")
        else:
            noise = self.adaptive.deployment(self.prompt).noise.sigma_for(self.sigma.shape)
            kept = self.sigma[:, 0].tolist()
            self._same("noise of the claims", kept, noise[:, 0].tolist(), relative=self.exponential)

    def _tokens(self, stated: Any) -> None:
        adaptive, here = self.adaptive, self.adaptive.relevance(self.prompt)
        scores = adaptive.scorer.scores([adaptive.encoder.tokenize(self.prompt)])[0]
        names = [concept.name for concept in adaptive.concepts]
        concepts = list(here.concept)
        for i, said in enumerate(_items(stated.get("concept"))[: len(concepts)]):
            # Of two concepts that a token is as relevant to, another device may name the other.
            near = concepts[i] is not None and said in names
            if near and float(scores[i].max() - scores[i, names.index(said)]) <= self.cosine:
                concepts[i] = said
        words = {"tokens": list(here.tokens)} if "tokens" in stated else {}
        known = {**words, "kinds": list(here.kinds), "concept": concepts}
        self._same("tokens and their concepts", {k: stated.get(k) for k in known}, known)
        self._same("relevance", stated.get("relevance"), list(here.relevance), absolute=self.cosine)
        if self.record["smoother"]["policy"] == "memory":
            self._same("noise of the tokens", stated.get("sigma"), self.sigma[:, 0].tolist(), relative=_SAME_EMBEDDING)
        else:
            self._same("noise of the tokens", stated.get("sigma"), list(here.sigma), relative=self.exponential)
        if self.record.get("token_spread") is not None:
            spread = adaptive.encoder.embedding_spread
            self._same("spread of token embeddings", self.record["token_spread"], spread, relative=self.distance)

    def _mention(self) -> None:
        stated = self.record.get("concept_in_prompt")
        if stated is None:
            return
        here = self.adaptive.mention(self.prompt).to_dict()
        if isinstance(stated, dict) and abs(here["relevance"] - here["threshold"]) <= 2 * self.cosine:
            here["named"] = stated.get("relevance", 0.0) >= stated.get("threshold", 0.0)  # a hair's breadth either way
        self._same("concept in the prompt", stated, here, absolute=self.cosine)

    def _yardstick(self) -> None:
        adaptive, stated = self.adaptive, self.record.get("yardstick")
        if stated is None:
            return
        here, name = yardstick(adaptive, self.prompt), "concept-removal distance"
        found = asdict(here)
        if isinstance(stated, dict) and stated.get("word") is None:  # a private record names no word
            found["word"] = None if self.record.get("prompt") is None else here.word
        relevance = adaptive.relevance(self.prompt).relevance
        position = stated.get("position") if isinstance(stated, dict) else None
        if type(position) is int and 0 < position < len(relevance) and position != here.position:
            words = adaptive.encoder.tokenize(self.prompt).words
            most = [
                max(relevance[i] or 0.0 for i in range(*word)) for word in words if word[0] in (position, here.position)
            ]
            if len(most) == 2 and abs(most[0] - most[1]) <= self.cosine:
                self._not_checked(name, "two words are as relevant as each other, and devices differ in which is more")
                return
        self._same(name, stated, found, relative=self.distance)

    def _prompts(self, stated: Any, deployment: Deployment, rho: float) -> None:
        texts = [p.get("prompt") if isinstance(p, dict) else None for p in _items(stated)]
        known = [text for text in texts if isinstance(text, str)]
        found = [p.to_dict() for p in prompts_within(self.adaptive, self.prompt, deployment, known, rho)]
        self._same("covered attack prompts", stated, found, relative=_SAME_EMBEDDING)

    def _predictions(self) -> None:
        record, name = self.record, "concept-removal distance of noise predictions"
        stated = record.get("noise_prediction_yardstick")
        trajectory = None if stated is None or self.pipe is None else _trajectory(self.certificate)
        if stated is not None and (trajectory is None or self.adaptive.denoiser is None):
            self._not_checked(name, "it takes the whole pipeline, and its trajectory")
        elif trajectory is not None:
            found = prediction_yardstick(self.adaptive, self.prompt, trajectory)
            self._same(name, stated, found, relative=5e-2)
        if "concept_score_plain" in record:
            score = plain_score(self.adaptive, self.prompt)
            near = self.distance * math.sqrt(yardstick(self.adaptive, self.prompt).distance)
            plain = record["concept_score_plain"]
            self._same("concept score of the plain encoding", plain, score, relative=self.distance, absolute=near)

    def _rate(self, name: str, stated: Any) -> None:
        if stated is None:
            return
        successes, n = stated["successes"], stated["n"]
        if not (type(successes) is type(n) is int and 0 <= successes <= n and n > 0):
            self.found.append(
                OnRecord(name, "differs", f"the record says {successes!r} of {n!r} images: no such count")
            )
        elif not _alike(stated["rate"], successes / n, 1e-9, 0.0):
            said = f"the record says {_brief(stated['rate'])}, its {successes} of {n} images {successes / n!r}"
            self.found.append(OnRecord(name, "differs", said))
        else:
            self._not_checked(name, "measured, on images that are not made again")

    def _not_checked(self, name: str, why: str) -> None:
        self.found.append(OnRecord(name, "not checked", why))

    def _same(self, name: str, stated: Any, found: Any, *, relative: float = 0.0, absolute: float = 0.0) -> None:
        different = _difference(stated, found, relative, absolute)
        if different is None:
            within = [f"within {relative:.2g} of itself"] if relative else []
            within += [f"within {absolute:.2g}"] if absolute else []
            self.found.append(OnRecord(name, "same", " or ".join(within) or "exactly"))
            return
        where, says, model = different
        at = f"{where}: " if where else ""
        self.found.append(
            OnRecord(name, "differs", f"{at}the record says {_brief(says)}, the model says {_brief(model)}")
        )


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _alike(stated: Any, found: Any, relative: float, absolute: float) -> bool:
    """Two JSON values that are no list and no object."""
    if isinstance(found, float) and isinstance(stated, int | float) and not isinstance(stated, bool):
        try:
            return math.isclose(stated, found, rel_tol=relative, abs_tol=absolute)
        except OverflowError:
            return False
    return type(stated) is type(found) and bool(stated == found)


def _difference(
    stated: Any, found: Any, relative: float, absolute: float, where: str = ""
) -> tuple[str, Any, Any] | None:
    """Where two JSON values differ first, and what each says there. What a record leaves out it does not say."""
    pairs: list[tuple[str, Any, Any]]
    if isinstance(found, list | tuple) and isinstance(stated, list):
        if len(stated) != len(found):
            return f"{where} entries".strip(), len(stated), len(found)
        pairs = [(f"{where}[{i}]", a, b) for i, (a, b) in enumerate(zip(stated, found, strict=True))]
    elif isinstance(found, dict) and isinstance(stated, dict):
        pairs = [(f"{where}.{k}".lstrip("."), a, found[k]) for k, a in stated.items() if k in found]
    else:
        return None if _alike(stated, found, relative, absolute) else (where, stated, found)
    different = (_difference(a, b, relative, absolute, at) for at, a, b in pairs)
    return next((one for one in different if one is not None), None)


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
