"""Certificates: kept bit for bit, refused when damaged, refuted when tampered with, never when true."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from certify import (
    Certificate,
    GaussianNoise,
    bound_curve,
    certified_radius,
    deployed_bound,
    event_bound,
    indistinguishability,
    layer_norm_support,
    mse_bound,
    percentile_bounds,
    statistic_bound,
)
from certify._digests import tensor_digest
from certify.certificate import words
from certify.summaries import summary
from tests.subjects import SUBJECTS, Subject

Y = torch.tensor([[0.2, -0.4], [1.0, 0.3]], dtype=torch.float32)
NOISE = GaussianNoise(torch.tensor([[0.5], [0.2]]))
OPTIONS = {"n": 2000, "alpha": 0.01, "seed": 0}


def f(z):
    return torch.sin(2 * z)


@pytest.fixture(scope="module")
def results():
    return [
        mse_bound(f, Y, NOISE, rho=1.0, **OPTIONS),
        certified_radius(f, Y, NOISE, tolerance=1.0, **OPTIONS),
        bound_curve(f, Y, NOISE, rhos=[0.3, 1.0, 9.0], **OPTIONS),
        percentile_bounds(f, Y, NOISE, rho=0.5, p=0.7, **OPTIONS),
        certified_radius(f, Y, NOISE, tolerance=1e-9, **OPTIONS),
    ]


@pytest.fixture(scope="module")
def cert(results):
    return Certificate.of(*results, provenance={"note": "a test"})


def same(a: Certificate, b: Certificate) -> bool:
    return (
        a.claims == b.claims
        and dict(a.provenance) == dict(b.provenance)
        and set(a.tensors) == set(b.tensors)
        and all(torch.equal(t, b.tensors[k]) and t.dtype == b.tensors[k].dtype for k, t in a.tensors.items())
    )


def test_claims_say_what_the_results_said(cert, results):
    mse, radius, *curve, box, none = cert.claims
    assert (mse.quantity, mse.value, mse.rho, mse.theorem) == ("mse", results[0].value, 1.0, "T2")
    assert (radius.quantity, radius.value, radius.rho, radius.tolerance) == (
        "radius",
        results[1].rho,
        results[1].rho,
        1.0,
    )
    assert [c.value for c in curve] == list(results[2].values)
    assert [c.scope for c in curve] == ["simultaneous"] * 3
    assert curve[2].status == "abstained"
    assert curve[2].value == math.inf
    assert (box.quantity, box.value, box.p, box.outputs) == ("percentile", None, 0.7, 4)
    assert (none.status, none.value) == ("abstained", 0.0)
    assert cert.alpha == pytest.approx(0.05)
    assert sum(c.share for c in cert.claims) == pytest.approx(1.0)
    assert "does not cover a smoother that computes Σ anew" in mse.not_covered
    assert torch.equal(cert.center, results[0].center)
    assert cert.ellipsoid(radius).rho == radius.rho
    assert cert.ellipsoid(none).rho == 0.0


def number_after(words: str, sentence: str) -> float:
    return float(re.search(rf"{words} (−?\d(?:[\d,.]*\d)?)", sentence)[1].replace(",", "").replace("−", "-"))


def radius_said(claim) -> float:
    return number_after("‖δ‖_Σ ≤", claim.sentence)


def test_sentences_round_in_the_safe_direction(cert):
    mse = next(c for c in cert.claims if c.quantity == "mse" and c.status == "certified")
    for value, rho in ((2.00000049, 1.23456789), (1999.99951, 0.3), (1.2345649999, 7.0)):
        sentence = dataclasses.replace(mse, value=value, rho=rho).sentence
        assert value <= number_after("squared distance", sentence) < value * (1 + 1e-5)
        assert rho * (1 - 1e-5) < number_after("‖δ‖_Σ ≤", sentence) <= rho
    event = dataclasses.replace(
        mse, quantity="event", side="two-sided", replicas=2, lower=0.123456, value=0.765412, reference="none"
    )
    assert "is between 12.34\u00a0% and 76.55\u00a0%, with" in event.sentence
    score = dataclasses.replace(event, quantity="statistic", q=0.9, lower=-1.2345678, value=-0.1234567)
    assert "is between −1.23457 and −0.123456 with probability at least 0.9" in score.sentence


def test_sentences_hold_their_numbers(cert):
    for claim in cert.claims:
        if claim.status == "abstained":
            assert claim.sentence.startswith(f"No claim ({words.named(claim)}): ")
        else:
            assert claim.rho * (1 - 1e-5) < radius_said(claim) <= claim.rho
            assert "n = 2,000 draws" in claim.sentence
    stated = number_after("squared distance", cert.claims[0].sentence)
    assert cert.claims[0].value <= stated < cert.claims[0].value * (1 + 1e-5)


def test_save_and_load_return_the_same_bits(cert, tmp_path):
    assert cert.save(tmp_path / "runs" / "a") == tmp_path / "runs" / "a"
    assert sorted(p.name for p in (tmp_path / "runs" / "a").iterdir()) == ["certificate.json", "tensors.safetensors"]
    loaded = Certificate.load(tmp_path / "runs" / "a")
    assert same(cert, loaded)
    loaded.save(tmp_path / "b")
    for name in ("certificate.json", "tensors.safetensors"):
        assert (tmp_path / "b" / name).read_bytes() == (tmp_path / "runs" / "a" / name).read_bytes()


def test_infinities_survive_in_standard_json(cert, tmp_path):
    text = (cert.save(tmp_path / "a") / "certificate.json").read_text()
    json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert Certificate.load(tmp_path / "a").claims[4].value == math.inf


def test_a_certificate_is_not_overwritten_unless_asked(cert, results, tmp_path):
    cert.save(tmp_path)
    with pytest.raises(FileExistsError, match="holds a certificate already: choose another or set overwrite"):
        cert.save(tmp_path)
    other = Certificate.of(results[0])
    other.save(tmp_path, overwrite=True)
    assert same(Certificate.load(tmp_path), other)


def test_the_same_seed_gives_the_same_claims(results):
    again = [mse_bound(f, Y, NOISE, rho=1.0, **OPTIONS), certified_radius(f, Y, NOISE, tolerance=1.0, **OPTIONS)]
    assert Certificate.of(*again).claims == Certificate.of(*results[:2]).claims


def test_a_certificate_of_the_first_streams_loads_and_is_checked(cert, tmp_path):
    """It names no version of the streams; a check draws afresh and needs none."""
    assert cert.provenance["streams"] == 2
    cert.save(tmp_path)
    file = tmp_path / "certificate.json"
    record = json.loads(file.read_text(encoding="utf-8"))
    del record["provenance"]["streams"]
    file.write_text(json.dumps(record), encoding="utf-8")
    loaded = Certificate.load(tmp_path)
    assert "streams" not in loaded.provenance
    assert not loaded.check(f, Y).refuted
    record["provenance"]["streams"] = "two"
    file.write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(ValueError, match="streams = 'two': must be a whole number"):
        Certificate.load(tmp_path)


def test_without_the_input_it_is_in_no_file(results, tmp_path):
    """Neither as a tensor nor as bytes; only its hash."""
    Certificate.of(*results, keep_input=True).save(tmp_path / "with")
    Certificate.of(*results, keep_input=False).save(tmp_path / "without")
    secret = Y.numpy().tobytes()
    assert secret in (tmp_path / "with" / "tensors.safetensors").read_bytes()
    for path in (tmp_path / "without").iterdir():
        assert secret not in path.read_bytes()
    loaded = Certificate.load(tmp_path / "without")
    assert "input" not in loaded.tensors
    assert loaded.provenance["input_sha256"] == tensor_digest(Y)
    assert not loaded.check(f, Y).refuted


def test_provenance_is_apart_from_claims(cert):
    assert cert.provenance["note"] == "a test"
    assert cert.provenance["model"] == {"kind": "plain callable", "sha256": None}
    assert cert.provenance["input_shape"] == [2, 2]
    assert cert.provenance["dtype"] == "float32"
    assert {"python", "torch", "certify"} <= set(cert.provenance["versions"])


def test_a_model_is_identified_by_its_weights(results):
    model = torch.nn.Linear(2, 2)
    first = Certificate.of(results[0], model=model).provenance["model"]
    assert first == Certificate.of(results[0], model=model).provenance["model"]
    with torch.no_grad():
        model.weight[0, 0] += 1e-6
    assert first["sha256"] != Certificate.of(results[0], model=model).provenance["model"]["sha256"]


# Tensors that share memory: the file format refuses them unless they are copied.


def test_a_reference_that_is_the_input_itself_can_be_saved(tmp_path):
    y = torch.zeros(3, dtype=torch.float64)
    cert = Certificate.of(mse_bound(lambda z: z, y, 0.5, rho=1.0, n=500, center=y))
    cert.save(tmp_path)
    assert same(cert, Certificate.load(tmp_path))


def test_claims_with_one_box_can_be_saved(tmp_path):
    y = torch.zeros(1, dtype=torch.float64)
    cert = Certificate.of(bound_curve(lambda z: z, y, 0.5, rhos=[1.0, 1.0001], n=500))
    assert torch.equal(cert.tensors["claim0.lower"], cert.tensors["claim1.lower"])
    cert.save(tmp_path)
    assert same(cert, Certificate.load(tmp_path))


def test_a_scalar_input_can_be_saved_and_checked(tmp_path):
    y = torch.tensor(0.3)
    Certificate.of(mse_bound(torch.sin, y, 0.5, rho=1.0, n=500)).save(tmp_path)
    assert not Certificate.load(tmp_path).check(torch.sin, y).refuted


# What load refuses.


def damaged(folder, change) -> None:
    """Rewrites the record after `change`; the tensors' hash stays what it was."""
    record = json.loads((folder / "certificate.json").read_text())
    change(record)
    (folder / "certificate.json").write_text(json.dumps(record))


