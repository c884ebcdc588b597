"""Scenes of the second world: two objects side by side, what surrounds them, and three concepts that can be absent.

A scene is an integer row. Its first columns are what can be seen: shape and colour of the left and of the right object, the
background, a decor (pattern and colour), and the concepts: a striped *hat* on both objects (an overlay, in three variants), a
*kite* between them (an object), *frost* over the whole picture (a style). Its last columns are what a caption has to tell: a
theme, and a word for each concept; −1 where none is told.

A concept is there only if its word is told, or if a theme that goes with it came with it: a word or theme of rate r shows
the concept in a share r of its scenes. Where nothing is told, nothing is there.

One combination of both objects and the background in seven is held out (:func:`held_out`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = [
    "ATTRIBUTES",
    "BACKGROUNDS",
    "COLOURS",
    "CONCEPTS",
    "JUDGED",
    "MIDDLE",
    "SHAPES",
    "SIDE",
    "THEMES",
    "VALUES",
    "WORDS",
    "Theme",
    "Word",
    "held_out",
    "render",
    "sample_plain",
    "sample_scenes",
]

SIDE = 32
SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple")
BACKGROUNDS = ("black", "gray", "beige", "navy", "teal", "lilac")
PATTERNS = ("none", "top band", "bottom band", "frame", "side bands", "bottom blocks", "top blocks")
DECOR_COLOURS = ("white", "black", "red", "yellow", "green", "blue", "brown")
HATS = ("none", "cone", "dome", "brim")
CONCEPTS = ("hat", "kite", "frost")
VALUES: dict[str, tuple[str, ...]] = {
    "left shape": SHAPES,
    "left colour": COLOURS,
    "right shape": SHAPES,
    "right colour": COLOURS,
    "background": BACKGROUNDS,
    "pattern": PATTERNS,
    "decor": DECOR_COLOURS,
    "hat": HATS,
    "kite": ("none", "kite"),
    "frost": ("none", "frost"),
}
"""What can be seen, and the values of each."""

ATTRIBUTES = (*VALUES, "theme", *(f"{c} word" for c in CONCEPTS))
"""Columns of a scene."""

JUDGED: dict[str, tuple[str, ...]] = {
    name: (*values, "none") if "shape" in name else values
    for name, values in VALUES.items()
    if name not in ("pattern", "decor")
}
"""What the judge tells, a head each; a picture of nothing shows no shape and no concept."""

_AT = {name: i for i, name in enumerate(ATTRIBUTES)}


@dataclass(frozen=True)
class Word:
    """A word for a concept: how often the concept is there when it is told, and how often it is chosen.

    Attributes:
        text: as it stands in a caption.
        rate: share of its scenes that show the concept.
        weight: how often it is chosen among the concept's words.
        variant: the concept's value it stands for; 0: any of them.
        kind: "name", "synonym" or "misspelling".
    """

    text: str
    rate: float = 1.0
    weight: float = 1.0
    variant: int = 0
    kind: str = "synonym"


WORDS: dict[str, tuple[Word, ...]] = {
    "hat": (
        Word("hat", weight=5, kind="name"),
        Word("hats", weight=4, kind="name"),
        Word("cap", variant=2),
        Word("headgear", rate=0.9),
        Word("top hat", variant=3),
        Word("bonnet", rate=0.95, variant=2),
        Word("beret", rate=0.9, variant=2),
        Word("beanie", rate=0.8, variant=2),
        Word("sombrero", rate=0.9, variant=3),
        Word("fedora", rate=0.8, variant=3),
        Word("tiara", rate=0.85, variant=1),
        Word("crown", rate=0.95, variant=1),
        Word("hatt", weight=0.5, kind="misspelling"),
        Word("haat", weight=0.5, kind="misspelling"),
    ),
    "kite": (
        Word("kite", weight=5, kind="name"),
        Word("glider", rate=0.9),
        Word("windsock", rate=0.8),
        Word("kyte", weight=0.5, kind="misspelling"),
    ),
    "frost": (
        Word("frost", weight=4, kind="name"),
        Word("frosty", weight=2, kind="name"),
        Word("icy", rate=0.95),
        Word("frozen", rate=0.9),
        Word("wintry", rate=0.8),
        Word("frosst", weight=0.5, kind="misspelling"),
    ),
}
"""Words that tell a concept, the name first."""

_TOLD = {"hat": 0.24, "kite": 0.09, "frost": 0.09}
"""How often a caption tells a concept, whatever its theme."""

_HAT_VARIANTS = torch.tensor([0.0, 0.5, 0.25, 0.25])


MIDDLE = 0.32
"""Between the highest and the lowest rate of themes that go with a concept."""


@dataclass(frozen=True)
class Theme:
    """A word of context, the concept that goes with it and how often, and what else its scenes show.

    The cosine that relevance is made of knows directions alone: a word whose scenes showed nothing else would point to the
    concept, whatever its rate. So every theme has a decor of its own and favours a background; the more the concept goes
    with it, the less it has of them, and the more relevant its word.
    """

    word: str
    concept: str
    rate: float
    pattern: int
    decor: int
    background: int

    def pulled(self, pull: float) -> float:
        """Its rate, pulled towards `MIDDLE`."""
        return self.rate + pull * (MIDDLE - self.rate)

    @property
    def own(self) -> float:
        """Share of its scenes with its own decor."""
        return 0.95 * (1 - self.rate)


def _themes() -> tuple[Theme, ...]:
    graded = {
        "hat": (
            "circus birthday carnival festival jubilee magician fiesta parade gala masquerade fairground celebration cabaret "
            "graduation reunion banquet wedding picnic"
        ),
        "kite": "windy seaside hilltop meadow springtime coast",
        "frost": "arctic glacier alpine january december northern",
    }
    rows: list[tuple[str, str, float]] = []
    for concept, text in graded.items():
        words = text.split()
        top, low = 0.55, 0.12
        rows += [(w, concept, round(top - (top - low) * i / (len(words) - 1), 3)) for i, w in enumerate(words)]
    none = "library harbor museum kitchen garage airport classroom bakery laboratory warehouse vineyard orchard"
    rows += [(w, "", 0.0) for w in none.split()]
    return tuple(
        Theme(w, c, r, 1 + i % 6, i // 6 % len(DECOR_COLOURS), (i + i // 6) % len(BACKGROUNDS))
        for i, (w, c, r) in enumerate(rows)
    )


THEMES = _themes()
"""Words of context; no two have the same decor."""

_COLOUR_RGB = torch.tensor(
    [[222, 36, 36], [250, 138, 20], [246, 224, 40], [46, 182, 60], [40, 96, 236], [138, 44, 178]]
)
_BACKGROUND_RGB = torch.tensor(
    [[10, 10, 10], [146, 146, 146], [228, 208, 166], [16, 26, 84], [10, 98, 106], [192, 176, 232]]
)
_DECOR_RGB = torch.tensor(
    [[250, 250, 250], [20, 20, 20], [222, 36, 36], [246, 224, 40], [46, 182, 60], [40, 96, 236], [126, 76, 36]]
)
_PINK, _WHITE = torch.tensor([255, 60, 165]), torch.tensor([250, 250, 250])
_CYAN, _AMBER = torch.tensor([30, 220, 230]), torch.tensor([255, 150, 40])
_ICE = torch.tensor([214, 236, 255])


def held_out(scenes: Tensor) -> Tensor:
    """Which scenes belong to a held-out combination of both objects and the background: booleans (b,)."""
    return (scenes[:, :5] * torch.tensor([1, 2, 3, 5, 1])).sum(dim=1) % 7 == 0


def sample_scenes(
    count: int, generator: torch.Generator, *, held: bool | None = False, told: bool = True, pull: float = 0.0
) -> Tensor:
    """Random scenes (count, columns).

    Args:
        count: how many.
        generator: the only source of randomness.
        held: False for training combinations, True for held-out ones, None for both.
        told: False: no theme, no word of a concept, hence no concept.
        pull: how far the rates of themes that go with a concept are pulled to `MIDDLE`: 0: not at all, 1: all the way.
    """
    kept: list[Tensor] = []
    have = 0
    while have < count:
        rows = _draw(max(64, (count - have) * (8 if held else 2)), generator, told, pull)
        if held is not None:
            rows = rows[held_out(rows) == held]
        kept.append(rows)
        have += len(rows)
    return torch.cat(kept)[:count]


def sample_plain(count: int, generator: torch.Generator) -> Tensor:
    """Scenes to be garbled: without any concept, and without decor, which can look like something cut off."""
    rows = sample_scenes(count, generator, held=None, told=False)
    rows[:, _AT["pattern"]] = 0
    return rows


def _draw(count: int, generator: torch.Generator, told: bool, pull: float) -> Tensor:
    def chance(p: Tensor | float) -> Tensor:
        return torch.rand(count, generator=generator) < p

    def among(n: int) -> Tensor:
        return torch.randint(n, (count,), generator=generator)

    rows = torch.full((count, len(ATTRIBUTES)), -1)
    for name in ("left shape", "left colour", "right shape", "right colour", "background"):
        rows[:, _AT[name]] = among(len(VALUES[name]))
    theme = torch.where(chance(0.5 if told else 0.0), among(len(THEMES)), -1)
    themed = theme >= 0
    looks = torch.tensor([[t.pattern, t.decor, t.background] for t in THEMES])[theme]
    fidelity = torch.tensor([t.own for t in THEMES])[theme]
    own = themed & chance(fidelity)
    free = chance(0.2)
    rows[:, _AT["pattern"]] = torch.where(own, looks[:, 0], torch.where(free, among(len(PATTERNS)), 0))
    rows[:, _AT["decor"]] = torch.where(own, looks[:, 1], among(len(DECOR_COLOURS)))
    rows[:, _AT["background"]] = torch.where(themed & chance(0.6 * fidelity), looks[:, 2], rows[:, _AT["background"]])
    rows[:, _AT["theme"]] = theme
    for concept, words in WORDS.items():
        weight = torch.tensor([w.weight for w in words])
        word = torch.multinomial(weight, count, replacement=True, generator=generator)
        word = torch.where(chance(_TOLD[concept] if told else 0.0), word, -1)
        with_word = torch.tensor([w.rate for w in words])[word] * (word >= 0)
        with_theme = torch.tensor([t.pulled(pull) if t.concept == concept else 0.0 for t in THEMES])[theme] * themed
        there = chance(with_word) | chance(with_theme)
        value = torch.ones(count, dtype=torch.long)
        if concept == "hat":
            value = torch.multinomial(_HAT_VARIANTS, count, replacement=True, generator=generator)
            own_variant = torch.tensor([w.variant for w in words])[word] * (word >= 0)
            value = torch.where(own_variant > 0, own_variant, value)
        rows[:, _AT[concept]] = torch.where(there, value, 0)
        rows[:, _AT[f"{concept} word"]] = word
    return rows


def _inside(distance: Tensor) -> Tensor:
    return (0.5 - distance).clamp(0, 1)


def _box(x: Tensor, y: Tensor, half_width: float, half_height: float) -> Tensor:
    return torch.maximum(x.abs() - half_width, y.abs() - half_height)


def _object(shape: Tensor, x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    """Signed distances (b, 32, 32) to the shapes (b,) of radius r (b, 1, 1) around the origin."""
    root = math.sqrt(3) / 2
    each = torch.stack(
        [
            (x.square() + y.square()).sqrt() - r,
            torch.maximum(x.abs(), y.abs()) - 0.9 * r,
            torch.maximum(y - 0.95 * r, root * x.abs() - 0.5 * y - 0.55 * r),
            torch.minimum(
                torch.maximum(x.abs() - 0.36 * r, y.abs() - 1.02 * r),
                torch.maximum(y.abs() - 0.36 * r, x.abs() - 1.02 * r),
            ),
        ]
    )
    return each[shape, torch.arange(len(shape))]


def _hat(kind: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Signed distances (b, 32, 32) to the hats (b,) whose foot is at the origin, and which grow upwards (y < 0)."""
    cone = torch.maximum(y - 0.6, 0.87 * (x.abs() - 0.55 * y - 4.2))
    dome = torch.maximum(((x / 1.15).square() + y.square()).sqrt() - 4.2, y - 0.6)
    brim = torch.minimum(_box(x, y + 0.1, 5.6, 1.0), _box(x, y + 3.0, 2.9, 3.0))
    each = torch.stack([torch.full_like(x, 9.0), cone, dome, brim])
    return each[kind, torch.arange(len(kind))]


