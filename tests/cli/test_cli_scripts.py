"""For scripts: one JSON value on the output stream, silence, a configuration file, a log, completion, schemas."""

from __future__ import annotations

import copy
import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from certify import Certificate, cli
from certify.certificate.schema import KINDS, claim_from
from certify.cli.endings import CODES
from certify.cli.schemas import NAMES, schema_of

jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "docs/guide/scripts.md"
PROMPT = "a photo of a red circle"
FEW = ("--n", "200")
COMMANDS = typer.main.get_command(cli.app).commands


def valid(name: str, value: object) -> bool:
    """Whether a value is what a schema says."""
    return jsonschema.Draft202012Validator(schema_of(name)).is_valid(value)


def test_every_command_has_the_options_for_scripts():
    for name, command in COMMANDS.items():
        options = {option for p in command.params for option in p.opts}
        assert {"--json", "--quiet", "--config", "--log-level"} <= options, name


def test_a_prompt_as_json_is_its_certificate(run, tmp_path):
    code, out, err = run("prompt", PROMPT, *FEW, "--text-only", "--out", "a", "--json")
    assert (code, err) == (0, "")
    assert out == (tmp_path / "a/certificate.json").read_text(encoding="utf-8")
    assert out == Certificate.load(tmp_path / "a").to_json() + "\n"
    assert valid("certificate", json.loads(out))


def test_other_questions_as_json(run):
    for command in (("radius", PROMPT), ("curve", PROMPT, "--rhos", "0.5,9")):
        code, out, _ = run(*command, *FEW, "--json")
        assert code == 0
        assert valid("certificate", json.loads(out)), command
    code, out, _ = run("decide", PROMPT, "--n", "5000", "--json")
    decision = json.loads(out)
    assert {"yes": 0, "no": 1, "undecided": 3}[decision["decided"]] == code
    assert decision["n"] <= decision["maximum"] == 5000
    code, out, _ = run("radius", PROMPT, "--n", "3", "--json")
    assert code == 3
    assert {claim["status"] for claim in json.loads(out)["claims"]} == {"abstained"}


def test_plan_concepts_and_schema_as_json(run):
    assert json.loads(run("plan", "--rho", "1", "--outputs", "100", "--json")[1])["n"] == 71
    assert {entry["name"] for entry in json.loads(run("concepts", "--json")[1])} > {"circle"}
    assert json.loads(run("concepts", "circle", "--json")[1])["name"] == "circle"
    for name in NAMES:
        assert json.loads(run("schema", name, "--json")[1]) == schema_of(name) == json.loads(run("schema", name)[1])


def test_a_check_and_pages_as_json(run, tmp_path):
    run("prompt", PROMPT, *FEW, "--text-only", "--out", "a", "--quiet")
    code, out, _ = run("check", "a", "--json")
    checked = json.loads(out)
    assert (code, checked["refuted"]) == (0, False)
    assert {one["outcome"] for one in checked["verdicts"]} == {"not refuted"}
    for command, file in ((("report", "a"), ["a/report.html"]), (("plot", "a", "noise", "--force"), "a/noise.png")):
        assert json.loads(run(*command, "--json")[1]) == {"written": file}

    changed = json.loads((tmp_path / "a/certificate.json").read_text(encoding="utf-8"))
    claim = next(c for c in changed["claims"] if c["quantity"] == "mse" and c["scope"] == "single")
    claim["value"] /= 100
    (tmp_path / "a/certificate.json").write_text(json.dumps(changed), encoding="utf-8")
    code, out, _ = run("check", "a", "--json")
    assert (code, json.loads(out)["refuted"]) == (1, True)


