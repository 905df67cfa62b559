"""Who makes a request is known by its scope, and by no other."""

from datetime import UTC, datetime
from typing import Any

from microvmd.api.proven import Proven, claimed_account, keep, keep_claimed, proven
from microvmd.api.requests import RequestContext


def test_of_its_own_scope_only() -> None:
    context = RequestContext("1", "us-east-1", "AKIA", "r", datetime.now(UTC))
    mine: dict[str, Any] = {}
    assert proven(mine) is None
    keep(mine, Proven(context, b"body"))
    assert proven(mine) == Proven(context, b"body")
    assert proven({}) is None


def test_a_claim_is_no_proof() -> None:
    scope: dict[str, Any] = {}
    assert claimed_account(scope) is None
    keep_claimed(scope, "1")
    assert claimed_account(scope) == "1"
    assert proven(scope) is None