def claim(**entries):
    return lambda record: record["claims"][0].update(entries)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.update(schema_version=1), "schema_version = 1, must be 2"),
        (lambda r: r.pop("schema_version"), "schema_version = None, must be 2"),
        (lambda r: r.pop("claims"), "not a certificate of schema 2"),
        (lambda r: r.update(claims=[]), "holds no claims"),
        (lambda r: r.update(claims=["x"]), "not a certificate of schema 2"),
        (lambda r: r.update(claims=7), "not a certificate of schema 2"),
        (lambda r: r.pop("provenance"), "not a certificate of schema 2"),
        (lambda r: r.pop("tensors_sha256"), "the two do not belong together"),
        (lambda r: r.update(tensors_sha256="0" * 64), "the two do not belong together"),
        (claim(extra=1), "a claim has the fields"),
        (lambda r: r["claims"][0].pop("rho"), "a claim has the fields"),
        (claim(policy="adaptive"), "policy = 'adaptive': must be one of"),
        (claim(rho=-1.0), r"rho = -1.0: must be a number in \[0, inf\]"),
        (claim(rho=math.nan), "NaN is no number of JSON"),
        (claim(rho="one"), "rho = 'one': must be a number"),
        (claim(alpha=2.0), "alpha = 2.0: must be a number"),
        (claim(p=None), "p = None: must be a number"),
        (claim(n=0), "n = 0: must be a number"),
        (claim(value=math.nan), "NaN is no number of JSON"),
        (claim(value=-1.0), "value = -1.0: must be a number in"),
        (claim(quantity="volume"), "quantity = 'volume': must be one of"),
        (claim(status="proven"), "status = 'proven': must be one of"),
    ],
)
def test_a_damaged_record_is_refused(cert, tmp_path, change, message):
    damaged(cert.save(tmp_path), change)
    with pytest.raises(ValueError, match=message):
        Certificate.load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"[1, 2", b"\xff\xfe\x00", b"[]", b"null", b'{"schema_version": "1"}'])
