"""Where plain files are: under the root without a key, in memory with one, and how long."""

import asyncio
import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from microvmd.messages.keys import KeyRefused
from microvmd.node import vault as module
from microvmd.node.known_files import KnownFiles
from microvmd.node.plain import NoRoom
from microvmd.node.sealed_file import unseal
from microvmd.node.snapshot import ImageFiles, SnapshotBroken, check, commit_suspend, verify
from microvmd.node.working import Image, OpenFiles, SealedFiles
from microvmd.vmm.machine import SuspendMethod, SuspendStats
from tests.vaultlab import IMAGE, ROLE, STAMP, VERSION, KeyService, VaultLab, key_service, vault_lab

pytestmark = [pytest.mark.root, pytest.mark.anyio]

STATS = SuspendStats(SuspendMethod.DIFF, 1, 1, "digest", 0.0)


@pytest.fixture(scope="module")
def running() -> Iterator[KeyService]:
    with key_service() as service:
        yield service


@pytest.fixture
def service(running: KeyService) -> Iterator[KeyService]:
    yield running
    running.enable()


def _content(image: Image) -> dict[str, bytes]:
    return {name: (image.files.directory / name).read_bytes() for name in IMAGE}


async def test_without_a_key_files_stay_where_they_are(tmp_path: Path, service: KeyService) -> None:
    async with vault_lab(tmp_path, service) as lab:
        manifest = await lab.image(None)
        assert manifest.envelope is None
        async with lab.vault.holding("microvm-1") as hold:
            working = await lab.vault.started(hold, lab.spec(None))
            assert isinstance(working, OpenFiles)
            assert working.image.files == lab.paths.image(VERSION)
            assert working.suspend == lab.paths.microvm("microvm-1").suspend
            assert (working.in_memory, lab.vault.build_memory(None)) == (0, 0)
            assert not lab.mounted
        assert _content(working.image) == lab.files


async def test_an_image_under_a_key(tmp_path: Path, service: KeyService) -> None:
    async with vault_lab(tmp_path, service) as lab:
        manifest = await lab.image(service.key)
        assert manifest.envelope is not None
        assert manifest.envelope.owner == str(VERSION)
        assert not lab.mounted, "a build leaves nothing in memory"
        assert list(lab.paths.tmp.iterdir()) == []
        at_rest = lab.paths.image(VERSION).directory
        for name, content in lab.files.items():
            assert content[:64] not in (at_rest / name).read_bytes()
        assert await verify(at_rest) == manifest
        async with lab.vault.holding("build") as hold:
            image = await lab.vault.image(hold, VERSION, ROLE)
            assert _content(image) == lab.files
            assert image.files.memory.stat().st_mode & 0o777 == 0o444
        assert not lab.mounted


@pytest.mark.parametrize("encrypted", [False, True])
async def test_files_of_an_image_are_taken_out_whatever_made_it(
    encrypted: bool, tmp_path: Path, service: KeyService
) -> None:
    key = service.key if encrypted else None
    async with vault_lab(tmp_path, service) as lab:
        await lab.image(key)
        assert lab.vault.unfit(VERSION) is None
        other = replace(STAMP, vmm_version="10.1.0")
        vault = module.Vault(lab.paths, other, lab.plain, lab.kms)
        assert "made under tcg, QEMU 10.0.2" in str(vault.unfit(VERSION))
        again = replace(VERSION, build="00000000-0000-4000-8000-000000000000")
        assert (lab.vault.fitting(again), vault.fitting(again)) == ("", None)
        async with vault.workroom(key) as room:
            await vault.take_out(VERSION, ("rootfs.erofs",), room, ROLE)
            taken = room / "rootfs.erofs"
            assert taken.read_bytes() == lab.files["rootfs.erofs"]
            own = lab.paths.image(VERSION).rootfs
            assert taken.samefile(own) is not encrypted, "no copy where none is needed"
            with pytest.raises(
                SnapshotBroken, match=r"older version .* no config\.json to build it"
            ):
                await vault.take_out(VERSION, ("config.json",), room, ROLE)
        assert not lab.mounted


