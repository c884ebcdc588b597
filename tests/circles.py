"""Circles: modules that import each other, imports inside functions counted.

`make circles`, or `python -m tests.circles [PACKAGE]…` (certify and experiments, if none is named), prints the circles of each
package and, of those known to pyproject.toml as debts, the imports that make them. Imports under `if TYPE_CHECKING` load
nothing and are left out; those of a name in a string (`importlib.import_module`) cannot be seen.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import grimp
import networkx

__all__ = ["circles", "debts", "graph", "report"]

CONFIGURATION = Path(__file__).resolve().parents[1] / "pyproject.toml"


def graph(package: str) -> grimp.ImportGraph:
    """Who imports whom in a package, which must be importable."""
    return grimp.build_graph(package, exclude_type_checking_imports=True, cache_dir=None)


def circles(imports: grimp.ImportGraph) -> list[list[str]]:
    """Each set of modules every one of which reaches every other, the largest first."""
    arrows = networkx.DiGraph(
        (m, used) for m in imports.modules for used in imports.find_modules_directly_imported_by(m)
    )
    found = [sorted(group) for group in networkx.strongly_connected_components(arrows) if len(group) > 1]
    return sorted(found, key=lambda group: (-len(group), group))


def debts() -> list[tuple[str, str]]:
    """The imports that the contracts of pyproject.toml put up with, (importer, imported)."""
    contracts = tomllib.loads(CONFIGURATION.read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
    lines = {line for contract in contracts for line in contract.get("ignore_imports", [])}
    return [(importer, imported) for importer, _, imported in sorted(map(str.split, lines))]


def report(package: str) -> Iterator[str]:
    """What is printed about a package."""
    imports = graph(package)
    found = circles(imports)
    if not found:
        yield f"{package}: no circles among {len(imports.modules)} modules"
        return
    yield f"{package}: {sum(map(len, found))} of {len(imports.modules)} modules import each other in a circle"
    for group in found:
        yield f"  {len(group)} modules: {', '.join(name.removeprefix(f'{package}.') for name in group)}"
    known = [
        (a, b) for a, b in debts() if {a, b} <= imports.modules and a in imports.find_modules_that_directly_import(b)
    ]
    if known:
        yield "  imports that pyproject.toml has as debts:"
    for importer, imported in known:
        lines = [detail["line_number"] for detail in imports.get_import_details(importer=importer, imported=imported)]
        yield f"    {importer} (line {', '.join(map(str, sorted(lines)))}) → {imported}"
        imports.remove_import(importer=importer, imported=imported)
    if known:
        left = circles(imports)
        yield f"  without them: {left or 'no circles'}"


if __name__ == "__main__":
    for name in sys.argv[1:] or ["certify", "experiments"]:
        print("\n".join(report(name)))
