"""What every method of unlearning must do, as checks of one method, and how each of `METHODS` is asked.

`test_methods.py` asks all of `METHODS`, and methods that are broken on purpose, which a check must catch. A new method gets
one entry in `CASES`; its own test file holds its formulas.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from certify import load_pipeline
from experiments.unlearning import (
    ablation,
    advunlearn,
    command,
    esd,
    forget_me_not,
    gift,
    parameters,
    pruning,
    race,
    rece,
    saving,
    uce,
)
from experiments.unlearning.concept import Concept
from experiments.unlearning.diffusion import Diffusion
from experiments.unlearning.measure import rates
from experiments.unlearning.method import Edit, Method
from experiments.unlearning.training import TrainingLoop

CONCEPT = Concept.of(
    ["circle"], anchor="square", neutral="photo", preserve=["coin"], templates=["a red {}", "a photo of the {}"]
)


@dataclass(frozen=True)
class Variant:
    """Settings changed so, and a concept of that kind: a filter of `parameters` whose weights change, and no others."""

    which: str
    options: Mapping[str, Any]
    kind: str = "object"


@dataclass(frozen=True)
class Erasing:
    """A run on the embedded model with less than the embedded settings, and what 24 images of each kind must show after it.

    The unedited model shows at least 85 % of what is named (`test_methods.py` measures it), so that a method that does
    nothing fails at `named`, and one that breaks the model at `others`.
    """

    concept: str
    options: Mapping[str, Any]
    named: float
    others: float
    sentences: int = 200
    slow: bool = True


@dataclass(frozen=True)
class Case:
    """How a method is asked.

    Attributes:
        settings: cheap on a tiny model, yet every branch runs and every weight moves visibly.
        variants: what trains.
        erasing: on the embedded model; (): its own test file measures what it does there.
        seeded: whether another seed gives other weights; closed forms draw nothing.
        in_place: whether the pipeline that it is given holds the result, or is left as it was.
        moves: the least share of the selected tensors that differ afterwards (of some the gradient is zero).
        stopped: changes of the settings with which it is stopped.
    """

    settings: Any
    variants: tuple[Variant, ...]
    erasing: tuple[Erasing, ...]
    seeded: bool = True
    in_place: bool = True
    moves: float = 0.5
    stopped: tuple[Mapping[str, Any], ...] = ({},)


def _pruning(objective: str, kind: type[Any]) -> Case:
    settings = kind(
        objective=objective,
        iterations=2,
        batch=2,
        steps=2,
        guidance=2.0,
        images=2,
        scoring=2,
        critical=0.2,
        budget=0.05,
    )
    gates = ("straight-through", {"learning_rate": 1.0}), ("hard-concrete", {"learning_rate": 1.0, "start": 1.0})
    variants = (Variant("full", {"gates": name, **options}) for name, options in gates)
    return Case(settings, tuple(variants), (Erasing("circle", {}, 0.45, 0.6),), in_place=False)


CASES: dict[str, Case] = {
    "esd": Case(
        esd.Settings(iterations=2, batch=2, steps=2, learning_rate=1e-3),
        (Variant("noxattn", {}), Variant("xattn", {}, "style"), Variant("xattn-kv", {"parameters": "xattn-kv"})),
        tuple(Erasing(concept, {"iterations": 60}, 0.5, 0.75) for concept in ("circle", "striped")),
    ),
    "ac": Case(
        ablation.Settings(iterations=2, batch=2, images=5, prompts=3, steps=2, learning_rate=1e-3, prior=0.5),
        (Variant("xattn-kv", {}), Variant("attn", {"case": "nudity"})),
        tuple(Erasing(concept, {"images": 50}, 0.5, 0.6) for concept in ("circle", "striped")),
    ),
    "fmn": Case(
        forget_me_not.Settings(
            iterations=2, images=3, steps=2, batch=2, learning_rate=1e-3, inversion=True, inversion_iterations=2
        ),
        (Variant("full", {"inversion": False}), Variant("xattn", {"parameters": "xattn"})),
        (Erasing("circle", {}, 0.75, 0.0),),  # that others fall with it is its known weakness
    ),
    "p-esd": _pruning("esd", pruning.Settings),
    "p-ac": _pruning("ac", pruning.AblationSettings),
    "uce": Case(
        uce.Settings(),
        (Variant("xattn-kv", {}),),
        (Erasing("circle", {}, 0.25, 0.75, slow=False),),
        seeded=False, in_place=False, moves=1,
    ),
    "rece": Case(
        rece.Settings(epochs=2),
        (Variant("xattn-kv", {}), Variant("xattn-kv", {"together": True}, "style")),
        tuple(
            Erasing(concept, {"epochs": 2, "together": True, "rows": "all", "validation": 0}, 0.2, 0.8, 60)
            for concept in ("circle", "striped")
        ),
        seeded=False, moves=1,
    ),
    "race": Case(
        race.Settings(
            iterations=2, batch=2, steps=2, learning_rate=1e-3, attack_steps=2, radius=0.3,
            start=esd.Settings(iterations=2, batch=2, steps=2, learning_rate=1e-3),
        ),
        (Variant("noxattn", {}), Variant("xattn", {}, "style")),
        (),  # what its encodings under attack are worth is measured in test_race.py
        moves=1,
    ),
    "advunlearn": Case(
        advunlearn.Settings(
            iterations=4, batch=2, learning_rate=1e-3, warm_up=1, every=2, attack_steps=2, attack_rate=0.05, retain=2,
            steps=2, cache=2,
        ),
        (Variant("encoder", {}), Variant("encoder", {"cache": 0, "sign": True})),
        (Erasing("circle", {"iterations": 80, "cache": 8}, 0.4, 0.6, 60),),
        in_place=False, moves=0.8, stopped=({}, {"cache": 0}),
    ),
    "gift": Case(
        gift.Settings(
            rounds=2, batch=2, images=2, source="own", steps=2, guidance=1.0, safe_rate=1e-3, concept_rate=1e-3, noise=0.1,
            lookahead=1,
        ),
        (Variant("full", {"lookahead": 0}), Variant("xattn", {"parameters": "xattn"})),
        (Erasing("circle", {}, 0.1, 0.8),),
    ),
}  # fmt: skip

# What is asked


def changes_what_it_says(method: Method, case: Case, variant: Variant, folder: Path) -> None:
    """Of the weights that a filter selects it changes most, of all others none; it draws from its own seed alone; and what it
    returns is finite, of the model's types and shapes, and is what the pipeline holds if that was trained in place."""
    diffusion = prepared(folder, method)
    parts = {name: getattr(diffusion.pipe, name) for name in ("unet", "text_encoder", "vae")}
    before = {name: state(module) for name, module in parts.items()}
    original = diffusion.original
    untouched = None if original is None else state(original)
    randomness = torch.get_rng_state(), random.getstate()
    settings = replace(case.settings, **variant.options)
    edit = method.run(diffusion, replace(CONCEPT, kind=variant.kind), settings, TrainingLoop(seed=1))
    assert torch.equal(torch.get_rng_state(), randomness[0])
    assert random.getstate() == randomness[1]

    part = "text_encoder" if variant.which == "encoder" else "unet"
    selected = set(parameters.trainable(parts[part], variant.which))
    changed = dict(edit.masks) if edit.masks else dict(getattr(edit, part))
    assert edit.tensors == len(changed) > 0
    weights = before[part]
    for name, tensor in changed.items():
        assert tensor.shape == weights[name].shape, name
        assert not tensor.requires_grad, name
    if edit.masks:
        assert set(changed) <= selected
        assert all(mask.dtype == torch.bool for mask in changed.values())
        assert not all(bool(mask.all()) for mask in changed.values())
    else:
        assert set(changed) == selected
        assert all(tensor.dtype == weights[name].dtype for name, tensor in changed.items())
        assert all(bool(tensor.isfinite().all()) for tensor in changed.values())
        moved = [name for name, tensor in changed.items() if not torch.equal(tensor, weights[name])]
        assert len(moved) >= case.moves * len(changed)
    for name, module in parts.items():
        assert same(state(module), before[name] | (changed if name == part and case.in_place else {})), name
    assert original is None or same(state(original), untouched)
    json.dumps(dict(edit.record), allow_nan=False)


