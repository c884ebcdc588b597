"""The frame that all methods share: concepts and their sentences, filters of parameters on Stable Diffusion v1.4's
names, the training loop, a pipeline taken apart, the files and the command."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from certify import load_pipeline
from experiments import __main__ as commands
from experiments.sentences import filled
from experiments.unlearning import METHODS, parameters, saving, uce
from experiments.unlearning.concept import Concept
from experiments.unlearning.diffusion import Diffusion
from experiments.unlearning.measure import prompts
from experiments.unlearning.method import Edit
from experiments.unlearning.training import Rng, TrainingLoop
from experiments.world import language, scenes
from tests.pipelines import WIDTH, save_pipeline

# Concepts


@pytest.mark.parametrize(
    ("template", "phrase", "expected"),
    [
        ("a photo of a {}", "circle", "a photo of a circle"),
        ("a photo of a {}", "orange", "a photo of an orange"),
        ("a photo of an {}", "circle", "a photo of a circle"),
        ("a photo of a {}", "Eiffel tower", "a photo of an Eiffel tower"),
        ("a {} orange cross", "", "an orange cross"),
        ("a {} cross", "", "a cross"),
        ("a red heart, {}, navy background", "", "a red heart, navy background"),
        ("a star in {} style on lilac", "", "a star on lilac"),
        ("a house, in the style of {}", "", "a house"),
        ("a house in the style of {}", "Van Gogh", "a house in the style of Van Gogh"),
        ("{}'s house", "", "house"),
        ("{}", "", ""),
        ("panda {}", "x", "panda x"),  # "a" inside a word is no article
    ],
)
def test_a_phrase_in_its_place(template, phrase, expected):
    assert filled(template, phrase) == expected


def test_a_sentence_says_the_same_four_times():
    concept = Concept.of(
        ["oval"], anchor="cube", neutral="shape", preserve=["star"], templates=["a red {}", "a {} on teal"]
    )
    said = {s.target: s for s in concept.sentences(40, random.Random(0))}
    assert set(said) == {"a red oval", "an oval on teal"}
    sentence = said["an oval on teal"]
    assert (sentence.anchor, sentence.neutral, sentence.retained) == (
        "a cube on teal",
        "a shape on teal",
        "a star on teal",
    )
    assert concept.sentences(5, random.Random(3)) == concept.sentences(5, random.Random(3))
    assert concept.sentences(40, random.Random(3)) != concept.sentences(40, random.Random(4))


@pytest.mark.parametrize("name", [*scenes.SHAPES, *scenes.STYLES])
def test_the_embedded_world_has_its_shapes_and_styles(name):
    concept = Concept.embedded(name, sentences=20)
    values = scenes.SHAPES if name in scenes.SHAPES else scenes.STYLES
    assert concept.head == ("shape" if name in scenes.SHAPES else "style")
    assert concept.kind == ("object" if concept.head == "shape" else "style")
    assert set(concept.preserve) | {name} == set(values)
    assert name not in concept.preserve
    assert concept.anchor in concept.preserve
    assert concept.erase == (name,)
    assert concept.implicit
    assert name not in concept.implicit
    others = {w for v in values if v != name for w in (language.SYNONYMS | language.STYLE_WORDS)[v]} | set(
        concept.preserve
    )
    for sentence in concept.sentences(40, random.Random(0)):
        assert name in sentence.target
        assert name not in sentence.neutral
        if concept.kind == "object":  # a caption of a shape names no other one
            assert not others & set(sentence.target.replace(",", "").split())


def test_prompts_of_the_embedded_world_ask_for_what_they_say():
    concept = Concept.embedded("circle", sentences=20)
    asked = prompts(concept, 30)
    circle = {"shape": "circle"}
    assert all("circle" in text and wanted == circle for text, wanted in asked["named"])
    assert all("circle" not in text and wanted == circle for text, wanted in asked["implicit"])
    assert all(any(w in text for w in concept.implicit) for text, _ in asked["implicit"])
    assert all(wanted["shape"] != "circle" and wanted["shape"] in text for text, wanted in asked["others"])
    with pytest.raises(ValueError, match="must be a concept of an embedded world"):
        prompts(Concept.of(["circle"]), 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Concept.of([]), r"erase = \[\]"),
        (lambda: Concept.of([" "]), "none of them empty"),
        (lambda: Concept.of(["circle"], templates=["a red"]), "one '{}' each"),
        (lambda: Concept.of(["circle"], templates=["{} {}"]), "one '{}' each"),
        (lambda: Concept.of(["circle"], templates=[]), "one '{}' each"),
        (lambda: Concept.of(["circle"], kind="colour"), "kind = 'colour'"),
        (lambda: Concept.embedded("hexagon"), "concept = 'hexagon'"),
    ],
)  # fmt: skip
def test_wrong_concepts(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("argument", ["erase", "preserve", "templates"])
def test_a_text_is_no_list_of_texts(argument):
    with pytest.raises(TypeError, match=f"{argument} = 'circle': must be a list"):
        Concept.of(**{"erase": ["circle"], argument: "circle"})


# Parameters, on Stable Diffusion v1.4's structure and names


@pytest.fixture(scope="module")
def sd14(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline folder whose U-Net has v1.4's blocks, narrow and random; nothing else is as wide as the encoding."""
    from diffusers import UNet2DConditionModel

    folder = save_pipeline(tmp_path_factory.mktemp("sd14") / "pipe")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        UNet2DConditionModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
            block_out_channels=(12, 24, 48, 48),
            layers_per_block=2,
            norm_num_groups=4,
            attention_head_dim=4,
            cross_attention_dim=WIDTH,
        ).save_pretrained(folder / "unet")
    return folder


