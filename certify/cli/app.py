"""`certify app`: the interactive page."""

from __future__ import annotations

import dataclasses
import importlib.util
from typing import Annotated, Any

from rich.text import Text

from certify import _validate
from certify.cli import checks, terminal
from certify.cli.checks import option
from certify.cli.folders import below_runs
from certify.cli.processes import one_process
from certify.cli.scripts import answer
from certify.cli.settings import Alpha, Detector, PipelineSettings, with_settings


@with_settings
def app(
    settings: PipelineSettings,
    port: Annotated[int, option("Port on 127.0.0.1; 0: any that is free.", checks.count(0, 65535))] = 7860,
    browser: Annotated[bool, option("Open the page in a browser.", None, "--browser/--no-browser")] = True,
    rho: Annotated[float, option("Radius for ideal smoothed values, at first.", _validate.positive)] = 1.0,
    rho_deployed: Annotated[float, option("Radius for what is deployed, at first.", _validate.positive)] = 0.25,
    n: Annotated[int, option("Draws of the encoding, at first.", checks.count(), "--n")] = 1_000,
    images: Annotated[int, option("Images for the attack success rate, at first.", checks.count(0))] = 64,
    detector: Detector = None,
    alpha: Alpha = 1e-3,
) -> None:
    """Open the interactive page: type a prompt, watch the bound, keep the certificate. Needs the extra `app`.

    It is served on this machine alone, and loads nothing from elsewhere. Options say what it begins with. Ctrl-C ends it.
    """
    if importlib.util.find_spec("gradio") is None:
        raise ValueError("gradio is not installed: pip install 'certify[app]' has it, as make app does")
    if settings.policy == "memory":
        raise ValueError(
            "--policy = 'memory': must be another, since its regions would be shared by whoever opens the page"
        )
    if settings.defence is not None:
        raise ValueError(
            f"--defence = {str(settings.defence)!r}: must be left out, the page asks for concept and noise"
        )
    one_process("certify app")
    from certify.adaptive import available_concepts
    from certify.adaptive.concepts import goes_with
    from certify.app import ClipModel, JointModel
    from certify.app.page import Server, build, listening
    from certify.app.subject import ModelOptions
    from certify.models.quiet import quiet_libraries

    own = listening(port)

    def detector_of(concept: str) -> str | None:
        return detector or dataclasses.replace(settings, concept=[concept]).own_detector()

    source = settings.source(settings.weights)
    del source["concepts"]
    about: ModelOptions = {
        "source": source,
        "detector_of": detector_of,
        "batch_size": settings.batch_size,
        "memory": settings.bytes,
    }
    model: ClipModel | JointModel
    if settings.joint:
        safe = settings.defended()
        adaptive: Any = safe.adaptive
        model, sigma0 = JointModel(safe, **about), adaptive.sigma0
    else:
        adaptive, pipe = settings.whole()
        model = ClipModel(pipe, smoothing=settings.smoothing(), sampler=settings.sampler, **about)
        sigma0 = adaptive.sigma0 / adaptive.encoder.embedding_std
    shipped = [name for name in available_concepts() if settings.model is not None or "embedded" in goes_with(name)]
    concepts = list(dict.fromkeys([*settings.concepts, *shipped]))
    defaults = {
        "prompt": "a photo of a red circle" if settings.model is None else "",
        "concept": concepts[0],
        "sigma0": float(f"{sigma0:.6g}"),
        "k": adaptive.k,
        "replicas": adaptive.n,
        "rho": rho,
        "rho_deployed": rho_deployed,
        "n": n,
        "images": images,
        "alpha": alpha,
        "seed": settings.seed,
    }
    server = Server(build(model, concepts, defaults, below_runs("")), own)
    answer({"address": server.address})
    terminal.out.print(Text(f"The page is at {server.address} (Ctrl-C ends it)"), soft_wrap=True)
    with quiet_libraries():
        server.run(browser)
