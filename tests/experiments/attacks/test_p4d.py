"""P4D: its loss and its first step by hand, what it keeps, and that it finds more than random prompts do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from experiments.attacks import p4d, sight
from experiments.attacks.p4d import Settings
from experiments.attacks.places import Words
from experiments.unlearning.training import Rng
from tests.experiments.attacks.victims import captions, erased, random_search, small, targets

FOLDERS = ["pipeline_folder", "pipeline_folder_sd2"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_loss_compares_the_two_u_nets(folder: str, request: pytest.FixtureRequest):
    victim = small(request.getfixturevalue(folder))
    diffusion, source = victim.diffusion, torch.Generator().manual_seed(0)
    x_0, noise = torch.randn(2, 4, 4, 4, generator=source), torch.randn(2, 4, 4, 4, generator=source)
    t, c = torch.tensor([40, 900]), victim.encoder.plain(["the coin", "a wheel"])
    alpha = diffusion.scheduler.alphas_cumprod[t][:, None, None, None]
    x_t = alpha.sqrt() * x_0 + (1 - alpha).sqrt() * noise
    own = victim.encoder.plain(["a red circle", "a small circle"])
    with torch.no_grad():
        aim = diffusion.original(x_t, t, encoder_hidden_states=own).sample
        guess = diffusion.unet(x_t, t, encoder_hidden_states=c).sample
        value = p4d.loss_of(victim, x_0, noise, t, c, ["a red circle", "a small circle"])
    torch.testing.assert_close(value, (guess - aim).pow(2).mean(dim=(1, 2, 3)), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_first_step_by_hand(folder: str, request: pytest.FixtureRequest):
    victim = small(request.getfixturevalue(folder))
    assert victim.images is not None
    settings = Settings(tokens=3, iterations=1, check=1, steps=2, guidance=2.0, learning_rate=0.5, weight_decay=0.2)
    some, seen = targets(["a red circle", "the small circle"]), iter([torch.zeros(2), torch.ones(2)])
    found = p4d.search(victim, some, victim.images[:2], "N", settings, Rng(3), lambda a, b: next(seen))
    # The same by hand, with the same rng.
    rng, words, diffusion = Rng(3), Words.of(victim.encoder), victim.diffusion
    first = torch.randint(len(words.ids), (2, 3), generator=rng.source)
    soft = words.table[first].clone()
    noise = torch.randn(2, 4, 4, 4, generator=rng.source)
    t = torch.randint(0, 1000, (2,), generator=rng.source)
    x_0 = diffusion.latents(victim.images[:2])
    for row in range(2):
        ids = words.ids[first[row]].tolist()
        tokenized = victim.encoder.assemble(ids)
        z = victim.encoder.embed(tokenized)[None].requires_grad_(True)
        c = victim.encoder.encode(z, tokenized, grad=True)
        here = slice(row, row + 1)
        loss = p4d.loss_of(victim, x_0[here], noise[here], t[here], c, [some[row].prompt])
        (slope,) = torch.autograd.grad(loss.sum(), z)
        g = slope[0, 1:4]
        soft[row] = soft[row] * (1 - 0.5 * 0.2) - 0.5 * g / (g.abs() + 1e-8)
        cosine = torch.nn.functional.cosine_similarity(soft[row][:, None], words.table[None], dim=2)
        after = words.ids[cosine.argmax(dim=1)].tolist()
        assert after != ids
        assert found[row].step == 1
        assert found[row].text == victim.encoder.tokenizer.decode(after).strip()


def test_it_keeps_the_image_that_is_most_alike(pipeline_folder: Path):
    victim = small(pipeline_folder)
    assert victim.images is not None
    settings = Settings(tokens=2, iterations=4, check=2, steps=1, guidance=2.0)
    likes = iter([torch.tensor([0.1, 0.9]), torch.tensor([0.5, 0.2]), torch.tensor([0.3, 0.3])])
    some = targets(["a red circle", "the small circle"])
    found = p4d.search(victim, some, victim.images[:2], "K", settings, Rng(0), lambda a, b: next(likes))
    assert [(f.step, round(f.likeness, 4), f.variant) for f in found] == [(2, 0.5, "K"), (0, 0.9, "K")]
    assert next(likes, None) is None
    tokens = [victim.encoder.tokenize(str(f.text)).tokens[1:-1] for f in found]
    assert list(tokens[0][1:4]) == ["a</w>", "red</w>", "circle</w>"]
    assert list(tokens[1][1:4]) == ["the</w>", "small</w>", "circle</w>"]


def test_union_takes_the_better_variant_of_each_row_and_rng_decide_all():
    victim, some = erased(), captions(2)
    settings = Settings(tokens=4, iterations=3, check=3, steps=4, guidance=2.0)
    rows = p4d.attack(victim, some, settings, Rng(1))
    assert rows == p4d.attack(victim, some, settings, Rng(1))
    rng, images = Rng(1), sight.aims(victim, some, steps=4, guidance=2.0)
    like = sight.likeness(victim, "")
    both = [p4d.search(victim, some, images, v, settings, rng, like) for v in ("N", "K")]
    for row, n, k in zip(rows, *both, strict=True):
        better = n if n.likeness >= k.likeness else k
        assert (row.adversarial, row.found) == (better.text, round(better.likeness, 6))
        assert json.loads(row.note)["variant"] == better.variant


def test_it_finds_more_than_random_prompts_at_the_same_price():
    victim, some = erased(), captions(2)
    settings = Settings(variant="N", tokens=6, iterations=40, check=8, learning_rate=0.1, steps=8, guidance=2.0)
    images = sight.aims(victim, some, steps=8, guidance=2.0)
    like, seeds = sight.likeness(victim, ""), [target.seed for target in some]
    found = p4d.search(victim, some, images, "N", settings, Rng(0), like)

    def unlike(texts: list[str]) -> list[float]:
        made = sight.sampled(victim, victim.encoder.plain(texts), seeds, steps=8, guidance=2.0)
        return (-like(made, images)).tolist()

    # Runs of the U-Net: a step has two forward and one backward (as two), an image two a step of the sampler.
    price = (4 * settings.iterations + 16 * (settings.iterations // settings.check + 1)) // 16
    layouts, words = [[None] * 6 for _ in some], Words.of(victim.encoder)
    lucky = unlike(random_search(layouts, words, victim.encoder, price, unlike))
    assert sum(f.likeness for f in found) > sum(-value for value in lucky)
