"""`snapper config`: what holds and where it comes from; changes to the file of settings."""

from __future__ import annotations

from typing import Annotated

import typer

from snapper import config, settings_file
from snapper.cli import output
from snapper.cli.options import JsonOption
from snapper.errors import ExitCode, NotAStore, Usage
from snapper.format.canonical import plain

app = typer.Typer(help="Show and change settings.", rich_markup_mode=None, add_completion=False)

KeyArgument = Annotated[str, typer.Argument(metavar="KEY", help="The setting's name.")]


@app.callback(invoke_without_command=True)
def _default(context: typer.Context, as_json: JsonOption = False) -> int:
    return show(as_json) if context.invoked_subcommand is None else 0


@app.command()
def show(as_json: JsonOption = False) -> int:
    """Show all settings, their origins, and what is wrong."""
    found = config.explain()
    code = found.wrong[0].code if found.wrong else ExitCode.DONE
    if as_json:
        output.document(
            {
                "file": str(found.file) if found.file else None,
                "settings": [plain(each) for each in found.settings],
                "wrong": [output.described(each) for each in found.wrong],
            }
        )
        return code
    output.table(
        ("SETTING", "VALUE", "FROM"),
        [(each.key, _shown(each.value), each.origin) for each in found.settings],
        right=(),
    )
    for each in found.wrong:
        output.error(each, as_json=False)
    return code


@app.command()
def get(key: KeyArgument, as_json: JsonOption = False) -> None:
    """Print the value of one setting; several on lines of their own."""
    _say(config.explain_one(key), as_json)


@app.command(name="set")
def set_(
    key: KeyArgument,
    values: Annotated[list[str], typer.Argument(metavar="VALUE...", help="Its value, or its values.")],
    as_json: JsonOption = False,
) -> None:
    """Set one setting in the file; the rest of it stays."""
    value = config.parse(key, values)
    if key == "store" and str(value).startswith("s3://"):
        _check_url(str(value))
    file = settings_file.write(key, config.OFF if value is None else value)
    _changed(key, file, as_json)


@app.command()
def unset(key: KeyArgument, as_json: JsonOption = False) -> None:
    """Take one setting out of the file."""
    there = settings_file.find()
    stray = there is not None and key in there.fields and key not in config.KEYS
    file = settings_file.write(key if stray else config.known(key), None)
    if not stray:
        _changed(key, file, as_json)
    elif as_json:
        output.document({"key": key, "value": None, "origin": None})
    else:
        output.say(f"{key}, which is no setting, is out of {file}")


@app.command()
def path(as_json: JsonOption = False) -> None:
    """Print the file of settings that holds, or that `set` would make."""
    found = settings_file.find()
    file = str(found.path if found else settings_file.place())
    if as_json:
        output.document({"file": file, "exists": bool(found and not found.missing)})
    else:
        output.say(file)


def _check_url(url: str) -> None:
    """Raises Usage for one that no store on S3 can have."""
    from snapper.store import s3

    try:
        s3.parse(url)
    except NotAStore as error:
        raise Usage(error.message, error.hint) from None


def _changed(key: str, file: object, as_json: bool) -> None:
    found = config.explain_one(key)
    if as_json:
        output.document(plain(found))
        return
    output.say(f"{key} = {_shown(found.value)}, from {found.origin}")
    if found.origin == config.variable_of(key):
        output.warn(f"  The variable {found.origin} is set, and goes before what is in {file}.")


def _say(found: config.Setting, as_json: bool) -> None:
    if as_json:
        output.document({"key": found.key, "value": plain(found.value), "origin": found.origin})
    elif isinstance(found.value, tuple):
        for each in found.value:
            output.say(each)
    elif found.value is not None:
        output.say(f"{found.value:g}" if isinstance(found.value, float) else str(found.value))


def _shown(value: config.Value) -> str:
    if value is None:
        return "-"
    if isinstance(value, tuple):
        return ", ".join(value) or "-"
    return f"{value:g}" if isinstance(value, float) else str(value)
