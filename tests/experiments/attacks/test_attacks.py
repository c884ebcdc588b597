"""What every attack of `ATTACKS` must do, on tiny models of both kinds of prediction; attacks that break it are caught.

A new attack gets one line in `QUICK`; its own test file holds its formulas, and that it finds more than random search does.
"""

from __future__ import annotations

import dataclasses
import json
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from certify import load_pipeline
from certify.adaptive import AdaptiveMedianSmoother
from certify.adaptive import Concept as Pairs
from certify.models import fingerprint
from experiments.attacks import ATTACKS, adaptive, cce, implicit, mma, p4d, qf, ring_a_bell, sight, unlearn_diff
from experiments.attacks.attack import Attack, Row, Target, Victim, read_rows, run
from experiments.unlearning.concept import Concept
from experiments.unlearning.diffusion import Diffusion
from experiments.unlearning.training import Rng
from tests.experiments.attacks.victims import small

QUICK: dict[str, Any] = {
    "implicit": implicit.Settings(words=("coin", "wheel")),
    "ring-a-bell": ring_a_bell.Settings(length=4, population=8, generations=3),
    "mma": mma.Settings(length=4, steps=2, best=8, rows=8),
    "qf-pgd": qf.Settings(length=2, iterations=2, draws=6, best=2),
    "p4d": p4d.Settings(tokens=3, iterations=2, check=2, steps=2, guidance=2.0, learning_rate=0.5),
    "uda": unlearn_diff.Settings(tokens=2, times=2, iterations=2, steps=2, guidance=2.0),
    "adaptive": adaptive.Settings(
        tokens=2, iterations=2, draws=2, candidates=2, top=8, check=1, looks=1, steps=2, guidance=2.0
    ),
    "cce": cce.Settings(iterations=2, batch=2, learning_rate=0.01, steps=2, guidance=2.0),
}

TEXTS = ("ring-a-bell", "mma", "qf-pgd")
"""Attacks on the text encoder: what they aim at is of the one before erasing."""

PAIRS = (("a red circle", "a red coin"), ("the circle", "the coin"), ("a small coin", "a small"))
LAYOUTS = ["pipeline_folder", "pipeline_folder_sd2"]


@pytest.fixture(autouse=True)
def judges(monkeypatch: pytest.MonkeyPatch) -> None:
    """For images this small: nothing is detected, and two are alike as their mean colours are."""

    def alike(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return torch.cosine_similarity(*(images.flatten(2).mean(dim=2) for images in (one, other)), dim=1)

    monkeypatch.setattr(sight, "finder", lambda victim, spec: lambda images: torch.zeros(len(images), dtype=torch.bool))
    monkeypatch.setattr(sight, "likeness", lambda victim, folder: alike)


def victim(folder: Path) -> Victim:
    """One that has all that an attack may need."""
    there = small(folder)
    images = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(6))
    smoother = AdaptiveMedianSmoother(there.encoder, Pairs("circle", PAIRS), n=3, sigma0_relative=0.3, k=2.0)
    concept = Concept.of(["circle"], neutral="coin")
    return Victim("tiny", there.diffusion, concept, PAIRS, images=images, smoother=smoother)


def aims(count: int) -> list[Target]:
    return [Target(i, ("a red circle", "the circle in blue", "a small coin")[i % 3], 5 + i) for i in range(count)]


# What is asked


def answers_every_target(attack: Attack, who: Victim) -> None:
    """A row a target, in their order, with a text that a user can type and that fits; the victim stays as it was, and chance is
    the attack's own."""
    modules = [who.diffusion.unet, who.diffusion.original, who.encoder.text_encoder, who.diffusion.pipe.vae]
    before = [fingerprint(module) for module in modules]
    randomness = torch.get_rng_state(), random.getstate()
    rows = attack.run(who, aims(3), QUICK[attack.name], Rng(0))
    assert [(row.number, row.prompt, row.seed) for row in rows] == [(a.number, a.prompt, a.seed) for a in aims(3)]
    assert {(row.attack, row.victim, row.concept) for row in rows} == {(attack.name, "tiny", "circle")}
    for row in rows:
        assert row.adversarial.strip()
        assert who.encoder.tokenize(row.adversarial).length <= who.encoder.context_length
        assert math.isfinite(row.found)
        assert isinstance(json.loads(row.note), dict)
    assert [fingerprint(module) for module in modules] == before
    assert torch.equal(torch.get_rng_state(), randomness[0])
    assert random.getstate() == randomness[1]


def is_its_seeds(attack: Attack, who: Victim) -> None:
    first, again = (attack.run(who, aims(3), QUICK[attack.name], Rng(0)) for _ in range(2))
    others = (attack.run(who, aims(3), QUICK[attack.name], Rng(seed)) for seed in (1, 2, 3))
    assert first == again
    found = [(row.adversarial, json.loads(row.note).get("embedding")) for row in first]
    assert any(found != [(row.adversarial, json.loads(row.note).get("embedding")) for row in other] for other in others)


