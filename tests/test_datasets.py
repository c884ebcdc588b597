"""Data sets: what is read and refused, what is kept and what is put back after a kill, what the fraction counts."""

from __future__ import annotations

import json
import math

import pytest

from certify.datasets import (
    PromptRow,
    PromptSet,
    Results,
    RowOptions,
    RunRecord,
    certified_fraction,
    certify_row,
    row_seed,
    summary,
)
from certify.datasets.records import FORMAT
from certify.plots import plot_certified_fraction

SETTINGS = {"model": "a", "n": 64}


def load(folder, name, text):
    file = folder / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return PromptSet.load(file)


@pytest.fixture
def data(tmp_path):
    return load(tmp_path, "three.txt", "a red circle\na blue square\na red circle\n")


def record(number, **more):
    return {"row": number, "line": number, "status": "certified", "radius": 0.5 * number, "seconds": 0.1, **more}


# Reading


def test_csv_keeps_other_columns_and_knows_where_rows_begin(tmp_path):
    text = '\ufeffkind,Prompt\r\nnamed,"a circle, red"\r\n\r\nsplit,"two\r\nlines"\r\nempty,\r\n'
    rows = load(tmp_path, "a.csv", text).rows
    assert [(r.number, r.line, r.prompt, r.columns) for r in rows] == [
        (1, 2, "a circle, red", {"kind": "named"}),
        (2, 4, "two\r\nlines", {"kind": "split"}),
        (3, 6, "", {"kind": "empty"}),
    ]


def test_jsonl_splits_at_line_ends_only(tmp_path):
    lines = [{"prompt": "a\u2028circle", "kind": 3}, {"prompt": "a circle"}, {"prompt": "a circle"}]
    text = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    rows = load(tmp_path, "a.jsonl", text).rows
    assert [(r.prompt, r.columns) for r in rows] == [("a\u2028circle", {"kind": 3}), ("a circle", {}), ("a circle", {})]


def test_text_is_a_prompt_a_line(tmp_path):
    rows = load(tmp_path, "a.txt", "a circle\r\n\r\n  a, b  \n").rows
    assert [(r.number, r.line, r.prompt) for r in rows] == [(1, 1, "a circle"), (2, 3, "a, b")]


def test_a_file_named_as_the_key_of_a_private_run_stays(tmp_path, data):
    for private in (False, True):
        folder = tmp_path / str(private)
        with Results(folder, {**SETTINGS, "private": private}, data) as results:
            assert (folder / "private.json").exists() is private
            if not private:
                (folder / "private.json").write_text("mine")
            for number in (1, 2, 3):
                results.append(record(number))
        assert (folder / "private.json").exists() is not private


def test_the_digest_is_of_the_content(tmp_path):
    digest = load(tmp_path, "a.csv", "prompt,kind\na circle,x\n").sha256
    assert load(tmp_path, "b.csv", "\ufeffprompt,kind\r\n\r\na circle,x\r\n").sha256 == digest
    assert load(tmp_path, "c.csv", "prompt,kind\na circle,y\n").sha256 != digest


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "words\na circle\n", "line 1: the columns are 'words': none is called prompt, text"),
        ("a.csv", "prompt,x,x\na,b,c\n", "none twice"),
        ("a.csv", "prompt,kind\na,b\n\na circle, red,named\n", "line 4: has 3 fields: must have 2.*quotation marks"),
        ("a.csv", "prompt,kind\na circle\n", "line 2: has 1 fields: must have 2"),
        ("a.csv", 'prompt\nred\n"a circle\n', "line 3: is not CSV"),
        ("a.csv", "prompt,kind\n", "holds no prompt"),
        ("a.csv", b"prompt\nred\n\xff\n", "line 3: must be UTF-8"),
        ("a.jsonl", '{"prompt": "a"}\n{"prompt"\n', "line 2: is not JSON"),
        ("a.jsonl", '{"prompt": "a"}\n\n{"text": "a"}\n', "line 3: must be an object with 'prompt'; it has 'text'"),
        ("a.jsonl", '["a"]\n', "line 1: must be an object"),
        ("a.jsonl", '{"prompt": 7}\n', "line 1: prompt = 7: must be a string"),
        ("a.jsonl", '{"prompt": "a", "x": NaN}\n', "line 1: is not JSON .NaN is no number"),
        ("a.jsonl", '{"prompt": "\\ud800"}\n', "line 1: is not JSON .* must be Unicode text"),
        ("a.json", '[{"prompt": "a", "x": 1}, {"prompt": "b", "x": NaN}]', "entry 2: is not JSON .NaN is no number"),
        ("a.json", '{"rows": [{"prompt": "a", "x": [1e999]}]}', "entry 1: is not JSON .1e999 is too large|Infinity"),
        ("a.tsv", 'prompt\tx\n"a\tb\tc\n', "line 2: is not CSV|line 2: has"),
        ("a.txt", "\n \n", "holds no prompt"),
        ("a.xlsx", "prompt\na\n", "must end in .csv, .tsv, .json, .jsonl or .txt"),
    ],
)
def test_broken_files_are_refused_with_the_line(tmp_path, name, text, message):
    with pytest.raises(ValueError, match=message.replace("[", r"\[").replace("]", r"\]")):
        load(tmp_path, name, text)


