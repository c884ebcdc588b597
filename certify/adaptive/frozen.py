"""Frozen smoother: the adaptive smoother with Σ fixed at one prompt, an object to deploy and to keep (THEORY T7)."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from certify import _files, _validate
from certify._pairs import Pair
from certify.adaptive.deployment import Deployment, deployed, side_information, stream_name
from certify.adaptive.policies import SMOOTHERS
from certify.adaptive.token_noise import TokenNoise
from certify.models.text import PromptEncoder, TokenizedPrompt
from certify.noise import GaussianNoise

__all__ = ["DEFAULT_DRAWS", "FrozenSmoother"]

DEFAULT_DRAWS = 13
"""The paper's n."""

_FORMAT = "certify frozen smoother"
_SCHEMA = 3
# Version 1 did not name the smoother ("aggregate"): it was the median. Version 2 had no digest of its tensors.
_READABLE = (1, 2, 3)
_PAIR = Pair("smoother.json", "smoother.safetensors", older=(1, 2))


class FrozenSmoother:
    """The smoother with Σ fixed: the object of a certificate under the policy "frozen" (T7).

    It accepts any prompt, or any token embeddings, that share the anchor's side information: the number of tokens, and
    with it the end-of-text position, the padding and the attention mask. Σ stays the anchor's whatever it is given; the
    words may differ in number. At the anchor it gives what the adaptive smoother gives there with the same seed.

    Args:
        encoder: T.
        tokenized: the anchor, the prompt at which Σ was computed.
        token_noise: relevance and σ of its positions.
        n: noisy encodings an input.
        smoother: "median" or "mean" of them, element by element.
        batch_size: sequences in one call of the text encoder.
        key: names the noise stream; None: the anchor's own.
        anchored: whether `tokenized` is the anchor itself; False: it only has its length (saved with `private=True`).
    """

    def __init__(
        self,
        encoder: PromptEncoder,
        tokenized: TokenizedPrompt,
        token_noise: TokenNoise,
        *,
        n: int = DEFAULT_DRAWS,
        smoother: str = "median",
        batch_size: int = 64,
        key: str | None = None,
        anchored: bool = True,
    ) -> None:
        self.encoder = encoder
        self.tokenized = tokenized
        self.token_noise = token_noise
        self.n = _validate.count("n", n)
        self.smoother = _validate.choice("smoother", smoother, SMOOTHERS)
        self.batch_size = _validate.count("batch_size", batch_size)
        self.noise = GaussianNoise(token_noise.column)
        self._key = stream_name(tokenized) if key is None else key
        self.anchored = anchored

    def __repr__(self) -> str:
        return f"FrozenSmoother({self.smoother}, n={self.n}, length={self.tokenized.length}, noise={self.noise!r})"

    def deployment(self, inputs: str | Tensor) -> Deployment:
        """The deployed encoding of one input as a function of noisy copies of it: what T5 is about.

        Args:
            inputs: a prompt, or token embeddings (tokens, width).

        Raises:
            ValueError: as for `encode`.
        """
        if isinstance(inputs, Tensor):
            _one(inputs)
        return self._deployments(inputs)[0]

    def encode(self, inputs: str | Sequence[str] | Tensor, seed: int | None = None) -> Tensor:
        """Smoothed encodings under the frozen Σ: (b, tokens, width).

        Args:
            inputs: a prompt, several, or token embeddings, (tokens, width) or (b, tokens, width).
            seed: as for `AdaptiveMedianSmoother.encode`: None, fresh and secret noise, another for every input; a number,
                only to repeat a run: all inputs of one call then see the same noise.

        Raises:
            ValueError: a prompt has another length than the anchor, or embeddings another shape or a NaN.
        """
        rows = [(deployment, self._key) for deployment in self._deployments(inputs)]
        return deployed(self.encoder, rows, seed, self.batch_size)

    def __call__(self, y: Tensor, seed: int | None = None) -> Tensor:
        """One input, (tokens, width) → (tokens, width): the shape of `certify.MedianSmoother`; `seed` as in `encode`."""
        return self.encode(_one(y), seed)[0]

    def distance(self, prompt: str) -> float:
        """‖δ‖_Σ from the anchor to another prompt: covered by a certificate at ρ where it is at most ρ (T9).

        Raises:
            ValueError: the prompt has another length, or the smoother was saved without its prompt.
        """
        if not self.anchored:
            raise ValueError("the anchor's tokens are not known: this smoother was saved with private=True")
        return self.noise.norm(self._embedded(prompt)[0].double() - self.encoder.embed(self.tokenized).double())

    def save(self, folder: str | Path, *, private: bool = False) -> Path:
        """Writes `smoother.json` and `smoother.safetensors`; in place of another smoother, which is there until this one is.

        Args:
            folder: made if it is not there.
            private: leave out the prompt, its tokens and everything that names them. σ and relevance stay, and
                identify the words to anyone who has the model: so only the owner may read the files.
        """
        folder = Path(folder)
        record = asdict(self.token_noise)
        del record["sigma"]
        tensors = {"sigma": self.token_noise.column}
        if private or not self.anchored:
            del record["tokens"]
        else:
            tensors["ids"] = self.tokenized.ids
        content = {
            "format": _FORMAT,
            "schema_version": _SCHEMA,
            "policy": "frozen",
            "prompt": None if private or not self.anchored else self.tokenized.prompt,
            "length": self.tokenized.length,
            "n": self.n,
            "aggregate": self.smoother,
            "key": secrets.token_hex(16) if private and self.anchored else self._key,
            "token_noise": record,
            "text_encoder_sha256": self.encoder.fingerprint(),
            **({"truncate": True} if self.encoder.truncate else {}),
        }
        _PAIR.write(folder, content, tensors, overwrite=True, owner_only=content["prompt"] is None)
        return folder

    @classmethod
    def load(cls, folder: str | Path, encoder: PromptEncoder, *, batch_size: int = 64) -> FrozenSmoother:
        """Reads what `save` wrote.

        Args:
            folder: where it is.
            encoder: the text encoder that it was made with; its weights are compared.

        Raises:
            FileNotFoundError: there is nothing of the kind in `folder`.
            ValueError: another format or version, or another text encoder.
        """
        path = Path(folder) / "smoother.json"
        if not path.is_file():
            raise FileNotFoundError(f"folder = {str(folder)!r}: no frozen smoother in it; looked for {path.absolute()}")
        try:
            content, tensors = _PAIR.read(path.parent, lambda file: _content(file, encoder))
            return cls._restored(content, tensors, encoder, batch_size)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"folder = {str(folder)!r}: its tensors are gone ({error})") from error
        except _Refused as error:
            raise ValueError(f"folder = {str(folder)!r}: {error}") from error
        except _DAMAGE as error:
            raise ValueError(f"folder = {str(folder)!r}: is damaged ({error!r})") from error

    @classmethod
    def _restored(
        cls, content: dict[str, Any], tensors: dict[str, Tensor], encoder: PromptEncoder, batch_size: int
    ) -> FrozenSmoother:
        if content.get("truncate", False) is not False:
            encoder = encoder.truncating()
        record = content["token_noise"]
        anchored = "ids" in tensors
        if anchored:
            ids = [int(i) for i in tensors["ids"]]
            tokenized = encoder.assemble(ids[1 : content["length"] - 1], content["prompt"])
            if not torch.equal(tokenized.ids, tensors["ids"]):
                raise ValueError(f"its token ids are {ids}, must be a prompt of this tokenizer")
        else:
            tokenized = encoder.assemble([0] * (content["length"] - 2))
        noise = TokenNoise(
            tokens=tuple(record.get("tokens", [""] * len(record["kinds"]))),
            kinds=tuple(record["kinds"]),
            relevance=tuple(record["relevance"]),
            concept=tuple(record["concept"]),
            sigma=tuple(float(s) for s in tensors["sigma"][:, 0]),
        )
        return cls(
            encoder,
            tokenized,
            noise,
            n=content["n"],
            smoother=content.get("aggregate", "median"),
            batch_size=batch_size,
            key=content["key"],
            anchored=anchored,
        )

    def _deployments(self, inputs: str | Sequence[str] | Tensor) -> list[Deployment]:
        side = side_information(self.encoder, self.tokenized)
        return [
            Deployment(y, self.noise, self.n, self.smoother, "frozen", self.encoder, side, batch_size=self.batch_size)
            for y in self._embedded(inputs)
        ]

    def _embedded(self, inputs: str | Sequence[str] | Tensor) -> list[Tensor]:
        if isinstance(inputs, Tensor):
            expected = (self.encoder.context_length, self.encoder.width)
            if inputs.ndim not in (2, 3) or tuple(inputs.shape[-2:]) != expected:
                raise ValueError(
                    f"inputs has shape {tuple(inputs.shape)}: must be (batch, {expected[0]}, {expected[1]})"
                )
            ys = _validate.finite_tensor("inputs", inputs).to(self.encoder.device, self.encoder.dtype)
            return list(ys if ys.ndim == 3 else ys[None])
        ys_ = []
        for prompt in [inputs] if isinstance(inputs, str) else inputs:
            tokenized = self.encoder.tokenize(prompt)
            if tokenized.length != self.tokenized.length:
                raise ValueError(
                    f"prompt = {prompt!r}: has {tokenized.length} tokens with begin and end, must have "
                    f"{self.tokenized.length} as the prompt at which Σ was frozen: length is side information (T7)"
                )
            ys_.append(self.encoder.embed(tokenized))
        if not ys_:
            raise ValueError("inputs is empty: must hold at least one prompt")
        return ys_


