"""Prompt encoders of pipeline families: noise on the embeddings of every text encoder, by the pipeline's own code."""

from certify.models.encoders.families import FAMILIES, Family, family_of
from certify.models.encoders.outputs import Slot
from certify.models.encoders.pipeline import EncodeCall, Frame, Layout, PipelineEncoder, Reading

__all__ = ["FAMILIES", "EncodeCall", "Family", "Frame", "Layout", "PipelineEncoder", "Reading", "Slot", "family_of"]
