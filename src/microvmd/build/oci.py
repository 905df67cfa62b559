"""Writes, reads and copies OCI image layouts with the standard library alone.

A layout is a folder with blobs named by their sha256 and an index of manifests. Whatever comes in
is checked blob by blob: the store is named by digests, so a digest must be true.
"""

import bz2
import contextlib
import gzip
import hashlib
import json
import lzma
import shutil
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_CREATED = "2023-11-14T22:13:20Z"  # fixed, so that equal content has an equal digest
_DOCUMENT_LIMIT = 4 << 20
_LAYER_LIMIT = 16 << 30
_DEPTH_LIMIT = 4


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class InvalidImage(Exception):
    """A tarball, layout or archive is not the image it claims to be."""


@dataclass(frozen=True, slots=True)
class Layout:
    """An image in a layout folder. ``image_id`` is the digest of its configuration, in hex."""

    path: Path
    digest: str
    image_id: str
    size: int


def write_layout(layer: Path, target: Path, architecture: str, config: Mapping[str, Any]) -> Layout:
    """Make a one-layer image of an uncompressed tarball, which is moved into the layout."""
    blobs = target / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    layer_digest, layer_size = _digest(layer), layer.stat().st_size
    layer.rename(blobs / layer_digest)
    image = {
        "architecture": architecture,
        "os": "linux",
        "config": dict(config),
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer_digest}"]},
        # Without a time here the engine finds no cached layer on top of this image.
        "history": [{"created": _CREATED, "created_by": "microvmd base"}],
        "created": _CREATED,
    }
    descriptor = {"mediaType": LAYER, "digest": f"sha256:{layer_digest}", "size": layer_size}
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, **_write_document(blobs, image)},
        "layers": [descriptor],
    }
    return _write_index(target, manifest)


def plain_tar(source: Path, target: Path) -> None:
    """Copy a tarball, plain or compressed with gzip, xz or bzip2, to an uncompressed one."""
    with source.open("rb") as file:
        head = file.read(6)
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        raise InvalidImage("zstd tarballs are not supported; decompress it first")
    try:
        with _opened(source, head) as opened, target.open("xb") as file:
            _copy_bounded(opened, file, _LAYER_LIMIT)
        with tarfile.open(target, "r:") as tar:
            if tar.next() is None:
                raise InvalidImage("the tarball is empty")
    except (tarfile.TarError, gzip.BadGzipFile, lzma.LZMAError, EOFError) as error:
        raise InvalidImage(f"not a readable tarball: {error}") from error


def _opened(source: Path, head: bytes) -> contextlib.AbstractContextManager[_Readable]:
    if head.startswith(b"\x1f\x8b"):
        return gzip.open(source, "rb")
    if head.startswith(b"\xfd7zXZ\x00"):
        return lzma.open(source, "rb")
    if head.startswith(b"BZh"):
        return bz2.open(source, "rb")
    return source.open("rb")


def copy_layout(source: Path, target: Path, architecture: str) -> Layout:
    """Copy the one image for ``architecture`` out of a layout folder, checking every digest."""
    index = _read_json(source / "index.json")
    manifest = _choose(source, index, architecture, _DEPTH_LIMIT)
    blobs = target / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    descriptors = [manifest["config"], *manifest["layers"]]
    for digest in {_hex(descriptor) for descriptor in descriptors}:
        _copy_blob(source / "blobs" / "sha256" / digest, blobs / digest, digest)
    return _write_index(target, manifest)


def unpack_archive(source: Path, target: Path) -> None:
    """Unpack the files of an OCI archive (a tarred layout) that a layout may hold, no others."""
    with tarfile.open(source) as tar:
        for member in tar:
            name = member.name.removeprefix("./")
            parts = name.split("/")
            is_blob = parts[:2] == ["blobs", "sha256"] and len(parts) == 3 and _is_hex(parts[2])
            if not member.isfile() or not (is_blob or name in ("index.json", "oci-layout")):
                continue
            path = target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            content = tar.extractfile(member)
            if content is not None:
                with content, path.open("wb") as file:
                    _copy_bounded(content, file, _LAYER_LIMIT)


