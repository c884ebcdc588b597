"""The README: short, and true. Its links and commands are looked at by `tests/test_docs.py`, its formulas elsewhere, too."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def words(text: str) -> str:
    """Text with one blank between words."""
    return " ".join(text.replace(">", " ").split())


def test_it_is_short():
    assert len(README.split()) < 900


def test_the_sentence_under_the_picture_is_what_the_certificate_prints():
    printed = words((ROOT / "docs/guide/one-prompt.md").read_text(encoding="utf-8"))
    claim, without = re.search(r"^> (For every.*?%)\. (Without.*?%)\.$", README, re.M | re.S).groups()
    assert re.search(re.escape(words(claim)) + r" \(T\d+, [\w ]+\)\.", printed)
    assert f"{words(without)} (100 of 100 images)" in printed


def test_the_first_screen_has_picture_sentence_and_command():
    first = README.split("## Five lines")[0]
    assert len(first.splitlines()) < 45
    for part in (
        "docs/guide/pair.png",
        "> For every perturbation",
        "make certify",
        "certify prompt",
        "docs/install.md",
    ):
        assert part in first


def test_its_lines_of_python_run():
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len([line for line in code.splitlines() if line and not line.startswith("import")]) <= 5
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(code.replace("10_000", "300"), {})
    assert re.match(r"For every perturbation .* stays within squared distance", words(out.getvalue()))
