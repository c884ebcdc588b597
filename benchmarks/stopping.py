"""Draws saved by early stopping: questions with a target, asked of the embedded model's deployed encoding."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks import subjects
from certify import decide_event, decide_mse

__all__ = ["Saved", "rows"]


@dataclass(frozen=True)
class Saved:
    """One question: how many draws it took of those allowed."""

    question: str
    decided: str
    n: int
    maximum: int

    @property
    def saved(self) -> float:
        return 1 - self.n / self.maximum


def rows(quick: bool = False) -> list[Saved]:
    """Is the squared distance within the concept-removal distance? Does it leave it, deployed?"""
    from certify import world
    from certify.adaptive import AdaptiveMedianSmoother
    from certify.models import load_text_encoder

    adaptive = AdaptiveMedianSmoother.from_encoder(load_text_encoder(), ["circle"], **world.SMOOTHING)
    prompt = adaptive.prepare(subjects.PROMPT)
    problem, distance = prompt.problem(), prompt.concept_removal.distance
    most, copies = (10_000 if quick else 100_000), adaptive.n
    answers = []
    for rho in (0.5, 1.0, 2.0, 3.0):
        decision = decide_mse(
            problem.f, problem.y, problem.noise, tolerance=distance, rho=rho, n=most, support=problem.support
        )
        answers.append(Saved(f"squared distance ≤ {distance:.0f} at ρ = {rho:g}", decision.decided, decision.n, most))
    center = problem.f(problem.y[None])[0].double()

    def leaves(z: Tensor) -> Tensor:
        drawn = problem.f(z.flatten(0, 1)).unflatten(0, z.shape[:2]).double()
        return (drawn.median(dim=1).values - center).flatten(1).square().sum(dim=1) > distance

    with torch.no_grad():
        for rho in (0.1, 0.25, 0.5):
            event = decide_event(
                leaves, problem.y, problem.noise, target=0.5, rho=rho, replicas=copies, n=most // 10, batch_size=64
            )
            question = f"deployed: P[squared distance > {distance:.0f}] ≤ .5 at ρ = {rho:g}"
            answers.append(Saved(question, event.decided, event.n, most // 10))
    return answers
