"""How commands print: text and tables for people, one JSON document for programs, on stdout; the rest on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from snapper.cli.render.text import clean, plural
from snapper.errors import SnapperError
from snapper.format.model import Deviation

if TYPE_CHECKING:
    from snapper.environment.changes import PackageChange, PackageChanges

_MOST_LISTED = 10


def print_text(document: str) -> None:
    """Prints a document as it is."""
    sys.stdout.write(document)


def print_error(failure: SnapperError, as_json: bool) -> None:
    """Reports an error: one sentence and what to do, on stderr, or as JSON on stdout."""
    if as_json:
        print_json({"error": error_fields(failure)})
        return
    notice(f"snapper: {failure.message}")
    if failure.hint:
        notice(f"  {failure.hint}")


def print_failures(failures: Sequence[tuple[str, SnapperError]], *, alone: bool) -> None:
    """Reports what environments failed with, on stderr; each is named unless the one that there is was `alone`. What
    to do is said once where it is the same for those that follow.
    """
    for number, (environment, failure) in enumerate(failures):
        notice(f"snapper: {failure.message}" if alone else f"snapper: {environment}: {failure.message}")
        last = number + 1 == len(failures) or failures[number + 1][1].hint != failure.hint
        if failure.hint and last:
            notice(f"  {failure.hint}")


def error_fields(failure: SnapperError) -> dict[str, Any]:
    return {
        "code": int(failure.code),
        "type": type(failure).__name__,
        "message": failure.message,
        "hint": failure.hint,
    }


def failure_fields(failed: Sequence[tuple[str, SnapperError]], *, alone: bool) -> dict[str, Any]:
    """Environments with what each failed with, as JSON; the first is the whole command's error where nothing else was
    done (`alone`).
    """
    fields: dict[str, Any] = {
        "failed": [{"environment": environment, **error_fields(error)} for environment, error in failed]
    }
    if failed and alone:
        fields["error"] = error_fields(failed[0][1])
    return fields


def print_deviations(
    what: str, deviations: Iterable[Deviation], echo_by: Callable[[str], None] | None = None
) -> None:
    for each in deviations:
        print_paths(f"{each.package}: {plural(len(each.paths), 'file')} {what}", each.paths, echo_by)


def print_unrelocated(paths: Sequence[str]) -> None:
    print_paths("these files hold another prefix, because this one does not fit in them", paths)


def print_empty_store(store: str) -> None:
    echo(f"The store {store} has no environments. Pack one with: snapper pack NAME")


def print_changes(changes: PackageChanges, indent: str) -> None:
    """Prints what became of packages, a line each."""
    for each in changes.added:
        echo(f"{indent}+ {each.name} {each.after}{_by(each)}")
    for each in changes.removed:
        echo(f"{indent}- {each.name} {each.before}{_by(each)}")
    for each in changes.changed:
        echo(f"{indent}~ {each.name} {each.before} -> {each.after}{_by(each)}")


def _by(change: PackageChange) -> str:
    return " (pip)" if change.manager == "pip" else ""


def print_paths(what: str, paths: Sequence[str], echo_by: Callable[[str], None] | None = None) -> None:
    write = echo_by or notice
    if paths:
        write(f"{what}:")
        for path in paths[:_MOST_LISTED]:
            write(f"    {path}")
        if len(paths) > _MOST_LISTED:
            write(f"    and {len(paths) - _MOST_LISTED:,} more (all of them with --json)")


def print_table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]], right: tuple[int, ...]) -> None:
    if sys.stdout.isatty():
        _rich_table(head, rows, right)
        return
    cells = [head, *(tuple(clean(cell) for cell in row) for row in rows)]
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
        last = column == len(head) - 1
        table.add_column(
            title, justify="right" if column in right else "left", no_wrap=not last, overflow="fold"
        )
    for row in rows:
        table.add_row(*(Text(clean(cell)) for cell in row))
    Console().print(table)


def print_json(fields: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(fields, indent=2) + "\n")


def echo(line: str) -> None:
    print(clean(line))


def notice(line: str) -> None:
    print(clean(line), file=sys.stderr)
