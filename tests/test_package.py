"""What is installed: names, types, and a description that can be read where no repository is."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import certify
from certify.statements.ask import ask

ROOT = Path(__file__).parents[1]
MODULES = ("adaptive", "datasets", "images", "models", "plots", "report", "world")


def test_modules_that_pages_name_are_attributes_after_import_certify() -> None:
    """In a fresh interpreter; and `import certify` itself loads none of them."""
    script = f"""
import json, sys, certify
early = [name for name in {MODULES!r} if "certify." + name in sys.modules]
missing = [name for name in {MODULES!r} if name not in dir(certify) or getattr(certify, name).__name__ != "certify." + name]
print(json.dumps([early, missing]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == [[], []]


def test_every_attribute_that_pages_and_docstrings_name_is_there() -> None:
    named = set()
    for path in (ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("certify/**/*.py")):
        named |= set(re.findall(r"`certify\.([a-z_]+)[.(`]", path.read_text(encoding="utf-8")))
    submodules = {path.stem for path in (ROOT / "certify").iterdir() if path.suffix == ".py" or path.is_dir()}
    named.discard("toml")  # the name of a file
    assert {"images", "adaptive", "plots"} <= named
    for name in named:
        assert hasattr(certify, name) or name in submodules, name
    for name in named & set(MODULES):
        assert hasattr(certify, name)


def test_ask_is_exported() -> None:
    assert certify.ask is ask
    assert "ask" in certify.__all__


def test_the_package_is_typed_for_those_who_install_it() -> None:
    assert (ROOT / "certify" / "py.typed").is_file()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["certify"]


def test_the_description_has_no_link_into_a_repository() -> None:
    """It stands alone in the wheel's METADATA."""
    readme = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["readme"]
    links = re.findall(r"\]\(([^)]*)\)|(?:src|href)=\"([^\"]*)\"", readme["text"])
    assert all((a or b).startswith("https://") for a, b in links)
    code = re.findall(r"```python\n(.*?)```", readme["text"], re.DOTALL)
    assert len(code) == 1
    compile(code[0], "pyproject.toml", "exec")


def test_what_takes_long_to_import_waits_until_it_is_needed() -> None:
    """scipy.stats, statsmodels and sympy each take about as long as torch; a bound needs none of them."""
    script = """
import sys
import torch
from certify import mse_bound
mse_bound(lambda z: z, torch.zeros(3), 0.5, rho=0.5, n=200)
print(sorted({"scipy.stats", "statsmodels", "sympy", "transformers", "matplotlib"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
