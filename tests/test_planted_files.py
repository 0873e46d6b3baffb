"""Files that a publisher put into an environment, or another user into Jupyter's directory, to be read or replaced."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from snapper import kernels
from snapper.environment import conda, editable, pip, record_text
from snapper.environment.conda import FileFacts
from snapper.environment.embedded import candidate_prefixes, find_prefixes
from snapper.environment.state import EnvironmentState
from snapper.environment.tree import walk
from snapper.errors import FileOperationFailed
from snapper.format import canonical
from snapper.format.model import Kernel, Package
from snapper.kernels import launch_settings
from snapper.kernels.restore_record import RestoreRecorder, last_restore
from snapper.kernels.updates import update_others
from snapper.kernels.usage import used_file
from snapper.kernels.waiting import WaitingNotice, read_notice, waiting_file, write_notice
from tests.support.access_lists import ACCESS_LIST, NO_ID, OWNING_GROUP, USER, set_access_list
from tests.support.kernelspecs import SHELLS, add_kernel, launch

OTHER_USER = 65534
SECRET = "the-user's-password"
MEMORY = 16 << 20

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to create files of another user")

#: The name of the kernel `good` of `work` if `work-good` is taken.
DIGEST_NAME = "work-good-626dfea8e2cca9cd"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("JUPYTER_DATA_DIR", "XDG_DATA_HOME", "XDG_STATE_HOME", "SNAPPER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    return home


@pytest.fixture
def secret(home: Path) -> Path:
    """A file that is valid wherever snapper reads JSON, and that only the user may read."""
    fields = {
        "argv": [SECRET],
        "display_name": SECRET,
        "language": "x",
        "env_vars": {"A": SECRET},
        "A": SECRET,
    }
    file = home / "secret"
    file.write_text(json.dumps(fields))
    file.chmod(0o600)
    return file


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    """An environment with a kernel that has a logo and variables."""
    prefix = tmp_path / "envs/work"
    (prefix / "conda-meta").mkdir(parents=True)
    (prefix / "etc/conda/env_vars.d").mkdir(parents=True)
    (prefix / "etc/conda/env_vars.d/a.json").write_text('{"OF_PACKAGE": "it\'s"}')
    (prefix / "conda-meta/state").write_text('{"env_vars": {"OF_USER": "token"}}')
    kernel = add_kernel(prefix, "good", argv=["true"], display_name="Good", language="text", env={"OWN": "x"})
    (kernel / "logo-svg.svg").write_text("<svg/>")
    return prefix


def registered(home: Path, name: str = "work-good") -> dict[str, str]:
    """Return the files of a registered kernel."""
    directory = home / ".local/share/jupyter/kernels" / name
    return {file.name: file.read_text() for file in directory.iterdir()}


@pytest.fixture
def bounded() -> Iterator[None]:
    """Fail if the test needs much memory."""
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MEMORY, f"{peak:,} bytes of memory"


# --- files of environments --------------------------------------------------------------------------------


def link_to_secret(file: Path, secret: Path) -> None:
    file.symlink_to(secret)


def link_out_by_parents(file: Path, secret: Path) -> None:
    file.symlink_to(os.path.relpath(secret, file.parent))


def link_to_zeros(file: Path, _: Path) -> None:
    file.symlink_to("/dev/zero")


def pipe(file: Path, _: Path) -> None:
    os.mkfifo(file)


def two_gigabytes(file: Path, _: Path) -> None:
    with file.open("wb") as opened:
        opened.truncate(2 << 30)


def nested_lists(file: Path, _: Path) -> None:
    file.write_text("[" * 100_000)


def long_number(file: Path, _: Path) -> None:
    file.write_text("1" * 200_000)


def directory(file: Path, _: Path) -> None:
    file.mkdir()


PLANTED = [
    link_to_secret,
    link_out_by_parents,
    link_to_zeros,
    pipe,
    two_gigabytes,
    nested_lists,
    long_number,
    directory,
]
UNFIT = PLANTED[:5]

Plant = Callable[[Path, Path], None]


@pytest.mark.parametrize("plant", PLANTED)
@pytest.mark.parametrize(
    "path",
    [
        "conda-meta/state",
        "etc/conda/env_vars.d/a.json",
        "share/jupyter/kernels/good/logo-svg.svg",
        "share/jupyter/kernels/other/kernel.json",
    ],
)
@pytest.mark.usefixtures("bounded")
def test_planted_files_do_not_get_into_kernels(
    home: Path, prefix: Path, secret: Path, path: str, plant: Plant, capfd: pytest.CaptureFixture[str]
) -> None:
    file = prefix / path
    file.parent.mkdir(exist_ok=True)
    file.unlink(missing_ok=True)
    plant(file, secret)
    (outcome,) = kernels.register(prefix, "work")
    assert not outcome.problem
    assert SECRET not in str(registered(home))
    assert {"launch.sh", "kernel.json"} <= registered(home).keys()
    assert "Traceback" not in capfd.readouterr().err
    for shell in SHELLS[:2]:
        started = launch(Path(outcome.path), shell=shell)
        assert started.command == ["true"], started.errors
        assert SECRET not in str(started)


@pytest.mark.parametrize(
    "path", ["share/jupyter/kernels", "share/jupyter", "etc/conda/env_vars.d", "conda-meta"]
)
@pytest.mark.parametrize("mode", [0, 0o755])
def test_directories_elsewhere_do_not_get_into_kernels(
    home: Path, prefix: Path, secret: Path, path: str, mode: int
) -> None:
    """They are links to a directory like the one that was there."""
    elsewhere = home / "elsewhere"
    (prefix / path).rename(elsewhere)
    (prefix / path).symlink_to(elsewhere)
    for file in (elsewhere / "a.json", elsewhere / "state"):
        if file.exists():
            file.write_bytes(secret.read_bytes())
    elsewhere.chmod(mode)
    kernels.register(prefix, "work")
    for kernel in (home / ".local/share/jupyter/kernels").glob("*"):
        assert SECRET not in str(registered(home, kernel.name))
        assert SECRET not in str(launch(kernel))
    assert kernels.install_hint(prefix).endswith("ipykernel")


def test_large_directories_are_not_listed(home: Path, prefix: Path) -> None:
    for number in range(300):
        (prefix / f"etc/conda/env_vars.d/{number}.json").write_text('{"MANY": "1"}')
    kernels.register(prefix, "work")
    directory = home / ".local/share/jupyter/kernels/work-good"
    assert "MANY" not in launch(directory).variables
    shutil.rmtree(prefix / "etc/conda/env_vars.d")
    (prefix / "etc/conda/env_vars.d").mkdir()
    for number in range(5):
        document = json.dumps({f"LARGE{number}": "x"}) + " " * 300_000
        (prefix / f"etc/conda/env_vars.d/{number}.json").write_text(document)
    for shell in SHELLS[:2]:
        variables = launch(directory, shell=shell).variables
        assert [number for number in range(5) if f"LARGE{number}" in variables] == [0, 1, 2]
    for number in range(100):
        add_kernel(prefix, f"k{number}", argv=["true"], display_name="Good", language="text")
    assert kernels.register(prefix, "work") == ()
    many = [Kernel(f"k{number}", "Many", "text") for number in range(200)]
    assert len(kernels.Registrar().register_pending(prefix, "work", many)) == 100
    large = [Kernel("x" * size, "x" * 100_000, "x" * 100_000) for size in (300, 1)]
    (outcome,) = kernels.Registrar().register_pending(prefix, "work", large)
    assert len(registered(home, outcome.name)["kernel.json"]) < 10_000


def test_assets_of_all_kernels_of_an_environment_are_limited(home: Path, prefix: Path) -> None:
    """A publisher can have many kernels whose logos are hard links to one large file."""
    large = prefix / "share/jupyter/kernels/good/kernel.js"
    large.write_bytes(bytes(1 << 20))
    for number in range(20):
        kernel = add_kernel(prefix, f"k{number}", argv=["true"], display_name="K", language="text")
        os.link(large, kernel / "kernel.css")
    kernels.register(prefix, "work")
    top = home / ".local/share/jupyter/kernels"
    assert 15 << 20 <= sum(file.stat().st_size for file in top.glob("*/kernel.[jc]s*")) <= 17 << 20
    assert len([*top.glob("*/kernel.json")]) == 21


def test_one_kernel_does_not_stop_others(prefix: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is wrong with it, the outcome names it."""
    add_kernel(prefix, "nul", argv=["true", "a\0b"], display_name="Nul", language="nul")
    add_kernel(prefix, "surrogate", argv=["true", "\ud800"], display_name="Sur", language="surrogate")
    outcomes = {outcome.name: outcome.problem for outcome in kernels.register(prefix, "work")}
    assert "NUL" in outcomes["work-nul"]
    assert "surrogates not allowed" in outcomes["work-surrogate"]
    assert not outcomes["work-good"]

    def fail(*_: object) -> str:
        raise MemoryError

    monkeypatch.setattr("snapper.kernels.launcher.render_launch_script", fail)
    outcomes = {outcome.name: outcome.problem for outcome in kernels.register(prefix, "work")}
    assert outcomes["work-good"] == "MemoryError"


