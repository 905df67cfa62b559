"""The memory-backed directory: for root only, there while something is in it, bounded."""

import os
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from microvmd.messages.node import VersionKey
from microvmd.node import plain as module
from microvmd.node.plain import RESERVE, NoRoom, PlainDirectory

pytestmark = pytest.mark.root

ONE = VersionKey("000000000000", "app", "1.0")
TWO = VersionKey("000000000000", "app", "1.0", "00000000-0000-4000-8000-000000000000")
"""The same version, built again."""


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[PlainDirectory]:
    made = PlainDirectory(tmp_path / "run" / "plain", 64 << 20)
    yield made
    for path in list(made.path.glob("*/*")):
        made.drop(path)
    made.unmount_empty()
    assert not made.path.exists()


def _image(plain: PlainDirectory, key: VersionKey) -> Path:
    half = plain.half(plain.image(key))
    (half / "memory").write_bytes(b"m")
    plain.image(key).parent.mkdir(parents=True, exist_ok=True)
    return half.rename(plain.image(key))


def _microvm(plain: PlainDirectory, name: str, uses: VersionKey | None) -> Path:
    half = plain.half(plain.microvm(name))
    if uses is not None:
        (half / "image").symlink_to(plain.image(uses))
    return half.rename(plain.microvm(name))


def test_it_is_in_memory_and_for_root_only(plain: PlainDirectory) -> None:
    assert not plain.path.exists()
    _image(plain, ONE)
    plain.mount()
    line = next(
        line
        for line in Path("/proc/self/mounts").read_text().splitlines()
        if line.split()[1] == os.fspath(plain.path)
    )
    assert line.split()[2] == "tmpfs"
    assert "noswap" in line
    assert stat.S_IMODE(plain.path.stat().st_mode) == 0o700
    vfs = os.statvfs(plain.path)
    assert vfs.f_blocks * vfs.f_frsize == plain.capacity == 64 << 20


def test_an_older_kernel_gets_one_without_noswap(
    plain: PlainDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount, asked = module._mount, []

    def old(path: Path, options: str) -> None:
        asked.append(options)
        mount(path, options.replace("noswap", "no-such-option"))

    monkeypatch.setattr(module, "_mount", old)
    plain.mount()
    assert ["noswap" in options for options in asked] == [True, False]
    assert os.path.ismount(plain.path)


def test_it_ends_with_the_last_thing_in_it(plain: PlainDirectory) -> None:
    _image(plain, ONE)
    _image(plain, TWO)
    _microvm(plain, "microvm-1", ONE)
    plain.drop(plain.image(ONE))
    plain.drop(plain.image(ONE))  # nothing happens
    plain.drop(plain.microvm("microvm-1"))
    assert not (plain.path / "microvms").exists()
    assert os.path.ismount(plain.path)
    plain.drop(plain.image(TWO))
    assert not plain.path.exists()


def test_what_is_dropped_does_not_follow_links(plain: PlainDirectory) -> None:
    image = _image(plain, ONE)
    plain.drop(_microvm(plain, "microvm-1", ONE))
    assert (image / "memory").exists()


def test_a_sweep_keeps_what_a_vmm_uses(plain: PlainDirectory) -> None:
    kept_image, gone_image = _image(plain, ONE), _image(plain, TWO)
    kept, own = _microvm(plain, "kept", ONE), _microvm(plain, "own", None)
    gone = _microvm(plain, "gone", TWO)
    half = plain.half(plain.image(TWO))
    build = plain.half(plain.builds / "any")
    assert (plain.used("kept"), plain.used("own"), plain.used("none")) == (ONE, None, None)
    removed = plain.sweep({"kept", "own"})
    assert set(removed) == {gone_image, gone, half, build}
    assert all(path.exists() for path in (kept_image / "memory", kept, own))
    assert plain.sweep({"kept", "own"}) == []
    plain.sweep(set())
    assert not plain.path.exists()
    assert plain.sweep(set()) == []


def test_room_is_what_the_machine_and_the_limit_leave(
    plain: PlainDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain.mount()
    plain.check_room(60 << 20)
    with pytest.raises(NoRoom, match=r"need 65 MiB of memory, and 6\d MiB"):
        plain.check_room(65 << 20)
    (plain.path / "file").write_bytes(bytes(32 << 20))
    with pytest.raises(NoRoom, match=r"need 60 MiB .* raise encryption.memory_mib"):
        plain.check_room(60 << 20)
    (plain.path / "file").unlink()
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(f"MemTotal: 8192 kB\nMemAvailable:  {(RESERVE >> 10) + 1024} kB\n")
    monkeypatch.setattr(module, "MEMINFO", meminfo)
    plain.check_room(1 << 20)
    with pytest.raises(NoRoom, match="and 1 MiB are free"):
        plain.check_room(2 << 20)
    assert replace(plain, limit_bytes=None).capacity == 4 << 20
