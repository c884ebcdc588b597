"""One table of calls that are refused, and the message each gives: the argument, its value, what it must be."""

from __future__ import annotations

import inspect
import math
import typing

import pytest
import torch

from certify import (
    Certificate,
    Ellipsoid,
    GaussianNoise,
    MedianSmoother,
    Support,
    bound_curve,
    certified_radius,
    decide_event,
    decide_mse,
    decide_statistic,
    deployed_bound,
    event_bound,
    event_rate_over,
    layer_norm_support,
    mse_bound,
    percentile_bounds,
    plan,
    statistic_bound,
)
from certify.confidence import clopper_pearson

Y = torch.zeros(2)
NAN, INF = math.nan, math.inf


def f(z):
    return z


def mse(f=f, y=Y, noise=1.0, **options):
    return lambda: mse_bound(f, y, noise, **{"rho": 1.0, "n": 100, **options})


def box(**options):
    return lambda: percentile_bounds(f, Y, 1.0, **{"rho": 1.0, "n": 100, **options})


def radius(**options):
    return lambda: certified_radius(f, Y, 1.0, **{"tolerance": 1.0, "n": 100, **options})


def curve(rhos, **options):
    return lambda: bound_curve(f, Y, 1.0, rhos=rhos, **{"n": 100, **options})


def deployed(f=f, **options):
    return lambda: deployed_bound(f, Y, 1.0, **{"rho": 0.1, "n": 100, **options})


def statistic(**options):
    return lambda: statistic_bound(lambda z: z.mean(dim=(1, 2)), Y, 1.0, **{"rho": 0.1, "n": 100, **options})


def event(**options):
    return lambda: event_bound(lambda z: z.mean(dim=(1, 2)) > 0, Y, 1.0, **{"rho": 0.1, "n": 100, **options})


def smoother(*args, **options):
    return lambda: MedianSmoother(*args, **options)


def sigma(value):
    return lambda: GaussianNoise(value)


