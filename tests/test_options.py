"""Options: a name that a function does not have is refused before anything is drawn, and nothing false goes on record."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
import torch

import certify
from certify import _validate
from certify.adaptive import POLICIES, AdaptiveMedianSmoother, AdaptiveOptions
from certify.adaptive.options import CertifyOptions, PromptOptions
from certify.certificate.words import NOT_COVERED
from certify.models import load_text_encoder
from certify.statements.ask import MSE, ask
from certify.statements.drawing import AskOptions, Drawing, Draws, RateOptions

ROOT = Path(__file__).parents[1]
PROMPT = "a photo of a red circle"
Y = torch.zeros(2)


def never(z: Any, **_: Any) -> Any:
    raise AssertionError("drawn")


@pytest.fixture(scope="module")
def adaptive() -> AdaptiveMedianSmoother:
    return AdaptiveMedianSmoother.from_encoder(load_text_encoder(), ["circle"], n=3, **certify.world.SMOOTHING)


# What hands its options on to somebody else's function, or is handed them by a decorator or a class statement.
FOREIGN = {
    ("certify/plots/style.py", "drawn"),
    ("certify/plots/style.py", "savefig"),
    ("certify/_records.py", "__init_subclass__"),
    ("certify/cli/endings.py", "make_context"),
    ("certify/cli/settings.py", "run"),
    ("certify/cli/scripts.py", "run"),
    # Arguments of the pipeline's own `__call__`, `encode_prompt` and `to`.
    ("certify/models/encoders/pipeline.py", "encode_prompt"),
    ("certify/models/encoders/pipeline.py", "run"),
    ("certify/defence/defence.py", "to"),
    ("certify/defence/defence.py", "__call__"),
    ("certify/defence/defence.py", "explain"),
    ("certify/defence/defence.py", "problem"),
    ("certify/defence/defence.py", "images"),
    ("certify/defence/calls.py", "run"),
    # Of `from_pretrained`.
    ("certify/models/load.py", "_load_part"),
    # The configuration of eval-unlearn, which has its own names.
    ("certify/plugins/eval_unlearn.py", "__init__"),
    ("certify/plugins/eval_unlearn.py", "generate"),
    ("certify/defence/smoother.py", "problem"),
}
# Options of one of two classes: which one, the pipeline decides. That class refuses others by their names.
EITHER = {("certify/defence/building.py", "defend")} | {
    ("certify/defence/defence.py", name) for name in ("certify", "check")
}
# Names of what is put on record, and fields of a dataclass, which refuses others itself.
OPEN = {
    ("certify/statements/decision.py", "answer"),
    ("certify/statements/decide.py", "_of_counts"),
    ("certify/statements/decide_mse.py", "_answer"),
    ("certify/report/card.py", "_metric"),
}


def test_no_function_hides_the_names_of_its_options() -> None:
    """`**options` is annotated with the options' names, for who reads, completes or type-checks a call."""
    hidden = set()
    for path in ROOT.glob("certify/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.args.kwarg is not None:
                hint = node.args.kwarg.annotation
                if hint is None or not ast.unparse(hint).startswith("Unpack["):
                    hidden.add((str(path.relative_to(ROOT)), node.name))
    assert (
        hidden - {("certify/_validate.py", "checked")} <= FOREIGN | OPEN | EITHER
    )  # `suggests` hides nothing: what it wraps is shown


CALLS = {
    "percentile_bounds": lambda **o: certify.percentile_bounds(never, Y, 0.5, rho=1.0, **o),
    "mse_bound": lambda **o: certify.mse_bound(never, Y, 0.5, rho=1.0, **o),
    "certified_radius": lambda **o: certify.certified_radius(never, Y, 0.5, tolerance=1.0, **o),
    "bound_curve": lambda **o: certify.bound_curve(never, Y, 0.5, rhos=[1.0], **o),
    "deployed_bound": lambda **o: certify.deployed_bound(never, Y, 0.5, rho=1.0, **o),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    ("wrong", "meant"),
    [("batchsize", "batch_size"), ("centre", "center"), ("draws", "n"), ("sed", "seed"), ("progres", "progress")],
)
def test_statements_say_what_was_meant(name: str, wrong: str, meant: str) -> None:
    with pytest.raises(TypeError, match=rf"{name}\(\) has no option '{wrong}': did you mean '{meant}'\?"):
        CALLS[name](**{wrong: 1})


@pytest.mark.parametrize(
    ("wrong", "value", "meant"),
    [
        ("aplha", 1e-6, "alpha"),
        ("draws", 300, "n"),
        ("rho_deploy", 3.0, "rho_deployed"),
        ("rho_deployd", 3.0, "rho_deployed"),
        ("detektor", "x", "detector"),
        ("num_inference_steps", 8, "steps"),
        ("guidance_scale", 2.0, "guidance"),
    ],
)
def test_certify_says_what_was_meant(
    adaptive: AdaptiveMedianSmoother, monkeypatch: pytest.MonkeyPatch, wrong: str, value: Any, meant: str
) -> None:
    monkeypatch.setattr(adaptive.encoder, "encode", never)
    with pytest.raises(TypeError, match=rf"certify\(\) has no option '{wrong}': did you mean '{meant}'\?"):
        adaptive.certify(PROMPT, **{wrong: value})


def test_a_memory_stores_nothing_for_a_misspelt_option(tmp_path: Path, adaptive: AdaptiveMedianSmoother) -> None:
    smoother = AdaptiveMedianSmoother.from_encoder(adaptive.encoder, ["circle"], policy="memory", memory=tmp_path)
    before = smoother.memory.digest()  # type: ignore[union-attr]
    with pytest.raises(TypeError, match="did you mean 'alpha'"):
        smoother.certify(PROMPT, aplha=1e-6)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="n = 'many'"):
        smoother.certify(PROMPT, n="many")  # type: ignore[typeddict-item]
    assert smoother.memory.digest() == before  # type: ignore[union-attr]


