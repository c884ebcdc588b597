"""Figures: what they draw, that words of others break nothing, that files are the same bytes, that nothing else changes."""

from __future__ import annotations

import itertools
import math
import re
import warnings
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from PIL import Image

from certify import (
    Certificate,
    Ellipsoid,
    GaussianNoise,
    UniformNoise,
    bound_curve,
    certified_radius,
    event_bound,
    indistinguishability,
    mean_bound,
    plots,
)
from certify.bounds.rates import RateOver
from certify.plots import (
    CERTIFICATE,
    colours,
    plot_certified_fraction,
    plot_curve,
    plot_ellipsoid,
    plot_event_rates,
    plot_relevance,
    plot_token_noise,
    style,
)

HOSTILE = "a $\\frac{ and $5 \x07\n漢字 💥 " * 12
"""A title that is too long, is a broken formula, and has letters that no font here has."""


@pytest.fixture(scope="module")
def curves():
    def curve(simultaneous, method="coordinatewise"):
        return bound_curve(
            lambda z: z,
            torch.zeros(3),
            GaussianNoise(1.0),
            rhos=[0.5, 1.0, 4.0],
            n=500,
            simultaneous=simultaneous,
            method=method,
        )

    return curve(True), curve(False), curve(True, "best")


@pytest.fixture(scope="module")
def event():
    return event_bound(
        lambda z: z.mean(dim=(1, 2)) > 0.4,
        torch.zeros(4),
        GaussianNoise(1.0),
        rho=0.2,
        replicas=1,
        n=400,
        two_sided=True,
    )


def rate_over(**change):
    given = {"prompts": 3, "unperturbed": 1, "successes": 20, "n": 400, "replicas": 5, "alpha": 1e-3}
    return RateOver(**given | {"two_sided": True, "rhos": (0.1,), "seed": 0} | change)


def legend(figure) -> list[str]:
    return [text.get_text().replace("\n", " ") for box in figure.legends for text in box.get_texts()]


def words(figure) -> list[str]:
    """Everything that is written inside frames."""
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def everything(curves, event):
    """What draws one of every kind, with words that are as bad as can be."""
    tokens = [HOSTILE, "circle</w>", "<|endoftext|>"]
    e = Ellipsoid(torch.tensor([[0.0, 0.1], [2.0, 2.0], [0.0, 0.0]]), 0.5)
    return {
        "curve": lambda: plot_curve(*curves, title=HOSTILE, labels=[HOSTILE] * 3, removal=7.0, removal_label=HOSTILE),
        "rates": lambda: plot_event_rates(event, rate_over(), title=HOSTILE, labels=[HOSTILE] * 2, undefended=1.0),
        "fraction": lambda: plot_certified_fraction(
            [0.0, 1.0, math.inf], title=HOSTILE, labels=[HOSTILE], tolerance=HOSTILE
        ),
        "ellipsoid": lambda: plot_ellipsoid(e, tokens, nearest=[None, 0.7, None], std=0.3, title=HOSTILE),
        "noise": lambda: plot_token_noise(
            tokens, [0.1, 2.0, 0.0], [0.2, 0.9, None], covered=[0, 1, None], rho=1, title=HOSTILE
        ),
        "relevance": lambda: plot_relevance(tokens, [-0.1, 0.9, None], concept=HOSTILE, title=HOSTILE),
    }


def test_points_are_the_bounds_and_abstentions_have_a_row_of_their_own(curves):
    strip, axes = plot_curve(curves[0]).axes
    (line,), (silent,) = axes.get_lines(), strip.get_lines()
    assert list(line.get_xdata()) == [0.5, 1.0]
    assert list(line.get_ydata()) == list(curves[0].values[:2])
    assert math.isinf(curves[0].values[2])
    assert list(silent.get_xdata()) == [4.0]
    assert [tick.get_text() for tick in strip.get_yticklabels()] == ["no bound"]
    both = plot_curve(*curves[:2]).axes[0].get_lines()
    assert len({tuple(line.get_ydata()) for line in both}) == 2  # one does not cover the other


def test_a_curve_of_abstentions_only_says_so(curves):
    silent = replace(curves[0], points=curves[0].points[2:])
    figure = plot_curve(silent)
    assert words(figure) == ["nothing is certified at any of these radii"]
    assert list(figure.axes[0].get_lines()[0].get_xdata()) == [4.0]


