"""The node's directories: who may look, and what a start removes."""

import os
import socket
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from microvmd.messages.node import VersionKey
from microvmd.model.identifiers import new_build_id, new_microvm_id
from microvmd.node.paths import LONGEST_ROOT, NodePaths, link, remove
from microvmd.vmm.machine import MachineFiles

KEPT = VersionKey("000000000000", "app", "1.0")
GONE = VersionKey("000000000000", "app", "2.0")


@pytest.fixture
def paths(tmp_path: Path) -> NodePaths:
    paths = NodePaths(tmp_path / "root")
    paths.make()
    return paths


def test_what_holds_memory_is_for_root_only(paths: NodePaths) -> None:
    for path in (paths.images, paths.microvms, paths.tmp):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    paths.images.chmod(0o755)
    paths.make()
    assert stat.S_IMODE(paths.images.stat().st_mode) == 0o700, "made by an older version"


def test_a_suspend_snapshot_counts_from_its_manifest_on(paths: NodePaths) -> None:
    files = paths.microvm("microvm-1")
    assert not files.suspended
    files.directory.mkdir()
    files.suspend.device.write_bytes(b"state")
    assert not files.suspended
    (files.directory / "manifest.json").write_text("{}")
    assert files.suspended


def test_each_build_of_a_version_has_a_place(paths: NodePaths) -> None:
    again = replace(KEPT, build=new_build_id())
    for key in (KEPT, again, GONE, replace(KEPT, number="1.00")):
        paths.image(key).directory.mkdir(parents=True)
    assert paths.snapshots(KEPT) == paths.snapshots(again) == [KEPT, again]
    removed = paths.sweep(set(), {again})
    assert again not in {VersionKey.at(*path.parts[-3:]) for path in removed}
    assert paths.snapshots(KEPT) == [again]
    assert paths.snapshots(replace(KEPT, image_name="other")) == []


def test_a_link_has_the_same_bytes(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"bytes")
    link(source, target)
    assert target.samefile(source)
    with pytest.raises(OSError, match="are the same file"):
        link(source, target)


def test_starts_of_a_microvm_are_counted(paths: NodePaths) -> None:
    files = paths.microvm(new_microvm_id())
    assert files.attempt == 0
    files.directory.mkdir()
    assert files.attempt == 1
    files.attempts.write_text("3")
    assert files.attempt == 3


def test_a_sweep_removes_what_no_record_owns(paths: NodePaths) -> None:
    for version in (KEPT, GONE):
        directory = paths.image(version).directory
        directory.mkdir(parents=True)
        (directory / "memory").write_bytes(b"m")
        (directory / "memory").chmod(0o444)
    for microvm in ("microvm-kept", "microvm-gone"):
        paths.microvm(microvm).directory.mkdir()
        paths.microvm(microvm).identity.write_text("{}")
    (paths.tmp / "build-1").mkdir()
    (paths.tmp / "half").write_bytes(b"h")

    removed = paths.sweep({"microvm-kept"}, {KEPT})

    assert set(removed) == {
        paths.image(GONE).directory,
        paths.microvm("microvm-gone").directory,
        paths.tmp / "build-1",
        paths.tmp / "half",
    }
    assert not any(path.exists() for path in removed)
    assert paths.image(KEPT).memory.exists()
    assert paths.microvm("microvm-kept").identity.exists()
    assert paths.sweep({"microvm-kept"}, {KEPT}) == []


def test_removing_follows_no_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("stays")
    link = tmp_path / "link"
    link.symlink_to(outside)
    remove(link)
    assert not link.exists()
    assert (outside / "file").exists()
    remove(tmp_path / "never there")


def test_sockets_below_the_longest_root_can_be_bound() -> None:
    root = Path("/" + "r" * (LONGEST_ROOT - 1))
    files = MachineFiles(NodePaths(root).microvm(new_microvm_id()).directory)
    with socket.socket(socket.AF_UNIX) as listener, pytest.raises(FileNotFoundError):
        listener.bind(os.fspath(files.agent))
    with socket.socket(socket.AF_UNIX) as listener, pytest.raises(OSError, match="too long"):
        listener.bind(f"{root}x{os.fspath(files.agent).removeprefix(os.fspath(root))}")
