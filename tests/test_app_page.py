"""The interactive page in Chromium: typing, clicking, waiting, and that nothing leaves 127.0.0.1. One browser for all of it.

Skipped where gradio, playwright (the extra `browser`) or Chromium is missing. `CERTIFY_SCREENSHOTS=FOLDER` keeps what is seen.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MISSING = [name for name in ("gradio", "playwright") if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING) or CHROMIUM is None, reason=f"needs {', '.join(MISSING) or 'Chromium'}"),
]
PATIENCE = 240_000  # milliseconds: two cores may serve others
FEW = ("--n", "400", "--images", "8", "--replicas", "3")


@contextmanager
def serving(place, *options):
    """The command itself, with fewer draws; where it listens."""
    command = [sys.executable, "-m", "certify", "app", "--no-browser", "--port", "0", *FEW, *options]
    process = subprocess.Popen(command, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    watchdog = threading.Timer(PATIENCE / 1000, process.kill)
    watchdog.start()
    said = ""
    while "Ctrl-C" not in said and (line := process.stdout.readline()):
        said += line
    watchdog.cancel()
    found = re.search(r"http://127\.0\.0\.1:\d+/", said)
    assert found, said
    try:
        yield found[0]
    finally:
        process.send_signal(signal.SIGINT)
        code = process.wait()  # however slow the machine is
        with process.stdout as rest:
            said = rest.read()
    assert code == 130
    assert "Traceback" not in said


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Where it listens, and the folder that it runs in."""
    place = tmp_path_factory.mktemp("app")
    with serving(place) as address:
        yield address, place


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


class Visitor:
    """A window of the browser on the page, and every address that it asked for."""

    def __init__(self, browser, address, width=1280, scheme="light"):
        self.address, self.asked, self.wrong = address, [], []
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE)
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.goto(address)
        self.page.wait_for_selector("#go")

    def type(self, label, value):
        self.page.get_by_label(label, exact=True).first.fill(value)

    def picture(self, name):
        folder = os.environ.get("CERTIFY_SCREENSHOTS")
        if folder:
            self.page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)

    def elsewhere(self):
        """What it asked for that is not on this machine."""
        return [
            url
            for url in self.asked
            if urlsplit(url).scheme not in ("data", "blob") and not url.startswith(self.address)
        ]

    def too_wide(self):
        return self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") > 0


@pytest.fixture(scope="module")
def visitor(browser, server):
    return Visitor(browser, server[0])


def test_a_prompt_is_certified(visitor):
    """Typed, clicked, watched: tokens, images and growing curves first, the claim and the files at the end."""
    page = visitor.page
    visitor.type("Prompt", "a photo of a blue circle")
    started = time.monotonic()
    page.click("#go")
    page.wait_for_selector("#tokens .token")
    page.wait_for_selector("#images img")
    page.wait_for_selector("#live svg")
    assert "Anytime-valid" in page.inner_text("#live")
    assert page.locator("#claim .claim").count() == 0
    visitor.picture("growing")
    page.wait_for_selector("#claim .claim")
    assert "blue" in page.inner_text("#tokens")
    assert "For every perturbation" in page.inner_text("#claim")
    assert "is covered" in page.inner_text("#details")
    assert page.locator("#live svg").count() == 0
    assert page.locator("#images img").count() == 4
    visitor.picture("wide")
    assert not visitor.too_wide()
    assert visitor.wrong == []
    print(f"certified {time.monotonic() - started:.0f} s after the click")
    for name, suffix in (("certificate", ".zip"), ("page", ".html"), ("curve", ".png")):
        with page.expect_download() as download:
            page.click(f"#file-{name}")
        assert download.value.suggested_filename.endswith(suffix)
        assert Path(download.value.path()).stat().st_size > 1000


def test_what_is_wrong_is_said_on_the_page(visitor):
    visitor.type("σ₀", "-1")
    visitor.page.click("#go")
    visitor.page.wait_for_selector("#status .error")
    assert visitor.page.inner_text("#status .error").startswith("σ₀ = -1")
    assert "Traceback" not in visitor.page.content()
    visitor.type("σ₀", "0.1")
    visitor.type("Prompt", "a <b>photo</b> of a circle ${alert(1)} " + 30 * "word ")
    visitor.page.click("#go")
    visitor.page.wait_for_selector("#status .error:has-text('tokens')")
    assert visitor.page.locator("#status .error b").count() == 0