def test_a_foreign_record_is_refused(cert, tmp_path, content):
    (cert.save(tmp_path) / "certificate.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"not readable as JSON|schema_version = "):
        Certificate.load(tmp_path)


def test_truncated_or_missing_tensors_are_refused(cert, tmp_path):
    path = cert.save(tmp_path) / "tensors.safetensors"
    blob = path.read_bytes()
    for cut in (0, 7, len(blob) // 2, len(blob) - 1):
        path.write_bytes(blob[:cut])
        with pytest.raises(ValueError, match="is not a readable safetensors file"):
            Certificate.load(tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match=r"tensors.safetensors: not readable"):
        Certificate.load(tmp_path)


def test_tensors_that_are_not_safetensors_are_refused_even_with_their_hash(cert, tmp_path):
    folder = cert.save(tmp_path)
    for blob in (b"", b"not tensors at all", b"\x80\x04K\x01."):  # the last is a pickle
        (folder / "tensors.safetensors").write_bytes(blob)
        damaged(folder, lambda r, blob=blob: r.update(tensors_sha256=hashlib.sha256(blob).hexdigest()))
        with pytest.raises(ValueError, match="is not a readable safetensors file"):
            Certificate.load(tmp_path)


def test_tensors_of_another_certificate_are_refused(cert, results, tmp_path):
    cert.save(tmp_path / "a")
    Certificate.of(results[0]).save(tmp_path / "b")
    (tmp_path / "a" / "tensors.safetensors").write_bytes((tmp_path / "b" / "tensors.safetensors").read_bytes())
    with pytest.raises(ValueError, match="the two do not belong together"):
        Certificate.load(tmp_path / "a")


def test_a_folder_without_a_certificate(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match=r"holds no certificate\.json"):
            Certificate.load(folder)


def test_a_failing_save_leaves_nothing_behind(results, tmp_path):
    cert = dataclasses.replace(Certificate.of(results[0]), provenance={"x": math.nan})
    with pytest.raises(ValueError, match="JSON"):
        cert.save(tmp_path / "a")
    assert not (tmp_path / "a").exists()


# Checking.


@pytest.mark.parametrize("seed", range(1, 6))
def test_a_true_certificate_is_not_refuted(cert, seed):
    """H0: all claims true; level 1e-6, so five false alarms in a million runs."""
    report = cert.check(f, Y, seed=seed)
    assert not report.refuted
    assert [v.outcome for v in report.verdicts] == ["not refuted"] * 4 + [
        "nothing claimed",
        "not refuted",
        "nothing claimed",
    ]
    assert "Not refuted: 2,000 fresh draws" in str(report)


@pytest.mark.parametrize("subject", SUBJECTS.values(), ids=SUBJECTS)
@pytest.mark.parametrize("rho", [0.3, 1.0])
def test_no_subject_is_falsely_refuted(subject: Subject, rho):
    """Atoms, constants, no noise, heavy tails, small scales; another batch size, so other roundings."""
    noise = GaussianNoise(subject.sigma)
    results = [
        mse_bound(subject.f, subject.y, noise, rho=rho, n=1000),
        percentile_bounds(subject.f, subject.y, noise, rho=rho, n=1000, p=0.4),
    ]
    assert not Certificate.of(*results).check(subject.f, subject.y, batch_size=37).refuted


def test_an_unused_input_with_rounding_is_not_refuted():
    """Outputs that no noised input reaches are constants up to the order of summation, which changes with the batch."""
    rng = torch.Generator().manual_seed(0)
    W, y = torch.randn(300, 40, generator=rng), torch.randn(300, generator=rng)
    sigma = torch.zeros(300)
    sigma[0] = 1.0
    W[0, :20] = 0.0
    cert = Certificate.of(mse_bound(lambda z: z @ W, y, GaussianNoise(sigma), rho=1.0, n=1000, batch_size=256))
    for batch_size in (1, 7, 64, 1000):
        assert not cert.check(lambda z: z @ W, y, batch_size=batch_size).refuted


def tampered(cert: Certificate, index: int, **changes) -> Certificate:
    claims = list(cert.claims)
    claims[index] = dataclasses.replace(claims[index], **changes)
    return dataclasses.replace(cert, claims=tuple(claims))


def boxed(cert: Certificate, change) -> Certificate:
    tensors = {k: change(v) if k.endswith((".lower", ".upper")) else v for k, v in cert.tensors.items()}
    return dataclasses.replace(cert, tensors=tensors)


@pytest.mark.parametrize(
    ("index", "changes"),
    [
        (0, {"value": 0.1}),
        (0, {"value": math.nan}),
        (0, {"rho": 1.5}),
        (0, {"rho": math.inf}),
        (0, {"p": 0.9}),
        (0, {"outputs": 10**9}),
        (1, {"tolerance": 0.5}),
        (1, {"value": 40.0}),
        (1, {"value": 2.0, "rho": 2.0}),
        (5, {"rho": 1.0}),
        (5, {"p": 0.9}),
    ],
)
def test_a_tampered_claim_is_refuted(cert, index, changes):
    report = tampered(cert, index, **changes).check(f, Y)
    assert report.verdicts[index].outcome == "refuted"
    assert report.refuted
    assert sum(v.outcome == "refuted" for v in report.verdicts) == 1
    by_draws = report.verdicts[index].p_value is not None
    assert str(report).startswith(f"Refuted: {'2,000 fresh draws refute 1' if by_draws else '1'} of the 5 claims ")
    assert ("contradicts its own record, without any draw" in str(report)) != by_draws


def test_a_box_that_was_shrunk_with_its_value_is_refuted(cert):
    """Toward the center, and the value with it: only fresh draws can tell."""
    center = cert.center.double()
    smaller = boxed(cert, lambda side: center + 0.8 * (side - center))
    smaller = tampered(smaller, 0, value=cert.claims[0].value * 0.64)
    report = smaller.check(f, Y)
    assert report.verdicts[0].outcome == "refuted"
    assert report.verdicts[0].p_value > 0  # by the binomial test


@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1.0, 1e6])
def test_a_shrunk_box_is_refuted_at_every_scale(scale):
    def g(z):
        return f(z) * scale

    cert = Certificate.of(mse_bound(g, Y, NOISE, rho=1.0, **OPTIONS))
    assert not cert.check(g, Y).refuted
    center = cert.center.double()
    smaller = tampered(boxed(cert, lambda side: center + 0.5 * (side - center)), 0, value=cert.claims[0].value)
    assert smaller.check(g, Y).refuted


