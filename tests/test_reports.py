"""Lists of files in reports: the user's own come first and are never left out, harmless ones are in one line."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from snapper.cli.render.grouping import lines_by_owner, path_lines
from snapper.format.owners import order_by_owner
from tests.conftest import Machine
from tests.support.environments import make_data


def hold_prefix(prefix: Path, *paths: str) -> None:
    """Write files that contain the prefix in a form that cannot be changed."""
    for path in paths:
        file = prefix / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(pickle.dumps({"data": f"{prefix}/data.csv"}))


#: Files in which nobody notices another prefix.
HARMLESS = (
    *(f"lib/lib{number}.a" for number in range(12)),
    "lib/python3.12/site-packages/__pycache__/model.predict-3.py312.1.nbc",
    "notebooks/.ipynb_checkpoints/model-checkpoint.pkl",
    "var/cache/fontconfig/0123.cache-9",
)


def test_own_files_are_reported_before_harmless_ones(machine: Machine) -> None:
    prefix = make_data(machine.envs / "work")
    hold_prefix(prefix, "model.pkl", *HARMLESS)
    outcome = machine.snapper("pack", "-p", prefix)
    assert outcome.code == 3
    assert [line for line in outcome.err.splitlines() if line.startswith("    ")] == ["    model.pkl"]
    assert "12 static libraries and 3 files in caches could not be relocated" in outcome.err
    again = machine.snapper("pack", "-p", prefix, "--json")
    assert again.json["unrelocated"] == ["model.pkl"]
    assert set(again.json["harmless_unrelocated"]) == set(HARMLESS)
    assert outcome.err.endswith(machine.snapper("pack", "-p", prefix).err)


@pytest.mark.parametrize("quiet", [[], ["--quiet"]])
def test_all_own_files_are_named(quiet: list[str], machine: Machine) -> None:
    prefix = make_data(machine.envs / "work")
    paths = [f"results/run{number:02}.pkl" for number in range(30)]
    hold_prefix(prefix, *paths)
    outcome = machine.snapper("pack", "-p", prefix, *quiet)
    assert outcome.code == 3
    for path in paths:
        assert f"    {path}\n" in outcome.err
    assert "more" not in outcome.err


def test_harmless_files_are_one_line_and_change_no_exit_code(machine: Machine) -> None:
    """Not even when they are the only ones: a message that names no file would say nothing."""
    prefix, elsewhere = make_data(machine.envs / "work"), machine.home / "elsewhere/longer"
    hold_prefix(prefix, *HARMLESS[11:13])
    archive = machine.home / "work.tar"
    for arguments in (
        ("pack", "-p", prefix),
        ("restore", "work", "--prefix", elsewhere),
        ("export", "work", "-o", archive),
        ("export", "work", "-o", archive, "--force", "--dest-prefix", "/opt/elsewhere"),
    ):
        outcome = machine.snapper(*arguments)
        assert outcome.code == 0, outcome
        assert (
            "1 static library and 1 file in caches could not be relocated, which does no harm" in outcome.err
        )
        assert ":\n" not in outcome.err, outcome
    assert "harm" not in machine.snapper("pack", "-p", prefix, "--quiet").err
    assert len(machine.snapper("pack", "-p", elsewhere, "--json").json["harmless_unrelocated"]) == 2


def test_compiled_modules_and_libraries_in_caches_matter() -> None:
    """Python and cffi load what they find in `__pycache__`, without looking at prefixes."""
    paths = ("__pycache__/x.pyc", "__pycache__/_cffi_x.so", "model.a", "var/lib/cache/x")
    assert order_by_owner(dict.fromkeys(paths, "files")).harmless == ()


def test_own_files_precede_those_of_pip_and_packages() -> None:
    kinds = {"a": "package", "b": "link", "c": "pip", "d": "files", "e": "files"}
    ordered = order_by_owner(kinds)  # type: ignore[arg-type]
    assert ordered == (("d", "e", "c", "a", "b"), 3, ())


def test_many_files_of_packages_do_not_hide_own_files_in_their_directory() -> None:
    packaged = [f"lib/python/x/{name}.so" for name in range(40)] + [f"lib/{name}.so" for name in range(40)]
    assert lines_by_owner(["lib/model.pkl", *packaged], 1) == [
        "lib/model.pkl",
        "lib/python/x/: 40 files",
        "lib/: 40 files",
    ]


def test_very_many_files_are_listed_by_directory() -> None:
    runs = [f"runs/{run}/{step}/state.pkl" for run in range(20) for step in range(30)]
    assert path_lines(["model.pkl", *runs]) == ["model.pkl", *(f"runs/{run}/: 30 files" for run in range(20))]
    assert path_lines([f"{number}/{file}" for number in range(60) for file in "ab"])[-1] == "59/: 2 files"
    assert path_lines([f"{number}" for number in range(60)]) == [f"{number}" for number in range(60)]
    assert path_lines([]) == []
