"""Covered substitutions and prompts (T9), against every entry of the vocabulary tried one by one."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from certify._text import shown
from certify.adaptive import (
    AdaptiveMedianSmoother,
    PositionCoverage,
    covered_prompts,
    covered_substitutions,
    fully_covered,
)
from certify.models import PromptEncoder, TokenizedPrompt
from certify.noise import GaussianNoise
from tests.adaptive.conftest import CIRCLE, FISH

PROMPT = "a red starfish"
POLICIES: list[dict[str, Any]] = [{}, {"policy": "memory"}, {"policy": "noise-then-adapt", "sigma_min": 0.1}]


def build(encoder: PromptEncoder, folder: Path | None = None, **options: Any) -> AdaptiveMedianSmoother:
    memory = {"memory": folder} if options.get("policy") == "memory" else {}
    return AdaptiveMedianSmoother.from_encoder(encoder, [CIRCLE, FISH], **options, **memory)


def substituted(encoder: PromptEncoder, t: TokenizedPrompt, position: int, entry: int) -> TokenizedPrompt:
    content = list(t.content)
    content[position - 1] = entry
    return encoder.assemble(content)


def brute(adaptive: AdaptiveMedianSmoother, prompt: str, position: int) -> dict[str, float]:
    """Distance of every comparable substitution at a position, by its spelling."""
    encoder, d = adaptive.encoder, adaptive.deployment(prompt)
    t, found = encoder.tokenize(prompt), {}
    for entry in range(len(encoder.tokenizer)):
        if entry == int(t.ids[position]):
            continue
        other = substituted(encoder, t, position, entry)
        if adaptive.policy == "noise-then-adapt" and other.words != t.words:
            continue
        assert other.length == t.length
        found[other.tokens[position]] = d.noise.norm(encoder.embed(other).double() - d.y.double())
    return found


@pytest.mark.parametrize("options", POLICIES)
@pytest.mark.parametrize("prompt", [PROMPT, "sunflower", "a wheel, and red"])
def test_every_entry_of_the_vocabulary(
    encoder: PromptEncoder, options: dict[str, Any], prompt: str, tmp_path: Path
) -> None:
    adaptive = build(encoder, tmp_path, **options)
    t = encoder.tokenize(prompt)
    first = covered_substitutions(adaptive.prepare(prompt), 1.0)
    assert [c.position for c in first] == [i for i, kind in enumerate(t.kinds) if kind == "word"]
    for one in first:
        distances = brute(adaptive, prompt, one.position)
        ordered = sorted(distances.values())
        middle = (ordered[len(ordered) // 2] + ordered[len(ordered) // 2 + 1]) / 2
        (c,) = [
            c
            for c in covered_substitutions(adaptive.prepare(prompt), middle, nearest=7, chunk=50)
            if c.position == one.position
        ]
        assert c.token == t.tokens[c.position]
        assert (c.vocabulary, c.comparable) == (len(encoder.tokenizer) - 1, len(distances))
        assert c.covered == sum(d <= middle for d in ordered) == len(ordered) // 2 + 1
        assert c.share == c.covered / len(distances)
        assert c.sigma == float(adaptive.deployment(prompt).noise.sigma[c.position])
        assert c.nearest is not None
        assert c.nearest.distance == pytest.approx(ordered[0])
        assert c.farthest == pytest.approx(ordered[-1])
        assert [u.distance for u in c.uncovered] == pytest.approx([d for d in ordered if d > middle][:7])
        for u in (c.nearest, *c.uncovered):
            assert distances[u.token] == pytest.approx(u.distance)
        assert not c.fully_covered


def test_distances_are_the_frozen_smoothers(encoder: PromptEncoder) -> None:
    adaptive = build(encoder)
    frozen = adaptive.freeze("a red coin")
    everything = covered_substitutions(adaptive.prepare("a red coin"), 1e-6, nearest=1000)
    named = {u.token: u.distance for u in everything[2].uncovered}
    for word in ("circle", "square", "photo"):
        assert named[word + "</w>"] == pytest.approx(frozen.distance(f"a red {word}"))


class TestWashedOut:
    """Positions where whatever stands there is covered."""

    def test_at_its_farthest_distance_a_position_is_fully_covered(self, encoder: PromptEncoder) -> None:
        adaptive = build(encoder)
        for c in covered_substitutions(adaptive.prepare(PROMPT), 1.0):
            assert c.farthest is not None
            below, above = (
                next(d for d in covered_substitutions(adaptive.prepare(PROMPT), rho) if d.position == c.position)
                for rho in (c.farthest * 0.999, c.farthest * 1.001)
            )
            assert (below.fully_covered, above.fully_covered) == (False, True)
            assert (above.share, above.uncovered) == (1.0, ())

    def test_together_distances_add_in_squares(self) -> None:
        def one(position: int, farthest: float | None, rho: float) -> PositionCoverage:
            covered = 9 if farthest is not None and farthest <= rho else 3
            return PositionCoverage(position, "x", rho, 1.0, 9, 9, covered, None, farthest, ())

        def together(rho: float, *farthest: float | None) -> tuple[int, ...]:
            return fully_covered([one(i, f, rho) for i, f in enumerate(farthest)])

        assert together(5.001, 3.0, 4.0) == (0, 1)
        assert together(4.9, 3.0, 4.0) == (0,)
        assert together(4.9, 4.0, 3.0, 1.0) == (1, 2)
        assert together(2.0, 3.0, None) == ()
        assert fully_covered([]) == ()

    def test_nothing_comparable_is_not_fully_covered(self) -> None:
        c = PositionCoverage(1, "x", 1.0, 1.0, 9, 0, 0, None, None, ())
        assert (c.fully_covered, c.share) == (False, 0.0)

    def test_together_is_what_a_joint_substitution_costs(self, encoder: PromptEncoder) -> None:
        adaptive = build(encoder, k=0)
        coverage = covered_substitutions(adaptive.prepare("red coin"), 1000.0)
        rho = math.hypot(*(c.farthest or math.inf for c in coverage))
        assert fully_covered(covered_substitutions(adaptive.prepare("red coin"), rho * 1.001)) == (1, 2)
        assert len(fully_covered(covered_substitutions(adaptive.prepare("red coin"), rho * 0.999))) == 1


def test_without_noise_nothing_is_covered(encoder: PromptEncoder) -> None:
    prompt, none = build(encoder).prepare(PROMPT), GaussianNoise(0.0)
    for c in covered_substitutions(prompt, 1e6, noise=none, nearest=1):
        assert (c.covered, c.sigma, c.farthest) == (0, 0.0, None)
        assert c.nearest is not None
        assert c.nearest.distance is None
        assert c.uncovered[0].distance is None
    (other,) = covered_prompts(prompt, ["a big starfish"], 1e6, noise=none)
    assert (other.covered, other.distance) == (False, None)
    assert other.reason == "changes a position without noise, to 'big</w>'"


@pytest.mark.parametrize("options", POLICIES)
def test_prompts(encoder: PromptEncoder, options: dict[str, Any], tmp_path: Path) -> None:
    adaptive = build(encoder, tmp_path, **options)
    frozen = adaptive.freeze("a red coin")
    d = adaptive.deployment("a red coin")
    near = d.noise.norm(encoder.embed(encoder.tokenize("a red circle")).double() - d.y.double())
    if options.get("policy") != "noise-then-adapt":
        assert near == pytest.approx(frozen.distance("a red circle"))
    prompts = ["a red circle", "a red coin", "a coin", "the big square", "a starfish", "red " * 20]
    got = covered_prompts(adaptive.prepare("a red coin"), prompts, near * 1.0001)
    assert [c.prompt for c in got] == prompts
    assert [c.covered for c in got][:3] == [True, True, False]
    assert got[0].distance == pytest.approx(near)
    assert (got[0].changed, got[0].reason) == ((3,), "")
    assert (got[1].distance, got[1].changed) == (0.0, ())
    assert (got[2].distance, got[2].reason) == (None, "another length: 4 tokens with begin and end, must have 5")
    assert got[3].changed == (1, 2, 3)
    assert got[3].reason == f"distance {shown(got[3].distance, 'up')} > ρ = {shown(near * 1.0001, 'down')}"
    assert "has 22 tokens with begin and end" in got[5].reason
    assert [c.covered for c in covered_prompts(adaptive.prepare("a red coin"), prompts[:1], near * 0.9999)] == [False]
    # "a starfish" has the length of "a red coin", and other words.
    assert encoder.tokenize("a starfish").length == d.side.length
    if options.get("policy") == "noise-then-adapt":
        assert got[4].reason == "other word boundaries, which this policy takes as given"
        assert got[4].distance is None
    else:
        assert got[4].distance == pytest.approx(frozen.distance("a starfish"))


def test_a_stored_regions_noise_decides(encoder: PromptEncoder, tmp_path: Path) -> None:
    adaptive = build(encoder, tmp_path, policy="memory")
    distance = adaptive.freeze("a red coin").distance("a red circle")
    adaptive.remember("a red coin", 2 * distance)
    (back,) = covered_prompts(adaptive.prepare("a red circle"), ["a red coin"], 1.001 * distance)
    assert back.covered
    assert back.distance == pytest.approx(distance)


def test_records_are_plain_json(encoder: PromptEncoder) -> None:
    adaptive = build(encoder)
    positions = [c.to_dict() for c in covered_substitutions(adaptive.prepare(PROMPT), 1.0, nearest=2)]
    prompts = [c.to_dict() for c in covered_prompts(adaptive.prepare(PROMPT), ["a big starfish", "a"], 1.0)]
    assert json.loads(json.dumps([positions, prompts], allow_nan=False)) == [positions, prompts]
    assert {"position", "share", "fully_covered", "uncovered"} <= positions[0].keys()
    assert positions[0]["uncovered"][0].keys() == {"token", "distance"}


@pytest.mark.parametrize("chunk", [1, 7, 10_000])
def test_chunks_do_not_matter(encoder: PromptEncoder, chunk: int) -> None:
    adaptive = build(encoder)
    assert covered_substitutions(adaptive.prepare(PROMPT), 1.0, chunk=chunk) == covered_substitutions(
        adaptive.prepare(PROMPT), 1.0
    )


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"rho": 0.0}, ValueError, r"rho = 0\.0: must be a finite number > 0"),
        ({"rho": 1.0, "nearest": -1}, ValueError, r"nearest = -1: must be a whole number >= 0"),
        ({"rho": 1.0, "chunk": 0}, ValueError, r"chunk = 0: must be a whole number >= 1"),
        ({"rho": 1.0, "prompt": ""}, ValueError, r"prompt = '': must not be empty"),
    ],
)
def test_bad_calls(
    adaptive: AdaptiveMedianSmoother, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    def covered(prompt: str = "a coin", **others: Any) -> None:
        covered_substitutions(adaptive.prepare(prompt), **others)

    with pytest.raises(error, match=message):
        covered(**options)


def test_bad_lists(adaptive: AdaptiveMedianSmoother) -> None:
    with pytest.raises(TypeError, match=r"prompts = 'a coin': must be a list of prompts"):
        covered_prompts(adaptive.prepare("a coin"), "a coin", 1.0)
    with pytest.raises(TypeError, match=r"prompt = 3: must be a string"):
        covered_prompts(adaptive.prepare("a coin"), [3], 1.0)  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"rho = -1: must be"):
        covered_prompts(adaptive.prepare("a coin"), [], -1)
