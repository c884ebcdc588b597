"""Every family by the same contract: a small pipeline of its real class with random weights, defended, called and certified.

What is particular to one family, its trap, is at the end.
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import torch

import certify
from certify.adaptive.concepts import Concept
from certify.defence import Defence
from certify.defence.certification import ENCODING
from certify.models.encoders import FAMILIES as KNOWN
from certify.models.encoders import PipelineEncoder
from tests.defence.pipelines import CALLS, FAMILIES, built

CIRCLE = Concept("circle", [("a red circle", "a red square"), ("a photo of a circle", "a photo of a cat")])
PROMPT = "a photo of a red circle"
OF_CLIP = ("StableDiffusionPipeline", "LatentConsistencyModelPipeline")
JOINT = [name for name in FAMILIES if name not in OF_CLIP]


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _images(output: Any) -> np.ndarray:
    return np.stack([np.asarray(image, dtype=np.float64) for image in output[0]])


def _called(pipe: Any, name: str, prompt: Any = PROMPT, **more: Any) -> np.ndarray:
    return _images(pipe(prompt=prompt, generator=_generator(), return_dict=False, **{**CALLS[name], **more}))


_DEFENDED: dict[tuple[str, float], Defence] = {}


def _defended(name: str, sigma0: float = 0.45) -> Defence:
    if (name, sigma0) not in _DEFENDED:
        options: dict[str, Any] = {"sigma0_relative": sigma0, "k": 3.0, "n": 3, "call": CALLS[name]}
        _DEFENDED[name, sigma0] = certify.defend(built(name), [CIRCLE], **options)
    return _DEFENDED[name, sigma0]


def test_every_family_that_is_named_is_tested() -> None:
    assert set(KNOWN) == set(FAMILIES)


@pytest.mark.parametrize("name", FAMILIES)
def test_without_noise_the_image_is_the_pipelines_own(name: str) -> None:
    assert np.array_equal(_called(_defended(name, 0.0), name), _called(built(name), name))


@pytest.mark.parametrize("name", FAMILIES)
def test_noise_moves_the_image_and_is_another_in_every_call(name: str) -> None:
    plain, one, other = (_called(pipe, name) for pipe in (built(name), _defended(name), _defended(name)))
    assert np.isfinite(one).all()
    assert not np.array_equal(one, plain)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("name", FAMILIES)
def test_embeddings_that_are_replaced_by_themselves_change_nothing(name: str) -> None:
    """The route itself, at zero noise: bit for bit alone, up to rounding in a batch."""
    encoder = PipelineEncoder(built(name))
    for call in encoder.calls([PROMPT], CALLS[name]):
        reading = encoder.read(call)
        y = [lookup.embeddings for lookup in reading.lookups]
        for copies in (1, 3):
            tree, _ = encoder.run(call, copies=copies, replacements=[e.repeat(copies, 1, 1) for e in y])
            for slot in reading.frame.slots:
                own = slot.rows(reading.tree, 1)[0]
                for row in slot.rows(tree, copies):
                    torch.testing.assert_close(
                        row, own, rtol=0, atol=0 if copies == 1 else 1e-5 * float(own.abs().max())
                    )


@pytest.mark.parametrize("name", FAMILIES)
def test_noise_reaches_every_encoder_at_words_alone(name: str) -> None:
    encoder, smoother = PipelineEncoder(built(name)), _defended(name)
    readings = [encoder.read(call) for call in encoder.calls([PROMPT], CALLS[name])]
    assert {lookup.encoder for r in readings for lookup in r.lookups} == set(encoder.encoders)
    for reading, noises in zip(readings, smoother._noise(readings), strict=True):
        for layout, noise in zip(reading.layouts[0], noises[0], strict=True):
            assert "".join(layout.texts).replace(" ", "") == PROMPT.replace(" ", "")
            if name not in OF_CLIP:  # whose own smoother calls positions by other names
                assert [s > 0 for s in noise.sigma] == [kind == "word" for kind in layout.kinds]
            assert sum(s > 0 for s in noise.sigma) == len(layout.texts) - layout.texts.count("")


@pytest.mark.parametrize("name", FAMILIES)
def test_several_prompts_and_images_have_a_row_each(name: str) -> None:
    many = _called(_defended(name), name, [PROMPT, "a cat"], **_negative(name))
    assert len(many) == 2
    assert np.isfinite(many).all()


def _negative(name: str) -> dict[str, str]:
    takes = "negative_prompt" in inspect.signature(type(built(name)).__call__).parameters
    return {"negative_prompt": "a dog"} if takes else {}


@pytest.mark.parametrize("name", JOINT)
def test_a_joint_certificate_holds_and_passes_its_check(name: str) -> None:
    safe = _defended(name)
    certificate = safe.certify(PROMPT, rho=0.3, n=200, radii=4, rho_deployed=0.1)
    # A radius within the distance of leaving the word out may take more draws than these.
    assert all(claim.status == "certified" for claim in certificate.claims if claim.quantity != "radius")
    assert {claim.function for claim in certificate.claims} == {ENCODING}
    problem = safe.problem(PROMPT)
    assert certificate.claims[0].outputs == len(problem.owner) == problem.f(problem.y[None]).shape[1]
    report = safe.check(certificate, n=64)
    assert not report.refuted
    assert all(verdict.outcome == "not refuted" for verdict in report.verdicts if verdict.claim.status == "certified")
    shared = certificate.provenance["pipeline"]["allocation"]
    assert 0 < shared["distance"] <= shared["full"]


@pytest.mark.parametrize("name", OF_CLIP)
def test_stable_diffusion_keeps_its_own_smoother_and_certificates(name: str) -> None:
    safe = _defended(name)
    assert isinstance(safe.adaptive, certify.AdaptiveMedianSmoother)
    mine, own = (s.certify(PROMPT, n=200, rho=0.3, statistics=0) for s in (safe, safe.adaptive))
    assert [claim.value for claim in mine.claims] == [claim.value for claim in own.claims]


@pytest.mark.parametrize("name", FAMILIES)
def test_an_explanation_has_every_encoder(name: str) -> None:
    explained = _defended(name).explain("a photo of a starfish")
    assert set(explained.encoders) == set(PipelineEncoder(built(name)).encoders)
    assert "star" in str(explained)
    assert explained._repr_html_().count("<tr>") == len(explained.rows()) + 1


# Traps


def test_t5_looks_up_where_its_tied_table_is_and_not_in_shared() -> None:
    pipe = built("FluxPipeline")
    encoder = PipelineEncoder(pipe)
    reading = encoder.read(encoder.calls([PROMPT], CALLS["FluxPipeline"])[0])
    looked_up = next(lookup.module for lookup in reading.lookups if lookup.encoder == "text_encoder_2")
    assert looked_up is pipe.text_encoder_2.encoder.embed_tokens


def test_gemmas_scale_within_the_module_is_in_its_standard_deviation() -> None:
    pipe = built("SanaPipeline")
    encoder = PipelineEncoder(pipe)
    unit = encoder.frame(encoder.calls([PROMPT], CALLS["SanaPipeline"])[0]).units[0]
    table = pipe.text_encoder.get_input_embeddings().weight.detach().float()
    assert unit == pytest.approx(table.shape[1] ** 0.5 * float(table.var(dim=0, correction=0).mean().sqrt()), rel=1e-3)


def test_sdxls_empty_negative_stays_zeros_and_each_encoder_has_its_columns() -> None:
    pipe = built("StableDiffusionXLPipeline")
    encoder = PipelineEncoder(pipe)
    call = encoder.calls([PROMPT], CALLS["StableDiffusionXLPipeline"])[0]
    sequence, pooled = encoder.frame(call).slots
    assert sequence.boxes[0] is not None
    assert sequence.boxes[0][1][1] == sequence.boxes[1][1][0] == pipe.text_encoder.config.hidden_size  # type: ignore[index]
    assert pooled.boxes[0] is None
    assert encoder.frame(call).blocks == ((0,), (1,))
    seen: list[Any] = []

    def answer(number: int, made: Any, own: Any) -> Any:
        made = own()
        seen.append(made[1])
        return made

    encoder.intercepted(answer)(prompt=PROMPT, generator=_generator(), **CALLS["StableDiffusionXLPipeline"])
    assert not seen[0].any()


def test_sd3s_three_encoders_have_three_blocks() -> None:
    encoder = PipelineEncoder(built("StableDiffusion3Pipeline"))
    assert encoder.frame(encoder.calls([PROMPT], CALLS["StableDiffusion3Pipeline"])[0]).blocks == ((0,), (1,), (2,))


def test_defaults_of_the_call_count_and_not_those_of_encode_prompt() -> None:
    """Wan's encode_prompt has 226 positions by default, its call 512."""
    encoder = PipelineEncoder(built("WanPipeline"))
    few = {k: v for k, v in CALLS["WanPipeline"].items() if k != "max_sequence_length"}
    assert encoder.calls([PROMPT], few)[0].arguments["max_sequence_length"] == 512


