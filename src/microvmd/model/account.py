"""Accounts, their users and the users' access keys: values, names and the life of a key.

An account holds everything else: images, MicroVMs, logs. A user of it is who calls, with one or
several access keys; what a user may do stands in policies (model/policy.py). The root of an account
is no user: it may do everything in it.
"""

import re
from dataclasses import dataclass, replace
from enum import StrEnum

from microvmd.model.errors import Conflict, ValidationError

ROOT = "root"
KEYS_OF_A_USER = 5
POLICIES_OF_A_USER = 10
LONGEST_OVERLAP_S = 30 * 24 * 3600.0

_ACCOUNT = re.compile(r"\d{12}")
_ACCOUNT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.-]{0,49}")
_NAME = re.compile(r"[A-Za-z0-9_+=,.@-]{1,64}")
_POLICY_NAME = re.compile(r"[A-Za-z0-9_+=,.@-]{1,128}")


@dataclass(frozen=True, slots=True)
class Account:
    """``account`` is the number in ARNs, ``name`` is for people."""

    account: str
    name: str
    created_at: float


@dataclass(frozen=True, slots=True)
class User:
    """Who calls. Names are unique within the account."""

    account: str
    name: str
    created_at: float

    @property
    def arn(self) -> str:
        return f"arn:aws:iam::{self.account}:user/{self.name}"


class KeyState(StrEnum):
    """ENDING: rotated, still good until its end."""

    ACTIVE = "ACTIVE"
    ENDING = "ENDING"
    ENDED = "ENDED"


@dataclass(frozen=True, slots=True)
class AccessKey:
    """A long-term key. ``sealed`` is the secret, encrypted; times are seconds since the epoch."""

    access_key: str
    account: str
    user: str
    sealed: str
    created_at: float
    ends_at: float | None = None
    last_used_at: float | None = None

    def state(self, now: float) -> KeyState:
        if self.ends_at is None:
            return KeyState.ACTIVE
        return KeyState.ENDING if now < self.ends_at else KeyState.ENDED

    def rotated(self, now: float, overlap: float) -> "AccessKey":
        """The old key after its rotation; ``overlap`` in seconds. Conflict unless it is ACTIVE."""
        if not 0 <= overlap <= LONGEST_OVERLAP_S:
            raise ValidationError(
                f"The overlap must be between 0 and {LONGEST_OVERLAP_S:.0f} seconds."
            )
        if self.state(now) is not KeyState.ACTIVE:
            raise Conflict(f"The access key {self.access_key} was rotated before.")
        return replace(self, ends_at=now + overlap)


def check_account(account: str) -> str:
    """Twelve digits, as in every ARN."""
    if not _ACCOUNT.fullmatch(account):
        raise ValidationError(f"An account is a number of 12 digits, not '{account}'.")
    return account


def check_account_name(name: str) -> str:
    if not _ACCOUNT_NAME.fullmatch(name):
        raise ValidationError(
            "The name of an account has 1 to 50 letters, digits, spaces and any of _.- and begins "
            "with a letter or digit."
        )
    return name


def check_user_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValidationError(
            "The name of a user has 1 to 64 letters, digits and any of _+=,.@- in it."
        )
    return name


def check_policy_name(name: str) -> str:
    if not _POLICY_NAME.fullmatch(name):
        raise ValidationError(
            "The name of a policy has 1 to 128 letters, digits and any of _+=,.@- in it."
        )
    return name
