"""Kernelspecs outside of an environment that start it are packed with it, and registered under their own names."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from scripts.maker import make
from snapper.environment.credential_forms import defines_secret, is_secret
from tests.conftest import Machine
from tests.support.environments import make_data
from tests.support.jupyter import kernels_dir, nbconvert, started
from tests.support.kernelspecs import add_kernel, launch
from tests.support.pip import python_of, run


@pytest.fixture
def work(machine: Machine) -> Path:
    """A small environment `work`, whose program `bin/run` counts as that of a kernel."""
    prefix = make_data(machine.envs / "work")
    program(prefix / "bin/run")
    return prefix


def program(file: Path, text: str = "#!/bin/sh\necho ran\n") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(0o755)
    return file


def add(directory: Path, *argv: object, **fields: object) -> None:
    """Write a kernelspec by hand."""
    directory.mkdir(parents=True, exist_ok=True)
    spec = {"argv": [*map(str, argv)], "display_name": directory.name, "language": "text", **fields}
    (directory / "kernel.json").write_text(json.dumps(spec))


def move(machine: Machine, *names: str, to: str = "elsewhere") -> Machine:
    """Pack environments, lose them and the user's home, and restore them in another one; return that machine."""
    for name in names:
        outcome = machine.snapper("pack", name)
        assert outcome.code == 0, outcome
    home = machine.home.parent / to
    other = Machine(home, home / "envs", machine.store)
    other.envs.mkdir(parents=True)
    shutil.rmtree(machine.home)
    outcome = other.snapper("restore", "--all")
    assert outcome.code == 0, outcome
    return other


def registered(machine: Machine) -> list[str]:
    return sorted(path.name for path in kernels_dir(machine).iterdir())


def test_notebook_that_names_the_users_kernel_runs(machine: Machine) -> None:
    make("tiny", machine.envs / "lab", bytecode=False)
    python = python_of(machine.envs / "lab")
    run(
        [python, "-W", "ignore"],
        ["-m", "ipykernel", "install", "--user", "--name", "work"],
        machine.home,
    )
    result = machine.run_json("pack", "lab")
    assert result["kernels"] == [{"name": "work", "path": str(kernels_dir(machine) / "work")}]
    other = move(machine, "lab")
    assert registered(other) == ["lab-python3", "work"]
    assert other.run_json("pack", "lab")["unchanged"]
    assert nbconvert(other, "work", ["import sys; print(sys.prefix)"]) == [f"{other.envs / 'lab'}\n"]


@pytest.mark.parametrize(
    "argv",
    [
        ["{bin}/run", "{connection_file}"],
        ["/usr/bin/env", "GREETING=hello", "{bin}/run", "{connection_file}"],
        ["/opt/conda/bin/conda", "run", "--no-capture-output", "-p", "{prefix}", "run", "{connection_file}"],
        ["conda", "run", "--name=work", "--live-stream", "run", "{connection_file}"],
        ["{resource_dir}/start-by-path", "{connection_file}"],
        ["bash", "-c", "exec {bin}/run"],
        ["{link}/bin/run", "{connection_file}"],
        ["{bin}/own-script", "{connection_file}"],
        ["{prefix}/lib/R/bin/R", "--slave", "-e", "IRkernel::main()", "--args", "{connection_file}"],
    ],
    ids=[
        "path",
        "env",
        "conda-p",
        "conda-n",
        "beside",
        "shell",
        "link",
        "own-script",
        "R",
    ],
)
def test_commands_that_start_the_environment(argv: list[str], work: Path, machine: Machine) -> None:
    directory = kernels_dir(machine) / "mine"
    (machine.home / "link").symlink_to(work)
    values = {
        "{bin}": work / "bin",
        "{prefix}": work,
        "{home}": machine.home,
        "{link}": machine.home / "link",
    }
    for name, value in values.items():
        argv = [word.replace(name, str(value)) for word in argv]
    add(directory, *argv)
    for place in (machine.home / "bin", directory):
        program(place / "start-by-path", f"#!/bin/sh\nexec {work}/bin/run\n")
    program(work / "lib/R/bin/R")
    program(work / "bin/own-script", f"#!/bin/sh\nexec {work}/bin/run\n")
    other = move(machine, "work")
    assert registered(other) == ["mine"]
    with started(other, "mine") as kernel:
        assert kernel.manager.provisioner.process.wait(30) == 0  # type: ignore[union-attr]
        assert kernel.log == "ran\n"
    carried = {path.name for path in (other.envs / "work/share/snapper/kernels/mine").iterdir()}
    assert carried <= {"kernel.json", "start-by-path"}


