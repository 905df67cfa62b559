"""Reading HAProxy's stick table."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from microvmd.edge.activity import Activity, FirstAnswer, parse_tables

FIRST = FirstAnswer(708403596, 708406774)
TABLE = """# table: activity, type: string, size:204800, used:2
0x7fc0d405: key=vm-a use=1 exp=88886827 conn_cur=1 bytes_in_cnt=833 bytes_out_cnt=393 \
http_req_cnt=7 gpt0=708406774 gpt1=708403596
0x7fc0d406: key=vm-b use=0 exp=88887094 conn_cur=0 bytes_in_cnt=390 bytes_out_cnt=110

"""


def test_both_directions_and_open_streams() -> None:
    assert parse_tables([TABLE]) == {
        "vm-a": Activity(1226, 1, 7, FIRST),
        "vm-b": Activity(500, 0),
    }


def test_workers_add_up() -> None:
    assert parse_tables([TABLE, TABLE])["vm-a"] == Activity(2452, 2, 14, FIRST)


def test_moments_are_of_the_last_weeks() -> None:
    """32 bits of milliseconds come round: what is told is before now."""
    assert FIRST.seen_at(1796004740.825) == (1796004733.324, 1796004736.502)
    milliseconds = 1 << 44
    late = FirstAnswer((milliseconds - 5) % (1 << 32), milliseconds % (1 << 32) + 3)
    assert late.seen_at(milliseconds / 1000 + 1) == (
        (milliseconds - 5) / 1000,
        (milliseconds + 3) / 1000,
    )


@given(st.lists(st.text()))
def test_other_text_is_no_activity(tables: list[str]) -> None:
    assert parse_tables(tables) == {}
