"""What the next run of the node finds of a VMM, and who a clone is."""

import os
from pathlib import Path

from microvmd.node.bring_up import VmmRecord
from microvmd.vmm.process import ProcessIdentity


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "vmm.json"
    assert VmmRecord.read(path) is None
    record = VmmRecord(ProcessIdentity.of(os.getpid()), "mvm12", "jail")
    for _ in range(2):
        record.write(path)
        assert VmmRecord.read(path) == record
    assert [entry.name for entry in tmp_path.iterdir()] == ["vmm.json"]


def test_a_record_of_an_older_version_names_no_jail(tmp_path: Path) -> None:
    path = tmp_path / "microvm-1" / "vmm.json"
    path.parent.mkdir()
    path.write_text('{"pid": 2, "start_time": 3, "network": "mvm4"}')
    assert VmmRecord.read(path) == VmmRecord(ProcessIdentity(2, 3), "mvm4", "microvm-1")
