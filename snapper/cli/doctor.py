"""`snapper doctor`: check the machine and the store, and say how to fix problems."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from snapper.cli.options import JsonOption, StoreOption
from snapper.cli.render import output
from snapper.cli.render.style import Style
from snapper.cli.render.text import plural
from snapper.errors import ExitCode
from snapper.format.canonical import to_jsonable
from snapper.settings.directories import absolute_directory

if TYPE_CHECKING:
    from snapper.checks.findings import Level

_MARKS: dict[Level, str] = {"good": "ok", "note": "note", "warning": "WARNING", "problem": "PROBLEM"}
_STYLES: dict[Level, Style] = {"good": "green", "note": "cyan", "warning": "yellow", "problem": "red"}


def doctor(
    scripts: Annotated[
        list[Path] | None, typer.Argument(metavar="[SCRIPT]...", help="Lifecycle scripts to check as well.")
    ] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> int:
    """Check this machine and the store, and say how to fix problems.

    Examples:
        snapper doctor
        snapper doctor on-start.sh
    """
    from snapper.commands import doctor as verb

    options = verb.DoctorOptions(store, tuple(absolute_directory(script) for script in scripts or []))
    findings = list(verb.run_checks(options))
    wrong = sum(finding.level in ("warning", "problem") for finding in findings)
    if as_json:
        output.print_json({"findings": [to_jsonable(finding) for finding in findings], "wrong": wrong})
    else:
        for finding in findings:
            output.echo(
                f"{finding.title}: {finding.detail}",
                label=f"{_MARKS[finding.level]:8}",
                style=_STYLES[finding.level],
            )
            if finding.hint:
                output.echo(f"{'':8}  {finding.hint}")
        output.echo("No problems found." if not wrong else f"{plural(wrong, 'problem')} found.")
    return ExitCode.PARTIAL if wrong else ExitCode.DONE
