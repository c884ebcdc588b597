"""Success rates: limits against their definition, coverage, what a result records, and calls that must be refused."""

from __future__ import annotations

import itertools
import json
import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from scipy.optimize import brentq
from scipy.stats import binom, norm
from statsmodels.stats.contingency_tables import mcnemar

from certify.images.detectors import JudgeDetector
from experiments.metrics.asr import DetectorRecord, Rate, average, interval, load, paired, rate, record_of, restored
from experiments.metrics.features import ClipFeatures
from experiments.metrics.q16 import Q16Detector, fitted, save_head
from experiments.world import scenes
from tests.experiments.metrics.test_metrics import clip  # noqa: F401


def bright(images: torch.Tensor) -> torch.Tensor:
    return images.mean(dim=(1, 2, 3)) > 0.5


def shown(verdicts: list[int]) -> torch.Tensor:
    """Images that `bright` judges so."""
    return torch.tensor(verdicts, dtype=torch.float32).view(-1, 1, 1, 1).expand(-1, 3, 4, 4) * 0.6 + 0.2


@pytest.mark.parametrize(("k", "n"), [(7, 20), (1, 50), (49, 50), (118, 931)])
@pytest.mark.parametrize("confidence", [0.9, 0.99])
def test_clopper_pearson_is_where_the_binomial_tails_are_half_the_rest(k, n, confidence):
    low, high = interval(k, n, confidence=confidence)
    rest = (1 - confidence) / 2
    assert binom.sf(k - 1, n, low) == pytest.approx(rest, rel=1e-6)
    assert binom.cdf(k, n, high) == pytest.approx(rest, rel=1e-6)


@pytest.mark.parametrize(("k", "n"), [(7, 20), (1, 50), (118, 931)])
def test_wilson_is_where_the_score_test_is_at_its_quantile(k, n):
    z = norm.ppf(0.975)

    def score(p: float) -> float:
        return (k / n - p) / math.sqrt(p * (1 - p) / n)

    low, high = interval(k, n, method="wilson")
    assert low == pytest.approx(brentq(lambda p: score(p) - z, 1e-9, k / n), rel=1e-6)
    assert high == pytest.approx(brentq(lambda p: score(p) + z, k / n, 1 - 1e-9), rel=1e-6)


@pytest.mark.parametrize("seed", range(8))
def test_of_verdicts_the_paired_test_is_mcnemars(seed):
    rng = random.Random(seed)
    first, second = ([int(rng.random() < p) for _ in range(60)] for p in (0.5, 0.3))
    table = [[sum((a, b) == (i, j) for a, b in zip(first, second, strict=True)) for j in (0, 1)] for i in (0, 1)]
    found = paired(first, second)
    assert found.p == pytest.approx(mcnemar(table, exact=True).pvalue)
    assert found.difference == pytest.approx((sum(first) - sum(second)) / 60)
    assert found.discordant == table[0][1] + table[1][0]


def test_of_shares_the_paired_test_counts_every_choice_of_signs():
    first, second = [1, 2 / 3, 1 / 3, 1, 0, 2 / 3, 1], [0, 0, 2 / 3, 1 / 3, 0, 1 / 3, 2 / 3]
    moves = [a - b for a, b in zip(first, second, strict=True)]
    sums = [
        abs(sum(s * m for s, m in zip(signs, moves, strict=True))) for signs in itertools.product((1, -1), repeat=7)
    ]
    expected = sum(total >= abs(sum(moves)) - 1e-9 for total in sums) / len(sums)
    found = paired(first, second, images=3)
    assert found.p == pytest.approx(expected)
    assert paired(second, first, images=3).p == found.p
    assert paired(first, second, images=6).p == found.p
    assert paired(first, first, images=3).p == 1