def test_a_tsv_may_have_quotation_marks_as_they_are(tmp_path):
    """A field that began with one was refused, or joined with what follows up to another."""
    text = 'prompt\tkind\n"Sunset" by a painter\tx\n"a 5" disc\ty\na disc\t"z\n'
    rows = load(tmp_path, "a.tsv", text).rows
    assert [(r.prompt, r.columns["kind"]) for r in rows] == [
        ('"Sunset" by a painter', "x"),
        ('"a 5" disc', "y"),
        ("a disc", '"z'),
    ]
    (row,) = load(tmp_path, "b.tsv", 'prompt\tkind\n"a ""red""\tdisc"\tx\n').rows
    assert row.prompt == 'a "red"\tdisc'


def test_every_column_of_prompts_that_was_not_taken_is_named(tmp_path):
    (tmp_path / "a.csv").write_text("prompt,adv_prompt,sanitized_adv_prompt,prompt_id\na,b,c,1\n")
    found = PromptSet.load(tmp_path / "a.csv", purpose="adversarial")
    assert (found.column, found.others) == ("adv_prompt", ("prompt", "sanitized_adv_prompt"))


@pytest.mark.parametrize("column", [-1, 2, "2"])
def test_an_index_of_no_column(tmp_path, column):
    (tmp_path / "a.csv").write_text("prompt,x\na,b\n")
    with pytest.raises(ValueError, match=rf"column = {column!r}: must be an index from 0 to 1$"):
        PromptSet.load(tmp_path / "a.csv", column)


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        PromptSet.load(tmp_path / "a.csv")


# Keeping


def test_records_come_back(tmp_path, data):
    with Results(tmp_path / "a", SETTINGS, data) as results:
        results.append(record(1))
        results.append(record(2, radius="Infinity"))
        with pytest.raises(ValueError, match="row 2: must be of row 3"):
            results.append(record(2))
    with Results(tmp_path / "a", SETTINGS, data) as results:
        assert [r["radius"] for r in results.done] == [0.5, "Infinity"]


@pytest.mark.parametrize("torn", [b'{"row": 2, "stat', b'{"row": 2}', b"\0\0\0\n"])
def test_a_torn_last_line_is_dropped(tmp_path, data, torn):
    with Results(tmp_path / "a", SETTINGS, data) as results:
        results.append(record(1))
    file = tmp_path / "a" / "results.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole + torn)
    with Results(tmp_path / "a", SETTINGS, data) as results:
        assert file.read_bytes() == whole
        results.append(record(2))
    assert len(file.read_bytes().splitlines()) == 2


def test_the_file_can_be_gone_on_from_wherever_it_is_cut(tmp_path, data):
    with Results(tmp_path / "a", SETTINGS, data) as results:
        for number in (1, 2, 3):
            results.append(record(number))
    file = tmp_path / "a" / "results.jsonl"
    whole = file.read_bytes()
    for cut in range(0, len(whole), 7):
        file.write_bytes(whole[:cut])
        with Results(tmp_path / "a", SETTINGS, data) as results:
            assert len(results.done) == whole[:cut].count(b"\n")
            for number in range(len(results.done) + 1, 4):
                results.append(record(number))
        assert file.read_bytes() == whole


def test_whoever_reads_a_run_finds_the_rows_that_its_writer_does(tmp_path, data):
    settings = {**SETTINGS, "format": FORMAT}
    with Results(tmp_path / "a", settings, data) as results:
        for number in (1, 2, 3):
            results.append(record(number))
    file = tmp_path / "a" / "results.jsonl"
    whole = file.read_bytes()
    first = whole.index(b"\n") + 1
    for content in (whole[:first] + b"\0\0\n", *(whole[:cut] for cut in range(first, len(whole), 7))):
        file.write_bytes(content)
        read = RunRecord.load(tmp_path / "a").rows
        with Results(tmp_path / "a", settings, data) as results:
            assert read == tuple(results.done)


