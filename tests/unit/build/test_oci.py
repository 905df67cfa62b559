"""OCI layouts: written, copied and read with every digest checked."""

import gzip
import io
import json
import tarfile
from pathlib import Path

import pytest

from microvmd.build import oci
from microvmd.build.oci import InvalidImage


def tarball(directory: Path, name: str = "root.tar") -> Path:
    path = directory / name
    with tarfile.open(path, "w") as tar:
        info = tarfile.TarInfo("hello")
        info.size = 5
        tar.addfile(info, io.BytesIO(b"hello"))
    return path


def layout(directory: Path) -> oci.Layout:
    return oci.write_layout(
        tarball(directory), directory / "layout", "amd64", {"Env": ["A=1"], "Cmd": ["/hello"]}
    )


def test_a_written_layout_is_whole(tmp_path: Path) -> None:
    made = layout(tmp_path)
    copied = oci.copy_layout(made.path, tmp_path / "copy", "amd64")
    assert (copied.digest, copied.image_id, copied.size) == (made.digest, made.image_id, made.size)
    config = json.loads((made.path / "blobs/sha256" / made.image_id).read_text())
    assert config["config"] == {"Env": ["A=1"], "Cmd": ["/hello"]}
    assert config["history"][0]["created"]


def test_equal_content_has_an_equal_digest(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert layout(tmp_path / "a").digest == layout(tmp_path / "b").digest


def test_a_damaged_blob_is_refused(tmp_path: Path) -> None:
    made = layout(tmp_path)
    largest = max((made.path / "blobs/sha256").iterdir(), key=lambda blob: blob.stat().st_size)
    largest.write_bytes(largest.read_bytes() + b"x")
    with pytest.raises(InvalidImage, match="damaged"):
        oci.copy_layout(made.path, tmp_path / "copy", "amd64")
    largest.unlink()
    with pytest.raises(InvalidImage, match="missing"):
        oci.copy_layout(made.path, tmp_path / "copy2", "amd64")


def test_the_image_of_this_architecture_is_chosen(tmp_path: Path) -> None:
    made = layout(tmp_path)
    index = json.loads((made.path / "index.json").read_text())
    index["manifests"][0]["platform"] = {"os": "linux", "architecture": "arm64"}
    (made.path / "index.json").write_text(json.dumps(index))
    with pytest.raises(InvalidImage, match="no image for linux/amd64; it has arm64"):
        oci.copy_layout(made.path, tmp_path / "copy", "amd64")
    assert oci.copy_layout(made.path, tmp_path / "copy2", "arm64").digest


def test_an_archive_is_unpacked_without_its_tricks(tmp_path: Path) -> None:
    made = layout(tmp_path)
    path = tmp_path / "image.tar"
    with tarfile.open(path, "w") as tar:
        tar.add(made.path, arcname=".")
        evil = tarfile.TarInfo("../evil")
        evil.size = 1
        tar.addfile(evil, io.BytesIO(b"x"))
        link = tarfile.TarInfo("blobs/sha256/" + "0" * 64)
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    assert oci.is_archive(path)
    target = tmp_path / "a" / "archive"
    oci.unpack_archive(path, target)
    assert not (tmp_path / "a" / "evil").exists()
    assert not (target / "blobs/sha256" / ("0" * 64)).exists()
    assert oci.copy_layout(target, tmp_path / "copy", "amd64").digest == made.digest


def test_a_root_tarball_is_no_archive(tmp_path: Path) -> None:
    assert not oci.is_archive(tarball(tmp_path))


def test_compressed_tarballs_become_plain(tmp_path: Path) -> None:
    plain = tarball(tmp_path).read_bytes()
    packed = tmp_path / "root.tar.gz"
    packed.write_bytes(gzip.compress(plain))
    oci.plain_tar(packed, tmp_path / "out.tar")
    assert (tmp_path / "out.tar").read_bytes() == plain


@pytest.mark.parametrize("data", [b"", b"nothing", b"\x1f\x8bbroken", b"\x28\xb5\x2f\xfdzstd"])
def test_what_is_no_tarball_is_refused(tmp_path: Path, data: bytes) -> None:
    source = tmp_path / "source"
    source.write_bytes(data)
    with pytest.raises(InvalidImage):
        oci.plain_tar(source, tmp_path / "out.tar")


@pytest.mark.parametrize(
    "index",
    ["", "[]", "{}", '{"manifests": [{"digest": "sha256:../../etc/passwd"}]}', "[" * 100_000],
)
def test_a_malformed_index_is_refused(tmp_path: Path, index: str) -> None:
    (tmp_path / "index.json").write_text(index)
    with pytest.raises(InvalidImage):
        oci.copy_layout(tmp_path, tmp_path / "copy", "amd64")
