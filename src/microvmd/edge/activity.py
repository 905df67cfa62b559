"""What the idle policy needs to know: how many bytes went through each endpoint.

HAProxy counts in a stick table, keyed by endpoint id, only for requests that passed the token
check. `option contstats` makes it add the bytes of open streams every five seconds, so a WebSocket
that says one word a second counts and an open silent stream does not (measured with HAProxy 2.6).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_FIELD = re.compile(r"(\w+)=(\S+)")


@dataclass(frozen=True, slots=True)
class Activity:
    """Bytes in both directions, open streams and requests of one endpoint.

    `bytes_total` and `requests` start again at 0 when HAProxy does: compare them for difference,
    not for growth.
    """

    bytes_total: int
    connections: int
    requests: int = 0


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
        )
    return activity
