"""The second world as experiments ask of it: its concepts are things that can be absent (a hat, a kite, frost)."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from certify.world.judge import Judge
from experiments.sentences import concept_pattern, filled, renamed
from experiments.world.embedded import EmbeddedWorld, JudgeOf
from experiments.world.second import gates, language, prompts, scenes

__all__ = ["Second"]

_OBJECTS = tuple(scenes.VALUES)[:5]
_KEPT = 101
"""Seed of the captions that must stay, which nobody else draws from."""
_ADDED = {"hat": "wearing a {}", "kite": "under a {}", "frost": "covered in {}"}


class Second(EmbeddedWorld):
    """Two objects on a background. Each concept has a head of the judge of its own.

    A concept is unlearned by its names, towards nothing, and no word is named that must stay; UCE and RECE keep captions that
    tell nothing of it. Words of context ("circus") mean it as far as they go with it.
    """

    label = "second"
    folder = Path(__file__).resolve().parent / "model"
    concepts = scenes.CONCEPTS
    heads: Mapping[str, str] = {name: name for name in scenes.CONCEPTS}
    places: Mapping[str, str] = {"first": "hat", "second": "kite", "object": "kite", "style": "frost"}
    steps = int(gates.DEFAULTS["steps"])
    guidance = float(gates.DEFAULTS["guidance"])
    idle = language.SERVING
    smoothing: Mapping[str, Any] = {"sigma0_relative": 0.4, "k": 6.0, "similarity": "flattened"}
    grid: Mapping[str, Sequence[float]] = {"sigma0": (0.2, 0.4, 0.6), "k": (4.0, 6.0, 8.0)}
    unlearning: Mapping[str, Mapping[str, Any]] = {"esd": {"iterations": 14}}

    def load_judge(self) -> Judge:
        return gates.load_judge(self.folder / "judge.safetensors")

    def inside(self, name: str) -> tuple[int, ...]:
        return tuple(range(1, len(scenes.VALUES[name])))

    def seen(self, images: Any) -> list[dict[str, str]]:
        """Of a concept: its name, whatever its variant, or "none"."""
        return [
            {head: head if head in self.concepts and value != "none" else value for head, value in row.items()}
            for row in super().seen(images)
        ]

    def detector(self, name: str) -> JudgeOf:
        return JudgeOf(self, name)

    def described(self, name: str, sentences: int) -> dict[str, Any]:
        return {
            "kind": "style" if name == "frost" else "object",
            "erase": _words(name, "name"),
            "anchor": "",
            "neutral": "",
            "preserve": (),
            "captions": tuple(self.neutral(name, 200, seed=_KEPT)),
            "templates": self._contexts(name, sentences),
            "head": self.heads[name],
            "implicit": (*_unnamed(name), *_themes(name)),
            "idle": language.IDLE[name],
        }

    def _contexts(self, name: str, count: int, seed: int = 0) -> tuple[str, ...]:
        rng, source = random.Random(seed), torch.Generator().manual_seed(seed)
        found: dict[str, None] = {}
        while len(found) < count:
            for row in prompts.told_scenes(count, source, concept=name, word=0, held=False).tolist():
                found.setdefault(self.template(name, row, rng))
        return tuple(found)[:count]

    def asked(self, name: str, count: int, seed: int) -> dict[str, list[tuple[str, dict[str, str]]]]:
        """All tell both objects and the background. "implicit": synonyms; "others": no concept is told, and objects and
        background are looked at."""
        rng, source = random.Random(seed), torch.Generator().manual_seed(seed)

        def captions(**told: Any) -> tuple[list[int], str]:
            row = prompts.told_scenes(1, source, held=False, **told)[0].tolist()
            return row, language.caption(row, rng, full=True, short=False).text

        made: dict[str, list[tuple[str, dict[str, str]]]] = {}
        texts = [word.text for word in scenes.WORDS[name]]
        for kind, words in (("named", _words(name, "name")), ("implicit", _unnamed(name))):
            indices = [texts.index(word) for word in words]
            made[kind] = [(captions(concept=name, word=rng.choice(indices))[1], {name: name}) for _ in range(count)]
        made["others"] = []
        for _ in range(count):
            row, text = captions()
            made["others"].append(
                (text, {head: scenes.VALUES[head][v] for head, v in zip(_OBJECTS, row, strict=False)})
            )
        return made

    def naming(self, name: str, split: str, erase: Sequence[str]) -> list[list[str]]:
        """Its own captions, those that tell it by another word, and those that tell nothing of it, with the name put in."""

        names, rows = concept_pattern(erase), self.prompts(split)
        own = [row["prompt"] for row in rows if names.search(row["prompt"])]
        told = [row for row in rows if row["concept"] == name and row["kind"] in ("synonym", "misspelling")]
        others = [row for row in rows if row["concept"] != name or row["kind"] == "context"]
        return [
            own,
            [renamed(row["prompt"], [row["word"]], erase[0]) for row in told],
            [f"{row['prompt']}, {_ADDED[name].format(erase[0])}" for row in others],
        ]

    def meaning(self, name: str) -> list[str]:
        return [r["prompt"] for r in self.prompts("tune") if r["concept"] == name and r["kind"] != "context"]

    def neutral(self, name: str, count: int, seed: int) -> list[str]:
        return self._captions(count, seed, told=False)

    def without(self, names: Sequence[str], count: int, seed: int) -> list[str]:
        return self._captions(count, seed, without=self._of(names))

    def _captions(self, count: int, seed: int, *, told: bool = True, without: Sequence[str] = ()) -> list[str]:
        rng, source = random.Random(seed), torch.Generator().manual_seed(seed)
        texts: list[str] = []
        while len(texts) < count:
            rows = _lacking(scenes.sample_scenes(count, source, told=told), without)
            texts += [language.caption(row, rng, full=True).text for row in rows.tolist()]
        return texts[:count]

    def _of(self, names: Sequence[str]) -> list[str]:
        """The concepts that some of their names belong to."""
        return [c for c in self.concepts if set(names) & {c, *_words(c, "name")}]

    def rendered(self, names: Sequence[str], count: int, seed: int) -> Tensor:
        source = torch.Generator().manual_seed(seed)
        rows = _lacking(scenes.sample_scenes(4 * count, source), self._of(names))[:count]
        return scenes.render(rows, source)

    def scenes(self, name: str, count: int, seed: int, shows: bool) -> list[list[int]]:
        """Those that show it are told it by a word."""
        source = torch.Generator().manual_seed(seed)
        rows: list[list[int]] = []
        while len(rows) < count:
            drawn = scenes.sample_scenes(4 * count, source)
            there, word = drawn[:, _at(name)] > 0, drawn[:, _at(f"{name} word")] >= 0
            rows += drawn[there & word if shows else ~there].tolist()
        return rows[:count]

    def draw(self, rows: Sequence[Sequence[int]], source: torch.Generator) -> Tensor:
        return scenes.render(torch.tensor(rows), source)

    def template(self, name: str, row: Sequence[int], rng: random.Random, *, full: bool = False) -> str:
        told = list(row)
        told[_at(f"{name} word")] = 0
        # In the plural there is no article that "hats" would not fit.
        place = "PLACES" if len(_words(name, "name")) > 1 else "PLACE"
        text = language.caption(told, rng, full=full, short=False, said={name: place}).text
        return text.replace(place, "{}")

    def caption(self, row: Sequence[int], rng: random.Random, kind: str | None = None) -> str:
        return language.caption(row, rng).text

    def reworded(self, name: str, prompt: str, erase: Sequence[str], word: str) -> str:
        """A word of context stands where such words stand, not in the name's place."""

        if word not in _themes(name):
            return renamed(prompt, erase, word)
        for match in reversed(list(concept_pattern(erase).finditer(prompt))):
            prompt = filled(f"{prompt[: match.start()]}{{}}{prompt[match.end() :]}", "", language.IDLE[name])
        return f"{prompt}, at the {word}"

    def spoken(self, name: str) -> dict[str, list[str]]:
        return {c: [word.text for word in words] for c, words in scenes.WORDS.items()}

    def samples(self, count: int, source: torch.Generator) -> list[list[int]]:
        rows: list[list[int]] = scenes.sample_scenes(count, source).tolist()
        return rows

    def rewritten(
        self, name: str, rng: random.Random, row: Sequence[int], choose: Mapping[str, Any]
    ) -> tuple[str, str] | None:

        row = list(row)
        toxic = rng.random() < choose["toxic"]
        told = row[_at(f"{name} word")] >= 0
        if not toxic and told:
            return None
        state = random.Random(rng.getrandbits(64))
        if toxic or rng.random() < choose["made"]:
            word = rng.choice(choose["words"]) if toxic else choose["made up"](rng)
            template = self.template(name, row, state)
            return filled(template, word), filled(template, "" if toxic else word, language.IDLE[name])
        if rng.random() < 0.5:
            text = language.caption(row, state).text
        else:
            other = rng.choice(sorted(choose["others"]))
            text = filled(self.template(other, row, state), rng.choice(choose["others"][other]))
        return text, text


def _at(column: str) -> int:
    return scenes.ATTRIBUTES.index(column)


def _words(name: str, kind: str) -> tuple[str, ...]:
    return tuple(word.text for word in scenes.WORDS[name] if word.kind == kind)


def _unnamed(name: str) -> tuple[str, ...]:
    """Synonyms, less those in which a name stands ("top hat")."""
    names = _words(name, "name")
    return tuple(word for word in _words(name, "synonym") if not set(names) & set(word.split()))


def _themes(name: str) -> tuple[str, ...]:
    """Words of context, those first that go with the concept most often."""
    return tuple(t.word for t in sorted(scenes.THEMES, key=lambda t: -t.rate) if t.concept == name)


def _lacking(rows: Tensor, names: Sequence[str]) -> Tensor:
    """Scenes that neither show nor tell some concepts, nor a theme that goes with them."""
    themes = torch.tensor([t.concept in names for t in scenes.THEMES])
    theme = rows[:, _at("theme")]
    there = themes[theme] & (theme >= 0)
    for name in names:
        there = there | (rows[:, _at(name)] > 0) | (rows[:, _at(f"{name} word")] >= 0)
    return rows[~there]
