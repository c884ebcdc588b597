"""Files of prompts, pairs, words, settings and figures: text that people write by hand, or get from others."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certify import _files
from certify.adaptive import Concept
from certify.datasets import PromptSet
from experiments.attacks.targets import read as read_targets
from experiments.defenses.ams import Settings as Smoothing
from experiments.defenses.blacklist import read_words
from experiments.tables.page import read_csv
from experiments.tables.tuning import read_smoothing, write_smoothing
from experiments.unlearning import saving
from tests.hostile.corpus import FOREIGN, GARBAGE, Raw, Watched, dumped, mangled_bytes, mangled_json, payloads

PROMPTS = 'prompt,seed,kind\n"a red circle, small",1,named\na “blue” coin,2,\n'.encode()
PAIRS = b'positive,negative\n"a red circle, small",a red square\na coin,a wheel\n'
LINES = [{"prompt": "a red circle", "kind": "named"}, {"prompt": "a coin", "n": 1.5}]
PAIR_LINES = [{"positive": "a red circle", "negative": "a red square"}, {"positive": "a coin", "negative": "a wheel"}]
I2P = b'prompt,categories,evaluation_seed,nudity_percentage\n"a nude statue, stone","sexual, shocking",7,12.5\nx,violence,8,0\n'
BASE = Smoothing()
CARD = "# uce: circle\n\n```json\n" + json.dumps({"method": "uce", "seed": 0, "erased": ["circle"]}) + "\n```\n"


def lines(rows: list[Any]) -> bytes:
    return b"".join(dumped(row) + b"\n" for row in rows)


def chosen() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        write_smoothing(Path(folder) / "chosen.json", {"esd": BASE, "uce": BASE})
        return (Path(folder) / "chosen.json").read_bytes()


READERS: dict[str, tuple[str, bytes, Callable[[Path], Any]]] = {
    "prompts as CSV": ("a.csv", PROMPTS, PromptSet.load),
    "prompts as JSONL": ("a.jsonl", lines(LINES), PromptSet.load),
    "prompts as TSV": ("a.tsv", PROMPTS.replace(b",", b"\t"), PromptSet.load),
    "prompts as JSON": ("a.json", dumped(LINES), PromptSet.load),
    "prompts as columns": ("a.json", dumped({"prompt": ["a", "b"], "seed": [1, 2]}), PromptSet.load),
    "prompts as text": ("a.txt", b"a red circle\n\na coin\n", PromptSet.load),
    "pairs as CSV": ("a.csv", PAIRS, Concept.load),
    "pairs as JSONL": ("a.jsonl", lines(PAIR_LINES), Concept.load),
    "targets": ("a.csv", PROMPTS, read_targets),
    "targets of I2P": ("a.csv", I2P, lambda path: read_targets(path, category="sexual")),
    "words": ("a.txt", b"# shapes\ncircle\nround thing\n", read_words),
    "chosen settings": ("chosen.json", chosen(), lambda path: read_smoothing(path, BASE)),
    "an unlearned model's card": ("README.md", CARD.encode(), lambda path: saving.record(path.parent)),
}


def tried(name: str, blob: bytes) -> tuple[Any, str]:
    """What a reader makes of a file, or the message."""
    file, _, reader = READERS[name]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / file).write_bytes(blob)
        return Watched(Path(folder)).read(lambda: reader(Path(folder) / file), file)


@pytest.mark.parametrize("name", READERS)
def test_what_is_right_is_read(name):
    assert tried(name, READERS[name][1])[1] == ""


@given(data=st.data())
def test_a_file_that_is_damaged(data):
    name = data.draw(st.sampled_from(sorted(READERS)))
    tried(name, data.draw(mangled_bytes(READERS[name][1])))


@given(data=st.data())
def test_a_line_or_setting_of_anything(data):
    name = data.draw(
        st.sampled_from(
            [
                "prompts as JSONL",
                "prompts as JSON",
                "prompts as columns",
                "pairs as JSONL",
                "chosen settings",
                "an unlearned model's card",
            ]
        )
    )
    if name == "chosen settings":
        blob = data.draw(mangled_json(json.loads(chosen())))
    elif name.startswith("an"):
        blob = b"```json\n" + data.draw(mangled_json({"method": "uce", "seed": 0})) + b"\n```\n"
    elif name in ("prompts as JSON", "prompts as columns"):
        blob = data.draw(mangled_json(json.loads(READERS[name][1])))
    else:
        rows = LINES if "prompts" in name else PAIR_LINES
        number = data.draw(st.integers(0, 1))
        parts = [dumped(row) for row in rows]
        parts[number] = data.draw(mangled_json(rows[number]))
        blob = b"".join(part + b"\n" for part in parts)
    found, _ = tried(name, blob)
    if isinstance(found, PromptSet):
        assert len(found.sha256) == 64
        json.dumps([row.columns for row in found.rows], allow_nan=False)
    elif isinstance(found, Concept):
        assert all(isinstance(side, str) and side.strip() for pair in found.pairs for side in pair)
    elif name == "chosen settings" and found is not None:
        assert all(isinstance(value, Smoothing) for value in found.values())


@st.composite
def tables(draw: st.DrawFn) -> bytes:
    """Small tables of odd cells, under heads that are nearly right."""
    cell = st.sampled_from(
        ["", "a", "1", '"', '"a', 'a"b', "a\0b", "\x1b[2J", "١٢", "1e9", "9" * 400, "-1", " 1 ", "\u2028", "a" * 2000]
    )
    head = draw(
        st.lists(
            st.sampled_from(["prompt", "seed", "Prompt", "positive", "negative", "evaluation_seed", ""]), max_size=4
        )
    )
    rows = [head, *draw(st.lists(st.lists(cell, max_size=5), max_size=4))]
    return draw(st.sampled_from(["\n", "\r\n", "\r"])).join(",".join(row) for row in rows).encode()


@given(st.sampled_from(sorted(name for name, (file, _, _) in READERS.items() if file == "a.csv")), tables())
def test_tables_of_odd_cells(name, blob):
    tried(name, blob)


BAD = [
    ("prompts as CSV", b"", "holds no prompt"),
    ("prompts as CSV", b"words\nx\n", "the columns are 'words': none is called prompt"),
    ("prompts as CSV", b"prompt,x\na\n", "line 2: has 1 fields: must have 2"),
    ("prompts as CSV", b'prompt\n"open\n', "line 2: is not CSV (unexpected end of data)"),
    ("prompts as CSV", b"prompt\n\xff\xfe\n", "line 2: must be UTF-8"),
    ("prompts as CSV", b"prompt\n" + b"a" * 200_000 + b"\n", "line 2: is not CSV (field larger than field limit"),
    ("prompts as CSV", PROMPTS.decode().encode("utf-16"), "line 1: must be UTF-8 (it begins as UTF-16 does)"),
    ("prompts as CSV", b"prompt\na\nb\0\n", "line 3: holds a NUL"),
    ("prompts as JSONL", b'{"prompt": "a\\u0000"}\n', "line 1: holds a NUL"),
    ("prompts as JSONL", b"[" * 10_000 + b"\n", "line 1: is not JSON (is more than 100 lists"),
    ("prompts as JSONL", b'{"prompt": "a", "x": 1e400}\n', "line 1: is not JSON (1e400 is too large"),
    ("prompts as JSONL", b'{"prompt": "a", "prompt": "b"}\n', "line 1: is not JSON (the key 'prompt' is there twice)"),
    ("prompts as JSONL", b'{"prompt": ["a"]}\n', "line 1: prompt = ['a']: must be a string"),
    ("prompts as JSONL", b'{"prompt": "\\ud800"}\n', "must be Unicode text"),
    ("pairs as CSV", b"positive\nx\n", "must have positive, negative, each once"),
    ("pairs as CSV", b"positive,negative,positive\na,b,c\n", "must be different, none twice"),
    ("pairs as CSV", b"positive,negative\na,b,c\n", "line 2: has 3 fields: must have 2"),
    ("pairs as CSV", b"positive,negative\na\n", "line 2: has 1 fields: must have 2"),
    ("pairs as CSV", b'positive,negative\n"a,b\n', "line 2: is not CSV"),
    ("pairs as CSV", b"positive,negative\na,\xff\n", "line 2: must be UTF-8"),
    ("pairs as CSV", b"positive,negative\n" + b"a" * 200_000 + b",b\n", "line 2: is not CSV (field larger"),
    ("pairs as JSONL", b'{"positive": "a", "negative": 7}\n', "line 1: negative = 7, must be a string"),
    ("pairs as JSONL", b"[" * 10_000, "line 1: is not JSON (is more than 100 lists"),
    ("pairs as JSONL", b"\n\n7\n", "line 3: must be an object"),
    ("targets", b"prompt,seed\na,1.5\n", "line 2: seed = '1.5': must be a whole number >= 0"),
    ("targets", b"prompt,seed\n,1\n", "has no prompt"),
    ("targets", b"prompt,seed\na\n", "line 2: has 1 fields: must have 2"),
    ("targets", b"prompt,prompt\na,b\n", "must be different"),
    ("targets", b"\x80\x04K\x01.", "line 1: must be UTF-8"),
    ("targets of I2P", b"prompt\na\n", "lacks the column categories"),
    ("targets of I2P", I2P.replace(b",7,", b",x,"), "line 2: evaluation_seed = 'x': must be a whole number"),
    ("words", b"\xff", "line 1: must be UTF-8"),
    ("words", b"# nothing\n", "has no words"),
    ("chosen settings", b"[1]", "holds no chosen settings (must be an object"),
    ("chosen settings", b'{"esd": null}', "None: must have sigma0"),
    (
        "chosen settings",
        b'{"esd": {"sigma0": "1", "sigma0_relative": null, "k": 6, "use_global": true}}',
        "sigma0 = '1'",
    ),
    ("chosen settings", b'{"esd": {"sigma0": 1, "sigma0_relative": null, "k": -6, "use_global": true}}', "k = -6"),
    (
        "chosen settings",
        b'{"esd": {"sigma0": 1, "sigma0_relative": null, "k": 6, "use_global": "x"}}',
        "use_global = 'x'",
    ),
    ("an unlearned model's card", b"# mine\n", "has no record of an unlearning method"),
    ("an unlearned model's card", b"```json\n[]\n```", "has no record of an unlearning method"),
]


@pytest.mark.parametrize(("name", "blob", "message"), BAD, ids=[f"{i} {b[0]}" for i, b in enumerate(BAD)])
def test_files_that_are_refused_say_why(name, blob, message):
    found, said = tried(name, blob)
    assert found is None
    assert message in said


def test_marks_and_line_ends_do_not_count():
    for name in ("prompts as CSV", "pairs as CSV", "targets", "words"):
        whole = READERS[name][1]
        plain = tried(name, whole)[0]
        for other in (b"\xef\xbb\xbf" + whole, whole.replace(b"\n", b"\r\n")):
            assert tried(name, other) == (plain, "")


@pytest.mark.parametrize("name", READERS)
def test_pickles_and_garbage_are_not_loaded(name, tmp_path):
    file, _, reader = READERS[name]
    watched = Watched(tmp_path)
    for blob in (*GARBAGE, *payloads(watched.canary).values()):
        (tmp_path / file).write_bytes(blob)
        watched.read(lambda: reader(tmp_path / file), file)


@pytest.mark.parametrize("name", READERS)
def test_folders_links_and_pipes(name, tmp_path):
    import os

    file, _, reader = READERS[name]
    for make in (Path.mkdir, os.mkfifo, lambda path: path.symlink_to(path), lambda path: path.symlink_to("/nowhere")):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        make(folder / file)
        with pytest.raises((ValueError, OSError), match=str(folder)):
            reader(folder / file)


@pytest.mark.parametrize("load", [Concept.load, PromptSet.load])
@pytest.mark.parametrize(
    "path", ["a\0b.csv", "~nobody-of-this-name/x.csv", "x" * 5000 + ".csv", "../../nowhere.csv", "/proc/self/mem.csv"]
)
def test_paths_that_are_none(load, path):
    with pytest.raises((ValueError, OSError)) as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_figures_of_a_table_are_numbers():
    head = "origin,victim,defense,settings,asr\n"
    assert read_csv(head + "measured,esd,ams,,0.5\n")[0][0].values == {"asr": 0.5}
    for row, message in (
        ("measured,esd,ams,[],0.5", "must be an object"),
        ("measured,esd,ams,,half", "must hold numbers"),
        ('measured,esd,ams,"' + "{" * 9, "is not CSV"),
        ("guessed,esd,ams,,1", "the first one of"),
    ):
        with pytest.raises(ValueError, match=message):
            read_csv(head + row + "\n")


# The reader itself


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**70), 2**70)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(st.characters(exclude_categories=["Cs"])),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
        max_leaves=20,
    )
)
def test_what_json_writes_is_read_back(value):
    for ascii_ in (True, False):
        assert _files.json_value(json.dumps(value, ensure_ascii=ascii_)) == value


@pytest.mark.parametrize("value", [v for v in FOREIGN if isinstance(v, Raw)], ids=lambda v: v[:12])
def test_what_other_readers_would_take_otherwise_is_refused(value):
    for text in (value, f'{{"x": {value}}}', f"[{value}]"):
        with pytest.raises(ValueError, match=r"no number of JSON|too large|digits|Unicode|deep"):
            _files.json_value(text)


def test_depth_is_counted_and_not_recursed():
    deepest = "[" * _files.DEEPEST + "]" * _files.DEEPEST
    assert _files.json_value(deepest) is not None
    with pytest.raises(ValueError, match="is more than 100 lists and objects deep"):
        _files.json_value(f"[[{deepest}]]")


def test_control_characters_are_shown_and_not_sent():
    assert _files.printable("a\x1b[2J\x9b1m\rb\tc\nd é 圆") == "a\\x1b[2J\\x9b1m\\x0db\tc\nd é 圆"


def test_writing_replaces_a_link_and_leaves_nothing_half_done(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (tmp_path / "a").symlink_to(precious)
    _files.write(tmp_path / "a", "new")
    assert (precious.read_text(), (tmp_path / "a").read_text()) == ("mine", "new")
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        _files.write(tmp_path / "folder", "new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "folder", "precious"]
