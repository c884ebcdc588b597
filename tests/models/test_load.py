"""Loading: what a folder may be, what is refused, and that everything ends in one dtype."""

import json
import logging
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from certify.models import fingerprint, load_pipeline, load_text_encoder, overlay_of
from certify.models.hub import unreachable
from tests.pipelines import save_index, save_pickled, save_pipeline, save_tokenizer


def test_a_pipeline_comes_whole(pipe: Any, pipeline_folder: Path) -> None:
    assert type(pipe).__name__ == "StableDiffusionPipeline"
    assert type(pipe.scheduler).__name__ == "DDIMScheduler"
    assert pipe.scheduler.config.steps_offset == 1
    assert pipe.safety_checker is None
    assert overlay_of(pipe) is None
    for part in (pipe.text_encoder, pipe.unet, pipe.vae):
        assert not part.training
        assert {p.dtype for p in part.parameters()} == {torch.float32}


def test_prompt_and_prompt_embeds_give_the_same_image(pipe: Any) -> None:
    pipe.set_progress_bar_config(disable=True)

    def image(**inputs: Any) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        out = pipe(**inputs, num_inference_steps=2, guidance_scale=2.0, generator=generator, output_type="pt")
        return out.images

    embeds, negative = pipe.encode_prompt("a red circle", "cpu", 1, True)
    assert torch.equal(image(prompt="a red circle"), image(prompt_embeds=embeds, negative_prompt_embeds=negative))


def test_sd2_scheduler_is_kept(pipeline_folder_sd2: Path) -> None:
    assert load_pipeline(str(pipeline_folder_sd2)).scheduler.config.prediction_type == "v_prediction"


@pytest.mark.parametrize(("wanted", "dtype"), [(None, torch.float32), ("float64", torch.float64)])
def test_half_precision_files_end_in_one_dtype(tmp_path: Path, wanted: str | None, dtype: torch.dtype) -> None:
    # transformers keeps a file's dtype, diffusers does not: loaded naively the two parts cannot talk to each other.
    folder = save_pipeline(tmp_path / "half", dtype=torch.float16)
    pipe = load_pipeline(folder, dtype=wanted)
    parts = (pipe.text_encoder, pipe.unet, pipe.vae)
    assert {p.dtype for part in parts for p in part.parameters()} == {dtype}
    assert load_text_encoder(folder, dtype=wanted).dtype == dtype


def test_the_text_encoder_alone_is_the_pipelines(encoder: Any, pipeline_folder: Path) -> None:
    alone = load_text_encoder(pipeline_folder)
    assert alone.fingerprint() == encoder.fingerprint()
    assert torch.equal(alone.plain("a red starfish"), encoder.plain("a red starfish"))


def test_a_tokenizer_in_the_old_layout(pipeline_folder: Path, tmp_path: Path, encoder: Any) -> None:
    # vocab.json and merges.txt, as in the Stable Diffusion v1.4 repository.
    folder = shutil.copytree(pipeline_folder, tmp_path / "old")
    shutil.rmtree(folder / "tokenizer")
    save_tokenizer(folder / "tokenizer")
    t = load_text_encoder(folder).tokenize("a photo of the starfish")
    assert t.tokens == encoder.tokenize("a photo of the starfish").tokens


