"""A page to forward: a certificate, or the run over a data set, as one HTML file that needs nothing else.

The page says in one sentence what is claimed, then shows what stands behind it: the tokens in the colour of their noise, the
curves, the substitutions that a radius covers, images with and without the defence, every claim with its status, how to check
it again, and where it comes from. It has no script and loads nothing; its content security policy forbids both.

**Numbers.** Each stands in a `<data value="…">` with the file's exact value, and is shown with four digits, rounded in the
safe direction: an upper bound up, a lower bound and a radius down. What is shown is then a claim of the certificate, too.

**Text.** Prompts, tokens and names come from files that anybody may have written. All of it is escaped, control characters are
replaced, and every piece stands in a `<bdi>`, so that a right-to-left mark cannot turn the words around it.

The same records also become a model card (`model_card`) and a badge (`badge`); two runs become
one page, paired (`comparison_page`).

Functions here are pure: records in, a string out. Nothing is drawn afresh or checked; the page says so.
"""

from certify.report.badge import badge
from certify.report.card import model_card
from certify.report.certificate import certificate_page
from certify.report.comparison import comparison_page, verdict
from certify.report.examples import ExampleImages
from certify.report.run import run_page

__all__ = [
    "ExampleImages",
    "badge",
    "certificate_page",
    "comparison_page",
    "model_card",
    "run_page",
    "verdict",
]
