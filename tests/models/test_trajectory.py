"""A trajectory is what the pipeline's U-Net is given: checked by a hook, for schedulers of every convention."""

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from certify.images.generation import images
from certify.models import NoisePredictor, PromptEncoder, Trajectory, load_pipeline
from certify.models.sampling import image_source
from tests.pipelines import pipeline_folder_sd2

__all__ = ["pipeline_folder_sd2"]

PROMPT = "a red circle"

# diffusers hands a tensor to numpy in a way that numpy 2 announces to end.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SCHEDULERS: list[tuple[str, dict[str, Any]]] = [
    ("DDIMScheduler", {}),
    ("PNDMScheduler", {"skip_prk_steps": True}),
    ("EulerDiscreteScheduler", {}),
    ("EulerDiscreteScheduler", {"use_karras_sigmas": True}),
    ("EulerAncestralDiscreteScheduler", {}),
    ("DPMSolverMultistepScheduler", {}),
    ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    ("HeunDiscreteScheduler", {}),
    ("UniPCMultistepScheduler", {}),
]


@pytest.fixture(scope="module")
def velocity(pipeline_folder_sd2: Path) -> Any:
    """A pipeline that predicts v."""
    return load_pipeline(pipeline_folder_sd2)


@pytest.fixture
def with_scheduler(pipe: Any, velocity: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    def put(kind: str, name: str, options: dict[str, Any]) -> Any:
        chosen = {"epsilon": pipe, "v": velocity}[kind]
        chosen.set_progress_bar_config(disable=True)
        scheduler = getattr(diffusers, name).from_config(chosen.scheduler.config, **options)
        monkeypatch.setattr(chosen, "scheduler", scheduler)
        return chosen

    return put


def run(pipe: Any, *, seed: int, steps: int, guidance: float) -> list[tuple[Tensor, float]]:
    """What the pipeline's U-Net is given in the run that makes image 0 of a seed."""
    seen: list[tuple[Tensor, float]] = []
    handle = pipe.unet.register_forward_pre_hook(lambda m, args: seen.append((args[0].clone(), float(args[1]))))
    try:
        pipe(
            PROMPT,
            generator=[image_source(seed, 0)],
            num_inference_steps=steps,
            guidance_scale=guidance,
            output_type="latent",
        )
    finally:
        handle.remove()
    return seen


@pytest.mark.parametrize("guidance", [3.0, 1.0])
@pytest.mark.parametrize(("name", "options"), SCHEDULERS)
def test_points_are_what_the_pipelines_unet_sees(
    with_scheduler: Any, name: str, options: dict[str, Any], guidance: float
) -> None:
    pipe = with_scheduler("epsilon", name, options)
    seen = run(pipe, seed=5, steps=6, guidance=guidance)
    made = Trajectory.of(pipe, PROMPT, steps=6, seed=5, guidance=guidance)
    assert len(made) == len(seen) >= 6
    for (x, t), own_x, own_t in zip(seen, made.x, made.t, strict=True):
        assert t == float(own_t)
        for half in x:  # with guidance both branches are given the same latents
            torch.testing.assert_close(own_x, half, rtol=0, atol=1e-5)
    assert made.origin["scheduler"] == name
    assert made.origin["of"] == len(seen)


@pytest.mark.parametrize("kind", ["epsilon", "v"])
@pytest.mark.parametrize(
    ("name", "options"), [s for s in SCHEDULERS if s[0][:5] in ("DDIMS", "Euler")], ids=lambda v: str(v)
)
def test_noise_and_image_make_up_the_latent(
    with_scheduler: Any, monkeypatch: pytest.MonkeyPatch, kind: str, name: str, options: dict[str, Any]
) -> None:
    """x = √ᾱ x_0 + √(1−ᾱ) ε with the scheduler's own estimate of x_0: the levels are right, whatever the convention."""
    pipe = with_scheduler(kind, name, options)
    clean: list[Tensor] = []
    step = type(pipe.scheduler).step

    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        out = step(self, *args, **(kwargs | {"return_dict": True}))
        clean.append(out.pred_original_sample[0])
        return (out.prev_sample,)

    monkeypatch.setattr(type(pipe.scheduler), "step", watched)
    made = Trajectory.of(pipe, PROMPT, steps=5, seed=1, guidance=1.0)
    monkeypatch.undo()
    denoiser = NoisePredictor(pipe.unet, pipe.scheduler)
    epsilon = denoiser.along(made, PromptEncoder.from_pipeline(pipe).plain([PROMPT]))[0]
    a = made.alpha_bar[:, None, None, None]
    rebuilt = a.sqrt() * torch.stack(clean) + (1 - a).sqrt() * epsilon
    torch.testing.assert_close(rebuilt.float(), made.x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"use_karras_sigmas": True}], ids=str)
