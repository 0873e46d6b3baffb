"""Make the process block once before it opens a file, until nobody writes to a named pipe any more.

Python imports this at its start if the directory is in PYTHONPATH. TEST_PAUSE_BEFORE is the path that is opened, as it
is given to the operating system, and TEST_PAUSE_PIPE the pipe.
"""

from __future__ import annotations

import os
import sys

_paused: list[str] = []


def _pause(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and arguments[0] == os.environ["TEST_PAUSE_BEFORE"] and not _paused:
        _paused.append(event)
        with open(os.environ["TEST_PAUSE_PIPE"], "rb") as pipe:
            pipe.read()


sys.addaudithook(_pause)
