"""`python docs/_site/pictures.py`: runs the Python on docs/guide/pictures.md and writes the images that the page shows.

The blocks are one script, run in a folder of its own. What it has written goes to docs/guide/pictures/, with as few colours as
look the same: a page with ten figures stays light.
"""

from __future__ import annotations

import contextlib
import re
import sys
import tempfile
from pathlib import Path

from PIL import Image

GUIDE = Path(__file__).resolve().parents[1] / "guide"


def script(page: str) -> str:
    """The page's Python."""
    return "\n".join(re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S))


def small(source: Path, target: Path) -> int:
    """Writes a PNG again with a palette of at most 128 colours; its size in bytes."""
    with Image.open(source) as image:
        flat = image.convert("RGB").quantize(128, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        flat.save(target, optimize=True)
    return target.stat().st_size


def main(page: Path = GUIDE / "pictures.md", out: Path = GUIDE / "pictures") -> int:
    """Runs the page and writes its images."""
    code = compile(script(page.read_text(encoding="utf-8")), str(page), "exec")
    out.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        exec(code, {"__name__": "__guide__"})
        for drawn in sorted(Path(folder).glob("*.png")):
            print(f"{drawn.name}: {small(drawn, out / drawn.name):,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
