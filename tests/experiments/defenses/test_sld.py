"""SLD: each preset against steps computed by hand, whole runs against the port in diffusers, ε against v."""

from __future__ import annotations

import warnings
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from certify import load_pipeline
from certify.models.quiet import quiet_libraries
from experiments.defenses import DEFENSES, sld
from experiments.defenses.defense import Plain
from experiments.defenses.sld import PRESETS, published_text, safety
from experiments.unlearning.concept import Concept

CONCEPT = Concept.of(["circle"])
PROMPTS = ["a red circle", "a photo of the blue square", "the coin and a starfish"]

E_U = torch.tensor([0.001, 0.0, 0.0, 0.0])
E_C = torch.tensor([0.004, 0.5, -0.0004, 0.018])
E_S = torch.tensor([0.008, 0.1, 0.0002, 0.010])
# e_c − e_S = −.004, .4, −.0006, .008;   e_S − e_u = .007, .1, .0002, .010

# By hand, with s_g = 2: φ, then what the second step's γ and ν are of the first γ = φ ⊙ (e_S − e_u).
BY_HAND = {
    # 200 · |…| where e_c − e_S < 0
    "weak": ([0.8, 0.0, 0.12, 0.0], 1.0, 1.0),
    # clamped at 1; .6 = 1000 · .0006; .008 is below λ = .01, .4 is not.
    # ν = .6 γ;  γ' = γ + .3 · .6 γ;  ν' = .4 · .6 γ + .6 γ'
    "medium": ([1.0, 0.0, 0.6, 1.0], 1.18, 0.948),
    # 2000 · .0006 > 1.   ν = .3 γ;  γ' = γ + .5 · .3 γ;  ν' = .7 · .3 γ + .3 γ'
    "strong": ([1.0, 0.0, 1.0, 1.0], 1.15, 0.555),
    # .4 is below λ = 1
    "max": ([1.0, 1.0, 1.0, 1.0], 1.15, 0.555),
}