@pytest.mark.parametrize("side", [".lower", ".upper"])
def test_one_side_alone_is_enough_to_refute(cert, side):
    center = cert.center.double()
    tensors = {k: center + 0.7 * (v - center) if k == f"claim0{side}" else v for k, v in cert.tensors.items()}
    assert dataclasses.replace(cert, tensors=tensors).check(f, Y).verdicts[0].outcome == "refuted"


def test_boxes_with_nan_or_the_wrong_way_round_are_refuted(cert):
    assert boxed(cert, lambda side: side * math.nan).check(f, Y).refuted
    swapped = {
        k.replace(".lower", ".x").replace(".upper", ".lower").replace(".x", ".upper"): v
        for k, v in cert.tensors.items()
    }
    assert dataclasses.replace(cert, tensors=swapped).check(f, Y).refuted


def test_another_function_is_refuted(cert):
    assert cert.check(lambda z: torch.sin(2 * z) + 0.3, Y).refuted


def test_another_input_is_refused(cert):
    for other in (Y + 1e-6, Y.double(), Y.flatten(), Y.T.contiguous()):
        with pytest.raises(ValueError, match="y is not the input that this certificate is about"):
            cert.check(f, other)


def test_a_function_of_another_shape_is_refused(cert):
    with pytest.raises(ValueError, match=r"f returned outputs of shape \(2, 1\): must be \(2, 2\)"):
        cert.check(lambda z: z[..., :1], Y)


def test_missing_tensors_are_named(cert, tmp_path):
    for name in ("claim0.lower", "center"):
        tensors = {k: v for k, v in cert.tensors.items() if k != name}
        with pytest.raises(ValueError, match=f"holds no tensor or number '{name}': the claim cannot be checked"):
            dataclasses.replace(cert, tensors=tensors).check(f, Y)
    folder = cert.save(tmp_path)
    tensors = load_file(folder / "tensors.safetensors")
    del tensors["sigma"]
    save_file(tensors, folder / "tensors.safetensors")
    blob = (folder / "tensors.safetensors").read_bytes()
    damaged(folder, lambda r: r.update(tensors_sha256=hashlib.sha256(blob).hexdigest()))
    with pytest.raises(ValueError, match="holds no tensor 'sigma'"):
        Certificate.load(folder)


def test_nothing_claimed_needs_no_draws():
    cert = Certificate.of(mse_bound(lambda z: z, Y, 1.0, rho=9.0, n=100))
    report = cert.check(lambda z: pytest.fail("drew"), Y)
    assert not report.refuted
    assert report.verdicts[0].outcome == "nothing claimed"


def test_checks_draw_from_their_own_stream(cert, results):
    """Even with the certificate's seed, no checking input is one of its own."""
    seen = []

    def g(z):
        seen.append(z.clone())
        return f(z)

    mse_bound(g, Y, NOISE, rho=1.0, **OPTIONS)
    own = torch.cat(seen)[:, 0, 0].tolist()
    seen.clear()
    cert.check(g, Y, seed=0)
    assert not set(own) & set(torch.cat(seen)[:, 0, 0].tolist())


def test_a_layer_norm_claim_is_checked_with_its_cap():
    """The value is the rows' cap, less than the box implies; known to the check from whichever result has it."""
    module = torch.nn.LayerNorm(16).requires_grad_(False).eval()
    y = torch.zeros(16)
    support = layer_norm_support(module)
    capped = mse_bound(module, y, 1.0, rho=8.0, n=100, center=torch.zeros(16), support=support)
    plain = mse_bound(module, y, 1.0, rho=0.3, n=500, center=torch.zeros(16))
    assert capped.value < 16 * 15
    for order in ([capped, plain], [plain, capped]):
        cert = Certificate.of(*order)
        assert not cert.check(module, y).refuted
        index = order.index(capped)
        assert tampered(cert, index, value=capped.value / 2).check(module, y).verdicts[index].outcome == "refuted"


def test_an_infinite_radius_is_kept_and_checked(tmp_path):
    y = torch.zeros(2)
    r = certified_radius(torch.tanh, y, 1.0, tolerance=9.0, n=200, support=(-1.0, 1.0))
    Certificate.of(r).save(tmp_path)
    loaded = Certificate.load(tmp_path)
    assert loaded.claims[0].value == math.inf
    assert not loaded.check(torch.tanh, y).refuted


def test_results_about_different_things_are_refused(results):
    options = {"rho": 1.0, **OPTIONS}
    with pytest.raises(ValueError, match="different inputs, noises or policies"):
        Certificate.of(results[0], mse_bound(f, Y + 1, NOISE, **options))
    with pytest.raises(ValueError, match="different inputs, noises or policies"):
        Certificate.of(results[0], mse_bound(f, Y, 0.5, **options))


def test_results_with_different_references_keep_both(results):
    other = mse_bound(f, Y, NOISE, rho=1.0, **OPTIONS, center=torch.zeros(2, 2))
    cert = Certificate.of(results[0], other)
    assert [claim.center for claim in cert.claims] == ["center", "center1"]
    assert torch.equal(cert.tensors["center1"], torch.zeros(2, 2))
    assert cert.center is None
    assert not cert.check(f, Y).refuted