@pytest.fixture
def unet(sd14: Path):
    return load_pipeline(sd14).unet


def of_attention(unet: nn.Module, which: str) -> set[int]:
    """Parameters of the first or second attention of every transformer block, found by where the modules stand."""
    from diffusers.models.attention import BasicTransformerBlock

    blocks = [m for m in unet.modules() if isinstance(m, BasicTransformerBlock)]
    assert len(blocks) == 16  # 2 in each of 3 levels down, 1 in the middle, 3 in each of 3 levels up
    return {id(p) for block in blocks for p in getattr(block, which).parameters()}


def chosen(module: nn.Module, which: str) -> set[int]:
    return {id(p) for p in parameters.trainable(module, which).values()}


def test_filters_select_what_the_methods_mean(unet):
    everything = {id(p) for p in unet.parameters()}
    cross, self_ = of_attention(unet, "attn2"), of_attention(unet, "attn1")
    assert len(everything) == 686  # as Stable Diffusion v1.4's U-Net
    assert chosen(unet, "full") == everything
    assert chosen(unet, "xattn") == cross
    assert chosen(unet, "selfattn") == self_
    assert chosen(unet, "attn") == cross | self_
    assert chosen(unet, "noxattn") == everything - cross
    ends = (unet.time_embedding, unet.conv_norm_out, unet.conv_out)
    assert chosen(unet, "noxattn-old") == everything - cross - {id(p) for m in ends for p in m.parameters()}
    keys = {id(m.weight) for m in uce.projections(unet).values()}
    assert chosen(unet, "xattn-kv") == keys
    assert [len(chosen(unet, f)) for f in ("xattn-kv", "xattn", "attn", "noxattn", "noxattn-old")] == [
        32,
        80,
        160,
        606,
        598,
    ]


def test_keys_and_values_are_the_matrices_that_see_the_text(unet):
    """Of cross-attention the maps whose input is as wide as the text's encoding, and no others in the network."""
    wide = {name for name, m in unet.named_modules() if isinstance(m, nn.Linear) and m.in_features == WIDTH}
    assert wide == {name.removesuffix(".weight") for name in parameters.trainable(unet, "xattn-kv")}


@pytest.mark.parametrize("which", [f for f in parameters.FILTERS if f != "encoder"])
def test_gradients_flow_to_the_selected_and_no_others(unet, which):
    names = set(parameters.trainable(unet, which))
    unet(
        torch.ones(1, 4, 8, 8), torch.tensor([7]), encoder_hidden_states=torch.ones(1, 16, WIDTH)
    ).sample.sum().backward()
    assert {name for name, p in unet.named_parameters() if p.grad is not None} == names


def test_encoder_leaves_the_embeddings(epsilon):
    text = epsilon.pipe.text_encoder
    names = set(parameters.trainable(text, "encoder"))
    left = {name for name, _ in text.named_parameters()} - names
    assert len(left) == 2  # of tokens and of positions
    assert id(text.get_input_embeddings().weight) not in chosen(text, "encoder")
    assert len(names) == 2 * 16 + 2  # two layers, and the final norm


