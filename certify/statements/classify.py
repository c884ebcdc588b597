"""Classify: the class that a smoothed classifier gives an input, and the radius up to which it provably keeps to it.

>>> import torch
>>> from certify import classify
>>> d = classify(lambda z: torch.stack([-z[:, 0], z[:, 0]], dim=1), torch.tensor([1.0, 5.0]), 0.5, n=2000)
>>> d.label, 0.75 < d.radius < 1.0  # the boundary is at a distance of 1
(1, True)

Several inputs are certified together: `classify_many` packs their draws into common batches, each with the draws that
`classify` gives it. `certified_accuracy` is what a data set comes to.

Reference: Cohen, Rosenfeld and Kolter (2019); for anisotropic noise Eiras et al. (2022).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, Unpack, cast

from torch import Tensor

from certify import _validate
from certify.bounds.base import Run, recorded
from certify.bounds.classification import (
    ClassEvidence,
    Classification,
    Labels,
    OtherClasses,
    class_radius,
    enough_for_class,
    labels_of,
    other_limit,
)
from certify.montecarlo import Counts, Function, Progress, draw_packed, row_seed
from certify.noise import Noise, as_noise
from certify.statements.drawing import Drawing, Draws, SeedOptions, StatisticOptions
from certify.statements.stopping import StoppedCount

__all__ = ["Classified", "ClassifyManyOptions", "certified_accuracy", "classify", "classify_many", "right_radii"]


class ClassifyManyOptions(SeedOptions, total=False):
    """The options of classifying several inputs, which keeps no checkpoint."""

    n: int
    batch_size: int | None
    policy: str
    function: str


@_validate.suggests(StatisticOptions)
def classify(
    f: Function,
    x: Tensor,
    noise: Noise | float,
    *,
    n0: int = 100,
    alpha: float = 1e-3,
    stop_at: float | None = None,
    classes: int | None = None,
    **options: Unpack[StatisticOptions],
) -> Classification:
    """The class that more than half of all noisy copies are given, whatever is done to the input within a radius (T1).

    Equation
        for all ‖δ‖_Σ ≤ ρ:  P[f(x + δ + G) = label] > ½,  with confidence 1 − α over the n draws;  ρ = Φ⁻¹(p̲), p̲ the lower
        Clopper–Pearson limit of the label's probability at x (any other noise: by its own `tails`).

    Reference
        Cohen et al. (2019), Certify; anisotropic noise: Eiras et al. (2022). THEORY T1, T13; docs/theory/t01-percentile.md.

    Args:
        f: batch (b, *input) → logits (b, classes), of which the largest counts, or labels (b,), 0 and up. May take a keyword
            `generator` and then be random.
        x: one input, shape (*input), without a batch axis.
        noise: a `Noise`, or a number: isotropic Gaussian. Radii are in its own units, what `noise.norm` measures.
        n0: pilot draws, which choose the class; they do not enter the bound.
        alpha: failure probability of the answer.
        stop_at: a radius > 0: drawing ends as soon as it is decided whether it can be certified, soundly at any time (T3,
            docs/theory/t03-sequential.md). None: all n draws are made, the published certificate.
        classes: how many there are, to refuse other labels; None: not known.
        **options: of drawing: those of `certify.statements.drawing.Drawing`; n bounding draws (with `stop_at` the most, and
            without a checkpoint).

    Returns:
        `Classification`: `label` (None: abstained), `rho`, `radius` in ℓ2, `ellipsoid`.

    Raises:
        ValueError, TypeError: an argument out of range, or f gives neither logits nor labels, or is not a finite function.
    """
    question = _Question(n0, alpha, stop_at, classes)
    options.setdefault("function", "classifier")
    drawing = Drawing(f, x, noise, pilot=question.n0, **options)
    if question.stop_at is not None:
        if drawing.checkpoint is not None:
            raise ValueError("checkpoint: must be None with stop_at, which ends before there is much to keep")
        run = replace(drawing.run(), pilot=question.n0)
        return question.packed(drawing.f, [run], drawing.batch_size, drawing.progress)[0]
    votes = Labels(question.classes)
    votes.update(cast(Tensor, drawing.pilot_draws(True)))
    counts = OtherClasses(votes.most(), question.classes)
    drawing.draw([counts])
    return question.answer(drawing.run(), counts.label, counts)


@_validate.suggests(ClassifyManyOptions)
def classify_many(
    f: Function,
    xs: Sequence[Tensor] | Tensor,
    noise: Noise | float | Sequence[Noise | float],
    *,
    n0: int = 100,
    alpha: float = 1e-3,
    stop_at: float | None = None,
    classes: int | None = None,
    seeds: Sequence[int] | None = None,
    **options: Unpack[ClassifyManyOptions],
) -> list[Classification]:
    """Classifies several inputs, their draws packed into common batches: each answer is that of `classify` with its own seed.

    A model is kept busy where one input needs few draws: with `stop_at`, and for the pilot draws.

    Args:
        f: as in `classify`.
        xs: the inputs, (inputs, *input), or a list of tensors of one shape.
        noise: one for all, or a list of one an input.
        n0, alpha, stop_at, classes: as in `classify`; α is of each answer by itself.
        seeds: one an input; None: made of `seed` and the input's number, from 0. The answer has it on record (`run.seed`).
        **options: n, seed, progress, batch_size, policy, function: as in `classify`.

    Returns:
        A `Classification` an input, in their order.

    Raises:
        ValueError, TypeError: as `classify`.
    """
    question = _Question(n0, alpha, stop_at, classes)
    given: dict[str, Any] = dict(options)
    record = {"policy": given.pop("policy", "frozen"), "function": given.pop("function", "classifier")}
    recorded(**record)
    how, f = Draws(**given), _validate.function("f", f)
    if not isinstance(xs, (Tensor, list, tuple)) or not len(xs):
        raise TypeError("xs: must be a tensor (inputs, *input), or a list of tensors, with at least one input")
    inputs = [_validate.own_tensor(f"xs[{i}]", x) for i, x in enumerate(xs)]
    first = inputs[0]
    for i, x in enumerate(inputs):
        if (x.shape, x.dtype, x.device) != (first.shape, first.dtype, first.device):
            raise ValueError(
                f"xs[{i}] has shape {tuple(x.shape)}, {x.dtype} on {x.device}: must be like xs[0], {tuple(first.shape)}, "
                f"{first.dtype} on {first.device}"
            )
    several = isinstance(noise, (list, tuple))
    noises: list[Any] = list(cast(Sequence[Any], noise)) if several else [noise] * len(inputs)
    seeds = [row_seed(how.seed, i) for i in range(len(inputs))] if seeds is None else list(seeds)
    for name, values in (("noise", noises), ("seeds", seeds)):
        if len(values) != len(inputs):
            raise ValueError(f"{name} has {len(values)} entries: must be {len(inputs)}, one an input")
    seeds = [_validate.count(f"seeds[{i}]", seed, minimum=0) for i, seed in enumerate(seeds)]
    runs = [
        Run(x, as_noise(own, x), n=how.n, seed=seed, pilot=question.n0, **record)
        for x, own, seed in zip(inputs, noises, seeds, strict=True)
    ]
    return question.packed(f, runs, how.batch_size, how.progress)


@dataclass(frozen=True)
class _Question:
    """What is asked of every input; checked."""

    n0: int
    alpha: float
    stop_at: float | None
    classes: int | None

    def __post_init__(self) -> None:
        object.__setattr__(self, "n0", _validate.count("n0", self.n0))
        object.__setattr__(self, "alpha", _validate.failure("alpha", self.alpha))
        if self.stop_at is not None:
            object.__setattr__(self, "stop_at", _validate.positive("stop_at", self.stop_at))
        if self.classes is not None:
            object.__setattr__(self, "classes", _validate.count("classes", self.classes, minimum=2))

    def packed(
        self, f: Function, runs: Sequence[Run], batch_size: int | None, progress: Progress | None
    ) -> list[Classification]:
        """The answers for several inputs, two passes over all of them."""
        pilots, n = self.n0 * len(runs), runs[0].n
        every = pilots + n * len(runs)
        about: dict[str, Any] = {
            "ys": [run.y for run in runs],
            "noises": [run.noise for run in runs],
            "seeds": [run.seed for run in runs],
            "batch_size": batch_size,
        }

        def tick(before: int) -> Progress | None:
            return None if progress is None else lambda done, unused: progress(before + done + unused, every)

        votes = [Labels(self.classes) for _ in runs]
        draw_packed(
            f,
            n=self.n0,
            stream="pilot",
            accumulators=[[vote] for vote in votes],
            progress=tick(0),
            again="early",
            **about,
        )
        chosen = [vote.most() for vote in votes]
        counts = [self.counts(label, run.noise) for label, run in zip(chosen, runs, strict=True)]

        def wanted(i: int) -> int:
            count = counts[i]
            return count.next_draws() if isinstance(count, StoppedCount) else n

        draw_packed(
            f,
            n=n,
            stream="bounding",
            accumulators=[[count] for count in counts],
            progress=tick(pilots),
            wanted=wanted,
            again="late",
            **about,
        )
        return [self.answer(*one) for one in zip(runs, chosen, counts, strict=True)]

    def counts(self, label: int, noise: Noise) -> Counts:
        """What counts the other classes, and with `stop_at` knows when they are enough."""
        if self.stop_at is None:
            return OtherClasses(label, self.classes)
        return StoppedCount(
            noise.tails(0.5, self.stop_at).lower,
            self.alpha / 2,
            lambda outputs: labels_of(outputs, self.classes) != label,
        )

    def answer(self, run: Run, label: int, counts: Counts) -> Classification:
        """What the count of the other classes says."""
        n, others = counts.count, int(counts.ones)
        other = other_limit(others, n, self.alpha, early=self.stop_at is not None)
        radius, decided = class_radius(other, run.noise), getattr(counts, "decided", None)
        if (
            decided == "yes" and self.stop_at is not None
        ):  # shown by the evidence itself, not by a limit that is rounded
            radius = max(radius or 0.0, self.stop_at)
        certified = radius is not None
        reason = run.remark
        if not certified:
            reason = (
                f"class {label} was seen in {n - others:,} of {n:,} draws, which does not show it to be more probable than all "
                f"others together: {enough_for_class(n - others, n, self.alpha)}"
            )
        return Classification(
            label=label if certified else None,
            candidate=label,
            rho=radius or 0.0,
            ellipsoid=run.noise.region(run.y.shape, radius or 0.0),
            successes=n - others,
            other=other,
            n0=self.n0,
            stop_at=self.stop_at,
            decided=decided,
            scope="single" if self.stop_at is None else "stopped early",
            theorem=run.noise.theorem,
            alpha=self.alpha,
            n=n,
            status="certified" if certified else "abstained",
            reason=reason,
            run=run,
            evidence=ClassEvidence(label, other, n - others) if certified else None,
        )


class Classified(Protocol):
    """What a certified classification says: a `Classification`, or a line of a run (`certify.datasets.ClassifiedRun`)."""

    @property
    def label(self) -> int | None: ...
    @property
    def rho(self) -> float: ...
    @property
    def radius(self) -> float: ...


def certified_accuracy(
    decisions: Sequence[Classified], labels: Sequence[int] | Tensor, rhos: Sequence[float], *, by: str = "rho"
) -> tuple[float, ...]:
    """Certified accuracy: the share of inputs whose certified class is the right one, at each radius.

    Equation
        A(ρ) = #{i : label_i is right and ρ_i ≥ ρ} / N;  an abstention is wrong at every radius.

    Reference
        Cohen et al. (2019).

    Args:
        decisions: one an input, as `classify` gives them.
        labels: the true classes, one an input.
        rhos: radii ≥ 0; at 0 the share of inputs that are certified at all, and rightly.
        by: "rho": radii in units of the noise; "radius": in ℓ2.

    Raises:
        ValueError, TypeError: no decisions, labels of another number, or a radius out of range.
    """
    by = _validate.choice("by", by, ("rho", "radius"))
    radii = right_radii(decisions, labels, by)
    return tuple(
        sum(r is not None and r >= _validate.not_negative(f"rhos[{i}]", rho) for r in radii) / len(radii)
        for i, rho in enumerate(rhos)
    )


def right_radii(decisions: Sequence[Classified], labels: Sequence[int] | Tensor, by: str) -> list[float | None]:
    """The radius of every input whose certified class is the right one, None of the others."""
    truth = labels.tolist() if isinstance(labels, Tensor) else list(labels)
    if not decisions or len(truth) != len(decisions):
        raise ValueError(
            f"labels has {len(truth)} entries, decisions {len(decisions)}: must be one a decision, at least one"
        )
    truth = [_validate.count(f"labels[{i}]", label, minimum=0) for i, label in enumerate(truth)]
    return [
        float(getattr(d, by)) if d.label is not None and d.label == label else None
        for d, label in zip(decisions, truth, strict=True)
    ]
