"""The documentation: links and anchors lead somewhere, theorems that are cited have a page and a test, pages and code agree.

`make docs` builds the site strictly and finds broken links of its pages; this file also sees README.md and what a strict
build does not look at, and needs nothing but the sources. Each check is a function of a folder, so that it can be shown
to fail on a folder with the fault in it.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib.util
import inspect
import io
import itertools
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer

import certify
from certify import cli
from experiments import __main__ as experiments

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"\]\(([^)\s]+)\)")
REFERENCE = re.compile(r"^::: (\S+)(?:\n    options:\n((?:      .*\n?)*))?", re.M)


def pages(root: Path) -> list[Path]:
    """Every Markdown page for readers."""
    return sorted([*root.glob("*.md"), *(root / "docs").rglob("*.md")])


def prose(text: str) -> list[str]:
    """Lines outside code blocks."""
    kept, fenced = [], False
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced:
            kept.append(line)
    return kept


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    titles = [m[1] for line in prose(page.read_text(encoding="utf-8")) if (m := re.match(r"#+ (.*)", line))]
    return {re.sub(r"[^\w\- ]", "", re.sub(r"\]\([^)]*\)", "", title).lower()).replace(" ", "-") for title in titles}


def documented(page: Path) -> dict[str, bool]:
    """Modules that a reference page shows → whether with its submodules."""
    found = REFERENCE.findall(page.read_text(encoding="utf-8"))
    return {name: "show_submodules: true" in options for name, options in found}


def shown(page: Path, name: str) -> bool:
    """Whether a reference page has the anchor of `package.module.Name`."""
    module = name.rpartition(".")[0]
    covered = any(
        module == shown or (whole and module.startswith(f"{shown}.")) for shown, whole in documented(page).items()
    )
    if not covered:
        return False
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    return any(
        isinstance(node, ast.FunctionDef | ast.ClassDef) and f"{module}.{node.name}" == name for node in tree.body
    )


def broken_links(root: Path) -> list[str]:
    """Relative links whose file or anchor is not there, as "page: link"."""
    broken = []
    for page in pages(root):
        text = "\n".join(re.sub(r"``.*?``|`[^`]*`(?!\])", "", line) for line in prose(page.read_text(encoding="utf-8")))
        for link in LINK.findall(text):
            if re.match(r"[a-z]+:", link):
                continue
            file, _, anchor = link.partition("#")
            target = (page.parent / file).resolve() if file else page
            known = target.exists() and target.is_relative_to(root)
            if known and anchor:
                known = anchor in anchors(target) or ("." in anchor and shown(target, anchor))
            if not known:
                broken.append(f"{page.relative_to(root)}: {link}")
    return broken


def test_every_relative_link_leads_somewhere():
    assert sum(len(LINK.findall(page.read_text(encoding="utf-8"))) for page in pages(ROOT)) > 100
    assert broken_links(ROOT) == []


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        (
            "[a](docs/other.md) [b](docs/other.md#known-gaps-and-one-more) [c](#here) [d](https://example.org)\n# Here",
            [],
        ),
        ("[a](docs/missing.md)", ["docs/missing.md"]),
        ("[a](docs/other.md#known-gaps)", ["docs/other.md#known-gaps"]),
        ("[a](#there)\n# Here", ["#there"]),
        ("![a](picture.png)", ["picture.png"]),
        ("[a](../outside.md)", ["../outside.md"]),
        ("[a](docs/other.md#certify.noise.gaussian.GaussianNoise)", []),
        ("[a](docs/other.md#certify.noise.gaussian.NoSuchNoise)", ["docs/other.md#certify.noise.gaussian.NoSuchNoise"]),
        ("`[a](b)`\n```\n[a](docs/missing.md)\n```", []),
    ],
)
def test_a_broken_link_is_found(tmp_path, text, broken):
    root = tmp_path / "root"
    (root / "docs").mkdir(parents=True)
    (tmp_path / "outside.md").touch()
    (root / "docs/other.md").write_text(
        "# Other\n## Known gaps, and one more\n::: certify.noise.gaussian\n", encoding="utf-8"
    )
    (root / "README.md").write_text(text, encoding="utf-8")
    assert broken_links(root) == [f"README.md: {link}" for link in broken]


def cited_paths(page: Path) -> list[str]:
    """Paths of the repository that a page names in code."""
    text = page.read_text(encoding="utf-8")
    return re.findall(r"`((?:certify|tests|experiments|docs|benchmarks)/[\w./-]*)`", text)


def uncovered_labels(root: Path) -> list[str]:
    """What is missing for the theorems that certify/ cites: a page titled with the label that names code and tests which are
    there, and the label in one of those tests."""
    cited = {
        label
        for file in (root / "certify").rglob("*.py")
        for label in re.findall(r"\bT\d+\b", file.read_text(encoding="utf-8"))
    }
    missing = []
    for label in sorted(cited, key=lambda label: int(label[1:])):
        own = [
            page
            for page in (root / "docs/theory").glob("*.md")
            if re.match(rf"# {label}\b", page.read_text(encoding="utf-8"))
        ]
        if not own:
            missing.append(f"{label}: no page in docs/theory")
            continue
        tests = [root / path for page in own for path in cited_paths(page) if path.startswith("tests/")]
        files = [file for path in tests for file in (path.rglob("*.py") if path.is_dir() else [path]) if file.exists()]
        if not any(re.search(rf"\b{label}\b", file.read_text(encoding="utf-8")) for file in files):
            missing.append(f"{label}: named in none of the tests that its page cites")
    return missing


def test_every_theorem_that_code_cites_has_its_page_and_is_tested():
    assert uncovered_labels(ROOT) == []
    assert len(list((ROOT / "docs/theory").glob("t*.md"))) >= 12


def test_a_theorem_without_page_or_test_is_found(tmp_path):
    for folder in ("certify", "docs/theory", "tests"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "certify/a.py").write_text('"""By T1, T2, T13 and T14."""', encoding="utf-8")
    for label, test in (("T1", "tests/test_a.py"), ("T2", "tests/"), ("T13", "tests/test_a.py")):
        page = tmp_path / f"docs/theory/{label}.md"
        page.write_text(f"# {label}. A theorem\nTests: `{test}`.", encoding="utf-8")
    (tmp_path / "tests/test_a.py").write_text('"""T1, and T2."""', encoding="utf-8")
    assert uncovered_labels(tmp_path) == [
        "T13: named in none of the tests that its page cites",
        "T14: no page in docs/theory",
    ]


@pytest.mark.parametrize("page", sorted((ROOT / "docs/theory").glob("*.md")), ids=lambda page: page.stem)
def test_files_that_a_theorem_names_are_there(page):
    assert [path for path in cited_paths(page) if not (ROOT / path).exists()] == []


def swallowed_lists(text: str) -> list[str]:
    """Items that GitHub shows as a list and the site as running text: straight after a paragraph, or indented by two."""
    lines, found = ["", *prose(text)], []
    for before, line in itertools.pairwise(lines):
        item = re.match(r"( *)([-*]|\d+\.) ", line)
        if not item:
            continue
        inside = before.startswith("  ") or re.match(r" *([-*]|\d+\.) ", before)
        begins = item[2] in ("-", "*", "1.")  # what GitHub lets interrupt a paragraph
        if (begins and before.strip() and not inside) or len(item[1]) % 4:
            found.append(line)
    return found


@pytest.mark.parametrize("page", pages(ROOT), ids=lambda page: page.stem)
def test_lists_are_lists_on_the_site_too(page):
    assert swallowed_lists(page.read_text(encoding="utf-8")) == []


def test_a_swallowed_list_is_found():
    assert swallowed_lists("Words:\n\n- a\n  more\n- b\n\n    - nested\n") == []
    assert swallowed_lists("Words:\n- a\n") == ["- a"]
    assert swallowed_lists("- a\n  - nested\n") == ["  - nested"]
    assert swallowed_lists("Words\n2025. A number that begins a line.\n") == []


def block(text: str, beginning: str) -> list[str]:
    """The lines of the code block that has a line which begins so."""
    for language, found in re.findall(r"^```(\w*)\n(.*?)^```", text, re.M | re.S):
        if not language and any(line.startswith(beginning) for line in found.splitlines()):
            return found.splitlines()
    raise ValueError(f"no code block with a line that begins with {beginning!r}")


def abridges(short: list[str], whole: list[str]) -> bool:
    """Whether `short` is `whole` with runs of lines left out, each marked by a line "…", at the start and the end unmarked."""
    runs = "\n".join(short).split("\n…\n")
    text, at = "\n" + "\n".join(whole) + "\n", 0
    for run in runs:
        at = text.find(f"\n{run}\n", at)
        if at < 0:
            return False
        at += len(run) + 1
    return True


def test_the_start_page_abridges_the_printed_certificate():
    begins = "certificate ──"
    short = block((ROOT / "docs/index.md").read_text(encoding="utf-8"), begins)
    whole = block((ROOT / "docs/guide/one-prompt.md").read_text(encoding="utf-8"), begins)
    assert 10 < len(short) < len(whole)
    assert abridges(short, whole)
    number, changed = next(
        (i, re.sub(r"distance \d", "distance ", line)) for i, line in enumerate(short) if "squared distance" in line
    )
    assert changed != short[number]
    assert not abridges([*short[:number], changed, *short[number + 1 :]], whole)
    assert not abridges([*short[:number], *short[number + 1 :]], whole)  # a line left out without a mark
    assert not abridges(short[::-1], whole)


def public_modules() -> list[str]:
    """Modules of certify that export something, but for the command line."""
    names = []
    for file in sorted((ROOT / "certify").rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        if not parts[-1].startswith("_") and parts[1] != "cli":
            names.append(".".join(parts))
    return names


def test_every_public_module_is_in_the_reference():
    shown: dict[str, bool] = {}
    for page in (ROOT / "docs/reference").glob("*.md"):
        shown |= documented(page)
    missing = [
        name
        for name in public_modules()
        if name not in shown and not any(whole and name.startswith(f"{package}.") for package, whole in shown.items())
    ]
    assert missing == []
    assert not any("certify".startswith(name) for name in shown)  # nothing that would swallow every module

    for package in ("attacks", "defenses", "unlearning"):
        registry = ast.parse((ROOT / f"experiments/{package}/__init__.py").read_text(encoding="utf-8"))
        for node in ast.walk(registry):
            if not isinstance(node, ast.ImportFrom) or node.module in ("__future__", "dataclasses"):
                continue
            inside = node.module == f"experiments.{package}"
            for name in [f"{node.module}.{a.name}" for a in node.names] if inside else [str(node.module)]:
                assert name in shown, name


def test_every_exported_name_is_linked_from_the_reference():
    text = (ROOT / "docs/reference/index.md").read_text(encoding="utf-8")
    linked = dict(re.findall(r"\[`(\w+)`\]\([\w.]+#([\w.]+)\)", text))
    assert set(linked) == set(certify.__all__)
    for name, target in linked.items():
        exported = getattr(certify, name)
        assert f"{exported.__module__}.{exported.__qualname__}" == target


def unknown_arguments(source: str) -> list[str]:
    """Names under "Args:" that the function does not take, as "function: name"."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.FunctionDef) or not (text := ast.get_docstring(node)):
            continue
        section = re.search(r"^Args:\n((?:    .*\n?|\n)+)", text, re.M)
        a = node.args
        taken = {arg.arg for arg in [*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg] if arg}
        for names in re.findall(r"^    (\*{0,2}\w+(?:, \*{0,2}\w+)*):", section[1] if section else "", re.M):
            found += [f"{node.name}: {name}" for name in names.replace("*", "").split(", ") if name not in taken]
    return found


