"""Prompt encoders of pipeline families: noise on the embeddings of every text encoder, by the pipeline's own code.

the text encoders as one function               pipeline.py
where noise enters them                         embeddings.py
what comes out, and what depends on what        outputs.py, probing.py
a prompt as they read it                        readings.py, words.py
classes known by name, parts that are missing   families.py, missing.py
"""

from certify.models.encoders.families import FAMILIES, Family, family_of
from certify.models.encoders.missing import missing
from certify.models.encoders.outputs import Slot
from certify.models.encoders.pipeline import PipelineEncoder
from certify.models.encoders.probing import final_norms
from certify.models.encoders.readings import EncodeCall, Frame, Layout, Reading
from certify.models.encoders.words import Vocabulary

__all__ = [
    "FAMILIES",
    "EncodeCall",
    "Family",
    "Frame",
    "Layout",
    "PipelineEncoder",
    "Reading",
    "Slot",
    "Vocabulary",
    "family_of",
    "final_norms",
    "missing",
]
