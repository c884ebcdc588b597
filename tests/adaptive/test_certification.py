"""A prompt's certificate: what it claims, what they are compared with, and what a private one leaves out."""

from __future__ import annotations

import hashlib
import math
import stat
from pathlib import Path
from typing import Any

import pytest
import torch

import certify
from certify import Certificate, GaussianNoise
from certify._digests import tensor_digest
from certify.adaptive import AdaptiveMedianSmoother, Concept
from certify.adaptive.checking import certified_functions, rebuilt
from certify.adaptive.policies import SHARING
from certify.certificate import words
from certify.confidence import clopper_pearson
from certify.images.statistics import attack_succeeds
from certify.models import PromptEncoder
from certify.montecarlo import RunFolder
from certify.summaries.of_certificates import sections
from tests.adaptive.conftest import CIRCLE

PROMPT = "a photo of the red wheel"


@pytest.fixture(scope="module")
def adaptive(encoder: PromptEncoder) -> AdaptiveMedianSmoother:
    return AdaptiveMedianSmoother.from_encoder(encoder, [CIRCLE])


@pytest.fixture(scope="module")
def certificate(adaptive: AdaptiveMedianSmoother) -> Certificate:
    return adaptive.certify(PROMPT, rho=0.5, n=600, statistics=200, alpha=0.01, seed=3)


def test_claims_share_alpha(certificate: Certificate) -> None:
    assert certificate.alpha == pytest.approx(0.01)
    assert sum(claim.share for claim in certificate.claims) == pytest.approx(1)
    curve = certificate.curve
    assert curve is not None
    assert curve.simultaneous
    assert 0.5 in curve.rhos
    assert curve.alpha == pytest.approx(0.01 / 6)
    assert list(curve.values) == sorted(curve.values)
    assert {claim.quantity for claim in certificate.claims} == {"mse", "radius", "deployed", "statistic"}


def test_every_claim_names_its_policy_and_what_that_leaves_out(certificate: Certificate) -> None:
    for claim in certificate.claims:
        assert claim.policy == "frozen"
        assert "computes Σ anew" in claim.not_covered


def test_same_seed_same_claims(adaptive: AdaptiveMedianSmoother, certificate: Certificate) -> None:
    again = adaptive.certify(PROMPT, rho=0.5, n=600, statistics=200, alpha=0.01, seed=3)
    other = adaptive.certify(PROMPT, rho=0.5, n=600, statistics=200, alpha=0.01, seed=4)
    assert again.claims == certificate.claims
    assert other.claims != certificate.claims


def test_the_radius_keeps_the_concept_removal_distance(
    adaptive: AdaptiveMedianSmoother, certificate: Certificate
) -> None:
    (claim,) = [claim for claim in certificate.claims if claim.quantity == "radius"]
    removal = adaptive.prepare(PROMPT).concept_removal
    assert claim.tolerance == removal.distance == certificate.provenance["yardstick"]["distance"]
    given = adaptive.certify(PROMPT, n=600, tolerance=1.5, rhos=None, statistics=0)
    assert [c.tolerance for c in given.claims if c.quantity == "radius"] == [1.5]
    none = adaptive.certify(PROMPT, n=600, tolerance=0, rhos=None, statistics=0)
    assert [c.quantity for c in none.claims] == ["mse", "deployed", "deployed"]


def test_concept_removal_leaves_out_the_most_relevant_word(
    adaptive: AdaptiveMedianSmoother, encoder: PromptEncoder
) -> None:
    record = adaptive.relevance(PROMPT)
    tokenized = encoder.tokenize(PROMPT)
    best = max(tokenized.words, key=lambda word: max(s for i in range(*word) if (s := record.relevance[i]) is not None))
    word = "".join(tokenized.tokens[slice(*best)]).removesuffix("</w>")
    rest = " ".join(w for w in PROMPT.split() if w != word)
    plain = encoder.plain([PROMPT, rest]).double()
    removal = adaptive.prepare(PROMPT).concept_removal
    assert removal.word == word
    assert removal.distance == pytest.approx(float((plain[0] - plain[1]).square().sum()), rel=1e-4)


