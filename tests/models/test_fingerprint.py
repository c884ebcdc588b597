"""A fingerprint tells any two models apart and nothing else."""

from typing import Any

import pytest
import torch
from torch import nn

from certify.models import fingerprint

BASE = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.tensor(1.0)}


def test_order_layout_and_device_do_not_matter() -> None:
    turned = {"a": BASE["a"], "b": BASE["b"].t().contiguous().t()}
    assert not turned["b"].is_contiguous()
    assert fingerprint(turned) == fingerprint(BASE)
    assert len(fingerprint(BASE)) == 64


@pytest.mark.parametrize(
    "changed",
    [
        {**BASE, "a": torch.tensor(1.0000001)},
        {**BASE, "a": torch.tensor(1.0, dtype=torch.float64)},
        {**BASE, "a": torch.tensor([1.0])},
        {**BASE, "b": BASE["b"].reshape(3, 2)},
        {**BASE, "c": torch.tensor(1.0)},
        {"b": BASE["b"]},
        {"b": BASE["b"], "aa": BASE["a"]},
        {**BASE, "a": torch.tensor(-0.0), "z": torch.zeros(0)},
    ],
)
def test_any_change_shows(changed: dict[str, torch.Tensor]) -> None:
    assert fingerprint(changed) != fingerprint(BASE)


def test_the_sign_of_zero_shows() -> None:
    assert fingerprint({"a": torch.tensor(0.0)}) != fingerprint({"a": torch.tensor(-0.0)})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int64, torch.bool])
def test_all_dtypes(dtype: torch.dtype) -> None:
    assert fingerprint({"a": torch.ones(3).to(dtype)}) != fingerprint({"a": torch.zeros(3).to(dtype)})


def test_modules_and_pipelines(pipe: Any) -> None:
    layer = nn.Linear(2, 2)
    assert fingerprint(layer) == fingerprint(dict(layer.state_dict()))
    expected = {
        f"{part}.{name}": tensor
        for part in ("text_encoder", "unet", "vae")
        for name, tensor in getattr(pipe, part).state_dict().items()
    }
    assert fingerprint(pipe) == fingerprint(expected)


@pytest.mark.parametrize("model", [7, None, {"a": 1.0}])
def test_bad_calls(model: Any) -> None:
    with pytest.raises(TypeError, match="must be a"):
        fingerprint(model)
