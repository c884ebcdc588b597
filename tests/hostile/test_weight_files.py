"""Weights, masks, LoRAs, trajectories, smoothers, rewriters and training checkpoints that somebody else wrote.

A model over which something is laid is changed by all of it or by none.
"""

from __future__ import annotations

import functools
import io
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save
from torch import Tensor, nn

from certify.adaptive import AdaptiveMedianSmoother, Concept, FrozenSmoother
from certify.models import Trajectory, fingerprint, load_pipeline, load_text_encoder, overlay_text_encoder, overlay_unet
from certify.models.masks import packed, unpacked
from experiments.defenses.rewriter import Rewriter
from experiments.unlearning.training import TrainingLoop, _read
from tests.hostile.corpus import (
    GARBAGE,
    Raw,
    Watched,
    dumped,
    header_claims,
    mangled_bytes,
    mangled_json,
    mangled_tensors,
    payloads,
    zip_bomb,
)
from tests.pipelines import text_encoder, unet

KEY = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
NAMES = (f"{KEY}.weight", "down_blocks.0.resnets.0.conv1.bias", "conv_in.weight")


@functools.cache
def base() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return unet()


@functools.cache
def kept() -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in base().state_dict().items()}


def others() -> dict[str, Tensor]:
    return {name: kept()[name] + 1 for name in NAMES}


def mask_file() -> bytes:
    bits, metadata = packed({name: kept()[name] > 0 for name in NAMES})
    return save(bits, metadata)


def lora_file(**about: Any) -> bytes:
    source = torch.Generator().manual_seed(4)
    out, width = kept()[f"{KEY}.weight"].shape
    down, up = torch.randn(2, width, generator=source), torch.randn(out, 2, generator=source)
    state = {f"unet.{KEY}.lora_A.weight": down, f"unet.{KEY}.lora_B.weight": up}
    return save(state, {"lora_adapter_metadata": json.dumps({"unet.r": 2, "unet.lora_alpha": 4, **about})})


def pickled(state: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def kohya_file() -> bytes:
    under = f"lora_unet_{KEY.replace('.', '_')}"
    state = {f"{under}.lora_down.weight": torch.ones(2, 32), f"{under}.lora_up.weight": torch.ones(8, 2)}
    of_text = {"lora_te_text_model_final_layer_norm.alpha": torch.tensor(1.0)}
    return save(state | of_text | {f"{under}.alpha": torch.tensor(1.0)})


def nested() -> bytes:
    modules: dict[str, dict[str, Tensor]] = {}
    for name, tensor in others().items():
        module, _, leaf = name.rpartition(".")
        modules.setdefault(module, {})[leaf] = tensor
    return pickled({"state_dict": {"unet": modules, "text_encoder": {"x": torch.ones(1)}}, "step": 3})


SOURCES: dict[str, tuple[str, Callable[[], bytes]]] = {
    "kohya": ("a.safetensors", kohya_file),
    "nested": ("a.pt", nested),
    "weights": ("a.safetensors", lambda: save(others())),
    "mask": ("a.safetensors", mask_file),
    "LoRA": ("a.safetensors", lora_file),
    "pickled weights": ("a.pt", lambda: pickled(others())),
}


def laid(file: str, blob: bytes, **beside: bytes) -> tuple[Any, str]:
    """What a file does to the small U-Net; refused, nothing."""
    model = base()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / file).write_bytes(blob)
        for other, content in beside.items():
            (folder / f"{other}.json").write_bytes(content)
        before = fingerprint(kept())
        found, message = Watched(folder).read(lambda: overlay_unet(model, folder if beside else folder / file), name)
    if found is None:
        assert fingerprint(model) == before
    else:
        assert all(bool(torch.isfinite(tensor).all()) for tensor in model.state_dict().values())
        model.load_state_dict(kept())
    return found, message


@pytest.mark.parametrize("name", SOURCES)
def test_what_is_right_is_laid_over(name):
    file, make = SOURCES[name]
    assert laid(file, make())[1] == ""


@given(data=st.data())
def test_safetensors_of_anything(data):
    name = data.draw(st.sampled_from(["weights", "mask", "LoRA", "kohya"]))
    file, make = SOURCES[name]
    laid(file, data.draw(mangled_tensors(make())))


