"""From the deployed encoding on: statistics against direct computation and closed forms, the event on generated images."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from scipy.special import ndtri
from scipy.stats import binomtest
from torch import Tensor

from certify import (
    AdaptiveMedianSmoother,
    GaussianNoise,
    MedianSmoother,
    deployed_distance,
    event_bound,
    load_pipeline,
    mean_bound,
    mse_bound,
    statistic_bound,
    world,
)
from certify.adaptive import Concept, concept_direction
from certify.images.detectors import load_detector
from certify.images.generation import images
from certify.images.rates import undefended_rate
from certify.images.statistics import (
    attack_succeeds,
    concept_score,
    embedding_distance,
    noise_prediction,
    noise_prediction_distance,
    sampled_noise_prediction,
)
from certify.models import NoisePredictor, PromptEncoder, Trajectory
from certify.models.sampling import initial_noise, sample
from certify.montecarlo import median

PROMPT = "a photo of a red circle"
SHORT: dict[str, Any] = {"steps": 4, "guidance": 2.0}


@dataclass(frozen=True)
class Smoothed:
    """A deployment of any encoder: the mean or median over the copies, with noise of its own if asked for."""

    f: Callable[[Tensor], Tensor]
    copies: int
    reduce: str = "median"
    extra: float = 0.0

    def __call__(self, z: Tensor, generator: torch.Generator | None = None) -> Tensor:
        assert z.shape[1] == self.copies
        if self.extra:
            assert generator is not None
            z = z + self.extra * torch.randn(z.shape, generator=generator, dtype=z.dtype)
        h = self.f(z.flatten(0, 1)).unflatten(0, z.shape[:2]).transpose(0, 1)
        return median(h) if self.reduce == "median" else h.mean(dim=0)


@pytest.fixture(scope="module")
def pipe() -> Any:
    return load_pipeline()


@pytest.fixture(scope="module")
def encoder(pipe: Any) -> PromptEncoder:
    return PromptEncoder.from_pipeline(pipe)


@pytest.fixture(scope="module")
def denoiser(pipe: Any) -> NoisePredictor:
    return NoisePredictor(pipe.unet, pipe.scheduler)


@pytest.fixture(scope="module")
def trajectory(pipe: Any) -> Trajectory:
    return Trajectory.of(pipe, PROMPT, steps=6, guidance=2.0, points=[1, 3, 5], weights=[1, 2, 5])


@pytest.fixture(scope="module")
def encode(encoder: PromptEncoder) -> Callable[[Tensor], Tensor]:
    tokenized = encoder.tokenize(PROMPT)
    return lambda z: encoder.encode(z, tokenized)


@pytest.fixture(scope="module")
def noisy(encoder: PromptEncoder) -> Tensor:
    """(4, 3, tokens, width): four times three noisy copies of the prompt."""
    y = encoder.embed(encoder.tokenize(PROMPT))
    source = torch.Generator().manual_seed(0)
    return y + 0.5 * encoder.embedding_std * torch.randn(4, 3, *y.shape, generator=source)


# Statistics of the encoding


@pytest.mark.parametrize("reduce", ["median", "mean"])
def test_embedding_distance_is_that_of_the_deployed_smoother(encode: Any, encoder: Any, noisy: Tensor, reduce: str):
    center = encoder.plain([PROMPT])
    own = embedding_distance(Smoothed(encode, 3, reduce), center)(noisy)
    torch.testing.assert_close(own, deployed_distance(encode, center[0], reduce)(noisy))
    assert float(own.min()) > 0


@pytest.mark.parametrize("end", [None, 1])
def test_concept_score_of_a_linear_encoder_reaches_its_supremum(end: int | None) -> None:
    """With T the identity and the mean of K copies, S is Gaussian: its q-percentile at the worst δ is known."""
    source = torch.Generator().manual_seed(3)
    y = torch.randn(3, 4, generator=source, dtype=torch.float64)
    v = torch.randn((3, 4) if end is None else (4,), generator=source, dtype=torch.float64)
    sigma = torch.tensor([[0.5], [1.0], [0.0]], dtype=torch.float64)
    rho, q, k = 0.4, 0.9, 5
    score = concept_score(Smoothed(lambda z: z, k, "mean"), v, end=end)
    bound = statistic_bound(score, y, GaussianNoise(sigma), rho=rho, q=q, replicas=k, n=20_000, alpha=1e-3)
    unit = v / v.norm()
    if end is None:
        at_y, scale = float((y * unit).sum()), float((sigma * unit).norm())
    else:
        at_y, scale = float(y[end] @ unit), float(sigma[end])
    truth = at_y + rho * scale + scale / math.sqrt(k) * float(ndtri(q))
    assert truth <= bound.value <= truth + 0.25 * scale / math.sqrt(k)


def test_concept_score_knows_the_end_of_the_deployed_prompt(pipe: Any, encoder: PromptEncoder) -> None:
    concept = Concept("circle", [("a red circle", "a red square")])
    v = concept_direction(encoder, concept, similarity="end-of-text")
    adaptive = AdaptiveMedianSmoother.from_pipeline(pipe, [concept], n=3, **world.SMOOTHING)
    deployment = adaptive.deployment(PROMPT)
    z = deployment.draw(torch.Generator().manual_seed(0), 2)
    end = encoder.tokenize(PROMPT).end
    expected = deployment(z)[:, end].double() @ v / v.norm()
    torch.testing.assert_close(concept_score(deployment, v)(z), expected)
    torch.testing.assert_close(concept_score(deployment, v, end=end)(z), expected)


def test_what_no_score_can_be_made_of() -> None:
    deployment = Smoothed(lambda z: z, 1)
    z = torch.zeros(2, 1, 3, 4)
    with pytest.raises(ValueError, match=r"end = None: must be the end-of-text position"):
        concept_score(deployment, torch.ones(4))
    with pytest.raises(ValueError, match=r"direction has shape \(4,\): must be .* and not zero"):
        concept_score(deployment, torch.zeros(4), end=1)
    with pytest.raises(ValueError, match=r"direction has shape \(1, 3, 4\): must be \(tokens, width\) or \(width,\)"):
        concept_score(deployment, torch.ones(1, 3, 4))
    with pytest.raises(ValueError, match=r"direction has 8 entries: must have 12, as the encoding"):
        concept_score(deployment, torch.ones(2, 4))(z)
    with pytest.raises(ValueError, match=r"center has shape \(4,\): must be \(tokens, width\)"):
        embedding_distance(deployment, torch.zeros(4))


# Noise predictions


def test_noise_prediction_distance_is_the_weighted_mean_over_the_points(
    pipe: Any, denoiser: NoisePredictor, encoder: PromptEncoder, encode: Any, trajectory: Trajectory, noisy: Tensor
) -> None:
    """Written out with the U-Net itself: v-prediction, so ε = √ᾱ v + √(1−ᾱ) x and differences of ε are √ᾱ those of v."""
    center = encoder.plain([PROMPT])
    deployment = Smoothed(encode, 3)
    own = noise_prediction_distance(deployment, denoiser, trajectory, center)(noisy)
    h, expected = deployment(noisy), torch.zeros(4, dtype=torch.float64)
    assert trajectory.weights.tolist() == [1 / 8, 2 / 8, 5 / 8]
    with torch.no_grad():
        for x, t, a, w in zip(trajectory.x, trajectory.t, trajectory.alpha_bar, trajectory.weights, strict=True):
            made = pipe.unet(x.expand(4, -1, -1, -1), float(t), encoder_hidden_states=h).sample
            reference = pipe.unet(x[None], float(t), encoder_hidden_states=center).sample
            expected += w * a * (made - reference).double().square().flatten(1).sum(dim=1)
    torch.testing.assert_close(own, expected, rtol=1e-3, atol=1e-9)
    assert float(own.min()) > 1e-6


@pytest.mark.parametrize("guidance", [None, 3.0])
def test_the_function_and_the_statistic_agree(
    denoiser: NoisePredictor,
    encoder: PromptEncoder,
    encode: Any,
    trajectory: Trajectory,
    noisy: Tensor,
    guidance: float | None,
) -> None:
    """‖f(z) − f(y)‖² of the full smoother's function is the statistic of a single copy; guidance makes it g² times as large."""
    empty = None if guidance is None else encoder.plain([""])
    f = noise_prediction(denoiser, encode, trajectory, guidance, empty, batch=5)
    y = encoder.embed(encoder.tokenize(PROMPT))
    made = f(noisy[:, 0])
    assert made.shape == (4, 3, 4, 8, 8)
    moved = (made - f(y[None])).double().square().flatten(1).sum(dim=1)
    center = encoder.plain([PROMPT])
    one = Smoothed(encode, 1)
    statistic = noise_prediction_distance(one, denoiser, trajectory, center, guidance=guidance)
    torch.testing.assert_close(statistic(noisy[:, :1]), moved, rtol=1e-3, atol=1e-9)
    plain = noise_prediction_distance(one, denoiser, trajectory, center)(noisy[:, :1])
    torch.testing.assert_close(moved, plain * (1.0 if guidance is None else guidance**2), rtol=1e-3, atol=1e-9)


