"""Joint certificates beyond the encoding: predictions of the denoiser, support, coverage in words, what is on record."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import certify
from certify.certificate import Certificate
from certify.defence import Predictions, covered_prompts, covered_words, rebuilt
from certify.support import rms_norm_support
from tests.defence.pipelines import CALLS, built
from tests.defence.test_families import CIRCLE, JOINT, PROMPT, _defended

FLUX = "FluxPipeline"


@functools.cache
def _certificate() -> Certificate:
    """One with everything but images."""
    asked: dict[str, Any] = {"rho": 0.3, "rho_deployed": 0.1, "n": 128, "radii": 2, "statistics": 64, "points": 2}
    return _defended(FLUX).certify(PROMPT, **asked, prompts=["a photo of a red square", "a cat"])


# Predictions


NOISE = (
    "StableDiffusionXLPipeline",
    "PixArtAlphaPipeline",
    "PixArtSigmaPipeline",
    "HunyuanDiTPipeline",
    "Kandinsky3Pipeline",
)
"""Those that predict noise; the others predict the velocity of a flow."""


@pytest.mark.parametrize("name", JOINT)
def test_predictions_follow_the_encoding_at_fixed_points(name: str) -> None:
    """That a run's own predictions come out again, `Predictions` itself refuses to do without."""
    safe = _defended(name)
    problem = safe.problem(PROMPT)
    predictions = Predictions(safe.calls, problem, {}, points=2)
    assert predictions.kind == f"{'noise' if name in NOISE else 'velocity'} prediction"
    moved = problem.y + problem.noise.sigma_for(tuple(problem.y.shape)).to(problem.y)
    out = predictions.f(torch.stack([problem.y, moved, problem.y]))
    assert out.shape[:2] == (3, len(predictions.x)) == (3, 2)
    torch.testing.assert_close(out[0], out[2])
    assert not torch.allclose(out[0], out[1])
    again = Predictions(safe.calls, problem, {}, points=(predictions.x, predictions.t))
    torch.testing.assert_close(again.f(problem.y[None]), out[:1], rtol=0, atol=1e-4 * float(out.abs().max()))


def test_a_certificate_has_predictions_and_passes_its_check() -> None:
    certificate = _certificate()
    last = certificate.claims[-1]
    assert (last.function, last.quantity, last.status) == ("velocity prediction", "mse", "certified")
    assert "velocity prediction" in last.sentence
    report = _defended(FLUX).check(certificate, n=32)
    assert not report.refuted
    assert report.verdicts[-1].outcome == "not refuted"
    assert set(certificate.provenance["model"]["sha256"]) == {"text_encoders", "transformer", "vae"}
    alone = _defended(FLUX).check(certificate, n=32, text_only=True)
    assert alone.verdicts[-1].outcome == "not checked"


def test_points_of_another_size_are_refused() -> None:
    safe = _defended(FLUX)
    with pytest.raises(ValueError, match="points have shape"):
        Predictions(safe.calls, safe.problem(PROMPT), {}, points=(torch.zeros(1, 2, 2), torch.zeros(1)))


# On record


def test_what_is_on_record_is_computed_again() -> None:
    statements = {one.name: one.outcome for one in _defended(FLUX).compared(_certificate())}
    made = statements.pop("how it was made")
    assert made == "not checked"
    assert set(statements.values()) == {"same"}
    assert "how the radius is shared out (T16)" in statements


@pytest.mark.parametrize(
    ("entry", "change", "name"),
    [
        ("allocation", lambda v: {**v, "distance": 0.5 * v["distance"]}, "how the radius is shared out (T16)"),
        ("allocation", lambda v: {**v, "rho": 2 * v["rho"]}, "how the radius is shared out (T16)"),
        ("token_noise", lambda v: [{**v[0], "sigma": [2 * s for s in v[0]["sigma"]]}, *v[1:]], "noise of the tokens"),
        ("covered_words", lambda v: [{**v[0], "covered": v[0]["comparable"]}, *v[1:]], "covered words"),
        ("blocks", lambda v: [[0, 1]], "blocks of encoders"),
        ("class", lambda v: "StableDiffusion3Pipeline", "pipeline class"),
        ("family", lambda v: "another", "pipeline family"),
    ],
)
def test_a_tampered_record_differs(entry: str, change: Any, name: str) -> None:
    certificate = _certificate()
    about = certificate.provenance["pipeline"]
    forged = {**certificate.provenance, "pipeline": {**about, entry: change(about[entry])}}
    found = _defended(FLUX).compared(replace(certificate, provenance=forged))
    assert [one.name for one in found if one.outcome == "differs"] == [name]


