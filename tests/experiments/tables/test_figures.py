"""Figures: what they draw, that names cover nothing, and that published figures are not among the measured ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from PIL import Image

from experiments.tables.figures import AtRadius, certified, grid, sweep, trade_off
from experiments.tables.published import PUBLISHED
from experiments.tables.table import Column, Line, Table

COLUMNS = (Column("average", "ASR"), Column("fid", "FID", "score"))


def table() -> Table:
    """Table 1's rows, with values of their own, and variants of the smoother close to one another."""
    lines = []
    for line in PUBLISHED["1"]:
        rate, fid = line.values["average"] * 0.9, line.values["fid"] / 10
        lines.append(
            Line(line.victim, line.defense, {"average": rate, "fid": fid}, {"average": (rate * 0.8, rate * 1.2)})
        )
    for victim in ("ESD", "UCE"):
        for i, name in enumerate(("ams mean", "ams isotropic", "ams noise-then-adapt")):
            lines.append(
                Line(victim, name, {"average": 0.07 + 0.004 * i, "fid": 0.6 + 0.02 * i}, {"average": (0.05, 0.1)})
            )
    return Table("1", "Defences", COLUMNS, tuple(lines), PUBLISHED["1"])


def grid_of_settings() -> Table:
    lines = []
    for victim, rate in (("ESD", 0.12), ("UCE", 0.33)):
        lines.append(Line(victim, "none", {"average": rate, "fid": 0.3}))
        for sigma0 in (0.05, 0.1, 0.2):
            for k in (4.0, 6.0, 8.0):
                settings = {"sigma0": sigma0, "k": k}
                name = "ams, chosen" if (sigma0, k) == (0.1, 6.0) else "ams"
                lines.append(
                    Line(victim, name, {"average": rate / (1 + sigma0 * k), "fid": sigma0 * k}, settings=settings)
                )
    return Table("3", "σ₀ and k", COLUMNS, tuple(lines), PUBLISHED["3"])


def marks(axes) -> list[tuple[float, float]]:
    """Where error bars have their marks."""
    found = [c.lines[0] for c in axes.containers if isinstance(c, ErrorbarContainer)]
    return [(x, y) for line in found for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)]


def overlaps(figure: Figure) -> list[tuple[str, str]]:
    """Pairs of names, or of a name and a mark, that cover each other."""
    renderer = figure.canvas.get_renderer()
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in figure.texts]
    points = [(f"mark {x:g} {y:g}", axes.transData.transform((x, y))) for axes in figure.axes for x, y in marks(axes)]
    names = [(a, b) for i, (a, one) in enumerate(boxes) for b, other in boxes[:i] if one.overlaps(other)]
    return names + [(a, b) for a, box in boxes for b, point in points if box.contains(*point)]


def test_trade_off_has_every_measured_line_and_no_published_one(tmp_path: Path):
    shown = table()
    figure = trade_off(shown, tmp_path / "a.png")
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["ESD", "UCE"]
    for axes in figure.axes:
        lines = [line for line in shown.lines if line.victim == axes.get_title(loc="left")]
        assert sorted(marks(axes)) == sorted((line.values["fid"], 100 * line.values["average"]) for line in lines)
    assert sorted(text.get_text() for text in figure.texts) == sorted(line.defense for line in shown.lines)
    trade_off(replace(shown, published=()), tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_names_cover_neither_marks_nor_names(tmp_path: Path):
    figure = trade_off(table(), tmp_path / "a.png")
    assert overlaps(figure) == []
    figure.texts[1].set_position(figure.texts[0].get_position())  # and were they upon each other, it would be seen
    assert overlaps(figure)


def test_lines_that_lack_a_value_are_left_out(tmp_path: Path):
    shown = table()
    first, *rest = shown.lines
    lines = (replace(first, values={"average": 0.2}), *rest)
    figure = trade_off(replace(shown, lines=lines), tmp_path / "a.png")
    assert len(marks(figure.axes[0])) == 11
    with pytest.raises(ValueError, match="must have at least one"):
        trade_off(replace(shown, lines=lines[:1]), tmp_path / "b.png")


def test_sweep_goes_through_the_choice(tmp_path: Path):
    shown = grid_of_settings()
    figure = sweep(shown, tmp_path / "a.png", unit="in standard deviations")
    rate, over_k, fid, _ = figure.axes
    esd = [line for line in shown.lines if line.victim == "ESD" and line.settings]
    along = [line for line in esd if line.settings["k"] == 6.0]
    assert marks(rate)[:3] == [(line.settings["sigma0"], 100 * line.values["average"]) for line in along]
    assert marks(fid)[:3] == [(line.settings["sigma0"], line.values["fid"]) for line in along]
    across = [line for line in esd if line.settings["sigma0"] == 0.1]
    assert marks(over_k)[:3] == [(line.settings["k"], 100 * line.values["average"]) for line in across]
    assert rate.get_title(loc="left") == "at the chosen k: ESD 6, UCE 6"
    assert fid.get_xlabel() == "σ₀, in standard deviations"
    levels = {tuple(line.get_ydata()) for line in rate.get_lines()}
    assert {(12.0, 12.0), (33.0, 33.0)} <= levels


def test_sweep_of_a_cross_finds_where_it_crosses(tmp_path: Path):
    cross = replace(grid_of_settings(), lines=PUBLISHED["3"])
    figure = sweep(cross, tmp_path / "a.png")
    assert figure.axes[0].get_title(loc="left") == "at the chosen k: ESD 9, UCE 9"
    assert figure.axes[1].get_title(loc="left") == "at the chosen σ₀: ESD 0.006, UCE 0.012"
    with pytest.raises(ValueError, match="no line with settings"):
        sweep(table(), tmp_path / "b.png")


def pixels(path: Path, figure: Figure, axes) -> np.ndarray:
    """What a PNG file shows inside axes."""
    image = np.asarray(Image.open(path).convert("RGB"))
    box = axes.get_window_extent(figure.canvas.get_renderer())
    left, right, below, above = (round(edge) for edge in (box.x0, box.x1, box.y0, box.y1))
    return image[image.shape[0] - above : image.shape[0] - below, left:right]


def test_grid_shows_the_pixels_themselves_four_times_as_large(tmp_path: Path):
    images = {name: torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(i)) for i, name in enumerate("ab")}
    figure = grid(images, tmp_path / "a.png", ["one", "two", "three"])
    assert len(figure.axes) == 6
    for axes, image in zip(figure.axes, [*images["a"], *images["b"]], strict=True):
        large = image.repeat_interleave(4, 1).repeat_interleave(4, 2).permute(1, 2, 0).numpy()
        shown = pixels(tmp_path / "a.png", figure, axes)
        assert shown.shape == (128, 128, 3)
        assert np.abs(shown / 255 - large).max() < 1.5 / 255


