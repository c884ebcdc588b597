"""Scenes: what the embedded world shows, and how it is drawn.

A scene is one coloured shape on a background: six shapes, eight colours, seven backgrounds, four drawing styles, three
sizes. Scenes are integer tensors of shape ``(b, 5)`` whose columns are :data:`ATTRIBUTES`; :func:`render` draws them as
``(b, 3, 32, 32)`` images in [0, 1] with a random place, angle, phase and tint.

One shape × colour × background combination in seven is *held out* (:func:`held_out`): neither CLIP, the autoencoder, the
judge nor the denoiser ever sees one, yet every pair of values of two attributes is seen in training.
"""

from __future__ import annotations

import math

import torch

__all__ = [
    "ATTRIBUTES",
    "BACKGROUNDS",
    "COLOURS",
    "SHAPES",
    "SIDE",
    "SIZES",
    "STYLES",
    "VALUES",
    "held_out",
    "held_out_combinations",
    "render",
    "sample_plain",
    "sample_scenes",
]

SIDE = 32
SHAPES = ("circle", "square", "triangle", "star", "cross", "heart")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown")
BACKGROUNDS = ("white", "black", "gray", "beige", "navy", "teal", "lilac")
STYLES = ("solid", "outlined", "striped", "dotted")
SIZES = ("small", "medium", "large")
VALUES = {"shape": SHAPES, "colour": COLOURS, "background": BACKGROUNDS, "style": STYLES, "size": SIZES}
ATTRIBUTES = tuple(VALUES)

_COLOUR_RGB = (
    torch.tensor(
        [
            [222, 36, 36],
            [250, 138, 20],
            [246, 224, 40],
            [46, 182, 60],
            [40, 96, 236],
            [138, 44, 178],
            [250, 128, 192],
            [126, 76, 36],
        ]
    )
    / 255.0
)
_BACKGROUND_RGB = (
    torch.tensor(
        [[248, 248, 248], [10, 10, 10], [146, 146, 146], [228, 208, 166], [16, 26, 84], [10, 98, 106], [192, 176, 232]]
    )
    / 255.0
)
_RADIUS = torch.tensor([7.0, 9.0, 11.5])
_STYLE_WEIGHTS = torch.tensor([0.4, 0.2, 0.2, 0.2])


def held_out(scenes: torch.Tensor) -> torch.Tensor:
    """Which scenes ``(b, 5)`` belong to a held-out shape × colour × background combination: booleans ``(b,)``."""
    return (scenes[:, 0] + 2 * scenes[:, 1] + 3 * scenes[:, 2]) % 7 == 0


def held_out_combinations() -> list[tuple[int, int, int]]:
    """The 48 held-out combinations as (shape, colour, background) indices, in order."""
    grid = torch.cartesian_prod(torch.arange(len(SHAPES)), torch.arange(len(COLOURS)), torch.arange(len(BACKGROUNDS)))
    return [(int(s), int(c), int(b)) for s, c, b in grid[held_out(grid)]]


def sample_scenes(count: int, generator: torch.Generator, *, held: bool | None = False) -> torch.Tensor:
    """Draw ``count`` random scenes ``(count, 5)``.

    Args:
        count: How many.
        generator: The only source of randomness.
        held: ``False`` for training combinations, ``True`` for held-out ones, ``None`` for both.
    """
    kept: list[torch.Tensor] = []
    have = 0
    while have < count:
        draw = max(64, (count - have) * (8 if held else 2))
        scenes = torch.stack(
            [
                torch.randint(len(SHAPES), (draw,), generator=generator),
                torch.randint(len(COLOURS), (draw,), generator=generator),
                torch.randint(len(BACKGROUNDS), (draw,), generator=generator),
                torch.multinomial(_STYLE_WEIGHTS, draw, replacement=True, generator=generator),
                torch.randint(len(SIZES), (draw,), generator=generator),
            ],
            dim=1,
        )
        if held is not None:
            scenes = scenes[held_out(scenes) == held]
        kept.append(scenes)
        have += len(scenes)
    return torch.cat(kept)[:count]


def sample_plain(count: int, generator: torch.Generator) -> torch.Tensor:
    """Scenes to be garbled."""
    return sample_scenes(count, generator, held=None)


def _polygon(name: str) -> torch.Tensor:
    if name == "square":
        return torch.tensor([[-0.84, -0.84], [0.84, -0.84], [0.84, 0.84], [-0.84, 0.84]])
    if name == "triangle":
        angles = [math.pi * (0.5 + 2 * i / 3) for i in range(3)]
        return torch.tensor([[1.2 * math.cos(a), -1.2 * math.sin(a) + 0.25] for a in angles])
    if name == "star":
        points = []
        for i in range(10):
            a, r = math.pi * (0.5 + i / 5), 1.22 if i % 2 == 0 else 0.52
            points.append([r * math.cos(a), -r * math.sin(a) + 0.06])
        return torch.tensor(points)
    if name == "cross":
        w, h = 0.38, 1.08
        return torch.tensor(
            [[-w, -h], [w, -h], [w, -w], [h, -w], [h, w], [w, w], [w, h], [-w, h], [-w, w], [-h, w], [-h, -w], [-w, -w]]
        )
    raise ValueError(f"name: no polygon is called {name!r}")


