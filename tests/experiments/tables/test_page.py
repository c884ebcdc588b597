"""Page, CSV and terminal say the same, and what a changed figure, a lost row or a bad table does to them."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace

import pytest

from experiments.tables.page import csv_text, markdown, read_csv, terminal
from experiments.tables.published import HEADLINE, PUBLISHED, source
from experiments.tables.table import Column, Line, Table
from tests.experiments.tables.agreement import disagreements, tables_of

ASR, FID = Column("average", "ASR"), Column("fid", "FID", "score")
SCORE = Column("image_text", "Image–text", "score", "higher")
ATTACKS = (
    *(Column("implicit", "I2P"), Column("p4d", "P4D"), Column("uda", "UDA")),
    *(Column("ring-a-bell", "Ring-A-Bell"), Column("mma", "MMA"), Column("qf-pgd", "QF-PGD")),
)
CERTIFIED = Column("certified", "Certified, ρ = 0.1")
SECONDS = Column("seconds", "s", "seconds")


def measured(number: str, columns: tuple[Column, ...], **changes: object) -> Table:
    """A table of the paper's rows whose figures are others than the paper's, with limits, and with some missing."""
    lines = []
    for i, line in enumerate(PUBLISHED[number]):
        values = {
            column.key: (0.137 * (7 * i + 3 * j + 1)) % (1 if column.kind == "rate" else 30)
            for j, column in enumerate(columns)
            if (i + j) % 5 or column.key == "average"
        }
        rates = [column.key for column in columns if column.kind == "rate" and column.key in values]
        limits = {key: (values[key] * 0.9, values[key] + (1 - values[key]) * 0.1) for key in rates}
        lines.append(Line(line.victim, line.defense, values, limits, line.settings))
    table = Table(number, "Defences", columns, tuple(lines), PUBLISHED[number], ("The embedded world.", "Seeds 0–9."))
    return replace(table, **changes)  # type: ignore[arg-type]


def wide() -> Table:
    return measured("1", (*ATTACKS, ASR, CERTIFIED, FID, Column("fid_rendered", "FID, rendered", "score"), SCORE))


def other_settings() -> Table:
    """A sweep whose σ₀ are not the paper's."""
    table = measured("3", (ASR, CERTIFIED, FID, SCORE))
    lines = [
        replace(line, settings={"sigma0_relative": float(line.settings["sigma0"]) * 17, "k": line.settings["k"]})
        for line in table.lines
    ]
    return replace(table, lines=tuple(lines))


def with_chance() -> Table:
    """A table with chance levels, and tests of one line against another."""
    columns = (
        *ATTACKS,
        ASR,
        FID,
        SCORE,
        Column("chance", "chance", better=""),
        CERTIFIED,
        Column("p:none", "p, against none", "p", ""),
    )
    table = measured("1", columns)
    lines = [
        replace(line, values={**line.values, "chance": 0.1 / (2 + i)} | ({"p:none": 0.7**i} if i else {}))
        for i, line in enumerate(table.lines)
    ]
    return replace(table, lines=tuple(lines))


TABLES = {
    "1": wide(),
    "1 with chance": with_chance(),
    "2": measured("2", (SECONDS,)),
    "3": measured("3", (ASR, FID, SCORE)),
    "3 elsewhere": other_settings(),
    "4": measured("4", (ASR, CERTIFIED, FID, SCORE)),
    "10": measured("10", (ASR, FID, SCORE)),
    "11": measured("11", (Column("average:first", "ASR, cross"), Column("average:second", "ASR, star"), FID, SCORE)),
    "pruning": replace(measured("4", (*ATTACKS, FID)), number="pruning", published=()),
}


@pytest.mark.parametrize("name", TABLES)
def test_page_and_csv_agree_in_every_cell(name):
    table = TABLES[name]
    assert disagreements(markdown(table), csv_text(table), table.columns) == []


