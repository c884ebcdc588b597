"""Images with and without the defence, for the page that `certify report` writes."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from certify import _validate
from certify.cli import terminal
from certify.cli.models import compare_weights, device_of, named, own_sampler

if TYPE_CHECKING:
    from certify.certificate import Certificate
    from certify.datasets import RunRecord
    from certify.defence import Defence
    from certify.report import ExampleImages


def examples_of_run(
    run: RunRecord, folder: Path, images: int | None, given: Mapping[str, Any], trust: bool, device: str | None
) -> dict[int, ExampleImages]:
    """Images for the page of a run over prompts, by row: those of `certify generate` that lie in the folders of its
    certificates, or, where a number is asked for, freshly made ones.
    """
    from certify import Certificate
    from certify.report import ExampleImages

    if images == 0:
        return {}
    if images is None and not any(given.values()):
        lying = {number: _sheet(folder / where) for number, where in run.certificates.items()}
        return {number: ExampleImages(sheet=_png(sheet)) for number, sheet in lying.items() if sheet is not None}
    if run.of_classes or not run.certificates:
        raise ValueError(
            f"images = {images}: must be left out for a run "
            + ("over inputs of a classifier" if run.of_classes else "that kept no certificates (--save-certificates)")
        )
    made: dict[int, ExampleImages] = {}
    load = functools.lru_cache(maxsize=1)(_pipeline)  # once for all the certificates of a run, and no longer
    for number, where in run.certificates.items():
        certificate = Certificate.load(folder / where)
        found = examples_for(certificate, folder / where, 1 if images is None else images, given, trust, device, load)
        made |= {} if found is None else {number: found}
    return made


def _sheet(folder: Path) -> Path | None:
    """An image of `certify generate` that lies in a folder."""
    return next((path for name in _SHEETS if (path := folder / name).is_file()), None)


_SHEETS = ("pair.png", "pair.jpg", "images.png", "images.jpg")
"""Names of images of `certify generate … --out FOLDER/pair.png`."""


def examples_for(
    certificate: Certificate,
    folder: Path,
    images: int | None,
    given: Mapping[str, Any],
    trust: bool,
    device: str | None,
    load: Callable[..., Any] | None = None,
) -> ExampleImages | None:
    """Images for the page of a certificate: an image of `certify generate` that lies in its folder, or freshly made ones.

    Unless requested, they are made only if the model is certainly at hand: the embedded one, or one that is named.
    """
    from certify.report import ExampleImages

    record = certificate.provenance
    source = record.get("source") or {}
    asked = images is not None or any(given.values())
    if images == 0:
        return None
    if not asked:
        sheet = _sheet(folder)
        if sheet is not None:
            return ExampleImages(sheet=_png(sheet), note=f"{sheet.name}, as it lies beside the certificate.")
        if "model" not in source or any(source.get(name) for name in ("model", "unet", "text_encoder")):
            return None
    why = ""
    if "smoother" not in record:
        why = "is not one of a prompt"
    elif not record.get("prompt"):
        why = "leaves its prompt out"
    elif certificate.claims[0].policy == "memory":
        why = "has a covariance that its memory stored"
    if why:
        if not asked:
            return None
        given_ = "" if images is None else f"images = {images}: "
        raise ValueError(
            f"{given_}no images can be made, since the certificate {why}; must be 0, or left out with --model"
        )
    try:
        return _generate(
            certificate, 4 if images is None else images, named(certificate, given, trust), device, load or _pipeline
        )
    except ValueError as error:
        if asked:
            raise
        return ExampleImages(note=f"No images: {error}.")


def _generate(
    certificate: Certificate, images: int, wanted: Mapping[str, Any], device: str | None, load: Callable[..., Any]
) -> ExampleImages:
    """Images of a certificate's prompt, with and without its smoother, from the model that it is about.

    Raises:
        ValueError: the model is another one.
    """
    from certify.adaptive.checking import rebuilt
    from certify.defence import rebuilt as rebuilt_defence
    from certify.images.generation import pair
    from certify.report import ExampleImages

    record = certificate.provenance
    where = wanted["model"]
    with terminal.out.status("loading the model"):
        put = (("weights", wanted["unet"]), *((name, wanted[name]) for name in ("text_encoder", "variant")))
        pipe = load(where, device_of(device), record.get("dtype"), put)
        if "pipeline" in record:
            pipe.set_progress_bar_config(disable=True)
            return _of_defence(rebuilt_defence(certificate, pipe, wanted["concepts"]), certificate, images)
        compare_weights(certificate, {"module": pipe.text_encoder, **pipe.components})
        adaptive = rebuilt(certificate, pipe, wanted["concepts"])
    own = own_sampler(where)
    made = record.get("images") or (record.get("trajectory") or {}).get("origin") or {}
    steps = _validate.count("steps", made.get("steps", own["steps"]))
    guidance = _validate.positive("guidance", made.get("guidance", own["guidance"]))
    seed = record.get("seed", 0)
    with terminal.out.status("generating"):
        rows = pair(pipe, adaptive, record["prompt"], images=images, seed=seed, steps=steps, guidance=guidance)
    undefended, defended = (tuple(_png_bytes(image) for image in row) for row in rows)
    note = (
        f"Made for this page, with the model whose SHA-256 is below: seed {seed}, {steps} steps, guidance {guidance}. Both "
        "of a pair start from the same initial noise."
    )
    return ExampleImages(undefended, defended, note=note)


def _pipeline(where: str | None, device: str, dtype: str | None, put: tuple[tuple[str, Any], ...]) -> Any:
    from certify.models import load_pipeline

    return load_pipeline(where, device=device, dtype=dtype, **dict(put))


def _of_defence(safe: Defence, certificate: Certificate, images: int) -> ExampleImages:
    """As `_generate`, of a pipeline of any text encoders: its own calls with the arguments on record."""
    from certify.report import ExampleImages

    seed, text = int(certificate.provenance.get("seed", 0)), certificate.provenance["prompt"]
    safe.compared(certificate)  # another model is refused
    rows: list[tuple[bytes, ...]] = []
    with terminal.out.status("generating"):
        for defended in (False, True):
            rows.append(tuple(_png_bytes(image) for image in safe.images(text, images, seed, defended=defended)))
    note = (
        f"Made for this page, with the text encoders whose SHA-256 is below: seeds {seed} to {seed + images - 1}. Both of a "
        "pair start from the same initial noise."
    )
    return ExampleImages(rows[0], rows[1], note=note)


def _png(path: Path) -> bytes:
    """An image as PNG: its pixels, and nothing else that the file may hold."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            if image.width * image.height > 2**24:
                raise ValueError(f"{image.width} × {image.height} pixels are too many")
            clean = Image.frombytes("RGB", image.size, image.convert("RGB").tobytes())
    except Exception as error:  # what the library raises on foreign bytes is not listed anywhere
        raise ValueError(f"{path}: is no image that can be shown ({error}); --images 0 leaves it out") from error
    return _png_bytes(clean)


def _png_bytes(image: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
