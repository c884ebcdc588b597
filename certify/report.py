"""A page to forward: a certificate, or the run over a data set, as one HTML file that needs nothing else.

The page says in one sentence what is claimed, then shows what stands behind it: the tokens in the colour of their noise, the
curves, the substitutions that a radius covers, images with and without the defence, every claim with its status, how to check
it again, and where it comes from. It has no script and loads nothing; its content security policy forbids both.

**Numbers.** Each stands in a `<data value="…">` with the file's exact value, and is shown with four digits, rounded in the
safe direction: an upper bound up, a lower bound and a radius down. What is shown is then a claim of the certificate, too.

**Text.** Prompts, tokens and names come from files that anybody may have written. All of it is escaped, control characters are
replaced, and every piece stands in a `<bdi>`, so that a right-to-left mark cannot turn the words around it.

Functions here are pure: records in, a string out. Nothing is drawn afresh or checked; the page says so.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from certify import _files
from certify._records import Record
from certify._text import confidence, percent, shown
from certify._text import escaped as _e
from certify.certificate import POLICIES, Certificate, Claim
from certify.colours import opacity, shares
from certify.datasets import read_record

__all__ = ["Pictures", "RunRecord", "certificate_page", "file_digests", "run_page"]

EVENT_RHOS = (0.0, 0.1, 0.25, 0.5, 1.0)
"""Radii at which an event's bound stands in the table below its curve."""

_WIDE, _HIGH = 480, 290  # of a chart, in its own units
_LEFT, _RIGHT, _TOP, _BOTTOM = 68, 14, 16, 44
_NEAREST = 3  # uncovered tokens that are named
_PLAIN = {"frozen": "A defence that sets its noise anew from the changed prompt. "}
_RUN_FORMAT = "certify prompts 1"
_COPY = (
    "<strong>This page is a copy for reading</strong>: it was written from the files without drawing anything, and who can "
    "change a file can change a page. What counts is the check."
)


@dataclass(frozen=True)
class Pictures(Record):
    """Images for a page, PNG files as bytes.

    Attributes:
        undefended, defended: as many of one as of the other; the i-th of both start from the same noise. Or
        sheet: one picture, undefended images above and defended ones below.
        note: where they come from, in words.
    """

    undefended: tuple[bytes, ...] = ()
    defended: tuple[bytes, ...] = ()
    sheet: bytes | None = None
    note: str = ""

    def __post_init__(self) -> None:
        if len(self.undefended) != len(self.defended):
            raise ValueError(
                f"undefended, defended have {len(self.undefended)}, {len(self.defended)} images: must be as many"
            )


@dataclass(frozen=True)
class RunRecord(Record):
    """The folder of `certify prompts`, read back.

    Attributes:
        settings: what decided the results (`certify.datasets.run_settings`).
        rows: a record a prompt, in order; fewer than the data set has where the run is not over.
        run: the run's digest.
        kept: row number → folder of its certificate, relative to the run's, where certificates were kept.
    """

    settings: Mapping[str, Any]
    rows: tuple[Mapping[str, Any], ...]
    run: str
    kept: Mapping[int, str] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: str | Path) -> RunRecord:
        """Reads a run. Nothing is written. A torn last line, of a run that was killed, is passed over.

        Raises:
            FileNotFoundError: the folder holds no run.
            ValueError: a file is damaged, or the two are of different runs.
        """
        path = Path(folder)
        settings_file, results_file = path / "settings.json", path / "results.jsonl"
        for file in (settings_file, results_file):
            if not file.is_file():
                raise FileNotFoundError(f"folder = {str(path)!r}: holds no {file.name}")
        try:
            there = _files.read_json(settings_file)
            settings = dict(there["settings"])
            stated = there["digest"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{settings_file}: is damaged ({error!r})") from None
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True, ensure_ascii=False).encode("utf-8", "replace"))
        if stated != digest.hexdigest():
            raise ValueError(f"{settings_file}: is damaged (its digest differs)")
        if settings.get("format") != _RUN_FORMAT:
            raise ValueError(f"{settings_file}: format = {settings.get('format')!r}, must be {_RUN_FORMAT!r}")
        run = digest.hexdigest()[:16]
        rows = _rows(results_file, run)
        return cls(settings, tuple(rows), run, _kept(path, len(rows)))


