"""Deployments: what runs as a function of noisy copies of the prompt, under every policy and way of sharing."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from certify import event_bound, percentile_bounds
from certify.adaptive import AdaptiveMedianSmoother
from certify.adaptive.deployment import side_information
from certify.models import PromptEncoder, load_pipeline
from certify.montecarlo.streams import row_generator
from tests.adaptive.conftest import CIRCLE, FISH
from tests.pipelines import save_pipeline

PROMPT, OTHER = "a red starfish", "a big starfish"
N = 3


def build(encoder: PromptEncoder, **options: Any) -> AdaptiveMedianSmoother:
    return AdaptiveMedianSmoother.from_encoder(encoder, [CIRCLE, FISH], **({"n": N} | options))


def adapting(encoder: PromptEncoder, **options: Any) -> AdaptiveMedianSmoother:
    return build(encoder, policy="noise-then-adapt", **options)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


POLICIES: list[dict[str, Any]] = [
    {},
    {"smoother": "mean"},
    {"policy": "memory"},
    *({"policy": "noise-then-adapt", "sharing": sharing} for sharing in ("none", "sigma", "input")),
]


@pytest.mark.parametrize("options", POLICIES)
def test_encoding_is_drawing_the_copies_and_applying(
    encoder: PromptEncoder, options: dict[str, Any], tmp_path: Path
) -> None:
    adaptive = build(encoder, **options, **({"memory": tmp_path} if options.get("policy") == "memory" else {}))
    d = adaptive.deployment(PROMPT)
    source = row_generator(4, "prompt " + " ".join(str(i) for i in encoder.tokenize(PROMPT).content))
    z = d.draw(source)
    assert z.shape == (1, d.copies, 16, 32)
    assert torch.equal(adaptive.encode(PROMPT, seed=4), d(z, source))
    assert (d.policy, d.smoother, d.replicas) == (adaptive.policy, adaptive.smoother, N)


@pytest.mark.parametrize(("sharing", "copies"), [("none", N), ("sigma", N + 1), ("input", 1)])
def test_copies(encoder: PromptEncoder, sharing: str, copies: int) -> None:
    d = adapting(encoder, sharing=sharing).deployment(PROMPT)
    assert (d.copies, d.independent) == (copies, sharing == "none")
    assert build(encoder).deployment(PROMPT).copies == N
    assert build(encoder).deployment(PROMPT).independent


def test_a_frozen_deployment_is_the_frozen_smoothers(encoder: PromptEncoder) -> None:
    adaptive = build(encoder)
    d, frozen = adaptive.deployment(PROMPT), adaptive.freeze(PROMPT)
    z = d.draw(generator(), count=4)
    assert torch.equal(d.noise.sigma, adaptive.relevance(PROMPT).column)
    assert torch.equal(d.y, encoder.embed(encoder.tokenize(PROMPT)))
    encoded = encoder.encode(z.flatten(0, 1), encoder.tokenize(PROMPT)).unflatten(0, (4, N))
    torch.testing.assert_close(d(z), encoded.median(dim=1).values)
    torch.testing.assert_close(frozen.deployment(PROMPT)(z), d(z))
    at_other = frozen.deployment(OTHER)
    assert torch.equal(at_other.noise.sigma, d.noise.sigma)
    assert not torch.equal(at_other.y, d.y)


class TestNoiseThenAdapt:
    """The defence reads the prompt through its noisy copies alone."""

    @pytest.mark.parametrize("sharing", ["none", "sigma", "input"])
    @pytest.mark.parametrize("use_global", [False, True])
    def test_prompts_of_equal_side_information_have_the_same_function(
        self, encoder: PromptEncoder, sharing: str, use_global: bool
    ) -> None:
        adaptive = adapting(encoder, sharing=sharing, use_global=use_global, special_tokens="tail")
        a, b = adaptive.deployment(PROMPT), adaptive.deployment(OTHER)
        assert not torch.equal(a.y, b.y)
        assert torch.equal(a.noise.sigma, b.noise.sigma)
        z = a.draw(generator())
        assert torch.equal(a(z, generator(1)), b(z, generator(1)))
        f, g = adaptive.problem(PROMPT), adaptive.problem(OTHER)
        assert torch.equal(f.f(z[0], generator(1)), g.f(z[0], generator(1)))
        assert torch.equal(f.noise.sigma, g.noise.sigma)

    def test_the_frozen_smoother_does_not(self, encoder: PromptEncoder) -> None:
        adaptive = build(encoder)
        assert not torch.equal(adaptive.deployment(PROMPT).noise.sigma, adaptive.deployment(OTHER).noise.sigma)

    def test_the_first_noise(self, encoder: PromptEncoder) -> None:
        for special, kinds in (("none", set()), ("tail", {"end", "padding"}), ("base", {"begin", "end", "padding"})):
            adaptive = adapting(encoder, sigma0=0.01, sigma_min=0.02, special_tokens=special)
            for sigma, kind in zip(
                adaptive.deployment(PROMPT).noise.sigma, encoder.tokenize(PROMPT).kinds, strict=True
            ):
                assert float(sigma) == (0.02 if kind == "word" else 0.01 if kind in kinds else 0.0)

    def test_its_size(self, encoder: PromptEncoder) -> None:
        assert adapting(encoder).sigma_min == adapting(encoder).sigma0
        assert adapting(encoder, sigma_min=0.3).sigma_min == 0.3
        assert adapting(encoder, sigma_min_relative=2).sigma_min == pytest.approx(2 * encoder.embedding_std)
        assert build(encoder).sigma_min is None

    def test_a_vanishing_first_noise_is_the_adaptive_smoother(self, encoder: PromptEncoder) -> None:
        """σ(z) → σ(y) as σ_min → 0, so the noise on a token has its relevance's size."""
        adaptive = adapting(encoder, sigma_min=1e-9, n=400)
        d = adaptive.deployment(PROMPT)
        spread = (d.inputs(d.draw(generator()), generator(1))[0] - d.y).std(dim=(0, 2), correction=0)
        torch.testing.assert_close(spread.double()[:, None], adaptive.relevance(PROMPT).column, rtol=0.05, atol=0)

    def test_a_words_noise_is_never_below_the_first(self, encoder: PromptEncoder) -> None:
        d = adapting(encoder, sigma0=1e-6, sigma_min=0.5, sigma_max=0.5).deployment(PROMPT)
        z = d.draw(generator())
        assert torch.equal(d.inputs(z, generator(1)), z)

    @pytest.mark.parametrize("k", [1e300, 500.0])
    def test_the_cap(self, encoder: PromptEncoder, k: float) -> None:
        adaptive = adapting(encoder, k=k, sigma_max=0.7, n=200)
        d = adaptive.deployment(PROMPT)
        spread = (d.inputs(d.draw(generator()), generator(1))[0] - d.y).std(dim=(0, 2))
        assert float(spread.max()) == pytest.approx(0.7, rel=0.1)

    @pytest.mark.parametrize("quantity", ["embedding", "noise-prediction"])
    def test_a_problem_is_one_copy_of_the_deployment(self, pipe: Any, encoder: PromptEncoder, quantity: str) -> None:
        adaptive = AdaptiveMedianSmoother.from_pipeline(pipe, [CIRCLE, FISH], n=1, policy="noise-then-adapt")
        where = {"x_t": torch.randn(4, 4, 4, generator=generator()), "t": 500} if quantity != "embedding" else {}
        p, d = adaptive.problem(PROMPT, quantity, **where), adaptive.deployment(PROMPT)
        assert (p.policy, p.quantity) == ("noise-then-adapt", quantity)
        assert torch.equal(p.noise.sigma, d.noise.sigma)
        z = d.draw(generator(), count=5)
        expected = d(z, generator(1))
        if quantity != "embedding":
            expected = adaptive.denoiser(where["x_t"][None], where["t"], expected)  # type: ignore[misc]
        torch.testing.assert_close(p.f(z[:, 0], generator(1)), expected, rtol=1e-4, atol=1e-5)

    def test_a_bound_takes_its_problem(self, encoder: PromptEncoder) -> None:
        p = adapting(encoder).problem(PROMPT)
        b = percentile_bounds(p.f, p.y, p.noise, rho=0.5, n=200, alpha=0.5, support=p.support)
        assert bool((b.lower <= b.center).all())
        assert bool((b.center <= b.upper).all())

    def test_an_event_bound_takes_its_deployment(self, encoder: PromptEncoder) -> None:
        d = adapting(encoder, sharing="sigma").deployment(PROMPT)
        e = event_bound(
            lambda z, generator: d(z, generator)[:, 3, 0] > 0, d.y, d.noise, rho=0.1, replicas=d.copies, n=64
        )
        assert (e.replicas, e.n) == (N + 1, 64)

    def test_on_record(self, encoder: PromptEncoder) -> None:
        settings = adapting(encoder, sharing="input").settings()
        assert (settings["sharing"], settings["sigma_min"]) == ("input", settings["sigma0"])
        assert build(encoder).settings()["sharing"] is None

    def test_a_certificate(self, encoder: PromptEncoder) -> None:
        adaptive = adapting(encoder)
        certificate = adaptive.certify(PROMPT, rho=0.5, n=600, alpha=0.01)
        assert {claim.policy for claim in certificate.claims} == {"noise-then-adapt"}
        p = adaptive.problem(PROMPT)
        assert torch.equal(certificate.noise.sigma_for(p.y.shape), p.noise.sigma_for(p.y.shape))
        assert "word boundaries" in certificate.claims[0].not_covered


