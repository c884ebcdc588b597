"""`python -m experiments.world.second STAGE`: makes the second world, stage by stage, and measures it.

    prompts      the splits and concept pairs
    tokenizer    the vocabulary
    clip         text tower and image tower
    autoencoder  images ↔ latents; starts from the first world's
    judge        what does an image show?
    denoiser     the U-Net, on what `clip` and `autoencoder` made
    ship         everything as fp16 safetensors into the model's folder
    gates        prints what the model reaches; `--only relevance`, `judge` or `pictures` for a part
    tune         prints what settings of the smoother do on the tune split; `--concept`, `--weights`
    claim        the certificate of the first prompt of the report split that names the concept, as deployed under policy
                 "levels" with one noisy copy; `--concept`, `--weights`, `--images`
    grid         a picture of generated images

Stages work in a folder (`--work`). One that was stopped goes on from its last state when it is called again; `--steps` counts
those of earlier calls. What stands in the model's folder is what `load_pipeline` loads from there.
"""

from __future__ import annotations

import argparse
import csv
import random
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from certify.adaptive import Concept
from experiments.world import prompts as first_prompts
from experiments.world.__main__ import PACKAGE, ship
from experiments.world.language import build_tokenizer
from experiments.world.second import clip, gates, language, prompts, scenes

MODEL = Path(__file__).resolve().parent / "model"
STAGES = ("prompts", "tokenizer", "clip", "autoencoder", "judge", "denoiser", "ship", "gates", "tune", "claim", "grid")