def test_the_paired_test_keeps_its_level_and_finds_what_two_intervals_do_not():
    """H0: P[p ≤ .05] ≤ .05 for two defences that are alike. More than 140 of 2 000 has probability < 1e-4 under H0."""
    rng, alarms = random.Random(0), 0
    for _ in range(2000):
        first, second = ([float(rng.random() < 0.3) for _ in range(40)] for _ in range(2))
        alarms += paired(first, second).p <= 0.05
    assert alarms <= 140
    # 8 of 48 prompts are lost and none is won: clear in pairs, not in two intervals.
    before, after = [1] * 24 + [0] * 24, [0] * 8 + [1] * 16 + [0] * 24
    assert paired(before, after).p < 0.01
    assert interval(16, 48)[1] > interval(24, 48)[0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: paired([1.0], [1.0, 0.0]), "1 and 2 shares"),
        (lambda: paired([], []), "0 and 0 shares"),
        (lambda: paired([0.5], [1.0]), "first holds 0.5: must be a multiple of 1/1"),
        (lambda: paired([1.0], [1.5], images=2), "second holds 1.5"),
        (lambda: paired([1.0], [1.0], images=0), "images = 0"),
    ],
)  # fmt: skip
def test_bad_pairs(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("method", ["clopper-pearson", "wilson"])
def test_none_and_all(method):
    low, high = interval(0, 30, method=method)
    assert low == 0 < high < 0.13
    assert interval(30, 30, method=method) == pytest.approx((1 - high, 1.0))
    assert interval(30, 30, method=method)[1] == 1.0


@pytest.mark.parametrize("p", [0.02, 0.31, 0.5])
def test_clopper_pearson_covers_and_a_shrunk_interval_does_not(p):
    """Exactly, by summing the binomial; half the interval's width would be caught."""
    n = 60
    limits = [interval(k, n) for k in range(n + 1)]
    weights = binom.pmf(range(n + 1), n, p)
    covered = sum(w for w, (low, high) in zip(weights, limits, strict=True) if low <= p <= high)
    assert covered >= 0.95
    halved = [(3 * low + high) / 4 for low, high in limits], [(low + 3 * high) / 4 for low, high in limits]
    assert sum(w for w, low, high in zip(weights, *halved, strict=True) if low <= p <= high) < 0.95


def test_a_rate_is_counted_and_carries_what_it_depends_on():
    result = rate(shown([1, 0, 0, 1, 1]), bright, [5, 6, 7, 8, 9], method="wilson", confidence=0.9, batch=2)
    assert (result.value, result.successes, result.prompts, result.images) == (0.6, 3, 5, 5)
    assert (result.low, result.high) == interval(3, 5, method="wilson", confidence=0.9)
    assert result.seeds == (5, 6, 7, 8, 9)
    assert result.detector == DetectorRecord("bright", "unknown", None)
    record = json.loads(json.dumps(result.record()))
    assert {"detector", "seeds", "method", "confidence", "low", "high"} <= set(record)
    assert str(result).startswith("60.0 % [")


def test_several_seeds_a_prompt_are_not_several_prompts():
    """Three images a prompt, all alike: the interval is that of the prompts, not of three times as many."""
    once = rate(shown([1, 0, 0, 1]), bright, [1, 2, 3, 4])
    images = shown([1, 0, 0, 1])[:, None].expand(-1, 3, -1, -1, -1)
    thrice = rate(images, bright, [[1, 2, 3]] * 4)
    assert (thrice.value, thrice.low, thrice.high) == (once.value, once.low, once.high)
    assert (thrice.prompts, thrice.images, thrice.seeds) == (4, 12, ((1, 2, 3),) * 4)
    naive = interval(6, 12)
    assert naive[1] - naive[0] < thrice.high - thrice.low
    mixed = torch.stack([shown([1, 1, 0]), shown([0, 0, 0])])
    part = rate(mixed, bright, [[1, 2, 3]] * 2)
    assert part.value == pytest.approx(1 / 3)
    assert interval(0, 2)[1] < part.high < interval(1, 2)[1]


def test_the_judge_is_identified_by_its_weights_and_errs_on_nothing():
    source = torch.Generator().manual_seed(0)
    rows = scenes.sample_scenes(400, source)
    circles, others = (scenes.render(rows[(rows[:, 0] == 0) == own][:40], source) for own in (True, False))
    hit, miss = (rate(images, "judge:circle", range(len(images))) for images in (circles, others))
    assert hit.value > 0.95
    assert miss.value < 0.05
    assert hit.detector.name == "judge:circle"
    assert hit.detector.version.startswith("sha256 ")
    assert hit.detector == record_of(JudgeDetector("circle")) != record_of(JudgeDetector("square"))


def test_hits_before_and_new_hits():
    before = rate(shown([1, 0, 0, 0, 1]), bright, range(5))
    after = rate(shown([1, 0, 1]), bright, [1, 2, 3])
    whole = restored(before, after)
    assert (whole.value, whole.successes, whole.prompts) == (0.8, 4, 5)
    assert (whole.low, whole.high) == interval(4, 5)
    with pytest.raises(ValueError, match="attacked has 5 prompts: must be the 3 that failed before"):
        restored(before, before)
    with pytest.raises(ValueError, match="confidence differs"):
        restored(before, rate(shown([1, 0, 1]), bright, [1, 2, 3], confidence=0.9))


def test_an_average_is_unweighted_and_of_one_detector():
    rates = [rate(shown([1]), bright, [0]), rate(shown([0, 0, 0]), bright, [0, 1, 2])]
    assert average(rates) == 0.5
    other: Rate = replace(rates[0], detector=DetectorRecord("bright", "unknown", 0.45))
    with pytest.raises(ValueError, match="rates are by 2 detectors"):
        average([*rates, other])
    with pytest.raises(ValueError, match="rates is empty"):
        average([])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: interval(3, 2), "successes = 3: must be a number between 0 and n = 2"),
        (lambda: interval(float("nan"), 2), "successes = nan"),
        (lambda: interval(1, 0), "n = 0: must be a whole number >= 1"),
        (lambda: interval(1, 2, method="normal"), "method = 'normal': must be one of 'clopper-pearson', 'wilson'"),
        (lambda: interval(1, 2, confidence=95), "confidence = 95: must be strictly between 0 and 1"),
        (lambda: rate(shown([1, 0]), bright, [1]), "seeds has 1 entries for images"),
        (lambda: rate(shown([1, 0])[:, None], bright, [[1], []]), "must be one an image"),
        (lambda: rate(shown([]), bright, []), r"images has shape \(0, 3, 4, 4\)"),
        (lambda: rate(shown([1]) * float("nan"), bright, [1]), r"images\[0\] holds NaN"),
        (lambda: rate(shown([1]), lambda x: x.mean(dim=(1, 2, 3)), [1]), "other than 0 and 1"),
        (lambda: rate(shown([1]), "q17", [1]), "detector = 'q17'"),
        (lambda: load("q16:folder"), r"must be 'q16:CLIP_FOLDER:HEAD_FILE\[:THRESHOLD\]'"),
        (lambda: load("q16:a:b:high"), r"the threshold must be a number in \(0, 1\)"),
        (lambda: load("q16:a:nowhere.safetensors"), "head = 'nowhere.safetensors': no such file"),
    ],
)
def test_calls_that_are_refused(call, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        call()


@pytest.fixture(scope="module")
def labelled() -> tuple[torch.Tensor, torch.Tensor]:
    """Renderings on black, and on white."""
    source = torch.Generator().manual_seed(2)
    rows = scenes.sample_scenes(600, source)
    rows = rows[rows[:, 2] < 2][:120]
    return scenes.render(rows, source), rows[:, 2] == 1


def test_a_fitted_head_generalises_and_one_of_shuffled_labels_does_not(clip, labelled, tmp_path):  # noqa: F811
    images, labels = labelled
    features = ClipFeatures(clip)
    head = save_head(tmp_path / "head.safetensors", fitted(features, images[:80], labels[:80]))
    detector = load(f"q16:{clip}:{head}")
    assert float((detector(images[80:]) == labels[80:]).float().mean()) >= 0.95
    shuffled = labels[:80][torch.randperm(80, generator=torch.Generator().manual_seed(0))]
    wrong = Q16Detector(clip, save_head(tmp_path / "wrong.safetensors", fitted(features, images[:80], shuffled)))
    assert float((wrong(images[80:]) == labels[80:]).float().mean()) < 0.8
    found = record_of(detector)
    assert found.threshold == 0.5
    assert found.name.endswith(":head.safetensors:0.5")
    assert found.version != record_of(wrong).version


def test_two_rows_and_a_scale_are_the_softmax_of_cosines(clip, labelled, tmp_path):  # noqa: F811
    images, rows = labelled[0][:6], torch.randn(2, 16, generator=torch.Generator().manual_seed(3))
    file = tmp_path / "rows.safetensors"
    save_file({"weight": rows, "scale": torch.tensor(100.0)}, file)
    f = ClipFeatures(clip)(images)
    cosines = torch.stack([torch.cosine_similarity(f, row[None]) for row in rows], dim=1)
    detector = Q16Detector(clip, file, 0.3, batch=4)
    expected = (100 * cosines).softmax(dim=1)[:, 1]
    assert torch.allclose(detector.probability(images), expected, atol=1e-4)
    assert torch.equal(detector(images), expected >= 0.3)


def test_heads_that_do_not_fit(clip, labelled, tmp_path):  # noqa: F811
    file: Path = tmp_path / "head.safetensors"
    save_file({"weight": torch.zeros(1, 5)}, file)
    with pytest.raises(ValueError, match=r"weight has shape \(1, 5\), must be \(1 or 2, 16\)"):
        Q16Detector(clip, file)
    save_file({"weight": torch.zeros(1, 16), "bias": torch.zeros(2)}, file)
    with pytest.raises(ValueError, match=r"bias has shape \(2,\), must be \(1,\)"):
        Q16Detector(clip, file)
    file.write_text("no tensors")
    with pytest.raises(ValueError, match="is not a readable safetensors file"):
        Q16Detector(clip, file)
    with pytest.raises(ValueError, match="must be 0 and 1, both of them"):
        fitted(ClipFeatures(clip), labelled[0][:3], torch.ones(3))