class TestSideInformation:
    """What may be read beside the embeddings."""

    def test_words_are_gone_and_positions_stay(self, encoder: PromptEncoder) -> None:
        t = encoder.tokenize(PROMPT)
        side = side_information(encoder, t)
        assert (side.kinds, side.words, side.length, side.prompt) == (t.kinds, t.words, t.length, "")
        assert len(set(side.content)) == 1
        assert torch.equal(side_information(encoder, encoder.tokenize(OTHER)).ids, side.ids)

    def test_an_encoding_does_not_depend_on_token_ids(self, encoder: PromptEncoder) -> None:
        """CLIP takes ids to find the end of the text, for its pooled output alone."""
        t = encoder.tokenize(PROMPT)
        z = encoder.embed(t).expand(2, -1, -1)
        for ids in (side_information(encoder, t).ids, encoder.tokenize("").ids, torch.zeros(16, dtype=torch.long)):
            assert torch.equal(encoder.encode_batch(ids.expand(2, -1), z), encoder.encode(z, t))

    def test_where_the_pipeline_masks_the_padding(self, tmp_path: Path) -> None:
        masked = PromptEncoder.from_pipeline(load_pipeline(save_pipeline(tmp_path, use_attention_mask=True)))
        t = masked.tokenize(PROMPT)
        side = side_information(masked, t)
        assert side.attention_mask is not None
        assert torch.equal(side.attention_mask, t.attention_mask)
        z = masked.embed(t)[None]
        assert torch.equal(masked.encode(z, side), masked.encode(z, t))
        adaptive = adapting(masked)
        (expected,) = adaptive.scorer.scores([t])
        got = adaptive.scorer.scores_at(z, side)[0]
        torch.testing.assert_close(got, expected, rtol=0, atol=1.1e-4, equal_nan=True)
        assert adaptive.encode(PROMPT).shape == (1, 16, 32)


