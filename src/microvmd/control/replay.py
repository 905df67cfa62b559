"""Idempotency: a client token names the first request that carried it (recorded answers, 1).

The same token with the same parameters replays; with others it is a ConflictException. A token is
forgotten with the resource that it made, so that nothing wedges.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from microvmd.control.store import Transaction
from microvmd.model.errors import Conflict


def replayed(
    tx: Transaction, account: str, operation: str, request: Mapping[str, Any]
) -> str | None:
    """The resource that an earlier request with this token made, or None."""
    token = request.get("clientToken")
    if token is None:
        return None
    found = tx.client_token(account, operation, token)
    if found is None:
        return None
    fingerprint, resource = found
    if fingerprint != _fingerprint(request):
        raise Conflict("The client token was already used with different request parameters.")
    return resource


def remember(
    tx: Transaction,
    account: str,
    operation: str,
    request: Mapping[str, Any],
    resource: str,
    now: float,
) -> None:
    """Bind the request's token, if it has one, to what it made."""
    token = request.get("clientToken")
    if token is not None:
        tx.add_client_token(account, operation, token, _fingerprint(request), resource, now)


def _fingerprint(request: Mapping[str, Any]) -> str:
    said = {key: value for key, value in request.items() if key != "clientToken"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
