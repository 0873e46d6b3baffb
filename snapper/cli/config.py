"""`snapper config`: show settings and where they come from, and change the settings file."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from snapper.cli import help
from snapper.cli.completion import complete_setting
from snapper.cli.options import JsonOption, with_general_options
from snapper.cli.parsing import Command
from snapper.cli.render import output
from snapper.cli.render.text import size
from snapper.errors import ExitCode, NotAStore, UsageError
from snapper.format.canonical import to_jsonable
from snapper.settings.file import find_settings_file, writable_settings_file, write_setting
from snapper.settings.keys import KEYS, OFF, SETTINGS, check_key, parse_value
from snapper.settings.resolution import Setting, explain_setting, explain_settings, variable_name

app = typer.Typer(
    help="""Show and change settings.

Precedence: option of a command, environment variable, settings file, default.

Examples:
    snapper config
    snapper config set store s3://bucket/envs
    snapper config get store
""",
    cls=help.Group,
    rich_markup_mode=None,
    add_completion=False,
)

KeyArgument = Annotated[
    str, typer.Argument(metavar="KEY", help="Name of the setting.", autocompletion=complete_setting)
]


@app.callback(invoke_without_command=True)
@with_general_options
def _default(context: typer.Context, as_json: JsonOption = False) -> int:
    return show(as_json) if context.invoked_subcommand is None else 0


@app.command(cls=Command)
@with_general_options
def show(as_json: JsonOption = False) -> int:
    """Show all settings, where they come from, and invalid ones.

    Examples:
        snapper config show
    """
    overview = explain_settings()
    code = overview.wrong[0].code if overview.wrong else ExitCode.DONE
    if as_json:
        output.print_json(
            {
                "file": str(overview.file) if overview.file else None,
                "settings": [_fields(setting) for setting in overview.settings],
                "wrong": [output.error_fields(error) for error in overview.wrong],
            }
        )
        return code
    output.print_table(
        ("SETTING", "VALUE", "FROM"),
        [(setting.key, _format_value(setting), setting.origin) for setting in overview.settings],
        right=(),
    )
    for error in overview.wrong:
        output.print_error(error, as_json=False)
    return code


@app.command(cls=Command)
@with_general_options
def get(key: KeyArgument, as_json: JsonOption = False) -> None:
    """Print the value of one setting, one line per value.

    Examples:
        snapper config get store
    """
    _print_value(explain_setting(key), as_json)


@app.command(name="set", cls=Command)
@with_general_options
def set_(
    key: KeyArgument,
    values: Annotated[list[str], typer.Argument(metavar="VALUE...", help="Value, or several for a list.")],
    as_json: JsonOption = False,
) -> None:
    """Set one setting in the settings file; the rest of the file is kept.

    Examples:
        snapper config set store s3://bucket/envs
        snapper config set only myenv "team-*"
    """
    value = parse_value(key, values)
    if key == "store" and str(value).startswith("s3://"):
        _check_url(str(value))
    file = write_setting(key, OFF if value is None else value)
    _print_change(key, file, as_json)


@app.command(cls=Command)
@with_general_options
def unset(key: KeyArgument, as_json: JsonOption = False) -> None:
    """Remove one setting from the settings file.

    Examples:
        snapper config unset store
    """
    current = find_settings_file()
    stray = current is not None and key in current.fields and key not in KEYS
    file = write_setting(key if stray else check_key(key), None)
    if not stray:
        _print_change(key, file, as_json)
    elif as_json:
        output.print_json({"key": key, "value": None, "origin": None})
    else:
        output.echo(f"Removed {key}, which is not a known setting, from {file}")


@app.command(cls=Command)
@with_general_options
def path(as_json: JsonOption = False) -> None:
    """Print the path of the settings file.

    If there is none, this is the file that `snapper config set` would create.

    Examples:
        snapper config path
    """
    current = find_settings_file()
    file = str(current.path if current else writable_settings_file())
    if as_json:
        output.print_json({"file": file, "exists": bool(current and not current.missing)})
    else:
        output.echo(file)


def _check_url(url: str) -> None:
    """Raise UsageError for an invalid S3 URL."""
    from snapper.store import s3

    try:
        s3.parse_url(url)
    except NotAStore as error:
        raise UsageError(error.message, error.hint) from None


def _print_change(key: str, file: object, as_json: bool) -> None:
    setting = explain_setting(key)
    if as_json:
        output.print_json(_fields(setting))
        return
    output.echo(f"{key} = {_format_value(setting)}, from {setting.origin}")
    if setting.origin == variable_name(key):
        output.notice(f"  note: the environment variable {setting.origin} overrides {file}")


def _print_value(setting: Setting, as_json: bool) -> None:
    if as_json:
        output.print_json(_fields(setting))
    elif isinstance(setting.shown, tuple):
        for value in setting.shown:
            output.echo(value)
    elif setting.shown is not None:
        output.echo(f"{setting.shown:g}" if isinstance(setting.shown, float) else str(setting.shown))


def _fields(setting: Setting) -> dict[str, Any]:
    return {"key": setting.key, "value": to_jsonable(setting.shown), "origin": setting.origin}


def _format_value(setting: Setting) -> str:
    value = setting.shown
    if value is None:
        return "-"
    if isinstance(value, int) and SETTINGS[setting.key].is_size:
        return size(value)
    if isinstance(value, tuple):
        return ", ".join(value) or "-"
    return f"{value:g}" if isinstance(value, float) else str(value)
