"""Certificates that somebody else wrote: refused in one line, or what they were, or refuted by `check`.

**What is accepted, and why.** A change that leaves a file valid either leaves the claims as they were or is found by `check`,
but for what no draw can speak about: how many draws there were (`n`), in what unit, under which policy, in which scope, and
why there is no claim; a name under which `check` is not given the function; and a claim that became *weaker*, which is as true,
or stronger by no more than rounding does (1e-9). These are `UNTESTED` and `weaker`. Provenance is no claim.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.torch import load, save

from certify import (
    Certificate,
    GaussianNoise,
    bound_curve,
    certified_radius,
    deployed_bound,
    event_bound,
    mse_bound,
    percentile_bounds,
    statistic_bound,
)
from tests.hostile.corpus import (
    GARBAGE,
    Raw,
    Watched,
    dumped,
    header_claims,
    mangled_bytes,
    mangled_json,
    mangled_tensors,
    payloads,
    places,
    twice,
)

Y = torch.tensor([[0.2, -0.4], [1.0, 0.3]], dtype=torch.float32)
NOISE = GaussianNoise(torch.tensor([[0.5], [0.2]]))
N = {"n": 2000, "alpha": 0.01, "seed": 0}
ROUNDING = 2e-9  # relative
UNTESTED = {"n", "unit", "policy", "scope", "reason", "function", "copies"}
JSON, TENSORS = "certificate.json", "tensors.safetensors"


def f(z):
    return torch.sin(2 * z)


def spread(z):
    return (z - Y).square().mean(dim=(1, 2, 3))


def far(z):
    return spread(z) > 0.3


QUANTITIES = ("mse", "radius", "percentile", "deployed", "statistic", "event")
FUNCTIONS = {"f": f, "spread": spread, "far": far}


@functools.cache
def certificate() -> Certificate:
    """Claims of every quantity."""
    how: dict[str, Any] = {"rho": 0.1, "replicas": 3, **N}
    return Certificate.of(
        mse_bound(f, Y, NOISE, rho=1.0, function="f", **N),
        mse_bound(f, Y, NOISE, rho=0.5, function="f", method="dimension-free", **N),
        mse_bound(f, Y, NOISE, rho=0.5, function="f", smoother="mean", **N),
        certified_radius(f, Y, NOISE, tolerance=1.0, function="f", **N),
        bound_curve(f, Y, NOISE, rhos=[0.3, 9.0], function="f", **N),
        percentile_bounds(f, Y, NOISE, rho=0.5, p=0.7, function="f", **N),
        deployed_bound(f, Y, NOISE, function="f", q=0.5, **how),
        statistic_bound(spread, Y, NOISE, function="spread", q=0.5, **how),
        event_bound(far, Y, NOISE, function="far", **how),
        provenance={"source": {"model": None, "unet": None, "concepts": ["circle"]}, "prompt": "a red circle"},
    )


@functools.cache
def written() -> tuple[bytes, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        certificate().save(folder)
        return (Path(folder) / JSON).read_bytes(), (Path(folder) / TENSORS).read_bytes()


def files() -> tuple[dict[str, Any], bytes]:
    """(record, tensors) as they are written."""
    record, tensors = written()
    return json.loads(record), tensors


def tried(record: bytes, tensors: bytes) -> tuple[Certificate | None, str]:
    """A certificate of these two files, or the message."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / JSON).write_bytes(record)
        (folder / TENSORS).write_bytes(tensors)
        found, message = Watched(folder).read(lambda: Certificate.load(folder))
    return found, message


def weaker(old: Any, new: Any) -> bool:
    """Whether a claim says no more than another one, at the same radius or a smaller one, up to `ROUNDING`."""

    def at_most(a: float, b: float) -> bool:
        return a <= b or math.isclose(a, b, rel_tol=ROUNDING)

    if new.status == "abstained":
        return True
    if new.quantity == "radius":
        return at_most(new.rho, old.rho) and new.value == new.rho and at_most(old.tolerance, new.tolerance)
    same = (new.q == old.q, new.p == old.p, new.replicas == old.replicas, new.side == old.side)
    value = old.value is None or at_most(*((new.value, old.value) if new.side == "lower" else (old.value, new.value)))
    return all(same) and at_most(new.rho, old.rho) and value and at_most(new.lower or 0, old.lower or 0)