def test_a_record_of_another_number_of_copies_than_its_claims_differs() -> None:
    certificate = _certificate()
    settings = certificate.provenance["smoother"]
    forged = replace(
        certificate, provenance={**certificate.provenance, "smoother": {**settings, "n": settings["n"] + 6}}
    )
    found = rebuilt(forged, built(FLUX), [CIRCLE]).compared(forged)
    assert [one.name for one in found if one.outcome == "differs"] == ["noisy copies"]


@pytest.mark.parametrize("change", [{"rate": 0.5}, {"successes": 0}, {"n": 3}, {"successes": 9, "rate": 2.25}])
def test_a_measured_rate_that_its_own_counts_contradict_differs(change: dict[str, Any]) -> None:
    certificate = _certificate()
    whole = {"rate": 0.25, "successes": 1, "n": 4}
    for rate, outcome in ((whole, "not checked"), ({**whole, **change}, "differs")):
        found = _defended(FLUX).compared(
            replace(certificate, provenance={**certificate.provenance, "undefended": rate})
        )
        (entry,) = (one for one in found if one.name == "rate without the defence")
        assert entry.outcome == outcome


def test_a_damaged_record_is_refused() -> None:
    certificate = _certificate()
    forged = {**certificate.provenance, "pipeline": {"call": {}}}
    with pytest.raises(ValueError, match="cannot be read"):
        _defended(FLUX).compared(replace(certificate, provenance=forged))


def test_what_leaving_the_word_out_does_is_on_record() -> None:
    record = _certificate().provenance
    assert record["yardstick"]["word"] == "circle"
    assert record["yardstick"]["distance"] > 0
    assert record["concept_in_prompt"]["named"]
    assert _defended("ZImagePipeline").problem(PROMPT).concept_removal is None  # encodings are as long as prompts


# Coverage


def test_one_words_substitution_costs_the_sum_over_encoders() -> None:
    problem = _defended(FLUX).problem(PROMPT)
    words = {word.word: word for word in covered_words(problem, 1.0, nearest=99)}
    near = {n.token: n.distance for n in words["circle"].nearest}
    delta = problem.reread("a photo of a red square")
    z = torch.cat([x.embeddings[0].flatten() for reading in delta for x in reading.lookups])
    assert near["square"] == pytest.approx(problem.noise.norm(z.double() - problem.y.double()), rel=1e-6)
    far = words["circle"].farthest
    assert far == max(d for d in near.values() if d is not None)
    assert covered_words(problem, 1.001 * far)[-1].fully_covered
    assert covered_words(problem, 0.999 * words["circle"].nearest[0].distance)[-1].covered == 0  # type: ignore[operator]


def test_prompts_are_covered_within_their_distance_and_at_equal_length_in_every_tokenizer() -> None:
    problem = _defended(FLUX).problem(PROMPT)
    near, longer, same = covered_prompts(
        problem, ["a photo of a red square", "a photo of a red starfish", PROMPT], 20.0
    )
    assert near.covered
    assert near.distance is not None
    assert not covered_prompts(problem, ["a photo of a red square"], 0.99 * near.distance)[0].covered
    assert not longer.covered
    assert same.covered
    assert same.distance == 0
    assert not covered_prompts(problem, ["a cat"], 20.0)[0].covered


def test_a_text_encoder_that_reads_ids_covers_nothing_by_their_embeddings() -> None:
    """What an encoding depends on beside embeddings is found by encoding the other prompt both ways."""

    class Counting(type(built(FLUX))):  # type: ignore[misc]
        def encode_prompt(self, prompt: Any, *args: Any, **given: Any) -> Any:
            embeds, pooled, ids = super().encode_prompt(prompt, *args, **given)
            texts = [prompt] if isinstance(prompt, str) else prompt
            return embeds + torch.tensor([[[float("square" in text)]] for text in texts]), pooled, ids

    safe = certify.defend(Counting(**built(FLUX).components), [CIRCLE], n=2, call=CALLS[FLUX], k=3.0)
    problem = safe.problem(PROMPT)
    found = covered_prompts(problem, ["a photo of a red square"], 500.0)[0]
    assert not found.covered
    assert found.reason == "its encoding depends on more than its token embeddings"


# Support


