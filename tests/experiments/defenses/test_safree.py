"""SAFREE: its parts against the formulas written out with pseudo-inverses, and what the U-Net is given step by step."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from certify import load_pipeline
from experiments.defenses.defense import Plain
from experiments.defenses.safree import Safree, Settings
from experiments.unlearning.concept import Concept

SAMPLER: dict[str, Any] = {"steps": 5, "guidance": 2.0}
CONCEPT = Concept.of(["circle", "ring"])
PROMPTS = ["a photo of a red circle on teal", "a coin and a blue square", "circle"]


@pytest.fixture(scope="module")
def pipe() -> Any:
    pipe = load_pipeline()
    pipe.text_encoder.double()
    return pipe


def projector(rows: torch.Tensor) -> torch.Tensor:
    """C (CᵀC)⁺ Cᵀ for the rows as columns of C."""
    columns = rows.T
    return columns @ torch.linalg.pinv(columns.T @ columns, hermitian=True) @ columns.T


def written_out(pipe: Any, prompt: str, alpha: float) -> tuple[torch.Tensor, list[int], float]:
    """(rows, triggers, β) as the public source's formulas say, from the tokenizer and the text encoder alone."""

    def encoded(ids: list[list[int]]) -> Any:
        with torch.no_grad():
            return pipe.text_encoder(torch.tensor(ids), attention_mask=None)

    def padded(text: str) -> Any:
        return pipe.tokenizer(text, padding="max_length", max_length=pipe.tokenizer.model_max_length)

    p_c = projector(torch.cat([encoded([padded(word).input_ids]).pooler_output for word in CONCEPT.erase]))
    told = padded(prompt)
    count = sum(told.attention_mask) - 2
    masked = [list(told.input_ids) for _ in range(count)]
    for i in range(count):
        masked[i][i + 1] = 0
    m = encoded(masked).pooler_output
    p_i, away = projector(m), torch.eye(len(p_c), dtype=torch.float64) - p_c
    distance = (away @ m.T).norm(dim=0).tolist()
    e = encoded([told.input_ids])[0][0]
    moved = (away @ p_i @ e.T).T
    triggers = []
    for i, d in enumerate(distance):
        others = distance[:i] + distance[i + 1 :]
        if not others or d >= (1 + alpha) * sum(others) / len(others):
            triggers.append(i + 1)
    rows = e.clone()
    rows[triggers] = moved[triggers]
    there = [i for i, used in enumerate(told.attention_mask) if used]
    beta = 1 - float(torch.nn.functional.cosine_similarity(moved[there], e[there], dim=1).mean())
    return rows, triggers, beta


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("alpha", [0.01, 0.0])
def test_as_the_formulas_say(pipe, prompt, alpha):
    found = Safree(pipe, **SAMPLER, concept=CONCEPT, settings=Settings(alpha=alpha)).filtered(prompt)
    rows, triggers, beta = written_out(pipe, prompt, alpha)
    assert list(found.triggers) == triggers
    assert found.beta == pytest.approx(beta, abs=1e-6)
    torch.testing.assert_close(found.rows, rows, rtol=0, atol=1e-6)
    assert found.until == round(10 / (1 + math.exp(-2 * 2.5 * (10 * beta - 5.333))))


def test_the_word_itself_is_a_trigger_and_its_row_leaves_the_concepts_span(pipe):
    defence = Safree(pipe, **SAMPLER, concept=CONCEPT)
    found = defence.filtered(PROMPTS[0])
    place = [t.removesuffix("</w>") for t in defence.encoder.tokenize(PROMPTS[0]).tokens].index("circle")
    assert place in found.triggers
    told = [defence.encoder.tokenize(word) for word in CONCEPT.erase]
    span = torch.stack([defence.encoder.plain([t])[0][t.end] for t in told]).double()
    assert float((span @ found.rows[place]).abs().max()) < 1e-6 * float(span.norm() * found.rows[place].norm())
    plain = defence.encoder.plain([PROMPTS[0]])[0].double()
    untouched = [i for i in range(len(plain)) if i not in found.triggers]
    assert torch.equal(found.rows[untouched], plain[untouched])


