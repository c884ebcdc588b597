"""What is printed follows from what is on record: every number beside a claim, in every renderer.

A record is made of arbitrary numbers, shown in every way there is, and read again: each number that stands at the place of a
bound, a radius, a probability or a confidence must be implied by one on record, and be near it. The same test with a formatter
that rounds to the nearest is caught.
"""

from __future__ import annotations

import dataclasses
import html
import io
import math
import re
from collections.abc import Callable
from decimal import ROUND_HALF_EVEN

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.console import Console

from certify import Certificate, Ellipsoid, _text, plan, plots
from certify.adaptive.coverage import Neighbour, PositionCoverage
from certify.bounds.rates import RateOver
from certify.certificate import CheckReport, Claim, Verdict, words
from certify.certificate.tokens import Tokens
from certify.cli import terminal
from certify.images.rates import MeasuredRate
from certify.report import certificate_page
from certify.summaries.of_prompts import tokens_shown

NUMBER = r"([−+]?[\d,]*\.?\d+(?:·10[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)?|∞)"
SUPERSCRIPT = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
WRONG = (0.99999951, 0.9999999, 0.00100499, 0.003448, 117.71050705, 1.23456789, 0.999999999999)
"""Numbers of which rounding to the nearest makes more than they are, or less."""


def read(said: str) -> float:
    plain = re.sub("·10([⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)", lambda m: "e" + m[1].translate(SUPERSCRIPT), said)
    return float(plain.replace(",", "").replace("−", "-").replace("∞", "inf"))


def is_implied(said: float, exact: float, way: str) -> bool:
    """Whether a number on record implies the one that is said, and is near it. 1 − α is known to the last digit of a float."""
    slack = 2e-14 * abs(exact)
    if way == "confidence":  # it has the digits of α
        return math.isclose(100 - said, 100 - exact, rel_tol=0.011, abs_tol=1e-13) and said <= exact + slack
    near = math.isclose(said, exact, rel_tol=0.011)
    return near and (said >= exact - slack if way == "up" else said <= exact + slack)


@dataclasses.dataclass
class Record:
    """A certificate, and the exact numbers that may stand at a place."""

    certificate: Certificate

    def __post_init__(self) -> None:
        claims, record = self.certificate.claims, self.certificate.provenance
        of = {
            kind: [c for c in claims if c.quantity == kind]
            for kind in ("mse", "radius", "deployed", "statistic", "event")
        }
        removal = record["yardstick"]["distance"]
        event = self.certificate.event(of["event"][0])
        covered = [p["rho"] for p in record["coverage"]]
        squared = [c.value for c in of["mse"]] + [c.tolerance for c in of["radius"]]
        self.rules: list[tuple[str, str, list[float]]] = [
            (rf"≤ {NUMBER}", "down", [c.rho for c in claims] + covered),
            (rf"squared distance (?:at most )?{NUMBER}", "up", squared),
            (rf"(?<!squared )distance (?:at most )?{NUMBER}", "up", [c.value for c in of["deployed"]]),
            (rf"with probability at least {NUMBER}", "down", [c.q for c in claims if c.q is not None]),
            (rf"confidence {NUMBER}\s%", "confidence", [100 * (1 - a) for a in self.alphas]),
            (rf"α\s=\s{NUMBER}", "up", self.alphas),
            (rf"another part of α, {NUMBER} a point", "up", self.alphas),
            (rf"a point in place of {NUMBER}", "up", self.alphas),
            (rf"{NUMBER} × the squared", "up", [c.value / removal for c in of["mse"]]),
            (rf"{NUMBER} × the concept-removal distance\.", "up", [c.value / removal**0.5 for c in of["deployed"]]),
            (
                rf"{NUMBER} × the concept-removal distance apart",
                "up",
                [2 * (c.value / removal) ** 0.5 for c in of["mse"]],
            ),
            (rf"(?:is|probability) between {NUMBER}\s%", "down", [100 * c.lower for c in of["event"]]),
            (rf"(?:is|probability) between {NUMBER} and", "down", [c.lower for c in of["statistic"]]),
            (
                rf"an advantage of more than {NUMBER}\s%",
                "up",
                [100 * self.certificate.indistinguishability.total_variation],
            ),
            (rf"between [−\d.,·⁻⁰-⁹10]+ and {NUMBER}", "up", [c.value for c in of["statistic"]]),
            (rf"% and {NUMBER}\s%", "up", [100 * c.value for c in of["event"]]),
            (rf"below one half up to ρ = {NUMBER}\.", "down", [event.radius(0.5)]),
            (rf"from ρ = {NUMBER} on", "up", [u["distance"] for p in record["coverage"] for u in p["uncovered"]]),
        ]

    @property
    def alphas(self) -> list[float]:
        return [*(c.alpha for c in self.certificate.claims), self.certificate.alpha, self.certificate.curve.alpha]

    def check(self, text: str) -> int:
        """Asserts that what stands at the places of numbers is implied; returns how many there were."""
        found = 0
        for place, way, exact in self.rules:
            for match in re.finditer(place, text):
                said = read(match[1])
                assert any(is_implied(said, number, way) for number in exact), (match[0], way, exact)
                found += 1
        return found