def test_documented_arguments_exist():
    sources = [*(ROOT / "certify").rglob("*.py"), *(ROOT / "experiments").rglob("*.py")]
    assert [f"{p.name}: {name}" for p in sources for name in unknown_arguments(p.read_text(encoding="utf-8"))] == []


def test_a_documented_argument_that_is_gone_is_found():
    items = "a, b: two.", "*rest: others, see: here.", "gone: not there."
    docstring = "\n        ".join(['"""Does.\n\n    Args:', *items, '"""'])
    assert unknown_arguments(f"def f(a, *rest, b=1):\n    {docstring}\n") == ["f: gone"]


def site_module(name: str):
    """One of the site's own modules, which mkdocs loads by its path."""
    pytest.importorskip("mkdocstrings", reason="the site's tools are not installed")
    spec = importlib.util.spec_from_file_location(f"_{name}", ROOT / f"docs/_site/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_docstrings_become_markdown():
    site = site_module("docstrings")
    text = """
    By T5 and THEORY T10, not `T5` nor XT5:

        a formula of T5

    >>> 1 + 1
    2
    >>> [3]
    [3]

    Args:
        lower, upper: the ends (T5).
        one: alone."""
    assert site.as_markdown(inspect.cleandoc(text), {"T5": "t5-deployed", "T10": "t10-numerics"}).splitlines() == [
        "By [T5][t5-deployed] and [T10][t10-numerics], not `T5` nor XT5:",
        "",
        "    a formula of T5",
        "",
        "```pycon",
        ">>> 1 + 1",
        "2",
        ">>> [3]",
        "[3]",
        "```",
        "",
        "Args:",
        "    lower,\N{NO-BREAK SPACE}upper: the ends ([T5][t5-deployed]).",
        "    one: alone.",
    ]
    assert site.as_markdown(">>> 1\n1", {}) == "```pycon\n>>> 1\n1\n```"
    assert site.as_markdown("An unknown T99.", {}) == "An unknown [T99][T99]."  # an error of the strict build


def test_labels_link_to_the_first_page_of_their_theorem():
    found = site_module("docstrings").anchors()
    assert found["T3"] == "t3-monte-carlo-confidence"
    for page in (ROOT / "docs/theory").glob("t*.md"):
        label = page.read_text(encoding="utf-8")[2:].split(".")[0].split(",")[0]
        assert found[label] in {a for other in (ROOT / "docs/theory").glob("t*.md") for a in anchors(other)}


def test_a_folder_in_the_navigation_stands_for_its_pages_in_order(tmp_path):
    (tmp_path / "tables").mkdir()
    for name in ("10.md", "2.md", "pruning.md", "index.md", "figures.png"):
        (tmp_path / "tables" / name).touch()
    config = SimpleNamespace(
        docs_dir=str(tmp_path), nav=[{"Start": "index.md"}, {"Tables": ["a.md", "tables/", {"B": "b.md"}]}]
    )
    assert site_module("hooks").on_config(config).nav == [
        {"Start": "index.md"},
        {"Tables": ["a.md", "tables/index.md", "tables/2.md", "tables/10.md", "tables/pruning.md", {"B": "b.md"}]},
    ]


def test_links_to_the_root_lead_to_pages_of_the_site():
    for source, link, expected in (
        ("index.md", "../CONTRIBUTING.md", "contributing.md"),
        ("guide/a.md", "../../CHANGELOG.md#010", "../changelog.md#010"),
        ("guide/a.md", "policies.md", "policies.md"),
        ("contributing.md", "docs/glossary.md", "glossary.md"),
        ("security.md", "CHANGELOG.md", "changelog.md"),
        ("glossary.md", "docs/glossary.md", "docs/glossary.md"),
    ):
        page = SimpleNamespace(file=SimpleNamespace(src_uri=source), is_homepage=source == "index.md", meta={})
        assert site_module("hooks").on_page_markdown(f"[a]({link})", page) == f"[a]({expected})"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("## A table\n\nText.\n", "# A table\n\nText.\n"), ("# A\n\n## B\n", "# A\n\n## B\n"), ("Text.\n\n## B\n",) * 2],
)
def test_a_page_that_begins_with_a_second_heading_gets_it_as_its_title(text, expected):
    page = SimpleNamespace(file=SimpleNamespace(src_uri="tables/1.md"), is_homepage=False, meta={})
    assert site_module("hooks").on_page_markdown(text, page) == expected


