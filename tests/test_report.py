"""Pages: every figure is the certificate's, everything from a file is text, and nothing is loaded."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
import torch
from PIL import Image

from certify import (
    Certificate,
    GaussianNoise,
    bound_curve,
    certified_radius,
    deployed_bound,
    event_bound,
    mse_bound,
    percentile_bounds,
    statistic_bound,
)
from certify._files import digests
from certify.datasets import RunRecord
from certify.report import ExampleImages, certificate_page, run_page

HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>&amp;\u202egnorw\x00'
Y = torch.tensor([[0.2, -0.4], [1.0, 0.3]])
NOISE = GaussianNoise(torch.tensor([[0.5], [0.2]]))
OPTIONS = {"n": 500, "alpha": 0.01, "seed": 0}
RHOS = [0.3, 1.0, 9.0]


def f(z):
    return torch.sin(2 * z)


class Page(HTMLParser):
    """What a page is made of: tags with attributes, exact values, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.values: list[tuple[float, str]] = []
        self.words: list[str] = []
        self.open: str | None = None
        self.style = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.style = tag == "style"
        if tag == "data":
            self.open = dict(attrs)["value"]

    def handle_endtag(self, tag):
        self.style = False

    def handle_data(self, data):
        if self.open is not None:
            self.values.append((float(self.open), data))
            self.open = None
        if not self.style:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


def read(shown: str) -> float:
    """A number as it is shown."""
    plain = shown.replace("\u00a0%", "").replace(",", "").replace("−", "-").replace("∞", "inf")
    plain = re.sub(
        "·10([⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)", lambda m: "e" + m[1].translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")), plain
    )
    return float(plain) / (100 if shown.endswith("%") else 1)


def self_contained(text: str) -> Page:
    """Asserts that a page has no script and loads nothing; returns it."""
    page = Page(text)
    loading = {"script", "link", "iframe", "object", "embed", "base", "form", "a", "video", "audio", "source", "use"}
    assert not loading & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        for name in ("src", "href", "srcset", "xlink:href", "action", "data"):
            assert (attributes.get(name) or "data:image/png;base64,").startswith("data:image/png;base64,")
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert "http:" not in style + text[: text.index("<style>")]
    assert "default-src 'none'" in text
    return page


@pytest.fixture(scope="module")
def certificate():
    results = (
        mse_bound(f, Y, NOISE, rho=1.0, **OPTIONS),
        certified_radius(f, Y, NOISE, tolerance=1.0, **OPTIONS),
        bound_curve(f, Y, NOISE, rhos=RHOS, **OPTIONS),
        percentile_bounds(f, Y, NOISE, rho=0.5, p=0.7, **OPTIONS),
        certified_radius(f, Y, NOISE, tolerance=1e-9, **OPTIONS),
    )
    return Certificate.of(*results, provenance={"note": "a test"})


