"""From a prompt to its certificate: which statements are made, against which yardstick, and what is put on record.

A certificate for a prompt holds, from one pass of draws and with α shared between them,

- a bound on how far the ideal smoothed encoding can move at the radius asked for (T2),
- the same at several radii, simultaneously,
- the largest radius at which it stays within a tolerance (T3, T8); by default the *yardstick*.

The yardstick is a distance to hold every bound against: how far apart are the plain encodings of this prompt and of the
same prompt without the concept, that is, without its most relevant word. A bound above it is *vacuous*: it would allow
the output to move as far as taking the concept out, or putting it in, moves it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

from torch import Tensor

from certify import _validate
from certify.certificate import Certificate
from certify.statements import MSE, Curve, Radius, Statement, ask

if TYPE_CHECKING:
    from certify.adaptive.smoother import AdaptiveMedianSmoother

__all__ = ["DEFAULT_RHOS", "CertifyOptions", "Yardstick", "certify_prompt", "yardstick"]

DEFAULT_RHOS = (0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
"""Radii of the curve of a prompt's certificate."""


class CertifyOptions(TypedDict, total=False):
    """The options of `certify_prompt`, which explains them."""

    rho: float
    n: int
    alpha: float
    seed: int
    rhos: Sequence[float] | None
    tolerance: float | None
    center: Tensor | None
    private: bool
    batch_size: int | None
    progress: Callable[[int, int], None] | None


@dataclass(frozen=True)
class Yardstick:
    """‖T(prompt) − T(prompt without `word`)‖², a sum over all positions, both encodings plain.

    Attributes:
        distance: squared ℓ2 distance.
        word: the words' text that was left out: the most relevant one.
        position: its first position.
    """

    distance: float
    word: str
    position: int


def yardstick(adaptive: AdaptiveMedianSmoother, prompt: str) -> Yardstick:
    """The squared distance between a prompt's encoding and that of the same prompt without its most relevant word.

    Raises:
        ValueError: the prompt is empty, holds no word, or does not fit into the context.
    """
    encoder, record = adaptive.encoder, adaptive.relevance(prompt)
    tokenized = encoder.tokenize(prompt)

    def relevance(word: tuple[int, int]) -> float:
        return max(record.relevance[i] or 0.0 for i in range(*word))

    start, stop = max(tokenized.words, key=relevance)
    content = tokenized.content
    rest = [*content[: start - 1], *content[stop - 1 :]]  # position 0 is the begin token
    with_word, without = encoder.plain([tokenized, encoder.assemble(rest)]).double()
    text = "".join(tokenized.tokens[start:stop]).replace("</w>", "")
    return Yardstick(float((with_word - without).square().sum()), text, start)


def certify_prompt(
    adaptive: AdaptiveMedianSmoother,
    prompt: str,
    *,
    rho: float = 1.0,
    n: int = 10_000,
    alpha: float = 1e-3,
    seed: int = 0,
    rhos: Sequence[float] | None = DEFAULT_RHOS,
    tolerance: float | None = None,
    center: Tensor | None = None,
    private: bool = False,
    batch_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    **provenance: Any,
) -> Certificate:
    """The certificate of one prompt, under the policy "frozen": about the smoother with Σ = Σ(prompt) fixed (T7).

    Args:
        adaptive: the smoother.
        prompt: not empty.
        rho: radius of the single statement, in units of ‖·‖_Σ.
        n: bounding draws, shared by all statements.
        alpha: failure probability of the certificate as a whole, shared equally by the statements.
        seed: of the draws.
        rhos: radii of the curve (`rho` is added); None: no curve.
        tolerance: squared distance for the certified radius; None: the yardstick; 0: no radius is asked for.
        center: what distances are measured to, (tokens, width), for instance a deployed encoding; None: the smoothed
            value of pilot draws.
        private: leave out the prompt, its tokens and its embeddings. σ stays: how many tokens the prompt has and which of
            them are relevant can be read from it. Relevance, σ, the reference and the boxes are those of the words: who has the
            model can test guesses of a prompt against them. Private is not secret.
        batch_size, progress: as in `certify.statements.ask`.
        **provenance: more to put on record.

    Returns:
        A `Certificate`; its provenance holds the smoother's settings, the tokens and the yardstick.

    Raises:
        ValueError: the prompt is empty or too long, or an argument is out of range.
    """
    alpha = _validate.probability("alpha", alpha)
    problem = adaptive.problem(prompt)
    reference = yardstick(adaptive, prompt)
    if tolerance is None:
        tolerance = reference.distance
    kinds: list[Callable[[float], Statement]] = [lambda share: MSE(rho, share)]
    if rhos is not None:
        radii = tuple(sorted({*map(float, rhos), float(rho)}))
        kinds.append(lambda share: Curve(radii, share))
    if tolerance > 0:
        within = tolerance
        kinds.append(lambda share: Radius(within, share))
    answers = ask(
        problem.f,
        problem.y,
        problem.noise,
        [kind(alpha / len(kinds)) for kind in kinds],
        n=n,
        seed=seed,
        center=center,
        support=problem.support,
        batch_size=batch_size,
        policy=adaptive.policy,
        progress=progress,
    )
    record = problem.token_noise
    tokens = {
        "kinds": list(record.kinds),
        "relevance": list(record.relevance),
        "concept": list(record.concept),
        "sigma": list(record.sigma),
    }
    words = {} if private else {"tokens": list(record.tokens)}
    return Certificate.of(
        *answers,
        model=adaptive.encoder.text_encoder,
        keep_input=not private,
        prompt=None if private else prompt,
        quantity=problem.quantity,
        smoother=adaptive.settings(),
        token_noise={**words, **tokens},
        token_spread=adaptive.encoder.embedding_spread,
        yardstick={
            "distance": reference.distance,
            "word": None if private else reference.word,
            "position": reference.position,
        },
        **provenance,
    )