def test_pointwise_and_simultaneous_are_drawn_differently(curves):
    at_once, by_itself = plot_curve(*curves[:2]).axes[-1].get_lines()
    assert (at_once.get_linestyle(), by_itself.get_linestyle()) != ("-", "-")
    assert at_once.get_linestyle() == "-"
    assert by_itself.get_markerfacecolor() == "white" != at_once.get_markerfacecolor()
    assert ["all points at once" in name for name in legend(plot_curve(*curves[:2]))] == [True, False]
    assert "all points at once" in plot_curve(curves[0]).axes[-1].get_xlabel()


def test_the_best_method_lies_below_those_it_was_chosen_from(curves):
    plain, best = plot_curve(curves[0], curves[2]).axes[-1].get_lines()
    assert best.get_zorder() < plain.get_zorder()
    assert best.get_linewidth() > 3 * plain.get_linewidth()
    assert plot_curve(curves[2]).axes[-1].get_lines()[0].get_linewidth() == plain.get_linewidth()  # alone: as any other


def test_the_removal_distance_is_a_level_line_and_attacks_are_marks_without_one(curves):
    figure = plot_curve(
        curves[0], removal=7.5, removal_label="to beat", attacks=[(0.5, 0.25), (1.0, 1.0)], attacks_label="found"
    )
    line, attacks, level = figure.axes[-1].get_lines()
    assert set(level.get_ydata()) == {7.5}
    assert (list(attacks.get_xdata()), list(attacks.get_ydata())) == ([0.5, 1.0], [0.25, 1.0])
    assert attacks.get_linestyle() == "None"
    assert legend(figure) == ["coordinatewise (T2)", "found", "to beat: 7.5"]
    assert line.get_ydata()[0] > 0.25


def test_numbers_of_a_logarithmic_axis_are_words(curves):
    figure = plot_curve(curves[0], removal=1e7, log=True)
    figure.draw_without_rendering()
    said = [tick.get_text() for tick in figure.axes[-1].get_yticklabels()]
    assert {"1", "1,000", "10⁶"} & set(said)
    assert not any("$" in text for text in said)


def test_certified_rates_of_one_prompt_and_of_several(event):
    figure = plot_event_rates(event, rate_over(), largest=0.5)
    lines = figure.axes[0].get_lines()
    drawn = [dict(zip(line.get_xdata(), line.get_ydata(), strict=True)) for line in lines]
    assert drawn[0][0.25] == event.at(0.25)
    assert drawn[1][0.0] == pytest.approx(event_bound_at_zero(event))
    assert (drawn[2][0.25], drawn[3][0.25]) == (rate_over().at(0.25), rate_over().least(0.25))
    assert "mean of 3 prompts, 1 without noise, 5 noisy copies" in legend(figure)[2]
    dashes = [line.get_linestyle() if line.is_dashed() else "-" for line in lines]
    assert len({(line.get_color(), style) for line, style in zip(lines, dashes, strict=True)}) == 3  # T15's, too
    one, told = plot_event_rates(rate_over(two_sided=False)).axes[0].get_lines()
    assert (one.get_ydata()[0], told.get_ydata()[0]) == (rate_over(two_sided=False).at(0.0), 0.0)
    assert told.get_ydata()[-1] == indistinguishability(rho=1.0, replicas=5).total_variation
    assert "T15" in told.get_label()


