"""How far a log has been delivered survives a restart; what a crash broke does not stop one."""

from pathlib import Path

from microvmd.messages.node import LogDelivery, LogTarget
from microvmd.node.delivery_record import DeliveryRecord, read_all

RECORD = DeliveryRecord("microvm-1", LogTarget("g", "s[1.0]"), LogDelivery("G", "S", "role"), 77)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    other = DeliveryRecord("build", RECORD.log, RECORD.to, 0)
    for record in (RECORD, other):
        record.write(tmp_path)
    assert list(read_all(tmp_path)) == [other, RECORD]
    RECORD.remove(tmp_path)
    RECORD.remove(tmp_path)
    assert list(read_all(tmp_path)) == [other]


def test_what_a_crash_left_is_removed(tmp_path: Path) -> None:
    RECORD.write(tmp_path)
    (tmp_path / "a.json").write_text('{"key": "a"')
    (tmp_path / "b.json").write_text("[]")
    (tmp_path / "c.json").write_text('{"key": "c", "log": {"x": 1}, "to": {}, "position": 0}')
    (tmp_path / "d.new").write_text("{}")
    assert list(read_all(tmp_path)) == [RECORD]
    assert [path.name for path in tmp_path.iterdir()] == ["microvm-1.json"]