def altered(page: str) -> tuple[str, int]:
    """The page with the last digit of every figure and limit changed, and how many that were."""
    lines, names, count = [], 0, 0
    for line in page.splitlines():
        if line.startswith("|---"):
            names = line.count("---|")
        cells = line.split(" | ")
        if line.startswith("| ") and not line.startswith(("| Model", "| Defence")):
            for i in range(names, len(cells)):
                cells[i], found = re.subn(r"\d(?=[,\])]| [\[(]| \||$)", lambda m: str((int(m[0]) + 5) % 10), cells[i])
                count += found
        lines.append(" | ".join(cells))
    return "\n".join(lines), count


@pytest.mark.parametrize("name", TABLES)
def test_every_changed_figure_is_found(name):
    table = TABLES[name]
    page, count = altered(markdown(table))
    assert count >= sum(len(line.values) for line in (*table.lines, *table.published))
    assert len(disagreements(page, csv_text(table), table.columns)) == count


def test_a_row_or_a_figure_that_only_one_has_is_found():
    table = TABLES["3"]
    page, text = markdown(table), csv_text(table)
    row = next(line for line in page.splitlines() if line.startswith("| UCE"))
    assert disagreements(page.replace(row + "\n", ""), text, table.columns)
    assert disagreements(page, "\n".join(text.splitlines()[:-1]), table.columns)
    fewer = replace(table, lines=(replace(table.lines[0], values={}, limits={}), *table.lines[1:]))
    assert disagreements(page, csv_text(fewer), table.columns)
    assert disagreements(markdown(fewer), text, table.columns)


@pytest.mark.parametrize("name", TABLES)
def test_a_csv_read_again_is_the_table(name):
    table = TABLES[name]
    lines, published = read_csv(csv_text(table))
    assert lines == table.lines
    assert published == table.published


def test_every_digit_and_every_character_survives():
    odd = Line(
        "a, b", 'say "no" | or –', {"average": 0.1 + 0.2, "fid": 1e-17}, {"average": (1 / 3, 2 / 3)}, {"how": 'a "b"'}
    )
    table = Table("2", "t", (ASR, FID), (odd,))
    assert read_csv(csv_text(table)) == ((odd,), ())
    (_, cells), *_ = tables_of(markdown(table))
    assert cells[:3] == ["a, b", 'say "no" | or –', 'a "b"']


def test_a_key_that_only_the_paper_has_is_kept_in_the_csv():
    table = measured("5", (ASR, FID))
    assert "image_text" in csv_text(table).splitlines()[0]
    assert read_csv(csv_text(table))[1] == PUBLISHED["5"]


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("width", [60, 80])
def test_a_terminal_is_wide_enough(name, width):
    lines = terminal(TABLES[name], width).splitlines()
    assert max(map(len, lines)) <= width
    assert all(line == line.rstrip() for line in lines)


@pytest.mark.parametrize("name", TABLES)
def test_the_terminal_shows_the_pages_cells(name):
    """Every cell, as often as on the page."""
    table = TABLES[name]
    words = terminal(table).split()
    for _, *rows in tables_of(markdown(table)):
        for cells in rows:
            for cell in cells:
                for word in cell.split():
                    words.remove(word)


def test_long_names_are_wrapped_and_not_cut():
    table = TABLES["3"]
    name = "adaptive median smoothing, local and global relevance, mean in place of the median"
    lines = tuple(replace(line, defense=f"{name} {i}") for i, line in enumerate(table.lines))
    text = terminal(replace(table, lines=lines))
    assert max(map(len, text.splitlines())) <= 80
    for word in name.split():
        assert text.count(word) >= len(lines)


@pytest.mark.parametrize("name", [name for name in TABLES if TABLES[name].published])
def test_published_figures_say_whose_they_are(name):
    table = TABLES[name]
    told = source(table.number)
    assert told in markdown(table)
    assert told in " ".join(terminal(table).split())


def test_the_pruning_papers_words_stand_in_its_table():
    assert HEADLINE in markdown(TABLES["pruning"])
    assert HEADLINE in " ".join(terminal(TABLES["pruning"]).split())


def test_wide_tables_have_the_published_ones_below_in_the_same_order():
    table = TABLES["1"]
    shuffled = replace(table, lines=tuple(sorted(table.lines, key=lambda line: (line.victim, line.defense))))
    ours, theirs = tables_of(markdown(shuffled))
    assert [row[:2] for row in theirs[1:]] == [row[:2] for row in ours[1:]]
    assert not any("published" in head for head in ours[0])