def test_sanas_instruction_is_a_template() -> None:
    encoder = PipelineEncoder(built("SanaPipeline"))
    with_it, without = (
        encoder.read(encoder.calls([PROMPT], {**CALLS["SanaPipeline"], "complex_human_instruction": text})[0]).layouts[
            0
        ][0]
        for text in (CALLS["SanaPipeline"]["complex_human_instruction"], None)
    )
    assert with_it.kinds.count("template") > without.kinds.count("template")
    assert with_it.kinds.count("word") == without.kinds.count("word")


def test_z_image_writes_into_a_list_that_is_not_the_users() -> None:
    prompts = [PROMPT, "a cat"]
    _called(_defended("ZImagePipeline"), "ZImagePipeline", prompts)
    assert prompts == [PROMPT, "a cat"]


def test_hunyuans_two_calls_are_one_problem_and_share_relevance() -> None:
    safe = _defended("HunyuanDiTPipeline")
    problem = safe.problem(PROMPT)
    assert len(problem.readings) == 2
    assert set(problem.owner.tolist()) == {0, 1}
    sigma = [
        {layout.tokens[i].strip("▁"): s / unit for i, s in enumerate(noise.sigma) if s}
        for reading, noise in zip(problem.readings, problem.token_noise, strict=True)
        for layout, unit in zip(reading.layouts[0], reading.frame.units, strict=True)
    ]
    assert sigma[0] == pytest.approx(sigma[1])  # the larger of both, for every word