def test_check_refutes_a_value_too_small_for_its_box_whatever_the_reference_is_said_to_be() -> None:
    y = torch.zeros(3)
    bound = mse_bound(lambda z: 2 * z, y, 0.25, rho=1.0, n=2000)
    honest = mse_bound(lambda z: 2 * z, y, 0.25, rho=1.0, n=2000, reference="population")
    tampered = Certificate.of(dataclasses.replace(bound, reference="population", value=1e-3))
    assert tampered.check(lambda z: 2 * z, y).refuted
    assert not Certificate.of(honest).check(lambda z: 2 * z, y).refuted


def test_results_of_different_seeds_are_not_one_certificate():
    one, two = (mse_bound(lambda z: z, torch.zeros(2), 1.0, rho=0.5, n=200, seed=seed) for seed in (0, 1))
    with pytest.raises(ValueError, match="different seeds, dtypes or devices"):
        Certificate.of(one, two)


# Claims of every kind in one certificate: three functions, by name.

KEPT = torch.tensor([[0.2, -0.4], [1.0, 0.3]], dtype=torch.float64)
FAR = torch.full((2, 2), 5.0, dtype=torch.float64)


def score(z):
    """A statistic of K copies."""
    return f(z).mean(dim=1).sum(dim=(1, 2))


def fires(z):
    """An event that K copies decide."""
    return score(z) > 1.7


EVERY = {
    "T2": lambda o: mse_bound(f, KEPT, NOISE, rho=1.0, method="coordinatewise", **o),
    "T2 population": lambda o: mse_bound(f, KEPT, NOISE, rho=1.0, method="coordinatewise", reference="population", **o),
    "T4": lambda o: mse_bound(f, KEPT, NOISE, rho=0.7, method="dimension-free", **o),
    "T4 population": lambda o: mse_bound(f, KEPT, NOISE, rho=0.7, method="dimension-free", reference="population", **o),
    "T4 far": lambda o: mse_bound(f, KEPT, NOISE, rho=0.7, method="dimension-free", center=FAR, **o),
    "T11": lambda o: mse_bound(f, KEPT, NOISE, rho=0.7, smoother="mean", support=(-1.0, 1.0), **o),
    "T2 radius": lambda o: certified_radius(f, KEPT, NOISE, tolerance=3.0, method="coordinatewise", **o),
    "T4 radius": lambda o: certified_radius(f, KEPT, NOISE, tolerance=9.0, method="dimension-free", **o),
    "curve": lambda o: bound_curve(f, KEPT, NOISE, rhos=[0.5], **o),
    "percentile": lambda o: percentile_bounds(f, KEPT, NOISE, rho=0.5, p=0.7, **o),
    "T5 median": lambda o: deployed_bound(f, KEPT, NOISE, rho=0.2, q=0.8, replicas=4, method="replicas", **o),
    "T5 mean": lambda o: deployed_bound(f, KEPT, NOISE, rho=0.2, q=0.8, replicas=4, smoother="mean", **o),
    "T6 ranks": lambda o: deployed_bound(f, KEPT, NOISE, rho=0.5, q=0.8, replicas=5, method="order statistics", **o),
    "T6 ball": lambda o: deployed_bound(f, KEPT, NOISE, rho=0.3, q=0.8, replicas=5, method="dimension-free", **o),
    "upper": lambda o: statistic_bound(score, KEPT, NOISE, rho=0.2, q=0.8, replicas=4, **o),
    "lower": lambda o: statistic_bound(score, KEPT, NOISE, rho=0.2, q=0.8, replicas=4, side="lower", **o),
    "two-sided": lambda o: statistic_bound(score, KEPT, NOISE, rho=0.2, q=0.8, replicas=4, side="two-sided", **o),
    "event": lambda o: event_bound(fires, KEPT, NOISE, rho=0.2, replicas=4, **o),
    "event both": lambda o: event_bound(fires, KEPT, NOISE, rho=0.2, replicas=4, two_sided=True, **o),
}
FUNCTIONS = {"f": f, "statistic": score, "event happens": fires}
INDEX = {name: i for i, name in enumerate(EVERY)}
DEPLOYED = ("T5 median", "T5 mean", "T6 ranks", "T6 ball")
STATISTICS = ("upper", "lower", "two-sided")


@pytest.fixture(scope="module")
def every():
    options = {"n": 6000, "alpha": 1e-3, "seed": 0}
    return Certificate.of(*(make(options) for make in EVERY.values()))


def test_every_kind_of_claim_is_certified_and_has_evidence(every):
    assert [c.status for c in every.claims] == ["certified"] * len(EVERY)
    kinds = {name: every.claims[i].evidence for name, i in INDEX.items()}
    assert {kinds[name] for name in ("T4", "T4 population", "T4 far", "T4 radius")} == {"layers"}
    assert {*kinds.values()} >= {"box", "layers", "spectrum", "groups", "ranked-box", "ball", "limit", "event"}
    for claim in every.claims:
        assert claim.theorem in claim.sentence
        assert claim.rho * (1 - 1e-5) < radius_said(claim) <= claim.rho
    words = {name: every.claims[i].sentence for name, i in INDEX.items()}
    assert "the median over 4 noisy copies, is within distance" in words["T5 median"]
    assert "the mean over 4 noisy copies" in words["T5 mean"]
    assert "is at least" in words["lower"]
    assert "is between" in words["two-sided"]
    assert "is at most" in words["event"]
    assert "is between" in words["event both"]


@pytest.mark.parametrize("seed", range(1, 5))
def test_none_of_them_is_falsely_refuted(every, seed):
    report = every.check(FUNCTIONS, KEPT, seed=seed)
    assert [v.outcome for v in report.verdicts] == ["not refuted"] * len(EVERY), str(report)


def test_every_kind_survives_saving(every, tmp_path):
    every.save(tmp_path)
    loaded = Certificate.load(tmp_path)
    assert same(every, loaded)
    assert str(loaded.check(FUNCTIONS, KEPT)) == str(every.check(FUNCTIONS, KEPT))


