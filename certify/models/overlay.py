"""Overlays: weights that are put on top of a base's, checked before anything changes.

What is said here of a part goes for the U-Net (`unet`), the text encoder (`text_encoder`) and a transformer in the U-Net's
place. The weights replace the base's; or they are a mask (`masks`), which sets the weights that it prunes to zero; or a LoRA
(`lora`), whose low-rank change is added. The last two need the base; loading the base again undoes them. All names must be the
base's, or those of another part, which are left alone and counted.
"""

from __future__ import annotations

import logging
import weakref
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from certify import _files
from certify.models import architecture, lora, masks, names, weight_files
from certify.models.fingerprint import fingerprint

__all__ = ["Overlay", "Part", "overlay_on"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Overlay:
    """What was laid over a base.

    Attributes:
        part: "unet" or "text_encoder".
        source: the file or folder, or "<state dict>".
        kind: "weights" (they replace the base's), "mask" (it sets some of them to zero) or "LoRA" (it is added to them).
        loaded: tensors of the base that were replaced, masked or added to.
        changed: those of them that are other numbers than before; 0: the model is the base.
        total: tensors of the base.
        sha256: fingerprint of the tensors that came in.
        pruned: weights that a mask set to zero.
        others: part → tensors in the file that belong to that, and were not used.
    """

    part: str
    source: str
    kind: str
    loaded: int
    changed: int
    total: int
    sha256: str
    pruned: int = 0
    others: Mapping[str, int] = field(default_factory=dict)

    @property
    def partial(self) -> bool:
        """True where some of the base's tensors stayed."""
        return self.loaded < self.total

    @property
    def counted(self) -> str:
        """In words: "16 of 208 tensors replaced"."""
        of, same = f"{self.loaded:,} of {self.total:,} tensors", "" if self.changed else ", none of which it changes"
        if self.kind == "mask":
            return f"mask over {of}, {self.pruned:,} weights pruned{same}"
        return f"LoRA added to {of}{same}" if self.kind == "LoRA" else f"{of} replaced{same}"

    @property
    def unused(self) -> str:
        """In words, what the file holds of other parts; "" where that is nothing."""
        return ", ".join(f"{count:,} of the {part}" for part, count in self.others.items())

    def to_dict(self) -> dict[str, Any]:
        """As JSON values, for a certificate's provenance: where the file lay does not enter."""
        pruned = {"pruned": self.pruned} if self.kind == "mask" else {}
        others = {"others": dict(self.others)} if self.others else {}
        counts = {"tensors": self.loaded, "changed": self.changed, "of": self.total}
        return {"kind": self.kind, **counts, "sha256": self.sha256, **pruned, **others}


_overlays: weakref.WeakKeyDictionary[nn.Module, Overlay] = weakref.WeakKeyDictionary()


def overlay_on(module: nn.Module) -> Overlay | None:
    """What was laid over this module; None where it is as it was loaded."""
    return _overlays.get(module)


@dataclass(frozen=True)
class Part:
    """A part of a pipeline over which weights are laid.

    Attributes:
        name: of the argument, and of the part's folder in a pipeline.
        what: in words, as `names.elsewhere` says it; then what else may stand in its place.
        stem: of the weight files in its folder.
        prefixes: that its names may carry.
        joined: prefixes of kohya's names.
        ignored: tensors in which nothing is learned.
        config: the configuration's keys that must be the base's; None: all that its class takes.
    """

    name: str
    what: tuple[str, ...]
    stem: str
    prefixes: tuple[str, ...]
    joined: tuple[str, ...]
    ignored: tuple[str, ...] = ()
    config: tuple[str, ...] | None = None

    def lay(self, module: nn.Module, source: str | Path | Mapping[str, Tensor], variant: str | None = None) -> Overlay:
        """Replaces weights of `module`, in place, by those of `source`. Nothing is changed where anything is wrong.

        Raises:
            FileNotFoundError: there is no such file or folder, or no weights in it.
            ValueError: a name is unknown, a shape disagrees, an entry is NaN or infinite, nothing of this part is there, the
                configuration beside it disagrees with the base's, or the file holds something else.
            TypeError: `source` is none of these.
        """
        given = weight_files.read(self.name, self.stem, source, variant)
        if given.config is not None:
            self._check_config(module, given)
        target = module.state_dict()
        book = names.Directory.of(target, self.prefixes, self.joined, self.ignored)
        state = self._tensors(given, from_file=not isinstance(source, Mapping))
        own, others = self._sorted(state, book, given.label)
        kind, pruned = "weights", 0
        masked = _masks(own, given, self.name)
        if masked is None and lora.is_lora(own):
            kind, new = "LoRA", self._lora(own, target, book, given)
        else:
            new = self._renamed(own if masked is None else masked, target, book, given.label, others)
            self._check(new, target, given.label, masks=masked is not None)
            if masked is not None:
                kind, pruned = "mask", sum(int((~mask).sum()) for mask in new.values())
                new = {name: target[name].masked_fill(~mask.to(target[name].device), 0) for name, mask in new.items()}
        changed = 0
        with torch.no_grad():
            for name, tensor in new.items():
                changed += not torch.equal(target[name], tensor.to(target[name]))
                target[name].copy_(tensor)
        counts = (len(new), changed, len(target))
        report = Overlay(self.name, given.label, kind, *counts, fingerprint(own), pruned, others)
        _overlays[module] = report
        if kind == "weights" and _torn(new, target):
            _log.warning(
                "%s = %s: %s, as by one of several files of a model; the others stay the base's: give the folder with all",
                self.name,
                given.label,
                report.counted,
            )
        elif report.partial:
            _log.info("%s = %s: partial, %s", self.name, given.label, report.counted)
        if report.unused:
            _log.info("%s = %s: not used, %s", self.name, given.label, report.unused)
        return report

    def _tensors(self, given: weight_files.Weights, *, from_file: bool) -> dict[str, Tensor]:
        try:
            state = names.flat(given.state)
        except ValueError as error:
            raise ValueError(f"{self.name} = {given.label!r}: {error}") from error
        if not state:
            raise ValueError(f"{self.name} = {given.label!r}: holds no tensors")
        for name, value in state.items():
            if not isinstance(value, Tensor) or not isinstance(name, str):
                raise ValueError(
                    f"{self.name} = {given.label!r}: {name!r} is a {type(value).__name__}, must be a tensor"
                )
            if value.layout != torch.strided or value.is_meta or value.is_quantized:
                raise ValueError(f"{self.name} = {given.label!r}: {name!r} must be a dense tensor")
            # A tensor of a pickle may claim any size over a few numbers that are all alike.
            if from_file and value.numel() * value.element_size() > value.untyped_storage().nbytes():
                raise ValueError(
                    f"{self.name} = {given.label!r}: {name!r} claims {value.numel():,} entries, and has fewer"
                )
        return state

    def _sorted(
        self, state: Mapping[str, Tensor], book: names.Directory, label: str
    ) -> tuple[dict[str, Tensor], dict[str, int]]:
        """Its own tensors, and how many the file has for each of the other parts."""
        own, others = {}, Counter[str]()
        for name, tensor in state.items():
            parsed = lora.factor(name)
            at = book.find(name if parsed is None else f"{parsed[0]}.weight")
            other = None if at is not None else names.elsewhere(name)
            if other is not None and other not in self.what:
                others[other] += 1
            elif at != "":
                own[name] = tensor
        if not own:
            what = ", ".join(f"{count} tensors of the {part}" for part, count in others.items())
            more = "; give it as text_encoder= (--text-encoder)" if "text encoder" in others else ""
            more = "; give it as weights= (--weights)" if "U-Net" in others else more
            raise ValueError(
                f"{self.name} = {label!r}: holds nothing of the {self.what[0]}, but {what or 'position numbers alone'}{more}"
            )
        return own, dict(others)

    def _renamed(
        self,
        own: Mapping[str, Tensor],
        base: Mapping[str, Tensor],
        book: names.Directory,
        label: str,
        others: Mapping[str, int],
    ) -> dict[str, Tensor]:
        """The tensors under the base's names, each once."""
        found = {name: book.find(name) for name in own}
        unknown = sorted(name for name, at in found.items() if at is None)
        if unknown:
            hint = ""
            if any(f".{word}." in f".{name}" for name in unknown for word in ("input_blocks", "output_blocks")):
                hint = "; these are names of the original (CompVis) layout, of another U-Net than the base's"
            elif any("resblocks." in name for name in unknown):
                hint = "; these are names of OpenCLIP's layout: convert it with diffusers or transformers first"
            elif others:
                hint = f"; beside them are tensors of the {' and the '.join(others)}: is this file for another part?"
            raise ValueError(
                f"{self.name} = {label!r}: {len(unknown)} of {len(own)} names are unknown to the base's {self.what[0]}, "
                f"first {unknown[0]!r}; every name must be one of its {len(base)}{hint}"
            )
        new: dict[str, Tensor] = {}
        for name, at in found.items():
            at = str(at)
            if at in new and not names.same(new[at], own[name]):
                raise ValueError(
                    f"{self.name} = {label!r}: has {at!r} under two names, {name!r} one of them, with different numbers; must "
                    "be the same, or there once"
                )
            new[at] = own[name]
        return new

    def _check(
        self, state: Mapping[str, Tensor], base: Mapping[str, Tensor], label: str, *, masks: bool = False
    ) -> None:
        """Raises ValueError where a shape or kind of number disagrees, or an entry is NaN or infinite."""
        for name, tensor in state.items():
            if tensor.shape != base[name].shape:
                raise ValueError(
                    f"{self.name} = {label!r}: {name!r} has shape {tuple(tensor.shape)}, must be {tuple(base[name].shape)}"
                )
            if not masks and tensor.is_floating_point() != base[name].is_floating_point():
                raise ValueError(
                    f"{self.name} = {label!r}: {name!r} is {tensor.dtype}, must be {base[name].dtype} or alike"
                )
            # As what it becomes: a number that the base's dtype cannot hold is infinite there.
            if not bool(torch.isfinite(tensor.to(base[name].dtype)).all()):
                raise ValueError(f"{self.name} = {label!r}: {name!r} holds NaN or infinity, every entry must be finite")

    def _lora(
        self,
        own: Mapping[str, Tensor],
        base: Mapping[str, Tensor],
        book: names.Directory,
        given: weight_files.Weights,
    ) -> dict[str, Tensor]:
        text, where = given.metadata.get("lora_adapter_metadata"), "its metadata"
        try:
            if text is None and given.adapter is not None:
                text, where = _files.read_text(given.adapter), f"{given.adapter.name} beside it"
            settings = lora.Settings.read(text, (self.name, "transformer"), where)
        except ValueError as error:
            raise ValueError(
                f"{self.name} = {given.label!r}: what is said of the LoRA in {where} cannot be followed ({error})"
            ) from error
        try:
            return lora.adapted(own, base, book.find, settings)
        except ValueError as error:
            raise ValueError(f"{self.name} = {given.label!r}: {error}") from error

    def _check_config(self, module: nn.Module, given: weight_files.Weights) -> None:
        differing = architecture.differences(module, given.config or {}, self.config)
        if differing:
            what = "; ".join(f"{key} {new!r}, base {old!r}" for key, (new, old) in differing.items())
            raise ValueError(f"{self.name} = {given.label!r}: its configuration must be the base's, but {what}")


def _torn(new: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> bool:
    """Whether the tensors look like one file of several: of most roles (`attn2.to_k.weight`) some came and some did not.

    What was fine-tuned in part is chosen by role, as ESD-x and UCE choose cross-attention, or is of few roles.
    """
    roles: dict[str, set[bool]] = {}
    for name in base:
        role = ".".join(part for part in name.split(".")[1:] if not part.isdigit())
        roles.setdefault(role, set()).add(name in new)
    return 2 * sum(len(came) == 2 for came in roles.values()) > len(roles)


def _masks(own: Mapping[str, Tensor], given: weight_files.Weights, part: str) -> dict[str, Tensor] | None:
    """The masks that were given, packed in a file or as boolean tensors; None: something else."""
    if given.metadata.get("format") == masks.FORMAT:
        try:
            return masks.unpacked(own, given.metadata)
        except ValueError as error:
            raise ValueError(f"{part} = {given.label!r}: {error}") from error
    return dict(own) if all(tensor.dtype == torch.bool for tensor in own.values()) else None
