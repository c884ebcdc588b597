"""Given: a real model as a testbed; its erased models, attack prompts and captions are files that the user names."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from certify import load_pipeline
from certify.datasets.prompt_files import SUFFIXES
from certify.images.detectors import Detector
from certify.models import load_text_encoder
from experiments import attacks as registry
from experiments import files
from experiments.attacks import attack as attacking
from experiments.attacks import targets as attack_targets
from experiments.attacks.attack import Row, Target
from experiments.defenses import DEFENSES
from experiments.defenses.ams import Settings as Smoothing
from experiments.metrics import asr
from experiments.tables.testbed import Sizes, Testbed, Utility, repeatable
from experiments.unlearning import saving
from experiments.unlearning.concept import Concept

__all__ = ["Given"]


_TABLES = tuple(ending for ending in SUFFIXES if ending != ".txt")  # notes may lie beside tables


class Given(Testbed):
    """A real model, with files of the user's.

    Args:
        model: hub id or folder.
        concept: what was erased.
        victims: method → file or folder of its overlay (what `unlearn` writes, or a U-Net's state dict).
        prompts: folder with VICTIM/ATTACK.csv or ATTACK.csv: rows of `attack`, or any table that
            `certify.datasets.prompt_files` reads, of what an attack found, perhaps with seeds.
        detector: as for `experiments.metrics.asr.load`.
        captions: table of prompts about other things; None: no utility.
        real: folder of images, the second reference of FID; None: none.
        clip: folder of a `CLIPModel`, for FID's features and the image–text score; None: no utility.
        defaults: settings of defences by name; what is not there is published.
        steps, guidance: of the sampler.
        device, dtype: of the model.
        truncate: cut prompts that do not fit into the context as the plain pipeline does; off: refuse them.

    Raises:
        FileNotFoundError: a file or folder is not there.
        ValueError: a table lacks its column.
    """

    def __init__(
        self,
        model: str,
        concept: Concept,
        victims: Mapping[str, Path],
        prompts: Path,
        detector: str | Detector,
        sizes: Sizes,
        seed: int = 0,
        *,
        captions: Path | None = None,
        real: Path | None = None,
        clip: Path | None = None,
        defaults: Mapping[str, Any] | None = None,
        steps: int = 50,
        guidance: float = 7.5,
        device: str = "cpu",
        dtype: str | None = None,
        truncate: bool = False,
    ) -> None:
        super().__init__(sizes, seed)
        self.truncate, self._reader = truncate, functools.lru_cache(maxsize=1)(lambda: load_text_encoder(model))
        self.name, self._concept, self._victims = model, concept, dict(victims)
        self._prompts, self._captions, self._real, self._clip = prompts, captions, real, clip
        self._detector, self._defaults = asr.load(detector), dict(defaults or {})
        self.steps, self.guidance, self.device, self.dtype = steps, guidance, device, dtype
        for argument, path in (("prompts", prompts), ("utility", captions), ("references", real), ("clip", clip)):
            if path is not None and not path.exists():
                raise FileNotFoundError(f"{argument} = {str(path)!r}: no such file or folder")
        for name, path in self._victims.items():
            if not path.exists():
                raise FileNotFoundError(f"victim = '{name}={path}': no such file or folder")
        self._pipe = functools.lru_cache(maxsize=1)(self._loaded)
        self._utility = functools.lru_cache(maxsize=1)(self._measured_with)

    def concept(self, name: str) -> Concept:
        return self._concept

    def victims(self) -> tuple[str, ...]:
        return tuple(self._victims)

    def folder(self, concept: Concept, method: str) -> Path:
        return self._victims[method]

    def pipe(self, concept: Concept, method: str) -> Any:
        return self._pipe(method)

    def _loaded(self, method: str) -> Any:
        overlay = saving.overlays(self._victims[method]) if method else {}
        return load_pipeline(self.name, device=self.device, dtype=self.dtype, **overlay)

    def attacks(self, concept: Concept, method: str, split: str) -> tuple[str, ...]:
        folders = (self._prompts / method, self._prompts)
        names = {p.stem: None for folder in folders for p in sorted(folder.glob("*")) if p.suffix.lower() in _TABLES}
        return tuple(name for name in (*registry.ATTACKS, *sorted(set(names) - set(registry.ATTACKS))) if name in names)

    def rows(
        self, concept: Concept, method: str, attack: str, split: str, smoothing: Smoothing | None = None
    ) -> list[Row]:
        # .csv first: `attack` writes a .json beside it, about its rows.
        named = [folder / f"{attack}{end}" for folder in (self._prompts / method, self._prompts) for end in _TABLES]
        path = next((p for p in named if p.exists()), None)
        if path is None:
            raise FileNotFoundError(f"prompts = {str(self._prompts)!r}: has no {attack}.csv, nor {method}/{attack}.csv")
        if path.suffix == ".csv" and attacking.written_by_attack(path):
            rows = attacking.read_rows(path)[: self.sizes.prompts]
            self._within(path, [row.adversarial for row in rows], f"rows of {path.name}")
            return rows
        return [
            Row(attack, method, concept.name, target.number, target.prompt, target.seed, target.prompt, 0.0)
            for target in self._read(path, self.sizes.prompts, purpose="adversarial", empty=True)
        ]

    def neutral_prompts(self, concept: Concept) -> list[str]:
        """The empty prompt."""
        return [""] * self.sizes.chance

    def utility(self, concept: Concept, split: str) -> Utility:
        return self._utility(concept, split)

    def _measured_with(self, concept: Concept, split: str) -> Utility:
        from experiments.metrics.features import ClipFeatures
        from experiments.metrics.image_text import clip_scorer

        if self._captions is None or self._clip is None:
            raise ValueError("utility, clip: must both be given to measure FID and the image–text score")
        told = self._read(self._captions, self.sizes.images, argument="utility")
        prompts, seeds = [target.prompt for target in told], [target.seed for target in told]
        plain = self.defense("none", concept, "").make(prompts, [seed + 1_000_003 for seed in seeds], batch=8)
        height, width = plain.images.shape[-2:]
        real = None if self._real is None else files.images(self._real, height, width, "references")
        return Utility(
            prompts,
            seeds,
            plain.images,
            real,
            ClipFeatures(self._clip),
            clip_scorer(self._clip),
        )

    def detector(self, concept: Concept) -> Detector:
        return self._detector

    def settings(self, defense: str, concept: Concept) -> Any:
        return repeatable(self._defaults.get(defense, DEFENSES[defense].published()))

    def _read(
        self, path: Path, count: int, *, purpose: str = "benign", empty: bool = False, argument: str = "prompts"
    ) -> list[Target]:
        table = attack_targets.read(
            path, count=count, first=self.seed * 1_000_003, purpose=purpose, empty=empty, argument=argument
        )
        self._within(path, [target.prompt for target in table.targets], table.summary)
        return table.targets

    def read_all(self) -> None:
        """Reads every file of prompts once, so that one that is refused is refused before anything is measured.

        Raises:
            ValueError: one is broken, or has prompts that do not fit and are not to be cut.
        """
        for method in self.victims():
            for attack in self.attacks(self._concept, method, "report"):
                self.rows(self._concept, method, attack, "report")
        if self._captions is not None:
            self._read(self._captions, self.sizes.images, argument="utility")

    def _within(self, path: Path, texts: Sequence[str], summary: str) -> None:
        cut = attack_targets.within(self._reader(), texts, f"prompts = {str(path)!r}", truncate=self.truncate)
        if cut or not summary.startswith("rows"):
            self.columns_read[path] = summary + (
                f"; {cut:,} of {len(texts):,} do not fit into the context and are cut" if cut else ""
            )
