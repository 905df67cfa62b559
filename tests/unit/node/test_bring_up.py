"""What the next run of the node finds of a VMM, and who a clone is."""

import os
from pathlib import Path

import pytest

from microvmd.model.identifiers import new_microvm_id
from microvmd.node.bring_up import VmmRecord, identity_of
from microvmd.vmm.process import ProcessIdentity


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "vmm.json"
    assert VmmRecord.read(path) is None
    record = VmmRecord(ProcessIdentity.of(os.getpid()), "mvm12")
    for _ in range(2):
        record.write(path)
        assert VmmRecord.read(path) == record
    assert [entry.name for entry in tmp_path.iterdir()] == ["vmm.json"]


def test_an_identity_fits_where_the_guest_puts_it() -> None:
    microvm_id = new_microvm_id()
    hostname, machine_id = identity_of(microvm_id)
    assert hostname == microvm_id
    assert len(hostname) <= 64
    assert len(bytes.fromhex(machine_id)) == 16


@pytest.mark.parametrize("other", ["microvm-00000000-0000-4000-8000-000000000001"])
def test_identities_are_stable_and_differ(other: str) -> None:
    microvm_id = new_microvm_id()
    assert identity_of(microvm_id) == identity_of(microvm_id)
    assert not set(identity_of(microvm_id)) & set(identity_of(other))