def test_only_known_fields_of_kernelspecs_are_registered(home: Path, prefix: Path) -> None:
    metadata = {
        "debugger": True,
        "kernel_provisioner": {"provisioner_name": "x"},
        "snapper": {"environment": "x"},
    }
    env = {"GOOD": "1", "BAD;touch x": "1", "BASH_FUNC_x%%": "() { :; }", "NUMBER": 1}
    add_kernel(
        prefix, "good", argv=["true"], display_name="Good", language="text", env=env, metadata=metadata,
        interrupt_mode="message", kernel_protocol_version="5.5", resource_dir="/etc", codemirror_mode=["x"],
    )  # fmt: skip
    add_kernel(prefix, "option", argv=["-c", "true"], display_name="Option", language="text")
    kernels.register(prefix, "work")
    fields = json.loads(registered(home)["kernel.json"])
    assert fields.keys() == {
        "argv", "display_name", "interrupt_mode", "kernel_protocol_version", "language", "metadata",
    }  # fmt: skip
    variables = launch(home / ".local/share/jupyter/kernels/work-good").variables
    assert variables["GOOD"] == "1"
    assert {"NUMBER", "BAD;touch x", "BASH_FUNC_x%%"}.isdisjoint(variables)
    assert fields["metadata"].pop("snapper")["environment"] == "work"
    assert fields["metadata"] == {"debugger": True}
    assert [kernel.name for kernel in kernels.registered_kernels()] == ["work-good"]