@given(data=st.data())
def test_pickles_of_anything(data):
    laid(
        data.draw(st.sampled_from(["a.pt", "a.bin", "a.ckpt"])),
        data.draw(mangled_bytes(data.draw(st.sampled_from([pickled(others()), nested()])))),
    )


@given(data=st.data())
def test_what_is_said_beside_the_tensors(data):
    """Shapes of masks, settings of LoRAs, configurations and lists of shards: JSON within, or beside, the weights."""
    where = data.draw(st.sampled_from(["mask", "LoRA", "adapter_config", "config", "index"]))
    if where == "mask":
        bits, metadata = packed({name: kept()[name] > 0 for name in NAMES})
        text = data.draw(mangled_json(json.loads(metadata["shapes"]))).decode("utf-8", "replace")
        laid("a.safetensors", save(bits, {**metadata, "shapes": text}))
    elif where == "LoRA":
        about = {"unet.r": 2, "unet.lora_alpha": 4, "unet.alpha_pattern": {KEY: 6}, "unet.use_dora": False}
        text = data.draw(mangled_json(about)).decode("utf-8", "replace")
        tensors = {f"{KEY}.lora_A.weight": torch.ones(2, 32), f"{KEY}.lora_B.weight": torch.ones(8, 2)}
        laid("a.safetensors", save(tensors, {"lora_adapter_metadata": text}))
    elif where == "adapter_config":
        said = {
            "r": 2,
            "lora_alpha": 5,
            "alpha_pattern": {"to_k": 3},
            "rank_pattern": {},
            "use_rslora": True,
            "bias": "none",
        }
        settings = data.draw(mangled_json(said | {"peft_type": "LORA", "init_lora_weights": True}))
        laid("adapter_model.safetensors", lora_file(), adapter_config=settings)
    elif where == "config":
        config = dict(json.loads(json.dumps(dict(base().config))))
        laid("a.safetensors", save(others()), config=data.draw(mangled_json(config)))
    else:
        index = {"weight_map": dict.fromkeys(NAMES, "a.safetensors")}
        name = data.draw(st.sampled_from(["index", "fp16.index", "index.fp16"]))
        listed = {f"diffusion_pytorch_model.safetensors.{name}": data.draw(mangled_json(index))}
        laid("a.safetensors", save(others()), **listed)


def with_one(tensor: Tensor) -> bytes:
    return save({**others(), NAMES[0]: tensor})


