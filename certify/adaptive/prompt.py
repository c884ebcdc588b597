"""Prepared prompt: everything that is known of a prompt before anything is drawn, computed once and handed on.

    adaptive.prepare("a photo of …")        tokens and words, y, relevance (Algorithm 1), Σ
        .problem(…)  .deployment            what a bound is about, and what runs
        .concept_removal  .mention          what a bound is compared with; does the prompt name the concept at all?
        .freeze()                           the smoother with Σ fixed here

What makes, checks or explains a prompt's certificate takes this object, and no text: it cannot be about another prompt, another
Σ or another smoother than the rest of the certificate. The smoother prepares several prompts at once in batches.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from certify import _validate
from certify._records import Record, Shown
from certify.adaptive.deployment import Deployment, side_information, stream_name
from certify.adaptive.frozen import FrozenSmoother
from certify.adaptive.memory import Issued
from certify.adaptive.mention import Mention, mention_of
from certify.adaptive.policies import noise_then_adapt
from certify.adaptive.problem import QUANTITIES, Problem
from certify.adaptive.token_noise import TokenNoise
from certify.models.denoiser import NoisePredictor
from certify.models.offloaded import at_hand
from certify.models.text import TokenizedPrompt
from certify.models.trajectory import Trajectory
from certify.noise import GaussianNoise
from certify.support import layer_norm_support

if TYPE_CHECKING:
    from certify.adaptive.smoother import AdaptiveMedianSmoother

__all__ = ["ConceptRemoval", "PreparedPrompt"]


@dataclass(frozen=True)
class ConceptRemoval(Shown):
    """The squared concept-removal distance: ‖T(prompt) − T(prompt without `word`)‖², over all positions, both plain.

    A bound above it is *vacuous*: it would allow the output to move as far as taking the concept out, or putting it in, does.

    Attributes:
        distance: squared ℓ2 distance.
        word: the word that was left out: the most relevant one.
        position: its first position.
    """

    distance: float
    word: str
    position: int


@dataclass(frozen=True, eq=False)
class PreparedPrompt(Record):
    """A prompt as a smoother sees it: `AdaptiveMedianSmoother.prepare` makes it.

    Attributes:
        adaptive: the smoother.
        tokenized: tokens, kinds and word spans of its positions; how many tokens were cut off.
        y: (tokens, width), the token embeddings before positions: the point that certificates are about.
        scores: (tokens, concepts), relevance to every concept; NaN at positions that are not words.
        relevance: relevance and σ of every position, by Algorithm 1.
        token_noise: the same with the σ that the prompt gets: under "memory" that of the region that it is in, if any.
    """

    adaptive: AdaptiveMedianSmoother
    tokenized: TokenizedPrompt
    y: Tensor
    scores: Tensor
    relevance: TokenNoise
    token_noise: TokenNoise

    @property
    def text(self) -> str:
        """The prompt in words."""
        return self.tokenized.prompt

    @property
    def noise(self) -> GaussianNoise:
        """N(0, Σ), one σ a token over the whole width. What a claim is about is the noise of `problem()`, the same but under
        "noise-then-adapt"."""
        return GaussianNoise(self.token_noise.column)

    @functools.cached_property
    def side(self) -> TokenizedPrompt:
        """What of it is not perturbed (`side_information`)."""
        return side_information(self.adaptive.encoder, self.tokenized)

    @property
    def stream(self) -> str:
        """Names its noise stream."""
        return stream_name(self.tokenized)

    @functools.cached_property
    def mention(self) -> Mention:
        """Whether it names what is to be suppressed, and by what measure (`certify.adaptive.mention`)."""
        return mention_of(self.scores, self.adaptive.concepts, self.adaptive.thresholds)

    @property
    def direction(self) -> Tensor:
        """The direction of the concept that it is most relevant to, at unit length."""
        known = {i: score for i, score in enumerate(self.relevance.relevance) if score is not None}
        best = max(known, key=lambda i: known[i])
        names = [concept.name for concept in self.adaptive.concepts]
        return self.adaptive.scorer.directions[names.index(str(self.relevance.concept[best]))]

    # What bounds are compared with

    @functools.cached_property
    def most_relevant_word(self) -> tuple[int, int]:
        """(start, stop) of the most relevant word, the first of several."""
        return max(self.tokenized.words, key=self.word_relevance)

    def word_relevance(self, word: tuple[int, int]) -> float:
        """The largest relevance within a word, at least 0."""
        return max(self.relevance.relevance[i] or 0.0 for i in range(*word))

    @functools.cached_property
    def plain(self) -> Tensor:
        """Plain encodings of the prompt and of it without its most relevant word: (2, tokens, width)."""
        encoder, content = self.adaptive.encoder, self.tokenized.content
        start, stop = self.most_relevant_word
        rest = [*content[: start - 1], *content[stop - 1 :]]  # position 0 is the begin token
        return encoder.plain([self.tokenized, encoder.assemble(rest)])

    @functools.cached_property
    def concept_removal(self) -> ConceptRemoval:
        """How far apart the plain encodings of the prompt with and without its most relevant word are, squared."""
        (start, stop), (whole, without) = self.most_relevant_word, self.plain.double()
        word = "".join(self.tokenized.tokens[start:stop]).replace("</w>", "")
        return ConceptRemoval(float((whole - without).square().sum()), word, start)

    def predicted_removal(self, denoiser: NoisePredictor, trajectory: Trajectory) -> float:
        """Σ_j w_j ‖ε(x_j, T(prompt), t_j) − ε(x_j, T(prompt without its most relevant word), t_j)‖²."""
        whole, without = denoiser.along(trajectory, self.plain).double()
        return float((whole - without).flatten(1).square().sum(dim=1).cpu() @ trajectory.weights)

    @property
    def plain_score(self) -> float:
        """The concept score of the plain encoding (`certify.images.statistics.concept_score`)."""
        v, h = self.direction, self.adaptive.encoder.plain([self.tokenized])[0].double().cpu()
        return float((h if v.ndim == 2 else h[self.tokenized.end]).flatten() @ v.flatten() / v.norm())

    # What certificates are about

    @functools.cached_property
    def deployment(self) -> Deployment:
        """What runs, as a function of the noisy copies of the prompt that it sees: what T5 is about.

        `encode` draws these copies and applies it. Under "frozen" Σ is this prompt's: the deployment is that of `freeze()`, and
        a bound for it is a frozen claim.
        """
        fixed = self.adaptive.deployed_with(self.tokenized, self.y, self.noise)
        if self.adaptive.policy != "noise-then-adapt":
            return fixed
        return replace(fixed, noise=self._first_step, sharing=self.adaptive.sharing, sigma_of=self._sigma_at)

    def problem(self, quantity: str = "embedding", *, x_t: Tensor | None = None, t: int | None = None) -> Problem:
        """As `AdaptiveMedianSmoother.problem`."""
        _validate.choice("quantity", quantity, QUANTITIES)
        encoder, noise = self.adaptive.encoder, self.noise
        f: Callable[..., Tensor] = functools.partial(encoder.encode, tokenized=self.side)
        support: Any = None
        if quantity == "noise-prediction":
            f = self._noise_prediction(f, x_t, t)
        elif (norm := encoder.final_layer_norm) is not None:
            support = layer_norm_support(at_hand(norm))  # type: ignore[arg-type]
        if self.adaptive.policy == "noise-then-adapt":
            noise = self._first_step
            f = noise_then_adapt(f, self._sigma_at, noise.sigma)
        return Problem(f, self.y, noise, support, quantity, self.tokenized, self.token_noise, self.adaptive.policy)

    def _noise_prediction(self, embedding: Callable[..., Tensor], x_t: Tensor | None, t: int | None) -> Any:
        denoiser = self.adaptive.denoiser
        if denoiser is None:
            raise ValueError("quantity = 'noise-prediction': must have a U-Net; build the smoother with from_pipeline")
        if x_t is None or t is None:
            raise ValueError(f"x_t = {x_t!r}, t = {t!r}: both must be given for quantity = 'noise-prediction'")
        latent, step = _validate.finite_tensor("x_t", x_t), _validate.count("t", t, minimum=0)
        if latent.ndim != 3 or latent.shape[0] != denoiser.latent_shape[0]:
            channels = denoiser.latent_shape[0]
            raise ValueError(f"x_t has shape {tuple(latent.shape)}: must be ({channels}, height, width)")
        return lambda z: denoiser(latent[None], step, embedding(z))

    @functools.cached_property
    def _first_step(self) -> GaussianNoise:
        return self.adaptive.rule.first_step(self.tokenized.kinds)

    def _sigma_at(self, z: Tensor) -> Tensor:
        """σ(z): (b, tokens, width) → (b, tokens, 1), float64. All that noise-then-adapt reads of a prompt is its side."""
        return self.adaptive.rule.at(self.adaptive.scorer.scores_at(z, self.side))

    def freeze(self) -> FrozenSmoother:
        """As `AdaptiveMedianSmoother.freeze`."""
        adaptive = self.adaptive
        options: dict[str, Any] = {"n": adaptive.n, "smoother": adaptive.smoother, "batch_size": adaptive.batch_size}
        return FrozenSmoother(adaptive.encoder, self.tokenized, self.token_noise, **options)

    # Policy "memory": prompts inside stored regions

    @property
    def context(self) -> dict[str, int | str]:
        """What it must share with a stored region: side information, text encoder, median or mean.

        And the concepts: a region's Σ suppresses those that it was stored for, and must not be given to a smoother of others.
        """
        return {
            "length": self.tokenized.length,
            "attention_mask": int(self.tokenized.attention_mask is not None),
            "text_encoder": self.adaptive.fingerprint,
            "aggregate": self.adaptive.smoother,
            "concepts": " ".join(sorted(c.sha256 for c in self.adaptive.concepts)),
        }

    def settled(self) -> PreparedPrompt:
        """The prompt with the noise that it gets now: that of its region, if it is in one, else Algorithm 1's."""
        memory, own = self.adaptive.memory, self.relevance
        region = None if memory is None else memory.find(self.y, self.context)
        if region is not None:
            own = replace(own, sigma=tuple(region.noise.sigma_for((len(own.sigma), 1))[:, 0].tolist()))
        return self if own == self.token_noise else replace(self, token_noise=own)

    def remember(self, rho: float) -> Issued:
        """As `AdaptiveMedianSmoother.remember`; `settled()` has the noise of the region from then on."""
        memory = self.adaptive.memory
        if memory is None:
            raise ValueError(f"policy = {self.adaptive.policy!r}: must be 'memory' for regions to be stored")
        return memory.store(self.y, GaussianNoise(self.relevance.column), rho, self.context)