@pytest.mark.parametrize(
    "value",
    [
        "NaN",
        "1e999",
        "[-Infinity]",
        "[" * 100 + "]" * 100,
        '{"a":' * 400 + "[" + "1," * 9000 + "1]" + "}" * 400,
    ],
)
def test_metadata_that_jupyter_could_not_pass_on_is_left_out(home: Path, prefix: Path, value: str) -> None:
    """Its server puts all kernelspecs into one document: JupyterLab would show no kernels at all."""
    spec = f'{{"argv": ["true"], "display_name": "Good", "language": "text", "metadata": {{"a": {value}, "b": [1.5]}}}}'
    (prefix / "share/jupyter/kernels/good/kernel.json").write_text(spec)
    (outcome,) = kernels.register(prefix, "work")
    assert not outcome.problem
    metadata = json.loads(registered(home)["kernel.json"])["metadata"]
    assert metadata.keys() == {"b", "snapper"}


@pytest.mark.parametrize("plant", UNFIT)
@pytest.mark.usefixtures("bounded")
def test_planted_records_are_named(prefix: Path, secret: Path, plant: Plant) -> None:
    record = prefix / "conda-meta/a-1-0.json"
    plant(record, secret)
    for read in (conda.read_records, lambda prefix: conda.read_record(prefix, "conda-meta/a-1-0.json")):
        with pytest.raises(FileOperationFailed) as caught:
            read(prefix)
        assert caught.value.path == str(record)
        assert caught.value.hint


