"""A certificate or a run as a model card: Markdown, with the metadata that a model hub reads in front (YAML).

The metadata are those of the model card specification: `library_name`, `pipeline_tag`, `tags`, and `model-index`, whose results
have a task, a data set and metrics. A value there is exact, as on record; an abstention has none and is left out. Where the
record says nothing (the license, the languages), so does the card.

Words of others (prompts, names, reasons) are text in it: every mark that Markdown, HTML or YAML would read is escaped.
"""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from certify._text import cleaned
from certify._version import __version__
from certify.certificate import Certificate, Claim, words
from certify.datasets import ClassifiedRun, RowOptions, RunRecord, class_summary, summary
from certify.report._page import shows

__all__ = ["model_card"]


class _Markdown(words.Style):
    """For Markdown: words of others are escaped."""

    def name(self, text: Any) -> str:
        plain = " ".join(cleaned(text).split())
        marked = re.sub(r"([!-%'-/:;=?@\[-`{-~])", r"\\\1", plain)
        return html.escape(marked, quote=False)

    def strong(self, text: str, mood: str = "") -> str:
        return f"**{text}**"


_STYLE = _Markdown()
_TAGS = ("certified-robustness", "randomized-smoothing", "safety")


def model_card(record: Certificate | RunRecord, *, folder: str = "FOLDER", base_model: str | None = None) -> str:
    """A certificate, or a run over a data set, as a model card.

    Args:
        record: the certificate, or what `RunRecord.load` returned.
        folder: where it lies, as the reader is to type it.
        base_model: hub id of the model that it is about; None: not on a hub.

    Returns:
        Markdown, for a file in UTF-8.

    Raises:
        ValueError: the record is damaged: it cannot be shown.
    """
    with shows(f"record in {folder!r}"):
        if isinstance(record, Certificate):
            metadata, body = _of_certificate(record, folder)
        elif record.of_classes:
            metadata, body = _of_classes(record, folder)
        else:
            metadata, body = _of_prompts(record, folder)
    task = metadata.pop("task")
    images = task["type"] == "text-to-image"
    front: dict[str, Any] = {} if base_model is None else {"base_model": base_model}
    if images:
        front |= {"library_name": "diffusers", "pipeline_tag": "text-to-image"}
    front["tags"] = [*_TAGS, *(["text-to-image"] if images else [])]
    result = {"task": task, **metadata}
    if result["metrics"]:
        front["model-index"] = [{"name": base_model or "certified model", "results": [result]}]
    return (
        f"---\n{_yaml(front)}\n---\n\n" + "\n\n".join([*filter(None, body), f"Made with certify {__version__}."]) + "\n"
    )


_TASK = {"type": "text-to-image", "name": "Text-to-image generation, defended by noise"}


def _of_certificate(certificate: Certificate, folder: str) -> tuple[dict[str, Any], list[str]]:
    record, claim = certificate.provenance, certificate.headline
    of_prompt, prompt = "smoother" in record, record.get("prompt")
    about = str(prompt) if prompt else "a prompt left out of the record" if of_prompt else "an input of a function"
    metrics = [
        _metric(_kind(c), f"{words.named(c)}: {_what(c)}", c.value, rho=c.rho, alpha=c.alpha, n=c.n, theorem=c.theorem)
        for c in certificate.claims
        if c.status == "certified" and c.value is not None and c.scope == "single"
    ]
    data = {"type": "prompt" if of_prompt else "input", "name": about}
    sha = ", ".join(f"{name} `{digest}`" for name, digest in ((record.get("model") or {}).get("sha256") or {}).items())
    rows = [
        [
            words.named(c, _STYLE),
            words.value(c, _STYLE),
            _STYLE.number(c.rho, "down"),
            _STYLE.failure(c.alpha),
            c.status,
        ]
        for c in certificate.claims
    ]
    sure = f"{words.all_claims(certificate, _STYLE)}." if claim.status == "certified" else ""
    body = [
        "# Certified robustness",
        f"> {words.stated(certificate, claim, _STYLE)} {sure}".rstrip(),
        f"Prompt: {_STYLE.name(about)}." if of_prompt else "",
        "‖δ‖\\_Σ is the size of a perturbation in units of the noise. How it was found does not matter. The statement is about "
        "the model with the noise of the certificate, and not about the model alone.",
        *(_STYLE.name(notice) for notice in certificate.notices),
        _not_covered(words.left_out(certificate)),
        "## Every claim",
        _table(["claim", "value", "ρ", "α", "status"], rows),
        "## Check it",
        f"`certify check {_code(folder)}` draws afresh and looks for evidence against it." if of_prompt else "",
        f"Model, SHA-256: {sha}." if sha else "",
    ]
    return {"task": _TASK if of_prompt else {"type": "other"}, "dataset": data, "metrics": metrics}, body


def _kind(claim: Claim) -> str:
    return "certified_rate" if words.is_probability(claim) else f"certified_{claim.quantity}"


def _what(claim: Claim) -> str:
    if claim.quantity in ("radius", "class"):
        return words.value(claim)
    return f"{claim.side} bound at ρ = {words.PLAIN.number(claim.rho, 'down')}"


