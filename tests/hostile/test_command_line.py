"""The command line among files of strangers: one line that begins with `error:`, exit code 2, and everything is as it was."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from certify import Certificate, datasets, event_bound, mse_bound, statistic_bound, world
from certify.adaptive import AdaptiveMedianSmoother
from certify.models import load_text_encoder
from experiments.__main__ import main as experiments_main
from tests.hostile.corpus import FOREIGN, Raw, Watched, changed, dumped, mangled_json, payloads, places, tree

PROMPT = "a photo of a red circle"
TEXT = ("--n", "64", "--text-only")


@pytest.fixture(scope="module")
def adaptive():
    return AdaptiveMedianSmoother.from_encoder(load_text_encoder(), ["circle"], **{**world.SMOOTHING, "n": 3})


@pytest.fixture(scope="module")
def made(tmp_path_factory, adaptive):
    """A certificate of a prompt, the same with a statistic, some by hand, and a run over a data set."""
    folder = tmp_path_factory.mktemp("made")
    source = {"model": None, "unet": None, "concepts": ["circle"]}
    adaptive.certify(PROMPT, n=64, statistics=0, provenance={"source": source}).save(folder / "text")
    adaptive.certify(PROMPT, n=64, statistics=32, provenance={"source": source}).save(folder / "statistic")
    problem, deployment, encoder = adaptive.problem(PROMPT), adaptive.deployment(PROMPT), adaptive.encoder.text_encoder
    bound = mse_bound(problem.f, problem.y, problem.noise, rho=0.5, n=100, support=problem.support)
    how: dict[str, Any] = {"rho": 0.1, "replicas": 3, "n": 64, "alpha": 0.01}
    score = statistic_bound(lambda z: z.mean(dim=(1, 2, 3)), deployment.y, deployment.noise, q=0.5, **how)
    event = event_bound(lambda z: z.mean(dim=(1, 2, 3)) > 0, deployment.y, deployment.noise, **how)
    for name, result in (("mse", bound), ("score", score), ("event", event)):
        Certificate.of(result, provenance={"prompt": PROMPT}).save(folder / f"{name} of nothing")
        Certificate.of(result, model=encoder, provenance={"prompt": PROMPT}).save(folder / f"{name} of the encoder")
    (folder / "few.csv").write_text('prompt\n"a red circle"\n""\n')
    data, options = datasets.PromptSet.load(folder / "few.csv"), datasets.RowOptions(n=64)
    with datasets.Results(folder / "run", datasets.run_settings(adaptive, data, options), data) as results:
        datasets.certify_rows(adaptive, results, options, source=source)
    return folder


@pytest.fixture
def here(made, tmp_path):
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def refused(run, here):
    """Runs a command that must fail in one line; returns the line."""

    def call(*arguments: str) -> str:
        before = tree(here)
        code, _, err = run(*arguments)
        after = tree(here)
        assert (code, "Traceback" in err) == (2, False), err
        line = err.strip()
        assert line.startswith("error: "), err
        assert "\n" not in line
        assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in line), line
        assert {name: after.get(name) for name in before} == before
        assert not (here / "canary").exists()
        return line

    return call


def edited(folder: Path, *place: Any, value: Any = None, gone: bool = False) -> None:
    """Rewrites one value of a certificate's record."""
    file = folder / "certificate.json"

    def change(parent: Any, key: Any) -> None:
        if gone:
            parent.pop(key)
        else:
            parent[key] = value

    file.write_bytes(dumped(changed(json.loads(file.read_bytes()), place, change)))


# Whether weights are compared (`certify check`)


def test_a_certificate_is_checked_with_its_own_weights_only(run, here):
    """The weights of a certificate that was made without a pipeline, but of more than the encoding, were not compared."""
    for name in ("text", "statistic", "mse of the encoder"):
        code, out, err = run("check", name)
        assert (code, "Not refuted" in out) == (0, True), err
    for name in ("text", "statistic", "mse of the encoder"):
        edited(here / name, "provenance", "model", "sha256", "module", value="0" * 64)
        code, _, err = run("check", name)
        assert (code, "the text encoder is not the one" in " ".join(err.split())) == (2, True)


def test_another_text_encoder_is_told_from_its_weights_alone(refused, here, adaptive):
    """Its last layer is another one: the prompt's embeddings, and so the input's SHA-256, are the same."""
    state = {
        n: t.clone() for n, t in adaptive.encoder.text_encoder.state_dict().items() if "final_layer_norm.bias" in n
    }
    save_file({name: tensor + 1e-3 for name, tensor in state.items()}, here / "other.safetensors")
    for name in ("text", "statistic", "mse of the encoder"):
        assert "the text encoder is not the one" in refused("check", name, "--text-encoder", "other.safetensors")