def test_wrong_filters(unet):
    with pytest.raises(ValueError, match="parameters = 'all'"):
        parameters.trainable(unet, "all")
    with pytest.raises(ValueError, match="selects nothing in a Linear"):
        parameters.trainable(nn.Linear(2, 2), "xattn")


# Training


class Killed(Exception):
    pass


def trained(loop: TrainingLoop, *, steps: int = 12, kill: int | None = None, size: int = 3, scale: float = 1.0):
    """A run with every kind of randomness and a state of its own: (weights, state, losses)."""
    weight, bias, state = nn.Parameter(torch.zeros(size)), nn.Parameter(torch.zeros(2)), torch.zeros(2)
    optimiser = torch.optim.Adam([weight, bias], lr=0.1)

    def loss(step: int, rng: Rng) -> torch.Tensor:
        if step == kill:
            raise Killed
        state.add_(torch.randn(2, generator=rng.source))
        drawn = torch.randn(size, generator=rng.source) * rng.python.random()
        return scale * ((weight - drawn).square().sum() + (bias - state).square().sum())

    losses = loop.run("one", {"weight": weight, "bias": bias}, optimiser, steps, loss, state={"state": state})
    return weight.detach(), bias.detach(), state, losses


@pytest.mark.parametrize("kill", [1, 7, 11])
def test_a_stopped_run_goes_on_as_if_it_had_not(tmp_path, kill):
    whole = trained(TrainingLoop(seed=5))
    with pytest.raises(Killed):
        trained(TrainingLoop(seed=5, folder=tmp_path, every=-1.0), kill=kill)
    rest = trained(TrainingLoop(seed=5, folder=tmp_path, every=-1.0))
    for a, b in zip(whole[:3], rest[:3], strict=True):
        assert torch.equal(a, b)
    assert rest[3] == whole[3][kill:]
    done = trained(TrainingLoop(seed=5, folder=tmp_path), kill=0)  # nothing is left to do
    assert torch.equal(done[0], whole[0])
    assert done[3] == []


def test_all_randomness_is_the_seeds():
    before, python = torch.get_rng_state(), random.getstate()
    first, again, other = trained(TrainingLoop(seed=1)), trained(TrainingLoop(seed=1)), trained(TrainingLoop(seed=2))
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], other[0])
    assert torch.equal(torch.get_rng_state(), before)
    assert random.getstate() == python


@pytest.mark.parametrize(
    ("loop", "options", "message"),
    [
        ({"seed": 6}, {}, "seed = 5, not 6"),
        ({}, {"steps": 13}, "steps = 12, not 13"),
        ({}, {"size": 4}, "other parameters"),
        ({"what": "another method"}, {}, "what = '', not 'another method'"),
    ],
)
def test_another_runs_checkpoint_is_refused(tmp_path, loop, options, message):
    with pytest.raises(Killed):
        trained(TrainingLoop(seed=5, folder=tmp_path, every=-1.0), kill=4)
    with pytest.raises(ValueError, match=message):
        trained(TrainingLoop(**{"seed": 5, "folder": tmp_path, **loop}), **options)


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"\0" * len(b)])
def test_a_damaged_checkpoint_is_said_to_be_one(tmp_path, damage):
    with pytest.raises(Killed):
        trained(TrainingLoop(folder=tmp_path, every=-1.0), kill=4)
    path = next(tmp_path.glob("*.checkpoint.safetensors"))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match="is not a checkpoint that can be read"):
        trained(TrainingLoop(folder=tmp_path))


def test_a_loss_that_is_not_finite_stops_the_run():
    with pytest.raises(ValueError, match="one: the loss of step 0 is inf: must be finite; try a smaller learning rate"):
        trained(TrainingLoop(), scale=1e38)


def test_gradients_are_clipped_at_their_norm():
    weight, slope = nn.Parameter(torch.zeros(2)), torch.tensor([30.0, 40.0])
    optimiser = torch.optim.SGD([weight], lr=1.0)
    TrainingLoop().run("one", {"w": weight}, optimiser, 1, lambda step, rng: (weight * slope).sum(), clip=1.0)
    torch.testing.assert_close(weight.detach(), -torch.tensor([0.6, 0.8]), rtol=1e-4, atol=0)


