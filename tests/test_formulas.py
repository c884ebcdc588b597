"""Formulas of the pages: LaTeX that GitHub renders as it is, MathML on the site, and nothing that a browser would fetch."""

from __future__ import annotations

import functools
import html
import http.server
import importlib.util
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

pytest.importorskip("math_core", reason="the site's tools are not installed")
markdown = pytest.importorskip("markdown", reason="the site's tools are not installed")

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
THEORY = sorted((ROOT / "docs/theory").glob("*.md"))
MATHEMATICAL = re.compile(r"[α-ωΑ-Ω≤≥≠∈∞√∫‖⁻²½]|\\[a-zA-Z]+")
"""Letters of formulas, in text that is not typeset."""


@functools.cache
def formulas():
    spec = importlib.util.spec_from_file_location("_formulas", ROOT / "docs/_site/formulas.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def site(text: str) -> str:
    """A page as the site renders it."""
    fences = {"custom_fences": [{"name": "math", "class": "formula", "format": formulas().fence}]}
    extensions = ["tables", "attr_list", "md_in_html", "pymdownx.superfences", formulas().Formulas()]
    return markdown.markdown(text, extensions=extensions, extension_configs={"pymdownx.superfences": fences})


def left_over(page: str) -> list[str]:
    """Formulas of a rendered page that were not typeset: dollars and LaTeX in its text, code left out."""
    text = re.sub(r"<(code|math|pre)\b.*?</\1>", "", page, flags=re.S)
    text = html.unescape(re.sub(r"<[^>]*>", "", text))
    return re.findall(r"\$.{0,40}|\\[a-zA-Z]+", text)


def outside_code(text: str) -> str:
    """Markdown without its blocks of code and its code spans; formulas stay."""
    text = re.sub(r"^ *```.*?^ *```", "", text, flags=re.M | re.S)
    return re.sub(r"(?<!\$)(`+)(?!`).*?(?<!`)\1(?![`$])", "", text, flags=re.S)


def unsafe(text: str) -> list[str]:
    """Formulas between plain dollars that Markdown may read as its own: a `_` after a sign begins emphasis, and a backslash
    before a sign is dropped. Between $` and `$ they are safe."""
    found = re.findall(r"(?<![\\$\w])\$(?![\s`$])([^$`]+?)\$", outside_code(text))
    return [one for one in found if re.search(r"(?<![A-Za-z0-9])_|\\[^A-Za-z\s]|[*~]|<[A-Za-z]", one)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_formula_of_a_page_is_typeset(page):
    text = page.read_text(encoding="utf-8")
    shown = site(text)
    assert left_over(shown) == []
    assert unsafe(text) == []
    for number in re.findall(r"\\tag\{(.*?)\}", text):
        assert f'<span class="number">({number})</span>' in shown


@pytest.mark.parametrize("page", THEORY, ids=lambda page: page.stem)
def test_theory_is_typeset_and_fetches_nothing(page):
    text = page.read_text(encoding="utf-8")
    shown = site(text)
    assert shown.count("<math") > 20
    assert not re.search(r"<(?:script|link|img|iframe|object)\b|\b(?:src|srcset)=|url\(|@import", shown)
    prose = re.sub(r"^ *```.*?^ *```|\$`[^`]+`\$", "", text, flags=re.M | re.S)
    code = re.findall(r"`([^`]+)`", prose)
    assert [span for span in code if MATHEMATICAL.search(span)] == []  # no formula set as code


def test_a_formula_that_is_not_typeset_is_found():
    assert left_over(site("Costs $5, and $\\rho$.")) == ["$5, and ."]
    assert left_over("<p>put \\delta there <code>\\n</code></p>") == ["\\delta"]
    assert unsafe("$(x)_+$, $a_1$, $\\{x\\}$, $`(x)_+`$, `$(x)_+$`") == ["(x)_+", "\\{x\\}"]


def test_formulas_of_both_forms_and_displays():
    shown = site("Let $`(x)_+`$, and $a_1$: `$b$`.\n\n```math\nx \\le y \\tag{7}\n```\n")
    assert shown.count("<math") == 3
    assert "<code>$b$</code>" in shown
    assert '<span class="whole"><math><msub><mi>a</mi><mn>1</mn></msub></math>:</span>' in shown
    assert '<math display="block"><mi>x</mi><mo>≤</mo><mi>y</mi></math></div><span class="number">(7)</span>' in shown


def test_what_is_no_latex_stops_the_build():
    with pytest.raises(ValueError, match=r"formula '\\\\nosuch': .*nosuch"):
        site("$\\nosuch$")
    with pytest.raises(ValueError, match="formula"):
        formulas().displayed(r"\frac{1}{")


def test_long_formulas_break_at_relations_outside_brackets_only():
    whole = formulas().inline(r"P[X_{(k)} \le x] = 1 - q")
    assert "<wbr>" not in whole
    broken = formulas().inline(
        r"P[X_{(k)} \le x] = P[\operatorname{Bin}(n, \pi) \ge k] \le P[\operatorname{Bin}(n, p) \ge k]"
    )
    pieces = broken.split("<wbr>")
    assert [re.sub(r"<[^>]*>", "", piece)[:1] for piece in pieces] == ["P", "=", "≤"]
    summed = formulas().inline(r"\lVert a + b + c + d + e + f + g\rVert^2 + \lVert h + i + j + k\rVert^2")
    assert [re.sub(r"<[^>]*>", "", piece)[:1] for piece in summed.split("<wbr>")] == ["‖", "+"]


def test_bars_stand_clear_of_their_letters():
    assert formulas().mathml(r"\bar E") == '<math><mover><mi>E</mi><mo stretchy="false">¯</mo></mover></math>'
    assert formulas().mathml(r"\underline E") == '<math><munder><mi>E</mi><mo stretchy="false">_</mo></munder></math>'


CHROMIUM = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The site, built strictly."""
    pytest.importorskip("mkdocstrings", reason="the site's tools are not installed")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_the_site_is_built_strictly_and_every_formula_with_it(built):
    for page in THEORY:
        shown = (built / "theory" / f"{page.stem}.html").read_text(encoding="utf-8")
        content = re.search(r"<article.*?</article>", shown, re.S)[0]
        assert left_over(content) == []
        assert content.count("<math") > 20


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium (chromium, chromium-browser, google-chrome)")
def test_no_theory_page_overflows_on_a_phone(built, tmp_path):
    frames = "".join(f'<iframe src="theory/{page.stem}.html" style="width:420px"></iframe>' for page in THEORY)
    measure = "f => f.contentDocument.documentElement.scrollWidth - f.contentDocument.documentElement.clientWidth"
    script = f"onload = () => document.title = [...document.querySelectorAll('iframe')].map({measure}).join()"
    (built / "frames.html").write_text(f"<title></title>{frames}<script>{script}</script>", encoding="utf-8")

    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            asked.append(arguments)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(built)))
    address = f"http://127.0.0.1:{server.server_address[1]}/frames.html"
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path}",
        "--virtual-time-budget=9000",
    ]
    # Every name but this server's leads nowhere.
    options.append("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
    with server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            done = subprocess.run(
                [CHROMIUM, *options, "--dump-dom", address], capture_output=True, text=True, timeout=1800
            )
        finally:
            server.shutdown()
    widths = re.search(r"<title>([\d,-]+)</title>", done.stdout)[1].split(",")
    assert len(widths) == len(THEORY)
    assert len(asked) > len(THEORY)
    assert [page.stem for page, over in zip(THEORY, widths, strict=True) if over != "0"] == []


def measured(folder, pages):
    """Pages of a site in a browser that knows this machine alone, 420 pixels wide: by how much each is too wide, how many of
    its formulas are no MathML, and what it asked other hosts for. Only pages with something to report."""
    from playwright.sync_api import sync_playwright

    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}/"
    options = ["--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
    found, asked = {}, []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=options)
        page = browser.new_page(viewport={"width": 420, "height": 900})
        page.on("request", lambda request: asked.append(request.url))
        for name in pages:
            asked.clear()
            page.goto(address + name, wait_until="domcontentloaded", timeout=240_000)
            over = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            left = page.locator(".katex, mjx-container, merror").count()
            elsewhere = [url for url in asked if not url.startswith((address, "data:", "blob:"))]
            if over > 0 or left or elsewhere:
                found[name] = over, left, elsewhere
        browser.close()
    server.shutdown()
    return found


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium (chromium, chromium-browser, google-chrome)")
@pytest.mark.skipif(
    importlib.util.find_spec("playwright") is None, reason="playwright, of the extra browser, is not installed"
)
def test_no_page_overflows_on_a_phone_or_asks_another_host(built):
    pages = sorted(str(page.relative_to(built)) for page in built.rglob("*.html") if page.name != "frames.html")
    assert len(pages) > len(THEORY) + 30
    assert measured(built, pages) == {}