@pytest.fixture(scope="module")
def several():
    """A certificate about several functions, as one of a prompt is, and what such a one has on record."""
    results = (
        mse_bound(f, Y, NOISE, rho=0.5, function="text encoding", **OPTIONS),
        bound_curve(f, Y, NOISE, rhos=[0.1, 0.5, 9.0], function="text encoding", **OPTIONS),
        deployed_bound(f, Y, NOISE, rho=0.1, q=0.8, replicas=3, function="text encoding", **OPTIONS),
        statistic_bound(
            lambda z: z.flatten(1).sum(1), Y, NOISE, rho=0.1, q=0.8, replicas=2, function="score", **OPTIONS
        ),
        event_bound(
            lambda z: (z.flatten(1).sum(1) > 3).float(),
            Y,
            NOISE,
            rho=0.3,
            replicas=2,
            function="image shows x",
            **OPTIONS,
        ),
    )
    return Certificate.of(
        *results,
        provenance={
            "prompt": HOSTILE,
            "smoother": {
                "concepts": [{"name": HOSTILE, "pairs": 3, "sha256": "ab"}],
                "sigma0": 0.1,
                "policy": "frozen",
            },
            "token_noise": {
                "tokens": ["<|startoftext|>", HOSTILE, "cir", "cle</w>", "<|endoftext|>"],
                "kinds": ["begin", "word", "word", "word", "padding"],
                "relevance": [None, -0.25, 0.5, 0.75, None],
                "sigma": [0.0, 0.1, 0.2, 0.4, 0.0],
            },
            "token_spread": 0.05,
            "yardstick": {"distance": 40.0, "word": HOSTILE, "position": 1},
            "coverage": [
                {
                    "position": 3,
                    "rho": 0.5,
                    "covered": 7,
                    "comparable": 9,
                    "fully_covered": False,
                    "nearest": None,
                    "uncovered": [{"token": HOSTILE, "distance": 0.625}],
                }
            ],
            "covered_prompts": [
                {"prompt": HOSTILE, "covered": False, "distance": 0.875, "changed": [1], "reason": HOSTILE},
            ],
            "undefended": {"rate": 0.9375, "lower": 0.5, "upper": 1.0, "successes": 15, "n": 16, "alpha": 0.001},
            "without_word": {"rate": 0.25, "lower": 0.1, "upper": 0.5, "successes": 4, "n": 16, "alpha": 0.001},
            "source": {"model": HOSTILE, "unet": None, "concepts": [HOSTILE]},
        },
    )


def test_every_claim_is_on_the_page_with_its_exact_numbers(certificate, several):
    for cert in (certificate, several):
        page = self_contained(certificate_page(cert))
        exact = {value for value, _ in page.values}
        for claim in cert.claims:
            assert claim.rho in exact
            assert claim.alpha in exact
            if claim.status == "certified" and claim.value is not None:
                assert claim.value in exact, claim
            if claim.status == "abstained":
                assert " ".join(claim.reason.split()) in page.text
        assert cert.alpha in exact


def test_every_number_comes_from_the_certificate(certificate):
    """Nothing is on the page that the certificate does not hold: no figure of the page's own."""
    known = {1 - certificate.alpha, certificate.alpha, 1 - certificate.curve.alpha}
    for claim in certificate.claims:
        known |= {claim.rho, claim.alpha, claim.value, claim.tolerance, claim.p}
    page = self_contained(certificate_page(certificate))
    assert {value for value, _ in page.values} <= known


def test_what_is_shown_is_the_exact_value_rounded_in_the_safe_direction(several, certificate):
    bounds = {
        c.value for c in (*several.claims, *certificate.claims) if c.status == "certified" and c.quantity != "radius"
    }
    radii = {c.value for c in certificate.claims if c.quantity == "radius"}
    seen = 0
    for cert in (several, certificate):
        for exact, shown in Page(certificate_page(cert)).values:
            number = read(shown)
            if math.isinf(exact) or exact == 0:
                assert number == exact
                continue
            assert number == pytest.approx(
                exact, rel=6e-3 if abs(exact) < 1 else 2e-3, abs=6e-3 if abs(exact) < 1 else 0
            )
            if exact in bounds:
                assert number >= exact - 1e-15
                seen += 1
            if exact in radii and shown != "1":
                assert number <= exact * (1 + 1e-6)
    assert seen >= 8


@pytest.mark.parametrize(
    ("value", "way", "shown"),
    [
        (117.71050705, "up", "117.8"),
        (117.71050705, "down", "117.7"),
        (-2.02416, "up", "−2.024"),
        (-2.02416, "down", "−2.025"),
        (0.0999999, "up", "0.1"),
        (12345678.0, "up", "1.235·10⁷"),
        (0.0000138, "near", "1.38·10⁻⁵"),
        (1188.627, "up", "1,189"),
        (20.0, "down", "20"),
        (math.inf, "up", "∞"),
        (5e-324, "up", "5·10⁻³²⁴"),
    ],
)
def test_rounding(value, way, shown):
    from certify._text import shown as _shown

    assert _shown(value, way, 4) == shown


