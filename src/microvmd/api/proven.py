"""Whose request this is, kept beside it: for what is told of a call after it was answered."""

from dataclasses import dataclass
from typing import cast

from starlette.types import Scope

from microvmd.api.requests import RequestContext

_KEY = "microvmd.proven"
_CLAIMED = "microvmd.claimed"


@dataclass(frozen=True, slots=True)
class Proven:
    """A caller whose signature was verified. ``body`` is what was signed, as far as it was read;
    ``action`` the operation of another AWS service, where it can be told. ``live``: a page of the
    console asks by itself, which only this process can say."""

    context: RequestContext
    body: bytes = b""
    action: str = ""
    live: bool = False


def keep(scope: Scope, proven: Proven) -> None:
    """Say who makes the request of this scope."""
    scope[_KEY] = proven


def keep_claimed(scope: Scope, account: str) -> None:
    """Say whose key the request of this scope names, proven or not."""
    scope[_CLAIMED] = account


def claimed_account(scope: Scope) -> str | None:
    """The account whose key it names; None when nobody has it."""
    return cast("str | None", scope.get(_CLAIMED))


def proven(scope: Scope) -> Proven | None:
    """Who makes it; None for who has not proven to be anybody."""
    return cast("Proven | None", scope.get(_KEY))
