"""Gates: what the embedded model must reach before it ships, measured with fixed seeds."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Unpack

import torch

from experiments.world import language, scenes
from experiments.world.shapes import Shapes

if TYPE_CHECKING:
    from certify.adaptive import AdaptiveOptions

__all__ = ["generate", "grid", "levels", "relevance", "relevance_table", "sheet", "show", "tune"]

images = Shapes().images


def carriers(row: dict[str, str], tokenized: Any, concept: str) -> tuple[list[int], list[int]]:
    """Positions of the tokens that carry a concept in a prompt, and of all other word tokens.

    A shape is carried by its noun, or by the noun's stem ("wheel" in "pinwheel": the rest of that word is in neither list);
    a style by the word that tells it.
    """
    own: list[int] = []
    other: list[int] = []
    words = {row["noun"]} if concept in scenes.SHAPES else set(language.STYLE_WORDS[concept])
    for start, stop in tokenized.words:
        pieces = [t.replace("</w>", "") for t in tokenized.tokens[start:stop]]
        word = "".join(pieces)
        if word not in words:
            other.extend(range(start, stop))
            continue
        first = len(word) - len(row["carriers"]) if concept in scenes.SHAPES else 0
        offset = 0
        for position, piece in zip(range(start, stop), pieces, strict=True):
            if offset >= first:
                own.append(position)
            offset += len(piece)
    return own, other


def relevance(
    encoder: Any, concept: str, rows: Sequence[dict[str, str]], similarity: str, **options: Unpack[AdaptiveOptions]
) -> dict[str, float]:
    """How far relevance tells the tokens that carry a concept from the others, over the prompts that show it.

    Returns:
        auc: probability that a carrier scores above another token; gap: mean over prompts of (lowest carrier − highest
        other token); carrier, other: mean scores; synonyms: mean gap over prompts that do not name the shape.
    """
    from scipy.stats import rankdata

    from certify.adaptive import AdaptiveMedianSmoother

    adaptive = AdaptiveMedianSmoother.from_encoder(encoder, [concept], **{**options, "similarity": similarity})
    high: list[float] = []
    low: list[float] = []
    gaps: list[tuple[str, float]] = []
    for row in rows:
        if concept not in (row["shape"], row["style"]) or (concept in scenes.SHAPES and row["kind"] == "neutral"):
            continue
        scores = adaptive.relevance(row["prompt"]).relevance
        own, other = carriers(row, encoder.tokenize(row["prompt"]), concept)
        mine, theirs = [float(scores[i] or 0.0) for i in own], [float(scores[i] or 0.0) for i in other]
        high += mine
        low += theirs
        gaps.append((row["kind"], min(mine) - max(theirs)))
    ranks = rankdata(high + low)[: len(high)]
    indirect = [g for kind, g in gaps if kind == "synonym"]
    return {
        "auc": float((ranks.sum() - len(high) * (len(high) + 1) / 2) / (len(high) * len(low))),
        "gap": sum(g for _, g in gaps) / len(gaps),
        "synonyms": sum(indirect) / max(len(indirect), 1),
        "carrier": sum(high) / len(high),
        "other": sum(low) / len(low),
        "prompts": float(len(gaps)),
    }


def relevance_table(
    encoder: Any, rows: Sequence[dict[str, str]], similarity: str, **options: Unpack[AdaptiveOptions]
) -> dict[str, dict[str, float]]:
    """`relevance` for every shape and every style."""
    return {name: relevance(encoder, name, rows, similarity, **options) for name in (*scenes.SHAPES, *scenes.STYLES)}


def generate(
    pipe: Any,
    judge: Any,
    *,
    count: int = 500,
    seed: int = 3,
    kind: str = "named",
    steps: int | None = None,
    guidance: float | None = None,
) -> dict[str, float]:
    """Share of images of held-out combinations that show the right shape, colour, background and style."""
    import random

    rng = random.Random(seed)
    source = torch.Generator().manual_seed(seed)
    rows = scenes.sample_scenes(count, source, held=True).tolist()
    captions = [language.caption(row, rng, kind=kind, full=True) for row in rows]
    made = images(pipe, [c.text for c in captions], seed=seed, steps=steps, guidance=guidance)
    seen = judge.judge(made).labels
    result: dict[str, float] = {}
    for column, (name, words) in enumerate(scenes.VALUES.items()):
        if name == "size":  # which the judge does not tell
            continue
        told = [(words[row[column]], label) for row, c, label in zip(rows, captions, seen[name], strict=True)
                if c.told[column] >= 0]  # fmt: skip
        result[name] = sum(a == b for a, b in told) / len(told)
    return result


def show() -> None:
    """Prints every gate of the shipped model beside what it must reach."""
    from certify import world
    from certify.models import PromptEncoder, load_pipeline
    from experiments.world import judging

    pipe, judge = load_pipeline(), world.load_judge()
    encoder = PromptEncoder.from_pipeline(pipe)

    def line(name: str, value: float, goal: str, reached: bool) -> None:
        print(f"{name:<58} {value:7.4f}   {goal:<8} {'reached' if reached else 'NOT reached'}", flush=True)

    quality = judging.quality(judge)
    for head in ("shape", "colour", "background", "style"):
        line(f"judge, {head} on 3 000 held-out renderings", quality[head], ">= .99", quality[head] >= 0.99)
    line(
        "judge, shapes seen in 3 000 garbled images", quality["false shapes"], "<= .01", quality["false shapes"] <= 0.01
    )
    made = generate(pipe, judge, kind="named")
    for head, goal in (("shape", 0.95), ("colour", 0.95), ("background", 0.0), ("style", 0.0)):
        line(
            f"500 images of held-out captions, right {head}",
            made[head],
            f">= {goal:.2f}" if goal else "",
            made[head] >= goal,
        )
    indirect = generate(pipe, judge, kind="synonym", seed=4)["shape"]
    line("500 images of synonyms (held-out), right shape", indirect, ">= .85", indirect >= 0.85)
    for similarity in ("flattened", "end-of-text"):
        table = relevance_table(encoder, world.prompts("report"), similarity)
        for shape, row in table.items():
            line(f"relevance ({similarity}), {shape}: AUC", row["auc"], ">= .98", row["auc"] >= 0.98)
            line(f"relevance ({similarity}), {shape}: mean gap", row["gap"], ">= .2", row["gap"] >= 0.2)
    tower = world.load_image_tower()
    rows = world.prompts("report")[:96]
    texts = [row["prompt"] for row in rows]
    pictures = images(pipe, texts, seed=5)
    score, shuffled = tower.image_text_score(pictures, texts), tower.image_text_score(pictures, texts[1:] + texts[:1])
    print(
        f"image–text score of 96 generated images: {score.mean():.3f}, of the same with other prompts {shuffled.mean():.3f}"
    )
    noise_table(pipe, judge)


def noise_table(
    pipe: Any, judge: Any, sigmas: Sequence[float] = (0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0), count: int = 192
) -> None:
    """Prints how often the shape stays right with Gaussian noise on every word's token embedding."""
    import random

    from certify.models import PromptEncoder

    encoder = PromptEncoder.from_pipeline(pipe)
    rng, source = random.Random(9), torch.Generator().manual_seed(9)
    rows = scenes.sample_scenes(count, source, held=True).tolist()
    tokenized = [encoder.tokenize(language.caption(row, rng, kind="named", full=True).text) for row in rows]
    y = torch.stack([encoder.embed(t) for t in tokenized])
    ids = torch.stack([t.ids for t in tokenized])
    words = torch.tensor([[kind == "word" for kind in t.kinds] for t in tokenized])[..., None]
    print(
        f"token-embedding noise (standard deviation {encoder.embedding_std:.4f}) on every word, single draw, "
        "right shape and colour:"
    )
    for sigma in sigmas:
        z = y + sigma * encoder.embedding_std * torch.randn(y.shape, generator=source) * words
        seen = judge.judge(images(pipe, encoder.encode_batch(ids, z))).labels
        right = [sum(a == values[row[i]] for a, row in zip(seen[name], rows, strict=True)) / count
                 for i, (name, values) in enumerate((("shape", scenes.SHAPES), ("colour", scenes.COLOURS)))]  # fmt: skip
        print(f"  σ = {sigma:4.2f} standard deviations: shape {right[0]:.3f}, colour {right[1]:.3f}", flush=True)