def test_narrow_tables_have_them_in_the_same_rows():
    (heads, *rows), *others = tables_of(markdown(TABLES["10"]))
    assert heads == [
        *("Model", "Defence", "ASR ↓", "ASR ↓ published", "FID ↓", "FID ↓ published"),
        *("Image–text ↑", "Image–text ↑ published"),
    ]
    assert rows[1][3] == "9.02"
    assert others == []


def test_a_published_row_that_was_not_measured_is_there():
    table = TABLES["10"]
    (_, *rows), *_ = tables_of(markdown(replace(table, lines=table.lines[1:])))
    assert rows[-1] == ["SD 1.5", "none", "–", "28.05", "–", "4.354", "–", "0.3105"]


def test_one_models_table_is_matched_by_the_defence_but_another_models_is_not():
    table = TABLES["4"]
    nameless = replace(table, lines=tuple(replace(line, victim="") for line in table.lines))
    (_, *rows), *others = tables_of(markdown(nameless))
    assert "15.03" in rows[0]
    assert others == []
    one = replace(TABLES["10"], lines=tuple(line for line in TABLES["10"].lines if line.victim == "SD 2.1"))
    (_, *rows), *_ = tables_of(markdown(one))
    assert rows[0][:2] == ["SD 2.1", "none"]
    assert rows[0][3] == "21.52"
    assert rows[len(one.lines)][2:4] == ["–", "28.05"]


def test_limits_are_printed_of_averages_or_where_there_is_none_of_every_rate():
    def cells(table: Table) -> str:
        return str(tables_of(markdown(table))[0][1:])

    with_average = cells(TABLES["1"]).count("[") - 1 - len(TABLES["1"].lines)
    assert with_average == len(TABLES["1"].lines)
    rates = sum(len(set(line.values) & {column.key for column in ATTACKS}) for line in TABLES["pruning"].lines)
    assert cells(TABLES["pruning"]).count("[") - 1 - len(TABLES["pruning"].lines) == rates


def test_a_table_of_no_rows_yet():
    table = replace(TABLES["3"], lines=())
    assert "Table 3" in markdown(table)
    assert "Table 3" in terminal(table)
    assert read_csv(csv_text(table)) == ((), PUBLISHED["3"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lines": (Line("", "none", {"fid": float("nan")}),)}, "must be finite"),
        ({"lines": (Line("", "none", {"fid": 1.0}, {"fid": (0.0, float("inf"))}),)}, "must be finite"),
        ({"lines": (Line("", "none", {"asr": 1.0}),)}, "has asr: must be among"),
        ({"lines": (Line("", "none", {"fid": 1.0}, {"average": (0.0, 1.0)}),)}, "limits of average alone"),
        ({"lines": (Line("", "none", {}), Line("", "none", {}))}, "is there twice"),
        ({"columns": (FID, FID)}, "different keys without blanks"),
        ({"columns": (Column("a b", "AB"),), "lines": ()}, "different keys without blanks"),
        ({"number": "7"}, "number = '7'"),
    ],
)
def test_bad_tables(change, message):
    table = replace(TABLES["3"], **change)
    with pytest.raises(ValueError, match=message):
        markdown(table)
    with pytest.raises(ValueError, match=message):
        terminal(table)


def test_bad_width():
    with pytest.raises(ValueError, match="width = 40: must be at least 60"):
        terminal(TABLES["3"], 40)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: [], "the head is"),
        (lambda rows: [["a"], *rows[1:]], "the head is"),
        (lambda rows: [rows[0], rows[1][:-1]], "row 2 is"),
        (lambda rows: [rows[0], ["guessed", *rows[1][1:]]], "row 2 is"),
        (lambda rows: [rows[0], rows[1], [*rows[2][:-1], "much"]], "row 3 is"),
        (lambda rows: [rows[0], [*rows[1][:3], "{", *rows[1][4:]]], "row 2 is"),
    ],
)
def test_bad_csvs(change, message):
    rows = list(csv.reader(io.StringIO(csv_text(TABLES["3"]))))
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(change(rows))
    with pytest.raises(ValueError, match=message):
        read_csv(text.getvalue())
