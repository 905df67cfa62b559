"""The shared root holds what a VMM loads, under names that do not change with the machine."""

from pathlib import Path

import pytest

from microvmd.node.jail_root import JailRootFailed, _make, libraries
from microvmd.vmm.machine import Surroundings

SURROUNDINGS = Surroundings(
    program=Path("/opt/vmm"),
    place=Path("/usr/bin/qemu"),
    texts={"/proc/sys/vm/overcommit_memory": "0\n"},
    files=("/machine/memory", "/machine/drive0"),
    scratch="/machine/run",
)
LISTING = """\
\tlinux-vdso.so.1 (0x00007ffd3a5f2000)
\tlibpixman-1.so.0 => /lib/x86_64-linux-gnu/libpixman-1.so.0 (0x00007f1c9b000000)
\tlibodd.so.3 => /usr/lib/x86_64-linux-gnu/odd/libodd.so.3 (0x00007f1c9b000000)
\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f1c9ac00000)
\t/lib64/ld-linux-x86-64.so.2 (0x00007f1c9c8f6000)
"""


def test_all_libraries_go_where_the_linker_looks() -> None:
    assert libraries(LISTING) == {
        "/lib/x86_64-linux-gnu/libpixman-1.so.0": Path("/lib/x86_64-linux-gnu/libpixman-1.so.0"),
        "/lib/x86_64-linux-gnu/libodd.so.3": Path("/usr/lib/x86_64-linux-gnu/odd/libodd.so.3"),
        "/lib/x86_64-linux-gnu/libc.so.6": Path("/lib/x86_64-linux-gnu/libc.so.6"),
        "/lib64/ld-linux-x86-64.so.2": Path("/lib64/ld-linux-x86-64.so.2"),
    }


def test_a_static_program_is_refused() -> None:
    with pytest.raises(JailRootFailed):
        libraries("\tnot a dynamic executable\n")


def test_a_root_is_made_once_for_each_content(tmp_path: Path) -> None:
    program = tmp_path / "qemu"
    program.write_text("one")
    cache = tmp_path / "cache"
    first = _make(cache, {"/usr/bin/qemu": program}, SURROUNDINGS)
    assert _make(cache, {"/usr/bin/qemu": program}, SURROUNDINGS) == first
    assert (first / "usr/bin/qemu").read_text() == "one"
    assert (first / "usr/bin/qemu").stat().st_mode & 0o777 == 0o511, "not readable: no core dumps"
    assert {path.name for path in (first / "machine").iterdir()} == {"memory", "drive0", "run"}
    assert (first / "machine/run").is_dir()
    assert (first / "proc/sys/vm/overcommit_memory").read_text() == "0\n"
    program.write_text("another")
    second = _make(cache, {"/usr/bin/qemu": program}, SURROUNDINGS)
    assert second != first
    assert sorted(path.name for path in cache.iterdir()) == sorted([first.name, second.name])