class _Plain(nn.Module):
    """The RMSNorm of T5, Qwen and Llama, or Gemma's with 1 + w."""

    def __init__(self, weight: torch.Tensor, plus: float = 0.0, eps: float = 1e-6, bias: float = 0.0) -> None:
        super().__init__()
        self.weight, self.plus, self.eps, self.bias = nn.Parameter(weight), plus, eps, bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made = x.float() * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + self.eps)
        return (self.plus + self.weight) * made.to(x.dtype) + self.bias


class TinyRMSNorm(_Plain):
    pass


@pytest.mark.parametrize("plus", [0.0, 1.0])
def test_an_rms_norms_range_holds_and_is_reached(plus: float) -> None:
    weight = torch.tensor([0.5, -2.0, 0.0, 1.5])
    norm = TinyRMSNorm(weight, plus)
    support = rms_norm_support(norm)
    gain = (plus + weight).abs().double()
    torch.testing.assert_close(support.upper, 2.0 * gain, rtol=1e-4, atol=1e-9)
    rows = torch.randn(4096, 4, generator=torch.Generator().manual_seed(0)) * torch.logspace(-4, 4, 4096)[:, None]
    rows = torch.cat([rows, 100 * torch.eye(4)])
    out = norm(rows).double()
    assert bool((out <= support.upper).all() & (out >= support.lower).all())
    assert bool((out[-4:].diagonal().abs() >= 0.999 * support.upper).all())  # one entry has it all


@pytest.mark.parametrize(
    "module",
    [
        nn.LayerNorm(4),
        TinyRMSNorm(torch.ones(4), bias=1.0),
        TinyRMSNorm(torch.ones(4), eps=-1.0),
        TinyRMSNorm(torch.tensor([1.0, torch.nan, 1.0, 1.0])),
        _Plain(torch.ones(4)),
        nn.Linear(4, 4),
    ],
)
def test_what_is_no_rms_norm_is_refused(module: nn.Module) -> None:
    with pytest.raises(TypeError, match="must be"):
        rms_norm_support(module)


@pytest.mark.parametrize(
    ("name", "known"),
    [
        (FLUX, "all"),  # LayerNorm of CLIP's pooled output, RMSNorm of T5
        ("PixArtSigmaPipeline", "all"),
        ("SanaPipeline", "all"),  # Gemma, 1 + w
        ("QwenImagePipeline", "all"),
        ("HunyuanDiTPipeline", "all"),  # BERT's LayerNorm, T5
        ("StableDiffusion3Pipeline", "some"),  # CLIP's inner layers have none
        ("ZImagePipeline", "none"),
        ("StableDiffusionXLPipeline", "none"),
    ],
)
def test_support_by_family_holds_however_far_embeddings_move(name: str, known: str) -> None:
    problem = _defended(name).problem(PROMPT)
    support = problem.support
    if known == "none":
        assert support is None
        return
    assert support is not None
    finite = torch.isfinite(support.upper)
    assert bool(finite.all()) is (known == "all")
    assert bool(finite.any())
    far = torch.randn((4, *problem.y.shape), generator=torch.Generator().manual_seed(0)).to(problem.y)
    words = (problem.noise.sigma_for(tuple(problem.y.shape)) > 0).to(problem.y.device)
    out = problem.f(torch.where(words, 50.0 * far, problem.y)).double().cpu()
    assert bool((out <= support.upper).all() & (out >= support.lower).all())


def test_a_mean_of_copies_has_claims_where_the_range_is_known() -> None:
    safe = certify.defend(
        built("PixArtSigmaPipeline"), [CIRCLE], n=3, smoother="mean", call=CALLS["PixArtSigmaPipeline"]
    )
    certificate = safe.certify(PROMPT, rho=0.1, rho_deployed=0.01, n=2000, radii=2)
    assert certificate.claims[0].status == "certified"
    assert certificate.claims[0].theorem == "T11"
    assert not safe.check(certificate, n=64).refuted


# Events


def test_images_of_one_deployed_encoding_are_drawn_several_at_a_time() -> None:
    """T14: the encoding is computed once for several images of it."""
    safe = _defended(FLUX)
    problem = safe.problem(PROMPT)
    event = safe.calls.event(problem, lambda images: images.mean(dim=(1, 2, 3)) < 0.5, {})
    z = problem.y.expand(2, 3, *problem.y.shape)
    several = event(z, torch.Generator().manual_seed(0), repeats=2)
    assert several.shape == (2, 2)
    assert torch.equal(event(z, torch.Generator().manual_seed(0)), several[:, 0])
