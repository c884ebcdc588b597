"""Images: what the deployed encodings become.

images from encodings, with and without the defence     generation.py
does an image show what it must not?                    detectors.py
statistics and events of encodings, predictions and images     statistics.py
rates over a set of prompts, and measured ones          rates.py
"""

from certify.images.detectors import Detector, detected, load_detector
from certify.images.rates import MeasuredRate, attack_rate_over, undefended_rate
from certify.images.statistics import (
    attack_succeeds,
    concept_score,
    embedding_distance,
    noise_prediction,
    noise_prediction_distance,
    sampled_noise_prediction,
)

__all__ = [
    "Detector",
    "MeasuredRate",
    "attack_rate_over",
    "attack_succeeds",
    "concept_score",
    "detected",
    "embedding_distance",
    "load_detector",
    "noise_prediction",
    "noise_prediction_distance",
    "sampled_noise_prediction",
    "undefended_rate",
]
