"""Find conda environments on this machine by name, and choose where to put them so that conda finds them."""

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
    """Return the prefix of the environment with that name.

    Raise EnvironmentNotFound, and AmbiguousName if there is more than one.
    """
    candidates = [Path(line) for line in _registered_prefixes() if Path(line).name == name]
    candidates += [directory / name for directory in envs_dirs()]
    if name == "base":
        candidates += _roots()
    prefixes = _distinct_environments(candidates)
    if not prefixes:
        searched = tuple(str(path) for path in envs_dirs() if os.path.isdir(path))
        raise EnvironmentNotFound(name, searched, tuple(path.name for path in installed_environments()))
    if len(prefixes) > 1:
        raise AmbiguousName(name, tuple(sorted(map(str, prefixes))))
    return prefixes[0]


def installed_environments() -> list[Path]:
    """Return the prefixes of all environments on this machine that conda knows, each once, sorted."""
    candidates = [Path(line) for line in _registered_prefixes()]
    for directory in envs_dirs():
        try:
            candidates += sorted(directory.iterdir())
        except OSError:
            continue
    candidates += _roots()
    return sorted(_distinct_environments(candidates))


def _distinct_environments(candidates: list[Path]) -> list[Path]:
    """Return the candidates that are environments, and only the first of those that are the same directory."""
    by_real_path = {
        os.path.realpath(path): path for path in reversed(candidates) if conda.is_environment(path)
    }
    return list(by_real_path.values())


def envs_dirs() -> list[Path]:
    """Return the directories for environments, in the order in which conda chooses one."""
    return _unique(
        [*_from_variables(), *_from_condarc(), *(root / "envs" for root in _roots()), _user_envs_dir()]
    )


def condabin() -> str:
    """Return the directory with conda's commands, "" if there is none."""
    return next((str(root / "condabin") for root in _roots() if os.path.isdir(root / "condabin")), "")


def default_prefix(name: str, packed_from: str, taken: Collection[Path] = ()) -> Path:
    """Return where to restore an environment that was packed at `packed_from`.

    That is the same prefix, or one beside it, or one in the first writable envs directory. `taken` are prefixes that
    other environments will be restored to, even if nothing is there yet. Raise NoTargetDirectory.
    """
    origin = Path(packed_from)
    if origin.is_absolute() and (_is_writable(origin.parent) or _is_inside(origin.parent, taken)):
        return _prefix_near(origin, name, taken)
    for directory in envs_dirs():
        if _is_writable(directory) or (directory == _user_envs_dir() and _is_writable(Path.home())):
            return directory / name
    raise NoTargetDirectory(name, tuple(str(path) for path in (origin.parent, *envs_dirs())))


def _prefix_near(origin: Path, name: str, taken: Collection[Path]) -> Path:
    """Return `origin`, or a prefix beside it that is named for the environment.

    In an envs directory, conda identifies an environment by the name of its directory. Elsewhere, the prefix is what
    users know, so it is kept unless it is in use. A base environment is only restored in place.
    """
    if name in (origin.name, "base"):
        return origin
    is_in_envs_dir = origin.parent.name == "envs" or origin.parent in envs_dirs()
    is_used = origin in taken or os.path.lexists(origin)
    return origin.parent / name if is_in_envs_dir or is_used else origin


def _is_inside(directory: Path, taken: Collection[Path]) -> bool:
    return any(parent in taken for parent in (directory, *directory.parents))


def register_with_conda(prefix: Path) -> None:
    """Add the environment to conda's environments.txt, unless it is in it or its prefix contains a line break.

    May raise OSError.
    """
    if str(prefix) in _registered_prefixes() or str(prefix).splitlines() != [str(prefix)]:
        return
    file = _environments_txt()
    file.parent.mkdir(parents=True, exist_ok=True)
    ends_with_newline = not file.exists() or file.read_bytes()[-1:] in (b"", b"\n")
    with file.open("a", encoding="utf-8", errors="surrogateescape") as out:
        out.write(f"{'' if ends_with_newline else os.linesep}{prefix}\n")


def _environments_txt() -> Path:
    return Path.home() / ".conda" / "environments.txt"


def _registered_prefixes() -> list[str]:
    try:
        text = _environments_txt().read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return []
    return [line.strip() for line in text.splitlines() if line.strip()]


def _user_envs_dir() -> Path:
    return Path.home() / ".conda" / "envs"


def _from_variables() -> Iterator[Path]:
    for variable in ("CONDA_ENVS_DIRS", "CONDA_ENVS_PATH"):
        for directory in os.environ.get(variable, "").split(os.pathsep):
            if directory:
                yield _expand(directory)


def _from_condarc() -> Iterator[Path]:
    import yaml  # noqa: PLC0415 - slow to import, and rarely needed

    files = [
        os.environ.get("CONDARC", ""),
        "~/.condarc",
        "~/.conda/.condarc",
        "~/.mambarc",
        "/etc/conda/.condarc",
    ]
    for file in [*(_expand(name) for name in files if name), *(root / ".condarc" for root in _roots())]:
        try:
            settings = yaml.safe_load(file.read_bytes())
        except (OSError, yaml.YAMLError, ValueError):
            continue
        directories = (
            settings.get("envs_dirs") or settings.get("envs_path") if isinstance(settings, dict) else None
        )
        if isinstance(directories, list):
            yield from (_expand(entry) for entry in directories if isinstance(entry, str))


def _roots() -> list[Path]:
    """Return the root prefixes of conda, mamba and micromamba on this machine, as far as they can be found."""
    roots: list[Path] = []
    executable = os.environ.get("CONDA_EXE") or shutil.which("conda")
    if executable:
        roots.append(Path(os.path.realpath(executable)).parent.parent)
    active = os.environ.get("CONDA_PREFIX")
    if active:
        outer = Path(active).parent
        if outer.name == "envs":
            roots.append(outer.parent)
        elif os.path.isdir(Path(active, "condabin")) or os.environ.get("CONDA_DEFAULT_ENV") == "base":
            roots.append(Path(active))
    if os.environ.get("MAMBA_ROOT_PREFIX"):
        roots.append(_expand(os.environ["MAMBA_ROOT_PREFIX"]))
    roots += [path for path in map(_expand, _USUAL_ROOTS) if os.path.isdir(path)]
    return _unique(roots)


def _expand(text: str) -> Path:
    return Path(os.path.abspath(os.path.expanduser(os.path.expandvars(text))))


def _unique(paths: Iterable[Path]) -> list[Path]:
    return list(dict.fromkeys(paths))


def _is_writable(directory: Path) -> bool:
    return os.path.isdir(directory) and os.access(directory, os.W_OK | os.X_OK)
