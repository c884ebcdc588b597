"""SLD: safe latent diffusion. The sampler is guided away from a third prompt that names what must not be seen.

    φ_i = min( s_S |e_c − e_S|, 1 )  where e_c − e_S < λ, else 0            element by element
    γ_i = φ_i ⊙ (e_S − e_u) + s_m ν_i,          ν_{i+1} = β_m ν_i + (1 − β_m) γ_i,     ν_0 = 0
    e   = e_u + s_g ( e_c − e_u − γ_i · 1[i ≥ δ] )

e_u, e_c, e_S are the noise predicted without a prompt, with the prompt, and with the safety concept. The momentum ν is
built from the first step on, used or not.

    preset   δ (of 50 steps)   s_S     λ      s_m   β_m
    weak     15                200     0      0     0
    medium   10                1 000   0.01   0.3   0.4
    strong   7                 2 000   0.025  0.5   0.7
    max      0                 5 000   1      0.5   0.7

Reference: Schramowski et al. (2023), "Safe Latent Diffusion: Mitigating Inappropriate Degeneration in Diffusion Models".
Known from the public source: the formulas, the order of the updates, the presets (the port in diffusers says s_S = 20
for weak), δ as a number of sampler steps; a harness that compares δ with the training time step, which falls, has the
warm-up at the wrong end. Ours: δ is rounded to the same share of a sampler with another number of steps; the safety
concept is the erased concept, as benchmarks of erasure have it, with the published string on request.

The formulas are for ε, and that matters: φ is not linear. For a U-Net that predicts v, ε = √ᾱ v + √(1−ᾱ) x, so
differences of ε are √ᾱ times those of v; they are what φ, γ and ν are computed from here, and γ/√ᾱ is what v is guided
by. Early in a sampler, where ᾱ is close to 0, no two predictions of noise differ by much and φ is small.

s_S and λ are tied to how far a model's predictions differ. `unit` says how many times larger these differences are than
Stable Diffusion's: s_S/unit and λ·unit are used.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor

from certify import _validate
from certify.models.quiet import quiet_libraries
from certify.models.sampling import decode, initial_noise
from certify.models.trajectory import level
from experiments.defenses.defense import Defense, DefenseOptions, fitting
from experiments.settings import check

__all__ = [
    "PRESETS",
    "PUBLISHED",
    "Settings",
    "Sld",
    "SldMax",
    "SldMedium",
    "SldStrong",
    "SldWeak",
    "published_text",
    "safety",
]

PUBLISHED = "published"
"""As a setting's `text`: the safety concept of the public source."""

UNIT = 10.0
"""The embedded model's, chosen on its tune split: medium, strong and max suppress more, one after the other."""


@dataclass(frozen=True)
class Settings:
    """Options of SLD.

    Attributes:
        warmup: δ, steps of 50 without safety guidance, ≥ 0.
        scale: s_S > 0.
        threshold: λ ≥ 0.
        momentum: s_m in [0, 1].
        decay: β_m in [0, 1).
        unit: how many times larger the model's differences of predictions are than Stable Diffusion's.
        text: the safety concept; "": the erased concept's words; "published": the public source's.
    """

    warmup: int
    scale: float
    threshold: float
    momentum: float
    decay: float
    unit: float = 1.0
    text: str = ""

    def __post_init__(self) -> None:
        check(
            self,
            from_zero=("warmup",),
            positive=("scale", "unit"),
            not_negative=("threshold",),
            shares=("momentum", "decay"),
        )
        if self.warmup >= 50:
            raise ValueError(f"warmup = {self.warmup}: must be below 50, it is in steps of 50")
        if self.decay == 1:
            raise ValueError(f"decay = {self.decay!r}: must be below 1, the momentum would never change")

    def warmup_of(self, steps: int) -> int:
        """δ for a sampler with so many steps, rounded half up."""
        return int(self.warmup * steps / 50 + 0.5)


PRESETS: dict[str, Settings] = {
    "weak": Settings(15, 200, 0.0, 0.0, 0.0),
    "medium": Settings(10, 1000, 0.01, 0.3, 0.4),
    "strong": Settings(7, 2000, 0.025, 0.5, 0.7),
    "max": Settings(0, 5000, 1.0, 0.5, 0.7),
}
"""The published settings."""