#: Further commands and variables with which a kernelspec starts the environment, and the command once it is restored.
UNUSUAL = {
    "bash": (["bash", "-c", "exec ~/envs/work/bin/run -f {connection_file}"], {}, "exec {prefix}/bin/run"),
    "home": (["bash", "-c", 'exec "$HOME/envs/work/bin/run"'], {}, '"{prefix}/bin/run"'),
    "module": (["python", "-m", "conda", "run", "-n", "work", "run", "x"], {}, "exec {prefix}/bin/run x"),
    "path": (
        ["run", "x"],
        {"PATH": "{prefix}/bin:/usr/bin:/bin"},
        "PATH={prefix}/bin:{prefix}/bin:/usr/bin:/bin",
    ),
    "variable": (["sh", "-c", "exec $CONDA_PREFIX/bin/run"], {"CONDA_PREFIX": "{prefix}"}, "={prefix}"),
    "relative": (["{resource_dir}/../../../../../envs/work/bin/run"], {}, "exec {prefix}/bin/run"),
    "beside": (
        ["{prefix}/bin/run", "{resource_dir}/data/file.json"],
        {"PYTHONPATH": "{kernels}/beside/data"},
        "exec {prefix}/bin/run {prefix}/share/snapper/kernels/beside/data/file.json",
    ),
    "work-mine": (["{prefix}/bin/run"], {}, "exec {prefix}/bin/run"),
    "sourced": (
        ["sh", "-c", ". {resource_dir}/env.sh; run"],
        {},
        ". {prefix}/share/snapper/kernels/sourced/env.sh",
    ),
}


def test_unusual_commands_that_start_the_environment(work: Path, machine: Machine) -> None:
    top = kernels_dir(machine)

    def fill(text: str) -> str:
        return text.replace("{prefix}", str(work)).replace("{kernels}", str(top))

    for name, (argv, variables, _) in UNUSUAL.items():
        env = {variable: fill(value) for variable, value in variables.items()}
        add(top / name, *map(fill, argv), env=env)
    (top / "beside/data").mkdir()
    (top / "beside/data/file.json").write_text("{}")
    (top / "sourced/env.sh").write_text("export PATH=$HOME/envs/work/bin:$PATH")
    (machine.home / "linked.json").write_bytes((top / "path/kernel.json").read_bytes())
    (top / "path/kernel.json").unlink()
    (top / "path/kernel.json").symlink_to(machine.home / "linked.json")
    (top / "bash/kernel.json").write_text(json.dumps({"argv": UNUSUAL["bash"][0]}))
    other = move(machine, "work")
    prefix = other.envs / "work"
    assert registered(other) == sorted(UNUSUAL)
    for name, (_, _, expected) in UNUSUAL.items():
        command, variables, _ = launch(kernels_dir(other) / name)
        text = "\n".join([f"exec {' '.join(command)}", *map("=".join, variables.items())])
        assert expected.replace("{prefix}", str(prefix)) in text
    assert (prefix / "share/snapper/kernels/beside/data/file.json").read_text() == "{}"
    assert (prefix / "share/snapper/kernels/sourced/env.sh").read_text() == f"export PATH={prefix}/bin:$PATH"


def test_files_that_a_kernelspec_does_not_use_are_not_carried(work: Path, machine: Machine) -> None:
    add(machine.home / "project", work / "bin/run", "-m", "mine")
    for name in ("customers.csv", "logo-64x64.png"):
        (machine.home / "project" / name).write_text("x")
    kernels_dir(machine).mkdir(parents=True)
    (kernels_dir(machine) / "mine").symlink_to(machine.home / "project")
    machine.run_json("pack", "work")
    names = {path.name for path in (work / "share/snapper/kernels/mine").iterdir()}
    assert names == {"kernel.json", "logo-64x64.png"}


