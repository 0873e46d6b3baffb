"""Output of `snapper restore` and `snapper rollback`."""

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

if TYPE_CHECKING:
    from snapper.commands.restore import RestoreFailure, RestoreResult
    from snapper.kernels import RegisteredKernel


@dataclass(frozen=True)
class Background:
    """A process that continues with the environments that are left."""

    process: int
    log: str
    left: tuple[str, ...]


@dataclass(frozen=True)
class RestoreOutcome:
    """The outcome of a restore: results so far, the process that continues if time was up, and kernels that were
    unregistered because the store no longer has their environments.
    """

    results: Sequence[RestoreResult | RestoreFailure]
    store: str
    seconds: float = 0.0
    background: Background | None = None
    removed_kernels: Sequence[RegisteredKernel] = ()
    staleness: Staleness = FRESH


def outcome_fields(outcome: RestoreOutcome) -> tuple[dict[str, Any], int]:
    """Return what was restored and what was not, as JSON, and the exit code."""
    restored, failed = _split(outcome.results)
    problems = any(result.unrelocated or any(k.problem for k in result.kernels) for result in restored)
    partial = problems or outcome.background or outcome.staleness.code
    code = failed[0].error.code if failed else ExitCode.PARTIAL if partial else ExitCode.DONE
    fields: dict[str, Any] = {
        "store": outcome.store,
        "restored": [_fields(result) for result in restored],
        **output.failure_fields(
            [(result.environment, result.error) for result in failed], all_failed=not restored
        ),
        "removed_kernels": [kernel.name for kernel in outcome.removed_kernels],
        "seconds": round(outcome.seconds, 3),
    }
    if outcome.background:
        fields["background"] = to_jsonable(outcome.background)
    return {**fields, **outcome.staleness.fields}, code


def report(outcome: RestoreOutcome, as_json: bool) -> int:
    """Report what was restored and what was not, and return the exit code."""
    fields, code = outcome_fields(outcome)
    if as_json:
        output.print_json(fields)
        return code
    restored, failed = _split(outcome.results)
    for result in restored:
        _print_result(result)
    output.print_failures(
        [(failure.environment, failure.error) for failure in failed], single=len(outcome.results) == 1
    )
    for kernel in outcome.removed_kernels:
        output.echo(f"Removed kernel {kernel.display_name}: {kernel.environment} is no longer in the store")
    if len(outcome.results) > 1:
        output.echo(_summary(restored, failed, outcome.seconds))
    outcome.staleness.warn()
    if outcome.background:
        _print_background(outcome.background)
    elif not outcome.results:
        output.print_empty_store(outcome.store)
    return code


def log_result(result: RestoreResult | RestoreFailure) -> None:
    """Print a line for the log, which adds the time."""
    from snapper.commands.restore import RestoreFailure

    with suppress(OSError):
        if isinstance(result, RestoreFailure):
            what = f"could not be restored: {result.error.message}"
        else:
            what = "is already in place" if result.present else f"was restored in {result.seconds:.1f} s"
        output.warn(f"{result.environment} {what}")


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


def _print_background(background: Background) -> None:
    what = ", ".join(background.left) if background.left else "reading the store"
    output.echo(f"Time budget reached; continuing in the background (PID {background.process}): {what}")
    output.echo(f"  log: {background.log}")
    output.echo("  kernels wait for their environments; see the progress with: snapper status")


def _print_result(result: RestoreResult) -> None:
    if result.present:
        output.echo(f"{result.environment} is already in place: {result.prefix}")
        if result.changed:
            output.notice(
                f"  {plural(result.changed, 'file')} changed since the last pack: snapper pack {result.environment}"
            )
    else:
        took = f"{size(result.size)} in {result.seconds:.1f} s"
        output.echo(f" {result.environment} to {result.prefix} ({took})", label="Restored", style="green")
    if result.instead_of:
        output.notice(
            f"  this is snapshot {result.snapshot_id[:12]}: the current one, {result.instead_of[:12]}, is not "
            "completely cached"
        )
    output.print_unrelocated(result.unrelocated)
    for kernel in result.kernels:
        if kernel.problem:
            output.warn(f"  kernel {kernel.name} could not be registered at {kernel.path}: {kernel.problem}")
        else:
            output.echo(f"  kernel: {kernel.display_name}")
    if not result.kernels:
        output.echo(f"  no kernel found. Install one with: {result.suggestion}")


def _fields(result: RestoreResult) -> dict[str, Any]:
    return {
        "environment": result.environment,
        "snapshot": result.snapshot_id,
        "instead_of": result.instead_of or None,
        "prefix": result.prefix,
        "present": result.present,
        "changed": result.changed,
        "size": result.size,
        "kernels": to_jsonable(result.kernels),
        "suggestion": result.suggestion,
        "unrelocated": list(result.unrelocated),
        "seconds": round(result.seconds, 3),
    }
