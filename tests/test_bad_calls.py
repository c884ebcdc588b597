"""One table of calls that are refused, and the message each gives: the argument, its value, what it must be."""

from __future__ import annotations

import inspect
import math
import os
import re
import typing
from pathlib import Path

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
    decide_statistic,
    deployed_bound,
    deployed_distance,
    event_bound,
    event_rate_over,
    layer_norm_support,
    mse_bound,
    percentile_bounds,
    plan,
    statistic_bound,
)
from certify.adaptive import AdaptiveMedianSmoother
from certify.adaptive.options import PromptOptions
from certify.adaptive.policies import adapted, copies, noise_then_adapt
from certify.bounds import METHODS, ROUTES
from certify.confidence import anytime_limit, clopper_pearson
from certify.montecarlo import Counts, ExtremeRanks, Groups, generator, whole_groups
from certify.montecarlo.sketch import Spectrum
from certify.noise import as_noise
from certify.statements.ask import MSE, Deployed, ask

Y, WIDE = torch.zeros(2), GaussianNoise(torch.ones(3))
NAN, INF, LONG = math.nan, math.inf, 10**5000
UNIFORM = UniformNoise(1.0)


def f(z):
    return z


def never(z):
    pytest.fail("drew")


def mean(z):
    return z.mean(dim=(1, 2))


def mse(f=f, y=Y, noise=1.0, **options):
    return lambda: mse_bound(f, y, noise, **{"rho": 1.0, "n": 100, **options})


def box(**options):
    return lambda: percentile_bounds(f, Y, **{"noise": 1.0, "rho": 1.0, "n": 100, **options})


def radius(**options):
    return lambda: certified_radius(f, Y, 1.0, **{"tolerance": 1.0, "n": 100, **options})


def curve(rhos, **options):
    return lambda: bound_curve(f, Y, 1.0, rhos=rhos, **{"n": 100, **options})


def deployed(f=f, **options):
    return lambda: deployed_bound(f, Y, 1.0, **{"rho": 0.1, "n": 100, **options})


def statistic(f=mean, **options):
    return lambda: statistic_bound(f, Y, 1.0, **{"rho": 0.1, "n": 100, **options})


def event(f=lambda z: mean(z) > 0, **options):
    return lambda: event_bound(f, Y, 1.0, **{"rho": 0.1, "n": 100, **options})


def rate(**options):
    ys = [torch.zeros(2), torch.ones(2)]
    good = {"events": [never, never], "ys": ys, "noises": 1.0, "replicas": 5, "rhos": [0.1], "n": 64}
    return lambda: event_rate_over(**{**good, **options})


def distance(**options):
    return lambda: decide_mse(f, Y, 1.0, **{"tolerance": 1.0, "rho": 0.2, **options})


def smoother(*args, **options):
    return lambda: MedianSmoother(*args, **options)


def adapt(sigma_of=torch.ones_like, shape=(2, 1, 4), **options):
    return lambda: adapted(torch.zeros(shape), sigma_of, 1.0, torch.Generator(), **options)


def ranks(low, high, n=0):
    kept = ExtremeRanks(low, high)
    kept.update(torch.randn((n, 1), generator=torch.Generator().manual_seed(0)))
    return kept


def claimed(**options):
    return Certificate.of(mse()(), **options)


def with_a_part(part):
    model = torch.nn.Sequential(torch.nn.Linear(2, 2)).eval()
    model[0].inert = part
    return model


NUMBERS = "must be a torch tensor, or an array or list of numbers"
EVERY_METHOD = [*((mse, key) for key in METHODS), *((deployed, key) for key in ROUTES)]
OUTSIDE = r"support = \[-0\.1, 0\.1\] at output \(\d,\): a draw reached .* must hold every value of f"
AS_MANY = r"must be at most 4096"