def test_paths_that_only_begin_like_that_of_a_kernelspec_are_kept(work: Path, machine: Machine) -> None:
    """They name files of other kernelspecs, which are not carried with it, but reported."""
    top = kernels_dir(machine)
    add(top / "mine-too", "/usr/bin/true")
    for name in ("value.json", "word.json", "relative.json"):
        (top / "mine-too" / name).write_text("{}")
    words = [f"--config={top}/mine-too/word.json", "{resource_dir}/../mine-too/relative.json"]
    add(top / "mine", work / "bin/run", *words, env={"CONFIG": str(top / "mine-too/value.json")})
    (top / "mine/notes.txt").write_text("of no use to the kernel")
    names = [name for _, name, _ in withheld(machine)]
    assert sorted(names) == ["relative.json", "value.json", "word.json"]
    carried = work / "share/snapper/kernels/mine"
    assert [path.name for path in carried.iterdir()] == ["kernel.json"]
    spec = json.loads((carried / "kernel.json").read_text())
    assert spec["argv"] == ["run", words[0], str(top / "mine-too/relative.json")]
    assert spec["env"] == {"CONFIG": str(top / "mine-too/value.json")}
    (top / "mine/kernel.json").unlink()

    add(top / "script", "{resource_dir}/start")
    program(top / "script/start", f"#!/bin/sh\n. {top}/script-too/env.sh\nexec {work}/bin/run\n")
    assert withheld(machine) == []
    assert f"{top}/script-too/env.sh" in (work / "share/snapper/kernels/script/start").read_text()


def test_kernelspecs_are_found_wherever_jupyter_looks(work: Path, machine: Machine) -> None:
    """Those that start something else, and those of other users, are left alone."""
    path, root, project = machine.home / "path", machine.home / "miniforge3", machine.home / "project/.venv"
    add(path / "kernels/from-path", work / "bin/run")
    add(machine.home / ".ipython/kernels/from-ipython", work / "bin/run")
    (root / "condabin").mkdir(parents=True)
    (root / "conda-meta").mkdir()
    add(root / "share/jupyter/kernels/from-base", work / "bin/run")
    add(kernels_dir(machine) / "python3", work / "bin/run")
    add(kernels_dir(machine) / "system", "/usr/bin/python3")
    add(kernels_dir(machine) / "longer", f"{work}-2/bin/run")
    (kernels_dir(machine) / "broken").mkdir()
    (kernels_dir(machine) / "broken/kernel.json").write_text("{")
    program(project / "bin/jupyter")
    add(project / "share/jupyter/kernels/from-project", work / "bin/run")
    variables = {"JUPYTER_PATH": str(path), "PATH": f"{project}/bin:{os.environ['PATH']}"}
    result = machine.run_json("pack", "work", **variables)
    names = ["from-base", "from-ipython", "from-path", "from-project", "python3"]
    assert [kernel["name"] for kernel in result["kernels"]] == names


def test_kernelspecs_that_cannot_be_carried_are_named(work: Path, machine: Machine) -> None:
    top, start = (
        kernels_dir(machine),
        program(machine.home / "bin/start", f"#!/bin/sh\nexec {work}/bin/run\n"),
    )
    add(top / "script", start, "{connection_file}")
    add(top / "linked", work / "bin/run")
    (top / "linked/logo-64x64.png").symlink_to(start)
    add(machine.home / "project", work / "bin/run", "{resource_dir}/main.py")
    (top / "project").symlink_to(machine.home / "project")
    other = make_data(machine.envs / "other")
    add_kernel(other, "other", argv=[f"{work}/bin/run"], display_name="x", language="x")
    add(work / "share/jupyter/kernels/shipped", "sh", "-c", f"{start}; exec run")
    outcome = machine.snapper("pack", "work", "--json")
    found = {(each["kind"], Path(each["path"]).name): each["names"] for each in outcome.json["dependencies"]}
    assert found == {
        ("command", "start"): ["shipped"],
        ("kernel", "linked"): ["logo-64x64.png: it is a link"],
        ("kernel", "other"): ["it is in another environment"],
        ("kernel", "project"): ["it uses files beside it, and its directory is a link"],
        ("kernel", "script"): [f"it runs {start}, which is not beside it"],
    }
    assert (outcome.code, outcome.json["kernels"]) == (3, [])
    assert f"which starts the environment: it runs {start}" in machine.snapper("doctor").out


