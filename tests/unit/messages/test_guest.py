"""The codec of the guest wire: round trips, any split, hostile bytes, the agent's own parser."""

import struct
import subprocess

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from microvmd.messages.guest import (
    HEADER_SIZE,
    MAGIC,
    MAX_PAYLOAD,
    RESYNC,
    VERSION,
    Frame,
    FrameKind,
    FrameParser,
    json_frame,
    json_payload,
)
from tests.checkout import ASSETS

AGENT = ASSETS / "microvmd-agent"

frames = st.builds(
    Frame,
    st.sampled_from(FrameKind),
    st.integers(0, 2**32 - 1),
    st.binary(max_size=200),
)
streams = st.lists(st.one_of(frames.map(Frame.encode), st.binary(max_size=30)), max_size=12).map(
    b"".join
)


def parse(data: bytes, anchor: FrameKind = FrameKind.HELLO) -> list[Frame]:
    return list(FrameParser(anchor).feed(data))


@given(st.lists(frames))
def test_frames_come_back(sent: list[Frame]) -> None:
    parser = FrameParser(FrameKind.HELLO)
    assert list(parser.feed(b"".join(frame.encode() for frame in sent))) == sent
    assert parser.violations == 0


@given(streams, st.data())
def test_any_split_gives_the_same_frames(stream: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    parser = FrameParser(FrameKind.HELLO)
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert [frame for piece in pieces for frame in parser.feed(piece)] == parse(stream)


@given(streams)
def test_padding_and_hello_recover_from_anything(stream: bytes) -> None:
    hello = Frame(FrameKind.HELLO, 0, b'{"nonce":"1"}')
    assert parse(stream + RESYNC + hello.encode())[-1] == hello


@pytest.mark.parametrize(
    ("magic", "version", "kind", "length"),
    [
        (MAGIC + 1, VERSION, 3, 0),
        (MAGIC, VERSION + 1, 3, 0),
        (MAGIC, VERSION, 0, 0),
        (MAGIC, VERSION, 10, 0),
        (MAGIC, VERSION, 3, MAX_PAYLOAD + 1),
        (MAGIC, VERSION, 1, 257),
        (MAGIC, VERSION, 2, 1025),
    ],
)
def test_a_bad_header_is_a_violation(magic: int, version: int, kind: int, length: int) -> None:
    parser = FrameParser(FrameKind.HELLO)
    header = struct.pack("<HBBII", magic, version, kind, 1, length)
    assert list(parser.feed(header + bytes(20))) == []
    assert parser.violations == 1


def test_a_search_looks_at_no_header_that_cannot_be_the_anchor() -> None:
    parser = FrameParser(FrameKind.HELLO_ACK, lost=True)
    ack = Frame(FrameKind.HELLO_ACK, 0, b"{}")
    garbage = (b"\xff" * 1000, Frame(FrameKind.LOG, 1, b"VMVM").encode() * 1000, b"VM\x01" * 1000)
    for piece in garbage:
        assert list(parser.feed(piece)) == []
    assert parser.examined == 0
    assert list(parser.feed(ack.encode())) == [ack]
    assert parser.examined == 1


def test_the_largest_payload_passes_and_one_more_does_not() -> None:
    largest = Frame(FrameKind.DATA, 1, bytes(MAX_PAYLOAD))
    assert parse(largest.encode()) == [largest]
    with pytest.raises(ValueError, match="65537 bytes"):
        Frame(FrameKind.DATA, 1, bytes(MAX_PAYLOAD + 1)).encode()


@pytest.mark.parametrize("payload", [b"", b"[]", b"\xff", b"1", b"{", b"[" * 60000])
def test_control_payloads_are_json_objects(payload: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - json's own texts
        json_payload(Frame(FrameKind.REPLY, 1, payload))


def test_control_frames_carry_json() -> None:
    frame = json_frame(FrameKind.REQUEST, 5, {"op": "info"})
    assert frame.payload == b'{"op":"info"}'
    assert json_payload(frame) == {"op": "info"}


@pytest.mark.skipif(not AGENT.exists(), reason="guest/build.sh build/assets makes the agent")
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(streams)
def test_the_agent_reads_the_same_frames(stream: bytes) -> None:
    told = subprocess.run(
        [AGENT, "--decode-frames"], input=stream, capture_output=True, check=True, timeout=20
    )
    seen = [
        Frame(FrameKind(int(kind)), int(number), bytes.fromhex(payload))
        for kind, number, payload in (line.split(" ") for line in told.stdout.decode().splitlines())
    ]
    assert seen == parse(stream)


def test_resync_completes_any_half_frame() -> None:
    assert len(RESYNC) == HEADER_SIZE + MAX_PAYLOAD