def _rewritten(folder: Path, part: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Path:
    (file,) = (folder / part).glob("*.safetensors")
    save_file(change(load_file(file)), file, metadata={"format": "pt"})
    return folder


def test_weights_with_the_names_of_older_versions(pipeline_folder: Path, tmp_path: Path, pipe: Any) -> None:
    # Stable Diffusion v1.4 as it is on the hub: a prefix and a buffer in the text encoder, other names in the VAE.
    folder = shutil.copytree(pipeline_folder, tmp_path / "old")
    positions = {"text_model.embeddings.position_ids": torch.arange(16)[None]}
    _rewritten(folder, "text_encoder", lambda s: {**{f"text_model.{k}": v for k, v in s.items()}, **positions})
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def renamed(name: str) -> str:
        for new, name_before in old.items():
            name = name.replace(f".{new}.", f".{name_before}.") if "attentions" in name else name
        return name

    _rewritten(folder, "vae", lambda s: {renamed(k): v for k, v in s.items()})
    assert fingerprint(load_pipeline(folder)) == fingerprint(pipe)
    assert load_text_encoder(folder).fingerprint() == fingerprint(pipe.text_encoder)


@pytest.mark.parametrize("part", ["text_encoder", "unet", "vae"])
def test_incomplete_weights_are_not_filled_up_with_random_numbers(
    part: str, pipeline_folder: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(pipeline_folder, tmp_path / "incomplete")
    _rewritten(folder, part, lambda s: dict(list(s.items())[1:]))
    with pytest.raises(
        ValueError, match=f"the weights of {part} do not fit its configuration, 1 missing keys, first '"
    ):
        load_pipeline(folder)
    if part == "text_encoder":
        with pytest.raises(ValueError, match="must be complete"):
            load_text_encoder(folder)


def test_global_random_state_is_untouched(pipeline_folder: Path) -> None:
    before = torch.random.get_rng_state()
    load_pipeline(pipeline_folder)
    load_text_encoder(pipeline_folder)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_embedded_model_is_the_default(monkeypatch: pytest.MonkeyPatch, pipeline_folder: Path) -> None:
    from certify import world
    from certify.models import load

    assert world.path() == load._EMBEDDED
    monkeypatch.setattr(load, "_EMBEDDED", pipeline_folder)
    assert load_text_encoder().context_length == 16


def test_nothing_is_printed_and_the_users_settings_survive(
    pipeline_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from diffusers.utils import logging as diffusers_logging
    from huggingface_hub.utils import are_progress_bars_disabled
    from transformers.utils import logging as transformers_logging

    diffusers_logging.set_verbosity(logging.INFO)
    transformers_logging.enable_progress_bar()
    filters = list(warnings.filters)
    try:
        load_pipeline(pipeline_folder)
        assert diffusers_logging.get_verbosity() == logging.INFO
        assert transformers_logging.is_progress_bar_enabled()
        assert diffusers_logging.is_progress_bar_enabled()
        assert not are_progress_bars_disabled()
        assert warnings.filters == filters
    finally:
        diffusers_logging.set_verbosity(logging.WARNING)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_importing_the_package_imports_neither_library() -> None:
    code = "import sys, certify.models, certify.adaptive; print({'transformers', 'diffusers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def _without(folder: Path, of: Path, *parts: str) -> Path:
    shutil.copytree(of, folder)
    for part in parts:
        target = folder / part
        shutil.rmtree(target) if target.is_dir() else target.unlink()
    return folder


def _with_index(folder: Path, of: Path, **changes: Any) -> Path:
    shutil.copytree(of, folder)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, **changes}))
    return folder


def _file(path: Path) -> Path:
    path.write_bytes(b"")
    return path