async def test_changed_files_are_not_taken_out(tmp_path: Path, service: KeyService) -> None:
    async with vault_lab(tmp_path, service) as lab:
        await lab.image(None)
        rootfs = lab.paths.image(VERSION).rootfs
        rootfs.write_bytes(rootfs.read_bytes()[:-1] + b"!")
        async with lab.vault.workroom(None) as room:
            with pytest.raises(
                SnapshotBroken, match=r"file rootfs\.erofs of the snapshot was changed"
            ):
                await lab.vault.take_out(VERSION, ("rootfs.erofs",), room, ROLE)


async def test_all_microvms_of_an_image_share_its_plain_files(
    tmp_path: Path, service: KeyService
) -> None:
    async with vault_lab(tmp_path, service) as lab:
        await lab.image(service.key)
        async with lab.vault.holding("microvm-1") as one:
            first = (await lab.vault.started(one, lab.spec(service.key))).image.files
            inode = first.memory.stat().st_ino
            async with lab.vault.holding("microvm-2") as two:
                spec = lab.spec(service.key, "microvm-2")
                working = await lab.vault.started(two, spec)
                assert working.image.files.memory.stat().st_ino == inode
                assert working.suspend.directory == lab.plain.microvm("microvm-2")
            assert first.memory.exists(), "the other one uses it"
            assert not lab.plain.microvm("microvm-2").exists()
        assert not lab.mounted


async def test_many_at_once_decrypt_once(
    tmp_path: Path, service: KeyService, monkeypatch: pytest.MonkeyPatch
) -> None:
    unsealed: list[str] = []

    def counted(source: Path, target: Path, key: bytes, name: str, **options: object) -> None:
        unsealed.append(name)
        unseal(source, target, key, name, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "unseal", counted)
    async with vault_lab(tmp_path, service) as lab:
        await lab.image(service.key)

        async def one(name: str) -> None:
            async with lab.vault.holding(name) as hold:
                await lab.vault.started(hold, lab.spec(service.key, name))
                everybody.release()
                await done.wait()

        everybody, done = asyncio.Semaphore(0), asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            for number in range(5):
                tasks.create_task(one(f"microvm-{number}"))
            for _ in range(5):
                await everybody.acquire()
            done.set()
        assert sorted(unsealed) == sorted(IMAGE)
        assert not lab.mounted


async def test_a_refused_key_leaves_nothing(tmp_path: Path, service: KeyService) -> None:
    async with vault_lab(tmp_path, service) as lab:
        await lab.image(service.key)
        service.disable()
        for key in (service.key, None):
            async with lab.vault.holding("microvm-1") as hold:
                with pytest.raises(KeyRefused, match="disabled"):
                    await lab.vault.started(hold, lab.spec(key))
        with pytest.raises(KeyRefused, match="disabled"):
            await lab.image(service.key, replace(VERSION, number="2.0"))
        assert not lab.mounted
        assert list(lab.paths.tmp.iterdir()) == []


async def test_a_key_of_its_own_is_proved(tmp_path: Path, service: KeyService) -> None:
    async with vault_lab(tmp_path, service) as lab:
        await lab.image(None)
        async with lab.vault.holding("microvm-1") as hold:
            working = await lab.vault.started(hold, lab.spec(service.key))
            assert isinstance(working, SealedFiles)
            assert working.image.files == lab.paths.image(VERSION), "a plain image stays on disk"
            assert working.suspend.directory == lab.plain.microvm("microvm-1")
        service.disable()
        async with lab.vault.holding("microvm-1") as hold:
            with pytest.raises(KeyRefused, match="disabled"):
                await lab.vault.started(hold, lab.spec(service.key))


async def test_too_large_for_the_memory(tmp_path: Path, service: KeyService) -> None:
    async with vault_lab(tmp_path, service, limit=256 << 10) as lab:
        lab.plain.path.parent.mkdir(parents=True)
        await _copied_image(tmp_path, service, lab)
        lab.plain.mount()
        async with lab.vault.holding("microvm-1") as hold:
            with pytest.raises(NoRoom, match=r"raise encryption\.memory_mib"):
                await lab.vault.started(hold, lab.spec(service.key))
        lab.plain.unmount_empty()
        assert not lab.mounted


