"""Model cards and badges: what a hub reads, what a reader sees, and words of others that stay words."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET

import pytest
from huggingface_hub import ModelCard

from certify.datasets import RunRecord
from certify.report import badge, model_card
from tests.test_report import HOSTILE, ROWS, certificate, certified, several, write_run

__all__ = ["certificate", "several"]  # fixtures

TRAP = "\n---\nlicense: mit\n" + HOSTILE + " | `x` *y* [a](javascript:b) # 'q' \" \\ {z} : - "
SVG = "{http://www.w3.org/2000/svg}"


def metrics(card: str):
    """What the hub's own library reads."""
    data = ModelCard(card).data
    return data, {result.metric_name: result.metric_value for result in data.eval_results or ()}


def test_the_hub_reads_a_certificate(several):
    data, found = metrics(model_card(several, folder="runs/x", base_model="owner/name"))
    assert (data.library_name, data.pipeline_tag, data.base_model) == ("diffusers", "text-to-image", "owner/name")
    assert "randomized-smoothing" in data.tags
    assert "license" not in data.to_dict()  # nobody has said which
    single = [c for c in several.claims if c.status == "certified" and c.value is not None and c.scope == "single"]
    assert sorted(found.values()) == sorted(c.value for c in single)
    rate = next(r for r in data.eval_results if r.metric_type == "certified_rate")
    claim = next(c for c in several.claims if c.quantity == "event")
    assert rate.metric_args == {"rho": claim.rho, "alpha": claim.alpha, "n": claim.n, "theorem": claim.theorem}
    assert (rate.task_type, rate.dataset_type) == ("text-to-image", "prompt")
    assert rate.dataset_name == " ".join(several.provenance["prompt"].replace("\x00", "\ufffd").split())


def test_a_certificate_of_a_function_is_no_model_of_images(certificate):
    data, found = metrics(model_card(certificate))
    assert data.library_name is None
    assert found


def test_the_hub_reads_a_run(tmp_path):
    run = RunRecord.load(write_run(tmp_path / "run", ROWS))
    data, found = metrics(model_card(run))
    assert found["certified fraction at ρ = 1"] == pytest.approx(1 / 3)
    assert found["average certified radius"] == pytest.approx((0.8125 + 1.5625) / 3)
    assert data.eval_results[0].dataset_args == {"rows": 4}
    assert "3 of 4 prompts are done" in model_card(run)


@pytest.mark.parametrize("value", [1e-5, 1e300, 0.1, 5.0, math.inf])
def test_every_number_comes_back_as_it_was(tmp_path, value):
    size = "Infinity" if math.isinf(value) else value
    run = RunRecord.load(write_run(tmp_path / "run", [certified("x", size, 0.0)]))
    read = metrics(model_card(run))[1]["average certified radius"]
    assert read == ("infinite" if math.isinf(value) else value)


def test_words_of_others_are_neither_markdown_nor_metadata(several):
    from certify import Certificate

    trapped = Certificate(several.claims, {**several.provenance, "prompt": TRAP}, several.tensors)
    text = model_card(trapped, folder="a`b\nc")
    data, _ = metrics(text)
    assert "license" not in data.to_dict()
    body = text.split("\n---\n", 1)[1]
    for mark in ("<script", "](javascript", "\n---", "| `x`"):
        assert mark not in body, mark
    assert "certify check a'b c" in body


def drawn(text: str):
    """A badge's parts: width, title, and its texts with what room they have."""
    root = ET.fromstring(text)
    fields = [(float(r.get("x", 0)), float(r.get("width"))) for r in root.findall(f"{SVG}g/{SVG}rect")]
    texts = root.findall(f"{SVG}g/{SVG}text")
    assert root.get("role") == "img"
    title = root.find(f"{SVG}title")
    assert root.get("aria-labelledby") == title.get("id")
    for (start, width), words in zip(fields, texts, strict=True):
        begin, long = float(words.get("x")), float(words.get("textLength"))
        assert start + 5 <= begin
        assert begin + long <= start + width - 5
        assert long / len(words.text) < 12  # letters 11 px high are not drawn apart
    assert sum(width for _, width in fields) == float(root.get("width"))
    return title.text, [words.text for words in texts]


def test_a_badge_says_what_the_certificate_says(several):
    title, texts = drawn(badge(several))
    claim = several.headline
    assert claim.quantity == "event"
    assert texts[0] == claim.function
    assert texts[1].startswith("≤ ")
    assert "ρ = 0.3" in texts[1]
    assert title.startswith("For every perturbation")
    assert "hold with confidence" in title


def test_a_badge_of_nothing_says_so(several):
    from certify import Certificate

    none = Certificate(tuple(c for c in several.claims if c.status == "abstained"), several.provenance, several.tensors)
    title, texts = drawn(badge(none))
    assert texts == ["certify", "nothing certified"]
    assert title.startswith("No claim")


def test_a_badge_of_a_run(tmp_path):
    title, texts = drawn(badge(RunRecord.load(write_run(tmp_path / "run", ROWS))))
    assert texts[1] == "33.33\u00a0% of 3 at ρ = 1"
    assert "each with confidence 99" in title


def test_words_of_others_fit_into_a_badge_and_are_no_markup(several):
    import dataclasses

    from certify import Certificate

    for name in (TRAP, "W" * 400, "日本語", "‮x"):
        claims = tuple(dataclasses.replace(c, function=name) for c in several.claims)
        title, texts = drawn(badge(Certificate(claims, several.provenance, several.tensors)))
        assert len(texts[0]) <= 48
        assert title
