"""A prompt's certificate: what it claims, against which yardstick, and what a private one leaves out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from certify import Certificate
from certify.adaptive import AdaptiveMedianSmoother
from certify.adaptive.certification import certify_prompt, yardstick
from certify.models import PromptEncoder
from tests.adaptive.conftest import CIRCLE

PROMPT = "a photo of the red wheel"


@pytest.fixture(scope="module")
def adaptive(encoder: PromptEncoder) -> AdaptiveMedianSmoother:
    return AdaptiveMedianSmoother.from_encoder(encoder, [CIRCLE])


@pytest.fixture(scope="module")
def certificate(adaptive: AdaptiveMedianSmoother) -> Certificate:
    return adaptive.certify(PROMPT, rho=0.5, n=600, alpha=0.01, seed=3)


def test_claims_share_alpha(certificate: Certificate) -> None:
    assert certificate.alpha == pytest.approx(0.01)
    assert sum(claim.share for claim in certificate.claims) == pytest.approx(1)
    curve = certificate.curve
    assert curve is not None
    assert curve.simultaneous
    assert 0.5 in curve.rhos
    assert curve.alpha == pytest.approx(0.01 / 3)
    assert list(curve.values) == sorted(curve.values)
    assert {claim.quantity for claim in certificate.claims} == {"mse", "radius"}


def test_every_claim_names_its_policy_and_what_that_leaves_out(certificate: Certificate) -> None:
    for claim in certificate.claims:
        assert claim.policy == "frozen"
        assert "computes Σ anew" in claim.not_covered


def test_same_seed_same_claims(adaptive: AdaptiveMedianSmoother, certificate: Certificate) -> None:
    again = adaptive.certify(PROMPT, rho=0.5, n=600, alpha=0.01, seed=3)
    other = adaptive.certify(PROMPT, rho=0.5, n=600, alpha=0.01, seed=4)
    assert again.claims == certificate.claims
    assert other.claims != certificate.claims


def test_the_radius_keeps_the_yardstick(adaptive: AdaptiveMedianSmoother, certificate: Certificate) -> None:
    (claim,) = [claim for claim in certificate.claims if claim.quantity == "radius"]
    stick = yardstick(adaptive, PROMPT)
    assert claim.tolerance == stick.distance == certificate.provenance["yardstick"]["distance"]
    given = adaptive.certify(PROMPT, n=600, tolerance=1.5, rhos=None)
    assert [c.tolerance for c in given.claims if c.quantity == "radius"] == [1.5]
    none = adaptive.certify(PROMPT, n=600, tolerance=0, rhos=None)
    assert [c.quantity for c in none.claims] == ["mse"]


def test_yardstick_leaves_out_the_most_relevant_word(adaptive: AdaptiveMedianSmoother, encoder: PromptEncoder) -> None:
    record = adaptive.relevance(PROMPT)
    tokenized = encoder.tokenize(PROMPT)
    best = max(tokenized.words, key=lambda word: max(s for i in range(*word) if (s := record.relevance[i]) is not None))
    word = "".join(tokenized.tokens[slice(*best)]).removesuffix("</w>")
    rest = " ".join(w for w in PROMPT.split() if w != word)
    plain = encoder.plain([PROMPT, rest]).double()
    stick = yardstick(adaptive, PROMPT)
    assert stick.word == word
    assert stick.distance == pytest.approx(float((plain[0] - plain[1]).square().sum()), rel=1e-4)


def test_yardstick_of_one_word_is_the_distance_to_the_empty_prompt(
    adaptive: AdaptiveMedianSmoother, encoder: PromptEncoder
) -> None:
    plain = encoder.plain(["wheel", ""]).double()
    assert yardstick(adaptive, "wheel").distance == pytest.approx(float((plain[0] - plain[1]).square().sum()), rel=1e-4)


def test_center_may_be_a_deployed_encoding(adaptive: AdaptiveMedianSmoother) -> None:
    deployed = adaptive.encode(PROMPT, seed=9)[0]
    certificate = adaptive.certify(PROMPT, n=600, center=deployed, rhos=None)
    assert certificate.center is not None
    assert torch.equal(certificate.center, deployed)
    assert certificate.provenance["pilot"] == 0


def test_private_leaves_the_prompt_out_of_every_file(adaptive: AdaptiveMedianSmoother, tmp_path: Path) -> None:
    for private in (False, True):
        folder = tmp_path / str(private)
        adaptive.certify(PROMPT, n=600, private=private).save(folder)
        text = b"".join(file.read_bytes() for file in folder.iterdir())
        assert (b"wheel" in text) is not private
        assert (b"photo" in text) is not private
        assert ("input" in Certificate.load(folder).tensors) is not private


def test_check_accepts_it_and_refuses_another_prompt(
    adaptive: AdaptiveMedianSmoother, certificate: Certificate
) -> None:
    problem = adaptive.problem(PROMPT)
    assert not certificate.check(problem.f, problem.y, seed=1).refuted
    other = adaptive.problem("a photo of the red coin")
    with pytest.raises(ValueError, match="not the input"):
        certificate.check(other.f, other.y)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rho": 0.0}, r"rho = 0\.0: must be a finite number > 0"),
        ({"alpha": 1.0}, r"alpha = 1\.0: must be strictly between"),
        ({"n": 0}, r"n = 0: must be a whole number >= 1"),
        ({"rhos": [-1.0]}, r"rhos\[0\] = -1\.0"),
        ({"seed": -1}, "seed = -1"),
    ],
)
def test_bad_calls(adaptive: AdaptiveMedianSmoother, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        certify_prompt(adaptive, PROMPT, **options)  # type: ignore[arg-type]


def test_empty_prompt_is_refused(adaptive: AdaptiveMedianSmoother) -> None:
    with pytest.raises(ValueError, match="must not be empty"):
        adaptive.certify("")