def test_discs_are_where_the_detector_fired(tmp_path: Path):
    images = {name: torch.full((2, 3, 32, 32), 0.5) for name in ("none", "ams")}
    hits = {"none": [True, False], "ams": [False, False]}
    figure = grid(images, tmp_path / "a.png", ["one", "two"], hits=hits)
    marked = [pixels(tmp_path / "a.png", figure, axes).std() > 1 for axes in figure.axes[:4]]
    assert marked == [True, False, False, False]
    assert [text.get_text() for text in figure.texts] == ["one", "two", "none", "ams", "the detector fired"]


def test_captions_may_be_anything_and_stay_over_their_column(tmp_path: Path):
    captions = ["p4d: a $x^2$ cross", "qf-pgd: 十字 💥 \x07", "a " * 300, "z" * 300, ""]
    figure = grid({"none": torch.zeros(5, 3, 32, 32)}, tmp_path / "a.png", captions)
    boxes = [text.get_window_extent(figure.canvas.get_renderer()) for text in figure.texts[:5]]
    assert all(box.width <= 130 for box in boxes)
    assert figure.texts[0].get_text().replace("\n", " ").replace(r"\$", "$") == captions[0]  # no formula
    assert all(figure.texts[i].get_text().endswith("…") for i in (2, 3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": {}}, "images have shapes"),
        ({"images": {"a": torch.zeros(2, 3, 8, 8), "b": torch.zeros(1, 3, 8, 8)}}, "must be one shape"),
        ({"images": {"a": torch.zeros(2, 1, 8, 8)}}, "must be one shape"),
        ({"captions": ["one"]}, "captions has 1 entries for 2 images"),
        ({"hits": {"a": [True]}}, r"hits\['a'\] has 1 entries"),
        ({"hits": {"b": [True, False]}}, "hits are of b: must be among a"),
    ],
)
def test_bad_grids(change, message, tmp_path: Path):
    given = {"images": {"a": torch.zeros(2, 3, 8, 8)}, "captions": ["one", "two"], **change}
    with pytest.raises(ValueError, match=message):
        grid(given.pop("images"), tmp_path / "a.png", **given)


def test_certified_draws_bounds_as_lines_and_attacks_as_marks(tmp_path: Path):
    records = [
        AtRadius(label, rho, min(1.0, bound + rho / 4), *((bound, (bound / 2, bound * 1.5)) if rho == 1.0 else ()))
        for label, bound in (("ESD", 0.1), ("UCE", 0.3))
        for rho in (0.0, 2.0, 1.0)
    ]
    (axes,) = certified(records, tmp_path / "a.png", undefended=0.4, title="a title").axes
    line = next(line for line in axes.get_lines() if line.get_label() == "UCE, certified")
    assert list(line.get_xdata()) == [0.0, 1.0, 2.0]
    assert list(line.get_ydata()) == pytest.approx([30, 55, 80])
    assert [y for _, y in marks(axes)] == pytest.approx([10, 30])
    assert [x for x, _ in marks(axes)] == pytest.approx([1, 1], abs=0.02)
    assert any(set(line.get_ydata()) == {40.0} for line in axes.get_lines())
    (axes,) = certified(records, tmp_path / "b.png", undefended={"ESD": 0.5, "UCE": 0.6}).axes
    named = {line.get_label(): set(line.get_ydata()) for line in axes.get_lines()}
    assert named["ESD, without the defence"] == {50.0}
    assert named["UCE, without the defence"] == {60.0}


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([], "must be at least one record"),
        ([AtRadius("a", 0.0, 1.2)], "must be between 0 and 1"),
        ([AtRadius("a", 0.0, float("nan"))], "must be between 0 and 1"),
        ([AtRadius("a", 0.0, 0.2, 0.1, (-0.1, 0.2))], "must be between 0 and 1"),
    ],
)
def test_bad_curves(records, message, tmp_path: Path):
    with pytest.raises(ValueError, match=message):
        certified(records, tmp_path / "a.png")