def test_results_of_another_run_are_refused_and_left_alone(tmp_path, data):
    with Results(tmp_path / "a", SETTINGS, data) as results:
        results.append(record(1))
    with Results(tmp_path / "b", {**SETTINGS, "n": 65}, data) as results:
        results.append(record(1))
    file = tmp_path / "a" / "results.jsonl"
    before = file.read_bytes()
    for settings, named in (
        ({**SETTINGS, "n": 65}, r"\(n differs\)"),
        ({"n": 65, "rho": 1}, r"\(n, rho, model differ\)"),
    ):
        with pytest.raises(ValueError, match="another run " + named):
            Results(tmp_path / "a", settings, data)
    assert file.read_bytes() == before
    file.write_bytes((tmp_path / "b" / "results.jsonl").read_bytes())
    with pytest.raises(ValueError, match="line 1: is damaged or of another run"):
        Results(tmp_path / "a", SETTINGS, data)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda lines: [lines[0][:-1], *lines[1:]],  # not JSON, and not last
        lambda lines: [lines[1], lines[0], lines[2]],
        lambda lines: lines[1:],
        lambda lines: [*lines, lines[2].replace(b'"row": 3', b'"row": 4')],  # more rows than the data has
    ],
)
def test_damaged_results_are_refused_and_left_alone(tmp_path, data, spoil):
    with Results(tmp_path / "a", SETTINGS, data) as results:
        for number in (1, 2, 3):
            results.append(record(number))
    file = tmp_path / "a" / "results.jsonl"
    spoiled = b"\n".join([*spoil(file.read_bytes().splitlines()), b""])
    file.write_bytes(spoiled)
    with pytest.raises(ValueError, match="is damaged or of another run"):
        Results(tmp_path / "a", SETTINGS, data)
    assert file.read_bytes() == spoiled


def test_damaged_or_missing_settings_are_refused(tmp_path, data):
    with Results(tmp_path / "a", SETTINGS, data):
        pass
    settings = tmp_path / "a" / "settings.json"
    content = json.loads(settings.read_text())
    for text in ("{", "[]", json.dumps({**content, "digest": "0"})):
        settings.write_text(text)
        with pytest.raises(ValueError, match="is damaged"):
            Results(tmp_path / "a", SETTINGS, data)
    settings.unlink()
    with pytest.raises(ValueError, match="without settings"):
        Results(tmp_path / "a", SETTINGS, data)
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError, match="must be a folder"):
        Results(tmp_path / "file", SETTINGS, data)


def test_two_writers_are_refused(tmp_path, data):
    pytest.importorskip("fcntl")
    with Results(tmp_path / "a", SETTINGS, data), pytest.raises(ValueError, match="another process is writing"):
        Results(tmp_path / "a", SETTINGS, data)
    with Results(tmp_path / "a", SETTINGS, data):
        pass


# Counting


def test_rows_have_seeds_of_their_own():
    seeds = {row_seed(seed, number) for seed in range(20) for number in range(1, 200)}
    assert len(seeds) == 20 * 199
    assert max(seeds) < 2**48


def test_the_fraction_counts_those_without_a_radius():
    radii = [0.0, 0.5, 1.0, math.inf]
    assert [certified_fraction(radii, rho) for rho in (1e-9, 0.5, 0.500001, 1.0, 7.0)] == [0.75, 0.75, 0.5, 0.5, 0.25]
    for wrong, rho in (([], 1.0), ([-1.0], 1.0), ([math.nan], 1.0), ([1.0], 0.0)):
        with pytest.raises(ValueError, match=r"radii = |rho = "):
            certified_fraction(wrong, rho)


def test_the_summary_adds_up():
    records = [
        record(1),
        record(2, radius=2.0),
        record(3, radius=0.0, status="abstained"),
        record(4, radius=0.0, status="refused"),
    ]
    total = summary(records, RowOptions(rho=0.3, alpha=0.01))
    assert [total[name] for name in ("prompts", "certified", "abstained", "refused")] == [4, 2, 1, 1]
    fractions = dict(map(tuple, total["certified_fraction"]))
    assert (fractions[0.3], fractions[0.5], fractions[0.75], fractions[2.0], fractions[2.5]) == (
        0.5,
        0.5,
        0.25,
        0.25,
        0,
    )
    assert total["average_certified_radius"] == pytest.approx(2.5 / 4)
    assert total["expected_wrong"] == pytest.approx(0.03)


