"""The running command."""

from __future__ import annotations

import time
from typing import ClassVar


class Invocation:
    """The running command: its start time, by the monotonic clock."""

    started: ClassVar[float] = time.monotonic()
