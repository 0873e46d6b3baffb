"""`snapper list`: the environments of a store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from snapper.cli.options import JsonOption, StoreOption, open_store
from snapper.cli.render import output
from snapper.cli.render.staleness import Staleness, read_staleness
from snapper.cli.render.text import moment, size
from snapper.format.canonical import to_jsonable

if TYPE_CHECKING:
    from snapper.repository.refs import StoredEnvironment


def list_(store: StoreOption = None, as_json: JsonOption = False) -> int:
    """List the environments in the store.

    Examples:
        snapper list
        snapper list --json
    """
    from snapper.repository.refs import read_all_refs

    opened = open_store(store)
    found = list(read_all_refs(opened))
    return _print_list(found, read_staleness(opened, [entry.name for entry in found]), as_json)


def _print_list(found: Sequence[StoredEnvironment], staleness: Staleness, as_json: bool) -> int:
    """Prints the store's environments; returns the exit code."""
    from snapper.repository.refs import origin_entry

    damaged = [entry for entry in found if entry.ref is None]
    if as_json:
        output.print_json(
            {"store": staleness.store, "environments": [_entry(entry) for entry in found], **staleness.fields}
        )
    elif not found:
        output.print_empty_store(staleness.store)
    else:
        rows = []
        for entry in found:
            if entry.ref is not None:
                latest = origin_entry(entry.ref, entry.ref.current) or entry.ref.latest
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
        output.print_table(
            ("ENVIRONMENT", "SNAPSHOT", "PACKAGES", "SIZE", "STORED", "PACKED (UTC)", "FROM"),
            rows,
            right=(2, 3, 4),
        )
    if not as_json:
        for entry in damaged:
            if entry.error is not None:
                output.print_error(entry.error, as_json=False)
        staleness.warn()
    return damaged[0].error.code if damaged and damaged[0].error is not None else staleness.code


def _entry(entry: StoredEnvironment) -> dict[str, Any]:
    if entry.ref is None:
        return {"environment": entry.name, "error": output.error_fields(entry.error) if entry.error else None}
    latest: dict[str, Any] = to_jsonable(entry.ref.latest)
    return {"environment": entry.name, **latest, "tags": entry.ref.tags}
