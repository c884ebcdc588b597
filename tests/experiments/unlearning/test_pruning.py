"""P-ESD and P-AC: gates, scores and losses by hand, weights that stay, and a mask that is undone bit for bit."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from certify import load_pipeline
from certify.models import fingerprint, overlay_of
from experiments.unlearning import METHODS, pruning, saving
from experiments.unlearning.concept import Concept
from experiments.unlearning.diffusion import Diffusion
from experiments.unlearning.training import Rng, TrainingLoop
from tests.pipelines import pipeline_folder

__all__ = ["pipeline_folder"]

CONCEPT = Concept.of(
    ["circle"], anchor="square", neutral="photo", preserve=["coin"], templates=["a red {}", "a big {}"]
)
SMALL = pruning.Settings(
    iterations=4, batch=2, steps=2, guidance=2.0, images=3, scoring=2, critical=0.2, budget=0.05, start=1.0
)
FAST = {"straight-through": 1.0, "hard-concrete": 1.0}
KEY = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"


def _diffusion(folder: Path) -> Diffusion:
    return Diffusion(load_pipeline(folder))


def _gates(log_odds: list[float], allowed: int) -> pruning.Gates:
    """Two weights of two rows, with gates at some places."""
    half = len(log_odds) // 2
    values = torch.tensor(log_odds)
    return pruning.Gates(
        {"a": torch.arange(half), "b": torch.arange(len(log_odds) - half) + 1},
        {"a": values[:half].clone().requires_grad_(), "b": values[half:].clone().requires_grad_()},
        {"a": torch.full((half,), 2.0), "b": torch.full((len(log_odds) - half,), 0.5)},
        {"a": torch.Size((2, 2)), "b": torch.Size((2, 3))},
        allowed,
    )


def test_hard_concrete_by_hand() -> None:
    log_odds = torch.tensor([-4.0, 0.3, 2.0, 6.0], dtype=torch.float64, requires_grad=True)
    u = torch.tensor([0.2, 0.4, 0.7, 0.9], dtype=torch.float64)
    z = pruning.hard_concrete(log_odds, u)
    for value, a, uniform in zip(z.tolist(), log_odds.tolist(), u.tolist(), strict=True):
        logit = (math.log(uniform) - math.log(1 - uniform) + a) / (2 / 3)
        assert value == pytest.approx(min(1.0, max(0.0, 1 / (1 + math.exp(-logit)) * 1.2 - 0.1)))
    assert z[0] == 0
    assert z[3] == 1
    (slope,) = torch.autograd.grad(z.sum(), log_odds)
    assert slope[0] == slope[3] == 0
    assert slope[1] > 0


def test_shut_with_the_probability_that_the_penalty_says() -> None:
    gates = _gates([-1.0, -1.0, -1.0, -1.0], 1)
    u = torch.rand(200_000, generator=torch.Generator().manual_seed(0))
    shut = (pruning.hard_concrete(torch.full_like(u, -1.0), u) == 0).float().mean()
    assert float(gates.penalty().detach()) == pytest.approx(float(shut), abs=0.005)


def test_the_budget_prunes_the_lowest_log_odds_below_zero() -> None:
    gates = _gates([0.5, -1.0, -3.0, -2.0], 2)
    assert {name: mask.tolist() for name, mask in gates.binary().items()} == {
        "b": [[True, False, False], [True, True, True]]
    }
    few = _gates([0.5, -1.0, 3.0, 2.0], 2).binary()
    assert {name: mask.tolist() for name, mask in few.items()} == {"a": [[True, False], [True, True]]}


@pytest.mark.parametrize("kind", pruning.GATES)
def test_drawn_masks_are_one_elsewhere_and_carry_gradients(kind: str) -> None:
    gates = _gates([0.5, -1.0, -3.0, -2.0], 4)
    masks = gates.drawn(kind, torch.Generator().manual_seed(1))
    assert masks["a"][1].tolist() == [1, 1]
    assert masks["b"][0, 0] == 1
    if kind == "straight-through":
        assert masks["a"][0].tolist() == pytest.approx([1, 0], abs=1e-6)
        assert masks["b"][0, 1:].tolist() == pytest.approx([0, 0], abs=1e-6)
    sum(m.sum() for m in masks.values()).backward()
    slope = torch.cat([a.grad for a in gates.log_odds.values()])
    if kind == "straight-through":
        assert slope.tolist() == [2.0, 2.0, 0.5, 0.5]  # the speeds
    else:
        assert bool((slope > 0).any())


def test_a_masked_unet_is_the_unet_with_multiplied_weights(pipeline_folder: Path) -> None:
    diffusion = _diffusion(pipeline_folder)
    source = torch.Generator().manual_seed(2)
    weight = dict(diffusion.unet.named_parameters())[KEY]
    mask = (torch.rand(weight.shape, generator=source) > 0.5).float()
    by_hand = copy.deepcopy(diffusion.unet)
    with torch.no_grad():
        dict(by_hand.named_parameters())[KEY].mul_(mask)
    x, t, c = diffusion.normal(2, source), diffusion.times(2, source), diffusion.encode(["a red circle", "a coin"])
    masked = diffusion.predict(x, t, c, pruning.Masked(diffusion.unet, {KEY: mask}))
    torch.testing.assert_close(masked, diffusion.predict(x, t, c, by_hand), rtol=0, atol=0)
    assert not torch.equal(masked, diffusion.predict(x, t, c))


def test_scores_by_hand(pipeline_folder: Path) -> None:
    """With losses that are linear in one weight."""
    diffusion = _diffusion(pipeline_folder)
    weight = dict(diffusion.unet.named_parameters())[KEY].detach().clone()
    source = torch.Generator().manual_seed(3)
    pull = torch.randn(weight.shape, generator=source)
    signs = [torch.randn(weight.shape, generator=source) for _ in range(2)]
    turn = iter(signs)

    def erase(unet: Any, rng: Rng) -> torch.Tensor:
        return (dict(unet.named_parameters())[KEY] * pull).sum()

    def kept(unet: Any, rng: Rng) -> torch.Tensor:
        return (dict(unet.named_parameters())[KEY] * next(turn)).sum()

    found, speed = (part[KEY] for part in pruning.scores(diffusion, [KEY], erase, kept, 2, Rng(0)))
    harm = sum((s * weight) ** 2 for s in signs) / 2
    torch.testing.assert_close(speed, 1 / (harm + harm.mean()))
    torch.testing.assert_close(found, pull * weight / (harm + harm.mean()))
    assert not any(p.requires_grad for p in diffusion.unet.parameters())


def test_the_erasing_losses_by_hand(pipeline_folder: Path) -> None:
    diffusion = _diffusion(pipeline_folder)
    student = copy.deepcopy(diffusion.unet)
    with torch.no_grad():
        for p in student.parameters():
            p.mul_(0.7)
    one = replace(CONCEPT, templates=("a red {}",))
    c, c_0, c_a = (diffusion.encode([text] * 2) for text in ("a red circle", "a red photo", "a red square"))

    rng = Rng(5)
    value = pruning.objective(diffusion, one, SMALL, TrainingLoop(seed=0))(student, rng)
    again = Rng(5)
    one.sentences(2, again.python)
    x, t = diffusion.half_finished(c, steps=2, guidance=2.0, source=again.source, bucket=True)
    plain, named = diffusion.predict(x, t, c_0), diffusion.predict(x, t, c)
    expected = (diffusion.predict(x, t, c, student) - (plain - 1.0 * (named - plain))).square().mean()
    torch.testing.assert_close(value, expected)

    settings = replace(SMALL, objective="ac")
    value = pruning.objective(diffusion, one, settings, TrainingLoop(seed=0))(student, Rng(6))
    latents = TrainingLoop(seed=0).collect(
        "x", 3, 50, lambda first, stop, d: diffusion.generated(
            ["a red square"] * 3, steps=2, guidance=2.0, source=d.source
        )
    )  # fmt: skip
    again = Rng(6)
    x_0 = latents[[again.python.randrange(3) for _ in range(2)]]
    noise = torch.randn(2, *diffusion.latent_shape(), generator=again.source)
    t = torch.randint(diffusion.timesteps, (2,), generator=again.source)
    a = diffusion.alphas[t][:, None, None, None]
    x = a.sqrt() * x_0 + (1 - a).sqrt() * noise
    expected = (diffusion.predict(x, t, c, student) - diffusion.predict(x, t, c_a)).square().mean()
    torch.testing.assert_close(value, expected)


@pytest.mark.parametrize("name", ["p-esd", "p-ac"])
@pytest.mark.parametrize("gates", pruning.GATES)
def test_the_mask_keeps_the_budget(name: str, gates: str, pipeline_folder: Path) -> None:
    diffusion = _diffusion(pipeline_folder)
    settings = replace(SMALL, objective=name.removeprefix("p-"), gates=gates, learning_rate=FAST[gates])
    edit = METHODS[name].run(diffusion, CONCEPT, settings, TrainingLoop(seed=0))
    lost = sum(int((~m).sum()) for m in edit.masks.values())
    record = dict(edit.record)
    weights = [p for p in diffusion.unet.parameters() if p.ndim >= 2]
    assert record["weights"] == sum(p.numel() for p in weights)
    assert 0 < lost == record["pruned"] <= int(0.05 * record["weights"])
    assert len(record["last losses"]) == 4


def test_training_brings_the_loss_of_the_mask_down(pipeline_folder: Path) -> None:
    """Below that of the mask that the scores alone would make."""
    settings = replace(SMALL, objective="ac", batch=8, scoring=8, budget=0.01, growth=0.2, keep=0.0)
    losses = []
    for iterations, rate in ((1, 1e-9), (40, 1.0)):
        diffusion = _diffusion(pipeline_folder)
        learned = replace(settings, iterations=iterations, learning_rate=rate)
        masks = pruning.prune(diffusion, CONCEPT, learned, TrainingLoop(seed=0)).masks
        masked = pruning.Masked(diffusion.unet, masks)
        erase = pruning.objective(diffusion, CONCEPT, settings, TrainingLoop(seed=0))
        with torch.no_grad():
            losses.append(sum(float(erase(masked, Rng(i))) for i in range(30)))
    assert losses[1] < 0.8 * losses[0]


def test_the_saved_mask_is_small_and_gives_the_masked_model(pipeline_folder: Path, tmp_path: Path) -> None:
    diffusion = _diffusion(pipeline_folder)
    edit = pruning.prune(diffusion, CONCEPT, SMALL, TrainingLoop(seed=0))
    folder = saving.save(
        tmp_path / "out",
        edit,
        method=METHODS["p-esd"],
        concept=CONCEPT,
        base=str(pipeline_folder),
        settings=SMALL,
        seed=0,
        seconds=0.1,
    )
    given: dict[str, Any] = dict(saving.overlays(folder))
    assert given == {"unet": folder / "mask.safetensors"}
    assert sum(len(b) for b in load_file(given["unet"]).values()) == edit.record["mask, bytes"]
    assert edit.record["mask, bytes"] <= edit.record["the masked weights, bytes"] / 32 + len(edit.masks)
    masked = load_pipeline(pipeline_folder, **given)
    base = diffusion.unet.state_dict()
    for name, tensor in masked.unet.state_dict().items():
        assert torch.equal(tensor, base[name] * edit.masks[name] if name in edit.masks else base[name])
    report = overlay_of(masked)
    assert report is not None
    assert report.pruned == edit.record["pruned"]
    assert fingerprint(load_pipeline(pipeline_folder).unet) == fingerprint(diffusion.unet)


def test_a_budget_of_no_weight_is_refused(pipeline_folder: Path) -> None:
    with pytest.raises(ValueError, match=r"budget = 1e-09: allows none of [\d,]+ weights to be pruned"):
        pruning.prune(_diffusion(pipeline_folder), CONCEPT, replace(SMALL, budget=1e-9), TrainingLoop(seed=0))


def test_p_ac_has_acs_defaults_and_p_esd_esds() -> None:
    ac, esd = METHODS["p-ac"].settings(), METHODS["p-esd"].settings()
    assert (ac.objective, ac.iterations, ac.batch, ac.images) == ("ac", 200, 4, 1000)
    assert (esd.objective, esd.iterations, esd.batch, esd.steps, esd.guidance) == ("esd", 1000, 1, 50, 3.0)