BAD = [
    # numbers
    (mse(rho=0), r"rho = 0: must be a finite number > 0"),
    (mse(rho=torch.ones(2)), r"rho has shape \(2,\): must be a single number"),
    (curve([0.5, "x"]), r"rhos\[1\] = 'x': must be a real number"),
    *((mse(**{k: LONG}), rf"^{k} = 2\*\*16609…: must be a whole number below") for k in ("seed", "n", "batch_size")),
    *((mse(**{k: -LONG}), rf"^{k} = -2\*\*16609…: must be a whole number below") for k in ("seed", "n", "batch_size")),
    # noise
    (mse(noise=GaussianNoise(torch.ones(5, 2))), r"sigma has shape \(5, 2\): must broadcast to .* \(2,\)"),
    (lambda: GaussianNoise(torch.ones(2) * 1j), r"sigma has dtype torch\.complex64: must be a real floating-point"),
    (lambda: GaussianNoise(torch.tensor([1.0, -2.0])), r"sigma holds -2\.0: every entry must be finite and >= 0"),
    (lambda: GaussianNoise(torch.ones(2)).norm(torch.ones(3)), r"sigma has shape \(2,\): must"),
    (lambda: GaussianNoise(1.0).norm(torch.tensor([NAN])), r"delta holds NaN or infinity"),
    (lambda: GaussianNoise(1.0).norm("1"), rf"delta is a str: {NUMBERS}"),
    (lambda: UniformNoise(-1.0), r"half_width holds -1\.0: every entry must be finite and >= 0"),
    (lambda: UniformNoise(torch.tensor([1.0, NAN])), r"half_width holds nan"),
    (lambda: UniformNoise(torch.tensor([1, 2])), r"half_width has dtype torch.int64"),
    (lambda: UniformNoise("wide"), r"half_width = 'wide': must be a number"),
    (box(noise=UniformNoise(torch.ones(3))), r"half_width has shape \(3,\): must broadcast to the input's shape, \(2,\)"),
    (lambda: as_noise("wide"), r"sigma = 'wide': must be a number"),
    # input
    (mse(y=torch.ones(2) * 1j), r"y has dtype torch\.complex64: must be a real floating-point tensor"),
    (mse(y=torch.tensor([0.0, INF])), r"y holds NaN or infinity: every entry must be finite"),
    *((mse(never, y), r"y has shape .*: must hold at least one number") for y in ([], torch.zeros(0, 3))),
    (lambda: event_bound(never, [], 0.5, rho=1.0), r"y has shape .*: must hold at least one number"),
    # function
    (mse(3), r"f = 3: must be callable on a batch"),
    (mse(lambda z: z * NAN), r"f returned NaN or infinity in 64 of 64 draws"),
    (mse(lambda z: 1 / (z * 0)), r"f returned NaN or infinity"),
    (mse(lambda z: z.half() * 6e4 * 6e4), r"f returned NaN or infinity"),
    (mse(lambda z: z.tolist()), r"f returned a list: must return a torch tensor"),
    (mse(lambda z: None), r"f returned a NoneType: must return a torch tensor"),
    (mse(lambda z: z.numpy()), r"f returned a ndarray: must return a torch tensor"),
    (mse(lambda z: (z, z)), r"f returned a tuple: must return a torch tensor"),
    (mse(lambda z: z.sum()), r"f returned shape \(\) for a batch of 64: the first axis must be the batch"),
    (mse(lambda z: z.T), r"f returned shape \(2, 64\) for a batch of 64: the first axis must be the batch"),
    (mse(lambda z: z.mean(dim=0)), r"f returned shape \(2,\) for a batch of 64: the first axis"),
    (mse(lambda z: z * 1j), r"f returned dtype torch\.complex64: must be real"),
    (mse(lambda z: z[:, :0]), r"f returned shape \(64, 0\): must have at least one output"),
    (mse(with_a_part(torch.nn.Identity())), r"its part '0.inert'\): is in training mode.*by quantization say"),
    # reference
    (mse(center=torch.zeros(3)), r"center has shape \(3,\): must be \(2,\), the shape of f's output"),
    (mse(center=0.0), r"center has shape \(\): must be \(2,\), the shape of f's output"),
    (mse(center=torch.tensor([0.0, NAN])), r"center holds NaN or infinity"),
    (deployed(center=torch.zeros(3)), r"center has shape \(3,\): must be \(2,\)"),
    # methods
    (radius(method="magic"), r"method = 'magic': must be one of"),
    (deployed(method="coordinatewise"), r"must be one of 'replicas', 'order statistics', 'dimension-free', 'best'"),
    (deployed(method="order statistics", smoother="mean"), r"'order statistics': must be one of 'replicas', 'best'"),
    *((lambda m=m, s=s: Deployed(1.0, replicas=4097, method=m, smoother=s), rf"replicas = 4097: {AS_MANY} for a {s} by")
      for m, s in (("replicas", "median"), ("replicas", "mean"), ("best", "mean"))),
    # statements
    (lambda: ask(never, Y, 0.5, ["x"]), r"statements\[0\] = 'x': must be a statement"),
    (lambda: ask(never, Y, 0.5, [MSE(1.0), MSE]), r"statements\[1\] = <class"),
    (lambda: ask(never, Y, 0.5, MSE(1.0)), r"statements = MSE.*: must be a list of statements"),
    (lambda: ask(never, Y, 0.5, 5), "statements = 5: must be a list"),
    (lambda: ask(never, Y, 0.5, []), "statements is empty: must hold at least one statement"),
    # what is deployed
    (deployed(lambda z: z * NAN), r"f returned NaN or infinity"),
    (statistic(lambda z: mean(z) / 0), r"NaN or infinity"),
    (event(mean), r"must be 0 or 1"),
    (event(lambda z: z), r"event returned shape \(100, 13, 2\) .*: must be \(100,\)"),
    (lambda: deployed_distance(f, Y, smoother="mode"), r"smoother = 'mode'"),
    (lambda: copies(0), r"replicas = 0: must be a whole number >= 1"),
    (lambda: copies(2, "all"), r"sharing = 'all': must be one of 'none', 'sigma', 'input'"),
    (adapt(shape=(2, 3, 4), replicas=3, sharing="sigma"),
     r"z has shape \(2, 3, 4\): must be \(batch, 4, \*input\) for replicas = 3, sharing = 'sigma'"),
    (adapt(lambda z: z[:, 0]), r"sigma_of returned shape \(2,\) for inputs \(2, 4\): must have as many axes"),
    (adapt(lambda z: z - 1), r"sigma_of returned a negative standard deviation or NaN"),
    (adapt(lambda z: z * NAN), r"sigma_of returned a negative standard deviation or NaN"),
    (lambda: noise_then_adapt(3, torch.abs, 1.0), r"f = 3, sigma_of = .*: both must be callable"),
    # rates
    (rate(events=[never, 3]), r"events\[1\] = 3: must be callable"),
    (rate(events=[]), "ys has 2 entries for 0 events: must be one an event"),
    (rate(events=[], ys=[], noises=[], replicas=[]), "ys is empty: must hold at least one input"),
    (rate(noises=[1.0]), "noises has 1 entries for 2 events: must be one an event"),
    (rate(noises=["a", 1.0]), r"noises\[0\] is a str: must be a torch tensor, or"),
    (rate(noises=GaussianNoise(torch.ones(4))), r"sigma has shape \(4,\)"),
    (rate(noises=UNIFORM), r"noises\[0\] is a UniformNoise: must be a GaussianNoise"),
    (rate(replicas=[5, 0]), r"replicas\[1\] = 0: must be a whole number >= 1"),
    (rate(replicas=[5, 5, 5]), "replicas has 3 entries for 2 events"),
    (rate(ys=[torch.zeros(2), torch.full((2,), NAN)]), r"ys\[1\] holds NaN or infinity"),
    (rate(rhos=[0.2, 0.1]), r"rhos = \[0\.2, 0\.1\]: must be a non-empty, strictly increasing list"),
    (rate(batch_size=0), "batch_size = 0: must be a whole number >= 1"),
    (rate(events=[lambda z: z] * 2), r"events\[[01]\] returned shape \(\d+, 5, 2\): must return a tensor of shape"),
    (rate(events=[lambda z: True] * 2), r"events\[[01]\] returned a bool"),
    (rate(events=[mean] * 2), "event returned .*: must be 0 or 1"),
    # decisions
    (lambda: decide_event(mean, Y, 1.0, target=0.1, rho=0.2), "must be 0 or 1"),
    (lambda: decide_statistic(lambda z: mean(z) * NAN, Y, 1.0, threshold=1.0, rho=0.2), "NaN or infinity"),
    (distance(method="best"), "method = 'best'"),
    (distance(level=0.6), "only 'dimension-free'"),
    (distance(level=0.4, method="dimension-free"), r"level = 0\.4"),
    (distance(center=torch.zeros(3)), r"f returned outputs of shape \(2,\): must be \(3,\), the shape of the center"),
    # support
    (mse(support=(torch.zeros(3), 9.0)), r"support\[0\] has shape \(3,\): must broadcast to"),
    (mse(support=(-0.1, 90.0)), r"support = \[-0\.1, 90\.0\] at output \(0,\): a draw reached"),
    (box(support=(-90.0, 0.1)), r"support = \[-90\.0, 0\.1\] at output \(0,\): a draw reached"),
    *((call(smoother=s, method=m, support=(-0.1, 0.1), n=1000), OUTSIDE) for call, (s, m) in EVERY_METHOD),
    (lambda: Support("0", torch.ones(1)), r"support's lower is a str: must be a torch tensor"),
    *((lambda w=w, r=r: Support.ball(w, r), "width|radius") for w, r in ((0, 1.0), (4, 0.0), (4, -1.0), (4, INF))),
    (lambda: layer_norm_support(torch.nn.LayerNorm((2, 3))), r"must be a torch\.nn\.LayerNorm over one"),
    (lambda: layer_norm_support(torch.nn.Linear(2, 2)), r"must be a torch\.nn\.LayerNorm over one axis"),
    # plan
    (plan, r"rho = None, n = None: give exactly one of the two"),
    (lambda: plan(rho=1.0, n=100), r"rho = 1\.0, n = 100: give exactly one of the two"),
    (lambda: plan(rho=-1.0), r"rho = -1\.0: must be a finite number > 0"),
    (lambda: plan(n=0), r"n = 0: must be a whole number >= 1"),
    (lambda: plan(n=5), r"n = 5: too few draws for any radius; at least 11 are needed"),
    (lambda: plan(n=100, p=1e-300), r"p = 1e-300: so near its end that a finite bound needs more than 1e\+15 draws"),
    (lambda: plan(rho=30.0), r"rho = 30\.0: so large that a finite bound needs more than 1e\+15 draws"),
    (lambda: plan(rho=1.0, outputs=0), r"outputs = 0: must be a whole number >= 1"),
    (lambda: plan(rho=1.0, replicas=0), r"replicas = 0: must be a whole number >= 1"),
    (lambda: plan(rho=1.0, alpha=1.0), r"alpha = 1\.0: must be strictly between 0 and 1"),
    (lambda: plan(rho=1.0, target=1.0), r"target = 1\.0: must be strictly between 0 and 1"),
    (lambda: plan(n=3, target=0.01), r"n = 3: too few draws to certify target = 0\.01"),
    (lambda: plan(rho=30.0, target=0.1), r"rho = 30\.0: so large that target = 0\.1 needs more than"),
    (lambda: plan(n=3, target=0.2, noise=UNIFORM), "too few draws"),
    (lambda: plan(rho=0.5, noise=UNIFORM), "so large"),
    # limits
    (lambda: clopper_pearson(5, 4, 0.05), r"successes = 5: must be at most n = 4"),
    (lambda: anytime_limit(5, 4, 0.1), r"successes = 5"),
    (lambda: clopper_pearson(-1, 4, 0.05), r"successes = -1: must be a whole number >= 0"),
    (lambda: clopper_pearson(1, 4, 0.05, side="both"), r"side = 'both': must be one of 'upper', 'lower'"),
    # ellipsoid
    (lambda: Ellipsoid(torch.ones(2), NAN), r"rho = nan: must be >= 0"),
    (lambda: Ellipsoid(torch.ones(2), -1.0), r"rho = -1\.0: must be >= 0"),
    # smoothers
    (smoother(f, 1.0, n=0), r"n = 0: must be a whole number >= 1"),
    (smoother(None, 1.0), r"f = None: must be callable on a batch"),
    (smoother(f, -1.0), r"sigma holds -1\.0: every entry must be finite and >= 0"),
    (lambda: MedianSmoother(f, 1.0)(torch.tensor([NAN])), r"y holds NaN or infinity"),
    (lambda: MedianSmoother(f, 1.0)(Y, seed=-1), r"seed = -1: must be a whole number >= 0"),
    (lambda: MedianSmoother(f, WIDE)(Y), r"sigma has shape \(3,\): must broadcast"),
    # certificates
    (Certificate.of, r"results = \(\): a certificate needs at least one result"),
    (lambda: Certificate.of(1.0), r"results hold a float: must be what certify's bounds return"),
    (lambda: Certificate.of(box(noise=UNIFORM)()), "UniformNoise: certificates are kept for Gaussian noise"),
    (lambda: claimed(provenance={"x": object()}), r"provenance = .*: must be JSON values"),
    (lambda: claimed(provenance={"x": NAN}), r"provenance = .*: must be JSON values"),
    (lambda: claimed().check(f, Y, level=0), r"level = 0: must be strictly between 0 and 1"),
    (lambda: claimed().check(f, Y, seed=-1), r"seed = -1: must be a whole number >= 0"),
    (lambda: claimed().check(f, Y, n=0), r"n = 0: must be a whole number >= 1"),
    (lambda: claimed().check(f, "0"), r"y is a str: must be a torch tensor"),
    # prompts
    (lambda: PromptOptions.of({"private": "yes"}), "private = 'yes': must be True or False"),
    (lambda: PromptOptions.of({"detector": "foo"}), "detector = 'foo': must be"),
    *((lambda p=p: AdaptiveMedianSmoother.encode(None, p), r"prompts = .*: must be a prompt or a list of prompts")
      for p in (5, None, [5], ["a circle", b"x"])),
    # draws
    (lambda: generator(0, "pilot", -1), r"block = -1: must be >= 0"),
    (lambda: generator(0, "other", 0), "stream = 'other': must be one of pilot"),
    (lambda: ranks(1, 1).merge(ranks(1, 2)), r"other keeps \(1, 2\) ranks: must be the same \(1, 1\) to merge"),
    # Two are kept at the low end; rank 0 would silently be the largest by Python's indexing.
    *((lambda r=r: ranks(2, 5, 10).smallest(r), rf"rank = {r}: must be in 1 … 2 at the low end") for r in (0, -1, 3, 4)),
    (lambda: ranks(9, 9, 4).largest(5), r"rank = 5: must be in 1 … 4 at the high end"),
    (lambda: Groups(Y, 4097, "median"), rf"copies = 4097: {AS_MANY}"),
    (lambda: whole_groups(9000, 4097), rf"copies = 4097: {AS_MANY}"),
    *((lambda v=v: Counts().update(torch.tensor([0.0, v, 1.0])), rf"event returned {v}: must be 0 or 1, or a boolean")
      for v in (0.5, 2.0, -1.0)),
    *((lambda o=o: Spectrum(Y, 1.0).merge(o), r"other has \(radius, rows\) = .*: must be \(1.0, 32\)")
      for o in (Spectrum(Y, 2.0), Spectrum(Y, 1.0, rows=3), Spectrum(torch.ones(2), 1.0))),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), BAD, ids=[message for _, message in BAD])
