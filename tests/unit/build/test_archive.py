"""The zip checks: each hostile zip is refused by name, each honest one passes."""

import contextlib
import io
import stat
import struct
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from microvmd.build.archive import Archive, ArchiveLimits, inspect
from microvmd.build.failure import BuildFailed

DOCKERFILE = ("Dockerfile", b"FROM scratch\n")
LIMITS = ArchiveLimits()


def pack(*entries: tuple[str | zipfile.ZipInfo, bytes], dockerfile: bool = True) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in (DOCKERFILE, *entries) if dockerfile else entries:
            archive.writestr(name, data)
    return buffer.getvalue()


def entry(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


def judge(tmp_path: Path, data: bytes, limits: ArchiveLimits = LIMITS) -> Archive:
    path = tmp_path / "context.zip"
    path.write_bytes(data)
    return inspect(path, limits)


def refusal(tmp_path: Path, data: bytes, limits: ArchiveLimits = LIMITS) -> str:
    with pytest.raises(BuildFailed) as caught:
        judge(tmp_path, data, limits)
    return caught.value.reason


def test_an_honest_zip_passes(tmp_path: Path) -> None:
    folder = entry("src/", stat.S_IFDIR | 0o755)
    data = pack((folder, b""), (entry("src/app.py", stat.S_IFREG | 0o644), b"print()\n" * 10))
    archive = judge(tmp_path, data)
    assert (archive.entries, archive.total_bytes) == (3, 13 + 80)
    assert archive.dockerfile == "FROM scratch\n"
    assert archive.size == len(data)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("../evil", "'..' part"),
        ("a/../../evil", "'..' part"),
        ("/etc/passwd", "absolute path"),
        ("C:/windows", "absolute path"),
        ("a//b", "empty, '.'"),
        ("./a", "empty, '.'"),
        ("a\\b", "backslash"),
        ("a\nb", "control character"),
        ("x" * 256, "too long"),
        ("d/" * 256 + "x", "256 folders deep"),
    ],
)
def test_a_path_that_leaves_or_confuses_is_refused_by_name(
    tmp_path: Path, name: str, words: str
) -> None:
    reason = refusal(tmp_path, pack((name, b"x")))
    assert reason.startswith("ARCHIVE_INVALID: Entry ")
    assert words in reason
    assert ascii(name[:200]) in reason


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (stat.S_IFLNK, "symbolic link"),
        (stat.S_IFCHR, "neither a file nor a folder"),
        (stat.S_IFBLK, "neither a file nor a folder"),
        (stat.S_IFIFO, "neither a file nor a folder"),
        (stat.S_IFSOCK, "neither a file nor a folder"),
        (stat.S_IFDIR, "a file and a folder at once"),
    ],
)
def test_only_files_and_folders_pass(tmp_path: Path, kind: int, words: str) -> None:
    reason = refusal(tmp_path, pack((entry("odd", kind | 0o777), b"/etc/shadow")))
    assert words in reason
    assert "'odd'" in reason


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_twice_is_refused(tmp_path: Path) -> None:
    assert "'a' appears twice" in refusal(tmp_path, pack(("a", b"1"), ("a", b"2")))


def test_a_file_as_parent_is_refused(tmp_path: Path) -> None:
    assert "'a/b' lies below a file" in refusal(tmp_path, pack(("a", b"1"), ("a/b", b"2")))
    names = ("x/y/z/f", "x/y.txt", "x/y0", "x/y", "x/")
    assert "'x/y/z/f' lies below a file" in refusal(tmp_path, pack(*((n, b"") for n in names)))


def test_names_that_only_begin_alike_pass(tmp_path: Path) -> None:
    names = ("a", "a.b", "a0", "a-/b", "b/", "b/c/", "b/c/d", "b/c.d")
    found = judge(tmp_path, pack(*((n, b"") for n in names)))
    assert found.entries == len(names) + 1


def test_an_encrypted_entry_is_refused(tmp_path: Path) -> None:
    data = bytearray(pack(("secret", b"x")))
    local, central = data.index(b"PK\x03\x04", 5), data.rindex(b"PK\x01\x02")
    data[local + 6] |= 1
    data[central + 8] |= 1
    assert "'secret' is encrypted" in refusal(tmp_path, bytes(data))


def test_a_rare_compression_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO(pack())
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("b", b"x", compress_type=zipfile.ZIP_LZMA)
    assert "compression other than deflate" in refusal(tmp_path, buffer.getvalue())


