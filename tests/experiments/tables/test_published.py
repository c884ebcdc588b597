"""The papers' figures agree with one another wherever they can be compared: a slip of the keyboard would not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from experiments import unlearning
from experiments.attacks import ATTACKS
from experiments.defenses import DEFENSES
from experiments.tables.published import HEADLINE, PUBLISHED, SOURCES, source
from experiments.tables.table import Line

FIGURES = ("average", "fid", "image_text")


def misfits(lines: tuple[Line, ...]) -> list[tuple[str, str]]:
    """Rows whose average is not that of their attacks, whatever was rounded: each figure is right to .005 points."""
    wrong = []
    for line in lines:
        rates = [value for key, value in line.values.items() if key not in FIGURES]
        if abs(sum(rates) / len(rates) - line.values["average"]) > 1e-4 + 1e-9:
            wrong.append((line.victim, line.defense))
    return wrong


def found(number: str, victim: str, defense: str, **settings: float) -> Line:
    (line,) = (
        line
        for line in PUBLISHED[number]
        if (line.victim, line.defense, dict(line.settings)) == (victim, defense, settings)
    )
    return line


@pytest.mark.parametrize("number", ["1", "6"])
def test_averages_are_the_attacks_means_in_every_row(number):
    assert misfits(PUBLISHED[number]) == []


def test_a_digit_changed_is_found():
    first, *rest = PUBLISHED["1"]
    changed = replace(first, values={**first.values, "p4d": first.values["p4d"] + 0.01})
    assert misfits((changed, *rest)) == [("ESD", "none")]


@pytest.mark.parametrize(
    ("number", "victim", "defense", "settings", "first"),
    [
        ("3", "ESD", "ams", {"sigma0": 0.006, "k": 9}, ("ESD", "ams")),
        ("3", "UCE", "ams", {"sigma0": 0.012, "k": 9}, ("UCE", "ams")),
        ("4", "UCE", "ams global", {}, ("UCE", "ams")),
        *[("5", victim, defense, {}, (victim, defense)) for victim in ("ESD", "UCE") for defense in ("none", "ams")],
    ],
)
def test_what_several_tables_print_is_the_same_in_all(number, victim, defense, settings, first):
    values = found("1", *first).values
    assert dict(found(number, victim, defense, **settings).values) == {key: values[key] for key in FIGURES}


def test_tables_have_the_papers_rows():
    """Counted in the paper; Table 3 prints the middle of each sweep twice."""
    counts = {number: len(lines) for number, lines in PUBLISHED.items()}
    assert counts == {"1": 18, "2": 4, "3": 10, "4": 2, "5": 6, "6": 14, "8": 12, "9": 12, "10": 10, "11": 2, "12": 2}


def test_every_row_is_there_once_with_every_column():
    for lines in PUBLISHED.values():
        rows = [(line.victim, line.defense, tuple(line.settings.items())) for line in lines]
        assert len(set(rows)) == len(rows)
        assert len({tuple(line.values) for line in lines}) == 1


def test_rates_are_shares_and_scores_are_of_their_size():
    for lines in PUBLISHED.values():
        for line in lines:
            for key, value in line.values.items():
                low, high = {"fid": (2, 30), "image_text": (0.28, 0.32), "seconds": (9, 12)}.get(key, (0, 0.75))
                assert low <= value <= high, (line, key)


def test_names_are_those_of_the_registries():
    known = {*ATTACKS, "average", "average:first", "average:second", "fid", "image_text", "seconds"}
    defenses = {*DEFENSES, *unlearning.METHODS, "sld", "ams local", "ams global", "ams self-generated"}
    for lines in PUBLISHED.values():
        assert {key for line in lines for key in line.values} <= known
        assert {line.defense for line in lines} <= defenses


def test_sources_name_paper_and_model():
    assert set(SOURCES) == set(PUBLISHED)
    for number in PUBLISHED:
        assert source(number).startswith(f"Han et al. (2025), Table {number}: Stable Diffusion ")
    assert source("pruning") == HEADLINE
    assert "Stable Diffusion" in HEADLINE
    with pytest.raises(ValueError, match="number = '7'"):
        source("7")
