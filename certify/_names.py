"""Names that a user may give: of policies, concepts and detectors. Mistakes are found here, before anything heavy is loaded."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from certify import _files, _tables

__all__ = [
    "CONCEPT_SUFFIXES",
    "LABELS",
    "POLICIES",
    "SHARING",
    "SIMILARITIES",
    "SMOOTHERS",
    "concept_file",
    "detector_parts",
    "shipped_concepts",
    "slug",
]

POLICIES = ("frozen", "noise-then-adapt", "memory", "levels")
"""Covariance policies (T7, T17): what a claim assumes about Σ."""

SHARING = ("none", "sigma", "input")
"""What the K draws of a deployed smoother share under "noise-then-adapt": nothing, σ(z), or z itself."""

SMOOTHERS = ("median", "mean")
"""What can be made of several draws, element by element."""

SIMILARITIES = ("flattened", "end-of-text")
"""What of an encoding is compared: all positions as one vector, or the vector at its own end-of-text position."""

LABELS: dict[str, tuple[str, ...]] = {
    "shape": ("circle", "square", "triangle", "star", "cross", "heart", "none"),
    "colour": ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown"),
    "background": ("white", "black", "gray", "beige", "navy", "teal", "lilac"),
    "style": ("solid", "outlined", "striped", "dotted"),
}
"""Heads of the embedded world's judge, and their classes."""

CONCEPT_SUFFIXES = tuple(ending for ending in _tables.SUFFIXES if ending != ".txt")
"""Endings of files of prompt pairs."""

_PACKAGE = Path(__file__).resolve().parent
_CONCEPTS = (_PACKAGE / "adaptive" / "data", _PACKAGE / "world" / "concepts")
_KINDS = "'judge:LABEL', 'nudenet', 'nudenet:SCORE' or a callable"


def shipped_concepts() -> dict[str, Path]:
    """The concepts that ship with the package: name → file, sorted."""
    files = [path for folder in _CONCEPTS for path in folder.glob("*.jsonl")]
    return {path.stem: path for path in sorted(files, key=lambda path: path.stem)}


def slug(name: str) -> str:
    """A concept's name as it is kept: "Van Gogh" is van-gogh."""
    return re.sub(r"[\s_]+", "-", name.strip().lower())


def concept_file(name_or_path: str | Path) -> Path:
    """The file of a concept that ships with the package, or the file itself.

    Raises:
        ValueError: there is no such concept.
        FileNotFoundError: there is no such file.
        TypeError: neither a name nor a path.
    """
    if isinstance(name_or_path, Path) or str(name_or_path).lower().endswith(CONCEPT_SUFFIXES):
        path = _files.user_path("concept", name_or_path)
        if not path.is_file():
            raise FileNotFoundError(f"concept = {str(name_or_path)!r}: no such file; looked for {path.absolute()}")
        return path
    if not isinstance(name_or_path, str):
        raise TypeError(f"concept is a {type(name_or_path).__name__}: must be a name, a path or a Concept")
    shipped, wanted = shipped_concepts(), slug(name_or_path)
    if wanted in shipped:
        return shipped[wanted]
    close = difflib.get_close_matches(wanted, shipped, n=3)
    meant = f"; did you mean {' or '.join(repr(c) for c in close)}?" if close else "."
    raise ValueError(
        f"concept = {name_or_path!r}: unknown{meant} Must be one of {', '.join(shipped)}, or the path of a .csv, "
        ".tsv, .json or .jsonl file of prompt pairs"
    )


def detector_parts(spec: object) -> tuple[str, str, float | None]:
    """A detector by name: its kind, the judge's label ("" for NudeNet) and NudeNet's score, None where none is given.

    Raises:
        ValueError: an unknown detector or label, or a score that is no number in (0, 1).
        TypeError: not a string.
    """
    if not isinstance(spec, str):
        raise TypeError(f"detector = {spec!r}: must be {_KINDS}")
    kind, _, rest = spec.partition(":")
    if kind == "judge":
        shapes, styles = [s for s in LABELS["shape"] if s != "none"], LABELS["style"]
        if rest not in (*shapes, *styles):
            raise ValueError(
                f"detector = 'judge:{rest}': must name a shape ({', '.join(shapes)}) or a style ({', '.join(styles)})"
            )
        return kind, rest, None
    if kind == "nudenet":
        return kind, "", None if spec == "nudenet" else _score(spec, rest)
    raise ValueError(f"detector = {spec!r}: must be {_KINDS}")


def _score(spec: str, text: str) -> float:
    try:
        score = float(text)
    except ValueError:
        score = float("nan")
    if not 0 < score < 1:
        raise ValueError(f"detector = {spec!r}: the score must be a number in (0, 1)")
    return score
