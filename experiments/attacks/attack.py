"""Attack: prompts in, adversarial prompts out, as rows of a CSV that every defence reads.

An attack is made once, against one *victim* (a model from which a concept was erased), by a command that can be stopped
and goes on; what it found is a text a row, with the seed that its image is generated from. Defences are then measured
on the rows, without the attack's code.

A row's text is what a user would type: where an attack searches over token ids, only ids that the tokenizer gives back
for their own text count (`readable`), since a prompt that cannot be typed attacks nothing.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from torch import Tensor

from certify import _files
from certify.models.text import PromptEncoder
from experiments.unlearning.concept import Concept
from experiments.unlearning.diffusion import Diffusion
from experiments.unlearning.training import Rng

__all__ = ["FIELDS", "Attack", "Row", "Target", "Victim", "read_rows", "readable", "run", "written_by_attack"]


@dataclass(frozen=True)
class Target:
    """What an attacker wants an image of.

    Attributes:
        number: of the row, from 0: what names it in a resumed run.
        prompt: asks for the concept, and on the victim gives it no longer.
        seed: of the image's initial noise.
    """

    number: int
    prompt: str
    seed: int


@dataclass(frozen=True)
class Row:
    """One adversarial prompt.

    Attributes:
        attack, victim, concept: by which method, against which model, for what.
        number, prompt, seed: of the target.
        adversarial: the text.
        found: a figure of the attack's own (its loss or fitness at the end).
        note: what else is worth keeping, JSON.
    """

    attack: str
    victim: str
    concept: str
    number: int
    prompt: str
    seed: int
    adversarial: str
    found: float
    note: str = "{}"


FIELDS = tuple(f.name for f in fields(Row))


@dataclass(frozen=True, eq=False)
class Victim:
    """What an attacker has.

    Attributes:
        name: of the model ("esd", "uce", …).
        diffusion: the erased model; `diffusion.original` the U-Net before erasing, for attacks that use it.
        concept: what was erased.
        pairs: (with, without): prompts with and without the concept, for attacks that need a direction.
        images: (b, 3, height, width) in [0, 1] that show the concept, as many as targets, for attacks that start from
            images; None: none.
        smoother: what an adaptive attacker knows of the defence: an `AdaptiveMedianSmoother`; None: nothing.
        reference: the whole model before erasing, where the text encoder was erased as well; None: it is
            `diffusion.original` with the victim's text encoder.
    """

    name: str
    diffusion: Diffusion
    concept: Concept
    pairs: Sequence[tuple[str, str]] = ()
    images: Tensor | None = None
    smoother: Any = None
    reference: Diffusion | None = None

    @property
    def encoder(self) -> PromptEncoder:
        """The text encoder."""
        return self.diffusion.encoder

    def row(self, attack: str, target: Target, adversarial: str, found: float, note: dict[str, Any]) -> Row:
        """What an attack of that name found for a target, as a row."""
        told = (target.number, target.prompt, target.seed, adversarial, found, json.dumps(note))
        return Row(attack, self.name, self.concept.name, *told)


@dataclass(frozen=True)
class Attack:
    """One row of the registry.

    Attributes:
        name: on the command line and in the CSV.
        title: with its reference.
        run: (victim, targets, settings, rng) → rows, one a target, in their order. Several targets are attacked at once.
        settings: the class of its settings, whose defaults are the published ones.
        embedded: settings for the embedded model.
        needs: of "images", "pairs", "smoother", "original": what the victim must have.
        published: the published budget, in words.
    """

    name: str
    title: str
    run: Callable[[Victim, Sequence[Target], Any, Rng], list[Row]]
    settings: type[Any]
    embedded: Callable[[], Any]
    needs: tuple[str, ...] = ()
    published: str = ""


def run(
    attack: Attack,
    victim: Victim,
    targets: Sequence[Target],
    settings: Any,
    path: Path,
    *,
    seed: int = 0,
    batch: int = 32,
    source: dict[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Row]:
    """Attacks what is not in the file yet, `batch` targets at a time, and writes the file anew with every batch's rows.

    Each batch has an rng of its own, seeded by its first target: a run that was stopped ends with the rows of one that was not.
    `source`, where the targets come from, goes on record; it is the targets that must be the same when the run goes on.

    Raises:
        ValueError: the victim lacks what the attack needs, or the file is another attack's or about other prompts.
    """
    missing = [need for need in attack.needs if _lacks(victim, need)]
    if missing:
        raise ValueError(f"victim {victim.name!r} has no {', '.join(missing)}: {attack.name} needs them")
    subject = {"attack": attack.name, "victim": victim.name, "concept": victim.concept.name}
    done = read_rows(path) if path.exists() else []
    about = path.with_suffix(".json")
    record = {**subject, "settings": asdict(settings), "seed": seed, "batch": batch}
    if "smoother" in attack.needs:
        # Whether it cuts long prompts decides nothing here: the targets fit, or were said to be cut.
        record["smoother"] = {n: v for n, v in victim.smoother.settings().items() if n != "truncate"}
    if done and (not about.exists() or _without_source(_record(about)) != json.loads(json.dumps(record))):
        raise ValueError(
            f"{path}: holds rows of another attack, or with other settings; move it away, or choose another name"
        )
    there = {row.number: (row.prompt, row.seed) for row in done}
    for target in targets:
        if there.get(target.number, (target.prompt, target.seed)) != (target.prompt, target.seed):
            raise ValueError(
                f"{path}: row {target.number} is about {there[target.number][0]!r} with seed {there[target.number][1]}, "
                f"now asked for {target.prompt!r} with seed {target.seed}; move the file away, or choose another name"
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    if source is not None:
        record["prompts"] = source
    _files.write(about, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    for first in range(0, len(targets), batch):
        part = list(targets[first : first + batch])
        if all(target.number in there for target in part):
            continue
        rows = attack.run(victim, part, settings, Rng(seed * 1_000_003 + part[0].number))
        done = sorted([*done, *(row for row in rows if row.number not in there)], key=lambda row: row.number)
        _write(path, done)
        if progress is not None:
            progress(min(first + batch, len(targets)), len(targets))
    return done


def read_rows(path: str | Path) -> list[Row]:
    """The rows of a file. A last line that was cut short, so that its end is not there, is left out.

    Raises:
        ValueError: it is not CSV, has other columns, a number twice, or a value that is none.
    """
    try:
        data = _files.read_bytes(Path(path))
        lines = _files.csv_rows(_files.decoded(data[: data.rfind(b"\n") + 1]))
        _, head = next(lines, (1, []))
        if tuple(head) != FIELDS:
            raise ValueError(f"has the columns {head}: must be {', '.join(FIELDS)}")
        rows = [_row(number, line) for number, line in lines]
        counts = Counter(row.number for row in rows)
        if counts and max(counts.values()) > 1:
            raise ValueError(f"row {counts.most_common(1)[0][0]} is there twice")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return rows


def written_by_attack(path: Path) -> bool:
    """Whether a CSV has the columns of `run`'s rows.

    Raises:
        ValueError: it is no CSV.
    """
    try:
        return tuple(next(_files.csv_rows(_files.read_text(path)), (1, []))[1]) == FIELDS
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _row(number: int, line: list[str]) -> Row:
    """A row of a file, whose values are what they are to be."""
    if len(line) != len(FIELDS):
        raise ValueError(f"line {number}: has {len(line)} fields, must have {len(FIELDS)}")
    values: dict[str, Any] = dict(zip(FIELDS, line, strict=True))
    try:
        values |= {"number": int(values["number"]), "seed": int(values["seed"]), "found": float(values["found"])}
        _files.json_object(values["note"])
    except ValueError as error:
        raise ValueError(f"line {number}: {error}") from error
    if min(values["number"], values["seed"]) < 0:
        raise ValueError(f"line {number}: number = {values['number']}, seed = {values['seed']}: must be >= 0")
    return Row(**values)


def _record(path: Path) -> dict[str, Any]:
    try:
        return _files.read_json(path)
    except ValueError as error:
        raise ValueError(f"{path}: says nothing of how its rows were made ({error})") from error


def _without_source(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name != "prompts"}


def readable(encoder: PromptEncoder, ids: Iterable[int]) -> str | None:
    """The text of token ids (without begin and end), if the tokenizer gives just these ids for it; else None."""
    wanted = [int(i) for i in ids]
    text: str = encoder.tokenizer.decode(wanted, skip_special_tokens=True, clean_up_tokenization_spaces=False).strip()
    try:
        tokenized = encoder.tokenize(text)
    except ValueError:  # too long
        return None
    inside = [int(i) for i in tokenized.ids[1 : tokenized.end]]
    return text if inside == wanted else None


def _write(path: Path, rows: Sequence[Row]) -> None:
    """All at once: whoever reads the file finds the rows of whole batches, whenever the run is stopped."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    _files.write(path, text.getvalue())


def _lacks(victim: Victim, need: str) -> bool:
    have = {
        "images": victim.images is not None,
        "pairs": bool(victim.pairs),
        "smoother": victim.smoother is not None,
        "original": victim.diffusion.original is not None or victim.reference is not None,
    }
    return not have[need]
