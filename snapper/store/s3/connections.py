"""Connections to S3 on which bodies are read right into their buffers, kept for the next request."""

from __future__ import annotations

import os
import ssl
import threading
from contextlib import suppress
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies, proxy_bypass

from botocore.awsrequest import AWSRequest
from botocore.httpsession import create_urllib3_context, get_cert_path


def is_proxied(url: str) -> bool:
    """Whether requests there have to go through a proxy, which these connections cannot."""
    parts = urlsplit(url)
    return parts.scheme in getproxies() and not proxy_bypass(parts.hostname or "")


class Connections:
    """The connections of one process: `config` is that of a client of boto3's, `ca_bundle` a file with certificates
    that are trusted, where that is said.
    """

    def __init__(self, config: Any, ca_bundle: str | None) -> None:
        self._config = config
        self._ca_bundle = ca_bundle
        self._context: ssl.SSLContext | None = None
        self._lock = threading.Lock()
        self._idle: list[tuple[str, HTTPConnection]] = []

    def send(self, request: AWSRequest) -> Received:
        """Sends a request that has no body, and gives the beginning of the answer; raises OSError, HTTPException."""
        parts = urlsplit(request.url)
        origin, target = f"{parts.scheme}://{_place(parts)}", f"{parts.path}?{parts.query}".rstrip("?")
        headers = dict(request.headers.items())
        while connection := self._kept(origin):
            try:
                return self._exchange(origin, connection, target, headers)
            except (ConnectionError, ssl.SSLError):  # closed by the server meanwhile
                continue
        return self._exchange(origin, self._connect(parts), target, headers)

    def keep(self, origin: str, connection: HTTPConnection) -> None:
        """Keeps a connection on which nothing is under way."""
        if len(self._idle) < self._config.max_pool_connections:
            self._idle.append((origin, connection))
        else:
            connection.close()

    def _kept(self, origin: str) -> HTTPConnection | None:
        with suppress(IndexError):  # none is left: others take some, too
            while True:
                place, connection = self._idle.pop()
                if place == origin:
                    return connection
                connection.close()
        return None

    def _connect(self, parts: SplitResult) -> HTTPConnection:
        host, timeout = _place(parts), self._config.connect_timeout
        if parts.scheme == "https":
            with self._lock:
                self._context = self._context or _trusting(self._ca_bundle)
            connection: HTTPConnection = HTTPSConnection(host, timeout=timeout, context=self._context)
        else:
            connection = HTTPConnection(host, timeout=timeout)
        connection.connect()
        connection.sock.settimeout(self._config.read_timeout)
        return connection

    def _exchange(
        self, origin: str, connection: HTTPConnection, target: str, headers: dict[str, str]
    ) -> Received:
        try:
            connection.request("GET", target, headers=headers)
            return Received(self, origin, connection, connection.getresponse())
        except BaseException:
            connection.close()
            raise


def _place(parts: SplitResult) -> str:
    """The host and port of a URL, as botocore signs them."""
    return parts.netloc.rpartition("@")[2].lower()


def _trusting(ca_bundle: str | None) -> ssl.SSLContext:
    """A context as boto3 has it, which trusts the same certificates."""
    context: ssl.SSLContext = create_urllib3_context()
    context.check_hostname = True
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(get_cert_path(ca_bundle or os.environ.get("REQUESTS_CA_BUNDLE") or True))
    return context


class Received:
    """An answer whose body is still to be read."""

    def __init__(
        self, connections: Connections, origin: str, connection: HTTPConnection, response: HTTPResponse
    ) -> None:
        self.status, self.size = response.status, response.length
        self._response, self._connection = response, connection
        self._connections, self._origin = connections, origin

    def header(self, name: str) -> str:
        """The header of that name, empty where there is none."""
        return self._response.getheader(name, "")

    def readinto(self, buffer: memoryview, /) -> int:
        """Fills the buffer from its beginning; how much that was, 0 at the end, however early. Raises ConnectionError
        and TimeoutError.
        """
        try:
            return self._response.readinto(buffer)
        except TimeoutError:
            raise
        except OSError as error:
            raise ConnectionError(str(error)) from error

    def close(self) -> None:
        """Keeps the connection if the body was read to its end."""
        if self._response.isclosed() and not self._response.will_close:
            self._connections.keep(self._origin, self._connection)
        else:
            self._connection.close()
