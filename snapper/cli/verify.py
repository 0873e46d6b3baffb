"""`snapper verify`: check a store, or an environment on disk."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from snapper.cli.options import JobsOption, JsonOption, PrefixOption, StoreOption, open_store
from snapper.cli.render import output
from snapper.cli.render.text import plural, size
from snapper.errors import ExitCode, UsageError
from snapper.format.canonical import to_jsonable
from snapper.settings.directories import absolute_directory
from snapper.settings.resolution import load_settings

if TYPE_CHECKING:
    from pathlib import Path

    from snapper.commands.repair import RepairedObject
    from snapper.commands.verify import EnvironmentCheck, RepairResult, VerifyResult
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
    repair: Annotated[
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
    if (name or prefix) and (data is not None or repair or source):
        raise UsageError("--data, --repair and --from are for the store, not for an environment on disk")
    if source and not repair:
        raise UsageError("--from says where --repair is to take good copies from", "Add --repair.")
    jobs = jobs or load_settings().jobs
    opened = open_store(store).authoritative()
    with reporter(quiet=as_json) as progress:
        if name or prefix:
            checked = _environment(opened, name, prefix, jobs, progress)
            return _checked(checked, as_json)
        result = _store(opened, data, repair, source, jobs, progress)
    found = result.verified
    code = _verified(found, result.repaired, opened.url, as_json)
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
    opened: Store, data: str | None, repair: bool, source: str | None, jobs: int | None, progress: Progress
) -> RepairResult:
    """Check the store itself, and repair it if asked to."""
    from snapper.commands import verify as verb

    sample = None if data is None else verb.LayerSample.parse(data)
    if not repair:
        return verb.RepairResult(verb.verify_store(opened, sample, jobs=jobs, progress=progress), ())
    sources = {source: open_store(source)} if source else None
    level = load_settings().level
    return verb.verify_and_repair(opened, sample, sources, level=level, jobs=jobs, progress=progress)


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


def _verified(found: VerifyResult, repaired: Sequence[RepairedObject], store: str, as_json: bool) -> int:
    code = ExitCode.INTEGRITY if found.problems else ExitCode.DONE
    if as_json:
        output.print_json({"store": store, **to_jsonable(found), "healed": to_jsonable(tuple(repaired))})
        return code
    for each in repaired:
        output.echo(f"repaired {each.key}, from {each.source}")
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
