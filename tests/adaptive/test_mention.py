"""A prompt that does not name the concept, a set that is a single point, a concept of another model: each is said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import certify
from certify import world
from certify.adaptive import AdaptiveMedianSmoother, Concept, Mention, available_concepts
from certify.adaptive.concepts import goes_with
from certify.adaptive.mention import thresholds
from certify.bounds.base import POINT
from certify.certificate.certificate import PRIVATE
from certify.models import load_text_encoder
from certify.report import certificate_page

DINOSAUR, CIRCLE = "a photo of a purple dinosaur", "a photo of a red circle"
SMALL: dict[str, Any] = {"n": 64, "statistics": 0, "rhos": None}


@pytest.fixture(scope="module")
def encoder() -> Any:
    return load_text_encoder()


@pytest.fixture(scope="module")
def adaptive(encoder: Any) -> AdaptiveMedianSmoother:
    return AdaptiveMedianSmoother.from_encoder(encoder, ["circle"], n=3, **world.SMOOTHING)


def test_a_prompt_without_the_concept_is_certified_with_a_notice(adaptive: AdaptiveMedianSmoother) -> None:
    """Found by use: its highest relevance is .44, on one letter."""
    for private in (False, True):
        made = adaptive.certify(DINOSAUR, **SMALL, private=private)
        record = made.provenance["concept_in_prompt"]
        assert record == {"named": False, "concept": "circle", "relevance": 0.4398, "threshold": record["threshold"]}
        assert made.claims[0].status in ("certified", "abstained")
        (notice,) = (said for said in made.notices if said != PRIVATE)
        assert (PRIVATE in made.notices) is private
        assert notice.startswith("The prompt does not seem to name “circle”: its highest relevance is 0.44")
        assert "does not seem to name" in certificate_page(made)
        assert notice in str(made)
    named = adaptive.certify(CIRCLE, **SMALL)
    assert named.provenance["concept_in_prompt"]["named"] is True
    assert named.notices == ()
    assert "does not seem to name" not in certificate_page(named)


def test_the_command_line_says_so_before_anything_is_drawn(adaptive: AdaptiveMedianSmoother) -> None:
    from certify.cli import terminal

    for prompt, said in ((DINOSAUR, True), (CIRCLE, False)):
        with terminal.out.capture() as shown:
            terminal.show_tokens(adaptive.prepare(prompt))
        assert ("does not seem to name" in " ".join(shown.get().split())) is said


@pytest.mark.parametrize("similarity", ["end-of-text", "flattened"])
def test_the_threshold_tells_held_out_prompts_apart(encoder: Any, similarity: str) -> None:
    """Prompts of which the smoother's settings were not chosen: none that names the concept is said not to."""
    names = [name for name in available_concepts() if "embedded" in goes_with(name)]
    missed, taken, others = 0, 0, 0
    for name in names[::3]:
        adaptive = AdaptiveMedianSmoother.from_encoder(encoder, [name], similarity=similarity)
        for row in world.prompts("report"):
            shows = name in (row["shape"], row["style"])
            if name == row["shape"] and row["kind"] == "neutral":
                continue  # shown without being named
            named = adaptive.prepare(row["prompt"]).mention.named
            missed += shows and not named
            taken += named and not shows
            others += not shows
    assert missed == 0
    assert taken <= 0.02 * others


def test_the_threshold_is_halfway_between_the_sides_of_the_pairs(adaptive: AdaptiveMedianSmoother) -> None:
    concept = Concept("circle", [("a red circle", "a red square"), ("circle", "photo"), ("a coin", "a red star")])
    (found,) = thresholds(adaptive.scorer, (concept,))

    def largest(prompt: str) -> float:
        return max(s for s in adaptive.relevance(prompt).relevance if s is not None)

    positive = sorted(map(largest, ("a red circle", "circle", "a coin")))[1]
    negative = sorted(map(largest, ("a red square", "photo", "a red star")))[1]
    assert found == pytest.approx((positive + negative) / 2)


def test_of_several_concepts_one_is_enough(encoder: Any) -> None:
    adaptive = AdaptiveMedianSmoother.from_encoder(encoder, ["star", "striped"], **world.SMOOTHING)
    assert adaptive.prepare("a striped thing").mention.concept == "striped"
    assert adaptive.prepare("a striped thing").mention.named
    assert not adaptive.prepare("a photo on gray").mention.named
    exactly = Mention("x", 0.5, 0.5)
    assert exactly.named
    assert exactly.notice == ""
    assert not replace(exactly, relevance=0.4999).named


Y = torch.zeros(2)
NONE = certify.GaussianNoise(0.0)
N: dict[str, Any] = {"n": 400, "alpha": 0.01}