BAD = [
    # radius
    ("rho zero", mse(rho=0), r"rho = 0: must be a finite number > 0"),
    ("rho negative", mse(rho=-1.0), r"rho = -1\.0: must be a finite number > 0"),
    ("rho nan", box(rho=NAN), r"rho = nan: must be a finite number > 0"),
    ("rho infinite", mse(rho=INF), r"rho = inf: must be a finite number > 0"),
    ("rho text", mse(rho="1"), r"rho = '1': must be a real number"),
    ("rho none", mse(rho=None), r"rho = None: must be a real number"),
    ("rho true", mse(rho=True), r"rho = True: must be a real number"),
    ("rho complex", mse(rho=1j), r"rho = 1j: must be a real number"),
    ("rho of two", mse(rho=torch.ones(2)), r"rho has shape \(2,\): must be a single number"),
    # confidence
    ("alpha zero", mse(alpha=0), r"alpha = 0: must be strictly between 0 and 1"),
    ("alpha one", mse(alpha=1), r"alpha = 1: must be strictly between 0 and 1"),
    ("alpha percent", box(alpha=5), r"alpha = 5: must be strictly between 0 and 1"),
    ("alpha negative", radius(alpha=-0.1), r"alpha = -0\.1: must be strictly between 0 and 1"),
    ("alpha nan", curve([1.0], alpha=NAN), r"alpha = nan: must be strictly between 0 and 1"),
    ("alpha text", mse(alpha="0.05"), r"alpha = '0\.05': must be a real number"),
    # percentile
    ("p zero", box(p=0), r"p = 0: must be strictly between 0 and 1"),
    ("p one", box(p=1.0), r"p = 1\.0: must be strictly between 0 and 1"),
    ("p percent", box(p=50), r"p = 50: must be strictly between 0 and 1"),
    # draws
    ("n zero", mse(n=0), r"n = 0: must be a whole number >= 1"),
    ("n negative", mse(n=-5), r"n = -5: must be a whole number >= 1"),
    ("n fraction", mse(n=10.5), r"n = 10\.5: must be a whole number >= 1"),
    ("n float", mse(n=1e4), r"n = 10000\.0: must be a whole number >= 1"),
    ("n true", mse(n=True), r"n = True: must be a whole number >= 1"),
    ("pilot zero", mse(pilot=0), r"pilot = 0: must be a whole number >= 1"),
    ("pilot fraction", mse(pilot=0.1), r"pilot = 0\.1: must be a whole number >= 1"),
    ("seed negative", mse(seed=-1), r"seed = -1: must be a whole number >= 0"),
    ("seed none", mse(seed=None), r"seed = None: must be a whole number >= 0"),
    ("seed text", mse(seed="0"), r"seed = '0': must be a whole number >= 0"),
    ("batch zero", mse(batch_size=0), r"batch_size = 0: must be a whole number >= 1"),
    ("batch fraction", mse(batch_size=2.5), r"batch_size = 2\.5: must be a whole number >= 1"),
    # tolerance and radii
    ("tolerance zero", radius(tolerance=0), r"tolerance = 0: must be a finite number > 0"),
    ("tolerance negative", radius(tolerance=-2.0), r"tolerance = -2\.0: must be a finite number > 0"),
    ("tolerance nan", radius(tolerance=NAN), r"tolerance = nan: must be a finite number > 0"),
    ("rhos empty", curve([]), r"rhos = \[\]: must be a non-empty, strictly increasing list"),
    ("rhos equal", curve([1.0, 1.0]), r"rhos = \[1\.0, 1\.0\]: must be a non-empty, strictly increasing list"),
    ("rhos falling", curve([2.0, 1.0]), r"rhos = \[2\.0, 1\.0\]: must be a non-empty, strictly increasing list"),
    ("rhos with zero", curve([0.0, 1.0]), r"rhos\[0\] = 0\.0: must be a finite number > 0"),
    ("rhos with text", curve([0.5, "x"]), r"rhos\[1\] = 'x': must be a real number"),
    ("rhos a number", curve(1.0), r"rhos = 1\.0: must be a non-empty, strictly increasing list"),
    # noise
    ("sigma negative", sigma(-0.5), r"sigma holds -0\.5: every entry must be finite and >= 0"),
    ("sigma nan", sigma(NAN), r"sigma holds nan: every entry must be finite and >= 0"),
    ("sigma infinite", sigma(torch.tensor([1.0, INF])), r"sigma holds inf: every entry must be finite and >= 0"),
    (
        "sigma partly negative",
        sigma(torch.tensor([1.0, -2.0])),
        r"sigma holds -2\.0: every entry must be finite and >= 0",
    ),
    ("sigma whole", sigma(torch.tensor([1, 2])), r"sigma has dtype torch\.int64: must be a real floating-point tensor"),
    ("sigma complex", sigma(torch.ones(2) * 1j), r"sigma has dtype torch\.complex64: must be a real floating-point"),
    ("sigma text", sigma("0.5"), r"sigma = '0\.5': must be a number or a torch tensor"),
    ("sigma true", sigma(True), r"sigma = True: must be a number or a torch tensor"),
    (
        "sigma of another shape",
        mse(noise=GaussianNoise(torch.ones(3))),
        r"sigma has shape \(3,\): must broadcast to .* \(2,\)",
    ),
    (
        "sigma larger",
        mse(noise=GaussianNoise(torch.ones(5, 2))),
        r"sigma has shape \(5, 2\): must broadcast to .* \(2,\)",
    ),
    ("noise text", mse(noise="gaussian"), r"sigma = 'gaussian': must be a number or a torch tensor"),
    (
        "delta of another shape",
        lambda: GaussianNoise(torch.ones(2)).norm(torch.ones(3)),
        r"sigma has shape \(2,\): must",
    ),
    ("delta nan", lambda: GaussianNoise(1.0).norm(torch.tensor([NAN])), r"delta holds NaN or infinity"),
    (
        "delta text",
        lambda: GaussianNoise(1.0).norm("1"),
        r"delta is a str: must be a torch tensor, or an array or list",
    ),
    # input
    ("y text", mse(y="0"), r"y is a str: must be a torch tensor, or an array or list of numbers"),
    ("y none", mse(y=None), r"y is a NoneType: must be a torch tensor, or an array or list of numbers"),
    ("y whole", mse(y=torch.tensor([1, 2])), r"y has dtype torch\.int64: must be a real floating-point tensor"),
    ("y complex", mse(y=torch.ones(2) * 1j), r"y has dtype torch\.complex64: must be a real floating-point tensor"),
    ("y nan", mse(y=torch.tensor([0.0, NAN])), r"y holds NaN or infinity: every entry must be finite"),
    ("y infinite", mse(y=torch.tensor([0.0, INF])), r"y holds NaN or infinity: every entry must be finite"),
    # function
    ("f not callable", mse(f=3), r"f = 3: must be callable on a batch"),
    ("f nan", mse(f=lambda z: z * NAN), r"f returned NaN or infinity in 64 of 64 draws"),
    ("f infinite", mse(f=lambda z: 1 / (z * 0)), r"f returned NaN or infinity"),
    ("f overflows half", mse(f=lambda z: z.half() * 6e4 * 6e4), r"f returned NaN or infinity"),
    ("f a list", mse(f=lambda z: z.tolist()), r"f returned a list: must return a torch tensor"),
    ("f none", mse(f=lambda z: None), r"f returned a NoneType: must return a torch tensor"),
    ("f an array", mse(f=lambda z: z.numpy()), r"f returned a ndarray: must return a torch tensor"),
    ("f a pair", mse(f=lambda z: (z, z)), r"f returned a tuple: must return a torch tensor"),
    (
        "f without batch",
        mse(f=lambda z: z.sum()),
        r"f returned shape \(\) for a batch of 64: the first axis must be the batch",
    ),
    (
        "f batch last",
        mse(f=lambda z: z.T),
        r"f returned shape \(2, 64\) for a batch of 64: the first axis must be the batch",
    ),
    ("f averages", mse(f=lambda z: z.mean(dim=0)), r"f returned shape \(2,\) for a batch of 64: the first axis"),
    ("f complex", mse(f=lambda z: z * 1j), r"f returned dtype torch\.complex64: must be real"),
    ("f empty", mse(f=lambda z: z[:, :0]), r"f returned shape \(64, 0\): must have at least one output"),
    # reference
    (
        "center of another shape",
        mse(center=torch.zeros(3)),
        r"center has shape \(3,\): must be \(2,\), the shape of f's output",
    ),
    ("center a number", mse(center=0.0), r"center has shape \(\): must be \(2,\), the shape of f's output"),
    ("center nan", mse(center=torch.tensor([0.0, NAN])), r"center holds NaN or infinity"),
    ("center whole", mse(center=torch.zeros(2, dtype=torch.int64)), r"center has dtype torch\.int64: must be a real"),
    ("reference unknown", mse(reference="mean"), r"reference = 'mean': must be one of 'center', 'population'"),
    # methods
    (
        "method unknown",
        mse(method="magic"),
        r"method = 'magic': must be one of 'coordinatewise', 'dimension-free', 'spectral', 'best'",
    ),
    ("smoother unknown", mse(smoother="mode"), r"smoother = 'mode': must be one of 'median'"),
    ("method of a radius", radius(method="magic"), r"method = 'magic': must be one of"),
    ("method of a curve", curve([1.0], method="magic"), r"method = 'magic': must be one of"),
    # what is deployed
    ("deployed rho zero", deployed(rho=0.0), r"rho = 0\.0: must be a finite number > 0"),
    ("deployed q one", deployed(q=1), r"q = 1: must be strictly between 0 and 1"),
    ("deployed q percent", deployed(q=95), r"q = 95: must be strictly between 0 and 1"),
    ("deployed q text", deployed(q="0.9"), r"q = '0\.9': must be a real number"),
    ("deployed alpha", deployed(alpha=0.0), r"alpha = 0\.0: must be strictly between 0 and 1"),
    ("deployed copies zero", deployed(replicas=0), r"replicas = 0: must be a whole number >= 1"),
    ("deployed copies fraction", deployed(replicas=2.0), r"replicas = 2\.0: must be a whole number >= 1"),
    ("deployed n", deployed(n=0), r"n = 0: must be a whole number >= 1"),
    (
        "deployed method unknown",
        deployed(method="coordinatewise"),
        r"method = 'coordinatewise': must be one of 'replicas', 'order statistics', 'dimension-free', 'best'",
    ),
    (
        "deployed mean by order statistics",
        deployed(method="order statistics", smoother="mean"),
        r"method = 'order statistics': must be one of 'replicas', 'best'",
    ),
    ("deployed smoother", deployed(smoother="mode"), r"smoother = 'mode': must be one of 'median', 'mean'"),
    ("deployed center", deployed(center=torch.zeros(3)), r"center has shape \(3,\): must be \(2,\)"),
    (
        "deployed population",
        deployed(reference="population"),
        r"reference = 'population': a deployed output's distance is one from the center",
    ),
    ("deployed nan", deployed(f=lambda z: z * NAN), r"f returned NaN or infinity"),
    ("deployed support", deployed(support=(-0.1, 0.1), n=500), r"support.* must hold every value of f"),
    ("statistic side", statistic(side="both"), r"side = 'both': must be one of 'upper', 'lower', 'two-sided'"),
    ("statistic q", statistic(q=0.0), r"q = 0\.0: must be strictly between 0 and 1"),
    ("statistic copies", statistic(replicas=-1), r"replicas = -1: must be a whole number >= 1"),
    ("event rho", event(rho=NAN), r"rho = nan: must be a finite number >= 0"),
    ("event copies", event(replicas=1.5), r"replicas = 1\.5: must be a whole number >= 1"),
    # support
    ("support one number", mse(support=1.0), r"support is a float: must be None, a Support or a pair"),
    ("support three", mse(support=(0, 1, 2)), r"support is a tuple: must be None, a Support or a pair"),
    ("support upside down", mse(support=(1.0, -1.0)), r"support = \(lower, upper\): needs lower <= upper everywhere"),
    ("support nan", mse(support=(NAN, 1.0)), r"support = \(lower, upper\): needs lower <= upper everywhere and no NaN"),
    (
        "support of another shape",
        mse(support=(torch.zeros(3), 9.0)),
        r"support\[0\] has shape \(3,\): must broadcast to",
    ),
    (
        "support violated below",
        mse(support=(-0.1, 90.0)),
        r"support = \[-0\.1, 90\.0\] at output \(0,\): a draw reached",
    ),
    (
        "support violated above",
        box(support=(-90.0, 0.1)),
        r"support = \[-90\.0, 0\.1\] at output \(0,\): a draw reached",
    ),
    (
        "support text inside",
        lambda: Support("0", torch.ones(1)),
        r"support's lower is a str: must be a torch tensor",
    ),
    (
        "layer norm of two axes",
        lambda: layer_norm_support(torch.nn.LayerNorm((2, 3))),
        r"must be a torch\.nn\.LayerNorm over one",
    ),
    (
        "not a layer norm",
        lambda: layer_norm_support(torch.nn.Linear(2, 2)),
        r"must be a torch\.nn\.LayerNorm over one axis",
    ),
    # plan
    ("plan with neither", plan, r"rho = None, n = None: give exactly one of the two"),
    ("plan with both", lambda: plan(rho=1.0, n=100), r"rho = 1\.0, n = 100: give exactly one of the two"),
    ("plan rho negative", lambda: plan(rho=-1.0), r"rho = -1\.0: must be a finite number > 0"),
    ("plan n zero", lambda: plan(n=0), r"n = 0: must be a whole number >= 1"),
    ("plan n hopeless", lambda: plan(n=5), r"n = 5: too few draws for any radius; at least 11 are needed"),
    (
        "plan rho hopeless",
        lambda: plan(rho=30.0),
        r"rho = 30\.0: so large that a finite bound needs more than 1e\+15 draws",
    ),
    ("plan outputs zero", lambda: plan(rho=1.0, outputs=0), r"outputs = 0: must be a whole number >= 1"),
    ("plan replicas zero", lambda: plan(rho=1.0, replicas=0), r"replicas = 0: must be a whole number >= 1"),
    ("plan alpha one", lambda: plan(rho=1.0, alpha=1.0), r"alpha = 1\.0: must be strictly between 0 and 1"),
    ("plan target one", lambda: plan(rho=1.0, target=1.0), r"target = 1\.0: must be strictly between 0 and 1"),
    ("plan target hopeless", lambda: plan(n=3, target=0.01), r"n = 3: too few draws to certify target = 0\.01"),
    (
        "plan event hopeless",
        lambda: plan(rho=30.0, target=0.1),
        r"rho = 30\.0: so large that target = 0\.1 needs more than",
    ),
    # limits
    ("more successes than trials", lambda: clopper_pearson(5, 4, 0.05), r"successes = 5: must be at most n = 4"),
    ("fewer than no successes", lambda: clopper_pearson(-1, 4, 0.05), r"successes = -1: must be a whole number >= 0"),
    (
        "unknown side",
        lambda: clopper_pearson(1, 4, 0.05, side="both"),
        r"side = 'both': must be one of 'upper', 'lower'",
    ),
    # ellipsoid
    ("ellipsoid rho nan", lambda: Ellipsoid(torch.ones(2), NAN), r"rho = nan: must be >= 0"),
    ("ellipsoid rho negative", lambda: Ellipsoid(torch.ones(2), -1.0), r"rho = -1\.0: must be >= 0"),
    # smoothers
    ("smoother n zero", smoother(f, 1.0, n=0), r"n = 0: must be a whole number >= 1"),
    ("smoother of nothing", smoother(None, 1.0), r"f = None: must be callable on a batch"),
    ("smoother noise", smoother(f, -1.0), r"sigma holds -1\.0: every entry must be finite and >= 0"),
    ("smoother y nan", lambda: MedianSmoother(f, 1.0)(torch.tensor([NAN])), r"y holds NaN or infinity"),
    ("smoother seed", lambda: MedianSmoother(f, 1.0)(Y, seed=-1), r"seed = -1: must be a whole number >= 0"),
    (
        "smoother sigma",
        lambda: MedianSmoother(f, GaussianNoise(torch.ones(3)))(Y),
        r"sigma has shape \(3,\): must broadcast",
    ),
    # certificates
    ("certificate of nothing", Certificate.of, r"results = \(\): a certificate needs at least one result"),
    (
        "certificate of a number",
        lambda: Certificate.of(1.0),
        r"results hold a float: must be what certify's bounds return",
    ),
    (
        "provenance not json",
        lambda: Certificate.of(mse()(), provenance={"x": object()}),
        r"provenance = .*: must be JSON values",
    ),
    ("provenance nan", lambda: Certificate.of(mse()(), provenance={"x": NAN}), r"provenance = .*: must be JSON values"),
    (
        "check level",
        lambda: Certificate.of(mse()()).check(f, Y, level=0),
        r"level = 0: must be strictly between 0 and 1",
    ),
    ("check seed", lambda: Certificate.of(mse()()).check(f, Y, seed=-1), r"seed = -1: must be a whole number >= 0"),
    ("check n", lambda: Certificate.of(mse()()).check(f, Y, n=0), r"n = 0: must be a whole number >= 1"),
    ("check y", lambda: Certificate.of(mse()()).check(f, "0"), r"y is a str: must be a torch tensor"),
]


