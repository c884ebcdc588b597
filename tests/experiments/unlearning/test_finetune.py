"""The attacker's fine-tune: what each attacker trains, what is measured, and that a stopped run goes on."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from PIL import Image

from certify import load_pipeline
from certify.models import PromptEncoder
from experiments.unlearning import finetune
from experiments.unlearning.adapters import Word, low_rank
from experiments.unlearning.concept import Concept
from experiments.unlearning.diffusion import Diffusion
from experiments.unlearning.finetune import Curve, Examples, Probe, Settings
from experiments.unlearning.training import TrainingLoop
from tests.pipelines import pipeline_folder  # noqa: F401


@pytest.fixture
def diffusion(pipeline_folder):  # noqa: F811
    return Diffusion(load_pipeline(pipeline_folder))


def brightness(images):
    """A verdict that any change of the model shows in."""
    score = images.mean(dim=(1, 2, 3)).cpu()
    return score > 0.5, score


PROBE = Probe(("a red {}", "the {} in blue"), "circle", brightness, steps=2, guidance=1.0)


def shown(diffusion, count=6, seed=0):
    latents = diffusion.normal(count, torch.Generator().manual_seed(seed))
    return Examples(latents, ("a red {}", "a {}") * (count // 2), "circle")


def run(diffusion, attacker, loop=None, **given):
    options = {"steps": 3, "batch": 2, "learning_rate": 1e-3, "every": 2, "initial": "coin"} | given
    return finetune.attack(diffusion, shown(diffusion), PROBE, Settings(attacker, **options), loop or TrainingLoop())


@pytest.mark.parametrize(
    ("attacker", "trained"), [("full", lambda name: True), ("xattn", lambda name: ".attn2." in name)]
)
def test_changes_what_it_says_and_nothing_else(diffusion, attacker, trained):
    before = copy.deepcopy(diffusion.unet.state_dict())
    text = copy.deepcopy(diffusion.encoder.text_encoder.state_dict())
    result = run(diffusion, attacker)
    after = diffusion.unet.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert all(trained(name) for name in moved)
    assert set(result.tensors) == {name for name in before if trained(name)}
    assert all(torch.equal(result.tensors[name], after[name]) for name in result.tensors)
    assert all(torch.equal(t, diffusion.encoder.text_encoder.state_dict()[name]) for name, t in text.items())


def test_the_loss_is_what_the_model_was_trained_on_and_goes_down(diffusion):
    """One step of plain descent along the gradient of the loss, by hand and by the harness."""
    x_0, c = shown(diffusion).latents, diffusion.encode(["a red circle", "a circle"] * 3)
    diffusion.unet.requires_grad_(True)

    def by_hand():
        source = torch.Generator().manual_seed(4)
        t = torch.randint(diffusion.timesteps, (6,), generator=source)
        noise = torch.randn(x_0.shape, generator=source)
        a = diffusion.pipe.scheduler.alphas_cumprod[t][:, None, None, None]
        predicted = diffusion.unet(a.sqrt() * x_0 + (1 - a).sqrt() * noise, t, c).sample
        return (predicted - noise).square().mean()

    loss = finetune.diffusion_loss(diffusion, x_0, c, finetune.Rng(4))
    torch.testing.assert_close(loss, by_hand())
    loss.backward()
    with torch.no_grad():
        for p in diffusion.unet.parameters():
            if p.grad is not None:
                p -= 1e-3 * p.grad
        assert by_hand() < loss


def test_low_rank_additions_start_at_the_base_and_are_added_in_the_end(diffusion):
    x, t, c = (
        diffusion.normal(1, torch.Generator().manual_seed(1)),
        torch.tensor([500]),
        diffusion.encode(["a red coin"]),
    )
    before = copy.deepcopy(diffusion.unet.state_dict())
    additions = low_rank(copied := copy.deepcopy(diffusion.unet), 4, torch.Generator().manual_seed(0))
    for name, module in copied.named_modules():
        if f"unet.{name}.lora_A.weight" in additions:
            assert torch.equal(module.weight, before[f"{name}.weight"])
    with torch.no_grad():
        torch.testing.assert_close(diffusion.predict(x, t, c, copied), diffusion.predict(x, t, c))
    assert {name for name, p in copied.named_parameters() if p.requires_grad} == {
        name for name, _ in copied.named_parameters() if name.endswith((".weight.0.a", ".weight.0.b"))
    }
    assert all(p.shape[0 if name.endswith("lora_A.weight") else 1] == 4 for name, p in additions.items())
    with pytest.raises(ValueError, match="additions already"):
        low_rank(copied, 4, torch.Generator())

    tensors = run(diffusion, "lora").tensors
    after = diffusion.unet.state_dict()
    assert set(after) == set(before)
    for name, weight in before.items():
        module = f"unet.{name.removesuffix('.weight')}"
        if f"{module}.lora_A.weight" in tensors:
            change = tensors[f"{module}.lora_B.weight"] @ tensors[f"{module}.lora_A.weight"]
            assert change.abs().max() > 0
            torch.testing.assert_close(after[name], weight + change)
        else:
            assert torch.equal(after[name], weight)


@pytest.mark.parametrize("attacker", ["full", "lora", "ti"])
def test_what_it_saves_loads_as_the_attacked_model(diffusion, pipeline_folder, tmp_path, attacker):  # noqa: F811
    file = run(diffusion, attacker).save(tmp_path / "attack.safetensors")
    x, t = diffusion.normal(1, torch.Generator().manual_seed(1)), torch.tensor([500])
    if attacker == "ti":
        pipe = load_pipeline(pipeline_folder)
        pipe.load_textual_inversion(tmp_path, weight_name=file.name, token="<circle>")
        word = Word(diffusion.encoder, "coin")
        with torch.no_grad():
            from safetensors.torch import load_file

            word.vector.copy_(load_file(file)["<circle>"])
        torch.testing.assert_close(
            PromptEncoder.from_pipeline(pipe).plain(["a red <circle>"]), word.encode(["a red {}"]).detach()
        )
        return
    loaded = load_pipeline(pipeline_folder, unet=file)
    c = diffusion.encode(["a red coin"])
    with torch.no_grad():
        torch.testing.assert_close(diffusion.predict(x, t, c, loaded.unet), diffusion.predict(x, t, c))


def test_a_word_changes_one_embedding(diffusion):
    """Sentences get the learned row in place of the phrase's tokens; the table, the model and other tokens stay."""
    encoder = diffusion.encoder
    table, weights = encoder.embeddings.weight.clone(), copy.deepcopy(diffusion.unet.state_dict())
    result = run(diffusion, "ti", initial="wheel")  # a word of two tokens
    assert set(result.tensors) == {"<circle>"}
    assert torch.equal(encoder.embeddings.weight, table)
    assert all(torch.equal(weights[name], t) for name, t in diffusion.unet.state_dict().items())

    word = Word(encoder, "coin")
    torch.testing.assert_close(word.encode(["a red {}", ""]).detach(), encoder.plain(["a red coin", ""]))
    with torch.no_grad():
        word.vector.add_(1.0)
    first, second = word.encode(["a red {} in blue", "a red coin"]).detach()
    there = encoder.tokenize("a red coin in blue")
    z = encoder.embed(there)
    z[3] += 1.0
    torch.testing.assert_close(first, encoder.encode(z[None], there)[0])
    torch.testing.assert_close(second, encoder.plain(["a red coin"])[0])  # said otherwise, the word is as it was
    word.encode(["a {}"]).sum().backward()
    assert word.vector.grad is not None
    assert all(p.grad is None for p in encoder.text_encoder.parameters())
    with pytest.raises(ValueError, match="must occur once"):
        word.encode(["a coin and a {}"])