def test_levels_of_rounded_time_steps(
    with_scheduler: Any, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    """DPM++ with Karras' noise levels rounds the time step and not the level."""
    pipe = with_scheduler("v", "DPMSolverMultistepScheduler", options)
    clean: list[Tensor] = []
    convert = type(pipe.scheduler).convert_model_output

    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        clean.append(convert(self, *args, **kwargs)[0])
        return clean[-1][None]

    monkeypatch.setattr(type(pipe.scheduler), "convert_model_output", watched)
    made = Trajectory.of(pipe, PROMPT, steps=5, seed=1, guidance=1.0)
    denoiser = NoisePredictor(pipe.unet, pipe.scheduler)
    epsilon = denoiser.along(made, PromptEncoder.from_pipeline(pipe).plain([PROMPT]))[0]
    a = made.alpha_bar[:, None, None, None]
    rebuilt = a.sqrt() * torch.stack(clean) + (1 - a).sqrt() * epsilon
    torch.testing.assert_close(rebuilt.float(), made.x, rtol=1e-4, atol=1e-4)
    exact = torch.stack([pipe.scheduler.alphas_cumprod[int(t)] for t in made.t]).double()
    assert torch.allclose(exact, made.alpha_bar, rtol=1e-4) == (not options)


def test_the_run_starts_from_the_noise_of_image_0(pipe: Any, encoder: PromptEncoder) -> None:
    made = Trajectory.of(pipe, PROMPT, steps=4, seed=2, guidance=2.0)
    noise = torch.randn(1, 4, 4, 4, generator=image_source(2, 0))
    assert torch.equal(made.x[0], noise[0])
    # The pipeline is left alone, and images come from the same runs.
    seen: list[Tensor] = []
    handle = pipe.unet.register_forward_pre_hook(lambda m, args: seen.append(args[0][0].clone()))
    images(pipe, encoder.plain([PROMPT]), seed=2, steps=4, guidance=2.0)
    handle.remove()
    torch.testing.assert_close(torch.stack(seen), made.x)


def test_the_reference_decides_the_points(pipe: Any, encoder: PromptEncoder) -> None:
    settings: dict[str, Any] = {"steps": 4, "seed": 2, "guidance": 2.0}
    plain = Trajectory.of(pipe, PROMPT, **settings)
    encoding = encoder.plain([PROMPT])
    for given in (encoding, encoding[0]):
        assert torch.equal(Trajectory.of(pipe, given, **settings).x, plain.x)
    other = Trajectory.of(pipe, "the small wheel", **settings)
    assert torch.equal(other.x[0], plain.x[0])
    assert not torch.equal(other.x[1], plain.x[1])
    away = Trajectory.of(pipe, PROMPT, unconditional=encoder.plain(["the small wheel"]), **settings)
    assert not torch.equal(away.x[1], plain.x[1])
    assert plain.origin["conditioning"] != Trajectory.of(pipe, encoding, **settings).origin["conditioning"]


@pytest.mark.parametrize(
    ("points", "runs"), [(None, [0, 1, 2, 3, 4, 5, 6]), (1, [3]), (2, [0, 6]), (4, [0, 2, 4, 6]), ([1, 5], [1, 5])]
)
def test_a_subsequence(pipe: Any, points: Any, runs: list[int]) -> None:
    whole = Trajectory.of(pipe, PROMPT, steps=7, guidance=2.0)
    part = Trajectory.of(pipe, PROMPT, steps=7, guidance=2.0, points=points)
    assert torch.equal(part.x, whole.x[runs])
    assert torch.equal(part.t, whole.t[runs])
    assert torch.equal(part.alpha_bar, whole.alpha_bar[runs])
    assert part.origin["runs"] == runs
    assert part.weights.tolist() == pytest.approx([1 / len(runs)] * len(runs))


def test_weights_are_shares(pipe: Any) -> None:
    made = Trajectory.of(pipe, PROMPT, steps=4, guidance=2.0, points=2, weights=[1, 3])
    assert made.weights.tolist() == [0.25, 0.75]


def test_saved_and_restored(pipe: Any, tmp_path: Path) -> None:
    made = Trajectory.of(pipe, PROMPT, steps=4, guidance=2.0, points=3, weights=[1, 2, 1])
    loaded = Trajectory.load(made.save(tmp_path / "there" / "points.safetensors"))
    assert loaded.origin == made.origin
    for name, tensor in made.tensors().items():
        assert torch.equal(tensor, loaded.tensors()[name])
    assert repr(loaded) == repr(made)
    assert PROMPT not in str(made.record())


def test_what_is_no_trajectory_is_refused(pipe: Any, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    made = Trajectory.of(pipe, PROMPT, steps=2, guidance=2.0)
    with pytest.raises(ValueError, match="record has format 'x', version 1: must be 'certify trajectory'"):
        Trajectory.restored(made.record() | {"format": "x"}, made.tensors())
    with pytest.raises(ValueError, match="tensors lacks alpha_bar: must have x, t, alpha_bar, weights"):
        Trajectory.restored(made.record(), {k: v for k, v in made.tensors().items() if k != "alpha_bar"})
    with pytest.raises(FileNotFoundError, match="no such file"):
        Trajectory.load(tmp_path / "none.safetensors")
    save_file(made.tensors(), tmp_path / "bare.safetensors")
    with pytest.raises(ValueError, match="record has format None"):
        Trajectory.load(tmp_path / "bare.safetensors")
    (tmp_path / "text.safetensors").write_text("x" * 100)
    with pytest.raises(ValueError, match="is not a saved trajectory"):
        Trajectory.load(tmp_path / "text.safetensors")


X, T, A = torch.zeros(2, 4, 4, 4), torch.tensor([9.0, 1.0]), torch.tensor([0.1, 0.9])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((X[0], T, A), r"x has shape \(4, 4, 4\): must be \(points, channels, height, width\)"),
        ((X[:0], T, A), r"x has shape \(0, 4, 4, 4\): must be"),
        ((X + float("nan"), T, A), "x holds NaN or infinity"),
        ((X, T[:1], A), r"t has shape \(1,\): must be \(2,\), one entry a point"),
        ((X, T, A[:, None]), r"alpha_bar has shape \(2, 1\): must be \(2,\)"),
        ((X, T, A, torch.ones(3) / 3), r"weights has shape \(3,\): must be \(2,\)"),
        ((X, -T, A), r"t holds -9.0: every entry must be >= 0"),
        ((X, T, 2 * A), r"alpha_bar = \[.*\]: every entry must be in \[0, 1\]"),
        ((X, T, A, torch.ones(2)), r"weights = \[1.0, 1.0\]: must be > 0 with sum one"),
        ((X, T, A, torch.tensor([1.0, 0.0])), r"weights = \[1.0, 0.0\]: must be > 0 with sum one"),
        ((X, "9.0", A), "t is a str: must be a torch tensor"),
    ],
)
def test_bad_trajectories(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        Trajectory(*arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps = 0: must be a whole number >= 1"),
        ({"seed": -1}, "seed = -1: must be a whole number >= 0"),
        ({"guidance": 0}, "guidance = 0: must be a finite number > 0"),
        ({"points": 0}, "points = 0: must be a whole number >= 1"),
        ({"points": 4}, "points = 4: must be at most 3, the U-Net's runs in this sampler"),
        ({"points": [0, 3]}, r"points = \[0, 3\]: must be increasing numbers in 0 … 2"),
        ({"points": [1, 1]}, r"points = \[1, 1\]: must be increasing numbers"),
        ({"points": []}, r"points = \[\]: must be increasing numbers"),
        ({"points": "all"}, "points = 'all': must be a whole number"),
        ({"weights": [1.0]}, r"weights has shape \(1,\): must be \(3,\)"),
        ({"weights": [1.0, 1.0, -1.0]}, "must be > 0 with sum one"),
        ({"conditioning": torch.zeros(2, 16, 32)}, r"conditioning has shape \(2, 16, 32\): must be \(tokens, width\)"),
        ({"unconditional": torch.zeros(16)}, r"unconditional has shape \(16,\): must be \(tokens, width\)"),
        ({"conditioning": 3}, r"conditioning has shape \(\): must be \(tokens, width\)"),
    ],
)
def test_bad_calls(pipe: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        Trajectory.of(pipe, **({"conditioning": PROMPT, "steps": 3} | options))
