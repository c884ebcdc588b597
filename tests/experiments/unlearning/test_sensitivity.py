"""Sensitivity of neurons under attack: scores by hand, an attack that stays in its ball and helps, figures of the numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from certify import load_pipeline
from experiments.unlearning import sensitivity
from experiments.unlearning.concept import Concept
from experiments.unlearning.diffusion import Diffusion
from experiments.unlearning.sensitivity import ORIGINAL, Settings, Study
from tests.pipelines import pipeline_folder

__all__ = ["pipeline_folder"]

CONCEPT = Concept.of(
    ["circle"], anchor="square", neutral="photo", preserve=["coin"], templates=["a red {}", "a big {}"]
)
SMALL = Settings(radii=(0.1, 0.5), attack_steps=2, prompts=3, draws=2, images=3, top=0.2, steps=2, guidance=2.0)
CONV, FEED = "down_blocks.0.resnets.0.conv1", "down_blocks.0.attentions.0.transformer_blocks.0.ff.net.0"


@pytest.fixture(scope="module")
def diffusion(pipeline_folder: Path) -> Diffusion:
    return Diffusion(load_pipeline(pipeline_folder))


def _batch(diffusion: Diffusion, count: int = 3) -> tuple[torch.Tensor, ...]:
    source = torch.Generator().manual_seed(0)
    c = diffusion.encode(["a red circle", "a big circle", "a red coin"][:count])
    return diffusion.normal(count, source), diffusion.times(count, source), c


def _outputs(diffusion: Diffusion, layer: str, x: torch.Tensor, t: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """What a layer puts out, channels last: taken with a hook of the test's own."""
    seen: list[torch.Tensor] = []
    handle = diffusion.unet.get_submodule(layer).register_forward_hook(lambda m, i, o: seen.append(o))
    with torch.no_grad():
        diffusion.predict(x, t, c)
    handle.remove()
    return seen[0] if seen[0].ndim == 3 else seen[0].permute(0, 2, 3, 1).flatten(1, 2)


def test_neurons_are_feed_forward_units_and_channels_of_residual_blocks(diffusion: Diffusion) -> None:
    names = set(sensitivity.neurons(diffusion.unet))
    assert {CONV, FEED} <= names
    assert not any("attn" in name or "proj" in name or "time" in name or name == "conv_in" for name in names)
    with pytest.raises(ValueError, match="unet is a Linear: has no layers named"):
        sensitivity.neurons(torch.nn.Linear(2, 2))


@pytest.mark.parametrize("layer", [CONV, FEED])
def test_activations_by_hand(layer: str, diffusion: Diffusion) -> None:
    x, t, c = _batch(diffusion)
    found = sensitivity.activations(diffusion, x, t, c)[layer]
    torch.testing.assert_close(found, _outputs(diffusion, layer, x, t, c).abs().mean((0, 1)))
    assert not diffusion.unet.get_submodule(layer)._forward_hooks


@pytest.mark.parametrize("layer", [CONV, FEED])
@pytest.mark.parametrize("batch", [2, 64])
def test_sensitivity_by_hand(layer: str, batch: int, diffusion: Diffusion) -> None:
    x, t, c = _batch(diffusion)
    moved = c + 0.3 * torch.randn(c.shape, generator=torch.Generator().manual_seed(1))
    found = sensitivity.sensitivities(diffusion, x, t, c, moved, batch=batch)[layer]
    before, after = (_outputs(diffusion, layer, x, t, e).double() for e in (c, moved))
    expected = (after - before).abs().mean((0, 1)) / (before.abs().mean((0, 1)) + 1e-6)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    still = sensitivity.sensitivities(diffusion, x, t, c, c, batch=batch)
    assert max(float(s.max()) for s in still.values()) < 1e-3


def test_concept_neurons_are_the_most_raised() -> None:
    neutral = {"a": torch.tensor([1.0, 2.0, 4.0]), "b": torch.tensor([1.0, 1.0])}
    concept = {"a": torch.tensor([1.5, 2.2, 4.0]), "b": torch.tensor([0.5, 3.0])}
    chosen = sensitivity.concept_neurons(concept, neutral, 0.4)
    assert {name: mask.tolist() for name, mask in chosen.items()} == {"a": [True, False, False], "b": [False, True]}
    never = sensitivity.concept_neurons(neutral, neutral, 0.4)  # none is raised: none is one
    assert not any(bool(mask.any()) for mask in never.values())