numbers = st.one_of(st.sampled_from(WRONG), st.floats(1e-6, 1e6))
shares = st.one_of(st.sampled_from([v for v in WRONG if v < 1]), st.floats(1e-6, 1 - 1e-9))
levels = st.one_of(st.sampled_from([0.00100499, 0.001, 0.05, 1e-9]), st.floats(1e-11, 0.2))
BLANK = Claim(
    theorem="T2", quantity="mse", function="text encoding", unit="", value=1.0, lower=None, rho=1.0, p=0.5, q=None,
    side="upper",
    replicas=None, copies=None, tolerance=None, outputs=3, smoother="median", method="coordinatewise", reference="center",
    policy="frozen", alpha=0.001, share=0.1, n=400, scope="single", status="certified", reason="", evidence="box", numbers={},
    tensors="claim0", center="center",
)  # fmt: skip


@st.composite
def records(draw: Callable[..., float]) -> Record:
    rho, radius, tolerance = draw(numbers), draw(numbers), draw(numbers)
    alpha, removal = draw(levels), draw(numbers)
    curve = sorted({rho, draw(numbers), draw(numbers)})
    low, high = sorted((draw(shares), draw(shares)))
    below, above = sorted((draw(numbers) - 2.0, draw(numbers)))
    claim = dataclasses.replace
    main = claim(BLANK, rho=rho, value=draw(numbers), alpha=alpha)
    claims = [
        main,
        *(claim(BLANK, rho=r, value=draw(numbers), alpha=alpha / 7, scope="simultaneous") for r in curve),
        claim(BLANK, quantity="radius", rho=radius, value=radius, tolerance=tolerance, alpha=alpha),
        claim(BLANK, quantity="deployed", value=draw(numbers), q=draw(shares), replicas=13, rho=rho, alpha=alpha),
        claim(
            BLANK, quantity="statistic", function="concept score", side="two-sided", lower=below, value=above, q=draw(shares),
            replicas=13, copies=13, smoother="none", rho=rho, alpha=alpha,
        ),
        claim(
            BLANK, quantity="event", function="image shows circle", side="two-sided", lower=low, value=high, replicas=2,
            copies=2, smoother="none", rho=rho, alpha=alpha, numbers={"successes": 3},
        ),
    ]  # fmt: skip
    tokens = {"tokens": ["circle</w>", "disc</w>"], "kinds": ["word"] * 2, "relevance": [0.9, 0.1], "sigma": [0.5, 0.2]}
    place = {"rho": rho, "sigma": 0.5, "comparable": 9, "nearest": None, "share": draw(shares)}
    further = {"token": "square</w>", "distance": draw(numbers)}
    provenance = {
        "prompt": "a circle",
        "seed": 0,
        "pilot": 64,
        "smoother": {"sharing": "none", "concepts": []},
        "token_noise": tokens,
        "yardstick": {"distance": removal, "word": "circle", "position": 1},
        "coverage": [
            {**place, "position": 0, "covered": 9, "uncovered": []},
            {**place, "position": 1, "covered": 3, "uncovered": [further]},
        ],
    }
    return Record(Certificate(tuple(claims), provenance, {"sigma": torch.tensor([[0.5], [0.2]])}))


