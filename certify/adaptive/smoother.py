"""Adaptive median smoother: noise where the concept is, none to speak of elsewhere, and the median of what comes out.

A token's noise grows exponentially with its relevance to what is to be suppressed, and the conditioning of the U-Net is
the element-wise median over n noisy encodings (Han et al. 2025, section 3.4):

    σ_j = min( σ₀ exp(k · sim_j), σ_max ),        h = median( T(y + G_1), …, T(y + G_n) ),   G_i ~ N(0, diag σ²).

Tokens that carry the concept drown; the others keep their meaning. n is 13 in the paper.

Two objects, because a theorem speaks about one of them only (THEORY T7). `AdaptiveMedianSmoother` computes Σ from the
prompt it receives; an adversary who moves the prompt moves Σ with it, and no bound of this toolkit covers that.
`FrozenSmoother` is the smoother with Σ fixed at one prompt: certificates are about this one.

A bound on what is deployed (T5) is about deployment noise that is fresh and secret. With a published seed the outputs
can be reproduced, by an adversary too; `seed=None` draws a secret one from the operating system.
"""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypedDict, Unpack

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from certify import _validate
from certify.adaptive.certification import CertifyOptions, certify_prompt
from certify.adaptive.concepts import Concept, concept_direction
from certify.adaptive.problem import QUANTITIES, Problem
from certify.adaptive.relevance import RelevanceScorer
from certify.certificate import POLICIES as NOT_COVERED
from certify.certificate import Certificate
from certify.models.denoiser import NoisePredictor
from certify.models.text import PromptEncoder, TokenizedPrompt
from certify.montecarlo import median
from certify.montecarlo.streams import row_generator
from certify.noise import GaussianNoise

__all__ = [
    "POLICIES",
    "SPECIAL_TOKENS",
    "AdaptiveMedianSmoother",
    "AdaptiveOptions",
    "FrozenSmoother",
    "TokenNoise",
]

POLICIES = tuple(NOT_COVERED)
"""Covariance policies (T7): what a certificate assumes about Σ. Frozen: Σ is fixed when the certificate is issued."""

SPECIAL_TOKENS = ("none", "tail", "base")
"""Noise at tokens without a relevance: nowhere; σ₀ at the end token and the padding; σ₀ at the begin token, too."""

DEFAULT_SIGMA0_RELATIVE = 0.45
"""σ₀ in spreads of the token embeddings. The paper's 0.006 for Stable Diffusion v1.4, whose spread is about 0.0133."""

DEFAULT_K = 9.0
"""The paper's scaling factor."""

DEFAULT_DRAWS = 13
"""The paper's n."""

_SCHEMA = 1


class AdaptiveOptions(TypedDict, total=False):
    """The options of `AdaptiveMedianSmoother`, which explains them."""

    sigma0: float | None
    sigma0_relative: float | None
    k: float
    n: int
    use_global: bool
    policy: str
    similarity: str
    special_tokens: str
    sigma_max: float | None
    sigma_max_relative: float | None
    smooth_unconditional: bool
    batch_size: int


@dataclass(frozen=True)
class TokenNoise:
    """What every position of a prompt gets. All tuples have one entry a position.

    Attributes:
        tokens: the vocabulary's spelling.
        kinds: "begin", "word", "end" or "padding".
        relevance: the largest similarity to any of the concepts; None at positions that are not words.
        concept: the concept that it is the similarity to; None likewise.
        sigma: standard deviation of the noise, in the unit of the token embeddings.
    """

    tokens: tuple[str, ...]
    kinds: tuple[str, ...]
    relevance: tuple[float | None, ...]
    concept: tuple[str | None, ...]
    sigma: tuple[float, ...]

    def __str__(self) -> str:
        rows = [
            (token, kind, "" if score is None else f"{score:+.4f}", name or "", f"{sigma:.4g}")
            for token, kind, score, name, sigma in zip(
                self.tokens, self.kinds, self.relevance, self.concept, self.sigma, strict=True
            )
            if kind != "padding"
        ]
        if "padding" in self.kinds:
            first = self.kinds.index("padding")
            rows.append((f"{len(self.kinds) - first} more", "padding", "", "", f"{self.sigma[first]:.4g}"))
        head = ("token", "kind", "relevance", "concept", "σ")
        widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
        return "\n".join(
            "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in [head, *rows]
        )