def is_archive(source: Path) -> bool:
    """Whether a tarball is a tarred OCI layout rather than a root file system."""
    try:
        with tarfile.open(source) as tar:
            for _ in range(64):
                member = tar.next()
                if member is None:
                    return False
                if member.name.removeprefix("./") == "oci-layout":
                    return True
    except tarfile.TarError:
        return False
    return False


def read_layout(path: Path) -> Layout:
    """Read a layout that this module wrote."""
    descriptor = _read_json(path / "index.json")["manifests"][0]
    manifest = _read_json(path / "blobs" / "sha256" / _hex(descriptor))
    size = sum(blob.stat().st_size for blob in (path / "blobs" / "sha256").iterdir())
    return Layout(path, _hex(descriptor), _hex(manifest["config"]), size)


def _write_index(target: Path, manifest: dict[str, Any]) -> Layout:
    written = _write_document(target / "blobs" / "sha256", manifest)
    media_type = manifest.get("mediaType", MANIFEST)
    index = {"schemaVersion": 2, "manifests": [{"mediaType": media_type, **written}]}
    (target / "index.json").write_text(json.dumps(index))
    (target / "oci-layout").write_text(json.dumps({"imageLayoutVersion": "1.0.0"}))
    return read_layout(target)


def _write_document(blobs: Path, document: Mapping[str, Any]) -> dict[str, Any]:
    data = json.dumps(document, separators=(",", ":")).encode()
    digest = hashlib.sha256(data).hexdigest()
    (blobs / digest).write_bytes(data)
    return {"digest": f"sha256:{digest}", "size": len(data)}


def _choose(source: Path, index: dict[str, Any], architecture: str, depth: int) -> dict[str, Any]:
    """Follow an index, perhaps of indexes, to the manifest for this machine."""
    manifests = index.get("manifests")
    if depth == 0 or not isinstance(manifests, list):
        raise InvalidImage("index.json holds no list of manifests")
    offered: list[str] = []
    for descriptor in manifests:
        platform = descriptor.get("platform") or {}
        offered.append(platform.get("architecture", "any"))
        if platform and (platform.get("os"), offered[-1]) != ("linux", architecture):
            continue
        document = _read_json(source / "blobs" / "sha256" / _hex(descriptor))
        if descriptor.get("mediaType") in INDEXES:
            return _choose(source, document, architecture, depth - 1)
        if not isinstance(document.get("layers"), list) or "config" not in document:
            raise InvalidImage("the manifest has no layers")
        return document
    raise InvalidImage(f"no image for linux/{architecture}; it has {', '.join(offered)}")


def _copy_blob(source: Path, target: Path, digest: str) -> None:
    if not source.is_file() or source.is_symlink():
        raise InvalidImage(f"blob sha256:{digest} is missing")
    shutil.copyfile(source, target)
    if _digest(target) != digest:
        raise InvalidImage(f"blob sha256:{digest} is damaged")


def _copy_bounded(source: _Readable, target: IO[bytes], limit: int) -> None:
    left = limit
    while piece := source.read(1 << 20):
        left -= len(piece)
        if left < 0:
            raise InvalidImage(f"larger than {limit} bytes")
        target.write(piece)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _DOCUMENT_LIMIT:
            raise InvalidImage(f"{path.name} is too large")
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidImage(f"{path.name} cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise InvalidImage(f"{path.name} is not an object")
    return document


def _hex(descriptor: Mapping[str, Any]) -> str:
    algorithm, _, digest = str(descriptor.get("digest", "")).partition(":")
    if algorithm != "sha256" or not _is_hex(digest):
        raise InvalidImage(f"unsupported digest {descriptor.get('digest')!r}")
    return digest


def _is_hex(digest: str) -> bool:
    return len(digest) == 64 and all(char in "0123456789abcdef" for char in digest)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
