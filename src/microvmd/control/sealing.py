"""Secrets at rest: AES-256-GCM with the master key of this installation.

A sealed secret is bound to its owner's name, so that one row's cannot be put into another's.
"""

import base64
import binascii
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_NONCE = 12


class SecretsLocked(Exception):
    """The master key is not the one that sealed what is stored."""


class Sealer:
    """Seals and opens short texts with one key of 32 bytes."""

    def __init__(self, master_key: bytes) -> None:
        self._cipher = AESGCM(master_key)

    def seal(self, text: str, owner: str) -> str:
        """Nonce, ciphertext and tag in base64; different at every call."""
        nonce = os.urandom(_NONCE)
        return base64.b64encode(
            nonce + self._cipher.encrypt(nonce, text.encode(), owner.encode())
        ).decode()

    def open(self, sealed: str, owner: str) -> str:
        """Raise SecretsLocked where another key, or for another owner, was sealed."""
        try:
            raw = base64.b64decode(sealed, validate=True)
            return self._cipher.decrypt(raw[:_NONCE], raw[_NONCE:], owner.encode()).decode()
        except (InvalidTag, ValueError, binascii.Error) as error:
            raise SecretsLocked(
                f"the secret of {owner} does not open with this installation's master key: restore "
                "keys/master.key from the backup that state.db is from"
            ) from error
