"""The disks of a build microVM: their order is their names in the guest."""

from pathlib import Path

from microvmd.build.in_microvm import MicrovmWorkshop, _fill_sector, _fresh
from microvmd.build.job import Job
from microvmd.build.toolchain import ImageStore


def workshop() -> MicrovmWorkshop:
    """Only what reads no resource of the node is called below."""
    made = object.__new__(MicrovmWorkshop)
    for name, value in (("disk_bytes", 1 << 20), ("image_bytes", 1 << 20)):
        object.__setattr__(made, name, value)
    return made


def test_the_job_names_the_disks_in_their_order() -> None:
    shop = workshop()
    store = ImageStore(Path("/a"), Path("/a.erofs"))
    bases = tuple(shop.base_path(store, position) for position in range(2))
    plain = Job(
        archive_size=1,
        lines={},
        names={},
        bases=bases,
        pull="never",
        timestamp=1,
        uuid="u",
    )
    job = shop.complete(plain)
    assert (job.archive, job.output, job.result) == ("/dev/vdd", "/dev/vde", "/dev/vdf")
    assert [(mount.source, mount.target, mount.kind) for mount in job.mounts] == [
        ("/dev/vdc", "/build/store", "ext4"),
        ("/dev/vdh", "/build/bases/0", "erofs"),
        ("/dev/vdi", "/build/bases/1", "erofs"),
    ]
    assert job.files_limit == 1 << 20


def test_a_store_of_another_size_is_made_anew(tmp_path: Path) -> None:
    store = tmp_path / "microvm" / "store.ext4"
    fresh = _fresh(store, 4096)
    assert fresh is not None
    fresh.rename(store)
    assert _fresh(store, 4096) is None
    assert _fresh(store, 8192) is not None
    assert not store.exists()


def test_a_disk_has_whole_sectors(tmp_path: Path) -> None:
    archive = tmp_path / "archive.zip"
    for size, filled in ((1, 512), (512, 512), (513, 1024)):
        archive.write_bytes(b"x" * size)
        _fill_sector(archive)
        assert archive.read_bytes() == (b"x" * size).ljust(filled, b"\0")
