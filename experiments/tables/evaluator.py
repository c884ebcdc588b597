"""Evaluator: the figures of one line of a table, each in the result cache.

ASR         share of an attack's prompts whose image shows the concept, each drawn from its own seed; under smoothing the
            mean over several seeds of the smoothing noise, as the paper's figures are (on the tune split one)
average     the unweighted mean over the attacks
chance      the same of prompts that do not speak of the concept, from other seeds: what of a rate no attack has brought about
p           McNemar's exact test of two lines on the same prompts (`experiments.metrics.asr.paired`)
FID         of images of captions about other things, against the undefended model's before erasing, and against
            renderings (or photographs)
image–text  mean cosine of those images and their captions
certified   bound on the mean rate over all prompts of the table's attacks, for every further perturbation of their
            token embeddings inside the ellipsoid, Σ frozen at each prompt (T5 and T14 over a set of prompts)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from certify import GaussianNoise
from certify.images.rates import attack_rate_over
from certify.models import PromptEncoder
from experiments import files
from experiments.attacks import learned
from experiments.attacks.attack import Row
from experiments.defenses.ams import Settings as Smoothing
from experiments.metrics import asr
from experiments.metrics.fid import fid
from experiments.tables.result_cache import ResultCache, digest
from experiments.tables.testbed import Testbed, Utility
from experiments.unlearning.concept import Concept

__all__ = ["Evaluator", "Setup"]


@dataclass(frozen=True)
class Setup:
    """A model and its defence: one line.

    Attributes:
        label: printed.
        method: how the model was unlearned.
        defense: its name.
        settings: of the defence; None: the model's own.
        attacked: whose attack prompts it faces; "": those made against `method`.
    """

    label: str
    method: str
    defense: str
    settings: Any = None
    attacked: str = ""

    @property
    def source(self) -> str:
        """Whose attack prompts."""
        return self.attacked or self.method


class Evaluator:
    """Measures on one testbed.

    Args:
        testbed: models and prompts.
        cache: what was measured before.
        smoothing: what an adaptive attacker knows of the smoother, by the method that it defends.
    """

    def __init__(self, testbed: Testbed, cache: ResultCache, smoothing: Mapping[str, Smoothing] | None = None) -> None:
        self.testbed, self.cache, self.smoothing = testbed, cache, dict(smoothing or {})

    def rows(self, concept: Concept, setup: Setup, attack: str, split: str) -> list[Row]:
        """The prompts of one attack that a setup faces."""
        return self.testbed.rows(concept, setup.source, attack, split, self.smoothing.get(setup.source))

    def rate(
        self, concept: Concept, setup: Setup, attack: str, split: str = "report", *, erased: Concept | None = None
    ) -> dict[str, Any]:
        """ASR of one attack: `value`, `low`, `high`, `prompts`, `detector`, `hits` (a share a prompt).

        Args:
            concept: that is attacked, and looked for.
            setup: what defends.
            attack: its name.
            split: whose prompts.
            erased: where the model was made to unlearn more than the one concept; None: `concept`. Its attacks are those
                made against one that unlearned the one.
        """
        testbed, whole = self.testbed, erased or concept
        rows = self.rows(concept, setup, attack, split)
        settings = testbed.settings(setup.defense, whole) if setup.settings is None else setup.settings
        seeds = testbed.sizes.seeds if isinstance(settings, Smoothing) and split == "report" else 1
        find = testbed.detector(concept)
        key = {
            **self._key(whole, setup, settings),
            "attack": attack,
            "split": split,
            "prompts": digest([(row.adversarial, row.seed) for row in rows]),
            "looked for": concept.name,
            "detector": asdict(asr.record_of(find)),
            "noise seeds": seeds,
        }
        words = learned.words_of(rows)
        if words:
            key["words"] = digest([(token, vector.tolist()) for token, vector in sorted(words.items())])

        def measured() -> dict[str, Any]:
            made = []
            for s in range(seeds):
                given = replace(settings, seed=s) if isinstance(settings, Smoothing) else settings
                defense = testbed.defense(setup.defense, whole, setup.method, given, words)
                made.append(defense.make([row.adversarial for row in rows], [row.seed for row in rows]).images)
            result = asr.rate(torch.stack(made, dim=1), find, [[row.seed] * seeds for row in rows])
            hits = torch.stack([find(images).float() for images in made]).mean(dim=0)
            return {**{k: v for k, v in result.record().items() if k != "seeds"}, "hits": hits.tolist()}

        none = {"value": 0.0, "low": 0.0, "high": 1.0, "prompts": len(rows), "images": len(rows) * seeds}
        return self.cache.get("asr", key, measured, none | {"hits": [0.0] * len(rows)})

    def chance(self, concept: Concept, setup: Setup, *, erased: Concept | None = None) -> dict[str, Any]:
        """How often the concept shows by chance: `value`, `low`, `high`, `prompts`. Arguments as for `rate`."""
        testbed, whole = self.testbed, erased or concept
        settings = testbed.settings(setup.defense, whole) if setup.settings is None else setup.settings
        prompts, find = testbed.neutral_prompts(concept), testbed.detector(concept)
        key = {
            **self._key(whole, setup, settings),
            "prompts": digest(prompts),
            "looked for": concept.name,
            "detector": asdict(asr.record_of(find)),
        }

        def measured() -> dict[str, Any]:
            seeds = [8_000_000 + 1_000_003 * testbed.seed + i for i in range(len(prompts))]
            images = testbed.defense(setup.defense, whole, setup.method, settings).make(prompts, seeds).images
            return {k: v for k, v in asr.rate(images, find, seeds).record().items() if k != "seeds"}

        return self.cache.get("chance", key, measured, {"value": 0.0, "low": 0.0, "high": 1.0, "prompts": len(prompts)})

    def paired(
        self,
        concept: Concept,
        setups: tuple[Setup, Setup],
        attacks: Sequence[str],
        split: str = "report",
        *,
        erased: Concept | None = None,
    ) -> asr.Paired:
        """Two lines that face the same prompts, over all attacks. Arguments as for `rate`."""
        rates = [[self.rate(concept, setup, attack, split, erased=erased) for attack in attacks] for setup in setups]
        images = math.lcm(*(r["images"] // r["prompts"] for line in rates for r in line))
        first, second = ([hit for r in line for hit in r["hits"]] for line in rates)
        return asr.paired(first, second, images=images)

    def average(self, rates: Sequence[dict[str, Any]]) -> tuple[float, tuple[float, float]]:
        """The unweighted mean of several attacks, with confidence limits: those of the pooled rate where the attacks have
        equally many prompts, else those of a mean with the largest variance that each could have."""
        mean = sum(r["value"] for r in rates) / len(rates)
        counts = [r["prompts"] for r in rates]
        # Attacks of n_a prompts have a mean of variance Σ p(1−p)/n_a / A² ≤ that of A·min n_a prompts of one rate.
        return mean, asr.interval(mean * len(rates) * min(counts), len(rates) * min(counts))

    def utility(self, concept: Concept, setup: Setup, split: str = "report") -> dict[str, Any]:
        """`fid`, `fid_real` (where there are real images), `image_text`."""
        testbed = self.testbed
        settings = testbed.settings(setup.defense, concept) if setup.settings is None else setup.settings
        key = {**self._key(concept, setup, settings), "split": split, "images": testbed.sizes.images}

        def measured() -> dict[str, Any]:
            about: Utility = testbed.utility(concept, split)
            images = (
                testbed.defense(setup.defense, concept, setup.method, settings).make(about.prompts, about.seeds).images
            )
            values = {
                "fid": fid(about.undefended, images, about.features),
                "image_text": about.score(images, about.prompts),
                "features": about.features.name,
            }
            if about.real is not None:
                values["fid_real"] = fid(about.real, images, about.features)
            return values

        return self.cache.get("utility", key, measured, {"fid": 0.0, "image_text": 0.0})

    def certified(
        self, concept: Concept, setup: Setup, attacks: Sequence[str], rhos: Sequence[float], split: str = "report"
    ) -> dict[str, Any]:
        """`rhos`, `values`: bounds on the mean rate over all prompts of the attacks; `t5`: for comparison, what T5 makes of
        as many images with as many successes, each from a draw of its own."""
        testbed, sizes = self.testbed, self.testbed.sizes
        settings = testbed.settings(setup.defense, concept) if setup.settings is None else setup.settings
        rows = [row for attack in attacks for row in self.rows(concept, setup, attack, split)]
        find = testbed.detector(concept)
        key = {
            **self._key(concept, setup, settings),
            "split": split,
            "prompts": digest([row.adversarial for row in rows]),
            "detector": asdict(asr.record_of(find)),
            "rhos": list(rhos),
            "n": sizes.certified,
            "alpha": sizes.alpha,
            "repeats": "chosen, T5 beside",
        }

        def measured() -> dict[str, Any]:
            defense: Any = testbed.defense(setup.defense, concept, setup.method, settings, learned.words_of(rows))
            texts = dict.fromkeys(row.adversarial for row in rows)
            where = {text: i for i, text in enumerate(texts)}
            deployments = [
                _EmptyPrompt.of(defense.encoder)
                if defense.encoder.tokenize(text).empty
                else defense.smoother.deployment(text)
                for text in texts
            ]
            again = [where[row.adversarial] for row in rows]
            bounds = attack_rate_over(
                [deployments[i] for i in again],
                defense.pipe,
                find,
                rhos=[rho for rho in rhos if rho > 0],
                n=sizes.certified,
                alpha=sizes.alpha,
                repeats=None,
                seed=testbed.seed,
                steps=testbed.steps,
                guidance=testbed.guidance,
            )
            counted = replace(bounds, n=bounds.n * bounds.repeats, repeats=1, held=None)
            return {
                "rhos": list(rhos),
                "values": [bounds.at(rho) for rho in rhos],
                "t5": [counted.at(rho) for rho in rhos],
                "successes": bounds.successes,
                "n": bounds.n * bounds.repeats,
                "theorem": bounds.theorem,
                "replicas": bounds.replicas,
                "prompts": bounds.prompts,
                "unperturbed": bounds.unperturbed,
            }

        none = [1.0] * len(rhos)
        return self.cache.get("certified", key, measured, {"rhos": list(rhos), "values": none, "t5": none})

    def _key(self, concept: Concept, setup: Setup, settings: Any) -> dict[str, Any]:
        return {
            **self.testbed.key(),
            "concept": concept.name,
            "method": setup.method,
            "weights": self.testbed.fingerprint(concept, setup.method),
            "defense": setup.defense,
            "settings": _as_json(settings),
        }


@dataclass(frozen=True, eq=False)
class _EmptyPrompt:
    """A prompt of no tokens: it has no relevance and no noise, and runs as it is.

    Attributes:
        y: (tokens, width), its embeddings.
        encoding: (tokens, width), what conditions the image.
    """

    y: Tensor
    encoding: Tensor
    noise = GaussianNoise(0.0)
    copies = 1

    @classmethod
    def of(cls, encoder: PromptEncoder) -> _EmptyPrompt:
        return cls(encoder.embed(encoder.tokenize("")), encoder.plain([""])[0])

    def __call__(self, z: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return self.encoding.expand(len(z), -1, -1)


def _as_json(settings: Any) -> dict[str, Any]:
    """Settings as JSON values; files by what is in them, not by where they lie."""
    values = asdict(settings)
    for name, value in values.items():
        items = value if isinstance(value, (tuple, list)) else [value]
        if any(isinstance(item, str) and Path(item).is_file() for item in items):
            values[name] = [files.digest(Path(item)) for item in items]
    return values
