"""What a certificate has on record beside its claims is compared with the model: changed, it is refuted."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import certify
from certify import Certificate
from certify.adaptive import AdaptiveMedianSmoother
from certify.adaptive.checking import compared, rebuilt

PROMPT = "a photo of a red circle"
ATTACKS = ["a photo of a red wheel", "a photo of a circle", "a drawing of a red circle"]
SMALL: dict[str, Any] = {"n": 300, "statistics": 80, "images": 64, "steps": 2, "guidance": 2.0, "q": 0.5}
Subject = tuple[Any, AdaptiveMedianSmoother, Certificate]


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    pipe = certify.load_pipeline()
    adaptive = AdaptiveMedianSmoother.from_pipeline(pipe, ["circle"], n=3, **certify.world.SMOOTHING)
    made = adaptive.certify(
        PROMPT, pipe=pipe, detector="judge:circle", prompts=ATTACKS, rho_deployed=0.1, points=2, **SMALL
    )
    made.save(tmp_path_factory.mktemp("record") / "a")
    again = Certificate.load(tmp_path_factory.getbasetemp() / "record0" / "a")
    return pipe, rebuilt(again, pipe), again


def _changed(certificate: Certificate, change: Callable[[dict[str, Any]], Any]) -> Certificate:
    record = copy.deepcopy(dict(certificate.provenance))
    change(record)
    assert record != certificate.provenance
    return replace(certificate, provenance=record)


def test_a_true_record_is_the_models(subject: Subject) -> None:
    pipe, adaptive, made = subject
    found = {one.name: one.outcome for one in compared(made, adaptive.prepare(PROMPT), pipe)}
    assert "differs" not in found.values()
    assert {name for name, outcome in found.items() if outcome == "not checked"} == {
        "rate without the defence",
        "rate without the word",
        "how it was made",
    }
    text = {one.name: one.outcome for one in compared(made, adaptive.prepare(PROMPT))}
    assert text["concept-removal distance of noise predictions"] == "not checked"


def _all_covered(record: dict[str, Any]) -> None:
    for p in record["coverage"]:
        p["covered"], p["uncovered"] = p["comparable"], []


def _scaled(record: dict[str, Any], *path: Any, by: float = 10.0) -> None:
    *where, last = path
    for step in where:
        record = record[step]
    record[last] *= by


def _put(*path: Any) -> Callable[[dict[str, Any]], None]:
    *where, last, value = path

    def change(record: Any) -> None:
        for step in where:
            record = record[step]
        record[last] = value

    return change


CHANGES: list[tuple[str, Callable[[dict[str, Any]], Any]]] = [
    ("covered tokens", _all_covered),
    ("covered tokens", lambda r: r["coverage"].pop()),
    ("covered tokens", _put("coverage", 0, "position", 2)),
    ("covered tokens", _put("coverage", 0, "token", "dog</w>")),
    ("covered tokens", _put("coverage", 0, "rho", 9.0)),
    ("covered tokens", lambda r: _scaled(r, "coverage", 0, "sigma")),
    ("covered tokens", _put("coverage", 0, "comparable", 3)),
    ("covered tokens", _put("coverage", 0, "vocabulary", 3)),
    ("covered tokens", _put("coverage", 0, "fully_covered", True)),
    ("covered tokens", _put("coverage", 0, "share", 1.0)),
    ("covered tokens", _put("coverage", 0, "farthest", 0.25)),
    ("covered tokens", lambda r: _scaled(r, "coverage", 0, "nearest", "distance", by=0.5)),
    ("covered tokens", lambda r: _scaled(r, "coverage", 0, "uncovered", 0, "distance", by=0.5)),
    ("covered tokens", _put("coverage", 0, "uncovered", 0, "token", "dog</w>")),
    ("covered tokens", _put("coverage", "everything")),
    ("covered attack prompts", _put("covered_prompts", 1, "covered", True)),
    ("covered attack prompts", _put("covered_prompts", 0, "distance", 0.001)),
    ("covered attack prompts", _put("covered_prompts", 1, "reason", "no reason")),
    ("covered attack prompts", _put("covered_prompts", 0, "prompt", "any other prompt at all")),
    ("covered attack prompts", _put("covered_prompts", 0, "changed", [])),
    ("covered attack prompts", _put("covered_prompts", 0, "dropped", 4)),
    ("covered attack prompts", _put("covered_prompts", "all of them")),
    ("covered attack prompts", lambda r: r["covered_prompts"].append({"covered": True})),
    ("concept-removal distance", lambda r: _scaled(r, "yardstick", "distance")),
    ("concept-removal distance", lambda r: _scaled(r, "yardstick", "distance", by=1.01)),
    ("concept-removal distance", _put("yardstick", "word", "dog")),
    ("concept-removal distance", _put("yardstick", "word", None)),
    ("concept-removal distance", _put("yardstick", "position", 1)),
    ("concept-removal distance of noise predictions", lambda r: _scaled(r, "noise_prediction_yardstick")),
    ("concept score of the plain encoding", lambda r: _scaled(r, "concept_score_plain")),
    ("concept in the prompt", lambda r: r["concept_in_prompt"].update(named=not r["concept_in_prompt"]["named"])),
    ("concept in the prompt", _put("concept_in_prompt", "concept", "dog")),
    ("concept in the prompt", lambda r: _scaled(r, "concept_in_prompt", "relevance", by=0.5)),
    ("concept in the prompt", lambda r: _scaled(r, "concept_in_prompt", "threshold", by=0.5)),
    ("tokens and their concepts", _put("token_noise", "tokens", 1, "dog</w>")),
    ("tokens and their concepts", _put("token_noise", "kinds", 1, "padding")),
    ("tokens and their concepts", _put("token_noise", "concept", 1, "dog")),
    ("relevance", _put("token_noise", "relevance", 1, 0.99)),
    ("relevance", _put("token_noise", "relevance", [])),
    ("noise of the tokens", lambda r: _scaled(r, "token_noise", "sigma", 1)),
    ("standard deviation of token embeddings", lambda r: _scaled(r, "token_spread")),
    ("tokens that were cut off", _put("truncated", {"tokens": 90, "kept": 77})),
    ("quantity", _put("quantity", "noise-prediction")),
    ("rate without the defence", _put("undefended", "rate", 0.5)),
    ("rate without the defence", _put("undefended", "successes", -1)),
    ("rate without the word", _put("without_word", "rate", 0.75)),
]


@pytest.mark.parametrize(("name", "change"), CHANGES)
def test_what_is_changed_differs(subject: Subject, name: str, change: Callable[[dict[str, Any]], Any]) -> None:
    pipe, adaptive, made = subject
    differ = {
        one.name: one
        for one in compared(_changed(made, change), adaptive.prepare(PROMPT), pipe)
        if one.outcome == "differs"
    }
    assert set(differ) == {name}
    assert "the record says" in differ[name].detail


@pytest.mark.parametrize("columns", [slice(None), slice(1)])
def test_more_noise_than_the_settings_give_differs(subject: Subject, columns: slice) -> None:
    pipe, adaptive, made = subject
    sigma = made.tensors["sigma"].clone()
    sigma[:, columns] *= 3
    other = replace(made, tensors={**made.tensors, "sigma": sigma})
    assert "noise of the claims" in {
        one.name for one in compared(other, adaptive.prepare(PROMPT), pipe) if one.outcome == "differs"
    }


def test_a_private_record_is_compared_as_far_as_it_goes(subject: Subject) -> None:
    _, adaptive, _ = subject
    made = adaptive.certify(PROMPT, n=300, statistics=0, private=True, prompts=ATTACKS)
    found = {one.name: one.outcome for one in compared(made, adaptive.prepare(PROMPT))}
    assert "differs" not in found.values()
    assert found["number of covered attack prompts"] == "not checked"
    for name, change in (
        ("covered tokens", lambda r: r["coverage"][0].update(covered=r["coverage"][0]["comparable"])),
        ("concept-removal distance", lambda r: _scaled(r, "yardstick", "distance")),
        ("concept-removal distance", lambda r: r["yardstick"].update(word="dog")),
    ):
        differ = [
            one.name for one in compared(_changed(made, change), adaptive.prepare(PROMPT)) if one.outcome == "differs"
        ]
        assert differ == [name]


@pytest.mark.parametrize("policy", ["memory", "noise-then-adapt"])
def test_other_policies_keep_what_is_theirs(subject: Subject, tmp_path: Path, policy: str) -> None:
    pipe, _, _ = subject
    options: dict[str, Any] = {"memory": tmp_path / "regions"} if policy == "memory" else {}
    adaptive = AdaptiveMedianSmoother.from_pipeline(
        pipe, ["circle"], n=3, policy=policy, **options, **certify.world.SMOOTHING
    )
    made = adaptive.certify(PROMPT, n=300, statistics=0, prompts=ATTACKS)
    again = rebuilt(made, pipe)

    def more_noise(record: dict[str, Any]) -> None:
        _scaled(record, "token_noise", "sigma", 1)

    found = compared(made, again.prepare(PROMPT))
    assert [one for one in found if one.outcome == "differs"] == []
    for name, change in (("covered tokens", _all_covered), ("noise of the tokens", more_noise)):
        differ = [
            one.name for one in compared(_changed(made, change), again.prepare(PROMPT)) if one.outcome == "differs"
        ]
        assert differ == [name]