def test_limits_are_kept(tmp_path: Path) -> None:
    data = pack(("a", b"x" * 1000), ("b", b""))
    assert "3 entries" in refusal(tmp_path, data, ArchiveLimits(entries=2))
    assert "at entry 'a'" in refusal(tmp_path, data, ArchiveLimits(total_bytes=500))
    assert "larger than 10 bytes" in refusal(tmp_path, data, ArchiveLimits(archive_bytes=10))
    assert "directory of the archive" in refusal(tmp_path, data, ArchiveLimits(directory_bytes=9))
    assert "Dockerfile is larger" in refusal(tmp_path, data, ArchiveLimits(dockerfile_bytes=5))


def test_a_bomb_is_refused_by_its_ratio(tmp_path: Path) -> None:
    reason = refusal(tmp_path, pack(("zeros", b"\0" * (80 << 20))))
    assert "expands more than 200 times" in reason
    assert "'zeros'" in reason


def test_overlapping_entries_are_refused(tmp_path: Path) -> None:
    """Two directory records for one place: a small zip could expand without end."""
    data = pack(("kernel", b"x" * 5000))
    at = data.rindex(b"PK\x01\x02")
    end = data.rindex(b"PK\x05\x06")
    twin = bytearray(data[at:end])
    twin[-6:] = b"kernem"
    record = bytearray(data[end:])
    counts = struct.unpack_from("<2H", record, 8)
    struct.pack_into("<2HL", record, 8, counts[0] + 1, counts[1] + 1, _directory(data) + len(twin))
    reason = refusal(tmp_path, data[:end] + bytes(twin) + bytes(record))
    assert "overlaps entry 'kernel'" in reason


def _directory(data: bytes) -> int:
    size: int = struct.unpack_from("<L", data, data.rindex(b"PK\x05\x06") + 12)[0]
    return size


def test_a_missing_dockerfile_has_its_own_code(tmp_path: Path) -> None:
    reason = refusal(tmp_path, pack(("app/Dockerfile", b"FROM scratch"), dockerfile=False))
    assert reason == "ARCHIVE_DOCKERFILE_NOT_FOUND: The archive has no Dockerfile at its root."


def test_a_damaged_or_binary_dockerfile_is_refused(tmp_path: Path) -> None:
    assert "not UTF-8" in refusal(tmp_path, pack(("Dockerfile", b"\xff\xfe"), dockerfile=False))
    damaged = bytearray(pack(("Dockerfile", b"FROM scratch\n" * 9), dockerfile=False))
    damaged[45] ^= 0xFF
    assert "Dockerfile cannot be read" in refusal(tmp_path, bytes(damaged))


@pytest.mark.parametrize("data", [b"", b"PK", b"not a zip" * 99, b"PK\x05\x06" + b"\0" * 18])
def test_what_is_no_zip_is_refused(tmp_path: Path, data: bytes) -> None:
    assert refusal(tmp_path, data).startswith("ARCHIVE_")


_SMALL = ArchiveLimits(archive_bytes=1 << 16, total_bytes=1 << 20)
_FUZZ = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@_FUZZ
@given(st.binary(max_size=600))
def test_no_bytes_raise_anything_else(tmp_path: Path, data: bytes) -> None:
    refusal(tmp_path, data, _SMALL)


@_FUZZ
@given(
    st.lists(
        st.tuples(st.integers(min_value=0, max_value=400), st.integers(min_value=0, max_value=255)),
        min_size=1,
        max_size=6,
    )
)
def test_a_damaged_zip_passes_or_is_refused(tmp_path: Path, damages: list[tuple[int, int]]) -> None:
    data = bytearray(pack(("src/", b""), ("src/app.py", b"print()\n"), ("x", b"y" * 300)))
    for place, value in damages:
        data[place % len(data)] = value
    with contextlib.suppress(BuildFailed):
        assert judge(tmp_path, bytes(data), _SMALL).total_bytes <= _SMALL.total_bytes


@_FUZZ
@given(st.text(min_size=1, max_size=40).filter(lambda name: "\0" not in name))
def test_a_name_that_passes_stays_below_the_context(tmp_path: Path, name: str) -> None:
    try:
        data = pack((name, b""))
        judge(tmp_path, data)
    except (BuildFailed, UnicodeEncodeError):
        return
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for item in archive.namelist():
            resolved = (tmp_path / item).resolve()
            assert resolved.is_relative_to(tmp_path)
