"""Training of the judge, on renderings and on things that are no shape."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from certify.world.judge import LABELS, Judge
from experiments.world import scenes
from experiments.world.training import Run

__all__ = ["garbled", "quality", "train"]


def garbled(count: int, source: torch.Generator, world: Any = scenes) -> Tensor:
    """Images (count, 3, 32, 32) that show no shape: blanks, noise, blobs, shuffled scenes, scenes mostly painted over."""
    x = world.render(world.sample_plain(count, source), source)
    out = torch.empty_like(x)
    kinds = torch.randint(6, (count,), generator=source)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=source)

    for i in range(count):
        kind, image = int(kinds[i]), x[i]
        ground, paint = image[:, :1, :1].expand(3, 32, 32), uniform(3, 1, 1).expand(3, 32, 32)
        if kind == 0:  # blank, perhaps with a gradient
            out[i] = ground + 0.1 * (uniform(3, 1, 1) - 0.5) * torch.linspace(-1, 1, 32)
        elif kind == 1:  # noise, white or coarse
            side = (32, 16, 8, 4)[int(torch.randint(4, (1,), generator=source))]
            noise = F.interpolate(uniform(1, 3, side, side), (32, 32), mode="bilinear", align_corners=False)[0]
            weight = 0.3 + 0.7 * uniform(1)
            out[i] = weight * noise + (1 - weight) * ground
        elif kind == 2:  # blob: a level set of coarse noise
            field = F.interpolate(uniform(1, 1, 7, 7), (32, 32), mode="bicubic", align_corners=False)[0]
            mask = ((field - field.quantile(0.75 + 0.2 * float(uniform(1)))) * 12).sigmoid()
            out[i] = mask * paint + (1 - mask) * ground
        elif kind == 3:  # patches of a scene in another order
            side = (4, 8)[int(torch.randint(2, (1,), generator=source))]
            patches = F.unfold(image[None], side, stride=side)
            order = torch.randperm(patches.shape[2], generator=source)
            out[i] = F.fold(patches[:, :, order], (32, 32), side, stride=side)[0]
        elif kind == 4:  # most of the shape painted over
            cut = image.clone()
            far = (image - ground).abs().amax(dim=0) > 0.12
            where = far.nonzero()
            if len(where):
                low, high = where.amin(dim=0), where.amax(dim=0)
                axis = int(torch.randint(2, (1,), generator=source))
                edge = int(low[axis] + (0.72 + 0.2 * float(uniform(1))) * (high[axis] - low[axis]).clamp(min=1))
                cut[:, :edge, :] = torch.where(torch.tensor(axis == 0), ground[:, :edge, :], cut[:, :edge, :])
                cut[:, :, :edge] = torch.where(torch.tensor(axis == 1), ground[:, :, :edge], cut[:, :, :edge])
            out[i] = cut
        else:  # stripes or dots without a shape
            period = 2.5 + 5 * float(uniform(1))
            wave = torch.sin(torch.arange(32.0) * 2 * math.pi / period + 6 * float(uniform(1)))
            field = wave[None, :] if uniform(1) < 0.5 else wave[:, None] * wave[None, :]
            mask = (0.5 + field.expand(32, 32)).clamp(0, 1)
            out[i] = mask * paint + (1 - mask) * ground
    return out.clamp(0, 1)


def degraded(x: Tensor, source: torch.Generator) -> Tensor:
    """Renderings as a generator might blur and speckle them."""
    blurred = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    amount = torch.rand(len(x), 1, 1, 1, generator=source) * (torch.rand(len(x), 1, 1, 1, generator=source) < 0.5)
    speckle = 0.06 * torch.rand(len(x), 1, 1, 1, generator=source) * torch.randn(x.shape, generator=source)
    return (x + 0.8 * amount * (blurred - x) + speckle).clamp(0, 1)


def train(
    file: Path, *, steps: int, seed: int = 0, batch: int = 128, rate: float = 3e-3, world: Any = scenes,
    labels: Mapping[str, tuple[str, ...]] = LABELS, columns: int = 1,
) -> None:  # fmt: skip
    """Trains and saves the judge (fp16 safetensors). A run that was stopped goes on.

    Args:
        file: receives it.
        steps: how many.
        seed: of everything.
        batch: renderings a step; a third as many garbled images come on top.
        rate: peak learning rate.
        world: the module with the scenes.
        labels, columns: of the judge. A head with a class "none" learns it from garbled images, the others do not see them.
    """
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    judge = Judge(labels, columns).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(judge.parameters(), lr=rate, weight_decay=0.01)
    run = Run(file.with_name(f"{file.stem}-state.safetensors"), {"judge": judge}, optimiser, steps=steps, rate=rate)
    source = torch.Generator().manual_seed(1_000_003 * seed + run.step + 21)
    rows, size = world.sample_scenes(8192, source), 3072
    images, none = world.render(rows, source), garbled(size, source, world)
    for step in run:
        if step and step % 60 == 0:
            new = torch.randint(len(rows), (1024,), generator=source)
            rows[new] = world.sample_scenes(1024, source)
            images[new] = world.render(rows[new], source)
            none[torch.randint(size, (256,), generator=source)] = garbled(256, source, world)
        chosen = torch.randint(len(rows), (batch,), generator=source)
        empty = torch.randint(size, (batch // 3,), generator=source)
        x = degraded(torch.cat([images[chosen], none[empty]]), source).contiguous(memory_format=torch.channels_last)
        logits = judge(x)
        loss = x.new_zeros(())
        for name, values in labels.items():
            target = rows[chosen, world.ATTRIBUTES.index(name)]
            if "none" in values:
                target = torch.cat([target, torch.full((len(empty),), values.index("none"))])
            loss = loss + F.cross_entropy(logits[name][: len(target)], target)
        run.descend(loss)
    judge.eval()
    save_file({k: v.half().contiguous() if v.is_floating_point() else v for k, v in judge.state_dict().items()}, file)
    print(f"done: {quality(judge, world=world)}", flush=True)


@torch.no_grad()
def quality(judge: Judge, count: int = 3000, seed: int = 77, world: Any = scenes) -> dict[str, float]:
    """Share of right labels on held-out renderings, a head each, and of garbled images in which something is seen."""
    source = torch.Generator().manual_seed(seed)
    rows = world.sample_scenes(count, source, held=True)
    seen = judge.judge(world.render(rows, source)).labels
    result = {}
    for name, values in judge.labels.items():
        told = [values[int(i)] for i in rows[:, world.ATTRIBUTES.index(name)]]
        result[name] = sum(a == b for a, b in zip(told, seen[name], strict=True)) / count
    empty = judge.judge(garbled(count, source, world)).labels
    for name, values in judge.labels.items():
        if "none" in values:
            result[f"false {name}s"] = sum(label != "none" for label in empty[name]) / count
    return result
