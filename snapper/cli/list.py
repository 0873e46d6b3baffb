"""`snapper list`: the environments of a store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import snapper
from snapper.cli.options import JsonOption, StoreOption, open_store
from snapper.cli.render import output
from snapper.cli.render.staleness import read_staleness
from snapper.cli.render.text import moment, size
from snapper.format.canonical import to_jsonable

if TYPE_CHECKING:
    from snapper.format.model import HistoryEntry, Ref
    from snapper.repository.refs import StoredEnvironment


def list_(store: StoreOption = None, as_json: JsonOption = False) -> int:
    """List the environments in the store.

    Examples:
        snapper list
        snapper list --json
    """
    opened = open_store(store)
    environments = snapper.environments(opened)
    staleness = read_staleness(opened, [item.name for item in environments])
    unreadable = [item.error for item in environments if item.error is not None]
    code = unreadable[0].code if unreadable else staleness.code
    if as_json:
        documents = [_json_fields(item) for item in environments]
        output.print_json({"store": opened.url, "environments": documents, **staleness.fields})
        return code
    if environments:
        _print_table([item.ref for item in environments if item.ref is not None])
    else:
        output.print_empty_store(opened.url)
    for error in unreadable:
        output.print_error(error, as_json=False)
    staleness.warn()
    return code


class _Column(NamedTuple):
    """A column of the table: its title, and its cell, from a ref and the entry that packed its current snapshot."""

    title: str
    cell: Callable[[Ref, HistoryEntry], str]
    is_number: bool = False


_COLUMNS = (
    _Column("ENVIRONMENT", lambda ref, _: ref.name),
    _Column("SNAPSHOT", lambda ref, _: ref.current[:12]),
    _Column("PACKAGES", lambda _, packed: str(packed.packages), is_number=True),
    _Column("SIZE", lambda _, packed: size(packed.size), is_number=True),
    _Column("STORED", lambda _, packed: size(packed.stored_size), is_number=True),
    _Column("PACKED (UTC)", lambda _, packed: moment(packed.time)),
    _Column("FROM", lambda _, packed: f"{packed.host}:{packed.prefix or '(imported)'}"),
)


def _print_table(refs: Sequence[Ref]) -> None:
    """Print a row for each environment."""
    from snapper.repository.refs import origin_entry

    rows = []
    for ref in refs:
        packed = origin_entry(ref, ref.current) or ref.latest  # not a later rollback to the same snapshot
        rows.append(tuple(column.cell(ref, packed) for column in _COLUMNS))
    titles = tuple(column.title for column in _COLUMNS)
    numbers = tuple(number for number, column in enumerate(_COLUMNS) if column.is_number)
    output.print_table(titles, rows, right=numbers)


def _json_fields(item: StoredEnvironment) -> dict[str, Any]:
    """Return the JSON fields of an environment: its latest history entry and tags, or why it cannot be read."""
    if item.ref is None:
        return {"environment": item.name, "error": output.error_fields(item.error) if item.error else None}
    return {"environment": item.name, **to_jsonable(item.ref.latest), "tags": item.ref.tags}