def above(z: torch.Tensor) -> torch.Tensor:
    return z.flatten(1).sum(1) > 1


def total(z: torch.Tensor) -> torch.Tensor:
    return z.flatten(1).sum(1)


@pytest.mark.parametrize("noise", [NONE, certify.UniformNoise(0.0)])
@pytest.mark.parametrize(
    "ask",
    [
        lambda noise: certify.percentile_bounds(torch.sin, Y, noise, rho=0.1, **N),
        lambda noise: certify.mse_bound(torch.sin, Y, noise, rho=0.1, method="coordinatewise", **N),
        lambda noise: certify.certified_radius(torch.sin, Y, noise, tolerance=1.0, method="coordinatewise", **N),
        lambda noise: certify.bound_curve(torch.sin, Y, noise, rhos=[0.1], method="coordinatewise", **N).points[0],
        lambda noise: certify.deployed_bound(torch.sin, Y, noise, rho=0.1, q=0.5, replicas=1, **N),
        lambda noise: certify.statistic_bound(total, Y, noise, rho=0.1, q=0.5, replicas=1, **N),
        lambda noise: certify.event_bound(above, Y, noise, rho=0.1, replicas=1, **N),
        lambda noise: certify.decide_event(above, Y, noise, target=0.5, rho=0.1, replicas=1, **N),
        lambda noise: certify.decide_mse(torch.sin, Y, noise, tolerance=1.0, rho=0.1, **N),
    ],
)
def test_without_noise_the_set_is_a_single_point_and_the_claim_says_so(ask: Any, noise: Any) -> None:
    result = ask(noise)
    assert result.reason == POINT
    if noise is NONE:
        made = certify.Certificate.of(result)
        assert made.claims[0].status == "certified"
        assert made.claims[0].sentence.endswith(f"But {POINT}.")
        assert made.notices == (f"But {POINT}.",)
        assert "single point" in certificate_page(made)


def test_noise_at_one_coordinate_is_enough_for_a_set() -> None:
    bound = certify.mse_bound(torch.sin, Y, certify.GaussianNoise(torch.tensor([0.0, 0.1])), rho=0.5, **N)
    assert (bound.status, bound.reason) == ("certified", "")
    assert certify.Certificate.of(bound).notices == ()


@pytest.mark.parametrize(
    "record", [[], "no", 3, {}, {"named": False}, {"named": False, "concept": 1, "relevance": "x", "threshold": 1}]
)
def test_a_strangers_record_of_it_is_no_traceback(record: Any) -> None:
    bound = certify.mse_bound(torch.sin, Y, certify.GaussianNoise(0.1), rho=0.5, **N)
    made = certify.Certificate.of(bound, provenance={"concept_in_prompt": record})
    assert made.notices == ("What the record says of the concept in the prompt cannot be read.",)
    assert "cannot be read" in str(made)


def test_a_concept_of_another_model_says_which_ones_go_with_this(encoder: Any) -> None:
    with pytest.raises(
        ValueError, match=r"concept 'nudity': goes with any model of CLIP's size \(context 77\), "
    ) as error:
        AdaptiveMedianSmoother.from_encoder(encoder, ["nudity"])
    assert "this text encoder's is 20; with the embedded model go circle, cross, " in str(error.value)
    own = Concept("mine", [("a red circle " * 12, "a red square")])
    with pytest.raises(ValueError, match="concept 'mine', pair 1, positive: prompt = "):
        AdaptiveMedianSmoother.from_encoder(encoder, [own])


def test_every_shipped_concept_says_what_it_goes_with(encoder: Any) -> None:
    for name in available_concepts():
        longest = 0
        for prompt in (prompt for pair in Concept.load(name).pairs for prompt in pair):
            try:
                encoder.tokenize(prompt)
            except ValueError:
                longest += 1
        assert (longest == 0) is (goes_with(name) == "the embedded model (context 20)")
    assert goes_with("none of them") == ""


def test_a_run_over_many_prompts_counts_those_without_the_concept(
    adaptive: AdaptiveMedianSmoother, tmp_path: Path
) -> None:
    from certify import datasets

    file = tmp_path / "few.txt"
    file.write_text(f"{CIRCLE}\n{DINOSAUR}\n")
    data, options = datasets.PromptSet.load(file), datasets.RowOptions(n=64)
    with datasets.Results(tmp_path / "run", datasets.run_settings(adaptive, data, options), data) as results:
        records = datasets.certify_rows(adaptive, results, options)
    assert [record["named"] for record in records] == [True, False]
    assert datasets.summary(records, options)["unnamed"] == 1
