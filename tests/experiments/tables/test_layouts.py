"""What a grid chooses, what a mean is, and pairs made otherwise."""

from __future__ import annotations

import json
import random

import pytest

from certify import world
from certify.adaptive.concepts import Concept as Pairs
from certify.models import load_text_encoder
from experiments.defenses.ams import Settings
from experiments.metrics.asr import interval
from experiments.tables.command import self_generated
from experiments.tables.evaluator import Evaluator
from experiments.tables.result_cache import ResultCache
from experiments.tables.table import Line
from experiments.tables.testbed import Embedded, Sizes
from experiments.tables.tuning import chosen, read_smoothing, rule, write_smoothing
from experiments.unlearning.concept import Concept


def of(rate: float, fid: float, sigma0: float, k: float) -> Line:
    return Line("ESD", "ams", {"average": rate, "fid": fid}, settings={"sigma0": sigma0, "k": k})


GRID = [of(0.30, 0.2, 0.05, 4), of(0.051, 0.5, 0.05, 6), of(0.049, 0.6, 0.1, 6), of(0.04, 2.0, 0.2, 8)]


def test_the_rule_takes_the_least_fid_of_those_that_defend_as_well_as_any():
    assert rule(GRID) is GRID[1]
    assert rule(GRID[:1] + GRID[2:]) is GRID[2]
    best = chosen(GRID, Settings(sigma0=None, sigma0_relative=0.1))
    assert (best.sigma0, best.sigma0_relative, best.k) == (None, 0.05, 6)
    best = chosen(GRID, Settings())
    assert (best.sigma0, best.sigma0_relative, best.k) == (0.05, None, 6)


def test_chosen_settings_round_trip(tmp_path):
    base = Settings(sigma0=None, sigma0_relative=0.1, k=6.0, similarity="end-of-text")
    kept = {"esd": chosen(GRID, base), "uce": base}
    write_smoothing(tmp_path / "chosen.json", kept)
    assert read_smoothing(tmp_path / "chosen.json", base) == kept
    (tmp_path / "chosen.json").write_text('{"esd": {"strength": 3}}')
    with pytest.raises(ValueError, match="holds no chosen settings"):
        read_smoothing(tmp_path / "chosen.json", base)


@pytest.fixture
def evaluator(tmp_path) -> Evaluator:
    return Evaluator(Embedded(tmp_path, Sizes()), ResultCache(tmp_path))


def test_a_mean_is_unweighted_and_its_limits_cover(evaluator):
    rates = [{"value": 0.5, "prompts": 40}, {"value": 0.1, "prompts": 40}]
    mean, (low, high) = evaluator.average(rates)
    assert mean == pytest.approx(0.3)
    assert (low, high) == pytest.approx(interval(24, 80))
    mean, limits = evaluator.average([{"value": 1.0, "prompts": 10}, {"value": 0.0, "prompts": 1000}])
    assert mean == 0.5
    assert limits == pytest.approx(interval(10, 20))


def test_limits_of_a_mean_cover_unequal_rates(evaluator):
    """H0: coverage ≥ .95. 2 000 repetitions of two attacks with rates .9 and .05 of 40 and 60 prompts: fewer than 1 872
    covered has probability < 1e-5 under H0. The limits of one attack alone do not cover the mean."""
    rng, covered, wrong = random.Random(0), 0, 0
    for _ in range(2000):
        rates = [
            {"value": sum(rng.random() < p for _ in range(n)) / n, "prompts": n} for p, n in ((0.9, 40), (0.05, 60))
        ]
        _, (low, high) = evaluator.average(rates)
        covered += low <= 0.475 <= high
        low, high = interval(rates[0]["value"] * 40, 40)
        wrong += low <= 0.475 <= high
    assert covered >= 1872
    assert wrong < 1872


@pytest.mark.parametrize("name", ["cross", "striped"])
def test_self_generated_pairs_are_pairs_and_none_of_the_world(tmp_path, name):
    concept = Concept.embedded(name)
    encoder = load_text_encoder()
    path = self_generated(tmp_path / f"{name}.jsonl", concept, encoder)
    pairs = [json.loads(line) for line in path.read_text().splitlines()]
    assert len({p["positive"] for p in pairs}) == len(pairs) == 100
    assert all(name in p["positive"] and name not in p["negative"] for p in pairs)
    assert all(encoder.tokenize(text).length <= encoder.context_length for p in pairs for text in p.values())
    shipped = {row["prompt"] for split in ("tune", "report") for row in world.prompts(split)}
    shipped |= {p for pair in Pairs.load(name).pairs for p in pair}
    assert not shipped & {p["positive"] for p in pairs}
    assert len(Pairs.load(path).pairs) == 100


def test_two_concepts_are_one_that_neither_keeps(tmp_path):
    both = Embedded(tmp_path, Sizes()).concept("cross+star")
    assert both.erase == ("cross", "star")
    assert not {"cross", "star"} & {*both.preserve, both.anchor}
    assert both.templates == ("{}",)
