"""The wheel and the source distribution: what is in them, and that the wheel alone, installed, certifies a prompt."""

from __future__ import annotations

import email
import email.message
import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

import certify

pytest.importorskip("hatchling", reason="what builds the wheel is not installed")

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Wheel and source distribution, built from the working tree."""
    folder = tmp_path_factory.mktemp("dist")
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", str(folder)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return next(folder.glob("*.whl")), next(folder.glob("*.tar.gz"))


def files(top: str) -> set[str]:
    """What git keeps below a folder, or in the root the sources of the package."""
    listed = subprocess.run(["git", "ls-files", top], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    there = {name for name in listed.splitlines() if (ROOT / name).is_file()}
    if not there:
        pytest.skip("this is no checkout")
    return there


def test_the_wheel_holds_the_package_and_nothing_else(built):
    with zipfile.ZipFile(built[0]) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
        metadata = email.message_from_bytes(wheel.read(next(n for n in wheel.namelist() if n.endswith("/METADATA"))))
    assert {name.split("/")[0] for name in names} == {"certify"}
    assert files("certify") <= names
    assert {"certify/py.typed", "certify/world/pipeline/unet/diffusion_pytorch_model.safetensors"} <= names
    assert not [name for name in names if name.endswith((".pyc", ".ipynb", ".orig")) or "/test" in name]
    assert metadata["Version"] == certify.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert links(metadata) == []


def links(metadata: email.message.Message) -> list[str]:
    """Links of the long description that lead nowhere outside a repository."""
    text = str(metadata.get_payload())
    found = [a or b for a, b in re.findall(r"\]\(([^)]*)\)|(?:src|href)=\"([^\"]*)\"", text)]
    return [link for link in found if not link.startswith("https://")]


def test_a_relative_link_in_the_description_is_found():
    message = email.message.Message()
    message.set_payload('[a](docs/a.md) [b](https://example.org) <img src="c.png">')
    assert links(message) == ["docs/a.md", "c.png"]


def test_the_source_distribution_holds_what_the_readme_tells_to_run(built):
    with tarfile.open(built[1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    kept = set().union(*(files(top) for top in ("certify", "experiments", "tests", "docs", "benchmarks")))
    assert kept <= names
    assert {"README.md", "LICENSE", "Makefile", "constraints.txt", "pyproject.toml", "mkdocs.yml"} <= names
    assert not [name for name in names if name.startswith(("runs/", "site/", ".venv"))]


def test_versions_of_python_that_are_declared():
    declared = [c.rpartition(" ")[2] for c in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", c)]
    assert PROJECT["requires-python"] == f">={declared[0]}"
    assert declared == sorted(declared, key=lambda v: int(v.split(".")[1]))


@pytest.mark.slow
def test_the_wheel_alone_certifies_a_prompt(built, tmp_path):
    """In an environment of its own, away from the checkout. The libraries that it needs are this environment's."""
    place = tmp_path / "env"
    venv.create(place, with_pip=True)
    python = place / "bin/python"
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", str(built[0])], check=True)
    packages = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"], capture_output=True, text=True
    ).stdout.strip()
    (Path(packages) / "libraries.pth").write_text(sysconfig.get_paths()["purelib"] + "\n", encoding="utf-8")
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run(str(python), "-c", "import certify; print(certify.__file__)").startswith(packages)
    assert run(str(place / "bin/certify"), "--version").split() == ["certify", certify.__version__]
    prompt = ("prompt", "a photo of a red circle", "--n", "200", "--statistics", "40", "--images", "8")
    claims = json.loads(run(str(place / "bin/certify"), *prompt, "--json"))["claims"]
    assert {claim["quantity"] for claim in claims} >= {"mse", "radius", "deployed", "event"}
    code = re.findall(r"```python\n(.*?)```", str(PROJECT["readme"]["text"]), re.S)[0].replace("10_000", "200")
    assert "For every perturbation" in run(str(python), "-c", code)
    missing = subprocess.run([python, "-c", "import experiments"], cwd=tmp_path, env=env, capture_output=True)
    assert missing.returncode != 0