@pytest.mark.parametrize(("call", "message"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_a_bad_call_is_refused_with_its_reason(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()


def test_a_good_call_is_not_refused():
    """The helpers of the table are themselves sound."""
    for call in (mse(), box(), radius(), curve([0.5, 1.0]), smoother(f, 1.0), sigma(0.0), mse(support=(-9.0, 9.0))):
        call()
    for call in (deployed(), deployed(reference="center", smoother="mean"), statistic(), event()):
        call()


def test_arguments_are_refused_before_anything_is_drawn():
    for options in ({"rho": -1.0}, {"alpha": 2.0}, {"n": 0}, {"method": "magic"}, {"seed": -1}, {"support": 3}):
        with pytest.raises((ValueError, TypeError)):
            mse(f=lambda z: pytest.fail("drew"), **options)()
    for options in (
        {"q": 2.0},
        {"replicas": 0},
        {"method": "magic"},
        {"smoother": "mode"},
        {"reference": "population"},
    ):
        with pytest.raises((ValueError, TypeError)):
            deployed(f=lambda z: pytest.fail("drew"), **options)()


def never(z):
    pytest.fail("drew")


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

REAL, TEXT, OBJECT = (NAN, INF, -INF), ("1", "x"), (None, object(), [], {}, 1j)
WRONG = {
    "y": (NAN, INF, "x", None, object(), {}, [[1.0], [1.0, 2.0]], torch.tensor([1, 2]), [True], 1j),
    "noise": (-1.0, NAN, INF, "x", None, {}, True, torch.ones(3), torch.tensor([1, 2]), [1.0, -1.0]),
    "rho": (-1.0, *REAL, *TEXT, *OBJECT, True, torch.ones(2)),
    "alpha": (0.0, 1.0, -0.1, 2, 5e-324, *REAL, *TEXT, *OBJECT, True),
    "q": (0.0, 1.0, -0.1, 2, *REAL, *TEXT, *OBJECT, True),
    "p": (0.0, 1.0, -0.1, 2, *REAL, *TEXT, *OBJECT, True),
    "target": (0.0, 1.0, -0.1, 2, *REAL, *TEXT, *OBJECT, True),
    "threshold": (*REAL, *TEXT, *OBJECT),
    "tolerance": (0.0, -1.0, *REAL, *TEXT, *OBJECT),
    "level": (0.5, 1.0, 0.0, -1.0, *REAL, *TEXT),
    "rhos": ([], [0.0], [-1.0], [NAN], [INF], [1.0, 1.0], [2.0, 1.0], ["x"], 1.0, None, torch.ones(1, 1)),
    "n": (0, -1, 1.5, 1e3, *REAL, *TEXT, *OBJECT, True),
    "replicas": (0, -1, 1.5, *REAL, *TEXT, *OBJECT, True),
    "seed": (-1, 1.5, *REAL, *TEXT, *OBJECT, True),
    "batch_size": (0, -1, 1.5, *REAL, *TEXT, object(), True),
    "pilot": (0, -1, 1.5, *REAL, *TEXT, object(), True),
    "memory": (0, -1, 1.5, *REAL, *TEXT, object(), True),
    "center": (NAN, [NAN, 0.0], "x", object(), torch.tensor([1, 2])),
    "support": (1.0, "x", (1,), (1.0, -1.0), (NAN, 1.0), ("a", "b"), object()),
    "reference": ("mean", "", 1, []),
    "method": ("magic", "", None, 1, []),
    "smoother": ("mode", "", None, 1, []),
    "side": ("both", "", None, 1, []),
    "simultaneous": ("no", 1, None, []),
    "two_sided": ("no", 1, None, []),
    "policy": ("typo", "", None, 1),
    "function": (None, 1, []),
    "checkpoint": (1, object(), []),
    "progress": ("yes", 1, []),
}
SPELT = {"noise": "sigma|noise"}
"""What a message calls an argument, where it is not its name: a number for noise is its σ."""


def _takes(name, argument):
    function = globals()[name]
    own = inspect.signature(function, eval_str=True).parameters
    options = typing.get_args(own["options"].annotation)[0].__annotations__ if "options" in own else ()
    return argument in own or argument in options


@pytest.mark.parametrize("name", ASKED)
@pytest.mark.parametrize("argument", WRONG)
def test_every_argument_of_every_question(name, argument):
    """The message names the argument, and nothing is drawn."""
    if not _takes(name, argument):
        return
    for value in WRONG[argument]:
        with pytest.raises(
            (ValueError, TypeError), match=rf"(?:{SPELT.get(argument, argument)})\b.*(?:must|needs|is one from)"
        ):
            ASKED[name](**{argument: value})


def test_every_argument_of_a_rate_over_inputs():
    good = {"events": [never], "ys": [Y], "noises": 1.0, "rhos": [0.1], "n": 64}
    for argument in ("alpha", "n", "seed", "rhos", "two_sided", "checkpoint", "progress"):
        for value in (v for v in WRONG[argument] if not (v is None and argument in ("checkpoint", "progress"))):
            with pytest.raises((ValueError, TypeError), match=rf"{argument}\b.*must"):
                event_rate_over(**{**good, argument: value})
    for argument, value in (("ys", ["x"]), ("ys", [[NAN]]), ("noises", ["x"]), ("noises", [-1.0]), ("replicas", [0])):
        with pytest.raises((ValueError, TypeError), match=r"(?:ys|noises|sigma|replicas)\b.*must"):
            event_rate_over(**{**good, argument: value})
