"""Prompt encoder of any diffusers pipeline: its own `encode_prompt`, with noise on the embeddings of all encoders.

A pipeline knows best how its prompts are encoded: templates, several tokenizers, masks, dropped positions, the layer that is
read. None of it is repeated here. The pipeline's `__call__` runs up to its denoiser, and the calls of `encode_prompt` that it
makes for the prompt are recorded with the arguments that it really passes: defaults of the two differ. They are then made
again, with other rows, and with other embeddings (`certify.models.encoders.embeddings`):

    y = the token embeddings of all lookups, concatenated           T(y) = what `encode_prompt` returns and depends on them

What depends on them, and which block of it on which encoder, is found by moving all embeddings of one lookup at a time
(`certify.models.encoders.probing`). A pipeline is refused, with the reason, where nothing moves, where two calls differ, or
where the hooks do not fire. The pipeline itself is not changed: it is a copy of it, sharing its models, that is called.
"""

from __future__ import annotations

import copy
import inspect
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from certify.models.encoders.embeddings import Lookup, listening, text_encoders
from certify.models.encoders.families import Family, family_of
from certify.models.encoders.missing import check_width, needed
from certify.models.encoders.probing import probed
from certify.models.encoders.readings import (
    PROMPT_ARGUMENT,
    EncodeCall,
    Frame,
    Reading,
    is_own,
    layout_of,
    own_prompt,
    plain_prompt,
)
from certify.models.encoders.words import Vocabulary
from certify.models.evaluation import eager
from certify.models.fingerprint import fingerprint
from certify.models.offloaded import device_of, state_of
from certify.models.quiet import quiet_libraries

__all__ = ["PipelineEncoder"]

_COPIES = re.compile(r"num_\w+_per_prompt")
_AROUND = ("vae", "movq", "image_encoder", "safety_checker", "feature_extractor", "vqvae")
_MOST_LOOKUPS = 8


Answer = Callable[[int, "EncodeCall", Callable[[], Any]], Any]


class _Stop(Exception):
    """The denoiser is reached: all prompts are encoded."""


