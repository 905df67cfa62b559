"""Reading HAProxy's stick table."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from microvmd.edge.activity import Activity, parse_tables

TABLE = """# table: activity, type: string, size:204800, used:2
0x7fc0d405: key=vm-a use=1 exp=88886827 conn_cur=1 bytes_in_cnt=833 bytes_out_cnt=393 http_req_cnt=7
0x7fc0d406: key=vm-b use=0 exp=88887094 conn_cur=0 bytes_in_cnt=390 bytes_out_cnt=110

"""


def test_both_directions_and_open_streams() -> None:
    assert parse_tables([TABLE]) == {"vm-a": Activity(1226, 1, 7), "vm-b": Activity(500, 0)}


def test_workers_add_up() -> None:
    assert parse_tables([TABLE, TABLE])["vm-a"] == Activity(2452, 2, 14)


@given(st.lists(st.text()))
def test_other_text_is_no_activity(tables: list[str]) -> None:
    assert parse_tables(tables) == {}
