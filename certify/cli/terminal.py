"""Terminal: certificates in tables, 80 columns wide. Printing only: the words are those of `certify.certificate.words`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from certify import _files
from certify._text import duration, shown, spelled
from certify.certificate import words
from certify.progress import Bar

if TYPE_CHECKING:
    from certify.adaptive import PreparedPrompt
    from certify.adaptive.checking import OnRecord
    from certify.certificate import Certificate, CheckReport
    from certify.defence import Explanation
    from certify.statements.decision import Decision
    from certify.summaries import Table as Words

__all__ = [
    "MARKUP",
    "bar",
    "duration",
    "err",
    "hushed",
    "out",
    "plain_token",
    "show_certificate",
    "show_checks",
    "show_compared",
    "show_decision",
    "show_explanation",
    "show_left_out",
    "show_not_covered",
    "show_overlays",
    "show_table",
    "show_tokens",
    "show_truncation",
    "table",
    "written",
]

_LOG = logging.getLogger(__name__)

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


class _Markup(words.Style):
    """Sentences for a terminal: no markup and no control characters in words of others."""

    def name(self, text: Any) -> str:
        return escape(_files.printable(str(text)))

    def strong(self, text: str, mood: str = "") -> str:
        colour = {"good": " green", "bad": " red"}.get(mood, "")
        return f"[bold{colour}]{text}[/]"

    def soft(self, text: str) -> str:
        return f"[dim]{text}[/]"


MARKUP = _Markup()


def table(*columns: str, words: Sequence[int] = ()) -> Table:
    """A borderless table: the first column, nameless ones and those of words to the left, the others to the right."""
    made = Table(box=None, pad_edge=False, header_style="bold dim")
    for i, column in enumerate(columns):
        left = i == 0 or column == "" or i in words
        made.add_column(column, justify="left" if left else "right", no_wrap=column == "" and i not in words)
    return made


_bars = True


@contextmanager
def hushed(words: bool, *, bars: bool) -> Iterator[None]:
    """While it lasts nothing is printed, if `words` is set, and there are no progress bars unless `bars` is."""
    global _bars
    before = out.quiet, _bars
    out.quiet, _bars = out.quiet or words, bars
    try:
        yield
    finally:
        out.quiet, _bars = before


@contextmanager
def bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar, as a function of (done, total)."""
    if not _bars:
        yield lambda done, total: None
        return
    made = Bar(what)
    try:
        yield made
    finally:
        made.close()


def written(path: Any, what: str = "") -> None:
    """Says what was written, and logs it."""
    _LOG.info("written: %s", path)
    out.print(Text(f"written: {path}{what}"), soft_wrap=True)


def plain_token(token: str) -> str:
    """A token without the vocabulary's marks, on one line."""
    return _files.printable(spelled(token))


def show_truncation(record: Mapping[str, Any]) -> None:
    """That the prompt was cut, where it was."""
    cut = record.get("truncated")
    if cut:
        out.print(words.truncation(cut["tokens"], cut["kept"]))


def show_tokens(prompt: PreparedPrompt, private: bool = False) -> None:
    """Relevance and noise of every token of a prompt; of a private one without the tokens, since output is often kept."""
    adaptive, record = prompt.adaptive, prompt.relevance
    std, top = adaptive.encoder.embedding_std, max(record.sigma)
    rest: list[float] = []
    rows = table("token", "relevance", "noise σ", "σ / std", "")
    for i, (token, score, sigma) in enumerate(zip(record.tokens, record.relevance, record.sigma, strict=True)):
        if score is None:
            rest.append(sigma)
            continue
        rows.add_row(
            f"position {i}" if private else escape(plain_token(token)),
            shown(score, "near", 3, sign=True),
            shown(sigma, "near", 4),
            shown(sigma / std, "near", 3),
            f"[cyan]{'█' * max(1, round(14 * sigma / top)) if top else ''}[/]",
        )
    out.print(rows)
    show_truncation(prompt.tokenized.truncated)
    names = ", ".join(concept.name for concept in adaptive.concepts)
    out.print(
        f"[dim]relevance to {escape(names)}; σ₀ = {shown(adaptive.sigma0, 'near', 4)}, k = {shown(adaptive.k, 'exact')}; "
        f"std: of the token embeddings; {rest.count(0)} of {len(rest)} begin, end and padding positions carry no noise[/]"
    )
    if notice := prompt.mention.notice:
        out.print(f"[bold yellow]Notice.[/] {escape(notice)}")


