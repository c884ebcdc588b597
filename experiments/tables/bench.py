"""Bench: the figures of one line of a table, each a resumable cell.

ASR         share of an attack's prompts whose image shows the concept, each drawn from its own seed; under smoothing the
            mean over several seeds of the smoothing noise, as the paper's figures are (on the tune split one)
average     the unweighted mean over the attacks
chance      the same of prompts that do not speak of the concept, from other seeds: what of a rate no attack has brought about
p           McNemar's exact test of two lines on the same prompts (`experiments.metrics.asr.paired`)
FID         of images of captions about other things, against the undefended model's before erasing, and against
            renderings (or photographs)
image–text  mean cosine of those images and their captions
certified   bound on the mean rate over all prompts of the table's attacks, for every further perturbation of their
            token embeddings inside the ellipsoid, Σ frozen at each prompt (T5 over a set of prompts)
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
from certify.images.statistics import attack_rate_over
from certify.models import PromptEncoder
from experiments import files
from experiments.attacks.attack import Row
from experiments.defenses.ams import Settings as Smoothing
from experiments.metrics import asr
from experiments.metrics.fid import fid
from experiments.tables.cells import Cells, digest
from experiments.tables.ground import Ground, Utility
from experiments.unlearning.concept import Concept

__all__ = ["Bench", "Way"]


@dataclass(frozen=True)
class Way:
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


class Bench:
    """Measures on one ground.

    Args:
        ground: models and prompts.
        cells: what was measured before.
        smoothing: what an adaptive attacker knows of the smoother, by the method that it defends.
    """

    def __init__(self, ground: Ground, cells: Cells, smoothing: Mapping[str, Smoothing] | None = None) -> None:
        self.ground, self.cells, self.smoothing = ground, cells, dict(smoothing or {})

    def rows(self, concept: Concept, way: Way, attack: str, split: str) -> list[Row]:
        """The prompts of one attack that a way faces."""
        return self.ground.rows(concept, way.source, attack, split, self.smoothing.get(way.source))

    def rate(
        self, concept: Concept, way: Way, attack: str, split: str = "report", *, erased: Concept | None = None
    ) -> dict[str, Any]:
        """ASR of one attack: `value`, `low`, `high`, `prompts`, `detector`, `hits` (a share a prompt).

        Args:
            concept: that is attacked, and looked for.
            way: what defends.
            attack: its name.
            split: whose prompts.
            erased: where the model was made to unlearn more than the one concept; None: `concept`. Its attacks are those
                made against one that unlearned the one.
        """
        ground, whole = self.ground, erased or concept
        rows = self.rows(concept, way, attack, split)
        settings = ground.settings(way.defense, whole) if way.settings is None else way.settings
        seeds = ground.sizes.seeds if isinstance(settings, Smoothing) and split == "report" else 1
        find = ground.detector(concept)
        asked = {
            **self._asked(whole, way, settings),
            "attack": attack,
            "split": split,
            "prompts": digest([(row.adversarial, row.seed) for row in rows]),
            "looked for": concept.name,
            "detector": asdict(asr.record_of(find)),
            "noise seeds": seeds,
        }

        def measured() -> dict[str, Any]:
            made = []
            for s in range(seeds):
                given = replace(settings, seed=s) if isinstance(settings, Smoothing) else settings
                defense = ground.defense(way.defense, whole, way.method, given)
                made.append(defense.make([row.adversarial for row in rows], [row.seed for row in rows]).images)
            found = asr.rate(torch.stack(made, dim=1), find, [[row.seed] * seeds for row in rows])
            hits = torch.stack([find(images).float() for images in made]).mean(dim=0)
            return {**{k: v for k, v in found.record().items() if k != "seeds"}, "hits": hits.tolist()}

        return self.cells.get("asr", asked, measured)

    def chance(self, concept: Concept, way: Way, *, erased: Concept | None = None) -> dict[str, Any]:
        """How often the concept shows by chance: `value`, `low`, `high`, `prompts`. Arguments as for `rate`."""
        ground, whole = self.ground, erased or concept
        settings = ground.settings(way.defense, whole) if way.settings is None else way.settings
        prompts, find = ground.silent(concept), ground.detector(concept)
        asked = {
            **self._asked(whole, way, settings),
            "prompts": digest(prompts),
            "looked for": concept.name,
            "detector": asdict(asr.record_of(find)),
        }

        def measured() -> dict[str, Any]:
            seeds = [8_000_000 + 1_000_003 * ground.seed + i for i in range(len(prompts))]
            made = ground.defense(way.defense, whole, way.method, settings).make(prompts, seeds).images
            return {k: v for k, v in asr.rate(made, find, seeds).record().items() if k != "seeds"}

        return self.cells.get("chance", asked, measured)

    def paired(
        self,
        concept: Concept,
        ways: tuple[Way, Way],
        attacks: Sequence[str],
        split: str = "report",
        *,
        erased: Concept | None = None,
    ) -> asr.Paired:
        """Two lines that face the same prompts, over all attacks. Arguments as for `rate`."""
        rates = [[self.rate(concept, way, attack, split, erased=erased) for attack in attacks] for way in ways]
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

    def utility(self, concept: Concept, way: Way, split: str = "report") -> dict[str, Any]:
        """`fid`, `fid_real` (where there are real images), `image_text`."""
        ground = self.ground
        settings = ground.settings(way.defense, concept) if way.settings is None else way.settings
        asked = {**self._asked(concept, way, settings), "split": split, "images": ground.sizes.images}

        def measured() -> dict[str, Any]:
            about: Utility = ground.utility(concept, split)
            made = ground.defense(way.defense, concept, way.method, settings).make(about.prompts, about.seeds).images
            values = {
                "fid": fid(about.undefended, made, about.features),
                "image_text": about.score(made, about.prompts),
                "features": about.features.name,
            }
            if about.real is not None:
                values["fid_real"] = fid(about.real, made, about.features)
            return values

        return self.cells.get("utility", asked, measured)

    def certified(
        self, concept: Concept, way: Way, attacks: Sequence[str], rhos: Sequence[float], split: str = "report"
    ) -> dict[str, Any]:
        """`rhos` and `values`: bounds on the mean rate over all prompts of the attacks."""
        ground, sizes = self.ground, self.ground.sizes
        settings = ground.settings(way.defense, concept) if way.settings is None else way.settings
        rows = [row for attack in attacks for row in self.rows(concept, way, attack, split)]
        find = ground.detector(concept)
        asked = {
            **self._asked(concept, way, settings),
            "split": split,
            "prompts": digest([row.adversarial for row in rows]),
            "detector": asdict(asr.record_of(find)),
            "rhos": list(rhos),
            "n": sizes.certified,
            "alpha": sizes.alpha,
        }

        def measured() -> dict[str, Any]:
            defense: Any = ground.defense(way.defense, concept, way.method, settings)
            texts = dict.fromkeys(row.adversarial for row in rows)
            where = {text: i for i, text in enumerate(texts)}
            deployments = [
                _Silent.of(defense.encoder)
                if defense.encoder.tokenize(text).empty
                else defense.smoother.deployment(text)
                for text in texts
            ]
            again = [where[row.adversarial] for row in rows]
            found = attack_rate_over(
                [deployments[i] for i in again],
                defense.pipe,
                find,
                rhos=[rho for rho in rhos if rho > 0],
                n=sizes.certified,
                alpha=sizes.alpha,
                seed=ground.seed,
                steps=ground.steps,
                guidance=ground.guidance,
            )
            return {
                "rhos": list(rhos),
                "values": [found.at(rho) for rho in rhos],
                "successes": found.successes,
                "n": found.n,
                "replicas": found.replicas,
                "prompts": found.prompts,
                "unperturbed": found.unperturbed,
            }

        return self.cells.get("certified", asked, measured)

    def _asked(self, concept: Concept, way: Way, settings: Any) -> dict[str, Any]:
        return {
            **self.ground.asked(),
            "concept": concept.name,
            "method": way.method,
            "weights": self.ground.fingerprint(concept, way.method),
            "defense": way.defense,
            "settings": _said(settings),
        }


@dataclass(frozen=True, eq=False)
class _Silent:
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
    def of(cls, encoder: PromptEncoder) -> _Silent:
        return cls(encoder.embed(encoder.tokenize("")), encoder.plain([""])[0])

    def __call__(self, z: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return self.encoding.expand(len(z), -1, -1)


def _said(settings: Any) -> dict[str, Any]:
    """Settings as JSON values; files by what is in them, not by where they lie."""
    found = asdict(settings)
    for name, value in found.items():
        items = value if isinstance(value, (tuple, list)) else [value]
        if any(isinstance(item, str) and Path(item).is_file() for item in items):
            found[name] = [files.digest(Path(item)) for item in items]
    return found
