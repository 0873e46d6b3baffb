"""`snapper restore`: parse, restore, in the background where time is up."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from snapper.cli import Command
from snapper.cli.options import (
    EnvsDirOption,
    ExceptOption,
    JobsOption,
    JsonOption,
    OnlyOption,
    StoreOption,
    open_store,
)
from snapper.cli.render import output
from snapper.cli.render import restore as restored
from snapper.cli.render.staleness import FRESH, Staleness, read_staleness
from snapper.errors import NotInStore, SnapperError, UsageError
from snapper.settings.settings import (
    absolute_directory,
    load_settings,
    log_file,
    resolve_envs_dir,
    store_url,
)

if TYPE_CHECKING:
    from snapper.commands.restore import RestoreFailure, RestoreResult
    from snapper.kernels import KernelEntry
    from snapper.repository.specs import SnapshotSpec
    from snapper.restoring.target import RestoreRequest


@dataclass(frozen=True)
class _Asked:
    """What the command line and the settings ask for; `everything` is of the names that the patterns leave."""

    names: list[str]
    everything: bool
    only: tuple[str, ...]
    except_: tuple[str, ...]
    first: tuple[str, ...]
    prefix: Path | None
    envs_dir: Path | None
    replace: bool
    store: str | None
    jobs: int | None


@dataclass(frozen=True)
class _Begun:
    """The store was reached, or what is kept of it; these are to be restored."""

    store: str
    names: tuple[str, ...]
    removed_kernels: tuple[KernelEntry, ...] = ()


_SEE = "See: snapper restore --help."

Tell = Callable[["_Begun | Staleness | RestoreResult | RestoreFailure"], None]


def restore(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ENV[@SNAPSHOT]]...", help="Environments, each at a snapshot if one is named."
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every environment of the store.")] = False,
    only: OnlyOption = None,
    except_: ExceptOption = None,
    prefix: Annotated[
        Path | None, typer.Option("--prefix", "-p", metavar="DIR", help="Where to restore one environment.")
    ] = None,
    envs_dir: EnvsDirOption = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Give up changes made since in environments that stand there.")
    ] = False,
    budget: Annotated[
        float | None,
        typer.Option(
            "--budget",
            min=1,
            metavar="SECONDS",
            help="Return after that time; what is left is done in the background.",
        ),
    ] = None,
    store: StoreOption = None,
    jobs: JobsOption = None,
    as_json: JsonOption = False,
) -> int:
    """Restore environments from the store and register their kernels."""
    if bool(names) == everything:
        raise UsageError("name the environments to restore or say --all, and not both", _SEE)
    if (only or except_) and not everything:
        raise UsageError("--only and --except go with --all", _SEE)
    if prefix is not None and (everything or len(names or []) != 1 or envs_dir):
        raise UsageError("--prefix goes with one environment, and without --envs-dir", _SEE)
    settings = load_settings()
    asked = _Asked(
        names=list(names or []),
        everything=everything,
        only=tuple(only or settings.only),
        except_=tuple(except_ or settings.except_),
        first=settings.first,
        prefix=absolute_directory(prefix) if prefix else None,
        envs_dir=None if prefix else resolve_envs_dir(envs_dir),
        replace=replace,
        store=store,
        jobs=jobs or settings.jobs,
    )
    budget = budget or settings.budget
    ended = _in_time(asked, budget, quiet=as_json) if budget else _at_once(asked, quiet=as_json)
    return restored.report(ended, as_json)


def _at_once(asked: _Asked, *, quiet: bool) -> restored.Ended:
    told: list[object] = []
    _work(asked, told.append, quiet=quiet)
    return _ended(told)


def _in_time(asked: _Asked, budget: float, *, quiet: bool) -> restored.Ended:
    """Restores in a process of its own, and leaves it to itself when the budget is used up, which counts from the
    command's start.
    """
    from snapper.process.background import run_in_background

    log = log_file()
    if not quiet:
        output.notice(
            f"Restoring for at most {budget:g} s; then it goes on in the background. Progress: {log}"
        )

    def work(tell: Tell) -> None:
        try:
            _work(asked, tell, quiet=False, log=str(log))
        except SnapperError as error:
            with suppress(OSError):  # the log may be on a full disk
                output.print_error(error, as_json=False)
            raise

    report = run_in_background(work, Command.began + budget, log)
    return _ended(report.events, report.pid, str(log))


def _ended(told: list[object], process: int | None = None, log: str = "") -> restored.Ended:
    begun = next((each for each in told if isinstance(each, _Begun)), _Begun("", ()))
    looks = [each for each in told if isinstance(each, Staleness)]
    results: list[RestoreResult | RestoreFailure] = [
        each  # type: ignore[misc]
        for each in told
        if not isinstance(each, (_Begun, Staleness))
    ]
    ended = {each.environment for each in results}
    left = tuple(name for name in begun.names if name.partition("@")[0] not in ended and name not in ended)
    background = restored.Background(process, log, left) if process else None
    return restored.Ended(
        results,
        begun.store,
        time.monotonic() - Command.began,
        background,
        begun.removed_kernels,
        looks[-1] if looks else FRESH,
    )


def _work(asked: _Asked, tell: Tell, *, quiet: bool, log: str = "") -> None:
    """Restores what is asked for, and tells of it as it goes."""
    from snapper import kernels
    from snapper.cli.render.progress import reporter
    from snapper.commands import restore as verb
    from snapper.repository.refs import environment_names
    from snapper.repository.specs import SnapshotSpec

    references = [SnapshotSpec.parse(name) for name in dict.fromkeys(asked.names)]
    stale: tuple[KernelEntry, ...] = ()
    try:
        opened = open_store(asked.store)
        if asked.everything:
            there = list(environment_names(opened))
            stale = kernels.remove_orphaned(there) if opened.stale_since() is None else ()
            references = [SnapshotSpec(name) for name in _chosen(asked, there, opened.url)]
    except SnapperError as error:
        if asked.everything:
            verb.record_failure(store_url(asked.store), error, log)
        raise
    names = [each.environment for each in references]
    tell(_Begun(opened.url, tuple(map(str, references)), stale))
    tell(read_staleness(opened, names))
    with reporter(quiet=quiet) as progress:
        for result in verb.restore(
            opened,
            _wanted(asked, references),
            jobs=asked.jobs,
            progress=progress,
            log=log,
            listed=asked.everything,
        ):
            tell(result)
            if log:
                restored.note(result)
    tell(read_staleness(opened, names))  # it may have gone away meanwhile


def _chosen(asked: _Asked, there: list[str], store: str) -> list[str]:
    from snapper.restoring.schedule import select_names

    chosen = select_names(there, asked.only, asked.except_)
    if there and not chosen:
        patterns = (("matches", asked.only), ("is not among", asked.except_))
        wanted = [f"{verb} {', '.join(map(repr, names))}" for verb, names in patterns if names]
        raise NotInStore(f"an environment that {' and '.join(wanted)}", store, tuple(there))
    return chosen


def _wanted(asked: _Asked, references: list[SnapshotSpec]) -> list[RestoreRequest]:
    from snapper.kernels import runs
    from snapper.restoring.schedule import rank_names
    from snapper.restoring.target import RestoreRequest

    names = [each.environment for each in references]
    ranks = rank_names(names, asked.first, runs.recently_used(names))
    return [
        RestoreRequest(
            each,
            prefix=asked.prefix,
            envs_dir=asked.envs_dir,
            replace=asked.replace,
            keep_changed=asked.everything and not asked.replace,
            rank=ranks[each.environment],
        )
        for each in references
    ]
