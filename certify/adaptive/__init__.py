"""The adaptive smoother: how much noise each token of a prompt gets, and the median over noisy encodings.

    prompt pairs → concept direction Δ_tgt          concepts.py
    prompt → relevance of every token               relevance.py   (Algorithm 1)
    relevance → σ of every token → median of n      smoother.py    (section 3.4)

Reference: Han et al. (2025), "Adaptive Median Smoothing: Adversarial Defense for Unlearned Text-to-Image Diffusion
Models at Inference Time".
"""

from certify.adaptive.concepts import Concept, available_concepts, concept_direction
from certify.adaptive.problem import Problem
from certify.adaptive.relevance import RelevanceScorer
from certify.adaptive.smoother import AdaptiveMedianSmoother, AdaptiveOptions, FrozenSmoother, TokenNoise

__all__ = [
    "AdaptiveMedianSmoother",
    "AdaptiveOptions",
    "Concept",
    "FrozenSmoother",
    "Problem",
    "RelevanceScorer",
    "TokenNoise",
    "available_concepts",
    "concept_direction",
]
