"""UnlearnDiffAtk: projection, schedule and a step by hand, where it stops, and that it finds more than random prefixes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from certify import load_pipeline
from experiments.attacks import sight, unlearn_diff
from experiments.attacks.places import Places, Words, prefixed
from experiments.attacks.unlearn_diff import Settings, on_simplex, times
from experiments.unlearning.diffusion import Diffusion
from experiments.unlearning.training import Rng
from tests.experiments.attacks.victims import captions, erased, mean_error, random_search, small, targets

QUICK = Settings(tokens=3, times=2, iterations=2, learning_rate=0.01, detector="", steps=2, guidance=2.0)


def _sorted_projection(a: torch.Tensor) -> torch.Tensor:
    """The exact solution: Duchi et al. (2008)."""
    ordered = a.sort(descending=True).values
    threshold = (ordered.cumsum(0) - 1) / torch.arange(1, len(a) + 1)
    kept = int((ordered > threshold).sum())
    return (a - threshold[kept - 1]).clamp_min(0)


def test_the_projection_is_the_nearest_point_of_the_simplex():
    source = torch.Generator().manual_seed(0)
    a = 3 * torch.randn(4, 5, 30, generator=source, dtype=torch.float64)
    projected = on_simplex(a)
    for i in range(4):
        for j in range(5):
            torch.testing.assert_close(projected[i, j], _sorted_projection(a[i, j]), rtol=0, atol=1e-9)
    torch.testing.assert_close(on_simplex(projected), projected, rtol=0, atol=1e-9)


def test_the_published_times():
    assert times(1000, Settings()) == list(range(10, 1000, 20))
    assert times(1000, Settings(times=4, descending=True)) == [875, 625, 375, 125]
    with pytest.raises(ValueError, match="times = 2000: must be at most the model's 1000"):
        times(1000, Settings(times=2000))


@pytest.mark.parametrize("folder", ["pipeline_folder", "pipeline_folder_sd2"])
def test_a_step_by_hand(folder: str, request: pytest.FixtureRequest):
    victim = small(request.getfixturevalue(folder))
    assert victim.images is not None
    encoder, diffusion, words = victim.encoder, victim.diffusion, Words.of(victim.encoder)
    prompts = ["a red circle", "the coin", "the small circle"]
    places = Places(encoder, [prefixed(encoder, encoder.tokenize(p).content, 2) for p in prompts], words)
    settings = dataclasses.replace(QUICK, iterations=1, learning_rate=0.03, weight_decay=0.001)
    x_0, count = diffusion.latents(victim.images), len(words.ids)
    u = torch.full((3, 2, count), 1 / count).requires_grad_(True)
    optimiser = torch.optim.Adam([u], lr=0.03, weight_decay=0.001)
    mean = unlearn_diff._climbed(victim, places, x_0, u, optimiser, [0, 2], 430, settings, Rng(4))
    rng = Rng(4)
    drawn = torch.multinomial(torch.full((6, count), 1 / count), 1, generator=rng.source).reshape(3, 2)
    noise = torch.randn(3, 4, 4, 4, generator=rng.source)
    for row in (0, 2):
        ids = [*words.ids[drawn[row]].tolist(), *encoder.tokenize(prompts[row]).content]
        tokenized = encoder.assemble(ids)
        z = encoder.embed(tokenized)[None].requires_grad_(True)
        here, t = slice(row, row + 1), torch.tensor([430])
        loss = sight.error(diffusion, x_0[here], noise[here], t, encoder.encode(z, tokenized, grad=True))
        assert mean[row] == pytest.approx(float(loss.detach()), rel=1e-4)
        (slope,) = torch.autograd.grad(loss.sum(), z)
        # d loss / d u_w = slope · table_w, cut to [−1, 1]; Adam's first step is lr · g/|g| after decay is added.
        g = (slope[0, 1:3] @ words.table.T).clamp(-1, 1) + 0.001 / count
        stepped = 1 / count - 0.03 * g / (g.abs() + 1e-8)
        assert float(u.detach()[row].max()) > 1.5 / count
        for j in range(2):
            torch.testing.assert_close(u.detach()[row, j], _sorted_projection(stepped[j]), rtol=0, atol=2e-5)


def test_a_prompt_that_succeeds_alone_is_left_alone():
    victim = erased()
    plain = dataclasses.replace(victim, diffusion=Diffusion(load_pipeline(), victim.diffusion.original))
    rows = unlearn_diff.attack(plain, captions(2), dataclasses.replace(QUICK, steps=8), Rng(0))
    assert [row.adversarial for row in rows] == [target.prompt for target in captions(2)]
    assert [json.loads(row.note) for row in rows] == [{"hit": True, "times": 0}] * 2


def test_rows_keep_the_prompt_and_can_be_typed():
    victim, some = erased(), captions(2)
    rows = unlearn_diff.attack(victim, some, QUICK, Rng(0))
    assert rows == unlearn_diff.attack(victim, some, QUICK, Rng(0))
    for row, target in zip(rows, some, strict=True):
        note = json.loads(row.note)
        assert not note["hit"]  # two iterations at two times, two steps of the sampler: no circle yet
        assert note["times"] == 2
        before, after = (list(victim.encoder.tokenize(t).content) for t in (target.prompt, row.adversarial))
        assert len(after) == len(before) + 3
        assert after[3:] == before


def test_it_goes_lower_than_random_prefixes_at_the_same_price():
    victim, some = erased(), captions(2)
    settings = Settings(
        tokens=4, times=4, iterations=12, descending=True, learning_rate=0.01, detector="", steps=8, guidance=2.0
    )
    rows = unlearn_diff.attack(victim, some, settings, Rng(0))
    x_0 = victim.diffusion.latents(sight.aims(victim, some, steps=8, guidance=2.0))
    contents = [victim.encoder.tokenize(target.prompt).content for target in some]
    # A forward and a backward run (as two) each iteration, two runs a step of every image.
    price = (3 * 48 + 5 * 16) // 4
    lucky = random_search(
        [prefixed(victim.encoder, content, 4) for content in contents],
        Words.of(victim.encoder),
        victim.encoder,
        price,
        lambda texts: mean_error(victim, x_0, texts, 4, seed=1).tolist(),
    )
    mine = mean_error(victim, x_0, [row.adversarial for row in rows], 48, seed=2)
    theirs = mean_error(victim, x_0, lucky, 48, seed=2)
    assert float(mine.mean()) < float(theirs.mean())


def test_too_many_free_tokens(pipeline_folder: Path):
    victim = small(pipeline_folder)
    with pytest.raises(ValueError, match=r"layouts\[0\] has 15 tokens, 15 of them free: must have at most 14"):
        unlearn_diff.attack(
            victim, targets(["a red circle"]), dataclasses.replace(QUICK, tokens=15, detector="judge:circle"), Rng(0)
        )
