"""Summaries: a record as a sentence and a small table, as text and as HTML for notebooks."""

from certify.summaries.records import ROWS, Summary, Table, as_html, as_text, summary

__all__ = ["ROWS", "Summary", "Table", "as_html", "as_text", "summary"]
