"""The notebooks: run for real in a kernel, they show what is kept of them, and the site shows them as pages."""

from __future__ import annotations

import copy
import importlib.util
import json
import re
from pathlib import Path

import pytest

from tests.test_guides import agree

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.ipynb"))


OF_A_MACHINE = re.compile(
    r"(?<![\w.<])/(?:home|root|tmp|usr|opt|work|Users|private)/|[A-Z]:\\\\|0x[0-9a-f]{6,}|20\d\d-\d\d-\d\d"
)
"""Paths, addresses and dates."""


def site_module(name: str):
    """One of the site's own modules, which lie outside of any package."""
    spec = importlib.util.spec_from_file_location(f"_{name}", ROOT / f"docs/_site/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


runner = site_module("notebooks")


def read(file: Path) -> dict:
    return json.loads(file.read_text(encoding="utf-8"))


def words(output: dict) -> str:
    """What a reader sees of an output: its text, without tags and pictures; of a picture alone, that there is one."""
    if output["output_type"] == "stream":
        return "".join(output["text"])
    data = output["data"]
    shown = re.sub(r"<[^>]*>", " ", "".join(data.get("text/html", ())))
    return f"{''.join(data['text/plain'])}\n{shown}\n{'picture' if 'image/png' in data else ''}"


def differences(kept: dict, made: dict) -> list[str]:
    """Cells that show other words than is kept, or numbers that differ by more than another processor explains."""
    found = []
    for before, now in zip(kept["cells"], made["cells"], strict=True):
        old, new = ([words(o) for o in cell.get("outputs", ())] for cell in (before, now))
        if len(old) != len(new) or not all(agree(a, b) for a, b in zip(old, new, strict=True)):
            found.append(f"{before['id']}:\n{new}")
    return found


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_shows_what_is_kept_of_it(file, tmp_path):
    pytest.importorskip("nbclient", reason="notebooks are run by nbclient, of the extra `test`")
    kept = read(file)
    assert differences(kept, runner.executed(kept, tmp_path)) == []


def test_there_are_notebooks():
    assert len(NOTEBOOKS) >= 2


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_what_is_kept_depends_on_the_code_alone(file):
    text, kept = file.read_text(encoding="utf-8"), read(file)
    assert text == runner.written(kept)
    assert kept == runner.stripped(kept)
    assert [c["execution_count"] for c in kept["cells"] if c["cell_type"] == "code"]
    assert not [o for c in kept["cells"] for o in c.get("outputs", ()) if o.get("name") == "stderr"]
    assert not [o for c in kept["cells"] for o in c.get("outputs", ()) if o["output_type"] == "error"]
    assert not OF_A_MACHINE.search(re.sub(r'"image/png": "[^"]*"|base64,[\w+/=]*', "", text))
    assert len(text) < 400_000


@pytest.mark.parametrize(
    "text", ["saved to /tmp/x/y", "'/home/me/z'", r"C:\\Users\\me", "<function f at 0x7f12ab34>", "2026-05-01T10:00"]
)
def test_what_depends_on_a_machine_is_found(text):
    assert OF_A_MACHINE.search(json.dumps(text))


def code(source: str) -> dict:
    return {"cell_type": "code", "id": "one", "metadata": {}, "source": source, "execution_count": None, "outputs": []}


def notebook(*sources: str) -> dict:
    cells = [{**code(source), "id": f"cell-{i}"} for i, source in enumerate(sources)]
    return {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


def test_a_bar_changes_in_place_and_ends_full_and_errors_stop_a_run(tmp_path):
    """One kernel: a bar is one output whatever it went through; an output that is another now is found; an error is raised."""
    client = pytest.importorskip("nbclient", reason="notebooks are run by nbclient, of the extra `test`")
    made = runner.executed(
        notebook(
            "import time\n\nfrom certify.progress import Bar\nbar = Bar('drawing')\n"
            "for i in range(5):\n    bar(i, 4)\n    time.sleep(0.11)",
            "1 + 1",
        ),
        tmp_path / "a",
    )
    (bar,), (two,) = (cell["outputs"] for cell in made["cells"])
    assert bar["output_type"] == "display_data"
    assert bar["data"]["text/plain"] == ["drawing 4 of 4"]
    assert "width:100.0%" in "".join(bar["data"]["text/html"])
    assert two["data"]["text/plain"] == ["2"]
    assert differences(made, made) == []
    other = copy.deepcopy(made)
    other["cells"][1]["outputs"][0]["data"]["text/plain"] = ["3"]
    assert [line.splitlines()[0] for line in differences(made, other)] == ["cell-1:"]
    other["cells"][0]["outputs"] = []
    assert len(differences(made, other)) == 2
    with pytest.raises(client.exceptions.CellExecutionError, match="ZeroDivisionError"):
        runner.executed(notebook("1 / 0"), tmp_path / "b")


def test_times_and_counters_are_stripped():
    ran = notebook("x")
    ran["metadata"] = {"language_info": {"name": "python", "version": "3.99"}, "author": "somebody"}
    ran["cells"][0] |= {
        "execution_count": 17,
        "metadata": {"execution": {"iopub.execute_input": "2026-01-01T00:00:00Z"}},
        "outputs": [
            {
                "output_type": "execute_result",
                "execution_count": 17,
                "metadata": {"x": 1},
                "data": {"text/plain": "a\nb", "image/png": "AAAA"},
            },
            {"output_type": "stream", "name": "stdout", "text": "one\n"},
        ],
    }
    (cell,) = runner.stripped(ran)["cells"]
    assert cell["metadata"] == {}
    assert cell["execution_count"] == 1
    assert cell["outputs"] == [
        {
            "output_type": "execute_result",
            "execution_count": 1,
            "metadata": {},
            "data": {"text/plain": ["a\n", "b"], "image/png": "AAAA"},
        },
        {"output_type": "stream", "name": "stdout", "text": ["one\n"]},
    ]
    assert runner.stripped(ran)["metadata"] == {"kernelspec": runner.KERNEL, "language_info": {"name": "python"}}


def test_a_notebook_is_a_page_of_the_site():
    pytest.importorskip("mkdocs", reason="the site's tools are not installed")
    hooks = site_module("hooks")
    ran = notebook("print('<b>')")
    picture = "iVBORw0KGgoAAAANSUhEUgAAAGQAAAABCAAAAAA="  # the head of a PNG, 100 pixels wide
    ran["cells"][0]["outputs"] = [
        {"output_type": "stream", "name": "stdout", "text": ["<b>\n", "\n", "x\n"]},
        {"output_type": "execute_result", "data": {"text/plain": ["<P>"], "text/html": ["<i>shown</i>"]}},
        {"output_type": "execute_result", "data": {"text/plain": ["<P>"], "image/png": picture}},
        {"output_type": "execute_result", "data": {"text/plain": ["<P>"]}},
    ]
    ran["cells"].insert(
        0, {"cell_type": "markdown", "source": ["# Title\n", "[next](other.ipynb), [g](../guide/a.md)"]}
    )
    page = hooks.notebook_page(ran, "mine.ipynb")
    assert page.startswith(
        "# Title\n[next](other.md), [g](../guide/a.md)\n\nThis page is a notebook as it ran: [mine.ipynb]"
    )
    assert "```python\nprint('<b>')\n```" in page
    assert '<div class="shown"><pre>&lt;b&gt;&#10;\nx\n</pre></div>' in page
    assert '<div class="shown"><i>shown</i></div>' in page
    assert f'width="70" src="data:image/png;base64,{picture}">' in page
    assert "<pre>&lt;P&gt;</pre>" in page
    ran["cells"][1]["outputs"] = [{"output_type": "error", "ename": "ValueError", "evalue": "no"}]
    with pytest.raises(ValueError, match="a cell that ended with ValueError: no"):
        hooks.notebook_page(ran, "mine.ipynb")
