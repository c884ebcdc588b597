"""Every method in the registries has what the guide for contributors asks for: a proof, evidence, laws, a claim to measure.

A method that was entered in `METHODS` or `ROUTES` and lacks one of these fails here, by name. That labels have tests is held by
tests/test_docs.py, and what a new noise owes by tests/test_noises.py.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from certify import Certificate, GaussianNoise, deployed_bound, mse_bound
from certify.bounds import EVIDENCE, METHODS, ROUTES
from tests.laws.built import CHOOSING
from tests.statistical.trials import CLAIMS
from tests.test_docs import cited_paths

ROOT = Path(__file__).resolve().parents[2]
REGISTERED = {(q, *key): kind for q, kinds in (("mse", METHODS), ("deployed", ROUTES)) for key, kind in kinds.items()}

every = pytest.mark.parametrize(("key", "kind"), REGISTERED.items(), ids=[" ".join(key) for key in REGISTERED])


def lacking(key, kind, choosing=CHOOSING, claims=CLAIMS, root=ROOT) -> list[str]:
    """What is missing of one method."""
    own = f"# {kind.theorem}."
    pages = [page for page in (root / "docs/theory").glob("t*.md") if page.read_text(encoding="utf-8").startswith(own)]
    file = f"{kind.__module__.replace('.', '/')}.py"
    found = []
    if not pages:
        found.append(f"docs/theory: no page for {kind.theorem}")
    elif not any(file in cited_paths(page) for page in pages):
        found.append(f"docs/theory: the page of {kind.theorem} does not name {file}")
    if (key[1], key[2]) != (kind.smoother, kind.method):
        found.append("the registry has it under another name than its own")
    if EVIDENCE.get(kind.evidence.kind) is not kind.evidence:
        found.append(f"EVIDENCE: {kind.evidence.kind!r} is another class's")
    if not any(entry is kind for entry, _ in choosing.values()):
        found.append("tests/laws/built.py: no line in CHOOSING")
    if not any(claim.split()[0] == kind.theorem for claim in claims):
        found.append(f"tests/statistical/trials.py: no claim of {kind.theorem}")
    for index in ("docs/theory/index.md", "docs/index.md"):
        if not re.search(rf"\b{kind.theorem}\b", (root / index).read_text(encoding="utf-8")):
            found.append(f"{index}: {kind.theorem} is not in it")
    return found


@every
def test_nothing_is_lacking(key, kind):
    found = lacking(key, kind)
    assert not found, "\n".join(found)


def test_what_is_lacking_is_named():
    key, kind = ("mse", "median", "coordinatewise"), METHODS["median", "coordinatewise"]

    class Nameless(kind):
        theorem, method = "T98", "nameless"

    assert lacking(key, Nameless) == [
        "docs/theory: no page for T98",
        "the registry has it under another name than its own",
        "tests/laws/built.py: no line in CHOOSING",
        "tests/statistical/trials.py: no claim of T98",
        "docs/theory/index.md: T98 is not in it",
        "docs/index.md: T98 is not in it",
    ]
    assert lacking(key, kind, claims={}) == ["tests/statistical/trials.py: no claim of T2"]


@every
def test_a_certificate_of_it_can_be_kept_and_checked(key, kind, tmp_path):
    quantity, smoother, method = key
    y, noise = torch.zeros(3, dtype=torch.float64), GaussianNoise(0.5)
    options = {"rho": 0.1, "n": 400, "method": method, "smoother": smoother, "support": (-1.0, 1.0), "alpha": 0.05}
    if quantity == "mse":
        result = mse_bound(torch.sin, y, noise, **options)
    else:
        result = deployed_bound(torch.sin, y, noise, replicas=3, q=0.7, **options)
    assert result.theorem == kind.theorem
    assert isinstance(result.evidence, kind.evidence)
    Certificate.of(result).save(tmp_path / "kept")
    verdicts = Certificate.load(tmp_path / "kept").check(torch.sin, y, n=500).verdicts
    assert [v.outcome for v in verdicts] == ["not refuted"]
