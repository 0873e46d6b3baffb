"""Canonical JSON: equal values give equal bytes, and malformed documents are rejected with a one-line error."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapper.format import canonical
from snapper.format.canonical import MalformedDocument, decode, encode, parse, to_jsonable
from snapper.format.constraints import is_digest, is_valid_name
from snapper.format.model import LARGEST_LAYER, Deviation, Ref, Snapshot
from tests.support.documents import A, B, sample_ref, sample_snapshot


def document(value: object) -> Any:
    return json.loads(encode(value))


@pytest.mark.parametrize("value", [sample_snapshot(), sample_ref()])
def test_decoding_inverts_encoding(value: Snapshot | Ref) -> None:
    data = encode(value)
    assert decode(type(value), parse(data)) == value
    assert encode(decode(type(value), parse(data))) == data


def test_encoded_json_is_sorted_ascii_without_white_space() -> None:
    data = encode(sample_ref(history=(sample_ref().latest,)))
    assert data == (
        b'{"current":"%(b)b","format":1,"history":[{"action":"pack","added_size":4,"host":"host",'
        b'"message":"why\\n","packages":1,"prefix":"/home/ada/\\udcff","size":2,"snapshot":"%(b)b","stored_size":3,'
        b'"time":"2026-01-01T00:00:00Z","user":"ada"}],"name":"work","tags":{"v1":"%(a)b","\\u03c9":"%(b)b"}}'
        % {b"a": A.encode(), b"b": B.encode()}
    )


def test_fields_that_are_none_are_omitted() -> None:
    first, second = document(sample_snapshot())["layers"]
    assert "begins" not in first
    assert second["begins"] == {"path": "big", "offset": 700, "size": 9000, "replaced": 3}


@given(st.permutations(["v1", "v2", "ω", "_", "9"]))
def test_equal_values_give_equal_bytes(order: list[str]) -> None:
    tags = {name: A if name < "b" else B for name in sorted(order)}
    shuffled = {name: tags[name] for name in order}
    assert sample_ref(tags=tags) == sample_ref(tags=shuffled)
    assert encode(sample_ref(tags=tags)) == encode(sample_ref(tags=shuffled))


#: Characters, and surrogates for bytes of file names that are not UTF-8.
TEXT = st.text(st.characters() | st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF, categories=["Cs"]))


@given(st.lists(TEXT, max_size=4).map(tuple), TEXT)
def test_decoding_inverts_encoding_for_any_text(paths: tuple[str, ...], text: str) -> None:
    value = sample_snapshot(altered=(Deviation(text, paths),))
    assert decode(Snapshot, parse(encode(value))) == value


def test_jsonable_value_equals_parsed_json() -> None:
    assert to_jsonable(sample_snapshot()) == document(sample_snapshot())


# --- malformed documents -----------------------------------------------------------------------------------

NOT_JSON = {
    "empty": b"",
    "incomplete JSON": b"{",
    "two values": b"{}{}",
    "not UTF-8": b'{"a":"\xff\xfe"}',
    "float": b'{"format":1.0}',
    "exponent": b'{"format":1e3}',
    "NaN": b'{"format":NaN}',
    "infinity": b'{"format":-Infinity}',
    "repeated key": b'{"format":1,"format":1}',
    "repeated key in a nested object": b'{"tags":{"a":1,"\\u0061":2}}',
    "number with thousands of digits": b'{"format":' + b"9" * 5000 + b"}",
    "deeply nested lists": b"[" * 100_000,
    "deeply nested objects": b'{"a":' * 100_000,
    "unescaped line feed in a string": b'{"a":"\n"}',
}


@pytest.mark.parametrize("what", NOT_JSON)
def test_bytes_that_are_not_a_document_are_rejected(what: str) -> None:
    rejection(lambda: parse(NOT_JSON[what]))


def test_documents_above_the_size_limit_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canonical, "LARGEST_DOCUMENT", 10)
    assert parse(b'{"a": 123}') == {"a": 123}
    rejection(lambda: parse(b'{"a": 1234}'))


@given(st.binary(max_size=60) | st.text('{}[]":,\\u01eE+-.antrufls \n', max_size=60).map(str.encode))
def test_any_bytes_are_parsed_or_rejected(data: bytes) -> None:
    try:
        parse(data)
    except MalformedDocument as error:
        assert "\n" not in str(error)


def rejection(action: Any) -> str:
    """Return the message of the MalformedDocument that the action raises; it must be one line."""
    with pytest.raises(MalformedDocument) as caught:
        action()
    message = str(caught.value)
    assert message
    assert "\n" not in message
    return message


def at(top: Any, path: str) -> tuple[Any, str | int]:
    """Return the container and the key at the end of a dotted path."""
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    for part in parents:
        top = top[part]
    return top, last


FIELDS = ["platform", "mode", "packages", "layers", "layers.0.relocations.0.paths", "layers.1.begins.offset"]
FIELDS += [
    "layers.0.digest",
    "packages.0.url",
    "pip.0.name",
    "kernels.0.language",
    "altered.0.paths",
    "layers.1.kind",
]


@pytest.mark.parametrize("path", FIELDS)
def test_missing_field_is_named_in_the_error(path: str) -> None:
    whole = document(sample_snapshot())
    container, key = at(whole, path)
    del container[key]
    assert repr(key) in rejection(lambda: decode(Snapshot, whole))


@pytest.mark.parametrize(
    "path", ["more", "layers.0.more", "layers.0.relocations.1.more", "layers.1.begins.a\nb"]
)
def test_unknown_field_is_named_in_the_error(path: str) -> None:
    whole = document(sample_snapshot())
    container, key = at(whole, path)
    container[key] = 1
    assert repr(key) in rejection(lambda: decode(Snapshot, whole))


def mistyped() -> list[tuple[str, Any]]:
    """Return fields with values of a wrong type, or with items of a wrong type."""
    pairs: list[tuple[str, Any]] = []
    for path in [*FIELDS, "format", "layers.0", "layers.1.begins", "altered.0.paths.1"]:
        container, key = at(document(sample_snapshot()), path)
        plausible: tuple[Any, ...] = ("text", 1, [])
        values: tuple[Any, ...] = (None, True, 1, "text", [], {}, [1], [[]], {"a": 1})
        for value in values:
            if type(value) is not type(container[key]) or value not in plausible:
                pairs.append((path, value))
    return pairs


@pytest.mark.parametrize(("path", "value"), mistyped(), ids=repr)
def test_values_of_wrong_type_are_rejected(path: str, value: Any) -> None:
    assert path.partition(".")[0] in reject_snapshot_with(path, value)


@pytest.mark.parametrize("value", [None, True, 0, "text", [], [{}]], ids=repr)
@pytest.mark.parametrize("kind", [Snapshot, Ref])
def test_documents_that_are_not_objects_are_rejected(kind: type[Snapshot | Ref], value: object) -> None:
    rejection(lambda: decode(kind, value))


DIGESTS = [
    "",
    "a" * 63,
    "a" * 65,
    "A" * 64,
    "g" * 64,
    "a" * 64 + "\n",
    "../" + "a" * 61,
    "a" * 31 + "/" + "a" * 32,
]
DIGESTS += ["٣" * 64, " " + "a" * 63]
PATHS = [
    "",
    "/",
    "/etc/passwd",
    "..",
    "../x",
    "a/../b",
    "a/..",
    ".",
    "./a",
    "a/.",
    "a//b",
    "a/",
    "a\0b",
    "\0",
]
PATHS += [".snapper", ".snapper/state.json", "a/" * 256 + "a"]
PLACEHOLDERS = ["", "/", "relative", "/nul\0", "/\udcff", "/\ud800"]
NAMES = ["", ".", "..", "-a", ".a", "a/b", "a b", "a\n", "a\0", "a@b", "~", "x" * 129, "a:b", "é/", "*"]
NAMES += [f"team{letter}" for letter in "\u115f\u1160\u3164\uffa0"]


def test_valid_digests_and_names() -> None:
    assert is_digest(A)
    assert not any(map(is_digest, DIGESTS))
    assert all(map(is_valid_name, ["a", "A-1.2+x", "_", "3", "日本", "x" * 128, "a..b"]))
    assert not any(map(is_valid_name, NAMES))


def reject_snapshot_with(path: str, value: Any) -> str:
    """Return the message with which a snapshot with this value is rejected."""
    whole = document(sample_snapshot())
    container, key = at(whole, path)
    container[key] = value
    return rejection(lambda: decode(Snapshot, whole))


@pytest.mark.parametrize("digest", DIGESTS)
@pytest.mark.parametrize("field", ["digest", "diff_id"])
def test_malformed_layer_digests_are_rejected(digest: str, field: str) -> None:
    assert "sha256" in reject_snapshot_with(f"layers.1.{field}", digest)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("field", ["relocations.0.paths.1", "begins.path"])
def test_paths_outside_the_environment_are_rejected(path: str, field: str) -> None:
    reject_snapshot_with(f"layers.1.{field}", path)


@pytest.mark.parametrize("placeholder", PLACEHOLDERS)
def test_malformed_placeholders_are_rejected(placeholder: str) -> None:
    reject_snapshot_with("layers.0.relocations.0.placeholder", placeholder)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("layers.0.size", -1),
        ("layers.0.members", -1),
        ("layers.0.diff_size", LARGEST_LAYER + 1),
        ("layers.0.size", 2**63),
        ("layers.0.size", 10**4000),
        ("mode", -1),
        ("mode", 0o10000),
        ("mode", 2**63),
        ("layers.0.kind", "other"),
        ("layers.0.relocations.0.mode", "else"),
        ("layers.1.begins.offset", -1),
        ("layers.1.begins.replaced", -1),
        ("layers.1.begins.size", 699),
        ("layers.1.begins.offset", 9001),
        ("layers.1.begins.replaced", 701),
        ("layers.0.begins", {"path": "big", "offset": 1, "size": 9000, "replaced": 0}),
    ],
)
def test_values_out_of_range_are_rejected(path: str, value: Any) -> None:
    reject_snapshot_with(path, value)


def reject_ref_with(path: str, value: Any) -> str:
    """Return the message with which a ref with this value is rejected."""
    whole = document(sample_ref())
    container, key = at(whole, path)
    container[key] = value
    return rejection(lambda: decode(Ref, whole))


@pytest.mark.parametrize("digest", DIGESTS)
@pytest.mark.parametrize("path", ["current", "tags.v1", "history.0.snapshot"])
def test_malformed_snapshot_ids_in_refs_are_rejected(digest: str, path: str) -> None:
    assert "sha256" in reject_ref_with(path, digest)


@pytest.mark.parametrize("name", NAMES)
def test_malformed_names_of_environments_and_tags_are_rejected(name: str) -> None:
    assert "name" in reject_ref_with("name", name)
    assert "tag" in reject_ref_with("tags", {name: A})


def test_error_about_a_tag_with_a_line_feed_is_one_line() -> None:
    reject_ref_with("tags", {"a\nb": 1})


def test_history_must_end_at_the_current_snapshot() -> None:
    assert "history" in reject_ref_with("current", A)
    assert "history" in reject_ref_with("history", [])


@pytest.mark.parametrize("field", ["packages", "size", "stored_size", "added_size"])
def test_history_entries_with_impossible_sizes_are_rejected(field: str) -> None:
    assert "larger than that of any snapshot" in reject_ref_with(f"history.0.{field}", 2**45 + 1)


@pytest.mark.parametrize("prefix", ["/a\0b", "/\ud800", "/" + "x" * 4096])
def test_history_entries_with_impossible_prefixes_are_rejected(prefix: str) -> None:
    reject_ref_with("history.0.prefix", prefix)
