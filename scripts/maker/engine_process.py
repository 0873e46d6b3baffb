"""The process that `engine` starts: it forks to index a channel, create an environment, or change one."""

import asyncio
import json
import os
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rattler import (
    Channel,
    Config,
    Gateway,
    MatchSpec,
    PrefixRecord,
    RepoDataRecord,
    VirtualPackage,
    install,
    solve,
)
from rattler.index import index_fs

from scripts.maker.bytecode import compile_noarch

Request = dict[str, Any]


async def index(request: Request) -> None:
    await index_fs(request["channel"], write_zst=False, write_shards=False)


async def create(request: Request) -> None:
    """Fill an empty prefix."""
    specs = [MatchSpec(spec) for spec in request["specs"]]
    channels = [Channel(Path(request["channel"]).as_uri())]
    await _install(request, await _solve(request, channels, specs, []), [], specs)
    if request["bytecode"]:
        compile_noarch(Path(request["prefix"]), _record_paths(request))


async def change(request: Request) -> None:
    """Add, update, and remove packages, and leave the others as they are."""
    paths = _record_paths(request)
    records = [PrefixRecord.from_path(path) for path in paths]
    removed = _with_dependents(set(request["remove"]), records)
    kept = [record for record in records if record.name.normalized not in removed]
    requested = [MatchSpec(spec) for spec in request["install"]]
    changed = {spec.name.normalized for spec in requested if spec.name}
    rest = [MatchSpec(record.name.normalized) for record in kept if record.name.normalized not in changed]
    locked = [record for record in kept if record.name.normalized not in changed]
    channels = [Channel(url) for url in sorted({record.channel for record in records})]
    solution = await _solve(request, channels, [*requested, *rest], locked)
    await _install(request, solution, records, requested)
    if request["bytecode"]:
        compile_noarch(Path(request["prefix"]), _record_paths(request) - paths)


def _record_paths(request: Request) -> set[Path]:
    return set(Path(request["prefix"], "conda-meta").glob("*.json"))


def _with_dependents(names: set[str], records: Iterable[PrefixRecord]) -> set[str]:
    """Return the names of these packages and of all packages that depend on them."""
    needs = {
        record.name.normalized: {depend.partition(" ")[0] for depend in record.depends} for record in records
    }
    while more := {name for name, needed in needs.items() if name not in names and needed & names}:
        names = names | more
    return names


async def _solve(
    request: Request, channels: list[Channel], specs: list[MatchSpec], locked: list[PrefixRecord]
) -> list[RepoDataRecord]:
    return await solve(
        sources=channels,
        specs=specs,
        gateway=Gateway(cache_dir=Path(request["cache"], "repodata")),
        locked_packages=locked,
        virtual_packages=VirtualPackage.detect(),
    )


async def _install(
    request: Request,
    solution: list[RepoDataRecord],
    installed: list[PrefixRecord],
    requested: list[MatchSpec],
) -> None:
    copies = "allow-hard-links = false\nallow-ref-links = false\n"
    await install(
        records=solution,
        target_prefix=request["prefix"],
        cache_dir=Path(request["cache"], "pkgs"),
        installed_packages=installed,
        show_progress=False,
        config=Config.from_toml(copies) if request.get("copy") else None,
    )
    _record_requested(request, requested)


def _record_requested(request: Request, requested: list[MatchSpec]) -> None:
    """Add the requested specs to the records. `install` of py-rattler 0.28 has no parameter for them."""
    specs = {spec.name.normalized: str(spec) for spec in requested if spec.name}
    for path in _record_paths(request):
        record = PrefixRecord.from_path(path)
        if record.name.normalized in specs:
            record.requested_specs = [specs[record.name.normalized]]
            record.write_to_path(path, pretty=True)


def _carry_out(request: Request) -> None:
    """Carry out a request, and write the report. Its output goes to a file."""
    os.environ.clear()
    os.environ.update(request["variables"])
    with open(os.devnull, "rb") as nothing, open(request["output"], "ab") as output:
        for file, descriptor in ((nothing, 0), (output, 1), (output, 2)):
            os.dup2(file.fileno(), descriptor)
    verbs = {"index": index, "create": create, "change": change}
    asyncio.run(verbs[request["verb"]](request))
    Path(request["report"]).write_text('{"done": true}', encoding="utf-8")


def main() -> None:
    """Fork for each line of the standard input, which is a request, and answer with a line when the fork has ended."""
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            try:
                _carry_out(json.loads(line))
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(0)
        os.waitpid(pid, 0)
        print(flush=True)


if __name__ == "__main__":
    main()
