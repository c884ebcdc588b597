"""Adapters: the only place of the toolkit that touches transformers and diffusers.

A Stable Diffusion pipeline enters here and leaves as things that the mathematics understands:

    PromptEncoder     prompt → token ids → token embeddings y → encoding T(y), with noise allowed on y
    NoisePredictor    (x_t, T(y), t) → ε, whatever the U-Net itself predicts
    Trajectory        a fixed set of (x_t, t), from a run of the sampler

Importing this package imports neither library; they come in when something is loaded.
"""

from certify.models.denoiser import NoisePredictor
from certify.models.fingerprint import fingerprint
from certify.models.load import load_pipeline, load_text_encoder
from certify.models.overlay import Overlay, overlay_on
from certify.models.text import PromptEncoder, TokenizedPrompt
from certify.models.text_encoder import overlay_text_encoder, text_overlay_of
from certify.models.trajectory import Trajectory
from certify.models.unet import overlay_of, overlay_unet

__all__ = [
    "NoisePredictor",
    "Overlay",
    "PromptEncoder",
    "TokenizedPrompt",
    "Trajectory",
    "fingerprint",
    "load_pipeline",
    "load_text_encoder",
    "overlay_of",
    "overlay_on",
    "overlay_text_encoder",
    "overlay_unet",
    "text_overlay_of",
]