def judged(found: Certificate) -> None:
    """Claims that are not the true ones are refuted, or weaker, or differ in what draws say nothing about."""
    truth = certificate()
    kept = {name: t for name, t in truth.tensors.items() if name in found.tensors}
    same = len(kept) == len(truth.tensors) and all(torch.equal(t, found.tensors[name]) for name, t in kept.items())
    if found.claims == truth.claims and same:
        return
    names = {claim.function for claim in found.claims}
    try:
        report = found.check({name: g for name, g in FUNCTIONS.items() if name in names}, Y, seed=1)
    except (ValueError, TypeError):
        return
    assert len(found.claims) <= len(truth.claims)
    for verdict in report.verdicts:
        new = verdict.claim
        if verdict.outcome == "refuted" or new in truth.claims:
            continue
        if verdict.outcome == "not checked":
            assert new.function not in FUNCTIONS
            continue
        old = min(truth.claims, key=lambda c: sum(a != b for a, b in zip(fields(c), fields(new), strict=True)))
        different = {n for n, a, b in zip(NAMES, fields(old), fields(new), strict=True) if a != b}
        assert different <= UNTESTED or weaker(old, new), (different, old, new)


NAMES = [field.name for field in dataclasses.fields(certificate().claims[0])]


def fields(claim: Any) -> list[Any]:
    return [getattr(claim, name) for name in NAMES]


@given(data=st.data())
def test_a_record_of_anything(data):
    record, tensors = files()
    found, _ = tried(data.draw(mangled_json(record), label="record"), tensors)
    if found is not None:
        judged(found)


@given(data=st.data())
def test_a_claim_with_anything_in_it(data):
    """The claims are few among all that a record holds: here every change is in one of them."""
    record, tensors = files()
    number = data.draw(st.integers(0, len(record["claims"]) - 1))
    changed = data.draw(mangled_json(record["claims"][number]), label="claim")
    marked = {**record, "claims": [*record["claims"]]}
    marked["claims"][number] = Raw("@@")
    try:
        changed.decode()
    except UnicodeDecodeError:
        return
    found, _ = tried(dumped(marked).replace(b"@@", changed), tensors)
    if found is not None:
        judged(found)


@given(data=st.data())
def test_tensors_of_anything_with_their_hash(data):
    """Whoever changes the tensors can write down their hash."""
    record, tensors = files()
    blob = data.draw(mangled_tensors(tensors), label="tensors")
    found, _ = tried(dumped({**record, "tensors_sha256": hashlib.sha256(blob).hexdigest()}), blob)
    if found is not None:
        judged(found)


@given(data=st.data())
def test_tensors_without_their_hash_are_refused(data):
    record, tensors = files()
    blob = data.draw(mangled_bytes(tensors))
    found, message = tried(dumped(record), blob)
    assert (found is None) == (blob != tensors), message