def test_means_of_events_are_drawn_and_other_means_are_not():
    def fires(z, generator):
        return torch.rand(len(z), generator=generator) < torch.where(z.mean(dim=(1, 2)) > 0, 0.2, 0.05)

    how = {"rho": 0.2, "replicas": 5, "repeats": 2, "n": 200, "two_sided": True}
    bound = event_bound(fires, torch.zeros(2), GaussianNoise(1.0), **how)
    lines = plot_event_rates(bound, largest=0.5).axes[0].get_lines()
    above, still, below, told = (dict(zip(one.get_xdata(), one.get_ydata(), strict=True)) for one in lines)
    assert above[0.25] == bound.at(0.25)
    assert above[0.25] < still[0.25] == bound.held.of_t5(bound.run.noise, 0.25)  # T5 beside it
    assert below[0.25] == bound.interval(0.25)[0] == bound.least(0.25)
    assert told[0.25] == indistinguishability(rho=0.25, replicas=5).total_variation
    assert lines[0].get_label().startswith("certified (T14), 5 noisy copies (200\u00a0×\u00a02 values")
    assert lines[1].get_label() == "by T5 alone, 5 noisy copies"
    uniform = event_bound(fires, torch.zeros(2), UniformNoise(1.0), rho=0.2, replicas=5, repeats=2, n=200)
    assert len(plot_event_rates(uniform).axes[0].get_lines()) == 2  # T15 is about Gaussian noise
    score = mean_bound(lambda z: z.mean(dim=(1, 2)).sigmoid(), torch.zeros(2), GaussianNoise(1.0), rho=0.2, n=200)
    with pytest.raises(ValueError, match="must bound a probability from above"):
        plot_event_rates(score)


def event_bound_at_zero(event):
    """The lower Clopper–Pearson limit at half of α."""
    from scipy.stats import beta

    return beta.ppf(event.alpha / 2, event.successes, event.n - event.successes + 1)


def test_attacks_stand_beside_one_another_with_their_limits(event):
    marks = [[(0.25, 0.2, 0.1, 0.3)], [(0.25, 0.0, 0.0, 0.1)]]
    axes = plot_event_rates(event, rate_over(), attacks=marks).axes[0]
    bars = axes.containers
    places = [bar.lines[0].get_xdata()[0] for bar in bars]
    assert places[0] < 0.25 < places[1]
    assert [bar.lines[0].get_ydata()[0] for bar in bars] == [0.2, 0.0]


def test_the_certified_fraction_falls_after_each_radius():
    axes = plot_certified_fraction([0.0, 1.0, 2.0, 2.0]).axes[0]
    (line,) = axes.get_lines()
    assert [list(line.get_xdata()), list(line.get_ydata())] == [
        [0.0, 1.0, 2.0, 2.0, 2.1],
        [0.75, 0.75, 0.5, 0.0, 0.0],
    ]
    assert [mark.get_ydata()[0] for mark in plot_certified_fraction([1.0, math.inf]).axes[0].get_lines()[1:]] == [0.5]
    assert words(plot_certified_fraction([0.0])) == ["no prompt has a certified radius"]


def heights(axes) -> list[float]:
    return [bar.get_y() + bar.get_height() for bar in axes.patches]


def test_token_noise_bars():
    axes = plot_token_noise(["a", "circle"], [0.1, 2.0], [None, -0.9], std=0.3).axes[0]
    assert heights(axes) == pytest.approx([0.1, 2.0])
    assert words(axes.figure) == ["0.1", "2\n(−0.9)"]
    assert words(plot_token_noise(["a"], [0.0], [None])) == ["no\nnoise"]


def test_semi_axes_are_those_of_the_ellipsoid():
    e = Ellipsoid(torch.tensor([[0.0, 0.0], [1.0, 3.0], [2.0, 2.0], [0.0, 4.0]]), 0.5)
    figure = plot_ellipsoid(e, ["begin", "a", "circle", "b"], nearest=[None, 1.0, 0.4, None])
    assert heights(figure.axes[0]) == pytest.approx([1.5, 0.5, 1.0, 1.0, 2.0, 2.0])  # longest, shortest
    assert words(figure) == ["no\nextent", "1.5", "1", "2\nin part"]
    assert [line.get_ydata()[0] for line in figure.axes[0].get_lines()] == [1.0, 0.4]
    assert legend(figure)[:2] == ["shortest semi-axis", "longest semi-axis"]


@pytest.mark.parametrize(
    ("rho", "said"), [(0.0, ["no\nextent", "ρ = 0: nothing is certified"]), (math.inf, ["∞"]), (1.0, ["2"])]
)
def test_ellipsoids_of_any_size(rho, said):
    figure = plot_ellipsoid(Ellipsoid(torch.full((1, 5), 2.0), rho), ["circle"])
    assert words(figure) == said
    assert all(math.isfinite(limit) for limit in figure.axes[0].get_ylim())


