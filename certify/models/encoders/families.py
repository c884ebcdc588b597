"""Families of pipelines: what is known of a class by name, along its ancestors; a new family is one line.

The way in is one for all (`certify.models.encoders.pipeline`), and what it finds is found by running it. A line here says what
has been tried, by name, and what to know of it. Where it says "tested", every test of `tests/defence` runs over a small
pipeline of that class with random weights: real weights of these families were not at hand.
"""

from __future__ import annotations

from dataclasses import dataclass

from certify._records import Record

__all__ = ["FAMILIES", "Family", "family_of"]


@dataclass(frozen=True)
class Family(Record):
    """One family.

    Attributes:
        name: as people call it; "" for a class that is not known.
        encoders: its text encoders, in words.
        remark: what to know when reading what is said of it.
    """

    name: str
    encoders: str = ""
    remark: str = ""

    @property
    def known(self) -> bool:
        """Whether the class is among those that were tried."""
        return bool(self.name)


_T5 = "unmasked: padding counts"

FAMILIES: dict[str, Family] = {
    "StableDiffusionPipeline": Family("Stable Diffusion 1.x and 2.x", "CLIP"),
    "LatentConsistencyModelPipeline": Family("LCM", "CLIP", "no negative branch"),
    "StableDiffusionXLPipeline": Family(
        "Stable Diffusion XL", "CLIP and OpenCLIP", "the empty negative prompt is zeros, not an encoding"
    ),
    "StableDiffusion3Pipeline": Family("Stable Diffusion 3 and 3.5", "CLIP, OpenCLIP and T5", _T5),
    "FluxPipeline": Family("FLUX.1", "CLIP (pooled) and T5", _T5),
    "Flux2Pipeline": Family("FLUX.2", "Mistral 3", "prompt upsampling is refused"),
    "Flux2KleinPipeline": Family("FLUX.2 klein", "Qwen 3"),
    "PixArtAlphaPipeline": Family("PixArt-α", "T5"),
    "PixArtSigmaPipeline": Family("PixArt-Σ", "T5"),
    "SanaPipeline": Family("Sana", "Gemma 2", "the instruction before the prompt carries no noise"),
    "Lumina2Pipeline": Family("Lumina 2", "Gemma 2", "the system prompt carries no noise"),
    "QwenImagePipeline": Family("Qwen-Image", "Qwen 2.5 VL", "the template carries no noise"),
    "ZImagePipeline": Family("Z-Image", "Qwen 3", "the template carries no noise"),
    "HunyuanDiTPipeline": Family("HunyuanDiT", "BERT and mT5", "encoded in two calls, with independent noise"),
    "CogView4Pipeline": Family("CogView4", "GLM", "padded to its batch, unmasked: what stands beside a prompt shows"),
    "WanPipeline": Family("Wan", "UMT5"),
    "AuraFlowPipeline": Family("AuraFlow", "UMT5"),
    "LTXPipeline": Family("LTX-Video", "T5", _T5),
    "ChromaPipeline": Family("Chroma", "T5"),
    "Kandinsky3Pipeline": Family("Kandinsky 3", "T5"),
    "Kandinsky5T2IPipeline": Family("Kandinsky 5", "Qwen 2.5 VL and CLIP (pooled)"),
}
"""By the name of the pipeline's class."""


def family_of(pipeline: type) -> Family:
    """The family of a class: its own line or that of its nearest ancestor.

    >>> class Mine: ...
    >>> family_of(Mine).known
    False
    """
    return next((FAMILIES[kind.__name__] for kind in pipeline.__mro__ if kind.__name__ in FAMILIES), Family(""))