def test_fields_logos_and_copies_of_registered_kernels_are_carried(work: Path, machine: Machine) -> None:
    own = {"OMP_NUM_THREADS": "8", "CUDA_VISIBLE_DEVICES": "0"}
    add_kernel(work, "text", argv=["run"], display_name="Text", language="text", env=own)
    machine.run_json("pack", "work")
    machine.run_json("kernels", "register", "work")
    copy = shutil.copytree(kernels_dir(machine) / "work-text", kernels_dir(machine) / "gpu1")
    fields = json.loads((copy / "kernel.json").read_text())
    (copy / "kernel.json").write_text(json.dumps({**fields, "env": {"CUDA_VISIBLE_DEVICES": "1"}}))
    add(
        kernels_dir(machine) / "rich",
        work / "bin/run",
        env={"DATA": f"{work}/share"},
        interrupt_mode="message",
        metadata={"debugger": True},
    )
    (kernels_dir(machine) / "rich/logo-64x64.png").write_bytes(b"PNG")
    other = move(machine, "work")
    assert registered(other) == ["gpu1", "rich", "work-text"]
    rich = json.loads((kernels_dir(other) / "rich/kernel.json").read_text())
    gpu = launch(kernels_dir(other) / "gpu1")
    assert (gpu.variables["CUDA_VISIBLE_DEVICES"], gpu.variables["OMP_NUM_THREADS"]) == ("1", "8")
    assert gpu.command[0] == f"{other.envs}/work/bin/run"
    assert launch(kernels_dir(other) / "rich").variables["DATA"] == f"{other.envs}/work/share"
    assert (rich["interrupt_mode"], rich["metadata"]["debugger"]) == ("message", True)
    assert (kernels_dir(other) / "rich/logo-64x64.png").read_bytes() == b"PNG"


def test_kernelspec_is_carried_from_an_environment_packed_by_another_path(
    work: Path, machine: Machine
) -> None:
    """Neither the path by which it is packed nor that in the kernelspec is the one in its files."""
    for link in ("link", "other-link"):
        (machine.home / link).symlink_to(work)
    program(work / "lib/R/bin/R")
    add(kernels_dir(machine) / "ir", machine.home / "other-link/lib/R/bin/R", "{connection_file}")
    machine.run_json("pack", "-p", machine.home / "link", "--name", "work")
    shutil.rmtree(machine.home)
    machine.envs.mkdir(parents=True)
    machine.run_json("restore", "work")
    assert registered(machine) == ["ir"]
    with started(machine, "ir") as kernel:
        assert kernel.manager.provisioner.process.wait(30) == 0  # type: ignore[union-attr]
        assert kernel.log == "ran\n"


def test_kernelspec_named_python3_is_not_registered_beside_the_environments_own(
    work: Path, machine: Machine
) -> None:
    add_kernel(work, "python3", argv=["run"], display_name="x", language="python")
    add(kernels_dir(machine) / "python3", work / "bin/run")
    assert registered(move(machine, "work")) == ["work-python3"]


def withheld(machine: Machine, *args: object) -> list[tuple[str, str, list[str]]]:
    """Pack `work`, and return what of kernelspecs was not packed; the exit code is 3 if there is something."""
    outcome = machine.snapper("pack", "work", "--json", *args)
    found = outcome.json["dependencies"]
    assert outcome.code == (3 if found else 0)
    return [(each["kind"], Path(each["path"]).name, each["names"]) for each in found]


def test_variables_that_look_like_credentials_are_not_carried(work: Path, machine: Machine) -> None:
    variables = {
        "API_TOKEN": "s3cret",
        "DATABASE": "postgres://me:s3cret@db.example/data",
        "OPTIONS": "--password s3cret",
        "HF_TOKEN": "${HF_TOKEN}",
        "TOKENIZERS_PARALLELISM": "false",
        "GOOGLE_APPLICATION_CREDENTIALS": "/etc/key.json",
    }
    add(kernels_dir(machine) / "mine", "env", "DB_PASSWORD=s3cret", work / "bin/run", env=variables)
    assert withheld(machine) == [("secret", "mine", ["API_TOKEN", "DATABASE", "OPTIONS", "DB_PASSWORD"])]
    carried = work / "share/snapper/kernels/mine/kernel.json"
    assert carried.stat().st_mode & 0o777 == 0o644  # others may use the environment
    assert "s3cret" not in carried.read_text()
    kept = ["GOOGLE_APPLICATION_CREDENTIALS", "HF_TOKEN", "TOKENIZERS_PARALLELISM"]
    assert sorted(json.loads(carried.read_text())["env"]) == kept
    assert "look like credentials: API_TOKEN, DATABASE, OPTIONS, DB_PASSWORD" in machine.snapper("doctor").out


