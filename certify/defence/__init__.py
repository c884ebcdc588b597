"""A pipeline with the smoother inside: `certify.defend(pipe, concepts=[…])`.

pipeline → defence, anew or from disk           building.py
what is called like the pipeline                defence.py, calls.py, deployed.py
prompt → relevance and σ in every encoder       relevance.py, smoother.py, explanation.py
what a bound takes, over all encoders           problem.py      (T16)
the joint certificate, and its check            certification.py, checking.py
what it covers, and what stands beside it       coverage.py (T9), predictions.py, measured.py
"""

from certify.defence.building import defend, load_defence, rebuilt
from certify.defence.certification import JointOptions
from certify.defence.coverage import WordCoverage, covered_prompts, covered_words
from certify.defence.defence import Defence
from certify.defence.explanation import Explanation
from certify.defence.predictions import Predictions
from certify.defence.problem import JointProblem
from certify.defence.smoother import PipelineOptions, PipelineSmoother

__all__ = [
    "Defence",
    "Explanation",
    "JointOptions",
    "JointProblem",
    "PipelineOptions",
    "PipelineSmoother",
    "Predictions",
    "WordCoverage",
    "covered_prompts",
    "covered_words",
    "defend",
    "load_defence",
    "rebuilt",
]