def test_progress_tells_every_step():
    told: list[tuple[str, int, int, float]] = []
    losses = trained(TrainingLoop(progress=lambda *entry: told.append(entry)), steps=3)[3]
    assert told == [("one", i + 1, 3, loss) for i, loss in enumerate(losses)]


def test_rows_are_made_once(tmp_path):
    made: list[tuple[int, int]] = []

    def rows(first: int, stop: int, rng: Rng) -> torch.Tensor:
        if kill and first == kill:
            raise Killed
        made.append((first, stop))
        return torch.randn(stop - first, 2, generator=rng.source)

    kill = 0
    whole = TrainingLoop(seed=3).collect("rows", 10, 4, rows)
    assert made == [(0, 4), (4, 8), (8, 10)]
    assert len(whole.unique()) == 20  # no batch repeats another's
    assert not torch.equal(whole, TrainingLoop(seed=4).collect("rows", 10, 4, rows))
    made.clear()
    kill, loop = 8, TrainingLoop(seed=3, folder=tmp_path, every=-1.0)
    with pytest.raises(Killed):
        loop.collect("rows", 10, 4, rows)
    kill = 0
    assert torch.equal(loop.collect("rows", 10, 4, rows), whole)
    assert torch.equal(loop.collect("rows", 10, 4, rows), whole)
    assert made == [(0, 4), (4, 8), (8, 10)]
    with pytest.raises(ValueError, match="count = 10, not 12"):
        loop.collect("rows", 12, 4, rows)
    with pytest.raises(ValueError, match="seed = 3, not 9"):
        TrainingLoop(seed=9, folder=tmp_path).collect("rows", 10, 4, rows)


def test_finished_runs_leave_no_checkpoint(tmp_path):
    loop = TrainingLoop(folder=tmp_path)
    trained(loop)
    assert [p.name for p in tmp_path.iterdir()] == ["one.checkpoint.safetensors"]
    loop.finish()
    assert not list(tmp_path.iterdir())


def test_wrong_seeds():
    with pytest.raises(ValueError, match="seed = -1"):
        TrainingLoop(seed=-1)


# Diffusion, against diffusers' own