@pytest.mark.parametrize("form", ["value", "script", "json"])
@pytest.mark.parametrize(
    "text",
    [
        "Server=db;Uid=me;Password=s3cret",
        "DRIVER=x;PWD=s3cret",
        "DefaultEndpointsProtocol=https;AccountName=me;AccountKey=s3cret==",
        "--conf spark.hadoop.fs.s3a.secret.key=s3cret pyspark-shell",
        "-Djavax.net.ssl.keyStorePassword=s3cret",
        "run --password s3cret",
        "Authorization: token s3cret-0123",
        '{"service": {"password": "s3cret"}}',
        "https://x.blob.example/data?sv=2024&sig=0123456789abcdef0123456789abcdef%3D",
        "https://hub.example/?token=s3cret",
        "machine x login me password s3cret",
        "postgres://me:s3cret@db/x",
    ],
)
def test_credentials_are_found_in_any_text(text: str, form: str) -> None:
    if form == "value":
        assert is_secret("HARMLESS", text)
    else:
        assert defines_secret(json.dumps({"env": {"X": text}}).encode() if form == "json" else text.encode())


@pytest.mark.parametrize(
    "text",
    [
        *("Secret project", "Token classification", "--num-threads 8 --tokenizer fast", "Server=db;Uid=me"),
        *(
            "--password $DB_PASSWORD",
            "Authorization: Bearer $TOKEN",
            "/data/token:/opt/x",
            "--token-file /run/x",
        ),
        *("https://host:8443/x?y=1", '{"token": "${TOKEN}"}', "", "5"),
    ],
)
def test_values_without_credentials_have_none(text: str) -> None:
    assert not is_secret("HARMLESS", text)
    assert not defines_secret(json.dumps({"display_name": text}).encode())


@pytest.mark.parametrize(
    ("name", "is_named"),
    [
        *(("OPENAI_KEY", True), ("AZURE_STORAGE_CONNECTION_STRING", True), ("SharedAccessSignature", True)),
        *(("PUBLIC_KEY", False), ("sort_key", False), ("KEYBOARD", False)),
    ],
)
def test_names_of_secrets_are_recognized(name: str, is_named: bool) -> None:
    assert is_secret(name, "x") == is_named


def test_kernelspecs_with_private_files_are_not_carried(work: Path, machine: Machine) -> None:
    """Those that contain credentials, and those that their user has made private."""
    top = kernels_dir(machine)
    script = f"#!/bin/sh\ncd /; export DB_PASSWORD=s3cret\nexec {work}/bin/run\n"
    add(top / "script", program(top / "script/start", script))
    add(top / "option", work / "bin/run", "--token=s3cret")
    add(top / "shell", "sh", "-c", f"env API_KEY=s3cret {work}/bin/run")
    add(top / "nested", work / "bin/run", metadata={"service": {"password": "s3cret"}})
    add(top / "mode", work / "bin/run")
    (top / "mode/kernel.json").chmod(0o600)
    add(top / "start", program(top / "start/start", f"#!/bin/sh\nexec {work}/bin/run\n"))
    (top / "start/start").chmod(0o700)
    add(top / "directory", work / "bin/run")
    (top / "directory").chmod(0o700)
    assert withheld(machine) == [
        ("private", name, [file])
        for name, file in (
            *(
                ("directory", "kernel.json"),
                ("mode", "kernel.json"),
                ("nested", "kernel.json"),
                ("option", "kernel.json"),
            ),
            *(("script", "start"), ("shell", "kernel.json"), ("start", "start")),
        )
    ]
    assert not (work / "share/snapper").exists()
    assert "the kernelspec" in machine.snapper("pack", "work").err


