"""QEMU's options follow from the spec and the way of starting, and from nothing else."""

from itertools import pairwise
from pathlib import Path

import pytest

from microvmd.vmm import command_line as module
from microvmd.vmm.command_line import (
    DriveFiles,
    OpenFiles,
    Paths,
    binds,
    command_line,
    device_set,
)
from microvmd.vmm.machine import (
    Accelerator,
    AcceleratorKind,
    Boot,
    Drive,
    FromImage,
    FromSuspend,
    MachineSpec,
    Start,
)

TCG = Accelerator(AcceleratorKind.TCG, "test", 2_400_000)
PATHS = Paths("/machine/memory", "/machine/kernel", "/machine/initrd")
FILES = OpenFiles(10, 11, 12, (DriveFiles(13), DriveFiles(14, 15)), tap=16, device=17)


def _spec(accelerator: Accelerator = TCG) -> MachineSpec:
    drives = (
        Drive("rootfs", Path("/i/rootfs.erofs"), read_only=True),
        Drive("disk", Path("/m/overlay.qcow2"), backing=Path("/i/disk.raw")),
    )
    return MachineSpec(
        512, 2, Path("/i/memory"), Path("/k"), Path("/r"), accelerator, drives, "extra=1"
    )


def _line(start: Start, spec: MachineSpec | None = None, files: OpenFiles = FILES) -> list[str]:
    return list(command_line(Path("/usr/bin/q"), spec or _spec(), start, files, PATHS, name="n"))


def _value(line: list[str], option: str) -> str:
    return line[line.index(option) + 1]


def _devices(line: list[str]) -> list[str]:
    return [value for option, value in pairwise(line) if option == "-device"]


def test_devices_do_not_depend_on_the_start() -> None:
    starts: list[Start] = [
        Boot(),
        FromImage(Path("/d")),
        FromSuspend(Path("/d"), Path("/f")),
        FromSuspend(Path("/d"), None),
    ]
    found = {tuple(_devices(_line(start))) for start in starts}
    assert len(found) == 1
    kinds = [device.split(",")[0] for device in found.pop()]
    assert kinds == [
        "virtio-serial-device",
        "virtserialport",
        "virtio-rng-device",
        "virtio-net-device",
        "virtio-blk-device",
        "virtio-blk-device",
    ]


def test_the_device_set_changes_with_what_a_guest_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    before = device_set()
    monkeypatch.setattr(module, "SANDBOX", "off")
    assert device_set() == before
    monkeypatch.setattr(module, "GUEST_MAC", "02:00:00:00:00:01")
    assert device_set() != before


def test_only_a_boot_may_write_to_the_memory_file() -> None:
    assert "share=on" in _value(_line(Boot()), "-object")
    for start in (FromImage(Path("/d")), FromSuspend(Path("/d"), None)):
        memory = _value(_line(start), "-object")
        assert "share=off,readonly=on,rom=off" in memory
        assert _value(_line(start), "-incoming") == "defer"
        assert "-kernel" not in _line(start)
        assert [bind.writable for bind in binds(_spec(), start)] == [False]
    assert [bind.writable for bind in binds(_spec(), Boot())] == [True, False, False]
    assert "-incoming" not in _line(Boot())
    assert _value(_line(Boot()), "-kernel") == PATHS.kernel


def test_files_are_passed_as_descriptors() -> None:
    line = " ".join(_line(FromImage(Path("/d"))))
    for path in ("/i/rootfs.erofs", "/m/overlay.qcow2", "/i/disk.raw", "/d "):
        assert path not in line
    for number, fdset in ((13, 10), (14, 12), (15, 13), (17, 1)):
        assert f"fd={number},set={fdset}" in line


def test_every_start_can_be_suspended() -> None:
    for start in (Boot(), FromImage(Path("/d"))):
        line = _line(start)
        assert "suppress-vmdesc=on" in _value(line, "-machine")
        joined = " ".join(line)
        assert "-global migration.send-configuration=off" in joined
        assert "-global migration.announce-rounds=1" in joined


def test_nothing_shrinks_the_shared_memory_file() -> None:
    line = " ".join(_line(FromImage(Path("/d"))))
    assert "balloon" not in line
    assert "free-page-reporting" not in line


def test_the_accelerator_decides_cpu_and_clock() -> None:
    line = _line(Boot())
    assert (_value(line, "-cpu"), _value(line, "-accel").split(",")[0]) == ("max", "tcg")
    assert "tsc_early_khz=2400000 tsc=reliable extra=1" in _value(line, "-append")
    kvm = _line(Boot(), _spec(Accelerator(AcceleratorKind.KVM, "test", 1)))
    assert (_value(kvm, "-cpu"), _value(kvm, "-accel")) == ("host", "kvm")
    assert "tsc_early_khz" not in _value(kvm, "-append")


def test_commas_do_not_end_a_value() -> None:
    spec = MachineSpec(512, 1, Path("/m"), Path("/k"), Path("/r"), TCG, (Drive("a,b", Path("/x")),))
    line = _line(Boot(), spec, OpenFiles(10, 11, 12, (DriveFiles(13),)))
    assert _devices(line)[-1].endswith("serial=a,,b")
    assert _value(line, "-netdev").startswith("hubport")
