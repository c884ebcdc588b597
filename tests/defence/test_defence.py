"""The defended pipeline as an object: what it refuses, what it leaves alone, what it keeps on disk, images and events."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

import certify
from certify.bounds.allocation import grid
from certify.defence import PipelineSmoother
from certify.defence.certification import allocation_over
from certify.defence.relevance import spelling
from certify.models.encoders import PipelineEncoder, family_of
from certify.models.encoders.words import Vocabulary
from certify.models.sampling import image_source
from tests.defence import tokenizers
from tests.defence.pipelines import CALLS, built
from tests.defence.test_families import CIRCLE, PROMPT, _called, _defended, _generator, _images

FLUX, XL = "FluxPipeline", "StableDiffusionXLPipeline"


def _embeddings(pipe: Any) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{key}": value.clone()
        for name, part in pipe.components.items()
        if isinstance(part, torch.nn.Module)
        for key, value in part.state_dict().items()
    }


def _hooks(pipe: Any) -> int:
    parts = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for part in parts for m in part.modules())


def test_the_pipeline_is_left_as_it_was() -> None:
    pipe = built(XL)
    _called(pipe, XL)  # transformers installs hooks of its own with the first call
    before, attributes, config = _embeddings(pipe), set(vars(pipe)), dict(pipe.scheduler.config)
    timesteps, hooks = pipe.scheduler.timesteps.clone(), _hooks(pipe)
    state = torch.get_rng_state()
    _called(_defended(XL), XL)
    assert set(vars(pipe)) == attributes
    assert dict(pipe.scheduler.config) == config
    assert torch.equal(pipe.scheduler.timesteps, timesteps)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in _embeddings(pipe).items())
    assert _hooks(pipe) == hooks


@pytest.mark.parametrize("name", ["prompt_embeds", "pooled_prompt_embeds"])
def test_embeddings_are_refused_with_the_reason(name: str) -> None:
    with pytest.raises(TypeError, match=f"{name} is given: must not be, embeddings pass the text encoders by"):
        _defended(XL)(prompt=PROMPT, **{name: torch.zeros(1, 16, 64)}, **CALLS[XL])


@pytest.mark.parametrize("prompt", [None, 3, [], ["a cat", 3]])
def test_what_is_no_prompt_is_refused(prompt: Any) -> None:
    with pytest.raises(TypeError, match=r"prompt = .*: must be a string or a list of strings"):
        _defended(XL)(prompt, **CALLS[XL])


def test_a_prompt_may_stand_first_and_images_have_noise_of_their_own() -> None:
    images = _images(_defended(FLUX)(PROMPT, num_images_per_prompt=3, return_dict=False, **CALLS[FLUX]))
    assert len(images) == 3
    latents = torch.ones(1, 64, 4).repeat(3, 1, 1)
    plain = _called(built(FLUX), FLUX, num_images_per_prompt=3, latents=latents)
    assert np.array_equal(plain[0], plain[1])
    same = _called(_defended(FLUX), FLUX, num_images_per_prompt=3, latents=latents)
    assert not np.array_equal(same[0], same[1])


def test_the_negative_branch_is_the_pipelines_own() -> None:
    safe = _defended(XL)
    own: list[Any] = []

    def keep(number: int, call: Any, tree: Any) -> Any:
        own.append(tree())
        return own[-1]

    safe.encoder.intercepted(keep)(prompt=PROMPT, negative_prompt="a dog", generator=_generator(), **CALLS[XL])
    again = built(XL).encode_prompt(prompt=PROMPT, negative_prompt="a dog", num_images_per_prompt=1, device="cpu")
    assert torch.equal(own[0][1], again[1])
    assert torch.equal(own[0][3], again[3])


def test_callbacks_are_called() -> None:
    seen: list[int] = []

    def keep(pipe: Any, step: int, t: Any, given: dict[str, Any]) -> dict[str, Any]:
        seen.append(step)
        return given

    _called(_defended(XL), XL, callback_on_step_end=keep)
    assert seen == [0, 1]


def test_half_precision() -> None:
    pipe = copy.deepcopy(built(XL)).to(torch.bfloat16)
    for pair in (0.0, 0.45):
        safe = certify.defend(pipe, [CIRCLE], sigma0_relative=pair, n=3, call=CALLS[XL])
        images = _called(safe, XL)
        assert np.isfinite(images).all()
        if not pair:
            assert np.array_equal(images, _called(pipe, XL))


def test_an_encoder_in_training_mode_is_evaluated_and_switched_back() -> None:
    pipe = copy.deepcopy(built(FLUX))
    pipe.text_encoder_2.train()
    assert PipelineEncoder(pipe).calls([PROMPT], CALLS[FLUX])
    certify.defend(pipe, [CIRCLE], n=2, call=CALLS[FLUX])
    assert pipe.text_encoder_2.training


def test_textual_inversion_adds_a_word_by_itself() -> None:
    pipe = copy.deepcopy(built(XL))
    for tokenizer, encoder in ((pipe.tokenizer, pipe.text_encoder), (pipe.tokenizer_2, pipe.text_encoder_2)):
        tokenizer.add_tokens(["<my-cat>"])
        encoder.resize_token_embeddings(len(tokenizer))
    safe = certify.defend(pipe, [CIRCLE], n=2, call=CALLS[XL])
    reading = safe.encoder.read(safe.encoder.calls(["a photo of <my-cat>"], CALLS[XL])[0])
    for layout in reading.layouts[0]:
        assert layout.word(layout.words[-1]) == ("<my-cat>",)
        assert layout.texts[layout.words[-1][0]] == "<my-cat>"
        assert layout.words[-1][1] - layout.words[-1][0] == 1


def test_a_changed_weight_is_another_function() -> None:
    """LoRA and fine-tuning: what is defended is what the pipeline holds at the call."""
    pipe = copy.deepcopy(built(FLUX))
    safe = certify.defend(pipe, [CIRCLE], sigma0_relative=0, call=CALLS[FLUX])
    before = safe.encoder.fingerprint()
    with torch.no_grad():
        pipe.text_encoder_2.encoder.block[0].layer[0].SelfAttention.q.weight.mul_(3)
    assert np.array_equal(_called(safe, FLUX), _called(pipe, FLUX))
    assert safe.encoder.fingerprint() != before


def test_a_compiled_encoder_is_refused() -> None:
    pipe = copy.deepcopy(built(FLUX))
    pipe.text_encoder_2._compiled_call_impl = pipe.text_encoder_2.__call__  # as `pipe.text_encoder_2.compile()` does
    with pytest.raises(ValueError, match="text_encoder_2 is compiled: must not be"):
        certify.defend(pipe, [CIRCLE])


def test_a_hook_that_does_not_fire_is_refused() -> None:
    pipe = copy.deepcopy(built("PixArtSigmaPipeline"))
    table = pipe.text_encoder.encoder.embed_tokens
    forward = pipe.text_encoder.encoder.forward

    def around(input_ids: Any = None, **given: Any) -> Any:  # as compiled code does: past the module, and its hooks
        return forward(**{**given, "inputs_embeds": torch.nn.functional.embedding(input_ids, table.weight)})

    pipe.text_encoder.encoder.forward = around
    with pytest.raises(ValueError, match="0 times where the hooks could see it"):
        certify.defend(pipe, [CIRCLE], call=CALLS["PixArtSigmaPipeline"])


def test_an_encoder_that_nothing_depends_on_is_refused() -> None:
    class Blind(type(built("PixArtSigmaPipeline"))):  # type: ignore[misc]
        def encode_prompt(self, *args: Any, **given: Any) -> Any:
            found = super().encode_prompt(*args, **given)
            return tuple(torch.zeros_like(x) if isinstance(x, torch.Tensor) and x.ndim == 3 else x for x in found)

    pipe = Blind(**built("PixArtSigmaPipeline").components)
    with pytest.raises(ValueError, match=r"nothing that Blind\.encode_prompt returns depends on the token embeddings"):
        certify.defend(pipe, [CIRCLE], call=CALLS["PixArtSigmaPipeline"])


def test_an_encoder_with_randomness_of_its_own_is_refused() -> None:
    class Random(type(built("PixArtSigmaPipeline"))):  # type: ignore[misc]
        def encode_prompt(self, *args: Any, **given: Any) -> Any:
            embeds, *rest = super().encode_prompt(*args, **given)
            return embeds + torch.randn(embeds.shape, generator=torch.Generator().manual_seed(next(seeds))), *rest

    seeds = iter(range(100))
    pipe = Random(**built("PixArtSigmaPipeline").components)
    with pytest.raises(ValueError, match="two different values"):
        certify.defend(pipe, [CIRCLE], call=CALLS["PixArtSigmaPipeline"])


def test_a_class_that_is_not_known_is_served_by_what_is_found() -> None:
    class Mine(type(built("PixArtSigmaPipeline"))):  # type: ignore[misc]
        pass

    class Other:
        pass

    name = "PixArtSigmaPipeline"
    assert family_of(Mine).name == "PixArt-Σ"
    assert not family_of(Other).known
    safe = certify.defend(Mine(**built(name).components), [CIRCLE], sigma0_relative=0, call=CALLS[name])
    safe.pipe.set_progress_bar_config(disable=True)
    assert np.array_equal(_called(safe, name), _called(built(name), name))


@pytest.mark.parametrize(
    ("pipe", "message"),
    [
        (object(), "pipe is a object: must be a diffusers pipeline"),
        ("stable-diffusion", "pipe is a str: must be a diffusers pipeline"),
    ],
)
def test_what_is_no_pipeline_is_refused(pipe: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        certify.defend(pipe, ["circle"])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"sigma0_relative": -1.0}, ValueError, "sigma0_relative = -1.0"),
        ({"n": 0}, ValueError, "n = 0"),
        ({"smoother": "mode"}, ValueError, "smoother = 'mode'"),
        ({"policy": "memory"}, ValueError, "policy = 'memory': must be one of 'frozen', 'levels'"),
        ({"sigma0": 0.1}, TypeError, "'sigma0', which is for Stable Diffusion 1.x and 2.x: a FluxPipeline takes"),
        ({"gamma": 2.0}, ValueError, "gamma = 2.0: is for policy = 'levels', got 'frozen'"),
        ({"policy": "levels", "gamma": 1.0}, ValueError, "gamma = 1.0: must be a finite number > 1"),
        ({"policy": "levels", "sigma0_relative": 0.0}, ValueError, "sigma0_relative = 0.0: must be > 0"),
        ({"sigma_zero": 1.0}, TypeError, "sigma_zero"),
        ({"sigma_max_relative": 0.1}, ValueError, "sigma_max_relative = 0.1: must be at least"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        certify.defend(built(FLUX), [CIRCLE], call=CALLS[FLUX], **options)


def test_it_is_saved_without_a_model_and_loaded_for_the_same_pipeline(tmp_path: Any) -> None:
    safe = _defended(FLUX)
    safe.save(tmp_path / "d")
    assert sorted(p.name for p in (tmp_path / "d").iterdir()) == ["defence.json", "defence.safetensors"]
    again = certify.load_defence(tmp_path / "d", built(FLUX))
    assert isinstance(again.adaptive, PipelineSmoother)
    assert again.adaptive.settings() == safe.adaptive.settings()
    assert str(again.explain(PROMPT)) == str(safe.explain(PROMPT))
    with pytest.raises(FileExistsError):
        safe.save(tmp_path / "d")
    with pytest.raises(ValueError, match="must be the pipeline given"):
        certify.load_defence(tmp_path / "d", built(XL))
    with pytest.raises(FileNotFoundError, match="holds no defence"):
        certify.load_defence(tmp_path, built(FLUX))
    (tmp_path / "d" / "defence.json").write_text('{"format": "another"}', encoding="utf-8")
    with pytest.raises(ValueError, match="is no defence, or damaged"):
        certify.load_defence(tmp_path / "d", built(FLUX))


def test_stable_diffusions_own_smoother_is_saved_and_loaded(tmp_path: Any) -> None:
    safe = _defended("StableDiffusionPipeline")
    safe.save(tmp_path)
    again = certify.load_defence(tmp_path, built("StableDiffusionPipeline"))
    assert isinstance(again.adaptive, certify.AdaptiveMedianSmoother)
    assert again.adaptive.settings() == safe.adaptive.settings()


def _one_of_its_images(number: int) -> np.ndarray:
    """Image i of the pipeline itself, from the initial noise that the undefended rate has for it."""
    made = built(FLUX)(prompt=PROMPT, generator=image_source(0, number), return_dict=False, **CALLS[FLUX])[0]
    return np.asarray(made)[0]


def test_an_event_on_images_goes_through_the_pipelines_own_call_and_passes_its_check() -> None:
    safe = _defended(FLUX)
    dark = lambda images: images.mean(dim=(1, 2, 3)) < 0.5  # noqa: E731
    certificate = safe.certify(PROMPT, rho=0.3, rho_deployed=0.1, n=200, images=30, radii=2, detector=dark)
    event = certificate.claims[-1]
    assert event.quantity == "event"
    rate = certificate.provenance["undefended"]
    assert rate["n"] == 7
    found = [
        bool(dark(torch.from_numpy(image).permute(2, 0, 1)[None]))
        for image in map(_one_of_its_images, range(rate["n"]))
    ]
    assert rate["successes"] == sum(found)
    assert rate["lower"] <= rate["rate"] <= rate["upper"]
    report = safe.check(certificate, detector=dark, n=40)
    assert not report.refuted
    assert report.verdicts[-1].outcome in ("not refuted", "nothing claimed")


def test_a_tampered_certificate_is_refuted() -> None:
    safe = _defended(FLUX)
    certificate = safe.certify(PROMPT, rho=0.3, n=200, radii=2)
    tensors = {k: 0.01 * v if k.endswith((".lower", ".upper")) else v for k, v in certificate.tensors.items()}
    from dataclasses import replace

    assert safe.check(replace(certificate, tensors=tensors), n=64).refuted


def test_a_certificate_of_another_smoother_or_pipeline_is_not_checked() -> None:
    certificate = _defended(FLUX).certify(PROMPT, rho=0.3, n=64, radii=2)
    with pytest.raises(ValueError, match="about other text encoders"):
        _defended(XL).check(certificate)
    with pytest.raises(ValueError, match="about another smoother"):
        _defended(FLUX, 0.0).check(certificate)


def test_the_same_seed_gives_the_same_claims_and_private_leaves_words_out(tmp_path: Any) -> None:
    safe = _defended(FLUX)
    one, two = (safe.certify(PROMPT, rho=0.3, n=64, radii=2, private=p) for p in (False, True))
    assert [c.value for c in one.claims] == [c.value for c in two.claims]
    two.save(tmp_path)
    assert "circle" not in (tmp_path / "certificate.json").read_text(encoding="utf-8").replace('"circle"', "")
    assert certify.Certificate.load(tmp_path).provenance["input_sha256"] is None


def test_an_allocation_is_that_of_curves_of_the_blocks() -> None:
    """The boxes of one curve against a curve of each block by itself, from the same draws."""
    safe = _defended(FLUX)
    problem = safe.problem(PROMPT)
    radii = grid(0.4, 3)
    options: dict[str, Any] = {"n": 200, "batch_size": 16, "method": "coordinatewise"}
    whole = certify.bound_curve(problem.f, problem.y, problem.noise, rhos=radii, **options)
    found = allocation_over(whole, problem.owner)
    assert found is not None
    assert found.full == pytest.approx(whole.values[-1])
    each = [
        certify.bound_curve(
            lambda z, b=b: problem.f(z)[:, problem.owner == b], problem.y, problem.noise, rhos=radii, **options
        )
        for b in (0, 1)
    ]
    # Fewer outputs, larger shares: each by itself is no larger.
    assert certify.allocation(*each).value <= found.value * (1 + 1e-9)


def test_every_output_depends_on_its_own_block_alone() -> None:
    problem = _defended("StableDiffusion3Pipeline").problem(PROMPT)
    y, start = problem.y[None], 0
    for block, lookup in enumerate(problem.readings[0].lookups):
        stop = start + lookup.embeddings[0].numel()
        moved = y.clone()
        moved[:, start:stop] += 1
        changed = (problem.f(moved) - problem.f(y))[0].abs() > 1e-5
        assert set(problem.owner[changed].tolist()) == {block}
        start = stop


@pytest.mark.parametrize(
    ("made", "text", "kind", "words"),
    [
        (tokenizers.clip, "starfish circle", "clip", ["starfish", "circle"]),
        (tokenizers.sentencepiece, "starfish circle", "sentencepiece", ["starfish", "circle"]),
        (tokenizers.byte_level, "starfish circle", "bytes", ["starfish", "circle"]),
        (tokenizers.wordpiece, "starfish circle", "wordpiece", ["starfish", "circle"]),
    ],
)
def test_words_of_every_kind_of_tokenizer(made: Any, text: str, kind: str, words: list[str]) -> None:
    vocabulary = Vocabulary.of(made())
    ids = made()(text, add_special_tokens=False).input_ids
    assert vocabulary.kind == kind
    found = [spelling(vocabulary.text(vocabulary.tokens(ids[a:b]))) for a, b in vocabulary.words(ids)]
    assert found == words
    assert vocabulary.words([]) == []


def test_characters_of_several_tokens_are_whole_in_their_words_text() -> None:
    """Else relevance would be that of replacement characters, and any other script a way around the defence."""
    for made in (tokenizers.byte_level, tokenizers.clip):
        ids = made()("é裸 cat", add_special_tokens=False).input_ids
        vocabulary = Vocabulary.of(made())
        texts = [vocabulary.text(vocabulary.tokens(ids[a:b])) for a, b in vocabulary.words(ids)]
        assert "".join(texts) == "é裸cat" or made is tokenizers.clip  # whose small vocabulary lacks these bytes
    bytes_ = Vocabulary.of(tokenizers.sentencepiece())
    assert bytes_.text(["▁", "<0xE8>", "<0xA3>", "<0xB8>"]) == "裸"


def test_what_has_no_words_carries_no_noise_and_is_the_pipelines_own() -> None:
    assert np.array_equal(_called(_defended(FLUX), FLUX, ""), _called(built(FLUX), FLUX, ""))
    with pytest.raises(ValueError, match="carries no noise"):
        _defended(FLUX).certify("")
