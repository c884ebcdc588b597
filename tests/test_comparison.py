"""Two runs, paired: the numbers are those of scipy and statsmodels, intervals cover, and runs that do not pair are refused."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar

from certify.datasets import RunRecord, compare
from certify.report import comparison_page, verdict
from tests.test_report import CHROMIUM, HOSTILE, assert_drawn, certified, self_contained, write_run

WEAK = {"smoother": {"concepts": [{"name": "circle", "pairs": 60, "sha256": "ab"}], "policy": "frozen", "k": 1.0}}


def rows(radii, bounds=None, rates=None):
    """Records of `certify prompts`."""
    made = []
    for i, radius in enumerate(radii):
        row = certified(f"{HOSTILE} {i}", radius, 20.0 if bounds is None else bounds[i])
        if rates is not None:
            event = {"function": "image shows x", "quantity": "event", "rho": 0.25, "value": rates[i], "alpha": 0.001}
            row["others"] = [*row["others"], event | {"n": 9, "theorem": "T5", "method": "m", "status": "certified"}]
        if radius == 0:
            row |= {"status": "abstained", "bound": None, "others": []}
        made.append(row)
    return made


def pair(folder, a, b, **changes):
    folder.mkdir(exist_ok=True)
    left = RunRecord.load(write_run(folder / "a", a, data={"name": HOSTILE, "rows": len(a), "sha256": "cd"}))
    settings = {"data": {"name": "renamed", "rows": len(a), "sha256": "cd"}, **WEAK} | changes
    return left, RunRecord.load(write_run(folder / "b", b, **settings))


def test_numbers_are_those_of_other_libraries(tmp_path):
    rng = np.random.default_rng(0)
    a = np.round(rng.gamma(2, 0.6, 60), 3)
    b = np.round(np.clip(a - rng.normal(0.1, 0.4, 60), 0, None), 3)
    rates = rng.uniform(0.2, 0.9, (2, 60))
    found = compare(
        *pair(tmp_path, rows(a.tolist(), rates=rates[0].tolist()), rows(b.tolist(), rates=rates[1].tolist()))
    )
    share, radius, bound, _, rate = found.measures
    table = [
        [np.sum((a >= 1) & (b >= 1)), np.sum((a >= 1) & (b < 1))],
        [np.sum((a < 1) & (b >= 1)), np.sum((a < 1) & (b < 1))],
    ]
    assert share.p_value == pytest.approx(mcnemar(table, exact=True).pvalue)
    assert (share.a, share.b) == pytest.approx((np.mean(a >= 1), np.mean(b >= 1)))
    assert share.difference == pytest.approx(share.a - share.b)
    sign = stats.binomtest(int(np.sum(a > b)), int(np.sum(a != b)))
    assert radius.p_value == pytest.approx(sign.pvalue)
    assert (radius.a, radius.b, radius.difference) == pytest.approx((np.median(a), np.median(b), np.median(a - b)))
    exact = stats.quantile_test(a - b, p=0.5).confidence_interval(0.95)
    assert (radius.low, radius.high) == pytest.approx((exact.low, exact.high))
    assert (radius.favours_a, radius.favours_b) == (np.sum(a > b), np.sum(a < b))
    # Less is better here, and an abstention is worse than any bound.
    assert (bound.favours_a, bound.favours_b) == (np.sum((a > 0) & (b == 0)), np.sum((a == 0) & (b > 0)))
    told = np.where(a > 0, rates[0], 1.0), np.where(b > 0, rates[1], 1.0)
    assert (rate.favours_a, rate.favours_b) == (np.sum(told[0] < told[1]), np.sum(told[0] > told[1]))
    assert rate.difference == pytest.approx(np.median(told[0] - told[1]))


@pytest.mark.statistical
def test_intervals_cover_and_the_test_keeps_its_level():
    """H0: each covers with at least 95 %. 400 repetitions; rejected where fewer than 362 cover (a false alarm in 10⁻⁴)."""
    from certify.datasets.comparison import _measure

    rng, n, times = np.random.default_rng(1), 40, 400
    assert stats.binom.cdf(361, times, 0.95) < 1e-4 < stats.binom.cdf(364, times, 0.95)
    share = median = level = wrong = 0
    for _ in range(times):
        both = rng.choice(4, n, p=[0.3, 0.3, 0.1, 0.3])  # (1, 1), (1, 0), (0, 1), (0, 0)
        a, b = np.isin(both, (0, 1)).astype(float), np.isin(both, (0, 2)).astype(float)
        made = _measure("x", "more", True, a.tolist(), b.tolist(), 0.05)
        share += made.low <= 0.2 <= made.high
        wrong += made.low <= 0.0 <= made.high
        base, apart = rng.gamma(2, 1, n), rng.laplace(0.3, 1, n)
        made = _measure("x", "more", False, (base + apart).tolist(), base.tolist(), 0.05)
        median += made.low <= 0.3 <= made.high
        null = _measure("x", "more", False, (base + apart - 0.3).tolist(), base.tolist(), 0.05)
        level += null.p_value > 0.05
    assert min(share, median, level) >= 362
    assert wrong < 362  # a wrong difference is not covered


def test_infinite_radii_and_few_rows(tmp_path):
    a, b = pair(tmp_path, rows(["Infinity", "Infinity", 1.0]), rows(["Infinity", 1.0, 0.0]))
    radius = compare(a, b).measures[1]
    assert (radius.favours_a, radius.favours_b) == (2, 0)
    assert (radius.low, radius.high) == (-math.inf, math.inf)
    assert radius.p_value == 0.5
    assert "too few rows" in self_contained(comparison_page(compare(a, b))).text


def test_all_rows_tie(tmp_path):
    found = compare(*pair(tmp_path, rows([1.0, 2.0]), rows([1.0, 2.0])))
    assert [m.p_value for m in found.measures] == [1.0] * len(found.measures)
    assert "tie on all 2 rows" in verdict(found, found.measures[0])


def test_rows_that_only_one_has_done_are_left_out(tmp_path):
    found = compare(
        *pair(tmp_path, rows([1.0, 2.0, 3.0]), rows([1.0, 2.5]), data={"name": "x", "rows": 3, "sha256": "cd"})
    )
    assert (len(found.rows), found.only_a, found.only_b) == (2, 1, 0)
    assert "1 rows that only A has done" in self_contained(comparison_page(found)).text


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"seed": 4}, "seed = 3 and 4"),
        ({"n": 501}, "n = 500 and 501"),
        ({"rho": 2.0}, "rho = 1.0 and 2.0"),
        ({"alpha": 0.02}, "alpha = 0.01 and 0.02"),
        ({"detector": "judge:circle"}, "detector = None and 'judge:circle'"),
        ({"tolerance": 3.0}, "tolerance = None and 3.0"),
        ({"private": True}, "the second is private"),
        ({"data": {"name": "x", "rows": 2, "sha256": "ce"}}, "about other data (sha256"),
        ({"format": "certify classes 1"}, "of the format"),
    ],
)
def test_runs_that_do_not_pair_are_refused(tmp_path, changes, why):
    a, b = pair(tmp_path, rows([1.0, 2.0]), rows([1.0, 2.5]))
    settings = dict(b.settings) | changes
    with pytest.raises(ValueError, match="the runs do not pair") as told:
        compare(a, RunRecord(settings, b.rows, "0"))
    assert why in str(told.value)


def test_the_same_run_twice_and_other_prompts_are_refused(tmp_path):
    a, b = pair(tmp_path, rows([1.0, 2.0]), rows([1.0, 2.5]))
    with pytest.raises(ValueError, match="nothing to compare"):
        compare(a, a)
    other = [dict(row) | {"prompt": "another"} for row in b.rows]
    with pytest.raises(ValueError, match="row 1 has another prompt"):
        compare(a, RunRecord(b.settings, tuple(other), b.run))
    with pytest.raises(ValueError, match="no row is done in both"):
        compare(RunRecord(a.settings, a.rows[:1], a.run), RunRecord(b.settings, b.rows[1:], b.run))
    with pytest.raises(ValueError, match="level = 2"):
        compare(a, b, level=2)


def test_classifiers_are_compared_by_their_length(tmp_path):
    def run(folder, sigma, radii):
        settings = {
            "format": "certify classes 1",
            "version": "0.1.0",
            "data": {"name": "x", "rows": 3, "inputs_sha256": "a", "labels_sha256": "b"},
            "noise": {"kind": "GaussianNoise", "scale": f"{sigma}", "value": sigma},
            "model": None,
            "dtype": "float32",
            "device": "cpu",
            "n0": 10,
            "n": 100,
            "alpha": 0.001,
            "stop_at": None,
            "classes": 2,
            "seed": 0,
            "policy": "frozen",
            "function": "classifier",
        }
        made = [
            {"true": 1, "label": 1 if r else None, "candidate": 1, "radius": r / sigma, "l2_radius": r, "n": 100}
            | {"successes": 90, "decided": None, "status": "certified" if r else "abstained", "reason": "", "seed": 1}
            for r in radii
        ]
        folder.mkdir(exist_ok=True)
        text = json.dumps(settings)
        return RunRecord(json.loads(text), tuple({"row": i, **m} for i, m in enumerate(made, 1)), f"{sigma}")

    found = compare(run(tmp_path / "a", 0.5, [1.0, 2.0, 0.0]), run(tmp_path / "b", 0.25, [0.5, 0.0, 0.0]))
    share, radius = found.measures
    assert (share.a, share.b, share.favours_a, share.favours_b) == pytest.approx((2 / 3, 1 / 3, 1, 0))
    assert (radius.a, radius.b, radius.difference) == (1.0, 0.0, 0.5)
    assert found.differing.keys() == {"noise"}
    assert {0.5, 2.0} <= {value for value, _ in self_contained(comparison_page(found)).values}


def test_the_page_shows_both_and_nothing_of_a_prompt_is_markup(tmp_path):
    a, b = pair(tmp_path, rows([1.0, 2.0, 0.0]), rows([0.5, 2.5, 1.0]))
    found = compare(a, b)
    page = self_contained(comparison_page(found, names=("runs/<a>", "runs/b"), runs=(a.run, b.run)))
    for piece in ("runs/<a>", a.run, b.run, "6.0", "1.0", "abstained", "<script>"):
        assert piece in page.text, piece
    assert {m.p_value for m in found.measures} <= {value for value, _ in page.values}
    broken = tuple((dict(one) | {"bound": "far"}, other) for one, other in found.rows)
    with pytest.raises(ValueError, match="cannot be shown"):
        comparison_page(dataclasses.replace(found, rows=broken))


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium (chromium, chromium-browser, google-chrome)")
@pytest.mark.parametrize("width", [500, 1100])
def test_a_browser_draws_it_and_nothing_overflows(tmp_path, width):
    found = compare(*pair(tmp_path, rows([1.0, 2.0, 0.0]), rows([0.5, 2.5, 1.0])))
    assert_drawn(tmp_path, "comparison", comparison_page(found, names=("runs/" + "a" * 90, "runs/b")), width)
