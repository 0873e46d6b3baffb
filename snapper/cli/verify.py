"""`snapper verify`: check a store, or an environment on disk."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from snapper.cli.options import JobsOption, JsonOption, PrefixOption, StoreOption, open_store
from snapper.cli.render import output
from snapper.cli.render.text import plural, size
from snapper.errors import ExitCode, SnapperError, UsageError
from snapper.format.canonical import to_jsonable
from snapper.settings.directories import absolute_directory
from snapper.settings.resolution import load_settings

if TYPE_CHECKING:
    from pathlib import Path

    from snapper.commands.repair import RepairedObject
    from snapper.commands.verify import EnvironmentCheck, VerifyResult
    from snapper.process.progress import Progress
    from snapper.store import Store


_WHAT = {
    "missing": "gone",
    "type": "of another kind",
    "contents": "other contents",
    "checksums": "other checksums in it",
    "target": "leads elsewhere",
    "mode": "other permissions",
    "extra": "not of the snapshot",
}


def verify(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[ENV[@SNAPSHOT]]", help="An environment on this machine. Default: the store itself."
        ),
    ] = None,
    prefix: PrefixOption = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="[=PART]",
            help="Read layers too: all, or a part such as --data=5% or --data=1/7.",
        ),
    ] = None,
    heal: Annotated[
        bool, typer.Option("--repair", help="Replace what is damaged from --from, or from environments here.")
    ] = False,
    source: Annotated[
        str | None, typer.Option("--from", metavar="URL", help="Another store that has good copies.")
    ] = None,
    store: StoreOption = None,
    jobs: JobsOption = None,
    as_json: JsonOption = False,
) -> int:
    """Check that the store is good, or an environment on disk."""
    from snapper.cli.render.progress import reporter
    from snapper.format.layout import Layout

    if name and data == "all" and _is_part(name):
        raise UsageError(f"--data {name}: a part stands behind =", f"Write --data={name}.")
    if (name or prefix) and (data is not None or heal or source):
        raise UsageError("--data, --repair and --from are for the store, not for an environment on disk")
    if source and not heal:
        raise UsageError("--from says where --repair is to take good copies from", "Add --repair.")
    jobs = jobs or load_settings().jobs
    opened = open_store(store).authoritative()
    with reporter(quiet=as_json) as progress:
        if name or prefix:
            checked = _environment(opened, name, prefix, jobs, progress)
            return _checked(checked, as_json)
        found, healed = _store(opened, data, heal, source, jobs, progress)
    code = _verified(found, healed, opened.url, as_json)
    if not (as_json or source) and any(Layout.digest_of(each.key) for each in found.problems):
        part = "--data " if found.read else ""
        command = f"snapper verify {part}--repair --store {shlex.quote(opened.url)}"
        output.notice(f"  Get good copies with: {command}, and --from URL from another store.")
    return code


def _is_part(text: str) -> bool:
    from snapper.commands.verify import LayerSample

    try:
        LayerSample.parse(text)
    except UsageError:
        return False
    return True


def _environment(
    opened: Store, name: str | None, prefix: Path | None, jobs: int | None, progress: Progress
) -> EnvironmentCheck:
    """Checks an environment on disk."""
    from snapper.commands import verify as verb
    from snapper.environment.locations import find_environment
    from snapper.repository.specs import SnapshotSpec

    reference = SnapshotSpec.parse(name) if name else None
    place = (
        absolute_directory(prefix) if prefix else find_environment(reference.environment if reference else "")
    )
    return verb.verify_environment(opened, place, reference, jobs=jobs, progress=progress)


def _store(
    opened: Store, data: str | None, heal: bool, source: str | None, jobs: int | None, progress: Progress
) -> tuple[VerifyResult, list[RepairedObject]]:
    """Checks the store itself, and heals what can be healed if that is wanted."""
    from snapper.commands import verify as verb
    from snapper.commands.repair import repair_objects

    part = None if data is None else verb.LayerSample.parse(data)
    found = verb.verify_store(opened, part, jobs=jobs, progress=progress)
    healed: list[RepairedObject] = []
    while heal and found.problems:
        with _sources(found, source, jobs, progress) as sources:
            new = repair_objects(opened, [each.key for each in found.problems], sources)
        keys = {each.key for each in new} - {each.key for each in healed}
        healed += [each for each in new if each.key in keys]
        if any(not key.startswith("layers/") for key in keys):  # only now it is known what they need
            found = verb.verify_store(opened, part, jobs=jobs, progress=progress)
        else:
            found = found.without(keys)
            break
    return found, healed


@contextmanager
def _sources(
    found: VerifyResult, url: str | None, jobs: int | None, progress: Progress
) -> Iterator[Mapping[str, Store]]:
    """Where good copies may be: the store that is named, or else what environments on this machine are packed to."""
    if url is not None:
        yield {url: open_store(url)}
        return
    from snapper import store
    from snapper.commands import pack
    from snapper.environment.embedded import ForeignPrefix
    from snapper.environment.installed import InstalledEnvironment
    from snapper.environment.locations import installed_environments
    from snapper.fs.temporary import temporary_directory
    from snapper.repository.objects import write_pages
    from snapper.repository.snapshots import write_snapshot

    wanted = {name for problem in found.problems for name in problem.environments}
    with temporary_directory() as directory:
        found_here: dict[str, Store] = {}
        for prefix in installed_environments():
            installed = InstalledEnvironment(prefix)
            known = installed.state
            if known is None or known.environment not in wanted or installed.previous is None:
                continue
            encoded, snapshot = installed.previous
            placeholders = {
                path: each.placeholder
                for layer in snapshot.layers
                for each in layer.relocations
                for path in each.paths
            }
            again = store.open_store(str(directory / str(len(found_here))), create=True)
            found_here[str(prefix)] = again
            write_pages(again, encoded.pages)
            write_snapshot(again, encoded)
            try:
                pack.pack(
                    again,
                    prefix,
                    known.environment,
                    level=load_settings().level,
                    editables="ignore",
                    foreign_prefix=ForeignPrefix(known.prefix, placeholders),
                    jobs=jobs,
                    progress=progress,
                )
            except SnapperError as error:
                progress.note(f"{prefix} cannot be read for good copies: {error.message}")
        yield found_here


def _checked(checked: EnvironmentCheck, as_json: bool) -> int:
    code = ExitCode.INTEGRITY if checked.different else ExitCode.DONE
    if as_json:
        output.print_json(
            {
                "environment": checked.environment,
                "prefix": checked.prefix,
                "snapshot": checked.snapshot_id,
                "different": [each._asdict() for each in checked.different],
            }
        )
        return code
    for each in checked.different:
        output.echo(f"  {_WHAT[each.what]}: {each.path}")
    where = f"{checked.prefix} is snapshot {checked.snapshot_id[:12]}"
    if checked.different:
        output.echo(f"{where} but for {plural(len(checked.different), 'file')}")
    else:
        output.echo(f"{where}, byte for byte")
    return code


def _verified(found: VerifyResult, healed: Sequence[RepairedObject], store: str, as_json: bool) -> int:
    code = ExitCode.INTEGRITY if found.problems else ExitCode.DONE
    if as_json:
        output.print_json({"store": store, **to_jsonable(found), "healed": to_jsonable(tuple(healed))})
        return code
    for each in healed:
        output.echo(f"healed {each.key}, from {each.source}")
    for problem in found.problems:
        needed = f" (needed by {', '.join(problem.environments)})" if problem.environments else ""
        output.notice(f"{problem.key}: {problem.reason}{needed}")
    read = f", {size(found.size)} of layers read" if found.read else ""
    output.echo(
        f"{plural(found.environments, 'environment')}, {plural(found.snapshots, 'snapshot')}, "
        f"{plural(found.layers, 'layer')}{read}: "
        + (plural(len(found.problems), "problem") if found.problems else "all good")
    )
    return code