def test_what_certified_radius_returns_is_drawn():
    r = certified_radius(lambda z: z, torch.zeros(2, 3), GaussianNoise(1.0), tolerance=40.0, n=500)
    (patch, _) = plot_ellipsoid(r, ["a", "b"]).axes[0].patches[:2]
    assert patch.get_y() + patch.get_height() == pytest.approx(r.rho)


def boxes(figure) -> list:
    """The boxes of tokens: they have the height of a token."""
    return [p for p in figure.axes[0].patches if p.get_height() == pytest.approx(0.24)]


def test_tokens_are_as_dark_as_they_are_relevant():
    found = boxes(plot_relevance(["a</w>", "cir", "cle</w>", "end"], [0.1, 0.9, 0.5, None]))
    light = [sum(to_rgb(box.get_facecolor())) for box in found]
    assert light[1] < light[2] < light[0] < light[3] == 3
    gaps = [b.get_x() - a.get_x() - a.get_width() for a, b in itertools.pairwise(found)]
    assert gaps[1] == pytest.approx(0)  # one word
    assert min(gaps[0], gaps[2]) > 0.05
    assert found[3].get_linestyle() != found[0].get_linestyle()


def test_numbers_stand_below_tokens_and_at_the_scale():
    said = words(plot_relevance(["a", "b"], [-0.25, 0.75], concept="circle"))
    assert said == ["a", "−0.25", "b", "+0.75", "−0.25", "+0.25", "+0.75", "relevance to circle"]
    fixed = boxes(plot_relevance(["a", "b"], [0.5, 2.0], limits=(0.0, 1.0)))
    assert to_rgb(fixed[0].get_facecolor()) == to_rgb(colours.over_white(0.5))
    assert to_rgb(fixed[1].get_facecolor()) == to_rgb(colours.over_white(1.0))
    assert words(plot_relevance(["a"], [None]))[-1] == "no token was scored"


@pytest.mark.parametrize("width", [style.ONE_COLUMN, style.TWO_COLUMNS])
def test_a_full_context_is_wrapped_into_lines(width):
    tokens = [f"token{i}</w>" for i in range(77)]
    found = boxes(plot_relevance(tokens, [i / 77 for i in range(77)], width=width))
    assert len(found) == 77
    assert max(box.get_x() + box.get_width() for box in found) <= width
    assert len({round(box.get_y(), 6) for box in found}) > 4
    for figure in (
        plot_token_noise(tokens, [0.1] * 77, [0.5] * 77, width=width),
        plot_ellipsoid(Ellipsoid(torch.full((77, 4), 0.1), 1.0), tokens, width=width),
    ):
        assert figure.get_figwidth() <= width
        assert sum(len(heights(axes)) for axes in figure.axes) in (77, 2 * 77)


def test_nothing_is_cut_off_and_the_legend_covers_no_frame(curves, event, tmp_path):
    for name, drawn in everything(curves, event).items():
        figure = drawn()
        figure.savefig(tmp_path / f"{name}.png")
        renderer = figure.canvas.get_renderer()
        whole = figure.bbox
        for box in figure.legends:
            extent = box.get_window_extent(renderer)
            assert extent.x1 <= whole.x1 + 1, name
            assert extent.y0 >= -1, name
            for axes in figure.axes:
                assert not extent.overlaps(axes.get_window_extent(renderer)), name
        for axes in figure.axes:
            title = axes.title.get_window_extent(renderer) if axes.get_title() else None
            left = axes._left_title.get_window_extent(renderer) if axes.get_title("left") else title
            if left is not None:
                assert left.x1 <= whole.x1 + 1, name
                assert left.y1 <= whole.y1 + 1, name
        edge = np.asarray(Image.open(tmp_path / f"{name}.png").convert("L"))
        assert min(edge[:2].min(), edge[-2:].min(), edge[:, :2].min(), edge[:, -2:].min()) == 255, name


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_the_same_figure_is_the_same_bytes(curves, event, suffix, tmp_path: Path):
    for name in ("curve", "relevance"):
        files = [tmp_path / f"{name}{i}.{suffix}" for i in (0, 1)]
        for file in files:
            everything(curves, event)[name]().savefig(file)
        first, second = (file.read_bytes() for file in files)
        assert first == second
        assert len(first) > 5000
        assert not re.search(rb"matplotlib.org|Matplotlib v|20\d\d-\d\d-\d\d", first)


