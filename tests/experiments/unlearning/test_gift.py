"""GIFT: each level's step moves its own loss the right way, the formulas by hand, and what a run changes."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch

from certify import load_pipeline
from experiments import unlearning
from experiments.unlearning import gift
from experiments.unlearning.command import applied
from experiments.unlearning.concept import Concept
from experiments.unlearning.diffusion import Diffusion
from experiments.unlearning.finetune import Settings as Attacker
from experiments.unlearning.finetune import attack, diffusion_loss, lesson
from experiments.unlearning.gift import Settings
from experiments.unlearning.parameters import trainable
from experiments.unlearning.training import Rng, TrainingLoop
from tests.pipelines import pipeline_folder  # noqa: F401

CONCEPT = Concept.of(["circle"], preserve=["square", "sunflower"], templates=["a red {}", "the {}"])
SMALL = Settings(
    rounds=2, batch=2, images=4, source="own", steps=2, guidance=1.0, safe_rate=1e-3, concept_rate=1e-3, noise=0.1
)


@pytest.fixture
def diffusion(pipeline_folder):  # noqa: F811
    return Diffusion(load_pipeline(pipeline_folder))


def some(diffusion, count=3, seed=0, prompt="a red circle"):
    return diffusion.normal(count, torch.Generator().manual_seed(seed)), diffusion.encode([prompt] * count)


def test_each_level_moves_its_own_loss_the_right_way(diffusion):
    """Plain descent along each level's gradient: down with the safe loss; up with the concept's, nearer to noise."""
    weights = trainable(diffusion.unet, "full")
    x_0, c = some(diffusion)

    def step(loss):
        gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
        return {n: p if g is None else p - 1e-3 * g for (n, p), g in zip(weights.items(), gradients, strict=True)}

    def level(weights, settings):
        return gift.upper(diffusion, weights, x_0, c, settings, Rng(3))

    safe = diffusion_loss(diffusion, x_0, c, Rng(3))
    maximised = dataclasses.replace(SMALL, noise=0.0)
    assert level(step(safe), maximised)[1] < safe
    value, loss = level(weights, maximised)
    torch.testing.assert_close(value, -torch.log(1 + loss))
    torch.testing.assert_close(loss, safe)
    assert level(step(value), maximised)[1] > loss

    def noising(weights):
        return (level(weights, SMALL)[0] - level(weights, maximised)[0]) / SMALL.noise

    assert noising(step(noising(weights))) < noising(weights)


@pytest.mark.parametrize("bound", ["log", "clip"])
def test_bounds(bound):
    loss = torch.tensor([0.5, 3.0], requires_grad=True)
    settings = dataclasses.replace(SMALL, bound=bound, ceiling=2.0)
    value = gift.bounded(loss, settings)
    value.sum().backward()
    if bound == "log":
        torch.testing.assert_close(value, torch.tensor([1.5, 4.0]).log())
        torch.testing.assert_close(loss.grad, torch.tensor([1 / 1.5, 1 / 4.0]))
    else:
        torch.testing.assert_close(value, torch.tensor([0.5, 2.0]))
        torch.testing.assert_close(loss.grad, torch.tensor([1.0, 0.0]))


def test_noising_draws_activations_to_noise_of_their_own_moments():
    h = (
        torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
        * torch.tensor([1.0, 2.0, 3.0])[:, None, None]
    )
    h = h.requires_grad_(True)
    value = gift.noising([h], "mse", torch.Generator().manual_seed(1))
    noise = torch.randn(h.shape, generator=torch.Generator().manual_seed(1))
    mean = torch.stack([h[:, i].mean() for i in range(3)])[:, None, None]
    std = torch.stack([h[:, i].std(correction=0) for i in range(3)])[:, None, None]
    aim = (mean + std * noise).detach()
    scale = std.square().mean().detach()
    torch.testing.assert_close(value, (h - aim).square().mean() / scale)
    (gradient,) = torch.autograd.grad(value, h)
    torch.testing.assert_close(gradient, 2 * (h - aim) / h.numel() / scale)  # the moments are held fixed
    with pytest.raises(AssertionError):  # fresh noise every time
        torch.testing.assert_close(value, gift.noising([h], "mse", torch.Generator().manual_seed(2)))


def test_kernel_distance_tells_samples_of_one_law_from_those_of_two():
    source = torch.Generator().manual_seed(0)
    x, y = torch.randn(60, 4, generator=source), torch.randn(50, 4, generator=source)
    assert gift.kernel_distance(x, x).abs() < 1e-6
    same, shifted, wider = (gift.kernel_distance(x, z) for z in (y, y + 1, 3 * y))
    assert 0 <= same < 0.02
    assert shifted > 3 * same
    assert wider > 3 * same
    z = x.clone().requires_grad_(True)
    gift.kernel_distance(z, y + 1).backward()
    assert gift.kernel_distance(z - 5 * z.grad, y + 1) < shifted
    # by hand, two points each
    a, b = torch.tensor([[0.0], [1.0]]), torch.tensor([[2.0], [3.0]])
    d = torch.cat([a, b]) - torch.cat([a, b]).T
    k = sum(torch.exp(-d.square() / (d.square().sum() / 12 * 2.0**i)) for i in (-2, -1, 0, 1, 2)) / 5
    by_hand = k[:2, :2].mean() + k[2:, 2:].mean() - 2 * k[:2, 2:].mean()
    torch.testing.assert_close(gift.kernel_distance(a, b), by_hand)


def test_a_lookahead_of_second_order_is_the_gradient_through_the_attackers_step(diffusion):
    """Against central differences of the loss after one step of the attacker, in float64."""
    diffusion.pipe.to(torch.float64)
    diffusion = Diffusion(diffusion.pipe)
    diffusion.alphas = diffusion.alphas.double()
    weights = trainable(diffusion.unet, "xattn-kv")
    batches = [some(diffusion, seed=s) for s in (1, 2)]
    # Without noising, whose target follows the activations.
    fixed = dataclasses.replace(SMALL, noise=0.0, lookahead=1, lookahead_rate=0.5, order=2)
    source = torch.Generator().manual_seed(9)
    way = [torch.randn(p.shape, generator=source, dtype=p.dtype) for p in weights.values()]

    def value(eps):
        moved = {n: (p + eps * w).detach().requires_grad_(True) for (n, p), w in zip(weights.items(), way, strict=True)}
        rng = Rng(5)
        first, attacked = gift.upper(diffusion, moved, *batches[0], fixed, rng)
        steps = torch.autograd.grad(attacked, list(moved.values()))
        after = {n: p - 0.5 * g for (n, p), g in zip(moved.items(), steps, strict=True)}
        return float((first + gift.upper(diffusion, after, *batches[1], fixed, rng)[0]).detach()) / 2

    loss = gift._ahead(diffusion, weights, batches, fixed, Rng(5))
    gradients = torch.autograd.grad(loss, list(weights.values()))
    slope = (value(1e-4) - value(-1e-4)) / 2e-4
    assert float(loss.detach()) == pytest.approx(value(0.0), rel=1e-9)
    assert sum(float((g * w).sum()) for g, w in zip(gradients, way, strict=True)) == pytest.approx(slope, rel=1e-4)


def test_a_lookahead_of_first_order_is_the_mean_gradient_along_the_attackers_way(diffusion):
    weights = trainable(diffusion.unet, "xattn")
    batches = [some(diffusion, seed=s) for s in (1, 2, 3)]
    settings = dataclasses.replace(SMALL, noise=0.0, lookahead=2, lookahead_rate=1e-2)
    loss = gift._ahead(diffusion, weights, batches, settings, Rng(5))
    gradients = torch.autograd.grad(loss, list(weights.values()))

    # The attacker, with torch's own Adam on a copy.
    other = copy.deepcopy(diffusion.unet)
    theirs = trainable(other, "xattn")
    adam, rng = torch.optim.Adam(theirs.values(), lr=1e-2), Rng(5)
    total, values = [torch.zeros_like(p) for p in theirs.values()], []
    for x_0, c in batches:
        attacked = diffusion_loss(diffusion, x_0, c, rng, lambda x, t, c: diffusion.predict(x, t, c, other))
        adam.zero_grad()
        attacked.backward()
        values.append(-float(torch.log1p(attacked.detach())))
        for sum_, p in zip(total, theirs.values(), strict=True):
            sum_ -= p.grad / (1 + float(attacked.detach())) / 3
        adam.step()
    assert float(loss.detach()) == pytest.approx(sum(values) / 3, rel=1e-5)
    for mine, expected in zip(gradients, total, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-3, atol=1e-7)


def test_two_levels_have_a_state_of_adam_each():
    mine = [torch.nn.Parameter(torch.tensor([1.0, -2.0]))]
    optimiser = gift.TwoLevelAdam(mine, (0.1, 0.01))
    p = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    adams = [torch.optim.Adam([p], lr=rate) for rate in (0.1, 0.01)]
    for step in range(6):
        optimiser.level = step % 2
        for target, way in ((p, adams[step % 2]), (mine[0], optimiser)):
            way.zero_grad()
            ((target - step).square() * (1 + step % 2)).sum().backward()
            way.step()
        torch.testing.assert_close(mine[0], p)


def test_levels_take_turns_on_their_own_images(diffusion, monkeypatch):
    calls = []

    def spy(name, of):
        def called(*args, **options):
            calls.append((name, len(args[3]) if name == "upper" else None))
            return of(*args, **options)

        return called

    monkeypatch.setattr(gift, "diffusion_loss", spy("loss", gift.diffusion_loss))
    monkeypatch.setattr(gift, "upper", spy("upper", gift.upper))
    settings = dataclasses.replace(SMALL, safe_steps=2, concept_steps=1, lookahead=1)
    edit = gift.immunise(diffusion, CONCEPT, settings, TrainingLoop())
    assert [len(edit.record[f"last losses, {level} level"]) for level in ("lower", "upper")] == [4, 2]
    # two lower steps; one upper step of two points, each of which asks for the diffusion loss
    assert [name for name, _ in calls] == ["loss", "loss", *["upper", "loss"] * 2] * 2


def test_own_images_come_from_the_model_before_it_was_erased(pipeline_folder):  # noqa: F811
    pipe, original = load_pipeline(pipeline_folder), load_pipeline(pipeline_folder).unet
    with torch.no_grad():
        for p in pipe.unet.parameters():
            p.mul_(0.5)
    erased = gift.examples(Diffusion(pipe, original), CONCEPT, SMALL, TrainingLoop())
    plain = gift.examples(Diffusion(load_pipeline(pipeline_folder)), CONCEPT, SMALL, TrainingLoop())
    for mine, theirs in zip(erased, plain, strict=True):
        assert torch.equal(mine.latents, theirs.latents)
    harmful, safe = erased
    assert all("circle" in t for t in harmful.templates)
    assert not any("circle" in t for t in safe.templates)
    assert not torch.equal(harmful.latents, safe.latents)


def test_images_of_the_concept_must_come_from_somewhere(diffusion):
    with pytest.raises(ValueError, match="concept_images = ''"):
        gift.immunise(diffusion, CONCEPT, dataclasses.replace(SMALL, source="given"), TrainingLoop())


@pytest.mark.slow
def test_the_embedded_model_is_slower_to_teach_the_concept_and_still_draws_the_rest():
    """After the same few steps of a full fine-tune fewer circles are back."""
    circle = Concept.embedded("circle")
    uce, gift_ = unlearning.METHODS["uce"], unlearning.METHODS["gift"]
    shares = {}
    for method, given in ((uce, uce.embedded("object")), (gift_, gift_.embedded("object"))):
        edit = applied(method, circle, given, TrainingLoop())
        pipe = load_pipeline(unet=dict(edit.unet))
        examples, probe = lesson(Diffusion(pipe), circle, asked=24)
        attacker = Attacker.embedded("full", steps=40, every=40)
        shares[method.name] = attack(Diffusion(pipe), examples, probe, attacker, TrainingLoop()).curve.shares[-1]
    assert shares["uce"] > 0.5
    assert shares["gift"] < shares["uce"] - 0.2
