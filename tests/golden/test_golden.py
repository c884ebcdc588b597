"""The results of every kind of statement are the golden ones, checkpoints go on, and what would be another claim is noticed."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import certify.bounds.copies
import certify.bounds.percentile
from certify import Certificate, GaussianNoise
from certify.adaptive import POLICIES
from certify.bounds import EVIDENCE, METHODS, ROUTES
from certify.certificate.schema import KINDS
from certify.montecarlo import RunFolder, streams
from tests.golden.__main__ import BEGINS, CHECKPOINTS, FILES, compared, goes_on, made, main, tolerance
from tests.golden.cases import CASES, MODEL, RESUMED, Y, private_certificate, random
from tests.golden.compare import as_data, differences, of_certificate, text

CERTIFICATE = Path(__file__).parent / "certificate"
TOO_LARGE = 400_000  # bytes of committed files; a new method adds ten thousand


def golden(case: str) -> Any:
    return json.loads((FILES / f"{case}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", CASES)
def test_results_are_the_golden_ones(case: str) -> None:
    """If a claim is meant to change: `make golden`, and say in CHANGELOG.md what changed and why."""
    assert compared(case, made(case)) == []


@pytest.mark.parametrize("kind", RESUMED)
def test_a_killed_run_goes_on_to_the_golden_claim(kind: str) -> None:
    data, began = goes_on(kind)
    assert began >= BEGINS  # it did not begin anew
    assert compared(f"resumed-{kind}", data) == []


def test_a_killed_prompt_goes_on_to_the_golden_certificate(tmp_path: Path) -> None:
    """Made and killed here: the names of its checkpoints are digests of σ, whose last digits are the processor's."""

    def told(done: int, total: int) -> None:
        if done > 350:
            raise KeyboardInterrupt

    runs = RunFolder(tmp_path / "runs", interval=0)
    with pytest.raises(KeyboardInterrupt):
        private_certificate(checkpoint=runs, progress=told, batch_size=64)
    heard: list[int] = []
    runs = RunFolder(tmp_path / "runs", interval=0)
    made = private_certificate(checkpoint=runs, progress=lambda done, total: heard.append(done), batch_size=64)
    assert runs.resumed
    assert heard[0] > 350
    data = json.loads(text(of_certificate(made, tmp_path / "made")))
    assert list(differences(golden("prompt-text")["private"], data, tolerance("prompt-text"))) == []


