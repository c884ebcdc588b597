"""What a visitor of the page asks for, checked under the names that stand on the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from certify import _validate

__all__ = ["MOST", "Asked"]

MOST = {"n": 1_000_000, "replicas": 1_000, "images": 10_000}
"""A page is for one prompt and an answer today; more is asked for on the command line."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One prompt and its settings.

    Args:
        prompt: not empty.
        concept: what to suppress, by name.
        sigma0: base noise σ₀, in standard deviations of the token embeddings.
        k: how fast noise grows with relevance, ≥ 0.
        replicas: K, noisy copies of the deployed smoother.
        rho: radius of what is said about ideal smoothed values, in units of the noise.
        rho_deployed: radius of what is said about what is deployed.
        n: draws of the encoding.
        images: images for the attack success rate; 0: nothing about images.
        alpha: failure probability of the certificate as a whole.
        seed: of all draws.

    Raises:
        TypeError, ValueError: a value is missing or out of range; the message names it as the page does.
    """

    prompt: str
    concept: str
    sigma0: float
    k: float
    replicas: int
    rho: float
    rho_deployed: float
    n: int
    images: int
    alpha: float
    seed: int

    def __post_init__(self) -> None:
        for field in fields(self):
            name, check = _CHECKS[field.name]
            object.__setattr__(self, field.name, check(name, _whole(field.type, getattr(self, field.name))))
        for which, most in MOST.items():
            if getattr(self, which) > most:
                raise ValueError(
                    f"{_CHECKS[which][0]} = {getattr(self, which):,}: must be at most {most:,} on this page"
                )

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Asked:
        """From the values of the page's fields by name. An empty one is named."""
        for name, value in given.items():
            if value is None:
                raise ValueError(f"{_CHECKS[name][0]}: must not be empty")
        return cls(**given)


def _whole(kind: Any, value: Any) -> Any:
    """A page's number is a float: 200.0 counts as the whole number that it is."""
    return int(value) if kind == "int" and isinstance(value, float) and value.is_integer() else value


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name} = {value!r}: must not be empty")
    return value


def _at_least(minimum: int) -> Callable[[str, Any], int]:
    return lambda name, value: _validate.count(name, value, minimum)


_CHECKS: dict[str, tuple[str, Callable[[str, Any], Any]]] = {
    "prompt": ("prompt", _text),
    "concept": ("concept", _text),
    "sigma0": ("σ₀", _validate.positive),
    "k": ("k", _validate.not_negative),
    "replicas": ("K", _at_least(1)),
    "rho": ("ρ", _validate.positive),
    "rho_deployed": ("ρ deployed", _validate.positive),
    "n": ("n", _at_least(1)),
    "images": ("images", _at_least(0)),
    "alpha": ("α", _validate.failure),
    "seed": ("seed", _at_least(0)),
}
"""What each is called on the page, and what it must be."""