def test_letters_of_an_svg_are_paths_and_its_title_is_kept(curves, tmp_path):
    plot_curve(curves[0], title="two $ and <b>").savefig(tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text(encoding="utf-8")
    assert "<text" not in text
    assert "<dc:title>two $ and &lt;b&gt;</dc:title>" in text


def test_no_global_state_is_read_or_changed(curves, event, tmp_path):
    def made(folder):
        folder.mkdir()
        for name, drawn in everything(curves, event).items():
            drawn().savefig(folder / f"{name}.png")
        return [file.read_bytes() for file in sorted(folder.iterdir())]

    before = dict(matplotlib.rcParams)
    plain = made(tmp_path / "plain")
    assert dict(matplotlib.rcParams) == before
    with matplotlib.rc_context(
        {"font.size": 20, "lines.linewidth": 7, "axes.facecolor": "black", "savefig.dpi": 40, "text.usetex": True}
    ):
        assert made(tmp_path / "styled") == plain
    assert dict(matplotlib.rcParams) == before
    assert warnings.filters  # and the filters are put back, or the next line would be silent
    with pytest.raises(UserWarning):
        warnings.warn("Glyph 1 missing from font", UserWarning, stacklevel=1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c, e: plot_curve(), "curves = "),
        (lambda c, e: plot_curve(c, labels=["a", "b"]), "labels = .*must be 1 entries, one a curve"),
        (lambda c, e: plot_curve(c, removal=math.inf), "removal = inf"),
        (lambda c, e: plot_curve(c, attacks=[(0.5, math.nan)]), "attacks hold"),
        (lambda c, e: plot_event_rates(), "bounds = "),
        (lambda c, e: plot_event_rates(e, attacks=[[], []]), "attacks has 2 entries: must be 1"),
        (lambda c, e: plot_event_rates(e, labels=[]), "labels = "),
        (lambda c, e: plot_event_rates(e, largest=0.0), "largest = 0.0"),
        (lambda c, e: plot_event_rates(e, undefended=1.5), "undefended = 1.5"),
        (lambda c, e: plot_certified_fraction(), "radii = "),
        (lambda c, e: plot_certified_fraction([1.0, math.nan]), "radii = "),
        (lambda c, e: plot_certified_fraction([1.0], labels=[]), "labels = "),
        (lambda c, e: plot_ellipsoid(Ellipsoid(torch.ones(3), 1.0), ["a"]), r"certified has shape \(3,\)"),
        (lambda c, e: plot_ellipsoid(Ellipsoid(torch.ones(1), 1.0), ["a"], nearest=[]), "nearest = "),
        (lambda c, e: plot_token_noise([], [], []), "must be as many, not 0"),
        (lambda c, e: plot_token_noise(["a"], [-1.0], [None]), "sigma = "),
        (lambda c, e: plot_token_noise(["a"], [1.0], [None], covered=[]), "covered = "),
        (lambda c, e: plot_relevance(["a"], [0.1, 0.2]), "tokens, relevance have 1, 2"),
        (lambda c, e: plot_relevance(["a"], [math.inf]), "relevance = "),
        (lambda c, e: plot_relevance(["a"], [0.1], limits=(1.0, 0.0)), "limits = "),
        (lambda c, e: plot_curve(c).savefig("curve.jpg"), r"fname = 'curve.jpg': must end in .png, .svg or .pdf"),
    ],
)
def test_bad_calls(call, message, curves, event):
    with pytest.raises(ValueError, match=message):
        call(curves[0], event)


def test_what_is_no_ellipsoid_is_refused():
    with pytest.raises(TypeError, match="certified is a float: must be an Ellipsoid"):
        plot_ellipsoid(1.0, ["a"])


