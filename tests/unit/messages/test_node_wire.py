"""What is written is read as it was, and nothing else is read at all."""

import json
import random
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from microvmd.messages.node import DeleteVersion, LogTarget, StartMicrovm, VersionKey
from microvmd.messages.node_requests import AskVmm, Keep, OpenControl, ReadLogs, ResizeShell
from microvmd.messages.node_rules import check
from microvmd.messages.node_wire import (
    BYTES_LIMIT,
    FROM_NODE,
    HEADER_SIZE,
    MESSAGE_LIMIT,
    REQUESTS,
    TO_NODE,
    Header,
    Kind,
    WireError,
    bytes_frame,
)
from tests import nodemessages
from tests.nodemessages import messages, spoiled

ID = "microvm-00000000-0000-4000-8000-000000000000"
QUICK = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@QUICK
@given(messages(nodemessages.TO_NODE))
def test_what_a_node_is_told_arrives_as_it_was(message: object) -> None:
    frame = TO_NODE.encode(message)
    header = Header.parse(frame[:HEADER_SIZE])
    assert (header.kind, header.length) == (Kind.MESSAGE, len(frame) - HEADER_SIZE)
    assert TO_NODE.decode(frame[HEADER_SIZE:]) == message


@QUICK
@given(messages(nodemessages.FROM_NODE))
def test_what_a_node_says_arrives_as_it_was(message: object) -> None:
    assert FROM_NODE.decode(FROM_NODE.encode(message)[HEADER_SIZE:]) == message


def test_each_kind_of_message_was_made() -> None:
    assert set(nodemessages.FIELDS) == {*nodemessages.TO_NODE, *nodemessages.FROM_NODE}
    assert set(REQUESTS) < set(nodemessages.TO_NODE)


@QUICK
@given(messages(nodemessages.TO_NODE), st.randoms(use_true_random=False))
def test_a_spoiled_message_is_refused_or_harmless(message: object, rng: random.Random) -> None:
    payload = spoiled(TO_NODE.encode(message)[HEADER_SIZE:], rng)
    try:
        found = TO_NODE.decode(payload)
    except WireError:
        return
    check(found)
    assert TO_NODE.decode(TO_NODE.encode(found)[HEADER_SIZE:]) == found


@given(st.binary(max_size=64))
def test_noise_is_refused(noise: bytes) -> None:
    with pytest.raises(WireError):
        TO_NODE.decode(noise)


@given(st.binary(min_size=HEADER_SIZE, max_size=HEADER_SIZE))
def test_a_header_is_one_or_refused(noise: bytes) -> None:
    try:
        header = Header.parse(noise)
    except WireError:
        return
    assert header.length <= MESSAGE_LIMIT


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("image_name", "../../etc"),
        ("image_name", "a/b"),
        ("image_name", ""),
        ("image_name", "a\n"),
        ("account", "000000000000/.."),
        ("account", "\u0660" * 12),
        ("number", "1"),
        ("number", "1.0/../2.0"),
        ("number", 1.0),
        ("number", None),
        ("number", ["1.0"]),
        ("number", "01.0"),
    ],
)
def test_a_version_is_no_path(member: str, value: object) -> None:
    members = {"account": "000000000000", "image_name": "app", "number": "1.0"}
    message = ["DeleteVersion", {"version": members}]
    assert TO_NODE.decode(json.dumps(message, separators=(",", ":")).encode()) == DeleteVersion(
        VersionKey(**members)
    )
    members[member] = value  # type: ignore[assignment]
    with pytest.raises(WireError):
        TO_NODE.decode(json.dumps(message, separators=(",", ":")).encode())


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{}",
        b'["OpenControl",{}] ',
        b'["OpenControl",{"x":1}]',
        b'["OpenControl",{},{}]',
        b'["OpenControl"]',
        b'["Started",{"microvm_id":"%s","generation":1,"edge_address":"10.0.0.1"}]' % ID.encode(),
        b'["__class__",{}]',
        b'["AskVmm",{"microvm_id":"microvm-../../../etc/passwd"}]',
        b'["AskVmm",{"microvm_id":"%s/.."}]' % ID.encode(),
        b'["ResizeShell",{"rows":0,"cols":1}]',
        b'["ResizeShell",{"rows":true,"cols":1}]',
        b'["ResizeShell",{"rows":65536,"cols":1}]',
        b'["ReadLogs",{"group":"/etc","stream":null,"follow":false}]',
        b'["ReadLogs",{"group":"000000000000:a\\u0000","stream":null,"follow":false}]',
        b'["ReadLogs",{"group":"000000000000:a","stream":null,"follow":"no"}]',
        b'["AskVmm",' + b"[" * 100_000,
        b'["AskVmm",{"microvm_id":"\\ud800"}]',
    ],
)
def test_each_fault_is_refused(payload: bytes) -> None:
    if payload.endswith(b"] "):
        assert TO_NODE.decode(payload) == OpenControl(), "space is no fault"
        return
    with pytest.raises(WireError):
        TO_NODE.decode(payload)


@QUICK
@given(messages((StartMicrovm,)))
def test_a_sender_learns_what_would_be_refused(command: StartMicrovm) -> None:
    foreign = replace(command.spec, log=LogTarget("../group", "stream"))
    with pytest.raises(WireError, match=r"LogTarget\.group"):
        TO_NODE.encode(StartMicrovm(foreign))


def test_what_goes_the_other_way_is_not_written() -> None:
    with pytest.raises(WireError, match="does not go this way"):
        FROM_NODE.encode(OpenControl())


def test_sizes_have_an_end() -> None:
    ids = frozenset(f"microvm-00000000-0000-4000-8000-{n:012x}" for n in range(10_001))
    with pytest.raises(WireError, match=r"Keep\.microvms"):
        TO_NODE.encode(Keep(ids))
    assert len(TO_NODE.encode(Keep(frozenset(sorted(ids)[:-1])))) < MESSAGE_LIMIT
    with pytest.raises(WireError, match="at once"):
        bytes_frame(bytes(BYTES_LIMIT + 1))
    frame = bytes_frame(bytes(BYTES_LIMIT))
    assert Header.parse(frame[:HEADER_SIZE]) == Header(Kind.BYTES, BYTES_LIMIT)
    long = frame[:4] + (BYTES_LIMIT + 1).to_bytes(4, "big")
    with pytest.raises(WireError, match="at most"):
        Header.parse(long)
    with pytest.raises(WireError, match="within its header"):
        Header.parse(frame[:5])
    with pytest.raises(WireError, match="at most 10"):
        Header.parse(TO_NODE.encode(AskVmm(ID))[:HEADER_SIZE], 10)


def test_another_version_says_what_to_do() -> None:
    frame = bytearray(TO_NODE.encode(ResizeShell(1, 1)))
    frame[2] = 9
    with pytest.raises(WireError, match="restart both ends"):
        Header.parse(bytes(frame[:HEADER_SIZE]))


def test_a_refusal_repeats_no_value() -> None:
    group = "000000000000:secret\\u0000"
    payload = f'["ReadLogs",{{"group":"{group}","stream":null,"follow":false}}]'.encode()
    with pytest.raises(WireError) as refused:
        TO_NODE.decode(payload)
    assert "secret" not in str(refused.value)
    assert TO_NODE.encode(ReadLogs("000000000000:a", None, follow=False))