def test_concept_removal_of_one_word_is_the_distance_to_the_empty_prompt(
    adaptive: AdaptiveMedianSmoother, encoder: PromptEncoder
) -> None:
    plain = encoder.plain(["wheel", ""]).double()
    assert adaptive.prepare("wheel").concept_removal.distance == pytest.approx(
        float((plain[0] - plain[1]).square().sum()), rel=1e-4
    )


def test_center_may_be_a_deployed_encoding(adaptive: AdaptiveMedianSmoother) -> None:
    deployed = adaptive.encode(PROMPT, seed=9)[0]
    certificate = adaptive.certify(PROMPT, n=600, center=deployed, rhos=None, statistics=0)
    assert certificate.center is not None
    assert torch.equal(certificate.center, deployed)


def test_private_leaves_the_prompt_out_of_every_file(adaptive: AdaptiveMedianSmoother, tmp_path: Path) -> None:
    for private in (False, True):
        folder = tmp_path / str(private)
        adaptive.certify(PROMPT, n=600, statistics=0, private=private).save(folder)
        text = b"".join(file.read_bytes() for file in folder.iterdir())
        assert (b"wheel" in text) is not private
        assert (b"photo" in text) is not private
        again = Certificate.load(folder)
        assert ("input" in again.tensors) is not private
        assert any("identify its words to anyone who has the model" in notice for notice in again.notices) is private
        if private:  # the words can be read off σ
            assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}


def _digests(adaptive: AdaptiveMedianSmoother) -> set[bytes]:
    """What somebody would compute for a guess of the prompt."""
    y = adaptive.problem(PROMPT).y
    found = {tensor_digest(y), tensor_digest(adaptive.problem(PROMPT).noise.sigma)}
    found |= {hashlib.sha256(data).hexdigest() for data in (PROMPT.encode(), y.numpy().tobytes())}
    return {digest[:12].encode() for digest in found}


def test_a_private_run_tells_nothing_while_it_runs(adaptive: AdaptiveMedianSmoother, tmp_path: Path) -> None:
    """Its folder held an unsalted digest of the prompt and of its embeddings, readable by all."""

    def stopped(folder: Path, private: bool, prompt: str = PROMPT) -> RunFolder:
        def report(done: int, total: int) -> None:
            if done > 600:
                raise KeyboardInterrupt

        kept = RunFolder(folder, interval=0)
        with pytest.raises(KeyboardInterrupt):
            adaptive.certify(prompt, n=900, statistics=0, private=private, checkpoint=kept, progress=report)
        return kept

    guesses = _digests(adaptive)
    for private in (False, True):
        kept = stopped(tmp_path / str(private), private)
        assert kept.holds_draws
        assert kept.path is not None
        files = [path for path in kept.path.rglob("*") if path.is_file()]
        texts = b"".join(path.read_bytes() for path in files)
        assert any(guess in texts for guess in guesses) is not private
        for word in (b"wheel", b"photo"):
            assert word not in texts
        if private:
            assert stat.S_IMODE(kept.path.stat().st_mode) == 0o700
            assert stat.S_IMODE((kept.folder / "certify-private.key").stat().st_mode) == 0o600
            assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    # The key alone tells the folder's name, another prompt has another one, and the same goes on.
    again, other = stopped(tmp_path / "True", True), stopped(tmp_path / "True", True, "a circle")
    assert (again.resumed, again.path == kept.path, other.path == kept.path) == (True, True, False)
    elsewhere = stopped(tmp_path / "elsewhere", True)
    assert elsewhere.path is not None
    assert elsewhere.path.name != kept.path.name
    for run in (again, other):
        run.remove()
    assert not (tmp_path / "True").exists()


def test_attacks_on_a_private_prompt_are_counted(adaptive: AdaptiveMedianSmoother, tmp_path: Path) -> None:
    """They were written as they are, with the prompt where it was among them."""
    attacks = [PROMPT, "a drawing of a pinwheel", "a photo of two wheels"]
    certificate = adaptive.certify(PROMPT, n=600, statistics=0, private=True, prompts=attacks)
    certificate.save(tmp_path)
    text = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    for word in (b"wheel", b"photo", b"drawing"):
        assert word not in text
    assert not any(guess in text for guess in _digests(adaptive))
    assert certificate.provenance["covered_prompts"] == []
    counted = certificate.provenance["covered_prompts_counted"]
    assert (counted["given"], counted["covered"] >= 1) == (3, True)
    assert certificate.provenance["input_sha256"] is None
    report = Certificate.load(tmp_path).check(
        certified_functions(certificate, adaptive.prepare(PROMPT)), adaptive.problem(PROMPT).y
    )
    assert not report.refuted
    with pytest.raises(ValueError, match="its relevance is not that on record"):
        certified_functions(certificate, adaptive.prepare("a photo of two wheels"))


