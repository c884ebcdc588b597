"""A prompt is prepared once: tokenised, scored and embedded, and everything that follows takes what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from certify import AdaptiveMedianSmoother
from certify.adaptive import PreparedPrompt, covered_prompts, covered_substitutions
from certify.adaptive.checking import certified_functions, compared, rebuilt
from certify.models import PromptEncoder, TokenizedPrompt
from tests.adaptive.conftest import CIRCLE

PROMPT = "a photo of the red starfish"
SMALL: dict[str, Any] = {"n": 128, "statistics": 16, "alpha": 0.5, "rhos": None}


@pytest.fixture
def adaptive(encoder: PromptEncoder) -> AdaptiveMedianSmoother:
    return AdaptiveMedianSmoother.from_encoder(encoder, [CIRCLE], n=3)


def test_a_prompt_is_read_once(adaptive: AdaptiveMedianSmoother, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the text to the certificate and its check: one call of the tokenizer, one of Algorithm 1, one look at the table."""
    calls: list[str] = []
    tokenize, scores, embed = adaptive.encoder.tokenize, adaptive.scorer.scores, adaptive.encoder.embed

    def counted_tokenize(prompt: str, **options: Any) -> TokenizedPrompt:
        calls.extend(["tokenize"] * (prompt == PROMPT))
        return tokenize(prompt, **options)

    def counted_scores(prompts: Any) -> Any:
        calls.extend("scores" for prompt in prompts if prompt.prompt == PROMPT)
        return scores(prompts)

    def counted_embed(tokenized: TokenizedPrompt) -> torch.Tensor:
        calls.extend(["embed"] * (tokenized.prompt == PROMPT))
        return embed(tokenized)

    monkeypatch.setattr(adaptive.encoder, "tokenize", counted_tokenize)
    monkeypatch.setattr(adaptive.encoder, "embed", counted_embed)
    monkeypatch.setattr(adaptive.scorer, "scores", counted_scores)
    prompt = adaptive.prepare(PROMPT)
    made = adaptive.certify(prompt, prompts=["a photo of the blue starfish"], **SMALL)
    adaptive.encode(prompt), adaptive.freeze(prompt), adaptive.problem(prompt), adaptive.deployment(prompt)
    covered_substitutions(prompt, 1.0), covered_prompts(prompt, ["a coin"], 1.0)
    made.check(certified_functions(made, prompt), prompt.y)
    compared(made, prompt)
    assert calls == ["tokenize", "scores", "embed"]


def test_a_prepared_prompt_is_its_text(adaptive: AdaptiveMedianSmoother) -> None:
    prompt = adaptive.prepare(PROMPT)
    assert prompt.text == PROMPT
    assert adaptive.prepare(prompt) is prompt
    assert torch.equal(adaptive.encode([prompt, "a coin"], seed=3), adaptive.encode([PROMPT, "a coin"], seed=3))
    assert adaptive.relevance(prompt) == adaptive.relevance(PROMPT) == prompt.token_noise
    one, other = (adaptive.certify(p, **SMALL) for p in (prompt, PROMPT))
    assert one.claims == other.claims
    assert {**one.provenance, "created": None} == {**other.provenance, "created": None}


def test_another_smoothers_prompt_is_refused(adaptive: AdaptiveMedianSmoother, encoder: PromptEncoder) -> None:
    """Its Σ is another, and so are its claims."""
    other = AdaptiveMedianSmoother.from_encoder(encoder, [CIRCLE], n=3, k=1.0).prepare(PROMPT)
    for use in (adaptive.encode, adaptive.certify, adaptive.problem, adaptive.freeze, adaptive.deployment):
        with pytest.raises(ValueError, match="prepared by another smoother"):
            use(other)


def test_a_region_that_is_stored_later_is_the_prompts_once_it_is_settled(
    encoder: PromptEncoder, tmp_path: Path
) -> None:
    adaptive = AdaptiveMedianSmoother.from_encoder(encoder, [CIRCLE], policy="memory", memory=tmp_path / "regions")
    AdaptiveMedianSmoother.from_encoder(encoder, [CIRCLE], k=1.0, policy="memory", memory=adaptive.memory).remember(
        PROMPT, 0.5
    )
    before = PreparedPrompt(
        adaptive,
        *(getattr(adaptive.prepare(PROMPT), name) for name in ("tokenized", "y", "scores", "relevance", "relevance")),
    )
    after = before.settled()
    assert after.relevance == before.relevance
    assert after.token_noise != before.token_noise
    assert after.settled() is after


def test_a_certificate_is_checked_against_the_prompt_of_its_own_smoother(adaptive: AdaptiveMedianSmoother) -> None:
    made = adaptive.certify(PROMPT, **SMALL)
    prompt = rebuilt(made, adaptive.encoder, [CIRCLE]).prepare(PROMPT)
    assert set(certified_functions(made, prompt)) == {claim.function for claim in made.claims}
    assert {one.outcome for one in compared(made, prompt)} == {"same", "not checked"}
