"""What live MicroVMs use, over ``/microvmd/v1``: for lists that go on, and for charts.

``GET /microvmd/v1/live?after=<version>``
    ``{"version", "rows", "microvms"}``: each row of the caller's account that changed since that
    version of an earlier answer (all without one), and the ids of those that live when those
    changed.
``GET /microvmd/v1/microvms/<id>/samples?after=<time>``
    ``{"columns", "interval", "samples"}``: the last 15 minutes, one sample in two seconds.
"""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from microvmd.control.microvms import MicroVms
from microvmd.service.live import COLUMNS, INTERVAL_S, Live, shown
from microvmd.service.routes import PREFIX
from microvmd.service.routes.extensions import Authenticate, Authorize, answering, moment_of


def live_routes(
    live: Live, microvms: MicroVms, authenticate: Authenticate, authorize: Authorize
) -> list[Route]:
    """The routes to mount beside the AWS operations. Rights are those of the nearest AWS call."""

    async def rows(request: Request) -> Response:
        context, _ = await authenticate(request)
        authorize.thing(context, "lambda:ListMicrovms", "*")
        return JSONResponse(shown(live.rows(context.account, request.query_params.get("after"))))

    async def samples(request: Request) -> Response:
        context, _ = await authenticate(request)
        microvm_id = request.path_params["microvm_id"]
        await authorize.microvm(context, "lambda:GetMicrovm", microvm_id)
        await microvms.get(context.account, microvm_id)
        found = live.samples(microvm_id, moment_of(request, "after") or 0)
        return JSONResponse({"columns": COLUMNS, "interval": INTERVAL_S, "samples": found})

    return [
        Route(f"{PREFIX}/live", answering(rows)),
        Route(f"{PREFIX}/microvms/{{microvm_id}}/samples", answering(samples)),
    ]
