"""Records show themselves: every public one in a terminal, those that answer something as a summary in notebooks."""

from __future__ import annotations

import ast
import dataclasses
import html.parser
import importlib
import importlib.util
import inspect
import math
import pkgutil
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import certify
from certify import summaries
from certify._records import Record, Shown, brief
from certify.adaptive.coverage import LevelCoverage, LevelSet, Neighbour, PositionCoverage, PromptCoverage
from certify.adaptive.memory import Issued
from certify.adaptive.prompt import ConceptRemoval
from certify.adaptive.token_noise import TokenNoise
from certify.bounds import Evidence
from certify.bounds.rates import RateOver
from certify.certificate import CheckReport, Verdict
from certify.images.rates import MeasuredRate
from certify.noise.uniform import CrossPolytope
from certify.summaries import html as summaries_html
from certify.support import Support

HOSTILE = "<script>alert('x')</script>\x1b[31m\u202e“&amp;"
NOISE, Y = certify.GaussianNoise(torch.tensor([0.5, 0.5, 0.0])), torch.zeros(3)
FULL = {"n": 800, "function": HOSTILE}
EMPTY = {**FULL, "n": 10}


def f(z):
    return torch.cat([2 * z, z.sin()], dim=1)


def score(z):
    return z.mean(dim=(1, 2))


def rare(z):
    return score(z) > 0.2


def often(z, generator):
    return torch.rand(len(z), generator=generator) < 0.2


def decided(**changes) -> Any:
    return certify.decide_event(
        rare, Y, NOISE, **{"rho": 0.1, "replicas": 2, "n": 400, "target": 0.9, "function": HOSTILE, **changes}
    )


def certificate() -> certify.Certificate:
    curve = certify.bound_curve(f, Y, NOISE, rhos=[0.5, 1.0, 4.0], **FULL)
    event = certify.event_bound(rare, Y, NOISE, rho=0.1, replicas=2, **FULL)
    return certify.Certificate.of(
        curve, event, certify.mse_bound(f, Y, NOISE, rho=1.0, **FULL), provenance={"prompt": HOSTILE}
    )


def claims() -> Any:
    return certificate().claims


def checked() -> CheckReport:
    claim = claims()[0]
    return CheckReport(
        (Verdict(claim, "refuted", 1e-9, HOSTILE), Verdict(claim, "not checked", None, "")), 100, 1, 1e-6
    )


def rate(successes: int, **changes) -> RateOver:
    options = {"prompts": 5, "unperturbed": 1, "n": 100, "replicas": 13, "alpha": 1e-3, "two_sided": True, "seed": 0}
    return RateOver(successes=successes, rhos=(0.1, 0.5), **{**options, **changes})


def level(**changes) -> LevelCoverage:
    near = Neighbour(HOSTILE, 0.2)
    values = {"comparable": 2, "covered": 2, "members": (near, near), "leaving": (near,), "squares": (0.04, 0.04)}
    return LevelCoverage(**{**vars(position()), **values, **changes})


def position(**changes) -> PositionCoverage:
    near = Neighbour(HOSTILE, 0.2)
    values = {
        "rho": 1.0,
        "sigma": 0.5,
        "vocabulary": 9,
        "comparable": 9,
        "covered": 9,
        "nearest": near,
        "farthest": 0.9,
    }
    return PositionCoverage(**{"position": 1, "token": HOSTILE, "uncovered": (), **values, **changes})


