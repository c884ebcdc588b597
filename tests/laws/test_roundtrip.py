"""Laws of keeping: a certificate that was saved and loaded is the one that was saved, and says what can be tested.

Claims are equal, tensors the same bits; what was true is not refuted by fresh draws; what claims more than its evidence is,
however little more.
"""

from __future__ import annotations

import dataclasses
import json
import math
import tempfile

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from certify import (
    Certificate,
    GaussianNoise,
    bound_curve,
    certified_radius,
    decide_event,
    decide_mse,
    decide_statistic,
    deployed_bound,
    event_bound,
    mse_bound,
    percentile_bounds,
    statistic_bound,
)
from certify.support import as_support
from tests.laws.built import ONE, part
from tests.strategies import MODERATE, TAME, Function, problems, radii, seeds, tolerances

alphas = st.floats(1e-6, 0.05)
"""Small: a statement that fails one time in twenty is seldom so wrong that fresh draws refute it at 1e-6."""
draws = st.integers(1, 1200)


def single(f):
    return lambda z: f(z[:, 0]).reshape(len(z), -1).amax(dim=1)


def event(f):
    return lambda z: single(f)(z) > 0.4


def deployed(f, y, noise, o):
    return deployed_bound(f, y, noise, replicas=3, q=0.7, support=f.support, **o)


RESULTS = {
    "percentile": lambda f, y, noise, o: percentile_bounds(f, y, noise, p=0.3, **o),
    "mse": lambda f, y, noise, o: mse_bound(f, y, noise, support=f.support, **o),
    "population": lambda f, y, noise, o: mse_bound(f, y, noise, reference="population", method="dimension-free", **o),
    "spectral": lambda f, y, noise, o: mse_bound(f, y, noise, method="spectral", **o),
    "mean": lambda f, y, noise, o: mse_bound(f, y, noise, smoother="mean", support=f.support, **o),
    "radius": lambda f, y, noise, o: certified_radius(f, y, noise, tolerance=4.0, **_without(o, "rho")),
    "curve": lambda f, y, noise, o: bound_curve(f, y, noise, rhos=[o["rho"], 2 * o["rho"]], **_without(o, "rho")),
    "deployed": deployed,
    "deployed mean": lambda f, y, noise, o: deployed_bound(f, y, noise, replicas=2, q=0.7, smoother="mean", **o),
    "statistic": lambda f, y, noise, o: statistic_bound(
        single(f), y, noise, replicas=1, q=0.6, side="two-sided", **_without(o, "pilot")
    ),
    "event": lambda f, y, noise, o: event_bound(event(f), y, noise, replicas=1, two_sided=True, **_without(o, "pilot")),
    "decided distance": lambda f, y, noise, o: decide_mse(f, y, noise, tolerance=4.0, **o),
    "decided event": lambda f, y, noise, o: decide_event(
        event(f), y, noise, replicas=1, target=0.7, **_without(o, "pilot")
    ),
    "decided statistic": lambda f, y, noise, o: decide_statistic(
        single(f), y, noise, replicas=1, threshold=1.5, q=0.6, **_without(o, "pilot")
    ),
}
"""Everything that a certificate can be made of."""

NUMBER = Function(
    "sine", (), torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64), as_support((-1.0, 1.0))
)

ABOUT = {"statistic": single, "event": event, "decided event": event, "decided statistic": single}


def _without(options, name):
    return {key: value for key, value in options.items() if key != name}


def same(a, b):
    return (
        a.claims == b.claims
        and dict(a.provenance) == dict(b.provenance)
        and a.tensors.keys() == b.tensors.keys()
        and all(torch.equal(t, b.tensors[k]) and t.dtype == b.tensors[k].dtype for k, t in a.tensors.items())
    )


def kept(certificate):
    """Saved and loaded."""
    with tempfile.TemporaryDirectory() as folder:
        return Certificate.load(certificate.save(folder))


STILL = {"rho": 0.5, "alpha": 0.05, "n": 600, "seed": 0, "number": 1}


