"""Sealed secrets: for one owner, under one key, different each time."""

import base64

import pytest

from microvmd.control.sealing import Sealer, SecretsLocked

SEALER = Sealer(b"k" * 32)


def test_there_and_back() -> None:
    sealed = SEALER.seal("geheim ü", "AKIA")
    assert SEALER.open(sealed, "AKIA") == "geheim ü"
    assert "geheim" not in sealed
    assert sealed != SEALER.seal("geheim ü", "AKIA")


def test_another_key_another_owner_or_a_flipped_bit_opens_nothing() -> None:
    sealed = SEALER.seal("secret", "AKIA")
    raw = bytearray(base64.b64decode(sealed))
    raw[-1] ^= 1
    for sealer, text, owner in (
        (Sealer(b"o" * 32), sealed, "AKIA"),
        (SEALER, sealed, "AKIB"),
        (SEALER, base64.b64encode(raw).decode(), "AKIA"),
        (SEALER, "", "AKIA"),
        (SEALER, "not base64!", "AKIA"),
    ):
        with pytest.raises(SecretsLocked, match=r"master\.key"):
            sealer.open(text, owner)
