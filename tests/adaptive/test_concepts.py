"""Concepts: where they come from, what is refused, and the direction that they give."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from certify.adaptive import Concept, available_concepts, concept_direction
from certify.models import PromptEncoder
from tests.adaptive.conftest import CIRCLE


@pytest.mark.parametrize("name", ["nudity", "violence", "gun", "van-gogh"])
def test_the_papers_concepts_ship(name: str) -> None:
    assert name in available_concepts()
    concept = Concept.load(name)
    assert concept.name == name
    assert len(concept.pairs) >= 80


def test_all_that_ship_can_be_loaded() -> None:
    assert available_concepts() == sorted(available_concepts())
    assert all(Concept.load(name).name == name for name in available_concepts())


@pytest.mark.parametrize("name", ["van-gogh", "Van Gogh", "van_gogh", " VAN  GOGH "])
def test_spelling_is_forgiven(name: str) -> None:
    assert Concept.load(name).name == "van-gogh"


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_files_of_a_users_own(tmp_path: Path, mark: str) -> None:
    pairs = (("a “red” circle, small", "a red square"), ("a coin", "a wheel"))
    table = tmp_path / "My Concept.csv"
    table.write_text(
        mark + 'Positive,note, negative\n"a “red” circle, small",x,a red square\na coin,,a wheel\n', encoding="utf-8"
    )
    lines = tmp_path / "my_concept.JSONL"
    rows = [json.dumps({"positive": p, "negative": n, "note": 1}) for p, n in pairs]
    lines.write_text(mark + "\n\n".join(rows), encoding="utf-8")
    for path in (table, lines):
        for given in (path, str(path)):
            concept = Concept.load(given)
            assert (concept.name, concept.pairs) == ("my-concept", pairs)
    assert Concept.load(table).sha256 == Concept.load(lines).sha256 == Concept("other name", pairs).sha256
    assert Concept("x", pairs[:1]).sha256 != Concept("x", pairs).sha256


def _csv(content: str) -> Callable[[Path], Any]:
    def call(folder: Path) -> Any:
        (folder / "c.csv").write_text(content, encoding="utf-8")
        return Concept.load(folder / "c.csv")

    return call


def _jsonl(content: str) -> Callable[[Path], Any]:
    def call(folder: Path) -> Any:
        (folder / "c.jsonl").write_text(content, encoding="utf-8")
        return Concept.load(folder / "c.jsonl")

    return call


BAD_CALLS: dict[str, tuple[Callable[[Path], Any], type[Exception], str]] = {
    "unknown concept": (
        lambda d: Concept.load("nudty"),
        ValueError,
        r"concept = 'nudty': unknown; did you mean 'nudity'\? Must be one of .*gun, .*nudity",
    ),
    "unknown, nothing like it": (
        lambda d: Concept.load("zzz"),
        ValueError,
        r"concept = 'zzz': unknown\. Must be one of .*, or the path of a \.csv, \.tsv, \.json or \.jsonl file",
    ),
    "no such file": (lambda d: Concept.load("no/such.csv"), FileNotFoundError, r"no such file; looked for .*such\.csv"),
    "no such path": (lambda d: Concept.load(d / "x.jsonl"), FileNotFoundError, r"no such file"),
    "another suffix": (
        lambda d: (d / "x.txt").write_text("") or Concept.load(d / "x.txt"),
        ValueError,
        r"must end in \.csv, \.tsv, \.json or \.jsonl",
    ),
    "a number": (lambda d: Concept.load(7), TypeError, r"concept is a int: must be a name, a path or a Concept"),
    "no name": (lambda d: Concept(" ", [("a", "b")]), ValueError, r"name = ' ': must be a non-empty string"),
    "no pairs": (lambda d: Concept("x", []), ValueError, r"concept 'x': has no pairs, must have at least one"),
    "not pairs": (lambda d: Concept("x", ["ab"]), ValueError, r"concept 'x', pair 1: is 'ab', must be a pair"),
    "three in a pair": (lambda d: Concept("x", [("a", "b", "c")]), ValueError, r"pair 1: is .*, must be a pair"),
    "one-sided": (
        lambda d: Concept("x", [("a", "b"), ("a", "  ")]),
        ValueError,
        r"concept 'x', pair 2: one-sided, negative is empty; must have a positive and a negative",
    ),
    "not text": (lambda d: Concept("x", [("a", 7)]), TypeError, r"pair 1: negative = 7, must be a string"),
    "twice the same": (lambda d: Concept("x", [("a", "a ")]), ValueError, r"both 'a', must differ"),
    "one-sided CSV": (
        _csv("positive,negative\na,b\n,c\n"),
        ValueError,
        r"concept file '.*c\.csv', line 3: one-sided, positive is empty",
    ),
    "short CSV row": (_csv("positive,negative\na\n"), ValueError, r"line 2: has 1 fields: must have 2"),
    "CSV header": (_csv("a,b\nc,d\n"), ValueError, r"its columns are \['a', 'b'\], must have positive, negative"),
    "empty CSV": (_csv(""), ValueError, r"its columns are \[\], must have positive, negative"),
    "CSV without rows": (_csv("positive,negative\n"), ValueError, r"has no pairs"),
    "one-sided JSONL": (
        _jsonl('\n{"positive": "a", "negative": ""}'),
        ValueError,
        r"line 2: one-sided, negative is empty",
    ),
    "broken JSONL": (_jsonl("{"), ValueError, r"line 1: is not JSON"),
    "JSONL of lists": (_jsonl('["a", "b"]'), ValueError, r"line 1: must be an object of named values"),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_calls(name: str, tmp_path: Path) -> None:
    call, error, message = BAD_CALLS[name]
    with pytest.raises(error, match=message):
        call(tmp_path)


def test_the_direction_is_the_mean_difference(encoder: PromptEncoder) -> None:
    expected = sum((encoder.plain(p) - encoder.plain(n))[0].double() for p, n in CIRCLE.pairs) / len(CIRCLE.pairs)
    torch.testing.assert_close(concept_direction(encoder, CIRCLE), expected, rtol=0, atol=1e-5)
    for batch_size in (1, 3):
        torch.testing.assert_close(
            concept_direction(encoder, CIRCLE, batch_size=batch_size), expected, rtol=0, atol=1e-5
        )


def test_the_end_of_text_direction_takes_each_encoding_at_its_own_end(encoder: PromptEncoder) -> None:
    concept = Concept("x", [("a red starfish", "wheel"), ("circle", "a small red square")])
    rows = [
        (encoder.plain(p)[0, encoder.tokenize(p).end] - encoder.plain(n)[0, encoder.tokenize(n).end]).double()
        for p, n in concept.pairs
    ]
    direction = concept_direction(encoder, concept, similarity="end-of-text")
    torch.testing.assert_close(direction, sum(rows) / 2, rtol=0, atol=1e-5)


def test_a_prompt_of_several_pairs_is_encoded_once(encoder: PromptEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    concept = Concept(
        "x", [("a circle", "a square"), ("a coin", "a square"), ("a square", "a wheel"), ("a red circle", "a square")]
    )
    rows: list[int] = []
    plain = encoder.encode_batch
    monkeypatch.setattr(encoder, "encode_batch", lambda ids, *a, **k: rows.append(len(ids)) or plain(ids, *a, **k))
    concept_direction(encoder, concept)
    assert rows == [5]


def test_prompts_that_cancel_are_not_encoded_and_give_zero(encoder: PromptEncoder) -> None:
    concept = Concept("x", [("a circle", "a square"), ("a square", "a circle")])
    assert not concept_direction(encoder, concept).any()


def test_a_pair_that_does_not_fit_is_named(encoder: PromptEncoder) -> None:
    concept = Concept("x", [("a circle", "a square"), ("red " * 30, "a square")])
    with pytest.raises(ValueError, match=r"concept 'x', pair 2, positive: prompt = .* must have at most 16"):
        concept_direction(encoder, concept)
    with pytest.raises(ValueError, match=r"similarity = 'cosine': must be one of 'flattened', 'end-of-text'"):
        concept_direction(encoder, concept, similarity="cosine")
