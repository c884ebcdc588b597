"""Pictures of certificates.

    plot_curve                bound against radius, methods side by side, with what attacks have reached
    plot_event_rates          certified attack success rate against radius
    plot_certified_fraction   share of prompts with at least that radius
    plot_ellipsoid            how far each token may move: the semi-axes of the certified set
    plot_token_noise          the noise of each token, and the relevance it comes from
    plot_relevance            the prompt, its tokens in the colour of their relevance
    picture                   any of them, from a saved certificate

Every function returns a `certify.plots.style.Picture`, a `matplotlib.figure.Figure` that no global state knows of;
`figure.savefig("x.png")`, `"x.svg"` or `"x.pdf"` writes it, the same bytes every time. Style and colours are those of
`certify.plots.style` and `certify.plots.colours`: what a colour says, a marker, a dash or a number says, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from certify import _validate
from certify._text import failure, percent, shown, spelled
from certify.bounds import BoundCurve, CertifiedRadius
from certify.bounds.copies import event_interval
from certify.certificate import Certificate, ClaimedCurve, words
from certify.noise import Ellipsoid, GaussianNoise
from certify.plots import style
from certify.plots.colours import BLUE, GREY, ORANGE, SKY, over_white, series, shares
from certify.plots.style import ONE_COLUMN, RADIUS, TWO_COLUMNS, Picture, panels, plain, styled, text_width, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "CERTIFICATE",
    "EventRates",
    "picture",
    "plot_certified_fraction",
    "plot_curve",
    "plot_ellipsoid",
    "plot_event_rates",
    "plot_relevance",
    "plot_token_noise",
]

CERTIFICATE = ("curve", "rate", "noise", "ellipsoid", "relevance")
"""What `picture` draws."""

_BAND = "#F2F2F2"
_FRAME = 1.6  # inches, height of a frame with bars


@styled
def plot_curve(
    *curves: BoundCurve | ClaimedCurve,
    yardstick: float | None = None,
    labels: Sequence[str] | None = None,
    yardstick_label: str = "yardstick",
    attacks: Sequence[tuple[float, float]] = (),
    attacks_label: str = "strongest movement that attacks found",
    title: str | None = None,
    log: bool | None = None,
    width: float = TWO_COLUMNS,
) -> Picture:
    """Bound against radius, a curve a method.

    A simultaneous curve has a solid line and full marks: it is one statement. Between two marks the value of the next one
    holds; the line only leads the eye. The points of a pointwise one are separate statements: open marks, joined by dots at
    most. A curve with the method "best" (at each radius the one that pilot draws favour) is a broad grey line below the
    others. A radius at which nothing is certified has its mark in the row "no bound" on top. What attacks have reached is a
    lower limit of the truth.

    Args:
        *curves: one or more `BoundCurve`s of one problem, or `Certificate.curve`s.
        yardstick: a squared distance to compare with, drawn as a level line; bounds above it are vacuous.
        yardstick_label: what the level line is.
        labels: a name a curve; None: its method and theorem.
        attacks: (ρ, largest squared distance that an attack of size at most ρ has reached).
        attacks_label: what these are.
        title: above the picture.
        log: logarithmic vertical axis; None: where the values span more than a factor of 50.
        width: of the picture in inches; see `certify.plots.style.ONE_COLUMN` and `TWO_COLUMNS`.

    Raises:
        ValueError: no curves, labels of another number, or a number out of range.
    """
    if not curves:
        raise ValueError("curves = (): must be at least one BoundCurve")
    _as_many("labels", labels, len(curves), "a curve")
    if yardstick is not None:
        _validate.not_negative("yardstick", yardstick)
    for rho, distance in attacks:
        if not (0 <= rho < math.inf and 0 <= distance < math.inf):
            raise ValueError(f"attacks hold {(rho, distance)!r}: must be finite numbers >= 0")
    silent = [[r for r, v in zip(c.rhos, c.values, strict=True) if not math.isfinite(v)] for c in curves]
    rows = [i for i, missing in enumerate(silent) if missing]
    frame = 0.55 * width if width > 5 else 0.8 * width
    if rows:
        strip = 0.14 * len(rows) + 0.08
        figure, grid = panels(
            2, 1, width, frame + strip + _below(len(curves), width), heights=[strip, frame], sharex=True
        )
        upper, axes = grid[0][0], grid[1][0]
        _strip(upper, rows)
    else:
        figure, grid = panels(1, 1, width, frame + _below(len(curves), width))
        upper = axes = grid[0][0]
    finite = [v for curve in curves for v in curve.values if math.isfinite(v)]
    positive = [v for v in [*finite, *(d for _, d in attacks), *([yardstick] if yardstick else [])] if v > 0]
    if log is None:
        log = bool(positive) and max(positive) > 50 * min(positive)
    facts = {_facts(curve) for curve in curves}
    many = len({curve.simultaneous for curve in curves}) > 1 or len(facts) > 1
    for i, curve in enumerate(curves):
        known = [(r, v) for r, v in zip(curve.rhos, curve.values, strict=True) if math.isfinite(v)]
        look = _look(curve, i, sum(not _is_best(c) for c in curves[:i]))
        name = plain(labels[i]) if labels is not None else _method(curve)
        axes.plot(
            [r for r, _ in known],
            [v for _, v in known],
            label=f"{name}, {_facts(curve)}" if many else name,
            **look,
        )
        if silent[i]:
            upper.plot(silent[i], [-rows.index(i)] * len(silent[i]), **look | {"linestyle": ""})
    if attacks:
        axes.plot(*zip(*attacks, strict=True), "x", color="black", markersize=5.5, label=plain(attacks_label), zorder=4)
    if yardstick is not None:
        axes.axhline(
            yardstick,
            color=GREY,
            linestyle="--",
            linewidth=1.1,
            label=f"{plain(yardstick_label)}: {shown(yardstick, 'near')}",
        )
    if log and positive:
        low, top = min(positive), max(positive)
        axes.set_ylim(low / (top / low) ** 0.07 / 1.15, top * (top / low) ** 0.07 * 1.15)
        style.log_scale(axes)
    else:
        top = 1.07 * max(positive, default=0.0) or 1.0
        axes.set_ylim(-0.02 * top, top)
    largest = max(r for curve in curves for r in curve.rhos)
    axes.set_xlim(0, 1.04 * max([largest, *(r for r, _ in attacks)]) or 1.0)
    if not finite:
        _say(axes, "nothing is certified at any of these radii")
    gaussian = all(
        isinstance(run.noise, GaussianNoise) for run in (getattr(c.points[0], "run", None) for c in curves) if run
    )
    radius = RADIUS if gaussian else "radius ρ of the perturbation, in the norm of its noise"
    axes.set_xlabel(radius if many else f"{radius}\n{facts.pop()}")
    axes.set_ylabel("certified squared distance")
    style.head(upper, title, width - 0.8)
    style.key(figure)
    return figure


def _facts(curve: BoundCurve | ClaimedCurve) -> str:
    scope = "all points at once" if curve.simultaneous else "each point by itself"
    return f"{scope} with α\u00a0=\u00a0{failure(curve.alpha)}, n\u00a0=\u00a0{curve.n:,}"


def _is_best(curve: BoundCurve | ClaimedCurve) -> bool:
    return any(getattr(point, "considered", None) for point in curve.points)


def _method(curve: BoundCurve | ClaimedCurve) -> str:
    return f"best by the pilot draws ({curve.theorem})" if _is_best(curve) else f"{curve.method} ({curve.theorem})"


def _look(curve: BoundCurve | ClaimedCurve, number: int, others: int) -> dict[str, Any]:
    if _is_best(curve) and number:
        line = {"linestyle": "-", "linewidth": 6} if curve.simultaneous else {"linestyle": ""}
        return {"color": "#BDBDBD", "marker": "o", "markersize": 8.5, "zorder": 1.5, **line}
    colour, marker, _ = series(others)
    look: dict[str, Any] = {"color": colour, "marker": marker, "zorder": 3}
    if curve.simultaneous:
        return look | {"linestyle": "-"}
    return look | {"linestyle": (0, (1, 3)), "linewidth": 0.9, "markerfacecolor": "white", "markeredgewidth": 1.2}


def _strip(axes: Axes, rows: Sequence[int]) -> None:
    """The row of radii at which nothing is certified."""
    axes.set_facecolor(_BAND)
    axes.grid(False)
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(axis="x", length=0, labelbottom=False)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(-len(rows) + 0.4, 0.6)
    axes.set_yticks([(1 - len(rows)) / 2], ["no bound"])


class EventRates(Protocol):
    """A bound of an event's probability at every radius: `EventBound`, `ClaimedEvent`, `RateOver`, or anything like them.

    One that bounds a mean over several prompts has `prompts`, their number, and may have `unperturbed`, how many of them are
    without noise. One with a true `two_sided` and a method `least` bounds the probability from below, too.
    """

    @property
    def replicas(self) -> int: ...
    @property
    def successes(self) -> int: ...
    @property
    def n(self) -> int: ...
    @property
    def alpha(self) -> float: ...
    def at(self, rho: float) -> float:
        """The bound at a radius."""


@styled
def plot_event_rates(
    *bounds: EventRates,
    largest: float = 1.0,
    labels: Sequence[str] | None = None,
    attacks: Sequence[Sequence[tuple[float, float, float, float]]] = (),
    undefended: float | None = None,
    title: str | None = None,
    width: float = TWO_COLUMNS,
) -> Picture:
    """Certified probability of an event (an attack's success rate) against the radius, a line a bound.

    Args:
        *bounds: what `event_bound`, `event_rate_over` or `attack_rate_over` returned, or `Certificate.event`; each gives a
            whole line, which holds at once with probability 1 − α. A two-sided one has a second line, below which it is not.
        largest: where the horizontal axis ends, > 0.
        labels: a name a bound; None: how many noisy copies, and of how many prompts it is the mean.
        attacks: for each of the bounds, what was measured under attack: (ρ, rate, lower, upper) with its confidence limits.
        undefended: the measured rate without the defence, a level line.
        title: above the picture.
        width: of the picture in inches.

    Raises:
        ValueError: no bounds, attacks or labels for another number of them, or a number out of range.
    """
    if not bounds:
        raise ValueError("bounds = (): must be at least one EventBound")
    if attacks and len(attacks) != len(bounds):
        raise ValueError(f"attacks has {len(attacks)} entries: must be {len(bounds)}, one a bound")
    _as_many("labels", labels, len(bounds), "a bound")
    _validate.positive("largest", largest)
    if undefended is not None and not 0 <= undefended <= 1:
        raise ValueError(f"undefended = {undefended!r}: must be a probability")
    figure, ((axes,),) = panels(1, 1, width, (0.52 if width > 5 else 0.8) * width + _below(2 * len(bounds), width))
    rhos = [largest * i / 200 for i in range(201)]
    for i, bound in enumerate(bounds):
        colour, marker, dashes = series(i)
        named = plain(labels[i]) if labels is not None else _copies(bound)
        seen = f"{bound.successes:,} of {bound.n:,} at ρ\u00a0=\u00a00, α\u00a0=\u00a0{failure(bound.alpha)}"
        axes.plot(
            rhos, [bound.at(r) for r in rhos], color=colour, linestyle=dashes, label=f"certified, {named} ({seen})"
        )
        least = _least(bound)
        if least is not None:
            lower = [least(r) for r in rhos]
            axes.plot(rhos, lower, color=colour, linestyle=dashes, linewidth=0.8, label=f"at least, {named}")
        # Beside one another where several were attacked at the same radius.
        shift = 0.007 * largest * (i - (len(bounds) - 1) / 2)
        points = attacks[i] if attacks else ()
        if points:
            axes.errorbar(
                [rho + shift for rho, *_ in points],
                [rate for _, rate, *_ in points],
                yerr=[[max(r - low, 0) for _, r, low, _ in points], [max(high - r, 0) for _, r, _, high in points]],
                color=colour,
                marker=marker,
                elinewidth=0.9,
                linestyle="",
                label=f"strongest attack found, {named}",
            )
    if undefended is not None:
        axes.axhline(
            undefended, color=GREY, linestyle=(0, (1, 1.5)), linewidth=1.2, label="measured without the defence"
        )
    _probability(axes, largest, "probability of the event", marks=bool(attacks))
    style.head(axes, title, width - 0.8)
    style.key(figure)
    return figure


def _copies(bound: EventRates) -> str:
    copies = words.copies(bound.replicas)
    prompts = getattr(bound, "prompts", None)
    if prompts is None:
        return copies
    silent = getattr(bound, "unperturbed", 0)
    return f"mean of {prompts:,} prompts{f', {silent:,} without noise' if silent else ''}, {copies}"


def _least(bound: Any) -> Callable[[float], float] | None:
    """The lower limit at every radius, where there is one."""
    claim = getattr(bound, "claim", None)
    if not (getattr(bound, "two_sided", False) or (claim is not None and claim.side == "two-sided")):
        return None
    if hasattr(bound, "least"):
        return cast("Callable[[float], float]", bound.least)
    noise = bound.noise if claim is not None else bound.run.noise
    how: dict[str, Any] = {"replicas": bound.replicas, "alpha": bound.alpha, "two_sided": True}
    return lambda rho: event_interval(bound.successes, bound.n, noise, rho=rho, **how)[0]


def _probability(axes: Axes, largest: float, what: str, *, marks: bool = False) -> None:
    axes.set_ylim(-0.02, 1.03)
    axes.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1.0], ["0", "0.2", "0.4", "0.6", "0.8", "1"])
    axes.set_xlim(-0.01 * largest if marks else 0, largest * (1.02 if marks else 1))
    axes.set_xlabel(RADIUS)
    axes.set_ylabel(what)


@styled
def plot_certified_fraction(
    *radii: Sequence[float],
    labels: Sequence[str] | None = None,
    tolerance: str = "the tolerance",
    title: str | None = None,
    width: float = TWO_COLUMNS,
) -> Picture:
    """Certified fraction against radius, a step line a data set: the share of prompts whose certified radius is at least ρ.

    A prompt without a radius has radius 0: it lowers the line everywhere. An infinite radius keeps it up to the right edge,
    where an arrow marks it.

    Args:
        *radii: a certified radius a prompt, for one or more data sets (or smoothers).
        labels: a name a line; None: how many prompts there are, and how many have a radius.
        tolerance: within what the smoothed output stays, in words.
        title: above the picture.
        width: of the picture in inches.

    Raises:
        ValueError: no radii, a negative one or NaN, or labels of another number.
    """
    if not radii or not all(len(line) and all(r >= 0 for r in line) for line in radii):
        raise ValueError(f"radii = {radii!r}: must be one or more lists of numbers >= 0")
    _as_many("labels", labels, len(radii), "a line")
    figure, ((axes,),) = panels(1, 1, width, (0.5 if width > 5 else 0.8) * width + _below(len(radii), width))
    edge = 1.05 * max((r for line in radii for r in line if math.isfinite(r)), default=0.0) or 1.0
    for i, line in enumerate(radii):
        steps = sorted({min(r, edge) for r in line if r > 0})
        fractions = [sum(r >= step for r in line) / len(line) for step in steps]
        some = sum(r > 0 for r in line)
        # A value holds up to and including its radius; behind the last the line falls to 0, unless a radius is infinite.
        falls = bool(steps) and steps[-1] < edge
        colour, _, dashes = series(i)
        axes.step(
            [0.0, *steps, *([steps[-1], edge] if falls else [] if steps else [edge])],
            [some / len(line), *fractions, *([0.0, 0.0] if falls else [] if steps else [0.0])],
            where="pre",
            color=colour,
            linestyle=dashes,
            label=plain(labels[i]) if labels is not None else f"{len(line):,} prompts, {some:,} with a radius",
        )
        if steps and not falls:
            axes.plot(edge, fractions[-1], ">", color=colour, clip_on=False, zorder=4)
    _probability(axes, edge, "certified fraction of prompts")
    if not any(r > 0 for line in radii for r in line):
        _say(axes, "no prompt has a certified radius")
    axes.set_xlabel(f"{RADIUS}\n{wrapped(f'within {tolerance}', width - 0.9)}")
    style.head(axes, title, width - 0.8)
    style.key(figure)
    return figure


@styled
def plot_ellipsoid(
    certified: Ellipsoid | CertifiedRadius,
    tokens: Sequence[str],
    *,
    nearest: Sequence[float | None] | None = None,
    spread: float | None = None,
    title: str | None = None,
    width: float = TWO_COLUMNS,
) -> Picture:
    """How far each token may move alone: the semi-axes ρσ of the certified set, by token, on a logarithmic scale.

    Where a token's coordinates have different noise, the dark bar is its shortest semi-axis and the light one its longest. A
    token without noise has no extent: nothing is certified for changes of it. Where the bar reaches the diamond, at least one
    other token is covered in its place.

    Args:
        certified: the ellipsoid, of shape (tokens, …) as the noise, or what `certified_radius` returned.
        tokens: a name a position of the ellipsoid.
        nearest: ℓ2 distance from each token's embedding to the nearest other one; None: not known, or none is comparable.
        spread: standard deviation of the token embeddings, drawn as a level line.
        title: above the picture.
        width: of the picture in inches.

    Raises:
        ValueError, TypeError: lists of different lengths, an ellipsoid of another shape, or no ellipsoid.
    """
    ellipsoid = getattr(certified, "ellipsoid", certified)
    if not isinstance(ellipsoid, Ellipsoid):
        raise TypeError(
            f"certified is a {type(ellipsoid).__name__}: must be an Ellipsoid, the certified set of Gaussian noise"
        )
    shape = tuple(ellipsoid.sigma.shape)
    if not shape or shape[0] != len(tokens) or not len(tokens):
        raise ValueError(f"certified has shape {shape}: must be ({len(tokens)}, …), a row for each of the tokens")
    _as_many("nearest", nearest, len(tokens), "a token")
    rows = ellipsoid.semi_axes.reshape(len(tokens), -1)
    longest = [float(row.max()) for row in rows]
    shortest = [float(row[row > 0].min()) if bool((row > 0).any()) else 0.0 for row in rows]
    partly = [bool((row > 0).any()) and bool((row == 0).any()) for row in rows]
    distances = list(nearest) if nearest is not None else [None] * len(tokens)
    figure, frames = _token_frames([_name(t) for t in tokens], width, below=0.5)
    top, floor = _log_range([*longest, *shortest, *distances, spread], headroom=5)
    for axes, part in frames:
        for i in part:
            place = i - part.start
            if longest[i] > 0:
                dark, light = (min(v, top) for v in (shortest[i], longest[i]))
                axes.bar(
                    place, light - floor, bottom=floor, width=0.66, color=SKY, edgecolor=BLUE, linewidth=0.7, zorder=2
                )
                axes.bar(place, dark - floor, bottom=floor, width=0.66, color=BLUE, zorder=2.1)
            text = shown(longest[i], "down", 2) + ("\nin part" if partly[i] else "") if longest[i] > 0 else "no\nextent"
            distance = distances[i]
            foot = _foot(max(min(longest[i], top), floor), distance, text, math.log(top / floor) / _FRAME)
            _above(axes, place, foot, text, inside=math.isinf(longest[i]))
            if distance is not None:
                axes.plot(
                    place,
                    distance,
                    "D",
                    color="white",
                    markeredgecolor="black",
                    markeredgewidth=1.0,
                    markersize=5,
                    zorder=3,
                )
        if spread is not None:
            axes.axhline(spread, color=ORANGE, linestyle="--", linewidth=1.1, zorder=1)
        axes.set_ylim(floor, top)
        style.log_scale(axes)
        axes.set_ylabel("semi-axis ρσ")
    if not any(longest):
        _say(frames[0][0], "ρ = 0: nothing is certified" if not ellipsoid.rho else "no token has noise")
    uneven = any(s < g for s, g in zip(shortest, longest, strict=True))
    handles: list[Any] = [Rectangle((0, 0), 1, 1, color=BLUE, label="shortest semi-axis" if uneven else "semi-axis")]
    if uneven:
        handles.append(Rectangle((0, 0), 1, 1, facecolor=SKY, edgecolor=BLUE, label="longest semi-axis"))
    if nearest is not None:
        diamond: dict[str, Any] = {"marker": "D", "color": "white", "markeredgecolor": "black", "markersize": 5}
        handles.append(
            Line2D([], [], linestyle="", label="nearest other token: covered where the bar reaches it", **diamond)
        )
    if spread is not None:
        handles.append(Line2D([], [], color=ORANGE, linestyle="--", linewidth=1.1, label="spread of the embeddings"))
    rho = shown(ellipsoid.rho, "down")
    frames[-1][0].set_xlabel(f"certified set at ρ = {rho}; ℓ2 lengths")
    style.head(frames[0][0], title, figure.get_figwidth() - 0.8)
    style.key(figure, handles)
    return figure


@styled
def plot_token_noise(
    tokens: Sequence[str],
    sigma: Sequence[float],
    relevance: Sequence[float | None],
    *,
    spread: float | None = None,
    covered: Sequence[float | None] | None = None,
    rho: float | None = None,
    title: str | None = None,
    width: float = TWO_COLUMNS,
) -> Picture:
    """The noise σ of every token on a logarithmic scale, and the relevance it comes from.

    Args:
        tokens: names, in the order of the positions.
        sigma: σ a token, in the unit of the token embeddings; 0: no noise.
        relevance: similarity to the concept a token; None: not scored.
        spread: standard deviation of the token embeddings, drawn as a level line.
        covered: share of the vocabulary that a radius covers as a substitution, a token; None: not to be shown.
        rho: that radius.
        title: above the picture.
        width: of the picture in inches.

    Raises:
        ValueError: no tokens, lists of different lengths, or a number out of range.
    """
    if not len(tokens) == len(sigma) == len(relevance) or not len(tokens):
        raise ValueError(
            f"tokens, sigma, relevance have {len(tokens)}, {len(sigma)}, {len(relevance)} entries: must be as many, not 0"
        )
    if not all(0 <= s < math.inf for s in sigma):
        raise ValueError(f"sigma = {list(sigma)!r}: must be finite numbers >= 0")
    _as_many("covered", covered, len(tokens), "a token")
    names = [_name(t) for t in tokens]
    below = covered is not None and rho is not None
    if covered is not None and below:
        names = [
            f"{name}\n{'–' if share is None else percent(share, 'down')}"
            for name, share in zip(names, covered, strict=True)
        ]
    figure, frames = _token_frames(names, width, below=0.3)
    top, floor = _log_range([*sigma, spread], headroom=5)
    for axes, part in frames:
        axes.bar(
            [i - part.start for i in part],
            [max(sigma[i], floor) - floor for i in part],
            bottom=floor,
            color=BLUE,
            width=0.66,
            zorder=2,
        )
        if spread is not None:
            axes.axhline(spread, color=ORANGE, linestyle="--", linewidth=1.1, zorder=1)
        for i in part:
            score = relevance[i]
            text = (
                "no\nnoise"
                if sigma[i] == 0
                else shown(sigma[i], "near", 2) + ("" if score is None else f"\n({_score(score)})")
            )
            _above(axes, i - part.start, max(sigma[i], floor), text)
        axes.set_ylim(floor, top)
        style.log_scale(axes)
        axes.set_ylabel("noise σ (relevance)")
    if below and rho is not None:
        said = f"token, and the share of the vocabulary that ρ = {shown(rho, 'down')} covers in its place"
        frames[-1][0].set_xlabel(wrapped(said, figure.get_figwidth() - 0.8, lines=2))
    style.head(frames[0][0], title, figure.get_figwidth() - 0.8)
    if spread is not None:
        line = Line2D([], [], color=ORANGE, linestyle="--", linewidth=1.1, label="spread of the token embeddings")
        style.key(figure, [line])
    return figure


@styled
def plot_relevance(
    tokens: Sequence[str],
    relevance: Sequence[float | None],
    *,
    concept: str = "the concept",
    limits: tuple[float, float] | None = None,
    title: str | None = None,
    width: float = TWO_COLUMNS,
) -> Picture:
    """The prompt as a line of tokens, each in the colour of its relevance and with the number below.

    The scale is that of `certify.plots.colours`, a single hue that gets darker. Tokens of one word stand close together, where
    the tokens are spelled as the vocabulary does ("</w>" ends a word). A token that was not scored has a dashed frame.

    Args:
        tokens: in the order of the positions.
        relevance: a score a token; None: not scored.
        concept: to what it is relevant.
        limits: scores at the ends of the scale, beyond which the colour stays; None: the smallest and the largest score.
        title: above the picture.
        width: of the picture in inches.

    Raises:
        ValueError: no tokens, lists of different lengths, a score that is not finite, or limits that do not increase.
    """
    if len(tokens) != len(relevance) or not len(tokens):
        raise ValueError(f"tokens, relevance have {len(tokens)}, {len(relevance)} entries: must be as many, not 0")
    scores = [score for score in relevance if score is not None]
    if not all(map(math.isfinite, scores)):
        raise ValueError(f"relevance = {list(relevance)!r}: must be finite numbers or None")
    if limits is not None and not -math.inf < limits[0] < limits[1] < math.inf:
        raise ValueError(f"limits = {limits!r}: must be two finite numbers, the smaller one first")
    low, high = limits or (min(scores, default=0.0), max(scores, default=1.0))
    if limits is None:
        levels = shares(relevance)
    else:
        levels = [None if s is None else min(max((s - low) / (high - low), 0.0), 1.0) for s in relevance]
    boxes, lines = _laid_out(tokens, relevance, width - 0.2)
    step, bar = 0.5, 0.62 if scores else 0.3
    titled = wrapped(title, width - 0.2, lines=2, size=9) if title else ""
    above = 0.06 + (0.16 * (titled.count("\n") + 1) if titled else 0.0)
    height = above + step * lines + bar
    figure = Picture(width, height, layout="none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)  # inches from the upper left corner
    axes.set_axis_off()
    if titled:
        axes.set_title(titled, fontsize=9, loc="left", x=0.1 / width, y=1 - 0.06 / height, va="top", pad=0)
    for (name, left, wide, line), score, level in zip(boxes, relevance, levels, strict=True):
        x, y = 0.1 + left, above + step * line + 0.04
        known: dict[str, Any] = {"facecolor": over_white(level), "edgecolor": "#8A8A8A", "linewidth": 0.6}
        silent: dict[str, Any] = {
            "facecolor": "white",
            "edgecolor": "#8A8A8A",
            "linewidth": 0.6,
            "linestyle": (0, (3, 2)),
        }
        axes.add_patch(Rectangle((x, y), wide, 0.24, **(silent if score is None else known)))
        axes.text(x + wide / 2, y + 0.12, name, ha="center", va="center", fontsize=8)
        axes.text(x + wide / 2, y + 0.27, _score(score), ha="center", va="top", fontsize=7, color="#333333")
    if scores:
        _scale(axes, above + step * lines + 0.12, low, high, f"relevance to {wrapped(concept, width - 3.0)}")
    else:
        axes.text(0.1, above + step * lines + 0.1, "no token was scored", va="center", fontsize=8, color=GREY)
    return figure


def _laid_out(
    tokens: Sequence[str], relevance: Sequence[float | None], room: float
) -> tuple[list[tuple[str, float, float, int]], int]:
    """Name, left edge, width (inches) and line of every token, and how many lines there are."""
    spelled = any(str(token).endswith("</w>") for token in tokens)
    boxes: list[tuple[str, float, float, int]] = []
    x, line, joined = 0.0, 0, False
    for token, score in zip(tokens, relevance, strict=True):
        name = _name(token, room=min(1.8, room - 0.1))
        wide = max(text_width(name) + 0.12, text_width(_score(score), 7) + 0.08, 0.2)
        x += 0.0 if not boxes or joined else 0.07
        if boxes and x + wide > room:
            x, line = 0.0, line + 1
        boxes.append((name, x, wide, line))
        x += wide
        joined = spelled and not str(token).endswith("</w>") and not str(token).startswith("<|")
    return boxes, line + 1


def _scale(axes: Axes, y: float, low: float, high: float, what: str) -> None:
    """The colours of the scale with the numbers of its ends and its middle."""
    left, long, parts = 0.1, 1.6, 32
    for i in range(parts if high > low else 1):
        share = i / (parts - 1) if high > low else 1.0
        # To the right end, each over the one before: no seams.
        start = long * i / parts
        axes.add_patch(Rectangle((left + start, y), long - start, 0.13, linewidth=0, facecolor=over_white(share)))
    axes.add_patch(Rectangle((left, y), long, 0.13, facecolor="none", edgecolor="#8A8A8A", linewidth=0.6))
    ends = ((low, left, "left"), ((low + high) / 2, left + long / 2, "center"), (high, left + long, "right"))
    for value, x, side in ends if high > low else ends[1:2]:
        axes.text(x, y + 0.16, _score(value), ha=side, va="top", fontsize=7, color="#333333")
    axes.text(left + long + 0.12, y + 0.065, what, va="center", fontsize=8)


def _score(score: float | None) -> str:
    if score is None:
        return "–"
    return "0" if abs(score) < 0.005 else shown(score, "near", 2, sign=True)


def picture(certificate: Certificate, what: str, *, title: str | None = None, width: float = TWO_COLUMNS) -> Picture:
    """A picture of a saved certificate.

    Args:
        certificate: as `Certificate.load` returns it.
        what: "curve", "rate" (of events), "noise", "ellipsoid" (of the certified radius, or else of the first claim that is
            made), "relevance"; the last three of a prompt's certificate only.
        title: above the picture; None: the prompt, where it is on record.
        width: of the picture in inches.

    Raises:
        ValueError: another word, or the certificate holds nothing to draw of this kind.
    """
    if what not in CERTIFICATE:
        raise ValueError(f"what = {what!r}: must be one of {', '.join(CERTIFICATE)}")
    title = title or certificate.provenance.get("prompt")
    try:
        return _DRAWN[what](certificate, None if title is None else str(title), width)
    except (KeyError, TypeError, AttributeError, IndexError, ArithmeticError) as error:
        raise ValueError(f"certificate: what it has on record cannot be drawn ({error!r})") from error


def _picture_of_curve(certificate: Certificate, title: str | None, width: float) -> Picture:
    curve, stick = certificate.curve, certificate.provenance.get("yardstick")
    if curve is None:
        raise ValueError("certificate: holds no curve; what = 'curve' cannot be drawn")
    return plot_curve(
        curve,
        yardstick=None if not stick else float(stick["distance"]),
        yardstick_label="squared concept-removal distance",
        title=title,
        width=width,
    )


def _picture_of_rate(certificate: Certificate, title: str | None, width: float) -> Picture:
    made = [c for c in certificate.claims if (c.quantity, c.status) == ("event", "certified")]
    events = [c for c in made if c.scope != "stopped early"]
    if not events:
        raise ValueError("certificate: holds no certified event; what = 'rate' cannot be drawn")
    measured = certificate.provenance.get("undefended") or {}
    rate = measured.get("rate")
    functions = {c.function for c in events}
    return plot_event_rates(
        *(certificate.event(c) for c in events),
        largest=max(1.0, *(c.rho for c in events)),
        labels=[c.function for c in events] if len(functions) > 1 else None,
        undefended=None if rate is None else float(rate),
        title=title,
        width=width,
    )


def _picture_of_noise(certificate: Certificate, title: str | None, width: float) -> Picture:
    names, noise, shown = _prompt_tokens(certificate)
    coverage = certificate.provenance.get("coverage") or []
    covered = {p["position"]: float(p["share"]) for p in coverage}
    return plot_token_noise(
        [names[i] for i in shown],
        [float(noise["sigma"][i]) for i in shown],
        [noise["relevance"][i] for i in shown],
        spread=certificate.provenance.get("token_spread"),
        covered=[covered.get(i) for i in shown] if coverage else None,
        rho=float(coverage[0]["rho"]) if coverage else None,
        title=title,
        width=width,
    )


def _picture_of_ellipsoid(certificate: Certificate, title: str | None, width: float) -> Picture:
    names, _, shown = _prompt_tokens(certificate)
    made = [c for c in certificate.claims if c.status == "certified" and c.smoother != "none"]
    claim = next(iter([c for c in made if c.quantity == "radius"] or made or certificate.claims))
    whole = certificate.ellipsoid(claim)
    if whole.sigma.shape[0] != len(names):
        raise ValueError("certificate: its noise is not one of tokens; what = 'ellipsoid' cannot be drawn")
    # On record is the ρ at which a substitution is covered: its ℓ2 distance in units of the token's σ.
    near = {
        p["position"]: float(p["nearest"]["distance"]) * float(p["sigma"])
        for p in certificate.provenance.get("coverage") or ()
        if p.get("nearest") and p["sigma"] > 0
    }
    return plot_ellipsoid(
        Ellipsoid(whole.sigma[shown], whole.rho),
        [names[i] for i in shown],
        nearest=[near.get(i) for i in shown] if near else None,
        spread=certificate.provenance.get("token_spread"),
        title=title,
        width=width,
    )


def _picture_of_relevance(certificate: Certificate, title: str | None, width: float) -> Picture:
    names, noise, shown = _prompt_tokens(certificate)
    concepts = (certificate.provenance.get("smoother") or {}).get("concepts", ())
    return plot_relevance(
        [names[i] for i in shown],
        [noise["relevance"][i] for i in shown],
        concept=", ".join(str(c["name"]) for c in concepts) or "the concept",
        title=title,
        width=width,
    )


_DRAWN: dict[str, Callable[[Certificate, str | None, float], Picture]] = {
    "curve": _picture_of_curve,
    "rate": _picture_of_rate,
    "noise": _picture_of_noise,
    "ellipsoid": _picture_of_ellipsoid,
    "relevance": _picture_of_relevance,
}


def _prompt_tokens(certificate: Certificate) -> tuple[list[str], Any, list[int]]:
    """Names of all positions, what is on record of them, and those of them that are no padding without noise."""
    noise = certificate.provenance.get("token_noise")
    if not noise:
        raise ValueError("certificate: is not one of a prompt; only 'curve' and 'rate' can be drawn of it")
    kinds = noise["kinds"]
    names = noise.get("tokens") or [f"#{i}" for i in range(len(kinds))]
    lengths = {len(kinds), len(names), len(noise["sigma"]), len(noise["relevance"])}
    if len(lengths) != 1:
        raise ValueError("certificate: its lists of tokens have different lengths")
    shown = [i for i, kind in enumerate(kinds) if kind != "padding" or float(noise["sigma"][i]) > 0]
    return [str(name) for name in names], noise, shown


def _token_frames(names: Sequence[str], width: float, below: float) -> tuple[Picture, list[tuple[Axes, range]]]:
    """Frames below one another, each with the positions in it, as many as there is room for; `below`: inches for a legend."""
    widest = max(max(text_width(line) for line in name.split("\n")) for name in names)
    turned = widest > 0.62
    slot = 0.46 if turned else max(widest + 0.06, 0.46)
    room = width - 0.75
    count = math.ceil(len(names) / max(1, int(room / slot)))
    each = math.ceil(len(names) / count)
    wide = max(min(width, 0.75 + each * max(slot, 0.62)), min(width, ONE_COLUMN))
    label = (0.75 * widest if turned else 0.0) + 0.14 * max(name.count("\n") for name in names)
    figure, grid = panels(count, 1, wide, (_FRAME + 0.1 + label) * count + 0.5 + below)
    frames = []
    for row, (axes,) in enumerate(grid):
        part = range(row * each, min((row + 1) * each, len(names)))
        how: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if turned else {}
        axes.set_xticks(range(len(part)), [names[i] for i in part], **how)
        axes.tick_params(axis="x", length=0)
        axes.set_xlim(-0.5, max(each, (wide - 0.75) / 0.75 if count == 1 else each) - 0.5)
        frames.append((axes, part))
    return figure, frames


def _log_range(values: Sequence[float | None], headroom: float) -> tuple[float, float]:
    """Upper and lower end of a logarithmic axis on which every finite value above 0 is seen."""
    shown = [v for v in values if v is not None and 0 < v < math.inf] or [1.0]
    return max(shown) * max(headroom, (max(shown) / min(shown)) ** 0.3), min(shown) / 3


def _foot(bar: float, mark: float | None, text: str, inch: float) -> float:
    """Where words above a bar begin: above its mark, too, where they would cover it. `inch`: logarithms an inch."""
    high = 0.11 * (text.count("\n") + 1) + 0.04
    if mark is None or not math.log(bar) - 0.06 * inch < math.log(mark) < math.log(bar) + (high + 0.06) * inch:
        return bar
    return max(bar, mark * math.exp(0.05 * inch))


def _above(axes: Axes, x: float, y: float, text: str, *, inside: bool = False) -> None:
    """Words above a bar; inside its end, where it goes on for ever."""
    axes.annotate(
        text,
        (x, y),
        xytext=(0, -3 if inside else 2.5),
        textcoords="offset points",
        ha="center",
        va="top" if inside else "bottom",
        fontsize=7,
        linespacing=1.05,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
        zorder=3.5,
    )


def _name(token: Any, room: float = 0.95) -> str:
    """A token for readers, without the vocabulary's marks, shortened."""
    return wrapped(spelled(token), room) or "␣"


def _as_many(name: str, values: Sequence[Any] | None, count: int, what: str) -> None:
    if values is not None and len(values) != count:
        raise ValueError(f"{name} = {list(values)!r}: must be {count} entries, one {what}")


def _below(entries: int, width: float) -> float:
    """Room for the axis's words and the legend, in inches."""
    return 0.55 + 0.16 * (math.ceil(entries / 2) if width > 5 else entries)


def _say(axes: Axes, text: str) -> None:
    how: dict[str, Any] = {"ha": "center", "va": "center", "color": GREY, "fontsize": 9}
    axes.text(
        0.5, 0.9, text, transform=axes.transAxes, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1}, **how
    )
