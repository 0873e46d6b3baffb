"""The commands and their options. What a command needs beyond parsing is imported when it runs."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from snapper import __version__, config
from snapper.errors import (
    ExitCode,
    FileFailed,
    Interrupted,
    NotAnEnvironment,
    SnapperError,
    Unsupported,
    Usage,
)

if TYPE_CHECKING:
    from snapper.progress import Progress
    from snapper.store import Store

#: click's UsageError, wherever the installed typer has its click from.
_ParsingError: type[Exception] = typer.BadParameter.__mro__[1]

app = typer.Typer(
    name="snapper",
    help="Packs built conda environments into a store and brings them back, Jupyter kernels included.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)

StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="URL",
        help="Directory or file:// URL of the store. Default: SNAPPER_STORE, else ~/SageMaker/.snapper where "
        "~/SageMaker exists, else the user's data directory.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
JobsOption = Annotated[
    int | None,
    typer.Option(
        "--jobs", "-j", min=1, max=64, metavar="N", help="Worker processes. Default: one a processor."
    ),
]


class EditableOption(str, Enum):
    """The values of --editable."""

    refuse = "refuse"
    include = "include"
    ignore = "ignore"


def run(arguments: list[str]) -> int:
    """Runs one command line; returns the exit code. No error but a bug of ours leaves a traceback."""
    as_json = "--json" in arguments
    try:
        if sys.platform == "win32":
            raise Unsupported("Windows")
        code = int(app(arguments, standalone_mode=False) or 0)
        if code == ExitCode.INTERRUPTED:  # typer catches Ctrl-C itself, and says nothing
            raise Interrupted
        sys.stdout.flush()
        return code
    except SnapperError as error:
        return _report(error, as_json)
    except (KeyboardInterrupt, typer.Abort):
        return _report(Interrupted(), as_json)
    except _ParsingError as error:
        return _report(_misuse(error), as_json)
    except BrokenPipeError:
        _silence()
        return ExitCode.FAILED
    except OSError as error:
        _silence()
        on_output = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO)
        where = str(error.filename or ("standard output" if on_output else "the operating system"))
        return _report(FileFailed(where, error.strerror or str(error)), as_json and bool(error.filename))


def _silence() -> None:
    """Lets what is still to be written to standard output go nowhere, so that Python does not try at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _misuse(error: Exception) -> Usage:
    """What click says of a command line that it cannot parse."""
    message: str = getattr(error, "format_message", error.__str__)()
    context = getattr(error, "ctx", None)
    command = "snapper" if context is None or context.parent is None else f"snapper {context.info_name}"
    return Usage(message.rstrip("."), f"See: {command} --help.")


def _report(error: SnapperError, as_json: bool) -> int:
    from snapper.cli import render

    render.error(error, as_json)
    return error.code


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"snapper {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def pack(
    name: Annotated[str | None, typer.Argument(metavar="[ENV]", help="Name of a conda environment.")] = None,
    prefix: Annotated[
        Path | None,
        typer.Option(
            "--prefix", "-p", metavar="DIR", help="The environment's directory, instead of its name."
        ),
    ] = None,
    store_name: Annotated[
        str | None,
        typer.Option(
            "--name", "-n", metavar="NAME", help="Name in the store. Default: the environment's own."
        ),
    ] = None,
    message: Annotated[str, typer.Option("--message", "-m", help="A line for the history.")] = "",
    level: Annotated[
        int, typer.Option("--level", min=1, max=19, help="zstd compression level of new layers.")
    ] = 3,
    editable: Annotated[
        EditableOption,
        typer.Option(
            help="What to do about editable installs: take their sources along, or leave the links."
        ),
    ] = EditableOption.refuse,
    store: StoreOption = None,
    jobs: JobsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Pack an environment into the store."""
    from snapper import catalog, conda, places
    from snapper import pack as verb
    from snapper.cli import render

    if (name is None) == (prefix is None):
        raise Usage(
            "name one environment or give its directory with --prefix, and not both",
            "See: snapper pack --help.",
        )
    place = config.directory(prefix) if prefix is not None else None
    known_as = catalog.check_name(
        store_name or (place.name if place else str(name)),
        "Name a directory with --prefix, and what it is to be called in the store with --name.",
    )
    place = place or places.find(str(name))
    if not conda.is_environment(place):
        raise NotAnEnvironment(str(place))
    opened = _open(store, create=True, apart_from=place)
    with _progress(as_json) as progress:
        packed = verb.pack(
            opened,
            place,
            known_as,
            message=message,
            level=level,
            editables=editable.value,
            jobs=jobs,
            progress=progress,
        )
    render.packed(packed, as_json)


@app.command()
def restore(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ENV[@SNAPSHOT]]...", help="Environments, each at a snapshot if one is named."
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every environment of the store.")] = False,
    prefix: Annotated[
        Path | None, typer.Option("--prefix", "-p", metavar="DIR", help="Where to restore one environment.")
    ] = None,
    envs_dir: Annotated[
        Path | None,
        typer.Option(
            "--envs-dir",
            metavar="DIR",
            help="Directory that the environments go into. Default: SNAPPER_ENVS_DIR, else where each was packed "
            "from if that can be written, else the first writable conda envs directory.",
        ),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Give up changes made since in environments that stand there.")
    ] = False,
    store: StoreOption = None,
    jobs: JobsOption = None,
    as_json: JsonOption = False,
) -> int:
    """Restore environments from the store and register their kernels."""
    from snapper import catalog
    from snapper import restore as verb
    from snapper.cli import render

    if bool(names) == everything:
        raise Usage(
            "name the environments to restore or say --all, and not both", "See: snapper restore --help."
        )
    if prefix is not None and (everything or len(names or []) != 1 or envs_dir):
        raise Usage(
            "--prefix goes with one environment, and without --envs-dir", "Use --envs-dir for several."
        )
    references = [catalog.Reference.parse(name) for name in names or []]
    opened = _open(store)
    if everything:
        references = [catalog.Reference(name) for name in catalog.environments(opened)]
    place = None if prefix else config.envs_dir(envs_dir)
    wanted = [
        verb.Wanted(
            each,
            prefix=config.directory(prefix) if prefix else None,
            envs_dir=place,
            replace=replace,
            keep_changed=everything and not replace,
        )
        for each in references
    ]
    with _progress(as_json) as progress:
        results = list(verb.restore(opened, wanted, jobs=jobs, progress=progress))
    return render.restored(results, opened.url, as_json)


@app.command(name="list")
def list_(store: StoreOption = None, as_json: JsonOption = False) -> int:
    """List the environments of the store."""
    from snapper import catalog
    from snapper.cli import render

    opened = _open(store)
    return render.listed(catalog.survey(opened), opened.url, as_json)


@app.command()
def show(
    name: Annotated[
        str, typer.Argument(metavar="ENV[@SNAPSHOT]", help="The environment, at a snapshot if named.")
    ],
    explicit: Annotated[
        bool, typer.Option("--explicit", help="Print a lock file for conda create --file.")
    ] = False,
    as_yaml: Annotated[bool, typer.Option("--yaml", help="Print an environment.yml.")] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a snapshot: its packages, layers and kernels."""
    from snapper import catalog, lockfile
    from snapper.cli import render

    if explicit + as_yaml + as_json > 1:
        raise Usage("--explicit, --yaml and --json are three different outputs", "Choose one of them.")
    reference = catalog.Reference.parse(name)
    opened = _open(store)
    environment, snapshot_id = catalog.resolve(opened, reference)
    snapshot = catalog.read_snapshot(opened, snapshot_id)
    if explicit:
        render.text(lockfile.explicit(snapshot))
    elif as_yaml:
        render.text(lockfile.environment_yml(environment.name, snapshot))
    else:
        render.shown(environment, snapshot_id, snapshot, as_json)


