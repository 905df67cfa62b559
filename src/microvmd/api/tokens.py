"""Auth tokens and shell tokens for endpoints: what a token may open, and for how long."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Protocol

from microvmd.api.requests import RequestContext
from microvmd.control.microvms import MicroVms
from microvmd.model.connector import check_shell
from microvmd.model.errors import Conflict, ValidationError
from microvmd.model.microvm import MicroVm

Request = Mapping[str, Any]

HEADER = "X-aws-proxy-auth"
MAX_MINUTES = 60
ALL_PORTS = (1, 65535)


class Issuer(Protocol):
    """Signs tokens. ``ports`` are inclusive ranges."""

    def issue(
        self, endpoint_id: str, ports: Sequence[tuple[int, int]], expires_at: datetime
    ) -> str: ...

    def issue_shell(self, endpoint_id: str, expires_at: datetime) -> str: ...


class TokenHandlers:
    """The two token operations."""

    def __init__(self, microvms: MicroVms, issuer: Issuer) -> None:
        self._microvms = microvms
        self._issuer = issuer

    async def create_microvm_auth_token(
        self, context: RequestContext, request: Request
    ) -> Mapping[str, Any]:
        expires_at = _expiry(context, request)
        ports = [_ports(wanted) for wanted in request["allowedPorts"]]
        microvm = await self._alive(context, request)
        return {"authToken": {HEADER: self._issuer.issue(microvm.endpoint_id, ports, expires_at)}}

    async def create_microvm_shell_auth_token(
        self, context: RequestContext, request: Request
    ) -> Mapping[str, Any]:
        expires_at = _expiry(context, request)
        microvm = await self._alive(context, request)
        check_shell(microvm.ingress)
        return {"authToken": {HEADER: self._issuer.issue_shell(microvm.endpoint_id, expires_at)}}

    async def _alive(self, context: RequestContext, request: Request) -> MicroVm:
        """A token for a SUSPENDED MicroVM is valid (recorded); for one that ends there is none."""
        microvm = await self._microvms.get(context.account, request["microvmIdentifier"])
        if not microvm.phase.live:
            raise Conflict(
                f"MicroVM {microvm.microvm_id} is in {microvm.state} state: no token can be "
                "created for it."
            )
        return microvm


def _expiry(context: RequestContext, request: Request) -> datetime:
    minutes = request["expirationInMinutes"]
    if minutes > MAX_MINUTES:
        raise ValidationError(f"ExpirationMinutes {minutes} exceeded max allowed of {MAX_MINUTES}.")
    return context.now + timedelta(minutes=minutes)


def _ports(wanted: Mapping[str, Any]) -> tuple[int, int]:
    if "port" in wanted:
        return wanted["port"], wanted["port"]
    if "range" in wanted:
        first, last = wanted["range"]["startPort"], wanted["range"]["endPort"]
        if first > last:
            raise ValidationError(f"Invalid port range: {first} is greater than {last}.")
        return first, last
    return ALL_PORTS