def plain(page: str) -> str:
    """The words of a page."""
    return html.unescape(
        re.sub(r"<[^>]*>", "", re.sub(r"<style>.*?</style>|</(?:td|th|div|p|li|dd)>", " ", page, flags=re.S))
    )


def printed(show: Callable[[], None], monkeypatch: pytest.MonkeyPatch, width: int = 80) -> str:
    with monkeypatch.context() as patch:
        patch.setattr(terminal, "out", Console(width=width, highlight=False, record=True, file=io.StringIO()))
        show()
        return terminal.out.export_text()


def figure_words(certificate: Certificate) -> str:
    from matplotlib.text import Text

    figures = [plots.figure(certificate, what) for what in ("curve", "rate", "noise", "ellipsoid")]
    return "\n".join(text.get_text() for figure in figures for text in figure.findobj(Text))


def rows(text: str, head: str) -> list[list[str]]:
    """The cells of a table on a terminal, up to the first line that is not one of it."""
    lines = iter(text.splitlines())
    assert any(line.startswith(head) for line in lines)
    found = []
    for line in lines:
        cells = re.findall(rf"{NUMBER}(?=\s|$)", line)
        if len(cells) < 2:
            break
        found.append(cells)
    return found


def check_everywhere(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every renderer."""
    certificate = record.certificate
    removal = certificate.provenance["yardstick"]["distance"]
    shown = printed(lambda: terminal.show_certificate(certificate), monkeypatch)
    assert max(map(len, shown.splitlines())) <= 80
    assert record.check(" ".join(shown.split())) >= 20
    points = {c.rho: c.value for c in certificate.curve.points}
    for said, (rho, value) in zip(rows(shown, "ρ     "), points.items(), strict=False):
        assert is_implied(read(said[0]), rho, "down")
        assert is_implied(read(said[1]), value, "up")
        assert is_implied(read(said[2]), value / removal, "up")
    assert record.check(plain(certificate_page(certificate))) >= 20
    assert record.check(plain(certificate._repr_html_())) >= 8
    assert record.check(str(certificate)) >= 8
    assert record.check(repr(certificate)) >= 1
    for claim in certificate.claims:
        assert record.check(claim.sentence) >= 3
        assert record.check(str(claim)) >= 5
        assert record.check(plain(claim._repr_html_())) >= 5
        assert is_implied(read(re.search(rf"radius ρ +{NUMBER}", str(claim))[1]), claim.rho, "down")
    curve = certificate.curve
    assert record.check(str(curve)) >= 1
    for (rho, value), line in zip(points.items(), str(curve).splitlines()[2:], strict=True):
        cells = re.findall(NUMBER, line)
        assert is_implied(read(cells[0]), rho, "down")
        assert is_implied(read(cells[1]), value, "up")
    verdicts = tuple(Verdict(c, "not refuted", 0.0123456, "") for c in certificate.claims)
    report = CheckReport(verdicts, 10, 1, 1.23456789e-6)
    for text in (str(report), printed(lambda: terminal.show_checks(report), monkeypatch, 200)):
        for claim in certificate.claims:
            line = next(
                x for x in text.splitlines() if words.named(claim) in x and str(_text.shown(claim.rho, "down")) in x
            )
            assert "0.0124" in line
    assert "1.23456789·10⁻⁶" in words.outcome(report)


@settings(max_examples=8, deadline=None)
@given(record=records())
def test_every_number_beside_a_claim_is_implied_by_the_record(record):
    with pytest.MonkeyPatch.context() as patch:
        check_everywhere(record, patch)


@settings(max_examples=2, deadline=None)
@given(record=records())
def test_the_words_of_figures_are_implied_by_the_record(record):
    words_of_figures = figure_words(record.certificate)
    assert record.check(words_of_figures) >= 2
    radii = [c.rho for c in record.certificate.claims]
    for said in re.findall(rf"ρ = {NUMBER}[; ]", words_of_figures):
        assert any(is_implied(read(said), rho, "down") for rho in radii)


def test_a_formatter_that_rounds_to_the_nearest_is_caught(monkeypatch):
    """The negative control: the same checks, on a record whose numbers lie just below what they would be rounded to."""
    claims = [
        dataclasses.replace(BLANK, rho=0.99999951, value=117.71050705),
        dataclasses.replace(
            BLANK, quantity="deployed", rho=0.5, q=0.9999999, alpha=0.00100499, value=1.0000004, replicas=2
        ),
    ]
    said = [words.with_confidence(claim) for claim in claims]
    assert "≤ 0.999999, " in said[0]
    assert "117.711 " in said[0]
    assert "at least 0.999999 " in said[1]
    assert "99.899 %" in said[1].replace("\u00a0", " ")
    honest = printed_record(claims)
    assert honest.check(" ".join(said)) >= 7
    monkeypatch.setattr(_text, "_ROUND", dict.fromkeys(("up", "down", "near"), ROUND_HALF_EVEN))
    for claim in claims:
        with pytest.raises(AssertionError, match=r"up|down"):
            honest.check(words.with_confidence(claim))


def printed_record(claims: list[Claim]) -> Record:
    event = dataclasses.replace(
        BLANK, quantity="event", side="two-sided", lower=0.1, value=0.2, replicas=1, rho=0.5, numbers={"successes": 1}
    )
    point = dataclasses.replace(BLANK, rho=0.5, scope="simultaneous")
    record = {"yardstick": {"distance": 1.0, "word": ""}, "coverage": []}
    return Record(Certificate((*claims, point, event), record, {"sigma": torch.ones(1)}))


@given(value=st.one_of(numbers, st.floats(-1e300, 1e300, allow_subnormal=True)), digits=st.integers(1, 8))
@example(0.99999951, 6)
@example(-0.99999951, 6)
@example(5e-324, 3)
def test_directions(value, digits):
    up, down, exact = (read(_text.shown(value, way, digits)) for way in ("up", "down", "exact"))
    assert down <= value <= up
    assert exact == value
    assert _text.shown(np.float64(value), "up", digits) == _text.shown(value, "up", digits)
    assert math.isclose(up, value, rel_tol=10.0 ** (1 - digits) * 1.001)


@given(value=st.floats(0, 1))
@example(0.003448)
@example(0.9999999)
def test_percentages(value):
    up, down = (read(_text.percent(value, way).removesuffix("\u00a0%")) / 100 for way in ("up", "down"))
    assert down <= value * (1 + 1e-15)
    assert up >= value * (1 - 1e-15)


@given(alpha=levels)
@example(0.0010000000000000002)
@example(0.00100499)
def test_levels(alpha):
    assert read(_text.failure(alpha)) >= alpha * (1 - 1e-14)
    said = _text.confidence(alpha)
    if said.endswith("%"):
        assert read(said.removesuffix("\u00a0%")) <= 100 - 100 * alpha + 1e-13
    else:
        assert read(said.removeprefix("1 − ")) >= alpha * (1 - 1e-14)


def test_a_level_that_a_user_gave_keeps_its_digits_and_a_sum_its_meaning():
    assert (_text.failure(0.001), _text.failure(0.1 + 0.2), _text.confidence(0.0010000000000000002)) == (
        "0.001",
        "0.3",
        "99.9\u00a0%",
    )


@given(successes=st.integers(0, 30), alpha=levels, rho=st.floats(0.01, 2.0))
@settings(max_examples=30, deadline=None)
def test_rates_plans_and_sets(successes, alpha, rho):
    rate = RateOver(
        prompts=3,
        unperturbed=0,
        successes=successes,
        n=30,
        replicas=2,
        alpha=alpha,
        two_sided=True,
        rhos=(rho,),
        seed=0,
    )
    for said, at in re.findall(rf"{NUMBER}\s% at ρ = {NUMBER}", str(rate)):
        assert read(said) / 100 >= rate.at(read(at)) * (1 - 1e-15)
    for at, low, high in summary_rows(rate):
        assert read(low) / 100 <= rate.least(read(at)) * (1 + 1e-15)
        assert high == "no bound" or read(high) / 100 >= rate.at(read(at)) * (1 - 1e-15)
    measured = MeasuredRate(0.5, 0.123456, 0.654321, 50, 100, alpha)
    low, high = re.search(rf"{NUMBER}\s% … {NUMBER}\s%", str(measured)).groups()
    assert read(low) <= 12.3456
    assert read(high) >= 65.4321
    most = plan(n=500 + successes, alpha=alpha)
    assert read(re.search(rf"ρ = {NUMBER} ", str(most))[1]) <= most.rho
    assert read(re.search(rf"α = {NUMBER}", str(most))[1]) >= alpha * (1 - 1e-14)
    region = Ellipsoid(torch.tensor([0.3, 0.7]), rho)
    assert read(re.search(rf"ρ = {NUMBER},", repr(region))[1]) <= rho
    assert read(re.search(rf"ℓ2 ball {NUMBER},", repr(region))[1]) <= region.l2_ball


def summary_rows(rate: RateOver) -> list[tuple[str, str, str]]:
    from certify.summaries import summary

    return [tuple(cell.removesuffix("\u00a0%") for cell in row) for row in summary(rate).tables[0].rows]


# Covered is one fact, suppressed another


@pytest.mark.parametrize(
    ("bound", "distance", "holds"),
    [
        (6.25, 100.0, True),
        (6.26, 100.0, False),
        (24.9, 100.0, False),  # .998 of the distance is not well below it
        (1e6, 100.0, False),
        (0.0, 0.0, False),
        (None, 100.0, False),
        (1.0, None, False),
    ],
)
def test_a_covered_token_is_suppressed_only_within_half_a_concept_removal_distance(bound, distance, holds):
    suppression = words.Suppression(bound, distance)
    assert suppression.holds == holds
    assert ("It is suppressed" in suppression.sentence()) == holds


def test_a_vacuous_bound_suppresses_nothing_in_any_renderer(monkeypatch):
    """Twenty draws, or ρ = 50: every token is covered, and the bound says nothing."""
    weak, strong = (with_bound(value) for value in (12_074.6, 70.0))
    for record, said in ((weak, "That does not show it to be suppressed"), (strong, "It is suppressed")):
        shown = printed(lambda record=record: terminal.show_certificate(record), monkeypatch)
        for text in (" ".join(shown.split()), plain(certificate_page(record))):
            assert said in text
            assert "every token is covered here" in text
            assert text.count("suppressed") == (1 if record is strong else 2)
    position = PositionCoverage(1, "circle</w>", 50.0, 0.7, 402, 402, 402, Neighbour("a", 0.1), 0.9, ())
    assert "every token is covered here" in str(position)
    assert "suppressed" not in str(position) + position._repr_html_()


def with_bound(value: float) -> Certificate:
    record = printed_record([dataclasses.replace(BLANK, value=value)])
    provenance = {
        "seed": 0,
        "pilot": 1,
        "smoother": {"sharing": "none"},
        "token_noise": {"tokens": ["circle</w>"], "kinds": ["word"], "relevance": [0.9], "sigma": [1.0]},
        "yardstick": {"distance": 1188.6, "word": "circle", "position": 0},
        "coverage": [{"position": 0, "rho": 1.0, "covered": 402, "comparable": 402, "uncovered": []}],
    }
    claims = tuple(dataclasses.replace(c, value=value) if c.quantity == "mse" else c for c in record.certificate.claims)
    return Certificate(claims, provenance, {"sigma": torch.ones(1)})


def test_one_number_for_one_claim_and_a_word_where_two_stand_for_one_radius(monkeypatch):
    """The curve holds jointly and has less α a point: at the radius of the claim it says another number, and why."""
    point = dataclasses.replace(BLANK, value=119.17, scope="simultaneous", alpha=0.0001)
    record = printed_record([dataclasses.replace(BLANK, value=117.72)])
    certificate = Certificate(
        (record.certificate.claims[0], point), record.certificate.provenance, {"sigma": torch.ones(1)}
    )
    why = "the curve is not the claim above, which holds by itself"
    assert why in plain(certificate_page(certificate))
    assert why in str(certificate)
    assert words.beside(dataclasses.replace(certificate, claims=certificate.claims[:1])) == ""
    report = CheckReport(tuple(Verdict(c, "not refuted", 1.0, "") for c in certificate.claims), 1, 1, 1e-6)
    lines = [re.sub(r"[\d.]+", "#", x) for x in str(report).splitlines() if "smoothed text encoding" in x]
    assert len(set(lines)) == len(lines) == 2


CHECKS = {
    "none": ((1.0, 0.5), "Not refuted: 2,000 fresh draws refute none of the 2 claims that were tested, at level"),
    "the one": (
        (1.0,),
        "Not refuted: 2,000 fresh draws do not refute the one claim that was tested, at level 0.01. Not",
    ),
    "some": ((0.0, 0.5, 0.6), "Refuted: 2,000 fresh draws refute 1 of the 3 claims that were tested, at level"),
    "the one, refuted": ((0.0,), "Refuted: 2,000 fresh draws refute the one claim that was tested, at level 0.01."),
    "record": (
        (None, 0.5, 0.6),
        "Refuted: 1 of the 3 claims contradicts its own record, without any draw: what it states",
    ),
    "records": (
        (None, None),
        "Refuted: 2 of the 2 claims contradict their own record, without any draw: what they state",
    ),
    "the one record": ((None,), "Refuted: the one claim contradicts its own record, without any draw: what it states"),
    "both": ((None, 0.0, 0.6), "evidence. 2,000 fresh draws refute 1 of the other 2 claims that were tested, at level"),
    "other": ((None, 0.6), "evidence. 2,000 fresh draws do not refute the other claim that was tested, at level"),
    "nothing": ((), "Nothing was tested: that is no proof."),
}
"""p-values of a check's claims at level .01, None where the record contradicts itself, and what is said."""


@pytest.mark.parametrize(("p_values", "said"), CHECKS.values(), ids=CHECKS)
def test_a_check_says_what_was_found_and_by_what(p_values, said):
    verdicts = [Verdict(BLANK, "refuted" if not p else "not refuted", p, "why") for p in p_values]
    report = CheckReport((*verdicts, Verdict(BLANK, "not checked", None, "")), 2000, 1, 0.01)
    text = words.outcome(report)
    assert said in text
    assert ("no proof" in text) == (not report.refuted)
    assert ("draws refute" in text) <= any(p is not None for p in p_values)
    assert not re.search(r"\b(1|none) of the 1\b|\b1 claims|\b1 fresh draws", text)


def test_what_was_not_tested_has_no_p_value(monkeypatch):
    made = (Verdict(BLANK, "not checked", None, ""), Verdict(BLANK, "refuted", None, "it states 1"))
    report = CheckReport(made, 0, 1, 1e-6)
    shown = printed(lambda: terminal.show_checks(report), monkeypatch, 200)
    for text in (str(report), shown):
        found = [
            line.split() for line in text.splitlines() if "smoothed text encoding" in line and "states" not in line
        ]
        assert [line[-3:] for line in found] == [["1", "not", "checked"], [*found[1][-3:-2], "1", "refuted"]]
    assert "p =" not in str(made[0]) + str(made[1])
    assert "p = 0.5" in str(Verdict(BLANK, "not refuted", 0.5, ""))


@pytest.mark.parametrize(
    "name", ["vote fails", "the vote fails", "The vote fails", "a vote fails", "An old vote fails"]
)
def test_a_name_with_an_article_gets_no_other(name):
    event = dataclasses.replace(BLANK, quantity="event", function=name, value=0.5, replicas=3, theorem="T5")
    distance = dataclasses.replace(BLANK, function=name)
    said = [words.sentence(event), words.sentence(distance), words.named(distance)]
    for text in said:
        assert not re.search(r"\b(the|an?|\w+ed) (the|an?)\b", text, re.IGNORECASE), text
    assert f"the probability that {words.with_article(name)}, with 3 noisy copies" in said[0]
    assert words.with_article("vote fails") == words.with_article("The vote fails") == "the vote fails"
    assert words.without_article("a") == "a"
    assert words.without_article("theatre") == "theatre"


@pytest.mark.parametrize(
    "names",
    [["star", "fish</w>", "red</w>"], ["▁star", "fish", "▁red"], ["Ġstar", "fish", "Ġred"], ["star", "##fish", "red"]],
)
def test_tokens_of_every_vocabulary_are_shown_without_its_marks(names):
    found = tokens_shown(Tokens(names, [1.0] * 3, [0.1] * 3, ["word"] * 3, range(3), 1.0, "circle", True))
    assert [(token.text, token.joined) for token in found] == [("star", True), ("fish", False), ("red", False)]