def test_building_a_smoother_says_what_was_meant(adaptive: AdaptiveMedianSmoother) -> None:
    for build in (AdaptiveMedianSmoother.from_encoder, AdaptiveMedianSmoother.from_pipeline):
        with pytest.raises(TypeError, match=r"has no option 'sigma': did you mean 'sigma0'\?"):
            build(adaptive.encoder, ["circle"], sigma=0.1)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"has no option 'colour': its options are sigma0, "):
        AdaptiveMedianSmoother.from_encoder(adaptive.encoder, ["circle"], colour=1)  # type: ignore[call-arg]


def test_the_names_of_options_are_those_of_the_function() -> None:
    import inspect

    drawn = [p for part in (Draws, Drawing) for p in inspect.signature(part).parameters]
    assert set(drawn) - {"f", "y", "noise", "called", "replicas", "how"} == set(AskOptions.__annotations__)
    assert {*inspect.signature(Draws).parameters} == {*RateOptions.__annotations__}
    for function, options in (
        (PromptOptions, CertifyOptions),
        (AdaptiveMedianSmoother, AdaptiveOptions),
    ):
        names = {p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY}
        assert names - {"denoiser"} == set(options.__annotations__)
    mistaken = {name for here in _validate.ELSEWHERE.values() for name in here}
    own = {*AskOptions.__annotations__, *CertifyOptions.__annotations__, *AdaptiveOptions.__annotations__}
    assert mistaken <= own | {"rho", "replicas", "smoother"}


