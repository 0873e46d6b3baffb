"""Settings: precedence, errors for invalid ones, and changes to the settings file."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from snapper.cli.app import run
from snapper.errors import FileOperationFailed, InvalidSettings, SnapperError, UsageError
from snapper.settings import directories, file
from snapper.settings.directories import (
    Platform,
    detect_platform,
    existing_directory,
    log_file,
    state_directory,
)
from snapper.settings.file import VARIABLE, find_settings_file, writable_settings_file, write_setting
from snapper.settings.keys import KEYS
from snapper.settings.resolution import explain_setting, explain_settings, load_settings, variable_name
from snapper.store import open_store
from tests.conftest import Machine
from tests.support.processes import run_as

#: The id of another user, who need not exist.
OTHER = 54321


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory without any settings."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (VARIABLE, "XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_DATA_HOME", "SAGEMAKER_SPACE_NAME"):
        monkeypatch.delenv(name, raising=False)
    for key in KEYS:
        monkeypatch.delenv(variable_name(key), raising=False)
    monkeypatch.setattr(file, "_SITE", tmp_path / "etc" / "config.toml")
    return tmp_path


def write(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def test_variable_overrides_file_and_file_overrides_default(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_settings().jobs is None
    file = write(home / ".config/snapper/config.toml", 'jobs = 5\nlevel = 7\nfirst = ["a*", "b"]\n')
    monkeypatch.setenv("SNAPPER_LEVEL", "9")
    monkeypatch.setenv("SNAPPER_ONLY", "x, y*")
    loaded = load_settings()
    assert (loaded.jobs, loaded.level, loaded.first, loaded.only) == (5, 9, ("a*", "b"), ("x", "y*"))
    origins = {setting.key: setting.origin for setting in explain_settings().settings}
    assert origins["jobs"] == f"{file}:1"
    assert origins["first"] == f"{file}:3"
    assert origins["level"] == "SNAPPER_LEVEL"
    assert origins["budget"] == "default"


def test_first_existing_settings_file_is_used(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [
        write(home / "etc/config.toml", "jobs = 1\n"),
        write(home / ".config/snapper/config.toml", "jobs = 2\n"),
        write(home / "SageMaker/.snapper/config.toml", "jobs = 3\n"),
        write(home / "named.toml", "jobs = 4\n"),
    ]
    monkeypatch.setenv("SNAPPER_CONFIG", "~/named.toml")
    for number, path in zip((4, 3, 2, 1), reversed(files), strict=True):
        assert load_settings().jobs == number
        path.unlink()
        monkeypatch.delenv("SNAPPER_CONFIG", raising=False)
    assert load_settings().jobs is None
    monkeypatch.setenv("SNAPPER_CONFIG", str(home / "missing.toml"))
    with pytest.raises(InvalidSettings, match="does not exist"):
        load_settings()


def test_defaults_depend_on_the_platform(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().store == str(home / ".local/share/snapper")
    assert load_settings().cache is None
    monkeypatch.setenv("SAGEMAKER_SPACE_NAME", "mine")
    assert detect_platform() is Platform.STUDIO
    assert load_settings().cache == str(home / ".local/state/snapper/cache")
    (home / "SageMaker").mkdir()
    assert detect_platform() is Platform.NOTEBOOK_INSTANCE
    setting = explain_setting("store")
    assert (setting.value, setting.origin) == (
        str(home / "SageMaker/.snapper"),
        "default (notebook instance)",
    )
    assert load_settings().cache == str(home / "SageMaker/.snapper/cache")
    assert state_directory().is_relative_to(home / "SageMaker")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have directories of their own")
def test_directories_follow_the_xdg_variables(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert state_directory() == home / ".local/state/snapper"
    assert log_file() == home / ".local/state/snapper/snapper.log"
    assert writable_settings_file() == home / ".config/snapper/config.toml"
    for name in ("CONFIG", "STATE", "DATA"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(home / name))
    assert state_directory() == home / "STATE/snapper"
    assert writable_settings_file() == home / "CONFIG/snapper/config.toml"
    assert load_settings().store == str(home / "DATA/snapper")
    for value in ("", "relative"):
        for name in ("CONFIG", "STATE", "DATA"):
            monkeypatch.setenv(f"XDG_{name}_HOME", value)
        assert state_directory() == home / ".local/state/snapper"
        assert writable_settings_file() == home / ".config/snapper/config.toml"
        assert load_settings().store == str(home / ".local/share/snapper")


def test_macos_keeps_directories_of_earlier_versions(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directories, "IS_MACOS", True)
    native, previous = home / "Library/snapper", home / ".local/state/snapper"
    assert existing_directory(native, "user_state_path") == native
    previous.mkdir(parents=True)
    assert existing_directory(native, "user_state_path") == previous
    native.mkdir(parents=True)
    assert existing_directory(native, "user_state_path") == native


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("# mine\n\njobs = 2\njosb = 3\n", 4, "unknown setting 'josb'"),
        ("[kernels]\nname = 1\n", 1, "unknown setting 'kernels'"),
        ("level = 3\njobs = [\n 1,\n]\n", 2, "jobs cannot be [1]: it must be a whole number from 1 to 64"),
        ("jobs = true\n", 1, "jobs cannot be true"),
        ("level = 20\n", 1, "from 1 to 19"),
        ('budget = "soon"\n', 1, "it must be a number of seconds"),
        ("budget = nan\n", 1, "it must be a number of seconds"),
        ('cache_size = "20 apples"\n', 1, "such as 20GB"),
        ("only = [1]\n", 1, "a list of names"),
        ('store = "relative/store"\n', 1, "an absolute path"),
        ('store = "s3://"\n', 1, "s3://BUCKET/PREFIX"),
        ('kernel_name = "{language}"\n', 1, "it must contain {env}"),
        ('kernel_name = "{env}{0}"\n', 1, "no other fields"),
        ("jobs = 1\njobs == 2\n", 2, "it is not TOML"),
        ("jobs = 1\njobs = 2\n", 0, "it is not TOML"),
        ("jobs = \n\n", 1, "it is not TOML"),
    ],
)
def test_invalid_settings_file_is_reported_with_its_line(
    home: Path, text: str, line: int, words: str
) -> None:
    file = write(home / ".config/snapper/config.toml", text)
    with pytest.raises(InvalidSettings) as caught:
        load_settings()
    assert words in caught.value.message
    assert "\n" not in caught.value.message
    assert str(file) in caught.value.where
    if line:
        assert caught.value.where == f"{file}:{line}"


def test_settings_file_that_is_not_utf8_is_reported(home: Path) -> None:
    file = home / ".config/snapper/config.toml"
    write(file, "").write_bytes(b"jobs = 1\nstore = '\xff'\n")
    with pytest.raises(InvalidSettings, match=":2: it is not UTF-8"):
        load_settings()


def test_invalid_variable_is_reported(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SNAPPER_JOBS", "many")
    with pytest.raises(InvalidSettings) as caught:
        load_settings()
    assert caught.value.where == "SNAPPER_JOBS"


def test_values_are_accepted_as_people_write_them(home: Path) -> None:
    file = home / ".config/snapper/config.toml"
    for text, expected in (("'1.5 GB'", 1_500_000_000), ("'700kb'", 700_000), ("12", 12)):
        write(file, f"cache_size = {text}\n")
        assert load_settings().cache_size == expected
    write(file, "cache = 'off'\nbudget = 240\nstore = '~/there/../store'\nenvs_dir = '/envs/'\n")
    loaded = load_settings()
    assert (loaded.cache, loaded.budget, loaded.envs_dir) == (None, 240.0, "/envs")
    assert loaded.store == str(home / "store")
    write(file, "store = 's3://bucket/prefix'\nbudget = 'off'\n")
    assert (load_settings().store, load_settings().budget) == ("s3://bucket/prefix", None)


def test_setting_a_value_keeps_comments_and_mode(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "SageMaker").mkdir()
    file = home / "SageMaker/.snapper/config.toml"
    before = "# our team's\njobs = 2  # two cores\n\n# patterns\nonly = [\n  'a*', # all of them\n]\n"
    write(file, before)
    file.chmod(0o640)
    assert run(["config", "set", "jobs", "4"]) == 0
    assert file.read_text() == before.replace("jobs = 2 ", "jobs = 4 ")
    assert run(["config", "set", "first", "b", "c*"]) == 0
    assert run(["config", "set", "cache", "off"]) == 0
    assert load_settings().first == ("b", "c*")
    assert load_settings().only == ("a*",)
    assert file.stat().st_mode & 0o777 == 0o640
    assert run(["config", "unset", "first"]) == 0
    assert run(["config", "unset", "cache"]) == 0
    assert file.read_text() == before.replace("jobs = 2 ", "jobs = 4 ")
    capsys.readouterr()
    assert run(["config", "get", "only", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"key": "only", "value": ["a*"], "origin": f"{file}:5"}
    assert run(["config", "path"]) == 0
    assert capsys.readouterr().out == f"{file}\n"


def test_first_change_copies_the_site_settings(home: Path) -> None:
    site = write(home / "etc/config.toml", "# the site's\nlevel = 9\n")
    before = site.read_text()
    assert run(["config", "set", "jobs", "2"]) == 0
    assert site.read_text() == before
    assert (home / ".config/snapper/config.toml").read_text() == before + "jobs = 2\n"


def test_invalid_changes_leave_the_file_alone(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        *(("set", "josb", "1"), ("set", "jobs", "none"), ("get", "josb"), ("unset", "josb")),
        *(("set", "store", "s3://"), ("set", "store", "ftp://host"), ("set", "cache", "off", "extra")),
        *(
            ("set", "store", "s3://b/p?foo=bar"),
            ("set", "store", "s3://b/../p"),
            ("set", "cache", "s3://b/p"),
        ),
    ):
        assert run(["config", *arguments]) == 2
        assert "Traceback" not in capsys.readouterr().err
    assert not (home / ".config").exists()


def test_config_shows_valid_settings_and_all_errors(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Several errors are shown together, and can be fixed one by one."""
    file = write(home / ".config/snapper/config.toml", "josb = 3\nlevel = 40\nbudget = 9\n")
    monkeypatch.setenv("SNAPPER_CACHE_SIZE", "much")
    assert run(["config", "--json"]) == run(["config", "show"]) == 2
    printed = capsys.readouterr()
    document, _ = json.JSONDecoder().raw_decode(printed.out)
    assert {"key": "budget", "value": 9.0, "origin": f"{file}:3"} in document["settings"]
    wheres = {error["message"].partition(": ")[0] for error in document["wrong"]}
    assert wheres == {"SNAPPER_CACHE_SIZE", f"{file}:1", f"{file}:2"}
    assert all(error["message"] in printed.err for error in document["wrong"])
    assert "Did you mean 'jobs'?" in printed.err
    assert run(["config", "unset", "josb"]) == run(["config", "set", "level", "4"]) == 0
    monkeypatch.delenv("SNAPPER_CACHE_SIZE")
    capsys.readouterr()
    assert run(["config", "show"]) == 0
    assert re.search("^cache_size +20.0 GB +default", capsys.readouterr().out, re.M)
    assert file.read_text() == "level = 4\nbudget = 9\n"
    write(file, "jobs == 2\n")
    assert run(["config"]) == 2
    printed = capsys.readouterr()
    assert "it is not TOML" in printed.err and "cache_size" in printed.out