BAD: list[tuple[str, str, Callable[[], bytes], str]] = [
    (
        "a half that is infinite",
        "a.safetensors",
        lambda: with_one(torch.full((8, 32), 1e300, dtype=torch.float64)),
        "holds NaN or infinity",
    ),
    ("NaN", "a.safetensors", lambda: with_one(torch.full((8, 32), torch.nan)), "holds NaN or infinity"),
    (
        "complex",
        "a.safetensors",
        lambda: with_one(torch.ones(8, 32, dtype=torch.complex64)),
        "is torch.complex64, must be",
    ),
    (
        "whole numbers",
        "a.safetensors",
        lambda: with_one(torch.ones(8, 32, dtype=torch.int64)),
        "is torch.int64, must be",
    ),
    (
        "one mask among weights",
        "a.safetensors",
        lambda: with_one(torch.ones(8, 32, dtype=torch.bool)),
        "is torch.bool, must be",
    ),
    ("a shape", "a.safetensors", lambda: with_one(torch.ones(32, 8)), "has shape (32, 8), must be (8, 32)"),
    ("nothing", "a.safetensors", lambda: save({}), "holds no tensors"),
    (
        "a header of a terabyte",
        "a.safetensors",
        lambda: header_claims(save(others()), lambda h: h[NAMES[0]].update(shape=[2**38], data_offsets=[0, 2**40])),
        "is not a readable safetensors file",
    ),
    ("a list", "a.pt", lambda: pickled([1, 2]), "holds a list, must be a state dict"),
    ("a number", "a.pt", lambda: pickled({"x": 1}), "'x' is a int, must be a tensor"),
    ("a number for a name", "a.pt", lambda: pickled({1: torch.ones(1)}), "1 is a Tensor, must be a tensor"),
    ("sparse", "a.pt", lambda: pickled({NAMES[0]: torch.eye(8).to_sparse()}), "must be a dense tensor"),
    ("compressed", "a.pt", zip_bomb, "is refused: it is pickled and holds more than tensors, or is damaged"),
    (
        "numbers that are all alike",
        "a.pt",
        lambda: pickled({NAMES[0]: torch.ones(1).expand(2**40)}),
        "claims 1,099,511,627,776 entries, and has fewer",
    ),
    (
        "a LoRA that is all alike",
        "a.pt",
        lambda: pickled(
            {
                f"{KEY}.lora_A.weight": torch.ones(1).expand(2**32, 32),
                f"{KEY}.lora_B.weight": torch.ones(1).expand(8, 2**32),
            }
        ),
        "entries, and has fewer",
    ),
    (
        "a LoRA of rank 0",
        "a.safetensors",
        lambda: save({f"{KEY}.lora_A.weight": torch.ones(0, 32), f"{KEY}.lora_B.weight": torch.ones(8, 0)}),
        "has A (0, 32) and B (8, 0), which do not fit",
    ),
    (
        "a LoRA of whole numbers",
        "a.safetensors",
        lambda: save({f"{KEY}.lora_A.weight": torch.ones(2, 32).int(), f"{KEY}.lora_B.weight": torch.ones(8, 2).int()}),
        "must be real numbers",
    ),
    ("a LoRA that is too large", "a.safetensors", lambda: lora_file(**{"unet.lora_alpha": 1e300}), "is too large"),
    (
        "an alpha of words",
        "a.safetensors",
        lambda: lora_file(**{"unet.lora_alpha": "4"}),
        "lora_alpha = '4', must be a number",
    ),
    (
        "patterns",
        "a.safetensors",
        lambda: lora_file(**{"unet.alpha_pattern": [4]}),
        "alpha_pattern = [4], must be an object",
    ),
    (
        "shapes below zero",
        "a.safetensors",
        lambda: masks(lambda shape: [-s for s in shape]),
        "must be a list of whole numbers",
    ),
    ("shapes that are none", "a.safetensors", lambda: masks(lambda shape: None), "must be a list of whole numbers"),
    (
        "shapes of halves",
        "a.safetensors",
        lambda: masks(lambda shape: [s + 0.5 for s in shape]),
        "must be a list of whole",
    ),
    (
        "shapes that are too large",
        "a.safetensors",
        lambda: masks(lambda shape: [2**40]),
        "do not fit shape (1099511627776,)",
    ),
    ("shapes twice", "a.safetensors", lambda: masks(None), "is there twice"),
]


def masks(change: Callable[[list[int]], Any] | None) -> bytes:
    """A file of masks that claims other shapes; None: a shape twice."""
    bits, metadata = packed({name: kept()[name] > 0 for name in NAMES})
    shapes = json.loads(metadata["shapes"])
    text = (
        metadata["shapes"][:-1] + f', "{NAMES[0]}": [1]}}'
        if change is None
        else json.dumps({n: change(s) for n, s in shapes.items()})
    )
    return save(bits, {**metadata, "shapes": text})