def drawn(diffusion: Diffusion, count: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(1)
    return diffusion.normal(count, source), diffusion.normal(count, source), torch.tensor([3, 500, 990])[:count]


def test_noise_and_velocity_are_the_schedulers(tiny):
    x_0, noise, t = drawn(tiny)
    x_t = tiny.noised(x_0, noise, t)
    torch.testing.assert_close(x_t, tiny.scheduler.add_noise(x_0, noise, t))
    truth = tiny.truth(x_0, noise, t)
    expected = noise if tiny.kind == "epsilon" else tiny.scheduler.get_velocity(x_0, noise, t)
    torch.testing.assert_close(truth, expected)
    torch.testing.assert_close(tiny.noise_of(truth, x_t, t), noise, rtol=1e-4, atol=1e-5)


def test_the_two_kinds_are_two(epsilon, velocity):
    assert (epsilon.kind, velocity.kind) == ("epsilon", "v_prediction")
    epsilon.pipe.scheduler.register_to_config(prediction_type="sample")
    with pytest.raises(ValueError, match="prediction_type = 'sample'"):
        Diffusion(epsilon.pipe)


def own_run(diffusion: Diffusion, prompts: list[str], noise: torch.Tensor, steps: int) -> list[torch.Tensor]:
    """Latents before every step of the pipeline's own call, and at its end."""
    latents = [noise]

    def keep(pipe, step, t, values):
        latents.append(values["latents"].clone())
        return values

    diffusion.pipe.set_progress_bar_config(disable=True)
    side = diffusion.latent_shape()[1] * diffusion.pipe.vae_scale_factor
    diffusion.pipe(
        prompts, num_inference_steps=steps, guidance_scale=3.0, latents=noise, output_type="latent",
        callback_on_step_end=keep, height=side, width=side,
    )  # fmt: skip
    return latents


@pytest.mark.parametrize("seed", range(4))
def test_half_finished_is_diffusers_run_stopped(tiny, seed):
    prompts = ["a red circle", "a starfish"]
    noise = tiny.normal(2, torch.Generator().manual_seed(9))
    k = int(torch.randint(5, (1,), generator=torch.Generator().manual_seed(seed)))
    c = tiny.encode(prompts)
    x, t = tiny.half_finished(c, steps=5, guidance=3.0, source=torch.Generator().manual_seed(seed), noise=noise)
    torch.testing.assert_close(x, own_run(tiny, prompts, noise, 5)[k], rtol=1e-4, atol=1e-4)
    assert t.tolist() == [int(tiny.pipe.scheduler.timesteps[k])] * 2


def test_half_finished_stops_at_every_step_and_in_every_bucket(tiny):
    source, c = torch.Generator().manual_seed(0), tiny.encode(["a red circle"])
    noise = tiny.normal(1, source)
    exact = {int(tiny.half_finished(c, steps=3, guidance=1.0, source=source)[1][0]) for _ in range(30)}
    scheduler = tiny.scheduler.from_config(tiny.scheduler.config)
    scheduler.set_timesteps(3)
    assert exact == set(scheduler.timesteps.tolist())
    edges = [1000, 666, 333, 0]
    for k in range(3):
        seeds = [s for s in range(40) if int(torch.randint(3, (1,), generator=torch.Generator().manual_seed(s))) == k]
        times = [
            int(
                tiny.half_finished(
                    c, steps=3, guidance=1.0, source=torch.Generator().manual_seed(s), noise=noise, bucket=True
                )[1]
            )
            for s in seeds
        ]
        assert all(edges[k + 1] <= t < edges[k] for t in times)
        assert len(set(times)) > len(seeds) / 2  # anywhere in it


def test_another_unet_may_sample(tiny):
    c, noise = tiny.encode(["a red circle"]), tiny.normal(1, torch.Generator().manual_seed(2))
    frozen = tiny.frozen_copy()

    def sampled(unet):
        return tiny.half_finished(
            c, steps=5, guidance=3.0, source=torch.Generator().manual_seed(3), noise=noise, unet=unet
        )[0]

    before = sampled(None)
    with torch.no_grad():
        for p in tiny.unet.parameters():
            p.add_(0.05)
    assert not torch.allclose(sampled(None), before)
    assert torch.equal(sampled(frozen), before)


def test_generated_latents_and_images_are_the_pipelines(tiny):
    prompts = ["a red circle", "a starfish", "the sunflower"]
    noise = tiny.normal(3, torch.Generator().manual_seed(4))
    mine = tiny.generated(prompts, steps=4, guidance=3.0, source=torch.Generator().manual_seed(4))
    torch.testing.assert_close(mine, own_run(tiny, prompts, noise, 4)[-1], rtol=1e-4, atol=1e-4)
    images = tiny.decoded(mine)
    assert images.shape == (3, 3, 8, 8)
    expected = tiny.pipe.vae.encode(2 * images - 1).latent_dist.mean * tiny.pipe.vae.config.scaling_factor
    torch.testing.assert_close(tiny.latents(images), expected.detach())


def test_encodings_are_the_pipelines_and_remembered(tiny):
    prompts = ["a red circle", "", "a red circle"]
    expected = tiny.pipe.encode_prompt(prompts, "cpu", 1, False)[0]
    assert torch.equal(tiny.encode(prompts), expected.detach())
    with torch.no_grad():
        tiny.pipe.text_encoder.get_input_embeddings().weight.zero_()
    assert torch.equal(tiny.encode(prompts), expected.detach())


def test_times_are_uniform_over_the_training_steps(tiny):
    t = tiny.times(20_000, torch.Generator().manual_seed(0))
    assert (int(t.min()), int(t.max())) == (0, tiny.timesteps - 1)
    assert abs(float(t.double().mean()) - 499.5) < 5 * 1000 / 12**0.5 / 20_000**0.5


# Files


def test_a_saved_edit_loads_bit_for_bit(sd14, tmp_path):
    base = load_pipeline(sd14)
    with torch.no_grad():
        unet = {n: p + 0.01 for n, p in parameters.trainable(base.unet, "xattn").items()}
        text = {n: p + 0.02 for n, p in base.text_encoder.named_parameters() if "layer_norm" in n}
    edit, concept = Edit(unet=unet, text_encoder=text, record={"found": 3}), Concept.of(["circle"], anchor="coin")
    about = {"method": METHODS["esd"], "concept": concept, "settings": METHODS["esd"].settings(), "base": str(sd14)}
    folder = saving.save(tmp_path / "out", edit, **about, seed=4, seconds=1.25)
    loaded = load_pipeline(sd14, **saving.overlays(folder))
    for module, original, changed in ((loaded.unet, base.unet, unet), (loaded.text_encoder, base.text_encoder, text)):
        for name, p in module.named_parameters():
            assert torch.equal(p, changed.get(name, original.get_parameter(name)))
    card = (folder / "README.md").read_text()
    record = json.loads(card.split("```json")[1].split("```")[0])
    assert (record["method"], record["seed"], record["record"], record["anchor"]) == ("esd", 4, {"found": 3}, "coin")
    assert record["settings"]["learning_rate"] == 1e-5
    with pytest.raises(FileExistsError, match=r"holds unet\.safetensors already"):
        saving.save(folder, edit, **about, seed=4, seconds=1.25)


def test_nothing_to_save_and_nothing_to_load(tmp_path):
    esd, concept = METHODS["esd"], Concept.of(["circle"])
    with pytest.raises(ValueError, match="esd changed no tensor"):
        saving.save(
            tmp_path / "a", Edit(), method=esd, concept=concept, base=None, settings=esd.settings(), seed=0, seconds=0
        )
    assert not (tmp_path / "a").exists()
    with pytest.raises(FileNotFoundError, match="holds no result of an unlearning method"):
        saving.overlays(tmp_path)


# The command


def called(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["experiments", "unlearn", *words])
    return commands.main()


def test_the_command_edits_a_model_from_a_folder(sd14, tmp_path, monkeypatch, capsys):
    """The same code path as for Stable Diffusion."""
    out = tmp_path / "out"
    words = [
        "esd",
        "--model",
        str(sd14),
        "--concept",
        "circle",
        "--concept",
        "coin",
        "--template",
        "a red {}",
        "--device",
        "cpu",
    ]
    words += ["--set", "iterations=1", "--set", "steps=2", "--set", "parameters=xattn-kv", "--out", str(out)]
    assert called(monkeypatch, *words) == 0, capsys.readouterr().err
    assert sorted(p.name for p in out.iterdir()) == ["README.md", "unet.safetensors"]
    before, after = load_pipeline(sd14).unet, load_pipeline(sd14, unet=out / "unet.safetensors").unet
    moved = {name for name, p in after.named_parameters() if not torch.equal(p, before.get_parameter(name))}
    assert moved
    assert moved <= set(parameters.trainable(before, "xattn-kv"))
    assert called(monkeypatch, *words) == 2
    assert "holds unet.safetensors already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["esd", "--concept", "hexagon"], "concept = 'hexagon': must be one of circle"),
        (["esd", "--concept", "circle", "--concept", "square"], "of the embedded model one at a time"),
        (["esd", "--concept", "circle", "--set", "iteration=3"], "set = 'iteration=3': must be NAME=VALUE"),
        (["esd", "--concept", "circle", "--set", "iterations"], "must be NAME=VALUE"),
        (["esd", "--concept", "circle", "--set", "iterations=many"], "iterations must be a int"),
        (["esd", "--concept", "circle", "--set", "iterations=0"], "iterations = 0: must be a whole number >= 1"),
        (["esd", "--concept", "x", "--model", "no/such/folder"], "no/such/folder"),
        (["esd", "--concept", "x", "--model", "m", "--template", "a red"], "one '{}' each"),
        (["esd", "--concept", "circle", "--seed", "-1"], "seed = -1"),
    ],
)  # fmt: skip
def test_misuse_is_one_line(words, message, tmp_path, monkeypatch, capsys):
    assert called(monkeypatch, *words, "--device", "cpu", "--out", str(tmp_path / "out")) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_run_that_is_over_removes_its_own_checkpoints_alone(tmp_path):
    (tmp_path / "mine.checkpoint.safetensors").write_bytes(b"mine")
    loop = TrainingLoop(folder=tmp_path)
    loop.collect("images", 2, 1, lambda first, stop, rng: torch.zeros(stop - first, 3))
    assert (tmp_path / "images.checkpoint.safetensors").exists()
    loop.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["mine.checkpoint.safetensors"]
    assert (tmp_path / "mine.checkpoint.safetensors").read_bytes() == b"mine"
