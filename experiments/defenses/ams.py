"""AMS: adaptive median smoothing, the defence that `certify` certifies, as a column of the tables.

    σ_j = min( σ_0 exp(k · sim_j), σ_max ),      h = median( T(y + G_1), …, T(y + G_n) ),      G_i ~ N(0, diag σ²)

Reference: Han et al. (2025), "Adaptive Median Smoothing: Adversarial Defense for Unlearned Text-to-Image Diffusion Models at
Inference Time". Known from the paper: σ_0 = .006, k = 9, n = 13 for ESD with local relevance; σ_0 = .012 with the global
flag for UCE and nudity, local for UCE and violence; several concepts by the largest relevance. Ours, where the paper
is silent: `certify.AdaptiveMedianSmoother`'s options (which cosine, where noise is, how large it may get).

`VARIANTS` are what the tables and sweeps compare; every one is the published settings, or the embedded model's, with one
thing changed. A prompt of no tokens has no relevance and keeps its plain encoding. The smoothing noise is
fresh at every call; a measurement fixes it with `seed`, and the published tables average over three.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Unpack

import torch
from torch import Tensor

from certify import AdaptiveMedianSmoother, _validate
from certify.adaptive.concepts import SIMILARITIES
from certify.adaptive.policies import SHARING, SMOOTHERS
from certify.adaptive.smoother import SPECIAL_TOKENS
from certify.world import SMOOTHING
from experiments.defenses.defense import Defense, DefenseOptions

__all__ = ["VARIANTS", "Ams", "Settings", "variant"]


@dataclass(frozen=True)
class Settings:
    """Options of `certify.AdaptiveMedianSmoother`, which explains and checks them, and of the defence.

    Attributes:
        concepts: names or paths of concept pairs; none: the pairs that ship for the erased concept.
        sigma0, sigma0_relative: σ_0, absolute or in standard deviations of the token embeddings; one of them, or neither.
        aggregate: `smoother` there: "median" or "mean".
        k, n, use_global, policy, similarity, special_tokens: as there.
        sigma_min_relative, sharing: of "noise-then-adapt".
        sigma_max_relative: the cap in the same units; None: that of the smoother.
        seed: of the smoothing noise; None: fresh at every call, as it is deployed. A measurement that can be repeated needs a
            number (`Testbed.defense` asks for one).
    """

    concepts: tuple[str, ...] = ()
    sigma0: float | None = 0.006
    sigma0_relative: float | None = None
    k: float = 9.0
    n: int = 13
    aggregate: str = "median"
    use_global: bool = False
    policy: str = "frozen"
    similarity: str = "flattened"
    special_tokens: str = "none"
    sigma_min_relative: float | None = None
    sharing: str = "none"
    sigma_max_relative: float | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        given: object = self.concepts
        if isinstance(given, str):
            raise TypeError(f"concepts = {given!r}: must be a list of names or paths")
        if self.seed is not None:
            _validate.seed_value(self.seed)
        _validate.choice("policy", self.policy, ("frozen", "noise-then-adapt"))
        for name, allowed in (
            ("aggregate", SMOOTHERS),
            ("similarity", SIMILARITIES),
            ("special_tokens", SPECIAL_TOKENS),
            ("sharing", SHARING),
        ):
            _validate.choice(name, getattr(self, name), allowed)


VARIANTS: dict[str, dict[str, Any]] = {
    "local": {"use_global": False},
    "global": {"use_global": True},
    "isotropic": {"k": 0.0},
    "mean": {"aggregate": "mean"},
    "noise-then-adapt": {"policy": "noise-then-adapt", "sharing": "input"},
}
"""Name → what is different. Several concepts: `replace(settings, concepts=(…))`."""


def variant(settings: Settings, name: str, **changes: Any) -> Settings:
    """The settings with one variant's difference, and with what else is given.

    Raises:
        ValueError: no such variant.
    """
    return replace(settings, **{**VARIANTS[_validate.choice("name", name, VARIANTS)], **changes})


class Ams(Defense):
    """The smoothed encoding in place of the plain one.

    Attributes:
        smoother: the `certify.AdaptiveMedianSmoother`, for certificates and for attackers who know it.
    """

    name = "ams"

    def __init__(self, pipe: Any, **options: Unpack[DefenseOptions]) -> None:
        super().__init__(pipe, **options)
        given = asdict(self.settings)
        self.seed = given.pop("seed")
        given["smoother"] = given.pop("aggregate")
        concepts = list(given.pop("concepts")) or [self._against().name]
        self.smoother = AdaptiveMedianSmoother.from_pipeline(pipe, concepts, truncate=True, **given)

    @classmethod
    def published(cls) -> Settings:
        return Settings()

    @classmethod
    def embedded(cls) -> Settings:
        return Settings(sigma0=None, **SMOOTHING)

    def encoded(self, prompts: Sequence[str]) -> Tensor:
        empty = [self.encoder.tokenize(prompt).empty for prompt in prompts]
        if all(empty):
            return self.encoder.plain(list(prompts))
        said = [prompt for prompt, nothing in zip(prompts, empty, strict=True) if not nothing]
        smoothed = iter(self.smoother.encode(said, seed=self.seed))
        plain = self.encoder.plain([""])[0]
        return torch.stack([plain if nothing else next(smoothed) for nothing in empty])

    def described(self) -> dict[str, Any]:
        settings = self.smoother.settings()
        del settings["truncate"]  # under every defence alike
        return {**settings, "seed": self.seed}
