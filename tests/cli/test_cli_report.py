"""`certify report`: a page from a folder, with the embedded model's images, and what it refuses."""

from __future__ import annotations

import json
import shutil

import pytest
from PIL import Image

from certify import Certificate, datasets, load_pipeline, world
from certify.adaptive import AdaptiveMedianSmoother
from certify.cli import examples
from tests.test_report import Page, self_contained

PROMPT = "a <script> circle"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of `certify prompt`, one of a private certificate, and one of `certify prompts`."""
    folder = tmp_path_factory.mktemp("made")
    pipe = load_pipeline()
    adaptive = AdaptiveMedianSmoother.from_pipeline(pipe, ["circle"], n=3, **world.SMOOTHING)
    source = {"model": None, "unet": None, "concepts": ["circle"]}
    small = {"pipe": pipe, "n": 64, "statistics": 16, "images": 2, "detector": "judge:circle", "steps": 2}
    cert = adaptive.certify(PROMPT, guidance=2.0, provenance={"source": source}, **small)
    cert.save(folder / "one")
    adaptive.certify("a red circle", n=64, statistics=0, private=True, provenance={"source": source}).save(
        folder / "private"
    )
    (folder / "few.csv").write_text('prompt\n"a red circle"\n""\n"a <script> square"\n')
    data = datasets.PromptSet.load(folder / "few.csv")
    options = datasets.RowOptions(n=64, save_certificates=True)
    settings = datasets.run_settings(adaptive, data, options)
    with datasets.Results(folder / "run", settings, data) as results:
        datasets.certify_rows(adaptive, results, options, source=source)
    return folder


@pytest.fixture
def here(made, tmp_path):
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path


def test_a_certificate_becomes_a_page_with_images(run, here):
    code, out, err = run("report", "one", "--images", "1")
    assert code == 0, err
    assert "written: one/report.html" in out
    text = (here / "one" / "report.html").read_text(encoding="utf-8")
    page = self_contained(text)
    assert PROMPT in page.text
    assert [tag for tag, _ in page.tags].count("img") == 2
    exact = {value for value, _ in page.values}
    certificate = Certificate.load(here / "one")
    assert {c.value for c in certificate.claims if c.status == "certified"} <= exact
    assert {c.rho for c in certificate.claims} <= exact
    for digest in certificate.provenance["model"]["sha256"].values():
        assert digest in page.text
    assert "certify check one" in page.text
    # Nothing is written over, except where that is asked for.
    code, _, err = run("report", "one", "--images", "0")
    assert (code, "exists already" in " ".join(err.split())) == (2, True)
    assert (here / "one" / "report.html").read_text(encoding="utf-8") == text
    code, _, err = run("report", "one", "--images", "0", "--force")
    assert code == 0, err
    assert "<img" not in (here / "one" / "report.html").read_text(encoding="utf-8")


def test_images_are_left_out_where_the_model_is_another_one(run, here):
    file = here / "one" / "certificate.json"
    record = json.loads(file.read_text())
    record["provenance"]["model"]["sha256"]["unet"] = "0" * 64
    file.write_text(json.dumps(record))
    code, _, err = run("report", "one")
    assert code == 0, err
    page = Page((here / "one" / "report.html").read_text(encoding="utf-8"))
    assert "No images: the unet is not the one that this certificate is about" in page.text
    assert "img" not in {tag for tag, _ in page.tags}
    code, _, err = run("report", "one", "--images", "1", "--force")
    assert (code, "the unet is not the one" in " ".join(err.split())) == (2, True)


def test_an_image_beside_the_certificate_is_shown_without_what_else_the_file_holds(run, here):
    with (here / "one" / "pair.png").open("wb") as file:
        Image.new("RGB", (8, 8), "teal").save(file, "PNG")
        file.write(b"<script>alert(3)</script>")
    code, _, err = run("report", "one")
    assert code == 0, err
    text = (here / "one" / "report.html").read_text(encoding="utf-8")
    assert "pair.png, as it lies beside the certificate" in self_contained(text).text
    assert text.count("<img") == 1
    (here / "one" / "pair.png").write_bytes(b"<svg onload=alert(4)>")
    code, _, err = run("report", "one", "--force")
    assert (code, "is no image that can be shown" in " ".join(err.split())) == (2, True)
    assert (here / "one" / "report.html").read_text(encoding="utf-8") == text


def test_a_private_certificate_stays_private(run, here):
    code, _, err = run("report", "private", "--out", "page.html")
    assert code == 0, err
    page = self_contained((here / "page.html").read_text(encoding="utf-8"))
    assert "a prompt left out of the record" in page.text
    assert "certify check private --prompt …" in page.text
    assert "red" not in page.text.split()
    code, _, err = run("report", "private", "--out", "other.html", "--images", "1")
    assert (code, "the certificate leaves its prompt out" in " ".join(err.split())) == (2, True)


def test_a_run_becomes_a_page(run, here):
    code, _, err = run("report", "run", "--out", "run.html")
    assert code == 0, err
    page = self_contained((here / "run.html").read_text(encoding="utf-8"))
    records = [json.loads(line) for line in (here / "run" / "results.jsonl").read_text().splitlines()]
    exact = {value for value, _ in page.values}
    assert {float(record["radius"]) for record in records} <= exact
    assert {record["bound"] for record in records if record.get("bound") is not None} <= exact
    for piece in ("a <script> square", "the prompt is empty", "certify check run/certificates/0001"):
        assert piece in page.text, piece


def test_a_run_with_images_shows_every_prompt_with_them(run, here):
    """Images that lie beside a certificate are shown as they are; others are made where a number is asked for."""
    Image.new("RGB", (8, 8), "teal").save(here / "run" / "certificates" / "0001" / "pair.png")
    code, _, err = run("report", "run", "--out", "lying.html")
    assert code == 0, err
    text = (here / "lying.html").read_text(encoding="utf-8")
    assert text.count("<img") == 1
    page = self_contained(text)
    assert [tag for tag, _ in page.tags].count("article") == 3
    assert "run/certificates/0001" in page.text
    code, _, err = run("report", "run", "--out", "made.html", "--images", "1")
    assert code == 0, err
    assert (here / "made.html").read_text(encoding="utf-8").count("<img") == 4  # the empty prompt has no certificate


def test_two_runs_are_compared_pair_by_pair(run, here):
    pipe = load_pipeline()
    adaptive = AdaptiveMedianSmoother.from_pipeline(pipe, ["circle"], n=3, **{**world.SMOOTHING, "k": 1.0})
    data, options = datasets.PromptSet.load(here / "few.csv"), datasets.RowOptions(n=64)
    with datasets.Results(here / "weak", datasets.run_settings(adaptive, data, options), data) as results:
        datasets.certify_rows(adaptive, results, options)
    code, out, err = run("report", "run", "--against", "weak", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["written"] == ["run/comparison.html"]
    page = self_contained((here / "run" / "comparison.html").read_text(encoding="utf-8"))
    records = [
        [json.loads(line) for line in (here / name / "results.jsonl").read_text().splitlines()]
        for name in ("run", "weak")
    ]
    exact = {value for value, _ in page.values}
    for a, b in zip(*records, strict=True):
        assert {float(a["radius"]), float(b["radius"]), float(a["radius"]) - float(b["radius"])} <= exact
    radius = next(m for m in found["measures"] if m["name"] == "certified radius")
    assert radius["favours_a"] + radius["favours_b"] == sum(
        float(a["radius"]) != float(b["radius"]) for a, b in zip(*records, strict=True)
    )
    assert "k" in page.text
    assert "a <script> square" in page.text


def test_a_certificate_and_a_run_become_a_model_card_and_a_badge(run, here):
    for folder in ("one", "run"):
        code, _, err = run("report", folder, "--model-card", "--badge", f"{folder}.svg")
        assert code == 0, err
        assert (here / folder / "model-card.md").read_text(encoding="utf-8").startswith("---\nlibrary_name:")
        assert (here / f"{folder}.svg").read_text(encoding="utf-8").startswith("<svg")
        assert not (here / folder / "report.html").exists()
    code, _, err = run("report", "one", "--badge", "only.svg")
    assert code == 0, err
    assert (here / "only.svg").exists()
    assert not (here / "one" / "report.html").exists()


def damage(folder):
    """Folders that are none, or broken."""
    (folder / "empty").mkdir()
    for name in ("cut", "foreign", "wrong", "numbers", "missing"):
        shutil.copytree(folder / "one", folder / name)
    text = (folder / "one" / "certificate.json").read_text()
    (folder / "cut" / "certificate.json").write_text(text[: len(text) // 2])
    (folder / "foreign" / "certificate.json").write_text("[1, 2]")
    record = json.loads(text)
    record["provenance"]["token_noise"] = 5
    (folder / "wrong" / "certificate.json").write_text(json.dumps(record))
    record = json.loads(text)
    record["provenance"]["yardstick"]["distance"] = "very far"
    (folder / "numbers" / "certificate.json").write_text(json.dumps(record))
    (folder / "missing" / "tensors.safetensors").unlink()
    shutil.copytree(folder / "run", folder / "bare")
    shutil.rmtree(folder / "bare" / "certificates")
    shutil.copytree(folder / "run", folder / "torn")
    (folder / "torn" / "settings.json").unlink()
    shutil.copytree(folder / "run", folder / "changed")
    lines = (folder / "changed" / "results.jsonl").read_text()
    (folder / "changed" / "results.jsonl").write_text(lines.replace('"row": 2', '"row": 3'))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere",), "must be an existing folder"),
        (("few.csv",), "must be an existing folder"),
        (("empty",), "holds neither certificate.json"),
        (("cut",), "not readable as JSON"),
        (("foreign",), "must be an object"),
        (("wrong",), "cannot be shown"),
        (("numbers",), "cannot be shown"),
        (("missing",), "not readable"),
        (("torn",), "holds no settings.json"),
        (("changed",), "line 2: is damaged or of another run"),
        (("bare", "--images", "2"), "must be left out for a run that kept no certificates"),
        (("one", "--against", "run"), "must be left out for a certificate"),
        (("run", "--against", "run"), "nothing to compare"),
        (("run", "--against", "one"), "holds no settings.json"),
        (("run", "--against", "changed"), "line 2: is damaged or of another run"),
        (("run", "--against", "run", "--model-card"), "must be left out with --model-card"),
        (("run", "--model-card", "--out", "page.html"), "must end in .md"),
        (("run", "--badge", "one/certificate.json"), "must end in .svg"),
        (("run", "--badge", "a.svg", "--out", "page.html"), "must be left out with --badge"),
        (("one", "--images", "-1"), "images = -1"),
        (("one", "--out", "page.txt"), "must end in .html"),
        (("one", "--out", "empty"), "must end in .html"),
        (("one", "--out", "no/page.html"), "does not exist"),
    ],
)
def test_misuse_and_damage_are_one_line_and_exit_code_2(run, here, monkeypatch, arguments, message):
    damage(here)
    before = sorted(here.rglob("*"))
    monkeypatch.setattr(examples, "_generate", lambda *_: pytest.fail("images are made for a page that is refused"))
    if "--images" not in arguments:
        arguments = (*arguments, "--images", "0")
    code, _, err = run("report", *arguments)
    assert (code, message in " ".join(err.split()), "Traceback" in err) == (2, True, False), err
    assert sorted(here.rglob("*")) == before
