"""The committed tables: CSV and page agree, attack prompts can be typed, and a figure comes out again."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from certify.models import load_text_encoder
from experiments.attacks.attack import read_rows
from experiments.attacks.learned import words_of
from experiments.tables.evaluator import Evaluator, Setup
from experiments.tables.layouts import LAYOUTS
from experiments.tables.lines import ATTACKS, SCORES
from experiments.tables.page import read_csv
from experiments.tables.result_cache import ResultCache
from experiments.tables.table import Column
from experiments.tables.testbed import BESIDE, Embedded, Sizes
from experiments.world.worlds import everything
from tests.experiments.tables.agreement import disagreements, tables_of

ROOT = Path(__file__).resolve().parents[3]
TABLES = ROOT / "docs" / "tables"
PROMPTS = ROOT / "experiments" / "tables" / "prompts"


def columns(name: str) -> list[Column]:
    """Those of a committed table, by the heads that its page prints."""
    with (TABLES / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        keys = next(csv.reader(file))
    known = {c.key: c for c in (*ATTACKS, *SCORES)}
    heads = [head for table in tables_of((TABLES / f"{name}.md").read_text(encoding="utf-8")) for head in table[0]]
    found = [known[key] for key in keys if key in known]
    for key, place in (("average:first", 0), ("average:second", 1)):
        if key in keys:
            means = [
                head.removesuffix(" ↓") for head in heads if head.startswith("mean ASR,") and "published" not in head
            ]
            found.append(Column(key, means[place]))
    return found


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_committed_page_says_what_its_csv_says(name):
    page, text = ((TABLES / f"{name}.{kind}").read_text(encoding="utf-8") for kind in ("md", "csv"))
    assert disagreements(page, text, columns(name)) == []
    measured, _ = read_csv(text)
    assert measured
    assert all(line.values for line in measured)
    wrong = text.replace(repr(max(measured[0].values.values())), "0.123456789")
    assert disagreements(page, wrong, columns(name))


def test_every_picture_of_a_page_is_there():
    for page in TABLES.rglob("*.md"):
        for part in page.read_text(encoding="utf-8").split("](")[1:]:
            name = part.split(")")[0]
            if name.endswith(".png"):
                assert (page.parent / name).stat().st_size > 5_000, name


@pytest.mark.parametrize(("place", "least"), [("star", 100), ("second/hat", 6 * 144)])
def test_as_many_prompts_are_behind_table_1(place, least):
    files = sorted(PROMPTS.glob(f"{place}/*/report/*.csv"))
    of = {victim: [p for p in files if p.parts[-3] in (victim, "text-encoder")] for victim in ("esd", "uce")}
    for paths in of.values():
        assert sum(len(read_rows(p)) for p in paths if p.stem not in BESIDE) >= least


def test_every_committed_attack_prompt_fits_and_is_of_its_file():
    worlds = {world.label: load_text_encoder(world.base) for world in everything()}
    for path in PROMPTS.rglob("*.csv"):
        label = path.relative_to(PROMPTS).parts[0]
        rows, encoder = read_rows(path), worlds.get(label, worlds[""])
        assert rows, path
        assert set(words_of(rows)) <= {word for row in rows for word in row.adversarial.split(" ")}
        assert {(row.attack, row.victim) for row in rows} == {(path.stem, path.parts[-3])}
        assert len({row.number for row in rows}) == len(rows)
        for row in rows:
            assert encoder.tokenize(row.adversarial).length <= encoder.context_length


FIGURES = {"implicit": "implicit", "uda": "UDA", "": "chance"}


@pytest.mark.parametrize(
    ("guide", "attack"),
    [
        ("cross", "implicit"),
        ("cross", ""),
        ("blank", "uda"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (("cross", "uda"), ("blank", "implicit"), ("blank", ""))
        ),
    ],
)
def test_a_committed_figure_comes_out_again(tmp_path, guide, attack):
    """Of the guide's first table. UCE is closed form, so the victim is the same; a rounding error may turn one image."""
    (heads, *rows), *_ = tables_of((ROOT / "docs" / "guide" / "tables.md").read_text(encoding="utf-8"))
    (line,) = (row for row in rows if guide in row[0] and row[1] == "none")
    printed = dict(zip(heads, line, strict=True))
    evaluator = Evaluator(Embedded(tmp_path, Sizes(), blank=guide == "blank"), ResultCache(tmp_path / "cells"))
    concept = evaluator.testbed.concept("star")
    setup = Setup("none", "uce", "none")
    rate = evaluator.rate(concept, setup, attack) if attack else evaluator.chance(concept, setup)
    count = 48 if attack else 192
    assert rate["prompts"] == count
    assert 100 * rate["value"] == pytest.approx(float(printed[FIGURES[attack]]), abs=150 / count)
    assert not list((tmp_path / "attacks").rglob("*.new"))
