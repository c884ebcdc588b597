"""`certify generate` and `concepts`: what the defence does to images, and which concepts there are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from rich.markup import escape

from certify import _files, _validate
from certify.cli import checks, terminal
from certify.cli.checks import argument, option
from certify.cli.folders import below_runs, new_file, slug, unused
from certify.cli.scripts import answer
from certify.cli.settings import PipelineSettings, Prompt, with_settings


def _a_sheet(name: str, path: Path) -> None:
    new_file(name, path, (".png", ".jpg"))


@with_settings
def generate(
    settings: PipelineSettings,
    text: Prompt,
    images: Annotated[int, option("Pairs of images.", checks.count(1, checks.MOST_IMAGES))] = 4,
    seed: Annotated[int | None, option("Repeat the run with this seed.", checks.count(0), shown="fresh noise")] = None,
    out_dir: Annotated[Path | None, option("Image to write: .png or .jpg.", _a_sheet, "--out", shown="runs/…")] = None,
) -> None:
    """Generate undefended and defended images side by side, from the same initial noise."""
    from certify.images.generation import contact_sheet, side_by_side

    path = out_dir or unused(below_runs(f"{slug(text)}.png"))
    if settings.joint:
        if seed is not None:
            raise ValueError(
                f"--seed = {seed}: must be left out, noise is fresh in every image; certify.defend takes seeds of initial noise"
            )
        safe, first = settings.defended(), _validate.seed_or_fresh(None) % 2**31
        terminal.show_explanation(safe.explain(text))
        with terminal.out.status("generating"):
            sheet = contact_sheet([safe.images(text, images, first, defended=defended) for defended in (False, True)])
    else:
        adaptive, pipe = settings.whole()
        terminal.show_tokens(adaptive.prepare(text))
        with terminal.out.status("generating"):
            sheet = side_by_side(pipe, adaptive, text, images=images, seed=seed, **settings.sampler)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
    answer({"written": str(path)})
    terminal.out.print("above: undefended; below: defended, same initial noise")
    terminal.written(path)


def concepts(
    name: Annotated[str | None, argument("Show the prompt pairs of this one.", checks.concepts)] = None,
    pairs: Annotated[int, option("How many pairs to show.", checks.count())] = 5,
) -> None:
    """List the concepts that come with the toolkit. Any option that takes a name takes your own file, too."""
    from certify.adaptive import Concept, available_concepts
    from certify.adaptive.concepts import goes_with

    if name is None:
        table = terminal.table("concept", "pairs", "goes with")
        entries = available_concepts()
        answer([{"name": e, "pairs": len(Concept.load(e).pairs), "goes_with": goes_with(e)} for e in entries])
        for entry in entries:
            table.add_row(entry, str(len(Concept.load(entry).pairs)), goes_with(entry))
        terminal.out.print(table)
        terminal.out.print(
            "[dim]Context: tokens of a prompt, begin and end among them, that a text encoder has room for.[/]"
        )
        return
    loaded = Concept.load(name)
    answer({"name": loaded.name, "pairs": [list(pair) for pair in loaded.pairs]})
    table = terminal.table("positive", "negative")
    for positive, negative in list(loaded.pairs)[:pairs]:
        table.add_row(*(escape(_files.printable(text)) for text in (positive, negative)))
    terminal.out.print(table)
    terminal.out.print(f"[dim]{min(pairs, len(loaded.pairs))} of {len(loaded.pairs)} pairs of {escape(loaded.name)}[/]")