@pytest.mark.parametrize(
    "text",
    [
        *("if true; then export TOKEN=x; fi", "true || export TOKEN=x", "A=1 TOKEN=x exec python"),
        *(
            "export A=1 TOKEN=x",
            "declare -x TOKEN=x",
            "export 'TOKEN=x'",
            "curl -H 'Authorization: Bearer 12345678'",
        ),
        *(
            "mysql --password=x",
            "run --api-key=x",
            "os.environ['TOKEN'] = 'x'",
            "connect(password='x')",
            "token: x",
        ),
        *("GITHUB_PAT=x", "-----BEGIN RSA PRIVATE KEY-----"),
    ],
)
def test_credentials_in_scripts_are_found(text: str) -> None:
    assert defines_secret(f"#!/bin/sh\n{text}\n".encode())


@pytest.mark.parametrize(
    "text",
    [
        *(
            'if [ -n "$TOKEN" ]; then echo token; fi',
            "export TOKEN=$OTHER",
            "TOKEN_FILE=/run/token",
            "TOKENS=3",
        ),
        *(
            'echo "the password of the database"',
            "python -m ipykernel_launcher -f {connection_file}",
            "TOKEN=",
        ),
    ],
)
def test_scripts_without_credentials_have_none(text: str) -> None:
    assert not defines_secret(f"#!/bin/sh\n{text}\n".encode())


def test_modes_that_the_umask_gives_do_not_make_kernelspecs_private(work: Path, machine: Machine) -> None:
    add(kernels_dir(machine) / "mine", work / "bin/run")
    (kernels_dir(machine) / "mine/kernel.json").chmod(0o600)
    umask = os.umask(0o077)
    try:
        assert withheld(machine) == []
    finally:
        os.umask(umask)


def test_kernelspecs_of_other_published_environments_are_not_carried(work: Path, machine: Machine) -> None:
    """Their publishers could have a command of theirs started under a name of this environment."""
    other = make_data(machine.envs / "other")
    add_kernel(other, "evil", argv=["sh", "-c", f"evil # {work}/bin/run"], display_name="x", language="x")
    assert machine.snapper("pack", "other").code == 3
    machine.run_json("restore", "other")
    assert registered(machine) == ["other-evil"]
    assert machine.run_json("pack", "work")["kernels"] == []


# --- names that could be another's ------------------------------------------------------------------------


def carry(prefix: Path, *names: str) -> None:
    """Do what a publisher can: put kernelspecs into an environment as if they were carried."""
    program(prefix / "bin/run", "#!/bin/sh\necho attacker\n")
    for name in names:
        add(prefix / "share/snapper/kernels" / name, "run")


@pytest.mark.parametrize("order", [("work", "evil"), ("evil", "work")])
def test_names_of_other_environments_are_not_taken(
    order: tuple[str, str], work: Path, machine: Machine
) -> None:
    """A publisher cannot have a kernel started under a name that another environment's kernel has or will have."""
    add_kernel(work, "text", argv=["run"], display_name="Text", language="text")
    add(kernels_dir(machine) / "mine", work / "bin/run")
    evil = make_data(machine.envs / "evil")
    digest = hashlib.sha256(b"work/text").hexdigest()[:16]
    taken = ["mine", "python3", "work", "work-text", "work-text-2", f"x-{digest}", "conda-env-work-py"]
    carry(evil, *taken, "unique", "a b", "..x", "n" * 210)
    for name in ("work", "evil"):
        machine.run_json("pack", name)
    home = machine.home.parent / "elsewhere"
    other = Machine(home, home / "envs", machine.store)
    other.envs.mkdir(parents=True)
    add(kernels_dir(other) / "own", "/bin/true")
    for name in (*order, *order):
        other.run_json("restore", name)
    for path in kernels_dir(other).iterdir():
        mark = json.loads((path / "kernel.json").read_text()).get("metadata", {}).get("snapper", {})
        if path.name == "mine":
            assert mark["environment"] == order[0]  # the first keeps it
        elif path.name in taken:
            assert mark["environment"] == "work", path.name
        elif mark:
            assert path.name == "unique" or path.name.startswith(f"{mark['environment']}-"), path.name
    assert "unique" in registered(other)
    assert (kernels_dir(other) / "own/kernel.json").read_text().count("/bin/true") == 1


def test_kernel_that_cannot_keep_its_name_is_reported(work: Path, machine: Machine) -> None:
    add(kernels_dir(machine) / "mine", work / "bin/run")
    machine.run_json("pack", "work")
    shutil.rmtree(kernels_dir(machine))
    add(kernels_dir(machine) / "mine", "/bin/true")
    (restored,) = machine.run_json("restore", "work")["restored"]
    assert [(kernel["name"], kernel["instead_of"]) for kernel in restored["kernels"]] == [
        ("work-mine", "mine")
    ]


