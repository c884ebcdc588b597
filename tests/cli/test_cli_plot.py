"""`certify plot`: every figure of a folder, by its name's end, and what it refuses."""

from __future__ import annotations

import pytest

from certify import AdaptiveMedianSmoother, datasets, world
from certify.models import load_text_encoder

MAGIC = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder of `certify prompt`, one of a private certificate, and one of `certify prompts`."""
    folder = tmp_path_factory.mktemp("plot")
    adaptive = AdaptiveMedianSmoother.from_encoder(load_text_encoder(), ["circle"], **world.SMOOTHING)
    adaptive.certify("a $5 circle", n=300, statistics=0).save(folder / "one")
    adaptive.certify("a circle", n=300, statistics=0, private=True).save(folder / "private")
    (folder / "few.csv").write_text("prompt\na red circle\na square\n")
    data, options = datasets.PromptSet.load(folder / "few.csv"), datasets.RowOptions(n=300, tolerance=4000.0)
    with datasets.Results(folder / "run", datasets.run_settings(adaptive, data, options), data) as results:
        datasets.certify_rows(adaptive, results, options)
    return folder


@pytest.mark.parametrize("what", ["curve", "noise", "ellipsoid", "relevance"])
@pytest.mark.parametrize("name", ["one", "private"])
def test_a_certificates_figures(run, folders, tmp_path, name, what):
    suffix = {"one": "svg", "private": "png"}[name]
    code, out, err = run("plot", str(folders / name), what, "--out", f"a.{suffix}", "--narrow")
    assert (code, err, out.strip()) == (0, "", f"written: a.{suffix}")
    content = (tmp_path / f"a.{suffix}").read_bytes()
    assert content.startswith(MAGIC[suffix])
    assert (b"a $5 circle" in content) == (name == "one")  # the title, as metadata


def test_a_runs_fraction(run, folders, tmp_path):
    assert run("plot", str(folders / "run"), "fraction", "--out", "a.pdf")[0] == 0
    assert (tmp_path / "a.pdf").read_bytes().startswith(MAGIC["pdf"])
    code, out, _ = run("plot", str(folders / "run"), "fraction")
    assert (code, (folders / "run" / "fraction.png").exists()) == (0, True)
    assert "fraction.png" in out.replace("\n", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("one", "scatter"),
            "what = 'scatter': must be one of 'curve', 'rate', 'noise', 'ellipsoid', 'relevance', 'levels', ",
        ),
        (("one", "curve", "--out", "a.jpg"), "out = 'a.jpg': must end in .png or .svg or .pdf"),
        (("one", "curve", "--out", "no/a.png"), "does not exist"),
        (("one", "rate", "--out", "a.png"), "holds no certified event"),
        (("one", "fraction", "--out", "a.png"), "holds no settings.json"),
        (("run", "curve", "--out", "a.png"), "holds no certificate.json"),
        (("none", "curve"), "must be an existing folder"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(run, folders, arguments, message):
    code, _, err = run("plot", str(folders / arguments[0]), *arguments[1:])
    assert (code, err.count("\n")) == (2, 1)
    assert message in err


def test_nothing_is_written_over_unasked(run, folders, tmp_path):
    (tmp_path / "a.png").write_bytes(b"mine")
    given = ("plot", str(folders / "one"), "relevance", "--out", "a.png")
    code, _, err = run(*given)
    assert (code, "exists already" in err, (tmp_path / "a.png").read_bytes()) == (2, True, b"mine")
    assert run(*given, "--force")[0] == 0
    assert (tmp_path / "a.png").read_bytes().startswith(MAGIC["png"])


def test_radius_draws_the_ellipsoid(run, tmp_path):
    given = ("radius", "a circle", "--n", "300", "--tolerance", "4000", "--figure")
    code, out, err = run(*given, "e.svg")
    assert (code, err) == (0, "")
    assert "written: e.svg" in out
    assert b"<dc:title>a circle</dc:title>" in (tmp_path / "e.svg").read_bytes()
    assert "must end in" in run(*given, "e.txt")[2]
