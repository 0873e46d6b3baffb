"""What commands print: for people on stdout as text and tables, for programs as one JSON document."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from snapper.canonical import plain
from snapper.cli.text import clean, plural, size
from snapper.errors import ExitCode, SnapperError

if TYPE_CHECKING:
    from snapper.catalog import Entry
    from snapper.export import Exported
    from snapper.model import Deviation, Environment, Snapshot
    from snapper.pack import Packed
    from snapper.restore import Failed, Restored

_MOST_LISTED = 10


def text(document: str) -> None:
    """Prints a document as it is."""
    sys.stdout.write(document)


def error(failure: SnapperError, as_json: bool) -> None:
    """Reports an error: one sentence and what to do, on stderr, or as JSON on stdout."""
    if as_json:
        _json({"error": _error(failure)})
        return
    _warn(f"snapper: {failure.message}")
    if failure.hint:
        _warn(f"  {failure.hint}")


def packed(done: Packed, as_json: bool) -> None:
    """Reports a pack."""
    if as_json:
        _json(_packed(done))
        return
    for path, reason in done.skipped:
        _warn(f"not packed: {path}: {reason}")
    _list("these files hold the environment's directory and cannot be relocated", done.unrelocated)
    _list("these links lead to places outside of the environment, and are kept as they are", done.outside)
    _deviations("altered since conda installed the package", done.snapshot.altered)
    _deviations("gone since conda installed the package", done.snapshot.missing)
    if done.unchanged:
        _say(f"{done.environment} is in the store as it is: {done.snapshot_id[:12]} ({done.seconds:.1f} s)")
        return
    packages = len(done.snapshot.packages) + len(done.snapshot.pip)
    _say(
        f"{done.environment} is packed: {done.snapshot_id[:12]}, {plural(packages, 'package')}, "
        f"{plural(done.snapshot.files, 'file')}, {size(done.snapshot.size)}"
    )
    _say(f"  {plural(done.added_layers, 'new layer')}, {size(done.added_size)} added, {done.seconds:.1f} s")
    _say(f"  store: {done.store}")


def exported(done: Exported, as_json: bool) -> int:
    """Reports an export; returns the exit code."""
    code = ExitCode.PARTIAL if done.unrelocated else ExitCode.DONE
    if as_json:
        fields = plain(done)
        fields["snapshot"] = fields.pop("snapshot_id")
        _json({**fields, "longest_prefix": done.longest_prefix, "seconds": round(done.seconds, 3)})
        return code
    _list("these files hold another prefix, because this one does not fit in them", done.unrelocated)
    _say(f"{done.environment}@{done.snapshot_id[:12]} is exported: {done.output}")
    _say(f"  {plural(done.files, 'file')}, {size(done.size)} as {done.format}, {done.seconds:.1f} s")
    if done.dest_prefix:
        _say(f"  unpack it at {done.dest_prefix}")
    else:
        room = f" (its path can have {done.longest_prefix} bytes)" if done.longest_prefix else ""
        _say(f"  unpack it in a directory of its own{room}, then run bin/conda-unpack there")
    return code


def restored(results: Sequence[Restored | Failed], store: str, as_json: bool) -> int:
    """Reports what was restored and what was not; returns the exit code."""
    from snapper.restore import Failed

    failed = [each for each in results if isinstance(each, Failed)]
    done = [each for each in results if not isinstance(each, Failed)]
    problems = any(each.unrelocated or any(k.problem for k in each.kernels) for each in done)
    code = failed[0].error.code if failed else ExitCode.PARTIAL if problems else ExitCode.DONE
    if as_json:
        document: dict[str, Any] = {
            "store": store,
            "restored": [_restored(each) for each in done],
            "failed": [{"environment": each.environment, **_error(each.error)} for each in failed],
        }
        if failed and not done:
            document["error"] = _error(failed[0].error)
        _json(document)
        return code
    for each in done:
        _say_restored(each)
    for failure in failed:
        error(failure.error, as_json=False)
    if len(results) > 1:
        present = sum(each.present for each in done)
        _say(f"{len(done) - present} restored, {present} already there, {len(failed)} failed")
    if not results:
        _say(f"The store {store} has no environments. Pack one with: snapper pack NAME")
    return code


def listed(entries: Iterable[Entry], store: str, as_json: bool) -> int:
    """Prints the store's environments; returns the exit code."""
    found = list(entries)
    damaged = [each for each in found if each.environment is None]
    if as_json:
        _json({"store": store, "environments": [_entry(each) for each in found]})
    elif not found:
        _say(f"The store {store} has no environments. Pack one with: snapper pack NAME")
    else:
        rows = []
        for entry in found:
            if entry.environment is not None:
                latest = entry.environment.latest
                rows.append(
                    (
                        entry.name,
                        latest.snapshot[:12],
                        str(latest.packages),
                        size(latest.size),
                        size(latest.stored_size),
                        latest.time.replace("T", " ").removesuffix("Z"),
                        f"{latest.host}:{latest.prefix or '(imported)'}",
                    )
                )
        _table(
            ("ENVIRONMENT", "SNAPSHOT", "PACKAGES", "SIZE", "STORED", "PACKED (UTC)", "FROM"),
            rows,
            right=(2, 3, 4),
        )
    if not as_json:
        for entry in damaged:
            if entry.error is not None:
                error(entry.error, as_json=False)
    return damaged[0].error.code if damaged and damaged[0].error is not None else ExitCode.DONE