def test_kernelspec_that_is_still_there_is_not_registered_twice(work: Path, machine: Machine) -> None:
    add(kernels_dir(machine) / "mine", work / "bin/run")
    machine.run_json("pack", "work")
    assert machine.run_json("pack", "work")["unchanged"]
    assert f"{kernels_dir(machine) / 'mine'}\n" in machine.snapper("pack", "work").err
    assert f"are packed with it: {kernels_dir(machine) / 'mine'}" in machine.snapper("doctor").out
    before = (kernels_dir(machine) / "mine/kernel.json").read_bytes()
    assert "no kernel" not in machine.snapper("restore", "--all").out
    assert registered(machine) == ["mine"]
    assert (kernels_dir(machine) / "mine/kernel.json").read_bytes() == before
    assert subprocess.run([work / "bin/run"], capture_output=True, check=True).stdout == b"ran\n"


# --- copies of kernelspecs that have changed --------------------------------------------------------------


def test_copies_of_removed_and_changed_kernelspecs_are_removed(work: Path, machine: Machine) -> None:
    directories = [kernels_dir(machine) / name for name in ("gone", "elsewhere", "kept", "secret")]
    for directory in directories:
        add(directory, work / "bin/run")
    program(directories[2] / "start-by-path", f"#!/bin/sh\nexec {work}/bin/run\n")
    add(directories[2], directories[2] / "start-by-path")
    machine.run_json("pack", "work")
    copies = work / "share/snapper/kernels"
    assert sorted(path.name for path in copies.iterdir()) == ["elsewhere", "gone", "kept", "secret"]
    shutil.rmtree(directories[0])
    add(directories[1], "/usr/bin/python3")
    (directories[2] / "start-by-path").unlink()
    add(directories[2], work / "bin/run")
    add(directories[3], "sh", "-c", f"DB_PASSWORD=hunter2 {work}/bin/run")
    outcome = machine.snapper("pack", "work")
    assert f"{copies}/gone was removed" in outcome.err
    assert [str(path.relative_to(copies)) for path in copies.rglob("*.*")] == ["kept/kernel.json"]
    assert [path.name for path in (copies / "kept").iterdir()] == ["kernel.json"]


def test_copies_in_a_restored_environment_are_kept(work: Path, machine: Machine) -> None:
    """Their originals are nowhere; what snapper has registered takes their place."""
    add(kernels_dir(machine) / "mine", work / "bin/run")
    machine.run_json("pack", "work")
    shutil.rmtree(kernels_dir(machine))
    machine.run_json("restore", "work")
    assert machine.run_json("pack", "work")["unchanged"]
    assert machine.run_json("pack", "work")["unchanged"]
    shutil.rmtree(machine.home / ".local")
    assert machine.run_json("pack", "work")["unchanged"]
    assert registered(move(machine, "work")) == ["mine"]


@pytest.mark.parametrize("lost", ["kernelspecs", "state", "variable"])
def test_copies_of_kernelspecs_that_may_still_exist_elsewhere_are_kept(
    work: Path, machine: Machine, lost: str
) -> None:
    """A notebook instance loses them at each stop, but not the environment, and variables differ between shells."""
    if lost != "variable":
        (machine.home / "SageMaker").mkdir()
    originals = machine.home / ("jupyter/kernels" if lost == "variable" else ".local/share/jupyter/kernels")
    add(originals / "mine", work / "bin/run")
    machine.run_json("pack", "work", JUPYTER_PATH=str(machine.home / "jupyter"))
    if lost == "kernelspecs":
        originals.rename(originals.with_name("lost"))
        originals.mkdir()
    elif lost == "state":
        shutil.rmtree(originals / "mine")
        shutil.rmtree(machine.home / ".local/state")
    assert machine.run_json("pack", "work")["unchanged"]
    assert (work / "share/snapper/kernels/mine/kernel.json").exists()


