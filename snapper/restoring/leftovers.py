"""Complete or undo what killed processes have left at a target.

What does that is slow to import, and rarely needed.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from snapper.environment.staging_lock import INSIDE, staging_path
from snapper.errors import SnapperError


def remove_leftover_staging(target: Path) -> None:
    """Complete or undo what a killed process left half done at the target, and remove the rest.

    Nothing happens if another process works on it.
    """
    if os.path.lexists(target / INSIDE):
        from snapper.restoring.in_place import staging_in_place  # noqa: PLC0415 - see above

        with suppress(SnapperError), staging_in_place(target):
            pass
    if os.path.lexists(staging_path(target)):
        from snapper.restoring.staging import staging_directory  # noqa: PLC0415 - see above

        with suppress(SnapperError), staging_directory(target):
            pass
