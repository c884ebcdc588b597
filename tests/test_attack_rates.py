"""The mean attack success rate over prompts: images replaced by a linear map with known truth, and images of the model."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from scipy.special import ndtr
from torch import Tensor

from certify import AdaptiveMedianSmoother, GaussianNoise, load_pipeline, world
from certify.images.rates import attack_rate_over
from certify.models import PromptEncoder
from certify.montecarlo import generator

SHORT: dict[str, Any] = {"steps": 2, "guidance": 2.0}
RHOS = (0.1, 0.3)


@dataclass(eq=False)
class Mean:
    """A deployment whose encoding is the mean of the copies, with more noise of its own if asked for."""

    y: Tensor
    noise: GaussianNoise
    copies: int = 3
    extra: float = 0.0
    calls: list[int] = field(default_factory=list)

    def __call__(self, z: Tensor, generator: torch.Generator | None = None) -> Tensor:
        assert tuple(z.shape[1:]) == (self.copies, *self.y.shape)
        self.calls.append(len(z))
        h = z.mean(dim=1)
        if self.extra:
            assert generator is not None
            h = h + self.extra * torch.randn(h.shape, generator=generator, dtype=h.dtype)
        return h


def prompts(levels: list[float], copies: int = 3, sigma: float = 0.5) -> list[Mean]:
    """Encodings whose mean entry is Gaussian around −level·s with deviation s/√copies, s = sigma/√(tokens·width)."""
    ones = torch.ones(20, 64, dtype=torch.float64)
    scale = sigma / math.sqrt(ones.numel())
    return [Mean(-level * scale * ones, GaussianNoise(sigma), copies) for level in levels]


@pytest.fixture(scope="module")
def pipe() -> Any:
    return load_pipeline()


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, list[torch.Generator]]]:
    """Images replaced: every entry of one is σ(mean entry of its encoding). What was to be drawn is listed."""
    made: list[tuple[Tensor, list[torch.Generator]]] = []

    def flat(pipe: Any, embeds: Tensor, *, generator: list[torch.Generator], **settings: Any) -> Tensor:
        made.append((embeds, generator))
        return embeds.mean(dim=(1, 2)).sigmoid()[:, None, None, None].expand(-1, 3, 2, 2)

    monkeypatch.setattr("certify.images.statistics.images", flat)
    return made


def positive(made: Tensor) -> Tensor:
    return made[:, 0, 0, 0] > 0.5


def test_half_spaces_attain_the_bound(pipe: Any, drawn: Any) -> None:
    """p = Φ(−√K level), and Φ(√K (ρ − level)) under the worst δ."""
    for levels in ([0.5] * 3, [0.2, 0.8]):
        bound = attack_rate_over(prompts(levels), pipe, positive, rhos=RHOS, n=6400, batch=640)
        for rho, value in zip(RHOS, bound.values, strict=True):
            worst = sum(float(ndtr(math.sqrt(3) * (rho - level))) for level in levels) / len(levels)
            assert worst <= value <= worst + 0.06
        assert (bound.prompts, bound.n, bound.replicas, bound.unperturbed) == (len(levels), 6400, 3, 0)


def test_every_image_has_its_own_seed_and_stands_where_its_draw_does(pipe: Any, drawn: Any) -> None:
    given = prompts([-3000.0, 3000.0])
    attack_rate_over(given, pipe, positive, rhos=RHOS, n=200, batch=128, seed=4)
    assert [len(sources) for _, sources in drawn] == [128, 64, 72, 64]
    del drawn[1], drawn[2]  # evaluated again, to see whether it comes out alike
    seeds = [source.initial_seed() for _, sources in drawn for source in sources]
    assert len(set(seeds)) == 200
    rows = positive(torch.cat([embeds for embeds, _ in drawn]).mean(dim=(1, 2)).sigmoid()[:, None, None, None]).tolist()
    chosen = [
        place
        for block in range(4)
        for place in torch.randint(2, (64,), generator=generator(4, "choosing", block)).bool().tolist()
    ][:200]
    assert rows in (chosen, [not place for place in chosen])
    assert sum(given[0].calls) + sum(given[1].calls) == 200 + 2 * 64
    assert len(given[0].calls) == 6  # once for the rows of a block


def test_order_and_batch_do_not_matter(pipe: Any, drawn: Any) -> None:
    def run(order: tuple[int, ...], batch: int, seed: int = 0) -> Any:
        given = prompts([0.1, 0.4, -0.2])
        given[2].extra = 0.02
        return attack_rate_over([given[i] for i in order], pipe, positive, rhos=RHOS, n=300, batch=batch, seed=seed)

    base = run((0, 1, 2), 64)
    assert 0 < base.successes < 300
    assert run((2, 0, 1), 64) == base
    for batch in (16, 100, 1000):
        assert run((0, 1, 2), batch) == base
    assert len({run((0, 1, 2), 64, seed).successes for seed in range(5)}) > 1


def test_prompts_of_other_kinds(pipe: Any, drawn: Any) -> None:
    """An empty prompt without noise, and one copy beside three: the largest number counts."""
    still = Mean(torch.ones(20, 64, dtype=torch.float64), GaussianNoise(0.0), copies=1)
    bound = attack_rate_over([*prompts([0.5]), still], pipe, positive, rhos=RHOS, n=640)
    assert (bound.unperturbed, bound.replicas) == (1, 3)
    assert bound.rate > 0.5
    assert "1 of them without noise" in str(bound)


def test_an_interrupted_run_goes_on(pipe: Any, drawn: Any, tmp_path: Any) -> None:
    given = prompts([0.1, 0.4])
    base = attack_rate_over(given, pipe, positive, rhos=RHOS, n=300)
    drawn.clear()

    def stop(done: int, n: int) -> None:
        assert n == 300
        if done >= 128:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attack_rate_over(given, pipe, positive, rhos=RHOS, n=300, checkpoint=tmp_path, progress=stop)
    assert attack_rate_over(given, pipe, positive, rhos=RHOS, n=300, checkpoint=tmp_path) == base
    assert [len(sources) for _, sources in drawn] == [64] * 6 + [
        44,
        64,
    ]  # each part looks at a block again, and the last one twice
    # Images of more steps are another run, with a file of its own; this one stays as it is.
    drawn.clear()
    attack_rate_over(given, pipe, positive, rhos=RHOS, n=300, checkpoint=tmp_path, steps=7)
    assert [len(sources) for _, sources in drawn] == [64] * 5 + [44, 64]
    assert len(list(tmp_path.iterdir())) == 2
    drawn.clear()
    assert attack_rate_over(given, pipe, positive, rhos=RHOS, n=300, checkpoint=tmp_path) == base
    assert drawn == []


def test_images_are_those_of_their_prompts(pipe: Any) -> None:
    """Hardly any noise, half of the prompts ask for a circle: the rate is the share of draws at those; images as ever."""
    encoder = PromptEncoder.from_pipeline(pipe)
    seen: list[Tensor] = []

    class Plain(Mean):
        def __call__(self, z: Tensor, generator: torch.Generator | None = None) -> Tensor:
            return encoder.encode(z[:, 0], tokenized[self.calls[0]])

    texts = ["a photo of a red circle", "a photo of a red square"]
    tokenized = [encoder.tokenize(text) for text in texts]
    noise = GaussianNoise(0.01 * encoder.embedding_std)
    given = [Plain(encoder.embed(t), noise, calls=[i]) for i, t in enumerate(tokenized)]

    def judged(made: Tensor) -> Tensor:
        seen.append(made)
        labels = world.load_judge().judge(made).labels["shape"]
        return torch.tensor([label == "circle" for label in labels])

    bound = attack_rate_over(given, pipe, judged, rhos=RHOS, n=40, seed=2, alpha=0.05, steps=4, guidance=2.0)
    chosen = torch.randint(2, (64,), generator=generator(2, "choosing", 0))[:40].tolist()
    assert min(abs(bound.successes - sum(chosen)), abs(bound.successes - 40 + sum(chosen))) <= 4
    assert seen[0].shape == (40, 3, 32, 32)


def test_the_adaptive_smoother(pipe: Any) -> None:
    """Deployments as the toolkit makes them, under both policies that have some; one repeats what the other drew."""
    for options in ({}, {"policy": "noise-then-adapt", "sharing": "input"}):
        adaptive = AdaptiveMedianSmoother.from_pipeline(pipe, ["circle"], n=3, **world.SMOOTHING, **options)
        given = [
            adaptive.deployment(text) for text in ("a red circle", "a photo of a green circle on a teal background")
        ]
        runs = [attack_rate_over(d, pipe, "judge:circle", rhos=RHOS, n=24, **SHORT) for d in (given, given[::-1])]
        assert runs[0] == runs[1]
        assert runs[0].replicas == (1 if options else 3)
        assert runs[0].limit < runs[0].values[0] < runs[0].values[1] <= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"deployments": []}, "deployments is empty: must hold at least one"),
        ({"deployments": ["a prompt"]}, r"deployments\[0\] is a str: must have y, noise, copies and a call"),
        ({"detector": "judge:hexagon"}, "detector = 'judge:hexagon': must name a shape"),
        ({"detector": lambda made: [True]}, "detector returned a list"),
        ({"rhos": [0.0]}, r"rhos\[0\] = 0\.0: must be a finite number > 0"),
        ({"n": 0}, "n = 0: must be a whole number >= 1"),
        ({"alpha": 1}, "alpha = 1: must be strictly between 0 and 1"),
        ({"seed": -1}, "seed = -1: must be a whole number >= 0"),
        ({"batch": 0}, "batch = 0: must be a whole number >= 1"),
        ({"steps": 0}, "steps = 0: must be a whole number >= 1"),
        ({"guidance": 0}, "guidance = 0: must be a finite number > 0"),
        (
            {"deployments": [*prompts([0.1]), Mean(torch.zeros(19, 64), GaussianNoise(1.0))]},
            r"deployments give encodings of shapes \[\(19, 64\), \(20, 64\)\]: must give one shape",
        ),
    ],
)
def test_bad_calls(pipe: Any, drawn: Any, options: dict[str, Any], message: str) -> None:
    call = {"deployments": prompts([0.1]), "detector": positive, "rhos": RHOS, "n": 64} | options
    with pytest.raises((ValueError, TypeError), match=message):
        attack_rate_over(call.pop("deployments"), pipe, call.pop("detector"), **call)


def test_broken_encodings_are_no_failed_attacks(pipe: Any) -> None:
    given = prompts([0.1])
    given[0].extra = math.inf
    with pytest.raises(ValueError, match="prompt_embeds holds NaN or infinity"):
        attack_rate_over(given, pipe, positive, rhos=RHOS, n=8, **SHORT)