def test_the_figure_steps_at_the_radii():
    (line,) = plot_certified_fraction([0.0, 0.5, 1.0, 1.0]).axes[0].get_lines()
    assert line.get_drawstyle() == "steps-pre"  # a value holds up to its radius
    assert list(zip(line.get_xdata(), line.get_ydata(), strict=True))[:4] == [(0, 0.75), (0.5, 0.75), (1, 0.5), (1, 0)]
    for radii, last in (([0.0, 0.0], 0.0), ([0.0, 1.0, math.inf], 1 / 3), ([math.inf], 1.0)):
        axes = plot_certified_fraction(radii).axes[0]
        line, *arrows = axes.get_lines()
        assert len(arrows) == radii.count(math.inf)  # behind the last finite radius, where one is infinite
        assert (line.get_xdata()[-1], line.get_ydata()[-1]) == (axes.get_xlim()[1], last)
    for call in (
        lambda: plot_certified_fraction(),
        lambda: plot_certified_fraction([]),
        lambda: plot_certified_fraction([-1]),
    ):
        with pytest.raises(ValueError, match="radii = "):
            call()
    with pytest.raises(ValueError, match="must be 1 entries, one a line"):
        plot_certified_fraction([1.0], labels=["a", "b"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rho": 0.0}, "rho = "),
        ({"tolerance": -1.0}, "tolerance = "),
        ({"n": 0}, "n = "),
        ({"alpha": 1.0}, "alpha = "),
        ({"seed": -1}, "seed = "),
        ({"statistics": -1}, "statistics = "),
        ({"images": 5}, "must have a detector"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        RowOptions(**options)


# Certifying


@pytest.fixture(scope="module")
def encoder():
    from certify.models import load_text_encoder

    return load_text_encoder(None)


def smoother(encoder, **options):
    from certify import world
    from certify.adaptive import AdaptiveMedianSmoother

    return AdaptiveMedianSmoother.from_encoder(encoder, ["circle"], **{**world.SMOOTHING, **options})


def test_a_row_is_its_prompts_certificate(encoder):
    adaptive = smoother(encoder)
    options = RowOptions(n=100, seed=3)
    found, certificate = certify_row(adaptive, PromptRow(7, 8, "a red circle", {"kind": "x"}), options)
    same = adaptive.certify("a red circle", n=100, seed=row_seed(3, 7), rhos=None, statistics=0, images=0)
    assert certificate.claims == same.claims
    by = {c.quantity: c for c in same.claims}
    assert (found["radius"], found["bound"]) == (by["radius"].rho, by["mse"].value)
    assert found["tolerance"] == found["yardstick"]["distance"] == same.provenance["yardstick"]["distance"]
    assert (found["status"], found["columns"], found["seed"]) == ("certified", {"kind": "x"}, row_seed(3, 7))
    assert found["alpha"] == pytest.approx(1e-3)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    tight, _ = certify_row(adaptive, PromptRow(7, 8, "a red circle"), RowOptions(n=100, seed=3, tolerance=1e-9))
    assert (tight["status"], tight["radius"], tight["tolerance"]) == ("abstained", 0.0, 1e-9)
    assert "tolerance" in tight["reason"]


def test_prompts_that_cannot_be_certified_are_refused(encoder):
    adaptive = smoother(encoder)
    for prompt, reason in (("", "empty"), ("  ", "empty"), ("circle " * 40, "must have at most 20")):
        found, certificate = certify_row(adaptive, PromptRow(1, 1, prompt), RowOptions(n=64))
        assert (found["status"], found["radius"], certificate) == ("refused", 0.0, None)
        assert reason in found["reason"]
    found, _ = certify_row(
        adaptive, PromptRow(1, 1, "circle " * 40, {"noun": "circle"}), RowOptions(n=64, private=True)
    )
    assert "circle" not in json.dumps(found)


def test_with_a_memory_the_radius_is_the_curves(encoder, tmp_path):
    adaptive = smoother(encoder, policy="memory", memory=tmp_path / "regions")
    rows = [PromptRow(1, 1, "a red circle"), PromptRow(2, 2, "a red circle")]
    first, certificate = certify_row(adaptive, rows[0], RowOptions(n=100))
    inside = [c.rho for c in certificate.curve.points if c.value is not None and c.value <= first["tolerance"]]
    assert first["radius"] == max(inside) > 0
    wider, _ = certify_row(adaptive, rows[1], RowOptions(n=100, rho=5.0))  # the stored region is smaller
    assert (wider["status"], "has room for" in wider["reason"]) == ("refused", True)