def _polygon_distance(p: torch.Tensor, vertices: torch.Tensor) -> torch.Tensor:
    """Signed distance (negative inside) of points ``(..., 2)`` to a closed polygon ``(n, 2)``."""
    best = torch.full(p.shape[:-1], 1e9)
    sign = torch.ones(p.shape[:-1])
    count = len(vertices)
    for i in range(count):
        a, b = vertices[i], vertices[i - 1]
        edge, rel = b - a, p - a
        along = (rel @ edge / edge.dot(edge)).clamp(0, 1)
        best = torch.minimum(best, (rel - along[..., None] * edge).square().sum(-1))
        above = p[..., 1] >= a[1]
        below = p[..., 1] < b[1]
        left = edge[0] * rel[..., 1] > edge[1] * rel[..., 0]
        crossing = (above & below & left) | (~above & ~below & ~left)
        sign = torch.where(crossing, -sign, sign)
    return sign * best.sqrt()


def _heart_distance(p: torch.Tensor) -> torch.Tensor:
    x = p[..., 0].abs() / 1.85
    y = (0.98 - p[..., 1]) / 1.85
    upper = ((x - 0.25).square() + (y - 0.75).square()).sqrt() - math.sqrt(2) / 4
    along = 0.5 * (x + y).clamp(min=0)
    lower = torch.minimum(x.square() + (y - 1).square(), (x - along).square() + (y - along).square()).sqrt()
    return 1.85 * torch.where(x + y > 1, upper, lower * torch.sign(x - y))


def render(scenes: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Draw scenes ``(b, 5)`` as images ``(b, 3, 32, 32)`` in [0, 1].

    Place (a few pixels), angle (about ±10°), radius, stripe and dot phase and a slight tint come from ``generator``.
    """
    b = len(scenes)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator) * 2 - 1

    radius = _RADIUS[scenes[:, 4]] + 0.4 * uniform(b)
    reach = (15.0 - 1.2 * radius).clamp(min=0.5, max=4.0)
    centre = 15.5 + uniform(b, 2) * reach[:, None]
    angle = 0.18 * uniform(b)
    phase = 2.25 * (1 + uniform(b, 2))
    colour = (_COLOUR_RGB[scenes[:, 1]] + 0.03 * uniform(b, 3)).clamp(0, 1)
    ground = (_BACKGROUND_RGB[scenes[:, 2]] + 0.03 * uniform(b, 3)).clamp(0, 1)

    axis = torch.arange(SIDE, dtype=torch.float32)
    yy, xx = torch.meshgrid(axis, axis, indexing="ij")
    rel = torch.stack([xx, yy], -1)[None] - centre[:, None, None]
    cos, sin = torch.cos(angle)[:, None, None], torch.sin(angle)[:, None, None]
    px = torch.stack([cos * rel[..., 0] + sin * rel[..., 1], -sin * rel[..., 0] + cos * rel[..., 1]], -1)
    unit = px / radius[:, None, None, None]
    distance = torch.empty(b, SIDE, SIDE)
    for index, name in enumerate(SHAPES):
        rows = scenes[:, 0] == index
        if not bool(rows.any()):
            continue
        if name == "circle":
            distance[rows] = unit[rows].norm(dim=-1) - 1
        elif name == "heart":
            distance[rows] = _heart_distance(unit[rows])
        else:
            distance[rows] = _polygon_distance(unit[rows], _polygon(name))
    distance = distance * radius[:, None, None]
    inside = (0.5 - distance).clamp(0, 1)

    style = scenes[:, 3]
    hollow = inside - (0.5 - (distance + 1.7)).clamp(0, 1)
    alpha = torch.where((style == 1)[:, None, None], hollow, inside)
    stripe = (0.5 + 1.2 * torch.sin((px[..., 1] + phase[:, None, None, 0]) * (2 * math.pi / 4.5))).clamp(0, 1)
    cell = torch.remainder(px + phase[:, None, None], 4.5) - 2.25
    dot = (1.9 - cell.norm(dim=-1)).clamp(0, 1)
    paint = colour[:, :, None, None].expand(b, 3, SIDE, SIDE)
    dark = paint * (1 - 0.72 * stripe[:, None])
    light = paint + (0.97 - paint) * dot[:, None]
    striped, dotted = (style == 2)[:, None, None, None], (style == 3)[:, None, None, None]
    paint = torch.where(striped, dark, torch.where(dotted, light, paint))
    back = ground[:, :, None, None]
    return (back + alpha[:, None] * (paint - back)).clamp(0, 1)
