"""The way out of a shell, and a terminal that is as before when it is left."""

import os
import select
import termios
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microvmd.cli.terminal import Escapes, LocalTerminal


@pytest.fixture
def pair() -> Iterator[tuple[int, int]]:
    """Outer and inner end of a terminal."""
    outer, inner = os.openpty()
    yield outer, inner
    os.close(outer)
    os.close(inner)


@pytest.mark.parametrize(
    ("typed", "sent", "left"),
    [
        (b"~.", b"", True),
        (b"ls\r~.rest", b"ls\r", True),
        (b"ls ~.", b"ls ~.", False),
        (b"~~.", b"~.", False),
        (b"~/bin\n", b"~/bin\n", False),
        (b"\n~\n~.", b"\n~\n", True),
        (b"~", b"", False),
    ],
)
def test_escapes(typed: bytes, sent: bytes, left: bool) -> None:
    escapes = Escapes()
    assert escapes.feed(typed) == sent
    assert escapes.left is left


@given(st.lists(st.sampled_from([b"~", b".", b"\r", b"a", b"~.", b"~~"])))
def test_portions_do_not_matter(portions: list[bytes]) -> None:
    whole, parts = Escapes(), Escapes()
    sent = b""
    for portion in portions:
        sent += parts.feed(portion)
        if parts.left:
            break
    assert sent == whole.feed(b"".join(portions))
    assert parts.left is whole.left


def test_a_terminal_is_restored_whatever_happens(pair: tuple[int, int]) -> None:
    _, inner = pair
    before = termios.tcgetattr(inner)

    def fail() -> None:
        with LocalTerminal(inner, inner) as terminal:
            assert terminal.interactive
            assert not termios.tcgetattr(inner)[3] & (termios.ICANON | termios.ISIG | termios.ECHO)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert termios.tcgetattr(inner) == before


@pytest.mark.anyio
async def test_reading_and_writing(pair: tuple[int, int]) -> None:
    outer, inner = pair
    termios.tcsetwinsize(inner, (40, 120))
    os.write(outer, b"early\r")
    # The kernel hands the line on later, and by the rules that hold then.
    assert select.select([inner], [], [], 30)[0]
    with LocalTerminal(inner, inner) as terminal:
        assert terminal.size() == (40, 120)
        assert await terminal.read() == b"early\n"
        os.read(outer, 100)  # the echo of that time
        os.write(outer, b"\x03typed")
        assert await terminal.read() == b"\x03typed"
        terminal.write(b"shown\n")
        assert os.read(outer, 100) == b"shown\n"


@pytest.mark.anyio
async def test_a_file_is_read_to_its_end(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("input") / "script"
    path.write_bytes(b"echo\n")
    with path.open("rb") as file, LocalTerminal(file.fileno(), 1) as terminal:
        assert not terminal.interactive
        assert [await terminal.read(), await terminal.read()] == [b"echo\n", b""]