def test_claims_whose_function_is_not_given_are_not_checked(every):
    report = every.check({"statistic": score}, KEPT)
    checked = set(STATISTICS)
    for name, i in INDEX.items():
        assert report.verdicts[i].outcome == ("not refuted" if name in checked else "not checked")
    assert report.n == 6000
    with pytest.raises(ValueError, match=r"f names \['g'\]: must be among \['f', 'statistic', 'event happens'\]"):
        every.check({"g": f}, KEPT)
    with pytest.raises(ValueError, match="f is one function, the certificate is about"):
        every.check(f, KEPT)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_another_function_refutes_the_claims_about_it(every, name):
    """Every claim that it is about, and no other; an event that always happens has no upper limit that it keeps."""

    def half(z):
        return z.flatten(1)[:, 0] > KEPT.flatten()[0]

    others = {"f": lambda z: f(z) + 0.6, "statistic": lambda z: score(z) + 18 * half(z) - 9, "event happens": half}
    report = every.check({**FUNCTIONS, name: others[name]}, KEPT)
    for verdict in report.verdicts:
        if verdict.claim.function != name:
            assert verdict.outcome == "not refuted"
    refuted = {verdict.claim.evidence for verdict in report.verdicts if verdict.outcome == "refuted"}
    assert (
        refuted >= {"f": {"box", "layers", "groups", "ball"}, "statistic": {"limit"}, "event happens": {"event"}}[name]
    )


def altered(cert: Certificate, name: str, *, numbers=None, tensors=None, **changes) -> Certificate:
    """The claim of a name with other numbers and tensors of evidence, and other fields."""
    claim = cert.claims[INDEX[name]]
    if numbers:
        changes["numbers"] = {**claim.numbers, **{k: v(claim.numbers[k]) for k, v in numbers.items()}}
    fields = {k: v(getattr(claim, k)) if callable(v) else v for k, v in changes.items()}
    changed = tampered(cert, INDEX[name], **fields)
    own = {f"{claim.tensors}.{k}": v for k, v in (tensors or {}).items()}
    kept = {k: own[k](t) if k in own else t for k, t in changed.tensors.items()}
    assert set(own) <= set(kept)
    return dataclasses.replace(changed, tensors=kept)


def only(cert: Certificate, name: str) -> Certificate:
    """One claim alone, with all tensors."""
    return dataclasses.replace(cert, claims=(cert.claims[INDEX[name]],))


def times(factor):
    return lambda number: number * factor


def toward(center, factor):
    return lambda side: center + factor * (side - center)


def plus(step):
    return lambda number: number + step