async def _copied_image(tmp_path: Path, service: KeyService, lab: VaultLab) -> None:
    """An image that was made where there was more memory."""
    async with vault_lab(tmp_path / "larger", service) as larger:
        await larger.image(service.key)
        lab.paths.image(VERSION).directory.parent.mkdir(parents=True)
        larger.paths.image(VERSION).directory.rename(lab.paths.image(VERSION).directory)


@pytest.mark.parametrize("name", sorted(IMAGE))
async def test_a_flipped_bit_in_an_image(name: str, tmp_path: Path, service: KeyService) -> None:
    async with vault_lab(tmp_path, service) as lab:
        await lab.image(service.key)
        path = lab.paths.image(VERSION).directory / name
        raw = bytearray(path.read_bytes())
        raw[len(raw) // 2] ^= 1
        path.write_bytes(raw)
        async with lab.vault.holding("microvm-1") as hold:
            with pytest.raises(SnapshotBroken, match=f"encrypted snapshot is damaged: {name}"):
                await lab.vault.started(hold, lab.spec(service.key))
        assert not lab.mounted


async def test_files_of_another_image_are_refused(tmp_path: Path, service: KeyService) -> None:
    """Also ones of the same key and name: each image has a data key of its own."""
    other = replace(VERSION, number="2.0")
    async with vault_lab(tmp_path, service) as lab:
        await lab.image(service.key)
        await lab.image(service.key, other)
        foreign = lab.paths.image(other).memory.read_bytes()
        lab.paths.image(VERSION).memory.write_bytes(foreign)
        async with lab.vault.holding("build") as hold:
            with pytest.raises(SnapshotBroken, match="memory was changed, or is not of this key"):
                await lab.vault.image(hold, VERSION, ROLE)


async def test_a_cancelled_start_leaves_nothing(
    tmp_path: Path, service: KeyService, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, reached = asyncio.get_running_loop(), asyncio.Event()

    def slow(source: Path, target: Path, key: bytes, name: str, **options: object) -> None:
        loop.call_soon_threadsafe(reached.set)
        given_up = options["given_up"]
        while not given_up():  # type: ignore[operator]
            pass
        unseal(source, target, key, name, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "unseal", slow)
    async with vault_lab(tmp_path, service) as lab:
        await lab.image(service.key)

        async def start() -> None:
            async with lab.vault.holding("microvm-1") as hold:
                await lab.vault.started(hold, lab.spec(service.key))

        async with asyncio.TaskGroup() as tasks:
            starting = tasks.create_task(start())
            await reached.wait()
            starting.cancel()
        assert not lab.mounted


async def test_what_is_detached_is_taken_over(tmp_path: Path, service: KeyService) -> None:
    async with vault_lab(tmp_path, service) as lab:
        await lab.image(service.key)
        async with lab.vault.holding("microvm-1") as hold:
            working = await lab.vault.started(hold, lab.spec(service.key))
            working.suspend.overlay.write_bytes(b"overlay")
            hold.detach()
    service.disable()  # nobody is asked for what runs already
    async with vault_lab(tmp_path, service) as lab:
        await lab.vault.sweep({"microvm-1"})
        async with lab.vault.holding("microvm-1") as hold:
            assert hold.image == VERSION
            adopted = lab.vault.adopted(hold, lab.spec(service.key))
            assert isinstance(adopted, SealedFiles)
            assert adopted.suspend.overlay.read_bytes() == b"overlay"
            assert adopted.image.files.memory.exists()
        assert not lab.mounted


async def test_another_start_does_not_free_what_was_not_taken_over_yet(
    tmp_path: Path, service: KeyService
) -> None:
    async with vault_lab(tmp_path, service) as lab:
        await lab.image(service.key)
        async with lab.vault.holding("microvm-1") as hold:
            await lab.vault.started(hold, lab.spec(service.key))
            hold.detach()
    async with vault_lab(tmp_path, service) as lab:
        await lab.vault.sweep({"microvm-1"})
        async with lab.vault.holding("microvm-2") as hold:
            await lab.vault.started(hold, lab.spec(service.key, "microvm-2"))
        assert ImageFiles(lab.plain.image(VERSION)).memory.exists()
        async with lab.vault.holding("microvm-1"):
            pass
        assert not lab.mounted


async def test_a_vmm_without_its_plain_files_is_not_adopted(
    tmp_path: Path, service: KeyService
) -> None:
    async with vault_lab(tmp_path, service) as lab:
        await lab.image(service.key)
        async with lab.vault.holding("microvm-1") as hold:
            with pytest.raises(SnapshotBroken, match="plain files of its VMM are gone"):
                lab.vault.adopted(hold, lab.spec(service.key))


async def test_checks_ask_for_what_a_start_or_resume_needs(
    tmp_path: Path, service: KeyService
) -> None:
    async with vault_lab(tmp_path, service) as lab:
        await lab.vault.check(lab.spec(None))  # no image: the start will say so
        await lab.image(service.key)
        spec = lab.spec(service.key)
        await lab.vault.check(spec)
        async with lab.vault.holding("microvm-1") as hold:
            working = await lab.vault.started(hold, spec)
            for path in (working.suspend.overlay, working.suspend.device, working.suspend.diff):
                path.write_bytes(path.name.encode())
            async with working.saving() as commit:
                await commit(STATS)
        await lab.vault.check(spec)
        service.disable()
        with pytest.raises(KeyRefused, match="disabled"):
            await lab.vault.check(spec)
        with pytest.raises(KeyRefused, match="disabled"):
            await lab.vault.check(lab.spec(service.key, "microvm-2"))
        assert not lab.mounted


async def test_a_resume_brings_the_suspended_files_back(
    tmp_path: Path, service: KeyService
) -> None:
    async with vault_lab(tmp_path, service) as lab:
        await lab.image(service.key)
        spec = lab.spec(service.key)
        async with lab.vault.holding("microvm-1") as hold:
            working = await lab.vault.started(hold, spec)
            for path in (working.suspend.overlay, working.suspend.device, working.suspend.diff):
                path.write_bytes(path.name.encode())
            async with working.saving() as commit:
                await commit(STATS)
            await lab.vault.clear(hold)
            assert not working.suspend.directory.exists()
        async with lab.vault.holding("microvm-1") as hold:
            working = await lab.vault.resumed(hold, spec)
            for path in (working.suspend.overlay, working.suspend.device, working.suspend.diff):
                assert path.read_bytes() == path.name.encode()
            assert lab.paths.microvm("microvm-1").suspended, "until it is retired"
        assert not lab.mounted


async def test_a_changed_file_is_refused_and_a_whole_one_is_read_once(
    tmp_path: Path, service: KeyService, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[list[str]] = []

    def reading(*arguments: Any) -> None:
        read.append(arguments[2])
        check(*arguments)

    monkeypatch.setattr(module, "check", reading)
    async with vault_lab(tmp_path, service) as lab, lab.vault.holding("microvm-1") as hold:
        await lab.image(None)
        memory = lab.paths.image(VERSION).memory
        await lab.vault.image(hold, VERSION, ROLE)
        assert read == [], "what was just written is known"
        content = memory.read_bytes()
        memory.write_bytes(b"x" + content[1:])
        with pytest.raises(SnapshotBroken, match="file memory of the snapshot was changed"):
            await lab.vault.image(hold, VERSION, ROLE)
        memory.write_bytes(content)
        async with asyncio.TaskGroup() as tasks:
            for _ in range(5):
                tasks.create_task(lab.vault.image(hold, VERSION, ROLE))
        assert read == [["memory"], ["memory"]], "once for all that wait"


async def test_a_diff_for_another_image_is_refused(tmp_path: Path, service: KeyService) -> None:
    async with vault_lab(tmp_path, service) as lab, lab.vault.holding("microvm-1") as hold:
        image = await lab.image(None)
        spec = lab.spec(None)
        working = await lab.vault.started(hold, spec)
        for path in (working.suspend.overlay, working.suspend.device, working.suspend.diff):
            path.write_bytes(b"content")
        other = replace(image, files={"memory": replace(image.files["memory"], sha256="other")})
        stats = replace(STATS, diff_sha256=hashlib.sha256(b"content").hexdigest())
        known = KnownFiles(tmp_path / "known")
        await commit_suspend(working.suspend, stats, image=other, stamp=STAMP, known=known)
        with pytest.raises(SnapshotBroken, match="memory of another image"):
            await lab.vault.resumed(hold, spec)
        await commit_suspend(working.suspend, stats, image=image, stamp=STAMP, known=known)
        assert await lab.vault.resumed(hold, spec) == working
