"""Registered kernels: Jupyter starts them, in an environment that is activated as conda activates it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scripts.maker import make
from snapper import kernels
from snapper.environment.conda_directories import CondaCommands
from snapper.format.constraints import is_valid_name
from snapper.format.model import Kernel
from snapper.kernels import launcher
from snapper.kernels.access import Access
from snapper.kernels.kernelspecs import LAUNCH_SCRIPT
from snapper.kernels.naming import KernelNames
from snapper.kernels.waiting import WaitingNotice, is_being_restored, read_notice, waiting_file, write_notice
from snapper.process.identity import process_start_time
from tests.conftest import Machine, tree_of
from tests.support.environments import make_data
from tests.support.jupyter import get, jupyterlab, kernels_dir, launcher_page, nbconvert, started
from tests.support.kernelspecs import SHELLS, add_kernel, launch


@pytest.fixture(scope="module")
def multilingual(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """A machine with a restored environment that has kernels for Python, bash, and a compiled program."""
    home = tmp_path_factory.mktemp("multilingual")
    machine = Machine(home, home / "envs", home / "store")
    prefix = machine.envs / "work"
    machine.envs.mkdir()
    make("kernels", prefix, copy=True, bytecode=False)
    install = [str(prefix / "bin/python"), "-W", "ignore", "-m", "bash_kernel.install", "--sys-prefix"]
    subprocess.run(install, check=True, capture_output=True)
    argv = ["whereami", "--file={connection_file}", "{resource_dir}"]
    add_kernel(prefix, "compiled", argv=argv, display_name="Compiled", language="c", interrupt_mode="message")
    for number, script in enumerate(("b", "A", "a")):
        (prefix / f"etc/conda/activate.d/{script}.sh").write_text(
            f'export ORDER="${{ORDER:-}}{script}"; set -- gone {number}; echo noise\n'
        )
    state = {"version": 1, "env_vars": {"QUOTED": "it's $HOME", "GONE": "***unset***"}}
    (prefix / "conda-meta/state").write_text(json.dumps(state))
    machine.run_json("pack", "work")
    shutil.rmtree(prefix)
    machine.run_json("restore", "--all")
    return machine


def test_names_and_files_of_registered_kernels(multilingual: Machine) -> None:
    names = {kernel["name"]: kernel["display_name"] for kernel in multilingual.run_json("kernels")["kernels"]}
    assert names == {
        "work-python3": "Python (work)",
        "work-bash": "Bash (work)",
        "work-compiled": "C (work)",
    }
    for name in names:
        spec = json.loads((kernels_dir(multilingual) / name / "kernel.json").read_text())
        assert spec["argv"][0] == "/bin/sh"
        assert "{connection_file}" in spec["argv"]
    assert (kernels_dir(multilingual) / "work-python3" / "logo-svg.svg").stat().st_size > 100
    assert (kernels_dir(multilingual) / "work-bash" / "logo-svg.svg").stat().st_size > 100
    compiled = json.loads((kernels_dir(multilingual) / "work-compiled" / "kernel.json").read_text())
    assert compiled["interrupt_mode"] == "message"


def test_python_kernel_is_activated_and_can_be_interrupted(multilingual: Machine) -> None:
    prefix = multilingual.envs / "work"
    code = (
        "import json, os, sys; print(json.dumps([sys.prefix, os.getpid(), dict(os.environ)]))"
        "; import ipykernel, IPython"
    )
    outer = multilingual.home / "outer"
    outer_variables = {
        "CONDA_PREFIX": str(outer),
        "CONDA_SHLVL": "1",
        "CONDA_DEFAULT_ENV": "outer",
        "OUTER": "set",
        "PATH": f"/first:{outer}/bin:{os.environ['PATH']}",
    }
    leave = outer / "etc/conda/deactivate.d"
    leave.mkdir(parents=True)
    (leave / "outer.sh").write_text("unset OUTER\n")
    with started(multilingual, "work-python3", outer_variables) as kernel:
        python, pid, variables = json.loads(kernel.wait().run(code))
        assert python == str(prefix)
        assert pid == kernel.manager.provisioner.process.pid  # type: ignore[union-attr]
        assert variables["CONDA_PREFIX"] == str(prefix)
        assert variables["CONDA_DEFAULT_ENV"] == "work"
        assert variables["CONDA_PROMPT_MODIFIER"] == "(work) "
        assert (variables["CONDA_SHLVL"], variables["CONDA_PREFIX_1"]) == ("2", str(outer))
        assert variables["PATH"] == f"/first:{prefix}/bin:{os.environ['PATH']}"
        assert variables["WHEREAMI_HOME"] == f"{prefix}/share/whereami"
        assert variables["ORDER"] == "Aab"
        assert variables["QUOTED"] == "it's $HOME"
        assert "OUTER" not in variables
        assert "GONE" not in variables
        for command in ("%pip --version", "!pip --version"):
            assert f" from {prefix}/" in kernel.run(command)

        kernel.client.execute("import time; print('sleeping', flush=True); time.sleep(3600)")
        while True:
            message = kernel.client.get_iopub_msg(timeout=60)
            if message["content"].get("text", "").startswith("sleeping"):
                break
        kernel.manager.interrupt_kernel()
        assert kernel.client.get_shell_msg(timeout=60)["content"]["ename"] == "KeyboardInterrupt"
        assert kernel.run("print(6 * 7)") == "42\n"


def test_bash_kernel_runs_in_its_environment(multilingual: Machine) -> None:
    with started(multilingual, "work-bash") as kernel:
        shown = kernel.wait().run('echo "$CONDA_PREFIX $WHEREAMI_HOME $(command -v whereami)"')
    prefix = multilingual.envs / "work"
    assert shown.split() == [str(prefix), f"{prefix}/share/whereami", f"{prefix}/bin/whereami"]


def test_compiled_kernel_runs_in_its_environment(multilingual: Machine) -> None:
    prefix = multilingual.envs / "work"
    with started(multilingual, "work-compiled") as kernel:
        assert kernel.manager.provisioner.process.wait(30) == 0  # type: ignore[union-attr]
        assert str(prefix) in kernel.log.splitlines()


def test_kernel_starts_as_the_environment_says_by_then(multilingual: Machine) -> None:
    """The variables, the scripts, and the kernelspec have changed since the kernel was registered."""
    prefix = multilingual.envs / "work"
    spec, state = prefix / "share/jupyter/kernels/compiled/kernel.json", prefix / "conda-meta/state"
    script = prefix / "etc/conda/activate.d/new.sh"
    before = spec.read_bytes(), state.read_bytes()
    fields = {**json.loads(before[0]), "argv": ["env"], "env": {"SPEC": "$QUOTED new", "OMP": "4"}}
    spec.write_text(json.dumps(fields))
    state.write_text('{"version": 1, "env_vars": {"NEW": "1"}}')
    script.write_text("export SCRIPT=$NEW\n")
    copy = shutil.copytree(kernels_dir(multilingual) / "work-compiled", kernels_dir(multilingual) / "mine")
    copied = {**json.loads((copy / "kernel.json").read_text()), "env": {"OMP": "8"}}
    (copy / "kernel.json").write_text(json.dumps(copied))
    shown = {}
    try:
        for name in ("work-compiled", "mine"):
            with started(multilingual, name, {"QUOTED": "Jupyter's", "OMP": "1"}) as kernel:
                assert kernel.manager.provisioner.process.wait(30) == 0  # type: ignore[union-attr]
                shown[name] = {*kernel.log.splitlines()}
    finally:
        shutil.rmtree(copy)
        spec.write_bytes(before[0])
        state.write_bytes(before[1])
        script.unlink()
    assert {"NEW=1", "SCRIPT=1", "SPEC=Jupyter's new", "QUOTED=Jupyter's"} <= shown["work-compiled"] & shown[
        "mine"
    ]
    assert "OMP=4" in shown["work-compiled"]
    assert "OMP=8" in shown["mine"], "the user's copy of the registered kernel overrides what it has set"


def test_notebook_runs_in_its_environment(multilingual: Machine) -> None:
    cells = ["import os, sys\nhere = sys.prefix", "print(here, os.environ['WHEREAMI_HOME'])"]
    prefix = multilingual.envs / "work"
    assert nbconvert(multilingual, "work-python3", cells) == ["", f"{prefix} {prefix}/share/whereami\n"]


@pytest.fixture(scope="module")
def lab(multilingual: Machine) -> Iterator[str]:
    with jupyterlab(multilingual) as address:
        yield address


def test_jupyterlab_lists_registered_kernels(lab: str) -> None:
    specs = get(f"{lab}/api/kernelspecs")["kernelspecs"]
    assert specs["work-python3"]["spec"]["display_name"] == "Python (work)"
    assert specs["work-bash"]["spec"]["language"] == "bash"
    assert "logo-svg" in specs["work-python3"]["resources"]
    assert {"work-python3", "work-bash", "work-compiled"} <= set(specs)


@pytest.mark.skipif(not shutil.which("chromium"), reason="chromium is not installed")
def test_jupyterlab_launcher_shows_registered_kernels(lab: str, multilingual: Machine) -> None:
    page = launcher_page(lab, multilingual.home / "chromium")
    for name in ("Python (work)", "Bash (work)", "C (work)"):
        assert f'title="{name}"' in page


# --- names ------------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("JUPYTER_DATA_DIR", "XDG_DATA_HOME", "XDG_STATE_HOME", "SNAPPER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


PY = Kernel("py", "Python", "python")


def digest(environment: str, kernel: str) -> str:
    """Return what a kernel's name ends in if it could also be that of another kernel."""
    return hashlib.sha256(f"{environment}/{kernel}".encode()).hexdigest()[:16]