BOUND = {"rho": 0.1, "replicas": 2}
EXAMPLES: dict[str, list[Any]] = {
    "PercentileBounds": [
        lambda: certify.percentile_bounds(f, Y, NOISE, rho=1.0, **FULL),
        lambda: certify.percentile_bounds(f, Y, NOISE, rho=1.0, **EMPTY),
    ],
    "MSEBound": [
        lambda: certify.mse_bound(f, Y, NOISE, rho=1.0, **FULL),
        lambda: certify.mse_bound(f, Y, NOISE, rho=1.0, **EMPTY),
    ],
    "BoundCurve": [lambda: certify.bound_curve(f, Y, NOISE, rhos=[0.5, 4.0], **FULL)],
    "CertifiedRadius": [
        lambda: certify.certified_radius(f, Y, NOISE, tolerance=4.0, **FULL),
        lambda: certify.certified_radius(f, Y, NOISE, tolerance=1e-9, **FULL),
    ],
    "DeployedBound": [
        lambda: certify.deployed_bound(f, Y, NOISE, q=0.5, **BOUND, **FULL),
        lambda: certify.deployed_bound(f, Y, NOISE, **BOUND, **EMPTY),
    ],
    "StatisticBound": [
        lambda: certify.statistic_bound(score, Y, NOISE, side="two-sided", q=0.8, **BOUND, **FULL),
        lambda: certify.statistic_bound(score, Y, NOISE, side="lower", **BOUND, **EMPTY),
    ],
    "EventBound": [
        lambda: certify.event_bound(rare, Y, NOISE, two_sided=True, **BOUND, **FULL),
        lambda: certify.event_bound(rare, Y, NOISE, rho=40.0, **FULL),
    ],
    "MeanBound": [
        lambda: certify.event_bound(often, Y, NOISE, repeats=2, two_sided=True, **BOUND, **FULL),
        lambda: certify.mean_bound(lambda z: score(z).clamp(-9, 9), Y, NOISE, lower=-9, upper=9, **BOUND, **FULL),
        lambda: certify.event_bound(often, Y, NOISE, repeats=2, rho=40.0, **FULL),
    ],
    "Allocation": [lambda: certify.allocation(*[certify.bound_curve(f, Y, NOISE, rhos=[0.5, 1.0], **FULL)] * 2)],
    "Indistinguishability": [
        lambda: certify.indistinguishability(rho=0.25),
        lambda: certify.indistinguishability(rho=0.0, outcomes=5),
    ],
    "Classification": [
        lambda: certify.classify(f, Y + 1, NOISE, **FULL),
        lambda: certify.classify(f, Y + 1, NOISE, stop_at=0.1, **FULL),
        lambda: certify.classify(lambda z: z[:, :2], Y, NOISE, **FULL),
    ],
    "RateOver": [lambda: rate(3), lambda: rate(100), lambda: rate(3, two_sided=False)],
    "Decision": [decided, lambda: decided(target=1e-4), lambda: decided(n=4)],
    "Plan": [
        lambda: certify.plan(rho=2.0, outputs=1000),
        lambda: certify.plan(n=400, target=0.1),
    ],
    "MeasuredRate": [lambda: MeasuredRate(0.5, 0.4, 0.6, 50, 100, 1e-3)],
    "Ellipsoid": [
        lambda: certify.Ellipsoid(NOISE.sigma, 0.5),
        lambda: certify.Ellipsoid(NOISE.sigma, 0.0),
        lambda: certify.Ellipsoid(NOISE.sigma, math.inf),
        lambda: certify.Ellipsoid(torch.zeros(3), 1.0),
    ],
    "CrossPolytope": [
        lambda: CrossPolytope(NOISE.sigma, 0.5),
        lambda: CrossPolytope(NOISE.sigma, math.inf),
    ],
    "Support": [
        lambda: Support.ball(384),
        lambda: Support(torch.tensor(-math.inf), torch.tensor(math.inf)),
    ],
    "Claim": [lambda: claims()[0], lambda: claims()[2]],
    "ClaimedCurve": [lambda: certificate().curve],
    "ClaimedEvent": [lambda: (c := certificate()).event(c.claims[3])],
    "ClaimedMean": [
        lambda: (
            c := certify.Certificate.of(
                certify.event_bound(often, Y, NOISE, repeats=2, two_sided=True, **BOUND, **FULL)
            )
        ).event(c.claims[0])
    ],
    "Certificate": [certificate],
    "CheckReport": [checked, lambda: dataclasses.replace(checked(), verdicts=())],
    "Verdict": [lambda: checked().verdicts[0], lambda: checked().verdicts[1]],
    "TokenNoise": [
        lambda: TokenNoise(
            ("<|startoftext|>", HOSTILE, "b</w>", *["!"] * 90),
            ("begin", "word", "word", *["padding"] * 90),
            (None, 0.5, -0.1, *[None] * 90),
            (None, HOSTILE, HOSTILE, *[None] * 90),
            (0.0, 0.1, math.inf, *[0.0] * 90),
        ),
        lambda: TokenNoise(("x</w>",) * 75, ("word",) * 75, (0.1,) * 75, ("c",) * 75, (0.1,) * 75),
    ],
    "ConceptRemoval": [lambda: ConceptRemoval(10.0, HOSTILE, 1)],
    "Neighbour": [lambda: Neighbour(HOSTILE, None), lambda: Neighbour("a</w>", 1.0)],
    "PositionCoverage": [
        position,
        lambda: position(covered=3, uncovered=(Neighbour(HOSTILE, 1.2),)),
        lambda: position(covered=0, sigma=0.0, nearest=Neighbour(HOSTILE, None), farthest=None),
        lambda: position(covered=0, comparable=0, nearest=None, farthest=None),
    ],
    "LevelCoverage": [
        level,
        lambda: level(covered=1, leaving=()),
        lambda: level(comparable=0, covered=0, members=(), farthest=None),
        lambda: level(comparable=0, covered=0, members=(), leaving=(), farthest=None, nearest=None, enumerated=False),
    ],
    "LevelSet": [
        lambda: LevelSet(1.0, (level(), level(comparable=0, covered=0, members=(), enumerated=False)), 3, 1.5),
        lambda: LevelSet(1.0, (), 0, None),
    ],
    "PromptCoverage": [
        lambda: PromptCoverage(HOSTILE, True, 0.5, (1,), ""),
        lambda: PromptCoverage("a" * 9000, False, None, (), HOSTILE),
    ],
    "Issued": [
        lambda: Issued(NOISE, 0.5, 1.0, None, "shrunk"),
        lambda: Issued(NOISE, 0.0, 1.0, None, "refused"),
    ],
}
"""For every summary: records that have it, with and without a claim, hostile words in every field that takes words."""

