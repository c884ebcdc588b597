"""From a prompt's certificate on disk back to what it is about: its smoother, rebuilt, and the functions of its claims.

What a certificate names is compared with what is there first: settings, pairs of a concept, relevance of a private prompt.
What it says beside its claims (what is covered, distances to compare with) is computed again: `compared`.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from certify._records import Record
from certify.adaptive.concepts import Concept, ships
from certify.adaptive.levels import cosine_tolerance
from certify.adaptive.plan import EMBEDDING, Materials
from certify.adaptive.prompt import PreparedPrompt
from certify.adaptive.record import ENTRIES, Entry, Subject
from certify.adaptive.smoother import AdaptiveMedianSmoother
from certify.certificate import Certificate
from certify.models import PromptEncoder
from certify.models.trajectory import Trajectory
from certify.noise import GaussianNoise

__all__ = ["OnRecord", "Tolerances", "certified_functions", "compared", "difference", "rebuilt"]

_SHOWN = 80  # characters of a value
_COMPARED = ("memory_sha256", "levels_sha256", "policy")  # of the smoother's settings, elsewhere


def certified_functions(
    certificate: Certificate, prompt: PreparedPrompt, pipe: Any = None
) -> dict[str, Callable[..., Any]]:
    """The functions that a prompt's certificate is about, for `Certificate.check`.

    Args:
        certificate: what `AdaptiveMedianSmoother.certify` returned.
        prompt: its prompt, prepared by the smoother with the settings on record (`rebuilt`).
        pipe: the pipeline; None: claims that need one are left out.

    Raises:
        ValueError: the smoother has other settings than those on record, or a private certificate is of another prompt.
    """
    with _on_record():
        _same_settings(certificate, prompt.adaptive.settings())
        _same_prompt(certificate, prompt)
        deployment, policy = prompt.deployment, certificate.claims[0].policy
        if policy != "noise-then-adapt":
            deployment = replace(deployment, noise=certificate.noise, policy=policy)
        centers = [c.center for c in certificate.claims if c.function == EMBEDDING and c.center]
        if not centers or centers[0] not in certificate.tensors:
            raise ValueError(
                f"certificate has no claim about the {EMBEDDING} with a reference: cannot be one of a prompt"
            )
        trajectory, images = _trajectory(certificate, pipe), certificate.provenance.get("images") or {}
        how = {name: images[name] for name in ("detector", "steps", "guidance") if name in images}
        materials = Materials(prompt, deployment, certificate.tensors[centers[0]], trajectory, pipe, **how)
        functions = {name: materials.function(name) for name in dict.fromkeys(c.function for c in certificate.claims)}
        return {name: f for name, f in functions.items() if f is not None}


def _same_settings(certificate: Certificate, here: dict[str, Any]) -> None:
    stated = certificate.provenance["smoother"]
    different = [k for k, v in stated.items() if here.get(k) != v and k not in _COMPARED]
    if "concepts" in different:
        names = [[concept["name"] for concept in settings["concepts"]] for settings in (here, stated)]
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


def _same_prompt(certificate: Certificate, prompt: PreparedPrompt) -> None:
    """A private record has no digest of its input, and another prompt would be taken for a refutation."""
    record = certificate.provenance
    if record.get("prompt") is not None or "token_noise" not in record:
        return
    there, here = record["token_noise"]["relevance"], prompt.relevance.relevance
    if difference(there, list(here), 0.0, Tolerances.of(str(record["dtype"])).cosine) is not None:
        raise ValueError("prompt: its relevance is not that on record; must be the prompt of this certificate")


def _trajectory(certificate: Certificate, pipe: Any) -> Trajectory | None:
    """The one on record; None: there is none, or no pipeline to use it with."""
    record, prefix = certificate.provenance.get("trajectory"), "trajectory."
    tensors = {k.removeprefix(prefix): v for k, v in certificate.tensors.items() if k.startswith(prefix)}
    return Trajectory.restored(record, tensors) if record and pipe is not None else None


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


def compared(certificate: Certificate, prompt: PreparedPrompt, pipe: Any = None) -> list[OnRecord]:
    """What a prompt's certificate has on record beside its claims, against what model and prompt say.

    Counts and names must be the same; numbers up to a tolerance, which `OnRecord.detail` states: another device rounds
    otherwise. Covered tokens and prompts follow from the noise on record, which is compared itself.

    Args:
        certificate, prompt, pipe: as in `certified_functions`.

    Raises:
        ValueError: the record is damaged, so that nothing can be compared.
    """
    with _on_record():
        return _Comparison(certificate, prompt, pipe).statements()


@dataclass(frozen=True)
class Tolerances:
    """Up to what two devices agree: cosines of a prompt (two prompts mostly differ by more somewhere), and, as a part of
    themselves, distances of encodings, distances of noise predictions, and token embeddings, which are read, not computed."""

    cosine: float
    distance: float
    prediction: float = 5e-2
    embedding: float = 1e-6

    @classmethod
    def of(cls, dtype: str) -> Tolerances:
        """Of a model with weights of this dtype."""
        return cls(cosine_tolerance(dtype), 1e-3 if dtype in ("float32", "float64") else 5e-2)


class _Undecided(Exception):
    """Devices may differ in what is compared: it is not checked, for this reason."""


class _Comparison:
    def __init__(self, certificate: Certificate, prompt: PreparedPrompt, pipe: Any) -> None:
        self.prompt, self.record = prompt, certificate.provenance
        self.near = Tolerances.of(str(self.record.get("dtype")))
        # σ = σ₀ exp(k · relevance)
        self.exponential = math.expm1(min(prompt.adaptive.k * self.near.cosine, 50.0)) + self.near.embedding
        # One σ a token, over the whole width.
        whole = certificate.noise.sigma_for(prompt.y.shape).cpu()
        self.sigma, self.even = whole[:, :1], bool((whole == whole[:, :1]).all())
        self.found: list[OnRecord] = []
        # Without such a claim there is no coverage on record, or the record is damaged.
        single = (EMBEDDING, "mse", "single")
        rho = next((c.rho for c in certificate.claims if (c.function, c.quantity, c.scope) == single), 0.0)
        attacks = [p.get("prompt") if isinstance(p, dict) else None for p in _items(self.record.get("covered_prompts"))]
        self.subject = Subject(
            prompt,
            GaussianNoise(self.sigma),
            rho,
            attacks=[text for text in attacks if isinstance(text, str)],
            trajectory=_trajectory(certificate, pipe),
        )

    def statements(self) -> list[OnRecord]:
        special: dict[str, Callable[[Any, Entry], None]] = {
            "token_noise": self._tokens,
            "covered_prompts_counted": self._counted,
        }
        self._noise()
        if "levels_sha256" in (stated := self.record["smoother"]):
            self._same("table of levels", stated["levels_sha256"], self.prompt.adaptive.settings()["levels_sha256"])
        for name, entry in ENTRIES.items():
            stated = self.record.get(name)
            # Of a prompt that was not cut there is nothing on record, and an empty list of attacks says nothing.
            if name == "truncated" or (stated is not None and (name, stated) != ("covered_prompts", [])):
                special.get(name, functools.partial(self._computed, name))(stated, entry)
        for name, what in (("undefended", "rate without the defence"), ("without_word", "rate without the word")):
            self._rate(what, self.record.get(name))
        self._not_checked(
            "how it was made", "date, seed, numbers of draws behind boxes, versions, device: they are the maker's word"
        )
        return self.found

    def _computed(self, name: str, stated: Any, entry: Entry) -> None:
        """An entry of the record against its value, where devices may differ in no more than rounding."""
        value = entry.value(self.subject)
        relative, absolute = (getattr(self.near, kind) if kind else 0.0 for kind in (entry.relative, entry.absolute))
        try:
            if name == "concept_in_prompt":
                value = self._mention(stated, value)
            elif name == "yardstick":
                value = self._removal(stated, value)
            elif name == "noise_prediction_yardstick" and value is None:
                raise _Undecided("it takes the whole pipeline, and its trajectory")
            elif name == "concept_score_plain":
                absolute = self.near.distance * math.sqrt(self.prompt.concept_removal.distance)
        except _Undecided as reason:
            self._not_checked(entry.name, str(reason))
        else:
            self._same(entry.name, stated, value, relative=relative, absolute=absolute)

    def _noise(self) -> None:
        if not self.even:
            said = "the record says σ that differs within a token, the model says one σ a token"
            self.found.append(OnRecord("noise of the claims", "differs", said))
        if self.record["smoother"]["policy"] == "memory":
            self._not_checked("noise of the region", "the covariance memory is not at hand")
        else:
            noise, stated = self.prompt.deployment.noise.sigma_for(self.sigma.shape), self.sigma[:, 0].tolist()
            self._same("noise of the claims", stated, noise[:, 0].tolist(), relative=self.exponential)

    def _tokens(self, stated: Any, entry: Entry) -> None:
        here, scores = self.prompt.relevance, self.prompt.scores
        names = [concept.name for concept in self.prompt.adaptive.concepts]
        concepts = list(here.concept)
        for i, said in enumerate(_items(stated.get("concept"))[: len(concepts)]):
            # Of two concepts that a token is as relevant to, another device may name the other.
            near = concepts[i] is not None and said in names
            if near and float(scores[i].max() - scores[i, names.index(said)]) <= self.near.cosine:
                concepts[i] = said
        words = {"tokens": list(here.tokens)} if "tokens" in stated else {}
        known = {**words, "kinds": list(here.kinds), "concept": concepts}
        self._same("tokens and their concepts", {k: stated.get(k) for k in known}, known)
        self._same("relevance", stated.get("relevance"), list(here.relevance), absolute=self.near.cosine)
        of_region = self.record["smoother"]["policy"] == "memory"
        sigma = self.sigma[:, 0].tolist() if of_region else list(here.sigma)
        relative = self.near.embedding if of_region else self.exponential
        self._same(entry.name, stated.get("sigma"), sigma, relative=relative)

    def _counted(self, stated: Any, entry: Entry) -> None:
        self._not_checked(entry.name, "their texts are left out of the record")

    def _mention(self, stated: Any, value: dict[str, Any]) -> dict[str, Any]:
        if isinstance(stated, dict) and abs(value["relevance"] - value["threshold"]) <= 2 * self.near.cosine:
            # A hair's breadth either way.
            value["named"] = stated.get("relevance", 0.0) >= stated.get("threshold", 0.0)
        return value

    def _removal(self, stated: Any, value: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(stated, dict):
            return value
        if stated.get("word") is None and self.record.get("prompt") is None:  # a private record names no word
            value["word"] = None
        starts = {word[0]: self.prompt.word_relevance(word) for word in self.prompt.tokenized.words}
        position, here = stated.get("position"), value["position"]
        if type(position) is not int or position == here or position not in starts:
            return value
        if abs(starts[position] - starts[here]) <= self.near.cosine:
            raise _Undecided("two words are as relevant as each other, and devices differ in which is more")
        return value

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
        different = difference(stated, found, relative, absolute)
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


def difference(
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
    different = (difference(a, b, relative, absolute, at) for at, a, b in pairs)
    return next((one for one in different if one is not None), None)


def rebuilt(
    certificate: Certificate, model: Any, concepts: Sequence[str | Path | Concept] | None = None
) -> AdaptiveMedianSmoother:
    """The smoother that a prompt's certificate is about, from the settings on record.

    Args:
        certificate: what `AdaptiveMedianSmoother.certify` returned.
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
    names = ("sigma0", "k", "n", "use_global", "similarity", "special_tokens", "smooth_unconditional")
    options = {name: stated[name] for name in names}
    options["smoother"] = stated["aggregate"]
    options["truncate"] = stated.get("truncate", False)
    options["sigma_max"] = math.inf if stated["sigma_max"] is None else stated["sigma_max"]
    of_policy = {"noise-then-adapt": ("policy", "sigma_min", "sharing"), "levels": ("policy", "gamma")}
    options |= {name: stated[name] for name in of_policy.get(stated["policy"], ())}
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
