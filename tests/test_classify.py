"""Classifiers: the published certificate, and what is built around it."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont
from scipy.stats import beta, norm
from statsmodels.stats.proportion import proportion_confint

import certify
from certify import Certificate, GaussianNoise, UniformNoise, certified_accuracy, classify, classify_many
from certify.bounds.classification import class_radius, other_limit
from certify.certificate import words
from certify.datasets import Results, classify_dataset
from certify.montecarlo import draw_all

FIELDS = ("label", "candidate", "rho", "successes", "n", "other", "decided", "status", "reason")


def half_space(z):
    """Class 1 where z₀ > 0: at x it has the probability Φ(x₀/σ), and the boundary is |x₀| away."""
    return torch.stack([-z[:, 0], z[:, 0]], dim=1)


def trained(classes: int = 5, inputs: int = 60):
    """A small network, trained in a moment on noisy clusters, and inputs of its classes."""
    source = torch.Generator().manual_seed(1)
    centers = 1.5 * torch.randn(classes, 16, generator=source)
    labels = torch.arange(inputs) % classes
    xs = centers[labels] + 0.8 * torch.randn(inputs, 16, generator=source)
    net = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, classes))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=source) * 0.3)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(60):
        noisy = xs + 0.5 * torch.randn(xs.shape, generator=source)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(noisy), labels).backward()
        optimizer.step()
    return net.eval().requires_grad_(False), xs, labels


@pytest.fixture(scope="module")
def digits():
    return trained()


def published(successes: int, n: int, alpha: float, sigma: float) -> float | None:
    """Certify of Cohen et al. (2019), as their code has it; None: abstain."""
    lower = float(beta.ppf(alpha, successes, n - successes + 1)) if successes else 0.0
    return None if lower < 0.5 else sigma * float(norm.ppf(lower))


def same(a, b) -> bool:
    return all(getattr(a, name) == getattr(b, name) for name in FIELDS)


def drawn_digits(count: int, seed: int):
    """Images (count, 1, 16, 16) of the ten digits in places and sizes of their own, and which they are."""
    chance, images, labels = random.Random(seed), [], []
    for i in range(count):
        image = Image.new("L", (16, 16))
        font = ImageFont.load_default(size=chance.choice((12, 13, 14, 15)))
        ImageDraw.Draw(image).text((chance.uniform(2, 7), chance.uniform(-2, 1)), str(i % 10), fill=255, font=font)
        images.append(torch.from_numpy(np.array(image))[None].float() / 255)
        labels.append(i % 10)
    return torch.stack(images), torch.tensor(labels)


def trained_on_digits(sigma: float):
    """A network that reads them under noise."""
    images, labels = drawn_digits(600, seed=1)
    source = torch.Generator().manual_seed(2)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=source))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(200):
        noisy = images + sigma * torch.randn(images.shape, generator=source)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(noisy), labels).backward()
        optimizer.step()
    return net.eval().requires_grad_(False)


# The certificate


def test_sixty_digits_have_the_class_abstention_and_radius_of_the_published_code():
    """`Smooth.certify` of Cohen et al. (2019) as published, from predictions to radius, on the very same noisy images."""
    n0, n, alpha, sigma = 60, 500, 1e-3, 0.4
    net = trained_on_digits(sigma)
    images, labels = drawn_digits(60, seed=3)

    def sample_noise(x, num, seed, stream):
        predictions = draw_all(lambda z: net(z).argmax(dim=1), x, GaussianNoise(sigma), n=num, seed=seed, stream=stream)
        return np.bincount(predictions.long().numpy(), minlength=10)

    outcomes = set()
    for d in classify_many(net, images, sigma, n0=n0, n=n, alpha=alpha, seed=5):
        counts_selection = sample_noise(d.run.y, n0, d.run.seed, "pilot")
        c_hat = counts_selection.argmax().item()
        counts_estimation = sample_noise(d.run.y, n, d.run.seed, "bounding")
        n_a = counts_estimation[c_hat].item()
        p_a_bar = proportion_confint(n_a, n, alpha=2 * alpha, method="beta")[0]
        prediction, radius = (-1, 0.0) if p_a_bar < 0.5 else (c_hat, sigma * norm.ppf(p_a_bar))
        assert (-1 if d.label is None else d.label) == prediction
        assert abs(d.radius - radius) <= 1e-9
        assert (d.candidate, d.successes) == (c_hat, n_a)
        outcomes.add(d.status)
    assert outcomes == {"certified", "abstained"}
    made = classify_many(net, images, sigma, n0=n0, n=n, alpha=alpha, seed=5)
    assert certified_accuracy(made, labels, [0.0])[0] > 0.5


def test_on_the_same_counts_it_is_the_published_certificate(digits):
    net, xs, _ = digits
    made = classify_many(net, xs, 3.5, n=600)
    assert len(made) >= 50
    assert {d.status for d in made} == {"certified", "abstained"}
    for d in made:
        radius = published(d.successes, d.n, d.alpha, 3.5)
        assert (d.label is None) == (radius is None)
        if radius is not None:
            assert d.label == d.candidate
            assert abs(d.radius - radius) <= 1e-9


def test_radius_of_every_count_is_the_published_one_and_never_larger():
    for n, alpha in ((100, 1e-3), (10_000, 1e-3), (100_000, 1e-6)):
        for others in {0, 1, 7, n // 10, n // 3, int(0.45 * n), n // 2, n}:
            radius = class_radius(other_limit(others, n, alpha, early=False), GaussianNoise(1.0))
            known = published(n - others, n, alpha, 1.0)
            assert (radius is None) == (known is None)
            if radius is not None:
                assert -1e-9 <= radius - known <= 1e-13


def test_half_space_with_a_known_probability():
    d = classify(half_space, torch.tensor([0.8, 3.0, -1.0]), 0.5, n=20_000)
    assert d.label == 1
    assert 0.75 < d.radius < 0.8
    assert d.least < norm.cdf(1.6)
    assert (d.n, d.n0, d.alpha, d.theorem, d.run.pilot) == (20_000, 100, 1e-3, "T1", 100)
    assert d.ellipsoid.rho == d.rho
    assert d.radius == d.ellipsoid.l2_ball == pytest.approx(0.5 * d.rho)


def test_anisotropic_noise_has_the_radius_of_its_ellipsoid():
    sigma = torch.tensor([0.5, 0.25, 2.0])
    d = classify(half_space, torch.tensor([0.8, 3.0, -1.0]), GaussianNoise(sigma), n=5000)
    assert d.radius == pytest.approx(0.25 * d.rho)
    assert d.ellipsoid.contains(torch.tensor([0.0, 0.0, 1.9 * d.rho]))
    assert published(d.successes, d.n, d.alpha, 1.0) == pytest.approx(d.rho, abs=1e-9)


def test_uniform_noise():
    x = torch.tensor([0.15, 1.0])  # P[class 1] = ½ + .15/(2h)
    d = classify(half_space, x, UniformNoise(0.5), n=20_000)
    assert d.theorem == "T13"
    assert 0.12 < d.rho < 0.15
    assert d.rho == pytest.approx(0.5 - d.other, abs=1e-9)


def test_labels_and_logits_say_the_same():
    x = torch.tensor([0.3, 0.0])
    labels = classify(lambda z: (z[:, 0] > 0).long(), x, 0.5, n=500)
    assert same(labels, classify(half_space, x, 0.5, n=500))
    assert same(labels, classify(lambda z: z[:, 0] > 0, x, 0.5, n=500))


def test_classes_that_no_number_of_draws_can_tell_apart_abstain():
    d = classify(half_space, torch.zeros(2), 1.0, n=1000)
    assert (d.label, d.rho, d.radius, d.status) == (None, 0.0, 0.0, "abstained")
    assert "does not show it to be more probable" in d.reason
    third = classify(lambda z: (3 * z[:, 0].sigmoid()).long(), torch.zeros(1), 100.0, n=300)
    assert (third.label is None and "no number of draws" in third.reason) or third.successes > 150


def test_the_draws_that_are_said_to_be_enough_are_enough():
    x = torch.tensor([0.05, 0.0])
    short = classify(half_space, x, 1.0, n=400)
    assert short.label is None
    needed = int(short.reason.split("n = ")[1].split(" ")[0].replace(",", ""))
    assert class_radius(
        other_limit(needed - round(needed * short.successes / 400), needed, 1e-3, early=False), short.run.noise
    )


def test_the_class_is_chosen_on_draws_of_its_own():
    seen = []

    def f(z):
        seen.append(z.clone())
        return half_space(z)

    classify(f, torch.tensor([2.0]), 1.0, n=64, n0=64, batch_size=64)
    whole = [z for z in seen if len(z) == 64]
    assert len(whole) == 2
    assert not torch.isclose(whole[0], whole[1]).any()


# Bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n0": 0}, "n0 = 0: must be a whole number >= 1"),
        ({"n": 0}, "n = 0: must be a whole number >= 1"),
        ({"alpha": 1.5}, "alpha = 1.5: must be strictly between 0 and 1"),
        ({"stop_at": -1.0}, "stop_at = -1.0: must be a finite number > 0"),
        ({"stop_at": 0.5, "checkpoint": "x"}, "checkpoint: must be None with stop_at"),
        ({"classes": 1}, "classes = 1: must be a whole number >= 2"),
        ({"seed": -1}, "seed = -1"),
        ({"x": torch.tensor([math.nan])}, "x|y holds NaN"),
        ({"noise": -1.0}, "every entry must be finite and >= 0"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_drawn(options, message):
    def never(z):
        raise AssertionError("drawn")

    given = {"x": torch.zeros(1), "noise": 1.0, **options}
    with pytest.raises((ValueError, TypeError), match=message):
        classify(never, given.pop("x"), given.pop("noise"), **given)


@pytest.mark.parametrize(
    ("f", "message"),
    [
        (lambda z: half_space(z) * math.nan, "f returned NaN or infinity"),
        (lambda z: z[:, 0], r"f returned the label .*: must be whole numbers >= 0, or logits of shape \(b, classes\)"),
        (lambda z: torch.full((len(z),), -1), "f returned the label -1.0: must be whole numbers from 0 to 1"),
        (lambda z: torch.full((len(z),), 2), "f returned the label 2.0: must be whole numbers from 0 to 1"),
        (lambda z: z[:, :1], r"f returned logits of shape \(b, 1\): must be \(b, classes\), 2 classes"),
        (lambda z: z, r"f returned logits of shape \(b, 3\): must be \(b, classes\), 2 classes"),
        (lambda z: half_space(z)[:, :, None], r"f returned shape \(b, 2, 1\): must be logits"),
        (lambda z: half_space(z)[1:], "the first axis must be the batch"),
        (lambda z: z.argmax(dim=1).tolist(), "must return a torch tensor"),
    ],
)
@pytest.mark.parametrize("stop_at", [None, 0.5])
def test_what_is_no_classifier_is_refused(f, message, stop_at):
    if message.endswith("(b, classes\\)"):
        with pytest.raises(ValueError, match=message):
            classify(f, torch.zeros(3), 1.0, n=100, stop_at=stop_at)
        return
    with pytest.raises((ValueError, TypeError), match=message):
        classify(f, torch.zeros(3), 1.0, n=100, classes=2, stop_at=stop_at)


def test_a_classifier_that_mixes_its_rows_is_refused():
    with pytest.raises(ValueError, match="no function of its input"):
        classify_many(lambda z: z - 4 * z.cumsum(dim=0), torch.randn(3, 4), 1.0, n=200)
    with pytest.raises(ValueError, match="training mode"):
        classify_many(torch.nn.Dropout(), torch.randn(3, 4), 1.0, n=200)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: classify_many(half_space, [], 1.0), "xs: must be"),
        (lambda: classify_many(half_space, [torch.zeros(2), torch.zeros(3)], 1.0), r"xs\[1\] has shape \(3,\)"),
        (lambda: classify_many(half_space, torch.zeros(2, 2), [1.0]), "noise has 1 entries: must be 2"),
        (lambda: classify_many(half_space, torch.zeros(2, 2), 1.0, seeds=[1]), "seeds has 1 entries: must be 2"),
        (lambda: certified_accuracy([], [], [0.5]), "labels has 0 entries"),
    ],
)
def test_several_inputs_are_checked_too(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()


# Several inputs


@pytest.mark.parametrize(
    "options", [{"n": 150}, {"n": 700, "stop_at": 0.4}, {"n": 200, "batch_size": 1000}, {"n": 70, "n0": 65}]
)
def test_packed_together_equals_one_by_one(digits, options):
    net, xs, _ = digits
    packed = classify_many(net, xs[:7], 1.0, seed=3, **options)
    assert len({d.run.seed for d in packed}) == 7
    for x, d in zip(xs, packed, strict=False):
        assert same(d, classify(net, x, 1.0, seed=d.run.seed, **options))


def test_a_random_classifier_has_the_same_randomness_alone_and_packed():
    def noisy(z, generator):
        return half_space(z) + torch.randn(z.shape[0], 2, generator=generator)

    for d in classify_many(noisy, [torch.tensor([0.4]), torch.tensor([-1.0])], [0.5, 0.7], n=150):
        assert same(d, classify(noisy, d.run.y, d.run.noise, seed=d.run.seed, n=150))


def test_packed_batches_are_full():
    sizes = []

    def f(z):
        sizes.append(len(z))
        return half_space(z)

    classify_many(f, torch.full((16, 1), 2.0), 1.0, n0=64, n=128, batch_size=512)
    assert sum(sizes) <= 16 * (64 + 128) + 128
    assert sorted(sizes)[-6:] == [512] * 6


def test_decided_early_is_sound_and_saves_draws(digits):
    net, xs, _ = digits
    made = classify_many(net, xs, 2.5, stop_at=0.5, n=4000)
    assert {"yes", "no"} <= {d.decided for d in made}
    for d in made:
        assert d.n <= 4000
        assert d.decided != "yes" or (d.rho >= 0.5 and d.status == "certified")
        assert d.n == 4000 or d.decided != "undecided"
    assert sum(d.n for d in made) < 0.5 * 4000 * len(made)


# On record


@pytest.mark.parametrize("stop_at", [None, 0.5])
def test_certificate_is_kept_checked_and_refuted(tmp_path, stop_at):
    x = torch.tensor([0.8, 1.0])
    d = classify(half_space, x, 0.5, n=2000, stop_at=stop_at, function="the sign of the first coordinate")
    made = Certificate.of(d)
    kept = Certificate.load(made.save(tmp_path / "a"))
    claim = kept.claims[0]
    assert claim == made.claims[0]
    assert (claim.quantity, claim.value, claim.rho) == ("class", d.rho, d.rho)
    assert not kept.check(half_space, x).refuted
    assert "the sign of the first coordinate gives more than half of all noisy copies class 1" in claim.sentence
    assert words.value(claim) == "class 1"
    assert "class 1" in str(d)
    assert "class 1" in kept._repr_html_()

    def altered(**changes):
        numbers = {**claim.numbers, **changes.pop("numbers", {})}
        return replace(kept, claims=(replace(claim, numbers=numbers, **changes),))

    assert kept.check(lambda z: -half_space(z), x).refuted  # another model
    for wrong in (
        altered(numbers={"label": 0}),
        altered(rho=claim.rho + 0.2, value=claim.rho + 0.2),
        altered(value=claim.rho + 0.2),
        altered(alpha=1e-12),
        altered(numbers={"other": 1e-3}),
        altered(numbers={"successes": claim.n + 1}),
    ):
        assert wrong.check(half_space, x).refuted, wrong.claims[0]


def test_an_abstention_is_on_record_as_one(tmp_path):
    d = classify(half_space, torch.zeros(2), 1.0, n=200)
    kept = Certificate.load(Certificate.of(d).save(tmp_path))
    assert kept.claims[0].value == 0
    assert kept.claims[0].sentence.startswith("No claim (class of classifier)")
    assert kept.check(half_space, torch.zeros(2)).verdicts[0].outcome == "nothing claimed"


# Data sets


def test_certified_accuracy_counts_what_is_right_and_far_enough(digits):
    net, xs, labels = digits
    made = classify_many(net, xs, 2.0, n=300)
    rhos = [0.0, 0.3, 0.9, 5.0]
    by_hand = [sum(d.label == int(y) and d.rho >= r for d, y in zip(made, labels, strict=True)) / 60 for r in rhos]
    assert list(certified_accuracy(made, labels, rhos)) == by_hand
    assert by_hand[0] > by_hand[2] > by_hand[3] == 0
    assert certified_accuracy(made, (labels + 1) % 5, [0.0])[0] < 0.1
    half = classify_many(net, xs[:20], 0.5, n=300)
    assert certified_accuracy(half, labels[:20], [0.2], by="radius") == certified_accuracy(half, labels[:20], [0.4])
    figure = certify.plots.plot_certified_accuracy((made, labels), (half, labels[:20]), by="radius")
    (axes,) = figure.axes
    assert axes.get_ylabel() == "certified accuracy"
    assert len(axes.lines) == 2
    assert axes.lines[0].get_ydata()[0] == by_hand[0]


def test_a_run_goes_on_where_it_was_killed(tmp_path, digits, monkeypatch):
    net, xs, labels = digits
    options = {"n": 100, "seed": 5, "together": 4}
    whole = classify_dataset(net, xs[:10], labels[:10], 1.0, folder=tmp_path / "a", **options)
    assert [row.row for row in whole.decisions] == list(range(1, 11))
    assert whole.labels == tuple(labels[:10].tolist())
    append, lines = Results.append, []

    def killed(self, record):
        if len(lines) == 6:
            raise KeyboardInterrupt
        lines.append(record)
        append(self, record)

    monkeypatch.setattr(Results, "append", killed)
    with pytest.raises(KeyboardInterrupt):
        classify_dataset(net, xs[:10], labels[:10], 1.0, folder=tmp_path / "b", **options)
    monkeypatch.undo()
    file = tmp_path / "b" / "results.jsonl"
    assert len(file.read_bytes().splitlines()) == 6
    with file.open("ab") as torn:
        torn.write(b'{"row": 7, "tr')
    resumed = classify_dataset(net, xs[:10], labels[:10], 1.0, folder=tmp_path / "b", **{**options, "together": 7})
    assert resumed.decisions == whole.decisions
    assert certified_accuracy(resumed.decisions, resumed.labels, [0.2]) == certified_accuracy(
        whole.decisions, whole.labels, [0.2]
    )
    row = whole.decisions[3]
    alone = classify(net, xs[3], 1.0, n=100, seed=row.seed)
    assert (row.label, row.rho, row.radius, row.successes) == (alone.label, alone.rho, alone.radius, alone.successes)


def test_the_folder_of_another_run_is_refused(tmp_path, digits):
    net, xs, labels = digits
    classify_dataset(net, xs[:3], labels[:3], 1.0, folder=tmp_path, n=50, limit=2)
    for inputs, noise, options in ((xs[:3], 1.0, {"n": 51}), (xs[1:4], 1.0, {"n": 50}), (xs[:3], 0.9, {"n": 50})):
        with pytest.raises(ValueError, match="holds the results of another run"):
            classify_dataset(net, inputs, labels[:3], noise, folder=tmp_path, **options)
    other = trained(inputs=61)[0]
    with pytest.raises(ValueError, match="model differs"):
        classify_dataset(other, xs[:3], labels[:3], 1.0, folder=tmp_path, n=50)
    assert len(classify_dataset(net, xs[:3], labels[:3], 1.0, folder=tmp_path, n=50).decisions) == 3
