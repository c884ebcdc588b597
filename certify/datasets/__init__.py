"""Data sets: the prompts of a file, and runs that certify every one of them.

prompts as people keep them, in tables     prompt_files.py
one of them, certified                     rows.py
all of them, resumable                     runs.py
the folder of a run, read                  records.py
written, by one process or several         results.py
what a run comes to                        summary.py
two runs, paired row by row                comparison.py
labelled data as people keep them          labelled.py
the inputs of a classifier, resumable      classified.py
"""

from certify._workers import Worker
from certify.datasets.classified import ClassifiedRow, ClassifiedRun, ClassifierTask, classify_dataset
from certify.datasets.comparison import Comparison, Measure, compare
from certify.datasets.labelled import LabelledSet
from certify.datasets.prompt_files import PromptRow, PromptSet
from certify.datasets.records import RunRecord, settings_of
from certify.datasets.results import Results
from certify.datasets.rows import RowOptions, certify_row, read_prompt
from certify.datasets.runs import certify_rows, run_settings
from certify.datasets.summary import FRACTION_RHOS, certified_fraction, class_summary, length_unit, summary
from certify.montecarlo import row_seed

__all__ = [
    "FRACTION_RHOS",
    "ClassifiedRow",
    "ClassifiedRun",
    "ClassifierTask",
    "Comparison",
    "LabelledSet",
    "Measure",
    "PromptRow",
    "PromptSet",
    "Results",
    "RowOptions",
    "RunRecord",
    "Worker",
    "certified_fraction",
    "certify_row",
    "certify_rows",
    "class_summary",
    "classify_dataset",
    "compare",
    "length_unit",
    "read_prompt",
    "row_seed",
    "run_settings",
    "settings_of",
    "summary",
]