@pytest.mark.parametrize("name", RESULTS)
@part
@example(problem=ONE._replace(noise=GaussianNoise(0.0), f=NUMBER), **STILL)  # no spread to test, at any level of T12
@example(problem=ONE._replace(f=NUMBER), **STILL)  # an output without an axis
@given(problem=problems(TAME, MODERATE), rho=radii, alpha=alphas, n=draws, seed=seeds, number=st.integers(1, 200))
def test_a_certificate_comes_back_as_it_was_and_is_not_refuted(name, problem, rho, alpha, n, seed, number):
    f, y, noise = problem
    result = RESULTS[name](f, y, noise, {"rho": rho, "n": n, "alpha": alpha, "seed": seed, "pilot": 32})
    certificate = Certificate.of(result)
    loaded = kept(certificate)
    assert same(certificate, loaded)
    assert [c.sentence for c in loaded.claims] == [c.sentence for c in certificate.claims]
    assert all(
        math.isfinite(c.value or 0.0) for c in loaded.claims if c.status == "certified" and c.quantity != "radius"
    )
    report = loaded.check(ABOUT.get(name, lambda g: g)(f), y, seed=seed + 1, n=number)
    assert not report.refuted, report
    again = certificate.check(ABOUT.get(name, lambda g: g)(f), y, seed=seed + 1, n=number)
    assert [v.p_value for v in again.verdicts] == [v.p_value for v in report.verdicts]


# (A box states no number, and a decision the limit that it was asked about.)
STATING = [
    name for name in RESULTS if name not in ("percentile", "decided distance", "decided event", "decided statistic")
]


@pytest.mark.parametrize("name", STATING)
@part
@given(
    problem=problems(("sine", "linear", "relu"), ("per coordinate",)),
    rho=st.floats(0.05, 0.5),
    seed=seeds,
    shorter=st.floats(0.0, 0.999),
)
def test_a_claim_of_more_than_follows_is_refuted(name, problem, rho, seed, shorter):
    """Whatever else is in the file: a value must follow from the evidence beside it."""
    f, y, noise = problem
    options = {"rho": rho, "n": 600, "alpha": 0.05, "seed": seed, "pilot": 32}
    result = RESULTS[name](f, y, noise, options)
    certificate = Certificate.of(result)
    claim = certificate.claims[0]
    if claim.status == "abstained" or not claim.value or (name == "radius" and not result.value):
        return
    if name == "radius":
        changed = {"tolerance": shorter * result.value}
    else:  # below 0 a statistic's "less" is further from 0
        changed = {"value": shorter * claim.value if claim.value > 0 else claim.value - 1 + shorter}
    forged = dataclasses.replace(certificate, claims=(dataclasses.replace(claim, **changed), *certificate.claims[1:]))
    report = forged.check(ABOUT.get(name, lambda g: g)(f), y, n=16)
    assert report.verdicts[0].outcome == "refuted"


words = st.text(max_size=30)
leaves = (
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | words
)
anything = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3))


@given(
    words,
    anything,
    st.lists(st.floats(width=32, allow_nan=True), min_size=1, max_size=5),
    tolerances,
    st.sampled_from([torch.float32, torch.float64]),
)
@example("Infinity", "-Infinity", [0.0], 1.0, torch.float64)  # words, where numbers are written so
def test_names_notes_and_tensors_come_back_whatever_they_are(name, note, values, tolerance, dtype):
    """Any Unicode, any JSON value, any bits of a tensor that was to be kept."""
    y = torch.tensor([0.25, -1.0], dtype=dtype)
    extra = torch.tensor(values, dtype=dtype)
    result = certified_radius(torch.sin, y, 0.5, tolerance=tolerance, n=64, alpha=0.05, pilot=8, function=name)
    certificate = Certificate.of(result, keep={"extra": extra}, provenance={"note": note})
    loaded = kept(certificate)
    assert loaded.claims == certificate.claims
    assert loaded.claims[0].function == name
    assert json.dumps(loaded.provenance["note"]) == json.dumps(note)
    bits = torch.int32 if dtype == torch.float32 else torch.int64
    assert torch.equal(loaded.tensors["extra"].view(bits), extra.view(bits))