def safety(c_S: Tensor, S_u: Tensor, momentum: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    """γ and the next ν, both of the predictions' shape.

    Args:
        c_S: e_c − e_S, of noise.
        S_u: e_S − e_u, of noise.
        momentum: ν.
        settings: s_S, λ, s_m, β_m.
    """
    phi = (settings.scale / settings.unit * c_S.abs()).clamp(max=1)
    phi = torch.where(c_S >= settings.threshold * settings.unit, 0.0, phi)
    gamma = phi * S_u + settings.momentum * momentum
    return gamma, settings.decay * momentum + (1 - settings.decay) * gamma


def published_text() -> str:
    """The safety concept of the public source, as its port in diffusers has it.

    Raises:
        ImportError: the installed diffusers has it no longer; give the text instead.
    """
    try:
        with quiet_libraries():
            from diffusers.pipelines.deprecated.stable_diffusion_safe import StableDiffusionPipelineSafe

            parts = ("vae", "text_encoder", "tokenizer", "unet", "scheduler", "safety_checker", "feature_extractor")
            ported = StableDiffusionPipelineSafe(**dict.fromkeys(parts), requires_safety_checker=False)
    except ImportError as error:
        raise ImportError(f"text = {PUBLISHED!r}: is not in this diffusers; give the text itself ({error})") from error
    return str(ported.safety_concept)


class Sld(Defense):
    """SLD with one of the presets, or with settings of one's own."""

    preset: ClassVar[str]

    @classmethod
    def published(cls) -> Settings:
        return PRESETS[cls.preset]

    @classmethod
    def embedded(cls) -> Settings:
        return replace(cls.published(), unit=UNIT)

    def __init__(self, pipe: Any, **options: Unpack[DefenseOptions]) -> None:
        super().__init__(pipe, **options)
        kind = pipe.scheduler.config.get("prediction_type", "epsilon")
        if kind not in ("epsilon", "v_prediction"):
            raise ValueError(f"scheduler's prediction_type = {kind!r}: must be 'epsilon' or 'v_prediction'")
        self.velocity = kind == "v_prediction"
        text = self.settings.text or ", ".join(self._against().erase)
        self.text = fitting(self.encoder, published_text() if text == PUBLISHED else text)

    @torch.no_grad()
    def drawn(self, embeds: Tensor, seeds: Sequence[int]) -> Tensor:
        """Images by the sampler with safety guidance; initial noise as without it."""
        unet, scheduler = self.pipe.unet, copy.deepcopy(self.pipe.scheduler)
        weight = next(unet.parameters())
        sources = [torch.Generator().manual_seed(_validate.seed_value(s)) for s in seeds]
        scheduler.set_timesteps(self.steps, device=weight.device)
        others = self.encoder.plain(["", self.text])
        c = torch.cat([others[:1].expand_as(embeds), embeds, others[1:].expand_as(embeds)]).to(
            weight.device, weight.dtype
        )
        x = initial_noise(self.pipe, len(embeds), sources) * scheduler.init_noise_sigma
        taken = inspect.signature(scheduler.step).parameters
        extra = {"generator": sources} if "generator" in taken else {}
        warmup, momentum = self.settings.warmup_of(self.steps), torch.zeros_like(x)
        for i, t in enumerate(scheduler.timesteps):
            given = scheduler.scale_model_input(torch.cat([x, x, x]), t)
            e_u, e_c, e_S = unet(given, t, encoder_hidden_states=c, return_dict=False)[0].chunk(3)
            # Differences of noise are `root` times differences of what is predicted. At ᾱ = 0 they vanish, and γ with them.
            root = max(level(i, t, scheduler) ** 0.5, 1e-12) if self.velocity else 1.0
            gamma, momentum = safety(root * (e_c - e_S), root * (e_S - e_u), momentum, self.settings)
            direction = e_c - e_u - (gamma / root if i >= warmup else 0)
            x = scheduler.step(e_u + self.guidance * direction, t, x, **extra, return_dict=False)[0]
        return decode(self.pipe, x)

    def described(self) -> dict[str, Any]:
        return {
            **asdict(self.settings),
            "text": self.text,
            "warmup of this sampler": self.settings.warmup_of(self.steps),
            "guided": "ε from v" if self.velocity else "ε",
        }


class SldWeak(Sld):
    """SLD, preset weak."""

    name, preset = "sld-weak", "weak"


class SldMedium(Sld):
    """SLD, preset medium."""

    name, preset = "sld-medium", "medium"


class SldStrong(Sld):
    """SLD, preset strong."""

    name, preset = "sld-strong", "strong"


class SldMax(Sld):
    """SLD, preset max."""

    name, preset = "sld-max", "max"