def test_without_weights_on_record_nothing_is_checked(refused, here):
    assert "has no SHA-256 of its model on record" in refused("check", "mse of nothing")
    for name in ("text", "statistic"):
        for value in (None, {}):
            edited(here / name, "provenance", "model", "sha256", value=value)
            assert "has no SHA-256 of its model on record" in refused("check", name)
        edited(here / name, "provenance", "model", gone=True)
        assert "has no SHA-256 of its model on record" in refused("check", name)


@pytest.mark.parametrize(
    "name", ["score of nothing", "event of nothing", "score of the encoder", "event of the encoder"]
)
def test_what_only_python_knows_is_not_guessed(refused, name):
    """A statistic or an event by hand was taken for a bound of the encoding."""
    assert "is not one of a prompt: check it from Python, with Certificate.check" in refused("check", name)


def test_parts_that_the_model_does_not_have(refused, here):
    edited(here / "statistic", "provenance", "model", "sha256", value={"unet of somebody": "0" * 64})
    assert "the unet of somebody is not the one" in refused("check", "statistic")
    edited(here / "text", "provenance", "model", "sha256", value={"unet": "0" * 64})
    assert "the certificate is about unet" in refused("check", "text")


# Records that a certificate of a prompt rests on

SMOOTHER = [
    (("smoother",), []),
    (("smoother", "sigma0"), "0.1"),
    (("smoother", "k"), None),
    (("smoother", "n"), 0),
    (("smoother", "n"), 1e400),
    (("smoother", "aggregate"), "mode"),
    (("smoother", "sigma_max"), []),
    (("smoother", "policy"), 7),
    (("smoother", "concepts"), None),
    (("smoother", "concepts"), [{"name": "circle"}]),
    (("smoother", "concepts", 0, "sha256"), "0"),
    (("source", "concepts"), ["../../nowhere.csv"]),
    (("source", "concepts"), ["a\0b.csv"]),
    (("source", "model"), "~nobody-of-this-name/x"),
    (("source", "model"), "a\0b"),
    (("source", "text_encoder"), "nowhere.pt"),
    (("prompt",), "circle " * 1500),
    (("prompt",), "\x1b[2J\x1b[31m"),
    (("prompt",), ["a"]),
    (("dtype",), "float8_e4m3fn"),
    (("dtype",), "__class__"),
    (("input_sha256",), "0"),
]


@pytest.mark.parametrize(("place", "value"), SMOOTHER, ids=lambda v: str(v)[:30])
def test_records_of_a_smoother_that_are_none(refused, here, place, value):
    edited(here / "text", "provenance", *place, value=Raw("1e400") if value == 1e400 else value)
    refused("check", "text")


NAMED = [
    ("model", "somebody/model", "--model"),
    ("unet", "somebody/unet", "--weights"),
    ("text_encoder", "text.safetensors", "--text-encoder"),
    ("variant", "fp16", "--variant"),
    ("concepts", ["mine.csv"], "--concept"),
    ("concepts", ["circle", "/etc/mine.jsonl"], "--concept"),
]


@pytest.mark.parametrize(("name", "value", "option"), NAMED)
@pytest.mark.parametrize(
    "command", [("check", "statistic"), ("check", "text"), ("report", "statistic", "--images", "1")]
)
def test_what_only_a_certificate_names_is_not_loaded(refused, run, here, monkeypatch, command, name, value, option):
    """`certify check` of a stranger's certificate fetched the repository of his choice."""
    import certify.models
    from certify.adaptive import Concept

    asked = []

    def nothing(model=None, **how):
        asked.append((model, how))
        raise ValueError("here it is")

    for loader in ("load_pipeline", "load_text_encoder"):
        monkeypatch.setattr(certify.models, loader, nothing)
    read, foreign = Concept._read, [name for name in value if name != "circle"] if isinstance(value, list) else [value]
    monkeypatch.setattr(
        Concept,
        "_read",
        classmethod(lambda cls, path: pytest.fail(f"read {path}") if str(path) in foreign else read(path)),
    )
    edited(here / command[1], "provenance", "source", name, value=value)
    if (command, name) == (("check", "text"), "unet"):  # nothing of it is checked there, and so it is not loaded
        assert "here it is" in refused(*command)
        assert value not in asked[0][1].values()
        return
    message = " ".join(refused(*command).split())
    assert f"the certificate names {option} = " in message
    assert f"give {option}, or --trust-names" in message
    assert asked == []
    assert "here it is" in refused(*command, "--trust-names")
    if name != "concepts":
        assert value in (asked[0][0], *asked[0][1].values())
    asked.clear()
    refused(*command, "--model", "me/mine", *(("--concept", "circle") if name == "concepts" else ()))
    assert asked[0][0] == "me/mine"
    assert value not in asked[0][1].values()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=15)
