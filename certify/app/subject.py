"""What a run of the page asks of a model, whichever its pipeline is: the model and its turns, and a prompt in it."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from certify.certificate.tokens import Tokens
from certify.statements.questions import Question

if TYPE_CHECKING:
    from PIL.Image import Image

    from certify.adaptive.token_noise import TokenNoise
    from certify.app.asked import Asked
    from certify.certificate import Certificate
    from certify.montecarlo import Progress
    from certify.noise import Noise

__all__ = ["Known", "Model", "ModelOptions", "Subject", "Watch", "tokens"]

Watch = Callable[[str, Callable[..., Any]], Callable[..., Any]]
"""A function's name in claims, and the function ↦ the same, looked at."""


@dataclass(frozen=True)
class Known:
    """What is known of a prompt before anything is drawn.

    Attributes:
        encoders: tokens, relevance and noise, by the name of the text encoder.
        concept: names of what is suppressed.
        named: whether the prompt seems to name it.
        removal: the squared concept-removal distance; None: it cannot be told.
    """

    encoders: tuple[tuple[str, Tokens], ...]
    concept: str
    named: bool
    removal: float | None


class Subject(ABC):
    """A prompt under the settings that a visitor asks for.

    Attributes:
        radii: of the certificate's curve.
        smoother: "median" or "mean".
        noise, copies: what an event of the deployed smoother sees: noise, and how many noisy copies.
        makes_images: whether the pipeline's output are images.
    """

    radii: Sequence[float]
    smoother: str
    noise: Noise
    copies: int
    makes_images = True

    @abstractmethod
    def known(self) -> Known:
        """Tokens, noise, and what bounds are compared with."""

    @abstractmethod
    def pair(self, seed: int) -> tuple[Image, Image]:
        """An undefended and a defended image from the same initial noise."""

    @abstractmethod
    def certify(
        self, detector: str | None, progress: Progress, watch: Watch | None, beside: Sequence[Question]
    ) -> Certificate:
        """The certificate.

        Args:
            detector: what is looked for in images; None: nothing is said about them.
            progress: called after every batch.
            watch, beside: as in `PromptOptions`.
        """


class ModelOptions(TypedDict):
    """What every model of the page is given; `Model` explains it."""

    source: Mapping[str, Any]
    detector_of: Callable[[str], str | None]
    batch_size: NotRequired[int | None]
    memory: NotRequired[int | None]


class Model(ABC):
    """The model that a page is about, and whose turn it is.

    Args:
        source: where the model comes from, for a certificate's record; the concept is added.
        detector_of: a concept ↦ what an attack on it wants to see in an image; None: nothing can be said of images.
        batch_size, memory: as in `PromptOptions`.
    """

    def __init__(
        self,
        source: Mapping[str, Any],
        detector_of: Callable[[str], str | None],
        batch_size: int | None = None,
        memory: int | None = None,
    ) -> None:
        self.source, self.detector_of = dict(source), detector_of
        self.batch_size, self.memory = batch_size, memory
        self._turn = threading.Lock()

    @abstractmethod
    def subject(self, asked: Asked) -> Subject:
        """The prompt under these settings.

        Raises:
            TypeError, ValueError: the model refuses prompt, concept or settings.
        """

    def provenance(self, asked: Asked) -> dict[str, Any]:
        """What a certificate has on record of where the model is from."""
        return {"source": {**self.source, "concepts": [asked.concept]}}

    @contextmanager
    def turn(self) -> Iterator[None]:
        """The model to oneself."""
        with self._turn:
            yield

    def yield_turn(self) -> None:
        """Between two batches: whoever waits has the model now."""
        self._turn.release()
        time.sleep(0.002)  # a lock is not fair: who releases and takes it at once has it again
        self._turn.acquire()


def tokens(noise: TokenNoise, std: float, concept: str) -> Tokens:
    """Tokens of a prompt in one text encoder, with the standard deviation of its embeddings."""
    places = [i for i, kind in enumerate(noise.kinds) if kind != "padding" or noise.sigma[i] > 0]
    return Tokens(noise.tokens, noise.sigma, noise.relevance, noise.kinds, places, std, concept, True)