class AdaptiveMedianSmoother:
    """The defence: relevance → Σ → median of n noisy encodings.

    Equation
        σ_j = min( σ₀ exp(k · sim_j), σ_max ),  h = median_i T(y + G_i),  G_i ~ N(0, diag σ²).

    Reference
        Han et al. (2025), section 3.4 and Algorithm 1; THEORY T7 for what may be claimed.

    Args:
        encoder: T.
        concepts: what to suppress: names (`available_concepts()`), paths of `.csv` or `.jsonl` files, or `Concept`s. A
            token's relevance is its largest over the concepts.
        sigma0: base noise σ₀, absolute, as in the paper (its unit is the token embeddings').
        sigma0_relative: σ₀ in units of `encoder.embedding_spread`, which carries over between models. At most one of
            the two; neither: 0.45 spreads, the paper's .006 for Stable Diffusion v1.4.
        k: how fast noise grows with relevance, ≥ 0. The paper's 9 makes a relevance of 0.5 ninety σ₀.
        n: noisy encodings a prompt.
        use_global: Algorithm 1's global flag, for models that are easier to restore.
        policy: the covariance policy of certificates; "frozen" is the one there is.
        similarity: cosine over the "flattened" encoding or over the vector at "end-of-text".
        special_tokens: noise at begin, end and padding, which have no relevance; the paper does not say. "none" (the
            default): a certificate then covers replacing tokens at equal length. Noise of size σ₀ there could not widen
            that to insertions in practice, since σ₀ is a small part of the distance between two tokens (T9), and it
            costs fidelity at the positions that the U-Net attends to most. "tail": σ₀ at the end token and the padding,
            the positions that an insertion changes. "base": at the begin token, too.
        sigma_max: cap on σ, absolute; `math.inf` for none.
        sigma_max_relative: the cap in spreads. At most one of the two; neither: 2·√(2·width) spreads. Two random tokens
            are √(2·width) spreads apart, so at the cap replacing one token by another typically costs ρ = ½. Beyond it
            a drowned token is no more drowned, and k = 9 turns a relevance of .72 into 650 σ₀.
        smooth_unconditional: whether `encode_unconditional` smooths the branch without a prompt, with σ₀ everywhere but
            at begin. Off: the paper's smoothing is about the prompt, and the unconditional branch does not depend on it.
        batch_size: sequences in one call of the text encoder.
        denoiser: the U-Net, for statements about noise predictions.

    Raises:
        ValueError, TypeError: an option is outside its range (the message says which), `concepts` is empty or names an
            unknown concept, or a pair does not fit into the context.
    """

    def __init__(
        self,
        encoder: PromptEncoder,
        concepts: str | Path | Concept | Sequence[str | Path | Concept],
        *,
        sigma0: float | None = None,
        sigma0_relative: float | None = None,
        k: float = DEFAULT_K,
        n: int = DEFAULT_DRAWS,
        use_global: bool = False,
        policy: str = "frozen",
        similarity: str = "flattened",
        special_tokens: str = "none",
        sigma_max: float | None = None,
        sigma_max_relative: float | None = None,
        smooth_unconditional: bool = False,
        batch_size: int = 64,
        denoiser: NoisePredictor | None = None,
    ) -> None:
        if not isinstance(encoder, PromptEncoder):
            raise TypeError(f"encoder is a {type(encoder).__name__}: must be a PromptEncoder")
        if policy not in POLICIES:
            available = ", ".join(repr(p) for p in POLICIES)
            raise ValueError(
                f"policy = {policy!r}: must be one of {available}; other covariance policies do not exist yet"
            )
        self.encoder = encoder
        self.policy = policy
        self.k = _at_least_zero("k", k)
        self.n = _validate.count("n", n)
        self.special_tokens = _validate.choice("special_tokens", special_tokens, SPECIAL_TOKENS)
        self.smooth_unconditional = bool(smooth_unconditional)
        self.batch_size = _validate.count("batch_size", batch_size)
        self.denoiser = denoiser
        spread = encoder.embedding_spread
        default_cap = 2 * math.sqrt(2 * encoder.width)
        self.sigma0 = _absolute("sigma0", sigma0, sigma0_relative, spread, DEFAULT_SIGMA0_RELATIVE)
        self.sigma_max = _absolute("sigma_max", sigma_max, sigma_max_relative, spread, default_cap, infinite=True)
        if self.sigma_max < self.sigma0:
            raise ValueError(f"sigma_max = {self.sigma_max!r}: must be at least sigma0 = {self.sigma0!r}")
        self.concepts = _loaded(concepts)
        directions = [
            concept_direction(encoder, c, similarity=similarity, batch_size=batch_size) for c in self.concepts
        ]
        self.scorer = RelevanceScorer(
            encoder, torch.stack(directions), similarity=similarity, use_global=use_global, batch_size=batch_size
        )

    @classmethod
    def from_pipeline(
        cls,
        pipe: Any,
        concepts: str | Path | Concept | Sequence[str | Path | Concept],
        **options: Unpack[AdaptiveOptions],
    ) -> AdaptiveMedianSmoother:
        """The smoother for a Stable Diffusion pipeline: anything with `.tokenizer` and `.text_encoder`.

        Args:
            pipe: the pipeline. Its `.unet` and `.scheduler`, if it has them, serve statements about noise predictions.
            concepts, options: as above.
        """
        encoder = PromptEncoder.from_pipeline(pipe)
        unet, scheduler = getattr(pipe, "unet", None), getattr(pipe, "scheduler", None)
        denoiser = None if unet is None or scheduler is None else NoisePredictor(unet, scheduler)
        return cls(encoder, concepts, denoiser=denoiser, **options)

    @classmethod
    def from_encoder(
        cls,
        encoder: PromptEncoder,
        concepts: str | Path | Concept | Sequence[str | Path | Concept],
        **options: Unpack[AdaptiveOptions],
    ) -> AdaptiveMedianSmoother:
        """The smoother for a text encoder alone (`load_text_encoder`): all that statements about encodings need."""
        return cls(encoder, concepts, **options)

    def __repr__(self) -> str:
        names = ", ".join(concept.name for concept in self.concepts)
        return (
            f"AdaptiveMedianSmoother([{names}], σ₀={self.sigma0:.4g}, k={self.k:g}, n={self.n}, policy={self.policy!r})"
        )

    def settings(self) -> dict[str, Any]:
        """Everything that determines Σ and the median, for a record: plain JSON values."""
        return {
            "concepts": [{"name": c.name, "pairs": len(c.pairs), "sha256": c.sha256} for c in self.concepts],
            "sigma0": self.sigma0,
            "k": self.k,
            "n": self.n,
            "use_global": self.scorer.use_global,
            "policy": self.policy,
            "similarity": self.scorer.similarity,
            "special_tokens": self.special_tokens,
            "sigma_max": self.sigma_max if math.isfinite(self.sigma_max) else None,
            "smooth_unconditional": self.smooth_unconditional,
        }

    # Prompt → Σ

    def relevance(self, prompt: str) -> TokenNoise:
        """Relevance and σ of every position of a prompt.

        Raises:
            ValueError: the prompt is empty or does not fit into the context.
        """
        return self._token_noise([self._tokenize(prompt)])[0]

    def sigma(self, prompt: str) -> Tensor:
        """σ of every position, (tokens, 1), float64 on the CPU. Errors as for `relevance`."""
        return _column(self.relevance(prompt))

    def noise(self, prompt: str) -> GaussianNoise:
        """N(0, Σ(y)) of a prompt, one σ a token over the whole width. Errors as for `relevance`."""
        return GaussianNoise(self.sigma(prompt))

    def _token_noise(self, prompts: Sequence[TokenizedPrompt]) -> list[TokenNoise]:
        records = []
        for prompt, scores in zip(prompts, self.scorer.scores(prompts), strict=True):
            best, which = scores.max(dim=1)
            relevance = [float(s) if kind == "word" else None for s, kind in zip(best, prompt.kinds, strict=True)]
            sigma = [
                self._special(kind) if score is None else self._sigma(score)
                for score, kind in zip(relevance, prompt.kinds, strict=True)
            ]
            names = [
                None if score is None else self.concepts[int(i)].name for score, i in zip(relevance, which, strict=True)
            ]
            records.append(TokenNoise(prompt.tokens, prompt.kinds, tuple(relevance), tuple(names), tuple(sigma)))
        return records

    def _sigma(self, relevance: float) -> float:
        return (
            self.sigma_max
            if self.k * relevance > 700
            else min(self.sigma0 * math.exp(self.k * relevance), self.sigma_max)
        )

    def _special(self, kind: str) -> float:
        noised = {"none": (), "tail": ("end", "padding"), "base": ("begin", "end", "padding")}[self.special_tokens]
        return self.sigma0 if kind in noised else 0.0

    def _tokenize(self, prompt: str) -> TokenizedPrompt:
        tokenized = self.encoder.tokenize(prompt)
        if tokenized.empty:
            raise ValueError(f"prompt = {prompt!r}: must not be empty (encode_unconditional is for the empty prompt)")
        return tokenized

    # Prompt → prompt_embeds

    def encode(self, prompts: str | Sequence[str], seed: int | None = 0) -> Tensor:
        """Smoothed encodings, as the pipeline's `prompt_embeds`.

        Equation
            h = median( T(y + G_1), …, T(y + G_n) ), element by element; for even n the average of the two middle values.

        Reference
            Han et al. (2025), section 3.4, "Efficiency Improvement".

        Args:
            prompts: one prompt or several.
            seed: where the noise comes from. A prompt's noise depends on the seed and its own tokens, so it is encoded
                alike alone and anywhere in a list (up to the encoder's rounding), and twice the same in one list. None:
                a fresh secret seed, which a guarantee for the deployed encoding presumes (T5).

        Returns:
            (b, tokens, width), the encoder's dtype and device.

        Raises:
            ValueError: a prompt is empty or does not fit into the context, or there is none.
        """
        tokenized = [self._tokenize(p) for p in ([prompts] if isinstance(prompts, str) else prompts)]
        if not tokenized:
            raise ValueError("prompts is empty: must hold at least one prompt")
        noises = [GaussianNoise(_column(record)) for record in self._token_noise(tokenized)]
        rows = [_Row(t, self.encoder.embed(t), noise, _key(t)) for t, noise in zip(tokenized, noises, strict=True)]
        return _smoothed(self.encoder, rows, self.n, seed, self.batch_size)

    def encode_unconditional(self, negative_prompt: str = "", seed: int | None = 0) -> Tensor:
        """The branch without the prompt, as the pipeline's `negative_prompt_embeds`: (1, tokens, width).

        Plain, unless `smooth_unconditional`: then with σ₀ at every position but the begin token. A negative prompt gets
        no relevance: what it names is what the user wants to avoid, and drowning it would undo that.
        """
        tokenized = self.encoder.tokenize(negative_prompt)
        if not self.smooth_unconditional:
            return self.encoder.plain([tokenized])
        sigma = torch.tensor([0.0 if kind == "begin" else self.sigma0 for kind in tokenized.kinds], dtype=torch.float64)
        row = _Row(
            tokenized, self.encoder.embed(tokenized), GaussianNoise(sigma[:, None]), "unconditional " + _key(tokenized)
        )
        return _smoothed(self.encoder, [row], self.n, seed, self.batch_size)

    def pipeline_inputs(
        self, prompts: str | Sequence[str], negative_prompt: str = "", seed: int | None = 0
    ) -> dict[str, Tensor]:
        """Both branches, for `pipe(**adaptive.pipeline_inputs("…"), guidance_scale=…)`."""
        embeds = self.encode(prompts, seed)
        negative = self.encode_unconditional(negative_prompt, seed)
        return {"prompt_embeds": embeds, "negative_prompt_embeds": negative.expand(len(embeds), -1, -1).contiguous()}

    # Prompt → what a certificate is about

    def problem(
        self, prompt: str, quantity: str = "embedding", *, x_t: Tensor | None = None, t: int | None = None
    ) -> Problem:
        """A prompt as the function, input, noise and support that a bound takes. Σ is fixed at this prompt's (T7).

        Args:
            prompt: the prompt.
            quantity: "embedding": f(z) = T(z), (b, tokens, width). "noise-prediction": f(z) = ε(x_t, T(z), t),
                (b, channels, height, width), at the given (x_t, t).
            x_t: (channels, height, width), a noisy latent; for "noise-prediction".
            t: its training time step; for "noise-prediction".

        Raises:
            ValueError: the prompt is empty or too long, the quantity is unknown, or its arguments are missing.
        """
        _validate.choice("quantity", quantity, QUANTITIES)
        tokenized = self._tokenize(prompt)
        record = self._token_noise([tokenized])[0]
        encoder = self.encoder

        def embedding(z: Tensor) -> Tensor:
            return encoder.encode(z, tokenized)

        f: Callable[[Tensor], Tensor] = embedding
        support: Any = None
        if quantity == "embedding":
            support = _support(encoder)
        else:
            f = self._noise_prediction(embedding, x_t, t)
        return Problem(
            f, encoder.embed(tokenized), GaussianNoise(_column(record)), support, quantity, tokenized, record
        )

    def _noise_prediction(
        self, embedding: Callable[[Tensor], Tensor], x_t: Tensor | None, t: int | None
    ) -> Callable[[Tensor], Tensor]:
        denoiser = self.denoiser
        if denoiser is None:
            raise ValueError("quantity = 'noise-prediction': must have a U-Net; build the smoother with from_pipeline")
        if x_t is None or t is None:
            raise ValueError(f"x_t = {x_t!r}, t = {t!r}: both must be given for quantity = 'noise-prediction'")
        latent, step = _validate.finite_tensor("x_t", x_t), _validate.count("t", t, minimum=0)
        if latent.ndim != 3 or latent.shape[0] != denoiser.latent_shape[0]:
            channels = denoiser.latent_shape[0]
            raise ValueError(f"x_t has shape {tuple(latent.shape)}: must be ({channels}, height, width)")

        def noise_prediction(z: Tensor) -> Tensor:
            return denoiser(latent[None], step, embedding(z))

        return noise_prediction

    def certify(self, prompt: str, **options: Unpack[CertifyOptions]) -> Certificate:
        """The certificate of a prompt: bound at ρ, curve and radius for its smoothed encoding, Σ fixed at this prompt's.

        Args:
            prompt: not empty.
            options: rho, n, alpha, seed, …: those of `certify.adaptive.certification.certify_prompt`, which explains them.
        """
        return certify_prompt(self, prompt, **options)

    def freeze(self, prompt: str) -> FrozenSmoother:
        """The smoother with Σ fixed at this prompt's: what a frozen certificate is about, as an object to deploy."""
        tokenized = self._tokenize(prompt)
        record = self._token_noise([tokenized])[0]
        return FrozenSmoother(self.encoder, tokenized, record, n=self.n, batch_size=self.batch_size)