# name → (source, given a fresh path and a good folder; error; message)
BAD_SOURCES: dict[str, tuple[Callable[[Path, Path], Any], type[Exception], str]] = {
    "missing folder": (
        lambda new, good: new, FileNotFoundError, r"source = '.*': no such folder; looked for .*model_index\.json",
    ),
    "not a pipeline": (
        lambda new, good: good / "unet", FileNotFoundError,
        r"is not a pipeline folder; looked for .*unet.model_index\.json",
    ),
    "a part is missing": (
        lambda new, good: _without(new, good, "text_encoder"), FileNotFoundError,
        r"text_encoder is missing; looked for .*text_encoder",
    ),
    "weights are missing": (
        lambda new, good: _without(new, good, "text_encoder/model.safetensors"), FileNotFoundError,
        r"no weights for text_encoder; looked for .*\*\.safetensors",
    ),
    "pickled weights": (
        lambda new, good: save_pickled(new, good, "text_encoder"), ValueError,
        r"the weights of text_encoder are pickled, which is refused .*; must be safetensors\. To convert .*save_pretrained",
    ),
    "a pickled file": (lambda new, good: _file(new.with_suffix(".ckpt")), ValueError, r"pickled, which is refused"),
    "a single file": (
        lambda new, good: _file(new.with_suffix(".safetensors")), ValueError,
        r"is a file; must be a folder with model_index\.json or a hub id",
    ),
    "Kandinsky": (
        lambda new, good: save_index(new, "KandinskyV22Pipeline"), ValueError,
        r"not supported: it is conditioned on image embeddings",
    ),
    "inpainting": (
        lambda new, good: save_index(new, "StableDiffusionInpaintPipeline"), ValueError,
        r"not supported: its denoiser takes a mask",
    ),
    "something else": (
        lambda new, good: save_index(new, "DanceDiffusionPipeline"), ValueError,
        r"is a DanceDiffusionPipeline, which is not supported: it has no encode_prompt",
    ),
    "remote code": (
        lambda new, good: save_index(new, ["pipeline.py", "MyPipeline"]), ValueError,  # type: ignore[arg-type]
        r"names the pipeline \['pipeline\.py', 'MyPipeline'\]; .* brings its own code is refused",
    ),
    "a part with code of its own": (
        lambda new, good: _with_index(new, good, text_encoder=["my_encoder", "MyEncoder"]), ValueError,
        r"text_encoder comes from 'my_encoder', code outside transformers and diffusers, which is never run",
    ),
    "another text encoder": (
        lambda new, good: _with_index(new, good, text_encoder=["transformers", "T5EncoderModel"]), ValueError,
        r"text_encoder is a T5EncoderModel, must be a CLIPTextModel",
    ),
    "index is not JSON": (
        lambda new, good: (_with_index(new, good) / "model_index.json").write_text("{") and new, ValueError,
        r"is not JSON",
    ),
    "a number": (lambda new, good: 7, TypeError, r"source is a int: must be None, a folder or a hub id"),
}  # fmt: skip


@pytest.mark.parametrize("loader", [load_pipeline, load_text_encoder])
@pytest.mark.parametrize("name", BAD_SOURCES)
def test_bad_sources(name: str, loader: Any, tmp_path: Path, pipeline_folder: Path) -> None:
    source, error, message = BAD_SOURCES[name]
    with pytest.raises(error, match=message):
        loader(source(tmp_path / "new", pipeline_folder))


def test_the_unet_alone_being_pickled_does_not_concern_the_text_encoder(tmp_path: Path, pipeline_folder: Path) -> None:
    folder = save_pickled(tmp_path / "pickled", pipeline_folder, "unet")
    with pytest.raises(ValueError, match="weights of unet are pickled"):
        load_pipeline(folder)
    assert load_text_encoder(folder).context_length == 16


@pytest.mark.parametrize("dtype", ["int8", "half-ish", "float8_e4m3fn", torch.int64, 16])
def test_bad_dtypes(dtype: Any, pipeline_folder: Path) -> None:
    with pytest.raises(ValueError, match=r"dtype = .*: must be float16, bfloat16, float32 or float64"):
        load_text_encoder(pipeline_folder, dtype=dtype)


@pytest.mark.parametrize("loader", [load_pipeline, load_text_encoder])
def test_a_missing_variant(loader: Any, pipeline_folder: Path) -> None:
    with pytest.raises((FileNotFoundError, ValueError), match=r"fp16"):
        loader(pipeline_folder, variant="fp16")


