"""Encrypted files: the same content back, holes kept, and no change that goes unseen."""

import os
import random
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microvmd.node.sealed_file import (
    MAGIC,
    PIECE,
    RECORD,
    SALT_BYTES,
    TAG_BYTES,
    SealAbandoned,
    SealBroken,
    seal,
    unseal,
)
from microvmd.node.sparse import BLOCK

KEY = bytes(range(32))
HEADER = len(MAGIC) + SALT_BYTES


def _sparse(path: Path, pieces: dict[int, bytes], size: int) -> Path:
    with path.open("xb") as file:
        for offset, content in pieces.items():
            os.pwrite(file.fileno(), content, offset)
        file.truncate(size)
    return path


def _sealed(directory: Path, plain: bytes, name: str = "memory", key: bytes = KEY) -> Path:
    source = directory / "plain"
    source.write_bytes(plain)
    target = directory / f"sealed-{len(list(directory.iterdir()))}"
    seal(source, target, key, name)
    return target


def _back(sealed: Path, name: str = "memory", key: bytes | bytearray = KEY) -> bytes:
    target = sealed.with_name(f"back-{len(list(sealed.parent.iterdir()))}")
    unseal(sealed, target, key, name)
    return target.read_bytes()


def _refused(sealed: Path, name: str = "memory", key: bytes = KEY) -> None:
    with pytest.raises(SealBroken, match=name):
        _back(sealed, name, key)


def _pieces(content: bytes) -> list[bytes]:
    """The records of a sealed file, the end included."""
    found, position = [], HEADER
    while position < len(content):
        _, length = RECORD.unpack_from(content, position)
        end = position + RECORD.size + length + TAG_BYTES
        found.append(content[position:end])
        position = end
    return found


layouts = st.dictionaries(
    st.integers(0, 12).map(lambda block: block * BLOCK + 100), st.binary(min_size=1, max_size=300)
)


@settings(max_examples=60, deadline=None)
@given(layouts, st.integers(0, 14 * BLOCK), st.binary(min_size=32, max_size=32))
def test_every_layout_comes_back(pieces: dict[int, bytes], size: int, key: bytes) -> None:
    with TemporaryDirectory() as folder:
        directory = Path(folder)
        source = _sparse(directory / "plain", pieces, size)
        seal(source, directory / "sealed", key, "disk.raw")
        unseal(directory / "sealed", directory / "back", bytearray(key), "disk.raw")
        assert (directory / "back").read_bytes() == source.read_bytes()


