"""Problem: everything that a bound needs to know about one prompt.

The mathematics takes a function on batches, one input, a noise and perhaps an a-priori support. A `Problem` holds these
four for a prompt, so that any statement of the toolkit can be made about it:

    p = adaptive.problem("a photo of …")
    certify.mse_bound(p.f, p.y, p.noise, support=p.support, rho=1.0, n=10_000, alpha=1e-3)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from certify._records import Record
from certify.models.text import TokenizedPrompt
from certify.noise import GaussianNoise

if TYPE_CHECKING:
    from certify.adaptive.token_noise import TokenNoise

__all__ = ["QUANTITIES", "Problem"]

QUANTITIES = ("embedding", "noise-prediction")
"""What f computes: the encoding T(z), or the noise ε(x_t, T(z), t) that the U-Net predicts at a given (x_t, t)."""


@dataclass(frozen=True, eq=False)
class Problem(Record):
    """One prompt as function, input, noise and support. What a bound for it claims depends on the policy (T7).

    Attributes:
        f: batch (b, tokens, width) of token embeddings → (b, *output): the quantity. Under "noise-then-adapt" it takes a
            `generator`, for the noise beyond `noise`.
        y: (tokens, width), the prompt's token embeddings before positions.
        noise: Gaussian, one σ a token: Σ of the prompt, Σ of the region that it is in, or σ_min, by policy.
        support: the a-priori box and ellipsoid of f's outputs, where one is known.
        quantity: one of `QUANTITIES`.
        tokenized: the prompt's positions.
        token_noise: relevance and σ of every position. Under "noise-then-adapt" this σ is σ(y), what a draw next to y gets.
        policy: covariance policy.
    """

    f: Callable[..., Tensor]
    y: Tensor
    noise: GaussianNoise
    support: Any
    quantity: str
    tokenized: TokenizedPrompt
    token_noise: TokenNoise
    policy: str = "frozen"

    @property
    def prompt(self) -> str:
        """The text."""
        return self.tokenized.prompt

    @property
    def tokens(self) -> tuple[str, ...]:
        """The token at every position."""
        return self.tokenized.tokens
