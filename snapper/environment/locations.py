"""Where conda environments are on this machine: found by name as conda users expect, and put where conda looks."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from snapper.environment import conda
from snapper.errors import AmbiguousName, EnvironmentNotFound, NoTargetDirectory

_USUAL_ROOTS = (
    "~/anaconda3",
    "~/miniconda3",
    "~/miniforge3",
    "~/mambaforge",
    "~/micromamba",
    "~/.local/share/mamba",
    "/opt/conda",
    "/opt/miniconda3",
    "/opt/miniforge3",
)


def find_environment(name: str) -> Path:
    """The prefix of the one environment of that name.

    Raises EnvironmentNotFound and, where several have the name, AmbiguousName.
    """
    candidates = [Path(line) for line in _registered() if Path(line).name == name]
    candidates += [directory / name for directory in envs_dirs()]
    if name == "base":
        candidates += _roots()
    found = {os.path.realpath(path): path for path in reversed(candidates) if conda.is_environment(path)}
    if not found:
        searched = tuple(str(path) for path in envs_dirs() if os.path.isdir(path))
        raise EnvironmentNotFound(name, searched, tuple(path.name for path in installed_environments()))
    if len(found) > 1:
        raise AmbiguousName(name, tuple(sorted(str(path) for path in found.values())))
    return next(iter(found.values()))


def installed_environments() -> list[Path]:
    """Every environment that conda would know of on this machine, each by one of its names."""
    candidates = [Path(line) for line in _registered()]
    for directory in envs_dirs():
        try:
            candidates += sorted(directory.iterdir())
        except OSError:
            continue
    candidates += _roots()
    found = {os.path.realpath(path): path for path in reversed(candidates) if conda.is_environment(path)}
    return sorted(found.values())


def envs_dirs() -> list[Path]:
    """The directories that environments are made in, in the order in which conda would choose one."""
    return _unique([*_from_variables(), *_from_condarc(), *(root / "envs" for root in _roots()), _own()])


def condabin() -> str:
    """The directory in which conda itself is found on PATH, empty where there is none."""
    return next((str(root / "condabin") for root in _roots() if os.path.isdir(root / "condabin")), "")


def default_prefix(name: str, packed_from: str, taken: Collection[Path] = ()) -> Path:
    """Where to restore an environment: where it was packed from, or beside that, or else in the first writable envs
    directory. Other environments are to be at the places that are `taken`, also where nothing is there yet.

    Raises NoTargetDirectory.
    """
    origin = Path(packed_from)
    if origin.is_absolute() and (_writable(origin.parent) or _inside(origin.parent, taken)):
        return _near(origin, name, taken)
    for directory in envs_dirs():
        if _writable(directory) or (directory == _own() and _writable(Path.home())):
            return directory / name
    raise NoTargetDirectory(name, tuple(str(path) for path in (origin.parent, *envs_dirs())))


def _near(origin: Path, name: str, taken: Collection[Path]) -> Path:
    """In an envs directory, conda knows an environment by its directory's name; elsewhere it is the directory that
    tells, unless somebody else has that. A base environment is nowhere else.
    """
    if name in (origin.name, "base"):
        return origin
    is_named = origin.parent.name == "envs" or origin.parent in envs_dirs()
    return origin.parent / name if is_named or origin in taken or os.path.lexists(origin) else origin


def _inside(directory: Path, taken: Collection[Path]) -> bool:
    return any(each in taken for each in (directory, *directory.parents))


def register_with_conda(prefix: Path) -> None:
    """Adds the environment to conda's list of environments, unless it is there or has no place in a list of
    lines; may raise OSError.
    """
    if str(prefix) in _registered() or str(prefix).splitlines() != [str(prefix)]:
        return
    file = _environments_txt()
    file.parent.mkdir(parents=True, exist_ok=True)
    ended = not file.exists() or file.read_bytes()[-1:] in (b"", b"\n")
    with file.open("a", encoding="utf-8", errors="surrogateescape") as out:
        out.write(f"{'' if ended else os.linesep}{prefix}\n")


def _environments_txt() -> Path:
    return Path.home() / ".conda" / "environments.txt"


def _registered() -> list[str]:
    try:
        text = _environments_txt().read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return []
    return [line.strip() for line in text.splitlines() if line.strip()]


def _own() -> Path:
    return Path.home() / ".conda" / "envs"


def _from_variables() -> Iterator[Path]:
    for variable in ("CONDA_ENVS_DIRS", "CONDA_ENVS_PATH"):
        for part in os.environ.get(variable, "").split(os.pathsep):
            if part:
                yield _expanded(part)


def _from_condarc() -> Iterator[Path]:
    import yaml  # noqa: PLC0415 - a slow import for what few have

    files = [
        os.environ.get("CONDARC", ""),
        "~/.condarc",
        "~/.conda/.condarc",
        "~/.mambarc",
        "/etc/conda/.condarc",
    ]
    for file in [*(_expanded(name) for name in files if name), *(root / ".condarc" for root in _roots())]:
        try:
            settings = yaml.safe_load(file.read_bytes())
        except (OSError, yaml.YAMLError, ValueError):
            continue
        listed = (
            settings.get("envs_dirs") or settings.get("envs_path") if isinstance(settings, dict) else None
        )
        if isinstance(listed, list):
            yield from (_expanded(entry) for entry in listed if isinstance(entry, str))


def _roots() -> list[Path]:
    """The prefixes of the condas, mambas and micromambas of this machine that can be known of."""
    found: list[Path] = []
    executable = os.environ.get("CONDA_EXE") or shutil.which("conda")
    if executable:
        found.append(Path(os.path.realpath(executable)).parent.parent)
    active = os.environ.get("CONDA_PREFIX")
    if active:
        outer = Path(active).parent
        if outer.name == "envs":
            found.append(outer.parent)
        elif os.path.isdir(Path(active, "condabin")) or os.environ.get("CONDA_DEFAULT_ENV") == "base":
            found.append(Path(active))
    if os.environ.get("MAMBA_ROOT_PREFIX"):
        found.append(_expanded(os.environ["MAMBA_ROOT_PREFIX"]))
    found += [path for path in map(_expanded, _USUAL_ROOTS) if os.path.isdir(path)]
    return _unique(found)


def _expanded(text: str) -> Path:
    return Path(os.path.abspath(os.path.expanduser(os.path.expandvars(text))))


def _unique(paths: Iterable[Path]) -> list[Path]:
    return list(dict.fromkeys(paths))


def _writable(directory: Path) -> bool:
    return os.path.isdir(directory) and os.access(directory, os.W_OK | os.X_OK)