def goes_on_where_it_stopped(attack: Attack, who: Victim, folder: Path) -> None:
    """Stopped and continued it ends with the same file; what is there is not asked again, and answers no other question."""
    settings, whole, part = QUICK[attack.name], folder / "whole.csv", folder / "part.csv"
    rows = run(attack, who, aims(3), settings, whole, batch=2)
    run(attack, who, aims(3)[:2], settings, part, batch=2)
    assert run(attack, who, aims(3), settings, part, batch=2) == rows == read_rows(whole)
    assert part.read_bytes() == whole.read_bytes()
    record = json.loads(whole.with_suffix(".json").read_text(encoding="utf-8"))
    assert record["settings"] == json.loads(json.dumps(dataclasses.asdict(settings)))

    def never(*given: Any) -> list[Row]:
        raise AssertionError("it was asked again")

    asleep = dataclasses.replace(attack, run=never)
    assert run(asleep, who, aims(3), settings, whole, batch=2) == rows
    with pytest.raises(ValueError, match="holds rows of another attack, or with other settings"):
        run(asleep, who, aims(3), settings, whole, batch=2, seed=1)


# All attacks


def test_every_attack_is_asked():
    assert set(QUICK) == set(ATTACKS), "name it in QUICK"
    for name, attack in ATTACKS.items():
        assert isinstance(attack.embedded(), attack.settings)
        assert isinstance(QUICK[name], attack.settings)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ATTACKS)
def test_answers_every_target(name, layout, request):
    answers_every_target(ATTACKS[name], victim(request.getfixturevalue(layout)))


@pytest.mark.parametrize("name", ATTACKS)
def test_is_its_seeds(name, pipeline_folder):
    is_its_seeds(ATTACKS[name], victim(pipeline_folder))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ATTACKS)
def test_goes_on_where_it_stopped(name, layout, request, tmp_path):
    goes_on_where_it_stopped(ATTACKS[name], victim(request.getfixturevalue(layout)), tmp_path)


@pytest.mark.parametrize(("name", "need"), [(name, need) for name in ATTACKS for need in ATTACKS[name].needs])
def test_what_it_needs_is_named(name, need, pipeline_folder, tmp_path):
    who = victim(pipeline_folder)
    if need == "original":
        who.diffusion.original = None
    else:
        who = dataclasses.replace(who, **{need: () if need == "pairs" else None})
    with pytest.raises(ValueError, match=f"victim 'tiny' has no {need}: {name} needs them"):
        run(ATTACKS[name], who, aims(1), QUICK[name], tmp_path / "rows.csv")
    assert not (tmp_path / "rows.csv").exists()


@pytest.mark.parametrize("name", TEXTS)
def test_the_goal_is_of_the_text_encoder_before_erasing(name, pipeline_folder):
    who = victim(pipeline_folder)
    changed = Diffusion(load_pipeline(pipeline_folder))
    with torch.no_grad():
        for p in changed.encoder.text_encoder.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    attack = ATTACKS[name]
    plain, moved, same = (
        attack.run(dataclasses.replace(who, reference=r), aims(2), QUICK[name], Rng(0))
        for r in (None, changed, who.diffusion)
    )
    assert plain == same
    assert [row.found for row in plain] != pytest.approx([row.found for row in moved], rel=1e-3)


# Broken attacks: Ring-A-Bell with one thing wrong

Run = Callable[[Victim, Sequence[Target], Any, Rng], list[Row]]
REAL = ATTACKS["ring-a-bell"]


def changed(rows: list[Row], **values: Any) -> list[Row]:
    return [dataclasses.replace(row, **values) for row in rows]


def moves_the_victim(who: Victim, targets: Sequence[Target], settings: Any, rng: Rng) -> list[Row]:
    with torch.no_grad():
        next(who.diffusion.unet.parameters()).add_(1)
    return REAL.run(who, targets, settings, rng)


def draws_globally(who: Victim, targets: Sequence[Target], settings: Any, rng: Rng) -> list[Row]:
    return REAL.run(who, targets, settings, Rng(random.randrange(10**6)))


@pytest.mark.parametrize(
    "run",
    [
        lambda *given: REAL.run(*given)[:-1],
        lambda *given: REAL.run(*given)[::-1],
        lambda *given: changed(REAL.run(*given), prompt="a circle"),
        lambda *given: changed(REAL.run(*given), attack="mma"),
        lambda *given: changed(REAL.run(*given), adversarial=" "),
        lambda *given: changed(REAL.run(*given), adversarial="red " * 40),
        lambda *given: changed(REAL.run(*given), found=math.nan),
        moves_the_victim,
        draws_globally,
    ],
)
def test_an_attack_that_answers_wrongly_is_caught(run: Run, pipeline_folder):
    with pytest.raises((AssertionError, ValueError)):
        answers_every_target(dataclasses.replace(REAL, run=run), victim(pipeline_folder))


def test_an_attack_without_chance_or_with_anothers_is_caught(pipeline_folder):
    def constant(who: Victim, targets: Sequence[Target], settings: Any, rng: Rng) -> list[Row]:
        return REAL.run(who, targets, settings, Rng(0))

    for run_ in (constant, draws_globally):
        with pytest.raises(AssertionError):
            is_its_seeds(dataclasses.replace(REAL, run=run_), victim(pipeline_folder))


def test_an_attack_that_remembers_its_calls_is_caught(pipeline_folder, tmp_path):
    calls: list[int] = []

    def counting(who: Victim, targets: Sequence[Target], settings: Any, rng: Rng) -> list[Row]:
        calls.append(1)
        return changed(REAL.run(who, targets, settings, rng), found=float(len(calls)))

    with pytest.raises(AssertionError):
        goes_on_where_it_stopped(dataclasses.replace(REAL, run=counting), victim(pipeline_folder), tmp_path)