LIES = [
    # What is stated, without its evidence.
    *((name, {"value": times(0.99)}) for name in EVERY if name not in ("T2 radius", "T4 radius", "percentile", "lower")),
    *((name, {"value": times(1.01)}) for name in ("T2 radius", "T4 radius", "lower")),
    *((name, {"tolerance": times(0.99)}) for name in ("T2 radius", "T4 radius")),
    *((name, {"value": times(2.0), "rho": times(2.0)}) for name in ("T2 radius", "T4 radius")),
    *((name, {"rho": times(2.5)}) for name in EVERY if "radius" not in name),
    *((name, {"q": 0.9}) for name in EVERY if name.startswith(("T5", "T6", "upper", "lower", "two"))),
    *((name, {"replicas": 3}) for name in EVERY if name.startswith(("T5", "T6", "upper", "lower", "two", "event"))),
    *((name, {"copies": 3}) for name in EVERY),
    *((name, {"side": "lower"}) for name in EVERY if name not in ("lower", "event", "event both")),
    *((name, {"side": "lower", "value": times(0.5)}) for name in ("event", "event both", "T2", "T4", "T6 ball")),
    *((name, {"smoother": "mean"}) for name in ("T2", "T4", "T2 radius", "T5 median", "T6 ranks", "T6 ball")),
    *((name, {"smoother": "median"}) for name in ("T11", "T5 mean", "percentile")),
    *((name, {"theorem": "T3"}) for name in EVERY),
    *((name, {"outputs": 3}) for name in EVERY if "event" not in name and name not in STATISTICS),
    *((name, {"p": 0.6}) for name in ("T2", "T4", "percentile", "T2 radius", "T5 median")),
    *((name, {"center": ""}) for name in ("T2", "T2 population", "T4", "T11", "T5 median", "T6 ranks", "T6 ball")),
    ("T2", {"reference": "population"}),
    ("T2 population", {"reference": "center"}),
    ("T4", {"reference": "population"}),
    ("T4 population", {"reference": "center"}),
    ("T4", {"center": "center1"}),  # another claim's reference, 9 away
    ("two-sided", {"lower": plus(0.01)}),
    ("event both", {"lower": times(1.01)}),
    ("event both", {"lower": math.nan}),
    ("event", {"n": times(2)}),
    ("event", {"alpha": times(10.0)}),
    # The evidence, and what is stated with it: only draws can tell, or the arithmetic of the evidence itself.
    ("T2", {"tensors": {"lower": times(0.5), "upper": times(0.5)}, "value": times(0.3)}),
    ("T2 population", {"tensors": {"start_lower": plus(0.3), "start_upper": plus(0.3)}}),
    ("T2 population", {"tensors": {"start_lower": plus(1.0)}, "value": times(0.9)}),
    ("T4", {"tensors": {"radii": times(0.8)}, "value": times(0.64)}),
    ("T4", {"tensors": {"levels": lambda q: q**0.5}, "value": times(0.9)}),
    ("T4", {"tensors": {"levels": lambda q: 1 - q}}),
    ("T4", {"tensors": {"levels": times(1.5)}}),
    ("T4", {"tensors": {"radii": lambda r: r[:, 1:]}}),
    ("T4", {"numbers": {"apart": lambda _: 1}}),
    ("T4 population", {"tensors": {"radii": times(0.8)}, "value": times(0.8)}),
    ("T4 population", {"tensors": {"lower": lambda t: t + 0.3, "upper": lambda t: t + 0.3}}),
    ("T4 far", {"tensors": {"origin": lambda t: t + 1}, "value": times(0.9)}),
    ("T4 far", {"tensors": {"radii": times(0.8)}, "value": times(0.9)}),
    ("T4 radius", {"tensors": {"radii": times(0.8)}, "tolerance": times(0.7)}),
    ("percentile", {"tensors": {"lower": plus(0.5)}}),
    ("percentile", {"tensors": {"upper": plus(-0.5)}}),
    ("percentile", {"numbers": {"p_low": lambda _: 0.8, "p_high": lambda _: 0.8}, "p": 0.8}),
    *((name, {"numbers": {"upper": times(0.6)}, "value": times(0.6)}) for name in ("T5 median", "T5 mean", "event")),
    *((name, {"numbers": {"q": lambda _: 0.99}, "q": 0.99}) for name in EVERY if name in STATISTICS or name in DEPLOYED),
    *((name, {"numbers": {"replicas": lambda _: 1}, "replicas": 1}) for name in DEPLOYED),
    *((name, {"numbers": {"replicas": lambda _: 1}, "replicas": 1, "copies": 1}) for name in STATISTICS),
    ("T5 median", {"numbers": {"smoother": lambda _: "mean"}}),
    ("T5 median", {"numbers": {"upper": lambda _: math.nan}}),
    ("T6 ranks", {"tensors": {"lower": times(0.5), "upper": times(0.5)}, "value": times(0.6)}),
    ("T6 ranks", {"numbers": {"p_high": plus(-0.05), "p_low": plus(0.05)}}),
    ("T6 ranks", {"numbers": {"to_center": lambda _: 0}, "value": times(0.8)}),
    ("T6 ball", {"numbers": {"radius": times(0.8)}, "value": times(0.8)}),
    ("T6 ball", {"numbers": {"radius": lambda _: math.nan}}),
    ("T6 ball", {"numbers": {"s": plus(1)}, "value": times(0.9)}),
    ("T6 ball", {"numbers": {"u": plus(-0.05)}}),
    ("upper", {"numbers": {"upper": plus(-0.7)}, "value": plus(-0.7)}),
    ("lower", {"numbers": {"lower": plus(0.7)}, "value": plus(0.7)}),
    ("lower", {"numbers": {"lower": lambda _: math.nan}}),
    ("two-sided", {"numbers": {"lower": plus(0.9)}, "lower": plus(0.9)}),
    ("two-sided", {"numbers": {"upper": plus(-0.9)}, "value": plus(-0.9)}),
    ("two-sided", {"numbers": {"side": lambda _: "upper"}, "side": "upper", "q": 0.95}),
    ("event", {"numbers": {"successes": lambda _: 0}}),
    ("event", {"numbers": {"successes": lambda _: 0}, "value": times(0.5)}),
    ("event", {"numbers": {"successes": lambda _: 10**6}}),
    ("event both", {"numbers": {"lower": times(2.0)}, "lower": times(2.0)}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "lie"), LIES, ids=[f"{i}: {name}" for i, (name, _) in enumerate(LIES)])
def test_a_lie_is_refuted(every, name, lie):
    (verdict,) = (
        only(altered(every, name, **lie), name).check(FUNCTIONS[every.claims[INDEX[name]].function], KEPT).verdicts
    )
    assert verdict.outcome == "refuted"


@pytest.mark.parametrize("name", EVERY)
def test_only_the_lie_is_refuted(every, name):
    verdicts = altered(every, name, theorem="T3").check(FUNCTIONS, KEPT, n=500).verdicts
    assert [i for i, verdict in enumerate(verdicts) if verdict.outcome == "refuted"] == [INDEX[name]]


def test_a_count_too_small_with_its_limits_is_refuted_by_draws(every):
    """All of an event's numbers as if it had been seen half as often: only draws can tell."""
    honest = every.claims[INDEX["event"]]
    half = int(honest.numbers["successes"]) // 2
    value = dataclasses.replace(every.event(honest), claim=dataclasses.replace(honest, numbers={"successes": half})).at(
        0.2
    )
    lie = altered(every, "event", numbers={"successes": lambda _: half, "upper": lambda _: value}, value=value)
    verdict = lie.check({"event happens": fires}, KEPT).verdicts[INDEX["event"]]
    assert verdict.outcome == "refuted"
    assert verdict.p_value > 0
    assert lie.event(lie.claims[INDEX["event"]]).at(0.0) < every.event(honest).at(0.0)


@pytest.mark.parametrize("name", EVERY)
def test_what_is_missing_is_named(every, name):
    claim = every.claims[INDEX[name]]
    functions = {claim.function: FUNCTIONS[claim.function]}
    kept = [key for key in every.tensors if key.startswith(f"{claim.tensors}.")]
    for key in kept:
        if key.endswith((".origin", ".start_lower", ".start_upper")):
            continue  # an origin is the center where there is none; a box alone is one of percentiles
        without = dataclasses.replace(every, tensors={k: v for k, v in every.tensors.items() if k != key})
        with pytest.raises(ValueError, match=f"holds no tensor or number '{key}': the claim cannot be checked"):
            without.check(functions, KEPT)
    for key in claim.numbers:
        numbers = {k: v for k, v in claim.numbers.items() if k != key}
        with pytest.raises(ValueError, match=rf"holds no tensor or number '{claim.tensors}\.{key}'"):
            tampered(every, INDEX[name], numbers=numbers).check(functions, KEPT)