@pytest.mark.parametrize(("file", "make", "message"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_files_that_are_refused_say_why(file, make, message):
    found, said = laid(file, make())
    assert found is None
    assert message in said


FOLDERS = [
    ("config", b"[" * 10_000, "is not JSON (is more than 100 lists"),
    ("config", b"\xff\xfe", "is not JSON (must be UTF-8"),
    ("config", dumped({"attention_head_dim": Raw("NaN")}), "is not JSON (NaN is no number"),
    ("diffusion_pytorch_model.safetensors.index", b"{}", "has no weight_map"),
    ("diffusion_pytorch_model.safetensors.index", b'{"weight_map": {"x": 7}}', "has no weight_map"),
    (
        "diffusion_pytorch_model.safetensors.index",
        b'{"weight_map": {"x": "../a.safetensors"}}',
        "files outside the folder",
    ),
    ("diffusion_pytorch_model.safetensors.index", b'{"weight_map": {"x": "/etc/passwd"}}', "files outside the folder"),
    ("diffusion_pytorch_model.safetensors.index", b'{"weight_map": {"x": "a\\u0000b"}}', "files outside the folder"),
    ("diffusion_pytorch_model.safetensors.index", b'{"weight_map": {"x": "b.safetensors"}}', "are not there"),
    (
        "diffusion_pytorch_model.safetensors.index",
        b'{"weight_map": {"x": "diffusion_pytorch_model.safetensors.index.json"}}',
        "must end in .safetensors",
    ),
]


@pytest.mark.parametrize(("name", "content", "message"), FOLDERS, ids=range(len(FOLDERS)))
def test_folders_that_are_refused_say_why(name, content, message):
    found, said = laid("a.safetensors", save(others()), **{name: content})
    assert found is None
    assert message in said


@pytest.mark.parametrize("file", ["a.pt", "a.pth", "a.bin", "a.ckpt", "a.safetensors"])
def test_pickles_that_run_commands_are_not_loaded(file, tmp_path):
    watched = Watched(tmp_path)
    for blob in (*payloads(watched.canary).values(), *GARBAGE):
        (tmp_path / file).write_bytes(blob)
        found, message = watched.read(lambda: overlay_unet(base(), tmp_path / file), file)
        assert found is None
        assert "is refused" in message or "is not a readable" in message or "holds no tensors" in message


def test_what_is_no_file(tmp_path):
    for name in ("a.safetensors", "a.pt"):
        for make in (os.mkfifo, lambda path: path.symlink_to(path), lambda path: path.symlink_to("/nowhere")):
            path = tmp_path / f"{len(list(tmp_path.iterdir()))}{name}"
            make(path)
            with pytest.raises((ValueError, OSError), match=path.name):
                overlay_unet(base(), path)
    for path in ("a\0b.pt", "~nobody-of-this-name/a.pt", "x" * 5000 + ".safetensors"):
        with pytest.raises((ValueError, OSError)):
            overlay_unet(base(), path)
    with pytest.raises((ValueError, OSError)):
        load_pipeline("~nobody-of-this-name")
    with pytest.raises((ValueError, OSError)):
        load_text_encoder("a\0b")


@given(data=st.data())
def test_text_encoders_of_anything(data):
    model = small_text_encoder()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    name = next(n for n in before if n.endswith("layers.1.mlp.fc1.bias"))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "a.safetensors"
        file.write_bytes(data.draw(mangled_tensors(save({name: before[name] + 1, "x": torch.zeros(0)}))))
        found, _ = Watched(Path(folder)).read(lambda: overlay_text_encoder(model, file), "a.safetensors")
    assert found is not None or fingerprint(model) == fingerprint(before)
    model.load_state_dict(before)


@functools.cache
def small_text_encoder() -> nn.Module:
    return text_encoder(300)


@given(data=st.data())
def test_an_index_of_a_pipeline_of_anything(data):
    index = {
        "_class_name": "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": [None, None],
    }
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "model_index.json").write_bytes(data.draw(mangled_json(index)))
        found, _ = Watched(Path(folder)).read(lambda: load_pipeline(folder), folder)
    assert found is None


# Other files of tensors


def masks_of(bits: bytes) -> None:
    from certify._files import read_tensors

    with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
        file.write(bits)
        file.flush()
        unpacked(*read_tensors(Path(file.name)))


def test_masks_are_not_unpacked_before_their_size_is_known():
    watched = Watched(Path(tempfile.mkdtemp()))
    with watched.unchanged(), pytest.raises(ValueError, match="do not fit"):
        masks_of(masks(lambda shape: [2**33]))


@functools.cache
def trajectory() -> bytes:
    one = Trajectory(
        torch.zeros(2, 4, 4, 4), torch.tensor([1.0, 5.0]), torch.tensor([0.9, 0.5]), origin={"steps": 2, "runs": [0, 1]}
    )
    with tempfile.TemporaryDirectory() as folder:
        return one.save(Path(folder) / "t.safetensors").read_bytes()


@given(data=st.data())
def test_trajectories_of_anything(data):
    blob = data.draw(mangled_tensors(trajectory()))
    if data.draw(st.booleans()):
        record = {"format": "certify trajectory", "schema_version": 1, "origin": {"steps": 2}}
        text = data.draw(mangled_json(record)).decode("utf-8", "replace")
        blob = header_claims(trajectory(), lambda header: {**header, "__metadata__": {"record": text}})
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "t.safetensors"
        file.write_bytes(blob)
        Watched(Path(folder)).read(lambda: Trajectory.load(file), "t.safetensors")


@pytest.fixture(scope="module")
def frozen(encoder):
    adaptive = AdaptiveMedianSmoother.from_encoder(
        encoder, [Concept("circle", [("a red circle", "a red square")])], sigma0=0.1
    )
    with tempfile.TemporaryDirectory() as folder:
        adaptive.freeze("a red circle").save(folder)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


@given(data=st.data())
def test_frozen_smoothers_of_anything(data, encoder, frozen):
    files = dict(frozen)
    if data.draw(st.booleans()):
        files["smoother.json"] = data.draw(mangled_json(json.loads(files["smoother.json"])))
    else:
        files["smoother.safetensors"] = data.draw(mangled_tensors(files["smoother.safetensors"]))
    with tempfile.TemporaryDirectory() as folder:
        for name, blob in files.items():
            (Path(folder) / name).write_bytes(blob)
        found, _ = Watched(Path(folder)).read(lambda: FrozenSmoother.load(folder, encoder))
    if found is not None:
        assert bool(torch.isfinite(found.noise.sigma).all())


@pytest.fixture(scope="module")
def rewriter(encoder):
    with tempfile.TemporaryDirectory() as folder:
        return Rewriter(encoder, layers=1, heads=2, width=8).save(Path(folder) / "r.safetensors").read_bytes()


@given(data=st.data())
def test_rewriters_of_anything(data, encoder, rewriter):
    blob = data.draw(mangled_tensors(rewriter))
    if data.draw(st.booleans()):
        record = {
            "format": "certify rewriter 1",
            "shape": {"layers": 1, "heads": 2, "width": 8},
            "vocabulary": 1,
            "room": 14,
        }

        def claimed(header: dict[str, Any]) -> dict[str, Any]:
            told = json.loads(header["__metadata__"]["record"]) | {"shape": record["shape"]}
            return {**header, "__metadata__": {"record": data.draw(mangled_json(told)).decode("utf-8", "replace")}}

        blob = header_claims(rewriter, claimed)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "r.safetensors"
        file.write_bytes(blob)
        Watched(Path(folder)).read(lambda: Rewriter.load(file, encoder), "r.safetensors")


class _Killed(Exception):
    pass


def trained(folder: Path, kill: bool = False) -> Tensor:
    weight = nn.Parameter(torch.zeros(3))

    def loss(step: int, rng: Any) -> Tensor:
        if kill and step == 3:
            raise _Killed
        return (weight - 1).square().sum()

    TrainingLoop(folder=folder, every=-1.0).run("one", {"w": weight}, torch.optim.Adam([weight], lr=0.1), 5, loss)
    return weight.detach()


@functools.cache
def training() -> tuple[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        with pytest.raises(_Killed):
            trained(Path(folder), kill=True)
        (file,) = Path(folder).glob("*.checkpoint.safetensors")
        return file.name, file.read_bytes()


@given(data=st.data())
def test_training_checkpoints_of_anything(data):
    name, whole = training()
    blob = data.draw(mangled_tensors(whole))
    if data.draw(st.booleans()):

        def told(header: dict[str, Any]) -> dict[str, Any]:
            run = data.draw(mangled_json(json.loads(header["__metadata__"]["run"]))).decode("utf-8", "replace")
            return {**header, "__metadata__": {"run": run}}

        blob = header_claims(whole, told)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / name).write_bytes(blob)
        try:
            trained(Path(folder))
        except ValueError as error:
            said = str(error)
        else:
            return
    assert name in said or "must be finite" in said  # weights that are NaN are found at the next step


def test_training_checkpoints_are_told_from_others(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(save({"x": torch.zeros(1)}))
    with pytest.raises(ValueError, match=r"a\.safetensors: is not a checkpoint that can be read"):
        _read(tmp_path / "a.safetensors")
