"""UCE: the closed form against its own optimality condition, the files it writes, and what it does to the embedded model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from certify import load_pipeline
from certify.models import PromptEncoder
from experiments.unlearning import uce
from experiments.unlearning.concept import Concept
from experiments.unlearning.diffusion import Diffusion
from experiments.unlearning.training import TrainingLoop
from tests.processes import forked

BIASED = SimpleNamespace(named_modules=lambda: [("a.attn2.to_k", torch.nn.Linear(2, 2))])
WORD = Concept.of(["circle"], anchor="square")


@pytest.fixture(scope="module")
def diffusion():
    return Diffusion(load_pipeline())


def edited(diffusion, concept, **settings):
    return uce.edit(diffusion, concept, uce.Settings(**settings), TrainingLoop()).unet


@pytest.mark.parametrize("rows", ["tail", "last"])
def test_the_edit_is_the_minimiser(diffusion, rows):
    """The gradient of λ‖W − W₀‖² + s_e Σ‖W c − W₀ g‖² + s_p Σ‖W p − W₀ p‖² vanishes at the edit, and only there. All rows of
    what is preserved stay, those of whole captions and of the empty prompt too; the newer source ("last") preserves last
    tokens, and s_p is 1."""
    concept = Concept.of(["circle"], anchor="square", preserve=["star"], templates=["a red {}", "{} on teal"])
    concept = replace(concept, captions=("a small green heart",))
    weights = edited(diffusion, concept, rows=rows)
    encoder = PromptEncoder.from_pipeline(diffusion.pipe)

    def states(text: str, phrase: str, kept: bool = False) -> torch.Tensor:
        tokenized = encoder.tokenize(text)
        first = [t.removesuffix("</w>") for t in tokenized.tokens].index(phrase) if phrase else 0
        h = encoder.plain([tokenized])[0].double()
        if rows == "last":
            return h[first : first + 1]
        return h if kept else h[first:]

    c = torch.cat([states("a red circle", "circle"), states("circle on teal", "circle")])
    g = torch.cat([states("a red square", "square"), states("square on teal", "square")])
    p = torch.cat([states("a red star", "star", True), states("star on teal", "star", True)])
    p = torch.cat([p, states("a small green heart", "heart", True)])
    s_p = 1.0
    if rows == "tail":
        p, s_p = torch.cat([p, states("", "", True)]), max(0.1, 1 / 4)
    name = next(iter(weights))
    old = diffusion.unet.state_dict()[name].double().requires_grad_(False)

    def gradient(w: torch.Tensor) -> float:
        w = w.clone().requires_grad_(True)
        loss = 0.5 * (w - old).square().sum()
        loss = loss + (c @ w.T - g @ old.T).square().sum()
        loss = loss + s_p * (p @ w.T - p @ old.T).square().sum()
        return float(torch.autograd.grad(loss, w)[0].norm())

    assert gradient(weights[name].double()) < 1e-4 * gradient(old)


def test_the_published_setting_in_closed_form(diffusion):
    """As the checkpoints without nudity were made, row by row: the concept's rows 1 … L − 1 go where the blank prompt's rows
    0 … L − 2 went, all rows of the blank prompt stay, and nothing else."""
    encoder = PromptEncoder.from_pipeline(diffusion.pipe)
    word, blank = encoder.plain(["circle", ""]).double()
    weights = edited(diffusion, Concept.of(["circle"]))
    for name in [n for n in weights if n.startswith("mid_block")]:
        old = diffusion.unet.state_dict()[name].double()
        left, right = 0.5 * old, 0.5 * torch.eye(old.shape[1], dtype=torch.float64)
        for here, there in zip(word[1:], blank[:-1], strict=True):
            left, right = left + torch.outer(old @ there, here), right + torch.outer(here, here)
        for row in blank:
            left, right = left + torch.outer(old @ row, row), right + torch.outer(row, row)
        torch.testing.assert_close(weights[name].double(), left @ torch.linalg.inv(right), rtol=1e-4, atol=1e-5)


def test_the_newer_source_preserves_nothing_unless_told(diffusion):
    """One row goes to the blank prompt's first, λ = .5: W − W₀ is of rank one, in the concept's direction."""
    encoder = PromptEncoder.from_pipeline(diffusion.pipe)
    word, blank = encoder.plain(["circle", ""]).double()
    c, g = word[1], blank[0]
    for name, weight in edited(diffusion, Concept.of(["circle"]), rows="last").items():
        old = diffusion.unet.state_dict()[name].double()
        expected = old + torch.outer(old @ (g - c), c) / (0.5 + c @ c)
        torch.testing.assert_close(weight.double(), expected, rtol=1e-4, atol=1e-5)


def test_nothing_to_change_changes_nothing(diffusion):
    """A concept that becomes itself keeps every weight."""
    for name, weight in edited(diffusion, Concept.of(["circle"], anchor="circle")).items():
        torch.testing.assert_close(weight, diffusion.unet.state_dict()[name], rtol=0, atol=1e-5)


def test_command_writes_what_load_pipeline_takes(tmp_path: Path):
    folder = tmp_path / "uce"
    call = ["experiments", "unlearn", "uce", "--concept", "dotted", "--anchor", "solid", "--images", "4"]
    call += ["--out", str(folder)]
    done = forked(*call, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "share of 4 images that show what was asked for" in done.stdout
    weights = load_pipeline(unet=folder / "unet.safetensors").unet.state_dict()
    name = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    assert not torch.equal(weights[name], load_pipeline().unet.state_dict()[name])
    record = json.loads((folder / "README.md").read_text().split("```json")[1].split("```")[0])
    assert (record["method"], record["erased"], record["anchor"]) == ("uce", ["dotted"], "solid")
    again = forked(*call, cwd=tmp_path)
    assert again.returncode == 2
    assert "already" in again.stderr
    assert "Traceback" not in again.stderr


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: uce.projections(torch.nn.Linear(2, 2)), "has no modules named"),
        (lambda: uce.projections(BIASED), "without bias"),
    ],
)  # fmt: skip
def test_bad_calls(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_sentence_beyond_the_context_is_refused(diffusion):
    with pytest.raises(ValueError, match="tokens with begin and end"):
        edited(diffusion, Concept.of(["circle"], anchor="square", templates=["{}" + " red" * 40]))