@pytest.mark.parametrize("attacker", ["full", "lora", "ti"])
def test_goes_on_where_it_was_stopped(pipeline_folder, tmp_path, attacker):  # noqa: F811
    def fresh():
        return Diffusion(load_pipeline(pipeline_folder))

    whole = run(fresh(), attacker, steps=5)

    def stop(stage, step, steps, loss):
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(fresh(), attacker, TrainingLoop(folder=tmp_path, progress=stop, every=0.0), steps=5)
    rest = run(fresh(), attacker, TrainingLoop(folder=tmp_path), steps=5)
    assert 0 < len(rest.losses) < 5
    assert rest.curve == whole.curve
    assert all(torch.equal(rest.tensors[name], t) for name, t in whole.tensors.items())


def test_the_same_seed_gives_the_same_attack(pipeline_folder):  # noqa: F811
    torch.manual_seed(1)
    once = run(Diffusion(load_pipeline(pipeline_folder)), "lora", steps=2)
    state = torch.get_rng_state()
    again = run(Diffusion(load_pipeline(pipeline_folder)), "lora", steps=2)
    other = run(Diffusion(load_pipeline(pipeline_folder)), "lora", TrainingLoop(seed=1), steps=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert once.curve == again.curve
    assert all(torch.equal(again.tensors[name], t) for name, t in once.tensors.items())
    assert not all(torch.equal(other.tensors[name], t) for name, t in once.tensors.items())


def test_measures_at_the_steps_it_says(diffusion):
    result = run(diffusion, "full", steps=5, every=2)
    assert result.curve.steps == (0, 2, 4, 5)
    again = PROBE.measure(diffusion, lambda ts: diffusion.encode([t.format("circle") for t in ts]))
    assert (result.curve.shares[-1], result.curve.scores[-1]) == again  # the last row is of the attacked model


def test_figures_of_a_curve():
    curve = Curve("full", (0, 10, 20, 40), (0.0, 0.5, 1.0, 0.0), (0.0,) * 4)
    assert curve.area == pytest.approx((2.5 + 7.5 + 10.0) / 40)
    assert curve.reached(0.5) == 10
    assert curve.reached(0.75) == 20
    assert Curve("full", (0, 10), (0.0, 0.4), (0.0, 0.4)).reached(0.5) is None


def test_scenes_of_a_concept_are_said_by_its_name_or_a_new_word():
    pipe = load_pipeline()
    diffusion, circle = Diffusion(pipe), Concept.embedded("circle", sentences=8)
    named = Examples.rendered(diffusion, circle, 12)
    assert named.phrase == "circle"
    assert all("{}" in t and "circle" not in t for t in named.templates)
    assert named.latents.shape == (12, *diffusion.latent_shape())
    others = Examples.rendered(diffusion, circle, 12, shows=False, kind=None)
    assert not any("circle" in t or "coin" in t for t in others.templates)
    probe = Probe.embedded(circle, 12)
    images = diffusion.decoded(named.latents)
    shown, scores = probe.verdict(images)
    assert shown.float().mean() > 0.8
    assert scores.mean() > 0.7
    assert probe.verdict(diffusion.decoded(others.latents))[0].float().mean() < 0.2
    florp = dataclasses.replace(probe, phrase="florp")
    assert florp.templates == probe.templates
    striped = Examples.rendered(diffusion, Concept.embedded("striped", sentences=8), 12)
    assert all("{}" in t and "strip" not in t for t in striped.templates)


def test_images_of_a_folder(diffusion, tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no"):
        Examples.folder(diffusion, tmp_path, "a {cat}")
    for i in range(2):
        Image.new("RGB", (30, 20), (80 * i, 0, 0)).save(tmp_path / f"{i}.png")
    found = Examples.folder(diffusion, tmp_path, "a photo of a {cat}")
    assert found.latents.shape == (2, *diffusion.latent_shape())
    assert (found.templates, found.phrase) == (("a photo of a {}",) * 2, "cat")
    assert Examples.folder(diffusion, tmp_path, "cat").phrase == "cat"
    with pytest.raises(ValueError, match="in braces once"):
        Examples.folder(diffusion, tmp_path, "a {cat} and a {dog}")


def test_refuses_captions_that_do_not_fit(diffusion):
    with pytest.raises(ValueError, match="must be one each for 6"):
        dataclasses.replace(shown(diffusion), templates=("a {}",))
