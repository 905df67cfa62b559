"""The wire between the service and its node: frames on a UNIX socket, and the messages in them.

A frame is an 8-byte big-endian header and a payload:

    magic u16 = 0x4e44 | version u8 = 3 | kind u8 | length u32 | payload

| kind      | payload                                                                       |
|-----------|-------------------------------------------------------------------------------|
| 1 MESSAGE | JSON ["<name of the message>", {members}], as ``messages.node`` and           |
|           | ``messages.node_requests`` have it; at most MESSAGE_LIMIT bytes               |
| 2 BYTES   | of a terminal; at most BYTES_LIMIT                                            |

**The sender is hostile.** A reader takes a closed list of names, every member and no other, of its
exact type and within its rule (``node_rules``). Whatever else comes is a WireError, after which the
connection is of no more use. A sender is held to the same, so that it learns of a message that
would be refused before it is sent. The version changes with any change of a message: both ends
are of one release.
"""

import enum
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pydantic import ConfigDict, TypeAdapter, ValidationError

from microvmd.messages.node_requests import FromNode, FromService, Request
from microvmd.messages.node_rules import RuleBroken, check

MAGIC = 0x4E44
VERSION = 3
MESSAGE_LIMIT = 4 << 20
FIRST_LIMIT = 256 * 1024
"""Of the first message of a connection: whoever may connect must not make the node hold more."""
BYTES_LIMIT = 64 * 1024

_HEADER = struct.Struct(">HBBI")
HEADER_SIZE = _HEADER.size
_NAME = re.compile(rb'\["([A-Za-z]{1,40})",')
_CONFIG = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class WireError(ValueError):
    """A frame or a message that is not one. Says what is wrong, and repeats no value."""


class Kind(enum.IntEnum):
    """What a frame holds."""

    MESSAGE = 1
    BYTES = 2


@dataclass(frozen=True, slots=True)
class Header:
    """The head of a frame, of which ``length`` bytes follow."""

    kind: Kind
    length: int

    @classmethod
    def parse(cls, data: bytes, limit: int = MESSAGE_LIMIT) -> "Header":
        """``limit`` is for messages. Raise WireError."""
        if len(data) != HEADER_SIZE:
            raise WireError("a frame ends within its header")
        magic, version, number, length = _HEADER.unpack(data)
        if magic != MAGIC or number not in (Kind.MESSAGE, Kind.BYTES):
            raise WireError("no frame begins here")
        if version != VERSION:
            raise WireError(f"version {version} of the wire, here is {VERSION}: restart both ends")
        kind = Kind(number)
        most = limit if kind is Kind.MESSAGE else BYTES_LIMIT
        if length > most:
            raise WireError(f"a frame of {length} bytes, at most {most} are allowed")
        return cls(kind, length)


class Codec:
    """Writes and reads a closed list of messages."""

    def __init__(self, messages: Iterable[type]) -> None:
        self._adapters: dict[str, TypeAdapter[Any]] = {
            message.__name__: TypeAdapter(
                tuple[Literal[message.__name__], message],  # type: ignore[name-defined, valid-type]
                config=_CONFIG,
            )
            for message in messages
        }

    def encode(self, message: object) -> bytes:
        """A whole frame. Raise WireError for what the reader would refuse."""
        name = type(message).__name__
        adapter = self._adapters.get(name)
        if adapter is None:
            raise WireError(f"{name} does not go this way")
        _check(message)
        try:
            payload = adapter.dump_json((name, message))
        except ValueError as error:
            raise WireError(f"{name} cannot be written: {type(error).__name__}") from error
        if len(payload) > MESSAGE_LIMIT:
            raise WireError(f"{name} of {len(payload)} bytes, at most {MESSAGE_LIMIT} are allowed")
        return _HEADER.pack(MAGIC, VERSION, Kind.MESSAGE, len(payload)) + payload

    def decode(self, payload: bytes) -> object:
        """The message of a frame. Raise WireError."""
        found = _NAME.match(payload)
        adapter = self._adapters.get(found[1].decode()) if found else None
        if found is None or adapter is None:
            raise WireError("no message of the list")
        try:
            _, message = adapter.validate_json(payload)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            # Of a name that the sender chose nothing is repeated.
            raise WireError(f"{found[1].decode()} is malformed: {first['type']}") from None
        _check(message)
        return message


def _check(message: object) -> None:
    try:
        check(message)
    except RuleBroken as error:
        raise WireError(str(error)) from None


def bytes_frame(data: bytes) -> bytes:
    """A whole frame of a terminal's bytes."""
    if len(data) > BYTES_LIMIT:
        raise WireError(f"{len(data)} bytes at once, at most {BYTES_LIMIT} are allowed")
    return _HEADER.pack(MAGIC, VERSION, Kind.BYTES, len(data)) + data


TO_NODE = Codec(get_args(FromService))
FROM_NODE = Codec(get_args(FromNode))
REQUESTS: tuple[type, ...] = get_args(Request)
