"""`snapper show`: one snapshot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from snapper.cli.options import JsonOption, ReferenceArgument, StoreOption, open_store
from snapper.cli.render import output
from snapper.cli.render.staleness import read_staleness
from snapper.cli.render.text import moment, plural, size
from snapper.errors import UsageError
from snapper.format.canonical import to_jsonable

if TYPE_CHECKING:
    from snapper.format.model import Ref, Snapshot


def show(
    name: ReferenceArgument,
    explicit: Annotated[
        bool, typer.Option("--explicit", help="Print a lock file for conda create --file.")
    ] = False,
    as_yaml: Annotated[
        bool, typer.Option("--yaml", help="Print an environment.yml for conda env create.")
    ] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> int:
    """Show a snapshot: its packages, size and kernels.

    Examples:
        snapper show myenv
        snapper show myenv@~1
        snapper show myenv --explicit > lock.txt
    """
    from snapper.commands import lockfile
    from snapper.repository.snapshots import read_snapshot
    from snapper.repository.specs import SnapshotSpec, resolve_spec

    if explicit + as_yaml + as_json > 1:
        raise UsageError("--explicit, --yaml and --json cannot be combined", "Choose one of them.")
    reference = SnapshotSpec.parse(name)
    opened = open_store(store)
    environment, snapshot_id = resolve_spec(opened, reference)
    snapshot = read_snapshot(opened, snapshot_id)
    staleness = read_staleness(opened, [environment.name])
    if explicit:
        output.print_text(lockfile.render_explicit(snapshot))
    elif as_yaml:
        output.print_text(lockfile.render_environment_yml(environment.name, snapshot))
    elif as_json:
        output.print_json({**_fields(environment, snapshot_id, snapshot), **staleness.fields})
    else:
        _print_snapshot(environment, snapshot_id, snapshot)
    if not as_json:
        staleness.warn()
    return staleness.code


def _fields(environment: Ref, snapshot_id: str, snapshot: Snapshot) -> dict[str, Any]:
    entries = tuple(entry for entry in environment.history if entry.snapshot == snapshot_id)
    return {
        "environment": environment.name,
        "snapshot": snapshot_id,
        "current": snapshot_id == environment.current,
        "size": snapshot.size,
        "stored_size": snapshot.stored_size,
        "files": snapshot.files,
        "history": to_jsonable(entries),
        **to_jsonable(snapshot),
    }


def _print_snapshot(environment: Ref, snapshot_id: str, snapshot: Snapshot) -> None:
    from snapper.repository.refs import origin_entry

    output.echo(
        f"{environment.name}@{snapshot_id[:12]}{' (current)' if snapshot_id == environment.current else ''}"
    )
    output.echo(f"  id        {snapshot_id}")
    entry = origin_entry(environment, snapshot_id)
    if entry:
        origin = f"packed    {{}} from {entry.prefix}" if entry.prefix else "imported  {}"
        output.echo("  " + origin.format(f"{moment(entry.time)} UTC by {entry.user}@{entry.host}"))
        if entry.message:
            output.echo(f"  message   {entry.message}")
    output.echo(f"  platform  {snapshot.platform}")
    output.echo(
        f"  size      {size(snapshot.size)} in {plural(snapshot.files, 'file')}, "
        f"stored as {size(snapshot.stored_size)} in {plural(len(snapshot.layers), 'layer')}"
    )
    for kernel in snapshot.kernels:
        output.echo(f"  kernel    {kernel.name} ({kernel.display_name})")
    output.print_deviations("modified since conda installed the package", snapshot.altered, output.echo)
    output.print_deviations("missing since conda installed the package", snapshot.missing, output.echo)
    _print_packages(snapshot)


def _print_packages(snapshot: Snapshot) -> None:
    stored: dict[str, int] = {}
    for layer in snapshot.layers:
        stored[layer.owner] = stored.get(layer.owner, 0) + layer.size
    rows = [
        (
            package.name,
            package.version,
            package.build,
            size(stored.get(package.dist, 0)),
            package.channel.rstrip("/"),
        )
        for package in snapshot.packages
    ]
    rows += [
        (package.name, package.version, "", size(stored.get(f"{package.name}-{package.version}", 0)), "pip")
        for package in snapshot.pip
    ]
    output.print_table(("PACKAGE", "VERSION", "BUILD", "STORED", "CHANNEL"), rows, right=(3,))
