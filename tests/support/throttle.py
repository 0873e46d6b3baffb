"""A relay that limits the total rate of what a server sends."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from urllib.parse import urlsplit

_BUFFER_SIZE = 64 * 1024


class Throttle:
    """Forward connections to a server, and return at most `rate` bytes per second, without a limit if it is None."""

    def __init__(self, endpoint: str, rate: float | None) -> None:
        parts = urlsplit(endpoint)
        self._server = (parts.hostname or "", parts.port or 0)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self.rate = rate
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(self._server)
                except OSError:
                    client.close()
                    continue
                threading.Thread(target=self._pass, args=(client, server, False), daemon=True).start()
                threading.Thread(target=self._pass, args=(server, client, True), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, slow: bool) -> None:
        with suppress(OSError):
            while part := source.recv(_BUFFER_SIZE):
                with self._lock if slow else nullcontext():
                    rate = self.rate
                    time.sleep(len(part) / rate if slow and rate else 0)
                sink.sendall(part)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        source.close()


@contextmanager
def throttled(endpoint: str, rate: float | None) -> Iterator[Throttle]:
    """Run a relay to the server at `endpoint`."""
    throttle = Throttle(endpoint, rate)
    try:
        yield throttle
    finally:
        throttle.close()
