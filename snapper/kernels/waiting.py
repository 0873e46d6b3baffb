"""The file `waiting/NAME` in the state directory, which tells waiting kernels how far the restore of NAME is.

It exists while the environment is being restored, and stays if that fails. The launcher, a shell script, reads it
line by line: the condition, the restoring process (PID and start time), the progress or the error, and the log file.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from snapper.format.constraints import check_name
from snapper.fs.own_directory import own_directory
from snapper.process.identity import is_process_alive
from snapper.process.logs import escape_controls
from snapper.settings.directories import state_directory


@dataclass(frozen=True)
class WaitingNotice:
    """The contents of a waiting file. `message` is the progress, or the error if the restore failed."""

    condition: str
    pid: int
    start_time: str
    message: str
    log: str

    @property
    def is_being_restored(self) -> bool:
        """Whether the process that wrote this is still running and has not failed to restore the environment."""
        return self.condition != "failed" and is_process_alive(self.pid, self.start_time)


def waiting_file(environment: str) -> Path:
    """Return the path of the environment's waiting file; raise ValueError if no environment has this name."""
    return state_directory() / "waiting" / check_name(environment)


def read_notice(environment: str) -> WaitingNotice | None:
    """Return what the environment's waiting file says, or None if there is no valid one."""
    try:
        file = waiting_file(environment)
        with own_directory(file.parent) as directory:
            lines = directory.read(file.name).decode(errors="surrogateescape").splitlines()
        condition, process = lines[:2]
        pid, _, start_time = process.partition(" ")
        message, log = [*lines[2:4], "", ""][:2]
        return WaitingNotice(condition, int(pid), start_time, message, log)
    except (OSError, ValueError):
        return None


def write_notice(environment: str, notice: WaitingNotice) -> None:
    """Write the environment's waiting file; may raise OSError. The launcher prints its lines to a terminal."""
    process = f"{notice.pid} {notice.start_time}"
    lines = (notice.condition, process, notice.message, notice.log)
    text = "".join(f"{escape_controls(' '.join(line.split()))}\n" for line in lines)
    file = waiting_file(environment)
    with own_directory(file.parent, make=True) as directory:
        directory.write(file.name, text.encode())


def remove_notice(environment: str) -> None:
    """Remove the environment's waiting file, if that is possible."""
    file = waiting_file(environment)
    with suppress(OSError), own_directory(file.parent) as directory:
        directory.remove(file.name)


def is_being_restored(environment: str) -> bool:
    """Return whether a running restore is about to restore the environment."""
    notice = read_notice(environment)
    return notice is not None and notice.is_being_restored
