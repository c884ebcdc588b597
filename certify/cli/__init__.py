"""The command line: `certify prompt`, `prompts`, `classify`, `radius`, `curve`, `decide`, `plan`, `check`, `report`, `plot`,
`generate` and `concepts`.

Only what a command needs is imported when it runs; `certify --help` loads none of the model libraries.

`prompt`, `radius` and `curve` keep what they draw in a folder `checkpoint/` beside their results, `prompts` a line of JSON a
prompt, `classify` one an input. Killed, or stopped by Ctrl-C or SIGTERM, the same command resumes from there to the
identical result; the folder is removed when that is written. No bound is shown before all draws are made: none would be valid.
"""

from certify.cli.commands import app, main

__all__ = ["app", "main"]
