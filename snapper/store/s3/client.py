"""boto3 clients, one per location and process: connections must not be shared across a fork."""

from __future__ import annotations

import os
import threading
from typing import Any, NamedTuple

import boto3.session
import botocore.session
from botocore.config import Config

from snapper.store.s3.http import bound_responses
from snapper.store.s3.location import S3Location

#: Seconds to wait for a connection, and for data on an open one, before the request is retried.
CONNECT_TIMEOUT = 5
READ_TIMEOUT = 15

#: Attempts per request, the first included, unless the user's AWS settings say otherwise.
_MAX_ATTEMPTS = 5

#: Connections per process: several layers are transferred at the same time, each in several ranges.
_MAX_CONNECTIONS = 16


class _Session(NamedTuple):
    session: boto3.session.Session
    retries: dict[str, Any]


class _ProcessState:
    """The sessions and clients of this process.

    Sessions survive a fork, which saves loading S3's service description again; clients do not.
    """

    def __init__(self) -> None:
        self.sessions: dict[tuple[tuple[str, str], ...], _Session] = {}
        self.reset()

    def reset(self) -> None:
        self.clients: dict[S3Location, Any] = {}
        self.lock = threading.Lock()


_state = _ProcessState()
os.register_at_fork(after_in_child=_state.reset)


def client_for(location: S3Location) -> Any:
    """Return this process's client for the location. Raise what boto3 raises."""
    with _state.lock:
        if location not in _state.clients:
            _state.clients[location] = _create_client(location)
        return _state.clients[location]


def _create_client(location: S3Location) -> Any:
    options = location.session_options
    key = tuple(sorted(options.items()))
    if key not in _state.sessions:
        _state.sessions[key] = _create_session(options)
    session, retries = _state.sessions[key]
    config = Config(
        connect_timeout=CONNECT_TIMEOUT,
        read_timeout=READ_TIMEOUT,
        max_pool_connections=_MAX_CONNECTIONS,
        retries=retries,
        # Objects are sent with their SHA-256 and verified by those who read them: no need for boto3's CRC.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    region = session.region_name or location.path.region or "us-east-1"
    client = session.client("s3", region_name=region, config=config, **location.client_options)
    bound_responses(client)
    return client


def _create_session(options: dict[str, str]) -> _Session:
    """Create a session with the user's retry settings, which default to five attempts in standard mode."""
    settings = botocore.session.Session()  # to read settings from: boto3's session cannot
    session = boto3.session.Session(botocore_session=settings, **options)
    mode, attempts = settings.get_config_variable("retry_mode"), settings.get_config_variable("max_attempts")
    retries = {
        "mode": "standard" if mode in (None, "legacy") else mode,
        "total_max_attempts": attempts or _MAX_ATTEMPTS,
    }
    return _Session(session, retries)