def is_the_seeds(method: Method, case: Case, folder: Path) -> None:
    """The same seed gives the same weights, another one others (closed forms: the same)."""
    once, again, other = (edited(method, case.settings, folder, TrainingLoop(seed))[0] for seed in (1, 1, 2))
    assert same(once, again)
    assert same(once, other) is not case.seeded


def goes_on_where_it_stopped(
    method: Method, case: Case, folder: Path, out: Path, options: Mapping[str, Any] | None = None
) -> None:
    """Stopped in the middle of any stage it ends with the weights of a run that was not, and repeats no step that a checkpoint
    held. Closed forms are quick and start again."""
    settings = replace(case.settings, **(options or {}))
    whole, steps = edited(method, settings, folder, TrainingLoop(seed=1))
    assert steps or not case.seeded
    for stage in dict.fromkeys(stage for stage, _ in steps):
        places = [i for i, (name, _) in enumerate(steps) if name == stage]
        at = places[len(places) // 2]
        part = out / stage

        def stop(name: str, step: int, count: int, loss: float, at: tuple[str, int] = steps[at]) -> None:
            if (name, step) == at:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            edited(method, settings, folder, TrainingLoop(seed=1, folder=part, every=-1.0, progress=stop))
        rest, left = edited(method, settings, folder, TrainingLoop(seed=1, folder=part, every=-1.0))
        assert left == (steps[at:] if case.seeded else steps), stage
        assert same(whole, rest), stage


def writes_what_loads(method: Method, case: Case, folder: Path, out: Path) -> None:
    """Its result is a folder whose files turn the base into the edited model, bit for bit, with its settings on record; it is
    made once, and taken for no other."""
    result, asked = out / method.name, {"seed": 3, "model": str(folder)}
    record = command.ensure_result(result, method, CONCEPT, case.settings, **asked)
    edit = command.applied(method, CONCEPT, case.settings, TrainingLoop(seed=3), model=str(folder))
    base, loaded = load_pipeline(folder), load_pipeline(folder, **saving.overlays(result))
    unet = state(base.unet)
    unet |= {name: unet[name] * mask for name, mask in edit.masks.items()} or dict(edit.unet)
    assert same(state(loaded.unet), unet)
    assert same(state(loaded.text_encoder), state(base.text_encoder) | dict(edit.text_encoder))
    assert (record["method"], record["seed"], record["base"]) == (method.name, 3, str(folder))
    assert (record["erased"], record["anchor"]) == (["circle"], "square")
    assert record["settings"] == json.loads(json.dumps(asdict(case.settings)))
    assert not list(result.glob("*.checkpoint.*"))

    def never(*given: Any) -> Edit:
        raise AssertionError("it ran again")

    asleep = replace(method, run=never)
    assert command.ensure_result(result, asleep, CONCEPT, case.settings, **asked) == record
    with pytest.raises(ValueError, match="holds a result whose seed is 3, not 4"):
        command.ensure_result(result, asleep, CONCEPT, case.settings, **(asked | {"seed": 4}))


def erases(method: Method, erasing: Erasing, out: Path) -> dict[str, float]:
    """On the embedded model the concept goes and the others stay."""
    concept = Concept.embedded(erasing.concept, sentences=erasing.sentences)
    settings = replace(method.embedded(concept.kind), **erasing.options)
    command.ensure_result(out, method, concept, settings, seed=0)
    after = rates(load_pipeline(**saving.overlays(out)), concept, 24)
    assert after["named"] <= erasing.named, after
    assert after["others"] >= erasing.others, after
    return after


# How


def prepared(folder: Path, method: Method) -> Diffusion:
    """A tiny pipeline, for a method that starts from another's result with a U-Net a little off its original."""
    pipe = load_pipeline(folder)
    if not method.after:
        return Diffusion(pipe)
    original, source = copy.deepcopy(pipe.unet), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in pipe.unet.parameters():
            p += 0.02 * torch.randn(p.shape, generator=source)
    return Diffusion(pipe, original)


def edited(
    method: Method, settings: Any, folder: Path, loop: TrainingLoop
) -> tuple[dict[str, torch.Tensor], list[tuple[str, int]]]:
    """All that changed, and the steps that were made, by the command's own path."""
    steps: list[tuple[str, int]] = []
    watching: Callable[..., None] = loop.progress or (lambda *entry: None)

    def watch(stage: str, step: int, count: int, loss: float) -> None:
        steps.append((stage, step))
        watching(stage, step, count, loss)

    edit = command.applied(method, CONCEPT, settings, replace(loop, progress=watch), model=str(folder))
    parts = {"unet": edit.unet, "text_encoder": edit.text_encoder, "mask": edit.masks}
    return {f"{part}.{name}": t for part, named in parts.items() for name, t in named.items()}, steps


def state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A copy of its tensors."""
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def same(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    return set(one) == set(other) and all(torch.equal(tensor, other[name]) for name, tensor in one.items())
