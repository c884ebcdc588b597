"""Calls of a pipeline whose prompt is answered with encodings of ours: the arguments, and what stands in their place."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from certify import _validate
from certify.defence.problem import JointProblem, Rows
from certify.images.detectors import Detector, detected, load_detector
from certify.models.encoders import EncodeCall, PipelineEncoder, Reading

__all__ = ["Calls"]

_EMBEDDINGS = ("prompt_embeds", "pooled_prompt_embeds", "prompt_attention", "prompt_cu")


class Calls:
    """How a pipeline is called.

    Args:
        encoder: its text encoders.
        options: arguments of `__call__` that every call has unless it says otherwise.
    """

    def __init__(self, encoder: PipelineEncoder, options: Mapping[str, Any]) -> None:
        self.encoder, self.options = encoder, dict(options)
        self.signature = inspect.signature(type(encoder.pipe).__call__)

    def arguments(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a call by name, a prompt for every image.

        Raises:
            TypeError: embeddings of the prompt are given, or no prompt.
        """
        bound = self.signature.bind(self.encoder.pipe, *args, **kwargs).arguments
        given = {**self.options, **{name: value for name, value in list(bound.items())[1:] if name != "kwargs"}}
        given |= bound.get("kwargs", {})
        for name, value in given.items():
            if value is not None and name.startswith(_EMBEDDINGS):
                raise TypeError(
                    f"{name} is given: must not be, embeddings pass the text encoders by and the defence with them. Give the "
                    "prompt, or call `safe.pipe` to generate without the defence"
                )
        prompts = self.prompts(given)
        copies = [
            name
            for name in given
            if name.startswith("num_") and name.endswith("_per_prompt") and given[name] not in (None, 1)
        ]
        number = math.prod(_validate.count(name, given[name]) for name in copies)
        for name in copies:
            given[name] = 1
        if number * len(prompts) > 1:
            for name, value in given.items():
                if name.startswith(("prompt", "negative_prompt")) and (isinstance(value, str) or _texts(value)):
                    rows = [value] * len(prompts) if isinstance(value, str) else list(value)
                    given[name] = [text for text in rows for _ in range(number)]
        return given

    @staticmethod
    def prompts(arguments: Mapping[str, Any]) -> list[str]:
        """The prompts among the arguments of a call."""
        prompt: Any = arguments.get("prompt")
        if isinstance(prompt, str):
            return [prompt]
        if not _texts(prompt):
            raise TypeError(f"prompt = {prompt!r}: must be a string or a list of strings")
        return list(prompt)

    @staticmethod
    def put(reading: Reading, own: Any, rows: Rows) -> Any:
        """What `encode_prompt` returned, with these encodings in the prompts' place."""
        for slot, entries in zip(reading.frame.slots, rows, strict=True):
            before = slot.rows(own, len(entries))
            if any(a.shape != b.shape for a, b in zip(before, entries, strict=True)):
                raise ValueError(
                    f"encode_prompt returned rows of shape {tuple(before[0].shape)} with the negative prompt and "
                    f"{tuple(entries[0].shape)} without: must be alike, and not both branches in one tensor"
                )
            cast = [row.to(was.device, was.dtype) for row, was in zip(entries, before, strict=True)]
            own = slot.put(own, cast)
        return own

    def made(self, problem: JointProblem, call: Mapping[str, Any]) -> Callable[..., Any]:
        """The pipeline's `__call__` from encodings of a problem's prompt.

        Args:
            problem: a prompt.
            call: further arguments of `__call__`.

        Returns:
            (rows of every call of `encode_prompt`, how many, **arguments) → what the pipeline returns. What its own
            `encode_prompt` returns beside the prompt's encodings does not depend on them, and is computed once.
        """
        prompt = problem.readings[0].call.prompts[0]
        given = {**self.options, **call}
        known: dict[tuple[int, int], Any] = {}

        def run(rows: Sequence[Rows], count: int, **more: Any) -> Any:
            def answer(number: int, made: EncodeCall, own: Callable[[], Any]) -> Any:
                if (number, count) not in known:
                    for old in [key for key in known if key[0] == number]:
                        del known[old]
                    known[number, count] = own()
                return self.put(problem.readings[number], known[number, count], rows[number])

            arguments = self.arguments((), {**given, "prompt": [prompt] * count, **more})
            return self.encoder.intercepted(answer, quiet=True)(**arguments)

        return run

    def event(self, problem: JointProblem, detector: str | Detector, call: Mapping[str, Any]) -> Callable[..., Tensor]:
        """Does a detector fire on the image made from the deployed encoding? Noisy copies (b, copies, d) → (b,) or
        (b, repeats): several images of one deployed encoding, which is computed once.

        Args:
            problem: a prompt.
            detector: what looks.
            call: arguments of `__call__`. Latents are drawn from the generator that the statement gives.
        """
        look, run = load_detector(detector), self.made(problem, call)
        name = type(self.encoder.pipe).__name__

        def fires(z: Tensor, generator: torch.Generator, repeats: int | None = None) -> Tensor:
            rows = problem.deployed(z)
            found = []
            for _ in range(repeats or 1):
                word = int(torch.randint(2**62, (1,), generator=generator, device=generator.device))
                latents = torch.Generator().manual_seed(word)
                images = run(rows, len(z), generator=latents, output_type="pt", return_dict=False)[0]
                if not isinstance(images, Tensor) or images.ndim != 4:
                    raise ValueError(f"{name} gives no images (b, 3, height, width): must, for a detector")
                found.append(detected(look, images.float().clamp(0, 1)).to(z.device))
            return found[0] if repeats is None else torch.stack(found, dim=1)

        return fires


def _texts(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and all(isinstance(text, str) for text in value)