def test_hostile_words_are_text(several):
    text = certificate_page(
        several, folder=HOSTILE + "\ud800", digests={HOSTILE: HOSTILE}, examples=ExampleImages(note=HOSTILE)
    )
    page = self_contained(text)
    assert "<script" not in text
    assert "img" not in {tag for tag, _ in page.tags}
    assert "<script>alert(1)</script><img src=x onerror=alert(2)>&amp;" in page.text
    assert (
        page.text.count("<script>") >= 12
    )  # title, prompt, token, word, concept, coverage, source, digests, folder, note
    text.encode()  # half a surrogate pair could not be written
    assert "\x00" not in text


def test_a_prompt_page_says_what_the_record_says(several):
    page = Page(certificate_page(several))
    exact = {value for value, _ in page.values}
    assert several.claims[0].value / 40.0 in exact
    assert {0.9375, 0.25, 0.625, 0.1 / 0.05, 0.4 / 0.05, -0.25, 0.75} <= exact
    event = next(c for c in several.claims if c.quantity == "event")
    for rho in (0.0, 0.1, 0.25, 0.5, 1.0, event.rho):
        assert several.event(event).at(rho) in exact
    assert several.event(event).radius(0.5) in exact
    for piece in (
        "7 of 9 tokens are covered",
        "Of 1 attack prompts given 0 are covered",
        "with confidence 95 %",
        "15 of 16 images",
    ):
        assert piece in page.text, piece
    assert "1 padding positions carry no noise" in page.text
    assert [tag for tag, _ in page.tags].count("svg") == 2


def test_a_vacuous_bound_and_an_abstention_are_called_so(several, certificate):
    weak = dict(several.provenance) | {"yardstick": {"distance": 1e-3, "word": "x", "position": 1}}
    text = Page(certificate_page(Certificate(several.claims, weak, several.tensors))).text
    assert "vacuous: " in text
    assert text.count("vacuous") >= 3
    silent = Certificate.of(certified_radius(f, Y, NOISE, tolerance=1e-9, **OPTIONS))
    text = Page(certificate_page(silent)).text
    assert "No claim (radius of the smoothed f): " in text
    assert "0 of 1" in text
    assert silent.claims[0].reason in text


def test_how_to_check_it_again_fits_the_certificate(several, certificate):
    private = Certificate(several.claims, dict(several.provenance) | {"prompt": None}, several.tensors)
    assert "certify check 'runs/a b'" in Page(certificate_page(several, folder="runs/a b")).text
    assert "certify check runs/a --prompt …" in Page(certificate_page(private, folder="runs/a")).text
    assert (
        "certify.Certificate.load('runs/a').check(f, y, seed=1)"
        in Page(certificate_page(certificate, folder="runs/a")).text
    )


def test_images_are_in_the_page(several):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(buffer, "PNG")
    png = buffer.getvalue()
    page = self_contained(certificate_page(several, examples=ExampleImages((png,) * 2, (png,) * 2)))
    kept = [attributes for tag, attributes in page.tags if tag == "img"]
    assert [a["alt"] for a in kept] == [f"{kind} image {i}" for i in (1, 2) for kind in ("Undefended", "Defended")]
    assert {base64.b64decode(a["src"].partition(",")[2]) for a in kept} == {png}
    assert "no image here is certified" in page.text
    assert (
        len([t for t, _ in Page(certificate_page(several, examples=ExampleImages(sheet=png))).tags if t == "img"]) == 1
    )
    with pytest.raises(ValueError, match="must be as many"):
        ExampleImages((png,), ())


