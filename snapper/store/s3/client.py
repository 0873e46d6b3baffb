"""What S3 is spoken to with: one client for each process, since connections must not be shared across a fork."""

from __future__ import annotations

import os
import threading
from typing import Any

import boto3.session
from botocore.config import Config

from snapper.store.s3.place import Place
from snapper.store.s3.reader import Reader

#: Seconds until a connection that is not made, or over which nothing comes, is given up and tried again.
CONNECT_TIMEOUT = 5
READ_TIMEOUT = 15

#: How often a request is tried in all, with growing and random pauses, where the user's settings do not say.
_ATTEMPTS = 5

#: Connections of a process: layers in several parts, several at once.
CONNECTIONS = 16


class _Clients:
    """The sessions and clients of this process. A session goes through a fork, which saves reading S3's
    description again; a client does not."""

    def __init__(self) -> None:
        self.sessions: dict[tuple[tuple[str, str], ...], boto3.session.Session] = {}
        self.begin()

    def begin(self) -> None:
        self.readers: dict[Place, Reader] = {}
        self.lock = threading.Lock()


_known = _Clients()
os.register_at_fork(after_in_child=_known.begin)


def reader_for(place: Place) -> Reader:
    """This process's client for the place, and what reads by it; raises what boto3 raises."""
    with _known.lock:
        if place not in _known.readers:
            _known.readers[place] = _make(place)
        return _known.readers[place]


def _make(place: Place) -> Reader:
    options = place.session_options
    key = tuple(sorted(options.items()))
    session = _known.sessions.get(key) or boto3.session.Session(**options)
    _known.sessions[key] = session
    settings = Config(
        connect_timeout=CONNECT_TIMEOUT,
        read_timeout=READ_TIMEOUT,
        max_pool_connections=CONNECTIONS,
        retries=_retries(session),
        # Layers have a checksum of their own, which is sent with them and looked at by who reads them.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    region = session.region_name or "us-east-1"
    client = session.client("s3", region_name=region, config=settings, **place.client_options)
    return Reader(client, session._session.get_config_variable("ca_bundle"))


def _retries(session: boto3.session.Session) -> dict[str, Any]:
    core = session._session
    mode, attempts = core.get_config_variable("retry_mode"), core.get_config_variable("max_attempts")
    return {
        "mode": "standard" if mode in (None, "legacy") else mode,
        "total_max_attempts": attempts or _ATTEMPTS,
    }