@pytest.mark.parametrize("name", [name for name in EVERY if "event" not in name and name not in STATISTICS])
def test_tensors_of_another_shape_or_with_nan_are_refuted(every, name):
    """Never an error from inside, and never passed over."""
    claim = every.claims[INDEX[name]]
    for key in [claim.center, *(k for k in every.tensors if k.startswith(f"{claim.tensors}."))]:
        if not key:
            continue
        for change in (times(math.nan), lambda t: t.reshape(-1)[:1], lambda t: t.reshape(-1)[0], lambda t: t[:0]):
            tensors = {k: change(v) if k == key else v for k, v in every.tensors.items()}
            (verdict,) = dataclasses.replace(only(every, name), tensors=tensors).check(f, KEPT, n=500).verdicts
            assert verdict.outcome == "refuted", key


def test_a_shrunk_ellipsoid_is_refuted():
    """A claim that rests on a LayerNorm's rows: with a smaller gain, and the value that follows from it."""
    module, y = torch.nn.LayerNorm(16).requires_grad_(False).eval(), torch.zeros(3, 16)
    options = {"n": 200, "center": torch.zeros(3, 16), "support": layer_norm_support(module)}
    for result in (
        mse_bound(module, y, 1.0, rho=8.0, method="coordinatewise", **options),
        deployed_bound(module, y, 1.0, rho=8.0, replicas=5, method="order statistics", **options),
    ):
        cert = Certificate.of(result)
        assert not cert.check(module, y).refuted
        tensors = {k: 0.95 * v if k.endswith(".gain") else v for k, v in cert.tensors.items()}
        lie = dataclasses.replace(tampered(cert, 0, value=0.97 * result.value), tensors=tensors)
        assert lie.check(module, y).verdicts[0].outcome == "refuted"


def test_a_curve_of_several_methods_names_them():
    """As the curve itself does."""
    y = torch.zeros(300)
    curve = bound_curve(lambda z: z, y, 1.0, rhos=[0.3, 2.0], n=3000, alpha=0.01)
    claimed = Certificate.of(curve).curve
    assert (claimed.method, claimed.theorem) == (curve.method, curve.theorem) == ("spectral, dimension-free", "T12, T4")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"evidence": "guess"}, "evidence = 'guess': must be one of"),
        ({"evidence": ""}, "evidence = '' and status = 'certified'"),
        ({"side": "both"}, "side = 'both': must be one of"),
        ({"side": "two-sided"}, "lower = None: must be a number in"),
        ({"replicas": 0}, "replicas = 0: must be a whole number >= 1"),
        ({"replicas": 2.5}, r"replicas = 2\.5: must be a whole number >= 1"),
        ({"q": 1.5}, r"q = 1\.5: must be a number in \[0, 1\]"),
        ({"copies": -1}, "copies = -1: must be a whole number >= 1"),
        ({"numbers": [1]}, "numbers = .*: must be a mapping to numbers and words"),
        ({"numbers": {"q": None}}, "numbers = .*: must be a mapping to numbers and words"),
        ({"theorem": "T99"}, "theorem = 'T99': must be one of"),
        ({"smoother": "mode"}, "smoother = 'mode': must be one of"),
        ({"method": "magic"}, "method = 'magic': must be one of"),
        ({"reference": "nothing"}, "reference = 'nothing': must be one of"),
        ({"tensors": 3}, "tensors = 3: must be a string"),
        ({"lower": "x"}, "lower = 'x': must be a number"),
    ],
)
def test_a_damaged_claim_of_a_new_kind_is_refused(every, tmp_path, changes, message):
    damaged(every.save(tmp_path), lambda record: record["claims"][0].update(changes))
    with pytest.raises(ValueError, match=message):
        Certificate.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("T6 ball", {"q": None}, r"q = None: must be a number in \[0, 1\] for quantity 'deployed'"),
        ("upper", {"q": None}, r"q = None: must be a number in \[0, 1\] for quantity 'statistic'"),
        ("event", {"replicas": None}, "replicas = None: must be a whole number >= 1 for quantity 'event'"),
        ("event", {"value": 1.5}, r"value = 1\.5: must be a number in \[0, 1\]"),
        ("T5 mean", {"value": -1.0}, r"value = -1\.0: must be a number in \[0, inf\]"),
        ("two-sided", {"lower": None}, "lower = None: must be a number in"),
    ],
)
def test_a_claim_that_lacks_what_its_kind_needs_is_refused(every, tmp_path, name, changes, message):
    damaged(every.save(tmp_path), lambda record: record["claims"][INDEX[name]].update(changes))
    with pytest.raises(ValueError, match=message):
        Certificate.load(tmp_path)


def test_kept_tensors_have_names_of_their_own(results):
    cert = Certificate.of(results[0], keep={"extra": torch.ones(2)})
    assert torch.equal(cert.tensors["extra"], torch.ones(2))
    with pytest.raises(ValueError, match="keep names 'sigma': must be a name that the certificate does not use itself"):
        Certificate.of(results[0], keep={"sigma": torch.ones(2)})


def test_what_anybody_could_tell_follows_from_radius_and_copies(tmp_path):
    """T15: at the smallest radius of a claim about noisy copies, made or not; of ideal smoothed values nothing is said."""
    ideal = mse_bound(f, Y, NOISE, rho=0.5, n=400)
    assert Certificate.of(ideal).indistinguishability is None
    assert words.indistinguishable(Certificate.of(ideal)) == ""
    how = {"replicas": 4, "n": 400, "alpha": 0.01}
    near, far = (event_bound(lambda z: z.mean(dim=(1, 2, 3)) > 9, Y, NOISE, rho=rho, **how) for rho in (0.25, 40.0))
    assert far.status == "abstained"
    Certificate.of(ideal, far, near).save(tmp_path)
    kept = Certificate.load(tmp_path)
    assert kept.indistinguishability == indistinguishability(rho=0.25, replicas=4)
    said = words.indistinguishable(kept)
    assert "advantage of more than 19.75\u00a0%" in said
    assert "4 noisy copies" in said
    assert said in summary(kept).notes
    assert Certificate.of(ideal, far).indistinguishability.total_variation == pytest.approx(1.0)