def test_a_style_has_its_own_published_slope(pipe):
    style = replace(CONCEPT, kind="style")
    assert (Safree(pipe, **SAMPLER, concept=style).k, Safree(pipe, **SAMPLER, concept=style).t0) == (3.5, 5.5)
    given = Safree(pipe, **SAMPLER, concept=style, settings=Settings(k=1.0, t0=2.0))
    assert (given.k, given.t0) == (1.0, 2.0)


@pytest.mark.parametrize(("t0", "up", "filtered"), [(-1e3, 50, 5), (-1e3, 20, 3), (-1e3, 19, 2), (1e3, 50, 1)])
def test_the_first_steps_are_given_the_filtered_encoding(pipe, monkeypatch, t0, up, filtered):
    """i ≤ t' of 50 steps: of five, those at 0, 10, 20, 30 and 40. Where the share is 0, the first step alone."""
    settings = Settings(up=up, t0=t0)
    defence = Safree(pipe, **SAMPLER, concept=CONCEPT, settings=settings)
    prompt, seen = PROMPTS[0], []
    rows = defence.filtered(prompt).rows.float()
    plain, negative = defence.encoder.plain([prompt, "circle, ring"]).float()
    whole = pipe.unet.forward

    def forward(x, t, encoder_hidden_states, **options):
        without, with_ = encoder_hidden_states.float()
        torch.testing.assert_close(without, negative, rtol=0, atol=1e-5)
        seen.append(bool(torch.allclose(with_, rows, atol=1e-5)))
        assert seen[-1] or torch.allclose(with_, plain, atol=1e-5)
        return whole(x, t, encoder_hidden_states=encoder_hidden_states, **options)

    monkeypatch.setattr(pipe.unet, "forward", forward)
    defence.make([prompt], [3])
    assert seen == [True] * filtered + [False] * (5 - filtered)


def test_without_triggers_and_negative_prompt_the_images_are_the_plain_ones(pipe):
    """α so large that nothing is a trigger; of one token there is always one."""
    idle = Settings(alpha=1e6, negative=False)
    mine = Safree(pipe, **SAMPLER, concept=CONCEPT, settings=idle).make(PROMPTS[:2], [1, 2]).images
    plain = Plain(pipe, **SAMPLER).make(PROMPTS[:2], [1, 2]).images
    torch.testing.assert_close(mine, plain, rtol=0, atol=1e-5)
    shown = Safree(pipe, **SAMPLER, concept=CONCEPT).make(PROMPTS[:2], [1, 2]).images
    assert not torch.allclose(shown, plain, atol=0.05)


def test_an_empty_prompt_stays_as_it_is(pipe):
    found = Safree(pipe, **SAMPLER, concept=CONCEPT).filtered("")
    assert (found.triggers, found.beta, found.until) == ((), 0.0, 0)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"up": 51}, ValueError, "up = 51: must be at most 50"),
        ({"up": 0}, ValueError, "up = 0"),
        ({"alpha": -1.0}, ValueError, "alpha = -1.0"),
        ({"k": 0.0}, ValueError, "k = 0.0"),
        ({"t0": float("nan")}, ValueError, "t0 = nan"),
        ({"keywords": "circle"}, TypeError, "keywords = 'circle': must be a list of words"),
    ],
)
def test_settings_that_are_refused(given, error, message):
    with pytest.raises(error, match=message):
        Settings(**given)


def test_without_a_concept_keywords_must_be_given(pipe):
    with pytest.raises(ValueError, match="concept = None: 'safree' must be told what it defends against"):
        Safree(pipe, **SAMPLER)
    assert Safree(pipe, **SAMPLER, settings=Settings(keywords=("circle",))).keywords == ("circle",)