REGISTERED = {kind.__qualname__: kind for kind in summaries.summary.registry if kind is not object}

NO_SUMMARY = {
    "what is asked": "Percentile MSE Radius Curve Deployed RowOptions PromptOptions JointOptions Planned Asked Looks",
    "what is given": "Concept PromptRow PromptSet TokenizedPrompt PreparedPrompt "
    "Trajectory ExampleImages RunRecord ClassifiedRow ClassifiedRun Part "
    "Weights Directory Settings "
    "EncodeCall Layout Frame Reading Lookup Slot Family Vocabulary LabelledSet Tolerances",
    "what runs": "Deployment Problem JointProblem Region Processes Block Materials SigmaRule ClassifierTask LevelTable "
    "Batch BlockDraws",
    "what shows itself": "Explanation",
    "parts of an answer": "OnRecord Mention Evaluation Run Setting Box ModelRecord Section Summary Table Overlay Verdicts "
    "Statement Result Distance Squared OfCopies Choice Kind Entry Subject Limits "
    "Measure Comparison WordCoverage Look Count Snapshot Known",
}
"""Public dataclasses whose `repr` is enough."""

CASES = [pytest.param(make, id=f"{name}-{i}") for name, makes in EXAMPLES.items() for i, make in enumerate(makes)]


def public_dataclasses() -> dict[str, type]:
    found = {}
    for module in pkgutil.walk_packages(certify.__path__, "certify."):
        if module.name.rpartition(".")[2].startswith("_") or module.name.startswith("certify.cli"):
            continue
        if module.name == "certify.app.page" and importlib.util.find_spec("gradio") is None:
            continue
        loaded = importlib.import_module(module.name)
        for name in getattr(loaded, "__all__", ()):
            kind = getattr(loaded, name)
            if inspect.isclass(kind) and dataclasses.is_dataclass(kind) and kind.__module__ == module.name:
                assert kind.__qualname__ not in found, kind
                found[kind.__qualname__] = kind
    return found


def without_summary(kinds: dict[str, type]) -> set[str]:
    """Public dataclasses for which nobody has said how they show themselves."""
    excepted = {name for names in NO_SUMMARY.values() for name in names.split()}
    return {name for name, kind in kinds.items() if not issubclass(kind, Evidence)} - set(REGISTERED) - excepted


