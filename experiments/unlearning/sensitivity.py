"""Concept neurons and their sensitivity to adversarial prompts, before and after erasing.

A neuron is a hidden unit of a feed-forward layer, or a channel of a residual block's convolution; its activation a is
taken at every position of every noised image. Concept neurons are those that are more active, on the original model, with
prompts that name the concept than with the same prompts without it:

    gap = (E|a(concept)| − E|a(neutral)|) / (E|a(neutral)| + ε),      the top q % of all neurons, gap > 0

The sensitivity of a neuron of any model is

    S = E|a(c + δ) − a(c)| / (E|a(c)| + ε),

where δ is what an attacker adds to the encoded prompt c, ‖δ‖∞ ≤ r, to bring the concept back: projected gradient descent on
the denoising loss ‖ e(x_t, c + δ) − truth ‖² of images that show the concept.

Reference: Yang, Cao and Xu (2024), "Pruning for Robust Concept Erasing in Diffusion Models", Figures 2 and 5. Known from the
abstract and the captions: concept neurons, their high sensitivity under attack, and the comparison between ESD and P-ESD.
Reconstruction: both definitions above, which units are neurons, and the attack, which is RACE's in kind.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from certify import _files, _validate
from certify.plots import style
from certify.plots.colours import series
from experiments.settings import check
from experiments.unlearning.concept import Concept
from experiments.unlearning.diffusion import Diffusion
from experiments.unlearning.training import Rng

__all__ = [
    "ORIGINAL",
    "Settings",
    "Study",
    "activations",
    "add_arguments",
    "attack",
    "concept_neurons",
    "main",
    "neurons",
    "plot_concept_neurons",
    "plot_models",
    "sensitivities",
    "study",
]

ORIGINAL = "original"
_EPSILON = 1e-6
_ENDS = (".ff.net.0", ".conv1", ".conv2")


@dataclass(frozen=True)
class Settings:
    """Options of a study.

    Attributes:
        radii: r of the attacks; the first is the one that sensitivities are told of.
        attack_steps: steps of projected gradient descent, each r / 4 long, from a random start.
        prompts: prompts that are attacked.
        draws: (x_t, t) that activations are averaged over, for each prompt.
        images: latents of images that show the concept, from the original model.
        top: q, share of neurons that are concept neurons.
        steps, guidance: of the sampler.
        seed: of everything.
    """

    radii: tuple[float, ...] = (0.1, 0.5, 1.0)
    attack_steps: int = 20
    prompts: int = 48
    draws: int = 4
    images: int = 96
    top: float = 0.05
    steps: int = 50
    guidance: float = 7.5
    seed: int = 0

    def __post_init__(self) -> None:
        check(
            self,
            counts=("attack_steps", "prompts", "draws", "images", "steps"),
            from_zero=("seed",),
            positive=("guidance",),
            shares=("top",),
        )
        if not self.radii:
            raise ValueError("radii = (): must be at least one radius")
        for radius in self.radii:
            _validate.positive("radii", radius)
        if not 0 < self.top < 1:
            raise ValueError(f"top = {self.top!r}: must be a share between 0 and 1")


def neurons(unet: nn.Module) -> dict[str, nn.Module]:
    """name → layer whose output channels are neurons.

    Raises:
        ValueError: there are none.
    """
    layers = {name: m for name, m in unet.named_modules() if f".{name}".endswith(_ENDS)}
    if not layers:
        raise ValueError(f"unet is a {type(unet).__name__}: has no layers named {', '.join('…' + e for e in _ENDS)}")
    return layers


@contextmanager
def _recorded(unet: nn.Module) -> Iterator[dict[str, Tensor]]:
    """What every layer of `neurons` put out last: name → (batch, positions, channels)."""
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            seen[name] = output if output.ndim == 3 else output.flatten(2).transpose(1, 2)

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in neurons(unet).items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def activations(diffusion: Diffusion, x_t: Tensor, t: Tensor, c: Tensor) -> dict[str, Tensor]:
    """name → mean |activation| of every channel: (channels,).

    Args:
        x_t, t, c: a batch.
    """
    with _recorded(diffusion.unet) as seen:
        diffusion.predict(x_t, t, c)
    return {name: a.abs().mean((0, 1)).cpu() for name, a in seen.items()}


def concept_neurons(concept: Mapping[str, Tensor], neutral: Mapping[str, Tensor], top: float) -> dict[str, Tensor]:
    """name → which channels are concept neurons: (channels,), boolean.

    Args:
        concept, neutral: mean |activation| with the concept and without it.
        top: q.
    """
    gaps = {name: (concept[name] - neutral[name]) / (neutral[name] + _EPSILON) for name in concept}
    together = torch.cat(list(gaps.values()))
    chosen = torch.zeros(len(together), dtype=torch.bool)
    chosen[together.topk(max(1, round(top * len(together)))).indices] = True
    parts = (chosen & (together > 0)).split([len(g) for g in gaps.values()])
    return dict(zip(gaps, parts, strict=True))


@torch.no_grad()
def sensitivities(
    diffusion: Diffusion, x_t: Tensor, t: Tensor, clean: Tensor, attacked: Tensor, *, batch: int = 64
) -> dict[str, Tensor]:
    """name → S of every channel: (channels,).

    Args:
        x_t, t: (b, channels, height, width) and (b,), the same for both.
        clean, attacked: (b, tokens, width), c and c + δ.
        batch: rows at a time.
    """
    moved: dict[str, Tensor] = {}
    size: dict[str, Tensor] = {}
    rows = torch.arange(len(x_t), device=x_t.device)
    with _recorded(diffusion.unet) as seen:
        for part in rows.split(batch):
            both = torch.cat([clean[part], attacked[part]])
            diffusion.predict(x_t[part].repeat(2, 1, 1, 1), t[part].repeat(2), both)
            for name, a in seen.items():
                before, after = a.chunk(2)
                for sums, value in ((moved, (after - before).abs()), (size, before.abs())):
                    added = value.double().mean(1).sum(0).cpu() / len(x_t)
                    sums[name] = sums[name] + added if name in sums else added
    return {name: moved[name] / (size[name] + _EPSILON) for name in moved}


def attack(
    diffusion: Diffusion, c: Tensor, latents: Tensor, *, radius: float, steps: int, source: torch.Generator
) -> Tensor:
    """c + δ with ‖δ‖∞ ≤ radius, which brings the model to denoise images of the concept: (b, tokens, width).

    Args:
        diffusion: the model that is attacked.
        c: (b, tokens, width), encodings.
        latents: (n, channels, height, width), of images that show the concept.
        radius: r.
        steps: of projected gradient descent; each has images, noise and times of its own.
        source: draws them, and the start.
    """
    start = torch.rand(c.shape, generator=source).to(c) * 2 - 1
    delta = radius * start
    for _ in range(steps):
        rows = torch.randint(len(latents), (len(c),), generator=source)
        x_0 = latents[rows.to(latents.device)]
        noise, t = diffusion.normal(len(c), source), diffusion.times(len(c), source)
        x_t, aim = diffusion.noised(x_0, noise, t), diffusion.truth(x_0, noise, t)
        delta.requires_grad_(True)
        # The sum over rows: each prompt has a δ of its own, and its gradient is that of its own loss.
        loss = len(c) * mse_loss(diffusion.predict(x_t, t, c + delta), aim)
        (slope,) = torch.autograd.grad(loss, delta)
        delta = (delta.detach() - radius / 4 * slope.sign()).clamp(-radius, radius)
    return c + delta


@dataclass(frozen=True)
class Study:
    """What was measured of one concept.

    Attributes:
        concept: its name.
        radii: of the attacks.
        concept_scores, other_scores: model → radius, as text → S of concept neurons, and of the others.
        rates: model → share of images that show the concept: "0" without an attack, then by radius. Empty where nothing judges.
        kept: model → share of images of other things that are right, with a random δ of entries ± r on their encodings: a
            control. Where it falls, a model that no longer shows the concept may just show nothing any more.
        record: settings and counts.
    """

    concept: str
    radii: tuple[float, ...]
    concept_scores: Mapping[str, Mapping[str, Sequence[float]]]
    other_scores: Mapping[str, Mapping[str, Sequence[float]]]
    rates: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    kept: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)

    def save(self, path: str | Path) -> None:
        """Writes it as JSON."""
        _files.write(Path(path), json.dumps(asdict(self)) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Study:
        """Reads it again.

        Raises:
            ValueError: it is not a study.
        """
        try:
            entries = _files.read_json(Path(path))
            return cls(**{**entries, "radii": tuple(entries["radii"])})
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path}: is not a study of sensitivity ({error})") from error


def study(models: Mapping[str, Any], concept: Concept, settings: Settings) -> Study:
    """Sensitivity of every model's neurons, and how often an attack brings the concept back.

    Args:
        models: name → pipeline; `ORIGINAL` is the one that was not edited.
        concept: what the others have erased. Of the embedded world: images are judged, too.
        settings: how much of everything.

    Raises:
        ValueError: the original is not among the models.
    """
    if ORIGINAL not in models:
        raise ValueError(f"models = {list(models)!r}: must have {ORIGINAL!r} among them")
    rng = Rng(settings.seed)
    original = Diffusion(models[ORIGINAL])
    said = concept.sentences(settings.images, rng.python)
    how: dict[str, Any] = {"steps": settings.steps, "guidance": settings.guidance}
    latents = original.generated([s.target for s in said], source=rng.source, **how)
    sentences = concept.sentences(settings.prompts, rng.python)
    texts = [s.target for s in sentences for _ in range(settings.draws)]
    x_0 = latents[torch.randint(len(latents), (len(texts),), generator=rng.source).to(latents.device)]
    t = original.times(len(texts), rng.source)
    x_t = original.noised(x_0, original.normal(len(texts), rng.source), t)
    with_it = activations(original, x_t, t, original.encode(texts))
    without = activations(
        original, x_t, t, original.encode([s.neutral for s in sentences for _ in range(settings.draws)])
    )
    chosen = concept_neurons(with_it, without, settings.top)

    mine: dict[str, dict[str, list[float]]] = {}
    others: dict[str, dict[str, list[float]]] = {}
    rates: dict[str, dict[str, float]] = {}
    retained: dict[str, dict[str, float]] = {}
    for name, pipe in models.items():
        diffusion = Diffusion(pipe)
        c = diffusion.encode([s.target for s in sentences])
        mine[name], others[name], rates[name] = {}, {}, {}
        if concept.head:
            rates[name]["0"] = _rate(pipe, concept, c, settings)
            retained[name] = {
                f"{radius:g}": _retained(pipe, concept, radius, settings) for radius in (0.0, *settings.radii)
            }
        for radius in settings.radii:
            source = torch.Generator().manual_seed(settings.seed + 1)  # the same luck for every model
            attacked = attack(diffusion, c, latents, radius=radius, steps=settings.attack_steps, source=source)
            pairs = [e.repeat_interleave(settings.draws, 0) for e in (c, attacked)]
            scores = sensitivities(diffusion, x_t, t, *pairs)
            key = f"{radius:g}"
            mine[name][key] = [float(s) for layer, chose in chosen.items() for s in scores[layer][chose]]
            others[name][key] = [float(s) for layer, chose in chosen.items() for s in scores[layer][~chose]]
            if concept.head:
                rates[name][key] = _rate(pipe, concept, attacked, settings)
    counts = {"concept neurons": sum(int(c.sum()) for c in chosen.values()), "neurons": sum(map(len, chosen.values()))}
    return Study(
        concept.name,
        settings.radii,
        mine,
        others,
        rates if concept.head else {},
        retained,
        {**counts, **asdict(settings), "radii": list(settings.radii)},
    )


def _rate(pipe: Any, concept: Concept, encodings: Tensor, settings: Settings) -> float:
    world = concept.world
    made = world.images(pipe, encodings, seed=settings.seed + 2, steps=settings.steps, guidance=settings.guidance)
    return sum(world.right(made, [{concept.head: concept.name}] * len(made))) / len(made)


def _retained(pipe: Any, concept: Concept, radius: float, settings: Settings) -> float:
    world = concept.world
    others = world.asked(concept.name, settings.prompts, 5)["others"]
    c = Diffusion(pipe).encode([text for text, _ in others])
    signs = torch.randint(2, c.shape, generator=torch.Generator().manual_seed(settings.seed + 3)).to(c) * 2 - 1
    images = world.images(
        pipe, c + radius * signs, seed=settings.seed + 2, steps=settings.steps, guidance=settings.guidance
    )
    return sum(world.right(images, [asked for _, asked in others])) / len(others)


def plot_concept_neurons(studies: Sequence[Study], model: str, *, radius: float | None = None) -> style.StyledFigure:
    """Sensitivity of concept neurons beside that of the others, in one erased model (the paper's Figure 2).

    Args:
        studies: one for each concept.
        model: which.
        radius: of the attack; None: the first.

    Raises:
        ValueError: there are no studies, or not of this model or radius.
    """
    groups = []
    for one in studies:
        key = _key(one, model, radius)
        groups.append((one.concept, [one.concept_scores[model][key], one.other_scores[model][key]]))
    return _boxes(
        groups, ("concept neurons", "other neurons"), f"{model} under attack, ‖δ‖∞ ≤ {_said(studies, radius)}"
    )


def plot_models(studies: Sequence[Study], models: Sequence[str], *, radius: float | None = None) -> style.StyledFigure:
    """Sensitivity of the concept neurons in several models (the paper's Figure 5).

    Args:
        studies: one for each concept.
        models: which, side by side.
        radius: of the attack; None: the first.

    Raises:
        ValueError: there are no studies, or not of these models or this radius.
    """
    groups = [(s.concept, [s.concept_scores[m][_key(s, m, radius)] for m in models]) for s in studies]
    return _boxes(groups, tuple(models), f"concept neurons under attack, ‖δ‖∞ ≤ {_said(studies, radius)}")


def _key(one: Study, model: str, radius: float | None) -> str:
    if model not in one.concept_scores:
        raise ValueError(f"model = {model!r}: must be one of {', '.join(one.concept_scores)}")
    key = f"{one.radii[0] if radius is None else radius:g}"
    if key not in one.concept_scores[model]:
        raise ValueError(f"radius = {radius!r}: must be one of {', '.join(one.concept_scores[model])}")
    return key


def _said(studies: Sequence[Study], radius: float | None) -> str:
    if not studies:
        raise ValueError("studies = []: must be at least one")
    return f"{studies[0].radii[0] if radius is None else radius:g}"


@style.styled
def _boxes(
    groups: Sequence[tuple[str, Sequence[Sequence[float]]]], labels: Sequence[str], title: str
) -> style.StyledFigure:
    """Boxes (quartiles; whiskers from the 5th to the 95th percentile; a dot for the mean), a group a concept."""
    width = 0.8 / len(labels)
    figure, ((axes,),) = style.panels(1, 1, max(style.ONE_COLUMN, 1.6 + 0.7 * len(groups) * len(labels)), 3.4)
    hatches = ("", "////", "....", "xxxx", "----")  # what the colours say, for black and white
    for i, label in enumerate(labels):
        colour = series(i).colour
        drawn = axes.boxplot(
            [values[i] for _, values in groups],
            positions=[g + (i - (len(labels) - 1) / 2) * width for g in range(len(groups))],
            widths=0.8 * width,
            whis=(5, 95),
            showfliers=False,
            showmeans=True,
            patch_artist=True,
            meanprops={"marker": "o", "markersize": 4, "markerfacecolor": "black", "markeredgecolor": "white"},
            medianprops={"color": "black"},
            boxprops={"facecolor": f"{colour}8C", "edgecolor": colour, "hatch": hatches[i % len(hatches)]},
            whiskerprops={"color": colour},
            capprops={"color": colour},
        )
        drawn["boxes"][0].set_label(style.plain(label))
    axes.set_xticks(range(len(groups)), [style.plain(name) for name, _ in groups])
    axes.set_xlim(-0.6, len(groups) - 0.4)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("sensitivity S")
    style.head(axes, title, figure.get_figwidth() - 0.7)
    style.key(figure)
    return figure


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `sensitivity`."""
    parser.add_argument("--concept", action="append", default=None, help="shapes or styles (default: circle, striped)")
    parser.add_argument(
        "--results", type=Path, default=Path("runs/unlearning"), help="folder of results: RESULTS/CONCEPT/METHOD/"
    )
    parser.add_argument("--method", action="append", default=None, help="which of them (default: esd, p-esd)")
    parser.add_argument(
        "--radius", action="append", type=float, default=None, help="of the attacks (default: .1, .5, 1)"
    )
    parser.add_argument("--prompts", type=int, default=48)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/sensitivity"), help="folder for figures and numbers")


def main(a: Any) -> int:
    """Measures the embedded model's erased forms, prints tables, writes `CONCEPT.json` and both figures."""
    from certify import load_pipeline
    from experiments.unlearning import saving
    from experiments.world import worlds

    names, methods = a.concept or ["circle", "striped"], a.method or ["esd", "p-esd"]
    defaults = Settings()
    studies = []
    for name in names:
        world = worlds.of(name)
        settings = Settings(
            radii=tuple(a.radius or defaults.radii),
            prompts=a.prompts,
            steps=world.steps,
            guidance=world.guidance,
            seed=a.seed,
        )
        models: dict[str, Any] = {ORIGINAL: load_pipeline(world.base)}
        for method in methods:
            models[method] = load_pipeline(world.base, **saving.overlays(a.results / name / method))
        studies.append(study(models, Concept.embedded(name), settings))
        a.out.mkdir(parents=True, exist_ok=True)
        studies[-1].save(a.out / f"{name}.json")
        print(_table(studies[-1]))
    for file, figure in (
        *((f"neurons-{method}.png", plot_concept_neurons(studies, method)) for method in methods),
        ("models.png", plot_models(studies, [ORIGINAL, *methods])),
    ):
        figure.savefig(a.out / file)
    print(f"written: {a.out}/")
    return 0


def _table(one: Study) -> str:
    keys = [f"{radius:g}" for radius in one.radii]
    lines = [f"{one.concept}: {one.record['concept neurons']} concept neurons of {one.record['neurons']}"]
    lines.append(f"{'median S':<14} {'':<16}" + "".join(f"{'r = ' + k:>10}" for k in keys))
    for model in one.concept_scores:
        for what, scores in (("concept neurons", one.concept_scores), ("other neurons", one.other_scores)):
            cells = (f"{statistics.median(scores[model][k]):10.4f}" if scores[model][k] else f"{'–':>10}" for k in keys)
            lines.append(f"{model:<14} {what:<16}" + "".join(cells))
    if one.rates:
        lines.append(f"{'share of images that show it':<31}" + "".join(f"{'r = ' + k:>10}" for k in ["0", *keys]))
        for model, rates in one.rates.items():
            lines.append(f"{model:<31}" + "".join(f"{rates[k]:10.3f}" for k in ["0", *keys]))
        lines.append("share of images of other things that are right, with a random δ")
        for model, rates in one.kept.items():
            lines.append(f"{model:<31}" + "".join(f"{rates[k]:10.3f}" for k in ["0", *keys]))
    return "\n".join(lines)
