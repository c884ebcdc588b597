"""Adaptive smoother: noise where the concept is, none to speak of elsewhere, and the median of what comes out.

A token's noise grows exponentially with its relevance to what is to be suppressed, and the conditioning of the U-Net is
the element-wise median over n noisy encodings (Han et al. 2025, section 3.4):

    σ_j = min( σ₀ exp(k · sim_j), σ_max ),        h = median( T(y + G_1), …, T(y + G_n) ),   G_i ~ N(0, diag σ²).

Tokens of the concept are suppressed; the others keep their meaning. n is 13 in the paper. With `smoother="mean"` it is the
mean, for which the spectral bound (T11) is tighter.

What may be claimed depends on where Σ comes from (THEORY T7, `certify.adaptive.policies`). What is known of a prompt before
anything is drawn is computed once, by `prepare`, and handed on (`certify.adaptive.prompt`).

A bound on what is deployed (T5) is about deployment noise that is fresh and secret: what `encode` draws, from the operating
system, unless it is given a seed. With a seed a run can be repeated, by an adversary too, and nothing is proven about it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import Tensor

from certify import _validate
from certify._text import shown
from certify.adaptive.certification import certify_prompt
from certify.adaptive.concepts import SIMILARITIES, Concept, concept_direction, loaded_concepts
from certify.adaptive.coverage import level_radius
from certify.adaptive.deployment import Deployment, deployed, side_information, stream_name
from certify.adaptive.frozen import DEFAULT_DRAWS, FrozenSmoother
from certify.adaptive.levels import LEVELS_WITHIN, LevelTable, levels_ratio
from certify.adaptive.memory import CovarianceMemory, Issued
from certify.adaptive.mention import thresholds
from certify.adaptive.options import AdaptiveOptions, CertifyOptions, PromptOptions
from certify.adaptive.policies import POLICIES, SHARING, SMOOTHERS
from certify.adaptive.problem import QUANTITIES, Problem
from certify.adaptive.prompt import PreparedPrompt
from certify.adaptive.relevance import RelevanceScorer
from certify.adaptive.token_noise import SPECIAL_TOKENS, SigmaRule, TokenNoise
from certify.certificate import Certificate
from certify.models.denoiser import NoisePredictor
from certify.models.text import PromptEncoder, TokenizedPrompt
from certify.noise import GaussianNoise

__all__ = ["POLICIES", "SPECIAL_TOKENS", "AdaptiveMedianSmoother", "FrozenSmoother", "TokenNoise"]

DEFAULT_SIGMA0_RELATIVE = 0.45
"""σ₀ in standard deviations of the token embeddings: the paper's 0.006 for Stable Diffusion v1.4, where one is about 0.0133."""

DEFAULT_K = 9.0
"""The paper's scaling factor."""