@pytest.mark.parametrize("preset", BY_HAND)
def test_two_steps_by_hand(preset):
    phi, second, momentum = BY_HAND[preset]
    settings = PRESETS[preset]
    gamma = torch.tensor(phi) * torch.tensor([0.007, 0.1, 0.0002, 0.010])
    first, nu = safety(E_C - E_S, E_S - E_U, torch.zeros(4), settings)
    assert torch.allclose(first, gamma, rtol=1e-5, atol=1e-9)
    again, nu = safety(E_C - E_S, E_S - E_U, nu, settings)
    assert torch.allclose(again, second * gamma, rtol=1e-5, atol=1e-9)
    assert torch.allclose(nu, momentum * gamma, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("preset", ["medium", "strong", "max"])
def test_no_other_preset_gives_these_steps(preset):
    """The control: the numbers above tell the presets apart."""
    nu = torch.zeros(4)
    for _ in range(2):
        gamma, nu = safety(E_C - E_S, E_S - E_U, nu, PRESETS[preset])
    for other in set(PRESETS) - {preset}:
        different, nu = torch.zeros(4), torch.zeros(4)
        for _ in range(2):
            different, nu = safety(E_C - E_S, E_S - E_U, nu, PRESETS[other])
        assert not torch.allclose(gamma, different, rtol=1e-3, atol=1e-7)


def test_a_unit_measures_the_predictions():
    """Predictions u times as large, in units of u: γ is u times as large."""
    small, _ = safety(E_C - E_S, E_S - E_U, torch.zeros(4), PRESETS["medium"])
    large, _ = safety(30 * (E_C - E_S), 30 * (E_S - E_U), torch.zeros(4), replace(PRESETS["medium"], unit=30.0))
    assert torch.allclose(large, 30 * small)


@pytest.mark.parametrize(("steps", "expected"), [(50, (15, 10, 7, 0)), (25, (8, 5, 4, 0)), (8, (2, 2, 1, 0))])
def test_the_warm_up_is_a_share_of_the_run(steps, expected):
    assert tuple(PRESETS[name].warmup_of(steps) for name in ("weak", "medium", "strong", "max")) == expected


@pytest.fixture(scope="module")
def pipe(pipeline_folder):
    return load_pipeline(pipeline_folder)


@pytest.fixture(scope="module")
def velocity(pipeline_folder_sd2):
    return load_pipeline(pipeline_folder_sd2)


def far(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max())


def defended(pipe, preset: str, *, steps: int = 8, **changes) -> torch.Tensor:
    defence = DEFENSES[f"sld-{preset}"](
        pipe, steps=steps, guidance=5.0, concept=CONCEPT, settings=replace(PRESETS[preset], **changes)
    )
    return defence.make(PROMPTS, [3, 4, 5]).images


@pytest.mark.parametrize("preset", PRESETS)
def test_a_run_is_that_of_the_port_in_diffusers(pipe, preset):
    with quiet_libraries(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from diffusers.pipelines.deprecated.stable_diffusion_safe import StableDiffusionPipelineSafe

        parts = {name: getattr(pipe, name) for name in ("vae", "text_encoder", "tokenizer", "unet", "scheduler")}
        ported = StableDiffusionPipelineSafe(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
        ported.safety_concept = "circle"
        ported.set_progress_bar_config(disable=True)
        s = PRESETS[preset]
        noise = [torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(seed)) for seed in (3, 4, 5)]
        made = ported(
            prompt=PROMPTS,
            height=8,
            width=8,
            num_inference_steps=20,
            guidance_scale=5.0,
            latents=torch.cat(noise),
            output_type="np",
            sld_guidance_scale=s.scale,
            sld_warmup_steps=s.warmup_of(20),
            sld_threshold=s.threshold,
            sld_momentum_scale=s.momentum,
            sld_mom_beta=s.decay,
        ).images
    expected = torch.as_tensor(made).permute(0, 3, 1, 2)
    made = defended(pipe, preset, steps=20)
    assert torch.allclose(made, expected, atol=2e-4)
    plain = Plain(pipe, steps=20, guidance=5.0).make(PROMPTS, [3, 4, 5]).images
    assert far(plain, expected) > 10 * far(made, expected)


class Epsilon(nn.Module):
    """A U-Net that predicts v, as one that predicts ε."""

    def __init__(self, unet, scheduler) -> None:
        super().__init__()
        self.unet, self.config, self.levels = unet, unet.config, scheduler.alphas_cumprod

    def forward(self, x, t, encoder_hidden_states, return_dict=False):
        v = self.unet(x, t, encoder_hidden_states=encoder_hidden_states, return_dict=False)[0]
        level = self.levels[int(t)]
        return (level.sqrt() * v + (1 - level).sqrt() * x,)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_velocity_is_guided_as_its_noise_would_be(velocity, preset, monkeypatch):
    from diffusers import DDIMScheduler

    noise = SimpleNamespace(
        unet=Epsilon(velocity.unet, velocity.scheduler),
        vae=velocity.vae,
        tokenizer=velocity.tokenizer,
        text_encoder=velocity.text_encoder,
        scheduler=DDIMScheduler.from_config(velocity.scheduler.config, prediction_type="epsilon"),
    )
    made = defended(velocity, preset)
    as_noise = defended(noise, preset)
    assert torch.allclose(made, as_noise, atol=2e-3)
    monkeypatch.setattr(sld, "level", lambda *_: 1.0)  # v taken for ε
    assert far(defended(velocity, preset), made) > 10 * far(made, as_noise)


def test_a_warm_up_as_long_as_the_run_is_no_defence(pipe):
    plain = Plain(pipe, steps=8, guidance=5.0).make(PROMPTS, [3, 4, 5]).images
    never = far(defended(pipe, "max", warmup=49), plain)
    assert never < 1e-4
    assert far(defended(pipe, "max"), plain) > 10 * never


def test_the_safety_concept_is_the_erased_one_or_the_published_string(pipe):
    concept = Concept.of(["circle", "coin"])
    common = {"steps": 8, "guidance": 5.0, "concept": concept}
    assert DEFENSES["sld-weak"](pipe, **common).text == "circle, coin"
    own = DEFENSES["sld-weak"](pipe, **common, settings=replace(PRESETS["weak"], text="a square"))
    assert own.text == "a square"
    assert own.described()["text"] == "a square"
    published = published_text()
    assert len(published.split(",")) == 20
    text = DEFENSES["sld-weak"](pipe, **common, settings=replace(PRESETS["weak"], text="published")).text
    assert text
    assert published.startswith(text)
    with pytest.raises(ValueError, match="concept = None: 'sld-weak' must be told"):
        DEFENSES["sld-weak"](pipe, steps=8, guidance=5.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"warmup": 50}, "warmup = 50: must be below 50"),
        ({"warmup": -1}, "warmup = -1"),
        ({"scale": 0}, "scale = 0: must be a finite number > 0"),
        ({"unit": -1.0}, "unit = -1.0"),
        ({"threshold": -0.1}, "threshold = -0.1: must be a finite number >= 0"),
        ({"momentum": 1.5}, "momentum = 1.5: must be between 0 and 1"),
        ({"decay": float("nan")}, "decay = nan"),
        ({"decay": 1.0}, "decay = 1.0: must be below 1"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(PRESETS["weak"], **changes)
