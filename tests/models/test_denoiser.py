"""ε, v and x_0 parametrisations of one denoiser must give the same ε."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from certify.models import NoisePredictor

ALPHAS = torch.linspace(0.999, 0.01, 10)


class _Unet(torch.nn.Module):
    """Predicts what a perfect denoiser would, given that x_0 = 0.5 everywhere, in one parametrisation."""

    config = SimpleNamespace(sample_size=4, in_channels=2)

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.anchor = kind, torch.nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, t: int, encoder_hidden_states: Tensor) -> Any:
        a = ALPHAS[t]
        x0 = torch.full_like(x, 0.5)
        eps = (x - a.sqrt() * x0) / (1 - a).sqrt()
        out = {"epsilon": eps, "v_prediction": a.sqrt() * eps - (1 - a).sqrt() * x0, "sample": x0}[self.kind]
        return SimpleNamespace(sample=out + 0 * self.anchor)


def _predictor(kind: str) -> NoisePredictor:
    return NoisePredictor(_Unet(kind), SimpleNamespace(config={"prediction_type": kind}, alphas_cumprod=ALPHAS))


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("t", [0, 5, 9])
def test_epsilon_whatever_is_predicted(kind: str, t: int) -> None:
    x = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    a = ALPHAS[t]
    expected = (x - a.sqrt() * 0.5) / (1 - a).sqrt()
    torch.testing.assert_close(_predictor(kind)(x, t, torch.zeros(3, 1, 1)), expected, rtol=1e-4, atol=1e-4)


def test_one_latent_serves_all_rows_and_the_real_unet_agrees(pipe: Any, encoder: Any) -> None:
    predictor = NoisePredictor(pipe.unet, pipe.scheduler)
    assert predictor.latent_shape == (4, 4, 4)
    x = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    embeds = encoder.plain(["a red circle", "a wheel"])
    with torch.no_grad():
        own = pipe.unet(x.expand(2, -1, -1, -1), 500, encoder_hidden_states=embeds).sample
    assert torch.equal(predictor(x, 500, embeds), own)
    assert not torch.allclose(own[0], own[1])
    assert predictor(x, 500, embeds.requires_grad_(), grad=True).requires_grad


@pytest.mark.parametrize(
    ("x", "t", "message"),
    [
        (torch.zeros(1, 2, 4, 4), 10, r"t = 10: must be a whole number in 0 … 9"),
        (torch.zeros(1, 2, 4, 4), -1, r"t = -1: must be a whole number in 0 … 9"),
        (torch.zeros(2, 4, 4), 1, r"x_t has shape \(2, 4, 4\): must be \(1 or 3, 2, height, width\)"),
        (torch.zeros(2, 2, 4, 4), 1, r"x_t has shape \(2, 2, 4, 4\): must be"),
    ],
)
def test_bad_calls(x: Tensor, t: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _predictor("epsilon")(x, t, torch.zeros(3, 1, 1))


def test_an_unknown_prediction_type() -> None:
    with pytest.raises(ValueError, match="prediction_type = 'score': must be"):
        NoisePredictor(None, SimpleNamespace(config={"prediction_type": "score"}, alphas_cumprod=ALPHAS))
