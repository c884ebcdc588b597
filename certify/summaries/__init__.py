"""Summaries: a record as a sentence and a small table, as text and as HTML for notebooks.

A summary says the claim in one sentence, then what it rests on. A record that claims nothing says so first, and why. What one
shows of a tensor is its shape or its extremes, never its entries, and no list is longer than `ROWS`.

    what is shown, before it is formatted: facts, tables, sections; the dispatch      summary.py
    results of draws, claims, decisions, plans                                        of_bounds.py
    prompts, tokens, certified sets, supports                                         of_prompts.py
    certificates and checks, and their sections for terminal and page                 of_certificates.py
    the same as text, as HTML                                                         text.py, html.py

A record shows itself through `certify._records.Shown`. Sentences about claims are those of `certify.certificate.words`.
"""

from certify.summaries import of_bounds, of_certificates, of_prompts  # registers them
from certify.summaries.html import as_html
from certify.summaries.summary import Section, Summary, Table, Token, summary
from certify.summaries.text import ROWS, as_text

__all__ = [
    "ROWS",
    "Section",
    "Summary",
    "Table",
    "Token",
    "as_html",
    "as_text",
    "of_bounds",
    "of_certificates",
    "of_prompts",
    "summary",
]