class AdaptiveMedianSmoother:
    """The defence: relevance → Σ → median (or mean) of n noisy encodings.

    Equation
        σ_j(y) = min( σ₀ exp(k · sim_j(y)), σ_max ),  h = median_i T(x_i),

        policy              x_i                                               claims are about (T7)
        "frozen"            y + G_i, G_i ~ N(0, Σ(y))                         `freeze(prompt)`, ‖δ‖_Σ ≤ ρ for Σ = Σ(prompt)
        "noise-then-adapt"  z_i + extra noise of variance σ²(z_i) − σ_min²,   this smoother, ‖δ‖₂ ≤ ρ σ_min over the words,
                            z_i = y + σ_min ξ_i                               at equal length and word boundaries
        "memory"            y + G_i, Σ of the stored region that y is in,     this smoother, ‖δ‖_Σ ≤ ρ for the region's Σ,
                            else Σ(y)                                         once it is stored (`remember`)
        "levels"            y + G_i, Σ(y) rounded up to levels                this smoother, at every prompt of the same Σ
                                                                              with ‖δ‖_Σ ≤ ρ (T17)

    Reference
        Han et al. (2025), section 3.4 and Algorithm 1; THEORY T7 for what may be claimed.

    Args:
        encoder: T.
        concepts: what to suppress: names (`available_concepts()`), paths of `.csv` or `.jsonl` files, or `Concept`s. A
            token's relevance is its largest over the concepts.
        sigma0: base noise σ₀, absolute, as in the paper (its unit is the token embeddings').
        sigma0_relative: σ₀ in units of `encoder.embedding_std`, which carries over between models. At most one of
            the two; neither: 0.45, the paper's .006 for Stable Diffusion v1.4.
        k: how fast noise grows with relevance, ≥ 0. The paper's 9 makes a relevance of 0.5 ninety σ₀.
        n: noisy encodings a prompt.
        smoother: "median" or "mean" of them, element by element.
        use_global: Algorithm 1's global flag, for models that are easier to restore.
        policy: covariance policy, one of `POLICIES`.
        sigma_min: for "noise-then-adapt": standard deviation of the first noise at words, absolute. A word's noise is no
            less, whatever its relevance. (Positions that `special_tokens` gives noise have σ₀, all of it in the first.)
        sigma_min_relative: the same in that unit. At most one of the two; neither: σ₀.
        sharing: for "noise-then-adapt": what the n draws share. "none": nothing, an n-fold cost of computing σ(z);
            "sigma": σ, from one more noisy copy; "input": one noisy copy of y and its σ. T5 charges √n, √(n+1) and 1.
        memory: for "memory": a folder, or a `CovarianceMemory`; deployments that share claims share it.
        gamma: for "levels": ratio of neighbouring levels, > 1; None: 2. The larger, the more words share one, and the more
            noise they get. The table of the words' levels is computed once for a text encoder and its concepts, and kept on
            disk (`certify.adaptive.levels`).
        similarity: cosine over the "flattened" encoding or over the vector at "end-of-text".
        special_tokens: noise at begin, end and padding, which have no relevance; the paper does not say. "none" (the
            default): a certificate then covers replacing tokens at equal length. Noise of size σ₀ there could not widen
            that to insertions in practice, since σ₀ is a small part of the distance between two tokens (T9), and it
            costs fidelity at the positions that the U-Net attends to most. "tail": σ₀ at the end token and the padding,
            the positions that an insertion changes. "base": at the begin token, too.
        sigma_max: cap on σ, absolute; `math.inf` for none.
        sigma_max_relative: the cap in that unit. At most one of the two; neither: 2·√(2·width). Two random tokens are
            √(2·width) apart, so at the cap replacing one token by another typically costs ρ = ½. Beyond it
            a suppressed token is no more suppressed, and k = 9 turns a relevance of .72 into 650 σ₀.
        smooth_unconditional: whether `encode_unconditional` smooths the branch without a prompt, with σ₀ everywhere but
            at begin. Off: the paper's smoothing is about the prompt, and the unconditional branch does not depend on it.
        batch_size: sequences in one call of the text encoder.
        truncate: cut a prompt that does not fit into the context as the plain pipeline does: what is said is then about its
            first tokens. Off: such a prompt is refused. Concept pairs are never cut.
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
        smoother: str = "median",
        use_global: bool = False,
        policy: str = "frozen",
        sigma_min: float | None = None,
        sigma_min_relative: float | None = None,
        sharing: str = "none",
        memory: str | Path | CovarianceMemory | None = None,
        gamma: float | None = None,
        similarity: str = "flattened",
        special_tokens: str = "none",
        sigma_max: float | None = None,
        sigma_max_relative: float | None = None,
        smooth_unconditional: bool = False,
        batch_size: int = 64,
        truncate: bool = False,
        denoiser: NoisePredictor | None = None,
    ) -> None:
        if not isinstance(encoder, PromptEncoder):
            raise TypeError(f"encoder is a {type(encoder).__name__}: must be a PromptEncoder")
        self.encoder: PromptEncoder = encoder.truncating() if truncate else encoder
        self.policy = _validate.choice("policy", policy, POLICIES)
        self.k = _validate.not_negative("k", k)
        self.n = _validate.count("n", n)
        self.smoother = _validate.choice("smoother", smoother, SMOOTHERS)
        self.special_tokens = _validate.choice("special_tokens", special_tokens, SPECIAL_TOKENS)
        _validate.choice("similarity", similarity, SIMILARITIES)
        self.smooth_unconditional = bool(smooth_unconditional)
        self.batch_size = _validate.count("batch_size", batch_size)
        self.denoiser = denoiser
        unit = encoder.embedding_std
        default_cap = 2 * math.sqrt(2 * encoder.width)
        self.sigma0 = _absolute("sigma0", sigma0, sigma0_relative, unit, DEFAULT_SIGMA0_RELATIVE)
        self.sigma_max = _absolute("sigma_max", sigma_max, sigma_max_relative, unit, default_cap, infinite=True)
        if self.sigma_max < self.sigma0:
            raise ValueError(f"sigma_max = {self.sigma_max!r}: must be at least sigma0 = {self.sigma0!r}")
        self.sharing = _validate.choice("sharing", sharing, SHARING)
        self.sigma_min = self._first_noise(sigma_min, sigma_min_relative)
        self.gamma = levels_ratio(self.policy, gamma)
        reach = math.sqrt(2 * encoder.width) * unit  # between two random tokens
        levels = (self.gamma, reach / LEVELS_WITHIN)
        self.rule = SigmaRule(self.sigma0, self.k, self.sigma_max, self.special_tokens, self.sigma_min, *levels)
        self.memory = self._shared_memory(memory)
        self.concepts = loaded_concepts(concepts)
        directions = [
            concept_direction(encoder, c, similarity=similarity, batch_size=batch_size) for c in self.concepts
        ]
        self.scorer = RelevanceScorer(
            encoder, torch.stack(directions), similarity=similarity, use_global=use_global, batch_size=batch_size
        )

    @classmethod
    @_validate.suggests(AdaptiveOptions)
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
    @_validate.suggests(AdaptiveOptions)
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
            f"AdaptiveMedianSmoother([{names}], {self.smoother}, σ₀={shown(self.sigma0, 'near', 4)}, "
            f"k={shown(self.k, 'exact')}, n={self.n}, policy={self.policy!r})"
        )

    def settings(self) -> dict[str, Any]:
        """Everything that determines Σ and the encoding, for a record: plain JSON values."""
        return {
            "concepts": [{"name": c.name, "pairs": len(c.pairs), "sha256": c.sha256} for c in self.concepts],
            "sigma0": self.sigma0,
            "k": self.k,
            "n": self.n,
            "aggregate": self.smoother,
            "use_global": self.scorer.use_global,
            "policy": self.policy,
            "sigma_min": self.sigma_min,
            "sharing": self.sharing if self.policy == "noise-then-adapt" else None,
            "memory_sha256": None if self.memory is None else self.memory.digest(),
            "similarity": self.scorer.similarity,
            "special_tokens": self.special_tokens,
            "sigma_max": self.sigma_max if math.isfinite(self.sigma_max) else None,
            "smooth_unconditional": self.smooth_unconditional,
            **({"truncate": True} if self.encoder.truncate else {}),
            **({} if self.gamma is None else {"gamma": self.gamma, "levels_sha256": self.levels.digest(self.rule)}),
        }

    # Levels

    @functools.cached_property
    def levels(self) -> LevelTable:
        """The table of the vocabulary's levels (policy "levels"): from disk, or computed now, which takes an encoding an entry.

        Raises:
            ValueError: the policy is another one.
        """
        return self.with_levels()

    def with_levels(self, progress: Callable[[int, int], None] | None = None) -> LevelTable:
        """As `levels`, which it sets, with progress over the entries of the vocabulary."""
        if self.gamma is None:
            raise ValueError(f"policy = {self.policy!r}: must be 'levels' for there to be levels")
        if "levels" not in vars(self):
            found = LevelTable.of(self.scorer, self.concepts, progress=progress)
            self.scorer.use(found.scores)
            vars(self)["levels"] = found
        return self.levels

    # Prompt → what is known of it

    def prepare(self, prompt: str | TokenizedPrompt | PreparedPrompt) -> PreparedPrompt:
        """A prompt read once: its tokens, y, relevance and Σ, and what follows from them. The methods below take it, too.

        Raises:
            TypeError, ValueError: it is no text, is empty, does not fit into the context, or was prepared by another smoother.
        """
        return self.prepare_all([prompt])[0]

    def prepare_all(self, prompts: Sequence[str | TokenizedPrompt | PreparedPrompt]) -> list[PreparedPrompt]:
        """Several, whose relevance is computed in batches. Errors as for `prepare`."""
        ready = {i: prompt for i, prompt in enumerate(prompts) if isinstance(prompt, PreparedPrompt)}
        if any(prompt.adaptive is not self for prompt in ready.values()):
            raise ValueError("prompt was prepared by another smoother: must be by this one")
        rows = {i: self._read(prompt) for i, prompt in enumerate(prompts) if not isinstance(prompt, PreparedPrompt)}
        names = [concept.name for concept in self.concepts]
        if self.gamma is not None and rows:
            self.with_levels()
        for (i, row), scores in zip(rows.items(), self.scorer.scores(list(rows.values())), strict=True):
            own = self.rule.of(row, scores, names)
            ready[i] = PreparedPrompt(self, row, self.encoder.embed(row), scores, own, own).settled()
        return [ready[i] for i in range(len(prompts))]

    def _read(self, prompt: str | TokenizedPrompt) -> TokenizedPrompt:
        tokenized = prompt if isinstance(prompt, TokenizedPrompt) else self.encoder.tokenize(prompt)
        if tokenized.empty:
            raise ValueError(
                f"prompt = {tokenized.prompt!r}: must not be empty (encode_unconditional is for the empty prompt)"
            )
        return tokenized

    def relevance(self, prompt: str | PreparedPrompt) -> TokenNoise:
        """Relevance of every position of a prompt, and the σ that Algorithm 1 gives it. Errors as for `prepare`."""
        return self.prepare(prompt).relevance

    @functools.cached_property
    def thresholds(self) -> tuple[float, ...]:
        """From which relevance on a prompt counts as one that names a concept, a number a concept."""
        return thresholds(self.scorer, self.concepts)

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the text encoder's tensors, computed once."""
        return self.encoder.fingerprint()

    def remember(self, prompt: str | PreparedPrompt, rho: float) -> Issued:
        """Stores a region around a prompt, so that claims about it hold for this smoother (policy "memory", T7).

        Args:
            prompt: not empty.
            rho: the largest radius that is to be claimed.

        Returns:
            `Issued`: claims may go up to its `rho`, for its `noise` (which `problem` and `deployment` use from now on).

        Raises:
            ValueError: the policy is another one, the prompt is empty or too long, or rho is out of range.
        """
        return self.prepare(prompt).remember(rho)

    # Prompt → prompt_embeds

    @_validate.suggests()
    def encode(self, prompts: str | PreparedPrompt | Sequence[str | PreparedPrompt], seed: int | None = None) -> Tensor:
        """Smoothed encodings, as the pipeline's `prompt_embeds`.

        Equation
            h = median( T(x_1), …, T(x_n) ), element by element, or their mean; x_i as the policy says (above). For even n the
            median is the average of the two middle values.

        Reference
            Han et al. (2025), section 3.4, "Efficiency Improvement".

        Args:
            prompts: one prompt or several.
            seed: None: noise that is fresh and secret, for every entry of the list anew, which a guarantee for the deployed
                encoding presumes (T5). A number, only to repeat a run: anyone who knows or guesses it can repeat it too, the
                defence is then a fixed function that an attack can be fitted to, and nothing is proven about it. A prompt's
                noise then depends on the seed and its own tokens, so it is encoded alike alone and anywhere in a list (up
                to the encoder's rounding), and twice the same in one list.

        Returns:
            (b, tokens, width), the encoder's dtype and device.

        Raises:
            ValueError: no prompts, or one that is empty or does not fit into the context.
        """
        given: list[Any] = [prompts] if isinstance(prompts, str) or not isinstance(prompts, Iterable) else list(prompts)
        if not all(isinstance(prompt, (str, PreparedPrompt)) for prompt in given):
            raise TypeError(f"prompts = {prompts!r}: must be a prompt or a list of prompts")
        if not given:
            raise ValueError("prompts is empty: must hold at least one prompt")
        rows = [(prompt.deployment, prompt.stream) for prompt in self.prepare_all(given)]
        return deployed(self.encoder, rows, seed, self.batch_size)

    def encode_unconditional(self, negative_prompt: str = "", seed: int | None = None) -> Tensor:
        """The branch without the prompt, as the pipeline's `negative_prompt_embeds`: (1, tokens, width).

        Plain, unless `smooth_unconditional`: then with σ₀ at every position but the begin token. A negative prompt gets
        no relevance: what it names is what the user wants to avoid, and suppressing it undoes that. `seed` is as in `encode`.
        """
        tokenized = self.encoder.tokenize(negative_prompt)
        if not self.smooth_unconditional:
            return self.encoder.plain([tokenized])
        sigma = torch.tensor([0.0 if kind == "begin" else self.sigma0 for kind in tokenized.kinds], dtype=torch.float64)
        y, noise = self.encoder.embed(tokenized), GaussianNoise(sigma[:, None])
        row = self.deployed_with(tokenized, y, noise), "unconditional " + stream_name(tokenized)
        return deployed(self.encoder, [row], seed, self.batch_size)

    def pipeline_inputs(
        self, prompts: str | Sequence[str], negative_prompt: str = "", seed: int | None = None
    ) -> dict[str, Tensor]:
        """Both branches, for `pipe(**adaptive.pipeline_inputs("…"), guidance_scale=…)`; `seed` as in `encode`."""
        embeds = self.encode(prompts, seed)
        negative = self.encode_unconditional(negative_prompt, seed)
        return {"prompt_embeds": embeds, "negative_prompt_embeds": negative.expand(len(embeds), -1, -1).contiguous()}

    # Prompt → what a certificate is about

    @_validate.suggests()
    def problem(
        self,
        prompt: str | PreparedPrompt,
        quantity: str = "embedding",
        *,
        x_t: Tensor | None = None,
        t: int | None = None,
    ) -> Problem:
        """A prompt as the function, input, noise and support that a bound takes (T7).

        Under "frozen" and "memory" f = T, with Σ fixed at this prompt's, or at that of the region it is in. Under
        "noise-then-adapt" f is T behind the adaptive noise, a random function of one copy z = y + σ_min ξ that takes a
        generator, and the noise is σ_min; what the deployed draws share is not in it (`deployment` has that).

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
        return self.prepare(prompt).problem(quantity, x_t=x_t, t=t)

    def deployment(self, prompt: str | PreparedPrompt) -> Deployment:
        """What runs for a prompt (`PreparedPrompt.deployment`): what T5 is about. Errors as for `prepare`."""
        return self.prepare(prompt).deployment

    def deployed_with(self, tokenized: TokenizedPrompt, y: Tensor, noise: GaussianNoise) -> Deployment:
        """What runs at a prompt's embeddings y with one noise, whatever the policy would make of it."""
        side = side_information(self.encoder, tokenized)
        return Deployment(y, noise, self.n, self.smoother, self.policy, self.encoder, side, batch_size=self.batch_size)

    def freeze(self, prompt: str | PreparedPrompt) -> FrozenSmoother:
        """The smoother with Σ fixed at this prompt's: what a frozen certificate is about, as an object to deploy.

        Under "memory" it is the Σ of the region that the prompt is in, if any; under "noise-then-adapt" it is Σ(y), and what
        this returns is not what claims about the adaptive smoother are about.
        """
        return self.prepare(prompt).freeze()

    def certify(self, prompt: str | PreparedPrompt, **options: Unpack[CertifyOptions]) -> Certificate:
        """The certificate of a prompt: what may be claimed for its smoothed encoding under the policy (T7).

        Under "memory" a region is stored first, as large as the largest requested radius; a certified radius is then not
        searched for, since it could exceed the region. Under "levels" `rho` and `rho_deployed` are by default the radius that
        covers the whole level of the prompt's most relevant word (`certify.adaptive.level_radius`), if another is on it.

        Args:
            prompt: not empty.
            options: rho, n, alpha, seed, …: those of `certify.adaptive.options.PromptOptions`, which explains them.

        Raises:
            TypeError, ValueError: an option is unknown or out of range, the prompt is empty or too long, or the memory has no
                room for the requested radii.
        """
        settings = PromptOptions.of(options)
        if self.policy == "memory":
            settings = settings.inside_a_region()
        given = self.prepare(prompt)
        if self.policy == "levels":
            settings = settings.covering(level_radius(given), options)
        if self.policy == "memory":
            issued = given.remember(settings.largest_radius)
            if issued.rho < settings.largest_radius:
                raise ValueError(
                    f"rho = {settings.largest_radius!r}: the memory has room for {issued.rho!r} around this prompt; "
                    "no radius may exceed it"
                )
            given = given.settled()
        return certify_prompt(given, settings)

    def _first_noise(self, absolute: float | None, relative: float | None) -> float | None:
        if self.policy != "noise-then-adapt":
            for name, value in (("sigma_min", absolute), ("sigma_min_relative", relative)):
                if value is not None:
                    raise ValueError(f"{name} = {value!r}: is for policy = 'noise-then-adapt', got {self.policy!r}")
            if self.sharing != "none":
                raise ValueError(f"sharing = {self.sharing!r}: is for policy = 'noise-then-adapt', got {self.policy!r}")
            return None
        value = self.sigma0
        if absolute is not None or relative is not None:
            value = _absolute("sigma_min", absolute, relative, self.encoder.embedding_std, 0.0)
        if value > self.sigma_max:
            raise ValueError(f"sigma_min = {value!r}: must be at most sigma_max = {self.sigma_max!r}")
        return value

    def _shared_memory(self, memory: str | Path | CovarianceMemory | None) -> CovarianceMemory | None:
        if (memory is None) is (self.policy == "memory"):
            raise ValueError(
                f"memory = {memory!r}, policy = {self.policy!r}: policy 'memory' must have one, and no other policy may"
            )
        if memory is not None and not isinstance(memory, (str, Path, CovarianceMemory)):
            raise TypeError(f"memory is a {type(memory).__name__}: must be a folder or a CovarianceMemory")
        return CovarianceMemory(memory) if isinstance(memory, (str, Path)) else memory


def _absolute(
    name: str, absolute: float | None, relative: float | None, unit: float, default: float, *, infinite: bool = False
) -> float:
    if absolute is not None and relative is not None:
        raise ValueError(f"{name} = {absolute!r} and {name}_relative = {relative!r}: must be only one of the two")
    label, value = (name, absolute) if absolute is not None else (f"{name}_relative", relative)
    if value is None:
        return default * unit
    number = math.inf if infinite and value == math.inf else _validate.positive(label, value)
    return number if absolute is not None else number * unit
