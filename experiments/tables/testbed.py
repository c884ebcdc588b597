"""Testbed: the models, prompts and measures that a table is measured on.

`Embedded` is the world that ships: it makes what is missing (erased models, attack prompts, a rewriter) and finds what is
there. `Given` is a real model: its erased models, attack prompts and captions are files that the user names.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import Tensor

from certify import _files, load_pipeline
from certify._workers import one_at_a_time
from certify.images.detectors import Detector
from experiments import attacks as registry
from experiments import files, unlearning
from experiments.attacks import attack as attacking
from experiments.attacks import learned
from experiments.attacks import targets as attack_targets
from experiments.attacks.attack import Row
from experiments.defenses import DEFENSES
from experiments.defenses.ams import Settings as Smoothing
from experiments.defenses.defense import Defense
from experiments.defenses.sld import Settings as Sld
from experiments.metrics import asr
from experiments.metrics.image_text import Scorer
from experiments.unlearning import command, measure, saving
from experiments.unlearning.concept import Concept
from experiments.world.embedded import EmbeddedWorld
from experiments.world.worlds import everything

__all__ = ["BESIDE", "OF_TEXT", "Embedded", "Sizes", "Testbed"]

OF_TEXT = ("implicit", "ring-a-bell", "mma", "qf-pgd")
"""Attacks that ask the text encoder alone: one file serves every victim whose encoder was left as it is."""

BESIDE = ("adaptive", "cce")
"""Attacks that the paper lacks, beside the mean: one that knows the smoother, and one that is no text."""

_COMMITTED = Path(__file__).parent / "prompts"


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        prompts: of every attack.
        beside: of those beside the mean (`BESIDE`), which take longer; at most `prompts`.
        images: behind FID and the image–text score.
        seeds: of the smoothing noise, averaged over.
        chance: images behind the chance level.
        certified: images behind a certified rate.
        alpha: failure probability of a certified rate.
    """

    prompts: int = 48
    beside: int = 48
    images: int = 512
    seeds: int = 3
    chance: int = 192
    certified: int = 1000
    alpha: float = 1e-3


@dataclass(frozen=True)
class Utility:
    """What utility is measured with: prompts about other things, and images that they are compared with.

    Attributes:
        prompts: captions.
        seeds: of the images' initial noise.
        undefended: the model's before erasing, from other seeds.
        real: renderings, or photographs; None: none.
        features: extractor of FID.
        score: image–text score.
    """

    prompts: Sequence[str]
    seeds: Sequence[int]
    undefended: Tensor
    real: Tensor | None
    features: Any
    score: Scorer


class Testbed(ABC):
    """What tables ask of a model.

    Args:
        sizes: how much is measured.
        seed: of attacks and images.

    Attributes:
        name: of the model.
        steps, guidance: of the sampler.
        grid: σ₀, in the unit of the smoother's settings, and k, of which table 3 chooses.
        places: the names of the concepts in the places of the paper's, as in `EmbeddedWorld`.
        columns_read: which column of which file was read.
    """

    name: str
    steps: int
    guidance: float
    places: Mapping[str, str] = MappingProxyType({"first": "", "second": "", "object": "", "style": ""})
    grid: Mapping[str, Sequence[float]] = MappingProxyType(
        {"sigma0": (0.003, 0.006, 0.009, 0.012), "k": (5.0, 9.0, 13.0)}
    )

    def __init__(self, sizes: Sizes, seed: int = 0) -> None:
        self.sizes, self.seed = sizes, seed
        self.columns_read: dict[Path, str] = {}

    @abstractmethod
    def concept(self, name: str) -> Concept:
        """What a table calls "cross"; a real model has one concept, whatever the table says."""

    @abstractmethod
    def victims(self) -> tuple[str, ...]:
        """Unlearning methods of which there are victims."""

    @abstractmethod
    def folder(self, concept: Concept, method: str) -> Path:
        """Of the victim's overlay."""

    @abstractmethod
    def pipe(self, concept: Concept, method: str) -> Any:
        """The victim; method "": the model before erasing."""

    @abstractmethod
    def attacks(self, concept: Concept, method: str, split: str) -> tuple[str, ...]:
        """Attacks of which there are prompts."""

    @abstractmethod
    def rows(
        self, concept: Concept, method: str, attack: str, split: str, smoothing: Smoothing | None = None
    ) -> list[Row]:
        """The prompts of one attack on a victim; made where that is possible and they are not there."""

    @abstractmethod
    def neutral_prompts(self, concept: Concept) -> list[str]:
        """Prompts that say nothing about what the concept is one of: what shows it all the same shows it by chance."""

    @abstractmethod
    def utility(self, concept: Concept, split: str) -> Utility:
        """What utility is measured with: other captions for "tune" than for "report"."""

    @abstractmethod
    def detector(self, concept: Concept) -> Detector:
        """What tells whether an image shows the concept."""

    @abstractmethod
    def settings(self, defense: str, concept: Concept) -> Any:
        """The defence's settings on this model."""

    def defense(
        self, name: str, concept: Concept, method: str, settings: Any = None, words: learned.Words | None = None
    ) -> Defense:
        """A defence of a victim, which has been taught the words that an attacker learned, if any."""
        chosen = self.settings(name, concept) if settings is None else settings
        if isinstance(chosen, Smoothing) and chosen.seed is None:
            raise ValueError(
                "settings has seed = None: must be a number, so that what is measured can be measured again"
            )
        return DEFENSES[name](
            learned.taught(self.pipe(concept, method), words or {}),
            steps=self.steps,
            guidance=self.guidance,
            concept=concept,
            settings=chosen,
        )

    def fingerprint(self, concept: Concept, method: str) -> str:
        """Digest of the victim's overlay; "" for the model before erasing."""
        if not method:
            return ""
        return files.digest(*sorted(saving.overlays(self.folder(concept, method)).values()))

    def key(self) -> dict[str, Any]:
        """What every measured result depends on."""
        return {"model": self.name, "steps": self.steps, "guidance": self.guidance, "seed": self.seed}


