"""ε, v and x_0 parametrisations of one denoiser must give the same ε; a whole trajectory must be its single points."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from certify.models import NoisePredictor, Trajectory

ALPHAS = torch.linspace(0.999, 0.01, 10)


class _Unet(torch.nn.Module):
    """Predicts what a perfect denoiser would, given that x_0 = 0.5 everywhere, in one parametrisation."""

    config = SimpleNamespace(sample_size=4, in_channels=2)

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.anchor = kind, torch.nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, t: Tensor, encoder_hidden_states: Tensor) -> Any:
        a = ALPHAS[t.long()][:, None, None, None]
        x0 = torch.full_like(x, 0.5)
        eps = (x - a.sqrt() * x0) / (1 - a).sqrt()
        out = {"epsilon": eps, "v_prediction": a.sqrt() * eps - (1 - a).sqrt() * x0, "sample": x0}[self.kind]
        return SimpleNamespace(sample=out + 0 * self.anchor)


def _predictor(kind: str) -> NoisePredictor:
    return NoisePredictor(_Unet(kind).eval(), SimpleNamespace(config={"prediction_type": kind}, alphas_cumprod=ALPHAS))


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


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_along_a_trajectory_each_point_has_its_own_level(kind: str) -> None:
    x = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([9.0, 5.0, 0.0])
    trajectory = Trajectory(x, t, ALPHAS[t.long()])
    a = ALPHAS[t.long()][:, None, None, None]
    expected = (x - a.sqrt() * 0.5) / (1 - a).sqrt()
    for batch in (1, 2, 64):
        made = _predictor(kind).along(trajectory, torch.zeros(4, 1, 1), batch=batch)
        torch.testing.assert_close(made, expected.expand(4, -1, -1, -1, -1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("batch", [1, 4, 64])
def test_along_is_every_pair_of_an_encoding_and_a_point(pipe: Any, encoder: Any, batch: int) -> None:
    predictor = NoisePredictor(pipe.unet, pipe.scheduler)
    x = torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    times = [900, 400, 20]
    trajectory = Trajectory(x, torch.tensor(times).double(), pipe.scheduler.alphas_cumprod[times])
    embeds = encoder.plain(["a red circle", "a wheel"])
    made = predictor.along(trajectory, embeds, batch=batch)
    assert made.shape == (2, 3, 4, 4, 4)
    for i, j in ((0, 0), (0, 2), (1, 1), (1, 2)):
        one = predictor(x[j : j + 1], times[j], embeds[i : i + 1])[0]
        torch.testing.assert_close(made[i, j], one, rtol=1e-4, atol=1e-5)
    assert not made.requires_grad
    assert predictor.along(trajectory, embeds.requires_grad_(), grad=True).requires_grad


def test_one_point_is_a_trajectory(pipe: Any, encoder: Any) -> None:
    predictor = NoisePredictor(pipe.unet, pipe.scheduler)
    x = torch.randn(4, 4, 4, generator=torch.Generator().manual_seed(0))
    point = predictor.at(x, 300)
    assert (len(point), float(point.t), float(point.weights)) == (1, 300.0, 1.0)
    assert float(point.alpha_bar) == float(pipe.scheduler.alphas_cumprod[300])
    embeds = encoder.plain(["a red circle"])
    torch.testing.assert_close(predictor.along(point, embeds)[:, 0], predictor(x[None], 300, embeds))


@pytest.mark.parametrize(
    ("x", "t", "message"),
    [
        (torch.zeros(1, 2, 4, 4), 10, r"t = 10: must be a whole number in 0 … 9"),
        (torch.zeros(1, 2, 4, 4), -1, r"t = -1: must be a whole number in 0 … 9"),
        (torch.zeros(1, 2, 4, 4), 2.5, r"t = 2\.5: must be a whole number in 0 … 9"),
        (torch.zeros(2, 4, 4), 1, r"x_t has shape \(2, 4, 4\): must be \(1 or 3, 2, height, width\)"),
        (torch.zeros(2, 2, 4, 4), 1, r"x_t has shape \(2, 2, 4, 4\): must be"),
    ],
)
def test_bad_calls(x: Tensor, t: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _predictor("epsilon")(x, t, torch.zeros(3, 1, 1))


def test_bad_trajectories() -> None:
    predictor = _predictor("epsilon")
    wide = Trajectory(torch.zeros(1, 3, 4, 4), torch.tensor([1.0]), torch.tensor([0.5]))
    with pytest.raises(ValueError, match=r"trajectory's x has shape \(1, 3, 4, 4\): must be \(points, 2, height"):
        predictor.along(wide, torch.zeros(1, 1, 1))
    with pytest.raises(ValueError, match=r"embeds has shape \(1, 1\): must be \(b, tokens, width\)"):
        predictor.along(wide, torch.zeros(1, 1))
    with pytest.raises(ValueError, match=r"x_t has shape \(1, 2, 4, 4\): must be \(2, height, width\)"):
        predictor.at(torch.zeros(1, 2, 4, 4), 1)
    with pytest.raises(ValueError, match=r"t = 10: must be a whole number in 0 … 9"):
        predictor.at(torch.zeros(2, 4, 4), 10)


def test_an_unknown_prediction_type() -> None:
    with pytest.raises(ValueError, match="prediction_type = 'score': must be"):
        NoisePredictor(None, SimpleNamespace(config={"prediction_type": "score"}, alphas_cumprod=ALPHAS))
