"""What every defence of `DEFENSES` must do, on a tiny model; defences that break it are caught.

A new defence is asked as it is registered; only where its settings hold files does it need a line in `given`.
"""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from certify import load_pipeline
from certify.models import PromptEncoder, fingerprint
from experiments.defenses import DEFENSES
from experiments.defenses.defense import Defense, Nothing, Plain
from experiments.defenses.rewriter import Rewriter
from experiments.unlearning.concept import Concept

PROMPTS = ["a red coin", "a circle", "the blue square"]
SAMPLER: dict[str, Any] = {"steps": 2, "guidance": 3.0}
CIRCLE = Concept.of(["circle"])


@pytest.fixture(scope="module")
def pipe(pipeline_folder: Path) -> Any:
    return load_pipeline(pipeline_folder)


@pytest.fixture(scope="module")
def given(pipe: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings that hold files."""
    folder = tmp_path_factory.mktemp("defences")
    (folder / "round.csv").write_text("positive,negative\na red circle,a red square\n", encoding="utf-8")
    rewriter = Rewriter(PromptEncoder.from_pipeline(pipe), layers=1, width=32).save(folder / "rewriter.safetensors")
    return {
        "ams": replace(DEFENSES["ams"].published(), concepts=(str(folder / "round.csv"),), seed=0),
        "posi": replace(DEFENSES["posi"].published(), rewriter=str(rewriter)),
    }


def draws_as_it_says(kind: type[Defense], pipe: Any, settings: Any = None) -> None:
    """An image a prompt, each from its own seed's noise whatever stands beside it; the pipeline stays as it was, and global
    randomness is not touched."""
    parts = (pipe.unet, pipe.text_encoder, pipe.vae)
    before, randomness = [fingerprint(part) for part in parts], (torch.get_rng_state(), random.getstate())
    defence = kind(pipe, **SAMPLER, concept=CIRCLE, settings=settings)
    whole = defence.make(PROMPTS, [1, 2, 3])
    assert whole.images.shape == (3, 3, 8, 8)
    assert 0 <= float(whole.images.min()) <= float(whole.images.max()) <= 1
    assert len(whole.prompts) == 3
    assert whole.seconds > 0
    again = defence.make(PROMPTS, [1, 2, 3])
    assert torch.equal(whole.images, again.images)
    assert whole.prompts == again.prompts
    parts_ = defence.make(PROMPTS, [1, 2, 3], batch=2)
    torch.testing.assert_close(whole.images, parts_.images, rtol=0, atol=1e-4)
    assert whole.prompts == parts_.prompts
    alone = defence.make(PROMPTS[1:2], [2]).images[0]
    torch.testing.assert_close(alone, whole.images[1], rtol=0, atol=1e-4)
    assert not torch.allclose(defence.make(PROMPTS[1:2], [9]).images[0], alone, atol=1e-3)
    long = defence.make(["red " * 40], [0])  # cut, as the plain pipeline cuts it
    assert bool(long.images.isfinite().all())
    assert [fingerprint(part) for part in parts] == before
    assert torch.equal(torch.get_rng_state(), randomness[0])
    assert random.getstate() == randomness[1]
    json.dumps(defence.described(), allow_nan=False)


@pytest.mark.parametrize("name", DEFENSES)
def test_draws_as_it_says(name, pipe, given):
    assert DEFENSES[name].name == name
    assert isinstance(DEFENSES[name].embedded(), type(DEFENSES[name].published()))
    draws_as_it_says(DEFENSES[name], pipe, given.get(name))


@pytest.mark.parametrize("name", DEFENSES)
def test_what_no_defence_takes(name, pipe, given):
    kind, settings = DEFENSES[name], given.get(name)
    for wrong, message in (({"steps": 0}, "steps = 0"), ({"guidance": -1.0}, "guidance = -1")):
        with pytest.raises(ValueError, match=message):
            kind(pipe, **(SAMPLER | wrong), concept=CIRCLE, settings=settings)
    other = DEFENSES["ams" if name.startswith("sld") else "sld-weak"].published()
    with pytest.raises(TypeError, match=f"must be settings of '{name}'"):
        kind(pipe, **SAMPLER, concept=CIRCLE, settings=other)
    defence = kind(pipe, **SAMPLER, concept=CIRCLE, settings=settings)
    for prompts, seeds, message in ((["a", "b"], [1], "seeds has 1 entries for 2 prompts"), ([], [], "at least one")):
        with pytest.raises(ValueError, match=message):
            defence.make(prompts, seeds)


# Broken defences


class Broken(Plain):
    name = "broken"

    def described(self) -> dict[str, Any]:
        return {}


class Shared(Broken):
    """One noise for all images of a batch."""

    def drawn(self, embeds, seeds):
        return super().drawn(embeds, seeds[:1] * len(seeds))


class Neighbours(Broken):
    """Encodings that lean on what stands beside them."""

    def encoded(self, prompts):
        c = super().encoded(prompts)
        return c + c.mean(dim=0, keepdim=True)


class Deaf(Broken):
    """Whatever the seeds."""

    def drawn(self, embeds, seeds):
        return super().drawn(embeds, [0] * len(seeds))


class Fresh(Broken):
    """Noise that no seed decides."""

    def encoded(self, prompts):
        c = super().encoded(prompts)
        return c + torch.randn(c.shape)


class Unbounded(Broken):
    def drawn(self, embeds, seeds):
        return 3 * super().drawn(embeds, seeds) - 1


class Untold(Broken):
    def described(self) -> dict[str, Any]:
        return {"scale": float("nan")}


class Meddling(Broken):
    def drawn(self, embeds, seeds):
        with torch.no_grad():
            self.pipe.unet.conv_in.bias.add_(1e-6)
        return super().drawn(embeds, seeds)


def test_the_control_is_sound(pipe):
    draws_as_it_says(Broken, pipe, Nothing())


@pytest.mark.parametrize("kind", [Shared, Neighbours, Deaf, Fresh, Unbounded, Untold, Meddling])
def test_a_defence_that_draws_otherwise_is_caught(kind, pipeline_folder):
    with pytest.raises((AssertionError, ValueError)):
        draws_as_it_says(kind, load_pipeline(pipeline_folder))