@pytest.mark.parametrize("radius", [0.1, 1.0])
def test_the_attack_stays_in_its_ball_and_lowers_the_loss(radius: float, diffusion: Diffusion) -> None:
    source = torch.Generator().manual_seed(3)
    latents = diffusion.normal(4, source)
    c = diffusion.encode(["a red circle", "a big circle"])
    found = sensitivity.attack(diffusion, c, latents, radius=radius, steps=12, source=source)
    assert float((found - c).abs().max()) <= radius * (1 + 1e-5)
    assert not found.requires_grad
    random = c + radius * (2 * torch.rand(c.shape, generator=source) - 1)

    def loss(encodings: torch.Tensor) -> float:
        again = torch.Generator().manual_seed(4)
        x_0 = latents[torch.randint(4, (200,), generator=again)]
        noise, t = diffusion.normal(200, again), diffusion.times(200, again)
        x_t, aim = diffusion.noised(x_0, noise, t), diffusion.truth(x_0, noise, t)
        with torch.no_grad():
            return float((diffusion.predict(x_t, t, encodings.repeat(100, 1, 1)) - aim).square().mean())

    assert loss(found) < loss(random)
    assert loss(found) < loss(c)


def _studied(folder: Path) -> Study:
    return sensitivity.study({ORIGINAL: load_pipeline(folder), "edited": load_pipeline(folder)}, CONCEPT, SMALL)


def test_a_study_splits_all_neurons_and_a_wider_ball_moves_them_more(pipeline_folder: Path, tmp_path: Path) -> None:
    found = _studied(pipeline_folder)
    assert found.record["neurons"] == sum(
        len(scores[ORIGINAL]["0.1"]) for scores in (found.concept_scores, found.other_scores)
    )
    assert 0 < found.record["concept neurons"] == len(found.concept_scores[ORIGINAL]["0.1"])
    assert found.concept_scores["edited"] == found.concept_scores[ORIGINAL]  # the same model, the same luck
    assert sum(found.other_scores[ORIGINAL]["0.5"]) > sum(found.other_scores[ORIGINAL]["0.1"])
    assert found.rates == {}  # nobody judges a model that is not the embedded one
    found.save(tmp_path / "a.json")
    assert Study.load(tmp_path / "a.json") == found


def test_a_study_needs_the_original(pipeline_folder: Path) -> None:
    with pytest.raises(ValueError, match="must have 'original' among them"):
        sensitivity.study({"edited": load_pipeline(pipeline_folder)}, CONCEPT, SMALL)


def _made_up() -> Study:
    return Study(
        "circle",
        (0.1, 0.5),
        {"esd": {"0.1": [1.0, 2.0, 9.0], "0.5": [5.0]}, "p-esd": {"0.1": [0.5, 0.6], "0.5": [1.0]}},
        {"esd": {"0.1": [0.1, 0.2], "0.5": [0.3]}, "p-esd": {"0.1": [0.1], "0.5": [0.2]}},
    )


def test_figures_show_medians_of_what_was_measured() -> None:
    first = sensitivity.plot_concept_neurons([_made_up()], "esd")
    second = sensitivity.plot_models([_made_up()], ["esd", "p-esd"], radius=0.5)
    for figure, expected in ((first, {2.0, 0.15}), (second, {5.0, 1.0})):
        (axes,) = figure.axes
        medians = {float(line.get_ydata()[0]) for line in axes.lines if len(set(line.get_ydata())) == 1}
        assert all(any(m == pytest.approx(e) for m in medians) for e in expected)
        assert [label.get_text() for label in axes.get_xticklabels()] == ["circle"]
    assert [text.get_text() for text in second.legends[0].get_texts()] == ["esd", "p-esd"]


BAD: dict[str, tuple[Any, str]] = {
    "model": (
        lambda: sensitivity.plot_concept_neurons([_made_up()], "uce"),
        r"model = 'uce': must be one of esd, p-esd",
    ),
    "radius": (
        lambda: sensitivity.plot_models([_made_up()], ["esd"], radius=0.2),
        r"radius = 0\.2: must be one of 0\.1, 0\.5",
    ),
    "no studies": (lambda: sensitivity.plot_models([], ["esd"]), r"studies = \[\]: must be at least one"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_calls(name: str) -> None:
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        call()


def test_a_file_that_is_no_study(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(ValueError, match="is not a study of sensitivity"):
        Study.load(tmp_path / "a.json")
