"""What a prompt's certificate has on record beside its claims, and how near it must be when it is computed again.

`ENTRIES` is the one table of it: a certificate is written with these values, and a check computes them anew and compares
(`certify.adaptive.checking`). What was measured or sampled (the trajectory, rates without the defence) is on record, too, and
is not computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from certify.adaptive.coverage import PositionCoverage, covered_prompts, covered_substitutions, level_set
from certify.models.trajectory import Trajectory
from certify.noise import GaussianNoise

if TYPE_CHECKING:
    from certify.adaptive.prompt import PreparedPrompt

__all__ = ["ENTRIES", "ON_RECORD", "Entry", "Subject"]


@dataclass(frozen=True, eq=False)
class Subject:
    """What a record is of.

    Attributes:
        prompt: the prompt.
        noise: Σ of the claims.
        rho: the radius whose coverage is on record.
        attacks: attack prompts.
        scored: whether statistics of the deployed encoding were certified.
        trajectory: where noise predictions were compared; None: nowhere.
        private: whether words are left out.
    """

    prompt: PreparedPrompt
    noise: GaussianNoise
    rho: float
    attacks: Sequence[str] = ()
    scored: bool = True
    trajectory: Trajectory | None = None
    private: bool = False


@dataclass(frozen=True)
class Entry:
    """One entry of a record.

    Attributes:
        name: what it is, in words.
        value: computes it, as a JSON value; None: there is nothing to record.
        relative, absolute: how near it must be: "cosine", "distance", "embedding" or "prediction", by dtype; "": exactly.
    """

    name: str
    value: Callable[[Subject], Any]
    relative: str = ""
    absolute: str = ""


def _token_noise(of: Subject) -> dict[str, Any]:
    found = of.prompt.token_noise
    words = {} if of.private else {"tokens": list(found.tokens)}
    return words | {name: list(getattr(found, name)) for name in ("kinds", "relevance", "concept", "sigma")}


def _concept_removal(of: Subject) -> dict[str, Any]:
    found = of.prompt.concept_removal
    return {"distance": found.distance, "word": None if of.private else found.word, "position": found.position}


def _coverage(of: Subject) -> list[dict[str, Any]]:
    return [_position(c, of.private) for c in covered_substitutions(of.prompt, of.rho, noise=of.noise)]


def _position(coverage: PositionCoverage, private: bool) -> dict[str, Any]:
    left_out = ("token", "nearest", "uncovered", "members", "leaving") if private else ()
    return {name: value for name, value in coverage.to_dict().items() if name not in left_out}


def _levels(of: Subject) -> dict[str, Any] | None:
    if of.prompt.adaptive.policy != "levels":
        return None
    return level_set(of.prompt, of.rho, noise=of.noise).to_dict()


def _covered_prompts(of: Subject) -> list[dict[str, Any]]:
    if of.private:  # attacks resemble what they attack, and it may be among them
        return []
    return [attack.to_dict() for attack in covered_prompts(of.prompt, of.attacks, of.rho, noise=of.noise)]


def _counted(of: Subject) -> dict[str, int] | None:
    if not of.private:
        return None
    found = covered_prompts(of.prompt, of.attacks, of.rho, noise=of.noise)
    return {"given": len(found), "covered": sum(attack.covered for attack in found)}


def _predicted_removal(of: Subject) -> float | None:
    denoiser = of.prompt.adaptive.denoiser
    if denoiser is None or of.trajectory is None:
        return None
    return of.prompt.predicted_removal(denoiser, of.trajectory)


ENTRIES: dict[str, Entry] = {
    "token_noise": Entry("noise of the tokens", _token_noise),
    "token_spread": Entry(
        "standard deviation of token embeddings", lambda of: of.prompt.adaptive.encoder.embedding_std, "distance"
    ),
    "truncated": Entry("tokens that were cut off", lambda of: of.prompt.tokenized.truncated.get("truncated")),
    "quantity": Entry("quantity", lambda of: "embedding"),
    "concept_in_prompt": Entry("concept in the prompt", lambda of: of.prompt.mention.to_dict(), absolute="cosine"),
    "yardstick": Entry("concept-removal distance", _concept_removal, "distance"),
    "coverage": Entry("covered tokens", _coverage, "embedding"),
    "levels": Entry("prompts that are covered as deployed", _levels, "embedding"),
    "covered_prompts": Entry("covered attack prompts", _covered_prompts, "embedding"),
    "covered_prompts_counted": Entry("number of covered attack prompts", _counted),
    "noise_prediction_yardstick": Entry(
        "concept-removal distance of noise predictions", _predicted_removal, "prediction"
    ),
    "concept_score_plain": Entry(
        "concept score of the plain encoding", lambda of: of.prompt.plain_score if of.scored else None, "distance"
    ),
}
"""By name on record, in the order of a comparison."""

ON_RECORD = (
    *("prompt", "quantity", "smoother", "token_noise", "token_spread", "concept_in_prompt", "yardstick", "coverage"),
    *(
        "covered_prompts",
        "trajectory",
        "noise_prediction_yardstick",
        "concept_score_plain",
        "undefended",
        "without_word",
    ),
    *("images", "truncated", "covered_prompts_counted", "levels"),
)
"""All that `certify_prompt` puts on record beside what every certificate has, in this order."""
