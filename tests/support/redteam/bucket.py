"""An S3 server of an attacker: it has any objects, and answers as it likes."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

BUCKET = "bucket"
_LONG_AGO = 1_600_000_000


@dataclass
class Answer:
    """A response. Unless `length` is None, there is a Content-Length, by default the right one.

    The body is sent `times` times, -1 for without end.
    """

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    length: int | str | None = "right"
    times: int = 1


#: Returns the answer to a request (method, key, query), or None for that of an honest server.
Behavior = Callable[[str, str, dict[str, list[str]]], Answer | None]


@dataclass
class Bucket:
    """A running server: its endpoint, its objects by key, and how it behaves.

    `asked` are the keys of its requests, and `sent` is how many bytes it has sent in bodies.
    """

    endpoint: str
    objects: dict[str, bytes] = field(default_factory=dict)
    behave: Behavior = lambda _method, _key, _query: None
    asked: list[str] = field(default_factory=list)
    sent: int = 0

    def take(self, store: Path) -> None:
        """Have the objects of a store in a directory, below the prefix `store`."""
        for path in store.rglob("*"):
            if path.is_file():
                self.objects[f"store/{path.relative_to(store)}"] = path.read_bytes()

    def variables(self, **more: str) -> dict[str, str]:
        """Return the variables with which snapper uses the store in the bucket."""
        return {
            "SNAPPER_STORE": f"s3://{BUCKET}/store",
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_ACCESS_KEY_ID": "reader",
            "AWS_SECRET_ACCESS_KEY": "reader-secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": "/nonexistent",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_MAX_ATTEMPTS": "1",
            **more,
        }


@contextmanager
def serving() -> Iterator[Bucket]:
    """Run a server on a free port."""

    class Handler(_Handler):
        pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients break connections off
    Handler.bucket = bucket = Bucket(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield bucket
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    bucket: Bucket

    def log_message(self, *_: object) -> None:
        return

    def _handle(self) -> None:
        parts = urlsplit(self.path)
        key, query = unquote(parts.path).removeprefix(f"/{BUCKET}").removeprefix("/"), parse_qs(parts.query)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.bucket.asked.append(key)
        answer = self.bucket.behave(self.command, key, query)
        if answer is None:
            answer = self._answer(key, query, body)
        with suppress(OSError):
            self._send(answer)

    do_GET = do_HEAD = do_PUT = do_DELETE = do_POST = _handle  # noqa: N815 - names the base class looks for

    def _answer(self, key: str, query: dict[str, list[str]], body: bytes) -> Answer:
        """Answer like S3, as far as readers and writers need it."""
        objects = self.bucket.objects
        if not key:
            return Answer(body=self._listing(query.get("prefix", [""])[0]))
        if self.command == "PUT":
            objects[key] = body
            return Answer(headers={"ETag": _etag(body)})
        if self.command == "DELETE":
            objects.pop(key, None)
            return Answer(204)
        if key not in objects:
            return Answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        data = objects[key]
        headers = {"ETag": _etag(data), "Last-Modified": formatdate(_LONG_AGO, usegmt=True)}
        first, last = self._range(len(data))
        if "Range" in self.headers:
            headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
            return Answer(206, data[first : last + 1], headers)
        return Answer(200, data, headers)

    def _range(self, size: int) -> tuple[int, int]:
        first, _, last = self.headers.get("Range", "").removeprefix("bytes=").partition("-")
        return int(first or 0), min(int(last or size - 1), size - 1)

    def _listing(self, prefix: str) -> bytes:
        items = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>2020-09-13T12:26:40.000Z</LastModified>"
            f"<ETag>{escape(_etag(data))}</ETag><Size>{len(data)}</Size></Contents>"
            for key, data in sorted(self.bucket.objects.items())
            if key.startswith(prefix)
        )
        return f"<ListBucketResult><IsTruncated>false</IsTruncated>{items}</ListBucketResult>".encode()

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        length = len(answer.body) * answer.times if answer.length == "right" else answer.length
        if length is None:
            self.send_header("Connection", "close")
            self.close_connection = True
        else:
            self.send_header("Content-Length", str(length))
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        sent = 0
        while sent != answer.times:
            self.wfile.write(answer.body)
            self.bucket.sent += len(answer.body)
            sent += 1


def _etag(data: bytes) -> str:
    return f'"{hashlib.md5(data).hexdigest()}"'
