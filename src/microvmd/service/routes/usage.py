"""``GET /microvmd/v1/usage``: what the caller's account used, in AWS's dimensions, and its cost.

``?since=`` and ``until=`` (seconds since the epoch; the last 30 days if not given) and ``by=``
(``microvm``, ``image`` or ``tag:<key>``). The prices that it was reckoned with are in the answer.
"""

from collections.abc import Callable
from dataclasses import asdict

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from microvmd.control.metering import Line, Metering
from microvmd.model.errors import ValidationError
from microvmd.service.routes import PREFIX
from microvmd.service.routes.extensions import Authenticate, Authorize, answering, moment_of

RIGHT = "microvmd:GetUsage"
DEFAULT_DAYS = 30
DAY_S = 86400.0


def usage_routes(
    metering: Metering,
    currency: str,
    authenticate: Authenticate,
    authorize: Authorize,
    clock: Callable[[], float],
) -> list[Route]:
    """The route to mount beside the AWS operations; it takes the right `microvmd:GetUsage`."""

    async def answer(request: Request) -> Response:
        context, _ = await authenticate(request)
        authorize.thing(context, RIGHT, "*")
        now = clock()
        until = _moment(request, "until", now)
        since = _moment(request, "since", until - DEFAULT_DAYS * DAY_S)
        by = request.query_params.get("by") or "image"
        lines = await metering.lines(context.account, since, until, by)
        shown: dict[str, object] = {"since": since, "until": until, "by": by, "currency": currency}
        shown["prices"] = asdict(metering.prices)
        return JSONResponse({**shown, "lines": [_shown(line) for line in lines]})

    return [Route(f"{PREFIX}/usage", answering(answer))]


def _shown(line: Line) -> dict[str, object]:
    return {"key": line.key, "microvms": line.microvms, **asdict(line.usage), "cost": line.cost}


def _moment(request: Request, name: str, default: float) -> float:
    given = moment_of(request, name)
    if given is None:
        return default
    if given < 0:
        raise ValidationError(f"{name} must be seconds since the epoch")
    return given