def show_explanation(explained: Explanation, private: bool = False) -> None:
    """Relevance and noise of every token of a prompt in every text encoder; of a private one without the tokens."""
    head, *rows = [explained.head, *explained.rows(private)]
    made = table(*head, words=(1, 2, 4))
    for row in rows:
        made.add_row(*(escape(plain_token(cell)) for cell in row))
    out.print(made)


def show_overlays(model: Any) -> None:
    """What was laid over a pipeline's or an encoder's parts: over how much of each, and what of a file was not used."""
    from certify.models import overlay_on

    used = {"unet": "U-Net", "transformer": "transformer", "text_encoder": "text encoder"}
    parts = [part for name in used if (part := getattr(model, name, None)) is not None]
    overlays = [over for part in parts if (over := overlay_on(part)) is not None]
    for over in overlays:
        out.print(
            Text(f"{used[over.part]}: {over.counted} ({_files.printable(over.source)})", style="dim"), soft_wrap=True
        )
        elsewhere = [used[other.part] for other in overlays if other.source == over.source]
        for part, count in over.others.items():
            if part not in elsewhere:
                options = dict.fromkeys(("U-Net", "transformer"), "--weights") | {"text encoder": "--text-encoder"}
                option = options.get(part)
                advice = f"; {option} takes the same file" if option else ""
                out.print(Text(f"  not applied: {count:,} tensors of the {part} in it{advice}"), soft_wrap=True)


def show_certificate(certificate: Certificate) -> None:
    """What a certificate claims, section by section, and what it does not."""
    from certify.certificate.certificate import PRIVATE
    from certify.summaries.of_certificates import sections

    record = certificate.provenance
    out.print()
    out.rule("[bold]certificate[/]", align="left", style="dim")
    show_truncation(record)
    if certificate.private:
        out.print(f"[bold yellow]Notice.[/] {PRIVATE}")
    out.print(words.stated(certificate, certificate.main, MARKUP))
    for i, section in enumerate(sections(certificate, MARKUP, brief=True)):
        if i:
            out.print(f"\n[bold]{section.title}[/]")
        for sentence in section.sentences:
            out.print(sentence)
        if section.table is not None:
            if not i:
                out.print()
            show_table(section.table)
        for note in section.notes:
            out.print(f"[dim]{note}[/]")
    out.print()
    if (sharing := (record.get("smoother") or {}).get("sharing")) in ("sigma", "input"):
        out.print(f"[dim]{words.sharing(sharing)}[/]")
    out.print(words.draws(certificate, MARKUP))
    show_left_out(words.left_out(certificate))


def show_table(shown: Words) -> None:
    """A table: the first column and words to the left, numbers to the right."""
    made = table(*shown.head, words=shown.words)
    for row in shown.rows:
        made.add_row(*row)
    out.print(made)


def show_decision(decision: Decision) -> None:
    """An answer, and what it took."""
    mood = {"yes": "good", "no": "bad"}.get(decision.decided, "")
    out.print(f"{words.question(decision, MARKUP)} {MARKUP.strong(decision.decided.capitalize(), mood)}.")
    if decision.reason:
        out.print(MARKUP.name(words.capital(decision.reason)))
    if caveat := words.caveat(decision, MARKUP):
        out.print(caveat)
    out.print(words.effort(decision, MARKUP))


def show_not_covered(policy: str, *, images: bool = False, deployed: bool = True) -> None:
    """What a claim about a prompt does not say."""
    show_left_out(words.not_covered(policy, of_prompt=True, images=images, deployed=deployed))


def show_left_out(items: Sequence[str]) -> None:
    """What claims do not cover, as `words.not_covered` gives it."""
    first, *others = items
    out.print(f"[bold yellow]Not covered.[/] {first} Nor do the claims cover {'; '.join(others)}.")


def show_checks(report: CheckReport) -> None:
    """The verdicts of a check."""
    from certify.summaries.of_certificates import check_table

    show_table(check_table(report, MARKUP))
    for said in words.refuted(report, MARKUP):
        out.print(f"[red]{said}[/]")


def show_compared(statements: Sequence[OnRecord]) -> None:
    """What of a record was compared with the model, and what was not."""
    for one in (one for one in statements if one.outcome == "differs"):
        out.print(f"[red]refuted: {one.name}: {MARKUP.name(one.detail)}[/]")
    for outcome, title in (("same", "As on record, computed again"), ("not checked", "On record and not checked")):
        found = [f"{one.name} ({MARKUP.name(one.detail)})" for one in statements if one.outcome == outcome]
        if found:
            out.print(f"[dim]{title}: {'; '.join(found)}.[/]")
