"""`certify schema`: what the files of certify may hold, as JSON schemas."""

from __future__ import annotations

import json
from typing import Annotated, Any

from certify.cli import checks, terminal
from certify.cli.checks import argument
from certify.cli.scripts import answer

__all__ = ["NAMES", "schema", "schema_of"]

NAMES = ("certificate", "run-settings", "run-row")


def schema_of(name: str) -> dict[str, Any]:
    """The schema of `certificate.json`, or of `settings.json` or a line of `results.jsonl` of a run over many prompts."""
    from certify.certificate.schema import json_schema
    from certify.datasets.records import row_schema, settings_schema

    return {"certificate": json_schema, "run-settings": settings_schema, "run-row": row_schema}[name]()


def schema(
    name: Annotated[str, argument("certificate, run-settings or run-row.", checks.choice(lambda: NAMES))],
) -> None:
    """Print the JSON schema of a file that certify writes."""
    text = json.dumps(schema_of(name), indent=2, ensure_ascii=False)
    answer(text)
    terminal.out.out(text, highlight=False)