class FrozenSmoother:
    """The median smoother with Σ fixed: the object of a certificate under the policy "frozen" (T7).

    It accepts any prompt, or any token embeddings, that share the anchor's side information: the number of tokens, and
    with it the end-of-text position, the padding and the attention mask. Σ stays the anchor's whatever it is given; the
    words may differ in number. At the anchor it gives what the adaptive smoother gives there with the same seed.

    Args:
        encoder: T.
        tokenized: the anchor, the prompt at which Σ was computed.
        token_noise: relevance and σ of its positions.
        n: noisy encodings an input.
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
        batch_size: int = 64,
        key: str | None = None,
        anchored: bool = True,
    ) -> None:
        self.encoder = encoder
        self.tokenized = tokenized
        self.token_noise = token_noise
        self.n = _validate.count("n", n)
        self.batch_size = _validate.count("batch_size", batch_size)
        self.noise = GaussianNoise(_column(token_noise))
        self._key = _key(tokenized) if key is None else key
        self.anchored = anchored

    def __repr__(self) -> str:
        return f"FrozenSmoother(n={self.n}, length={self.tokenized.length}, noise={self.noise!r})"

    def encode(self, inputs: str | Sequence[str] | Tensor, seed: int | None = 0) -> Tensor:
        """Smoothed encodings under the frozen Σ: (b, tokens, width).

        Args:
            inputs: a prompt, several, or token embeddings, (tokens, width) or (b, tokens, width).
            seed: as for `AdaptiveMedianSmoother.encode`; all inputs of one call see the same noise.

        Raises:
            ValueError: a prompt has another length than the anchor, or embeddings another shape or a NaN.
        """
        ys = self._embedded(inputs)
        rows = [_Row(self.tokenized, y, self.noise, self._key) for y in ys]
        return _smoothed(self.encoder, rows, self.n, seed, self.batch_size)

    def __call__(self, y: Tensor, seed: int | None = 0) -> Tensor:
        """One input, (tokens, width) → (tokens, width): the shape of `certify.MedianSmoother`."""
        if not isinstance(y, Tensor) or y.ndim != 2:
            raise ValueError(
                f"y is {tuple(y.shape) if isinstance(y, Tensor) else y!r}: must have shape (tokens, width)"
            )
        return self.encode(y, seed)[0]

    def distance(self, prompt: str) -> float:
        """‖δ‖_Σ from the anchor to another prompt: covered by a certificate at ρ where it is at most ρ (T9).

        Raises:
            ValueError: the prompt has another length, or the smoother was saved without its prompt.
        """
        if not self.anchored:
            raise ValueError("the anchor's tokens are not known: this smoother was saved with private=True")
        return self.noise.norm(self._embedded(prompt)[0].double() - self.encoder.embed(self.tokenized).double())

    def save(self, folder: str | Path, *, private: bool = False) -> Path:
        """Writes `smoother.json` and `smoother.safetensors`.

        Args:
            folder: made if it is not there.
            private: leave out the prompt, its tokens and everything that names them. σ stays: how many tokens the
                prompt has and which of them are relevant can be read from it, and guesses of its words tested.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        record = asdict(self.token_noise)
        del record["sigma"]
        tensors = {"sigma": _column(self.token_noise)}
        if private or not self.anchored:
            del record["tokens"]
        else:
            tensors["ids"] = self.tokenized.ids
        content = {
            "format": "certify frozen smoother",
            "schema_version": _SCHEMA,
            "policy": "frozen",
            "prompt": None if private or not self.anchored else self.tokenized.prompt,
            "length": self.tokenized.length,
            "n": self.n,
            "key": secrets.token_hex(16) if private and self.anchored else self._key,
            "token_noise": record,
            "text_encoder_sha256": self.encoder.fingerprint(),
        }
        text = json.dumps(content, ensure_ascii=False, indent=2, allow_nan=False)
        (folder / "smoother.json").write_text(text + "\n", encoding="utf-8")
        save_file(tensors, folder / "smoother.safetensors")
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
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.get("format") != "certify frozen smoother" or content.get("schema_version") != _SCHEMA:
            raise ValueError(
                f"folder = {str(folder)!r}: format {content.get('format')!r}, version {content.get('schema_version')!r}; "
                f"must be 'certify frozen smoother', version {_SCHEMA}"
            )
        if content["text_encoder_sha256"] != encoder.fingerprint():
            raise ValueError(
                f"folder = {str(folder)!r}: made with another text encoder, or another dtype of it "
                f"(SHA-256 {content['text_encoder_sha256'][:12]}…); must be the one given"
            )
        tensors = load_file(path.with_suffix(".safetensors"))
        record = content["token_noise"]
        anchored = "ids" in tensors
        if anchored:
            ids = [int(i) for i in tensors["ids"]]
            tokenized = encoder.assemble(ids[1 : content["length"] - 1], content["prompt"])
            if not torch.equal(tokenized.ids, tensors["ids"]):
                raise ValueError(
                    f"folder = {str(folder)!r}: its token ids are {ids}, must be a prompt of this tokenizer"
                )
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
            encoder, tokenized, noise, n=content["n"], batch_size=batch_size, key=content["key"], anchored=anchored
        )

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


