"""The adaptive attack: its gradient against differences, the choice against what is deployed, and more than random search."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from certify import world
from certify.adaptive import AdaptiveMedianSmoother, Concept
from experiments.attacks import adaptive, sight
from experiments.attacks.adaptive import ATTACK, Case, Settings
from experiments.attacks.attack import Victim, run
from experiments.attacks.places import Places, Words, prefixed
from experiments.soundness.attack import Ascent, Ball
from experiments.unlearning.training import Rng
from tests.experiments.attacks.victims import captions, erased, random_search, small, targets

PAIRS = Concept("circle", (("a red circle", "a red"), ("the circle", "the"), ("a small coin", "a small")))
QUICK = Settings(
    tokens=2, iterations=2, draws=2, candidates=2, top=8, check=1, looks=1, detector="", steps=2, guidance=2.0
)


def _small(folder: Path, **options: object) -> Victim:
    victim = small(folder)
    settings = {"n": 3, "sigma0_relative": 0.3, "k": 2.0} | options
    return dataclasses.replace(victim, smoother=AdaptiveMedianSmoother(victim.encoder, PAIRS, **settings))  # type: ignore[arg-type]


def _smoothed() -> Victim:
    victim = erased()
    smoother = AdaptiveMedianSmoother.from_encoder(victim.encoder, ["circle"], n=5, **world.SMOOTHING)
    return dataclasses.replace(victim, smoother=smoother)


def _places(victim: Victim, prompts: list[str], count: int) -> Places:
    encoder = victim.encoder
    return Places(encoder, [prefixed(encoder, encoder.tokenize(p).content, count) for p in prompts], Words.of(encoder))


def test_the_smoother_is_the_deployed_one_with_a_gradient_around_it():
    outputs = torch.randn(2, 9, 4, 3, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    median = adaptive.straight_through(outputs, "median")
    torch.testing.assert_close(median, outputs.detach().sort(dim=1).values[:, 4], rtol=0, atol=1e-6)
    (slope,) = torch.autograd.grad(median.sum(), outputs)
    ranks = outputs.detach().argsort(dim=1).argsort(dim=1)
    # The three order statistics within 0.15 of the middle share the derivative.
    torch.testing.assert_close(slope, torch.where((ranks >= 3) & (ranks < 6), 1 / 3, 0.0))
    (slope,) = torch.autograd.grad(adaptive.straight_through(outputs, "mean").sum(), outputs)
    torch.testing.assert_close(slope, torch.full_like(slope, 1 / 9))


@pytest.mark.parametrize(
    ("policy", "sharing"),
    [("frozen", "none"), *(("noise-then-adapt", sharing) for sharing in ("none", "sigma", "input"))],
)
def test_the_inputs_are_the_deployments_own_and_follow_y(policy: str, sharing: str, pipeline_folder: Path):
    deployment = _small(pipeline_folder, policy=policy, sharing=sharing).smoother.deployment("a red circle")
    copies = deployment.draw(torch.Generator().manual_seed(1), 2)
    expected = deployment.inputs(copies, torch.Generator().manual_seed(2))
    y = deployment.y.expand(2, -1, -1).clone().requires_grad_(True)
    x = adaptive.held(deployment, y, copies, torch.Generator().manual_seed(2))
    torch.testing.assert_close(x.to(expected.dtype), expected, rtol=0, atol=1e-6)
    weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(3), dtype=x.dtype)
    (slope,) = torch.autograd.grad((weights * x).sum(), y)
    torch.testing.assert_close(slope.double(), weights.sum(dim=1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("folder", ["pipeline_folder", "pipeline_folder_sd2"])
def test_the_gradient_is_that_of_the_smoothed_loss(folder: str, request: pytest.FixtureRequest):
    victim = _small(request.getfixturevalue(folder), smoother="mean", k=0.0)
    assert victim.images is not None
    prompts = ["a red circle", "the small coin", "a wheel"]
    places, source = _places(victim, prompts, 2), torch.Generator().manual_seed(0)
    chosen, rows = places.words.random((3, 2), source), [0, 2]
    case = Case.drawn(victim.diffusion, victim.diffusion.latents(victim.images), 2, source)
    texts = [str(places.text(row, chosen[row])) for row in rows]
    slope = adaptive.slopes(victim, places, chosen, rows, texts, case, torch.Generator().manual_seed(7))

    def value(i: int, moved: torch.Tensor) -> float:
        """L of one row by hand, at words moved a little, with the noise that the gradient had."""
        noise = torch.Generator().manual_seed(7)
        for j, text in enumerate(texts):
            d = victim.smoother.deployment(text)
            offsets = d.draw(noise, 2) - d.y
            if j == i:
                break
        y = d.y.clone()
        y[1:3] += moved
        h = victim.encoder.encode((y + offsets).flatten(0, 1), d.side).unflatten(0, (2, 3)).mean(dim=1)
        losses = [
            sight.error(victim.diffusion, case.x_0[[rows[i]]], case.noise[rows[i], k][None], case.t[rows[i], k][None],
                        h[k][None]) for k in range(2)
        ]  # fmt: skip
        return float(torch.stack(losses).double().mean())

    for i in range(2):
        direction = slope[i] / slope[i].norm()
        size = 0.0025  # at 0.02 the curvature is up to a seventh of the difference
        difference = (value(i, size * direction) - value(i, -size * direction)) / (2 * size)
        assert difference == pytest.approx(float(slope[i].norm()), rel=0.005)


def test_candidates_are_judged_as_deployed_each_with_its_own_noise(pipeline_folder: Path):
    victim = _small(pipeline_folder)
    assert victim.images is not None
    case = Case.drawn(victim.diffusion, victim.diffusion.latents(victim.images), 2, torch.Generator().manual_seed(0))
    texts, rows = ["the coin a red circle", "big a red circle", "a wheel"], [0, 0, 2]
    values = adaptive.losses(victim, texts, rows, case, [5, 6])
    assert set(victim.smoother.relevance(texts[0]).sigma) != set(victim.smoother.relevance(texts[1]).sigma)
    for text, row, value in zip(texts, rows, values, strict=True):
        by_hand = []
        with torch.no_grad():
            for k, seed in enumerate((5, 6)):
                h = victim.smoother.encode(text, seed=seed)
                by_hand.append(
                    sight.error(victim.diffusion, case.x_0[[row]], case.noise[row, k][None], case.t[row, k][None], h)
                )
        assert float(value) == pytest.approx(float(torch.stack(by_hand).mean()), rel=1e-4)


def test_an_iteration_never_makes_it_worse_on_its_own_draws(pipeline_folder: Path, monkeypatch: pytest.MonkeyPatch):
    victim, seen = _small(pipeline_folder), []
    assert victim.images is not None
    places, rng = _places(victim, ["a red circle", "the coin"], 2), Rng(0)
    chosen = places.words.random((2, 2), rng.source)
    case = Case.drawn(victim.diffusion, victim.diffusion.latents(victim.images[:2]), 2, rng.source)
    judged = adaptive.losses

    def watched(*given: object) -> torch.Tensor:
        values = judged(*given)  # type: ignore[arg-type]
        seen.append((given[1], values))
        return values

    monkeypatch.setattr(adaptive, "losses", watched)
    new, texts = adaptive._stepped(victim, places, chosen, [0, 1], case, dataclasses.replace(QUICK, candidates=4), rng)
    ((tried, values),) = seen
    assert len(tried) == 10
    for row, first in ((0, 0), (1, 5)):
        assert texts[row] == places.text(row, new[row]) == tried[first + int(values[first : first + 5].argmin())]
        assert int((new[row] != chosen[row]).sum()) <= 1


def test_it_goes_lower_than_random_prefixes_at_the_same_price():
    victim, some = _smoothed(), captions(2)
    diffusion, rng = victim.diffusion, Rng(0)
    settings = dataclasses.replace(QUICK, candidates=6, top=24)
    x_0 = diffusion.latents(sight.aims(victim, some, steps=8, guidance=2.0))
    places = _places(victim, [target.prompt for target in some], 3)
    chosen, texts, iterations = places.words.random((2, 3), rng.source), ["", ""], 10
    for _ in range(iterations):
        case = Case.drawn(diffusion, x_0, settings.draws, rng.source)
        chosen, texts = adaptive._stepped(victim, places, chosen, [0, 1], case, settings, rng)
    # Draws of an iteration: of the gradient (a backward counts as two), of the candidates and of the current prompt.
    price = iterations * settings.draws * (3 + 6 + 1) // 4
    common = Case.drawn(diffusion, x_0, 4, torch.Generator().manual_seed(1))
    lucky = random_search(
        places.layouts,
        places.words,
        victim.encoder,
        price,
        lambda tried: adaptive.losses(victim, tried, [0, 1], common, [1, 2, 3, 4]).tolist(),
    )
    judge = Case.drawn(diffusion, x_0, 32, torch.Generator().manual_seed(2))
    mine, theirs = (adaptive.losses(victim, t, [0, 1], judge, range(100, 132)).mean() for t in (texts, lucky))
    assert float(mine) < float(theirs)


def test_inside_stays_inside_and_beats_random_directions(pipeline_folder: Path):
    victim, target = _small(pipeline_folder), targets(["a red circle"])[0]
    # With 12 draws a gradient is mostly noise, and whether the end is lower than any random direction is luck.
    ascent = Ascent(steps=10, draws=48, judging=16)
    found = adaptive.inside(victim, target, 2.0, QUICK, Rng(0), ascent=ascent, restarts=2)
    noise = victim.smoother.deployment(target.prompt).noise
    assert 1.9 < noise.norm(found.delta) <= 2.0
    assert found.after < found.before
    # Directions at random, as many as the ascent asked for: none goes as low on common noise.
    deployment = victim.smoother.deployment(target.prompt)
    assert victim.images is not None
    x_0, draws = victim.diffusion.latents(victim.images[:1]), 64
    case = Case.drawn(victim.diffusion, x_0, draws, torch.Generator().manual_seed(3))
    copies = deployment.draw(torch.Generator().manual_seed(4), draws).double()

    @torch.no_grad()
    def value(delta: torch.Tensor) -> float:
        h = deployment((copies + delta).to(deployment.y.dtype))
        return float(case.loss(victim.diffusion, h[None], torch.tensor([0])))

    ball = Ball.around(deployment.y, deployment.noise, 2.0)
    tried = [value(ball.sigma * u) for u in ball.random(3 * 3 * 10, torch.Generator().manual_seed(5))]
    assert value(found.delta) < min(tried)


def test_bad_calls(pipeline_folder: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="draws = 0: must be a whole number >= 1"):
        dataclasses.replace(QUICK, draws=0)
    with pytest.raises(ValueError, match="guidance = 0: must be a finite number > 0"):
        dataclasses.replace(QUICK, guidance=0)
    some = targets(["a red circle"])
    with pytest.raises(ValueError, match="'disturbed' has no smoother: adaptive needs them"):
        run(ATTACK, small(pipeline_folder), some, QUICK, tmp_path / "rows.csv")
    with pytest.raises(TypeError, match="smoother is a str: must be an AdaptiveMedianSmoother"):
        adaptive.attack(dataclasses.replace(small(pipeline_folder), smoother="x"), some, QUICK, Rng(0))
    with pytest.raises(ValueError, match=r"ascent\.draws = 4: must be a multiple of the smoother's 3 copies"):
        adaptive.inside(_small(pipeline_folder), some[0], 1.0, QUICK, Rng(0), ascent=Ascent(draws=4))
