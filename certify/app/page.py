"""The page and its server. Importing this module needs gradio, the extra `certify[app]`."""

from __future__ import annotations

import atexit
import logging
import os
import socket
import tempfile
import webbrowser
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

# Before gradio is imported: unless told not to, it asks its makers for a newer version and tells them of launches and errors.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio as gr
import uvicorn
from fastapi import FastAPI

from certify import _files
from certify.app import view
from certify.app.asked import Asked
from certify.app.opened import opened, page_of, saved
from certify.app.run import Run, Snapshot
from certify.app.subject import Model

__all__ = ["HOST", "Server", "build", "listening"]

HOST = "127.0.0.1"

POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; frame-src 'self'; "
    "object-src 'none'; base-uri 'self'; form-action 'self'"
)
"""Of every page: whatever a library would like to fetch, the browser asks nobody but this server."""

_TOGETHER = 16
"""Visitors whose pages are served at once; their runs take turns with the model."""

_LETTERS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "Noto Sans", "sans-serif"]
_DIGITS = ["ui-monospace", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace"]
_FILES = {
    "certificate": "Certificate (.zip)",
    "page": "Page (.html)",
    "curve": "Figure: bound (.png)",
    "rate": "Figure: rate (.png)",
}
_INTRO = (
    "How far can **any** change of the prompt, of a stated size, push the defended model? "
    "Nothing that you type leaves this machine."
)


def build(model: Model, concepts: Sequence[str], defaults: Mapping[str, Any], folder: Path) -> gr.Blocks:
    """The page.

    Args:
        model: what is certified.
        concepts: names to choose from.
        defaults: what its fields hold at first, by the names of `Asked`.
        folder: below which saved results are offered.
    """
    kept = tempfile.TemporaryDirectory(prefix="certify-app-", ignore_cleanup_errors=True)
    os.environ["GRADIO_TEMP_DIR"] = (
        kept.name
    )  # where files that are handed over or offered lie; it goes with the process
    atexit.register(kept.cleanup)
    runs: dict[str, list[Run]] = {}  # of every open page, by its session

    def begin(request: gr.Request, *asked: Asked) -> list[Run]:
        """Runs of one page; those that it had are over."""
        stop(request)
        own = [Run(model, one) for one in asked]
        runs[str(request.session_hash)] = own
        return own

    def stop(request: gr.Request) -> None:
        for run in runs.pop(str(request.session_hash), ()):
            run.stop()

    with gr.Blocks(title="certify", analytics_enabled=False, fill_width=True) as page:
        gr.Markdown(f"# certify\n{_INTRO}")
        with gr.Tab("Certify", id="certify"):
            _certify_tab(begin, stop, concepts, defaults)
        with gr.Tab("Open", id="open") as tab:
            _open_tab(tab, folder)
        with gr.Tab("Compare", id="compare"):
            _compare_tab(begin, stop, concepts, defaults)
        page.unload(stop)
    page.queue(default_concurrency_limit=_TOGETHER)
    return page


def _certify_tab(
    begin: Callable[..., list[Run]], stop: Callable[..., None], concepts: Sequence[str], defaults: Mapping[str, Any]
) -> None:
    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            fields = _subject(concepts, defaults) | _smoothing(defaults, "") | _drawing(defaults)
            with gr.Row():
                go = gr.Button("Certify", variant="primary", elem_id="go")
                halt = gr.Button("Stop", interactive=False, elem_id="stop")
        with gr.Column(scale=2, min_width=320):
            said = gr.HTML(elem_id="status", padding=False)
            shown = {"claim": gr.HTML(elem_id="claim", padding=False)}
            with gr.Row():
                files = {
                    name: gr.DownloadButton(label, visible=False, elem_id=f"file-{name}", size="sm")
                    for name, label in _FILES.items()
                }
            shown |= {name: gr.HTML(elem_id=name, padding=False) for name in ("tokens", "images", "live", "details")}
    names = list(fields)
    outputs = [go, halt, said, *shown.values(), *files.values()]

    def certify(request: gr.Request, *values: Any) -> Iterator[list[Any]]:
        before = _Same(len(outputs))
        hidden = [gr.update(visible=False, value=None) for _ in files]
        yield [gr.update(interactive=False), gr.update(interactive=True), "", *[""] * len(shown), *hidden]
        run = None
        try:
            asked = Asked.of(dict(zip(names, values, strict=True)))
            (run,) = begin(request, asked)
            for now in run.start().watch():
                parts = {
                    "claim": view.claim(now.certificate),
                    "tokens": view.tokens(now.known),
                    "images": view.images(now),
                    "live": view.live(now, asked.alpha),
                    "details": view.details(now.certificate),
                }
                offered = [
                    gr.update(visible=True, value=str(now.files[name])) if name in now.files else gr.skip()
                    for name in files
                ]
                busy = [gr.skip(), gr.skip()] if not now.ended else _idle()
                yield [*busy, *before.changed([view.status(now), *(parts[name] for name in shown)]), *offered]
        except (ValueError, TypeError) as error:
            yield [*_idle(), _refused(error), *[""] * len(shown), *hidden]
        finally:
            if run is not None:
                run.stop()

    how: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    go.click(certify, list(fields.values()), outputs, **how)
    fields["prompt"].submit(certify, list(fields.values()), outputs, **how)
    halt.click(stop, None, None, queue=False, **how)


def _open_tab(tab: gr.Tab, folder: Path) -> None:
    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            choice = gr.Dropdown(
                saved(folder),
                label=f"Saved below {folder}/",
                value=None,
                elem_id="saved",
                info="Certificates and runs.",
            )
            given = gr.File(
                label="Or files of yours, or a .zip",
                file_count="multiple",
                file_types=[".json", ".jsonl", ".safetensors", ".zip"],
                elem_id="given",
                height=150,
            )
        with gr.Column(scale=3, min_width=320):
            shown = gr.HTML(elem_id="opened")

    def show_saved(name: str | None) -> str:
        if not name:
            return ""
        try:
            if name not in saved(folder):
                raise ValueError(f"saved = {name!r}: must be one of those that are listed")
            return view.framed(*page_of(folder / name, str(folder / name)))
        except (ValueError, TypeError, OSError) as error:
            return _refused(error)

    def show_given(files: list[str] | None) -> str:
        try:
            return view.framed(*opened(files)) if files else ""
        except (ValueError, TypeError, OSError) as error:
            return _refused(error)

    how: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    choice.input(show_saved, choice, shown, **how)
    given.change(show_given, given, shown, **how)
    tab.select(lambda: gr.update(choices=saved(folder)), None, choice, **how)


def _compare_tab(
    begin: Callable[..., list[Run]], stop: Callable[..., None], concepts: Sequence[str], defaults: Mapping[str, Any]
) -> None:
    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            shared = _subject(concepts, defaults) | _drawing(defaults)
            sides = []
            for name, change in (("A", 1.0), ("B", 0.5)):
                gr.Markdown(f"### Setting {name}")
                sides.append(_smoothing({**defaults, "sigma0": round(defaults["sigma0"] * change, 6)}, f" of {name}"))
            with gr.Row():
                go = gr.Button("Compare", variant="primary", elem_id="compare-go")
                halt = gr.Button("Stop", interactive=False, elem_id="compare-stop")
        with gr.Column(scale=2, min_width=320):
            said, result = gr.HTML(elem_id="compare-status"), gr.HTML(elem_id="comparison")
    outputs = [go, halt, said, result]
    given = [*shared.values(), *(field for side in sides for field in side.values())]

    def compare(request: gr.Request, *values: Any) -> Iterator[list[Any]]:
        yield [gr.update(interactive=False), gr.update(interactive=True), "", ""]
        own: list[Run] = []
        try:
            base, rest = dict(zip(shared, values, strict=False)), values[len(shared) :]
            width = len(sides[0])
            asked = [
                Asked.of(base | dict(zip(side, rest[i * width : (i + 1) * width], strict=True)))
                for i, side in enumerate(sides)
            ]
            names = [
                f"{name}: σ₀ = {a.sigma0:g}, k = {a.k:g}, K = {a.replicas}" for name, a in zip("AB", asked, strict=True)
            ]
            own, before = begin(request, *asked), _Same(2)
            latest = [Snapshot() for _ in own]
            for i, run in enumerate(own):
                for now in run.start().watch():
                    latest[i] = now
                    over = now.ended and (now.certificate is None or i == len(own) - 1)
                    parts = before.changed([view.status(now, "AB"[i]), view.comparison(names, latest)])
                    yield [*(_idle() if over else [gr.skip(), gr.skip()]), *parts]
                if latest[i].certificate is None:
                    return
        except (ValueError, TypeError) as error:
            yield [*_idle(), _refused(error), ""]
        finally:
            for run in own:
                run.stop()

    how: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    go.click(compare, given, outputs, **how)
    halt.click(stop, None, None, queue=False, **how)


def _subject(concepts: Sequence[str], defaults: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "prompt": gr.Textbox(label="Prompt", value=defaults["prompt"], lines=1, max_lines=3),
        "concept": gr.Dropdown(list(concepts), value=defaults["concept"], label="Concept to suppress"),
    }


def _smoothing(defaults: Mapping[str, Any], of: str) -> dict[str, Any]:
    with gr.Row():
        sigma0 = gr.Number(defaults["sigma0"], label=f"σ₀{of}", info="base noise", min_width=90)
        k = gr.Number(defaults["k"], label=f"k{of}", info="its growth", min_width=90)
        replicas = gr.Number(defaults["replicas"], label=f"K{of}", info="noisy copies", precision=0, min_width=90)
    return {"sigma0": sigma0, "k": k, "replicas": replicas}


def _drawing(defaults: Mapping[str, Any]) -> dict[str, Any]:
    with gr.Row():
        rho = gr.Number(defaults["rho"], label="ρ", info="radius", min_width=90)
        deployed = gr.Number(defaults["rho_deployed"], label="ρ deployed", info="its radius", min_width=90)
        n = gr.Number(defaults["n"], label="n", info="draws", precision=0, min_width=90)
    with gr.Row():
        images = gr.Number(defaults["images"], label="images", info="for the rate", precision=0, min_width=90)
        alpha = gr.Number(defaults["alpha"], label="α", info="may fail with", min_width=90)
        seed = gr.Number(defaults["seed"], label="seed", info="repeats a run", precision=0, min_width=90)
    return {"rho": rho, "rho_deployed": deployed, "n": n, "images": images, "alpha": alpha, "seed": seed}


def _idle() -> list[Any]:
    return [gr.update(interactive=True), gr.update(interactive=False)]


def _refused(error: Exception) -> str:
    said = _files.printable(str(error)) or type(error).__name__
    return view.status(Snapshot(stage="Nothing is claimed.", error=said, ended=True))


class _Same:
    """Parts of a page that are sent again only where they have changed."""

    def __init__(self, count: int) -> None:
        self.sent = [""] * count

    def changed(self, parts: Sequence[str]) -> list[Any]:
        found = [gr.skip() if part == old else part for part, old in zip(parts, self.sent, strict=False)]
        self.sent = list(parts) + self.sent[len(parts) :]
        return found


# The server


def listening(port: int) -> socket.socket:
    """A socket of this machine's own, which nobody else's can reach.

    Args:
        port: 0: any that is free.

    Raises:
        OSError: it is taken.
    """
    own = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        own.bind((HOST, port))
    except OSError as error:
        own.close()
        raise OSError(f"port = {port}: must be free on {HOST}, or 0 for any that is ({error.strerror})") from error
    own.listen()
    return own


class Server:
    """The page's server.

    Args:
        page: as `build` makes it.
        own: the socket that it listens on.
    """

    def __init__(self, page: gr.Blocks, own: socket.socket) -> None:
        theme = gr.themes.Base(primary_hue="blue", font=_LETTERS, font_mono=_DIGITS).set(
            block_info_text_color="*neutral_600",
            block_info_text_color_dark="*neutral_300",
            block_label_text_color="*neutral_800",
            block_title_text_color="*neutral_800",
            button_primary_background_fill="#0062a8",
            button_primary_background_fill_dark="#0072b2",
            button_primary_text_color="white",
        )
        self.own = own
        inside = gr.mount_gradio_app(
            FastAPI(openapi_url=None),
            page,
            path="",
            server_name=HOST,
            server_port=own.getsockname()[1],
            footer_links=[],
            show_error=False,
            max_file_size="256mb",
            ssr_mode=False,
            enable_monitoring=False,
            theme=theme,
            css=view.CSS,
        )
        config = uvicorn.Config(
            _Guarded(inside), log_level="warning", timeout_graceful_shutdown=1, ws="none", server_header=False
        )
        self._server = uvicorn.Server(config)
        # Pages that are open when it ends are cut off: no fault that the terminal need describe.
        logging.getLogger("uvicorn.error").addFilter(lambda _: not self._server.should_exit)

    @property
    def address(self) -> str:
        """Where the page is."""
        return f"http://{HOST}:{self.own.getsockname()[1]}/"

    def run(self, browser: bool = False) -> None:
        """Serves until it is stopped; `browser`: opens the page there."""
        if browser:
            webbrowser.open(self.address)
        self._server.run(sockets=[self.own])

    def close(self) -> None:
        """Stops it, from another thread."""
        self._server.should_exit = True


class _Guarded:
    """Says with every answer what a page may load, and answers only who asks for this machine by its name or address.

    A site elsewhere could have its own name point here, and a browser would take the page for that site's.
    """

    def __init__(self, inside: Any) -> None:
        self.inside = inside

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.inside(scope, receive, send)
            return
        host = dict(scope["headers"]).get(b"host", b"").decode("latin-1").rpartition(":")[0]
        if host not in (HOST, "localhost"):
            await send({"type": "http.response.start", "status": 421, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": f"This page is at {HOST} alone.\n".encode()})
            return

        async def answer(message: Any) -> None:
            if message["type"] == "http.response.start":
                own = [(b"content-security-policy", POLICY.encode()), (b"referrer-policy", b"no-referrer")]
                message = {**message, "headers": [*message.get("headers", ()), *own]}
            await send(message)

        await self.inside(scope, receive, answer)
