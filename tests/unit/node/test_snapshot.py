"""Manifests and digests: what counts as a snapshot, and what is refused."""

import json
import os
import random
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microvmd.node.kms import Envelope
from microvmd.node.known_files import KnownFiles
from microvmd.node.snapshot import (
    MANIFEST,
    FileRecord,
    ImageFiles,
    Manifest,
    SnapshotBroken,
    SnapshotForeign,
    SnapshotKind,
    Stamp,
    check,
    closed,
    decode,
    encode,
    load,
    seal_image,
    unknown,
    verify,
)
from microvmd.vmm.machine import Accelerator, AcceleratorKind, SuspendMethod, Vmm, VmmName

STAMP = Stamp("tcg", "10.0.2", "max", "aa", tsc_khz=2_300_000)


def _image(directory: Path) -> Path:
    directory.mkdir()
    for name in ("rootfs.erofs", "disk.raw", "memory", "device", "config.json"):
        (directory / name).write_bytes(random.randbytes(9000))
    return directory


@pytest.mark.parametrize(
    ("here", "there", "same"),
    [
        (2_300_000, 2_300_475, True),
        (2_300_475, 2_300_000, True),
        (2_300_000, 2_302_000, False),
        (2_300_000, 2_200_000, False),
        (0, 2_300_000, True),
        (2_300_000, 0, True),
    ],
)
def test_counters_that_a_clock_is_right_by(here: int, there: int, same: bool) -> None:
    assert replace(STAMP, tsc_khz=here).in_time(replace(STAMP, tsc_khz=there)) is same


def test_a_manifest_that_tells_no_rate_is_restored(tmp_path: Path) -> None:
    silent = replace(STAMP, tsc_khz=0)
    (tmp_path / MANIFEST).write_bytes(
        encode(Manifest(SnapshotKind.IMAGE, silent, 1, 1, None, None, {}))
    )
    assert load(tmp_path, stamp=STAMP).stamp.tsc_khz == 0


def test_an_emulated_guest_alone_depends_on_the_rate() -> None:
    class Program:
        name, version, devices = VmmName.QEMU, "10.0.2", "aa"

        def cpu_model(self, accelerator: Accelerator) -> str:
            return "max"

    rates = {
        kind: Stamp.of(Accelerator(kind, "test", 2_300_000), cast("Vmm", Program())).tsc_khz
        for kind in AcceleratorKind
    }
    assert rates == {AcceleratorKind.TCG: 2_300_000, AcceleratorKind.KVM: 0}


@pytest.mark.anyio
async def test_seal_moves_verify_finds_changes(tmp_path: Path) -> None:
    final = tmp_path / "images" / "1.0"
    if os.geteuid() != 0:
        pytest.skip("needs root")
    known = KnownFiles(tmp_path / "known")
    made = await seal_image(
        _image(tmp_path / "half"), final, stamp=STAMP, memory_mib=512, vcpus=1, known=known
    )
    assert not (tmp_path / "half").exists()
    assert load(final, stamp=STAMP) == made == await verify(final)
    assert ImageFiles(final).memory.stat().st_mode & 0o777 == 0o444
    assert made.sizes.code == ImageFiles(final).rootfs.stat().st_blocks * 512
    with pytest.raises(SnapshotForeign, match=r"made under tcg.*build the image again"):
        load(final, stamp=replace(STAMP, vmm_version="10.1.0"))
    with pytest.raises(SnapshotForeign, match=r"other devices \(aa\) than .* \(bb\): build the"):
        load(final, stamp=replace(STAMP, devices="bb"))
    with pytest.raises(SnapshotForeign, match=r"of 2300\.0 MHz .* has 2400\.0 MHz.*build the"):
        load(final, stamp=replace(STAMP, tsc_khz=2_400_000))
    other = replace(STAMP, vmm="firecracker", vmm_version="1.12.1")
    assert load(final, stamp=other, others=[STAMP]) == made
    with pytest.raises(SnapshotForeign, match=r"this node has tcg, QEMU 10.1.0"):
        load(final, stamp=other, others=[replace(STAMP, vmm_version="10.1.0")])
    assert unknown(final, made, known) == []
    content = ImageFiles(final).memory.read_bytes()
    ImageFiles(final).memory.write_bytes(b"y" + content[1:])
    assert load(final, stamp=STAMP) == made
    with pytest.raises(SnapshotBroken, match="file memory of the snapshot was changed"):
        await verify(final)
    assert unknown(final, made, known) == ["memory"]
    with pytest.raises(SnapshotBroken, match="file memory of the snapshot was changed"):
        check(final, made, ["memory"], known, bool)
    assert unknown(final, made, known) == ["memory"], "found bad is not found good"
    ImageFiles(final).memory.write_bytes(content[1:])
    with pytest.raises(SnapshotBroken, match="bytes"):
        load(final, stamp=STAMP)
    ImageFiles(final).memory.unlink()
    with pytest.raises(SnapshotBroken, match="missing"):
        load(final, stamp=STAMP)


