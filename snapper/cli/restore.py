"""`snapper restore`: parse, restore, report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from snapper import config
from snapper.canonical import plain
from snapper.cli import output
from snapper.cli.options import JobsOption, JsonOption, StoreOption, open_store
from snapper.cli.text import plural, size
from snapper.errors import ExitCode, Usage

if TYPE_CHECKING:
    from snapper.restore import Failed, Restored


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
            help="Directory that the environments go into. Default: the setting, else where each was packed from "
            "if that can be written, else the first writable conda envs directory.",
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
    from snapper import catalog, target
    from snapper import restore as verb
    from snapper.cli.bars import reporter

    if bool(names) == everything:
        raise Usage(
            "name the environments to restore or say --all, and not both", "See: snapper restore --help."
        )
    if prefix is not None and (everything or len(names or []) != 1 or envs_dir):
        raise Usage(
            "--prefix goes with one environment, and without --envs-dir", "Use --envs-dir for several."
        )
    references = [catalog.Reference.parse(name) for name in names or []]
    opened = open_store(store)
    if everything:
        references = [catalog.Reference(name) for name in catalog.environments(opened)]
    place = None if prefix else config.envs_dir(envs_dir)
    wanted = [
        target.Wanted(
            each,
            prefix=config.directory(prefix) if prefix else None,
            envs_dir=place,
            replace=replace,
            keep_changed=everything and not replace,
        )
        for each in references
    ]
    with reporter(quiet=as_json) as progress:
        results = list(verb.restore(opened, wanted, jobs=jobs or config.load().jobs, progress=progress))
    return report(results, opened.url, as_json)


def described(results: Sequence[Restored | Failed], store: str) -> tuple[dict[str, Any], int]:
    """What was restored and what was not, as JSON, and the exit code."""
    from snapper.restore import Failed

    failed = [each for each in results if isinstance(each, Failed)]
    done = [each for each in results if not isinstance(each, Failed)]
    problems = any(each.unrelocated or any(k.problem for k in each.kernels) for each in done)
    code = failed[0].error.code if failed else ExitCode.PARTIAL if problems else ExitCode.DONE
    fields: dict[str, Any] = {
        "store": store,
        "restored": [_fields(each) for each in done],
        "failed": [{"environment": each.environment, **output.described(each.error)} for each in failed],
    }
    if failed and not done:
        fields["error"] = output.described(failed[0].error)
    return fields, code


def report(results: Sequence[Restored | Failed], store: str, as_json: bool) -> int:
    """Reports what was restored and what was not; returns the exit code."""
    from snapper.restore import Failed

    fields, code = described(results, store)
    if as_json:
        output.document(fields)
        return code
    failed = [each for each in results if isinstance(each, Failed)]
    done = [each for each in results if not isinstance(each, Failed)]
    for each in done:
        _say(each)
    for failure in failed:
        output.error(failure.error, as_json=False)
    if len(results) > 1:
        present = sum(each.present for each in done)
        output.say(f"{len(done) - present} restored, {present} already there, {len(failed)} failed")
    if not results:
        output.say(f"The store {store} has no environments. Pack one with: snapper pack NAME")
    return code


def _say(done: Restored) -> None:
    if done.present:
        output.say(f"{done.environment} is there already: {done.prefix}")
        if done.changed:
            output.warn(
                f"  {plural(done.changed, 'file')} changed since and not packed: snapper pack {done.environment}"
            )
    else:
        output.say(
            f"{done.environment} is restored: {done.prefix} ({size(done.size)} in {done.seconds:.1f} s)"
        )
    output.listing("these files hold another prefix, because this one does not fit in them", done.unrelocated)
    for kernel in done.kernels:
        if kernel.problem:
            output.warn(f"  kernel {kernel.name} could not be registered at {kernel.path}: {kernel.problem}")
        else:
            output.say(f"  kernel: {kernel.display_name}")
    if not done.kernels:
        output.say(
            "  no kernel: it has none. Add one with: conda install -n " + done.environment + " ipykernel"
        )


def _fields(done: Restored) -> dict[str, Any]:
    return {
        "environment": done.environment,
        "snapshot": done.snapshot_id,
        "prefix": done.prefix,
        "present": done.present,
        "changed": done.changed,
        "size": done.size,
        "kernels": plain(done.kernels),
        "unrelocated": list(done.unrelocated),
        "seconds": round(done.seconds, 3),
    }