@pytest.mark.parametrize(
    ("html", "warned"),
    [
        ('<a href="https://example.org">elsewhere</a> <script src="a.js"></script> <img alt="" src="../b.png">', 0),
        ('<script defer src="https://example.org/a.js"></script>', 1),
        ("<link rel=stylesheet href=//example.org/a.css><img src='http://example.org/b.png'>", 2),
    ],
)
def test_a_page_that_loads_from_elsewhere_is_warned_of(html, warned, caplog):
    page = SimpleNamespace(file=SimpleNamespace(src_uri="a.md"))
    assert site_module("hooks").on_post_page(html, page) == html
    assert len(caplog.records) == warned


COMMAND = re.compile(r"(?:python -m )?\b(certify|experiments) ([a-z][a-z-]*)((?: +(?!\||;|&)[^`]*)?)")


def commands(text: str) -> list[tuple[str, str, set[str]]]:
    """The commands that a page's code shows: program, command, options."""
    blocks = [
        found for language, found in re.findall(r"^```(\w*)\n(.*?)^```", text, re.M | re.S) if language != "python"
    ]
    lines = [line for found in blocks for line in re.sub(r"\\\n", " ", found).splitlines()]
    inline = re.findall(r"`([^`]+)`", "\n".join(prose(text)))
    found = []
    for line in [*lines, *(code.replace("\n", " ") for code in inline)]:
        shown_command = re.match(r"\s*(?:\w+=\S+ +)*(?:torchrun .* -m -- )?" + COMMAND.pattern, line.split("  #")[0])
        if shown_command:
            program, command, rest = shown_command.groups()
            found.append((program, command, set(re.findall(r"(?<!\S)--[a-z][a-z0-9-]*", rest))))
    return found