def _of_prompts(run: RunRecord, folder: str) -> tuple[dict[str, Any], list[str]]:
    settings = run.settings
    options = RowOptions(**{name: settings[name] for name in RowOptions.__dataclass_fields__})
    total, data = summary(run.rows, options), settings["data"]
    within = words.tolerance(options.tolerance)
    fractions = [(float(rho), float(share)) for rho, share in total["certified_fraction"]]
    metrics = [
        _metric("certified_fraction", f"certified fraction at ρ = {rho:g}", share, rho=rho, alpha=options.alpha)
        for rho, share in fractions
        if share > 0
    ]
    average = float(total["average_certified_radius"])
    metrics.append(_metric("average_certified_radius", "average certified radius", average, alpha=options.alpha))
    rows = [[f"{rho:g}", _STYLE.percent(share, "down")] for rho, share in fractions if share > 0]
    reached = sum(float(row["radius"]) >= options.rho for row in run.rows)
    body = [
        "# Certified robustness",
        f"> For {reached:,} of {len(run.rows):,} prompts and every perturbation δ with ‖δ‖\\_Σ ≤ "
        f"{_STYLE.number(options.rho, 'down')}, the smoothed text encoding stays within {within} of its reference.",
        words.each_prompt(options.alpha, total["expected_wrong"], _STYLE),
        _unfinished(run, "prompts"),
        _not_covered(
            words.not_covered(
                str(settings["smoother"]["policy"]), of_prompt=True, images=bool(options.images), deployed=False
            )
        ),
        "## Certified fraction",
        _table(["ρ", "prompts with at least this radius"], rows),
        _about(run, folder, data["sha256"]),
    ]
    return {"task": _TASK, "dataset": _dataset(data, "prompts"), "metrics": metrics}, body


def _of_classes(run: RunRecord, folder: str) -> tuple[dict[str, Any], list[str]]:
    settings, made = run.settings, ClassifiedRun.of(run)
    total, data = class_summary(made), settings["data"]
    accuracy = [(float(rho), float(share)) for rho, _, share in total["certified_accuracy"]]
    metrics = [
        _metric("certified_accuracy", f"certified accuracy at ρ = {rho:g}", share, rho=rho, alpha=settings["alpha"])
        for rho, share in accuracy
        if share > 0
    ]
    rows = [[f"{rho:g}", _STYLE.percent(share, "down")] for rho, share in accuracy if share > 0]
    body = [
        "# Certified robustness",
        f"> {total['right']:,} of {total['inputs']:,} inputs are certified with the right class: for every perturbation up to "
        "the radius of an input more than half of all its noisy copies are given that class.",
        words.each_prompt(settings["alpha"], total["expected_wrong"], _STYLE, what="input"),
        _unfinished(run, "inputs"),
        _not_covered(words.NOT_COVERED_BY_CLASSES),
        "## Certified accuracy",
        _table(["ρ", "inputs certified with the right class"], rows),
        _about(run, folder, data["inputs_sha256"]),
    ]
    return {
        "task": {"type": "other", "name": "classification"},
        "dataset": _dataset(data, "inputs"),
        "metrics": metrics,
    }, body


def _metric(kind: str, name: str, value: float, **settings: Any) -> dict[str, Any]:
    shown: Any = value if math.isfinite(value) else "infinite"
    return {"type": kind, "name": name, "value": shown, "args": settings}


def _dataset(data: Mapping[str, Any], what: str) -> dict[str, Any]:
    return {"type": what, "name": str(data["name"] or "not named"), "args": {"rows": data["rows"]}}


def _unfinished(run: RunRecord, what: str) -> str:
    total = run.settings["data"]["rows"]
    done = len(run.rows)
    return (
        ""
        if done == total
        else f"The run is not over, or was limited: {done:,} of {words.count(total)} {what} are done."
    )


def _about(run: RunRecord, folder: str, digest: str | None) -> str:
    data = "left out" if digest is None else f"`{_code(digest)}`"
    seed = _STYLE.name(run.settings["seed"])
    return f"Run `{run.run}` in `{_code(folder)}`, seed {seed}. SHA-256 of the data: {data}."


def _not_covered(items: Iterable[str]) -> str:
    said = [_STYLE.name(f"{item[:1].upper()}{item[1:].removesuffix('.')}.") for item in items]
    return "## What is not covered\n\n" + "\n".join(f"- {item}" for item in said)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _code(text: str) -> str:
    """Text between backticks, which has none."""
    return " ".join(cleaned(text).replace("`", "'").split())


def _yaml(value: Any, indent: int = 0) -> str:
    """JSON values as YAML: mappings and lists in blocks, every text in quotes."""
    pad = "  " * indent
    lines = []
    for key, item in value.items() if isinstance(value, dict) else ((None, item) for item in value):
        before = f"{pad}- " if key is None else f"{pad}{key}: "
        if isinstance(item, dict):
            block = _yaml(item, indent + 1)
            lines.append(f"{before}{block.lstrip()}" if key is None else f"{pad}{key}:\n{block}")
        elif isinstance(item, list):
            lines.append(f"{pad}{key}:\n{_yaml(item, indent)}")
        else:
            lines.append(before + _scalar(item))
    return "\n".join(lines)


def _scalar(value: Any) -> str:
    if isinstance(value, float):
        text = repr(value)
        return text if "." in text else text.replace("e", ".0e")  # 1e-05 would be a text in YAML 1.1
    if isinstance(value, str):
        return json.dumps(" ".join(cleaned(value).split()), ensure_ascii=False)
    return json.dumps(value)
