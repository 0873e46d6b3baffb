"""`snapper list` and `snapper show`: what a store has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from snapper.cli import output
from snapper.cli.options import JsonOption, ReferenceArgument, StoreOption, open_store
from snapper.cli.seen import Seen, seen
from snapper.cli.text import moment, plural, size
from snapper.errors import UsageError
from snapper.format.canonical import to_jsonable

if TYPE_CHECKING:
    from snapper.format.model import Ref, Snapshot
    from snapper.repository.refs import RefOrError


def list_(store: StoreOption = None, as_json: JsonOption = False) -> int:
    """List the environments of the store."""
    from snapper.repository.refs import read_all_refs

    opened = open_store(store)
    found = list(read_all_refs(opened))
    return _listed(found, seen(opened, [each.name for each in found]), as_json)


def show(
    name: ReferenceArgument,
    explicit: Annotated[
        bool, typer.Option("--explicit", help="Print a lock file for conda create --file.")
    ] = False,
    as_yaml: Annotated[bool, typer.Option("--yaml", help="Print an environment.yml.")] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> int:
    """Show a snapshot: its packages, layers and kernels."""
    from snapper.commands import lockfile
    from snapper.repository.snapshots import read_snapshot
    from snapper.repository.specs import SnapshotSpec, resolve_spec

    if explicit + as_yaml + as_json > 1:
        raise UsageError("--explicit, --yaml and --json are three different outputs", "Choose one of them.")
    reference = SnapshotSpec.parse(name)
    opened = open_store(store)
    environment, snapshot_id = resolve_spec(opened, reference)
    snapshot = read_snapshot(opened, snapshot_id)
    last = seen(opened, [environment.name])
    if explicit:
        output.text(lockfile.explicit(snapshot))
    elif as_yaml:
        output.text(lockfile.environment_yml(environment.name, snapshot))
    else:
        _shown(environment, snapshot_id, snapshot, as_json, last)
    if not as_json:
        last.tell()
    return last.code


def _listed(found: Sequence[RefOrError], last: Seen, as_json: bool) -> int:
    """Prints the store's environments; returns the exit code."""
    from snapper.repository.refs import origin_entry

    damaged = [each for each in found if each.environment is None]
    if as_json:
        output.document(
            {"store": last.store, "environments": [_entry(each) for each in found], **last.fields}
        )
    elif not found:
        output.empty(last.store)
    else:
        rows = []
        for entry in found:
            if entry.environment is not None:
                latest = (
                    origin_entry(entry.environment, entry.environment.current) or entry.environment.latest
                )
                rows.append(
                    (
                        entry.name,
                        latest.snapshot[:12],
                        str(latest.packages),
                        size(latest.size),
                        size(latest.stored_size),
                        moment(latest.time),
                        f"{latest.host}:{latest.prefix or '(imported)'}",
                    )
                )
        output.table(
            ("ENVIRONMENT", "SNAPSHOT", "PACKAGES", "SIZE", "STORED", "PACKED (UTC)", "FROM"),
            rows,
            right=(2, 3, 4),
        )
    if not as_json:
        for entry in damaged:
            if entry.error is not None:
                output.error(entry.error, as_json=False)
        last.tell()
    return damaged[0].error.code if damaged and damaged[0].error is not None else last.code


def _shown(environment: Ref, snapshot_id: str, snapshot: Snapshot, as_json: bool, last: Seen) -> None:
    """Prints one snapshot."""
    from snapper.repository.refs import origin_entry

    if as_json:
        moves = tuple(move for move in environment.history if move.snapshot == snapshot_id)
        output.document(
            {
                "environment": environment.name,
                "snapshot": snapshot_id,
                "current": snapshot_id == environment.current,
                "size": snapshot.size,
                "stored_size": snapshot.stored_size,
                "files": snapshot.files,
                "history": to_jsonable(moves),
                **to_jsonable(snapshot),
                **last.fields,
            }
        )
        return
    output.say(
        f"{environment.name}@{snapshot_id[:12]}{' (current)' if snapshot_id == environment.current else ''}"
    )
    output.say(f"  id        {snapshot_id}")
    move = origin_entry(environment, snapshot_id)
    if move:
        origin = f"packed    {{}} from {move.prefix}" if move.prefix else "imported  {}"
        output.say("  " + origin.format(f"{move.time} by {move.user}@{move.host}"))
        if move.message:
            output.say(f"  message   {move.message}")
    output.say(f"  platform  {snapshot.platform}")
    output.say(
        f"  size      {size(snapshot.size)} in {plural(snapshot.files, 'file')}, "
        f"stored as {size(snapshot.stored_size)} in {plural(len(snapshot.layers), 'layer')}"
    )
    for kernel in snapshot.kernels:
        output.say(f"  kernel    {kernel.name} ({kernel.display_name})")
    output.deviations("altered since conda installed the package", snapshot.altered, output.say)
    output.deviations("gone since conda installed the package", snapshot.missing, output.say)
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
    output.table(("PACKAGE", "VERSION", "BUILD", "STORED", "CHANNEL"), rows, right=(3,))


def _entry(entry: RefOrError) -> dict[str, Any]:
    if entry.environment is None:
        return {"environment": entry.name, "error": output.described(entry.error) if entry.error else None}
    latest: dict[str, Any] = to_jsonable(entry.environment.latest)
    return {"environment": entry.name, **latest, "tags": entry.environment.tags}