@app.command()
def export(
    name: Annotated[
        str, typer.Argument(metavar="ENV[@SNAPSHOT]", help="The environment, at a snapshot if named.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The archive to write.")],
    format_: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="tar.gz, tar.zst, tar.bz2, tar, zip or squashfs. Default: by the file's ending.",
        ),
    ] = "",
    dest_prefix: Annotated[
        str,
        typer.Option(
            metavar="DIR",
            help="Where it will be unpacked: then it is for that place alone, and needs no conda-unpack.",
        ),
    ] = "",
    level: Annotated[
        int | None, typer.Option("--level", help="Compression level, as far as the format has any.")
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads", min=1, max=256, metavar="N", help="Compressing threads. Default: one a processor."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    store: StoreOption = None,
    jobs: JobsOption = None,
    as_json: JsonOption = False,
) -> int:
    """Write a conda-pack archive, which is restored without snapper."""
    from snapper import catalog
    from snapper import export as verb
    from snapper.cli import render

    wanted = verb.Wanted(
        catalog.Reference.parse(name),
        config.directory(output),
        format=format_,
        dest_prefix=dest_prefix,
        level=level,
        threads=threads,
        force=force,
    )
    with _progress(as_json) as progress:
        exported = verb.export(_open(store), wanted, jobs=jobs, progress=progress)
    return render.exported(exported, as_json)


@app.command(name="import")
def import_(
    archive: Annotated[
        Path, typer.Argument(metavar="FILE", help="An archive made by conda-pack or snapper export.")
    ],
    store_name: Annotated[
        str | None,
        typer.Option("--name", "-n", metavar="NAME", help="Name in the store. Default: the file's."),
    ] = None,
    message: Annotated[str, typer.Option("--message", "-m", help="A line for the history.")] = "",
    level: Annotated[
        int, typer.Option("--level", min=1, max=19, help="zstd compression level of new layers.")
    ] = 3,
    store: StoreOption = None,
    jobs: JobsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put the environment of a conda-pack archive into the store."""
    from snapper import catalog, importing
    from snapper import pack as verb
    from snapper.cli import render

    file = config.directory(archive)
    known_as = catalog.check_name(
        store_name or importing.name_of(file), "Say what it is to be called in the store with --name."
    )
    with _progress(as_json) as progress, importing.arrived(file, progress) as arrival:
        opened = _open(store, create=True)
        packed = verb.pack(
            opened,
            arrival.place,
            known_as,
            message=message or f"from {file.name}",
            level=level,
            editables="ignore",
            displaced=arrival.displaced,
            jobs=jobs,
            progress=progress,
        )
    render.packed(packed, as_json)


def _open(store: str | None, *, create: bool = False, apart_from: Path | None = None) -> Store:
    from snapper.store import open_store

    return open_store(config.store_url(store), create=create, apart_from=apart_from)


@contextmanager
def _progress(as_json: bool) -> Iterator[Progress]:
    from snapper.cli.bars import reporter

    with reporter(quiet=as_json) as progress:
        yield progress
