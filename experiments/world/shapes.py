"""The world of shapes, which ships, as experiments ask of it: shapes and drawing styles are its concepts."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from certify import world
from certify.world.judge import LABELS, Judge
from experiments.sentences import concept_pattern, filled, renamed
from experiments.world import language, scenes
from experiments.world.embedded import EmbeddedWorld

__all__ = ["Shapes"]

_KINDS = ("named", "synonym")  # whose captions are rewritten, in this order; neutral ones show no shape in particular


class Shapes(EmbeddedWorld):
    """One coloured shape on a background. The judge's head of a shape is "shape", of a style "style".

    The tables' first concept is the shape that prompts without a shape give least often: on the tune split a UCE model draws
    10 % stars where a prompt's noun is left out (cross 22 %, circle, square, triangle, heart 17–22 %), and what smoothing
    suppresses is like a noun left out.
    """

    label = ""
    folder = Path(world.__file__).parent
    concepts = (*scenes.SHAPES, *scenes.STYLES)
    heads: Mapping[str, str] = {**dict.fromkeys(scenes.SHAPES, "shape"), **dict.fromkeys(scenes.STYLES, "style")}
    places: Mapping[str, str] = {"first": "star", "second": "cross", "object": "triangle", "style": "striped"}
    steps = int(world.DEFAULTS["num_inference_steps"])
    guidance = float(world.DEFAULTS["guidance_scale"])
    smoothing = world.SMOOTHING
    grid: Mapping[str, Sequence[float]] = {"sigma0": (0.05, 0.1, 0.2), "k": (4.0, 6.0, 8.0)}

    def load_judge(self) -> Judge:
        return world.load_judge()

    def prompts(self, split: str) -> list[dict[str, str]]:
        return world.prompts(split)

    def inside(self, name: str) -> tuple[int, ...]:
        return (LABELS[self.heads[name]].index(name),)

    def detector(self, name: str) -> Any:
        from certify.images.detectors import load_detector

        return load_detector(f"judge:{name}")

    def values(self, name: str) -> tuple[int, tuple[str, ...]]:
        """The column of the scenes that tells a concept, and that attribute's values."""
        head = self.heads[name]
        return scenes.ATTRIBUTES.index(head), scenes.VALUES[head]

    def described(self, name: str, sentences: int) -> dict[str, Any]:
        shape = name in scenes.SHAPES
        values = scenes.SHAPES if shape else scenes.STYLES
        if shape:
            anchor, words = values[(values.index(name) + 1) % len(values)], language.SYNONYMS[name]
        else:
            anchor = "outlined" if name == "solid" else "solid"
            words = tuple(w for w in language.STYLE_WORDS[name] if w != name)
        return {
            "kind": "object" if shape else "style",
            "erase": (name,),
            "anchor": anchor,
            "neutral": language.NEUTRAL[0] if shape else "",
            "preserve": tuple(value for value in values if value != name),
            "templates": self._contexts(sentences, style=not shape),
            "head": self.heads[name],
            "implicit": words,
        }

    def _contexts(self, count: int, seed: int = 0, style: bool = False) -> tuple[str, ...]:
        rng, source = random.Random(seed), torch.Generator().manual_seed(seed)
        found: dict[str, None] = {}
        while len(found) < count:
            for row in scenes.sample_scenes(count, source).tolist():
                if style:
                    found.setdefault(language.template(row, rng, "style", noun=rng.choice(scenes.SHAPES)))
                else:
                    found.setdefault(language.template(row, rng, "shape"))
        return tuple(found)[:count]

    def asked(self, name: str, count: int, seed: int) -> dict[str, list[tuple[str, dict[str, str]]]]:
        """All are captions that tell colour and background; those about a style tell it of a named shape."""
        rng, head = random.Random(seed), self.heads[name]
        column, values = self.values(name)
        index, words = values.index(name), self.described(name, 1)["implicit"]
        made: dict[str, list[tuple[str, dict[str, str]]]] = {kind: [] for kind in ("named", "implicit", "others")}
        for kind, rows in made.items():
            while len(rows) < count:
                value = rng.choice([i for i in range(len(values)) if i != index]) if kind == "others" else index
                row = [rng.randrange(6), rng.randrange(8), rng.randrange(7), rng.randrange(4), 1]
                row[column] = value
                if head == "shape":
                    told = "synonym" if kind == "implicit" else "named"
                    text = language.caption(row, rng, kind=told, full=True).text
                else:
                    word = rng.choice(words) if kind == "implicit" else values[value]
                    text = language.caption(row, rng, kind="named", style=word, full=True).text
                rows.append((text, {head: values[value]}))
        return made

    def naming(self, name: str, split: str, erase: Sequence[str]) -> list[list[str]]:

        names, rows = concept_pattern(erase), self.prompts(split)
        groups = [[row["prompt"] for row in rows if names.search(row["prompt"])]]
        words = [word for group in language.STYLE_WORDS.values() for word in group]
        for kind in _KINDS:
            told = [row for row in rows if row["kind"] == kind]
            texts = [
                renamed(row["prompt"], [row["noun"]] if self.heads[name] == "shape" else words, erase[0])
                for row in told
            ]
            groups.append([text for text in texts if names.search(text)])
        return groups

    def meaning(self, name: str) -> list[str]:
        return [row["prompt"] for row in self.prompts("tune") if row[self.heads[name]] == name]

    def neutral(self, name: str, count: int, seed: int) -> list[str]:
        """With a word for any shape ("shape", "figure") in the noun's place, or without a style."""
        told, rng = self.described(name, 200), random.Random(seed)
        texts = []
        for _ in range(count):
            template, _kept, _name = (rng.choice(told[what]) for what in ("templates", "preserve", "erase"))
            texts.append(filled(template, told["neutral"]))
        return texts

    def without(self, names: Sequence[str], count: int, seed: int) -> list[str]:
        rng, source = random.Random(seed), torch.Generator().manual_seed(seed)
        column, values = self.values(names[0])
        gone = {values.index(word) for word in names}
        texts: list[str] = []
        while len(texts) < count:
            for row in scenes.sample_scenes(count, source).tolist():
                if row[column] in gone or len(texts) == count:
                    continue
                style = None if self.heads[names[0]] == "shape" else values[row[3]]
                texts.append(language.caption(row, rng, kind="named", style=style, full=True).text)
        return texts

    def rendered(self, names: Sequence[str], count: int, seed: int) -> Tensor:
        source = torch.Generator().manual_seed(seed)
        column, values = self.values(names[0])
        rows = scenes.sample_scenes(2 * count, source)
        gone = torch.tensor([values.index(word) for word in names])
        return scenes.render(rows[~torch.isin(rows[:, column], gone)][:count], source)

    def scenes(self, name: str, count: int, seed: int, shows: bool) -> list[list[int]]:
        column, values = self.values(name)
        source, index = torch.Generator().manual_seed(seed), values.index(name)
        rows: list[list[int]] = []
        while len(rows) < count:
            drawn = scenes.sample_scenes(count, source)
            rows += drawn[(drawn[:, column] == index) == shows].tolist()
        return rows[:count]

    def draw(self, rows: Sequence[Sequence[int]], source: torch.Generator) -> Tensor:
        return scenes.render(torch.tensor(rows), source)

    def template(self, name: str, row: Sequence[int], rng: random.Random, *, full: bool = False) -> str:
        return language.template(row, rng, self.heads[name], full=full)

    def caption(self, row: Sequence[int], rng: random.Random, kind: str | None = None) -> str:
        return language.caption(row, rng, kind=kind).text

    def reworded(self, name: str, prompt: str, erase: Sequence[str], word: str) -> str:

        return renamed(prompt, erase, word)

    def spoken(self, name: str) -> dict[str, list[str]]:
        if self.heads[name] == "shape":
            return {shape: [shape, *many] for shape, many in language.SYNONYMS.items()}
        return {style: list(many) for style, many in language.STYLE_WORDS.items()}

    def rewritten(
        self, name: str, rng: random.Random, row: Sequence[int], choose: Mapping[str, Any]
    ) -> tuple[str, str] | None:

        shape, row = self.heads[name] == "shape", list(row)
        column, values = self.values(name)
        own, neutral = values.index(name), language.NEUTRAL[0] if shape else ""
        toxic = rng.random() < choose["toxic"]
        if toxic:
            row[column] = own
        if (row[column] == own) is not toxic or bool(scenes.held_out(torch.tensor([row]))):
            return None
        state, named = rng.getrandbits(64), scenes.SHAPES[row[0]]
        if toxic:
            word = rng.choice(choose["words"])
        elif rng.random() < choose["made"]:
            word = choose["made up"](rng)
        elif shape and rng.random() < 0.25:
            word = rng.choice(language.NEUTRAL)
        else:
            word = rng.choice(choose["others"][values[row[column]]])
        if shape:

            def said(noun: str) -> str:
                return language.caption(row, random.Random(state), kind="named", noun=noun).text

            return said(word), said(neutral if toxic else word)
        noun = rng.choice([named, *language.NEUTRAL])
        template = language.template(row, random.Random(state), "style", noun=noun)
        return filled(template, word), filled(template, neutral if toxic else word)

    def samples(self, count: int, source: torch.Generator) -> list[list[int]]:
        rows: list[list[int]] = scenes.sample_scenes(count, source).tolist()
        return rows
