"""What is taken for a tensor: arrays, lists and numbers, everywhere, by one rule; and supports that draws refute."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from certify import (
    Certificate,
    Ellipsoid,
    GaussianNoise,
    MedianSmoother,
    Support,
    UniformNoise,
    bound_curve,
    certified_radius,
    decide_event,
    decide_mse,
    deployed_bound,
    event_bound,
    event_rate_over,
    mse_bound,
    percentile_bounds,
    statistic_bound,
)
from certify._validate import tensor

ROW = [0.25, -0.5]
FORMS = {
    "tensor": torch.tensor(ROW, dtype=torch.float64),
    "array": np.array(ROW),
    "big-endian": np.array(ROW, dtype=">f8"),
    "strided": np.array([0.25, 9.0, -0.5, 9.0])[::2],
    "list": ROW,
    "tuple": tuple(ROW),
}


@pytest.mark.parametrize("form", FORMS)
def test_one_input_in_every_form(form):
    y, options = FORMS[form], {"n": 300, "seed": 1}
    want, same = FORMS["tensor"], mse_bound(torch.sin, FORMS["tensor"], 0.5, rho=0.5, **options)
    other = mse_bound(
        torch.sin, y, np.float64(0.5), rho=np.array(0.5), center=[math.sin(v) for v in ROW], support=(-1, 1), **options
    )
    assert other.run.y.dtype == torch.float64
    assert torch.equal(other.run.y, want)
    assert mse_bound(torch.sin, y, [0.5, 0.5], rho=0.5, **options).value == same.value
    assert bound_curve(torch.sin, y, 0.5, rhos=np.array([0.25, 0.5]), **options).values[1] >= same.value
    assert GaussianNoise(np.array([1.0, 2.0])).norm(y) == GaussianNoise([1.0, 2.0]).norm(want) > 0
    assert UniformNoise((1.0, 2.0)).norm(y) > 0
    assert Ellipsoid([1.0, 1.0], 1.0).contains(y)
    assert torch.equal(MedianSmoother(torch.sin, 0.5)(y, seed=0), MedianSmoother(torch.sin, 0.5)(want, seed=0))
    assert not Certificate.of(same).check(torch.sin, y, n=100).refuted
    rate = event_rate_over([lambda z: z.sum(dim=(1, 2)) > 9], [y], [np.float32(1.0)], rhos=[0.1], n=64)
    assert rate.prompts == 1


def test_dtypes_are_kept_and_whole_numbers_are_not_guessed_at():
    assert tensor("y", np.ones(2, dtype=np.float32)).dtype == torch.float32
    assert tensor("y", np.ones(2)).dtype == torch.float64
    assert tensor("y", [1, 2]).dtype == tensor("y", 3).dtype == tensor("y", 0.5).dtype == torch.float64
    assert tensor("y", torch.ones(2, dtype=torch.float16)).dtype == torch.float16
    read_only = np.ones(2)
    read_only.flags.writeable = False
    given = tensor("y", read_only)
    given.zero_()
    assert read_only.tolist() == [1.0, 1.0]
    for wrong in (np.ones(2, dtype=int), torch.ones(2, dtype=torch.int32), np.ones(2) * 1j, ["a"], "1", None, {1.0}):
        with pytest.raises(TypeError, match=r"y (has dtype|is a|=)"):
            tensor("y", wrong)
    for wrong in (True, [True, False], np.array([True]), np.ma.masked_array([1.0], [True]), np.array([None])):
        with pytest.raises(TypeError, match="y "):
            tensor("y", wrong)
    with pytest.raises(ValueError, match=r"y = .*must be rows of one length"):
        tensor("y", [[1.0], [1.0, 2.0]])


def test_a_box_by_plain_numbers():
    b = percentile_bounds(torch.sigmoid, [0.0], 1.0, rho=2.0, n=20, support=Support.box(0, 1))
    assert (b.status, b.lower.tolist(), b.upper.tolist()) == ("certified", [0.0], [1.0])
    assert Support.box([0, -1], 1).over((3, 2))[0].tolist() == [[0.0, -1.0]] * 3
    with pytest.raises(ValueError, match="needs lower <= upper"):
        Support.box(1, 0)


FALSE = {
    "far away": (5, 6),
    "too short above": (-9, 0.5),
    "just too short": (-1.0, 9),
}


@pytest.mark.parametrize("name", FALSE)
@pytest.mark.parametrize(
    "ask",
    [
        lambda **o: mse_bound(lambda z: z, [0.0], 1.0, rho=0.5, method="coordinatewise", **o),
        lambda **o: mse_bound(lambda z: z, [0.0], 1.0, rho=0.5, method="dimension-free", **o),
        lambda **o: mse_bound(lambda z: z, [0.0], 1.0, rho=0.5, method="spectral", **o),
        lambda **o: mse_bound(lambda z: z, [0.0], 1.0, rho=0.5, smoother="mean", **o),
        lambda **o: mse_bound(lambda z: z, [0.0], 1.0, rho=0.5, center=[0.0], method="coordinatewise", **o),
        lambda **o: certified_radius(lambda z: z, [0.0], 1.0, tolerance=1.0, **o),
        lambda **o: percentile_bounds(lambda z: z, [0.0], 1.0, rho=0.5, p=0.3, **o),
        lambda **o: bound_curve(lambda z: z, [0.0], 1.0, rhos=[0.5], method="dimension-free", **o),
        lambda **o: deployed_bound(lambda z: z, [0.0], 1.0, rho=0.1, replicas=3, **o),
        lambda **o: deployed_bound(lambda z: z, [0.0], 1.0, rho=0.1, replicas=3, smoother="mean", **o),
        lambda **o: decide_mse(lambda z: z, [0.0], 1.0, rho=0.1, tolerance=4.0, **o),
        lambda **o: decide_mse(lambda z: z, [0.0], 1.0, rho=0.1, tolerance=4.0, method="dimension-free", **o),
    ],
)
def test_a_draw_outside_refutes_a_support_whatever_is_asked(name, ask):
    low, high = FALSE[name]
    pattern = (
        rf"support = \[{float(low)}, {float(high)}\] at output \(0,\): a draw reached -?\d.*must hold every value of f"
    )
    with pytest.raises(ValueError, match=pattern):
        ask(support=(low, high), n=500)
    ask(support=(-9, 9), n=500)


def test_a_draw_outside_the_rows_of_a_support_refutes_it():
    """In the box, and not in the ellipsoid: rows said to be of unit length that are longer."""
    with pytest.raises(ValueError, match=r"a row of a draw has Σ\(\(h − β\)/γ\)² = .* the support allows 4"):
        mse_bound(torch.tanh, torch.ones(4) * 9, 0.1, rho=0.5, n=100, support=Support.ball(4))
    unit = torch.nn.functional.normalize
    mse_bound(lambda z: unit(z, dim=1), torch.ones(4) * 9, 0.1, rho=0.5, n=100, support=Support.ball(4))


def test_an_event_and_a_statistic_at_no_perturbation():
    event, options = (lambda z: z.mean(dim=(1, 2)) > 0.5), {"replicas": 3, "n": 400}
    e = event_bound(event, torch.zeros(2), 1.0, rho=0, **options)
    assert (e.rho, e.status) == (0.0, "certified")
    assert e.value == pytest.approx(e.at(0.0))
    assert e.value < event_bound(event, torch.zeros(2), 1.0, rho=0.1, **options).value
    s = statistic_bound(lambda z: z.mean(dim=(1, 2)), torch.zeros(2), 1.0, rho=0, **options)
    assert s.status == "certified"
    d = decide_event(event, torch.zeros(2), 1.0, rho=0, target=0.5, **options)
    assert d.decided == "yes"
    made = Certificate.of(e, s, d)
    assert {claim.rho for claim in made.claims} == {0.0}
