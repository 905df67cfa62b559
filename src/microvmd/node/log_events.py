"""Lines of the log store as PutLogEvents of CloudWatch Logs takes them. Pure.

Its limits: 10,000 events and 1 MiB in a call, where each event counts 26 bytes more than its text;
256 KiB for an event; events in order of time, and not more than 24 hours from first to last.
"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from microvmd.node.log_files import Entry

if TYPE_CHECKING:
    from types_boto3_logs.type_defs import InputLogEventTypeDef

EVENTS = 10_000
BATCH_BYTES = 1 << 20
OVERHEAD = 26
EVENT_BYTES = (256 << 10) - OVERHEAD
SPAN_MS = 24 * 3600 * 1000
_EMPTY = " "
"""An event needs a text."""


def batches(entries: Iterable[Entry]) -> Iterator[list["InputLogEventTypeDef"]]:
    """Calls to make, one after the other, so that every line of the entries is sent once."""
    batch: list[InputLogEventTypeDef] = []
    size = 0
    for moment, text in _events(sorted(entries, key=lambda entry: entry.time)):
        taken = len(text.encode()) + OVERHEAD
        full = len(batch) >= EVENTS or size + taken > BATCH_BYTES
        if batch and (full or moment - batch[0]["timestamp"] >= SPAN_MS):
            yield batch
            batch, size = [], 0
        batch.append({"timestamp": moment, "message": text})
        size += taken
    if batch:
        yield batch


def _events(entries: Iterable[Entry]) -> Iterator[tuple[int, str]]:
    for entry in entries:
        moment = max(round(entry.time * 1000), 0)
        raw = entry.text.encode(errors="replace")
        if not raw:
            yield moment, _EMPTY
        while raw:
            cut = _whole(raw, EVENT_BYTES)
            yield moment, raw[:cut].decode()
            raw = raw[cut:]


def _whole(raw: bytes, limit: int) -> int:
    """How much of valid UTF-8 fits into the limit without cutting a character."""
    if len(raw) <= limit:
        return len(raw)
    while raw[limit] & 0xC0 == 0x80:
        limit -= 1
    return limit
