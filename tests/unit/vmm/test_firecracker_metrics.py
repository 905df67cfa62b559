"""Lines of counters are what a VMM sends that a guest may have taken over."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from microvmd.vmm.firecracker_metrics import LINE_LIMIT, MOST, TOLD_EVERY, FailureWatch, failures

LINE = json.dumps(
    {
        "utc_timestamp_ms": 1,
        "block": {"event_fails": 2, "read_bytes": 4096, "execute_fails": 0},
        "seccomp": {"num_faults": 1},
        "vcpu": {"exit_io_in": 9, "failures": 0},
        "put_api_requests": {"drive_fails": 7},
    }
).encode()
COUNTS = Path("/vms/vm/counts.log")
FOUND = {"block.event_fails": 2, "seccomp.num_faults": 1}


def test_tells_what_should_be_0_and_is_not() -> None:
    assert failures(LINE) == FOUND


@pytest.mark.parametrize(
    "line",
    [b"", b"{", b"[]", b"1", b"\xff", b"[" * 50_000, b'{"a": 1}', b'{"a": {"x_fails": "1"}}'],
)
def test_nonsense_tells_nothing(line: bytes) -> None:
    assert failures(line) == {}


@given(st.binary())
def test_any_bytes_are_harmless(line: bytes) -> None:
    assert len(failures(line)) <= MOST


@given(st.dictionaries(st.text(), st.dictionaries(st.text().map("{}_fails".format), st.integers())))
def test_any_counters_give_few_and_only_those_above_0(
    groups: dict[str, dict[str, int]],
) -> None:
    found = failures(json.dumps(groups).encode())
    assert len(found) <= MOST
    assert all(value > 0 for value in found.values())


@given(st.integers(1, len(LINE)))
def test_lines_come_in_pieces(size: int) -> None:
    watch = FailureWatch()
    text = LINE + b"\n"
    with capture_logs() as logs:
        for start in range(0, len(text), size):
            watch(COUNTS, text[start : start + size])
    assert [(entry["name"], entry["failures"]) for entry in logs] == [("vm", FOUND)]


def test_tells_once_in_a_while_and_forgets_what_has_no_end() -> None:
    now = 0.0
    watch = FailureWatch(lambda: now)
    with capture_logs() as logs:
        watch(COUNTS, b"x" * (2 * LINE_LIMIT))
        watch(COUNTS, b"x" * LINE_LIMIT + b"\n" + LINE + b"\n" + LINE + b"\n")
        assert len(logs) == 1
        now += TOLD_EVERY
        watch(COUNTS, LINE + b"\n")
    assert len(logs) == 2


def test_a_vmm_that_waited_bears_the_name_of_who_claimed_it() -> None:
    watch = FailureWatch(lambda: 0.0)
    with capture_logs() as logs:
        watch(Path("/tmp/waiting-1/counts.log"), LINE)
        watch(COUNTS, b"\n")
    assert [entry["name"] for entry in logs] == ["vm"]