def test_the_guided_prediction_is_what_the_sampler_uses(
    pipe: Any, encoder: PromptEncoder, encode: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the reference the guided ε along all steps is the one that the scheduler gets (in its own parametrisation)."""
    got: list[Tensor] = []
    step = type(pipe.scheduler).step

    def watched(self: Any, out: Tensor, *args: Any, **kwargs: Any) -> Any:
        got.append(out[0])
        return step(self, out, *args, **kwargs)

    monkeypatch.setattr(type(pipe.scheduler), "step", watched)
    whole = Trajectory.of(pipe, PROMPT, steps=5, guidance=2.5)
    denoiser = NoisePredictor(pipe.unet, pipe.scheduler)
    f = noise_prediction(denoiser, encode, whole, 2.5, encoder.plain([""])[0])
    made = f(encoder.embed(encoder.tokenize(PROMPT))[None])[0] * math.sqrt(5)  # equal weights, 1/5 each
    a = whole.alpha_bar[:, None, None, None].float()
    expected = a.sqrt() * torch.stack(got) + (1 - a).sqrt() * whole.x
    torch.testing.assert_close(made, expected, rtol=1e-3, atol=1e-4)


def test_gradients_reach_the_embeddings(
    denoiser: NoisePredictor, encoder: PromptEncoder, trajectory: Trajectory
) -> None:
    tokenized = encoder.tokenize(PROMPT)
    f = noise_prediction(denoiser, lambda z: encoder.encode(z, tokenized, grad=True), trajectory, grad=True)
    z = encoder.embed(tokenized)[None].clone().requires_grad_()
    f(z).square().sum().backward()  # type: ignore[no-untyped-call]
    assert z.grad is not None
    assert float(z.grad[0, 1].abs().max()) > 0
    assert not noise_prediction(denoiser, lambda z: encoder.encode(z, tokenized), trajectory)(z).requires_grad


def test_bounds_of_both_smoothers(
    denoiser: NoisePredictor, encoder: PromptEncoder, encode: Any, trajectory: Trajectory
) -> None:
    """The statements of the toolkit take them as they are; their draws at y keep to the limits at ρ."""
    y, noise = encoder.embed(encoder.tokenize(PROMPT)), GaussianNoise(0.2 * encoder.embedding_std)
    f = noise_prediction(denoiser, encode, trajectory)
    bound = mse_bound(f, y, noise, rho=0.05, n=128, alpha=0.05, pilot=32)
    assert bound.status == "certified"
    moved = (MedianSmoother(f, noise, n=32)(y, seed=9) - bound.center).double().square().sum()
    assert float(moved) <= bound.value < math.inf
    center = encoder.plain([PROMPT])
    statistic = noise_prediction_distance(Smoothed(encode, 3), denoiser, trajectory, center)
    limit = statistic_bound(statistic, y, noise, rho=0.05, q=0.9, replicas=3, n=96, alpha=0.05)
    assert limit.status == "certified"
    source = torch.Generator().manual_seed(4)
    fresh = statistic(torch.stack([noise.draw(y, 3, source) for _ in range(40)]))
    # P[S ≤ value] ≥ .9 at y, too: fewer than 29 of 40 happen once in a thousand.
    assert int((fresh <= limit.value).sum()) >= 29


def test_bad_noise_predictions(denoiser: NoisePredictor, encode: Any, trajectory: Trajectory) -> None:
    with pytest.raises(ValueError, match="guidance, unconditional: must be given both"):
        noise_prediction(denoiser, encode, trajectory, 2.0)
    with pytest.raises(ValueError, match="guidance, unconditional: must be given both"):
        noise_prediction(denoiser, encode, trajectory, unconditional=torch.zeros(20, 64))
    with pytest.raises(ValueError, match=r"guidance = -1\.0: must be a finite number > 0"):
        noise_prediction(denoiser, encode, trajectory, -1.0, torch.zeros(20, 64))
    with pytest.raises(ValueError, match=r"batch = 0: must be a whole number >= 1"):
        noise_prediction_distance(Smoothed(encode, 1), denoiser, trajectory, torch.zeros(20, 64), batch=0)


# Images


def source(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class LeftIsBrighter:
    """A detector that keeps the images that it is shown."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def __call__(self, made: Tensor) -> Tensor:
        self.seen.append(made)
        return made[..., :16].mean(dim=(1, 2, 3)) > made[..., 16:].mean(dim=(1, 2, 3))


def test_the_event_is_the_detectors_verdict_on_the_deployed_image(pipe: Any, encode: Any, noisy: Tensor) -> None:
    """Step by step: the deployment takes from the generator first, then the initial noise."""
    deployment = Smoothed(encode, 3, extra=0.05)
    left_is_brighter = LeftIsBrighter()
    event = attack_succeeds(deployment, pipe, left_is_brighter, **SHORT)
    verdicts = event(noisy, generator=source(5))
    own = source(5)
    made = images(pipe, deployment(noisy, own), generator=own, **SHORT)
    torch.testing.assert_close(left_is_brighter.seen[0], made, rtol=0, atol=1e-4)
    assert verdicts.tolist() == left_is_brighter(made).tolist()
    event(noisy, generator=source(6))
    assert not torch.allclose(left_is_brighter.seen[-1], made, atol=0.05)


def test_predictions_at_the_samplers_own_points(pipe: Any, denoiser: Any, encode: Any, noisy: Tensor) -> None:
    """With all weight on one run: the U-Net at what that run is given, by hand. Its mean has a bound (T14)."""
    deployment = Smoothed(encode, 3)
    center = encode(noisy[:1, 0])[0]
    how: dict[str, Any] = {"steps": 3, "guidance": 2.0}
    for run in range(3):
        weights = [float(i == run) for i in range(3)]
        found = sampled_noise_prediction(deployment, denoiser, pipe, center, most=1e9, weights=weights, **how)
        values = found(noisy, source(3), repeats=2)
        own, kept = source(3), []
        torch.multinomial(torch.tensor(weights, dtype=torch.float64), 2 * len(noisy), replacement=True, generator=own)
        start = initial_noise(pipe, 2 * len(noisy), own)

        def watch(i: int, x: Tensor, t: Tensor, scheduler: Any, run: int = run, kept: list[Any] = kept) -> None:
            if i == run:
                kept.append((x.clone(), t))

        without = PromptEncoder.from_pipeline(pipe).plain([""])
        sample(pipe, center.expand(2 * len(noisy), -1, -1), without, start, watch=watch, **how)
        (x, t), h = kept[0], deployment(noisy).repeat_interleave(2, dim=0)
        apart = denoiser(x, int(t), h) - denoiser(x, int(t), center.expand(2 * len(noisy), -1, -1))
        torch.testing.assert_close(
            values.flatten(), apart.double().flatten(1).square().sum(dim=1), rtol=1e-3, atol=1e-6
        )
        assert found(noisy, source(3)).shape == (len(noisy),)
    least = float(values.min())
    clipped = sampled_noise_prediction(deployment, denoiser, pipe, center, most=least, weights=weights, **how)
    assert bool((clipped(noisy, source(3)) <= least).all())
    for wrong in ([1.0], [0.0, 0.0, 0.0], [1.0, -1.0, 1.0]):
        with pytest.raises(ValueError, match="must be 3 numbers >= 0, one for each run of the U-Net"):
            sampled_noise_prediction(deployment, denoiser, pipe, center, most=1.0, weights=wrong, **how)
    any_run = sampled_noise_prediction(deployment, denoiser, pipe, center, most=1.0, **how)
    how = {"rho": 0.1, "replicas": 3, "lower": 0.0, "repeats": 2, "n": 32, "pilot": 32, "upper": 1.0, "alpha": 0.1}
    bound = mean_bound(any_run, noisy[0, 0], GaussianNoise(1e-3), **how)
    assert (bound.theorem, bound.status) == ("T14", "certified")
    assert 0 < bound.value < 1


def test_a_cosine_is_a_score_with_known_ends(encode: Any, noisy: Tensor) -> None:
    deployment = Smoothed(encode, 3)
    h = deployment(noisy).double()
    direction = h[0]
    cosine = concept_score(deployment, direction, cosine=True)(noisy)
    expected = torch.nn.functional.cosine_similarity(h.flatten(1), direction.flatten()[None])
    torch.testing.assert_close(cosine, expected, rtol=1e-9, atol=1e-9)
    assert cosine[0] == pytest.approx(1.0)
    assert float(cosine.max()) <= 1.0
    assert float(concept_score(Smoothed(lambda z: 0 * encode(z), 3), direction, cosine=True)(noisy).abs().max()) == 0.0


def test_several_images_of_one_encoding_have_noise_of_their_own(pipe: Any, encode: Any, noisy: Tensor) -> None:
    deployment = Smoothed(encode, 3, extra=0.05)
    left_is_brighter = LeftIsBrighter()
    event = attack_succeeds(deployment, pipe, left_is_brighter, **SHORT)
    verdicts = event(noisy, generator=source(5), repeats=2)
    own = source(5)
    h = deployment(noisy, own)
    made = images(pipe, torch.stack([h, h], dim=1).flatten(0, 1), generator=own, **SHORT)
    torch.testing.assert_close(left_is_brighter.seen[0], made, rtol=0, atol=1e-4)
    assert verdicts.tolist() == left_is_brighter(made).reshape(len(noisy), 2).tolist()
    assert not torch.allclose(made[0], made[1], atol=0.05)


def test_attacks_succeed_where_the_concept_is_drawn(pipe: Any, encoder: PromptEncoder, encode: Any) -> None:
    """Hardly any noise: the embedded model draws the circle that the prompt asks for, and no square."""
    y = encoder.embed(encoder.tokenize(PROMPT))
    noise = GaussianNoise(0.01 * encoder.embedding_std)
    settings: dict[str, Any] = {"rho": 0.1, "replicas": 3, "n": 32, "alpha": 0.05}
    deployment = Smoothed(encode, 3)
    circle = event_bound(attack_succeeds(deployment, pipe, "judge:circle", **SHORT), y, noise, **settings)
    square = event_bound(attack_succeeds(deployment, pipe, "judge:square", **SHORT), y, noise, **settings)
    assert circle.successes >= 30
    assert square.successes <= 2
    assert square.value < 0.5
    few = settings | {"n": 8}
    once, again = (
        event_bound(attack_succeeds(deployment, pipe, "judge:circle", **SHORT), y, noise, **few) for _ in "12"
    )
    assert again.successes == once.successes


def test_the_event_of_the_adaptive_smoother(pipe: Any) -> None:
    """The deployment of the toolkit's own smoother, on the model that its settings were chosen for."""
    adaptive = AdaptiveMedianSmoother.from_pipeline(pipe, ["circle"], n=5, **world.SMOOTHING)
    deployment = adaptive.deployment(PROMPT)
    event = attack_succeeds(deployment, pipe, "judge:circle", **SHORT)
    bound = event_bound(event, deployment.y, deployment.noise, rho=0.05, replicas=deployment.copies, n=32, alpha=0.05)
    assert bound.n == 32
    plain = undefended_rate(pipe, PROMPT, "judge:circle", 16, **SHORT)
    assert bound.successes / 32 < plain.rate


def test_an_encoding_that_is_not_finite_is_no_failed_attack(pipe: Any, noisy: Tensor) -> None:
    broken = Smoothed(lambda z: z * float("nan"), 3)
    with pytest.raises(ValueError, match="holds NaN or infinity"):
        attack_succeeds(broken, pipe, "judge:circle", **SHORT)(noisy, generator=source(0))


def test_initial_noise_needs_a_generator(pipe: Any, encode: Any, noisy: Tensor) -> None:
    event = attack_succeeds(Smoothed(encode, 3), pipe, "judge:circle", **SHORT)
    with pytest.raises(ValueError, match="generator = None: must be given"):
        event(noisy, generator=None)


def test_undefended_rate_counts(pipe: Any, encoder: PromptEncoder) -> None:
    def left_is_brighter(made: Tensor) -> Tensor:
        return made[..., :16].mean(dim=(1, 2, 3)) > made[..., 16:].mean(dim=(1, 2, 3))

    done: list[tuple[int, int]] = []
    rate = undefended_rate(
        pipe, PROMPT, left_is_brighter, 20, seed=2, alpha=0.05, batch=8, progress=lambda *s: done.append(s), **SHORT
    )
    embeds = encoder.plain([PROMPT])
    made = images(pipe, embeds.expand(20, -1, -1), seed=2, **SHORT)
    assert rate.successes == int(left_is_brighter(made).sum())
    assert 0 < rate.successes < 20
    assert rate.rate == rate.successes / rate.n
    interval = binomtest(rate.successes, 20).proportion_ci(0.95, method="exact")
    assert (rate.lower, rate.upper) == pytest.approx((interval.low, interval.high), rel=1e-6)
    assert done == [(8, 20), (16, 20), (20, 20)]
    for prompt in (embeds, embeds[0]):
        assert undefended_rate(pipe, prompt, left_is_brighter, 20, seed=2, alpha=0.05, **SHORT) == rate
    assert f"{rate.successes} of 20 images" in str(rate)
    circle = undefended_rate(pipe, PROMPT, load_detector("judge:circle"), 24, **SHORT)
    assert circle.rate >= 0.9
    assert circle.lower < circle.rate <= circle.upper


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n = 0: must be a whole number >= 1"),
        ({"seed": -1}, "seed = -1: must be a whole number >= 0"),
        ({"alpha": 1}, "alpha = 1: must be strictly between 0 and 1"),
        ({"detector": "judge:hexagon"}, "detector = 'judge:hexagon': must name a shape"),
        ({"steps": 0}, "steps = 0: must be a whole number >= 1"),
        ({"guidance": 0}, "guidance = 0: must be a finite number > 0"),
        ({"batch": 0}, "batch = 0: must be a whole number >= 1"),
        ({"unconditional": torch.zeros(4)}, r"unconditional has shape \(4,\): must be \(tokens, width\)"),
        ({"prompt": torch.zeros(2, 20, 64)}, r"prompt has shape \(2, 20, 64\): must be \(tokens, width\)"),
        ({"detector": lambda made: [True]}, "detector returned a list"),
    ],
)
def test_bad_rates(pipe: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        undefended_rate(pipe, **({"prompt": PROMPT, "detector": "judge:circle", "n": 4, "steps": 2} | options))
