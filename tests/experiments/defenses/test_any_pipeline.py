"""The defence of any family: an image a prompt, from its own seed's noise, smoothed or the pipeline's own."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

import certify
from experiments.defenses.any_pipeline import Defended
from tests.defence.pipelines import CALLS, built
from tests.defence.test_families import CIRCLE

FLUX = "FluxPipeline"
PROMPTS = ["a red circle", "a cat"]


def _safe(**options: Any) -> Any:
    return certify.defend(built(FLUX), [CIRCLE], n=2, k=3.0, call=CALLS[FLUX], **options)


def test_images_are_their_seeds_with_and_without_the_smoother() -> None:
    safe = _safe()
    plain, defended = (Defended(safe, smoothed=on).make(PROMPTS, [1, 2]) for on in (False, True))
    assert plain.images.shape == defended.images.shape == (2, 3, 16, 16)
    assert plain.prompts == tuple(PROMPTS)
    assert torch.equal(Defended(safe, smoothed=False).make(PROMPTS[1:], [2]).images[0], plain.images[1])
    assert not torch.equal(defended.images, plain.images)
    assert torch.equal(Defended(_safe(sigma0_relative=0.0)).make(PROMPTS, [1, 2]).images, plain.images)
    described = Defended(safe).described()
    json.dumps(described, allow_nan=False)
    assert described["pipeline"] == FLUX
    assert described["n"] == 2


def test_what_is_wrong_is_refused() -> None:
    with pytest.raises(TypeError, match=r"must be what certify\.defend gives"):
        Defended(built(FLUX))
    with pytest.raises(ValueError, match="must be one each"):
        Defended(_safe()).make(PROMPTS, [1])