@functools.cache
def options(program: str, command: str) -> set[str]:
    """What the command takes."""
    if program == "certify":
        known = typer.main.get_command(cli.app).commands
        return (
            {name for p in known[command].params for name in (*p.opts, *p.secondary_opts)}
            if command in known
            else set()
        )
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patched, contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        patched.setattr(sys, "argv", ["experiments", command, "--help"])
        experiments.main()
    return set(re.findall(r"--[a-z][a-z0-9-]*", out.getvalue()))


def unknown_options(text: str) -> list[str]:
    """Options in a page's commands that the command does not have."""
    return [
        f"{program} {command} {option}"
        for program, command, given in commands(text)
        for option in sorted(given - options(program, command) - {"--help"})
    ]


def test_commands_on_pages_have_the_options_that_they_show():
    texts = {page: page.read_text(encoding="utf-8") for page in pages(ROOT)}
    shown_options = sum(len(given) for text in texts.values() for _, _, given in commands(text))
    assert shown_options > 100
    assert {page.name: wrong for page, text in texts.items() if (wrong := unknown_options(text))} == {}


def test_an_option_that_is_gone_is_found():
    text = (
        "```\nFOO=1 certify prompt 'a' \\\n    --rho 1 --rhoo 2\n```\n`python -m experiments unlearn uce --guide x`\n"
    )
    assert unknown_options(text) == ["certify prompt --rhoo", "experiments unlearn --guide"]


def test_in_the_dark_figures_are_turned_and_what_a_model_has_painted_is_not():
    """The style sheet lists the painted ones by parts of their names: each part names images that there are."""
    rule = re.search(r"img:not\(([^)]*)\)\s*\{\s*filter: invert", (ROOT / "docs/_site/site.css").read_text())
    parts = re.findall(r'src\*="([^"]+)"', rule[1])
    images = [path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.png")]
    assert all(any(part in image for image in images) for part in parts)
    painted = {image for image in images if any(part in image for part in parts)}
    assert {"guide/pair.png", "guide/world.png", "guide/second-world.png", "tables/1-grid-esd.png"} <= painted
    assert not painted & {"guide/curve.png", "guide/rate.png", "tables/1-trade-off.png", "guide/pictures/noise.png"}