def test_name_that_the_template_could_give_is_kept_where_it_was_packed(work: Path, machine: Machine) -> None:
    """The kernel `env` of an environment `my` would have the name `my-env`, too."""
    add(kernels_dir(machine) / "my-env", work / "bin/run")
    machine.run_json("pack", "work")
    shutil.rmtree(kernels_dir(machine))
    carry(work, "secret-python3")
    machine.run_json("pack", "work", XDG_STATE_HOME=str(machine.home / "state of a colleague"))
    shutil.rmtree(work)
    machine.run_json("restore", "work", "--prefix", work)
    first, second = registered(machine)
    assert (first, second.startswith("work-secret-python3")) == ("my-env", True)
    names = registered(move(machine, "work"))
    assert [name.startswith("work-") for name in names] == [True, True]


# --- copies that someone has edited -----------------------------------------------------------------------


def test_edited_copies_are_kept_and_named(work: Path, machine: Machine) -> None:
    """The user edits them, or a colleague does, whose snapshot is restored."""
    original = kernels_dir(machine) / "mine"
    program(original / "start", f"#!/bin/sh\nexec {work}/bin/run\n")
    add(original, original / "start")
    machine.run_json("pack", "work")
    copy = work / "share/snapper/kernels/mine"
    (copy / "startup.R").write_text("mine")
    add(original, original / "start", "--new")
    assert machine.run_json("pack", "work")["kernels"]
    assert "--new" in (copy / "kernel.json").read_text()
    edited = {"kernel.json": b"{}", "start": (copy / "start").read_bytes(), "startup.R": b"mine"}
    (copy / "kernel.json").write_bytes(b"{}")
    program(original / "start", f"#!/bin/sh\nexec {work}/bin/run --newest\n")
    for _ in range(2):
        assert withheld(machine) == [("edited", "mine", ["share/snapper/kernels/mine/kernel.json"])]
        assert {path.name: path.read_bytes() for path in copy.iterdir()} == edited
    shutil.rmtree(original)
    assert f"files in {copy} were kept" in machine.snapper("pack", "work").err
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == edited


@pytest.mark.parametrize("lost", [False, True], ids=["earlier snapshot", "lost home"])
def test_earlier_copies_of_the_same_user_are_replaced(work: Path, machine: Machine, lost: bool) -> None:
    """A restore brings an earlier copy, or only the volume keeps what is remembered of the copy."""
    original, copy = kernels_dir(machine) / "mine", work / "share/snapper/kernels/mine/kernel.json"
    if lost:
        (machine.home / "SageMaker").mkdir()
    for option in ("--first", "--second"):
        add(original, work / "bin/run", option)
        machine.run_json("pack", "work")
    if lost:
        shutil.rmtree(machine.home / ".local/state")
        add(original, work / "bin/run", "--third")
    else:
        machine.run_json("restore", "work@~1")
        assert "--first" in copy.read_text()
    machine.run_json("pack", "work")
    assert ("--third" if lost else "--second") in copy.read_text()


def test_links_in_place_of_copies_are_kept(work: Path, machine: Machine) -> None:
    add(kernels_dir(machine) / "mine", work / "bin/run")
    machine.run_json("pack", "work")
    copy = work / "share/snapper/kernels/mine"
    (copy / "kernel.json").rename(work / "kernel.json")
    (copy / "kernel.json").symlink_to(work / "kernel.json")
    assert withheld(machine) == [("edited", "mine", ["share/snapper/kernels/mine/kernel.json"])]
    assert (copy / "kernel.json").is_symlink()


def test_files_beside_removed_copies_are_kept(work: Path, machine: Machine) -> None:
    add(kernels_dir(machine) / "mine", work / "bin/run")
    machine.run_json("pack", "work")
    copy = work / "share/snapper/kernels/mine"
    (copy / "data").mkdir()
    (copy / "data/mine").write_text("mine")
    shutil.rmtree(kernels_dir(machine) / "mine")
    assert f"files in {copy} were kept" in machine.snapper("pack", "work").err
    assert [path.name for path in copy.rglob("*")] == ["data", "mine"]


def test_pack_that_is_refused_copies_no_kernelspecs(work: Path, machine: Machine) -> None:
    add(kernels_dir(machine) / "mine", work / "bin/run")
    project = machine.home / "project"
    project.mkdir()
    (project / "pyproject.toml").write_text("[project]\nname = 'project'\n")
    link = work / "lib/python3.11/site-packages/project.pth"
    link.parent.mkdir(parents=True)
    link.write_text(f"{project}\n")
    assert machine.snapper("pack", "work").code == 1
    assert not (work / "share/snapper").exists()