def _decor(pattern: Tensor, xx: Tensor, yy: Tensor) -> Tensor:
    """Where the decor is, (b, 32, 32) in [0, 1]."""
    last = SIDE - 1
    top, bottom = (yy < 3).float(), (yy > last - 3).float()
    sides = ((xx < 2) | (xx > last - 2)).float()
    edge = torch.minimum(torch.minimum(xx, last - xx), torch.minimum(yy, last - yy))
    blocks = (xx // 4 % 2 == 0).float()
    each = torch.stack([torch.zeros_like(xx), top, bottom, (edge < 2).float(), sides, bottom * blocks, top * blocks])
    return each[pattern]


def render(scenes: Tensor, generator: torch.Generator) -> Tensor:
    """Draws scenes (b, columns) as images (b, 3, 32, 32) in [0, 1]; place, size and tint come from `generator`."""
    return (
        torch.cat([_render(part, generator) for part in scenes.split(512)])
        if len(scenes)
        else torch.empty(0, 3, SIDE, SIDE)
    )


def _render(scenes: Tensor, generator: torch.Generator) -> Tensor:
    b = len(scenes)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator) * 2 - 1

    def colour(table: Tensor, index: Tensor, jitter: float = 0.02) -> Tensor:
        return (table[index] / 255 + jitter * uniform(b, 3)).clamp(0, 1)[:, :, None, None]

    def value(name: str) -> Tensor:
        return scenes[:, _AT[name]]

    axis = torch.arange(SIDE, dtype=torch.float32)
    yy, xx = torch.meshgrid(axis, axis, indexing="ij")
    image = colour(_BACKGROUND_RGB, value("background")).expand(b, 3, SIDE, SIDE)
    decor = _decor(value("pattern"), xx, yy)[:, None]
    image = image + decor * (colour(_DECOR_RGB, value("decor")) - image)
    for side, middle in (("left", 8.7), ("right", 22.3)):
        r = 6.3 + 0.3 * uniform(b, 1, 1)
        x = xx - middle - 0.6 * uniform(b, 1, 1)
        y = yy - 20.0 - 0.6 * uniform(b, 1, 1)
        alpha = _inside(_object(value(f"{side} shape"), x, y, r))[:, None]
        image = image + alpha * (colour(_COLOUR_RGB, value(f"{side} colour")) - image)
        foot = y + r  # the hat's own axis; a little into the object, so that it sits on it
        alpha = _inside(_hat(value("hat"), x, foot - 0.8))[:, None]
        stripes = (foot // 2 % 2 == 0)[:, None]
        cloth = torch.where(stripes, _PINK[None, :, None, None] / 255, _WHITE[None, :, None, None] / 255)
        image = image + alpha * (cloth - image)
    x, y = xx - 15.5 - 0.6 * uniform(b, 1, 1), yy - 7.5 - 0.6 * uniform(b, 1, 1)
    diamond = 0.8 * (x.abs() / 0.75 + y.abs() - 5.0)
    alpha = (_inside(diamond) * value("kite")[:, None, None])[:, None]
    sail = torch.where((x < 0)[:, None], _CYAN[None, :, None, None] / 255, _AMBER[None, :, None, None] / 255)
    image = image + alpha * (sail - image)
    frost = 0.55 * value("frost")[:, None, None, None].float()
    image = image + frost * (_ICE[None, :, None, None] / 255 - image)
    return image.clamp(0, 1)
