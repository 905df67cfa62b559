"""One connection between the service and its node: messages and bytes, one frame after another."""

import asyncio
import socket
import struct
from collections import deque
from pathlib import Path

from microvmd.messages.node_requests import SHELL_CREDIT, ShellTaken
from microvmd.messages.node_wire import (
    BYTES_LIMIT,
    HEADER_SIZE,
    MESSAGE_LIMIT,
    Codec,
    Header,
    Kind,
    WireError,
    bytes_frame,
)

_CREDENTIALS = struct.Struct("3i")


class Channel:
    """Either end. Sending raises OSError once the other side has gone."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        incoming: Codec,
        outgoing: Codec,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._incoming = incoming
        self._outgoing = outgoing

    @property
    def peer(self) -> int:
        """User id of the process at the other end, when it connected or began to listen."""
        found: socket.socket = self._writer.get_extra_info("socket")
        raw = found.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        _, uid, _ = _CREDENTIALS.unpack(raw)
        return int(uid)

    async def receive(self, limit: int = MESSAGE_LIMIT) -> object:
        """A message, bytes, or None at the end. Raise WireError for anything else."""
        try:
            head = await self._reader.readexactly(HEADER_SIZE)
        except asyncio.IncompleteReadError as error:
            if error.partial:
                raise WireError("the connection ends within a header") from error
            return None
        except ConnectionError:
            return None
        header = Header.parse(head, limit)
        try:
            payload = await self._reader.readexactly(header.length)
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise WireError("the connection ends within a frame") from error
        return payload if header.kind is Kind.BYTES else self._incoming.decode(payload)

    async def send(self, message: object) -> None:
        """Raise WireError, and send nothing, for what the other side would refuse."""
        self.put(message)
        await self._writer.drain()

    def put(self, message: object) -> None:
        """As ``send``, without waiting until the other side takes it."""
        self._writer.write(self._outgoing.encode(message))

    async def send_bytes(self, data: bytes) -> None:
        self._writer.write(bytes_frame(data))
        await self._writer.drain()

    async def gone(self) -> None:
        """Until the other side hangs up. Raise WireError when it says anything before."""
        if await self.receive() is not None:
            raise WireError("nothing may come here")

    async def drain(self) -> None:
        await self._writer.drain()

    def close(self) -> None:
        self._writer.close()


async def dial(path: Path, *, incoming: Codec, outgoing: Codec) -> Channel:
    """Connect. Raises OSError."""
    reader, writer = await asyncio.open_unix_connection(path, limit=BYTES_LIMIT)
    return Channel(reader, writer, incoming=incoming, outgoing=outgoing)


class Terminal:
    """The bytes of a shell on a channel: what the credit lets through, both ways.

    Somebody must ``receive`` from the channel all the time and hand in what comes.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._credit = SHELL_CREDIT
        self._held: deque[bytes] = deque()
        self._size = 0
        self._changed = asyncio.Event()
        self._ended = False

    def took(self, taken: ShellTaken) -> None:
        """The other side has room again. Raise WireError when it never gave the bytes."""
        self._credit += taken.count
        if self._credit > SHELL_CREDIT:
            raise WireError("more was taken than was sent")
        self._wake()

    def came(self, data: bytes) -> None:
        """Raise WireError when the other side had no credit for it."""
        self._size += len(data)
        if self._size > SHELL_CREDIT:
            raise WireError("bytes without credit")
        self._held.append(data)
        self._wake()

    def end(self) -> None:
        """No more comes."""
        self._ended = True
        self._wake()

    async def read(self) -> bytes | None:
        """The next bytes, or None at the end."""
        while not self._held:
            if self._ended:
                return None
            await self._change()
        data = self._held.popleft()
        self._size -= len(data)
        if data and not self._ended:
            await self._channel.send(ShellTaken(len(data)))
        return data

    async def write(self, data: bytes) -> None:
        """Until all of it has gone; waits for credit."""
        while data and not self._ended:
            if not self._credit:
                await self._change()
                continue
            piece, data = data[: self._credit], data[self._credit :]
            self._credit -= len(piece)
            await self._channel.send_bytes(piece)

    async def _change(self) -> None:
        await self._changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