@pytest.mark.parametrize("plant", PLANTED)
@pytest.mark.parametrize(
    "name", ["a-2.dist-info/METADATA", "a-2.dist-info/RECORD", "a-2.dist-info/direct_url.json", "a.pth"]
)
@pytest.mark.usefixtures("bounded")
def test_planted_metadata_is_not_read(prefix: Path, secret: Path, name: str, plant: Plant) -> None:
    """Files that cannot be metadata are named. Links that lead outside count as missing: some installers make them."""
    site = prefix / "lib/python3.11/site-packages"
    secret.write_text(f"Name: {SECRET}\nVersion: {SECRET}\n")
    (site / "a-2.dist-info").mkdir(parents=True)
    (site / "a-2.dist-info/METADATA").write_text("Name: good\n")
    (site / name).unlink(missing_ok=True)
    plant(site / name, secret)
    tree = walk(prefix)
    unowned = {file.path: file for file in tree.files}
    try:
        found = pip.distributions(prefix, unowned), editable.find(prefix, tree)
    except FileOperationFailed as error:
        assert error.path == str(site / name)
        assert plant not in (link_to_secret, link_out_by_parents)
    else:
        assert SECRET not in str(found)
        assert plant is not two_gigabytes


@pytest.mark.parametrize("name", ["METADATA", "RECORD"])
def test_metadata_is_limited_in_total(prefix: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file can be a link to a large one, which takes no space."""
    site = prefix / "lib/python3.11/site-packages"
    for number in range(4):
        (site / f"a{number}-2.dist-info").mkdir(parents=True)
        (site / f"a{number}-2.dist-info/METADATA").write_text("Name: a\n")
        (site / f"a{number}-2.dist-info" / name).unlink(missing_ok=True)
        (site / f"a{number}-2.dist-info" / name).symlink_to("../large")
    (site / "large").write_bytes((b"x" * 99 + b"\n") * 100)
    unowned = {file.path: file for file in walk(prefix).files}
    assert len(pip.distributions(prefix, unowned)) == 4
    monkeypatch.setattr(pip, "_MOST_METADATA", 35_000)
    with pytest.raises(FileOperationFailed, match=r"a3-2\.dist-info"):
        pip.distributions(prefix, unowned)


@pytest.mark.parametrize("row", ["a\n", "\r", "\n"])
def test_short_rows_of_records_count_like_others(
    prefix: Path, row: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some 5 microseconds each would be minutes for 128 MiB of them."""
    metadata = prefix / "lib/python3.11/site-packages/a-2.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Name: a\n")
    (metadata / "RECORD").write_bytes(row.encode() * 900)
    unowned = {file.path: file for file in walk(prefix).files}
    monkeypatch.setattr(pip, "_MOST_METADATA", 60_000)
    assert len(pip.distributions(prefix, unowned)) == 1
    monkeypatch.setattr(pip, "_MOST_METADATA", 50_000)
    with pytest.raises(FileOperationFailed, match=r"a-2\.dist-info/RECORD"):
        pip.distributions(prefix, unowned)


@pytest.mark.parametrize("row", [b"," * 100_000, b'"\n",,,,' * 20_000])
def test_long_rows_of_records_end_them(row: bytes) -> None:
    """Each field takes memory."""
    assert [path for path, _, _ in pip.parse_record(b'a,,\n"b\nc",,\n' + row + b"\nd,,\n", "s")] == [
        "s/a",
        "s/b\nc",
    ]