def test_a_golden_certificate_is_read_checked_and_written_as_it_was(tmp_path: Path) -> None:
    certificate = Certificate.load(CERTIFICATE)
    certificate.save(tmp_path / "again")
    for name in ("certificate.json", "tensors.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (CERTIFICATE / name).read_bytes()
    claims = json.loads((CERTIFICATE / "certificate.json").read_text(encoding="utf-8"))["claims"]
    for claim in claims:
        del claim["reason"]
    assert list(differences(golden("functions")["random"]["certificate"]["claims"], claims)) == []
    assert not certificate.check(random, Y, seed=7, n=500).refuted


# --- what is covered ----------------------------------------------------------------------------------------------------


def claims(data: Any) -> Iterator[dict[str, Any]]:
    """Every claim of every certificate in it."""
    if isinstance(data, dict):
        yield from data.get("claims", [])
    for part in data.values() if isinstance(data, dict) else data if isinstance(data, list) else []:
        yield from claims(part)


def test_every_kind_of_claim_has_a_golden_one() -> None:
    made = [claim for case in CASES for claim in claims(golden(case))]
    assert {claim["quantity"] for claim in made} == set(KINDS)
    assert {(c["smoother"], c["method"]) for c in made if c["quantity"] == "mse"} == set(METHODS)
    assert {(c["smoother"], c["method"]) for c in made if c["quantity"] == "radius"} == set(METHODS)
    assert {(c["smoother"], c["method"]) for c in made if c["quantity"] == "deployed"} == set(ROUTES)
    assert {claim["evidence"] for claim in made} == {"", *EVIDENCE}
    assert {claim["policy"] for claim in made} == set(POLICIES)
    assert {claim["scope"] for claim in made} == {"single", "pointwise", "simultaneous", "stopped early"}
    assert {claim["side"] for claim in made} == {"upper", "lower", "two-sided"}
    assert {claim["reference"] for claim in made} == {"center", "population", "none"}
    assert {claim["status"] for claim in made if claim["quantity"] != "event"} == {"certified", "abstained"}
    assert {d["decided"] for d in golden("decide")["decisions"]} == {"yes", "no", "undecided"}


def test_files_are_those_of_the_cases_and_small() -> None:
    assert {file.stem for file in FILES.iterdir()} == set(CASES)
    assert {folder.name for folder in CHECKPOINTS.iterdir()} == set(RESUMED)
    assert set(MODEL) <= set(CASES)
    kept = [file for folder in (FILES, CHECKPOINTS, CERTIFICATE) for file in folder.rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in kept)
    assert size < TOO_LARGE, "make the cases smaller, or raise the limit and say so"


# --- negative controls --------------------------------------------------------------------------------------------------


def faulty_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    right = certify.bounds.percentile.extreme_rank
    monkeypatch.setattr(certify.bounds.percentile, "extreme_rank", lambda *a: right(*a) + 1)


def faulty_alpha(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of a count at a hair more than α."""
    right = certify.bounds.copies.clopper_pearson
    monkeypatch.setattr(
        certify.bounds.copies, "clopper_pearson", lambda s, n, a, *side: right(s, n, a * (1 + 1e-6), *side)
    )


def faulty_theorem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(METHODS["median", "coordinatewise"], "theorem", "T4")


def faulty_shift(monkeypatch: pytest.MonkeyPatch) -> None:
    right = GaussianNoise.tails
    monkeypatch.setattr(GaussianNoise, "tails", lambda noise, p, rho, k=1: right(noise, p, rho * (1 - 1e-7), k))


def faulty_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    right = GaussianNoise.tails
    monkeypatch.setattr(GaussianNoise, "tails", lambda noise, p, rho, k=1: right(noise, p, rho))


def faulty_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "VERSION", 7)


FAULTS: dict[str, tuple[str, Callable[[pytest.MonkeyPatch], None]]] = {
    "a rank off by one": ("percentile", faulty_rank),
    "a little more than α": ("event", faulty_alpha),
    "another theorem": ("curve", faulty_theorem),
    "a little less than ρ": ("event", faulty_shift),
    "√K forgotten": ("statistic", faulty_copies),
    "other draws": ("rate", faulty_stream),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_code_is_noticed(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case, put_in = FAULTS[fault]
    put_in(monkeypatch)
    assert compared(case, made(case))


def changed(claim: dict[str, Any], name: str) -> Any:
    value = claim[name]
    return f"{value}x" if isinstance(value, str) else value + 1 if isinstance(value, int) else value * (1 + 1e-7)


@pytest.mark.parametrize(
    "name", ["theorem", "quantity", "value", "rho", "alpha", "n", "scope", "evidence", "policy", "share"]
)
@pytest.mark.parametrize("case", ["mse", "prompt-text"])
def test_a_change_of_a_file_is_noticed(case: str, name: str) -> None:
    """Of the model's numbers only what was asked is held to the last digits."""
    old = golden(case)
    new = copy.deepcopy(old)
    claim = new["certificate"]["claims"][0]
    claim[name] = changed(claim, name)
    inexact = case in MODEL and name in ("value", "rho")
    assert compared(case, new) if not inexact else compared(case, new, exact=True)
    assert compared(case, old) == compared(case, old, exact=True) == []


def test_tensors_are_compared() -> None:
    x = torch.linspace(-1, 1, 40, dtype=torch.float64)
    swapped = x[torch.tensor([1, 0, *range(2, 40)])]
    for other in (
        swapped,
        x * (1 + 1e-7),
        x + 1e-7,
        x.float(),
        x.reshape(2, 20),
        torch.cat([x[:-1], torch.tensor([torch.inf])]),
    ):
        assert list(differences(as_data(x), as_data(other)))
    near = x * (1 + 1e-13)
    assert list(differences(as_data(x), as_data(near))) == []
    assert list(differences(as_data(x), as_data(near), 0.0))


def test_last_digits_are_another_machines() -> None:
    old = {"value": 1.0, "n": 3, "sha256": "a", "bound": "inf", "tensors_sha256": "b"}
    assert list(differences(old, {**old, "value": 1 + 1e-12, "tensors_sha256": "c"})) == []
    assert len(list(differences(old, {**old, "value": 1 + 1e-12, "tensors_sha256": "c"}, 0.0))) == 2
    for name, value in {"value": 1 + 1e-8, "n": 3.0, "sha256": "c", "bound": 1e308}.items():
        (line,) = differences(old, {**old, name: value})
        assert name in line
    assert list(differences(old, {"n": 3})) == [f".{name}: is gone" for name in sorted(old) if name != "n"]


def test_the_command_writes_what_differs_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = ["--folder", str(tmp_path)]
    assert main(["plan", "--check", *place]) == 1
    assert list(tmp_path.iterdir()) == []
    assert main(["plan", *place]) == 0
    file = tmp_path / "plan.json"
    assert file.read_bytes() == (FILES / "plan.json").read_bytes()
    assert main(["plan", "--check", "--exact", *place]) == 0
    nearly = json.loads(file.read_text())
    nearly[0]["rho"] *= 1 + 1e-12
    file.write_text(json.dumps(nearly))
    before = file.read_bytes()
    assert main(["plan", *place]) == 0
    assert file.read_bytes() == before
    capsys.readouterr()
    assert main(["plan", "--check", "--exact", *place]) == 1
    assert "[0].rho: " in capsys.readouterr().out