class _Refused(ValueError):
    """A record that is whole, and not one that can be used here."""


def _content(path: Path, encoder: PromptEncoder) -> dict[str, Any]:
    content = _files.read_json(path)
    if content.get("format") != _FORMAT or content.get("schema_version") not in _READABLE:
        raise _Refused(
            f"format {content.get('format')!r}, version {content.get('schema_version')!r}; must be {_FORMAT!r}, version "
            f"{', '.join(map(str, _READABLE[:-1]))} or {_READABLE[-1]}"
        )
    if content.get("text_encoder_sha256") != encoder.fingerprint():
        raise _Refused(
            "made with another text encoder, or another dtype of it "
            f"(SHA-256 {str(content.get('text_encoder_sha256'))[:12]}…); must be the one given"
        )
    if content["schema_version"] > 1 and "aggregate" not in content:
        raise _Refused(f"has no 'aggregate': must be one of {SMOOTHERS}")
    return content


_DAMAGE = (KeyError, ValueError, TypeError, AttributeError, IndexError, ArithmeticError, RuntimeError)
"""What values and tensors of another kind than a smoother's own lead to."""


def _one(y: Tensor) -> Tensor:
    if not isinstance(y, Tensor) or y.ndim != 2:
        raise ValueError(f"y is {tuple(y.shape) if isinstance(y, Tensor) else y!r}: must have shape (tokens, width)")
    return y