@dataclass(frozen=True, eq=False)
class _Row:
    tokenized: TokenizedPrompt
    y: Tensor
    noise: GaussianNoise
    key: str


def _smoothed(encoder: PromptEncoder, rows: Sequence[_Row], n: int, seed: int | None, batch_size: int) -> Tensor:
    """The median over n noisy encodings of every row. As many rows share a batch as fit into it whole."""
    seed = secrets.randbits(63) if seed is None else _validate.seed_value(seed)
    together = max(1, batch_size // n)
    medians: list[Tensor] = []
    for start in range(0, len(rows), together):
        chunk = rows[start : start + together]
        z = torch.cat([r.noise.draw(r.y, n, row_generator(seed, r.key, r.y.device)) for r in chunk])
        ids = torch.stack([r.tokenized.ids for r in chunk]).repeat_interleave(n, dim=0)
        masks = [r.tokenized.attention_mask for r in chunk if r.tokenized.attention_mask is not None]
        mask = torch.stack(masks).repeat_interleave(n, dim=0) if masks else None
        encoded = torch.cat(
            [
                encoder.encode_batch(
                    ids[i : i + batch_size], z[i : i + batch_size], None if mask is None else mask[i : i + batch_size]
                )
                for i in range(0, len(z), batch_size)
            ]
        )
        medians.extend(median(draws) for draws in encoded.split(n))
    smoothed = torch.stack(medians)
    if not bool(torch.isfinite(smoothed).all()):
        raise ValueError(
            f"encoding holds NaN or infinity: must be finite; in {encoder.dtype} the largest σ, "
            f"{max(float(r.noise.sigma.max()) for r in rows):.4g}, may be too large, or the text encoder's weights are broken"
        )
    return smoothed


def _column(record: TokenNoise) -> Tensor:
    return torch.tensor(record.sigma, dtype=torch.float64)[:, None]


def _key(tokenized: TokenizedPrompt) -> str:
    """Names a prompt's noise stream: by its tokens, not by its text."""
    return "prompt " + " ".join(str(i) for i in tokenized.content)


def _support(encoder: PromptEncoder) -> Any:
    from certify.support import layer_norm_support

    norm = encoder.final_layer_norm
    return None if norm is None else layer_norm_support(norm)


def _loaded(concepts: str | Path | Concept | Sequence[str | Path | Concept]) -> tuple[Concept, ...]:
    given = [concepts] if isinstance(concepts, (str, Path, Concept)) else list(concepts)
    if not given:
        raise ValueError("concepts is empty: must name at least one concept")
    loaded = tuple(c if isinstance(c, Concept) else Concept.load(c) for c in given)
    names = [c.name for c in loaded]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"concepts = {names}: must be different, {twice[0]!r} is there twice")
    return loaded


def _absolute(
    name: str, absolute: float | None, relative: float | None, spread: float, default: float, *, infinite: bool = False
) -> float:
    if absolute is not None and relative is not None:
        raise ValueError(f"{name} = {absolute!r} and {name}_relative = {relative!r}: must be only one of the two")
    label, value = (name, absolute) if absolute is not None else (f"{name}_relative", relative)
    if value is None:
        return default * spread
    number = math.inf if infinite and value == math.inf else _validate.positive(label, value)
    return number if absolute is not None else number * spread


def _at_least_zero(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} = {value!r}: must be a real number")
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} = {value!r}: must be a finite number >= 0")
    return float(value)
