"""The interactive page without a browser: what may be asked, what is shown early, runs side by side, files of strangers."""

from __future__ import annotations

import json
import math
import threading
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch

import certify
from certify import world
from certify.app import Asked, ClipModel, view
from certify.app.live import Live
from certify.app.opened import opened, page_of, saved
from certify.app.run import Run, Snapshot
from certify.bounds.base import default_pilot
from certify.confidence.anytime import anytime_limit

PROMPT = "a photo of a red circle"
ASKED = Asked(
    prompt=PROMPT,
    concept="circle",
    sigma0=0.1,
    k=6.0,
    replicas=3,
    rho=1.0,
    rho_deployed=0.25,
    n=400,
    images=12,
    alpha=1e-3,
    seed=0,
)
SAMPLER = {"steps": world.DEFAULTS["num_inference_steps"], "guidance": world.DEFAULTS["guidance_scale"]}


def never(_):
    raise AssertionError("nothing of the kind is there")


@pytest.fixture(scope="module")
def model():
    return ClipModel(
        certify.load_pipeline(),
        smoothing=dict(world.SMOOTHING),
        source={"model": None, "unet": None},
        sampler=SAMPLER,
        detector_of=lambda concept: f"judge:{concept}",
    )


@pytest.fixture(scope="module")
def ended(model):
    """A run, and every snapshot of it."""
    run = Run(model, ASKED).start()
    return run, list(run.watch(every=0.0))


def claims(certificate):
    """All that a certificate says on disk of its claims."""
    return json.loads(certificate.to_json())["claims"]


# What may be asked


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("prompt", "  ", "prompt = '  ': must not be empty"),
        ("sigma0", 0.0, r"σ₀ = 0\.0: must be"),
        ("sigma0", math.nan, "σ₀ = nan: must be"),
        ("k", -1.0, r"k = -1\.0: must be"),
        ("replicas", 0, "K = 0: must be a whole number >= 1"),
        ("replicas", 2.5, r"K = 2\.5: must be a whole number"),
        ("rho", math.inf, "ρ = inf: must be"),
        ("rho_deployed", "x", "ρ deployed = 'x': must be"),
        ("n", 10**9, "n = 1,000,000,000: must be at most 1,000,000 on this page"),
        ("images", -1, "images = -1: must be a whole number >= 0"),
        ("alpha", 1.0, r"α = 1\.0: must be"),
        ("seed", -1, "seed = -1: must be a whole number >= 0"),
        ("seed", None, "seed: must not be empty"),
    ],
)
def test_what_is_out_of_range_is_named_as_on_the_page(field, value, message):
    with pytest.raises((ValueError, TypeError), match=message):
        Asked.of({**vars(ASKED), field: value})


def test_whole_numbers_of_a_page_are_floats():
    assert Asked.of({**vars(ASKED), "n": 400.0, "seed": 0.0}) == ASKED


# What is shown before the end


def test_a_run_shows_one_thing_after_the_other_and_then_the_certificate(ended):
    _, seen = ended
    last = seen[-1]
    assert [s.ended for s in seen] == [False] * (len(seen) - 1) + [True]
    assert all(s.certificate is None and not s.files for s in seen[:-1])
    assert last.certificate is not None
    assert last.certificate.main.status == "certified"
    assert set(last.files) == {"certificate", "page", "curve", "rate"}
    assert [look.n for look in last.looks] == [250]
    assert last.count is not None
    assert last.count.n == 12
    assert [len(row) for row in last.pairs] == [2, 2]


def test_looking_changes_nothing_in_the_certificate(model, ended):
    """Byte for byte that of the command line's call, which shows nothing before the end."""
    adaptive = model.subject(ASKED).adaptive
    own = {"rho": 1.0, "rho_deployed": 0.25, "n": 400, "alpha": 1e-3, "seed": 0, "statistics": 0, "images": 12}
    plain = adaptive.certify(PROMPT, **own, pipe=model.pipe, detector="judge:circle", **SAMPLER)
    shown = ended[1][-1].certificate
    assert claims(shown) == claims(plain)


