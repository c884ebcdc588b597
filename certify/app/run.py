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
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from certify import _files
from certify.adaptive.plan import event_name
from certify.app.live import RADII, Count, Live, Look
from certify.certificate import Certificate, ModelRecord

if TYPE_CHECKING:
    from collections.abc import Callable

    from certify.adaptive import AdaptiveMedianSmoother
    from certify.adaptive.prompt import PreparedPrompt
    from certify.app.asked import Asked

__all__ = ["Model", "Run", "Snapshot", "Stopped"]

PAIRS = 2
"""Pairs of images that are shown."""

_LOG = logging.getLogger(__name__)


class Stopped(Exception):
    """The visitor has asked for an end."""


class Model:
    """The model that a page is about, and whose turn it is.

    Args:
        pipe: a Stable Diffusion pipeline.
        smoothing: options of the smoother that the page does not ask for.
        source: where the model comes from, for a certificate's record; the concept is added.
        sampler: steps and guidance.
        detector_of: a concept ↦ what an attack on it wants to see in an image; None: nothing can be said of images.
        batch_size, memory: as in `PromptOptions`.
    """

    def __init__(
        self,
        pipe: Any,
        *,
        smoothing: Mapping[str, Any],
        source: Mapping[str, Any],
        sampler: Mapping[str, Any],
        detector_of: Callable[[str], str | None],
        batch_size: int | None = None,
        memory: int | None = None,
    ) -> None:
        self.pipe, self.smoothing, self.source, self.sampler = pipe, dict(smoothing), dict(source), dict(sampler)
        self.detector_of, self.batch_size, self.memory = detector_of, batch_size, memory
        self._turn = threading.Lock()
        self._record: ModelRecord | None = None

    @property
    def record(self) -> ModelRecord:
        """Which weights these are, computed once: nobody changes them."""
        if self._record is None:
            self._record = ModelRecord.of(self.pipe)
        return self._record

    def smoother(self, asked: Asked) -> AdaptiveMedianSmoother:
        """The smoother of these settings."""
        from certify.adaptive import AdaptiveMedianSmoother

        own = {"sigma0_relative": asked.sigma0, "k": asked.k, "n": asked.replicas}
        fixed = {name: value for name, value in self.smoothing.items() if name != "sigma0"}
        return AdaptiveMedianSmoother.from_pipeline(self.pipe, [asked.concept], **{**fixed, **own})

    @contextmanager
    def turn(self) -> Iterator[None]:
        """The model to oneself."""
        with self._turn:
            yield

    def yield_turn(self) -> None:
        """Between two batches: whoever waits has the model now."""
        self._turn.release()
        time.sleep(0.002)  # a lock is not fair: who releases and takes it at once has it again
        self._turn.acquire()


@dataclass(frozen=True)
class Snapshot:
    """What is to be seen of a run now. What is not there yet is None or empty.

    Attributes:
        stage: what is being done, in words; of a run that has ended, how.
        done, total: of that stage.
        prompt: its tokens and noise are known.
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
    prompt: PreparedPrompt | None = field(default=None, repr=False)
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
        folder: for its files; None: one of its own, which goes with it.
        live: whether bounds are shown before the end, for up to as many draws again.
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
        from certify.images.generation import pair

        asked, model = self.asked, self.model
        self._show(replace(self._snapshot, stage="reading the prompt"))
        prompt = model.smoother(asked).prepare(asked.prompt)
        _ = prompt.mention, prompt.concept_removal  # the page shows both: now, while the model is this run's
        self._show(replace(self._snapshot, prompt=prompt, stage="generating images"))
        self._tick(0, 0)
        how: dict[str, Any] = {"seed": asked.seed, **model.sampler}
        rows = pair(model.pipe, prompt.adaptive, asked.prompt, images=PAIRS, **how)
        undefended, defended = (tuple(_png(image) for image in row) for row in rows)
        self._show(replace(self._snapshot, pairs=(undefended, defended), stage="drawing encodings"))
        detector = model.detector_of(asked.concept) if asked.images else None
        event = None if detector is None else event_name(detector)
        live = Live(prompt, asked, event, lambda count: self._show(replace(self._snapshot, count=count)))
        if self.live:
            for look in live.bounds(self._tick, model.batch_size):
                self._show(replace(self._snapshot, looks=(*self._snapshot.looks, look)))
        self._show(replace(self._snapshot, stage="drawing encodings, then images" if event else "drawing encodings"))
        certificate = prompt.adaptive.certify(
            prompt,
            rho=asked.rho,
            rho_deployed=asked.rho_deployed,
            rhos=RADII,
            n=asked.n,
            alpha=asked.alpha,
            seed=asked.seed,
            statistics=0,
            images=asked.images if event else 0,
            detector=detector,
            pipe=model.pipe,
            batch_size=model.batch_size,
            memory=model.memory,
            model=model.record,
            progress=self._tick,
            watch=live.watch if self.live else None,
            provenance={"source": {**model.source, "concepts": [asked.concept]}},
            **model.sampler,
        )
        self._show(replace(self._snapshot, stage="writing files"))
        files = self._files(certificate)
        self._show(replace(self._snapshot, stage="Done.", certificate=certificate, files=files, ended=True))

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
