"""What a browser is told and what is asked of it, on every route of the console alike."""

import hmac
from collections.abc import Mapping
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CSRF_HEADER = "x-csrf-token"
CSRF_FIELD = "csrf"
REPORTS = "/console/csp-report"
SAFE_METHODS = frozenset({"GET", "HEAD"})

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "font-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
        f"report-uri {REPORTS}",
    )
)
HEADERS: Mapping[str, str] = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}


class Defended:
    """Adds the headers to every answer; nothing is stored unless the answer says how."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.routes: list[BaseRoute] = getattr(app, "routes", [])
        """As Starlette lists what is below a mount."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-store")
            await send(message)

        await self._app(scope, receive, sending)


def own_origin(headers: Headers) -> bool:
    """Whether a page of this console asks, as the browser says itself.

    Of browsers that send no ``Sec-Fetch-Site`` the origin must be the host that was asked; behind a
    proxy that renames the host only the first one holds.
    """
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    origin = headers.get("origin")
    if origin is None:
        return False
    return urlsplit(origin).netloc == headers.get("host")


def same_token(expected: str, given: str | None) -> bool:
    """In constant time."""
    return given is not None and hmac.compare_digest(expected.encode(), given.encode())
