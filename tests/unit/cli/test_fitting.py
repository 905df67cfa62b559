"""Which versions a machine can restore, by the manifests of all their snapshots."""

from dataclasses import replace
from pathlib import Path

import pytest

from microvmd.cli import checks
from microvmd.cli.fitting import differences
from microvmd.messages.node import VersionKey
from microvmd.node.snapshot import MANIFEST, Manifest, SnapshotKind, Stamp, encode
from microvmd.settings.settings import Settings, VmmSettings

ACCOUNT, NEIGHBOUR = "000000000000", "111111111111"
HERE = Stamp("tcg", "10.0.2", "max", "devices")
BEFORE = replace(HERE, vmm_version="9.2.0")
OTHER = replace(HERE, vmm="firecracker", vmm_version="1.12.1")


def _key(name: str, number: str, account: str = ACCOUNT) -> VersionKey:
    return VersionKey(account, name, number)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return tmp_path / "root" / "images"


def _made(images: Path, place: str, stamp: Stamp, account: str = ACCOUNT) -> None:
    directory = images / account / place
    directory.mkdir(parents=True)
    manifest = Manifest(SnapshotKind.IMAGE, stamp, 512, 1, None, None, {})
    (directory / MANIFEST).write_bytes(encode(manifest))


def test_one_snapshot_that_fits_is_enough(images: Path) -> None:
    _made(images, "app/1.0", BEFORE)
    _made(images, "app/1.0@b-1", HERE)
    _made(images, "app/2.0", HERE)
    _made(images, "app/2.0@b-2", BEFORE)
    _made(images, "app/3.0", OTHER)
    _made(images, "old/1.0", BEFORE)
    found = differences(images, [HERE, OTHER])
    fit = [version for version, why in found.items() if why is None]
    assert fit == [_key("app", number) for number in ("1.0", "2.0", "3.0")]
    assert "made under tcg, QEMU 9.2.0" in str(found[_key("old", "1.0")])
    assert "this node has tcg, QEMU" in str(differences(images, [HERE])[_key("app", "3.0")])


def test_images_of_two_accounts_that_share_a_name(images: Path) -> None:
    _made(images, "app/1.0", HERE)
    _made(images, "app/1.0", BEFORE, NEIGHBOUR)
    found = differences(images, [HERE])
    assert found[_key("app", "1.0")] is None
    assert found[_key("app", "1.0", NEIGHBOUR)] is not None


def test_what_is_damaged_is_left_to_its_runs(images: Path) -> None:
    _made(images, "app/1.0", HERE)
    (images / ACCOUNT / "app" / "1.0" / MANIFEST).write_text("{}")
    assert differences(images, [HERE]) == {}


def test_doctor_tells_what_will_be_built_again(images: Path, tmp_path: Path) -> None:
    settings = Settings(
        root=tmp_path / "root", cache=tmp_path, vmm=VmmSettings(kind="qemu", accelerator="tcg")
    )
    vmms = checks.VmmChecks()
    assert vmms.snapshots(settings).why == "those of all 0 image versions fit this machine"
    _made(images, "old/1.0", BEFORE)
    found = vmms.snapshots(settings)
    assert found.state == "warning"
    told = "1 of 1 image versions are built again by their first run, old 1.0 among them: "
    assert found.why.startswith(told)
    _made(images, "old/1.0", OTHER, NEIGHBOUR)
    found = vmms.snapshots(settings)
    assert found.why.startswith("2 of 2 ")
    assert f", old 1.0 of account {ACCOUNT} among them: " in found.why
