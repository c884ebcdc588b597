"""Where the examples in docstrings are not looked for: a module whose library, an extra, is not installed."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("gradio") and find_spec("uvicorn") else ["certify/app/page.py"]
