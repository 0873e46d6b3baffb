"""What a restore records about itself: for `snapper status` and `doctor`, and for kernels that wait.

`restore.json` in the state directory describes the last restore of all environments. The files that kernels wait for
are described in `snapper.kernels.waiting`. All of this is informational: errors while writing it are ignored.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal

from snapper.format import canonical
from snapper.fs.own_directory import own_directory
from snapper.kernels.waiting import WaitingNotice, read_notice, remove_notice, write_notice
from snapper.process.identity import is_process_alive, process_start_time, utc_now
from snapper.settings.directories import state_directory

FORMAT = 1

_FILE = "restore.json"

Condition = Literal["waiting", "restoring", "restored", "present", "failed"]

_SECONDS_BETWEEN_UPDATES = 0.5


@dataclass(frozen=True)
class EnvironmentProgress:
    """How far the restore of one environment is.

    `size` and `done` are in bytes. `error` and `hint` are set if it failed. `kernels` are display names.
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

    @property
    def is_complete(self) -> bool:
        """Whether the environment is in its place."""
        return self.condition in ("restored", "present")

    @property
    def percentage(self) -> int:
        """How much of it is written, in percent."""
        return 100 * self.done // self.size if self.size else 0


@dataclass(frozen=True)
class RestoreRecord:
    """One restore, as in `restore.json`.

    `began` and `ended` are UTC times; `ended` is empty while the restore is running, and if it was killed. `process` is
    its PID, and `started` the start time that distinguishes it from a later process with the same PID. `error` says
    why the restore could not start, if so.
    """

    format: int
    store: str
    began: str
    ended: str
    process: int
    started: str
    log: str
    error: str
    environments: tuple[EnvironmentProgress, ...]

    @property
    def is_running(self) -> bool:
        """Whether the restore is running now."""
        return not self.ended and is_process_alive(self.process, self.started)


def last_restore() -> RestoreRecord | None:
    """Return this user's last restore of all environments on this machine, or None if none is recorded."""
    try:
        with own_directory(state_directory()) as directory:
            record = canonical.decode(RestoreRecord, canonical.parse(directory.read(_FILE)))
    except (OSError, canonical.MalformedDocument):
        return None
    return record if record.format == FORMAT else None


class RestoreRecorder:
    """Records a restore while it is running.

    If `restores_all`, it becomes the last restore in `restore.json`, unless another process is running one now.
    """

    def __init__(self, store: str, *, log: str = "", restores_all: bool = False) -> None:
        pid = os.getpid()
        other = last_restore() if restores_all else None
        self._is_last = restores_all and not (other and other.is_running and other.process != pid)
        self._record = RestoreRecord(
            FORMAT, store, utc_now(), "", pid, process_start_time(pid), log, "", environments=()
        )
        self._environments: dict[str, EnvironmentProgress] = {}
        self._began: dict[str, float] = {}
        self._with_kernels: set[str] = set()
        self._last_write = 0.0

    def expect(self, environment: str, prefix: str, size: int, *, has_kernels: bool) -> None:
        """Record that the environment is going to be restored; its kernels may wait for it from now on."""
        self._began[environment] = time.monotonic()
        if has_kernels:
            self._with_kernels.add(environment)
        self._update(EnvironmentProgress(environment, prefix, "waiting", size))

    def advance(self, environment: str, size: int) -> None:
        """Record that another `size` bytes of the environment are written."""
        progress = self._environments[environment]
        progress = replace(progress, condition="restoring", done=progress.done + size)
        self._environments[environment] = progress
        if time.monotonic() - self._last_write > _SECONDS_BETWEEN_UPDATES:
            for other in self._environments.values():
                if other.condition == "restoring":
                    self._notify_kernels(other)
            self._write()

    def complete(
        self, environment: str, prefix: str, condition: Condition, kernels: tuple[str, ...] = ()
    ) -> None:
        """Record that the environment and its kernels are in their places."""
        progress = self._environments.get(environment, EnvironmentProgress(environment, prefix, condition))
        self._end(replace(progress, condition=condition, done=progress.size, kernels=kernels))
        if not self._is_last:
            _amend_last_restore(self._environments[environment])

    def fail(self, environment: str, error: str, hint: str) -> None:
        """Record that the environment could not be restored."""
        progress = self._environments.get(environment, EnvironmentProgress(environment, "", "failed"))
        if self._is_last and environment not in self._environments:
            self._with_kernels.add(environment)  # an earlier restore may have registered some
        self._end(replace(progress, condition="failed", error=error, hint=hint))

    def close(self, error: str = "") -> None:
        """Record the end of the restore; environments that are not complete have failed."""
        for progress in list(self._environments.values()):
            if progress.condition in ("waiting", "restoring"):
                self.fail(progress.environment, "the restore was interrupted", "Run it again.")
        self._record = replace(self._record, ended=utc_now(), error=error)
        self._write()

    def _end(self, progress: EnvironmentProgress) -> None:
        if progress.environment in self._began:
            seconds = time.monotonic() - self._began[progress.environment]
            progress = replace(progress, milliseconds=int(seconds * 1000))
        self._update(progress)

    def _update(self, progress: EnvironmentProgress) -> None:
        self._environments[progress.environment] = progress
        self._notify_kernels(progress)
        if progress.condition != "present":  # there can be many; `close` writes them together
            self._write()

    def _notify_kernels(self, progress: EnvironmentProgress) -> None:
        """Update the file that kernels of the environment wait for, unless another restore is working on it."""
        notice = read_notice(progress.environment)
        if notice and notice.pid != self._record.process and notice.is_being_restored:
            return
        if progress.is_complete:
            remove_notice(progress.environment)
        elif progress.environment in self._with_kernels:
            message = f"{progress.percentage}% of {progress.size // 10**6} MB"
            if progress.condition == "failed":
                message = progress.error
            process, started, log = self._record.process, self._record.started, self._record.log
            with suppress(OSError, ValueError):
                write_notice(
                    progress.environment, WaitingNotice(progress.condition, process, started, message, log)
                )

    def _write(self) -> None:
        self._last_write = time.monotonic()
        if self._is_last:
            self._record = replace(self._record, environments=tuple(self._environments.values()))
            _write_record(self._record)


def _amend_last_restore(progress: EnvironmentProgress) -> None:
    """Record in the last restore of all environments that one it did not complete has been restored since."""
    record = last_restore()
    if record is None or record.is_running:
        return
    environments = tuple(
        progress if other.environment == progress.environment and not other.is_complete else other
        for other in record.environments
    )
    if environments != record.environments:
        _write_record(replace(record, environments=environments))


def _write_record(record: RestoreRecord) -> None:
    with suppress(OSError), own_directory(state_directory(), make=True) as directory:
        directory.write(_FILE, canonical.encode(record))
