"""A proxy in front of a genuine S3 server that makes happen to chosen requests what happens on networks."""

from __future__ import annotations

import http.client
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import urlsplit

#: What becomes of a request: its answer breaks off with a reset or too early, is altered, never comes, or is lost after
#: the server has done what was asked; or the server is not asked, and the answer is an error of that code; or the
#: connection is closed behind a whole answer that does not say so.
Kind = Literal["reset", "cut", "altered", "stalled", "lost", "refused", "closed"]

_STATUS = {
    "SlowDown": 503,
    "InternalError": 500,
    "ConditionalRequestConflict": 409,
    "ExpiredToken": 400,
    "PermanentRedirect": 301,
}


@dataclass
class Fault:
    """Happens to the requests that `meets` is true of, from the `after`th on, so many `times` for each of them."""

    kind: Kind
    meets: Callable[[str, str], bool]
    times: int = 1
    after: int = 0
    code: str = ""
    extra: dict[str, str] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)
    met: int = 0

    def happens(self, method: str, path: str) -> bool:
        if not self.meets(method, path):
            return False
        self.met += 1
        if self.met <= self.after:
            return False
        self.seen[path] = self.seen.get(path, 0) + 1
        return self.seen[path] <= self.times


@dataclass(frozen=True)
class Request:
    """What came to the proxy; names of headers in lower case."""

    method: str
    path: str
    headers: dict[str, str]


@dataclass
class Proxy:
    """A running proxy, and the requests that came. `before` is called with method and path of each before it is passed
    on.
    """

    endpoint: str
    requests: list[Request] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    before: Callable[[str, str], object] = lambda _method, _path: None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            return next((each for each in self.faults if each.happens(method, path)), None)

    @property
    def happened(self) -> int:
        return sum(min(count, each.times) for each in self.faults for count in each.seen.values())


@contextmanager
def in_front_of(endpoint: str, secure: ssl.SSLContext | None = None) -> Iterator[Proxy]:
    """Runs a proxy on a free port; it is spoken to by TLS if it is `secure`."""
    upstream = urlsplit(endpoint).netloc

    class Handler(_Handler):
        server_address = upstream

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if secure:
        server.socket = secure.wrap_socket(server.socket, server_side=True)
    scheme = "https" if secure else "http"
    Handler.proxy = proxy = Proxy(f"{scheme}://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        Handler.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: Proxy
    server_address: str
    ended = threading.Event()

    def log_message(self, *_: object) -> None:
        return

    def _pass(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.proxy.requests.append(Request(self.command, self.path, headers))
        fault = self.proxy.fault(self.command, self.path)
        if fault and fault.kind == "refused":
            self._refuse(fault)
            return
        self.proxy.before(self.command, self.path)
        upstream = http.client.HTTPConnection(self.server_address, timeout=60)
        headers.pop("expect", None)
        upstream.request(self.command, self.path, body, headers)
        answer = upstream.getresponse()
        data = answer.read()
        upstream.close()
        self._answer(answer, data, fault.kind if fault else None)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass  # noqa: N815 - as the base class wants it

    def _refuse(self, fault: Fault) -> None:
        more = "".join(f"<{name}>{value}</{name}>" for name, value in fault.extra.items())
        data = f"<Error><Code>{fault.code}</Code><Message>as told</Message>{more}</Error>".encode()
        self.send_response(_STATUS.get(fault.code, 403))
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _answer(self, answer: http.client.HTTPResponse, data: bytes, kind: Kind | None) -> None:
        if kind == "lost":
            self._reset()
            return
        if kind == "altered" and data:
            middle = len(data) // 2
            data = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        self.send_response_only(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(data))
        if length is not None:
            self.send_header("Content-Length", length)
        self.end_headers()
        if self.command == "HEAD":
            return
        with suppress(OSError):
            if kind in ("reset", "cut", "stalled"):
                self.wfile.write(data[: len(data) // 2])
                self.wfile.flush()
                if kind == "stalled":
                    self.ended.wait(60)
                self.close_connection = True
                if kind == "reset":
                    self._reset()
            else:
                self.wfile.write(data)
                self.close_connection = self.close_connection or kind == "closed"

    def _reset(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
