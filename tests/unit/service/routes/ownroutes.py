"""The service's own routes, asked over HTTP by a caller whose signature is taken for proven."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import BaseRoute

from microvmd.api.authorize import Authorizer
from microvmd.api.requests import RequestContext
from microvmd.control.subjects import Subjects
from microvmd.model.caller import Caller, CallerKind
from microvmd.service.routes.extensions import Authenticate
from tests.unit.control.plane import ACCOUNT, Plane

WITHOUT_RIGHTS = Caller(f"arn:aws:iam::{ACCOUNT}:user/ann", ACCOUNT, CallerKind.USER, "ann")


@asynccontextmanager
async def asking(
    opened: Plane,
    routes: Callable[[Authenticate, Authorizer], Sequence[BaseRoute]],
    caller: Caller | None = None,
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of these routes; the account's root, if no caller is given."""
    who = caller or Caller.root(ACCOUNT)

    async def authenticate(_: Request) -> tuple[RequestContext, bytes]:
        return RequestContext(who.account, "us-east-1", "AKIA", "r", datetime.now(UTC), who), b""

    app = Starlette(routes=routes(authenticate, Authorizer(Subjects(opened.store))))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        yield client
