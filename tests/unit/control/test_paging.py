"""Cursors: opened by who sealed them for the same list, and by nobody else."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microvmd.control.paging import Cursors
from microvmd.model.errors import ValidationError

CURSORS = Cursors(b"k" * 32)
POSITIONS = st.integers() | st.text()


@given(st.text(), POSITIONS)
def test_what_was_sealed_opens(scope: str, position: str | int) -> None:
    token = CURSORS.seal(scope, position)
    assert CURSORS.open(scope, token) == position
    assert token.isascii()
    assert not set(token) & set("+/ ")


def test_no_token_is_the_beginning() -> None:
    assert CURSORS.open("images 1", None) is None


@given(st.text() | st.binary().map(lambda raw: base64.urlsafe_b64encode(raw).decode()))
def test_made_up_tokens_are_refused(token: str) -> None:
    with pytest.raises(ValidationError, match="nextToken"):
        CURSORS.open("images 1", token)


@given(st.integers(0, 200), st.integers(1, 255))
def test_a_changed_token_is_refused(where: int, change: int) -> None:
    raw = bytearray(base64.urlsafe_b64decode(CURSORS.seal("images 1", "app")))
    raw[where % len(raw)] ^= change
    with pytest.raises(ValidationError):
        CURSORS.open("images 1", base64.urlsafe_b64encode(raw).decode())


def test_a_token_of_another_list_or_installation_is_refused() -> None:
    token = CURSORS.seal("images 111122223333", "app")
    with pytest.raises(ValidationError):
        CURSORS.open("images 000000000000", token)
    with pytest.raises(ValidationError):
        Cursors(b"x" * 32).open("images 111122223333", token)
