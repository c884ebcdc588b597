"""Method: one way to unlearn, and what comes out of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from experiments.unlearning.concept import Concept
from experiments.unlearning.diffusion import Diffusion
from experiments.unlearning.training import TrainingLoop

__all__ = ["Edit", "Method", "copied"]


def copied(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights as they are now, which go on training no longer."""
    return {name: p.detach().clone() for name, p in weights.items()}


@dataclass(frozen=True)
class Edit:
    """What a method changed.

    Attributes:
        unet: name → weight, those of the U-Net that changed.
        text_encoder: the same of the text encoder.
        masks: name → boolean mask of the U-Net's weights that stay (False: pruned), for methods that prune and change
            nothing else.
        record: figures worth keeping beside the weights (losses, how much was pruned).
    """

    unet: Mapping[str, Tensor] = field(default_factory=dict)
    text_encoder: Mapping[str, Tensor] = field(default_factory=dict)
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def trained(cls, unet: Mapping[str, Tensor], which: str, losses: Sequence[float], **more: Any) -> Edit:
        """Of a method that trains weights of the U-Net in place.

        Args:
            unet: those that trained.
            which: what they are called (`parameters.FILTERS`).
            losses: of its steps.
            more: other figures worth keeping.
        """
        return cls(unet=copied(unet), record={"trained": which, **more, "last losses": list(losses[-20:])})

    @property
    def tensors(self) -> int:
        """How many tensors changed."""
        return len(self.unet) + len(self.text_encoder) + len(self.masks)


@dataclass(frozen=True)
class Method:
    """One row of the registry.

    Attributes:
        name: on the command line.
        title: with its reference.
        run: (diffusion, concept, settings, loop) → edit. It may train the given pipeline's U-Net in place; who calls it
            loads one.
        settings: the class of its settings, whose defaults are the published ones.
        embedded: settings for the embedded model: (concept's kind) → settings. A world can have settings of its own
            (`EmbeddedWorld.unlearning`).
        after: the method whose result it starts from ("" for none): the pipeline that `run` gets has been edited by it.
        published: the published budget, in words.
    """

    name: str
    title: str
    run: Callable[[Diffusion, Concept, Any, TrainingLoop], Edit]
    settings: type[Any]
    embedded: Callable[[str], Any]
    after: str = ""
    published: str = ""

    def settings_for(self, concept: Concept) -> Any:
        """The settings for a concept: those of its embedded world, or for another model the published ones."""
        if not concept.head:
            return self.settings()
        return replace(self.embedded(concept.kind), **concept.world.unlearning.get(self.name, {}))
