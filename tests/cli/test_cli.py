"""The command line, run as a user runs it: exit codes, what it prints in 80 columns, what it writes."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from certify import Certificate
from certify.cli.settings import Settings
from tests.processes import ROOT, forked

PROMPT = "a photo of a red circle"
COUNTS = ("--n", "600", "--statistics", "130", "--images", "64")
SMALL = (*COUNTS, "--steps", "2", "--guidance", "1", "--q", "0.5", "--rho-deployed", "0.1")
TEXT = ("--n", "500", "--text-only")


@pytest.fixture(scope="module")
def certified(tmp_path_factory):
    """A folder with a certificate of the embedded model, and what the command printed."""
    folder = tmp_path_factory.mktemp("cli") / "a"
    away = {"PATH": "", "HOME": str(folder.parent), "PYTHONWARNINGS": "error"}
    done = forked("certify", "prompt", PROMPT, *SMALL, "--out", str(folder), cwd=folder.parent, env=away)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_prompt_writes_a_certificate_and_figures(certified):
    folder, _ = certified
    assert {f.name for f in folder.iterdir()} == {
        "certificate.json",
        "tensors.safetensors",
        "noise.png",
        "curve.png",
        "rate.png",
    }
    certificate = Certificate.load(folder)
    assert certificate.provenance["prompt"] == PROMPT
    assert certificate.alpha == pytest.approx(1e-3)


def test_prompt_prints_its_claim_within_80_columns(certified):
    folder, printed = certified
    claims = Certificate.load(folder).claims
    value = next(c.value for c in claims if c.quantity == "mse" and c.scope == "single")
    text = " ".join(printed.split())  # no-break spaces, too
    said = [float(v.replace(",", "")) for v in re.findall(r"within squared distance ([\d.,]+) of its reference", text)]
    assert value <= said[0] < value * (1 + 2e-5)
    rho = next(c.rho for c in claims if c.quantity == "radius")
    assert rho - 1e-4 < float(re.findall(r"For every perturbation δ with ‖δ‖_Σ ≤ ([\d.]+),", text)[1]) <= rho
    for piece in (
        "Concept-removal distance",
        "Not covered",
        "n = 600 text encodings",
        "n = 64 images",
        "pilot",
        "the deployed text encoding, the median over 13 noisy copies, is within distance",
        "noise prediction",
        "concept score",
        "the probability that the image shows circle, with 13 noisy copies, is at most",
        "measured and not certified: 93.75 % (15 of 16 images)",
        "The prompt without its most relevant word",
        "At “circle” every token is covered here",
        "no substitution is covered",
    ):
        assert piece in text
    assert max(len(line) for line in printed.splitlines() if "written" not in line and "check it" not in line) <= 80


def test_check_accepts_and_refutes(certified, run, tmp_path):
    folder, _ = certified
    code, out, _ = run("check", str(folder), "--n", "64")
    assert (code, "Not refuted" in out, "not checked" in out.partition("As on record")[0]) == (0, True, False)
    code, out, _ = run("check", str(folder), "--text-only")
    assert (code, "Not refuted" in out, "not checked" in out) == (0, True, True)
    record = json.loads((folder / "certificate.json").read_text())
    record["claims"][0]["rho"] *= 3
    other = tmp_path / "tampered"
    other.mkdir()
    (other / "certificate.json").write_text(json.dumps(record))
    (other / "tensors.safetensors").write_bytes((folder / "tensors.safetensors").read_bytes())
    code, out, _ = run("check", str(other), "--text-only")
    assert (code, "Refuted" in out) == (1, True)


def test_what_the_record_says_beside_its_claims_is_checked_too(certified, run, tmp_path):
    """Every statement about covered tokens could be changed, and the check said "Not refuted"."""
    folder, _ = certified
    record = json.loads((folder / "certificate.json").read_text())
    for position in record["provenance"]["coverage"]:
        position["covered"], position["uncovered"] = position["comparable"], []
    record["provenance"]["yardstick"]["distance"] *= 10
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "certificate.json").write_text(json.dumps(record))
    (tmp_path / "b" / "tensors.safetensors").write_bytes((folder / "tensors.safetensors").read_bytes())
    code, out, _ = run("check", "b", "--text-only", "--n", "300")
    said = " ".join(out.split())
    assert (code, "Not refuted:" in said) == (1, False)
    assert "refuted: covered tokens: [0].covered: the record says" in said
    assert "refuted: concept-removal distance: distance: the record says" in said
    assert "Refuted: 2 statements on record are not the model’s. 300 fresh draws refute none of" in said
    assert "On record and not checked: concept-removal distance of noise predictions (" in said
    assert "rate without the defence (measured" in said
    assert run("report", "b")[0] == 0
    assert "It computes again, and compares, what this page says of" in (tmp_path / "b" / "report.html").read_text()


def test_a_certificate_of_a_function_is_checked_from_python(run, tmp_path):
    """It was said that its prompt is left out, and to give it."""
    import torch

    import certify

    for name, model in (("bare", None), ("module", torch.nn.Linear(4, 4).eval())):
        c = certify.mse_bound(model or torch.tanh, torch.zeros(4), certify.GaussianNoise(1.0), rho=0.5, n=300)
        certify.Certificate.of(c, **({} if model is None else {"model": model})).save(tmp_path / name)
        code, _, err = run("check", name)
        said = " ".join(err.split())
        assert (code, "--prompt" in said) == (2, False)
        assert (
            f"is of a function, not of a prompt: check it from Python, with certify.Certificate.load('{name}').check("
            in said
        )


@pytest.mark.usefixtures("no_figures")
def test_a_prompt_without_the_concept_says_of_what_the_distance_is(run, tmp_path):
    code, out, _ = run("prompt", "a photo of a book", "--concept", "circle", *TEXT, "--out", "a")
    clause = "does not seem to be named, that is the distance without the prompt’s most relevant word, not without the concept."
    named = Certificate.load("a").provenance["concept_in_prompt"]["named"]
    assert (code, named, f"Since “circle” {clause}" in " ".join(out.split())) == (0, False, True)
    assert run("report", "a")[0] == 0
    assert clause in (tmp_path / "a" / "report.html").read_text()
    for command in ("radius", "curve"):
        code, out, _ = run(command, "a photo of a book", "--concept", "circle", "--n", "500")
        assert clause in " ".join(out.split()), command


@pytest.mark.usefixtures("no_figures")
def test_attack_prompts_are_told_apart(run, tmp_path):
    (tmp_path / "attacks.txt").write_text("a photo of a red wheel\n\na photo of a circle\n")
    code, out, _ = run("prompt", PROMPT, *TEXT, "--attacks", "attacks.txt", "--out", "a")
    text = " ".join(out.split())
    assert (code, "Of 2 attack prompts given 1 is covered" in text, "another length" in text) == (0, True, True)
    assert [p["covered"] for p in Certificate.load("a").provenance["covered_prompts"]] == [True, False]


@pytest.mark.usefixtures("no_figures")
def test_a_prompt_that_does_not_fit(run):
    long = "a photo of a red circle " * 8
    code, _, err = run("prompt", long, *TEXT, "--out", "a")
    assert (code, "has 50 tokens with begin and end, must have at most 20" in " ".join(err.split())) == (2, True)
    code, out, err = run("prompt", long, *TEXT, "--truncate", "--out", "a")
    assert code == 0, err
    said = "The prompt has 50 tokens, begin and end included, and 20 fit: the last 30 before the end are cut off"
    assert " ".join(out.split()).count(said) == 2  # with the tokens, and with the claims
    code, out, err = run("check", "a")
    assert (code, "Not refuted" in out) == (0, True), err
    assert run("report", "a")[0] == 0
    assert said in (Path("a") / "report.html").read_text()
    for words in (
        ("radius", "--n", "300", "--out", "r"),
        ("curve", "--n", "300", "--out", "c"),
        ("decide", "--n", "2000"),
    ):
        code, out, err = run(words[0], long, "--truncate", "--concept", "circle", *words[1:])
        assert said in " ".join(out.split()), err
    assert Certificate.load("r").provenance["truncated"] == {"tokens": 50, "kept": 20}
    code, out, err = run("check", "r")
    assert (code, "Not refuted" in out) == (0, True), err


@pytest.mark.usefixtures("no_figures")
def test_attack_prompts_of_a_table(run, tmp_path):
    """A header and quoted fields were taken for prompts, and the certificate said that none of them is covered."""
    (tmp_path / "mma.csv").write_text(
        'target_prompt,adv_prompt\n"a, b","a photo of a red wheel"\nc,"a photo of\na red coin"\nd,\n'
    )
    code, out, err = run("prompt", PROMPT, *TEXT, "--attacks", "mma.csv", "--out", "a")
    assert code == 0, err
    text = " ".join(out.split())
    assert "Of 2 attack prompts given 2 are covered" in text
    assert "attacks: prompts of mma.csv: column “adv_prompt”, not “target_prompt”; 1 empty one passed over" in text
    record = Certificate.load("a").provenance
    assert [p["prompt"] for p in record["covered_prompts"]] == ["a photo of a red wheel", "a photo of\na red coin"]
    about = record["attacks"]
    assert (about["name"], about["column"], about["other_columns"], about["empty"]) == (
        "mma.csv",
        "adv_prompt",
        ["target_prompt"],
        1,
    )
    code, out, err = run("prompt", PROMPT, *TEXT, "--attacks", "mma.csv", "--column", "target_prompt", "--out", "b")
    assert (code, "Of 3 attack prompts given" in " ".join(out.split())) == (0, True)
    code, _, err = run("prompt", PROMPT, *TEXT, "--column", "x", "--out", "c")
    assert (code, "column = 'x': must be given with --attacks" in " ".join(err.split())) == (2, True)


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize(
    "options",
    [
        ("--policy", "noise-then-adapt", "--sharing", "input"),
        ("--policy", "memory", "--regions", "regions"),
        ("--smoother", "mean"),
    ],
)
def test_other_policies_and_the_mean(run, options):
    small = ("--n", "128", "--statistics", "40", "--images", "32", "--steps", "1", "--guidance", "1", "--replicas", "3")
    code, out, err = run("prompt", PROMPT, *small, *options, "--rho", "0.5", "--rho-deployed", "0.1", "--out", "a")
    assert code == 0, err
    code, out, _ = run("check", "a", "--n", "32")
    assert (code, "Not refuted" in out) == (0, True)


def test_nothing_is_overwritten(certified, run):
    folder, _ = certified
    before = (folder / "certificate.json").read_bytes()
    code, _, err = run("prompt", PROMPT, *TEXT, "--out", str(folder))
    assert (code, "already" in err) == (2, True)
    assert (folder / "certificate.json").read_bytes() == before


def test_private_writes_no_word_of_the_prompt(run, tmp_path):
    (tmp_path / "attacks.txt").write_text("a drawing of a teal pinwheel\na drawing of a red pinwheel\n")
    code, out, _ = run("prompt", "a drawing of a teal pinwheel", "--private", *TEXT, "--attacks", "attacks.txt")
    counted = "Attack prompts given, and left out of the record: 2, of which covered: "
    assert (code, counted in " ".join(out.split())) == (0, True)
    for word in ("drawing", "teal", "pinwheel"):  # output is often kept
        assert word not in out
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name == "private"
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}
    assert "identify its words to anyone who has the model" in " ".join(out.split())
    for file in folder.iterdir():
        for word in (b"drawing", b"teal", b"pinwheel"):
            assert word not in file.read_bytes()
    code, _, err = run("check", str(folder))
    assert (code, "--prompt" in err) == (2, True)
    code, _, err = run("check", str(folder), "--prompt", "a drawing of a teal pinwheel", "--n", "1000000000000")
    assert code == 2
    assert "hours: must be at most 24" in err
    code, out, _ = run("check", str(folder), "--prompt", "a drawing of a teal pinwheel", "--n", "500")
    assert (code, "Not refuted" in out) == (0, True)
    for other in ("a drawing of a red pinwheel", "a drawing of a pinwheel"):
        code, _, err = run("check", str(folder), "--prompt", other, "--n", "500")
        assert (code, "must be the prompt of this certificate" in " ".join(err.split())) == (2, True)
    code, _, err = run("prompt", "a circle", "--private", *TEXT, "--policy", "memory", "--regions", "r")
    assert (code, "private = True: must be False under policy 'memory'" in " ".join(err.split())) == (2, True), err
    assert not (tmp_path / "r").exists()


def test_radius_and_curve(run, tmp_path):
    code, out, _ = run("radius", PROMPT, "--n", "1500", "--tolerance", "200")
    assert (code, "within squared distance 200 of its reference" in " ".join(out.split()), "semi-axes" in out) == (
        0,
        True,
        True,
    )
    code, out, _ = run("curve", PROMPT, "--n", "1500", "--rhos", "0.25,0.5", "--figure", "c.svg")
    assert (code, "0.25" in out, (tmp_path / "c.svg").exists()) == (0, True, True)


def test_radius_abstains_in_words(run):
    code, out, _ = run("radius", PROMPT, "--n", "1500", "--tolerance", "1e-9")
    assert (code, "No claim (radius of the smoothed text encoding): " in " ".join(out.split())) == (3, True)


def test_figures_are_checked_before_the_work_and_never_overwritten(run, tmp_path):
    (tmp_path / "there.png").write_bytes(b"mine")
    for arguments, message in (
        (("curve", PROMPT, "--figure", "there.png"), "exists already"),
        (("curve", PROMPT, "--figure", "c.foo"), "must end in .png or .svg or .pdf"),
        (("curve", PROMPT, "--figure", "no/c.png"), "does not exist"),
        (("generate", PROMPT, "--out", "there.png"), "exists already"),
        (("generate", PROMPT, "--out", "g.xyz"), "must end in .png or .jpg"),
        (("prompt", PROMPT, "--out", "there.png"), "is a file; must be a folder"),
    ):
        code, out, err = run(*arguments)
        assert (code, message in err, "draws of" in out) == (2, True, False), (arguments, err)
    assert (tmp_path / "there.png").read_bytes() == b"mine"


def test_a_certificate_of_a_whole_pipeline_is_checked_too(run, tmp_path):
    import certify

    pipe = certify.load_pipeline()
    adaptive = certify.AdaptiveMedianSmoother.from_pipeline(pipe, ["circle"], **certify.world.SMOOTHING)
    p = adaptive.problem(PROMPT)
    c = certify.mse_bound(p.f, p.y, p.noise, rho=0.5, n=300, support=p.support)
    certify.Certificate.of(c, model=pipe).save(tmp_path / "whole")
    code, out, _ = run("check", str(tmp_path / "whole"), "--prompt", PROMPT)
    assert (code, "Not refuted" in out) == (0, True)


def test_letters_the_font_does_not_have(run):
    code, _, err = run("prompt", "圆 😀 circle", *TEXT)
    assert (code, "Warning" in err) == (0, False)


def test_plan(run):
    code, out, _ = run("plan", "--rho", "2", "--outputs", "59136")
    assert (code, "808" in out) == (0, True)


def test_generate_writes_an_image(run, tmp_path):
    code, _, _ = run("generate", PROMPT, "--images", "2", "--steps", "2", "--out", "pair.png")
    assert code == 0
    from PIL import Image

    with Image.open(tmp_path / "pair.png") as image:
        assert image.size == (2 * 132 + 4, 2 * 132 + 4)


def test_concepts(run):
    code, out, _ = run("concepts")
    assert code == 0
    for name in ("circle", "nudity", "violence", "gun", "van-gogh"):
        assert name in out
    goes = {line.split()[0]: line for line in out.splitlines() if "context" in line}
    assert "any model of CLIP's size (context 77)" in goes["nudity"]
    assert "the embedded model (context 20)" in goes["circle"]
    code, out, _ = run("concepts", "circle")
    assert (code, "circle" in out) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("prompt", ""), "must not be empty"),
        (("prompt", PROMPT, "--concept", "circel"), "circel"),
        (("prompt", PROMPT, "--rho", "0"), "rho = 0.0"),
        (("prompt", PROMPT, "--alpha", "2"), "alpha = 2.0"),
        (("prompt", PROMPT, "--n", "0"), "n = 0"),
        (("prompt", PROMPT, "--model", "no/such/folder"), "no/such/folder"),
        (("prompt", "circle " * 40), "must have at most 20"),
        (("prompt", PROMPT, "--sigma0", "-1"), "sigma0 = -1.0"),
        (("prompt", PROMPT, "--dtype", "float8_e4m3fn"), "must be one of 'float32', 'float16', 'bfloat16', 'float64'"),
        (("prompt", PROMPT, "--unet", "no/such.safetensors"), "no/such.safetensors"),
        (("concepts", "circle", "--pairs", "-1"), "pairs = -1"),
        (("curve", PROMPT, "--rhos", "1,x"), "rhos = '1,x'"),
        (("curve", PROMPT, "--rhos", "2,1"), "increasing"),
        (("plan",), "exactly one"),
        (("check", "nowhere"), "folder = 'nowhere': must be an existing folder"),
    ],
)
def test_misuse_is_one_line_and_exit_code_2(run, arguments, message):
    code, _, err = run(*arguments)
    assert code == 2
    assert message in " ".join(err.split())
    assert "Traceback" not in err


HEAVY = {"torch", "numpy", "scipy", "statsmodels", "transformers", "diffusers", "matplotlib", "safetensors"}


LIGHT = {
    "--help": 0,
    "--version": 0,
    "prompt --help": 0,
    "prompts --help": 0,
    "prompt": 2,
    "radius x --n many": 2,
    "prompt x --alpha 2": 2,
    "curve x --rhos 1,1": 2,
    "prompts nosuch.csv": 2,
    "check nosuch": 2,
    "nosuch": 2,
}

EACH = """
import os, sys
from certify.__main__ import main  # what every command starts with
assert not heavy & set(sys.modules), heavy & set(sys.modules)
for number, line in enumerate(lines):
    child = os.fork()
    if not child:
        sys.argv = ["certify", *line.split()]
        try:
            main()
        except SystemExit as end:
            with open(f"{number}.txt", "w") as file:
                print(end.code, sorted(heavy & set(sys.modules)), file=file)
        os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """For each line of `LIGHT` its exit code and the heavy libraries that it loads, each in a process of its own."""
    folder = tmp_path_factory.mktemp("light")
    script = f"heavy, lines = {HEAVY}, {list(LIGHT)}\n{EACH}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", script], cwd=folder, env=environment, capture_output=True, check=True)
    return {line: (folder / f"{number}.txt").read_text().strip() for number, line in enumerate(LIGHT)}


@pytest.mark.parametrize("arguments", LIGHT)
def test_help_and_misuse_are_light(loaded, arguments):
    """None of them loads anything heavier than the command line's own libraries."""
    assert loaded[arguments] == f"{LIGHT[arguments]} []"


def test_interrupt(run, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(Settings, "text_only", stopped)
    code, _, err = run("prompt", PROMPT, "--text-only")
    assert (code, "Traceback" in err) == (130, False)
    assert not Path("runs").exists()