class Embedded(Testbed):
    """An embedded world, or a variant of it.

    Args:
        out: folder for what is made: victims, attack prompts, rewriters.
        sizes, seed: as for `Testbed`.
        world: which one; None: the one that ships.
        base: folder of a variant's pipeline; None: the world's own.
        label: names the variant in folders and records.
        blank: erase towards the blank prompt and preserve nothing else, as UCE and RECE were published, with the attack prompts
            of the other victims.
        progress: told what is being attacked.
        committed: attack prompts that came with the code; None: none are used.
    """

    def __init__(
        self,
        out: Path,
        sizes: Sizes,
        seed: int = 0,
        *,
        world: EmbeddedWorld | None = None,
        base: Path | None = None,
        label: str = "",
        blank: bool = False,
        committed: Path | None = _COMMITTED,
        progress: Callable[[str], None] = lambda text: None,
    ) -> None:
        super().__init__(sizes, seed)
        self.world = everything()[0] if world is None else world
        self.model = self.world.base if base is None else str(base)
        self.out, self.label, self.progress = out, "-".join(filter(None, (self.world.label, label))), progress
        self.committed, self.blank = committed, blank
        self.name = "the embedded model" + (f", {self.label}" if self.label else "")
        self.steps, self.guidance, self.places = self.world.steps, self.world.guidance, self.world.places
        self.grid = self.world.grid
        self._pipe = functools.lru_cache(maxsize=2)(self._loaded)
        self._utility = functools.lru_cache(maxsize=2)(self._measured_with)

    def concept(self, name: str) -> Concept:
        """Erased by its bare words, as published ("cross+star": both)."""
        how: dict[str, Any] = {"anchor": "", "preserve": ()} if self.blank else {}
        parts = [Concept.embedded(part, **how) for part in name.split("+")]
        first = replace(parts[0], templates=("{}",), captions=() if self.blank else parts[0].captions)
        if len(parts) == 1:
            return first
        words = tuple(part.name for part in parts)
        preserved = tuple(word for word in first.preserve if word not in words)
        return replace(first, name=name, erase=words, preserve=preserved, anchor=preserved[0] if preserved else "")

    def victims(self) -> tuple[str, ...]:
        return tuple(unlearning.METHODS)

    def folder(self, concept: Concept, method: str) -> Path:
        folder = self.out / "victims" / self.label / (concept.name + ("-blank" if self.blank else "")) / method
        how = unlearning.METHODS[method]
        with one_at_a_time(self.out, f"victim-{'-'.join(folder.relative_to(self.out).parts)}"):
            command.ensure_result(folder, how, concept, how.settings_for(concept), seed=self.seed, model=self.model)
        return folder

    def pipe(self, concept: Concept, method: str) -> Any:
        return self._pipe(self.folder(concept, method) if method else None)

    def _loaded(self, folder: Path | None) -> Any:
        overlay = {} if folder is None else saving.overlays(folder)
        return load_pipeline(self.model, **overlay)

    def attacks(self, concept: Concept, method: str, split: str) -> tuple[str, ...]:
        return tuple(registry.ATTACKS)

    def rows(
        self, concept: Concept, method: str, attack: str, split: str, smoothing: Smoothing | None = None
    ) -> list[Row]:
        place = Path(self.label) / concept.name / self._attacked(concept, method, attack) / split / f"{attack}.csv"
        with one_at_a_time(self.out, f"attack-{'-'.join(place.parts)}"):
            return self._rows(concept, method, attack, split, smoothing, place)

    def _rows(
        self, concept: Concept, method: str, attack: str, split: str, smoothing: Smoothing | None, place: Path
    ) -> list[Row]:
        from experiments.attacks.command import BATCH, reseeded, victim_of

        how = registry.ATTACKS[attack]
        path = self.out / "attacks" / place
        if self.committed is not None and not path.exists() and (self.committed / place).exists():
            _files.make_folder(path.parent)
            for file in (path.with_suffix(".json"), path):  # rows without what says how they were made are refused
                _files.write(file, (self.committed / place).with_suffix(file.suffix).read_bytes())
        count = min(self.sizes.prompts, self.sizes.beside) if attack in BESIDE else self.sizes.prompts
        wanted = reseeded(attack_targets.targets(concept, split, count=count, seed=self.seed), attack)
        there = {row.number for row in attacking.read_rows(path)} if path.exists() else set()
        # An attack on the smoother is one on these settings of it: what is there is checked against them.
        if "smoother" in how.needs or not {target.number for target in wanted} <= there:
            smoother = None
            if "smoother" in how.needs:
                smoother = self.defense("ams", concept, method, smoothing).smoother  # type: ignore[attr-defined]
            name = self._attacked(concept, method, attack)
            victim = victim_of(self.folder(concept, method), concept, name=name, model=self.model, smoother=smoother)
            if not {target.number for target in wanted} <= there:
                self.progress(f"attack: {attack} on {name}, {concept.name}, {split}")
            attacking.run(
                how,
                victim,
                wanted,
                how.embedded(),
                path,
                seed=self.seed,
                batch=BATCH,
                progress=lambda done, count: self.progress(f"attack: {attack} on {name}, {done} of {count} prompts"),
            )
        numbers = {target.number for target in wanted}
        return [row for row in attacking.read_rows(path) if row.number in numbers]

    def _attacked(self, concept: Concept, method: str, attack: str) -> str:
        edited = "text_encoder" in saving.overlays(self.folder(concept, method))
        return "text-encoder" if attack in OF_TEXT and not edited else method

    def neutral_prompts(self, concept: Concept) -> list[str]:
        return self.world.neutral(concept.name.partition("+")[0], self.sizes.chance, self.seed)

    def utility(self, concept: Concept, split: str) -> Utility:
        return self._utility(concept, split)

    def _measured_with(self, concept: Concept, split: str) -> Utility:
        from experiments.metrics.features import JudgeFeatures
        from experiments.metrics.image_text import world_scorer

        count = self.sizes.images
        part = ("tune", "report").index(split)
        prompts = measure.utility_prompts(concept, count, seed=9 + 10 * part)
        first = 2_000_000 * (1 + part) + self.seed * 1_000_003
        plain = self.defense("none", concept, "").make(prompts, [first + i for i in range(count)])
        return Utility(
            prompts,
            [first + count + i for i in range(count)],
            plain.images,
            measure.rendered(concept, count, seed=10 + 10 * part),
            JudgeFeatures(self.world.judge),
            world_scorer(self.world.tower),
        )

    def detector(self, concept: Concept) -> Detector:
        return asr.load(f"judge:{concept.name}")

    def settings(self, defense: str, concept: Concept) -> Any:
        if defense == "posi":
            from experiments.defenses import posi

            with one_at_a_time(self.out, f"posi-{concept.name}"):
                return posi.Settings(rewriter=str(posi.trained(concept, self.out / "posi", seed=self.seed)))
        settings = repeatable(DEFENSES[defense].embedded())
        if isinstance(settings, Smoothing) and self.world.label:
            own = tuple(self.world.pairs(name) for name in concept.name.split("+"))
            settings = replace(settings, concepts=own, **self.world.smoothing)
        elif isinstance(settings, Sld) and self.world.label:
            # Many words, as published: by a name that the victim knows no longer it would be guided nowhere.
            words = [word for name in concept.name.split("+") for word in self.world.spoken(name)[name]]
            settings = replace(settings, text=", ".join(words))
        return settings


def repeatable(settings: Any) -> Any:
    """Settings whose noise is the same in every run."""
    return replace(settings, seed=0) if isinstance(settings, Smoothing) and settings.seed is None else settings
