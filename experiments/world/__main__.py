"""`python -m experiments.world STAGE`: makes the embedded model, stage by stage, and measures it.

    prompts      the splits and concept pairs                                    seconds
    clip         vocabulary, text tower, image tower                             8 minutes, one core
    autoencoder  images ↔ latents                                                17 minutes, one core
    judge        what does an image show?                                        4 minutes, one core
    denoiser     the U-Net, on what the second and third made                    26 minutes, two cores
    variant      another U-Net on the shipped parts, as a pipeline of its own       minutes, see --channels
    ship         everything as fp16 safetensors into certify/world               seconds
    gates        prints what the shipped model reaches                           minutes
    tune         prints what settings of the smoother do on the tune split        a minute
    levels       prints what rounding σ up to levels costs there (T17)           minutes
    grid         a picture of generated images

Stages work in a folder (`--work`, default runs/world) and can be repeated one by one. All of them are seeded; the same
machine and library versions give the same weights.
"""

from __future__ import annotations

import argparse
import random
import shutil
from pathlib import Path

import torch

from experiments.world import language, prompts, scenes

PACKAGE = Path(__file__).resolve().parents[2] / "certify" / "world"
STAGES = ("prompts", "clip", "autoencoder", "judge", "denoiser", "variant", "ship", "gates", "tune", "levels", "grid")


def main() -> None:
    """Runs one stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--work", type=Path, default=Path("runs/world"))
    parser.add_argument("--steps", type=int, default=None, help="training steps of the stage")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--start", type=Path, default=None, help="start from weights saved here (autoencoder, denoiser)"
    )
    parser.add_argument(
        "--channels",
        type=int,
        nargs=2,
        default=None,
        help="widths of a variant trained from nothing (default: further)",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/world/grid.png"), help="picture of `grid`")
    a = parser.parse_args()
    work: Path = a.work
    if a.stage == "prompts":
        prompts.write(PACKAGE)
    elif a.stage == "clip":
        from experiments.world import clip

        language.build_tokenizer(work / "tokenizer", corpus(), language.MERGES)
        clip.train(work / "clip", work / "tokenizer", steps=a.steps or 1200, seed=a.seed)
    elif a.stage == "autoencoder":
        from experiments.world import autoencoder

        autoencoder.train(work / "vae", steps=a.steps or 3400, seed=a.seed, start=a.start)
    elif a.stage == "judge":
        from experiments.world import judging

        judging.train(work / "judge.safetensors", steps=a.steps or 580, seed=a.seed)
    elif a.stage == "denoiser":
        from experiments.world import denoiser

        parts = (work / "clip", work / "tokenizer", work / "vae")
        denoiser.train(work / "unet", *parts, steps=a.steps or 5000, seed=a.seed, start=a.start)
    elif a.stage == "variant":
        from experiments.world import variant

        channels = None if a.channels is None else (a.channels[0], a.channels[1])
        rate = 3e-4 if channels is None else 1.2e-3
        print(f"written: {variant.make(work, steps=a.steps or 600, seed=a.seed, channels=channels, rate=rate)}/")
    elif a.stage == "ship":
        ship(work)
    elif a.stage == "gates":
        from experiments.world import gates

        gates.show()
    elif a.stage == "tune":
        from experiments.world import gates

        gates.tune()
    elif a.stage == "levels":
        from experiments.world import gates

        gates.levels()
    else:
        from experiments.world import gates

        gates.grid(a.out)


def corpus(count: int = 12000) -> list[str]:
    """The captions that the vocabulary is learned from."""
    rows = scenes.sample_scenes(count, torch.Generator().manual_seed(0)).tolist()
    rng = random.Random(0)
    return [language.caption(row, rng).text for row in rows]


def ship(work: Path, package: Path = PACKAGE) -> None:
    """Puts the stages together in a folder: pipeline, image tower and judge, fp16 safetensors."""
    from safetensors.torch import load_file, save_file

    from experiments.world import denoiser

    target = package / "pipeline"
    shutil.rmtree(target, ignore_errors=True)
    denoiser.assemble(target, work / "unet", work / "clip", work / "tokenizer", work / "vae")
    for name, source in (("image_tower", work / "clip" / "image_tower"), ("judge", work / "judge")):
        state = load_file(source.with_suffix(".safetensors"))
        small = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
        save_file(small, package / f"{name}.safetensors")
    size = sum(f.stat().st_size for f in package.rglob("*") if f.suffix == ".safetensors")
    print(f"{size / 1e6:.2f} MB in {package.name}/")


if __name__ == "__main__":
    main()
