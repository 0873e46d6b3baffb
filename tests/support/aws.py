"""AWS, as far as it can be seen from here: the hosts that boto3 connects to, in front of a genuine S3 server.

boto3 reaches it as a proxy, and so is not told any endpoint: it must find the hosts of access points and directory
buckets by itself. Their objects are those of the server's bucket, below a prefix named like the host.
"""

from __future__ import annotations

import re
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, urlencode

import trustme
import urllib3
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from tests.support.s3server import S3Server

_SESSION = (
    b"<CreateSessionResult><Credentials><SessionToken>token</SessionToken><SecretAccessKey>secret</SecretAccessKey>"
    b"<AccessKeyId>session</AccessKeyId><Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></CreateSessionResult>"
)

#: Headers that are not signed again as they are.
_OWN_HEADERS = {
    "host",
    "authorization",
    "x-amz-date",
    "x-amz-content-sha256",
    "x-amz-s3session-token",
    "expect",
}


class Request(NamedTuple):
    """What a request was sent to, and what it was signed for and by whom."""

    host: str
    path: str
    region: str
    service: str
    access_key: str


@dataclass
class Aws:
    """The running server: environment variables with which boto3 uses it, and the requests that it received."""

    variables: dict[str, str]
    requests: list[Request] = field(default_factory=list)


@contextmanager
def in_place_of_aws(server: S3Server, directory: Path) -> Iterator[Aws]:
    """Run a proxy on a free port, through which the hosts of AWS lead to the server."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(directory / "authority.pem"))
    aws = Aws({})

    class Proxy(_Proxy):
        def do_CONNECT(self) -> None:
            host = self.path.partition(":")[0]
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            authority.issue_cert(host).configure_cert(context)
            self.send_response(200)
            self.end_headers()
            with context.wrap_socket(self.connection, server_side=True) as connection:
                _Host(host, aws, server, connection, self.client_address, self.server)
            self.close_connection = True

    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    proxy.daemon_threads = True
    aws.variables |= {
        "HTTPS_PROXY": f"http://127.0.0.1:{proxy.server_port}",
        "AWS_CA_BUNDLE": str(directory / "authority.pem"),
        "AWS_ACCESS_KEY_ID": "mine",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_CONFIG_FILE": "/nonexistent",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    try:
        yield aws
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join()


class _Proxy(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass


class _Host(_Proxy):
    """A connection to one host."""

    def __init__(self, host: str, aws: Aws, server: S3Server, *arguments: object) -> None:
        self.host, self.aws, self.s3 = host, aws, server
        super().__init__(*arguments)  # type: ignore[arg-type]

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.aws.requests.append(self._request())
        if self.path.endswith("?session"):
            self._respond(200, {}, _SESSION)
            return
        response = self._forward(body)
        content = response.data.replace(f">{self.host}/".encode(), b">")
        self._respond(response.status, dict(response.headers), content)

    do_GET = do_HEAD = do_PUT = do_DELETE = _answer  # noqa: N815

    def _request(self) -> Request:
        signed = re.search(r"Credential=([^/]+)/\d+/(.*)/aws4_request", self.headers["Authorization"])
        assert signed
        region, _, service = signed[2].rpartition("/")
        return Request(self.host, self.path, region or self.headers["X-Amz-Region-Set"], service, signed[1])

    def _forward(self, body: bytes) -> urllib3.BaseHTTPResponse:
        """Send the request to the server, signed as its administrator."""
        path, mark, query = self.path.partition("?")
        parameters = parse_qs(query, keep_blank_values=True)
        if "prefix" in parameters or "list-type" in parameters:
            parameters["prefix"] = [f"{self.host}/{(parameters.get('prefix') or [''])[0]}"]
        else:
            path = f"/{self.host}{path}"
        url = f"{self.s3.endpoint}/{self.s3.bucket}{path}{mark}{urlencode(parameters, doseq=True)}"
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _OWN_HEADERS}
        request = AWSRequest(self.command, url, headers=headers, data=body)
        S3SigV4Auth(Credentials("admin", "admin-secret"), "s3", "us-east-1").add_auth(request)
        prepared = request.prepare()
        return urllib3.request(
            self.command,
            prepared.url,
            headers=dict(prepared.headers.items()),
            body=body,
            preload_content=True,
        )

    def _respond(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                self.send_header(name, value)
        length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(content)
