"""Keeps the local AWS server from growing: it holds log events and assumed roles in its memory.

Runs inside that server's process. Log streams that were written to least recently go first, and
the oldest events of the one that is left; sessions of roles go when they have expired. The node's
own log store has what is dropped here.
"""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog

log = structlog.get_logger(__name__)

INTERVAL_S = 10.0
EVENT_BYTES = 500
"""What an event takes beside its text, about."""
STREAM_BYTES = 2000
"""What a stream takes beside its events, about."""


@dataclass(frozen=True, slots=True)
class _Stream:
    """One log stream of the server, and what it takes."""

    group: Any
    name: str
    stream: Any
    size: int

    @property
    def written(self) -> datetime:
        found: datetime = self.stream.last_ingestion_time or self.stream.creation_time
        return found


def keep_small(log_bytes: int) -> threading.Thread:
    """Start trimming for as long as the process lives."""
    thread = threading.Thread(target=_forever, args=(log_bytes,), name="retention", daemon=True)
    thread.start()
    return thread


def _forever(log_bytes: int) -> None:
    pause = threading.Event()
    while not pause.wait(INTERVAL_S):
        try:
            trim_logs(log_bytes)
            drop_expired_roles()
        except Exception:
            # It goes on at the next round: a server that grows is better than one that ends.
            log.exception("local_aws.trim_failed")


def trim_logs(limit: int) -> None:
    """Drop what is oldest until all log events together take `limit` bytes at most."""
    streams = sorted(_streams(), key=lambda one: one.written)
    excess = sum(one.size for one in streams) - limit
    for one in streams:
        if excess <= 0:
            return
        if one.size <= excess and one is not streams[-1]:
            one.group.streams.pop(one.name, None)
            excess -= one.size
        else:
            excess -= _shorten(one.stream, excess)


def drop_expired_roles() -> None:
    """Forget sessions that have ended, and their access keys."""
    from moto.core.utils import utcnow
    from moto.iam.models import iam_backends
    from moto.sts.models import sts_backends

    now = utcnow()
    for account, backends in list(sts_backends.items()):
        for partition, backend in list(backends.items()):
            expired = [role for role in backend.assumed_roles if role.expiration <= now]
            for role in expired:
                backend.assumed_roles.remove(role)
                iam_backends[account][partition].access_keys.pop(role.access_key_id, None)


def _streams() -> Iterator[_Stream]:
    from moto.logs.models import logs_backends

    for backends in list(logs_backends.values()):
        for backend in list(backends.values()):
            for group in list(backend.groups.values()):
                for name, stream in list(group.streams.items()):
                    size = STREAM_BYTES + sum(map(_size, list(stream.events)))
                    yield _Stream(group, name, stream, size)


def _size(event: Any) -> int:  # noqa: ANN401 (moto has no types)
    return len(event.message) + EVENT_BYTES


def _shorten(stream: Any, excess: int) -> int:  # noqa: ANN401
    """Drop the oldest events that together take `excess` bytes; what they took."""
    taken = count = 0
    for event in list(stream.events):
        if taken >= excess:
            break
        taken += _size(event)
        count += 1
    # At once, so that events which are added meanwhile stay.
    del stream.events[:count]
    return taken