@given(data=st.data())
def test_provenance_of_anything(data, run, here):
    """What stands in a record beside its claims: checked and shown, or refused; a text is shown as it stands there."""
    whole = json.loads((here / "text" / "certificate.json").read_bytes())
    other = here / "other"
    shutil.rmtree(other, ignore_errors=True)
    shutil.copytree(here / "text", other)
    provenance = data.draw(mangled_json(whole["provenance"]))
    text = dumped({**whole, "provenance": Raw("@@")}).replace(b"@@", provenance)
    (other / "certificate.json").write_bytes(text)
    for command in (("check", "other"), ("report", "other", "--images", "0")):
        code, out, err = run(*command)
        assert code in (0, 1, 2), err
        assert "Traceback" not in err
        assert "\x1b[2J" not in out + err
        assert (code == 2) == err.startswith("error: ")
    (other / "report.html").unlink(missing_ok=True)


# Files that are given to commands


@pytest.fixture
def files(here, monkeypatch):
    """Files of strangers, by name."""
    monkeypatch.chdir(here)
    Path("deep.jsonl").write_bytes(b"[" * 10_000 + b"\n")
    Path("utf16.csv").write_bytes("prompt\na\n".encode("utf-16"))
    Path("open.csv").write_bytes(b'prompt,positive,negative\n"a,b,c\n')
    Path("long.csv").write_bytes(b"prompt,positive,negative\n" + b"a" * 200_000 + b",b,c\n")
    Path("heads.csv").write_bytes(b"\x1b[2J,\x1b[31mx\na,b\n")
    Path("folder.csv").mkdir()
    Path("folder.safetensors").mkdir()
    Path("circle.csv").symlink_to("circle.csv")
    Path("letters.txt").write_bytes(b"\xff\xfe")
    Path("letters.safetensors").write_text("mine")
    for kind, blob in payloads(here / "canary").items():
        for suffix in ("pt", "bin", "safetensors", "csv", "jsonl"):
            Path(f"{kind}.{suffix}").write_bytes(blob)
    os.mkfifo("pipe.csv")
    os.mkfifo("pipe.safetensors")
    return here


TABLES = (
    "deep.jsonl",
    "utf16.csv",
    "open.csv",
    "long.csv",
    "heads.csv",
    "folder.csv",
    "circle.csv",
    "pipe.csv",
    "bare.csv",
    "archive.jsonl",
)
WEIGHTS = (
    "letters.safetensors",
    "folder.safetensors",
    "pipe.safetensors",
    "bare.pt",
    "archive.pt",
    "older.bin",
    "array.pt",
    "bare.safetensors",
)


def test_prompts_and_concepts_of_strangers(refused, files):
    for name in TABLES:
        for command in (("prompts", name, "--n", "64"), ("concepts", name)):
            assert name.partition(".")[0] in refused(*command), command
    assert not Path("runs").exists()


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_of_strangers(refused, files, name):
    assert name.partition(".")[0] in refused("radius", PROMPT, "--text-encoder", name, "--n", "64")
    assert not Path("runs").exists()


def test_lists_of_attacks_of_strangers(refused, files):
    for name in ("letters.txt", "folder.csv", "circle.csv", "pipe.csv", "nowhere.txt"):
        assert name in refused("prompt", PROMPT, *TEXT, "--attacks", name)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("circle " * 1500, "must have at most"),
        ("x" * 10_000, "must have at most"),
        ("\x07\x08 \n\t\r", "tolerance = 0.0: must be"),
        (" \n\t\r", "must not be empty"),
    ],
)
def test_prompts_of_any_length_and_letters(refused, prompt, message):
    assert message in refused("radius", prompt, "--n", "64")


def test_letters_of_a_terminal_are_not_sent_to_it(run, here):
    """A file with control characters in its prompts, or pairs, could write over what stands above it."""
    rows = [{"positive": "red \x1b[2J\x1b[31mcircle", "negative": "a \x9b1m[bold]square[/bold]"}]
    Path("pairs.jsonl").write_bytes(dumped(rows[0]) + b"\n")
    Path("prompts.jsonl").write_bytes(dumped({"prompt": "red \x1b[2Jcircle " * 40}) + b"\n")
    # The one prompt is longer than the context: nothing is certified, which is code 3.
    for command, expected in (
        (("concepts", "pairs.jsonl"), 0),
        (("prompts", "prompts.jsonl", "--n", "64", "--out", "new"), 3),
    ):
        code, out, err = run(*command)
        assert code == expected, err
        assert not any(c in out + err for c in "\x1b\x9b\x07")
    code, out, _ = run("concepts", "pairs.jsonl")
    assert "[bold]" in out


