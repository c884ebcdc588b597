"""Deployment noise is fresh and secret unless a seed is given: what T5 and T6 presume of what is deployed."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import certify
from certify.adaptive import AdaptiveMedianSmoother
from certify.images import generation as generate
from certify.statements.drawing import Draws
from experiments.defenses.ams import Ams
from experiments.unlearning.concept import Concept

PROMPT = "a photo of a red circle"
Y = torch.zeros(3)
FAST = {"steps": 1, "guidance": 2.0}
SMOOTHING = {"n": 3, "smooth_unconditional": True, **certify.world.SMOOTHING}


@pytest.fixture(scope="module")
def pipe() -> Any:
    return certify.load_pipeline()


@pytest.fixture(scope="module")
def adaptive(pipe: Any) -> AdaptiveMedianSmoother:
    return AdaptiveMedianSmoother.from_pipeline(pipe, ["circle"], **SMOOTHING)


def pixels(images: Any) -> Tensor:
    return torch.stack([torch.from_numpy(np.array(image)) for image in images])


CALLS = {
    "MedianSmoother": lambda pipe, a, **s: certify.MedianSmoother(torch.sin, 0.5)(Y, **s),
    "MeanSmoother": lambda pipe, a, **s: certify.MeanSmoother(torch.sin, 0.5)(Y, **s),
    "encode": lambda pipe, a, **s: a.encode(PROMPT, **s),
    "encode_unconditional": lambda pipe, a, **s: a.encode_unconditional(**s),
    "prompt_embeds": lambda pipe, a, **s: a.pipeline_inputs(PROMPT, **s)["prompt_embeds"],
    "negative_prompt_embeds": lambda pipe, a, **s: a.pipeline_inputs(PROMPT, **s)["negative_prompt_embeds"],
    "frozen encode": lambda pipe, a, **s: a.freeze(PROMPT).encode(PROMPT, **s),
    "frozen": lambda pipe, a, **s: a.freeze(PROMPT)(a.problem(PROMPT).y, **s),
    "images": lambda pipe, a, **s: generate.images(pipe, a.encoder.plain([PROMPT]), **FAST, **s),
    "pair, undefended": lambda pipe, a, **s: pixels(generate.pair(pipe, a, PROMPT, **FAST, **s)[0]),
    "pair, defended": lambda pipe, a, **s: pixels(generate.pair(pipe, a, PROMPT, **FAST, **s)[1]),
    "side_by_side": lambda pipe, a, **s: pixels([generate.side_by_side(pipe, a, PROMPT, images=1, **FAST, **s)]),
}


@pytest.fixture(params=CALLS)
def call(request: pytest.FixtureRequest, pipe: Any, adaptive: AdaptiveMedianSmoother) -> Callable[..., Tensor]:
    return lambda **seed: CALLS[request.param](pipe, adaptive, **seed)


@pytest.fixture
def seeded_alike() -> Iterator[Callable[[], None]]:
    """Sets every global random state of the process, as an application does, or an attacker who knows how it does."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002

    def again() -> None:
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002
        random.seed(0)

    yield again
    torch.set_rng_state(states[0])
    np.random.set_state(states[1])  # noqa: NPY002
    random.setstate(states[2])


def test_two_calls_differ_whatever_the_process_was_seeded_with(
    call: Callable[..., Tensor], seeded_alike: Callable[[], None]
) -> None:
    made = []
    for _ in range(2):
        seeded_alike()
        made.append(call())
    assert not torch.equal(*made)


def test_no_public_seed_gives_it(call: Callable[..., Tensor]) -> None:
    """The adversary who tries seeds, 0 first: it was the default."""
    fresh = call()
    assert not any(torch.equal(fresh, call(seed=seed)) for seed in range(4))


def test_a_seed_repeats_a_run(call: Callable[..., Tensor]) -> None:
    assert torch.equal(call(seed=4), call(seed=4))
    assert not torch.equal(call(seed=4), call(seed=5))


def test_global_random_state_is_left_alone(call: Callable[..., Tensor]) -> None:
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    call()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.array_equal(np.random.get_state()[1], before[2])  # noqa: NPY002


def test_every_entry_of_a_list_has_noise_of_its_own(adaptive: AdaptiveMedianSmoother, pipe: Any) -> None:
    """Images made from one list are independent trials of the deployed smoother."""
    for encoded in (
        adaptive.encode([PROMPT] * 2),
        adaptive.freeze(PROMPT).encode([PROMPT] * 2),
        adaptive.pipeline_inputs([PROMPT] * 2)["prompt_embeds"],
    ):
        assert not torch.equal(encoded[0], encoded[1])
    repeated = adaptive.encode([PROMPT] * 2, seed=1)
    torch.testing.assert_close(repeated[0], repeated[1], rtol=1e-4, atol=1e-4)


def test_the_secret_is_long_and_from_the_operating_system(monkeypatch: pytest.MonkeyPatch) -> None:
    from certify import _validate

    asked = []
    monkeypatch.setattr(_validate.secrets, "randbits", lambda bits: asked.append(bits) or 7)
    smoother = certify.MedianSmoother(torch.sin, 0.5)
    assert torch.equal(smoother(Y), smoother(Y, seed=7))
    assert asked == [128]


def test_certification_is_repeatable_without_being_asked() -> None:
    assert inspect.signature(Draws).parameters["seed"].default == 0
    values = [certify.mse_bound(torch.sin, Y, 0.5, rho=1.0, n=64).value for _ in range(2)]
    assert values[0] == values[1]
    for function in (certify.event_bound, certify.statistic_bound):
        bounds = [
            function(lambda z: (z > 0).double().mean(dim=(1, 2)).round(), Y, 0.5, rho=1.0, n=64) for _ in range(2)
        ]
        assert bounds[0].run.seed == bounds[1].run.seed == 0
        assert bounds[0].value == bounds[1].value


def test_the_defence_of_the_tables_is_fresh_unless_a_measurement_fixes_it(pipe: Any, tmp_path: Any) -> None:
    from dataclasses import replace

    from experiments.tables.testbed import Embedded, Sizes

    concept = Concept.embedded("circle")
    how: dict[str, Any] = {"steps": 1, "guidance": 2.0, "concept": concept}
    fresh = Ams(pipe, **how)
    assert fresh.settings.seed is None
    assert not torch.equal(fresh.encoded([PROMPT]), fresh.encoded([PROMPT]))
    fixed = Ams(pipe, **how, settings=replace(Ams.embedded(), seed=3))
    assert torch.equal(fixed.encoded([PROMPT]), fixed.encoded([PROMPT]))
    testbed = Embedded(tmp_path, Sizes())
    assert testbed.settings("ams", concept).seed == 0
    with pytest.raises(ValueError, match="settings has seed = None: must be a number"):
        testbed.defense("ams", concept, "", Ams.embedded())
