"""`snapper doctor`: one screen that says what is wrong and what to do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from snapper.cli.options import JsonOption, StoreOption
from snapper.cli.render import output
from snapper.cli.render.text import plural
from snapper.errors import ExitCode
from snapper.format.canonical import to_jsonable
from snapper.settings.directories import absolute_directory

if TYPE_CHECKING:
    from snapper.checks.findings import Level

_MARKS: dict[Level, str] = {"good": "ok", "note": "note", "warning": "WARNING", "problem": "PROBLEM"}


def doctor(
    scripts: Annotated[
        list[Path] | None, typer.Argument(metavar="[SCRIPT]...", help="Lifecycle scripts to look at, too.")
    ] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> int:
    """Say what is wrong here, and what to do about it."""
    from snapper.commands import doctor as verb

    asked = verb.DoctorOptions(store, tuple(absolute_directory(each) for each in scripts or []))
    found = list(verb.run_checks(asked))
    wrong = sum(each.level in ("warning", "problem") for each in found)
    if as_json:
        output.print_json({"findings": [to_jsonable(each) for each in found], "wrong": wrong})
    else:
        for each in found:
            output.echo(f"{_MARKS[each.level]:8}{each.title}: {each.detail}")
            if each.hint:
                output.echo(f"{'':8}  {each.hint}")
        output.echo("Nothing is wrong." if not wrong else f"{plural(wrong, 'thing')} to look at.")
    return ExitCode.PARTIAL if wrong else ExitCode.DONE