def test_holes_and_zeros_take_no_space(tmp_path: Path) -> None:
    size = 1 << 30
    data = random.randbytes(3 * PIECE + 5)
    source = _sparse(tmp_path / "plain", {7 * BLOCK: bytes(4 * PIECE), size // 2: data}, size)
    seal(source, tmp_path / "sealed", KEY, "memory")
    assert (tmp_path / "sealed").stat().st_size < len(data) + 2 * BLOCK
    unseal(tmp_path / "sealed", tmp_path / "back", KEY, "memory")
    stat = (tmp_path / "back").stat()
    assert stat.st_size == size
    assert stat.st_blocks * 512 < len(data) + 4 * BLOCK
    with (tmp_path / "back").open("rb") as file:
        file.seek(size // 2)
        assert file.read(len(data)) == data


def test_nothing_of_the_content_shows(tmp_path: Path) -> None:
    content = b"a secret of the application" * 9000
    raw = _sealed(tmp_path, content).read_bytes()
    assert b"secret" not in raw
    assert (tmp_path / "sealed-1").stat().st_mode & 0o777 == 0o600
    assert raw != _sealed(tmp_path, content).read_bytes(), "a key of its own each time"


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    """All bits of a small file: header, records, contents, tags, end."""
    raw = _sealed(tmp_path, b"content").read_bytes()
    changed = tmp_path / "changed"
    back = tmp_path / "back"
    for bit in range(8 * len(raw)):
        flipped = bytearray(raw)
        flipped[bit // 8] ^= 1 << bit % 8
        changed.write_bytes(flipped)
        with pytest.raises(SealBroken):
            unseal(changed, back, KEY, "memory")
        back.unlink()


def test_every_truncation_is_found(tmp_path: Path) -> None:
    raw = _sealed(tmp_path, b"content").read_bytes()
    changed = tmp_path / "changed"
    back = tmp_path / "back"
    for length in range(len(raw)):
        changed.write_bytes(raw[:length])
        with pytest.raises(SealBroken):
            unseal(changed, back, KEY, "memory")
        back.unlink()


large = random.Random(7).randbytes(2 * PIECE + 3 * BLOCK + 11)


@pytest.fixture(scope="module")
def large_sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _sealed(tmp_path_factory.mktemp("large"), large)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_change_anywhere_in_a_large_file_is_found(
    large_sealed: Path, data: st.DataObject
) -> None:
    raw = bytearray(large_sealed.read_bytes())
    place = data.draw(st.integers(0, len(raw) - 1))
    if data.draw(st.booleans()):
        raw[place] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del raw[place:]
    with TemporaryDirectory() as folder:
        changed = Path(folder) / "changed"
        changed.write_bytes(raw)
        _refused(changed)


@pytest.mark.parametrize("order", [(1, 0, 2, 3), (0, 0, 1, 2, 3), (0, 2, 3), (0, 1, 2), (3,), ()])
def test_pieces_cannot_be_moved_repeated_or_left_out(
    order: tuple[int, ...], large_sealed: Path, tmp_path: Path
) -> None:
    raw = large_sealed.read_bytes()
    pieces = _pieces(raw)
    assert len(pieces) == 4
    changed = tmp_path / "changed"
    changed.write_bytes(raw[:HEADER] + b"".join(pieces[number] for number in order))
    _refused(changed)


def test_nothing_may_follow_the_end(large_sealed: Path, tmp_path: Path) -> None:
    raw = large_sealed.read_bytes()
    for more in (b"\0", _pieces(raw)[-1]):
        changed = tmp_path / f"changed-{len(more)}"
        changed.write_bytes(raw + more)
        _refused(changed)


def test_pieces_of_another_file_are_refused(tmp_path: Path) -> None:
    one = _sealed(tmp_path, b"one").read_bytes()
    other = _sealed(tmp_path, b"two").read_bytes()
    mixed = tmp_path / "mixed"
    mixed.write_bytes(one[:HEADER] + other[HEADER:])
    _refused(mixed)


def test_another_name_or_key_is_refused(tmp_path: Path) -> None:
    sealed = _sealed(tmp_path, b"content")
    assert _back(sealed) == b"content"
    _refused(sealed, name="device")
    _refused(sealed, key=bytes(32))


def test_a_plain_file_is_no_sealed_one(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"QFI\xfb" + bytes(5000))
    _refused(tmp_path / "plain")


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_hostile_bytes_are_refused(raw: bytes) -> None:
    with TemporaryDirectory() as folder:
        hostile = Path(folder) / "hostile"
        hostile.write_bytes(MAGIC + raw)
        _refused(hostile)


def test_who_gives_up_stops_between_pieces(tmp_path: Path, large_sealed: Path) -> None:
    (tmp_path / "plain").write_bytes(large)
    with pytest.raises(SealAbandoned):
        seal(tmp_path / "plain", tmp_path / "a", KEY, "memory", given_up=lambda: True)
    with pytest.raises(SealAbandoned):
        unseal(large_sealed, tmp_path / "b", KEY, "memory", given_up=lambda: True)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    sealed = _sealed(tmp_path, b"content")
    with pytest.raises(FileExistsError):
        seal(sealed, sealed, KEY, "memory")
    with pytest.raises(FileExistsError):
        unseal(sealed, sealed, KEY, "memory")
