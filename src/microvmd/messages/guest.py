"""The wire between a node and the guest agent: frames over one virtio-serial port.

A frame is a 12-byte little-endian header and a payload of at most 65536 bytes:

    magic u16 = 0x4d56 | version u8 = 1 | kind u8 | stream u32 | length u32 | payload

| kind        | from  | stream        | payload                                                 |
|-------------|-------|---------------|---------------------------------------------------------|
| 1 HELLO     | node  | 0             | JSON {"nonce": hex}, at most 256 bytes                  |
| 2 HELLO_ACK | agent | 0             | JSON {"nonce", "agent", "state", "exit"}, at most 1024  |
| 3 REQUEST   | node  | request id    | JSON {"op": ..., ...}                                   |
| 4 REPLY     | agent | request id    | JSON {"result": {...}} or {"failure": {code, message}}  |
| 5 LOG       | agent | 1 out, 2 err  | bytes that the application wrote                        |
| 6 EVENT     | agent | 0             | JSON {"event": "exited", "code", "signal"}              |
| 7 DATA      | both  | exec stream   | bytes; empty from the node = end of input               |
| 8 WINDOW    | both  | exec stream   | u32: so many bytes more may be sent                     |
| 9 CLOSE     | both  | exec stream   | agent: JSON {"code", "signal"}; node: empty, kill it    |

**Conversation.** A node connects whenever it likes (first boot, its own restart, a restore) and
says HELLO with a fresh nonce. The agent forgets what the former node left: half-read frames, exec
streams, unsent answers. Its HELLO_ACK repeats the nonce; whatever a node reads before that belongs
to an older conversation and is dropped. `state` is booted, running or exited; `exit` is null or
{"code", "signal"}. A node may send its first REQUEST together with HELLO.

**Recovery.** After a header that is not one (magic, version, kind, length) the agent drops bytes
until a HELLO. A node that gets no HELLO_ACK because its predecessor died inside a frame sends
`RESYNC` (zeros that complete any frame) and HELLO again. A node ends the connection at the first
bad header after HELLO_ACK: the guest is hostile or broken.

**Logs.** While no node listens the agent keeps 256 KiB; beyond that the oldest bytes are replaced
by a marker line. Logging never blocks the application. Order is kept: EVENT exited comes after
the application's last line.

**Exec streams.** The id is the id of the exec REQUEST, below 2**31; the error stream of a process
without a terminal is that id with bit 31 set. Each direction of each stream starts with a credit
of 65536 bytes; DATA uses it up, WINDOW gives more.

**Operations** (REQUEST `op`; times in milliseconds; every reply may be a failure with code
bad_request, unknown_op, busy, not_found, no_root, start_failed or failed):

| op        | members                                                 | result                  |
|-----------|---------------------------------------------------------|-------------------------|
| configure | unixNanos, hostname, machineId, env (list of "K=V")     | {}                      |
| start     | argv, env, cwd, user, capabilities "default" or "all"   | {pid}                   |
| restored  | as configure, and seed, bootId, endConnections (bool)   | as given, and sample    |
| hook      | name, port, timeoutMs, body (text or null)              | {status} or {error}     |
| listening |                                                         | {ports}                 |
| exec      | as start, and tty, rows, cols                           | {pid}; then DATA, CLOSE |
| shell     | rows, cols                                              | as exec                 |
| resize    | stream, rows, cols                                      | {}                      |
| signal    | signal, stream (absent: the application)                | {}                      |
| sync      |                                                         | {} after sync(2)        |
| drain     |                                                         | {} after the log so far |
| quiesce   |                                                         | {} after sync and drain |
| shutdown  | graceMs, powerOff                                       | {exit, forced}          |
| info      |                                                         | {agent, kernel, ...}    |

`env` of configure goes to every process that start and exec make. `seed` is base64 of 32 to 512
bytes and is not sent back; clock and ids of `restored` are read back in the guest. `sample` is 16
random bytes that the guest draws after it was reseeded, in hexadecimal digits. `endConnections`
ends its TCP connections with the outside: those that a restore has cut. `error` of a hook is
refused, timeout or reset. `start` and `exec` resolve `user` ("uid", "uid:gid", "name",
"name:group") in the image's own tables. `shell` starts bash, else sh, else a shell of the agent's
own: as the superuser, on a terminal, with the application's environment, directory and rights.

`bootId` is a UUID; without it a new machine id in `restored` or `configure` also draws a new boot
id, and the same machine id keeps it. The Rust side is guest/src/frames.rs; a test feeds both the
same bytes.
"""