def test_a_bad_call_is_refused_with_its_reason(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()


def test_a_good_call_is_not_refused():
    """The helpers of the table are themselves sound."""
    for call in (mse(), box(), radius(), curve([0.5, 1.0]), smoother(f, 1.0), mse(support=(-9.0, 9.0)), adapt()):
        call()
    for call in (deployed(), deployed(reference="center", smoother="mean"), statistic(), event(), distance()):
        call()
    rate(events=[lambda z: mean(z) > 0] * 2)()
    PromptOptions.of({"private": True})
    assert ranks(2, 5, 10).smallest(2) < ranks(2, 5, 10).largest(5)


ASKED = {
    "percentile_bounds": lambda **o: percentile_bounds(never, **{"y": Y, "noise": 1.0, "rho": 1.0, **o}),
    "mse_bound": lambda **o: mse_bound(never, **{"y": Y, "noise": 1.0, "rho": 1.0, **o}),
    "certified_radius": lambda **o: certified_radius(never, **{"y": Y, "noise": 1.0, "tolerance": 1.0, **o}),
    "bound_curve": lambda **o: bound_curve(never, **{"y": Y, "noise": 1.0, "rhos": [1.0], **o}),
    "deployed_bound": lambda **o: deployed_bound(never, **{"y": Y, "noise": 1.0, "rho": 0.1, **o}),
    "statistic_bound": lambda **o: statistic_bound(never, **{"y": Y, "noise": 1.0, "rho": 0.1, **o}),
    "event_bound": lambda **o: event_bound(never, **{"y": Y, "noise": 1.0, "rho": 0.1, **o}),
    "decide_event": lambda **o: decide_event(never, **{"y": Y, "noise": 1.0, "rho": 0.1, "target": 0.5, **o}),
    "decide_statistic": lambda **o: decide_statistic(
        never, **{"y": Y, "noise": 1.0, "rho": 0.1, "threshold": 1.0, **o}
    ),
    "decide_mse": lambda **o: decide_mse(never, **{"y": Y, "noise": 1.0, "rho": 0.1, "tolerance": 1.0, **o}),
}
"""Every question, with a function that must not be reached."""

ENDS, NO_NUMBERS = (NAN, INF, -INF), ("1", "x", None, object(), [], {}, 1j)
REAL, WHOLE, INSIDE = (
    "= …: must be a real number",
    "= …: must be a whole number >= 1",
    "= …: must be strictly between 0 and 1",
)
FINITE, FLOATING = "must be a finite number", "has dtype torch.int64: must be a real floating-point tensor"
COUNT = {WHOLE: (0, -1, 1.5, 1e3, *ENDS, *NO_NUMBERS, True)}
OPTIONAL = {WHOLE: tuple(v for v in COUNT[WHOLE] if v is not None)}
SHARE = {INSIDE: (0, 0.0, 1, 1.0, -0.1, 2, 50, *ENDS), REAL: (*NO_NUMBERS, True)}
BOOLEAN = {"= …: must be True or False": ("no", 1, None, [])}
ENTRIES = {"holds NaN or infinity: every entry must be finite": (NAN, [0.0, NAN]), FLOATING: (torch.tensor([1, 2]),)}


def of_type(words, *values):
    return {f"is a {type(v).__name__}: {words}": (v,) for v in values}


WRONG = {
    "y": {
        **ENTRIES,
        **of_type(NUMBERS, "x", None, object(), {}, 1j),
        "= …: must be rows of one length": ([[1.0], [1.0, 2.0]],),
        "= …: must hold real numbers": ([True],),
    },
    "noise": {
        **{f"holds {v}: every entry must be finite and >= 0": (v, [1.0, v]) for v in (-1.0, NAN, INF)},
        "= …: must be a number or a torch tensor, or an array or list of numbers": ("gaussian", None, {}, True),
        "has shape (3,): must broadcast to the input's shape, (2,)": (torch.ones(3),),
        FLOATING: (torch.tensor([1, 2]),),
    },
    "rho": {f"= …: {FINITE} >": (-1.0, *ENDS), REAL: (*NO_NUMBERS, True)},
    "alpha": {**SHARE, f"{INSIDE}, and at least 1e-300": (5e-324,)},
    "q": SHARE,
    "p": SHARE,
    "target": SHARE,
    "threshold": {f"= …: {FINITE}": ENDS, REAL: NO_NUMBERS},
    "tolerance": {f"= …: {FINITE} > 0": (0, 0.0, -1.0, *ENDS), REAL: NO_NUMBERS},
    "level": {INSIDE: (1.0, 0.0, -1.0, *ENDS), "= …: must be in (½, 1)": (0.5,), REAL: ("1", "x")},
    "rhos": {
        "= …: must be a non-empty, strictly increasing list": ([], [1.0, 1.0], [2.0, 1.0], 1.0, None, torch.ones(1, 1)),
        **{f"[0] = {v}: {FINITE} > 0": ([v], [v, 1.0]) for v in (0.0, -1.0, NAN, INF)},
        "[0] = 'x': must be a real number": (["x"],),
    },
    "n": COUNT,
    "replicas": COUNT,
    "seed": {"= …: must be a whole number >= 0": (-1, 1.5, *ENDS, *NO_NUMBERS, True)},
    "batch_size": OPTIONAL,
    "pilot": OPTIONAL,
    "memory": OPTIONAL,
    "center": {**ENTRIES, **of_type(NUMBERS, "x", object())},
    "support": {
        **of_type("must be None, a Support or a pair (lower, upper)", 1.0, "x", (1,), (0, 1, 2), object()),
        "= (lower, upper): needs lower <= upper everywhere and no NaN": ((1.0, -1.0), (NAN, 1.0)),
        f"[0] is a str: {NUMBERS}": (("a", "b"),),
    },
    "reference": {"= …: ": ("mean", "", 1, [])},  # for what is deployed there is one only
    "method": {"= …: must be one of ": ("magic", "", None, 1, [])},
    "smoother": {"= …: must be one of 'median', 'mean'": ("mode", "", None, 1, [])},
    "side": {"= …: must be one of 'upper', 'lower'": ("both", "", None, 1, [])},
    "simultaneous": BOOLEAN,
    "two_sided": BOOLEAN,
    "policy": {"= …: must be one of 'frozen', 'noise-then-adapt', 'memory'": ("typo", "", None, 1)},
    "function": {"= …: must be a string": (None, 1, [])},
    "checkpoint": of_type("must be a folder or a Checkpoint", 1, object(), []),
    "progress": {"= …: must be True, or a function of (done, total)": ("yes", 1, [])},
}
"""Argument → what is said of it, … for the value → values of which it is said."""

SPELT = {"noise": "sigma"}
"""What a message calls an argument, where it is not its name: a number for noise is its σ."""


def _takes(name, argument):
    function = globals()[name]
    own = inspect.signature(function, eval_str=True).parameters
    options = typing.get_args(own["options"].annotation)[0].__annotations__ if "options" in own else ()
    return argument in own or argument in options


def cases(argument):
    """(what the message begins with, as a pattern; a value)."""
    for words, values in WRONG[argument].items():
        for value in values:
            text = words.replace("…", repr(value))
            yield "^" + re.escape(SPELT.get(argument, argument) + ("" if text[0] == "[" else " ") + text), value


@pytest.mark.parametrize("name", ASKED)
@pytest.mark.parametrize("argument", WRONG)
def test_every_argument_of_every_question(name, argument):
    """The message names the argument, its value and what it must be, and nothing is drawn."""
    if not _takes(name, argument):
        return
    for message, value in cases(argument):
        with pytest.raises((ValueError, TypeError), match=message):
            ASKED[name](**{argument: value})


def test_every_argument_of_a_rate_over_inputs():
    for argument in ("alpha", "n", "seed", "rhos", "two_sided", "checkpoint", "progress"):
        for message, value in cases(argument):
            with pytest.raises((ValueError, TypeError), match=message):
                rate(**{argument: value})()
    for argument, value in (("ys", ["x"]), ("ys", [[NAN]]), ("noises", ["x"]), ("noises", [-1.0]), ("replicas", [0])):
        with pytest.raises((ValueError, TypeError), match=r"(?:ys|noises|sigma|replicas)\b.*must"):
            rate(**{"events": [never], "ys": [Y], "replicas": 5, argument: value})()


def test_files_and_links_in_place_of_folders(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    os.symlink(tmp_path / "nowhere", tmp_path / "link")
    made = claimed()
    for name in ("file", "link"):
        with pytest.raises(FileExistsError, match=r"folder = '.*': is a file; must be a folder"):
            made.save(tmp_path / name)
        with pytest.raises(FileExistsError, match=r"checkpoint = '.*': is a file; must be a folder"):
            mse(never, checkpoint=tmp_path / name)()
    (tmp_path / "run").mkdir()
    os.symlink(tmp_path / "nowhere", tmp_path / "run" / "certificate.json")
    with pytest.raises(FileExistsError, match="holds a certificate already"):
        made.save(tmp_path / "run")
    assert (tmp_path / "run" / "certificate.json").is_symlink()
    assert (tmp_path / "file").read_text() == "mine"
