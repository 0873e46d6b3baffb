"""Credentials in URLs do not get into messages, records, and logs."""

from __future__ import annotations

import json
import logging
import pickle
from pathlib import Path

import pytest

from snapper.cli.app import run
from snapper.errors import NotAStore, StoreUnreachable
from snapper.errors.redaction import SHOWN_OPTIONS, redact, redact_url
from snapper.process.logs import configure_logging
from snapper.settings.log_file import open_log
from snapper.store import open_store
from snapper.store.s3 import S3Store, location, parse_url
from tests.support.processes import limited_cpu_time

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"http://me:{SECRET}@host:9000/path", "http://***@host:9000/path"),
        (f"https://{SECRET}@host", "https://***@host"),
        (f"http://me:a/b?c#{SECRET}@host/", "http://***@host/"),
        (f"http://me:{SECRET}", "http://***"),
        (f"HTTPS://host/key?X-Amz-Signature={SECRET}", "HTTPS://host/key?***"),
        (f"https://host/#{SECRET}", "https://host/#***"),
        (f"s3://AKIA:a/{SECRET}@bucket/prefix", "s3://***@bucket/prefix"),
        (f"s3://b/p?endpoint_url=http://me:{SECRET}@h:1/&region_name=eu", None),
        (f"s3://b/p?endpoint_url=http%3A%2F%2Fme%3A{SECRET}%40h", "s3://b/p?endpoint_url=http://***@h"),
        (f"s3://b/p?endpoint_url=https://h/?token={SECRET}", "s3://b/p?endpoint_url=https://h/?***"),
        (f"s3://b/p?endpoint_url=http://me:{SECRET}&{SECRET}@h", "s3://b/p?endpoint_url=http://***&***"),
        (f"s3://b/p?aws_secret_access_key={SECRET}", "s3://b/p?aws_secret_access_key=***"),
        (f"ftp://me:{SECRET}@host/file", "ftp://***@host/file"),
    ],
)
def test_credentials_are_removed_from_urls(url: str, shown: str | None) -> None:
    shown = shown or "s3://b/p?endpoint_url=http://***@h:1/&region_name=eu"
    assert redact_url(url) == shown
    assert redact(f"cannot read '{url}', or {url}") == f"cannot read '{shown}', or {shown}"


@pytest.mark.parametrize(
    "url",
    [
        "/srv/store",
        "s3://bucket/team@work/a:b",
        "s3://bucket/p?endpoint_url=http://127.0.0.1:9000&profile_name=x&SSEKMSKeyId=arn:aws:kms:a:1:key/b",
        "http://[::1]:9000/a:b",
        "file:///srv/a?b@c",
        "https://conda.anaconda.org/conda-forge",
    ],
)
def test_urls_without_credentials_stay_as_they_are(url: str) -> None:
    assert redact_url(url) == redact(url) == url


def test_options_of_s3_stores_are_shown_except_endpoints() -> None:
    assert {*location._OPTIONS} == {*SHOWN_OPTIONS, "endpoint_url"}


def test_long_texts_are_searched_in_linear_time() -> None:
    """Publishers choose some of the texts that are logged. In quadratic time, this would take hours."""
    text = "a" * 10_000_000
    with limited_cpu_time():
        assert redact(f"{text}://me:{SECRET}@host") == f"{text}://***@host"
        assert redact(f"://{text}") == f"://{text}"


def test_errors_hold_no_credentials() -> None:
    error = StoreUnreachable(f"s3://b?endpoint_url=http://me:{SECRET}@h", f"http://me:{SECRET}@h: no answer")
    for form in (error, pickle.loads(pickle.dumps(error))):
        assert SECRET not in f"{form.message} {form.hint} {form} {form!r} {form.__dict__}"


def test_stores_show_no_credentials_but_use_them() -> None:
    store = S3Store(parse_url(f"s3://b/p?endpoint_url=http://me:{SECRET}@h:1&region_name=eu"))
    assert store.url == "s3://b/p?endpoint_url=http://***@h:1&region_name=eu"
    assert SECRET not in repr(store)
    assert store.location.client_options == {"endpoint_url": f"http://me:{SECRET}@h:1"}


@pytest.mark.parametrize(
    "url",
    [
        f"https://h/p?X-Amz-Signature={SECRET}",
        f"s3://b/p?secret={SECRET}",
        f"s3://AKIA:{SECRET}@b/p",
        f"s3:///?{SECRET}",
        f"file://me:{SECRET}@h/p",
    ],
)
def test_invalid_urls_are_reported_without_credentials(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(NotAStore) as caught:
        open_store(url)
    assert SECRET not in caught.value.message + caught.value.hint
    for command in (["list"], ["config", "set"], ["config"], ["status"]):
        monkeypatch.setenv("SNAPPER_STORE", url)
        run([*command, "store", url] if command[-1] == "set" else command)
    assert SECRET not in "".join(capsys.readouterr())


def test_settings_are_shown_without_credentials(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "config.toml"
    monkeypatch.setenv("SNAPPER_CONFIG", str(file))
    monkeypatch.delenv("SNAPPER_STORE", raising=False)
    url = f"s3://b/p?endpoint_url=http://me:{SECRET}@h"
    for command in (["set", "store", url], ["get", "store"], ["show"], []):
        for as_json in ([], ["--json"]):
            assert run(["config", *command, *as_json]) == 0
    printed = "".join(capsys.readouterr())
    assert SECRET not in printed
    assert json.dumps("s3://b/p?endpoint_url=http://***@h") in printed
    assert url in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600


def test_logs_hold_no_credentials(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(logging.WARNING)
    logging.getLogger("snapper.test").warning("at %s", f"http://me:{SECRET}@h")
    assert capsys.readouterr().err == "snapper: warning: at http://***@h\n"
    with open_log(tmp_path / "log") as log:
        log.write(f"Error: http://me:{SECRET}@h\n")
    assert (tmp_path / "log").read_text().endswith(" Error: http://***@h\n")