@pytest.fixture(scope="module")
def certificate(curves, event):
    """One with everything that can be drawn."""
    curve = bound_curve(lambda z: z, torch.zeros(3, 2), GaussianNoise(1.0), rhos=[0.5, 1.0], n=500)
    found = event_bound(lambda z: z.mean(dim=(1, 2, 3)) > 0.4, torch.zeros(3, 2), GaussianNoise(1.0), rho=0.2, n=400)
    noise = {"tokens": ["<|startoftext|>", "circle</w>", "<|endoftext|>"], "kinds": ["begin", "word", "padding"]}
    near = {"position": 1, "sigma": 2.0, "rho": 1.0, "share": 0.5, "nearest": {"token": "disc", "distance": 0.25}}
    near |= {"members": [near["nearest"]], "leaving": [{"token": "box</w>", "distance": 1.5}]}
    return Certificate.of(
        curve,
        found,
        provenance={
            "prompt": "a circle",
            "token_noise": {**noise, "sigma": [0.0, 2.0, 0.0], "relevance": [None, 0.9, None]},
            "token_spread": 0.3,
            "coverage": [near],
            "yardstick": {"distance": 7.0, "word": "circle", "position": 1},
        },
    )


def test_every_figure_of_a_saved_certificate(certificate, tmp_path):
    loaded = Certificate.load(certificate.save(tmp_path / "certificate"))
    drawn = {what: plots.figure(loaded, what, width=style.ONE_COLUMN) for what in CERTIFICATE}
    titles = {what: figure.axes[0].get_title("left") for what, figure in drawn.items()}
    assert set(titles.values()) == {"a circle"}
    assert list(drawn["curve"].axes[-1].get_lines()[0].get_ydata()) == list(certificate.curve.values)
    assert [line.get_ydata()[0] for line in drawn["ellipsoid"].axes[0].get_lines()][:1] == [0.5]  # 0.25 of σ = 2
    assert heights(drawn["noise"].axes[0])[1] == pytest.approx(2.0)
    assert len(boxes(drawn["relevance"])) == 2  # without the padding
    levels = drawn["levels"].axes[0]
    assert [tick.get_text() for tick in levels.get_yticklabels()] == ["disc", "box"]
    assert [list(line.get_xdata()) for line in levels.get_lines() if line.get_marker() != "None"] == [[0.25], [1.5]]
    assert list(levels.get_lines()[-1].get_xdata()) == [1.0, 1.0]
    assert plots.figure(loaded, "rate").axes[0].get_lines()[0].get_ydata()[0] == loaded.event(loaded.claims[-1]).at(0.0)


@pytest.mark.parametrize(
    ("what", "change", "message"),
    [
        ("scatter", {}, "what = 'scatter': must be one of curve, rate"),
        ("noise", {"token_noise": None}, "is not one of a prompt"),
        ("noise", {"token_noise": {"kinds": ["word"], "sigma": [], "relevance": []}}, "different lengths"),
        ("ellipsoid", {"token_noise": {"kinds": "abc"}}, "cannot be drawn"),
        ("curve", {"yardstick": {"distance": "far"}}, "could not convert|cannot be drawn"),
    ],
)
def test_what_a_certificate_cannot_show_is_said(certificate, what, change, message):
    with pytest.raises(ValueError, match=message):
        plots.figure(replace(certificate, provenance={**certificate.provenance, **change}), what)
    bare = replace(certificate, claims=certificate.claims[:1])
    with pytest.raises(ValueError, match="holds no certified event"):
        plots.figure(bare, "rate")


def luminance(colour: str) -> float:
    """Relative luminance of sRGB."""
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in to_rgb(colour)]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def test_series_and_scale_do_without_colour():
    """Lines differ in marker and dashes, not in colour alone; the scale gets darker all the way."""
    many = [colours.series(i) for i in range(3 * len(colours.SERIES))]
    assert len(set(many)) == len(many)
    first = many[: len(colours.SERIES)]
    assert len({s.marker for s in first}) == len({s.dashes for s in first}) == len(first)
    scale = [luminance(colours.over_white(i / 20)) for i in range(21)]
    assert all(b < a - 0.01 for a, b in itertools.pairwise(scale))
    assert (luminance(colours.over_white(1.0)) + 0.05) / 0.05 > 8  # black letters on the darkest box
    assert all(1.05 / (luminance(colours.ink(s.colour)) + 0.05) > 4.5 for s in first)
    assert colours.over_white(None) == "#ffffff"
    assert colours.shares([], log=True) == []
    assert colours.shares([0.0, 2.0, 2.0], log=True) == [None, 1.0, 1.0]
