"""Auth tokens and shell tokens for endpoints: what a token may open, and for how long."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from microvmd.api.requests import RequestContext
from microvmd.control.microvms import MicroVms
from microvmd.control.tokens import ALL_PORTS, TokenIssuer, port_spec
from microvmd.model.connector import check_shell
from microvmd.model.errors import Conflict, ValidationError
from microvmd.model.microvm import MicroVm
from microvmd.model.size import Size

Request = Mapping[str, Any]

HEADER = "X-aws-proxy-auth"
MAX_MINUTES = 60
LONGEST_TOKEN = 8000  # AuthTokenValue in the model


class TokenHandlers:
    """The two token operations."""

    def __init__(self, microvms: MicroVms, issuer: TokenIssuer) -> None:
        self._microvms = microvms
        self._issuer = issuer

    async def create_microvm_auth_token(
        self, context: RequestContext, request: Request
    ) -> Mapping[str, Any]:
        expires_at = _expiry(context, request)
        ports = _ports(request)
        microvm = await self._alive(context, request)
        vcpus = Size.of(microvm.memory_mib).peak_vcpus
        token = self._issuer.issue(microvm.endpoint_id, ports, expires_at, vcpus=vcpus)
        if len(token) > LONGEST_TOKEN:
            raise ValidationError("allowedPorts has too many entries for one token.")
        return {"authToken": {HEADER: token}}

    async def create_microvm_shell_auth_token(
        self, context: RequestContext, request: Request
    ) -> Mapping[str, Any]:
        expires_at = _expiry(context, request)
        microvm = await self._alive(context, request)
        check_shell(microvm.ingress)
        token = self._issuer.issue(microvm.endpoint_id, ALL_PORTS, expires_at, "shell")
        return {"authToken": {HEADER: token}}

    async def _alive(self, context: RequestContext, request: Request) -> MicroVm:
        """A token for a SUSPENDED MicroVM is valid (recorded); for one that ends there is none."""
        microvm = await self._microvms.get(context.account, context.microvm_id(request))
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


def _ports(request: Request) -> str:
    """The scope of a token; the shape has checked each number, but not that a range goes up."""
    for wanted in request["allowedPorts"]:
        bounds = wanted.get("range")
        if bounds is not None and bounds["startPort"] > bounds["endPort"]:
            raise ValidationError(
                f"Invalid port range: {bounds['startPort']} is greater than {bounds['endPort']}."
            )
    return port_spec(request["allowedPorts"])