def test_a_run_over_prompts_as_json_and_its_files_by_their_schemas(run, tmp_path):
    (tmp_path / "p.txt").write_text(f"{PROMPT}\n{' '.join(['red'] * 60)}\na blue square\n", encoding="utf-8")
    code, out, _ = run("prompts", "p.txt", *FEW, "--out", "r", "--json")
    assert code in (0, 3)
    assert json.loads(out) == json.loads((tmp_path / "r/summary.json").read_text(encoding="utf-8"))
    settings = json.loads((tmp_path / "r/settings.json").read_text(encoding="utf-8"))
    assert valid("run-settings", settings)
    assert not valid("run-settings", settings | {"digest": "0"})
    rows = [json.loads(line) for line in (tmp_path / "r/results.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len({row["status"] for row in rows}) > 1
    for row in rows:
        assert valid("run-row", row)
        assert not valid("run-row", row | {"radius": 1.0 if row["radius"] == 0 else 0.0})
        assert not valid("run-row", row | {"status": "fine"})


def test_errors_leave_the_output_empty(run):
    for options in (("--rho", "-1"), ("--rho", "x"), ("--json", "--quiet")):
        code, out, err = run("plan", *options, "--json")
        assert (code, out) == (2, "")
        assert "must be" in err


def test_quiet_says_nothing_and_the_code_answers(run):
    assert run("plan", "--rho", "1", "--quiet") == (0, "", "")
    assert run("radius", PROMPT, "--n", "3", "--quiet") == (3, "", "")
    code, out, _ = run("plan", "--rho", "1")
    assert (code, out != "") == (0, True)  # the next run speaks again


def test_a_configuration_gives_options_their_values(run, tmp_path):
    (tmp_path / "certify.toml").write_text('alpha = 0.01\nconcept = ["circle"]\n[plan]\nrho = 2\n', encoding="utf-8")
    found = json.loads(run("plan", "--json")[1])
    assert (found["alpha"], found["rho"]) == (0.01, 2.0)
    assert json.loads(run("plan", "--rho", "1", "--json")[1])["rho"] == 1.0  # what is typed goes before
    (tmp_path / "other.toml").write_text("[plan]\nrho = 3.0\njson = true\n", encoding="utf-8")
    found = json.loads(run("plan", "--config", "other.toml")[1])
    assert (found["alpha"], found["rho"]) == (0.001, 3.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[plan]\nrhoo = 1", "'rhoo' of [plan] must be one of alpha"),
        ("[check]\ntrust-names = true", "'trust-names' of [check] must be one of"),
        ("[plan]\nconfig = 'x'", "'config' of [plan] must be one of"),
        ("[plan]\nrho = -1", "--rho = -1.0: must be a finite number > 0"),
        ("[plan]\nrho = 'x'", "--rho = 'x': must be a number"),
        ("[plan]\nquiet = 3", "quiet = 3: must be true or false"),
        ("[plan]\nrho = [1, 2]", "rho = [1, 2]: must be one value"),
        ("plan = 1", "plan = 1: must be a table, [plan]"),
        ("rho =", "must be a TOML file"),
    ],
)
def test_a_wrong_configuration_is_refused(run, tmp_path, text, message):
    (tmp_path / "certify.toml").write_text(text, encoding="utf-8")
    code, out, err = run("check" if "[check]" in text else "plan", *(["."] if "[check]" in text else []))
    assert (code, out) == (2, "")
    assert message in " ".join(err.split())


def test_a_configuration_that_is_not_there(run):
    code, _, err = run("plan", "--config", "none.toml")
    assert code == 2
    assert "--config = 'none.toml': must be a file" in err


def test_the_log_has_levels_and_ends_with_the_command(run):
    handlers = list(logging.getLogger("certify").handlers)
    _, _, err = run("radius", PROMPT, "--n", "3", "--quiet", "--log-level", "info")
    assert re.search(r"INFO certify: certify \S+: radius begins\n", err)
    assert re.search(r"INFO certify\.cli\.work: 3 draws", err)
    assert re.search(r"INFO certify: radius ends after .* with exit code 3\n", err)
    _, _, err = run("plan", "--log-level", "warning", "--rho", "1", "--quiet")
    assert err == ""
    assert logging.getLogger("certify").handlers == handlers
    assert run("plan", "--rho", "1", "--log-level", "loud")[0] == 2


def test_the_shell_completes_commands():
    words = {"COMP_WORDS": "certify pl", "COMP_CWORD": "1", "_CERTIFY_COMPLETE": "complete_bash"}
    script = "import sys; sys.argv = ['certify']; from certify.cli import app; app(prog_name='certify')"
    done = subprocess.run([sys.executable, "-c", script], env=os.environ | words, capture_output=True, text=True)
    assert sorted(done.stdout.split()) == ["plan", "plot"]


@pytest.mark.parametrize("name", NAMES)
def test_published_schemas_are_those_of_the_code(name):
    schema = schema_of(name)
    jsonschema.Draft202012Validator.check_schema(schema)
    published = ROOT / f"docs/schemas/{name}.schema.json"
    again = f"certify schema {name} > {published.relative_to(ROOT)}"
    assert json.loads(published.read_text(encoding="utf-8")) == schema, f"write it anew: {again}"


def test_the_schema_refuses_what_the_reader_refuses():
    """Each field of a claim in turn gets values that may be wrong: schema and reader agree about every one of them.

    (Not about whole floats, which a schema takes for integers.)
    """
    whole = json.loads((ROOT / "tests/golden/certificate/certificate.json").read_text(encoding="utf-8"))
    assert valid("certificate", whole)
    tried = [
        None,
        -1,
        0,
        0.5,
        3,
        "",
        "x",
        "Infinity",
        "-Infinity",
        "certified",
        "upper",
        [],
        {},
        {"label": -1},
        True,
    ]
    tried += [*KINDS, "T1", "T5", "box", "two-sided", "abstained", "single", "median", "frozen"]
    refused = accepted = 0
    for claim in whole["claims"]:
        for field in claim:
            for value in tried:
                changed = claim | {field: value}
                try:
                    claim_from(copy.deepcopy(changed))
                    fits = True
                except (TypeError, ValueError):
                    fits = False
                assert valid("certificate", whole | {"claims": [changed]}) == fits, (field, value)
                accepted, refused = accepted + fits, refused + (not fits)
        del claim[field]
        assert not valid("certificate", whole)
        claim[field] = changed[field]
    assert min(accepted, refused) > 100


def test_the_guide_lists_exit_codes_commands_and_versions():
    text = GUIDE.read_text(encoding="utf-8")
    for code in re.findall(r"^([\d, ]+): ", CODES, re.M):
        assert f"| {code} |" in text
    for name in COMMANDS:
        assert f"`{name}`" in text, name
    versions = json.loads((ROOT / "docs/schemas/certificate.schema.json").read_text(encoding="utf-8"))
    assert f"| {versions['properties']['schema_version']['const']} |" in text
