"""Calls that are wrong in ways that users found: each is refused by name, before anything is drawn."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

import certify
from certify.adaptive import AdaptiveMedianSmoother
from certify.adaptive.certification import check_options
from certify.certificate import Certificate
from certify.montecarlo import draw_all
from certify.noise import GaussianNoise
from certify.statements.ask import MSE, ask

Y = torch.zeros(2)


def never(z: torch.Tensor) -> torch.Tensor:
    pytest.fail("drew")


@pytest.mark.parametrize(
    ("statements", "said"),
    [
        (["x"], r"statements\[0\] = 'x': must be a statement"),
        ([MSE(1.0), MSE], r"statements\[1\] = <class"),
        (MSE(1.0), r"statements = MSE.*: must be a list of statements"),
        (5, "statements = 5: must be a list"),
        ([], "statements is empty: must hold at least one statement"),
    ],
)
def test_statements(statements: Any, said: str) -> None:
    with pytest.raises((TypeError, ValueError), match=said):
        ask(never, Y, 0.5, statements)


@pytest.mark.parametrize("y", [[], torch.zeros(0, 3)])
def test_an_input_without_numbers(y: Any) -> None:
    with pytest.raises(ValueError, match=r"y has shape .*: must hold at least one number"):
        certify.mse_bound(never, y, 0.5, rho=1.0)
    with pytest.raises(ValueError, match=r"y has shape .*: must hold at least one number"):
        certify.event_bound(never, y, 0.5, rho=1.0)


@pytest.mark.parametrize("value", [10**5000, -(10**5000)], ids=["positive", "negative"])
@pytest.mark.parametrize("name", ["seed", "n", "batch_size"])
def test_numbers_too_long_to_be_written(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=rf"^{name} = -?2\*\*16609…: must be a whole number below"):
        certify.mse_bound(never, Y, 0.5, rho=1.0, **{name: value})


def test_options_of_a_prompts_certificate() -> None:
    with pytest.raises(TypeError, match="private = 'yes': must be True or False"):
        check_options({"private": "yes"})  # type: ignore[typeddict-item]
    with pytest.raises(ValueError, match="detector = 'foo': must be"):
        check_options({"detector": "foo"})


@pytest.mark.parametrize("prompts", [5, None, [5], ["a circle", b"x"]])
def test_prompts_that_are_none(prompts: Any) -> None:
    with pytest.raises(TypeError, match=r"prompts = .*: must be a prompt or a list of prompts"):
        AdaptiveMedianSmoother.encode(None, prompts)  # type: ignore[arg-type]


def test_files_and_links_in_place_of_folders(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    os.symlink(tmp_path / "nowhere", tmp_path / "link")
    made = Certificate.of(certify.mse_bound(torch.sin, Y, 0.5, rho=1.0, n=64))
    for name in ("file", "link"):
        with pytest.raises(FileExistsError, match=r"folder = '.*': is a file; must be a folder"):
            made.save(tmp_path / name)
        with pytest.raises(FileExistsError, match=r"checkpoint = '.*': is a file; must be a folder"):
            certify.mse_bound(never, Y, 0.5, rho=1.0, checkpoint=tmp_path / name)
    (tmp_path / "run").mkdir()
    os.symlink(tmp_path / "nowhere", tmp_path / "run" / "certificate.json")
    with pytest.raises(FileExistsError, match="holds a certificate already"):
        made.save(tmp_path / "run")
    assert (tmp_path / "run" / "certificate.json").is_symlink()
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("CUSOLVER_STATUS_ALLOC_FAILED"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("RESOURCE_EXHAUSTED: Failed to allocate request"),
        MemoryError(),
    ],
)
def test_other_words_for_memory_that_ran_out(error: Exception) -> None:
    def f(z: torch.Tensor) -> torch.Tensor:
        if len(z) > 9:
            raise error
        return z

    how = {"n": 100, "seed": 0, "stream": "bounding"}
    noise = GaussianNoise(1.0)
    assert torch.equal(draw_all(f, Y, noise, **how), draw_all(lambda z: z, Y, noise, **how))

    def g(z: torch.Tensor) -> torch.Tensor:
        raise error

    with pytest.raises(type(error), match=str(error) or "f ran out of memory on a batch of one input"):
        draw_all(g, Y, noise, **how)


def test_a_part_that_was_put_in_later() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2)).eval()
    model[0].inert = torch.nn.Identity()
    with pytest.raises(ValueError, match=r"its part '0.inert'\): is in training mode.*by quantization say"):
        certify.mse_bound(model, Y, 0.5, rho=1.0, n=64)