class PipelineEncoder:
    """The text encoders of a pipeline as one function of the token embeddings of all of them.

    Args:
        pipe: any diffusers pipeline with `encode_prompt` and text encoders of transformers. It is not changed.

    Raises:
        TypeError: `pipe` is no such pipeline.
        ValueError: a text encoder is compiled.
    """

    def __init__(self, pipe: Any) -> None:
        if not callable(pipe) or not hasattr(pipe, "components"):
            raise TypeError(f"pipe is a {type(pipe).__name__}: must be a diffusers pipeline")
        if not callable(getattr(pipe, "encode_prompt", None)):
            raise TypeError(
                f"pipe is a {type(pipe).__name__} without encode_prompt: must have it, that is where noise enters"
            )
        if not text_encoders(pipe):
            raise TypeError(
                f"pipe is a {type(pipe).__name__} without a text encoder that looks token embeddings up: must have one; its "
                f"components are {', '.join(name for name, part in pipe.components.items() if part is not None)}"
            )
        self.pipe = pipe
        self.signature = _named(type(pipe))
        if "prompt" not in self.signature.parameters:
            raise TypeError(f"{type(pipe).__name__}.encode_prompt takes no `prompt`: must take it by this name")
        self._frames: dict[Any, Frame] = {}

    def __repr__(self) -> str:
        return f"PipelineEncoder({type(self.pipe).__name__}, {', '.join(self.encoders)})"

    @property
    def encoders(self) -> dict[str, nn.Module]:
        """The text encoders, by name."""
        return text_encoders(self.pipe)

    @property
    def denoisers(self) -> list[nn.Module]:
        """The parts that neither encode text nor images."""
        encoders = self.encoders
        return [
            part
            for name, part in self.pipe.components.items()
            if isinstance(part, nn.Module) and name not in encoders and name not in _AROUND
        ]

    @property
    def family(self) -> Family:
        """What is known of the pipeline's class; a class that is not known is served by what is found here."""
        return family_of(type(self.pipe))

    @property
    def dtype(self) -> torch.dtype:
        """Of the first text encoder's token embeddings."""
        return next(next(iter(self.encoders.values())).parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where the first text encoder is; offloaded, the CPU."""
        return device_of(next(iter(self.encoders.values())))

    def fingerprint(self) -> str:
        """SHA-256 over the named tensors of all text encoders."""
        tensors = {f"{name}.{k}": v for name, encoder in self.encoders.items() for k, v in state_of(encoder).items()}
        return fingerprint(tensors)

    def vocabulary(self, encoder: str) -> Vocabulary:
        """The tokenizer of a text encoder: `tokenizer_2` for `text_encoder_2`.

        Raises:
            TypeError: there is none of that name.
        """
        name = encoder.replace("text_encoder", "tokenizer")
        tokenizer = getattr(self.pipe, name, None)
        if tokenizer is None or name == encoder:
            others = [k for k, v in self.pipe.components.items() if "tokenizer" in k and v is not None]
            if len(others) != 1 or len(self.encoders) != 1:
                raise TypeError(f"pipe has no {name} for its {encoder}: must have one, its words are read with it")
            tokenizer = getattr(self.pipe, others[0])
        return Vocabulary.of(tokenizer)

    # The pipeline's own computation

    def twin(self) -> Any:
        """A pipeline that shares the models and has a scheduler and attributes of its own."""
        twin = copy.copy(self.pipe)
        scheduler = getattr(self.pipe, "scheduler", None)
        if scheduler is not None:
            twin.__dict__["scheduler"] = copy.deepcopy(scheduler)
        return twin

    def intercepted(self, answer: Answer, *, quiet: bool = False) -> Callable[..., Any]:
        """The pipeline's `__call__` on a twin, in which `encode_prompt` is answered where it is asked for the prompt.

        Args:
            answer: (number of the call, call, the pipeline's own `encode_prompt`, to be called without arguments) → what is
                returned instead.
            quiet: without the pipeline's progress bars.

        Returns:
            A function of the arguments of `__call__`, `prompt` by name.
        """
        twin = self.twin()
        if quiet:
            twin.__dict__["_progress_bar_config"] = {"disable": True}
        original = twin.encode_prompt
        calls: list[EncodeCall] = []

        def encode_prompt(*args: Any, **kwargs: Any) -> Any:
            bound = self.signature.bind(twin, *args, **kwargs)
            given = {name: plain_prompt(value) for name, value in list(bound.arguments.items())[1:]}
            given |= given.pop("kwargs", {})
            if not is_own(bound.arguments.get("prompt")):
                if not _is_negative(bound.arguments.get("prompt"), rejected):
                    raise ValueError(
                        f"{type(twin).__name__} encodes another text than the prompt: something rewrites it first (prompt "
                        "upsampling or enhancement), and what a certificate says of the prompt would not be about that text. "
                        "It must be off"
                    )
                return original(**given)
            call = EncodeCall(given)
            calls.append(call)
            return answer(len(calls) - 1, call, lambda: original(**{k: _copied(v) for k, v in given.items()}))

        rejected: list[Any] = []

        def run(**arguments: Any) -> Any:
            usual = inspect.signature(type(twin).__call__).parameters.values()
            negative = {p.name: p.default for p in usual if p.default is not p.empty} | arguments
            rejected.extend(value for name, value in negative.items() if name.startswith("negative_prompt"))
            prompts = {
                name: own_prompt(v)
                for name, v in arguments.items()
                if PROMPT_ARGUMENT.fullmatch(name) and v is not None
            }
            result = type(twin).__call__(twin, **{**arguments, **prompts})
            if not calls:
                raise ValueError(
                    f"{type(twin).__name__} never called encode_prompt for its prompt: it cannot be defended"
                )
            return result

        twin.__dict__["encode_prompt"] = encode_prompt
        return run

    def calls(self, prompts: Sequence[str], options: Mapping[str, Any] | None = None) -> list[EncodeCall]:
        """The calls of `encode_prompt` that the pipeline makes for these prompts: it runs up to its denoiser.

        Args:
            prompts: one or several.
            options: further arguments of `__call__`.

        Raises:
            ValueError: it never calls it, or lacks a text encoder or tokenizer that it cannot do without.
        """
        found: list[EncodeCall] = []

        def answer(number: int, call: EncodeCall, own: Callable[[], Any]) -> Any:
            found.append(call)
            return own()

        arguments = {name: v for name, v in (options or {}).items() if "callback" not in name}
        if "generator" in inspect.signature(type(self.pipe).__call__).parameters:
            arguments["generator"] = torch.Generator().manual_seed(0)
        run = self.intercepted(answer, quiet=True)
        others, own = self.denoisers, threading.get_ident()

        def stop(module: nn.Module, args: Any, given: dict[str, Any]) -> None:
            if threading.get_ident() == own:
                check_width(self.pipe, module, given.get("encoder_hidden_states"))
                raise _Stop

        handles = [part.register_forward_pre_hook(stop, with_kwargs=True) for part in others]
        try:
            with torch.random.fork_rng(devices=[]), eager(*others), needed(self.pipe):
                run(prompt=list(prompts) if len(prompts) > 1 else prompts[0], **arguments)
        except _Stop:
            pass
        finally:
            for handle in handles:
                handle.remove()
        if not found:
            raise ValueError(
                f"{type(self.pipe).__name__} never called encode_prompt for its prompt: it cannot be defended"
            )
        return found

    def run(
        self,
        call: EncodeCall,
        texts: Sequence[str] | None = None,
        *,
        copies: int = 1,
        replacements: Sequence[Tensor] | None = None,
    ) -> tuple[Any, list[Lookup]]:
        """`encode_prompt` with the arguments of a call, for the branch of the prompt alone.

        Args:
            call: whose arguments.
            texts: other prompts, for every encoder; None: the call's own, `copies` times one after the other.
            replacements: embeddings of every lookup, (rows, tokens, width); None: the tables' own.

        Returns:
            What it returns, and the lookups.

        Raises:
            ValueError: no embeddings were looked up, or they have another number of rows.
        """
        arguments: dict[str, Any] = dict(call.arguments)
        for name, value in call.arguments.items():
            if PROMPT_ARGUMENT.fullmatch(name) and value is not None:
                own = [value] * len(call.prompts) if isinstance(value, str) else list(value)
                arguments[name] = own * copies if texts is None else list(texts)
            elif name.startswith("negative_"):
                arguments[name] = None
            elif _COPIES.fullmatch(name):
                arguments[name] = 1
        if "do_classifier_free_guidance" in self.signature.parameters:
            arguments["do_classifier_free_guidance"] = False
        for name, parameter in self.signature.parameters.items():  # where the default is more than one
            if _COPIES.fullmatch(name) and parameter.default is not inspect.Parameter.empty:
                arguments.setdefault(name, 1)
        rows = len(arguments["prompt"])
        with torch.no_grad(), listening(self.encoders, replacements) as heard:
            tree = copy.copy(self.pipe).encode_prompt(**arguments)
        if not heard or (replacements is not None and len(heard) != len(replacements)):
            raise ValueError(
                f"{type(self.pipe).__name__}: its text encoders ({', '.join(self.encoders)}) looked up embeddings "
                f"{len(heard)} times where the hooks could see it: must be at least once, and alike in every call. A compiled "
                "encoder does that, or one whose output was cached"
            )
        if len(heard) > _MOST_LOOKUPS:
            raise ValueError(
                f"{type(self.pipe).__name__} looked up embeddings {len(heard)} times for one prompt: must be at most "
                f"{_MOST_LOOKUPS}; a text encoder that writes text (prompt enhancement) cannot be defended"
            )
        for lookup in heard:
            if lookup.embeddings.ndim != 3 or len(lookup.embeddings) != rows:
                raise ValueError(
                    f"{type(self.pipe).__name__}.{lookup.encoder} looked up embeddings of shape "
                    f"{tuple(lookup.embeddings.shape)} for {rows} prompts: must be ({rows}, tokens, width)"
                )
        return tree, heard

    # What is known of it

    def frame(self, call: EncodeCall) -> Frame:
        """What is the same for all prompts of such calls; found once.

        Raises:
            ValueError: as `probed`.
        """
        if call.key not in self._frames:
            with quiet_libraries():  # a probe is longer than some contexts, which is nothing to tell the user
                self._frames[call.key] = probed(self, call)
        return self._frames[call.key]

    def read(self, call: EncodeCall) -> Reading:
        """The prompts of a call: their embeddings, words and plain encodings."""
        frame = self.frame(call)
        tree, heard = self.run(call)
        if len(heard) != len(frame.units):
            raise ValueError(
                f"{type(self.pipe).__name__} looks up embeddings {len(heard)} times for this prompt and {len(frame.units)} "
                "times for another: must be the same"
            )
        vocabularies = [self.vocabulary(lookup.encoder) for lookup in heard]
        layouts = tuple(
            tuple(
                layout_of(lookup.encoder, lookup.ids[row].tolist(), empty, vocabulary)
                for lookup, empty, vocabulary in zip(heard, frame.empty, vocabularies, strict=True)
            )
            for row in range(len(call.prompts))
        )
        return Reading(call, frame, tree, tuple(heard), layouts)


def _named(pipeline: type) -> inspect.Signature:
    """The signature of `encode_prompt`: of the nearest ancestor whose arguments all have names."""
    for kind in pipeline.__mro__:
        if "encode_prompt" in vars(kind):
            signature = inspect.signature(vars(kind)["encode_prompt"])
            if all(p.kind is not p.VAR_POSITIONAL for p in signature.parameters.values()):
                return signature
    raise TypeError(f"{pipeline.__name__}.encode_prompt names none of its arguments: must take `prompt` by name")


def _is_negative(value: Any, rejected: Sequence[Any]) -> bool:
    texts = [value] if isinstance(value, str) else list(value or [""])
    lists = [[entry] if isinstance(entry, str) else entry for entry in rejected]
    named = [text for entry in lists if isinstance(entry, (list, tuple)) for text in entry]
    return all(text in ("", *named) for text in texts)


def _copied(value: Any) -> Any:
    return list(value) if isinstance(value, list) else value  # some write into the list that they are given