def _rows(file: Path, run: str) -> list[Mapping[str, Any]]:
    lines = file.read_bytes().split(b"\n")
    lines.pop()  # what follows the last line's end: nothing, or a torn line
    rows: list[Mapping[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        record, wrong = read_record(line, number, run)
        if record is None and number == len(lines):
            break
        if wrong or record is None:
            raise ValueError(f"{file}, line {number}: is damaged or of another run ({wrong})")
        rows.append(record)
    if not rows:
        raise ValueError(f"{file}: holds no result yet; must hold at least one")
    return rows


def _kept(path: Path, rows: int) -> dict[int, str]:
    folder = path / "certificates"
    found = sorted(p for p in folder.iterdir() if p.name.isdecimal()) if folder.is_dir() else []
    return {
        int(p.name): f"certificates/{p.name}"
        for p in found
        if 1 <= int(p.name) <= rows and (p / "certificate.json").is_file()
    }


def file_digests(folder: str | Path, names: Iterable[str]) -> dict[str, str]:
    """SHA-256 of those of the files that are in the folder."""
    there = {name: Path(folder) / name for name in names}
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in there.items() if path.is_file()}


def certificate_page(
    certificate: Certificate,
    *,
    folder: str = "FOLDER",
    digests: Mapping[str, str] | None = None,
    pictures: Pictures | None = None,
) -> str:
    """A certificate as a page.

    Args:
        certificate: of a prompt (`certify prompt`), or any other; what its provenance does not hold is left out.
        folder: where it lies, as the reader is to type it in order to check it again.
        digests: SHA-256 of its files, by name.
        pictures: images with and without the defence; None: none.

    Returns:
        An HTML document, for a file in UTF-8.

    Raises:
        ValueError: its provenance is damaged: it cannot be shown.
    """
    try:
        return _certificate_page(certificate, folder, digests or {}, pictures)
    except (KeyError, TypeError, AttributeError, IndexError, ArithmeticError, ValueError) as error:
        raise ValueError(f"certificate in {folder!r}: what it has on record cannot be shown ({error!r})") from error


def run_page(run: RunRecord, *, folder: str = "FOLDER", digests: Mapping[str, str] | None = None) -> str:
    """A run over a data set as a page.

    Args:
        run: what `RunRecord.load` returned.
        folder: where it lies, as the reader is to type it.
        digests: SHA-256 of its files, by name.

    Returns:
        An HTML document, for a file in UTF-8.

    Raises:
        ValueError: its records or settings are damaged: they cannot be shown.
    """
    try:
        return _run_page(run, folder, digests or {})
    except (KeyError, TypeError, AttributeError, IndexError, ArithmeticError, ValueError) as error:
        raise ValueError(f"run in {folder!r}: what it has on record cannot be shown ({error!r})") from error


# A certificate


def _certificate_page(
    certificate: Certificate, folder: str, digests: Mapping[str, str], pictures: Pictures | None
) -> str:
    record = certificate.provenance
    prompt = record.get("prompt")
    of_prompt = "smoother" in record
    title = str(prompt) if prompt else "a prompt left out of the record" if of_prompt else "a function"
    event = next((c for c in certificate.claims if c.quantity == "event"), None)
    silent = sum(claim.status == "abstained" for claim in certificate.claims)
    tiles = [
        ("confidence, all claims together", _confidence(certificate.alpha)),
        ("claims made", f"{len(certificate.claims) - silent} of {len(certificate.claims)}"),
        ("covariance policy", _e(certificate.claims[0].policy)),
    ]
    main = certificate.main
    tiles.insert(0, ("radius ρ of that sentence", _n(main.rho, "near")))
    body = [
        _head("Robustness certificate", title, _headline(certificate, main), tiles, of_prompt),
        _short_list(certificate, main),
        _not_covered(
            certificate.claims[0].policy,
            of_prompt=of_prompt,
            images=event is not None,
            deployed=any(c.replicas is not None for c in certificate.claims),
        ),
        _tokens(certificate) if "token_noise" in record else "",
        _bound_curve(certificate),
        _event_curve(certificate, event) if event is not None else "",
        _coverage(certificate),
        _images(pictures) if pictures is not None else "",
        _claims_table(certificate),
        _check_certificate(certificate, folder),
        _provenance(certificate, digests),
    ]
    return _document(f"Certificate: {title}", body)


def _headline(certificate: Certificate, claim: Claim) -> str:
    sure = f"with {_confidence(certificate.alpha)} confidence"
    stick = certificate.provenance.get("yardstick")
    if claim.status == "abstained":
        return f"Nothing is claimed: {_e(claim.reason)}."
    if claim.quantity != "mse" or not stick or claim.function != "text encoding":
        return f"{_in_words(certificate, claim).removesuffix('.')}, {sure}."
    prompt, distance, value = certificate.provenance.get("prompt"), _real(stick["distance"]), _real(claim.value)
    of = f"the prompt “{_e(prompt)}”" if prompt else "the prompt"
    word = f"the word “{_e(stick['word'])}”" if stick.get("word") else "its most relevant word"
    change = f"Whatever change of size up to {_n(claim.rho, 'near')} an attacker makes to the embeddings of {of}"
    if distance <= 0 or value > distance:
        return (
            f"{change}, its smoothed encoding stays within squared distance {_n(value)} of {_reference(claim)}, {sure}. "
            f"That says little: leaving out {word} moves it by {_n(distance, 'near')}."
        )
    share = math.sqrt(value / distance)
    return (
        f"{change}, its smoothed encoding stays near {_reference(claim)}: at most {_percent(share)} as far from it as "
        f"leaving out {word} would take it, {sure}."
    )


def _short_list(certificate: Certificate, main: Claim) -> str:
    """The other claims that are no point of a curve, each in a sentence for people."""
    items = []
    for claim in certificate.claims:
        if claim is main or claim.scope in ("pointwise", "simultaneous"):
            continue
        items.append(_in_words(certificate, claim))
    if not items:
        return ""
    return _section(
        "Also claimed", f"<ul>{''.join(f'<li>{item}</li>' for item in items)}</ul>{_yardstick(certificate)}"
    )


def _in_words(certificate: Certificate, claim: Claim) -> str:
    """A claim in a sentence, its confidence left out."""
    name, change = _e(claim.function), f"under every change of size up to {_n(claim.rho, 'near')}"
    often = "" if claim.q is None else f"in at least {_percent(claim.q, 'down')} of runs "
    if claim.status == "abstained":
        return f"<strong>No claim</strong> about the {name} ({_e(claim.quantity)}): {_e(claim.reason)}."
    match claim.quantity:
        case "mse":
            return (
                f"The {_e(claim.smoother)}-smoothed {name} stays within <strong>squared distance {_n(claim.value)}</strong> of "
                f"{_reference(claim)} {change}."
            )
        case "radius":
            return (
                f"The largest certified change has <strong>size {_n(claim.value, 'down')}</strong>: up to there the "
                f"{_e(claim.smoother)}-smoothed {name} stays within squared distance {_n(claim.tolerance)} of "
                f"{_reference(claim)}."
            )
        case "deployed":
            stick = certificate.provenance.get("yardstick")
            plain = math.sqrt(max(_real(stick["distance"]), 0.0)) if stick else 0.0
            against = f" ({_percent(_real(claim.value) / plain)} of the yardstick’s)" if plain > 0 else ""
            return (
                f"What runs, the {_e(claim.smoother)} over {_copies(claim.replicas)}, is within <strong>distance "
                f"{_n(claim.value)}</strong>{against} of its reference {often}{change}."
            )
        case "event":
            least = f"at least {_percent(claim.lower, 'down')} and " if claim.side == "two-sided" else ""
            return (
                f"The probability that the {name} is <strong>{least}at most {_percent(claim.value)}</strong> {change}"
                f"{_measured(certificate)}."
            )
        case "statistic":
            return f"The {name}, with {_copies(claim.replicas)}, is {_ends(claim)} {often}{change}."
    return (
        f"Each of {claim.outputs:,} percentile-smoothed outputs (p = {_n(claim.p, 'near')}) of {name} stays inside its "
        f"interval {change}, all of them jointly."
    )


def _reference(claim: Claim) -> str:
    return "its value at the input itself" if claim.reference == "population" else "its reference"


def _measured(certificate: Certificate) -> str:
    measured = certificate.provenance.get("undefended")
    if not measured:
        return ""
    return f" (measured without the defence and without an attack, not certified: {_percent(measured['rate'], 'near')})"


def _yardstick(certificate: Certificate) -> str:
    stick = certificate.provenance.get("yardstick")
    if not stick:
        return ""
    word = f"“{_e(stick['word'])}”" if stick.get("word") else "its most relevant word"
    return (
        f'<p class="note">Yardstick: without {word} the encoding is a squared distance of '
        f"{_n(stick['distance'], 'near')} away. A bound above it is <em>vacuous</em>: true, and saying little. "
        "Reference: a fixed value, in general the smoothed one as separate draws at the unchanged prompt estimate it.</p>"
    )


def _ends(claim: Claim) -> str:
    if claim.side == "lower":
        return f"<strong>at least {_n(claim.value, 'down')}</strong>"
    if claim.side == "two-sided":
        return f"<strong>between {_n(claim.lower, 'down')} and {_n(claim.value)}</strong>"
    return f"<strong>at most {_n(claim.value)}</strong>"


def _not_covered(policy: str, *, of_prompt: bool, images: bool, deployed: bool) -> str:
    items = [
        _PLAIN.get(policy, "") + _e(POLICIES[policy]),
        "Changes larger than the radius, and any number that is not on this page.",
    ]
    if of_prompt:
        items.append(
            "Prompts with another number of tokens, and changes at positions without noise (begin, end, padding)."
        )
        if not images:
            items.append("The image: these claims are about what it is made from.")
    items.append(
        "Whether the output is harmless to begin with: a certificate says how far an attacker can move it, not where it is."
    )
    if deployed:
        items.append("A deployment whose noise is not fresh in every run, or not secret.")
    else:
        items.append("The few noisy copies that are deployed in place of the ideal smoother.")
    return _section("What is not covered", f"<ul>{''.join(f'<li>{i}</li>' for i in items)}</ul>", "warn")


def _tokens(certificate: Certificate) -> str:
    noise = certificate.provenance["token_noise"]
    sigma, kinds, relevance = [_real(s) for s in noise["sigma"]], noise["kinds"], noise["relevance"]
    names = noise.get("tokens") or [f"#{i}" for i in range(len(sigma))]
    if not len(sigma) == len(kinds) == len(relevance) == len(names):
        raise ValueError("the token noise has lists of different lengths")
    spread = certificate.provenance.get("token_spread")
    chips, hidden = [], 0
    for name, kind, score, s, share in zip(names, kinds, relevance, sigma, shares(sigma, log=True), strict=True):
        if kind == "padding" and s == 0:
            hidden += 1
            continue
        text = str(name)
        label = {"<|startoftext|>": "begin", "<|endoftext|>": "end"}.get(text, text.removesuffix("</w>")) or " "
        joined = kind == "word" and "tokens" in noise and not text.endswith("</w>")
        below = "no noise" if s <= 0 else f"{_n(s / _real(spread), 'near', 2)} ×" if spread else f"σ {_n(s, 'near', 3)}"
        score_text = "" if score is None else f"{_n(score, 'near', 2, sign=True)}"
        chips.append(
            f'<span class="token{" joined" if joined else ""}"><b style="background:rgba(213,94,0,{opacity(share):.3f})">'
            f"{_e(label)}</b><small>{below}</small><small>{score_text}</small></span>"
        )
    concepts = ", ".join(_e(c["name"]) for c in (certificate.provenance.get("smoother") or {}).get("concepts", ()))
    unit = "in units of the usual spread of token embeddings" if spread else "σ"
    legend = (
        f'<p class="note">Below each token: its noise, {unit}, and its relevance to {concepts or "the concept"} (−1 to 1). The '
        "stronger the colour, the more noise (on a logarithmic scale), and the larger the changes of that token."
        + (f" {hidden} padding positions carry no noise." if hidden else "")
        + "</p>"
    )
    return _section("The prompt, coloured by noise", f'<p class="tokens">{"".join(chips)}</p>{legend}')


def _bound_curve(certificate: Certificate) -> str:
    curve = certificate.curve
    if curve is None:
        return ""
    stick = certificate.provenance.get("yardstick")
    distance = _real(stick["distance"]) if stick else None
    points = [(r, v) for r, v in zip(curve.rhos, curve.values, strict=True) if math.isfinite(v)]
    positive = [v for _, v in points if v > 0] + ([distance] if distance else [])
    log = bool(positive) and max(positive) > 50 * min(positive)
    chart = _chart(
        [_Line(points, dots=True, dashed=not curve.simultaneous)],
        "size ρ of the change",
        "bound (squared distance)",
        log=log,
        level=None if distance is None else (distance, "leaving out the word"),
        name="Bound against radius",
    )
    rows = []
    for claim in curve.points:
        if claim.status == "abstained":
            rows.append([_n(claim.rho, "near"), "none", "", f"abstained: {_e(claim.reason)}"])
            continue
        value = _real(claim.value)
        ratio = _n(value / distance) if distance else ""
        vacuous = '<span class="bad">vacuous</span>' if distance is not None and value > distance else ""
        rows.append([_n(claim.rho, "near"), _n(value), ratio, vacuous])
    kind = "All points hold at once" if curve.simultaneous else "Each point holds by itself, not all at once"
    note = f'<p class="note">{kind}, with {_confidence(curve.alpha)} confidence, n = {curve.n:,}.</p>'
    head = ["size ρ", "at most", "× yardstick" if distance else "", ""]
    return _section("How far can the output move?", f"<figure>{chart}</figure>{_table(head, rows)}{note}")


def _event_curve(certificate: Certificate, claim: Claim) -> str:
    heading = f"Attack success rate: {_e(claim.function)}"
    if claim.status == "abstained":
        return _section(heading, f"<p>No bound: {_e(claim.reason)}.</p>")
    if claim.scope == "stopped early":
        return _section(heading, f"<p>{_in_words(certificate, claim)} Nothing is said about other radii.</p>")
    event, measured = certificate.event(claim), certificate.provenance.get("undefended")
    rate = None if not measured else _real(measured["rate"])
    largest = max(1.0, claim.rho)
    points = [(largest * i / 100, event.at(largest * i / 100)) for i in range(101)]
    chart = _chart(
        [_Line(points)],
        "size ρ of the change",
        "probability, at most",
        top=1.0,
        level=None if rate is None else (rate, "measured without the defence"),
        name="Certified attack success rate against radius",
    )
    rows = [[_n(rho, "near"), _percent(event.at(rho))] for rho in sorted({*EVENT_RHOS, claim.rho})]
    half = event.radius(0.5)
    note = (
        f"Seen in {event.successes:,} of {event.n:,} images without an attack, {_copies(event.replicas)} an image. All radii "
        f"hold at once, with {_confidence(claim.alpha)} confidence. "
    )
    note += (
        f"The rate stays below one half up to ρ = {_n(half, 'down')}."
        if half > 0
        else "It is not below one half at any radius."
    )
    if measured:
        note += (
            f" Without the defence, measured and not certified: {_percent(rate, 'near')} ({_count(measured['successes'])} of "
            f"{_count(measured['n'])} images)."
        )
    chance = certificate.provenance.get("without_word")
    if chance:
        note += (
            f" The prompt without its most relevant word: {_percent(chance['rate'], 'near')}; a washed-out word leaves about "
            "that."
        )
    table = _table(["size ρ", "at most"], rows)
    return _section(heading, f'<figure>{chart}</figure>{table}<p class="note">{note}</p>')


def _coverage(certificate: Certificate) -> str:
    record = certificate.provenance
    positions, prompts = record.get("coverage") or [], record.get("covered_prompts") or []
    if not positions and not prompts:
        return ""
    tokens = (record.get("token_noise") or {}).get("tokens")
    parts = []
    if positions:
        rows = []
        for p in positions:
            named = _token(tokens[p["position"]]) if tokens else f"position {_count(p['position'])}"
            covered = f"{_count(p['covered'])} of {_count(p['comparable'])}"
            state = "<strong>washed out</strong>" if p["washed_out"] else "in part" if p["covered"] else "none"
            near = [
                f"{_token(u['token'])} at {_n(u['distance'], 'near')}" for u in (p.get("uncovered") or ())[:_NEAREST]
            ]
            rows.append([named, state, covered, "; ".join(near)])
        rho = _n(positions[0]["rho"], "near")
        parts.append(
            f"<p>Which other tokens may stand in the place of one, as a change of size at most {rho}? A token is "
            "<strong>washed out</strong> where all of them may: whatever stands there, the smoothed output is the same up to "
            "the bound.</p>"
        )
        parts.append(_table(["token", "covered", "substitutes", "nearest not covered, at size"], rows, text=(3,)))
    if prompts:
        rows = [
            [
                _e(p["prompt"]),
                "covered" if p["covered"] else "not covered",
                "" if p.get("distance") is None else _n(p["distance"], "near"),
                _e(p.get("reason") or ""),
            ]
            for p in prompts
        ]
        inside = sum(bool(p["covered"]) for p in prompts)
        parts.append(
            f"<p>Of {len(prompts):,} attack prompts given, {inside:,} {'is' if inside == 1 else 'are'} covered.</p>"
        )
        parts.append(_table(["attack prompt", "", "at size", "reason"], rows, text=(3,), plain=(1,)))
    return _section("What the radius means in prompts", "".join(parts))


def _images(pictures: Pictures) -> str:
    if pictures.sheet is not None:
        shown = (
            f'<figure class="sheet">{_img(pictures.sheet, "Images: undefended above, defended below")}'
            "<figcaption>Above: undefended. Below: defended, from the same initial noise.</figcaption></figure>"
        )
    elif pictures.undefended:
        pairs = "".join(
            f"{_img(u, f'Undefended image {i}')}{_img(d, f'Defended image {i}')}"
            for i, (u, d) in enumerate(zip(pictures.undefended, pictures.defended, strict=True), start=1)
        )
        labels = "<span>undefended</span><span>defended</span>" * min(2, len(pictures.undefended))
        shown = f'<div class="pairs">{labels}{pairs}</div>'
    else:
        shown = ""
    note = f'<p class="note">{_e(pictures.note)}</p>' if pictures.note else ""
    if not shown:
        return _section("With and without the defence", note) if note else ""
    said = '<p class="note">Examples, not claims: no image here is certified.</p>'
    return _section("With and without the defence", f"{shown}{note}{said}")


def _img(data: bytes, alternative: str) -> str:
    encoded = base64.b64encode(data).decode()
    return f'<img src="data:image/png;base64,{encoded}" alt="{_e(alternative, isolate=False)}">'


def _claims_table(certificate: Certificate) -> str:
    rows = []
    for number, claim in enumerate(certificate.claims, start=1):
        made = claim.status == "certified"
        state = "certified" if made else '<span class="bad">abstained</span>'
        rows.append(
            [
                str(number),
                f"{_object(claim)}<br><small>{_e(', '.join(_details(claim)))}</small>"
                + ("" if made else f"<br>{_e(claim.reason)}"),
                _claimed_value(claim),
                _n(claim.rho, "near"),
                "" if claim.q is None else _n(claim.q, "near"),
                _n(claim.alpha, "near", 3),
                f"{claim.n:,}",
                _e(f"{claim.theorem}, {claim.method}"),
                state,
            ]
        )
    head = ["#", "claim", "value", "ρ", "q", "α", "draws", "proof", "status"]
    note = (
        '<p class="note">α: probability that the draws behind the claim were so unlucky that it is false; all claims together '
        f"{_n(certificate.alpha, 'near', 3)}. q: probability over the noise of what is deployed. An abstention claims "
        "nothing, and is no sign of weakness.</p>"
    )
    return _section("Every claim", _table(head, rows, text=(1, 7), wide=True, plain=(8,)) + note)


def _object(claim: Claim) -> str:
    """What a claim's value is."""
    words = {
        "mse": "squared distance of the smoothed",
        "radius": "largest size of change, for the smoothed",
        "percentile": "percentiles of",
        "deployed": "distance of the deployed",
        "event": "probability:",
        "statistic": "",
    }
    return f"{words[claim.quantity]} {_e(claim.function)}".strip()


def _details(claim: Claim) -> list[str]:
    points = {"simultaneous": "a point of a curve, all at once", "pointwise": "a point of a curve, by itself"}
    found = [points.get(claim.scope, claim.scope if claim.scope != "single" else "")]
    if claim.smoother not in ("none", "percentile"):
        found.append(f"{claim.smoother} over {'all noise' if claim.replicas is None else _copies(claim.replicas)}")
    elif claim.replicas is not None:
        found.append(_copies(claim.replicas))
    if claim.tolerance is not None:
        found.append(f"within squared distance {shown(claim.tolerance, 'up', 4)}")
    if claim.reference == "population":
        found.append("from the smoothed value at the input")
    return [part for part in found if part]


def _claimed_value(claim: Claim) -> str:
    if claim.status == "abstained":
        return "none"
    if claim.quantity == "percentile":
        return "a box"
    if claim.quantity == "event" or claim.quantity == "statistic":
        low = "" if claim.side != "two-sided" else f"{_n(claim.lower, 'down')} … "
        return f"{low}{_n(claim.value, 'down' if claim.side == 'lower' else 'up')}"
    return _n(claim.value, "down" if claim.quantity == "radius" else "up")


def _check_certificate(certificate: Certificate, folder: str) -> str:
    record = certificate.provenance
    functions = {claim.function for claim in certificate.claims}
    if "smoother" not in record and (len(functions) > 1 or record.get("prompt") is None):
        command = f"certify.Certificate.load({folder!r}).check(f, y, seed=1)"
        how = (
            "In Python, with the function f (a mapping of names to functions where there are several) and the input y:"
        )
    else:
        hidden = "" if record.get("prompt") else " --prompt …"
        command = f"certify check {shlex.quote(folder)}{hidden}"
        how = "With the files that this page was made from, and the model:"
    return _section(
        "How to check it again",
        f"<p>{how}</p><pre><code>{_e(command, isolate=False)}</code></pre>"
        "<p>It compares the model’s SHA-256 with the one below, tests whether every value follows from the evidence on file, "
        f"and draws afresh to test the evidence. A true certificate is refuted with probability at most 10⁻⁶. {_COPY}</p>",
    )


def _provenance(certificate: Certificate, digests: Mapping[str, str]) -> str:
    record = certificate.provenance
    model = record.get("model") or {}
    source = record.get("source") or {}
    rows = [
        ("made", _e(record.get("created", "not on record"))),
        ("seed", _e(record.get("seed", "not on record"))),
        ("pilot draws", _e(record.get("pilot", "not on record"))),
        ("computed in", _e(f"{record.get('dtype', '?')} on {record.get('device', '?')}")),
        ("model", _e(source.get("model") or ("embedded" if "model" in source else model.get("kind", "not on record")))),
    ]
    rows += [(name.replace("_", " "), _e(source[name])) for name in ("unet", "text_encoder") if source.get(name)]
    rows += [(f"SHA-256 of {_e(name)}", _code(value)) for name, value in (model.get("sha256") or {}).items()]
    if not model.get("sha256"):
        rows.append(("SHA-256 of the model", "none: the certificate is about a plain callable"))
    if record.get("input_sha256"):
        rows.append(("SHA-256 of the input", _code(record["input_sha256"])))
    rows += [(f"SHA-256 of {_e(name)}", _code(value)) for name, value in digests.items()]
    rows += _smoother_rows(record.get("smoother"))
    rows += [("versions", _e(", ".join(f"{k} {v}" for k, v in (record.get("versions") or {}).items())))]
    return _section("Where it comes from", _facts(rows))


def _smoother_rows(smoother: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    if not smoother:
        return []
    names = ("sigma0", "k", "n", "aggregate", "use_global", "policy", "similarity", "special_tokens")
    said = ", ".join(f"{name} = {smoother[name]}" for name in names if smoother.get(name) is not None)
    rows = [("smoother", _e(said))]
    for concept in smoother.get("concepts", ()):
        rows.append(
            (
                f"concept {_e(concept['name'])}",
                f"{_count(concept['pairs'])} prompt pairs, SHA-256 {_code(concept['sha256'])}",
            )
        )
    return rows


# A run


def _run_page(run: RunRecord, folder: str, digests: Mapping[str, str]) -> str:
    from certify.datasets import RowOptions, summary

    settings, rows = run.settings, run.rows
    options = RowOptions(**{f.name: settings[f.name] for f in fields(RowOptions)})
    total, data = summary(rows, options), settings["data"]
    radii = [float(row["radius"]) for row in rows]
    policy = str(settings["smoother"]["policy"])
    within = (
        "each prompt’s yardstick (the squared distance that leaving out its most relevant word makes)"
        if options.tolerance is None
        else f"squared distance {_n(options.tolerance, 'near')}"
    )
    reached = sum(r >= options.rho for r in radii)
    over = len(rows) == data["rows"]
    left = (
        ""
        if over
        else f" The run is not over, or was limited: {len(rows):,} of {_count(data['rows'])} prompts are done."
    )
    headline = (
        f"For {reached:,} of {len(rows):,} prompts ({_percent(reached / len(rows), 'down')}), whatever change of size up to "
        f"{_n(options.rho, 'near')} an attacker makes to the embeddings, the smoothed encoding stays within "
        f"{within}: each with {_confidence(options.alpha)} confidence.{left}"
    )
    tiles = [
        ("have a certified radius", f"{total['certified']:,} of {len(rows):,}"),
        ("average radius", _n(sum(radii) / len(radii), "down")),
        ("median radius", _n(sorted(radii)[(len(radii) - 1) // 2], "down")),
        ("confidence, each prompt", _confidence(options.alpha)),
    ]
    body = [
        _head("Certified data set", str(data["name"]), headline, tiles),
        _section(
            "How to read the confidence",
            f"<p>Each prompt’s certificate holds by itself with {_confidence(options.alpha)} confidence, not all at once: of "
            f"them at most {_n(total['expected_wrong'])} are expected to be wrong. {total['abstained']:,} prompts have no "
            f"certified radius and {total['refused']:,} were refused; they count with radius 0.</p>",
        ),
        _not_covered(
            policy,
            of_prompt=True,
            images=bool(options.images),
            deployed=any(other.get("q") is not None for row in rows for other in row.get("others", ())),
        ),
        _fractions(radii, options.rho, len(rows)),
        _prompts_table(run),
        _others_table(run),
        _check_run(run, folder),
        _run_provenance(run, digests),
    ]
    return _document(f"Certified data set: {data['name']}", body)


def _fractions(radii: Sequence[float], rho: float, prompts: int) -> str:
    from certify.datasets import FRACTION_RHOS, certified_fraction

    finite = [r for r in radii if 0 < r < math.inf]
    edge = 1.05 * max(finite) if finite else 1.0
    corners = sorted(set(finite))
    points, before = [(0.0, sum(r > 0 for r in radii) / prompts)], 0.0
    for corner in corners:
        share = sum(r >= corner for r in radii) / prompts
        points += [(before, share), (corner, share)]
        before = corner
    last = sum(r > before for r in radii) / prompts
    points += [(before, last), (edge, last)]
    chart = _chart([_Line(points)], "radius ρ", "certified fraction", top=1.0, name="Certified fraction against radius")
    rows = [
        [_n(at, "near"), _percent(certified_fraction(radii, at), "down"), f"{sum(r >= at for r in radii):,}"]
        for at in sorted({*FRACTION_RHOS, rho})
    ]
    # Behind the first radius that nothing reaches there is nothing to read.
    stop = next(
        (i for i, (at, _, _) in enumerate(rows) if not any(r >= sorted({*FRACTION_RHOS, rho})[i] for r in radii)),
        len(rows),
    )
    return _section(
        "Certified fraction against radius",
        f"<figure>{chart}</figure>{_table(['radius ρ', 'fraction', 'prompts'], rows[: stop + 1])}",
    )


def _prompts_table(run: RunRecord) -> str:
    rows = []
    for row in run.rows:
        state = _e(row["status"]) if row["status"] == "certified" else f'<span class="bad">{_e(row["status"])}</span>'
        bound = row.get("bound")
        stick = _real((row.get("yardstick") or {}).get("distance", math.nan)) if row.get("yardstick") else None
        vacuous = (
            ' <span class="bad">vacuous</span>' if bound is not None and stick is not None and bound > stick else ""
        )
        rows.append(
            [
                _count(row["row"]),
                _e(row["prompt"]) if "prompt" in row else "left out",
                state,
                _n(float(row["radius"]), "down"),
                "" if row.get("tolerance") is None else _n(row["tolerance"], "near"),
                "none" if bound is None else f"{_n(bound)}{vacuous}",
                "" if stick is None else _n(stick, "near"),
                _e(row.get("reason") or ""),
            ]
        )
    head = ["#", "prompt", "status", "radius ρ", "within", f"bound at {run.settings['rho']:g}", "yardstick", "reason"]
    return _section("Every prompt", _table(head, rows, text=(1, 7), wide=True, plain=(2,)))


def _others_table(run: RunRecord) -> str:
    rows = []
    for row in run.rows:
        for other in row.get("others", ()):
            value = other.get("value")
            certified = other["status"] == "certified"
            shown = "none" if not certified else "a box" if value is None else _n(float(value))
            rows.append(
                [
                    _count(row["row"]),
                    f"{_e(other['function'])} <small>{_e(other['quantity'])}</small>",
                    shown,
                    _n(other["rho"], "near"),
                    "" if other.get("q") is None else _n(other["q"], "near"),
                    _n(other["alpha"], "near", 3),
                    _count(other["n"]),
                    _e(f"{other['theorem']}, {other['method']}"),
                    "certified" if certified else '<span class="bad">abstained</span>',
                ]
            )
    if not rows:
        return ""
    head = ["#", "about", "at most", "ρ", "q", "α", "draws", "proof", "status"]
    return _section("The other claims of each prompt", _table(head, rows, text=(1, 7), wide=True, plain=(8,)))


def _check_run(run: RunRecord, folder: str) -> str:
    parts = []
    if run.kept:
        hidden = " --prompt …" if run.settings.get("private") else ""
        lines = [f"certify check {shlex.quote(str(Path(folder) / where))}{hidden}" for where in run.kept.values()]
        listed = "\n".join(lines)
        parts.append(
            f"<p>Row by row, with the files and the model:</p><pre><code>{_e(listed, isolate=False)}</code></pre>"
        )
    else:
        parts.append(
            "<p>The certificates were not kept (<code>--save-certificates</code>). The same <code>certify prompts</code> "
            "command with the settings below, into another folder, gives the same claims on the same kind of device; "
            "<code>certify prompt</code> certifies a single row anew.</p>"
        )
    parts.append(f"<p>{_COPY}</p>")
    return _section("How to check it again", "".join(parts))


def _run_provenance(run: RunRecord, digests: Mapping[str, str]) -> str:
    settings = run.settings
    data, model = settings["data"], settings["model"]
    rows = [
        ("data set", f"{_e(data['name'])}, {_count(data['rows'])} prompts"),
        ("SHA-256 of the data", _code(data["sha256"])),
        ("run", _code(run.run)),
        ("seed", _e(settings["seed"])),
        ("draws a prompt", _count(settings["n"])),
        ("computed in", _e(f"{settings['dtype']} on {settings['device']}")),
        ("version", _e(f"certify {settings['version']}")),
    ]
    parts = model.items() if isinstance(model, Mapping) else [("the model", model)]
    rows += [(f"SHA-256 of {_e(name)}", _code(value)) for name, value in parts]
    rows += [(f"SHA-256 of {_e(name)}", _code(value)) for name, value in digests.items()]
    rows += _smoother_rows(settings["smoother"])
    names = ("rho", "tolerance", "alpha", "statistics", "images", "detector", "steps", "guidance", "private")
    rows.append(("options", _e(", ".join(f"{name} = {settings[name]}" for name in names))))
    return _section("Where it comes from", _facts(rows))


# Numbers and words


def _code(value: Any) -> str:
    return f"<code>{_e(value)}</code>"


def _token(value: Any) -> str:
    text = str(value)
    return f"“{_e({'<|startoftext|>': 'begin', '<|endoftext|>': 'end'}.get(text, text.removesuffix('</w>')))}”"


def _real(value: Any) -> float:
    """A number of a file, which may hold anything."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
        raise ValueError(f"{value!r}: must be a number")
    return float(value)


def _count(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{value!r}: must be a whole number")
    return f"{value:,}"


def _copies(number: int | None) -> str:
    return f"{number or 1} noisy cop{'y' if number in (None, 1) else 'ies'}"


def _n(value: Any, way: str = "up", digits: int | None = None, sign: bool = False) -> str:
    """A number and, for machines, its exact value."""
    number = _real(value)
    text = shown(number, way, digits or (6 if way == "near" else 4), sign)
    return f'<data value="{number!r}">{text}</data>'


def _percent(value: Any, way: str = "up") -> str:
    """A probability or share in percent."""
    number = _real(value)
    return f'<data value="{number!r}">{percent(number, way)}</data>'


def _confidence(alpha: float) -> str:
    return f'<data value="{1 - alpha!r}">{confidence(alpha)}</data>'


# The picture


@dataclass(frozen=True)
class _Line:
    points: Sequence[tuple[float, float]]
    dots: bool = False
    dashed: bool = False


def _chart(
    lines: Sequence[_Line],
    x_label: str,
    y_label: str,
    *,
    name: str,
    log: bool = False,
    top: float | None = None,
    level: tuple[float, str] | None = None,
) -> str:
    """Lines over the radius as SVG, in the page's own colours."""
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points] + ([level[0]] if level else [])
    if log:
        ys = [y for y in ys if y > 0]
    if not xs or not ys:
        return f"<p>{_e(name)}: nothing is certified at any of these radii.</p>"
    right = max(xs) or 1.0
    y_ticks = _log_ticks(min(ys), max(ys)) if log else _ticks(0.0, top if top is not None else max(ys) or 1.0)
    low, high = (min(y_ticks[0], min(ys)), max(y_ticks[-1], max(ys))) if log else (0.0, max(y_ticks[-1], max(ys)))
    scale: Callable[[float], float] = math.log if log else float

    def at_x(x: float) -> float:
        return _LEFT + (_WIDE - _LEFT - _RIGHT) * x / right

    def at_y(y: float) -> float:
        share = (scale(y) - scale(low)) / (scale(high) - scale(low))
        return _HIGH - _BOTTOM - (_HIGH - _TOP - _BOTTOM) * share

    parts = []
    for tick in y_ticks:
        y = at_y(tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDE - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{_tick(tick)}</text>')
    floor = _HIGH - _BOTTOM
    for tick in _ticks(0.0, right):
        if tick <= right:
            x = at_x(tick)
            parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{floor}" y2="{floor + 4}"/>')
            parts.append(f'<text x="{x:.1f}" y="{floor + 18}" text-anchor="middle">{_tick(tick)}</text>')
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{_WIDE - _RIGHT}" y1="{floor}" y2="{floor}"/>')
    parts.append(
        f'<text x="{(_LEFT + _WIDE - _RIGHT) / 2}" y="{_HIGH - 6}" text-anchor="middle">{_e(x_label, isolate=False)}</text>'
    )
    middle = (_TOP + floor) / 2
    parts.append(
        f'<text x="12" y="{middle}" text-anchor="middle" transform="rotate(-90 12 {middle})">'
        f"{_e(y_label, isolate=False)}</text>"
    )
    if level is not None and low <= level[0] <= high:
        y = at_y(level[0])
        below = 15 if y < _TOP + 18 else -6
        parts.append(f'<line class="level" x1="{_LEFT}" x2="{_WIDE - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(
            f'<text class="level-text" x="{_LEFT + 6}" y="{y + below:.1f}">{_e(level[1], isolate=False)}</text>'
        )
    for line in lines:
        known = [(at_x(x), at_y(y)) for x, y in line.points if not log or y > 0]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in known)
        parts.append(f'<polyline class="curve{" dashed" if line.dashed else ""}" points="{path}"/>')
        if line.dots:
            parts += [f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="3.6"/>' for x, y in known]
    label = _e(name, isolate=False)
    return f'<svg viewBox="0 0 {_WIDE} {_HIGH}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers from `low` to `high` or just above."""
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * (1 - 1e-9))
    return [low + i * step for i in range(math.ceil((high - low) / step - 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    skip = max(1, (last - first) // 6)
    ticks = [10.0**e for e in range(first, last + 1, skip)]
    return ticks if len(ticks) > 1 else [10.0**first, 10.0 ** (first + 1)]


def _tick(value: float) -> str:
    return shown(value, "near", 3)


# The page


def _head(kind: str, title: str, sentence: str, tiles: Sequence[tuple[str, str]], of_prompt: bool = True) -> str:
    note = (
        '<p class="note">Size is counted in units of the noise: one token alone may change by its noise times the size, '
        "several together by correspondingly less. How the change was found does not matter. Confidence is about "
        "the random draws that the certificate was computed from, not about prompts or attackers.</p>"
        if of_prompt
        else '<p class="note">Size is counted in units of the noise, coordinate by coordinate.</p>'
    )
    facts = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in tiles)
    return (
        f'<header><p class="kind">{kind}</p><h1>{_e(title)}</h1><p class="claim">{sentence}</p>'
        f'<dl class="tiles">{facts}</dl>{note}</header>'
    )


def _section(title: str, content: str, style: str = "") -> str:
    kind = f' class="{style}"' if style else ""
    return f"<section{kind}><h2>{title}</h2>{content}</section>"


def _table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    text: Sequence[int] = (),
    plain: Sequence[int] = (),
    wide: bool = False,
) -> str:
    """A table; its first column, sentences (`text`) and single words (`plain`) stand to the left, numbers to the right."""

    def cells(row: Sequence[str], tag: str) -> str:
        kinds = [
            "" if i == 0 or i in plain else ' class="words"' if i in text else ' class="num"' for i in range(len(row))
        ]
        return "".join(f"<{tag}{kind}>{cell}</{tag}>" for kind, cell in zip(kinds, row, strict=True))

    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    return (
        f'<div class="scroll"><table{" class=wide" if wide else ""}><thead><tr>{cells(head, "th")}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _facts(rows: Iterable[tuple[str, str]]) -> str:
    return f'<dl class="facts">{"".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in rows)}</dl>'


def _document(title: str, body: Sequence[str]) -> str:
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><meta name="referrer" content="no-referrer">'
        f"<title>{_e(title, isolate=False)}</title><style>{_STYLE}</style></head>\n<body><main>\n"
        + "\n".join(part for part in body if part)
        + "\n<footer>Numbers are rounded in the safe direction: upper bounds up, radii down. Written by "
        "<code>certify report</code>; this page loads nothing and runs nothing.</footer>\n</main></body></html>\n"
    )


_STYLE = """
:root{color-scheme:light dark;--paper:#fff;--ink:#1c1e21;--soft:#5b6068;--line:#dcdfe4;--tint:#f5f6f8;--blue:#0072b2;
--orange:#b84f00;--warn:#fff6e6;--warn-line:#e0a030}
@media (prefers-color-scheme:dark){:root{--paper:#15171a;--ink:#e6e8eb;--soft:#a2a8b1;--line:#34383e;--tint:#1e2125;
--blue:#56b4e9;--orange:#f0914a;--warn:#2a2317;--warn-line:#a8782a}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue",Arial,"Noto Sans",sans-serif;overflow-wrap:anywhere}
table{overflow-wrap:break-word}td.words{min-width:9rem}
main{max-width:54rem;margin:0 auto;padding:2rem 1.1rem 3rem}
.kind{margin:0;color:var(--blue);font-size:.8rem;font-weight:600;letter-spacing:.08em;text-transform:uppercase}
h1{margin:.15rem 0 .8rem;font-size:1.7rem;line-height:1.25;white-space:pre-wrap}
h2{margin:0 0 .6rem;font-size:1.15rem}
.claim{margin:0 0 1.2rem;font-size:1.25rem;line-height:1.5;border-left:4px solid var(--blue);padding-left:1rem}
section{margin-top:2.2rem}
.warn{background:var(--warn);border:1px solid var(--warn-line);border-radius:8px;padding:1rem 1.2rem .4rem}
ul{margin:.2rem 0 .8rem;padding-left:1.2rem}li{margin:.3rem 0}
.note,footer,small{color:var(--soft);font-size:.86rem}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(9.5rem,1fr));gap:.7rem;margin:0}
.tiles div{background:var(--tint);border-radius:8px;padding:.6rem .8rem}
.tiles dt{color:var(--soft);font-size:.8rem;line-height:1.3}.tiles dd{margin:.1rem 0 0;font-size:1.15rem;font-weight:600}
.tokens{display:flex;flex-wrap:wrap;gap:.6rem .45rem;margin:.6rem 0}
.token{display:inline-flex;flex-direction:column;align-items:center;max-width:100%}
.token b{padding:.12rem .5rem;border-radius:6px;border:1px solid var(--line);font-weight:500;white-space:pre-wrap;
-webkit-print-color-adjust:exact;print-color-adjust:exact}
.token.joined{margin-right:-.4rem}.token small{font-size:.72rem;line-height:1.35;font-variant-numeric:tabular-nums}
figure{margin:.4rem 0 .8rem}svg{display:block;width:100%;max-width:40rem;height:auto}
svg text{fill:var(--soft);font-size:12.5px}.grid{stroke:var(--line)}.axis{stroke:var(--soft)}
.curve{fill:none;stroke:var(--blue);stroke-width:2.2;stroke-linejoin:round}.curve.dashed{stroke-dasharray:2 5}
.dot{fill:var(--blue)}.level{stroke:var(--orange);stroke-width:1.4;stroke-dasharray:6 4}svg .level-text{fill:var(--orange)}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:.92rem;font-variant-numeric:tabular-nums}
table.wide{width:100%;min-width:44rem}table.wide td:nth-child(2){min-width:14rem;max-width:24rem}
th{color:var(--soft);font-weight:600;text-align:left;vertical-align:bottom}
th,td{padding:.3rem .9rem .3rem 0;border-bottom:1px solid var(--line)}td{vertical-align:top}
th.num,td.num{text-align:right;white-space:nowrap}td small{line-height:1.3}
.bad{color:var(--orange);font-weight:600}
pre{background:var(--tint);border-radius:8px;padding:.7rem .9rem;overflow-x:auto;max-height:18rem;font-size:.9rem}
code{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;font-size:.92em}
.facts{display:grid;grid-template-columns:minmax(8rem,14rem) 1fr;gap:.25rem 1rem;margin:0;font-size:.9rem}
.facts dt{color:var(--soft)}.facts dd{margin:0}
.pairs{display:grid;grid-template-columns:repeat(4,minmax(0,9rem));gap:.5rem;align-items:start}
.pairs span{color:var(--soft);font-size:.85rem}
img{width:100%;height:auto;display:block;border-radius:4px;image-rendering:pixelated}.sheet img{max-width:36rem}
figcaption{color:var(--soft);font-size:.86rem;margin-top:.3rem}
footer{margin-top:2.6rem;border-top:1px solid var(--line);padding-top:.8rem}
@media (max-width:36rem){.facts{grid-template-columns:1fr;gap:0}.facts dd{margin-bottom:.5rem}.claim{font-size:1.1rem}
h1{font-size:1.4rem}
svg text{font-size:15px}.pairs span:nth-of-type(n+3){display:none}
.pairs{grid-template-columns:repeat(2,minmax(0,1fr))}}
@media print{:root{--paper:#fff;--ink:#000;--soft:#444;--line:#bbb;--tint:#f4f4f4;--blue:#0072b2;--orange:#b84f00;--warn:#fff;
color-scheme:light}body{font-size:10.5pt}main{max-width:none;padding:0}.scroll{overflow:visible}table.wide{min-width:0}
pre{max-height:none;white-space:pre-wrap}section,tr,figure{break-inside:avoid}section:has(table.wide){break-inside:auto}}
"""
