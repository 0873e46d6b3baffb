"""Print results on stdout, as text and tables or as one JSON document, and everything else on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TextIO

from snapper.cli.logs import Verbosity
from snapper.cli.render import grouping
from snapper.cli.render.style import Style, styled
from snapper.cli.render.text import plural
from snapper.errors import SnapperError
from snapper.format.model import Deviation
from snapper.process.logs import escape_controls

if TYPE_CHECKING:
    from snapper.environment.changes import PackageChange, PackageChanges
    from snapper.kernels import KernelRegistration

_ADDED, _REMOVED, _CHANGED = "+", "-", "~"
_CHANGE_STYLES: dict[str, Style] = {_ADDED: "green", _REMOVED: "red", _CHANGED: "yellow"}


def echo(line: str, *, label: str = "", style: Style | None = None) -> None:
    """Print a line of the result on stdout, after a label in that style."""
    print(_styled(label, style, sys.stdout) + escape_controls(line))


def notice(line: str) -> None:
    """Print a line that is not a result on stderr, unless --quiet is given."""
    if not Verbosity.quiet:
        warn(line)


def warn(line: str, *, label: str = "", style: Style | None = None) -> None:
    """Print a line about an error or a partial failure on stderr, after a label in that style.

    It comes after all results so far, also where both streams lead to one file.
    """
    with suppress(OSError):  # reported at the end
        sys.stdout.flush()
    print(_styled(label, style, sys.stderr) + escape_controls(line), file=sys.stderr)


def _styled(label: str, style: Style | None, stream: TextIO) -> str:
    return styled(escape_controls(label), style, stream) if label and style else escape_controls(label)


def print_text(text: str) -> None:
    """Print a text as it is."""
    sys.stdout.write(text)


def print_json(fields: dict[str, Any]) -> None:
    """Print the one JSON document of a command."""
    sys.stdout.write(json.dumps(fields, indent=2) + "\n")


def print_error(failure: SnapperError, as_json: bool) -> None:
    """Report an error and what to do about it: on stderr, or as JSON on stdout."""
    if as_json:
        print_json({"error": error_fields(failure)})
        return
    warn(f" {failure.message}", label="snapper:", style="red")
    if failure.hint:
        warn(f"  {failure.hint}")


def print_failures(failures: Sequence[tuple[str, SnapperError]], *, single: bool) -> None:
    """Report on stderr which environments failed and why, without their names if there is only one outcome (`single`).

    A hint that successive failures share is printed once.
    """
    for number, (environment, failure) in enumerate(failures):
        name = "" if single else f" {environment}:"
        warn(f"{name} {failure.message}", label="snapper:", style="red")
        is_last = number + 1 == len(failures) or failures[number + 1][1].hint != failure.hint
        if failure.hint and is_last:
            warn(f"  {failure.hint}")


def error_fields(failure: SnapperError) -> dict[str, Any]:
    """Return an error as JSON."""
    return {
        "code": int(failure.code),
        "type": type(failure).__name__,
        "message": failure.message,
        "hint": failure.hint,
    }


def failure_fields(failed: Sequence[tuple[str, SnapperError]], *, all_failed: bool) -> dict[str, Any]:
    """Return failed environments as JSON; the first is also the command's error if `all_failed`."""
    fields: dict[str, Any] = {
        "failed": [{"environment": environment, **error_fields(error)} for environment, error in failed]
    }
    if failed and all_failed:
        fields["error"] = error_fields(failed[0][1])
    return fields


def print_deviations(
    what: str, deviations: Iterable[Deviation], write: Callable[[str], None] = notice
) -> None:
    """Print packages whose files differ from what conda installed."""
    for deviation in deviations:
        count = plural(len(deviation.paths), "file")
        print_paths(f"{deviation.package}: {count} {what}", deviation.paths, write)


def print_unrelocated(
    paths: Sequence[str],
    own: int,
    harmless: Sequence[str],
    what: str = "these files still contain another prefix, in a form that cannot be changed",
) -> None:
    """Warn about files that could not be relocated, the first `own` of them in no conda package.

    Only the number of those in which that is `harmless` is mentioned.
    """
    if paths:
        warn(f"{what}:")
        for line in grouping.lines_by_owner(paths, own):
            warn(f"    {line}")
    if harmless:
        count = grouping.count_harmless(harmless)
        notice(f"{count} could not be relocated, which does no harm (--json lists them)")


def print_clamped(paths: Sequence[str], what: str) -> None:
    """Warn about files with times that a snapshot or an archive cannot hold."""
    print_paths(
        f"these files have times that {what} cannot hold, and get the nearest ones that it can", paths, warn
    )


def print_empty_store(store: str) -> None:
    """Say that the store has no environments."""
    echo(f"The store {store} has no environments. Pack one with: snapper pack ENV")


def print_changes(changes: PackageChanges, indent: str) -> None:
    """Print added, removed and changed packages, one per line."""
    for change in changes.added:
        echo_change(indent, _ADDED, f"{change.name} {change.after}{_manager(change)}")
    for change in changes.removed:
        echo_change(indent, _REMOVED, f"{change.name} {change.before}{_manager(change)}")
    for change in changes.changed:
        echo_change(indent, _CHANGED, f"{change.name} {change.before} -> {change.after}{_manager(change)}")


def echo_change(indent: str, mark: str, text: str) -> None:
    """Print something added (+), removed (-) or changed (~)."""
    echo(f" {text}", label=f"{indent}{mark}", style=_CHANGE_STYLES[mark])


def _manager(change: PackageChange) -> str:
    return " (pip)" if change.manager == "pip" else ""


def print_paths(what: str, paths: Sequence[str], write: Callable[[str], None] = notice) -> None:
    """Print the paths below what they have in common, if there are any; of many, the directories."""
    if paths:
        write(f"{what}:")
        for line in grouping.path_lines(paths):
            write(f"    {line}")


def print_kept(paths: Sequence[str], write: Callable[[str], None] = warn) -> None:
    """Name directories with what would have been lost when an environment was replaced, and say what to do."""
    for path in paths:
        write(
            f"  {path} has what would have been lost when this was replaced; compare the two, then remove it"
        )


def print_kernel_problem(kernel: KernelRegistration, indent: str = "") -> None:
    """Print why a kernel could not be registered."""
    warn(f"{indent}kernel {kernel.name} could not be registered at {kernel.path}: {kernel.problem}")
    if kernel.hint:
        warn(f"{indent}  {kernel.hint}")


def print_table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]], right: tuple[int, ...]) -> None:
    """Print a table; the columns numbered in `right` are aligned to the right."""
    if sys.stdout.isatty():
        _rich_table(head, rows, right)
        return
    cells = [head, *(tuple(escape_controls(cell) for cell in row) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    for row in cells:
        line = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(line).rstrip())


def _rich_table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]], right: tuple[int, ...]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column, title in enumerate(head):
        is_last = column == len(head) - 1
        table.add_column(
            title, justify="right" if column in right else "left", no_wrap=not is_last, overflow="fold"
        )
    for row in rows:
        table.add_row(*(Text(escape_controls(cell)) for cell in row))
    Console().print(table)
