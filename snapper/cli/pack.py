"""`snapper pack`: parse, pack, report."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from snapper.cli import output
from snapper.cli.options import (
    JobsOption,
    JsonOption,
    LevelOption,
    MessageOption,
    PrefixOption,
    StoreOption,
    open_store,
)
from snapper.cli.text import plural, size
from snapper.errors import NotAnEnvironment, UsageError
from snapper.format.canonical import to_jsonable
from snapper.settings.settings import absolute_directory, load_settings

if TYPE_CHECKING:
    from snapper.commands.pack import PackResult


class EditableOption(str, Enum):
    """The values of --editable."""

    refuse = "refuse"
    include = "include"
    ignore = "ignore"


def pack(
    name: Annotated[str | None, typer.Argument(metavar="[ENV]", help="Name of a conda environment.")] = None,
    prefix: PrefixOption = None,
    store_name: Annotated[
        str | None,
        typer.Option(
            "--name", "-n", metavar="NAME", help="Name in the store. Default: the environment's own."
        ),
    ] = None,
    message: MessageOption = "",
    level: LevelOption = None,
    editable: Annotated[
        EditableOption,
        typer.Option(
            help="What to do about editable installs: take their sources along, or leave the links."
        ),
    ] = EditableOption.refuse,
    full: Annotated[
        bool,
        typer.Option("--full", help="Read all files, also those that look as they were at the last pack."),
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Move the name to this snapshot though somebody else has moved it meanwhile."
        ),
    ] = False,
    store: StoreOption = None,
    jobs: JobsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Pack an environment into the store."""
    from snapper.cli.bars import reporter
    from snapper.commands import pack as verb

    place, known_as = _place_and_name(name, prefix, store_name)
    opened = open_store(store, create=True, apart_from=place)
    with reporter(quiet=as_json) as progress:
        done = verb.pack(
            opened,
            place,
            known_as,
            message=message,
            level=level or load_settings().level,
            editables=editable.value,
            full=full,
            force=force,
            jobs=jobs or load_settings().jobs,
            progress=progress,
        )
    report(done, as_json)


def _place_and_name(name: str | None, prefix: Path | None, store_name: str | None) -> tuple[Path, str]:
    """Where the environment is, and what it is to be called in the store."""
    from snapper.environment import conda
    from snapper.environment.locations import find_environment
    from snapper.repository.specs import check_environment_name

    if (name is None) == (prefix is None):
        raise UsageError(
            "name one environment or give its directory with --prefix, and not both",
            "See: snapper pack --help.",
        )
    place = absolute_directory(prefix) if prefix is not None else None
    known_as = check_environment_name(
        store_name or (place.name if place else str(name)),
        "Name a directory with --prefix, and what it is to be called in the store with --name.",
    )
    place = place or find_environment(str(name))
    if not conda.is_environment(place):
        raise NotAnEnvironment(str(place))
    return place, known_as


def report(done: PackResult, as_json: bool) -> None:
    """Reports a pack."""
    if as_json:
        output.document(_fields(done))
        return
    for path, reason in done.skipped:
        output.warn(f"not packed: {path}: {reason}")
    output.listing("these files hold the environment's directory and cannot be relocated", done.unrelocated)
    output.listing(
        "these links lead to places outside of the environment, and are kept as they are", done.outside
    )
    output.deviations("altered since conda installed the package", done.snapshot.altered)
    output.deviations("gone since conda installed the package", done.snapshot.missing)
    if done.unchanged:
        output.say(
            f"{done.environment} is in the store as it is: {done.snapshot_id[:12]} ({done.seconds:.1f} s)"
        )
        return
    packages = len(done.snapshot.packages) + len(done.snapshot.pip)
    output.say(
        f"{done.environment} is packed: {done.snapshot_id[:12]}, {plural(packages, 'package')}, "
        f"{plural(done.snapshot.files, 'file')}, {size(done.snapshot.size)}"
    )
    output.say(
        f"  {plural(done.added_layers, 'new layer')}, {size(done.added_size)} added, {done.seconds:.1f} s"
    )
    output.say(f"  store: {done.store}{', which had no environment before' if done.first else ''}")
    if done.replaced:
        step = done.replaced
        output.warn(
            f"  {done.environment} was at {step.snapshot[:12]} there, by {step.user}@{step.host} at {step.time}, which "
            f"is not what this one comes from. It is in the history: snapper log {done.environment}"
        )


def _fields(done: PackResult) -> dict[str, Any]:
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
        "altered": to_jsonable(done.snapshot.altered),
        "missing": to_jsonable(done.snapshot.missing),
        "skipped": [{"path": path, "reason": reason} for path, reason in done.skipped],
        "unrelocated": list(done.unrelocated),
        "outside": list(done.outside),
        "first": done.first,
        "replaced": to_jsonable(done.replaced),
        "seconds": round(done.seconds, 3),
    }