def register_names(prefix: Path, environment: str, shipped: list[Kernel]) -> list[tuple[str, str]]:
    """Register kernels of an environment that does not exist; return their names and display names."""
    registered = kernels.Registrar().register_pending(prefix, environment, shipped)
    return [(kernel.name, kernel.display_name) for kernel in registered]


def test_names_follow_the_templates_in_settings(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SNAPPER_KERNEL_NAME", "snapper.{language}.{env}")
    monkeypatch.setenv("SNAPPER_KERNEL_DISPLAY_NAME", "{env} | {kernel}")
    names = register_names(
        home / "envs/Über", "Über", [Kernel("ir", "R 4.4", "R"), Kernel("x", "R too", "R")]
    )
    assert names == [
        (f"snapper.r.-ber-{digest('Über', 'ir')}", "Über | R 4.4"),
        (f"snapper.r.-ber-{digest('Über', 'x')}", "Über | R too"),
    ]


def test_names_are_unique(home: Path) -> None:
    """This includes kernels and environments that differ only in case, and kernels with one display name."""
    two = [Kernel("Py", "First", "python"), Kernel("py", "Second", "python")]
    named = [(f"a-py-{digest('a', 'Py')}", "First (a)"), ("a-py", "Second (a)")]
    assert register_names(home / "envs/a", "a", two) == named
    other = [(f"a-py-{digest('A', 'Py')}", "Python (A)")]
    assert register_names(home / "envs/A", "A", two[:1]) == other
    assert register_names(home / "envs/a", "a", two) == named
    same = [Kernel("x", "Same", "c"), Kernel("y", "Same", "c")]
    assert [shown for _, shown in register_names(home / "envs/s", "s", same)] == ["Same (s) x", "Same (s) y"]


def add_kernelspec(directory: Path, name: str) -> None:
    """Add a kernel that snapper has not registered."""
    (directory / name).mkdir(parents=True)
    (directory / name / "kernel.json").write_text(
        '{"argv": ["true"], "display_name": "T", "language": "text"}'
    )


def test_names_of_other_kernels_are_not_used(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever Jupyter finds them, and with whatever case; Jupyter always has a kernel `python3`."""
    add_kernelspec(home / ".local/share/jupyter/kernels", "A-Py")
    add_kernelspec(home / "more/kernels", "b-PY")
    add_kernelspec(home / "miniforge3/share/jupyter/kernels", "c-py")
    add_kernelspec(home / "server/share/jupyter/kernels", "d-py")
    (home / "server/bin").mkdir()
    (home / "server/bin/jupyter").write_text("#!/bin/sh\n")
    (home / "server/bin/jupyter").chmod(0o755)
    monkeypatch.setenv("JUPYTER_PATH", str(home / "more"))
    monkeypatch.setenv("PATH", f"{home}/server/bin:{os.environ['PATH']}")
    for environment in ("a", "b", "c", "d"):
        (registered,) = kernels.Registrar().register_pending(home / "envs" / environment, environment, [PY])
        name = f"{environment}-py-{digest(environment, 'py')}"
        assert (registered.name, registered.instead_of) == (name, f"{environment}-py")
    monkeypatch.setenv("SNAPPER_KERNEL_NAME", "{env}")
    assert register_names(home / "envs/python3", "python3", [PY])[0][0].startswith("python3-")


def test_registered_kernels_keep_names_that_appear_elsewhere(home: Path) -> None:
    """Notebooks refer to them, and Jupyter looks in the user's own directory first."""
    registered = register_names(home / "envs/a", "a", [PY])
    add_kernelspec(home / "miniforge3/share/jupyter/kernels", "a-py")
    assert register_names(home / "envs/a", "a", [PY]) == registered
    shutil.rmtree(home / ".local/share/jupyter/kernels/a-py")
    assert register_names(home / "envs/a", "a", [PY])[0][0] == f"a-py-{digest('a', 'py')}"


def test_kernels_of_a_restored_base_take_no_names(home: Path) -> None:
    """Whoever published it must not get the names of other environments' kernels."""
    add_kernelspec(home / "miniforge3/share/jupyter/kernels", "a-py")
    for directory in ("conda-meta", ".snapper"):
        (home / "miniforge3" / directory).mkdir()
    assert register_names(home / "envs/a", "a", [PY])[0][0] == "a-py"


@pytest.mark.parametrize(
    "template", ["{env}-{kernel}", "{kernel}.{env}", "{env}{kernel}", "{env}", "k-{env}-{language}"]
)
def test_names_of_environments_never_depend_on_their_order(
    home: Path, template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is restored first, no kernel gets a name that one of another environment would have."""
    monkeypatch.setenv("SNAPPER_KERNEL_NAME", template)
    shipped = {
        "team": ["gpu-python3", "x", f"x-{digest('team-gpu', 'x')}"],
        "team-gpu": ["python3", "x", digest("Team-gpu", "python3")],
        "Team-gpu": ["python3", "x"],
        "team+gpu": ["python3", "x"],
        "team.gpu": ["python3", "x"],
        "tea": ["m-gpu-python3", "mx"],
    }

    def named(environments: Iterable[str]) -> dict[str, list[str]]:
        shutil.rmtree(home / ".local", ignore_errors=True)
        return {
            environment: [
                name
                for name, _ in register_names(
                    home / environment,
                    environment,
                    [Kernel(name, name, name) for name in shipped[environment]],
                )
            ]
            for environment in environments
        }

    names = named(shipped)
    assert named(reversed(shipped)) == names
    assert len({name for several in names.values() for name in several}) == sum(map(len, shipped.values()))
    if template == "{env}-{kernel}":
        assert names["team-gpu"][:2] == ["team-gpu-python3", "team-gpu-x"]


#: Literal text of templates, and what names of environments and kernels are made of.
TEXTS = ("", "-", ".", " ", "x", "Snap-", "é-")


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    fields=st.permutations(["{env}", "{kernel}", "{language}"]).flatmap(
        lambda all_: st.integers(all_.index("{env}") + 1, 3).map(lambda count: all_[:count])
    ),
    texts=st.lists(st.sampled_from(TEXTS), min_size=4, max_size=4),
    environments=st.lists(
        st.text("aB1-._+é", min_size=1, max_size=4).filter(is_valid_name), min_size=2, max_size=2, unique=True
    ),
    kernel=st.text("aB1-._+é ", min_size=1, max_size=4),
    language=st.sampled_from(["", "R", "c", "a-b", "é"]),
)
def test_names_that_the_template_gives_are_kept_for_their_environments(
    home: Path, fields: list[str], texts: list[str], environments: list[str], kernel: str, language: str
) -> None:
    """An environment that carries kernelspecs by such names does not get them, even if it is restored first."""
    text = "".join(
        text + field for text, field in zip_longest(texts[: len(fields) + 1], fields, fillvalue="")
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SNAPPER_KERNEL_NAME", text)
        names = KernelNames()
    first, second = environments
    expected = [named.name for named in names.choose(first, [Kernel(kernel, "x", language)] * 3)]
    carried = [Kernel(name, "x", "x") for name in expected]
    for named in names.choose(second, carried, carried=range(len(carried))):
        assert not named.claims or named.name not in expected


def test_registered_kernels_keep_their_names(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Earlier versions gave other names; notebooks refer to them. A new template gives new ones."""
    top = home / ".local/share/jupyter/kernels"
    ((name, _),) = register_names(home / "envs/Work", "Work", [PY])
    for earlier in ("work-py", "work-py-2"):
        text = (top / name / "kernel.json").read_text().replace(f"/{name}/", f"/{earlier}/")
        (top / name / "kernel.json").write_text(text)
        (top / name).rename(top / earlier)
        name = earlier
        ((kept, _),) = register_names(home / "envs/Work", "Work", [PY])
        assert kept == earlier
    monkeypatch.setenv("SNAPPER_KERNEL_NAME", "new-{env}")
    ((changed, _),) = register_names(home / "envs/Work", "Work", [PY])
    assert changed.startswith("new-work-")


def test_display_names_cannot_hide_the_environment(home: Path) -> None:
    """Languages and display names may be long, and contain spaces and characters that cannot be seen."""
    hiding = [
        Kernel(
            "a", "x" * 10_000, "Python 3 (ipykernel)\u202e\n\u3164\u115f\u1160\uffa0\u2800" + " " * 300 + "x"
        ),
        Kernel("b", "B", "\x1b[2J"),
    ]
    (first, second) = register_names(home / "envs/work", "work", hiding)
    assert first == ("work-a", "Python 3 (ipykernel) x (work)")
    assert second == ("work-b", "[2J (work)")
    same = [Kernel(name, "Same\u200b", "c") for name in ("x" * 250, "x" * 251)]
    names = register_names(home / "envs/work", "work", same)
    assert len({name for name, _ in names}) == 2
    assert all(len(name) < 230 and len(shown) < 100 for name, shown in names)


def test_kernel_with_another_name_is_reported(machine: Machine) -> None:
    add_kernel(make_data(machine.envs / "one"), "text", argv=["true"], display_name="T", language="text")
    machine.run_json("pack", "one")
    add_kernelspec(kernels_dir(machine), "one-text")
    name = f"one-text-{digest('one', 'text')}"
    told = f"Text (one), as {name}: another kernel has, or could get, the name one-text\n"
    assert f"  kernel: {told}" in machine.snapper("restore", "one").out
    assert machine.snapper("kernels", "register", "one").out == f"one: {told}"
    (restored,) = machine.run_json("restore", "one")["restored"]
    assert [kernel["instead_of"] for kernel in restored["kernels"]] == ["one-text"]


def test_kernels_are_removed_with_their_environments(machine: Machine) -> None:
    """They are removed even if the environment no longer ships them. The user's own kernels stay."""
    for name in ("one", "two"):
        prefix = make_data(machine.envs / name)
        for kernel in ("text", "more"):
            add_kernel(prefix, kernel, argv=["true"], display_name=kernel, language=kernel)
        machine.run_json("pack", name)
    machine.run_json("restore", "--all")
    own = kernels_dir(machine) / "own"
    own.mkdir()
    (own / "kernel.json").write_text('{"argv": ["true"], "display_name": "own", "language": "text"}')

    def registered() -> set[str]:
        return {file.name for file in kernels_dir(machine).iterdir()}

    assert registered() == {"one-text", "one-more", "two-text", "two-more", "own"}
    shutil.rmtree(machine.envs / "one/share/jupyter/kernels/more")
    machine.run_json("kernels", "register", "one")
    assert registered() == {"one-text", "two-text", "two-more", "own"}
    shutil.rmtree(machine.envs / "two")
    (machine.store / "environments/two.json").unlink()
    around = machine.envs.with_name(
        f".{machine.envs.name}.snapper"
    )  # as if the directory were being replaced
    around.mkdir(mode=0o700)
    assert machine.run_json("restore", "--all")["removed_kernels"] == []
    around.rmdir()
    document = machine.run_json("restore", "--all")
    assert sorted(document["removed_kernels"]) == ["two-more", "two-text"]
    assert registered() == {"one-text", "own"}
    hint = machine.expect_error(10, "kernels", "remove", "own")["hint"]
    assert hint == "Did you mean 'one'? Kernels are registered for: one."
    machine.run_json("kernels", "remove", "one")
    assert registered() == {"own"}
    assert (machine.envs / "one" / "conda-meta").is_dir()


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (("pack", "one"), 0),
        (("restore", "one", "--replace"), 0),
        (("restore", "--all"), 0),
        (("restore", "--all", "--except", "*"), 10),
        (("restore", "--all", "--store", "/nonexistent/store"), 13),
        (("kernels", "register", "one"), 0),
    ],
)
def test_kernels_are_updated(machine: Machine, command: tuple[str, ...], code: int) -> None:
    """The user has changed, removed, and added kernels in the environment; nothing need be restored."""
    prefix = make_data(machine.envs / "one")
    if "--replace" in command:  # the store has the kernels that are to be registered
        add_kernel(prefix, "new", argv=["true"], display_name="N", language="new")
        add_kernel(prefix, "text", argv=["true"], display_name="T", language="text", interrupt_mode="message")
        machine.run_json("pack", "one")
    for name in ("text", "old"):
        add_kernel(prefix, name, argv=["true"], display_name=name, language=name)
    machine.run_json("kernels", "register", "one")
    assert {path.name for path in kernels_dir(machine).iterdir()} >= {"one-text", "one-old"}
    if "--replace" not in command:
        machine.run_json("pack", "one")
        (kernels_dir(machine) / "one-text/command.sh").write_text("export TOKEN=1")  # as 0.1.0 wrote it
        shutil.rmtree(prefix / "share/jupyter/kernels/old")
        add_kernel(prefix, "new", argv=["true"], display_name="N", language="new")
        add_kernel(prefix, "text", argv=["true"], display_name="T", language="text", interrupt_mode="message")
    assert machine.snapper(*command).code == code
    fields = json.loads((kernels_dir(machine) / "one-text/kernel.json").read_text())
    assert fields["interrupt_mode"] == "message"
    assert {path.name for path in kernels_dir(machine).iterdir()} == {"one-text", "one-new"}
    assert not (kernels_dir(machine) / "one-text/command.sh").exists()


def test_packing_registers_kernels_of_known_environments(machine: Machine) -> None:
    """Those of one that is packed the first time may be registered otherwise, or not be wanted."""
    prefix = make_data(machine.envs / "one")
    add_kernel(prefix, "text", argv=["true"], display_name="T", language="text")
    assert machine.run_json("pack", "one")["registered"] == []
    shutil.rmtree(prefix / "share/jupyter")
    machine.run_json("pack", "one")
    shutil.rmtree(prefix)
    machine.run_json("restore", "one")
    add_kernel(prefix, "text", argv=["true"], display_name="T", language="text")
    (kernel,) = machine.run_json("pack", "one")["registered"]
    assert kernel["name"] == "one-text"
    assert (kernels_dir(machine) / "one-text").is_dir()


def test_packing_does_not_move_kernels_from_another_environment(machine: Machine) -> None:
    """An environment is packed under the name of one that is on this machine, too, and has registered kernels."""
    for name in ("team", "exp"):
        add_kernel(make_data(machine.envs / name), "text", argv=["true"], display_name="T", language="text")
    machine.run_json("pack", "team")
    machine.run_json("kernels", "register", "team")
    launcher_before = (kernels_dir(machine) / "team-text/launch.sh").read_text()
    for _ in range(2):
        assert machine.run_json("pack", "exp", "--name", "team")["registered"] == []
    assert (kernels_dir(machine) / "team-text/launch.sh").read_text() == launcher_before


def test_packing_names_kernels_that_it_adds_and_removes(machine: Machine) -> None:
    """A kernel whose kernelspec cannot be read at the moment stays registered."""
    prefix = make_data(machine.envs / "one")
    for name in ("text", "old", "broken"):
        add_kernel(prefix, name, argv=["true"], display_name=name, language=name)
    machine.run_json("kernels", "register", "one")
    add_kernel(prefix, "new", argv=["true"], display_name="N", language="new")
    shutil.rmtree(prefix / "share/jupyter/kernels/old")
    (prefix / "share/jupyter/kernels/broken/kernel.json").write_text("{")
    told = machine.snapper("pack", "one").err
    assert "kernel added to Jupyter: New (one), as one-new" in told
    assert "kernel removed from Jupyter: Old (one), as one-old" in told
    assert {path.name for path in kernels_dir(machine).iterdir()} == {"one-text", "one-new", "one-broken"}


def test_kernels_registered_inside_of_an_environment_are_not_its_own(machine: Machine) -> None:
    """Jupyter's data directory is in the environment."""
    prefix = make_data(machine.envs / "one")
    add_kernel(prefix, "text", argv=["true"], display_name="T", language="text")
    for _ in range(2):
        for command in (("kernels", "register", "one"), ("pack", "one")):
            machine.snapper(*command, JUPYTER_DATA_DIR=str(prefix / "share/jupyter"))
    assert sorted(os.listdir(prefix / "share/jupyter/kernels")) == ["one-text", "text"]


def test_kernels_that_users_changed_are_theirs(machine: Machine) -> None:
    """Restores keep copies of registered kernels, changes, and files that the user has put beside them."""
    prefix = make_data(machine.envs / "one")
    for name in ("text", "more"):
        add_kernel(prefix, name, argv=["true"], display_name=name, language=name)
    machine.run_json("pack", "one")
    machine.run_json("restore", "one")
    registered, more = kernels_dir(machine) / "one-text", kernels_dir(machine) / "one-more"
    copies = [shutil.copytree(registered, kernels_dir(machine) / name) for name in ("gpu", "one-gpu")]
    fields = json.loads((registered / "kernel.json").read_text())
    for directory in (registered, copies[0]):
        text = json.dumps({**fields, "env": {"CUDA_VISIBLE_DEVICES": "1"}})
        (directory / "kernel.json").write_text(text)
    (more / "notes.txt").write_text("mine")
    before = [tree_of(directory) for directory in copies]
    (prefix / "share/jupyter/kernels/text/kernel.json").write_text(
        json.dumps({"argv": ["false"], "display_name": "text", "language": "text"})
    )
    shutil.rmtree(prefix / "share/jupyter/kernels/more")
    outcome = machine.snapper("restore", "--all")
    assert "with your changes to its kernel.json" in outcome.out
    assert [tree_of(directory) for directory in copies] == before
    assert (registered / "kernel.json").read_text() == text
    assert launch(registered).command == ["false"]
    assert launch(registered, CUDA_VISIBLE_DEVICES="1").variables["CUDA_VISIBLE_DEVICES"] == "1"
    assert [file.name for file in more.iterdir()] == ["notes.txt"]
    shutil.rmtree(prefix)
    (machine.store / "environments/one.json").unlink()
    machine.run_json("restore", "--all")
    assert [tree_of(directory) for directory in copies] == before
    assert (registered / "kernel.json").read_text() == text


def test_logos_that_users_changed_are_theirs(machine: Machine) -> None:
    """Those of the environment come and go with it."""
    prefix = make_data(machine.envs / "one")
    shipped = add_kernel(prefix, "text", argv=["true"], display_name="T", language="text")
    registered = kernels_dir(machine) / "one-text"

    def logos() -> dict[str, str]:
        return {path.name: path.read_text() for path in registered.glob("*-*.*")}

    for name in ("logo-32x32.png", "logo-64x64.png"):
        (shipped / name).write_text("shipped")
    machine.run_json("kernels", "register", prefix)
    assert logos() == {"logo-32x32.png": "shipped", "logo-64x64.png": "shipped"}
    (registered / "logo-64x64.png").write_text("mine")
    (registered / "logo-svg.svg").symlink_to(machine.home / "mine.svg")
    (machine.home / "mine.svg").write_text("mine")
    (shipped / "logo-32x32.png").write_text("changed")
    (shipped / "logo-svg.svg").write_text("shipped")
    for _ in range(2):
        machine.run_json("kernels", "register", prefix)
        assert logos() == {
            "logo-32x32.png": "changed",
            "logo-64x64.png": "mine",
            "logo-svg.svg": "mine",
        }
    (shipped / "logo-32x32.png").unlink()
    machine.run_json("kernels", "register", prefix)
    kept = {"logo-64x64.png": "mine", "logo-svg.svg": "mine"}
    assert logos() == kept
    machine.run_json("kernels", "remove", "one")
    assert (logos(), len([*registered.iterdir()])) == (kept, 2)
    machine.run_json("kernels", "register", prefix)
    assert logos() == kept
    assert (registered / "launch.sh").exists()


def test_files_of_registered_kernels_are_private(machine: Machine) -> None:
    """The publisher chose what is beside a kernelspec: it may be a link, or get a secret later."""
    prefix = make_data(machine.envs / "one")
    kernel = add_kernel(prefix, "text", argv=["true"], display_name="T", language="text")
    (prefix / "conda-meta/state").write_text('{"env_vars": {"TOKEN": "s3cret"}}')
    (prefix / "conda-meta/state").chmod(0o600)
    (kernel / "logo-svg.svg").symlink_to("../../../../conda-meta/state")
    os.link(prefix / "conda-meta/state", kernel / "kernel.css")
    (kernel / "logo-64x64.png").write_bytes(b"PNG")
    machine.snapper("kernels", "register", "one")
    registered = kernels_dir(machine) / "one-text"
    files = {file.name: file.stat().st_mode & 0o077 for file in registered.iterdir()}
    assert {name for name, mode in files.items() if mode} <= {"launch.sh"}
    assert {"logo-64x64.png", "kernel.css"} <= files.keys()
    assert "logo-svg.svg" not in files


def test_environment_without_a_kernel_gets_a_hint(machine: Machine) -> None:
    make_data(machine.envs / "data")
    machine.run_json("pack", "data")
    shutil.rmtree(machine.envs / "data")
    outcome = machine.snapper("restore", "--all")
    assert outcome.code == 0
    assert "no kernel found. Install one with: conda install -n data ipykernel" in outcome.out
    (machine.envs / "data/conda-meta/r-base-4.4.2-h123_0.json").write_text("{}")
    assert kernels.install_hint(machine.envs / "data") == "conda install -n data r-irkernel"
    assert machine.snapper("kernels", "register", "data").code == 3


def test_waiting_file_keeps_its_format(home: Path) -> None:
    """Launchers that earlier versions registered read it line by line."""
    notice = WaitingNotice(
        "restoring", os.getpid(), process_start_time(os.getpid()), "41%\nof 3 MB", "/the/log"
    )
    write_notice("work", notice)
    process = f"{os.getpid()} {process_start_time(os.getpid())}"
    assert waiting_file("work").read_text() == f"restoring\n{process}\n41% of 3 MB\n/the/log\n"
    assert is_being_restored("work")
    write_notice("work", replace(notice, condition="failed"))
    assert not is_being_restored("work")
    waiting_file("work").write_text("restoring\n")
    assert read_notice("work") is None
    assert not is_being_restored("work")


# --- the launcher -----------------------------------------------------------------------------------------


@pytest.fixture
def launched(tmp_path: Path) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """Return a function that runs an environment's launcher in a shell on a system without bash."""
    prefix = tmp_path / "envs" / "it's"
    (prefix / "conda-meta").mkdir(parents=True)
    scripts = prefix / "etc/conda/activate.d"
    scripts.mkdir(parents=True)
    for name in ("z", "B", "a b"):
        (scripts / f"{name}.sh").write_text(f'ORDER="${{ORDER:-}}{name},"; export ORDER\n')
    leave = prefix / "etc/conda/deactivate.d"
    leave.mkdir()
    for name in ("1", "2", "3"):
        (leave / f"{name}.sh").write_text(f'LEFT="${{LEFT:-}}{name}"; export LEFT\n')
    programs = tmp_path / "bin"
    programs.mkdir()
    for program in ("awk", "env", "head", "readlink", "touch", "sleep"):
        (programs / program).symlink_to(shutil.which(program) or "")
    kernel = tmp_path / "kernel"
    kernel.mkdir()
    condabin = tmp_path / "conda/condabin"
    condabin.mkdir(parents=True)
    waiting, used = tmp_path / "waiting", tmp_path / "used"
    target = launcher.LaunchTarget(
        "it's",
        prefix,
        "share/kernel",
        Access(()),
        CondaCommands(str(tmp_path / "conda"), str(condabin)),
        waiting,
        used,
        ("connection_file", "prefix"),
    )
    script = launcher.render_launch_script(target).replace(launcher.SYSTEM_PATH, "/nonexistent")
    (kernel / LAUNCH_SCRIPT).write_text(script)
    argv = [
        sys.executable, "-I", "-S", "-c",
        "import os, sys, json; print(json.dumps([sys.argv[1:], dict(os.environ)]))",
        "--f={connection_file}", "a 'b' $c", "", "{unknown} {prefix}",
    ]  # fmt: skip
    own = {"OWN": "it's", "ORDER": "first,", "REFERS": "$LC_ALL ${NONE} $$", "no name": "x", "NUMBER": 5}
    (prefix / "share/kernel").mkdir(parents=True)
    spec = json.dumps({"argv": argv, "display_name": "K", "language": "k", "env": own})
    (prefix / "share/kernel/kernel.json").write_text(spec)

    def run(shell: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        program = [shutil.which(shell) or "", *(["sh"] if shell == "busybox" else [])]
        return subprocess.run(
            [*program, "-u", kernel / LAUNCH_SCRIPT, *arguments],
            env={"PATH": str(programs), **variables},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    yield run


@pytest.mark.parametrize("shell", SHELLS)
def test_launcher_activates_in_every_shell(
    launched: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path, shell: str
) -> None:
    """With `set -u`, without and with another activated environment, and in any locale."""
    prefix = tmp_path / "envs" / "it's"
    done = launched(shell, "/c.json", "f={f}", "prefix=/usr", "--", "--more", LC_ALL="C.UTF-8")
    assert done.returncode == 0, done.stderr
    arguments, variables = json.loads(done.stdout)
    assert arguments == ["--f=/c.json", "a 'b' $c", "", "{unknown} /usr", "--more"]
    assert (variables["ORDER"], variables["OWN"]) == ("first,B,a b,z,", "it's")
    assert variables["REFERS"] == "C.UTF-8 ${NONE} $"
    assert variables["PATH"] == f"{prefix}/bin:{tmp_path}/conda/condabin:{tmp_path}/bin"
    assert (variables["CONDA_SHLVL"], variables["CONDA_PREFIX"], variables["LC_ALL"]) == (
        "1",
        str(prefix),
        "C.UTF-8",
    )
    assert "CONDA_PREFIX_0" not in variables
    assert (tmp_path / "used").exists()

    # as if the user had changed the registered kernel
    (tmp_path / "kernel/kernel.json").write_text('{"env": {"ORDER": "", "OWN": 1}}')
    by_jupyter = {**variables, "ORDER": "set,", "OWN": "other"}
    again = launched(shell, "/c.json", f"registered={tmp_path}/kernel", "--", **by_jupyter)
    _, twice = json.loads(again.stdout)
    assert (twice["ORDER"], twice["OWN"]) == ("set,B,a b,z,", "it's")
    arguments, former = json.loads(launched(shell, "/c.json", "/old", **by_jupyter).stdout)
    assert arguments == ["--f=/c.json", "a 'b' $c", "", "{unknown} /old"]
    assert (former["ORDER"], former["OWN"]) == ("set,B,a b,z,", "other"), "as earlier versions started it"
    assert (twice["CONDA_SHLVL"], twice["PATH"]) == ("1", variables["PATH"])
    assert twice["LEFT"] == "321"
    assert "LEFT" not in variables
    assert "CONDA_PREFIX_1" not in twice

    strange = launched(shell, "/c.json", CONDA_SHLVL="none", CONDA_PREFIX="/gone")
    _, variables = json.loads(strange.stdout)
    assert variables["CONDA_SHLVL"] == "1"


#: Other programs than the system's awk, which all shells run.
AWKS = [name for name in ("gawk", "original-awk", "busybox") if shutil.which(name)]


@pytest.mark.parametrize(
    ("shell", "awk"), [*((shell, "awk") for shell in SHELLS), *(("bash", awk) for awk in AWKS)]
)
def test_launcher_reads_the_environment_each_time(
    launched: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path, shell: str, awk: str
) -> None:
    """Variables that have been unset or removed are not exported any more."""
    (tmp_path / "bin/awk").unlink()
    (tmp_path / "bin/awk").symlink_to(shutil.which(awk) or "")
    prefix = tmp_path / "envs/it's"
    variables_d, state = prefix / "etc/conda/env_vars.d", prefix / "conda-meta/state"
    variables_d.mkdir()
    (variables_d / "b.json").write_text('{\n "A": "b",\n "B": "b",\n "N": 1,\n "U": "u"\n}\n')
    (variables_d / "a.json").write_text('{"A": "a", "C": "\\u00e9\\ud83d\\ude00\\n\\/\\"\\\\"}')
    (variables_d / ".c.json").write_text('{"HIDDEN": "x"}')
    state.write_text('{"version": 1, "env_vars": {"TOKEN": "it\'s", "U": "***unset***", "BAD": "\\ud800"}}')

    def exported() -> dict[str, str]:
        done = launched(shell, "/c.json")
        assert done.returncode == 0, done.stderr
        variables = json.loads(done.stdout)[1]
        return {
            name: variables[name] for name in ("A", "B", "C", "U", "N", "TOKEN", "BAD") if name in variables
        }

    assert exported() == {"A": "b", "B": "b", "C": 'é😀\n/"\\', "TOKEN": "it's"}
    state.write_text('{"version": 1, "env_vars": {"A": "state"}}')
    (variables_d / "b.json").unlink()
    assert exported() == {"A": "state", "C": 'é😀\n/"\\'}
    shutil.rmtree(variables_d)
    for text in (
        "",
        "{}",
        '{"env_vars": 1}',
        '{"env_vars": {"A": "1"}',
        '[{"env_vars": {"A": "1"}}]',
        "\0",
        "\1",
    ):
        state.write_text(text)
        assert exported() == {}
    state.unlink()
    assert exported() == {}

    spec = prefix / "share/kernel/kernel.json"
    spec.write_text("\ufeff" + json.dumps({"argv": ["own", "{connection_file}"], "env": {"A": "spec"}}))
    (prefix / "bin").mkdir()
    (prefix / "bin/own").write_text('#!/bin/sh\necho "$0" "$@" "$A" "${OWN-none}"\n')
    (prefix / "bin/own").chmod(0o755)
    assert launched(shell, "/c.json").stdout == f"{prefix}/bin/own /c.json spec none\n"
    for text in (
        '{"argv": []}',
        '{"argv": ["own", 1]}',
        '{"argv": ["own", ["x"]]}',
        '{"argv": ["-c", "x"]}',
        "{",
    ):
        spec.write_text(text)
        done = launched(shell, "/c.json")
        assert (done.returncode, done.stdout) == (1, "")
        assert f"{spec} is not a kernelspec that can be used" in done.stderr
    (tmp_path / "bin/awk").unlink()
    assert "the program awk was not found" in launched(shell, "/c.json").stderr
    exchange = prefix / ".swap.snapper/entering_1"
    exchange.mkdir(parents=True)
    assert "the restore of it's was interrupted" in launched(shell, "/c.json").stderr
    exchange.rmdir()
    spec.unlink()
    assert "it's no longer has this kernel" in launched(shell, "/c.json").stderr


def test_programs_of_a_restored_base_are_not_on_the_path(
    launched: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """Only `%conda` runs its conda: whoever publishes it must not run programs in kernels of other environments."""
    (tmp_path / "conda/.snapper").mkdir()
    (tmp_path / "conda/bin").mkdir()
    (tmp_path / "conda/bin/conda").touch(mode=0o755)
    _, variables = json.loads(launched("dash", "/c.json").stdout)
    assert variables["PATH"] == f"{tmp_path}/envs/it's/bin:{tmp_path}/bin"
    assert variables["CONDA_EXE"] == f"{tmp_path}/conda/bin/conda"


def test_launcher_runs_programs_of_the_system(
    launched: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """Whatever else is first in PATH, while it waits and before it activates the environment; the kernel uses PATH."""
    script = tmp_path / "kernel" / LAUNCH_SCRIPT
    on_nixos = script.read_text()
    script.write_text(on_nixos.replace("/nonexistent", launcher.SYSTEM_PATH))
    base = tmp_path / "base"
    base.mkdir()
    for name in ("bash", "ls", "touch", "sleep"):
        (base / name).write_text(f'#!/bin/sh\necho {name} >>{tmp_path}/ran\nexec /usr/bin/{name} "$@"\n')
        (base / name).chmod(0o755)
    conda_meta, start = tmp_path / "envs/it's/conda-meta", process_start_time(os.getpid())
    (tmp_path / "waiting").write_text(f"restoring\n{os.getpid()} {start}\n41% of 3 MB\n\n")
    for text in (script.read_text(), on_nixos):
        script.write_text(text)
        conda_meta.rename(tmp_path / "hidden")
        timer = threading.Timer(0.5, (tmp_path / "hidden").rename, [conda_meta])
        timer.start()
        done = launched("dash", "/c.json", PATH=f"{base}:/usr/bin")
        timer.join()
        assert json.loads(done.stdout)[1]["PATH"].endswith(f"/conda/condabin:{base}:/usr/bin"), done.stderr
        assert (tmp_path / "used").exists()
        assert (tmp_path / "ran").exists() == (text is on_nixos)
        (tmp_path / "used").unlink()
    assert set((tmp_path / "ran").read_text().split()) == {"bash", "touch", "sleep"}


@pytest.mark.parametrize("shell", SHELLS)
def test_launcher_says_why_the_environment_is_missing(
    launched: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path, shell: str
) -> None:
    """The restore failed, was interrupted, or was never started."""
    shutil.rmtree(tmp_path / "envs")
    waiting = tmp_path / "waiting"
    done = launched(shell, "/c.json")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"it's does not exist at {tmp_path}/envs/it's" in done.stderr
    waiting.write_text("failed\n1 1\nnot enough space at /envs\n/the/log\n")
    done = launched(shell, "/c.json")
    assert done.returncode == 1
    assert "it's could not be restored: not enough space at /envs" in done.stderr
    assert "/the/log" in done.stderr
    assert "snapper restore it's" in done.stderr
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    own = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    for process in (f"{ended.pid} 12345", f"{os.getpid()} {int(own) + 1}", f"{ended.pid} "):
        waiting.write_text(f"restoring\n{process}\n41% of 3 MB\n\n")
        done = launched(shell, "/c.json")
        assert done.returncode == 1
        assert "the restore of it's was interrupted" in done.stderr
        assert "log" not in done.stderr


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("kind", ["pipe", "another user's pipe", "another user's file", "control characters"])
def test_launcher_ignores_waiting_files_that_are_not_snappers(
    launched: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path, shell: str, kind: str
) -> None:
    """Another user can be the first to create snapper's directory on a shared volume."""
    shutil.rmtree(tmp_path / "envs")
    waiting = tmp_path / "waiting"
    if kind.endswith("pipe"):
        os.mkfifo(waiting)
    else:
        waiting.write_text(f"failed\n1 1\n{chr(27)}]0;planted{chr(7)}\n/the/log\n")
    if kind.startswith("another"):
        if os.geteuid() != 0:
            pytest.skip("only root can give files to another user")
        os.chown(waiting, 54321, 54321)
    done = launched(shell, "/c.json")
    assert done.returncode == 1
    assert f"it's does not exist at {tmp_path}/envs/it's" in done.stderr
    assert "planted" not in done.stderr


def test_launcher_passes_shellcheck(tmp_path: Path) -> None:
    target = launcher.LaunchTarget(
        "a", tmp_path, "share/kernel", Access((0, 1)), CondaCommands(), tmp_path / "w", tmp_path / "u"
    )
    (tmp_path / "launch.sh").write_text(launcher.render_launch_script(target))
    done = subprocess.run(
        [shutil.which("shellcheck") or "shellcheck", tmp_path / "launch.sh"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
