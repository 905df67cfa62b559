"""What the idle policy needs to know: how many bytes went through each endpoint.

HAProxy counts in a stick table, keyed by endpoint id, only for requests that passed the token
check. `option contstats` makes it add the bytes of open streams every five seconds, so a WebSocket
that says one word a second counts and an open silent stream does not (measured with HAProxy 2.6).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_FIELD = re.compile(r"(\w+)=(\S+)")
FORGET = "set table activity key {} data.gpt 0"
"""Command for HAProxy's worker: the next answer of this endpoint is the first one. Of an array, it
sets the first element."""


@dataclass(frozen=True, slots=True)
class FirstAnswer:
    """When the first request that was answered arrived, and when its answer began; in ms since the
    epoch, of which HAProxy keeps 32 bits. First since the endpoint lost its route (`FORGET`)."""

    arrived: int
    answered: int

    def seen_at(self, now: float) -> tuple[float, float]:
        """Both in seconds since the epoch, for who reads it within seven weeks."""
        return _whole(self.arrived, now), _whole(self.answered, now)


def _whole(bits: int, now: float) -> float:
    milliseconds = int(now * 1000)
    return (milliseconds - (milliseconds - bits) % (1 << 32)) / 1000


@dataclass(frozen=True, slots=True)
class Activity:
    """Bytes in both directions, open streams and requests of one endpoint.

    `bytes_total` and `requests` start again at 0 when HAProxy does: compare them for difference,
    not for growth. `first` is of the time since then, too.
    """

    bytes_total: int
    connections: int
    requests: int = 0
    first: FirstAnswer | None = None


def parse_tables(tables: Iterable[str]) -> dict[str, Activity]:
    """Activity by endpoint id from `show table` of one or more workers, added up."""
    activity: dict[str, Activity] = {}
    for line in (line for table in tables for line in table.splitlines()):
        fields = dict(_FIELD.findall(line))
        if "key" not in fields or "conn_cur" not in fields:
            continue
        before = activity.get(fields["key"], Activity(0, 0))
        activity[fields["key"]] = Activity(
            before.bytes_total + int(fields["bytes_in_cnt"]) + int(fields["bytes_out_cnt"]),
            before.connections + int(fields["conn_cur"]),
            # A worker of an older release, which a reload left with open streams, has none.
            before.requests + int(fields.get("http_req_cnt", 0)),
            before.first or _first(fields),
        )
    return activity


def _first(fields: Mapping[str, str]) -> FirstAnswer | None:
    arrived, answered = (int(fields.get(name, 0)) for name in ("gpt1", "gpt0"))
    return FirstAnswer(arrived, answered) if answered else None
