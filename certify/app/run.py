"""One visitor's certificate on its way: a thread that draws, and what is to be seen of it at any time."""

from __future__ import annotations

import io
import logging
import shutil
import tempfile
import threading
import time
import weakref
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from certify import _files
from certify.adaptive.plan import event_name
from certify.app.asked import Asked
from certify.app.live import Count, Live, Look
from certify.app.subject import Known, Model, Subject
from certify.certificate import Certificate

__all__ = ["Run", "Snapshot", "Stopped"]

PAIRS = 2
"""Pairs of images that are shown."""

_LOG = logging.getLogger(__name__)


class Stopped(Exception):
    """The visitor has asked for an end."""


@dataclass(frozen=True)
class Snapshot:
    """What is to be seen of a run now. What is not there yet is None or empty.

    Attributes:
        stage: what is being done, in words; of a run that has ended, how.
        done, total: of that stage.
        known: the prompt's tokens, noise, and what bounds are compared with.
        pairs: undefended and defended images, PNG files.
        looks: the bound at numbers of draws.
        count: of the event.
        certificate: the answer.
        files: for download, by name: "certificate", "page", "curve", "rate".
        error: what is wrong with the settings, in one sentence.
        ended: whether nothing more will come.
        seconds: since it began.
    """

    stage: str = "waiting for the model"
    done: int = 0
    total: int = 0
    known: Known | None = field(default=None, repr=False)
    pairs: tuple[tuple[bytes, ...], tuple[bytes, ...]] = ((), ())
    looks: tuple[Look, ...] = ()
    count: Count | None = None
    certificate: Certificate | None = None
    files: Mapping[str, Path] = field(default_factory=dict)
    error: str = ""
    ended: bool = False
    seconds: float = 0.0


class Run:
    """A certificate on its way. It belongs to one visitor; several may run at once.

    Args:
        model: what is certified.
        asked: the settings.
        live: whether numbers are shown before the end.
    """

    def __init__(self, model: Model, asked: Asked, *, live: bool = True) -> None:
        self.model, self.asked, self.live = model, asked, live
        self._folder = Path(tempfile.mkdtemp(prefix="certify-app-"))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._changed, self._stop = threading.Condition(), threading.Event()
        self._snapshot, self._version, self._began = Snapshot(), 0, time.monotonic()
        self._thread = threading.Thread(target=self._work, name="certify-app-run", daemon=True)

    def start(self) -> Run:
        """Begins."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """Ends it at the next batch; what was drawn is discarded, and nothing is claimed."""
        self._stop.set()

    def wait(self) -> Snapshot:
        """The last snapshot, once the run has ended."""
        self._thread.join()
        return self._snapshot

    def watch(self, every: float = 0.4) -> Iterator[Snapshot]:
        """Snapshots until the end, at most one in so many seconds; the last one is the end."""
        seen = -1
        while True:
            with self._changed:
                self._changed.wait_for(lambda seen=seen: self._version > seen, timeout=1.0)  # type: ignore[misc]
                seen, snapshot = self._version, self._snapshot
            yield replace(snapshot, seconds=time.monotonic() - self._began)
            if snapshot.ended:
                return
            time.sleep(every)

    # In the thread

    def _show(self, now: Snapshot) -> None:
        with self._changed:
            self._snapshot = now
            self._version += 1
            self._changed.notify_all()

    def _tick(self, done: int, total: int) -> None:
        if self._stop.is_set():
            raise Stopped
        self._show(replace(self._snapshot, done=done, total=total))
        self.model.yield_turn()
        if self._stop.is_set():
            raise Stopped

    def _work(self) -> None:
        try:
            with self.model.turn():
                self._certify()
        except Stopped:
            self._show(replace(self._snapshot, stage="Stopped: nothing is claimed.", ended=True))
        except (ValueError, TypeError, OSError, MemoryError) as error:
            said = _files.printable(str(error)) or "there is not enough memory"
            self._show(replace(self._snapshot, stage="Nothing is claimed.", error=said, ended=True))
        except Exception as error:
            _LOG.exception("a run of the page failed")
            said = f"a fault of this program, which the terminal describes: {type(error).__name__}"
            self._show(replace(self._snapshot, stage="Nothing is claimed.", error=said, ended=True))

    def _certify(self) -> None:
        asked, model = self.asked, self.model
        self._show(replace(self._snapshot, stage="reading the prompt"))
        subject = model.subject(asked)
        self._show(replace(self._snapshot, known=subject.known()))
        if subject.makes_images:
            self._pairs(subject)
        detector = model.detector_of(asked.concept) if asked.images and subject.makes_images else None
        event = None if detector is None else event_name(detector)
        live = Live(subject, asked, event, self._looked, self._counted, model.memory)
        self._show(replace(self._snapshot, stage="drawing encodings, then images" if event else "drawing encodings"))
        watch, beside = (live.watch, live.questions) if self.live else (None, ())
        certificate = subject.certify(detector, self._tick, watch, beside)
        self._show(replace(self._snapshot, stage="writing files"))
        files = self._files(certificate)
        said = "Done."
        if asked.images and not event:
            why = "no detector (--detector)" if subject.makes_images else "this pipeline makes none"
            said = f"Done. Nothing is said about images: {why}."
        self._show(replace(self._snapshot, stage=said, certificate=certificate, files=files, ended=True))

    def _pairs(self, subject: Subject) -> None:
        """Images without and with the defence, pair after pair."""
        self._show(replace(self._snapshot, stage="generating images", done=0, total=PAIRS))
        for i in range(PAIRS):
            self._tick(i, PAIRS)
            made = tuple(_png(image) for image in subject.pair(self.asked.seed + i))
            undefended, defended = self._snapshot.pairs
            self._show(replace(self._snapshot, pairs=((*undefended, made[0]), (*defended, made[1]))))

    def _looked(self, look: Look) -> None:
        self._show(replace(self._snapshot, looks=(*self._snapshot.looks, look)))

    def _counted(self, count: Count) -> None:
        self._show(replace(self._snapshot, count=count))

    def _files(self, certificate: Certificate) -> dict[str, Path]:
        from certify import plots, report

        folder = self._folder
        certificate.save(folder / "certificate")
        files = {"certificate": folder / "certificate.zip", "page": folder / "certificate.html"}
        with zipfile.ZipFile(files["certificate"], "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted((folder / "certificate").iterdir()):
                archive.write(path, path.name)
        undefended, defended = self._snapshot.pairs
        note = f"Made with the settings of the certificate, seed {self.asked.seed}. Both of a pair start from the same noise."
        examples = report.ExampleImages(undefended, defended, note=note)
        digests = _files.digests(folder / "certificate", ("certificate.json", "tensors.safetensors"))
        page = report.certificate_page(certificate, folder="certificate", digests=digests, examples=examples)
        _files.write(files["page"], page)
        for what in ("curve", "rate"):
            try:
                plots.figure(certificate, what).savefig(folder / f"{what}.png")
            except ValueError:  # there is nothing of the kind in it
                continue
            files[what] = folder / f"{what}.png"
        return files


def _png(image: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
