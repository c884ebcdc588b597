"""A text-encoding block of Modular Diffusers with the smoother inside, on small pipelines with random weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import certify
from tests.defence.pipelines import built
from tests.defence.test_families import CIRCLE, PROMPT

FLUX, XL = "FluxPipeline", "StableDiffusionXLPipeline"
CASES = {FLUX: ("FluxAutoBlocks", {"max_sequence_length": 32}), XL: ("StableDiffusionXLAutoBlocks", {})}
OUTPUTS = ("prompt_embeds", "pooled_prompt_embeds")


def modular(name: str, **options: Any) -> Any:
    """The text-encoding part of a family's blocks as a pipeline: plain, or with a defended block."""
    diffusers = pytest.importorskip("diffusers")
    pipe, blocks = built(name), getattr(diffusers, CASES[name][0])()
    block = blocks.sub_blocks["text_encoder"]
    if options:
        block = certify.defend(pipe, CIRCLE, call=CASES[name][1], **options).block(block)
    made = block.init_pipeline()
    made.update_components(**{n: part for n, part in pipe.components.items() if n in made._component_specs})
    return made


def encoded(made: Any, name: str, prompt: Any = PROMPT, **call: Any) -> list[torch.Tensor]:
    found = made(prompt=prompt, output=list(OUTPUTS), **CASES[name][1], **call)
    return [found[output] for output in OUTPUTS]


@pytest.mark.parametrize("name", CASES)
def test_without_noise_it_is_the_block_itself_and_with_noise_every_call_is_another(name: str) -> None:
    plain = encoded(modular(name), name)
    still = encoded(modular(name, sigma0_relative=0.0), name)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(plain, still, strict=True))
    noisy = modular(name, sigma0_relative=1.0, n=3)
    first, second = encoded(noisy, name), encoded(noisy, name)
    for own, one, other in zip(plain, first, second, strict=True):
        assert own.shape == one.shape
        assert own.dtype == one.dtype
        assert not torch.allclose(own, one, atol=1e-3)
        assert not torch.equal(one, other)


def test_prompts_of_a_batch_have_a_row_each() -> None:
    noisy = modular(FLUX, sigma0_relative=1.0, n=3)
    rows = encoded(noisy, FLUX, [PROMPT, PROMPT])[0]
    assert len(rows) == 2
    assert not torch.equal(rows[0], rows[1])


def test_what_it_says_of_itself_is_what_the_block_says() -> None:
    own, ours = modular(FLUX).blocks, modular(FLUX, sigma0_relative=0.0).blocks
    assert [p.name for p in own.inputs] == [p.name for p in ours.inputs]
    assert [p.name for p in own.intermediate_outputs] == [p.name for p in ours.intermediate_outputs]
    assert "smoothed" in ours.description


def test_several_images_of_one_prompt_and_other_encoders_are_refused() -> None:
    import copy

    from diffusers.modular_pipelines import PipelineState

    made, state = modular(FLUX, sigma0_relative=1.0, n=3), PipelineState()
    state.set("num_images_per_prompt", 2)  # as later blocks of a whole pipeline take it
    with pytest.raises(ValueError, match="num_images_per_prompt = 2: must be 1"):
        encoded(made, FLUX, state=state)
    other = copy.deepcopy(built(FLUX).text_encoder_2)
    with torch.no_grad():
        for weight in other.parameters():
            weight.mul_(1.5)
    made.update_components(text_encoder_2=other)
    with pytest.raises(ValueError, match="do not hold an encoding"):
        encoded(made, FLUX)
    with pytest.raises(TypeError, match="own is a str: must be a block"):
        certify.defend(built(FLUX), CIRCLE).block("text_encoder")