def test_check_accepts_it_and_refuses_another_prompt(
    adaptive: AdaptiveMedianSmoother, certificate: Certificate
) -> None:
    problem = adaptive.problem(PROMPT)
    functions = certified_functions(certificate, adaptive.prepare(PROMPT))
    report = certificate.check(functions, problem.y, seed=1)
    assert not report.refuted
    for verdict in report.verdicts:
        assert verdict.outcome == ("not refuted" if verdict.claim.status == "certified" else "nothing claimed")
    other = adaptive.problem("a photo of the red coin")
    with pytest.raises(ValueError, match="not the input"):
        certificate.check(functions, other.y)


def test_a_smoother_of_another_concept_is_named(certificate: Certificate, encoder: PromptEncoder) -> None:
    (on_record,) = certificate.provenance["smoother"]["concepts"]
    options = {"sigma0_relative": 0.1, "k": 4.0}
    other = AdaptiveMedianSmoother.from_encoder(encoder, [Concept("other", [("a red coin", "a coin")])], **options)
    with pytest.raises(ValueError, match=rf"of the concepts \['other'\]: must be of .* \['{on_record['name']}'\]"):
        certified_functions(certificate, other.prepare(PROMPT))
    with pytest.raises(ValueError, match="their prompt pairs are not those on record"):
        rebuilt(certificate, encoder, [Concept(on_record["name"], [("a red coin", "a coin")])])


def test_a_concept_is_its_pairs_whatever_it_is_called(
    adaptive: AdaptiveMedianSmoother, certificate: Certificate, encoder: PromptEncoder
) -> None:
    """A renamed file was refused: "adaptive has other settings"."""
    renamed = [Concept("mine", concept.pairs) for concept in adaptive.concepts]
    assert rebuilt(certificate, encoder, renamed).settings() == adaptive.settings()


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
        adaptive.certify(PROMPT, **options)  # type: ignore[arg-type]


def test_empty_prompt_is_refused(adaptive: AdaptiveMedianSmoother) -> None:
    with pytest.raises(ValueError, match="must not be empty"):
        adaptive.certify("")


@pytest.fixture(scope="module")
def whole() -> tuple[Any, AdaptiveMedianSmoother]:
    pipe = certify.load_pipeline()
    return pipe, AdaptiveMedianSmoother.from_pipeline(pipe, ["circle"], n=3, **certify.world.SMOOTHING)


SMALL = {"n": 200, "statistics": 64, "images": 64, "steps": 2, "guidance": 1.0, "q": 0.5, "rho_deployed": 0.1}


def test_a_whole_certificate_speaks_of_every_stage(whole: tuple[Any, AdaptiveMedianSmoother]) -> None:
    pipe, adaptive = whole
    prompt = "a photo of a red circle"
    made = adaptive.certify(prompt, pipe=pipe, detector="judge:circle", **SMALL)
    functions = [claim.function for claim in made.claims]
    for name in (
        "text encoding",
        "noise prediction",
        "noise-prediction distance",
        "concept score",
        "image shows circle",
    ):
        assert name in functions
    assert made.alpha == pytest.approx(1e-3)
    assert made.provenance["undefended"]["n"] == 16
    assert made.provenance["noise_prediction_yardstick"] > 0
    assert all(claim.status == "certified" for claim in made.claims), [c.reason for c in made.claims]
    report = made.check(certified_functions(made, adaptive.prepare(prompt), pipe), adaptive.problem(prompt).y, n=32)
    assert {v.outcome for v in report.verdicts} == {"not refuted"}
    event = next(claim for claim in made.claims if claim.quantity == "event")
    assert event.value == pytest.approx(made.event(event).at(event.rho))
    assert event.copies == event.replicas == 3


