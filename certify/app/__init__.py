"""The interactive page that `certify app` opens: type a prompt, watch the bound grow, keep the certificate.

    asked     what a visitor types, checked: `Asked`
    subject   the model and its turns, a prompt in it: `Model`, `Subject`
    clip      of Stable Diffusion 1.x and 2.x: `ClipModel`
    joint     of every other pipeline, over all of its text encoders: `JointModel`
    live      numbers that may be looked at while draws come in: `Live`
    run       one visitor's certificate on its way, in a thread of its own: `Run`
    view      what of it is shown, as HTML
    page      the page itself, and the server on 127.0.0.1: the only file that imports gradio, an extra (`certify[app]`)

**Numbers before the end.** A bound from a fixed number of draws may be read once. What the page shows while it draws holds at
all times at once (docs/theory/t03-sequential.md), with a failure probability of its own, and is no part of the certificate.

**Visitors.** Every page that is open has its own run, its own smoother and its own files; the weights are shared, and used by
one run at a time, batch by batch in turn. The same seed and settings give the same certificate, whoever else is there.

**Network.** The server listens on 127.0.0.1. A page loads nothing from elsewhere: scripts and style sheets come from the
installed package, letters are the system's, and a content security policy forbids the rest. Nothing is reported to anybody.
"""

from certify.app.asked import Asked
from certify.app.clip import ClipModel
from certify.app.joint import JointModel
from certify.app.run import Run, Snapshot
from certify.app.subject import Model

__all__ = ["Asked", "ClipModel", "JointModel", "Model", "Run", "Snapshot"]