def test_cogview4_depends_on_its_batch_and_words_are_encoded_alone() -> None:
    encoder = PipelineEncoder(built("CogView4Pipeline"))
    assert encoder.frame(encoder.calls([PROMPT], CALLS["CogView4Pipeline"])[0]).ragged


@pytest.mark.parametrize(
    "name", ["SanaPipeline", "Lumina2Pipeline", "LTXPipeline", "Kandinsky3Pipeline", "HunyuanDiTPipeline"]
)
def test_images_of_one_prompt_have_masks_and_noise_of_their_own(name: str) -> None:
    """They repeat masks batch-major beside prompt-major embeddings: here every image is a prompt of its own."""
    number = "num_videos_per_prompt" if name == "LTXPipeline" else "num_images_per_prompt"
    images = _called(_defended(name), name, [PROMPT, "a cat"], **{number: 2})
    assert len(images) == 4
    assert all(not np.array_equal(images[i], images[j]) for i in range(4) for j in range(i))


def test_wans_and_auraflows_slots_are_whole_whatever_the_probes_length() -> None:
    for name in ("WanPipeline", "AuraFlowPipeline"):
        safe = _defended(name)
        short, long = safe.problem("a cat"), safe.problem(PROMPT + " and a small dog")
        for problem in (short, long):
            at = problem.y[None]
            words = problem.noise.sigma[None] > 0
            moved = problem.f(torch.where(words, at + 1.0, at)) != problem.f(at)
            assert int(moved.sum()) > 0.5 * problem.readings[0].layouts[0][0].kinds.count("word") * 32