def test_images_are_counted_as_the_certificate_counts_them(ended):
    """Every image once, although the first block is evaluated again to see whether it is a function."""
    last = ended[1][-1]
    (event,) = [c for c in last.certificate.claims if c.quantity == "event"]
    assert last.certificate.event(event).replicas == 3
    assert last.count.limit == anytime_limit(last.count.successes, 12, 5e-4)
    assert last.count.values[0] == pytest.approx(last.count.limit)
    assert all(np.diff(last.count.values) >= 0)


@pytest.mark.statistical
def test_live_rates_hold_at_all_times_at_once(trials):
    """H0: in at most α/2 of runs the limit is below the true rate at some look. A limit to be read once fails more often."""
    from certify.confidence import clopper_pearson

    p, alpha, looks = 0.3, 0.1, range(10, 400, 10)

    def wrong(limit):
        def run(seed: int) -> bool:
            hits = np.random.default_rng(seed).random(max(looks)) < p
            return any(limit(int(hits[:n].sum()), n) < p for n in looks)

        return run

    repeats = 400
    anytime = sum(wrong(lambda s, n: anytime_limit(s, n, alpha / 2))(i) for i in range(repeats))
    once = sum(wrong(lambda s, n: clopper_pearson(s, n, alpha / 2, side="upper"))(i) for i in range(repeats))
    from scipy.stats import binom

    assert binom.sf(anytime - 1, repeats, alpha / 2) > 1e-4
    assert binom.sf(once - 1, repeats, alpha / 2) < 1e-4


def test_a_block_that_is_evaluated_again_is_counted_once(model):
    counts = []
    live = Live(model.subject(ASKED), ASKED, "it rings", never, counts.append)

    def rings(z, generator, repeats=None):
        fired = torch.rand(len(z), repeats or 1, generator=generator) < 0.5
        return fired if repeats else fired[:, 0]

    watched = live.watch("it rings", rings)
    z = torch.zeros(8, 1)
    for seed, repeats in ((1, None), (1, None), (2, 5), (2, 5), (3, 2)):
        again = watched(z, torch.Generator().manual_seed(seed), repeats)
        assert torch.equal(again, rings(z, torch.Generator().manual_seed(seed), repeats))
    assert counts[-1].n == 24  # of several images of the same copies the first: they are not independent
    first = sum(
        int(rings(z, torch.Generator().manual_seed(s), r).reshape(8, -1)[:, 0].sum())
        for s, r in ((1, 1), (2, 5), (3, 2))
    )
    assert counts[-1].successes == first
    assert live.watch("another", rings) is rings


def test_looks_are_the_bounds_of_so_many_draws(model):
    """Taken on the way to the certificate, they are what the first draws alone give, with a share of α/2 each."""
    asked, looked = replace(ASKED, n=1600, images=0), []
    subject = model.subject(asked)
    live = Live(subject, asked, None, looked.append, never)
    subject.certify(None, lambda *_: None, live.watch, live.questions)
    assert [look.n for look in looked] == [250, 500, 1000]
    problem = subject.prompt.problem()
    for look in looked[:2]:
        how = {
            "n": look.n,
            "seed": 0,
            "alpha": asked.alpha / 2 / 4,
            "support": problem.support,
            "function": "text encoding",
        }
        alone = certify.bound_curve(
            problem.f, problem.y, problem.noise, rhos=look.rhos, pilot=default_pilot(1600), **how
        )
        assert look.values == tuple(map(float, alone.values))


# Runs side by side


def test_two_runs_at_once_are_as_each_alone(model, ended):
    other = replace(ASKED, prompt="a photo of a blue star", concept="star", seed=3, n=300, images=0)
    alone = Run(model, other).start().wait().certificate
    both = [Run(model, ASKED).start(), Run(model, other).start()]
    first, second = (run.wait().certificate for run in both)
    assert claims(first) == claims(ended[1][-1].certificate)
    assert claims(second) == claims(alone)


