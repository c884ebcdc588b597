"""The adaptive smoother: how much noise each token of a prompt gets, and the median over noisy encodings.

    prompt pairs → concept direction Δ_tgt          concepts.py
    prompt → relevance of every token               relevance.py    (Algorithm 1)
    relevance → σ of every token → median of n      smoother.py     (section 3.4)

    where Σ comes from, and what may be claimed     policies.py, frozen.py, memory.py, levels.py   (THEORY T7, T17)
    what runs, as a function of its noisy copies    deployment.py   (T5)
    what an ellipsoid means in prompts              coverage.py     (T9)

Reference: Han et al. (2025), "Adaptive Median Smoothing: Adversarial Defense for Unlearned Text-to-Image Diffusion
Models at Inference Time".
"""

from certify.adaptive.concepts import Concept, available_concepts, concept_direction
from certify.adaptive.coverage import (
    LevelCoverage,
    LevelSet,
    Neighbour,
    PositionCoverage,
    PromptCoverage,
    covered_prompts,
    covered_substitutions,
    fully_covered,
    level_radius,
    level_set,
)
from certify.adaptive.deployment import Deployment
from certify.adaptive.frozen import FrozenSmoother
from certify.adaptive.levels import LevelTable
from certify.adaptive.memory import CovarianceMemory, Issued, Region
from certify.adaptive.mention import Mention
from certify.adaptive.options import AdaptiveOptions
from certify.adaptive.policies import POLICIES, noise_then_adapt
from certify.adaptive.problem import Problem
from certify.adaptive.prompt import ConceptRemoval, PreparedPrompt
from certify.adaptive.relevance import RelevanceScorer
from certify.adaptive.smoother import AdaptiveMedianSmoother
from certify.adaptive.token_noise import TokenNoise

__all__ = [
    "POLICIES",
    "AdaptiveMedianSmoother",
    "AdaptiveOptions",
    "Concept",
    "ConceptRemoval",
    "CovarianceMemory",
    "Deployment",
    "FrozenSmoother",
    "Issued",
    "LevelCoverage",
    "LevelSet",
    "LevelTable",
    "Mention",
    "Neighbour",
    "PositionCoverage",
    "PreparedPrompt",
    "Problem",
    "PromptCoverage",
    "Region",
    "RelevanceScorer",
    "TokenNoise",
    "available_concepts",
    "concept_direction",
    "covered_prompts",
    "covered_substitutions",
    "fully_covered",
    "level_radius",
    "level_set",
    "noise_then_adapt",
]