def test_statistics_keep_t5_within_the_radius(encoder: PromptEncoder) -> None:
    """A probability at y + δ is at most Φ(Φ⁻¹(p) + √copies ρ), on the encoder itself, up to five standard errors."""
    from scipy.special import ndtr, ndtri

    rho, n = 0.5, 2000
    for sharing in ("sigma", "input"):
        d = adapting(encoder, sharing=sharing, k=4).deployment(PROMPT)
        delta = torch.zeros_like(d.y)
        # Along the direction in which the encoding at the starfish moves most, roughly: the gradient of one output.
        z = d.y.clone()[None].requires_grad_()
        encoder.encode(z, d.side, grad=True)[0, 3, 0].backward()  # type: ignore[no-untyped-call]
        assert z.grad is not None
        words = slice(1, d.side.end)
        delta[words] = z.grad[0, words]
        delta *= rho / d.noise.norm(delta)
        assert d.noise.norm(delta) == pytest.approx(rho)
        copies = d.draw(generator(), count=n)
        first, second = d(copies, generator(1))[:, 3, 0], d(copies + delta, generator(1))[:, 3, 0]
        threshold = first.quantile(0.7)
        p, q = (float((x > threshold).double().mean()) for x in (first, second))
        margin = 5 * 0.5 / math.sqrt(n)
        assert q > p  # the perturbation does what it is for
        assert q - margin <= float(ndtr(ndtri(min(p + margin, 1 - 1e-9)) + math.sqrt(d.copies) * rho))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, N, 16, 31), r"z has shape \(2, 3, 16, 31\): must be \(batch, 3, 16, 32\)"),
        ((N, 16, 32), r"z has shape \(3, 16, 32\): must be \(batch, 3, 16, 32\)"),
        ((2, N + 1, 16, 32), r"z has shape \(2, 4, 16, 32\): must be"),
    ],
)
def test_another_shape(encoder: PromptEncoder, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(encoder).deployment(PROMPT)(torch.zeros(shape))


def test_bad_calls(encoder: PromptEncoder) -> None:
    d = adapting(encoder).deployment(PROMPT)
    with pytest.raises(ValueError, match=r"generator = None: must be given, policy 'noise-then-adapt' draws noise"):
        d(d.draw(generator()))
    with pytest.raises(ValueError, match=r"count = 0: must be a whole number >= 1"):
        d.draw(generator(), count=0)
    with pytest.raises(ValueError, match=r"prompt = '': must not be empty"):
        build(encoder).deployment("")
