"""Defended pipelines as people use them: offloaded, compiled, with LoRAs, textual inversion, in half precision.

accelerate and peft are optional; without them their tests are skipped.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import certify
from certify.defence import Predictions
from certify.models import fingerprint
from certify.models.offloaded import at_hand, state_of, weight_of
from tests.defence.pipelines import CALLS, built
from tests.defence.test_families import CIRCLE, PROMPT, _called

SD, XL, FLUX, Z = "StableDiffusionPipeline", "StableDiffusionXLPipeline", "FluxPipeline", "ZImagePipeline"
NOISY: dict[str, Any] = {"sigma0_relative": 0.45, "k": 3.0, "n": 2}


def _plain_and_smoothed(pipe: Any, name: str) -> None:
    """σ = 0 is the pipeline's own image bit for bit, and noise moves it."""
    own = _called(pipe, name)
    for options in ({"sigma0_relative": 0.0}, NOISY):
        safe = certify.defend(pipe, [CIRCLE], call=CALLS[name], **options)
        assert np.array_equal(_called(safe, name), own) is (options is not NOISY)
    assert np.array_equal(_called(pipe, name), own)


# Offloading


def _sequential(pipe: Any) -> None:
    """`enable_sequential_cpu_offload`, which itself asks for a GPU."""
    from accelerate import cpu_offload

    for name, part in pipe.components.items():
        if isinstance(part, nn.Module) and name not in pipe._exclude_from_cpu_offload:
            cpu_offload(part, torch.device("cpu"), offload_buffers=len(part._parameters) > 0)


def _by_model(pipe: Any) -> None:
    pipe.enable_model_cpu_offload(device="cpu")


@pytest.fixture
def accelerate() -> Any:
    return pytest.importorskip("accelerate")


@pytest.mark.parametrize("offload", [_sequential, _by_model])
@pytest.mark.parametrize("name", [SD, FLUX, Z])
def test_an_offloaded_pipeline_is_defended(name: str, offload: Callable[[Any], None], accelerate: Any) -> None:
    pipe = copy.deepcopy(built(name))
    offload(pipe)
    _plain_and_smoothed(pipe, name)


@pytest.mark.parametrize("offload", [_sequential, _by_model])
def test_a_certificate_of_an_offloaded_pipeline_is_that_of_the_pipeline(
    offload: Callable[[Any], None], accelerate: Any
) -> None:
    asked: dict[str, Any] = {"rho": 0.3, "rho_deployed": 0.1, "n": 64, "radii": 2, "statistics": 32, "points": 2}
    pipe = copy.deepcopy(built(FLUX))
    offload(pipe)
    safe = certify.defend(pipe, [CIRCLE], call=CALLS[FLUX], **NOISY)
    found = safe.certify(PROMPT, **asked)
    plain = certify.defend(built(FLUX), [CIRCLE], call=CALLS[FLUX], **NOISY)
    wanted = plain.certify(PROMPT, **asked)
    assert [claim.value for claim in found.claims] == [claim.value for claim in wanted.claims]
    assert found.provenance["model"] == wanted.provenance["model"]
    assert not plain.check(found, n=16).refuted


def test_stable_diffusions_own_statements_are_had_offloaded(accelerate: Any) -> None:
    values = []
    for offloaded in (False, True):
        pipe = copy.deepcopy(built(SD))
        if offloaded:
            _sequential(pipe)
        safe = certify.defend(pipe, [CIRCLE], **NOISY)
        certificate = safe.certify(PROMPT, rho=0.3, rho_deployed=0.1, n=64, statistics=32, pipe=pipe, steps=2)
        values.append([claim.value for claim in certificate.claims])
    assert values[0] == values[1]


def test_offloaded_weights_are_read_from_where_they_are_kept(accelerate: Any) -> None:
    norm = nn.LayerNorm(4)
    nn.init.normal_(norm.weight)
    plain = copy.deepcopy(nn.Sequential(nn.Linear(4, 4), norm))
    model = copy.deepcopy(plain)
    accelerate.cpu_offload(model, torch.device("cpu"))
    assert model[1].weight.device.type == "meta"
    assert fingerprint(model) == fingerprint(plain)
    assert torch.equal(weight_of(model[1]), norm.weight)
    x = torch.randn(3, 4)
    assert torch.equal(at_hand(model[1])(x), norm(x))
    assert model[1].weight.device.type == "meta"
    assert at_hand(norm) is norm


def test_weights_without_values_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Linear\.weight is on the meta device, without values"):
        state_of(nn.Linear(2, 2, device="meta"))
    with pytest.raises(AttributeError, match="Linear has no tensor 'gain'"):
        weight_of(nn.Linear(2, 2), "gain")


# Compiled


def _in_place(module: nn.Module) -> nn.Module:
    module.compile(backend="eager")
    return module


def _forward(module: nn.Module) -> nn.Module:
    module.forward = torch.compile(module.forward, backend="eager")  # type: ignore[method-assign]
    return module


def _wrapped(module: nn.Module) -> Any:
    return torch.compile(module, backend="eager")


COMPILED = [_in_place, _forward, _wrapped]


@pytest.mark.parametrize("compiled", COMPILED)
@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize(("name", "part"), [(SD, "text_encoder"), (FLUX, "text_encoder_2")])
def test_a_compiled_encoder_is_refused_also_where_it_is_compiled_later(
    name: str, part: str, before: bool, compiled: Callable[[nn.Module], Any]
) -> None:
    pipe = copy.deepcopy(built(name))
    safe = None if before else certify.defend(pipe, [CIRCLE], call=CALLS[name], **NOISY)
    pipe.register_modules(**{part: compiled(getattr(pipe, part))})
    used = (lambda: certify.defend(pipe, [CIRCLE], call=CALLS[name])) if safe is None else lambda: _called(safe, name)
    with pytest.raises(ValueError, match=f"pipe.{part} is compiled: must not be"):
        used()


