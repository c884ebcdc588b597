"""Data sets: the prompts of a file, and runs that certify every one of them.

prompts as people keep them, in tables     prompt_files.py
one of them, certified                     rows.py
all of them, resumable                     runs.py
the folder of a run, written and read      results.py
what a run comes to                        summary.py
the inputs of a classifier, resumable      classified.py
"""

from certify.datasets.classified import ClassifiedRow, ClassifiedRun, classify_dataset
from certify.datasets.prompt_files import PromptRow, PromptSet
from certify.datasets.results import Results, RunRecord, settings_of
from certify.datasets.rows import RowOptions, certify_row, read_prompt
from certify.datasets.runs import certify_rows, run_settings
from certify.datasets.summary import FRACTION_RHOS, certified_fraction, summary
from certify.montecarlo import row_seed

__all__ = [
    "FRACTION_RHOS",
    "ClassifiedRow",
    "ClassifiedRun",
    "PromptRow",
    "PromptSet",
    "Results",
    "RowOptions",
    "RunRecord",
    "certified_fraction",
    "certify_row",
    "certify_rows",
    "classify_dataset",
    "read_prompt",
    "row_seed",
    "run_settings",
    "settings_of",
    "summary",
]
