"""Output of `snapper restore` and `snapper rollback`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from snapper.cli.render import output
from snapper.cli.render.staleness import Staleness
from snapper.cli.render.text import plural, size
from snapper.errors import ExitCode
from snapper.format.canonical import to_jsonable

if TYPE_CHECKING:
    from snapper.commands.restore import RestoreFailure, RestoreResult
    from snapper.commands.restore_session import SessionReport
    from snapper.restoring.destinations import UnusedLocation


def session_fields(session: SessionReport, seconds: float) -> tuple[dict[str, Any], int]:
    """Return what was restored and what was not in `seconds`, as JSON, and the exit code."""
    restored, failed = _split(session.results)
    staleness = Staleness(session.store, session.stale_since)
    problems = any(result.unrelocated or any(k.problem for k in result.kernels) for result in restored)
    partial = problems or session.process or staleness.code
    code = failed[0].error.code if failed else ExitCode.PARTIAL if partial else ExitCode.DONE
    fields: dict[str, Any] = {
        "store": session.store,
        "restored": [_fields(result) for result in restored],
        **output.failure_fields(
            [(result.environment, result.error) for result in failed], all_failed=not restored
        ),
        "removed_kernels": [kernel.name for kernel in session.removed_kernels],
        "seconds": round(seconds, 3),
    }
    if session.process:
        fields["background"] = {
            "process": session.process,
            "log": session.log,
            "left": list(session.remaining),
        }
    return {**fields, **staleness.fields}, code


def report(session: SessionReport, seconds: float, as_json: bool) -> int:
    """Report what was restored and what was not in `seconds`, and return the exit code."""
    fields, code = session_fields(session, seconds)
    if as_json:
        output.print_json(fields)
        return code
    restored, failed = _split(session.results)
    for result in restored:
        _print_result(result)
    output.print_failures(
        [(failure.environment, failure.error) for failure in failed], single=len(session.results) == 1
    )
    for kernel in session.removed_kernels:
        output.echo(f"Removed kernel {kernel.display_name}: {kernel.environment} is no longer in the store")
    if len(session.results) > 1:
        output.echo(_summary(restored, failed, seconds))
    Staleness(session.store, session.stale_since).warn()
    if session.process:
        _print_background(session)
    elif not session.results:
        output.print_empty_store(session.store)
    return code


def log_result(result: RestoreResult | RestoreFailure) -> None:
    """Print a line for the log, which adds the time."""
    from snapper.commands.restore import RestoreFailure

    with suppress(OSError):
        if isinstance(result, RestoreFailure):
            what = f"could not be restored: {result.error.message}"
        else:
            what = "is already in place" if result.present else f"was restored in {result.seconds:.1f} s"
            if result.unused_location and not result.present:
                what += f" to {result.prefix}, {_not_there(result.unused_location)}"
        output.warn(f"{result.environment} {what}")
        if not isinstance(result, RestoreFailure):
            output.print_kept(result.kept)


def _not_there(unused: UnusedLocation) -> str:
    return f"not to {unused.prefix}, where it was packed: {unused.reason}"


def _split(
    results: Sequence[RestoreResult | RestoreFailure],
) -> tuple[list[RestoreResult], list[RestoreFailure]]:
    from snapper.commands.restore import RestoreFailure

    failed = [result for result in results if isinstance(result, RestoreFailure)]
    return [result for result in results if not isinstance(result, RestoreFailure)], failed


def _summary(restored: list[RestoreResult], failed: list[RestoreFailure], seconds: float) -> str:
    present = sum(result.present for result in restored)
    kernels = sum(not kernel.problem for result in restored for kernel in result.kernels)
    counts = f"{len(restored) - present} restored, {present} already in place, {len(failed)} failed"
    return f"{counts}; {plural(kernels, 'kernel')}; {seconds:.1f} s"


def _print_background(session: SessionReport) -> None:
    what = ", ".join(session.remaining) if session.remaining else "reading the store"
    output.echo(f"Time budget reached; continuing in the background (PID {session.process}): {what}")
    output.echo(f"  log: {session.log}")
    output.echo("  kernels start once their environments are restored; see the progress with: snapper status")


def _print_result(result: RestoreResult) -> None:
    if result.present:
        output.echo(f"{result.environment} is already in place: {result.prefix}")
        if result.changed:
            output.notice(
                f"  {plural(result.changed, 'file')} changed since the last pack; pack with: "
                f"{result.pack_command}"
            )
    else:
        took = f"{size(result.size)} in {result.seconds:.1f} s"
        output.echo(f" {result.environment} to {result.prefix} ({took})", label="Restored", style="green")
    if result.instead_of:
        output.notice(
            f"  this is snapshot {result.snapshot_id[:12]}: the current one, {result.instead_of[:12]}, is not "
            "completely cached"
        )
    if result.unused_location and not result.present:
        output.notice(f"  {_not_there(result.unused_location)}")
    output.print_kept(result.kept)
    output.print_unrelocated(result.unrelocated, result.own_unrelocated, result.harmless_unrelocated)
    for kernel in result.kernels:
        if kernel.problem:
            output.print_kernel_problem(kernel, "  ")
        else:
            taken = f", as {kernel.name}: another kernel has, or could get, the name {kernel.instead_of}"
            edited = ", with your changes to its kernel.json" if kernel.edited else ""
            output.echo(f"  kernel: {kernel.display_name}{taken if kernel.instead_of else ''}{edited}")
    if result.suggestion:
        output.echo(f"  no kernel found. Install one with: {result.suggestion}")


def _fields(result: RestoreResult) -> dict[str, Any]:
    return {
        "environment": result.environment,
        "snapshot": result.snapshot_id,
        "instead_of": result.instead_of or None,
        "prefix": result.prefix,
        "unused_location": to_jsonable(result.unused_location),
        "present": result.present,
        "changed": result.changed,
        "size": result.size,
        "kernels": to_jsonable(result.kernels),
        "suggestion": result.suggestion,
        "unrelocated": list(result.unrelocated),
        "harmless_unrelocated": list(result.harmless_unrelocated),
        "kept": list(result.kept),
        "seconds": round(result.seconds, 3),
    }