def test_a_run_can_be_stopped_and_nobody_else_notices(browser, server, visitor):
    """One visitor stops a run of hours; another's goes on to its end, with what he asked for."""
    other = Visitor(browser, server[0], width=420, scheme="dark")
    visitor.type("Prompt", "a photo of a red circle")
    visitor.type("n", "900000")
    visitor.page.click("#go")
    visitor.page.wait_for_selector("#tokens .token")
    other.type("Prompt", "a photo of a red square")
    other.page.click("#go")
    other.page.wait_for_selector("#tokens .token")
    visitor.page.click("#stop")
    visitor.page.wait_for_selector("#status:has-text('Stopped: nothing is claimed.')")
    assert visitor.page.locator("#claim .claim").count() == 0
    other.page.wait_for_selector("#claim .claim")
    assert "square" in other.page.inner_text("#tokens")
    assert "square" not in visitor.page.inner_text("#tokens")
    assert other.page.evaluate("document.body.classList.contains('dark')")
    other.picture("narrow-dark")
    assert not other.too_wide()
    assert other.elsewhere() == []
    other.context.close()


def test_a_saved_certificate_is_opened(server, visitor):
    import certify

    bound = certify.mse_bound(lambda z: z, [0.0, 1.0], certify.GaussianNoise(0.25), rho=0.5, n=300)
    folder = certify.Certificate.of(bound).save(server[1] / "runs" / "mine")
    page = visitor.page
    page.get_by_role("tab", name="Open").click()
    page.click("#saved input")
    page.get_by_role("option", name="mine").click()
    page.wait_for_selector("#opened iframe")
    assert "Robustness certificate" in page.frame_locator("#opened iframe").locator("body").inner_text().capitalize()
    visitor.picture("opened")
    page.set_input_files("#given input[type=file]", [folder / "certificate.json"])
    page.wait_for_selector("#opened .error")
    page.set_input_files("#given input[type=file]", [folder / "certificate.json", folder / "tensors.safetensors"])
    page.wait_for_selector("#opened iframe")


def test_two_settings_are_compared(visitor):
    page = visitor.page
    page.get_by_role("tab", name="Compare").click()
    page.locator("label:has-text('images') input:visible").fill("0")
    page.locator("label:has-text('n'):has(span:text-is('n')) input:visible").fill("300")
    page.click("#compare-go")
    page.wait_for_selector("#comparison table")
    assert page.locator("#comparison .claim").count() == 2
    visitor.picture("compared")
    assert not visitor.too_wide()


def test_nothing_leaves_this_machine(server, visitor):
    """All that was asked for until here, and what a page says that it may load. Another name is not answered."""
    assert len(visitor.asked) > 10
    assert visitor.elsewhere() == []
    with urlopen(server[0]) as answer:
        policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy
    with pytest.raises(OSError, match="421"):
        urlopen(Request(server[0], headers={"Host": "elsewhere.example:80"}))


def test_a_pipeline_of_two_encoders(browser, tmp_path):
    """FLUX with random weights: tokens of both encoders, images, the bound and the rate as they grow, the claim, files."""
    from tests.defence.pipelines import built

    built("FluxPipeline").save_pretrained(tmp_path / "flux")
    (tmp_path / "circle.csv").write_text("positive,negative\na red circle,a red square\n", encoding="utf-8")
    call = [part for name in ("height=32", "width=32", "max_sequence_length=16") for part in ("--call", name)]
    model = (
        "--model",
        "flux",
        "--concept",
        "circle.csv",
        "--detector",
        "judge:circle",
        "--steps",
        "2",
        "--device",
        "cpu",
    )
    radii = ("--rho", "0.3", "--rho-deployed", "0.1", "--sigma0-relative", "0.45", "--k", "3")
    with serving(tmp_path, *model, *call, *radii) as address:
        for width, scheme in ((1280, "light"), (420, "dark")):
            visitor = Visitor(browser, address, width=width, scheme=scheme)
            page = visitor.page
            visitor.type("Prompt", "a photo of a red circle")
            page.click("#go")
            page.wait_for_selector("#live svg")
            visitor.picture(f"joint-growing-{width}")
            page.wait_for_selector("#claim .claim, #status .error")
            visitor.picture(f"joint-{width}")
            assert page.locator("#status .error").count() == 0
            assert page.locator("#tokens h4").count() == 2
            assert page.locator("#images img").count() == 4
            assert "shared out over 2 text encoders" in page.inner_text("#details")
            assert page.locator("#file-certificate").is_visible()
            assert not visitor.too_wide()
            assert visitor.wrong == []
            assert visitor.elsewhere() == []
            visitor.context.close()
