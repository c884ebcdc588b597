"""Result cache: what is there is not measured again, and what is another question is."""

from __future__ import annotations

import json

import pytest

from certify._workers import Worker
from experiments.tables.result_cache import ResultCache, digest


def counted():
    calls = []

    def measure():
        calls.append(1)
        return {"value": 0.1 + len(calls)}

    return calls, measure


def test_a_cell_is_measured_once_and_found_by_another_run(tmp_path):
    calls, measure = counted()
    first = ResultCache(tmp_path).get("asr", {"defense": "ams", "sigma": 0.1}, measure)
    again = ResultCache(tmp_path)
    assert again.get("asr", {"sigma": 0.1, "defense": "ams"}, measure) == first == {"value": 1.1}
    assert (len(calls), again.read, again.measured) == (1, 1, 0)


@pytest.mark.parametrize(
    "other", [{"defense": "ams", "sigma": 0.2}, {"defense": "sld", "sigma": 0.1}, {"defense": "ams"}]
)
def test_another_question_is_another_cell(tmp_path, other):
    calls, measure = counted()
    cache = ResultCache(tmp_path)
    one = cache.get("asr", {"defense": "ams", "sigma": 0.1}, measure)
    assert cache.get("asr", other, measure) != one
    assert cache.get("utility", {"defense": "ams", "sigma": 0.1}, measure) != one
    assert len(calls) == 3


def test_a_measurement_that_fails_leaves_no_cell(tmp_path):
    cache = ResultCache(tmp_path)

    def broken():
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError):
        cache.get("asr", {"a": 1}, broken)
    assert cache.get("asr", {"a": 1}, lambda: {"value": 2}) == {"value": 2}


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"asked": {"a": 1}}', json.dumps({"asked": {"a": 2}, "values": {"value": 9}})]
)
def test_a_damaged_cell_is_refused_by_name(tmp_path, text):
    file = tmp_path / "asr" / f"{digest({'a': 1})}.json"
    file.parent.mkdir()
    file.write_text(text)
    with pytest.raises(ValueError, match=f"{file.name}: is no result of a table"):
        ResultCache(tmp_path).get("asr", {"a": 1}, dict)
    assert file.read_text() == text


def test_what_another_process_is_measuring_has_a_stand_in_until_it_is_there(tmp_path):
    first, second = (ResultCache(tmp_path, worker=Worker(rank, 2)) for rank in (0, 1))
    passes = []

    def table(cache):
        """Two results: while the first process measures one, the second goes through the whole table."""

        def slow():
            seen = [second.get("asr", {"cell": cell}, lambda: {"value": 2.0}, {"value": -1.0}) for cell in (1, 2)]
            passes.append([values["value"] for values in seen])
            return {"value": 1.0}

        measure = slow if cache is first else lambda: {"value": 2.0}
        return [cache.get("asr", {"cell": cell}, measure, {"value": -1.0})["value"] for cell in (1, 2)]

    assert first.complete(lambda: table(first)) == [1.0, 2.0]
    assert passes == [[-1.0, 2.0]]
    assert (first.measured, second.measured, second.elsewhere) == (1, 1, 1)
    assert second.complete(lambda: table(second)) == [1.0, 2.0]


def test_a_table_is_made_again_while_somebody_else_is_at_it(tmp_path):
    first, second = (ResultCache(tmp_path, worker=Worker(rank, 2)) for rank in (0, 1))
    made = []

    def measure():
        def table():
            made.append(second.get("asr", {"cell": 1}, measure, {"value": -1.0})["value"])
            if len(made) == 3:
                raise KeyboardInterrupt
            return made[-1]

        with pytest.raises(KeyboardInterrupt):  # it would wait for ever for what this very process is at
            second.complete(table)
        return {"value": 1.0}

    first.get("asr", {"cell": 1}, measure, {"value": -1.0})
    assert made == [-1.0] * 3
    assert second.complete(lambda: second.get("asr", {"cell": 1}, measure, {"value": -1.0})) == {"value": 1.0}


def test_what_has_no_stand_in_is_measured_by_each(tmp_path):
    calls, measure = counted()
    first, second = (ResultCache(tmp_path, worker=Worker(rank, 2)) for rank in (0, 1))
    assert first.get("bound", {"a": 1}, lambda: second.get("bound", {"a": 1}, measure)) == {"value": 1.1}
    assert len(calls) == 1