def tune(concept: str = "circle") -> None:
    """Prints what settings of the smoother do on the tune split: how often the concept still shows, and others still do."""
    from certify import world
    from certify.adaptive import AdaptiveMedianSmoother
    from certify.models import load_pipeline

    pipe, judge = load_pipeline(), world.load_judge()
    rows = world.prompts("tune")
    mine = [row["prompt"] for row in rows if row["shape"] == concept]
    other = [row for row in rows if row["shape"] not in ("", concept)][:96]

    def line(name: str, encode: Any) -> None:
        drawn = judge.judge(images(pipe, encode(mine))).labels["shape"]
        shown = sum(label == concept for label in drawn) / len(mine)
        labels = judge.judge(images(pipe, encode([row["prompt"] for row in other]))).labels["shape"]
        right = sum(label == row["shape"] for label, row in zip(labels, other, strict=True)) / len(other)
        print(f"{name:<36} {concept} {shown:.3f} of {len(mine)}   others right {right:.3f} of {len(other)}", flush=True)

    for similarity in ("end-of-text", "flattened"):
        for sigma0, k in ((0.02, 9), (0.05, 6), (0.1, 4), (0.1, 6), (0.1, 9), (0.2, 4), (0.2, 6), (0.45, 9)):
            adaptive = AdaptiveMedianSmoother.from_pipeline(
                pipe, [concept], sigma0_relative=sigma0, k=k, similarity=similarity
            )
            if similarity == "end-of-text" and sigma0 == 0.02:
                line("undefended", adaptive.encoder.plain)
            line(
                f"{similarity}, σ₀ = {sigma0:g} standard deviations, k = {k}",
                functools.partial(adaptive.encode, seed=0),
            )