@pytest.mark.parametrize("compiled", [_in_place, _wrapped])
def test_a_compiled_denoiser_is_served(compiled: Callable[[nn.Module], Any]) -> None:
    pipe = copy.deepcopy(built(FLUX))
    pipe.register_modules(transformer=compiled(pipe.transformer))
    safe = certify.defend(pipe, [CIRCLE], call=CALLS[FLUX], sigma0_relative=0.0)
    assert np.array_equal(_called(safe, FLUX), _called(pipe, FLUX))
    safe = certify.defend(pipe, [CIRCLE], call=CALLS[FLUX], **NOISY)
    plain = certify.defend(built(FLUX), [CIRCLE], call=CALLS[FLUX], **NOISY)
    problem = safe.problem(PROMPT)
    found, wanted = (Predictions(one.calls, problem, {}, points=1) for one in (safe, plain))
    torch.testing.assert_close(found.f(problem.y[None]), wanted.f(problem.y[None]))
    assert safe.model(whole=True) == plain.model(whole=True)  # the same weights, compiled or not


# LoRA


def _lora(part: nn.Module, name: str, targets: list[str]) -> dict[str, torch.Tensor]:
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    part = copy.deepcopy(part)
    config = LoraConfig(r=2, lora_alpha=2, target_modules=targets, init_lora_weights=False)
    part.add_adapter(config, adapter_name="default")  # type: ignore[operator]
    return {f"{name}.{key}": value for key, value in get_peft_model_state_dict(part).items()}


@pytest.mark.parametrize(("name", "denoiser"), [(SD, "unet"), (XL, "unet"), (FLUX, "transformer")])
def test_a_lora_is_taken_in_and_out_of_a_defended_pipeline(name: str, denoiser: str) -> None:
    pytest.importorskip("peft")
    pipe = copy.deepcopy(built(name))
    safe = certify.defend(pipe, [CIRCLE], sigma0_relative=0.0, call=CALLS[name])
    before, digest = _called(safe, name), safe.encoder.fingerprint()
    state = _lora(getattr(pipe, denoiser), denoiser, ["to_q", "to_v"])
    pipe.load_lora_weights(state | _lora(pipe.text_encoder, "text_encoder", ["q_proj", "v_proj"]))
    assert not np.array_equal(_called(safe, name), before)
    assert safe.encoder.fingerprint() != digest
    _plain_and_smoothed(pipe, name)
    pipe.unload_lora_weights()
    assert np.array_equal(_called(safe, name), before)
    assert safe.encoder.fingerprint() == digest


def test_layers_of_a_lora_in_training_mode_do_not_stop_predictions() -> None:
    """diffusers leaves them in training mode; they are evaluated, and switched back."""
    pipe = copy.deepcopy(built(SD))
    part = pipe.unet.down_blocks[0]
    part.train()
    part.add_module("unused", nn.Dropout())
    safe = certify.defend(pipe, [CIRCLE], **NOISY)
    found = safe.certify(PROMPT, rho=0.3, rho_deployed=0.1, n=64, statistics=32, pipe=pipe, steps=2)
    assert any(claim.function == "noise prediction" for claim in found.claims)
    assert part.training


# Textual inversion


@pytest.mark.parametrize("name", [SD, FLUX])
def test_a_loaded_textual_inversion_is_a_word_by_itself(name: str) -> None:
    pipe = copy.deepcopy(built(name))
    vectors = 0.1 * torch.randn((2, 32), generator=torch.Generator().manual_seed(0))
    pipe.load_textual_inversion(
        {"<my-cat>": vectors}, token="<my-cat>", tokenizer=pipe.tokenizer, text_encoder=pipe.text_encoder
    )
    prompt = "a photo of <my-cat>"
    safe = certify.defend(pipe, [CIRCLE], sigma0_relative=0.0, call=CALLS[name])
    assert np.array_equal(_called(safe, name, prompt), _called(pipe, name, prompt))
    noisy = certify.defend(pipe, [CIRCLE], call=CALLS[name], **NOISY)
    assert not np.array_equal(_called(noisy, name, prompt), _called(pipe, name, prompt))
    rows = [row for row in noisy.explain(prompt).rows() if row[0] == "text_encoder"]
    placed = [row for row in rows if "<my-cat>" in str(row[1])]
    assert len(placed) == 2  # a vector each


# Half precision


@pytest.mark.parametrize(
    ("name", "dtype"),
    [(XL, torch.bfloat16), (FLUX, torch.float16), (FLUX, torch.bfloat16), ("SanaPipeline", torch.float16)],
)
def test_half_precision_is_certified_and_checked(name: str, dtype: torch.dtype) -> None:
    pipe = copy.deepcopy(built(name)).to(dtype)
    _plain_and_smoothed(pipe, name)
    safe = certify.defend(pipe, [CIRCLE], call=CALLS[name], **NOISY)
    certificate = safe.certify(PROMPT, rho=0.3, n=64, radii=2)
    assert certificate.claims[0].status == "certified"
    assert certificate.provenance["dtype"] == str(dtype).removeprefix("torch.")
    assert not safe.check(certificate, n=16).refuted