class TestHub:
    """Hub ids, with the hub's client replaced: these tests reach for no network."""

    @pytest.fixture
    def hub(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path | Exception], dict[str, Any]]:
        import huggingface_hub
        from diffusers import DiffusionPipeline

        def install(answer: Path | Exception) -> dict[str, Any]:
            asked: dict[str, Any] = {}

            def fetch(*args: Any, **options: Any) -> str:
                asked.update(options, args=args)
                if isinstance(answer, Exception):
                    raise answer
                return str(answer / args[1] if len(args) > 1 else answer)

            monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
            monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
            monkeypatch.setattr(DiffusionPipeline, "download", fetch)
            return asked

        return install

    def test_a_pipeline(self, hub: Any, pipeline_folder: Path) -> None:
        asked = hub(pipeline_folder)
        pipe = load_pipeline("someone/a-model", revision="abc")
        assert type(pipe).__name__ == "StableDiffusionPipeline"
        assert (asked["args"], asked["revision"], asked["use_safetensors"]) == (("someone/a-model",), "abc", True)

    def test_a_text_encoder_fetches_neither_unet_nor_pickles(self, hub: Any, pipeline_folder: Path) -> None:
        asked = hub(pipeline_folder)
        load_text_encoder("someone/a-model")
        assert not [p for p in asked["allow_patterns"] if "unet" in p or p.endswith((".bin", "*.*", "/*.safetensors"))]

    @pytest.mark.parametrize("others", [(), ("text_encoder/model.ema.safetensors",)])
    @pytest.mark.parametrize("loader", [load_pipeline, load_text_encoder])
    def test_the_only_variant_of_a_repository_is_fetched(
        self, loader: Any, others: tuple[str, ...], pipeline_folder: Path, tmp_path: Path, monkeypatch: Any
    ) -> None:
        import huggingface_hub
        from diffusers import DiffusionPipeline

        plain, only = tmp_path / "plain", tmp_path / "fp16"
        for folder in (plain, only):
            shutil.copytree(pipeline_folder, folder)
            for path in folder.glob("*/*.safetensors"):
                path.unlink() if folder == plain else path.rename(path.with_suffix(".fp16.safetensors"))
        names = [str(p.relative_to(only)) for p in only.rglob("*") if p.is_file()]

        def download(source: str, *, variant: str | None, **_: Any) -> str:
            if variant is None:
                raise OSError("Could not find the necessary `safetensors` weights in {…} (variant=None)")
            return str(only)

        def snapshot(source: str, *, allow_patterns: list[str], **_: Any) -> str:
            return str(only if any("model.fp16.safetensors" in pattern for pattern in allow_patterns) else plain)

        monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *a, **k: str(only / "model_index.json"))
        monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda *a, **k: [*names, *others])
        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
        monkeypatch.setattr(DiffusionPipeline, "download", download)
        if others:
            with pytest.raises((ValueError, FileNotFoundError), match="variant"):
                loader("someone/a-model")
        else:
            got, expected = (model.text_encoder for model in (loader("someone/a-model"), loader(pipeline_folder)))
            assert fingerprint(got) == fingerprint(expected)

    @pytest.mark.parametrize("loader", [load_pipeline, load_text_encoder])
    def test_out_of_reach(self, hub: Any, loader: Any) -> None:
        hub(ConnectionError("no route\nmore"))
        with pytest.raises(
            FileNotFoundError,
            match=r"source = 'someone/a-model': there is no such folder .* could not be fetched "
            r"\(ConnectionError: no route\); must be a pipeline folder, or a hub id that this machine can reach",
        ):
            loader("someone/a-model")

    @pytest.mark.parametrize("loader", [load_pipeline, load_text_encoder])
    def test_what_is_refused_is_refused_before_its_weights_are_fetched(
        self, hub: Any, loader: Any, tmp_path: Path
    ) -> None:
        hub(save_index(tmp_path, "StableDiffusionInpaintPipeline"))
        with pytest.raises(ValueError, match="StableDiffusionInpaintPipeline, which is not supported"):
            loader("someone/inpainting")

    def test_the_text_encoder_alone_is_that_of_stable_diffusion(self, hub: Any, tmp_path: Path) -> None:
        hub(save_index(tmp_path))
        with pytest.raises(
            ValueError, match="is a StableDiffusionXLPipeline, of which the text encoder cannot be had alone"
        ):
            load_text_encoder("someone/sdxl")

    def test_a_repository_without_safetensors(self) -> None:
        error = unreachable("a/b", OSError("Could not find the necessary `safetensors` weights in {...}"))
        assert isinstance(error, ValueError)
        assert "pickled, which is refused" in str(error)


def test_a_device_that_is_not_there_is_refused_in_one_line() -> None:
    missing = ["nonsense", *([] if torch.cuda.is_available() else ["cuda"])]
    for device in missing:
        for loader in (load_pipeline, load_text_encoder):
            with pytest.raises(ValueError, match=f"device = '{device}': must be a device"):
                loader(device=device)
