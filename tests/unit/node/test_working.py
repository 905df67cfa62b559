"""Suspend snapshots of both kinds of working files."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from microvmd.messages.keys import KeyRefused
from microvmd.node.snapshot import MANIFEST, SnapshotBroken, SuspendFiles, load, read
from microvmd.node.working import WorkingFiles
from microvmd.vmm.machine import SuspendMethod, SuspendStats
from tests.vaultlab import STAMP, KeyService, VaultLab, key_service, vault_lab

pytestmark = [pytest.mark.root, pytest.mark.anyio]

DIFF = SuspendStats(SuspendMethod.DIFF, 1, 1, "digest", 0.0)
FULL = SuspendStats(SuspendMethod.FULL, 1, 0, None, 0.0)
SECRET = b"a secret of the guest"


@pytest.fixture(scope="module")
def running() -> Iterator[KeyService]:
    with key_service() as service:
        yield service


@pytest.fixture
def service(running: KeyService) -> Iterator[KeyService]:
    yield running
    running.enable()


def _write(files: SuspendFiles, text: bytes) -> None:
    """What QEMU and the node leave at a suspend."""
    for path in (files.overlay, files.device, files.diff):
        path.write_bytes(text + path.name.encode())


async def _save(working: WorkingFiles, stats: SuspendStats, text: bytes) -> None:
    async with working.saving() as commit:
        _write(working.suspend, text)
        await commit(stats)


def _names(lab: VaultLab) -> set[str]:
    return {path.name for path in lab.paths.microvm("microvm-1").directory.iterdir()}


async def test_open_files_count_as_they_are(tmp_path: Path, service: KeyService) -> None:
    async with vault_lab(tmp_path, service) as lab, lab.vault.holding("microvm-1") as hold:
        await lab.image(None)
        working = await lab.vault.started(hold, lab.spec(None))
        await _save(working, DIFF, SECRET)
        manifest = load(lab.paths.microvm("microvm-1").directory, stamp=STAMP)
        assert manifest.envelope is None
        assert manifest.base == working.image.manifest.files["memory"].sha256
        working.retire()
        assert _names(lab) == {"overlay.qcow2"}, "the VMM goes on with it"


@pytest.mark.parametrize("stats", [DIFF, FULL])
async def test_sealed_files_are_encrypted_one_by_one(
    stats: SuspendStats, tmp_path: Path, service: KeyService
) -> None:
    async with vault_lab(tmp_path, service) as lab, lab.vault.holding("microvm-1") as hold:
        await lab.image(service.key)
        working = await lab.vault.started(hold, lab.spec(service.key))
        await _save(working, stats, SECRET)
        directory = lab.paths.microvm("microvm-1").directory
        manifest = load(directory, stamp=STAMP)
        assert manifest.method is stats.method
        assert ("memory.diff" in manifest.files) is (stats is DIFF)
        assert _names(lab) == {*manifest.files, MANIFEST}
        for path in directory.iterdir():
            assert SECRET not in path.read_bytes()
            assert path.stat().st_mode & 0o077 == 0 or path.name == MANIFEST
        working.retire()
        assert _names(lab) == set()
        assert [path.name for path in working.suspend.directory.iterdir()] != []
        assert not working.suspend.device.exists()
        assert working.suspend.overlay.exists(), "the VMM goes on with it"


async def test_every_suspend_has_a_data_key_of_its_own(tmp_path: Path, service: KeyService) -> None:
    async with vault_lab(tmp_path, service) as lab, lab.vault.holding("microvm-1") as hold:
        await lab.image(service.key)
        working = await lab.vault.started(hold, lab.spec(service.key))
        directory = lab.paths.microvm("microvm-1").directory
        seen = set()
        for _ in range(2):
            await _save(working, DIFF, SECRET)
            envelope = read(directory).envelope
            assert envelope is not None
            assert envelope.owner == "microvm-1"
            seen.add((envelope.wrapped, (directory / "device").read_bytes()))
        assert len({wrapped for wrapped, _ in seen}) == len({device for _, device in seen}) == 2


async def test_a_refused_key_is_told_before_anything_stops(
    tmp_path: Path, service: KeyService
) -> None:
    async with vault_lab(tmp_path, service) as lab, lab.vault.holding("microvm-1") as hold:
        await lab.image(service.key)
        working = await lab.vault.started(hold, lab.spec(service.key))
        service.disable()
        with pytest.raises(KeyRefused, match="disabled"):
            async with working.saving():
                pytest.fail("the VMM would have been stopped")
        assert _names(lab) == set()


async def test_what_an_interrupted_suspend_left_is_written_anew(
    tmp_path: Path, service: KeyService
) -> None:
    async with vault_lab(tmp_path, service) as lab, lab.vault.holding("microvm-1") as hold:
        await lab.image(service.key)
        working = await lab.vault.started(hold, lab.spec(service.key))
        directory = lab.paths.microvm("microvm-1").directory
        (directory / "device.new").write_bytes(b"half")
        (directory / "memory.diff").write_bytes(b"whole, but of an earlier try")
        with pytest.raises(SnapshotBroken, match="no snapshot"):
            load(directory, stamp=STAMP)
        await _save(working, DIFF, SECRET)
        assert _names(lab) == {"overlay.qcow2", "device", "memory.diff", MANIFEST}
        (directory / "overlay.qcow2.new").write_bytes(b"half")
        working.retire()
        assert _names(lab) == set()


async def test_files_that_cannot_be_written_count_for_nothing(
    tmp_path: Path, service: KeyService
) -> None:
    async with vault_lab(tmp_path, service) as lab, lab.vault.holding("microvm-1") as hold:
        await lab.image(service.key)
        working = await lab.vault.started(hold, lab.spec(service.key))
        directory = lab.paths.microvm("microvm-1").directory
        (directory / "device").mkdir()
        with pytest.raises(IsADirectoryError):
            await _save(working, DIFF, SECRET)
        assert not (directory / MANIFEST).exists()
        (directory / "device").rmdir()


async def test_how_much_memory_they_may_take(tmp_path: Path, service: KeyService) -> None:
    """A hole of the memory file takes memory as soon as a guest looks at it."""
    async with vault_lab(tmp_path, service) as lab, lab.vault.holding("microvm-1") as hold:
        manifest = await lab.image(service.key)
        working = await lab.vault.started(hold, lab.spec(service.key))
        assert working.in_memory == (manifest.memory_mib << 20) + (1 << 30)
