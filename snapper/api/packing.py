"""Pack environments."""

from __future__ import annotations

from pathlib import Path

from snapper.api.arguments import pin_environment
from snapper.commands.pack import PackOptions
from snapper.commands.pack import pack as pack_environment
from snapper.commands.pack_result import PackResult
from snapper.environment.names import ROOT_NAMES
from snapper.packing.source import EditablePolicy, UserSitePolicy
from snapper.process.progress import NO_PROGRESS, Progress
from snapper.repository.specs import check_new_name
from snapper.settings.resolution import load_settings
from snapper.store import Store


def pack(
    store: Store,
    environment: str | Path,
    *,
    name: str | None = None,
    message: str = "",
    level: int | None = None,
    editables: EditablePolicy = "refuse",
    user_site: UserSitePolicy = "report",
    full: bool = False,
    force: bool = False,
    jobs: int | None = None,
    progress: Progress = NO_PROGRESS,
) -> PackResult:
    """Pack an environment, given by its conda name or its directory (a Path), and publish the snapshot as `name`.

    The name defaults to that of the environment. Files that have not changed since the last pack or restore are not
    read unless `full`. `editables` says what to do about editable installs: "refuse", "include" their sources, or
    "ignore". `user_site` says what to do about packages in the user site: "report", or "include" them. With `force`,
    publish even if someone else has published in the meantime.

    An environment of another user, who decides what is in it, has to be given by its directory. So has one in a shared
    directory that was moved, that others may write to, or that was never packed and only this user may read.

    Raise EnvironmentNotFound, AmbiguousName, EnvironmentOfOther, EnvironmentOfUnknownOrigin, NotAnEnvironment,
    EditableInstallsFound, ChangedWhilePacking, PermissionDenied, InsufficientSpace, StoreRefused, ConcurrentUpdate; the
    store's environments are then unchanged.
    """
    settings = load_settings()
    environment = ROOT_NAMES[0] if environment in ROOT_NAMES else environment
    opened = pin_environment(environment)
    if name is None:
        name = opened.path.name if isinstance(environment, Path) else environment
    name = check_new_name(name)
    options = PackOptions(
        message=message,
        level=level or settings.level,
        editables=editables,
        user_site=user_site,
        full=full,
        force=force,
    )
    return pack_environment(store, opened, name, options, jobs=jobs or settings.jobs, progress=progress)