@pytest.mark.parametrize(
    "unit", ['{"\\"', "{", '"', '\\"', '{"', '"_path"', '{"_path": "a{"', "}", '"_path"  ']
)
def test_records_are_edited_in_linear_time(unit: str) -> None:
    """This would take hours if every part led to a search of the rest."""
    text = b'{"paths": [{"_path": "a{", "x\\\\": 1},' + unit.encode() * (1_000_000 // len(unit))
    facts = {"a{": FileFacts("0" * 64, 5)}
    began = time.process_time()
    record_text.with_facts(text, facts, sizes=True)
    record_text.without_facts_of(text, ["a{"], sizes=True)
    record_text.with_missing_facts(text, facts.get)
    assert time.process_time() - began < 20


def test_other_entries_of_records_are_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """One escape, or many entries of one path, would make that ten times as slow."""
    parsed: list[bytes] = []

    def loads(text: bytes, real: Callable[[bytes], Any] = json.loads) -> Any:
        parsed.append(text)
        return real(text)

    monkeypatch.setattr(json, "loads", loads)
    text = b'{"x": "\\n", "paths": [' + b'{"_path": "b"}, {"_path": "a"}, ' * 1000 + b'{"_path": "\\u00e9"}]}'
    facts = {path: FileFacts("0" * 64, 5) for path in ("a", "\xe9", "c")}
    record_text.with_facts(text, facts, sizes=True)
    record_text.with_facts(text.replace(b"\\", b"/"), facts, sizes=True)
    assert len(parsed) <= 4


def test_braces_in_records_do_not_hide_entries() -> None:
    entry = '{"_path": "%s", "sha256_in_prefix": "' + "0" * 64 + '", "size_in_bytes": 1}'
    other = '{"_path": "other", "x": {"k": "}"}}, {"y": "{\\"{"}'
    text = f'{{"x": "{{", "paths": [{entry % "a{"}, {other}, {entry % "b"}, {entry % "}c"}]}}'.encode()
    facts = {path: FileFacts("f" * 64, 22) for path in ("a{", "}c")}
    edited = record_text.with_facts(text, facts, sizes=True)
    assert edited == text.replace(b"0" * 64, b"f" * 64).replace(b": 1}", b": 22}").replace(
        (entry % "b").replace("0" * 64, "f" * 64).replace(": 1}", ": 22}").encode(), (entry % "b").encode()
    )


def test_long_numbers_are_read_in_linear_time_when_a_kernel_starts() -> None:
    """This took minutes when they were put together character by character."""
    records = ("kernelspec", '{"argv": ["x"]}', "conda-meta/state", '{"a": [' + "1" * (1 << 20) + "]}")
    text = "".join(record + launch_settings.SEPARATOR for record in records)
    command = ["awk", launch_settings.READ_SETTINGS]
    done = subprocess.run(command, input=text.encode(), capture_output=True, timeout=30, check=True)
    assert b"snapper_is_valid=yes" in done.stdout
    assert b"ignored" not in done.stdout


def test_records_with_long_paths_are_refused(prefix: Path) -> None:
    fields = {"name": "a", "version": "1", "files": ["a/" * 300_000]}
    (prefix / "conda-meta/a-1-0.json").write_text(json.dumps(fields))
    with pytest.raises(FileOperationFailed, match="is too long"):
        conda.read_records(prefix)


def test_paths_in_records_lead_nowhere_else(tmp_path: Path, prefix: Path) -> None:
    """The prefix that files contain is looked for in the environment only."""
    link = tmp_path / "link"
    link.symlink_to(prefix)
    (tmp_path / "outside").write_text(str(prefix))
    (prefix / "share/inside").write_text(str(link))
    paths = ["../../outside", f"{tmp_path}/outside", "a\0b", "share/inside"]
    entries = tuple(conda.PathEntry(path, placeholder="/placeholder") for path in paths)
    package = Package("a", "1", "0", "", "", "")
    record = conda.Record("conda-meta/a.json", package, entries)
    assert find_prefixes(conda.pin_environment(link), [record], []).found == (str(link),)


@pytest.mark.parametrize("unit", ["/a/../b/" * 4, "/./a", "//a", "/a/\x01", "/a"])
def test_prefixes_are_found_in_limited_time(unit: str) -> None:
    """Paths that cannot be prefixes would take minutes for each package."""
    began = time.process_time()
    assert len([*candidate_prefixes(f"{unit} ".encode() * (16_000_000 // len(unit)))]) <= 2
    assert time.process_time() - began < 2


# --- the user's Jupyter -----------------------------------------------------------------------------------


def test_files_that_may_contain_secrets_are_private(home: Path, prefix: Path, secret: Path) -> None:
    """This includes those that an earlier version wrote."""
    kernels.register(prefix, "work")
    directory = home / ".local/share/jupyter/kernels/work-good"
    for file in directory.iterdir():
        file.chmod(0o644)
    before = os.umask(0)
    try:
        kernels.register(prefix, "work")
        write_notice("work", WaitingNotice("failed", 1, "1", "error", "/log"))
        RestoreRecorder("/store", restores_all=True).close()
        kernels.Registrar().register_pending(prefix, "new", [Kernel("k", "K", "text")])
    finally:
        os.umask(before)
    state = home / ".local/state/snapper"
    private = [
        directory / "kernel.json",
        state / "waiting/work",
        state / "restore.json",
    ]
    private.append(home / ".local/share/jupyter/kernels/new-k/kernel.json")
    assert {stat.S_IMODE(file.stat().st_mode) for file in private} == {0o600}
    assert not any(path.stat().st_mode & 0o022 for path in directory.parent.rglob("*"))


def test_links_in_kernels_are_replaced(home: Path, prefix: Path, secret: Path) -> None:
    """Those in place of logos are the user's own, and stay."""
    kernels.register(prefix, "work")
    directory = home / ".local/share/jupyter/kernels/work-good"
    data = secret.read_bytes()
    for name in ("launch.sh", "logo-svg.svg"):
        (directory / name).unlink()
        (directory / name).symlink_to(secret)
    kernels.register(prefix, "work")
    assert secret.read_bytes() == data
    assert [file.name for file in directory.iterdir() if file.is_symlink()] == ["logo-svg.svg"]
    (directory / "kernel.json").rename(home / "moved")
    (directory / "kernel.json").symlink_to(home / "moved")
    assert [outcome.name for outcome in kernels.register(prefix, "work")] == [DIGEST_NAME]
    assert (directory / "kernel.json").is_symlink()


def test_directories_with_other_files_are_not_used(home: Path, prefix: Path) -> None:
    """What an interrupted registration left behind is completed."""
    top = home / ".local/share/jupyter/kernels"
    (top / "work-good").mkdir(parents=True)
    (top / "work-good/launch.sh").write_text("mine")
    (top / "work-good/notes").write_text("mine")
    (top / DIGEST_NAME).mkdir()
    (top / DIGEST_NAME / "launch.sh").touch()
    (top / DIGEST_NAME / ".launch.sh.0123456789abcdef").touch()
    assert [outcome.name for outcome in kernels.register(prefix, "work")] == [DIGEST_NAME]
    assert registered(home) == {"launch.sh": "mine", "notes": "mine"}
    assert "kernel.json" in registered(home, DIGEST_NAME)


def test_marks_with_names_that_are_paths_are_ignored(home: Path, prefix: Path) -> None:
    """No file may be read or written that such a name leads to."""
    kernels.register(prefix, "work")
    file = home / ".local/share/jupyter/kernels/work-good/kernel.json"
    for name in ("../../.profile", "", ".", "a/b", "a\0b", 5, None, ["x"]):
        fields = json.loads(file.read_bytes())
        fields["metadata"]["snapper"]["environment"] = name
        file.write_text(json.dumps(fields))
        assert kernels.registered_kernels() == ()
        if isinstance(name, str):
            for path in (waiting_file, used_file):
                with pytest.raises(ValueError, match="not a valid name"):
                    path(name)
            assert read_notice(name) is None


def test_notices_are_printable(home: Path) -> None:
    """The launcher prints them to the terminal of Jupyter's server."""
    write_notice("work", WaitingNotice("failed", 1, "1", "a\x1b]0;title\x07\u202eb\n\x85c", "/log\x1b[2J"))
    text = waiting_file("work").read_text()
    assert text.replace("\n", "").isprintable()
    assert text.count("\n") == 4


@as_root
def test_directories_of_other_users_are_not_used(
    tmp_path: Path, prefix: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jupyter's directory is shared: somebody has put directories and links of theirs there before."""
    shared = tmp_path / "shared"
    top, own = shared / "kernels", tmp_path / "home/own"
    top.mkdir(parents=True)
    own.mkdir()
    top.chmod(0o777)
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(shared))
    kernels.register(prefix, "work")
    (planted,) = top.iterdir()
    for path in (planted, *planted.iterdir()):
        os.chown(path, OTHER_USER, OTHER_USER)
    (top / DIGEST_NAME).symlink_to(own)
    os.chown(top / DIGEST_NAME, OTHER_USER, OTHER_USER, follow_symlinks=False)
    (top / f"{DIGEST_NAME}-2").mkdir()
    os.chown(top / f"{DIGEST_NAME}-2", OTHER_USER, OTHER_USER)
    before = registered_in(planted)
    assert kernels.registered_kernels() == ()
    assert [outcome.name for outcome in kernels.register(prefix, "work")] == [f"{DIGEST_NAME}-3"]
    assert registered_in(planted) == before
    assert not [*own.iterdir(), *(top / f"{DIGEST_NAME}-2").iterdir()]
    assert [kernel.name for kernel in kernels.remove("work")] == [f"{DIGEST_NAME}-3"]
    assert planted.is_dir()


def registered_in(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in directory.iterdir()}


@as_root
@pytest.mark.parametrize("place", ["shared", "home/shared"])
def test_links_of_other_users_to_the_kernels_are_not_followed(
    tmp_path: Path, prefix: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    shared, own = tmp_path / place, tmp_path / "home/own"
    shared.mkdir()
    own.mkdir()
    (shared / "kernels").symlink_to(own)
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(shared))
    (outcome,) = kernels.register(prefix, "work")
    assert not outcome.problem
    os.chown(shared / "kernels", OTHER_USER, OTHER_USER, follow_symlinks=False)
    shutil.rmtree(own / "work-good")
    (outcome,) = kernels.register(prefix, "work")
    assert outcome.problem == "kernels is a link of the user nobody"
    assert not list(own.iterdir())


@as_root
@pytest.mark.parametrize(
    "shell", [shell for shell in ("dash", "bash", "busybox", "ksh", "zsh") if shutil.which(shell)]
)
def test_kernels_do_not_start_in_environments_that_others_put_in_their_place(
    home: Path, prefix: Path, shell: str
) -> None:
    """In a shared directory, another user can create an environment again after its owner has removed it."""
    (prefix / "conda-meta/state").unlink()
    (prefix / "etc/conda/activate.d").mkdir()
    (prefix / "etc/conda/activate.d/a.sh").touch()

    def start() -> subprocess.CompletedProcess[str]:
        command = [shell, *(["sh"] if shell == "busybox" else []), script, "/c.json"]
        variables = {"PATH": os.environ["PATH"], "BASH_VERSION": "this"}  # so that it stays in this shell
        return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)

    kernels.Registrar().register_pending(prefix, "work", [Kernel("good", "Good", "text")])
    kernels.register(prefix, "work")
    script = str(home / ".local/share/jupyter/kernels/work-good/launch.sh")
    assert start().returncode == 0
    os.chown(prefix, OTHER_USER, OTHER_USER)
    done = start()
    assert done.returncode == 1
    assert f"{prefix} belongs to another user than when this kernel was registered" in done.stderr
    kernels.register(prefix, "work")
    assert start().returncode == 0


@as_root
@pytest.mark.parametrize(
    "shell", [shell for shell in ("dash", "bash", "busybox", "ksh", "zsh") if shutil.which(shell)]
)
def test_kernels_do_not_start_in_directories_that_others_may_have_filled(
    home: Path, prefix: Path, shell: str
) -> None:
    """In a shared directory, others can move a directory of this user there that they may write to, or a link."""
    (prefix / "conda-meta/state").unlink()
    (prefix / "etc/conda/activate.d").mkdir()
    (prefix / "etc/conda/activate.d/a.sh").touch()
    kernels.register(prefix, "work")
    script = str(home / ".local/share/jupyter/kernels/work-good/launch.sh")

    def start() -> str:
        command = [shell, *(["sh"] if shell == "busybox" else []), script, "/c.json"]
        variables = {"PATH": os.environ["PATH"], "BASH_VERSION": "this"}  # so that it stays in this shell
        return subprocess.run(command, env=variables, capture_output=True, text=True, check=False).stderr

    put_another_at(prefix, 0o775, OTHER_USER)
    assert not start(), "nobody else can have put it there"

    prefix.parent.chmod(0o777)
    prefix.chmod(0o755)
    kernels.register(prefix, "work")
    os.chown(prefix, 0, OTHER_USER)
    prefix.chmod(0o775)
    assert not start(), "it is the one that was registered"
    put_another_at(prefix, 0o755, OTHER_USER)
    assert not start(), "only the user may write to it"
    put_another_at(prefix, 0o775, 0)
    assert not start(), "the group is private"
    refusal = (
        f"{prefix} may be written to by others, and was not, or not by them, when this kernel was registered"
    )
    set_access_list(prefix, (USER, OTHER_USER, 0o7), (OWNING_GROUP, NO_ID, 0o5))
    assert refusal in start()
    os.removexattr(prefix, ACCESS_LIST)
    for mode in (0o775, 0o757):
        put_another_at(prefix, mode, OTHER_USER)
        assert refusal in start()
    assert f"kernels register --prefix '{prefix}'" in start()

    put_another_at(prefix, 0o755, 0)
    (prefix / ".snapper").mkdir()
    recorded = EnvironmentState(1, "other", "1" * 64, str(prefix))
    (prefix / ".snapper/state.json").write_bytes(canonical.encode(recorded))
    assert f"{prefix} is another environment than" in start()
    recorded = replace(recorded, environment="work")
    (prefix / ".snapper/state.json").write_bytes(canonical.encode(recorded))
    assert not start(), "a colleague has restored it again"

    os.chown(prefix, 0, OTHER_USER)
    prefix.chmod(0o775)
    kernels.register(prefix, "work")
    put_another_at(prefix, 0o775, OTHER_USER)
    assert not start(), "the group could write to it when the kernel was registered"
    prefix.rename(home / "own")
    prefix.symlink_to(home / "own")
    assert not start()
    os.chown(prefix, OTHER_USER, OTHER_USER, follow_symlinks=False)
    assert f"{prefix} belongs to another user" in start()


def put_another_at(prefix: Path, mode: int, group: int) -> None:
    """Replace an environment by a copy of it, with other permissions."""
    moved = prefix.rename(prefix.with_name(f"moved-{len(os.listdir(prefix.parent))}"))
    shutil.copytree(moved, prefix)
    os.chown(prefix, 0, group)
    prefix.chmod(mode)


@as_root
def test_kernels_are_not_updated_in_directories_that_others_may_have_filled(home: Path, prefix: Path) -> None:
    """Only the user says that what is there can be trusted: by registering the kernels."""
    kernels.register(prefix, "work")
    before = registered(home)
    add_kernel(prefix, "new", argv=["true"], display_name="New", language="new")
    prefix.parent.chmod(0o777)
    for mode, owner in ((0o775, 0), (0o755, OTHER_USER)):
        put_another_at(prefix, mode, OTHER_USER)
        os.chown(prefix, owner, OTHER_USER)
        update_others(())
        assert registered(home) == before
    os.chown(prefix, 0, 0)
    update_others(("work",))
    assert registered(home) == before
    update_others(("other",))
    assert registered(home, "work-new")


@as_root
def test_others_cannot_write_to_directories_of_kernels(home: Path, prefix: Path) -> None:
    """What they wrote when they could is removed."""
    kernels.register(prefix, "work")
    directory = home / ".local/share/jupyter/kernels/work-good"
    (directory / "kernel.js").touch()
    os.chown(directory / "kernel.js", OTHER_USER, OTHER_USER)
    os.chown(directory / "launch.sh", OTHER_USER, OTHER_USER)
    directory.chmod(0o777)
    kernels.register(prefix, "work")
    assert stat.S_IMODE(directory.stat().st_mode) == 0o755
    assert sorted(registered(home)) == ["kernel.json", "launch.sh", "logo-svg.svg"]
    assert (directory / "launch.sh").stat().st_uid == os.geteuid()


@as_root
def test_state_is_not_written_through_links_of_other_users(home: Path) -> None:
    """Root may work with the home directory of a user."""
    state, target = home / ".local/state/snapper", home / "target"
    state.mkdir(parents=True)
    target.mkdir()
    for name in ("waiting", "used"):
        (state / name).symlink_to(target)
        os.chown(state / name, OTHER_USER, OTHER_USER, follow_symlinks=False)
    with pytest.raises(PermissionError):
        write_notice("work", WaitingNotice("failed", 1, "1", "error", "/log"))
    shutil.rmtree(state)
    state.symlink_to(target)
    os.chown(state, OTHER_USER, OTHER_USER, follow_symlinks=False)
    RestoreRecorder("/store", restores_all=True).close()
    assert not list(target.iterdir())


@as_root
def test_state_of_other_users_is_not_read(home: Path) -> None:
    write_notice("work", WaitingNotice("failed", 1, "1", "error", "/log"))
    RestoreRecorder("/store", restores_all=True).close()
    assert read_notice("work")
    assert last_restore()
    for path in (waiting_file("work"), home / ".local/state/snapper/restore.json"):
        os.chown(path, OTHER_USER, OTHER_USER)
    assert read_notice("work") is None
    assert last_restore() is None