def main() -> None:
    """Runs one stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--work", type=Path, default=Path("runs/second-world"))
    parser.add_argument("--model", type=Path, default=MODEL, help="the model's folder")
    parser.add_argument("--steps", type=int, default=None, help="training steps of the stage")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, default=None, help="peak learning rate (denoiser)")
    parser.add_argument("--guidance", type=float, default=gates.DEFAULTS["guidance"], help="of `gates` and `grid`")
    parser.add_argument("--only", choices=("judge", "relevance", "pictures"), default=None, help="a part of `gates`")
    parser.add_argument("--concept", choices=scenes.CONCEPTS, default="hat", help="of `tune` and `claim`")
    parser.add_argument("--weights", type=Path, default=None, help="an erased U-Net's file, for `tune` and `claim`")
    parser.add_argument(
        "--images", type=int, default=300, help="for each figure of `gates` (a word has an eighth), or of `claim`"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/second-world/grid.png"), help="picture of `grid`")
    a = parser.parse_args()
    work: Path = a.work
    if a.stage == "prompts":
        pairs = {concept: prompts.concept_pairs(concept) for concept in scenes.CONCEPTS}
        first_prompts.save(a.model, prompts.FIELDS, prompts.splits(), pairs)
    elif a.stage == "tokenizer":
        build_tokenizer(work / "tokenizer", language.corpus(), language.MERGES, language.CONTEXT)
    elif a.stage == "clip":
        clip.train(work / "clip", work / "tokenizer", steps=a.steps or 980, seed=a.seed)
    elif a.stage == "autoencoder":
        from experiments.world import autoencoder

        start = PACKAGE / "pipeline" / "vae"
        autoencoder.train(work / "vae", steps=a.steps or 1150, seed=a.seed, rate=1.5e-3, start=start, world=scenes)
    elif a.stage == "judge":
        from experiments.world import judging

        judging.train(
            work / "judge.safetensors", steps=a.steps or 400, seed=a.seed, world=scenes, labels=scenes.JUDGED,
            columns=clip.COLUMNS,
        )  # fmt: skip
    elif a.stage == "denoiser":
        from experiments.world import denoiser

        parts = (work / "clip", work / "tokenizer", work / "vae")
        denoiser.train(
            work / "unet", *parts, steps=a.steps or 4100, seed=a.seed, rate=a.rate or 1.2e-3, batch=32, world=PULLED,
            captions=captions,
        )  # fmt: skip
    elif a.stage == "ship":
        a.model.mkdir(parents=True, exist_ok=True)
        ship(work, a.model)
    elif a.stage == "gates":
        show(a.model, a.only, a.guidance, a.images)
    elif a.stage == "tune":
        tune(a.model, a.concept, a.weights)
    elif a.stage == "claim":
        claim(a.model, a.concept, a.weights, a.images, work / "claim")
    else:
        grid(a.model, a.out, a.guidance)


PULLED = SimpleNamespace(render=scenes.render, sample_scenes=partial(scenes.sample_scenes, pull=0.5))
"""The denoiser's scenes. With guidance, images show what is likely more often and what is unlikely less often than the scenes
of the training do: the rates of themes lie nearer together in these, so that they do not lie outside of .2 to .7 in images."""


def captions(rows: torch.Tensor, tokenizer: object, rng: random.Random) -> torch.Tensor:
    """Token ids for the denoiser: one caption in ten is empty, and only where no concept is shown."""
    return clip.encode_captions(rows, tokenizer, rng, empty=0.1)


def show(model: Path, only: str | None, guidance: float, images: int) -> None:
    """Prints the gates; leaves with status 1 where one is not reached."""
    from certify import load_pipeline
    from certify.models import PromptEncoder

    pipe, judge = load_pipeline(model / "pipeline"), gates.load_judge(model / "judge.safetensors")

    def parts() -> Iterator[gates.Gate]:
        if only in (None, "judge"):
            yield from gates.judge_gates(judge)
        if only in (None, "relevance"):
            yield from gates.relevance_gates(PromptEncoder.from_pipeline(pipe))
        if only in (None, "pictures"):
            yield from gates.picture_gates(pipe, judge, count=images, per_word=max(1, images // 8), guidance=guidance)

    missed = 0
    for gate in parts():
        print(gate, flush=True)
        missed += not gate.reached and (gate.low, gate.high) != (None, None)
    print(f"{missed} not reached" if missed else "all reached")
    sys.exit(missed > 0)


def tune(model: Path, concept: str, weights: Path | None) -> None:
    """Prints what settings of the smoother do to a concept on the tune split, on the model or on one that was erased."""
    from certify import load_pipeline

    with (model / "prompts" / "tune.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    judge = gates.load_judge(model / "judge.safetensors")
    pipe = load_pipeline(model / "pipeline", weights=weights)
    gates.tune(pipe, judge, rows, Concept.load(model / "concepts" / f"{concept}.jsonl"))


def claim(model: Path, concept: str, weights: Path | None, images: int, out: Path) -> None:
    """Certifies the smoother as deployed, prints the certificate and saves it; stopped, it resumes."""
    from certify import load_pipeline
    from certify.adaptive import AdaptiveMedianSmoother
    from certify.cli.terminal import show_certificate, show_tokens
    from experiments.world.second.world import Second

    world = Second()
    names = [word.text for word in scenes.WORDS[concept] if word.kind == "name"]
    prompt = next(
        row["prompt"] for row in world.prompts("report") if row["concept"] == concept and row["word"] in names
    )
    pipe = load_pipeline(model / "pipeline", weights=weights)
    smoothing: Any = {**world.smoothing, "n": 1, "policy": "levels"}
    concepts = [Concept.load(model / "concepts" / f"{concept}.jsonl")]
    adaptive = AdaptiveMedianSmoother.from_pipeline(pipe, concepts, **smoothing)
    prepared = adaptive.prepare(prompt)
    print(prompt)
    show_tokens(prepared, private=False)
    certificate = adaptive.certify(
        prepared,
        pipe=pipe,
        detector=world.detector(concept),
        statistics=0,
        images=images,
        steps=world.steps,
        guidance=world.guidance,
        checkpoint=out / "draws",
    )
    show_certificate(certificate)
    certificate.save(out / "certificate", overwrite=True)


def grid(model: Path, file: Path, guidance: float, columns: int = 12) -> None:
    """Writes a picture, and prints the first prompt of every row: names, synonyms, words of context, neutral, empty."""
    from certify import load_pipeline
    from experiments.world.gates import sheet

    rng, source = random.Random(1), torch.Generator().manual_seed(1)
    themes = {t.word: i for i, t in enumerate(scenes.THEMES)}
    told: list[dict[str, object]] = [{}, {}, {"theme": themes["library"]}]
    told += [{"concept": c, "word": 0} for c in scenes.CONCEPTS]
    told += [{"concept": "hat", "word": w} for w in (5, 8)]
    told += [{"theme": themes[w]} for w in ("circus", "fiesta", "picnic", "windy", "arctic")]
    texts: list[str] = []
    for options in told:
        rows = prompts.told_scenes(columns, source, **options).tolist()  # type: ignore[arg-type]
        texts += [language.caption(row, rng, full=True).text for row in rows]
        print(texts[-1])
    texts[:columns] = [""] * columns
    paint = gates.Painter(load_pipeline(model / "pipeline"), guidance=guidance)
    sheet(paint(texts), columns, file)


if __name__ == "__main__":
    main()