def test_prompt_upsampling_is_refused() -> None:
    safe = _defended("Flux2Pipeline")
    pipe = safe.pipe
    pipe.__class__.upsample_prompt, before = (lambda self, prompt, **_: ["a cat"]), pipe.__class__.upsample_prompt
    try:
        with pytest.raises(ValueError, match="encodes another text than the prompt"):
            _called(safe, "Flux2Pipeline", caption_upsample_temperature=0.1)
    finally:
        pipe.__class__.upsample_prompt = before


def _without(name: str, *parts: str, **others: Any) -> Any:
    pipe = built(name)
    bare = type(pipe)(**{**pipe.components, **dict.fromkeys(parts), **others})
    bare.set_progress_bar_config(disable=True)
    return bare


@pytest.mark.parametrize(
    ("name", "parts", "message"),
    [
        (
            "FluxPipeline",
            ["text_encoder"],
            r"pipe\.text_encoder = None: must be a CLIPTextModel, without which FluxPipe",
        ),
        ("FluxPipeline", ["text_encoder_2"], r"pipe\.text_encoder_2 = None: must be a T5EncoderModel, without which"),
        (
            "FluxPipeline",
            ["text_encoder", "tokenizer"],
            r"text_encoder = None, pipe\.tokenizer = None: must be a CLIPTextModel and a CLIPTokenizer, without which",
        ),
        (
            "StableDiffusionXLPipeline",
            ["text_encoder_2"],
            r"text_encoder_2 = None: must be a CLIPTextModelWithProjection",
        ),
        (
            "StableDiffusionXLPipeline",
            ["text_encoder"],
            r"pipe\.text_encoder = None: must be a CLIPTextModel, without which StableDiffusionXLPipeline gives its "
            r"UNet2DConditionModel encodings of width 32, which takes 64",
        ),
        ("StableDiffusionXLPipeline", ["tokenizer"], r"pipe\.tokenizer = None: must be a CLIPTokenizer, without which"),
        ("StableDiffusion3Pipeline", ["text_encoder"], r"pipe\.text_encoder = None: must be a CLIPTextModelWithProj"),
    ],
)
def test_a_part_that_the_pipeline_cannot_do_without_is_named(name: str, parts: list[str], message: str) -> None:
    pipe = _without(name, *parts)
    with pytest.raises((AttributeError, TypeError, RuntimeError)):  # undefended
        pipe(prompt=PROMPT, **CALLS[name])
    with pytest.raises(ValueError, match=message):
        certify.defend(pipe, [CIRCLE], n=2, call=CALLS[name])


def test_pipelines_that_can_do_without_a_text_encoder_are_served() -> None:
    """Stable Diffusion 3 without T5, and Stable Diffusion XL whose U-Net takes the second encoding alone, as its refiner's."""
    from diffusers import UNet2DConditionModel

    xl, three = "StableDiffusionXLPipeline", "StableDiffusion3Pipeline"
    unet = UNet2DConditionModel.from_config({**built(xl).unet.config, "cross_attention_dim": 32})
    for name, pipe in (
        (three, _without(three, "text_encoder_3", "tokenizer_3")),
        (xl, _without(xl, "text_encoder", "tokenizer", unet=unet)),
    ):
        safe = certify.defend(pipe, [CIRCLE], sigma0_relative=0, n=2, call=CALLS[name])
        assert np.array_equal(_called(safe, name), _called(pipe, name))
        safe = certify.defend(pipe, [CIRCLE], n=2, call=CALLS[name])
        assert not np.array_equal(_called(safe, name), _called(pipe, name))
