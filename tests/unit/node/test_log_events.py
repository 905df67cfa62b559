"""Lines become calls within the limits of CloudWatch Logs, and none is lost."""

from hypothesis import given
from hypothesis import strategies as st

from microvmd.node.log_events import (
    BATCH_BYTES,
    EVENT_BYTES,
    EVENTS,
    OVERHEAD,
    SPAN_MS,
    batches,
)
from microvmd.node.log_files import Entry

ENTRIES = st.lists(
    st.builds(
        Entry,
        st.floats(-10, 2_000_000_000),
        st.one_of(
            st.text(max_size=20),
            st.builds(
                lambda text, count: text * count, st.text(max_size=4), st.integers(0, 90_000)
            ),
        ),
    ),
    max_size=12,
)


@given(ENTRIES)
def test_every_line_is_sent_once_and_within_limits(entries: list[Entry]) -> None:
    found = list(batches(entries))
    for batch in found:
        times = [event["timestamp"] for event in batch]
        sizes = [len(event["message"].encode()) for event in batch]
        assert times == sorted(times)
        assert times[-1] - times[0] < SPAN_MS
        assert len(batch) <= EVENTS
        assert all(1 <= size <= EVENT_BYTES for size in sizes)
        assert sum(sizes) + OVERHEAD * len(sizes) <= BATCH_BYTES
    sent = "".join(event["message"] for batch in found for event in batch)
    wanted = "".join(
        entry.text.encode(errors="replace").decode() or " "
        for entry in sorted(entries, key=lambda entry: entry.time)
    )
    assert sent == wanted


def test_calls_are_as_full_as_may_be() -> None:
    short = [Entry(1.0, "x")] * (EVENTS + 1)
    assert [len(batch) for batch in batches(short)] == [EVENTS, 1]
    long = [Entry(1.0, "x" * EVENT_BYTES)] * 5
    assert [len(batch) for batch in batches(long)] == [4, 1]
    apart = [Entry(0.0, "a"), Entry(SPAN_MS / 1000, "b")]
    assert [len(batch) for batch in batches(apart)] == [1, 1]


def test_milliseconds_are_kept() -> None:
    assert [event for batch in batches([Entry(1.2345, "x")]) for event in batch] == [
        {"timestamp": 1234, "message": "x"}
    ]
