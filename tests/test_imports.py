"""Who imports whom: the contracts of pyproject.toml hold, and each notices what it is there for."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import grimp
import pytest
import yaml

from tests.circles import circles, debts, graph

ROOT = Path(__file__).resolve().parents[1]

LATE = "\n\ndef _late() -> None:\n    {}\n"
"""An import inside a function."""

BREACHES = {
    "a circle": ("certify/bounds/base.py", "from certify.bounds import radius", "No circles"),
    "a circle of two packages": ("certify/montecarlo/sketch.py", "from certify import progress", "No circles"),
    "upwards": ("certify/confidence/fixed_n.py", "from certify import statements", "A room uses rooms"),
    "a room of no floor": ("certify/cellar.py", "pass", "A room uses rooms"),
    "the front door": ("certify/plots/curves.py", "import certify", "Rooms import rooms"),
    "experiments": ("certify/adaptive/concepts.py", "import experiments.tables", "knows nothing of experiments"),
    "transformers": ("certify/adaptive/relevance.py", "import transformers", "in certify.models alone"),
    "a model in the mathematics": ("certify/support.py", "from certify.models import unet", "knows no models"),
    "a model behind a helper": ("certify/_floats.py", "from certify.models import unet", "knows no models"),
    "a file in the mathematics": ("certify/bounds/mse.py", "from pathlib import Path", "reads, writes and prints"),
}
"""What is put in → file, statement, the contract that must break."""


def linted(folder: Path) -> tuple[int, str]:
    done = subprocess.run(
        [
            shutil.which("lint-imports", path=str(Path(sys.executable).parent)) or "lint-imports",
            "--no-cache",
            "--no-logo",
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "200"},
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The package's sources and the contracts."""
    shutil.copytree(
        ROOT / "certify",
        tmp_path / "certify",
        ignore=lambda folder, names: [
            name
            for name in names
            if not (name.endswith(".py") or (Path(folder) / name).is_dir()) or name == "__pycache__"
        ],
    )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_contracts_hold() -> None:
    code, said = linted(ROOT)
    assert code == 0, said


@pytest.mark.parametrize("breach", BREACHES)
@pytest.mark.parametrize("late", [False, True], ids=["at once", "inside a function"])
def test_a_breach_is_noticed(copy: Path, breach: str, late: bool) -> None:
    name, statement, contract = BREACHES[breach]
    file = copy / name
    before = file.read_text() if file.exists() else ""
    file.write_text(before + (LATE.format(statement) if late else f"\n{statement}\n"))
    code, said = linted(copy)
    assert code != 0
    assert re.search(rf"{contract}.* BROKEN", said), said


def test_there_are_no_exceptions() -> None:
    assert debts() == []


@pytest.mark.parametrize("package", ["certify", "experiments"])
def test_there_are_no_circles(package: str) -> None:
    assert circles(graph(package)) == []


def test_circles_are_found() -> None:
    """Negative control: a circle of three, and what leads into it and out of it."""
    imports = grimp.ImportGraph()
    for importer, imported in ["ab", "bc", "ca", "xa", "cy"]:
        imports.add_import(importer=importer, imported=imported)
    assert circles(imports) == [["a", "b", "c"]]


def test_a_commit_runs_what_lint_runs() -> None:
    makefile = (ROOT / "Makefile").read_text()
    (recipe,) = re.findall(r"^lint:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    wanted = [line.strip().replace("$(VENV)", ".venv") for line in recipe.splitlines()]
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [hook["entry"] for repo in hooks for hook in repo["hooks"]] == wanted
    assert all(repo["repo"] == "local" for repo in hooks)
    assert all(hook["pass_filenames"] is False for repo in hooks for hook in repo["hooks"])


def test_every_tool_is_pinned() -> None:
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["dev"]
    tools = {re.split(r"[>=<\[]", line)[0] for line in extra} - {"certify"}
    pinned = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().split()}
    assert tools <= pinned
