"""`snapper remove`: remove an environment from a store."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from snapper.cli.options import (
    JsonOption,
    NameArgument,
    StoreOption,
    open_store,
)
from snapper.cli.render import output
from snapper.cli.render.text import plural
from snapper.errors import ExitCode, UsageError
from snapper.process.logs import escape_controls

if TYPE_CHECKING:
    from snapper.commands.remove import RemovalPlan


def remove(
    name: NameArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> int:
    """Remove an environment from the store; copies on disk are kept.

    Examples:
        snapper remove myenv
        snapper remove myenv --yes
    """
    from snapper.commands import remove as verb

    opened = open_store(store)
    plan = verb.plan_removal(opened, name)
    if not yes and not _is_confirmed(plan, opened.url, as_json):
        output.warn("Nothing was removed.")
        return ExitCode.FAILED
    verb.remove_environment(opened, plan)
    if as_json:
        output.print_json(
            {
                "store": opened.url,
                "environment": name,
                "snapshot": plan.latest or None,
                "snapshots": plan.snapshots,
            }
        )
    else:
        output.echo(f"Removed {name} from {opened.url}")
        output.echo("  snapper prune --yes deletes its snapshots once they are 24 hours old (see --grace)")
    return ExitCode.DONE


def _is_confirmed(plan: RemovalPlan, store: str, as_json: bool) -> bool:
    """Ask the user for confirmation. Raise UsageError if nobody can be asked."""
    what = f"{plan.name} and its history ({plural(plan.snapshots, 'snapshot')})"
    if as_json or not sys.stdin.isatty():
        raise UsageError(f"removing {what} from {store} needs confirmation", "Confirm with --yes.")
    question = escape_controls(f"Remove {what} from {store}, for everyone who uses it?")
    return typer.confirm(question, err=True)
