"""Map what reading layers and writing their files raises to errors for users."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from snapper.errors import Corrupted
from snapper.format.member import InvalidSegment
from snapper.fs.errors import map_os_error

#: What the operating system reports if members of a snapshot contradict each other, such as a file at the path of a
#: directory: nothing else writes to a staging directory.
_CONTRADICTIONS = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENOENT)


@contextmanager
def unpack_errors(what: str, prefix: str) -> Iterator[None]:
    """Raise Corrupted for malformed or contradictory contents of `what`, else what `map_os_error` returns."""
    try:
        yield
    except (InvalidSegment, ValueError) as error:
        raise Corrupted(what, str(error)) from None
    except OSError as error:
        if error.errno in _CONTRADICTIONS:
            raise Corrupted(what, f"its members contradict each other ({error.strerror})") from None
        raise map_os_error(error, Path(prefix).parent, "write to") from None
