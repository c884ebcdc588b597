"""Runs the notebooks of docs/notebooks/ and keeps what they showed: `python docs/_site/notebooks.py` (`make notebooks`).

What is kept of a run depends on the code alone: cells are numbered from 1, outputs that a cell replaced are gone, and there
are neither times nor names of machines. Needs nbclient and ipykernel, of the extra `test`.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs/notebooks"

KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
QUIET = {
    "OMP_NUM_THREADS": "1",  # sums in another order would change last digits
    "JUPYTER_PLATFORM_DIRS": "1",  # asked for by jupyter_core, which warns otherwise
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",
}


def executed(notebook: dict[str, Any], folder: Path, *, timeout: int = 300) -> dict[str, Any]:
    """The notebook as a kernel of this Python leaves it that works in `folder`, stripped.

    Args:
        notebook: as JSON values; stays as it is.
        folder: where the kernel starts, keeps its settings, and what the cells write lands.
        timeout: seconds a cell may take.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell ended with an error.
    """
    os.environ.update(QUIET)
    import nbformat
    from nbclient import NotebookClient

    work, home = folder / "work", folder / "home"
    for made in (work, home):
        made.mkdir(parents=True, exist_ok=True)
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    settings = {"IPYTHONDIR": str(home), "JUPYTER_CONFIG_DIR": str(home), "JUPYTER_RUNTIME_DIR": str(home)}
    run = nbformat.reads(json.dumps(notebook), as_version=4)
    client = NotebookClient(
        run,
        timeout=timeout,
        startup_timeout=timeout,
        kernel_name="python3",
        resources={"metadata": {"path": str(work)}},
    )
    manager = client.create_kernel_manager()
    manager.connection_file = str(home / "kernel.json")
    if hasattr(socket, "AF_UNIX"):  # files instead of open ports
        manager.transport, manager.ip = "ipc", str(home / "kernel")
    client.execute(env={**os.environ, **settings, "PYTHONPATH": path})
    return stripped(json.loads(json.dumps(run)))


def stripped(notebook: dict[str, Any]) -> dict[str, Any]:
    """The notebook without what depends on when and where it ran."""
    cells, number = [], 0
    for cell in notebook["cells"]:
        kept = {
            "cell_type": cell["cell_type"],
            "id": cell["id"],
            "metadata": {},
            "source": _lines(_text(cell["source"])),
        }
        if cell["cell_type"] == "code":
            number += 1
            kept |= {"execution_count": number, "outputs": [_output(output, number) for output in cell["outputs"]]}
        cells.append(kept)
    metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def _output(output: dict[str, Any], number: int) -> dict[str, Any]:
    kind = output["output_type"]
    if kind == "stream":
        return {"output_type": kind, "name": output["name"], "text": _lines(_text(output["text"]))}
    if kind == "error":
        return {"output_type": kind, **{name: output[name] for name in ("ename", "evalue", "traceback")}}
    data = {
        name: value if name == "image/png" else _lines(_text(value)) for name, value in sorted(output["data"].items())
    }
    kept = {"output_type": kind, "data": data, "metadata": {}}
    return {**kept, "execution_count": number} if kind == "execute_result" else kept


def _text(source: str | list[str]) -> str:
    return source if isinstance(source, str) else "".join(source)


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def written(notebook: dict[str, Any]) -> str:
    """As it stands in a file."""
    return json.dumps(notebook, ensure_ascii=False, indent=1, sort_keys=True) + "\n"


def main() -> None:
    for file in [Path(name) for name in sys.argv[1:]] or sorted(FOLDER.glob("*.ipynb")):
        with tempfile.TemporaryDirectory() as folder:
            made = executed(json.loads(file.read_text(encoding="utf-8")), Path(folder))
        file.write_text(written(made), encoding="utf-8")
        print(f"{file.name}: {len(made['cells'])} cells, {file.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