MISSPELT: dict[str, tuple[Any, dict[str, str]]] = {
    "ask": (ask, {"sed": "seed", "batchsize": "batch_size", "num_samples": "n"}),
    "percentile_bounds": (certify.percentile_bounds, {"aplha": "alpha", "roh": "rho", "sed": "seed"}),
    "mse_bound": (certify.mse_bound, {"aplha": "alpha", "confidence": "alpha", "radius": "rho", "metod": "method"}),
    "bound_curve": (certify.bound_curve, {"radii": "rhos", "confidence": "alpha", "simultanous": "simultaneous"}),
    "deployed_bound": (certify.deployed_bound, {"copies": "replicas", "aggregate": "smoother"}),
    "certified_radius": (certify.certified_radius, {"tolerence": "tolerance", "confidence": "alpha"}),
    "event_bound": (certify.event_bound, {"aplha": "alpha", "epsilon": "rho", "replica": "replicas"}),
    "statistic_bound": (certify.statistic_bound, {"aplha": "alpha", "samples": "n"}),
    "mean_bound": (certify.mean_bound, {"aplha": "alpha", "repeat": "repeats", "samples": "n"}),
    "classify": (certify.classify, {"aplha": "alpha", "samples": "n", "class": "classes"}),
    "classify_many": (certify.classify_many, {"aplha": "alpha", "sed": "seed"}),
    "event_rate_over": (certify.event_rate_over, {"radii": "rhos"}),
    "decide_mse": (certify.decide_mse, {"tolerence": "tolerance"}),
    "decide_event": (certify.decide_event, {"targt": "target"}),
    "decide_statistic": (certify.decide_statistic, {"confidence": "alpha"}),
    "plan": (certify.plan, {"output": "outputs", "confidence": "alpha", "draws": "n"}),
    "MedianSmoother": (certify.MedianSmoother, {"replicas": "n", "batchsize": "batch_size"}),
    "load_pipeline": (certify.load_pipeline, {"devise": "device", "textencoder": "text_encoder"}),
    "of": (certify.Certificate.of, {"keepinput": "keep_input"}),
    "encode": (AdaptiveMedianSmoother.encode, {"sed": "seed", "prompt": "prompts"}),
}


@pytest.mark.parametrize("name", MISSPELT)
def test_of_a_misspelt_option_every_function_says_what_was_meant(name: str) -> None:
    """Its own keywords too, and before Python says that another is missing."""
    function, options = MISSPELT[name]
    for given, meant in options.items():
        with pytest.raises(TypeError, match=rf"^{name}\(\) has no option '{given}': did you mean '{meant}'\?"):
            function(**{given: 1})


def test_what_ran_is_what_is_on_record(adaptive: AdaptiveMedianSmoother) -> None:
    """Found by use: `certify(…, **world.DEFAULTS)` put 8 steps on record for images made with 50."""
    made = adaptive.certify(PROMPT, n=64, statistics=0, provenance={"source": {"model": None}, "note": "mine"})
    assert made.provenance["note"] == "mine"
    for name, value in {
        **certify.world.DEFAULTS,
        "steps": 8,
        "guidance": 2.0,
        "images": {"steps": 8},
        "seed": 5,
    }.items():
        with pytest.raises(ValueError, match=f"provenance names '{name}': must be another name"):
            adaptive.certify(PROMPT, n=64, statistics=0, provenance={name: value})
    # Whatever a certificate has on record of itself, no caller can say instead.
    for name in made.provenance:
        if name not in ("source", "note"):
            with pytest.raises(ValueError, match=f"provenance names '{name}'"):
                adaptive.certify(PROMPT, n=64, statistics=0, provenance={name: 1})
    bound = certify.mse_bound(torch.sin, Y, 0.5, rho=1.0, n=64)
    for name in (
        *(
            "seed",
            "n",
            "rho",
            "alpha",
            "draws",
            "batch_size",
            "policy",
            "function",
            "claims",
            "sigma",
            "steps",
            "guidance",
        ),
        *(
            "model_sha256",
            "certify",
            "value",
            "confidence",
            "num_samples",
            "theorem",
            "schema_version",
            "pilot",
            "replicas",
        ),
    ):
        with pytest.raises(ValueError, match=f"provenance names '{name}': must be another name"):
            certify.Certificate.of(bound, provenance={name: 5})
    free = {"note": "mine", "source": "a file", "n_of_layers": 3}
    assert free.items() <= certify.Certificate.of(bound, provenance=free).provenance.items()
    with pytest.raises(TypeError, match=r"of\(\) has no option 'modle': did you mean 'model'\?"):
        certify.Certificate.of(bound, modle=None)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="must be a mapping of names to JSON values"):
        certify.Certificate.of(bound, provenance=["note"])  # type: ignore[arg-type]


