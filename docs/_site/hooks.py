"""Build hooks: what the site adds to the pages as they lie in docs/."""

from __future__ import annotations

import base64
import html
import json
import logging
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
OUTSIDE = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md", "SECURITY.md": "security.md"}
"""File in the repository's root → page of the site."""

LOG = logging.getLogger("mkdocs.hooks")
_LOADED = re.compile(r"<(?:script|img|iframe|source|link)\b[^>]*?\b(?:src|href)=[\"']?((?:https?:)?//[^\"'\s>]+)")


def on_config(config: Any) -> Any:
    """In the navigation a folder, "theory/", stands for its pages, "index.md" first: a new theorem needs no line there."""
    for section in config.nav:
        for title, entries in section.items():
            if isinstance(entries, list):
                section[title] = [page for entry in entries for page in _expanded(entry, Path(config.docs_dir))]
    return config


def _expanded(entry: Any, docs: Path) -> list[Any]:
    if not isinstance(entry, str) or not entry.endswith("/"):
        return [entry]
    return [f"{entry}{name}" for name in sorted((page.name for page in (docs / entry).glob("*.md")), key=_order)]


def _order(name: str) -> tuple[Any, ...]:
    """Numbers in a name count as numbers: 2.md stands before 10.md."""
    parts = re.split(r"(\d+)", name)
    return (name != "index.md", *((1, part) if i % 2 == 0 else (0, int(part)) for i, part in enumerate(parts)))


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages from the repository's root, and a page a notebook."""
    for source, page in OUTSIDE.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    for file in sorted(Path(config.docs_dir).glob("notebooks/*.ipynb")):
        content = notebook_page(json.loads(file.read_text(encoding="utf-8")), file.name)
        files.append(File.generated(config, f"notebooks/{file.stem}.md", content=content))
    return files


def notebook_page(notebook: dict[str, Any], name: str) -> str:
    """A notebook as Markdown: its words, its code, and below each cell what it showed.

    Args:
        notebook: as JSON values, executed.
        name: of its file, which the page links to.
    """
    parts: list[str] = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(re.sub(r"(\]\([\w./-]+)\.ipynb\b", r"\1.md", source))
            continue
        parts.append(f"```python\n{source}\n```")
        parts += [_notebook_output(output) for output in cell["outputs"]]
    note = f'This page is a notebook as it ran: [{name}]({name}){{ download="{name}" }}.'
    return "\n\n".join([parts[0], note, *parts[1:]]) + "\n"


def _notebook_output(output: dict[str, Any]) -> str:
    if output["output_type"] == "error":
        raise ValueError(f"a notebook has a cell that ended with {output['ename']}: {output['evalue']}")
    if output["output_type"] == "stream":
        shown = f"<pre>{html.escape(''.join(output['text']))}</pre>"
    elif "text/html" in output["data"]:
        shown = "".join(output["data"]["text/html"])
    elif "image/png" in output["data"]:
        picture = "".join(output["data"]["image/png"]).replace("\n", "")
        wide = int.from_bytes(base64.b64decode(picture)[16:20])  # 150 pixels an inch, shown as 105
        shown = (
            f'<img alt="figure drawn by the code above" width="{wide * 7 // 10}" src="data:image/png;base64,{picture}">'
        )
    else:
        shown = f"<pre>{html.escape(''.join(output['data']['text/plain']))}</pre>"
    shown = re.sub(r"\n(?=\n)", "&#10;", shown)  # Markdown takes a blank line for the end of the HTML
    return f'<div class="shown">{shown}</div>'


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links to files in the root, and from there, become links between pages; the start page has the whole width.

    A page that begins with a heading of the second level (a table, which programs write to be put under others) gets it as
    its title.
    """
    up = "../" * page.file.src_uri.count("/")
    for source, target in OUTSIDE.items():
        markdown = markdown.replace(f"](../{up}{source}", f"]({up}{target}")
    if page.file.src_uri in OUTSIDE.values():
        markdown = markdown.replace("](docs/", "](")
        for source, target in OUTSIDE.items():
            markdown = markdown.replace(f"]({source}", f"]({target}")
    if markdown.startswith("## "):
        markdown = markdown.removeprefix("#")
    if page.is_homepage:
        page.meta["hide"] = ["navigation", "toc"]
    return markdown


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Warns, and so stops a strict build, where a page would load something from elsewhere."""
    for address in _LOADED.findall(output):
        LOG.warning(f"{page.file.src_uri}: loads {address}; the site must be readable without a network")
    return output
