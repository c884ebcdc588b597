"""A pipeline with the smoother inside: `certify.defend(pipe, concepts=[…])`."""

from certify.defence.defence import Defence, JointOptions, defend, load_defence
from certify.defence.explanation import Explanation
from certify.defence.smoother import JointProblem, PipelineOptions, PipelineSmoother

__all__ = [
    "Defence",
    "Explanation",
    "JointOptions",
    "JointProblem",
    "PipelineOptions",
    "PipelineSmoother",
    "defend",
    "load_defence",
]