def shown(environment: Environment, snapshot_id: str, snapshot: Snapshot, as_json: bool) -> None:
    """Prints one snapshot."""
    moves = [move for move in environment.history if move.snapshot == snapshot_id]
    if as_json:
        _json(
            {
                "environment": environment.name,
                "snapshot": snapshot_id,
                "current": snapshot_id == environment.current,
                "size": snapshot.size,
                "stored_size": snapshot.stored_size,
                "files": snapshot.files,
                "history": plain(tuple(moves)),
                **plain(snapshot),
            }
        )
        return
    _say(f"{environment.name}@{snapshot_id[:12]}{' (current)' if snapshot_id == environment.current else ''}")
    _say(f"  id        {snapshot_id}")
    for move in moves[-1:]:
        origin = f"packed    {{}} from {move.prefix}" if move.prefix else "imported  {}"
        _say("  " + origin.format(f"{move.time} by {move.user}@{move.host}"))
        if move.message:
            _say(f"  message   {move.message}")
    _say(f"  platform  {snapshot.platform}")
    _say(
        f"  size      {size(snapshot.size)} in {plural(snapshot.files, 'file')}, "
        f"stored as {size(snapshot.stored_size)} in {plural(len(snapshot.layers), 'layer')}"
    )
    for kernel in snapshot.kernels:
        _say(f"  kernel    {kernel.name} ({kernel.display_name})")
    _deviations("altered since conda installed the package", snapshot.altered, _say)
    _deviations("gone since conda installed the package", snapshot.missing, _say)
    stored: dict[str, int] = {}
    for layer in snapshot.layers:
        stored[layer.owner] = stored.get(layer.owner, 0) + layer.size
    rows = [
        (each.name, each.version, each.build, size(stored.get(each.dist, 0)), each.channel.rstrip("/"))
        for each in snapshot.packages
    ]
    rows += [
        (each.name, each.version, "", size(stored.get(f"{each.name}-{each.version}", 0)), "pip")
        for each in snapshot.pip
    ]
    _table(("PACKAGE", "VERSION", "BUILD", "STORED", "CHANNEL"), rows, right=(3,))


def _say_restored(done: Restored) -> None:
    if done.present:
        _say(f"{done.environment} is there already: {done.prefix}")
        if done.changed:
            _warn(
                f"  {plural(done.changed, 'file')} changed since and not packed: snapper pack {done.environment}"
            )
    else:
        _say(f"{done.environment} is restored: {done.prefix} ({size(done.size)} in {done.seconds:.1f} s)")
    _list("these files hold another prefix, because this one does not fit in them", done.unrelocated)
    for kernel in done.kernels:
        if kernel.problem:
            _warn(f"  kernel {kernel.name} could not be registered at {kernel.path}: {kernel.problem}")
        else:
            _say(f"  kernel: {kernel.display_name}")
    if not done.kernels:
        _say("  no kernel: it has none. Add one with: conda install -n " + done.environment + " ipykernel")


def _packed(done: Packed) -> dict[str, Any]:
    return {
        "environment": done.environment,
        "snapshot": done.snapshot_id,
        "unchanged": done.unchanged,
        "prefix": done.prefix,
        "store": done.store,
        "platform": done.snapshot.platform,
        "packages": len(done.snapshot.packages),
        "pip_packages": len(done.snapshot.pip),
        "files": done.snapshot.files,
        "size": done.snapshot.size,
        "stored_size": done.snapshot.stored_size,
        "layers": len(done.snapshot.layers),
        "added_layers": done.added_layers,
        "added_size": done.added_size,
        "altered": plain(done.snapshot.altered),
        "missing": plain(done.snapshot.missing),
        "skipped": [{"path": path, "reason": reason} for path, reason in done.skipped],
        "unrelocated": list(done.unrelocated),
        "outside": list(done.outside),
        "seconds": round(done.seconds, 3),
    }


def _restored(done: Restored) -> dict[str, Any]:
    return {
        "environment": done.environment,
        "snapshot": done.snapshot_id,
        "prefix": done.prefix,
        "present": done.present,
        "changed": done.changed,
        "size": done.size,
        "kernels": plain(done.kernels),
        "unrelocated": list(done.unrelocated),
        "seconds": round(done.seconds, 3),
    }


def _entry(entry: Entry) -> dict[str, Any]:
    if entry.environment is None:
        return {"environment": entry.name, "error": _error(entry.error) if entry.error else None}
    latest: dict[str, Any] = plain(entry.environment.latest)
    return {"environment": entry.name, **latest, "tags": entry.environment.tags}


def _error(failure: SnapperError) -> dict[str, Any]:
    return {
        "code": int(failure.code),
        "type": type(failure).__name__,
        "message": failure.message,
        "hint": failure.hint,
    }


def _deviations(what: str, deviations: Iterable[Deviation], say: Callable[[str], None] | None = None) -> None:
    for each in deviations:
        _list(f"{each.package}: {plural(len(each.paths), 'file')} {what}", each.paths, say)


def _list(what: str, paths: Sequence[str], say: Callable[[str], None] | None = None) -> None:
    say = say or _warn
    if paths:
        say(f"{what}:")
        for path in paths[:_MOST_LISTED]:
            say(f"    {path}")
        if len(paths) > _MOST_LISTED:
            say(f"    and {len(paths) - _MOST_LISTED:,} more (all of them with --json)")


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]], right: tuple[int, ...]) -> None:
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


def _json(document: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(document, indent=2) + "\n")


def _say(line: str) -> None:
    print(clean(line))


def _warn(line: str) -> None:
    print(clean(line), file=sys.stderr)
