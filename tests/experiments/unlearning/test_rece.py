"""RECE: c' and the edit against their own problems, the epoch that is kept, and what is left alone."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from certify import load_pipeline
from experiments.unlearning import rece, uce
from experiments.unlearning.concept import Concept
from experiments.unlearning.diffusion import Diffusion
from experiments.unlearning.training import TrainingLoop
from tests.pipelines import pipeline_folder

__all__ = ["pipeline_folder"]

CIRCLE = Concept.of(["circle"], anchor="square", preserve=["coin"], templates=["a red {}", "a photo of the {}"])


def fresh(folder: Path) -> Diffusion:
    """A pipeline after UCE, with the U-Net from before it."""
    pipe = load_pipeline(folder)
    original = copy.deepcopy(pipe.unet)
    weights = uce.edit(Diffusion(pipe), CIRCLE, uce.Settings(), TrainingLoop()).unet
    pipe.unet.load_state_dict(dict(weights), strict=False)
    return Diffusion(pipe, original)


def rows(diffusion: Diffusion, phrase: str) -> torch.Tensor:
    """All rows of the sentences that say it."""
    return diffusion.encoder.plain([t.format(phrase) for t in CIRCLE.templates]).double().flatten(0, 1)


@pytest.mark.parametrize("ridge", [1e-3, 0.1, 3.0])
def test_derived_is_the_minimiser(pipeline_folder, ridge):
    """The gradient of Σ_l ‖W_l c' − W_l° c‖² + λ_r ‖c'‖² vanishes at c', and the problem is convex."""
    diffusion = fresh(pipeline_folder)
    new, old = uce.projections(diffusion.unet), uce.projections(diffusion.original)
    c = rows(diffusion, "circle")
    found = rece.derived(new, old, c, ridge).requires_grad_(True)

    def slope(x: torch.Tensor) -> float:
        loss = ridge * x.square().sum()
        for name, module in new.items():
            w, w0 = module.weight.detach().double(), old[name].weight.detach().double()
            loss = loss + (x @ w.T - c @ w0.T).square().sum()
        return float(torch.autograd.grad(loss, x)[0].norm())

    assert slope(found) < 1e-7 * slope(c.clone().requires_grad_(True))


def test_the_edited_model_reads_c_prime_as_the_original_read_c(pipeline_folder):
    diffusion = fresh(pipeline_folder)
    new, old = uce.projections(diffusion.unet), uce.projections(diffusion.original)
    c = rows(diffusion, "circle")
    found = rece.derived(new, old, c, 1e-6)

    def gap(x: torch.Tensor) -> float:
        return sum(
            float((x @ m.weight.detach().double().T - c @ old[name].weight.detach().double().T).square().sum())
            for name, m in new.items()
        )

    assert gap(found) < 0.2 * gap(c)


@pytest.mark.parametrize("together", [False, True])
def test_the_edit_is_the_minimiser(pipeline_folder, together):
    """The gradient of the second line vanishes at every projection after one epoch."""
    diffusion = fresh(pipeline_folder)
    before = {name: m.weight.detach().double().clone() for name, m in uce.projections(diffusion.unet).items()}
    c, g = rows(diffusion, "circle"), rows(diffusion, "square")
    found = rece.derived(uce.projections(diffusion.unet), uce.projections(diffusion.original), c, 0.1)
    p = torch.cat([diffusion.encoder.plain([""])[0].double(), rows(diffusion, "coin")])
    edit = rece.edit(diffusion, CIRCLE, rece.Settings(together=together), TrainingLoop())
    for name, w in before.items():

        def slope(x: torch.Tensor, w: torch.Tensor = w) -> float:
            x = x.clone().requires_grad_(True)
            loss = 0.1 * (x - w).square().sum() + (found @ x.T - g @ w.T).square().sum()
            if together:
                loss = loss + (c @ x.T - g @ w.T).square().sum()
            loss = loss + 0.1 * (p @ x.T - p @ w.T).square().sum()
            return float(torch.autograd.grad(loss, x)[0].norm())

        assert slope(edit.unet[f"{name}.weight"].double()) < 1e-4 * slope(w)


def test_another_epoch_starts_where_the_last_one_ended(pipeline_folder):
    """Two epochs in one call are one epoch twice (each finds its c' from the weights it has)."""
    twice = rece.edit(fresh(pipeline_folder), CIRCLE, rece.Settings(epochs=2), TrainingLoop())
    diffusion = fresh(pipeline_folder)
    once = rece.edit(diffusion, CIRCLE, rece.Settings(), TrainingLoop())
    again = rece.edit(diffusion, CIRCLE, rece.Settings(), TrainingLoop())
    for name, weight in twice.unet.items():
        torch.testing.assert_close(weight, again.unet[name], rtol=1e-4, atol=1e-5)
        assert not torch.allclose(weight, once.unet[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("rates", "kept"), [((0.5, 0.2, 0.3), 2), ((0.1, 0.1, 0.1), 1), ((0.3, 0.2, 0.1), 3)])
def test_keeps_the_epoch_at_which_the_detector_sees_least(pipeline_folder, rates, kept):
    asked = iter(rates)
    diffusion = fresh(pipeline_folder)
    edit = rece.edit(diffusion, CIRCLE, rece.Settings(epochs=3), TrainingLoop(), detector=lambda d: next(asked))
    expected = rece.edit(fresh(pipeline_folder), CIRCLE, rece.Settings(epochs=kept), TrainingLoop())
    assert edit.record["epoch kept"] == kept
    assert edit.record["validation"] == list(rates)
    for name, weight in expected.unet.items():
        assert torch.equal(edit.unet[name], weight)
        assert torch.equal(diffusion.unet.state_dict()[name], weight)


def test_without_a_detector_the_last_epoch_is_kept(pipeline_folder):
    edit = rece.edit(fresh(pipeline_folder), CIRCLE, rece.Settings(epochs=3, validation=5), TrainingLoop())
    assert edit.record["epoch kept"] == 3
    assert edit.record["validation"] == []


def test_ridge_by_kind():
    style = Concept.of(["starfish"], kind="style")
    assert rece.Settings().regularisation(CIRCLE) == 0.1
    assert rece.Settings().regularisation(style) == 1e-3
    assert rece.Settings(ridge=0.5).regularisation(style) == 0.5
    assert rece.METHOD.after == "uce"


def test_the_judge_sees_the_concept_on_the_model_before_any_edit():
    """Validation prompts name or mean the concept; 12 images, of which the unedited model gets at least 8 right."""
    concept = Concept.embedded("circle", sentences=4)
    assert rece.judged(concept, 6)(Diffusion(load_pipeline())) >= 0.6


def test_needs_the_original(pipeline_folder):
    with pytest.raises(ValueError, match="original is None"):
        rece.edit(Diffusion(load_pipeline(pipeline_folder)), CIRCLE, rece.Settings(), TrainingLoop())
