"""`snapper verify`: check a store, or an environment on disk."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

import snapper
from snapper.cli.completion import complete_snapshot
from snapper.cli.options import JobsOption, JsonOption, PrefixOption, StoreOption, open_store
from snapper.cli.render import output
from snapper.cli.render.text import plural, size
from snapper.errors import ExitCode, UsageError
from snapper.format.canonical import to_jsonable
from snapper.settings.resolution import load_settings

if TYPE_CHECKING:
    from pathlib import Path

    from snapper.commands.repair import RepairedObject
    from snapper.commands.verify import EnvironmentCheck, RepairResult, VerifyResult
    from snapper.process.progress import Progress
    from snapper.store import Store


_WHAT = {
    "missing": "missing",
    "type": "different type",
    "contents": "different contents",
    "checksums": "different checksums inside",
    "target": "different target",
    "mode": "different permissions",
    "extra": "not in the snapshot",
}


ComparedArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[ENV[@SNAPSHOT]]",
        help="Environment on this machine to compare with its snapshot (default: check the store).",
        autocompletion=complete_snapshot,
    ),
]
DataOption = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="[=PART]",
        help="Also read and check layers: all, a random sample such as --data=5%, or one of N parts such as "
        "--data=1/7.",
    ),
]
RepairOption = Annotated[
    bool,
    typer.Option(
        "--repair",
        help="Replace corrupted objects with good copies from --from or from environments on this machine.",
    ),
]
SourceOption = Annotated[
    str | None,
    typer.Option("--from", metavar="URL", help="With --repair: another store to take good copies from."),
]


def verify(
    name: ComparedArgument = None,
    prefix: PrefixOption = None,
    data: DataOption = None,
    repair: RepairOption = False,
    source: SourceOption = None,
    store: StoreOption = None,
    jobs: JobsOption = None,
    as_json: JsonOption = False,
) -> int:
    """Check the integrity of the store, or of an environment on disk.

    Examples:
        snapper verify
        snapper verify --data
        snapper verify --data --repair --from s3://bucket/backup
        snapper verify myenv
    """
    from snapper.cli.render.progress import reporter

    if name and data == "all" and _is_part(name):
        raise UsageError(f"--data {name}: the part must follow an equals sign", f"Use --data={name}.")
    if (name or prefix) and (data is not None or repair or source):
        raise UsageError("--data, --repair and --from apply to the store, not to an environment on disk")
    if source and not repair:
        raise UsageError("--from needs --repair", "Add --repair.")
    jobs = jobs or load_settings().jobs
    opened = open_store(store).authoritative()
    with reporter(quiet=as_json) as progress:
        if name or prefix:
            checked = _compare_environment(opened, name, prefix, jobs, progress)
            return _print_comparison(checked, as_json)
        result = _check_store(opened, data, repair, source, jobs, progress)
    code = _print_problems(result.verified, result.repaired, opened.url, as_json)
    if not as_json:
        _suggest_repair(result.verified, opened.url, tried=repair)
    return code


def _is_part(text: str) -> bool:
    try:
        snapper.LayerSample.parse(text)
    except UsageError:
        return False
    return True


def _compare_environment(
    opened: Store, name: str | None, prefix: Path | None, jobs: int | None, progress: Progress
) -> EnvironmentCheck:
    """Compare an environment on disk with its snapshot."""
    from snapper.repository.specs import SnapshotSpec

    environment = prefix or SnapshotSpec.parse(name or "").environment
    return snapper.verify_environment(opened, environment, name, jobs=jobs, progress=progress)


def _check_store(
    opened: Store, data: str | None, repair: bool, source: str | None, jobs: int | None, progress: Progress
) -> RepairResult:
    """Check the store itself, and repair it if asked to."""
    sample = None if data is None else snapper.LayerSample.parse(data)
    if not repair:
        return snapper.RepairResult(snapper.verify(opened, sample, jobs=jobs, progress=progress), ())
    sources = {source: open_store(source)} if source else None
    return snapper.repair(opened, sample, sources, jobs=jobs, progress=progress)


def _suggest_repair(verified: VerifyResult, store: str, *, tried: bool) -> None:
    """Say how corrupted objects can be repaired, if there are any. `tried` if these could not be."""
    from snapper.format.layout import Layout

    if not any(Layout.digest_of(problem.key) for problem in verified.problems):
        return
    if tried:
        output.notice(
            "  No good copies were found. Name another store with --from URL, or pack the environments again from "
            "intact copies"
        )
        return
    part = "--data " if verified.read else ""
    command = f"snapper verify {part}--repair --store {shlex.quote(store)}"
    output.notice(f"  Repair them with: {command} (add --from URL to copy from another store)")


def _print_comparison(checked: EnvironmentCheck, as_json: bool) -> int:
    code = ExitCode.INTEGRITY if checked.different else ExitCode.DONE
    if as_json:
        output.print_json(
            {
                "environment": checked.environment,
                "prefix": checked.prefix,
                "snapshot": checked.snapshot_id,
                "different": [difference._asdict() for difference in checked.different],
            }
        )
        return code
    for difference in checked.different:
        output.echo(f"  {_WHAT[difference.what]}: {difference.path}")
    where = f"{checked.prefix} matches snapshot {checked.snapshot_id[:12]}"
    if checked.different:
        output.echo(f"{where} except for {plural(len(checked.different), 'file')}")
    else:
        output.echo(f"{where} byte for byte")
    return code


def _print_problems(
    verified: VerifyResult, repaired: Sequence[RepairedObject], store: str, as_json: bool
) -> int:
    code = ExitCode.INTEGRITY if verified.problems else ExitCode.DONE
    if as_json:
        output.print_json({"store": store, **to_jsonable(verified), "healed": to_jsonable(tuple(repaired))})
        return code
    for copy in repaired:
        output.echo(f"repaired {copy.key}, from {copy.source}")
    for problem in verified.problems:
        needed = f" (needed by {', '.join(problem.environments)})" if problem.environments else ""
        output.warn(f"{problem.key}: {problem.reason}{needed}")
    read = f", {size(verified.size)} of layers read" if verified.read else ""
    counts = (
        f"{plural(verified.environments, 'environment')}, {plural(verified.snapshots, 'snapshot')}, "
        f"{plural(verified.layers, 'layer')}{read}"
    )
    result = plural(len(verified.problems), "problem") if verified.problems else "no problems"
    output.echo(f" ({counts})", label=result, style="red" if verified.problems else "green")
    return code