# Folders that are there


def test_a_run_of_somebody_else_is_neither_gone_on_from_nor_written_over(refused, here):
    few = ("prompts", "few.csv", "--n", "64", "--out")
    for name, content in (
        ("letter", b"mine, without a line's end"),
        ("rows", b'{"row": 1, "run": "0"}\n'),
        ("image", b"\x89PNG\r\n\x1a\n" + bytes(99)),
    ):
        shutil.copytree("run", name)
        (Path(name) / "results.jsonl").write_bytes(content)
        assert name in refused(*few, name)
    for value in (FOREIGN[0], FOREIGN[-1], [], {"settings": {}}):
        (Path("run") / "settings.json").write_bytes(dumped(value))
        assert "run" in refused(*few, "run")
    assert "is a file; must be a folder" in refused(*few, "few.csv")


def test_a_folder_called_checkpoint_that_is_not_ours(run, here):
    """It was begun in, and removed with all that was in it when the run was over."""
    mine = here / "new" / "checkpoint" / "photos" / "mine.png"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    code, _, err = run("prompt", PROMPT, *TEXT, "--out", "new")
    assert code == 0, err
    assert mine.read_bytes() == b"mine"
    assert [entry.name for entry in (here / "new" / "checkpoint").iterdir()] == ["photos"]


def test_results_are_not_written_through_links(run, refused, here):
    """Where a folder has links under the names of results, what they lead to stays as it is."""
    precious, few = here / "precious", ("prompts", "few.csv", "--n", "64", "--out", "new")
    precious.write_text("mine")
    (here / "new").mkdir()
    links = [here / "new" / name for name in ("summary.json", "fraction.png")]
    links[0].symlink_to(precious)
    assert "holds summary.json without settings.json; choose another folder" in refused(*few)
    links[0].unlink()
    # Links that come while a run is under way do not stop it.
    assert run(*few, "--limit", "1")[0] == 0
    for link in links:
        link.unlink(missing_ok=True)
        link.symlink_to(precious)
    code, _, err = run(*few)
    assert code == 0, err
    assert precious.read_text() == "mine"
    assert json.loads((here / "new" / "summary.json").read_text())["prompts"] == 2


def test_memories_of_strangers(refused, here):
    (here / "regions").mkdir()
    for content in (b"", b"[]", b"\xff", dumped({"format": FOREIGN[-1]})):
        (here / "regions" / "memory.json").write_bytes(content)
        assert "memory.json" in refused("prompt", PROMPT, *TEXT, "--policy", "memory", "--regions", "regions")


def test_pages_of_damaged_folders(refused, here):
    record = json.loads((here / "text" / "certificate.json").read_bytes())
    for place in places(record)[1:4]:
        edited(here / "text", *place, gone=True)
        refused("report", "text", "--images", "0")
        (here / "text" / "certificate.json").write_bytes(dumped(record))
    for content in (b"", b"null\n", b"[" * 10_000 + b"\n", dumped({"row": 1}) + b"\n"):
        (here / "run" / "results.jsonl").write_bytes(content)
        refused("report", "run")
    for blob in (b"", b"\x89PNG\r\n\x1a\n" + bytes(99), b"GIF89a" + bytes(4), *payloads(here / "canary").values()):
        (here / "text" / "pair.png").write_bytes(blob)
        assert "is no image that can be shown" in refused("report", "text")
    assert not list(here.rglob("report.html"))


def test_folders_that_are_none(refused, here):
    for name in ("few.csv", "nowhere", "x" * 5000, "run/settings.json/x"):
        refused("check", name)
        refused("report", name)


# The other command


@pytest.mark.parametrize("name", TABLES)
def test_experiments_say_it_in_a_line_too(files, name, monkeypatch, capsys):
    arguments = [
        "attack",
        "implicit",
        "--victim",
        "nowhere",
        "--concept",
        "circle",
        "--out",
        "out.csv",
        "--prompts",
        name,
    ]
    monkeypatch.setattr("sys.argv", ["experiments", *arguments])
    watched = Watched(files)
    with watched.unchanged():
        assert experiments_main() == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert name.partition(".")[0] in err
    assert err.count("\n") == 1
    assert "\x1b" not in err


def test_what_was_certified_is_as_it_was(made, adaptive):
    """The folder that all tests copy: none of them wrote into it."""
    assert torch.isfinite(load_file(made / "text" / "tensors.safetensors")["sigma"]).all()
    assert {p.name for p in (made / "text").iterdir()} == {"certificate.json", "tensors.safetensors"}
