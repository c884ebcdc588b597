"""`certify …` as a process whose disk is full once it writes its certificate: a limit on the size of files is the full disk.

python -m tests.cli.full ARGUMENT …
"""

from __future__ import annotations

import resource
import sys
from typing import Any

from certify import cli
from certify.certificate import Certificate

if __name__ == "__main__":
    plain = Certificate.save

    def save(self: Certificate, *arguments: Any, **options: Any) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        plain(self, *arguments, **options)

    Certificate.save = save  # type: ignore[method-assign]
    sys.argv = ["certify", *sys.argv[1:]]
    cli.main()
