"""What a MicroVM may reach, over ``/microvmd/v1/microvms/<id>/egress``, and the operator's reload.

``GET`` shows it, ``PUT`` with ``{"egressNetworkConnectors": [ARN, ...]}`` changes it while the
MicroVM lives; the rights are those of GetMicrovm, and of RunMicrovm and PassNetworkConnector.
``POST /microvmd/v1/network/reload`` reads the mapping of subnets and security groups again; for
the operator alone.
"""

import json
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from microvmd.control.egress_change import EgressChanges
from microvmd.model.connector import EGRESS_MEMBER
from microvmd.model.egress import Egress, Reach
from microvmd.model.errors import AccessDenied, ValidationError
from microvmd.model.microvm import MicroVm
from microvmd.service.routes import PREFIX
from microvmd.service.routes.extensions import Authenticate, Authorize, answering

MOST = 10
"""Connectors of a run, as in the API's model."""
Reload = Callable[[], Awaitable[int]]
"""Reads the mapping again; how many MicroVMs were told. Raises ValidationError."""


def egress_routes(
    changes: EgressChanges,
    authenticate: Authenticate,
    authorize: Authorize,
    operator: str,
    reload: Reload,
) -> list[Route]:
    """The routes to mount beside ``extension_routes``. ``operator`` is the default account."""

    async def show(request: Request) -> Response:
        context, _ = await authenticate(request)
        microvm_id = request.path_params["microvm_id"]
        await authorize.microvm(context, "lambda:GetMicrovm", microvm_id)
        return JSONResponse(described(*await changes.show(context.account, microvm_id)))

    async def change(request: Request) -> Response:
        context, body = await authenticate(request)
        microvm_id = request.path_params["microvm_id"]
        await authorize.microvm(context, "lambda:RunMicrovm", microvm_id)
        arns = asked(body)
        for arn in arns:
            authorize.thing(context, "lambda:PassNetworkConnector", arn)
        return JSONResponse(described(*await changes.change(context.account, microvm_id, arns)))

    async def reloaded(request: Request) -> Response:
        context, _ = await authenticate(request)
        if not context.is_root_of(operator):
            raise AccessDenied("Only the operator may reload the mapping of networks.")
        return JSONResponse({"microvms": await reload()})

    path = f"{PREFIX}/microvms/{{microvm_id}}/egress"
    return [
        Route(path, answering(show), methods=["GET"]),
        Route(path, answering(change), methods=["PUT"]),
        Route(f"{PREFIX}/network/reload", answering(reloaded), methods=["POST"]),
    ]


def asked(body: bytes) -> list[str]:
    """The connectors that a request names."""
    try:
        document = json.loads(body)
    except ValueError:
        raise ValidationError("The body must be JSON") from None
    given = document.get(EGRESS_MEMBER) if isinstance(document, dict) else None
    if not isinstance(given, list) or not all(isinstance(arn, str) for arn in given):
        raise ValidationError(f"{EGRESS_MEMBER} must be a list of ARNs")
    if not 0 < len(given) <= MOST:
        raise ValidationError(f"{EGRESS_MEMBER} must have 1 to {MOST} ARNs")
    return given


def described(microvm: MicroVm, egress: Egress) -> dict[str, object]:
    """As it is answered."""
    return {
        EGRESS_MEMBER: list(microvm.egress),
        "internet": egress.internet,
        "names": "any" if egress.any_name and egress.anything else sorted(egress.patterns),
        "reaches": [_described(reach) for reach in egress.reaches],
    }


def _described(reach: Reach) -> dict[str, object]:
    return {
        "connector": reach.grant,
        "network": str(reach.network),
        "protocol": reach.protocol.value,
        "ports": [
            str(first) if first == last else f"{first}-{last}" for first, last in reach.ports
        ],
        "names": list(reach.names),
    }