import enum
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

MAGIC = 0x4D56
VERSION = 1
MAX_PAYLOAD = 65536
WINDOW = 65536
ERROR_BIT = 1 << 31

_HEADER = struct.Struct("<HBBII")
_START = struct.Struct("<HBB")
HEADER_SIZE = _HEADER.size

RESYNC = bytes(HEADER_SIZE + MAX_PAYLOAD)


class FrameKind(enum.IntEnum):
    HELLO = 1
    HELLO_ACK = 2
    REQUEST = 3
    REPLY = 4
    LOG = 5
    EVENT = 6
    DATA = 7
    WINDOW = 8
    CLOSE = 9


_LIMITS = {FrameKind.HELLO: 256, FrameKind.HELLO_ACK: 1024}


@dataclass(frozen=True, slots=True)
class Frame:
    kind: FrameKind
    stream: int
    payload: bytes

    def encode(self) -> bytes:
        if len(self.payload) > _LIMITS.get(self.kind, MAX_PAYLOAD):
            raise ValueError(f"{self.kind.name} payload of {len(self.payload)} bytes")
        length = len(self.payload)
        return _HEADER.pack(MAGIC, VERSION, self.kind, self.stream, length) + self.payload


def json_frame(kind: FrameKind, stream: int, value: dict[str, Any]) -> Frame:
    """A control frame.

    Raises:
        ValueError: the value does not fit into a frame, or is no JSON.
    """
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return Frame(kind, stream, text.encode())


def json_payload(frame: Frame) -> dict[str, Any]:
    """The JSON object of a control frame that a hostile guest may have written.

    Raises:
        ValueError: it is no JSON object.
    """
    try:
        value = json.loads(frame.payload)
    except RecursionError:
        raise ValueError("JSON nested too deep") from None
    if not isinstance(value, dict):
        raise ValueError("no JSON object")
    return value


class FrameParser:
    """Bytes in any portions to frames; holds one frame at most.

    After a bad header it drops bytes until a frame of kind `anchor` (what starts a conversation in
    that direction) and counts a violation. `lost` starts it in that search.
    """

    def __init__(self, anchor: FrameKind, *, lost: bool = False) -> None:
        self._anchor = anchor
        self._buffer = bytearray()
        self._lost = lost
        self._start = _START.pack(MAGIC, VERSION, anchor)
        self.violations = 0
        self.examined = 0
        """Headers looked at so far: what parsing costs, whatever the bytes are."""

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that `data` completes; iterate to the end before feeding more."""
        self._buffer += data
        while len(self._buffer) >= HEADER_SIZE:
            if self._lost and not self._skip():
                break
            header = self._header()
            if header is None or (self._lost and header[0] is not self._anchor):
                self.violations += not self._lost
                self._lost = True
                del self._buffer[0]
                continue
            kind, stream, length = header
            end = HEADER_SIZE + length
            if end > len(self._buffer):
                break
            self._lost = False
            frame = Frame(kind, stream, bytes(self._buffer[HEADER_SIZE:end]))
            del self._buffer[:end]
            yield frame

    def search(self) -> None:
        """Drop what follows until the next anchor: the last one was not the awaited one."""
        self._lost = True

    def _skip(self) -> bool:
        """Drop what cannot begin an anchor; false when there is no whole header left."""
        found = self._buffer.find(self._start)
        del self._buffer[: found if found >= 0 else len(self._buffer) - len(self._start) + 1]
        return len(self._buffer) >= HEADER_SIZE

    def _header(self) -> tuple[FrameKind, int, int] | None:
        self.examined += 1
        magic, version, number, stream, length = _HEADER.unpack_from(self._buffer)
        if magic != MAGIC or version != VERSION or not 1 <= number <= FrameKind.CLOSE:
            return None
        kind = FrameKind(number)
        if length > _LIMITS.get(kind, MAX_PAYLOAD):
            return None
        return kind, stream, length