POLICY = {
    "ask": lambda **o: ask(never, Y, 0.5, [MSE(1.0)], **o),
    "statistic_bound": lambda **o: certify.statistic_bound(never, Y, 0.5, rho=1.0, **o),
    "event_bound": lambda **o: certify.event_bound(never, Y, 0.5, rho=1.0, **o),
    "mean_bound": lambda **o: certify.mean_bound(never, Y, 0.5, rho=1.0, **o),
    "classify": lambda **o: certify.classify(never, Y, 0.5, **o),
    "classify_many": lambda **o: certify.classify_many(never, [Y], 0.5, **o),
    "decide_event": lambda **o: certify.decide_event(never, Y, 0.5, target=0.1, rho=1.0, **o),
    "decide_statistic": lambda **o: certify.decide_statistic(never, Y, 0.5, threshold=1.0, rho=1.0, **o),
    "decide_mse": lambda **o: certify.decide_mse(never, Y, 0.5, tolerance=1.0, rho=1.0, **o),
    **CALLS,
}


@pytest.mark.parametrize("name", POLICY)
def test_a_record_takes_no_policy_that_there_is_not(name: str) -> None:
    for wrong in ("typo", "Frozen", None, ["frozen"], 1):
        with pytest.raises(ValueError, match=r"policy = .*: must be one of 'frozen', 'noise-then-adapt', 'memory'"):
            POLICY[name](policy=wrong)
    with pytest.raises(TypeError, match=r"function = 5: must be a string"):
        POLICY[name](function=5)


def test_every_policy_says_what_it_does_not_cover() -> None:
    assert tuple(NOT_COVERED) == POLICIES


def test_every_choice_in_words_is_checked_where_it_is_made(adaptive: AdaptiveMedianSmoother) -> None:
    from dataclasses import replace

    from certify.adaptive.deployment import Deployment
    from certify.bounds.copies import statistic_limits
    from certify.noise import GaussianNoise
    from experiments.defenses.ams import Settings
    from experiments.soundness.attack import smoothed
    from experiments.soundness.verify import deployed_distances

    made: Deployment = adaptive.deployment(PROMPT)
    noise = GaussianNoise(1.0)
    how: dict[str, Any] = {"rho": 1.0, "replicas": 1, "alpha": 0.1}
    for name, build in (
        ("policy", lambda: replace(made, policy="typo")),
        ("smoother", lambda: replace(made, smoother="typo")),
        ("sharing", lambda: replace(made, sharing="typo")),
        ("side", lambda: statistic_limits(9, noise, q=0.5, side="typo", **how)),
        ("method", lambda: MSE(1.0, method="typo")),
        ("smoother", lambda: MSE(1.0, smoother="typo")),
        ("reference", lambda: ask(never, Y, 0.5, [MSE(1.0)], reference="typo")),
        ("quantity", lambda: adaptive.problem(PROMPT, "typo")),
        ("similarity", lambda: AdaptiveMedianSmoother.from_encoder(adaptive.encoder, ["circle"], similarity="typo")),
        ("aggregate", lambda: Settings(aggregate="typo")),
        ("similarity", lambda: Settings(similarity="typo")),
        ("special_tokens", lambda: Settings(special_tokens="typo")),
        ("sharing", lambda: Settings(sharing="typo")),
        ("smoother", lambda: smoothed(torch.zeros(1, 3, 2), "typo")),
        ("smoother", lambda: deployed_distances(torch.zeros(3, 2), torch.zeros(2), 1, "typo")),
    ):
        with pytest.raises(ValueError, match=f"{name} = 'typo': must be one of '"):
            build()
