"""What restores tell others of themselves: the last one's outcome, and to kernels that wait how far it is.

In the state directory, `restore.json` is the last restore of all environments (`last`), and
`waiting/NAME` is there while NAME is on its way or has failed, in a form that a shell reads: the condition, the
process, how far it is or what went wrong, and the log, on a line each. `used/NAME` is touched when a kernel of
NAME starts. All of this is for information: what cannot be written is left out.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from snapper.format import canonical
from snapper.fs.atomic import atomic_write
from snapper.process.identity import is_process_alive, process_start_time, utc_now
from snapper.settings.directories import state_directory

FORMAT = 1

Condition = Literal["waiting", "restoring", "restored", "present", "failed"]

_SECONDS_BETWEEN = 0.5


@dataclass(frozen=True)
class EnvironmentRun:
    """One environment of a restore. Sizes in bytes; `error` and `hint` where it has failed, kernels by display
    name.
    """

    environment: str
    prefix: str
    condition: Condition
    size: int = 0
    done: int = 0
    milliseconds: int = 0
    error: str = ""
    hint: str = ""
    kernels: tuple[str, ...] = ()

    def lacks(self, environment: str) -> bool:
        """Whether it is that environment, and not in its place."""
        return self.environment == environment and self.condition not in ("restored", "present")


@dataclass(frozen=True)
class RestoreRun:
    """One restore: times in UTC, `ended` empty while it lasts or if it was killed. `process` is its number, and
    `started` what tells it from a later one of that number. `error` is why nothing could be done at all, if so.
    """

    format: int
    store: str
    began: str
    ended: str
    process: int
    started: str
    log: str
    error: str
    environments: tuple[EnvironmentRun, ...]

    @property
    def at_work(self) -> bool:
        """Whether it goes on right now."""
        return not self.ended and is_process_alive(self.process, self.started)


def last_run() -> RestoreRun | None:
    """The last restore of this user on this machine; None where none is on record."""
    try:
        found = canonical.decode(RestoreRun, canonical.parse(_status_file().read_bytes()))
    except (OSError, canonical.MalformedDocument):
        return None
    return found if found.format == FORMAT else None


def waiting_file(environment: str) -> Path:
    """Where a kernel looks that waits for the environment."""
    return state_directory() / "waiting" / environment


def is_awaited(environment: str) -> bool:
    """Whether a restore that is at work right now is to bring the environment."""
    return _is_at_work(waiting_file(environment))


def used_file(environment: str) -> Path:
    """What a kernel of the environment touches when it starts."""
    return state_directory() / "used" / environment


def recently_used(environments: Iterable[str]) -> list[str]:
    """Those of the environments whose kernels have been used, the latest first."""
    times: dict[str, float] = {}
    for name in environments:
        with suppress(OSError):
            times[name] = used_file(name).stat().st_mtime
    return sorted(times, key=lambda name: (-times[name], name))


class RunRecorder:
    """Keeps the record of a restore that is going on; `listed` makes it the last one, unless one is at work now."""

    def __init__(self, store: str, *, log: str = "", listed: bool = False) -> None:
        own = os.getpid()
        other = last_run() if listed else None
        self._listed = listed and not (other and other.at_work and other.process != own)
        self._run = RestoreRun(FORMAT, store, utc_now(), "", own, process_start_time(own), log, "", ())
        self._parts: dict[str, EnvironmentRun] = {}
        self._began: dict[str, float] = {}
        self._awaited: set[str] = set()
        self._written = 0.0

    def expect(self, environment: str, prefix: str, size: int, *, has_kernels: bool) -> None:
        """The environment is to be restored, and its kernels may begin to wait for it."""
        self._began[environment] = time.monotonic()
        if has_kernels:
            self._awaited.add(environment)
        self._note(EnvironmentRun(environment, prefix, "waiting", size))

    def advance(self, environment: str, size: int) -> None:
        """So many more bytes of it are written."""
        part = self._parts[environment]
        moved = replace(part, condition="restoring", done=part.done + size)
        self._parts[environment] = moved
        if time.monotonic() - self._written > _SECONDS_BETWEEN:
            for each in self._parts.values():
                if each.condition == "restoring":
                    self._tell(each)
            self._write()

    def settle(
        self, environment: str, prefix: str, condition: Condition, kernels: tuple[str, ...] = ()
    ) -> None:
        """It is in its place, and so are its kernels."""
        part = self._parts.get(environment, EnvironmentRun(environment, prefix, condition))
        self._note(replace(part, condition=condition, done=part.size, kernels=kernels), ended=True)
        if not self._listed:
            self._amend(self._parts[environment])

    def fail(self, environment: str, error: str, hint: str) -> None:
        """It could not be restored."""
        part = self._parts.get(environment, EnvironmentRun(environment, "", "failed"))
        if self._listed and environment not in self._parts:
            self._awaited.add(environment)  # by kernels of an earlier restore, it may be
        self._note(replace(part, condition="failed", error=error, hint=hint), ended=True)

    def close(self, error: str = "") -> None:
        """The restore has ended; what it has not come to has failed."""
        for part in list(self._parts.values()):
            if part.condition in ("waiting", "restoring"):
                self.fail(part.environment, "the restore was interrupted", "Run it again.")
        self._run = replace(self._run, ended=utc_now(), error=error)
        self._write()

    def _amend(self, part: EnvironmentRun) -> None:
        """Has the last restore of all, where it came to its end without this environment, no longer say so."""
        run = last_run()
        if run is None or run.at_work:
            return
        parts = tuple(part if each.lacks(part.environment) else each for each in run.environments)
        if parts != run.environments:
            with suppress(OSError):
                atomic_write(
                    _status_file(), canonical.encode(replace(run, environments=parts)), durable=False
                )

    def _note(self, part: EnvironmentRun, *, ended: bool = False) -> None:
        if ended and part.environment in self._began:
            elapsed = time.monotonic() - self._began[part.environment]
            part = replace(part, milliseconds=int(elapsed * 1000))
        self._parts[part.environment] = part
        self._tell(part)
        if part.condition != "present":  # those are many, and all are written at the end
            self._write()

    def _tell(self, part: EnvironmentRun) -> None:
        """Lets kernels know that wait for the environment, unless another restore is at work on it."""
        file = waiting_file(part.environment)
        with suppress(OSError, ValueError):
            if _is_at_work(file, but_for=os.getpid()):
                return
            if part.condition in ("restored", "present"):
                file.unlink(missing_ok=True)
                return
            if part.environment not in self._awaited:
                return
            share = 100 * part.done // part.size if part.size else 0
            text = part.error if part.condition == "failed" else f"{share}% of {part.size // 10**6} MB"
            process = f"{self._run.process} {self._run.started}"
            lines = (part.condition, process, text, self._run.log)
            text = "".join(f"{_one_line(line)}\n" for line in lines)
            atomic_write(file, text.encode(errors="surrogateescape"), durable=False)

    def _write(self) -> None:
        self._written = time.monotonic()
        if self._listed:
            self._run = replace(self._run, environments=tuple(self._parts.values()))
            with suppress(OSError):
                atomic_write(_status_file(), canonical.encode(self._run), durable=False)


def _status_file() -> Path:
    return state_directory() / "restore.json"


def _is_at_work(file: Path, *, but_for: int = 0) -> bool:
    """Whether the process that the file names is to bring the environment, unless it is that one."""
    try:
        condition, process = file.read_text(errors="surrogateescape").splitlines()[:2]
        number, _, started = process.partition(" ")
        return condition != "failed" and int(number) != but_for and is_process_alive(int(number), started)
    except (OSError, ValueError):
        return False


def _one_line(text: str) -> str:
    return " ".join(text.split())