@pytest.mark.anyio
async def test_an_incomplete_image_is_not_sealed(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    half = _image(tmp_path / "half")
    (half / "device").unlink()
    with pytest.raises(SnapshotBroken, match="device"):
        await seal_image(
            half,
            tmp_path / "final",
            stamp=STAMP,
            memory_mib=512,
            vcpus=1,
            known=KnownFiles(tmp_path / "known"),
        )
    assert not (tmp_path / "final").exists()


def test_no_manifest_is_no_snapshot(tmp_path: Path) -> None:
    with pytest.raises(SnapshotBroken, match="no snapshot"):
        load(tmp_path, stamp=STAMP)


names = st.text(min_size=1, max_size=20).filter(lambda name: "/" not in name and name not in "..")
records = st.builds(
    FileRecord,
    size=st.integers(0, 1 << 60),
    allocated=st.integers(0, 1 << 60),
    sha256=st.none() | st.text(max_size=64),
)
manifests = st.builds(
    Manifest,
    kind=st.sampled_from(SnapshotKind),
    stamp=st.builds(Stamp, st.text(), st.text(), st.text(), st.text()),
    memory_mib=st.integers(1, 1 << 20),
    vcpus=st.integers(1, 64),
    method=st.none() | st.sampled_from(SuspendMethod),
    base=st.none() | st.text(),
    files=st.dictionaries(names, records, max_size=4),
    envelope=st.none() | st.builds(Envelope, st.text(), st.text(), st.text(), st.text()),
)


@given(manifests)
def test_manifest_round_trip(manifest: Manifest) -> None:
    assert decode(encode(manifest)) == manifest


@given(manifests, st.data())
def test_a_flipped_bit_in_a_manifest_is_found(manifest: Manifest, data: st.DataObject) -> None:
    raw = bytearray(encode(manifest))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(SnapshotBroken, match="manifest of the snapshot was changed"):
        decode(bytes(raw))


@given(
    st.binary()
    | st.recursive(
        st.none() | st.integers() | st.text(), lambda inner: st.dictionaries(st.text(), inner)
    ).map(lambda value: json.dumps(value).encode())
)
def test_hostile_manifests_are_refused(raw: bytes) -> None:
    for text in (raw, closed(raw)):
        with pytest.raises(SnapshotBroken):
            decode(text)


@pytest.mark.parametrize("name", ["../state.db", "/etc/passwd", "..", ""])
def test_a_manifest_names_files_of_its_directory_only(tmp_path: Path, name: str) -> None:
    manifest = Manifest(SnapshotKind.IMAGE, STAMP, 1, 1, None, None, {name: FileRecord(1, 1, None)})
    (tmp_path / MANIFEST).write_bytes(encode(manifest))
    with pytest.raises(SnapshotBroken, match="cannot be read"):
        load(tmp_path, stamp=STAMP)


def test_a_manifest_with_an_unknown_member_is_refused() -> None:
    """It would count as plain when the name of its envelope was damaged."""
    manifest = Manifest(
        SnapshotKind.IMAGE, STAMP, 1, 1, None, None, {}, Envelope("a", "b", "c", "d")
    )
    raw = encode(manifest)
    assert decode(raw) == manifest
    with pytest.raises(SnapshotBroken, match="envelopf"):
        decode(_with(raw, b'"envelope"', b'"envelopf"'))
    with pytest.raises(SnapshotBroken, match="text"):
        decode(_with(raw, b'"owner": "c"', b'"owner": 1'))


def test_a_manifest_of_another_version_says_what_to_do() -> None:
    raw = encode(Manifest(SnapshotKind.IMAGE, STAMP, 1, 1, None, None, {}))
    with pytest.raises(SnapshotBroken, match="another version of microvmd: build the image again"):
        decode(_with(raw, b'"format": 2', b'"format": 1'))


def _with(raw: bytes, old: bytes, new: bytes) -> bytes:
    """A manifest that was changed by whoever can write its digest too."""
    assert old in raw
    return closed(raw[:-65].replace(old, new))
