"""Adapters: the only place of the toolkit that touches transformers and diffusers.

A Stable Diffusion pipeline enters here and leaves as two things that the mathematics understands:

    PromptEncoder     prompt → token ids → token embeddings y → encoding T(y), with noise allowed on y
    NoisePredictor    (x_t, T(y), t) → ε, whatever the U-Net itself predicts

Importing this package imports neither library; they come in when something is loaded.
"""

from certify.models.denoiser import NoisePredictor
from certify.models.fingerprint import fingerprint
from certify.models.load import load_pipeline, load_text_encoder
from certify.models.text import PromptEncoder, TokenizedPrompt
from certify.models.unet import UNetOverlay, overlay_of, overlay_unet

__all__ = [
    "NoisePredictor",
    "PromptEncoder",
    "TokenizedPrompt",
    "UNetOverlay",
    "fingerprint",
    "load_pipeline",
    "load_text_encoder",
    "overlay_of",
    "overlay_unet",
]