@pytest.mark.parametrize(
    "damage",
    [
        {"yardstick": {"distance": "far"}},
        {"yardstick": "x"},
        {"token_noise": {"sigma": [1.0], "kinds": [], "relevance": []}},
        {"token_noise": []},
        {"coverage": [{"position": 99}]},
        {"covered_prompts": [3]},
        {"undefended": {"rate": math.nan}},
        {"smoother": {"concepts": 5}},
        {"model": 3},
    ],
)
def test_a_damaged_record_is_an_error_that_says_so(several, damage):
    broken = Certificate(several.claims, dict(several.provenance) | damage, several.tensors)
    with pytest.raises(ValueError, match=r"certificate in 'x': what it has on record cannot be shown"):
        certificate_page(broken, folder="x")


# Runs


def write_run(folder, rows, **changes):
    """A run's folder, as `certify prompts` writes it."""
    settings = {
        "format": "certify prompts 1",
        "version": "0.1.0",
        "data": {"name": HOSTILE, "rows": 4, "sha256": "cd"},
        "model": "ef",
        "dtype": "float32",
        "device": "cpu",
        "smoother": {"concepts": [{"name": "circle", "pairs": 60, "sha256": "ab"}], "policy": "frozen", "k": 6.0},
        "rho": 1.0,
        "tolerance": None,
        "n": 500,
        "alpha": 0.01,
        "seed": 3,
        "statistics": 0,
        "images": 0,
        "detector": None,
        "steps": 8,
        "guidance": 2.0,
        "private": False,
        "save_certificates": False,
    } | changes
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
    folder.mkdir(exist_ok=True)
    (folder / "settings.json").write_text(json.dumps({"digest": digest, "settings": settings}))
    lines = [json.dumps({"row": i, "run": digest[:16], **row}) for i, row in enumerate(rows, start=1)]
    (folder / "results.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return folder


def certified(prompt, radius, bound):
    return {
        "line": 2,
        "prompt": prompt,
        "columns": {},
        "status": "certified",
        "radius": radius,
        "tolerance": 40.5,
        "rho": 1.0,
        "bound": bound,
        "yardstick": {"distance": 40.5},
        "alpha": 0.01,
        "n": 500,
        "seed": 1,
        "reason": "",
        "others": [
            {
                "function": "text encoding",
                "quantity": "deployed",
                "rho": 0.25,
                "q": 0.9,
                "value": 5.0625,
                "alpha": 0.0025,
                "n": 500,
                "theorem": "T6",
                "method": "dimension-free",
                "status": "certified",
            }
        ],
        "seconds": 1.5,
    }


ROWS = (
    certified(HOSTILE, 0.8125, 50.25),
    certified("a red circle", 1.5625, 20.125),
    {
        "line": 4,
        "prompt": "",
        "columns": {},
        "status": "refused",
        "radius": 0.0,
        "reason": HOSTILE,
        "seed": 1,
        "seconds": 0.1,
    },
)


def test_a_run_page_agrees_with_the_run(tmp_path):
    from certify.datasets import RowOptions, summary

    folder = write_run(tmp_path / "run", ROWS)
    run = RunRecord.load(folder)
    page = self_contained(run_page(run, folder="runs/x", digests=digests(folder, ("results.jsonl", "none"))))
    exact = {value for value, _ in page.values}
    total = summary(ROWS, RowOptions(n=500, alpha=0.01, seed=3))
    for at, fraction in total["certified_fraction"]:
        if fraction > 0:
            assert {at, fraction} <= exact
    assert {
        0.8125,
        1.5625,
        50.25,
        20.125,
        40.5,
        5.0625,
        total["average_certified_radius"],
        total["median_radius"],
    } <= exact
    for piece in (
        "For 1 of 3 prompts",
        "3 of 4 prompts are done",
        "2 of 3",
        "refused",
        "vacuous",
        "T6, dimension-free",
    ):
        assert piece in page.text, piece
    assert page.text.count("<script>") >= 4
    assert hashlib.sha256((folder / "results.jsonl").read_bytes()).hexdigest() in page.text


def test_an_infinite_radius_and_none_at_all(tmp_path):
    endless = write_run(tmp_path / "a", [certified("x", "Infinity", 0.0)])
    assert "∞" in Page(run_page(RunRecord.load(endless))).text
    nothing = write_run(tmp_path / "b", [ROWS[2]])
    assert "For 0 of 1 prompts" in Page(run_page(RunRecord.load(nothing))).text


def test_a_page_opens_with_the_certified_rate_as_the_readme_does(several):
    """And with the bound of the smoothed output where no rate is certified; it is on the page in any case."""
    text = certificate_page(several)
    claim = Page(re.search(r'<p class="claim">.*?</p>', text, re.S)[0])
    assert claim.text.startswith("For every perturbation δ with ‖δ‖_Σ ≤ 0.3, the probability that the image shows x")
    assert "Without the defence, measured and not certified: 93.75\u00a0%" in claim.text.replace(" %", "\u00a0%")
    assert "median-smoothed text encoding stays within squared distance" in Page(text).text
    rest = tuple(c for c in several.claims if c.quantity != "event")
    claim = Page(
        re.search(
            r'<p class="claim">.*?</p>', certificate_page(Certificate(rest, several.provenance, several.tensors)), re.S
        )[0]
    )
    assert "stays within squared distance" in claim.text


def test_certified_rates_are_shown_with_their_mean(tmp_path):
    """A claim about an event has no q, and one that abstained no value: neither is in a row."""
    event = {"function": "image shows x", "quantity": "event", "rho": 0.125, "alpha": 0.0025, "n": 60}
    made = event | {"value": 0.625, "theorem": "T5", "method": "replicas", "status": "certified"}
    none = event | {"theorem": "T5", "method": "replicas", "status": "abstained"}
    rows = [certified("one", 1.5, 2.0) | {"others": [made]}, certified("two", 1.5, 2.0) | {"others": [none]}]
    page = self_contained(run_page(RunRecord.load(write_run(tmp_path / "run", rows))))
    assert {0.625, 0.125, (0.625 + 1) / 2} <= {value for value, _ in page.values}
    assert "1 of 2" in page.text
    picture = io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "PNG")
    examples = {2: ExampleImages((picture.getvalue(),), (picture.getvalue(),))}
    page = self_contained(run_page(RunRecord.load(tmp_path / "run"), examples=examples))
    assert [tag for tag, _ in page.tags].count("article") == 2
    assert [tag for tag, _ in page.tags].count("img") == 2
    assert "image shows x: at most 62.5\u00a0% at ρ = 0.125, with confidence 99.75\u00a0%" in page.text.replace(
        " %", "\u00a0%"
    )