def test_both_toml_parsers_read_the_same(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.10 has no tomllib and reads with tomlkit, which all versions write with."""
    write(home / ".config/snapper/config.toml", "jobs = 2\nonly = ['a', 'b']\nbudget = 1.5\n")
    loaded = load_settings()
    monkeypatch.setattr(sys, "version_info", (3, 10, 0, "final", 0))
    assert load_settings() == loaded
    write(home / ".config/snapper/config.toml", "jobs = \n")
    with pytest.raises(SnapperError, match=":1: it is not TOML"):
        load_settings()


def test_commands_use_settings_and_report_invalid_ones(machine: Machine) -> None:
    """Run commands as processes, with a settings file."""
    file = write(machine.home / ".config/snapper/config.toml", f"store = '{machine.home}/elsewhere'\n")
    variables = {"SNAPPER_STORE": ""}
    shown = machine.run_json("config", **variables)
    assert shown["file"] == str(file)
    assert {"key": "store", "value": f"{machine.home}/elsewhere", "origin": f"{file}:1"} in shown["settings"]
    error = machine.snapper("list", "--json", **variables).json["error"]
    assert f"{machine.home}/elsewhere" in error["message"]
    file.write_text("stroe = 1\n")
    error = machine.expect_error(2, "list", **variables)
    assert error["message"].startswith(f"{file}:1: ")


# --- settings files that others can change, or that are no settings files ---------------------------------


def _check_that_stores_must_be_named(
    home: Path, mine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The ignored file may name the store that the user has chosen, so neither a default nor the site's is used."""
    text = mine.read_text()
    open_store(str(home / "named"), create=True)
    with monkeypatch.context() as patch:
        for command in (["list", "-q"], ["prune", "--yes"], ["restore", "--all"], ["config", "get", "store"]):
            assert run(command) == 2
            assert "it may name the store to use, but it is ignored, because" in capsys.readouterr().err
        mine.unlink()
        patch.setattr(file, "_SITE", write(home / "site.toml", f"store = '{home}/site'\n"))
        for command in (["list", "-q"], ["config"]):
            assert run(command) == 2
        assert "level" in capsys.readouterr().out
        assert run(["config", "get", "jobs"]) == 0
        assert run(["kernels", "list"]) == 0
        assert run(["list", "--store", str(home / "named")]) == 0
        patch.setenv("SNAPPER_STORE", str(home / "named"))
        for command in (["list"], ["config"]):
            assert run(command) == 0
    write(mine, f"store = '{home}/named'\n")
    assert run(["list"]) == 0
    mine.write_text(text)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
@pytest.mark.parametrize("way", ["owner", "link", "mode", "volume", "pipe"])
def test_settings_of_other_users_are_ignored(
    way: str, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They could select a store, whose code then runs. A warning says so once; it names nothing that trusts them."""
    file._warn_once.cache_clear()
    monkeypatch.setenv("HOME", str(home / "home"))
    volume = home / "volume"
    planted = write(volume / "config.toml", f"store = '{home}/evil'\n")
    mine = write(home / "home/.config/snapper/config.toml", "level = 9\n")
    link = home / "home/SageMaker/.snapper"
    link.parent.mkdir()
    link.symlink_to(volume)
    if way == "owner":
        os.chown(planted, OTHER, OTHER)
    elif way == "link":
        os.chown(link, OTHER, OTHER, follow_symlinks=False)
    elif way == "mode":
        planted.chmod(0o666)
    elif way == "volume":  # others can move a file of this user there that they may write to
        os.chown(link.parent, 0, OTHER)
        link.parent.chmod(0o775)
    else:
        planted.unlink()
        os.mkfifo(planted)
        os.chown(planted, OTHER, OTHER)
    assert (load_settings().store, load_settings().level) == (str(link), 9)
    assert run(["config", "set", "jobs", "3"]) == 0
    assert mine.read_text() == "level = 9\njobs = 3\n"
    shown = capsys.readouterr().err
    assert shown.count("are ignored, because") == 1
    assert "SNAPPER_CONFIG" not in shown
    _check_that_stores_must_be_named(home, mine, monkeypatch, capsys)
    assert ("chmod" if way in ("mode", "volume") else str(OTHER)) in shown
    monkeypatch.setenv("SNAPPER_CONFIG", f"{link}/config.toml")
    if way != "pipe":
        assert load_settings().store == f"{home}/evil"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory to another user")
def test_a_default_store_of_another_user_must_be_chosen(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = home / "SageMaker/.snapper"
    open_store(str(store), create=True)
    assert run(["list"]) == 0
    store.parent.chmod(0o777)
    assert run(["list"]) == 13
    assert f"it is the default, but {store.parent} is writable by other users" in capsys.readouterr().err
    store.parent.chmod(0o755)
    os.chown(store, OTHER, OTHER)
    assert run(["list"]) == 13
    assert f"snapper config set store {store}" in capsys.readouterr().err
    assert run(["list", "--store", str(store)]) == 0
    assert run(["config", "set", "store", str(store)]) == 0
    assert run(["list"]) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run processes of another user")
@pytest.mark.usefixtures("home")
def test_settings_in_a_closed_directory_of_another_user_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    public = Path(tempfile.mkdtemp())
    public.chmod(0o755)
    monkeypatch.setenv("HOME", str(public))
    monkeypatch.setattr(file, "_SITE", public / "config.toml")
    write(public / "SageMaker/.snapper/config.toml", "level = 9\n")
    (public / "SageMaker/.snapper").chmod(0o700)
    os.chown(public / "SageMaker/.snapper", OTHER, OTHER)
    try:
        assert run_as(OTHER + 1, lambda: load_settings().level) == 1
    finally:
        shutil.rmtree(public)


def test_settings_may_be_linked_by_their_user(home: Path) -> None:
    dotfile = write(home / "dotfiles/snapper.toml", "jobs = 2\n")
    link = home / ".config/snapper/config.toml"
    link.parent.mkdir(parents=True)
    link.symlink_to("../../dotfiles/snapper.toml")
    assert load_settings().jobs == 2
    assert run(["config", "set", "jobs", "3"]) == 0
    assert dotfile.read_text() == "jobs = 3\n"
    assert link.is_symlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a link to another user")
def test_settings_are_not_written_through_links_of_others(home: Path) -> None:
    precious = write(home / "precious", "mine")
    link = home / "SageMaker/.snapper/config.toml"
    link.parent.mkdir(parents=True)
    link.symlink_to(precious)
    os.chown(link, OTHER, OTHER, follow_symlinks=False)
    assert run(["config", "set", "jobs", "3"]) == 0
    assert precious.read_text() == "mine"
    assert load_settings().jobs == 3


@pytest.mark.parametrize("umask", [0o077, 0o022, 0])
def test_settings_keep_their_mode_whatever_the_umask(umask: int, home: Path) -> None:
    file = write(home / ".config/snapper/config.toml", "jobs = 2\n")
    file.chmod(0o644)
    before = os.umask(umask)
    try:
        assert run(["config", "set", "jobs", "3"]) == 0
    finally:
        os.umask(before)
    assert file.stat().st_mode & 0o777 == 0o644


def test_saving_settings_changes_no_mode_of_another_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user who may write to the directory replaces the temporary file with a link, and the settings, too."""
    file = write(home / ".config/snapper/config.toml", "jobs = 2\n")
    private, public = write(home / "private", "secret"), write(home / "public", "")
    private.chmod(0o600)
    public.chmod(0o777)

    def swap(_: int) -> None:
        for path in [path for path in file.parent.iterdir() if path.name.startswith(".")]:
            path.unlink()
            path.symlink_to(private)
        file.unlink(missing_ok=True)
        file.symlink_to(public)

    monkeypatch.setattr(os, "fsync", swap)
    run(["config", "set", "jobs", "3"])
    assert private.stat().st_mode & 0o777 == 0o600
    assert private.read_text() == "secret"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory to another user")
@pytest.mark.parametrize("existing", [".", ".config", ".config/snapper"])
def test_root_saves_no_settings_in_the_home_of_a_user(
    existing: str, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The user could not read them, and could have them written elsewhere."""
    user = home / "user"
    (user / existing).mkdir(parents=True)
    for directory, *_ in os.walk(user):
        os.chown(directory, OTHER, OTHER)
    monkeypatch.setenv("HOME", str(user))
    assert run(["config", "set", "jobs", "3"]) == 2
    assert f"belongs to the user {OTHER}" in capsys.readouterr().err
    assert [path for path in user.rglob("*") if path.lstat().st_uid != OTHER] == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory to another user")
@pytest.mark.parametrize("planted", ["file", "directory", "closed directory", "link", "dangling link"])
def test_settings_are_saved_where_no_other_user_controls_them(planted: str, home: Path) -> None:
    """Another user was the first to create snapper's directory on a shared volume, or the file in it."""
    volume = home / "SageMaker/.snapper"
    file = volume / "config.toml"
    volume.mkdir(parents=True)
    if planted == "file":
        file.write_text("jobs = 2\n")
        os.chown(file, OTHER, OTHER)
    elif planted.endswith("link"):
        file.symlink_to(home / "elsewhere.toml")
        os.chown(file, OTHER, OTHER, follow_symlinks=False)
        if planted == "link":
            (home / "elsewhere.toml").touch()
    else:
        volume.chmod(0o700 if planted == "closed directory" else 0o777)
        os.chown(volume, OTHER, OTHER)
    assert run(["config", "set", "jobs", "3"]) == 0
    assert load_settings().jobs == 3
    assert writable_settings_file() == home / ".config/snapper/config.toml"
    assert not (home / "elsewhere.toml").exists() or not (home / "elsewhere.toml").read_text()


def test_ignored_settings_are_not_replaced(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = write(home / ".config/snapper/config.toml", "only = ['a']\n")
    (home / ".config").chmod(0o777)
    for words in (["set", "store", "/x"], ["unset", "only"]):
        assert run(["config", *words]) == 2
        assert f"ignored, because {home}/.config is writable by other users" in capsys.readouterr().err
    assert mine.read_text() == "only = ['a']\n"
    (home / ".config").chmod(0o755)
    assert run(["config", "unset", "only"]) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory to another user")
@pytest.mark.parametrize("planted", [".snapper", ".snapper/state", "link"])
def test_state_is_kept_where_no_other_user_controls_it(planted: str, home: Path) -> None:
    volume = home / "SageMaker"
    (volume / ".snapper/state").mkdir(parents=True)
    assert state_directory() == volume / ".snapper/state"
    if planted == "link":
        (volume / ".snapper").rename(home / "mine")
        (volume / ".snapper").symlink_to(home / "mine")
        assert state_directory() == volume / ".snapper/state"
        planted = ".snapper"
    os.chown(volume / planted, OTHER, OTHER, follow_symlinks=False)
    assert state_directory() == home / ".local/state/snapper"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory to a group of others")
def test_links_to_shared_directories_lead_to_no_state_or_settings(
    home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In the home, the user's own group may write. Elsewhere, its members may have put something there."""
    shared = tmp_path / "shared"
    write(shared / "config/snapper/config.toml", "jobs = 3\n")
    (shared / "local/state/snapper").mkdir(parents=True)
    for directory, *_ in os.walk(shared):
        os.chown(directory, 0, OTHER)
        os.chmod(directory, 0o2775)
    (home / ".config").symlink_to(shared / "config")
    (home / ".local").symlink_to(shared / "local")
    assert state_directory() == home / ".snapper/state"
    assert (
        f"{home}/.local/state/snapper is ignored, because {shared} is writable by other users" in caplog.text
    )
    assert find_settings_file() is None
    (home / ".snapper").symlink_to(shared)
    with pytest.raises(PermissionError, match="writable by other users"):
        state_directory()


# --- no usable home directory -----------------------------------------------------------------------------


def test_python_api_says_that_there_is_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "relative")
    with pytest.raises(UsageError, match="home directory"):
        load_settings()


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize(
    "kind", ["pipe", "device", "large", "directory", "deep", "deep table", "huge number"]
)
def test_what_is_no_settings_file_is_reported(
    kind: str, named: bool, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = home / ".config/snapper/config.toml"
    path.parent.mkdir(parents=True)
    if named:
        monkeypatch.setenv("SNAPPER_CONFIG", str(path))
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "directory":
        path.mkdir()
    else:
        text = {
            "large": "#" * 100_000,
            "deep": f"jobs = {'[' * 30_000}",
            "deep table": f"jobs = {'{a=' * 15_000}",
            "huge number": f"jobs = {'9' * 60_000}",
        }
        path.write_text(text[kind])
    if kind == "device" and not named:  # others may write to it, so it is ignored
        assert load_settings().level == 1
        return
    with pytest.raises((InvalidSettings, FileOperationFailed)) as caught:
        load_settings()
    assert str(path) in caught.value.message
    assert len(caught.value.message) < 500
    assert run(["config"]) in (1, 2)


def test_settings_that_are_changed_at_the_same_time_are_all_kept(home: Path) -> None:
    names = [f"key{number}" for number in range(12)]
    with ThreadPoolExecutor(len(names)) as threads:
        list(threads.map(lambda name: write_setting(name, name), names))
    found = find_settings_file()
    assert found is not None
    assert sorted(found.fields) == sorted(names)
