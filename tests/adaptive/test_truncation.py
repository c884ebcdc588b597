"""Prompts that do not fit into the context: refused, or cut as the plain pipeline cuts them, which is said and on record."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from certify import datasets
from certify.adaptive import AdaptiveMedianSmoother, Concept, FrozenSmoother
from certify.adaptive.checking import certified_functions, rebuilt
from certify.adaptive.coverage import covered_prompts, covered_substitutions
from certify.certificate import Certificate
from tests.adaptive.conftest import CIRCLE

LONG = "a photo of the red circle and " + "the small star and " * 12 + "a coin"
WORDS = ("red", "circle", "starfish", "polestar", "a", "photo", "the", "xq", "sunflowers", "'", "<|endoftext|>")


@pytest.fixture(scope="module")
def cutting(pipe) -> AdaptiveMedianSmoother:
    return AdaptiveMedianSmoother.from_pipeline(pipe, [CIRCLE], truncate=True)


def of_pipeline(pipe, prompt):
    """The pipeline's own call (`StableDiffusionPipeline.encode_prompt`)."""
    words = pipe.tokenizer
    return words(
        prompt, padding="max_length", max_length=words.model_max_length, truncation=True, return_tensors="pt"
    ).input_ids[0]


@settings(deadline=None)
@given(words=st.lists(st.sampled_from(WORDS), max_size=40))
def test_the_ids_are_the_pipelines_own(pipe, cutting, words):
    prompt = " ".join(words)
    read = cutting.encoder.tokenize(prompt)
    assert torch.equal(read.ids, of_pipeline(pipe, prompt))
    whole = len(pipe.tokenizer(prompt, verbose=False).input_ids)
    assert (read.length + read.dropped, read.length) == (whole, min(whole, cutting.encoder.context_length))
    assert (read.kinds[0], read.kinds[read.end]) == ("begin", "end")
    # Every position between begin and end is in one word, the last of which may have been cut.
    assert [i for word in read.words for i in range(*word)] == list(range(1, read.end))


def test_and_so_is_the_encoding(pipe, cutting):
    plain, _ = pipe.encode_prompt(LONG, "cpu", 1, False)
    assert torch.equal(cutting.encoder.plain([LONG]), plain)


def test_it_is_refused_by_default_with_the_number_of_tokens(adaptive):
    count = len(adaptive.encoder.tokenizer(LONG, verbose=False).input_ids)
    for call in (adaptive.encode, adaptive.problem, adaptive.relevance, adaptive.freeze, adaptive.certify):
        with pytest.raises(
            ValueError, match=rf"has {count} tokens with begin and end, must have at most \d+; truncate"
        ):
            call(LONG)


def test_concept_pairs_are_never_cut(pipe):
    with pytest.raises(ValueError, match=r"pair 1, positive: .* tokens with begin and end, must have at most"):
        AdaptiveMedianSmoother.from_pipeline(pipe, [Concept("long", [(LONG, "a coin")])], truncate=True)


def test_an_encoder_that_cuts_leaves_the_other_as_it_was(encoder):
    assert encoder.truncating().truncate
    assert not encoder.truncate
    assert encoder.truncating().tokenize(LONG).dropped > 0
    with pytest.raises(ValueError, match="must have at most"):
        encoder.truncating().tokenize(LONG, truncate=False)


def cut_by_hand(cutting):
    """The text of what is left; it is read to the same ids."""
    read = cutting.encoder.tokenize(LONG)
    text = cutting.encoder.tokenizer.decode(list(read.content))
    assert torch.equal(cutting.encoder.tokenize(text).ids, read.ids)
    return text


def test_what_is_said_is_what_is_said_of_the_first_tokens(cutting):
    short = cut_by_hand(cutting)
    long, same = cutting.relevance(LONG), cutting.relevance(short)
    assert (long.tokens, long.sigma, long.relevance) == (same.tokens, same.sigma, same.relevance)
    assert cutting.prepare(LONG).concept_removal == cutting.prepare(short).concept_removal
    assert torch.equal(cutting.problem(LONG).y, cutting.problem(short).y)
    assert torch.equal(cutting.encode(LONG, seed=3), cutting.encode(short, seed=3))
    assert covered_substitutions(cutting.prepare(LONG), 1.0) == covered_substitutions(cutting.prepare(short), 1.0)
    other, exact, shorter = covered_prompts(cutting.prepare(short), [LONG, short, "a coin"], 1.0)
    assert (other.covered, other.distance, exact.covered) == (True, 0.0, True)
    assert (other.dropped > 0, exact.dropped, shorter.covered) == (True, 0, False)


def test_it_is_on_record_and_checked_again(cutting, pipe, tmp_path):
    certificate = cutting.certify(LONG, n=64, statistics=0, images=0, rhos=None, tolerance=0.0)
    read = cutting.encoder.tokenize(LONG)
    expected = {"tokens": read.length + read.dropped, "kept": read.length}
    certificate.save(tmp_path / "a")
    again = Certificate.load(tmp_path / "a")
    assert again.provenance["truncated"] == expected
    assert again.provenance["smoother"]["truncate"] is True
    restored = rebuilt(again, pipe, [CIRCLE])
    assert restored.settings() == cutting.settings()
    functions = certified_functions(again, restored.prepare(LONG))
    assert not again.check(functions, restored.problem(LONG).y, seed=5, n=64).refuted
    short = cutting.certify("a red circle", n=64, statistics=0, images=0, rhos=None, tolerance=0.0)
    assert "truncated" not in short.provenance


@pytest.mark.parametrize(
    "value", [7, {}, {"tokens": 3, "kept": 3}, {"tokens": "9", "kept": 3}, {"tokens": 9, "kept": 0}]
)
def test_a_record_of_it_that_is_none_is_refused(cutting, tmp_path, value):
    cutting.certify(LONG, n=64, statistics=0, images=0, rhos=None, tolerance=0.0).save(tmp_path / "a")
    file = tmp_path / "a" / "certificate.json"
    record = json.loads(file.read_text())
    record["provenance"]["truncated"] = value
    file.write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"provenance has truncated = .*: must be an object with tokens and kept"):
        Certificate.load(tmp_path / "a")


def test_a_frozen_smoother_cuts_as_it_did(cutting, encoder, tmp_path):
    frozen = cutting.freeze(LONG)
    frozen.save(tmp_path / "a")
    again = FrozenSmoother.load(tmp_path / "a", encoder)
    assert torch.equal(again.encode(LONG, seed=1), frozen.encode(LONG, seed=1))


def test_rows_of_a_data_set_are_counted(adaptive, cutting):
    rows = [datasets.PromptRow(1, 1, LONG), datasets.PromptRow(2, 2, "a red circle")]
    options = datasets.RowOptions(n=64, tolerance=1e6)
    found = [datasets.certify_row(cutting, row, options)[0] for row in rows]
    read = cutting.encoder.tokenize(LONG)
    assert found[0]["truncated"] == {"tokens": read.length + read.dropped, "kept": read.length}
    total = datasets.summary(found, options)
    assert (total["truncated"], total["refused"], "truncated" in found[1]) == (1, 0, False)
    refused = [datasets.certify_row(adaptive, row, options)[0] for row in rows]
    assert (refused[0]["status"], refused[0]["radius"]) == ("refused", 0.0)
    assert "tokens with begin and end" in refused[0]["reason"]
    total = datasets.summary(refused, options)
    assert (total["truncated"], total["refused"]) == (0, 1)
