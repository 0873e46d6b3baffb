"""`snapper restore`: restore environments, in the background once the time budget is used up."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from snapper.cli.invocation import Invocation
from snapper.cli.options import (
    EnvsDirOption,
    ExceptOption,
    JobsOption,
    JsonOption,
    OnlyOption,
    ReferencesArgument,
    StoreOption,
    open_store,
)
from snapper.cli.render import output
from snapper.cli.render import restore as render
from snapper.errors import SnapperError, UsageError
from snapper.settings.directories import absolute_directory, log_file
from snapper.settings.resolution import choose_store, load_settings, resolve_envs_dir

if TYPE_CHECKING:
    from snapper.commands.restore_session import RestoreOptions, SessionEvent, SessionReport
    from snapper.process.progress import Progress
    from snapper.repository.specs import SnapshotSpec
    from snapper.restoring.selection import NamePatterns
    from snapper.store import Store

_SEE = "See: snapper restore --help."


AllOption = Annotated[bool, typer.Option("--all", help="Restore all environments in the store.")]
TargetOption = Annotated[
    Path | None,
    typer.Option("--prefix", "-p", metavar="DIR", help="Directory to restore one environment to."),
]
ReplaceOption = Annotated[
    bool, typer.Option("--replace", help="Overwrite local changes in existing environments.")
]


class ChangeMode(str, Enum):
    """What to do with changed environments: snapper.settings.keys.OnChange as choices of an option."""

    REFUSE = "refuse"
    ASIDE = "aside"
    PACK = "pack"


OnChangeOption = Annotated[
    ChangeMode | None,
    typer.Option(
        "--on-change",
        metavar="MODE",
        help="Where changes would be lost: refuse, keep the environment aside, or pack it first "
        "(default: the setting 'on_change', else refuse).",
    ),
]
BudgetOption = Annotated[
    float | None,
    typer.Option(
        "--budget",
        min=1,
        metavar="SECONDS",
        help="Return after this time and continue in the background (default: the setting 'budget', else "
        "no limit).",
    ),
]


def restore(
    names: ReferencesArgument = None,
    everything: AllOption = False,
    only: OnlyOption = None,
    except_: ExceptOption = None,
    prefix: TargetOption = None,
    envs_dir: EnvsDirOption = None,
    replace: ReplaceOption = False,
    on_change: OnChangeOption = None,
    budget: BudgetOption = None,
    store: StoreOption = None,
    jobs: JobsOption = None,
    as_json: JsonOption = False,
) -> int:
    """Restore environments from the store and register their kernels.

    Environments that are already in place are left alone.

    Examples:
        snapper restore myenv
        snapper restore --all --budget 240
        snapper restore myenv@~1 --prefix /tmp/previous
    """
    from snapper.commands.restore_session import RestoreOptions
    from snapper.repository.specs import SnapshotSpec
    from snapper.restoring.selection import NamePatterns

    if bool(names) == everything:
        raise UsageError("give environment names, or --all", _SEE)
    if (only or except_) and not everything:
        raise UsageError("--only and --except need --all", _SEE)
    if prefix is not None and (envs_dir or len(names or ()) != 1):
        raise UsageError(
            "--prefix needs exactly one environment, and cannot be combined with --envs-dir", _SEE
        )
    settings = load_settings()
    options = RestoreOptions(
        prefix=absolute_directory(prefix) if prefix else None,
        envs_dir=resolve_envs_dir(envs_dir),
        replace=replace,
        on_change=on_change.value if on_change else settings.on_change,
        first=settings.first,
        jobs=jobs or settings.jobs,
    )
    specs = tuple(SnapshotSpec.parse(name) for name in dict.fromkeys(names or ()))
    patterns = NamePatterns(tuple(only or settings.only), tuple(except_ or settings.except_))
    session = _Session(specs, patterns, options, store)
    done = _run(session, budget or settings.budget, quiet=as_json)
    return render.report(done, time.monotonic() - Invocation.started, as_json)


@dataclass(frozen=True)
class _Session:
    """A session: the named snapshots, or all environments that the patterns select if none are named."""

    specs: tuple[SnapshotSpec, ...]
    patterns: NamePatterns
    options: RestoreOptions
    store: str | None

    def events(self, *, quiet: bool, log: str = "") -> Iterator[SessionEvent]:
        """Run the session, with progress on stderr; write a line for each result if that is a log."""
        from snapper.cli.render.progress import reporter
        from snapper.commands.restore import RestoreFailure, RestoreResult

        with reporter(quiet=quiet) as progress:
            for event in self._start(progress, log):
                if log and isinstance(event, (RestoreResult, RestoreFailure)):
                    render.log_result(event)
                yield event

    def _start(self, progress: Progress, log: str) -> Iterator[SessionEvent]:
        from snapper.commands.restore_session import restore_all, restore_named

        def opened() -> Store:
            return open_store(self.store)

        if self.specs:
            return restore_named(opened, self.specs, self.options, progress=progress, log=log)
        url = choose_store(self.store).url
        return restore_all(opened, url, self.patterns, self.options, progress=progress, log=log)


def _run(session: _Session, budget: float | None, *, quiet: bool) -> SessionReport:
    """Run the session to its end, or in the background once the budget, in seconds, is used up."""
    from snapper.commands.restore_session import collect_report

    if budget:
        return _run_within(session, budget, quiet=quiet)
    return collect_report(session.events(quiet=quiet))


def _run_within(session: _Session, budget: float, *, quiet: bool) -> SessionReport:
    """Run the session; leave it in the background when the budget, counted from the command's start, is used up."""
    from snapper.commands.restore_session import run_within

    log = log_file()
    if not quiet:
        output.notice(f"Restoring for at most {budget:g} s, then continuing in the background; log: {log}")

    def events() -> Iterator[SessionEvent]:
        try:
            yield from session.events(quiet=False, log=str(log))
        except SnapperError as error:
            with suppress(OSError):  # the log may be on a full disk
                output.print_error(error, as_json=False)
            raise

    return run_within(events, Invocation.started + budget, log)
