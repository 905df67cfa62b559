"""What the next run of the node finds of a VMM, and who a clone is."""

import os
from pathlib import Path

from microvmd.node.bring_up import VmmRecord
from microvmd.vmm.process import ProcessIdentity


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "vmm.json"
    assert VmmRecord.read(path) is None
    record = VmmRecord(ProcessIdentity.of(os.getpid()), "mvm12")
    for _ in range(2):
        record.write(path)
        assert VmmRecord.read(path) == record
    assert [entry.name for entry in tmp_path.iterdir()] == ["vmm.json"]