def test_every_public_record_has_a_summary_or_needs_none():
    kinds = public_dataclasses()
    assert len(kinds) > 50
    assert without_summary(kinds) == set()
    assert without_summary({**kinds, "NewBound": SimpleNamespace}) == {"NewBound"}
    assert {n for names in NO_SUMMARY.values() for n in names.split()} <= set(kinds)


def test_every_summary_belongs_to_a_class_that_shows_it():
    assert set(EXAMPLES) == set(REGISTERED)
    for kind in REGISTERED.values():
        assert issubclass(kind, Shown), kind


class Page(html.parser.HTMLParser):
    """Reads a piece of a page strictly: tags that fit together, and what they are."""

    EMPTY = ("br", "img")

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data


ALLOWED = {"div", "span", "table", "tbody", "tr", "td", "th", "bdi", "br", "img"}


@pytest.mark.parametrize("make", CASES)
def test_a_summary(make):
    record = make()
    text, page = str(record), Page(record._repr_html_())
    assert {tag for tag, _ in page.tags} <= ALLOWED
    assert {name for _, attributes in page.tags for name in attributes} <= {"style", "class", "colspan", "alt", "src"}
    for _, attributes in page.tags:
        assert "url(" not in (attributes.get("style") or "")
        assert (attributes.get("src") or "data:image/png;base64,").startswith("data:image/png;base64,")
        # No colour of its own for letters: they have the notebook's, on dark paper, too.
        assert not re.search(r"(?<![-\w])color:", attributes.get("style") or "")
    assert "\x1b" not in page.words
    assert "tensor([" not in page.words + text + repr(record)
    without_pictures = re.sub(r"base64,[^\"]*", "", record._repr_html_())
    assert len(without_pictures) < 60_000
    assert len(text) < 8_000
    assert len(repr(record)) < 2_500
    assert "0x" not in repr(record)
    assert "\n" not in repr(record)
    found = summaries.summary(record)
    assert found.sentence.endswith((".", "?"))
    assert Page(f"<div>{summaries_html._e(found.sentence)}</div>").words in page.words
    assert "nan" not in page.words.replace("alert", "")


def test_an_abstention_says_so_first_and_claims_nothing():
    silent = set()
    for record in (make() for makes in EXAMPLES.values() for make in makes):
        if getattr(record, "status", "") != "abstained":
            continue
        found, page = summaries.summary(record), Page(record._repr_html_())
        silent.add(type(record).__name__)
        assert found.mark[1] != "good"
        assert found.mark[0] in page.words
        assert "at most" not in " ".join(value for name, value in found.facts if name != "draws")
        if not isinstance(record, certify.Decision):
            assert found.mark == ("no claim", "bad")
            assert found.sentence.startswith("No claim (")
            assert found.sentence.endswith(f"): {record.reason}.")
            assert str(record).startswith("No claim (")
            assert "confidence" not in dict(found.facts)
    bounds = (
        "PercentileBounds MSEBound CertifiedRadius DeployedBound StatisticBound EventBound MeanBound Classification"
    )
    assert silent == {*bounds.split(), "Claim", "Decision"}


def test_a_decision_opens_with_its_answer():
    for record, words, mood in ((decided(), "Yes.", "good"), (decided(target=1e-4), "No.", "bad")):
        found = summaries.summary(record)
        assert f"? {words}" in found.sentence
        assert found.mark == (record.decided, mood)


def test_points_of_a_curve_without_a_bound_are_marked():
    curve = certify.bound_curve(f, Y, NOISE, rhos=[0.5, 4.0], n=800)
    found = summaries.summary(curve)
    assert found.mark == ("no bound at 1 of 2 radii", "bad")
    assert found.tables[0].rows[1][1:] == ("no bound", curve.points[1].reason)
    assert "No bound at 1 of 2 radii. " in str(curve)
    whole = certify.bound_curve(f, Y, NOISE, rhos=[0.5], n=800)
    assert summaries.summary(whole).mark == ("certified", "good")
    assert "<img" in whole._repr_html_()