def test_kept_certificates_are_named(tmp_path):
    folder = write_run(tmp_path / "run", ROWS)
    (folder / "certificates" / "0002").mkdir(parents=True)
    (folder / "certificates" / "0002" / "certificate.json").write_text("{}")
    (folder / "certificates" / "0009").mkdir()
    run = RunRecord.load(folder)
    assert run.certificates == {2: "certificates/0002"}
    assert "certify check runs/x/certificates/0002" in Page(run_page(run, folder="runs/x")).text


def test_a_torn_last_line_is_passed_over(tmp_path):
    folder = write_run(tmp_path / "run", ROWS)
    with (folder / "results.jsonl").open("a") as file:
        file.write('{"row": 4, "ru')
    assert len(RunRecord.load(folder).rows) == 3


def damaged(folder, name, change):
    path = folder / name
    path.write_text(change(path.read_text()))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("settings.json", lambda t: t[:-20], "is damaged"),
        ("settings.json", lambda t: t.replace('"n": 500', '"n": 501'), "its digest differs"),
        ("settings.json", lambda t: "[]", "is damaged"),
        ("settings.json", lambda t: "[" * 100_000, "is damaged"),
        ("results.jsonl", lambda t: "", "holds no result"),
        ("results.jsonl", lambda t: t.replace('"row": 2', '"row": 7'), "line 2: is damaged"),
        ("results.jsonl", lambda t: t.replace('"radius": 0.8125', '"radius": NaN'), "line 1: is damaged"),
        ("results.jsonl", lambda t: t.replace('"radius": 0.8125', '"radius": 0'), "line 1: is damaged"),
        ("results.jsonl", lambda t: t.replace('"refused"', '"certified"'), "line 3: is damaged"),
        ("results.jsonl", lambda t: "7\n" + t, "line 1: is damaged"),
    ],
)
def test_damaged_runs_are_refused(tmp_path, name, change, message):
    folder = write_run(tmp_path / "run", ROWS)
    damaged(folder, name, change)
    with pytest.raises(ValueError, match=message):
        RunRecord.load(folder)