def test_the_rate_of_images_is_one_of_several_a_draw(whole: tuple[Any, AdaptiveMedianSmoother]) -> None:
    """T14, where chance decides: every other image, whatever the copies are."""
    pipe, adaptive = whole

    def by_chance(images: torch.Tensor) -> torch.Tensor:
        return (images.double().flatten(1).sum(dim=1) * 1e4).long() % 2 == 0

    asked = SMALL | {"n": 64, "statistics": 0, "images": 320, "steps": 1, "rho_deployed": 0.5}
    made = adaptive.certify(PROMPT, pipe=pipe, detector=by_chance, **asked)
    (claim,) = [claim for claim in made.claims if words.is_probability(claim)]
    assert (claim.theorem, claim.method, claim.status) == ("T14", "repeats", "certified")
    assert claim.n * claim.numbers["repeats"] <= 320
    assert claim.value < 1 - GaussianNoise(1.0).tails(clopper_pearson(160, 320, claim.alpha), 0.5, 3).upper  # T5
    event = made.event(claim)
    assert event.at(claim.rho) == pytest.approx(claim.value)
    assert event.at(0.0) < event.at(0.05) < event.at(0.2) <= 1
    (section,) = [s for s in sections(made) if s.title == "attack success rate"]
    assert section.drawn.at(0.1) == event.at(0.1)
    deployment = adaptive.deployment(PROMPT)
    honest = attack_succeeds(deployment, pipe, by_chance, steps=1, guidance=1.0)
    verdict = next(v for v in made.check({claim.function: honest}, deployment.y, n=32).verdicts if v.claim == claim)
    assert verdict.outcome == "not refuted"


@pytest.mark.parametrize(
    ("smoother", "sharing"), [("median", None), ("mean", None), *(("median", sharing) for sharing in SHARING)]
)
@pytest.mark.parametrize("with_denoiser", [True, False])
def test_alpha_is_shared_by_the_claims_that_are_made(
    whole: tuple[Any, AdaptiveMedianSmoother], smoother: str, sharing: str | None, with_denoiser: bool
) -> None:
    """Σα over claims is α, not less: whatever the policy, the smoother and the parts that there are."""
    pipe, _ = whole
    options: dict[str, Any] = {"n": 3, "smoother": smoother, **certify.world.SMOOTHING}
    if sharing is not None:
        options |= {"policy": "noise-then-adapt", "sigma_min": 1e-3, "sharing": sharing}
    if with_denoiser:
        adaptive = AdaptiveMedianSmoother.from_pipeline(pipe, ["circle"], **options)
    else:
        adaptive = AdaptiveMedianSmoother.from_encoder(PromptEncoder.from_pipeline(pipe), ["circle"], **options)
    small = {**SMALL, "n": 16, "statistics": 8, "images": 4, "steps": 1, "rhos": (0.05,), "points": 1, "alpha": 0.3}
    for more in ({}, {"pipe": pipe}, {"pipe": pipe, "statistics": 0, "detector": "judge:circle", "tolerance": 0.0}):
        made = adaptive.certify("a red circle", **{**small, **more})
        assert math.fsum(claim.alpha for claim in made.claims) == pytest.approx(0.3, rel=1e-12), more
        assert math.fsum(claim.share for claim in made.claims) == pytest.approx(1.0, rel=1e-12)


def test_what_an_erased_claim_says_is_refuted_by_the_whole_model(whole: tuple[Any, AdaptiveMedianSmoother]) -> None:
    """The rate of a detector that never fires, read as the circle's."""
    pipe, adaptive = whole
    prompt = "a photo of a red circle"

    def never(images: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(images), dtype=torch.bool)

    asked = SMALL | {"n": 64, "statistics": 0, "guidance": 2.0}
    made = adaptive.certify(prompt, pipe=pipe, detector=never, **asked)
    (event,) = [claim for claim in made.claims if words.is_probability(claim)]
    deployment = adaptive.deployment(prompt)
    truly = attack_succeeds(deployment, pipe, "judge:circle", steps=2, guidance=2.0)
    verdict = next(v for v in made.check({event.function: truly}, deployment.y, n=64).verdicts if v.claim == event)
    assert verdict.outcome == "refuted"


def test_detectors_need_a_pipeline(adaptive: AdaptiveMedianSmoother) -> None:
    with pytest.raises(ValueError, match="pipe is None: must be the pipeline"):
        adaptive.certify(PROMPT, n=300, detector="judge:circle")