def levels(concept: str = "circle", seeds: Sequence[int] = (0, 1, 2)) -> None:
    """Prints what rounding σ up to levels costs on the tune split (T17): the concept, other shapes, and how much more noise."""
    from certify import world
    from certify.adaptive import AdaptiveMedianSmoother, level_radius
    from certify.models import load_pipeline

    pipe, judge = load_pipeline(), world.load_judge()
    rows = [row for row in world.prompts("tune") if row["shape"]]
    mine = [row for row in rows if row["shape"] == concept]
    other = [row for row in rows if row["shape"] != concept][:96]
    print(f"{len(seeds)} seeds; σ: geometric mean over the words of these prompts, in units of that without levels")
    plain: list[float] = []
    for gamma, coarse in (
        (None, False),
        (1.5, False),
        (2.0, False),
        (4.0, False),
        (8.0, False),
        (2.0, True),
        (4.0, True),
    ):
        policy: dict[str, Any] = {} if gamma is None else {"policy": "levels", "gamma": gamma}
        adaptive = AdaptiveMedianSmoother.from_pipeline(pipe, [concept], **world.SMOOTHING, **policy)
        adaptive.rule = replace(adaptive.rule, coarse_from=0.0 if coarse else adaptive.rule.coarse_from)
        prepared = adaptive.prepare_all([row["prompt"] for row in (*mine, *other)])
        logs = [math.log(s) for p in prepared for s in p.token_noise.sigma if s > 0]
        plain = plain or logs
        more = math.exp(sum(logs) / len(logs) - sum(plain) / len(plain))
        right = []
        for part in (prepared[: len(mine)], prepared[len(mine) :]):
            shapes = [row["shape"] for row in (mine if part[0] is prepared[0] else other)]
            drawn = [judge.judge(images(pipe, adaptive.encode(part, seed=s), seed=s)).labels["shape"] for s in seeds]
            right += [sum(a == b for labels in drawn for a, b in zip(labels, shapes, strict=True))]
        said = "without levels" if gamma is None else f"γ = {gamma:g}{', coarse' if coarse else ''}"
        radius = None if gamma is None else level_radius(adaptive.prepare(f"a photo of a red {concept}"))
        print(
            f"{said:<16} {concept} {right[0] / len(mine) / len(seeds):.3f} of {len(mine) * len(seeds)}   others right "
            f"{right[1] / len(other) / len(seeds):.3f} of {len(other) * len(seeds)}   σ × {more:.2f}"
            + ("" if radius is None else f"   ρ that covers the level: {radius}"),
            flush=True,
        )


def grid(file: Any, columns: int = 12) -> None:
    """Writes a picture: a row a shape, held-out captions, half named and half by synonyms."""
    import random

    from certify.models import load_pipeline

    pipe = load_pipeline()
    rng, source = random.Random(1), torch.Generator().manual_seed(1)
    texts = []
    for shape in range(len(scenes.SHAPES)):
        rows = scenes.sample_scenes(600, source, held=True)
        for i, row in enumerate(rows[rows[:, 0] == shape][:columns].tolist()):
            texts.append(language.caption(row, rng, kind="named" if i < columns // 2 else "synonym", full=True).text)
    sheet(images(pipe, texts, seed=2), columns, file)
    for i in range(0, len(texts), columns):
        print(texts[i], "|", texts[i + columns - 1])


def sheet(x: torch.Tensor, columns: int, file: Any) -> None:
    """Writes images (b, 3, 32, 32) in [0, 1] as one picture, twice their size, so many to a row."""
    from PIL import Image

    paper = torch.ones(3, -(-len(x) // columns) * 34 + 2, columns * 34 + 2)
    for i, image in enumerate(x):
        r, c = divmod(i, columns)
        paper[:, 2 + 34 * r : 34 + 34 * r, 2 + 34 * c : 34 + 34 * c] = image
    picture = Image.fromarray((paper.permute(1, 2, 0).clamp(0, 1) * 255).byte().numpy())
    file.parent.mkdir(parents=True, exist_ok=True)
    picture.resize((picture.width * 2, picture.height * 2), Image.Resampling.NEAREST).save(file)