def test_rows_that_cannot_be_shown(tmp_path):
    for broken in ({"bound": "x"}, {"yardstick": 3}, {"others": [{}]}, {"seconds": None}):
        folder = write_run(tmp_path / "run", [certified("x", 1.0, 2.0) | broken])
        with pytest.raises(ValueError, match=r"cannot be shown|is damaged"):
            run_page(RunRecord.load(folder))


# In a browser

CHROMIUM = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium (chromium, chromium-browser, google-chrome)")
@pytest.mark.parametrize("width", [500, 1100])
def test_a_browser_draws_both_pages_and_nothing_overflows(several, tmp_path, width):
    run = RunRecord.load(write_run(tmp_path / "run", ROWS))
    picture = io.BytesIO()
    Image.new("RGB", (64, 64), "teal").save(picture, "PNG")
    examples = {2: ExampleImages(sheet=picture.getvalue())}
    for name, text in (("certificate", certificate_page(several)), ("run", run_page(run, examples=examples))):
        assert_drawn(tmp_path, name, text, width)


def assert_drawn(folder, name, text, width):
    """A browser draws a page so wide, and nothing of it overflows."""
    file = folder / f"{name}.html"
    # The page may not measure itself: it runs nothing. A copy without its policy, with a script of the test's own, does.
    probe = "<script>document.title=[innerWidth,document.documentElement.scrollWidth].join()</script>"
    bare = re.sub('<meta http-equiv="Content-Security-Policy"[^>]*>', "", text).replace("</main>", f"</main>{probe}")
    (folder / f"{name}-probe.html").write_text(bare, encoding="utf-8")
    file.write_text(text, encoding="utf-8")
    shot = folder / f"{name}.png"
    browser(folder, f"--window-size={width},1600", f"--screenshot={shot}", file.as_uri())
    with Image.open(shot) as image:
        assert image.width == width
        assert len(image.convert("RGB").getcolors(2**24)) > 50  # text and colours, not an empty page
    tree = browser(folder, f"--window-size={width},1600", "--dump-dom", (folder / f"{name}-probe.html").as_uri())
    inner, scroll = map(int, re.search(r"<title>(\d+),(\d+)</title>", tree).groups())
    assert scroll <= inner, (name, width)


def browser(folder, *arguments):
    """Runs Chromium without a window."""
    fixed = (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        f"--user-data-dir={folder / 'profile'}",
    )
    # A browser that hangs, not a slow machine, is what the limit is for.
    done = subprocess.run([CHROMIUM, *fixed, *arguments], capture_output=True, timeout=1800, check=True)
    return done.stdout.decode()


def test_claims_of_every_kind_have_words(several, certificate):
    """A two-sided event and a lower statistic, which no prompt's certificate has."""
    two = event_bound(lambda z: (z.flatten(1).sum(1) > 1).float(), Y, NOISE, rho=0.3, replicas=2, **OPTIONS)
    claim = dataclasses.replace(Certificate.of(two).claims[0], side="two-sided", lower=0.015625)
    text = certificate_page(Certificate((claim,), several.provenance, several.tensors))
    assert 0.015625 in {value for value, _ in Page(text).values}
    low = next(c for c in several.claims if c.quantity == "statistic")
    text = certificate_page(
        Certificate((dataclasses.replace(low, side="lower"),), certificate.provenance, several.tensors)
    )
    assert "at least" in Page(text).text
