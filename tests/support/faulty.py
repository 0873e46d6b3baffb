"""A proxy in front of a genuine S3 server that subjects chosen requests to the failures of real networks."""

from __future__ import annotations

import http.client
import socket
import socketserver
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import urlsplit

#: What happens to a request:
#: reset, cut - the response breaks off in the middle, with a TCP reset or an ordinary end;
#: stalled - the response stops in the middle, and the connection stays open;
#: altered - one bit of the response is flipped;
#: lost - the server does what it was asked, and the connection is reset before a response;
#: refused - the server is not asked, and the response is an error with the fault's code;
#: closed - the connection is closed after the response, without announcing it;
#: ignored - the server is not asked, and the response is the fault's body, as if there were no Range header;
#: slow - the request's body is taken slowly, in 32 pieces, a tenth of a second apart.
Kind = Literal["reset", "cut", "altered", "stalled", "lost", "refused", "closed", "ignored", "slow"]

_STATUS = {
    "SlowDown": 503,
    "InternalError": 500,
    "ConditionalRequestConflict": 409,
    "ExpiredToken": 400,
    "PermanentRedirect": 301,
}


@dataclass
class Fault:
    """Affects requests for which `meets` is true, except the first `after` of them, `times` times per path."""

    kind: Kind
    meets: Callable[[str, str], bool]
    times: int = 1
    after: int = 0
    code: str = ""
    body: bytes = b""
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
    """A request that the proxy received, with header names in lower case."""

    method: str
    path: str
    headers: dict[str, str]


@dataclass
class Proxy:
    """A running proxy, the requests it received, and the number of connections made to it.

    `before` is called with the method and path of each request before it is forwarded.
    """

    endpoint: str
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    faults: list[Fault] = field(default_factory=list)
    before: Callable[[str, str], object] = lambda _method, _path: None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            return next((fault for fault in self.faults if fault.happens(method, path)), None)

    @property
    def happened(self) -> int:
        """How many requests were affected."""
        return sum(min(count, fault.times) for fault in self.faults for count in fault.seen.values())


@contextmanager
def in_front_of(endpoint: str, secure: ssl.SSLContext | None = None) -> Iterator[Proxy]:
    """Run a proxy on a free port, with TLS if `secure` is given."""
    upstream = urlsplit(endpoint).netloc

    class Handler(_Handler):
        server_address = upstream
        ended = threading.Event()

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
    ended: threading.Event

    def setup(self) -> None:
        super().setup()
        with self.proxy.lock:
            self.proxy.connections += 1

    def log_message(self, *_: object) -> None:
        return

    def _forward(self) -> None:
        fault = self.proxy.fault(self.command, self.path)
        body = self._read_body(slowly=bool(fault and fault.kind == "slow"))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.proxy.requests.append(Request(self.command, self.path, headers))
        if fault and fault.kind == "refused":
            self._refuse(fault)
            return
        if fault and fault.kind == "ignored":
            self._send(200, fault.body, {"ETag": '"0123456789abcdef0123456789abcdef"'})
            return
        self.proxy.before(self.command, self.path)
        upstream = http.client.HTTPConnection(self.server_address, timeout=60)
        headers = {name: value for name, value in headers.items() if name != "expect"}
        upstream.request(self.command, self.path, body, headers)
        response = upstream.getresponse()
        data = response.read()
        upstream.close()
        self._respond(response, data, fault.kind if fault else None)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _forward  # noqa: N815 - names the base class looks for

    def _read_body(self, slowly: bool) -> bytes:
        size = int(self.headers.get("Content-Length") or 0)
        if not slowly:
            return self.rfile.read(size)
        pieces = []
        while size:
            pieces.append(self.rfile.read(min(size, int(self.headers["Content-Length"]) // 32 + 1)))
            size -= len(pieces[-1])
            self.ended.wait(0.1)
        return b"".join(pieces)

    def _refuse(self, fault: Fault) -> None:
        extra = "".join(f"<{name}>{value}</{name}>" for name, value in fault.extra.items())
        data = f"<Error><Code>{fault.code}</Code><Message>as told</Message>{extra}</Error>".encode()
        self._send(_STATUS.get(fault.code, 403), data, {"Content-Type": "application/xml"})

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _respond(self, response: http.client.HTTPResponse, data: bytes, kind: Kind | None) -> None:
        if kind == "lost":
            self._reset()
            return
        if kind == "altered" and data:
            middle = len(data) // 2
            data = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        self.send_response_only(response.status)
        for name, value in response.getheaders():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        length = response.getheader("Content-Length") if self.command == "HEAD" else str(len(data))
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


@contextmanager
def garbling_relay(endpoint: str, at: int) -> Iterator[str]:
    """Relay connections to the endpoint, and flip one bit of what it sends, once, after `at` bytes.

    Yield the relay's URL.
    """
    parts = urlsplit(endpoint)
    done, lock = threading.Event(), threading.Lock()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            client: socket.socket = self.request
            with socket.create_connection((parts.hostname or "", parts.port or 0)) as server:
                thread = threading.Thread(target=self._send, args=(client, server), daemon=True)
                thread.start()
                self._receive(client, server)
                thread.join(60)

        @staticmethod
        def _send(client: socket.socket, server: socket.socket) -> None:
            with suppress(OSError):
                while data := client.recv(65536):
                    server.sendall(data)
                server.shutdown(socket.SHUT_WR)

        @staticmethod
        def _receive(client: socket.socket, server: socket.socket) -> None:
            received = 0
            with suppress(OSError):
                while data := server.recv(65536):
                    with lock:
                        if received <= at < received + len(data) and not done.is_set():
                            done.set()
                            index = at - received
                            data = data[:index] + bytes([data[index] ^ 1]) + data[index + 1 :]
                    received += len(data)
                    client.sendall(data)
                client.shutdown(socket.SHUT_RDWR)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as relay:
        relay.daemon_threads = True
        thread = threading.Thread(target=relay.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"{parts.scheme}://127.0.0.1:{relay.server_address[1]}"
        finally:
            relay.shutdown()
            thread.join()
    assert done.is_set()
