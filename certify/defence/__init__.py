"""A pipeline with the smoother inside: `certify.defend(pipe, concepts=[…])`."""

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