def test_a_stopped_run_claims_nothing_and_leaves_the_model_to_others(model):
    long = Run(model, replace(ASKED, n=500_000, images=0)).start()
    waiting = Run(model, replace(ASKED, n=100, images=0))
    assert any(now.total for now in long.watch(every=0.0) if now.total or now.ended)
    waiting.start()
    long.stop()
    last = long.wait()
    assert (last.ended, last.certificate, dict(last.files)) == (True, None, {})
    assert last.stage == "Stopped: nothing is claimed."
    assert waiting.wait().certificate is not None
    assert threading.active_count() < 50


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (replace(ASKED, prompt="word " * 40), "tokens"),
        (replace(ASKED, concept="no such concept"), "no such concept"),
    ],
)
def test_what_the_model_refuses_is_one_sentence(model, asked, message):
    last = Run(model, asked).start().wait()
    assert message in last.error
    assert "Traceback" not in last.error
    assert last.ended
    assert '<p class="error"' in view.status(last)


def test_a_fault_is_no_traceback_on_the_page(model, monkeypatch, caplog):
    monkeypatch.setattr(ClipModel, "subject", lambda *_: 1 / 0)
    last = Run(model, ASKED).start().wait()
    assert last.error == "a fault of this program, which the terminal describes: ZeroDivisionError"
    assert "ZeroDivisionError" in caplog.text


# What is shown


def test_what_is_typed_is_escaped(model):
    prompt = replace(ASKED, prompt='a <b>red</b> "circle" ${alert(1)}')
    shown = view.status(Snapshot(error=prompt.prompt, ended=True))
    assert "<b>" not in shown
    assert "&lt;b&gt;" in shown


def test_a_comparison_shows_both(model, ended):
    last = ended[1][-1]
    shown = view.comparison(["A", "B <i>"], [last, last])
    assert shown.count('class="claim"') == 2
    assert "<i>" not in shown
    assert 'class="beside"' in shown


# Files


def test_downloads_are_what_they_say(ended, tmp_path):
    _, seen = ended
    files = seen[-1].files
    with zipfile.ZipFile(files["certificate"]) as archive:
        archive.extractall(tmp_path / "kept")
    kept = certify.Certificate.load(tmp_path / "kept")
    assert claims(kept) == claims(seen[-1].certificate)
    shown = files["page"].read_text(encoding="utf-8")
    assert shown.startswith("<!doctype html>")
    assert f'value="{kept.main.value!r}"' in shown
    for name in ("curve", "rate"):
        assert files[name].read_bytes().startswith(b"\x89PNG")


def test_a_certificate_is_opened_again(ended, tmp_path):
    files = ended[1][-1].files
    page, title = opened([files["certificate"]])
    assert title == "Certificate"
    assert "circle" in page
    with zipfile.ZipFile(files["certificate"]) as archive:
        archive.extractall(tmp_path / "a" / "b")
    assert saved(tmp_path) == ["a/b"]
    assert "Robustness certificate" in page_of(tmp_path / "a" / "b", "runs/a/b")[0]
    inside = view.framed(page, title)
    assert inside.count('"') == 8  # of the block and of the frame: none of the page ends its attribute
    assert 'sandbox=""' in inside


@pytest.mark.parametrize("kind", ["none", "damaged", "no archive", "climbing"])
def test_files_of_strangers(kind, tmp_path):
    path = tmp_path / ("a.zip" if kind in ("no archive", "climbing") else "certificate.json")
    path.write_text("{" if kind == "damaged" else "x")
    given = [] if kind == "none" else [path]
    if kind == "climbing":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("../../escaped/settings.json", "{}")
            archive.writestr("../outside.txt", "x")
    with pytest.raises((ValueError, OSError), match=r"\S"):
        opened(given)
    assert not list(tmp_path.parent.glob("outside.txt"))