def test_without_matplotlib_there_is_no_figure(monkeypatch):
    curve = certify.bound_curve(f, Y, NOISE, rhos=[0.5], n=800)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find(name))
    assert "<img" not in Page(curve._repr_html_()).words + curve._repr_html_()


def test_numbers_are_rounded_in_the_safe_direction():
    bound = dataclasses.replace(certify.mse_bound(f, Y, NOISE, rho=1.0, n=800), value=2.0000001)
    assert dict(summaries.summary(bound).facts)["value"] == "squared distance at most 2.00001"
    radius = dataclasses.replace(certify.certified_radius(f, Y, NOISE, tolerance=4.0, n=800), rho=0.99999999)
    assert dict(summaries.summary(radius).facts)["radius ρ"] == "0.999999"
    event = dataclasses.replace(
        certify.event_bound(rare, Y, NOISE, two_sided=True, **BOUND, n=800), value=0.123400001, lower=0.0123999
    )
    assert dict(summaries.summary(event).facts)["value"] == "probability between 1.23\u00a0% and 12.35\u00a0%"


def test_words_of_others_are_escaped_and_cut():
    found = PromptCoverage("<b>" + "a" * 9000, False, None, (), "too long")
    assert "<b>" not in found._repr_html_()
    assert "&lt;b&gt;" in found._repr_html_()
    assert len(found._repr_html_()) < 3000
    assert "\x1b" not in str(PromptCoverage(HOSTILE, True, 0.5, (1,), ""))


def test_a_long_table_is_cut():
    noise = TokenNoise(("x</w>",) * 75, ("word",) * 75, (0.1,) * 75, ("c",) * 75, (0.1,) * 75)
    assert f"and {75 - summaries.ROWS} more" in Page(noise._repr_html_()).words


def test_a_record_without_a_summary_is_an_error():
    with pytest.raises(TypeError, match="record is a int"):
        summaries.summary(1)


def tensors_in_repr(source: str) -> list[str]:
    """Dataclasses that would print a tensor: a field annotated as one, no `repr=False`, and no `Record` to shorten it."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.ClassDef) or not any("dataclass" in ast.unparse(d) for d in node.decorator_list):
            continue
        own = any(isinstance(n, ast.FunctionDef) and n.name == "__repr__" for n in node.body)
        if own or node.bases or node.name.startswith("_"):
            continue
        for line in node.body:
            if isinstance(line, ast.AnnAssign) and "Tensor" in ast.unparse(line.annotation):
                hidden = line.value is not None and "repr=False" in ast.unparse(line.value)
                found += [] if hidden else [f"{node.name}.{ast.unparse(line.target)}"]
    return found


def test_no_record_prints_its_tensors():
    folder = Path(certify.__file__).parent
    assert [name for file in folder.rglob("*.py") for name in tensors_in_repr(file.read_text(encoding="utf-8"))] == []
    fields = "    a: Tensor\n    b: Tensor = field(repr=False)\n"
    assert tensors_in_repr(f"@dataclass\nclass A:\n{fields}") == ["A.a"]
    for kind in public_dataclasses().values():
        if issubclass(kind, Record) and kind.__module__ != "certify.models.trajectory":
            assert kind.__repr__ is not object.__repr__


@dataclasses.dataclass
class Big(Record):
    values: torch.Tensor
    rows: list[int]
    table: dict[int, int]
    call: Any
    hidden: int = dataclasses.field(default=1, repr=False)


def test_repr_is_short_whatever_a_record_holds():
    big = Big(torch.zeros(77, 768), list(range(10_000)), {i: i for i in range(100)}, f)
    assert repr(big) == (
        "Big(values=tensor(77 × 768, float32), rows=[0, 1, 2, 3, 4, 5, … 10,000 in all], "
        "table={0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 5: 5, … 100 in all}, call=<f>)"
    )
    assert brief("a" * 1000) == f"'{'a' * 159}…"
    assert brief((1,)) == "(1,)"
    assert brief(torch.nn.Linear(1, 1)) == "<Linear>"
    assert brief(torch.tensor(1.0)) == "tensor(scalar, float32)"
    assert brief([dataclasses.replace(big, table={"a" * 100: 1})]) == "[Big(…)]"
