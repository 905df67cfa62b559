"""Snapshots under a KMS key: nothing plain on disk, everything goes on, and a key that is a key.

KMS is a real moto server; the application (`lifecycle.c`) counts in its memory. Secrets are where
an application has them: in its root file system, in the memory of the image, in its own memory and
on its disk.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from microvmd.build.service import ImageBuilder
from microvmd.build.source import SourceSettings
from microvmd.messages.keys import KeyProblem, KeyRefused
from microvmd.messages.node import (
    AdoptMicrovm,
    BuildVersion,
    Died,
    Inventory,
    LogTarget,
    MicrovmSpec,
    ResumeFailed,
    ResumeMicrovm,
    Started,
    Suspended,
    SuspendFailed,
    Terminated,
)
from microvmd.model.identifiers import new_build_id
from microvmd.model.image import VersionConfig
from microvmd.model.microvm import Phase
from microvmd.node.paths import remove
from microvmd.service.builds import build_options
from microvmd.settings.settings import Settings
from tests.nodelab import ACCOUNT, IMAGE_ARN, ROLE, VERSION, NodeLab, RunningNode, ask
from tests.otherqemu import other_qemu
from tests.vm.sealedsite import (
    HOOKS,
    IMAGE_FILES,
    IN_IMAGE,
    IN_MEMORY,
    ON_DISK,
    REGION,
    SEALED,
    SUSPEND_FILES,
    Site,
    flipped,
    gone,
    resumed,
    started,
    stored,
    suspend,
    suspended,
)

pytestmark = [pytest.mark.vm, pytest.mark.root, pytest.mark.anyio]


@pytest.fixture(scope="module")
def site(node_lab: NodeLab) -> Iterator[Site]:
    with Site.made(node_lab) as site:
        yield site


@pytest.fixture(autouse=True)
def plain_directory_is_gone(site: Site) -> Iterator[None]:
    """Whatever a test did: after its last MicroVM nothing plain is in memory."""
    site.enable()
    yield
    assert site.nothing_in_memory(), sorted(site.lab.plain.rglob("*"))
    assert not site.lab.plain.exists()


def maps_of(node: RunningNode, spec: MicrovmSpec) -> str:
    return Path(f"/proc/{node.pid_of(spec)}/maps").read_text()


def inventory(*specs: MicrovmSpec) -> Inventory:
    return Inventory(frozenset(spec.microvm_id for spec in specs), frozenset({VERSION, SEALED}))


async def test_a_secret_is_found_where_there_is_no_key(site: Site) -> None:
    """What the next test looks for would be there, in all of the places that it looks at."""
    version = replace(SEALED, number="2.0")
    async with site.lab.node() as node:
        await site.lab.capture(
            node.equipment, hooks=HOOKS, version=version, kms_key=None, secret=IN_IMAGE
        )
        assert site.secrets_found() == {IN_IMAGE}
        spec = site.spec(version=version)
        address = await started(node, spec)
        await ask(address, f"put/{ON_DISK}")
        assert site.secrets_found() == {IN_IMAGE, ON_DISK}
        await suspend(node, spec)
        await node.reports.next(Suspended)
        assert site.secrets_found() == {IN_IMAGE, ON_DISK, IN_MEMORY}
        await gone(node, spec)
    remove(node.equipment.paths.image(version).directory)


async def test_nothing_plain_lies_on_disk_and_everything_goes_on(site: Site) -> None:
    async with site.lab.node() as node:
        assert site.nothing_in_memory(), "a build leaves nothing there"
        assert site.secrets_found() == set()
        spec = site.spec()
        address = await started(node, spec)
        await ask(address, f"put/{ON_DISK}")
        assert [await ask(address, "count") for _ in range(2)] == ["1", "2"]
        assert IN_MEMORY in await ask(address, "hooks")
        assert site.secrets_found() == set(), "while it runs"
        for generation in (2, 3):
            await stored(node, spec)
            assert site.nothing_in_memory()
            assert site.secrets_found() == set(), "while it is suspended"
            files = node.equipment.paths.microvm(spec.microvm_id)
            assert set(SUSPEND_FILES) <= {path.name for path in files.directory.iterdir()}
            spec = replace(spec, generation=generation)
            address = await resumed(node, spec)
            assert not files.suspended, "the disk runs ahead of the snapshot now"
            assert not files.suspend.overlay.exists()
            assert site.secrets_found() == set()
            assert await ask(address, "count") == str(generation + 1)
            assert await ask(address, "get") == ON_DISK
        await gone(node, spec)


async def test_clones_share_the_memory_of_their_image(site: Site) -> None:
    async with site.lab.node() as node:
        one, two = site.spec(), site.spec()
        addresses = [await started(node, spec) for spec in (one, two)]
        memory = (site.lab.plain / "images" / ACCOUNT / "sealed" / "1.0" / "memory").stat()
        for spec in (one, two):
            assert f" {memory.st_ino} " in maps_of(node, spec), "the one plain file"
        await ask(addresses[0], "count")
        assert await ask(addresses[1], "count") == "1"
        await gone(node, one)
        assert await ask(addresses[1], "count") == "2"
        assert not site.nothing_in_memory()
        await gone(node, two)


async def test_a_key_that_is_disabled_starts_nothing(site: Site) -> None:
    async with site.lab.node() as node:
        spec = site.spec()
        site.disable()
        with pytest.raises(KeyRefused, match=f"{site.key} is disabled") as refused:
            await node.agent.check_keys(spec)
        assert refused.value.problem is KeyProblem.UNUSABLE
        await node.start(spec)
        died = await node.reports.next(Died)
        assert died.reason == f"The MicroVM failed: The KMS key {site.key} is disabled."
        assert site.nothing_in_memory()
        site.enable()
        await node.agent.check_keys(spec)
        again = site.spec()
        await started(node, again)
        await gone(node, again)


async def test_a_resume_needs_the_key_and_keeps_what_it_cannot_open(site: Site) -> None:
    async with site.lab.node() as node, suspended(node, site.spec()) as spec:
        site.disable()
        with pytest.raises(KeyRefused, match="disabled"):
            await node.agent.check_keys(spec)
        await node.agent.send(ResumeMicrovm(spec))
        failed = await node.reports.next(ResumeFailed)
        assert failed.reason == f"Resume failed: The KMS key {site.key} is disabled."
        assert node.equipment.paths.microvm(spec.microvm_id).suspended
        assert site.nothing_in_memory()
        site.enable()
        assert await ask(await resumed(node, replace(spec, generation=3)), "count") == "2"


async def test_without_its_key_a_microvm_runs_on(site: Site) -> None:
    async with site.lab.node() as node:
        spec = site.spec()
        address = await started(node, spec)
        site.disable()
        await suspend(node, spec)
        failed = await node.reports.next(SuspendFailed)
        assert failed.reason == f"Suspend failed: The KMS key {site.key} is disabled."
        assert await ask(address, "count") == "1"
        site.enable()
        await suspend(node, spec)
        await node.reports.next(Suspended)
        await gone(node, spec)


@pytest.mark.parametrize("name", IMAGE_FILES)
async def test_a_damaged_image_starts_nothing(name: str, site: Site) -> None:
    async with site.lab.node() as node:
        path = node.equipment.paths.image(SEALED).directory / name
        with flipped(path):
            await node.start(site.spec())
            died = await node.reports.next(Died)
        assert died.reason.startswith("The MicroVM failed: the encrypted snapshot is damaged")
        assert name in died.reason
        assert site.nothing_in_memory()


async def test_a_damaged_suspend_snapshot_is_not_resumed(site: Site) -> None:
    async with site.lab.node() as node, suspended(node, site.spec()) as spec:
        for number, name in enumerate(SUSPEND_FILES):
            path = node.equipment.paths.microvm(spec.microvm_id).directory / name
            with flipped(path):
                await node.agent.send(ResumeMicrovm(replace(spec, generation=2 + number)))
                failed = await node.reports.next(ResumeFailed)
            assert failed.reason.startswith("Resume failed: the encrypted snapshot is damaged")
            assert name in failed.reason
        assert site.nothing_in_memory()
        assert await ask(await resumed(node, replace(spec, generation=9)), "count") == "2"


async def test_a_key_of_its_own_over_a_plain_image(site: Site) -> None:
    own = site.admin.create_key()["KeyMetadata"]["Arn"]
    async with site.lab.node() as node:
        spec = site.spec(version=VERSION, key=own)
        address = await started(node, spec)
        await ask(address, f"put/{ON_DISK}")
        assert site.secrets_found() == set()
        await suspend(node, spec)
        await node.reports.next(Suspended)
        assert site.secrets_found() == set()
        again = replace(spec, generation=2)
        address = await resumed(node, again)
        assert await ask(address, "get") == ON_DISK
        await gone(node, again)
        site.disable(key=own)
        await node.start(site.spec(version=VERSION, key=own))
        assert f"{own} is disabled" in (await node.reports.next(Died)).reason


async def test_a_restart_of_the_node_ends_no_microvm(site: Site) -> None:
    spec, other = site.spec(), site.spec()
    async with site.lab.node() as node:
        address = await started(node, spec)
        await started(node, other)
        assert await ask(address, "count") == "1"
    assert await ask(address, "count") == "2"
    site.disable()  # it runs already: nobody is asked
    async with site.lab.node() as node:
        await node.agent.sweep(inventory(spec))
        plain = site.lab.plain / "microvms"
        assert [path.name for path in plain.iterdir()] == [spec.microvm_id], "the other is swept"
        await node.agent.send(AdoptMicrovm(spec, Phase.RUNNING))
        await node.reports.next(Started)
        assert await ask(address, "count") == "3"
        site.enable()
        await suspend(node, spec)
        await node.reports.next(Suspended)
        assert site.secrets_found() == set()
        again = replace(spec, generation=2)
        assert await ask(await resumed(node, again), "count") == "4"
        await gone(node, again)


async def test_a_start_that_a_restart_cut_off_begins_anew(site: Site) -> None:
    """Also in memory nothing of the first one stays, and the image stays as long as it is used."""
    spec = site.spec()
    async with site.lab.node() as node:
        assert await ask(await started(node, spec), "count") == "1"
    async with site.lab.node() as node:
        await node.agent.sweep(inventory(spec))
        await node.agent.send(AdoptMicrovm(spec, Phase.PENDING))
        assert await ask((await node.reports.next(Started)).edge_address, "count") == "1"
        plain = site.lab.plain / "microvms"
        assert [path.name for path in plain.iterdir()] == [spec.microvm_id]
        await suspend(node, spec)
        await node.reports.next(Suspended)
        assert site.secrets_found() == set()
        again = replace(spec, generation=2)
        assert await ask(await resumed(node, again), "count") == "2"
        await gone(node, again)
    assert not site.lab.plain.exists()


async def test_a_suspend_that_a_restart_cut_in_half_is_taken_back(site: Site) -> None:
    spec = site.spec()
    async with site.lab.node() as node:
        address = await started(node, spec)
        half = node.equipment.paths.microvm(spec.microvm_id)
        half.suspend.device.write_bytes(b"encrypted, but nothing says that it counts")
        (half.directory / "overlay.qcow2.new").write_bytes(b"half of it")
    async with site.lab.node() as node:
        await node.agent.sweep(inventory(spec))
        await node.agent.send(AdoptMicrovm(spec, Phase.SUSPENDING))
        await node.reports.next(SuspendFailed)
        assert await ask(address, "count") == "1"
        await suspend(node, spec)
        await node.reports.next(Suspended)
        assert not list(half.directory.glob("*.new"))
        again = replace(spec, generation=2)
        assert await ask(await resumed(node, again), "count") == "2"
        await gone(node, again)


async def test_after_a_reboot_only_what_was_suspended_goes_on(site: Site) -> None:
    """The memory-backed directory and the VMMs are gone, the encrypted files are not."""
    async with site.lab.node() as node:
        spec = site.spec()
        assert await ask(await started(node, spec), "count") == "1"
        await stored(node, spec)
    assert site.nothing_in_memory()
    async with site.lab.node() as node:
        await node.agent.sweep(inventory(spec))
        again = replace(spec, generation=2)
        assert await ask(await resumed(node, again), "count") == "2"
        await gone(node, again)


async def test_terminating_what_a_restart_left_frees_its_plain_files(site: Site) -> None:
    spec = site.spec()
    async with site.lab.node() as node:
        await started(node, spec)
    assert not site.nothing_in_memory()
    async with site.lab.node() as node:
        await node.agent.sweep(inventory(spec))
        await gone(node, spec)


async def test_a_build_whose_key_cannot_be_used_leaves_nothing(site: Site) -> None:
    version = replace(SEALED, number="3.0")
    async with site.lab.node() as node:
        site.disable()
        with pytest.raises(KeyRefused, match="disabled"):
            await site.lab.capture(node.equipment, hooks=HOOKS, version=version, kms_key=site.key)
        assert not node.equipment.paths.image(version).directory.exists()
        assert list(node.equipment.paths.tmp.iterdir()) == []
        assert site.nothing_in_memory()


async def test_a_version_under_a_key_is_built_again(site: Site, tmp_path: Path) -> None:
    """From its encrypted files, which are plain in memory only while that goes on."""
    lab = replace(site.lab, qemu=other_qemu(tmp_path))
    build_id = new_build_id()
    again = replace(SEALED, build=build_id)
    config = VersionConfig(
        "base", ROLE, "s3://b/k", hooks=HOOKS, memory_mib=lab.memory_mib, kms_key=site.key
    )
    log = LogTarget("build", build_id)
    command = BuildVersion(again, build_id, IMAGE_ARN, config, log, source=SEALED)
    settings = Settings(root=tmp_path, cache=tmp_path)
    async with lab.equipment() as equipment:
        builder = ImageBuilder(
            equipment,
            SourceSettings(REGION),
            lambda account: build_options(settings, equipment, account),
        )
        assert equipment.vault.unfit(SEALED) is not None
        await builder.build(command)
        assert equipment.vault.unfit(again) is None
    assert site.nothing_in_memory()
    async with lab.node() as node:
        spec = site.spec(version=again, key=site.key)
        await node.start(spec)
        address = (await node.reports.next(Started)).edge_address
        assert await ask(address, "count") == "1"
        assert site.secrets_found() == set()
        await node.terminate(spec)
        await node.reports.next(Terminated)
    assert site.nothing_in_memory()
