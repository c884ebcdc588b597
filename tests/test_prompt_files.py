"""Prompt files as they were published: each layout is read to the same prompts, and what cannot be told is refused."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certify.adaptive import Concept
from certify.datasets.prompt_files import PromptSet

PROMPTS = ["a red circle, small", "two\nlines", 'it says "coin"', "naïve — 圆"]


def delimited(columns: list[str], rows: list[list[Any]], delimiter: str = ",", **options: Any) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, **options)
    writer.writerows([columns, *rows] if columns else rows)
    return text.getvalue()


def table(prompt: str, before: list[str], after: list[str], **options: Any) -> str:
    rows = [[*map(str, range(len(before))), text, *(f"x{i}" for i in range(len(after)))] for text in PROMPTS]
    return delimited([*before, prompt, *after], rows, **options)


I2P = [
    "categories", "hard", "inappropriate_percentage", "nudity_percentage", "q16_percentage", "sd_safety_percentage",
    "prompt_toxicity", "lexica_url", "sd_seed", "sd_guidance_scale", "sd_image_width", "sd_image_height", "sd_model",
]  # fmt: skip
OBJECTS = [{"prompt": text, "label": {"violence": ["reason"]}} for text in PROMPTS]

# name: (ending, content, options of load, the column that is taken)
LAYOUTS: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "I2P": (".csv", table("prompt", [], I2P), {}, "prompt"),
    "I2P, the tests' copy": (
        ".csv", table("prompt", ["", "case_number"], ["evaluation_seed", "evaluation_guidance"]), {}, "prompt"
    ),
    "UnlearnDiffAtk, with pandas's index": (
        ".csv", table("prompt", ["", "Unnamed: 0"], ["evaluation_seed", "classification"]), {}, "prompt"
    ),
    "MMA": (".csv", table("adv_prompt", ["target_prompt"], []), {"purpose": "adversarial"}, "adv_prompt"),
    "MMA, what it began with": (".csv", table("target_prompt", [], ["adv_prompt"]), {"purpose": "benign"}, "target_prompt"),
    "MMA, by name": (".csv", table("adv_prompt", ["target_prompt"], []), {"column": "ADV prompt"}, "adv_prompt"),
    "ours": (".csv", table("adversarial", ["attack", "prompt", "seed"], ["found"]), {"purpose": "adversarial"}, "adversarial"),
    "Ring-A-Bell": (".csv", table("sensitive prompt", [""], []), {}, "sensitive prompt"),
    "HUB, no header": (".csv", delimited([], [[text] for text in PROMPTS]), {"column": 0}, "0"),
    "HUB, no header, the second": (".csv", delimited([], [["x", text] for text in PROMPTS]), {"column": "1"}, "1"),
    "HUB, a column a language": (".csv", table("English", ["German"], ["French"]), {"column": "english"}, "English"),
    "by index under a header": (".csv", table("prompt", ["id"], []), {"column": 1}, "prompt"),
    "semicolons": (".csv", table("Prompt", [], ["seed"], delimiter=";"), {}, "Prompt"),
    "tabs in a .csv": (".csv", table("caption", ["id"], [], delimiter="\t"), {}, "caption"),
    "tabs": (".tsv", table("text", ["id"], [], delimiter="\t"), {}, "text"),
    "quotation marks everywhere": (".csv", table("prompt", [], ["seed"], quoting=csv.QUOTE_ALL), {}, "prompt"),
    "byte-order mark": (".csv", "\ufeff" + table("prompt", [], []), {}, "prompt"),
    "T2I-RiskyPrompt": (".json", json.dumps(OBJECTS), {}, "prompt"),
    "texts": (".json", json.dumps(PROMPTS, ensure_ascii=False, indent=1), {}, "0"),
    "texts under a name": (".json", json.dumps({"version": 1, "prompts": PROMPTS}), {}, "prompts"),
    "objects under a name": (".json", json.dumps({"data": OBJECTS, "by": "us"}), {}, "prompt"),
    "objects by number": (".json", json.dumps(dict(enumerate(OBJECTS))), {}, "prompt"),
    "columns": (".json", json.dumps({"prompt": PROMPTS, "seed": [1, 2, 3, 4]}), {}, "prompt"),
    "pandas's columns": (
        ".json", json.dumps({"seed": dict(enumerate("abcd")), "prompt": dict(enumerate(PROMPTS))}), {}, "prompt"
    ),
    "JSON lines": (".jsonl", "\n".join(map(json.dumps, OBJECTS)), {}, "prompt"),
    "JSON lines under another ending": (".json", "\n".join(map(json.dumps, OBJECTS)), {}, "prompt"),
    "texts as JSON lines": (".jsonl", "\n".join(map(json.dumps, PROMPTS)), {}, "0"),
}  # fmt: skip


def load(content: str | bytes, ending: str = ".csv", **options: Any) -> PromptSet:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"a{ending}"
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return PromptSet.load(file, **options)


@pytest.mark.parametrize("name", LAYOUTS)
def test_published_layouts(name):
    ending, content, options, column = LAYOUTS[name]
    found = load(content, ending, **options)
    assert [row.prompt for row in found.rows] == PROMPTS
    assert (found.column, found.named) == (column, not column.isdecimal())


def test_what_was_taken_is_said_and_on_record():
    found = load(LAYOUTS["MMA"][1], purpose="adversarial")
    assert str(found) == "prompts of a.csv: column “adv_prompt”, not “target_prompt”"
    record = {name: found.source[name] for name in ("name", "rows", "column", "other_columns")}
    assert record == {"name": "a.csv", "rows": 4, "column": "adv_prompt", "other_columns": ["target_prompt"]}
    bare = load("a coin\nred, blue\n".replace(", ", " "), column=0)
    assert str(bare) == "prompts of a.csv: no header, column 0; the first prompt is in line 1"
    assert load("a coin\n", ".txt").rows[0].prompt == "a coin"


def test_the_other_columns_are_kept():
    found = load('id,prompt,seed\n7,"a, b",4068.0\n')
    assert found.rows[0].columns == {"id": "7", "seed": "4068.0"}
    assert load(json.dumps([{"prompt": None, "seed": 3}]), ".json").rows[0].prompt == ""  # an empty cell of pandas


@pytest.mark.parametrize("purpose", [None, "adversarial", "benign"])
@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".json"])
@given(
    prompts=st.lists(
        st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)
        | st.text(st.sampled_from(",;\t|\"\n\r 'aé—圆"), max_size=12),
        min_size=1,
        max_size=6,
    ),
    seed=st.integers(0, 9),
)
def test_what_is_written_is_read(purpose, ending, prompts, seed):
    rows = [[str(seed), text, "z"] for text in prompts]
    objects = [{"seed": seed, "Prompt": text, "kind": "z"} for text in prompts]
    content = {
        ".csv": lambda: delimited(["seed", "Prompt", "kind"], rows),
        ".tsv": lambda: delimited(["seed", "Prompt", "kind"], rows, delimiter="\t"),
        ".jsonl": lambda: "\n".join(json.dumps(row, ensure_ascii=bool(seed % 2)) for row in objects),
        ".json": lambda: json.dumps(objects, ensure_ascii=bool(seed % 2)),
    }[ending]()
    assert [row.prompt for row in load(content, ending, purpose=purpose).rows] == prompts


@given(
    st.lists(
        st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20),
        min_size=1,
        max_size=6,
    ),
    st.booleans(),
)
def test_without_a_header(prompts, as_text):
    content = delimited([], [[text] for text in prompts], quoting=csv.QUOTE_ALL if as_text else csv.QUOTE_MINIMAL)
    assert [row.prompt for row in load(content, column=0).rows] == prompts


def test_a_comma_in_a_prompt_is_no_delimiter_and_neither_is_a_semicolon():
    assert [r.prompt for r in load("a photo; prompt\nanother\n", column=0).rows] == ["a photo; prompt", "another"]
    with pytest.raises(
        ValueError, match="line 2: has 2 fields: must have 1, as the header; a field with the delimiter"
    ):
        load("prompt\na circle, red\n")


REFUSED: list[tuple[str | bytes, str, dict[str, Any], str]] = [
    (
        "target_prompt,adv_prompt\na,b\n",
        ".csv",
        {},
        "line 1: prompts are in the columns 'target_prompt', 'adv_prompt': say",
    ),
    (
        "prompt,caption\na,b\n",
        ".csv",
        {"purpose": "adversarial"},
        "in the columns 'prompt', 'caption': say with column",
    ),
    ("adv_prompt,adversarial\na,b\n", ".csv", {"purpose": "adversarial"}, "in the columns 'adv_prompt', 'adversarial'"),
    ("german,english\na,b\n", ".csv", {}, "line 1: the columns are 'german', 'english': none is called prompt, text"),
    ("german,english\na,b\n", ".csv", {"column": "french"}, "column = 'french': must be one of 'german', 'english'"),
    ("a,b\nc,d\n", ".csv", {"column": 2}, "column = 2: must be an index from 0 to 1"),
    ("a,b\nc,d\n", ".csv", {"column": -1}, "column = -1: must be an index from 0 to 1"),
    (
        "prompt,Prompt\nc,d\n",
        ".csv",
        {"column": "PROMPT"},
        "column = 'PROMPT': must be one, could be 'prompt', 'Prompt'",
    ),
    ("prompt,seed\na,1\n", ".txt", {}, "line 1: 'prompt,seed' looks like the header of a table"),
    ("prompt\na\n", ".txt", {}, "line 1: 'prompt' looks like the header of a table"),
    ("a\nb, c\n", ".csv", {"column": 0}, "line 2: has 2 fields: must have 1, as the first row"),
    (b"prompt\na\ncaf\xe9\n", ".csv", {}, "line 3: must be UTF-8"),
    ("prompt\na\n" + "b" * 200_000 + "\n", ".csv", {}, "line 3: is not CSV"),
    ("prompt\na\nb\0c\n", ".csv", {}, "line 3: holds a NUL"),
    ("a\nb\0c\n", ".txt", {}, "line 2: holds a NUL"),
    ('["a", 7]', ".json", {}, "entry 2: is 7: must be a text"),
    ('[{"prompt": "a"}, {"text": "b"}]', ".json", {}, "entry 2: must be an object with 'prompt'; it has 'text'"),
    ('[{"prompt": "a"}, "b"]', ".json", {}, "entry 2: must be an object"),
    ('[{"prompt": ["a"]}]', ".json", {}, "entry 1: prompt = ['a']: must be a string"),
    ('{"a": ["x"], "b": ["y", "z"]}', ".json", {}, "holds an object with 'a', 'b': must be a list of texts"),
    ('{"a": "x", "b": "y"}', ".json", {}, "holds an object with 'a', 'b': must be a list of texts"),
    ("7", ".json", {}, "holds a int: must hold a list"),
    ("[1,", ".json", {}, "is not JSON"),
    ("[]", ".json", {}, "holds no prompt"),
    ("a", ".parquet", {}, "must end in .csv, .tsv, .json, .jsonl or .txt"),
]


@pytest.mark.parametrize(("content", "ending", "options", "message"), REFUSED, ids=map(str, range(len(REFUSED))))
def test_what_cannot_be_told_is_refused(content, ending, options, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is compared in full
        load(content, ending, **options)
    assert message in str(caught.value)
    assert f"a{ending}" in str(caught.value)


def test_every_line_of_a_text_on_request():
    assert [row.prompt for row in load("prompt,seed\na\n", ".txt", column=0).rows] == ["prompt,seed", "a"]


@pytest.mark.parametrize(
    ("ending", "write"),
    [
        (".csv", lambda rows: delimited(["Positive", "negative"], rows)),
        (".csv", lambda rows: delimited(["positive", "negative"], rows, delimiter=";")),
        (".tsv", lambda rows: delimited(["positive", "negative"], rows, delimiter="\t")),
        (".json", lambda rows: json.dumps([{"negative": n, "positive": p} for p, n in rows])),
        (".json", lambda rows: json.dumps({"pairs": [{"negative": n, "positive": p} for p, n in rows]})),
        (".jsonl", lambda rows: "\n".join(json.dumps({"negative": n, "positive": p}) for p, n in rows)),
    ],
)
def test_concepts_are_read_by_the_same_reader(tmp_path, ending, write: Callable[[list[list[str]]], str]):
    rows = [["a red circle, small", "a red square, small"], ["a coin", "a wheel"]]
    (tmp_path / f"c{ending}").write_text(write(rows), encoding="utf-8")
    assert [list(pair) for pair in Concept.load(tmp_path / f"c{ending}").pairs] == rows