def test_every_truncation_of_the_record_is_refused():
    record, tensors = files()
    whole = dumped(record)
    step = max(1, len(whole) // 60)
    for cut in [*range(0, len(whole) - 1, step), len(whole) - 1]:
        found, message = tried(whole[:cut], tensors)
        assert found is None
        assert "not readable as JSON" in message


def put(*place: Any, value: Any) -> Any:
    def change(record: dict[str, Any]) -> dict[str, Any]:
        inner: Any = record
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = value
        return record

    return change


RECORDS = [
    ("deep", lambda r: Raw("[" * 10_000 + "]" * 10_000), "not readable as JSON (is more than 100 lists"),
    ("deep but readable", put("provenance", "x", value=Raw("[" * 300 + "]" * 300)), "is more than 100 lists"),
    ("NaN", put("claims", 0, "value", value=Raw("NaN")), "NaN is no number of JSON"),
    ("beyond doubles", put("claims", 0, "value", value=Raw("1e400")), "1e400 is too large"),
    ("many digits", put("alpha", value=Raw("1" * 5000)), "has 5000 digits"),
    ("alpha an enormous whole number", put("alpha", value=10**250), "is not the sum over its claims"),
    ("alpha true", put("alpha", value=True), "alpha = True is not the sum"),
    ("version true", put("schema_version", value=True), "schema_version = True, must be 2"),
    ("a key twice", lambda r: twice(r, "alpha", 0.5), "the key 'alpha' is there twice"),
    ("no Unicode", put("provenance", "prompt", value=Raw('"\\ud800"')), "must be Unicode text"),
    ("share", put("claims", 0, "share", value=0.5), "a claim has share = 0.5: must be its part"),
    ("claims an object", put("claims", value={"0": {}}), "not a certificate of schema 2"),
    ("claims of numbers", put("claims", value=[1]), "not a certificate of schema 2"),
    ("provenance a list", put("provenance", value=[["a", 1]]), "provenance is a list: must be an object"),
    ("provenance null", put("provenance", value=None), "provenance is a NoneType: must be an object"),
    ("prompt a number", put("provenance", "prompt", value=7), "provenance has prompt = 7: must be a string or null"),
    ("source a word", put("provenance", "source", value="x"), "provenance has source = 'x': must be an object"),
    ("model in pieces", put("provenance", "source", "model", value=["x"]), "must be an object of strings or null"),
    ("concepts a word", put("provenance", "source", "concepts", value="circle"), "concepts, a list of strings"),
    ("a digest of a number", put("provenance", "model", value={"kind": "x", "sha256": {"unet": 1}}), "strings by name"),
    ("seed negative", put("provenance", "seed", value=-1), "provenance has seed = -1: must be a whole number >= 0"),
    ("smoother a list", put("provenance", "smoother", value=[]), "provenance has smoother = []: must be an object"),
    ("dtype a number", put("provenance", "dtype", value=32), "provenance has dtype = 32: must be a string"),
]


@pytest.mark.parametrize(("change", "message"), [r[1:] for r in RECORDS], ids=[r[0] for r in RECORDS])
def test_records_that_are_refused_say_why(change, message):
    record, tensors = files()
    found, said = tried(dumped(change(json.loads(json.dumps(record)))), tensors)
    assert found is None
    assert JSON in said
    assert message in said


SIZES = [
    ("a shape", lambda h: h["sigma"].update(shape=[2**50]), "is not a readable safetensors file"),
    ("a shape that wraps around", lambda h: h["sigma"].update(shape=[2**62, 8]), "is not a readable safetensors file"),
    ("offsets", lambda h: h["sigma"].update(data_offsets=[0, 2**45]), "is not a readable safetensors file"),
    ("a dtype", lambda h: h["sigma"].update(dtype="F128"), "is not a readable safetensors file"),
]


@pytest.mark.parametrize(("change", "message"), [s[1:] for s in SIZES], ids=[s[0] for s in SIZES])
def test_a_header_that_claims_more_than_there_is(change, message):
    record, tensors = files()
    blob = header_claims(tensors, change)
    found, said = tried(dumped({**record, "tensors_sha256": hashlib.sha256(blob).hexdigest()}), blob)
    assert found is None
    assert message in said
    assert TENSORS in said


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_a_noise_that_is_none_is_refused(value):
    record, tensors = files()
    blob = save({**load(tensors), "sigma": torch.full((2, 1), value)})
    found, said = tried(dumped({**record, "tensors_sha256": hashlib.sha256(blob).hexdigest()}), blob)
    assert found is None
    assert "sigma holds" in said


def test_pickles_are_not_loaded(watched):
    record, _ = files()
    for blob in payloads(watched.canary).values():
        certificate().save(watched.folder, overwrite=True)
        (watched.folder / TENSORS).write_bytes(blob)
        record["tensors_sha256"] = hashlib.sha256(blob).hexdigest()
        (watched.folder / JSON).write_bytes(dumped(record))
        _, message = watched.read(lambda: Certificate.load(watched.folder))
        assert "is not a readable safetensors file" in message


def test_sparse_files_of_a_terabyte_are_not_read(watched):
    certificate().save(watched.folder)
    for name, message in ((TENSORS, "is not a readable safetensors file"), (JSON, "must have at most 268,435,456")):
        with (watched.folder / name).open("r+b") as file:
            file.truncate(2**40)
        with pytest.raises(ValueError, match=message):
            Certificate.load(watched.folder)


def test_what_is_no_file(watched):
    """Folders in the place of files, the other way round, pipes that nobody writes to, and links that lead in a circle."""
    import os

    folder = certificate().save(watched.folder / "a")
    for name in (JSON, TENSORS):
        for make in (Path.mkdir, lambda p: p.symlink_to(p), lambda p: p.symlink_to("/nowhere"), os.mkfifo):
            other = watched.folder / "b"
            shutil.rmtree(other, ignore_errors=True)
            shutil.copytree(folder, other)
            (other / name).unlink()
            make(other / name)
            with pytest.raises(
                (ValueError, FileNotFoundError), match=r"holds no certificate|not readable|regular file"
            ):
                Certificate.load(other)
    with pytest.raises((ValueError, OSError)):
        Certificate.load(folder / JSON)
    with pytest.raises((ValueError, OSError), match="holds no"):
        Certificate.load("a\0b")


def test_links_are_replaced_and_not_followed(watched):
    """A certificate written over links leaves alone what they lead to."""
    precious = watched.folder / "precious"
    precious.write_text("mine")
    folder = watched.folder / "a"
    folder.mkdir()
    for name in (JSON, TENSORS):
        (folder / name).symlink_to(precious)
    certificate().save(folder, overwrite=True)
    assert precious.read_text() == "mine"
    assert Certificate.load(folder).claims == certificate().claims


def test_what_cannot_be_read_again_is_not_written(watched):
    bound = mse_bound(f, Y, NOISE, rho=1.0, **N)
    deep: Any = 1
    for _ in range(150):
        deep = [deep]
    for value in (deep, "\ud800", math.nan, 10**400, {1, 2}):
        with pytest.raises((ValueError, TypeError), match="must be JSON values"):
            Certificate.of(bound, provenance={"note": value})


@example(b"")
@given(st.binary(max_size=300))
def test_bytes_of_any_kind(blob):
    record, tensors = files()
    assert tried(blob, tensors)[0] is None
    assert tried(dumped({**record, "tensors_sha256": hashlib.sha256(blob).hexdigest()}), blob)[0] is None


def test_garbage():
    record, tensors = files()
    for blob in GARBAGE:
        assert tried(blob, tensors)[0] is None
        assert tried(dumped(record), blob)[0] is None


def test_the_true_certificate_is_accepted_and_every_place_is_tried():
    record, tensors = files()
    found, message = tried(dumped(record), tensors)
    assert message == ""
    judged(found)
    assert len(places(record)) > 200
    assert {c.quantity for c in found.claims if c.status == "certified"} == {*QUANTITIES}


def test_a_lie_that_follows_from_nothing_is_found():
    """The judge of these tests itself: a claim made stronger passes nowhere."""
    record, tensors = files()
    lie = json.loads(json.dumps(record))
    lie["claims"][0]["value"] *= 0.9
    found, _ = tried(dumped(lie), tensors)
    report = found.check({"f": f}, Y, seed=1)
    assert report.verdicts[0].outcome == "refuted"
    stronger = dataclasses.replace(certificate().claims[0], value=certificate().claims[0].value * 0.9)
    assert not weaker(certificate().claims[0], stronger)
