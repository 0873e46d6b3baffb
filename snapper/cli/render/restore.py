"""What `snapper restore` and `snapper rollback` report."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from snapper.cli.render import output
from snapper.cli.render.staleness import FRESH, Staleness
from snapper.cli.render.text import plural, size
from snapper.errors import ExitCode
from snapper.format.canonical import to_jsonable
from snapper.process.identity import utc_now

if TYPE_CHECKING:
    from snapper.commands.restore import RestoreFailure, RestoreResult
    from snapper.kernels import RegisteredKernel


@dataclass(frozen=True)
class Background:
    """A process that goes on with what is left."""

    process: int
    log: str
    left: tuple[str, ...]


@dataclass(frozen=True)
class Ended:
    """How a restore ended: with what goes on in the background, if so, the kernels that went because their
    environments had gone, and when the store was last seen.
    """

    results: Sequence[RestoreResult | RestoreFailure]
    store: str
    seconds: float = 0.0
    background: Background | None = None
    removed_kernels: Sequence[RegisteredKernel] = ()
    staleness: Staleness = FRESH


def described(ended: Ended) -> tuple[dict[str, Any], int]:
    """What was restored and what was not, as JSON, and the exit code."""
    done, failed = _parted(ended.results)
    problems = any(each.unrelocated or any(k.problem for k in each.kernels) for each in done)
    partial = problems or ended.background or ended.staleness.code
    code = failed[0].error.code if failed else ExitCode.PARTIAL if partial else ExitCode.DONE
    fields: dict[str, Any] = {
        "store": ended.store,
        "restored": [_fields(each) for each in done],
        **output.failure_fields([(each.environment, each.error) for each in failed], alone=not done),
        "removed_kernels": [each.name for each in ended.removed_kernels],
        "seconds": round(ended.seconds, 3),
    }
    if ended.background:
        fields["background"] = to_jsonable(ended.background)
    return {**fields, **ended.staleness.fields}, code


def report(ended: Ended, as_json: bool) -> int:
    """Reports what was restored and what was not; returns the exit code."""
    fields, code = described(ended)
    if as_json:
        output.print_json(fields)
        return code
    done, failed = _parted(ended.results)
    for each in done:
        _say(each)
    output.print_failures([(each.environment, each.error) for each in failed], alone=len(ended.results) == 1)
    for kernel in ended.removed_kernels:
        output.echo(f"kernel {kernel.display_name} is removed: {kernel.environment} is gone")
    if len(ended.results) > 1:
        output.echo(_summary(done, failed, ended.seconds))
    ended.staleness.warn()
    if ended.background:
        _say_background(ended.background)
    elif not ended.results:
        output.print_empty_store(ended.store)
    return code


def note(result: RestoreResult | RestoreFailure) -> None:
    """A line for the log, with the time."""
    from snapper.commands.restore import RestoreFailure

    with suppress(OSError):
        if isinstance(result, RestoreFailure):
            what = f"could not be restored: {result.error.message}"
        else:
            what = "is there already" if result.present else f"is restored in {result.seconds:.1f} s"
        output.notice(f"{utc_now()} {result.environment} {what}")


def _parted(
    results: Sequence[RestoreResult | RestoreFailure],
) -> tuple[list[RestoreResult], list[RestoreFailure]]:
    from snapper.commands.restore import RestoreFailure

    failed = [each for each in results if isinstance(each, RestoreFailure)]
    return [each for each in results if not isinstance(each, RestoreFailure)], failed


def _summary(done: list[RestoreResult], failed: list[RestoreFailure], seconds: float) -> str:
    present = sum(each.present for each in done)
    kernels = sum(not kernel.problem for each in done for kernel in each.kernels)
    counts = f"{len(done) - present} restored, {present} already there, {len(failed)} failed"
    return f"{counts}; {plural(kernels, 'kernel')}; {seconds:.1f} s"


def _say_background(background: Background) -> None:
    what = ", ".join(background.left) if background.left else "looking at the store"
    output.echo(f"Time is up; process {background.process} goes on in the background: {what}")
    output.echo(f"  its log: {background.log}")
    output.echo("  kernels wait for their environments; snapper status says how far it is")


def _say(done: RestoreResult) -> None:
    if done.present:
        output.echo(f"{done.environment} is there already: {done.prefix}")
        if done.changed:
            output.notice(
                f"  {plural(done.changed, 'file')} changed since and not packed: snapper pack {done.environment}"
            )
    else:
        output.echo(
            f"{done.environment} is restored: {done.prefix} ({size(done.size)} in {done.seconds:.1f} s)"
        )
    if done.instead_of:
        output.notice(
            f"  it is {done.snapshot_id[:12]}: of the current snapshot, {done.instead_of[:12]}, the cache has not all"
        )
    output.print_unrelocated(done.unrelocated)
    for kernel in done.kernels:
        if kernel.problem:
            output.notice(
                f"  kernel {kernel.name} could not be registered at {kernel.path}: {kernel.problem}"
            )
        else:
            output.echo(f"  kernel: {kernel.display_name}")
    if not done.kernels:
        output.echo(f"  no kernel: it has none. Add one with: {done.suggestion}")


def _fields(done: RestoreResult) -> dict[str, Any]:
    return {
        "environment": done.environment,
        "snapshot": done.snapshot_id,
        "instead_of": done.instead_of or None,
        "prefix": done.prefix,
        "present": done.present,
        "changed": done.changed,
        "size": done.size,
        "kernels": to_jsonable(done.kernels),
        "suggestion": done.suggestion,
        "unrelocated": list(done.unrelocated),
        "seconds": round(done.seconds, 3),
    }
